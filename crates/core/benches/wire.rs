//! What it costs to read and to write the lines of a channel: `cargo bench -p phalanx-core --bench wire`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use phalanx_core::wire::{
    Act, Answer, Cluster, DEFAULT_MAX_LINE, Decoder, Frame, Handle, HandleKind, encode_text,
};
use std::hint::black_box;

/// What is read at a time.
const PIECE: usize = 64 << 10;

/// Messages of the user's: a name and a text.
fn message(size: usize) -> String {
    format!("{{\"echo\":\"{}\"}}", "x".repeat(size.saturating_sub(12)))
}

/// The same, with an escape in it.
fn escaped(size: usize) -> String {
    message(size.saturating_sub(6)).replacen("xxx", "\\u00e9xxx", 1)
}

/// Lines that come in one piece, or one line in several.
fn lines(line: &[u8]) -> Vec<u8> {
    line.repeat((PIECE / line.len()).max(1))
}

fn newconn(seq: u64) -> Frame {
    let act = Act::NewConn { key: "127.0.0.1:8000:4:::0".into() };
    let message = Box::new(Frame::Cluster(Cluster { seq: Some(seq), ack: None, act }));
    Frame::Handle(Handle { kind: HandleKind::Native, key: None, message })
}

fn accepted(seq: u64) -> Frame {
    let answer = Answer { accepted: Some(true), open: Some(7), ..Answer::default() };
    Frame::Cluster(Cluster { seq: Some(seq), ack: Some(seq), act: Act::Answer(answer) })
}

/// Reads a stream as a channel does; how many frames there were.
fn read(decoder: &mut Decoder, stream: &[u8]) -> usize {
    let mut frames = 0;
    for piece in stream.chunks(PIECE) {
        decoder.feed(piece);
        while let Ok(Some(frame)) = decoder.next_frame() {
            black_box(frame);
            frames += 1;
        }
    }
    frames
}

fn parsing(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let streams = [
        ("100 B", lines(&encode_text(message(100)).expect("a message"))),
        ("10 kB", lines(&encode_text(message(10_000)).expect("a message"))),
        ("1 MB", lines(&encode_text(message(1_000_000)).expect("a message"))),
        // Looked at twice: it could be one of the channel's own.
        ("100 B with an escape", lines(&encode_text(escaped(100)).expect("a message"))),
        ("ack", lines(&Frame::HandleAck.encode())),
        ("accepted", lines(&accepted(1234).encode())),
        ("newconn", lines(&newconn(1234).encode())),
    ];
    for (name, stream) in &streams {
        let mut decoder = Decoder::new(DEFAULT_MAX_LINE);
        let frames = read(&mut decoder, stream);
        assert!(frames > 0, "{name}: no frame");
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(*name, |b| b.iter(|| read(&mut decoder, stream)));
    }
    group.finish();
}

fn encoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for (name, size) in [("100 B", 100), ("10 kB", 10_000), ("1 MB", 1_000_000)] {
        let text = message(size);
        group.bench_function(name, |b| {
            b.iter_batched(|| text.clone(), encode_text, BatchSize::SmallInput);
        });
    }
    for (name, frame) in
        [("ack", Frame::HandleAck), ("accepted", accepted(1234)), ("newconn", newconn(1234))]
    {
        group.bench_function(name, |b| b.iter(|| black_box(&frame).encode()));
    }
    group.finish();
}

criterion_group!(benches, parsing, encoding);
criterion_main!(benches);
