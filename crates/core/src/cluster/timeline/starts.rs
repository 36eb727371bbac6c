//! Timelines of starts: so many at a time, and slowly.

use super::*;

fn two_at_a_time(workers: usize) -> Spec {
    Spec { starts_at_once: 2, ..rules(workers) }
}

#[test]
fn two_start_at_a_time() {
    story(
        two_at_a_time(5),
        "
        t=0      fork 0#1, 1#2
        t=100    ready 1#2
                 fork 2#3
        t=200    ready 0#1, 2#3
                 fork 3#4, 4#5
        t=300    ready 3#4, 4#5
        t=400    scale 8
                 fork 5#6, 6#7
        t=500    exit 0#1 SIGSEGV
        t=510    ready 5#6
                 fork 0#8
        t=520    ready 0#8
                 fork 7#9
        t=530    ready 6#7, 7#9
        t=531    look
                 = 1#2 ready, 2#3 ready, 3#4 ready, 4#5 ready, 5#6 ready, 6#7 ready, 0#8 ready, 7#9 ready; 8 wanted, settled
        ",
    );
}

/// One that hangs does not hold the others up for ever.
#[test]
fn who_takes_too_long_makes_room() {
    story(
        Spec { start_timeout: None, starts_at_once: 1, ..rules(2) },
        "
        t=0      fork 0#1
        t=30000  fork 1#2
        t=30010  ready 1#2
        t=30020  look
                 = 0#1 starting, 1#2 ready; 2 wanted, not settled
        ",
    );
}

/// A slot that waits for its turn and is not wanted any more is forgotten.
#[test]
fn who_waits_for_its_turn_may_be_scaled_away() {
    story(
        Spec { starts_at_once: 1, ..rules(3) },
        "
        t=0      fork 0#1
        t=10     scale 1
        t=100    ready 0#1
        t=9000   look
                 = 0#1 ready; 1 wanted, settled
        ",
    );
}

/// A slot that has nobody goes before the next one of a reload.
#[test]
fn a_reload_takes_its_turn() {
    story(
        Spec { starts_at_once: 1, ..rules(2) },
        "
        t=0      fork 0#1
        t=10     ready 0#1
                 fork 1#2
        t=20     ready 1#2
        t=200    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=210    exit 1#2 code 1
        t=300    ready 0#3
                 tell 0#1
                 fork 1#4
        t=310    ready 1#4
                 done: reload 1, 1 replaced in 110ms
        ",
    );
}

#[test]
fn a_slow_start() {
    story(
        Spec { slow_start: Some(Duration::from_secs(8)), ..rules(2) },
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=11     weights
                 = 0#1 8, 1#2 8
        t=20000  weights
                 = 0#1 64, 1#2 64
        t=20001  exit 1#2 code 1
                 fork 1#3
        t=20010  ready 1#3
        t=20011  weights
                 = 0#1 64, 1#3 8
        t=23010  weights
                 = 0#1 64, 1#3 32
        t=27010  weights
                 = 0#1 64, 1#3 64
        ",
    );
}

/// Whoever waits is told when a weight changes, and after the last time no more.
#[test]
fn wakes_of_a_slow_start() {
    let at = Time::from_millis;
    let mut cluster = Cluster::new(Spec { slow_start: Some(Duration::from_secs(8)), ..rules(1) });
    let worker = WorkerId(1);
    let mut wakes = Vec::new();
    let _ = cluster.plan(at(0));
    for event in [Event::Forked { worker, pid: 7 }, Event::Listening { worker }] {
        cluster.observe(at(10), event);
    }
    let _ = cluster.plan(at(10));
    while let Some(wake) = cluster.wake() {
        wakes.push(wake.since_start().as_millis());
        let _ = cluster.plan(wake);
    }
    assert_eq!(wakes, [1010, 2010, 3010, 4010, 5010, 6010, 7010]);
}

/// It may be the only one that can be: it is waited for as long as for every start.
#[test]
fn one_that_is_only_slow_is_waited_for() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     exit 0#1 code 1
                 fork 0#3
        t=120    exit 0#3 code 1
                 slot 0 waits 100ms, 2 crashes
        t=220    fork 0#4
        t=340    exit 0#4 code 1
                 slot 0 waits 200ms, 3 crashes
        t=540    fork 0#5
        t=800    exit 0#5 code 1
                 CRASH LOOP in slot 0, 4 crashes, again every 5s
        t=2900   ready 1#2
        t=2901   look
                 = 1#2 ready, slot 0 waits until 5800 (4 crashes); 2 wanted, not settled
        ",
    );
}

#[test]
fn one_that_is_too_slow_is_not_waited_for() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     exit 0#1 code 1
                 fork 0#3
        t=120    exit 0#3 code 1
                 slot 0 waits 100ms, 2 crashes
        t=220    fork 0#4
        t=340    exit 0#4 code 1
                 slot 0 waits 200ms, 3 crashes
        t=540    fork 0#5
        t=800    exit 0#5 code 1
                 CRASH LOOP in slot 0, 4 crashes, again every 5s
        t=3000   1#2 not ready after 3s
                 kill 1#2
                 NEVER READY: it was not ready within 3.0s
        t=3001   exit 1#2 SIGKILL
                 gone 1#2 (start time-out)
                 STOPPED
        ",
    );
}
