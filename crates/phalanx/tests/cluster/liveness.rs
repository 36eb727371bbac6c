//! Workers that are there and do nothing, as the library's user sees them; and those that only seem so.

use crate::support::{PATIENCE, free_address, next, options, serving, settled};
use crate::trials;
use phalanx::{
    Check, Event, Health, Heartbeat, Leave, Options, Policy, Primary, ReadyWhen, Report, Signal,
    WorkerId,
};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

trials!(
    one_that_hangs_is_told_with_what_was_seen,
    whom_the_application_forked_is_not_judged,
    a_program_that_takes_no_messages_does_not_hang,
    a_primary_that_takes_no_messages_kills_nobody,
    checks_are_in_the_status,
    checks_that_cannot_be_are_refused,
    upgraded_connections_outlast_the_grace_time,
    upgraded_connections_are_cut_at_the_end_of_theirs,
);

/// Verdicts after less than a second.
const QUICK: Option<Heartbeat> =
    Some(Heartbeat { interval: Duration::from_millis(200), misses: 3 });
/// More than that.
const LATER: Duration = Duration::from_secs(2);

async fn one_that_hangs_is_told_with_what_was_seen() {
    let address = free_address();
    let options = serving("http", 2, Policy::Direct, &address);
    let primary = Primary::start(Options { heartbeat: QUICK, ..options }).expect("started");
    let mut events = primary.events();
    settled(&primary, 2).await;
    let status = primary.status().await.expect("status");
    let worker = status.workers.first().expect("a worker");
    let (id, pid) = (worker.id, worker.pid.expect("a process"));
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    rustix::process::kill_process(process.expect("a pid"), Signal::STOP).expect("stopped");
    let evidence = next(&mut events, "the evidence", |event| match event {
        Event::Hung(worker, evidence) if worker.id() == id => Some(evidence),
        _ => None,
    });
    let evidence = evidence.await;
    assert_eq!((evidence.pid, evidence.verdict), (pid, Leave::Hung));
    assert_eq!(evidence.state, Some('T'), "{evidence}");
    assert!(evidence.silent >= Duration::from_millis(600), "{evidence:?}");
    assert!(evidence.to_string().lines().count() <= 8, "{evidence}");
    let lost = |event| match event {
        Event::Report(Report::Lost { worker, why, .. }) => Some((worker, why)),
        _ => None,
    };
    assert_eq!(next(&mut events, "the report", lost).await, (id, Leave::Hung));
    settled(&primary, 2).await;
    let status = primary.status().await.expect("status");
    assert!(status.workers.iter().all(|worker| worker.id != id), "{status:?}");
    primary.stop().await;
}

async fn whom_the_application_forked_is_not_judged() {
    let address = free_address();
    let options = serving("http", 0, Policy::Direct, &address);
    let primary = Primary::start(Options { heartbeat: QUICK, ..options }).expect("started");
    let mut events = primary.events();
    let worker = primary.fork().await.expect("forked");
    let listens = |event| matches!(event, Event::Listening(..)).then_some(());
    next(&mut events, "it to listen", listens).await;
    // It answers the first pings.
    tokio::time::sleep(LATER / 4).await;
    worker.kill(Signal::STOP).expect("stopped");
    assert!(tokio::time::timeout(LATER, worker.exited()).await.is_err(), "it was ended");
    worker.kill(Signal::KILL).expect("killed");
    worker.exited().await;
    primary.stop().await;
}

/// The numbers of the workers.
async fn ids(primary: &Primary) -> Vec<WorkerId> {
    primary.status().await.expect("status").workers.iter().map(|worker| worker.id).collect()
}

async fn a_program_that_takes_no_messages_does_not_hang() {
    let mut options = options("deaf", 1, Policy::Direct);
    options.spec.ready = ReadyWhen::Online;
    options.spec.grace = Some(Duration::from_millis(100));
    // It gives a sign of life each second.
    let rules = Heartbeat { interval: Duration::from_millis(1_500), misses: 1 };
    let primary = Primary::start(Options { heartbeat: Some(rules), ..options }).expect("started");
    let mut events = primary.events();
    let online = |event| match event {
        Event::Online(worker) => Some(worker),
        _ => None,
    };
    let worker = next(&mut events, "it to be online", online).await;
    // It has to have answered a ping.
    tokio::time::sleep(rules.interval * 2).await;
    let talking = tokio::spawn(async move {
        let text = "x".repeat(100_000);
        while worker.send(&text).await.is_ok() {}
    });
    tokio::time::sleep(rules.interval * 5).await;
    assert!(!talking.is_finished(), "it takes messages");
    assert_eq!(ids(&primary).await, [WorkerId(1)]);
    primary.stop().await;
}

