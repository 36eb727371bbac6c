//! What a keeper does when its primary has ended.
//!
//! A primary that stopped in order takes its keeper with it. One that was killed, or died of a fault of its own, is
//! replaced: its workers go on serving meanwhile, so this never gives up.

use crate::time::Time;
use crate::worker::Exit;
use core::time::Duration;

/// The wait after the second end in a row; each further one is twice as long.
pub const BASE: Duration = Duration::from_millis(100);
/// The longest wait.
pub const CAP: Duration = Duration::from_secs(5);
/// The longest wait after one that had taken over: it was killed, more likely than bad, and the next one is to be there
/// within a second.
pub const READY_CAP: Duration = Duration::from_millis(500);
/// A primary that lived so long ends the row.
pub const STABLE: Duration = Duration::from_secs(10);
/// So many that did not even come up in a row: the program may be a bad one, and the keeper's own is tried.
pub const DOUBTS: u32 = 3;
/// The exit code of a program of Rust's that panicked.
const PANICKED: i32 = 101;

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is over: the keeper ends with this exit code.
    End(i32),
    /// Another primary is started, after this time.
    Again {
        /// How long to wait.
        after: Duration,
        /// With the keeper's own program: the newest does not come up.
        own_program: bool,
    },
}

/// The primaries of a keeper, one after the other.
///
/// ```
/// use core::time::Duration;
/// use phalanx_core::keeper::{Primaries, Then};
/// use phalanx_core::time::Time;
/// use phalanx_core::worker::Exit;
/// let at = Time::from_millis;
/// let mut primaries = Primaries::default();
/// primaries.started(at(0));
/// primaries.ready();
/// let killed = primaries.ended(at(60_000), Exit::Signal(9));
/// assert_eq!(killed, Then::Again { after: Duration::ZERO, own_program: false });
/// primaries.started(at(60_000));
/// primaries.ready();
/// assert_eq!(primaries.ended(at(90_000), Exit::Code(0)), Then::End(0));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Primaries {
    since: Time,
    /// This one has taken over.
    is_ready: bool,
    /// One ever had.
    ever_ready: bool,
    /// Ends in a row.
    row: u32,
    /// Of which so many, the last ones, before they were ready.
    never_up: u32,
}

impl Primaries {
    /// Another one was started.
    pub const fn started(&mut self, now: Time) {
        self.since = now;
        self.is_ready = false;
    }

    /// It has taken over.
    pub const fn ready(&mut self) {
        self.is_ready = true;
        self.ever_ready = true;
    }

    /// It is about to become another program, which has not taken over yet.
    pub const fn changing(&mut self) {
        self.is_ready = false;
    }

    /// Whether signals may be passed on to it.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// It ended.
    pub fn ended(&mut self, now: Time, exit: Exit) -> Then {
        let died = match exit {
            Exit::Signal(_) => true,
            Exit::Code(code) => code == PANICKED,
        };
        // An error of one that is to take over is no reason to leave its workers alone.
        let failed_to_take_over = self.ever_ready && !self.is_ready;
        if !died && !failed_to_take_over || !self.ever_ready {
            return Then::End(match exit {
                Exit::Code(code) => code,
                Exit::Signal(signal) => 128 + signal,
            });
        }
        self.row = if now.since(self.since) >= STABLE { 1 } else { self.row.saturating_add(1) };
        let cap = if self.is_ready { READY_CAP } else { CAP };
        self.never_up = if self.is_ready { 0 } else { self.never_up.saturating_add(1) };
        self.is_ready = false;
        let after = match self.row {
            0 | 1 => Duration::ZERO,
            n => BASE.saturating_mul(2u32.saturating_pow(n - 2)).min(cap),
        };
        // Every other time: what is wrong with the newest may have been mended.
        let own_program = self.never_up >= DOUBTS && self.never_up % 2 == 1;
        Then::Again { after, own_program }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn a_first_one_that_fails_is_the_end() {
        for (exit, code) in [(Exit::Code(4), 4), (Exit::Code(101), 101), (Exit::Signal(6), 134)] {
            let mut primaries = Primaries::default();
            primaries.started(at(0));
            assert_eq!(primaries.ended(at(10), exit), Then::End(code));
        }
    }

    #[test]
    fn a_program_that_a_primary_became_has_to_take_over() {
        let mut primaries = Primaries::default();
        primaries.started(at(0));
        primaries.ready();
        primaries.changing();
        assert!(!primaries.is_ready());
        let failed = primaries.ended(at(60_000), Exit::Code(3));
        assert_eq!(failed, Then::Again { after: Duration::ZERO, own_program: false });
    }

    #[test]
    fn waits_grow_up_to_the_cap_and_begin_anew() {
        let lives = [60_000, 10, 10, 10, 10, 10, 10, 10, 10, 10_000];
        for (comes_up, expected) in [
            (true, [0, 100, 200, 400, 500, 500, 500, 500, 500, 0]),
            (false, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 0]),
        ] {
            assert_eq!(waits(&lives, comes_up), expected, "{comes_up}");
        }
    }

    /// The waits, in ms, after primaries that lived so long; the first one comes up in any case.
    fn waits(lives: &[u64], comes_up: bool) -> Vec<u128> {
        let mut primaries = Primaries::default();
        let mut now = 0;
        let mut waits = Vec::new();
        for life in lives {
            primaries.started(at(now));
            if comes_up || now == 0 {
                primaries.ready();
            }
            now += life;
            let Then::Again { after, .. } = primaries.ended(at(now), Exit::Signal(9)) else {
                panic!("not again");
            };
            waits.push(after.as_millis());
        }
        waits
    }

    #[test]
    fn a_program_that_does_not_come_up_is_doubted() {
        let mut primaries = Primaries::default();
        primaries.started(at(0));
        primaries.ready();
        let _ = primaries.ended(at(1), Exit::Signal(11));
        let own: Vec<bool> = (0..6)
            .map(|_| {
                primaries.started(at(2));
                match primaries.ended(at(3), Exit::Code(1)) {
                    Then::Again { own_program, .. } => own_program,
                    Then::End(code) => panic!("ended with {code}"),
                }
            })
            .collect();
        assert_eq!(own, [false, false, true, false, true, false]);
    }
}
