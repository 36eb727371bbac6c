//! What would change if an application were started anew.

use super::keys::{Key, Keys, command};
use super::variables::hides;
use clap::ArgMatches;
use clap::parser::ValueSource;
use std::collections::BTreeMap;

/// Characters of a value that are shown.
const SHOWN: usize = 60;

/// What runs, or would.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) cwd: &'a str,
    pub(crate) env: &'a BTreeMap<String, String>,
}

/// What differs, in words, by option. Values of secrets are not shown.
pub(crate) fn changes(old: &Plan<'_>, new: &Plan<'_>) -> Vec<String> {
    let mut all = match (matches(old), matches(new)) {
        (Some(old), Some(new)) => options(&old, &new),
        // Of a version that had other options.
        _ if old.argv != new.argv => {
            vec![format!("command line: {}", arrow(&old.argv.join(" "), &new.argv.join(" ")))]
        }
        _ => Vec::new(),
    };
    if old.cwd != new.cwd {
        all.push(format!("cwd: {}", arrow(old.cwd, new.cwd)));
    }
    all.extend(variables(old.env, new.env));
    all
}

fn matches(plan: &Plan<'_>) -> Option<ArgMatches> {
    command().try_get_matches_from(plan.argv).ok()
}

fn options(old: &ArgMatches, new: &ArgMatches) -> Vec<String> {
    let mut all = Vec::new();
    let (program, args): (Vec<String>, Vec<String>) = (first(old), first(new));
    let split = |words: &[String]| {
        let (program, args) =
            words.split_first().map_or((String::new(), &[][..]), |(p, a)| (p.clone(), a));
        (program, args.join(" "))
    };
    let ((old_program, old_args), (new_program, new_args)) = (split(&program), split(&args));
    if old_program != new_program {
        all.push(format!("program: {}", arrow(&old_program, &new_program)));
    }
    if old_args != new_args {
        all.push(format!("arguments: {}", arrow(&old_args, &new_args)));
    }
    let keys = Keys::find_all();
    let namespace = Key::plain("namespace");
    for key in keys.all.iter().chain([&namespace]) {
        let (before, after) = (value(old, key), value(new, key));
        if before != after {
            all.push(format!("{}: {}", key.long, arrow(&before, &after)));
        }
    }
    all
}

/// The program and its arguments.
fn first(matches: &ArgMatches) -> Vec<String> {
    let of = |id: &str| {
        let values = matches.try_get_raw(id).ok().flatten().into_iter().flatten();
        values.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    [of("program"), of("args")].concat()
}

/// What is said of an option, as it was typed.
fn value(matches: &ArgMatches, key: &Key) -> String {
    let id = key.id.as_str();
    if !matches.try_contains_id(id).unwrap_or(false) {
        return String::new();
    }
    if matches.value_source(id) != Some(ValueSource::CommandLine) {
        return String::new();
    }
    if key.value.is_empty() {
        return "on".into();
    }
    let values = matches.try_get_raw(id).ok().flatten().into_iter().flatten();
    let values: Vec<_> = values.map(|value| value.to_string_lossy().into_owned()).collect();
    values.join(if key.commas { "," } else { " " })
}

fn arrow(old: &str, new: &str) -> String {
    let shown = |text: &str| match text.char_indices().nth(SHOWN) {
        _ if text.is_empty() => "not set".to_owned(),
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default().escape_debug()),
        None => text.escape_debug().to_string(),
    };
    format!("{} → {}", shown(old), shown(new))
}

fn variables(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differ = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    let words = differ.map(|name| {
        let (before, after) = (old.get(name), new.get(name));
        let hidden = [before, after].into_iter().flatten().any(|value| hides(name, value));
        let words = match (before, after) {
            (Some(_), Some(_)) if hidden => "changed".to_owned(),
            (Some(before), Some(after)) => arrow(before, after),
            (None, Some(_)) if hidden => "added".to_owned(),
            (None, Some(after)) => arrow("", after),
            _ => "removed".to_owned(),
        };
        format!("env {name}: {words}")
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn argv(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_differs_is_told() {
        let old_env = env("A=1 TOKEN=x GONE=1 URL=http://u:p@h SAME=1");
        let new_env = env("A=2 TOKEN=y NEW=3 URL=http://u:q@h SAME=1 API_KEY=z");
        let (old_argv, new_argv) = (
            argv(
                "-i 4 --max-memory-restart 300M --rollback --stop-exit-codes 0,1 --name a old.js -- --x",
            ),
            argv(
                "--name a --instances=4 --max-memory 400M --stop-exit-codes 0,1 --port 80 new.js -- --x 1",
            ),
        );
        let old = Plan { argv: &old_argv, cwd: "/a", env: &old_env };
        let new = Plan { argv: &new_argv, cwd: "/b", env: &new_env };
        assert_eq!(
            changes(&old, &new),
            [
                "program: old.js → new.js",
                "arguments: --x → --x 1",
                "port: not set → 80",
                "rollback: on → not set",
                "max-memory: 300M → 400M",
                "cwd: /a → /b",
                "env A: 1 → 2",
                "env API_KEY: added",
                "env GONE: removed",
                "env NEW: not set → 3",
                "env TOKEN: changed",
                "env URL: changed",
            ]
        );
        assert_eq!(changes(&old, &old), [""; 0]);
    }

    #[test]
    fn a_command_line_of_another_version() {
        let (old, new) = (argv("--of-old x"), argv("x"));
        let env = BTreeMap::new();
        let old = Plan { argv: &old, cwd: "/", env: &env };
        let told = changes(&old, &Plan { argv: &new, ..old });
        assert_eq!(told, ["command line: --of-old x → x"]);
        assert_eq!(changes(&old, &old), [""; 0]);
    }
}
