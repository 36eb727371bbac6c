//! The command lines of what runs in the background.

use super::{Run, time};
use clap::Args;
use phalanx::MAX_WORKERS;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// What `start` tells the primary that it starts. `start` passes its own command line on, so `run` takes all of it.
#[derive(Args, Debug)]
pub(crate) struct Detached {
    /// The application's directory: this primary is in the background
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) app_dir: Option<PathBuf>,
    /// How long to wait until all workers are ready; the application goes on if they are not. 0: not at all
    #[arg(long, hide = true, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub(crate) wait: Duration,
}

#[derive(Args, Debug)]
#[command(
    override_usage = "phalanx start [OPTIONS] PROGRAM [ARGS]... [-- ARGS...]\n       phalanx start [OPTIONS] -- PROGRAM [ARGS]...",
    mut_arg("wait", |arg| arg.hide(false)),
    mut_arg("name", |arg| arg.help("What it is called from now on; else as the program: letters, digits, `.`, `-`, `_`"))
)]
pub(crate) struct Start {
    #[command(flatten)]
    pub(crate) run: Run,
}

/// Which applications.
#[derive(Args, Debug)]
pub(crate) struct Targets {
    /// Names, ids, all, patterns (`api-*`), /regular expressions/, namespaces, configuration files
    #[arg(value_name = "APP", required = true)]
    pub(crate) apps: Vec<String>,
}

