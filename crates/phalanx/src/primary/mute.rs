//! Workers that may know nothing of their primary: any program.
//!
//! They are drained by steering around them, ended by SIGTERM, and known by what can be seen from outside: that
//! they bind, listen, hold connections, or speak systemd's protocol.

use super::connections;
#[cfg(target_os = "linux")]
use super::intercept::{Question, What};
use super::ports::{Place, Port, PortRules, Sockets, User, key_of};
use super::query::query_for;
use super::record::{Fact, Record};
use super::shell::Shell;
use crate::address::{Address, printable};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::policy::Policy;
use crate::settings::{Intercept, Knows};
use crate::sys;
use phalanx_core::cluster::Event as CoreEvent;
use phalanx_core::drain::{Drain, Seen, Step};
use phalanx_core::notify::{Word, words};
use phalanx_core::report::Report;
use phalanx_core::spec::ReadyWhen;
use phalanx_core::time::Time;
use phalanx_core::wire::{AddressType, Query};
use phalanx_core::worker::{Phase, WorkerId};
use rustix::fd::OwnedFd;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a program that found its sockets when it began is given to be ready, if it does not say when it is.
pub(super) const ALIVE: Duration = Duration::from_secs(1);
/// How long after its first listen(2) a program may take to listen on the other ports of its kind.
const ALL_PORTS: Duration = Duration::from_secs(1);
/// How often in a second the log has what a worker says of itself.
const MOST_SAID: u32 = 10;
/// When the whole cluster stops, idle connections are not waited for longer than that.
const IDLE_AT_STOP: Duration = Duration::from_secs(1);

impl Shell {
    /// A worker's process runs; what can be known of it is awaited.
    pub(super) fn begin_mute(&mut self, now: Time, worker: WorkerId) {
        // It could be told to leave at any time: by a signal.
        if self.options.spec.ready == ReadyWhen::Listening {
            self.core.observe(now, CoreEvent::Online { worker });
        }
        self.later(ALIVE, Fact::Alive(worker));
    }

    /// It has been there for a while.
    pub(super) fn alive(&mut self, now: Time, worker: WorkerId) {
        if !self.workers.get(&worker).is_some_and(|record| record.is_mute()) {
            return;
        }
        match self.options.spec.ready {
            ReadyWhen::Online => self.came_up(now, CoreEvent::Online { worker }, worker),
            ReadyWhen::Listening if self.found_sockets(worker) => self.serves_all(now, worker),
            ReadyWhen::Listening | ReadyWhen::Notified => {}
        }
    }

    /// Whether it found sockets when it began and has bound none for itself.
    fn found_sockets(&self, worker: WorkerId) -> bool {
        let mut used =
            self.ports.values().filter(|port| port.users.contains_key(&worker)).peekable();
        used.peek().is_some() && used.all(|port| port.pinned)
    }

    /// It does not listen, though it has had time to. Whether it is ready all the same.
    pub(super) fn never_listens(&mut self, now: Time, worker: WorkerId) -> bool {
        let Some(record) = self.workers.get(&worker).filter(|record| record.is_mute()) else {
            return false;
        };
        let any_port = self.ports.values().any(|port| !port.users.is_empty());
        if self.options.spec.ready != ReadyWhen::Listening || any_port {
            return false;
        }
        let slot = record.handle.slot();
        tracing::info!(
            "worker {worker} in slot {slot} runs and does not listen on a port that is shared: it counts as ready (a program that says when it is: `--ready notify`)"
        );
        self.came_up(now, CoreEvent::Listening { worker }, worker);
        true
    }

    /// It serves on everything that it has.
    fn serves_all(&mut self, now: Time, worker: WorkerId) {
        let keys: Vec<String> = self
            .ports
            .values()
            .filter(|port| port.users.contains_key(&worker))
            .map(|port| port.key.clone())
            .collect();
        for key in keys {
            self.serves(&key, worker);
        }
        self.came_up(now, CoreEvent::Listening { worker }, worker);
    }

    /// It serves on a port.
    fn serves(&mut self, key: &str, worker: WorkerId) {
        let Some(record) = self.workers.get(&worker).filter(|record| !record.leaving) else {
            return;
        };
        let handle = record.handle.clone();
        let Some(port) = self.ports.get_mut(key) else { return };
        let Some(user) = port.users.get_mut(&worker) else { return };
        if !std::mem::replace(&mut user.serves, true) {
            port.steer();
            self.audience.tell(&Event::Listening(handle, port.address.clone()));
        }
    }

