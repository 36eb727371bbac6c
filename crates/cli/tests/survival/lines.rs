//! Workers that know nothing of a primary end with the last process that could end them, and never before.

use crate::adopted::tell;
use crate::common::{LONG, PHALANX, clean, signal, slot_of, stop_process, v4};
use crate::kept::{Kept, TOOK_OVER, program, python};
use bench::process;
use bench::spawned::Signal;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// They are gone by then, and their port is free.
const WITHIN: Duration = Duration::from_secs(5);

/// A cluster of a Python program of `tests/programs`, with these options and arguments of its own.
fn of_python(options: &[&str], name: &str, args: &[&str], workers: usize) -> Kept {
    let (address, count) = (v4(), workers.to_string());
    let (script, port) = (program(&format!("programs/{name}")), address.port().to_string());
    let own = ["--", "/usr/bin/python3", &script, &port];
    let words = [&["run", "-i", &count], options, &own, args].concat();
    Kept::start_on(PHALANX, address, &words, workers)
}

/// Keeper and primary are killed, so that neither can replace the other.
fn kill_both(cluster: &Kept) {
    let (keeper, primary) = (cluster.keeper(), cluster.primary());
    for pid in [keeper, primary] {
        stop_process(pid);
    }
    for pid in [primary, keeper] {
        signal(pid, Signal::KILL);
    }
}

/// No process is left within moments, and the next one finds its port.
fn ends_in_time(cluster: &Kept) {
    let begin = Instant::now();
    cluster.assert_nothing_left();
    let took = begin.elapsed();
    eprintln!("the last of them was gone after {took:.1?}");
    assert!(took < WITHIN, "they went on for {took:.1?}");
    let python = python(cluster.address);
    let mut words = vec!["run", "--keeper", "-i", "2"];
    words.extend(python.iter().map(String::as_str));
    let next = Kept::start_on(PHALANX, cluster.address, &words, 2);
    next.wait_answers(2);
    next.stop();
}

#[test]
fn both_are_killed() {
    let cluster = Kept::python(2, &[]);
    kill_both(&cluster);
    ends_in_time(&cluster);
}

/// Of workers that were taken over, and one that this primary forked.
#[test]
fn both_are_killed_that_were_not_the_first() {
    let cluster = Kept::python(2, &[]);
    cluster.kill_primary();
    cluster.kill_keeper();
    cluster.upgrade();
    let old = cluster.wait_workers(2);
    signal(old[0].1, Signal::KILL);
    cluster.until("another one", || {
        let workers = cluster.workers();
        (workers.len() == 2 && workers != old).then_some(())
    });
    cluster.wait_answers(2);
    kill_both(&cluster);
    ends_in_time(&cluster);
}

#[test]
fn without_a_keeper_the_primary_is_enough() {
    let cluster = of_python(&[], "threads.py", &[], 2);
    // An upgrade in place does not look like its end.
    let (before, mark) = (cluster.wait_workers(2), cluster.process.mark());
    signal(cluster.keeper(), Signal::USR1);
    cluster.line(mark, TOOK_OVER);
    cluster.wait_answers(2);
    assert_eq!(cluster.wait_workers(2), before);
    signal(cluster.keeper(), Signal::KILL);
    ends_in_time(&cluster);
}

/// What is in front of the server is all that the primary knows.
#[test]
fn what_a_worker_started_goes_with_it() {
    let address = v4();
    let line = format!("{}; exit $?", python(address)[1..].join(" "));
    let words = ["run", "--keeper", "-i", "2", "--", "/bin/sh", "-c", &line];
    let cluster = Kept::start_on(PHALANX, address, &words, 2);
    let workers = cluster.wait_workers(2);
    for (_, pid) in workers {
        assert!(!process::children(pid).is_empty(), "the server is a child of {pid}");
    }
    kill_both(&cluster);
    ends_in_time(&cluster);
}

/// Rights of its own make no difference: the kernel sends it, in the worker's own name.
#[test]
fn a_worker_of_another_user_ends_too() {
    assert!(rustix::process::geteuid().is_root(), "only root can give a worker another user");
    let address = v4();
    let port = address.port().to_string();
    // It may not read this file's directory: the server is one of Python's own.
    let own = ["--", "/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", &port];
    let words = [&["run", "--keeper", "-i", "1", "--user", "nobody"], &own[..]];
    let mut command = clean(PHALANX, words.concat());
    command.current_dir("/");
    let cluster = Kept::of(command, address, 1);
    let pid = cluster.wait_workers(1)[0].1;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(!status.contains("\nUid:\t0\t"), "{status}");
    kill_both(&cluster);
    ends_in_time(&cluster);
}

