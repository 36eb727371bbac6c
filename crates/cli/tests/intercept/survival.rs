//! The primary outlives what its workers do, and opens nothing that it was not told to.

use crate::common::{Cluster, LONG, get, phalanx, signal, spawn};
use crate::hostile::{addresses, pair, program, start, transcript};
use bench::process;
use bench::spawned::Signal;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

#[test]
fn processes_killed_while_they_bind() {
    let address = pair();
    let port = address.port();
    // Slot 0 is the storm; the others serve.
    let script = format!(
        "if [ \"$NODE_APP_INSTANCE\" = 0 ]; then steps='storm=150'; fi
         exec {} {port} $steps socket=tcp4 bind=127.0.0.1 listen=9 serve",
        program()
    );
    let args = ["run", "-i", "3", "--", "/bin/sh", "-c", &script];
    let cluster = Cluster { process: spawn(&mut phalanx(args)), address };
    let serving = cluster.wait_answers("the slots without storm", |slots| slots.len() >= 2);
    cluster.until("the storm to be over", || {
        for _ in 0..3 {
            let answer = get(address, "/", LONG).unwrap_or_else(|error| {
                panic!("{error} while others are killed\n{}", cluster.process.output())
            });
            assert!(answer.slot == 0 || serving.values().any(|pid| *pid == answer.pid));
        }
        cluster.process.output().contains("[0] storm=150: ok").then_some(())
    });
    cluster.wait_serving(3);
    let open = process::open_descriptors(cluster.pid()).unwrap();
    assert!(open < 100, "the primary has {open} descriptors");
    let log = cluster.process.output();
    assert!(!log.contains("panicked"), "{log}");
    cluster.stop();
}

#[test]
fn a_worker_is_killed_with_binds_in_flight() {
    let address = pair();
    let script = format!(
        "if [ \"$NODE_APP_INSTANCE\" = 0 ]; then exec {0} {1} storm=1000000; fi
         exec {0} {1} socket=tcp4 bind=127.0.0.1 listen=9 serve",
        program(),
        address.port()
    );
    let args = ["run", "-i", "2", "--start-timeout", "60s", "--", "/bin/sh", "-c", &script];
    let cluster = Cluster { process: spawn(&mut phalanx(args)), address };
    cluster.wait_answers("the slot that serves", |slots| slots.contains_key(&1));
    for _ in 0..5 {
        let victim = cluster.until("the worker that binds", || {
            cluster.workers().into_iter().find(|pid| crate::common::slot_of(*pid) == Some(0))
        });
        // It is killed in the middle of it, wherever that is.
        cluster
            .until("it to have children", || (!process::children(victim).is_empty()).then_some(()));
        signal(victim, Signal::KILL);
        cluster.until("it to be gone", || (!process::is_alive(victim)).then_some(()));
        assert_eq!(get(address, "/", LONG).unwrap().slot, 1);
    }
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn a_worker_that_closes_all_it_inherited() {
    let steps = ["close-all", "socket=tcp4", "bind=127.0.0.1", "listen=9", "serve"];
    let address = pair();
    let cluster = start(address, &["-i", "2"], &steps);
    let before = cluster.wait_serving(2);
    let log = cluster.process.output();
    assert!(!log.contains("ended unasked") && !log.contains("killed"), "{log}");
    cluster.reload(1);
    let after = cluster.wait_answers("successors", |slots| {
        slots.len() == 2 && slots.values().all(|pid| !before.values().any(|old| old == pid))
    });
    signal(after[&0], Signal::KILL);
    cluster
        .wait_answers("a replacement", |slots| slots.get(&0).is_some_and(|pid| *pid != after[&0]));
    cluster.stop();
}

#[test]
fn a_worker_that_leaves_its_group_and_its_parent() {
    // A daemon, as programs made for the background are: its first process ends with 0.
    let address = pair();
    let script = format!(
        "setsid {} {} socket=tcp4 bind=127.0.0.1 listen=9 serve & exit 0",
        program(),
        address.port()
    );
    let args = ["run", "-i", "1", "--", "/bin/sh", "-c", &script];
    let cluster = Cluster { process: spawn(&mut phalanx(args)), address };
    // That it ended is seen and said; it does not become a number of servers beside each other. Whether any of
    // them counts as one that served is a race between it and its parent's end.
    let over = |line: &str| line.contains("no worker became ready") || line.contains("crash loop");
    let said = cluster.process.wait_for_line(over, LONG).unwrap_or_else(|error| panic!("{error}"));
    let log = cluster.process.output();
    assert!(log.contains("code 0"), "{log}");
    if said.contains("crash loop") {
        cluster.process.signal(Signal::QUIT).unwrap();
    }
    let status = cluster.process.wait_exit(LONG).unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(status.code(), Some(0 | 3..=5)), "{status}: {log}");
}

