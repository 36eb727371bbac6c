//! Load curves, and what the number of workers makes of them.

use super::*;
use alloc::vec::Vec;
use proptest::prelude::*;
use std::eprintln;

/// What happened: at which second the number of workers became what, and the numbers of each second.
struct Run {
    changes: Vec<(u64, usize, usize)>,
    workers: Vec<usize>,
}

impl Run {
    fn last(&self) -> usize {
        *self.workers.last().expect("a second")
    }

    fn since(&self, second: u64) -> usize {
        self.changes.iter().filter(|(at, ..)| *at >= second).count()
    }
}

fn rules(min: usize, max: usize) -> Scaling {
    Scaling { min, max, ..Scaling::default() }
}

/// Workers share the load evenly, none has more than 100 % of a processor, and new ones serve after two seconds.
fn run(rules: &Scaling, seconds: u64, start: usize, load: impl Fn(u64) -> f64) -> Run {
    let mut scaler = Scaler::new(rules.clone());
    let (mut wanted, mut serving) = (start, start);
    let (mut coming, mut run) = (None, Run { changes: Vec::new(), workers: Vec::new() });
    for second in 0..seconds {
        if let Some((at, n)) = coming
            && at <= second
        {
            serving = n;
            coming = None;
        }
        let value = (load(second) / serving as f64).min(100.0);
        if let Some(Change { from, to, .. }) =
            scaler.sample(Time::from_millis(second * 1000), serving, wanted, value)
        {
            assert_eq!(from, wanted, "at {second} s");
            assert_ne!(from, to, "a change that is none, at {second} s");
            assert!((rules.min..=rules.max).contains(&to), "{to} at {second} s");
            run.changes.push((second, from, to));
            if to < wanted {
                serving = serving.min(to);
            }
            coming = (to > serving).then_some((second + 2, to));
            wanted = to;
        }
        run.workers.push(wanted);
    }
    run
}

#[test]
fn a_steady_load_comes_to_rest_and_stays_there() {
    for load in [0.0, 10.0, 69.0, 70.0, 71.0, 77.0, 140.0, 333.0, 560.0, 700.0, 5000.0] {
        let run = run(&rules(1, 16), 1_800, 4, |_| load);
        assert_eq!(run.since(600), 0, "load {load}: {:?}", run.changes);
        let each = load / run.last() as f64;
        assert!(each <= 77.0 || run.last() == 16, "load {load}: {each} with {}", run.last());
        let fewer = load / (run.last() - 1).max(1) as f64;
        assert!(fewer > 63.0 || run.last() == 1, "load {load}: {} are too many", run.last());
    }
}

#[test]
fn a_spike_is_answered_quickly_and_forgotten_slowly() {
    let run = run(&rules(2, 16), 400, 2, |s| if (100..130).contains(&s) { 900.0 } else { 60.0 });
    eprintln!("{:?}", run.changes);
    let (first, _, to) = run.changes[0];
    assert!((100..=102).contains(&first) && to >= 3, "{:?}", run.changes);
    assert!(run.workers[118] >= 12, "{:?}", run.changes);
    let down = run.changes.iter().find(|(_, from, to)| to < from).expect("it goes down again");
    assert!(down.0 >= 130 + 60 - 2, "before its time: {:?}", run.changes);
    assert_eq!(run.last(), 2, "{:?}", run.changes);
}

#[test]
fn many_spikes_are_one_busy_time() {
    // Every 30 s, one of 5 s: the workers for it stay.
    let run = run(&rules(1, 16), 1_200, 1, |s| if s % 30 < 5 { 700.0 } else { 50.0 });
    assert_eq!(run.since(300), 0, "{:?}", run.changes);
}

#[test]
fn waves_are_followed_with_few_changes() {
    let sine = |period: f64| {
        move |s: u64| 400.0 + 300.0 * (s as f64 / period * core::f64::consts::TAU).sin()
    };
    for (period, most) in [(60.0, 6), (600.0, 40), (3600.0, 30)] {
        let run = run(&rules(1, 20), 7_200, 5, sine(period));
        let per_wave = run.since(300) as f64 / (6_900.0 / period);
        eprintln!("period {period} s: {} changes, {per_wave:.1} per wave", run.changes.len());
        assert!(per_wave <= f64::from(most), "{:?}", run.changes);
        for (s, n) in run.workers.iter().enumerate().skip(60) {
            let each = sine(period)(s as u64) / *n as f64;
            assert!(each < 100.0, "{each} with {n} at {s} s of a wave of {period} s");
        }
    }
}

