//! Rolling reloads: who is replaced when, when it is a failure, and what follows.

use super::table::Slots;
use super::{Cluster, Outcome, Restarting};
use crate::report::{Report, Then};
use crate::time::Time;
use crate::worker::{End, Leave, Phase, SlotId, Worker, WorkerId};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// A rolling reload that is going on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Reload {
    pub(super) begun: Time,
    pub(super) replaced: u32,
    #[serde(default)]
    of: usize,
    /// The new program is tried in a few slots.
    trial: Option<Trial>,
    /// It goes back to the program before.
    #[serde(default)]
    back: bool,
}

/// A canary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Trial {
    slots: BTreeSet<SlotId>,
    /// Since when all of them have the new program.
    since: Option<Time>,
}

/// What a reload is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadPhase {
    /// A few slots have, or get, the new program beside the old one.
    Canary,
    /// Slot by slot is replaced.
    Replacing,
    /// Slots go back to the program before.
    GoingBack,
}

impl core::fmt::Display for ReloadPhase {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(match self {
            Self::Canary => "canary",
            Self::Replacing => "replacing",
            Self::GoingBack => "going back",
        })
    }
}

/// How far a reload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadStatus {
    /// Its number.
    pub generation: u64,
    /// How many workers were replaced.
    pub replaced: u32,
    /// How many were to be.
    pub of: usize,
    /// What it is doing.
    pub phase: ReloadPhase,
}

impl Cluster {
    pub(super) fn reload_status(&self) -> Option<ReloadStatus> {
        let reload = self.reload.as_ref()?;
        let phase = match reload {
            Reload { back: true, .. } => ReloadPhase::GoingBack,
            Reload { trial: Some(_), .. } => ReloadPhase::Canary,
            _ => ReloadPhase::Replacing,
        };
        let Reload { replaced, of, .. } = *reload;
        Some(ReloadStatus { generation: self.generation, replaced, of, phase })
    }

    /// A wish: every worker is replaced by one with the new program.
    pub(super) fn begin_reload(&mut self, now: Time) {
        self.drop_unproven(now, Leave::Reload, None);
        self.end_reload(now, Outcome::Superseded);
        self.renew();
        let of = self.wanted.len();
        self.reload =
            Some(Reload { begun: now, replaced: 0, of, trial: self.draw_trial(), back: false });
        self.open_receipt();
        self.report(Report::ReloadBegun { generation: self.generation, workers: of });
    }

    /// A wish: all workers stop, then all start again.
    pub(super) fn begin_restart(&mut self, now: Time) {
        self.end_reload(now, Outcome::Superseded);
        self.renew();
        self.restarting = Some(Restarting { begun: now, down: false });
        let live: Vec<WorkerId> =
            self.workers.values().filter(|w| w.guarded && w.is_live()).map(|w| w.id).collect();
        let (generation, workers) = (self.generation, live.len());
        self.report(Report::RestartBegun { generation, workers });
        for id in live {
            self.drain(now, id, Leave::Restart, true);
        }
    }

    /// There is a new program. Whoever brings it has mended something: no slot waits any longer.
    fn renew(&mut self) {
        self.generation += 1;
        self.version = self.generation;
        for slot in &self.wanted {
            self.slots.insert(*slot, super::Slot::default());
        }
        (self.start_failures, self.start_hold) = (0, None);
    }

    /// The slots of the canary: the first that serve.
    fn draw_trial(&self) -> Option<Trial> {
        let rule = self.spec.reload.canary.as_ref()?;
        let serve = |slot: &SlotId| self.in_slot(*slot).any(|w| w.guarded && w.is_ready());
        let most = usize::try_from(rule.slots).unwrap_or(usize::MAX).max(1);
        let slots: BTreeSet<SlotId> =
            self.wanted.iter().copied().filter(serve).take(most).collect();
        (!slots.is_empty()).then_some(Trial { slots, since: None })
    }

    /// Whether the new program is on trial, and not in this slot.
    pub(super) fn is_tried_elsewhere(&self, slot: SlotId) -> bool {
        let trial = self.reload.as_ref().and_then(|reload| reload.trial.as_ref());
        trial.is_some_and(|trial| !trial.slots.contains(&slot))
    }

