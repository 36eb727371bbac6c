//! Sockets as programs make them: each keeps what its program gave it.

use crate::common::{Cluster, LONG, get, v6};
use crate::hostile::{addresses, pair, said, same_as_alone, serves_as_alone, start, transcript};
use bench::spawned::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// That address answers, from both slots.
fn both_answer(cluster: &Cluster, address: SocketAddr) {
    let mut slots = BTreeSet::new();
    cluster.until(&format!("both slots to answer on {address}"), || {
        slots.extend(get(address, "/", LONG).ok().map(|answer| answer.slot));
        (slots.len() == 2).then_some(())
    });
}

#[test]
fn ipv4() {
    let steps = ["socket=tcp4", "bind=127.0.0.1", "name", "listen=128", "get=accepting", "serve"];
    serves_as_alone(&steps, &["bind=127.0.0.1: ok", "get=accepting: 1"]).stop();
    let steps = ["socket=tcp4", "bind=0.0.0.0", "name", "listen=128", "accept"];
    serves_as_alone(&steps, &["bind=0.0.0.0: ok"]).stop();
}

#[test]
fn ipv6() {
    let steps = ["socket=tcp6", "bind=::1", "name", "listen=128", "get=v6only", "serve"];
    let cluster = same_as_alone(v6(), &[], &steps);
    cluster.wait_serving(2);
    cluster.stop();
}

#[test]
fn both_families_on_one_socket() {
    let steps =
        ["socket=tcp6", "set=v6only:0", "bind=::", "get=v6only", "name", "listen=1", "serve"];
    let cluster = serves_as_alone(&steps, &["get=v6only: 0"]);
    both_answer(&cluster, SocketAddr::from((Ipv6Addr::LOCALHOST, cluster.address.port())));
    both_answer(&cluster, SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.address.port())));
    cluster.stop();
}

#[test]
fn a_socket_for_each_family() {
    let steps = [
        "socket=tcp4",
        "bind=0.0.0.0",
        "listen=9",
        "name",
        "socket=tcp6",
        "set=v6only:1",
        "bind=::",
        "get=v6only",
        "listen=9",
        "name",
        "serve",
    ];
    let cluster = serves_as_alone(&steps, &["bind=::: ok", "get=v6only: 1"]);
    both_answer(&cluster, SocketAddr::from((Ipv6Addr::LOCALHOST, cluster.address.port())));
    cluster.stop();
}

#[test]
fn ipv6_only_is_ipv6_only() {
    let steps = ["socket=tcp6", "set=v6only:1", "bind=::", "listen=9", "serve"];
    let cluster = same_as_alone(v6(), &[], &steps);
    cluster.wait_serving(2);
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.address.port()));
    assert!(TcpStream::connect(v4).is_err(), "a socket that is for IPv6 only answers on {v4}");
    cluster.stop();
}

#[test]
fn two_ports() {
    let steps = [
        "socket=tcp4",
        "bind=127.0.0.1",
        "listen=9",
        "socket=tcp4",
        "bind=127.0.0.1/+",
        "name",
        "listen=9",
        "serve",
    ];
    let cluster = serves_as_alone(&steps, &["bind=127.0.0.1/+: ok"]);
    both_answer(&cluster, SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.address.port() + 1)));
    cluster.stop();
}

#[test]
fn udp() {
    let address = pair();
    let steps = [
        "socket=udp4",
        "set=rcvbuf:50000",
        "bind=127.0.0.1",
        "name",
        "get=rcvbuf",
        "get=type",
        "serve",
    ];
    let cluster = same_as_alone(address, &[], &steps);
    let mut slots = BTreeSet::new();
    cluster.until("both slots to answer datagrams", || {
        // Each client is a flow, and the same slot answers all of it.
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let ask = || {
            client.send_to(b"?", address).unwrap();
            let mut text = [0; 256];
            let length = client.recv(&mut text).ok()?;
            serde_json::from_slice::<serde_json::Value>(&text[..length]).unwrap()["slot"].as_u64()
        };
        let first = ask()?;
        assert_eq!(ask(), Some(first), "a flow changed its slot");
        slots.insert(first);
        (slots.len() == 2).then_some(())
    });
    cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(cluster.wait_gone(LONG), 0);
}

