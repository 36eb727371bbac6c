//! The primary becomes another program in place.

use crate::common::{LONG, PHALANX, clean, signal, stop_process, v4};
use crate::kept::{Kept, TOOK_OVER, ask, program, python};
use bench::process;
use bench::spawned::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const UPGRADES: u32 = 20;

/// Nobody notices upgrades: no request fails, the processes stay.
fn bears_upgrades(cluster: Kept, workers: usize) {
    let (before, primary) = (cluster.wait_workers(workers), cluster.primary());
    let loads = cluster.loads();
    let mut slowest = Duration::ZERO;
    for _ in 0..UPGRADES {
        cluster.wait_load(loads.iter().map(|(_, load)| load));
        slowest = slowest.max(cluster.upgrade());
    }
    cluster.wait_load(loads.iter().map(|(_, load)| load));
    for (name, load) in loads {
        cluster.assert_lossless(name, &load.stop());
    }
    eprintln!("{UPGRADES} upgrades, the slowest took {slowest:.1?}");
    assert_eq!((cluster.wait_workers(workers), cluster.primary()), (before, primary));
    cluster.stop();
}

#[test]
fn nobody_notices_twenty_upgrades_in_direct() {
    bears_upgrades(Kept::node(3, &["--policy", "direct"]), 3);
}

#[test]
fn nobody_notices_twenty_upgrades_in_round_robin() {
    bears_upgrades(Kept::node(3, &["--policy", "round-robin"]), 3);
}

#[test]
fn workers_that_know_nothing_do_not_notice_twenty_upgrades() {
    bears_upgrades(Kept::python(3, &[]), 3);
}

/// A copy of the program, and a cluster of it.
struct Installed {
    cluster: Kept,
    file: PathBuf,
    _directory: TempDir,
}

impl Installed {
    fn new(keeper: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("phalanx");
        fs::copy(PHALANX, &file).unwrap();
        let script = program("node/server.js");
        let words = ["run", &script, "-i", "2", "--keeper"];
        let words = &words[..if keeper { 5 } else { 4 }];
        let cluster = Kept::start_on(file.to_str().unwrap(), v4(), words, 2);
        Self { cluster, file, _directory: directory }
    }

    /// Puts something else in its place, as installers do.
    fn put(&self, make: impl FnOnce(&Path)) {
        let new = self.file.with_extension("new");
        make(&new);
        fs::rename(new, &self.file).unwrap();
    }
}

fn copy(at: &Path) {
    fs::copy(PHALANX, at).unwrap();
}

