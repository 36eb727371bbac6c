//! Unmodified Node programs as workers.
#![allow(clippy::unwrap_used)]

mod common;

use bench::spawned::{Guarded, Signal};
use common::{
    Cluster, LONG, POLICIES, clean, kept, node, one_per_request, phalanx, reload_under, signal,
    spawn, stop_process,
};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

/// A worker's whole answer.
fn ask(address: SocketAddr) -> Value {
    let mut stream = TcpStream::connect(address).expect("the cluster listens");
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (_, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

#[test]
fn servers_run_under_every_policy() {
    for policy in POLICIES {
        for name in ["server.js", "server.mjs"] {
            let cluster = Cluster::run(&node(name), 2, &["--policy", policy]);
            let mut slots: Vec<u32> =
                cluster.workers().iter().filter_map(|pid| common::slot_of(*pid)).collect();
            slots.sort_unstable();
            assert_eq!(slots, [0, 1], "NODE_APP_INSTANCE is the slot");
            cluster.stop();
        }
    }
}

#[test]
fn reloads_lose_no_connection() {
    for policy in ["direct", "round-robin"] {
        let cluster = Cluster::run(&node("server.js"), 2, &["--policy", policy]);
        reload_under(&cluster, vec![(policy, one_per_request(&cluster))]);
        cluster.stop();
    }
}

#[test]
fn reloads_lose_no_request_on_kept_connections() {
    for (policy, name) in [("direct", "server.js"), ("round-robin", "server.mjs")] {
        let cluster = Cluster::run(&node(name), 2, &["--policy", policy]);
        reload_under(&cluster, kept(&cluster));
        cluster.stop();
    }
}

#[test]
fn a_killed_and_a_stopped_worker_are_no_outage() {
    let cluster = Cluster::run(&node("server.js"), 2, &[]);
    let workers = cluster.workers();
    stop_process(workers[0]);
    for _ in 0..20 {
        assert_eq!(ask(cluster.address)["pid"], workers[1], "{}", cluster.process.output());
    }
    signal(workers[0], Signal::CONT);
    cluster.wait_serving(2);
    signal(workers[1], Signal::KILL);
    let slots = cluster.wait_answers("the replacement", |slots| {
        slots.len() == 2 && slots.values().all(|pid| *pid != workers[1])
    });
    assert!(slots.values().any(|pid| *pid == workers[0]), "{slots:?}");
    cluster.stop();
}

/// The same server with and without the preload cannot tell the difference.
#[test]
fn the_preload_is_not_seen() {
    let see = |more: &[&str]| {
        let args = [more, &["--node-args", "--no-warnings --stack-trace-limit=20"]].concat();
        let cluster =
            Cluster::run(&node("seen.js"), 1, &[&args[..], &["--", "one", "--two"]].concat());
        let mut seen = ask(cluster.address);
        let pid = seen.as_object_mut().unwrap().remove("pid").unwrap();
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        cluster.stop();
        (seen, String::from_utf8_lossy(&command).contains("preload-"))
    };
    let (with, preloaded) = see(&[]);
    let (without, nothing) = see(&["--no-preload"]);
    assert!(preloaded && !nothing, "{preloaded} {nothing}");
    assert_eq!(with, without);
    assert_eq!(with["argv"], serde_json::json!(["one", "--two"]));
    assert_eq!(with["execArgv"], serde_json::json!(["--no-warnings", "--stack-trace-limit=20"]));
}

#[test]
fn those_who_stay_connected_are_told_to_go_away() {
    let [second, third] = [(); 2].map(|()| bench::wait::free_port().to_string());
    let place = tempfile::tempdir().unwrap();
    let mut openssl = clean("openssl", ["req", "-x509", "-newkey", "ec", "-nodes", "-days", "1"]);
    openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"]);
    openssl.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(&place);
    common::packages::run(&mut openssl);
    let args = ["--", &second, &third, place.path().to_str().unwrap()];
    let cluster = Cluster::run(&node("going_away_server.js"), 1, &args);
    let port = cluster.address.port().to_string();
    let mut command =
        clean("node", [node("going_away.js").to_str().unwrap(), &port, &second, &third]);
    let mut client =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node runs");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(client.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let mark = cluster.process.mark();
    cluster.process.signal(Signal::USR2).unwrap();
    cluster.line(mark, "reload 1 is done");
    client.stdin.take().unwrap().write_all(b"\n").unwrap();
    // It ends by itself when the server has closed all four.
    let mut seen: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(client.wait().unwrap().success());
    seen.sort();
    let expected = [
        "http2 close",
        "http2 goaway 0",
        "http2 slow begin end",
        "idle close",
        "idle end",
        "silent end",
        "tls silent end",
        "websocket 880203e9",
        "websocket end",
    ];
    seen.dedup();
    assert_eq!(seen, expected, "{}", cluster.process.output());
    cluster.line(mark, "is gone (reload): code 0");
    cluster.stop();
}

#[test]
fn uncaught_exceptions_are_told_and_change_nothing() {
    let cluster = Cluster::run(&node("server.js"), 2, &[]);
    for (path, what) in [
        ("/throw", "uncaught TypeError: thrown on purpose"),
        ("/reject", "uncaught RangeError: rejected on purpose"),
    ] {
        let mark = cluster.process.mark();
        common::get(cluster.address, path, LONG).expect_err("the worker dies of it");
        cluster.line(mark, what);
        cluster.line(mark, "ended unasked: code 1");
        cluster.line(mark, "is ready");
    }
    cluster.stop();
}

#[test]
fn workers_talk_to_each_other() {
    let cluster = Cluster::run(&node("talk.mjs"), 3, &["--print-messages"]);
    cluster.until("everybody to have heard of everybody", || {
        let answer = ask(cluster.address);
        let heard = answer["heard"].as_array()?.len();
        (heard == 2).then_some(())
    });
    let printed = cluster.process.stdout();
    assert!(
        printed.contains(r#"in slot 1: {"phalanx":"broadcast","message":{"hello":1}}"#),
        "{printed}"
    );
    cluster.stop();
}

#[test]
fn early_messages_are_kept() {
    let cluster = Cluster::run(&node("talk.mjs"), 2, &[]);
    // Slot 0 says hello when slot 1 still imports, or the other way round.
    let answers = cluster.until("both to have heard of each other", || {
        let (one, two) = (ask(cluster.address), ask(cluster.address));
        let heard = |answer: &Value| answer["heard"].as_array().map_or(0, Vec::len);
        (one["slot"] != two["slot"] && heard(&one) + heard(&two) == 2).then_some([one, two])
    });
    assert_ne!(answers[0]["heard"], answers[1]["heard"]);
    cluster.stop();
}

#[test]
fn each_worker_has_an_inspector_of_its_own() {
    let base = free_ports(8);
    let inspect = format!("--inspect=127.0.0.1:{base}");
    let cluster = Cluster::run(&node("server.js"), 2, &[&inspect]);
    let ports = |text: &str| -> Vec<u16> {
        let on = text.lines().filter_map(|line| line.split_once("inspector on 127.0.0.1:"));
        let digits = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().map(str::parse);
        on.map(|(_, port)| digits(port).expect("a port").expect("a number")).collect()
    };
    let first = ports(&cluster.process.output());
    assert_eq!(first.len(), 2, "{}", cluster.process.output());
    for port in &first {
        assert!(*port >= base, "{first:?}");
        TcpStream::connect(("127.0.0.1", *port)).expect("an inspector");
    }
    // The ones that drain still have theirs.
    cluster.reload(1);
    let all = ports(&cluster.process.output());
    assert_eq!(all.len(), 4, "{}", cluster.process.output());
    assert!(!cluster.process.output().contains("failed: address already in use"));
    cluster.stop();
}

#[test]
fn statistics_are_logged() {
    let cluster = Cluster::run(&node("server.js"), 1, &["--stats=200ms"]);
    cluster.until("requests to be counted", || {
        ask(cluster.address);
        let output = cluster.process.output();
        output.lines().any(|line| line.contains("requests per second, p50 ≤ ")).then_some(())
    });
    cluster.stop();
}

/// The first of so many ports in a row that are not for other tests.
fn free_ports(count: usize) -> u16 {
    loop {
        let ports: Vec<u16> = (0..count).map(|_| bench::wait::free_port()).collect();
        // Another test may have asked in between.
        if ports.windows(2).all(|two| two[0] + 1 == two[1]) {
            return ports[0];
        }
    }
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).expect("written");
}

#[test]
fn npm_scripts_run_without_npm_in_between() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(node("server.js"), directory.path().join("server.js")).unwrap();
    let package = r#"{"name":"shop","scripts":{"start":"cross-env MODE=x node server.js --port-from-env",
        "watch":"nodemon server.js","built":"tsc && node server.js"}}"#;
    write(directory.path(), "package.json", package);
    let address = common::v4();
    let run = |args: &[&str]| {
        let mut command = phalanx(["run", "npm", "-i", "2", "--"].iter().chain(args));
        command.current_dir(directory.path()).env("PORT", address.port().to_string());
        command
    };
    let cluster = Cluster { process: spawn(&mut run(&["start"])), address };
    cluster.wait_serving(2);
    let worker = cluster.workers()[0];
    let environ =
        String::from_utf8_lossy(&std::fs::read(format!("/proc/{worker}/environ")).unwrap())
            .into_owned();
    assert!(
        environ.contains("\0MODE=x\0") && environ.contains("npm_lifecycle_event=start"),
        "{environ}"
    );
    cluster.reload(1);
    cluster.stop();
    for (args, words) in [
        (&["run", "watch"][..], "nodemon starts the server as a child of its own"),
        (&["run", "built"], "`&` needs a shell"),
        (&["run", "missing"], "has no script `missing`"),
        (&["install"], "only `start` and `run NAME`"),
    ] {
        fails(&mut run(args), 3, &[words, "hint: name the program that serves"]);
    }
}

/// The command fails with a code and says those words.
fn fails(command: &mut Command, code: i32, words: &[&str]) {
    let process: Guarded = spawn(command);
    let status = process.wait_exit(LONG).unwrap_or_else(|error| panic!("{error}"));
    let said = process.output();
    assert_eq!(status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in:\n{said}");
    }
}

#[test]
fn typescript_runs_where_node_can() {
    let features = Command::new("node").args(["-p", "process.features.typescript || ''"]).output();
    let can = features.expect("node runs").stdout.starts_with(b"strip");
    if can {
        Cluster::run(&node("typed.ts"), 2, &[]).stop();
    } else {
        let program = node("typed.ts");
        fails(
            &mut phalanx(["run", program.to_str().unwrap()]),
            3,
            &["does not run TypeScript", "hint: Node 22.18"],
        );
    }
}
