//! A cluster's life: what is wanted against what is.
//!
//! [`Cluster::observe`] records facts and wishes. [`Cluster::plan`] compares and returns what to do.
//! [`Cluster::wake`] says when to plan again if nothing happens. Restart, scale, rolling reload and
//! stop are all this one comparison; none of them is a procedure that could be interrupted.
//!
//! The shell performs every [`Action`] and reports every fact as an [`Event`]. The core never reads
//! a clock, and nothing in here waits.

mod crash;
mod event;
mod inherit;
mod life;
mod plan;
mod receipt;
mod reload;
mod table;
#[cfg(test)]
mod timeline;
mod weight;

use crate::report::Report;
use crate::spec::{MAX_WORKERS, Spec};
use crate::time::Time;
use crate::worker::{End, EndKind, Leave, SlotId, Worker, WorkerId};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use crash::Slot;
pub use event::{Action, Event};
use receipt::Open;
pub use receipt::{Drained, Outcome, Receipt};
use reload::Reload;
pub use reload::{ReloadPhase, ReloadStatus};
use serde::{Deserialize, Serialize};
use table::Workers;
pub use weight::FULL;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    Running,
    Stopping,
    Stopped,
}

/// A restart of everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Restarting {
    begun: Time,
    /// The last old worker is gone.
    down: bool,
}

/// A cluster.
///
/// ```
/// use phalanx_core::cluster::{Action, Cluster, Event};
/// use phalanx_core::spec::Spec;
/// use phalanx_core::time::Time;
/// let mut cluster = Cluster::new(Spec { workers: 2, ..Spec::default() });
/// let actions = cluster.plan(Time::ZERO);
/// assert!(matches!(actions[..], [Action::Fork { .. }, Action::Fork { .. }]));
/// assert!(cluster.plan(Time::ZERO).is_empty(), "what was asked for is not asked for twice");
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// The next primary has its own.
    #[serde(skip)]
    spec: Spec,
    mode: Mode,
    /// The slots that are to have a worker.
    wanted: BTreeSet<SlotId>,
    slots: BTreeMap<SlotId, Slot>,
    workers: Workers,
    last_id: u32,
    /// Of the newest workers.
    generation: u64,
    /// The program that new workers get: the number of the reload that brought it.
    #[serde(default)]
    version: u64,
    /// The program that the last finished reload brought.
    #[serde(default)]
    good: u64,
    /// The program that runs now could be started again after the next reload.
    #[serde(default)]
    can_go_back: bool,
    reload: Option<Reload>,
    /// All stop, and then start again: since when.
    restarting: Option<Restarting>,
    /// Reloads whose workers are not all gone yet.
    #[serde(default)]
    receipts: Vec<Open>,
    /// A worker was ready for long enough to show that the program can serve.
    ever_ready: bool,
    /// Crashes of all slots before that.
    #[serde(default)]
    start_failures: u32,
    /// When the next slot may start, before that.
    start_hold: Option<Time>,
    /// When it was last planned.
    #[serde(skip)]
    planned: Time,
    /// Somebody did not start then only because too many others were starting.
    #[serde(skip)]
    held_back: bool,
    /// When the plan is another one, if nothing is observed until then; `None`: something was.
    #[serde(skip)]
    settled_until: Option<Option<Time>>,
    failed_start: bool,
    /// How the last worker ended that did not come up, where none is replaced.
    last_end: Option<End>,
    /// Decided, and to be given out with the next plan: nothing of it outlives its primary.
    #[serde(skip)]
    outbox: Vec<Action>,
}

