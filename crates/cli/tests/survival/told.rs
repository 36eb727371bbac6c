//! Signals to the keeper, and how it ends.

use crate::adopted::{obedient, start_child};
use crate::common::{LONG, phalanx, signal, spawn, v4};
use crate::kept::{Kept, TOOK_OVER, program};
use bench::spawned::{Guarded, Signal};
use bench::wait;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

#[test]
fn what_the_keeper_is_told_the_primary_hears() {
    for (told, says, stops) in [
        (Signal::USR2, "SIGUSR2: rolling reload", false),
        (Signal::HUP, "SIGHUP: rolling reload", false),
        (Signal::USR1, "SIGUSR1: upgrade in place", false),
        (Signal::TERM, "SIGTERM: draining, then stopping", true),
        (Signal::INT, "SIGINT: draining, then stopping", true),
        (Signal::QUIT, "SIGQUIT: stopping at once", true),
    ] {
        let cluster = obedient(1, &[], &[]);
        let mark = cluster.process.mark();
        signal(cluster.keeper(), told);
        cluster.line(mark, says);
        if stops {
            cluster.wait_end(0);
            cluster.assert_nothing_left();
        } else {
            cluster.assert_settled(1);
            cluster.stop();
        }
    }
}

#[test]
fn a_second_one_stops_at_once() {
    // It never finishes by itself.
    let cluster = obedient(1, &["--grace", "60s"], &[]);
    let mut stream = std::net::TcpStream::connect(cluster.address).unwrap();
    std::io::Write::write_all(
        &mut stream,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
    )
    .unwrap();
    let mark = cluster.process.mark();
    signal(cluster.keeper(), Signal::TERM);
    cluster.line(mark, "draining, then stopping");
    // So soon it would be the same wish.
    std::thread::sleep(Duration::from_millis(300));
    signal(cluster.keeper(), Signal::TERM);
    cluster.line(mark, "again: stopping at once");
    cluster.wait_end(0);
    cluster.assert_nothing_left();
}

#[test]
fn a_burst_of_a_thousand() {
    let cluster = Kept::node(2, &[]);
    let load = cluster.one_per_request();
    for kind in [Signal::USR2, Signal::HUP, Signal::USR1] {
        for _ in 0..1_000 {
            signal(cluster.keeper(), kind);
        }
        cluster.wait_load([&load]);
    }
    // While there is no primary that hears them, one of each waits, and a stop has its place.
    let primary = cluster.primary();
    signal(primary, Signal::KILL);
    for _ in 0..1_000 {
        signal(cluster.keeper(), Signal::USR2);
    }
    cluster.wait_load([&load]);
    cluster.until("the end of what they led to", || {
        let (before, mark) = (cluster.workers(), cluster.process.mark());
        std::thread::sleep(Duration::from_millis(500));
        (before.len() == 2 && before == cluster.workers() && mark == cluster.process.mark())
            .then_some(())
    });
    cluster.assert_settled(2);
    cluster.assert_lossless("a thousand signals", &load.stop());
    cluster.stop();
}

#[test]
fn a_stop_while_there_is_no_primary() {
    let cluster = obedient(2, &[], &[]);
    for _ in 0..2 {
        cluster.kill_primary();
    }
    let primary = cluster.primary();
    signal(primary, Signal::KILL);
    for kind in [Signal::USR2, Signal::HUP, Signal::USR1, Signal::TERM] {
        signal(cluster.keeper(), kind);
    }
    cluster.wait_end(0);
    cluster.assert_nothing_left();
}

#[test]
fn its_exit_code_is_the_primarys() {
    let run = |more: &[&str]| {
        let mut words = vec!["run", "--keeper", "-i", "1"];
        words.extend(more);
        let process = spawn(phalanx(words).env("PORT", v4().port().to_string()));
        let status = process.wait_exit(LONG).unwrap_or_else(|error| panic!("{error}"));
        (status.code(), process.output())
    };
    let directory = tempfile::tempdir().unwrap();
    let fails = directory.path().join("fails");
    std::fs::write(&fails, "#!/bin/sh\nexit 7\n").unwrap();
    std::fs::set_permissions(&fails, std::fs::Permissions::from_mode(0o755)).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let server = program("node/server.js");
    for (code, words) in [
        (3, vec!["/no/such/program"]),
        (4, vec![fails.to_str().unwrap()]),
        (5, vec!["--listen", &taken, &server]),
        (2, vec!["--instances", "many", &server]),
    ] {
        let (ended, said) = run(&words);
        assert_eq!(ended, Some(code), "{words:?}\n{said}");
    }
}

