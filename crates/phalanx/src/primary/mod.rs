//! The primary: forks workers, opens their ports, keeps the promise.

#[cfg(target_os = "linux")]
mod adopt;
#[cfg(target_os = "linux")]
mod bind;
mod child;
mod connections;
mod dispatch;
#[cfg(target_os = "linux")]
mod estate;
mod evidence;
mod forking;
mod health;
#[cfg(target_os = "linux")]
mod intercept;
#[cfg(target_os = "linux")]
mod keeping;
mod limits;
mod liveness;
mod mute;
mod oom;
mod output;
mod ports;
mod query;
mod recall;
mod record;
mod report;
mod rescue;
mod scaling;
mod shell;
mod shut;
mod spawn;
mod stop;
mod systemd;
#[cfg(target_os = "linux")]
mod upgrade;
mod usage;
mod version;
mod weigh;
mod why;

use crate::address::Address;
use crate::channel::Sender;
use crate::cluster::cores;
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::fan::Fan;
use crate::keeper;
use crate::message::{self, Handle};
use crate::permissions;
use crate::policy::{Balance, Policy};
use crate::settings::Settings;
use child::Child;
#[cfg(target_os = "linux")]
pub(crate) use estate::check_estate;
pub use evidence::Evidence;
pub use health::{Check, Health, HealthStatus};
pub use output::WorkerOutput;
use phalanx_core::cluster::{Event as Wish, ReloadStatus};
use phalanx_core::ends::Ends;
use phalanx_core::heartbeat::{Rules as Heartbeat, STALL};
use phalanx_core::limits::Limits;
use phalanx_core::scaling::Scaling;
use phalanx_core::spec::{MAX_WORKERS, Spec};
use phalanx_core::wire::{DEFAULT_MAX_LINE, Frame, Metrics, Note};
use phalanx_core::worker::{EndKind, Exit, SlotId, WorkerId};
pub(crate) use query::query_for;

use rustix::fd::OwnedFd;
use rustix::process::Signal;
use serde::Serialize;
#[cfg(target_os = "linux")]
pub(crate) use spawn::{
    inherited_files, lower_descriptor_limit, raise_descriptor_limit, this_program,
};
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// All that a primary is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many workers are kept, and the rules of their lives.
    pub spec: Spec,
    /// How workers are started.
    pub settings: Settings,
    /// The scheduling policy of ports that do not choose their own.
    pub policy: Policy,
    /// Who gets which connection, within the policy.
    pub balance: Balance,
    /// How long a queue may stand still before its connections are handed to other workers.
    pub patience: Duration,
    /// `round-robin`: connections a worker may have that it did not acknowledge.
    pub window: u32,
    /// `round-robin`: connections of a port that may wait in the primary for a worker with room.
    /// Beyond it they wait in the kernel's queue.
    pub waiting: usize,
    /// How long a connection must have been idle, so that a worker that drains without knowing of it may be ended.
    pub drain_idle: Duration,
    /// When a worker on a channel hangs: it is sent SIGTERM, then SIGKILL, and is replaced at once. Only one that answered a
    /// ping before is held to it, and none that the application forked itself. `None`: never.
    pub heartbeat: Option<Heartbeat>,
    /// How long a worker without a channel may take none of the connections in its queue, use no CPU time and open or
    /// close no socket, until it hangs. `None`: for ever.
    pub stall: Option<Duration>,
    /// What workers are checked with. `None`: they are not.
    pub health: Option<Health>,
    /// How long a worker that was told to leave may go on as long as it has upgraded connections (WebSocket); `None`:
    /// as long as it likes. Less than the grace time means nothing.
    pub grace_upgraded: Option<Duration>,
    /// The longest message on a channel, in bytes.
    pub max_message: usize,
    /// What a worker may have before it is replaced or killed.
    pub limits: Limits,
    /// The rules by which the number of workers follows the load; `None`: it does not.
    pub scaling: Option<Scaling>,
}

