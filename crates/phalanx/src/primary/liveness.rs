//! Workers that are there and do nothing: who is asked, who is judged, and what follows.
//!
//! The decisions are [`phalanx_core::heartbeat`]'s. One beat asks all workers; what was seen of one that hangs is
//! gathered beside the loop, is told, and then the core ends and replaces it.

use super::connections;
use super::evidence::{self, Evidence, Missing};
use super::health::Checkup;
use super::record::{Fact, Record};
use super::shell::Shell;
use crate::event::Event;
use crate::sys::portable::poll_now;
use phalanx_core::cluster::Event as CoreEvent;
use phalanx_core::heartbeat::{Activity, Heartbeat, Pace, Stall, Verdict};
use phalanx_core::time::Time;
use phalanx_core::worker::{Leave, Worker, WorkerId};
use std::collections::{BTreeMap, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long gathering evidence may hold a verdict up.
const GATHERING: Duration = Duration::from_millis(250);
/// How often at most, and at least, a worker is looked at whose queue does not move.
const LOOKS: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(2));

/// What is heard of one worker, counted where it is read.
#[derive(Debug, Default)]
pub(super) struct Ear {
    heard: AtomicU64,
    /// What it said waits for the primary's own program, and nothing else of it is read.
    waits: AtomicBool,
}

impl Ear {
    pub(super) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs something that may wait for the primary's own program.
    pub(super) async fn while_waiting<T>(&self, passing_on: impl Future<Output = T>) -> T {
        self.waits.store(true, Ordering::Relaxed);
        let done = passing_on.await;
        self.waits.store(false, Ordering::Relaxed);
        done
    }

