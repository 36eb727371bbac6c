//! Workers that may know nothing of their primary: any program.
//!
//! They are drained by steering around them, ended by SIGTERM, and known by what can be seen from outside: that
//! they bind, listen, hold connections, or speak systemd's protocol.

use super::connections;
use super::ports::{Place, Port, User};
use super::record::{Fact, Record};
use super::shell::Shell;
use crate::address::Address;
use crate::event::Event;
use crate::policy::Policy;
use crate::settings::Knows;
use crate::sys;
use phalanx_core::cluster::Event as CoreEvent;
use phalanx_core::drain::{Drain, Seen, Step, succeeds};
use phalanx_core::spec::ReadyWhen;
use phalanx_core::time::Time;
use phalanx_core::wire::Query;
use phalanx_core::worker::WorkerId;
use rustix::fd::OwnedFd;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a program that found its sockets when it began is given to be ready, if it does not say when it is.
pub(super) const ALIVE: Duration = Duration::from_secs(1);
/// How long after its first listen(2) a program may take to listen on the other ports of its kind.
const ALL_PORTS: Duration = Duration::from_secs(1);
/// How often it is looked whether a successor serves.
const PROOF: Duration = Duration::from_millis(25);
/// How often a queue is looked at then, and how often that is.
const LOOKS: u32 = 200;
const BETWEEN: Duration = Duration::from_micros(100);
/// When the whole cluster stops, idle connections are not waited for longer than that.
const IDLE_AT_STOP: Duration = Duration::from_secs(1);

impl Shell {
    /// A worker's process runs; what can be known of it is awaited.
    pub(super) fn begin_mute(&mut self, now: Time, worker: WorkerId) {
        // It could be told to leave at any time: by a signal.
        if self.options.spec.ready != ReadyWhen::Online {
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
            ReadyWhen::Online => {
                self.serves_all(worker, |port| port.pinned);
                self.came_up(now, CoreEvent::Online { worker }, worker);
            }
            ReadyWhen::Listening => {
                // On what it found it may serve without another listen(2).
                let ready = self.found_sockets(worker);
                self.serves_all(worker, |port| port.pinned);
                if ready {
                    self.settled(now, worker);
                }
            }
            ReadyWhen::Notified => {}
        }
    }

    /// What a worker has.
    fn ports_of(&self, worker: WorkerId) -> impl Iterator<Item = &Port> {
        self.ports.values().filter(move |port| port.users.contains_key(&worker))
    }

    /// The numbers of its ports.
    fn numbers_of(&self, worker: WorkerId) -> BTreeSet<u16> {
        self.ports_of(worker).filter_map(|port| port.address.port()).collect()
    }

    /// Whether it found sockets when it began and has bound none for itself.
    fn found_sockets(&self, worker: WorkerId) -> bool {
        let mut used = self.ports_of(worker).peekable();
        used.peek().is_some() && used.all(|port| port.pinned)
    }

    /// It does not listen, though it has had time to. Whether it is ready all the same: nobody of its kind does. A program
    /// of this very crate's own knows why it does not yet.
    pub(super) fn never_listens(&mut self, now: Time, worker: WorkerId) -> bool {
        let Some(record) = self.workers.get(&worker) else { return false };
        let any_port = match record.is_mute() {
            true => self.ports.values().any(|port| !port.users.is_empty()),
            false => !self.ports.is_empty(),
        };
        let is_another = record.program.as_ref().is_some_and(|program| program.is_another());
        let runs = record.is_mute() || record.is_online() && is_another;
        if self.options.spec.ready != ReadyWhen::Listening || any_port || !runs {
            return false;
        }
        let slot = record.handle.slot();
        tracing::info!(
            "worker {worker} in slot {slot} runs and does not listen on a port that is shared: it counts as ready (a program that says when it is: `--ready notify`)"
        );
        self.came_up(now, CoreEvent::Listening { worker }, worker);
        true
    }

    /// It serves on all of these that it has.
    pub(super) fn serves_all(&mut self, worker: WorkerId, which: impl Fn(&Port) -> bool) {
        let mine = self.ports_of(worker).filter(|port| which(port));
        let keys: Vec<String> = mine.map(|port| port.key.clone()).collect();
        for key in keys {
            self.serves(&key, worker);
        }
    }

