//! The short way: “run this async server on N workers, guarded”.

use crate::address::Address;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::policy::{Balance, Policy};
use crate::primary::{Health, Options, Primary, Renew};
use crate::settings::Settings;
use crate::worker::{Worker, is_worker, keep_identity_private};
use phalanx_core::heartbeat::Rules as Heartbeat;
use phalanx_core::limits::Limits;
use phalanx_core::restart::Restart;
use phalanx_core::scaling::Scaling;
use phalanx_core::spec::{MAX_WORKERS, ReadyWhen, ReloadRules};
use rustix::process::Signal;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a worker without a primary may take to finish.
const ORPHAN_GRACE: Duration = Duration::from_secs(30);

/// How long what runs beside the guard may take to finish when the cluster has stopped.
const LAST_WORDS: Duration = Duration::from_secs(1);

type InPrimary = Box<dyn FnOnce(Primary) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A guarded cluster of this very program.
///
/// The program runs as primary and starts itself again as each worker; the environment tells which it is.
///
/// ```no_run
/// use phalanx::Cluster;
/// fn main() -> phalanx::Result<()> {
///     Cluster::new().workers(4).run(|worker| async move {
///         let mut listener = worker.listen("127.0.0.1:8000").await?;
///         while let Some((stream, client)) = listener.accept().await {
///             drop((stream, client));
///         }
///         // An `async` block needs to be told its error's type; a function would say it.
///         Ok::<(), phalanx::Error>(())
///     })
/// }
/// ```
#[must_use = "a cluster does nothing until it is run"]
pub struct Cluster {
    options: Options,
    workers: Option<usize>,
    policy: Option<Policy>,
    threads: usize,
    listen: Vec<Address>,
    in_primary: Vec<InPrimary>,
    keeper: bool,
    listed: Option<String>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// One worker per core, each on one thread.
    pub fn new() -> Self {
        Self {
            options: Options::default(),
            workers: None,
            policy: None,
            threads: 1,
            listen: Vec::new(),
            in_primary: Vec::new(),
            keeper: false,
            listed: None,
        }
    }

    /// So many workers.
    pub const fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// The scheduling policy of ports that do not choose their own; else the environment's
    /// ([`Policy::from_env`]).
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Who gets which connection, within the policy.
    pub fn balance(mut self, balance: Balance) -> Self {
        self.options.balance = balance;
        self
    }

