//! A hostile world, from a seed: processes that crash, hang, lie and come late, under wishes that
//! change all the time. After every step the promises of `cluster` must hold.
//!
//! Time is virtual: it jumps to the next fact or to `wake()`. Nothing in here depends on anything
//! but the seed, so what fails can be played again:
//!
//! ```text
//! PHALANX_SEED=<n> PHALANX_SIM_SEEDS=1 cargo test -p phalanx-core --test simulation
//! ```
//!
//! The world keeps its own books (`Process`, `SlotBook`) and never asks the cluster what it meant
//! to do, only what it holds and what it did.

use phalanx_core::cluster::{Action, Cluster, Event};
use phalanx_core::report::Report;
use phalanx_core::restart::{PROVEN, Restart};
use phalanx_core::spec::{Canary, MAX_WORKERS, ReadyWhen, ReloadRules, STARTS_FOR, Share, Spec};
use phalanx_core::time::Time;
use phalanx_core::worker::{End, EndKind, Exit, Leave, Phase, SlotId, Worker, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// How long a history is hostile, in virtual milliseconds.
const HOSTILE: u64 = 60_000;
/// How long a friendly world may take to be as wanted.
const FRIENDLY: u64 = 60_000;
/// A fact that says nothing: nobody has that number.
const NOTHING: Event = Event::Online { worker: WorkerId(u32::MAX) };
/// No history has more steps than this: more is a busy loop.
const MAX_STEPS: u32 = 50_000;

#[test]
fn the_promises_hold_in_every_history() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (first, count) = (number("PHALANX_SEED", 1), number("PHALANX_SIM_SEEDS", 3000));
    let mut seen = Seen::default();
    for seed in first..first.saturating_add(count) {
        let mut world = World::new(seed, false);
        if world.run().is_err() {
            let mut again = World::new(seed, true);
            let broken = again.run().expect_err("the same seed, the same history");
            let from = again.history.len().saturating_sub(60);
            let history = again.history[from..].join("\n");
            panic!(
                "seed {seed}: {broken}\n\n{:?}\n{history}\n\nTo replay: PHALANX_SEED={seed} PHALANX_SIM_SEEDS=1 cargo test -p phalanx-core --test simulation\n",
                again.spec
            );
        }
        seen.add(&world.seen);
    }
    if count >= 1000 {
        seen.check();
    }
}

/// What the histories contained: a simulation in which nothing happens proves nothing.
#[derive(Clone, Debug, Default)]
struct Seen {
    steps: u64,
    forks: u64,
    reloads_done: u64,
    reloads_failed: u64,
    crash_loops: u64,
    never_ready: u64,
    start_timeouts: u64,
    graces_over: u64,
    waits: u64,
    stopped: u64,
    rolled_back: u64,
    slots_ended: u64,
    restarted: u64,
    receipts: u64,
    canaries: u64,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.forks += other.forks;
        self.reloads_done += other.reloads_done;
        self.reloads_failed += other.reloads_failed;
        self.crash_loops += other.crash_loops;
        self.never_ready += other.never_ready;
        self.start_timeouts += other.start_timeouts;
        self.graces_over += other.graces_over;
        self.waits += other.waits;
        self.stopped += other.stopped;
        self.slots_ended += other.slots_ended;
        self.restarted += other.restarted;
        self.receipts += other.receipts;
        self.canaries += other.canaries;
        self.rolled_back += other.rolled_back;
    }

    fn check(&self) {
        let rarest = [
            self.reloads_done,
            self.reloads_failed,
            self.crash_loops,
            self.never_ready,
            self.start_timeouts,
            self.graces_over,
            self.waits,
            self.rolled_back,
        ];
        assert!(rarest.iter().all(|n| *n >= 50), "the world has become tame: {self:?}");
    }
}

/// `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One of `0..bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// So many times in a hundred.
    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let at = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        from[at]
    }
}

/// What may go wrong in a history, in percent of the workers.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    fork_fails: u64,
    permanently: u64,
    crash_at_start: u64,
    crash_later: u64,
    never_ready: u64,
    leaves: u64,
    closes: u64,
    garbage: u64,
    hangs: u64,
}

impl Faults {
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(6) {
            // No faults; only how long things take, and workers that do not want to leave.
            0 => Self { hangs: dice.pick(&[0, 0, 30]), ..Self::default() },
            // Nothing ever works.
            1 if dice.percent(40) => Self {
                fork_fails: dice.pick(&[0, 100, 30]),
                permanently: dice.pick(&[0, 0, 20]),
                crash_at_start: dice.pick(&[100, 40]),
                never_ready: 50,
                ..Self::default()
            },
            _ => {
                let much = dice.pick(&[5, 15, 40]);
                let mut some = || if dice.percent(50) { dice.below(much) } else { 0 };
                Self {
                    fork_fails: some(),
                    permanently: some(),
                    crash_at_start: some(),
                    crash_later: some() * 2,
                    never_ready: some(),
                    leaves: some(),
                    closes: some(),
                    garbage: some(),
                    hangs: some() * 2,
                }
            }
        }
    }

    /// Whether no worker ends or fails unless it is told to.
    fn none_crash(&self) -> bool {
        self.fork_fails
            + self.crash_at_start
            + self.crash_later
            + self.never_ready
            + self.leaves
            + self.closes
            + self.garbage
            == 0
    }
}

