//! Events, their order, and what `exitedAfterDisconnect` says in every case.

use crate::support::{Controlled, PATIENCE, free_address, name, next, options, settled};
use crate::trials;
use phalanx::{Event, Exit, Options, Policy, Primary, Settings, Signal, Stdio};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncReadExt;

trials!(
    order_of_a_life,
    messages_come_in_their_place,
    events_of_a_stopped_cluster_end,
    asked_by_the_primary,
    leaves_by_itself,
    kills_itself,
    is_killed,
    exits_with_a_code,
    the_channel_closes_but_the_process_lives,
    settings_reach_the_worker,
    output_is_piped,
    a_program_that_does_not_exist,
    numbers_are_never_used_twice,
    stopping_waits_for_all,
    dropping_the_primary_stops_it,
    a_worker_alone,
);

fn manual() -> Options {
    options("control", 0, Policy::default())
}

async fn order_of_a_life() {
    let primary = Primary::start(manual()).expect("started");
    let mut events = primary.events();
    primary.setup(primary.settings());
    let mut worker = Controlled::fork(&primary).await;
    assert!(worker.handle.is_connected() && !worker.handle.is_dead());
    assert_eq!(worker.handle.exited_after_disconnect(), None);
    let address = worker.listen("127.0.0.1:0").await;
    worker.handle.disconnect();
    let mut seen = Vec::new();
    while let Some(event) = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time") {
        let done = matches!(event, Event::Exit(..));
        if !matches!(event, Event::Message(..) | Event::Report(_)) {
            seen.push(name(&event));
        }
        if done {
            break;
        }
    }
    let listening = format!("listening 1 {address}");
    let expected = ["setup", "fork 1", "online 1", &listening, "disconnect 1", "exit 1 code 0"];
    assert_eq!(seen, expected);
    assert!(!worker.handle.is_connected() && worker.handle.is_dead());
}

/// What a worker sends is told after what it did before, and before its end.
async fn messages_come_in_their_place() {
    let primary = Primary::start(manual()).expect("started");
    let mut events = primary.events();
    let mut worker = Controlled::fork(&primary).await;
    worker.listen("127.0.0.1:0").await;
    worker.ask("echo", json!({ "value": "last words" })).await.expect("echoed");
    worker.tell("exit", &mut json!({ "code": 0 })).await;
    let mut seen = Vec::new();
    while let Some(event) = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time") {
        let name = name(&event);
        seen.extend(name.split(' ').next().map(ToOwned::to_owned));
        if matches!(event, Event::Exit(..)) {
            break;
        }
    }
    seen.retain(|name| name != "report:");
    let expected = ["fork", "online", "listening", "message", "message", "disconnect", "exit"];
    assert_eq!(seen, expected);
    primary.stop().await;
}

async fn events_of_a_stopped_cluster_end() {
    let primary = Primary::start(manual()).expect("started");
    primary.stop().await;
    let end = tokio::time::timeout(PATIENCE, primary.events().next()).await.expect("at once");
    assert!(end.is_none());
}

/// The end of a worker after an order: how, and what `exited_after_disconnect` says.
async fn end_after(order: &str, more: Value) -> (Exit, Option<bool>) {
    let primary = Primary::start(manual()).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    worker.listen("127.0.0.1:0").await;
    match order {
        "primary disconnects" => worker.handle.disconnect(),
        "SIGTERM" => worker.handle.kill(Signal::TERM).expect("signalled"),
        "SIGKILL" => worker.handle.kill(Signal::KILL).expect("signalled"),
        order => {
            worker.tell(order, &mut more.clone()).await;
        }
    }
    let exit = worker
        .next("the exit", |event| match event {
            Event::Exit(_, exit) => Some(exit),
            _ => None,
        })
        .await;
    (exit, worker.handle.exited_after_disconnect())
}

async fn asked_by_the_primary() {
    assert_eq!(end_after("primary disconnects", json!({})).await, (Exit::Code(0), Some(true)));
}

async fn leaves_by_itself() {
    assert_eq!(end_after("disconnect", json!({})).await, (Exit::Code(0), Some(true)));
    // SIGTERM to a worker is the same: it finishes, then leaves.
    assert_eq!(end_after("SIGTERM", json!({})).await, (Exit::Code(0), Some(true)));
}

async fn kills_itself() {
    assert_eq!(end_after("kill", json!({})).await, (Exit::Code(0), Some(true)));
}

async fn is_killed() {
    assert_eq!(end_after("SIGKILL", json!({})).await, (Exit::Signal(9), Some(false)));
}

async fn exits_with_a_code() {
    assert_eq!(end_after("exit", json!({ "code": 3 })).await, (Exit::Code(3), Some(false)));
}

async fn the_channel_closes_but_the_process_lives() {
    let mut options = manual();
    options.spec.workers = 1;
    options.spec.grace = Some(Duration::from_millis(300));
    let primary = Primary::start(options).expect("started");
    let mut events = primary.events();
    let worker = next(&mut events, "a worker", |e| match e {
        Event::Online(worker) => Some(worker),
        _ => None,
    })
    .await;
    worker.send(&json!({ "do": "close_channel" })).await.expect("sent");
    next(&mut events, "the disconnect", |e| matches!(e, Event::Disconnect(_)).then_some(())).await;
    assert!(!worker.is_connected());
    assert!(worker.send(&1).await.is_err(), "nothing can be sent any more");
    let exit = next(&mut events, "the exit", |e| match e {
        Event::Exit(w, exit) if w == worker => Some(exit),
        _ => None,
    })
    .await;
    assert_eq!(exit, Exit::Signal(9), "killed when the grace was over");
    primary.stop().await;
}

