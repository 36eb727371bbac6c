//! How connections spread over the workers.
#![allow(clippy::unwrap_used)]

mod common;

use bench::load::Load;
use common::{Cluster, assert_lossless};

/// 20,000 connections over 4 workers; the most and the least that one of them got.
fn spread(policy: &str) -> (u64, u64) {
    let cluster = Cluster::demo(4, &["--policy", policy]);
    let load = Load::new(cluster.address).clients(16).requests(20_000);
    let outcome = load.start().unwrap().join();
    assert_lossless(policy, &outcome, &cluster.process);
    assert_eq!(outcome.answered, 20_000);
    assert_eq!(outcome.connections, 20_000);
    let counts = outcome.by_worker.values();
    let most = counts.clone().max().copied().unwrap_or_default();
    let least = if counts.len() == 4 { counts.min().copied().unwrap_or_default() } else { 0 };
    eprintln!("{policy}: 20,000 connections over 4 workers: {:?}", outcome.by_worker);
    cluster.stop();
    (most, least)
}

fn assert_even(policy: &str, percent: u64) {
    let (most, least) = spread(policy);
    assert!(most * 100 <= least * percent, "{policy}: one worker got {most}, one {least}");
}

#[test]
fn direct_spreads_evenly() {
    assert_even("direct", 110);
}

#[test]
fn round_robin_spreads_evenly() {
    // Who is busy is passed over, and on a busy machine that is not everybody alike.
    assert_even("round-robin", 130);
}

#[test]
fn shared_spreads_as_the_kernel_likes() {
    // Told, not asserted.
    let (most, least) = spread("shared");
    eprintln!("shared: one worker got {most}, one {least}");
}
