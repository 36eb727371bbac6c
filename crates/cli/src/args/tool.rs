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

#[derive(Args, Debug)]
pub(crate) struct List {
    /// For programs: an array, with all that is known of each application
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Describe {
    /// The application
    pub(crate) name: String,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Stop {
    /// The application
    pub(crate) name: String,
    /// Kill the workers instead of letting them finish
    #[arg(long)]
    pub(crate) now: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// The application, or all of them
    #[arg(value_name = "NAME|all")]
    pub(crate) name: String,
    /// Kill the workers instead of letting them finish
    #[arg(long)]
    pub(crate) now: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Named {
    /// The application
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct Why {
    /// The application
    pub(crate) name: String,
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
    pub(crate) name: String,
    /// How many workers: a number, or so many more or less
    #[arg(value_name = "N|+N|-N", allow_hyphen_values = true)]
    pub(crate) workers: Target,
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
        let wrong = || format!("expected a number from 1 to {MAX_WORKERS}, or one with + or -");
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<i64>().ok().filter(|n| (1..=most).contains(n)).ok_or_else(wrong),
            false => Err(wrong()),
        };
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
            ("max", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(text.parse::<Target>().ok(), target, "{text:?}");
        }
    }
}
