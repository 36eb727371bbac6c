//! Timelines of reloads by other rules than one slot at a time, at its word.

use super::*;
use crate::spec::{Canary, ReloadRules, Share};

fn reloading(workers: usize, reload: ReloadRules) -> Spec {
    Spec { reload, ..rules(workers) }
}

fn healthy(workers: usize) -> Spec {
    let healthy_for = Duration::from_millis(500);
    reloading(workers, ReloadRules { healthy_for, ..ReloadRules::default() })
}

fn canary(workers: usize, share: Option<u8>) -> Spec {
    let canary = Canary { slots: 1, time: Duration::from_secs(2), share };
    reloading(workers, ReloadRules { canary: Some(canary), ..ReloadRules::default() })
}

#[test]
fn two_slots_at_a_time() {
    story(
        reloading(5, ReloadRules { at_once: Share::Percent(40), ..ReloadRules::default() }),
        "
        t=0      fork 0#1, 1#2, 2#3, 3#4, 4#5
        t=10     ready 0#1, 1#2, 2#3, 3#4, 4#5
        t=100    reload
                 begins: reload 1 of 5
                 fork 0#6, 1#7
        t=150    ready 1#7
                 tell 1#2
                 fork 2#8
        t=200    ready 0#6, 2#8
                 tell 0#1, 2#3
                 fork 3#9, 4#10
        t=250    ready 3#9
                 tell 3#4
        t=260    ready 4#10
                 tell 4#5
                 done: reload 1, 5 replaced in 160ms
        ",
    );
}

