//! Time as the core knows it: a number that the shell passes in.

use core::time::Duration;
use serde::{Deserialize, Serialize};

/// A moment, counted from a start that only the shell knows. It never goes backwards.
///
/// ```
/// use core::time::Duration;
/// use phalanx_core::time::Time;
/// let begun = Time::from_millis(1_500);
/// assert_eq!(begun.after(Duration::from_millis(500)).since(begun), Duration::from_millis(500));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time(Duration);

impl Time {
    /// The start.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// So long after the start.
    #[must_use]
    pub const fn new(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// So many milliseconds after the start.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// This moment plus a while; the end of time if that is beyond it.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// How long after the start.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.0
    }
}
