//! What people get wrong: a clear message, the right exit code, and nothing left over.
#![allow(clippy::unwrap_used)]

mod common;

use bench::load::Load;
use bench::spawned::{Guarded, Signal};
use bench::wait;
use common::{
    Cluster, LONG, PHALANX, POLICIES, assert_lossless, clean, exchange, get, is_free, phalanx, sh,
    signal, spawn, v4,
};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Runs to the end, which must come soon: exit code and stderr, with nothing left over.
fn run(command: &mut Command) -> (i32, String) {
    let process = spawn(command);
    let status = process.wait_exit(LONG).unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(process.record().is_empty(), "{command:?} left processes");
    let code = status.code().unwrap_or_else(|| panic!("{command:?}: {status}"));
    let text = process.stderr();
    assert!(!text.contains("panicked"), "{command:?}: {text}");
    (code, text)
}

/// Runs, and expects that exit code and those words.
#[track_caller]
fn fails(command: &mut Command, code: i32, words: &[&str]) {
    let (got, text) = run(command);
    assert_eq!(got, code, "{command:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{command:?} does not say {word:?}: {text}");
    }
}

/// A file in a directory that goes with the test.
fn file(directory: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_port_in_use_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    for policy in POLICIES {
        let words = [address.as_str(), "in use", "hint:"];
        fails(&mut phalanx(["demo", "--listen", &address, "--policy", policy]), 5, &words);
        let run = ["run", PHALANX, "--listen", &address, "--policy", policy, "--", "demo"];
        fails(&mut phalanx(run), 5, &words);
    }
}

#[test]
fn a_second_demo_on_the_port_leaves_the_first_alone() {
    for policy in POLICIES {
        let first = Cluster::demo(2, &["--policy", policy]);
        let address = first.address.to_string();
        for second in POLICIES {
            let command = ["demo", "--listen", &address, "--policy", second];
            fails(&mut phalanx(command), 5, &[&address, "in use"]);
        }
        let workers = first.workers();
        for _ in 0..20 {
            assert!(workers.contains(&get(first.address, "/", LONG).unwrap().pid));
        }
        first.stop();
    }
}