    fn count(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

/// What the shell keeps for all workers.
#[derive(Default)]
pub(super) struct Liveness {
    pace: Pace,
    /// When the next beat is.
    next: Option<Time>,
    /// Some workers have to give signs of life by themselves.
    pub(super) timed: bool,
    /// Connections of checks that were handed over: who waits for the worker's answer.
    pub(super) handed: BTreeMap<u64, (WorkerId, oneshot::Sender<bool>)>,
}

/// What the shell keeps of one worker's liveness.
pub(super) struct Life {
    heart: Heartbeat,
    /// What it had been heard at the last beat.
    heard: u64,
    /// The CPU time that it had used, at a moment since which it has not been heard.
    cpu: Option<(Time, Duration)>,
    stall: Stall,
    looked: Option<Time>,
    /// Evidence is gathered; what it had been heard until then.
    suspected: Option<u64>,
    said_traced: bool,
    pub(super) checkup: Checkup,
}

impl Life {
    pub(super) fn new(now: Time) -> Self {
        Self {
            heart: Heartbeat::new(now),
            heard: 0,
            cpu: None,
            stall: Stall::default(),
            looked: None,
            suspected: None,
            said_traced: false,
            checkup: Checkup::default(),
        }
    }

    /// It answered a ping.
    pub(super) fn answered(&mut self, now: Time) {
        self.heart.answered(now);
    }

    /// What was seen of it up to now counts for nothing.
    fn pardon(&mut self) {
        self.heart.pardon();
        self.stall.forget();
        self.checkup.failures.pardon();
    }
}

impl Shell {
    /// A worker is ready: from now on it is looked after.
    pub(super) fn begin_liveness(&mut self, now: Time, worker: WorkerId) {
        if let Some(rules) = self.options.heartbeat
            && self.liveness.next.is_none()
        {
            self.liveness.next = Some(now.after(rules.interval));
            self.liveness.pace.rest();
            self.liveness.pace.keeps(now, asleep(), rules.interval);
        }
        let first = self.options.health.as_ref().map(|health| now.after(health.interval));
        if let Some(record) = self.workers.get_mut(&worker) {
            record.life.checkup.next = first;
        }
    }

    /// When a worker is to be asked or looked at next.
    pub(super) fn next_look(&self) -> Option<Time> {
        let silence = self.next_silence();
        [silence, self.liveness.next, self.next_check()].into_iter().flatten().min()
    }

    /// Asks and looks, as far as it is time.
    pub(super) fn look_after(&mut self, now: Time) {
        self.check_silence(now);
        if let Some(rules) = self.options.heartbeat
            && self.liveness.next.is_some_and(|at| at <= now)
        {
            self.beat(now);
            // Nobody is there to be asked: the next one that is ready begins anew.
            let any = self.workers.keys().any(|id| self.is_judged(*id));
            self.liveness.next = any.then(|| now.after(rules.interval));
        }
        self.begin_checks(now);
    }

    /// Whether a worker may be found to hang though nobody asked for that: an application that forks itself also
    /// times itself.
    fn is_judged(&self, worker: WorkerId) -> bool {
        self.core.worker(worker).is_some_and(|w| w.guarded) && self.is_serving(worker)
    }

    /// Whether a worker is ready, and was not told to leave.
    pub(super) fn is_serving(&self, worker: WorkerId) -> bool {
        let serves = self.core.worker(worker).is_some_and(Worker::is_ready);
        let there = |r: &Record| r.exit.is_none() && !r.leaving && r.paused.is_none();
        serves && self.workers.get(&worker).is_some_and(there)
    }

    fn beat(&mut self, now: Time) {
        let Some(rules) = self.options.heartbeat else { return };
        if !self.liveness.pace.keeps(now, asleep(), rules.interval) {
            tracing::info!(
                "the primary or the machine stood still for a while: what workers did not answer meanwhile does not count"
            );
            self.workers.values_mut().for_each(|record| record.life.pardon());
        }
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        for worker in workers {
            let judged = self.is_judged(worker);
            let Some(record) = self.workers.get_mut(&worker) else { continue };
            // One that stands at a breakpoint of its inspector answers nothing.
            let answers =
                record.is_online() && !record.closed && record.handle.inspector().is_none();
            if !(judged && answers) {
                record.life.heart.pardon();
                continue;
            }
            record.listen(now);
            match record.life.heart.beat(now, rules) {
                Verdict::Fine => {}
                Verdict::Ask => record.ping(),
                Verdict::Missed(count) => {
                    let (pid, slot) = (record.handle.pid(), record.handle.slot());
                    if count == 1 {
                        record.life.cpu = evidence::cpu_time(pid).map(|used| (now, used));
                    }
                    let silence = record.life.heart.silence(now);
                    tracing::debug!(
                        "worker {worker} in slot {slot} has not answered for {silence:.1?}: {count} of {} misses",
                        rules.misses
                    );
                }
                Verdict::Hung => {
                    let silence = record.life.heart.silence(now);
                    let why = format!(
                        "it has answered nothing for {silence:.1?}: {} questions in a row",
                        record.life.heart.missed()
                    );
                    self.suspect(now, worker, Leave::Hung, why);
                }
            }
        }
    }

    /// The queue of a worker that cannot be asked does not move: it is looked at, once in a while.
    pub(super) fn stands(&mut self, now: Time, worker: WorkerId) {
        let Some(limit) = self.options.stall.filter(|_| self.is_judged(worker)) else { return };
        let every = look_every(limit);
        let Some(record) = self.workers.get_mut(&worker) else { return };
        if record.life.looked.is_some_and(|at| now.since(at) < every) {
            return;
        }
        record.life.looked = Some(now);
        let (pid, facts) = (record.handle.pid(), self.facts.clone());
        tokio::spawn(async move {
            let seen = tokio::task::spawn_blocking(move || activity(pid)).await.ok().flatten();
            if let Some(seen) = seen {
                let _ = facts.send(Fact::Stands(worker, seen)).await;
            }
        });
    }

    /// What was seen of it.
    pub(super) fn stood(&mut self, now: Time, worker: WorkerId, seen: Activity) {
        let Some(limit) = self.options.stall.filter(|_| self.is_judged(worker)) else { return };
        let Some(record) = self.workers.get_mut(&worker) else { return };
        let life = &mut record.life;
        if life.stall.look(now, seen, look_every(limit), limit) {
            let stood = life.stall.stood();
            life.stall.forget();
            let why = format!(
                "connections wait and it takes none, uses no CPU time and opens or closes no socket for {stood:.1?}"
            );
            self.suspect(now, worker, Leave::Hung, why);
        }
    }

    /// A worker is to be ended, when it is known what it does.
    pub(super) fn suspect(&mut self, now: Time, worker: WorkerId, verdict: Leave, why: String) {
        if !self.is_serving(worker) {
            return;
        }
        let Some(record) = self.workers.get_mut(&worker) else { return };
        let (id, slot, pid) = (worker, record.handle.slot(), record.handle.pid());
        if record.life.suspected.is_some() {
            return;
        }
        if let Some(tracer) = evidence::tracer(pid) {
            record.life.pardon();
            if !std::mem::replace(&mut record.life.said_traced, true) {
                tracing::warn!(
                    "worker {id} in slot {slot} is left alone, because process {tracer} traces it; else: {why}"
                );
            }
            return;
        }
        record.life.suspected = Some(record.handle.inner.ear.count());
        let missing = Missing {
            pid,
            verdict,
            why,
            silent: record.life.heart.silence(now),
            cpu: record.life.cpu.take().map(|(since, used)| (now.since(since), used)),
        };
        let facts = self.facts.clone();
        tokio::spawn(async move {
            let bare = Evidence::bare(&missing);
            let gathering = tokio::task::spawn_blocking(move || Evidence::gather(&missing));
            // What the kernel does not tell at once is done without.
            let gathered = tokio::time::timeout(GATHERING, gathering).await;
            let evidence = gathered.ok().and_then(Result::ok).unwrap_or(bare);
            let _ = facts.send(Fact::Condemned(worker, Arc::new(evidence))).await;
        });
    }

    /// What is known of a worker that is beyond help: it is told, and the worker ended.
    pub(super) fn condemned(&mut self, now: Time, worker: WorkerId, evidence: &Arc<Evidence>) {
        let serves = self.is_serving(worker);
        let Some(record) = self.workers.get_mut(&worker) else { return };
        let suspected = record.life.suspected.take();
        if !serves {
            return;
        }
        let slot = record.handle.slot();
        let heard = suspected != Some(record.handle.inner.ear.count());
        if evidence.verdict == Leave::Hung && heard {
            tracing::info!("worker {worker} in slot {slot} goes on, at the last moment");
            record.listen(now);
            return;
        }
        let does = if evidence.verdict == Leave::Hung { "hangs" } else { "is unhealthy" };
        tracing::error!("worker {worker} in slot {slot} {does}: {evidence}");
        self.audience.tell(&Event::Hung(record.handle.clone(), Arc::clone(evidence)));
        self.core.observe(now, CoreEvent::Lost { worker, why: evidence.verdict });
    }
}

impl Record {
    /// Whether it was heard since the last beat, or would be if the primary read on.
    fn listen(&mut self, now: Time) {
        let Self { handle, life, channel, .. } = self;
        let heard = handle.inner.ear.count();
        let unread = || handle.inner.ear.waits.load(Ordering::Relaxed) || channel.is_readable();
        if std::mem::replace(&mut life.heard, heard) != heard || unread() {
            life.heart.sign(now);
            life.cpu = None;
        }
    }
}

impl crate::channel::Sender {
    /// Whether the peer said something that was not read yet.
    fn is_readable(&self) -> bool {
        use rustix::event::PollFlags;
        poll_now(self.socket(), PollFlags::IN).is_ok_and(|ready| ready.contains(PollFlags::IN))
    }
}

/// How often a worker is looked at that may stand still for so long.
fn look_every(limit: Duration) -> Duration {
    (limit / 15).clamp(LOOKS.0, LOOKS.1)
}

/// What a worker's processes have done and have open; `None` if that may not be known.
fn activity(pid: u32) -> Option<Activity> {
    let processes = connections::processes(pid);
    let sockets = connections::sockets(&processes).ok()?;
    let mut hasher = DefaultHasher::new();
    sockets.hash(&mut hasher);
    let cpu = processes.iter().filter_map(|pid| evidence::cpu_time(*pid)).sum();
    Some(Activity { cpu, sockets: hasher.finish() })
}

/// How long the machine has been suspended since it was started.
#[cfg(target_os = "linux")]
fn asleep() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    // In this order what happens in between makes it less.
    let boot = read(ClockId::Boottime);
    boot.saturating_sub(read(ClockId::Monotonic))
}

/// Unknown; a monotonic clock that goes on while the machine sleeps shows it by itself.
#[cfg(not(target_os = "linux"))]
const fn asleep() -> Duration {
    Duration::ZERO
}
