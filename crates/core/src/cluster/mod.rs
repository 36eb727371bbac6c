//! A cluster's life: what is wanted against what is.
//!
//! [`Cluster::observe`] records facts and wishes. [`Cluster::plan`] compares and returns what to do.
//! [`Cluster::wake`] says when to plan again if nothing happens. Restart, scale, rolling reload and
//! stop are all this one comparison; none of them is a procedure that could be interrupted.
//!
//! The shell performs every [`Action`] and reports every fact as an [`Event`]. The core never reads
//! a clock, and nothing in here waits.

mod event;
mod inherit;
mod plan;
#[cfg(test)]
mod timeline;

use crate::report::Report;
use crate::spec::{MAX_WORKERS, ReadyWhen, Spec};
use crate::time::Time;
use crate::worker::{End, Exit, Leave, Phase, Retire, SlotId, Worker, WorkerId};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
pub use event::{Action, Event};
use serde::{Deserialize, Serialize};

/// A worker that leaves of its own will after less than this is counted as a crash: nobody wants a loop of
/// processes that come only to leave.
const POLITE: Duration = Duration::from_secs(1);

/// How long a worker has for its own end when the last of its upgraded connections ended late.
const AFTER_UPGRADED: Duration = Duration::from_secs(10);

/// What a slot remembers between its workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Slot {
    /// Crashes in a row.
    crashes: u32,
    /// When it may get a worker again.
    hold: Option<Time>,
    /// When it may get one if nobody else is left: its last worker did serve.
    last_resort: Option<Time>,
    /// It is not given another worker (restarts are off).
    ended: bool,
    /// A worker that left before it was ready. How it ends says why; nothing starts here before,
    /// unless another crash here was counted.
    awaits: Option<WorkerId>,
}

