//! Messages and handles, both ways, with back-pressure.

use crate::support::{Controlled, PATIENCE, options};
use crate::trials;
use phalanx::{Event, Handle, Options, Policy, Primary};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};

trials!(
    any_value,
    typed,
    messages_before_anybody_listens,
    too_large_is_an_error_at_the_sender,
    large_ones_pass,
    what_is_the_channels_own,
    a_flood_waits_for_a_slow_reader,
    fed_and_sent_come_in_order,
    what_a_worker_fed_comes_though_it_ends,
    a_message_is_passed_on_as_it_came,
    all_handles_both_ways,
    broadcast,
);

fn manual() -> Options {
    options("control", 0, Policy::default())
}

async fn any_value() {
    let primary = Primary::start(manual()).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    for value in [
        json!(null),
        json!(true),
        json!(1.5),
        json!(u64::MAX),
        json!("line\nend, Ünïcode \u{1f980} and \u{2028}"),
        json!([1, [2, [3]]]),
        json!({ "a": { "b": [] }, "cmd": "mine", "": null }),
    ] {
        assert_eq!(worker.ask("echo", json!({ "value": value })).await, Ok(value));
    }
    primary.stop().await;
}

async fn typed() {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    enum Job {
        Resize { width: u32, name: String },
        Stop,
    }
    let primary = Primary::start(manual()).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    for job in [Job::Resize { width: 7, name: "x".into() }, Job::Stop] {
        let back = worker.ask("echo", json!({ "value": job })).await.expect("an answer");
        assert_eq!(serde_json::from_value::<Job>(back).expect("a job"), job);
    }
    worker.handle.send(&json!({ "do": "echo", "value": 5 })).await.expect("sent");
    let wrong = worker
        .next("a message", |e| match e {
            Event::Message(_, m) => Some(m.parse::<Vec<u8>>()),
            _ => None,
        })
        .await;
    assert!(wrong.is_err(), "a message of another shape is an error, not a panic");
    primary.stop().await;
}

async fn messages_before_anybody_listens() {
    let primary = Primary::start(manual()).expect("started");
    // Sent before the worker's program even runs.
    let mut worker = Controlled::fork(&primary).await;
    for n in 0..100 {
        worker.tell("echo", &mut json!({ "value": n })).await;
    }
    for n in 0..100 {
        assert_eq!(worker.message().await["ok"], json!(n));
    }
    primary.stop().await;
}

async fn too_large_is_an_error_at_the_sender() {
    let mut options = manual();
    options.max_message = 10_000;
    let primary = Primary::start(options).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    let error = worker.handle.send(&"x".repeat(10_000)).await.expect_err("too large");
    assert!(error.to_string().contains("10000"), "{error}");
    assert_eq!(worker.ask("echo", json!({ "value": 1 })).await, Ok(json!(1)), "nothing was harmed");
    let error = worker.ask("big", json!({ "size": 70_000_000 })).await.expect_err("too large");
    assert!(error.contains("the bound is 67108864"), "{error}");
    primary.stop().await;
}

async fn large_ones_pass() {
    let primary = Primary::start(manual()).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    let big = "z".repeat(5 << 20);
    assert_eq!(worker.ask("echo", json!({ "value": big })).await, Ok(json!(big)));
    primary.stop().await;
}

async fn what_is_the_channels_own() {
    let primary = Primary::start(manual()).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    let error = worker.handle.send(&json!({ "cmd": "NODE_HANDLE" })).await.expect_err("reserved");
    assert!(error.to_string().contains("NODE_HANDLE"), "{error}");
    let error = worker.ask("reserved", json!({})).await.expect_err("reserved");
    assert!(error.contains("NODE_CLUSTER"), "{error}");
    let fine = json!({ "cmd": "NODE_" });
    assert_eq!(worker.ask("echo", json!({ "value": fine })).await, Ok(fine));
    primary.stop().await;
}

async fn a_flood_waits_for_a_slow_reader() {
    const COUNT: u64 = 30_000;
    let primary = Primary::start(manual()).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    let before = bench::process::rss_bytes(std::process::id()).expect("a size");
    worker.tell("flood", &mut json!({ "count": COUNT })).await;
    // Somebody who never reads: his share is bounded, and the worker has to wait.
    let mut idle = primary.events();
    assert_eq!(worker.message().await["flood"], json!(0));
    bench::wait::until_async(PATIENCE, "the worker has to wait", async || {
        (bench::process::state(worker.handle.pid()) == Some('S')).then_some(())
    })
    .await
    .expect("it sleeps");
    let grown =
        bench::process::rss_bytes(std::process::id()).expect("a size").saturating_sub(before);
    assert!(grown < 24 << 20, "30 MB were sent, {grown} bytes are held");
    // Others are not held up by it.
    let mut other = Controlled::fork(&primary).await;
    drop(std::mem::replace(&mut idle, other.handle.events()));
    assert_eq!(other.ask("echo", json!({ "value": 1 })).await, Ok(json!(1)));
    drop(idle);
    for n in 1..COUNT {
        assert_eq!(worker.message().await["flood"], json!(n), "in order, nothing lost");
    }
    primary.stop().await;
}

