//! How Node workers leave: what is under way is finished, what never ends is told to go, and no worker outstays its time.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use bench::process;
use bench::spawned::Signal;
use common::{Cluster, LONG, node, phalanx, signal, spawn};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// One worker of `draining.js`.
fn worker(env: &[(&str, &str)], more: &[&str]) -> Cluster {
    let program = node("draining.js");
    let address = common::v4();
    let mut command = phalanx(["run", program.to_str().unwrap(), "-i", "1"].iter().chain(more));
    command.env("PORT", address.port().to_string()).envs(env.iter().copied());
    let cluster = Cluster { process: spawn(&mut command), address };
    cluster.line(0, "is ready");
    cluster
}

fn send(cluster: &Cluster, paths: &[&str]) -> TcpStream {
    let mut stream = TcpStream::connect(cluster.address).expect("it listens");
    stream.set_read_timeout(Some(LONG)).unwrap();
    let requests: String = paths
        .iter()
        .map(|path| {
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: */*, text/event-stream\r\n\r\n")
        })
        .collect();
    stream.write_all(requests.as_bytes()).unwrap();
    stream
}

/// Reads until these words have come.
fn read_until(stream: &mut TcpStream, words: &str) -> String {
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while !text.contains(words) {
        let n = stream.read(&mut bytes).expect("it goes on");
        assert_ne!(n, 0, "it ended without {words:?}: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    text
}

fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a clean end");
    text
}

#[test]
fn pipelined_requests_are_all_answered() {
    let cluster = worker(&[], &[]);
    let stream = send(&cluster, &["/drained", "/", "/drained"]);
    // It has them when it answers another one.
    common::get(cluster.address, "/", LONG).expect("an answer");
    cluster.reload(1);
    let text = rest(stream);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
    // Nobody knew which would be the last one: the connection ran into its own time-out.
    assert_eq!(text.matches("Connection: close").count(), 0, "{text}");
    cluster.stop();
}

#[test]
fn event_streams_end_and_begin_again_with_the_new_worker() {
    let cluster = worker(&[], &[]);
    let mut stream = send(&cluster, &["/events"]);
    let first = read_until(&mut stream, "data: ");
    let mark = cluster.process.mark();
    let begin = Instant::now();
    cluster.process.signal(Signal::USR2).unwrap();
    let text = rest(stream);
    assert!(text.ends_with("0\r\n\r\n"), "a complete response: {first} … {text:?}");
    cluster.line(mark, "is gone (reload): code 0");
    assert!(begin.elapsed() < Duration::from_secs(20), "it took {:?}", begin.elapsed());
    cluster.stop();
}

#[test]
fn the_programs_own_handler_has_the_last_word() {
    for (handler, timer) in [("SIGTERM", ""), ("SIGINT", "1")] {
        let cluster = worker(&[("HANDLER", handler), ("TIMER", timer)], &[]);
        let stream = send(&cluster, &["/?ms=500"]);
        // It has the request when it answers another one.
        common::get(cluster.address, "/", LONG).expect("an answer");
        let mark = cluster.process.mark();
        cluster.process.signal(Signal::TERM).unwrap();
        assert!(rest(stream).contains("200 OK"), "what was under way is finished first");
        cluster.line(mark, &format!("handler of {handler}"));
        cluster.line(mark, "is gone (stop): code 7");
        assert_eq!(cluster.wait_gone(LONG), 0);
    }
}

#[test]
fn a_timer_keeps_no_worker_for_ever() {
    let cluster = worker(&[("TIMER", "1")], &[]);
    let mark = cluster.process.mark();
    cluster.reload(1);
    cluster.line(mark, "is gone (reload): code 0");
    cluster.stop();
}

#[test]
fn at_the_end_of_the_grace_time_idle_connections_are_closed_in_order() {
    let cluster = worker(&[("KEEP_ALIVE", "600000")], &["--grace", "3s"]);
    let mut stream = send(&cluster, &["/"]);
    read_until(&mut stream, "slot");
    let mark = cluster.process.mark();
    cluster.reload(1);
    assert_eq!(rest(stream), "");
    cluster.line(mark, "is gone (reload): code 0");
    assert!(!cluster.process.output().contains("is killed"), "{}", cluster.process.output());
    cluster.stop();
}

#[test]
fn a_killed_primary_costs_no_request_in_progress() {
    let cluster = worker(&[], &[]);
    let pid = cluster.workers()[0];
    let stream = send(&cluster, &["/?ms=700"]);
    // It has the request when it answers another one.
    common::get(cluster.address, "/", LONG).expect("an answer");
    signal(cluster.pid(), Signal::KILL);
    assert!(rest(stream).contains("200 OK"));
    cluster.until("the worker to end", || (!process::is_alive(pid)).then_some(()));
}

#[test]
fn the_preload_is_written_again_when_somebody_cleans_up() {
    let place = tempfile::tempdir().unwrap();
    let runtime = place.path().to_str().unwrap();
    let cluster = worker(&[("XDG_RUNTIME_DIR", runtime)], &[]);
    let directory = place.path().join("phalanx");
    let files = std::fs::read_dir(&directory).expect("it was written there").count();
    assert_eq!(files, 1);
    std::fs::remove_dir_all(&directory).unwrap();
    let mark = cluster.process.mark();
    signal(cluster.workers()[0], Signal::KILL);
    cluster.line(mark, "is ready");
    assert_eq!(std::fs::read_dir(&directory).expect("it is there again").count(), 1);
    cluster.stop();
}
