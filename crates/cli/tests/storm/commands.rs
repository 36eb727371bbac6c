//! Commands of a storm, and the answers that are right.

use crate::random::Random;
use crate::support::Done;
use crate::{APPS, STEADY, name};
use serde_json::Value;
use std::time::Instant;

/// Of these as many as of each other, but for those that meet only in pairs.
const KINDS: [&str; 18] = [
    "list", "describe", "scale", "reload", "restart", "stop", "stop", "start", "start", "signal",
    "send", "reset", "ping", "env", "id", "logs", "save", "pid",
];

/// A command.
#[derive(Debug)]
pub(crate) struct Deed {
    pub(crate) kind: &'static str,
    pub(crate) app: String,
    steady: bool,
    workers: usize,
}

impl Deed {
    pub(crate) fn random(random: &mut Random) -> Self {
        let kind = random.one_of(&KINDS);
        let changes = matches!(kind, "stop" | "start" | "restart");
        // Some are left alone: what is asked of those has no reason to fail.
        let app = if changes { STEADY + random.below(APPS - STEADY) } else { random.below(APPS) };
        let steady = app < STEADY;
        Self { kind, app: name(app), steady, workers: 1 + random.below(3) }
    }

    pub(crate) fn words(&self) -> Vec<String> {
        let app = self.app.as_str();
        let workers = self.workers.to_string();
        let words: &[&str] = match self.kind {
            "list" => &["list", "--json"],
            "describe" => &["describe", app, "--json"],
            "scale" => &["scale", app, &workers],
            // Ignored by whoever does not ask for it.
            "signal" => &["signal", "WINCH", app],
            "send" => &["send", app, r#"{"a":1}"#],
            "logs" => &["logs", app, "--no-follow"],
            "save" => &["save"],
            kind => &[kind, app],
        };
        words.iter().map(ToString::to_string).collect()
    }
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) deed: Deed,
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
    pub(crate) done: Done,
}

impl Event {
    /// What became of its application for sure.
    pub(crate) fn state(&self) -> Option<String> {
        let state = match (self.deed.kind, self.done.code) {
            ("stop", Some(0)) => "stopped",
            ("start" | "restart", Some(0)) => "running",
            _ => return None,
        };
        Some(state.to_owned())
    }

    /// To how many workers it was scaled.
    pub(crate) fn count(&self) -> Option<String> {
        let done = self.deed.kind == "scale" && self.done.code == Some(0);
        done.then(|| self.deed.workers.to_string())
    }
}

/// Of an application that is being stopped or started just then.
const PASSING: [&str; 10] = [
    "does not run",
    "does not listen",
    "the cluster is stopping",
    "it ended without an answer",
    "Connection reset by peer",
    "it ended meanwhile",
    "it was stopped before it was ready",
    "there is no worker",
    // Its process has just ended, and is signalled.
    "No such process",
    "is just being started",
];
/// Of two who want the same at the same time.
const ALREADY: &str = "runs already";
/// Of programs that know no channel, and of workers that are just leaving.
const DEAF: &str = "did not reach worker";

/// Whether a command ended as it may.
///
/// # Errors
/// Why not.
pub(crate) fn is_right(event: &Event, apps: usize) -> Result<(), String> {
    let Event { deed, done, .. } = event;
    let says = |words: &[&str]| words.iter().any(|word| done.stderr.contains(word));
    if says(&["panicked"]) || done.stdout.contains("panicked") {
        return Err("a panic".into());
    }
    let code = done.code.ok_or("it was killed")?;
    match (deed.kind, code) {
        ("list", 0) => whole_list(&done.stdout, apps),
        ("describe", 0) => match serde_json::from_str::<Value>(&done.stdout) {
            Ok(about) if about["name"] == deed.app.as_str() => known_state(&about, deed.steady),
            other => Err(format!("not its description: {other:?}")),
        },
        ("list" | "describe" | "env" | "id" | "logs" | "save", code) if code != 0 => {
            Err("it has no reason to fail".into())
        }
        ("send", 1) if says(&[DEAF]) => Ok(()),
        (_, 0) => Ok(()),
        ("start", 6) if says(&[ALREADY]) => Ok(()),
        ("reload" | "restart", 1) if says(&["took its place"]) => Ok(()),
        (_, 1) if !deed.steady && says(&PASSING) => Ok(()),
        ("restart", 6) if says(&[ALREADY]) => Ok(()),
        _ => Err("not for a reason that there was".into()),
    }
}

fn whole_list(text: &str, apps: usize) -> Result<(), String> {
    let all: Vec<Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut ids: Vec<u64> = all.iter().filter_map(|app| app["id"].as_u64()).collect();
    ids.dedup();
    if ids.len() != apps || !ids.is_sorted() {
        return Err(format!("{} applications, with the ids {ids:?}", all.len()));
    }
    all.iter().try_for_each(|app| {
        let steady = (0..STEADY).any(|number| app["name"] == name(number).as_str());
        known_state(app, steady)
    })
}

fn known_state(app: &Value, steady: bool) -> Result<(), String> {
    let passing = ["stopped", "starting", "not answering"];
    match app["state"].as_str() {
        Some("running") => Ok(()),
        Some(state) if !steady && passing.contains(&state) => Ok(()),
        _ => Err(format!("it is not so: {app}")),
    }
}
