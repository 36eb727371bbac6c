//! The answers to bind(2) and listen(2) of programs that know nothing of their primary.

use super::connections;
use super::intercept::{Question, What};
use super::ports::{Place, Port, PortRules, User, key_of};
use super::query::query_for;
use super::shell::Shell;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::settings::{Intercept, Knows};
use crate::sys;
use phalanx_core::time::Time;
use phalanx_core::wire::{AddressType, Query};
use phalanx_core::worker::WorkerId;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::net::SocketAddr;
use std::sync::Arc;
use sys::seccomp::Verdict;

impl Shell {
    /// A process of a worker's wants to bind or to listen, and waits.
    pub(super) fn asks(&mut self, now: Time, worker: WorkerId, question: Question) {
        self.hear_shut();
        let Some(record) = self.workers.get(&worker) else { return };
        // A program on the crate asks on its channel for what it wants to share.
        let asks_otherwise = record.knows != Knows::Channel && record.is_online();
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

    fn binds(&mut self, now: Time, worker: WorkerId, question: Question) {
        let What::Bind { address, udp, v6_only, may, again, .. } = question.what else { return };
        let mut query = query_for(&Address::Ip(address), None);
        query.flags = i64::from(v6_only.unwrap_or_else(|| self.has_v4(address.port())));
        if udp {
            let v6 = address.is_ipv6();
            query.address_type = if v6 { AddressType::Udp6 } else { AddressType::Udp4 };
        }
        let key = key_of(&query);
        if again {
            // A signal came before the answer did, and the call is made once more; or the last primary died between what it
            // did and the answer.
            if question.recalled || self.place_of(worker, question.inode).is_some() {
                question.answer(Verdict::Done);
            }
            return;
        }
        let declared = matches!(
            self.workers.get(&worker).map(|record| &record.intercept),
            Some(Intercept::Ports(_))
        );
        if !may && !declared && self.ports.get(&key).is_none_or(|port| !port.pinned) {
            // The kernel refuses it; here it is said why.
            let source = std::io::Error::from_raw_os_error(libc::EACCES);
            self.cannot_listen(worker, &Error::Listen { address: address.to_string(), source });
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
        port.give_away(place, question.nonblocking, self.shut.as_mut());
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
    fn has_v4(&self, port: u16) -> bool {
        let any = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port));
        self.ports.values().any(|port| port.address == Address::Ip(any))
    }

    /// The program did not get its socket after all.
    fn take_from(&mut self, worker: WorkerId, key: &str) {
        let Some(port) = self.ports.get_mut(key) else { return };
        port.users.remove(&worker);
        port.steer();
        if port.users.is_empty() && !port.pinned {
            self.ports.remove(key);
        }
        self.idle_ports = true;
    }

    /// Which of a worker's places that socket is.
    fn place_of(&self, worker: WorkerId, inode: u64) -> Option<(String, Place)> {
        self.ports.values().find_map(|port| {
            let user = port.users.get(&worker).filter(|user| user.unasked)?;
            let is_it = connections::inode_of(port.socket_at(user.place)?).ok()? == inode;
            is_it.then(|| (port.key.clone(), user.place))
        })
    }

    /// It listens: if on one of the cluster's sockets, that listens already and stays as deep as it is.
    fn listens(&mut self, now: Time, worker: WorkerId, question: Question, backlog: i32) {
        // One that it has shut down listens anew.
        for port in self.ports.values_mut() {
            port.listen_again(worker, question.inode, backlog);
        }
        let Some((key, place)) = self.place_of(worker, question.inode) else { return };
        if let Some(port) = self.ports.get_mut(&key) {
            port.deepen(place, backlog);
        }
        question.answer(Verdict::Done);
        if !self.says_itself(worker) {
            self.serves(&key, worker);
            self.listens_on(now, worker);
        }
    }
}

/// Whether a worker's processes have that socket open.
fn still_has(pid: u32, socket: &OwnedFd) -> bool {
    let open = connections::sockets(&connections::processes(pid));
    match (open, connections::inode_of(socket)) {
        (Ok(open), Ok(inode)) => open.contains(&inode),
        // What cannot be known is not held against it.
        _ => false,
    }
}
