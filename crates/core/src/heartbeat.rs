//! Whether a worker is still alive, though its process is there.
//!
//! A worker on a channel is asked once in an interval. A question at the end of whose interval nothing was heard of the
//! worker is a *miss*; after so many in a row it *hangs*. Who never answered a ping is never judged: it may be something
//! that does not know how.
//!
//! A worker that cannot be asked *stalls* when connections stand in its queue, and nothing of it moves: it uses no
//! CPU time, and opens and closes no socket.
//!
//! No verdict is passed on time in which the primary itself did not run: see [`Pace`].

use crate::time::Time;
use core::time::Duration;

/// How often a worker is asked. A worker that computes for a while without a pause is none that hangs, and its queue is
/// handed to others long before: patience costs little, a wrong verdict costs what it was computing.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// How many questions in a row are not answered when a worker hangs.
pub const MISSES: u32 = 3;
/// How long a worker that cannot be asked must have stood still.
pub const STALL: Duration = Duration::from_secs(30);
/// How much CPU time a worker may have used that stands still: the kernel counts in ticks of so much, and a part of the
/// time (one in so many) for what a runtime does beside the program.
const STILL: (Duration, u32) = (Duration::from_millis(10), 200);

/// When a worker on a channel hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How often it is asked.
    pub interval: Duration,
    /// How many questions in a row it may not answer; at least 1.
    pub misses: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self { interval: INTERVAL, misses: MISSES }
    }
}

/// What one beat means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to do.
    Fine,
    /// Ping it.
    Ask,
    /// So many questions in a row were not answered.
    Missed(u32),
    /// It gives no sign of life.
    Hung,
}

/// The heartbeat of one worker.
///
/// ```
/// use phalanx_core::heartbeat::{Heartbeat, Rules, Verdict};
/// use phalanx_core::time::Time;
/// let (at, rules) = (Time::from_millis, Rules::default());
/// let mut heart = Heartbeat::new(at(0));
/// heart.answered(at(100));
/// assert_eq!(heart.beat(at(10_000), rules), Verdict::Ask);
/// assert_eq!(heart.beat(at(20_000), rules), Verdict::Missed(1));
/// heart.sign(at(29_000));
/// assert_eq!(heart.beat(at(30_000), rules), Verdict::Ask);
/// assert_eq!(heart.beat(at(40_000), rules), Verdict::Missed(1));
/// assert_eq!(heart.beat(at(50_000), rules), Verdict::Missed(2));
/// assert_eq!(heart.beat(at(60_000), rules), Verdict::Hung);
/// ```
#[derive(Clone, Debug)]
pub struct Heartbeat {
    heard: Time,
    /// It answers pings.
    answers: bool,
    /// When it was asked, or when the last miss was counted.
    asked: Option<Time>,
    missed: u32,
}

impl Heartbeat {
    /// It begins now.
    #[must_use]
    pub const fn new(now: Time) -> Self {
        Self { heard: now, answers: false, asked: None, missed: 0 }
    }

    /// A sign of life: anything that the worker said.
    pub const fn sign(&mut self, now: Time) {
        self.heard = now;
        self.asked = None;
        self.missed = 0;
    }

    /// It answered a ping; from now on it is held to that.
    pub const fn answered(&mut self, now: Time) {
        self.sign(now);
        self.answers = true;
    }

    /// What was not heard up to now does not count, but when it was last heard is known.
    pub const fn pardon(&mut self) {
        self.asked = None;
        self.missed = 0;
    }

    /// How long it has not been heard.
    #[must_use]
    pub const fn silence(&self, now: Time) -> Duration {
        now.since(self.heard)
    }

    /// How many questions it did not answer in a row.
    #[must_use]
    pub const fn missed(&self) -> u32 {
        self.missed
    }

    /// Another interval is over.
    pub fn beat(&mut self, now: Time, rules: Rules) -> Verdict {
        let Some(asked) = self.asked else {
            self.asked = Some(now);
            return Verdict::Ask;
        };
        if !self.answers || now.since(asked) < rules.interval {
            return Verdict::Fine;
        }
        self.asked = Some(now);
        self.missed = self.missed.saturating_add(1);
        if self.missed >= rules.misses.max(1) {
            Verdict::Hung
        } else {
            Verdict::Missed(self.missed)
        }
    }
}

