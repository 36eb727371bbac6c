//! Ports: the addresses workers listen on, and the sockets and slots behind them.
//!
//! The primary opens every socket and keeps it. A worker borrows a duplicate; when it dies, what waits in the
//! socket's queue stays, and the next worker of the slot takes it over. A slot's first socket is never closed
//! before the port is. Where a socket leaves the kernel's reuseport group (a program shut it down, or it was a spare
//! one that nobody has), the order of the others changes as in the kernel.

use crate::address::Address;
use crate::error::{Error, Result};
use crate::policy::{Balance, Policy};
use crate::socket::{self, Sharing, Wish};
use crate::sys::{self, portable};
use phalanx_core::balance::Scheduler;
use phalanx_core::rescue::Watch;
use phalanx_core::steering::{self, Share};
use phalanx_core::time::Time;
use phalanx_core::wire::{AddressType, Query, SockName, Value};
use phalanx_core::worker::{SlotId, WorkerId};
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod asked;
mod left;
mod seats;

use super::connections;
use super::dispatch::Parked;
use super::mute::without_channel;
use super::shut::ShutWatch;
use asked::{address, wish};
#[cfg(target_os = "linux")]
pub(super) use left::PortLeft;
use seats::Seats;

/// The rules for new ports.
#[derive(Clone, Debug)]
pub(crate) struct PortRules {
    pub(crate) policy: Policy,
    pub(crate) balance: Balance,
    /// Its workers can be handed connections: they have a channel.
    pub(crate) handed: bool,
    /// It may be opened beside a port of the same number.
    pub(crate) joins: bool,
}

pub(crate) struct Port {
    pub(crate) key: String,
    wish: Wish,
    /// The real address, with its real port.
    pub(crate) address: Address,
    pub(crate) policy: Policy,
    pub(crate) balance: Balance,
    pub(crate) sockets: Sockets,
    pub(crate) users: BTreeMap<WorkerId, User>,
    pub(crate) scheduler: Box<dyn Scheduler>,
    /// Connections that wait for a worker with room.
    pub(crate) parked: VecDeque<Parked>,
    /// Since when the only workers that may take connections over the channel are being asked whether they do.
    pub(super) asked_since: Option<Time>,
    /// The first worker's `data`, for all.
    pub(crate) data: Value,
    /// What its one socket is called, where it has one.
    name: u64,
    /// What the kernel was last told.
    steered: Vec<Share>,
    /// Workers that are to get more or less than others.
    pub(super) weights: BTreeMap<WorkerId, u32>,
    /// Sockets that workers have shut down.
    shut_down: Vec<SlotSocket>,
    /// Opened before any worker asked (`--listen`): stays without users.
    pub(crate) pinned: bool,
    /// The worker that asked for it first.
    pub(crate) opened_by: Option<WorkerId>,
    /// Its socket was opened by somebody else.
    inherited: bool,
    /// It may be opened beside a port of the same number.
    joins: bool,
    /// It was said that it cannot be steered.
    said_unsteered: bool,
    /// The file of a unix socket that this port made, and takes away again.
    file: Option<(PathBuf, Option<Identity>)>,
}

pub(crate) enum Sockets {
    /// One per slot, in the order of the reuseport group.
    Slots(Vec<SlotSocket>),
    /// One for all. The task accepts from it in `round-robin`.
    One(Arc<OwnedFd>, Option<tokio::task::JoinHandle<()>>),
}

/// Where a listening socket is: in a slot; and which of it. A worker on a channel and its successor share the
/// first one, and the old one closes it. One that cannot be told to has its socket to itself, so its successor
/// gets another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) slot: SlotId,
    pub(crate) spare: u32,
}

impl Place {
    /// The slot's first socket.
    pub(crate) const fn first(slot: SlotId) -> Self {
        Self { slot, spare: 0 }
    }
}

pub(crate) struct SlotSocket {
    pub(crate) place: Place,
    /// What it is called where the next primary finds it.
    name: u64,
    pub(crate) fd: Arc<OwnedFd>,
    /// When, of all sockets of the port, it was last given to a worker.
    given: u64,
    /// It was given to a program that may have made it blocking.
    pub(crate) may_block: bool,
    /// How many connections may wait in it.
    backlog: i32,
    pub(crate) watch: Watch,
    /// The worker that the watch is about.
    pub(crate) watched: Option<WorkerId>,
    /// Since when it has been stuck, and whether that was said.
    pub(crate) stuck_since: Option<Time>,
    pub(crate) said: bool,
    /// What its worker's processes had open when it was first suspected.
    pub(crate) had_open: Option<BTreeSet<u64>>,
    /// A thread takes what waits.
    pub(crate) being_emptied: bool,
    /// Since when no worker has it, if one had.
    vacant: Option<Time>,
    /// The name by which it is heard when a program shuts it down.
    watched_as: Option<u64>,
}

