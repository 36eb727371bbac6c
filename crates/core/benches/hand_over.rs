//! What a connection costs in `round-robin`, apart from the kernel: who gets it, the line it is sent with, and reading
//! that line and its answer.
//!
//! `cargo bench -p phalanx-core --bench hand_over`
#![allow(missing_docs, reason = "criterion's macros document nothing")]

use core::time::Duration;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use phalanx_core::balance::{Candidate, RoundRobin, Scheduler};
use phalanx_core::wire::{
    Act, Answer, Cluster, DEFAULT_MAX_LINE, Decoder, Dialect, Frame, hand_over_line, taken_line,
};
use phalanx_core::worker::{SlotId, WorkerId};
use std::hint::black_box;

const KEY: &str = "127.0.0.1:8000:4:0";
/// Connections that come at once.
const BATCH: u64 = 16;

fn candidates(workers: u32) -> Vec<Candidate> {
    let candidate = |n| Candidate {
        worker: WorkerId(n + 1),
        slot: SlotId(n),
        free: true,
        unanswered: 0,
        silent: Duration::ZERO,
        open: 0,
    };
    (0..workers).map(candidate).collect()
}

fn picks(c: &mut Criterion) {
    let mut group = c.benchmark_group("round-robin picks");
    for workers in [2, 16, 512] {
        let candidates = candidates(workers);
        let mut turn = RoundRobin::default();
        group.bench_function(BenchmarkId::from_parameter(format!("{workers} workers")), |b| {
            b.iter(|| turn.pick(None, black_box(&candidates)));
        });
    }
    group.finish();
}

fn written(c: &mut Criterion) {
    c.bench_function("the line of a hand-over", |b| {
        b.iter(|| hand_over_line(black_box(KEY), black_box(1_234_567), Dialect::Node));
    });
    c.bench_function("the line of its answer", |b| {
        b.iter(|| taken_line(black_box(1_234), black_box(1_234_567), true, 16));
    });
    // The way of all other frames.
    let answer = Answer { accepted: Some(true), open: Some(16), ..Answer::default() };
    let frame = Cluster { seq: Some(1_234), ack: Some(1_234_567), act: Act::Answer(answer) };
    let frame = Frame::Cluster(frame);
    c.bench_function("the line of its answer, by the encoder", |b| {
        b.iter(|| black_box(&frame).encode());
    });
}

fn read(c: &mut Criterion) {
    let lines = |line: &dyn Fn(u64) -> Vec<u8>| (0..BATCH).flat_map(line).collect::<Vec<u8>>();
    let ack = Frame::HandleAck.encode();
    let node = |n| {
        format!(
            "{{\"cmd\":\"NODE_CLUSTER\",\"ack\":{},\"accepted\":true,\"seq\":{n}}}\n",
            n + 1_234_567
        )
    };
    let cases = [
        ("hand-overs", lines(&|n| hand_over_line(KEY, n, Dialect::Node))),
        ("answers of the crate", lines(&|n| taken_line(n, n + 1_234_567, true, 16))),
        ("answers of Node", lines(&|n| [ack.as_slice(), node(n).as_bytes()].concat())),
        // A space is enough for the way of all other frames.
        ("answers, by the parser", lines(&|n| node(n).replace(',', ", ").into_bytes())),
    ];
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(BATCH));
    for (name, bytes) in cases {
        group.bench_function(name, |b| {
            let mut decoder = Decoder::new(DEFAULT_MAX_LINE);
            b.iter(|| {
                decoder.feed(black_box(&bytes));
                while let Ok(Some(frame)) = decoder.next_frame() {
                    black_box(frame);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, picks, written, read);
criterion_main!(benches);
