//! Addresses that cannot be had: the worker sees Node's own errors.

use crate::client::{free_port, greeted, local};
use crate::subject::{Kind, Subject};
use crate::{against, scenarios};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::Path;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = for_everybody();
    if lowest_port() > 1 && !rustix::process::geteuid().is_root() {
        trials.extend(against(&Kind::ALL, "errors::a_port_for_root_only", a_port_for_root_only));
    } else {
        eprintln!("errors::a_port_for_root_only: not made, this user may have every port");
    }
    trials
}

scenarios!(for_everybody:
    taken_by_another_program,
    taken_on_every_address,
    taken_by_the_same_worker,
    taken_and_then_free,
    an_address_of_another_machine,
    a_unix_path_without_a_directory,
    a_unix_path_in_use,
    a_unix_path_that_is_too_long,
    a_descriptor_that_is_none,
    udp_taken_by_another_program,
);

/// The error of the first server of a worker with these arguments of `listen()`.
fn refused(subject: &mut Subject, args: &Value) -> (u64, Value) {
    let id = subject.net(&json!([args]));
    let error = subject.refusal(id, 0);
    // It is told, and nothing else happens to it.
    assert_eq!(subject.talk(id, json!({ "do": "limit", "n": 0, "to": 9 }))["limit"], 9);
    (id, error)
}

/// What Node 20 says of a port: the message too.
fn in_use(address: &Value, port: u16, shown: &str) -> Value {
    json!({
        "name": "Error", "code": "EADDRINUSE", "errno": -98, "syscall": "bind",
        "address": address, "port": port, "message": format!("bind EADDRINUSE {shown}:{port}"),
    })
}

fn taken_by_another_program(kind: Kind) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("an address").port();
    let mut subject = Subject::start(kind);
    for _ in 0..2 {
        let (_, error) = refused(&mut subject, &json!([port, "127.0.0.1"]));
        assert_eq!(error, in_use(&json!("127.0.0.1"), port, "127.0.0.1"));
    }
}

fn taken_on_every_address(kind: Kind) {
    let taken = TcpListener::bind("[::]:0").expect("bound");
    let port = taken.local_addr().expect("an address").port();
    let mut subject = Subject::start(kind);
    let (_, error) = refused(&mut subject, &json!([port]));
    assert_eq!(error["code"], "EADDRINUSE", "{error}");
    assert_eq!((&error["syscall"], &error["port"]), (&json!("bind"), &json!(port)));
}

fn taken_by_the_same_worker(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let args = json!([port, "127.0.0.1"]);
    let id = subject.net(&json!([args, args]));
    subject.address(id, 0);
    let Some(said) = asked_again(&mut subject, id, 1) else { return };
    let error = &said["error"];
    if kind == Kind::NodeNone {
        // There the worker's own listen() fails, unless the first one listens before the primary binds the second:
        // two processes race, and nothing in Node decides between them.
        let seen = [&error["code"], &error["port"]];
        assert_eq!(seen, [&json!("EADDRINUSE"), &json!(port)]);
        let by_chance = ["listen", "bind"].contains(&error["syscall"].as_str().unwrap_or_default());
        assert!(by_chance, "{error}");
    } else {
        assert_eq!(*error, in_use(&json!("127.0.0.1"), port, "127.0.0.1"));
    }
    // The first one is as before, and so is another worker.
    assert_eq!(greeted(local(port)).0, id);
    let other = subject.net(&json!([args]));
    subject.address(other, 0);
}

/// What a server says that asked a second time. From version 22 on, in `SCHED_NONE`, Node's worker dies of an
/// assertion of its own instead: then there is nothing left to look at.
fn asked_again(subject: &mut Subject, id: u64, n: usize) -> Option<Value> {
    let said = subject.take("an answer or the worker's end", |line| {
        let (it, said) = (line["id"] == id, &line["message"]);
        if it && line["event"] == "exit" {
            return Some(Err(line["code"].clone()));
        }
        let answers = said["n"] == n && !(said["error"].is_null() && said["address"].is_null());
        (it && answers).then(|| Ok(said.clone()))
    });
    if let Err(code) = &said {
        assert_eq!((subject.kind, code), (Kind::NodeNone, &json!(1)));
        eprintln!("{}: worker {id} died of asking again", subject.kind);
    }
    said.ok()
}

