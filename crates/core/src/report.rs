//! What the core did, and why, for logs, events and people.

use crate::cluster::Receipt;
use crate::limits::Over;
use crate::worker::{End, EndKind, Exit, Leave, SlotId, WorkerId};
use core::fmt;
use core::time::Duration;

/// One thing worth telling.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// A worker's process ended.
    Ended {
        /// Which.
        worker: WorkerId,
        /// Its place.
        slot: SlotId,
        /// How.
        exit: Exit,
        /// Why it had been told to leave; `None` if it had not.
        asked: Option<Leave>,
        /// How long it had been ready.
        served: Duration,
        /// What kind of end that is.
        kind: EndKind,
    },
    /// A worker could not be started.
    NotStarted {
        /// Which.
        worker: WorkerId,
        /// Its place.
        slot: SlotId,
        /// Why.
        why: alloc::string::String,
    },
    /// A slot waits before it gets another worker.
    Waiting {
        /// The slot.
        slot: SlotId,
        /// How long.
        wait: Duration,
        /// Crashes in a row.
        crashes: u32,
    },
    /// A slot's workers crash again and again.
    CrashLoop {
        /// The slot.
        slot: SlotId,
        /// Crashes in a row.
        crashes: u32,
        /// How often it is tried from now on.
        every: Duration,
        /// Not in a row, but so many within this time.
        within: Option<Duration>,
    },
    /// A worker ended in a way that is not to be followed by another: its slot is ended.
    SlotEnded {
        /// Which worker.
        worker: WorkerId,
        /// The slot.
        slot: SlotId,
        /// How it ended.
        exit: Exit,
        /// How many slots still have, or will have, a worker.
        left: usize,
    },
    /// A worker was not ready in time and is killed.
    StartTimeout {
        /// Which.
        worker: WorkerId,
        /// Its place.
        slot: SlotId,
        /// The time it had.
        after: Duration,
    },
    /// A worker is to be replaced by another, and goes on until that is ready.
    Replacing {
        /// Which.
        worker: WorkerId,
        /// Its place.
        slot: SlotId,
        /// Why.
        why: Leave,
    },
    /// A worker has more than it may, and is replaced or killed for it.
    OverLimit {
        /// Which, its place, of what, how much, and how much it may have.
        over: Over,
    },
    /// The number of workers follows the load.
    Scaled {
        /// So many were wanted.
        from: usize,
        /// So many are now.
        to: usize,
        /// Why, with numbers.
        why: alloc::string::String,
    },
    /// A worker is beyond help, and ended.
    Lost {
        /// Which.
        worker: WorkerId,
        /// Its place.
        slot: SlotId,
        /// Why.
        why: Leave,
    },
    /// A worker did not finish in time and is sent SIGTERM.
    Overdue {
        /// Which.
        worker: WorkerId,
        /// Its place.
        slot: SlotId,
        /// The time it had.
        after: Duration,
    },
    /// A worker did not finish in time and is killed.
    GraceOver {
        /// Which.
        worker: WorkerId,
        /// Its place.
        slot: SlotId,
        /// The time it had.
        after: Duration,
    },
    /// A worker broke the channel's protocol and is killed.
    Broken {
        /// Which.
        worker: WorkerId,
        /// Its place.
        slot: SlotId,
        /// How.
        why: alloc::string::String,
    },
    /// A worker that could not be told to drain was ended while it was busy.
    Cut {
        /// Which.
        worker: WorkerId,
        /// Its place.
        slot: SlotId,
        /// How many connections were in use, or waited for it.
        connections: u32,
    },
    /// A rolling reload begins.
    ReloadBegun {
        /// Its number.
        generation: u64,
        /// How many workers are to be replaced.
        workers: usize,
    },
    /// A rolling reload is over: every worker is new and ready.
    ReloadDone {
        /// Its number.
        generation: u64,
        /// How many workers were replaced.
        replaced: u32,
        /// How long it took.
        took: Duration,
    },
    /// A rolling reload stopped; the workers not replaced yet go on.
    ReloadFailed {
        /// Its number.
        generation: u64,
        /// Where.
        slot: SlotId,
        /// Why.
        why: End,
        /// How many workers were replaced before.
        replaced: u32,
        /// How many old ones go on.
        kept: usize,
        /// What follows for those that were replaced.
        then: Then,
    },
    /// The first slots of a reload have the new program, and are watched.
    CanaryBegun {
        /// The reload's number.
        generation: u64,
        /// In how many slots.
        slots: usize,
        /// For how long.
        time: Duration,
    },
    /// They did well: the reload goes on.
    CanaryPassed {
        /// The reload's number.
        generation: u64,
        /// After so long.
        time: Duration,
    },
    /// Slots that were replaced go back to the program before.
    RollbackBegun {
        /// Its number as a reload.
        generation: u64,
        /// The version that they go back to.
        version: u64,
        /// How many workers are to be replaced.
        workers: usize,
    },
    /// Every slot has the program before again.
    RolledBack {
        /// Its number as a reload.
        generation: u64,
        /// How many workers were replaced.
        replaced: u32,
        /// How long it took.
        took: Duration,
    },
    /// What a reload came to, when the last worker that left for it is gone, or still drains after a minute.
    Receipt(Receipt),
    /// All workers stop, to be started again.
    RestartBegun {
        /// Its number, as a reload's.
        generation: u64,
        /// How many there are.
        workers: usize,
    },
    /// All workers were stopped and are ready again.
    Restarted {
        /// Its number, as a reload's.
        generation: u64,
        /// How long it took.
        took: Duration,
    },
    /// Something was asked for that cannot be done now.
    Refused {
        /// What.
        what: &'static str,
        /// Why.
        why: &'static str,
    },
    /// No worker ever became ready; the cluster stops.
    NeverReady {
        /// What the last one died of.
        why: End,
    },
    /// The last worker is gone and none is wanted.
    Stopped,
}

