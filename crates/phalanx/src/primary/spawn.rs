//! A worker's process: its program, environment, channel and standard streams.

use super::child::Child;
use crate::error::{Error, Result};
use crate::permissions;
use crate::program::directory;
use crate::settings::{Intercept, Knows, Settings, Stdio};
use crate::sys::launch::{FIRST_FD, Image, Inheritance, bequeath};
use crate::sys::permit::Step;
use crate::sys::portable::{cookie, new_pair};
#[cfg(target_os = "linux")]
use crate::sys::{
    launch::{life_fd, receive_listener},
    seccomp::Listener,
};
use phalanx_core::worker::{SlotId, WorkerId};
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Once, OnceLock};
use std::time::Duration;

/// How far beyond its own port a free one is looked for; else the system chooses.
const INSPECTOR_PORTS: u32 = 1024;

/// What a worker gets beside its settings.
pub(crate) struct Given<'a> {
    pub(crate) worker: WorkerId,
    pub(crate) slot: SlotId,
    pub(crate) env: &'a [(OsString, OsString)],
    /// Where the others' inspectors are.
    pub(crate) inspectors: &'a [SocketAddr],
    /// Sockets for descriptor 3 and the following, by name.
    pub(crate) descriptors: Vec<(String, OwnedFd)>,
    /// Where it may say that it is ready.
    pub(crate) notify: Option<OsString>,
    /// What it is to be called, if not by the name that is started.
    pub(crate) called: Option<PathBuf>,
}

/// Variables of a service manager for this process, and of a primary that this one may be a worker of.
const NOT_INHERITED: [&str; 16] = [
    "PHALANX_KEEPER",
    "PHALANX_INHERIT",
    "PHALANX_REHEARSE",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "NODE_UNIQUE_ID",
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "PHALANX_UNIQUE_ID",
    "PHALANX_CHANNEL_FD",
    "PHALANX_LIFE_FD",
];

