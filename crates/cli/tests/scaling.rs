//! The number of workers changes, by hand or by the load, and no client notices.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use bench::load::{Load, Running};
use common::{Cluster, LONG, assert_lossless, phalanx, spawn, v4};
use phalanx::scaling::{Scaling, Signal};
use phalanx::{Error, Event, Events, Options, Policy, Primary, Program, Report, Settings, Spec};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guard").join(name)
}

/// A program of `tests/guard` on a port.
fn settings(name: &str, address: SocketAddr) -> Settings {
    let mut settings = Program::new(program(name)).settings().unwrap();
    settings.env.push(("PORT".into(), address.port().to_string().into()));
    settings
}

fn load(address: SocketAddr, path: &str, clients: usize) -> Running {
    let load = Load::new(address).clients(clients).think(Duration::from_millis(5)).path(path);
    load.duration(Duration::from_secs(120)).start().unwrap()
}

/// Waits for something that is reported.
async fn report(events: &mut Events, what: impl Fn(&Report) -> bool) -> Report {
    let waiting = async {
        loop {
            match events.next().await {
                Some(Event::Report(report)) if what(&report) => return report,
                Some(_) => {}
                None => panic!("the cluster has stopped"),
            }
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("it is reported in time")
}

/// Waits until so many workers serve, and no other is there.
async fn settled(primary: &Primary, workers: usize) {
    let waiting = async {
        loop {
            let status = primary.status().await.unwrap();
            let serve =
                status.workers.iter().filter(|w| w.state == phalanx::WorkerState::Listening);
            if serve.count() == workers && status.workers.len() == workers {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(2 * LONG, waiting).await;
    if waited.is_err() {
        panic!("not {workers} workers: {:?}", primary.status().await.unwrap());
    }
}

async fn up_and_down(name: &str, policy: Policy) {
    let address = v4();
    let options = Options { settings: settings(name, address), policy, ..Options::default() };
    let primary = Primary::start(options).unwrap();
    primary.scale(8).unwrap();
    settled(&primary, 8).await;
    let load = load(address, "/", 6);
    for workers in [2, 8, 2, 8, 2] {
        let before = load.progress().answered();
        primary.scale(workers).unwrap();
        settled(&primary, workers).await;
        let on = async {
            while load.progress().answered() < before + 50 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LONG, on).await.expect("the load goes on");
    }
    let outcome = tokio::task::spawn_blocking(move || load.stop()).await.unwrap();
    eprintln!("{name}, {policy:?}: {outcome}");
    assert!(outcome.answered > 200 && outcome.failed == 0, "{name}, {policy:?}: {outcome}");
    primary.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_direct() {
    up_and_down("leak.js", Policy::Direct).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_round_robin() {
    up_and_down("leak.js", Policy::RoundRobin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python() {
    // Without a channel there is nothing to hand over: both policies are the same.
    up_and_down("leak.py", Policy::Direct).await;
}

#[test]
fn the_load_decides() {
    let address = v4();
    let program = program("leak.js");
    let args =
        ["run", program.to_str().unwrap(), "--min", "1", "--max", "3", "--scale-target", "20"];
    let more = ["--scale-up-after", "1s", "--scale-down-after", "4s"];
    let mut command = phalanx(args.iter().chain(&more));
    command.env("PORT", address.port().to_string());
    let cluster = Cluster { process: spawn(&mut command), address };
    cluster.wait_serving(1);
    cluster.wait_workers(1);
    // Five milliseconds of work each.
    let load = load(address, "/work", 8);
    let line = cluster.line(0, "scaled from");
    assert!(line.contains("CPU") && line.contains("the target is CPU 20 %"), "{line}");
    cluster.wait_workers(3);
    cluster.wait_serving(3);
    assert_lossless("scaling up", &load.stop(), &cluster.process);
    let quiet = self::load(address, "/", 1);
    cluster.wait_workers(1);
    assert_lossless("scaling down", &quiet.stop(), &cluster.process);
    let output = cluster.process.output();
    assert!(output.contains("to 1 workers"), "{output}");
    cluster.stop();
}

#[tokio::test]
async fn by_hand_until_it_is_left_to_the_load_again() {
    let address = v4();
    let scaling = Scaling {
        min: 1,
        max: 6,
        signal: Signal::Custom,
        target: 10.0,
        up_after: Duration::ZERO,
        down_after: Duration::from_secs(1),
        ..Scaling::default()
    };
    let spec = Spec { workers: 2, ..Spec::default() };
    let settings = settings("leak.js", address);
    let options = Options { settings, spec, scaling: Some(scaling), ..Options::default() };
    let primary = Primary::start(options).unwrap();
    let mut events = primary.events();
    settled(&primary, 2).await;
    primary.scaling_signal(20.0).unwrap();
    let up = report(&mut events, |r| matches!(r, Report::Scaled { .. })).await;
    let Report::Scaled { from: 2, to: 4, why } = &up else { panic!("{up:?}") };
    assert!(why.contains("signal 20"), "{why}");
    primary.scale(5).unwrap();
    let hand = report(&mut events, |r| matches!(r, Report::Scaled { to: 5, .. })).await;
    assert!(hand.to_string().contains("by hand"), "{hand}");
    primary.scaling_signal(0.0).unwrap();
    settled(&primary, 5).await;
    // Two looks later nothing has happened.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(primary.status().await.unwrap().wanted, 5);
    primary.scale_auto().unwrap();
    primary.scaling_signal(0.0).unwrap();
    let down = report(&mut events, |r| matches!(r, Report::Scaled { .. })).await;
    assert!(matches!(down, Report::Scaled { from: 5, to: 3, .. }), "{down:?}");
    primary.stop_now().await;
}

#[tokio::test]
async fn rules_that_make_no_sense_are_refused() {
    for scaling in [
        Scaling { min: 3, max: 2, ..Scaling::default() },
        Scaling { target: f64::NAN, ..Scaling::default() },
    ] {
        let options = Options { scaling: Some(scaling), ..Options::default() };
        let refused = Primary::start(options).unwrap_err();
        assert!(matches!(refused, Error::Setting(_)), "{refused}");
    }
}
