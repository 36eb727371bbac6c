//! Weights of workers: slow starts and canaries, in the policy `direct`.

use super::ports::{Place, Port};
use super::shell::Shell;
use phalanx_core::cluster::FULL;
use phalanx_core::time::Time;
use phalanx_core::worker::WorkerId;
use std::collections::BTreeMap;

impl Shell {
    /// Steers the ports where workers are to get more or less than before.
    pub(super) fn weigh(&mut self, now: Time) {
        if !self.core.has_weights() {
            return;
        }
        let weights: BTreeMap<WorkerId, u32> = self
            .core
            .workers()
            .map(|worker| (worker.id, self.core.weight(worker.id, now)))
            .filter(|(_, weight)| *weight != FULL)
            .collect();
        if weights == self.weights {
            return;
        }
        for port in self.ports.values_mut() {
            port.weights.clone_from(&weights);
            port.steer();
        }
        self.weights = weights;
    }
}

impl Port {
    /// How much of the connections a socket is to get, in proportion to the others, for the sake of its workers.
    pub(super) fn factor(&self, place: Place) -> u32 {
        if self.weights.is_empty() {
            return 1;
        }
        let mine = self.users.iter().filter(|(_, user)| user.place == place && user.serves);
        let of = |(id, _)| self.weights.get(id).copied().unwrap_or(FULL);
        shared(mine.map(of))
    }
}

/// The weight of a socket that these take from. Nobody says which of them takes what: each gets about as much as the
/// others, so it is the least of them that counts.
fn shared(weights: impl Iterator<Item = u32>) -> u32 {
    let (mut least, mut most, mut count) = (u32::MAX, FULL, 0u32);
    for weight in weights {
        (least, most, count) = (least.min(weight), most.max(weight), count + 1);
    }
    if count == 0 { FULL } else { least.saturating_mul(count).min(most) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_at_one_socket_get_the_same() {
        let of = |weights: &[u32]| shared(weights.iter().copied());
        assert_eq!(of(&[]), FULL);
        assert_eq!(of(&[8]), 8);
        assert_eq!(of(&[FULL, FULL]), FULL);
        assert_eq!(of(&[FULL, 8]), 16, "8 for the new one");
        assert_eq!(of(&[200]), 200, "a canary may get more than others");
    }
}
