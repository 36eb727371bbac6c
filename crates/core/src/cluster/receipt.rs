//! What reloads came to, to the end of the last worker that left for them.

use super::Cluster;
use crate::report::Report;
use crate::time::Time;
use crate::worker::{End, SlotId, Worker, WorkerId};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// How long after a reload its receipt waits for old workers that still drain.
const STILL: Duration = Duration::from_secs(60);

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Every worker is new and ready.
    Done,
    /// Every worker has the program before again.
    RolledBack,
    /// A new worker failed.
    Failed(End),
    /// Another reload, or a restart, took its place.
    Superseded,
    /// The cluster stops.
    Stopped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::RolledBack => f.write_str("rolled back"),
            Self::Failed(why) => write!(f, "failed ({why})"),
            Self::Superseded => f.write_str("superseded by another one"),
            Self::Stopped => f.write_str("ended by a stop"),
        }
    }
}

/// A worker that left for a reload, and is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Which.
    pub worker: WorkerId,
    /// Its place.
    pub slot: SlotId,
    /// From when it was told to leave to its end.
    pub took: Duration,
}

/// What a reload came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Its number.
    pub generation: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// How many workers were replaced.
    pub replaced: u32,
    /// From its begin to its end: when the last new worker was ready, or the first failed.
    pub took: Duration,
    /// The workers that left for it, in the order of their ends.
    pub drained: Vec<Drained>,
    /// Connections that are known to have been in use when a worker was ended that cannot be told to drain.
    pub cut: u32,
    /// Workers that were killed because their grace time was over. What they had was cut as well, and is not counted.
    pub killed: u32,
    /// Workers that still drain, a minute later.
    pub still: u32,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, outcome, replaced, took, .. } = self;
        write!(
            f,
            "reload {generation} in the end: {outcome}, {replaced} workers replaced in {took:.1?}"
        )?;
        if let Some(longest) = self.drained.iter().map(|d| d.took).max() {
            write!(f, "; {} left, the slowest within {longest:.1?}", self.drained.len())?;
        }
        match self.cut {
            0 => f.write_str("; no connection is known to be cut")?,
            n => write!(f, "; {n} connections were in use when their workers had to end")?,
        }
        if self.killed > 0 {
            write!(f, "; {} workers were killed, and what they had was cut", self.killed)?;
        }
        if self.still > 0 {
            write!(f, "; {} still drain", self.still)?;
        }
        Ok(())
    }
}

/// A receipt that is not complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Open {
    receipt: Receipt,
    /// When the reload was over.
    ended: Option<Time>,
}

impl Cluster {
    /// A reload begins.
    pub(super) fn open_receipt(&mut self) {
        let receipt = Receipt {
            generation: self.generation,
            outcome: Outcome::Done,
            replaced: 0,
            took: Duration::ZERO,
            drained: Vec::new(),
            cut: 0,
            killed: 0,
            still: 0,
        };
        self.receipts.push(Open { receipt, ended: None });
    }

    /// The reload that is going on, if one is, ends here.
    pub(super) fn end_reload(&mut self, now: Time, outcome: Outcome) {
        let Some(reload) = self.reload.take() else { return };
        if let Some(open) = self.receipts.iter_mut().find(|open| open.ended.is_none()) {
            open.receipt.outcome = outcome;
            open.receipt.replaced = reload.replaced;
            open.receipt.took = now.since(reload.begun);
            open.ended = Some(now);
        }
    }

    /// The receipt of the reload that a worker leaves for.
    fn receipt_of(&mut self, left: Option<(Time, u64)>) -> Option<&mut Receipt> {
        let (_, reload) = left?;
        let mut open = self.receipts.iter_mut().map(|open| &mut open.receipt);
        open.find(|receipt| receipt.generation == reload)
    }

    /// A worker's process ended.
    pub(super) fn is_gone(&mut self, now: Time, worker: &Worker) {
        let (id, slot) = (worker.id, worker.slot);
        let took = worker.left.map_or(Duration::ZERO, |(at, _)| now.since(at));
        if let Some(receipt) = self.receipt_of(worker.left) {
            receipt.drained.push(Drained { worker: id, slot, took });
        }
    }

    /// A worker has to be killed.
    pub(super) fn grace_is_over(&mut self, id: WorkerId) {
        let left = self.workers.get(&id).and_then(|worker| worker.left);
        if let Some(receipt) = self.receipt_of(left) {
            receipt.killed += 1;
        }
    }

    /// A worker had to end while it was busy.
    pub(super) fn were_cut(&mut self, id: WorkerId, connections: u32) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (slot, left) = (worker.slot, worker.left);
        if let Some(receipt) = self.receipt_of(left) {
            receipt.cut = receipt.cut.saturating_add(connections);
        }
        self.report(Report::Cut { worker: id, slot, connections });
    }

    /// Hands out the receipts that are complete.
    pub(super) fn close_receipts(&mut self, now: Time) {
        let mut complete = Vec::new();
        let workers = &self.workers;
        self.receipts.retain_mut(|open| {
            let Some(ended) = open.ended else { return true };
            let for_it = |w: &&Worker| w.left.is_some_and(|(_, by)| by == open.receipt.generation);
            let still = workers.values().filter(for_it).count();
            let over = still == 0 || now >= ended.after(STILL);
            if over {
                open.receipt.still = u32::try_from(still).unwrap_or(u32::MAX);
                complete.push(open.receipt.clone());
            }
            !over
        });
        for receipt in complete {
            self.report(Report::Receipt(receipt));
        }
    }

    /// When receipts are not waited for any longer.
    pub(super) fn receipts_due(&self) -> impl Iterator<Item = Time> {
        self.receipts.iter().filter_map(|open| Some(open.ended?.after(STILL)))
    }
}
