//! Every way to listen, and what is told of it.

use crate::client::{self, datagram, free_port, greeted, line, local};
use crate::scenarios;
use crate::subject::{Kind, Subject};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

scenarios!(
    tcp_on_ipv4,
    tcp_on_ipv6,
    tcp_on_both,
    tcp_on_ipv6_only,
    a_host_name,
    two_ports_of_port_zero,
    port_zero_beside_a_known_port,
    a_unix_path,
    a_relative_unix_path,
    an_inherited_descriptor,
    exclusive,
    every_form_of_arguments,
    several_ports,
    close_and_listen_again,
    closed_while_it_is_told,
    the_last_one_closes_the_port,
    the_last_one_leaves,
    udp_on_ipv4,
    udp_on_ipv6,
    udp_without_a_port,
    udp_on_a_port_that_is_text,
    udp_closed_and_bound_again,
    udp_exclusive,
    udp_options,
);

fn port_of(address: &Value) -> u16 {
    u16::try_from(address["port"].as_u64().expect("a port")).expect("a port")
}

/// Two workers listen in the same way; both say where, the primary is told, and clients are served.
fn two(kind: Kind, args: &Value, told: &Value, node: &Value, local: &Value) -> Subject {
    let mut subject = Subject::start(kind);
    for _ in 0..2 {
        let id = subject.net(&json!([args]));
        assert_eq!(subject.address(id, 0), *local, "server.address() in worker {id}");
        let event = subject.event(id, "listening");
        assert_eq!(event["address"], *told, "of worker {id}");
        if kind.is_node() {
            assert_eq!(event["raw"], *node);
            assert_eq!(event["keys"], json!(["address", "addressType", "fd", "port"]));
        }
    }
    subject
}

fn tcp_on_ipv4(kind: Kind) {
    let port = free_port();
    let _subject = two(
        kind,
        &json!([port, "127.0.0.1"]),
        &json!({ "host": "127.0.0.1", "port": port }),
        &json!({ "addressType": 4, "address": "127.0.0.1", "port": port }),
        &json!({ "address": "127.0.0.1", "family": "IPv4", "port": port }),
    );
    assert!((1..=2).contains(&greeted(local(port)).0));
}

fn tcp_on_ipv6(kind: Kind) {
    let port = free_port();
    let _subject = two(
        kind,
        &json!([port, "::1"]),
        &json!({ "host": "::1", "port": port }),
        &json!({ "addressType": 6, "address": "::1", "port": port }),
        &json!({ "address": "::1", "family": "IPv6", "port": port }),
    );
    assert!((1..=2).contains(&greeted((Ipv6Addr::LOCALHOST, port).into()).0));
    let four = client::connect(local(port)).map(|_| ());
    assert_eq!(four.map_err(|e| e.kind()), Err(std::io::ErrorKind::ConnectionRefused));
}

fn tcp_on_both(kind: Kind) {
    let port = free_port();
    let _subject = two(
        kind,
        &json!([port]),
        &json!({ "host": "::", "port": port }),
        &json!({ "addressType": 4, "address": null, "port": port }),
        &json!({ "address": "::", "family": "IPv6", "port": port }),
    );
    assert!((1..=2).contains(&greeted(local(port)).0));
    assert!((1..=2).contains(&greeted((Ipv6Addr::LOCALHOST, port).into()).0));
}

fn tcp_on_ipv6_only(kind: Kind) {
    let port = free_port();
    let _subject = two(
        kind,
        &json!([{ "host": "::", "port": port, "ipv6Only": true }]),
        &json!({ "host": "::", "port": port }),
        &json!({ "addressType": 6, "address": "::", "port": port }),
        &json!({ "address": "::", "family": "IPv6", "port": port }),
    );
    assert!((1..=2).contains(&greeted((Ipv6Addr::LOCALHOST, port).into()).0));
    // The port on IPv4 is free for another program.
    TcpListener::bind(local(port)).expect("IPv4 is not taken");
}

/// Names are resolved in the worker.
fn a_host_name(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let id = subject.net(&json!([[{ "host": "localhost", "port": port }]]));
    let address = subject.address(id, 0);
    let ip: IpAddr = address["address"].as_str().expect("text").parse().expect("an address");
    assert!(ip.is_loopback(), "{address}");
    assert_eq!(subject.event(id, "listening")["address"], json!({ "host": ip, "port": port }));
    assert_eq!(greeted((ip, port).into()).0, id);
}