/// Whether the primary itself ran all the time. What comes too late, or after the machine was suspended, finds answers
/// that nobody has read yet, and workers that were held still with it.
///
/// ```
/// use core::time::Duration;
/// use phalanx_core::heartbeat::Pace;
/// use phalanx_core::time::Time;
/// let (at, second) = (Time::from_millis, Duration::from_secs(1));
/// let mut pace = Pace::default();
/// assert!(pace.keeps(at(0), Duration::ZERO, second), "the first step is never late");
/// assert!(pace.keeps(at(1_040), Duration::ZERO, second));
/// assert!(!pace.keeps(at(4_000), Duration::ZERO, second), "it was stopped");
/// assert!(!pace.keeps(at(5_000), Duration::from_secs(3_600), second), "the machine slept");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Pace {
    last: Option<(Time, Duration)>,
}

/// How long the machine may have slept by the difference of two clocks that are not read at one moment.
const AWAKE: Duration = Duration::from_millis(50);

impl Pace {
    /// A step that was to come `expected` after the last one. `asleep`: how long, since whenever, the machine has been
    /// suspended (`CLOCK_BOOTTIME` without `CLOCK_MONOTONIC`). Whether nothing was in between.
    pub fn keeps(&mut self, now: Time, asleep: Duration, expected: Duration) -> bool {
        let Some((last, slept)) = self.last.replace((now, asleep)) else { return true };
        let late = now.since(last).saturating_sub(expected);
        let slept = asleep.checked_sub(slept).unwrap_or_default();
        late <= expected / 2 && slept <= AWAKE
    }

    /// The next step is the first one again.
    pub const fn rest(&mut self) {
        self.last = None;
    }
}

/// What can be seen of a worker that cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// The CPU time that its processes have used.
    pub cpu: Duration,
    /// Which sockets they have open: a number that is another one for others.
    pub sockets: u64,
}

/// How long a worker whose queue does not move has stood still.
#[derive(Clone, Debug, Default)]
pub struct Stall {
    first: Option<Activity>,
    last: Time,
    stood: Duration,
}

impl Stall {
    /// Its queue does not move, and this was seen of it. Only time in which it was looked at every so often counts. Whether
    /// it hangs.
    ///
    /// ```
    /// use core::time::Duration;
    /// use phalanx_core::heartbeat::{Activity, Stall};
    /// use phalanx_core::time::Time;
    /// let (at, second) = (Time::from_millis, Duration::from_secs(1));
    /// let still = Activity { cpu: second, sockets: 7 };
    /// let mut stall = Stall::default();
    /// assert!(!stall.look(at(0), still, second, 2 * second));
    /// assert!(!stall.look(at(1_000), still, second, 2 * second));
    /// assert!(stall.look(at(2_000), still, second, 2 * second));
    /// ```
    pub fn look(&mut self, now: Time, seen: Activity, every: Duration, limit: Duration) -> bool {
        let gap = now.since(self.last);
        let (tick, part) = STILL;
        let still = |first: &Activity| {
            let used = seen.cpu.saturating_sub(first.cpu);
            seen.sockets == first.sockets && used <= tick + self.stood / part
        };
        // Of what was seen long ago nothing follows.
        let goes_on = self.first.as_ref().is_some_and(still) && gap <= limit;
        self.last = now;
        if !goes_on {
            self.first = Some(seen);
            self.stood = Duration::ZERO;
            return false;
        }
        self.stood += gap.min(every.saturating_mul(2));
        self.stood >= limit
    }

    /// How long, as far as it was looked at.
    #[must_use]
    pub const fn stood(&self) -> Duration {
        self.stood
    }

    /// What was seen does not count.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Failed checks of one worker in a row.
#[derive(Clone, Debug, Default)]
pub struct Failures(u32);

impl Failures {
    /// A check is over: whether the worker passed it, how long that took, and how long it may have taken. One that
    /// took much longer than it may was held up in the primary, and shows nothing. Whether the worker is unhealthy.
    pub fn checked(&mut self, passed: bool, took: Duration, limit: Duration, misses: u32) -> bool {
        if passed {
            self.0 = 0;
        } else if took <= limit.saturating_add(limit / 2) {
            self.0 = self.0.saturating_add(1);
        }
        self.0 >= misses.max(1)
    }

    /// How many.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.0
    }

    /// They do not count any more.
    pub const fn pardon(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests;
