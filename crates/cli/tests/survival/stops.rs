//! A stop under load, and what workers have started.

use crate::adopted::{obedient, start_child};
use crate::common::signal;
use crate::kept::Kept;
use bench::load::Phase;
use bench::process;
use bench::spawned::Signal;
use std::io;

/// Who had connected is answered; who connects afterwards is not let in. A connection that was idle may end.
fn cuts_nobody(what: &str, cluster: &Kept) {
    let load = cluster.one_per_request();
    cluster.wait_load([&load]);
    let progress = load.progress().clone();
    signal(cluster.keeper(), Signal::TERM);
    cluster.wait_end(0);
    let answered = progress.answered();
    let outcome = load.stop();
    eprintln!("{what}: {outcome}");
    assert!(answered > 0);
    for failure in &outcome.errors {
        let refused = failure.phase == Phase::Connect || failure.kind == io::ErrorKind::TimedOut;
        assert!(refused, "{what}: {failure}\n{}", cluster.process.output());
    }
    cluster.assert_nothing_left();
}

#[test]
fn a_stop_resets_no_connection() {
    for _ in 0..3 {
        for policy in ["direct", "round-robin"] {
            cuts_nobody(&format!("node, {policy}"), &Kept::node(2, &["--policy", policy]));
            cuts_nobody(&format!("crate, {policy}"), &Kept::demo(2, &["--policy", policy]));
        }
    }
    cuts_nobody("python", &Kept::python(2, &["--drain-idle", "100ms"]));
}

#[test]
fn what_workers_started_goes_with_them() {
    let stubborn = "trap '' TERM HUP INT; while :; do sleep 1000; done";
    let sleeps = "sleep 1000";
    for adopted in [false, true] {
        let cluster = obedient(1, &[], &[]);
        if adopted {
            cluster.kill_primary();
        }
        let start = |script| start_child(cluster.address, &["/bin/sh", "-c", script]);
        let children = [stubborn, sleeps].map(|script| start(script).expect("a child").1);
        assert!(children.iter().all(|pid| process::is_alive(*pid)), "{children:?}");
        // The worker crashes: it cannot end them itself.
        let worker = cluster.wait_workers(1)[0].1;
        let mark = cluster.process.mark();
        signal(worker, Signal::KILL);
        cluster.line(mark, "SIGKILL");
        cluster.until(&format!("the end of what it started (adopted: {adopted})"), || {
            (!children.iter().any(|pid| process::is_alive(*pid))).then_some(())
        });
        cluster.assert_settled(1);
        cluster.stop();
    }
}

#[test]
fn what_workers_started_goes_with_a_stop() {
    for adopted in [false, true] {
        let cluster = obedient(2, &[], &[]);
        let words = ["/bin/sh", "-c", "trap '' TERM; sleep 1000; sleep 1000"];
        assert!(start_child(cluster.address, &words).is_some());
        if adopted {
            cluster.kill_primary();
        }
        cluster.stop();
    }
}