impl Default for Options {
    /// No guarded workers, as many of them starting at a time as there are cores, the policy `direct` where there is one (for the environment's, see
    /// [`Policy::from_env`]), 100 ms of patience, a window of 1.
    fn default() -> Self {
        Self {
            spec: Spec { workers: 0, starts_at_once: cores(), ..Spec::default() },
            settings: Settings::default(),
            policy: Policy::default(),
            balance: Balance::default(),
            patience: phalanx_core::rescue::PATIENCE,
            window: 1,
            waiting: 1024,
            drain_idle: Duration::from_secs(5),
            heartbeat: Some(Heartbeat::default()),
            stall: Some(STALL),
            health: None,
            grace_upgraded: Some(Duration::from_secs(3600)),
            max_message: DEFAULT_MAX_LINE,
            limits: Limits::default(),
            scaling: None,
        }
    }
}

/// The primary of a cluster. Clones are the same primary.
///
/// Its work is done by a task on the current tokio runtime. When the last clone is dropped, the cluster stops
/// as by [`Primary::stop`]; [`WorkerHandle`]s and [`Events`] do not keep it.
#[derive(Clone)]
pub struct Primary {
    wishes: mpsc::UnboundedSender<Command>,
    audience: Fan<Event>,
    settings: Arc<Mutex<Settings>>,
    over: watch::Receiver<Option<Over>>,
    ends: Arc<Mutex<Ends>>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) enum Over {
    Stopped,
    NeverReady(String),
    NotStarted(String),
    NoAddress(String, i32),
}

/// What handles ask of the shell.
pub(crate) enum Command {
    Wish(Wish),
    Fork(Vec<(OsString, OsString)>, oneshot::Sender<Result<WorkerHandle>>),
    Reload(oneshot::Sender<Result<Reloaded>>),
    Restart(oneshot::Sender<Result<Reloaded>>),
    Open(Address, Option<Policy>, oneshot::Sender<Result<Address>>),
    Status(oneshot::Sender<Status>),
    Scale(usize),
    ScaleAuto,
    Signal(f64),
    Setup,
    /// Takes over, if there is something to take over: whether there was.
    Begin(oneshot::Sender<bool>),
    Upgrade(oneshot::Sender<Result<()>>),
    /// A descriptor is not needed any more.
    Settle,
}

/// What a finished reload did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Its number. Old workers may still drain; what that came to is in the [`Receipt`] with this number
    /// ([`Event::Reloaded`]).
    pub generation: u64,
    /// How many workers were replaced.
    pub replaced: u32,
    /// How long it took until the last new one was ready.
    pub took: Duration,
}

/// A cluster at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// The workers, by number.
    pub workers: Vec<WorkerStatus>,
    /// Slots that wait for their next worker: how long still, after how many crashes in a row.
    pub waiting: Vec<(SlotId, Duration, u32)>,
    /// The ports and their policies.
    pub ports: Vec<(Address, Policy)>,
    /// How many workers are wanted.
    pub wanted: usize,
    /// The reload that is going on.
    pub reload: Option<ReloadStatus>,
    /// How the last worker of a slot ended that was not told to leave.
    pub last_ends: Vec<(SlotId, EndKind)>,
}

/// A worker at one moment.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    /// Its number.
    pub id: WorkerId,
    /// Its slot.
    pub slot: SlotId,
    /// Its process.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: WorkerState,
    /// How long its process has been there.
    pub age: Duration,
    /// The reload it belongs to; 0 before the first.
    pub generation: u64,
    /// The program it runs: the number of the reload that brought it. After a rollback, one that is older than its
    /// generation.
    pub version: u64,
    /// How it does in its checks, if there was one.
    pub health: Option<HealthStatus>,
    /// Bytes of memory, its children included; what they share is counted once, if that is cheap to know.
    pub memory: Option<u64>,
    /// The part of one processor that it uses, its children included; above 1 with several threads.
    pub cpu: Option<f32>,
    /// Threads, its children's included.
    pub threads: Option<u32>,
    /// Descriptors that its process has open.
    pub descriptors: Option<u32>,
    /// Workers that its slot had before it.
    pub restarts: u32,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerState {
    /// Asked for; there is no process yet.
    Forking,
    /// Its process runs.
    Starting,
    /// Its channel works.
    Online,
    /// It serves.
    Listening,
    /// It was told to leave and finishes what it does.
    Draining,
    /// It was killed; its end is awaited.
    Killed,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Forking => "forking",
            Self::Starting => "starting",
            Self::Online => "online",
            Self::Listening => "listening",
            Self::Draining => "draining",
            Self::Killed => "killed",
        })
    }
}

