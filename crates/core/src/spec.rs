//! What a cluster is wanted to be.

use crate::restart::Restart;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// The most workers (and slots) a cluster may have: the kernel's steering program and the tables
/// are bounded by it.
pub const MAX_WORKERS: usize = 512;

/// When a new worker counts as ready to serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadyWhen {
    /// It said that it listens.
    #[default]
    Listening,
    /// Its channel works; for workers that never listen. A program without a channel: it has run for a second.
    Online,
    /// It said so by systemd's protocol (`READY=1`); one with a channel: when it listens.
    Notified,
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
        }
    }
}
