//! Workers that misbehave: each ends alone, with a report, and nothing else is harmed.

use crate::support::{
    Controlled, PATIENCE, free_address, greeted, next, options, serving, settled,
};
use crate::trials;
use phalanx::{Event, Exit, Options, Policy, Primary, Restart};
use serde_json::json;
use std::time::Duration;

trials!(
    garbage_on_the_channel,
    half_a_message,
    a_line_without_end,
    an_unknown_frame_is_ignored,
    foreign_answers_count_for_nothing,
    a_worker_that_exits_at_once,
    a_crash_loop_is_loud_and_alone,
    a_flood_that_nobody_reads_harms_nobody,
    questions_without_reading_answers,
    descriptors_run_out_in_a_worker,
    no_descriptor_is_lost,
);

fn manual() -> Options {
    options("control", 0, Policy::Direct)
}

/// A worker writes `bytes` on its channel: what is said of it, and how it ends.
async fn after_writing(bytes: &str) -> (String, Exit) {
    let primary = Primary::start(manual()).expect("started");
    let mut good = Controlled::fork(&primary).await;
    let address = good.listen(&free_address()).await;
    let mut bad = Controlled::fork(&primary).await;
    bad.listen(&address.to_string()).await;
    bad.tell("raw", &mut json!({ "bytes": bytes })).await;
    let said = bad
        .next("an error", |e| match e {
            Event::Error(_, what) => Some(what.to_string()),
            _ => None,
        })
        .await;
    let exit = bad
        .next("the exit", |e| match e {
            Event::Exit(_, exit) => Some(exit),
            _ => None,
        })
        .await;
    for _ in 0..20 {
        assert_eq!(greeted(address).await.0, 1, "the other worker has it all");
    }
    primary.stop().await;
    (said, exit)
}

async fn garbage_on_the_channel() {
    for bytes in ["this is no JSON\n", "\n", "{\"cmd\":\"NODE_CLUSTER\",\"act\":5}\n"] {
        let (said, exit) = after_writing(bytes).await;
        assert!(said.contains("its channel") || said.contains("begins with"), "{said}");
        assert_eq!(exit, Exit::Signal(9), "{bytes:?}");
    }
}

async fn half_a_message() {
    let primary = Primary::start(manual()).expect("started");
    let mut bad = Controlled::fork(&primary).await;
    bad.ask("raw", json!({ "bytes": "" })).await.expect("written");
    bad.tell("raw", &mut json!({ "bytes": "{\"half\":" })).await;
    bad.handle.kill(phalanx::Signal::KILL).expect("killed");
    let exit = bad
        .next("the exit", |e| match e {
            Event::Exit(_, exit) => Some(exit),
            _ => None,
        })
        .await;
    assert_eq!(exit, Exit::Signal(9));
    let mut good = Controlled::fork(&primary).await;
    assert_eq!(good.ask("echo", json!({ "value": 1 })).await, Ok(json!(1)));
    primary.stop().await;
}

async fn a_line_without_end() {
    let mut options = manual();
    options.max_message = 100_000;
    let primary = Primary::start(options).expect("started");
    let mut bad = Controlled::fork(&primary).await;
    bad.tell("big", &mut json!({ "size": 200_000 })).await;
    let said = bad
        .next("an error", |e| match e {
            Event::Error(_, what) => Some(what.to_string()),
            _ => None,
        })
        .await;
    assert!(said.contains("longer than the bound of 100000 bytes"), "{said}");
    bad.next("the exit", |e| matches!(e, Event::Exit(..)).then_some(())).await;
    primary.stop().await;
}

async fn an_unknown_frame_is_ignored() {
    let primary = Primary::start(manual()).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    let bytes = concat!(
        "{\"cmd\":\"NODE_FUTURE\",\"x\":1}\n",
        "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"dance\",\"seq\":9}\n",
        "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"close\",\"key\":\"no such\",\"seq\":10}\n",
        "{\"cmd\":\"NODE_HANDLE_ACK\"}\n{\"cmd\":\"NODE_HANDLE_NACK\"}\n",
    );
    worker.ask("raw", json!({ "bytes": bytes })).await.expect("written");
    assert_eq!(worker.ask("echo", json!({ "value": 1 })).await, Ok(json!(1)));
    primary.stop().await;
}

/// A worker that answers for others' connections changes nothing.
async fn foreign_answers_count_for_nothing() {
    let primary = Primary::start(options("control", 0, Policy::RoundRobin)).expect("started");
    let mut good = Controlled::fork(&primary).await;
    let address = good.listen(&free_address()).await;
    let mut bad = Controlled::fork(&primary).await;
    let lies: String = (0..100)
        .map(|n| {
            format!("{{\"cmd\":\"NODE_CLUSTER\",\"ack\":{n},\"accepted\":true,\"seq\":{n}}}\n")
        })
        .collect();
    for _ in 0..5 {
        bad.ask("raw", json!({ "bytes": lies })).await.expect("written");
        assert_eq!(greeted(address).await.0, 1);
    }
    primary.stop().await;
}

async fn a_worker_that_exits_at_once() {
    let mut options = serving("exit", 2, Policy::Direct, &free_address());
    options.spec.restart =
        Restart { base: Duration::from_millis(5), limit: 4, ..Restart::default() };
    let primary = Primary::start(options).expect("started");
    let error = primary.finished().await.expect_err("never ready").to_string();
    assert!(error.contains("no worker became ready") && error.contains("code 7"), "{error}");
}

