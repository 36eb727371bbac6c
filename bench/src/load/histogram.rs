//! A histogram of durations with a relative error of about 3 %, in the manner of HDR histograms.

use std::fmt;
use std::time::Duration;

/// Each power of two is divided into that many buckets.
const STEPS: u64 = 32;
/// log2 of `STEPS`.
const BITS: u32 = 5;

/// How often which latency was seen.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
    sum: Duration,
}

/// The bucket of a number of nanoseconds.
fn bucket(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(BITS + 1);
    // Below 2 * STEPS each number is its own bucket.
    let index = u64::from(shift) * STEPS + (nanos >> shift);
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The largest number of nanoseconds that falls into the bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / STEPS).saturating_sub(1);
    let step = bucket - shift * STEPS;
    u64::try_from(((u128::from(step) + 1) << shift) - 1).unwrap_or(u64::MAX)
}

impl Histogram {
    /// Adds one latency.
    pub fn record(&mut self, latency: Duration) {
        let index = bucket(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        if self.buckets.len() <= index {
            self.buckets.resize(index + 1, 0);
        }
        self.buckets[index] += 1;
        self.count += 1;
        self.max = self.max.max(latency);
        self.sum = self.sum.saturating_add(latency);
    }

    /// Adds all that another histogram holds.
    pub fn merge(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// How many latencies were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The latency that `per_mille` of 1,000 do not exceed, rounded up by at most 1/32; zero when
    /// nothing was recorded.
    pub fn quantile(&self, per_mille: u32) -> Duration {
        let rank = u128::from(self.count) * u128::from(per_mille.min(1_000));
        let rank = rank.div_ceil(1_000).max(1);
        let mut passed = 0_u128;
        for (index, count) in self.buckets.iter().enumerate() {
            passed += u128::from(*count);
            if passed >= rank {
                return Duration::from_nanos(upper(index)).min(self.max);
            }
        }
        self.max
    }

    /// The median.
    pub fn p50(&self) -> Duration {
        self.quantile(500)
    }

    /// The latency that 99 % do not exceed.
    pub fn p99(&self) -> Duration {
        self.quantile(990)
    }

    /// The latency that 99.9 % do not exceed.
    pub fn p999(&self) -> Duration {
        self.quantile(999)
    }

    /// The exact maximum.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The exact mean.
    pub fn mean(&self) -> Duration {
        let nanos = self.sum.as_nanos() / u128::from(self.count.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99, p999, max) = (self.p50(), self.p99(), self.p999(), self.max());
        write!(f, "p50 {p50:.1?}, p99 {p99:.1?}, p99.9 {p999:.1?}, max {max:.1?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_all_numbers_without_gap_and_with_small_error() {
        for nanos in (0..70).chain([1_000, 1_023, 1_024, 123_456_789, u64::MAX / 2, u64::MAX]) {
            let top = upper(bucket(nanos));
            assert!(top >= nanos && top - nanos <= nanos / STEPS, "{nanos} in {top}");
            if top < u64::MAX {
                assert_eq!(bucket(top + 1), bucket(nanos) + 1);
            }
        }
    }

    #[test]
    fn quantiles_are_those_of_the_numbers_recorded_in_two_parts() {
        let (mut all, mut odd) = (Histogram::default(), Histogram::default());
        assert_eq!((all.p50(), all.max()), (Duration::ZERO, Duration::ZERO));
        for millis in 1..=1_000 {
            let part = if millis % 2 == 0 { &mut all } else { &mut odd };
            part.record(Duration::from_millis(millis));
        }
        all.merge(&odd);
        assert_eq!(all.count(), 1_000);
        for (quantile, exact) in [(all.p50(), 500), (all.p99(), 990), (all.p999(), 999)] {
            let exact = Duration::from_millis(exact);
            assert!(quantile >= exact && quantile <= exact + exact / 32, "{quantile:?}");
        }
        assert_eq!(all.max(), Duration::from_secs(1));
        assert_eq!(all.mean(), Duration::from_micros(500_500));
    }
}