/// A worker that asked for the port.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) place: Place,
    /// It did not ask on its channel: it bound for itself, or found the socket when it began.
    pub(crate) unasked: bool,
    /// What it asked for.
    pub(crate) query: Query,
    /// It said that it listens, and it was not told to leave.
    pub(crate) serves: bool,
    /// It takes connections from its slot only.
    pub(crate) slot_only: bool,
}

impl Port {
    /// Opens what a worker (or `--listen`) asks for. In `direct` without a slot yet.
    pub(crate) fn open(key: String, query: &Query, rules: &PortRules) -> Result<Self> {
        let udp = matches!(query.address_type, AddressType::Udp4 | AddressType::Udp6);
        let wished = query.extras.policy.as_deref().map(str::parse).transpose()?;
        let mut policy = wished.unwrap_or(rules.policy);
        let (wish, inherited) = match query.fd {
            Some(number) => {
                let fd = inherited(number)?;
                let address = socket::local_address(&fd).map_err(Error::os("getsockname"))?;
                (wish(query, address, udp), Some(fd))
            }
            None => (wish(query, address(query)?, udp), None),
        };
        let one_only = inherited.is_some() || matches!(wish.address, Address::Unix(_));
        let one_only = one_only || !cfg!(target_os = "linux");
        if !rules.handed {
            policy = without_channel(policy, one_only);
        } else if policy == Policy::Direct && one_only {
            policy = Policy::RoundRobin;
        }
        if policy == Policy::RoundRobin && udp {
            policy = Policy::Shared;
        }
        let mut port = Self {
            key,
            address: wish.address.clone(),
            wish,
            policy,
            balance: rules.balance.clone(),
            sockets: Sockets::Slots(Vec::new()),
            users: BTreeMap::new(),
            scheduler: rules.balance.scheduler(),
            parked: VecDeque::new(),
            asked_since: None,
            data: query.data.clone(),
            name: left::new_name(),
            steered: Vec::new(),
            weights: BTreeMap::new(),
            shut_down: Vec::new(),
            pinned: false,
            opened_by: None,
            inherited: inherited.is_some(),
            joins: rules.joins,
            said_unsteered: false,
            file: None,
        };
        if policy == Policy::Direct {
            // Now, so that an address in use is known now.
            port.socket_in(Place::first(SlotId(0)))?;
        } else {
            let fd = match inherited {
                Some(fd) => fd,
                None => {
                    let fd = port.wish.open(Sharing::Alone)?;
                    if let Address::Unix(path) = &port.wish.address {
                        port.file = Some((path.clone(), identity(path)));
                    }
                    fd
                }
            };
            port.learn_address(&fd)?;
            port.sockets = Sockets::One(Arc::new(fd), None);
        }
        Ok(port)
    }

    pub(crate) fn is_udp(&self) -> bool {
        self.wish.udp
    }

    /// Whether somebody else opened its socket, and has it after this primary.
    pub(crate) fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// The socket that a worker listens on; `None` where the primary accepts.
    pub(crate) fn socket_for(&mut self, place: Place) -> Result<Option<Arc<OwnedFd>>> {
        match (&self.sockets, self.policy) {
            (Sockets::Slots(_), _) => self.socket_in(place).map(Some),
            (Sockets::One(fd, _), Policy::Shared) => Ok(Some(Arc::clone(fd))),
            (Sockets::One(..), _) => Ok(None),
        }
    }

    /// The socket in a place.
    pub(crate) fn socket_at(&self, place: Place) -> Option<&Arc<OwnedFd>> {
        match &self.sockets {
            Sockets::Slots(slots) => slots.iter().find(|s| s.place == place).map(|s| &s.fd),
            Sockets::One(fd, _) => Some(fd),
        }
    }

    /// The socket that only this worker takes from.
    pub(crate) fn own_socket(&self, worker: WorkerId) -> Option<&Arc<OwnedFd>> {
        let place = self.users.get(&worker)?.place;
        self.socket_at(place).filter(|_| matches!(self.sockets, Sockets::Slots(_)))
    }

    /// Whether a worker serves here.
    pub(crate) fn is_served_by(&self, worker: WorkerId) -> bool {
        self.users.get(&worker).is_some_and(|user| user.serves)
    }