async fn settings_reach_the_worker() {
    let place = tempfile::tempdir().expect("a directory");
    let mut settings = manual().settings;
    settings.cwd = Some(place.path().to_owned());
    settings.args = vec!["--one".into(), "two three".into()];
    settings.env.push(("COLOUR".into(), "green".into()));
    if rustix::process::getuid().is_root() {
        settings.uid = Some(65534);
        settings.gid = Some(65534);
    }
    let primary =
        Primary::start(Options { settings: Settings::default(), ..manual() }).expect("started");
    primary.setup(settings.clone());
    let handle = primary.fork_with([("SHAPE", "round")]).await.expect("forked");
    let mut worker = Controlled::of(handle);
    let facts = worker.ask("facts", json!({})).await.expect("facts");
    assert_eq!(facts["args"], json!(["--one", "two three"]));
    let real = place.path().canonicalize().expect("a path");
    assert_eq!(facts["cwd"], json!(real));
    assert_eq!((&facts["is_worker"], &facts["is_primary"]), (&json!(true), &json!(false)));
    assert_eq!(facts["uid"], json!(settings.uid.unwrap_or(rustix::process::getuid().as_raw())));
    for (name, value) in [("COLOUR", "green"), ("SHAPE", "round"), ("NODE_APP_INSTANCE", "0")] {
        let told = worker.ask("env", json!({ "name": name })).await.expect("told");
        assert_eq!(told, json!(value), "{name}");
    }
    let inherited = worker.ask("childs_env", json!({})).await.expect("told");
    let inherited = inherited.as_str().expect("text");
    assert!(inherited.contains("COLOUR=green"));
    assert!(
        !inherited.contains("NODE_UNIQUE_ID") && !inherited.contains("NODE_CHANNEL"),
        "{inherited}"
    );
    assert_eq!(primary.settings().args, settings.args);
    primary.stop().await;
}

async fn output_is_piped() {
    let mut options = manual();
    options.settings.stdio = Stdio::Piped;
    let primary = Primary::start(options).expect("started");
    let mut worker = Controlled::fork(&primary).await;
    let mut out = worker.handle.take_stdout().expect("its output");
    let mut err = worker.handle.take_stderr().expect("its errors");
    assert!(worker.handle.take_stdout().is_none(), "only once");
    worker.ask("print", json!({})).await.expect("printed");
    primary.stop().await;
    let (mut said, mut warned) = (String::new(), String::new());
    out.read_to_string(&mut said).await.expect("read");
    err.read_to_string(&mut warned).await.expect("read");
    assert_eq!((said.as_str(), warned.as_str()), ("on stdout\n", "on stderr\n"));
}

async fn a_program_that_does_not_exist() {
    let mut options = manual();
    options.settings.exec = Some("/no/such/program".into());
    let primary = Primary::start(options.clone()).expect("started");
    let error = primary.fork().await.expect_err("not forked");
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    primary.stop().await;
    // Guarded, it is not tried for ever.
    options.spec.workers = 2;
    let primary = Primary::start(options).expect("started");
    let error = primary.finished().await.expect_err("never ready");
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}

async fn numbers_are_never_used_twice() {
    let primary = Primary::start(manual()).expect("started");
    for id in 1..=3 {
        let mut worker = Controlled::fork(&primary).await;
        assert_eq!(
            (worker.handle.id().0, worker.handle.slot().0),
            (id, 0),
            "the slot is used again"
        );
        worker.handle.kill(Signal::KILL).expect("killed");
        worker.next("the exit", |e| matches!(e, Event::Exit(..)).then_some(())).await;
    }
    primary.stop().await;
}

async fn stopping_waits_for_all() {
    let options = crate::support::serving("http", 3, Policy::default(), &free_address());
    let primary = Primary::start(options).expect("started");
    settled(&primary, 3).await;
    let pids: Vec<u32> =
        primary.status().await.expect("a status").workers.iter().filter_map(|w| w.pid).collect();
    assert_eq!(pids.len(), 3);
    primary.stop().await;
    assert!(pids.iter().all(|pid| !bench::process::is_alive(*pid)), "{pids:?} are gone");
    assert!(primary.fork().await.is_err(), "and nothing starts again");
    assert!(primary.reload().await.is_err());
}

async fn dropping_the_primary_stops_it() {
    let primary = Primary::start(manual()).expect("started");
    let Controlled { handle, mut events, .. } = Controlled::fork(&primary).await;
    let pid = handle.pid();
    drop((primary, handle));
    while tokio::time::timeout(PATIENCE, events.next()).await.expect("in time").is_some() {}
    assert!(!bench::process::is_alive(pid), "{pid} is gone");
}

async fn a_worker_alone() {
    let worker = phalanx::Worker::connect_or_alone().expect("alone");
    assert_eq!((worker.id(), worker.is_connected(), phalanx::is_primary()), (0, false, true));
    let mut listener = worker.listen("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("an address");
    let client = tokio::net::TcpStream::connect(address);
    let (accepted, client) = tokio::join!(listener.accept(), client);
    assert!(accepted.is_some() && client.is_ok());
    assert!(worker.send(&1).await.is_err(), "there is nobody to send to");
    assert!(phalanx::Worker::connect().is_err());
}
