//! Scaling: the signal is gathered here, and what the core makes of it is wished for.

use super::ports::Sockets;
use super::shell::Shell;
use super::usage::FOR_SCALING;
use super::{Command, Primary};
use crate::error::Result;
use crate::sys;
use phalanx_core::cluster::Event as CoreEvent;
use phalanx_core::report::Report;
use phalanx_core::scaling::{Scaling, Signal};
use phalanx_core::time::Time;
use phalanx_core::worker::{Worker, WorkerId};
use std::time::Duration;

/// An application's own signal counts for so long.
const SIGNAL_LASTS: Duration = Duration::from_secs(10);

impl Primary {
    /// The number of workers to begin with; the load may change it.
    pub(crate) fn begin_with(&self, workers: usize) -> Result<()> {
        self.command(Command::Wish(CoreEvent::Scale { workers }))
    }

    /// Lets the load decide again how many workers there are, after [`Primary::scale`].
    ///
    /// # Errors
    /// The cluster has stopped.
    pub fn scale_auto(&self) -> Result<()> {
        self.command(Command::ScaleAuto)
    }

    /// What [`Signal::Custom`](crate::scaling::Signal::Custom) is now, for each worker on average. It counts for ten
    /// seconds; without a newer one nothing is changed then.
    ///
    /// ```no_run
    /// # async fn jobs_per_worker() -> f64 { 0.0 }
    /// # async fn f(primary: phalanx::Primary) -> phalanx::Result<()> {
    /// loop {
    ///     primary.scaling_signal(jobs_per_worker().await)?;
    ///     tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// The cluster has stopped.
    pub fn scaling_signal(&self, value: f64) -> Result<()> {
        self.command(Command::Signal(value))
    }
}

impl Shell {
    /// Somebody says how many workers there shall be.
    pub(super) fn scale_by_hand(&mut self, now: Time, workers: usize) {
        let from = self.core.wanted();
        if self.upkeep.scaler.is_some() && !self.core.is_stopping() {
            self.upkeep.by_hand = true;
            let why = "by hand; it stays so until it is left to the load again".into();
            self.report(Report::Scaled { from, to: workers, why });
        }
        self.core.observe(now, CoreEvent::Scale { workers });
    }

    /// The load decides again.
    pub(super) fn scale_auto(&mut self) {
        if self.upkeep.scaler.is_none() {
            let why = "no rules for it were set (min, max)";
            self.report(Report::Refused { what: "scaling by load", why });
        } else if std::mem::replace(&mut self.upkeep.by_hand, false) {
            tracing::info!("the number of workers follows the load again");
        }
    }

    /// The application's own signal.
    pub(super) fn signalled(&mut self, now: Time, value: f64) {
        self.upkeep.signal = Some((now, value));
    }

    /// Workers have to tell how late their event loops are.
    pub(super) fn follows_lag(&self) -> bool {
        let follows = |rules: &Scaling| rules.signal == Signal::EventLoopLag;
        self.upkeep.scaler.as_ref().is_some_and(|scaler| follows(scaler.rules()))
    }

    /// Once a second: what the load wants.
    pub(super) fn keep_scale(&mut self, now: Time, load: Option<f64>) {
        let Some(rules) = self.upkeep.scaler.as_ref().map(|scaler| scaler.rules().clone()) else {
            return;
        };
        let due =
            self.upkeep.scaled.is_none_or(|at| now.since(at) + FOR_SCALING / 10 >= FOR_SCALING);
        if !due || self.upkeep.by_hand || self.core.is_stopping() || self.core.wanted() == 0 {
            return;
        }
        self.upkeep.scaled = Some(now);
        let serving: Vec<WorkerId> = self
            .core
            .workers()
            .filter(|w| w.guarded && Worker::is_ready(w))
            .map(|w| w.id)
            .collect();
        let Some(value) = self.signal_of(now, rules.signal, &serving, load) else { return };
        let wanted = self.core.wanted();
        let Some(scaler) = &mut self.upkeep.scaler else { return };
        if let Some(change) = scaler.sample(now, serving.len(), wanted, value) {
            let (is, target) = (rules.signal.of(change.value), rules.signal.of(rules.target));
            let why =
                format!("{is} with {} workers that serve, the target is {target}", serving.len());
            self.report(Report::Scaled { from: change.from, to: change.to, why });
            self.core.observe(now, CoreEvent::Scale { workers: change.to });
        }
    }

    /// The signal's value for each worker that serves, on average.
    fn signal_of(
        &self,
        now: Time,
        signal: Signal,
        serving: &[WorkerId],
        load: Option<f64>,
    ) -> Option<f64> {
        let workers = u32::try_from(serving.len()).ok().filter(|n| *n > 0).map(f64::from)?;
        let lives = || serving.iter().filter_map(|id| self.upkeep.lives.get(id));
        match signal {
            Signal::Cpu => {
                mean(lives().filter_map(|life| life.cpu).map(|cpu| f64::from(cpu) * 100.0))
            }
            Signal::EventLoopLag => mean(lives().filter_map(|life| life.lag)),
            Signal::AcceptQueue => Some(f64::from(self.not_accepted()) / workers),
            Signal::LoadAverage => Some(load? / workers),
            Signal::Custom => {
                let (at, value) = self.upkeep.signal?;
                (now.since(at) < SIGNAL_LASTS).then_some(value)
            }
        }
    }

    /// Connections that nobody has accepted, or that the primary could not hand out.
    fn not_accepted(&self) -> u32 {
        let waiting = self.ports.values().filter(|port| !port.is_udp()).map(|port| {
            let queued: u32 = match &port.sockets {
                Sockets::Slots(slots) => {
                    slots.iter().filter_map(|slot| sys::accept_queue(&slot.fd).ok()).sum()
                }
                Sockets::One(fd, _) => sys::accept_queue(fd).unwrap_or(0),
            };
            queued.saturating_add(u32::try_from(port.parked.len()).unwrap_or(u32::MAX))
        });
        waiting.fold(0, u32::saturating_add)
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    (count > 0.0).then(|| sum / count)
}
