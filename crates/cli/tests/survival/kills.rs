//! The primary is killed under load, again and again.

use crate::kept::Kept;
use bench::load::Phase;
use bench::process;
use std::time::Duration;

/// So often it is killed.
const KILLS: u32 = 20;
/// A new primary has taken over by then.
const WITHIN: Duration = Duration::from_secs(1);

/// The workers before are the workers after, no request fails, and each new primary is there in time.
fn bears_kills(cluster: Kept, workers: usize) {
    let before = cluster.wait_workers(workers);
    let loads = cluster.loads();
    let mut slowest = Duration::ZERO;
    for _ in 0..KILLS {
        cluster.wait_load(loads.iter().map(|(_, load)| load));
        slowest = slowest.max(cluster.kill_primary());
    }
    cluster.wait_load(loads.iter().map(|(_, load)| load));
    for (name, load) in loads {
        cluster.assert_lossless(name, &load.stop());
    }
    eprintln!("{KILLS} kills; the slowest takeover was complete after {slowest:.1?}");
    assert!(slowest < WITHIN, "a new primary took {slowest:.1?}");
    assert_eq!(cluster.wait_workers(workers), before, "no worker was replaced");
    cluster.stop();
}

#[test]
fn node_workers_bear_twenty_kills_of_their_primary() {
    bears_kills(Kept::node(3, &["--policy", "direct"]), 3);
}

#[test]
fn crate_workers_bear_twenty_kills_of_their_primary() {
    bears_kills(Kept::demo(3, &["--policy", "direct"]), 3);
}

#[test]
fn workers_that_know_nothing_bear_twenty_kills_of_the_primary() {
    bears_kills(Kept::python(3, &["--policy", "direct"]), 3);
}

#[test]
fn workers_on_one_shared_socket_bear_kills_of_their_primary() {
    bears_kills(Kept::node(2, &["--policy", "shared"]), 2);
}

/// In `round-robin` the primary accepts: what it holds at its death is lost, and nothing else. No connection is refused, and
/// those that workers have go on.
#[test]
fn a_primary_that_accepts_itself_takes_only_what_it_held() {
    let cluster = Kept::node(3, &["--policy", "round-robin"]);
    let before = cluster.wait_workers(3);
    let loads = cluster.loads();
    for _ in 0..KILLS {
        cluster.wait_load(loads.iter().map(|(_, load)| load));
        cluster.kill_primary();
    }
    cluster.wait_load(loads.iter().map(|(_, load)| load));
    for (name, load) in loads {
        let outcome = load.stop();
        eprintln!("{name}: {outcome}");
        assert_eq!(outcome.failures(Phase::Connect), 0, "{outcome}");
        // At most one connection of each client is on its way.
        assert!(outcome.failed <= u64::from(KILLS) * 6, "{outcome}");
        for failure in &outcome.errors {
            assert_eq!(failure.request_on_connection, 1, "a worker had it: {failure}");
        }
    }
    assert_eq!(cluster.wait_workers(3), before, "no worker was replaced");
    for pid in [cluster.keeper(), cluster.primary()] {
        assert!(process::is_alive(pid));
    }
    cluster.stop();
}
