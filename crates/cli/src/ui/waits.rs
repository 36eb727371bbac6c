//! What an application waits for, in a line.

use super::words::{Status, count, status, time};
use crate::control::Description;
use std::time::Duration;

/// Workers that are told one by one; the rest is counted.
const TOLD: usize = 3;

/// What is known of workers that finish what they have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaving {
    /// That they have open.
    pub(crate) connections: Option<usize>,
    /// Until they are ended.
    pub(crate) at_most: Option<Duration>,
}

/// `3 of 4 ready · worker 7 in slot 3 starts (2s)`
pub(crate) fn waits(app: &Description, leaving: Leaving) -> String {
    let leavers: Vec<_> = app.workers.iter().filter(|worker| worker.state == "draining").collect();
    let finish = |leavers: usize| {
        let whose = count(leavers, "worker", "workers");
        let what = match leaving.connections {
            Some(0) | None => String::new(),
            Some(n) => format!(" {}", count(n, "connection", "connections")),
        };
        let verb = if leavers == 1 { "finishes" } else { "finish" };
        let most = leaving.at_most.map(|left| format!(", at most {}s more", left.as_secs()));
        format!("{whose} {verb}{what}{}", most.unwrap_or_default())
    };
    if status(app) == Status::Stopping {
        return match leavers.len() {
            0 => "stopping".to_owned(),
            n => format!("stopping: {}", finish(n)),
        };
    }
    let mut parts = Vec::new();
    if app.wanted > 0 {
        parts.push(format!("{} of {} ready", app.ready, app.wanted));
    }
    let mut told = Vec::new();
    for worker in &app.workers {
        let what = match worker.state.as_str() {
            "forking" | "starting" => "starts",
            "online" => "is online, and not ready",
            "killed" => "was killed",
            _ => continue,
        };
        let (id, slot, age) = (worker.id, worker.slot, time(worker.age_ms));
        told.push(format!("worker {id} in slot {slot} {what} ({age})"));
    }
    for slot in &app.waiting {
        let (number, wait) = (slot.slot, time(slot.wait_ms));
        let crashes = count(usize::try_from(slot.crashes).unwrap_or(0), "crash", "crashes");
        told.push(format!("slot {number} waits {wait} after {crashes}"));
    }
    let more = told.len().saturating_sub(TOLD);
    told.truncate(TOLD);
    parts.append(&mut told);
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    if !leavers.is_empty() {
        parts.push(finish(leavers.len()));
    }
    match parts.is_empty() {
        true => "it begins".to_owned(),
        false => parts.join(" · "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_waited_for() {
        let worker = |id: u32, slot: u32, state: &str, age: u64| json!({ "id": id, "slot": slot, "state": state, "age_ms": age });
        let none = Leaving::default();
        let known = Leaving { connections: Some(5), at_most: Some(Duration::from_millis(28_400)) };
        let one = Leaving { connections: Some(1), ..none };
        for (workers, waiting, ready, leaving, text) in [
            (json!([]), json!([]), 0, none, "0 of 4 ready"),
            (
                json!([worker(7, 3, "starting", 2100)]),
                json!([]),
                3,
                none,
                "3 of 4 ready · worker 7 in slot 3 starts (2s)",
            ),
            (
                json!([
                    worker(1, 0, "listening", 9000),
                    worker(2, 0, "draining", 900),
                    worker(3, 1, "online", 400)
                ]),
                json!([{ "slot": 2, "wait_ms": 1600, "crashes": 1 }]),
                1,
                one,
                "1 of 4 ready · worker 3 in slot 1 is online, and not ready (400ms) · slot 2 waits 1s after 1 crash · 1 worker finishes 1 connection",
            ),
            (
                json!([
                    worker(1, 0, "starting", 1),
                    worker(2, 1, "forking", 1),
                    worker(3, 2, "starting", 1),
                    worker(4, 3, "starting", 1)
                ]),
                json!([]),
                0,
                none,
                "0 of 4 ready · worker 1 in slot 0 starts (1ms) · worker 2 in slot 1 starts (1ms) · worker 3 in slot 2 starts (1ms) · and 1 more",
            ),
            (
                json!([worker(1, 0, "draining", 1), worker(2, 1, "draining", 1)]),
                json!([]),
                0,
                known,
                "stopping: 2 workers finish 5 connections, at most 28s more",
            ),
            (json!([worker(1, 0, "killed", 1)]), json!([]), 0, none, "stopping"),
        ] {
            let app = json!({ "state": "running", "wanted": 4, "ready": ready, "workers": workers, "waiting": waiting });
            let app: Description = serde_json::from_value(app).expect("a description");
            assert_eq!(waits(&app, leaving), text);
        }
        assert_eq!(waits(&Description::default(), none), "it begins");
    }
}
