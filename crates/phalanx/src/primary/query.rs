//! What workers say on their channels, and the answers.

use super::ports::{Place, Port, PortRules, Sockets, User, key_of};
use super::record::{Runtime, Trouble};
use super::shell::Shell;
use super::{Inner, Options};
use crate::address::Address;
use crate::channel::Tag;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::policy::Policy;
use crate::settings::Knows;
use phalanx_core::cluster::{Cluster as Core, Event as CoreEvent};
use phalanx_core::spec::ReadyWhen;
use phalanx_core::time::Time;
use phalanx_core::wire::{
    Act, AddressType, Answer, Cluster, Extras, Frame, Handle, HandleKind, Note, Query, SocketNote,
    Value,
};
use phalanx_core::worker::WorkerId;
use rustix::fd::OwnedFd;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Ports that one worker may have at a time; more is taken for an attack on the primary's memory.
const MAX_PORTS_PER_WORKER: usize = 1024;
/// How often the same trouble is said.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// Queries of one worker that may fail; each is told and logged.
const MAX_FAILURES: u32 = 10_000;

impl Shell {
    /// A frame came from a worker.
    pub(super) fn frame(&mut self, now: Time, worker: WorkerId, frame: Frame) {
        match frame {
            Frame::Cluster(Cluster { seq, act, .. }) => self.cluster_frame(now, worker, seq, act),
            Frame::Socket(SocketNote::GetCount(key) | SocketNote::NotifyClose(key))
                if key.len() > 4096 => {}
            Frame::Socket(SocketNote::GetCount(key)) => {
                self.tell(worker, &Frame::Socket(SocketNote::Count(key, 0)));
            }
            // What was sent here has an owner of its own now.
            Frame::Socket(SocketNote::NotifyClose(key)) => {
                self.tell(worker, &Frame::Socket(SocketNote::AllClosed(key)));
            }
            Frame::Note(Note::Upgraded { count }) => {
                let grace = self.options.grace_upgraded;
                self.core.observe(now, CoreEvent::Upgraded { worker, count, grace });
            }
            Frame::Note(Note::Counts { accepted, open, lag }) => {
                self.counted(worker, accepted, open, lag);
            }
            Frame::Note(Note::Serves) => self.has_listened(now, worker),
            // Answers are dealt with where they are read.
            Frame::HandleAck
            | Frame::HandleNack
            | Frame::Socket(_)
            | Frame::Handle(_)
            | Frame::Note(_)
            | Frame::Unknown(_)
            | Frame::User(_) => {}
        }
    }

    fn cluster_frame(&mut self, now: Time, worker: WorkerId, seq: Option<u64>, act: Act) {
        match act {
            Act::Online => {
                self.came_up(now, CoreEvent::Online { worker }, worker);
                if let Some(record) = self.workers.get(&worker)
                    && !record.handle.inner.online.swap(true, Ordering::Relaxed)
                {
                    self.audience.tell(&Event::Online(record.handle.clone()));
                }
            }
            Act::QueryServer(query) => self.query(worker, seq, &query),
            Act::Listening(query) => self.listening(now, worker, &query),
            Act::Close { key } => self.close_port(now, worker, &key),
            Act::ExitedAfterDisconnect => {
                self.leaves(worker);
                self.core.observe(now, CoreEvent::Leaving { worker });
                let ack = Cluster { seq: Some(self.next_seq()), ack: seq, act: Act::Other };
                self.tell(worker, &Frame::Cluster(ack));
            }
            Act::Answer(Answer { open: Some(open), .. }) => {
                if let Some(record) = self.workers.get_mut(&worker) {
                    record.open = open;
                }
            }
            Act::Answer(_) | Act::NewConn { .. } | Act::Disconnect | Act::Other => {}
        }
    }

    /// A worker came one step further; said when it is ready.
    pub(super) fn came_up(&mut self, now: Time, event: CoreEvent, worker: WorkerId) {
        let ready = |core: &Core| core.worker(worker).is_some_and(|w| w.is_ready());
        let before = ready(&self.core);
        self.core.observe(now, event);
        if let (false, true, Some(record)) = (before, ready(&self.core), self.workers.get(&worker))
        {
            let Inner { slot, started, inspector, .. } = &*record.handle.inner;
            let (pid, after) = (record.handle.pid(), started.elapsed());
            let inspector = inspector.map(|at| format!(", inspector on {at}")).unwrap_or_default();
            tracing::info!(
                "worker {worker} in slot {slot} is ready: process {pid}, after {after:.1?}{inspector}"
            );
            self.sign_of_life(now, worker);
            self.begin_liveness(now, worker);
            self.ready_in_life(worker);
        }
    }

