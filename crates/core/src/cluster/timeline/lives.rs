//! Timelines of workers and clusters: starts, crashes, waits, scaling and stops.

use super::*;

#[test]
fn start() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=0      look
                 = 0#1 starting, 1#2 starting; 2 wanted, not settled
        t=120    online 0#1
        t=130    ready 0#1
        t=150    ready 1#2
        t=151    look
                 = 0#1 ready, 1#2 ready; 2 wanted, settled
        t=90000  pass
        ",
    );
}

/// Workers that never listen are ready when their channel works.
#[test]
fn ready_when_online() {
    story(
        Spec { ready: ReadyWhen::Online, ..rules(1) },
        "
        t=0      fork 0#1
        t=120    online 0#1
        t=121    look
                 = 0#1 ready; 1 wanted, settled
        t=150    ready 0#1
        t=9000   pass
        ",
    );
}

#[test]
fn a_crash_is_answered_at_once() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=120    ready 0#1, 1#2
        t=900    exit 0#1 SIGSEGV
                 fork 0#3
        t=1000   ready 0#3
        t=1001   look
                 = 1#2 ready, 0#3 ready; 2 wanted, settled
        ",
    );
}

#[test]
fn the_second_crash_waits() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=100    ready 0#1
        t=200    exit 0#1 code 1
                 fork 0#2
        t=300    ready 0#2
        t=400    exit 0#2 code 1
                 slot 0 waits 100ms, 2 crashes
        t=450    look
                 = slot 0 waits until 500 (2 crashes); 1 wanted, not settled
        t=500    fork 0#3
        t=600    pass
        t=650    exit 0#3 SIGABRT
                 slot 0 waits 200ms, 3 crashes
        t=850    fork 0#4
        t=900    pass
        ",
    );
}

/// What is seen first of a crash is a matter of luck: the count and the waits are the same.
#[test]
fn the_channel_closing_before_the_exit_changes_nothing() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=100    ready 0#1
        t=200    closed 0#1
                 fork 0#2
        t=201    exit 0#1 code 1
        t=300    ready 0#2
        t=400    closed 0#2
                 slot 0 waits 100ms, 2 crashes
        t=401    exit 0#2 code 1
        t=500    fork 0#3
        t=550    closed 0#3
        t=555    exit 0#3 SIGABRT
                 slot 0 waits 200ms, 3 crashes
        t=755    fork 0#4
        t=900    pass
        ",
    );
}

/// A worker that stays ready for `stable` ends the row.
#[test]
fn a_crash_loop_is_loud_and_probed_at_the_cap() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=20     exit 0#1 code 1
                 fork 0#2
        t=30     exit 0#2 code 1
                 slot 0 waits 100ms, 2 crashes
        t=130    fork 0#3
        t=140    exit 0#3 code 1
                 slot 0 waits 200ms, 3 crashes
        t=340    fork 0#4
        t=350    exit 0#4 code 1
                 CRASH LOOP in slot 0, 4 crashes, again every 5s
        t=351    look
                 = slot 0 waits until 5350 (4 crashes); 1 wanted, not settled
        t=5350   fork 0#5
        t=5360   exit 0#5 code 1
        t=10360  fork 0#6
        t=10370  ready 0#6
        t=12370  exit 0#6 code 1
                 fork 0#7
        t=12380  exit 0#7 code 1
                 slot 0 waits 100ms, 2 crashes
        t=12480  fork 0#8
        t=12490  pass
        ",
    );
}

#[test]
fn one_slot_in_a_crash_loop_does_not_stop_the_others() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=20     exit 1#2 code 1
                 fork 1#3
        t=30     exit 1#3 code 1
                 slot 1 waits 100ms, 2 crashes
        t=130    fork 1#4
        t=140    exit 1#4 code 1
                 slot 1 waits 200ms, 3 crashes
        t=340    fork 1#5
        t=350    exit 1#5 code 1
                 CRASH LOOP in slot 1, 4 crashes, again every 5s
        t=400    exit 0#1 code 1
                 fork 0#6
        t=450    ready 0#6
        t=451    look
                 = 0#6 ready, slot 1 waits until 5350 (4 crashes); 2 wanted, not settled
        ",
    );
}

#[test]
fn a_crash_loop_never_takes_the_last_worker() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=20     exit 0#1 SIGKILL
                 fork 0#2
        t=30     ready 0#2
        t=40     exit 0#2 SIGKILL
                 slot 0 waits 100ms, 2 crashes
        t=140    fork 0#3
        t=150    ready 0#3
        t=160    exit 0#3 SIGKILL
                 slot 0 waits 200ms, 3 crashes
        t=260    fork 0#4
        t=270    ready 0#4
        t=280    exit 0#4 SIGKILL
                 CRASH LOOP in slot 0, 4 crashes, again every 5s
        t=380    fork 0#5
        t=390    exit 0#5 SIGKILL
        t=390    look
                 = slot 0 waits until 5390 (5 crashes); 1 wanted, not settled
        ",
    );
}

