//! Listening in a worker: on its slot, on what the primary hands over, or on both.

use super::{Stream, Worker, listen_error, lock};
use crate::address::Address;
use crate::error::{Error, Result};
use crate::policy::Policy;
use crate::primary::query_for;
use crate::socket::{self, Sharing, Wish};
use crate::sys;
use phalanx_core::wire::{Act, AddressType, Answer, Query, taken_line};
use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};

/// Connections that are taken together, at most.
const TOGETHER: usize = 8;

/// How to listen.
///
/// ```
/// use phalanx::{ListenOptions, Policy};
/// let options = ListenOptions { policy: Some(Policy::RoundRobin), ..ListenOptions::default() };
/// ```
#[derive(Clone, Debug, Default)]
pub struct ListenOptions {
    /// The port's scheduling policy; `None`: the primary's. The first worker that asks decides.
    pub policy: Option<Policy>,
    /// The length of each accept queue; 0: 511. The kernel cuts it at `net.core.somaxconn`.
    pub backlog: u32,
    /// An IPv6 address takes IPv6 only.
    pub v6_only: bool,
    /// A socket of this worker's own, unknown to the primary and shared with nobody.
    pub exclusive: bool,
    /// The permission bits of a unix socket's file, such as `0o660`; `None`: by the umask.
    pub mode: Option<u32>,
}

/// Accepts connections: from the worker's slot, and those that the primary hands over.
///
/// When the worker is told to leave, it closes: what waits in the slot is left to the next worker there.
/// With the feature `axum` it is an axum `Listener`.
pub struct Listener<S> {
    worker: Worker,
    address: Address,
    own: Option<AsyncFd<Arc<OwnedFd>>>,
    handed: Option<mpsc::UnboundedReceiver<Handed>>,
    /// Connections whose acceptance the primary was told of together. Whoever has some takes all of them.
    taken: VecDeque<OwnedFd>,
    together: bool,
    draining: watch::Receiver<bool>,
    /// What the primary calls it; `None`: the primary does not know of it.
    key: Option<String>,
    query: Query,
    complaint: socket::Complaint,
    /// Connections that may still be taken from the slot after it was told to leave.
    leftover: i32,
    kind: PhantomData<fn() -> S>,
}

/// A [`Listener`] for TCP.
pub type TcpListener = Listener<TcpStream>;
/// A [`Listener`] for unix-domain stream sockets.
pub type UnixListener = Listener<UnixStream>;

/// A connection that the primary handed over. Unless it is accepted, it is refused, and the primary gives it
/// to another worker.
pub(crate) struct Handed {
    worker: Worker,
    fd: Option<OwnedFd>,
    seq: u64,
}

impl Handed {
    pub(super) fn new(worker: Worker, fd: OwnedFd, seq: u64) -> Self {
        Self { worker, fd: Some(fd), seq }
    }

    /// The connection; the primary is to be told with these words, before anything is done with it.
    fn accept(mut self, open: u32, words: &mut Vec<u8>) -> Option<OwnedFd> {
        // The primary gives what was not acknowledged to others when the channel closes.
        if self.worker.inner.closing.load(Ordering::SeqCst) {
            return None;
        }
        let fd = self.fd.take()?;
        words.extend(taken_line(self.worker.next_seq(), self.seq, true, open));
        Some(fd)
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let (Some(_), Some(channel)) = (self.fd.take(), &self.worker.inner.channel) {
            let (seq, open) = (self.worker.next_seq(), self.worker.connections());
            channel.push_words(taken_line(seq, self.seq, false, open));
        }
    }
}

/// The kinds of connections there are.
pub trait Socket: Sized + Send + Unpin + 'static {
    /// What a peer's address is.
    type Addr: Send + fmt::Debug + fmt::Display;

    /// A tokio stream of an accepted, non-blocking connection, and its peer.
    ///
    /// # Errors
    /// It cannot be registered with the runtime.
    fn from_fd(fd: OwnedFd) -> io::Result<(Self, Self::Addr)>;
}

impl Socket for TcpStream {
    type Addr = SocketAddr;
    fn from_fd(fd: OwnedFd) -> io::Result<(Self, SocketAddr)> {
        let stream = Self::from_std(fd.into())?;
        let peer = stream.peer_addr()?;
        Ok((stream, peer))
    }
}

impl Socket for UnixStream {
    type Addr = Address;
    fn from_fd(fd: OwnedFd) -> io::Result<(Self, Address)> {
        let stream = Self::from_std(fd.into())?;
        let peer = stream.peer_addr()?;
        let path = peer.as_pathname().unwrap_or_else(|| std::path::Path::new(""));
        Ok((stream, Address::Unix(path.to_owned())))
    }
}

