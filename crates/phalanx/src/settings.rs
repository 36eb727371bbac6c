//! How workers are started: `node:cluster`'s `setupPrimary`.

use crate::address::Address;
use crate::permissions::{Inherit, Permissions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

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

/// What a worker's program is expected to know of a primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Knows {
    /// Node's channel: Node, Deno, Bun, programs on this crate.
    #[default]
    Channel,
    /// Perhaps nothing, but it may start such a program in its place, as shell scripts do. It finds the
    /// variables of the channel; for the rest it is [`Knows::Nothing`].
    Perhaps,
    /// Perhaps nothing. It finds a channel if it is a program on this crate; it may speak systemd's protocol;
    /// else it binds for itself. It is drained by steering around it, and ended by SIGTERM.
    /// When its primary, and its keeper if there is one, are killed, the kernel sends that (Linux).
    Nothing,
}

/// Which bind(2) calls of a worker are answered by the primary, with the worker's slot of that port: so a program
/// that knows of no primary shares its port with the others. Linux on x86-64 and `AArch64`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intercept {
    /// None.
    #[default]
    Off,
    /// All to a fixed TCP or UDP port.
    All,
    /// Those to these ports.
    Ports(BTreeSet<u16>),
}

impl Intercept {
    /// Whether a worker's port is shared.
    pub(crate) fn covers(&self, port: u16) -> bool {
        match self {
            Self::Off => false,
            Self::All => port != 0,
            Self::Ports(ports) => ports.contains(&port),
        }
    }
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
    /// Which variables of the primary's environment it inherits.
    pub environment: Inherit,
    /// Variables whose values are in files, each without the newline at its end. They are read by the primary when
    /// it starts a worker; the worker need not be allowed to.
    pub secrets: Vec<(OsString, PathBuf)>,
    /// What it may do, and how much.
    pub permissions: Permissions,
    /// Its standard streams.
    pub stdio: Stdio,
    /// Its user, by number; only root may choose. Supplementary groups are dropped, the group stays: rather see
    /// [`Permissions::user`], which is stronger.
    pub uid: Option<u32>,
    /// Its group, by number; see [`Permissions::group`], which is stronger.
    pub gid: Option<u32>,
    /// What the program is expected to know of a primary.
    pub knows: Knows,
    /// Which of its bind(2) calls the primary answers.
    pub intercept: Intercept,
    /// Ports whose sockets a program that [knows nothing](Knows::Nothing) finds from descriptor 3 on, with their
    /// names: systemd's `LISTEN_FDS` (`sd_listen_fds(3)`).
    pub descriptors: Vec<(String, Address)>,
    /// How often such a program has to give a sign of life: `WATCHDOG_USEC` (`sd_watchdog_enabled(3)`).
    pub watchdog: Option<Duration>,
    /// Each worker gets the variable `PORT`: this number plus its slot.
    pub port_base: Option<u16>,
    /// Variables with a number of each worker's own: this one plus its slot.
    pub by_slot: Vec<(OsString, u64)>,
}
