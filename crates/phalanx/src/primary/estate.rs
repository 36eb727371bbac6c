//! What a primary leaves to the next one: written down, with the names of the descriptors that belong to it.
//!
//! The text is JSON, so a later version reads what an earlier one wrote: fields that are missing have defaults, and
//! [`VERSION`] grows only if that is not enough.

use super::ports::{Port, PortLeft};
use super::record::{Record, Runtime};
use super::shell::Shell;
use crate::settings::{Intercept, Knows};
use phalanx_core::cluster::Cluster;
use phalanx_core::time::Time;
use phalanx_core::wire::Dialect;
use phalanx_core::worker::{SlotId, WorkerId};
use rustix::fd::OwnedFd;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// What this version writes, and the latest it reads. Version 2 has life lines: who closes what it does not know would
/// end workers.
const VERSION: u32 = 2;

/// Descriptors, by their names.
pub(super) type Named = BTreeMap<String, Arc<OwnedFd>>;

/// All that a primary leaves. Who writes it down has the core elsewhere.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Estate<C = Cluster> {
    version: u32,
    /// The moment that is [`Time::ZERO`], by the clock that does not stop for a new primary.
    begun: Duration,
    pub(super) core: C,
    pub(super) seq: u64,
    pub(super) workers: Vec<WorkerLeft>,
    pub(super) ports: Vec<PortLeft>,
    /// It was to stop; the core may not know it yet.
    #[serde(default)]
    pub(super) stops: bool,
    /// Somebody said how many workers there shall be: the load does not.
    #[serde(default)]
    pub(super) by_hand: bool,
}

/// A worker, as the next primary has to know it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WorkerLeft {
    pub(super) id: WorkerId,
    pub(super) slot: SlotId,
    pub(super) pid: u32,
    pub(super) started: Time,
    pub(super) online: bool,
    pub(super) leaving: bool,
    /// It drains without knowing of it.
    pub(super) drains: bool,
    pub(super) open: u32,
    pub(super) connected: bool,
    /// [`WorkerHandle::exited_after_disconnect`](super::WorkerHandle::exited_after_disconnect).
    pub(super) has_left: u8,
    pub(super) knows: Knows,
    pub(super) intercept: Intercept,
    /// It has other rights than the primary. Before there were such, nobody had.
    #[serde(default)]
    pub(super) is_other: bool,
    pub(super) interruptible: bool,
    pub(super) answers_as: Runtime,
    pub(super) is_bun: bool,
    pub(super) pings: u64,
    pub(super) peer_cookie: u64,
    pub(super) channel_fd: i32,
    pub(super) inspector: Option<SocketAddr>,
    pub(super) watchdog: Option<Duration>,
    pub(super) watched: bool,
}

impl Estate {
    /// Reads what another primary wrote.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let unreadable = |error: serde_json::Error| {
            format!("what the last primary left cannot be read: {error}")
        };
        let Head { version } = serde_json::from_slice(text).map_err(unreadable)?;
        if version > VERSION {
            return Err(format!(
                "the last primary was a newer one (it writes version {version}; this one reads up to {VERSION})"
            ));
        }
        serde_json::from_slice(text).map_err(unreadable)
    }

    /// When the first primary began, by the clock of this process.
    pub(super) fn start(&self) -> Instant {
        let since = monotonic().saturating_sub(self.begun);
        Instant::now().checked_sub(since).unwrap_or_else(Instant::now)
    }
}

/// Whether this program could take over.
pub(crate) fn check_estate(text: &[u8]) -> Result<(), String> {
    Estate::read(text).map(drop)
}

/// `CLOCK_MONOTONIC`, which is the same for all processes.
fn monotonic() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

/// The names of a worker's descriptors.
pub(super) fn channel_of(worker: WorkerId) -> String {
    format!("{worker}.channel")
}
pub(super) fn process_of(worker: WorkerId) -> String {
    format!("{worker}.process")
}
pub(super) fn binds_of(worker: WorkerId) -> String {
    format!("{worker}.binds")
}
pub(super) fn life_of(worker: WorkerId) -> String {
    format!("{worker}.life")
}
pub(super) fn notify_of(worker: WorkerId) -> String {
    format!("{worker}.notify")
}
/// Standard output, and error.
pub(super) fn pipes_of(worker: WorkerId) -> [String; 2] {
    [format!("{worker}.out"), format!("{worker}.err")]
}
pub(super) fn socket_called(name: u64) -> String {
    format!("socket.{name}")
}

impl Shell {
    /// Writes down what the next primary needs, and names the descriptors.
    pub(super) fn estate(&self) -> (Vec<u8>, Named) {
        (self.estate_text(), self.descriptors())
    }

    /// The workers whose processes have not ended.
    fn there(&self) -> impl Iterator<Item = (WorkerId, &Record)> {
        let all = self.workers.iter().map(|(id, record)| (*id, record));
        all.filter(|(_, record)| record.exit.is_none())
    }