pub(super) async fn listen<S: Socket>(
    worker: &Worker,
    address: &Address,
    options: &ListenOptions,
) -> Result<Listener<S>> {
    if options.exclusive || worker.inner.channel.is_none() {
        let fd = wish(address, options, false).open(Sharing::Alone)?;
        let real = socket::local_address(&fd).map_err(Error::os("getsockname"))?;
        let own =
            sys::watch(Arc::new(fd), Interest::READABLE).map_err(Error::os("cannot accept"))?;
        // The primary has no part in it, but the worker counts as ready.
        worker.tell(Act::Listening(query(&real, options)), None);
        return Ok(Listener {
            worker: worker.clone(),
            address: real,
            own: Some(own),
            handed: None,
            taken: VecDeque::new(),
            together: false,
            draining: worker.inner.draining.subscribe(),
            key: None,
            query: Query::default(),
            complaint: socket::Complaint::default(),
            leftover: socket::BACKLOG,
            kind: PhantomData,
        });
    }
    ask_to_listen(worker, query(address, options), address).await
}

pub(super) async fn listen_fd<S: Socket>(
    worker: &Worker,
    number: u32,
    options: &ListenOptions,
) -> Result<Listener<S>> {
    worker.channel()?;
    let unspecified = Address::Ip(SocketAddr::from(([0, 0, 0, 0], 0)));
    let query = Query {
        address: None,
        port: None,
        address_type: AddressType::Descriptor,
        fd: Some(number.into()),
        ..query(&unspecified, options)
    };
    ask_to_listen(worker, query, &Address::Unix(format!("descriptor {number}").into())).await
}

async fn ask_to_listen<S: Socket>(
    worker: &Worker,
    mut query: Query,
    address: &Address,
) -> Result<Listener<S>> {
    query.index = worker.index_of(&query);
    let (answer, fd) = worker.ask(Act::QueryServer(query.clone())).await?;
    let key = accepted(&answer, address)?;
    let (give, handed) = mpsc::unbounded_channel();
    lock(&worker.inner.servers).insert(key.clone(), give);
    let own = match fd {
        Some(fd) => {
            let watched = sys::watch(Arc::new(fd), Interest::READABLE);
            Some(watched.map_err(Error::os("cannot accept"))?)
        }
        None => {
            worker.inner.tells_load.store(true, Ordering::Relaxed);
            None
        }
    };
    let address = match (&own, answer.sockname) {
        (Some(own), _) => socket::local_address(own.get_ref()).map_err(Error::os("getsockname"))?,
        (None, Some(name)) => {
            let ip = name.address.parse().map_err(|_| Error::Address(name.address))?;
            Address::Ip(SocketAddr::new(ip, name.port))
        }
        (None, None) => address.clone(),
    };
    if let Address::Ip(real) = address {
        query.port = Some(real.port().into());
    }
    worker.tell(Act::Listening(query.clone()), None);
    Ok(Listener {
        worker: worker.clone(),
        address,
        own,
        handed: Some(handed),
        taken: VecDeque::new(),
        together: false,
        draining: worker.inner.draining.subscribe(),
        key: Some(key),
        query,
        complaint: socket::Complaint::default(),
        leftover: socket::BACKLOG,
        kind: PhantomData,
    })
}

pub(super) async fn bind_udp(
    worker: &Worker,
    address: &Address,
    options: &ListenOptions,
) -> Result<tokio::net::UdpSocket> {
    let Address::Ip(ip) = address else {
        return Err(Error::Unsupported(format!("{address} is no address for UDP")));
    };
    let fd = if options.exclusive || worker.inner.channel.is_none() {
        wish(address, options, true).open(Sharing::Alone)?
    } else {
        let mut query = query(address, options);
        query.address = Some(ip.ip().to_string());
        query.address_type = if ip.is_ipv6() { AddressType::Udp6 } else { AddressType::Udp4 };
        query.extras.slot_only = true;
        if ip.port() == 0 {
            query.index = worker.index_of(&query);
        }
        let (answer, fd) = worker.ask(Act::QueryServer(query.clone())).await?;
        accepted(&answer, address)?;
        let fd = fd.ok_or_else(|| listen_error(address, libc::EINVAL))?;
        if let Ok(Address::Ip(real)) = socket::local_address(&fd) {
            query.port = Some(real.port().into());
        }
        worker.tell(Act::Listening(query), None);
        fd
    };
    tokio::net::UdpSocket::from_std(fd.into()).map_err(Error::os("cannot use a UDP socket"))
}