    /// A place in a slot that no worker has: the one that was left last, with what waits there, or a new one.
    pub(crate) fn free_place(&self, slot: SlotId) -> Place {
        let Sockets::Slots(slots) = &self.sockets else { return Place::first(slot) };
        let in_slot = || slots.iter().filter(|s| s.place.slot == slot);
        let listens = |s: &SlotSocket| self.wish.udp || portable::listens(&s.fd);
        let free = in_slot().filter(|s| self.users.values().all(|u| u.place != s.place));
        let free = free.filter(|s| listens(s));
        let last = free.max_by_key(|s| s.given).map(|s| s.place);
        let next = || {
            let used = self.users.values().map(|u| u.place).filter(|place| place.slot == slot);
            in_slot().map(|s| s.place).chain(used).map(|p| p.spare + 1).max().unwrap_or(0)
        };
        last.unwrap_or_else(|| Place { slot, spare: next() })
    }

    /// The socket is a program's now that does with it what it likes; it begins as sockets do. `watch` hears when
    /// it is shut down; without it, that is seen when the place is to be given again.
    pub(crate) fn give_away(
        &mut self,
        place: Place,
        nonblocking: bool,
        watch: Option<&mut ShutWatch>,
    ) {
        let fd = match &mut self.sockets {
            Sockets::Slots(slots) => {
                let Some(socket) = slots.iter_mut().find(|s| s.place == place) else { return };
                socket.may_block = true;
                if let (Some(watch), None, false) = (watch, socket.watched_as, self.wish.udp) {
                    socket.watched_as = watch.add(&socket.fd).ok();
                }
                &socket.fd
            }
            // All have it, and the primary accepts nothing there.
            Sockets::One(fd, _) => fd,
        };
        // It cannot fail on a descriptor that is open.
        let _ = rustix::io::ioctl_fionbio(fd, nonblocking);
    }

    /// A program shut a socket down: like the kernel with its group, puts the last one into its place.
    pub(crate) fn shut(&mut self, name: u64) {
        let Sockets::Slots(slots) = &mut self.sockets else { return };
        if let Some(at) = slots.iter().position(|s| s.watched_as == Some(name)) {
            let socket = slots.swap_remove(at);
            // Its worker may think better of it.
            self.shut_down.retain(|s| self.users.values().any(|u| u.place == s.place));
            self.shut_down.push(socket);
            self.steered.clear();
            self.steer();
        }
    }

    /// A worker listens on a socket that it has shut down: it is the last of the group now.
    pub(crate) fn listen_again(&mut self, worker: WorkerId, inode: u64, backlog: i32) {
        let Some(place) = self.users.get(&worker).map(|user| user.place) else { return };
        let is_it = |s: &SlotSocket| {
            s.place == place && connections::inode_of(&s.fd).is_ok_and(|its| its == inode)
        };
        let Some(at) = self.shut_down.iter().position(is_it) else { return };
        let mut socket = self.shut_down.swap_remove(at);
        socket.backlog = backlog.max(self.wish.backlog);
        if let Sockets::Slots(slots) = &mut self.sockets
            && rustix::net::listen(&socket.fd, socket.backlog).is_ok()
        {
            slots.push(socket);
            self.steered.clear();
            self.steer();
        }
    }

    /// A worker has left its place.
    pub(crate) fn vacate(&mut self, now: Time, place: Place) {
        let Sockets::Slots(slots) = &mut self.sockets else { return };
        for socket in slots.iter_mut().filter(|s| s.place == place) {
            socket.vacant = Some(now);
        }
    }

    /// Closes sockets that have been without a worker for so long, in slots that have one elsewhere.
    pub(crate) fn close_vacant(&mut self, now: Time, after: Duration) {
        let Sockets::Slots(slots) = &mut self.sockets else { return };
        let known = |s: &SlotSocket| !s.may_block || portable::listens(&s.fd);
        // Not while the kernel's order is about to be heard of.
        if self.wish.udp || !slots.iter().all(known) {
            return;
        }
        let used = |place: Place| self.users.values().any(|u| u.place == place);
        let served = |slot: SlotId| self.users.values().any(|u| u.place.slot == slot);
        let idle = |s: &SlotSocket| sys::accept_queue(&s.fd).is_ok_and(|waiting| waiting == 0);
        let over = |s: &SlotSocket| {
            let long = s.vacant.is_some_and(|since| now.since(since) >= after);
            long && s.may_block && !used(s.place) && served(s.place.slot) && idle(s)
        };
        let mut closed = false;
        while let Some(at) = slots.iter().position(over) {
            // Somebody whom the worker left behind may still have it.
            let _ = rustix::net::shutdown(&slots.swap_remove(at).fd, rustix::net::Shutdown::Both);
            closed = true;
        }
        if closed {
            self.steered.clear();
            self.steer();
        }
    }

