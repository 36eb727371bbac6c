//! Active checks: whether a worker answers, asked as a client would ask.
//!
//! A check is for one worker. Over the channel a connection is handed to just that one; a worker that cannot be handed
//! any is checked on the port of its own ([`Settings::port_base`](crate::Settings::port_base)).

use super::record::{Fact, Record};
use super::shell::Shell;
use super::{lock, ports::Port};
use crate::address::{Address, printable};
use crate::channel::{Sender, Tag};
use crate::error::{Error, Result};
use crate::program::runs_another_language;
use crate::settings::{Knows, Settings};
use phalanx_core::heartbeat::Failures;
use phalanx_core::time::Time;
use phalanx_core::wire::hand_over_line;
use phalanx_core::worker::{Leave, WorkerId};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{ChildStderr, Command};
use tokio::sync::oneshot;

/// The longest head of a response that is read, and the most fields in it.
const HEAD: usize = 16 << 10;
const FIELDS: usize = 100;
/// How much of what a command says on stderr is kept.
const WORDS: usize = 4096;
/// How long the rest of it is waited for when the command has ended.
const LAST_WORDS: Duration = Duration::from_millis(20);
/// Strangers' connections to the port of a check, which are dropped.
const STRANGERS: u32 = 16;

/// What a worker is checked with, and how often.
///
/// ```
/// use phalanx::{Check, Health};
/// use std::time::Duration;
/// let health = Health { interval: Duration::from_secs(2), ..Health::new(Check::http("/healthz")?) };
/// assert!(Check::http("healthz").is_err(), "a path begins with a slash");
/// # Ok::<(), phalanx::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub check: Check,
    /// How long after a worker is ready, and after each check, the next one begins.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// How many checks in a row a worker fails before it is ended and replaced; at least 1.
    pub misses: u32,
}

impl Health {
    /// Every 10 s, within 5 s, three times in a row.
    #[must_use]
    pub const fn new(check: Check) -> Self {
        let (interval, timeout) = (Duration::from_secs(10), Duration::from_secs(5));
        Self { check, interval, timeout, misses: 3 }
    }

    /// Whether workers that are started so can be checked at all, as far as that is known before.
    pub(super) fn is_possible(&self, settings: &Settings) -> Result<()> {
        if let Check::Command(words) = &self.check {
            return match words.first() {
                Some(_) => Ok(()),
                None => Err(Error::Unsupported("a health check by a command needs one".into())),
            };
        }
        // Any other program may be one on this crate, and then has a channel.
        let never = settings.knows != Knows::Channel && runs_another_language(settings);
        if never && settings.port_base.is_none() {
            return Err(Error::Unsupported(UNREACHABLE.into()));
        }
        Ok(())
    }
}

const UNREACHABLE: &str = "a worker that can be handed no connections is checked on a port of its own: use --port-base, where the program listens on PORT, or check by a command (--health-command)";

/// What a worker is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Check {
    /// A GET request over HTTP/1.1.
    Http {
        /// What is asked for; begins with a slash.
        path: String,
        /// Which statuses are good ones.
        status: RangeInclusive<u16>,
        /// The field `Host`.
        host: String,
    },
    /// Whether it accepts a connection. On a port of its own: whether it listens.
    Tcp,
    /// A command that exits with 0. It finds `PHALANX_WORKER_PID`, `PHALANX_WORKER_ID` and `PHALANX_SLOT`, and is killed
    /// at the end of its time.
    Command(Vec<OsString>),
}

impl Check {
    /// A GET request that is answered with a status from 200 to 399.
    ///
    /// # Errors
    /// The path does not begin with a slash, or has a blank or a control character.
    pub fn http(path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Unsupported(format!(
                "`{}` is no path to check: it begins with a slash and has no blanks",
                printable(&path)
            )));
        }
        Ok(Self::Http { path, status: 200..=399, host: "localhost".into() })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { path, .. } => write!(f, "GET {path}"),
            Self::Tcp => f.write_str("a connection"),
            Self::Command(words) => {
                let word = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
                write!(f, "the command {}", printable(&word))
            }
        }
    }
}

/// How a worker did in its checks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthStatus {
    /// It passed the last one.
    pub ok: bool,
    /// How long the last one took.
    pub latency: Duration,
    /// How many it has failed in a row.
    pub failures: u32,
    /// Why it failed, the last time that it did.
    pub last_error: Option<String>,
}

