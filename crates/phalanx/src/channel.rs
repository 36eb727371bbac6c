//! A channel: lines with descriptors over a unix socket pair, the same on both sides.
//!
//! Sending never waits for the peer unless the sender wants to: frames of the cluster's own are pushed (there
//! are few, each bounded by what it answers), messages of the user's wait for room. A descriptor travels
//! alone in its `sendmsg`, with the first byte of its frame. What is fed is gathered, and written together when
//! the thread has nothing else to do.

mod broken;
mod queue;
mod recall;
mod write;

use crate::error::{Error, Result};
use crate::keeper::{Kind, Mark};
use crate::sys;
use crate::sys::portable::{RECEIVE, SEND};
use broken::Broken;
use phalanx_core::wire::{Decoder, Dialect, Frame, SocketNote};
pub(crate) use queue::Tag;
use queue::{Item, Queue, Written};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, recvmsg, sendmsg,
};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Bytes of the user's messages that may wait for one peer before a sender has to.
const ROOM: usize = 1 << 20;
/// Descriptors a peer may send ahead of their frames.
const MAX_WAITING_FDS: usize = 64;
/// Bytes of answers and the like that may wait for a peer that does not read.
const MAX_UNREAD: usize = 4 << 20;
/// Handle frames that a peer may leave unanswered.
const MAX_UNANSWERED: usize = 100_000;
/// Items written in one call.
const BATCH: usize = 64;
/// So many bytes that were fed are not left to wait for the writer's task.
const MUCH: usize = 64 << 10;
/// One read: how many bytes, and whether descriptors were lost.
fn receive(
    socket: &OwnedFd,
    buffer: &mut [u8],
    fds: &mut VecDeque<OwnedFd>,
) -> rustix::io::Result<(usize, bool)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, RECEIVE)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            fds.extend(came);
        }
    }
    Ok((got.bytes, got.flags.contains(ReturnFlags::CTRUNC)))
}

/// The two ends of this side. The writer's task lives until the channel is closed.
pub(crate) fn open(socket: OwnedFd, max_line: usize) -> io::Result<(Sender, Receiver)> {
    begin(socket, Decoder::new(max_line), max_line, None, Queue::default())
}

/// As [`open`], and what the next primary has to know of it is marked.
#[cfg(target_os = "linux")]
pub(crate) fn open_marked(
    socket: OwnedFd,
    max_line: usize,
    mark: Mark,
) -> io::Result<(Sender, Receiver)> {
    mark.clear();
    begin(socket, Decoder::new(max_line), max_line, Some(mark), Queue::default())
}

/// Goes on where another primary was. One in whose middle of a line that was is closed: nobody knows its rest.
#[cfg(target_os = "linux")]
pub(crate) fn resume(
    socket: OwnedFd,
    max_line: usize,
    mark: Mark,
    is_bun: bool,
) -> io::Result<(Sender, Receiver)> {
    let decoder = Decoder::resumed(max_line, mark.is_set(Kind::Reading));
    let mut queue = Queue::default();
    if mark.is_set(Kind::Pinging) {
        queue.pinging = true;
        queue.unanswered.push_back(Tag::Ping(0));
    }
    let half_written = mark.is_set(Kind::Writing);
    let (sender, receiver) = begin(socket, decoder, max_line, Some(mark), queue)?;
    sender.shared.is_bun.store(is_bun, Ordering::Relaxed);
    if half_written {
        sender.close();
    }
    Ok((sender, receiver))
}

fn begin(
    socket: OwnedFd,
    decoder: Decoder,
    max_line: usize,
    mark: Option<Mark>,
    queue: Queue,
) -> io::Result<(Sender, Receiver)> {
    // Not for writing: whenever the peer has read something, that would wake this process for nothing.
    let io = sys::watch(Arc::new(socket), Interest::READABLE)?;
    let io = Arc::new(io);
    let shared = Arc::new(Shared {
        io: Arc::clone(&io),
        queue: Mutex::new(queue),
        mark,
        mid_line: AtomicBool::new(false),
        behind: AtomicBool::new(false),
        held: AtomicBool::new(false),
        goes_on: Notify::new(),
        more: Notify::new(),
        room: Arc::new(Semaphore::new(ROOM)),
        max_line,
        is_bun: AtomicBool::new(false),
    });
    tokio::spawn(write::write_on(Arc::clone(&shared)));
    let fds = VecDeque::new();
    let receiver = Receiver { io, decoder, fds, shared: Arc::clone(&shared) };
    Ok((Sender { shared }, receiver))
}

