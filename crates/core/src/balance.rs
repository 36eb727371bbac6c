//! Which worker gets the next connection, where the primary accepts it (`round-robin`, rescue).
//!
//! A scheduler sees the workers that serve a port and names one. It does not hold connections, and
//! it is never asked about one that nobody may take.

use crate::worker::{SlotId, WorkerId};
use alloc::collections::BTreeMap;
use core::net::IpAddr;
use core::time::Duration;

/// A worker that serves the port, as a scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub worker: WorkerId,
    /// Its place.
    pub slot: SlotId,
    /// Whether it may be given a connection now: its window is open.
    pub free: bool,
    /// Connections given to it and not acknowledged yet.
    pub unanswered: u32,
    /// How long the oldest of them is not acknowledged.
    pub silent: Duration,
    /// Connections it holds, as far as it told.
    pub open: u32,
}

/// How many connections a worker may have that it did not acknowledge, unless told otherwise.
const AHEAD: u32 = 8;
/// A worker that does not acknowledge for so long gets one at a time.
const PROMPT: Duration = Duration::from_millis(2);

/// How many connections a worker may have that it did not acknowledge: as many as is wished, or, if that is 0, as many as
/// keep it from waiting for its primary. That is more than one only as long as it answers promptly: what is given to one
/// that does something else waits there, while others could have taken it.
///
/// ```
/// use core::time::Duration;
/// use phalanx_core::balance::window;
/// assert_eq!(window(3, Duration::from_secs(1)), 3);
/// assert!(window(0, Duration::ZERO) > 1);
/// assert_eq!(window(0, Duration::from_secs(1)), 1);
/// ```
#[must_use]
pub fn window(wished: u32, silent: Duration) -> u32 {
    match wished {
        0 if silent < PROMPT => AHEAD,
        0 => 1,
        wished => wished,
    }
}

/// Chooses the worker for a connection.
///
/// ```
/// use core::net::IpAddr;
/// use phalanx_core::balance::{Candidate, Scheduler};
/// /// Everything to the first worker that has room.
/// struct First;
/// impl Scheduler for First {
///     fn pick(&mut self, _: Option<IpAddr>, candidates: &[Candidate]) -> Option<usize> {
///         candidates.iter().position(|c| c.free)
///     }
/// }
/// ```
pub trait Scheduler: Send {
    /// The place in `candidates` of the worker that gets the connection from `source` (`None` for
    /// a unix socket). `None`, or a candidate that is not free, lets the connection wait.
    /// `candidates` is ordered by worker and never empty.
    fn pick(&mut self, source: Option<IpAddr>, candidates: &[Candidate]) -> Option<usize>;
}

/// How many connections a worker may be ahead of the one that had the fewest.
const LEAD: u64 = 8;
/// A worker that does not acknowledge for so long is not waited for.
const WAITED_FOR: Duration = Duration::from_millis(5);
/// What it missed meanwhile, of so many connections, it is given when it is back: on a busy machine each worker is off
/// the CPU for some milliseconds now and then, and that is no reason to be given less than the others.
const CATCH_UP: u64 = 64;

/// One after the other, as `node:cluster`'s `SCHED_RR`. The default.
///
/// Unlike there, a worker that acknowledges faster does not get more: none gets ahead of the others by more
/// than a few connections, unless they do not answer. One that did not answer for a while catches up with the
/// others, but not without end: after 64 connections they are level. One that is new has nothing to catch up.
#[derive(Clone, Debug)]
pub struct RoundRobin {
    last: WorkerId,
    given: BTreeMap<WorkerId, u64>,
}

impl Default for RoundRobin {
    fn default() -> Self {
        Self { last: WorkerId(0), given: BTreeMap::new() }
    }
}