/// What the shell keeps of the checks of one worker.
#[derive(Default)]
pub(super) struct Checkup {
    pub(super) next: Option<Time>,
    pub(super) failures: Failures,
    pub(super) status: Option<HealthStatus>,
    said_unreachable: bool,
}

/// How a worker is reached.
enum Way {
    /// It is handed a connection.
    Channel { channel: Sender, key: String, seq: u64, taken: oneshot::Receiver<bool> },
    /// On a port of its own.
    Port(SocketAddr),
    /// Not at all: a command does.
    Beside { pid: u32, id: WorkerId, slot: u32 },
}

/// A check that is over.
pub(super) struct Checked {
    pub(super) took: Duration,
    pub(super) failure: Option<String>,
}

impl Shell {
    /// When the next check is to begin.
    pub(super) fn next_check(&self) -> Option<Time> {
        self.options.health.as_ref()?;
        self.workers.values().filter_map(|record| record.life.checkup.next).min()
    }

    /// Begins the checks that are due.
    pub(super) fn begin_checks(&mut self, now: Time) {
        let Some(health) = self.options.health.clone() else { return };
        let due = |record: &&Record| record.life.checkup.next.is_some_and(|at| at <= now);
        let due: Vec<_> = self.workers.values().filter(due).map(|r| r.handle.id()).collect();
        for worker in due {
            let serves = self.is_serving(worker);
            let way = serves.then(|| self.way_to(worker, &health.check)).flatten();
            let Some(record) = self.workers.get_mut(&worker) else { continue };
            // One that leaves is not checked again.
            record.life.checkup.next = None;
            let slot = record.handle.slot();
            match way {
                Some(way) => {
                    let (health, facts) = (health.clone(), self.facts.clone());
                    tokio::spawn(async move {
                        let checked = check(&health, way).await;
                        let _ = facts.send(Fact::Checked(worker, checked)).await;
                    });
                }
                None if serves => {
                    record.life.checkup.next = Some(now.after(health.interval));
                    if !std::mem::replace(&mut record.life.checkup.said_unreachable, true) {
                        tracing::error!(
                            "worker {worker} in slot {slot} is not checked: {UNREACHABLE}"
                        );
                    }
                }
                None => {}
            }
        }
    }

    /// How just this worker is reached.
    fn way_to(&mut self, worker: WorkerId, check: &Check) -> Option<Way> {
        let record = self.workers.get(&worker)?;
        let (slot, pid, channel) =
            (record.handle.slot().0, record.handle.pid(), record.channel.clone());
        if matches!(check, Check::Command(_)) {
            return Some(Way::Beside { pid, id: worker, slot });
        }
        let handed = |port: &&Port| {
            let user = port.users.get(&worker).filter(|_| !port.is_udp());
            user.is_some_and(|user| self.can_be_handed(port, worker, user))
                && matches!(port.address, Address::Ip(_))
        };
        if let Some(key) = self.ports.values().find(handed).map(|port| port.key.clone()) {
            let seq = self.next_seq();
            let (tell, taken) = oneshot::channel();
            self.liveness.handed.insert(seq, (worker, tell));
            return Some(Way::Channel { channel, key, seq, taken });
        }
        let base = lock(&self.settings).port_base?;
        let port = u16::try_from(slot).ok().and_then(|slot| base.checked_add(slot))?;
        Some(Way::Port((Ipv4Addr::LOCALHOST, port).into()))
    }

    /// A worker's answer to a connection that no client's is: perhaps a check's.
    pub(super) fn check_taken(&mut self, worker: WorkerId, seq: u64, accepted: bool) {
        let mine = |(of, _): &mut (WorkerId, _)| *of == worker;
        if let std::collections::btree_map::Entry::Occupied(mut entry) =
            self.liveness.handed.entry(seq)
            && mine(entry.get_mut())
        {
            let _ = entry.remove().1.send(accepted);
        }
    }

