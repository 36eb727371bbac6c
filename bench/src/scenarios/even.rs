//! How evenly connections are spread over workers.

use super::Context;
use crate::peers::{self, Job, Peer};
use crate::report::{Better, Bound, Section};
use bench::load::{Load, Outcome};

const CLIENTS: usize = 16;
/// Workers, and what random steering spreads by itself over `FULL` connections.
const GOALS: [(usize, f64); 2] = [(4, 1.05), (16, 1.10)];
const FULL: u64 = 40_000;
const QUICK: u64 = 10_000;
/// By how many connections a worker may be ahead of another in round-robin, as long as both answer:
/// that is what exact means where they take different times.
const LEAD: f64 = 8.0;

const RATIO: &str = "max / min";
const DIFFERENCE: &str = "max − min";

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    GOALS.iter().map(|(workers, bound)| spread(context, *workers, *bound)).collect()
}

fn spread(context: &Context, workers: usize, bound: f64) -> Result<Section, String> {
    let requests = context.full_or(FULL, QUICK);
    let id = format!("even-{workers}");
    let title = format!("Evenness, {workers} workers");
    let how = format!(
        "{requests} connections of {CLIENTS} clients, one request each: those of the worker with the most and of \
         the one with the least. The Rust application; Node's under node:cluster."
    );
    let mut section = Section::new(&id, &title, &how).column(RATIO, "", Better::Less).column(
        DIFFERENCE,
        "",
        Better::Less,
    );
    let (candidates, missing) = peers::at_hand(candidates());
    missing.iter().for_each(|why| section.note(why));
    for peer in &candidates {
        context.say(&format!("{workers} workers, {}", peer.name));
        let serving = peer.start(&context.programs, &Job::new("server.js", workers))?;
        let outcome = peers::run(Load::new(serving.address).clients(CLIENTS).requests(requests))?;
        let (most, least) = extremes(&outcome, workers);
        section.add(peer.name, RATIO, most / least.max(1.0));
        section.add(peer.name, DIFFERENCE, most - least);
        section.command(peer.name, &serving.command);
        if outcome.failed > 0 {
            section.note(format!("{}: {} connections failed", peer.name, outcome.failed));
        }
    }
    section.goal(RATIO, "phalanx", Bound::AtMost(widened(bound, requests)));
    section.goal(DIFFERENCE, "phalanx, round-robin", Bound::AtMost(LEAD));
    section.note(
        "round-robin waits for a worker for 5 ms at most; one that the machine keeps from running for longer catches \
         up by 64 connections at most, and is behind for good by the rest",
    );
    if requests < FULL {
        section.note("fewer connections than in a full run: chance alone spreads them wider, and so is the goal");
    }
    Ok(section)
}

fn candidates() -> [Peer; 5] {
    [
        peers::own("direct"),
        peers::own("round-robin"),
        peers::own_raw(),
        peers::cluster("rr"),
        peers::cluster("none"),
    ]
}

/// The bound for fewer connections: what chance does shrinks with the square root of their number.
#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn widened(bound: f64, requests: u64) -> f64 {
    let wider = 1.0 + (bound - 1.0) * (FULL as f64 / requests as f64).sqrt();
    (wider * 100.0).round() / 100.0
}

/// The most and the fewest connections that a worker got; one that got none is not in the outcome.
#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn extremes(outcome: &Outcome, workers: usize) -> (f64, f64) {
    let counts = &outcome.by_worker;
    let most = counts.values().max().copied().unwrap_or(0);
    let least = if counts.len() < workers { None } else { counts.values().min().copied() };
    (most as f64, least.unwrap_or(0) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_got_nothing_is_the_least() {
        let mut outcome = Outcome::default();
        assert_eq!(extremes(&outcome, 2), (0.0, 0.0));
        outcome.by_worker.extend([("1".into(), 30), ("2".into(), 20)]);
        assert_eq!(extremes(&outcome, 2), (30.0, 20.0));
        assert_eq!(extremes(&outcome, 3), (30.0, 0.0));
    }

    #[test]
    fn chance_spreads_a_quarter_of_the_connections_twice_as_wide() {
        assert_eq!(widened(1.05, FULL).to_string(), "1.05");
        assert_eq!(widened(1.05, QUICK).to_string(), "1.1");
        assert_eq!(widened(1.10, QUICK).to_string(), "1.2");
    }
}
