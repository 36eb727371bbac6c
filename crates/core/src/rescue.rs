//! Whether a slot's queue stands still.
//!
//! The kernel tells how many connections wait in a slot, not whether the queue moves. So: at least one
//! waits and the queue was never seen to get shorter for half the patience: *suspect*, the worker is
//! pinged. The whole patience is over and the ping is not answered: *stuck*. A worker that answers
//! but does not take its connections is stuck after [`ALIVE_FACTOR`] times the patience.
//! A wrong verdict is harmless: some connections take the other way.

use crate::time::Time;
use core::time::Duration;

/// The default patience: 100 ms.
pub const PATIENCE: Duration = Duration::from_millis(100);
/// How many times the patience a worker has that answers pings.
pub const ALIVE_FACTOR: u32 = 5;
/// How many times the patience a worker that answered all along is left alone after it was stuck.
pub const REST_FACTOR: u32 = 10;

/// The part of the patience, and of the default one at most, by which a sample may come too early and
/// count: samples are a quarter apart and never on time, and one that comes a moment early would leave
/// the verdict to the next.
const EARLY_PART: u32 = 8;

/// What one sample of a queue means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to do.
    Fine,
    /// Ping the worker.
    Ask,
    /// Steer around the slot and hand over what waits in it.
    Stuck,
}

/// The watch over one slot of one port.
///
/// ```
/// use core::time::Duration;
/// use phalanx_core::rescue::{PATIENCE, Verdict, Watch};
/// use phalanx_core::time::Time;
/// let mut watch = Watch::default();
/// let at = Time::from_millis;
/// assert_eq!(watch.sample(at(0), 1, PATIENCE), Verdict::Fine);
/// assert_eq!(watch.sample(at(50), 1, PATIENCE), Verdict::Ask);
/// assert_eq!(watch.sample(at(100), 2, PATIENCE), Verdict::Stuck);
/// watch.answered(at(900));
/// assert_eq!(watch.sample(at(900), 0, PATIENCE), Verdict::Fine);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Since when something waits and the queue was not seen to get shorter.
    standing: Option<Time>,
    last: u32,
    asked: Option<Time>,
    answered: Option<Time>,
    stuck: Option<Time>,
}

impl Watch {
    /// So many connections wait now.
    pub fn sample(&mut self, now: Time, waiting: u32, patience: Duration) -> Verdict {
        if let Some(since) = self.stuck {
            let back = match (self.asked, self.answered) {
                (Some(_), None) => false,
                // It answered all along: let it have another try after a rest.
                _ => now.since(since) >= patience.saturating_mul(REST_FACTOR),
            };
            if !back {
                return Verdict::Stuck;
            }
            *self = Self::default();
        }
        let shorter = waiting < self.last;
        self.last = waiting;
        if waiting == 0 {
            (self.standing, self.asked, self.answered) = (None, None, None);
            return Verdict::Fine;
        }
        if shorter {
            (self.standing, self.asked, self.answered) = (Some(now), None, None);
            return Verdict::Fine;
        }
        let early = patience.min(PATIENCE) / EARLY_PART;
        let stood = now.since(*self.standing.get_or_insert(now)).saturating_add(early);
        let limit = match (self.asked, self.answered) {
            (Some(_), Some(_)) => patience.saturating_mul(ALIVE_FACTOR),
            (Some(_), None) => patience,
            (None, _) if stood >= patience / 2 => {
                self.asked = Some(now);
                return Verdict::Ask;
            }
            (None, _) => return Verdict::Fine,
        };
        if stood < limit {
            return Verdict::Fine;
        }
        self.stuck = Some(now);
        Verdict::Stuck
    }

    /// The worker answered a ping.
    pub fn answered(&mut self, now: Time) {
        match (self.stuck, self.answered) {
            // It did not answer when it was found stuck; now it does: it is back.
            (Some(_), None) => *self = Self::default(),
            _ if self.asked.is_some() => self.answered = Some(now),
            _ => {}
        }
    }

    /// The worker was seen to take connections, though others came at the same time.
    pub fn moved(&mut self, now: Time) {
        *self = Self { standing: Some(now), last: self.last, ..Self::default() };
    }

    /// Whether the slot is steered around.
    #[must_use]
    pub const fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    /// The slot has another worker: what was seen of the last one does not count.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(watch: &mut Watch, samples: &[(u64, u32)]) -> Verdict {
        let mut last = Verdict::Fine;
        for (ms, waiting) in samples {
            last = watch.sample(Time::from_millis(*ms), *waiting, PATIENCE);
        }
        last
    }

    #[test]
    fn a_queue_that_gets_shorter_now_and_then_is_fine() {
        let mut watch = Watch::default();
        for round in 0..100u64 {
            let t = round * 75;
            assert_ne!(run(&mut watch, &[(t, 9), (t + 25, 12), (t + 50, 11)]), Verdict::Stuck);
        }
    }

    #[test]
    fn a_worker_that_answers_has_more_time() {
        let mut watch = Watch::default();
        assert_eq!(run(&mut watch, &[(0, 3), (50, 3)]), Verdict::Ask);
        watch.answered(Time::from_millis(60));
        assert_eq!(run(&mut watch, &[(100, 3), (400, 4)]), Verdict::Fine);
        assert_eq!(run(&mut watch, &[(500, 4)]), Verdict::Stuck);
        assert_eq!(run(&mut watch, &[(1_400, 0)]), Verdict::Stuck, "it rests");
        assert_eq!(run(&mut watch, &[(1_500, 0)]), Verdict::Fine);
        assert!(!watch.is_stuck());
    }

    #[test]
    fn a_queue_that_moves_is_fine_however_long() {
        let mut watch = Watch::default();
        assert_eq!(run(&mut watch, &[(0, 3), (50, 3)]), Verdict::Ask);
        watch.answered(Time::from_millis(50));
        assert_eq!(run(&mut watch, &[(500, 3)]), Verdict::Stuck);
        watch.moved(Time::from_millis(500));
        assert!(!watch.is_stuck());
        assert_eq!(run(&mut watch, &[(525, 3)]), Verdict::Fine);
        assert_eq!(run(&mut watch, &[(550, 3)]), Verdict::Ask);
    }

    #[test]
    fn a_sample_that_comes_a_moment_early_counts_and_one_that_comes_much_too_early_does_not() {
        let mut watch = Watch::default();
        assert_eq!(run(&mut watch, &[(5, 1), (30, 1)]), Verdict::Fine);
        // The first was late: the others are not.
        assert_eq!(run(&mut watch, &[(50, 1)]), Verdict::Ask);
        assert_eq!(run(&mut watch, &[(75, 1)]), Verdict::Fine);
        assert_eq!(run(&mut watch, &[(100, 1)]), Verdict::Stuck);
    }

    #[test]
    fn a_silent_worker_is_stuck_until_it_answers() {
        let mut watch = Watch::default();
        assert_eq!(run(&mut watch, &[(0, 1), (50, 1), (100, 1)]), Verdict::Stuck);
        assert_eq!(run(&mut watch, &[(60_000, 0)]), Verdict::Stuck);
        watch.answered(Time::from_millis(60_001));
        assert_eq!(run(&mut watch, &[(60_002, 1)]), Verdict::Fine);
    }
}
