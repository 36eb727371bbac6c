//! Programs that speak systemd's protocol: sockets by `LISTEN_FDS`, words by `NOTIFY_SOCKET`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use bench::process;
use bench::spawned::Signal;
use common::{
    Cluster, LONG, accepted, assert_lossless, exchange, get, one_per_request, phalanx, signal,
    slot_of, spawn, stop_process, v4, v6,
};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Debian's own interpreter where there is one: what else is called so may be a script that starts it.
fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/notify.py")
}

/// `phalanx run OPTIONS -- python3 notify.py STEPS`.
fn command(options: &[&str], steps: &[&str]) -> Command {
    let mut command = phalanx(["run"]);
    command.args(options).args(["--", python()]).arg(program()).args(steps);
    command
}

/// The same, on one address that it listens on.
fn start(address: SocketAddr, options: &[&str], steps: &[&str]) -> Cluster {
    let listen = address.to_string();
    let options = [&["--listen", &listen], options].concat();
    Cluster { process: spawn(&mut command(&options, steps)), address }
}

/// What one slot's program said so far, of that step.
fn said(cluster: &Cluster, slot: u32, step: &str) -> Vec<String> {
    let prefix = format!("[{slot}] {step}: ");
    let output = cluster.process.output();
    output.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
}

/// Waits until that slot's program is through.
fn through(cluster: &Cluster, slot: u32) {
    cluster.line(0, &format!("[{slot}] end: ok"));
}

/// What a program with these sockets and the channel has open: beside them the standard streams, and what whoever ran
/// this test left open for everybody.
fn open(sockets: &[u32]) -> String {
    let mut all: BTreeSet<u32> = (0..3).chain(sockets.iter().copied()).collect();
    for entry in fs::read_dir("/proc/self/fdinfo").unwrap() {
        let entry = entry.unwrap();
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        // Without O_CLOEXEC.
        if u32::from_str_radix(flags.trim(), 8).unwrap() & 0o2_000_000 == 0 {
            all.insert(entry.file_name().to_string_lossy().parse().unwrap());
        }
    }
    all.iter().fold("open".to_owned(), |text, number| format!("{text} {number}"))
}

fn stop(cluster: &Cluster) {
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0, "{}", cluster.process.output());
}

#[test]
fn sockets_are_handed_over() {
    handed_over("direct");
}

#[test]
fn one_socket_is_handed_over_to_all() {
    handed_over("shared");
}

fn handed_over(policy: &str) {
    let address = v4();
    let cluster = start(address, &["-i", "2", "--policy", policy], &["check", "serve"]);
    cluster.wait_serving(2);
    for slot in 0..2 {
        let port = address.port();
        through(&cluster, slot);
        assert_eq!(
            said(&cluster, slot, "check"),
            [
                "1 sockets for me".to_owned(),
                format!("3 {port} 127.0.0.1 {port} blocking inherited listening"),
                open(&[3, 4]),
            ],
            "{}",
            cluster.process.output()
        );
    }
    // A replacement and successors see the same.
    let before = cluster.wait_serving(2);
    signal(before[&0], Signal::KILL);
    cluster
        .wait_answers("a replacement", |slots| slots.get(&0).is_some_and(|pid| *pid != before[&0]));
    cluster.reload(1);
    cluster.wait_answers("successors", |slots| {
        slots.len() == 2 && slots.values().all(|pid| !before.values().any(|old| old == pid))
    });
    for slot in 0..2 {
        let all: BTreeSet<String> = said(&cluster, slot, "check").into_iter().collect();
        assert_eq!(all.len(), 3, "not always the same: {all:?}");
    }
    stop(&cluster);
}

