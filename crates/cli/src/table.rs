//! The demo's live table of workers.

use crate::log::Recent;
use phalanx::{Primary, Status, WorkerId};
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

/// Draws until the cluster has stopped; then says so beneath.
pub(crate) async fn show(
    primary: &Primary,
    head: &str,
    counts: &Counts,
    recent: &Recent,
) -> io::Result<()> {
    let mut drawn = 0;
    while let Ok(status) = primary.status().await {
        let text = format!("{head}\n{}\n{}", rows(status, counts), recent.lines().join("\n"));
        drawn = draw(&text, drawn)?;
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = primary.stopped() => {}
        }
    }
    // The last log lines say how it ended.
    draw(&recent.lines().join("\n"), drawn).map(drop)
}

/// The table.
fn rows(status: Status, counts: &Counts) -> String {
    let counts = counts.lock().clone();
    let mut text =
        String::from("SLOT  WORKER  PID      STATE      UP        REQUESTS  OPEN  RELOAD\n");
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
        let _ = writeln!(
            text,
            "{:<5} waits {wait:.1?} after {crashes} crashes in a row",
            slot.to_string()
        );
    }
    text
}

/// Draws over the last drawing, which had so many lines; what does not fit the terminal is cut, so that it
/// never scrolls. How many lines it has now.
fn draw(text: &str, drawn: usize) -> io::Result<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let width = size.map_or(80, |s| usize::from(s.ws_col)).max(20);
    let height = size.map_or(24, |s| usize::from(s.ws_row)).max(4) - 1;
    // What was typed may have moved the cursor.
    let mut out = String::from("\r");
    if drawn > 0 {
        let _ = write!(out, "\x1b[{drawn}A");
    }
    let lines: Vec<&str> = text.lines().collect();
    // The newest is at the end; the head gives way.
    let shown = lines.get(lines.len().saturating_sub(height)..).unwrap_or_default();
    for line in shown {
        let cut: String = line.chars().take(width).collect();
        let _ = write!(out, "{cut}\x1b[K\r\n");
    }
    out.push_str("\x1b[J");
    let mut stdout = io::stdout().lock();
    stdout.write_all(out.as_bytes())?;
    stdout.flush()?;
    Ok(shown.len())
}