/// The n-th port 0 of every worker is one port.
fn two_ports_of_port_zero(kind: Kind) {
    let mut subject = Subject::start(kind);
    let listen = json!([[0, "127.0.0.1"], [0, "127.0.0.1"]]);
    let mut ports = Vec::new();
    for _ in 0..2 {
        let id = subject.net(&listen);
        let pair = [0, 1].map(|n| port_of(&subject.address(id, n)));
        let mut told = [0, 1].map(|_| port_of(&subject.event(id, "listening")["address"]));
        told.sort_unstable();
        let mut sorted = pair;
        sorted.sort_unstable();
        assert_eq!(told, sorted, "the real ports are told");
        ports.push(pair);
    }
    assert_ne!(ports[0][0], ports[0][1], "two servers have two ports");
    assert_eq!(ports[0], ports[1], "two workers have the same ports");
    for port in ports[0] {
        assert!((1..=2).contains(&greeted(local(port)).0));
    }
}

fn port_zero_beside_a_known_port(kind: Kind) {
    let mut subject = Subject::start(kind);
    let known = free_port();
    let id = subject.net(&json!([[known, "127.0.0.1"], [0, "127.0.0.1"]]));
    assert_eq!(port_of(&subject.address(id, 0)), known);
    let random = port_of(&subject.address(id, 1));
    assert_ne!(random, known);
    assert_eq!((greeted(local(known)).0, greeted(local(random)).0), (id, id));
}

fn served_at(path: &Path) -> u64 {
    let stream = client::unix(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    line(stream).expect("greeted").parse().expect("a number")
}

fn a_unix_path(kind: Kind) {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("a.sock");
    let mut subject = two(
        kind,
        &json!([{ "path": path }]),
        &json!({ "path": path }),
        &json!({ "addressType": -1, "address": path, "port": -1 }),
        &json!(path),
    );
    assert!((1..=2).contains(&served_at(&path)));
    // The last one that leaves closes it, and takes the file along.
    subject.ask(json!({ "do": "disconnectAll" }));
    for id in [1, 2] {
        subject.exit(id);
    }
    bench::wait::until(crate::subject::PATIENCE, "the socket's file to go", || {
        (!path.exists()).then_some(())
    })
    .expect("gone");
}

fn a_relative_unix_path(kind: Kind) {
    let mut subject = Subject::start(kind);
    let place = tempfile::tempdir().expect("a directory");
    let env = json!({ "LISTEN": "[[\"./relative.sock\"]]" });
    let id = subject.fork_as("net.cjs", json!({ "cwd": place.path(), "env": env }));
    subject.address(id, 0);
    assert_eq!(served_at(&place.path().join("relative.sock")), id);
}

/// The number is one of the primary's descriptors.
fn an_inherited_descriptor(kind: Kind) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let mut subject = Subject::start_with_socket(kind, listener);
    for _ in 0..2 {
        let id = subject.net(&json!([[{ "fd": 7 }]]));
        assert_eq!(port_of(&subject.address(id, 0)), port);
        subject.event(id, "listening");
    }
    assert!((1..=2).contains(&greeted(local(port)).0));
}

/// A socket of the worker's own: the primary is not asked, and nobody is told.
fn exclusive(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let listen = json!([[{ "host": "127.0.0.1", "port": port, "exclusive": true }]]);
    let first = subject.net(&listen);
    subject.address(first, 0);
    assert_eq!(greeted(local(port)).0, first);
    let second = subject.net(&listen);
    let error = subject.refusal(second, 0);
    assert_eq!((&error["code"], &error["syscall"]), (&json!("EADDRINUSE"), &json!("listen")));
    subject.ask(json!({ "do": "ping" }));
    for id in [first, second] {
        let names = subject.names(id);
        assert!(!names.contains(&"listening".to_owned()), "worker {id}: {names:?}");
    }
}

