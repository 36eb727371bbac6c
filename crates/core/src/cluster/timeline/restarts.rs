//! Timelines of crashes: how they are told apart, counted, and when nobody follows.

use super::*;

fn stopping_at(codes: &[i32], signals: &[i32], workers: usize) -> Spec {
    let spec = rules(workers);
    let restart = Restart {
        stop_codes: codes.iter().copied().collect(),
        stop_signals: signals.iter().copied().collect(),
        ..spec.restart
    };
    Spec { restart, ..spec }
}

/// It lives long enough to begin a new row each time; the crashes are a loop all the same.
#[test]
fn many_crashes_within_a_while_are_a_loop() {
    let spec = rules(1);
    let restart = Restart { within: Duration::from_secs(20), ..spec.restart };
    story(
        Spec { restart, ..spec },
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=5000   exit 0#1 code 1
                 fork 0#2
        t=5010   ready 0#2
        t=10000  exit 0#2 code 1
                 fork 0#3
        t=10010  ready 0#3
        t=15000  exit 0#3 code 1
                 fork 0#4
        t=15010  ready 0#4
        t=20000  exit 0#4 code 1
                 CRASH LOOP in slot 0, 4 crashes within 20s, again every 5s
        t=20001  look
                 = slot 0 waits until 25000 (1 crashes); 1 wanted, not settled
        t=20100  fork 0#5
        t=20110  ready 0#5
        t=46000  exit 0#5 code 1
                 fork 0#6
        ",
    );
}

/// A different slot, a different wait; the same story gives the same waits.
#[test]
fn waits_are_spread() {
    let spec = rules(2);
    let restart = Restart { jitter: 25, ..spec.restart };
    story(
        Spec { restart, ..spec },
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=200    exit 0#1 code 1
                 fork 0#3
        t=200    exit 1#2 code 1
                 fork 1#4
        t=300    exit 0#3 code 1
                 slot 0 waits 96ms, 2 crashes
        t=300    exit 1#4 code 1
                 slot 1 waits 112ms, 2 crashes
        ",
    );
}

