//! A worker's end: of its channel, of its process, and what becomes of what it had.

use super::record::{Fact, Record, Runtime};
use super::rescue::Sampling;
use super::shell::{Shell, VACANT};
use crate::event::Event;
use crate::settings::Knows;
use phalanx_core::cluster::Event as CoreEvent;
use phalanx_core::spec::ReadyWhen;
use phalanx_core::time::Time;
use phalanx_core::worker::{Exit, Phase, WorkerId};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the end of a dead worker's channel is waited for before its exit is told: a process it left
/// behind may hold the channel open.
const CHANNEL_LINGER: Duration = Duration::from_secs(1);

impl Shell {
    pub(super) fn closed(&mut self, now: Time, worker: WorkerId, why: Option<&str>) {
        let Some(record) = self.workers.get_mut(&worker) else { return };
        record.handle.inner.connected.store(false, Ordering::Relaxed);
        let knows_it = why.is_some() && record.knows == Knows::Perhaps;
        if record.is_mute() && record.exit.is_none() && !knows_it {
            // It closed a descriptor that it knows nothing of. Its end is its process's.
            record.channel.close();
            return;
        }
        record.closed = true;
        record.handle.inner.has_left(false);
        let handle = record.handle.clone();
        if why.is_none() {
            record.channel.close();
        }
        // A worker that dies in the middle of a message is only dead.
        if let (Some(why), None) = (why, record.exit) {
            self.audience.tell(&Event::Error(handle.clone(), why.into()));
            self.core.observe(now, CoreEvent::Broken { worker, why: why.to_owned() });
        } else {
            self.core.observe(now, CoreEvent::ChannelClosed { worker });
        }
        self.later(CHANNEL_LINGER, Fact::Outlived(worker));
        self.goes_on_unknowing(now, worker);
        self.withdraw(now, worker);
        self.audience.tell(&Event::Disconnect(handle));
        self.bury(now, worker);
    }

    /// Somebody may wait in vain for it.
    pub(super) fn slow(&mut self, now: Time, worker: WorkerId) {
        let starting =
            |w: &&phalanx_core::worker::Worker| matches!(w.phase, Phase::Starting { .. });
        let Some(slot) = self.core.worker(worker).filter(starting).map(|w| w.slot) else { return };
        self.may_change();
        if self.workers.get(&worker).is_some_and(|record| record.proves_since.is_some()) {
            tracing::warn!(
                "worker {worker} in slot {slot} listens, but takes nothing: the one before it goes on until it does"
            );
        } else if self.options.spec.ready == ReadyWhen::Notified {
            tracing::info!(
                "worker {worker} in slot {slot} runs, but has not said that it is ready yet, and is waited for (READY=1, or in Node process.send('ready'))"
            );
        } else if !self.never_listens(now, worker) {
            tracing::info!(
                "worker {worker} in slot {slot} runs, but does not listen yet, and is waited for (a program that never listens is ready when it is online: `--ready online`)"
            );
        }
    }

    /// It closed its channel and is still there.
    pub(super) fn outlived(&self, worker: WorkerId) {
        let Some(record) = self.workers.get(&worker).filter(|r| r.exit.is_none()) else { return };
        let slot = record.handle.slot();
        if record.drain.is_some() {
            // It is waited for until its connections are finished.
        } else if matches!(record.runtime(), Runtime::Deno | Runtime::Bun) {
            // Only a signal ends servers of their own.
            let signal = self.options.kill_signal;
            let name = Exit::Signal(signal.as_raw());
            tracing::info!("worker {worker} in slot {slot} goes on without its channel: {name}");
            // It may have ended in the meantime.
            let _ = record.handle.inner.child.signal(signal);
        } else if !record.leaving {
            tracing::warn!(
                "worker {worker} in slot {slot} closed its channel but goes on: it serves no more, and is killed if it does not end in its grace time"
            );
        }
    }

    pub(super) fn exited(&mut self, now: Time, worker: WorkerId, exit: Exit) {
        let Some(record) = self.workers.get_mut(&worker) else { return };
        record.exit = Some(exit);
        record.handle.inner.has_left(false);
        if record.is_mute() && !std::mem::replace(&mut record.closed, true) {
            // It has said nothing, and there is nothing to wait for.
            record.handle.inner.connected.store(false, Ordering::Relaxed);
            self.audience.tell(&Event::Disconnect(record.handle.clone()));
        }
        self.look_at_end(now, worker, exit);
        self.core.observe(now, CoreEvent::Exited { worker, exit });
        self.serves_no_more(worker);
        // What the dead worker still said is read first: late acknowledgements count.
        if self.workers.get(&worker).is_some_and(|r| !r.closed) {
            self.later(CHANNEL_LINGER, Fact::Lingered(worker));
        }
        self.bury(now, worker);
    }

    /// When both the process and its channel have ended, the end is told and the record dropped.
    pub(super) fn bury(&mut self, now: Time, worker: WorkerId) {
        let Some(Record { closed: true, exit: Some(exit), handle, open, .. }) =
            self.workers.get(&worker)
        else {
            return;
        };
        let (exit, handle, open) = (*exit, handle.clone(), *open);
        self.withdraw(now, worker);
        self.workers.remove(&worker);
        handle.inner.channel.close();
        handle.inner.exit.send_replace(Some(exit));
        self.audience.tell(&Event::Exit(handle, exit));
        self.buried(worker, open);
    }

    /// A worker serves no more: its slots are steered around and emptied, its connections go on.
    pub(super) fn withdraw(&mut self, now: Time, worker: WorkerId) {
        let lives = self.workers.get(&worker).is_some_and(|record| record.exit.is_none());
        let mut vacated = false;
        let mut places = Vec::new();
        for port in self.ports.values_mut() {
            // What it has beside its channel is its own until its end.
            let left = port.users.get(&worker).is_some_and(|user| !(user.unasked && lives));
            if left && let Some(user) = port.users.remove(&worker) {
                if !port.is_udp() {
                    places.push((port.key.clone(), user.place));
                }
                if user.unasked {
                    port.vacate(now, user.place);
                    vacated = true;
                }
                port.steer();
            }
        }
        if vacated {
            self.later(VACANT, Fact::Vacant);
        }
        self.take_back(now, worker);
        if !matches!(self.sampling, Sampling::Off) {
            self.sample_left(now, places);
        }
        self.idle_ports = true;
    }

    /// Closes the ports that no worker listens on any more, once every worker is back that might.
    pub(super) fn close_idle_ports(&mut self) {
        if !self.idle_ports {
            return;
        }
        if self.ports.values().all(|port| !port.users.is_empty()) {
            // None is idle; that is looked at again when one may be.
            self.idle_ports = false;
            return;
        }
        let all_back = self.core.wanted() > 0 && self.core.is_settled();
        if !(all_back || self.core.is_stopping()) {
            return;
        }
        self.idle_ports = false;
        let before = self.ports.len();
        self.ports.retain(|_, port| {
            if !port.users.is_empty() {
                return true;
            }
            let address = &port.address;
            if port.pinned && all_back {
                tracing::warn!(
                    "{address} is open, but no worker listens there: its clients wait for nobody (a program on the crate finds the address with `Address::from_env`; a Node program listens where it says itself, without --listen)"
                );
                return true;
            }
            tracing::info!("closed {address}: no worker listens there any more");
            false
        });
        if self.ports.len() < before {
            // What was watched for the next connection held their sockets open.
            let now = self.now();
            self.watch_queues(now);
        }
    }
}