#[test]
fn addresses_that_cannot_be_had() {
    fails(&mut phalanx(["demo", "--listen", "192.0.2.1:1"]), 5, &["192.0.2.1:1", "hint:"]);
    for text in
        ["", "nonsense", "127.0.0.1", "1.2.3.4.5:80", "127.0.0.1:99999", "unix:", "::1", "-"]
    {
        let option = format!("--listen={text}");
        fails(&mut phalanx(["demo", &option]), 2, &["no address", "HOST:PORT"]);
    }
    let long = format!("unix:/tmp/{}", "x".repeat(5_000));
    fails(&mut phalanx(["demo", "--listen", &long]), 5, &["cannot listen on"]);
    fails(
        &mut phalanx(["demo", "--listen", "unix:/no/such/directory/sock"]),
        5,
        &["/no/such/directory/sock", "No such file"],
    );
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "precious", "data", 0o644);
    let listen = format!("unix:{}", path.display());
    fails(&mut phalanx(["demo", "--listen", &listen]), 5, &[&listen, "in use"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn a_second_demo_on_a_unix_socket_leaves_the_first_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let listen = format!("unix:{}", path.display());
    let first = spawn(&mut phalanx(["demo", "-i", "2", "--listen", &listen]));
    let ask = || exchange(UnixStream::connect(&path)?, "/");
    wait::until(LONG, "the first to answer", || ask().ok()).unwrap();
    for policy in ["round-robin", "shared"] {
        let second = ["demo", "--listen", &listen, "--policy", policy];
        fails(&mut phalanx(second), 5, &[&listen, "in use"]);
        ask().expect("the first goes on");
    }
    first.signal(Signal::TERM).unwrap();
    assert_eq!(first.wait_exit(LONG).unwrap().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn without_permission() {
    let root = fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t");
    let unprivileged = || {
        if root {
            // This binary's directory may be closed to others: a copy that is not.
            let directory = tempfile::tempdir().unwrap();
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let copy = directory.path().join("phalanx");
            fs::copy(PHALANX, &copy).unwrap();
            let ids = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
            let mut command = clean("setpriv", ids);
            command.arg(&copy);
            (command, Some(directory))
        } else {
            (phalanx([""; 0]), None)
        }
    };
    let lowest = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if lowest.trim().parse::<u32>().unwrap() > 80 {
        let (mut command, _copy) = unprivileged();
        command.args(["demo", "--listen", "127.0.0.1:80"]);
        fails(&mut command, 5, &["127.0.0.1:80", "ermission denied", "hint:", "1024"]);
    }
    let closed = tempfile::tempdir().unwrap();
    let forbidden = closed.path().join("forbidden");
    fs::create_dir(&forbidden).unwrap();
    fs::set_permissions(&forbidden, fs::Permissions::from_mode(0o555)).unwrap();
    let listen = format!("unix:{}/sock", forbidden.display());
    let (mut command, _copy) = unprivileged();
    fails(command.args(["demo", "--listen", &listen]), 5, &[&listen, "ermission denied", "hint:"]);
}

#[test]
fn unknown_policies() {
    let words = ["`fair`", "direct, round-robin and shared"];
    fails(&mut phalanx(["demo", "--policy", "fair"]), 2, &words);
    fails(&mut phalanx(["run", PHALANX, "--policy", "fair"]), 2, &words);
    fails(phalanx(["demo"]).env("PHALANX_POLICY", "fair"), 2, &words);
    fails(phalanx(["run", PHALANX]).env("PHALANX_POLICY", "fair"), 2, &words);
}

#[test]
fn impossible_numbers_of_workers() {
    for number in ["0", "513", "100000", "-1", "1.5", "many", "", "99999999999999999999"] {
        let count = format!("--instances={number}");
        fails(&mut phalanx(["demo", &count]), 2, &["1 to 512", &format!("'{number}'")]);
        // 0 and less: counted from the cores.
        if !["0", "-1"].contains(&number) {
            fails(&mut phalanx(["run", PHALANX, &count]), 2, &["1 to 512"]);
        }
    }
}

#[test]
fn garbage_on_the_command_line() {
    fails(&mut phalanx(["--nonsense"]), 2, &["--nonsense"]);
    fails(&mut phalanx(["nonsense"]), 2, &["nonsense"]);
    fails(&mut phalanx(["demo", "--listen"]), 2, &["--listen"]);
    fails(&mut phalanx(["demo", "extra"]), 2, &["extra"]);
    fails(&mut phalanx(["demo", "-i"]), 2, &["--instances"]);
    fails(&mut phalanx(["run"]), 2, &["PROGRAM"]);
    fails(&mut phalanx(["run", PHALANX, "--no-such"]), 2, &["--no-such"]);
    fails(&mut phalanx([""; 0]), 2, &["Usage"]);
    use std::os::unix::ffi::OsStrExt;
    let bytes = std::ffi::OsStr::from_bytes(b"--listen=\xff\xfe");
    fails(phalanx(["demo"]).arg(bytes), 2, &["UTF-8"]);
    let (code, _) = run(&mut phalanx(["--help"]));
    assert_eq!(code, 0);
    let (code, _) = run(&mut phalanx(["--version"]));
    assert_eq!(code, 0);
}

#[test]
fn programs_that_cannot_be_started() {
    let directory = tempfile::tempdir().unwrap();
    let plain = file(directory.path(), "plain", "#!/bin/sh\n", 0o644);
    let broken = file(directory.path(), "broken", "#!/no/such/interpreter\n", 0o755);
    let nowhere = directory.path().join("nowhere");
    for (path, word) in [
        (nowhere.as_path(), "No such file"),
        (&plain, "not executable"),
        (directory.path(), "directory"),
        (&plain.join("below"), "Not a directory"),
        (Path::new(""), "cannot start"),
    ] {
        let text = path.display().to_string();
        fails(phalanx(["run"]).arg(path), 3, &["cannot start", &text, word]);
    }
    fails(
        &mut phalanx(["run", "no-such-program-anywhere"]),
        3,
        &["no-such-program-anywhere", "hint:"],
    );
    // Found only when it is started: its interpreter is missing.
    let (code, text) = run(phalanx(["run"]).arg(&broken));
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("broken") && text.contains("No such file"), "{text}");
}

#[test]
fn a_text_file_is_no_worker() {
    let directory = tempfile::tempdir().unwrap();
    // As a shell does, the C library gives a file without `#!` to /bin/sh.
    let text = file(directory.path(), "notes", "these-are notes\n", 0o755);
    let (code, said) = run(phalanx(["run", "-i", "2"]).arg(&text));
    assert!(matches!(code, 3 | 4), "{code}: {said}");
    assert!(said.contains("notes"), "{said}");
}

#[test]
fn programs_that_exit_at_once() {
    let places = [("/bin/true", "code 0"), ("/bin/false", "code 1")];
    for (program, word) in places {
        let begin = Instant::now();
        let words = ["no worker became ready", word, program];
        fails(&mut phalanx(["run", program, "-i", "2"]), 4, &words);
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(8), "{program}: {took:?}");
    }
}

#[test]
fn closed_standard_streams() {
    let address = v4();
    let script = format!("exec \"$PHALANX\" demo --listen {address} -i 2 <&- >&- 2>&-");
    let cluster = Cluster { process: spawn(&mut sh(&script)), address };
    cluster.wait_serving(2);
    cluster.stop();
}

#[test]
fn a_standard_output_that_nobody_reads() {
    let directory = tempfile::tempdir().unwrap();
    let address = v4();
    // The reader opens the pipe and ends; `wait` sees its end before the program writes.
    let script = format!(
        "mkfifo pipe; : < pipe & exec 6> pipe; wait; exec \"$PHALANX\" demo --listen {address} -i 2 >&6 2>&6 6>&-"
    );
    let cluster = Cluster { process: spawn(sh(&script).current_dir(directory.path())), address };
    cluster.wait_serving(2);
    // A reload, of which the log cannot be read.
    let before = cluster.wait_serving(2);
    cluster.process.signal(Signal::USR2).unwrap();
    cluster.wait_answers("new workers", |slots| {
        slots.len() == 2 && slots.values().all(|pid| !before.values().any(|old| old == pid))
    });
    cluster.stop();
}

/// The number in the last line with these words.
fn last_number(process: &Guarded, before: &str, after: &str) -> Option<u32> {
    let text = process.output();
    let line = text.lines().rev().find(|line| line.contains(before) && line.contains(after))?;
    line.split(before).nth(1)?.split(after).next()?.trim().parse().ok()
}

#[test]
fn a_burst_of_signals_under_load() {
    let cluster = Cluster::demo(3, &[]);
    let load = Load::new(cluster.address).clients(6).think(Duration::from_millis(2));
    let load = load.start().unwrap();
    cluster.until("load", || (load.progress().answered() > 50).then_some(()));
    for number in 0..1_000 {
        signal(cluster.pid(), if number % 2 == 0 { Signal::USR2 } else { Signal::HUP });
        // Signals of one kind that wait for a process are one: some are to arrive one by one.
        thread::sleep(Duration::from_micros(500));
    }
    let last = wait::until(LONG, "the last reload to be done", || {
        let begun = last_number(&cluster.process, "reload ", " begins")?;
        let done = last_number(&cluster.process, "reload ", " is done")?;
        (begun == done && cluster.workers().len() == 3).then_some(done)
    });
    let last = last.unwrap_or_else(|error| panic!("{error}\n{}", cluster.process.output()));
    let outcome = load.stop();
    eprintln!("1,000 signals were {last} reloads");
    assert_lossless("a burst of signals", &outcome, &cluster.process);
    let line = cluster.process.mark();
    cluster.process.signal(Signal::HUP).unwrap();
    cluster.line(line, &format!("reload {} is done", last + 1));
    cluster.wait_serving(3);
    let address = cluster.address;
    cluster.stop();
    assert!(is_free(address));
}
