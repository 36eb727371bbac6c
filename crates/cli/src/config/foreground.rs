//! `phalanx run FILE`: the applications of a configuration file in the foreground, as containers want it.
//!
//! One takes the place of this process. Several are processes of their own, and this one is a small parent: it starts them in
//! their order, passes signals on, reaps what is left to it, and ends when they have ended.

use super::{AppConfig, default_file, environment, is_config, load};
use crate::args::{self, Run};
use crate::failure::{Failure, UNEXPECTED, USAGE};
use crate::{intent, show};
use clap::parser::ValueSource;
use phalanx::{Primary, WorkerState};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Of a service manager and of the tool: for this process, whatever is passed on to applications.
const FOR_PRIMARIES: [&str; 3] = ["PHALANX_HOME", "PHALANX_LOG", "JOURNAL_STREAM"];
/// The same, and only for the one process that a service manager started.
const FOR_ONE: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// Runs a configuration file, if the command line names one; it returns if that is not so.
///
/// # Errors
/// Something is wrong with the file, or with what it runs.
pub(crate) fn foreground(options: &Run) -> Result<bool, Failure> {
    let Some(file) = named(options)? else { return Ok(false) };
    beside(&options.words, &[])?;
    let loaded = load(&file, options.file.env.as_deref(), &options.file.only)?;
    for warning in &loaded.warnings {
        show::say(warning);
    }
    match loaded.apps.as_slice() {
        [app] => Err(become_it(app)),
        apps => together(apps).map(|()| true),
    }
}

/// The file that is meant.
fn named(options: &Run) -> Result<Option<PathBuf>, Failure> {
    if options.detached.app_dir.is_some() || options.file.member || !options.args.is_empty() {
        return Ok(None);
    }
    let file = match options.program.as_slice() {
        [] => return Ok(default_file(Path::new(""))),
        [file] if is_config(Path::new(file)) => PathBuf::from(file),
        _ => return Ok(None),
    };
    if !file.exists() {
        return Err(missing(&file, USAGE));
    }
    Ok(Some(file))
}

/// A configuration file that is named, and not there.
pub(crate) fn missing(file: &Path, code: u8) -> Failure {
    let message = format!("there is no configuration file {}", file.display());
    Failure::tool(code, message).hint("`phalanx init` writes one")
}

/// That a command line that names a file says nothing that is said in it.
///
/// # Errors
/// It does.
pub(crate) fn beside(argv: &[String], allowed: &[&str]) -> Result<(), Failure> {
    let Some(long) = more(argv, allowed) else { return Ok(()) };
    Err(Failure::tool(USAGE, format!("--{long} has no effect beside a configuration file"))
        .hint(format!("say it in the file: {} = …", super::keys::snake(&long))))
}

/// The first option on a command line that is about what an application is, and not about which one.
pub(crate) fn more(argv: &[String], allowed: &[&str]) -> Option<String> {
    let command = args::of_run(clap::Command::new("run").no_binary_name(true));
    let matches = command.clone().try_get_matches_from(argv).ok()?;
    let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let own = ["program", "args", "env", "only", "silent", "no_color"];
    let more = command.get_arguments().find(|arg| {
        let id = arg.get_id().as_str();
        !own.contains(&id) && !allowed.contains(&id) && given(id)
    });
    more.and_then(clap::Arg::get_long).map(str::to_owned)
}

/// The command of an application: this program, in its directory and its environment, and no other.
fn of(app: &AppConfig, first: &[&str]) -> Result<Command, Failure> {
    let this = std::env::current_exe().map_err(Failure::os("find this program"))?;
    let mut env: BTreeMap<String, String> = environment(app, &intent::of_this_shell());
    env.insert("PWD".into(), app.cwd.display().to_string());
    let mut command = Command::new(this);
    command.arg0("phalanx").arg("run").args(first).args(&app.argv).env_clear();
    for name in FOR_PRIMARIES.into_iter().chain(FOR_ONE) {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(env).current_dir(&app.cwd);
    Ok(command)
}

/// This process becomes the application. Returns only if it cannot.
fn become_it(app: &AppConfig) -> Failure {
    if !app.cwd.is_dir() {
        return Failure::tool(
            UNEXPECTED,
            format!("{}: {} is no directory", app.name, app.cwd.display()),
        );
    }
    match of(app, &[]) {
        Ok(mut command) => Failure::os(format_args!("start {}", app.name))(command.exec()),
        Err(failure) => failure,
    }
}

/// One of several.
struct Member<'a> {
    app: &'a AppConfig,
    pid: Option<Pid>,
    /// It serves, or has done what it was there for.
    ready: bool,
    /// How it ended.
    code: Option<u8>,
}

