//! What can go wrong, for people and for programs.

use phalanx_core::spec::MAX_WORKERS;
use phalanx_core::wire::WireError;
use std::fmt;
use std::io;

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done: what was tried, on what, why, and (in [`Error::hint`]) what to do.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A worker count outside 1 to [`MAX_WORKERS`].
    #[error("{0} workers are not possible: it must be 1 to {MAX_WORKERS}")]
    WorkerCount(usize),
    /// A first port beyond which there are not enough for a port for each worker.
    #[error("from port {0} on there are no {1} ports: the last one is 65535")]
    PortBase(u16, usize),
    /// Settings that contradict each other, or that cannot be kept here.
    #[error("{0}")]
    Setting(String),
    /// The name of a scheduling policy that does not exist.
    #[error("`{0}` is no scheduling policy: there are direct, round-robin and shared")]
    Policy(String),
    /// An address that cannot be understood.
    #[error("`{0}` is no address to listen on: expected HOST:PORT, :PORT, PORT or unix:PATH")]
    Address(String),
    /// A worker's process cannot be started.
    #[error("cannot start `{program}`: {source}")]
    Start {
        /// What was to run.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// What is named cannot be run as a worker.
    #[error("cannot start `{program}`: {why}")]
    Program {
        /// What was to run.
        program: String,
        /// Why not.
        why: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// Workers cannot be given the rights, limits or environment that the settings say.
    #[error("{what}: {source}")]
    Permissions {
        /// What cannot be done.
        what: String,
        /// Why not.
        source: io::Error,
        /// What to do instead.
        hint: Option<String>,
    },
    /// No worker could be started.
    #[error("{0}")]
    NotStarted(String),
    /// No worker ever became ready.
    #[error("no worker became ready: {0}")]
    NeverReady(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// A message cannot be sent.
    #[error("cannot send a message: {0}")]
    Message(String),
    /// A message is longer than the bound.
    #[error("cannot send a message of {size} bytes: the bound is {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The bound in bytes.
        limit: usize,
    },
    /// The other side is gone.
    #[error("the channel is closed")]
    Disconnected,
    /// The cluster is stopping or has stopped.
    #[error("the cluster is stopping")]
    Stopping,
    /// The primary's loop is gone without having stopped the cluster.
    #[error(
        "the primary ended unexpectedly: a scheduler or a weight function of the program's panicked, or its runtime is gone"
    )]
    Lost,
    /// The process is no worker.
    #[error("this process is not a worker: it was not started by a primary")]
    NotAWorker,
    /// What is asked for does not go with the port's scheduling policy.
    #[error("{0}")]
    Unsupported(String),
    /// A rolling reload stopped before its end.
    #[error("the reload failed: {0}")]
    Reload(String),
    /// This primary was not replaced by another program.
    #[error("no upgrade: {0}")]
    Upgrade(String),
    /// What is known of applications cannot be read, written or asked for.
    #[error("cannot {what}: {source}")]
    Home {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// An application of that name runs already.
    #[error("an application called `{0}` runs already")]
    Taken(String),
    /// The operating system says no.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// What to do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if let Self::Program { hint, .. } | Self::Permissions { hint, .. } = self {
            return hint.clone();
        }
        let (Self::Listen { source, address } | Self::Start { source, program: address }) = self
        else {
            return None;
        };
        let listen = matches!(self, Self::Listen { .. });
        Some(match source.kind() {
            io::ErrorKind::AddrInUse if address.starts_with("unix:") => {
                "a file, or a socket that somebody listens on, is there: remove it if nobody needs it"
                    .into()
            }
            io::ErrorKind::AddrInUse => format!(
                "another program listens on {address}, or a worker whose primary was killed: stop it (`ss -ltnp` names it) or choose another port"
            ),
            io::ErrorKind::NotFound if listen => {
                "its directory does not exist: create it first".into()
            }
            io::ErrorKind::PermissionDenied if listen => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE, or for workers without them `--port` or `--listen`; a unix socket needs a directory you may write to".into()
            }
            io::ErrorKind::PermissionDenied => {
                format!("is it a program, and may you run it? `chmod +x {address}` makes it one")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("no network interface of this machine has the address {address}")
            }
            io::ErrorKind::NotFound if !listen => {
                "check the name; a program that is not in $PATH needs its directory (./name)".into()
            }
            _ => return None,
        })
    }

    pub(crate) fn home(what: impl fmt::Display) -> Box<dyn FnOnce(io::Error) -> Self> {
        let what = what.to_string();
        Box::new(move |source| Self::Home { what, source })
    }

    pub(crate) fn os(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Os { what, source }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        Self::Message(error.to_string())
    }
}

/// The same words as `Display`: `main` prints an error it returns with `Debug`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match self.hint() {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