/// A rolling reload that is going on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reload {
    begun: Time,
    replaced: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    Running,
    Stopping,
    Stopped,
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
    workers: BTreeMap<WorkerId, Worker>,
    last_id: u32,
    /// Of the newest workers.
    generation: u64,
    reload: Option<Reload>,
    ever_ready: bool,
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
            workers: BTreeMap::new(),
            last_id: 0,
            generation: 0,
            reload: None,
            ever_ready: false,
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
        self.slots.iter().filter_map(|(id, slot)| Some((*id, slot.hold?, slot.crashes)))
    }

    /// A worker that is not replaced when it ends, in the lowest free slot. `None` when the cluster
    /// stops or is full.
    pub fn fork(&mut self) -> Option<WorkerId> {
        let slot = self.free_slots().find(|slot| self.in_slot(*slot).next().is_none())?;
        (self.mode == Mode::Running).then(|| self.fork_in(slot, false))
    }

    /// Records a fact or a wish. Facts about workers that are gone are ignored.
    pub fn observe(&mut self, now: Time, event: Event) {
        match event {
            Event::Scale { .. } | Event::Reload if self.mode != Mode::Running => {
                let what = if event == Event::Reload { "reload" } else { "scale" };
                self.report(Report::Refused { what, why: "the cluster is stopping" });
            }
            Event::Scale { workers } => self.scale(workers),
            Event::Reload => self.begin_reload(now),
            Event::Stop => self.stop(),
            Event::StopNow => {
                self.stop();
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
            | Event::Upgraded { worker, .. }
            | Event::Terminated { worker } => {
                if self.workers.contains_key(&worker) {
                    self.observe_worker(now, worker, event);
                }
            }
        }
    }

    fn observe_worker(&mut self, now: Time, id: WorkerId, event: Event) {
        match event {
            Event::Forked { pid, .. } => {
                let Some(worker) = self.workers.get_mut(&id) else { return };
                worker.pid = Some(pid);
                match worker.phase {
                    Phase::Forking => worker.phase = Phase::Starting { since: now, online: false },
                    Phase::Starting { .. } | Phase::Ready { .. } => {}
                    // Told to go between the wish for a process and the process: it cannot hear
                    // anything but a signal yet.
                    Phase::Draining { why, served, .. } | Phase::Killed { why, served, .. } => {
                        worker.phase = Phase::Killed { since: now, why, served };
                        self.outbox.push(Action::Kill { worker: id });
                    }
                }
            }
            Event::ForkFailed { why, permanent, .. } => {
                self.not_started(now, id, why, permanent);
            }
            Event::Online { .. } => {
                let ready = self.spec.ready == ReadyWhen::Online;
                let Some(worker) = self.workers.get_mut(&id) else { return };
                if let Phase::Starting { online, .. } = &mut worker.phase {
                    *online = true;
                    if ready {
                        self.set_ready(now, id);
                    }
                }
            }
            Event::Listening { .. } => self.set_ready(now, id),
            Event::Leaving { .. } => self.drain(now, id, Leave::Itself, false),
            Event::ChannelClosed { .. } => self.drain(now, id, Leave::ChannelClosed, false),
            Event::Disconnect { .. } => self.drain(now, id, Leave::Asked, true),
            Event::Replace { why, .. } => self.retire(now, id, why),
            Event::Lost { why, .. } => self.lost(now, id, why),
            Event::Upgraded { count, grace, .. } => self.upgraded(now, id, count, grace),
            Event::Terminated { .. } => {
                if let Some(Worker { phase: Phase::Draining { terminated, .. }, .. }) =
                    self.workers.get_mut(&id)
                {
                    *terminated = true;
                }
            }
            Event::Broken { why, .. } => {
                let Some(worker) = self.workers.get(&id) else { return };
                if matches!(worker.phase, Phase::Killed { .. }) {
                    return;
                }
                let (slot, served) = (worker.slot, worker.served(now));
                let serves = worker.guarded && worker.is_live();
                let coming_up = serves && !self.has_arrived(worker);
                self.report(Report::Broken { worker: id, slot, why: why.clone() });
                let end = End::Broken(why);
                if coming_up {
                    self.coming_up_failed(id, end.clone());
                }
                self.kill(now, id, Leave::Broken);
                if serves {
                    self.crashed(now, slot, served, coming_up.then_some(end));
                }
            }
            Event::Exited { exit, .. } => self.exited(now, id, exit),
            Event::Scale { .. } | Event::Reload | Event::Stop | Event::StopNow => {}
        }
    }

    fn set_ready(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if matches!(worker.phase, Phase::Starting { .. }) {
            worker.phase = Phase::Ready { since: now };
            self.ever_ready |= worker.guarded;
        }
    }

    fn exited(&mut self, now: Time, id: WorkerId, exit: Exit) {
        let Some(worker) = self.workers.remove(&id) else { return };
        let served = worker.served(now);
        let asked = match worker.phase {
            Phase::Draining { why, .. } | Phase::Killed { why, .. } => Some(why),
            _ => None,
        };
        // A channel that closes is how most crashes show first; unless it had to be killed after that.
        let killed = matches!(worker.phase, Phase::Killed { .. });
        let told = asked.filter(|why| killed || *why != Leave::ChannelClosed);
        self.report(Report::Ended { worker: id, slot: worker.slot, exit, asked: told, served });
        if !worker.guarded {
            if !self.wanted.contains(&worker.slot) {
                self.slots.remove(&worker.slot);
            }
            return;
        }
        // One that was told to leave, or whose crash was counted when it left, just ends.
        let awaited = self
            .slots
            .get_mut(&worker.slot)
            .is_some_and(|slot| slot.awaits.take_if(|awaited| *awaited == id).is_some());
        if asked.is_none() || awaited {
            let end = (!self.has_arrived(&worker)).then_some(End::Exited(exit));
            // A version that crashes when it has hardly begun is not given to the slots that are left.
            let late = self.spec.restart.enabled.then_some(End::Crashed(served));
            if let Some(why) = end.clone().or(late) {
                self.coming_up_failed_of(&worker, why);
            }
            self.crashed(now, worker.slot, served, end);
        }
    }

    fn not_started(&mut self, now: Time, id: WorkerId, why: String, permanent: bool) {
        let Some(worker) = self.workers.remove(&id) else { return };
        self.report(Report::NotStarted { worker: id, slot: worker.slot, why: why.clone() });
        if !worker.guarded {
            return;
        }
        let end = End::NotStarted(why);
        if worker.is_live() {
            self.coming_up_failed_of(&worker, end.clone());
        }
        if permanent && !self.ever_ready && self.mode == Mode::Running {
            self.give_up(end);
        } else {
            self.crashed(now, worker.slot, Duration::ZERO, Some(end));
        }
    }

    /// Counts a crash, at the moment in which the slot lost its worker, and decides how long the
    /// slot waits. `end`: what became of a worker that had not been ready.
    fn crashed(&mut self, now: Time, id: SlotId, served: Duration, end: Option<End>) {
        if self.mode != Mode::Running || !self.wanted.contains(&id) {
            return;
        }
        // The slot is still served by another worker: a failed successor, not a crash of the slot.
        let replaced = self.in_slot(id).any(Worker::is_live);
        let rule = self.spec.restart.clone();
        for worker in self.workers.values_mut().filter(|w| w.slot == id) {
            if let Some(retire) = &mut worker.retire {
                retire.failures = retire.failures.saturating_add(1);
                // One that is too much is waited for longer than one that is missing.
                retire.hold = now.after(rule.delay(retire.failures.saturating_add(1)));
            }
        }
        let slot = self.slots.entry(id).or_default();
        if !rule.enabled {
            slot.ended = !replaced;
            self.last_end = end;
            return;
        }
        if replaced {
            return;
        }
        slot.crashes = rule.row(slot.crashes, served);
        let (crashes, wait) = (slot.crashes, rule.delay(slot.crashes));
        slot.hold = Some(now.after(wait));
        slot.last_resort = (!served.is_zero()).then(|| now.after(rule.base.min(wait)));
        if rule.is_loop(crashes) {
            if !self.ever_ready
                && let Some(end) = end
            {
                return self.give_up(end);
            }
            if crashes == rule.limit {
                self.report(Report::CrashLoop { slot: id, crashes, every: wait });
            }
        } else if !wait.is_zero() {
            self.report(Report::Waiting { slot: id, wait, crashes });
        }
    }

    fn give_up(&mut self, why: End) {
        self.report(Report::NeverReady { why });
        self.failed_start = true;
        self.stop();
    }

    fn coming_up_failed(&mut self, id: WorkerId, why: End) {
        if let Some(worker) = self.workers.get(&id).cloned() {
            self.coming_up_failed_of(&worker, why);
        }
    }

    /// A worker of the newest generation did not come up: a reload ends here.
    fn coming_up_failed_of(&mut self, failed: &Worker, why: End) {
        if failed.generation < self.generation {
            return;
        }
        if let Some(Reload { replaced, .. }) = self.reload.take() {
            let kept = self
                .workers
                .values()
                .filter(|w| w.guarded && w.is_ready() && w.generation < self.generation)
                .count();
            let (generation, slot) = (self.generation, failed.slot);
            self.report(Report::ReloadFailed { generation, slot, why, replaced, kept });
        }
    }

    fn scale(&mut self, workers: usize) {
        let workers = workers.min(MAX_WORKERS);
        while self.wanted.len() > workers {
            if let Some(slot) = self.wanted.pop_last() {
                self.slots.remove(&slot);
            }
        }
        while self.wanted.len() < workers {
            let Some(slot) =
                self.free_slots().find(|slot| !self.in_slot(*slot).any(|w| !w.guarded))
            else {
                break;
            };
            self.wanted.insert(slot);
            self.slots.insert(slot, Slot::default());
        }
    }

    fn begin_reload(&mut self, now: Time) {
        self.generation += 1;
        // Whoever asks for a reload has mended something: no slot waits any longer.
        for slot in &self.wanted {
            self.slots.insert(*slot, Slot::default());
        }
        let workers = self.wanted.len();
        self.reload = Some(Reload { begun: now, replaced: 0 });
        self.report(Report::ReloadBegun { generation: self.generation, workers });
    }

    fn stop(&mut self) {
        if self.mode == Mode::Running {
            self.mode = Mode::Stopping;
            self.reload = None;
            self.wanted.clear();
            self.slots.clear();
        }
    }

    /// Lets a worker finish. `tell`: it does not know yet.
    fn drain(&mut self, now: Time, id: WorkerId, why: Leave, tell: bool) {
        let by_itself = matches!(why, Leave::Itself | Leave::ChannelClosed);
        let arrived = self.workers.get(&id).is_some_and(|worker| self.has_arrived(worker));
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.is_live()) else {
            return;
        };
        let (slot, guarded) = (worker.slot, worker.guarded);
        let (forking, served) = (worker.phase == Phase::Forking, worker.served(now));
        let mut deadline = self.spec.grace.map(|grace| now.after(grace));
        if let (Phase::Starting { since, .. }, true) = (&worker.phase, by_itself) {
            // The slot waits for its end, and no longer than it would have for its start.
            let start = self.spec.start_timeout.map(|limit| since.after(limit));
            deadline = deadline.into_iter().chain(start).min();
        }
        // One that the application forked is the application's to time.
        let deadline = deadline.filter(|_| guarded || why == Leave::Stop);
        let deaf = matches!(worker.phase, Phase::Starting { online: false, .. });
        worker.phase = Phase::Draining { since: now, deadline, terminated: false, why, served };
        if tell && deaf {
            // Its channel never worked: it holds nothing, and may never hear.
            self.kill(now, id, why);
        } else if tell && !forking {
            self.outbox.push(Action::Disconnect { worker: id });
        }
        if !guarded || !self.wanted.contains(&slot) {
            return;
        }
        // One that served a while and says that it leaves is replaced at once; it did not crash.
        let polite = why == Leave::Itself && served >= POLITE;
        if by_itself && !arrived {
            self.slots.entry(slot).or_default().awaits = Some(id);
        } else if by_itself && !polite {
            if self.spec.restart.enabled {
                self.coming_up_failed(id, End::Crashed(served));
            }
            self.crashed(now, slot, served, None);
        } else if (why == Leave::Asked || polite) && !self.spec.restart.enabled {
            let served_on = self.in_slot(slot).any(Worker::is_live);
            self.slots.entry(slot).or_default().ended = !served_on;
        }
    }

    /// A worker that leaves is waited for as long as it has connections of another protocol, but not when all stop.
    fn upgraded(&mut self, now: Time, id: WorkerId, count: u32, grace: Option<Duration>) {
        let (usual, running) = (self.spec.grace, self.mode == Mode::Running);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let had = core::mem::replace(&mut worker.upgraded, count);
        let Phase::Draining { since, deadline, terminated: false, .. } = &mut worker.phase else {
            return;
        };
        // Whom nobody times is not timed now.
        let Some(usual) = usual.filter(|_| running && (deadline.is_some() || had > 0)) else {
            return;
        };
        *deadline = if count == 0 {
            Some(since.after(usual).max(now.after(AFTER_UPGRADED)))
        } else {
            grace.map(|grace| since.after(grace.max(usual)))
        };
    }

    /// A worker goes on until a successor is ready.
    fn retire(&mut self, now: Time, id: WorkerId, why: Leave) {
        let running = self.mode == Mode::Running;
        let Some(worker) = self.workers.get_mut(&id).filter(|w| w.is_ready() && w.guarded) else {
            return;
        };
        if worker.retire.is_none() && running && self.wanted.contains(&worker.slot) {
            worker.retire = Some(Retire { why, failures: 0, hold: now });
            let slot = worker.slot;
            self.report(Report::Replacing { worker: id, slot, why });
        }
    }

    /// A worker is beyond help.
    fn lost(&mut self, now: Time, id: WorkerId, why: Leave) {
        let Some(worker) = self.workers.get(&id).filter(|w| w.is_live() && w.pid.is_some()) else {
            return;
        };
        let (slot, served, guarded) = (worker.slot, worker.served(now), worker.guarded);
        let coming_up = guarded && !self.has_arrived(worker);
        self.report(Report::Lost { worker: id, slot, why });
        if self.spec.kill_after.is_zero() {
            self.kill(now, id, why);
        } else if let Some(worker) = self.workers.get_mut(&id) {
            let deadline = Some(now.after(self.spec.kill_after));
            worker.phase = Phase::Draining { since: now, deadline, terminated: true, why, served };
            self.outbox.push(Action::Terminate { worker: id });
        }
        if guarded {
            let end = End::Lost(why);
            if self.spec.restart.enabled || coming_up {
                self.coming_up_failed(id, end.clone());
            }
            self.crashed(now, slot, served, coming_up.then_some(end));
        }
    }

    fn kill(&mut self, now: Time, id: WorkerId, why: Leave) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let served = worker.served(now);
        let why = match worker.phase {
            Phase::Draining { why, .. } | Phase::Killed { why, .. } => why,
            _ => why,
        };
        let act = worker.pid.is_some() && !matches!(worker.phase, Phase::Killed { .. });
        worker.phase = Phase::Killed { since: now, why, served };
        if act {
            self.outbox.push(Action::Kill { worker: id });
        }
    }

    fn fork_in(&mut self, slot: SlotId, guarded: bool) -> WorkerId {
        self.last_id += 1;
        let id = WorkerId(self.last_id);
        self.workers.insert(
            id,
            Worker {
                id,
                slot,
                generation: self.generation,
                guarded,
                pid: None,
                phase: Phase::Forking,
                retire: None,
                upgraded: 0,
            },
        );
        if guarded {
            let slot = self.slots.entry(slot).or_default();
            (slot.hold, slot.last_resort) = (None, None);
        }
        self.outbox.push(Action::Fork { worker: id, slot });
        id
    }

    /// Whether a worker serves, and nobody that it is to replace is still there. One that crashes
    /// before brings a reload to its end, even if it said that it is ready.
    fn has_arrived(&self, worker: &Worker) -> bool {
        let older = |w: &Worker| w.is_live() && w.generation < worker.generation;
        worker.is_ready() && !self.in_slot(worker.slot).any(older)
    }

    fn in_slot(&self, slot: SlotId) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(move |w| w.slot == slot)
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
