//! Binds that fail, and programs that bind wrongly: the same errors as without phalanx.

use crate::common::{Cluster, LONG, phalanx, spawn, v6};
use crate::hostile::{pair, program, said, same_as_alone, serves_as_alone, start, transcript};
use bench::spawned::Signal;
use bench::wait;
use std::net::{TcpListener, UdpSocket};

/// Every step needs a socket of its own.
fn each_on_its_own(socket: &str, kinds: &[&str], more: &[&str]) -> Vec<String> {
    let mut steps = Vec::new();
    for kind in kinds {
        steps.extend([format!("socket={socket}"), format!("bad={kind}")]);
        steps.extend(more.iter().map(|step| (*step).to_owned()));
        steps.push("close".to_owned());
    }
    steps
}

const WRONG: [&str; 19] = [
    "empty",
    "one",
    "short",
    "null",
    "pointer",
    "kernel",
    "huge",
    "negative",
    "large",
    "no-fd",
    "unused-fd",
    "half-mapped",
    "file",
    "path",
    "family",
    "unknown-family",
    "listen-no-fd",
    "listen-unused-fd",
    "listen-file",
];

#[test]
fn garbage_has_the_kernel_s_error() {
    for (address, family) in [(pair(), "tcp4"), (v6(), "tcp6"), (pair(), "udp4"), (v6(), "udp6")] {
        let mut steps = each_on_its_own(family, &WRONG, &["name"]);
        let ip = address.ip().to_string();
        let end = [format!("socket={family}"), format!("bind={ip}"), "name".into()];
        steps.extend(end);
        steps.extend(if family.starts_with("udp") { vec![] } else { vec!["listen=9".to_owned()] });
        steps.push("serve".to_owned());
        let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
        let cluster = same_as_alone(address, &[], &steps);
        let said = said(&cluster.process.output(), "1");
        for line in ["bad=half-mapped: EFAULT", "bad=file: ENOTSOCK", "bad=unused-fd: EBADF"] {
            assert!(said.iter().any(|seen| seen == line), "{line:?} is not in {said:?}");
        }
        if family.starts_with("tcp") {
            cluster.wait_serving(2);
        }
        cluster.process.signal(Signal::TERM).unwrap();
        assert_eq!(cluster.wait_gone(LONG), 0);
    }
}

#[test]
fn what_only_looks_wrong_is_right() {
    // More room than the address needs, the last bytes of a page, the kernel's own leniency with the
    // family, and registers of which only the lower half counts.
    let right = ["roomy", "at-the-end", "wide-fd", "wide-length", "unspec"];
    let mut steps = each_on_its_own("tcp4", &right, &["name", "listen=9", "get=accepting"]);
    steps.extend(["socket=tcp4", "bad=wide-fd", "listen=9", "serve"].map(str::to_owned));
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let lines = ["bad=roomy: ok", "bad=at-the-end: ok", "bad=wide-fd: ok", "bad=unspec: ok"];
    serves_as_alone(&steps, &lines).stop();
}

#[test]
fn a_socket_that_is_bound_stays_where_it_is() {
    let steps = [
        "socket=tcp4",
        "bind=127.0.0.1",
        "bind=127.0.0.1",
        "bind=127.0.0.1/+",
        "name",
        "listen=9",
        "bind=127.0.0.1",
        "bind=127.0.0.1/+",
        "name",
        "serve",
    ];
    serves_as_alone(&steps, &["bind=127.0.0.1/+: EINVAL"]).stop();
    let steps = [
        "socket=tcp4",
        "bind=127.0.0.1/0",
        "bind=127.0.0.1",
        "listen=9",
        "close",
        "socket=tcp4",
        "bind=127.0.0.1",
        "listen=9",
        "serve",
    ];
    serves_as_alone(&steps, &["bind=127.0.0.1: EINVAL", "bind=127.0.0.1: ok"]).stop();
}

