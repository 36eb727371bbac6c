//! Reloads under load.

use crate::roles::ROLE;
use crate::support::{PATIENCE, free_address, next, serving, settled};
use crate::trials;
use bench::load::Load;
use phalanx::{Event, Policy, Primary, ReadyWhen, Report};
use std::time::Duration;

trials!(
    no_error_in_direct,
    no_error_in_round_robin,
    no_error_in_shared,
    axum_that_knows_nothing,
    a_broken_new_version_leaves_the_old_one,
    a_new_version_that_never_listens,
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
    assert!(outcome.failed == 0 && outcome.answered > 50, "{outcome}");
    primary.stop().await;
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
    let _: ReadyWhen = ReadyWhen::Listening;
    broken("silent", Duration::from_millis(500), "not ready within").await;
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
            assert!(outcome.failed == 0 && outcome.answered > 50, "{policy}: {outcome}");
        }
        assert!(primary.scale(0).is_err() && primary.scale(100_000).is_err());
        primary.stop().await;
    }
}