impl Primary {
    /// Starts a primary on the current tokio runtime.
    ///
    /// ```no_run
    /// # async fn f() -> phalanx::Result<()> {
    /// use phalanx::{Event, Options, Primary};
    /// let primary = Primary::start(Options::default())?;
    /// let mut events = primary.events();
    /// primary.fork_with([("ROLE", "web")]).await?;
    /// while let Some(event) = events.next().await {
    ///     if let Event::Exit(worker, exit) = event {
    ///         println!("worker {} died: {exit}; starting another", worker.id());
    ///         primary.fork_with([("ROLE", "web")]).await?;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// More than [`MAX_WORKERS`] workers, or checks that cannot reach them; or
    /// [`Error::Permissions`]: this primary cannot start workers with those rights.
    /// More than [`MAX_WORKERS`] workers, or [`Error::Setting`]: limits or rules of scaling that contradict each other
    /// or cannot be kept here.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time.
    pub fn start(options: Options) -> Result<Self> {
        let primary = Self::start_waiting(options)?;
        let (reply, _) = oneshot::channel();
        primary.command(Command::Begin(reply))?;
        #[cfg(target_os = "linux")]
        crate::sys::keep::let_signals_come();
        Ok(primary)
    }

    /// Starts one that does nothing until it is told to [begin](Self::begin).
    pub(crate) fn start_waiting(options: Options) -> Result<Self> {
        if options.spec.workers > MAX_WORKERS {
            return Err(Error::WorkerCount(options.spec.workers));
        }
        if let Some(health) = &options.health {
            health.is_possible(&options.settings)?;
        }
        match permissions::check(&options.settings) {
            Ok(words) => words.into_iter().for_each(|words| tracing::info!("workers: {words}")),
            // The last primary's workers go on; it is the next ones that cannot be started.
            Err(error) if keeper::has_left() => tracing::error!("{error}"),
            Err(error) => return Err(error),
        }
        limits::check(&options)?;
        let cgroups = limits::open_cgroups(&options.limits)?;
        spawn::note_this_program();
        raise_descriptor_limit();
        let (wishes, commands) = mpsc::unbounded_channel();
        let (over, watch) = watch::channel(None);
        let primary = Self {
            wishes: wishes.clone(),
            audience: Fan::default(),
            settings: Arc::new(Mutex::new(options.settings.clone())),
            over: watch,
            ends: Arc::default(),
        };
        let mut shell = shell::Shell::new(options, &primary, wishes.downgrade());
        shell.upkeep.cgroups = cgroups;
        tokio::spawn(shell.run(commands, over));
        Ok(primary)
    }

    /// Takes over from the last primary, if there was one: whether.
    pub(crate) async fn begin(&self) -> Result<bool> {
        let (reply, taken) = oneshot::channel();
        self.command(Command::Begin(reply))?;
        taken.await.map_err(|_| Error::Stopping)
    }

    /// Becomes the program that is at this one's place now, with all workers, sockets and connections: nobody notices. The
    /// process keeps its number. First the new program is asked whether it could (it is started once for that); if not, or
    /// if it cannot be executed, this one goes on. Does not return if all went well: the new program's `main` begins.
    ///
    /// Only for a primary that calls [`keep`](crate::keep) first, or is run by [`Cluster`](crate::Cluster). What was
    /// configured comes from the program and its arguments, as at its first start. Linux.
    ///
    /// # Errors
    /// [`Error::Upgrade`]: why not.
    pub async fn upgrade(&self) -> Result<()> {
        let (reply, done) = oneshot::channel();
        self.command(Command::Upgrade(reply))?;
        done.await.map_err(|_| Error::Stopping)?
    }

