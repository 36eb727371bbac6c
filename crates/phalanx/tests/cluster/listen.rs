//! Everything a worker can listen on, under every policy.

use crate::support::{Controlled, free_address, greeted, options};
use crate::trials;
use phalanx::{Address, Options, Policy, Primary};
use serde_json::json;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

trials!(
    one_port_for_all,
    port_zero_is_one_port,
    two_servers_on_one_port_in_one_worker,
    several_ports,
    close_and_listen_again,
    the_port_goes_with_the_last_worker,
    exclusive,
    ipv6_and_dual_stack,
    unix_sockets,
    udp,
    udp_flows_stay,
    a_plain_tokio_listener,
    inherited_descriptors_are_checked,
    addresses_that_cannot_be_had,
    opened_before,
);

fn manual(policy: Policy) -> Options {
    options("control", 0, policy)
}

const ALL: [Policy; 3] = [Policy::Direct, Policy::RoundRobin, Policy::Shared];

async fn one_port_for_all() {
    for policy in ALL {
        let primary = Primary::start(manual(policy)).expect("started");
        let address = free_address();
        let mut ids = Vec::new();
        for _ in 0..3 {
            let mut worker = Controlled::fork(&primary).await;
            assert_eq!(worker.listen(&address).await.to_string(), address);
            ids.push(worker.handle.id().0);
        }
        let mut seen = std::collections::BTreeSet::new();
        // `shared` promises nothing; the others reach everybody.
        for _ in 0..200 {
            seen.insert(greeted(address.parse().expect("an address")).await.0);
        }
        if policy != Policy::Shared {
            assert_eq!(seen.len(), 3, "{policy}: {seen:?}");
        }
        let ports = primary.status().await.expect("a status").ports;
        assert_eq!(ports, [(address.parse::<Address>().expect("an address"), policy)]);
        primary.stop().await;
    }
}

async fn port_zero_is_one_port() {
    for policy in ALL {
        let primary = Primary::start(manual(policy)).expect("started");
        let mut one = Controlled::fork(&primary).await;
        let mut two = Controlled::fork(&primary).await;
        let first = one.listen("127.0.0.1:0").await;
        assert_ne!(first.port(), 0);
        assert_eq!(two.listen("127.0.0.1:0").await, first, "{policy}: the same for all workers");
        let second = one.listen("127.0.0.1:0").await;
        assert_ne!(second, first, "{policy}: the second port 0 is another");
        assert_eq!(two.listen("127.0.0.1:0").await, second);
        primary.stop().await;
    }
}

async fn two_servers_on_one_port_in_one_worker() {
    for policy in ALL {
        let primary = Primary::start(manual(policy)).expect("started");
        let mut worker = Controlled::fork(&primary).await;
        let address = worker.listen(&free_address()).await.to_string();
        let error = worker.ask("listen", json!({ "address": address })).await.expect_err("in use");
        assert!(error.contains("in use"), "{policy}: {error}");
        primary.stop().await;
    }
}

async fn several_ports() {
    let primary = Primary::start(manual(Policy::Direct)).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    let mut addresses = Vec::new();
    for policy in ALL {
        let order = json!({ "address": "127.0.0.1:0", "policy": policy.name() });
        let told = worker.ask("listen", order).await.expect("listens");
        addresses
            .push(told.as_str().and_then(|a| a.parse::<SocketAddr>().ok()).expect("an address"));
    }
    for address in addresses {
        assert_eq!(greeted(address).await.0, 1);
    }
    let mut policies: Vec<_> =
        primary.status().await.expect("a status").ports.iter().map(|p| p.1.name()).collect();
    policies.sort_unstable();
    assert_eq!(policies, ["direct", "round-robin", "shared"]);
    primary.stop().await;
}

async fn close_and_listen_again() {
    for policy in ALL {
        let primary = Primary::start(manual(policy)).expect("started");
        let mut worker = Controlled::fork(&primary).await;
        let address = worker.listen(&free_address()).await;
        for _ in 0..3 {
            let order = json!({ "address": address.to_string() });
            assert_eq!(worker.ask("close", order).await, Ok(json!(true)));
            assert_eq!(worker.listen(&address.to_string()).await, address);
            assert_eq!(greeted(address).await.0, 1);
        }
        primary.stop().await;
    }
}

