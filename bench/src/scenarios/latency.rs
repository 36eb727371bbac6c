//! Latency at a fixed rate that every candidate can bear.

use super::Context;
use crate::peers::{self, Job, Peer, Serving};
use crate::report::stats::{Ratio, median, number};
use crate::report::{Better, Section};
use bench::load::{Arrivals, Load, Outcome};
use std::time::Duration;

const WORKERS: usize = 2;
/// Of the closed loop that finds the peaks.
const CLIENTS: usize = 16;
/// Connections of the open loop: with keep-alive a pool, otherwise far more than are ever needed.
const POOL: usize = 64;
const IN_FLIGHT: usize = 1_024;
/// The shares of the slowest peer's peak.
const LOADS: [u32; 2] = [50, 80];
const PERCENTILES: [(&str, u32); 3] = [("p50", 500), ("p99", 990), ("p99.9", 999)];

const OURS: &str = "phalanx";
/// The same candidate a second time in each round: how far it is from itself is the noise.
const AGAIN: &str = "phalanx, the same again";

struct Candidate {
    name: &'static str,
    serving: Serving,
}

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    let (peers, missing) = peers(context);
    let mut candidates = Vec::new();
    // All at once: who is not asked costs nothing, and each is warm when its turn comes.
    for (name, peer) in peers {
        context.say(&format!("starting {name}"));
        let serving = peer.start(&context.programs, &Job::new("server.js", WORKERS))?;
        candidates.push(Candidate { name, serving });
    }
    let mut sections = Vec::new();
    for keep_alive in [false, true] {
        let mut section = at_rates(context, &candidates, keep_alive)?;
        missing.iter().for_each(|why| section.note(why));
        sections.push(section);
    }
    Ok(sections)
}

