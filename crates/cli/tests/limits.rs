//! Limits: who has too much is replaced, and no client notices; who has far too much is killed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use bench::load::{Load, Running};
use bench::process;
use common::{Cluster, LONG, assert_lossless, get, phalanx, spawn, v4};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MB: u64 = 1 << 20;

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guard").join(name)
}

/// A cluster of a program of `tests/guard`, when all of its workers serve.
fn cluster(name: &str, workers: usize, more: &[&str], env: &[(&str, &str)]) -> Cluster {
    let (address, count) = (v4(), workers.to_string());
    let program = program(name);
    let args = ["run", program.to_str().unwrap(), "-i", &count];
    let mut command = phalanx(args.iter().chain(more));
    command.env("PORT", address.port().to_string()).envs(env.iter().copied());
    // The preload is this version's own, whatever else runs on this machine.
    command.env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR"));
    let cluster = Cluster { process: spawn(&mut command), address };
    cluster.wait_serving(workers);
    cluster
}

/// A connection for each request; the machine keeps some room for the workers.
fn load(cluster: &Cluster) -> Running {
    let load = Load::new(cluster.address).clients(4).think(Duration::from_millis(5));
    load.duration(Duration::from_secs(120)).start().unwrap()
}

/// How often the log says it.
fn said(cluster: &Cluster, part: &str) -> usize {
    cluster.process.output().lines().filter(|line| line.contains(part)).count()
}

/// The memory of a process with its descendants.
fn memory(pid: u32) -> u64 {
    let own = process::pss_bytes(pid).unwrap_or(0);
    own + process::children(pid).into_iter().map(memory).sum::<u64>()
}

/// Watches until so many workers were replaced; the most memory that each worker was seen with.
fn watch(cluster: &Cluster, replaced: usize) -> BTreeMap<u32, u64> {
    let mut most: BTreeMap<u32, u64> = BTreeMap::new();
    cluster.until("workers to be replaced", || {
        for pid in cluster.workers() {
            let seen = most.entry(pid).or_default();
            *seen = memory(pid).max(*seen);
        }
        (said(cluster, "gone (memory limit)") >= replaced).then(|| most.clone())
    })
}

/// `leak`: so many MB every 100 ms.
fn bears_a_leak(name: &str, leak: u64, env: &[(&str, &str)]) {
    let leak = (leak * MB).to_string();
    let env: Vec<_> = [("LEAK", leak.as_str())].into_iter().chain(env.iter().copied()).collect();
    let cluster = cluster(name, 2, &["--max-memory", "150M"], &env);
    let load = load(&cluster);
    let most = watch(&cluster, 4);
    eprintln!("{name}: at most {:?} MB", most.values().map(|b| b / MB).collect::<Vec<_>>());
    assert!(most.values().all(|bytes| *bytes < 300 * MB), "{most:?}\n{}", cluster.process.output());
    let over = cluster.line(0, "of memory, and may have");
    assert!(over.contains("MB") && over.contains("it is to be replaced"), "{over}");
    assert_lossless(name, &load.stop(), &cluster.process);
    cluster.stop();
}

#[test]
fn a_node_program_that_leaks_is_replaced_in_time() {
    bears_a_leak("leak.js", 5, &[]);
}

#[test]
fn a_python_program_that_leaks_is_replaced_in_time() {
    bears_a_leak("leak.py", 5, &[]);
}

#[test]
fn what_children_have_counts() {
    // Slower: two interpreters have to start until a successor serves.
    bears_a_leak("leak.py", 2, &[("CHILD", "1")]);
}

#[test]
fn beyond_the_hard_limit_a_worker_is_killed_at_once() {
    let cluster = cluster("leak.js", 2, &["--hard-memory", "200M"], &[]);
    // 500 MB: more than a look later.
    let taken = get(cluster.address, "/take", LONG);
    let line = cluster.line(0, "it is killed");
    assert!(line.contains("and may have 200 MB"), "{line} ({taken:?})");
    let gone = cluster.line(0, "is gone (memory limit)");
    assert!(gone.contains("SIGKILL"), "{gone}");
    cluster.wait_serving(2);
    assert_eq!(said(&cluster, "SIGTERM"), 0, "{}", cluster.process.output());
    cluster.stop();
}

/// How many replacements were under way at the same time, by the log.
fn at_once(output: &str) -> usize {
    let (mut under_way, mut most) = (0usize, 0);
    let mut ready = 0;
    for line in output.lines() {
        if line.contains("it is to be replaced") {
            under_way += 1;
            most = most.max(under_way);
        } else if line.contains("is ready: process") {
            ready += 1;
            // The first four came without having to replace anybody.
            under_way = under_way.saturating_sub(usize::from(ready > 4));
        }
    }
    most
}

