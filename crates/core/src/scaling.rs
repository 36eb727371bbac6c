//! How many workers there should be, from a number that tells how busy each of them is.
//!
//! *Desired* is as many workers as would bring that number to its target, if it goes down as workers are added:
//! workers × value ÷ target. More than wanted: up, at once, then not again for a while. Fewer: down, but only as far
//! as the most that was desired in the whole of a longer while. A band around the target, in which nothing happens,
//! is wider than what a change of workers brings, so the number of workers comes to rest.

use crate::spec::MAX_WORKERS;
use crate::time::Time;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

/// The newest value counts as much as all before it: a single odd second is no reason to act.
const NEWEST: f64 = 0.5;
/// What is remembered for going down: one entry for each second is enough for hours.
const MAX_MEMORY: usize = 4096;

/// What tells how busy workers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signal {
    /// Per cent of one processor that a worker uses, its children included.
    #[default]
    Cpu,
    /// Milliseconds by which the event loop is late (Node workers with the preload).
    EventLoopLag,
    /// Connections per worker that nobody has accepted yet.
    AcceptQueue,
    /// The machine's load average of the last minute, per worker.
    LoadAverage,
    /// A number of the application's, per worker.
    Custom,
}

impl Signal {
    /// The target where none is set.
    #[must_use]
    pub const fn default_target(self) -> f64 {
        match self {
            Self::Cpu => 70.0,
            Self::EventLoopLag => 50.0,
            Self::AcceptQueue => 4.0,
            Self::LoadAverage | Self::Custom => 1.0,
        }
    }

    /// A value of it, in words.
    #[must_use]
    pub fn of(self, value: f64) -> String {
        match self {
            Self::Cpu => format!("CPU {value:.0} %"),
            Self::EventLoopLag => format!("event loop {value:.0} ms late"),
            Self::AcceptQueue => format!("{value:.1} waiting connections per worker"),
            Self::LoadAverage => format!("load average {value:.2} per worker"),
            Self::Custom => format!("signal {value}"),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::EventLoopLag => "lag",
            Self::AcceptQueue => "queue",
            Self::LoadAverage => "load",
            Self::Custom => "custom",
        })
    }
}

/// The rules by which the number of workers follows the load.
///
/// ```
/// use phalanx_core::scaling::Scaling;
/// let scaling = Scaling { min: 2, max: 8, ..Scaling::default() };
/// assert_eq!(scaling.check(), Ok(()));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// Never fewer workers.
    pub min: usize,
    /// Never more.
    pub max: usize,
    /// What is looked at.
    pub signal: Signal,
    /// What it should be for each worker, in its unit.
    pub target: f64,
    /// How long nothing is added after a change.
    pub up_after: Duration,
    /// How long fewer workers must have been enough before some are taken away; and after a change nothing is.
    pub down_after: Duration,
    /// The part of the target by which the signal may be off without anything being done.
    pub band: f64,
    /// The most workers that are added or taken away at a time; `None`: up to twice as many, down to half.
    pub step: Option<usize>,
}

impl Default for Scaling {
    /// 1 to 1 worker (to be set), by CPU; 5 s up, 60 s down, a band of a tenth.
    fn default() -> Self {
        Self {
            min: 1,
            max: 1,
            signal: Signal::Cpu,
            target: Signal::Cpu.default_target(),
            up_after: Duration::from_secs(5),
            down_after: Duration::from_secs(60),
            band: 0.1,
            step: None,
        }
    }
}

impl Scaling {
    /// Whether the rules make sense, and how not.
    ///
    /// # Errors
    /// What contradicts what, for people.
    pub fn check(&self) -> Result<(), String> {
        let Self { min, max, target, band, .. } = self;
        if *min == 0 || *max > MAX_WORKERS {
            return Err(format!(
                "scaling from {min} to {max} workers: it must be within 1 to {MAX_WORKERS}"
            ));
        }
        if min > max {
            return Err(format!(
                "scaling needs at least {min} workers (min) and at most {max} (max): that is none"
            ));
        }
        if !(target.is_finite() && *target > 0.0) {
            return Err(format!("a scaling target of {target}: it must be a number above 0"));
        }
        // CPU is counted per worker: with one thread there is not more.
        if self.signal == Signal::Cpu && *target > 10_000.0 {
            return Err(format!("a CPU target of {target} % is never reached"));
        }
        if !(0.0..0.9).contains(band) {
            return Err(format!("a band of {band}: it must be a part from 0 to 0.9"));
        }
        if self.step == Some(0) {
            return Err("scaling in steps of 0 workers changes nothing".into());
        }
        Ok(())
    }
}

