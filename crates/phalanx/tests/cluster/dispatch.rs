//! Who gets which connection.

use crate::support::{Controlled, PATIENCE, free_address, greeted, options, serving, settled};
use crate::trials;
use bench::load::Load;
use phalanx::core::balance::{Candidate, Scheduler};
use phalanx::{Balance, Options, Policy, Primary, Signal, SlotId};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

trials!(
    round_robin_is_exact,
    a_window_of_unacknowledged_connections,
    what_a_stopped_worker_does_not_read_is_taken_back,
    a_full_house_waits_in_the_kernel,
    a_dead_workers_connections_go_on,
    schedulers_of_ones_own,
    least_connections,
    sticky_by_source_address,
    weights_steer_the_kernel,
    a_stopped_workers_queue_is_rescued,
    a_plain_listeners_queue_is_carried,
    a_dead_slot_waits_for_its_replacement,
);

fn manual(policy: Policy) -> Options {
    options("control", 0, policy)
}

async fn workers(primary: &Primary, n: usize, address: &str) -> (Vec<Controlled>, SocketAddr) {
    let mut all = Vec::new();
    let mut on = None;
    for _ in 0..n {
        let mut worker = Controlled::fork(primary).await;
        on = Some(
            worker
                .listen(
                    on.map_or_else(|| address.to_owned(), |a: SocketAddr| a.to_string()).as_str(),
                )
                .await,
        );
        all.push(worker);
    }
    (all, on.expect("an address"))
}

async fn round_robin_is_exact() {
    let primary = Primary::start(manual(Policy::RoundRobin)).expect("started");
    let (_workers, address) = workers(&primary, 3, &free_address()).await;
    // A worker that listens is asked what it is, and is no candidate before it has answered.
    let mut last = [0; 3];
    bench::wait::until_async(PATIENCE, "all to have their turns", async || {
        last = [last[1], last[2], greeted(address).await.0];
        (last == [1, 2, 3]).then_some(())
    })
    .await
    .expect("they have");
    let mut counts = BTreeMap::new();
    for _ in 0..30 {
        *counts.entry(greeted(address).await.0).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([(1, 10), (2, 10), (3, 10)]));
    primary.stop().await;
}

/// A worker that cannot answer holds `window` connections; all others go elsewhere.
async fn a_window_of_unacknowledged_connections() {
    let mut options = manual(Policy::RoundRobin);
    options.window = 2;
    options.patience = PATIENCE;
    let primary = Primary::start(options).expect("started");
    let (mut workers, address) = workers(&primary, 2, &free_address()).await;
    workers[0].handle.kill(Signal::STOP).expect("stopped");
    let mut held = Vec::new();
    let mut served = 0;
    for _ in 0..12 {
        let stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
        let stream = tokio::task::spawn_blocking(move || {
            let answered = std::io::Read::read(&mut &stream, &mut [0; 8]).is_ok_and(|n| n > 0);
            (stream, answered)
        });
        let (stream, answered) = stream.await.expect("done");
        served += u32::from(answered);
        held.push(stream);
    }
    assert_eq!(served, 10, "two wait at the stopped worker");
    workers[0].handle.kill(Signal::CONT).expect("continued");
    assert_eq!(workers[0].ask("echo", json!({ "value": 1 })).await, Ok(json!(1)));
    primary.stop_now().await;
}

