//! The primary's view of a worker.

use super::child::Child;
use super::liveness::Ear;
use super::output::{Heard, WorkerOutput};
use super::{Command, lock};
use crate::channel::Sender;
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::fan::Fan;
use crate::message::{self, Handle};
use phalanx_core::cluster::Event as Wish;
use phalanx_core::wire::{Frame, Metrics, Note};
use phalanx_core::worker::{Exit, SlotId, WorkerId};
use rustix::fd::OwnedFd;
use rustix::process::Signal;
use serde::Serialize;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::{mpsc, watch};

/// The primary's view of a worker: `cluster.workers[id]`. Clones are the same worker.
#[derive(Clone)]
pub struct WorkerHandle {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) id: WorkerId,
    pub(super) slot: SlotId,
    pub(super) started: Instant,
    pub(super) child: Child,
    pub(super) channel: Sender,
    pub(super) connected: AtomicBool,
    /// It said so.
    pub(super) online: AtomicBool,
    pub(super) ear: Ear,
    pub(super) exit: watch::Sender<Option<Exit>>,
    pub(super) exited_after_disconnect: AtomicU8,
    pub(super) inspector: Option<SocketAddr>,
    pub(super) asked: AtomicU64,
    pub(super) metrics: watch::Sender<(u64, Metrics)>,
    pub(super) stdout: Mutex<Option<Arc<OwnedFd>>>,
    pub(super) stderr: Mutex<Option<Arc<OwnedFd>>>,
    /// The last lines of both, as far as somebody read them.
    pub(super) heard: [Arc<Heard>; 2],
    pub(super) wishes: mpsc::WeakUnboundedSender<Command>,
    pub(super) audience: Fan<Event>,
}

impl Inner {
    /// A next primary lets it go on.
    pub(super) fn marks_held(&self, held: bool) {
        #[cfg(target_os = "linux")]
        self.channel.mark_held(held);
        #[cfg(not(target_os = "linux"))]
        let _ = held;
    }

    /// It was told to leave or said so; or it is gone without, if that is not known yet.
    pub(super) fn has_left(&self, asked: bool) {
        let (known, new) = (&self.exited_after_disconnect, if asked { 2 } else { 1 });
        let _ = known.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl WorkerHandle {
    /// Its number: from 1, never used twice.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.inner.id
    }

    /// Its slot: from 0; a replacement has the same.
    #[must_use]
    pub fn slot(&self) -> SlotId {
        self.inner.slot
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.child.pid()
    }

    /// Where its inspector listens ([`Settings::inspect`](crate::Settings::inspect)).
    #[must_use]
    pub fn inspector(&self) -> Option<SocketAddr> {
        self.inner.inspector
    }

    /// Asks a Node worker for its metrics. It answers from its event loop, so it may take as long as that
    /// is busy; a worker without the preload ([`Program::preload`](crate::Program::preload)) never answers.
    ///
    /// ```no_run
    /// # async fn f(worker: phalanx::WorkerHandle) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// let metrics = tokio::time::timeout(Duration::from_secs(1), worker.metrics()).await??;
    /// println!("{} requests, 99 % within {:?}", metrics.requests, metrics.quantile(0.99));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Its channel is closed, or it ended before it answered.
    pub async fn metrics(&self) -> Result<Metrics> {
        if !self.is_connected() {
            return Err(Error::Disconnected);
        }
        let id = self.inner.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut reports = self.inner.metrics.subscribe();
        self.inner.channel.push(&Frame::Note(Note::Ask { id }));
        tokio::select! {
            report = reports.wait_for(|(answers, _)| *answers >= id) => {
                report.map(|report| report.1.clone()).map_err(|_| Error::Disconnected)
            }
            _ = self.exited() => Err(Error::Disconnected),
        }
    }

    /// Whether its channel is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.connected.load(Ordering::Relaxed)
    }