#[test]
fn a_connected_socket_keeps_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = format!("connect=127.0.0.1/{}", listener.local_addr().unwrap().port());
    let steps = [
        "socket=tcp4",
        &connect,
        "bind=127.0.0.1",
        "get=accepting",
        "socket=tcp4",
        "bind=127.0.0.1",
        "listen=9",
        "serve",
    ];
    let cluster = serves_as_alone(&steps, &["bind=127.0.0.1: EINVAL"]);
    // The program alone, then the workers: all three are still connected, and the first is gone.
    let mut clients: Vec<_> = (0..3).map(|_| listener.accept().unwrap().0).collect();
    for client in clients.drain(1..) {
        client.set_nonblocking(true).unwrap();
        let error = client.peek(&mut [0]).expect_err("nothing was sent, and nothing closed");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "a connection was lost");
    }
    cluster.stop();
    // The same with datagrams.
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let connect = format!("connect=127.0.0.1/{}", peer.local_addr().unwrap().port());
    let steps = ["socket=udp4", &connect, "bind=127.0.0.1", "park"];
    let cluster = same_as_alone(pair(), &[], &steps);
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn twice_in_one_process() {
    let twice =
        ["socket=tcp4", "bind=127.0.0.1", "listen=9", "socket=tcp4", "bind=127.0.0.1", "serve"];
    serves_as_alone(&twice, &["bind=127.0.0.1: ok", "bind=127.0.0.1: EADDRINUSE"]).stop();
    let twice = [
        "socket=tcp4",
        "set=reuseport:1",
        "bind=127.0.0.1",
        "listen=9",
        "socket=tcp4",
        "set=reuseport:1",
        "bind=127.0.0.1",
        "listen=9",
        "serve",
    ];
    serves_as_alone(&twice, &["bind=127.0.0.1: ok"]).stop();
}

#[test]
fn a_wildcard_and_an_address_of_one_process_are_in_conflict() {
    for (address, first, second) in [
        (pair(), "0.0.0.0", "127.0.0.1"),
        (pair(), "127.0.0.1", "0.0.0.0"),
        (v6(), "::", "0.0.0.0"),
    ] {
        let family = |ip: &str| if ip.contains(':') { "socket=tcp6" } else { "socket=tcp4" };
        let (one, two) = (format!("bind={first}"), format!("bind={second}"));
        let steps = [family(first), &one, "listen=9", family(second), &two, "serve"];
        let cluster = same_as_alone(address, &[], &steps);
        let said = said(&cluster.process.output(), "0");
        assert_eq!(said[4], format!("{two}: EADDRINUSE"), "after {one}");
        cluster.wait_serving(2);
        cluster.stop();
    }
}

#[test]
fn an_address_of_another_machine() {
    let address = pair();
    let steps = ["socket=tcp4", "bind=203.0.113.1", "park"];
    let cluster = same_as_alone(address, &[], &steps);
    assert_eq!(said(&cluster.process.output(), "0")[1], "bind=203.0.113.1: EADDRNOTAVAIL");
    let line = cluster.line(0, &format!("203.0.113.1:{}", address.port()));
    assert!(!line.starts_with('['), "it is the primary that says it: {line}");
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn an_address_of_another_application() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let text = address.to_string();
    // One that gives up: phalanx then does too, with the reason.
    let cluster = start(address, &["-i", "2"], &["socket=tcp4", "bind=127.0.0.1", "exit=1"]);
    let status = cluster.process.wait_exit(LONG).unwrap_or_else(|error| panic!("{error}"));
    let log = cluster.process.output();
    assert_eq!(status.code(), Some(5), "{log}");
    assert_eq!(said(&log, "0")[1], "bind=127.0.0.1: EADDRINUSE", "{log}");
    let last = log.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
    assert!(log.lines().any(|line| line.contains(&text) && line.contains("in use")), "{log}");
    assert!(last.contains(&text) || last.contains("hint"), "the last word does not say why: {log}");
    assert!(cluster.process.record().is_empty(), "left processes");
    // One that goes on without: that is its affair, but it is said.
    let cluster = start(address, &["-i", "2"], &["socket=tcp4", "bind=127.0.0.1", "park"]);
    for slot in ["0", "1"] {
        let said = transcript(&cluster.process, slot, "park");
        assert_eq!(said[1], "bind=127.0.0.1: EADDRINUSE");
    }
    let line = cluster.line(0, &text);
    assert!(line.contains("in use"), "{line}");
    cluster.process.signal(Signal::TERM).unwrap();
    let status = cluster.process.wait_exit(LONG).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(status.code(), Some(0), "{}", cluster.process.output());
}

#[test]
fn families_that_are_not_shared() {
    let steps =
        ["socket=packet", "bind=127.0.0.1", "socket=tcp4", "bind=127.0.0.1", "listen=9", "serve"];
    if crate::hostile::status(std::process::id(), "Uid").starts_with("0\t") {
        serves_as_alone(&steps, &["socket=packet: ok", "bind=127.0.0.1: EINVAL"]).stop();
    }
    // An IPv4 address on a socket for IPv6, whose right form is ::ffff:127.0.0.1.
    let steps = ["socket=tcp6", "bind=::ffff:127.0.0.1", "name", "listen=9", "serve"];
    serves_as_alone(&steps, &["bind=::ffff:127.0.0.1: ok"]).stop();
}