/// Hand-overs that a stopped worker did not read go to the other one; messages to it stay, in order.
async fn what_a_stopped_worker_does_not_read_is_taken_back() {
    let mut options = manual(Policy::RoundRobin);
    options.window = 4;
    let primary = Primary::start(options).expect("started");
    let (mut workers, address) = workers(&primary, 2, &free_address()).await;
    for round in 0..5 {
        workers[0].handle.kill(Signal::STOP).expect("stopped");
        let mut clients = Vec::new();
        for n in 0..6 {
            workers[0]
                .tell("echo", &mut json!({ "value": [round, n, "x".repeat(2000 * n)] }))
                .await;
            clients.push(TcpStream::connect(address).expect("connects"));
            // The connection is on its way before the next message is.
            assert_eq!(workers[1].ask("echo", json!({ "value": n })).await, Ok(json!(n)));
        }
        for client in clients {
            let greeting = tokio::task::spawn_blocking(move || {
                client.set_read_timeout(Some(PATIENCE)).expect("set");
                let mut all = String::new();
                let mut byte = [0; 1];
                std::io::Read::read_exact(&mut &client, &mut byte).expect("greeted");
                all.push(char::from(byte[0]));
                client.shutdown(std::net::Shutdown::Write).expect("shut down");
                std::io::Read::read_to_string(&mut &client, &mut all).expect("the rest");
                all
            });
            assert_eq!(
                greeting.await.expect("done"),
                "2\n",
                "by the other one, and by nobody else"
            );
        }
        workers[0].handle.kill(Signal::CONT).expect("continued");
        for n in 0..6 {
            assert_eq!(workers[0].message().await["ok"][1], json!(n), "round {round}: in order");
        }
        // The same behind a message that the kernel has no room for.
        bench::wait::until_async(PATIENCE, "the worker serves again", async || {
            (greeted(address).await.0 == 1).then_some(())
        })
        .await
        .expect("it is back");
        workers[0].handle.kill(Signal::STOP).expect("stopped");
        let (handle, big) = (workers[0].handle.clone(), "y".repeat(700_000));
        let sending = tokio::spawn(async move {
            handle.send(&json!({ "do": "echo", "id": 0, "value": big })).await
        });
        tokio::task::yield_now().await;
        for _ in 0..4 {
            assert_eq!(greeted(address).await.0, 2);
        }
        workers[0].handle.kill(Signal::CONT).expect("continued");
        sending.await.expect("done").expect("sent");
        assert_eq!(workers[0].message().await["ok"].as_str().map(str::len), Some(700_000));
        bench::wait::until_async(PATIENCE, "the worker serves again", async || {
            (greeted(address).await.0 == 1).then_some(())
        })
        .await
        .expect("it is back");
    }
    primary.stop().await;
}

async fn a_full_house_waits_in_the_kernel() {
    let mut options = manual(Policy::RoundRobin);
    options.waiting = 10;
    let primary = Primary::start(options).expect("started");
    let (workers, address) = workers(&primary, 1, &free_address()).await;
    let before = bench::process::open_descriptors(std::process::id()).expect("a count");
    workers[0].handle.kill(Signal::STOP).expect("stopped");
    // More than the primary may hold, fewer than the kernel's queue.
    let clients: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(address).expect("connects")).collect();
    let count = || bench::process::open_descriptors(std::process::id()).expect("a count");
    bench::wait::until_async(PATIENCE, "the primary holds what it may", async || {
        (count() >= before + 200 + 10).then_some(())
    })
    .await
    .expect("held");
    // Other tests open descriptors too: only a rough bound can be had here.
    assert!(count() < before + 200 + 150, "{} of 400 descriptors", count());
    workers[0].handle.kill(Signal::CONT).expect("continued");
    for client in clients {
        let greeting = tokio::task::spawn_blocking(move || {
            client.set_read_timeout(Some(PATIENCE)).expect("set");
            std::io::Read::read(&mut &client, &mut [0; 8]).expect("greeted")
        });
        assert!(greeting.await.expect("done") > 0, "each is served in the end");
    }
    primary.stop_now().await;
}