async fn a_crash_loop_is_loud_and_alone() {
    let address = free_address();
    let mut options = serving("http", 2, Policy::Direct, &address);
    options.spec.restart = Restart {
        base: Duration::from_millis(5),
        limit: 4,
        cap: Duration::from_millis(200),
        ..Restart::default()
    };
    let primary = Primary::start(options).expect("started");
    settled(&primary, 2).await;
    let mut events = primary.events();
    let mut settings = primary.settings();
    settings.env.push((crate::roles::ROLE.into(), "exit".into()));
    primary.setup(settings.clone());
    let victim = primary.status().await.expect("a status").workers[0].clone();
    let pid =
        rustix::process::Pid::from_raw(i32::try_from(victim.pid.expect("a pid")).expect("a pid"));
    rustix::process::kill_process(pid.expect("a pid"), phalanx::Signal::KILL).expect("killed");
    let slot = next(&mut events, "the crash loop", |e| match e {
        Event::Report(phalanx::Report::CrashLoop { slot, .. }) => Some(slot),
        _ => None,
    })
    .await;
    assert_eq!(slot, victim.slot);
    let waiting = primary.status().await.expect("a status").waiting;
    assert!(waiting.iter().any(|(s, ..)| *s == slot) || !waiting.is_empty(), "{waiting:?}");
    let to = address.parse().expect("an address");
    let outcome = bench::load::Load::new(to).requests(200).run().await;
    assert_eq!((outcome.answered, outcome.failed), (200, 0), "{outcome}");
    // Mended, the next probe brings it back.
    settings.env.pop();
    primary.setup(settings);
    settled(&primary, 2).await;
    primary.stop().await;
}

/// Messages without end, and no receiver: the primary goes on with its work.
async fn a_flood_that_nobody_reads_harms_nobody() {
    let primary = Primary::start(manual()).expect("started");
    let noisy = primary.fork().await.expect("forked");
    noisy.send(&json!({ "do": "flood", "id": 1, "count": 100_000_000u64 })).await.expect("sent");
    for _ in 0..5 {
        let other = primary.fork().await.expect("forked");
        other.kill(phalanx::Signal::KILL).expect("killed");
        let exit = tokio::time::timeout(PATIENCE, other.exited()).await.expect("reaped");
        assert_eq!(exit, Exit::Signal(9));
    }
    assert!(!noisy.is_dead(), "it still sends");
    primary.stop_now().await;
}

/// A worker that asks and asks and never reads an answer costs the primary a bounded amount.
async fn questions_without_reading_answers() {
    let primary = Primary::start(manual()).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    let before = bench::process::rss_bytes(std::process::id()).expect("a size");
    worker.tell("ask_for_ever", &mut json!({})).await;
    worker
        .next("its channel to be closed", |e| matches!(e, Event::Disconnect(_)).then_some(()))
        .await;
    let grown =
        bench::process::rss_bytes(std::process::id()).expect("a size").saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    primary.stop_now().await;
}

/// A worker without free descriptors neither spins nor dies; it serves again when it has some.
async fn descriptors_run_out_in_a_worker() {
    for policy in [Policy::Direct, Policy::RoundRobin] {
        let primary = Primary::start(options("control", 0, policy)).expect("started");
        let mut worker = Controlled::fork(&primary).await;
        let address = worker.listen(&free_address()).await;
        let pid =
            rustix::process::Pid::from_raw(i32::try_from(worker.handle.pid()).expect("a pid"));
        let used = bench::process::open_descriptors(worker.handle.pid()).expect("a count");
        let limit = rustix::process::Rlimit {
            current: Some(u64::try_from(used).expect("a count") + 8),
            maximum: Some(20_000),
        };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).expect("limited");
        let clients: Vec<_> =
            (0..40).map(|_| std::net::TcpStream::connect(address).expect("connects")).collect();
        let cpu = || bench::process::cpu_time(worker.handle.pid()).expect("a time");
        let before = cpu();
        tokio::time::timeout(Duration::from_millis(600), std::future::pending::<()>()).await.ok();
        let spent = cpu() - before;
        assert!(spent < Duration::from_millis(300), "{policy}: {spent:?} of CPU: it spins");
        // Those who are served leave; the others get their turn.
        let mut served = 0;
        for client in clients {
            client.set_read_timeout(Some(PATIENCE)).expect("set");
            let greeting = tokio::task::spawn_blocking(move || {
                std::io::Read::read(&mut &client, &mut [0; 8]).is_ok_and(|n| n > 0)
            });
            served += u32::from(greeting.await.expect("done"));
        }
        assert_eq!(served, 40, "{policy}");
        assert_eq!(worker.ask("echo", json!({ "value": 1 })).await, Ok(json!(1)));
        primary.stop_now().await;
    }
}

async fn no_descriptor_is_lost() {
    for policy in [Policy::Direct, Policy::RoundRobin, Policy::Shared] {
        let address = free_address();
        let place = tempfile::tempdir().expect("a directory");
        let mut options = serving("http", 2, policy, &address);
        options.settings.exec = Some(std::env::current_exe().expect("this program"));
        options.settings.cwd = Some(place.path().to_owned());
        let primary = Primary::start(options).expect("started");
        settled(&primary, 2).await;
        let pid = primary.status().await.expect("a status").workers[0].pid.expect("a pid");
        // A worker holds: three standard streams, channel, slot, and what tokio needs.
        let count = bench::process::open_descriptors(pid).expect("a count");
        assert!(count < 16, "{policy}: a worker has {count} descriptors: it inherited some");
        primary.reload().await.expect("reloaded");
        settled(&primary, 2).await;
        let next = primary.status().await.expect("a status").workers[0].pid.expect("a pid");
        assert_eq!(bench::process::open_descriptors(next).expect("a count"), count, "{policy}");
        primary.stop().await;
    }
}
