//! The open loop: when requests are due, and how they come to clients.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::histogram::Histogram;
use super::timer::Timer;
use super::{DEFAULT_DURATION, Run};

/// When the requests of an open loop begin.
#[derive(Clone, Debug)]
pub struct Arrivals {
    per_second: f64,
    /// The state of the generator of random numbers; without one, spacing is constant.
    seed: Option<u64>,
}

impl Arrivals {
    /// One request every 1/`per_second` s.
    ///
    /// # Panics
    ///
    /// When the rate is not between one in a thousand seconds and a million per second.
    pub fn constant(per_second: f64) -> Self {
        assert!((0.001..=1e6).contains(&per_second), "not a rate: {per_second}");
        Self { per_second, seed: None }
    }

    /// As many on average, but each independent of the others, as requests of many people are. The
    /// same seed gives the same schedule.
    ///
    /// # Panics
    ///
    /// As [`constant`](Self::constant).
    pub fn poisson(per_second: f64, seed: u64) -> Self {
        Self { seed: Some(seed), ..Self::constant(per_second) }
    }

    /// The times since the start, without an end.
    fn times(&self) -> Times {
        Times { arrivals: self.clone(), count: 0, last: 0.0 }
    }
}

struct Times {
    arrivals: Arrivals,
    count: u64,
    /// Of Poisson's arrivals, in seconds.
    last: f64,
}

impl Times {
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
    fn next(&mut self) -> Duration {
        let rate = self.arrivals.per_second;
        let seconds = match &mut self.arrivals.seed {
            // Not a sum, which would gather errors.
            None => self.count as f64 / rate,
            Some(seed) => {
                self.last += exponential(seed) / rate;
                self.last
            }
        };
        self.count += 1;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// A number of the exponential distribution with mean 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits are what fits")]
fn exponential(seed: &mut u64) -> f64 {
    // From (0, 1], of which there is a logarithm.
    let uniform = ((random(seed) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    -uniform.ln()
}

/// `SplitMix64` (Steele, Lea and Flood, 2014).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The requests that are due and have not begun, by their scheduled times.
///
/// It needs no bound of its own: what waited for the timeout of the run fails.
#[derive(Default)]
pub(super) struct Queue {
    due: Mutex<VecDeque<Instant>>,
    more: Notify,
    closed: AtomicBool,
}

impl Queue {
    /// The next request to begin, once it is due; `None` when there is none any more.
    pub(super) async fn next(&self) -> Option<Instant> {
        loop {
            // Made before looking, so that it is woken by what comes after the look.
            let more = self.more.notified();
            if let Some(scheduled) = self.due().pop_front() {
                return Some(scheduled);
            }
            if self.closed.load(Ordering::Acquire) {
                return None;
            }
            more.await;
        }
    }

    fn push(&self, scheduled: Instant) {
        self.due().push_back(scheduled);
        // The one that waits longest: kept-alive connections take turns.
        self.more.notify_one();
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.more.notify_waiters();
    }

    fn due(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts each request into the queue when it is due, until the run is over or stopped. Returns by
/// how much it was late itself.
pub(super) async fn dispatch(
    run: &Run,
    arrivals: &Arrivals,
    queue: &Queue,
    mut stop: watch::Receiver<bool>,
) -> Histogram {
    let mut lateness = Histogram::default();
    tokio::select! {
        () = all(run, arrivals, queue, &mut lateness) => {}
        () = stopped(&mut stop) => {}
    }
    queue.close();
    lateness
}

/// Waits to be told to stop, which may never be.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn all(run: &Run, arrivals: &Arrivals, queue: &Queue, lateness: &mut Histogram) {
    let timer = Timer::new();
    let mut times = arrivals.times();
    let bound = run.deadline.map(|deadline| deadline.saturating_duration_since(run.start));
    let bound = bound.or(run.plan.requests.is_none().then_some(DEFAULT_DURATION));
    loop {
        let after = times.next();
        let Some(scheduled) = run.start.checked_add(after) else { return };
        if bound.is_some_and(|bound| after >= bound) {
            return;
        }
        timer.until(scheduled).await;
        // By count only: what was due before the end is asked for, however late this is.
        if !run.count() {
            return;
        }
        lateness.record(scheduled.elapsed());
        queue.push(scheduled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_are_evenly_spaced_and_do_not_drift() {
        let mut times = Arrivals::constant(3_000.0).times();
        let all: Vec<Duration> = (0..=3_000_000).map(|_| times.next()).collect();
        assert_eq!(all[0], Duration::ZERO);
        assert_eq!(all[3_000], Duration::from_secs(1));
        assert_eq!(all[3_000_000], Duration::from_secs(1_000));
        let step = Duration::from_nanos(333_333);
        let off = |pair: &[Duration]| (pair[1] - pair[0]).abs_diff(step);
        assert!(all.windows(2).all(|pair| off(pair) <= Duration::from_nanos(2)));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_independent_ones() {
        const COUNT: usize = 100_000;
        let mut times = Arrivals::poisson(1_000.0, 7).times();
        let all: Vec<Duration> = (0..COUNT).map(|_| times.next()).collect();
        assert!(all.is_sorted());
        // 100 s, with a standard deviation of 0.3 %.
        let took = all[COUNT - 1].as_secs_f64();
        assert!((98.5..101.5).contains(&took), "{took}");
        // Of such gaps 1/e are longer than the mean.
        let long = all.windows(2).filter(|pair| pair[1] - pair[0] > Duration::from_millis(1));
        let share = long.count() as f64 / COUNT as f64;
        assert!((0.36..0.376).contains(&share), "{share}");
    }

    #[test]
    fn a_seed_gives_one_schedule() {
        let first = |seed| {
            let mut times = Arrivals::poisson(50.0, seed).times();
            std::array::from_fn::<Duration, 20, _>(|_| times.next())
        };
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    #[test]
    #[should_panic(expected = "not a rate")]
    fn a_rate_of_nothing_is_none() {
        let _ = Arrivals::constant(0.0);
    }
}
