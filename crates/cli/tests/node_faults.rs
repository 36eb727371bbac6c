//! Node programs that cannot be started, that fail, and that misbehave when they serve: it is said clearly,
//! the exit code is the documented one, and nobody else is harmed.
#![allow(clippy::unwrap_used)]

mod common;

use bench::load::Load;
use bench::process;
use bench::spawned::{Guarded, Signal};
use common::{
    Answer, Cluster, LONG, POLICIES, assert_lossless, clean, get, node, phalanx, sh, signal, spawn,
    stop_process, tail, v4,
};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than six crashes with their back-off take, several at a time on a busy machine.
const SIX_CRASHES: Duration = Duration::from_secs(120);
/// No line of the primary's is longer, whatever a worker says.
const LONGEST_LINE: usize = 2048;

fn file(directory: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// `phalanx run` of a script, with more arguments.
fn run(script: &Path, more: &[&str]) -> Command {
    let mut command = phalanx(["run"]);
    command.arg(script).args(more);
    command
}

/// It ends by itself with that code and says those words, in any order, and nothing is left.
#[track_caller]
fn ends(process: &Guarded, code: i32, words: &[&str]) {
    let status = process.wait_exit(SIX_CRASHES).unwrap_or_else(|error| panic!("{error}"));
    let said = process.stderr();
    assert_eq!(status.code(), Some(code), "{status}: {}", tail(&said));
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in:\n{}", tail(&said));
    }
    assert!(!said.contains("panicked"), "{}", tail(&said));
    assert!(process.record().is_empty(), "it left processes:\n{}", tail(&said));
}

#[track_caller]
fn fails(command: &mut Command, code: i32, words: &[&str]) {
    ends(&spawn(command), code, words);
}