#[test]
fn flags() {
    // Before the bind or after it, as an option of socket(2) or by fcntl(2), and at any number.
    for socket in [
        &["socket=tcp4", "bind=127.0.0.1"][..],
        &["socket=tcp4+nonblock", "bind=127.0.0.1"],
        &["socket=tcp4+cloexec", "bind=127.0.0.1"],
        &["socket=tcp4+nonblock+cloexec", "bind=127.0.0.1"],
        &["socket=tcp4", "nonblock=on", "bind=127.0.0.1"],
        &["socket=tcp4", "bind=127.0.0.1", "nonblock=on"],
        &["socket=tcp4+nonblock", "nonblock=off", "bind=127.0.0.1"],
        &["socket=tcp4+nonblock", "at=77", "bind=127.0.0.1"],
    ] {
        let steps = [socket, &["flags", "listen=9", "flags", "name", "serve"]].concat();
        let cluster = serves_as_alone(&steps, &["bind=127.0.0.1: ok"]);
        // Nor do they change while connections come, and the primary looks at the queues.
        let flags = said(&cluster.process.output(), "0");
        assert_eq!(flags.iter().filter(|line| line.starts_with("flags: ")).count(), 2);
        cluster.stop();
    }
}

#[test]
fn one_socket_for_all() {
    let accepts = ["socket=tcp4", "bind=127.0.0.1", "flags", "listen=9", "flags", "name", "accept"];
    let polls = ["socket=tcp4+nonblock", "bind=127.0.0.1", "listen=9", "flags", "serve"];
    for steps in [&accepts[..], &polls] {
        let cluster = same_as_alone(pair(), &["--policy", "shared"], steps);
        // Whoever is faster: one of them at least.
        for _ in 0..10 {
            get(cluster.address, "/", LONG).unwrap();
        }
        assert!(!cluster.process.output().contains("EAGAIN"), "{}", cluster.process.output());
        cluster.stop();
    }
}

#[test]
fn options_are_kept() {
    let steps = [
        "socket=tcp4",
        "set=nodelay:1",
        "set=keepalive:1",
        "set=rcvbuf:100000",
        "set=sndbuf:90000",
        "set=defer:5",
        "set=reuseaddr:1",
        "bind=127.0.0.1",
        "get=nodelay",
        "get=keepalive",
        "get=rcvbuf",
        "get=sndbuf",
        "get=defer",
        "get=reuseaddr",
        "listen=9",
        "serve",
    ];
    serves_as_alone(&steps, &["get=nodelay: 1", "get=rcvbuf: 200000"]).stop();
}

#[test]
fn options_that_are_not_set_are_as_they_are() {
    let steps = [
        "socket=tcp4",
        "bind=127.0.0.1",
        "get=nodelay",
        "get=keepalive",
        "get=rcvbuf",
        "get=sndbuf",
        "get=defer",
        "get=priority",
        "get=tos",
        "get=ttl",
        "get=protocol",
        "get=domain",
        "get=oobinline",
        "get=rcvlowat",
        "listen=9",
        "serve",
    ];
    serves_as_alone(&steps, &["get=nodelay: 0"]).stop();
}

#[test]
fn rarer_options_are_kept() {
    let steps = [
        "socket=tcp4",
        "set=keepidle:33",
        "set=keepintvl:7",
        "set=keepcnt:3",
        "set=usertimeout:9000",
        "set=maxseg:1000",
        "set=linger2:20",
        "set=notsent:16384",
        "set=oobinline:1",
        "set=tos:16",
        "set=priority:3",
        "set=fastopen:5",
        "set=ttl:40",
        "set=syncnt:3",
        "bind=127.0.0.1",
        "get=keepidle",
        "get=keepintvl",
        "get=keepcnt",
        "get=usertimeout",
        "get=linger2",
        "get=notsent",
        "get=oobinline",
        "get=tos",
        "get=priority",
        "get=fastopen",
        "get=ttl",
        "get=syncnt",
        "listen=9",
        "serve",
    ];
    serves_as_alone(&steps, &["get=keepidle: 33", "get=tos: 16"]).stop();
    let steps = [
        "socket=udp4",
        "set=pktinfo:1",
        "set=broadcast:1",
        "set=timestamp:1",
        "bind=127.0.0.1",
        "get=pktinfo",
        "get=broadcast",
        "get=timestamp",
        "serve",
    ];
    same_as_alone(pair(), &[], &steps).stop();
}

#[test]
fn multipath_tcp() {
    // A kernel without it refuses the socket; then the same is seen alone.
    let steps = ["socket=mptcp4", "bind=127.0.0.1", "name", "listen=9", "park"];
    let said = crate::hostile::alone(pair().port(), &steps);
    if said[0] == "socket=mptcp4: ok" {
        let steps = ["socket=mptcp4", "bind=127.0.0.1", "name", "listen=9", "serve"];
        serves_as_alone(&steps, &["bind=127.0.0.1: ok"]).stop();
    } else {
        let steps = [&steps[..1], &["socket=tcp4", "bind=127.0.0.1", "listen=9", "serve"]].concat();
        serves_as_alone(&steps, &[&said[0]]).stop();
    }
}