/// Which applications; all if none is named.
#[derive(Args, Debug)]
pub(crate) struct Any {
    /// Names, ids, all, patterns (`api-*`), /regular expressions/, namespaces, configuration files; else all
    #[arg(value_name = "APP")]
    pub(crate) apps: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) of: Any,
    /// For programs: an array, with all that is known of each application
    #[arg(long)]
    pub(crate) json: bool,
    /// Show it again every second, until `q` or Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// The order: id, name, namespace, status, restarts, uptime, cpu or memory; with `:desc` the other way round
    #[arg(long, value_name = "FIELD[:asc|:desc]")]
    pub(crate) sort: Option<crate::ui::applications::Sort>,
    /// One line for each application, and none for its workers
    #[arg(short = 'm', long, visible_alias = "mini-list")]
    pub(crate) short: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Describe {
    #[command(flatten)]
    pub(crate) of: Targets,
    /// For programs: an object, or an array of them if several applications are meant
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Stop {
    #[command(flatten)]
    pub(crate) of: Targets,
    /// Kill the workers instead of letting them finish
    #[arg(long)]
    pub(crate) now: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Reload {
    #[command(flatten)]
    pub(crate) of: Targets,
    /// Take the environment of this shell, and of nothing before
    #[arg(short = 'a', long)]
    pub(crate) update_env: bool,
    /// The environment of the configuration file
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<String>,
    /// Only these applications of a configuration file
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
}

/// As `reload`.
pub(crate) type Restart = Reload;

#[derive(Args, Debug)]
pub(crate) struct LogsOf {
    #[command(flatten)]
    pub(crate) of: Any,
    /// It does so without being told
    #[arg(short, long, hide = true)]
    pub(crate) follow: bool,
    /// So many of the last lines of each application first; 15, or with --since all. 0: only new ones
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) lines: Option<usize>,
    /// Only what is said on standard error
    #[arg(long, conflicts_with = "out")]
    pub(crate) err: bool,
    /// Only what is said on standard output
    #[arg(long)]
    pub(crate) out: bool,
    /// A line of JSON for each: time, application, worker, slot, pid, stream, text
    #[arg(long)]
    pub(crate) json: bool,
    /// The lines as they were said, with nothing before them
    #[arg(long, conflicts_with = "json")]
    pub(crate) raw: bool,
    /// The time before each line
    #[arg(short = 't', long, visible_alias = "timestamp")]
    pub(crate) time: bool,
    /// Only what was said since then: a time span (5m, 2h), or a date and a time (2026-01-31 13:00)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only lines in which this regular expression is found
    #[arg(long, value_name = "REGEX", visible_alias = "highlight")]
    pub(crate) grep: Option<String>,
    /// Only of this worker, by slot
    #[arg(long, value_name = "SLOT")]
    pub(crate) slot: Option<u32>,
    /// Show what there is, and end
    #[arg(long, visible_alias = "nostream")]
    pub(crate) no_follow: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Flush {
    #[command(flatten)]
    pub(crate) of: Any,
}

#[derive(Args, Debug)]
pub(crate) struct Why {
    #[command(flatten)]
    pub(crate) of: Targets,
    /// So many of the last ends; the newest is the last
    #[arg(short = 'n', long, value_name = "N", default_value = "3")]
    pub(crate) number: usize,
    /// All that is known, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Scale {
    /// The application
    #[arg(value_name = "APP")]
    pub(crate) app: String,
    /// How many workers: a number, max for one per core, or so many more or less
    #[arg(value_name = "N|+N|-N|max", allow_hyphen_values = true)]
    pub(crate) workers: Target,
}

#[derive(Args, Debug)]
pub(crate) struct Signal {
    /// As in kill(1): USR1, SIGHUP, 15
    #[arg(value_name = "SIGNAL")]
    pub(crate) signal: String,
    #[command(flatten)]
    pub(crate) of: Targets,
    /// Only to the worker of this slot
    #[arg(long, value_name = "SLOT")]
    pub(crate) slot: Option<u32>,
}

#[derive(Args, Debug)]
pub(crate) struct Send {
    /// The application
    #[arg(value_name = "APP")]
    pub(crate) app: String,
    /// JSON; else it is sent as a string
    #[arg(value_name = "MESSAGE")]
    pub(crate) message: String,
    /// Only to the worker of this slot
    #[arg(long, value_name = "SLOT")]
    pub(crate) slot: Option<u32>,
}

#[derive(Args, Debug)]
pub(crate) struct Environment {
    /// The application
    #[arg(value_name = "APP")]
    pub(crate) app: String,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
    /// Show the values of secrets too
    #[arg(long)]
    pub(crate) secrets: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Ping {
    #[command(flatten)]
    pub(crate) of: Any,
}

#[derive(Args, Debug)]
pub(crate) struct Save {
    /// Keep the snapshot even if there is no application
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Resurrect {
    /// As it was at the snapshot before the last (2), the one before that (3), …
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) generation: usize,
    /// At boot: what is to run, and nothing that was deleted since the snapshot
    #[arg(long, hide = true)]
    pub(crate) boot: bool,
    /// Stay, as the process of a systemd unit: SIGTERM drains and stops all applications, SIGHUP reloads them
    #[arg(long, hide = true)]
    pub(crate) stay: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Startup {
    /// systemd, the only one there is
    #[arg(value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// The user whose applications are started; else this one
    #[arg(short, long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// The home directory of that user
    #[arg(long, value_name = "DIR")]
    pub(crate) hp: Option<PathBuf>,
    /// What the unit is called
    #[arg(long, value_name = "NAME", default_value = "phalanx")]
    pub(crate) service_name: String,
    /// Start when the network is online, and not as soon as there are local sockets
    #[arg(long)]
    pub(crate) wait_ip: bool,
    /// A unit of the user's own systemd (`systemctl --user`)
    #[arg(long)]
    pub(crate) user_unit: bool,
    /// Install it
    #[arg(short, long)]
    pub(crate) write: bool,
}

/// As `startup`.
pub(crate) type Unstartup = Startup;

#[derive(Args, Debug)]
pub(crate) struct Init {
    /// The file; its extension says which language it is in
    #[arg(value_name = "FILE", default_value = "phalanx.toml")]
    pub(crate) file: PathBuf,
    /// Overwrite it
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// The file; else phalanx.toml, .yaml, .yml, .json or .json5 here, or ecosystem.config.js
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The environment that is chosen in it: its `environments.NAME` and `env_NAME`
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<String>,
    /// Only these applications of it
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Print the JSON schema of configuration files instead
    #[arg(long)]
    pub(crate) schema: bool,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
    /// Find the program of this command line, in this directory and environment: asked by `check` itself
    #[arg(long, hide = true, value_name = "JSON")]
    pub(crate) program_of: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// bash, zsh, fish, elvish or powershell; or man, for manual pages
    #[arg(value_name = "SHELL|man")]
    pub(crate) shell: String,
    /// Manual pages: the directory to write them to; else the first page is printed
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// How many workers there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// So many.
    To(usize),
    /// So many more; or, below zero, less.
    By(i64),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let most = i64::try_from(MAX_WORKERS).unwrap_or(i64::MAX);
        let wrong =
            || format!("expected a number from 1 to {MAX_WORKERS}, max, or one with + or -");
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<i64>().ok().filter(|n| (1..=most).contains(n)).ok_or_else(wrong),
            false => Err(wrong()),
        };
        if text == "max" {
            return Ok(Self::To(phalanx::cores()));
        }
        match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(more), _) => number(more).map(Self::By),
            (None, Some(less)) => number(less).map(|n| Self::By(-n)),
            (None, None) => {
                number(text).and_then(|n| usize::try_from(n).map(Self::To).map_err(|_| wrong()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (text, target) in [
            ("4", Some(Target::To(4))),
            ("+2", Some(Target::By(2))),
            ("-1", Some(Target::By(-1))),
            ("0", None),
            ("-0", None),
            ("+-1", None),
            ("--1", None),
            ("", None),
            ("+", None),
            ("513", None),
            ("max", Some(Target::To(phalanx::cores()))),
            ("99999999999999999999", None),
        ] {
            assert_eq!(text.parse::<Target>().ok(), target, "{text:?}");
        }
    }
}
