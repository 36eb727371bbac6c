//! Kills at the worst moments.

use crate::adopted::{obedient, tell};
use crate::common::{LONG, POLICIES, signal, stop_process};
use crate::kept::{Kept, TOOK_OVER, ask};
use bench::process;
use bench::spawned::Signal;
use bench::wait;
use std::time::{Duration, Instant};

/// Kills whoever is the primary now, at once.
fn kill_now(cluster: &Kept) {
    signal(cluster.primary(), Signal::KILL);
}

#[test]
fn while_workers_start() {
    for pause in [0, 5, 20, 60, 150] {
        let cluster = obedient(3, &[], &[]);
        let mark = cluster.process.mark();
        for (_, pid) in cluster.wait_workers(3) {
            signal(pid, Signal::KILL);
        }
        cluster.line(mark, "ended unasked");
        std::thread::sleep(Duration::from_millis(pause));
        kill_now(&cluster);
        cluster.line(mark, TOOK_OVER);
        cluster.assert_settled(3);
        cluster.stop();
    }
}

/// Waits until there is one worker in each slot that is none of these.
fn wait_new(cluster: &Kept, old: &[(u32, u32)], count: usize) {
    let mut last = Vec::new();
    let settled = wait::until(LONG, "one worker in each slot", || {
        last = cluster.workers();
        let slots = last.iter().map(|(slot, _)| *slot);
        slots.eq(0..u32::try_from(count).ok()?).then_some(())
    });
    settled.unwrap_or_else(|error| cluster.fail(&format!("{error}: {last:?}, before {old:?}")));
}

#[test]
fn during_a_reload() {
    for kind in ["node", "python"] {
        let cluster = match kind {
            "node" => Kept::node(3, &[]),
            _ => Kept::python(3, &["--drain-idle", "100ms"]),
        };
        let load = cluster.one_per_request();
        for pause in [10, 80, 200, 400] {
            cluster.wait_load([&load]);
            let before = cluster.wait_workers(3);
            let mark = cluster.process.mark();
            signal(cluster.keeper(), Signal::USR2);
            cluster.line(mark, "rolling reload");
            std::thread::sleep(Duration::from_millis(pause));
            kill_now(&cluster);
            cluster.line(mark, TOOK_OVER);
            wait_new(&cluster, &before, 3);
        }
        // Nothing is left of it: another one is complete.
        let before = cluster.wait_workers(3);
        cluster.reload();
        let after = cluster.assert_settled(3);
        assert!(after.iter().all(|worker| !before.contains(worker)), "{after:?}");
        cluster.assert_lossless(kind, &load.stop());
        cluster.stop();
    }
}

#[test]
fn during_a_stop() {
    for pause in [0, 2, 10, 30, 60, 100] {
        let cluster = obedient(2, &[], &[]);
        let mark = cluster.process.mark();
        let primary = cluster.primary();
        signal(cluster.keeper(), Signal::TERM);
        if pause > 0 {
            cluster.line(mark, "draining, then stopping");
            std::thread::sleep(Duration::from_millis(pause));
        }
        // It may have ended in order by now.
        let _ = rustix::process::Pid::from_raw(primary.cast_signed())
            .map(|pid| rustix::process::kill_process(pid, Signal::KILL));
        cluster.wait_end(0);
        cluster.assert_nothing_left();
    }
}

