//! What the primary costs: nothing per connection, little memory, and nothing that grows.
#![allow(clippy::unwrap_used)]

mod common;

use bench::load::Load;
use bench::spawned::Signal;
use bench::{process, wait};
use common::{Cluster, LONG, assert_lossless, clean, phalanx, signal, slot_of, spawn};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The calls and their numbers in the table of `strace -c`, the total left out.
fn calls(table: &str) -> BTreeMap<String, u64> {
    let rows = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [share, _, _, count, .., name] = fields[..] else { return None };
        share.parse::<f64>().ok()?;
        (name != "total").then_some(())?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    rows.collect()
}

fn tracer_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok())
}

#[test]
fn the_primary_does_nothing_per_connection() {
    let cluster = Cluster::demo(4, &["--policy", "direct"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("table");
    let mut command = clean("strace", ["-f", "-c", "-p", &cluster.pid().to_string(), "-o"]);
    let strace = bench::spawned::Guarded::spawn(command.arg(&file)).unwrap_or_else(|error| {
        panic!("strace cannot be run ({error}): scripts/test says how to get it")
    });
    wait::until(LONG, "strace to attach", || {
        (tracer_of(cluster.pid()) == Some(strace.pid())).then_some(())
    })
    .unwrap_or_else(|error| {
        panic!("{error}; strace must be allowed to trace: root, or kernel.yama.ptrace_scope=0; it says: {}", strace.output())
    });
    let begin = Instant::now();
    // Clients enough for load, and few enough that no queue stands.
    let load = Load::new(cluster.address).clients(6).requests(10_000);
    let outcome = load.start().unwrap().join();
    strace.signal(Signal::INT).unwrap();
    strace.wait_exit(LONG).unwrap();
    let seconds = begin.elapsed().as_secs() + 1;
    let table = std::fs::read_to_string(&file).unwrap();
    eprintln!("10,000 connections in {:.1?}; the primary meanwhile:\n{table}", outcome.elapsed);
    assert_lossless("under strace", &outcome, &cluster.process);
    assert_eq!(outcome.connections, 10_000);
    let calls = calls(&table);
    let of = |name| calls.get(name).copied().unwrap_or(0);
    assert!(of("epoll_wait") + of("epoll_pwait") > 0, "the table is not understood: {table}");
    assert_eq!(of("accept") + of("accept4"), 0, "{table}");
    // Workers tell twice a second how many requests there were.
    for name in ["sendmsg", "recvmsg", "sendto", "recvfrom", "read", "write"] {
        assert!(of(name) < 50 + 50 * seconds, "{name}: {table}");
    }
    let total: u64 = calls.values().sum();
    assert!(total < 1_000 + 200 * seconds, "{total} calls in {seconds} s: {table}");
    cluster.stop();
}

#[test]
fn the_primary_is_small() {
    let cluster = Cluster::demo(8, &[]);
    let load = Load::new(cluster.address).requests(2_000);
    assert_lossless("8 workers", &load.start().unwrap().join(), &cluster.process);
    let megabytes = |bytes: u64| format!("{}.{} MB", bytes >> 20, (bytes >> 10) % 1024 * 10 / 1024);
    let (rss, pss) =
        (process::rss_bytes(cluster.pid()).unwrap(), process::pss_bytes(cluster.pid()).unwrap());
    eprintln!(
        "the primary of 8 workers: {} resident, {} proportional",
        megabytes(rss),
        megabytes(pss)
    );
    // Most of it is the program's text, which primaries share and a build for tests has twice as much of.
    assert!(rss < 20 << 20 && pss < 8 << 20, "{} {}", megabytes(rss), megabytes(pss));
    cluster.stop();
}

#[test]
fn an_idle_cluster_sleeps() {
    let cluster = Cluster::demo(4, &[]);
    let before = process::cpu_time(cluster.pid()).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let used = process::cpu_time(cluster.pid()).unwrap() - before;
    eprintln!("the primary used {used:?} of CPU in 3 idle seconds");
    assert!(used < Duration::from_millis(300), "{used:?}");
    cluster.stop();
}

#[test]
fn reloads_and_kills_leave_nothing_behind() {
    // Eight, so that no slot is killed six times in a row, which is a crash loop.
    let cluster = Cluster::demo(8, &[]);
    let descriptors = || process::open_descriptors(cluster.pid()).unwrap();
    let settled = || cluster.wait_serving(8);
    cluster.reload(1);
    settled();
    cluster.wait_workers(8);
    let first = descriptors();
    for round in 0..20 {
        cluster.reload(round + 2);
        let slot = round % 8;
        let victim = cluster.wait_answers("the slot to answer", |slots| slots.contains_key(&slot));
        let victim = victim[&slot];
        signal(victim, Signal::KILL);
        cluster.until("the replacement", || {
            let workers = cluster.workers();
            let replaced = workers.iter().any(|pid| slot_of(*pid) == Some(slot));
            (!workers.contains(&victim) && replaced).then_some(())
        });
    }
    settled();
    cluster.wait_workers(8);
    cluster.until("no zombies", || {
        let children = process::children(cluster.pid());
        children.iter().all(|pid| process::state(*pid) != Some('Z')).then_some(())
    });
    let last = wait::until(Duration::from_secs(5), "as many descriptors as before", || {
        Some(descriptors()).filter(|now| *now == first)
    });
    eprintln!("descriptors: {first} after the first reload, {} in the end", descriptors());
    if let Err(error) = last {
        let mut open: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", cluster.pid()))
            .unwrap()
            .filter_map(|entry| {
                Some(std::fs::read_link(entry.ok()?.path()).ok()?.display().to_string())
            })
            .collect();
        open.sort();
        panic!("{error}: {first} before, {} now: {open:#?}", descriptors());
    }
    cluster.stop();
}

#[test]
fn five_hundred_and_twelve_workers_are_the_most() {
    // Asked for and refused by number only: nobody wants to start as many here.
    let process = spawn(&mut phalanx(["demo", "-i", "513"]));
    assert_eq!(process.wait_exit(LONG).unwrap().code(), Some(2));
    assert!(process.stderr().contains("512"), "{}", process.stderr());
}
