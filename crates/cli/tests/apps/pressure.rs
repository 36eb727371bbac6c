//! The load that every application bears while it is reloaded.

use bench::load::{Load, Outcome, Running};
use std::net::SocketAddr;
use std::time::Duration;

/// After a reload each kind of client gets so many answers more before the next one.
const MORE: u64 = 100;
/// Longer than any of these tests.
const BOUND: Duration = Duration::from_secs(200);

/// Clients that open a connection for each request, and clients that keep theirs.
pub(crate) struct Pressure {
    each: Running,
    kept: Running,
}

impl Pressure {
    pub(crate) fn on(address: SocketAddr, sources: u8) -> Self {
        // The pauses leave the machine some room, and make connections that are idle.
        let load = |clients: usize, think: u64| {
            let load = Load::new(address).clients(clients).think(Duration::from_millis(think));
            load.sources(sources).duration(BOUND)
        };
        let each = load(6, 4).start().expect("the load starts");
        let kept = load(8, 8).keep_alive(true).start().expect("the load starts");
        Self { each, kept }
    }

    /// How many answers each kind of clients has got.
    pub(crate) fn mark(&self) -> [u64; 2] {
        [&self.each, &self.kept].map(|load| load.progress().answered())
    }

    /// Whether both kinds have got well beyond the mark.
    pub(crate) fn goes_on(&self, mark: [u64; 2]) -> Option<()> {
        let on = self.mark().iter().zip(mark).all(|(now, then)| *now >= then + MORE);
        on.then_some(())
    }

    /// What each kind saw.
    pub(crate) fn stop(self) -> (Outcome, Outcome) {
        (self.each.stop(), self.kept.stop())
    }
}