fn query(address: &Address, options: &ListenOptions) -> Query {
    let mut query = query_for(address, options.policy);
    query.flags = i64::from(options.v6_only);
    query.backlog = Some(options.backlog.into());
    query.extras.mode = options.mode;
    if let (Address::Ip(ip), true) = (address, options.v6_only && query.address.is_none()) {
        query.address = Some(ip.ip().to_string());
        query.address_type = AddressType::Tcp6;
    }
    query
}

fn wish(address: &Address, options: &ListenOptions, udp: bool) -> Wish {
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    Wish {
        address: address.clone(),
        udp,
        v6_only: options.v6_only,
        backlog: if backlog == 0 { socket::BACKLOG } else { backlog },
        mode: options.mode,
    }
}

/// The key of a positive answer.
fn accepted(answer: &Answer, address: &Address) -> Result<String> {
    match (answer.errno.unwrap_or(0), &answer.key) {
        (0, Some(key)) => Ok(key.clone()),
        (0, None) => Err(listen_error(address, libc::EINVAL)),
        (errno, _) => Err(listen_error(address, errno)),
    }
}

impl<S: Socket> Listener<S> {
    /// The next connection; `None` when the worker was told to leave. Where no descriptor is free for it, it
    /// waits for one and says so once.
    pub async fn accept(&mut self) -> Option<(Stream<S>, S::Addr)> {
        self.worker.knows();
        self.next().await
    }

    async fn next(&mut self) -> Option<(Stream<S>, S::Addr)> {
        loop {
            let fd = self.next_fd().await?;
            match S::from_fd(fd) {
                Ok((stream, peer)) => {
                    return Some((Stream::new(stream, self.worker.clone()), peer));
                }
                // The client is gone already.
                Err(error) => tracing::debug!("a connection ended before it was served: {error}"),
            }
        }
    }

    /// From now on what was handed over is taken together, and the primary is told in one call: for whoever accepts to
    /// the end, whatever happens.
    #[cfg(feature = "http")]
    pub(crate) const fn accept_together(&mut self) {
        self.together = true;
    }

    /// Takes a connection that was handed over, and those behind it if all are wanted.
    fn take_handed(&mut self, first: Handed) {
        let (mut next, mut words) = (Some(first), Vec::new());
        let mut open = self.worker.connections();
        while let Some(handed) = next.take() {
            open = open.saturating_add(1);
            self.taken.extend(handed.accept(open, &mut words));
            if self.together && self.taken.len() < TOGETHER {
                next = self.handed.as_mut().and_then(|handed| handed.try_recv().ok());
            }
        }
        if let Some(channel) = self.worker.inner.channel.as_ref().filter(|_| !words.is_empty()) {
            channel.push_words(words);
        }
    }

    async fn next_fd(&mut self) -> Option<OwnedFd> {
        loop {
            if let Some(fd) = self.taken.pop_front() {
                return Some(fd);
            }
            if self.own.is_none() && self.handed.is_none() {
                return None;
            }
            tokio::select! {
                biased;
                () = told(&mut self.draining) => return self.last_fd(),
                handed = receive(&mut self.handed) => match handed {
                    Some(handed) => self.take_handed(handed),
                    None => self.handed = None,
                },
                taken = take(self.own.as_ref()) => match taken {
                    Ok(fd) => return Some(fd),
                    Err(error) => self.pause(&error).await,
                },
            }
        }
    }

    /// Told to leave: what was handed over before, and what waits in the slot already, is still served. Then it
    /// closes.
    fn last_fd(&mut self) -> Option<OwnedFd> {
        if let Some(handed) = self.handed.as_mut().and_then(|handed| handed.try_recv().ok()) {
            self.take_handed(handed);
            if let Some(fd) = self.taken.pop_front() {
                return Some(fd);
            }
        }
        if self.leftover > 0 {
            self.leftover -= 1;
            if let Some(Ok((fd, _))) = self.own.as_ref().map(|own| socket::accept(own.get_ref())) {
                return Some(fd);
            }
        }
        self.close();
        None
    }

    /// accept(2) failed for a reason that passes: never spin, never die, and do not flood the log.
    async fn pause(&mut self, error: &io::Error) {
        if self.complaint.is_due(error) {
            tracing::warn!(
                "cannot accept connections on {}: {error} (see `ulimit -n`)",
                self.address
            );
        }
        tokio::time::sleep(socket::EXHAUSTED_PAUSE).await;
    }

