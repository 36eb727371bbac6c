//! A port, as the next primary has to know it.

use super::{Identity, Place, Port, PortRules, SlotSocket, Sockets, User};
use crate::address::Address;
use crate::policy::Policy;
use crate::primary::estate::{Named, socket_called};
use crate::primary::shut::ShutWatch;
use crate::socket::Wish;
use phalanx_core::rescue::Watch;
use phalanx_core::time::Time;
use phalanx_core::wire::Value;
use phalanx_core::worker::WorkerId;
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The next name of a socket.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A name that no other socket has, also among those that were inherited.
pub(super) fn new_name() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A port.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::primary) struct PortLeft {
    pub(in crate::primary) key: String,
    wish: Wish,
    address: Address,
    pub(in crate::primary) policy: Policy,
    sockets: SocketsLeft,
    shut_down: Vec<SlotLeft>,
    users: Vec<(WorkerId, User)>,
    data: Value,
    pinned: bool,
    opened_by: Option<WorkerId>,
    inherited: bool,
    joins: bool,
    file: Option<(PathBuf, Option<Identity>)>,
}

#[derive(Debug, Serialize, Deserialize)]
enum SocketsLeft {
    Slots(Vec<SlotLeft>),
    One(u64),
}

/// A slot's socket.
#[derive(Debug, Serialize, Deserialize)]
struct SlotLeft {
    place: Place,
    name: u64,
    given: u64,
    may_block: bool,
    backlog: i32,
    vacant: Option<Time>,
}

impl Port {
    /// All its sockets, with their names.
    fn named(&self) -> impl Iterator<Item = (u64, &Arc<OwnedFd>)> {
        let (slots, one) = match &self.sockets {
            Sockets::Slots(slots) => (slots.as_slice(), None),
            Sockets::One(fd, _) => (&[][..], Some((self.name, fd))),
        };
        self.shut_down.iter().chain(slots).map(|socket| (socket.name, &socket.fd)).chain(one)
    }

    pub(in crate::primary) fn socket_names(&self) -> impl Iterator<Item = u64> {
        self.named().map(|(name, _)| name)
    }

    pub(in crate::primary) fn descriptors(&self, fds: &mut Named) {
        fds.extend(self.named().map(|(name, fd)| (socket_called(name), Arc::clone(fd))));
    }

    /// What the next primary needs of it.
    pub(in crate::primary) fn left(&self) -> PortLeft {
        let slots = |slots: &[SlotSocket]| {
            let left = |socket: &SlotSocket| SlotLeft {
                place: socket.place,
                name: socket.name,
                given: socket.given,
                may_block: socket.may_block,
                backlog: socket.backlog,
                vacant: socket.vacant,
            };
            slots.iter().map(left).collect()
        };
        let shut_down = slots(&self.shut_down);
        let sockets = match &self.sockets {
            Sockets::Slots(all) => SocketsLeft::Slots(slots(all)),
            Sockets::One(..) => SocketsLeft::One(self.name),
        };
        PortLeft {
            key: self.key.clone(),
            wish: self.wish.clone(),
            address: self.address.clone(),
            policy: self.policy,
            sockets,
            shut_down,
            users: self.users.iter().map(|(id, user)| (*id, user.clone())).collect(),
            data: self.data.clone(),
            pinned: self.pinned,
            opened_by: self.opened_by,
            inherited: self.inherited,
            joins: self.joins,
            file: self.file.clone(),
        }
    }

    /// The port of the last primary; `None` if a socket of it is missing, which it says.
    pub(in crate::primary) fn inherited(
        left: PortLeft,
        rules: &PortRules,
        fds: &mut BTreeMap<String, OwnedFd>,
        mut watch: Option<&mut ShutWatch>,
    ) -> Option<Self> {
        let mut take = |name: u64| {
            NEXT.fetch_max(name + 1, Ordering::Relaxed);
            let fd = fds.remove(&socket_called(name)).map(Arc::new);
            if fd.is_none() {
                tracing::error!("a socket of {} was not inherited", left.address);
            }
            fd
        };
        let udp = left.wish.udp;
        let mut slots = |all: Vec<SlotLeft>| -> Option<Vec<SlotSocket>> {
            all.into_iter()
                .map(|slot| {
                    let fd = take(slot.name)?;
                    let watched = watch.as_mut().filter(|_| slot.may_block && !udp);
                    Some(SlotSocket {
                        place: slot.place,
                        name: slot.name,
                        given: slot.given,
                        may_block: slot.may_block,
                        backlog: slot.backlog,
                        vacant: slot.vacant,
                        watched_as: watched.and_then(|watch| watch.add(&fd).ok()),
                        fd,
                        watch: Watch::default(),
                        watched: None,
                        stuck_since: None,
                        said: false,
                        had_open: None,
                        being_emptied: false,
                    })
                })
                .collect()
        };
        let shut_down = slots(left.shut_down)?;
        let (sockets, name) = match left.sockets {
            SocketsLeft::Slots(all) => (Sockets::Slots(slots(all)?), new_name()),
            SocketsLeft::One(name) => (Sockets::One(take(name)?, None), name),
        };
        Some(Self {
            key: left.key,
            wish: left.wish,
            address: left.address,
            policy: left.policy,
            balance: rules.balance.clone(),
            sockets,
            users: left.users.into_iter().collect(),
            scheduler: rules.balance.scheduler(),
            parked: VecDeque::new(),
            asked_since: None,
            data: left.data,
            name,
            // The kernel knows; it is told again when something changes.
            steered: Vec::new(),
            weights: BTreeMap::new(),
            shut_down,
            pinned: left.pinned,
            opened_by: left.opened_by,
            inherited: left.inherited,
            joins: left.joins,
            said_unsteered: false,
            file: left.file,
        })
    }
}
