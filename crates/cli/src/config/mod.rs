//! Configuration files: what they say, checked, and turned into the command lines of `phalanx run`.
//!
//! A file's keys are the long names of that command's options, and a few of its own. So what is said here goes through the
//! same parsers, and a new option is a new key.

mod app;
mod changes;
mod check;
mod deploy;
mod document;
mod dotenv;
mod foreground;
mod init;
mod keys;
mod layers;
mod order;
mod parse;
mod pm2;
mod problem;
mod schema;
mod script;
mod tree;
mod values;
mod variables;
mod verify;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use changes::{Plan, changes};
pub(crate) use check::check;
pub(crate) use deploy::{Deployment, deployment, reference};
pub(crate) use foreground::{beside, foreground, missing, more, tell_ready};
pub(crate) use init::init;
pub(crate) use values::absolute;
pub(crate) use variables::{environment, without_secrets};
pub(crate) use verify::parsed;

use crate::apply::DEED;
use crate::failure::{Failure, USAGE};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// One application of a file, for the chosen environment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AppConfig {
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// For `phalanx run`: options (the name included), the program, `--`, its arguments.
    pub(crate) argv: Vec<String>,
    /// Absolute; links in it stay links, and are followed anew at each reload.
    pub(crate) cwd: PathBuf,
    /// What is declared, merged for the environment.
    pub(crate) env: BTreeMap<String, String>,
    /// Patterns of the variables that are passed on from whoever starts it: `NAME`, `PREFIX_*`, and `!NAME` for not that one.
    pub(crate) pass_env: Vec<String>,
    /// Names of applications that have to be ready first.
    pub(crate) after: Vec<String>,
    pub(crate) autostart: bool,
}

/// What a file says, for the chosen environment.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) file: PathBuf,
    pub(crate) environment: Option<String>,
    /// In start order: after those that they name, else as in the file.
    pub(crate) apps: Vec<AppConfig>,
    pub(crate) warnings: Vec<String>,
}

/// Whether this is a configuration file, by its name.
pub(crate) fn is_config(path: &Path) -> bool {
    parse::format(path).is_some()
}

/// The names of configuration files that need not be named, the first one goes before.
const DEFAULTS: [&str; 16] = [
    "phalanx.toml",
    "phalanx.yaml",
    "phalanx.yml",
    "phalanx.json",
    "phalanx.json5",
    "phalanx.config.js",
    "phalanx.config.mjs",
    "phalanx.config.cjs",
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.config.mjs",
    "ecosystem.config.json",
    "ecosystem.json",
    "ecosystem.config.yaml",
    "ecosystem.config.yml",
    "ecosystem.json5",
];

/// The file that is meant if none is named.
pub(crate) fn default_file(directory: &Path) -> Option<PathBuf> {
    DEFAULTS.iter().map(|name| directory.join(name)).find(|file| file.is_file())
}

/// Reads a file for an environment; of its applications only those of these names, if there are any.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn load(
    file: &Path,
    environment: Option<&str>,
    only: &[String],
) -> Result<Loaded, Failure> {
    let mut done = document::examine(file, environment);
    if !done.problems.is_empty() {
        return Err(problem::failure(&done.problems, file));
    }
    document::select(&mut done, only)
        .map_err(|why| Failure::tool(USAGE, format!("{}: {why}", file.display())))?;
    done.warnings.retain(|words| is_news(words));
    Ok(done.loaded(file, environment))
}

/// Whether nobody has said it yet: a command looks into a file for each of its applications, and may do so by another process.
fn is_news(words: &str) -> bool {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let is_new = SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(words.to_owned());
    is_new && std::env::var_os(DEED).is_none()
}