    /// Whether a worker has the new program on trial.
    pub(super) fn is_canary(&self, worker: &Worker) -> bool {
        let trial = self.reload.as_ref().is_some_and(|reload| reload.trial.is_some());
        trial && worker.guarded && worker.generation == self.generation
    }

    /// Whether a worker does not have the program that all are to have.
    fn is_old(&self, worker: &Worker) -> bool {
        worker.version != self.version
    }

    /// Whether a worker is as good as it has to be, so that the one before it may leave.
    pub(super) fn is_confirmed(&self, worker: &Worker, now: Time) -> bool {
        self.confirmed_at(worker).is_some_and(|at| at <= now)
    }

    /// When that is, if nothing happens; `None` if it is not known yet.
    fn confirmed_at(&self, worker: &Worker) -> Option<Time> {
        let Phase::Ready { since } = worker.phase else { return None };
        match &self.reload {
            Some(reload) if worker.generation == self.generation => {
                let healthy =
                    if reload.back { Duration::ZERO } else { self.spec.reload.healthy_for };
                reload.trial.is_none().then(|| since.after(healthy))
            }
            _ => Some(since),
        }
    }

    /// When a reload goes on by itself, after a moment.
    pub(super) fn reload_goes_on(&self, after: Time) -> impl Iterator<Item = Time> {
        let reload = self.reload.as_ref();
        let trial = reload.and_then(|reload| reload.trial.as_ref()?.since);
        let verdict = trial.map(|since| since.after(self.trial_time()));
        let confirmed = self
            .workers
            .values()
            .filter(move |_| reload.is_some())
            .filter_map(|w| self.confirmed_at(w));
        verdict.into_iter().chain(confirmed).filter(move |at| *at > after)
    }

    fn trial_time(&self) -> Duration {
        self.spec.reload.canary.as_ref().map_or(Duration::ZERO, |rule| rule.time)
    }

    /// The canary: all in place, or proven.
    pub(super) fn step_trial(&mut self, now: Time) {
        let (time, generation) = (self.trial_time(), self.generation);
        let Some(mut trial) = self.reload.as_mut().and_then(|reload| reload.trial.take()) else {
            return;
        };
        let lost = trial.slots.first().copied();
        trial.slots.retain(|slot| self.wanted.contains(slot));
        if let (true, Some(slot)) = (trial.slots.is_empty(), lost) {
            // Scaled away without a verdict: it is tried elsewhere, or not at all.
            let next = self.draw_trial();
            let none_left = next.is_none();
            if let Some(reload) = &mut self.reload {
                reload.trial = Some(next.unwrap_or(trial));
            }
            if none_left {
                self.reload_failed_in(now, (generation, slot), End::Lost(Leave::Scale), None);
            }
            return;
        }
        let has_it = |slot: &SlotId| {
            self.in_slot(*slot).any(|w| w.guarded && w.is_ready() && w.generation == generation)
        };
        if trial.since.is_none() && trial.slots.iter().all(has_it) {
            trial.since = Some(now);
            let slots = trial.slots.len();
            self.report(Report::CanaryBegun { generation, slots, time });
        }
        if trial.since.is_some_and(|since| since.after(time) <= now) {
            self.report(Report::CanaryPassed { generation, time });
        } else if let Some(reload) = &mut self.reload {
            reload.trial = Some(trial);
        }
    }

    /// Wanted slots where more than one of those serve that are surely no successors: nobody has to leave elsewhere.
    fn crowded_slots(&self, now: Time) -> Vec<SlotId> {
        let surely = |w: &Worker| {
            let new = self.reload.is_some() && w.generation == self.generation;
            new && !self.is_tried_elsewhere(w.slot) && !self.is_confirmed(w, now)
        };
        let (mut one, mut more) = (Slots::default(), Slots::default());
        for worker in self.workers.values().filter(|w| w.guarded && w.is_live() && !surely(w)) {
            if one.contains(worker.slot) {
                more.insert(worker.slot);
            }
            one.insert(worker.slot);
        }
        if more.len() == 0 {
            return Vec::new();
        }
        self.wanted.iter().filter(|slot| more.contains(**slot)).copied().collect()
    }