/// The sending end. Clones share the channel.
#[derive(Clone)]
pub(crate) struct Sender {
    shared: Arc<Shared>,
}

struct Shared {
    io: Arc<AsyncFd<Arc<OwnedFd>>>,
    queue: Mutex<Queue>,
    mark: Option<Mark>,
    /// A line was read in part.
    mid_line: AtomicBool,
    /// What was read is not all dealt with.
    behind: AtomicBool,
    /// Nothing more is read for now; who waits for the end of that.
    held: AtomicBool,
    goes_on: Notify,
    more: Notify,
    room: Arc<Semaphore>,
    max_line: usize,
    is_bun: AtomicBool,
}

impl Sender {
    /// Sends a frame of the cluster's own, soon. Nothing happens when the channel is closed.
    pub(crate) fn push(&self, frame: &Frame) {
        self.shared.enqueue(None, Item::new(self.encode(frame), None));
    }

    /// Sends a frame with what is sent next, or else when the runtime has nothing else to do.
    pub(crate) fn push_with_next(&self, frame: &Frame) {
        self.shared.queue_up(None, Item::new(self.encode(frame), None), Shared::leave);
    }

    /// Sends lines that nobody answers, soon.
    pub(crate) fn push_words(&self, lines: Vec<u8>) {
        self.shared.enqueue(None, Item::new(lines, None));
    }

    /// The line that says it to this peer.
    pub(crate) fn encode(&self, frame: &Frame) -> Vec<u8> {
        frame.encode_for(self.dialect())
    }

    /// This end of the channel.
    pub(crate) fn socket(&self) -> &OwnedFd {
        self.shared.io.get_ref()
    }

    /// Whether nothing is on its way in either direction, as far as this side knows.
    #[cfg(target_os = "linux")]
    pub(crate) fn is_quiet(&self) -> bool {
        let queue = self.shared.lock();
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let reading = is(&self.shared.mid_line) || is(&self.shared.behind);
        queue.closed || queue.items.is_empty() && !queue.pinging && !reading
    }

    /// Whether the answer to a ping is waited for.
    #[cfg(target_os = "linux")]
    pub(crate) fn is_pinging(&self) -> bool {
        let queue = self.shared.lock();
        queue.pinging && !queue.closed
    }

    /// Reads no more than the rest of a line, or goes on: what comes waits in the kernel.
    #[cfg(target_os = "linux")]
    pub(crate) fn hold(&self, hold: bool) {
        if self.shared.held.swap(hold, Ordering::Relaxed) && !hold {
            self.shared.goes_on.notify_one();
        }
    }

    /// The next primary has to know whether the peer's process is held still.
    #[cfg(target_os = "linux")]
    pub(crate) fn mark_held(&self, held: bool) {
        if let Some(mark) = &self.shared.mark {
            mark.set(Kind::Held, held);
        }
    }

    /// This side's end.
    #[cfg(target_os = "linux")]
    pub(crate) fn end(&self) -> &Arc<OwnedFd> {
        self.shared.io.get_ref()
    }

    /// How the peer writes.
    pub(crate) fn dialect(&self) -> Dialect {
        if self.shared.is_bun.load(Ordering::Relaxed) { Dialect::Bun } else { Dialect::Node }
    }

    /// Asks for a sign of life. Deno leaves the ping unanswered, but not the question behind it.
    pub(crate) fn ping(&self, number: u64) {
        let mut bytes = Frame::ping().encode();
        if self.dialect() == Dialect::Node {
            bytes.extend(Frame::Socket(SocketNote::GetCount(ping_key(number))).encode());
        }
        let item = Item { ping: true, ..Item::new(bytes, None) };
        self.shared.enqueue(Some(Tag::Ping(number)), item);
    }

