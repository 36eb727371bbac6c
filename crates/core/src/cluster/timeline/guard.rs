//! Workers that are replaced though they run: limits, lost ones, and the end of patience.

use super::*;

fn patient(workers: usize) -> Spec {
    Spec { kill_after: Duration::from_millis(500), ..rules(workers) }
}

#[test]
fn one_that_leaks_goes_on_until_its_successor_is_ready() {
    story(
        rules(2),
        "t=0 fork 0#1, 1#2
         t=10 ready 0#1, 1#2
         t=1000 leaks 0#1
         replace 0#1 (memory limit)
         fork 0#3
         t=1010 look
         = 0#1 ready, 1#2 ready, 0#3 starting; 2 wanted, not settled
         t=1200 ready 0#3
         tell 0#1
         t=1210 exit 0#1 code 0
         gone 0#1 (memory limit)
         t=1220 look
         = 1#2 ready, 0#3 ready; 2 wanted, settled",
    );
}

#[test]
fn a_successor_that_does_not_come_up_is_tried_again_in_a_while() {
    story(
        rules(1),
        "t=0 fork 0#1
         t=10 ready 0#1
         t=1000 leaks 0#1
         replace 0#1 (memory limit)
         fork 0#2
         t=1100 exit 0#2 code 1
         t=1200 fork 0#3
         t=1300 exit 0#3 code 1
         t=1500 fork 0#4
         t=1510 leaks 0#1
         t=1600 ready 0#4
         tell 0#1
         t=1700 exit 0#1 code 0
         gone 0#1 (memory limit)",
    );
}

#[test]
fn a_reload_takes_the_place_of_a_replacement() {
    story(
        rules(1),
        "t=0 fork 0#1
         t=10 ready 0#1
         t=1000 leaks 0#1
         replace 0#1 (memory limit)
         fork 0#2
         t=1100 reload
         begins: reload 1 of 1
         kill 0#2
         fork 0#3
         t=1300 ready 0#3
         tell 0#1
         done: reload 1, 1 replaced in 200ms",
    );
}

#[test]
fn who_is_to_be_replaced_may_crash() {
    story(
        rules(1),
        "t=0 fork 0#1
         t=10 ready 0#1
         t=1000 leaks 0#1
         replace 0#1 (memory limit)
         fork 0#2
         t=1100 exit 0#1 SIGKILL
         t=1200 ready 0#2
         t=1210 look
         = 0#2 ready; 1 wanted, settled",
    );
}

#[test]
fn one_that_hangs_is_ended_and_replaced_at_once() {
    story(
        patient(2),
        "t=0 fork 0#1, 1#2
         t=10 ready 0#1, 1#2
         t=5000 hangs 0#1
         LOST 0#1 (hung)
         end 0#1
         fork 0#3
         t=5400 ready 0#3
         t=5500 0#1 still there after 500ms
         kill 0#1
         t=5510 exit 0#1 SIGKILL
         gone 0#1 (hung)",
    );
}

#[test]
fn a_stop_ends_with_sigterm_and_then_with_sigkill() {
    story(
        patient(2),
        "t=0 fork 0#1, 1#2
         t=10 ready 0#1, 1#2
         t=100 stop
         tell 0#1, 1#2
         t=1000 terminated 1#2
         t=1100 overdue 0#1 1s
         end 0#1
         1#2 still there after 1s
         kill 1#2
         t=1110 exit 1#2 SIGKILL
         gone 1#2 (stop)
         t=1600 0#1 still there after 1.5s
         kill 0#1
         t=1610 exit 0#1 SIGKILL
         gone 0#1 (stop)
         STOPPED",
    );
}