#[test]
fn a_cluster_that_never_becomes_ready_gives_up() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     exit 0#1 code 1
                 fork 0#3
        t=20     exit 0#3 code 1
                 slot 0 waits 100ms, 2 crashes
        t=120    fork 0#4
        t=130    exit 0#4 code 1
                 slot 0 waits 200ms, 3 crashes
        t=330    fork 0#5
        t=340    exit 0#5 code 1
                 NEVER READY: it ended before it was ready, with code 1
                 kill 1#2
        t=400    exit 1#2 code 0
                 gone 1#2 (stop)
                 STOPPED
        t=9000   pass
        ",
    );
}

#[test]
fn a_program_that_does_not_exist_is_not_tried_again() {
    by_hand(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=0      impossible 0#1 no such file
                 NEVER READY: no such file
        t=1      forked 1#2
                 kill 1#2
        t=3      exit 1#2 SIGKILL
                 gone 1#2 (stop)
                 STOPPED
        ",
    );
}

#[test]
fn forks_that_fail_for_now_are_tried_again() {
    by_hand(
        rules(1),
        "
        t=0      fork 0#1
        t=0      unforkable 0#1 too many processes
                 fork 0#2
        t=10     unforkable 0#2 too many processes
                 slot 0 waits 100ms, 2 crashes
        t=110    fork 0#3
        t=120    forked 0#3
        t=200    ready 0#3
        ",
    );
}

/// The program is being replaced on disk: the others go on and the slot is tried again.
#[test]
fn an_impossible_fork_of_a_cluster_that_served_is_waited_out() {
    by_hand(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=0      forked 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=20     exit 1#2 code 1
                 fork 1#3
        t=21     impossible 1#3 no such file
                 slot 1 waits 100ms, 2 crashes
        t=121    fork 1#4
        t=130    forked 1#4
        t=200    ready 1#4
        t=201    look
                 = 0#1 ready, 1#4 ready; 2 wanted, settled
        ",
    );
}

#[test]
fn a_worker_that_is_not_ready_in_time_is_killed() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1
        t=50     online 1#2
        t=3000   1#2 not ready after 3s
                 kill 1#2
                 fork 1#3
        t=3000   pass
        t=3010   exit 1#2 SIGKILL
                 gone 1#2 (start time-out)
        t=6000   1#3 not ready after 3s
                 kill 1#3
                 slot 1 waits 100ms, 2 crashes
        t=6001   pass
        t=6010   exit 1#3 SIGKILL
                 gone 1#3 (start time-out)
        t=6100   fork 1#4
        t=6150   look
                 = 0#1 ready, 1#4 starting; 2 wanted, not settled
        ",
    );
}

#[test]
fn start_time_outs_of_a_cluster_that_never_was_ready_end_it() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=3000   0#1 not ready after 3s
                 kill 0#1
                 fork 0#2
        t=3005   exit 0#1 SIGKILL
                 gone 0#1 (start time-out)
        t=6000   0#2 not ready after 3s
                 kill 0#2
                 slot 0 waits 100ms, 2 crashes
        t=6005   exit 0#2 SIGKILL
                 gone 0#2 (start time-out)
        t=6100   fork 0#3
        t=9100   0#3 not ready after 3s
                 kill 0#3
                 slot 0 waits 200ms, 3 crashes
        t=9205   exit 0#3 SIGKILL
                 gone 0#3 (start time-out)
        t=9300   fork 0#4
        t=12300  0#4 not ready after 3s
                 kill 0#4
                 NEVER READY: it was not ready within 3.0s
        t=12500  exit 0#4 SIGKILL
                 gone 0#4 (start time-out)
                 STOPPED
        ",
    );
}

#[test]
fn scale_up_and_down() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=100    scale 3
                 fork 1#2, 2#3
        t=150    ready 1#2, 2#3
        t=200    scale 1
                 tell 1#2, 2#3
        t=250    exit 2#3 code 0
                 gone 2#3 (scale)
        t=1200   1#2 still there after 1s
                 kill 1#2
        t=1205   exit 1#2 SIGKILL
                 gone 1#2 (scale)
        t=1206   look
                 = 0#1 ready; 1 wanted, settled
        ",
    );
}

#[test]
fn scale_up_takes_slots_whose_old_workers_still_leave() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    scale 1
                 tell 1#2
        t=150    scale 2
                 fork 1#3
        t=200    exit 1#2 code 0
                 gone 1#2 (scale)
        t=210    ready 1#3
        t=211    look
                 = 0#1 ready, 1#3 ready; 2 wanted, settled
        ",
    );
}

