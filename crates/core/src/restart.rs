//! How long to wait before a slot gets another worker.

use core::time::Duration;
use serde::{Deserialize, Serialize};

/// The restart rule of a slot.
///
/// The first crash is answered at once. Each further one, without a worker that stayed ready for
/// [`stable`](Self::stable) in between, waits longer. After [`limit`](Self::limit) crashes in a row the slot
/// is in a *crash loop*: it is said loudly, and only probed once every [`cap`](Self::cap).
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
    /// A worker that was ready for so long ends the row of crashes.
    pub stable: Duration,
    /// So many crashes in a row are a crash loop.
    pub limit: u32,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            enabled: true,
            base: Duration::from_millis(100),
            factor: 2,
            cap: Duration::from_secs(5),
            stable: Duration::from_secs(10),
            limit: 6,
        }
    }
}

impl Restart {
    /// How long to wait after so many crashes in a row.
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

    proptest! {
        #[test]
        fn waits_grow_and_stay_under_the_cap(base in 0u64..5_000, factor in 0u32..10, n in 0u32..200) {
            let rule = Restart { base: Duration::from_millis(base), factor, limit: 0, ..Restart::default() };
            prop_assert!(rule.delay(n) <= rule.delay(n + 1));
            prop_assert!(rule.delay(n) <= rule.cap);
        }
    }
}