#[test]
fn workers_that_get_old_go_one_by_one() {
    let cluster = cluster("leak.js", 4, &["--max-age", "2s"], &[]);
    let load = load(&cluster);
    cluster.until("each to be replaced twice", || {
        assert!(cluster.workers().len() >= 4, "{}", cluster.process.output());
        (said(&cluster, "gone (age limit)") >= 8).then_some(())
    });
    let line = cluster.line(0, "may get");
    assert!(line.contains("reached an age of"), "{line}");
    assert_eq!(at_once(&cluster.process.output()), 1, "{}", cluster.process.output());
    assert_lossless("age limit", &load.stop(), &cluster.process);
    cluster.stop();
}

#[test]
fn connections_are_counted() {
    for policy in ["direct", "round-robin"] {
        let cluster = cluster("leak.js", 2, &["--max-connections", "100", "--policy", policy], &[]);
        let load = load(&cluster);
        cluster.until("workers to be replaced", || {
            (said(&cluster, "gone (connection limit)") >= 4).then_some(())
        });
        let line = cluster.line(0, "and may accept");
        let number = |before: &str| -> u64 {
            let rest = line.split(before).nth(1).unwrap_or_else(|| panic!("{line}"));
            rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        let (accepted, limit) = (number("accepted "), number("may accept "));
        assert!((90..=110).contains(&limit) && accepted >= limit, "{policy}: {line}");
        // They say it every half second.
        assert!(accepted < 3_000, "{policy}: {line}");
        assert_lossless(policy, &load.stop(), &cluster.process);
        cluster.stop();
    }
}

#[test]
fn a_limit_that_no_worker_can_keep_is_no_busy_loop() {
    let cluster = cluster("leak.js", 1, &["--max-memory", "30M"], &[]);
    cluster.line(0, "is no cure");
    let begin = Instant::now();
    let before = said(&cluster, "it is to be replaced");
    // Long enough for as many as there would be without a pause.
    std::thread::sleep(Duration::from_secs(6));
    let after = said(&cluster, "it is to be replaced");
    let (most, took) = (3, begin.elapsed());
    assert!(
        after - before <= most,
        "{before}, then {after} in {took:?}: {}",
        cluster.process.output()
    );
    cluster.stop();
}

#[test]
fn what_cannot_be_is_said() {
    let python = program("leak.py");
    let python = python.to_str().unwrap();
    let all: [(&[&str], &str); 11] = [
        (&["--max-memory", "2G", "--hard-memory", "1G"], "hard memory limit"),
        (&["--max-memory", "1K"], "not enough"),
        (&["--max-memory", "-5M"], "--max-memory"),
        (&["--max-memory", "many"], "150M"),
        (&["--max-age", "1ms"], "too short"),
        (&["--max-connections", "0"], "serve nobody"),
        (&["--max-connections", "100"], "nobody can know"),
        (&["--min", "4", "--max", "2"], "at least 4"),
        (&["--min", "2", "--max", "4", "-i", "5"], "5 workers to begin with"),
        (&["--scale-on", "cpu"], "--min"),
        (&["--min", "1", "--max", "2", "--scale-target", "-1"], "above 0"),
    ];
    for (args, words) in all {
        let process = spawn(&mut phalanx(["run", python].iter().chain(args)));
        let status = process.wait_exit(LONG).unwrap();
        let said = process.output();
        assert_eq!(status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?} does not say {words:?}: {said}");
    }
}

/// Where control groups are delegated the kernel weighs; elsewhere nothing is promised that is not kept.
#[test]
fn a_weight_is_kept_or_refused() {
    let program = program("leak.js");
    let args = ["run", program.to_str().unwrap(), "-i", "1", "--cpu-weight", "50"];
    let address = v4();
    let process = spawn(phalanx(args).env("PORT", address.port().to_string()));
    let cluster = Cluster { process, address };
    let ready = cluster.process.wait_for_line(
        |line| line.contains("is ready") || line.contains("cannot be given a CPU weight"),
        LONG,
    );
    let ready = ready.unwrap();
    if ready.contains("is ready") {
        let pid = cluster.workers()[0];
        let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(group.contains("/phalanx-"), "{group}");
        cluster.stop();
    } else {
        let code = cluster.process.wait_exit(LONG).unwrap().code();
        assert_eq!(code, Some(2), "{}", cluster.process.output());
        assert!(ready.contains("Delegate=yes"), "{ready}");
    }
}