fn peers(context: &Context) -> (Vec<(&'static str, Peer)>, Vec<String>) {
    let mut all = vec![
        peers::phalanx("direct"),
        peers::phalanx("round-robin"),
        peers::cluster("rr"),
        peers::pm2(),
        peers::raw(),
    ];
    if !context.quick {
        all.extend([peers::cluster("none"), peers::nginx()]);
    }
    let (all, missing) = peers::at_hand(all);
    let mut named: Vec<_> = all.into_iter().map(|peer| (peer.name, peer)).collect();
    named.push((AGAIN, peers::phalanx("direct")));
    (named, missing)
}

fn is_ours(name: &str) -> bool {
    name.starts_with(OURS)
}

/// The table of one way to use connections.
fn at_rates(
    context: &Context,
    candidates: &[Candidate],
    keep_alive: bool,
) -> Result<Section, String> {
    let (id, connections) = match keep_alive {
        true => ("latency-keep-alive", "kept-alive connections"),
        false => ("latency-connections", "a connection per request"),
    };
    context.say(&format!("peaks, {connections}"));
    let (slowest, peak) = slowest_peak(context, candidates, keep_alive)?;
    let rates = LOADS.map(|load| (load, peak * f64::from(load) / 100.0));
    let seconds = context.full_or(1.5, 0.5);
    let how = format!(
        "Node, {WORKERS} workers, {connections}. An open loop (Poisson) at {} and {} requests per second: {} and {} % \
         of what the slowest peer ({slowest}) answers at most. {seconds} s each, in turns. Latency counts from \
         the scheduled time.",
        number(rates[0].1),
        number(rates[1].1),
        LOADS[0],
        LOADS[1],
    );
    let mut section = Section::new(id, &format!("Latency, {connections}"), &how);
    for load in LOADS {
        for (name, _) in PERCENTILES {
            section = section.column(&column(name, load), "ms", Better::Less);
        }
    }
    section = section.column("failed", "", Better::Less);
    let mut late = Vec::new();
    for round in 0..context.full_or(3, 1) {
        for (load, rate) in rates {
            for Candidate { name, serving } in candidates {
                context.say(&format!("{connections}, {load} %, {name}"));
                let seed = 100 * round + u64::from(load);
                let outcome = open(serving, rate, seed, seconds, keep_alive)?;
                add(&mut section, name, load, &outcome);
                late.push(milliseconds(outcome.lateness.p99()));
                section.command(name, &serving.command);
            }
        }
    }
    judge(&mut section);
    let fewest = (rates[0].1 * seconds).round();
    if fewest < 2_000.0 {
        let fewest = number(fewest);
        section.note(format!("p99.9 is of few requests: {fewest} in a round at {} %", LOADS[0]));
    }
    section.note(
        "random dispatch does not know which worker the machine lets run now, a primary that hands connections over does: \
         with fewer cores than busy processes the tails of `direct` are those of raw SO_REUSEPORT",
    );
    if let Some(late) = median(&late) {
        let late = number(late);
        section.note(format!(
            "the generator's own share: 99 % of its requests began at most {late} ms late (median)"
        ));
    }
    Ok(section)
}

fn column(percentile: &str, load: u32) -> String {
    format!("{percentile} at {load} %")
}

/// Who of the peers answers least in a closed loop, and how much; the medians of interleaved rounds.
#[expect(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
fn slowest_peak(
    context: &Context,
    candidates: &[Candidate],
    keep_alive: bool,
) -> Result<(&'static str, f64), String> {
    let time = Duration::from_millis(context.full_or(700, 300));
    let mut rates = vec![Vec::new(); candidates.len()];
    // The first round is to warm up.
    for round in 0..4 {
        for (candidate, rates) in candidates.iter().zip(&mut rates) {
            let load = Load::new(candidate.serving.address).clients(CLIENTS);
            let outcome = peers::run(load.keep_alive(keep_alive).duration(time))?;
            if round > 0 {
                rates.push(outcome.rate() as f64);
            }
        }
    }
    let peaks = candidates.iter().zip(&rates).filter(|(candidate, _)| !is_ours(candidate.name));
    let peaks = peaks.filter_map(|(candidate, rates)| Some((candidate.name, median(rates)?)));
    let slowest = peaks.min_by(|one, other| one.1.total_cmp(&other.1));
    slowest.filter(|(_, rate)| *rate >= 1.0).ok_or_else(|| "no peer answers".into())
}

fn open(
    serving: &Serving,
    rate: f64,
    seed: u64,
    seconds: f64,
    keep_alive: bool,
) -> Result<Outcome, String> {
    let load = Load::new(serving.address).open_loop(Arrivals::poisson(rate, seed));
    let load = load.clients(if keep_alive { POOL } else { IN_FLIGHT }).keep_alive(keep_alive);
    peers::run(load.duration(Duration::from_secs_f64(seconds)))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn add(section: &mut Section, name: &str, load: u32, outcome: &Outcome) {
    for (percentile, per_mille) in PERCENTILES {
        let latency = milliseconds(outcome.latency.quantile(per_mille));
        section.add(name, &column(percentile, load), latency);
    }
    section.add(name, "failed", outcome.failed as f64);
}

/// Whether phalanx is above any peer, by more than it is from itself.
fn judge(section: &mut Section) {
    let peers: Vec<String> = section.rows.iter().map(|row| row.name.clone()).collect();
    let peers: Vec<String> = peers.into_iter().filter(|name| !is_ours(name)).collect();
    for load in LOADS {
        for (percentile, _) in PERCENTILES {
            let column = column(percentile, load);
            let noise =
                typical_factor(section.samples(AGAIN, &column), section.samples(OURS, &column));
            let ratios =
                peers.iter().filter_map(|peer| Some((peer, section.ratio(OURS, peer, &column)?)));
            let worst = ratios.max_by(|one, other| one.1.median.total_cmp(&other.1.median));
            let (measured, met) = verdict(worst, noise);
            section.goal_that(&format!("{column}: {OURS} not above any peer"), measured, met);
        }
    }
    section.note(
        "the noise is how far phalanx typically is from itself, measured twice in each round: what is above a peer by \
         less, and by less than a quarter, is not above it",
    );
}

/// With more, nothing can be said of a peer that is nearer.
const MUCH_NOISE: f64 = 1.25;

fn verdict(worst: Option<(&String, Ratio)>, noise: Option<f64>) -> (String, bool) {
    let (Some((peer, ratio)), Some(noise)) = (worst, noise) else {
        return ("not measured".into(), false);
    };
    let met = ratio.median <= noise.min(MUCH_NOISE);
    (format!("at worst {ratio} of {peer}; noise {noise:.2} ×"), met)
}

/// By which factor two measurements of one thing typically differ: the median, at least 1.
fn typical_factor(samples: &[f64], again: &[f64]) -> Option<f64> {
    let factors = samples.iter().zip(again).map(|(one, other)| (one / other).max(other / one));
    median(&factors.filter(|factor| factor.is_finite()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_is_a_factor_in_either_direction() {
        assert_eq!(typical_factor(&[2.0, 1.0, 3.0], &[1.0, 4.0, 3.0]), Some(2.0));
        assert_eq!(typical_factor(&[], &[]), None);
    }

    #[test]
    fn above_a_peer_is_what_is_above_it_by_more_than_the_noise() {
        let mut names = vec![column("p50", 50), column("p99", 50)];
        names
            .extend(LOADS.iter().flat_map(|load| PERCENTILES.map(|(name, _)| column(name, *load))));
        let mut section = Section::new("x", "", "");
        for name in &names[2..] {
            section = section.column(name, "ms", Better::Less);
            section.add(OURS, name, 1.0);
            section.add(AGAIN, name, 1.1);
            section.add("slow", name, 2.0);
            // Faster than phalanx by less than the noise in one column, by more in another.
            let fast = if *name == names[0] { 0.95 } else { 0.8 };
            section.add("fast", name, fast);
        }
        judge(&mut section);
        let met: Vec<bool> = section.goals.iter().map(|goal| goal.met).collect();
        assert_eq!(met, [true, false, false, false, false, false]);
        assert_eq!(
            section.goals[0].measured,
            "at worst 1.05 × (1.05 to 1.05) of fast; noise 1.10 ×"
        );
        assert_eq!(verdict(None, Some(1.0)), ("not measured".into(), false));
    }
}
