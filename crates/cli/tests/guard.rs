//! The guard's rules with real processes: which ends are final, how many start at a time, how reloads go and go back.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use bench::spawned::Signal;
use common::{Cluster, LONG, get, phalanx, signal, slot_of, spawn, v4};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The demo's answers, from Python; it listens when `before` has been done, and then does `after` in a thread.
const SERVER: &str = r#"
import json, os, signal, socket, sys, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
SLOT = int(os.environ["NODE_APP_INSTANCE"])
VERSION = "{version}"

def die(code, after):
    time.sleep(after)
    os._exit(code)

def die_when_told():
    while not os.path.exists(f"{HERE}/die"):
        time.sleep(0.02)
    os._exit(5)

{before}
server = socket.create_server(("127.0.0.1", {port}), backlog=100)
threading.Thread(target=lambda: [{after}], daemon=True).start()
while True:
    client, _ = server.accept()
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        request += client.recv(4096) or b"\r\n\r\n"
    body = json.dumps({"pid": os.getpid(), "slot": SLOT, "version": VERSION})
    client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
    client.close()
"#;

/// A directory with a program, and a port for it.
struct Place {
    directory: TempDir,
    address: SocketAddr,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), address: v4() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts a version of the program into its place, at once.
    fn put(&self, version: &str, before: &str, after: &str) {
        let text = SERVER
            .replace("{port}", &self.address.port().to_string())
            .replace("{version}", version)
            .replace("{before}", before)
            .replace("{after}", after);
        fs::write(self.path("next"), text).unwrap();
        fs::rename(self.path("next"), self.path("app.py")).unwrap();
    }

    fn run(&self, workers: usize, options: &[&str]) -> Cluster {
        let (count, program) = (workers.to_string(), self.path("app.py"));
        let mut command: Command = phalanx(["run", "-i", &count].iter().chain(options));
        command.arg(&program);
        Cluster { process: spawn(&mut command), address: self.address }
    }
}

/// Waits for a line of the log.
fn line(cluster: &Cluster, what: &str) -> String {
    let found = cluster.process.wait_for_line(|line| line.contains(what), LONG);
    found.unwrap_or_else(|error| panic!("no {what:?}: {error}\n{}", cluster.process.output()))
}

fn usage_error(args: &[&str], words: &str) {
    let output = phalanx(["run"].iter().chain(args)).arg("/bin/true").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert!(said.contains(words), "{args:?}: {said}");
}

#[test]
fn options_that_make_no_sense() {
    usage_error(&["--restart-delay", "10s", "--max-restart-delay", "1s"], "is longer than");
    usage_error(&["--min-uptime", "25h"], "more than a day");
    usage_error(&["--min-uptime", "-5"], "expected a number of milliseconds");
    usage_error(&["--max-age", "-5s"], "expected a number of milliseconds");
    usage_error(&["--min", "-1"], "invalid");
    usage_error(&["--canary", "5s"], "--canary=5s");
    usage_error(&["--health-tcp", "--health-status", "200"], "cannot be used with");
    usage_error(&["--stop-exit-codes", "300"], "0 to 255");
    usage_error(&["--stop-exit-codes", "SIGFOO"], "names of signals");
    usage_error(&["--reload-parallel", "0"], "a number from 1 on");
    usage_error(&["--canary-share", "5%"], "--canary");
    usage_error(&["--canary=0"], "more than nothing");
    usage_error(&["--canary=1s", "--canary-share", "100%"], "1% to 99%");
}

/// A worker that exits with 3 is not replaced; when the last one has, all is over, and that is no failure.
#[test]
fn codes_that_stop() {
    let place = Place::new();
    // The first asks the others to follow, one after the other.
    place.put("1", "", "die(3, 0.5 + SLOT * 0.4)");
    let cluster = place.run(2, &["--stop-exit-codes", "3,SIGINT"]);
    assert!(line(&cluster, "slot 0 is ended").contains("1 are left"));
    assert!(line(&cluster, "slot 1 is ended").contains("code 3"));
    assert_eq!(cluster.wait_gone(LONG), 0, "{}", cluster.process.output());
    let log = cluster.process.output();
    assert!(!log.contains("worker 3 "), "nobody was replaced: {log}");
}

/// A program that listens and falls over at once is given up, over all slots, and that is said once.
#[test]
fn what_only_just_listens_is_given_up() {
    let place = Place::new();
    place.put("1", "", "die(7, 0.01)");
    let begun = Instant::now();
    let cluster = place.run(4, &["--max-restarts", "3", "--restart-delay", "10ms"]);
    assert_eq!(cluster.wait_gone(LONG), 4, "{}", cluster.process.output());
    let log = cluster.process.output();
    assert_eq!(log.matches("no worker became ready").count(), 2, "the log and the end: {log}");
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
}

