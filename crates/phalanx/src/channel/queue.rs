//! What waits to be written to a channel.

use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Lines that are fed are gathered in items of at most this size: about what the kernel takes as one buffer.
const GATHERED: usize = 32 << 10;

#[derive(Default)]
pub(super) struct Queue {
    pub(super) items: VecDeque<Item>,
    /// Handle frames that the peer has to answer, in their order.
    pub(super) unanswered: VecDeque<Tag>,
    /// A ping is with the kernel and not answered. No descriptor is sent until then: the peer could
    /// read both at once, and take the descriptor for the ping's.
    pub(super) pinging: bool,
    /// The kernel has the beginning of a frame.
    pub(super) half_written: bool,
    pub(super) closed: bool,
    /// Bytes of frames that did not wait for room.
    pub(super) unread: usize,
    /// Bytes that were fed since the last attempt to write.
    pub(super) fed: usize,
    /// Something was left to the writer's task, for the so-manieth time, which gives others their turn before.
    pub(super) left: Option<u64>,
    pub(super) turns: u64,
}

/// Which handle frame an ACK or NACK answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// A frame whose answer nobody waits for.
    Other,
    /// A ping, by its number.
    Ping(u64),
    /// The hand-over of a connection, by its sequence number.
    NewConn(u64),
}

pub(super) struct Item {
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
    pub(super) ping: bool,
    pub(super) fd: Option<Arc<OwnedFd>>,
    pub(super) done: Option<oneshot::Sender<()>>,
    /// Given back when the item is written.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Item {
    pub(super) const fn new(bytes: Vec<u8>, fd: Option<Arc<OwnedFd>>) -> Self {
        Self { bytes, sent: 0, ping: false, fd, done: None, room: None }
    }

    /// A line may be added to it: nobody waits for its end, or needs it as it is.
    pub(super) fn takes(&self, line: &[u8]) -> bool {
        let plain = self.fd.is_none() && !self.ping && self.done.is_none() && self.room.is_some();
        plain && self.bytes.len() + line.len() <= GATHERED
    }
}

/// Whether the kernel has what was queued.
pub(super) enum Written {
    All,
    /// Told when it has; dropped if the channel is closed before.
    Not(oneshot::Receiver<()>),
}

impl Queue {
    /// Whether the kernel has all that is queued by now, or when it has.
    pub(super) fn when_written(&mut self) -> Written {
        if self.items.is_empty() && !self.closed {
            return Written::All;
        }
        let (done, written) = oneshot::channel();
        match self.items.back_mut() {
            Some(last) if last.done.is_none() => last.done = Some(done),
            // Somebody waits for that one already.
            Some(_) => {
                self.items.push_back(Item { done: Some(done), ..Item::new(Vec::new(), None) });
            }
            None => {}
        }
        Written::Not(written)
    }

    /// No answer comes to those hand-overs.
    pub(super) fn forget(&mut self, hand_overs: &[u64]) {
        self.unanswered.retain(|tag| !matches!(tag, Tag::NewConn(seq) if hand_overs.contains(seq)));
    }

    /// So many more bytes are with the kernel.
    pub(super) fn advance(&mut self, mut n: usize) {
        while let Some(front) = self.items.front_mut() {
            self.pinging |= front.ping;
            let left = front.bytes.len() - front.sent;
            if n < left {
                front.sent += n;
                self.half_written = front.sent > 0;
                return;
            }
            n -= left;
            self.half_written = false;
            if let Some(item) = self.items.pop_front() {
                if item.room.is_none() {
                    self.unread = self.unread.saturating_sub(item.bytes.len());
                }
                if let Some(done) = item.done {
                    let _ = done.send(());
                }
            }
            if n == 0 {
                return;
            }
        }
    }
}