#[test]
fn several_with_names() {
    let (web, admin) = (v4(), v6());
    let directory = tempfile::tempdir().unwrap();
    // A path in which there is what divides a name from an address.
    let path = directory.path().join("a=b.sock");
    let third = format!("unix:{}", path.display());
    let (first, second) = (format!("web={web}"), format!("admin={admin}"));
    let options = ["-i", "2", "--listen", &first, "--listen", &second, "--listen", &third];
    let cluster = Cluster {
        process: spawn(&mut command(&options, &["check", "env", "serve"])),
        address: web,
    };
    cluster.wait_serving(2);
    through(&cluster, 0);
    let lines = said(&cluster, 0, "check");
    assert_eq!(lines[0], "3 sockets for me");
    assert_eq!(lines[1], format!("3 web 127.0.0.1 {} blocking inherited listening", web.port()));
    assert_eq!(lines[2], format!("4 admin ::1 {} blocking inherited listening", admin.port()));
    let third = format!("{} blocking inherited listening", path.display());
    assert!(lines[3].starts_with("5 ") && lines[3].ends_with(&third), "{lines:?}");
    assert_eq!(lines[4], open(&[3, 4, 5, 6]));
    let names = said(&cluster, 0, "env");
    assert!(names.iter().any(|line| line.starts_with("LISTEN_FDNAMES web:admin:")), "{names:?}");
    get(admin, "/", LONG).expect("the second address answers");
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    exchange(stream, "/").expect("the unix socket answers");
    stop(&cluster);
    assert!(!path.exists(), "the socket's file is left");
}

#[test]
fn names_that_are_none() {
    for name in ["", "a:b", "a\u{7}b", "ä", &"x".repeat(256)] {
        let option = format!("--listen={name}=127.0.0.1:{}", v4().port());
        let process = spawn(&mut command(&["-i", "1", &option], &["serve"]));
        let status = process.wait_exit(LONG).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(status.code(), Some(2), "{name:?}: {}", process.output());
        assert!(process.stderr().contains("--listen"), "{name:?}: {}", process.output());
    }
}

#[test]
fn nothing_of_the_primary_s_own_environment_is_passed_on() {
    let address = v4();
    let listen = address.to_string();
    for (options, expected) in [
        (&["-i", "1", "--ready", "notify"][..], ["None", "None", "None"]),
        (&["-i", "1", "--ready", "notify", "--listen", &listen], ["1", "me", "web"]),
    ] {
        let mut command = command(options, &["env", "notify=READY=1"]);
        command.env("NOTIFY_SOCKET", "/no/such/socket").env("LISTEN_PIDFDID", "7");
        command.env("LISTEN_FDS", "3").env("LISTEN_PID", "1").env("LISTEN_FDNAMES", "foreign");
        command.env("WATCHDOG_USEC", "1").env("WATCHDOG_PID", "1");
        let cluster = Cluster { process: spawn(&mut command), address };
        cluster.line(0, "worker 1 in slot 0 is ready");
        through(&cluster, 0);
        let lines = said(&cluster, 0, "env");
        let port = address.port().to_string();
        let names = if expected[2] == "web" { port.as_str() } else { expected[2] };
        assert_eq!(lines[0], format!("LISTEN_FDS {}", expected[0]), "{lines:?}");
        assert_eq!(lines[1], format!("LISTEN_PID {}", expected[1]), "{lines:?}");
        assert_eq!(lines[2], format!("LISTEN_FDNAMES {names}"), "{lines:?}");
        assert!(lines[3] != "NOTIFY_SOCKET None" && !lines[3].contains("/no/such"), "{lines:?}");
        for line in &lines[4..] {
            assert!(line.ends_with(" None"), "{line}");
        }
        stop(&cluster);
    }
}

#[test]
fn a_reload_waits_for_ready() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let until = format!("until={}", go.display());
    fs::write(&go, "").unwrap();
    let steps = ["serve", "socket", &until, "notify=READY=1"];
    let cluster = start(v4(), &["-i", "1", "--ready", "notify"], &steps);
    cluster.line(0, "worker 1 in slot 0 is ready");
    let old = cluster.workers();
    fs::remove_file(&go).unwrap();
    let mark = cluster.process.mark();
    cluster.process.signal(Signal::USR2).unwrap();
    cluster.wait_workers(2);
    // The successor accepts, or not, but it is not ready: the old one stays.
    cluster.process.wait_for_line_since(mark, |line| line.contains("[0] socket: "), LONG).unwrap();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(700) {
        get(cluster.address, "/", LONG).expect("the old one goes on");
        assert!(process::is_alive(old[0]), "{}", cluster.process.output());
    }
    assert!(!cluster.process.output().contains("reload 1 is done"), "{}", cluster.process.output());
    fs::write(&go, "").unwrap();
    cluster.line(0, "reload 1 is done");
    cluster.until("the old one to end", || (!process::is_alive(old[0])).then_some(()));
    stop(&cluster);
}

