//! Crashes: how they are counted, and what follows.

use super::{Cluster, Mode};
use crate::report::Report;
use crate::restart::{PROVEN, Restart};
use crate::time::Time;
use crate::worker::{End, EndKind, Exit, Phase, SlotId, Worker, WorkerId};
use alloc::vec::Vec;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Crashes that are remembered by their time, whatever the limit.
const REMEMBERED: usize = 1000;

/// How long the end of a worker is awaited that leaves by itself, where it decides about its slot.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// When a slot may have another worker, and when if nobody else is left.
pub(super) type Holds = (Option<Time>, Option<Time>);

/// What a slot remembers between its workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Slot {
    /// Crashes in a row.
    pub(super) crashes: u32,
    /// When the last ones were, as far as they count.
    pub(super) recent: Vec<Time>,
    /// It was said that it is in a crash loop.
    pub(super) looping: bool,
    /// When it may get a worker again.
    pub(super) hold: Option<Time>,
    /// It may, but too many others are starting.
    pub(super) due: bool,
    /// When it may get one if nobody else is left: its last worker did serve.
    pub(super) last_resort: Option<Time>,
    /// It is not given another worker (restarts are off, or its last one said so).
    pub(super) ended: bool,
    /// A worker that left before it was ready, or whose end decides. How it ends says why; nothing starts here before,
    /// unless another crash here was counted.
    pub(super) awaits: Option<WorkerId>,
    /// Its crash, if it is one, was counted: when the next one may start but for that.
    pub(super) counted: Option<Holds>,
    /// How its last worker ended that was not told to leave.
    pub(super) last: Option<EndKind>,
}

impl Slot {
    /// One crash more: whether there are so many within a while that they are a loop.
    fn counts_within(&mut self, rule: &Restart, now: Time) -> bool {
        if rule.limit == 0 || rule.within.is_zero() {
            return false;
        }
        let limit = usize::try_from(rule.limit).unwrap_or(REMEMBERED).min(REMEMBERED);
        self.recent.push(now);
        self.recent.retain(|at| now.since(*at) <= rule.within);
        if self.recent.len() > limit {
            self.recent.remove(0);
        }
        self.recent.len() >= limit
    }
}

impl Cluster {
    /// Counts a crash, at the moment in which the slot lost its worker, and decides how long the
    /// slot waits. `end`: what became of a worker that had not been ready.
    pub(super) fn crashed(
        &mut self,
        now: Time,
        (worker, id): (WorkerId, SlotId),
        served: Duration,
        end: Option<End>,
    ) {
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
        let (crashes, often) = (slot.crashes, slot.counts_within(&rule, now));
        let in_a_row = rule.is_loop(crashes);
        let looping = in_a_row || often;
        let wait = if looping { rule.cap } else { rule.delay(crashes) };
        let wait = rule.spread(wait, id, worker);
        slot.hold = Some(now.after(wait));
        slot.last_resort = (!served.is_zero()).then(|| now.after(rule.base.min(wait)));
        let known = core::mem::replace(&mut slot.looping, looping);
        let recent = u32::try_from(slot.recent.len()).unwrap_or(u32::MAX);
        if !self.ever_ready && self.start_failed(now, (worker, id), end, served) {
            return;
        }
        if looping {
            if !known {
                let within = (!in_a_row).then_some(rule.within);
                let crashes = if in_a_row { crashes } else { recent };
                self.report(Report::CrashLoop { slot: id, crashes, every: rule.cap, within });
            }
        } else if !wait.is_zero() {
            self.report(Report::Waiting { slot: id, wait, crashes });
        }
    }

    /// Nobody has shown yet that the program can serve: the crashes of all slots are one row. Whether it is given up.
    fn start_failed(
        &mut self,
        now: Time,
        (worker, slot): (WorkerId, SlotId),
        end: Option<End>,
        served: Duration,
    ) -> bool {
        self.start_failures = self.start_failures.saturating_add(1);
        let rule = &self.spec.restart;
        let over =
            rule.is_loop(self.start_failures) && !self.anyone_ready() && !self.anyone_hopes();
        let wait = rule.spread(rule.delay(self.start_failures), slot, worker);
        self.start_hold = Some(now.after(wait));
        if over {
            self.give_up(now, end.unwrap_or(End::Crashed(served)));
        }
        over
    }

    pub(super) fn give_up(&mut self, now: Time, why: End) {
        self.report(Report::NeverReady { why });
        self.failed_start = true;
        self.stop(now);
    }

    /// Whether a slot in which nobody crashed yet is only slow to start. It has no longer for that than every start.
    fn anyone_hopes(&self) -> bool {
        let crashed = |slot| self.slots.get(&slot).is_some_and(|slot: &Slot| slot.crashes > 0);
        let starts = |w: &Worker| w.guarded && matches!(w.phase, Phase::Starting { .. });
        self.workers.values().any(|w| starts(w) && !crashed(w.slot))
    }

    /// Whether anybody that is guarded serves.
    pub(super) fn anyone_ready(&self) -> bool {
        self.workers.values().any(|w| w.guarded && w.is_ready())
    }

    /// A worker that has been ready for a while has shown that the program can serve.
    pub(super) fn note_proven(&mut self, now: Time) {
        let proves = |w: &Worker| w.guarded && w.served(now) >= PROVEN;
        if !self.ever_ready && self.workers.values().any(proves) {
            (self.ever_ready, self.settled_until) = (true, None);
        }
    }

    /// Whoever wishes to replace what serves has seen that it does, however short that was.
    pub(super) fn note_seen(&mut self) {
        if !self.ever_ready && self.anyone_ready() {
            (self.ever_ready, self.settled_until) = (true, None);
        }
    }

    /// A worker ended in a way that is not to be followed by another. `false`: its slot is served by somebody else.
    pub(super) fn stopped_itself(
        &mut self,
        worker: &Worker,
        exit: Exit,
        as_successor: bool,
    ) -> bool {
        let id = worker.slot;
        if self.mode != Mode::Running || !self.wanted.contains(&id) {
            return true;
        }
        if self.in_slot(id).any(Worker::is_live) {
            // A successor that ends so has failed as one; and one that has one is gone.
            return !as_successor;
        }
        let slot = self.slots.entry(id).or_default();
        (slot.ended, slot.hold, slot.last_resort) = (true, None, None);
        let left = self.wanted.len() - self.ended().count();
        self.report(Report::SlotEnded { worker: worker.id, slot: id, exit, left });
        true
    }

    /// How a worker ends that is leaving by itself decides whether its slot gets another one; but it is not waited for
    /// longer than a moment.
    pub(super) fn await_end(&mut self, now: Time, id: WorkerId, slot: SlotId) {
        if self.mode != Mode::Running || self.in_slot(slot).any(Worker::is_live) {
            return;
        }
        let slot = self.slots.entry(slot).or_default();
        slot.awaits = Some(id);
        slot.counted = Some((slot.hold, slot.last_resort));
        slot.hold = Some(slot.hold.unwrap_or(now).max(now.after(ENDS_WITHIN)));
        slot.last_resort = None;
    }

    /// It has ended, and the slot waits no longer than for its crash.
    pub(super) fn has_ended(&mut self, id: SlotId, (hold, last_resort): Holds) {
        if self.in_slot(id).any(Worker::is_live) {
            return;
        }
        if let Some(slot) = self.slots.get_mut(&id) {
            (slot.hold, slot.last_resort) = (hold, last_resort);
        }
    }
}