#[test]
fn the_old_one_stays_until_the_new_one_was_healthy_for_a_while() {
    story(
        healthy(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=150    ready 0#3
        t=151    look
                 = 0#1 ready, 1#2 ready, 0#3 ready; 2 wanted, not settled
        t=650    tell 0#1
                 fork 1#4
        t=700    ready 1#4
        t=1200   tell 1#2
                 done: reload 1, 2 replaced in 1.1s
        t=1201   pass
        ",
    );
}

/// It listened, and so the old rule would have taken it at its word.
#[test]
fn one_that_crashes_after_it_listened_replaces_nobody() {
    story(
        healthy(2),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=150    ready 0#3
        t=450    exit 0#3 code 1
                 FAILED: reload 1 in slot 0: it crashed after 300.0ms of service; 0 replaced, 2 kept
        t=451    look
                 = 0#1 ready, 1#2 ready; 2 wanted, settled
        ",
    );
}

/// Those that were not proven yet leave; the old ones do not.
#[test]
fn a_second_reload_drops_what_was_not_proven() {
    story(
        healthy(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=100    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=150    ready 0#2
        t=200    reload
                 tell 0#2
                 begins: reload 2 of 1
                 fork 0#3
        t=250    ready 0#3
        t=260    exit 0#2 code 0
                 gone 0#2 (reload)
        t=750    tell 0#1
                 done: reload 2, 1 replaced in 550ms
        t=751    look
                 = 0#1 leaves until 1750 (reload), 0#3 ready; 1 wanted, settled
        ",
    );
}

#[test]
fn one_that_ails_while_it_is_watched_is_a_failure() {
    story(
        healthy(1),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=100    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=150    ready 0#2
        t=200    ails 0#2
                 tell 0#2
                 FAILED: reload 1 in slot 0: it was ended (unhealthy); 0 replaced, 1 kept
        t=210    exit 0#2 code 0
                 gone 0#2 (rollback)
        t=220    look
                 = 0#1 ready; 1 wanted, settled
        ",
    );
}

#[test]
fn a_canary_is_watched_before_the_others_follow() {
    story(
        canary(3, None),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 0#1, 1#2, 2#3
        t=100    reload
                 begins: reload 1 of 3
                 fork 0#4
        t=200    ready 0#4
                 canary in 1 for 2s
        t=300    weights
                 = 0#1 64, 1#2 64, 2#3 64, 0#4 64
        t=2200   canary passed after 2s
                 tell 0#1
                 fork 1#5
        t=2300   ready 1#5
                 tell 1#2
                 fork 2#6
        t=2400   ready 2#6
                 tell 2#3
                 done: reload 1, 3 replaced in 2.3s
        ",
    );
}

/// Its old worker never left.
#[test]
fn a_canary_that_crashes_goes_back_by_itself() {
    story(
        canary(3, None),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 0#1, 1#2, 2#3
        t=100    reload
                 begins: reload 1 of 3
                 fork 0#4
        t=200    ready 0#4
                 canary in 1 for 2s
        t=1200   exit 0#4 SIGSEGV
                 FAILED: reload 1 in slot 0: it crashed after 1.0s of service; 0 replaced, 3 kept
        t=1201   look
                 = 0#1 ready, 1#2 ready, 2#3 ready; 3 wanted, settled
        ",
    );
}

#[test]
fn a_canary_that_ails_or_hangs_goes_back_too() {
    story(
        canary(2, None),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=200    ready 0#3
                 canary in 1 for 2s
        t=300    ails 0#3
                 tell 0#3
                 FAILED: reload 1 in slot 0: it was ended (unhealthy); 0 replaced, 2 kept
        t=310    exit 0#3 code 0
                 gone 0#3 (rollback)
        t=400    reload
                 begins: reload 2 of 2
                 fork 0#4
        t=410    ready 0#4
                 canary in 1 for 2s
        t=500    hangs 0#4
                 LOST 0#4 (hung)
                 kill 0#4
                 FAILED: reload 2 in slot 0: it was ended (hung); 0 replaced, 2 kept
        t=510    exit 0#4 SIGKILL
                 gone 0#4 (hung)
        t=520    look
                 = 0#1 ready, 1#2 ready; 2 wanted, settled
        ",
    );
}

/// A slot in which somebody dies meanwhile does not become a second canary; it follows with the others.
#[test]
fn other_slots_have_the_old_program_while_a_canary_is_watched() {
    story(
        canary(2, None),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=200    ready 0#3
                 canary in 1 for 2s
        t=300    exit 1#2 SIGSEGV
                 fork 1#4
        t=400    ready 1#4
        t=2200   canary passed after 2s
                 tell 0#1
                 fork 1#5
        t=2300   ready 1#5
                 tell 1#4
                 done: reload 1, 2 replaced in 2.2s
        ",
    );
}

/// The canary is all that its slot has left, and is bad: its slot gets the old program again.
#[test]
fn a_canary_whose_old_worker_died_is_replaced_when_it_fails() {
    story(
        canary(2, None),
        "
        t=0      fork 0#1, 1#2
        t=10     ready 0#1, 1#2
        t=100    reload
                 begins: reload 1 of 2
                 fork 0#3
        t=200    ready 0#3
                 canary in 1 for 2s
        t=300    exit 0#1 SIGSEGV
        t=400    exit 0#3 SIGSEGV
                 FAILED: reload 1 in slot 0: it crashed after 200.0ms of service; 0 replaced, 1 kept
                 fork 0#4
        t=410    ready 0#4
        t=420    look
                 = 1#2 ready, 0#4 ready; 2 wanted, settled
        ",
    );
}

/// Of ten that arrive, one is the canary's: 192 of others to 21.
#[test]
fn a_canary_gets_its_share() {
    story(
        canary(3, Some(10)),
        "
        t=0      fork 0#1, 1#2, 2#3
        t=10     ready 0#1, 1#2, 2#3
        t=100    reload
                 begins: reload 1 of 3
                 fork 0#4
        t=200    ready 0#4
                 canary in 1 for 2s
        t=300    weights
                 = 0#1 64, 1#2 64, 2#3 64, 0#4 21
        t=2200   canary passed after 2s
                 tell 0#1
                 fork 1#5
        t=2201   weights
                 = 1#2 64, 2#3 64, 0#4 64
        ",
    );
}

/// Both wait for their number of the reload, whatever the number of its slots.
#[test]
fn a_stop_during_a_canary() {
    story_with_receipts(
        canary(1, None),
        "
        t=0      fork 0#1
        t=10     ready 0#1
        t=100    reload
                 begins: reload 1 of 1
                 fork 0#2
        t=200    ready 0#2
                 canary in 1 for 2s
        t=300    stop
                 tell 0#1, 0#2
                 receipt: reload 1 in the end: ended by a stop, 0 workers replaced in 200.0ms; no connection is known to be cut
        t=310    exit 0#1 code 0
                 gone 0#1 (stop)
        t=320    exit 0#2 code 0
                 gone 0#2 (stop)
                 STOPPED
        ",
    );
}