#[test]
fn never_ready_is_killed_in_time() {
    let options = ["-i", "1", "--ready", "notify", "--start-timeout", "700ms"];
    let begin = Instant::now();
    let cluster = start(v4(), &options, &["serve", "notify=STATUS=still trying"]);
    let line = cluster.process.wait_for_line(
        |line| {
            line.contains("worker 1 in slot 0")
                && (line.contains("not ready") || line.contains("killed"))
        },
        LONG,
    );
    let line = line.unwrap_or_else(|error| panic!("{error}"));
    assert!(begin.elapsed() > Duration::from_millis(700), "{:?}: {line}", begin.elapsed());
    assert!(!cluster.process.stderr().contains("is ready:"), "{}", cluster.process.stderr());
    stop(&cluster);
}

#[test]
fn what_waits_for_a_worker_that_is_never_ready_is_its_successor_s() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let until = format!("until={}", go.display());
    let options = ["-i", "1", "--ready", "notify", "--start-timeout", "2s"];
    let cluster = start(v4(), &options, &[&until, "serve", "notify=READY=1"]);
    let address = cluster.address;
    cluster.wait_workers(1);
    let client = std::thread::spawn(move || get(address, "/", Duration::from_secs(10)));
    cluster.line(0, "worker 1 in slot 0 is gone");
    fs::write(&go, "").unwrap();
    cluster.line(0, "worker 2 in slot 0 is ready");
    let answer = client.join().unwrap();
    answer.unwrap_or_else(|error| panic!("{error}\n{}", cluster.process.output()));
    stop(&cluster);
}

#[test]
fn a_bad_reload_leaves_the_old_ones() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    fs::write(&go, "").unwrap();
    let until = format!("until={}", go.display());
    let options = ["-i", "2", "--ready", "notify", "--start-timeout", "4s"];
    let cluster = start(v4(), &options, &[&until, "serve", "notify=READY=1"]);
    let before = cluster.wait_serving(2);
    for worker in ["worker 1 in slot 0 is ready", "worker 2 in slot 1 is ready"] {
        cluster.line(0, worker);
    }
    fs::remove_file(&go).unwrap();
    let load = one_per_request(&cluster);
    cluster.process.signal(Signal::USR2).unwrap();
    cluster.line(0, "reload 1 stopped");
    cluster.wait_workers(2);
    let after: BTreeSet<u32> = cluster.workers().into_iter().collect();
    assert_eq!(after, before.values().copied().collect(), "{}", cluster.process.output());
    cluster.wait_serving(2);
    assert_lossless("a reload that fails", &load.stop(), &cluster.process);
    assert!(!cluster.process.output().contains("reload 1 is done"), "{}", cluster.process.output());
    fs::write(&go, "").unwrap();
    stop(&cluster);
}

#[test]
fn stopping_is_leaving() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let until = format!("until={}", go.display());
    let steps =
        ["serve=polled-", "notify=READY=1", "slot=0", &until, "notify=STOPPING=1", "stop=0"];
    let cluster = start(v4(), &["-i", "2", "--ready", "notify"], &steps);
    let before = cluster.wait_serving(2);
    // A worker that ends right after it was born would be a crash.
    let ready = Instant::now();
    let load = one_per_request(&cluster);
    cluster.until("a second of service", || {
        (ready.elapsed() > Duration::from_millis(1200)).then_some(())
    });
    let mark = cluster.process.mark();
    fs::write(&go, "").unwrap();
    cluster.until("the worker to be gone", || (!process::is_alive(before[&0])).then_some(()));
    fs::remove_file(&go).unwrap();
    cluster
        .wait_answers("a replacement", |slots| slots.get(&0).is_some_and(|pid| *pid != before[&0]));
    assert_lossless("a worker that stops by itself", &load.stop(), &cluster.process);
    let log = cluster.process.output();
    let log: Vec<&str> = log.lines().skip(usize::try_from(mark).unwrap()).collect();
    assert!(
        !log.iter().any(|line| line.contains("unasked")),
        "it left, it did not crash: {log:#?}"
    );
    assert!(log.iter().any(|line| line.contains("worker 1 in slot 0")), "{log:#?}");
    stop(&cluster);
}