/// Workers that live for a while each are a loop all the same, if there are many of them.
#[test]
fn a_loop_of_crashes_within_a_while() {
    let place = Place::new();
    place.put("1", "", "die(9, 0.4)");
    let options = ["--max-restarts", "3", "--min-uptime", "200ms", "--max-restart-delay", "700ms"];
    let cluster = place.run(1, &options);
    let said = line(&cluster, "crash loop");
    assert!(said.contains("3 crashes within 60") && said.contains("700ms"), "{said}");
    cluster.stop();
}

/// Sixteen workers, and never more than two of them on their way.
#[test]
fn two_start_at_a_time() {
    let place = Place::new();
    let gate = "open(f'{HERE}/begun.{os.getpid()}', 'w').close()\n\
                begun = [n for n in os.listdir(HERE) if n.startswith('begun.')]\n\
                ready = [n for n in os.listdir(HERE) if n.startswith('ready.')]\n\
                open(f'{HERE}/seen.{os.getpid()}', 'w').write(str(len(begun) - len(ready)))\n\
                time.sleep(0.05)\n\
                open(f'{HERE}/ready.{os.getpid()}', 'w').close()";
    place.put("1", gate, "None");
    let cluster = place.run(16, &["--parallel-starts", "2"]);
    assert_eq!(cluster.wait_serving(16).len(), 16);
    let seen: Vec<u32> = fs::read_dir(place.directory.path())
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().contains("/seen."))
        .map(|path| fs::read_to_string(path).unwrap().parse().unwrap())
        .collect();
    assert_eq!(seen.len(), 16);
    assert!(seen.iter().all(|n| *n <= 2), "so many were on their way: {seen:?}");
    cluster.stop();
}

/// The new version is ready, and dies a little later: with `--healthy-for` it replaces nobody.
#[test]
fn a_version_has_to_stay_healthy() {
    let place = Place::new();
    place.put("1", "", "None");
    let cluster = place.run(2, &["--healthy-for", "3s"]);
    let before = cluster.wait_serving(2);
    place.put("2", "", "die_when_told()");
    cluster.process.signal(Signal::USR2).unwrap();
    line(&cluster, "worker 3 in slot 0 is ready");
    fs::write(place.path("die"), "").unwrap();
    let said = line(&cluster, "reload 1 stopped");
    assert!(said.contains("it crashed after"), "{said}");
    assert!(said.contains("0 replaced before, 2 old workers go on"), "{said}");
    assert_eq!(cluster.wait_serving(2), before, "the same workers serve");
    // One that stays does replace them.
    place.put("3", "", "None");
    cluster.process.signal(Signal::USR2).unwrap();
    line(&cluster, "reload 2 is done");
    let receipt = line(&cluster, "reload 2 in the end: done");
    assert!(receipt.contains("2 workers replaced") && receipt.contains("2 left"), "{receipt}");
    cluster.stop();
}

/// Two slots at a time; the receipt says what it came to.
#[test]
fn several_slots_at_a_time() {
    let place = Place::new();
    place.put("1", "", "None");
    let cluster = place.run(4, &["--reload-parallel", "50%", "--parallel-starts", "0"]);
    let before: BTreeSet<u32> = cluster.wait_serving(4).into_values().collect();
    cluster.process.signal(Signal::USR2).unwrap();
    line(&cluster, "reload 1 is done: 4 workers replaced");
    let receipt = line(&cluster, "reload 1 in the end: done");
    assert!(receipt.contains("4 left"), "{receipt}");
    let after: BTreeSet<u32> = cluster.wait_serving(4).into_values().collect();
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    cluster.stop();
}

/// A canary that crashes: the old workers were there all the time, and still are.
#[test]
fn a_canary_goes_back_by_itself() {
    let place = Place::new();
    place.put("1", "", "None");
    let cluster = place.run(2, &["--canary=20s", "--canary-share", "10%"]);
    let before = cluster.wait_serving(2);
    place.put("2", "", "die_when_told()");
    cluster.process.signal(Signal::USR2).unwrap();
    line(&cluster, "1 slots have the new program beside the old one");
    fs::write(place.path("die"), "").unwrap();
    let said = line(&cluster, "reload 1 stopped");
    assert!(said.contains("0 replaced before, 2 old workers go on"), "{said}");
    assert_eq!(cluster.wait_serving(2), before, "the same workers serve");
    cluster.stop();
}