    /// What the next primary needs, written down.
    pub(super) fn estate_text(&self) -> Vec<u8> {
        let workers = self.there().map(|(id, record)| self.worker_left(id, record)).collect();
        let ports = self.ports.values().map(Port::left).collect();
        let begun = || monotonic().saturating_sub(self.now().since_start());
        let estate = Estate {
            version: VERSION,
            begun: *self.keeping.begun.get_or_init(begun),
            core: &self.core,
            seq: self.seq,
            workers,
            ports,
            stops: self.stops(),
            by_hand: self.upkeep.by_hand,
        };
        // What cannot be written (a path that is no text) is said where it is missed: the next primary has no workers.
        serde_json::to_vec(&estate).unwrap_or_else(|error| {
            tracing::error!("the state of this primary cannot be written down: {error}");
            Vec::new()
        })
    }

    /// All descriptors that the next primary needs, under their names.
    pub(super) fn descriptors(&self) -> Named {
        let mut fds = Named::new();
        for (id, record) in self.there() {
            let inner = &record.handle.inner;
            fds.insert(channel_of(id), Arc::clone(record.channel.end()));
            fds.insert(process_of(id), Arc::clone(inner.child.pidfd()));
            if let Some(binds) = &record.binds {
                fds.insert(binds_of(id), Arc::clone(&binds.fd));
            }
            if let Some(life) = &record.life_line {
                fds.insert(life_of(id), Arc::clone(life));
            }
            if let Some(notify) = &record.notify {
                fds.insert(notify_of(id), Arc::clone(notify));
            }
            for (name, pipe) in pipes_of(id).into_iter().zip(&record.pipes) {
                if let Some(pipe) = pipe.as_ref().and_then(Weak::upgrade) {
                    fds.insert(name, pipe);
                }
            }
        }
        self.ports.values().for_each(|port| port.descriptors(&mut fds));
        fds
    }

    /// A number that is another one when other descriptors have names: most of what changes changes none of them, and
    /// naming all of them costs more than all the rest.
    pub(super) fn descriptors_mark(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (id, record) in self.there() {
            let beside =
                [record.binds.is_some(), record.life_line.is_some(), record.notify.is_some()];
            let pipes = record
                .pipes
                .each_ref()
                .map(|pipe| pipe.as_ref().is_some_and(|pipe| pipe.strong_count() > 0));
            (id, beside, pipes).hash(&mut hasher);
        }
        let sockets = self.ports.values().flat_map(Port::socket_names);
        sockets.for_each(|name| name.hash(&mut hasher));
        hasher.finish()
    }

    fn worker_left(&self, id: WorkerId, record: &Record) -> WorkerLeft {
        let inner = &record.handle.inner;
        WorkerLeft {
            id,
            slot: inner.slot,
            pid: record.handle.pid(),
            started: Time::new(inner.started.saturating_duration_since(self.start)),
            online: record.is_online(),
            leaving: record.leaving,
            drains: record.drain.is_some(),
            open: record.open,
            connected: inner.connected.load(Ordering::Relaxed) && !record.closed,
            has_left: inner.exited_after_disconnect.load(Ordering::Relaxed),
            knows: record.knows,
            intercept: record.intercept.clone(),
            is_other: record.is_other,
            interruptible: record.binds.as_ref().is_some_and(|binds| binds.interruptible),
            answers_as: record.answers_as,
            is_bun: record.channel.dialect() == Dialect::Bun,
            pings: record.pings,
            peer_cookie: record.peer_cookie,
            channel_fd: record.channel_fd,
            inspector: inner.inspector,
            watchdog: record.watchdog,
            watched: record.last_sign.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_said() {
        for (text, word) in [
            ("", "cannot be read"),
            ("{}", "version"),
            (r#"{"version":1}"#, "cannot be read"),
            (r#"{"version":99,"new":true}"#, "newer"),
        ] {
            let error = Estate::read(text.as_bytes()).expect_err(text);
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn who_was_scaled_by_hand_stays_so() {
        let left = |by_hand| Estate {
            version: VERSION,
            begun: Duration::ZERO,
            core: Cluster::new(phalanx_core::spec::Spec::default()),
            seq: 0,
            workers: Vec::new(),
            ports: Vec::new(),
            stops: false,
            by_hand,
        };
        for by_hand in [true, false] {
            let text = serde_json::to_vec(&left(by_hand)).expect("it can be written");
            assert_eq!(Estate::read(&text).map(|estate| estate.by_hand), Ok(by_hand));
        }
        // Before, it was not written down.
        let mut earlier = serde_json::to_value(left(true)).expect("it can be written");
        earlier.as_object_mut().expect("an object").remove("by_hand").expect("a field");
        let read = Estate::read(earlier.to_string().as_bytes());
        assert_eq!(read.map(|estate| estate.by_hand), Ok(false));
    }
}