#[test]
fn a_saw_is_not_followed_down_before_its_next_tooth() {
    let run = run(&rules(1, 20), 3_600, 2, |s| (s % 50) as f64 * 20.0);
    assert_eq!(run.since(400), 0, "{:?}", run.changes);
}

#[test]
fn noise_within_the_band_changes_nothing() {
    let noise = |s: u64| {
        let x = (s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
            >> 33;
        (x % 2_000) as f64 / 1_000.0 - 1.0
    };
    let run = run(&rules(1, 16), 3_600, 5, |s| 330.0 * (1.0 + 0.09 * noise(s)));
    assert_eq!(run.since(0), 0, "{:?}", run.changes);
    // Much noise: the number of changes is small all the same, as the most that was needed stays.
    let run = self::run(&rules(1, 16), 3_600, 5, |s| 330.0 * (1.0 + 0.5 * noise(s)));
    assert!(run.since(300) <= 4, "{:?}", run.changes);
}

#[test]
fn steps_are_kept() {
    let rules = Scaling { step: Some(1), ..rules(1, 10) };
    let run = run(&rules, 600, 1, |s| if s < 100 { 1_000.0 } else { 0.0 });
    assert!(run.changes.iter().all(|(_, from, to)| from.abs_diff(*to) == 1), "{:?}", run.changes);
    assert_eq!(run.workers[99], 10, "{:?}", run.changes);
    let pauses = run.changes.windows(2).map(|two| (two[0].2 < two[1].2, two[1].0 - two[0].0));
    for (up, pause) in pauses {
        assert!(pause >= if up { 5 } else { 60 }, "{:?}", run.changes);
    }
}

#[test]
fn nonsense_is_no_signal() {
    let mut scaler = Scaler::new(rules(1, 4));
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(scaler.sample(Time::ZERO, 2, 2, value), None);
    }
    assert_eq!(scaler.sample(Time::ZERO, 0, 2, 1_000.0), None, "nobody serves");
    assert_eq!(scaler.value(), None);
    let change = scaler.sample(Time::ZERO, 1, 2, f64::MAX);
    assert_eq!(change.map(|c| c.to), Some(4), "{change:?}");
}

#[test]
fn absurd_rules_are_refused() {
    for bad in [
        rules(0, 4),
        rules(5, 4),
        rules(1, MAX_WORKERS + 1),
        Scaling { target: 0.0, ..rules(1, 4) },
        Scaling { target: -1.0, ..rules(1, 4) },
        Scaling { target: f64::NAN, ..rules(1, 4) },
        Scaling { band: -0.1, ..rules(1, 4) },
        Scaling { band: 1.0, ..rules(1, 4) },
        Scaling { step: Some(0), ..rules(1, 4) },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
}

proptest! {
    /// Whatever the load does: within the limits, and not more often than the pauses allow.
    #[test]
    fn any_load_within_bounds(
        loads in prop::collection::vec(0.0..3000.0f64, 1..400),
        min in 1usize..5, more in 0usize..12, step in prop::option::of(1usize..4),
    ) {
        let rules = Scaling { step, ..rules(min, min + more) };
        let seconds = loads.len() as u64;
        let run = run(&rules, seconds, min, |s| loads.iter().copied().nth(usize::try_from(s).unwrap()).unwrap());
        for two in run.changes.windows(2) {
            let pause = two[1].0 - two[0].0;
            prop_assert!(pause >= 5, "{:?}", run.changes);
            prop_assert!(two[1].2 > two[1].1 || pause >= 60, "{:?}", run.changes);
        }
    }

    /// Any steady load: at rest after the first quarter of an hour, whatever it began with.
    #[test]
    fn any_steady_load_comes_to_rest(load in 0.0..2000.0f64, start in 1usize..16) {
        let run = run(&rules(1, 16), 1_800, start, |_| load);
        prop_assert_eq!(run.since(900), 0, "{:?}", run.changes);
    }
}