    /// The answer to that question came: whether it was a ping's, and no other answer will.
    pub(crate) fn counted(&self, key: &str) -> bool {
        let mut queue = self.shared.lock();
        let answers = |tag: &&Tag| matches!(tag, Tag::Ping(number) if ping_key(*number) == key);
        let found = queue.unanswered.front().filter(answers).is_some();
        if found {
            queue.unanswered.pop_front();
            self.shared.answered_ping(&mut queue);
            self.shared.flush_or_wait(&mut queue);
        }
        found
    }

    /// Sends a handle frame of the cluster's own, with its descriptor, soon.
    pub(crate) fn push_handle(&self, frame: &Frame, tag: Tag, fd: Option<Arc<OwnedFd>>) {
        self.push_line(self.encode(frame), tag, fd);
    }

    /// As [`Sender::push_handle`], for a frame that is a line already.
    pub(crate) fn push_line(&self, line: Vec<u8>, tag: Tag, fd: Option<Arc<OwnedFd>>) {
        self.shared.enqueue(Some(tag), Item::new(line, fd));
    }

    /// The handle frame that an ACK or NACK just received answers.
    pub(crate) fn answered(&self) -> Option<Tag> {
        let mut queue = self.shared.lock();
        let tag = queue.unanswered.pop_front();
        if let Some(Tag::Ping(_)) = tag {
            self.shared.answered_ping(&mut queue);
            self.shared.flush_or_wait(&mut queue);
        }
        tag
    }

    /// Sends a line when there is room, and returns when the kernel has it.
    pub(crate) async fn send(&self, bytes: Vec<u8>, fd: Option<Arc<OwnedFd>>) -> Result<()> {
        let room = Some(self.room(bytes.len()).await?);
        let tag = fd.is_some().then_some(Tag::Other);
        self.shared.enqueue(tag, Item { room, ..Item::new(bytes, fd) });
        self.flush().await
    }

    /// Queues a line when there is room. It is written with what else there is.
    pub(crate) async fn feed(&self, bytes: Vec<u8>) -> Result<()> {
        let room = self.room(bytes.len()).await?;
        self.shared.gather(bytes, room)
    }

    /// Returns when the kernel has all that was queued.
    pub(crate) async fn flush(&self) -> Result<()> {
        match self.shared.flushed() {
            Written::All => Ok(()),
            Written::Not(written) => written.await.map_err(|_| Error::Disconnected),
        }
    }

    /// Waits until so many bytes more may wait for the peer.
    async fn room(&self, size: usize) -> Result<OwnedSemaphorePermit> {
        let limit = self.shared.max_line;
        if size > limit {
            return Err(Error::TooLarge { size, limit });
        }
        let want = u32::try_from(size.min(ROOM)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.shared.room);
        room.acquire_many_owned(want).await.map_err(|_| Error::Disconnected)
    }

    /// Sends what is queued, then closes: the peer reads an end.
    pub(crate) async fn finish(&self) {
        let _ = self.flush().await;
        self.close();
    }