/// The number of workers is to change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// From so many.
    pub from: usize,
    /// To so many.
    pub to: usize,
    /// The smoothed value that it follows from.
    pub value: f64,
}

/// Follows the load.
#[derive(Clone, Debug)]
pub struct Scaler {
    rules: Scaling,
    smoothed: Option<f64>,
    changed: Option<Time>,
    /// When it began, and what was desired since, newest last: for each moment the most until the next entry.
    desired: VecDeque<(Time, usize)>,
    begun: Option<Time>,
}

impl Scaler {
    /// One for these rules.
    #[must_use]
    pub const fn new(rules: Scaling) -> Self {
        Self { rules, smoothed: None, changed: None, desired: VecDeque::new(), begun: None }
    }

    /// What it follows.
    #[must_use]
    pub const fn rules(&self) -> &Scaling {
        &self.rules
    }

    /// The smoothed value, once there is one.
    #[must_use]
    pub const fn value(&self) -> Option<f64> {
        self.smoothed
    }

    /// Each of `serving` workers has this value of the signal on average, and so many are wanted now. What is to be
    /// done, if anything; it counts as done.
    pub fn sample(
        &mut self,
        now: Time,
        serving: usize,
        wanted: usize,
        value: f64,
    ) -> Option<Change> {
        if !value.is_finite() || serving == 0 {
            return None;
        }
        let value = value.max(0.0);
        let smoothed = self.smoothed.map_or(value, |old| old + (value - old) * NEWEST);
        self.smoothed = Some(smoothed);
        let begun = *self.begun.get_or_insert(now);
        let Scaling { min, max, target, band, up_after, down_after, .. } = self.rules;
        // Outside of the limits (they were changed, or somebody scaled by hand): back, whatever the load.
        if wanted < min || wanted > max {
            return Some(self.change(now, wanted, wanted.clamp(min, max), smoothed));
        }
        let rested = |wait| self.changed.is_none_or(|at| now.since(at) >= wait);
        let (up, down) = (rested(up_after), rested(down_after));
        // For fewer, as many as keep it below the band afterwards.
        let few = self.needed(serving, smoothed.max(value), target * (1.0 - band));
        self.remember(now, few, down_after);
        if smoothed > target * (1.0 + band) {
            let many = self.needed(serving, smoothed, target);
            let most =
                self.rules.step.map_or(wanted.saturating_mul(2), |s| wanted.saturating_add(s));
            let to = many.min(most);
            return (to > wanted && up).then(|| self.change(now, wanted, to, smoothed));
        }
        let most = self.desired.iter().map(|(_, n)| *n).max().unwrap_or(wanted);
        let least = self.rules.step.map_or(wanted.div_ceil(2), |s| wanted.saturating_sub(s));
        let to = most.max(least).clamp(min, max);
        let long_enough = down && now.since(begun) >= down_after;
        (to < wanted && long_enough).then(|| self.change(now, wanted, to, smoothed))
    }

    /// How many workers bring the value to this, within the limits.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small, not negative, and what is beyond is cut"
    )]
    fn needed(&self, serving: usize, value: f64, target: f64) -> usize {
        let exact = serving as f64 * value / target;
        // `ceil` is not in core; a little more than a whole number is still that number.
        let whole = (exact - 1e-9).max(0.0) as usize;
        whole
            .saturating_add(usize::from(exact - whole as f64 > 1e-9))
            .clamp(self.rules.min, self.rules.max)
    }

    fn remember(&mut self, now: Time, desired: usize, window: Duration) {
        // Smaller ones before a larger one never count again.
        while self.desired.back().is_some_and(|(_, n)| *n <= desired) {
            self.desired.pop_back();
        }
        self.desired.push_back((now, desired));
        while self.desired.len() > MAX_MEMORY
            || self.desired.front().is_some_and(|(at, _)| now.since(*at) > window)
        {
            self.desired.pop_front();
        }
    }

    const fn change(&mut self, now: Time, from: usize, to: usize, value: f64) -> Change {
        self.changed = Some(now);
        Change { from, to, value }
    }
}

#[cfg(test)]
mod tests;
