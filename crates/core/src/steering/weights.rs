//! Which slots take part in the choice, and with what weight.

use alloc::vec::Vec;

use super::Share;

/// The largest sum of weights, a few more for those that were rounded up: a 32-bit number modulo
/// this is even to one part in 4096.
const MAX_TOTAL: u64 = 1 << 20;

/// One slot that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Its index in the group.
    pub(super) slot: u32,
    /// Its weight, not 0.
    pub(super) weight: u32,
    /// Whether it may get something new.
    pub(super) up: bool,
}

/// The slots with a weight. All with weight 1, if none has one; all up, if none is.
pub(super) fn nominal(shares: &[Share]) -> Vec<Part> {
    let no_weight = shares.iter().all(|share| share.weight == 0);
    let mut parts: Vec<Part> = (0u32..)
        .zip(shares)
        .map(|(slot, share)| Part {
            slot,
            weight: if no_weight { 1 } else { share.weight },
            up: share.up,
        })
        .filter(|part| part.weight > 0)
        .collect();
    if !parts.iter().any(|part| part.up) {
        for part in &mut parts {
            part.up = true;
        }
    }
    parts
}

/// Those that may get something new.
pub(super) fn effective(nominal: &[Part]) -> Vec<Part> {
    nominal.iter().copied().filter(|part| part.up).collect()
}

/// The same proportions in small numbers.
pub(super) fn reduce(parts: &[Part]) -> Vec<Part> {
    let common = parts.iter().fold(0, |common, part| gcd(common, part.weight)).max(1);
    let total: u64 = parts.iter().map(|part| u64::from(part.weight / common)).sum();
    let small = |weight: u32| {
        let weight = weight / common;
        if total <= MAX_TOTAL {
            return weight;
        }
        let scaled = u64::from(weight) * MAX_TOTAL / total;
        // It is at most MAX_TOTAL: the conversion cannot fail.
        u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
    };
    parts.iter().map(|part| Part { weight: small(part.weight), ..*part }).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