#[test]
fn scale_down_of_a_slot_that_waits() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=20     exit 1#2 code 1
                 fork 1#3
        t=30     exit 1#3 code 1
                 slot 1 waits 100ms, 2 crashes
        t=40     scale 1
        t=9000   look
                 = 0#1 ready; 1 wanted, settled
        ",
    );
}

#[test]
fn stop() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    stop
                 tell 0#1, 1#2
        t=120    exit 0#1 code 0
                 gone 0#1 (stop)
        t=130    exit 1#2 code 0
                 gone 1#2 (stop)
                 STOPPED
        t=9000   reload
                 refused: reload, the cluster is stopping
        t=9001   scale 4
                 refused: scale, the cluster is stopping
        t=9002   stop
        t=9003   manual
        ",
    );
}

#[test]
fn stop_with_a_worker_that_ignores_it() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    stop
                 tell 0#1, 1#2
        t=120    exit 0#1 code 0
                 gone 0#1 (stop)
        t=1100   1#2 still there after 1s
                 kill 1#2
        t=1100   pass
        t=1105   exit 1#2 SIGKILL
                 gone 1#2 (stop)
                 STOPPED
        ",
    );
}

/// Those that were told already are killed all the same; the one without a process as soon as it has one.
#[test]
fn stop_now() {
    by_hand(
        rules(3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=0      forked 0#1, 1#2
        t=10     ready 0#1
        t=20     stop
                 tell 0#1
                 kill 1#2
        t=30     stop now
                 kill 0#1
        t=40     forked 2#3
                 kill 2#3
        t=41     exit 0#1 SIGKILL
                 gone 0#1 (stop)
        t=42     exit 1#2 SIGKILL
                 gone 1#2 (stop)
        t=43     exit 2#3 SIGKILL
                 gone 2#3 (stop)
                 STOPPED
        ",
    );
}

#[test]
fn without_grace_whoever_is_told_is_killed() {
    story(
        Spec { grace: Some(Duration::ZERO), ..rules(1) },
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=20     stop
                 tell 0#1
                 0#1 still there after 0ns
                 kill 0#1
        t=30     exit 0#1 SIGKILL
                 gone 0#1 (stop)
                 STOPPED
        ",
    );
}

/// It is not told, and replaced at once; the second that does so soon has to wait.
#[test]
fn a_worker_leaves_by_itself() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=20     leaving 0#1
                 fork 0#2
        t=30     ready 0#2
        t=40     closed 0#1
        t=50     exit 0#1 code 0
                 gone 0#1 (left)
        t=60     leaving 0#2
                 slot 0 waits 100ms, 2 crashes
        t=61     look
                 = 0#2 leaves until 1060 (left), slot 0 waits until 160 (2 crashes); 1 wanted, not settled
        t=70     exit 0#2 code 0
                 gone 0#2 (left)
        t=160    fork 0#3
        t=170    pass
        ",
    );
}

/// How it ends says why; a slot would otherwise be filled again and again.
#[test]
fn a_worker_that_served_and_leaves_did_not_crash() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=20     exit 0#1 SIGSEGV
                 fork 0#2
        t=30     ready 0#2
        t=1100   leaving 0#2
                 fork 0#3
        t=1105   closed 0#2
        t=1110   exit 0#2 code 0
                 gone 0#2 (left)
        t=1120   ready 0#3
        t=1150   leaving 0#3
                 slot 0 waits 100ms, 2 crashes
        t=1250   fork 0#4
        t=1250   pass
        ",
    );
}

#[test]
fn a_worker_that_leaves_before_it_is_ready_is_waited_for() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     leaving 0#1
        t=20     closed 0#1
        t=30     exit 0#1 code 7
                 gone 0#1 (left)
                 fork 0#2
        t=40     closed 0#2
        t=1040   0#2 still there after 1s
                 kill 0#2
        t=1040   pass
        t=1050   exit 0#2 SIGKILL
                 gone 0#2 (channel closed)
                 slot 0 waits 100ms, 2 crashes
        t=1150   fork 0#3
        t=1150   pass
        ",
    );
}

#[test]
fn a_channel_closes_and_the_process_lives() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=20     closed 0#1
                 fork 0#2
        t=30     ready 0#2
        t=1020   0#1 still there after 1s
                 kill 0#1
        t=1020   pass
        t=1030   exit 0#1 SIGKILL
                 gone 0#1 (channel closed)
        t=1031   look
                 = 0#2 ready; 1 wanted, settled
        ",
    );
}

#[test]
fn a_broken_channel() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=20     broken 0#1
                 kill 0#1
                 fork 0#3
        t=25     exit 0#1 SIGKILL
                 gone 0#1 (broken)
        t=30     broken 0#3
                 kill 0#3
                 slot 0 waits 100ms, 2 crashes
        t=35     exit 0#3 SIGKILL
                 gone 0#3 (broken)
        t=130    fork 0#4
        t=130    pass
        ",
    );
}

