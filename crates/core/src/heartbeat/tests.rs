use super::*;
use proptest::prelude::*;
use std::vec::Vec;

const RULES: Rules = Rules { interval: Duration::from_millis(100), misses: 3 };
const SECOND: Duration = Duration::from_secs(1);

fn at(ms: u64) -> Time {
    Time::from_millis(ms)
}

/// One that has answered a ping.
fn known() -> Heartbeat {
    let mut heart = Heartbeat::new(at(0));
    heart.answered(at(0));
    heart
}

#[test]
fn a_worker_that_is_heard_misses_nothing() {
    let mut heart = known();
    for beat in 1..100 {
        heart.sign(at(beat * 100 - 1));
        assert_eq!(heart.beat(at(beat * 100), RULES), Verdict::Ask);
    }
}

#[test]
fn one_that_never_answered_is_asked_once_and_never_judged() {
    let mut heart = Heartbeat::new(at(0));
    heart.sign(at(1));
    assert_eq!(heart.beat(at(100), RULES), Verdict::Ask);
    for beat in 2..100 {
        assert_eq!(heart.beat(at(beat * 100), RULES), Verdict::Fine);
    }
}

#[test]
fn any_sign_ends_a_row_of_misses() {
    let mut heart = known();
    assert_eq!(heart.beat(at(100), RULES), Verdict::Ask);
    assert_eq!(heart.beat(at(200), RULES), Verdict::Missed(1));
    assert_eq!(heart.beat(at(300), RULES), Verdict::Missed(2));
    heart.sign(at(399));
    assert_eq!(heart.missed(), 0);
    assert_eq!(heart.beat(at(400), RULES), Verdict::Ask);
    assert_eq!(heart.beat(at(500), RULES), Verdict::Missed(1));
    assert_eq!(heart.silence(at(500)), Duration::from_millis(101));
}

#[test]
fn a_beat_before_its_time_counts_nothing() {
    let mut heart = known();
    assert_eq!(heart.beat(at(100), RULES), Verdict::Ask);
    for ms in 101..200 {
        assert_eq!(heart.beat(at(ms), RULES), Verdict::Fine);
    }
    assert_eq!(heart.beat(at(200), RULES), Verdict::Missed(1));
}

#[test]
fn after_a_pause_everybody_has_all_of_the_time_again() {
    let mut heart = known();
    heart.beat(at(100), RULES);
    assert_eq!(heart.beat(at(300), RULES), Verdict::Missed(1));
    assert_eq!(heart.beat(at(400), RULES), Verdict::Missed(2));
    heart.pardon();
    assert_eq!(heart.beat(at(9_000), RULES), Verdict::Ask);
    assert_eq!(heart.beat(at(9_100), RULES), Verdict::Missed(1));
}

#[test]
fn rules_without_a_miss_are_those_with_one() {
    let rules = Rules { misses: 0, ..RULES };
    let mut heart = known();
    assert_eq!(heart.beat(at(100), rules), Verdict::Ask);
    assert_eq!(heart.beat(at(200), rules), Verdict::Hung);
}

#[test]
fn a_clock_that_is_adjusted_backwards_is_no_sleep() {
    let mut pace = Pace::default();
    assert!(pace.keeps(at(0), 10 * SECOND, SECOND));
    assert!(pace.keeps(at(1_000), 9 * SECOND, SECOND));
    assert!(!pace.keeps(at(2_000), 10 * SECOND, SECOND), "it slept for a second");
    pace.rest();
    assert!(pace.keeps(at(60_000), 10 * SECOND, SECOND));
}

#[test]
fn who_opens_a_socket_or_computes_does_not_stand_still() {
    let limit = 10 * SECOND;
    for busy in [
        |n: u64| Activity { cpu: Duration::ZERO, sockets: n },
        |n: u64| Activity { cpu: Duration::from_millis(20 * n), sockets: 1 },
    ] {
        let mut stall = Stall::default();
        for n in 0..1_000 {
            assert!(!stall.look(at(n * 1_000), busy(n), SECOND, limit), "{n}");
        }
    }
}

