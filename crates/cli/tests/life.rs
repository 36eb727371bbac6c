//! A cluster's life: start, replacement, reload, stop, the primary's death.
#![allow(clippy::unwrap_used)]

mod common;

use bench::spawned::Signal;
use bench::{process, wait};
use common::{Blocked, Cluster, LONG, POLICIES, exchange, get, phalanx, signal, spawn, v6};
use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

#[test]
fn every_worker_answers_on_one_port() {
    let cluster = Cluster::demo(4, &[]);
    let slots = cluster.wait_serving(4);
    assert_eq!(slots.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
    let pids: BTreeSet<u32> = slots.values().copied().collect();
    assert_eq!(pids, cluster.workers().into_iter().collect());
    cluster.stop();
}

#[test]
fn one_worker_is_enough_and_each_policy_serves() {
    for policy in POLICIES {
        for workers in [1, 3] {
            let cluster = Cluster::demo(workers, &["--policy", policy]);
            assert!(cluster.workers().contains(&get(cluster.address, "/", LONG).unwrap().pid));
            cluster.stop();
        }
    }
}

#[test]
fn ipv6_serves() {
    let cluster = Cluster::demo_on(v6(), 2, &[]);
    assert_eq!(cluster.wait_serving(2).len(), 2);
    cluster.stop();
}

#[test]
fn run_starts_a_program_on_the_crate() {
    let address = common::v4();
    let listen = address.to_string();
    let process = spawn(&mut phalanx([
        "run",
        common::PHALANX,
        "-i",
        "3",
        "--name",
        "shop",
        "--listen",
        &listen,
        "--",
        "demo",
        "--listen",
        &listen,
    ]));
    let cluster = Cluster { process, address };
    let slots = cluster.wait_serving(3);
    assert_eq!(slots.len(), 3);
    assert!(cluster.process.output().contains("shop"), "{}", cluster.process.output());
    cluster.stop();
}

#[test]
fn a_killed_worker_is_replaced_in_its_slot() {
    for policy in ["direct", "round-robin"] {
        let cluster = Cluster::demo(4, &["--policy", policy]);
        let before = cluster.wait_serving(4);
        let mark = cluster.process.mark();
        signal(before[&2], Signal::KILL);
        let after = cluster
            .wait_answers("the replacement", |slots| slots.len() == 4 && slots[&2] != before[&2]);
        for slot in [0, 1, 3] {
            assert_eq!(before[&slot], after[&slot], "slot {slot} was not to change");
        }
        let line = cluster.line(mark, "SIGKILL");
        assert!(line.contains("worker 3 in slot 2"), "{line}");
        cluster.stop();
    }
}

#[test]
fn a_reload_replaces_every_worker() {
    for policy in POLICIES {
        let cluster = Cluster::demo(3, &["--policy", policy]);
        for (number, name) in [(1, Signal::USR2), (2, Signal::HUP)] {
            let before: BTreeSet<u32> = cluster.workers().into_iter().collect();
            let mark = cluster.process.mark();
            cluster.process.signal(name).unwrap();
            let line = cluster.line(mark, &format!("reload {number} is done"));
            assert!(line.contains("3 workers replaced"), "{line}");
            cluster.until("the old workers to leave", || {
                let now: BTreeSet<u32> = cluster.workers().into_iter().collect();
                (now.len() == 3 && now.is_disjoint(&before)).then_some(())
            });
            assert!(!before.contains(&get(cluster.address, "/", LONG).unwrap().pid));
        }
        cluster.stop();
    }
}

#[test]
fn term_and_int_stop_with_code_0() {
    for name in [Signal::TERM, Signal::INT] {
        let cluster = Cluster::demo(2, &[]);
        cluster.process.signal(name).unwrap();
        assert_eq!(cluster.wait_gone(LONG), 0);
        let log = cluster.process.output();
        assert!(log.contains("draining") && log.contains("stopped"), "{log}");
    }
}

#[test]
fn ctrl_c_in_a_terminal_stops_with_code_0() {
    // The terminal signals the whole foreground group.
    let cluster = Cluster::demo(2, &[]);
    cluster.process.signal_group(Signal::INT).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn a_request_in_progress_is_finished_before_the_stop() {
    let cluster = Cluster::demo(2, &[]);
    let blocked = Blocked::one(&cluster);
    let pid = blocked.pid;
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(blocked.answer().unwrap().pid, pid);
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn told_twice_or_by_quit_it_stops_at_once() {
    for signals in
        [&[Signal::TERM, Signal::TERM][..], &[Signal::INT, Signal::TERM], &[Signal::QUIT]]
    {
        let cluster = Cluster::demo(2, &[]);
        let blocked = Blocked::one(&cluster);
        let begin = Instant::now();
        let first = cluster.process.mark();
        cluster.process.signal(signals[0]).unwrap();
        cluster.line(first, "SIG");
        if let Some(again) = signals.get(1) {
            // Two at one moment are one.
            cluster.until("the second to count", || {
                // It may have ended in the meantime.
                let _ = cluster.process.signal(*again);
                cluster.process.output().contains("again: stopping at once").then_some(())
            });
        }
        assert_eq!(cluster.wait_gone(LONG), 0);
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(3), "it waited {took:?} for a worker that is busy");
        blocked.answer().expect_err("its worker was killed");
    }
}

#[test]
fn workers_do_not_outlive_a_killed_primary() {
    let cluster = Cluster::demo(3, &[]);
    let blocked = Blocked::one(&cluster);
    let busy = blocked.pid;
    let workers = cluster.workers();
    cluster.process.signal(Signal::KILL).unwrap();
    cluster.until("the idle workers to leave", || {
        workers.iter().all(|pid| *pid == busy || !process::is_alive(*pid)).then_some(())
    });
    assert_eq!(blocked.answer().unwrap().pid, busy, "what was in progress is finished");
    wait::until(LONG, "the busy worker to leave", || {
        cluster.process.record().is_empty().then_some(())
    })
    .unwrap();
    cluster.assert_nothing_left();
}

#[test]
fn a_unix_socket_serves_and_its_file_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("demo.sock");
    let listen = format!("unix:{}", path.display());
    let ask = || exchange(UnixStream::connect(&path).ok()?, "/").ok();
    let start = || spawn(&mut phalanx(["demo", "--listen", &listen, "-i", "2"]));
    let all_answer = || {
        let mut pids = BTreeSet::new();
        wait::until(LONG, "both workers on the unix socket", || {
            pids.extend(ask().map(|answer| answer.pid));
            (pids.len() == 2).then_some(())
        })
        .unwrap();
    };
    let process = start();
    all_answer();
    // The file of a primary that was killed is in nobody's way.
    process.signal(Signal::KILL).unwrap();
    wait::until(LONG, "its workers to leave", || process.record().is_empty().then_some(()))
        .unwrap();
    assert!(path.exists(), "nobody could remove it");
    let process = start();
    all_answer();
    process.signal(Signal::TERM).unwrap();
    assert_eq!(process.wait_exit(LONG).unwrap().code(), Some(0));
    assert!(!path.exists(), "the socket's file is left over");
    assert!(process.record().is_empty());
}

/// A new version is put in the program's place, as `mv` and `cargo build` do it; then it is taken away.
#[test]
fn a_replaced_program_is_what_a_reload_starts() {
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("program");
    let next = place.path().join("next");
    std::fs::copy(common::PHALANX, &program).unwrap();
    let address = common::v4();
    let listen = address.to_string();
    let command =
        common::clean(program.to_str().unwrap(), ["demo", "-i", "2", "--listen", &listen]);
    let cluster = Cluster { process: spawn(&mut { command }), address };
    cluster.wait_serving(2);
    std::fs::copy(common::PHALANX, &next).unwrap();
    std::fs::rename(&next, &program).unwrap();
    cluster.reload(1);
    for worker in cluster.wait_workers(2) {
        let runs = std::fs::read_link(format!("/proc/{worker}/exe")).unwrap();
        assert_eq!(runs, program, "the new file");
    }
    std::fs::remove_file(&program).unwrap();
    let before = cluster.workers();
    signal(before[0], Signal::KILL);
    cluster.until("a replacement all the same", || {
        let now = cluster.workers();
        (now.len() == 2 && !now.contains(&before[0])).then_some(())
    });
    cluster.wait_serving(2);
    cluster.stop();
}
