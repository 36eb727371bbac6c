//! How much a worker may have: of memory, of time, of connections.
//!
//! A worker that has more than that is replaced by a successor that serves before the old one leaves; one that has
//! more memory than the hard limit is killed. Each worker's limits differ a little from the others', so that
//! workers which began together do not all go together.

use crate::cluster::Cluster;
use crate::time::Time;
use crate::worker::{Leave, Phase, SlotId, Worker, WorkerId};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// The part by which a worker's own limit is at most above or below the one that was set.
pub const JITTER: f64 = 0.1;
/// More than so many times its limit, and a worker's replacement does not wait for another one's.
const URGENT: f64 = 1.5;
/// A worker that is ready for less than this is not looked at: what it has is what every new one has.
const FRESH: Duration = Duration::from_secs(1);
/// A worker that had too much so soon will not be cured by another one: the next waits, longer each time.
const HARDLY_BEGUN: Duration = Duration::from_millis(1_500);
/// How long at first, and at most.
const HOLD: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// No limit of memory is below this: not even an empty program fits.
const LEAST_MEMORY: u64 = 1 << 20;
/// No worker can be replaced more often.
const LEAST_AGE: Duration = Duration::from_secs(1);

/// What a worker may have. Nothing is measured that has no limit.
///
/// ```
/// use phalanx_core::limits::Limits;
/// let limits = Limits { memory: Some(150 << 20), ..Limits::default() };
/// assert_eq!(limits.check(), Ok(()));
/// let absurd = Limits { hard_memory: Some(100 << 20), ..limits };
/// assert!(absurd.check().is_err(), "it would be killed before it could be replaced");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, of the worker and its children, beyond which it is replaced without losing a request.
    pub memory: Option<u64>,
    /// Bytes of memory beyond which it is killed.
    pub hard_memory: Option<u64>,
    /// How old its process may get before it is replaced.
    pub age: Option<Duration>,
    /// How many connections it may accept before it is replaced.
    pub connections: Option<u64>,
    /// Its share of the processors while there are not enough, 1 to 10,000; others have 100 (`cpu.weight` of
    /// cgroup v2).
    pub cpu_weight: Option<u32>,
}

impl Limits {
    /// Whether they make sense, and how not.
    ///
    /// # Errors
    /// What contradicts what, for people.
    pub fn check(&self) -> Result<(), String> {
        for (name, limit) in [("memory", self.memory), ("hard memory", self.hard_memory)] {
            if let Some(bytes) = limit.filter(|bytes| *bytes < LEAST_MEMORY) {
                return Err(format!(
                    "a {name} limit of {} is not enough for any program: it must be at least {}",
                    Size(bytes),
                    Size(LEAST_MEMORY)
                ));
            }
        }
        if let (Some(soft), Some(hard)) = (self.memory, self.hard_memory)
            && hard < soft
        {
            return Err(format!(
                "the hard memory limit ({}) is below the memory limit ({}): workers would be killed before they could be replaced",
                Size(hard),
                Size(soft)
            ));
        }
        if let Some(age) = self.age.filter(|age| *age < LEAST_AGE) {
            return Err(format!("an age limit of {age:?} is too short: it must be at least 1s"));
        }
        if self.connections == Some(0) {
            return Err("a limit of 0 connections: such a worker would serve nobody".into());
        }
        match self.cpu_weight {
            Some(weight) if !(1..=10_000).contains(&weight) => {
                Err(format!("a CPU weight of {weight}: it must be 1 to 10000"))
            }
            _ => Ok(()),
        }
    }

    /// Whether workers have to be looked at.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        self.memory.is_some()
            || self.hard_memory.is_some()
            || self.age.is_some()
            || self.connections.is_some()
    }

    /// How often they have to be; `None`: not at all.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        let memory = (self.memory.is_some() || self.hard_memory.is_some())
            .then_some(Duration::from_millis(250));
        let least = Duration::from_millis(100);
        let age = self.age.map(|age| (age / 10).clamp(least, Duration::from_secs(1)));
        let connections = self.connections.map(|_| Duration::from_millis(500));
        [memory, age, connections].into_iter().flatten().min()
    }
}

/// What was seen of a worker; what is not known is not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes of memory, children included.
    pub memory: Option<u64>,
    /// How old its process is.
    pub age: Duration,
    /// How many connections it has accepted.
    pub connections: Option<u64>,
}