fn draw_spec(dice: &mut Dice) -> Spec {
    let ms = Duration::from_millis;
    Spec {
        workers: dice.pick(&[0, 1, 1, 2, 3, 4, 5]),
        ready: dice.pick(&[ReadyWhen::Listening, ReadyWhen::Listening, ReadyWhen::Online]),
        start_timeout: dice.pick(&[None, Some(ms(700)), Some(ms(5_000)), Some(ms(5_000))]),
        grace: dice.pick(&[None, Some(ms(0)), Some(ms(300)), Some(ms(3_000)), Some(ms(3_000))]),
        restart: Restart {
            enabled: !dice.percent(10),
            base: ms(dice.pick(&[50, 100, 500])),
            factor: dice.pick(&[1, 2, 3]),
            cap: ms(dice.pick(&[1_000, 5_000])),
            stable: ms(dice.pick(&[200, 2_000, 5_000])),
            limit: dice.pick(&[0, 1, 3, 6]),
            jitter: dice.pick(&[0, 25]),
            within: ms(dice.pick(&[0, 10_000])),
            stop_codes: dice.pick(&[&[][..], &[], &[0]]).iter().copied().collect(),
            stop_signals: dice.pick(&[&[][..], &[], &[11]]).iter().copied().collect(),
            stays: dice.percent(30),
        },
        kill_after: Duration::ZERO,
        starts_at_once: dice.pick(&[0, 0, 1, 2]),
        slow_start: dice.pick(&[None, None, Some(ms(2_000))]),
        reload: draw_reload(dice),
    }
}

fn draw_reload(dice: &mut Dice) -> ReloadRules {
    let ms = Duration::from_millis;
    let canary = Canary {
        slots: dice.pick(&[1, 1, 2]),
        time: ms(dice.pick(&[0, 400, 3_000])),
        share: dice.pick(&[None, Some(5)]),
    };
    ReloadRules {
        at_once: dice.pick(&[
            Share::Count(1),
            Share::Count(1),
            Share::Count(2),
            Share::Percent(50),
        ]),
        healthy_for: ms(dice.pick(&[0, 0, 300])),
        rollback: dice.percent(40),
        canary: dice.percent(25).then_some(canary),
    }
}

/// The world's own book of a worker.
#[derive(Debug, Default)]
struct Process {
    guarded: bool,
    /// The cluster said `Fork`.
    asked_for: bool,
    /// There is, or was, a process since then.
    forked: Option<u64>,
    /// It ended, and the cluster knows.
    ended: bool,
    exit_scheduled: bool,
    /// When it ceased to be live for the cluster.
    left: Option<u64>,
    told: u32,
    killed: u32,
    /// It said so, or its channel closed, before it was told.
    left_by_itself: bool,
    hangs: bool,
}

/// The world's own book of a slot: how often it may have been given a worker.
#[derive(Debug, Default)]
struct SlotBook {
    /// Forks in a row, without a wish or a stable worker in between.
    row: u32,
    last: u64,
    /// Forks beside a worker that lives, since the last wish.
    successors: u32,
    /// Workers that left politely and are not replaced yet.
    polite: u32,
}

struct World {
    dice: Dice,
    spec: Spec,
    faults: Faults,
    crash_free: bool,
    cluster: Cluster,
    now: u64,
    serial: u64,
    /// Facts happen at multiples of this: the coarser, the more at the same moment.
    grain: u64,
    queue: BTreeMap<(u64, u64), Event>,
    manual_wishes: BTreeSet<u64>,
    processes: BTreeMap<u32, Process>,
    slots: BTreeMap<u32, SlotBook>,
    wanted: usize,
    reload: Option<u64>,
    ever_ready: bool,
    /// Workers were called bad from outside.
    meddled: bool,
    /// Reloads that began, and of which it was not said yet what they came to.
    open: BTreeSet<u64>,
    stop_wish: Option<u64>,
    stopped: u32,
    friendly: bool,
    writes: bool,
    history: Vec<String>,
    seen: Seen,
}

type Check = Result<(), String>;

macro_rules! promise {
    ($holds:expr, $($words:tt)*) => {
        if !$holds {
            return Err(format!($($words)*));
        }
    };
}

