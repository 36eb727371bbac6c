//! An HTTP/1.1 load generator whose clients behave like careful real ones and never retry: every
//! request that was begun is either answered or accounted for as a failure.
//!
//! It speaks to loopback addresses only, and every run ends by count or by time.

mod connection;
mod histogram;
mod outcome;
mod response;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

pub use histogram::Histogram;
pub use outcome::{Failure, Outcome, Phase};

use connection::{Connecting, Connection, Idle, SOURCES};
use response::{Answer, Fault};

/// How long a run lasts that has no bound of its own.
const DEFAULT_DURATION: Duration = Duration::from_secs(60);
/// A client that got no connection pauses that long, so that a refusing server is not a busy loop.
const AFTER_REFUSAL: Duration = Duration::from_millis(1);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

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
        let mut set = JoinSet::new();
        for number in 0..clients {
            set.spawn(Client::new(number, Arc::clone(&run), stop.clone()).run());
        }
        let mut outcome = Outcome::default();
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
        let begun = &self.progress.0.begun;
        let limit = self.plan.requests.unwrap_or(u64::MAX);
        begun
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1))
            .is_ok()
    }
}

/// How far one request is, kept outside of its future for the case of a timeout.
struct Attempt {
    local: Option<SocketAddr>,
    number: u32,
    stage: &'static str,
}

/// One closed-loop client.
struct Client {
    run: Arc<Run>,
    stop: watch::Receiver<bool>,
    connection: Option<Connection>,
    next_source: usize,
    seen: Outcome,
}

impl Client {
    fn new(number: usize, run: Arc<Run>, stop: watch::Receiver<bool>) -> Self {
        Self { run, stop, connection: None, next_source: number, seen: Outcome::default() }
    }

    async fn run(mut self) -> Outcome {
        while !*self.stop.borrow() && self.run.admit() {
            let begin = Instant::now();
            let mut attempt = Attempt { local: None, number: 1, stage: "looking" };
            let timeout = self.run.plan.timeout;
            let result = tokio::time::timeout(timeout, self.request(&mut attempt)).await;
            let result = result.unwrap_or_else(|_| {
                let error = format!("no answer within {timeout:.1?}, was {}", attempt.stage);
                Err(Fault { phase: Phase::Timeout, kind: io::ErrorKind::TimedOut, error })
            });
            let mut pause = self.run.plan.think;
            match result {
                Ok(answer) => {
                    if let Err(fault) = self.answered(&answer, begin) {
                        self.failed(fault, &attempt, begin);
                    }
                }
                Err(fault) => {
                    if fault.phase == Phase::Connect {
                        pause = pause.max(AFTER_REFUSAL);
                    }
                    self.failed(fault, &attempt, begin);
                    self.connection = None;
                }
            }
            self.pause(pause).await;
        }
        self.seen
    }

    /// Sends one request on the present connection, or on a new one, and reads the answer.
    async fn request(&mut self, attempt: &mut Attempt) -> Result<Answer, Fault> {
        match self.connection.as_ref().map(|idle| (idle, idle.look())) {
            None | Some((_, Idle::Open)) => {}
            Some((_, Idle::Closed)) => {
                self.seen.stale_reconnects += 1;
                self.connection = None;
            }
            Some((idle, Idle::Unsolicited)) => {
                attempt.local = idle.local;
                attempt.number = idle.requests + 1;
                return Err(Fault::bad("bytes that nobody asked for on an idle connection"));
            }
        }
        if self.connection.is_none() {
            attempt.stage = "connecting";
            let connecting = Connecting::begin(self.run.plan.target, self.source())?;
            attempt.local = connecting.local;
            let finished = connecting.finish().await;
            if !matches!(&finished, Err(fault) if fault.phase == Phase::Connect) {
                self.seen.connections += 1;
            }
            self.connection = Some(finished?);
        }
        let Some(connection) = &mut self.connection else { unreachable!("just made") };
        connection.requests += 1;
        attempt.local = connection.local;
        attempt.number = connection.requests;
        attempt.stage = "writing the request";
        connection.write(&self.run.request).await?;
        attempt.stage = "waiting for the response";
        connection.read().await
    }

    fn source(&mut self) -> Option<u8> {
        let sources = self.run.plan.sources;
        self.next_source = self.next_source.wrapping_add(1);
        let offset = u8::try_from(self.next_source % usize::from(sources)).unwrap_or(0);
        (sources > 1).then_some(offset + 1)
    }

    /// Accounts for a complete response, which may still be a failure by its status.
    fn answered(&mut self, answer: &Answer, begin: Instant) -> Result<(), Fault> {
        let plan = &self.run.plan;
        *self.seen.by_status.entry(answer.status).or_default() += 1;
        if let Some(connection) = &self.connection {
            if connection.requests == 1 && answer.status < 500 {
                let took = connection.begin.elapsed();
                self.seen.slowest_new_connection = self.seen.slowest_new_connection.max(took);
            }
            let used = plan.per_connection.is_some_and(|most| connection.requests >= most);
            let wanted = plan.keep_alive && !used;
            if wanted && !answer.reusable {
                self.seen.announced_closes += 1;
            }
            if !wanted || !answer.reusable {
                self.connection = None;
            }
        }
        if answer.status >= 500 {
            let error = format!("status {} from worker {}", answer.status, answer.worker);
            return Err(Fault::bad(error));
        }
        self.seen.latency.record(begin.elapsed());
        self.seen.answered += 1;
        *self.seen.by_worker.entry(answer.worker.clone()).or_default() += 1;
        self.run.progress.0.answered.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn failed(&mut self, fault: Fault, attempt: &Attempt, begin: Instant) {
        let start = self.run.start;
        let mut error = fault.error;
        if fault.phase == Phase::Timeout
            && self.connection.as_ref().is_some_and(Connection::has_begun)
        {
            error.push_str(", which had begun");
        }
        self.seen.fail(Failure {
            at: start.elapsed(),
            began: begin.saturating_duration_since(start),
            phase: fault.phase,
            local: attempt.local,
            request_on_connection: attempt.number,
            error,
            kind: fault.kind,
        });
        self.run.progress.0.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits, but not beyond the end of the run.
    async fn pause(&mut self, pause: Duration) {
        if pause.is_zero() {
            return;
        }
        let mut until = Instant::now() + pause.min(LONGEST_PAUSE);
        if let Some(deadline) = self.run.deadline {
            until = until.min(deadline);
        }
        let stopped = async {
            if self.stop.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = stopped => {}
        }
    }
}

#[cfg(test)]
mod tests;