/// A worker has more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// Which.
    pub worker: WorkerId,
    /// Its place.
    pub slot: SlotId,
    /// Of what: [`Leave::Memory`], [`Leave::Age`] or [`Leave::Connections`].
    pub why: Leave,
    /// How much: bytes, milliseconds, connections.
    pub has: u64,
    /// Its own limit, in the same unit.
    pub limit: u64,
    /// It is not to be replaced but killed, now.
    pub kill: bool,
}

impl core::fmt::Display for Over {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { worker, slot, why, has, limit, kill } = *self;
        write!(f, "worker {worker} in slot {slot} has ")?;
        match why {
            Leave::Memory => write!(f, "{} of memory, and may have {}", Size(has), Size(limit))?,
            Leave::Age => {
                let [has, limit] = [has, limit].map(Duration::from_millis);
                write!(f, "reached an age of {has:.1?}, and may get {limit:.1?} old")?;
            }
            _ => write!(f, "accepted {has} connections, and may accept {limit}")?,
        }
        f.write_str(if kill { ": it is killed" } else { ": it is to be replaced" })
    }
}

/// Decides who has to go.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    limits: Limits,
    /// Slots whose new workers have too much from the beginning.
    held: BTreeMap<SlotId, Held>,
}

/// A slot in which replacing is no cure.
#[derive(Clone, Debug)]
struct Held {
    /// The newest worker that had too much from its beginning.
    worker: WorkerId,
    /// How many of them were replaced in a row.
    row: u32,
    /// Nobody is replaced before.
    until: Time,
}

impl Judge {
    /// One for these limits.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, held: BTreeMap::new() }
    }

    /// What it judges by.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Who has too much. At most one worker at a time is replaced for each limit, unless its memory is far beyond it.
    pub fn judge(
        &mut self,
        now: Time,
        cluster: &Cluster,
        seen: impl Fn(WorkerId) -> Option<Seen>,
    ) -> Vec<Over> {
        let mut over = Vec::new();
        let mut busy: Vec<Leave> = cluster
            .workers()
            .filter(|w| w.is_live() && !beside(cluster, w, |other| other > w.id))
            .filter_map(|w| Some(w.retire.as_ref()?.why))
            .collect();
        for worker in cluster.workers() {
            let Some(seen) = seen(worker.id) else { continue };
            if let Some(killed) = self.too_much(worker, seen) {
                over.push(killed);
                continue;
            }
            let Phase::Ready { since } = worker.phase else { continue };
            let ready_for = now.since(since);
            if !worker.guarded || worker.retire.is_some() || ready_for < FRESH {
                continue;
            }
            for found in self.exceeded(worker, seen) {
                let memory = found.why == Leave::Memory;
                // On trial: it may not stay at all.
                if !memory && beside(cluster, worker, |other| other < worker.id) {
                    continue;
                }
                let urgent = memory && at_least(found.has, found.limit, URGENT);
                let held = memory && self.holds(now, worker, ready_for);
                if held || busy.contains(&found.why) && !urgent {
                    continue;
                }
                if memory {
                    self.replaced(now, worker);
                }
                busy.push(found.why);
                over.push(found);
                break;
            }
        }
        over
    }

    /// Whether new workers of this slot have more than they may from the beginning, so that replacing them is no cure.
    #[must_use]
    pub fn is_held(&self, slot: SlotId) -> bool {
        self.held.contains_key(&slot)
    }

    /// A worker has too much memory; whether it is left all the same for a while.
    fn holds(&mut self, now: Time, worker: &Worker, ready_for: Duration) -> bool {
        if ready_for < HARDLY_BEGUN {
            let first = Held { worker: worker.id, row: 0, until: now };
            self.held.entry(worker.slot).or_insert(first).worker = worker.id;
        }
        self.held.get(&worker.slot).is_some_and(|held| held.until > now)
    }

    /// The next one in its place is not replaced soon, if this one had too much from the beginning.
    fn replaced(&mut self, now: Time, worker: &Worker) {
        match self.held.get_mut(&worker.slot) {
            Some(held) if held.worker == worker.id => {
                let wait = HOLD.0.saturating_mul(1 << held.row.min(8)).min(HOLD.1);
                (held.row, held.until) = (held.row.saturating_add(1), now.after(wait));
            }
            Some(_) => drop(self.held.remove(&worker.slot)),
            None => {}
        }
    }

    /// Whoever it is: it is killed.
    fn too_much(&self, worker: &Worker, seen: Seen) -> Option<Over> {
        let (limit, has) = (self.limits.hard_memory?, seen.memory?);
        let killed = matches!(worker.phase, Phase::Killed { .. });
        (has > limit && !killed && worker.pid.is_some()).then_some(Over {
            worker: worker.id,
            slot: worker.slot,
            why: Leave::Memory,
            has,
            limit,
            kill: true,
        })
    }

    fn exceeded(&self, worker: &Worker, seen: Seen) -> impl Iterator<Item = Over> + use<> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (id, slot) = (worker.id, worker.slot);
        let own =
            move |limit: Option<u64>, salt| limit.map(|limit| jittered(limit, slot, id, salt));
        // Never beyond the hard one: it would be killed before.
        let hard = self.limits.hard_memory.unwrap_or(u64::MAX);
        let all = [
            (Leave::Memory, own(self.limits.memory, 1).map(|own| own.min(hard)), seen.memory),
            (Leave::Connections, own(self.limits.connections, 2), seen.connections),
            (Leave::Age, own(self.limits.age.map(millis), 3), Some(millis(seen.age))),
        ];
        all.into_iter().filter_map(move |(why, limit, has)| {
            let (limit, has) = (limit?, has?);
            (has >= limit).then_some(Over { worker: id, slot, why, has, limit, kill: false })
        })
    }
}

