//! What happens to a worker, from its fork to its end.

use super::{Action, Cluster, Event, Mode};
use crate::report::Report;
use crate::spec::ReadyWhen;
use crate::time::Time;
use crate::worker::{End, EndKind, Exit, Leave, Phase, Retire, SlotId, Worker, WorkerId};
use alloc::string::String;
use core::time::Duration;

/// A worker that leaves of its own will after less than this is counted as a crash: nobody wants a loop of
/// processes that come only to leave.
const POLITE: Duration = Duration::from_secs(1);
/// How long a worker has for its own end when the last of its upgraded connections ended late.
const AFTER_UPGRADED: Duration = Duration::from_secs(10);

impl Cluster {
    pub(super) fn observe_worker(&mut self, now: Time, id: WorkerId, event: Event) {
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
            Event::OutOfMemory { certain, .. } => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.oom = Some(certain);
                }
            }
            Event::Cut { connections, .. } => self.were_cut(id, connections),
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
                    self.coming_up_failed(now, id, end.clone());
                }
                self.kill(now, id, Leave::Broken);
                if serves {
                    self.crashed(now, (id, slot), served, coming_up.then_some(end));
                }
            }
            Event::Exited { exit, .. } => self.exited(now, id, exit),
            Event::Scale { .. }
            | Event::CanGoBack(_)
            | Event::Reload
            | Event::Restart
            | Event::Stop
            | Event::StopNow => {}
        }
    }

    fn set_ready(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if matches!(worker.phase, Phase::Starting { .. }) {
            worker.phase = Phase::Ready { since: now };
        }
    }

    fn exited(&mut self, now: Time, id: WorkerId, exit: Exit) {
        let Some(worker) = self.workers.remove(&id) else { return };
        let (slot, served) = (worker.slot, worker.served(now));
        let asked = match worker.phase {
            Phase::Draining { why, .. } | Phase::Killed { why, .. } => Some(why),
            _ => None,
        };
        // A channel that closes is how most crashes show first; unless it had to be killed after that.
        let killed = matches!(worker.phase, Phase::Killed { .. });
        let told = asked.filter(|why| killed || *why != Leave::ChannelClosed);
        let by_itself = matches!(worker.phase, Phase::Draining { terminated: false, .. })
            && matches!(asked, Some(Leave::Itself | Leave::ChannelClosed));
        let stops =
            worker.guarded && (asked.is_none() || by_itself) && self.spec.restart.stops(exit);
        let kind = kind_of(&worker, told, exit, served, stops);
        self.report(Report::Ended { worker: id, slot, exit, asked: told, served, kind });
        self.is_gone(now, &worker);
        if !worker.guarded {
            if !self.wanted.contains(&slot) {
                self.slots.remove(&slot);
            }
            return;
        }
        // One that was told to leave, or whose crash was counted when it left, just ends.
        let counted = self.slots.get_mut(&slot).and_then(|slot| {
            slot.last = if told.is_none() { Some(kind) } else { slot.last };
            slot.awaits.take_if(|awaited| *awaited == id)?;
            Some(slot.counted.take())
        });
        if asked.is_some() && counted.is_none() {
            return;
        }
        let counted = counted.flatten();
        let arrived = counted.is_some() || self.has_arrived(&worker);
        let end = (!arrived).then(|| match served.is_zero() {
            true => End::Exited(exit),
            false => End::Crashed(served),
        });
        if stops && self.stopped_itself(&worker, exit, end.is_some()) {
            return;
        }
        if let Some(hold) = counted {
            self.has_ended(slot, hold);
            if asked == Some(Leave::Itself) && served >= POLITE {
                return;
            }
        }
        // A version that crashes when it has hardly begun is not given to the slots that are left.
        let late = self.spec.restart.enabled.then_some(End::Crashed(served));
        if let Some(why) = end.clone().or(late) {
            self.coming_up_failed_of(now, &worker, why);
        }
        if counted.is_none() {
            self.crashed(now, (id, slot), served, end);
        }
    }

    fn not_started(&mut self, now: Time, id: WorkerId, why: String, permanent: bool) {
        let Some(worker) = self.workers.remove(&id) else { return };
        self.report(Report::NotStarted { worker: id, slot: worker.slot, why: why.clone() });
        self.is_gone(now, &worker);
        if !worker.guarded {
            return;
        }
        let end = End::NotStarted(why);
        if worker.is_live() {
            self.coming_up_failed_of(now, &worker, end.clone());
        }
        if permanent && !self.ever_ready && self.mode == Mode::Running && !self.anyone_ready() {
            self.give_up(now, end);
        } else {
            self.crashed(now, (id, worker.slot), Duration::ZERO, Some(end));
        }
    }

    /// Lets a worker finish. `tell`: it does not know yet.
    pub(super) fn drain(&mut self, now: Time, id: WorkerId, why: Leave, tell: bool) {
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
        let by = matches!(why, Leave::Reload | Leave::Rollback).then_some(self.generation);
        worker.left = Some((now, by.unwrap_or(0)));
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
        } else if by_itself && self.spec.restart.enabled && self.spec.restart.has_stops() {
            if !polite {
                self.crashed(now, (id, slot), served, None);
            }
            self.await_end(now, id, slot);
        } else if by_itself && !polite {
            if self.spec.restart.enabled {
                self.coming_up_failed(now, id, End::Crashed(served));
            }
            self.crashed(now, (id, slot), served, None);
        } else if (why == Leave::Asked || polite) && !self.spec.restart.enabled {
            let served_on = self.in_slot(slot).any(Worker::is_live);
            self.slots.entry(slot).or_default().ended = !served_on;
        }
    }

    /// A worker goes on until a successor is ready.
    pub(super) fn retire(&mut self, now: Time, id: WorkerId, why: Leave) {
        let running = self.mode == Mode::Running;
        let Some(worker) = self.workers.get(&id).filter(|w| w.is_ready() && w.guarded) else {
            return;
        };
        // A successor that still has to show that it is any good is none.
        if self.reload.is_some() && !self.has_arrived(worker) {
            if matches!(why, Leave::Age | Leave::Connections) {
                // That says nothing about the program.
                return;
            }
            let failed = worker.clone();
            self.reload_failed(now, &failed, End::Lost(why), None);
            return;
        }
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.retire.is_none() && running && self.wanted.contains(&worker.slot) {
            worker.retire = Some(Retire { why, failures: 0, hold: now });
            let slot = worker.slot;
            self.report(Report::Replacing { worker: id, slot, why });
        }
    }

    /// A worker is beyond help.
    pub(super) fn lost(&mut self, now: Time, id: WorkerId, why: Leave) {
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
            worker.left.get_or_insert((now, 0));
            self.outbox.push(Action::Terminate { worker: id });
        }
        if guarded {
            let end = End::Lost(why);
            if self.spec.restart.enabled || coming_up {
                self.coming_up_failed(now, id, end.clone());
            }
            self.crashed(now, (id, slot), served, coming_up.then_some(end));
        }
    }

    pub(super) fn kill(&mut self, now: Time, id: WorkerId, why: Leave) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let served = worker.served(now);
        let why = match worker.phase {
            Phase::Draining { why, .. } | Phase::Killed { why, .. } => why,
            _ => why,
        };
        let act = worker.pid.is_some() && !matches!(worker.phase, Phase::Killed { .. });
        worker.phase = Phase::Killed { since: now, why, served };
        worker.left.get_or_insert((now, 0));
        if act {
            self.outbox.push(Action::Kill { worker: id });
        }
    }

    /// A worker that leaves is waited for as long as it has connections of another protocol, but not when all stop.
    pub(super) fn upgraded(
        &mut self,
        now: Time,
        id: WorkerId,
        count: u32,
        grace: Option<Duration>,
    ) {
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

    /// A slot gets its next worker. While a new program is on trial, other slots get the one before.
    pub(super) fn fork_in(&mut self, slot: SlotId, guarded: bool) -> WorkerId {
        self.last_id += 1;
        let id = WorkerId(self.last_id);
        let (generation, version) = match guarded && self.is_tried_elsewhere(slot) {
            true => (self.generation.saturating_sub(1), self.good),
            false => (self.generation, self.version),
        };
        self.workers.insert(Worker {
            id,
            slot,
            generation,
            version,
            guarded,
            pid: None,
            phase: Phase::Forking,
            retire: None,
            left: None,
            oom: None,
            upgraded: 0,
        });
        if guarded {
            let slot = self.slots.entry(slot).or_default();
            (slot.hold, slot.last_resort, slot.due) = (None, None, false);
            if slot.counted.take().is_some() {
                // How it ends decides nothing any more.
                slot.awaits = None;
            }
        }
        self.outbox.push(Action::Fork { worker: id, slot });
        id
    }
}

fn kind_of(
    worker: &Worker,
    told: Option<Leave>,
    exit: Exit,
    served: Duration,
    stops: bool,
) -> EndKind {
    match (worker.oom, told) {
        (Some(certain), _) => EndKind::OutOfMemory { certain },
        _ if stops => EndKind::Stopped,
        (None, Some(why)) => EndKind::Told(why),
        (None, None) if served.is_zero() => EndKind::NeverReady,
        (None, None) if exit == Exit::Code(0) => EndKind::Finished,
        (None, None) => EndKind::Crashed,
    }
}
