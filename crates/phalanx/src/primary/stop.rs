//! The beginning of the end: first nothing new comes, then what waits is taken, then the workers are told.
//!
//! A connection that waits in a queue was promised an answer. When workers are told to leave they close their
//! listening sockets, and what waits there then is reset. So the sockets are made deaf before: who connects now waits
//! too, until the port is closed, and is refused then.

use super::ports::Sockets;
use super::shell::Shell;
use crate::sys;
use phalanx_core::cluster::Event as CoreEvent;
use phalanx_core::time::Time;
use std::time::Duration;

/// Handshakes that were under way when nothing new was let in.
const HANDSHAKES: Duration = Duration::from_millis(50);
/// How long the workers may take for what waits.
const TAKEN_WITHIN: Duration = Duration::from_millis(500);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How far a stop has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stopping {
    #[default]
    Not,
    /// Nothing new comes since then.
    Deaf(Time),
    /// The workers were told.
    Told,
}

impl Shell {
    /// The cluster is to stop.
    pub(super) fn begin_stop(&mut self, now: Time) {
        if self.stopping == Stopping::Not && !self.core.is_stopping() {
            self.stopping = Stopping::Deaf(now);
            self.deafen();
        }
    }

    /// Whether it stops, or is about to.
    #[cfg(target_os = "linux")]
    pub(super) fn stops(&self) -> bool {
        self.stopping != Stopping::Not || self.core.is_stopping()
    }

    /// When it is to be looked at how far that has come.
    pub(super) fn stops_at(&self) -> Option<Time> {
        matches!(self.stopping, Stopping::Deaf(_)).then(|| self.now().after(LOOK))
    }

    /// The next step of a stop, however it began.
    pub(super) fn go_on_stopping(&mut self) {
        if self.core.is_stopping() {
            if std::mem::replace(&mut self.stopping, Stopping::Told) == Stopping::Not {
                self.deafen();
            }
            return;
        }
        let Stopping::Deaf(since) = self.stopping else { return };
        let now = self.now();
        let deaf_for = now.since(since);
        let nobody = self.core.workers().next().is_none();
        let taken = deaf_for >= HANDSHAKES && self.waiting_anywhere() == 0;
        if nobody || taken || deaf_for >= TAKEN_WITHIN {
            self.stopping = Stopping::Told;
            self.core.observe(now, CoreEvent::Stop);
            self.perform_plan();
        }
    }

    /// How many connections wait, in the kernel or here.
    fn waiting_anywhere(&self) -> usize {
        let queue = |fd| sys::accept_queue(fd).unwrap_or(0) as usize;
        let ports = self.ports.values().filter(|port| !port.is_udp());
        let waiting = ports.map(|port| {
            let queued = match &port.sockets {
                Sockets::Slots(slots) => slots.iter().map(|s| queue(&s.fd)).sum(),
                Sockets::One(fd, _) => queue(fd),
            };
            queued + port.parked.len()
        });
        waiting.sum::<usize>() + self.in_flight.len()
    }

    /// No new connection gets to any port.
    fn deafen(&self) {
        #[cfg(target_os = "linux")]
        for port in self.ports.values().filter(|port| !port.is_udp() && !port.is_inherited()) {
            let sockets: Vec<_> = match &port.sockets {
                Sockets::Slots(slots) => slots.iter().map(|s| &s.fd).collect(),
                Sockets::One(fd, _) => vec![fd],
            };
            for socket in sockets {
                // Else what comes late is cut. A unix socket cannot.
                let _ = sys::options::deafen(socket);
            }
        }
    }
}
