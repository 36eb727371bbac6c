//! What a load run saw: every answer and every error, and a summary to read in a failed test.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::histogram::Histogram;

/// So many failures are kept in full; all are counted.
pub(super) const KEPT_FAILURES: usize = 1_000;

/// How far a request came before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// No connection was established (refused, or no local port left).
    Connect,
    /// The connection was established but broke before the request was written completely.
    Write,
    /// The request was written; end of file or a reset came before the first response byte.
    ReadNothing,
    /// End of file or a reset came in the middle of a response.
    ReadPartial,
    /// The response is not HTTP, says more than it announced, or has a status of 500 or above.
    BadResponse,
    /// The request, connecting included, took longer than the timeout.
    Timeout,
}

/// One request that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it failed, since the start of the run.
    pub at: Duration,
    /// When the request began, since the start of the run.
    pub began: Duration,
    /// How far it came.
    pub phase: Phase,
    /// The address of the client's end: the server's table of peers names the same. `None` only
    /// when the kernel gave none.
    pub local: Option<SocketAddr>,
    /// The how-manieth request on its connection this was: 1 is the first.
    pub request_on_connection: u32,
    /// What went wrong, for people.
    pub error: String,
    /// What went wrong, for programs: `UnexpectedEof` for an end of file, `TimedOut` for a
    /// timeout, `InvalidData` for a bad response, otherwise that of the operating system.
    pub kind: io::ErrorKind,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, began, phase, local, request_on_connection, error, kind } = self;
        write!(f, "at {at:.3?} (begun at {began:.3?}) {phase:?}")?;
        if let Some(local) = local {
            write!(f, " from {local}")?;
        }
        write!(f, ", request {request_on_connection} of its connection: {error} [{kind:?}]")
    }
}

/// The result of a load run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests answered completely, with a status below 500.
    pub answered: u64,
    /// Requests that failed. With `answered` these are all that were begun.
    pub failed: u64,
    /// The first 1,000 failures in the order of time.
    pub errors: Vec<Failure>,
    /// All failures counted by phase.
    pub by_phase: BTreeMap<Phase, u64>,
    /// Complete responses counted by status, those of 500 and above included.
    pub by_status: BTreeMap<u16, u64>,
    /// Answers counted by who gave them: the response header `x-worker`, or else the number after
    /// `"pid":` in the body, or else `?`.
    pub by_worker: BTreeMap<String, u64>,
    /// Connections that were established.
    pub connections: u64,
    /// How often an idle kept-alive connection was found closed by the server right before the
    /// next request, and a new one was opened for it. Not an error.
    pub stale_reconnects: u64,
    /// How often a response announced the end of a connection that the client would have kept.
    pub announced_closes: u64,
    /// In an open loop, the failures for which no client became free in time.
    pub never_begun: u64,
    /// From the begin of a request (of connecting, if it is the first of its connection; in an open
    /// loop, from the time it was scheduled for) to its complete answer; failures are not in it.
    pub latency: Histogram,
    /// In an open loop: by how much the generator itself missed the scheduled times, which is part
    /// of each latency. What a request waited for a free client is not in it.
    pub lateness: Histogram,
    /// The longest time from the begin of connecting to the complete first answer.
    pub slowest_new_connection: Duration,
    /// How long the run took.
    pub elapsed: Duration,
}

impl Outcome {
    /// How many failures there were in that phase.
    pub fn failures(&self, phase: Phase) -> u64 {
        self.by_phase.get(&phase).copied().unwrap_or(0)
    }

    /// How many requests were begun: those answered and those failed.
    pub fn requests(&self) -> u64 {
        self.answered + self.failed
    }

    /// Answers per second over the whole run.
    pub fn rate(&self) -> u64 {
        let per_second = u128::from(self.answered) * 1_000_000 / self.elapsed.as_micros().max(1);
        u64::try_from(per_second).unwrap_or(u64::MAX)
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        *self.by_phase.entry(failure.phase).or_default() += 1;
        if self.errors.len() < KEPT_FAILURES {
            self.errors.push(failure);
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.errors.extend(other.errors);
        for (phase, count) in other.by_phase {
            *self.by_phase.entry(phase).or_default() += count;
        }
        for (status, count) in other.by_status {
            *self.by_status.entry(status).or_default() += count;
        }
        for (worker, count) in other.by_worker {
            *self.by_worker.entry(worker).or_default() += count;
        }
        self.connections += other.connections;
        self.stale_reconnects += other.stale_reconnects;
        self.announced_closes += other.announced_closes;
        self.never_begun += other.never_begun;
        self.latency.merge(&other.latency);
        self.lateness.merge(&other.lateness);
        self.slowest_new_connection = self.slowest_new_connection.max(other.slowest_new_connection);
    }

    /// To be called when all clients are merged.
    pub(super) fn finish(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
        self.errors.sort_by_key(|failure| failure.at);
        self.errors.truncate(KEPT_FAILURES);
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const EXAMPLES: usize = 8;
        write!(f, "{} answered, {} failed", self.answered, self.failed)?;
        let mut separator = " (";
        for (phase, count) in &self.by_phase {
            write!(f, "{separator}{phase:?} {count}")?;
            separator = ", ";
        }
        if !self.by_phase.is_empty() {
            write!(f, ")")?;
        }
        writeln!(
            f,
            " in {:.3?}, {} per second; {} connections, {} stale reconnects, {} announced closes",
            self.elapsed,
            self.rate(),
            self.connections,
            self.stale_reconnects,
            self.announced_closes
        )?;
        let slowest = self.slowest_new_connection;
        writeln!(f, "latency: {}; slowest new connection {slowest:.1?}", self.latency)?;
        write!(f, "by worker: {:?}; by status: {:?}", self.by_worker, self.by_status)?;
        for failure in self.errors.iter().take(EXAMPLES) {
            write!(f, "\n  {failure}")?;
        }
        let more = self.failed.saturating_sub(EXAMPLES as u64);
        if more > 0 {
            write!(f, "\n  and {more} more")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(millis: u64, phase: Phase) -> Failure {
        Failure {
            at: Duration::from_millis(millis),
            began: Duration::ZERO,
            phase,
            local: Some(SocketAddr::from(([127, 0, 0, 1], 4_000))),
            request_on_connection: 2,
            error: "broken".to_owned(),
            kind: io::ErrorKind::ConnectionReset,
        }
    }

    #[test]
    fn the_first_thousand_failures_are_kept_in_order_and_all_are_counted() {
        let mut all = Outcome::default();
        for client in 0..2 {
            let mut one = Outcome::default();
            (0..900).for_each(|n| one.fail(failure(n * 2 + client, Phase::ReadNothing)));
            one.fail(failure(9_999, Phase::Timeout));
            all.merge(one);
        }
        all.finish(Duration::from_secs(1));
        assert_eq!((all.failed, all.errors.len()), (1_802, 1_000));
        assert_eq!((all.failures(Phase::ReadNothing), all.failures(Phase::Timeout)), (1_800, 2));
        assert!((0..).zip(&all.errors).all(|(n, one)| one.at == Duration::from_millis(n)));
        let text = all.to_string();
        assert!(text.starts_with("0 answered, 1802 failed (ReadNothing 1800, Timeout 2)"));
        assert!(
            text.contains("from 127.0.0.1:4000, request 2 of its connection: broken"),
            "{text}"
        );
        assert!(text.ends_with("and 1794 more"), "{text}");
    }
}
