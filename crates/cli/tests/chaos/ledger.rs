//! What was killed, and which connections it held then: the only excuse for a client's error.

use bench::load::{Failure, Outcome};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Between the begin of a load and what its clients take for it.
const SLACK: Duration = Duration::from_millis(100);

/// A process that was killed while it was stopped.
pub(crate) struct Loss {
    pub(crate) what: String,
    /// When it was stopped: nothing changes its connections from then on.
    pub(crate) from: Instant,
    /// When it was gone.
    pub(crate) until: Instant,
    /// The clients' ends of its connections.
    pub(crate) held: BTreeSet<SocketAddr>,
    /// A worker, and not a primary, which holds those that it has rescued.
    pub(crate) worker: bool,
}

/// Everything that was killed.
#[derive(Default)]
pub(crate) struct Ledger(Vec<Loss>);

/// What the errors of a load come to.
#[derive(Default)]
pub(crate) struct Account {
    /// Held by a worker that was killed.
    pub(crate) by_workers: usize,
    /// Held by a primary that was killed.
    pub(crate) by_primaries: usize,
    /// Anything else, in words.
    pub(crate) unexplained: Vec<String>,
}

impl Ledger {
    pub(crate) fn add(&mut self, loss: Loss) {
        self.0.push(loss);
    }

    /// How many processes, and how many connections they held.
    pub(crate) fn total(&self) -> (usize, usize) {
        (self.0.len(), self.0.iter().map(|loss| loss.held.len()).sum())
    }

    /// Who had the connection of a failure when it was killed.
    fn holder(&self, begin: Instant, failure: &Failure) -> Option<&Loss> {
        let local = failure.local?;
        let (began, failed) = (begin + failure.began, begin + failure.at);
        let fits = |loss: &&Loss| {
            loss.held.contains(&local) && began <= loss.until + SLACK && failed + SLACK >= loss.from
        };
        // A connection that a primary was handing over may have been a worker's already.
        let mut holders: Vec<&Loss> = self.0.iter().filter(fits).collect();
        holders.sort_by_key(|loss| !loss.worker);
        holders.first().copied()
    }

    /// Accounts for every failure of a load that began then; `zero` is the time that words refer to.
    pub(crate) fn account(&self, begin: Instant, outcome: &Outcome, zero: Instant) -> Account {
        let mut account = Account::default();
        for failure in &outcome.errors {
            match self.holder(begin, failure) {
                Some(loss) if loss.worker => account.by_workers += 1,
                Some(_) => account.by_primaries += 1,
                None => account.unexplained.push(self.describe(begin, failure, zero)),
            }
        }
        account
    }

    /// A failure that nobody explains, with what was killed about then.
    fn describe(&self, begin: Instant, failure: &Failure, zero: Instant) -> String {
        let since = |time: Instant| time.saturating_duration_since(zero).as_secs_f64();
        let (began, failed) = (begin + failure.began, begin + failure.at);
        let mut text = format!("{:.3} s to {:.3} s: {failure}", since(began), since(failed));
        let near = Duration::from_secs(1);
        for loss in &self.0 {
            let held = failure.local.is_some_and(|local| loss.held.contains(&local));
            if held || (loss.from <= failed + near && loss.until + near >= failed) {
                let (from, until) = (since(loss.from), since(loss.until));
                let whose = if held { "had this address" } else { "did not hold it" };
                let _ = write!(text, "\n      {} ({from:.3} s to {until:.3} s) {whose}", loss.what);
            }
        }
        text
    }
}
