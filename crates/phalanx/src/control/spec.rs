//! What an application is.

use super::directory::write_json;
use super::register::MARK;
use crate::error::{Error, Result};
use crate::keeper::VARIABLES;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Characters of a name.
pub(super) const LONGEST_NAME: usize = 64;

/// What is to run, for those who come later. All that an application is made of is in here, and nothing else is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Spec {
    /// The version of this file.
    pub v: u32,
    /// Given when it is started first, and kept.
    pub id: u32,
    /// What it is called.
    pub name: String,
    /// The group it belongs to.
    pub namespace: String,
    /// The command line after `phalanx run`: options, then the program, then its arguments after `--`.
    pub argv: Vec<String>,
    /// As it was named: links in it are followed anew by each worker.
    pub cwd: String,
    /// The whole environment of the primary, and so of its workers.
    pub env: BTreeMap<String, String>,
    /// The part of it that came from whoever started it, if not all did: the rest is what the configuration file says.
    pub inherited: Option<BTreeMap<String, String>>,
    /// The configuration file that it is from, and the environment that was chosen in it (`--env`).
    pub config: Option<PathBuf>,
    /// That environment.
    pub environment: Option<String>,
    /// Applications that have to be ready first.
    pub after: Vec<String>,
    /// It was stopped by somebody, and is not started at boot.
    pub stopped: bool,
    /// How many workers there are, if somebody said so after its start.
    pub scaled: Option<usize>,
    /// It runs in somebody's foreground, who starts it: nothing is left of it when it has ended.
    pub foreground: bool,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    /// The version of phalanx.
    pub version: String,
    /// The directory of its logs.
    pub logs: PathBuf,
}

impl Spec {
    /// The version of its file.
    pub const VERSION: u32 = 2;

    /// Of a command line, a directory and an environment; with the time of now, and the version of this program.
    #[must_use]
    pub fn new(name: &str, argv: Vec<String>, cwd: &Path, env: BTreeMap<String, String>) -> Self {
        Self {
            v: Self::VERSION,
            name: name.to_owned(),
            namespace: "default".to_owned(),
            argv,
            cwd: cwd.display().to_string(),
            env,
            started_ms: now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Self::default()
        }
    }

    /// Has this process begin again in the environment that is written down, if it is in another one: that of whoever
    /// started it, or an older one. To be called before anything else; returns if it is the right one.
    ///
    /// # Errors
    /// This program cannot be started again.
    pub fn wear(&self) -> Result<()> {
        // Between phalanx's own processes.
        let own = |name: &str| VARIABLES.contains(&name) || name == MARK;
        let told: BTreeMap<OsString, OsString> =
            std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(own)).collect();
        let mut wanted = told;
        let of_spec = self.env.iter().filter(|(name, _)| !own(name));
        wanted.extend(of_spec.map(|(name, value)| (name.into(), value.into())));
        if wanted == std::env::vars_os().collect() {
            return Ok(());
        }
        let program = std::env::current_exe().map_err(Error::home("find this program"))?;
        let mut words = std::env::args_os();
        let mut command = Command::new(&program);
        command.arg0(words.next().unwrap_or_default()).args(words);
        let error = command.env_clear().envs(wanted).exec();
        Err(Error::home(format!("start {}", program.display()))(error))
    }

    pub(super) fn read(file: &Path) -> io::Result<Self> {
        let spec: Self = serde_json::from_slice(&fs::read(file)?)?;
        match spec.v {
            Self::VERSION => Ok(spec),
            other => Err(io::Error::other(format!(
                "it is of version {other}, and this program reads version {}",
                Self::VERSION
            ))),
        }
    }

    pub(super) fn write(&self, file: &Path, durable: bool) -> io::Result<()> {
        write_json(file, self, durable)
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A name that can be a directory, and typed.
///
/// # Errors
/// Why it is none, in words.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(format!("a name has 1 to {LONGEST_NAME} characters"));
    }
    if !name.chars().all(fits) {
        return Err("a name consists of letters (a to z), digits, `.`, `-` and `_`".into());
    }
    if name.starts_with(['.', '-']) {
        return Err("a name begins with a letter, a digit or `_`".into());
    }
    if name == "all" {
        return Err("`all` means all applications".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "api-2", "x.y_z", "_", "9", &"n".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "-x", ".x", "ä", "all", "a\n", &"n".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
