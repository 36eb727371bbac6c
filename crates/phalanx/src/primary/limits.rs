//! Limits: what the core's judge decides is done here, and where the kernel can keep a limit itself, it does.

mod cgroup;

use super::shell::Shell;
use super::{Options, WorkerHandle};
use crate::error::{Error, Result};
use crate::settings::{Knows, Settings};
pub(super) use cgroup::Cgroups;
use phalanx_core::cluster::Event as CoreEvent;
use phalanx_core::limits::{Limits, Over, Seen, Size};
use phalanx_core::report::Report;
use phalanx_core::time::Time;
use phalanx_core::wire::{Frame, Note};
use phalanx_core::worker::WorkerId;

/// Whether these options can be kept: nothing is promised that cannot be.
pub(super) fn check(options: &Options) -> Result<()> {
    let Options { limits, scaling, settings, .. } = options;
    limits.check().map_err(Error::Setting)?;
    if let Some(scaling) = scaling {
        scaling.check().map_err(Error::Setting)?;
    }
    if limits.connections.is_some() && !counts_connections(settings) {
        return Err(Error::Setting(
            "a limit of connections needs workers that say how many they accepted: Node with the preload, or programs on this crate. Of any other program nobody can know".into(),
        ));
    }
    if limits.is_any() && cfg!(not(target_os = "linux")) {
        return Err(Error::Setting("limits need Linux: workers are looked at in /proc".into()));
    }
    Ok(())
}

/// Whether a worker tells how many connections it accepted.
fn counts_connections(settings: &Settings) -> bool {
    settings.knows == Knows::Channel && (settings.preload || settings.exec.is_none())
}

/// What the kernel keeps for us: the hard limit of memory if it can, and the weight or nothing.
pub(super) fn open_cgroups(limits: &Limits, keeper: Option<u32>) -> Result<Option<Cgroups>> {
    if limits.hard_memory.is_none() && limits.cpu_weight.is_none() {
        return Ok(None);
    }
    match Cgroups::open(limits, keeper) {
        Ok(cgroups) => Ok(Some(cgroups)),
        Err(why) if limits.cpu_weight.is_some() => Err(Error::Setting(format!(
            "workers cannot be given a CPU weight: {why}. It needs a control group of version 2 that is delegated to phalanx (`Delegate=yes` in a systemd service)"
        ))),
        Err(why) => {
            tracing::info!(
                "the hard memory limit is kept by looking at workers four times a second, as the kernel cannot keep it here: {why}"
            );
            Ok(None)
        }
    }
}

impl Shell {
    /// Workers that count are asked, before they are looked at.
    pub(super) fn ask_counts(&self) {
        let limits = self.upkeep.judge.limits();
        if limits.connections.is_some() || self.follows_lag() {
            for record in self.workers.values().filter(|r| r.is_online() && !r.leaving) {
                record.channel.push(&Frame::Note(Note::Count));
            }
        }
    }

    /// A worker says how many connections it accepted.
    pub(super) fn counted(&mut self, worker: WorkerId, accepted: u64, open: u32, lag: f64) {
        if let Some(life) = self.upkeep.lives.get_mut(&worker) {
            life.accepted = Some(accepted);
            life.open = Some(open);
            life.lag = Some(lag).filter(|lag| lag.is_finite());
        }
    }

    /// Who has too much goes.
    pub(super) fn keep_limits(&mut self, now: Time) {
        if !self.upkeep.judge.limits().is_any() || self.core.is_stopping() {
            return;
        }
        let lives = &self.upkeep.lives;
        let seen = |worker: WorkerId| {
            let life = lives.get(&worker)?;
            let age = now.since(life.begun);
            Some(Seen { memory: Some(life.usage?.memory), age, connections: life.accepted })
        };
        let over = self.upkeep.judge.judge(now, &self.core, seen);
        for over in over {
            self.goes_for(now, over);
        }
    }

    fn goes_for(&mut self, now: Time, over: Over) {
        let Over { worker, slot, why, kill, .. } = over;
        let known = self.upkeep.judge.is_held(slot);
        if let Some(life) = self.upkeep.lives.get_mut(&worker) {
            life.detail = Some(over.to_string());
            if known && !kill && self.upkeep.cgroups.is_none() {
                tracing::warn!(
                    "new workers in slot {slot} have {} from the beginning: the memory limit is lower than what they need, and replacing them is no cure",
                    Size(over.has)
                );
            }
        }
        if kill {
            // No SIGTERM before: by the time it is heard, there may be no memory left for anybody.
            if let Some(record) = self.workers.get(&worker) {
                record.handle.inner.child.kill();
            }
        }
        self.report(Report::OverLimit { over });
        let event =
            if kill { CoreEvent::Lost { worker, why } } else { CoreEvent::Replace { worker, why } };
        self.core.observe(now, event);
    }

    /// A worker's process was made: the kernel keeps its limits from now on.
    pub(super) fn limit(&mut self, handle: &WorkerHandle) {
        let Some(cgroups) = &mut self.upkeep.cgroups else { return };
        let limits = self.upkeep.judge.limits();
        if let Err(error) = cgroups.add(limits, handle.slot(), handle.id(), handle.pid()) {
            tracing::warn!(
                "worker {} in slot {} has no control group of its own: {error}",
                handle.id(),
                handle.slot()
            );
        }
    }
}