    /// Where a slot has several live workers, one stays, and the successor that a reload that is
    /// going on brings up beside it.
    pub(super) fn retire_doubled(&mut self, now: Time) {
        let newest = self.generation;
        for slot in self.crowded_slots(now) {
            let live = || self.in_slot(slot).filter(|w| w.guarded && w.is_live());
            let retiring = live().filter(|w| w.retire.is_some()).map(|w| w.id).max();
            let replaces = |w: &Worker| retiring.is_some_and(|old| old < w.id) && !w.is_ready();
            let elsewhere = self.is_tried_elsewhere(slot);
            let is_successor = |w: &&Worker| match &self.reload {
                // A reload brings its own, where it is.
                Some(_) if !elsewhere => w.generation == newest && !self.is_confirmed(w, now),
                _ => replaces(w),
            };
            // The newest that serves; if none does, the one that has been starting the longest.
            let stays = live().filter(|w| !is_successor(w)).max_by_key(|w| {
                (w.is_ready(), if w.is_ready() { w.id.0 } else { u32::MAX - w.id.0 })
            });
            let Some(stays) = stays.cloned() else { continue };
            let leave: Vec<Worker> =
                live().filter(|w| w.id != stays.id && !is_successor(w)).cloned().collect();
            for old in leave {
                let why = old.retire.map_or(Leave::Reload, |retire| retire.why);
                self.drain(now, old.id, why, true);
                if let Some(worker) = self.workers.get_mut(&old.id)
                    && let Some((_, by)) = &mut worker.left
                    && self.reload.is_some()
                {
                    *by = newest;
                }
                if let Some(reload) = self.reload.as_mut()
                    && old.generation < newest
                    && stays.generation == newest
                {
                    reload.replaced += 1;
                }
            }
        }
    }

    /// The next step of a rolling reload: the next slots get successors, or the reload is over. At most so many
    /// may start now.
    pub(super) fn step_reload(&mut self, now: Time, room: usize) {
        let Some(reload) = &self.reload else { return };
        let (newest, back) = (self.generation, reload.back);
        let (replaced, took) = (reload.replaced, now.since(reload.begun));
        let wanted: Slots = self.wanted.iter().copied().collect();
        let in_wanted = |w: &&Worker| w.guarded && w.is_live() && wanted.contains(w.slot);
        let old: Slots = self
            .workers
            .values()
            .filter(in_wanted)
            .filter(|w| self.is_old(w))
            .map(|w| w.slot)
            .collect();
        // A successor that is on its way, or whose end is awaited, is waited for.
        let mut busy: Slots = self
            .workers
            .values()
            .filter(in_wanted)
            .filter(|w| w.generation == newest && !self.is_confirmed(w, now))
            .map(|w| w.slot)
            .filter(|slot| old.contains(*slot))
            .collect();
        // Unless its crash was counted already, and it says only whether another one follows.
        let awaits = |slot: &&SlotId| {
            self.slots.get(slot).is_some_and(|s| s.awaits.is_some() && s.counted.is_none())
        };
        self.wanted.iter().filter(awaits).for_each(|slot| busy.insert(*slot));
        let (may, at_once) = match &reload.trial {
            Some(trial) => (&trial.slots, trial.slots.len()),
            None => (&self.wanted, self.spec.reload.at_once.of(self.wanted.len())),
        };
        let count = at_once.saturating_sub(busy.len());
        let due: Vec<SlotId> = may
            .iter()
            .filter(|slot| old.contains(**slot) && !busy.contains(**slot))
            .take(count)
            .copied()
            .collect();
        let over = old.len() == 0 && busy.len() == 0;
        self.held_back |= due.len() > room;
        for slot in due.into_iter().take(room) {
            self.fork_in(slot, true);
        }
        // There is no old one any more: who is ready is new.
        let is_done = |slot: &SlotId| {
            let ended = self.slots.get(slot).is_some_and(|s| s.ended);
            ended || self.in_slot(*slot).any(|w| self.is_confirmed(w, now))
        };
        if over && self.wanted.iter().all(is_done) {
            self.good = self.version;
            let generation = newest;
            if back {
                self.report(Report::RolledBack { generation, replaced, took });
                self.end_reload(now, Outcome::RolledBack);
            } else {
                self.report(Report::ReloadDone { generation, replaced, took });
                self.end_reload(now, Outcome::Done);
            }
        }
    }