/// What follows a reload that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// What was replaced stays.
    Stays,
    /// Slots with the new program go back to the one before.
    GoesBack,
    /// They were to, but the program before is gone: its files were changed in place.
    NothingToGoBackTo,
}

impl fmt::Display for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stays => Ok(()),
            Self::GoesBack => f.write_str("; the program before takes their place again"),
            Self::NothingToGoBackTo => f.write_str(
                "; they cannot go back, because the program before is gone: its files were changed in place (a directory for each version, or an executable, can be gone back to)",
            ),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended {
                worker,
                slot,
                exit,
                served,
                kind: kind @ EndKind::OutOfMemory { .. },
                ..
            } => write!(
                f,
                "worker {worker} in slot {slot} was {kind}: {exit}, after {served:.1?} of service"
            ),
            Self::Ended { worker, slot, exit, asked: None, served, .. } if served.is_zero() => {
                write!(f, "worker {worker} in slot {slot} ended unasked, before it served: {exit}")
            }
            Self::Ended { worker, slot, exit, asked: None, served, kind } => write!(
                f,
                "worker {worker} in slot {slot} ended unasked: {exit}, after {served:.1?} of service ({kind})"
            ),
            Self::Ended { worker, slot, exit, asked: Some(why), .. } => {
                write!(f, "worker {worker} in slot {slot} is gone ({why}): {exit}")
            }
            Self::NotStarted { worker, slot, why } => {
                write!(f, "worker {worker} in slot {slot} could not be started: {why}")
            }
            Self::Waiting { slot, wait, crashes } => {
                write!(
                    f,
                    "slot {slot} waits {wait:?} before its next worker: {crashes} crashes in a row"
                )
            }
            Self::CrashLoop { slot, crashes, every, within } => {
                write!(f, "slot {slot} is in a crash loop: {crashes} crashes ")?;
                match within {
                    None => f.write_str("in a row")?,
                    Some(time) => write!(f, "within {time:.1?}")?,
                }
                write!(f, "; it is tried again every {every:?}")
            }
            Self::SlotEnded { worker, slot, exit, left } => write!(
                f,
                "worker {worker} ended with {exit}, which is not to be followed by another: slot {slot} is ended, {left} are left"
            ),
            Self::StartTimeout { worker, slot, after } => {
                write!(
                    f,
                    "worker {worker} in slot {slot} was not ready within {after:.1?} and is killed"
                )
            }
            Self::Replacing { worker, slot, why } => {
                write!(f, "worker {worker} in slot {slot} is to be replaced ({why})")
            }
            Self::OverLimit { over } => over.fmt(f),
            Self::Scaled { from, to, why } => {
                write!(f, "scaled from {from} to {to} workers: {why}")
            }
            Self::Lost { worker, slot, why } => {
                write!(f, "worker {worker} in slot {slot} is ended and replaced ({why})")
            }
            Self::Overdue { worker, slot, after } => write!(
                f,
                "worker {worker} in slot {slot} did not finish within {after:.1?}: SIGTERM"
            ),
            Self::GraceOver { worker, slot, after } => {
                write!(
                    f,
                    "worker {worker} in slot {slot} did not finish within {after:.1?} and is killed"
                )
            }
            Self::Broken { worker, slot, why } => {
                write!(f, "worker {worker} in slot {slot} is killed: {why}")
            }
            Self::Cut { worker, slot, connections } => write!(
                f,
                "worker {worker} in slot {slot} has to end while it is busy: {connections} connections are cut, unless it finishes them by itself"
            ),
            Self::ReloadBegun { generation, workers } => {
                write!(f, "reload {generation} begins: {workers} workers to replace")
            }
            Self::ReloadDone { generation, replaced, took } => {
                write!(f, "reload {generation} is done: {replaced} workers replaced in {took:.1?}")
            }
            Self::ReloadFailed { generation, slot, why, replaced, kept, then } => write!(
                f,
                "reload {generation} stopped: the new worker in slot {slot} failed: {why}; {replaced} replaced before, {kept} old workers go on{then}"
            ),
            Self::CanaryBegun { generation, slots, time } => write!(
                f,
                "reload {generation}: {slots} slots have the new program beside the old one, and are watched for {time:?}"
            ),
            Self::CanaryPassed { generation, time } => {
                write!(f, "reload {generation}: the new program did well for {time:?}, and goes on")
            }
            Self::RollbackBegun { generation, version, workers } => write!(
                f,
                "reload {generation} goes back to version {version}: {workers} workers to replace"
            ),
            Self::RolledBack { generation, replaced, took } => write!(
                f,
                "reload {generation} went back: {replaced} workers replaced in {took:.1?}; all run the program before"
            ),
            Self::Receipt(receipt) => receipt.fmt(f),
            Self::RestartBegun { workers, .. } => {
                write!(f, "restart: {workers} workers stop, then all start again")
            }
            Self::Restarted { took, .. } => write!(f, "restarted: all are ready after {took:.1?}"),
            Self::Refused { what, why } => write!(f, "{what} refused: {why}"),
            Self::NeverReady { why } => {
                write!(f, "no worker became ready, the cluster stops; of the last one: {why}")
            }
            Self::Stopped => f.write_str("stopped: the last worker is gone"),
        }
    }
}
