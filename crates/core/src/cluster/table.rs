//! The workers, found by their numbers and by their slots.

use crate::spec::MAX_WORKERS;
use crate::worker::{SlotId, Worker, WorkerId};
use alloc::collections::{BTreeMap, BTreeSet, btree_map};
use alloc::vec;
use alloc::vec::Vec;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// All workers. Who asks for those of a slot does not look through all: there are as many slots as workers, and most
/// questions are asked for each.
#[derive(Clone, Debug, Default)]
pub(super) struct Workers {
    all: BTreeMap<WorkerId, Worker>,
    placed: BTreeSet<(SlotId, WorkerId)>,
}

impl Workers {
    pub(super) fn get(&self, id: &WorkerId) -> Option<&Worker> {
        self.all.get(id)
    }

    /// To change anything but its number and its slot.
    pub(super) fn get_mut(&mut self, id: &WorkerId) -> Option<&mut Worker> {
        self.all.get_mut(id)
    }

    pub(super) fn contains_key(&self, id: &WorkerId) -> bool {
        self.all.contains_key(id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn keys(&self) -> btree_map::Keys<'_, WorkerId, Worker> {
        self.all.keys()
    }

    pub(super) fn values(&self) -> btree_map::Values<'_, WorkerId, Worker> {
        self.all.values()
    }

    /// To change anything but their numbers and their slots.
    pub(super) fn values_mut(&mut self) -> btree_map::ValuesMut<'_, WorkerId, Worker> {
        self.all.values_mut()
    }

    pub(super) fn insert(&mut self, worker: Worker) {
        self.placed.insert((worker.slot, worker.id));
        self.all.insert(worker.id, worker);
    }

    pub(super) fn remove(&mut self, id: &WorkerId) -> Option<Worker> {
        let worker = self.all.remove(id)?;
        self.placed.remove(&(worker.slot, worker.id));
        Some(worker)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Worker) -> bool) {
        let Self { all, placed } = self;
        all.retain(|_, worker| {
            let stays = keep(worker);
            if !stays {
                placed.remove(&(worker.slot, worker.id));
            }
            stays
        });
    }

    /// Those of one slot, the oldest first.
    pub(super) fn in_slot(&self, slot: SlotId) -> impl Iterator<Item = &Worker> {
        let ids = self.placed.range((slot, WorkerId(0))..=(slot, WorkerId(u32::MAX)));
        ids.filter_map(|(_, id)| self.all.get(id))
    }
}

/// As the map by numbers: the rest follows from it.
impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.all.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let all = BTreeMap::<WorkerId, Worker>::deserialize(deserializer)?;
        let placed = all.values().map(|worker| (worker.slot, worker.id)).collect();
        Ok(Self { all, placed })
    }
}

/// Some slots: one bit for each that there may be.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    bits: Vec<u64>,
    count: usize,
}

impl Slots {
    /// Where a slot's bit is.
    fn place(slot: SlotId) -> (usize, u64) {
        let number = usize::try_from(slot.0).unwrap_or(usize::MAX);
        (number / 64, 1 << (number % 64))
    }

    pub(super) fn insert(&mut self, slot: SlotId) {
        let (word, bit) = Self::place(slot);
        if self.bits.is_empty() {
            self.bits = vec![0; MAX_WORKERS.div_ceil(64)];
        }
        // There is no slot beyond the last.
        if let Some(bits) = self.bits.get_mut(word).filter(|bits| **bits & bit == 0) {
            *bits |= bit;
            self.count += 1;
        }
    }

    pub(super) fn contains(&self, slot: SlotId) -> bool {
        let (word, bit) = Self::place(slot);
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }
}

impl FromIterator<SlotId> for Slots {
    fn from_iter<I: IntoIterator<Item = SlotId>>(slots: I) -> Self {
        let mut some = Self::default();
        slots.into_iter().for_each(|slot| some.insert(slot));
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Phase;

    fn worker(id: u32, slot: u32) -> Worker {
        Worker {
            id: WorkerId(id),
            slot: SlotId(slot),
            generation: 0,
            version: 0,
            guarded: true,
            pid: None,
            phase: Phase::Forking,
            retire: None,
            left: None,
            oom: None,
            upgraded: 0,
        }
    }

    #[test]
    fn workers_are_found_by_their_slots_whatever_happened() {
        let mut workers = Workers::default();
        let in_slot = |workers: &Workers, slot| {
            workers.in_slot(SlotId(slot)).map(|w| w.id.0).collect::<Vec<_>>()
        };
        for (id, slot) in [(1, 0), (2, 1), (3, 0), (4, 0), (5, 511)] {
            workers.insert(worker(id, slot));
        }
        assert_eq!(in_slot(&workers, 0), [1, 3, 4]);
        assert_eq!(workers.remove(&WorkerId(3)).map(|w| w.slot), Some(SlotId(0)));
        assert!(workers.remove(&WorkerId(3)).is_none());
        workers.retain(|w| w.id != WorkerId(5));
        assert_eq!(in_slot(&workers, 0), [1, 4]);
        assert_eq!(in_slot(&workers, 511), [] as [u32; 0]);
        let text = serde_json::to_vec(&workers).expect("written");
        let read: Workers = serde_json::from_slice(&text).expect("read");
        assert_eq!((read.all, read.placed), (workers.all, workers.placed));
    }

    #[test]
    fn slots_are_counted_once() {
        let some: Slots = [0, 63, 64, 511, 64, 512, u32::MAX].into_iter().map(SlotId).collect();
        assert_eq!(some.len(), 4);
        assert!(some.contains(SlotId(511)) && some.contains(SlotId(0)));
        assert!(!some.contains(SlotId(1)) && !some.contains(SlotId(512)));
        assert!(!Slots::default().contains(SlotId(0)));
    }
}