#[test]
fn a_closed_port_is_bound_again() {
    let steps = [
        "socket=tcp4",
        "bind=127.0.0.1",
        "close",
        "socket=tcp4",
        "bind=127.0.0.1",
        "listen=9",
        "close",
        "socket=tcp4+nonblock",
        "bind=127.0.0.1",
        "flags",
        "name",
        "listen=9",
        "serve",
    ];
    serves_as_alone(&steps, &["bind=127.0.0.1: ok"]).stop();
}

#[test]
fn a_replacement_s_socket_is_as_the_program_made_it() {
    // What the first worker in a slot did to its socket is not what its successor finds.
    let directory = tempfile::tempdir().unwrap();
    let hostile = crate::hostile::program();
    let address = pair();
    let port = address.port();
    let script = format!(
        "cd {}; if mkdir first 2> /dev/null
         then exec {hostile} {port} socket=tcp4 bind=127.0.0.1 nonblock=on set=nodelay:1 set=rcvbuf:20000 flags listen=9 serve
         else exec {hostile} {port} socket=tcp4 bind=127.0.0.1 flags get=nodelay get=rcvbuf listen=9 accept; fi",
        directory.path().display()
    );
    let mut command = crate::common::phalanx(["run", "-i", "1", "--", "/bin/sh", "-c", &script]);
    let cluster = Cluster { process: crate::common::spawn(&mut command), address };
    let first = cluster.wait_serving(1)[&0];
    crate::common::signal(first, Signal::KILL);
    let got = transcript(&cluster.process, "0", "accept");
    let steps = [
        "socket=tcp4",
        "bind=127.0.0.1",
        "flags",
        "get=nodelay",
        "get=rcvbuf",
        "listen=9",
        "accept",
    ];
    let expected = crate::hostile::alone(pair().port(), &steps);
    assert_eq!(got[got.len() - steps.len()..], expected, "{}", cluster.process.output());
    for _ in 0..10 {
        assert_ne!(get(address, "/", LONG).unwrap().pid, first);
    }
    assert!(!cluster.process.output().contains("EAGAIN"), "{}", cluster.process.output());
    cluster.stop();
}

#[test]
fn a_short_backlog_does_not_shorten_the_queue() {
    let address = pair();
    let steps = ["socket=tcp4", "bind=127.0.0.1", "listen=1", "sleep=1000", "serve"];
    let cluster = start(address, &["-i", "1"], &steps);
    cluster.line(0, "[0] listen=1: ok");
    let begin = Instant::now();
    let clients: Vec<_> = (0..50)
        .map(|number| {
            std::thread::spawn(move || {
                let stream = TcpStream::connect_timeout(&address, LONG)
                    .unwrap_or_else(|error| panic!("client {number} of 50: {error}"));
                let connected = begin.elapsed();
                stream.set_read_timeout(Some(LONG)).unwrap();
                crate::common::exchange(stream, "/")
                    .unwrap_or_else(|error| panic!("client {number} of 50: {error}"));
                connected
            })
        })
        .collect();
    let slowest = clients.into_iter().map(|client| client.join().unwrap()).max().unwrap();
    // In a queue of 2 most of them would be without a connection until the worker accepts, or longer.
    assert!(slowest < Duration::from_millis(900), "the last of 50 was connected after {slowest:?}");
    cluster.stop();
}

/// The port that a program says it has, by tag.
fn named(cluster: &Cluster, tag: &str) -> SocketAddr {
    let said = transcript(&cluster.process, tag, "name");
    let text = said.iter().find_map(|line| line.strip_prefix("name: 127.0.0.1 ")).unwrap();
    SocketAddr::from((Ipv4Addr::LOCALHOST, text.parse().unwrap()))
}

#[test]
fn port_0_is_the_program_s_own() {
    let steps = [
        "socket=tcp4",
        "bind=127.0.0.1/0",
        "name",
        "listen=9",
        "socket=tcp4",
        "bind=127.0.0.1",
        "listen=9",
        "serve",
    ];
    let cluster = start(pair(), &["-i", "2"], &steps);
    cluster.wait_serving(2);
    let own = ["0", "1"].map(|tag| named(&cluster, tag));
    assert_ne!(own[0], own[1], "both have one port that neither asked for");
    for (slot, address) in (0..).zip(own) {
        assert_ne!(address.port(), 0);
        assert!(!addresses(cluster.pid()).contains(&address), "the primary has {address}");
        for _ in 0..5 {
            assert_eq!(get(address, "/", LONG).unwrap().slot, slot);
        }
    }
    cluster.stop();
}

