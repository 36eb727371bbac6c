//! What `phalanx run` shows of its workers while they run: their messages, their metrics.

use crate::patient::patient;
use phalanx::{Event, Metrics, Primary, WorkerHandle};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Characters of a message that are printed.
const PRINTED: usize = 16_384;

/// Each message on a line of its own, on stdout. What nobody reads in time is not printed.
pub(crate) async fn print_messages(primary: Primary) {
    let (mut stdout, _rest) = patient(std::io::stdout());
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

/// A line for each worker that answers, every so often.
pub(crate) async fn log_stats(primary: Primary, every: Duration) {
    let every = every.max(Duration::from_millis(100));
    let mut events = primary.events();
    drop(primary);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut workers: BTreeMap<u32, (WorkerHandle, Metrics)> = BTreeMap::new();
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(Event::Listening(worker, _)) => {
                    workers.entry(worker.id().0).or_insert((worker, Metrics::default()));
                }
                Some(Event::Exit(worker, _)) => {
                    workers.remove(&worker.id().0);
                }
                Some(_) => {}
            },
            _ = ticks.tick() => {
                let mut asked = JoinSet::new();
                for (id, (worker, _)) in &workers {
                    let (id, worker) = (*id, worker.clone());
                    // One that is busy all the time is not waited for.
                    asked.spawn(async move {
                        (id, tokio::time::timeout(every / 2, worker.metrics()).await)
                    });
                }
                for (id, answer) in asked.join_all().await {
                    if let (Some((worker, before)), Ok(Ok(metrics))) = (workers.get_mut(&id), answer) {
                        tracing::info!("worker {id} in slot {}: {}", worker.slot(), line(before, &metrics, every));
                        *before = metrics;
                    }
                }
            }
        }
    }
}

fn line(before: &Metrics, now: &Metrics, every: Duration) -> String {
    let new: Vec<u64> = now
        .latency
        .iter()
        .enumerate()
        .map(|(n, count)| count.saturating_sub(before.latency.get(n).copied().unwrap_or(0)))
        .collect();
    let since = Metrics { latency: new, ..Metrics::default() };
    let within = |part| {
        since.quantile(part).map_or_else(|| "-".to_owned(), |latency| format!("{latency:?}"))
    };
    let mib = |bytes: f64| bytes / 1_048_576.0;
    format!(
        "{:.0} requests/s, half within {}, 99 % within {}; {} open; event loop {:.0} % busy, at most {:.0} ms late; heap {:.0} MiB, memory {:.0} MiB",
        (now.requests - before.requests).max(0.0) / every.as_secs_f64(),
        within(0.5),
        within(0.99),
        now.open,
        now.utilization * 100.0,
        now.lag_max,
        mib(now.heap_used),
        mib(now.rss),
    )
}
