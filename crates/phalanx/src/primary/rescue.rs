//! Slots whose queues do not move: their waiting connections go to workers that keep up.
//!
//! Sampling is the primary's only work in `direct`: one system call per slot, forty times a second,
//! however many connections there are. When no queue had anything in it for a while, the kernel is asked
//! to say when one has, and nothing is done until then.

use super::connections;
use super::dispatch::Parked;
use super::ports::{Place, Port, SlotSocket, Sockets, User};
use super::record::{Fact, Record, Runtime, Taken};
use super::shell::Shell;
use crate::address::Address;
use crate::policy::Balance;
use crate::socket;
use crate::sys;
use phalanx_core::rescue::Verdict;
use phalanx_core::time::Time;
use phalanx_core::worker::WorkerId;
use rustix::fd::OwnedFd;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Connections of a port that wait in the primary for a worker with room; the rest wait in the kernel.
const TAKE: usize = 256;

/// So many times more patience where each client belongs to one worker.
const STICKY_PATIENCE: u32 = 20;

/// How long a worker must have been stuck before it is said.
const WORTH_A_WORD: Duration = Duration::from_secs(1);

/// How often it is said that the primary carries connections.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// How long connections wait for a worker that has been asked what it is: handing one over is better than carrying it.
const ASKED: Duration = Duration::from_secs(1);

/// How long every queue must have been empty before sampling pauses.
const QUIET: Duration = Duration::from_secs(1);

/// When the queues are looked at.
#[derive(Default)]
pub(super) enum Sampling {
    /// There are none.
    #[default]
    Off,
    /// At every tick, until this moment if nothing is seen.
    On(Time),
    /// When the kernel says that a queue has something in it.
    Armed(AsyncFd<Arc<OwnedFd>>),
}

impl Sampling {
    /// Returns when there is something to look at.
    pub(super) async fn due(&mut self, ticks: &mut tokio::time::Interval) {
        match self {
            Self::Off => std::future::pending().await,
            Self::On(_) => drop(ticks.tick().await),
            Self::Armed(queues) => drop(queues.readable().await),
        }
    }
}

impl Shell {
    /// How often queues are looked at: often enough that patience is kept to within a quarter.
    pub(super) fn sample_interval(&self) -> Duration {
        (self.options.patience / 4).clamp(Duration::from_millis(5), Duration::from_millis(250))
    }

    /// How long a queue may stand still. A client that belongs to one worker is not sent to another for a
    /// moment's pause: that would cost it its session.
    pub(super) fn patience(&self) -> Duration {
        let sticky = matches!(self.options.balance, Balance::Sticky);
        self.options.patience * if sticky { STICKY_PATIENCE } else { 1 }
    }

    /// Looks at the queues for a while, from now on.
    pub(super) fn watch_queues(&mut self, now: Time) {
        self.sampling = Sampling::On(now.after(QUIET));
    }

    /// Every queue was empty for a while: the kernel shall say when one is not.
    fn arm(&mut self) {
        let slots = self.ports.values().filter(|p| !p.is_udp()).flat_map(|p| match &p.sockets {
            Sockets::Slots(slots) => slots.as_slice(),
            Sockets::One(..) => &[],
        });
        let mut slots = slots.peekable();
        if slots.peek().is_none() {
            self.sampling = Sampling::Off;
        } else if let Ok(queues) = any_of(slots.map(|slot| &*slot.fd)) {
            // Else there is no descriptor or no memory for it: it goes on sampling.
            self.sampling = Sampling::Armed(queues);
        }
    }

    /// Looks at every slot of every TCP port.
    pub(super) fn sample(&mut self, now: Time) {
        let busy = self.sample_all(now);
        match self.sampling {
            _ if busy => self.watch_queues(now),
            Sampling::On(until) if until <= now => self.arm(),
            Sampling::On(_) => {}
            Sampling::Off | Sampling::Armed(_) => self.watch_queues(now),
        }
    }

    /// Looks at the sockets that somebody has just left.
    pub(super) fn sample_left(&mut self, now: Time, left: Vec<(String, Place)>) {
        let mut busy = false;
        for (key, place) in left {
            self.sample_key(now, &key, Some(place), &mut busy);
        }
        if busy {
            self.watch_queues(now);
        }
    }