async fn a_primary_that_takes_no_messages_kills_nobody() {
    let mut options = options("chatty", 1, Policy::Direct);
    options.spec.ready = ReadyWhen::Online;
    options.spec.grace = Some(Duration::from_millis(100));
    let primary = Primary::start(Options { heartbeat: QUICK, ..options }).expect("started");
    let mut events = primary.events();
    let message = |event| matches!(event, Event::Message(..)).then_some(());
    next(&mut events, "a message", message).await;
    // From now on nobody takes any.
    tokio::time::sleep(2 * LATER).await;
    assert_eq!(ids(&primary).await, [WorkerId(1)]);
    drop(events);
    primary.stop().await;
}

async fn checks_are_in_the_status() {
    let address = free_address();
    for (path, ok) in [("/", true), ("no slash", false)] {
        let check = Check::http(path);
        assert_eq!(check.is_ok(), ok, "{path}");
    }
    let check = Check::http("/healthz").expect("a path");
    let health = Health { interval: Duration::from_millis(50), ..Health::new(check) };
    for policy in [Policy::Direct, Policy::RoundRobin, Policy::Shared] {
        let options = serving("http", 2, policy, &address);
        let options = Options { health: Some(health.clone()), ..options };
        let primary = Primary::start(options).expect("started");
        settled(&primary, 2).await;
        let checked = bench::wait::until_async(PATIENCE, "both to be checked", async || {
            let status = primary.status().await.ok()?;
            status.workers.into_iter().map(|w| w.health).collect::<Option<Vec<_>>>()
        });
        for health in checked.await.expect("checked") {
            assert!(health.ok && health.failures == 0, "{policy}: {health:?}");
            assert!(health.latency > Duration::ZERO, "{policy}: {health:?}");
            assert_eq!(health.last_error, None, "{policy}");
        }
        primary.stop().await;
    }
}

async fn checks_that_cannot_be_are_refused() {
    let health = Some(Health::new(Check::Command(Vec::new())));
    let refused = Primary::start(Options { health, ..Options::default() });
    assert!(refused.is_err_and(|error| error.to_string().contains("command")));
}

/// An upgraded connection to the only worker, and a reload that replaces that.
async fn upgraded(grace_upgraded: Duration) -> (Primary, phalanx::Events, TcpStream) {
    let address = free_address();
    let mut options = serving("upgrade", 1, Policy::Direct, &address);
    options.spec.grace = Some(Duration::from_secs(1));
    options.spec.kill_after = Duration::from_secs(1);
    let options = Options { grace_upgraded: Some(grace_upgraded), ..options };
    let primary = Primary::start(options).expect("started");
    let events = primary.events();
    settled(&primary, 1).await;
    let mut stream = TcpStream::connect(&address).await.expect("connected");
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    primary.reload().await.expect("reloaded");
    (primary, events, stream)
}

async fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"echo").await?;
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.map(|_| assert_eq!(&back, b"echo"))
}

async fn upgraded_connections_outlast_the_grace_time() {
    let (primary, mut events, mut stream) = upgraded(Duration::from_secs(3600)).await;
    // Several times the grace time, and what follows it.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        echo(&mut stream).await.expect("it goes on");
    }
    drop(stream);
    let end = |event| match event {
        Event::Exit(worker, exit) if worker.id() == WorkerId(1) => Some(exit),
        Event::Report(Report::Overdue { .. } | Report::Cut { .. }) => panic!("{event:?}"),
        _ => None,
    };
    assert_eq!(next(&mut events, "its end", end).await, phalanx::Exit::Code(0));
    primary.stop().await;
}

async fn upgraded_connections_are_cut_at_the_end_of_theirs() {
    let (primary, mut events, mut stream) = upgraded(Duration::from_secs(3)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    echo(&mut stream).await.expect("it has its time");
    let cut = |event| match event {
        Event::Report(Report::Cut { worker, connections, .. }) => Some((worker, connections)),
        _ => None,
    };
    assert_eq!(next(&mut events, "the count", cut).await, (WorkerId(1), 1));
    let exits = |event| match event {
        Event::Exit(worker, exit) => Some((worker.id(), exit)),
        _ => None,
    };
    assert_eq!(next(&mut events, "its end", exits).await.0, WorkerId(1));
    assert!(echo(&mut stream).await.is_err(), "it was cut");
    primary.stop().await;
}
