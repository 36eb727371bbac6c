//! Connections that the primary has in its hands: accepted in `round-robin`, or rescued from a slot.
//!
//! A connection is kept until a worker says that it accepted it. A worker that refuses it, cannot
//! take it or dies before the answer loses it to another one; no client hangs on a worker's death.

use super::ports::{Port, Sockets, User};
use super::record::{Fact, Record, Runtime};
use super::shell::Shell;
use crate::channel::Tag;
use crate::policy::Policy;
use crate::socket;
use crate::sys;
use phalanx_core::balance::{self, Candidate};
use phalanx_core::time::Time;
use phalanx_core::wire::hand_over_line;
use phalanx_core::worker::WorkerId;
use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// How long a worker that refused a connection is not offered another one.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// How soon connections that wait are offered again if nothing happens.
const RETRY: Duration = Duration::from_millis(5);
/// Connections a worker may be handed in a rescue without having acknowledged them.
const RESCUE_WINDOW: u32 = 64;

/// A connection that waits for a worker with room.
pub(crate) struct Parked {
    pub(crate) fd: Arc<OwnedFd>,
    /// Which of all it was, once it has waited: who comes back takes its place among those who wait.
    pub(crate) number: Option<u64>,
    pub(crate) source: Option<IpAddr>,
    /// Its place in the port's bound, given back when a worker has it.
    #[expect(dead_code, reason = "held, not read")]
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

impl Parked {
    pub(super) fn new(fd: OwnedFd, from: Option<SocketAddr>) -> Self {
        Self {
            fd: Arc::new(fd),
            number: None,
            source: from.as_ref().map(SocketAddr::ip),
            room: None,
        }
    }
}

/// A connection that was sent to a worker which did not answer yet.
pub(crate) struct Handover {
    pub(super) port: Arc<str>,
    pub(super) worker: WorkerId,
    pub(super) connection: Parked,
}

impl Shell {
    /// Begins to accept on a port whose connections the primary hands out.
    pub(super) fn start_accepting(&mut self, key: &str) {
        let Some(port) = self.ports.get_mut(key) else { return };
        if port.policy != Policy::RoundRobin {
            return;
        }
        if let Sockets::One(fd, task @ None) = &mut port.sockets {
            let room = Arc::new(Semaphore::new(self.options.waiting.max(1)));
            let accepting = accept_on(key.into(), Arc::clone(fd), room, self.facts.clone());
            *task = Some(tokio::spawn(accepting));
        }
    }

    /// A connection was taken from a slot, or comes back from a worker that did not take it: to the next worker.
    pub(super) fn dispatch(&mut self, now: Time, key: &str, connection: Parked) {
        self.waits(key, connection);
        self.pump(now, key);
    }

    /// It waits, in front of all that came after it.
    fn waits(&mut self, key: &str, mut connection: Parked) {
        let Some(port) = self.ports.get_mut(key) else { return };
        let number = *connection.number.get_or_insert_with(|| {
            self.parked += 1;
            self.parked
        });
        // Those that came back are at the front, those that come at the back.
        if port.parked.back().is_none_or(|last| last.number < Some(number)) {
            port.parked.push_back(connection);
        } else {
            let place = port.parked.iter().position(|other| other.number > Some(number));
            port.parked.insert(place.unwrap_or(0), connection);
        }
    }

    /// A connection was accepted: it is handed out when all are there that came with it.
    pub(super) fn park(&mut self, key: Arc<str>, connection: Parked) {
        self.waits(&key, connection);
        self.is_due(key);
    }

    /// What waits on a port may find a worker with room.
    fn is_due(&mut self, key: Arc<str>) {
        let waits = self.ports.get(&*key).is_some_and(|port| !port.parked.is_empty());
        if waits && !self.due.contains(&key) {
            self.due.push(key);
        }
    }

    /// Hands out what waits on such ports.
    pub(super) fn pump_due(&mut self, now: Time) {
        while let Some(key) = self.due.pop() {
            self.pump(now, &key);
        }
    }

    /// Hands out what waits, as far as workers have room.
    pub(super) fn pump(&mut self, now: Time, key: &str) {
        let Some((key, mut port)) = self.ports.remove_entry(key) else { return };
        let shared_key: Arc<str> = key.as_str().into();
        let mut candidates = self.candidates(now, &port);
        let mut kept = VecDeque::new();
        while candidates.iter().any(|c| c.free)
            && let Some(connection) = port.parked.pop_front()
        {
            let pick = port.scheduler.pick(connection.source, &candidates);
            match pick.and_then(|at| candidates.get_mut(at)).filter(|c| c.free) {
                Some(candidate) => {
                    candidate.unanswered += 1;
                    candidate.free = candidate.unanswered < self.window(&port, candidate.silent);
                    self.hand_over(now, &shared_key, candidate.worker, connection);
                }
                None => kept.push_back(connection),
            }
        }
        kept.append(&mut port.parked);
        port.parked = kept;
        if !port.parked.is_empty() {
            self.retry_at(now.after(RETRY));
        }
        self.ports.insert(key, port);
    }

    /// How many connections a worker may have that it did not acknowledge.
    fn window(&self, port: &Port, silent: Duration) -> u32 {
        match port.policy {
            Policy::RoundRobin => balance::window(self.options.window, silent),
            _ => RESCUE_WINDOW,
        }
    }

