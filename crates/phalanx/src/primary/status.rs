//! A cluster at one moment.

use super::health::HealthStatus;
use super::shell::Shell;
use crate::address::Address;
use crate::policy::Policy;
use phalanx_core::cluster::ReloadStatus;
use phalanx_core::time::Time;
use phalanx_core::worker::{EndKind, Phase, SlotId, WorkerId};
use std::fmt;
use std::time::Duration;

/// What a finished reload did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Its number. Old workers may still drain; what that came to is in the [`Receipt`](crate::Receipt) with this number
    /// ([`Event::Reloaded`](crate::Event::Reloaded)).
    pub generation: u64,
    /// How many workers were replaced.
    pub replaced: u32,
    /// How long it took until the last new one was ready.
    pub took: Duration,
}

/// A cluster at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// The workers, by number.
    pub workers: Vec<WorkerStatus>,
    /// Slots that wait for their next worker: how long still, after how many crashes in a row.
    pub waiting: Vec<(SlotId, Duration, u32)>,
    /// The ports and their policies.
    pub ports: Vec<(Address, Policy)>,
    /// How many workers are wanted.
    pub wanted: usize,
    /// The reload that is going on.
    pub reload: Option<ReloadStatus>,
    /// Slots that get no other worker before a reload: theirs ended for good.
    pub ended: Vec<SlotId>,
    /// How the last worker of a slot ended that was not told to leave.
    pub last_ends: Vec<(SlotId, EndKind)>,
}

/// A worker at one moment.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    /// Its number.
    pub id: WorkerId,
    /// Its slot.
    pub slot: SlotId,
    /// Its process.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: WorkerState,
    /// How long its process has been there.
    pub age: Duration,
    /// The reload it belongs to; 0 before the first.
    pub generation: u64,
    /// The program it runs: the number of the reload that brought it. After a rollback, one that is older than its
    /// generation.
    pub version: u64,
    /// How it does in its checks, if there was one.
    pub health: Option<HealthStatus>,
    /// Bytes of memory, its children included; what they share is counted once, if that is cheap to know.
    pub memory: Option<u64>,
    /// The part of one processor that it uses, its children included; above 1 with several threads.
    pub cpu: Option<f32>,
    /// Threads, its children's included.
    pub threads: Option<u32>,
    /// Descriptors that its process has open.
    pub descriptors: Option<u32>,
    /// Workers that its slot had before it.
    pub restarts: u32,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerState {
    /// Asked for; there is no process yet.
    Forking,
    /// Its process runs.
    Starting,
    /// Its channel works.
    Online,
    /// It serves.
    Listening,
    /// It was told to leave and finishes what it does.
    Draining,
    /// It was killed; its end is awaited.
    Killed,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Forking => "forking",
            Self::Starting => "starting",
            Self::Online => "online",
            Self::Listening => "listening",
            Self::Draining => "draining",
            Self::Killed => "killed",
        })
    }
}

impl Shell {
    pub(super) fn status(&self, now: Time) -> Status {
        let usage = |id| self.upkeep.lives.get(id).and_then(|life| life.usage);
        let workers = self.core.workers().map(|worker| WorkerStatus {
            id: worker.id,
            slot: worker.slot,
            pid: worker.pid,
            state: match worker.phase {
                Phase::Forking => WorkerState::Forking,
                Phase::Starting { online: false, .. } => WorkerState::Starting,
                Phase::Starting { online: true, .. } => WorkerState::Online,
                Phase::Ready { .. } => WorkerState::Listening,
                Phase::Draining { .. } => WorkerState::Draining,
                Phase::Killed { .. } => WorkerState::Killed,
            },
            age: self
                .workers
                .get(&worker.id)
                .map_or(Duration::ZERO, |r| r.handle.inner.started.elapsed()),
            generation: worker.generation,
            version: worker.version,
            health: self.workers.get(&worker.id).and_then(|r| r.life.checkup.status.clone()),
            memory: usage(&worker.id).map(|usage| usage.memory),
            cpu: self.upkeep.lives.get(&worker.id).and_then(|life| life.share(now)),
            threads: usage(&worker.id).map(|usage| usage.threads),
            descriptors: usage(&worker.id).and_then(|usage| usage.descriptors),
            restarts: self.upkeep.forks.get(&worker.slot).map_or(0, |n| n.saturating_sub(1)),
        });
        Status {
            workers: workers.collect(),
            waiting: self.core.waiting().map(|(slot, at, n)| (slot, at.since(now), n)).collect(),
            ports: self.ports.values().map(|p| (p.address.clone(), p.policy)).collect(),
            wanted: self.core.wanted(),
            reload: self.core.reloading(),
            ended: self.core.ended().collect(),
            last_ends: self.core.last_ends().collect(),
        }
    }
}