    /// The socket is one again that nobody makes blocking.
    pub(crate) fn make_own(&mut self, place: Place) {
        let Sockets::Slots(slots) = &mut self.sockets else { return };
        let lent = slots.iter_mut().find(|s| s.place == place && s.may_block);
        if let Some(socket) = lent {
            socket.may_block = rustix::io::ioctl_fionbio(&socket.fd, true).is_err();
        }
    }

    /// A worker asks that so many connections may wait for it; there is always room for as many as by default.
    pub(crate) fn deepen(&mut self, place: Place, backlog: i32) {
        let Sockets::Slots(slots) = &mut self.sockets else { return };
        let shallow = slots.iter_mut().find(|s| s.place == place && s.backlog < backlog);
        if let Some(socket) = shallow
            && rustix::net::listen(&socket.fd, backlog).is_ok()
        {
            socket.backlog = backlog;
        }
    }

    /// The socket in a place, opened when it is first asked for.
    fn socket_in(&mut self, place: Place) -> Result<Arc<OwnedFd>> {
        let Sockets::Slots(slots) = &mut self.sockets else {
            return Err(Error::Unsupported("the port has no slots".into()));
        };
        let given = slots.iter().map(|s| s.given).max().unwrap_or(0) + 1;
        if let Some(known) = slots.iter_mut().find(|s| s.place == place) {
            (known.given, known.vacant) = (given, None);
            return Ok(Arc::clone(&known.fd));
        }
        let first = slots.is_empty() && !self.joins;
        let sharing = if first { Sharing::First } else { Sharing::Join };
        let fd = Arc::new(self.wish.open(sharing)?);
        if slots.is_empty() {
            self.learn_address(&fd)?;
        }
        if let Sockets::Slots(slots) = &mut self.sockets {
            slots.push(SlotSocket {
                place,
                name: left::new_name(),
                fd: Arc::clone(&fd),
                given,
                may_block: false,
                backlog: self.wish.backlog,
                had_open: None,
                being_emptied: false,
                vacant: None,
                watched_as: None,
                watch: Watch::default(),
                watched: None,
                stuck_since: None,
                said: false,
            });
        }
        Ok(fd)
    }

    /// Port 0 is a real port now, and any further slot is to have the same.
    fn learn_address(&mut self, fd: &OwnedFd) -> Result<()> {
        let real = socket::local_address(fd).map_err(Error::os("getsockname"))?;
        self.address = real.clone();
        if matches!(real, Address::Ip(_)) {
            self.wish.address = real;
        }
        Ok(())
    }

    /// What Node's `server.address()` says in a worker that is handed its connections.
    pub(crate) fn sockname(&self) -> Option<SockName> {
        let Address::Ip(address) = self.address else { return None };
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        Some(SockName {
            address: address.ip().to_string(),
            family: family.to_owned(),
            port: address.port(),
        })
    }

    /// Whether a worker's `listening` means this port: it repeats the worker's query, but its port may be
    /// the real one.
    pub(crate) fn is_meant(&self, worker: WorkerId, listening: &Query) -> bool {
        let Some(User { query, .. }) = self.users.get(&worker) else { return false };
        let real = match self.address {
            Address::Ip(address) => Some(i64::from(address.port())),
            Address::Unix(_) => None,
        };
        query.address_type == listening.address_type
            && query.address == listening.address
            && query.fd == listening.fd
            && query.index == listening.index
            && (listening.port == query.port || listening.port == real)
    }

    /// Who is where.
    pub(super) fn seats(&self) -> Seats {
        Seats::of(&self.users)
    }

    /// The socket in a place, to be changed.
    pub(super) fn socket_mut(&mut self, place: Place) -> Option<&mut SlotSocket> {
        let Sockets::Slots(slots) = &mut self.sockets else { return None };
        // Where no socket has left the group, that is where it is.
        let likely = usize::try_from(place.slot.0).unwrap_or(usize::MAX);
        if slots.get(likely).is_some_and(|s| s.place == place) {
            return slots.get_mut(likely);
        }
        slots.iter_mut().find(|s| s.place == place)
    }

    /// Whether a worker does not take what waits for it.
    pub(crate) fn is_stuck_for(&self, worker: WorkerId) -> bool {
        let (Sockets::Slots(slots), Some(user)) = (&self.sockets, self.users.get(&worker)) else {
            return false;
        };
        slots.iter().any(|s| s.place == user.place && (s.watch.is_stuck() || s.being_emptied))
    }

