//! Reloads under load.

use crate::roles::ROLE;
use crate::support::{PATIENCE, free_address, next, serving, settled};
use crate::trials;
use bench::load::Load;
use phalanx::{Event, Policy, Primary, Report};
use std::time::Duration;

trials!(
    no_error_in_direct,
    no_error_in_round_robin,
    no_error_in_shared,
    axum_that_knows_nothing,
    kept_connections_are_told_to_close,
    stopping_refuses_new_clients_at_once,
    a_broken_new_version_leaves_the_old_one,
    a_new_version_that_never_listens,
    the_successor_of_a_stuck_worker_serves,
    scaling_under_load,
);

/// Reloads under both kinds of load: not one error.
async fn reloads_under(policy: Policy, reloads: u32) {
    let address = free_address();
    let primary = Primary::start(serving("http", 3, policy, &address)).expect("started");
    settled(&primary, 3).await;
    let to = address.parse().expect("an address");
    let loads = [
        Load::new(to).clients(4).duration(PATIENCE),
        Load::new(to).clients(4).keep_alive(true).duration(PATIENCE),
        Load::new(to)
            .clients(4)
            .keep_alive(true)
            .think(Duration::from_millis(7))
            .duration(PATIENCE),
    ];
    let running: Vec<_> = loads.into_iter().map(|load| load.start().expect("started")).collect();
    for _ in 0..reloads {
        let done = primary.reload().await.expect("reloaded");
        assert_eq!(done.replaced, 3);
    }
    for load in running {
        let progress = load.progress();
        bench::wait::until_async(PATIENCE, "enough answers", async || {
            (progress.answered() + progress.failed() > 100).then_some(())
        })
        .await
        .expect("answers");
        let outcome = tokio::task::spawn_blocking(move || load.stop()).await.expect("done");
        assert!(outcome.failed == 0 && outcome.answered > 100, "{policy}: {outcome}");
        assert!(outcome.by_worker.len() > 3, "{policy}: old and new ones answered");
    }
    primary.stop().await;
}

async fn no_error_in_direct() {
    reloads_under(Policy::Direct, 15).await;
}

async fn no_error_in_round_robin() {
    reloads_under(Policy::RoundRobin, 15).await;
}

async fn no_error_in_shared() {
    reloads_under(Policy::Shared, 15).await;
}

/// `axum::serve` without a graceful shutdown: connection per request is lossless all the same, and old workers
/// do not linger.
async fn axum_that_knows_nothing() {
    let address = free_address();
    let primary = Primary::start(serving("axum", 2, Policy::Direct, &address)).expect("started");
    settled(&primary, 2).await;
    let load = Load::new(address.parse().expect("an address")).clients(4).duration(PATIENCE);
    let load = load.start().expect("started");
    for _ in 0..5 {
        primary.reload().await.expect("reloaded");
    }
    settled(&primary, 2).await;
    let outcome = tokio::task::spawn_blocking(move || load.stop()).await.expect("done");
    assert!(outcome.failed == 0 && outcome.answered > 0, "{outcome}");
    primary.stop().await;
}

/// A request on a kept connection, and the answer's head.
fn asked(stream: &std::net::TcpStream, version: &str, more: &str) -> String {
    use std::io::{BufRead, BufReader, Read, Write};
    let mut writer = stream;
    write!(writer, "GET / HTTP/{version}\r\nHost: x\r\n{more}\r\n").expect("written");
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).expect("read") > 0, "an answer, not {head:?}");
    }
    let head = head.to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|l| l.lines().next());
    let length: u64 = length.and_then(|l| l.trim().parse().ok()).expect("a length");
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).expect("a body");
    head
}

/// A client that was idle when its worker was told to leave is still answered, and told to close.
async fn kept_connections_are_told_to_close() {
    let address = free_address();
    let primary = Primary::start(serving("http", 1, Policy::Direct, &address)).expect("started");
    settled(&primary, 1).await;
    for (version, more) in [("1.1", ""), ("1.0", "Connection: keep-alive\r\n")] {
        let stream = std::net::TcpStream::connect(&address).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let (head, stream) =
            tokio::task::spawn_blocking(move || (asked(&stream, version, more), stream))
                .await
                .expect("done");
        assert!(!head.contains("connection: close"), "{head}");
        primary.reload().await.expect("reloaded");
        let head = tokio::task::spawn_blocking(move || asked(&stream, version, more));
        let head = head.await.expect("done");
        assert!(head.contains("connection: close") && !head.contains("keep-alive"), "{head}");
        settled(&primary, 1).await;
    }
    primary.stop().await;
}