    /// Where it listens, with its real port.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The worker it accepts for.
    #[must_use]
    pub const fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Closes it; the worker goes on, and may listen again.
    pub fn close(&mut self) {
        self.own = None;
        // What was handed over and not accepted is refused by its drop.
        self.handed = None;
        if let Some(key) = self.key.take() {
            lock(&self.worker.inner.servers).remove(&key);
            self.worker.tell(Act::Close { key }, None);
        }
    }

    /// The worker's slot alone, as a descriptor: connections cannot be handed to it any more.
    fn into_slot(mut self) -> Result<Arc<OwnedFd>> {
        let Some(own) = self.own.take() else {
            return Err(Error::Unsupported(format!(
                "{} is dispatched round-robin: its connections come over the channel, there is no socket to accept from; use accept(), or the policy direct or shared",
                self.address
            )));
        };
        self.query.extras.slot_only = true;
        if let Some(key) = self.key.take() {
            lock(&self.worker.inner.servers).remove(&key);
            self.worker.tell(Act::Listening(self.query.clone()), None);
        }
        Ok(own.into_inner())
    }
}

impl TcpListener {
    /// Where it listens.
    ///
    /// # Errors
    /// It listens on a descriptor that is no TCP socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.address {
            Address::Ip(address) => Ok(address),
            Address::Unix(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// A plain tokio listener, for what takes nothing else. In `direct` and `shared` only. It does not know
    /// of draining: stop accepting from it when [`Worker::draining`] says so.
    ///
    /// # Errors
    /// The port is dispatched `round-robin`.
    pub fn into_tokio(self) -> Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.into_std()?)
            .map_err(Error::os("cannot use the listening socket"))
    }

    /// A plain, non-blocking std listener, as [`Listener::into_tokio`].
    ///
    /// # Errors
    /// The port is dispatched `round-robin`.
    pub fn into_std(self) -> Result<std::net::TcpListener> {
        let slot = self.into_slot()?;
        let fd = slot.try_clone().map_err(Error::os("cannot duplicate the listening socket"))?;
        Ok(fd.into())
    }
}

impl<S> Drop for Listener<S> {
    fn drop(&mut self) {
        // A listener that is dropped while its worker drains was closed before.
        if let Some(key) = self.key.take() {
            self.handed = None;
            lock(&self.worker.inner.servers).remove(&key);
            self.worker.tell(Act::Close { key }, None);
        }
    }
}

impl<S> fmt::Debug for Listener<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn told(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|d| *d).await;
}

async fn receive(handed: &mut Option<mpsc::UnboundedReceiver<Handed>>) -> Option<Handed> {
    match handed {
        Some(handed) => handed.recv().await,
        None => std::future::pending().await,
    }
}

async fn take(own: Option<&AsyncFd<Arc<OwnedFd>>>) -> io::Result<OwnedFd> {
    let Some(own) = own else { return std::future::pending().await };
    loop {
        let mut guard = own.readable().await?;
        match socket::accept(own.get_ref()) {
            Ok((fd, _)) => return Ok(fd),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(feature = "axum")]
macro_rules! axum_listener {
    ($stream:ty) => {
        impl axum::serve::Listener for Listener<$stream> {
            type Io = Stream<$stream>;
            type Addr = <$stream as Socket>::Addr;

            /// Once the worker is told to leave, there is never another connection.
            async fn accept(&mut self) -> (Self::Io, Self::Addr) {
                match self.next().await {
                    Some(taken) => taken,
                    None => std::future::pending().await,
                }
            }

            fn local_addr(&self) -> io::Result<Self::Addr> {
                axum_address(&self.address)
            }
        }
    };
}

#[cfg(feature = "axum")]
axum_listener!(TcpStream);
#[cfg(feature = "axum")]
axum_listener!(UnixStream);

/// An address as the kind of socket has it.
#[cfg(feature = "axum")]
trait FromAddress: Sized {
    fn from_address(address: &Address) -> Option<Self>;
}

#[cfg(feature = "axum")]
impl FromAddress for SocketAddr {
    fn from_address(address: &Address) -> Option<Self> {
        match address {
            Address::Ip(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }
}

#[cfg(feature = "axum")]
impl FromAddress for Address {
    fn from_address(address: &Address) -> Option<Self> {
        Some(address.clone())
    }
}

#[cfg(feature = "axum")]
fn axum_address<A: FromAddress>(address: &Address) -> io::Result<A> {
    A::from_address(address).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}