/// All at a time: they wait more than they work.
fn all_fail(commands: Vec<(Command, i32, Vec<String>)>) {
    let start = |(mut command, code, words)| (spawn(&mut command), code, words);
    let started: Vec<(Guarded, i32, Vec<String>)> = commands.into_iter().map(start).collect();
    for (process, code, words) in &started {
        ends(process, *code, &words.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// The most memory that a process ever had.
fn peak_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

#[track_caller]
fn assert_small(cluster: &Cluster, what: &str, limit_mib: u64) {
    let peak = peak_bytes(cluster.pid()) >> 20;
    eprintln!("{what}: the primary had at most {peak} MiB");
    assert!(peak < limit_mib, "{what}: the primary had {peak} MiB, more than {limit_mib}");
}

/// The server with the faults.
fn server(workers: usize, more: &[&str]) -> Cluster {
    Cluster::run(&node("faults/server.js"), workers, more)
}

/// Who answered, and does that fault now; and what was in the log before.
#[track_caller]
fn fault(cluster: &Cluster, name: &str) -> (Answer, u64) {
    let mark = cluster.process.mark();
    let answer = get(cluster.address, &format!("/{name}"), LONG);
    (answer.unwrap_or_else(|error| panic!("{name}: {error}\n{}", log(cluster))), mark)
}

fn log(cluster: &Cluster) -> String {
    tail(&cluster.process.output())
}

/// Waits for the primary's line about a worker in that slot.
#[track_caller]
fn says(cluster: &Cluster, mark: u64, slot: u32, what: &str) -> String {
    let (one, two) = (format!("in slot {slot}"), format!("slot={slot} "));
    let about = |line: &str| (line.contains(&one) || line.contains(&two)) && line.contains(what);
    let line = cluster.process.wait_for_line_since(mark, about, LONG);
    line.unwrap_or_else(|error| panic!("no line about slot {slot} with {what:?}: {error}"))
}

/// The cluster answers meanwhile, but not by that process.
#[track_caller]
fn others_answer(cluster: &Cluster, but: u32) {
    for _ in 0..10 {
        let answer = get(cluster.address, "/", LONG);
        let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", log(cluster)));
        assert_ne!(answer.pid, but, "{}", log(cluster));
    }
}

/// As many slots as before serve, not by that process; then all stops as told and nothing is left.
fn heals(cluster: Cluster, workers: usize, gone: &[u32]) {
    cluster.wait_answers("all slots to be served by others", |slots| {
        slots.len() == workers && slots.values().all(|pid| !gone.contains(pid))
    });
    let said = cluster.process.stderr();
    assert!(!said.contains("panicked"), "{}", tail(&said));
    cluster.stop();
}

// --- Node itself ---

#[test]
fn a_node_that_is_missing_or_unfit() {
    let directory = tempfile::tempdir().unwrap();
    let program = node("server.js");
    let with_path = |path: &Path| {
        let mut command = run(&program, &[]);
        command.env("PATH", path);
        command
    };
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fails(&mut with_path(&empty), 3, &["`node`", "not in $PATH", "hint: install Node.js 20"]);
    for (name, script, words) in [
        ("old", "echo v12.22.12", ["v12.22.12", "too old"]),
        ("almost", "echo v18.20.0", ["v18.20.0", "too old"]),
        ("nonsense", "printf 'hello \\033[2J\\n'", ["hello \\u{1b}[2J", "is it Node?"]),
        ("silent", "exit 9", ["it said “”", "exit status: 9"]),
        ("binary", "printf '\\377\\376v20.1.0'", ["asked for its version", "is it Node?"]),
        ("long", "printf 'v%0100000d' 1", ["asked for its version", "is it Node?"]),
    ] {
        let place = directory.path().join(name);
        fs::create_dir(&place).unwrap();
        let path = file(&place, "node", &format!("#!/bin/sh\n{script}\n"), 0o755);
        let path = path.display().to_string();
        for mut command in [with_path(&place), run(&program, &["--interpreter", &path])] {
            let process = spawn(&mut command);
            ends(&process, 3, &[words[0], words[1], &path, "hint: "]);
            let said = process.stderr();
            assert!(said.len() < LONGEST_LINE && !said.contains('\u{1b}'), "{said:?}");
        }
    }
    let missing = directory.path().join("missing").display().to_string();
    for interpreter in ["no-such-node", &missing] {
        let words = ["cannot start", interpreter, "No such file", "hint: "];
        fails(&mut run(&program, &["--interpreter", interpreter]), 3, &words);
    }
    let plain = file(directory.path(), "plain", "", 0o644).display().to_string();
    let words = ["cannot start", &plain, "not executable", "hint: "];
    fails(&mut run(&program, &["--interpreter", &plain]), 3, &words);
}

// --- Scripts ---

#[test]
fn scripts_that_do_not_come_up() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let package = |name: &str, text: &str| {
        fs::create_dir(place.join(name)).unwrap();
        file(&place.join(name), "package.json", text, 0o644);
        place.join(name)
    };
    let script = |name: &str, text: &str| file(place, name, text, 0o644);
    let ready = "no worker became ready";
    let cases = [
        (script("broken.js", "not a program\n"), ["uncaught SyntaxError", "code 1"]),
        (script("broken.mjs", "import from nowhere\n"), ["SyntaxError", "code 1"]),
        (script("throws.js", "throw new TypeError('at load')\n"), ["TypeError: at load", "code 1"]),
        (script("rejects.mjs", "await Promise.reject(new Error('late'))\n"), ["late", "code 1"]),
        (script("alone.js", "require('not-installed')\n"), ["Cannot find module", "code 1"]),
        (script("zero.js", "process.exit(0)\n"), ["before it served: code 0", "ended"]),
        (script("three.js", "process.exit(3)\n"), ["before it served: code 3", "ended"]),
        (script("aborts.js", "process.abort()\n"), ["before it served: SIGABRT", "ended"]),
        (package("mainless", r#"{"main":"gone.js"}"#), ["Cannot find module", "code 1"]),
        (package("damaged", "{"), ["package.json", "code 1"]),
    ];
    let never = script("never.js", "setInterval(() => {}, 1000)\n");
    let mut commands: Vec<(Command, i32, Vec<String>)> = Vec::new();
    for (path, words) in cases {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let words = [&name, ready, "in slot 0", words[0], words[1]].map(str::to_owned);
        commands.push((run(&path, &["-i", "1"]), 4, words.into()));
    }
    let words = [ready, "never.js", "in slot 0 was not ready within 2.0s and is killed"];
    let words = words.map(str::to_owned).to_vec();
    commands.push((run(&never, &["-i", "1", "--start-timeout", "2s"]), 4, words));
    all_fail(commands);
}

#[test]
fn scripts_that_are_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    for name in ["missing.js", "missing.mjs", "missing.ts"] {
        let path = place.join(name);
        let words = ["cannot start", &path.display().to_string(), "No such file", "hint: "];
        fails(&mut run(&path, &[]), 3, &words);
    }
    let below = file(place, "file", "", 0o644).join("server.js");
    fails(&mut run(&below, &[]), 3, &["cannot start", "Not a directory"]);
    let words = ["is a directory without a package.json", "hint: name the file"];
    fails(&mut run(place, &[]), 3, &[&words[..], &[&place.display().to_string()]].concat());
}

/// Types that are only erased run on newer versions; this does not on any.
#[test]
fn typescript_that_this_node_cannot_run() {
    let directory = tempfile::tempdir().unwrap();
    let script = file(directory.path(), "server.ts", "enum Kind { One }\nexport {};\n", 0o644);
    let features = Command::new("node").args(["-p", "process.features.typescript || ''"]).output();
    if features.expect("node runs").stdout.starts_with(b"strip") {
        let words = ["no worker became ready", "server.ts", "uncaught SyntaxError"];
        fails(&mut run(&script, &["-i", "1"]), 4, &words);
    } else {
        let words = ["does not run TypeScript", "server.ts", "hint: Node 22.18", "tsx"];
        fails(&mut run(&script, &["-i", "1"]), 3, &words);
    }
}

#[test]
fn a_script_that_takes_its_time_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let server = node("server.js");
    let text = format!("setTimeout(() => require({:?}), 3000)\n", server.display().to_string());
    let script = file(directory.path(), "slow.js", &text, 0o644);
    let begin = Instant::now();
    let cluster = Cluster::run(&script, 2, &[]);
    assert!(begin.elapsed() >= Duration::from_secs(3), "{}", log(&cluster));
    let said = cluster.process.output();
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    cluster.stop();
}

// --- The channel ---

#[test]
fn a_flood_of_messages_does_not_grow_the_primary() {
    for more in [&["--print-messages"][..], &["--print-messages", "--policy", "round-robin"]] {
        let cluster = server(2, more);
        let (answer, mark) = fault(&cluster, "flood");
        others_answer(&cluster, 0);
        let line = cluster.line(mark, r#""flood":"over""#);
        assert!(line.contains(&format!("in slot {}", answer.slot)), "{line}");
        let said = cluster.process.stderr();
        let harmed = ["is killed", "ended unasked", "is gone", "ERROR"];
        assert!(!harmed.iter().any(|word| said.contains(word)), "{}", tail(&said));
        // The one that did it serves on.
        cluster
            .wait_answers("it to answer again", |slots| slots.values().any(|p| *p == answer.pid));
        assert_small(&cluster, "200,000 messages", 64);
        cluster.stop();
    }
}

#[test]
fn broadcasts_to_a_worker_that_does_not_read_grow_neither_memory_nor_log() {
    let cluster = server(2, &[]);
    let stopped = cluster.workers()[0];
    stop_process(stopped);
    let (answer, mark) = fault(&cluster, "broadcast");
    assert_ne!(answer.pid, stopped);
    cluster.line(mark, "all broadcast");
    let (_, mark) = fault(&cluster, "chatter");
    cluster.line(mark, "all chattered");
    others_answer(&cluster, stopped);
    signal(stopped, Signal::CONT);
    cluster.wait_serving(2);
    // That messages are lost is worth a line, but not one for each.
    let lines = cluster.process.stderr().lines().count();
    let peak = peak_bytes(cluster.pid()) >> 20;
    assert!(peak < 120 && lines < 200, "the primary had {peak} MiB, and wrote {lines} lines");
    cluster.stop();
}

/// Nobody reads what `--print-messages` prints: messages may wait, clients and signals may not.
#[test]
fn messages_that_nobody_reads_do_not_stop_the_primary() {
    let directory = tempfile::tempdir().unwrap();
    let address = v4();
    let script = format!(
        "mkfifo pipe && exec 5<> pipe && PORT={} exec \"$PHALANX\" run {} -i 2 --policy round-robin --print-messages >&5",
        address.port(),
        node("faults/server.js").display()
    );
    let process = spawn(sh(&script).current_dir(directory.path()));
    let cluster = Cluster { process, address };
    cluster.wait_serving(2);
    let pipe = directory.path().join("pipe");
    let pipe = fs::File::options().read(true).write(true).open(pipe).expect("the pipe");
    fault(&cluster, "flood");
    // A pipe holds 64 KiB.
    cluster.until("the pipe to be full", || {
        (rustix::io::ioctl_fionread(&pipe).unwrap() > 60_000).then_some(())
    });
    for _ in 0..10 {
        let answer = get(cluster.address, "/", Duration::from_secs(5));
        let log = log(&cluster);
        answer.unwrap_or_else(|error| panic!("the cluster does not answer: {error}\n{log}"));
    }
    cluster.stop();
}

#[test]
fn half_a_line_garbage_and_a_line_too_long_end_that_worker_alone() {
    let cluster = server(3, &[]);
    let mut gone = Vec::new();
    for (name, words) in [
        // It may be reaped before or after the end of its channel is seen.
        ("half", &["code 7"][..]),
        ("garbage", &["is killed", "not JSON", "{\\\"unfinished"]),
        ("huge", &["is killed", "longer than the bound"]),
    ] {
        let (answer, mark) = fault(&cluster, name);
        // Two of three go on whatever the third says.
        let line = says(&cluster, mark, answer.slot, words[0]);
        for word in words {
            assert!(line.contains(word), "{name}: no {word:?} in {line}");
        }
        assert!(line.len() < LONGEST_LINE && !line.contains('\u{1b}'), "{name}: {line:?}");
        others_answer(&cluster, answer.pid);
        gone.push(answer.pid);
        cluster.wait_workers(3);
    }
    assert_small(&cluster, "a line of 200 MiB", 120);
    heals(cluster, 3, &gone);
}

#[test]
fn what_is_unknown_is_ignored() {
    let cluster = server(2, &["--print-messages"]);
    let (answer, mark) = fault(&cluster, "unknown");
    cluster.line(mark, "\"all said\"");
    let serving = cluster.wait_serving(2);
    assert_eq!(serving.get(&answer.slot), Some(&answer.pid), "{}", log(&cluster));
    let said = cluster.process.stderr();
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{}", tail(&said));
    cluster.stop();
}

#[test]
fn a_thousand_handles_are_taken_and_closed() {
    let cluster = server(2, &[]);
    let descriptors = || process::open_descriptors(cluster.pid()).unwrap();
    let before = descriptors();
    let (answer, mark) = fault(&cluster, "handles");
    others_answer(&cluster, 0);
    cluster.line(mark, "1000 handles were sent, and closed by the primary");
    // What the primary opens when it is first needed may come later than `before`; of the thousand none may stay.
    cluster
        .until("its descriptors to be as before", || (descriptors() <= before + 8).then_some(()));
    // The same worker, which still hears and is heard.
    let serving = cluster.wait_serving(2);
    assert_eq!(serving.get(&answer.slot), Some(&answer.pid), "{}", log(&cluster));
    assert_small(&cluster, "1,000 handles", 64);
    let mark = cluster.process.mark();
    let only = format!("/disconnect?{}", answer.pid);
    cluster.until("that worker to be asked", || {
        let asked = get(cluster.address, &only, LONG);
        asked.is_ok_and(|asked| asked.pid == answer.pid).then_some(())
    });
    says(&cluster, mark, answer.slot, "code 0");
    heals(cluster, 2, &[answer.pid]);
}

#[test]
fn a_worker_without_its_channel_is_replaced_and_does_not_stay() {
    let mut unsaid = Vec::new();
    for name in ["live-on", "close"] {
        let cluster = server(2, &["--grace", "2s"]);
        let (answer, mark) = fault(&cluster, name);
        says(&cluster, mark, answer.slot, "is ready");
        cluster.until("the old one to be gone", || (!process::is_alive(answer.pid)).then_some(()));
        let of_it = format!("in slot {}", answer.slot);
        cluster.until("its end to be told", || {
            let said = cluster.process.stderr();
            let ends = |line: &str| line.contains("ended unasked") || line.contains("is gone");
            said.lines().any(|line| line.contains(&of_it) && ends(line)).then_some(())
        });
        // Why it had to go, and another was started beside it.
        let said = cluster.process.stderr();
        if !said.lines().any(|line| line.contains(&of_it) && line.contains("channel")) {
            unsaid.push(format!("{name}: {}", tail(&said)));
        }
        heals(cluster, 2, &[answer.pid]);
    }
    assert!(unsaid.is_empty(), "no line says that its channel was closed:\n{}", unsaid.join("\n"));
}

#[test]
fn a_child_that_keeps_the_channel_keeps_nothing_else() {
    let cluster = server(2, &[]);
    let (answer, mark) = fault(&cluster, "heir");
    says(&cluster, mark, answer.slot, "ended unasked: SIGKILL");
    others_answer(&cluster, answer.pid);
    cluster.wait_answers("all slots to be served", |slots| {
        slots.len() == 2 && slots.values().all(|pid| *pid != answer.pid)
    });
    // It is nobody's to kill but the test's.
    let line = cluster.line(mark, "heir ");
    let heir = line.trim_start_matches("heir ").parse().expect("a process");
    assert!(process::is_alive(heir), "the child lives on\n{}", log(&cluster));
    signal(heir, Signal::KILL);
    heals(cluster, 2, &[answer.pid]);
}

// --- Between hand-over and acknowledgement ---

type Client = thread::JoinHandle<std::io::Result<Answer>>;

/// So many requests at once, each on a connection of its own.
fn clients(address: SocketAddr, count: usize) -> Vec<Client> {
    (0..count).map(|_| thread::spawn(move || get(address, "/", LONG))).collect()
}

#[track_caller]
fn answered_by_others(cluster: &Cluster, clients: Vec<Client>, but: u32) {
    for client in clients {
        let answer = client.join().expect("a client does not panic");
        let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", log(cluster)));
        assert_ne!(answer.pid, but, "{}", log(cluster));
    }
}

#[test]
fn a_connection_handed_to_a_worker_that_stops_or_dies_is_another_ones() {
    let cluster = server(2, &["--policy", "round-robin", "--print-messages"]);
    // It does not even read them.
    let stopped = cluster.workers()[0];
    stop_process(stopped);
    answered_by_others(&cluster, clients(cluster.address, 6), stopped);
    signal(stopped, Signal::CONT);
    cluster.wait_serving(2);
    // It dies when it has read the connection and has not said so.
    let (answer, mark) = fault(&cluster, "die-on-connection");
    cluster.line(mark, r#"{"armed":"SIGKILL"}"#);
    answered_by_others(&cluster, clients(cluster.address, 6), answer.pid);
    says(&cluster, mark, answer.slot, "ended unasked: SIGKILL");
    cluster.wait_serving(2);
    // It stops there, and is killed.
    let (answer, mark) = fault(&cluster, "stop-on-connection");
    cluster.line(mark, r#"{"armed":"SIGSTOP"}"#);
    let clients = clients(cluster.address, 6);
    cluster.until("it to stop", || (process::state(answer.pid) == Some('T')).then_some(()));
    signal(answer.pid, Signal::KILL);
    answered_by_others(&cluster, clients, answer.pid);
    heals(cluster, 2, &[answer.pid]);
}

// --- Ports ---

#[test]
fn a_port_of_another_program_is_nodes_own_error() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let port = format!("port: {}", address.port());
    let bound = format!("cannot listen on {address}: Address already in use");
    let hint = format!("another program listens on {address}");
    let words = [
        // What Node prints of the exception.
        "code: 'EADDRINUSE'",
        "errno: -98",
        "syscall: 'bind'",
        "address: '127.0.0.1'",
        &port,
        // What the primary says.
        &bound,
        &hint,
        "no worker became ready",
        "server.js",
    ];
    let command = |policy| {
        let mut command = run(&node("server.js"), &["-i", "1", "--policy", policy]);
        command.env("PORT", address.port().to_string());
        (command, 5, words.map(str::to_owned).to_vec())
    };
    all_fail(POLICIES.map(command).into());
    // Nobody but the holder ever had it.
    holder.set_nonblocking(true).unwrap();
    assert!(holder.accept().is_err(), "somebody connected");
}

#[test]
fn a_second_application_on_the_port_fails_and_leaves_the_first_alone() {
    let first = Cluster::run(&node("server.js"), 2, &[]);
    let load = Load::new(first.address).clients(4).think(Duration::from_millis(5));
    let load = load.duration(SIX_CRASHES).start().unwrap();
    first.until("load", || (load.progress().answered() > 20).then_some(()));
    let address = first.address;
    let bound = format!("cannot listen on {address}: Address already in use");
    let second = |policy| {
        let more = ["-i", "1", "--name", "second", "--policy", policy];
        let mut command = run(&node("server.js"), &more);
        command.env("PORT", address.port().to_string());
        let words = [bound.as_str(), "EADDRINUSE", "no worker became ready", "second"];
        (command, 5, words.map(str::to_owned).to_vec())
    };
    all_fail(POLICIES.map(second).into());
    assert_lossless("the first application", &load.stop(), &first.process);
    let said = first.process.output();
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    first.stop();
}

// --- Exceptions ---

/// How plain Node ends of it: its exit code.
fn plainly(fault: &str) -> i32 {
    let address = v4();
    let mut command = clean("node", [node("faults/server.js")]);
    let process = spawn(command.env("PORT", address.port().to_string()));
    let path = format!("/{fault}");
    let asked = bench::wait::until(LONG, "plain Node to answer", || {
        get(address, &path, Duration::from_secs(5)).ok()
    });
    asked.unwrap_or_else(|error| panic!("{error}\n{}", process.output()));
    let status = process.wait_exit(LONG).unwrap_or_else(|error| panic!("{error}"));
    status.code().expect("it exits")
}

#[test]
fn exceptions_that_are_no_errors_end_a_worker_as_they_end_plain_node() {
    let cases = [
        ("throw-null", "null"),
        ("throw-text", "text \\u{1b}[2J\\nof two lines"),
        ("throw-nothing", "undefined"),
        ("throw-long", "Error: long long"),
        ("throw-half-character", "half"),
        ("throw-bare", ""),
        ("throw-getter", ""),
        ("reject-nothing", "undefined"),
        ("reject-object", "UnhandledPromiseRejection"),
    ];
    let plain = cases.map(|(name, _)| thread::spawn(move || plainly(name)));
    let plain: Vec<i32> = plain.into_iter().map(|code| code.join().unwrap()).collect();
    // On a quick machine each falls over within the first tenth of a second, as one that never serves.
    let cluster = server(2, &["--max-restarts", "0"]);
    let mut missing = Vec::new();
    for ((name, word), code) in cases.into_iter().zip(plain) {
        let (answer, mark) = fault(&cluster, name);
        says(&cluster, mark, answer.slot, &format!("ended unasked: code {code}"));
        others_answer(&cluster, answer.pid);
        // What it was is said before that, where it can be put into words at all.
        let of_it = format!("in slot {}: uncaught ", answer.slot);
        let all = cluster.process.stderr();
        let line = all.lines().rev().find(|line| line.contains(&of_it) && line.contains(word));
        if line.is_none() && !word.is_empty() {
            missing.push(name);
        }
        for line in all.lines().filter(|line| line.contains(": uncaught ")) {
            let printable = !line.chars().any(char::is_control);
            assert!(line.len() < LONGEST_LINE && printable, "{name}: {line:?}");
        }
    }
    assert_eq!(missing, [""; 0], "not said of these what they were:\n{}", log(&cluster));
    assert_small(&cluster, "exceptions", 64);
    heals(cluster, 2, &[]);
}

// --- Options ---

#[test]
fn bad_options() {
    let server = node("server.js");
    for (option, words) in [
        ("--inspect=99999", ["'99999'", "expected PORT or ADDRESS:PORT"]),
        ("--inspect=host:1", ["'host:1'", "expected PORT or ADDRESS:PORT"]),
        ("--stats=x", ["'x'", "milliseconds"]),
        ("--stats=", ["--stats", "TIME"]),
        ("--balance=fair", ["'fair'", "even and sticky"]),
        ("--ready=never", ["'never'", "listening, is online"]),
        ("--start-timeout=1.5s", ["'1.5s'", "ms, s, m or h"]),
        ("--listen-timeout=-1", ["'-1'", "ms, s, m or h"]),
        ("--grace=soon", ["'soon'", "ms, s, m or h"]),
        ("--kill-timeout=99999999999999999999", ["'99999999999999999999'", "milliseconds"]),
        ("--policy=fair", ["`fair`", "direct, round-robin and shared"]),
        ("--no-such-option", ["--no-such-option", "Usage"]),
    ] {
        let process = spawn(&mut run(&server, &[option]));
        ends(&process, 2, &words);
        assert_eq!(process.stdout(), "", "{option}");
    }
}
