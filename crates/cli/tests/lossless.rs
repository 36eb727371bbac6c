//! No request is lost: crashes and reloads under load.
#![allow(clippy::unwrap_used)]

mod common;

use bench::load::{Load, Outcome, Phase};
use bench::spawned::Signal;
use common::{
    Cluster, LONG, accepted, kept, one_per_request, reload_under, signal, slot_of, stop_process,
    tail,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// The time between a kill and the next.
const KILL_EVERY: Duration = Duration::from_millis(200);
/// How long workers are killed.
const KILLING: Duration = Duration::from_secs(20);

/// A small generator of numbers; the seed is printed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        eprintln!("seed {nanos}");
        Self(u64::from(nanos) | 1)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

/// A worker that was killed: between which times, and the connections that it had.
struct Kill {
    from: Duration,
    until: Duration,
    had: BTreeSet<SocketAddr>,
}

/// Kills a random worker again and again under a load of one connection per request. A slot is
/// killed `per_slot` times at most. Returns the kills and what the clients saw.
fn kill_under_load(cluster: &Cluster, per_slot: usize) -> (Vec<Kill>, Outcome) {
    let mut random = Random::new();
    let start = Instant::now();
    // The pause leaves the machine some room: this is about losses, not about speed.
    let load = Load::new(cluster.address).clients(12).think(Duration::from_millis(4));
    let load = load.duration(KILLING + LONG).start().unwrap();
    let mut kills = Vec::new();
    let mut by_slot: BTreeMap<u32, usize> = BTreeMap::new();
    while start.elapsed() < KILLING {
        let next = start.elapsed() + KILL_EVERY;
        let workers: Vec<(u32, u32)> = cluster
            .workers()
            .into_iter()
            .filter_map(|pid| Some((pid, slot_of(pid)?)))
            .filter(|(_, slot)| by_slot.get(slot).is_none_or(|kills| *kills < per_slot))
            .collect();
        if !workers.is_empty() {
            let (pid, slot) = workers[random.below(workers.len())];
            *by_slot.entry(slot).or_default() += 1;
            let from = start.elapsed();
            stop_process(pid);
            let had = accepted(pid);
            signal(pid, Signal::KILL);
            kills.push(Kill { from, until: start.elapsed(), had });
        }
        thread::sleep(next.saturating_sub(start.elapsed()));
    }
    let outcome = load.stop();
    (kills, outcome)
}

/// Only what a killed worker had accepted may have failed.
fn assert_only_accepted_failed(kills: &[Kill], outcome: &Outcome, cluster: &Cluster) {
    let had: usize = kills.iter().map(|kill| kill.had.len()).sum();
    eprintln!("{} kills, which had accepted {had} connections: {outcome}", kills.len());
    let log = || tail(&cluster.process.output());
    assert_eq!(outcome.failures(Phase::Connect), 0, "{outcome}\n{}", log());
    // The clocks of the load and of the test differ by the time it took to start.
    let slack = Duration::from_millis(100);
    for failure in &outcome.errors {
        let explained = kills.iter().any(|kill| {
            failure.local.is_some_and(|local| kill.had.contains(&local))
                && failure.began <= kill.until + slack
                && failure.at + slack >= kill.from
        });
        assert!(explained, "no killed worker had it: {failure}\n{outcome}\n{}", log());
    }
    assert_eq!(outcome.errors.len() as u64, outcome.failed, "all failures were looked at");
    assert!(outcome.answered > 1_000, "{outcome}");
}

#[test]
fn a_killed_worker_takes_only_what_it_had_accepted() {
    // So many that no slot crashes six times in a row: that is a crash loop, and waits for 30 s.
    let cluster = Cluster::demo(24, &[]);
    let (kills, outcome) = kill_under_load(&cluster, 5);
    assert_only_accepted_failed(&kills, &outcome, &cluster);
    assert!(kills.len() >= 75, "only {} kills: the machine is too slow", kills.len());
    cluster.wait_serving(24);
    cluster.stop();
}

#[test]
fn four_workers_bear_a_kill_every_200_ms() {
    let cluster = Cluster::demo(4, &[]);
    let (kills, outcome) = kill_under_load(&cluster, usize::MAX);
    assert_only_accepted_failed(&kills, &outcome, &cluster);
    cluster.stop();
}

#[test]
fn reloads_lose_no_connection() {
    for policy in ["direct", "round-robin"] {
        let cluster = Cluster::demo(4, &["--policy", policy]);
        reload_under(&cluster, vec![(policy, one_per_request(&cluster))]);
        cluster.stop();
    }
}

#[test]
fn reloads_lose_no_request_on_kept_connections() {
    for policy in ["direct", "round-robin"] {
        let cluster = Cluster::demo(4, &["--policy", policy]);
        reload_under(&cluster, kept(&cluster));
        cluster.stop();
    }
}
