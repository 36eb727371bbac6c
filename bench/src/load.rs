//! An HTTP/1.1 load generator whose clients behave like careful real ones and never retry: every
//! request that was begun is either answered or accounted for as a failure.
//!
//! A closed loop ([`Load::clients`]) sends the next request when the last one is answered, so a
//! server that stalls is asked less: good for rates, wrong for latencies. An open loop
//! ([`Load::open_loop`]) sends them by a schedule.
//!
//! It speaks to loopback addresses only, and every run ends by count or by time.

mod client;
mod connection;
mod histogram;
mod open;
mod outcome;
mod response;
mod timer;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

pub use histogram::Histogram;
pub use open::Arrivals;
pub use outcome::{Failure, Outcome, Phase};

use client::Client;
use connection::SOURCES;

/// How long a run lasts that has no bound of its own.
const DEFAULT_DURATION: Duration = Duration::from_secs(60);

/// A load to put on one server: a builder, then [`run`](Self::run) or [`start`](Self::start).
#[derive(Debug)]
pub struct Load {
    plan: Plan,
    clients: usize,
    stop: Option<watch::Receiver<bool>>,
    progress: Progress,
}

#[derive(Clone, Debug)]
struct Plan {
    target: SocketAddr,
    keep_alive: bool,
    per_connection: Option<u32>,
    think: Duration,
    requests: Option<u64>,
    duration: Option<Duration>,
    timeout: Duration,
    path: String,
    sources: u8,
    arrivals: Option<Arrivals>,
}

/// A view of a load while it runs.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    begun: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Progress {
    /// How many requests have been answered so far.
    pub fn answered(&self) -> u64 {
        self.0.answered.load(Ordering::Relaxed)
    }

    /// How many requests have failed so far.
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }
}

impl Load {
    /// A load on the server at that address: 8 clients, one connection per request, path `/`.
    ///
    /// # Panics
    ///
    /// When the address is not a loopback address or has port 0.
    pub fn new(target: SocketAddr) -> Self {
        assert!(target.ip().to_canonical().is_loopback(), "{target} is not a loopback address");
        assert!(target.port() != 0, "{target} has no port");
        let plan = Plan {
            target,
            keep_alive: false,
            per_connection: None,
            think: Duration::ZERO,
            requests: None,
            duration: None,
            timeout: Duration::from_secs(10),
            path: "/".to_owned(),
            sources: 1,
            arrivals: None,
        };
        Self { plan, clients: 8, stop: None, progress: Progress::default() }
    }

