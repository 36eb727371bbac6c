//! The loop: facts and wishes in, the core's decisions out, effects performed.
//!
//! Everything that changes the cluster passes through here, one thing at a time. All state is in
//! [`Shell`]; tasks beside it only wait for something and report it as a [`Fact`].

use super::dispatch::Handover;
#[cfg(target_os = "linux")]
use super::keeping::Keeping;
use super::liveness::Liveness;
use super::oom::OomWatch;
use super::ports::Port;
use super::record::{Fact, Record, Trouble};
use super::rescue::Sampling;
use super::shut::ShutWatch;
use super::stop::Stopping;
use super::usage::Upkeep;
use super::version::{Before, Version};
use super::{Command, Options, Over, Primary, Reloaded, WorkerHandle, lock};
use crate::address::printable;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::fan::Fan;
use crate::settings::{Knows, Settings};
use phalanx_core::cluster::{Action, Cluster, Event as CoreEvent};
use phalanx_core::limits::Judge;
use phalanx_core::scaling::Scaler;
use phalanx_core::time::Time;
use phalanx_core::wire::{Act, Cluster as ClusterFrame, Frame, Note, RawValue};
use phalanx_core::worker::{Exit, WorkerId};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Facts that may wait for the loop; beyond it their reporters wait.
const FACTS: usize = 1024;
/// Facts about connections that are dealt with before anything else is.
const FACTS_AT_ONCE: usize = 256;
/// How long a socket is kept that no worker has: a handshake may be under way to it.
pub(super) const VACANT: Duration = Duration::from_secs(10);

/// No patience is shorter: it would be no patience but a busy loop.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(1);

/// The message by which a worker may be told that it is to leave; as pm2 sends it.
const SHUTDOWN: &str = "\"shutdown\"";

pub(super) struct Shell {
    pub(super) options: Options,
    pub(super) core: Cluster,
    pub(super) workers: BTreeMap<WorkerId, Record>,
    pub(super) ports: BTreeMap<String, Port>,
    pub(super) in_flight: BTreeMap<u64, Handover>,
    pub(super) audience: Fan<Event>,
    pub(super) facts: mpsc::Sender<Fact>,
    pub(super) seq: u64,
    /// What last kept a worker from listening: the likely reason if none comes up.
    pub(super) last_trouble: Option<Trouble>,
    pub(super) start: Instant,
    pub(super) settings: Arc<Mutex<Settings>>,
    pub(super) wishes: mpsc::WeakUnboundedSender<Command>,
    incoming: mpsc::Receiver<Fact>,
    pub(super) forking: BTreeMap<WorkerId, Asked>,
    pub(super) reloading: Vec<oneshot::Sender<Result<Reloaded>>>,
    pub(super) restarting: Vec<oneshot::Sender<Result<Reloaded>>>,
    /// What is to be done before this process becomes another program.
    pub(super) before_upgrade: Vec<Box<dyn Fn() + Send + Sync>>,
    /// Why the reload failed that is gone back from.
    pub(super) failed_reload: Option<String>,
    /// What a rollback goes back to, and what workers are started from now.
    pub(super) before: Option<Before>,
    pub(super) newest: Option<Arc<Version>>,
    /// How often the settings were changed, and reloads begun.
    pub(super) setups: u64,
    pub(super) reloads_begun: u64,
    pub(super) oom: OomWatch,
    /// Workers that are to get more or less than others.
    pub(super) weights: BTreeMap<WorkerId, u32>,
    retry: Option<Time>,
    /// How many connections have waited in this primary.
    pub(super) parked: u64,
    /// Ports whose waiting connections may be handed out now.
    pub(super) due: Vec<Arc<str>>,
    pub(super) sampling: Sampling,
    pub(super) liveness: Liveness,
    /// A port may have lost its last worker.
    pub(super) idle_ports: bool,
    pub(super) failed_start: Option<Over>,
    /// Hears of sockets that programs shut down.
    pub(super) shut: Option<ShutWatch>,
    /// The cluster is about to stop.
    pub(super) stopping: Stopping,
    /// What was last said to be in the way of a worker, and when.
    pub(super) said_trouble: Option<(String, Time)>,
    /// When it was last said that the primary carries connections.
    pub(super) said_carried: Option<Time>,
    /// It was said that binds cannot be intercepted.
    pub(super) said_no_intercept: bool,
    /// What workers use, how many there should be, why they ended.
    pub(super) upkeep: Upkeep,
    /// What is done for the next primary.
    #[cfg(target_os = "linux")]
    pub(super) keeping: Keeping,
    /// This process is about to become another program.
    #[cfg(target_os = "linux")]
    pub(super) changing: Option<super::upgrade::Changing>,
}

