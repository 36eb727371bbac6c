//! What happens in a cluster, for those who want to know.

use crate::address::Address;
use crate::fan::FanReceiver;
use crate::message::Message;
use crate::primary::{Evidence, WorkerHandle};
use phalanx_core::cluster::Receipt;
use phalanx_core::ends::EndRecord;
use phalanx_core::report::Report;
use phalanx_core::wire::Uncaught;
use phalanx_core::worker::Exit;
use std::sync::Arc;

/// An event of the cluster, as `node:cluster` emits them on `cluster` in the primary.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The settings for the next workers were set.
    Setup,
    /// A worker's process was made.
    Fork(WorkerHandle),
    /// A worker of the primary before this one, which was killed or has become this one, goes on.
    Adopt(WorkerHandle),
    /// A worker's channel works.
    Online(WorkerHandle),
    /// A worker accepts connections on an address.
    Listening(WorkerHandle, Address),
    /// A worker sent a message.
    Message(WorkerHandle, Message),
    /// A worker's channel is closed.
    Disconnect(WorkerHandle),
    /// A worker's process ended.
    Exit(WorkerHandle, Exit),
    /// Something went wrong with one worker: what, in words.
    Error(WorkerHandle, Arc<str>),
    /// A Node worker's program did not catch an exception; it probably dies of it.
    Uncaught(WorkerHandle, Arc<Uncaught>),
    /// A worker hangs or is unhealthy: what was seen of it. It is ended and replaced next.
    Hung(WorkerHandle, Arc<Evidence>),
    /// Why a worker ended, with all that is known of its life: a moment after [`Event::Exit`].
    Ended(Arc<EndRecord>),
    /// What the guard did and why: restarts, reloads, time-outs.
    Report(Report),
    /// What a reload came to: told when the last worker that left for it is gone, or a minute after its end.
    Reloaded(Receipt),
}

impl Event {
    /// The worker it is about, if it is about one.
    #[must_use]
    pub const fn worker(&self) -> Option<&WorkerHandle> {
        match self {
            Self::Fork(worker)
            | Self::Adopt(worker)
            | Self::Online(worker)
            | Self::Listening(worker, _)
            | Self::Message(worker, _)
            | Self::Disconnect(worker)
            | Self::Exit(worker, _)
            | Self::Error(worker, _)
            | Self::Uncaught(worker, _)
            | Self::Hung(worker, _) => Some(worker),
            Self::Setup | Self::Ended(_) | Self::Report(_) | Self::Reloaded(_) => None,
        }
    }
}

/// A stream of events from now on. Messages wait for a slow receiver: first in a bounded queue here, then
/// at the worker that sends them.
pub struct Events {
    pub(crate) queue: FanReceiver<Event>,
}

impl Events {
    /// The next event; `None` when the cluster has stopped and everything was told.
    pub async fn next(&mut self) -> Option<Event> {
        self.queue.next().await
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
