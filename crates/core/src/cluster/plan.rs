//! The comparison of what is with what is wanted.

use super::table::Slots;
use super::{Action, Cluster, Mode};
use crate::report::Report;
use crate::restart::PROVEN;
use crate::spec::STARTS_FOR;
use crate::time::Time;
use crate::worker::{End, Leave, Phase, SlotId, Worker, WorkerId};
use alloc::vec::Vec;
use core::time::Duration;

impl Cluster {
    /// What to do now. Asked twice at one moment, the second answer is empty.
    #[must_use]
    pub fn plan(&mut self, now: Time) -> Vec<Action> {
        self.note_proven(now);
        // Most of what a primary hears decides nothing. Nobody looks through all workers for that.
        if self.settled_until.is_some_and(|until| until.is_none_or(|at| now < at)) {
            return Vec::new();
        }
        (self.planned, self.held_back) = (now, false);
        self.pass_deadlines(now);
        self.retire_unwanted(now);
        self.step_trial(now);
        self.retire_doubled(now);
        self.step_restart(now);
        // A slot with nobody goes before one that has somebody.
        let reloading = self.reload.is_some();
        if reloading {
            let room = self.room_beside_due(now);
            self.step_reload(now, room);
        }
        if reloading && self.reload.is_none() {
            // Who was watched only for the reload is as good as any other now.
            self.retire_doubled(now);
        }
        self.replace_retired(now);
        self.fill_slots(now);
        // With a grace of nothing, those who were told to leave just now are late already.
        self.pass_deadlines(now);
        self.close_receipts(now);
        self.finish(now);
        self.settled_until = Some(self.next_plan());
        let mut actions = core::mem::take(&mut self.outbox);
        // Who ended since it was decided to tell or kill it is not told or killed.
        actions.retain(|action| match action {
            Action::Disconnect { worker }
            | Action::Terminate { worker }
            | Action::Kill { worker } => self.workers.contains_key(worker),
            Action::Fork { .. } | Action::Report(_) => true,
        });
        actions
    }

    /// When to plan again if nothing is observed until then.
    #[must_use]
    pub fn wake(&self) -> Option<Time> {
        self.settled_until.unwrap_or_else(|| self.next_plan())
    }

    fn next_plan(&self) -> Option<Time> {
        let workers = self.workers.values().filter_map(|worker| self.deadline(worker));
        let empty = self.empty_slots();
        let slots = empty.iter().filter_map(|slot| self.fills_at(*slot));
        let retired = self.workers.values().filter_map(|worker| self.succeeded_at(worker));
        // What could not start because of others starts when they are ready, or take too long.
        let planned = self.planned;
        let starts = slots.chain(retired).filter(|at| !self.held_back || *at > planned);
        let room =
            self.workers.values().filter(|_| self.held_back).filter_map(|w| self.starts_until(w));
        workers
            .chain(starts)
            .chain(self.proven_at().filter(|_| !empty.is_empty()))
            .chain(room.filter(|at| *at > planned))
            .chain(self.reload_goes_on(planned))
            .chain(self.weight_changes(planned))
            .chain(self.receipts_due())
            .min()
    }

    /// When the program will have shown that it can serve, if slots wait for that.
    fn proven_at(&self) -> Option<Time> {
        self.start_hold.filter(|_| !self.ever_ready)?;
        let ready = |w: &Worker| match w.phase {
            Phase::Ready { since } if w.guarded => Some(since.after(PROVEN)),
            _ => None,
        };
        self.workers.values().filter_map(ready).min()
    }

    /// Until when a worker that starts keeps others from it.
    fn starts_until(&self, worker: &Worker) -> Option<Time> {
        match worker.phase {
            Phase::Starting { since, .. } if worker.guarded => Some(since.after(STARTS_FOR)),
            _ => None,
        }
    }

    /// How many workers may begin to start now.
    fn room(&self, now: Time) -> usize {
        if self.spec.starts_at_once == 0 {
            return usize::MAX;
        }
        let starts = |w: &&Worker| {
            let forking = w.guarded && w.phase == Phase::Forking;
            forking || self.starts_until(w).is_some_and(|until| until > now)
        };
        let starting = self.workers.values().filter(starts).count();
        self.spec.starts_at_once.saturating_sub(starting)
    }

    /// How many may begin to start beside those that go before.
    fn room_beside_due(&self, now: Time) -> usize {
        match self.room(now) {
            usize::MAX => usize::MAX,
            room => room.saturating_sub(self.due(now).count()),
        }
    }

    /// Slots without a worker that are to get one now.
    fn due(&self, now: Time) -> impl Iterator<Item = SlotId> {
        let due = move |slot: &SlotId| self.fills_at(*slot).is_some_and(|at| at <= now);
        self.empty_slots().into_iter().filter(due)
    }

    /// Wanted slots in which nobody serves or is about to, lowest first.
    fn empty_slots(&self) -> Vec<SlotId> {
        let live: Slots = self.workers.values().filter(|w| w.is_live()).map(|w| w.slot).collect();
        self.wanted.iter().filter(|slot| !live.contains(**slot)).copied().collect()
    }

