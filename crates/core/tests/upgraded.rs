//! How long workers that leave are waited for, for the sake of connections that speak another protocol by now.
#![allow(clippy::unwrap_used)]

use core::time::Duration;
use phalanx_core::cluster::{Action, Cluster, Event};
use phalanx_core::report::Report;
use phalanx_core::spec::Spec;
use phalanx_core::time::Time;
use phalanx_core::worker::WorkerId;

const HOUR: Option<Duration> = Some(Duration::from_secs(3600));
const OLD: WorkerId = WorkerId(1);

fn at(seconds: u64) -> Time {
    Time::new(Duration::from_secs(seconds))
}

/// One worker of two generations: the old one drains since second 10, with a grace time of 30 s.
fn reloaded() -> Cluster {
    let mut cluster = Cluster::new(Spec { workers: 1, ..Spec::default() });
    for (second, worker) in [(0, OLD), (10, WorkerId(2))] {
        assert!(cluster.plan(at(second)).iter().any(|a| matches!(a, Action::Fork { .. })));
        cluster.observe(at(second), Event::Forked { worker, pid: 100 + worker.0 });
        cluster.observe(at(second), Event::Online { worker });
        cluster.observe(at(second), Event::Listening { worker });
        let _ = cluster.plan(at(second));
        if worker == OLD {
            cluster.observe(at(10), Event::Reload);
        }
    }
    cluster
}

fn upgraded(cluster: &mut Cluster, second: u64, count: u32, grace: Option<Duration>) {
    cluster.observe(at(second), Event::Upgraded { worker: OLD, count, grace });
}

/// When the old one is sent SIGTERM, and of how many connections it is said that they are cut.
fn terminated(cluster: &mut Cluster) -> (u64, u32) {
    let mut cut = 0;
    for _ in 0..10 {
        let now = cluster.wake().expect("it is not waited for ever");
        for action in cluster.plan(now) {
            match action {
                Action::Report(Report::Cut { worker: OLD, connections, .. }) => cut = connections,
                Action::Terminate { worker: OLD } => return (now.since_start().as_secs(), cut),
                _ => {}
            }
        }
    }
    panic!("it is never ended");
}

#[test]
fn without_any_it_has_the_usual_time() {
    assert_eq!(terminated(&mut reloaded()), (40, 0));
    let mut cluster = reloaded();
    upgraded(&mut cluster, 11, 0, HOUR);
    assert_eq!(terminated(&mut cluster), (40, 0));
}

#[test]
fn with_some_it_has_theirs_and_they_are_counted() {
    let mut cluster = reloaded();
    upgraded(&mut cluster, 11, 3, HOUR);
    upgraded(&mut cluster, 500, 2, HOUR);
    assert_eq!(terminated(&mut cluster), (3610, 2));
}

#[test]
fn less_than_the_usual_time_is_the_usual_time() {
    let mut cluster = reloaded();
    upgraded(&mut cluster, 11, 3, Some(Duration::from_secs(1)));
    assert_eq!(terminated(&mut cluster), (40, 3));
}

#[test]
fn without_a_limit_it_goes_on_until_the_last_one_ends() {
    let mut cluster = reloaded();
    upgraded(&mut cluster, 11, 1, None);
    // Woken for the reload's receipt, and for nothing else.
    assert_eq!(
        cluster.plan(at(8_999)).iter().filter(|a| !matches!(a, Action::Report(_))).count(),
        0
    );
    upgraded(&mut cluster, 9_000, 0, None);
    assert_eq!(terminated(&mut cluster), (9_010, 0));
}

#[test]
fn when_all_stop_nobody_has_more_time_than_others() {
    for grace in [HOUR, None] {
        let mut cluster = reloaded();
        upgraded(&mut cluster, 11, 1, grace);
        cluster.observe(at(100), Event::Stop);
        let _ = cluster.plan(at(100));
        upgraded(&mut cluster, 101, 2, grace);
        // The newer one has as long.
        assert_eq!(terminated(&mut cluster), (130, 2), "{grace:?}");
    }
}

#[test]
fn whom_nobody_times_is_not_timed_for_it() {
    let mut cluster = Cluster::new(Spec { workers: 0, ..Spec::default() });
    let worker = cluster.fork().unwrap();
    assert_eq!(worker, OLD);
    let _ = cluster.plan(at(0));
    cluster.observe(at(0), Event::Forked { worker, pid: 1 });
    cluster.observe(at(0), Event::Online { worker });
    cluster.observe(at(0), Event::Listening { worker });
    cluster.observe(at(1), Event::Disconnect { worker });
    let _ = cluster.plan(at(1));
    upgraded(&mut cluster, 2, 1, HOUR);
    assert_eq!(cluster.wake(), None);
}