    /// A check is over.
    pub(super) fn checked(&mut self, now: Time, worker: WorkerId, checked: Checked) {
        self.liveness.handed.retain(|_, (of, _)| *of != worker);
        let serves = self.is_serving(worker);
        let Some(health) = self.options.health.clone().filter(|_| serves) else { return };
        let Some(record) = self.workers.get_mut(&worker) else { return };
        let (slot, Checked { took, failure }) = (record.handle.slot(), checked);
        let checkup = &mut record.life.checkup;
        checkup.next = Some(now.after(health.interval));
        let before = checkup.failures.count();
        let over = checkup.failures.checked(failure.is_none(), took, health.timeout, health.misses);
        let failures = checkup.failures.count();
        let known = checkup.status.take().and_then(|status| status.last_error);
        checkup.status = Some(HealthStatus {
            ok: failure.is_none(),
            latency: took,
            failures,
            last_error: failure.clone().or(known),
        });
        let (check, misses) = (&health.check, health.misses.max(1));
        match failure {
            None if before > 0 => {
                tracing::info!("worker {worker} in slot {slot} passes its check again: {check}");
            }
            None => {}
            Some(why) if over => {
                let why = format!(
                    "{failures} checks in a row failed, the last one after {took:.1?}: {check}: {why}"
                );
                self.suspect(now, worker, Leave::Unhealthy, why);
            }
            Some(why) => tracing::warn!(
                "worker {worker} in slot {slot} fails its check ({failures} of {misses}): {check}: {why}"
            ),
        }
    }
}

/// One check, from its beginning to its end.
async fn check(health: &Health, way: Way) -> Checked {
    let begun = Instant::now();
    let limit = health.timeout;
    let done = match (way, &health.check) {
        (Way::Beside { pid, id, slot }, Check::Command(words)) => {
            run(words, limit, pid, id, slot).await
        }
        (way, check) => tokio::time::timeout(limit, ask(check, way))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {limit:?}"))),
    };
    Checked { took: begun.elapsed(), failure: done.err() }
}

/// Asks over a connection.
async fn ask(check: &Check, way: Way) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot connect: {error}");
    let (mut stream, taken) = match way {
        Way::Port(address) => (TcpStream::connect(address).await.map_err(cannot)?, None),
        Way::Channel { channel, key, seq, taken } => {
            (hand_over(&channel, key, seq).await.map_err(cannot)?, Some(taken))
        }
        Way::Beside { .. } => return Err("a command is not asked over a connection".into()),
    };
    match check {
        Check::Http { path, status, host } => {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: phalanx-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
            let got = read_status(&mut stream).await?;
            let expected = format!("expected {} to {}", status.start(), status.end());
            if status.contains(&got) { Ok(()) } else { Err(format!("status {got}, {expected}")) }
        }
        _ => match taken {
            None => Ok(()),
            Some(taken) => match taken.await {
                Ok(true) => Ok(()),
                _ => Err("it refused the connection".into()),
            },
        },
    }
}

/// A connection whose other end is with the worker: its own client sees it like any other.
async fn hand_over(channel: &Sender, key: String, seq: u64) -> io::Result<TcpStream> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let mine = client.local_addr()?;
    for _ in 0..STRANGERS {
        let (end, from) = listener.accept().await?;
        if from != mine {
            continue;
        }
        let end = Arc::new(end.into_std()?.into());
        let line = hand_over_line(&key, seq, channel.dialect());
        channel.push_line(line, Tag::NewConn(seq), Some(end));
        return Ok(client);
    }
    Err(io::Error::other("strangers connect to the port of the check"))
}

/// The status of the final response.
async fn read_status(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<u16, String> {
    let mut head = Vec::new();
    loop {
        if let Some(status) = status_of(&head)? {
            return Ok(status);
        }
        if head.len() >= HEAD {
            return Err(format!("a head of more than {HEAD} bytes"));
        }
        let mut bytes = [0; 2048];
        let got = stream.read(&mut bytes).await.map_err(|error| error.to_string())?;
        if got == 0 {
            return Err(match head.len() {
                0 => "the connection was closed without an answer".into(),
                n => format!("the connection was closed after {n} bytes of the answer's head"),
            });
        }
        head.extend_from_slice(bytes.get(..got).unwrap_or_default());
    }
}

/// The status in these bytes, if they hold the whole head of a response that is none of those in between (1xx).
fn status_of(mut bytes: &[u8]) -> Result<Option<u16>, String> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        match response.parse(bytes) {
            Ok(httparse::Status::Partial) => return Ok(None),
            Ok(httparse::Status::Complete(length)) => match response.code {
                Some(100..=199) => bytes = bytes.get(length..).unwrap_or_default(),
                code => return Ok(code),
            },
            Err(httparse::Error::TooManyHeaders) => return Ok(response.code),
            Err(error) => return Err(format!("its answer is no HTTP: {error}")),
        }
    }
}

