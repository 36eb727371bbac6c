//! The cluster of a primary that is gone, in the hands of the next one.
//!
//! Workers go on as they were. Only what the last primary had begun and nobody can end is begun anew: a
//! worker that was not ready may have asked something that was never answered.

use super::{Cluster, Mode};
use crate::spec::Spec;
use crate::time::Time;
use crate::worker::{Leave, Phase, WorkerId};
use alloc::vec::Vec;

impl Cluster {
    /// Takes over: `self` is what the last primary wrote down, `spec` the rules of this one. A cluster that was
    /// stopping goes on stopping.
    #[must_use]
    pub fn inherited(mut self, now: Time, spec: Spec) -> Self {
        (self.spec, self.settled_until) = (spec, None);
        // There was no process yet, or nobody knows which.
        self.workers.retain(|worker| worker.pid.is_some());
        let unready: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|w| matches!(w.phase, Phase::Starting { .. }))
            .map(|w| w.id)
            .collect();
        for id in unready {
            // That it listens may have been the last thing the other heard: it may serve somebody already.
            self.drain(now, id, Leave::Orphaned, true);
        }
        let killed: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|w| matches!(w.phase, Phase::Killed { .. }))
            .map(|w| w.id)
            .collect();
        for slot in self.slots.values_mut() {
            // The end that was waited for comes, or came; either way the slot is to be filled.
            slot.awaits = slot.awaits.filter(|id| self.workers.contains_key(id));
        }
        // The program before the newest one is known to the last primary only.
        self.can_go_back = false;
        if self.mode == Mode::Stopped {
            self.mode = Mode::Stopping;
        }
        // Whether the last primary still did it is not known; twice does no harm.
        self.outbox.retain(|action| !matches!(action, super::Action::Kill { .. }));
        self.outbox.extend(killed.into_iter().map(|worker| super::Action::Kill { worker }));
        self
    }

    /// Those that the last primary told, or wanted to tell, to leave.
    pub fn told(&self) -> impl Iterator<Item = WorkerId> {
        self.workers.values().filter(|w| matches!(w.phase, Phase::Draining { .. })).map(|w| w.id)
    }
}