    /// How many clients send requests at the same time, each the next after the answer to the
    /// last. At least 1.
    #[must_use]
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients.max(1);
        self
    }

    /// Requests begin by a schedule, whatever becomes of those before, and latency counts from the
    /// *scheduled* time, so a stall of the server is felt by every request that falls into it. This
    /// corrects for what Gil Tene named coordinated omission, in the way of his wrk2.
    ///
    /// [`clients`](Self::clients) is then how many requests may be in flight: with keep-alive the
    /// pool of connections. When all are busy, a request waits, and the wait counts; one that could
    /// not begin within the [`timeout`](Self::timeout) fails without having begun
    /// ([`Outcome::never_begun`]). The [think](Self::think) time is not used.
    #[must_use]
    pub fn open_loop(mut self, arrivals: Arrivals) -> Self {
        self.plan.arrivals = Some(arrivals);
        self
    }

    /// Whether a client sends more than one request on a connection. Without it (the default)
    /// each request says `Connection: close`.
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: bool) -> Self {
        self.plan.keep_alive = keep_alive;
        self
    }

    /// With keep-alive, the client closes each connection after that many answers, without
    /// announcing it.
    #[must_use]
    pub fn requests_per_connection(mut self, requests: Option<u32>) -> Self {
        self.plan.per_connection = requests;
        self
    }

    /// How long each client pauses after each request.
    #[must_use]
    pub fn think(mut self, think: Duration) -> Self {
        self.plan.think = think;
        self
    }

    /// Ends the run after that many requests of all clients together, failed ones included.
    #[must_use]
    pub fn requests(mut self, requests: u64) -> Self {
        self.plan.requests = Some(requests);
        self
    }

    /// Ends the run after that time: no request is begun any more, those begun are finished. A run
    /// with neither a count nor a time ends after 60 seconds.
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.plan.duration = Some(duration);
        self
    }

    /// How long a request may take, connecting included, before it fails. 10 seconds by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.plan.timeout = timeout;
        self
    }

    /// The path (with query) to request.
    ///
    /// # Panics
    ///
    /// When it does not begin with a slash or has blanks or control characters.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        let clean = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(clean, "not a path: {path:?}");
        path.clone_into(&mut self.plan.path);
        self
    }

    /// From how many addresses, 127.0.0.1 up to 127.0.0.8, the clients connect in turn if the
    /// target is in 127.0.0.0/8. With 1 (the default) the kernel chooses the address, and the
    /// others are used only when no local port is left.
    #[must_use]
    pub fn sources(mut self, sources: u8) -> Self {
        self.plan.sources = sources.clamp(1, SOURCES);
        self
    }

    /// The run also ends when this holds `true`: no request is begun any more, those begun are
    /// finished. A sender that is dropped does not end it.
    #[must_use]
    pub fn stop(mut self, stop: watch::Receiver<bool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// A view of the run, to be taken before it begins.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Runs the load inside the caller's tokio runtime, which needs I/O and time enabled. When the
    /// future is dropped, the clients end.
    pub async fn run(self) -> Outcome {
        let Self { plan, clients, stop, progress } = self;
        let start = Instant::now();
        let bound = match (plan.requests, plan.duration) {
            (None, None) => Some(DEFAULT_DURATION),
            (_, duration) => duration,
        };
        let stop = stop.unwrap_or_else(|| watch::channel(false).1);
        let host = plan.target;
        let close = if plan.keep_alive { "" } else { "Connection: close\r\n" };
        let path = &plan.path;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: phalanx-bench\r\n{close}\r\n"
        );
        let run = Arc::new(Run {
            deadline: bound.and_then(|bound| start.checked_add(bound)),
            request: request.into_bytes(),
            plan,
            start,
            progress,
        });
        let mut outcome = Outcome::default();
        let mut set = JoinSet::new();
        let client = |number| Client::new(number, Arc::clone(&run), stop.clone());
        if let Some(arrivals) = &run.plan.arrivals {
            let queue = Arc::new(open::Queue::default());
            for number in 0..clients {
                set.spawn(client(number).serve(Arc::clone(&queue)));
            }
            outcome.lateness = open::dispatch(&run, arrivals, &queue, stop.clone()).await;
        } else {
            for number in 0..clients {
                set.spawn(client(number).run());
            }
        }
        for one in set.join_all().await {
            outcome.merge(one);
        }
        outcome.finish(start.elapsed());
        outcome
    }

    /// Runs the load in a thread and a runtime of its own, for callers that are not asynchronous
    /// or do something else meanwhile. A receiver given to [`stop`](Self::stop) is not used.
    ///
    /// # Errors
    ///
    /// When the runtime or the thread cannot be made.
    pub fn start(mut self) -> io::Result<Running> {
        let (sender, receiver) = watch::channel(false);
        self.stop = Some(receiver);
        let progress = self.progress();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = move || runtime.block_on(self.run());
        let thread = thread::Builder::new().name("load".to_owned()).spawn(body)?;
        Ok(Running { progress, sender, thread: Some(thread) })
    }
}

/// A load that runs in a thread of its own. Dropping it tells the load to stop.
#[derive(Debug)]
pub struct Running {
    progress: Progress,
    sender: watch::Sender<bool>,
    thread: Option<thread::JoinHandle<Outcome>>,
}

impl Running {
    /// How far it is: to wait until the load is really on.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Waits for the run to end by its own bounds.
    ///
    /// # Panics
    ///
    /// When the load itself panicked.
    pub fn join(mut self) -> Outcome {
        let outcome = self.thread.take().and_then(|thread| thread.join().ok());
        outcome.expect("the load generator panicked")
    }

    /// Begins no more requests, and waits for those begun.
    ///
    /// # Panics
    ///
    /// When the load itself panicked.
    pub fn stop(self) -> Outcome {
        self.sender.send_replace(true);
        self.join()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.sender.send_replace(true);
    }
}

/// What all clients of one run share.
struct Run {
    plan: Plan,
    request: Vec<u8>,
    start: Instant,
    deadline: Option<Instant>,
    progress: Progress,
}

impl Run {
    /// Whether one more request may be begun; counts it if so.
    fn admit(&self) -> bool {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return false;
        }
        self.count()
    }

    /// Counts one more request, unless there are as many as there may be.
    fn count(&self) -> bool {
        let begun = &self.progress.0.begun;
        let limit = self.plan.requests.unwrap_or(u64::MAX);
        begun
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1))
            .is_ok()
    }
}

#[cfg(test)]
mod tests;
