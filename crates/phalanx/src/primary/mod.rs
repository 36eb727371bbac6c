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
mod handle;
mod health;
#[cfg(target_os = "linux")]
mod intercept;
#[cfg(target_os = "linux")]
mod keeping;
mod leaving;
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
mod status;
mod stop;
mod systemd;
#[cfg(target_os = "linux")]
mod upgrade;
mod usage;
mod version;
mod weigh;
mod why;

use crate::address::Address;
use crate::cluster::cores;
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::fan::Fan;
use crate::keeper;
use crate::permissions;
use crate::policy::{Balance, Policy};
use crate::settings::Settings;
#[cfg(target_os = "linux")]
pub(crate) use estate::check_estate;
pub use evidence::Evidence;
use handle::Inner;
pub use handle::WorkerHandle;
pub use health::{Check, Health, HealthStatus};
pub use output::WorkerOutput;
use phalanx_core::cluster::Event as Wish;
use phalanx_core::ends::Ends;
use phalanx_core::heartbeat::{Rules as Heartbeat, STALL};
use phalanx_core::limits::Limits;
use phalanx_core::scaling::Scaling;
use phalanx_core::spec::{MAX_WORKERS, Spec};
use phalanx_core::wire::DEFAULT_MAX_LINE;
pub(crate) use query::query_for;
pub use status::{Reloaded, Status, WorkerState, WorkerStatus};

use rustix::process::Signal;
#[cfg(target_os = "linux")]
pub(crate) use spawn::{
    inherited_files, lower_descriptor_limit, raise_descriptor_limit, this_program,
};
use std::ffi::OsString;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
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
    /// `round-robin`: connections a worker may have that it did not acknowledge. 0: one, and more as long as it acknowledges
    /// promptly.
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
    /// The signal that ends a worker which cannot be told otherwise, or did not end in its grace time; and whose handler
    /// in a Node worker's program is called first when its drain is over. SIGTERM.
    pub kill_signal: Signal,
    /// Whether a worker on a channel that is to leave gets the message `"shutdown"`: a Node worker with the preload when
    /// its drain is over, instead of a signal; any other when the drain begins.
    pub shutdown_message: bool,
    /// How workers are started is asked again at the beginning of each reload and restart. `None`: it stays as it was set.
    pub renew: Option<Renew>,
}

/// Says how workers are started from now on: [`Options::renew`].
#[derive(Clone)]
pub struct Renew(Arc<dyn Fn() -> Result<Settings> + Send + Sync>);

impl Renew {
    /// It is called on a thread that may wait.
    pub fn new(find: impl Fn() -> Result<Settings> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }
}

impl fmt::Debug for Renew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renew").finish_non_exhaustive()
    }
}

impl Default for Options {
    /// No guarded workers, as many of them starting at a time as there are cores, the policy `direct` where there is one (for the environment's, see
    /// [`Policy::from_env`]), 100 ms of patience, a window of 0.
    fn default() -> Self {
        Self {
            spec: Spec { workers: 0, starts_at_once: cores(), ..Spec::default() },
            settings: Settings::default(),
            policy: Policy::default(),
            balance: Balance::default(),
            patience: phalanx_core::rescue::PATIENCE,
            window: 0,
            waiting: 1024,
            drain_idle: Duration::from_secs(5),
            heartbeat: Some(Heartbeat::default()),
            stall: Some(STALL),
            health: None,
            grace_upgraded: Some(Duration::from_secs(3600)),
            max_message: DEFAULT_MAX_LINE,
            limits: Limits::default(),
            scaling: None,
            kill_signal: Signal::TERM,
            shutdown_message: false,
            renew: None,
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
    renew: Option<Renew>,
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
    BeforeUpgrade(Box<dyn Fn() + Send + Sync>),
    /// A descriptor is not needed any more.
    Settle,
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
        // Up to here nothing was done that anybody could see.
        keeper::end_rehearsal();
        let cgroups = limits::open_cgroups(&options.limits, keeper::parent())?;
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
            renew: options.renew.clone(),
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

    /// Calls this each time right before this process becomes another program ([`Primary::upgrade`], or because its keeper
    /// is gone): what a program has in its memory alone is to be written down, or it is lost. It is called on the primary's
    /// task, and everything waits for it; if the other program cannot be executed, this one goes on.
    pub fn before_upgrade(&self, does: impl Fn() + Send + Sync + 'static) {
        // One that is stopping becomes nothing else.
        let _ = self.command(Command::BeforeUpgrade(Box::new(does)));
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
    /// [`Error::Stopping`]: the cluster stops. What [`Options::renew`] says: nothing has begun then.
    pub async fn reload(&self) -> Result<Reloaded> {
        self.renew("the reload").await?;
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
        self.renew("the restart").await?;
        let (reply, done) = oneshot::channel();
        self.command(Command::Restart(reply))?;
        done.await.map_err(|_| Error::Stopping)?
    }

    /// Asks how the next workers are started. What is the same as before is no change: a rollback may go back to it.
    async fn renew(&self, what: &str) -> Result<()> {
        let Some(Renew(find)) = self.renew.clone() else { return Ok(()) };
        // It may look at files, and ask an interpreter for its version.
        let found = tokio::task::spawn_blocking(move || find()).await;
        match found.map_err(|_| Error::Lost).and_then(|found| found) {
            Ok(settings) => {
                let now = self.settings();
                if format!("{now:?}") != format!("{settings:?}") {
                    let name = |settings: &Settings| spawn::program_of(settings).ok();
                    if let (old, Some(new)) = (name(&now), name(&settings))
                        && old.as_ref() != Some(&new)
                    {
                        tracing::info!("workers are started with {} from now on", new.display());
                    }
                    self.setup(settings);
                }
                Ok(())
            }
            Err(error) => {
                tracing::error!("{what} does not begin, and nothing has changed: {error}");
                Err(error)
            }
        }
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
