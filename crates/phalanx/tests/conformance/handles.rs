//! Handles, both ways: whoever gets one can use it.

use crate::client::{self, LOCALHOST, all, datagram, free_port, local};
use crate::scenarios;
use crate::subject::{Kind, PATIENCE, Subject};
use serde_json::{Value, json};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;

scenarios!(
    tcp_from_a_worker,
    raw_from_a_worker,
    unix_from_a_worker,
    kept_by_a_worker,
    servers_from_a_worker,
    udp_from_a_worker,
    connections_passed_on,
    tcp_to_a_worker,
    unix_to_a_worker,
    servers_to_a_worker,
    udp_to_a_worker,
    many_to_a_worker,
);

fn ready(kind: Kind, script: &str) -> (Subject, u64) {
    let mut subject = Subject::start(kind);
    let id = subject.fork(script, json!({}));
    assert_eq!(subject.message(id), "ready");
    (subject, id)
}

/// The next handle that the primary got: the message that came with it, and what it is.
fn got(subject: &mut Subject, id: u64) -> (Value, Value) {
    let event = subject.event(id, "message");
    (event["message"].clone(), event["handle"].clone())
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("accepted");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

fn port_of(told: &Value) -> u16 {
    u16::try_from(told["port"].as_u64().unwrap_or_else(|| panic!("no port in {told}")))
        .expect("a port")
}

/// The worker connects to a listener here, and sends the connection.
fn tcp_from_a_worker(kind: Kind) {
    let (mut subject, id) = ready(kind, "give.cjs");
    let listener = TcpListener::bind((LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    subject.send(id, json!({ "kind": "tcp", "port": port }));
    let stream = accept(&listener);
    assert_eq!(got(&mut subject, id), (json!("tcp"), json!("socket")));
    let done = subject.message(id);
    assert_eq!(done, json!({ "sent": null, "open": false }), "the callback of send()");
    assert_eq!(all(stream).expect("read"), "primary has it\n");
}

fn raw_from_a_worker(kind: Kind) {
    let (mut subject, id) = ready(kind, "give.cjs");
    let listener = TcpListener::bind((LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    subject.send(id, json!({ "kind": "native", "port": port }));
    let stream = accept(&listener);
    assert_eq!(got(&mut subject, id), (json!("native"), json!("socket")));
    // The worker keeps its own copy of a raw handle: there is no end to read to.
    assert_eq!(client::line(stream).expect("read"), "primary has it");
}

fn unix_from_a_worker(kind: Kind) {
    let (mut subject, id) = ready(kind, "give.cjs");
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("here.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    subject.send(id, json!({ "kind": "unix", "path": path }));
    let (stream, _) = listener.accept().expect("accepted");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    assert_eq!(got(&mut subject, id), (json!("unix"), json!("socket")));
    assert_eq!(all(stream).expect("read"), "primary has it\n");
}

/// `keepOpen`: the worker has it still.
fn kept_by_a_worker(kind: Kind) {
    let (mut subject, id) = ready(kind, "give.cjs");
    let listener = TcpListener::bind((LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    subject.send(id, json!({ "kind": "kept", "port": port }));
    let stream = accept(&listener);
    assert_eq!(got(&mut subject, id), (json!("kept"), json!("socket")));
    assert_eq!(subject.message(id), json!({ "sent": null, "open": true }));
    assert_eq!(client::line(stream).expect("read"), "primary has it");
}

fn servers_from_a_worker(kind: Kind) {
    let (mut subject, id) = ready(kind, "give.cjs");
    subject.send(id, json!({ "kind": "tcp-server" }));
    assert_eq!(got(&mut subject, id), (json!("tcp-server"), json!("server")));
    let port = port_of(&subject.message_with(id, "port"));
    let stream = client::connect(local(port)).expect("connected");
    assert_eq!(all(stream).expect("read"), "primary accepts\n");

    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("given.sock");
    subject.send(id, json!({ "kind": "unix-server", "path": path }));
    assert_eq!(got(&mut subject, id), (json!("unix-server"), json!("server")));
    subject.message_with(id, "path");
}

fn udp_from_a_worker(kind: Kind) {
    let (mut subject, id) = ready(kind, "give.cjs");
    for (wish, ip) in [("udp4", LOCALHOST), ("udp6", Ipv6Addr::LOCALHOST.into())] {
        subject.send(id, json!({ "kind": wish }));
        assert_eq!(got(&mut subject, id), (json!(wish), json!("udp")));
        let port = port_of(&subject.message_with(id, "port"));
        let answer = datagram(SocketAddr::new(ip, port), "hi").expect("answered");
        assert_eq!(answer, "primary got hi");
    }
}

/// Connections of a server, sent on: messages keep their order, and the server can close.
fn connections_passed_on(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let id = subject.fork("pass-on.cjs", json!({ "PORT": port.to_string() }));
    subject.event(id, "listening");
    for _ in 0..5 {
        let stream = client::connect(local(port)).expect("connected");
        for n in 1..=4 {
            let handle = if n == 2 { json!("socket") } else { json!(null) };
            assert_eq!(got(&mut subject, id), (json!({ "n": n }), handle));
        }
        assert_eq!(all(stream).expect("read"), "primary has it\n");
    }
    let count = subject.talk(id, json!("count"));
    assert_eq!(count, json!({ "error": null, "count": 0 }), "all of them ended");
    assert_eq!(subject.talk(id, json!("close")), json!({ "closed": true }));
    subject.disconnect(id);
    assert_eq!(subject.exit(id), (json!(0), json!(null), json!(true)));
}

/// Sends a handle to the worker; says where it is and what the worker says of it.
fn give(subject: &mut Subject, id: u64, handle: &Value) -> (Value, Value) {
    let message = json!({ "with": handle["kind"] });
    let order = json!({ "do": "send", "id": id, "message": message, "handle": handle });
    let place = subject.ask(order);
    let told = subject.message(id);
    assert_eq!(told["message"], message);
    (place, told["type"].clone())
}

fn tcp_to_a_worker(kind: Kind) {
    let (mut subject, id) = ready(kind, "take.cjs");
    let listener = TcpListener::bind((LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let (_, class) = give(&mut subject, id, &json!({ "kind": "tcp", "port": port }));
    assert_eq!(class, "Socket");
    assert_eq!(all(accept(&listener)).expect("read"), "worker has it\n");
}

fn unix_to_a_worker(kind: Kind) {
    let (mut subject, id) = ready(kind, "take.cjs");
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("here.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let (_, class) = give(&mut subject, id, &json!({ "kind": "unix", "path": path }));
    assert_eq!(class, "Socket");
    let (stream, _) = listener.accept().expect("accepted");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    assert_eq!(all(stream).expect("read"), "worker has it\n");
}

fn servers_to_a_worker(kind: Kind) {
    let (mut subject, id) = ready(kind, "take.cjs");
    let (place, class) = give(&mut subject, id, &json!({ "kind": "tcp-server" }));
    assert_eq!(class, "Server");
    let stream = client::connect(local(port_of(&place))).expect("connected");
    assert_eq!(all(stream).expect("read"), "worker accepts\n");
    // It is no server of the cluster's.
    let names = subject.names(id);
    assert!(!names.contains(&"listening".to_owned()), "{names:?}");
}

fn udp_to_a_worker(kind: Kind) {
    let (mut subject, id) = ready(kind, "take.cjs");
    for (wish, ip) in [("udp4", LOCALHOST), ("udp6", Ipv6Addr::LOCALHOST.into())] {
        let (place, class) = give(&mut subject, id, &json!({ "kind": wish }));
        assert_eq!(class, "Socket");
        let answer = datagram(SocketAddr::new(ip, port_of(&place)), "hi").expect("answered");
        assert_eq!(answer, "worker got hi");
    }
}

/// Each handle comes with its own message, and plain messages stay where they were.
fn many_to_a_worker(kind: Kind) {
    let (mut subject, id) = ready(kind, "take.cjs");
    let listener = TcpListener::bind((LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    for n in 0..20 {
        let handle = json!({ "kind": "tcp", "port": port });
        let order = json!({ "do": "send", "id": id, "message": { "n": n }, "handle": handle });
        subject.ask(order);
        subject.order(json!({ "do": "send", "id": id, "message": { "after": n } }));
    }
    for n in 0..20 {
        assert_eq!(subject.message(id), json!({ "message": { "n": n }, "type": "Socket" }));
        assert_eq!(subject.message(id), json!({ "plain": { "after": n } }));
        assert_eq!(all(accept(&listener)).expect("read"), "worker has it\n");
    }
}