/// It is no crash, however often.
#[test]
fn the_application_tells_a_worker_to_leave() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=20     disconnect 0#1
                 tell 0#1
                 fork 0#2
        t=21     disconnect 0#1
        t=25     exit 0#1 code 1
                 gone 0#1 (asked)
        t=30     ready 0#2
        t=40     disconnect 0#2
                 tell 0#2
                 fork 0#3
        t=41     exit 0#2 code 1
                 gone 0#2 (asked)
        t=42     look
                 = 0#3 starting; 1 wanted, not settled
        ",
    );
}

#[test]
fn a_worker_that_is_to_leave_before_it_has_a_process() {
    by_hand(
        rules(1),
        "
        t=0      fork 0#1
        t=5      scale 0
        t=10     forked 0#1
                 kill 0#1
        t=1200   pass
        t=1210   exit 0#1 SIGKILL
                 gone 0#1 (scale)
        t=1211   look
                 = nobody; 0 wanted, settled
        ",
    );
}

/// They take free slots, have no deadlines until a stop, and go when all go.
#[test]
fn manual_forks_are_never_replaced() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=20     manual
                 fork 1#2*
        t=30     ready 1#2*
        t=35     scale 2
                 fork 2#3
        t=36     ready 2#3
        t=37     look
                 = 0#1 ready, 1#2* ready, 2#3 ready; 2 wanted, settled
        t=40     exit 1#2* code 1
        t=45     manual
                 fork 1#4*
        t=46     closed 1#4*
        t=60000  scale 3
                 fork 3#5
        t=60001  ready 3#5
        t=60002  stop
                 tell 0#1, 2#3, 3#5
        t=60010  exit 0#1 code 0
                 gone 0#1 (stop)
        t=60011  exit 2#3 code 0
                 gone 2#3 (stop)
        t=60012  exit 3#5 code 0
                 gone 3#5 (stop)
        t=61002  1#4 still there after 60.956s
                 kill 1#4*
        t=61010  exit 1#4* SIGKILL
                 gone 1#4 (channel closed)
                 STOPPED
        ",
    );
}

/// A cluster of none that are kept: it lives until it is told to stop.
#[test]
fn manual_forks_alone() {
    story(
        rules(0),
        "
        t=10     manual
                 fork 0#1*
        t=15     ready 0#1*
        t=20     disconnect 0#1*
                 tell 0#1*
        t=30     exit 0#1* code 0
                 gone 0#1 (asked)
        t=90000  look
                 = nobody; 0 wanted, settled
        t=90001  stop
                 STOPPED
        ",
    );
}

/// The cluster stops when all have ended, however they ended.
#[test]
fn a_cluster_without_restarts() {
    story(
        restarts_off(3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 0#1, 1#2, 2#3
        t=20     closed 0#1
        t=21     exit 0#1 code 1
        t=30     disconnect 1#2
                 tell 1#2
        t=35     exit 1#2 code 0
                 gone 1#2 (asked)
        t=36     look
                 = 2#3 ready; 3 wanted, not settled
        t=40     exit 2#3 SIGSEGV
                 STOPPED
        ",
    );
}

#[test]
fn a_cluster_without_restarts_whose_workers_never_come_up() {
    story(
        restarts_off(2),
        "
        t=0      fork 0#1, 1#2
        t=10     exit 0#1 code 1
        t=20     exit 1#2 code 7
                 NEVER READY: it ended before it was ready, with code 7
                 STOPPED
        ",
    );
}

/// No names of the gone: it ended between the wish and the plan.
#[test]
fn nobody_is_told_who_is_gone() {
    let mut cluster = Cluster::new(rules(1));
    let worker = WorkerId(1);
    assert_eq!(cluster.plan(Time::ZERO).len(), 1);
    for event in [
        Event::Forked { worker, pid: 7 },
        Event::StopNow,
        Event::Exited { worker, exit: Exit::Code(0) },
    ] {
        cluster.observe(Time::ZERO, event);
    }
    let said = cluster.plan(Time::ZERO);
    assert!(said.iter().all(|action| matches!(action, Action::Report(_))), "{said:?}");
}

#[test]
fn no_more_workers_than_there_is_room_for() {
    let mut cluster = Cluster::new(rules(usize::MAX));
    assert_eq!(cluster.wanted(), MAX_WORKERS);
    assert_eq!(cluster.plan(Time::ZERO).len(), MAX_WORKERS);
    assert_eq!(cluster.fork(), None, "a full cluster forks no more");
    cluster.observe(Time::ZERO, Event::Scale { workers: usize::MAX });
    assert_eq!(cluster.wanted(), MAX_WORKERS);
}