    /// A worker on a channel listens: it is ready, unless it has to say so.
    fn has_listened(&mut self, now: Time, worker: WorkerId) {
        if self.options.spec.ready != ReadyWhen::Notified {
            self.came_up(now, CoreEvent::Listening { worker }, worker);
        }
    }

    /// It sent the message `"ready"`, which means something only where it is waited for.
    pub(super) fn says_ready(&mut self, now: Time, worker: WorkerId) {
        if self.options.spec.ready == ReadyWhen::Notified {
            self.came_up(now, CoreEvent::Listening { worker }, worker);
        }
    }

    /// A worker wants to listen. One that was told to leave gets no answer, as in Node.
    fn query(&mut self, worker: WorkerId, seq: Option<u64>, query: &Query) {
        if self.workers.get(&worker).is_none_or(|r| r.leaving) {
            return;
        }
        self.hear_shut();
        let key = key_of(query);
        let mut given = if is_reasonable(query) {
            self.give_port(worker, &key, query)
        } else {
            Err(Error::Unsupported("asks for a port with more words than any address has".into()))
        };
        let errno = match &given {
            Ok(_) => 0,
            Err(error) => -self.cannot_listen(worker, error),
        };
        let port = self.ports.get(&key);
        let answer = Answer {
            // Node wants 0 exactly with a descriptor, and null or 0 without.
            errno: Some(errno).filter(|n| *n != 0 || matches!(given, Ok(Some(_)))),
            key: Some(key.clone()),
            data: port.filter(|_| given.is_ok()).map_or(Value::Null, |p| p.data.clone()),
            sockname: match (&given, port) {
                (Ok(None), Some(port)) => port.sockname(),
                _ => None,
            },
            ..Answer::default()
        };
        let kind = match port {
            Some(port) if port.is_udp() => HandleKind::DgramNative,
            Some(Port { address: Address::Unix(_), .. }) => HandleKind::NativePipe,
            _ => HandleKind::Native,
        };
        let reply = Frame::Cluster(Cluster {
            seq: Some(self.next_seq()),
            ack: seq,
            act: Act::Answer(answer),
        });
        let Some(record) = self.workers.get(&worker) else { return };
        match given.as_mut().ok().and_then(Option::take) {
            Some(fd) => {
                let frame = Frame::Handle(Handle { kind, key: None, message: Box::new(reply) });
                record.channel.push_handle(&frame, Tag::Other, Some(fd));
            }
            None => record.channel.push(&reply),
        }
    }

    /// A worker cannot have what it asked for: said, and the errno for it.
    pub(super) fn cannot_listen(&mut self, worker: WorkerId, error: &Error) -> i32 {
        let now = self.now();
        let text: Arc<str> = format!("worker {worker} {error}").into();
        let address = match error {
            Error::Listen { address, source } => {
                Some((address.clone(), source.raw_os_error().unwrap_or(libc::EINVAL)))
            }
            _ => None,
        };
        let text_of = error.to_string();
        self.last_trouble = Some(Trouble { worker, what: text_of.clone(), address });
        if let Some(record) = self.workers.get_mut(&worker) {
            let slot = record.handle.slot();
            // Every worker finds the same, and tries again: it is said once in a while.
            let said = &mut self.said_trouble;
            if said
                .as_ref()
                .is_none_or(|(known, at)| *known != text_of || now.since(*at) >= SAY_AGAIN)
            {
                tracing::warn!(%worker, %slot, "{error}{}", hint(error));
                *said = Some((text_of, now));
            }
            record.failures += 1;
            self.audience.tell(&Event::Error(record.handle.clone(), text));
            if record.failures > MAX_FAILURES {
                let why = format!("{MAX_FAILURES} times it asked for what it cannot have");
                self.core.observe(now, CoreEvent::Broken { worker, why });
            }
        }
        errno(error)
    }