async fn a_dead_workers_connections_go_on() {
    let mut options = manual(Policy::RoundRobin);
    options.window = 8;
    let primary = Primary::start(options).expect("started");
    let (mut workers, address) = workers(&primary, 2, &free_address()).await;
    workers[0].handle.kill(Signal::STOP).expect("stopped");
    let clients: Vec<TcpStream> =
        (0..12).map(|_| TcpStream::connect(address).expect("connects")).collect();
    // Half of them are handed to the first one, which dies with them in its hands.
    for n in 0..10 {
        assert_eq!(workers[1].ask("echo", json!({ "value": n })).await, Ok(json!(n)));
    }
    workers[0].handle.kill(Signal::KILL).expect("killed");
    for client in clients {
        let greeting = tokio::task::spawn_blocking(move || {
            client.set_read_timeout(Some(PATIENCE)).expect("set");
            let mut byte = [0; 1];
            std::io::Read::read_exact(&mut &client, &mut byte).map(|()| byte[0])
        });
        assert_eq!(
            greeting.await.expect("done").expect("greeted"),
            b'2',
            "the other one serves it"
        );
    }
    assert_eq!(workers[1].ask("echo", json!({ "value": 1 })).await, Ok(json!(1)));
    primary.stop_now().await;
}

/// Everything to the last worker.
struct Last;

impl Scheduler for Last {
    fn pick(&mut self, _: Option<IpAddr>, candidates: &[Candidate]) -> Option<usize> {
        candidates.len().checked_sub(1)
    }
}

async fn schedulers_of_ones_own() {
    let mut options = manual(Policy::RoundRobin);
    options.balance = Balance::Custom(Arc::new(|| Box::new(Last)));
    let primary = Primary::start(options).expect("started");
    let (_workers, address) = workers(&primary, 3, &free_address()).await;
    // A worker that listens is asked what it is, and is no candidate before it has answered.
    bench::wait::until_async(PATIENCE, "the last one to be chosen", async || {
        (greeted(address).await.0 == 3).then_some(())
    })
    .await
    .expect("chosen");
    for _ in 0..10 {
        assert_eq!(greeted(address).await.0, 3);
    }
    primary.stop().await;
}

async fn least_connections() {
    let mut options = manual(Policy::RoundRobin);
    options.balance = Balance::LeastConnections;
    let primary = Primary::start(options).expect("started");
    let (_workers, address) = workers(&primary, 3, &free_address()).await;
    let mut open: BTreeMap<u32, Vec<TcpStream>> = BTreeMap::new();
    for _ in 0..9 {
        let (worker, stream) = greeted(address).await;
        open.entry(worker).or_default().push(stream);
    }
    assert!(open.values().all(|c| c.len() == 3), "{open:?}");
    // All of one worker's clients leave: it is the next three times' choice.
    drop(open.remove(&2));
    bench::wait::until_async(PATIENCE, "the freed worker is chosen", async || {
        (greeted(address).await.0 == 2).then_some(())
    })
    .await
    .expect("chosen");
    primary.stop_now().await;
}

/// Which worker greets each of some clients.
async fn homes_from(address: SocketAddr) -> Vec<u8> {
    let mut homes = Vec::new();
    for host in 1..=12 {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 1, host], 0))).expect("bound");
        let mut stream = socket.connect(address).await.expect("connects");
        let mut byte = [0; 1];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut byte).await.expect("greeted");
        homes.push(byte[0]);
    }
    homes
}

async fn sticky_by_source_address() {
    for policy in [Policy::Direct, Policy::RoundRobin] {
        let mut options = manual(policy);
        options.balance = Balance::Sticky;
        let primary = Primary::start(options).expect("started");
        let (_workers, address) = workers(&primary, 3, &free_address()).await;
        // A worker that listens is asked what it is, and is no candidate before it has answered.
        let homes = bench::wait::until_async(PATIENCE, "every client to have a home", async || {
            let homes = homes_from(address).await;
            (homes == homes_from(address).await).then_some(homes)
        })
        .await
        .expect("they have");
        for _ in 0..3 {
            assert_eq!(homes_from(address).await, homes, "{policy}: they stay");
        }
        let homes: std::collections::BTreeSet<u8> = homes.into_iter().collect();
        assert!(homes.len() > 1, "{policy}: not all on one");
        primary.stop_now().await;
    }
}

