//! Connections handed to a worker that does not even read them are taken back and given to another.
//!
//! A hand-over cannot be unsent, but it can be unread: the primary takes a duplicate of the worker's end of
//! the channel (`pidfd_getfd(2)`), reads what the worker has not read, keeps the hand-overs and puts
//! everything else back in front of the queue. A worker that wakes up in between has either read a
//! hand-over, then it is its own, or never sees it. Reads of a unix socket are atomic, and each
//! hand-over was written, and so is read, in one piece with its descriptor (unix(7)).

use super::child::Paused;
use super::dispatch::Handover;
use super::record::Record;
use super::shell::Shell;
use crate::sys::portable::cookie;
use phalanx_core::time::Time;
use phalanx_core::wire::hand_over_line;
use phalanx_core::worker::WorkerId;

impl Shell {
    /// Takes back what workers did not read for longer than the patience.
    pub(super) fn recall_overdue(&mut self, now: Time) {
        let patience = self.patience();
        let overdue: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, r)| r.oldest.is_some_and(|since| now.since(since) >= patience))
            .map(|(id, _)| *id)
            .collect();
        // One that answered in the meantime goes on.
        for record in self.workers.values_mut().filter(|r| r.oldest.is_none()) {
            record.paused = None;
        }
        for worker in overdue {
            self.recall(now, worker);
        }
        // Those who read what they got, but do not accept it, are looked at again.
        if let Some(oldest) = self.workers.values().filter_map(Record::silent_since).min() {
            self.retry_at(oldest.after(patience).max(now.after(patience / 4)));
        }
    }

    fn recall(&mut self, now: Time, worker: WorkerId) {
        let Some(record) = self.workers.get_mut(&worker) else { return };
        // Without another worker there is nobody to give them to.
        let others = self.ports.values().any(|port| {
            let serves = port.users.iter().filter(|(_, u)| u.serves && !u.slot_only);
            serves.map(|(id, _)| *id).any(|id| id != worker)
        });
        if !others {
            record.paused = None;
            record.oldest = Some(now);
            return;
        }
        let Some(paused) = record.hold() else { return };
        let mine = self.in_flight.iter().filter(|(_, h)| h.worker == worker);
        let dialect = record.channel.dialect();
        let lines: Vec<(u64, Vec<u8>)> =
            mine.map(|(seq, h)| (*seq, hand_over_line(&h.port, *seq, dialect))).collect();
        let lines: Vec<(u64, &[u8])> = lines.iter().map(|(seq, l)| (*seq, l.as_slice())).collect();
        let recalled = take_unread(record, &lines);
        drop(paused);
        let recalled = match recalled {
            Ok(recalled) => recalled,
            Err(error) => {
                tracing::debug!(%worker, "what it does not read cannot be taken back: {error}");
                record.oldest = Some(now);
                return;
            }
        };
        record.oldest = Some(now);
        if recalled.is_empty() {
            return;
        }
        record.unanswered =
            record.unanswered.saturating_sub(u32::try_from(recalled.len()).unwrap_or(u32::MAX));
        record.oldest = record.oldest.filter(|_| record.unanswered > 0);
        // It gets nothing more until it answers.
        record.ping();
        let count = recalled.len();
        tracing::warn!(%worker, "it does not read its channel: {count} connections go to other workers");
        for seq in recalled.into_iter().rev() {
            if let Some(Handover { port, connection, .. }) = self.in_flight.remove(&seq) {
                self.dispatch(now, &port, connection);
            }
        }
    }
}

impl Record {
    /// Since when something is to be done about it.
    fn silent_since(&self) -> Option<Time> {
        self.oldest.or_else(|| self.paused.is_some().then_some(Time::ZERO))
    }

    /// It must not read while what it did not read is sorted. `None`: it is to be tried again.
    fn hold(&mut self) -> Option<Paused> {
        let paused = match self.paused.take() {
            Some(paused) => paused,
            None => Paused::hold(&self.handle).ok()?,
        };
        if paused.is_still() {
            return Some(paused);
        }
        // Meanwhile it waits for a processor and would not run anyway.
        self.paused = Some(paused).filter(|paused| !paused.is_over());
        None
    }
}

/// Takes the hand-overs with these lines out of what a worker did not read.
fn take_unread(record: &Record, lines: &[(u64, &[u8])]) -> std::io::Result<Vec<u64>> {
    let end = record.handle.inner.child.descriptor(record.channel_fd)?;
    // The worker may have put something else there.
    if cookie(&end)? != record.peer_cookie {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    record.channel.recall(&end, lines)
}