impl Member<'_> {
    fn runs(&self) -> Option<Pid> {
        self.pid.filter(|_| self.code.is_none())
    }
}

/// Several applications: those who name others wait for them.
fn together(apps: &[AppConfig]) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::os("begin"))?;
    runtime.block_on(Parent::new(apps).run())
}

struct Parent<'a> {
    members: Vec<Member<'a>>,
    /// Nothing is started any more.
    ends: bool,
    /// Who ended by failure, first.
    failed: Option<String>,
    ready: mpsc::UnboundedSender<usize>,
    heard: Option<mpsc::UnboundedReceiver<usize>>,
}

impl<'a> Parent<'a> {
    fn new(apps: &'a [AppConfig]) -> Self {
        let (ready, heard) = mpsc::unbounded_channel();
        let member = |app| Member { app, pid: None, ready: false, code: None };
        let members = apps.iter().map(member).collect();
        Self { members, ends: false, failed: None, ready, heard: Some(heard) }
    }

    async fn run(mut self) -> Result<(), Failure> {
        let failed = || Failure::os("hear signals");
        let mut ends = signal(SignalKind::child()).map_err(failed())?;
        let mut term = signal(SignalKind::terminate()).map_err(failed())?;
        let mut int = signal(SignalKind::interrupt()).map_err(failed())?;
        let mut quit = signal(SignalKind::quit()).map_err(failed())?;
        let mut hup = signal(SignalKind::hangup()).map_err(failed())?;
        let mut usr1 = signal(SignalKind::user_defined1()).map_err(failed())?;
        let mut usr2 = signal(SignalKind::user_defined2()).map_err(failed())?;
        let Some(mut heard) = self.heard.take() else { return Ok(()) };
        loop {
            self.start_next();
            if self.members.iter().all(|member| member.runs().is_none()) {
                return self.end();
            }
            tokio::select! {
                _ = ends.recv() => self.reap(),
                Some(at) = heard.recv() => self.is_ready(at),
                _ = term.recv() => self.stop(Signal::TERM),
                _ = int.recv() => self.stop(Signal::INT),
                _ = quit.recv() => self.stop(Signal::QUIT),
                _ = hup.recv() => self.tell(Signal::HUP),
                _ = usr1.recv() => self.tell(Signal::USR1),
                _ = usr2.recv() => self.tell(Signal::USR2),
            }
        }
    }

    /// Starts those who need not wait any more.
    fn start_next(&mut self) {
        for at in 0..self.members.len() {
            let Some(member) = self.members.get(at).filter(|_| !self.ends) else { continue };
            // Of those who are not meant nobody is waited for.
            let waits = |name: &String| {
                self.members.iter().any(|other| other.app.name == *name && !other.ready)
            };
            if member.pid.is_some() || member.code.is_some() || member.app.after.iter().any(waits) {
                continue;
            }
            let app = member.app;
            match start(app) {
                Ok((pid, link)) => {
                    tokio::spawn(listen(link, at, self.ready.clone()));
                    if let Some(member) = self.members.get_mut(at) {
                        member.pid = Some(pid);
                    }
                }
                Err(failure) => self.ended(at, failure.code(), &failure.message()),
            }
        }
    }

    fn is_ready(&mut self, at: usize) {
        if let Some(member) = self.members.get_mut(at) {
            member.ready = true;
        }
    }