async fn the_port_goes_with_the_last_worker() {
    for policy in ALL {
        let primary = Primary::start(manual(policy)).expect("started");
        let mut one = Controlled::fork(&primary).await;
        let mut two = Controlled::fork(&primary).await;
        let address = one.listen(&free_address()).await;
        two.listen(&address.to_string()).await;
        let order = json!({ "address": address.to_string() });
        one.ask("close", order.clone()).await.expect("closed");
        for _ in 0..20 {
            assert_eq!(greeted(address).await.0, 2, "{policy}: the other one has it all");
        }
        two.ask("close", order).await.expect("closed");
        bench::wait::until_async(crate::support::PATIENCE, "the port is closed", async || {
            let ports = primary.status().await.ok()?.ports;
            ports.is_empty().then_some(())
        })
        .await
        .expect("closed");
        // The worker lets go of its own descriptor when its task gets to it.
        bench::wait::until_async(crate::support::PATIENCE, "nobody to listen", async || {
            std::net::TcpStream::connect(address).is_err().then_some(())
        })
        .await
        .unwrap_or_else(|error| panic!("{policy}: {error}"));
        primary.stop().await;
    }
}

async fn exclusive() {
    let primary = Primary::start(manual(Policy::Direct)).expect("started");
    let mut one = Controlled::fork(&primary).await;
    let mut two = Controlled::fork(&primary).await;
    let order = json!({ "address": free_address(), "exclusive": true });
    one.ask("listen", order.clone()).await.expect("listens");
    let error = two.ask("listen", order).await.expect_err("it is the other one's");
    assert!(error.contains("in use"), "{error}");
    assert!(primary.status().await.expect("a status").ports.is_empty());
    primary.stop().await;
}

async fn ipv6_and_dual_stack() {
    for policy in ALL {
        let primary = Primary::start(manual(policy)).expect("started");
        let mut worker = Controlled::fork(&primary).await;
        let six = worker.listen("[::1]:0").await;
        assert_eq!(greeted(six).await.0, 1);
        let any = worker.listen(":0").await;
        for host in ["127.0.0.1", "[::1]"] {
            let to = format!("{host}:{}", any.port()).parse().expect("an address");
            assert_eq!(greeted(to).await.0, 1, "{policy}: {host}");
        }
        let order = json!({ "address": "[::]:0", "v6_only": true });
        let only = worker.ask("listen", order).await.expect("listens");
        let only: SocketAddr = only.as_str().and_then(|a| a.parse().ok()).expect("an address");
        let four = SocketAddr::from(([127, 0, 0, 1], only.port()));
        assert!(std::net::TcpStream::connect(four).is_err(), "{policy}: IPv6 only");
        primary.stop().await;
    }
}

async fn unix_sockets() {
    let place = tempfile::tempdir().expect("a directory");
    for policy in ALL {
        let path = place.path().join(policy.name());
        let primary = Primary::start(manual(policy)).expect("started");
        let mut workers = [Controlled::fork(&primary).await, Controlled::fork(&primary).await];
        for worker in &mut workers {
            let order = json!({ "address": format!("unix:{}", path.display()), "mode": 0o660 });
            worker.ask("listen", order).await.expect("listens");
        }
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o660, "{policy}");
        for _ in 0..10 {
            let path = path.clone();
            let greeting = tokio::task::spawn_blocking(move || {
                let mut stream = std::os::unix::net::UnixStream::connect(path).expect("connects");
                let mut byte = [0; 1];
                stream.read_exact(&mut byte).expect("greeted");
                byte[0]
            });
            assert!(matches!(greeting.await.expect("done"), b'1' | b'2'));
        }
        primary.stop().await;
        assert!(!path.exists(), "{policy}: the file goes with the port");
    }
    // What a killed program left behind is no obstacle; a file that is no socket is.
    let stale = place.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("bound"));
    let precious = place.path().join("precious");
    std::fs::File::create(&precious).and_then(|mut f| f.write_all(b"data")).expect("written");
    let primary = Primary::start(manual(Policy::Direct)).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    let on = |path: &std::path::Path| json!({ "address": format!("unix:{}", path.display()) });
    worker.ask("listen", on(&stale)).await.expect("listens");
    worker.ask("listen", on(&precious)).await.expect_err("it is a file");
    assert_eq!(std::fs::read(&precious).expect("read"), b"data");
    primary.stop().await;
}

/// The worker that answers a datagram.
async fn answered(client: &tokio::net::UdpSocket, to: SocketAddr) -> u32 {
    let mut buffer = [0; 16];
    let talk = async {
        client.send_to(b"who", to).await.expect("sent");
        client.recv(&mut buffer).await.expect("answered")
    };
    let n = tokio::time::timeout(crate::support::PATIENCE, talk).await.expect("in time");
    String::from_utf8_lossy(&buffer[..n]).parse().expect("a worker")
}

