//! How long to wait before a slot gets another worker, and whether it gets one.

use crate::worker::{Exit, SlotId, WorkerId};
use alloc::collections::BTreeSet;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// A worker that was ready for so long has shown that the program can serve. One that crashes before has not: a
/// program that listens and falls over at once would otherwise be started for ever.
pub const PROVEN: Duration = Duration::from_millis(100);

/// The restart rule of a slot.
///
/// The first crash is answered at once. Each further one, without a worker that stayed ready for
/// [`stable`](Self::stable) in between, waits longer. After [`limit`](Self::limit) crashes in a row, or so many
/// [`within`](Self::within) a while, the slot is in a *crash loop*: it is said loudly, and only probed once every
/// [`cap`](Self::cap).
///
/// What ends a row: a worker that was ready for `stable`, a reload, or that the slot is given up and wanted again. What
/// ends a loop of many crashes within a while: that the oldest of them is longer ago than `within`, or a reload.
///
/// As long as no worker of the whole cluster was ready for [`PROVEN`], the crashes of all slots are one row: what cannot
/// start in one slot can in none, and after `limit` of them the cluster gives up.
///
/// Restraint must not become an outage: while no worker is left at all, a slot whose last worker did serve waits
/// no longer than [`base`](Self::base).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// Whether ended workers are replaced at all.
    pub enabled: bool,
    /// The wait after the second crash in a row.
    pub base: Duration,
    /// What each further wait is multiplied with.
    pub factor: u32,
    /// The longest wait.
    pub cap: Duration,
    /// By how many percent a wait may be shorter or longer, so that slots that crash together do not start together
    /// again and again. At most 100.
    pub jitter: u8,
    /// A worker that was ready for so long ends the row of crashes.
    pub stable: Duration,
    /// So many crashes in a row, or [`within`](Self::within) a while, are a crash loop. 0: there is no such thing.
    pub limit: u32,
    /// `limit` crashes within this time are a crash loop too, however long the workers lived. Nothing: only a row is.
    pub within: Duration,
    /// A worker that ends by itself with one of these codes is not replaced: its slot is ended.
    pub stop_codes: BTreeSet<i32>,
    /// A worker that is ended by one of these signals, and not by its primary, is not replaced either.
    pub stop_signals: BTreeSet<i32>,
    /// When the last slot is ended the cluster stays, for the reload or restart that starts all anew: jobs that run at
    /// their times. Without it, it stops.
    #[serde(default)]
    pub stays: bool,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            enabled: true,
            base: Duration::from_millis(100),
            factor: 2,
            cap: Duration::from_secs(5),
            jitter: 25,
            stable: Duration::from_secs(10),
            limit: 6,
            within: Duration::from_secs(60),
            stop_codes: BTreeSet::new(),
            stop_signals: BTreeSet::new(),
            stays: false,
        }
    }
}

