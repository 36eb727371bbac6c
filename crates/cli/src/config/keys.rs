//! The keys of a configuration file: those that are options of `phalanx run`, found from its command line itself, and those
//! that a file has of its own.

use crate::args::Run;
use clap::builder::{StyledStr, ValueParser};
use clap::{Arg, ArgAction, Args, Command};

/// Options that a key cannot be: they are the command's, or the file says them by keys of its own.
const NOT_KEYS: [&str; 16] = [
    "filter-env",
    "no-daemon",
    "attach",
    "help",
    "env",
    "only",
    "app-dir",
    "member",
    "wait",
    "force",
    "update-env",
    "no-autostart",
    "autostart",
    "name",
    "namespace",
    "cwd",
];

/// The keys that are no options, with their other names.
pub(super) const OWN: [(&str, &[&str], &str); 13] = [
    ("name", &[], "What it is called; else as its script, without the extension"),
    (
        "script",
        &["program", "exec", "command", "cmd"],
        "What is run: a script, a program, or a command line; relative to `cwd`",
    ),
    ("args", &[], "Its arguments: a list, or a text that is split as a shell does"),
    (
        "cwd",
        &[],
        "The working directory, relative to the file; else the file's. A link in it is followed anew at each reload",
    ),
    ("env", &[], "Variables. Numbers, true and false become texts; null takes one away"),
    (
        "env_file",
        &[],
        "Files of variables (NAME=VALUE), relative to the file: one, or a list. What `env` says goes before",
    ),
    (
        "pass_env",
        &[],
        "Which variables are passed on from whoever starts it: names, or their beginnings with * at the end; `!NAME`: not that one",
    ),
    (
        "filter_env",
        &[],
        "pm2's: variables with this word in their names are not passed on; true: none but PATH and HOME",
    ),
    ("after", &[], "Applications of the file that have to be ready first"),
    ("autostart", &[], "Whether `start` starts it, or only notes it (false)"),
    ("namespace", &[], "The group it belongs to, which commands can name instead of it"),
    (
        "environments",
        &["environment"],
        "By name: what is different in that environment (`--env NAME`); any key, and `env` adds to the variables",
    ),
    ("env_NAME", &[], "Variables that are added in the environment NAME, as pm2 has it"),
];

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: it is there or not.
    Flag,
    /// A value, or nothing.
    Optional,
    /// A value.
    Value,
}

/// What is a path in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paths {
    /// All of it.
    Whole,
    /// What is behind `NAME=`.
    Behind,
    /// All of it, if there is a slash in it.
    Slashed,
    /// All of it, and it is the application's own: seen from its directory.
    Home,
    None,
}

/// An option of `phalanx run` as a key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// What clap calls it.
    pub(super) id: String,
    /// The option, without its dashes before it.
    pub(super) long: String,
    pub(super) aliases: Vec<String>,
    pub(super) kind: Kind,
    /// It may be given several times.
    pub(super) repeats: bool,
    /// Its values are one word, with commas between them.
    pub(super) commas: bool,
    pub(super) paths: Paths,
    /// What stands for its value in the help.
    pub(super) value: String,
    pub(super) help: String,
    pub(super) default: Option<String>,
    /// Without its value it takes none of what follows.
    pub(super) alone: bool,
}

impl Key {
    /// An option with a value, of which no more is known.
    pub(super) fn plain(long: &str) -> Self {
        Self {
            id: long.to_owned(),
            long: long.to_owned(),
            aliases: Vec::new(),
            kind: Kind::Value,
            repeats: false,
            commas: false,
            paths: Paths::None,
            value: "NAME".into(),
            help: String::new(),
            default: None,
            alone: true,
        }
    }

    /// As a file has it.
    pub(super) fn snake(&self) -> String {
        snake(&self.long)
    }

    /// The word for its value that means that there is none.
    pub(super) fn off(&self) -> Option<&'static str> {
        let words = || self.value.split(['|', ',']);
        ["off", "none"].into_iter().find(|off| words().any(|word| word == *off))
    }

    /// Whether `false` can mean that the option is not given.
    pub(super) const fn may_be_missing(&self) -> bool {
        self.default.is_none()
    }

    /// A table of names and values is meant too.
    pub(super) fn takes_table(&self) -> bool {
        self.repeats && self.value.contains('=')
    }
}

/// Which option a key is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'k> {
    pub(super) key: &'k Key,
    /// It is the opposite of the option: `autorestart` of `--no-autorestart`.
    pub(super) negated: bool,
}

/// All options, in the order of the help.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) all: Vec<Key>,
}

/// The command line of `phalanx run`.
pub(super) fn command() -> Command {
    Run::augment_args(Command::new("run").no_binary_name(true).disable_help_flag(true))
}

impl Keys {
    pub(super) fn find_all() -> Self {
        let all = command().get_arguments().filter_map(key).collect();
        Self { all }
    }

    /// The option of a name with dashes.
    pub(super) fn find(&self, name: &str) -> Option<Found<'_>> {
        let named = |name: &str| {
            self.all
                .iter()
                .find(|key| key.long == name || key.aliases.iter().any(|alias| alias == name))
        };
        if let Some(key) = named(name) {
            return Some(Found { key, negated: false });
        }
        let key = named(&format!("no-{name}")).filter(|key| key.kind == Kind::Flag)?;
        Some(Found { key, negated: true })
    }
}

