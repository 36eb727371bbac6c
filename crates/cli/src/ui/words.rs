//! The words for what an application, a time, a size is.

use crate::control::Description;
use std::time::Duration;

/// Crashes in a row that are a loop, as `--max-restarts` has it by itself.
pub(crate) const LOOP: u32 = 6;

/// What an application does, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    Online,
    Starting,
    Reloading,
    Waiting,
    CrashLoop,
    Errored,
    Stopping,
    Ended,
    Stopped,
    Orphaned,
    NotAnswering,
}

impl Status {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Starting => "starting",
            Self::Reloading => "reloading",
            Self::Waiting => "waiting",
            Self::CrashLoop => "crash loop",
            Self::Errored => "errored",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
            Self::Stopped => "stopped",
            Self::Orphaned => "orphaned",
            Self::NotAnswering => "not answering",
        }
    }
}

/// From what its primary tells, or from what there is of one that tells nothing.
pub(crate) fn status(app: &Description) -> Status {
    match app.state.as_str() {
        "stopped" => return Status::Stopped,
        "stopping" => return Status::Stopping,
        "starting" => return Status::Starting,
        "errored" => return Status::Errored,
        "without primary" => return Status::Orphaned,
        "not answering" => return Status::NotAnswering,
        // running; or a word of a later version, whose workers tell as much.
        _ => {}
    }
    let leaves = |state: &str| matches!(state, "draining" | "killed");
    let crashes = app.waiting.iter().map(|slot| slot.crashes).max().unwrap_or(0);
    if app.reload.state == "running" {
        Status::Reloading
    } else if crashes >= LOOP {
        Status::CrashLoop
    } else if !app.waiting.is_empty() {
        Status::Waiting
    } else if !app.workers.is_empty() && app.workers.iter().all(|worker| leaves(&worker.state)) {
        Status::Stopping
    } else if app.workers.is_empty() && app.wanted > 0 && app.ended >= app.wanted {
        Status::Ended
    } else if app.is_settled() {
        Status::Online
    } else {
        Status::Starting
    }
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

/// A size, with one digit after the point below a hundred.
pub(crate) fn memory(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..0x4000_0000 => (1 << 20, "MiB"),
        0x4000_0000..0x100_0000_0000 => (1 << 30, "GiB"),
        _ => (1_u64 << 40, "TiB"),
    };
    let tenths = u128::from(bytes) * 10 / u128::from(unit);
    match tenths {
        0..1000 => format!("{}.{} {name}", tenths / 10, tenths % 10),
        _ => format!("{} {name}", tenths / 10),
    }
}

/// A share of one core.
pub(crate) fn cpu(percent: f64) -> String {
    match percent {
        p if !p.is_finite() || p < 0.0 => String::new(),
        p if p < 10.0 => format!("{p:.1}%"),
        p => format!("{p:.0}%"),
    }
}

/// So many of something.
pub(crate) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// The name that was probably meant: one with few letters wrong, or of which only a part was typed.
pub(crate) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = word.to_lowercase();
    let wrong = |name: &str| {
        let name = name.to_lowercase();
        let wrong = strsim::damerau_levenshtein(&typed, &name);
        let part = typed.len() >= 2 && (name.starts_with(&typed) || typed.starts_with(&name));
        // Of a long name, more letters may be.
        let few = (name.chars().count() / 3).max(1);
        (part || !typed.is_empty() && wrong <= few && wrong < typed.chars().count())
            .then_some(wrong)
    };
    let likely = names.into_iter().filter_map(|name| Some((wrong(name)?, name)));
    likely.min_by_key(|(wrong, _)| *wrong).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_and_sizes() {
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
        for (bytes, text) in [
            (0, "0.0 MiB"),
            (1_572_864, "1.5 MiB"),
            (104_857_599, "99.9 MiB"),
            (104_857_600, "100 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(memory(bytes), text);
        }
        for (percent, text) in
            [(0.0, "0.0%"), (9.94, "9.9%"), (12.3, "12%"), (230.0, "230%"), (f64::NAN, "")]
        {
            assert_eq!(cpu(percent), text);
        }
    }

    #[test]
    fn statuses() {
        let listening = json!({ "state": "listening" });
        let draining = json!({ "state": "draining" });
        let starting = json!({ "state": "starting" });
        let waiting = |crashes: u32| json!([{ "slot": 0, "crashes": crashes }]);
        let running = |ready: u32, workers: &[&serde_json::Value]| json!({ "state": "running", "wanted": 2, "ready": ready, "workers": workers });
        let with = |mut app: serde_json::Value, key: &str, value: serde_json::Value| {
            app[key] = value;
            app
        };
        for (app, word) in [
            (json!({ "state": "stopped" }), "stopped"),
            (json!({ "state": "stopping", "wanted": 2, "ready": 2 }), "stopping"),
            (json!({ "state": "starting" }), "starting"),
            (json!({ "state": "errored" }), "errored"),
            (json!({ "state": "without primary" }), "orphaned"),
            (json!({ "state": "not answering" }), "not answering"),
            (json!({ "state": "running" }), "starting"),
            (running(0, &[&starting, &starting]), "starting"),
            (running(1, &[&listening, &starting]), "starting"),
            (running(2, &[&listening, &listening]), "online"),
            (running(2, &[&listening, &listening, &draining]), "online"),
            (running(0, &[&draining, &draining]), "stopping"),
            (with(running(1, &[&listening]), "waiting", waiting(1)), "waiting"),
            (with(running(1, &[&listening]), "waiting", waiting(6)), "crash loop"),
            (with(running(0, &[]), "waiting", waiting(5)), "waiting"),
            (
                with(running(2, &[&listening, &draining]), "reload", json!({ "state": "running" })),
                "reloading",
            ),
            (
                with(running(2, &[&listening, &listening]), "reload", json!({ "state": "failed" })),
                "online",
            ),
            (json!({ "state": "dancing", "wanted": 1, "ready": 1 }), "online"),
        ] {
            let about: Description = serde_json::from_value(app.clone()).expect("a description");
            assert_eq!(status(&about).word(), word, "{app}");
        }
    }

    #[test]
    fn names_that_were_meant() {
        let names = ["shop", "api-gateway", "worker", "web"];
        for (word, meant) in [
            ("shpo", Some("shop")),
            ("Shop", Some("shop")),
            ("sho", Some("shop")),
            ("shop2", Some("shop")),
            ("api", Some("api-gateway")),
            ("workers", Some("worker")),
            ("wbe", Some("web")),
            ("database", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, names), meant, "{word}");
        }
        assert_eq!(nearest("a", []), None);
    }
}
