//! Timelines of versions: going back, what reloads come to, and restarts of everything.

use super::*;
use crate::spec::{ReloadRules, Share};

fn rolls_back(workers: usize) -> Spec {
    Spec { reload: ReloadRules { rollback: true, ..ReloadRules::default() }, ..rules(workers) }
}

#[test]
fn a_failed_reload_goes_back() {
    story(
        rolls_back(3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 0#1, 1#2, 2#3
        t=200    reload
                 begins: reload 1 of 3
                 fork 0#4
        t=250    ready 0#4
                 tell 0#1
                 fork 1#5
        t=260    exit 0#1 code 0
                 gone 0#1 (reload)
        t=300    exit 1#5 code 1
                 FAILED: reload 1 in slot 1: it ended before it was ready, with code 1; 1 replaced, 2 kept, goes back
                 back: reload 2 to version 0 of 1
                 fork 0#6
        t=400    ready 0#6
                 tell 0#4
                 ROLLED BACK: reload 2, 1 replaced in 100ms
        t=410    exit 0#4 code 0
                 gone 0#4 (reload)
        t=420    look
                 = 1#2 ready, 2#3 ready, 0#6 ready; 3 wanted, settled
        ",
    );
}

/// The one that was replaced crashes: its slot is filled with the program before at once.
#[test]
fn a_late_crash_goes_back_too() {
    story(
        rolls_back(3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 0#1, 1#2, 2#3
        t=200    reload
                 begins: reload 1 of 3
                 fork 0#4
        t=250    ready 0#4
                 tell 0#1
                 fork 1#5
        t=260    exit 0#1 code 0
                 gone 0#1 (reload)
        t=280    ready 1#5
                 tell 1#2
                 fork 2#6
        t=300    exit 0#4 code 1
                 FAILED: reload 1 in slot 0: it crashed after 50.0ms of service; 2 replaced, 1 kept, goes back
                 back: reload 2 to version 0 of 1
                 kill 2#6
                 fork 1#7, 0#8
        t=310    ready 0#8
        t=400    ready 1#7
                 tell 1#5
                 ROLLED BACK: reload 2, 1 replaced in 100ms
        ",
    );
}

/// What was not kept cannot be gone back to; it is said, and what serves goes on.
#[test]
fn there_may_be_nothing_to_go_back_to() {
    story(
        rolls_back(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=190    old_is_gone
        t=200    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=250    ready 0#3
                 tell 0#1
                 fork 1#4
        t=300    exit 1#4 code 1
                 FAILED: reload 1 in slot 1: it ended before it was ready, with code 1; 1 replaced, 1 kept, NOTHING to go back to
        t=310    exit 0#1 code 0
                 gone 0#1 (reload)
        t=320    look
                 = 1#2 ready, 0#3 ready; 2 wanted, settled
        ",
    );
}

/// The program before fails too: that is where it ends.
#[test]
fn going_back_that_fails_ends() {
    story(
        rolls_back(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=200    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=250    ready 0#3
                 tell 0#1
                 fork 1#4
        t=300    exit 1#4 code 1
                 FAILED: reload 1 in slot 1: it ended before it was ready, with code 1; 1 replaced, 1 kept, goes back
                 back: reload 2 to version 0 of 1
                 fork 0#5
        t=350    exit 0#5 code 1
                 FAILED: reload 2 in slot 0: it ended before it was ready, with code 1; 0 replaced, 1 kept
        t=360    look
                 = 0#1 leaves until 1250 (reload), 1#2 ready, 0#3 ready; 2 wanted, settled
        ",
    );
}

/// A new reload takes the place of going back, and is to the newest program.
#[test]
fn a_reload_while_it_goes_back() {
    story_with_receipts(
        rolls_back(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=200    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=250    ready 0#3
                 tell 0#1
                 fork 1#4
        t=260    exit 0#1 code 0
                 gone 0#1 (reload)
        t=300    exit 1#4 code 1
                 FAILED: reload 1 in slot 1: it ended before it was ready, with code 1; 1 replaced, 1 kept, goes back
                 back: reload 2 to version 0 of 1
                 fork 0#5
                 receipt: reload 1 in the end: failed (it ended before it was ready, with code 1), 1 workers replaced in 100.0ms; 1 left, the slowest within 10.0ms; no connection is known to be cut
        t=310    reload
                 begins: reload 3 of 2
                 kill 0#5
                 fork 0#6
                 receipt: reload 2 in the end: superseded by another one, 0 workers replaced in 10.0ms; no connection is known to be cut
        ",
    );
}

/// The receipt comes when the last old one is gone: what it cost.
#[test]
fn what_a_reload_came_to() {
    story_with_receipts(
        Spec {
            reload: ReloadRules { at_once: Share::Count(2), ..ReloadRules::default() },
            ..rules(2)
        },
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=200    reload
                 begins: reload 1 of 2
                 fork 0#3, 1#4
        t=250    ready 0#3, 1#4
                 tell 0#1, 1#2
                 done: reload 1, 2 replaced in 50ms
        t=300    cut 0#1
                 2 cut
        t=310    exit 0#1 code 0
                 gone 0#1 (reload)
        t=1250   1#2 still there after 1s
                 kill 1#2
        t=1260   exit 1#2 SIGKILL
                 gone 1#2 (reload)
                 receipt: reload 1 in the end: done, 2 workers replaced in 50.0ms; 2 left, the slowest within 1.0s; 2 connections were in use when their workers had to end; 1 workers were killed, and what they had was cut
        ",
    );
}

/// It is not waited for longer than a minute.
#[test]
fn who_still_drains_after_a_minute() {
    story_with_receipts(
        Spec { grace: None, ..rules(1) },
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=200    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=250    ready 0#2
                 tell 0#1
                 done: reload 1, 1 replaced in 50ms
        t=60250  receipt: reload 1 in the end: done, 1 workers replaced in 50.0ms; no connection is known to be cut; 1 still drain
        t=70000  exit 0#1 code 0
                 gone 0#1 (reload)
        ",
    );
}

#[test]
fn a_restart_stops_all_and_starts_all() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=200    restart
                 restart of 2
                 tell 0#1, 1#2
        t=210    exit 0#1 code 0
                 gone 0#1 (restart)
        t=220    reload
                 refused: reload, all workers are being restarted, and are new then
        t=1200   1#2 still there after 1s
                 kill 1#2
        t=1210   exit 1#2 SIGKILL
                 gone 1#2 (restart)
                 fork 0#3, 1#4
        t=1250   ready 0#3
        t=1260   ready 1#4
                 restarted in 1.06s
        t=1270   look
                 = 0#3 ready, 1#4 ready; 2 wanted, settled
        ",
    );
}

#[test]
fn a_restart_takes_the_place_of_a_reload() {
    story_with_receipts(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=200    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=210    restart
                 restart of 2
                 tell 0#1
                 kill 0#2
                 receipt: reload 1 in the end: superseded by another one, 0 workers replaced in 10.0ms; no connection is known to be cut
        t=220    exit 0#1 code 0
                 gone 0#1 (restart)
        t=230    exit 0#2 SIGKILL
                 gone 0#2 (restart)
                 fork 0#3
        ",
    );
}

#[test]
fn how_far_a_reload_is() {
    use crate::cluster::{ReloadPhase, ReloadStatus};
    let mut cluster = Cluster::new(rolls_back(2));
    let at = Time::from_millis;
    let _ = cluster.plan(at(0));
    assert_eq!(cluster.reloading(), None);
    for worker in [WorkerId(1), WorkerId(2)] {
        cluster.observe(at(1), Event::Forked { worker, pid: 7 });
        cluster.observe(at(1), Event::Listening { worker });
    }
    cluster.observe(at(500), Event::Reload);
    let _ = cluster.plan(at(500));
    let worker = WorkerId(3);
    cluster.observe(at(501), Event::Forked { worker, pid: 9 });
    cluster.observe(at(501), Event::Listening { worker });
    let _ = cluster.plan(at(501));
    let phase = ReloadPhase::Replacing;
    let status = ReloadStatus { generation: 1, replaced: 1, of: 2, phase };
    assert_eq!(cluster.reloading(), Some(status));
    let versions: Vec<u64> = cluster.workers().map(|w| w.version).collect();
    assert_eq!(versions, [0, 0, 1, 1]);
}