async fn fed_and_sent_come_in_order() {
    const COUNT: usize = 3_000;
    let primary = Primary::start(manual()).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    // Among them some that the kernel has no room for.
    let value = |n: usize| json!([n, "z".repeat(if n % 500 == 499 { 300_000 } else { n % 64 })]);
    for n in 0..COUNT {
        let order = json!({ "do": "echo", "value": value(n) });
        match n % 7 {
            0 => worker.handle.send(&order).await.expect("sent"),
            _ => worker.handle.feed(&order).await.expect("fed"),
        }
    }
    worker.handle.flush().await.expect("written");
    for n in 0..COUNT {
        assert_eq!(worker.message().await["ok"], value(n), "in order, nothing lost");
    }
    worker.tell("flood", &mut json!({ "count": COUNT, "fed": true })).await;
    for n in 0..COUNT {
        assert_eq!(worker.message().await["flood"], json!(n), "in order, nothing lost");
    }
    assert_eq!(worker.message().await["ok"], json!(COUNT), "and what was sent behind them");
    primary.stop().await;
    let closed = worker.handle.feed(&1).await.expect_err("its channel is closed");
    assert!(matches!(closed, phalanx::Error::Disconnected), "{closed}");
    assert!(worker.handle.flush().await.is_err());
}

async fn what_a_worker_fed_comes_though_it_ends() {
    let primary = Primary::start(manual()).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    // Less than is written without being asked for, and more than that.
    for count in [12, 1_000] {
        worker.tell("flood", &mut json!({ "count": count, "fed": true, "then": "end" })).await;
        for n in 0..count {
            assert_eq!(worker.message().await["flood"], json!(n), "of {count}");
        }
        worker = Controlled::fork(&primary).await;
    }
    primary.stop().await;
}

async fn a_message_is_passed_on_as_it_came() {
    let primary = Primary::start(manual()).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    let order = json!({ "do": "echo", "value": { "id": 1, "text": "\u{e9}\n", "n": [1.5, null] } });
    worker.handle.send(&order).await.expect("sent");
    let is_message = |event: Event| match event {
        Event::Message(_, message) => Some(message),
        _ => None,
    };
    let answer = worker.next("a message", is_message).await;
    // What it answered is no order, so it says that it does not know it, with what there was.
    worker.handle.feed(&answer).await.expect("fed");
    let unknown = worker.message().await;
    assert!(unknown["error"].as_str().is_some_and(|e| e.contains("unknown order")), "{unknown}");
    let text: &str = answer.text();
    assert_eq!(serde_json::to_string(&answer).expect("JSON"), text);
    // What is read of it may be a part of it.
    let parts: std::collections::BTreeMap<&str, serde_json::Value> = answer.parse().expect("JSON");
    assert_eq!(parts["ok"], order["value"]);
    primary.stop().await;
}

async fn all_handles_both_ways() {
    let primary = Primary::start(manual()).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut client =
        TcpStream::connect(listener.local_addr().expect("an address")).expect("connects");
    let (server, _) = listener.accept().expect("accepted");
    let place = tempfile::tempdir().expect("a directory");
    let unix = UnixListener::bind(place.path().join("s")).expect("bound");
    let (pair, _other) = UnixStream::pair().expect("a pair");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
    for (handle, kind) in [
        (Handle::Tcp(server), "tcp"),
        (Handle::TcpListener(listener), "tcp listener"),
        (Handle::Unix(pair), "unix"),
        (Handle::UnixListener(unix), "unix listener"),
        (Handle::Udp(udp), "udp"),
    ] {
        let order = json!({ "do": "handle", "id": kind });
        worker.handle.send_handle(&order, handle).await.expect("sent");
        let back = worker
            .next("the handle", |e| match e {
                Event::Message(_, m) => m.take_handle().map(|h| (m, h)),
                _ => None,
            })
            .await;
        assert_eq!(back.0.parse::<serde_json::Value>().expect("JSON")["back"], json!(kind));
        assert!(back.0.take_handle().is_none(), "a handle is taken once");
        if let Handle::Tcp(mut stream) = back.1 {
            stream.set_nonblocking(false).expect("set");
            stream.write_all(b" and back").expect("written");
            drop(stream);
            let mut said = String::new();
            client.read_to_string(&mut said).expect("read");
            assert_eq!(said, "from the worker and back");
        }
    }
    primary.stop().await;
}

async fn broadcast() {
    let primary = Primary::start(manual()).expect("started");
    let mut workers = [
        Controlled::fork(&primary).await,
        Controlled::fork(&primary).await,
        Controlled::fork(&primary).await,
    ];
    for worker in &workers {
        worker.handle.send(&json!({ "do": "echo", "id": 0, "value": "all" })).await.expect("sent");
    }
    for worker in &mut workers {
        assert_eq!(worker.message().await["ok"], json!("all"));
    }
    primary.stop().await;
}
