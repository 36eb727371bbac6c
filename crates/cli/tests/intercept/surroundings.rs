//! Where programs run: with fewer rights, under other filters, in namespaces, past the C library.

use crate::common::{Cluster, LONG, PHALANX, get, phalanx, spawn};
use crate::hostile::{
    Unprivileged, pair, program, said, serves_as_alone, start, status, transcript,
};
use bench::spawned::Signal;
use std::net::TcpListener;

/// A port that only root may have, which is free.
fn privileged() -> Option<u16> {
    let lowest = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let lowest: u16 = lowest.trim().parse().unwrap();
    (1..lowest.min(1024)).rev().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
}

#[test]
fn a_program_without_the_right_gains_none() {
    let root = status(std::process::id(), "Uid").starts_with("0\t");
    let Some(port) = privileged().filter(|_| root) else {
        // Nobody here could give the right away: the kernel refuses the primary as it does the program.
        let steps = [
            "socket=tcp4",
            "bind=127.0.0.1/1",
            "socket=tcp4",
            "bind=127.0.0.1",
            "listen=9",
            "serve",
        ];
        serves_as_alone(&steps, &[]).stop();
        return;
    };
    let wanted = format!("bind=127.0.0.1/{port}");
    let steps =
        ["uid=65534", "socket=tcp4", &wanted, "socket=tcp4", "bind=127.0.0.1", "listen=9", "serve"];
    serves_as_alone(&steps, &[&format!("{wanted}: EACCES")]).stop();
    // Root's own programs may; and one that has given the right up still has what it bound before.
    let steps = [
        "socket=tcp4",
        &wanted,
        "uid=65534",
        "listen=9",
        "socket=tcp4",
        "bind=127.0.0.1",
        "listen=9",
        "serve",
    ];
    serves_as_alone(&steps, &[&format!("{wanted}: ok")]).stop();
}

#[test]
fn a_program_that_gives_up_root_binds_what_all_may() {
    let steps = [
        "uid=65534",
        "socket=tcp4+nonblock",
        "bind=127.0.0.1",
        "flags",
        "name",
        "listen=9",
        "serve",
    ];
    serves_as_alone(&steps, &["bind=127.0.0.1: ok"]).stop();
}

/// It is said whose the socket is: the primary's, or the program's own.
fn says_whose(cluster: &Cluster) {
    let said = |line: &str| line.contains("WARN") || line.contains("listening address=");
    let line = cluster.process.wait_for_line(said, LONG);
    line.unwrap_or_else(|error| panic!("nothing is said: {error}"));
}

#[test]
fn a_program_that_nobody_may_look_into() {
    let steps = [
        "undumpable",
        "socket=tcp4",
        "set=reuseaddr:1",
        "bind=127.0.0.1",
        "name",
        "listen=9",
        "serve",
    ];
    // Root may all the same.
    if status(std::process::id(), "Uid").starts_with("0\t") {
        serves_as_alone(&steps, &["undumpable: ok", "bind=127.0.0.1: ok"]).stop();
    }
    // Another user may not: the bind is then the program's own, and that is said.
    let somebody = Unprivileged::new();
    let (address, mut command) = (pair(), somebody.phalanx());
    command.args(["run", "-i", "1", "--", &somebody.program, &address.port().to_string()]);
    let cluster = Cluster { process: spawn(command.args(steps)), address };
    cluster.wait_serving(1);
    says_whose(&cluster);
    cluster.stop();
}

#[test]
fn a_kernel_without_filters() {
    // As in containers that forbid it, or on kernels that do not have it.
    for how in ["deny=eperm,seccomp", "deny=enosys,seccomp", "deny=eperm,seccomp,prctl"] {
        let address = pair();
        let port = address.port().to_string();
        let steps = ["socket=tcp4", "set=reuseaddr:1", "bind=127.0.0.1", "listen=9", "serve"];
        let launch = ["0", how, "run", PHALANX, "run", "-i", "1", "--", program(), &port];
        let mut command = crate::common::clean(program(), launch.iter().chain(&steps));
        let cluster = Cluster { process: spawn(&mut command), address };
        cluster.wait_serving(1);
        let warning = cluster.line(0, "WARN");
        // It says what to do.
        assert!(
            ["--listen", "--port-base", "SO_REUSEPORT", "seccomp"]
                .iter()
                .any(|w| warning.contains(w)),
            "{how}: {warning}"
        );
        cluster.stop();
    }
}

#[test]
fn a_container_in_which_processes_cannot_be_looked_into() {
    for call in ["pidfd_getfd", "process_vm_readv", "process_vm_readv,pidfd_getfd,ptrace"] {
        let address = pair();
        let (deny, port) = (format!("deny=eperm,{call}"), address.port().to_string());
        let steps = ["socket=tcp4", "set=reuseaddr:1", "bind=127.0.0.1", "listen=9", "serve"];
        let launch = ["0", &deny, "run", PHALANX, "run", "-i", "2", "--", program(), &port];
        let mut command = crate::common::clean(program(), launch.iter().chain(&steps));
        let cluster = Cluster { process: spawn(&mut command), address };
        // What has to be known of a socket is read from /proc.
        cluster.wait_serving(2);
        assert_eq!(said(&cluster.process.output(), "0")[2], "bind=127.0.0.1: ok");
        cluster.reload(1);
        cluster.wait_serving(2);
        cluster.stop();
    }
}

