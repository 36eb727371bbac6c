//! What a worker writes to its standard streams, where that goes to the primary.

use super::{Command, lock};
use crate::sys;
use phalanx_core::ends::LastLines;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::sync::{mpsc, watch};

/// What was read of a worker's stream: its last lines, and whether there will be more.
#[derive(Default)]
pub(crate) struct Heard {
    pub(super) lines: Mutex<LastLines>,
    pub(super) ended: watch::Sender<bool>,
}

/// A worker's standard output or error. When it is dropped, the worker finds that nobody reads it any more.
pub struct WorkerOutput {
    io: Option<AsyncFd<Arc<OwnedFd>>>,
    wishes: mpsc::WeakUnboundedSender<Command>,
    heard: Arc<Heard>,
}

impl WorkerOutput {
    pub(super) fn new(
        pipe: Arc<OwnedFd>,
        wishes: mpsc::WeakUnboundedSender<Command>,
        heard: Arc<Heard>,
    ) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self { io: Some(sys::watch(pipe, Interest::READABLE)?), wishes, heard })
    }
}

impl AsyncRead for WorkerOutput {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(io) = &self.io else { return Poll::Ready(Ok(())) };
        loop {
            let mut guard = ready!(io.poll_read_ready(cx))?;
            match rustix::io::read(io.get_ref(), buf.initialize_unfilled()) {
                Ok(got) => {
                    buf.advance(got);
                    let said = buf.filled();
                    lock(&self.heard.lines).push(said.get(said.len() - got..).unwrap_or_default());
                    if got == 0 {
                        self.heard.ended.send_replace(true);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl Drop for WorkerOutput {
    fn drop(&mut self) {
        drop(self.io.take());
        self.heard.ended.send_replace(true);
        // The keeper lets go of it too.
        if let Some(wishes) = self.wishes.upgrade() {
            let _ = wishes.send(Command::Settle);
        }
    }
}

impl std::fmt::Debug for WorkerOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerOutput").finish_non_exhaustive()
    }
}