    /// Closes both directions at once.
    pub(crate) fn close(&self) {
        self.shared.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn enqueue(&self, tag: Option<Tag>, item: Item) {
        // The common case: nothing waits and the kernel has room. One call, no task switch.
        self.queue_up(tag, item, Self::flush_or_wait);
    }

    fn queue_up(&self, tag: Option<Tag>, item: Item, then: fn(&Self, &mut Queue)) {
        let mut queue = self.lock();
        if queue.closed {
            return; // whoever waits sees `done` dropped
        }
        queue.unanswered.extend(tag);
        // Messages wait for room; answers cannot. A peer that asks and does not read is given up.
        if item.room.is_none() {
            queue.unread += item.bytes.len();
            if queue.unread > MAX_UNREAD || queue.unanswered.len() > MAX_UNANSWERED {
                tracing::warn!(
                    "a channel is closed: its other end asks but does not read the answers"
                );
                return self.shut(&mut queue);
            }
        }
        queue.items.push_back(item);
        then(self, &mut queue);
    }

    /// Leaves it to the writer's task.
    fn leave(&self, queue: &mut Queue) {
        if queue.left.is_none() {
            queue.turns += 1;
            queue.left = Some(queue.turns);
            self.more.notify_one();
        }
    }

    /// Writes what is queued, and tells whether the kernel has it, or when.
    fn flushed(&self) -> Written {
        let mut queue = self.lock();
        if queue.fed > 0 {
            self.flush_or_wait(&mut queue);
        }
        queue.when_written()
    }

    /// Adds a line to what is written next.
    fn gather(&self, line: Vec<u8>, room: OwnedSemaphorePermit) -> Result<()> {
        let mut queue = self.lock();
        if queue.closed {
            return Err(Error::Disconnected);
        }
        let first = queue.fed == 0;
        queue.fed += line.len();
        match queue.items.back_mut().filter(|last| last.takes(&line)) {
            Some(Item { bytes, room: Some(held), .. }) => {
                bytes.extend_from_slice(&line);
                held.merge(room);
            }
            _ => queue.items.push_back(Item { room: Some(room), ..Item::new(line, None) }),
        }
        if queue.fed >= MUCH {
            self.flush_or_wait(&mut queue);
        } else if first {
            self.more.notify_one();
        }
        Ok(())
    }

    fn flush_or_wait(&self, queue: &mut Queue) {
        match self.flush(queue) {
            Ok(true) => {}
            Ok(false) => self.more.notify_one(),
            Err(_) => self.shut(queue),
        }
    }

    /// Writes until the queue is empty (true) or the kernel is full (false).
    fn flush(&self, queue: &mut Queue) -> io::Result<bool> {
        (queue.fed, queue.left) = (0, None);
        while let Some(front) = queue.items.front() {
            let sent = if front.fd.is_some() && front.sent == 0 {
                if queue.pinging {
                    // The answer to the ping goes on with it.
                    return Ok(true);
                }
                send_one(self.io.get_ref(), front)
            } else {
                let alone = |item: &&Item| item.fd.is_none() || item.sent > 0;
                let mut slices = [IoSlice::new(&[]); BATCH];
                let items = queue.items.iter().take_while(alone);
                let mut used = 0;
                for (slice, item) in slices.iter_mut().zip(items) {
                    *slice = IoSlice::new(item.bytes.get(item.sent..).unwrap_or_default());
                    used += 1;
                }
                let slices = slices.get(..used).unwrap_or_default();
                sendmsg(self.io.get_ref(), slices, &mut SendAncillaryBuffer::default(), SEND)
            };
            match sent {
                Ok(n) => {
                    let before = (queue.pinging, queue.half_written);
                    queue.advance(n);
                    self.mark_changes(before, queue);
                }
                Err(Errno::AGAIN | Errno::TOOMANYREFS | Errno::NOBUFS) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn answered_ping(&self, queue: &mut Queue) {
        let before = (queue.pinging, queue.half_written);
        queue.pinging = false;
        self.mark_changes(before, queue);
    }

    /// What changes here, and the next primary has to know.
    fn mark_changes(&self, before: (bool, bool), queue: &Queue) {
        let Some(mark) = &self.mark else { return };
        if before.0 != queue.pinging {
            mark.set(Kind::Pinging, queue.pinging);
        }
        if before.1 != queue.half_written {
            mark.set(Kind::Writing, queue.half_written);
        }
    }

    fn close(&self) {
        self.shut(&mut self.lock());
    }

    fn shut(&self, queue: &mut Queue) {
        queue.closed = true;
        queue.items.clear();
        self.room.close();
        let _ = rustix::net::shutdown(self.io.get_ref(), rustix::net::Shutdown::Both);
        self.more.notify_one();
    }
}

/// What tells the answer to one ping from that to another.
fn ping_key(number: u64) -> String {
    format!("phalanx:{number}")
}

/// A frame with its descriptor, in a call of its own.
fn send_one(socket: &OwnedFd, item: &Item) -> rustix::io::Result<usize> {
    let Some(fd) = &item.fd else { return Ok(0) };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(&item.bytes)], &mut ancillary, SEND)
}

/// A frame and the descriptor that came with it.
pub(crate) struct Incoming {
    pub(crate) frame: Frame,
    pub(crate) fd: Option<OwnedFd>,
}

/// The receiving end.
pub(crate) struct Receiver {
    io: Arc<AsyncFd<Arc<OwnedFd>>>,
    decoder: Decoder,
    fds: VecDeque<OwnedFd>,
    shared: Arc<Shared>,
}

thread_local! {
    /// Every channel of a thread reads through the same buffer: a worker costs the primary no buffer.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 << 10].into_boxed_slice());
}

impl Receiver {
    /// The next frame; `None` at a clean end.
    pub(crate) async fn next(&mut self) -> Result<Option<Incoming>, Broken> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(Broken::Wire)? {
                if self.decoder.dialect() == Dialect::Bun {
                    self.shared.is_bun.store(true, Ordering::Relaxed);
                }
                let fd = matches!(frame, Frame::Handle(_)).then(|| self.fds.pop_front()).flatten();
                self.shared.behind.store(true, Ordering::Relaxed);
                return Ok(Some(Incoming { frame, fd }));
            }
            self.shared.behind.store(false, Ordering::Relaxed);
            if self.read().await? == 0 {
                return match self.decoder.unfinished() {
                    0 => Ok(None),
                    bytes => Err(Broken::Unfinished(bytes)),
                };
            }
        }
    }

