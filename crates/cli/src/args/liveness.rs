//! When a worker that is there is taken for dead: `phalanx run --heartbeat`, `--health-…` and their like.

use super::time;
use crate::failure::Failure;
use clap::Args;
use phalanx::{Check, Cluster, Health, Heartbeat};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Liveness")]
pub(crate) struct Liveness {
    /// How often a worker on a channel is asked for a sign of life; off: never
    #[arg(long, value_name = "TIME|off", default_value = "10s", value_parser = beat)]
    heartbeat: Limit,
    /// How many questions in a row it may leave unanswered before it is ended and replaced
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1000))]
    heartbeat_misses: u32,
    /// How long a worker without a channel may do nothing at all while connections wait for it, before it is ended and
    /// replaced; off: for ever
    #[arg(long, value_name = "TIME|off", default_value = "30s", value_parser = beat)]
    stall: Limit,
    /// Check each worker by a GET request for this path
    #[arg(long, value_name = "PATH", value_parser = path, group = "health")]
    health_path: Option<String>,
    /// Check whether each worker accepts a connection
    #[arg(long, group = "health")]
    health_tcp: bool,
    /// Check each worker by a command that is to exit with 0: words split at spaces; it finds `PHALANX_WORKER_PID`,
    /// `PHALANX_WORKER_ID` and `PHALANX_SLOT`
    #[arg(long, value_name = "COMMAND", value_parser = command, group = "health")]
    health_command: Option<Words>,
    /// How long after a worker is ready, and after each check, the next check begins
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = some_time, requires = "health")]
    health_interval: Duration,
    /// How long a check may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = some_time, requires = "health")]
    health_timeout: Duration,
    /// How many checks in a row a worker may fail before it is ended and replaced
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1000), requires = "health")]
    health_misses: u32,
    /// Which statuses are good ones: one, or two with a dash
    #[arg(long, value_name = "N[-N]", default_value = "200-399", value_parser = statuses, requires = "health_path", conflicts_with_all = ["health_tcp", "health_command"])]
    health_status: RangeInclusive<u16>,
    /// The field Host of the request
    #[arg(long, value_name = "HOST", default_value = "localhost", value_parser = host, requires = "health_path", conflicts_with_all = ["health_tcp", "health_command"])]
    health_host: String,
    /// How long a worker that was told to leave may go on as long as it has upgraded connections (WebSocket); 0: as
    /// long as it likes
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
    grace_upgraded: Duration,
}

/// A time, or none.
#[derive(Clone, Copy, Debug)]
struct Limit(Option<Duration>);

/// A command.
#[derive(Clone, Debug)]
struct Words(Vec<OsString>);

impl Liveness {
    /// Tells the cluster.
    pub(crate) fn apply(self, cluster: Cluster) -> Result<Cluster, Failure> {
        let misses = self.heartbeat_misses;
        let heartbeat = self.heartbeat.0.map(|interval| Heartbeat { interval, misses });
        let upgraded = Some(self.grace_upgraded).filter(|time| !time.is_zero());
        let cluster = cluster.heartbeat(heartbeat).stall(self.stall.0).grace_upgraded(upgraded);
        let (every, limit, misses) =
            (self.health_interval, self.health_timeout, self.health_misses);
        let check = match (self.health_path, self.health_command) {
            (Some(path), _) => {
                let mut check = Check::http(path)?;
                if let Check::Http { status, host, .. } = &mut check {
                    (*status, *host) = (self.health_status, self.health_host);
                }
                check
            }
            (None, Some(Words(words))) => Check::Command(words),
            (None, None) if self.health_tcp => Check::Tcp,
            (None, None) => return Ok(cluster),
        };
        let health = Health { check, interval: every, timeout: limit, misses };
        Ok(cluster.health(Some(health)))
    }
}

/// How often, or off. Not so often that the primary does nothing else.
fn beat(text: &str) -> Result<Limit, String> {
    if text == "off" {
        return Ok(Limit(None));
    }
    let time = some_time(text).map_err(|why| format!("{why}, or off"))?;
    Ok(Limit(Some(time)))
}

fn some_time(text: &str) -> Result<Duration, String> {
    let least = Duration::from_millis(50);
    time(text)
        .and_then(|time| Some(time).filter(|t| *t >= least).ok_or("expected at least 50ms".into()))
}

fn path(text: &str) -> Result<String, String> {
    match Check::http(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("a path begins with a slash and has no blanks, as /healthz".into()),
    }
}

fn host(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.to_owned()).ok_or_else(|| "expected a name without blanks".into())
}

fn command(text: &str) -> Result<Words, String> {
    let words: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
    if words.is_empty() { Err("expected a command".into()) } else { Ok(Words(words)) }
}

fn statuses(text: &str) -> Result<RangeInclusive<u16>, String> {
    let number = |text: &str| text.trim().parse().ok().filter(|n| (200..=599).contains(n));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err("expected a status from 200 to 599, or two with a dash".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(statuses("204"), Ok(204..=204));
        assert_eq!(statuses("200-299"), Ok(200..=299));
        for bad in ["", "100", "299-200", "200-", "x", "200-600", "-"] {
            assert!(statuses(bad).is_err(), "{bad}");
        }
        assert_eq!(beat("off").map(|limit| limit.0), Ok(None));
        assert_eq!(beat("2s").map(|limit| limit.0), Ok(Some(Duration::from_secs(2))));
        assert!(beat("0").is_err() && beat("no").is_err());
        assert!(path("healthz").unwrap_err().contains("slash"));
        assert!(path("/a b").is_err() && path("/a\r\nX: y").is_err());
        assert!(host("a b").is_err() && host("").is_err());
        assert_eq!(command(" a  b ").map(|words| words.0.len()), Ok(2));
        assert!(command("  ").is_err());
    }
}