#[test]
fn binds_nothing() {
    let cluster = start(pair(), &["-i", "2"], &["park"]);
    for worker in ["worker 1 in slot 0", "worker 2 in slot 1"] {
        let line = cluster
            .process
            .wait_for_line(|line| line.contains(worker) && line.contains("ready"), LONG);
        line.unwrap_or_else(|error| panic!("{worker}: {error}"));
    }
    // It is said that it does not listen anywhere: whoever expected it to would like to know.
    let log = cluster.process.stderr();
    assert!(log.lines().any(|line| line.contains("listen")), "nothing about listening: {log}");
    cluster.reload(1);
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn binds_and_never_listens() {
    let steps = ["socket=tcp4", "bind=127.0.0.1", "park"];
    let cluster = start(pair(), &["-i", "2"], &steps);
    for slot in ["0", "1"] {
        let said = transcript(&cluster.process, slot, "park");
        assert_eq!(said[1], "bind=127.0.0.1: ok");
    }
    // It is not ready by its bind. Clients are refused or wait, but nobody is told a lie; it stops.
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn a_listen_without_a_bind() {
    // The kernel chooses the port; that is the program's own.
    let steps = ["socket=tcp4", "listen=9", "get=accepting", "park"];
    let cluster = same_as_alone(pair(), &[], &steps);
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn a_program_that_crashes_after_the_bind() {
    let address = pair();
    let steps = ["socket=tcp4", "bind=127.0.0.1", "listen=9", "exit=3"];
    let cluster = start(address, &["-i", "2"], &steps);
    // It was ready for a moment, so it is tried again, ever more rarely, and loudly.
    for _ in 0..2 {
        let mark = cluster.process.mark();
        let unasked = cluster.process.wait_for_line_since(
            mark,
            |line| line.contains("unasked: code 3"),
            LONG,
        );
        unasked.unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(cluster.process.output().matches("exit=3: ok").count() < 40, "it is started like mad");
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn ports_that_are_none() {
    for text in ["0", "70000", "abc", "", "-1", "80,", ",", "8000,0", "8000 8001", "0x50", "80-90"]
    {
        let option = format!("--port={text}");
        let process =
            spawn(&mut phalanx(["run", "-i", "2", &option, "--", program(), "1", "park"]));
        let status = process.wait_exit(LONG).unwrap_or_else(|error| panic!("{option}: {error}"));
        let log = process.output();
        assert_eq!(status.code(), Some(2), "{option}: {log}");
        assert!(log.contains("--port"), "{option}: {log}");
        assert!(log.contains("65535") || log.contains("port"), "{option}: {log}");
        assert!(!log.contains("[0]"), "{option}: the program was started: {log}");
    }
    let several = ["--port", "8000,8443", "--port", "9000"];
    let address = pair();
    let port = address.port().to_string();
    let options = [&several[..], &["--port", &port, "-i", "2"]].concat();
    let steps = ["socket=tcp4", "bind=127.0.0.1", "listen=9", "serve"];
    let cluster: Cluster = start(address, &options, &steps);
    cluster.wait_serving(2);
    cluster.stop();
}

#[test]
fn without_interception_the_kernel_decides() {
    let address = pair();
    let steps = ["socket=tcp4", "set=reuseaddr:1", "bind=127.0.0.1", "listen=9", "serve"];
    let cluster = start(address, &["-i", "1", "--no-intercept", "--ready", "online"], &steps);
    let serving = cluster.wait_serving(1);
    assert_eq!(crate::hostile::status(serving[&0], "Seccomp"), "0", "there is a filter");
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
    // Two, of which the second cannot have it.
    let address = pair();
    let steps = ["socket=tcp4", "bind=127.0.0.1", "park"];
    let cluster = start(address, &["-i", "2", "--no-intercept"], &steps);
    let mut outcomes: Vec<String> =
        ["0", "1"].map(|tag| transcript(&cluster.process, tag, "park")[1].clone()).into();
    outcomes.sort();
    assert_eq!(outcomes, ["bind=127.0.0.1: EADDRINUSE", "bind=127.0.0.1: ok"]);
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
    wait::until(LONG, "the port to be free", || TcpListener::bind(address).ok()).unwrap();
}