fn every_form_of_arguments(kind: Kind) {
    let mut subject = Subject::start(kind);
    let ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
    let id = subject.net(&json!([
        [ports[0], "127.0.0.1", 7],
        [{ "host": "127.0.0.1", "port": ports[1], "backlog": 33 }],
        [ports[2].to_string(), "127.0.0.1"],
        [{ "port": ports[3].to_string(), "host": "127.0.0.1", "exclusive": false }],
        [ports[4], null],
        [{ "port": ports[5] }, null],
        [],
    ]));
    for (n, port) in ports.iter().enumerate() {
        assert_eq!(port_of(&subject.address(id, n)), *port, "form {n}");
        assert_eq!(greeted(local(*port)).0, id, "form {n}");
    }
    let any = port_of(&subject.address(id, ports.len()));
    assert_eq!(greeted(local(any)).0, id, "no arguments at all: a free port");
}

fn several_ports(kind: Kind) {
    let mut subject = Subject::start(kind);
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("b.sock");
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let mut listen: Vec<Value> = ports.iter().map(|port| json!([port, "127.0.0.1"])).collect();
    listen.push(json!([path]));
    for _ in 0..2 {
        let id = subject.net(&json!(listen));
        for n in 0..listen.len() {
            subject.address(id, n);
            subject.event(id, "listening");
        }
    }
    for port in ports {
        assert!((1..=2).contains(&greeted(local(port)).0));
    }
    assert!((1..=2).contains(&served_at(&path)));
}

fn close_and_listen_again(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let args = json!([port, "127.0.0.1"]);
    let other = subject.net(&json!([args]));
    subject.address(other, 0);
    let id = subject.net(&json!([args]));
    for round in 0..3 {
        subject.address(id, 0);
        subject.event(id, "listening");
        subject.send(id, json!({ "do": "close", "n": 0 }));
        subject.message_with(id, "closed");
        let next = greeted(local(port)).0;
        assert_eq!(next, other, "in round {round} it is closed");
        subject.send(id, json!({ "do": "again", "n": 0, "args": args }));
    }
    subject.address(id, 0);
    subject.event(id, "listening");
    // The other leaves: what was opened again works by itself.
    subject.disconnect(other);
    subject.exit(other);
    assert_eq!(greeted(local(port)).0, id);
}

/// Who closes a server in its `listening` never listened, for the primary.
fn closed_while_it_is_told(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let id = subject.fork("close-in-callback.cjs", json!({ "PORT": port.to_string() }));
    assert_eq!(subject.message(id), "closed");
    subject.ask(json!({ "do": "ping" }));
    let names = subject.names(id);
    assert!(!names.contains(&"listening".to_owned()), "{names:?}");
}

/// A closed port refuses its clients, and is free for others.
fn the_last_one_closes_the_port(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let ids = [0, 1].map(|_| subject.net(&json!([[port, "127.0.0.1"]])));
    for id in ids {
        subject.address(id, 0);
        subject.event(id, "listening");
    }
    for id in ids {
        assert!(client::connect(local(port)).is_ok(), "worker {id} still listens");
        subject.send(id, json!({ "do": "close", "n": 0 }));
    }
    bench::wait::until(crate::subject::PATIENCE, "the port to be free", || {
        TcpListener::bind(local(port)).ok()
    })
    .expect("closed");
    assert_eq!(subject.state(ids[0])["connected"], true, "the workers live on");
}

/// Node closes the port of a worker that was the last. Here a port is the cluster's: a client waits for the
/// worker that is forked next.
fn the_last_one_leaves(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let listen = json!([[port, "127.0.0.1"]]);
    let first = subject.net(&listen);
    subject.address(first, 0);
    subject.event(first, "listening");
    subject.ask(json!({ "do": "kill", "id": first, "signal": "SIGKILL" }));
    subject.exit(first);
    let waiting = client::connect(local(port));
    let second = subject.net(&listen);
    subject.address(second, 0);
    if kind.is_node() {
        let refused = waiting.map(|_| ()).map_err(|e| e.kind());
        assert_eq!(refused, Err(std::io::ErrorKind::ConnectionRefused));
    } else {
        let said = line(waiting.expect("the port is open")).expect("greeted");
        assert_eq!(said, second.to_string());
    }
    assert_eq!(greeted(local(port)).0, second);
}

fn udp(subject: &mut Subject, kind: &str, bind: &Value) -> (u64, Value) {
    udp_of(subject, &json!(kind), bind)
}

