//! Who binds: threads, children, grandchildren, programs that are executed later.

use crate::common::{Cluster, LONG, phalanx, signal, spawn};
use crate::hostile::{
    Unprivileged, alone, pair, program, same_as_alone, serves_as_alone, start, status, transcript,
};
use bench::process;
use bench::spawned::Signal;

#[test]
fn a_thread_binds() {
    let steps =
        ["socket=tcp4+nonblock", "bind-in-thread=127.0.0.1", "flags", "name", "listen=9", "serve"];
    serves_as_alone(&steps, &["bind-in-thread=127.0.0.1: ok"]).stop();
}

#[test]
fn children_that_accept() {
    let steps = ["socket=tcp4", "bind=127.0.0.1", "listen=9", "fork=2", "name", "serve"];
    let cluster = same_as_alone_with_children(&steps);
    let mut pids = std::collections::BTreeSet::new();
    cluster.until("all four children to answer", || {
        pids.extend(crate::common::get(cluster.address, "/", LONG).ok().map(|answer| answer.pid));
        (pids.len() == 4).then_some(())
    });
    cluster.stop();
}

#[test]
fn children_that_bind_each() {
    let steps =
        ["fork=2", "socket=tcp4", "set=reuseport:1", "bind=127.0.0.1", "name", "listen=9", "serve"];
    let cluster = same_as_alone_with_children(&steps);
    cluster.wait_serving(2);
    cluster.stop();
}

/// Each child says what a child says alone.
fn same_as_alone_with_children(steps: &[&str]) -> Cluster {
    let address = pair();
    let expected = alone(address.port(), steps);
    let cluster = start(address, &["-i", "2"], steps);
    let last = steps.last().expect("steps");
    for slot in 0..2 {
        for child in 0..2 {
            let got = transcript(&cluster.process, &format!("{slot}.{child}"), last);
            assert_eq!(got, expected, "child {child} in slot {slot}\n{}", cluster.process.output());
        }
    }
    cluster
}

#[test]
fn a_vforked_child_binds() {
    // The socket is the child's: in the parent it is what it was before, and so it is alone.
    let steps = ["socket=tcp4", "vfork=127.0.0.1", "socket=tcp4", "bind=127.0.0.1/+", "park"];
    let cluster = same_as_alone(pair(), &[], &steps);
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn executed_after_the_bind() {
    let steps = ["socket=tcp4", "bind=127.0.0.1", "exec", "name", "listen=9", "serve"];
    let (address, tags) = (pair(), ["0", "1"]);
    let cluster = start(address, &["-i", "2"], &steps);
    cluster.wait_serving(2);
    for tag in tags {
        let name = format!("name: 127.0.0.1 {}", address.port());
        let said = transcript(&cluster.process, tag, "serve");
        assert!(said.contains(&name), "{said:?}");
    }
    cluster.stop();
}

#[test]
fn a_grandchild_binds() {
    let address = pair();
    // The shell stays: it is the worker, and what it started serves.
    let script = format!(
        "trap 'kill $!; exit 0' TERM; {} {} socket=tcp4 bind=127.0.0.1 listen=9 serve & wait",
        program(),
        address.port()
    );
    let args = ["run", "-i", "2", "--", "/bin/sh", "-c", &script];
    let cluster = Cluster { process: spawn(&mut phalanx(args)), address };
    let serving = cluster.wait_serving(2);
    assert!(!cluster.workers().contains(&serving[&0]), "it is to be a grandchild");
    cluster.reload(1);
    let after = cluster.wait_answers("successors", |slots| {
        slots.len() == 2 && slots.values().all(|pid| !serving.values().any(|old| old == pid))
    });
    cluster.until(&format!("the grandchildren to end: {serving:?}, now {after:?}"), || {
        serving.values().all(|pid| !process::is_alive(*pid)).then_some(())
    });
    cluster.stop();
}

#[test]
fn a_shell_that_does_not_pass_signals_on_leaves_nobody() {
    let address = pair();
    let script =
        format!("{} {} socket=tcp4 bind=127.0.0.1 listen=9 serve; true", program(), address.port());
    let args = ["run", "-i", "2", "--grace", "2s", "--", "/bin/sh", "-c", &script];
    let cluster = Cluster { process: spawn(&mut phalanx(args)), address };
    let serving = cluster.wait_serving(2);
    // A worker's end is the end of its group: its grandchildren do not go on beside the successor's.
    let worker = process::stat(serving[&0]).expect("it runs").parent;
    signal(worker, Signal::KILL);
    cluster.until("the grandchild to be gone", || (!process::is_alive(serving[&0])).then_some(()));
    cluster
        .wait_answers("a successor", |slots| slots.get(&0).is_some_and(|pid| *pid != serving[&0]));
    cluster.stop();
}

#[test]
fn no_new_privs_is_set_only_where_it_is_needed() {
    let address = pair();
    let port = address.port().to_string();
    let steps = ["socket=tcp4", "bind=127.0.0.1", "listen=9", "serve"];
    let root = status(std::process::id(), "Uid").starts_with("0\t");
    if root {
        let cluster = start(address, &["-i", "2"], &steps);
        for pid in cluster.wait_serving(2).values() {
            assert_eq!(status(*pid, "NoNewPrivs"), "0", "root needs it not");
            assert_eq!(status(*pid, "Seccomp"), "2", "there is a filter");
        }
        cluster.stop();
    }
    let somebody = Unprivileged::new();
    let mut command = somebody.phalanx();
    command.args(["run", "-i", "2", "--", &somebody.program, &port]).args(steps);
    let cluster = Cluster { process: spawn(&mut command), address };
    for pid in cluster.wait_serving(2).values() {
        assert_eq!(status(*pid, "NoNewPrivs"), "1", "another user needs it");
        assert_eq!(status(*pid, "Seccomp"), "2", "there is a filter");
    }
    let before = cluster.wait_serving(2);
    cluster.reload(1);
    cluster.wait_answers("successors", |slots| {
        slots.len() == 2 && slots.values().all(|pid| !before.values().any(|old| old == pid))
    });
    cluster.stop();
}
