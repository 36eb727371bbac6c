//! The comparison of what is with what is wanted.

use super::{Action, Cluster, Mode};
use crate::report::Report;
use crate::time::Time;
use crate::worker::{End, Leave, Phase, SlotId, Worker, WorkerId};
use alloc::vec::Vec;
use core::time::Duration;

impl Cluster {
    /// What to do now. Asked twice at one moment, the second answer is empty.
    #[must_use]
    pub fn plan(&mut self, now: Time) -> Vec<Action> {
        self.pass_deadlines(now);
        self.retire_unwanted(now);
        self.retire_doubled(now);
        self.step_reload(now);
        self.replace_retired(now);
        self.fill_slots(now);
        // With a grace of nothing, those who were told to leave just now are late already.
        self.pass_deadlines(now);
        self.finish();
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
        let workers = self.workers.values().filter_map(|worker| self.deadline(worker));
        let slots = self.wanted.iter().filter_map(|slot| self.fills_at(*slot));
        let retired = self.workers.values().filter_map(|worker| self.succeeded_at(worker));
        workers.chain(slots).chain(retired).min()
    }

    /// When a slot gets another worker; `None` while it has one, or until something happens.
    fn fills_at(&self, id: SlotId) -> Option<Time> {
        let slot = self.slots.get(&id)?;
        let open = !slot.ended && (slot.awaits.is_none() || slot.hold.is_some());
        if !open || self.in_slot(id).any(Worker::is_live) {
            return None;
        }
        let hold = slot.hold.unwrap_or_default();
        let nobody = !self.workers.values().any(|w| w.guarded && w.is_live());
        Some(slot.last_resort.filter(|at| nobody && *at < hold).unwrap_or(hold))
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
                    self.coming_up_failed(id, End::NotReady(after));
                    self.kill(now, id, Leave::StartTimeout);
                    self.crashed(now, slot, Duration::ZERO, Some(End::NotReady(after)));
                }
                Phase::Draining { since, why, terminated, served, .. } => {
                    let after = now.since(since);
                    if upgraded > 0 && !terminated {
                        self.report(Report::Cut { worker: id, slot, connections: upgraded });
                    }
                    if terminated || self.spec.kill_after.is_zero() {
                        self.report(Report::GraceOver { worker: id, slot, after });
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
        let unwanted: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|w| w.is_live() && (stopping || w.guarded && !self.wanted.contains(&w.slot)))
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

    /// Where a slot has several live workers, one stays, and the successor that a reload that is
    /// going on brings up beside it.
    fn retire_doubled(&mut self, now: Time) {
        let newest = self.generation;
        for slot in self.wanted.clone() {
            let live = || self.in_slot(slot).filter(|w| w.guarded && w.is_live());
            let retiring = live().filter(|w| w.retire.is_some()).map(|w| w.id).max();
            let is_successor = |w: &&Worker| {
                // A reload brings its own.
                let comes = match &self.reload {
                    Some(_) => w.generation == newest,
                    None => retiring.is_some_and(|old| old < w.id),
                };
                comes && !w.is_ready()
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
                if let Some(reload) = self.reload.as_mut()
                    && old.generation < newest
                    && stays.generation == newest
                {
                    reload.replaced += 1;
                }
            }
        }
    }

    /// The next step of a rolling reload: the next slot gets a successor, or the reload is over.
    fn step_reload(&mut self, now: Time) {
        let Some(reload) = &self.reload else { return };
        let (newest, replaced, took) = (self.generation, reload.replaced, now.since(reload.begun));
        let in_wanted = |w: &&Worker| w.guarded && w.is_live() && self.wanted.contains(&w.slot);
        let old = |w: &&Worker| in_wanted(w) && w.generation < newest;
        // One at a time: a successor that is on its way, or whose end is awaited, is waited for.
        let on_its_way = self.workers.values().filter(in_wanted).any(|w| {
            w.generation == newest && !w.is_ready() && self.in_slot(w.slot).any(|w| old(&w))
        });
        let awaited =
            self.wanted.iter().filter_map(|slot| self.slots.get(slot)).any(|s| s.awaits.is_some());
        if on_its_way || awaited {
            return;
        }
        if let Some(slot) = self.workers.values().filter(old).map(|w| w.slot).min() {
            self.fork_in(slot, true);
            return;
        }
        // There is no old one any more: who is ready is new.
        let is_done = |slot: &SlotId| {
            let ended = self.slots.get(slot).is_some_and(|s| s.ended);
            ended || self.in_slot(*slot).any(Worker::is_ready)
        };
        if self.wanted.iter().all(is_done) {
            self.reload = None;
            self.report(Report::ReloadDone { generation: newest, replaced, took });
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
        for slot in due {
            self.fork_in(slot, true);
        }
    }

    /// Every wanted slot without a worker gets one, unless it has to wait.
    fn fill_slots(&mut self, now: Time) {
        let wanted: Vec<SlotId> = self.wanted.iter().copied().collect();
        for slot in wanted {
            // Asked again for each: the first one changes what the others may.
            if self.fills_at(slot).is_some_and(|at| at <= now) {
                self.fork_in(slot, true);
            }
        }
    }

    fn finish(&mut self) {
        // Restarts are off and the last one ended.
        let over = !self.wanted.is_empty()
            && self.wanted.iter().all(|slot| self.slots.get(slot).is_some_and(|s| s.ended));
        if over && self.workers.is_empty() {
            match self.last_end.take() {
                Some(end) if !self.ever_ready => self.give_up(end),
                _ => self.stop(),
            }
        }
        if self.mode == Mode::Stopping && self.workers.is_empty() {
            self.mode = Mode::Stopped;
            self.report(Report::Stopped);
        }
    }
}