    /// Whether anything waits or stands still.
    fn sample_all(&mut self, now: Time) -> bool {
        let mut busy = false;
        let keys: Vec<String> = self
            .ports
            .values()
            .filter(|p| !p.is_udp() && matches!(p.sockets, Sockets::Slots(_)))
            .map(|p| p.key.clone())
            .collect();
        for key in keys {
            self.sample_key(now, &key, None, &mut busy);
        }
        busy
    }

    /// Looks at one place of a port, or at all.
    fn sample_key(&mut self, now: Time, key: &str, only: Option<Place>, busy: &mut bool) {
        let Some(mut port) = self.ports.remove(key) else { return };
        let mut standing = self.sample_port(now, &mut port, only, busy);
        if self.knows_soon(now, &mut port) {
            standing.clear();
        }
        let taken: Vec<_> =
            standing.into_iter().flat_map(|place| self.take(&mut port, place)).collect();
        self.ports.insert(key.to_owned(), port);
        self.rehome(now, key, taken);
    }

    /// Whether nobody can be handed a connection of this port yet, but somebody is about to say that it can: a worker that
    /// has just begun to listen. What is carried until then would be carried for as long as it is open.
    fn knows_soon(&self, now: Time, port: &mut Port) -> bool {
        let asked = |(id, user): (&WorkerId, &User)| {
            let record =
                self.workers.get(id).filter(|_| user.serves && !user.slot_only && !user.unasked);
            record.is_some_and(|r| r.pinged && !r.is_mute() && r.runtime() == Runtime::Unknown)
        };
        let handed = port.users.iter().any(|(id, user)| self.can_be_handed(port, *id, user));
        if handed || !port.users.iter().any(asked) {
            port.asked_since = None;
            return false;
        }
        now.since(*port.asked_since.get_or_insert(now)) < ASKED
    }

    /// Takes what waits in a queue, or has a thread take it.
    fn take(&self, port: &mut Port, place: Place) -> Vec<Parked> {
        let room = TAKE.saturating_sub(port.parked.len());
        let Sockets::Slots(slots) = &mut port.sockets else { return Vec::new() };
        let Some(socket) = slots.iter_mut().find(|s| s.place == place) else { return Vec::new() };
        #[cfg(target_os = "linux")]
        if socket.may_block {
            if !std::mem::replace(&mut socket.being_emptied, true) {
                let (fd, key) = (Arc::clone(&socket.fd), port.key.clone());
                let facts = self.facts.clone();
                tokio::spawn(async move {
                    let taking = move || sys::lift::accept_waiting(&fd, room);
                    let taken = tokio::task::spawn_blocking(taking).await;
                    let taken = taken.unwrap_or_else(|error| Err(std::io::Error::other(error)));
                    let _ = facts.send(Fact::Taken(key, place, taken)).await;
                });
            }
            return Vec::new();
        }
        let mut taken = Vec::new();
        while taken.len() < room {
            match socket::accept(&socket.fd) {
                Ok((fd, from)) => taken.push(Parked::new(fd, from)),
                Err(error) => {
                    if error.kind() != std::io::ErrorKind::WouldBlock {
                        let slot = place.slot;
                        tracing::warn!("cannot take connections from slot {slot} for now: {error}");
                    }
                    break;
                }
            }
        }
        taken
    }

    /// What a thread took from a queue.
    pub(super) fn taken(&mut self, now: Time, key: &str, place: Place, taken: Taken) {
        if let Some(port) = self.ports.get_mut(key)
            && let Sockets::Slots(slots) = &mut port.sockets
        {
            for socket in slots.iter_mut().filter(|s| s.place == place) {
                socket.being_emptied = false;
            }
        }
        match taken {
            Ok(taken) => {
                let parked = |(fd, from): (_, Option<rustix::net::SocketAddrAny>)| {
                    Parked::new(fd, from.and_then(|from| SocketAddr::try_from(from).ok()))
                };
                self.rehome(now, key, taken.into_iter().map(parked).collect());
            }
            Err(error) => {
                let slot = place.slot;
                tracing::warn!("cannot take connections from slot {slot} for now: {error}");
            }
        }
    }