    /// Whether it said that it is online: it knows the channel. A program in any language that does not know it
    /// never says so, may be ready all the same, and reads no message.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.inner.online.load(Ordering::Relaxed)
    }

    /// Whether its process ended.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.inner.exit.borrow().is_some()
    }

    /// Waits for the end of its process, and says how it ended.
    ///
    /// ```no_run
    /// # async fn f(worker: phalanx::WorkerHandle) -> phalanx::Result<()> {
    /// use std::time::Duration;
    /// worker.disconnect();
    /// if tokio::time::timeout(Duration::from_secs(5), worker.exited()).await.is_err() {
    ///     worker.kill(phalanx::Signal::KILL)?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn exited(&self) -> Exit {
        let mut exit = self.inner.exit.subscribe();
        let told = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        told.unwrap_or(Exit::Code(-1))
    }

    /// `Some(true)`: it was told to leave, or said that it leaves. `Some(false)`: its channel or itself ended otherwise.
    /// `None`: neither yet.
    #[must_use]
    pub fn exited_after_disconnect(&self) -> Option<bool> {
        match self.inner.exited_after_disconnect.load(Ordering::Relaxed) {
            0 => None,
            n => Some(n == 2),
        }
    }

    /// Sends a message. Returns when the kernel has it; waits while the worker does not read.
    ///
    /// # Errors
    /// The channel is closed, the message is too long, no JSON, or has a `cmd` that is the channel's.
    pub async fn send<T: Serialize + ?Sized>(&self, message: &T) -> Result<()> {
        message::send(&self.inner.channel, message).await
    }

    /// Queues a message, and returns as soon as there is room for it: messages that follow one another are written
    /// together, as soon as this thread has nothing else to do. It waits while the worker does not read. For many
    /// small messages this is several times cheaper than [`WorkerHandle::send`], and as much in order.
    ///
    /// ```no_run
    /// # async fn f(worker: phalanx::WorkerHandle) -> phalanx::Result<()> {
    /// for number in 0..1000 {
    ///     worker.feed(&number).await?;
    /// }
    /// worker.flush().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`WorkerHandle::send`].
    pub async fn feed<T: Serialize + ?Sized>(&self, message: &T) -> Result<()> {
        message::feed(&self.inner.channel, message).await
    }

    /// Returns when the kernel has all that was [fed](WorkerHandle::feed).
    ///
    /// # Errors
    /// The channel is closed.
    pub async fn flush(&self) -> Result<()> {
        self.inner.channel.flush().await
    }

    /// Sends a message with a handle.
    ///
    /// # Errors
    /// As [`WorkerHandle::send`].
    pub async fn send_handle<T: Serialize + ?Sized>(
        &self,
        message: &T,
        handle: Handle,
    ) -> Result<()> {
        message::send_handle(&self.inner.channel, message, handle).await
    }

    /// Tells it to finish and leave. The guard replaces it at once, if it is guarded.
    pub fn disconnect(&self) {
        if let Some(wishes) = self.inner.wishes.upgrade() {
            let _ = wishes.send(Command::Wish(Wish::Disconnect { worker: self.id() }));
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended, or may not be signalled.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        self.inner.child.signal(signal).map_err(Error::os("cannot signal a worker"))
    }

    /// What happens to this worker from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        let id = self.id();
        let mine = move |event: &Event| event.worker().is_some_and(|worker| worker.id() == id);
        Events { queue: self.inner.audience.join(mine) }
    }

    /// Its standard output, once, if it was started with [`Stdio::Piped`](crate::Stdio::Piped).
    #[must_use]
    pub fn take_stdout(&self) -> Option<WorkerOutput> {
        let pipe = lock(&self.inner.stdout).take()?;
        let [heard, _] = &self.inner.heard;
        WorkerOutput::new(pipe, self.inner.wishes.clone(), Arc::clone(heard)).ok()
    }

    /// Its standard error, as [`WorkerHandle::take_stdout`].
    #[must_use]
    pub fn take_stderr(&self) -> Option<WorkerOutput> {
        let pipe = lock(&self.inner.stderr).take()?;
        let [_, heard] = &self.inner.heard;
        WorkerOutput::new(pipe, self.inner.wishes.clone(), Arc::clone(heard)).ok()
    }
}

impl PartialEq for WorkerHandle {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { id, slot, .. } = &*self.inner;
        write!(f, "Worker {{ id: {id}, slot: {slot}, pid: {} }}", self.pid())
    }
}