    /// Whether a worker may have that port, beside those it has.
    pub(super) fn check_port_count(&self, worker: WorkerId, key: &str) -> Result<()> {
        let held = self.ports.values().filter(|p| p.users.contains_key(&worker)).count();
        // Those it opened and closed again count as long as they are there.
        let opened = self.ports.values().filter(|p| p.opened_by == Some(worker)).count();
        let new = !self.ports.contains_key(key);
        if held >= MAX_PORTS_PER_WORKER || new && opened >= MAX_PORTS_PER_WORKER {
            return Err(Error::Unsupported(format!("listens on {held} ports already: no more")));
        }
        Ok(())
    }

    pub(super) fn rules(&self) -> PortRules {
        let Options { policy, balance, .. } = &self.options;
        PortRules { policy: *policy, balance: balance.clone(), handed: true, joins: false }
    }

    /// A port that a worker asked for first.
    pub(super) fn add_port(&mut self, mut port: Port, worker: WorkerId) {
        port.opened_by = Some(worker);
        tracing::info!(address = %port.address, policy = %port.policy, "listening");
        self.ports.insert(port.key.clone(), port);
    }

    /// The port of a query, opened if need be, and the socket for the worker to accept from.
    fn give_port(
        &mut self,
        worker: WorkerId,
        key: &str,
        query: &Query,
    ) -> Result<Option<Arc<OwnedFd>>> {
        let Some(record) = self.workers.get(&worker) else { return Err(Error::Disconnected) };
        let slot = record.handle.slot();
        let in_use = |address: String| Error::Listen {
            address,
            source: std::io::Error::from_raw_os_error(libc::EADDRINUSE),
        };
        self.check_port_count(worker, key)?;
        if !self.ports.contains_key(key) {
            if record.is_other && query.address_type == AddressType::Unix {
                return Err(not_for_others(query));
            }
            self.add_port(Port::open(key.to_owned(), query, &self.rules())?, worker);
        }
        let Some(port) = self.ports.get_mut(key) else { return Err(Error::Stopping) };
        // A program on the crate finds sockets as any other does, before it is known what it is.
        if port.users.get(&worker).is_some_and(|user| user.unasked) {
            port.users.remove(&worker);
        }
        // A UDP socket of the crate's is closed without a word: it may ask again.
        let again = port.is_udp() && query.extras.slot_only;
        if port.users.contains_key(&worker) && !again {
            return Err(in_use(port.address.to_string()));
        }
        if port.data.is_null() {
            port.data = query.data.clone();
        }
        let place = Place::first(slot);
        let fd = port.socket_for(place)?;
        port.make_own(place);
        port.steer();
        let queued = matches!(port.sockets, Sockets::Slots(_)) && !port.is_udp();
        let slot_only = query.extras.slot_only;
        port.users.insert(
            worker,
            User {
                place,
                unasked: false,
                query: Query { data: Value::Null, ..query.clone() },
                serves: false,
                slot_only,
            },
        );
        if queued {
            let now = self.now();
            self.watch_queues(now);
        }
        Ok(fd)
    }

    fn listening(&mut self, now: Time, worker: WorkerId, query: &Query) {
        let Some(record) = self.workers.get(&worker).filter(|r| !r.leaving) else { return };
        let handle = record.handle.clone();
        let Some(port) = self.ports.values_mut().find(|port| port.is_meant(worker, query)) else {
            // A server of its own (`exclusive`, or bound by itself): the worker serves, elsewhere.
            return self.has_listened(now, worker);
        };
        let Some(user) = port.users.get_mut(&worker) else { return };
        let told = std::mem::replace(&mut user.serves, true);
        user.slot_only = query.extras.slot_only;
        port.steer();
        let (key, address) = (port.key.clone(), port.address.clone());
        self.has_listened(now, worker);
        if !told {
            self.audience.tell(&Event::Listening(handle, address));
        }
        // The way it answers tells what it is.
        if let Some(record) = self.workers.get_mut(&worker)
            && record.answers_as == Runtime::Unknown
        {
            record.ping();
        }
        self.start_accepting(&key);
        self.pump(now, &key);
    }

    /// A worker closed a server. The port goes with the last one, unless workers are coming up.
    fn close_port(&mut self, now: Time, worker: WorkerId, key: &str) {
        let leaving = self.workers.get(&worker).is_none_or(|r| r.leaving);
        if let Some(port) = self.ports.get_mut(key) {
            if port.users.remove(&worker).is_none() {
                return;
            }
            port.steer();
            // When all leave, new clients are refused at once, and not left to wait for nobody.
            let closed = !leaving && !port.pinned && self.core.is_settled();
            if port.users.is_empty() && (closed || self.core.is_stopping()) {
                tracing::info!(address = %port.address, "closed by the last worker");
                self.ports.remove(key);
                // What was watched for the next connection held its sockets open.
                self.watch_queues(now);
            } else {
                self.idle_ports |= port.users.is_empty();
                self.pump(now, key);
            }
        }
    }

