//! Workers that are there and do nothing: found out, told with what was seen, ended, replaced; and nobody else is.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use bench::process;
use bench::spawned::Signal;
use common::{
    Blocked, Cluster, LONG, PHALANX, clean, get, node, phalanx, signal, slot_of, spawn,
    stop_process, v4,
};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A heartbeat that tests can wait for.
const QUICK: [&str; 2] = ["--heartbeat", "400ms"];
/// Longer than three of them are missed.
const MISSED: Duration = Duration::from_millis(4 * 400);

fn start(mut command: Command, workers: usize) -> Cluster {
    let address = v4();
    command.env("PORT", address.port().to_string());
    let cluster = Cluster { process: spawn(&mut command), address };
    cluster.wait_serving(workers);
    cluster
}

/// So many workers of `liveness.js`.
fn javascript(workers: usize, options: &[&str], env: &[(&str, &str)]) -> Cluster {
    let (program, count) = (node("liveness.js"), workers.to_string());
    let args = ["run", program.to_str().unwrap(), "-i", &count];
    let mut command = phalanx(args.iter().chain(options));
    command.envs(env.iter().copied());
    start(command, workers)
}

/// So many workers of `slow.py`, whose `/block` takes so many seconds.
fn python(workers: usize, seconds: &str, options: &[&str]) -> Cluster {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/slow.py");
    let (address, count) = (v4(), workers.to_string());
    let port = address.port().to_string();
    let mut args = vec!["run", "-i", &count];
    args.extend(options);
    args.extend([program.to_str().unwrap(), "--", &port, seconds]);
    let cluster = Cluster { process: spawn(&mut phalanx(args)), address };
    cluster.wait_serving(workers);
    cluster
}

/// Waits until a worker is replaced: in its slot another one answers.
fn replaced(cluster: &Cluster, slot: u32, old: u32) {
    cluster.wait_answers("a replacement", |slots| slots.get(&slot).is_some_and(|pid| *pid != old));
    cluster.until("its end", || (!process::is_alive(old)).then_some(()));
}

/// The log does not have that.
fn assert_never(cluster: &Cluster, part: &str) {
    let log = cluster.process.output();
    assert!(!log.contains(part), "{part:?} in {log}");
}

#[test]
fn a_node_worker_that_loops_is_killed_and_replaced() {
    let cluster = javascript(2, &QUICK, &[]);
    let blocked = Blocked::as_it_says(&cluster);
    let (pid, slot) = (blocked.pid, slot_of(blocked.pid).unwrap());
    // What waits in its queue goes to the other one long before the verdict.
    let begin = Instant::now();
    for _ in 0..8 {
        assert_ne!(get(cluster.address, "/", LONG).unwrap().pid, pid);
    }
    let served = begin.elapsed();
    assert!(served < MISSED, "that took {served:?}");
    assert_never(&cluster, "hangs");
    let line = cluster.line(0, "hangs:");
    assert!(line.contains("3 questions in a row"), "{line}");
    for seen in [&format!("process {pid}: running (R)"), "threads running", "CPU time:", "memory:"]
    {
        cluster.line(0, seen);
    }
    cluster.line(0, "is ended and replaced (hung)");
    // Its handler of SIGTERM is never called.
    cluster.line(0, "is gone (hung): SIGKILL");
    replaced(&cluster, slot, pid);
    assert!(blocked.answer().is_err(), "it cannot have answered");
    cluster.stop();
}

#[test]
fn a_worker_that_computes_for_less_goes_on() {
    let cluster =
        javascript(2, &["--heartbeat", "250ms", "--heartbeat-misses", "40"], &[("BLOCK", "3000")]);
    let blocked = Blocked::as_it_says(&cluster);
    let pid = blocked.pid;
    assert_eq!(blocked.answer().unwrap().pid, pid);
    assert_never(&cluster, "hangs");
    cluster.stop();
}

#[test]
fn with_heartbeats_off_a_worker_may_hang() {
    let cluster = javascript(2, &["--heartbeat", "off"], &[("BLOCK", "4000")]);
    let blocked = Blocked::as_it_says(&cluster);
    let pid = blocked.pid;
    assert_eq!(blocked.answer().unwrap().pid, pid);
    assert_never(&cluster, "hangs");
    cluster.stop();
}