fn script(text: &str) -> impl FnOnce(&Path) {
    move |at| {
        fs::write(at, text).unwrap();
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_program_that_cannot_take_over_leaves_the_old_one_running() {
    let installed = Installed::new(true);
    let cluster = &installed.cluster;
    let (before, primary) = (cluster.wait_workers(2), cluster.primary());
    let refused = |why: &str| {
        let mark = cluster.process.mark();
        signal(cluster.keeper(), Signal::USR1);
        let line = cluster.line(mark, "no upgrade: ");
        assert!(line.contains(why), "{why:?} is not in: {line}");
        assert_eq!((cluster.primary(), cluster.wait_workers(2)), (primary, before.clone()));
        assert!(ask(cluster.address, LONG).is_some(), "it serves");
    };
    installed.put(script("\u{7f}ELF, or not"));
    refused("the new program cannot take over");
    installed.put(|at| fs::write(at, "text").unwrap());
    refused("it cannot be started: Permission denied");
    installed.put(script("#!/bin/sh\nexit 1\n"));
    refused("it ended with exit status: 1 and said nothing");
    installed.put(script("#!/bin/sh\necho 'phalanx: could not care less'; echo no >&2\n"));
    refused("could not care less");
    installed.put(script("#!/bin/sh\nkill -SEGV $$\n"));
    refused("signal: 11");
    // Neither the pipes that a child of it holds open nor that it goes on is waited for in vain.
    installed.put(script("#!/bin/sh\nsleep 1000 & echo bye; exit 3\n"));
    refused("it ended with exit status: 3: bye");
    installed.put(script("#!/bin/sh\nsleep 1000 & sleep 1000\n"));
    refused("within 10s");
    fs::remove_file(&installed.file).unwrap();
    refused("nothing is at the program's place");
    // In the end a good one.
    installed.put(copy);
    cluster.upgrade();
    assert_eq!(cluster.wait_workers(2), before);
}

#[test]
fn what_is_at_the_programs_place_is_what_runs() {
    for keeper in [true, false] {
        let installed = Installed::new(keeper);
        let cluster = &installed.cluster;
        let before = cluster.wait_workers(2);
        let primary = if keeper { cluster.primary() } else { cluster.keeper() };
        for _ in 0..2 {
            installed.put(copy);
            let mark = cluster.process.mark();
            signal(cluster.keeper(), Signal::USR1);
            cluster.line(mark, TOOK_OVER);
            let runs = fs::metadata(format!("/proc/{primary}/exe")).unwrap().ino();
            assert_eq!(runs, fs::metadata(&installed.file).unwrap().ino());
        }
        assert_eq!(cluster.wait_workers(2), before);
        cluster.reload();
        assert_ne!(cluster.assert_settled(2), before);
        installed.cluster.stop();
    }
}

#[test]
fn upgrades_at_any_time() {
    let cluster = Kept::node(3, &[]);
    let before = cluster.wait_workers(3);
    // A hundred at once are a few.
    let mark = cluster.process.mark();
    for _ in 0..100 {
        signal(cluster.primary(), Signal::USR1);
    }
    cluster.line(mark, TOOK_OVER);
    cluster.kill_primary();
    cluster.upgrade();
    cluster.kill_primary();
    assert_eq!(cluster.wait_workers(3), before);
    // During a reload it waits for the workers that start.
    let mark = cluster.process.mark();
    signal(cluster.keeper(), Signal::USR2);
    cluster.line(mark, "rolling reload");
    signal(cluster.keeper(), Signal::USR1);
    cluster.line(mark, TOOK_OVER);
    cluster.line(mark, " is done");
    let after = cluster.assert_settled(3);
    assert!(after.iter().all(|worker| !before.contains(worker)), "{after:?}");
    // A stop is stronger.
    signal(cluster.keeper(), Signal::TERM);
    signal(cluster.keeper(), Signal::USR1);
    cluster.wait_end(0);
    cluster.assert_nothing_left();
}

/// What a program finds that phalanx starts: directory, environment, and how many files it may open.
fn surroundings(pid: u32) -> (PathBuf, BTreeMap<String, String>, String) {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = environment.split(|byte| *byte == 0).filter_map(|entry| {
        let (name, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
        // What is each worker's own.
        let own = ["PHALANX_UNIQUE_ID", "NOTIFY_SOCKET", "LISTEN_PID", "WATCHDOG_PID"];
        (!own.contains(&name)).then(|| (name.to_owned(), value.to_owned()))
    });
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    (fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), environment.collect(), files.to_owned())
}

#[test]
fn later_workers_find_what_the_first_one_found() {
    let address = v4();
    let mut words = vec!["run", "--keeper", "-i", "1"];
    let python = python(address);
    words.extend(python.iter().map(String::as_str));
    let mut command = clean("/bin/sh", ["-c", "ulimit -S -n 777 && exec \"$0\" \"$@\"", PHALANX]);
    let directory = tempfile::tempdir().unwrap();
    command.args(words).current_dir(directory.path());
    let cluster = Kept::of(command, address, 1);
    let first = surroundings(cluster.wait_workers(1)[0].1);
    assert!(first.2.contains(" 777 "), "{first:?}");
    let steps: [(&str, &dyn Fn()); 5] = [
        ("a kill", &|| {
            cluster.kill_primary();
        }),
        ("an upgrade", &|| {
            cluster.upgrade();
        }),
        ("a kill of the keeper", &|| {
            cluster.kill_keeper();
        }),
        ("an upgrade after that", &|| {
            cluster.upgrade();
        }),
        ("a kill after that", &|| {
            cluster.kill_primary();
        }),
    ];
    for (what, step) in steps {
        step();
        cluster.reload();
        assert_eq!(surroundings(cluster.assert_settled(1)[0].1), first, "after {what}");
    }
    cluster.stop();
}

fn open(pids: &[u32]) -> Vec<usize> {
    pids.iter().map(|pid| process::open_descriptors(*pid).unwrap()).collect()
}

/// Memory of its own: what is not a file's.
fn anonymous(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn nothing_piles_up() {
    let cluster = Kept::python(2, &[]);
    cluster.kill_primary();
    cluster.upgrade();
    let everybody = || {
        let workers = cluster.wait_workers(2).into_iter().map(|(_, pid)| pid);
        [cluster.keeper(), cluster.primary()].into_iter().chain(workers).collect::<Vec<_>>()
    };
    let before = open(&everybody());
    let first = anonymous(cluster.keeper());
    for _ in 0..30 {
        cluster.kill_primary();
        cluster.upgrade();
    }
    // A connection may be open for a moment.
    cluster.until("as many descriptors as before", || {
        let now = open(&everybody());
        let more = now.iter().zip(&before).any(|(now, before)| now > before);
        (!more).then_some(())
    });
    eprintln!("descriptors of keeper, primary and workers: {before:?}");
    for parent in [cluster.keeper(), cluster.primary()] {
        cluster.until("the end of zombies", || {
            let dead = process::children(parent);
            (!dead.into_iter().any(|pid| process::state(pid) == Some('Z'))).then_some(())
        });
    }
    let memory = anonymous(cluster.keeper());
    eprintln!("the keeper's own memory: {first} KiB, then {memory} KiB");
    // Most of it is the program's tables, relocated at its start; thirty of what is kept would come to more.
    assert!(memory < first + 512, "the keeper had {first} KiB of its own, and now {memory}");
    cluster.stop();
}

/// A worker that stands still holds nothing up for long.
#[test]
fn an_upgrade_with_a_worker_that_stands_still() {
    let cluster = Kept::node(2, &[]);
    let before = cluster.wait_workers(2);
    let (_, stopped) = before[0];
    stop_process(stopped);
    cluster.upgrade();
    signal(stopped, Signal::CONT);
    cluster.wait_answers(2);
    assert_eq!(cluster.wait_workers(2), before);
    cluster.stop();
}