    /// Forks a worker that is not guarded: when it ends, nobody replaces it. Returns when its process runs;
    /// it is not online yet.
    ///
    /// # Errors
    /// The process cannot be started, the cluster is full or stopping.
    pub async fn fork(&self) -> Result<WorkerHandle> {
        self.fork_with::<OsString, OsString>([]).await
    }

    /// As [`Primary::fork`]; `env` is set beside the settings' environment.
    ///
    /// # Errors
    /// As [`Primary::fork`].
    pub async fn fork_with<K: Into<OsString>, V: Into<OsString>>(
        &self,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Result<WorkerHandle> {
        let env = env.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let (reply, forked) = oneshot::channel();
        self.command(Command::Fork(env, reply))?;
        forked.await.map_err(|_| Error::Stopping)?
    }

    /// Changes how the next workers are started. Rights that they cannot be given are an error when one is forked.
    pub fn setup(&self, settings: Settings) {
        *lock(&self.settings) = settings;
        let _ = self.wishes.send(Command::Setup);
    }

    /// How the next workers are started.
    #[must_use]
    pub fn settings(&self) -> Settings {
        lock(&self.settings).clone()
    }

    /// Everything that happens from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        Events { queue: self.audience.join(|_| true) }
    }

    /// The workers whose processes run.
    ///
    /// # Errors
    /// The cluster has stopped.
    pub async fn status(&self) -> Result<Status> {
        let (reply, status) = oneshot::channel();
        self.command(Command::Status(reply))?;
        status.await.map_err(|_| Error::Stopping)
    }

    /// Opens a port before any worker asks for it: an address that cannot be had is known now. Workers
    /// that listen on the same address get it.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn open(&self, address: Address, policy: Option<Policy>) -> Result<Address> {
        let (reply, opened) = oneshot::channel();
        self.command(Command::Open(address, policy, reply))?;
        opened.await.map_err(|_| Error::Stopping)?
    }

    /// Keeps so many guarded workers from now on. Where their number follows the load ([`Options::scaling`]), it
    /// does not any more, until [`Primary::scale_auto`].
    ///
    /// # Errors
    /// None or more than [`MAX_WORKERS`].
    pub fn scale(&self, workers: usize) -> Result<()> {
        if workers == 0 || workers > MAX_WORKERS {
            return Err(Error::WorkerCount(workers));
        }
        self.command(Command::Scale(workers))
    }

    /// Replaces every guarded worker, by the rules of [`Spec::reload`]: a new one listens before the old one is
    /// told to leave. Returns when all are new and serve; what becomes of those that leave is told later, by
    /// [`Event::Reloaded`]. Dropping the future does not stop the reload.
    ///
    /// # Errors
    /// [`Error::Reload`]: a new worker did not come up, or crashed while others were still being replaced. The
    /// old ones that were left go on, and if the rules say so, what was replaced has gone back to the program before.
    /// [`Error::Stopping`]: the cluster stops.
    pub async fn reload(&self) -> Result<Reloaded> {
        let (reply, done) = oneshot::channel();
        self.command(Command::Reload(reply))?;
        done.await.map_err(|_| Error::Stopping)?
    }

    /// Stops all guarded workers, and when the last one is gone starts them all again: for what a reload cannot do,
    /// because old and new workers cannot be there at the same time. Nobody serves meanwhile: clients wait in the
    /// ports' queues, which stay open in the policy `direct`. Returns when all are ready.
    ///
    /// ```no_run
    /// # async fn f(primary: phalanx::Primary) -> phalanx::Result<()> {
    /// let done = primary.restart().await?;
    /// println!("all {} are back after {:?}", done.replaced, done.took);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Reload`]: a slot is in a crash loop, or a reload took the place of the restart. [`Error::Stopping`]: the
    /// cluster stops.
    pub async fn restart(&self) -> Result<Reloaded> {
        let (reply, done) = oneshot::channel();
        self.command(Command::Restart(reply))?;
        done.await.map_err(|_| Error::Stopping)?
    }

    /// Tells every worker to finish and leave, and waits until all are gone: `cluster.disconnect()`.
    /// After the grace time of the rules, workers are killed.
    pub async fn stop(&self) {
        let _ = self.command(Command::Wish(Wish::Stop));
        self.stopped().await;
    }

    /// Kills every worker, and waits until all are gone.
    pub async fn stop_now(&self) {
        let _ = self.command(Command::Wish(Wish::StopNow));
        self.stopped().await;
    }

    /// Begins to stop without waiting for the end.
    pub fn begin_stop(&self, now: bool) {
        let wish = if now { Wish::StopNow } else { Wish::Stop };
        let _ = self.command(Command::Wish(wish));
    }

    /// Waits until the cluster has stopped, for whatever reason.
    pub async fn stopped(&self) {
        let _ = self.finished().await;
    }

    /// Waits until the cluster has stopped.
    ///
    /// # Errors
    /// [`Error::NeverReady`] if it stopped because no worker ever became ready, [`Error::Listen`] if that was because
    /// of an address, [`Error::NotStarted`] if none could even be started.
    pub async fn finished(&self) -> Result<()> {
        let mut over = self.over.clone();
        let end = over.wait_for(Option::is_some).await.map(|end| end.clone());
        match end {
            Ok(Some(Over::NeverReady(why))) => Err(Error::NeverReady(why)),
            Ok(Some(Over::NotStarted(why))) => Err(Error::NotStarted(why)),
            Ok(Some(Over::NoAddress(address, errno))) => {
                Err(Error::Listen { address, source: std::io::Error::from_raw_os_error(errno) })
            }
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Lost),
        }
    }

    fn command(&self, command: Command) -> Result<()> {
        self.wishes.send(command).map_err(|_| Error::Stopping)
    }
}