#[test]
fn an_address_that_changes_while_it_is_looked_at() {
    const TIMES: usize = 2_000;
    let address = pair();
    let (port, race) = (address.port().to_string(), format!("race={TIMES}"));
    let other = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port() + 1));
    let steps = [&race, "socket=tcp4", "bind=127.0.0.1", "listen=9", "serve"];
    let cluster = start(address, &["-i", "2", "--port", &port], &steps);
    let begin = Instant::now();
    let mut looks = 0;
    cluster.until("both races to be over", || {
        // Only what was declared is ever opened.
        let opened = addresses(cluster.pid());
        assert!(!opened.contains(&other), "the primary opened {other}");
        looks += 1;
        let log = cluster.process.output();
        (log.contains(&format!("[0] {race}")) && log.contains(&format!("[1] {race}"))).then_some(())
    });
    eprintln!("two times {TIMES} binds in {:.1?}, {looks} looks", begin.elapsed());
    for slot in ["0", "1"] {
        let said = transcript(&cluster.process, slot, &race);
        // On the declared port it had a slot, on the other one a socket of its own, or was told that it is
        // taken: nothing third, and no socket of the primary's on the other port.
        assert!(said[0].ends_with("other errors 0, wrong 0"), "{said:?}");
        assert!(said[0].contains("port yes"), "{said:?}");
    }
    cluster.wait_serving(2);
    assert!(!addresses(cluster.pid()).contains(&other), "the primary has {other}");
    let open = process::open_descriptors(cluster.pid()).unwrap();
    assert!(open < 100, "the primary has {open} descriptors after {TIMES} binds");
    cluster.stop();
}

#[test]
fn a_thousand_ports_of_one_worker() {
    // Without --port each is shared. The primary has bounds, and says so; what is bound first serves.
    let address = pair();
    let script = format!(
        "exec {} {} $(awk 'BEGIN {{ for (i = 0; i < 1000; i++) printf \"socket=tcp4 bind=127.0.0.1/%d close \", 1025 + i }}') socket=tcp4 bind=127.0.0.1 listen=9 serve",
        program(),
        address.port()
    );
    let args = ["run", "-i", "1", "--", "/bin/sh", "-c", &script];
    let begin = Instant::now();
    let cluster = Cluster { process: spawn(&mut phalanx(args)), address };
    let said = transcript(&cluster.process, "0", "serve");
    let refused: Vec<&String> =
        said.iter().filter(|line| line.starts_with("bind=") && !line.ends_with(": ok")).collect();
    eprintln!("{} of 1001 refused, {:.1?}: {:?}", refused.len(), begin.elapsed(), refused.first());
    assert!(
        refused.iter().all(|line| line.ends_with("EADDRINUSE")
            || line.ends_with("EMFILE")
            || line.ends_with("ENFILE")
            || line.ends_with("ENOBUFS")),
        "{refused:?}"
    );
    let descriptors = process::open_descriptors(cluster.pid()).unwrap();
    assert!(descriptors < 1200, "{descriptors}");
    cluster.process.signal(Signal::TERM).unwrap();
    let status =
        cluster.process.wait_exit(Duration::from_secs(20)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(status.code(), Some(0), "{}", cluster.process.output());
}
