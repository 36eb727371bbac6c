//! The worker's side: `cluster.worker` of `node:cluster`.

pub(crate) mod listen;
mod stream;

use crate::address::Address;
use crate::channel::{self, Incoming, Receiver, Sender};
use crate::error::{Error, Result};
use crate::fan::{Fan, FanReceiver};
use crate::message::{self, Handle, Message};
use crate::sys;
use listen::Handed;
use phalanx_core::wire::{
    Act, Answer, Cluster, DEFAULT_MAX_LINE, Frame, Handle as HandleFrame, Note, Query,
};
use rustix::fd::OwnedFd;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use listen::{ListenOptions, Listener, TcpListener, UnixListener};
pub use stream::Stream;

/// Bytes of messages that are kept for a program that does not read messages yet.
const EARLY_ROOM: usize = 1 << 20;
/// How often, at most, the primary is told how many connections were closed.
const LOAD_PAUSE: Duration = Duration::from_millis(50);
/// How often a worker whose messages wait for its program gives a sign of life.
const SIGN_PAUSE: Duration = Duration::from_secs(1);

/// Whether this process was started as a worker: `cluster.isWorker`.
///
/// Without a cluster this costs one look into the environment.
#[must_use]
pub fn is_worker() -> bool {
    CONNECTED.get().is_some() || identity().is_some_and(|me| sys::is_unix_stream(me.channel))
}

/// Whether this process was not started as a worker: `cluster.isPrimary`.
#[must_use]
pub fn is_primary() -> bool {
    !is_worker()
}

/// What the primary told this process about itself.
#[derive(Clone, Copy, Debug)]
struct Identity {
    id: u32,
    slot: u32,
    channel: i32,
    /// By which the kernel would end it with its primary, as if it knew nothing.
    life: Option<i32>,
}

static IDENTITY: OnceLock<Identity> = OnceLock::new();

/// The variables that make a process a worker. They are this process's alone. Node's names are for Node, and for
/// what may become Node; a program that may be anything finds the others.
const OURS: [&str; 6] = [
    "PHALANX_UNIQUE_ID",
    "PHALANX_CHANNEL_FD",
    "PHALANX_LIFE_FD",
    "NODE_UNIQUE_ID",
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
];

fn identity() -> Option<Identity> {
    if let Some(known) = IDENTITY.get() {
        return Some(*known);
    }
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let names =
        [("PHALANX_UNIQUE_ID", "PHALANX_CHANNEL_FD"), ("NODE_UNIQUE_ID", "NODE_CHANNEL_FD")];
    let (id, channel) = names.into_iter().find(|(id, _)| std::env::var_os(id).is_some())?;
    Some(Identity {
        id: number(id).unwrap_or(0),
        slot: number("NODE_APP_INSTANCE").unwrap_or(0),
        channel: i32::try_from(number(channel)?).ok()?,
        life: number("PHALANX_LIFE_FD").and_then(|number| i32::try_from(number).ok()),
    })
}

/// Takes the variables of a worker out of the environment, as Node does: a program that this one starts is no
/// worker, and its descriptor 3 no channel. To be called before there are threads; with threads nothing happens.
pub(crate) fn keep_identity_private() {
    if let Some(identity) = identity() {
        let _ = IDENTITY.set(identity);
        sys::remove_variables(&OURS);
    }
}

/// The primary's answer, and the descriptor that came with it.
type Answered = (Answer, Option<OwnedFd>);

static CONNECTED: OnceLock<Worker> = OnceLock::new();

/// This process, as a worker of its primary; or alone, with the same methods. Clones are the same.
#[derive(Clone)]
pub struct Worker {
    inner: Arc<Inner>,
}

struct Inner {
    id: u32,
    slot: u32,
    /// `None`: alone, without a primary.
    channel: Option<Sender>,
    seq: AtomicU64,
    answers: Mutex<HashMap<u64, oneshot::Sender<Answered>>>,
    servers: Mutex<HashMap<String, mpsc::UnboundedSender<Handed>>>,
    asked: Mutex<HashMap<String, i64>>,
    draining: watch::Sender<bool>,
    connected: watch::Sender<bool>,
    leaving: AtomicBool,
    /// It closes the channel itself: what was handed over and not accepted is not its own any more.
    closing: AtomicBool,
    /// The program asks whether it shall leave.
    knows: AtomicBool,
    messages: Fan<Message>,
    /// What came before anybody listened.
    early: Mutex<Option<Vec<Message>>>,
    open: AtomicU32,
    /// Connections that it accepted in all.
    accepted: AtomicU64,
    /// Connections come over the channel: the primary wants to know how many there are.
    tells_load: AtomicBool,
    load_changed: Notify,
    /// A connection was closed.
    closed: Notify,
    /// Which of its connections speak HTTP.
    #[cfg(feature = "http")]
    speaking: crate::http::Speaking,
}

