//! Time on a CPU.

use std::time::Duration;

/// Time on a CPU of all threads, in nanoseconds and not in clock ticks.
pub(crate) fn run_time(pid: u32) -> Result<Duration, String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .map_err(|error| format!("no process {pid}: {error}"))?;
    let mut spent = Duration::ZERO;
    for task in tasks.flatten() {
        // A thread may end in between.
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let first = text.split_whitespace().next().and_then(|n| n.parse().ok());
        spent += Duration::from_nanos(first.unwrap_or(0));
    }
    Ok(spent)
}
