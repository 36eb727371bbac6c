//! The demo's live table of workers.

use crate::log::Recent;
use phalanx::{Primary, WorkerId};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the table is drawn.
const EVERY: Duration = Duration::from_millis(500);
/// Workers shown; the rest is counted.
const SHOWN: usize = 24;

/// What workers told: requests answered, connections open.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<BTreeMap<WorkerId, (u64, u32)>>>);

impl Counts {
    pub(crate) fn set(&self, worker: WorkerId, requests: u64, open: u32) {
        self.lock().insert(worker, (requests, open));
    }

    pub(crate) fn remove(&self, worker: WorkerId) {
        self.lock().remove(&worker);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, (u64, u32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Draws until the cluster has stopped.
pub(crate) async fn show(
    primary: &Primary,
    head: &str,
    counts: &Counts,
    recent: &Recent,
) -> io::Result<()> {
    let mut drawn = 0;
    while let Ok(status) = primary.status().await {
        let counts = counts.lock().clone();
        let mut text = String::from(head);
        let _ =
            writeln!(text, "\nSLOT  WORKER  PID      STATE      UP        REQUESTS  OPEN  RELOAD");
        let mut workers = status.workers;
        workers.sort_by_key(|w| (w.slot, w.id));
        for w in workers.iter().take(SHOWN) {
            let (requests, open) = counts.get(&w.id).copied().unwrap_or_default();
            let _ = writeln!(
                text,
                "{:<5} {:<7} {:<8} {:<10} {:<9} {requests:<9} {open:<5} {}",
                w.slot.to_string(),
                w.id.to_string(),
                w.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                w.state,
                format!("{}s", w.age.as_secs()),
                w.generation,
            );
        }
        if workers.len() > SHOWN {
            let _ = writeln!(text, "… and {} more", workers.len() - SHOWN);
        }
        for (slot, wait, crashes) in status.waiting {
            let _ = writeln!(text, "{slot:<5} waits {wait:.1?} after {crashes} crashes in a row");
        }
        let _ = writeln!(text);
        for line in recent.lines() {
            let _ = writeln!(text, "{line}");
        }
        draw(&text, drawn)?;
        drawn = text.lines().count();
        tokio::time::sleep(EVERY).await;
    }
    Ok(())
}

/// Over the last drawing: up so many lines, each line cleared to its end, then all below.
fn draw(text: &str, drawn: usize) -> io::Result<()> {
    let mut out = String::new();
    if drawn > 0 {
        let _ = write!(out, "\x1b[{drawn}A");
    }
    for line in text.lines() {
        let _ = write!(out, "{line}\x1b[K\r\n");
    }
    out.push_str("\x1b[J");
    let mut stdout = io::stdout().lock();
    stdout.write_all(out.as_bytes())?;
    stdout.flush()
}
