//! One worker's life.

use crate::time::Time;
use alloc::string::String;
use core::fmt;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// A worker's number: from 1, never used twice by a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub u32);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place for a worker: from 0. A replacement takes the slot of the worker it replaces, and with
/// it the slot's listening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId(pub u32);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code {code}"),
            Self::Signal(number) => match signal_name(*number) {
                Some(name) => f.write_str(name),
                None => write!(f, "signal {number}"),
            },
        }
    }
}

/// The names of the signals that end processes and whose numbers are the same on all Unixes.
const fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// Why a worker is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leave {
    /// A newer worker took its place.
    Reload,
    /// The program that it runs failed elsewhere: the one before it goes on.
    Rollback,
    /// All stop, and begin again.
    Restart,
    /// Fewer workers are wanted.
    Scale,
    /// The cluster stops.
    Stop,
    /// The application told it to.
    Asked,
    /// It said so itself.
    Itself,
    /// Its channel is closed.
    ChannelClosed,
    /// It was not ready in time.
    StartTimeout,
    /// It broke the channel's protocol.
    Broken,
    /// It, with its children, has more memory than it may.
    Memory,
    /// It is older than it may get.
    Age,
    /// It has had as many connections as it may.
    Connections,
    /// It gives no sign of life.
    Hung,
    /// It fails its health check.
    Unhealthy,
    /// It was coming up when its primary died.
    Orphaned,
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reload => "reload",
            Self::Rollback => "rollback",
            Self::Restart => "restart",
            Self::Scale => "scale",
            Self::Stop => "stop",
            Self::Asked => "asked",
            Self::Itself => "left",
            Self::ChannelClosed => "channel closed",
            Self::StartTimeout => "start time-out",
            Self::Broken => "broken",
            Self::Memory => "memory limit",
            Self::Age => "age limit",
            Self::Connections => "connection limit",
            Self::Hung => "hung",
            Self::Unhealthy => "unhealthy",
            Self::Orphaned => "orphaned",
        })
    }
}

/// Where a worker is in its life. One that has ended has no phase: it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Asked for; there is no process yet.
    Forking,
    /// The process runs but does not serve yet.
    Starting {
        /// When the process was made.
        since: Time,
        /// Whether its channel works.
        online: bool,
    },
    /// It serves.
    Ready {
        /// Since when.
        since: Time,
    },
    /// It was told to leave and finishes what it does.
    Draining {
        /// Since when.
        since: Time,
        /// When it is told by SIGTERM, or killed if it was; if ever.
        deadline: Option<Time>,
        /// It was sent SIGTERM.
        terminated: bool,
        /// Why.
        why: Leave,
        /// How long it had been ready before.
        served: Duration,
    },
    /// It was sent SIGKILL; its end is awaited.
    Killed {
        /// Since when.
        since: Time,
        /// Why.
        why: Leave,
        /// How long it had been ready before.
        served: Duration,
    },
}

/// What the core knows of a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number.
    pub id: WorkerId,
    /// Its place.
    pub slot: SlotId,
    /// The reload it belongs to; 0 before the first.
    pub generation: u64,
    /// Which program it runs: the number of the reload that brought it. After a rollback, one that is older than its
    /// generation.
    #[serde(default)]
    pub version: u64,
    /// Whether the cluster replaces it when it ends.
    pub guarded: bool,
    /// Its process, once there is one.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub phase: Phase,
    /// It goes on until a successor is ready.
    pub retire: Option<Retire>,
    /// When it was told to leave (or did), and by which reload; 0 if by none.
    pub left: Option<(Time, u64)>,
    /// The kernel killed it for want of memory; whether that is certain.
    pub oom: Option<bool>,
    /// How many of its connections speak another protocol by now, as far as it told.
    #[serde(default)]
    pub upgraded: u32,
}

/// A worker that is to be replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retire {
    /// Why.
    pub why: Leave,
    /// Successors that did not come up, in a row.
    pub failures: u32,
    /// When the next one may be forked.
    pub hold: Time,
}

impl Worker {
    /// Whether it serves or is about to.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Forking | Phase::Starting { .. } | Phase::Ready { .. })
    }

    /// Whether it serves.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// How long it has been ready, or had been.
    pub(crate) fn served(&self, now: Time) -> Duration {
        match self.phase {
            Phase::Forking | Phase::Starting { .. } => Duration::ZERO,
            Phase::Ready { since } => now.since(since),
            Phase::Draining { served, .. } | Phase::Killed { served, .. } => served,
        }
    }
}

/// What kind of end a worker had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndKind {
    /// It was ready, and exited with 0 by itself.
    Finished,
    /// It was ready, and exited with another code, or by a signal that its primary did not send.
    Crashed,
    /// It ended before it was ready.
    NeverReady,
    /// It was told to leave, or said that it does.
    Told(Leave),
    /// It ended by itself in a way that is not to be followed by another worker.
    Stopped,
    /// The kernel killed it for want of memory.
    OutOfMemory {
        /// Its own cgroup says so; else it is that the kernel killed something then.
        certain: bool,
    },
}

impl fmt::Display for EndKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Crashed => f.write_str("crashed"),
            Self::NeverReady => f.write_str("never ready"),
            Self::Told(why) => write!(f, "told to leave ({why})"),
            Self::Stopped => f.write_str("stopped by itself"),
            Self::OutOfMemory { certain: true } => f.write_str("killed by the OOM killer"),
            Self::OutOfMemory { certain: false } => {
                f.write_str("probably killed by the OOM killer")
            }
        }
    }
}

/// How a worker ended, for those who have to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Its process exited.
    Exited(Exit),
    /// It was not ready in time, and was killed.
    NotReady(Duration),
    /// It crashed after it had been ready so long, while the others were still being replaced.
    Crashed(Duration),
    /// It could not be started at all.
    NotStarted(String),
    /// It broke the channel's protocol, and was killed.
    Broken(String),
    /// It was beyond help, and was ended.
    Lost(Leave),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(exit) => write!(f, "it ended before it was ready, with {exit}"),
            Self::NotReady(wait) => write!(f, "it was not ready within {wait:.1?}"),
            Self::Crashed(served) => write!(f, "it crashed after {served:.1?} of service"),
            Self::NotStarted(why) | Self::Broken(why) => f.write_str(why),
            Self::Lost(why) => write!(f, "it was ended ({why})"),
        }
    }
}
