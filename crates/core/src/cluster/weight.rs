//! How much of the new connections each worker gets.

use super::Cluster;
use crate::time::Time;
use crate::worker::{Phase, Worker, WorkerId};
use core::time::Duration;

/// The weight of a worker like any other.
pub const FULL: u32 = 64;
/// The steps of a slow start.
const STEPS: u32 = 8;

impl Cluster {
    /// How much of the new connections a worker is to get now, in proportion to the others: [`FULL`] but while it starts
    /// slowly, or is the canary of a reload.
    #[must_use]
    pub fn weight(&self, id: WorkerId, now: Time) -> u32 {
        let Some(worker) = self.worker(id).filter(|w| w.guarded) else { return FULL };
        let Phase::Ready { since } = worker.phase else { return FULL };
        if let Some(weight) = self.canary_weight(worker) {
            return weight;
        }
        match self.spec.slow_start {
            Some(time) if !time.is_zero() => slow(now.since(since), time),
            _ => FULL,
        }
    }

    /// Whether workers may have other weights than [`FULL`].
    #[must_use]
    pub fn has_weights(&self) -> bool {
        let canary = self.spec.reload.canary.as_ref();
        self.spec.slow_start.is_some() || canary.is_some_and(|canary| canary.share.is_some())
    }

    /// All canaries together get their share of what all get.
    fn canary_weight(&self, worker: &Worker) -> Option<u32> {
        let share = self.spec.reload.canary.as_ref()?.share?.clamp(1, 99);
        if !self.is_canary(worker) {
            return None;
        }
        let ready = || self.workers.values().filter(|w| w.guarded && w.is_ready());
        let canaries = ready().filter(|w| self.is_canary(w)).count().max(1);
        let others = ready().count() - canaries.min(ready().count());
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let all = u32::from(share).saturating_mul(count(others)).saturating_mul(FULL);
        Some((all / u32::from(100 - share) / count(canaries)).max(1))
    }

    /// When a weight changes next, after a moment.
    pub(super) fn weight_changes(&self, after: Time) -> Option<Time> {
        let time = self.spec.slow_start.filter(|time| !time.is_zero())?;
        let of = |worker: &Worker| {
            let Phase::Ready { since } = worker.phase else { return None };
            let mut steps = (1..STEPS).map(|step| since.after(at_step(time, step)));
            steps.find(|at| *at > after).filter(|_| worker.guarded)
        };
        self.workers.values().filter_map(of).min()
    }
}

/// When a step of a slow start is reached.
fn at_step(time: Duration, step: u32) -> Duration {
    time.checked_mul(step).map_or(time, |all| all / STEPS)
}

/// The weight of a worker that has been ready for so long.
fn slow(ready: Duration, time: Duration) -> u32 {
    let reached = (1..STEPS).filter(|step| ready >= at_step(time, *step)).count();
    FULL / STEPS * (1 + u32::try_from(reached).unwrap_or(STEPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_start_rises_in_eight_steps() {
        let time = Duration::from_secs(8);
        let at = |ms| slow(Duration::from_millis(ms), time);
        assert_eq!([at(0), at(999), at(1_000), at(3_500), at(6_999)], [8, 8, 16, 32, 56]);
        assert_eq!([at(7_000), at(8_000), at(1_000_000)], [FULL; 3]);
    }
}