/// Whether a worker that serves shares its slot with another one that does: a new program is on trial there.
fn beside(cluster: &Cluster, worker: &Worker, is_it: impl Fn(WorkerId) -> bool) -> bool {
    let mut all = cluster.workers().filter(|w| w.guarded && w.slot == worker.slot && w.is_ready());
    all.any(|w| is_it(w.id))
}

/// A worker's own limit: within [`JITTER`] of the one that was set, and always the same for this worker.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a limit need not be exact, and is not negative"
)]
fn jittered(limit: u64, slot: SlotId, worker: WorkerId, salt: u64) -> u64 {
    let seed = salt << 48 ^ u64::from(slot.0) << 32 ^ u64::from(worker.0);
    let part = (mix(seed) >> 11) as f64 / (1u64 << 53) as f64;
    ((limit as f64 * (1.0 - JITTER + 2.0 * JITTER * part)) as u64).max(1)
}

#[expect(clippy::cast_precision_loss, reason = "it need not be exact")]
fn at_least(has: u64, limit: u64, times: f64) -> bool {
    has as f64 >= limit as f64 * times
}

/// Each bit of the result depends on each of the seed: the finaliser of `MurmurHash3`.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

/// Bytes, as people write them: `150M`.
///
/// ```
/// use phalanx_core::limits::Size;
/// assert_eq!(Size(157_286_400).to_string(), "150 MB");
/// assert_eq!("1.5G".parse(), Ok(Size(1_610_612_736)));
/// assert_eq!("512K".parse(), Ok(Size(524_288)));
/// assert_eq!("1000".parse(), Ok(Size(1_000)));
/// assert!("-1M".parse::<Size>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl core::fmt::Display for Size {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let whole = |unit: u64, name: &str, f: &mut core::fmt::Formatter<'_>| {
            let tenths = self.0.saturating_mul(10) / unit;
            match (tenths / 10, tenths % 10) {
                (whole @ 0..10, tenth @ 1..) => write!(f, "{whole}.{tenth} {name}"),
                (whole, _) => write!(f, "{whole} {name}"),
            }
        };
        match self.0 {
            0..1024 => write!(f, "{} bytes", self.0),
            1024..0x10_0000 => whole(1 << 10, "KB", f),
            0x10_0000..0x4000_0000 => whole(1 << 20, "MB", f),
            _ => whole(1 << 30, "GB", f),
        }
    }
}