/// Who asked for a fork, and the environment for it.
type Asked = (Vec<(OsString, OsString)>, oneshot::Sender<Result<WorkerHandle>>);

impl Shell {
    pub(super) fn new(
        options: Options,
        primary: &Primary,
        wishes: mpsc::WeakUnboundedSender<Command>,
    ) -> Self {
        let (facts, incoming) = mpsc::channel(FACTS);
        let options = Options { patience: options.patience.max(SHORTEST_PATIENCE), ..options };
        let scaler = options.scaling.clone().map(Scaler::new);
        let judge = Judge::new(options.limits.clone());
        let upkeep = Upkeep::new(judge, scaler, Arc::clone(&primary.ends));
        Self {
            core: Cluster::new(options.spec.clone()),
            options,
            workers: BTreeMap::new(),
            ports: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            audience: primary.audience.clone(),
            facts,
            seq: 0,
            last_trouble: None,
            start: Instant::now(),
            settings: Arc::clone(&primary.settings),
            wishes,
            incoming,
            forking: BTreeMap::new(),
            reloading: Vec::new(),
            restarting: Vec::new(),
            before_upgrade: Vec::new(),
            failed_reload: None,
            before: None,
            newest: None,
            setups: 0,
            reloads_begun: 0,
            oom: OomWatch::new(),
            weights: BTreeMap::new(),
            retry: None,
            parked: 0,
            due: Vec::new(),
            sampling: Sampling::default(),
            liveness: Liveness::default(),
            // What was opened before any worker is looked at when all are there.
            idle_ports: true,
            failed_start: None,
            shut: ShutWatch::new().ok(),
            stopping: Stopping::default(),
            said_trouble: None,
            said_carried: None,
            said_no_intercept: false,
            upkeep,
            #[cfg(target_os = "linux")]
            keeping: Keeping::default(),
            #[cfg(target_os = "linux")]
            changing: None,
        }
    }