#[test]
fn an_end_that_is_not_followed_by_another() {
    story(
        stopping_at(&[0, 7], &[15], 3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 0#1, 1#2, 2#3
        t=500    exit 1#2 code 0
                 ended: slot 1 by worker 2, 2 left
        t=600    exit 2#3 code 1
                 fork 2#4
        t=610    ready 2#4
        t=900    exit 2#4 SIGTERM
                 ended: slot 2 by worker 4, 1 left
        t=20000  look
                 = 0#1 ready; 3 wanted, not settled
        t=20001  exit 0#1 code 7
                 ended: slot 0 by worker 1, 0 left
                 STOPPED
        ",
    );
}

/// How it ended is known only after its channel is closed: it is waited for, but not for long.
#[test]
fn an_end_that_decides_is_waited_for() {
    story(
        stopping_at(&[0], &[], 1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=500    closed 0#1
        t=510    exit 0#1 code 3
                 fork 0#2
        t=520    ready 0#2
        t=2600   closed 0#2
        t=3600   0#2 still there after 1s
                 kill 0#2
                 fork 0#3
        t=3610   ready 0#3
        t=3620   exit 0#2 code 0
                 gone 0#2 (channel closed)
        t=9000   leaving 0#3
        t=9010   exit 0#3 code 0
                 gone 0#3 (left)
                 ended: slot 0 by worker 3, 0 left
                 STOPPED
        ",
    );
}

/// Who was told to leave is not asked how.
#[test]
fn ends_that_were_asked_for_do_not_count() {
    story(
        stopping_at(&[0], &[], 1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=500    disconnect 0#1
                 tell 0#1
                 fork 0#2
        t=510    exit 0#1 code 0
                 gone 0#1 (asked)
        t=520    ready 0#2
        t=600    reload
                 begins: reload 1 of 1
                 fork 0#3
        t=700    ready 0#3
                 tell 0#2
                 done: reload 1, 1 replaced in 100ms
        t=710    exit 0#2 code 0
                 gone 0#2 (reload)
        t=720    look
                 = 0#3 ready; 1 wanted, settled
        ",
    );
}

/// A new version that ends so before it is ready has failed; the old one goes on.
#[test]
fn a_successor_that_ends_so_is_a_failure() {
    story(
        stopping_at(&[0], &[], 1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=600    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=700    exit 0#2 code 0
                 FAILED: reload 1 in slot 0: it ended before it was ready, with code 0; 0 replaced, 1 kept
        t=720    look
                 = 0#1 ready; 1 wanted, settled
        ",
    );
}

/// It listens and falls over, again and again: that is no service.
#[test]
fn a_program_that_only_just_listens_is_given_up() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=20     exit 0#1 code 1
                 fork 0#2
        t=30     ready 0#2
        t=40     exit 0#2 code 1
                 slot 0 waits 100ms, 2 crashes
        t=140    fork 0#3
        t=150    ready 0#3
        t=160    exit 0#3 code 1
                 slot 0 waits 200ms, 3 crashes
        t=360    fork 0#4
        t=370    ready 0#4
        t=371    exit 0#4 code 1
                 NEVER READY: it crashed after 1.0ms of service
                 STOPPED
        ",
    );
}

/// What cannot start in one slot can in none: four crashes in all, and not four in each slot.
#[test]
fn start_failures_of_all_slots_are_one_row() {
    story(
        rules(3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     exit 0#1 code 1
                 fork 0#4
        t=11     exit 1#2 code 1
        t=12     exit 2#3 code 1
        t=13     exit 0#4 code 1
                 NEVER READY: it ended before it was ready, with code 1
                 STOPPED
        ",
    );
}

/// Somebody serves: the program can, and the others are tried on.
#[test]
fn with_one_that_serves_the_others_are_not_given_up() {
    story(
        rules(3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=5      ready 2#3
        t=10     exit 0#1 code 1
                 fork 0#4
        t=11     exit 1#2 code 1
        t=13     exit 0#4 code 1
                 slot 0 waits 100ms, 2 crashes
        t=105    fork 1#5
        t=113    fork 0#6
        t=130    exit 0#6 code 1
                 slot 0 waits 200ms, 3 crashes
        t=131    look
                 = 2#3 ready, 1#5 starting, slot 0 waits until 330 (3 crashes); 3 wanted, not settled
        ",
    );
}

#[test]
fn the_oom_killer_is_named() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=500    oom 0#1
        t=500    exit 0#1 SIGKILL
                 OUT OF MEMORY 0#1
                 fork 0#2
        ",
    );
}

#[test]
fn ends_in_words() {
    use crate::worker::{EndKind, SlotId};
    let ended = |exit, kind, asked, served| {
        let served = Duration::from_millis(served);
        Report::Ended { worker: WorkerId(7), slot: SlotId(2), exit, asked, served, kind }
            .to_string()
    };
    let oom = EndKind::OutOfMemory { certain: false };
    assert_eq!(
        ended(Exit::Signal(9), oom, None, 1500),
        "worker 7 in slot 2 was probably killed by the OOM killer: SIGKILL, after 1.5s of service"
    );
    assert_eq!(
        ended(Exit::Code(0), EndKind::Finished, None, 1500),
        "worker 7 in slot 2 ended unasked: code 0, after 1.5s of service (finished)"
    );
    assert_eq!(
        ended(Exit::Code(1), EndKind::NeverReady, None, 0),
        "worker 7 in slot 2 ended unasked, before it served: code 1"
    );
    assert_eq!(
        ended(Exit::Code(1), EndKind::Told(Leave::Reload), Some(Leave::Reload), 10),
        "worker 7 in slot 2 is gone (reload): code 1"
    );
}

/// Whoever asks for a restart has seen the program serve: what comes then is a crash loop, and no start that failed.
#[test]
fn a_restart_of_one_that_was_just_ready_ends_no_cluster() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=20     restart
                 restart of 1
                 tell 0#1
        t=30     exit 0#1 code 0
                 gone 0#1 (restart)
                 fork 0#2
        t=40     exit 0#2 code 1
                 fork 0#3
        t=50     exit 0#3 code 1
                 slot 0 waits 100ms, 2 crashes
        t=150    fork 0#4
        t=160    exit 0#4 code 1
                 slot 0 waits 200ms, 3 crashes
        t=360    fork 0#5
        t=370    exit 0#5 code 1
                 CRASH LOOP in slot 0, 4 crashes, again every 5s
        t=5370   fork 0#6
        t=5400   ready 0#6
                 restarted in 5.38s
        ",
    );
}

/// A job: it ends, and the next reload starts it again.
#[test]
fn a_cluster_that_stays_when_the_last_one_has_ended() {
    let spec = restarts_off(1);
    let restart = Restart { stays: true, ..spec.restart };
    story(
        Spec { restart, ..spec },
        "
        t=0      fork 0#1
        t=5      exit 0#1 code 0
                 ended: slot 0 by worker 1, 0 left
        t=1000   look
                 = nobody; 1 wanted, not settled
        t=2000   reload
                 begins: reload 1 of 1
                 fork 0#2
        t=2010   ready 0#2
                 done: reload 1, 0 replaced in 10ms
        t=3000   exit 0#2 code 1
        t=4000   restart
                 restart of 0
                 fork 0#3
        t=4010   ready 0#3
                 restarted in 10ms
        t=5000   look
                 = 0#3 ready; 1 wanted, settled
        t=6000   stop
                 tell 0#3
        t=6010   exit 0#3 code 0
                 gone 0#3 (stop)
                 STOPPED
        ",
    );
}

#[test]
fn one_that_is_not_replaced_and_ends_with_0_has_done_its_work() {
    story(
        restarts_off(1),
        "
        t=0      fork 0#1
        t=5      exit 0#1 code 0
                 ended: slot 0 by worker 1, 0 left
                 STOPPED
        ",
    );
}