    /// Everybody's who ended: as the first process of a container it is the parent of strangers too.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(at) = self.members.iter().position(|member| member.pid == Some(pid)) else {
                continue;
            };
            let signal = status.terminating_signal();
            let code = match (status.exit_status(), signal) {
                (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
                (None, Some(signal)) => u8::try_from(signal + 128).unwrap_or(u8::MAX),
                (None, None) => continue,
            };
            let how = match signal {
                Some(signal) => format!("by signal {signal}"),
                None => format!("with exit code {code}"),
            };
            self.ended(at, code, &format!("it ended {how}"));
        }
    }

    /// Whoever ends well is done, and those who wait for it go on. After a failure the others are stopped: whoever started
    /// all of them starts all of them again.
    fn ended(&mut self, at: usize, code: u8, how: &str) {
        let Some(member) = self.members.get_mut(at) else { return };
        member.code = Some(code);
        member.ready |= code == 0;
        let name = member.app.name.clone();
        if code == 0 {
            return;
        }
        if self.failed.is_none() {
            self.failed = Some(format!("{name}: {how}"));
        }
        if !self.ends {
            if self.members.iter().any(|member| member.runs().is_some()) {
                show::say(&format!("{name}: {how}; the others are told to stop"));
            }
            self.stop(Signal::TERM);
        }
    }

    fn stop(&mut self, signal: Signal) {
        self.ends = true;
        self.tell(signal);
    }

    fn tell(&self, signal: Signal) {
        for pid in self.members.iter().filter_map(Member::runs) {
            // It may just have ended.
            let _ = kill_process(pid, signal);
        }
    }

    fn end(self) -> Result<(), Failure> {
        let worst = self.members.iter().filter_map(|member| member.code).max().unwrap_or(0);
        match self.failed {
            Some(words) if worst != 0 => Err(Failure::tool(worst, words)),
            _ => Ok(()),
        }
    }
}

/// Starts one, with the other end of a socket for its standard input.
fn start(app: &AppConfig) -> Result<(Pid, tokio::net::UnixStream), Failure> {
    if !app.cwd.is_dir() {
        return Err(Failure::tool(UNEXPECTED, format!("{} is no directory", app.cwd.display())));
    }
    let failed = || Failure::os(format!("start {}", app.name));
    let (ours, theirs) = UnixStream::pair().map_err(failed())?;
    ours.set_nonblocking(true).map_err(failed())?;
    let mut command = of(app, &["--member"])?;
    // What it says to a service manager is not said for all.
    for name in FOR_ONE {
        command.env_remove(name);
    }
    // The terminal's Ctrl-C is for this process, which passes it on.
    command.process_group(0).stdin(Stdio::from(OwnedFd::from(theirs)));
    let child = command.spawn().map_err(failed())?;
    let link = tokio::net::UnixStream::from_std(ours).map_err(failed())?;
    let pid = Pid::from_child(&child);
    Ok((pid, link))
}

/// Hears whether it is ready, and holds the socket open: its end tells the other side that nobody is there any more.
async fn listen(mut link: tokio::net::UnixStream, at: usize, ready: mpsc::UnboundedSender<usize>) {
    let mut byte = [0];
    while link.read(&mut byte).await.is_ok_and(|count| count > 0) {
        let _ = ready.send(at);
    }
}

/// The other side: tells when all workers serve, and stops when whoever started it is gone.
pub(crate) async fn tell_ready(primary: Primary) {
    let Some(mut link) = link() else { return };
    let mut events = primary.events();
    let mut gone = false;
    while !gone && !is_settled(&primary).await {
        let mut byte = [0];
        tokio::select! {
            event = events.next() => if event.is_none() { return },
            read = link.read(&mut byte) => gone = !matches!(read, Ok(1..)),
        }
    }
    drop(events);
    if !gone {
        let _ = link.write_all(b"r").await;
        let mut byte = [0];
        tokio::select! {
            () = primary.stopped() => return,
            _ = link.read(&mut byte) => {}
        }
    }
    tracing::warn!("whoever started this is gone: draining, then stopping");
    primary.begin_stop(false);
}

/// Standard input, if it is that socket. A successor of this process finds it as well.
fn link() -> Option<tokio::net::UnixStream> {
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok()?;
    let file = File::from(stdin);
    let is_socket =
        |file: &File| -> io::Result<bool> { Ok(file.metadata()?.file_type().is_socket()) };
    if !is_socket(&file).unwrap_or(false) {
        return None;
    }
    let stream = UnixStream::from(OwnedFd::from(file));
    stream.set_nonblocking(true).ok()?;
    tokio::net::UnixStream::from_std(stream).ok()
}

async fn is_settled(primary: &Primary) -> bool {
    let Ok(status) = primary.status().await else { return false };
    let serves = status.workers.iter().filter(|worker| worker.state == WorkerState::Listening);
    status.wanted > 0 && status.waiting.is_empty() && serves.count() >= status.wanted
}