impl Cluster {
    /// A cluster without workers; the first plan starts them.
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        let mut cluster = Self {
            mode: Mode::Running,
            wanted: BTreeSet::new(),
            slots: BTreeMap::new(),
            workers: Workers::default(),
            last_id: 0,
            generation: 0,
            version: 0,
            good: 0,
            can_go_back: true,
            reload: None,
            restarting: None,
            receipts: Vec::new(),
            ever_ready: false,
            start_failures: 0,
            start_hold: None,
            planned: Time::ZERO,
            held_back: false,
            settled_until: None,
            failed_start: false,
            last_end: None,
            outbox: Vec::new(),
            spec,
        };
        cluster.scale(cluster.spec.workers);
        cluster
    }

    /// The workers, those that are leaving included.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// One worker, until its end was observed.
    #[must_use]
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// How many workers are kept running.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.wanted.len()
    }

    /// Whether every wanted slot has a ready worker and nobody is starting.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.wanted.iter().all(|slot| {
            self.in_slot(*slot).any(Worker::is_ready)
                && self.in_slot(*slot).filter(|w| w.is_live()).count() == 1
        })
    }

    /// Whether a rolling reload is going on.
    #[must_use]
    pub const fn is_reloading(&self) -> bool {
        self.reload.is_some()
    }

    /// Whether all workers end, to be started anew.
    #[must_use]
    pub const fn is_restarting(&self) -> bool {
        self.restarting.is_some()
    }

    /// How far a rolling reload is that is going on.
    #[must_use]
    pub fn reloading(&self) -> Option<ReloadStatus> {
        self.reload_status()
    }

    /// The program that new workers get: the number of the reload that brought it.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The program that the last finished reload brought: what a rollback goes back to.
    #[must_use]
    pub const fn good_version(&self) -> u64 {
        self.good
    }

    /// The slots that get no other worker: theirs ended for good, until a reload or restart.
    pub fn ended(&self) -> impl Iterator<Item = SlotId> {
        let ended = |slot: &&SlotId| self.slots.get(slot).is_some_and(|s| s.ended);
        self.wanted.iter().filter(ended).copied()
    }

    /// How the last worker of each slot ended that was not told to leave.
    pub fn last_ends(&self) -> impl Iterator<Item = (SlotId, EndKind)> {
        self.slots.iter().filter_map(|(id, slot)| Some((*id, slot.last?)))
    }

    /// Whether the cluster was told to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.mode != Mode::Running
    }

    /// Whether the last worker is gone after a stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.mode == Mode::Stopped
    }

    /// Whether the cluster stopped because no worker ever became ready.
    #[must_use]
    pub const fn never_ready(&self) -> bool {
        self.failed_start
    }

    /// When each slot that waits will get its next worker, and after how many crashes.
    pub fn waiting(&self) -> impl Iterator<Item = (SlotId, Time, u32)> {
        let start = self.start_hold.filter(|_| !self.ever_ready).unwrap_or_default();
        let down = self.restarting.as_ref().is_none_or(|restarting| restarting.down);
        let slots = self.slots.iter().filter(move |_| down);
        slots.filter_map(move |(id, slot)| Some((*id, slot.hold?.max(start), slot.crashes)))
    }

    /// A worker that is not replaced when it ends, in the lowest free slot. `None` when the cluster
    /// stops or is full.
    pub fn fork(&mut self) -> Option<WorkerId> {
        let slot = self.free_slots().find(|slot| self.in_slot(*slot).next().is_none())?;
        self.settled_until = None;
        (self.mode == Mode::Running).then(|| self.fork_in(slot, false))
    }

    /// Records a fact or a wish. Facts about workers that are gone are ignored.
    pub fn observe(&mut self, now: Time, event: Event) {
        self.settled_until = None;
        self.note_proven(now);
        match event {
            Event::Scale { .. } | Event::Reload | Event::Restart if self.mode != Mode::Running => {
                let what = match event {
                    Event::Reload => "reload",
                    Event::Restart => "restart",
                    _ => "scale",
                };
                self.report(Report::Refused { what, why: "the cluster is stopping" });
            }
            Event::Reload if self.restarting.is_some() => {
                self.report(Report::Refused {
                    what: "reload",
                    why: "all workers are being restarted, and are new then",
                });
            }
            Event::Scale { workers } => self.scale(workers),
            Event::CanGoBack(can) => self.can_go_back = can,
            Event::Reload => {
                self.note_seen();
                self.begin_reload(now);
            }
            Event::Restart => {
                self.note_seen();
                self.begin_restart(now);
            }
            Event::Stop => self.stop(now),
            Event::StopNow => {
                self.stop(now);
                let ids: Vec<_> = self.workers.keys().copied().collect();
                for id in ids {
                    self.kill(now, id, Leave::Stop);
                }
            }
            Event::Forked { worker, .. }
            | Event::ForkFailed { worker, .. }
            | Event::Online { worker }
            | Event::Listening { worker }
            | Event::Leaving { worker }
            | Event::ChannelClosed { worker }
            | Event::Broken { worker, .. }
            | Event::Exited { worker, .. }
            | Event::Disconnect { worker }
            | Event::Replace { worker, .. }
            | Event::Lost { worker, .. }
            | Event::Terminated { worker }
            | Event::Upgraded { worker, .. }
            | Event::OutOfMemory { worker, .. }
            | Event::Cut { worker, .. } => {
                if self.workers.contains_key(&worker) {
                    self.observe_worker(now, worker, event);
                }
            }
        }
    }

    fn scale(&mut self, workers: usize) {
        let workers = workers.min(MAX_WORKERS);
        while self.wanted.len() > workers {
            if let Some(slot) = self.wanted.pop_last() {
                self.slots.remove(&slot);
            }
        }
        let missing = workers.saturating_sub(self.wanted.len());
        let free = self.free_slots().filter(|slot| !self.in_slot(*slot).any(|w| !w.guarded));
        let new: Vec<SlotId> = free.take(missing).collect();
        for slot in new {
            self.wanted.insert(slot);
            self.slots.insert(slot, Slot::default());
        }
    }

    fn stop(&mut self, now: Time) {
        if self.mode == Mode::Running {
            self.mode = Mode::Stopping;
            self.end_reload(now, Outcome::Stopped);
            self.restarting = None;
            self.wanted.clear();
            self.slots.clear();
        }
    }

    /// Whether a worker serves, and nobody that it is to replace is still there. One that crashes
    /// before brings a reload to its end, even if it said that it is ready.
    fn has_arrived(&self, worker: &Worker) -> bool {
        let older = |w: &Worker| w.is_live() && w.generation < worker.generation;
        worker.is_ready() && !self.in_slot(worker.slot).any(older)
    }

    fn in_slot(&self, slot: SlotId) -> impl Iterator<Item = &Worker> {
        self.workers.in_slot(slot)
    }

    /// Slots that are not wanted, lowest first.
    fn free_slots(&self) -> impl Iterator<Item = SlotId> {
        (0..u32::try_from(MAX_WORKERS).unwrap_or(u32::MAX))
            .map(SlotId)
            .filter(|slot| !self.wanted.contains(slot))
    }

    fn report(&mut self, report: Report) {
        self.outbox.push(Action::Report(report));
    }
}
