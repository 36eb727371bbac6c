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
        t=120    exit 0#1 code 1
                 fork 0#2
        t=130    exit 0#2 code 1
                 slot 0 waits 100ms, 2 crashes
        t=230    fork 0#3
        t=240    exit 0#3 code 1
                 slot 0 waits 200ms, 3 crashes
        t=440    fork 0#4
        t=450    exit 0#4 code 1
                 CRASH LOOP in slot 0, 4 crashes, again every 5s
        t=451    look
                 = slot 0 waits until 5450 (4 crashes); 1 wanted, not settled
        t=5450   fork 0#5
        t=5460   exit 0#5 code 1
        t=10460  fork 0#6
        t=10470  ready 0#6
        t=12470  exit 0#6 code 1
                 fork 0#7
        t=12480  exit 0#7 code 1
                 slot 0 waits 100ms, 2 crashes
        t=12580  fork 0#8
        t=12590  pass
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
        t=120    exit 0#1 SIGKILL
                 fork 0#2
        t=130    ready 0#2
        t=140    exit 0#2 SIGKILL
                 slot 0 waits 100ms, 2 crashes
        t=240    fork 0#3
        t=250    ready 0#3
        t=260    exit 0#3 SIGKILL
                 slot 0 waits 200ms, 3 crashes
        t=360    fork 0#4
        t=370    ready 0#4
        t=380    exit 0#4 SIGKILL
                 CRASH LOOP in slot 0, 4 crashes, again every 5s
        t=480    fork 0#5
        t=490    exit 0#5 SIGKILL
        t=490    look
                 = slot 0 waits until 5490 (5 crashes); 1 wanted, not settled
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
                 CRASH LOOP in slot 0, 4 crashes, again every 5s
        t=400    exit 1#2 code 0
                 NEVER READY: it ended before it was ready, with code 0
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