    /// It serves on a port.
    pub(super) fn serves(&mut self, key: &str, worker: WorkerId) {
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

    /// It listens on one port more; it is ready when it does on all that its predecessor has.
    pub(super) fn listens_on(&mut self, now: Time, worker: WorkerId) {
        if self.predecessors_ports(worker).all(|port| port.is_served_by(worker)) {
            return self.settled(now, worker);
        }
        let said = self.workers.get_mut(&worker).map(|record| &mut record.said_ports);
        if said.is_some_and(|said| !std::mem::replace(said, true)) {
            self.later(ALL_PORTS, Fact::Settled(worker));
        }
    }

    /// Where a worker serves whose place this one is to take.
    fn predecessors_ports(&self, worker: WorkerId) -> impl Iterator<Item = &Port> {
        let slot = self.workers.get(&worker).map(|record| record.handle.slot());
        let serves = move |(id, user): (&WorkerId, &User)| {
            *id != worker && user.unasked && user.serves && Some(user.place.slot) == slot
        };
        self.ports.values().filter(move |port| port.users.iter().any(serves))
    }

    /// Whether it is ready only when it says so.
    pub(super) fn says_itself(&self, worker: WorkerId) -> bool {
        let knows = self.workers.get(&worker).map(|record| record.knows);
        let starting = self.core.worker(worker).is_some_and(|w| !w.is_ready());
        let asked = self.options.spec.ready == ReadyWhen::Notified;
        asked && starting && knows != Some(Knows::Channel)
    }

    /// It listens on what it will.
    pub(super) fn settled(&mut self, now: Time, worker: WorkerId) {
        if self.says_itself(worker) {
            return;
        }
        let first = self.predecessors_ports(worker).next().map(|port| port.address.clone());
        let Some(first) = first else {
            return self.came_up(now, CoreEvent::Listening { worker }, worker);
        };
        if !self.predecessors_ports(worker).any(|port| port.is_served_by(worker)) {
            if let Some(record) = self.workers.get_mut(&worker) {
                record.said_ports = false;
            }
            tracing::warn!(
                "worker {worker} listens, but not on {first}, where the one before it serves: it is not ready (a program that changes its port has to be started anew)"
            );
            return;
        }
        let Some(record) = self.workers.get_mut(&worker) else { return };
        if record.proves_since.replace(now).is_none() {
            self.look_for_proof(worker);
        }
    }

    /// Looks whether a worker accepts anything.
    fn look_for_proof(&self, worker: WorkerId) {
        let Some(record) = self.workers.get(&worker) else { return };
        let ports = self.numbers_of(worker);
        let streams = self.ports_of(worker).filter(|port| !port.is_udp());
        let slots: Vec<_> =
            streams.filter_map(|port| port.own_socket(worker).map(Arc::clone)).collect();
        let (pid, facts) = (record.handle.pid(), self.facts.clone());
        tokio::spawn(async move {
            tokio::time::sleep(PROOF).await;
            let looking = move || {
                let shorter = get_shorter(&slots);
                // They may have to be closed meanwhile.
                drop(slots);
                if shorter { Some(1) } else { busy(pid, &ports, Duration::MAX) }
            };
            let held = tokio::task::spawn_blocking(looking).await.ok().flatten();
            let _ = facts.send(Fact::Proves(worker, held)).await;
        });
    }

    /// Whether a successor serves: many programs listen before they know that they can.
    pub(super) fn proves(&mut self, now: Time, worker: WorkerId, held: Option<u32>) {
        // Datagrams that wait are no sign of anything.
        let streams = self.ports_of(worker).any(|port| !port.is_udp());
        let waiting = if streams { self.waiting_for(worker) } else { 0 };
        let seen = Seen { waiting, busy: held };
        let alone = self.predecessors_ports(worker).next().is_none();
        // What waited for it was taken by others: that shows nothing.
        let stuck = self.ports.values().any(|port| port.is_stuck_for(worker));
        let Some(record) = self.workers.get_mut(&worker).filter(|r| r.exit.is_none()) else {
            return;
        };
        let Some(since) = record.proves_since.filter(|_| !record.leaving) else { return };
        if stuck && !alone {
            record.proves_since = Some(now);
            return self.look_for_proof(worker);
        }
        if alone || succeeds(since, now, seen) {
            self.came_up(now, CoreEvent::Listening { worker }, worker);
        } else {
            self.look_for_proof(worker);
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

    /// Looks, in a while, how busy a worker is that drains.
    fn look_again(&self, worker: WorkerId, wait: Duration) {
        let Some(record) = self.workers.get(&worker) else { return };
        let ports = self.numbers_of(worker);
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
                let _ = handle.inner.child.signal(self.options.kill_signal);
                self.core.observe(now, CoreEvent::Terminated { worker });
                if cut > 0 {
                    self.core.observe(now, CoreEvent::Cut { worker, connections: cut });
                }
            }
        }
    }

    /// How many connections, or whether datagrams, are in the queues that only this worker takes from.
    fn waiting_for(&self, worker: WorkerId) -> u32 {
        let queue = |port: &Port| {
            let Some(socket) = port.own_socket(worker) else { return 0 };
            if port.is_udp() {
                // The size of the next datagram (udp(7)).
                return rustix::io::ioctl_fionread(socket).map_or(0, |size| size.min(1) as u32);
            }
            sys::accept_queue(socket).unwrap_or(0)
        };
        self.ports.values().map(queue).sum()
    }

    /// Whether it drains, and may still take what waits for it.
    pub(super) fn is_draining(&self, worker: WorkerId) -> bool {
        self.workers.get(&worker).is_some_and(|r| r.drain.is_some() && r.exit.is_none())
    }
}

impl User {
    pub(super) fn unasked(place: Place, query: Query) -> Self {
        Self { place, unasked: true, query, serves: false, slot_only: true }
    }
}

impl Address {
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(SocketAddr::port(address)),
            Self::Unix(_) => None,
        }
    }
}

/// Whether one of these queues is seen to get shorter: connections of busy servers are over before they could be counted.
/// Takes some tens of milliseconds if not.
fn get_shorter(slots: &[Arc<OwnedFd>]) -> bool {
    let mut before = vec![0; slots.len()];
    let looks = if slots.is_empty() { 0 } else { LOOKS };
    (0..looks).any(|_| {
        std::thread::sleep(BETWEEN);
        let now: Vec<u32> =
            slots.iter().map(|fd| sys::accept_queue(fd).unwrap_or_default()).collect();
        let shorter = now.iter().zip(&before).any(|(now, before)| now < before);
        before = now;
        shorter
    })
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

/// The policy of ports whose workers cannot be handed a connection.
pub(super) const fn without_channel(policy: Policy, one_only: bool) -> Policy {
    match policy {
        Policy::Direct | Policy::RoundRobin if one_only => Policy::Shared,
        Policy::RoundRobin => Policy::Direct,
        other => other,
    }
}