    /// A process of a worker's wants to bind or to listen, and waits.
    #[cfg(target_os = "linux")]
    pub(super) fn asks(&mut self, now: Time, worker: WorkerId, question: Question) {
        let Some(record) = self.workers.get(&worker) else { return };
        // A program on the crate asks on its channel for what it wants to share.
        let asks_otherwise = record.knows != Knows::Channel && record.online;
        // What a process that is gone has left behind is nobody's worker.
        let gone = record.exit.is_some() || record.handle.inner.child.has_ended();
        if gone || asks_otherwise {
            return;
        }
        match question.what {
            What::Listen { backlog } => self.listens(now, worker, question, backlog),
            What::Bind { .. } if record.leaving => {}
            What::Bind { .. } => self.binds(now, worker, question),
        }
    }

    #[cfg(target_os = "linux")]
    fn binds(&mut self, now: Time, worker: WorkerId, question: Question) {
        use rustix::io::Errno;
        use sys::seccomp::Verdict;
        let What::Bind { address, udp, v6_only, may, again, .. } = question.what else { return };
        let mut query = query_for(&Address::Ip(address), None);
        query.flags = i64::from(v6_only.unwrap_or_else(|| self.has_v4(address.port())));
        if udp {
            let v6 = address.is_ipv6();
            query.address_type = if v6 { AddressType::Udp6 } else { AddressType::Udp4 };
        }
        let key = key_of(&query);
        if again {
            // A signal came before the answer did, and the call is made once more.
            if self.place_of(worker, question.inode).is_some() {
                question.answer(Verdict::Done);
            }
            return;
        }
        let declared = matches!(
            self.workers.get(&worker).map(|record| &record.intercept),
            Some(Intercept::Ports(_))
        );
        if !may && !declared && self.ports.get(&key).is_none_or(|port| !port.pinned) {
            return;
        }
        match self.lend(now, worker, &key, &query, &question) {
            Ok(Some((socket, new))) => match question.replace(&socket) {
                Ok(()) => {
                    question.answer(Verdict::Done);
                    if udp && !self.says_itself(worker) {
                        self.serves(&key, worker);
                        self.listens_on(now, worker);
                    }
                }
                // It was killed, or may have no descriptor of that number: it is as if nobody had looked.
                Err(error) => {
                    tracing::debug!("worker {worker} does not get its socket: {error}");
                    if new {
                        self.take_from(worker, &key);
                    }
                }
            },
            Ok(None) => {}
            Err(error) => {
                let errno = self.cannot_listen(worker, &error);
                question.answer(Verdict::Fail(Errno::from_raw_os_error(errno)));
            }
        }
    }

    /// The socket of a port for a worker that binds to it; `None` if the port is not shared in this way.
    #[cfg(target_os = "linux")]
    fn lend(
        &mut self,
        now: Time,
        worker: WorkerId,
        key: &str,
        query: &Query,
        question: &Question,
    ) -> Result<Option<(Arc<OwnedFd>, bool)>> {
        let What::Bind { address, udp, reuse_port, .. } = question.what else { return Ok(None) };
        let Some(record) = self.workers.get(&worker) else { return Ok(None) };
        let (slot, pid) = (record.handle.slot(), record.handle.pid());
        if let Err(error) = self.check_port_count(worker, key) {
            // As many as no server has: they are its own from now on.
            tracing::debug!("worker {worker} {error}");
            return Ok(None);
        }
        if !self.ports.contains_key(key) {
            // The port may be its cluster's at another address, but not its own.
            let same = |port: &&Port| port.address.port() == Some(address.port());
            let own = |port: &Port| {
                let place = port.users.get(&worker).map(|user| user.place);
                place.and_then(|place| port.socket_at(place)).is_some_and(|fd| still_has(pid, fd))
            };
            let mut others = self.ports.values().filter(same).peekable();
            let joins = others.peek().is_some() && (reuse_port || !others.any(own));
            let rules = PortRules { handed: false, joins, ..self.rules() };
            self.add_port(Port::open(key.to_owned(), query, &rules)?, worker);
        }
        let Some(port) = self.ports.get_mut(key) else { return Ok(None) };
        let place = match port.users.get(&worker) {
            Some(user) if !user.unasked => return Ok(None),
            Some(user) => user.place,
            None => port.free_place(slot),
        };
        let Some(socket) = port.socket_for(place)? else { return Ok(None) };
        if port.users.contains_key(&worker) && !reuse_port && still_has(pid, &socket) {
            return Err(Error::Listen {
                address: port.address.to_string(),
                source: std::io::Error::from_raw_os_error(libc::EADDRINUSE),
            });
        }
        if let Some(own) = &question.socket {
            sys::options::copy(own, &socket, udp, address.is_ipv6());
        }
        port.give_away(place, question.nonblocking);
        port.hear_shut(place, &self.facts);
        let known = port.users.contains_key(&worker);
        if !known {
            port.users.insert(worker, User::unasked(place, query.clone()));
        }
        port.steer();
        if !udp {
            self.watch_queues(now);
        }
        Ok(Some((socket, !known)))
    }