fn udp_of(subject: &mut Subject, kind: &Value, bind: &Value) -> (u64, Value) {
    let env = json!({ "TYPE": kind.to_string(), "BIND": bind.to_string() });
    let id = subject.fork("udp.cjs", env);
    let address = subject.message_with(id, "address")["address"].clone();
    (id, address)
}

fn answers(to: SocketAddr) {
    let said = datagram(to, "hi").unwrap_or_else(|e| panic!("no answer from {to}: {e}"));
    assert!(["1 got hi", "2 got hi"].contains(&said.as_str()), "{said}");
}

fn udp_on_ipv4(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    for _ in 0..2 {
        let (id, address) = udp(&mut subject, "udp4", &json!([port, "127.0.0.1"]));
        assert_eq!((&address["address"], port_of(&address)), (&json!("127.0.0.1"), port));
        let event = subject.event(id, "listening");
        assert_eq!(event["address"], json!({ "host": "127.0.0.1", "port": port }));
        if kind.is_node() {
            let raw =
                json!({ "addressType": "udp4", "address": "127.0.0.1", "port": port, "fd": -1 });
            assert_eq!(event["raw"], raw);
        }
    }
    for _ in 0..10 {
        answers(local(port));
    }
}

fn udp_on_ipv6(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    for _ in 0..2 {
        let (id, address) = udp(&mut subject, "udp6", &json!([{ "port": port, "address": "::1" }]));
        assert_eq!((&address["address"], port_of(&address)), (&json!("::1"), port));
        subject.event(id, "listening");
    }
    answers((Ipv6Addr::LOCALHOST, port).into());
}

/// `bind()` without a port: one random port for all.
fn udp_without_a_port(kind: Kind) {
    let mut subject = Subject::start(kind);
    let (_, first) = udp(&mut subject, "udp4", &json!([]));
    let (_, second) = udp(&mut subject, "udp4", &json!([]));
    assert_eq!(first, second);
    assert_eq!(first["address"], json!(Ipv4Addr::UNSPECIFIED));
    answers(local(port_of(&first)));
}

/// As from `process.env`: it is the port of that number.
fn udp_on_a_port_that_is_text(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    for wish in [json!(port.to_string()), json!(port)] {
        let (id, address) = udp(&mut subject, "udp4", &json!([wish, "127.0.0.1"]));
        assert_eq!(port_of(&address), port, "{wish}");
        subject.event(id, "listening");
    }
    for _ in 0..10 {
        answers(local(port));
    }
    for wish in [json!(null), json!(""), json!("http"), json!(false)] {
        let (_, address) = udp(&mut subject, "udp4", &json!([wish, "127.0.0.1"]));
        assert!(![0, port].contains(&port_of(&address)), "{wish}: {address}");
    }
}

fn udp_closed_and_bound_again(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    for _ in 0..2 {
        let (id, _) = udp(&mut subject, "udp4", &json!([port, "127.0.0.1"]));
        answers(local(port));
        assert_eq!(subject.talk(id, json!("close")), "closed");
        subject.disconnect(id);
        subject.exit(id);
    }
}

fn udp_exclusive(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let bind = json!([{ "port": port, "address": "127.0.0.1", "exclusive": true }]);
    let (first, _) = udp(&mut subject, "udp4", &bind);
    answers(local(port));
    let env = json!({ "TYPE": "\"udp4\"", "BIND": bind.to_string() });
    let second = subject.fork("udp.cjs", env);
    let error = subject.message_with(second, "error")["error"].clone();
    assert_eq!((&error["code"], &error["syscall"]), (&json!("EADDRINUSE"), &json!("bind")));
    subject.ask(json!({ "do": "ping" }));
    assert!(!subject.names(first).contains(&"listening".to_owned()), "nobody is told");
}

/// `ipv6Only` leaves the port on IPv4 to others; `reuseAddr` changes nothing that can be seen here.
fn udp_options(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let six = json!({ "type": "udp6", "ipv6Only": true });
    let (_, address) = udp_of(&mut subject, &six, &json!([port, "::"]));
    assert_eq!(port_of(&address), port);
    answers((Ipv6Addr::LOCALHOST, port).into());
    let four = json!({ "type": "udp4", "reuseAddr": true });
    for _ in 0..2 {
        let (_, address) = udp_of(&mut subject, &four, &json!([port, "127.0.0.1"]));
        assert_eq!(port_of(&address), port);
    }
}
