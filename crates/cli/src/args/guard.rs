//! Options of the guard: what follows a crash, how workers start, how they are reloaded.

use super::time;
use crate::signals;
use clap::Args;
use phalanx::{Canary, Cluster, ReloadRules, Restart, Share, cores};
use std::collections::BTreeSet;
use std::time::Duration;

/// Longer than anything that is meant.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[derive(Args, Debug)]
#[command(next_help_heading = "Guard")]
pub(crate) struct Guard {
    /// The wait after the second crash in a row; doubled with each further one. A number is milliseconds; ms, s, m, h
    #[arg(long, visible_alias = "exp-backoff-restart-delay", value_name = "TIME", default_value = "100ms", value_parser = sane)]
    pub(crate) restart_delay: Duration,
    /// The longest wait, and how often a crash loop is tried again; else 5s, or --restart-delay if that is longer
    #[arg(long, value_name = "TIME", value_parser = sane)]
    pub(crate) max_restart_delay: Option<Duration>,
    /// So many crashes in a row, or within a minute, are a crash loop, and before any worker was ready the end; 0: never
    #[arg(long, value_name = "N", default_value = "6", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) max_restarts: u32,
    /// A worker that was ready for so long ends the row of crashes
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = sane)]
    pub(crate) min_uptime: Duration,
    /// A worker that ends by itself with one of these codes, or by one of these signals, is not replaced
    #[arg(long, value_name = "CODE|SIGNAL,…", value_delimiter = ',', value_parser = end)]
    pub(crate) stop_exit_codes: Vec<Ending>,
    /// No worker that ends is replaced
    #[arg(long)]
    pub(crate) no_autorestart: bool,
    /// How many workers may be starting at the same time; else as many as there are cores; 0: any number
    #[arg(long, value_name = "N")]
    pub(crate) parallel_starts: Option<usize>,
    /// A new worker gets its part of the connections little by little, for so long (`direct` only)
    #[arg(long, value_name = "TIME", value_parser = sane)]
    pub(crate) slow_start: Option<Duration>,
    /// How long a worker may take from SIGTERM to its end when its grace is over, until it is killed; 0: without SIGTERM
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = sane)]
    pub(crate) kill_after: Duration,
    /// How many workers a reload replaces at the same time: a number, or a part of them
    #[arg(help_heading = "Reload", long, alias = "parallel", value_name = "N|P%", default_value = "1", value_parser = share)]
    pub(crate) reload_parallel: Share,
    /// In a reload, a new worker must have been ready for so long before the old one leaves
    #[arg(help_heading = "Reload", long, value_name = "TIME", default_value = "0", value_parser = sane)]
    pub(crate) healthy_for: Duration,
    /// When a reload fails, what was replaced goes back to the program before: an executable, or other files
    #[arg(help_heading = "Reload", long)]
    pub(crate) rollback: bool,
    /// A reload first tries the new program in one slot, beside the old one, for so long
    #[arg(help_heading = "Reload", long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = positive)]
    pub(crate) canary: Option<Duration>,
    /// How much of the new connections that gets (`direct` only); else as much as any other
    #[arg(help_heading = "Reload", long, value_name = "P%", requires = "canary", value_parser = canary_share)]
    pub(crate) canary_share: Option<u8>,
}

/// An end that is not followed by another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Code(i32),
    Signal(i32),
}

