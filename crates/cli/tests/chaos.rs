//! Chaos: random kills, stops, crashes at start, slow starts, leaks, reloads, scalings, upgrades, and kills of primary and
//! keeper, under load. Every client error has to be accounted for, and at the end all is as it is wanted, or gone.
//!
//! `PHALANX_CHAOS_SECONDS` says for how long, `PHALANX_SEED` what is done: `just chaos 180 4711`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "chaos/deeds.rs"]
mod deeds;
#[path = "chaos/ledger.rs"]
mod ledger;
#[path = "chaos/site.rs"]
mod site;
#[path = "tool/support.rs"]
mod support;

use bench::load::{Load, Running};
use bench::{process, wait};
use common::LONG;
use deeds::Chaos;
use site::{NAME, Site, Target, WORKERS};
use std::fmt::Write as _;
use std::time::{Duration, Instant};
use support::finish;

/// So that all of it takes less than a minute.
const SECONDS: u64 = 40;
/// Most workers that are ever wanted: there are slots for so many from then on.
const MOST: &str = "6";
/// Longer than a worker is stopped, and than any start takes.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Until everything is as it is wanted, when nothing is done any more.
const SETTLED: Duration = Duration::from_secs(60);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name} is {text:?}: {error}")))
}

/// A load, and when it began.
struct Client {
    name: &'static str,
    begin: Instant,
    load: Running,
}

fn clients(site: &Site, time: Duration) -> Vec<Client> {
    let client = |name, clients, think, kept| {
        let load = Load::new(site.tool.address).clients(clients).keep_alive(kept);
        let load = load.requests_per_connection(kept.then_some(50)).timeout(TIMEOUT);
        let load = load.think(Duration::from_millis(think)).duration(time + 10 * LONG);
        let begin = Instant::now();
        Client { name, begin, load: load.start().expect("the load starts") }
    };
    vec![
        client("a connection for each request", 6, 4, false),
        client("busy kept connections", 4, 3, true),
        client("idle kept connections", 4, 300, true),
    ]
}

/// Waits until as many workers serve as are wanted, and nobody else is there.
fn settle(chaos: &Chaos<'_>, site: &Site, count: usize) -> (Target, Target) {
    let mut last = String::new();
    let settled = wait::until(SETTLED, "the wanted state", || {
        let about = site.about();
        let workers = about["workers"].as_array().map_or(0, Vec::len);
        let quiet = about["waiting"].as_array().is_some_and(Vec::is_empty);
        let serving = about["ready"] == count && about["wanted"] == count && workers == count;
        let over = about["reload"]["state"] != "running";
        last = format!("{about:#}");
        let pair = site.serving_pair()?;
        let alone = site.processes().len() == count + 2 && site.workers().len() == count;
        (quiet && serving && over && alone).then_some(pair)
    });
    settled.unwrap_or_else(|error| chaos.fail(&format!("{error}: {count} workers\n{last}")))
}

/// Scales there by command.
fn scale(site: &Site, count: &str) {
    finish(site.client(&["scale", NAME, count])).expect(0, &[]);
}

/// Descriptors of primary and keeper.
fn descriptors((primary, keeper): (Target, Target)) -> [Vec<String>; 2] {
    [primary, keeper].map(Target::descriptors)
}

/// Stops the loads, and accounts for each of their errors.
fn account(chaos: &Chaos<'_>, loads: Vec<Client>) {
    let (mut by_workers, mut by_primaries, mut wrong) = (0, 0, String::new());
    for Client { name, begin, load } in loads {
        let outcome = load.stop();
        eprintln!("{name}: {} answered, {} failed", outcome.answered, outcome.failed);
        let account = chaos.ledger.account(begin, &outcome, chaos.zero);
        by_workers += account.by_workers;
        by_primaries += account.by_primaries;
        for failure in account.unexplained {
            let _ = write!(wrong, "\n  {name}: {failure}");
        }
        if outcome.errors.len() as u64 != outcome.failed || outcome.answered < 50 {
            let _ = write!(wrong, "\n  {name}: {outcome}");
        }
    }
    let (kills, held) = chaos.ledger.total();
    eprintln!(
        "{} deeds; {kills} processes ended with {held} connections: {by_workers} errors by workers, {by_primaries} by primaries",
        chaos.history.len()
    );
    if !wrong.is_empty() {
        chaos.fail(&format!("errors that nobody accounts for:{wrong}"));
    }
}

/// Nothing piled up in primary and keeper.
fn compare_descriptors(chaos: &Chaos<'_>, before: &[Vec<String>; 2], pair: (Target, Target)) {
    let mut last = [const { Vec::new() }; 2];
    let same = wait::until(LONG, "as many descriptors as before", || {
        last = descriptors(pair);
        last.iter().zip(before).all(|(now, before)| now.len() <= before.len()).then_some(())
    });
    let counts = [before, &last].map(|all| all.each_ref().map(Vec::len));
    eprintln!("descriptors of primary and keeper: {counts:?}");
    if let Err(error) = same {
        chaos.fail(&format!("{error}: {counts:?}: {before:?}, then {last:?}"));
    }
    let dead = |who: Target| {
        process::children(who.pid).into_iter().filter(|pid| process::state(*pid) == Some('Z'))
    };
    let reaped = wait::until(LONG, "the end of zombies", || {
        (dead(pair.0).count() + dead(pair.1).count() == 0).then_some(())
    });
    reaped.unwrap_or_else(|error| chaos.fail(&error));
}

#[test]
fn whatever_happens() {
    let seed = number("PHALANX_SEED").unwrap_or_else(|| {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        u64::from(since.subsec_micros())
    });
    let time = Duration::from_secs(number("PHALANX_CHAOS_SECONDS").unwrap_or(SECONDS));
    eprintln!("seed {seed}; to do the same again: just chaos {} {seed}", time.as_secs());

    let site = Site::start();
    let mut chaos = Chaos::new(&site, seed);
    // Slots stay.
    scale(&site, MOST);
    scale(&site, &WORKERS.to_string());
    let before = descriptors(settle(&chaos, &site, WORKERS));

    let loads = clients(&site, time);
    chaos.rage(time);
    chaos.calm();
    scale(&site, &WORKERS.to_string());
    let pair = settle(&chaos, &site, WORKERS);
    chaos.note("settled");
    let marks: Vec<u64> = loads.iter().map(|one| one.load.progress().answered()).collect();
    wait::until(LONG, "every load to go on", || {
        let on =
            loads.iter().zip(&marks).all(|(one, mark)| one.load.progress().answered() > mark + 5);
        on.then_some(())
    })
    .unwrap_or_else(|error| chaos.fail(&error));
    account(&chaos, loads);
    compare_descriptors(&chaos, &before, pair);

    chaos.primaries.extend([pair.0.pid, pair.1.pid]);
    let log = site.log(40);
    let done = finish(site.client(&["delete", NAME]));
    if done.code != Some(0) || done.stderr.contains("killed") || done.stderr.contains("was left") {
        chaos.fail(&format!("delete: {done:?}\n{log}"));
    }
    let left = site.leftovers(&chaos.primaries);
    assert!(left.is_empty(), "seed {seed}: {}\n{log}", left.join("\n"));
}