pub(crate) struct Spawned {
    pub(crate) child: Child,
    /// The number of its channel.
    pub(crate) channel_fd: i32,
    /// What tells of its bind(2) calls, or why nothing does.
    #[cfg(target_os = "linux")]
    pub(crate) listener: Option<io::Result<Listener>>,
    /// It ends when this is closed, if it may know nothing: see [`Knows`].
    #[cfg(target_os = "linux")]
    pub(crate) life: Option<OwnedFd>,
    /// What tells the other side's socket from any other.
    pub(crate) peer_cookie: u64,
    pub(crate) inspector: Option<SocketAddr>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Starts a worker; the first is this side of its channel. No fork without exec: the child shares nothing with the primary but what is
/// given to it here. std resets SIGPIPE in the child, [`bequeath`] the signal mask.
pub(crate) fn spawn(settings: &Settings, given: Given<'_>) -> Result<(OwnedFd, Spawned)> {
    let program = program_of(settings)?;
    let failed =
        |source: io::Error| Error::Start { program: program.display().to_string(), source };
    let (ours, theirs) = new_pair().map_err(|e| failed(e.into()))?;
    let peer_cookie = cookie(&theirs).unwrap_or(0);
    let mut command = Command::new(&program);
    if let Some(name) = &given.called {
        command.arg0(name);
    }
    if settings.exec.is_none() && settings.args.is_empty() {
        command.args(std::env::args_os().skip(1));
    }
    let preload = preload(settings);
    let permit = permissions::permit(settings, preload.as_deref())?;
    let inspect = settings.inspect.map(|base| free_from(base, given.slot, given.inspectors));
    let count = i32::try_from(given.descriptors.len()).unwrap_or(i32::MAX);
    let channel_fd = FIRST_FD.saturating_add(count);
    command
        .args(&settings.exec_args)
        .args(preload.into_iter().flat_map(|file| preload_flags(settings, file)))
        .args(inspect.map(|address| format!("--inspect={address}")))
        .args(&settings.args)
        .env_clear()
        .envs(environment(settings, &given, channel_fd)?)
        // The terminal's Ctrl-C is for the primary; it tells its workers.
        .process_group(0)
        .stdin(std::process::Stdio::null());
    let stdio = || match settings.stdio {
        Stdio::Inherit => std::process::Stdio::inherit(),
        Stdio::Null => std::process::Stdio::null(),
        Stdio::Piped => std::process::Stdio::piped(),
    };
    command.stdout(stdio()).stderr(stdio());
    let mut pids = Vec::new();
    pids.extend((!given.descriptors.is_empty()).then_some("LISTEN_PID"));
    pids.extend(watchdog(settings).map(|_| "WATCHDOG_PID"));
    let image = (!pids.is_empty()).then(|| Image::of(&command, &pids)).transpose();
    let mut descriptors: Vec<OwnedFd> = given.descriptors.into_iter().map(|(_, fd)| fd).collect();
    descriptors.push(theirs);
    #[cfg(target_os = "linux")]
    let (listener_end, filter) = match settings.intercept {
        Intercept::Off => (None, None),
        _ => new_pair().map(|(a, b)| (Some(a), Some(b))).map_err(|e| failed(e.into()))?,
    };
    #[cfg(target_os = "linux")]
    let (life, its_life) = if settings.knows == Knows::Channel {
        (None, None)
    } else {
        let (ours, theirs) = new_pair().map_err(|e| failed(e.into()))?;
        (Some(ours), Some((theirs, life_fd())))
    };
    // An unmodified program begins with what it has without a primary: some cannot bear more (select(2)).
    let files = FILES
        .get()
        .copied()
        .filter(|_| settings.knows != Knows::Channel && settings.permissions.open_files.is_none());
    let inheritance = Inheritance {
        descriptors,
        files,
        permit,
        image: image.map_err(failed)?,
        #[cfg(target_os = "linux")]
        filter,
        #[cfg(target_os = "linux")]
        life: its_life,
    };
    bequeath(&mut command, inheritance).map_err(failed)?;
    let mut process = command.spawn().map_err(|error| match Step::of(&error) {
        Some((Step::Directory, source)) => failed(no_directory(settings, &source)),
        Some((step, source)) => {
            permissions::step_failed(settings, Some(given.worker), step, source)
        }
        None => permissions::exec_failed(settings, &program, error),
    })?;
    // What was given to it is held by it alone now.
    drop(command);
    let child = Child::new(process.id()).map_err(|error| {
        // Without a hold on it, it must not live.
        let _ = process.kill();
        let _ = process.wait();
        failed(error)
    })?;
    #[cfg(target_os = "linux")]
    let listener = listener_end.map(|end| receive_listener(&end));
    // Whose calls nobody answers must not live: they would fail in a way that no program expects.
    #[cfg(target_os = "linux")]
    if let Some(Err(error)) = &listener
        && error.raw_os_error() == Some(libc::EMFILE)
    {
        let _ = process.kill();
        let _ = process.wait();
        return Err(failed(io::Error::from_raw_os_error(libc::EMFILE)));
    }
    let spawned = Spawned {
        child,
        channel_fd,
        #[cfg(target_os = "linux")]
        listener,
        #[cfg(target_os = "linux")]
        life,
        peer_cookie,
        inspector: inspect.filter(|at| at.port() != 0),
        stdout: process.stdout.take().map(OwnedFd::from),
        stderr: process.stderr.take().map(OwnedFd::from),
    };
    Ok((ours, spawned))
}

/// The file that settings start.
pub(crate) fn program_of(settings: &Settings) -> Result<PathBuf> {
    match &settings.exec {
        Some(program) => Ok(program.clone()),
        None => this_program(),
    }
}

/// All that is in a worker's environment.
fn environment(
    settings: &Settings,
    given: &Given<'_>,
    channel_fd: i32,
) -> Result<BTreeMap<OsString, OsString>> {
    let inherited = std::env::vars_os().filter(|(name, _)| settings.environment.takes(name));
    let mut all: BTreeMap<OsString, OsString> = inherited.collect();
    for name in NOT_INHERITED {
        all.remove(OsStr::new(name));
    }
    all.extend(permissions::login(settings)?);
    all.extend(settings.env.iter().cloned());
    all.extend(given.env.iter().cloned());
    all.extend(permissions::with_secrets(settings)?);
    let mut set = |name: &str, value: String| all.insert(name.into(), value.into());
    set("NODE_APP_INSTANCE", given.slot.to_string());
    if settings.knows == Knows::Nothing {
        // A Node program that it runs for its own purposes is no worker.
        set("PHALANX_UNIQUE_ID", given.worker.to_string());
        set("PHALANX_CHANNEL_FD", channel_fd.to_string());
    } else {
        set("NODE_UNIQUE_ID", given.worker.to_string());
        set("NODE_CHANNEL_FD", channel_fd.to_string());
        set("NODE_CHANNEL_SERIALIZATION_MODE", "json".into());
    }
    #[cfg(target_os = "linux")]
    if settings.knows != Knows::Channel {
        set("PHALANX_LIFE_FD", life_fd().to_string());
    }
    for (name, first) in &settings.by_slot {
        let number = first.saturating_add(given.slot.0.into());
        all.insert(name.clone(), number.to_string().into());
    }
    let mut set = |name: &str, value: String| all.insert(name.into(), value.into());
    if let Some(base) = settings.port_base {
        set("PORT", (u32::from(base) + given.slot.0).to_string());
    }
    if !given.descriptors.is_empty() {
        let names: Vec<&str> = given.descriptors.iter().map(|(name, _)| name.as_str()).collect();
        set("LISTEN_FDS", names.len().to_string());
        set("LISTEN_FDNAMES", names.join(":"));
    }
    if let Some(watchdog) = watchdog(settings) {
        set("WATCHDOG_USEC", watchdog.as_micros().to_string());
    }
    if let Some(socket) = &given.notify {
        all.insert("NOTIFY_SOCKET".into(), socket.clone());
    }
    Ok(all)
}

/// Why a worker is not where it is to be.
fn no_directory(settings: &Settings, source: &io::Error) -> io::Error {
    let place = settings.cwd.as_deref().unwrap_or(Path::new("")).display();
    io::Error::new(source.kind(), format!("cannot change to the directory {place}: {source}"))
}

/// Only who may speak systemd's protocol is expected to.
fn watchdog(settings: &Settings) -> Option<Duration> {
    settings.watchdog.filter(|_| settings.knows != Knows::Channel)
}

/// Node's flags for the preload.
fn preload_flags(settings: &Settings, file: PathBuf) -> impl Iterator<Item = OsString> {
    // Where a program may read only what it is allowed to.
    let restricts = |flag: &OsString| flag == "--permission" || flag == "--experimental-permission";
    let mut allowed = OsString::from("--allow-fs-read=");
    allowed.push(&file);
    let allowed = settings.exec_args.iter().any(restricts).then_some(allowed);
    ["--require".into(), file.into()].into_iter().chain(allowed)
}

/// The preload's file. It is looked at each time: others clean up where it is.
fn preload(settings: &Settings) -> Option<PathBuf> {
    if !settings.preload {
        return None;
    }
    if settings.permissions.root.is_some() {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            tracing::warn!(
                "workers with a root of their own run without the preload, which is not in it: keep-alive connections are cut when one leaves"
            );
        });
        return None;
    }
    match directory::preload(permissions::are_others(settings)) {
        Ok(file) => Some(file),
        // Less comfort is no reason not to serve.
        Err(error) => {
            tracing::warn!(
                "no place for the preload, so keep-alive connections are cut when a worker leaves: {error}; set XDG_RUNTIME_DIR to a directory of your own"
            );
            None
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
pub(crate) fn this_program() -> Result<PathBuf> {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let named = match FILE.get() {
        Some(file) => file,
        None => {
            let file = std::env::current_exe().map_err(Error::os("cannot find this program"))?;
            FILE.get_or_init(|| without_note(file))
        }
    };
    let running = Path::new("/proc/self/exe");
    Ok(if named.exists() || !running.exists() { named.clone() } else { running.to_owned() })
}

/// A program that was replaced while it ran has a note behind its name (proc(5)).
fn without_note(file: PathBuf) -> PathBuf {
    match file.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(name) if !file.exists() => PathBuf::from(OsStr::from_bytes(name)),
        _ => file,
    }
}

/// Notes where this program is, before anybody moves it.
pub(crate) fn note_this_program() {
    let _ = this_program();
}

/// Whether it is about what this machine has too little of at the moment.
fn may_pass(error: &io::Error) -> bool {
    let lack = [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EINTR];
    error.raw_os_error().is_some_and(|code| lack.contains(&code))
}

/// Whether starting the same program again is pointless.
pub(crate) fn is_permanent(error: &Error) -> bool {
    let source = match error {
        Error::Start { source, .. } => source,
        Error::Permissions { source, .. } => return !may_pass(source),
        _ => return false,
    };
    matches!(
        source.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::InvalidInput
    ) || source.raw_os_error() == Some(libc::ENOEXEC)
}

/// How many descriptors this process might have had.
static FILES: OnceLock<u64> = OnceLock::new();

/// How many descriptors this process might have had.
pub(crate) fn inherited_files() -> Option<u64> {
    FILES.get().copied()
}

/// This process may have as many descriptors as it might have had, and no more: for the program that it becomes, which
/// raises its limit again.
pub(crate) fn lower_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    if let Some(files) = inherited_files() {
        let limit = getrlimit(Resource::Nofile);
        // What is open stays open.
        let _ =
            setrlimit(Resource::Nofile, rustix::process::Rlimit { current: Some(files), ..limit });
    }
}

/// Lets this process, and the workers on a channel, have as many descriptors as it may.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        if let Some(soft) = limit.current {
            FILES.get_or_init(|| soft);
        }
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!("the limit of open files stays as it is: {error}");
        }
    }
}