impl fmt::Debug for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Primary").finish_non_exhaustive()
    }
}

/// The primary's view of a worker: `cluster.workers[id]`. Clones are the same worker.
#[derive(Clone)]
pub struct WorkerHandle {
    inner: Arc<Inner>,
}

struct Inner {
    id: WorkerId,
    slot: SlotId,
    started: Instant,
    child: Child,
    channel: Sender,
    connected: AtomicBool,
    ear: liveness::Ear,
    exit: watch::Sender<Option<Exit>>,
    exited_after_disconnect: AtomicU8,
    inspector: Option<SocketAddr>,
    asked: AtomicU64,
    metrics: watch::Sender<(u64, Metrics)>,
    stdout: Mutex<Option<Arc<OwnedFd>>>,
    stderr: Mutex<Option<Arc<OwnedFd>>>,
    /// The last lines of both, as far as somebody read them.
    heard: [Arc<output::Heard>; 2],
    wishes: mpsc::WeakUnboundedSender<Command>,
    audience: Fan<Event>,
}

impl Inner {
    /// A next primary lets it go on.
    fn marks_held(&self, held: bool) {
        #[cfg(target_os = "linux")]
        self.channel.mark_held(held);
        #[cfg(not(target_os = "linux"))]
        let _ = held;
    }

    /// It was told to leave or said so; or it is gone without, if that is not known yet.
    fn has_left(&self, asked: bool) {
        let (known, new) = (&self.exited_after_disconnect, if asked { 2 } else { 1 });
        let _ = known.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl WorkerHandle {
    /// Its number: from 1, never used twice.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.inner.id
    }

    /// Its slot: from 0; a replacement has the same.
    #[must_use]
    pub fn slot(&self) -> SlotId {
        self.inner.slot
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.child.pid()
    }

    /// Where its inspector listens ([`Settings::inspect`]).
    #[must_use]
    pub fn inspector(&self) -> Option<SocketAddr> {
        self.inner.inspector
    }

    /// Asks a Node worker for its metrics. It answers from its event loop, so it may take as long as that
    /// is busy; a worker without the preload ([`Program::preload`](crate::Program::preload)) never answers.
    ///
    /// ```no_run
    /// # async fn f(worker: phalanx::WorkerHandle) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// let metrics = tokio::time::timeout(Duration::from_secs(1), worker.metrics()).await??;
    /// println!("{} requests, 99 % within {:?}", metrics.requests, metrics.quantile(0.99));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Its channel is closed, or it ended before it answered.
    pub async fn metrics(&self) -> Result<Metrics> {
        if !self.is_connected() {
            return Err(Error::Disconnected);
        }
        let id = self.inner.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut reports = self.inner.metrics.subscribe();
        self.inner.channel.push(&Frame::Note(Note::Ask { id }));
        tokio::select! {
            report = reports.wait_for(|(answers, _)| *answers >= id) => {
                report.map(|report| report.1.clone()).map_err(|_| Error::Disconnected)
            }
            _ = self.exited() => Err(Error::Disconnected),
        }
    }

    /// Whether its channel is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.connected.load(Ordering::Relaxed)
    }