    /// When a slot gets another worker; `None` while it has one, or until something happens.
    fn fills_at(&self, id: SlotId) -> Option<Time> {
        let slot = self.slots.get(&id)?;
        let stopping = self.restarting.as_ref().is_some_and(|restarting| !restarting.down);
        let open = !slot.ended && (slot.awaits.is_none() || slot.hold.is_some() || slot.due);
        if stopping || !open || self.in_slot(id).any(Worker::is_live) {
            return None;
        }
        let hold = slot.hold.unwrap_or_default();
        let nobody = !self.workers.values().any(|w| w.guarded && w.is_live());
        let at = slot.last_resort.filter(|at| nobody && *at < hold).unwrap_or(hold);
        let start = self.start_hold.filter(|_| !self.ever_ready).unwrap_or_default();
        Some(at.max(start))
    }

    /// When a worker that is to be replaced gets its successor; `None` if it has one.
    fn succeeded_at(&self, worker: &Worker) -> Option<Time> {
        let retire = worker.retire.as_ref().filter(|_| worker.is_live())?;
        let has_one = self.in_slot(worker.slot).any(|w| w.is_live() && w.id > worker.id);
        let wanted = self.mode == Mode::Running && self.wanted.contains(&worker.slot);
        (wanted && !has_one).then_some(retire.hold)
    }

    /// When a worker's patience ends.
    fn deadline(&self, worker: &Worker) -> Option<Time> {
        match worker.phase {
            Phase::Starting { since, .. } if worker.guarded => {
                self.spec.start_timeout.map(|limit| since.after(limit))
            }
            Phase::Draining { deadline, .. } if worker.pid.is_some() => deadline,
            _ => None,
        }
    }

    fn pass_deadlines(&mut self, now: Time) {
        let late: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|worker| self.deadline(worker).is_some_and(|at| at <= now))
            .map(|worker| worker.id)
            .collect();
        for id in late {
            let Some(worker) = self.workers.get(&id) else { continue };
            let (slot, upgraded) = (worker.slot, worker.upgraded);
            match worker.phase {
                Phase::Starting { since, .. } => {
                    let after = now.since(since);
                    self.report(Report::StartTimeout { worker: id, slot, after });
                    self.coming_up_failed(now, id, End::NotReady(after));
                    self.kill(now, id, Leave::StartTimeout);
                    self.crashed(now, (id, slot), Duration::ZERO, Some(End::NotReady(after)));
                }
                Phase::Draining { since, why, terminated, served, .. } => {
                    let after = now.since(since);
                    if upgraded > 0 && !terminated {
                        self.were_cut(id, upgraded);
                    }
                    if terminated || self.spec.kill_after.is_zero() {
                        self.report(Report::GraceOver { worker: id, slot, after });
                        self.grace_is_over(id);
                        self.kill(now, id, why);
                    } else if let Some(worker) = self.workers.get_mut(&id) {
                        let deadline = Some(now.after(self.spec.kill_after));
                        worker.phase =
                            Phase::Draining { since, deadline, terminated: true, why, served };
                        self.report(Report::Overdue { worker: id, slot, after });
                        self.outbox.push(Action::Terminate { worker: id });
                    }
                }
                _ => {}
            }
        }
    }

    /// Workers in slots that nobody wants (any more) leave.
    fn retire_unwanted(&mut self, now: Time) {
        let stopping = self.mode != Mode::Running;
        let wanted: Slots = self.wanted.iter().copied().collect();
        let unwanted: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|w| w.is_live() && (stopping || w.guarded && !wanted.contains(w.slot)))
            .map(|w| w.id)
            .collect();
        let why = if stopping { Leave::Stop } else { Leave::Scale };
        for id in unwanted {
            self.drain(now, id, why, true);
        }
        if stopping {
            // Those that the application told to leave, and was to time, are timed from now on, and so are those that
            // had more time than others.
            let limit = self.spec.grace.map(|grace| now.after(grace));
            for worker in self.workers.values_mut() {
                if let Phase::Draining { deadline, .. } = &mut worker.phase
                    && (deadline.is_none() || worker.upgraded > 0)
                {
                    *deadline = deadline.iter().copied().chain(limit).min();
                }
            }
        }
    }

    /// Who is to be replaced gets a successor beside it.
    fn replace_retired(&mut self, now: Time) {
        let due: Vec<SlotId> = self
            .workers
            .values()
            .filter(|worker| self.succeeded_at(worker).is_some_and(|at| at <= now))
            .map(|worker| worker.slot)
            .collect();
        if due.is_empty() {
            return;
        }
        let room = self.room_beside_due(now);
        self.held_back |= due.len() > room;
        for slot in due.into_iter().take(room) {
            self.fork_in(slot, true);
        }
    }

    /// Every wanted slot without a worker gets one, unless it has to wait.
    fn fill_slots(&mut self, now: Time) {
        for slot in self.empty_slots() {
            // Asked again for each: the first one changes what the others may.
            if self.fills_at(slot).is_none_or(|at| at > now) {
                continue;
            }
            if self.room(now) > 0 {
                self.fork_in(slot, true);
            } else if let Some(slot) = self.slots.get_mut(&slot) {
                // It waits for others now, and for no time.
                (slot.due, slot.hold, slot.last_resort) = (true, None, None);
                self.held_back = true;
            }
        }
    }

    fn finish(&mut self, now: Time) {
        // Restarts are off and the last one ended.
        let over = !self.wanted.is_empty() && self.ended().count() == self.wanted.len();
        if over && self.workers.is_empty() && !self.spec.restart.stays {
            match self.last_end.take() {
                Some(end) if !self.ever_ready => self.give_up(now, end),
                _ => self.stop(now),
            }
        }
        if self.mode == Mode::Stopping && self.workers.is_empty() {
            self.mode = Mode::Stopped;
            self.report(Report::Stopped);
        }
    }
}