    /// Connections that a worker did not take go to the others.
    fn rehome(&mut self, now: Time, key: &str, taken: Vec<Parked>) {
        let Some(port) = self.ports.get(key).filter(|_| !taken.is_empty()) else { return };
        if port.users.iter().any(|(id, u)| self.can_be_handed(port, *id, u)) {
            for connection in taken {
                self.dispatch(now, key, connection);
            }
            return;
        }
        let address = port.address.clone();
        if self.said_carried.is_none_or(|said| now.since(said) >= SAY_EVERY) {
            self.said_carried = Some(now);
            tracing::warn!(
                "connections on {address} that nobody took are carried to other workers by the primary: there they come from its address instead of their client's"
            );
        }
        for connection in taken {
            carry(&address, connection);
        }
    }

    /// The places of the port from whose queues connections are to be taken.
    fn sample_port(
        &mut self,
        now: Time,
        port: &mut Port,
        only: Option<Place>,
        busy: &mut bool,
    ) -> Vec<Place> {
        let mut standing = Vec::new();
        let mut to_say = Vec::new();
        // Whether somebody is stuck, or was.
        let mut stuck = false;
        let seats = port.seats();
        let Port { sockets, users, .. } = port;
        let Sockets::Slots(slots) = sockets else { return standing };
        for socket in slots.iter_mut().filter(|s| only.is_none_or(|only| s.place == only)) {
            let Ok(waiting) = sys::accept_queue(&socket.fd) else { continue };
            stuck |= socket.watch.is_stuck();
            *busy |= waiting > 0 || socket.watch.is_stuck();
            let Some(worker) = &seats.at(socket.place).serves else {
                socket.forget();
                // One that drains without knowing of it takes what is in its queue.
                let mut users = users.iter().filter(|(_, u)| u.place == socket.place && u.unasked);
                let drains = users.any(|(id, _)| self.is_draining(*id));
                if waiting > 0 && !drains {
                    standing.push(socket.place);
                }
                continue;
            };
            // A successor is not to blame for what the last one did.
            if socket.watched.replace(*worker) != Some(*worker) {
                socket.forget();
            }
            match socket.watch.sample(now, waiting, self.patience()) {
                Verdict::Fine => {}
                Verdict::Ask => {
                    if let Some(record) = self.workers.get_mut(worker) {
                        if record.is_mute() {
                            socket.look_at(now, record);
                        } else {
                            record.ping();
                        }
                    }
                }
                Verdict::Stuck => {
                    stuck = true;
                    let record = self.workers.get(worker).filter(|record| record.is_mute());
                    let mute = record.is_some();
                    if record.is_some_and(|record| socket.moves(now, record)) {
                        continue;
                    }
                    if mute {
                        self.stands(now, *worker);
                    }
                    let since = *socket.stuck_since.get_or_insert(now);
                    // A moment's pause is not worth a word.
                    if !socket.said && now.since(since) >= WORTH_A_WORD {
                        socket.said = true;
                        to_say.push((*worker, socket.place.slot, waiting));
                    }
                    if waiting > 0 {
                        standing.push(socket.place);
                    }
                }
            }
        }
        if stuck {
            port.steer();
        }
        standing.retain(|place| port.has_healthy(*place));
        for (worker, slot, waiting) in to_say {
            let elsewhere =
                |(id, u): (&WorkerId, &User)| *id != worker && u.serves && !port.is_stuck_for(*id);
            let then = if port.users.iter().any(elsewhere) {
                "what waits goes to other workers until it does"
            } else {
                "and there is no other worker to take what waits"
            };
            let address = &port.address;
            tracing::warn!(
                "worker {worker} in slot {slot} accepts nothing on {address} ({waiting} wait now): {then}"
            );
        }
        standing
    }

