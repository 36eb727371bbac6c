//! What the core is told, and what it wants done.

use crate::report::Report;
use crate::worker::{Exit, Leave, SlotId, WorkerId};
use alloc::string::String;
use core::time::Duration;

/// A fact or a wish.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The process of a worker runs.
    Forked {
        /// Which.
        worker: WorkerId,
        /// Its process.
        pid: u32,
    },
    /// The process of a worker could not be made.
    ForkFailed {
        /// Which.
        worker: WorkerId,
        /// Why.
        why: String,
        /// Whether trying again is pointless (no such program).
        permanent: bool,
    },
    /// A worker's channel works.
    Online {
        /// Which.
        worker: WorkerId,
    },
    /// A worker listens.
    Listening {
        /// Which.
        worker: WorkerId,
    },
    /// A worker says that it leaves.
    Leaving {
        /// Which.
        worker: WorkerId,
    },
    /// A worker's channel is closed.
    ChannelClosed {
        /// Which.
        worker: WorkerId,
    },
    /// A worker sent what no worker may send.
    Broken {
        /// Which.
        worker: WorkerId,
        /// What.
        why: String,
    },
    /// A worker's process ended and was reaped.
    Exited {
        /// Which.
        worker: WorkerId,
        /// How.
        exit: Exit,
    },
    /// Wish: so many workers.
    Scale {
        /// How many.
        workers: usize,
    },
    /// Wish: replace every worker, one after the other.
    Reload,
    /// Wish: this worker shall leave.
    Disconnect {
        /// Which.
        worker: WorkerId,
    },
    /// Wish: this worker shall leave as soon as a successor is ready in its place.
    Replace {
        /// Which.
        worker: WorkerId,
        /// Why.
        why: Leave,
    },
    /// A worker is beyond help: it is sent SIGTERM, killed a while later, and replaced.
    Lost {
        /// Which.
        worker: WorkerId,
        /// Why.
        why: Leave,
    },
    /// A worker has so many connections that speak another protocol by now (WebSocket), which end when they like.
    Upgraded {
        /// Which.
        worker: WorkerId,
        /// How many.
        count: u32,
        /// How long it may go on for their sake after it was told to leave; `None`: as long as it likes.
        grace: Option<Duration>,
    },
    /// A worker that leaves was sent SIGTERM by the shell.
    Terminated {
        /// Which.
        worker: WorkerId,
    },
    /// Before the `Exited` of a worker: the kernel killed it for want of memory.
    OutOfMemory {
        /// Which.
        worker: WorkerId,
        /// Whether that is certain, or only likely.
        certain: bool,
    },
    /// Connections of a worker that leaves were in use when it was ended.
    Cut {
        /// Which.
        worker: WorkerId,
        /// How many.
        connections: u32,
    },
    /// Before a `Reload`: whether the program that runs now could be started again later.
    CanGoBack(bool),
    /// Wish: stop all workers, then start them all again.
    Restart,
    /// Wish: all shall leave, and nothing start again.
    Stop,
    /// Wish: all shall be gone, now.
    StopNow,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Start a process.
    Fork {
        /// The worker it will be.
        worker: WorkerId,
        /// Its place.
        slot: SlotId,
    },
    /// Steer new connections away from the worker, then tell it to leave.
    Disconnect {
        /// Which.
        worker: WorkerId,
    },
    /// Send it SIGTERM.
    Terminate {
        /// Which.
        worker: WorkerId,
    },
    /// Kill it.
    Kill {
        /// Which.
        worker: WorkerId,
    },
    /// Tell people.
    Report(Report),
}
