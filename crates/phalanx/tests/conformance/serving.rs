//! Connections: who gets them, how many there may be, and how they are counted.

use crate::client::{self, free_port, greeted, local};
use crate::scenarios;
use crate::subject::{Kind, PATIENCE, Subject};
use bench::load::Load;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

scenarios!(
    all_get_some,
    one_by_one_in_turn,
    http_under_load,
    keep_alive_stays_with_its_worker,
    a_worker_that_comes_later,
    a_worker_that_leaves_under_load,
    connections_are_counted,
    a_limit_of_connections,
    a_client_that_says_nothing,
);

/// So many workers with the same port, all listening.
fn workers(subject: &mut Subject, count: usize) -> (Vec<u64>, u16) {
    let port = free_port();
    let listen = json!([[port, "127.0.0.1"]]);
    let ids: Vec<u64> = (0..count).map(|_| subject.net(&listen)).collect();
    for id in &ids {
        subject.address(*id, 0);
        subject.event(*id, "listening");
    }
    (ids, port)
}

fn counts(port: u16, connections: usize) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..connections {
        *counts.entry(greeted(local(port)).0).or_default() += 1;
    }
    counts
}

fn all_get_some(kind: Kind) {
    let mut subject = Subject::start(kind);
    let (ids, port) = workers(&mut subject, 2);
    let counts = counts(port, 60);
    assert_eq!(counts.values().sum::<usize>(), 60);
    if !kind.races() {
        assert!(ids.iter().all(|id| counts.get(id).is_some_and(|n| *n >= 10)), "{counts:?}");
    }
}

/// Where the primary hands over, in turn: never far from even.
fn one_by_one_in_turn(kind: Kind) {
    let mut subject = Subject::start(kind);
    let (_, port) = workers(&mut subject, 3);
    let counts = counts(port, 60);
    if kind.hands_over() {
        assert!(counts.values().all(|n| (16..=24).contains(n)), "{counts:?}");
    }
    assert_eq!(counts.values().sum::<usize>(), 60);
}

fn serve_http(subject: &mut Subject, port: u16) -> u64 {
    let listen = json!([port, "127.0.0.1"]).to_string();
    let id = subject.fork("http.cjs", json!({ "LISTEN": listen }));
    subject.event(id, "listening");
    id
}

fn http_under_load(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    for _ in 0..2 {
        serve_http(&mut subject, port);
    }
    for keep_alive in [false, true] {
        let load = Load::new(local(port)).clients(8).keep_alive(keep_alive).requests(400);
        let outcome = load.timeout(PATIENCE).start().expect("started").join();
        assert_eq!(
            (outcome.answered, outcome.failed),
            (400, 0),
            "keep-alive {keep_alive}: {outcome}"
        );
    }
}

fn keep_alive_stays_with_its_worker(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    for _ in 0..2 {
        serve_http(&mut subject, port);
    }
    let mut stream = client::connect(local(port)).expect("connected");
    let mut answers = Vec::new();
    for _ in 0..10 {
        client::ask(&mut stream, "/").expect("asked");
        answers.push(client::answer(&mut stream).expect("answered"));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "one connection, one worker: {answers:?}");
}

fn a_worker_that_comes_later(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let listen = json!([[port, "127.0.0.1"]]);
    let first = subject.net(&listen);
    subject.address(first, 0);
    assert_eq!(greeted(local(port)).0, first);
    let second = subject.net(&listen);
    subject.address(second, 0);
    subject.event(second, "listening");
    // The first one goes: all is the second one's.
    subject.disconnect(first);
    subject.exit(first);
    for _ in 0..10 {
        assert_eq!(greeted(local(port)).0, second);
    }
}

/// Nobody who connects meanwhile is cut off. (Plain connections: a server of node:http of version 26 closes
/// those that have not asked yet, whatever the primary.)
fn a_worker_that_leaves_under_load(kind: Kind) {
    let mut subject = Subject::start(kind);
    let (ids, port) = workers(&mut subject, 2);
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let reached = |count| {
        bench::wait::until(PATIENCE, "clients to be served", || {
            (served.load(Ordering::Relaxed) >= count).then_some(())
        })
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        greeted(local(port));
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let before = reached(100);
        subject.disconnect(ids[0]);
        subject.exit(ids[0]);
        let after = reached(served.load(Ordering::Relaxed) + 100);
        over.store(true, Ordering::Relaxed);
        let cut = clients.into_iter().filter_map(|client| client.join().err()).count();
        assert_eq!((before, after, cut), (Ok(()), Ok(()), 0), "every client was served");
    });
}

fn connections_are_counted(kind: Kind) {
    let mut subject = Subject::start(kind);
    let (ids, port) = workers(&mut subject, 2);
    let clients: Vec<(u64, TcpStream)> = (0..6).map(|_| greeted(local(port))).collect();
    for id in ids {
        let mine = clients.iter().filter(|(worker, _)| *worker == id).count();
        let told = subject.talk(id, json!({ "do": "count", "n": 0 }));
        assert_eq!(told, json!({ "n": 0, "error": null, "count": mine }));
    }
}

/// One connection per worker and one too many: where the primary hands over, it waits; else the worker that
/// accepted it drops it.
fn a_limit_of_connections(kind: Kind) {
    let mut subject = Subject::start(kind);
    let (ids, port) = workers(&mut subject, 1);
    let id = ids[0];
    assert_eq!(subject.talk(id, json!({ "do": "limit", "n": 0, "to": 1 }))["limit"], 1);
    let (_, first) = greeted(local(port));
    let second = client::connect(local(port)).expect("connected");
    if kind.hands_over() {
        second.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
        assert!(client::line(&second).is_err(), "it should wait");
        second.set_read_timeout(Some(PATIENCE)).expect("set");
        drop(first);
        assert_eq!(client::line(&second).expect("served in the end"), id.to_string());
    } else {
        let said = client::all(&second);
        assert!(said.as_ref().map_or(true, String::is_empty), "dropped, but it said {said:?}");
        assert_eq!(subject.message_with(id, "drop")["drop"], true);
        drop(first);
    }
}

/// A connection that was made and never used, beside others.
fn a_client_that_says_nothing(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let id = serve_http(&mut subject, port);
    let silent: Vec<TcpStream> =
        (0..20).map(|_| client::connect(local(port)).expect("connected")).collect();
    for _ in 0..10 {
        assert_eq!(client::get(local(port), "/").expect("answered"), id.to_string());
    }
    drop(silent);
    assert_eq!(client::get(local(port), "/").expect("answered"), id.to_string());
}
