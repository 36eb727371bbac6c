//! Timelines of stops, of workers that nobody replaces, and of what is impossible.

use super::*;

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
