//! Programs that listen in their own ways: on what they find, beside a port of their own, once more after a shutdown.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, LONG, get, phalanx, spawn, v4};
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

/// The demo's answers, one after the other.
const SERVE: &str = r#"
import json, os, socket, sys, time

BODY = json.dumps({"pid": os.getpid(), "slot": int(os.environ["NODE_APP_INSTANCE"])})
ANSWER = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\nConnection: close\r\n\r\n{BODY}".encode()

def serve(listener):
    while True:
        client, _ = listener.accept()
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += client.recv(4096) or b"\r\n\r\n"
        client.sendall(ANSWER)
        client.close()
"#;

/// Two workers, `{port}` in the script being their port; `options` may have an address in it.
fn start(directory: &tempfile::TempDir, script: &str, options: &[&str]) -> Cluster {
    let address = v4();
    let path = directory.path().join("server.py");
    let script = script.replace("{port}", &address.port().to_string());
    fs::write(&path, format!("{SERVE}{script}")).unwrap();
    let options = options.iter().map(|text| text.replace("{address}", &address.to_string()));
    let mut args: Vec<String> = ["run", "-i", "2"].map(str::to_owned).into();
    args.extend(options);
    args.extend(["--".into(), "/usr/bin/python3".into(), path.display().to_string()]);
    Cluster { process: spawn(&mut phalanx(args)), address }
}

/// Clients that come at the same time: each is answered soon, whichever socket it got.
fn all_are_answered(cluster: &Cluster) {
    let ask = |address: SocketAddr| move || get(address, "/", Duration::from_secs(10));
    let clients: Vec<_> = (0..60).map(|_| thread::spawn(ask(cluster.address))).collect();
    for client in clients {
        let answer = client.join().unwrap();
        assert!(answer.is_ok(), "{answer:?}\n{}", cluster.process.output());
    }
}

fn serves_after_a_reload(cluster: Cluster) {
    cluster.wait_serving(2);
    cluster.reload(1);
    // Old workers have to be gone: what is left of them is what is asked about.
    cluster.wait_workers(2);
    all_are_answered(&cluster);
    cluster.wait_serving(2);
    cluster.stop();
}

#[test]
fn found_sockets_of_a_program_that_is_ready_when_it_is_online() {
    let directory = tempfile::tempdir().unwrap();
    let options = ["--listen", "{address}", "--ready", "online"];
    serves_after_a_reload(start(&directory, "serve(socket.socket(fileno=3))", &options));
}

#[test]
fn found_sockets_beside_a_port_that_is_bound() {
    let directory = tempfile::tempdir().unwrap();
    let own = v4().port();
    let script = format!(
        "own = socket.socket(); own.bind(('127.0.0.1', {own})); own.listen()\nserve(socket.socket(fileno=3))"
    );
    serves_after_a_reload(start(&directory, &script, &["--listen", "{address}"]));
}

#[test]
fn a_socket_that_is_shut_down_and_listens_again() {
    let directory = tempfile::tempdir().unwrap();
    let script = "
listener = socket.socket()
listener.bind(('127.0.0.1', {port}))
listener.listen()
if os.environ['NODE_APP_INSTANCE'] == '0':
    listener.shutdown(socket.SHUT_RDWR)
    time.sleep(0.3)
    listener.listen()
os.write(2, b'serves\\n')
serve(listener)";
    let cluster = start(&directory, script, &[]);
    let mut count = 0;
    let both = |line: &str| {
        count += usize::from(line == "serves");
        count == 2
    };
    cluster.process.wait_for_line(both, LONG).unwrap_or_else(|error| panic!("{error}"));
    // Both get their share, before and after a reload, though the kernel's order has changed.
    cluster.wait_serving(2);
    all_are_answered(&cluster);
    cluster.reload(1);
    cluster.wait_workers(2);
    cluster.wait_serving(2);
    all_are_answered(&cluster);
    cluster.stop();
}
