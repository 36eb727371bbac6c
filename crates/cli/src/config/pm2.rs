//! Keys that pm2's users have in their files and that are no options here: which mean the same as another, which say nothing
//! here, and what there is instead.

use super::tree::Node;
use std::path::Path;

/// Names of one thing: a key means the first option of its row that there is.
const SAME: [&[&str]; 9] = [
    &["output", "out", "out-file", "out-log"],
    &["error", "err", "error-file", "err-file", "err-log"],
    &["log", "log-file"],
    &["cron-restart", "cron"],
    &["user", "uid"],
    &["group", "gid"],
    &["interpreter", "exec-interpreter"],
    &["interpreter-args", "node-args"],
    &["ignore-watch", "watch-ignore"],
];

/// Keys that say nothing here.
const IDLE: [&str; 23] = [
    "vizion",
    "pmx",
    "automation",
    "trace",
    "disable-trace",
    "v8",
    "event-loop-inspector",
    "deep-monitoring",
    "io",
    "source-map-support",
    "disable-source-map-support",
    "windows-hide",
    "kill-retry-time",
    "append-env-to-name",
    "force",
    "execute-command",
    "write",
    "install-url",
    "post-update",
    "username",
    "watch-options",
    "treekill",
    "version",
];

/// Keys that nobody needs to be told of: it is so in any case.
const SILENT: [&str; 3] = ["merge-logs", "combine-logs", "exec-mode"];

/// Keys that cannot be passed over, and what there is instead.
const REFUSED: [(&str, &str); 1] = [("name-prefix", "pm2's; write the whole `name`")];

/// What becomes of a key that is no option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It says nothing here.
    Idle,
    /// It is an error, and this is instead.
    Refused(&'static str),
}

/// The other names of what a key (with dashes) means.
pub(super) fn same(name: &str) -> impl Iterator<Item = &'static str> {
    let row = SAME.iter().find(|row| row.contains(&name)).copied().unwrap_or_default();
    row.iter().copied()
}

pub(super) fn fate(name: &str) -> Option<Fate> {
    if let Some((_, instead)) = REFUSED.iter().find(|(key, _)| *key == name) {
        return Some(Fate::Refused(instead));
    }
    let is_known = IDLE.contains(&name) || SILENT.contains(&name);
    is_known.then_some(Fate::Idle)
}

/// Whether a key that says nothing here is worth a word: not if it says what is so in any case.
pub(super) fn is_told(name: &str, node: &Node) -> bool {
    let usual = if name == "treekill" { Node::Bool(true) } else { Node::Bool(false) };
    !SILENT.contains(&name) && *node != usual && *node != Node::Nothing
}

/// Whether a file is pm2's, by its name. What it leaves out is then as with pm2: one worker, and the starter's whole
/// environment.
pub(super) fn is_its_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.to_ascii_lowercase();
    if name.starts_with("phalanx.") {
        return false;
    }
    let stem = name.split('.').next().unwrap_or_default();
    matches!(stem, "ecosystem" | "pm2" | "process" | "processes") || name.contains(".config.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        for (name, is_its) in [
            ("ecosystem.config.js", true),
            ("ecosystem.json", true),
            ("a/pm2.yml", true),
            ("process.json", true),
            ("api.config.cjs", true),
            ("phalanx.toml", false),
            ("phalanx.config.js", false),
            ("api.toml", false),
        ] {
            assert_eq!(is_its_file(Path::new(name)), is_its, "{name}");
        }
    }

    #[test]
    fn keys() {
        assert_eq!(same("uid").collect::<Vec<_>>(), ["user", "uid"]);
        assert_eq!(fate("vizion"), Some(Fate::Idle));
        assert!(matches!(fate("name-prefix"), Some(Fate::Refused(_))));
        assert_eq!(fate("max-memroy"), None);
    }
}