async fn stopping_refuses_new_clients_at_once() {
    for policy in [Policy::Direct, Policy::RoundRobin, Policy::Shared] {
        let address = free_address();
        let primary = Primary::start(serving("http", 2, policy, &address)).expect("started");
        settled(&primary, 2).await;
        // An idle connection holds its worker for a while.
        let kept = std::net::TcpStream::connect(&address).expect("connects");
        kept.set_read_timeout(Some(PATIENCE)).expect("set");
        let kept = tokio::task::spawn_blocking(move || {
            asked(&kept, "1.1", "");
            kept
        });
        let kept = kept.await.expect("done");
        primary.begin_stop(false);
        // Who comes in the moment before waits, and is refused when he asks again.
        bench::wait::until_async(PATIENCE, "the port is closed", async || {
            tokio::net::TcpStream::connect(&address).await.is_err().then_some(())
        })
        .await
        .expect("refused");
        assert_eq!(
            primary.status().await.expect("a status").workers.len(),
            1,
            "{policy}: one is left"
        );
        let head =
            tokio::task::spawn_blocking(move || asked(&kept, "1.1", "")).await.expect("done");
        assert!(head.contains("connection: close"), "{policy}: {head}");
        primary.stopped().await;
    }
}

async fn broken(role: &str, start_timeout: Duration, why: &str) {
    let address = free_address();
    let mut options = serving("http", 2, Policy::Direct, &address);
    options.spec.start_timeout = Some(start_timeout);
    let primary = Primary::start(options).expect("started");
    settled(&primary, 2).await;
    let pids =
        |status: phalanx::Status| status.workers.iter().filter_map(|w| w.pid).collect::<Vec<_>>();
    let before = pids(primary.status().await.expect("a status"));
    let load = Load::new(address.parse().expect("an address")).clients(4).duration(PATIENCE);
    let load = load.start().expect("started");
    let mut settings = primary.settings();
    settings.env.push((ROLE.into(), role.into()));
    primary.setup(settings);
    let mut events = primary.events();
    let error = primary.reload().await.expect_err("it fails").to_string();
    assert!(error.contains(why), "{error}");
    let kept = next(&mut events, "the report", |e| match e {
        Event::Report(Report::ReloadFailed { kept, replaced: 0, .. }) => Some(kept),
        _ => None,
    })
    .await;
    assert_eq!(kept, 2);
    settled(&primary, 2).await;
    assert_eq!(pids(primary.status().await.expect("a status")), before, "the old ones go on");
    let outcome = tokio::task::spawn_blocking(move || load.stop()).await.expect("done");
    assert!(outcome.failed == 0 && outcome.answered > 0, "{outcome}");
    primary.stop().await;
}

async fn a_broken_new_version_leaves_the_old_one() {
    broken("exit", Duration::from_secs(60), "code 7").await;
}

async fn a_new_version_that_never_listens() {
    broken("silent", Duration::from_millis(500), "not ready within").await;
}

/// A worker hangs and is reloaded away: its slot serves again.
async fn the_successor_of_a_stuck_worker_serves() {
    let address = free_address();
    let mut options = serving("http", 2, Policy::Direct, &address);
    options.spec.grace = Some(Duration::from_millis(500));
    let primary = Primary::start(options).expect("started");
    settled(&primary, 2).await;
    let to = address.parse().expect("an address");
    let stuck = primary.status().await.expect("a status").workers[0].pid.expect("a pid");
    let stuck =
        rustix::process::Pid::from_raw(i32::try_from(stuck).expect("a pid")).expect("a pid");
    rustix::process::kill_process(stuck, phalanx::Signal::STOP).expect("stopped");
    let outcome = Load::new(to).requests(100).run().await;
    assert_eq!((outcome.answered, outcome.by_worker.len()), (100, 1), "{outcome}");
    primary.reload().await.expect("reloaded");
    settled(&primary, 2).await;
    let outcome = Load::new(to).requests(400).run().await;
    let fewest = outcome.by_worker.values().min().copied().unwrap_or(0);
    assert!(outcome.by_worker.len() == 2 && fewest > 100, "{outcome}");
    primary.stop().await;
}

async fn scaling_under_load() {
    for policy in [Policy::Direct, Policy::RoundRobin] {
        let address = free_address();
        let primary = Primary::start(serving("http", 2, policy, &address)).expect("started");
        settled(&primary, 2).await;
        let to = address.parse().expect("an address");
        let running = [
            Load::new(to).clients(6).duration(PATIENCE).start().expect("started"),
            Load::new(to).clients(4).keep_alive(true).duration(PATIENCE).start().expect("started"),
        ];
        for workers in [5, 1, 3, 2, 4, 1] {
            primary.scale(workers).expect("scaled");
            settled(&primary, workers).await;
        }
        for load in running {
            let outcome = tokio::task::spawn_blocking(move || load.stop()).await.expect("done");
            assert!(outcome.failed == 0 && outcome.answered > 0, "{policy}: {outcome}");
        }
        assert!(primary.scale(0).is_err() && primary.scale(100_000).is_err());
        primary.stop().await;
    }
}