impl Worker {
    /// Connects to the primary, the first time it is called; later calls return the same worker.
    /// To be called on the tokio runtime that serves.
    ///
    /// # Errors
    /// [`Error::NotAWorker`]: the process was not started by a primary.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time.
    pub fn connect() -> Result<Self> {
        static ONCE: Mutex<()> = Mutex::new(());
        let _one = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = CONNECTED.get() {
            return Ok(worker.clone());
        }
        let me = identity().ok_or(Error::NotAWorker)?;
        let socket = sys::take_inherited_channel(me.channel).map_err(|_| Error::NotAWorker)?;
        let (sender, receiver) = channel::open(socket, DEFAULT_MAX_LINE)
            .map_err(Error::os("cannot open the channel to the primary"))?;
        // It hears of its primary's end on the channel, and drains.
        if let Some(number) = me.life {
            drop(sys::take_inherited_channel(number));
        }
        let worker = Self::new(me.id, me.slot, Some(sender));
        worker.tell(Act::Online, None);
        tokio::spawn(listen_to(worker.clone(), receiver));
        tokio::spawn(tell_load(worker.clone()));
        Ok(CONNECTED.get_or_init(|| worker).clone())
    }

    /// As [`Worker::connect`], but a process that was not started by a primary works alone: it listens
    /// by itself, and is never told to leave.
    ///
    /// # Errors
    /// The channel to the primary is there but cannot be used.
    pub fn connect_or_alone() -> Result<Self> {
        match Self::connect() {
            Err(Error::NotAWorker) => Ok(Self::new(0, 0, None)),
            other => other,
        }
    }

    fn new(id: u32, slot: u32, channel: Option<Sender>) -> Self {
        let connected = watch::Sender::new(channel.is_some());
        let inner = Inner {
            id,
            slot,
            channel,
            seq: AtomicU64::new(0),
            answers: Mutex::default(),
            servers: Mutex::default(),
            asked: Mutex::default(),
            draining: watch::Sender::new(false),
            connected,
            leaving: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            knows: AtomicBool::new(false),
            messages: Fan::default(),
            early: Mutex::new(Some(Vec::new())),
            open: AtomicU32::new(0),
            accepted: AtomicU64::new(0),
            tells_load: AtomicBool::new(false),
            load_changed: Notify::new(),
            closed: Notify::new(),
            #[cfg(feature = "http")]
            speaking: crate::http::Speaking::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Its number: from 1, never used twice by a primary. 0: alone.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.inner.id
    }

    /// Its slot: from 0; a replacement has the same.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.inner.slot
    }