    /// Whether a worker takes connections of this port over the channel. Those that hold a listening socket
    /// take them beside it in Node and in the crate; Deno and Bun die of it.
    pub(super) fn can_be_handed(&self, port: &Port, worker: WorkerId, user: &User) -> bool {
        let holds_socket = port.policy != Policy::RoundRobin;
        let runtime = self.workers.get(&worker).map(Record::runtime);
        let takes = user.serves && !user.slot_only && !user.unasked;
        takes && (!holds_socket || runtime == Some(Runtime::Node))
    }

    /// The workers that could get a connection of this port, and which may get one now.
    fn candidates(&self, now: Time, port: &Port) -> Vec<Candidate> {
        let stuck = |place| match &port.sockets {
            Sockets::Slots(slots) => slots.iter().any(|s| s.place == place && s.watch.is_stuck()),
            Sockets::One(..) => false,
        };
        port.users
            .iter()
            .filter(|(id, user)| self.can_be_handed(port, **id, user) && !stuck(user.place))
            .filter_map(|(id, user)| {
                let record = self.workers.get(id).filter(|record| !record.pinged)?;
                let rested = record.refused_until.is_none_or(|until| until <= now);
                let silent = record.oldest.map_or(Duration::ZERO, |since| now.since(since));
                let free = rested && record.unanswered < self.window(port, silent);
                Some(Candidate {
                    worker: *id,
                    slot: user.place.slot,
                    free,
                    unanswered: record.unanswered,
                    // Who refused one is not waited for.
                    silent: if rested { silent } else { Duration::MAX },
                    open: record.open,
                })
            })
            .collect()
    }

    fn hand_over(&mut self, now: Time, key: &Arc<str>, worker: WorkerId, connection: Parked) {
        let Some(record) = self.workers.get_mut(&worker) else { return };
        self.seq += 1;
        record.unanswered += 1;
        let oldest = *record.oldest.get_or_insert(now);
        let line = hand_over_line(key, self.seq, record.channel.dialect());
        let fd = Arc::clone(&connection.fd);
        record.channel.push_line(line, Tag::NewConn(self.seq), Some(fd));
        let handover = Handover { port: Arc::clone(key), worker, connection };
        self.in_flight.insert(self.seq, handover);
        self.retry_at(oldest.after(self.patience()));
    }

    /// A worker's answer to a hand-over (or the NACK instead of one). What waits is due then.
    pub(super) fn answered(
        &mut self,
        now: Time,
        worker: WorkerId,
        seq: u64,
        accepted: bool,
        open: Option<u32>,
    ) {
        let Some(handover) = self.in_flight.remove(&seq) else {
            return self.check_taken(worker, seq, accepted);
        };
        if handover.worker != worker {
            // Not its connection: the word of a worker counts for its own only.
            self.in_flight.insert(seq, handover);
            return;
        }
        if let Some(record) = self.workers.get_mut(&worker) {
            record.unanswered = record.unanswered.saturating_sub(1);
            // The next one counts from now: close enough, and nothing has to be searched.
            record.oldest = (record.unanswered > 0).then_some(now);
            if let Some(open) = open {
                record.open = open;
            }
            if !accepted {
                record.refused_until = Some(now.after(REFUSED_PAUSE));
            }
        }
        let Handover { port, connection, .. } = handover;
        if !accepted {
            self.waits(&port, connection);
        }
        self.is_due(port);
    }

    /// A worker is gone: what it did not acknowledge goes to others.
    pub(super) fn take_back(&mut self, now: Time, worker: WorkerId) {
        let lost: Vec<u64> = self
            .in_flight
            .iter()
            .filter(|(_, h)| h.worker == worker)
            .map(|(seq, _)| *seq)
            .collect();
        for seq in lost.into_iter().rev() {
            if let Some(Handover { port, connection, .. }) = self.in_flight.remove(&seq) {
                self.dispatch(now, &port, connection);
            }
        }
    }
}

/// Accepts as long as there is room for another waiting connection; else the kernel's queue fills.
async fn accept_on(
    key: Arc<str>,
    listener: Arc<OwnedFd>,
    room: Arc<Semaphore>,
    facts: mpsc::Sender<Fact>,
) {
    let listener = match sys::watch(listener, Interest::READABLE) {
        Ok(listener) => listener,
        Err(error) => {
            let _ = facts.send(Fact::Trouble(format!("cannot accept: {error}"))).await;
            return;
        }
    };
    let mut complaint = socket::Complaint::default();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (fd, from) = loop {
            let Ok(mut guard) = listener.readable().await else { return };
            match socket::accept(listener.get_ref()) {
                Ok(taken) => break taken,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => {
                    if complaint.is_due(&error) {
                        let what = format!("cannot accept connections: {error} (see `ulimit -n`)");
                        let _ = facts.send(Fact::Trouble(what)).await;
                    }
                    tokio::time::sleep(socket::EXHAUSTED_PAUSE).await;
                }
            }
        };
        let source = from.as_ref().map(SocketAddr::ip);
        let connection = Parked { fd: Arc::new(fd), number: None, source, room: Some(permit) };
        if facts.send(Fact::Accepted(Arc::clone(&key), connection)).await.is_err() {
            return;
        }
    }
}