/// Runs a command to its end, or to the end of its time.
async fn run(
    words: &[OsString],
    limit: Duration,
    pid: u32,
    id: WorkerId,
    slot: u32,
) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("there is no command")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("PHALANX_WORKER_PID", pid.to_string())
        .env("PHALANX_WORKER_ID", id.to_string())
        .env("PHALANX_SLOT", slot.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("cannot be started: {error}"))?;
    let group = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().ok()?));
    let mut text = Vec::new();
    let ended = {
        let mut hearing = std::pin::pin!(hear(child.stderr.take(), &mut text));
        let mut heard = false;
        let ended = tokio::time::timeout(limit, async {
            loop {
                tokio::select! {
                    status = child.wait() => break status,
                    () = &mut hearing, if !heard => heard = true,
                }
            }
        });
        let ended = ended.await;
        if ended.is_ok() && !heard {
            let _ = tokio::time::timeout(LAST_WORDS, hearing).await;
        }
        ended
    };
    let words = String::from_utf8_lossy(&text);
    let last = words.lines().rev().map(str::trim).find(|line| !line.is_empty());
    let said = last.map(|line| format!(": {}", printable(line))).unwrap_or_default();
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{status}{said}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            // Not reaped yet, so its group is its own.
            if let Some(group) = group {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = child.wait().await;
            Err(format!("it did not end within {limit:?}{said}"))
        }
    }
}

/// Reads to the end, and keeps the beginning.
async fn hear(from: Option<ChildStderr>, text: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut bytes = [0; 1024];
    while let Ok(got @ 1..) = from.read(&mut bytes).await {
        let room = WORDS.saturating_sub(text.len());
        text.extend_from_slice(bytes.get(..got.min(room)).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn heads_of_responses() {
        for (head, expected) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", Ok(204)),
            ("HTTP/1.0 503 x\r\nA: b\r\n\r\nbody", Ok(503)),
            ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok(200)),
            ("", Err("without an answer")),
            ("HTTP/1.1 200 OK\r\nContent-", Err("closed after 25 bytes")),
            ("220 mail.example.org ESMTP\r\n", Err("no HTTP")),
        ] {
            let mut bytes = head.as_bytes();
            match (read_status(&mut bytes).await, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{head:?}"),
                (Err(got), Err(expected)) => assert!(got.contains(expected), "{head:?}: {got}"),
                (got, expected) => panic!("{head:?}: {got:?}, expected {expected:?}"),
            }
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 20));
        let error = read_status(&mut endless.as_bytes()).await.unwrap_err();
        assert!(error.contains("more than"), "{error}");
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(FIELDS + 1));
        assert_eq!(read_status(&mut many.as_bytes()).await, Ok(200));
    }

    #[tokio::test]
    async fn commands() {
        let sh = |script: &str| ["sh", "-c", script].map(OsString::from).to_vec();
        let run = async |words: Vec<OsString>, ms: u64| {
            run(&words, Duration::from_millis(ms), 7, WorkerId(3), 2).await
        };
        assert_eq!(run(sh("true"), 60_000).await, Ok(()));
        let echo = "echo $PHALANX_WORKER_PID $PHALANX_WORKER_ID $PHALANX_SLOT >&2; exit 1";
        let error = run(sh(echo), 60_000).await.unwrap_err();
        assert!(error.contains('1') && error.ends_with(": 7 3 2"), "{error}");
        // More than fits into the pipe.
        let much = "head -c 300000 /dev/zero >&2";
        assert_eq!(run(sh(much), 60_000).await, Ok(()));
        let error = run(sh("echo late >&2; sleep 600 & wait"), 500).await.unwrap_err();
        assert!(error.contains("did not end") && error.contains("late"), "{error}");
        let error = run(vec!["/no/such/program".into()], 60_000).await.unwrap_err();
        assert!(error.contains("cannot be started"), "{error}");
    }
}