#[test]
fn a_stopped_worker_is_replaced() {
    let cluster = javascript(2, &QUICK, &[]);
    let slots = cluster.wait_serving(2);
    stop_process(slots[&1]);
    cluster.line(0, "worker 2 in slot 1 hangs:");
    cluster.line(0, &format!("process {}: stopped (T)", slots[&1]));
    replaced(&cluster, 1, slots[&1]);
    assert_eq!(cluster.wait_serving(2)[&0], slots[&0], "the other one was not stopped");
    cluster.stop();
}

#[test]
fn a_traced_worker_is_left_alone() {
    let cluster = javascript(2, &QUICK, &[]);
    let pid = cluster.wait_serving(2)[&1];
    let strace = spawn(&mut clean("strace", ["-o", "/dev/null", "-p", &pid.to_string()]));
    let traced = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.contains(&format!("TracerPid:\t{}\n", strace.pid())).then_some(())
    };
    cluster.until("the tracer", traced);
    signal(pid, Signal::STOP);
    cluster.line(0, "is left alone, because process");
    assert_never(&cluster, "hangs");
    assert!(process::is_alive(pid));
    strace.signal(Signal::KILL).unwrap();
    strace.wait_exit(LONG).unwrap();
    // Nobody looks at it any more.
    cluster.line(0, "worker 2 in slot 1 hangs:");
    replaced(&cluster, 1, pid);
    cluster.stop();
}

#[test]
fn when_the_primary_itself_was_stopped_nobody_is_killed() {
    let cluster = javascript(2, &QUICK, &[]);
    let before = cluster.wait_serving(2);
    for round in 0..3 {
        let mark = cluster.process.mark();
        // Between two beats, and in the middle of one.
        std::thread::sleep(Duration::from_millis(90 * round));
        stop_process(cluster.pid());
        // The workers are held still with it for a while, as when a machine sleeps.
        before.values().for_each(|pid| stop_process(*pid));
        std::thread::sleep(MISSED);
        signal(cluster.pid(), Signal::CONT);
        cluster.line(mark, "stood still for a while");
        before.values().for_each(|pid| signal(*pid, Signal::CONT));
        assert_eq!(cluster.wait_serving(2), before);
    }
    // As many beats again as make a verdict.
    std::thread::sleep(2 * MISSED);
    assert_eq!(cluster.wait_serving(2), before);
    assert_never(&cluster, "hangs");
    cluster.stop();
}

#[test]
fn a_blocked_runtime_of_a_program_on_the_crate_is_noticed() {
    let address = v4();
    let listen = address.to_string();
    // Its `/block` holds its only thread for five seconds.
    let mut args = vec!["run", "-i", "2"];
    args.extend(QUICK);
    args.extend(["--", PHALANX, "demo", "--listen", &listen]);
    let cluster = Cluster { process: spawn(&mut phalanx(args)), address };
    cluster.wait_serving(2);
    let blocked = Blocked::one(&cluster);
    let (pid, slot) = (blocked.pid, slot_of(blocked.pid).unwrap());
    cluster.line(0, "hangs: it has answered nothing for");
    cluster.line(0, &format!("process {pid}: sleeping (S)"));
    replaced(&cluster, slot, pid);
    cluster.stop();
}

#[test]
fn a_program_of_another_language_that_sleeps_is_replaced() {
    let cluster = python(2, "600", &["--stall", "2s"]);
    let blocked = Blocked::as_it_says(&cluster);
    let (pid, slot) = (blocked.pid, slot_of(blocked.pid).unwrap());
    // Connections come for it, and are carried elsewhere.
    cluster.until("the verdict", || {
        let _ = get(cluster.address, "/", LONG);
        cluster.process.output().contains("hangs: connections wait").then_some(())
    });
    cluster.line(0, &format!("process {pid}: sleeping (S)"));
    replaced(&cluster, slot, pid);
    cluster.stop();
}

#[test]
fn a_slow_program_is_not_one_that_hangs() {
    // Every other request takes longer than any queue may stand, but nothing stands still for long enough.
    let cluster = python(2, "1", &["--stall", "4s"]);
    let before = cluster.wait_serving(2);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(8) {
        let slow = TcpStream::connect(cluster.address).unwrap();
        slow.set_read_timeout(Some(LONG)).unwrap();
        let slow = std::thread::spawn(move || common::exchange(slow, "/block"));
        get(cluster.address, "/", LONG).unwrap();
        slow.join().unwrap().unwrap();
    }
    let log = cluster.process.output();
    assert!(!log.contains("hangs"), "{log}");
    assert_eq!(cluster.wait_serving(2), before);
    cluster.stop();
}