#[test]
fn a_canary_that_does_well_is_followed_by_the_others() {
    let place = Place::new();
    place.put("1", "", "None");
    let cluster = place.run(2, &["--canary=300ms"]);
    let before: BTreeSet<u32> = cluster.wait_serving(2).into_values().collect();
    cluster.process.signal(Signal::USR2).unwrap();
    line(&cluster, "the new program did well");
    line(&cluster, "reload 1 is done: 2 workers replaced");
    let after: BTreeSet<u32> = cluster.wait_serving(2).into_values().collect();
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    cluster.stop();
}

/// A script that was overwritten is gone, and that is said.
#[test]
fn a_script_cannot_be_gone_back_to() {
    let place = Place::new();
    place.put("1", "", "None");
    let cluster = place.run(2, &["--rollback"]);
    cluster.wait_serving(2);
    // Slot 0 comes up, slot 1 does not.
    place.put("2", "SLOT == 1 and sys.exit(4)", "None");
    cluster.process.signal(Signal::USR2).unwrap();
    let said = line(&cluster, "reload 1 stopped");
    assert!(said.contains("1 replaced before, 1 old workers go on"), "{said}");
    assert!(said.contains("the program before is gone"), "{said}");
    assert_eq!(cluster.wait_serving(2).len(), 2);
    cluster.stop();
}

/// An executable that another one was put in the place of is started again from the file that was held.
#[test]
fn an_executable_is_gone_back_to() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("server");
    install(Path::new(common::PHALANX), &program);
    let address = v4();
    let listen = address.to_string();
    let program = program.to_str().unwrap();
    let process = spawn(&mut phalanx([
        "run",
        "-i",
        "2",
        "--rollback",
        "--listen",
        &listen,
        "--",
        program,
        "demo",
        "--listen",
        &listen,
    ]));
    let cluster = Cluster { process, address };
    let before = cluster.wait_serving(2);
    // The first of the new ones is the old program; then its file is nothing that serves.
    cluster.process.signal(Signal::USR2).unwrap();
    line(&cluster, "reload 1 is done");
    let gone: BTreeSet<u32> = before.into_values().collect();
    cluster.wait_answers("the new ones", |slots| {
        slots.len() == 2 && slots.values().all(|pid| !gone.contains(pid))
    });
    let broken = directory.path().join("broken");
    // Slot 0 serves as before, slot 1 fails.
    let script = format!(
        "#!/bin/sh\n[ \"$NODE_APP_INSTANCE\" = 1 ] && exit 9\nexec '{}' \"$@\"\n",
        common::PHALANX
    );
    fs::write(&broken, script).unwrap();
    install(&broken, Path::new(program));
    cluster.process.signal(Signal::USR2).unwrap();
    let said = line(&cluster, "reload 2 stopped");
    assert!(said.contains("takes their place again"), "{said}");
    line(&cluster, "reload 3 went back: 1 workers replaced");
    let serving = cluster.wait_serving(2);
    let original = fs::read_link(format!("/proc/{}/exe", serving[&0])).unwrap();
    assert!(original.to_string_lossy().contains("server (deleted)"), "{}", original.display());
    assert_eq!(slot_of(serving[&0]), Some(0));
    cluster.stop();
}

/// As `install(1)` does it: a new file under the name.
fn install(from: &Path, to: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let beside = to.with_extension("new");
    fs::copy(from, &beside).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&beside, to).unwrap();
}

/// A worker that was killed by somebody is not said to be the OOM killer's, as long as that killed nobody.
#[test]
fn who_was_killed_by_hand_is_not_the_oom_killers() {
    let place = Place::new();
    place.put("1", "", "None");
    let cluster = place.run(2, &[]);
    let before = cluster.wait_serving(2);
    let mark = cluster.process.mark();
    let kills = oom_kills();
    signal(before[&0], Signal::KILL);
    let said = cluster.line(mark, "SIGKILL");
    // On a machine that is short of memory at this very moment, it may be.
    assert!(said.contains("(crashed)") || oom_kills() != kills, "{said}");
    cluster.wait_answers("the replacement", |slots| slots.len() == 2 && slots[&0] != before[&0]);
    assert!(get(cluster.address, "/", Duration::from_secs(10)).is_ok());
    cluster.stop();
}

fn oom_kills() -> Option<String> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find(|line| line.starts_with("oom_kill ")).map(str::to_owned)
}