impl World {
    fn new(seed: u64, writes: bool) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x5851_F42D_4C95_7F2D));
        let spec = draw_spec(&mut dice);
        let faults = Faults::draw(&mut dice);
        let mut world = Self {
            crash_free: faults.none_crash()
                && spec.start_timeout != Some(Duration::from_millis(700)),
            cluster: Cluster::new(spec.clone()),
            wanted: spec.workers,
            spec,
            faults,
            grain: dice.pick(&[1, 1, 20]),
            dice,
            now: 0,
            serial: 0,
            queue: BTreeMap::new(),
            manual_wishes: BTreeSet::new(),
            processes: BTreeMap::new(),
            slots: BTreeMap::new(),
            reload: None,
            ever_ready: false,
            meddled: false,
            open: BTreeSet::new(),
            stop_wish: None,
            stopped: 0,
            friendly: false,
            writes,
            history: Vec::new(),
            seen: Seen::default(),
        };
        world.draw_wishes();
        world
    }

    fn draw_wishes(&mut self) {
        let gap = self.dice.pick(&[60, 800, 10_000]);
        let mut at = self.dice.below(2_000);
        for _ in 0..self.dice.below(60) {
            at += self.dice.below(gap);
            let wish = match self.dice.below(100) {
                0..=24 => Event::Reload,
                25..=27 => Event::Restart,
                28..=29 => Event::CanGoBack(self.dice.percent(50)),
                30..=49 => Event::Scale { workers: self.dice.pick(&[0, 1, 2, 3, 4, 5, 6]) },
                50..=59 => {
                    let id = u32::try_from(1 + self.dice.below(12)).unwrap_or(1);
                    let worker = WorkerId(id);
                    match self.dice.percent(30) && !self.crash_free {
                        true => Event::Lost { worker, why: Leave::Hung },
                        false => Event::Replace { worker, why: Leave::Memory },
                    }
                }
                60..=79 => {
                    // Of a worker that may be there by then.
                    let id = u32::try_from(1 + self.dice.below(12)).unwrap_or(1);
                    Event::Disconnect { worker: WorkerId(id) }
                }
                80..=93 => {
                    self.manual_wishes.insert(at);
                    continue;
                }
                94..=97 => Event::Stop,
                _ => Event::StopNow,
            };
            self.at(at, wish);
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.serial += 1;
        let at = at.next_multiple_of(self.grain);
        self.queue.insert((at, self.serial), event);
    }

    fn soon(&mut self, within: u64, event: Event) {
        let at = self.now + self.dice.below(within + 1);
        self.at(at, event);
    }

    fn log(&mut self, line: impl FnOnce() -> String) {
        if self.writes {
            let line = format!("{:>7}  {}", self.now, line());
            self.history.push(line);
        }
    }

    /// A whole history: hostile, then friendly, then stopped.
    fn run(&mut self) -> Check {
        self.step(Vec::new())?;
        while self.advance(HOSTILE)? {}
        self.become_friendly();
        let until = self.now + FRIENDLY;
        while !self.is_quiet() {
            promise!(self.advance(until)?, "a friendly world does not come to rest");
        }
        self.check_quiet()?;
        let wish = self.dice.pick(&[true, true, false]);
        self.at(self.now, if wish { Event::Stop } else { Event::StopNow });
        let until = self.now + FRIENDLY;
        while !self.cluster.is_stopped() {
            promise!(self.advance(until)?, "not all processes end after a stop");
        }
        promise!(self.processes.values().all(|p| p.ended), "stopped, and not all processes ended");
        promise!(self.stopped == 1, "said {} times that it stopped", self.stopped);
        promise!(self.open.is_empty(), "(h) no receipt of reloads {:?}", self.open);
        promise!(self.cluster.wake().is_none(), "a stopped cluster wants to be woken");
        promise!(self.cluster.fork().is_none(), "a stopped cluster forks");
        Ok(())
    }

    /// To the next moment in which something happens. `false`: nothing does until then.
    fn advance(&mut self, until: u64) -> Result<bool, String> {
        let fact = self.queue.keys().next().map(|(at, _)| *at);
        let manual = self.manual_wishes.first().copied();
        // Timers are late now and then.
        let late = if self.dice.percent(20) { self.dice.below(30) } else { 0 };
        let wake = self.cluster.wake().map(|at| millis(at) + late);
        let Some(next) = [fact, manual, wake].into_iter().flatten().min() else { return Ok(false) };
        if next > until {
            self.now = self.now.max(until);
            return Ok(false);
        }
        self.now = self.now.max(next);
        let mut events = Vec::new();
        // Several facts may be seen before there is time to plan.
        let batch = self.dice.pick(&[1, 1, 3, 8]);
        while let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= self.now) {
            events.push(entry.remove());
            if events.len() >= batch {
                break;
            }
        }
        if self.manual_wishes.first().is_some_and(|at| *at <= self.now) {
            self.manual_wishes.pop_first();
            let forked = self.cluster.fork();
            self.log(|| format!("wish: fork() gives {forked:?}"));
            promise!(
                forked.is_none() || self.stop_wish.is_none(),
                "a worker is forked while stopping"
            );
            if let Some(id) = forked {
                self.processes.insert(id.0, Process::default());
            }
        }
        self.step(events)?;
        Ok(true)
    }

    /// Tells the cluster what happened, lets it plan, performs the plan, and checks everything.
    fn step(&mut self, events: Vec<Event>) -> Check {
        self.seen.steps += 1;
        promise!(self.seen.steps < u64::from(MAX_STEPS), "a busy loop: too many steps");
        self.note_stable();
        let serving_before = self.serving_slots();
        let wishes = events.iter().any(|event| {
            matches!(
                event,
                Event::Disconnect { .. }
                    | Event::Scale { .. }
                    | Event::Restart
                    | Event::Stop
                    | Event::StopNow
            )
        });
        let mut fresh = Vec::new();
        for event in events {
            if self.happens(&event) {
                self.log(|| format!("{event:?}"));
                self.note_polite(&event);
                self.cluster.observe(Time::from_millis(self.now), event.clone());
                fresh.push(event);
            }
        }
        let was_stopped = self.cluster.is_stopped();
        let actions = self.cluster.plan(Time::from_millis(self.now));
        for action in &actions {
            self.log(|| format!("    -> {action:?}"));
        }
        // Whatever it hears makes it look at everything again.
        self.cluster.observe(Time::from_millis(self.now), NOTHING);
        let again = self.cluster.plan(Time::from_millis(self.now));
        promise!(again.is_empty(), "(a) planned twice at one moment: {again:?}");
        promise!(
            !was_stopped
                || actions.iter().all(|a| matches!(a, Action::Report(Report::Refused { .. }))),
            "(e) a stopped cluster acts: {actions:?}"
        );
        for action in actions {
            self.perform(action)?;
        }
        for event in fresh {
            self.react(&event);
        }
        self.check_table()?;
        self.check_slots()?;
        self.check_starts()?;
        self.check_leaving()?;
        self.check_wake()?;
        if self.crash_free && !wishes {
            let after = self.serving_slots();
            let lost: Vec<_> = serving_before.difference(&after).collect();
            promise!(lost.is_empty(), "(d) nothing crashed, and slots {lost:?} serve no longer");
        }
        Ok(())
    }

    /// Whether an event of the queue can still happen, and the world's book-keeping of it.
    fn happens(&mut self, event: &Event) -> bool {
        match event {
            Event::Scale { workers } if self.stop_wish.is_none() => {
                self.wanted = *workers;
                self.forgive();
            }
            Event::Reload if self.stop_wish.is_none() => self.forgive(),
            Event::Restart if self.stop_wish.is_none() => self.forgive(),
            Event::Replace { .. } | Event::Lost { .. } => self.meddled = true,
            Event::Disconnect { .. } => self.forgive(),
            Event::Stop | Event::StopNow => {
                self.stop_wish.get_or_insert(self.now);
            }
            Event::Forked { worker, .. } => {
                if let Some(process) = self.processes.get_mut(&worker.0) {
                    process.forked = Some(self.now);
                }
            }
            Event::Exited { worker, .. } | Event::ForkFailed { worker, .. } => {
                let Some(process) = self.processes.get_mut(&worker.0) else { return false };
                return !std::mem::replace(&mut process.ended, true);
            }
            Event::Leaving { worker } | Event::ChannelClosed { worker } => {
                let process = self.processes.get_mut(&worker.0);
                let stays = self.cluster.worker(*worker).is_some_and(Worker::is_live);
                if let Some(process) = process.filter(|_| stays) {
                    process.left_by_itself = true;
                }
            }
            _ => {}
        }
        // Facts about processes that ended come late now and then.
        match subject(event).and_then(|id| self.processes.get(&id)) {
            Some(process) if process.ended => self.dice.percent(40),
            _ => true,
        }
    }

    /// What a worker's process does next.
    fn react(&mut self, event: &Event) {
        match event {
            Event::Forked { worker, .. } => self.live(*worker),
            // A worker that leaves by itself is gone after a while; hanging ones never are.
            Event::Leaving { worker } if !self.hangs(*worker) => self.exits(*worker, 2_000),
            // One whose channel is closed may live on, for as long as the world is hostile.
            Event::ChannelClosed { worker } if self.friendly => self.exits(*worker, 1_000),
            _ => {}
        }
    }

    fn hangs(&self, worker: WorkerId) -> bool {
        self.processes.get(&worker.0).is_some_and(|p| p.hangs)
    }

    /// Draws a worker's life.
    fn live(&mut self, worker: WorkerId) {
        let faults = self.faults;
        let Self { dice, processes, .. } = self;
        let hangs = dice.percent(faults.hangs);
        if let Some(process) = processes.get_mut(&worker.0) {
            process.hangs = hangs;
        }
        if self.dice.percent(faults.crash_at_start) {
            if self.dice.percent(50) {
                self.soon(50, Event::Online { worker });
            }
            return self.exits(worker, 200);
        }
        let slow = self.dice.pick(&[5, 100, 600]);
        let online = self.dice.below(slow);
        self.at(self.now + online, Event::Online { worker });
        if self.dice.percent(faults.never_ready) {
            return;
        }
        let ready = online + self.dice.below(slow);
        self.at(self.now + ready, Event::Listening { worker });
        let later = self.now + self.dice.below(2 * ready + self.dice.0 % 9_000);
        if self.dice.percent(faults.crash_later) {
            let wait = later - self.now;
            self.exits(worker, wait);
        }
        if self.dice.percent(faults.leaves) {
            self.at(later, Event::Leaving { worker });
        }
        if self.dice.percent(faults.closes) {
            self.at(later, Event::ChannelClosed { worker });
        }
        if self.dice.percent(faults.garbage) {
            self.at(later, Event::Broken { worker, why: "garbage".into() });
        }
    }

    /// A process ends within so long; its channel is seen to close before, after or never.
    fn exits(&mut self, worker: WorkerId, within: u64) {
        let Some(process) = self.processes.get_mut(&worker.0) else { return };
        if std::mem::replace(&mut process.exit_scheduled, true) {
            return;
        }
        let at = self.now + self.dice.below(within + 1);
        let exit = self.dice.pick(&[Exit::Code(0), Exit::Code(1), Exit::Signal(11)]);
        if self.dice.percent(40) {
            self.at(at, Event::ChannelClosed { worker });
        }
        let at = at + self.dice.pick(&[0, 0, 3, 40]);
        self.at(at, Event::Exited { worker, exit });
        if self.dice.percent(20) {
            self.at(at, Event::ChannelClosed { worker });
        }
    }

    fn perform(&mut self, action: Action) -> Check {
        match action {
            Action::Fork { worker, slot } => self.fork(worker, slot),
            Action::Disconnect { worker } => {
                let process = self.process(worker)?;
                promise!(process.forked.is_some(), "(b) {worker} has no process to tell");
                promise!(!process.left_by_itself, "(j) {worker} left by itself and is told to");
                promise!(process.killed == 0, "(j) {worker} is told to leave after it was killed");
                process.told += 1;
                promise!(process.told == 1, "(j) {worker} is told to leave twice");
                if !process.hangs {
                    let within = self.dice.pick(&[0, 20, 4_000]);
                    self.exits(worker, within);
                }
                Ok(())
            }
            Action::Terminate { worker } | Action::Kill { worker } => {
                let process = self.process(worker)?;
                promise!(process.forked.is_some(), "(b) {worker} has no process to kill");
                process.killed += 1;
                promise!(process.killed == 1, "(j) {worker} is killed twice");
                // Whatever it was about to do, it ends now.
                process.exit_scheduled = true;
                self.soon(20, Event::Exited { worker, exit: Exit::Signal(9) });
                Ok(())
            }
            Action::Report(report) => self.note(&report),
        }
    }

    fn process(&mut self, worker: WorkerId) -> Result<&mut Process, String> {
        match self.processes.get_mut(&worker.0) {
            Some(process) if !process.ended => Ok(process),
            _ => Err(format!("(b) an action names {worker}, which does not exist")),
        }
    }

    fn fork(&mut self, worker: WorkerId, slot: SlotId) -> Check {
        self.seen.forks += 1;
        let Some(found) = self.cluster.worker(worker).cloned() else {
            return Err(format!("(b) {worker} is forked and not in the table"));
        };
        promise!(found.slot == slot, "(b) {worker} is forked into another slot than it has");
        let process = self
            .processes
            .entry(worker.0)
            .or_insert(Process { guarded: true, ..Process::default() });
        promise!(!process.asked_for, "(b) {worker} is forked twice");
        process.asked_for = true;
        let guarded = process.guarded;
        promise!(found.guarded == guarded, "(b) {worker}: guarded is {}", found.guarded);
        if guarded {
            promise!(self.stop_wish.is_none(), "(e) {worker} is forked after a stop");
            let beside = self.in_slot(slot).filter(|w| w.id != worker && w.is_live()).count();
            promise!(beside <= 1, "(b) {worker} is forked beside {beside} that live");
            let retires = self.in_slot(slot).any(|w| w.is_live() && w.retire.is_some());
            promise!(
                beside == 0 || self.cluster.is_reloading() || retires,
                "(b) {worker} is forked beside one that lives, without a reload"
            );
            if beside == 0 || !retires {
                self.count_fork(slot, beside == 1)?;
            }
        }
        let fails = self.dice.percent(self.faults.fork_fails);
        let event = if fails {
            let permanent = self.dice.percent(self.faults.permanently);
            Event::ForkFailed { worker, why: "no".into(), permanent }
        } else {
            Event::Forked { worker, pid: 1000 + worker.0 }
        };
        let within = self.dice.pick(&[0, 0, 0, 30]);
        self.soon(within, event);
        Ok(())
    }

    /// (f) The k-th fork in a row comes no sooner than the rule allows.
    fn count_fork(&mut self, slot: SlotId, beside: bool) -> Check {
        let rule = &self.spec.restart;
        let (book, now) = (self.slots.entry(slot.0).or_default(), self.now);
        if beside {
            book.successors += 1;
            (book.row, book.last) = (1, now);
            promise!(book.successors == 1, "(f) slot {slot} gets successor after successor");
            return Ok(());
        }
        if book.polite > 0 && rule.enabled {
            book.polite -= 1;
            return Ok(());
        }
        if book.row > 0 {
            promise!(rule.enabled, "(f) slot {slot} gets another worker though restarts are off");
            let waited = Duration::from_millis(now - book.last);
            // Nobody else is left: then the first wait is the longest.
            let alone = !self
                .cluster
                .workers()
                .any(|w| w.guarded && w.slot != slot && w.is_live() && w.phase != Phase::Forking);
            let whole = rule.delay(book.row) * u32::from(100 - rule.jitter) / 100;
            let least = if alone { whole.min(rule.base) } else { whole };
            promise!(
                waited >= least,
                "(f) fork {} in a row in slot {slot} after {waited:?}, not {least:?}",
                book.row + 1
            );
        }
        (book.row, book.last) = (book.row + 1, now);
        Ok(())
    }

    /// A worker that served a second and leaves of its own will did not crash: one fork is not in the row.
    fn note_polite(&mut self, event: &Event) {
        if let Event::Leaving { worker } = event
            && let Some(worker) = self.cluster.worker(*worker)
            && let Phase::Ready { since } = worker.phase
            && Time::from_millis(self.now).since(since) >= Duration::from_secs(1)
        {
            self.slots.entry(worker.slot.0).or_default().polite += 1;
        }
    }

    /// A wish: the slots may fork again.
    fn forgive(&mut self) {
        self.slots.clear();
    }

    /// A worker that was ready for long: its slot's next fork may come at once.
    fn note_stable(&mut self) {
        let now = Time::from_millis(self.now);
        let proven = |w: &Worker| {
            w.guarded && matches!(w.phase, Phase::Ready { since } if now.since(since) >= PROVEN)
        };
        self.ever_ready |= self.cluster.workers().any(proven);
        for worker in self.cluster.workers() {
            if let Phase::Ready { since } = worker.phase
                && now.since(since) >= self.spec.restart.stable
                && let Some(book) = self.slots.get_mut(&worker.slot.0)
            {
                book.row = book.row.min(1);
            }
        }
    }

    fn note(&mut self, report: &Report) -> Check {
        let seen = &mut self.seen;
        match report {
            Report::OverLimit { .. } | Report::Scaled { .. } => {
                panic!("it is the shell that looks")
            }
            Report::ReloadBegun { generation, .. } => {
                self.reload = Some(*generation);
                promise!(self.open.insert(*generation), "(h) reload {generation} begins twice");
            }
            Report::RollbackBegun { generation, .. } => {
                promise!(self.reload.is_none(), "(h) a rollback begins during a reload");
                self.reload = Some(*generation);
                promise!(self.open.insert(*generation), "(h) reload {generation} begins twice");
                self.forgive();
            }
            Report::Receipt(receipt) => {
                let known = self.open.remove(&receipt.generation);
                promise!(
                    known,
                    "(h) a receipt of a reload that was not, or a second one: {receipt}"
                );
                seen.receipts += 1;
            }
            Report::ReloadDone { generation, .. }
            | Report::RolledBack { generation, .. }
            | Report::ReloadFailed { generation, .. } => {
                promise!(
                    self.reload.take() == Some(*generation),
                    "(h) a reload ends that did not run: {report:?}"
                );
                let failed = matches!(report, Report::ReloadFailed { .. });
                // A canary that was scaled away, and nobody is left to try it: there is no verdict.
                let scaled =
                    matches!(report, Report::ReloadFailed { why: End::Lost(Leave::Scale), .. });
                promise!(
                    !self.crash_free || self.meddled || scaled || !failed,
                    "(h) nothing crashed, and a reload failed"
                );
                let version = self.cluster.version();
                let new = self
                    .cluster
                    .workers()
                    .filter(|w| w.guarded && w.is_ready() && w.version == version);
                let all = self.spec.restart.enabled && !self.spec.restart.has_stops();
                promise!(
                    failed || !all || new.count() == self.wanted,
                    "(h) a reload is done, and not everyone is new and ready"
                );
                match report {
                    Report::ReloadDone { .. } => seen.reloads_done += 1,
                    Report::RolledBack { .. } => seen.rolled_back += 1,
                    _ => seen.reloads_failed += 1,
                }
            }
            Report::CanaryPassed { .. } => seen.canaries += 1,
            Report::Restarted { .. } => seen.restarted += 1,
            Report::SlotEnded { .. } => {
                promise!(self.spec.restart.has_stops(), "a slot is ended that nothing ends");
                seen.slots_ended += 1;
            }
            Report::Ended { kind, asked, .. } => {
                let told = matches!(kind, EndKind::Told(_));
                promise!(!told || asked.is_some(), "(k) nobody told it to: {report:?}");
            }
            Report::RestartBegun { .. } => self.reload = None,
            Report::CanaryBegun { .. } | Report::Cut { .. } => {}
            Report::CrashLoop { .. } => seen.crash_loops += 1,
            Report::NeverReady { .. } => {
                promise!(!self.crash_free, "nothing crashed, and the cluster gives up");
                promise!(!self.ever_ready, "it was ready once, and the cluster gives up");
                promise!(self.cluster.never_ready(), "never ready, and does not know it");
                self.stop_wish.get_or_insert(self.now);
                seen.never_ready += 1;
            }
            Report::StartTimeout { .. } => seen.start_timeouts += 1,
            Report::GraceOver { .. } => seen.graces_over += 1,
            Report::Waiting { .. } => seen.waits += 1,
            Report::Stopped => {
                self.stopped += 1;
                seen.stopped += 1;
                self.stop_wish.get_or_insert(self.now);
                promise!(self.stopped == 1, "(e) stopped twice");
                promise!(self.processes.values().all(|p| p.ended), "(e) stopped too early");
            }
            Report::Replacing { .. }
            | Report::Lost { .. }
            | Report::Overdue { .. }
            | Report::NotStarted { .. }
            | Report::Broken { .. }
            | Report::Refused { .. } => {}
        }
        Ok(())
    }

    fn in_slot(&self, slot: SlotId) -> impl Iterator<Item = &Worker> {
        self.cluster.workers().filter(move |w| w.guarded && w.slot == slot)
    }

    fn serving_slots(&self) -> BTreeSet<SlotId> {
        self.cluster.workers().filter(|w| w.guarded && w.is_ready()).map(|w| w.slot).collect()
    }

    /// (e) Who was started is in the table until its end is observed, and nobody else is.
    fn check_table(&self) -> Check {
        let held: Vec<u32> = self.cluster.workers().map(|w| w.id.0).collect();
        let exist: Vec<u32> =
            self.processes.iter().filter(|(_, p)| !p.ended).map(|(id, _)| *id).collect();
        promise!(held == exist, "(e) the table holds {held:?}, and there are {exist:?}");
        let running = self.stop_wish.is_none();
        promise!(self.cluster.is_stopping() != running, "(e) stopping or not is not as wished");
        let wanted = if running { self.wanted } else { 0 };
        promise!(self.cluster.wanted() == wanted, "not as many wanted as wished");
        promise!(self.cluster.is_reloading() == (self.reload.is_some() && running), "reloading?");
        Ok(())
    }

    /// (c) Never more than wanted and one, and in a slot never more than one and its successor.
    fn check_slots(&self) -> Check {
        let live: Vec<&Worker> =
            self.cluster.workers().filter(|w| w.guarded && w.is_live()).collect();
        let slots: BTreeSet<SlotId> = live.iter().map(|w| w.slot).collect();
        promise!(slots.len() <= self.wanted, "(c) {} slots for {}", slots.len(), self.wanted);
        let surplus = live.len() - slots.len();
        // Scaled down, it may have begun in more.
        let rules = &self.spec.reload;
        let canary = rules.canary.as_ref().map_or(0, |canary| canary.slots as usize);
        let at_once = rules.at_once.of(self.wanted.max(6)).max(canary);
        let reloading = if self.cluster.is_reloading() { at_once } else { 0 };
        let allowed = reloading + live.iter().filter(|w| w.retire.is_some()).count();
        promise!(surplus <= allowed, "(c) {surplus} more live workers than slots");
        for worker in self.cluster.workers().filter(|w| !w.guarded && w.is_live()) {
            promise!(
                !slots.contains(&worker.slot),
                "(c) slot {} holds one of the application's and one of ours",
                worker.slot
            );
        }
        for slot in &slots {
            let ready = live.iter().filter(|w| w.slot == *slot && w.is_ready()).count();
            let tried = rules.canary.is_some() || !rules.healthy_for.is_zero();
            let most = 1 + usize::from(tried && self.cluster.is_reloading());
            promise!(ready <= most, "(c) slot {slot} has {ready} ready workers after a plan");
        }
        Ok(())
    }

    /// (l) No more start at a time than may; and everybody who serves gets something.
    fn check_starts(&self) -> Check {
        let now = Time::from_millis(self.now);
        let starts = |w: &&Worker| {
            w.guarded
                && match w.phase {
                    Phase::Forking => true,
                    Phase::Starting { since, .. } => since.after(STARTS_FOR) > now,
                    _ => false,
                }
        };
        let starting = self.cluster.workers().filter(starts).count();
        let most = Some(self.spec.starts_at_once).filter(|most| *most > 0).unwrap_or(MAX_WORKERS);
        promise!(starting <= most, "(l) {starting} start, and {most} may");
        for worker in self.cluster.workers() {
            let weight = self.cluster.weight(worker.id, now);
            promise!((1..100_000).contains(&weight), "(l) {} has the weight {weight}", worker.id);
        }
        Ok(())
    }

    /// (d), (i), (j) Who leaves was told once, for a reason, and is killed in time.
    fn check_leaving(&mut self) -> Check {
        let now = self.now;
        let grace = self.spec.grace.map(whole_millis);
        for worker in self.cluster.workers() {
            let Some(process) = self.processes.get_mut(&worker.id.0) else { continue };
            let id = worker.id;
            if worker.is_live() {
                promise!(process.told + process.killed == 0, "(j) {id} was told and lives on");
                if let (Phase::Starting { since, .. }, Some(limit), true) =
                    (&worker.phase, self.spec.start_timeout, worker.guarded)
                {
                    promise!(
                        since.after(limit) > Time::from_millis(now),
                        "(i) {id} outlives its start time-out"
                    );
                }
                continue;
            }
            let just_left = process.left.is_none();
            let left = *process.left.get_or_insert(now);
            let Some(forked) = process.forked else { continue };
            if left < forked {
                promise!(process.killed == 1, "(j) {id} was unwanted before it was, and lives");
            }
            if let Phase::Draining { deadline, why, .. } = worker.phase {
                promise!(
                    deadline.is_none_or(|at| at > Time::from_millis(now)),
                    "(i) {id} outlives its deadline"
                );
                let wished = !matches!(why, Leave::Itself | Leave::ChannelClosed);
                promise!(
                    process.told == u32::from(wished),
                    "(j) {id} leaves ({why}) and was told {} times",
                    process.told
                );
            } else {
                promise!(process.killed == 1, "(j) {id} counts as killed and was not");
            }
            let timed_from =
                if worker.guarded { Some(left) } else { self.stop_wish.map(|stop| stop.max(left)) };
            if let (Some(grace), Some(from)) = (grace, timed_from) {
                promise!(
                    now < from + grace || process.killed == 1,
                    "(i) {id} was told to leave at {from} and still has not been killed"
                );
            }
            if matches!(worker.phase, Phase::Draining { why: Leave::Reload | Leave::Rollback, .. })
                && just_left
            {
                let slot = worker.slot;
                // Another wish at the same moment may have come over all of them.
                let restarts = |w: &Worker| {
                    let Phase::Draining { why, .. } = w.phase else { return false };
                    matches!(why, Leave::Restart | Leave::Stop | Leave::Scale | Leave::Asked)
                };
                let others = self
                    .cluster
                    .workers()
                    .any(|w| w.guarded && w.slot == slot && (w.is_live() || restarts(w)));
                promise!(others, "(d) {id} leaves for a reload and nobody is in its slot");
            }
        }
        if let (Some(stop), Some(grace)) = (self.stop_wish, grace)
            && now >= stop + grace
        {
            for (id, process) in &self.processes {
                promise!(
                    process.ended || process.forked.is_none() || process.killed == 1,
                    "(e) {id} is neither ended nor killed a grace after the stop"
                );
            }
        }
        Ok(())
    }

    /// (g) Never to be woken at once, and never asleep over a deadline.
    fn check_wake(&self) -> Check {
        let (now, wake) = (Time::from_millis(self.now), self.cluster.wake());
        promise!(wake.is_none_or(|at| at > now), "(g) to be woken at {wake:?}, which is not later");
        if self.seen.steps.is_multiple_of(8) {
            // What is not planned again until then is what would not change until then.
            let before = wake.map_or(self.now + 3_600_000, |at| millis(at) - 1);
            let before = Time::from_millis(before.max(self.now));
            let mut early = self.cluster.clone();
            early.observe(before, NOTHING);
            let actions = early.plan(before);
            promise!(actions.is_empty(), "(g) {before:?}, before {wake:?}, it does {actions:?}");
        }
        let mut due: Vec<Time> = Vec::new();
        for worker in self.cluster.workers() {
            match worker.phase {
                Phase::Starting { since, .. } if worker.guarded => {
                    due.extend(self.spec.start_timeout.map(|limit| since.after(limit)));
                }
                Phase::Draining { deadline, .. } if worker.pid.is_some() => due.extend(deadline),
                _ => {}
            }
        }
        for (slot, until, _) in self.cluster.waiting() {
            promise!(until > now, "(g) slot {slot} waits for what is past");
            if !self.in_slot(slot).any(|w| !matches!(w.phase, Phase::Killed { .. })) {
                due.push(until);
            }
        }
        let first = due.into_iter().min();
        promise!(
            first.is_none_or(|at| wake.is_some_and(|wake| wake <= at)),
            "(g) something is due at {first:?}, and the wake is {wake:?}"
        );
        Ok(())
    }

    /// No more faults, and who cannot be mended from outside is mended.
    fn become_friendly(&mut self) {
        self.log(|| "the world becomes friendly".into());
        self.faults = Faults::default();
        self.friendly = true;
        self.crash_free = false;
        let ids: Vec<u32> =
            self.processes.iter().filter(|(_, p)| !p.ended).map(|(id, _)| *id).collect();
        for id in ids {
            let worker = WorkerId(id);
            let leaves = self.cluster.worker(worker).is_some_and(|w| !w.is_live());
            let Some(process) = self.processes.get_mut(&id) else { continue };
            process.hangs = false;
            let forked = process.forked.is_some();
            // Without a grace, who hangs does so until somebody mends it.
            if leaves && forked {
                self.exits(worker, 1_000);
            } else if forked {
                self.soon(500, Event::Online { worker });
                self.soon(500, Event::Listening { worker });
            }
        }
    }

    fn is_quiet(&self) -> bool {
        let coming_up = self.cluster.workers().any(|w| w.is_live() && !w.is_ready());
        let rests = !self.cluster.is_reloading() && !coming_up;
        let as_wanted = if self.spec.restart.enabled && !self.spec.restart.has_stops() {
            self.cluster.is_settled()
        } else {
            self.cluster.waiting().next().is_none()
        };
        self.stop_wish.is_some() || rests && as_wanted
    }

    /// (h) At rest, every wanted slot is served and no reload hangs.
    fn check_quiet(&self) -> Check {
        if self.stop_wish.is_some() {
            return Ok(());
        }
        promise!(self.reload.is_none(), "(h) reload {:?} has no end", self.reload);
        if self.spec.restart.enabled && !self.spec.restart.has_stops() {
            let serving = self.serving_slots().len();
            promise!(serving == self.wanted, "(h) {serving} serve, {} are wanted", self.wanted);
        }
        Ok(())
    }
}

/// The worker that a fact or wish is about.
fn subject(event: &Event) -> Option<u32> {
    match event {
        Event::Forked { worker, .. }
        | Event::ForkFailed { worker, .. }
        | Event::Online { worker }
        | Event::Listening { worker }
        | Event::Leaving { worker }
        | Event::ChannelClosed { worker }
        | Event::Broken { worker, .. }
        | Event::Terminated { worker }
        | Event::Upgraded { worker, .. }
        | Event::Exited { worker, .. } => Some(worker.0),
        Event::Disconnect { .. }
        | Event::Replace { .. }
        | Event::Lost { .. }
        | Event::OutOfMemory { .. }
        | Event::Cut { .. }
        | Event::CanGoBack(_)
        | Event::Restart
        | Event::Scale { .. }
        | Event::Reload
        | Event::Stop
        | Event::StopNow => None,
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn millis(time: Time) -> u64 {
    whole_millis(time.since_start())
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let play = |seed| {
        let mut world = World::new(seed, true);
        let mut text = String::new();
        let _ = write!(text, "{:?}", world.run());
        (text, world.history)
    };
    assert_eq!(play(7), play(7));
}