    /// Whether the channel to the primary is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.inner.connected.borrow()
    }

    /// Whether it was told to leave (or the primary is gone): finish, take nothing new.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.inner.draining.borrow()
    }

    /// Waits until it is told to leave.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        self.knows();
        let worker = self.clone();
        async move { worker.told_to_leave().await }
    }

    pub(crate) async fn told_to_leave(&self) {
        let _ = self.inner.draining.subscribe().wait_for(|d| *d).await;
    }

    /// The program asks whether it shall leave, so it will end by itself.
    pub(crate) fn knows(&self) {
        self.inner.knows.store(true, Ordering::Relaxed);
    }

    pub(crate) fn knows_of_draining(&self) -> bool {
        self.inner.knows.load(Ordering::Relaxed)
    }

    #[cfg(feature = "http")]
    pub(crate) fn speaking(&self) -> &crate::http::Speaking {
        &self.inner.speaking
    }

    /// Tells the primary something that only it understands.
    #[cfg(feature = "http")]
    pub(crate) fn note(&self, note: Note) {
        if let Some(channel) = &self.inner.channel {
            channel.push(&Frame::Note(note));
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn draining_watch(&self) -> watch::Receiver<bool> {
        self.inner.draining.subscribe()
    }

    /// Waits until every connection of its listeners is closed.
    pub(crate) async fn connections_closed(&self) {
        loop {
            let closed = self.inner.closed.notified();
            let mut closed = std::pin::pin!(closed);
            // Before the count is looked at: nothing is missed in between.
            closed.as_mut().enable();
            if self.connections() == 0 {
                return;
            }
            closed.await;
        }
    }

    /// Waits until the channel to the primary is closed: the `disconnect` event. Alone: at once.
    pub async fn disconnected(&self) {
        let _ = self.inner.connected.subscribe().wait_for(|c| !*c).await;
    }

    /// Whether it leaves of its own will or was told to: `exitedAfterDisconnect`.
    #[must_use]
    pub fn exited_after_disconnect(&self) -> bool {
        self.inner.leaving.load(Ordering::Relaxed)
    }

    /// How many connections it holds that it accepted from its [`Listener`]s.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.inner.open.load(Ordering::Relaxed)
    }

    /// Listens on a TCP address: `127.0.0.1:8000`, `:8000`, … Port 0 is one port for all workers.
    ///
    /// ```no_run
    /// # async fn f(worker: phalanx::Worker) -> phalanx::Result<()> {
    /// let mut listener = worker.listen("127.0.0.1:8000").await?;
    /// while let Some((stream, client)) = listener.accept().await {
    ///     println!("a connection from {client}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The address cannot be understood or listened on.
    pub async fn listen(&self, address: impl IntoAddress) -> Result<TcpListener> {
        self.listen_with(address, &ListenOptions::default()).await
    }

    /// As [`Worker::listen`], with options.
    ///
    /// # Errors
    /// The address cannot be understood or listened on.
    pub async fn listen_with(
        &self,
        address: impl IntoAddress,
        options: &ListenOptions,
    ) -> Result<TcpListener> {
        let address = address.into_address()?;
        if matches!(address, Address::Unix(_)) {
            return Err(Error::Unsupported(format!("{address} is a unix socket: use listen_unix")));
        }
        listen::listen(self, &address, options).await
    }

    /// Listens on a unix-domain stream socket.
    ///
    /// # Errors
    /// The path cannot be listened on.
    pub async fn listen_unix(
        &self,
        path: impl AsRef<std::path::Path>,
        options: &ListenOptions,
    ) -> Result<UnixListener> {
        listen::listen(self, &Address::Unix(path.as_ref().to_owned()), options).await
    }

    /// Listens on a socket that the primary was started with, by its number there: `listen({fd})`.
    ///
    /// # Errors
    /// The primary has no such listening socket.
    pub async fn listen_fd(&self, number: u32, options: &ListenOptions) -> Result<TcpListener> {
        listen::listen_fd(self, number, options).await
    }

    /// Binds a UDP socket. In `direct` each client (its address and port) stays with one worker as long as
    /// the set of workers is unchanged.
    ///
    /// # Errors
    /// The address cannot be understood or bound.
    pub async fn bind_udp(
        &self,
        address: impl IntoAddress,
        options: &ListenOptions,
    ) -> Result<tokio::net::UdpSocket> {
        listen::bind_udp(self, &address.into_address()?, options).await
    }

    /// Sends the primary a message. Returns when the kernel has it; waits while the primary does not
    /// read.
    ///
    /// # Errors
    /// The channel is closed, the message is too long, no JSON, or has a `cmd` that is the channel's.
    pub async fn send<T: Serialize + ?Sized>(&self, message: &T) -> Result<()> {
        message::send(self.channel()?, message).await
    }

    /// Queues a message, and returns as soon as there is room for it: messages that follow one another are written
    /// together, as soon as this thread has nothing else to do. It waits while the primary does not read. For many
    /// small messages this is several times cheaper than [`Worker::send`], and as much in order. A process that
    /// ends by itself should wait for [`Worker::flush`] before.
    ///
    /// ```no_run
    /// # async fn f(primary: phalanx::Worker) -> phalanx::Result<()> {
    /// for number in 0..1000 {
    ///     primary.feed(&number).await?;
    /// }
    /// primary.flush().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Worker::send`].
    pub async fn feed<T: Serialize + ?Sized>(&self, message: &T) -> Result<()> {
        message::feed(self.channel()?, message).await
    }

    /// Returns when the kernel has all that was [fed](Worker::feed).
    ///
    /// # Errors
    /// The channel is closed.
    pub async fn flush(&self) -> Result<()> {
        self.channel()?.flush().await
    }

    /// Sends the primary a message with a handle.
    ///
    /// # Errors
    /// As [`Worker::send`].
    pub async fn send_handle<T: Serialize + ?Sized>(
        &self,
        message: &T,
        handle: Handle,
    ) -> Result<()> {
        message::send_handle(self.channel()?, message, handle).await
    }

    /// The primary's messages. The first receiver also gets what came before it.
    #[must_use]
    pub fn messages(&self) -> Messages {
        let mut early = lock(&self.inner.early);
        let first = early.take().unwrap_or_default();
        Messages { first: first.into(), queue: self.inner.messages.join(|_| true) }
    }

    /// Leaves of its own will: closes its listeners, tells the primary, and closes the channel. The
    /// process goes on until its connections are served and its program ends.
    pub async fn disconnect(&self) {
        self.inner.closing.store(true, Ordering::SeqCst);
        self.inner.leaving.store(true, Ordering::Relaxed);
        self.inner.draining.send_replace(true);
        let Some(channel) = self.inner.channel.as_ref().filter(|_| self.is_connected()) else {
            return;
        };
        let _ = self.ask(Act::ExitedAfterDisconnect).await;
        channel.finish().await;
    }

    /// Leaves at once: tells the primary that it means to, and exits with code 0.
    pub async fn kill(&self) -> ! {
        self.inner.leaving.store(true, Ordering::Relaxed);
        if self.is_connected() {
            let _ = self.ask(Act::ExitedAfterDisconnect).await;
        }
        std::process::exit(0)
    }

    fn channel(&self) -> Result<&Sender> {
        self.inner.channel.as_ref().ok_or(Error::NotAWorker)
    }

    fn next_seq(&self) -> u64 {
        self.inner.seq.fetch_add(1, Ordering::Relaxed)
    }

    fn tell(&self, act: Act, ack: Option<u64>) {
        let frame = Frame::Cluster(Cluster { seq: Some(self.next_seq()), ack, act });
        if let Some(channel) = &self.inner.channel {
            channel.push(&frame);
        }
    }

    /// Asks the primary and waits for its answer.
    async fn ask(&self, act: Act) -> Result<Answered> {
        let seq = self.next_seq();
        let (reply, answer) = oneshot::channel();
        lock(&self.inner.answers).insert(seq, reply);
        self.channel()?.push(&Frame::Cluster(Cluster { seq: Some(seq), ack: None, act }));
        if !self.is_connected() {
            lock(&self.inner.answers).remove(&seq);
        }
        answer.await.map_err(|_| Error::Disconnected)
    }

    /// How many times this worker asked for an address before.
    fn index_of(&self, query: &Query) -> i64 {
        let Query { address, port, address_type, fd, .. } = query;
        let name = format!("{address:?}:{port:?}:{address_type:?}:{fd:?}");
        let mut asked = lock(&self.inner.asked);
        let count = asked.entry(name).or_default();
        *count += 1;
        *count - 1
    }

    /// Passes a message on. A program that does not take its messages keeps the channel waiting, pings included; it is
    /// none that hangs.
    async fn received(&self, message: Message) {
        let size = message.text().len();
        if let Some(kept) = lock(&self.inner.early).as_mut() {
            let held: usize = kept.iter().map(|m| m.text().len() + 64).sum();
            if held + size <= EARLY_ROOM {
                kept.push(message);
            } else {
                tracing::warn!("a message was dropped: nobody reads messages in this worker");
            }
            return;
        }
        if let Err(later) = self.inner.messages.tell_now(message, size) {
            alive_while(self, later.tell()).await;
        }
    }

    fn frame(&self, frame: Frame, fd: Option<OwnedFd>) {
        if let (Frame::Note(Note::Count), Some(channel)) = (&frame, &self.inner.channel) {
            let accepted = self.inner.accepted.load(Ordering::Relaxed);
            let counts = Note::Counts { accepted, open: self.connections(), lag: 0.0 };
            return channel.push(&Frame::Note(counts));
        }
        let Frame::Cluster(Cluster { seq, ack, act }) = frame else { return };
        match (act, ack) {
            (Act::Disconnect, _) => {
                self.inner.leaving.store(true, Ordering::Relaxed);
                self.inner.draining.send_replace(true);
            }
            (Act::NewConn { key }, _) => {
                let servers = lock(&self.inner.servers);
                let handed = fd.zip(seq).map(|(fd, seq)| Handed::new(self.clone(), fd, seq));
                if let (Some(server), Some(handed)) = (servers.get(&key), handed) {
                    // A server that just closed drops it, which refuses it.
                    let _ = server.send(handed);
                }
            }
            (Act::Answer(answer), Some(ack)) => {
                if let Some(reply) = lock(&self.inner.answers).remove(&ack) {
                    let _ = reply.send((answer, fd));
                }
            }
            // The ack of a frame whose answer has no fields.
            (Act::Other, Some(ack)) => {
                if let Some(reply) = lock(&self.inner.answers).remove(&ack) {
                    let _ = reply.send((Answer::default(), None));
                }
            }
            _ => {}
        }
    }

    /// The primary is gone, or has closed the channel.
    fn lost(&self) {
        self.inner.connected.send_replace(false);
        self.inner.draining.send_replace(true);
        lock(&self.inner.answers).clear();
        self.inner.messages.close();
        if let Some(channel) = &self.inner.channel {
            channel.close();
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Worker {{ id: {}, slot: {} }}", self.id(), self.slot())
    }
}

/// Something that says where to listen.
pub trait IntoAddress {
    /// The address.
    ///
    /// # Errors
    /// It cannot be understood.
    fn into_address(self) -> Result<Address>;
}

impl IntoAddress for &str {
    fn into_address(self) -> Result<Address> {
        self.parse()
    }
}

impl IntoAddress for String {
    fn into_address(self) -> Result<Address> {
        self.parse()
    }
}

impl IntoAddress for Address {
    fn into_address(self) -> Result<Address> {
        Ok(self)
    }
}

impl IntoAddress for &Address {
    fn into_address(self) -> Result<Address> {
        Ok(self.clone())
    }
}

impl IntoAddress for std::net::SocketAddr {
    fn into_address(self) -> Result<Address> {
        Ok(self.into())
    }
}

/// The primary's messages, from the time it was made.
pub struct Messages {
    first: std::collections::VecDeque<Message>,
    queue: FanReceiver<Message>,
}

impl Messages {
    /// The next message; `None` when the channel is closed.
    pub async fn next(&mut self) -> Option<Message> {
        match self.first.pop_front() {
            Some(message) => Some(message),
            None => self.queue.next().await,
        }
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

/// Reads the channel to its end. On the application's own runtime: a runtime that is blocked does not
/// answer pings, which is how the primary learns of it.
async fn listen_to(worker: Worker, mut channel: Receiver) {
    loop {
        // Messages that never pause must not keep the application from its work.
        tokio::task::consume_budget().await;
        match channel.next().await {
            Ok(Some(Incoming { frame: Frame::User(text), .. })) => {
                worker.received(Message::new(text, None)).await;
            }
            Ok(Some(Incoming { frame: Frame::Handle(HandleFrame { message, .. }), fd })) => {
                handle(&worker, *message, fd).await;
            }
            Ok(Some(Incoming { frame, .. })) => worker.frame(frame, None),
            Ok(None) => break,
            Err(broken) => {
                tracing::error!("the channel to the primary is unusable: {broken}");
                break;
            }
        }
    }
    worker.lost();
}

/// Gives signs of life while something waits for the program.
async fn alive_while<T>(worker: &Worker, passing_on: impl Future<Output = T>) {
    let mut passing_on = std::pin::pin!(passing_on);
    loop {
        tokio::select! {
            biased;
            _ = &mut passing_on => return,
            () = tokio::time::sleep(SIGN_PAUSE) => {
                if let Some(channel) = &worker.inner.channel {
                    channel.push(&Frame::Note(Note::Alive));
                }
            }
        }
    }
}

/// A handle frame came: with a descriptor it is acknowledged, without one it was a ping.
async fn handle(worker: &Worker, message: Frame, fd: Option<OwnedFd>) {
    let Some(channel) = &worker.inner.channel else { return };
    let Some(fd) = fd else { return channel.push(&Frame::HandleNack) };
    if let Frame::User(text) = message {
        match Handle::from_fd(fd) {
            Some(handle) => {
                channel.push(&Frame::HandleAck);
                worker.received(Message::new(text, Some(handle))).await;
            }
            None => channel.push(&Frame::HandleNack),
        }
    } else {
        if matches!(&message, Frame::Cluster(Cluster { act: Act::NewConn { .. }, .. })) {
            // It goes with the answer of the program, which usually accepts at once.
            channel.push_with_next(&Frame::HandleAck);
        } else {
            channel.push(&Frame::HandleAck);
        }
        worker.frame(message, Some(fd));
    }
}

/// Tells the primary when connections that it handed over were closed, but not each of them.
async fn tell_load(worker: Worker) {
    loop {
        worker.inner.load_changed.notified().await;
        if worker.inner.tells_load.load(Ordering::Relaxed) {
            let open = Some(worker.connections());
            worker.tell(Act::Answer(Answer { open, ..Answer::default() }), Some(u64::MAX));
            tokio::time::sleep(LOAD_PAUSE).await;
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen_error(address: &Address, errno: i32) -> Error {
    let source = io::Error::from_raw_os_error(errno.saturating_abs());
    Error::Listen { address: address.to_string(), source }
}