    /// A worker answered a ping, in the way of its runtime.
    pub(super) fn pong(&mut self, now: Time, worker: WorkerId, runtime: Runtime) {
        let Some(record) = self.workers.get_mut(&worker) else { return };
        record.pinged = false;
        record.answers_as = runtime;
        record.life.answered(now);
        let slot = record.handle.slot();
        for port in self.ports.values_mut() {
            let Some(place) = port.users.get(&worker).map(|user| user.place) else { continue };
            let watched = |s: &&mut SlotSocket| s.watched == Some(worker);
            let Some(socket) = port.socket_mut(place).filter(watched) else { continue };
            let was_stuck = socket.watch.is_stuck();
            socket.watch.answered(now);
            if socket.watch.is_stuck() {
                continue;
            }
            socket.stuck_since = None;
            if std::mem::take(&mut socket.said) {
                tracing::info!("worker {worker} in slot {slot} accepts again on {}", port.address);
            }
            if was_stuck {
                port.steer();
            }
        }
        self.pump_all(now);
    }
}

/// Becomes readable when any of these queues is not empty. It is one descriptor, however many there are: the loop waits
/// for it beside everything else, each time anew.
#[cfg(target_os = "linux")]
fn any_of<'a>(queues: impl Iterator<Item = &'a OwnedFd>) -> std::io::Result<AsyncFd<Arc<OwnedFd>>> {
    use rustix::event::epoll::{CreateFlags, EventData, EventFlags, add, create};
    let epoll = create(CreateFlags::CLOEXEC)?;
    for queue in queues {
        add(&epoll, queue, EventData::new_u64(0), EventFlags::IN)?;
    }
    sys::watch(Arc::new(epoll), Interest::READABLE)
}

/// Only Linux has slots.
#[cfg(not(target_os = "linux"))]
fn any_of<'a>(_: impl Iterator<Item = &'a OwnedFd>) -> std::io::Result<AsyncFd<Arc<OwnedFd>>> {
    Err(std::io::ErrorKind::Unsupported.into())
}

impl SlotSocket {
    /// A worker without a channel answers nothing. That it runs is its sign of life, and that its processes
    /// open other sockets than they had shows that its queue moves, though it does not get shorter.
    fn look_at(&mut self, now: Time, record: &Record) {
        if !record.handle.inner.child.is_stopped() {
            self.watch.answered(now);
        }
        self.had_open = open_sockets(record);
    }

    /// Whether it is not stuck after all.
    fn moves(&mut self, now: Time, record: &Record) -> bool {
        if record.handle.inner.child.is_stopped() {
            return false;
        }
        let moved = match self.had_open.take() {
            // It was found stuck before: it is left alone for a while, unless it had been stopped.
            None => {
                self.watch.answered(now);
                !self.watch.is_stuck()
            }
            Some(had) => {
                let moved = open_sockets(record).is_some_and(|has| has != had);
                if moved {
                    self.watch.moved(now);
                }
                moved
            }
        };
        if moved && std::mem::take(&mut self.said) {
            let (worker, slot) = (record.handle.id(), record.handle.slot());
            tracing::info!("worker {worker} in slot {slot} goes on");
        }
        if moved {
            self.stuck_since = None;
        }
        moved
    }

    /// Another worker is to be looked at, or none.
    fn forget(&mut self) {
        self.watch.forget();
        self.stuck_since = None;
        self.said = false;
        self.had_open = None;
    }
}

/// The sockets that a worker's processes have open, if that may be known.
fn open_sockets(record: &Record) -> Option<BTreeSet<u64>> {
    connections::sockets(&connections::processes(record.handle.pid())).ok()
}

/// No worker can be handed a connection: the primary carries this one itself, to whichever slot the
/// kernel now chooses. The worker sees the primary's address instead of the client's.
fn carry(address: &Address, connection: Parked) {
    let Address::Ip(address) = *address else { return };
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let to = SocketAddr::new(ip, address.port());
    tokio::spawn(async move {
        let carried = async {
            let fd: OwnedFd = Arc::into_inner(connection.fd)
                .ok_or_else(|| std::io::Error::other("the connection is in use"))?;
            let mut client = tokio::net::TcpStream::from_std(fd.into())?;
            let mut worker = tokio::net::TcpStream::connect(to).await?;
            tokio::io::copy_bidirectional(&mut client, &mut worker).await
        };
        if let Err(error) = carried.await {
            tracing::debug!("a carried connection ended: {error}");
        }
    });
}