fn key(arg: &Arg) -> Option<Key> {
    let long = arg.get_long()?;
    // What is hidden is no option that does something.
    if arg.is_positional() || arg.is_hide_set() || NOT_KEYS.contains(&long) {
        return None;
    }
    let aliases = arg.get_all_aliases().unwrap_or_default();
    let names = arg.get_value_names().unwrap_or_default();
    let takes = arg.get_action().takes_values();
    let least = arg.get_num_args().map_or(1, |range| range.min_values());
    let value = if takes {
        names.first().map(ToString::to_string).unwrap_or_default()
    } else {
        String::new()
    };
    let defaults = arg.get_default_values();
    Some(Key {
        id: arg.get_id().to_string(),
        long: long.to_owned(),
        aliases: aliases.into_iter().map(str::to_owned).collect(),
        kind: match (takes, least) {
            (false, _) => Kind::Flag,
            (true, 0) => Kind::Optional,
            (true, _) => Kind::Value,
        },
        repeats: takes && matches!(arg.get_action(), ArgAction::Append),
        commas: arg.get_value_delimiter() == Some(',') || value.contains(",…"),
        paths: paths(arg, &value),
        help: one_line(arg.get_help()),
        default: defaults
            .first()
            .filter(|_| takes)
            .map(|value| value.to_string_lossy().into_owned()),
        alone: arg.is_require_equals_set(),
        value,
    })
}

/// By its type, and by what stands for the value in the help.
fn paths(arg: &Arg, value: &str) -> Paths {
    let is_path = |word: &str| matches!(word, "DIR" | "FILE");
    if arg.get_value_parser().type_id() == ValueParser::path_buf().type_id() {
        return Paths::Whole;
    }
    let words: Vec<&str> = value.trim_end_matches('…').split([',', '|']).collect();
    match value.split_once('=') {
        Some((_, behind)) if is_path(behind) => Paths::Behind,
        Some(_) => Paths::None,
        // A name is looked for in $PATH.
        None if words.contains(&"NAME") && words.contains(&"PATH") => Paths::Slashed,
        None if words.iter().any(|word| is_path(word)) => Paths::Whole,
        // That of one alone is an address's.
        None if value == "PATH,…" => Paths::Home,
        None => Paths::None,
    }
}

fn one_line(help: Option<&StyledStr>) -> String {
    let help = help.map(ToString::to_string).unwrap_or_default();
    help.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// As an option is written: `max_memory`, `maxMemory` and `max-memory` are the same.
pub(super) fn dashed(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    let mut before = '-';
    for c in key.chars() {
        match c {
            '_' => text.push('-'),
            c if c.is_ascii_uppercase() => {
                if before.is_ascii_lowercase() || before.is_ascii_digit() {
                    text.push('-');
                }
                text.push(c.to_ascii_lowercase());
            }
            c => text.push(c),
        }
        before = c;
    }
    text
}

/// As a key is written.
pub(super) fn snake(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::words::nearest;

    #[test]
    fn names() {
        for (key, option) in [
            ("max_memory_restart", "max-memory-restart"),
            ("maxMemoryRestart", "max-memory-restart"),
            ("max-memory", "max-memory"),
            ("windowsHide", "windows-hide"),
            ("uid", "uid"),
            ("ABC", "abc"),
        ] {
            assert_eq!(dashed(key), option);
        }
    }

    #[test]
    fn options_are_keys() {
        let keys = Keys::find_all();
        let found = |name: &str| keys.find(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(found("max-memory-restart").key.long, "max-memory");
        assert!(found("autorestart").negated && !found("no-autorestart").negated);
        assert_eq!(found("inspect").key.kind, Kind::Optional);
        assert_eq!(found("canary").key.kind, Kind::Optional);
        assert_eq!(found("rollback").key.kind, Kind::Flag);
        assert!(found("stop-exit-codes").key.commas && found("env-only").key.commas);
        assert!(found("listen").key.repeats && found("listen").key.takes_table());
        assert_eq!(found("secret").key.paths, Paths::Behind);
        assert_eq!(found("root").key.paths, Paths::Whole);
        assert_eq!(found("landlock-ro").key.paths, Paths::Whole);
        assert_eq!(found("interpreter").key.paths, Paths::Slashed);
        assert_eq!(found("health-path").key.paths, Paths::None, "it is no file's");
        assert_eq!(found("watch").key.paths, Paths::Home);
        assert_eq!(found("ignore-watch").key.paths, Paths::None, "those are patterns");
        assert_eq!(found("heartbeat").key.off(), Some("off"));
        assert_eq!(found("groups").key.off(), Some("none"));
        for not in ["app-dir", "only", "env", "no", "max-memroy", "daemon", "attach", "vizion"] {
            assert!(keys.find(not).is_none(), "{not}");
        }
        assert!(keys.all.iter().all(|key| !key.help.is_empty()));
        for key in keys.all.iter().filter(|key| key.kind == Kind::Optional && !key.alone) {
            // So that the program is not taken for its value.
            let raw = |words: &[String]| {
                let matches = command().try_get_matches_from(words).expect("understood");
                matches.get_raw(&key.id).expect("given").map(ToOwned::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(raw(&[format!("--{}", key.long)]), raw(&[format!("--{}=", key.long)]));
        }
    }

    #[test]
    fn what_is_near() {
        let known = ["max_memory", "instances", "min"];
        assert_eq!(nearest("max_memroy", known), Some("max_memory"));
        assert_eq!(nearest("instence", known), Some("instances"));
        assert_eq!(nearest("colour", known), None);
    }
}