async fn udp() {
    for policy in ALL {
        let primary = Primary::start(manual(policy)).expect("started");
        let mut workers = [Controlled::fork(&primary).await, Controlled::fork(&primary).await];
        let mut last = None;
        for worker in &mut workers {
            let told = worker.ask("udp", json!({ "address": "127.0.0.1:0" })).await.expect("bound");
            assert!(last.is_none_or(|l| l == told), "{policy}: one port for both");
            last = Some(told);
        }
        let to: SocketAddr = last
            .as_ref()
            .and_then(|a| a.as_str())
            .and_then(|a| a.parse().ok())
            .expect("an address");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bound");
            seen.insert(answered(&client, to).await);
        }
        if policy == Policy::Direct {
            assert_eq!(seen.len(), 2, "both answer");
        }
        primary.stop().await;
    }
}

async fn udp_flows_stay() {
    let primary = Primary::start(manual(Policy::Direct)).expect("started");
    let mut to = None;
    for _ in 0..3 {
        let mut worker = Controlled::fork(&primary).await;
        let told = worker.ask("udp", json!({ "address": "127.0.0.1:0" })).await.expect("bound");
        to = told.as_str().and_then(|a| a.parse::<SocketAddr>().ok());
    }
    for _ in 0..10 {
        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let first = answered(&client, to.expect("an address")).await;
        for _ in 0..10 {
            assert_eq!(
                answered(&client, to.expect("an address")).await,
                first,
                "one flow, one worker"
            );
        }
    }
    primary.stop().await;
}

async fn a_plain_tokio_listener() {
    let primary = Primary::start(manual(Policy::Direct)).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    for policy in [Policy::Direct, Policy::Shared] {
        let order = json!({ "address": "127.0.0.1:0", "policy": policy.name() });
        let told = worker.ask("listen_std", order).await.expect("listens");
        let address = told.as_str().and_then(|a| a.parse().ok()).expect("an address");
        assert_eq!(greeted(address).await.0, 1, "{policy}");
    }
    let order = json!({ "address": "127.0.0.1:0", "policy": "round-robin" });
    let error = worker.ask("listen_std", order).await.expect_err("there is no socket");
    assert!(error.contains("round-robin"), "{error}");
    primary.stop().await;
}

async fn inherited_descriptors_are_checked() {
    for policy in ALL {
        let primary = Primary::start(manual(policy)).expect("started");
        let mut worker = Controlled::fork(&primary).await;
        // A worker may have what the primary was started with, nothing that it opened itself.
        let own = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let hidden = std::os::fd::AsRawFd::as_raw_fd(&own);
        for fd in [0, 1, 2, hidden, 12345] {
            let error = worker.ask("listen_fd", json!({ "fd": fd })).await.expect_err("refused");
            assert!(error.contains(&format!("descriptor {fd}")), "{error}");
        }
        let given = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        rustix::io::fcntl_setfd(&given, rustix::io::FdFlags::empty()).expect("set");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&given);
        let told = worker.ask("listen_fd", json!({ "fd": fd })).await.expect("listens");
        assert_eq!(told, json!(given.local_addr().expect("an address").to_string()));
        let address = given.local_addr().expect("an address");
        drop(given);
        assert_eq!(greeted(address).await.0, 1, "{policy}");
        primary.stop().await;
    }
}

async fn addresses_that_cannot_be_had() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let taken = taken.local_addr().map(|a| (a, taken)).expect("an address");
    for policy in ALL {
        let primary = Primary::start(manual(policy)).expect("started");
        let mut worker = Controlled::fork(&primary).await;
        for (address, why) in [
            (taken.0.to_string(), "in use"),
            ("192.0.2.1:1".into(), "assign requested address"),
            ("unix:/no/such/directory/socket".into(), "No such file"),
            (format!("unix:/tmp/{}", "x".repeat(200)), "too long"),
        ] {
            let error =
                worker.ask("listen", json!({ "address": address })).await.expect_err("not there");
            assert!(error.contains(why), "{policy}: {address}: {error}");
        }
        // The worker is none the worse for it.
        let address = worker.listen("127.0.0.1:0").await;
        assert_eq!(greeted(address).await.0, 1);
        primary.stop().await;
    }
}

async fn opened_before() {
    let primary = Primary::start(manual(Policy::Direct)).expect("started");
    let address: Address = free_address().parse().expect("an address");
    assert_eq!(primary.open(address.clone(), None).await.expect("opened"), address);
    // A second cluster cannot have it, whatever the options on its sockets.
    let other = Primary::start(manual(Policy::Direct)).expect("started");
    let error = other.open(address.clone(), None).await.expect_err("in use");
    assert!(error.hint().is_some_and(|h| h.contains("another program")), "{error}");
    other.stop().await;
    let mut worker = Controlled::fork(&primary).await;
    let on = worker.listen(&address.to_string()).await;
    assert_eq!(greeted(on).await.0, 1);
    primary.stop().await;
}
