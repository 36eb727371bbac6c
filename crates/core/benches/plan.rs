//! What a decision costs: one fact is observed, and the cluster is planned again.
//!
//! `cargo bench -p phalanx-core --bench plan`
#![allow(missing_docs, reason = "criterion's macros document nothing")]

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use phalanx_core::cluster::{Action, Cluster, Event};
use phalanx_core::spec::{ReloadRules, Share, Spec};
use phalanx_core::time::Time;
use phalanx_core::worker::{Exit, WorkerId};
use std::hint::black_box;

/// Slots, in a reload that brings all successors at once: twice as many workers.
const SLOTS: [usize; 3] = [4, 64, 500];

/// Does what a plan says, as far as processes begin.
fn perform(cluster: &mut Cluster, now: Time, actions: &[Action]) -> Vec<WorkerId> {
    let mut begun = Vec::new();
    for action in actions {
        if let Action::Fork { worker, .. } = action {
            cluster.observe(now, Event::Forked { worker: *worker, pid: 1000 + worker.0 });
            begun.push(*worker);
        }
    }
    begun
}

/// All workers serve.
fn serving(slots: usize) -> Cluster {
    let reload = ReloadRules { at_once: Share::Percent(100), ..ReloadRules::default() };
    let mut cluster = Cluster::new(Spec { workers: slots, reload, ..Spec::default() });
    let actions = cluster.plan(Time::ZERO);
    for worker in perform(&mut cluster, Time::ZERO, &actions) {
        cluster.observe(Time::ZERO, Event::Listening { worker });
    }
    let _ = cluster.plan(Time::from_millis(1_000));
    cluster
}

/// In the middle of a reload: the old workers serve, and beside each its successor starts.
fn reloading(slots: usize) -> Cluster {
    let (mut cluster, now) = (serving(slots), Time::from_millis(2_000));
    cluster.observe(now, Event::Reload);
    let actions = cluster.plan(now);
    assert_eq!(perform(&mut cluster, now, &actions).len(), slots);
    let _ = cluster.plan(now);
    assert_eq!(cluster.workers().count(), 2 * slots);
    cluster
}

fn plan(c: &mut Criterion) {
    let now = Time::from_millis(3_000);
    let mut group = c.benchmark_group("plan");
    for slots in SLOTS {
        let nothing = Event::Online { worker: WorkerId(u32::MAX) };
        let last = WorkerId(u32::try_from(slots).unwrap_or(u32::MAX));
        let cases = [
            ("nothing-heard", slots, serving(slots), None),
            ("nothing-to-do", slots, serving(slots), Some(nothing.clone())),
            (
                "crash",
                slots,
                serving(slots),
                Some(Event::Exited { worker: last, exit: Exit::Signal(9) }),
            ),
            ("nothing-to-do-in-a-reload", 2 * slots, reloading(slots), Some(nothing)),
            (
                "crash-in-a-reload",
                2 * slots,
                reloading(slots),
                Some(Event::Exited { worker: last, exit: Exit::Signal(9) }),
            ),
        ];
        for (name, workers, cluster, event) in cases {
            group.bench_function(BenchmarkId::new(name, workers), |b| {
                b.iter_batched_ref(
                    || cluster.clone(),
                    |cluster| {
                        if let Some(event) = &event {
                            cluster.observe(now, event.clone());
                        }
                        black_box((cluster.plan(now), cluster.wake()))
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, plan);
criterion_main!(benches);
