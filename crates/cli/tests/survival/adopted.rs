//! What a primary can do with workers that another one forked.

use crate::common::{LONG, phalanx, signal, stop_process, v4};
use crate::kept::{Kept, TOOK_OVER, ask, program};
use bench::process;
use bench::spawned::Signal;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Workers that do what they are asked to.
pub(crate) fn obedient(workers: usize, more: &[&str], env: &[(&str, &str)]) -> Kept {
    let (script, count) = (program("survival/worker.js"), workers.to_string());
    let words = ["run", &script, "--keeper", "-i", &count];
    let mut command = phalanx(words.iter().chain(more));
    command.envs(env.iter().copied());
    Kept::of(command, v4(), workers)
}

fn request(stream: &mut (impl Read + Write), path: &str) -> Option<Value> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
}

/// Asks some worker, or a certain one.
pub(crate) fn tell(address: SocketAddr, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect_timeout(&address, LONG).ok()?;
    stream.set_read_timeout(Some(LONG)).ok()?;
    request(&mut stream, path)
}

/// Lets a worker start a process: which worker, and which process.
pub(crate) fn start_child(address: SocketAddr, words: &[&str]) -> Option<(u32, u32)> {
    let mut path = "/child?".to_owned();
    for byte in serde_json::to_vec(words).ok()? {
        let _ = write!(path, "%{byte:02x}");
    }
    let said = tell(address, &path)?;
    let child = said["children"].as_array()?.last()?.as_u64()?;
    Some((pid_of(&said), u32::try_from(child).ok()?))
}

/// Asks until the worker in this slot says what is accepted.
fn until_says(cluster: &Kept, slot: u32, path: &str, accept: impl Fn(&Value) -> bool) -> Value {
    cluster.until(&format!("slot {slot} to say so at {path}"), || {
        tell(cluster.address, path).filter(|said| said["slot"] == slot && accept(said))
    })
}

fn pid_of(said: &Value) -> u32 {
    said["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process")
}

#[test]
fn the_end_of_an_adopted_worker_is_seen_and_mended() {
    let cluster = obedient(2, &[], &[]);
    cluster.kill_primary();
    for (path, how) in [("/exit", "code 3"), ("/segv", "SIGSEGV")] {
        let before = cluster.wait_workers(2);
        let mark = cluster.process.mark();
        tell(cluster.address, path);
        let line = cluster.line(mark, "ended unasked");
        assert!(line.contains(how), "{how:?} is not in: {line}");
        cluster.until("another one in its slot", || {
            let now = cluster.workers();
            let new = now.iter().filter(|worker| !before.contains(worker)).count();
            (now.len() == 2 && new == 1).then_some(())
        });
        cluster.wait_answers(2);
        cluster.kill_primary();
    }
    let before = cluster.wait_workers(2);
    cluster.reload();
    let after = cluster.assert_settled(2);
    assert!(after.iter().all(|worker| !before.contains(worker)), "{after:?}");
    cluster.stop();
}

/// Nobody was there when it ended.
#[test]
fn an_end_that_no_primary_saw_is_told_by_the_keeper() {
    let cluster = obedient(2, &[], &[]);
    cluster.kill_primary();
    for (how, kill) in [("SIGKILL", Signal::KILL), ("SIGABRT", Signal::ABORT)] {
        let (_, worker) = cluster.wait_workers(2)[0];
        let primary = cluster.primary();
        // Both have ended before anybody is told.
        stop_process(cluster.keeper());
        let mark = cluster.process.mark();
        signal(primary, Signal::KILL);
        signal(worker, kill);
        cluster.until("both to have ended", || {
            [primary, worker].iter().all(|pid| !process::is_alive(*pid)).then_some(())
        });
        signal(cluster.keeper(), Signal::CONT);
        cluster.line(mark, TOOK_OVER);
        cluster.line(mark, how);
        cluster.assert_settled(2);
    }
    cluster.stop();
}

#[test]
fn other_kinds_of_ports_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let udp = v4();
    let cluster =
        obedient(2, &[], &[("UNIX", path.to_str().unwrap()), ("UDP", &udp.port().to_string())]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let echo = || {
        client.send_to(b"word", udp).ok()?;
        let mut text = [0; 64];
        let n = client.recv(&mut text).ok()?;
        std::str::from_utf8(&text[..n]).ok()?.strip_prefix("word ")?.parse::<u32>().ok()
    };
    let over_unix = || {
        let mut stream = UnixStream::connect(&path).ok()?;
        stream.set_read_timeout(Some(LONG)).ok()?;
        request(&mut stream, "/").map(|said| pid_of(&said))
    };
    for step in ["before", "killed", "upgraded", "reloaded"] {
        match step {
            "killed" => {
                cluster.kill_primary();
            }
            "upgraded" => {
                cluster.upgrade();
            }
            "reloaded" => cluster.reload(),
            _ => {}
        }
        for round in 0..4 {
            let (by_udp, by_unix) =
                (cluster.until("an answer by UDP", echo), cluster.until("one by path", over_unix));
            let workers = cluster.wait_workers(2);
            let is_there = |pid: u32| workers.iter().any(|worker| worker.1 == pid);
            assert!(is_there(by_udp) && is_there(by_unix), "{step}, {round}: {workers:?}");
        }
    }
    cluster.stop();
    assert!(!path.exists(), "the socket's file is left");
}