/// Ctrl-C is for all processes of the terminal's group: the keeper is one, and passes it on.
#[test]
fn control_c_in_a_terminal() {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    // setsid(1) -c makes it the terminal of the session, whose first group is the one in front.
    let address = v4();
    let script = program("survival/worker.js");
    let line = format!(
        "exec setsid -c {} run {script} --keeper -i 2 <{path} 2>&1",
        crate::common::PHALANX
    );
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &line]);
    let cluster = Kept::of(command, address, 2);
    rustix::io::write(&master, &[3]).unwrap();
    cluster.line(0, "SIGINT: draining, then stopping");
    cluster.wait_end(0);
    cluster.assert_nothing_left();
}

/// `unshare` makes phalanx the first process of a container.
struct Container {
    process: Guarded,
    address: std::net::SocketAddr,
}

impl Container {
    fn start(script: &str, more: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "only root can make a PID namespace");
        let address = v4();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", crate::common::PHALANX]);
        command.args(["run", script, "-i", "2"]).args(more);
        command.env("PORT", address.port().to_string());
        let process = Guarded::spawn(&mut command).expect("unshare(1), of util-linux");
        Self { process, address }
    }

    fn until<T>(&self, what: &str, probe: impl FnMut() -> Option<T>) -> T {
        wait::until(LONG, what, probe)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.process.output()))
    }

    /// All processes in it, as this namespace numbers them.
    fn inside(&self) -> Vec<bench::process::Stat> {
        let mut found: Vec<u32> = vec![self.process.pid()];
        let all = bench::process::all().unwrap();
        loop {
            let more: Vec<u32> = all
                .iter()
                .filter(|stat| found.contains(&stat.parent) && !found.contains(&stat.pid))
                .map(|stat| stat.pid)
                .collect();
            if more.is_empty() {
                return all.into_iter().filter(|stat| found[1..].contains(&stat.pid)).collect();
            }
            found.extend(more);
        }
    }

    fn first(&self) -> u32 {
        self.until("the first process", || {
            bench::process::children(self.process.pid()).first().copied()
        })
    }
}

#[test]
fn the_first_process_of_a_container() {
    let inside = Container::start(&program("survival/worker.js"), &[]);
    let ask = |path: &str| crate::adopted::tell(inside.address, path);
    inside.until("an answer", || ask("/"));
    let first = inside.first();
    // Strangers: orphans of a worker that have left its group.
    for _ in 0..10 {
        let strangers = "setsid sh -c 'sleep 0.1; exit 5' & setsid sleep 0.2 & exit 0";
        assert!(start_child(inside.address, &["/bin/sh", "-c", strangers]).is_some());
    }
    let orphans = || {
        let orphan = |stat: &&bench::process::Stat| stat.parent == first;
        inside.inside().iter().filter(orphan).count()
    };
    // Beside the primary.
    inside.until("strangers", || (orphans() > 1).then_some(()));
    inside.until("strangers to be reaped", || {
        let zombie = |stat: &bench::process::Stat| stat.state == 'Z' && stat.parent == first;
        let sleeps = |stat: &bench::process::Stat| {
            let line = std::fs::read(format!("/proc/{}/cmdline", stat.pid)).unwrap_or_default();
            line.starts_with(b"sleep")
        };
        let all = inside.inside();
        (!all.iter().any(|stat| zombie(stat) || sleeps(stat))).then_some(())
    });
    // The primary inside is killed.
    let primary = *bench::process::children(first).first().unwrap();
    let mark = inside.process.mark();
    signal(primary, Signal::KILL);
    let said = inside.process.wait_for_line_since(mark, |line| line.contains(TOOK_OVER), LONG);
    said.unwrap_or_else(|error| panic!("{error}"));
    inside.until("an answer", || ask("/"));
    signal(first, Signal::TERM);
    let status = inside.process.wait_exit(LONG).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(status.code(), Some(0), "{}", inside.process.output());
}

/// A daemon that a worker started is not its group's: it goes on, and so do its children.
#[test]
fn strangers_are_left_alone() {
    let inside = Container::start(&program("survival/worker.js"), &[]);
    inside.until("an answer", || crate::adopted::tell(inside.address, "/"));
    // The first of its group ends; the rest of it is somebody's work.
    let daemon = "setsid sh -c 'sleep 1234 & exit 0' & exit 0";
    assert!(start_child(inside.address, &["/bin/sh", "-c", daemon]).is_some());
    let sleeper = || {
        inside.inside().into_iter().find(|stat| {
            let line = std::fs::read(format!("/proc/{}/cmdline", stat.pid)).unwrap_or_default();
            line == b"sleep\x001234\0"
        })
    };
    let first = inside.first();
    inside.until("a daemon", || sleeper().filter(|stat| stat.parent == first));
    let primary = *bench::process::children(first).first().unwrap();
    let mark = inside.process.mark();
    signal(primary, Signal::KILL);
    let said = inside.process.wait_for_line_since(mark, |line| line.contains(TOOK_OVER), LONG);
    said.unwrap_or_else(|error| panic!("{error}"));
    assert!(sleeper().is_some(), "the daemon was ended");
    signal(first, Signal::TERM);
    inside.process.wait_exit(LONG).unwrap_or_else(|error| panic!("{error}"));
}
