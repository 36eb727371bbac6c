//! Who is in which place of a port, looked up for all places at once: there are as many places as workers, so nobody
//! looks through all workers for each.

use super::{Place, SlotSocket, User};
use phalanx_core::spec::MAX_WORKERS;
use phalanx_core::worker::WorkerId;
use std::collections::BTreeMap;

/// What is in a place.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::primary) struct Seat {
    /// A worker has it, whether it serves or not.
    pub(in crate::primary) taken: bool,
    /// The newest that serves there.
    pub(in crate::primary) serves: Option<WorkerId>,
}

/// All places.
#[derive(Debug, Default)]
pub(in crate::primary) struct Seats {
    /// By their slots: the first place of each.
    first: Vec<Seat>,
    others: BTreeMap<Place, Seat>,
}

impl Seats {
    pub(super) fn of(users: &BTreeMap<WorkerId, User>) -> Self {
        let mut seats = Self::default();
        // The newest is the last.
        for (id, user) in users {
            let seat = seats.seat(user.place);
            seat.taken = true;
            if user.serves {
                seat.serves = Some(*id);
            }
        }
        seats
    }

    fn seat(&mut self, place: Place) -> &mut Seat {
        let slot = usize::try_from(place.slot.0).unwrap_or(usize::MAX);
        if place != Place::first(place.slot) || slot >= MAX_WORKERS {
            return self.others.entry(place).or_default();
        }
        if slot >= self.first.len() {
            self.first.resize(slot + 1, Seat::default());
        }
        &mut self.first[slot]
    }

    pub(in crate::primary) fn at(&self, place: Place) -> Seat {
        let slot = usize::try_from(place.slot.0).unwrap_or(usize::MAX);
        let seat = if place == Place::first(place.slot) && slot < MAX_WORKERS {
            self.first.get(slot)
        } else {
            self.others.get(&place)
        };
        seat.copied().unwrap_or_default()
    }

    /// Whether a worker serves this socket and keeps up.
    pub(super) fn is_up(&self, socket: &SlotSocket) -> bool {
        !socket.watch.is_stuck() && self.at(socket.place).serves.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use phalanx_core::wire::Query;
    use phalanx_core::worker::SlotId;

    #[test]
    fn the_newest_that_serves_is_found_in_every_place() {
        let place = |slot, spare| Place { slot: SlotId(slot), spare };
        let user = |place, serves| User { serves, ..User::unasked(place, Query::default()) };
        let users: BTreeMap<WorkerId, User> = [
            (WorkerId(1), user(place(0, 0), true)),
            (WorkerId(2), user(place(2, 0), false)),
            (WorkerId(3), user(place(2, 1), true)),
            (WorkerId(4), user(place(0, 0), true)),
            (WorkerId(5), user(place(0, 0), false)),
            (WorkerId(6), user(place(u32::MAX, 0), true)),
        ]
        .into();
        let seats = Seats::of(&users);
        let at = |slot, spare| {
            let seat = seats.at(place(slot, spare));
            (seat.taken, seat.serves.map(|id| id.0))
        };
        assert_eq!(at(0, 0), (true, Some(4)));
        assert_eq!(at(1, 0), (false, None), "nobody was ever there");
        assert_eq!(at(2, 0), (true, None));
        assert_eq!(at(2, 1), (true, Some(3)));
        assert_eq!(at(u32::MAX, 0), (true, Some(6)));
        assert_eq!(at(7, 0), (false, None));
    }
}
