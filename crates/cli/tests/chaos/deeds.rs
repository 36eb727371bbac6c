//! What is done to the application: one random deed after the other, all of them written down.

use crate::ledger::{Carried, Ledger, Loss};
use crate::site::{NAME, Site, Target};
use crate::support::{Done, finish};
use bench::spawned::Signal;
use bench::wait;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::process::Child;
use std::time::{Duration, Instant};

/// Between a deed and the next one, in milliseconds.
const PAUSE: (u64, u64) = (60, 400);
/// Workers that may be wanted.
const WANTED: (u64, u64) = (2, 6);
/// Commands that may be going on at the same time.
const COMMANDS: usize = 3;
/// How long a worker may go on that is stopped, until the heartbeat has ended it; primaries are killed meanwhile.
const HANGING: Duration = Duration::from_secs(60);
/// How long a primary's beginning may take on a busy machine.
const TAKEOVER: Duration = Duration::from_secs(20);

/// A small generator of numbers.
pub(crate) struct Random(u64);

impl Random {
    /// Seeds that are near each other give numbers that are not.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    /// From the first to the second, both included.
    pub(crate) fn from(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.next() % (most - least + 1)
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.from((least, most)))
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let last = u64::try_from(of.len()).ok()?.checked_sub(1)?;
        of.get(usize::try_from(self.from((0, last))).ok()?).copied()
    }
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    KillWorker,
    /// For a moment: it goes on.
    PauseWorker,
    /// Until the heartbeat ends it.
    HangWorker,
    CrashAtStart,
    SlowStart,
    NeverStart,
    Leak,
    Reload,
    Scale,
    Upgrade,
    KillPrimary,
    PausePrimary,
    KillKeeper,
}

/// How often each is done, of a hundred.
const DEEDS: [(u64, Deed); 13] = [
    (24, Deed::KillWorker),
    (14, Deed::PauseWorker),
    (3, Deed::HangWorker),
    (6, Deed::CrashAtStart),
    (6, Deed::SlowStart),
    (2, Deed::NeverStart),
    (7, Deed::Leak),
    (13, Deed::Reload),
    (9, Deed::Scale),
    (2, Deed::Upgrade),
    (8, Deed::KillPrimary),
    (3, Deed::PausePrimary),
    (3, Deed::KillKeeper),
];

/// Who is stopped for a while.
struct Paused {
    who: Target,
    until: Instant,
}

/// A worker that is stopped for good.
struct Hanging {
    who: Target,
    from: Instant,
    held: BTreeSet<SocketAddr>,
    carried: Carried,
}

/// The tormentor.
pub(crate) struct Chaos<'a> {
    site: &'a Site,
    random: Random,
    pub(crate) zero: Instant,
    pub(crate) ledger: Ledger,
    pub(crate) history: Vec<String>,
    /// Every process that was known to be a primary.
    pub(crate) primaries: BTreeSet<u32>,
    paused: Vec<Paused>,
    hanging: Vec<Hanging>,
    /// Switches that are on, and until when.
    switches: Vec<(&'static str, Instant)>,
    commands: Vec<(String, Child)>,
}