    /// Runs until the cluster has stopped.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        over: watch::Sender<Option<Over>>,
    ) {
        let mut sampler = tokio::time::interval(self.sample_interval());
        sampler.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut abandoned = false;
        // Something may have to be decided; else what comes next is known.
        let mut decide = true;
        let mut steady = None;
        self.begin_upkeep();
        loop {
            if std::mem::replace(&mut decide, true) {
                self.perform_plan();
                let now = self.now();
                self.weigh(now);
                self.go_on_stopping();
                self.close_idle_ports();
                if self.core.is_stopped() && self.workers.is_empty() && self.upkeep.awaiting == 0 {
                    break;
                }
                #[cfg(target_os = "linux")]
                {
                    self.settle_estate();
                    self.change();
                }
                steady = self.wakes_at();
            }
            let wake = [steady, self.retry].into_iter().flatten().min();
            // What is beyond the end of time never comes.
            let wake = wake.and_then(|at| self.start.checked_add(at.since_start()));
            let wake = wake.map(tokio::time::Instant::from_std);
            tokio::select! {
                command = commands.recv(), if !abandoned => match command {
                    Some(command) => self.command(command),
                    None => {
                        abandoned = true;
                        let now = self.now();
                        self.begin_stop(now);
                    }
                },
                fact = self.incoming.recv() => {
                    if let Some(fact) = fact {
                        decide = self.facts(fact);
                    }
                }
                () = sleep_until(wake) => self.retry_parked(),
                names = next_shut(self.shut.as_ref()) => self.were_shut(&names),
                () = self.sampling.due(&mut sampler) => {
                    let now = self.now();
                    self.sample(now);
                }
            }
        }
        // Ports close before anybody is told that all is over.
        self.sampling = Sampling::Off;
        self.ports.clear();
        super::child::rests_end().await;
        over.send_replace(Some(self.failed_start.take().unwrap_or(Over::Stopped)));
        self.audience.close();
    }

    /// When something is to be decided if nothing happens until then.
    fn wakes_at(&self) -> Option<Time> {
        let wakes = [self.core.wake(), self.next_look(), self.kept_again(), self.stops_at()];
        wakes.into_iter().flatten().min()
    }

    /// Deals with a fact, and with those behind it if it is only about a connection: of these there are many, and nothing
    /// is decided by them but who gets the next one. Whether there was another.
    fn facts(&mut self, first: Fact) -> bool {
        let now = self.now();
        let (mut fact, mut decide) = (first, false);
        for left in (0..FACTS_AT_ONCE).rev() {
            decide = !matches!(fact, Fact::Accepted(..) | Fact::Answered(..));
            self.fact(now, fact);
            if decide || left == 0 {
                break;
            }
            match self.incoming.try_recv() {
                Ok(next) => fact = next,
                Err(_) => break,
            }
        }
        self.pump_due(now);
        // What the next primary has to know is not put off until something is to be decided.
        #[cfg(target_os = "linux")]
        let decide = decide || self.keeping.changed;
        decide
    }

    /// Sockets were shut down, in this order.
    fn were_shut(&mut self, names: &[u64]) {
        for name in names {
            self.ports.values_mut().for_each(|port| port.shut(*name));
        }
        if !names.is_empty() {
            self.may_change();
        }
    }

    /// Hears of all that were shut down up to now: before a group gets or loses a socket.
    pub(super) fn hear_shut(&mut self) {
        let names = self.shut.as_ref().map(ShutWatch::now).unwrap_or_default();
        self.were_shut(&names);
    }

    /// What the next workers are expected to know.
    pub(super) fn next_knows(&self) -> Knows {
        lock(&self.settings).knows
    }

    pub(super) fn now(&self) -> Time {
        Time::new(self.start.elapsed())
    }

    /// Parked connections are to be offered again then.
    pub(super) fn retry_at(&mut self, at: Time) {
        self.retry = Some(self.retry.map_or(at, |known| known.min(at)));
    }

    fn retry_parked(&mut self) {
        let now = self.now();
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.recall_overdue(now);
            self.pump_all(now);
        }
        self.look_after(now);
    }

    /// Offers every connection that waits.
    pub(super) fn pump_all(&mut self, now: Time) {
        let waiting = self.ports.values().filter(|port| !port.parked.is_empty());
        let keys: Vec<String> = waiting.map(|port| port.key.clone()).collect();
        for key in keys {
            self.pump(now, &key);
        }
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        self.may_change();
        match command {
            Command::Wish(CoreEvent::Stop) => self.begin_stop(now),
            Command::Wish(wish) => self.core.observe(now, wish),
            #[cfg(target_os = "linux")]
            Command::Begin(reply) => {
                let taken = self.begin();
                let _ = reply.send(taken);
            }
            #[cfg(target_os = "linux")]
            Command::Upgrade(reply) => self.upgrade(reply),
            Command::BeforeUpgrade(does) => self.before_upgrade.push(does),
            #[cfg(not(target_os = "linux"))]
            Command::Begin(reply) => drop(reply.send(false)),
            #[cfg(not(target_os = "linux"))]
            Command::Upgrade(reply) => {
                let no = Error::Upgrade("only Linux can".into());
                drop(reply.send(Err(no)));
            }
            Command::Settle => {}
            Command::Setup => {
                self.setups += 1;
                self.audience.tell(&Event::Setup);
            }
            Command::Open(address, policy, reply) => {
                let _ = reply.send(self.open_port(&address, policy));
            }
            Command::Status(reply) => self.status_asked(reply),
            Command::Scale(workers) => self.scale_by_hand(now, workers),
            Command::ScaleAuto => self.scale_auto(),
            Command::Signal(value) => self.signalled(now, value),
            Command::Fork(env, reply) => match self.core.fork() {
                Some(worker) => {
                    self.forking.insert(worker, (env, reply));
                }
                None => {
                    let _ = reply.send(Err(Error::Stopping));
                }
            },
            Command::Reload(reply) => {
                if self.core.is_stopping() {
                    let _ = reply.send(Err(Error::Stopping));
                    return;
                }
                if self.core.is_restarting() {
                    // All are new when that is over.
                    tracing::info!("a restart is going on: it is the reload that is asked for");
                    self.restarting.push(reply);
                    return;
                }
                if self.core.is_reloading() {
                    tracing::info!("another reload takes the place of the one that is going on");
                }
                self.supersede_reload("another reload took its place");
                self.reloading.push(reply);
                let can = self.note_before();
                self.core.observe(now, CoreEvent::CanGoBack(can));
                self.core.observe(now, CoreEvent::Reload);
            }
            Command::Restart(reply) => {
                if self.core.is_stopping() {
                    let _ = reply.send(Err(Error::Stopping));
                    return;
                }
                self.supersede_reload("a restart took its place");
                self.restarting.push(reply);
                self.before = None;
                self.core.observe(now, CoreEvent::Restart);
            }
        }
    }

    /// What follows from a fact; what waits for a worker is handed out after it, by who calls this.
    fn fact(&mut self, now: Time, fact: Fact) {
        if fact.changes() {
            self.may_change();
        }
        match fact {
            // The sender is dropped when all is done.
            Fact::Frame(worker, frame, _done) => self.frame(now, worker, frame),
            Fact::Accepted(key, connection) => self.park(key, connection),
            Fact::Answered(worker, seq, accepted, open) => {
                self.answered(now, worker, seq, accepted, open);
            }
            Fact::Pong(worker, runtime) => self.pong(now, worker, runtime),
            Fact::Uncaught(worker, what, caught) => self.uncaught(worker, &what, caught),
            Fact::Trouble(what) => tracing::warn!("{what}"),
            #[cfg(target_os = "linux")]
            Fact::Unkept => self.unkept(),
            #[cfg(target_os = "linux")]
            Fact::Rehearsed(heard) => self.rehearsed(heard),
            Fact::Closed(worker, why) => self.closed(now, worker, why.as_deref()),
            Fact::Exited(worker, exit) => self.exited(now, worker, exit),
            Fact::Slow(worker) => self.slow(now, worker),
            Fact::Outlived(worker) => self.outlived(worker),
            Fact::Taken(port, place, taken) => self.taken(now, &port, place, taken),
            #[cfg(target_os = "linux")]
            Fact::Asks(worker, question) => self.asks(now, worker, question),
            Fact::Notified(worker, text) => self.notified(now, worker, &text),
            Fact::SaysReady(worker) => self.says_ready(now, worker),
            Fact::Seen(worker, busy) => self.seen(now, worker, busy),
            Fact::Vacant => {
                self.hear_shut();
                for port in self.ports.values_mut() {
                    port.close_vacant(now, VACANT);
                }
            }
            Fact::Proves(worker, held) => self.proves(now, worker, held),
            Fact::Settled(worker) => self.settled(now, worker),
            Fact::Alive(worker) => self.alive(now, worker),
            Fact::Stands(worker, seen) => self.stood(now, worker, seen),
            Fact::Condemned(worker, evidence) => self.condemned(now, worker, &evidence),
            Fact::Checked(worker, checked) => self.checked(now, worker, checked),
            Fact::LookDue => self.look_due(),
            Fact::Looked(look, asked) => self.looked(now, &look, asked),
            Fact::WrittenDown(record) => self.written_down(*record),
            Fact::Lingered(worker) => {
                if let Some(record) = self.workers.get_mut(&worker).filter(|r| !r.closed) {
                    record.closed = true;
                    record.handle.inner.connected.store(false, Ordering::Relaxed);
                    self.audience.tell(&Event::Disconnect(record.handle.clone()));
                }
                self.bury(now, worker);
            }
        }
    }

    /// The worker probably dies of it, unless the program has a handler.
    fn uncaught(&mut self, worker: WorkerId, what: &str, caught: bool) {
        let Some(record) = self.workers.get(&worker) else { return };
        let what = printable(what);
        let slot = record.handle.slot();
        if caught {
            tracing::debug!("worker {worker} in slot {slot}: {what}, which its program handles");
        } else {
            tracing::error!("worker {worker} in slot {slot}: uncaught {what}");
        }
        // It follows from what was said of its port.
        let known = self.last_trouble.as_ref();
        if known.is_none_or(|t| t.worker != worker || t.address.is_none()) {
            self.last_trouble = Some(Trouble { worker, what, address: None });
        }
    }

    /// A fact of its own making, after a while.
    pub(super) fn later(&self, wait: Duration, fact: Fact) {
        let facts = self.facts.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = facts.send(fact).await;
        });
    }

    /// Does what the core decides. What that leads to (a fork that fails) is decided on at once.
    pub(super) fn perform_plan(&mut self) {
        loop {
            let now = self.now();
            let actions = self.core.plan(now);
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.perform(action);
            }
        }
    }

    /// Whether nothing waits for this loop.
    #[cfg(target_os = "linux")]
    pub(super) fn has_no_facts(&self) -> bool {
        self.incoming.is_empty()
    }

    /// When the next primary's concerns are to be looked at.
    fn kept_again(&self) -> Option<Time> {
        #[cfg(target_os = "linux")]
        return [self.keeping.again, self.changes_at()].into_iter().flatten().min();
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// What the next primary has to know may be another after this.
    #[cfg_attr(not(target_os = "linux"), expect(clippy::unused_self))]
    pub(super) fn may_change(&mut self) {
        #[cfg(target_os = "linux")]
        {
            self.keeping.changed = true;
        }
    }

    fn perform(&mut self, action: Action) {
        self.may_change();
        match action {
            Action::Fork { worker, slot } => self.fork(worker, slot),
            Action::Disconnect { worker } => self.disconnect(worker),
            Action::Terminate { worker } => {
                self.serves_no_more(worker);
                if let Some(record) = self.workers.get(&worker) {
                    // It may have ended in the meantime.
                    let _ = record.handle.inner.child.signal(self.options.kill_signal);
                }
            }
            Action::Kill { worker } => {
                self.serves_no_more(worker);
                if let Some(record) = self.workers.get(&worker) {
                    record.handle.inner.child.kill();
                }
            }
            Action::Report(report) => self.report(report),
        }
    }

    fn disconnect(&mut self, worker: WorkerId) {
        self.leaves(worker);
        if self.drains_unknowing(worker) {
            let now = self.now();
            self.begin_drain(now, worker);
        }
        let seq = self.next_seq();
        if let Some(record) = self.workers.get(&worker) {
            let millis =
                |time: Option<Duration>| time.and_then(|t| u64::try_from(t.as_millis()).ok());
            let grace = millis(self.options.spec.grace);
            // When all stop, nobody waits longer.
            let stopping = self.core.is_stopping();
            let upgraded = if stopping { grace } else { millis(self.options.grace_upgraded) };
            let signal = Some(self.options.kill_signal).filter(|s| *s != Signal::TERM);
            let signal = signal.map(|s| Exit::Signal(s.as_raw()).to_string());
            let message = self.options.shutdown_message;
            record.channel.push(&Frame::Note(Note::Leave { grace, upgraded, signal, message }));
            // The preload does it in its own time.
            let preload = match &record.program {
                Some(program) => program.settings.preload,
                None => lock(&self.settings).preload,
            };
            if let (true, false, Ok(shutdown)) =
                (message, preload, RawValue::from_string(SHUTDOWN.into()))
            {
                record.channel.push(&Frame::User(shutdown));
            }
            let frame = ClusterFrame { seq: Some(seq), ack: None, act: Act::Disconnect };
            record.channel.push(&Frame::Cluster(frame));
        }
    }
}

async fn next_shut(watch: Option<&ShutWatch>) -> Vec<u64> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
