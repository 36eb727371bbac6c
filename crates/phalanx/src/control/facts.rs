//! What a primary in the background keeps in mind of its workers: how often they were replaced, how the last reload
//! went, and, in a file for whoever has to clean up after it, who they are.

use super::app::App;
use super::register::{Process, Register};
use super::words::ReloadState;
use crate::event::Event;
use crate::primary::{Primary, WorkerHandle};
use phalanx_core::report::Report;
use phalanx_core::worker::{Leave, SlotId, WorkerId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Facts(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    restarts: BTreeMap<SlotId, u64>,
    reload: ReloadState,
    /// Those that there are.
    workers: BTreeMap<WorkerId, WorkerHandle>,
    /// It gave up.
    failed: bool,
    /// Told when the counts change without an event.
    counted: Arc<Notify>,
}

impl Facts {
    /// Watches from now on, until the cluster has stopped.
    pub(super) fn watch(primary: &Primary, app: App, register: Register) -> (Self, JoinHandle<()>) {
        let facts = Self::default();
        facts.lock().restarts = register.restarts.iter().map(|(n, k)| (SlotId(*n), *k)).collect();
        let mut events = primary.events();
        let shared = facts.clone();
        let (change, changed) = watch::channel(register);
        let writing = tokio::spawn(write(changed, app));
        let task = tokio::spawn(async move {
            let mut workers: BTreeMap<WorkerId, Option<Process>> = BTreeMap::new();
            let counted = Arc::clone(&shared.lock().counted);
            loop {
                // Read all the time: workers wait for whoever does not.
                let event = tokio::select! {
                    event = events.next() => event.map(Some),
                    () = counted.notified() => Some(None),
                };
                let Some(event) = event else { break };
                match event {
                    // Only the counts have changed.
                    None => {}
                    Some(Event::Fork(worker) | Event::Adopt(worker)) => {
                        shared.lock().workers.insert(worker.id(), worker.clone());
                        workers.insert(worker.id(), Process::of(worker.pid()));
                    }
                    Some(Event::Exit(worker, _)) => {
                        shared.lock().workers.remove(&worker.id());
                        workers.remove(&worker.id());
                    }
                    Some(Event::Report(report)) => {
                        let before = shared.all_restarts();
                        shared.note(&report);
                        if shared.all_restarts() == before {
                            continue;
                        }
                    }
                    Some(_) => continue,
                }
                let workers = workers.values().copied().flatten().collect();
                let restarts = shared.counts();
                change.send_modify(|register| {
                    (register.workers, register.restarts) = (workers, restarts);
                });
            }
            drop(change);
            let _ = writing.await;
        });
        (facts, task)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, report: &Report) {
        let mut kept = self.lock();
        let reload = |state: &str, generation: u64, words: Option<String>| ReloadState {
            state: state.to_owned(),
            generation,
            words,
        };
        match report {
            Report::Ended { slot, asked, .. } if unasked(*asked) => {
                *kept.restarts.entry(*slot).or_default() += 1;
            }
            Report::NotStarted { slot, .. } => *kept.restarts.entry(*slot).or_default() += 1,
            Report::NeverReady { .. } => kept.failed = true,
            Report::ReloadBegun { generation, .. } => {
                kept.reload = reload("running", *generation, None);
            }
            Report::ReloadDone { generation, .. } => {
                kept.reload = reload("done", *generation, Some(report.to_string()));
            }
            Report::ReloadFailed { generation, .. } => {
                kept.reload = reload("failed", *generation, Some(report.to_string()));
            }
            _ => {}
        }
    }

    /// Those that there are, of all slots or of that one.
    pub(super) fn workers(&self, slot: Option<u32>) -> Vec<WorkerHandle> {
        let all = self.lock().workers.values().cloned().collect::<Vec<_>>();
        all.into_iter().filter(|worker| slot.is_none_or(|slot| worker.slot().0 == slot)).collect()
    }

    /// Whether no worker ever became ready, and it gave up.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// Counts from nothing again.
    pub(super) fn reset(&self) {
        let mut kept = self.lock();
        kept.restarts.clear();
        // The next primary begins with what is written down.
        kept.counted.notify_one();
    }

    fn counts(&self) -> BTreeMap<u32, u64> {
        self.lock().restarts.iter().map(|(slot, count)| (slot.0, *count)).collect()
    }

    /// Of all slots.
    pub(super) fn all_restarts(&self) -> u64 {
        self.lock().restarts.values().sum()
    }

    pub(super) fn restarts(&self, slot: SlotId) -> u64 {
        self.lock().restarts.get(&slot).copied().unwrap_or_default()
    }

    pub(super) fn reload(&self) -> ReloadState {
        let mut reload = self.lock().reload.clone();
        if reload.state.is_empty() {
            "none".clone_into(&mut reload.state);
        }
        reload
    }
}

/// Whether nobody wanted it to end, and no rule did.
const fn unasked(asked: Option<Leave>) -> bool {
    match asked {
        None
        | Some(
            Leave::Itself
            | Leave::ChannelClosed
            | Leave::StartTimeout
            | Leave::Broken
            | Leave::Memory
            | Leave::Hung
            | Leave::Unhealthy
            | Leave::Orphaned,
        ) => true,
        Some(
            Leave::Reload
            | Leave::Rollback
            | Leave::Restart
            | Leave::Scale
            | Leave::Stop
            | Leave::Asked
            | Leave::Age
            | Leave::Connections,
        ) => false,
    }
}

/// Writes the last state, and never two at a time; a disk may be slow.
async fn write(mut changed: watch::Receiver<Register>, app: App) {
    let app = Arc::new(app);
    let mut said = false;
    while changed.changed().await.is_ok() {
        let register = changed.borrow_and_update().clone();
        let app = Arc::clone(&app);
        let written = tokio::task::spawn_blocking(move || register.write(&app)).await;
        if let Ok(Err(error)) = written
            && !std::mem::replace(&mut said, true)
        {
            tracing::warn!(
                "cannot write workers.json: {error}; who is left after a kill is found by session only"
            );
        }
    }
}