#[test]
fn a_stopped_program_of_another_language_is_replaced() {
    let cluster = python(2, "0", &["--stall", "1s"]);
    let slots = cluster.wait_serving(2);
    stop_process(slots[&0]);
    cluster.until("the verdict", || {
        let _ = get(cluster.address, "/", LONG);
        cluster.process.output().contains("worker 1 in slot 0 hangs").then_some(())
    });
    replaced(&cluster, 0, slots[&0]);
    assert_eq!(cluster.wait_serving(2)[&1], slots[&1]);
    cluster.stop();
}

/// A cluster whose slot 0 can be made sick.
struct Sick {
    cluster: Cluster,
    file: PathBuf,
    _directory: tempfile::TempDir,
}

fn sick(sickness: &str, options: &[&str]) -> Sick {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sick");
    let mut all = vec!["--health-interval", "100ms", "--health-timeout", "400ms"];
    all.extend(options);
    let env = [("SICK_WHEN", file.to_str().unwrap()), ("SICKNESS", sickness)];
    let cluster = javascript(2, &all, &env);
    Sick { cluster, file, _directory: directory }
}

#[test]
fn a_worker_that_answers_its_check_badly_is_replaced() {
    for (sickness, policy, seen) in [
        ("status", "direct", "GET /healthz: status 503, expected 200 to 399"),
        ("silent", "round-robin", "no answer within 400ms"),
        ("close", "direct", "closed without an answer"),
        ("garbage", "direct", "is no HTTP"),
    ] {
        let options = ["--health-path", "/healthz", "--policy", policy];
        let Sick { cluster, file, _directory } = sick(sickness, &options);
        let before = cluster.wait_serving(2);
        fs::write(&file, "").unwrap();
        cluster.line(0, "worker 1 in slot 0 fails its check (1 of 3)");
        let line = cluster.line(0, "worker 1 in slot 0 is unhealthy: 3 checks in a row failed");
        assert!(line.contains(seen), "{sickness}: {line}");
        fs::remove_file(&file).unwrap();
        cluster.line(0, "is ended and replaced (unhealthy)");
        replaced(&cluster, 0, before[&0]);
        let log = cluster.process.output();
        assert!(
            !log.contains("worker 2 in slot 1 fails"),
            "the check of one reached another: {log}"
        );
        assert_eq!(cluster.wait_serving(2)[&1], before[&1]);
        cluster.stop();
    }
}

#[test]
fn a_check_that_passes_again_ends_the_row() {
    let options =
        ["--health-path", "/healthz", "--health-misses", "1000", "--health-status", "200"];
    let Sick { cluster, file, _directory } = sick("status", &options);
    fs::write(&file, "").unwrap();
    cluster.line(0, "fails its check (4 of 1000): GET /healthz: status 503, expected 200 to 200");
    fs::remove_file(&file).unwrap();
    cluster.line(0, "worker 1 in slot 0 passes its check again");
    let mark = cluster.process.mark();
    fs::write(&file, "").unwrap();
    cluster.line(mark, "fails its check (1 of 1000)");
    cluster.stop();
}

#[test]
fn a_worker_that_accepts_nothing_fails_its_check() {
    let options = ["--health-tcp", "--heartbeat", "off"];
    let Sick { cluster, .. } = sick("", &options);
    let before = cluster.wait_serving(2);
    std::thread::sleep(Duration::from_millis(600));
    assert_never(&cluster, "unhealthy");
    stop_process(before[&0]);
    cluster.line(0, "worker 1 in slot 0 is unhealthy: 3 checks in a row failed");
    replaced(&cluster, 0, before[&0]);
    cluster.stop();
}

#[test]
fn a_command_checks_what_it_likes() {
    let directory = tempfile::tempdir().unwrap();
    let (script, file) = (directory.path().join("check.sh"), directory.path().join("sick"));
    let text = format!(
        "#!/bin/sh\nkill -0 $PHALANX_WORKER_PID || exit 9\n[ $PHALANX_SLOT = 1 ] && [ -e {} ] || exit 0\necho worker $PHALANX_WORKER_ID is sick >&2\nexit 3\n",
        file.display()
    );
    fs::write(&script, text).unwrap();
    let command = format!("/bin/sh {}", script.display());
    let options = ["--health-command", &command, "--health-interval", "100ms"];
    let cluster = python(2, "0", &options);
    let before = cluster.wait_serving(2);
    fs::write(&file, "").unwrap();
    let line = cluster.line(0, "worker 2 in slot 1 is unhealthy");
    assert!(line.contains("exit status: 3: worker 2 is sick"), "{line}");
    fs::remove_file(&file).unwrap();
    replaced(&cluster, 1, before[&1]);
    assert_eq!(cluster.wait_serving(2)[&0], before[&0]);
    cluster.stop();
}

