//! One client: it sends requests, one at a time, and accounts for each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Run;
use super::connection::{Connecting, Connection, Idle};
use super::open::{Queue, stopped};
use super::outcome::{Failure, Outcome, Phase};
use super::response::{Answer, Fault};

/// A client that got no connection pauses that long, so that a refusing server is not a busy loop.
const AFTER_REFUSAL: Duration = Duration::from_millis(1);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// How far one request is, kept outside of its future for the case of a timeout.
struct Attempt {
    local: Option<SocketAddr>,
    number: u32,
    stage: &'static str,
}

/// One client, with the connection that it keeps.
pub(super) struct Client {
    run: Arc<Run>,
    stop: watch::Receiver<bool>,
    connection: Option<Connection>,
    next_source: usize,
    seen: Outcome,
}

impl Client {
    pub(super) fn new(number: usize, run: Arc<Run>, stop: watch::Receiver<bool>) -> Self {
        Self { run, stop, connection: None, next_source: number, seen: Outcome::default() }
    }

    /// A closed loop: each request begins when the last one is answered.
    pub(super) async fn run(mut self) -> Outcome {
        while !*self.stop.borrow() && self.run.admit() {
            let connected = self.one(Instant::now(), self.run.plan.timeout).await;
            let least = if connected { Duration::ZERO } else { AFTER_REFUSAL };
            self.pause(self.run.plan.think.max(least)).await;
        }
        self.seen
    }

    /// An open loop: requests begin when the schedule says, or as soon after it as this client is
    /// free. All time counts from the schedule.
    pub(super) async fn serve(mut self, queue: Arc<Queue>) -> Outcome {
        let timeout = self.run.plan.timeout;
        while let Some(scheduled) = queue.next().await {
            match timeout.checked_sub(scheduled.elapsed()).filter(|left| !left.is_zero()) {
                Some(left) => {
                    self.one(scheduled, left).await;
                }
                None => self.never_begun(scheduled),
            }
        }
        self.seen
    }

    /// One request, of which `begin` is when it should have begun; false when there was nobody to
    /// connect to.
    async fn one(&mut self, begin: Instant, left: Duration) -> bool {
        let mut attempt = Attempt { local: None, number: 1, stage: "looking" };
        let timeout = self.run.plan.timeout;
        let result = tokio::time::timeout(left, self.request(&mut attempt)).await;
        let result = result.unwrap_or_else(|_| {
            let error = format!("no answer within {timeout:.1?}, was {}", attempt.stage);
            Err(Fault { phase: Phase::Timeout, kind: io::ErrorKind::TimedOut, error })
        });
        match result {
            Ok(answer) => {
                if let Err(fault) = self.answered(&answer, begin) {
                    self.failed(fault, &attempt, begin);
                }
                true
            }
            Err(fault) => {
                let connected = fault.phase != Phase::Connect;
                self.failed(fault, &attempt, begin);
                self.connection = None;
                connected
            }
        }
    }

    /// Accounts for a request for which no client was free in all its time.
    fn never_begun(&mut self, scheduled: Instant) {
        let attempt = Attempt { local: None, number: 1, stage: "waiting" };
        let timeout = self.run.plan.timeout;
        let error = format!("could not begin within {timeout:.1?}: every client was busy");
        let fault = Fault { phase: Phase::Timeout, kind: io::ErrorKind::TimedOut, error };
        self.seen.never_begun += 1;
        self.failed(fault, &attempt, scheduled);
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
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = stopped(&mut self.stop) => {}
        }
    }
}