impl Guard {
    /// What two options say that cannot both be.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self.max_restart_delay {
            Some(most) if self.restart_delay > most => Err(format!(
                "--restart-delay {:?} is longer than --max-restart-delay {most:?}: make the first shorter, or the second longer",
                self.restart_delay
            )),
            _ => Ok(()),
        }
    }

    /// The cluster by these rules. `stays`: something starts it anew when all its workers have ended.
    pub(crate) fn apply(&self, cluster: Cluster, stays: bool) -> Cluster {
        cluster
            .restart(Restart { stays, ..self.restart() })
            .kill_after(self.kill_after)
            .parallel_starts(self.parallel_starts.unwrap_or_else(cores))
            .slow_start(self.slow_start.filter(|time| !time.is_zero()))
            .reload_rules(self.reload())
    }

    fn restart(&self) -> Restart {
        let codes = |ending: &Ending| match ending {
            Ending::Code(code) => Some(*code),
            Ending::Signal(_) => None,
        };
        let signals = |ending: &Ending| match ending {
            Ending::Code(_) => None,
            Ending::Signal(number) => Some(*number),
        };
        let usual = Restart::default();
        Restart {
            enabled: !self.no_autorestart,
            base: self.restart_delay,
            cap: self.max_restart_delay.unwrap_or(usual.cap.max(self.restart_delay)),
            stable: self.min_uptime,
            limit: self.max_restarts,
            stop_codes: self.stop_exit_codes.iter().filter_map(codes).collect::<BTreeSet<_>>(),
            stop_signals: self.stop_exit_codes.iter().filter_map(signals).collect::<BTreeSet<_>>(),
            ..usual
        }
    }

    fn reload(&self) -> ReloadRules {
        ReloadRules {
            at_once: self.reload_parallel,
            healthy_for: self.healthy_for,
            rollback: self.rollback,
            canary: self.canary.map(|time| Canary { slots: 1, time, share: self.canary_share }),
        }
    }
}

fn sane(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    let fits = time <= LONGEST;
    fits.then_some(time).ok_or_else(|| "that is more than a day (24h)".into())
}

fn positive(text: &str) -> Result<Duration, String> {
    let time = sane(text)?;
    (!time.is_zero()).then_some(time).ok_or_else(|| "expected more than nothing".into())
}

fn percent(text: &str) -> Option<u8> {
    text.strip_suffix('%').unwrap_or(text).trim().parse().ok()
}

fn share(text: &str) -> Result<Share, String> {
    let words = || "expected a number from 1 on, or a part from 1% to 100%".to_owned();
    if text.ends_with('%') {
        let part = percent(text).filter(|part| (1..=100).contains(part));
        return part.map(Share::Percent).ok_or_else(words);
    }
    let count = text.parse().ok().filter(|count| *count > 0);
    count.map(Share::Count).ok_or_else(words)
}

fn canary_share(text: &str) -> Result<u8, String> {
    let part = percent(text).filter(|part| (1..=99).contains(part));
    part.ok_or_else(|| "expected a part from 1% to 99%".into())
}

fn end(text: &str) -> Result<Ending, String> {
    let text = text.trim();
    if let Ok(code) = text.parse() {
        let fits = (0..=255).contains(&code);
        return fits
            .then_some(Ending::Code(code))
            .ok_or_else(|| "exit codes are from 0 to 255".into());
    }
    let signal = signals::number(text).map(Ending::Signal);
    signal.map_err(|_| "expected exit codes and names of signals, as in 0,3,SIGTERM".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        assert_eq!(end("0"), Ok(Ending::Code(0)));
        assert_eq!(end(" 255"), Ok(Ending::Code(255)));
        assert_eq!(end("SIGTERM"), Ok(Ending::Signal(15)));
        assert_eq!(end("int"), Ok(Ending::Signal(2)));
        for bad in ["", "256", "-1", "SIGNONSENSE", "9x"] {
            assert!(end(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn shares() {
        assert_eq!(share("3"), Ok(Share::Count(3)));
        assert_eq!(share("25%"), Ok(Share::Percent(25)));
        for bad in ["0", "0%", "101%", "-1", "half", "%"] {
            assert!(share(bad).is_err(), "{bad:?}");
        }
        assert_eq!(canary_share("5%"), Ok(5));
        assert_eq!(canary_share("5"), Ok(5));
        assert!(canary_share("100%").is_err() && canary_share("0").is_err());
    }

    #[test]
    fn absurd_times() {
        assert!(sane("25h").is_err() && sane("24h").is_ok());
        assert!(positive("0").is_err());
    }
}
