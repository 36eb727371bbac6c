//! What was killed, and which connections it held then: the only excuse for a client's error.

use bench::load::{Failure, Outcome};
use std::cell::Cell;
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
    /// Of the connections, those that the primary carried: the worker knows them by the primary's address.
    pub(crate) carried: Carried,
}

/// Connections that a worker has by way of the primary.
#[derive(Default)]
pub(crate) struct Carried {
    /// How many; less those that errors were accounted for by.
    pub(crate) count: Cell<usize>,
    /// The clients' ends of all that the primary had: they are among these.
    pub(crate) among: BTreeSet<SocketAddr>,
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
        let in_time = |loss: &Loss| began <= loss.until + SLACK && failed + SLACK >= loss.from;
        let fits = |loss: &&Loss| loss.held.contains(&local) && in_time(loss);
        // A connection that a primary was handing over may have been a worker's already.
        let mut holders: Vec<&Loss> = self.0.iter().filter(fits).collect();
        holders.sort_by_key(|loss| !loss.worker);
        if let Some(holder) = holders.first() {
            return Some(holder);
        }
        let carrier = self.0.iter().find(|loss| {
            loss.carried.count.get() > 0 && loss.carried.among.contains(&local) && in_time(loss)
        })?;
        carrier.carried.count.update(|count| count - 1);
        Some(carrier)
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

/// The account is no excuse for everything.
#[test]
fn only_what_was_held_at_the_time_is_explained() {
    let (zero, held) = (Instant::now(), SocketAddr::from(([127, 0, 0, 1], 4_000)));
    let at = |seconds| zero + Duration::from_secs(seconds);
    let mut ledger = Ledger::default();
    for (worker, from) in [(true, 10), (false, 30)] {
        let (from, until) = (at(from), at(from + 1));
        ledger.add(Loss {
            what: "killed".into(),
            from,
            until,
            held: [held].into(),
            worker,
            carried: Carried::default(),
        });
    }
    let failure = |began, failed, port| Failure {
        at: Duration::from_secs(failed),
        began: Duration::from_secs(began),
        phase: bench::load::Phase::ReadNothing,
        local: Some(SocketAddr::new(held.ip(), port)),
        request_on_connection: 1,
        error: "broken".to_owned(),
        kind: std::io::ErrorKind::ConnectionReset,
    };
    // Held by the worker, by the primary; over before, begun between, begun later, held by nobody.
    let cases = [
        (9, 11, 4_000),
        (29, 31, 4_000),
        (7, 8, 4_000),
        (15, 20, 4_000),
        (40, 41, 4_000),
        (9, 11, 4_001),
    ];
    let mut outcome = Outcome::default();
    outcome.errors.extend(cases.map(|(began, failed, port)| failure(began, failed, port)));
    let account = ledger.account(zero, &outcome, zero);
    assert_eq!((account.by_workers, account.by_primaries), (1, 1), "{:?}", account.unexplained);
    assert_eq!(account.unexplained.len(), 4, "{:?}", account.unexplained);
    assert!(account.unexplained[3].contains("did not hold it"), "{:?}", account.unexplained);
}