impl core::str::FromStr for Size {
    type Err = &'static str;

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be within what is exact"
    )]
    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WHAT: &str = "expected a size such as 150M: a number of bytes, or one with K, M or G";
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = match unit.trim().to_ascii_uppercase().as_str() {
            "" | "B" => 1u64,
            "K" | "KB" | "KIB" => 1 << 10,
            "M" | "MB" | "MIB" => 1 << 20,
            "G" | "GB" | "GIB" => 1 << 30,
            _ => return Err(WHAT),
        };
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(unit).ok_or(WHAT)?,
            Err(_) => {
                let bytes = number.parse::<f64>().map_err(|_| WHAT)? * unit as f64;
                (bytes >= 0.0 && bytes < (1u64 << 53) as f64).then_some(bytes as u64).ok_or(WHAT)?
            }
        };
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Event;
    use crate::spec::Spec;
    use std::vec;

    const MB: u64 = 1 << 20;

    /// A cluster whose workers have been ready for long.
    fn ready(workers: usize) -> Cluster {
        let mut cluster = Cluster::new(Spec { workers, ..Spec::default() });
        let _ = cluster.plan(Time::ZERO);
        let ids: Vec<_> = cluster.workers().map(|w| w.id).collect();
        for worker in ids {
            cluster.observe(Time::ZERO, Event::Forked { worker, pid: 100 + worker.0 });
            cluster.observe(Time::ZERO, Event::Listening { worker });
        }
        cluster
    }

    const fn memory(bytes: u64) -> Seen {
        Seen { memory: Some(bytes), age: Duration::from_secs(60), connections: None }
    }

    fn soft(bytes: u64) -> Judge {
        Judge::new(Limits { memory: Some(bytes), ..Limits::default() })
    }

    #[test]
    fn one_at_a_time_unless_it_is_urgent() {
        let (mut cluster, mut judge) = (ready(4), soft(100 * MB));
        let now = Time::from_millis(60_000);
        let first = judge.judge(now, &cluster, |_| Some(memory(120 * MB)));
        assert_eq!(first.len(), 1, "{first:?}");
        assert!(!first[0].kill && first[0].why == Leave::Memory);
        cluster.observe(now, Event::Replace { worker: first[0].worker, why: Leave::Memory });
        assert_eq!(judge.judge(now, &cluster, |_| Some(memory(120 * MB))), vec![]);
        let urgent = judge.judge(now, &cluster, |_| Some(memory(170 * MB)));
        assert_eq!(urgent.len(), 3, "all that are not on their way yet: {urgent:?}");
        // Another limit is another matter.
        let mut judge =
            Judge::new(Limits { age: Some(Duration::from_secs(30)), ..Limits::default() });
        assert_eq!(judge.judge(now, &cluster, |_| Some(memory(0))).len(), 1);
    }

    #[test]
    fn the_next_one_follows_when_the_successor_serves() {
        let (mut cluster, mut judge) = (ready(2), soft(100 * MB));
        let mut gone = Vec::new();
        for round in 1..=2u64 {
            let now = Time::from_millis(60_000 * round);
            let fat = |id: WorkerId| Some(memory(if id.0 <= 2 { 120 * MB } else { MB }));
            let over = judge.judge(now, &cluster, fat);
            assert_eq!(over.len(), 1, "{over:?}");
            gone.push(over[0].worker.0);
            cluster.observe(now, Event::Replace { worker: over[0].worker, why: Leave::Memory });
            let _ = cluster.plan(now);
            let worker = WorkerId(2 + u32::try_from(round).unwrap());
            cluster.observe(now, Event::Forked { worker, pid: 7 });
            cluster.observe(now, Event::Listening { worker });
            let _ = cluster.plan(now);
        }
        assert_eq!(gone, [1, 2]);
    }

    #[test]
    fn beyond_the_hard_limit_everybody_is_killed() {
        let mut cluster = ready(3);
        let now = Time::from_millis(10);
        cluster.observe(now, Event::Disconnect { worker: WorkerId(1) });
        let limits =
            Limits { memory: Some(90 * MB), hard_memory: Some(100 * MB), ..Limits::default() };
        let over = Judge::new(limits).judge(now, &cluster, |_| Some(memory(101 * MB)));
        assert_eq!(over.len(), 3, "draining or fresh: {over:?}");
        assert!(over.iter().all(|o| o.kill && o.has == 101 * MB && o.limit == 100 * MB));
    }

    #[test]
    fn a_limit_that_no_new_worker_keeps_is_no_busy_loop() {
        let mut judge = soft(10 * MB);
        let mut replaced = Vec::new();
        // A new worker is there at once, each with too much.
        let (mut ms, mut born) = (0, 0);
        while ms < 600_000 {
            ms += 250;
            let mut cluster = ready(1);
            // Ready since it was born: time is counted from there.
            let now = Time::from_millis(ms);
            let id = WorkerId(1);
            cluster.observe(now, Event::Exited { worker: id, exit: crate::worker::Exit::Code(0) });
            let _ = cluster.plan(now);
            let worker = WorkerId(2);
            // Each is another one.
            for _ in 0..replaced.len() {
                let last = cluster.workers().next().map(|w| w.id).unwrap();
                let exit = crate::worker::Exit::Code(0);
                cluster.observe(now, Event::Exited { worker: last, exit });
                let _ = cluster.plan(now.after(Duration::from_secs(3_600)));
            }
            let worker = cluster.workers().next().map_or(worker, |w| w.id);
            cluster.observe(Time::from_millis(born), Event::Forked { worker, pid: 1 });
            cluster.observe(Time::from_millis(born), Event::Listening { worker });
            if !judge.judge(now, &cluster, |_| Some(memory(50 * MB))).is_empty() {
                replaced.push(ms);
                born = ms;
            }
        }
        assert!(judge.is_held(SlotId(0)));
        assert!((5..=20).contains(&replaced.len()), "{replaced:?}");
        assert!(replaced[0] <= 1_250, "{replaced:?}");
    }

    #[test]
    fn a_leak_is_replaced_again_and_again() {
        let mut judge = soft(100 * MB);
        let cluster = ready(1);
        for round in 1..50u64 {
            let now = Time::from_millis(round * 2_000);
            assert_eq!(judge.judge(now, &cluster, |_| Some(memory(130 * MB))).len(), 1, "{round}");
        }
    }

    #[test]
    fn jitter_is_within_its_part_and_spreads() {
        let mut all: Vec<u64> =
            (0..1000u32).map(|n| jittered(1_000_000, SlotId(n % 8), WorkerId(n), 3)).collect();
        assert!(all.iter().all(|own| (900_000..=1_100_000).contains(own)));
        all.sort_unstable();
        assert!(all[100] < 925_000 && all[900] > 1_075_000, "{} {}", all[100], all[900]);
        all.dedup();
        assert!(all.len() > 990);
        assert_eq!(
            jittered(u64::MAX, SlotId(0), WorkerId(0), 0),
            jittered(u64::MAX, SlotId(0), WorkerId(0), 0)
        );
    }

    #[test]
    fn what_is_not_known_is_not_judged() {
        let cluster = ready(1);
        let limits = Limits { memory: Some(MB), connections: Some(1), ..Limits::default() };
        let nothing = Seen { memory: None, age: Duration::MAX, connections: None };
        let now = Time::from_millis(60_000);
        assert_eq!(Judge::new(limits.clone()).judge(now, &cluster, |_| Some(nothing)), vec![]);
        assert_eq!(Judge::new(limits.clone()).judge(now, &cluster, |_| None), vec![]);
        let seen = Seen { connections: Some(2), ..nothing };
        let over = Judge::new(limits).judge(now, &cluster, |_| Some(seen));
        assert_eq!(over.first().map(|o| (o.why, o.has)), Some((Leave::Connections, 2)));
    }

    #[test]
    fn absurd_limits_are_refused() {
        let all = [
            Limits { memory: Some(1000), ..Limits::default() },
            Limits { memory: Some(2 * MB), hard_memory: Some(MB), ..Limits::default() },
            Limits { age: Some(Duration::from_millis(999)), ..Limits::default() },
            Limits { connections: Some(0), ..Limits::default() },
            Limits { cpu_weight: Some(0), ..Limits::default() },
            Limits { cpu_weight: Some(10_001), ..Limits::default() },
        ];
        for limits in all {
            assert!(limits.check().is_err(), "{limits:?}");
        }
        assert_eq!(Limits::default().interval(), None);
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [
            ("150M", Some(150 * MB)),
            ("150MB", Some(150 * MB)),
            ("1g", Some(1 << 30)),
            ("512K", Some(512 << 10)),
            ("0.5M", Some(MB / 2)),
            ("1000", Some(1000)),
            ("0", Some(0)),
            ("", None),
            ("M", None),
            ("-1", None),
            ("1T", None),
            ("1.2.3M", None),
            ("99999999999999999999", None),
            ("99999999999G", None),
            ("NaN", None),
            ("inf", None),
        ] {
            assert_eq!(text.parse::<Size>().ok().map(|size| size.0), bytes, "{text:?}");
        }
        for (bytes, text) in [
            (900, "900 bytes"),
            (2048, "2 KB"),
            (5 * MB + MB / 2, "5.5 MB"),
            (300 * MB, "300 MB"),
            (u64::MAX, "1717986918 GB"),
        ] {
            assert_eq!(std::format!("{}", Size(bytes)), text);
        }
    }
}