    /// How workers are started.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.options.settings = settings;
        self
    }

    /// Opens a port before any worker runs: an address that cannot be had ends the program at once.
    pub fn listen(mut self, address: Address) -> Self {
        self.listen.push(address);
        self
    }

    /// How long a worker may take to finish before it is killed; `None`: as long as it likes. 30 s.
    pub const fn grace(mut self, grace: Option<Duration>) -> Self {
        self.options.spec.grace = grace;
        self
    }

    /// How long a worker may take to be ready before it is killed; `None`: as long as it likes. 60 s.
    pub const fn start_timeout(mut self, limit: Option<Duration>) -> Self {
        self.options.spec.start_timeout = limit;
        self
    }

    /// When a worker counts as ready; [`ReadyWhen::Online`] is for workers that never listen.
    pub const fn ready(mut self, ready: ReadyWhen) -> Self {
        self.options.spec.ready = ready;
        self
    }

    /// What follows a crash, and which ends are followed by nothing.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.options.spec.restart = restart;
        self
    }

    /// How long a worker may take from SIGTERM to its end, when its grace is over, until it is killed. 2 s; nothing: it
    /// is killed without SIGTERM.
    pub const fn kill_after(mut self, time: Duration) -> Self {
        self.options.spec.kill_after = time;
        self
    }

    /// How many workers may be starting at the same time; 0: any number. As many as there are cores.
    pub const fn parallel_starts(mut self, most: usize) -> Self {
        self.options.spec.starts_at_once = most;
        self
    }

    /// How long a new worker takes to get its full part of the new connections (`direct` only); `None`: at once, the
    /// default.
    pub const fn slow_start(mut self, time: Option<Duration>) -> Self {
        self.options.spec.slow_start = time;
        self
    }

    /// How a rolling reload goes: one slot at a time, each new worker at its word, unless this says otherwise.
    ///
    /// ```no_run
    /// use phalanx::{Canary, Cluster, ReloadRules, Share};
    /// use std::time::Duration;
    /// let canary = Canary { slots: 1, time: Duration::from_secs(60), share: Some(5) };
    /// let cluster = Cluster::new().reload_rules(ReloadRules {
    ///     at_once: Share::Percent(25),
    ///     healthy_for: Duration::from_secs(5),
    ///     rollback: true,
    ///     canary: Some(canary),
    /// });
    /// ```
    pub fn reload_rules(mut self, rules: ReloadRules) -> Self {
        self.options.spec.reload = rules;
        self
    }

    /// What a worker may have before it is replaced or killed. No limits.
    ///
    /// ```
    /// use phalanx::{Cluster, Limits};
    /// let cluster = Cluster::new().limits(Limits { memory: Some(150 << 20), ..Limits::default() });
    /// ```
    pub fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = limits;
        self
    }

    /// The number of workers follows the load, by these rules. It begins with that of [`Cluster::workers`], or the
    /// least.
    ///
    /// ```
    /// use phalanx::{Cluster, Scaling};
    /// let cluster = Cluster::new().scaling(Scaling { min: 2, max: 8, ..Scaling::default() });
    /// ```
    pub fn scaling(mut self, scaling: Scaling) -> Self {
        self.options.scaling = Some(scaling);
        self
    }

    /// How long a queue may stand still before its connections are handed to other workers. 100 ms.
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.options.patience = patience;
        self
    }

    /// How long a connection must have been idle, so that a worker that knows nothing of its primary may be ended.
    /// 5 s.
    pub const fn drain_idle(mut self, idle: Duration) -> Self {
        self.options.drain_idle = idle;
        self
    }

    /// When a worker that answers nothing is ended and replaced; `None`: never. After three intervals of 10 s.
    pub const fn heartbeat(mut self, rules: Option<Heartbeat>) -> Self {
        self.options.heartbeat = rules;
        self
    }

    /// How long a worker without a channel may stand still while connections wait for it, before it is ended and
    /// replaced; `None`: for ever. 30 s.
    pub const fn stall(mut self, limit: Option<Duration>) -> Self {
        self.options.stall = limit;
        self
    }

    /// What workers are checked with; one that fails is ended and replaced.
    ///
    /// ```no_run
    /// # use phalanx::{Check, Cluster, Health};
    /// # fn main() -> phalanx::Result<()> {
    /// let cluster = Cluster::new().health(Some(Health::new(Check::http("/healthz")?)));
    /// # drop(cluster); Ok(()) }
    /// ```
    pub fn health(mut self, health: Option<Health>) -> Self {
        self.options.health = health;
        self
    }

    /// How long a worker that was told to leave may go on as long as it has upgraded connections (WebSocket); `None`: as
    /// long as it likes. 1 h.
    pub const fn grace_upgraded(mut self, grace: Option<Duration>) -> Self {
        self.options.grace_upgraded = grace;
        self
    }

    /// The signal that ends a worker which cannot be told otherwise, or did not end in its grace time; see
    /// [`Options::kill_signal`](crate::Options::kill_signal). SIGTERM.
    pub const fn kill_signal(mut self, signal: Signal) -> Self {
        self.options.kill_signal = signal;
        self
    }

    /// Whether a worker on a channel that is to leave gets the message `"shutdown"`; see
    /// [`Options::shutdown_message`](crate::Options::shutdown_message).
    pub const fn shutdown_message(mut self, send: bool) -> Self {
        self.options.shutdown_message = send;
        self
    }

    /// Asks at the beginning of each reload and restart how workers are started from then on: their program may be found
    /// elsewhere by then. After an error nothing begins, and what runs goes on.
    ///
    /// ```no_run
    /// # fn main() -> phalanx::Result<()> {
    /// use phalanx::{Cluster, Program};
    /// let find = || Program::new("server.js").settings();
    /// Cluster::new().settings(find()?).renew(find).run_as_primary()
    /// # }
    /// ```
    pub fn renew(mut self, find: impl Fn() -> Result<Settings> + Send + Sync + 'static) -> Self {
        self.options.renew = Some(Renew::new(find));
        self
    }

    /// `round-robin`: how many connections a worker may have that it did not acknowledge. 0: one, and more as long as it
    /// acknowledges promptly.
    pub const fn window(mut self, window: u32) -> Self {
        self.options.window = window;
        self
    }

    /// Survives the death of its primary: this process becomes a *keeper*, a small one that starts the primary, holds what
    /// it has, and starts another if it is killed. Workers and their clients do not notice. No threads may have been
    /// started before; a program that has to do something before calls [`keep`](crate::keep) first. Linux.
    pub const fn keeper(mut self, keeper: bool) -> Self {
        self.keeper = keeper;
        self
    }

    /// Makes it an application that the program `phalanx` knows by this name, as long as it runs: `phalanx list`, `describe`,
    /// `reload`, `scale`, `stop` and the others are about it too. It has a control socket for the same user and root; see
    /// [`control`](crate::control).
    ///
    /// ```no_run
    /// # async fn serve(_: phalanx::Worker) -> phalanx::Result<()> { Ok(()) }
    /// fn main() -> phalanx::Result<()> {
    ///     phalanx::Cluster::new().listed("shop").run(serve)
    /// }
    /// ```
    pub fn listed(mut self, name: impl Into<String>) -> Self {
        self.listed = Some(name.into());
        self
    }

    /// Threads of each worker's tokio runtime. 1.
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Does something in the primary, beside guarding: watch events, answer messages, scale. It should come
    /// to its end when the cluster has stopped, as [`Events::next`](crate::Events::next) does; a
    /// second later it is dropped.
    pub fn primary<F, Fut>(mut self, program: F) -> Self
    where
        F: FnOnce(Primary) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.in_primary.push(Box::new(|primary| Box::pin(program(primary))));
        self
    }

    /// Runs it: in the primary until the cluster has stopped, in a worker until `program` is done or the
    /// worker was told to leave and its connections are closed.
    ///
    /// The primary obeys signals ([`Primary::obey_signals`]). A worker whose `program` returns an error
    /// prints it and exits with code 1.
    ///
    /// # Errors
    /// An impossible worker count, an address of [`Cluster::listen`] that cannot be had, a name of [`Cluster::listed`]
    /// that is taken, or no worker became ready.
    pub fn run<F, Fut, E>(self, program: F) -> Result<()>
    where
        F: FnOnce(Worker) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: fmt::Display,
    {
        if is_worker() {
            return run_worker(self.threads, program);
        }
        self.run_as_primary()
    }

    /// Runs the primary of another program's workers: [`Settings::exec`] says which. The environment does not
    /// matter; a primary may itself be somebody's worker.
    ///
    /// # Errors
    /// As [`Cluster::run`].
    pub fn run_as_primary(self) -> Result<()> {
        crate::keeper::begin(self.keeper)?;
        runtime(1)?.block_on(self.run_primary())
    }

    async fn run_primary(mut self) -> Result<()> {
        let scaling = self.options.scaling.as_ref();
        let workers = match (self.workers, scaling) {
            (Some(workers), _) => workers,
            (None, Some(scaling)) => scaling.min,
            (None, None) => cores(),
        };
        if workers == 0 || workers > MAX_WORKERS {
            return Err(Error::WorkerCount(workers));
        }
        if let Some(Scaling { min, max, .. }) = scaling
            && min <= max
            && !(*min..=*max).contains(&workers)
        {
            return Err(Error::Setting(format!(
                "{workers} workers to begin with, but at least {min} and at most {max} by the rules of scaling"
            )));
        }
        self.options.policy = match self.policy {
            Some(policy) => policy,
            None => Policy::from_env()?,
        };
        // One that is only asked whether it could take over has a place already.
        let listed = self.listed.filter(|_| !crate::keeper::rehearses());
        let control = listed.map(|name| Control::of_this_program(&name)).transpose()?;
        let policy = self.options.policy;
        // The ports first: no worker is started for an address that cannot be had.
        self.options.spec.workers = 0;
        let primary = Primary::start_waiting(self.options)?;
        let mut programs = JoinSet::new();
        for program in self.in_primary {
            programs.spawn(program(primary.clone()));
        }
        if let Some(control) = control {
            programs.spawn(control.serve(primary.clone(), policy));
        }
        // They subscribe to events before there are any.
        tokio::task::yield_now().await;
        // Heard before anything else happens: what came while this process was another program waits.
        let signals = primary.hear_signals()?;
        let taken_over = primary.begin().await?;
        for address in self.listen {
            primary.open(address, None).await?;
        }
        if !taken_over {
            primary.begin_with(workers)?;
        }
        primary.obey(signals).await;
        let end = primary.finished().await;
        // Whoever collects something gets the last of it.
        let _ = tokio::time::timeout(LAST_WORDS, programs.join_all()).await;
        end
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("options", &self.options).finish_non_exhaustive()
    }
}