#[test]
fn a_status_is_shown_and_forges_nothing() {
    let steps = [
        "notify=STATUS=warming the cache",
        "notify=READY=1\\nSTATUS=at work, both in one",
        "notify=STATUS=x\\x1b[2J\\r2026-01-01T00:00:00Z ERROR forged",
        "notify=STATUS=\\xff\\xfe not text",
    ];
    let cluster = start(v4(), &["-i", "1", "--ready", "notify"], &steps);
    for words in ["warming the cache", "at work, both in one", "forged"] {
        let line = cluster.line(0, words);
        assert!(line.contains("worker"), "it does not say whose status it is: {line}");
    }
    cluster.line(0, "worker 1 in slot 0 is ready");
    through(&cluster, 0);
    let log = cluster.process.stderr();
    assert!(
        !log.contains('\u{1b}') && !log.contains('\r'),
        "control characters in the log: {log:?}"
    );
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{log}");
    let long = format!("notify=STATUS={}", "y".repeat(60_000));
    let cluster = {
        stop(&cluster);
        start(v4(), &["-i", "1", "--ready", "notify"], &[&long, "notify=READY=1"])
    };
    cluster.line(0, "worker 1 in slot 0 is ready");
    let longest = cluster.process.stderr().lines().map(str::len).max().unwrap();
    assert!(longest < 8_192, "a worker made the log have a line of {longest} bytes");
    stop(&cluster);
}

#[test]
fn reloading_is_no_end() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let until = format!("until={}", go.display());
    let steps = [
        "serve",
        "notify=READY=1",
        "notify=RELOADING=1\\nMONOTONIC_USEC=1",
        &until,
        "notify=READY=1",
    ];
    let options = ["-i", "1", "--ready", "notify", "--start-timeout", "3s"];
    let cluster = start(v4(), &options, &steps);
    let worker = cluster.wait_serving(1)[&0];
    // Longer than a start may take: it does not start, it reloads what it has to reload.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(3500) {
        assert_eq!(get(cluster.address, "/", LONG).unwrap().pid, worker);
    }
    fs::write(&go, "").unwrap();
    through(&cluster, 0);
    cluster.reload(1);
    assert_eq!(cluster.process.stderr().matches("worker 1 in slot 0 is ready").count(), 1);
    stop(&cluster);
}

#[test]
fn a_watchdog() {
    let directory = tempfile::tempdir().unwrap();
    let silent = directory.path().join("silent");
    let steps = ["env", "serve", "watchdog=0.1", "notify=READY=1"];
    let address = v4();
    let listen = address.to_string();
    let options = ["-i", "2", "--listen", &listen, "--ready", "notify", "--watchdog", "600ms"];
    let mut command = command(&options, &steps);
    let cluster = Cluster { process: spawn(command.env("SILENT_WHEN", &silent)), address };
    let before = cluster.wait_serving(2);
    let lines = said(&cluster, 0, "env");
    assert!(lines.contains(&"WATCHDOG_USEC 600000".to_owned()), "{lines:?}");
    assert!(lines.contains(&"WATCHDOG_PID me".to_owned()), "{lines:?}");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1800) {
        let answer = get(address, "/", LONG).unwrap();
        assert_eq!(before[&answer.slot], answer.pid, "killed though it pings");
    }
    let mark = cluster.process.mark();
    let begin = Instant::now();
    fs::write(&silent, "").unwrap();
    cluster.until("the silent one to be killed", || (!process::is_alive(before[&0])).then_some(()));
    let took = begin.elapsed();
    assert!(
        took > Duration::from_millis(450) && took < Duration::from_secs(5),
        "killed after {took:?}"
    );
    let line = cluster.process.wait_for_line_since(
        mark,
        |line| line.contains("worker 1 in slot 0") && line.to_lowercase().contains("watchdog"),
        LONG,
    );
    line.unwrap_or_else(|error| panic!("it is not said why: {error}"));
    let after = cluster.wait_answers("a replacement", |slots| {
        slots.get(&0).is_some_and(|pid| *pid != before[&0]) && slots.len() == 2
    });
    assert_eq!(after[&1], before[&1], "the other one was not silent");
    stop(&cluster);
}