#[test]
fn a_port_that_is_not_named_is_the_program_s_own() {
    let address = pair();
    let port = address.port().to_string();
    let steps =
        ["socket=tcp4", "bind=127.0.0.1/+", "socket=tcp4", "bind=127.0.0.1", "listen=9", "serve"];
    let cluster = start(address, &["-i", "2", "--port", &port], &steps);
    cluster.wait_serving(2);
    let mut outcomes: Vec<String> =
        ["0", "1"].map(|tag| transcript(&cluster.process, tag, "serve")[1].clone()).into();
    outcomes.sort();
    // One has it, as without phalanx.
    assert_eq!(outcomes, ["bind=127.0.0.1/+: EADDRINUSE", "bind=127.0.0.1/+: ok"]);
    let other = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port() + 1));
    assert!(!addresses(cluster.pid()).contains(&other), "the primary has {other}");
    cluster.stop();
}

#[test]
fn unix_sockets_are_the_program_s_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = format!("bind={}", directory.path().join("sock").display());
    let name = format!("bind=@hostile-{}", std::process::id());
    let steps = [
        "socket=unix",
        &path,
        "socket=unix",
        &name,
        "socket=tcp4",
        "bind=127.0.0.1",
        "listen=9",
        "serve",
    ];
    let cluster = start(pair(), &["-i", "2"], &steps);
    cluster.wait_serving(2);
    for step in [1, 3] {
        let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
        for tag in ["0", "1"] {
            let line = transcript(&cluster.process, tag, "serve")[step].clone();
            *outcomes.entry(line.rsplit(' ').next().unwrap().to_owned()).or_default() += 1;
        }
        assert_eq!(
            outcomes,
            BTreeMap::from([("EADDRINUSE".into(), 1), ("ok".into(), 1)]),
            "{step}"
        );
    }
    cluster.stop();
}

#[test]
fn a_program_s_own_reuseport() {
    let steps =
        ["socket=tcp4", "set=reuseport:1", "bind=127.0.0.1", "get=reuseport", "listen=9", "serve"];
    serves_as_alone(&steps, &["bind=127.0.0.1: ok"]).stop();
    let steps = ["threads=16", "socket=tcp4", "bind=127.0.0.1", "listen=9", "serve"];
    serves_as_alone(&steps, &["threads=16: 16 bound"]).stop();
}

#[test]
fn in_an_epoll_set_before_the_bind() {
    // The set keeps the file, not the number: the slot is not in it until the program adds it. A program
    // that does so after listen(2), as all do that want to be told of connections, is served.
    let steps = [
        "socket=tcp4+nonblock",
        "epoll=add",
        "epoll=del",
        "bind=127.0.0.1",
        "listen=9",
        "epoll=add",
        "events",
    ];
    serves_as_alone(&steps, &["epoll=add: ok"]).stop();
    // One that added it before and never again is told of no connection. The primary sees and says that.
    let steps = ["socket=tcp4+nonblock", "epoll=add", "bind=127.0.0.1", "listen=9", "events"];
    let cluster = same_as_alone(pair(), &["--grace", "1s"], &steps);
    let waiting = TcpStream::connect(cluster.address).unwrap();
    let line = cluster.line(0, "accepts nothing");
    assert!(line.contains(&cluster.address.to_string()), "{line}");
    drop(waiting);
    cluster.process.signal(Signal::TERM).unwrap();
    let status = cluster.process.wait_exit(LONG).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(status.code(), Some(0), "{}", cluster.process.output());
}

#[test]
fn a_duplicate_made_before_the_bind_is_not_bound() {
    // It is another number of the socket that was there before: the slot has taken the place of one of
    // them. So it is here, and not so alone.
    let steps = [
        "socket=tcp4",
        "dup",
        "bind=127.0.0.1",
        "name",
        "swap",
        "name",
        "swap",
        "listen=9",
        "serve",
    ];
    let address = pair();
    let cluster = start(address, &["-i", "2"], &steps);
    cluster.wait_serving(2);
    for slot in ["0", "1"] {
        let said = transcript(&cluster.process, slot, "serve");
        assert_eq!(said[3], format!("name: 127.0.0.1 {}", address.port()));
        assert_eq!(said[5], "name: 0.0.0.0 0");
    }
    cluster.stop();
}