/// How many workers `max` is: the cores this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_WORKERS)
}

fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        n => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(n);
            builder
        }
    };
    builder.enable_all().build().map_err(Error::os("cannot make a tokio runtime"))
}

fn run_worker<F, Fut, E>(threads: usize, program: F) -> Result<()>
where
    F: FnOnce(Worker) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: fmt::Display,
{
    keep_identity_private();
    let done = runtime(threads)?.block_on(async {
        let worker = Worker::connect()?;
        worker.obey_signals()?;
        let done = tokio::select! {
            biased;
            done = program(worker.clone()) => done.map_err(|error| error.to_string()),
            () = worker.drained() => Ok(()),
        };
        // What it fed was not lost if it had been sent. A channel that is closed is no error of its own.
        let _ = tokio::time::timeout(LAST_WORDS, worker.flush()).await;
        Ok::<_, Error>(done)
    })?;
    if let Err(error) = done {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{error}");
        // Not through `main`: the error is the program's, and said.
        std::process::exit(1);
    }
    Ok(())
}

impl Worker {
    /// Waits until a program that does not know of draining may end: it was told to leave, and every
    /// connection of its listeners is closed. A program that asked ([`Worker::draining`],
    /// [`Listener::accept`](crate::Listener::accept)) ends by itself. When the primary is gone, nobody
    /// would kill a worker that does not end: then at most 30 seconds.
    async fn drained(&self) {
        self.told_to_leave().await;
        let empty = async {
            self.connections_closed().await;
            if self.knows_of_draining() {
                std::future::pending::<()>().await;
            }
        };
        let orphaned = async {
            self.disconnected().await;
            tokio::time::sleep(ORPHAN_GRACE).await;
        };
        tokio::select! {
            () = empty => {}
            () = orphaned => {}
        }
    }
}