    async fn read(&mut self) -> Result<usize, Broken> {
        loop {
            let io = Arc::clone(&self.io);
            let mut guard = io.readable().await.map_err(Broken::Io)?;
            let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
            if is(&self.shared.held) && !is(&self.shared.mid_line) {
                self.shared.goes_on.notified().await;
                continue;
            }
            let fds = self.fds.len();
            let (got, all) = match BUFFER.with_borrow_mut(|buffer| self.read_into(buffer)) {
                Ok(got) => got,
                Err(Errno::AGAIN) => {
                    guard.clear_ready();
                    continue;
                }
                Err(Errno::INTR) => continue,
                // The peer died with something unread; what it had sent was read before.
                Err(Errno::CONNRESET) => return Ok(0),
                Err(error) => return Err(Broken::Io(error.into())),
            };
            // Nothing is left, unless Linux stopped behind a descriptor: no other call to find that out. What
            // comes from now on is told anew; so is an end, if it was not told with this.
            if all && self.fds.len() == fds {
                guard.clear_ready();
            }
            if self.fds.len() > MAX_WAITING_FDS {
                return Err(Broken::TooManyDescriptors);
            }
            return Ok(got);
        }
    }

    /// How many bytes, and whether these were all there are, but for what is behind a descriptor.
    fn read_into(&mut self, buffer: &mut [u8]) -> rustix::io::Result<(usize, bool)> {
        let (bytes, lost) = receive(self.io.get_ref(), buffer, &mut self.fds)?;
        // They show as handle frames without one.
        if lost {
            tracing::warn!("a descriptor was lost on a channel: too many open files");
        }
        let got = buffer.get(..bytes).unwrap_or_default();
        self.decoder.feed(got);
        // With an end it is over anyway.
        let mid_line = got.last().is_some_and(|last| *last != b'\n');
        let before = self.shared.mid_line.swap(mid_line, Ordering::Relaxed);
        if let Some(mark) = self.shared.mark.as_ref().filter(|_| mid_line != before) {
            mark.set(Kind::Reading, mid_line);
        }
        // It also stopped behind a descriptor that was lost; and other systems stop before one.
        let all = cfg!(target_os = "linux") && !lost && 0 < bytes && bytes < buffer.len();
        Ok((bytes, all))
    }
}