    /// Whether all of IPv4 has that port already: who has IPv6 beside it has it alone.
    #[cfg(target_os = "linux")]
    fn has_v4(&self, port: u16) -> bool {
        let any = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port));
        self.ports.values().any(|port| port.address == Address::Ip(any))
    }

    /// The program did not get its socket after all.
    #[cfg(target_os = "linux")]
    fn take_from(&mut self, worker: WorkerId, key: &str) {
        let Some(port) = self.ports.get_mut(key) else { return };
        port.users.remove(&worker);
        port.steer();
        if port.users.is_empty() && !port.pinned {
            self.ports.remove(key);
        }
    }

    /// Which of a worker's places that socket is.
    #[cfg(target_os = "linux")]
    fn place_of(&self, worker: WorkerId, inode: u64) -> Option<(String, Place)> {
        self.ports.values().find_map(|port| {
            let user = port.users.get(&worker).filter(|user| user.unasked)?;
            let is_it = connections::inode_of(port.socket_at(user.place)?).ok()? == inode;
            is_it.then(|| (port.key.clone(), user.place))
        })
    }

    /// It listens: if on one of the cluster's sockets, that listens already and stays as deep as it is.
    #[cfg(target_os = "linux")]
    fn listens(&mut self, now: Time, worker: WorkerId, question: Question, backlog: i32) {
        let Some((key, place)) = self.place_of(worker, question.inode) else { return };
        if let Some(port) = self.ports.get_mut(&key) {
            port.deepen(place, backlog);
        }
        question.answer(sys::seccomp::Verdict::Done);
        if !self.says_itself(worker) {
            self.serves(&key, worker);
            self.listens_on(now, worker);
        }
    }

    /// It listens on one port more; it is ready when it does on all that its predecessor has.
    fn listens_on(&mut self, now: Time, worker: WorkerId) {
        let Some(slot) = self.workers.get(&worker).map(|record| record.handle.slot()) else {
            return;
        };
        let missing = |port: &Port| {
            let mut others = port.users.iter().filter(|(id, _)| **id != worker);
            let predecessor = others.any(|(_, user)| user.unasked && user.place.slot == slot);
            predecessor && !port.users.get(&worker).is_some_and(|user| user.serves)
        };
        if self.ports.values().any(missing) {
            self.later(ALL_PORTS, Fact::Settled(worker));
        } else {
            self.settled(now, worker);
        }
    }

    /// Whether it is ready only when it says so.
    fn says_itself(&self, worker: WorkerId) -> bool {
        let knows = self.workers.get(&worker).map(|record| record.knows);
        let starting = self.core.worker(worker).is_some_and(|w| !w.is_ready());
        let asked = self.options.spec.ready == ReadyWhen::Notified;
        asked && starting && knows != Some(Knows::Channel)
    }

    /// It listens on what it will.
    pub(super) fn settled(&mut self, now: Time, worker: WorkerId) {
        if !self.says_itself(worker) {
            self.came_up(now, CoreEvent::Listening { worker }, worker);
        }
    }

    /// A worker that leaves has something that it cannot be told to let go.
    pub(super) fn drains_unknowing(&self, worker: WorkerId) -> bool {
        let mute = self.workers.get(&worker).is_some_and(Record::is_mute);
        let unasked = |port: &Port| port.users.get(&worker).is_some_and(|user| user.unasked);
        mute || self.ports.values().any(unasked)
    }

    /// Its channel is closed, and it goes on with what it has beside it.
    pub(super) fn goes_on_unknowing(&mut self, now: Time, worker: WorkerId) {
        let goes_on = self.workers.get(&worker).is_some_and(|record| record.exit.is_none());
        if goes_on && self.drains_unknowing(worker) {
            self.serves_no_more(worker);
            self.begin_drain(now, worker);
        }
    }

    /// It gets nothing new; it is looked at until it may be ended.
    pub(super) fn begin_drain(&mut self, now: Time, worker: WorkerId) {
        let grace = self.options.spec.grace;
        let Some(record) = self.workers.get_mut(&worker).filter(|r| r.drain.is_none()) else {
            return;
        };
        record.drain = Some(Drain::new(now, grace));
        self.look_again(worker, Duration::ZERO);
    }

    /// The cluster stops, and nobody is left to take what would come to ports that cannot be closed: their workers have
    /// them too.
    pub(super) fn deafen(&self) {
        #[cfg(target_os = "linux")]
        for port in self.ports.values().filter(|port| !port.is_udp()) {
            if !port.users.values().any(|user| user.unasked) {
                continue;
            }
            let sockets: Vec<_> = match &port.sockets {
                Sockets::Slots(slots) => slots.iter().map(|s| &s.fd).collect(),
                Sockets::One(fd, _) => vec![fd],
            };
            for socket in sockets {
                // Else what comes late is cut.
                let _ = sys::options::deafen(socket);
            }
        }
    }

    /// Looks, in a while, how busy a worker is that drains.
    fn look_again(&self, worker: WorkerId, wait: Duration) {
        let Some(record) = self.workers.get(&worker) else { return };
        let mine = self.ports.values().filter(|port| port.users.contains_key(&worker));
        let ports: BTreeSet<u16> = mine.filter_map(|port| port.address.port()).collect();
        let idle = self.options.drain_idle;
        let idle = if self.core.is_stopping() { idle.min(IDLE_AT_STOP) } else { idle };
        let (pid, facts) = (record.handle.pid(), self.facts.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let counting = tokio::task::spawn_blocking(move || busy(pid, &ports, idle));
            let busy = counting.await.ok().flatten();
            let _ = facts.send(Fact::Seen(worker, busy)).await;
        });
    }

    /// How busy it was.
    pub(super) fn seen(&mut self, now: Time, worker: WorkerId, busy: Option<u32>) {
        let waiting = self.waiting_for(worker);
        let Some(record) = self.workers.get_mut(&worker).filter(|r| r.exit.is_none()) else {
            return;
        };
        let Some(drain) = &mut record.drain else { return };
        match drain.look(now, Seen { waiting, busy }) {
            Step::Again(wait) => self.look_again(worker, wait),
            Step::End { cut } => {
                let handle = record.handle.clone();
                // It may have ended in the meantime.
                let _ = handle.inner.child.signal(Signal::TERM);
                if cut > 0 {
                    let slot = handle.slot();
                    self.report(Report::Cut { worker, slot, connections: cut });
                }
            }
        }
    }

    /// How many connections, or whether datagrams, are in the queues that only this worker takes from.
    fn waiting_for(&self, worker: WorkerId) -> u32 {
        let queue = |port: &Port| {
            let Sockets::Slots(slots) = &port.sockets else { return 0 };
            let place = port.users.get(&worker).map(|user| user.place);
            let Some(socket) = slots.iter().find(|s| Some(s.place) == place) else { return 0 };
            if port.is_udp() {
                // The size of the next datagram (udp(7)).
                return rustix::io::ioctl_fionread(&socket.fd).map_or(0, |size| size.min(1) as u32);
            }
            sys::accept_queue(&socket.fd).unwrap_or(0)
        };
        self.ports.values().map(queue).sum()
    }

    /// Whether it drains, and may still take what waits for it.
    pub(super) fn is_draining(&self, worker: WorkerId) -> bool {
        self.workers.get(&worker).is_some_and(|r| r.drain.is_some() && r.exit.is_none())
    }

    /// A worker said something by systemd's protocol.
    pub(super) fn notified(&mut self, now: Time, worker: WorkerId, datagram: &[u8]) {
        for word in words(datagram) {
            let Some(record) = self.workers.get_mut(&worker).filter(|r| r.exit.is_none()) else {
                return;
            };
            let slot = record.handle.slot();
            match word {
                Word::Ready => {
                    let starting = |w: &phalanx_core::worker::Worker| {
                        matches!(w.phase, Phase::Starting { .. })
                    };
                    if self.core.worker(worker).is_some_and(starting) {
                        self.serves_all(now, worker);
                    }
                }
                Word::Reloading if record.may_say(now) => {
                    tracing::info!("worker {worker} in slot {slot} reloads itself");
                }
                Word::Stopping => {
                    self.leaves(worker);
                    self.core.observe(now, CoreEvent::Leaving { worker });
                }
                Word::Status(status) if record.may_say(now) => {
                    tracing::info!("worker {worker} in slot {slot} says: {}", printable(status));
                }
                Word::Reloading | Word::Status(_) => {}
                Word::Alive => record.last_sign = record.last_sign.map(|_| now),
                Word::Broken => {
                    let why = "it says that it is broken (WATCHDOG=trigger)".to_owned();
                    self.core.observe(now, CoreEvent::Broken { worker, why });
                }
                Word::Refused(name) => {
                    if record.refused.insert(name.to_owned()) {
                        tracing::warn!(
                            "worker {worker} in slot {slot} sends {name}, which a primary does not do: it is ignored"
                        );
                    }
                }
            }
        }
    }

    /// A worker that has to give signs of life gave one, or begins to have to.
    pub(super) fn sign_of_life(&mut self, now: Time, worker: WorkerId) {
        if let Some(record) = self.workers.get_mut(&worker).filter(|r| r.watchdog.is_some()) {
            record.last_sign = Some(now);
        }
    }

    /// When the first of those that have to give signs of life has been silent for too long.
    pub(super) fn next_silence(&self) -> Option<Time> {
        self.workers.values().filter_map(Record::silent_at).min()
    }

    /// Those that were silent for too long are broken.
    pub(super) fn check_silence(&mut self, now: Time) {
        let silent = |record: &&mut Record| record.silent_at().is_some_and(|at| at <= now);
        let mut found = Vec::new();
        for record in self.workers.values_mut().filter(silent) {
            record.last_sign = None;
            found.push((record.handle.id(), record.watchdog.unwrap_or_default()));
        }
        for (worker, limit) in found {
            let why = format!("it gave no sign of life (WATCHDOG=1) for {limit:?}");
            self.core.observe(now, CoreEvent::Broken { worker, why });
        }
    }
}