#[test]
fn what_a_runtime_does_beside_the_program_is_no_movement() {
    let mut stall = Stall::default();
    // A timer that costs a thousandth of a core.
    let idle = |n: u64| Activity { cpu: Duration::from_millis(n), sockets: 1 };
    let hung = (0..=30).any(|n| stall.look(at(n * 1_000), idle(n), SECOND, 30 * SECOND));
    assert!(hung, "it stood for {:?}", stall.stood());
}

#[test]
fn time_in_which_nobody_looked_does_not_count() {
    let still = Activity { cpu: SECOND, sockets: 1 };
    let mut stall = Stall::default();
    for n in 0..6 {
        // The primary was stopped in between: of nine seconds two count.
        assert!(!stall.look(at(n * 9_000), still, SECOND, 11 * SECOND), "{n}");
    }
    assert!(stall.look(at(54_000), still, SECOND, 11 * SECOND));
    stall.forget();
    assert!(!stall.look(at(55_000), still, SECOND, SECOND));
}

#[test]
fn checks_that_the_primary_held_up_do_not_count() {
    let mut failures = Failures::default();
    assert!(!failures.checked(false, SECOND, SECOND, 3));
    assert!(!failures.checked(false, SECOND, SECOND, 3));
    assert!(!failures.checked(false, 9 * SECOND, SECOND, 3));
    assert_eq!(failures.count(), 2);
    assert!(failures.checked(false, SECOND, SECOND, 3));
    assert!(!failures.checked(true, SECOND, SECOND, 3));
    assert_eq!(failures.count(), 0);
}

/// What happens to a worker.
#[derive(Clone, Copy, Debug)]
enum Step {
    Beat(u64),
    Sign(u64),
    Answer(u64),
    Pardon(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..250).prop_map(Step::Beat),
        1 => (0u64..250).prop_map(Step::Sign),
        1 => (0u64..250).prop_map(Step::Answer),
        1 => (0u64..5_000).prop_map(Step::Pardon),
    ]
}

proptest! {
    /// It hangs only if it was asked, and then, over as many beats as there may be misses, each an interval after
    /// the one before, said nothing and was pardoned nothing.
    #[test]
    fn no_verdict_without_all_of_the_misses(
        steps in proptest::collection::vec(step(), 1..200),
        misses in 1u32..6,
    ) {
        let rules = Rules { misses, ..RULES };
        let mut heart = Heartbeat::new(at(0));
        let (mut now, mut answered) = (0, false);
        // When it was asked, and when a miss was counted since.
        let mut row: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Beat(ms) => {
                    now += ms;
                    match heart.beat(at(now), rules) {
                        Verdict::Fine => {}
                        Verdict::Ask => row = std::vec![now],
                        verdict => {
                            prop_assert!(answered);
                            row.push(now);
                            let counted = u32::try_from(row.len()).unwrap() - 1;
                            prop_assert_eq!(counted, heart.missed());
                            prop_assert_eq!(verdict == Verdict::Hung, counted >= misses);
                            prop_assert!(row.windows(2).all(|two| two[1] - two[0] >= 100));
                        }
                    }
                }
                Step::Sign(ms) => {
                    now += ms;
                    heart.sign(at(now));
                    row.clear();
                }
                Step::Answer(ms) => {
                    now += ms;
                    heart.answered(at(now));
                    answered = true;
                    row.clear();
                }
                Step::Pardon(ms) => {
                    now += ms;
                    heart.pardon();
                    row.clear();
                    let verdict = heart.clone().beat(at(now), rules);
                    prop_assert!(matches!(verdict, Verdict::Fine | Verdict::Ask));
                }
            }
        }
    }

    /// One that says nothing more hangs in the end.
    #[test]
    fn silence_is_found_out(misses in 1u32..10, late in proptest::collection::vec(0u64..50, 12)) {
        let rules = Rules { misses, ..RULES };
        let mut heart = known();
        let (mut now, mut beats) = (0, 0);
        for late in late {
            now += 100 + late;
            beats += 1;
            if heart.beat(at(now), rules) == Verdict::Hung {
                prop_assert_eq!(beats, misses + 1);
                return Ok(());
            }
        }
        prop_assert!(false, "{misses} misses were not found in {beats} beats");
    }
}