    /// A restart of all: the last old one is gone, or the last new one is ready.
    pub(super) fn step_restart(&mut self, now: Time) {
        let Some(Restarting { begun, down }) = self.restarting.clone() else { return };
        if !down {
            let gone = !self.workers.values().any(|w| w.guarded);
            self.restarting = Some(Restarting { begun, down: gone });
            if !gone {
                return;
            }
        }
        let is_done = |slot: &SlotId| {
            let ended = self.slots.get(slot).is_some_and(|s| s.ended);
            ended || self.in_slot(*slot).any(Worker::is_ready)
        };
        if self.wanted.iter().all(is_done) {
            (self.good, self.restarting) = (self.version, None);
            let (generation, took) = (self.generation, now.since(begun));
            self.report(Report::Restarted { generation, took });
        }
    }

    pub(super) fn coming_up_failed(&mut self, now: Time, id: WorkerId, why: End) {
        if let Some(worker) = self.workers.get(&id).cloned() {
            self.coming_up_failed_of(now, &worker, why);
        }
    }

    /// A worker of the newest generation did not come up: a reload ends here.
    pub(super) fn coming_up_failed_of(&mut self, now: Time, failed: &Worker, why: End) {
        self.reload_failed(now, failed, why, Some(failed.id));
    }

    /// `dying`: who is dealt with by the caller.
    pub(super) fn reload_failed(
        &mut self,
        now: Time,
        failed: &Worker,
        why: End,
        dying: Option<WorkerId>,
    ) {
        self.reload_failed_in(now, (failed.generation, failed.slot), why, dying);
    }

    fn reload_failed_in(
        &mut self,
        now: Time,
        (failed, slot): (u64, SlotId),
        why: End,
        dying: Option<WorkerId>,
    ) {
        if failed < self.generation {
            return;
        }
        let Some(reload) = self.reload.clone() else { return };
        self.drop_unproven(now, Leave::Rollback, dying);
        let ready = |w: &&Worker| w.guarded && w.is_ready();
        let kept = self.workers.values().filter(ready).filter(|w| self.is_old(w)).count();
        let workers = self.workers.values().filter(|w| self.is_to_go_back(w, dying)).count();
        let rolls = !reload.back && (self.spec.reload.rollback || reload.trial.is_some());
        let then = match rolls && workers > 0 {
            false => Then::Stays,
            true if self.can_go_back => Then::GoesBack,
            true => Then::NothingToGoBackTo,
        };
        let (generation, replaced) = (self.generation, reload.replaced);
        self.report(Report::ReloadFailed {
            generation,
            slot,
            why: why.clone(),
            replaced,
            kept,
            then,
        });
        self.end_reload(now, Outcome::Failed(why));
        // Who crashes from now on is followed by the program that most have.
        if !reload.back && (replaced == 0 || rolls && self.can_go_back) {
            self.version = self.good;
        }
        if then == Then::GoesBack {
            self.generation += 1;
            self.reload =
                Some(Reload { begun: now, replaced: 0, of: workers, trial: None, back: true });
            self.open_receipt();
            let (generation, version) = (self.generation, self.version);
            self.report(Report::RollbackBegun { generation, version, workers });
        }
    }

    /// Whether a worker has the program that failed, and nobody else serves in its slot.
    fn is_to_go_back(&self, worker: &Worker, dying: Option<WorkerId>) -> bool {
        let wanted = worker.guarded && worker.is_live() && self.wanted.contains(&worker.slot);
        wanted && !self.is_old(worker) && Some(worker.id) != dying && !self.has_older_beside(worker)
    }

    /// Whether the one that it was to replace serves.
    fn has_older_beside(&self, worker: &Worker) -> bool {
        self.in_slot(worker.slot).any(|w| w.is_ready() && w.generation < worker.generation)
    }

    /// Workers that serve beside those that they were to replace leave.
    fn drop_unproven(&mut self, now: Time, why: Leave, dying: Option<WorkerId>) {
        if self.reload.is_none() {
            return;
        }
        let newest = self.generation;
        let beside = |w: &&Worker| {
            let new = w.guarded && w.is_ready() && w.generation == newest;
            new && Some(w.id) != dying && self.has_older_beside(w)
        };
        let leave: Vec<WorkerId> = self.workers.values().filter(beside).map(|w| w.id).collect();
        for id in leave {
            self.drain(now, id, why, true);
        }
    }
}
