//! Workers that are stopped or busy: the others serve.
#![allow(clippy::unwrap_used)]

mod common;

use bench::load::{Load, Phase};
use bench::process;
use bench::spawned::Signal;
use common::{Blocked, Cluster, LONG, accepted, get, node, signal, stop_process, tail};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// How long a worker is stopped.
const STOPPED: Duration = Duration::from_secs(3);
/// Every new connection is answered within that.
const LIMIT: Duration = Duration::from_secs(1);

/// Stops one of four workers under load. Each request has [`LIMIT`] to be answered; returns how many
/// were not whose connections the worker had not accepted either, and the log.
fn stop_one(policy: &str) -> (Vec<String>, String) {
    let cluster = Cluster::demo(4, &["--policy", policy]);
    let slots = cluster.wait_serving(4);
    let load = Load::new(cluster.address).clients(12).think(Duration::from_millis(2));
    let load = load.timeout(LIMIT).start().unwrap();
    cluster.until("load", || (load.progress().answered() > 200).then_some(()));
    let victim = slots[&1];
    stop_process(victim);
    let had: BTreeSet<SocketAddr> = accepted(victim);
    let before = load.progress().answered();
    thread::sleep(STOPPED);
    let meanwhile = load.progress().answered() - before;
    assert_eq!(cluster.workers().len(), 4, "a stopped worker is not replaced");
    let begin = Instant::now();
    signal(victim, Signal::CONT);
    cluster.until("the worker to serve again", || {
        (get(cluster.address, "/", LONG).ok()?.pid == victim).then_some(())
    });
    eprintln!("{policy}: it serves again after {:.1?}", begin.elapsed());
    let outcome = load.stop();
    eprintln!(
        "{policy}: while one of 4 workers was stopped, {meanwhile} answers; it had accepted {}; {outcome}",
        had.len()
    );
    assert!(meanwhile > 500, "hardly anything was answered: {outcome}");
    for phase in [Phase::Connect, Phase::Write, Phase::ReadNothing, Phase::ReadPartial] {
        assert_eq!(outcome.failures(phase), 0, "{outcome}\n{}", tail(&cluster.process.output()));
    }
    let late = outcome.errors.iter().filter(|f| f.local.is_none_or(|local| !had.contains(&local)));
    let late: Vec<String> = late.map(ToString::to_string).collect();
    eprintln!("{policy}: {} more than {LIMIT:?} late", late.len());
    let log = cluster.process.output();
    cluster.stop();
    (late, log)
}

#[test]
fn a_stopped_worker_delays_no_new_connection_in_direct() {
    let (late, log) = stop_one("direct");
    assert!(late.is_empty(), "{late:#?}\n{}", tail(&log));
    assert!(log.contains("accepts nothing on"), "{log}");
    assert!(log.contains("accepts again on"), "{log}");
}

#[test]
fn a_stopped_worker_delays_no_new_connection_in_round_robin() {
    // What was on its way to the worker when it stopped is taken back.
    let (late, log) = stop_one("round-robin");
    assert!(late.is_empty(), "{late:#?}\n{}", tail(&log));
}

#[test]
fn a_busy_worker_delays_nobody_else() {
    for policy in ["direct", "round-robin"] {
        let cluster = Cluster::demo(4, &["--policy", policy]);
        let blocked = Blocked::one(&cluster);
        let load = Load::new(cluster.address).clients(8).think(Duration::from_millis(2));
        let load = load.duration(Duration::from_secs(3)).timeout(LIMIT);
        let outcome = load.start().unwrap().join();
        let busy = blocked.pid;
        assert!(!blocked.is_answered(), "the load was not meanwhile");
        assert_eq!(blocked.answer().unwrap().pid, busy);
        eprintln!("{policy}: beside a busy worker: {outcome}");
        eprintln!("{policy}: worst latency {:.1?}", outcome.slowest_new_connection);
        let log = tail(&cluster.process.output());
        assert_eq!(outcome.failed, 0, "{outcome}\n{log}");
        assert!(!outcome.by_worker.contains_key(&busy.to_string()), "it was busy: {outcome}");
        cluster.wait_serving(4);
        cluster.stop();
    }
}

/// All workers die, and the first one is back before the second: what waits in the second one's slot is handed to it, and not
/// carried by the primary for as long as it is open.
#[test]
fn what_waited_for_dead_workers_is_handed_over() {
    let cluster = Cluster::run(&node("server.js"), 2, &["--policy=direct", "--parallel-starts=1"]);
    for round in 0..3 {
        let workers = cluster.wait_workers(2);
        for pid in &workers {
            signal(*pid, Signal::KILL);
        }
        cluster.until("their end", || {
            (!workers.iter().any(|pid| process::is_alive(*pid))).then_some(())
        });
        let asked: Vec<_> = (0..24)
            .map(|_| {
                thread::spawn({
                    let address = cluster.address;
                    move || get(address, "/", LONG)
                })
            })
            .collect();
        let failed = asked.into_iter().filter_map(|one| one.join().unwrap().err()).count();
        assert_eq!(failed, 0, "round {round}: {}", tail(&cluster.process.output()));
        cluster.wait_serving(2);
    }
    let output = cluster.process.output();
    assert!(!output.contains("are carried"), "{output}");
    cluster.stop();
}
