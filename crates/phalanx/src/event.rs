//! What happens in a cluster, for those who want to know.

use crate::address::Address;
use crate::message::Message;
use crate::primary::WorkerHandle;
use phalanx_core::report::Report;
use phalanx_core::worker::{Exit, WorkerId};
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes of messages that may wait for one slow receiver before the worker has to.
const ROOM: usize = 4 << 20;

/// An event of the cluster, as `node:cluster` emits them on `cluster` in the primary.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The settings for the next workers were set.
    Setup,
    /// A worker's process was made.
    Fork(WorkerHandle),
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
    /// What the guard did and why: restarts, reloads, time-outs.
    Report(Report),
}

impl Event {
    /// The worker it is about, if it is about one.
    #[must_use]
    pub const fn worker(&self) -> Option<&WorkerHandle> {
        match self {
            Self::Fork(worker)
            | Self::Online(worker)
            | Self::Listening(worker, _)
            | Self::Message(worker, _)
            | Self::Disconnect(worker)
            | Self::Exit(worker, _)
            | Self::Error(worker, _) => Some(worker),
            Self::Setup | Self::Report(_) => None,
        }
    }
}

/// A stream of events from now on. Messages wait for a slow receiver: first in a bounded queue here, then
/// at the worker that sends them.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::UnboundedReceiver<(Event, Option<OwnedSemaphorePermit>)>,
}

impl Events {
    /// The next event; `None` when the cluster is gone.
    pub async fn next(&mut self) -> Option<Event> {
        self.queue.recv().await.map(|(event, _)| event)
    }
}

/// Everybody who wants to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audience {
    members: Arc<Mutex<Vec<Member>>>,
}

#[derive(Clone, Debug)]
struct Member {
    queue: mpsc::UnboundedSender<(Event, Option<OwnedSemaphorePermit>)>,
    room: Arc<Semaphore>,
    only: Option<WorkerId>,
}

impl Member {
    fn wants(&self, event: &Event) -> bool {
        self.only.is_none_or(|id| event.worker().is_some_and(|worker| worker.id() == id))
    }
}

impl Audience {
    /// Everything, or what is about one worker.
    pub(crate) fn join(&self, only: Option<WorkerId>) -> Events {
        let (queue, events) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(ROOM));
        self.lock().push(Member { queue, room, only });
        Events { queue: events }
    }

    /// Tells what happened; never waits. There are few such events per worker.
    pub(crate) fn tell(&self, event: &Event) {
        self.lock().retain(|member| {
            if member.wants(event) {
                member.queue.send((event.clone(), None)).is_ok()
            } else {
                !member.queue.is_closed()
            }
        });
    }

    /// Tells a message, when there is room for it at every receiver.
    pub(crate) async fn tell_message(&self, worker: &WorkerHandle, message: Message) {
        let size = u32::try_from(message.text().len().clamp(64, ROOM)).unwrap_or(u32::MAX);
        let event = Event::Message(worker.clone(), message);
        let members = self.lock().clone();
        for member in members.iter().filter(|member| member.wants(&event)) {
            let permit = tokio::select! {
                permit = Arc::clone(&member.room).acquire_many_owned(size) => permit.ok(),
                () = member.queue.closed() => continue,
            };
            let _ = member.queue.send((event.clone(), permit));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
