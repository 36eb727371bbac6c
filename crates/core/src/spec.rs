//! What a cluster is wanted to be.

use crate::restart::Restart;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// The most workers (and slots) a cluster may have: the kernel's steering program and the tables
/// are bounded by it.
pub const MAX_WORKERS: usize = 512;

/// How long a worker that starts may keep others from starting: [`Spec::starts_at_once`].
pub const STARTS_FOR: Duration = Duration::from_secs(30);

/// When a new worker counts as ready to serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadyWhen {
    /// It said that it listens.
    #[default]
    Listening,
    /// Its channel works; for workers that never listen. A program without a channel: it has run for a second.
    Online,
    /// It said so: by systemd's protocol (`READY=1`), or by the message `"ready"` on its channel (`process.send('ready')`).
    Notified,
}

/// A part of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Share {
    /// So many.
    Count(u32),
    /// So many percent of them, at least one.
    Percent(u8),
}

impl Share {
    /// How many of so many that is: at least one.
    ///
    /// ```
    /// use phalanx_core::spec::Share;
    /// assert_eq!(Share::Percent(25).of(16), 4);
    /// assert_eq!(Share::Percent(25).of(5), 2);
    /// assert_eq!(Share::Percent(1).of(3), 1);
    /// assert_eq!(Share::Count(9).of(4), 4);
    /// ```
    #[must_use]
    pub fn of(self, all: usize) -> usize {
        let some = match self {
            Self::Count(n) => usize::try_from(n).unwrap_or(usize::MAX),
            Self::Percent(p) => all.saturating_mul(usize::from(p)).div_ceil(100),
        };
        some.min(all).max(1)
    }
}

/// A reload tries the new program in a few slots first. Their old workers go on beside the new ones until the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// In so many slots.
    pub slots: u32,
    /// For so long, from when all of them are ready.
    pub time: Duration,
    /// How many percent of the new connections they get together, from 1 to 99; `None`: as many as any other worker. In
    /// the policy `direct`.
    pub share: Option<u8>,
}

/// How a rolling reload goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadRules {
    /// How many slots are replaced at the same time.
    pub at_once: Share,
    /// How long a new worker must have been ready before the old one is told to leave. A crash before is a failure.
    pub healthy_for: Duration,
    /// After a failure, slots that were replaced go back to the program before, if it is still there.
    pub rollback: bool,
    /// The new program is tried first.
    pub canary: Option<Canary>,
}

impl Default for ReloadRules {
    /// One slot at a time, at its word, and what was replaced stays.
    fn default() -> Self {
        Self {
            at_once: Share::Count(1),
            healthy_for: Duration::ZERO,
            rollback: false,
            canary: None,
        }
    }
}

/// The rules of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// How many workers are kept running. 0: only those that are forked one by one.
    pub workers: usize,
    /// When a new worker counts as ready.
    pub ready: ReadyWhen,
    /// How long a new worker may take to be ready before it is killed; `None`: as long as it likes.
    pub start_timeout: Option<Duration>,
    /// How long a worker may take to finish after it was told to leave, until it is sent SIGTERM; `None`: as long as
    /// it likes.
    pub grace: Option<Duration>,
    /// How long it may take from SIGTERM to its end, until it is sent SIGKILL; nothing: it is killed without SIGTERM.
    pub kill_after: Duration,
    /// What follows the end of a worker that was not told to leave.
    pub restart: Restart,
    /// How many workers may be starting at the same time; 0: any number. One that takes longer than
    /// [`STARTS_FOR`] does not hold up the others any more.
    pub starts_at_once: usize,
    /// How long a new worker takes to get its full part of the new connections, in eight steps; `None`: at once. In the
    /// policy `direct`.
    pub slow_start: Option<Duration>,
    /// How a rolling reload goes.
    pub reload: ReloadRules,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            workers: 1,
            ready: ReadyWhen::default(),
            start_timeout: Some(Duration::from_secs(60)),
            grace: Some(Duration::from_secs(30)),
            kill_after: Duration::from_secs(2),
            restart: Restart::default(),
            starts_at_once: 0,
            slow_start: None,
            reload: ReloadRules::default(),
        }
    }
}