#[test]
fn a_watchdog_that_is_never_fed() {
    // A program that knows nothing of it: it was asked for on the command line, and is not given.
    let options = ["-i", "1", "--watchdog", "500ms", "--ready", "notify"];
    let cluster = start(v4(), &options, &["serve", "notify=READY=1"]);
    let line = cluster.process.wait_for_line(
        |line| line.contains("worker 1 in slot 0") && line.to_lowercase().contains("watchdog"),
        LONG,
    );
    line.unwrap_or_else(|error| panic!("{error}"));
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn a_watchdog_s_trigger() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let until = format!("until={}", go.display());
    let steps =
        ["serve", "notify=READY=1", "watchdog=0.2", "slot=0", &until, "notify=WATCHDOG=trigger"];
    let options = ["-i", "2", "--ready", "notify", "--watchdog", "60s"];
    let cluster = start(v4(), &options, &steps);
    let before = cluster.wait_serving(2);
    fs::write(&go, "").unwrap();
    cluster.until("the worker to be killed", || (!process::is_alive(before[&0])).then_some(()));
    fs::remove_file(&go).unwrap();
    cluster.wait_answers("a replacement", |slots| {
        slots.get(&0).is_some_and(|pid| *pid != before[&0] && process::is_alive(*pid))
    });
    let log = cluster.process.stderr().to_lowercase();
    assert!(log.contains("watchdog") || log.contains("trigger"), "{log}");
    stop(&cluster);
}

#[test]
fn what_is_refused_is_said_and_kept_by_nobody() {
    let steps = ["serve", "notify=MAINPID=1", "store=100", "barrier", "notify=READY=1"];
    let cluster = start(v4(), &["-i", "1", "--ready", "notify"], &steps);
    cluster.line(0, "worker 1 in slot 0 is ready");
    let log = cluster.process.stderr();
    for word in ["MAINPID", "FDSTORE"] {
        let count = log.lines().filter(|line| line.contains(word)).count();
        assert!(count >= 1, "not a word about {word}: {log}");
        assert!(count < 20, "{count} lines about {word}");
    }
    // systemd-notify waits for this before it ends.
    cluster.line(0, "[0] barrier: passed");
    let open = process::open_descriptors(cluster.pid()).unwrap();
    assert!(open < 60, "the primary keeps what it was sent: {open} descriptors");
    assert_eq!(cluster.workers().len(), 1);
    stop(&cluster);
}

#[test]
fn garbage_does_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let until = format!("until={}", go.display());
    let steps = ["serve", "garbage", &until, "notify=READY=1"];
    let cluster = start(v4(), &["-i", "1", "--ready", "notify"], &steps);
    cluster.line(0, "[0] garbage: sent");
    let worker = cluster.wait_serving(1)[&0];
    assert!(!cluster.process.stderr().contains("is ready:"), "{}", cluster.process.stderr());
    fs::write(&go, "").unwrap();
    cluster.line(0, "worker 1 in slot 0 is ready");
    assert_eq!(cluster.wait_serving(1)[&0], worker);
    let log = cluster.process.stderr();
    assert!(!log.contains("panicked"), "{log}");
    assert!(log.len() < 50_000, "{} bytes of log for two dozen datagrams", log.len());
    stop(&cluster);
}

