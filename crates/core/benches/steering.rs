//! What it costs to compute a steering program: when a worker comes, leaves or is stuck, never for a connection.
//!
//! `cargo bench -p phalanx-core --bench steering`
#![allow(missing_docs, reason = "criterion's macros document nothing")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use phalanx_core::steering::{Mode, Share, program};
use std::hint::black_box;

const SLOTS: [usize; 3] = [4, 64, 512];

/// All are up but every so-many-th.
fn shares(slots: usize, down: usize) -> Vec<Share> {
    (0..slots).map(|slot| Share { weight: 1, up: down == 0 || slot % down != 0 }).collect()
}

fn steering(c: &mut Criterion) {
    let mut group = c.benchmark_group("steering");
    let cases = [
        ("random", Mode::Random, 0),
        ("random-some-down", Mode::Random, 3),
        ("sticky", Mode::Source, 0),
        ("sticky-some-down", Mode::Source, 3),
    ];
    for (name, mode, down) in cases {
        for slots in SLOTS {
            let shares = shares(slots, down);
            let length = program(mode, &shares).map_or(0, |program| program.len());
            let id = BenchmarkId::new(name, format!("{slots} slots, {length} instructions"));
            group.bench_function(id, |b| b.iter(|| black_box(program(mode, black_box(&shares)))));
        }
    }
    group.finish();
}

criterion_group!(benches, steering);
criterion_main!(benches);
