//! Timelines of rolling reloads.

use super::*;

#[test]
fn one_by_one_and_the_new_before_the_old() {
    story(
        rules(3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 0#1, 1#2, 2#3
        t=100    reload
                 begins: reload 1 of 3
                 fork 0#4
        t=150    online 0#4
        t=200    ready 0#4
                 tell 0#1
                 fork 1#5
        t=220    exit 0#1 code 0
                 gone 0#1 (reload)
        t=300    ready 1#5
                 tell 1#2
                 fork 2#6
        t=400    ready 2#6
                 tell 2#3
                 done: reload 1, 3 replaced in 300ms
        t=420    exit 1#2 code 0
                 gone 1#2 (reload)
        t=430    exit 2#3 code 0
                 gone 2#3 (reload)
        t=431    look
                 = 0#4 ready, 1#5 ready, 2#6 ready; 3 wanted, settled
        ",
    );
}

#[test]
fn of_nobody() {
    story(
        rules(0),
        "
        t=10     reload
                 begins: reload 1 of 0
                 done: reload 1, 0 replaced in 0ns
        ",
    );
}

#[test]
fn whose_new_worker_crashes_stops_there() {
    story(
        rules(3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 0#1, 1#2, 2#3
        t=100    reload
                 begins: reload 1 of 3
                 fork 0#4
        t=200    ready 0#4
                 tell 0#1
                 fork 1#5
        t=220    exit 0#1 code 0
                 gone 0#1 (reload)
        t=250    exit 1#5 code 1
                 FAILED: reload 1 in slot 1: it ended before it was ready, with code 1; 1 replaced, 2 kept
        t=9000   look
                 = 1#2 ready, 2#3 ready, 0#4 ready; 3 wanted, settled
        ",
    );
}

#[test]
fn whose_new_worker_closes_its_channel_first_stops_there_too() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=150    closed 0#3
        t=151    exit 0#3 code 1
                 FAILED: reload 1 in slot 0: it ended before it was ready, with code 1; 0 replaced, 2 kept
        t=9000   look
                 = 0#1 ready, 1#2 ready; 2 wanted, settled
        ",
    );
}

/// Both facts are seen before the old worker could be told.
#[test]
fn whose_new_worker_crashes_as_soon_as_it_listens_stops_there() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=100    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=150    listens_and_exits 0#2 code 1
                 FAILED: reload 1 in slot 0: it ended before it was ready, with code 1; 0 replaced, 1 kept
        t=9000   look
                 = 0#1 ready; 1 wanted, settled
        ",
    );
}

/// It listens, and crashes when it has hardly begun: the other slots keep what they have.
#[test]
fn whose_new_worker_crashes_a_little_later_stops_there() {
    story(
        rules(3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 0#1, 1#2, 2#3
        t=100    reload
                 begins: reload 1 of 3
                 fork 0#4
        t=200    ready 0#4
                 tell 0#1
                 fork 1#5
        t=210    exit 0#1 code 0
                 gone 0#1 (reload)
        t=250    exit 0#4 code 1
                 FAILED: reload 1 in slot 0: it crashed after 50.0ms of service; 1 replaced, 2 kept
                 kill 1#5
                 fork 0#6
        ",
    );
}

#[test]
fn whose_new_worker_is_never_ready_stops_there() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=3100   0#3 not ready after 3s
                 FAILED: reload 1 in slot 0: it was not ready within 3.0s; 0 replaced, 2 kept
                 kill 0#3
        t=3100   pass
        t=3105   exit 0#3 SIGKILL
                 gone 0#3 (start time-out)
        t=9000   look
                 = 0#1 ready, 1#2 ready; 2 wanted, settled
        ",
    );
}

#[test]
fn whose_new_worker_breaks_the_channel_stops_there() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=110    broken 0#3
                 FAILED: reload 1 in slot 0: not JSON; 0 replaced, 2 kept
                 kill 0#3
        t=115    exit 0#3 SIGKILL
                 gone 0#3 (broken)
        t=9000   look
                 = 0#1 ready, 1#2 ready; 2 wanted, settled
        ",
    );
}

#[test]
fn whose_new_worker_cannot_start_stops_there() {
    by_hand(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=0      forked 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=101    impossible 0#3 no such file
                 FAILED: reload 1 in slot 0: no such file; 0 replaced, 2 kept
        t=9000   look
                 = 0#1 ready, 1#2 ready; 2 wanted, settled
        ",
    );
}

#[test]
fn after_one_that_failed_begins_anew() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=150    exit 0#3 code 1
                 FAILED: reload 1 in slot 0: it ended before it was ready, with code 1; 0 replaced, 2 kept
        t=200    reload
                 begins: reload 2 of 2
                 fork 0#4
        t=250    ready 0#4
                 tell 0#1
                 fork 1#5
        t=260    ready 1#5
                 tell 1#2
                 done: reload 2, 2 replaced in 60ms
        t=270    exit 0#1 code 0
                 gone 0#1 (reload)
        t=280    exit 1#2 code 0
                 gone 1#2 (reload)
        t=281    look
                 = 0#4 ready, 1#5 ready; 2 wanted, settled
        ",
    );
}

#[test]
fn while_a_slot_waits_starts_it_at_once() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=20     exit 1#2 code 1
                 fork 1#3
        t=30     exit 1#3 code 1
                 slot 1 waits 100ms, 2 crashes
        t=40     reload
                 begins: reload 1 of 2
                 fork 0#4, 1#5
        t=60     ready 1#5
        t=70     ready 0#4
                 tell 0#1
                 done: reload 1, 1 replaced in 30ms
        t=80     exit 0#1 code 0
                 gone 0#1 (reload)
        t=81     look
                 = 0#4 ready, 1#5 ready; 2 wanted, settled
        ",
    );
}

