//! How workers are started: `node:cluster`'s `setupPrimary`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a worker's standard streams go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stdio {
    /// Where the primary's go.
    #[default]
    Inherit,
    /// Nowhere.
    Null,
    /// Output to the primary, as `node:cluster`'s `silent: true`: take it with
    /// [`WorkerHandle::take_stdout`](crate::WorkerHandle::take_stdout). Input from nowhere.
    Piped,
}

/// How the next workers are started. A change does not touch the running ones.
///
/// ```
/// let mut settings = phalanx::Settings::default();
/// settings.args.push("--quiet".into());
/// settings.env.push(("MODE".into(), "production".into()));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The program; `None`: this one again.
    pub exec: Option<PathBuf>,
    /// Arguments before all others: the flags of an interpreter, and nothing of the script's.
    pub exec_args: Vec<OsString>,
    /// The program is Node, and loads the preload first (see [`Program::preload`](crate::Program::preload)).
    pub preload: bool,
    /// Each worker gets `--inspect=` with this address between `exec_args` and `args`: on its port plus
    /// the worker's slot, or the next port that is free.
    pub inspect: Option<SocketAddr>,
    /// Its arguments; with `exec: None` and no arguments here: this process's own.
    pub args: Vec<OsString>,
    /// Its working directory; `None`: the primary's.
    pub cwd: Option<PathBuf>,
    /// Variables beside the primary's environment.
    pub env: Vec<(OsString, OsString)>,
    /// Its standard streams.
    pub stdio: Stdio,
    /// Its user, by number; only root may choose. Supplementary groups are dropped.
    pub uid: Option<u32>,
    /// Its group, by number.
    pub gid: Option<u32>,
}