impl User {
    pub(super) fn unasked(place: Place, query: Query) -> Self {
        Self { place, unasked: true, query, serves: false, slot_only: true }
    }
}

impl Record {
    /// Whether something that it says of itself is to be in the log: not more than so much in a second.
    fn may_say(&mut self, now: Time) -> bool {
        let (since, times) = &mut self.said;
        if now.since(*since) >= Duration::from_secs(1) {
            (*since, *times) = (now, 0);
        }
        *times += 1;
        *times <= MOST_SAID
    }

    /// When it will have been silent for too long.
    fn silent_at(&self) -> Option<Time> {
        let (last, limit) = (self.last_sign?, self.watchdog?);
        (self.exit.is_none() && !self.leaving).then(|| last.after(limit))
    }
}

impl Address {
    fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(SocketAddr::port(address)),
            Self::Unix(_) => None,
        }
    }
}

/// How many of a worker's connections on these ports are not idle; `None` if it may not be looked at.
fn busy(pid: u32, ports: &BTreeSet<u16>, idle: Duration) -> Option<u32> {
    if ports.is_empty() {
        return Some(0);
    }
    let found = connections::sockets(&connections::processes(pid))
        .and_then(|sockets| connections::established(&sockets, ports));
    match found {
        Ok(all) => {
            let busy = all.iter().filter(|c| c.is_busy(idle));
            u32::try_from(busy.count()).ok()
        }
        Err(error) => {
            tracing::debug!("the connections of process {pid} cannot be counted: {error}");
            None
        }
    }
}

/// Whether a worker's processes have that socket open.
#[cfg(target_os = "linux")]
fn still_has(pid: u32, socket: &OwnedFd) -> bool {
    let open = connections::sockets(&connections::processes(pid));
    match (open, connections::inode_of(socket)) {
        (Ok(open), Ok(inode)) => open.contains(&inode),
        // What cannot be known is not held against it.
        _ => false,
    }
}

/// The policy of ports whose workers cannot be handed a connection.
pub(super) const fn without_channel(policy: Policy, one_only: bool) -> Policy {
    match policy {
        Policy::Direct | Policy::RoundRobin if one_only => Policy::Shared,
        Policy::RoundRobin => Policy::Direct,
        other => other,
    }
}