/// How often workers said that they were told to end.
fn heard(cluster: &Kept) -> usize {
    cluster.process.output().matches(" hears SIGTERM").count()
}

#[test]
fn nobody_is_told_too_early() {
    const ROUNDS: usize = 10;
    let cluster = of_python(&["--keeper", "--drain-idle", "100ms"], "hears.py", &[], 2);
    let before = cluster.wait_workers(2);
    let load = cluster.one_per_request();
    for round in 0..ROUNDS {
        cluster.kill_primary();
        cluster.upgrade();
        if round % 5 == 0 {
            cluster.kill_keeper();
        }
        cluster.wait_load([&load]);
    }
    assert_eq!(heard(&cluster), 0, "{}", cluster.process.output());
    assert_eq!(cluster.wait_workers(2), before);
    // Each that is replaced is told once.
    for reload in 1..=3 {
        cluster.reload();
        cluster.until("the old ones to be told", || (heard(&cluster) >= 2 * reload).then_some(()));
        cluster.kill_primary();
        cluster.upgrade();
        cluster.wait_load([&load]);
        assert_eq!(heard(&cluster), 2 * reload, "{}", cluster.process.output());
    }
    cluster.assert_lossless("all the time", &load.stop());
    cluster.stop();
}

/// The number of a worker's life line, as it is told.
fn life_line(pid: u32) -> u32 {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let mut entries = environment.split(|byte| *byte == 0);
    let number = entries.find_map(|entry| entry.strip_prefix(b"PHALANX_LIFE_FD="));
    String::from_utf8_lossy(number.expect("it is told")).parse().unwrap()
}

fn has(pid: u32, number: u32) -> bool {
    std::fs::symlink_metadata(format!("/proc/{pid}/fd/{number}")).is_ok()
}

/// A program on the crate may be started as any other. It hears of its primary's end on its channel, and drains.
#[test]
fn who_knows_a_primary_lets_go() {
    let address = v4();
    let listen = address.to_string();
    let words = ["run", "-i", "1", "--", PHALANX, "demo", "--listen", &listen];
    let cluster = Kept::start_on(PHALANX, address, &words, 1);
    let pid = cluster.wait_workers(1)[0].1;
    assert!(!has(pid, life_line(pid)), "it has its life line still");
    signal(cluster.keeper(), Signal::KILL);
    cluster.assert_nothing_left();
    let other = of_python(&[], "threads.py", &[], 1);
    let pid = other.wait_workers(1)[0].1;
    assert!(has(pid, life_line(pid)));
    assert_eq!(slot_of(pid), Some(0));
    other.stop();
}

/// Calls of bind(2) so far, of each of two threads.
fn tried(cluster: &Kept) -> (u64, [u64; 2], Value) {
    cluster.until("an answer", || {
        let said = tell(cluster.address, "/")?;
        let tried = [said["tried"][0].as_u64()?, said["tried"][1].as_u64()?];
        Some((said["pid"].as_u64()?, tried, said["wrong"].clone()))
    })
}

/// The kernel tells a primary once who waits in bind(2). The next one knows all the same.
#[test]
fn nobody_waits_in_bind_for_ever() {
    const ROUNDS: u32 = 10;
    let more: [SocketAddr; 2] = [v4(), v4()];
    let more = more.map(|address| address.port().to_string());
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let cluster = of_python(&["--keeper"], "rebinds.py", &more, 1);
    let (first, ..) = tried(&cluster);
    for round in 0..ROUNDS {
        cluster.kill_primary();
        if round % 3 == 0 {
            cluster.upgrade();
        }
        let (_, before, _) = tried(&cluster);
        cluster.until(&format!("calls after {round} kills, {before:?} before"), || {
            let (pid, now, _) = tried(&cluster);
            assert_eq!(pid, first, "the worker was replaced");
            now.iter().zip(before).all(|(now, before)| *now >= before + 5).then_some(())
        });
    }
    let (_, tried, wrong) = tried(&cluster);
    eprintln!("{ROUNDS} kills during {tried:?} calls; {wrong}");
    signal(cluster.keeper(), Signal::TERM);
    let status = cluster.process.wait_exit(LONG).unwrap_or_else(|error| cluster.fail(&error));
    assert_eq!(status.code(), Some(0));
    cluster.assert_nothing_left();
}