#[test]
fn twice_and_ten_times() {
    let cluster = Kept::node(2, &[]);
    let before = cluster.wait_workers(2);
    let load = cluster.one_per_request();
    cluster.wait_load([&load]);
    let mark = cluster.process.mark();
    // The second one has hardly begun.
    let first = cluster.primary();
    signal(first, Signal::KILL);
    let second = cluster.until("the next one", || cluster.find_primary().filter(|p| *p != first));
    signal(second, Signal::KILL);
    cluster.line(mark, TOOK_OVER);
    cluster.wait_load([&load]);
    let begin = Instant::now();
    let mut kills = 0;
    while begin.elapsed() < Duration::from_secs(2) {
        if let Some(primary) = cluster.find_primary() {
            signal(primary, Signal::KILL);
            kills += 1;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("{kills} primaries were killed in 2 s");
    assert!(kills >= 3, "only {kills}: they do not come back fast");
    let mark = cluster.process.mark();
    cluster.line(mark, TOOK_OVER);
    cluster.wait_load([&load]);
    assert_eq!(cluster.wait_workers(2), before);
    cluster.assert_lossless("a storm of kills", &load.stop());
    cluster.stop();
}

#[test]
fn a_primary_that_stands_still() {
    let cluster = Kept::node(2, &["--policy", "direct"]);
    let before = cluster.wait_workers(2);
    let load = cluster.one_per_request();
    let primary = cluster.primary();
    stop_process(primary);
    // In `direct` it is not needed.
    cluster.wait_load([&load]);
    cluster.wait_load([&load]);
    cluster.kill_primary();
    cluster.wait_load([&load]);
    cluster.assert_lossless("while it stood still", &load.stop());
    assert_eq!(cluster.wait_workers(2), before);
    cluster.stop();
}

#[test]
fn a_keeper_that_stands_still() {
    let cluster = obedient(2, &[], &[]);
    let load = cluster.one_per_request();
    stop_process(cluster.keeper());
    let primary = cluster.primary();
    // The primary has much to tell it, and does not wait.
    for _ in 0..3 {
        let before = cluster.wait_workers(2);
        let mark = cluster.process.mark();
        signal(primary, Signal::USR2);
        cluster.line(mark, " is done");
        let after = cluster.assert_settled(2);
        assert!(after.iter().all(|worker| !before.contains(worker)), "{after:?}");
    }
    cluster.wait_load([&load]);
    let before = cluster.wait_workers(2);
    signal(cluster.keeper(), Signal::CONT);
    // The keeper is told what is new within a moment.
    let kept = process::open_descriptors(cluster.keeper()).unwrap();
    cluster.kill_primary();
    cluster.wait_load([&load]);
    assert_eq!(cluster.wait_workers(2), before, "the keeper had {kept} descriptors");
    cluster.assert_lossless("all the time", &load.stop());
    cluster.stop();
}

#[test]
fn the_keeper_is_replaced() {
    for policy in POLICIES {
        let cluster = Kept::node(2, &["--policy", policy]);
        let before = cluster.wait_workers(2);
        let loads = cluster.loads();
        for _ in 0..5 {
            cluster.wait_load(loads.iter().map(|(_, load)| load));
            let took = cluster.kill_keeper();
            assert!(took < Duration::from_secs(3), "it took {took:.1?}");
        }
        for (name, load) in loads {
            cluster.assert_lossless(&format!("{policy}: {name}"), &load.stop());
        }
        assert_eq!(cluster.wait_workers(2), before);
        cluster.stop();
    }
}

#[test]
fn the_keeper_is_killed_during_a_reload() {
    let cluster = Kept::node(3, &[]);
    let load = cluster.one_per_request();
    for pause in [10, 100, 250] {
        cluster.wait_load([&load]);
        let before = cluster.wait_workers(3);
        let mark = cluster.process.mark();
        signal(cluster.keeper(), Signal::USR2);
        cluster.line(mark, "rolling reload");
        std::thread::sleep(Duration::from_millis(pause));
        cluster.kill_keeper();
        wait_new(&cluster, &before, 3);
    }
    cluster.reload();
    cluster.assert_settled(3);
    cluster.assert_lossless("reloads", &load.stop());
    cluster.stop();
}

#[test]
fn both_are_killed() {
    for kind in ["node", "crate"] {
        let cluster = if kind == "node" { Kept::node(2, &[]) } else { Kept::demo(2, &[]) };
        cluster.kill_primary();
        // One that the last primary forked, and one of this one.
        let old = cluster.wait_workers(2);
        signal(old[0].1, Signal::KILL);
        cluster
            .until("another one", || Some(cluster.workers()).filter(|w| w.len() == 2 && *w != old));
        cluster.wait_answers(2);
        let (keeper, primary) = (cluster.keeper(), cluster.primary());
        // Neither can replace the other.
        stop_process(keeper);
        stop_process(primary);
        signal(primary, Signal::KILL);
        signal(keeper, Signal::KILL);
        cluster.assert_nothing_left();
        let words = ["demo", "--listen", &cluster.address.to_string(), "-i", "1"];
        let next = Kept::start_on(crate::common::PHALANX, cluster.address, &words, 1);
        signal(next.keeper(), Signal::TERM);
        next.wait_end(0);
    }
}

/// A worker whose primary began to give it something and died serves on, or is replaced; nobody waits for ever.
#[test]
fn at_random_moments() {
    let cluster = obedient(2, &["--policy", "direct"], &[]);
    for round in 0..20_u64 {
        for path in ["/say?x", "/much", "/flood?20"] {
            assert!(tell(cluster.address, path).is_some());
        }
        std::thread::sleep(Duration::from_micros(round * 431 % 9_000));
        let mark = cluster.process.mark();
        signal(if round % 3 == 0 { cluster.keeper() } else { cluster.primary() }, Signal::USR1);
        kill_now(&cluster);
        cluster.line(mark, TOOK_OVER);
    }
    cluster.assert_settled(2);
    assert!(ask(cluster.address, LONG).is_some());
    cluster.stop();
}