impl Restart {
    /// How long to wait after so many crashes in a row, but for the jitter.
    ///
    /// ```
    /// use core::time::Duration;
    /// use phalanx_core::restart::Restart;
    /// let rule = Restart { limit: 5, ..Restart::default() };
    /// let waits: Vec<u128> = (1..=5).map(|n| rule.delay(n).as_millis()).collect();
    /// assert_eq!(waits, [0, 100, 200, 400, 5_000]);
    /// ```
    #[must_use]
    pub fn delay(&self, in_a_row: u32) -> Duration {
        if self.is_loop(in_a_row) {
            return self.cap;
        }
        if in_a_row <= 1 {
            return Duration::ZERO;
        }
        let factor = self.factor.max(1).saturating_pow(in_a_row - 2);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// A wait with its jitter: the same for the same slot and the same dead worker.
    ///
    /// ```
    /// use core::time::Duration;
    /// use phalanx_core::restart::Restart;
    /// use phalanx_core::worker::{SlotId, WorkerId};
    /// let rule = Restart { jitter: 25, ..Restart::default() };
    /// let wait = |slot| rule.spread(Duration::from_secs(5), SlotId(slot), WorkerId(7));
    /// assert_eq!(wait(1), wait(1));
    /// assert_ne!(wait(1), wait(2));
    /// assert!(wait(1) >= Duration::from_millis(3_750) && wait(1) <= Duration::from_millis(6_250));
    /// ```
    #[must_use]
    pub fn spread(&self, wait: Duration, slot: SlotId, worker: WorkerId) -> Duration {
        let jitter = u64::from(self.jitter.min(100));
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let most = millis.saturating_mul(jitter) / 100;
        if most == 0 {
            return wait;
        }
        let mixed = mix(u64::from(slot.0) << 32 | u64::from(worker.0));
        let shorter = wait.saturating_sub(Duration::from_millis(most));
        shorter
            .saturating_add(Duration::from_millis(mixed % most.saturating_mul(2).saturating_add(1)))
    }

    /// Whether so many crashes in a row are a crash loop.
    #[must_use]
    pub const fn is_loop(&self, in_a_row: u32) -> bool {
        self.limit > 0 && in_a_row >= self.limit
    }

    /// The length of the row of crashes after one more, when the worker that ended had been ready
    /// for `ready_for`.
    #[must_use]
    pub fn row(&self, before: u32, ready_for: Duration) -> u32 {
        if ready_for >= self.stable { 1 } else { before.saturating_add(1) }
    }

    /// Whether a worker that ends so by itself is not to be replaced. Where none is, one that ends with 0 did what it was
    /// there for.
    #[must_use]
    pub fn stops(&self, exit: Exit) -> bool {
        match exit {
            Exit::Code(code) => self.stop_codes.contains(&code) || !self.enabled && code == 0,
            Exit::Signal(number) => self.stop_signals.contains(&number),
        }
    }

    /// Whether there are such ends at all: then how a worker ended has to be known before it is replaced.
    #[must_use]
    pub fn has_stops(&self) -> bool {
        !self.enabled || !self.stop_codes.is_empty() || !self.stop_signals.is_empty()
    }
}

/// The finalizer of `SplitMix64`: near inputs, far outputs.
const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_worker_that_was_stable_starts_a_new_row() {
        let rule = Restart::default();
        assert_eq!(rule.row(4, rule.stable), 1);
        assert_eq!(rule.row(4, Duration::ZERO), 5);
    }

    #[test]
    fn ends_that_are_not_followed_by_another() {
        let rule =
            Restart { stop_codes: [0, 3].into(), stop_signals: [15].into(), ..Restart::default() };
        assert!(rule.has_stops() && !Restart::default().has_stops());
        for (exit, stops) in [
            (Exit::Code(0), true),
            (Exit::Code(3), true),
            (Exit::Code(15), false),
            (Exit::Signal(15), true),
            (Exit::Signal(3), false),
        ] {
            assert_eq!(rule.stops(exit), stops, "{exit}");
        }
    }

    #[test]
    fn slots_that_crash_together_start_apart() {
        let rule = Restart::default();
        let mut waits: alloc::vec::Vec<Duration> =
            (0..16).map(|n| rule.spread(rule.cap, SlotId(n), WorkerId(n + 1))).collect();
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 14, "{waits:?}");
    }

    proptest! {
        #[test]
        fn waits_grow_and_stay_under_the_cap(base in 0u64..5_000, factor in 0u32..10, n in 0u32..200) {
            let rule = Restart { base: Duration::from_millis(base), factor, limit: 0, ..Restart::default() };
            prop_assert!(rule.delay(n) <= rule.delay(n + 1));
            prop_assert!(rule.delay(n) <= rule.cap);
        }

        #[test]
        fn jitter_stays_within_its_bounds(ms in 0u64..u64::MAX, jitter: u8, slot: u32, worker: u32) {
            let wait = Duration::from_millis(ms);
            let rule = Restart { jitter, ..Restart::default() };
            let got = rule.spread(wait, SlotId(slot), WorkerId(worker));
            let most = wait / 100 * u32::from(jitter.min(100)) + Duration::from_secs(1);
            prop_assert!(got >= wait.saturating_sub(most));
            prop_assert!(got <= wait.saturating_add(most));
        }
    }
}
