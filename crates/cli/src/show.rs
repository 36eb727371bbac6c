//! How applications are shown to people.

use crate::control::Description;
use crate::patient::patient;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// How much is not said: 0: all is, 1: nothing beside results, 2: nothing at all.
static HUSHED: AtomicU8 = AtomicU8::new(0);
const ALL: u8 = 2;

/// Says nothing any more beside results; and no results, if that is all.
pub(crate) fn hush(all: bool) {
    HUSHED.store(if all { ALL } else { 1 }, Ordering::Relaxed);
}

/// Prints it. A reader that went away has read enough.
pub(crate) fn print(text: &str) {
    if HUSHED.load(Ordering::Relaxed) == ALL {
        return;
    }
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Says a line on stderr, beside the result.
pub(crate) fn say(text: &str) {
    if HUSHED.load(Ordering::Relaxed) > 0 {
        return;
    }
    let (mut stderr, rest) = patient(std::io::stderr());
    let _ = stderr.write_all(format!("phalanx: {text}\n").as_bytes());
    drop(rest);
}

const HEAD: [&str; 7] = ["NAME", "SLOT", "PID", "STATE", "UPTIME", "RESTARTS", "MEMORY"];

/// A row for each worker, and for each slot that waits for one.
pub(crate) fn table(apps: &[Description]) -> String {
    let mut rows: Vec<[String; 7]> = vec![HEAD.map(str::to_owned)];
    for app in apps {
        rows.append(&mut rows_of(app));
    }
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..HEAD.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line: Vec<String> = cells.collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    text
}

fn rows_of(app: &Description) -> Vec<[String; 7]> {
    let none = || "-".to_owned();
    let mut rows: Vec<(u32, [String; 7])> = Vec::new();
    for worker in &app.workers {
        let row = [
            app.name.clone(),
            worker.slot.to_string(),
            worker.pid.map_or_else(none, |pid| pid.to_string()),
            worker.state.clone(),
            time(worker.age_ms),
            worker.restarts.to_string(),
            worker.memory_bytes.map_or_else(none, memory),
        ];
        rows.push((worker.slot, row));
    }
    for slot in &app.waiting {
        let state = format!("waits {}", time(slot.wait_ms));
        let (number, restarts) = (slot.slot.to_string(), slot.restarts.to_string());
        let row = [app.name.clone(), number, none(), state, none(), restarts, none()];
        rows.push((slot.slot, row));
    }
    if rows.is_empty() {
        let state = app.state.clone();
        rows.push((0, [app.name.clone(), none(), none(), state, none(), none(), none()]));
    }
    rows.sort_by_key(|(slot, _)| *slot);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// All that is known of an application.
pub(crate) fn details(app: &Description) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    line("name", &app.name);
    line("state", &app.state);
    if let Some(pid) = app.primary_pid {
        line("primary", &format!("process {pid}, up {}", time(app.uptime_ms)));
    }
    line("command", &format!("phalanx start {}", app.argv.join(" ")));
    line("directory", &app.cwd);
    line("version", &app.version);
    line("log", &app.logs.primary);
    line("output", &app.logs.out);
    line("errors", &app.logs.err);
    if app.wanted > 0 {
        line("workers", &format!("{} of {} ready", app.ready, app.wanted));
    }
    for port in &app.ports {
        line("port", &format!("{} ({})", port.address, port.policy));
    }
    match (&app.reload.words, app.reload.state.as_str()) {
        (Some(words), _) => line("reload", words),
        (None, "running") => line("reload", &format!("{} goes on", app.reload.generation)),
        (None, _) => {}
    }
    if !app.workers.is_empty() || !app.waiting.is_empty() {
        text.push('\n');
        text.push_str(&table(std::slice::from_ref(app)));
    }
    text
}

/// What an application that is not settled waits for.
pub(crate) fn unsettled(app: &Description) -> String {
    let mut text = format!("{} of {} workers are ready", app.ready, app.wanted);
    for slot in &app.waiting {
        let (number, wait) = (slot.slot, time(slot.wait_ms));
        let _ =
            write!(text, "; slot {number} waits {wait} after {} crashes in a row", slot.crashes);
    }
    text
}

/// As people say it: the two largest units.
pub(crate) fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if seconds == 0 {
        format!("{ms}ms")
    } else if minutes == 0 {
        format!("{seconds}s")
    } else if hours == 0 {
        format!("{minutes}m {}s", seconds % 60)
    } else if days == 0 {
        format!("{hours}h {}m", minutes % 60)
    } else {
        format!("{days}d {}h", hours % 24)
    }
}

/// Of a duration.
pub(crate) fn duration(time_span: Duration) -> String {
    time(u64::try_from(time_span.as_millis()).unwrap_or(u64::MAX))
}

fn memory(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (59_999, "59s"),
            (61_000, "1m 1s"),
            (3_660_000, "1h 1m"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(time(ms), text);
        }
        assert_eq!(memory(1_572_864), "1.5 MiB");
    }

    #[test]
    fn a_table_has_a_row_for_each_worker_and_each_waiting_slot() {
        let json = serde_json::json!({
            "name": "a", "state": "running", "wanted": 2,
            "workers": [{ "slot": 1, "pid": 7, "state": "listening", "age_ms": 2000 }],
            "waiting": [{ "slot": 0, "wait_ms": 400, "crashes": 3, "restarts": 3 }],
        });
        let app: Description = serde_json::from_value(json).expect("a description");
        let stopped =
            Description { name: "b".into(), state: "stopped".into(), ..Description::default() };
        let text = table(&[app, stopped]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        for (line, words) in lines.iter().zip([
            &["NAME", "SLOT", "PID"][..],
            &["a", "0", "-", "waits", "400ms", "-", "3"],
            &["a", "1", "7", "listening", "2s", "0"],
            &["b", "-", "-", "stopped"],
        ]) {
            assert!(line.split_whitespace().collect::<Vec<_>>().starts_with(words), "{text}");
        }
    }
}
