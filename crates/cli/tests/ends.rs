//! Why a worker ended: one record for each, with its last words.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use common::LONG;
use phalanx::core::worker::Leave;
use phalanx::ends::{Cause, Words};
use phalanx::{
    EndRecord, Event, Events, Exit, Limits, Options, Primary, ReadyWhen, Settings, Signal, Spec,
    Stdio,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// One worker: Python that runs these lines, ready when it is online.
fn start(lines: &str, stdio: Stdio, limits: Limits) -> (Primary, Events) {
    let settings = Settings {
        exec: Some("python3".into()),
        args: vec!["-uc".into(), lines.into()],
        knows: phalanx::Knows::Nothing,
        stdio,
        ..Settings::default()
    };
    let spec = Spec { ready: ReadyWhen::Online, ..Spec::default() };
    let options =
        Options { spec: Spec { workers: 0, ..spec }, settings, limits, ..Options::default() };
    let primary = Primary::start(options).unwrap();
    let events = primary.events();
    (primary, events)
}

async fn ended(events: &mut Events) -> Arc<EndRecord> {
    let waiting = async {
        loop {
            match events.next().await {
                Some(Event::Ended(record)) => return record,
                Some(_) => {}
                None => panic!("the cluster has stopped"),
            }
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("an end in time")
}

#[tokio::test]
async fn a_crash_with_its_last_words() {
    let lines = "import sys\nfor n in range(200): print('line', n)\nprint('no end', end='')\nsys.exit('wrong')";
    let (primary, mut events) = start(lines, Stdio::Piped, Limits::default());
    let worker = primary.fork().await.unwrap();
    // Whoever takes the stream gets all of it.
    let mut stdout = worker.take_stdout().unwrap();
    let mut all = String::new();
    stdout.read_to_string(&mut all).await.unwrap();
    assert_eq!(all.lines().count(), 201, "{all}");
    let end = ended(&mut events).await;
    assert_eq!((end.worker, end.slot, end.pid), (worker.id(), worker.slot(), Some(worker.pid())));
    assert_eq!((end.exit, &end.cause), (Some(Exit::Code(1)), &Cause::Crashed));
    assert!(end.ended >= end.started && end.program.starts_with("python3 -uc"), "{end:?}");
    let Words::Lines(stdout) = &end.stdout else { panic!("{end:?}") };
    assert_eq!((stdout.len(), stdout.last().map(String::as_str)), (50, Some("no end")));
    assert_eq!(end.stderr, Words::Lines(vec!["wrong".into()]));
    let text = end.to_string();
    assert!(text.contains("crashed (code 1)") && text.contains("    wrong"), "{text}");
    assert_eq!(primary.ends(), [EndRecord::clone(&end)]);
    primary.stop().await;
    assert_eq!(primary.ends().len(), 1, "kept when all is over");
}

#[tokio::test]
async fn one_that_nobody_listens_to() {
    // More than pipes hold is waited for; this is less.
    let (primary, mut events) =
        start("print('on')\nraise SystemExit(0)", Stdio::Piped, Limits::default());
    primary.fork().await.unwrap();
    let end = ended(&mut events).await;
    assert_eq!((&end.cause, &end.stdout), (&Cause::Finished, &Words::Lines(vec!["on".into()])));
    primary.stop().await;
}

#[tokio::test]
async fn the_last_end_of_a_cluster_is_told_too() {
    let lines = "import time\nprint('on')\ntime.sleep(60)";
    let (primary, mut events) = start(lines, Stdio::Piped, Limits::default());
    let worker = primary.fork().await.unwrap();
    let mut stdout = worker.take_stdout().unwrap();
    let mut bytes = [0; 3];
    stdout.read_exact(&mut bytes).await.unwrap();
    primary.stop_now().await;
    let end = ended(&mut events).await;
    assert_eq!((&end.cause, end.exit), (&Cause::Told(Leave::Stop), Some(Exit::Signal(9))));
    assert_eq!(end.stdout, Words::Lines(vec!["on".into()]));
}

#[tokio::test]
async fn a_kill_from_outside_and_streams_that_are_not_ours() {
    let (primary, mut events) =
        start("import time\ntime.sleep(60)", Stdio::Null, Limits::default());
    let worker = primary.fork().await.unwrap();
    worker.kill(Signal::KILL).unwrap();
    let end = ended(&mut events).await;
    assert_eq!((&end.cause, end.exit), (&Cause::Crashed, Some(Exit::Signal(9))));
    assert_eq!((&end.stdout, &end.stderr), (&Words::NotCaptured, &Words::NotCaptured));
    assert!(end.to_string().contains("not captured"), "{end}");
    primary.stop().await;
}

#[tokio::test]
async fn far_too_much_memory() {
    let lines = "import time\ntime.sleep(1)\nx = b'1' * (200 << 20)\ntime.sleep(60)";
    let limits = Limits { hard_memory: Some(100 << 20), ..Limits::default() };
    let (primary, mut events) = start(lines, Stdio::Null, limits);
    primary.fork().await.unwrap();
    let end = ended(&mut events).await;
    assert_eq!(
        (&end.cause, end.exit),
        (&Cause::Told(Leave::Memory), Some(Exit::Signal(9))),
        "{end}"
    );
    let most = end.curve.points().map(|point| point.memory).max();
    assert!(most > Some(100 << 20) && end.curve.points().count() >= 2, "{end}");
    assert!(end.detail.as_ref().is_some_and(|d| d.contains("may have 100 MB")), "{end}");
    primary.stop().await;
}

#[tokio::test]
async fn one_that_cannot_be_started() {
    let settings = Settings { exec: Some("/no/such/program".into()), ..Settings::default() };
    let primary = Primary::start(Options { settings, ..Options::default() }).unwrap();
    let mut events = primary.events();
    primary.fork().await.unwrap_err();
    let end = ended(&mut events).await;
    assert!(
        matches!(&end.cause, Cause::NotStarted(why) if why.contains("/no/such/program")),
        "{end}"
    );
    assert_eq!(end.pid, None);
    primary.stop().await;
}

#[tokio::test]
async fn how_workers_are_can_be_asked() {
    let lines = "import time\nx = b'1' * (50 << 20)\nprint('on')\nwhile True: pass";
    let (primary, _events) = start(lines, Stdio::Piped, Limits::default());
    let worker = primary.fork().await.unwrap();
    let mut bytes = [0; 3];
    worker.take_stdout().unwrap().read_exact(&mut bytes).await.unwrap();
    primary.status().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = primary.status().await.unwrap();
    let [one] = &status.workers[..] else { panic!("{status:?}") };
    assert!(one.memory > Some(50 << 20) && one.memory < Some(100 << 20), "{one:?}");
    assert!(one.cpu > Some(0.1) && one.threads == Some(1) && one.descriptors >= Some(3), "{one:?}");
    assert_eq!(one.restarts, 0);
    primary.stop_now().await;
}
