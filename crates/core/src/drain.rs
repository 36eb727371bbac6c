//! When a worker that cannot be told to drain may be ended.
//!
//! It gets nothing new any more: its slots are steered around. What is in their queues it still takes, and
//! what it has it finishes, without knowing that it is to leave. It is *quiet* when its queues are empty
//! and its connections are gone or have been idle for long enough. When it stays quiet for a moment (a
//! handshake may have been under way to its slot), or the time is over, it is sent SIGTERM.

use crate::time::Time;
use core::time::Duration;

/// How long it must have been quiet.
pub const SETTLED: Duration = Duration::from_millis(100);
/// The part of the grace time that is left for the program's own end after SIGTERM: so much, or a quarter.
const LAST_PART: Duration = Duration::from_secs(5);
/// How often it is looked at, at first and at last.
const EVERY: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(500));

/// What was seen of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Connections in the queues of its slots.
    pub waiting: u32,
    /// Connections it has that are not idle; `None` if that cannot be known.
    pub busy: Option<u32>,
}

impl Seen {
    /// Nothing waits, and nothing is busy.
    pub const QUIET: Self = Self { waiting: 0, busy: Some(0) };
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is to be looked at again after this time.
    Again(Duration),
    /// It is to be sent SIGTERM; so many connections are cut, unless the program finishes them by itself.
    End {
        /// Connections that were busy.
        cut: u32,
    },
}

/// A worker that drains.
///
/// ```
/// use core::time::Duration;
/// use phalanx_core::drain::{Drain, Seen, Step};
/// use phalanx_core::time::Time;
/// let at = Time::from_millis;
/// let mut drain = Drain::new(at(0), Some(Duration::from_secs(30)));
/// let busy = Seen { waiting: 0, busy: Some(1) };
/// assert!(matches!(drain.look(at(0), busy), Step::Again(_)));
/// assert!(matches!(drain.look(at(500), Seen::QUIET), Step::Again(_)));
/// assert_eq!(drain.look(at(600), Seen::QUIET), Step::End { cut: 0 });
/// ```
#[derive(Clone, Debug)]
pub struct Drain {
    since: Time,
    quiet: Option<Time>,
    deadline: Option<Time>,
}

impl Drain {
    /// Begins now; `grace` is all the time it has until it is killed, `None` if that is never.
    #[must_use]
    pub fn new(now: Time, grace: Option<Duration>) -> Self {
        let deadline = grace.map(|grace| now.after(grace - (grace / 4).min(LAST_PART)));
        Self { since: now, quiet: None, deadline }
    }

    /// What follows from what was seen.
    pub fn look(&mut self, now: Time, seen: Seen) -> Step {
        let is_quiet = seen == Seen::QUIET;
        self.quiet = self.quiet.filter(|_| is_quiet).or(is_quiet.then_some(now));
        if self.quiet.is_some_and(|since| now.since(since) >= SETTLED) {
            return Step::End { cut: 0 };
        }
        if self.deadline.is_some_and(|at| at <= now) {
            return Step::End { cut: seen.busy.unwrap_or(0).saturating_add(seen.waiting) };
        }
        let (first, last) = EVERY;
        let pause = if is_quiet { first } else { (now.since(self.since) / 8).clamp(first, last) };
        let left = self.deadline.map_or(last, |at| at.since(now));
        Step::Again(pause.min(left))
    }
}

/// How long a successor has listened, and nothing waits for it, so that it is taken at its word.
pub const AT_ITS_WORD: Duration = Duration::from_secs(1);

/// Whether a successor that listens since then may take the place of the one before it: it was seen to have accepted,
/// or nothing waits for it and nothing came for a while. A program may listen long before it serves, or ever does.
///
/// ```
/// use phalanx_core::drain::{Seen, succeeds};
/// use phalanx_core::time::Time;
/// let at = Time::from_millis;
/// let holds = |busy| Seen { waiting: 0, busy: Some(busy) };
/// assert!(succeeds(at(0), at(50), holds(1)), "it has a connection");
/// assert!(!succeeds(at(0), at(50), holds(0)));
/// assert!(succeeds(at(0), at(1_000), holds(0)), "nobody wants anything");
/// assert!(!succeeds(at(0), at(9_000), Seen { waiting: 3, busy: Some(0) }), "it takes nothing");
/// ```
#[must_use]
pub fn succeeds(since: Time, now: Time, seen: Seen) -> bool {
    seen.busy.is_some_and(|held| held > 0) || seen.waiting == 0 && now.since(since) >= AT_ITS_WORD
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUSY: Seen = Seen { waiting: 1, busy: Some(2) };
    const QUIET: Seen = Seen::QUIET;

    #[test]
    fn one_that_becomes_busy_again_is_waited_for() {
        let at = Time::from_millis;
        let mut drain = Drain::new(at(0), None);
        assert!(matches!(drain.look(at(0), QUIET), Step::Again(_)));
        assert!(matches!(drain.look(at(90), BUSY), Step::Again(_)));
        assert!(matches!(drain.look(at(180), QUIET), Step::Again(_)));
        assert!(matches!(drain.look(at(270), QUIET), Step::Again(_)));
        assert_eq!(drain.look(at(280), QUIET), Step::End { cut: 0 });
    }

    #[test]
    fn the_end_of_the_grace_time_is_the_programs_own() {
        let at = Time::from_millis;
        for (grace, end) in [(30_000, 25_000), (4_000, 3_000), (0, 0)] {
            let mut drain = Drain::new(at(0), Some(Duration::from_millis(grace)));
            if end > 0 {
                assert!(matches!(drain.look(at(end - 1), BUSY), Step::Again(_)), "{grace}");
            }
            assert_eq!(drain.look(at(end), BUSY), Step::End { cut: 3 }, "{grace}");
        }
    }

    #[test]
    fn what_cannot_be_known_is_waited_for() {
        let at = Time::from_millis;
        let mut drain = Drain::new(at(0), Some(Duration::from_secs(4)));
        let unknown = Seen { waiting: 0, busy: None };
        assert!(matches!(drain.look(at(2_999), unknown), Step::Again(_)));
        assert_eq!(drain.look(at(3_000), unknown), Step::End { cut: 0 });
    }

    proptest! {
        #[test]
        fn it_ends_in_time(grace in 0u64..60_000, seen in proptest::collection::vec(0u32..3, 1..50)) {
            let mut now = Time::ZERO;
            let mut drain = Drain::new(now, Some(Duration::from_millis(grace)));
            let mut busy = seen.into_iter().cycle();
            loop {
                let busy = busy.next().unwrap_or(0);
                match drain.look(now, Seen { waiting: 0, busy: Some(busy) }) {
                    Step::End { cut } => {
                        prop_assert!(cut == 0 || cut == busy);
                        break;
                    }
                    Step::Again(pause) => {
                        prop_assert!(pause <= EVERY.1);
                        now = now.after(pause);
                    }
                }
                prop_assert!(now <= Time::from_millis(grace));
            }
        }
    }
}
