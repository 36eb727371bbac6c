//! The commands of a tool, each timed, with applications and a home of its own.

use super::{PATIENCE, Programs, typed};
use crate::setup;
use bench::process;
use bench::spawned::Marked;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Which tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Phalanx,
    Pm2,
}

/// A tool that knows no application yet, and in pm2's case has no daemon. Dropping it ends all that it started.
pub(crate) struct Tool {
    which: Which,
    program: PathBuf,
    home: PathBuf,
    marked: Marked,
}

/// A command that was done.
pub(crate) struct Done {
    pub(crate) took: Duration,
    /// What it printed, on both streams.
    pub(crate) said: String,
    /// As one would type it.
    pub(crate) command: String,
}

impl Which {
    /// As it is called in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Phalanx => "phalanx",
            Self::Pm2 => "pm2",
        }
    }

    /// Sees to it that what it needs is there.
    pub(crate) fn needs(self) -> Result<(), String> {
        match self {
            Self::Phalanx => setup::node(),
            Self::Pm2 => setup::packages().map(drop),
        }
    }
}

impl Tool {
    pub(crate) fn new(which: Which, programs: &Programs) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let home = setup::scratch()?.join(format!("tool-{number}"));
        fs::create_dir(&home).map_err(|error| format!("{}: {error}", home.display()))?;
        let program = match which {
            Which::Phalanx => programs.phalanx.clone(),
            Which::Pm2 => setup::packages()?.join(".bin/pm2"),
        };
        Ok(Self { which, program, home, marked: Marked::new() })
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str], env: &[(&str, &str)]) -> Result<Done, String> {
        let mut command = Command::new(&self.program);
        command.args(args).envs(env.iter().copied()).current_dir(&self.home);
        match self.which {
            Which::Phalanx => command.env("PHALANX_HOME", &self.home),
            // It asks a server of its makers' for a newer version otherwise.
            Which::Pm2 => command.env("PM2_HOME", &self.home).env("PM2_DISABLE_VERSION_CHECK", "1"),
        };
        let typed = typed(&command);
        let failed = |what: &dyn std::fmt::Display| format!("{typed}: {what}");
        let place = self.home.join("said");
        let file = File::create(&place).map_err(|error| failed(&error))?;
        let also = file.try_clone().map_err(|error| failed(&error))?;
        // A file: a pipe would have to be read meanwhile, on the same cores.
        command.stdin(Stdio::null()).stdout(file).stderr(also);
        let ran = self.marked.run(&mut command, PATIENCE);
        let said = fs::read_to_string(&place).unwrap_or_default();
        let (status, took) = ran.map_err(|error| failed(&format!("{error}\n{said}")))?;
        if !status.success() {
            return Err(failed(&format!("{status}\n{said}")));
        }
        Ok(Done { took, said, command: typed })
    }

    /// Writes a file to its home, for the next command.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.home.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// What stands above the workers: pm2's daemon, or the primaries and their keepers.
    pub(crate) fn managers(&self) -> Result<Vec<u32>, String> {
        match self.which {
            Which::Pm2 => daemon(&self.home).map(|daemon| vec![daemon]),
            Which::Phalanx => with_keepers(&self.run(&["list", "--json"], &[])?.said),
        }
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // Nobody may write to the home any more.
        self.marked.end();
        // What cannot be removed now goes with all that is left at the very end.
        let _ = fs::remove_dir_all(&self.home);
    }
}

fn daemon(home: &Path) -> Result<u32, String> {
    let file = home.join("pm2.pid");
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    text.trim().parse().map_err(|_| format!("{}: {text:?} is no process", file.display()))
}

/// The primaries of a list, and the process above each.
fn with_keepers(list: &str) -> Result<Vec<u32>, String> {
    let list: serde_json::Value =
        serde_json::from_str(list).map_err(|error| format!("phalanx list: {error}"))?;
    let apps = list.as_array().ok_or("phalanx list: no array")?;
    let mut all = Vec::new();
    for app in apps {
        let primary = app.get("primary_pid").and_then(serde_json::Value::as_u64);
        let primary = primary.and_then(|pid| u32::try_from(pid).ok());
        let primary = primary.ok_or_else(|| format!("phalanx list: no primary of {app}"))?;
        let keeper = process::stat(primary).map_err(|error| error.to_string())?.parent;
        all.extend([primary, keeper]);
    }
    Ok(all)
}