impl<'a> Chaos<'a> {
    pub(crate) fn new(site: &'a Site, seed: u64) -> Self {
        Self {
            site,
            random: Random::new(seed),
            zero: Instant::now(),
            ledger: Ledger::default(),
            history: Vec::new(),
            primaries: BTreeSet::new(),
            paused: Vec::new(),
            hanging: Vec::new(),
            switches: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// Deeds for so long.
    pub(crate) fn rage(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let next = Instant::now() + self.random.millis(PAUSE.0, PAUSE.1);
            self.deed();
            while Instant::now() < next {
                self.follow_up();
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Nothing is done any more, and what was done is over.
    pub(crate) fn calm(&mut self) {
        self.note("calm");
        for (name, _) in std::mem::take(&mut self.switches) {
            self.site.switch_off(name);
        }
        for Paused { who, .. } in std::mem::take(&mut self.paused) {
            who.signal(Signal::CONT);
        }
        let waited = wait::until(HANGING, "the heartbeat to end workers that are stopped", || {
            self.follow_up();
            self.hanging.is_empty().then_some(())
        });
        if let Err(error) = waited {
            let who: Vec<Target> = self.hanging.iter().map(|one| one.who).collect();
            self.fail(&format!("{error}: {who:?}"));
        }
        for (words, child) in std::mem::take(&mut self.commands) {
            self.judge(&words, &finish(child));
        }
    }

    /// Nothing that a person asks for may end other than done, or not done and why.
    fn judge(&mut self, words: &str, done: &Done) {
        let last = done.stderr.lines().next().unwrap_or_default();
        self.note(format!("`{words}` ended with {:?} {last}", done.code));
        let fits = matches!(done.code, Some(0 | 1)) && !done.stderr.contains("panicked");
        if !fits {
            self.fail(&format!("`{words}`: {done:?}"));
        }
    }

    pub(crate) fn note(&mut self, what: impl Display) {
        self.history.push(format!("{:9.3} s {what}", self.zero.elapsed().as_secs_f64()));
    }

    /// Panics, with all that is known.
    pub(crate) fn fail(&self, what: &str) -> ! {
        let last = &self.history[self.history.len().saturating_sub(60)..];
        panic!(
            "{what}\n--- the last deeds\n{}\n--- processes\n{}\n--- log\n{}",
            last.join("\n"),
            self.site.who(),
            self.site.log(80)
        )
    }

    fn deed(&mut self) {
        let all = DEEDS.iter().map(|(weight, _)| weight).sum::<u64>();
        let mut at = self.random.from((0, all - 1));
        let mut chosen = Deed::KillWorker;
        for (weight, deed) in DEEDS {
            if at < weight {
                chosen = deed;
                break;
            }
            at -= weight;
        }
        match chosen {
            Deed::KillWorker => self.kill_worker(),
            Deed::PauseWorker => self.pause_worker(),
            Deed::HangWorker => self.hang_worker(),
            Deed::CrashAtStart => self.turn_on("crash", "1", (200, 2000)),
            Deed::SlowStart => {
                let delay = self.random.from((200, 1500));
                self.turn_on("slow", &delay.to_string(), (500, 3000));
            }
            Deed::NeverStart => self.turn_on("slow", "60000", (100, 1000)),
            Deed::Leak => self.leak(),
            Deed::Reload => self.reload(),
            Deed::Scale => {
                let count = self.random.from(WANTED).to_string();
                self.command(&["scale", NAME, &count]);
            }
            Deed::Upgrade => self.command(&["upgrade", NAME]),
            Deed::KillPrimary => self.kill_primary(),
            Deed::PausePrimary => self.pause_primary(),
            Deed::KillKeeper => self.kill_keeper(),
        }
    }

    /// What earlier deeds lead to.
    fn follow_up(&mut self) {
        let now = Instant::now();
        let (over, on): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.paused).into_iter().partition(|one| one.until <= now);
        self.paused = on;
        for Paused { who, .. } in over {
            who.signal(Signal::CONT);
            self.note(format!("{who} goes on"));
        }
        let (over, on): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.hanging).into_iter().partition(|one| !one.who.is_alive());
        self.hanging = on;
        for Hanging { who, from, held, carried } in over {
            self.note(format!("{who}, which was stopped, has been ended"));
            let (what, until) = (format!("stopped {who}"), Instant::now());
            self.ledger.add(Loss { what, from, until, held, worker: true, carried });
        }
        let (over, on): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.switches).into_iter().partition(|(_, until)| *until <= now);
        self.switches = on;
        for (name, _) in over {
            self.site.switch_off(name);
            self.note(format!("{name} is off"));
        }
        let mut ended = Vec::new();
        for index in (0..self.commands.len()).rev() {
            let (_, child) = &mut self.commands[index];
            if matches!(child.try_wait(), Ok(Some(_))) {
                ended.push(self.commands.swap_remove(index));
            }
        }
        for (words, child) in ended {
            self.judge(&words, &finish(child));
        }
    }

    /// What a primary held that is gone.
    fn lose(&mut self, what: String, from: Instant, held: BTreeSet<SocketAddr>) {
        let (until, carried) = (Instant::now(), Carried::default());
        self.ledger.add(Loss { what, from, until, held, worker: false, carried });
    }

    /// What of the connections of a worker that is stopped comes by way of the primary.
    fn carried(&self, held: &BTreeSet<SocketAddr>) -> Carried {
        let primary = self.site.pair().filter(|_| !held.is_empty());
        let Some((primary, _)) = primary else { return Carried::default() };
        let (among, own) = primary.ends(self.site.tool.address);
        Carried { count: Cell::new(own.intersection(held).count()), among }
    }

    /// A worker that runs: not one that is stopped.
    fn victim(&mut self) -> Option<Target> {
        let stopped: Vec<Target> = self.hanging.iter().map(|one| one.who).collect();
        let mut workers = self.site.workers();
        workers.retain(|who| !stopped.contains(who));
        self.random.one(&workers)
    }

    fn kill_worker(&mut self) {
        let Some(who) = self.victim() else { return self.note("nobody to kill") };
        self.paused.retain(|one| one.who != who);
        let from = Instant::now();
        let Some(held) = who.stop() else { return self.note(format!("{who} was gone")) };
        let carried = self.carried(&held);
        let (count, by) = (held.len(), carried.count.get());
        self.note(format!("kill {who}, which holds {count}, {by} of them carried"));
        who.kill();
        let (what, until) = (format!("killed {who}"), Instant::now());
        self.ledger.add(Loss { what, from, until, held, worker: true, carried });
    }

    fn pause_worker(&mut self) {
        let Some(who) = self.victim() else { return };
        let time = self.random.millis(50, 1500);
        if who.signal(Signal::STOP) {
            self.note(format!("stop {who} for {time:?}"));
            self.paused.push(Paused { who, until: Instant::now() + time });
        }
    }

    fn hang_worker(&mut self) {
        // One at a time: somebody has to serve.
        if !self.hanging.is_empty() {
            return;
        }
        let Some(who) = self.victim() else { return };
        self.paused.retain(|one| one.who != who);
        let from = Instant::now();
        let Some(held) = who.stop() else { return };
        self.note(format!("stop {who} for good, which holds {}", held.len()));
        let carried = self.carried(&held);
        self.hanging.push(Hanging { who, from, held, carried });
    }

    fn turn_on(&mut self, name: &'static str, value: &str, millis: (u64, u64)) {
        let time = self.random.millis(millis.0, millis.1);
        self.switches.retain(|(on, _)| *on != name);
        self.site.switch(name, value);
        self.note(format!("{name} is {value} for {time:?}"));
        self.switches.push((name, Instant::now() + time));
    }

    fn leak(&mut self) {
        let Some(who) = self.victim() else { return };
        self.note(format!("the memory of {who} grows"));
        self.site.switch(&format!("leak.{}", who.pid), "");
    }

    fn command(&mut self, words: &[&str]) {
        if self.commands.len() < COMMANDS {
            let text = words.join(" ");
            self.note(format!("`{text}`"));
            self.commands.push((text, self.site.client(words)));
        }
    }

    /// By command, or by signal.
    fn reload(&mut self) {
        if self.random.from((0, 2)) > 0 {
            return self.command(&["reload", NAME]);
        }
        if let Some((_, keeper)) = self.site.pair() {
            self.note(format!("SIGUSR2 to the keeper, {}", keeper.pid));
            keeper.signal(Signal::USR2);
        }
    }

    fn kill_primary(&mut self) {
        let Some((primary, _)) = self.site.pair() else { return };
        self.kill_this_primary(primary);
        if self.random.from((0, 3)) > 0 {
            return;
        }
        // The next one has hardly begun.
        let next = wait::until(TAKEOVER, "the next primary", || {
            self.site.pair().filter(|(next, _)| *next != primary)
        });
        match next {
            Ok((next, _)) => self.kill_this_primary(next),
            Err(error) => self.fail(&error),
        }
    }

    fn kill_this_primary(&mut self, primary: Target) {
        let from = Instant::now();
        self.primaries.insert(primary.pid);
        let Some(held) = primary.stop() else { return };
        self.note(format!("kill the primary, {}, which holds {}", primary.pid, held.len()));
        primary.kill();
        self.lose(format!("killed primary {}", primary.pid), from, held);
    }

    fn pause_primary(&mut self) {
        let Some((primary, _)) = self.site.pair() else { return };
        let time = self.random.millis(50, 1200);
        if primary.signal(Signal::STOP) {
            self.note(format!("stop the primary, {}, for {time:?}", primary.pid));
            self.paused.push(Paused { who: primary, until: Instant::now() + time });
        }
    }

    /// The primary becomes the keeper. Both at once is the end, so there is another primary before anything else is done.
    fn kill_keeper(&mut self) {
        for Paused { who, .. } in &self.paused {
            who.signal(Signal::CONT);
        }
        self.paused.clear();
        let Some((primary, keeper)) = self.site.serving_pair() else { return };
        self.primaries.extend([primary.pid, keeper.pid]);
        let from = Instant::now();
        let Some(held) = primary.stop() else { return };
        self.note(format!("kill the keeper, {}; primary {}", keeper.pid, primary.pid));
        keeper.kill();
        primary.signal(Signal::CONT);
        // It begins anew as another program: what it held is lost.
        self.lose(format!("keeper {} of {}", keeper.pid, primary.pid), from, held);
        let next = wait::until(TAKEOVER, "the next primary", || {
            self.site.serving_pair().filter(|(next, keeper)| *next != primary && *keeper == primary)
        });
        match next {
            Ok((next, _)) => self.note(format!("keeper {}, primary {}", primary.pid, next.pid)),
            Err(error) => self.fail(&format!("after its keeper's end: {error}")),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot {
            Some(slot) => write!(f, "worker {} in slot {slot}", self.pid),
            None => write!(f, "process {}", self.pid),
        }
    }
}