#[test]
fn nobody_else_speaks_for_a_worker() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let until = format!("until={}", go.display());
    let steps = ["socket", &until, "notify=READY=1"];
    let cluster = start(v4(), &["-i", "1", "--ready", "notify"], &steps);
    cluster.line(0, "[0] socket: ");
    let path = said(&cluster, 0, "socket").remove(0);
    // Another user, if this one may become another; he need not even reach the socket.
    let root = fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t");
    if root {
        let send = "import os, socket, sys
p = os.environ['TO']
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
try:
    s.sendto(b'READY=1', '\\0' + p[1:] if p[0] == '@' else p)
    s.sendto(b'STOPPING=1', '\\0' + p[1:] if p[0] == '@' else p)
    print('sent')
except OSError as error:
    print(error)";
        let ids = ["--reuid", "65534", "--regid", "65534", "--clear-groups", python(), "-c", send];
        let output = common::clean("setpriv", ids).env("TO", &path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        eprintln!("another user: {}", String::from_utf8_lossy(&output.stdout).trim());
    }
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(500) {
        let log = cluster.process.stderr();
        assert!(
            !log.contains("is ready:") && !log.contains("stopping"),
            "another was believed: {log}"
        );
        std::thread::yield_now();
    }
    fs::write(&go, "").unwrap();
    cluster.line(0, "worker 1 in slot 0 is ready");
    stop(&cluster);
}

#[test]
fn a_flood_stops_nobody() {
    let steps = ["serve", "notify=READY=1", "slot=0", "flood=4"];
    let cluster = start(v4(), &["-i", "2", "--ready", "notify"], &steps);
    let before = cluster.wait_serving(2);
    let load = one_per_request(&cluster);
    cluster.until("load", || (load.progress().answered() > 100).then_some(()));
    // Signals, restarts and readiness come through meanwhile.
    let mark = cluster.process.mark();
    signal(before[&1], Signal::KILL);
    cluster
        .process
        .wait_for_line_since(
            mark,
            |line| line.contains("in slot 1 is ready"),
            Duration::from_secs(3),
        )
        .unwrap_or_else(|error| {
            panic!("no replacement during the flood: {}", common::tail(&error))
        });
    let outcome = load.stop();
    eprintln!("during a flood: {outcome}");
    let flood = cluster.line(0, "[0] flood: ");
    eprintln!("{flood}");
    let log = cluster.process.stderr();
    assert!(log.lines().count() < 2_000, "{} lines of log", log.lines().count());
    let rss = process::rss_bytes(cluster.pid()).unwrap() >> 20;
    assert!(rss < 100, "the primary has {rss} MB");
    cluster.reload(1);
    stop(&cluster);
}

#[test]
fn reloads_and_kills_lose_nothing() {
    let cluster = start(v4(), &["-i", "3"], &["serve", "notify=READY=1"]);
    cluster.wait_serving(3);
    let load = one_per_request(&cluster);
    let mut had: BTreeSet<SocketAddr> = BTreeSet::new();
    for number in 1..=4 {
        cluster.reload(number);
        let victim = cluster.until("a worker in slot 1", || {
            let workers = cluster.wait_workers(3);
            workers.into_iter().find(|pid| slot_of(*pid) == Some(1))
        });
        let answered = load.progress().answered();
        cluster.until("the load to go on", || {
            (load.progress().answered() > answered + 20).then_some(())
        });
        stop_process(victim);
        had.extend(accepted(victim));
        signal(victim, Signal::KILL);
        cluster.until("the replacement", || {
            cluster.workers().into_iter().find(|pid| *pid != victim && slot_of(*pid) == Some(1))
        });
        cluster.wait_serving(3);
    }
    let outcome = load.stop();
    eprintln!("4 reloads, 4 kills: {outcome}");
    let lost: Vec<String> = outcome
        .errors
        .iter()
        .filter(|failure| !failure.local.is_some_and(|local| had.contains(&local)))
        .map(ToString::to_string)
        .collect();
    assert!(
        lost.is_empty(),
        "not connections of killed workers: {lost:#?}\n{}",
        cluster.process.output()
    );
    assert!(outcome.answered > 500, "{outcome}");
    stop(&cluster);
}