    /// Whether its process ended.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.inner.exit.borrow().is_some()
    }

    /// Waits for the end of its process, and says how it ended.
    ///
    /// ```no_run
    /// # async fn f(worker: phalanx::WorkerHandle) -> phalanx::Result<()> {
    /// use std::time::Duration;
    /// worker.disconnect();
    /// if tokio::time::timeout(Duration::from_secs(5), worker.exited()).await.is_err() {
    ///     worker.kill(phalanx::Signal::KILL)?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn exited(&self) -> Exit {
        let mut exit = self.inner.exit.subscribe();
        let told = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        told.unwrap_or(Exit::Code(-1))
    }

    /// `Some(true)`: it was told to leave, or said that it leaves. `Some(false)`: its channel or itself ended otherwise.
    /// `None`: neither yet.
    #[must_use]
    pub fn exited_after_disconnect(&self) -> Option<bool> {
        match self.inner.exited_after_disconnect.load(Ordering::Relaxed) {
            0 => None,
            n => Some(n == 2),
        }
    }

    /// Sends a message. Returns when the kernel has it; waits while the worker does not read.
    ///
    /// # Errors
    /// The channel is closed, the message is too long, no JSON, or has a `cmd` that is the channel's.
    pub async fn send<T: Serialize + ?Sized>(&self, message: &T) -> Result<()> {
        message::send(&self.inner.channel, message, None).await
    }

    /// Sends a message with a handle.
    ///
    /// # Errors
    /// As [`WorkerHandle::send`].
    pub async fn send_handle<T: Serialize + ?Sized>(
        &self,
        message: &T,
        handle: Handle,
    ) -> Result<()> {
        message::send(&self.inner.channel, message, Some(handle)).await
    }

    /// Tells it to finish and leave. The guard replaces it at once, if it is guarded.
    pub fn disconnect(&self) {
        if let Some(wishes) = self.inner.wishes.upgrade() {
            let _ = wishes.send(Command::Wish(Wish::Disconnect { worker: self.id() }));
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended, or may not be signalled.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        self.inner.child.signal(signal).map_err(Error::os("cannot signal a worker"))
    }

    /// What happens to this worker from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        let id = self.id();
        let mine = move |event: &Event| event.worker().is_some_and(|worker| worker.id() == id);
        Events { queue: self.inner.audience.join(mine) }
    }

    /// Its standard output, once, if it was started with [`Stdio::Piped`](crate::Stdio::Piped).
    #[must_use]
    pub fn take_stdout(&self) -> Option<WorkerOutput> {
        let pipe = lock(&self.inner.stdout).take()?;
        let [heard, _] = &self.inner.heard;
        WorkerOutput::new(pipe, self.inner.wishes.clone(), Arc::clone(heard)).ok()
    }

    /// Its standard error, as [`WorkerHandle::take_stdout`].
    #[must_use]
    pub fn take_stderr(&self) -> Option<WorkerOutput> {
        let pipe = lock(&self.inner.stderr).take()?;
        let [_, heard] = &self.inner.heard;
        WorkerOutput::new(pipe, self.inner.wishes.clone(), Arc::clone(heard)).ok()
    }
}

impl PartialEq for WorkerHandle {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { id, slot, .. } = &*self.inner;
        write!(f, "Worker {{ id: {id}, slot: {slot}, pid: {} }}", self.pid())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