/// What one says, the other hears once.
fn hear_each_other(cluster: &Kept, word: &str) {
    let said = tell(cluster.address, &format!("/say?{word}")).expect("an answer");
    let slot = u32::try_from(said["slot"].as_u64().unwrap()).unwrap();
    until_says(cluster, 1 - slot, "/", |said| said["heard"][word] == 1);
}

#[test]
fn workers_hear_each_other_through_any_primary() {
    let cluster = obedient(2, &[], &[]);
    hear_each_other(&cluster, "before");
    cluster.kill_primary();
    hear_each_other(&cluster, "killed");
    cluster.upgrade();
    hear_each_other(&cluster, "upgraded");
    cluster.kill_keeper();
    hear_each_other(&cluster, "kept");
    cluster.reload();
    cluster.wait_answers(2);
    hear_each_other(&cluster, "reloaded");
    cluster.stop();
}

/// No message is lost in an upgrade.
#[test]
fn an_upgrade_loses_no_message() {
    let cluster = obedient(2, &[], &[]);
    let mut told = 0;
    for round in 0..5 {
        let mark = cluster.process.mark();
        signal(cluster.keeper(), Signal::USR1);
        let mut upgraded = false;
        while !upgraded {
            tell(cluster.address, "/say?word").expect("an answer");
            told += 1;
            let is_over = |line: &str| line.contains(TOOK_OVER);
            upgraded = cluster.process.wait_for_line_since(mark, is_over, Duration::ZERO).is_ok();
        }
        eprintln!("{told} messages after upgrade {round}");
    }
    let heard = |slot| {
        let said = until_says(&cluster, slot, "/", |_| true);
        said["heard"]["word"].as_u64().unwrap_or(0)
    };
    cluster.until("every message", || (heard(0) + heard(1) == told).then_some(()));
    cluster.stop();
}

#[test]
fn a_primary_that_is_killed_while_it_reads_much() {
    let cluster = obedient(2, &[], &[]);
    let before = cluster.wait_workers(2);
    for round in 0..8_u64 {
        let primary = cluster.primary();
        // It is in the middle of the message, wherever that is.
        stop_process(primary);
        let said = tell(cluster.address, "/much").expect("an answer");
        let slot = u32::try_from(said["slot"].as_u64().unwrap()).unwrap();
        let mark = cluster.process.mark();
        signal(primary, Signal::CONT);
        std::thread::sleep(Duration::from_micros(300 * round));
        signal(primary, Signal::KILL);
        cluster.line(mark, TOOK_OVER);
        let sent = said["sent"].as_u64().unwrap();
        until_says(&cluster, slot, "/", |now| now["sent"].as_u64() > Some(sent));
        hear_each_other(&cluster, &format!("round{round}"));
    }
    assert_eq!(cluster.wait_workers(2), before, "a line that is half read costs nobody his life");
    cluster.stop();
}

#[test]
fn a_worker_that_floods_its_channel() {
    let cluster = obedient(2, &[], &[]);
    let before = cluster.wait_workers(2);
    tell(cluster.address, "/flood?4000").expect("an answer");
    for _ in 0..5 {
        cluster.kill_primary();
        cluster.upgrade();
    }
    cluster.wait_answers(2);
    hear_each_other(&cluster, "after");
    assert_eq!(cluster.wait_workers(2), before);
    cluster.stop();
}

/// One whose queue stands still is helped by the next primary too.
#[test]
fn a_worker_that_is_stuck() {
    let cluster = Kept::node(3, &["--policy", "direct"]);
    cluster.kill_primary();
    let (_, stuck) = cluster.wait_workers(3)[1];
    stop_process(stuck);
    for _ in 0..40 {
        assert!(ask(cluster.address, LONG).is_some(), "what was in its queue is answered");
    }
    // It is stuck when the next one comes, too.
    cluster.kill_primary();
    for _ in 0..40 {
        assert!(ask(cluster.address, LONG).is_some(), "what was in its queue is answered");
    }
    if !process::is_alive(stuck) {
        cluster.fail("the stuck worker is gone");
    }
    signal(stuck, Signal::CONT);
    cluster.wait_answers(3);
    cluster.stop();
}

/// Its successor binds the port of a primary that is gone.
#[test]
fn a_program_that_binds_for_itself_is_replaced() {
    let cluster = Kept::python(2, &["--drain-idle", "100ms"]);
    cluster.kill_primary();
    let before = cluster.wait_workers(2);
    let mark = cluster.process.mark();
    signal(before[0].1, Signal::KILL);
    cluster.line(mark, "SIGKILL");
    let after = cluster.until("another one in its slot", || {
        Some(cluster.workers()).filter(|now| now.len() == 2 && *now != before)
    });
    assert_eq!(after[1], before[1]);
    cluster.until("the new one to answer", || {
        ask(cluster.address, LONG).filter(|(slot, pid)| (*slot, *pid) == after[0])
    });
    cluster.reload();
    cluster.assert_settled(2);
    cluster.stop();
}