impl Scheduler for RoundRobin {
    fn pick(&mut self, _: Option<IpAddr>, candidates: &[Candidate]) -> Option<usize> {
        let is_there = |id: &WorkerId| candidates.binary_search_by_key(id, |c| c.worker).is_ok();
        self.given.retain(|id, _| is_there(id));
        let answers = |c: &&Candidate| c.free || c.silent < WAITED_FOR;
        let known =
            || candidates.iter().filter(answers).filter_map(|c| self.given.get(&c.worker)).copied();
        // Who catches up comes first, but is not waited for.
        let most = known().max().unwrap_or(0);
        let level = known().filter(|given| given + 2 * LEAD >= most);
        let least = level.min().unwrap_or(0);
        for candidate in candidates {
            let given = self.given.entry(candidate.worker).or_insert(least);
            if !answers(&candidate) {
                *given = (*given).max(least.saturating_sub(CATCH_UP));
            }
        }
        let count = |c: &Candidate| self.given.get(&c.worker).copied().unwrap_or(least);
        let (at, next) = candidates
            .iter()
            .enumerate()
            .filter(|(_, c)| c.free)
            .min_by_key(|(_, c)| (count(c), c.worker <= self.last, c.worker))?;
        let given = count(next);
        if given > least + LEAD {
            return None;
        }
        self.last = next.worker;
        self.given.insert(next.worker, given + 1);
        Some(at)
    }
}

/// The worker with the fewest connections; among equals, one after the other.
#[derive(Clone, Debug)]
pub struct LeastConnections {
    last: WorkerId,
}

impl Default for LeastConnections {
    fn default() -> Self {
        Self { last: WorkerId(0) }
    }
}

impl Scheduler for LeastConnections {
    fn pick(&mut self, _: Option<IpAddr>, candidates: &[Candidate]) -> Option<usize> {
        let load = |c: &Candidate| c.open.saturating_add(c.unanswered);
        let (at, next) = candidates
            .iter()
            .enumerate()
            .filter(|(_, c)| c.free)
            .min_by_key(|(_, c)| (load(c), c.worker <= self.last, c.worker))?;
        self.last = next.worker;
        Some(at)
    }
}

/// The same source address, the same slot, as long as the slot has a worker (rendezvous hashing: a
/// slot that goes moves only its own clients). A connection waits for its worker.
#[derive(Clone, Debug, Default)]
pub struct Sticky {
    turn: RoundRobin,
}