    /// The worker leaves: it was told to, or said so.
    pub(super) fn leaves(&mut self, worker: WorkerId) {
        if let Some(record) = self.workers.get_mut(&worker) {
            record.leaving = true;
            record.handle.inner.has_left(true);
        }
        self.serves_no_more(worker);
    }

    /// The worker gets nothing new from now on.
    pub(super) fn serves_no_more(&mut self, worker: WorkerId) {
        for port in self.ports.values_mut() {
            if let Some(user) = port.users.get_mut(&worker) {
                user.serves = false;
                port.steer();
            }
        }
    }

    /// Opens a port for `--listen`.
    pub(super) fn open_port(
        &mut self,
        address: &Address,
        policy: Option<Policy>,
    ) -> Result<Address> {
        let query = query_for(address, policy);
        let key = key_of(&query);
        if !self.ports.contains_key(&key) {
            let handed = self.next_knows() == Knows::Channel;
            let mut rules = self.rules();
            // Who may be handed nothing shares a unix socket; by default, for `round-robin` is a wish.
            rules.handed = handed || rules.policy == Policy::RoundRobin;
            let mut port = Port::open(key.clone(), &query, &rules)?;
            port.pinned = true;
            self.ports.insert(key.clone(), port);
        }
        self.ports.get(&key).map(|port| port.address.clone()).ok_or(Error::Stopping)
    }

    fn tell(&self, worker: WorkerId, frame: &Frame) {
        if let Some(record) = self.workers.get(&worker) {
            record.channel.push(frame);
        }
    }

    pub(super) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }
}

/// Whether a query's texts are as long as such texts can be; they are kept, and sent to other workers.
fn is_reasonable(query: &Query) -> bool {
    let address = query.address.as_ref().map_or(0, String::len);
    let policy = query.extras.policy.as_ref().map_or(0, String::len);
    address <= 4096
        && policy <= 64
        && (query.data.is_null() || query.data.to_string().len() <= 65_536)
}

/// The query that a worker of this crate (or Node) sends for an address.
pub(crate) fn query_for(address: &Address, policy: Option<Policy>) -> Query {
    let extras = Extras { policy: policy.map(|p| p.name().to_owned()), ..Extras::default() };
    let base = Query { flags: 0, extras, ..Query::default() };
    match address {
        Address::Unix(path) => Query {
            address: Some(path.display().to_string()),
            port: Some(-1),
            address_type: AddressType::Unix,
            ..base
        },
        Address::Ip(SocketAddr::V6(a)) if a.ip().is_unspecified() => {
            // Any address, IPv6 and IPv4: what Node asks for when no host is named.
            Query { port: Some(a.port().into()), ..base }
        }
        Address::Ip(a) => Query {
            address: Some(a.ip().to_string()),
            port: Some(a.port().into()),
            address_type: if a.is_ipv6() { AddressType::Tcp6 } else { AddressType::Tcp4 },
            ..base
        },
    }
}

/// The primary's rights are not theirs: it makes and removes no files for them, wherever they like.
fn not_for_others(query: &Query) -> Error {
    let path = query.address.as_deref().unwrap_or_default();
    let path = path.strip_prefix("unix:").unwrap_or(path);
    Error::Permissions {
        what: format!(
            "cannot listen on unix:{path} for workers with other rights than the primary"
        ),
        source: std::io::Error::from_raw_os_error(libc::EACCES),
        hint: Some(format!("let the primary open it: --listen unix:{path}")),
    }
}

fn errno(error: &Error) -> i32 {
    match error {
        Error::Permissions { source, .. } => source.raw_os_error().unwrap_or(libc::EACCES),
        Error::Listen { source, .. } | Error::Os { source, .. } => {
            source.raw_os_error().unwrap_or(libc::EINVAL)
        }
        _ => libc::EINVAL,
    }
}

fn hint(error: &Error) -> String {
    error.hint().map(|hint| format!("; {hint}")).unwrap_or_default()
}