#[test]
fn what_is_handed_nothing_is_checked_on_its_own_port() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/slow.py");
    let refused = |args: &[&str], part: &str| {
        let mut all = vec!["run", "-i", "1"];
        all.extend(args);
        let words = ["--", "python3", program.to_str().unwrap(), "1"];
        let process = spawn(&mut phalanx(all.iter().chain(&words)));
        assert_ne!(process.wait_exit(LONG).unwrap().code(), Some(0));
        assert!(process.stderr().contains(part), "{part:?} in {}", process.stderr());
    };
    refused(&["--health-path", "/"], "--port-base");
    refused(&["--health-path", "healthz"], "begins with a slash");
    refused(&["--health-tcp", "--health-path", "/"], "cannot be used with");
    refused(&["--health-interval", "1s"], "required");

    let address = v4();
    let base = address.port().to_string();
    let serve = format!("exec python3 {} $PORT 600", program.display());
    let options = [
        "--port-base",
        &base,
        "--health-path",
        "/",
        "--health-interval",
        "100ms",
        "--health-timeout",
        "400ms",
    ];
    let mut args = vec!["run", "-i", "1"];
    args.extend(options);
    args.extend(["--", "/bin/sh", "-c", &serve]);
    let cluster = Cluster { process: spawn(&mut phalanx(args)), address };
    cluster.wait_serving(1);
    let blocked = Blocked::as_it_says(&cluster);
    cluster.line(0, "worker 1 in slot 0 is unhealthy");
    replaced(&cluster, 0, blocked.pid);
    cluster.stop();
}

/// A connection that speaks another protocol, and the worker that has it.
fn upgraded(cluster: &Cluster) -> (TcpStream, u32) {
    let mut stream = TcpStream::connect(cluster.address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    let mut byte = [0];
    // The head, and a line of the other protocol.
    while text.split_once("\r\n\r\n").is_none_or(|(_, line)| !line.ends_with('\n')) {
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {text:?}"));
        text.push(char::from(byte[0]));
    }
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    let pid = text.lines().last().and_then(|line| line.parse().ok());
    (stream, pid.unwrap_or_else(|| panic!("no process in {text:?}")))
}

fn echo(stream: &mut TcpStream, word: &str) {
    stream.write_all(word.as_bytes()).unwrap();
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).unwrap_or_else(|error| panic!("{word}: {error}"));
    assert_eq!(back, word.as_bytes());
}

#[test]
fn several_generations_drain_at_once_as_long_as_they_have_upgraded_connections() {
    let cluster = javascript(1, &["--grace", "1s"], &[]);
    let mut streams = Vec::new();
    for number in 1..=3 {
        streams.push(upgraded(&cluster));
        cluster.reload(number);
    }
    // Several times the grace time of each, and what would follow it.
    for _ in 0..5 {
        std::thread::sleep(Duration::from_secs(1));
        streams.iter_mut().for_each(|(stream, _)| echo(stream, "still here"));
    }
    assert_eq!(cluster.workers().len(), 4);
    for (stream, pid) in streams {
        assert!(process::is_alive(pid));
        let mark = cluster.process.mark();
        drop(stream);
        cluster.line(mark, "is gone (reload): code 0");
        assert!(!process::is_alive(pid));
    }
    assert_never(&cluster, "did not finish");
    cluster.stop();
}

#[test]
fn what_is_left_of_them_at_the_end_of_their_time_is_counted_and_cut() {
    let cluster = javascript(1, &["--grace", "1s", "--grace-upgraded", "4s"], &[]);
    let (mut first, pid) = upgraded(&cluster);
    let (second, _) = upgraded(&cluster);
    let mark = cluster.process.mark();
    cluster.reload(1);
    std::thread::sleep(Duration::from_millis(2_500));
    echo(&mut first, "in time");
    cluster.line(mark, "2 connections are cut");
    cluster.line(mark, "worker 1 in slot 0 did not finish within 4.0s: SIGTERM");
    cluster.line(mark, "is gone (reload): SIGKILL");
    assert!(!process::is_alive(pid));
    drop((first, second));
    cluster.stop();
}

#[test]
fn a_stop_does_not_wait_for_them_longer_than_for_others() {
    let cluster = javascript(1, &["--grace", "1s"], &[]);
    let (_old, _) = upgraded(&cluster);
    cluster.reload(1);
    let (_new, _) = upgraded(&cluster);
    let begin = Instant::now();
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
}