impl Scheduler for Sticky {
    fn pick(&mut self, source: Option<IpAddr>, candidates: &[Candidate]) -> Option<usize> {
        let Some(source) = source else { return self.turn.pick(source, candidates) };
        let address = match source.to_canonical() {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let (low, high) = (fold(address), fold(address >> 64));
        let score = |c: &Candidate| mix(low ^ mix(high ^ mix(u64::from(c.slot.0).wrapping_add(1))));
        // Of two workers in one slot (a reload), the newer.
        let best = candidates.iter().enumerate().max_by_key(|(_, c)| (score(c), c.worker))?;
        best.1.free.then_some(best.0)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
const fn fold(bits: u128) -> u64 {
    bits as u64
}

/// The finaliser of `SplitMix64`.
const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    fn workers(free: &[bool]) -> Vec<Candidate> {
        (0u32..)
            .zip(free)
            .map(|(i, free)| Candidate {
                worker: WorkerId(i + 1),
                slot: SlotId(i),
                free: *free,
                unanswered: 0,
                silent: Duration::ZERO,
                open: 0,
            })
            .collect()
    }

    #[test]
    fn round_robin_is_exact_and_skips_the_busy() {
        let mut turn = RoundRobin::default();
        let all = workers(&[true; 4]);
        let mut picks: Vec<_> = (0..8).map(|_| turn.pick(None, &all)).collect();
        assert_eq!(picks, [0, 1, 2, 3, 0, 1, 2, 3].map(Some));
        let mut some = workers(&[true, false, true, false]);
        picks = (0..4).map(|_| turn.pick(None, &some)).collect();
        assert_eq!(picks, [0, 2, 0, 2].map(Some));
        assert_eq!(turn.pick(None, &workers(&[false; 3])), None);
        // The others may get ahead a little, then they wait for those who answer soon …
        let more = (0..100).take_while(|_| turn.pick(None, &some).is_some()).count();
        assert!(more < 40, "{more}");
        // … but not for those who do not.
        for c in &mut some {
            c.silent = Duration::from_secs(1);
        }
        assert!((0..1_000).all(|_| turn.pick(None, &some).is_some()));
        // Back again, they catch up, but not with the 500 that each of the others had; then all are level.
        let mut counts = [0_u64; 4];
        for _ in 0..400 {
            counts[turn.pick(None, &all).expect("somebody")] += 1;
        }
        let [busy, back] = [counts[0], counts[1]];
        assert!(busy + CATCH_UP <= back + LEAD && back <= busy + CATCH_UP + LEAD, "{counts:?}");
        counts = [0; 4];
        for _ in 0..40 {
            counts[turn.pick(None, &all).expect("somebody")] += 1;
        }
        assert_eq!(counts, [10; 4]);
    }

    #[test]
    fn who_was_off_the_cpu_for_a_moment_has_as_many_as_the_others_in_the_end() {
        let mut turn = RoundRobin::default();
        let mut all = workers(&[true; 3]);
        let mut counts = [0_u32; 3];
        for round in 0..30 {
            // One after the other answers nothing for as long as the others take twenty.
            let away = round % 3;
            all[away] = Candidate { free: false, silent: Duration::from_millis(20), ..all[away] };
            let picks: Vec<_> = (0..20).filter_map(|_| turn.pick(None, &all)).collect();
            all[away] = Candidate { free: true, silent: Duration::ZERO, ..all[away] };
            let rest = (0..20).filter_map(|_| turn.pick(None, &all));
            picks.into_iter().chain(rest).for_each(|at| counts[at] += 1);
        }
        let most = counts.iter().max().copied().unwrap_or(0);
        assert!(counts.iter().all(|n| most - n <= 1), "{counts:?}");
    }

    #[test]
    fn nobody_waits_for_who_catches_up() {
        let mut turn = RoundRobin::default();
        let mut all = workers(&[true, true, false]);
        all[2].silent = Duration::from_millis(100);
        assert!((0..300).all(|_| turn.pick(None, &all).is_some()));
        // Back, with its window full now and then: the others go on, and it is the first to be given one.
        all[2].silent = Duration::from_millis(1);
        for _ in 0..20 {
            assert!((0..4).all(|_| turn.pick(None, &all).is_some_and(|at| at < 2)));
            all[2].free = true;
            assert!((0..5).all(|_| turn.pick(None, &all) == Some(2)));
            all[2].free = false;
            if turn.given[&WorkerId(3)] + 2 * LEAD >= turn.given[&WorkerId(1)] {
                return;
            }
        }
        panic!("it never catches up: {:?}", turn.given);
    }

    #[test]
    fn many_connections_of_one_keep_nobody_waiting() {
        let mut least = LeastConnections::default();
        let mut all = workers(&[true; 2]);
        all[0].open = 100;
        for open in 0..100 {
            assert_eq!(least.pick(None, &all), Some(1), "{open}");
            all[1].open += 1;
        }
        let both: BTreeMap<_, u32> = (0..10).filter_map(|_| least.pick(None, &all)).fold(
            BTreeMap::new(),
            |mut counts, at| {
                *counts.entry(at).or_default() += 1;
                counts
            },
        );
        assert_eq!(both, BTreeMap::from([(0, 5), (1, 5)]));
    }

    #[test]
    fn least_connections_counts_what_is_on_its_way() {
        let mut least = LeastConnections::default();
        let mut all = workers(&[true; 3]);
        all[0].open = 5;
        all[1].unanswered = 2;
        all[2].open = 3;
        assert_eq!(least.pick(None, &all), Some(1));
        all[1].free = false;
        assert_eq!(least.pick(None, &all), Some(2));
    }

    #[test]
    fn sticky_moves_only_the_clients_of_the_slot_that_went() {
        let mut sticky = Sticky::default();
        let all = workers(&[true; 4]);
        let three: Vec<_> = all.iter().copied().filter(|c| c.slot != SlotId(2)).collect();
        let mut spread = BTreeMap::new();
        for n in 0..4_000u32 {
            let ip = Some(IpAddr::V4(Ipv4Addr::from_bits(0x7f00_0000 + n)));
            let home = all[sticky.pick(ip, &all).expect("somebody")].slot;
            *spread.entry(home).or_insert(0u32) += 1;
            let after = three[sticky.pick(ip, &three).expect("somebody")].slot;
            if home != SlotId(2) {
                assert_eq!(home, after, "{ip:?}");
            }
        }
        assert!(spread.values().all(|n| (850..1150).contains(n)), "{spread:?}");
        let busy = workers(&[false; 4]);
        let ip = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(sticky.pick(ip, &busy), None, "it waits for its worker");
    }
}