    /// Tells the kernel which slots may get connections, if that changed.
    #[cfg_attr(not(target_os = "linux"), expect(clippy::unused_self))]
    pub(crate) fn steer(&mut self) {
        #[cfg(target_os = "linux")]
        if let Sockets::Slots(slots) = &self.sockets {
            // While nobody serves, who may serve soon; a socket that nobody has is nobody's turn.
            let seats = self.seats();
            let is_up = |s: &SlotSocket| seats.is_up(s);
            let any_up = slots.iter().any(is_up);
            let has_user = |s: &SlotSocket| seats.at(s.place).taken;
            let shares: Vec<Share> = slots
                .iter()
                .map(|s| Share {
                    weight: self.balance.weight(s.place.slot).saturating_mul(self.factor(s.place)),
                    up: is_up(s) || !any_up && has_user(s),
                })
                .collect();
            let Some(first) = slots.first() else { return };
            // A group of one needs no choice.
            if shares == self.steered || shares.len() < 2 {
                return;
            }
            let mode = self.balance.mode(self.wish.udp);
            let attached = steering::program(mode, &shares)
                .map_err(io::Error::other)
                .and_then(|program| sys::attach_steering(&first.fd, &program));
            match attached {
                Ok(()) => self.steered = shares,
                // The kernel's own hash goes on choosing.
                Err(error) => {
                    if !std::mem::replace(&mut self.said_unsteered, true) {
                        tracing::warn!("cannot steer {}: {error}", self.address);
                    }
                }
            }
        }
    }

    /// Whether a worker that is not stuck could take connections of other slots.
    pub(crate) fn has_healthy(&self, but: Place) -> bool {
        let Sockets::Slots(slots) = &self.sockets else { return false };
        let seats = self.seats();
        slots.iter().any(|s| s.place != but && seats.is_up(s))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Sockets::One(fd, Some(task)) = &self.sockets {
            task.abort();
            // The task lets go of the socket a little later; the address is free now. One that somebody else
            // opened is somebody else's to close.
            if !self.inherited {
                let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Both);
            }
        }
        // Unless somebody else put theirs in its place.
        if let Some((path, _)) = self.file.take().filter(|(path, made)| identity(path) == *made) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What tells a file from another one of the same name.
type Identity = (u64, u64);

fn identity(path: &std::path::Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).ok().map(|about| (about.dev(), about.ino()))
}

/// A listening (or UDP) socket that this process was started with. Its own descriptors are all
/// close-on-exec, so a worker cannot ask for one of them.
fn inherited(number: i64) -> Result<OwnedFd> {
    use rustix::io::{FdFlags, fcntl_getfd, ioctl_fionbio};
    use rustix::net::{SocketType, sockopt};
    let failed =
        |source: io::Error| Error::Listen { address: format!("descriptor {number}"), source };
    let bad = || failed(io::Error::from_raw_os_error(libc::EBADF));
    let raw = i32::try_from(number).map_err(|_| bad())?;
    let source = sys::borrow(raw).map_err(failed)?;
    if fcntl_getfd(source).map_err(io::Error::from).map_err(failed)?.contains(FdFlags::CLOEXEC) {
        return Err(bad());
    }
    let listens = portable::listens(source)
        || sockopt::socket_type(source).is_ok_and(|kind| kind == SocketType::DGRAM);
    if !listens {
        return Err(failed(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    let fd = source.try_clone_to_owned().map_err(failed)?;
    ioctl_fionbio(&fd, true).map_err(io::Error::from).map_err(failed)?;
    Ok(fd)
}

/// The name of what a worker asks for, as Node builds it. Two workers that ask for the same get the
/// same port; the index tells the first port 0 of a worker from its second.
pub(crate) fn key_of(query: &Query) -> String {
    let word = |n: Option<i64>| n.map_or_else(|| "null".to_owned(), |n| n.to_string());
    let address = query.address.as_deref().unwrap_or("null");
    let kind = match query.address_type {
        AddressType::Tcp4 => "4",
        AddressType::Tcp6 => "6",
        AddressType::Unix => "-1",
        AddressType::Udp4 => "udp4",
        AddressType::Udp6 => "udp6",
        AddressType::Descriptor => "null",
    };
    let mut key = format!("{address}:{}:{kind}:{}", word(query.port), word(query.fd));
    if query.port.unwrap_or(0) == 0 {
        key.push_str(&format!(":{}", query.index));
    }
    key
}
