//! What `phalanx run` shows of its workers while they run: their messages, their metrics.

use crate::logs::bounded;
use crate::output::beside;
use crate::patient::patient;
use phalanx::{Event, Metrics, Primary, WorkerHandle, WorkerId};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Characters of a message that are printed.
const PRINTED: usize = 16_384;

/// Each message on a line of its own, on stdout. What nobody reads in time is not printed.
pub(crate) async fn print_messages(primary: Primary) {
    let (mut stdout, _rest) = patient(bounded(beside(std::io::stdout()), std::io::stdout()));
    let mut events = primary.events();
    drop(primary);
    while let Some(event) = events.next().await {
        if let Event::Message(worker, message) = event {
            let with = if message.has_handle() { " (with a handle)" } else { "" };
            let text = message.text();
            let end = text.char_indices().nth(PRINTED).map_or(text.len(), |(at, _)| at);
            let more = if end < text.len() { "…" } else { "" };
            let line = format!(
                "worker {} in slot {}{with}: {}{more}\n",
                worker.id(),
                worker.slot(),
                text.get(..end).unwrap_or_default()
            );
            // Nobody may be there to read it; the workers serve on.
            let _ = stdout.write_all(line.as_bytes());
        }
    }
}

/// The workers that are there, and what they said last.
type Workers = Arc<Mutex<BTreeMap<WorkerId, (WorkerHandle, Metrics)>>>;

/// A line for each worker that answers, every so often.
pub(crate) async fn log_stats(primary: Primary, every: Duration) {
    let every = every.max(Duration::from_millis(100));
    let mut events = primary.events();
    drop(primary);
    let workers = Workers::default();
    let asking = tokio::spawn(ask(Arc::clone(&workers), every));
    // Read all the time: workers wait for whoever does not.
    while let Some(event) = events.next().await {
        match event {
            Event::Online(worker) => {
                lock(&workers).insert(worker.id(), (worker, Metrics::default()));
            }
            Event::Disconnect(worker) => {
                lock(&workers).remove(&worker.id());
            }
            _ => {}
        }
    }
    asking.abort();
}

async fn ask(workers: Workers, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let there: Vec<WorkerHandle> =
            lock(&workers).values().map(|(worker, _)| worker.clone()).collect();
        for worker in there {
            let workers = Arc::clone(&workers);
            // One that is busy all the time holds no other up.
            tokio::spawn(async move {
                let Ok(Ok(now)) = tokio::time::timeout(every, worker.metrics()).await else {
                    return;
                };
                if let Some((_, before)) = lock(&workers).get_mut(&worker.id()) {
                    let (id, slot) = (worker.id(), worker.slot());
                    tracing::info!("worker {id} in slot {slot}: {}", line(before, &now, every));
                    *before = now;
                }
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn line(before: &Metrics, now: &Metrics, every: Duration) -> String {
    let new: Vec<u64> = now
        .latency
        .iter()
        .enumerate()
        .map(|(n, count)| count.saturating_sub(before.latency.get(n).copied().unwrap_or(0)))
        .collect();
    let since = Metrics { latency: new, ..Metrics::default() };
    let most = |part| since.quantile(part).map(|latency| format!("{latency:?}"));
    // The ends of buckets, each twice the one before.
    let latency = match (most(0.5), most(0.99)) {
        (Some(half), Some(nearly_all)) => format!(", p50 ≤ {half}, p99 ≤ {nearly_all}"),
        _ => String::new(),
    };
    let mib = |bytes: f64| bytes / 1_048_576.0;
    format!(
        "{:.0} requests per second{latency}; {} open; event loop {:.0} % busy, at most {:.0} ms late; heap {:.0} MiB, memory {:.0} MiB",
        (now.requests - before.requests).max(0.0) / every.as_secs_f64(),
        now.open,
        now.utilization * 100.0,
        now.lag_max,
        mib(now.heap_used),
        mib(now.rss),
    )
}
