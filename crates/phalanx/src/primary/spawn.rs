//! A worker's process: its program, environment, channel and standard streams.

use super::child::Child;
use crate::error::{Error, Result};
use crate::program::directory;
use crate::settings::{Settings, Stdio};
use crate::sys::{
    self,
    portable::{cookie, new_pair},
};
use phalanx_core::worker::{SlotId, WorkerId};
use rustix::fd::OwnedFd;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Command};
use std::sync::OnceLock;

/// How far beyond its own port a free one is looked for; else the system chooses.
const INSPECTOR_PORTS: u32 = 1024;

pub(crate) struct Spawned {
    pub(crate) child: Child,
    /// What tells the other side's socket from any other.
    pub(crate) peer_cookie: u64,
    pub(crate) inspector: Option<SocketAddr>,
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
}

/// Starts a worker; the first is this side of its channel. No fork without exec: the child shares nothing with the primary but what is
/// given to it here. std resets the signal mask and SIGPIPE in the child.
pub(crate) fn spawn(
    settings: &Settings,
    extra_env: &[(OsString, OsString)],
    worker: WorkerId,
    slot: SlotId,
    inspectors: &[SocketAddr],
) -> Result<(OwnedFd, Spawned)> {
    let program = match &settings.exec {
        Some(program) => program.clone(),
        None => this_program()?,
    };
    let failed =
        |source: io::Error| Error::Start { program: program.display().to_string(), source };
    let (ours, theirs) = new_pair().map_err(|e| failed(e.into()))?;
    let peer_cookie = cookie(&theirs).unwrap_or(0);
    let mut command = Command::new(&program);
    if settings.exec.is_none() && settings.args.is_empty() {
        command.args(std::env::args_os().skip(1));
    }
    let inspect = settings.inspect.map(|base| free_from(base, slot, inspectors));
    command
        .args(&settings.exec_args)
        .args(preload(settings))
        .args(inspect.map(|address| format!("--inspect={address}")))
        .args(&settings.args)
        .envs(settings.env.iter().map(|(k, v)| (k, v)))
        .envs(extra_env.iter().map(|(k, v)| (k, v)))
        .env("NODE_UNIQUE_ID", worker.to_string())
        .env("NODE_CHANNEL_FD", sys::CHANNEL_FD.to_string())
        .env("NODE_CHANNEL_SERIALIZATION_MODE", "json")
        .env("NODE_APP_INSTANCE", slot.to_string())
        // The terminal's Ctrl-C is for the primary; it tells its workers.
        .process_group(0)
        .stdin(std::process::Stdio::null());
    let stdio = || match settings.stdio {
        Stdio::Inherit => std::process::Stdio::inherit(),
        Stdio::Null => std::process::Stdio::null(),
        Stdio::Piped => std::process::Stdio::piped(),
    };
    command.stdout(stdio()).stderr(stdio());
    if let Some(cwd) = &settings.cwd {
        command.current_dir(cwd);
    }
    if let Some(gid) = settings.gid {
        command.gid(gid);
    }
    if let Some(uid) = settings.uid {
        command.uid(uid);
    }
    sys::give_channel(&mut command, theirs).map_err(failed)?;
    let mut process = command.spawn().map_err(failed)?;
    let child = Child::new(process.id()).map_err(|error| {
        // Without a hold on it, it must not live.
        let _ = process.kill();
        let _ = process.wait();
        failed(error)
    })?;
    let spawned = Spawned {
        child,
        peer_cookie,
        inspector: inspect.filter(|at| at.port() != 0),
        stdout: process.stdout.take(),
        stderr: process.stderr.take(),
    };
    Ok((ours, spawned))
}

/// Node's flags for the preload. Its file is looked at each time: others clean up where it is.
fn preload(settings: &Settings) -> Vec<OsString> {
    if !settings.preload {
        return Vec::new();
    }
    match directory::preload(settings.uid.is_some() || settings.gid.is_some()) {
        Ok(file) => {
            // Where a program may read only what it is allowed to.
            let restricts =
                |flag: &OsString| flag == "--permission" || flag == "--experimental-permission";
            let mut allowed = OsString::from("--allow-fs-read=");
            allowed.push(&file);
            let allowed = settings.exec_args.iter().any(restricts).then_some(allowed);
            ["--require".into(), file.into()].into_iter().chain(allowed).collect()
        }
        // Less comfort is no reason not to serve.
        Err(error) => {
            tracing::warn!(
                "no place for the preload, so keep-alive connections are cut when a worker leaves: {error}; set XDG_RUNTIME_DIR to a directory of your own"
            );
            Vec::new()
        }
    }
}

/// The address for a slot's inspector: its port, or the next one that is free, because a worker that
/// drains still has it. Nobody keeps it free until the worker opens it, but no other worker is given it.
fn free_from(base: SocketAddr, slot: SlotId, given: &[SocketAddr]) -> SocketAddr {
    if base.port() == 0 {
        return base;
    }
    let first = u32::from(base.port()) + slot.0;
    let ports = (first..first + INSPECTOR_PORTS).filter_map(|port| u16::try_from(port).ok());
    ports
        .map(|port| SocketAddr::new(base.ip(), port))
        .find(|at| !given.contains(at) && std::net::TcpListener::bind(at).is_ok())
        .unwrap_or(SocketAddr::new(base.ip(), 0))
}

/// The file of this program, as it was named when the primary started: a new version that was put in its
/// place is what a reload starts. If nothing is there, the program that runs.
fn this_program() -> Result<PathBuf> {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let named = match FILE.get() {
        Some(file) => file,
        None => {
            let file = std::env::current_exe().map_err(Error::os("cannot find this program"))?;
            FILE.get_or_init(|| file)
        }
    };
    let running = Path::new("/proc/self/exe");
    Ok(if named.exists() || !running.exists() { named.clone() } else { running.to_owned() })
}

/// Notes where this program is, before anybody moves it.
pub(crate) fn note_this_program() {
    let _ = this_program();
}

/// Whether starting the same program again is pointless.
pub(crate) fn is_permanent(error: &Error) -> bool {
    let Error::Start { source, .. } = error else { return false };
    matches!(
        source.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::InvalidInput
    ) || source.raw_os_error() == Some(libc::ENOEXEC)
}

/// Lets this process, and the workers that inherit it, have as many descriptors as it may.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!("the limit of open files stays as it is: {error}");
        }
    }
}