fn taken_and_then_free(kind: Kind) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("an address").port();
    let args = json!([port, "127.0.0.1"]);
    let mut subject = Subject::start(kind);
    let (id, error) = refused(&mut subject, &args);
    assert_eq!(error["code"], "EADDRINUSE");
    drop(taken);
    subject.send(id, json!({ "do": "again", "n": 0, "args": args }));
    let Some(said) = asked_again(&mut subject, id, 0) else { return };
    assert_eq!(said["address"]["port"], port, "{said}");
    assert_eq!(greeted(local(port)).0, id);
}

/// Documentation's own address (RFC 5737): no machine has it, and nothing is sent.
fn an_address_of_another_machine(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let (_, error) = refused(&mut subject, &json!([port, "192.0.2.1"]));
    assert_eq!(error["code"], "EADDRNOTAVAIL", "{error}");
    assert_eq!((&error["syscall"], &error["errno"]), (&json!("bind"), &json!(-99)));
}

fn unix_error(kind: Kind, path: &Path) -> Value {
    refused(&mut Subject::start(kind), &json!([path])).1
}

fn a_unix_path_without_a_directory(kind: Kind) {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("missing/a.sock");
    let error = unix_error(kind, &path);
    // libuv turns ENOENT of a bind into EACCES, to be like Windows; here it is what it is.
    let code = if kind.is_node() { "EACCES" } else { "ENOENT" };
    assert_eq!(error["code"], code, "{error}");
    assert_eq!((&error["syscall"], &error["address"]), (&json!("bind"), &json!(path)));
}

fn a_unix_path_in_use(kind: Kind) {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("a.sock");
    let _taken = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    let error = unix_error(kind, &path);
    assert_eq!((&error["code"], &error["syscall"]), (&json!("EADDRINUSE"), &json!("bind")));
    assert!(path.exists(), "it is the other program's");
}

fn a_unix_path_that_is_too_long(kind: Kind) {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("x".repeat(120));
    let mut subject = Subject::start(kind);
    let id = subject.net(&json!([[path]]));
    if kind.is_node() {
        // Newer ones refuse it; this one listens on a part of the name, and says that all is well.
        let said = subject.message(id);
        let made = std::fs::read_dir(place.path()).expect("listed").count();
        assert!(said["error"].is_object() || made == 1, "{said}, and {made} files");
        assert!(!path.exists());
    } else {
        assert!(subject.refusal(id, 0)["code"].is_string());
    }
}

fn a_descriptor_that_is_none(kind: Kind) {
    let mut subject = Subject::start(kind);
    let (_, error) = refused(&mut subject, &json!([{ "fd": 999 }]));
    assert!(error["code"].is_string(), "{error}");
}

fn udp_taken_by_another_program(kind: Kind) {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("an address").port();
    let mut subject = Subject::start(kind);
    let bind = json!([port, "127.0.0.1"]).to_string();
    let id = subject.fork("udp.cjs", json!({ "TYPE": "\"udp4\"", "BIND": bind }));
    let error = subject.message_with(id, "error")["error"].clone();
    let expected =
        json!({ "code": "EADDRINUSE", "syscall": "bind", "address": "127.0.0.1", "port": port });
    assert_eq!(error, expected);
}

/// The lowest port that every user may have.
fn lowest_port() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

fn a_port_for_root_only(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = lowest_port() - 1;
    let (_, error) = refused(&mut subject, &json!([port, "127.0.0.1"]));
    assert_eq!((&error["code"], &error["errno"]), (&json!("EACCES"), &json!(-13)), "{error}");
}