async fn weights_steer_the_kernel() {
    let mut options = manual(Policy::Direct);
    options.balance = Balance::Weighted(Arc::new(|slot| match slot {
        SlotId(0) => 0,
        SlotId(1) => 1,
        _ => 19,
    }));
    let primary = Primary::start(options).expect("started");
    let (_workers, address) = workers(&primary, 3, &free_address()).await;
    let mut counts = BTreeMap::new();
    for _ in 0..800 {
        *counts.entry(greeted(address).await.0).or_insert(0) += 1;
    }
    // 5 % of 800 are 40, with a standard deviation of 6.
    let canary = counts.get(&2).copied().unwrap_or(0);
    assert!(!counts.contains_key(&1) && (10..=80).contains(&canary), "{counts:?}");
    primary.stop_now().await;
}

async fn a_stopped_workers_queue_is_rescued() {
    let primary = Primary::start(manual(Policy::Direct)).expect("started");
    let (workers, address) = workers(&primary, 2, &free_address()).await;
    workers[0].handle.kill(Signal::STOP).expect("stopped");
    let mut slowest = Duration::ZERO;
    for _ in 0..60 {
        let begun = Instant::now();
        assert_eq!(greeted(address).await.0, 2);
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "the slowest took {slowest:?}");
    workers[0].handle.kill(Signal::CONT).expect("continued");
    bench::wait::until_async(PATIENCE, "the worker serves again", async || {
        (greeted(address).await.0 == 1).then_some(())
    })
    .await
    .expect("it is back");
    primary.stop().await;
}

/// Workers that took the plain socket cannot be handed connections: the primary carries them.
async fn a_plain_listeners_queue_is_carried() {
    let primary = Primary::start(manual(Policy::Direct)).expect("started");
    let mut one = Controlled::fork(&primary).await;
    let mut two = Controlled::fork(&primary).await;
    let order = json!({ "address": free_address() });
    let told = one.ask("listen_std", order.clone()).await.expect("listens");
    two.ask("listen_std", order).await.expect("listens");
    let address = told.as_str().and_then(|a| a.parse().ok()).expect("an address");
    one.handle.kill(Signal::STOP).expect("stopped");
    for _ in 0..40 {
        assert_eq!(greeted(address).await.0, 2);
    }
    one.handle.kill(Signal::CONT).expect("continued");
    primary.stop_now().await;
}

/// The only worker dies with connections in its slot: its replacement answers them.
async fn a_dead_slot_waits_for_its_replacement() {
    for policy in [Policy::Direct, Policy::RoundRobin, Policy::Shared] {
        let address = free_address();
        let primary = Primary::start(serving("http", 1, policy, &address)).expect("started");
        settled(&primary, 1).await;
        let pid = primary.status().await.expect("a status").workers[0].pid.expect("a pid");
        let signal = |s| {
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid"),
                s,
            )
        };
        signal(Signal::STOP).expect("stopped");
        let load = Load::new(address.parse().expect("an address")).clients(20).requests(20);
        let load = load.start().expect("started");
        bench::wait::until_async(PATIENCE, "the clients wait", async || {
            let waiting = connections_to(address.parse().ok()?);
            (waiting >= 20).then_some(())
        })
        .await
        .expect("they wait");
        signal(Signal::KILL).expect("killed");
        let outcome = tokio::task::spawn_blocking(move || load.join()).await.expect("done");
        assert_eq!((outcome.answered, outcome.failed), (20, 0), "{policy}: {outcome}");
        assert!(!outcome.by_worker.contains_key(&pid.to_string()));
        primary.stop().await;
    }
}

/// How many established connections there are to a port of this machine.
fn connections_to(address: SocketAddr) -> usize {
    let wanted = format!(":{:04X} 01", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    table.lines().filter(|line| line.contains(&wanted)).count()
}