#[test]
fn phalanx_in_phalanx() {
    let address = pair();
    let port = address.port().to_string();
    let steps = ["socket=tcp4", "bind=127.0.0.1", "listen=9", "serve"];
    let inner = ["run", "-i", "2", "--", PHALANX, "run", "-i", "1", "--", program(), &port];
    let cluster = Cluster { process: spawn(&mut phalanx(inner.iter().chain(&steps))), address };
    // A process has one listener of its filters: the outer one's. The inner one says so and goes on
    // without, and the program's bind is intercepted by the outer one, once for each of its slots.
    let mut pids = std::collections::BTreeSet::new();
    cluster.until("both programs to answer", || {
        pids.extend(get(address, "/", LONG).ok().map(|answer| answer.pid));
        (pids.len() == 2).then_some(())
    });
    let warned = || cluster.process.stderr().lines().filter(|line| line.contains("WARN")).count();
    cluster.until("both inner ones to say so", || (warned() >= 2).then_some(()));
    cluster.stop();
}

/// Twenty binds while signals come all the time, and one in peace.
fn under_fire(alarm: &str) -> Vec<&str> {
    let mut steps = vec![alarm];
    for _ in 0..20 {
        steps.extend(["socket=tcp4", "bind=127.0.0.1", "name", "close"]);
    }
    steps.extend(["alarm=0", "socket=tcp4", "bind=127.0.0.1", "listen=9", "serve"]);
    steps
}

#[test]
fn signals_do_not_interrupt_a_bind() {
    serves_as_alone(&under_fire("alarm=150,restart"), &["bind=127.0.0.1: ok"]).stop();
}

#[test]
fn a_bind_that_a_handler_does_not_restart_is_interrupted_or_done() {
    let (address, steps) = (pair(), under_fire("alarm=150"));
    let cluster = start(address, &["-i", "2"], &steps);
    for slot in ["0", "1"] {
        let said = transcript(&cluster.process, slot, "serve");
        let mut done = 0;
        for pair in said.windows(2).filter(|pair| pair[0].starts_with("bind=")) {
            // Nothing between: a bind that is interrupted has not happened.
            match (pair[0].as_str(), pair[1].as_str()) {
                ("bind=127.0.0.1: EINTR", "name: 0.0.0.0 0") => {}
                ("bind=127.0.0.1: ok", after) => {
                    done += 1;
                    let name = format!("name: 127.0.0.1 {}", address.port());
                    assert!(after == name || after == "listen=9: ok", "{pair:?}");
                }
                _ => panic!("{pair:?}"),
            }
        }
        assert!(done > 0, "{said:?}");
    }
    cluster.wait_serving(2);
    cluster.stop();
}

#[test]
fn a_program_with_hardly_a_descriptor() {
    // 3 may be taken; the limit is then below the number that the socket has.
    let steps = ["socket=tcp4", "at=9", "limit=5", "bind=127.0.0.1", "name", "listen=9", "park"];
    let address = pair();
    let cluster = start(address, &["-i", "1"], &steps);
    let expected = crate::hostile::alone(pair().port(), &steps);
    let got = transcript(&cluster.process, "0", "park");
    // Served by the primary's slot or by the program's own socket: not refused.
    assert_eq!(got[3], expected[3], "{}", cluster.process.output());
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn a_network_of_its_own_is_not_the_primary_s() {
    let address = pair();
    // The port is free in there, whoever has it out here; a slot of out here would be of no use.
    let steps = ["netns", "socket=tcp4", "bind=127.0.0.1", "listen=9", "name", "park"];
    let cluster = start(address, &["-i", "2"], &steps);
    for slot in ["0", "1"] {
        let said = transcript(&cluster.process, slot, "park");
        assert_eq!(said[2], "bind=127.0.0.1: ok", "{said:?}");
    }
    assert!(
        TcpListener::bind(address).is_ok(),
        "the primary opened {address} in its own network for a program in another: {}",
        cluster.process.output()
    );
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn binds_that_no_filter_for_bind_sees() {
    // The 32-bit system call, and a ring of the kernel's: whatever these do alone, the worker lives, the
    // first has the port as it would alone, and the second is told that it is taken.
    for call in ["int80=127.0.0.1", "ring=127.0.0.1"] {
        let steps = ["socket=tcp4", call, "park"];
        let address = pair();
        let expected = crate::hostile::alone(address.port(), &steps);
        let cluster = start(address, &["-i", "2"], &steps);
        let got = ["0", "1"].map(|tag| transcript(&cluster.process, tag, "park"));
        assert!(got.contains(&expected), "{call}: alone {expected:?}, as workers {got:?}");
        for said in &got {
            let other = format!("{call}: EADDRINUSE");
            assert!(*said == expected || said[1] == other, "{call}: {said:?}");
        }
        let log = cluster.process.output();
        assert!(!log.contains("ended unasked"), "{call}: {log}");
        cluster.process.signal(Signal::TERM).unwrap();
        assert_eq!(cluster.wait_gone(LONG), 0);
    }
}
