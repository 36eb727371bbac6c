//! Timelines of rolling reloads in odd circumstances.

use super::*;
use crate::limits::{Judge, Limits, Seen};
use crate::spec::{Canary, ReloadRules};

/// One that has ended is started again by the reload; one that ends during it is not.
#[test]
fn with_restarts_off() {
    story(
        restarts_off(3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 0#1, 1#2, 2#3
        t=20     exit 0#1 code 0
                 ended: slot 0 by worker 1, 2 left
        t=100    reload
                 begins: reload 1 of 3
                 fork 1#4, 0#5
        t=110    ready 0#5
        t=115    exit 0#5 code 0
                 ended: slot 0 by worker 5, 2 left
        t=130    ready 1#4
                 tell 1#2
                 fork 2#6
        t=140    ready 2#6
                 tell 2#3
                 done: reload 1, 2 replaced in 40ms
        t=150    exit 1#2 code 0
                 gone 1#2 (reload)
        t=160    exit 2#3 code 0
                 gone 2#3 (reload)
        t=161    look
                 = 1#4 ready, 2#6 ready; 3 wanted, not settled
        ",
    );
}

#[test]
fn without_restarts_and_a_successor_that_crashes() {
    story(
        restarts_off(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=100    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=120    exit 0#2 code 1
                 FAILED: reload 1 in slot 0: it ended before it was ready, with code 1; 0 replaced, 1 kept
        t=9000   look
                 = 0#1 ready; 1 wanted, settled
        t=9010   exit 0#1 code 0
                 ended: slot 0 by worker 1, 0 left
                 STOPPED
        ",
    );
}

/// The slot is not left empty for as long as the successor takes to die.
#[test]
fn in_which_both_workers_of_a_slot_are_lost() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=100    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=110    closed 0#2
        t=200    exit 0#1 SIGSEGV
                 fork 0#3
        t=250    ready 0#3
        t=300    exit 0#2 code 1
                 FAILED: reload 1 in slot 0: it ended before it was ready, with code 1; 0 replaced, 0 kept
        t=301    look
                 = 0#3 ready; 1 wanted, settled
        ",
    );
}

/// One that closed its channel before it was ready is not waited for longer than for its start.
#[test]
fn whose_new_worker_closes_its_channel_and_lives_stops_there() {
    story(
        Spec { grace: None, ..rules(1) },
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=100    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=110    closed 0#2
        t=3100   0#2 still there after 2.99s
                 kill 0#2
        t=3105   exit 0#2 SIGKILL
                 gone 0#2 (channel closed)
                 FAILED: reload 1 in slot 0: it ended before it was ready, with SIGKILL; 0 replaced, 1 kept
        t=3106   look
                 = 0#1 ready; 1 wanted, settled
        ",
    );
}

#[test]
fn does_not_care_about_manual_workers_that_fail() {
    by_hand(
        rules(1),
        "
        t=0      fork 0#1
        t=0      forked 0#1
        t=10     ready 0#1
        t=100    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=110    forked 0#2
        t=120    manual
                 fork 1#3*
        t=121    unforkable 1#3* too many processes
        t=130    manual
                 fork 1#4*
        t=131    forked 1#4*
        t=132    exit 1#4* code 1
        t=140    manual
                 fork 1#5*
        t=141    forked 1#5*
        t=142    broken 1#5*
                 kill 1#5*
        t=143    exit 1#5* SIGKILL
                 gone 1#5 (broken)
        t=150    ready 0#2
                 tell 0#1
                 done: reload 1, 1 replaced in 50ms
        t=160    exit 0#1 code 0
                 gone 0#1 (reload)
        t=161    look
                 = 0#2 ready; 1 wanted, settled
        ",
    );
}

fn trying(workers: usize) -> Spec {
    let canary = Canary { slots: 1, time: Duration::from_secs(2), share: None };
    let reload = ReloadRules { canary: Some(canary), ..ReloadRules::default() };
    Spec { reload, ..rules(workers) }
}

/// The program is not given to everybody because nobody is left who could have shown that it is bad.
#[test]
fn whose_canary_is_scaled_away_has_another_one() {
    story(
        trying(3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 2#3
        t=100    reload
                 begins: reload 1 of 3
                 fork 2#4
        t=200    ready 2#4
                 canary in 1 for 2s
        t=300    ready 0#1, 1#2
        t=1000   scale 2
                 tell 2#3, 2#4
                 fork 0#5
        t=1100   ready 0#5
                 canary in 1 for 2s
        t=1200   exit 2#3 code 0
                 gone 2#3 (scale)
        t=1210   exit 2#4 code 0
                 gone 2#4 (scale)
        t=2500   look
                 = 0#1 ready, 1#2 ready, 0#5 ready; 2 wanted, not settled
        t=3100   canary passed after 2s
                 tell 0#1
                 fork 1#6
        t=3200   ready 1#6
                 tell 1#2
                 done: reload 1, 2 replaced in 3.1s
        ",
    );
}

#[test]
fn whose_canary_is_scaled_away_with_all_others_fails() {
    story(
        trying(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=200    ready 0#3
                 canary in 1 for 2s
        t=1000   scale 0
                 tell 0#1, 1#2, 0#3
                 FAILED: reload 1 in slot 0: it was ended (scale); 0 replaced, 0 kept
        t=1100   scale 1
                 fork 0#4
        t=1101   look
                 = 0#1 leaves until 2000 (scale), 1#2 leaves until 2000 (scale), 0#3 leaves until 2000 (scale), 0#4 starting; 1 wanted, not settled
        ",
    );
}

/// It leaves when its time has come, and that says nothing about its program.
#[test]
fn whose_canary_is_old_goes_on() {
    story(
        trying(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=100    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=200    ready 0#2
                 canary in 1 for 2s
        t=300    ages 0#2
        t=2200   canary passed after 2s
                 tell 0#1
                 done: reload 1, 1 replaced in 2.1s
        t=2300   look
                 = 0#1 leaves until 3200 (reload), 0#2 ready; 1 wanted, settled
        ",
    );
}

/// The old worker beside a canary leaves when the canary has passed: until then others have limits all the same.
#[test]
fn others_keep_their_limits_during_a_canary() {
    let mut cluster = Cluster::new(trying(3));
    let arrive = |cluster: &mut Cluster, at: Time| {
        for action in cluster.plan(at) {
            if let Action::Fork { worker, .. } = action {
                cluster.observe(at, Event::Forked { worker, pid: 100 + worker.0 });
                cluster.observe(at, Event::Listening { worker });
            }
        }
    };
    arrive(&mut cluster, Time::ZERO);
    let (reload, now) = (Time::from_millis(59_000), Time::from_millis(60_500));
    cluster.observe(reload, Event::Reload);
    arrive(&mut cluster, reload);
    cluster.observe(reload, Event::Replace { worker: WorkerId(1), why: Leave::Age });
    let _ = cluster.plan(now);
    let limits = Limits { age: Some(Duration::from_secs(30)), ..Limits::default() };
    let seen = Seen { memory: None, age: Duration::from_secs(60), connections: None };
    let mut over = Judge::new(limits).judge(now, &cluster, |_| Some(seen));
    let first = over.pop().map(|over| (over.worker, over.why));
    assert_eq!(first, Some((WorkerId(2), Leave::Age)), "and besides {over:?}");
    let limits = Limits { age: Some(Duration::from_secs(1)), ..Limits::default() };
    let only = |id| (id == WorkerId(4)).then_some(seen);
    let over = Judge::new(limits).judge(now, &cluster, only);
    assert_eq!(over, [], "a canary does not get old");
}