/// The place of the old one is filled with a new one, and that is that.
#[test]
fn during_which_an_old_worker_crashes_goes_on() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=120    exit 1#2 SIGSEGV
                 fork 1#4
        t=200    ready 0#3
                 tell 0#1
        t=210    ready 1#4
                 done: reload 1, 1 replaced in 110ms
        t=220    exit 0#1 code 0
                 gone 0#1 (reload)
        t=221    look
                 = 0#3 ready, 1#4 ready; 2 wanted, settled
        ",
    );
}

#[test]
fn during_which_the_predecessor_crashes_goes_on() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=100    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=120    exit 0#1 SIGSEGV
        t=200    ready 0#2
                 done: reload 1, 0 replaced in 100ms
        t=201    look
                 = 0#2 ready; 1 wanted, settled
        ",
    );
}

#[test]
fn that_fails_in_one_slot_takes_back_the_successor_in_another() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=120    exit 1#2 SIGSEGV
                 fork 1#4
        t=140    exit 1#4 code 1
                 FAILED: reload 1 in slot 1: it ended before it was ready, with code 1; 0 replaced, 1 kept
                 slot 1 waits 100ms, 2 crashes
                 kill 0#3
        t=150    exit 0#3 code 0
                 gone 0#3 (reload)
        t=240    fork 1#5
        t=260    ready 1#5
        t=261    look
                 = 0#1 ready, 1#5 ready; 2 wanted, settled
        ",
    );
}

/// The successor that the second overtook leaves before it is ready.
#[test]
fn a_second_during_the_first() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=200    ready 0#3
                 tell 0#1
                 fork 1#4
        t=210    reload
                 begins: reload 2 of 2
                 kill 1#4
                 fork 0#5
        t=220    exit 0#1 code 0
                 gone 0#1 (reload)
        t=300    ready 0#5
                 tell 0#3
                 fork 1#6
        t=310    ready 1#6
                 tell 1#2
                 done: reload 2, 2 replaced in 100ms
        t=320    exit 1#4 code 0
                 gone 1#4 (reload)
        t=330    exit 0#3 code 0
                 gone 0#3 (reload)
        t=340    exit 1#2 code 0
                 gone 1#2 (reload)
        t=341    look
                 = 0#5 ready, 1#6 ready; 2 wanted, settled
        ",
    );
}

#[test]
fn many_during_a_slow_start_do_not_pile_up() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     reload
                 begins: reload 1 of 1
                 fork 0#2
        t=20     reload
                 begins: reload 2 of 1
                 kill 0#2
                 fork 0#3
        t=30     reload
                 begins: reload 3 of 1
                 kill 0#3
                 fork 0#4
        t=31     look
                 = 0#1 starting, 0#2 killed (reload), 0#3 killed (reload), 0#4 starting; 1 wanted, not settled
        t=40     ready 0#1
        t=50     ready 0#4
                 tell 0#1
                 done: reload 3, 1 replaced in 20ms
        t=60     exit 0#1 code 0
                 gone 0#1 (reload)
        t=61     exit 0#2 code 0
                 gone 0#2 (reload)
        t=62     exit 0#3 code 0
                 gone 0#3 (reload)
        t=63     look
                 = 0#4 ready; 1 wanted, settled
        ",
    );
}

#[test]
fn scale_down_during_a_reload() {
    story(
        rules(3),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 0#1, 1#2, 2#3
        t=100    reload
                 begins: reload 1 of 3
                 fork 0#4
        t=200    ready 0#4
                 tell 0#1
                 fork 1#5
        t=210    scale 1
                 tell 1#2, 2#3
                 kill 1#5
                 done: reload 1, 1 replaced in 110ms
        t=220    exit 0#1 code 0
                 gone 0#1 (reload)
        t=230    exit 1#2 code 0
                 gone 1#2 (scale)
        t=240    exit 1#5 code 0
                 gone 1#5 (scale)
        t=250    exit 2#3 code 0
                 gone 2#3 (scale)
        t=251    look
                 = 0#4 ready; 1 wanted, settled
        ",
    );
}

#[test]
fn scale_up_during_a_reload() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=100    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=110    scale 2
                 fork 1#3
        t=120    ready 0#2
                 tell 0#1
        t=130    ready 1#3
                 done: reload 1, 1 replaced in 30ms
        t=140    exit 0#1 code 0
                 gone 0#1 (reload)
        t=141    look
                 = 0#2 ready, 1#3 ready; 2 wanted, settled
        ",
    );
}

#[test]
fn stop_during_a_reload() {
    story(
        rules(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=150    stop
                 tell 0#1, 1#2
                 kill 0#3
        t=160    exit 0#3 code 0
                 gone 0#3 (stop)
        t=170    exit 0#1 code 0
                 gone 0#1 (stop)
        t=180    exit 1#2 code 0
                 gone 1#2 (stop)
                 STOPPED
        ",
    );
}

#[test]
fn leaves_manual_workers_alone() {
    story(
        rules(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=20     manual
                 fork 1#2*
        t=30     ready 1#2*
        t=100    reload
                 begins: reload 1 of 1
                 fork 0#3
        t=150    ready 0#3
                 tell 0#1
                 done: reload 1, 1 replaced in 50ms
        t=160    exit 0#1 code 0
                 gone 0#1 (reload)
        t=161    look
                 = 1#2* ready, 0#3 ready; 1 wanted, settled
        ",
    );
}
