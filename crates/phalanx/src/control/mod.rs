//! Applications that are known on this machine: where they have their files, and the socket on which each is asked and
//! told. The program `phalanx` is made of this, and a program on this crate appears in its lists by one line:
//! [`Cluster::listed`](crate::Cluster::listed).
//!
//! There is no daemon. Each primary has a directory with a lock, which says that it lives, a control socket, and what
//! it is ([`Spec`]); whoever wants something of it asks it ([`ask`]), and nobody else can than the same user and root.

mod app;
mod client;
mod directory;
mod facts;
mod home;
mod lock;
mod register;
mod server;
mod spec;
mod words;

pub use app::App;
pub use client::{Unanswered, ask, ask_within};
pub use home::Home;
pub use lock::Lock;
pub use register::{MARK, Process, Register};
pub use spec::{Spec, check_name};
pub use words::{Description, Logs, Port, Refusal, ReloadState, Waiting, Word, Worker};

use crate::error::{Error, Result};
use crate::policy::Policy;
use crate::primary::Primary;
use facts::Facts;
use serde_json::Value;
use server::{More, Server};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// Somebody may look whether the lock is held just now, or the primary before may be about to end.
const LOCK: Duration = Duration::from_secs(2);
/// So many names are tried, when it may be another one.
const NAMES: usize = 1000;

/// What makes a primary an application that is known: its directory, and its control socket.
pub struct Control {
    app: App,
    spec: Spec,
    started: Instant,
    listener: UnixListener,
    register: Register,
    /// Of one in the foreground; that of others is their standard input.
    lock: Option<Lock>,
    about: Description,
    more: More,
}

/// Makes this process the first of an application in the background: the lock is its own until it ends, and it is the
/// leader of a session, so no terminal is its own. A keeper's primary finds both, and shares them.
///
/// # Errors
/// Another process has the lock.
pub fn lead(directory: &Path) -> Result<()> {
    let (app, _) = App::of(directory)?;
    if !Lock::adopt(&app, LOCK).map_err(Error::home("lock the application"))? {
        return Err(Error::Taken(app.name));
    }
    // Refused to one that leads already: itself, or, below a keeper, its group.
    let _ = rustix::process::setsid();
    Ok(())
}

impl Control {
    /// Makes this process the primary of an application in the background, which [leads](lead): its socket takes the
    /// place of the one before.
    ///
    /// # Errors
    /// Its files cannot be read or written.
    pub fn begin(directory: &Path) -> Result<Self> {
        let (app, spec) = App::of(directory)?;
        Self::with(app, spec, None)
    }

    /// Makes this process the primary of an application in the foreground. Its directory goes with it. `other`: if the
    /// name is taken it is called `NAME-2`, and so on.
    ///
    /// # Errors
    /// [`Error::Taken`], or its files cannot be written.
    pub fn foreground(home: &Home, mut spec: Spec, other: bool) -> Result<Self> {
        check_name(&spec.name).map_err(Error::Setting)?;
        home.prepare_runtime()?;
        let first = spec.name.clone();
        for number in 2..NAMES {
            let app = home.app(&spec.name);
            app.check_path()?;
            // A primary before this one may just be ending.
            let patience = if other { Duration::ZERO } else { LOCK };
            let failed = Error::home(format_args!("lock {}", app.directory.display()));
            // One that is stopped keeps its name, for whoever starts it again.
            let free = app.intent().is_none();
            let taken = if free { Lock::take(&app, patience).map_err(failed)? } else { None };
            if let Some(lock) = taken {
                spec.foreground = true;
                app.write_spec(&spec)?;
                return Self::with(app, spec, Some(lock));
            }
            if !other {
                break;
            }
            spec.name = format!("{first}-{number}");
        }
        Err(Error::Taken(first))
    }

    /// As [`Control::foreground`], of this very program as it was started.
    ///
    /// # Errors
    /// [`Error::Taken`], or its files cannot be written.
    pub fn of_this_program(name: &str) -> Result<Self> {
        let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        let cwd = std::env::current_dir().map_err(Error::home("find the working directory"))?;
        Self::foreground(&Home::find()?, Spec::new(name, words, &cwd, BTreeMap::new()), false)
    }

    fn with(app: App, spec: Spec, lock: Option<Lock>) -> Result<Self> {
        let register = Register::of_this_primary(&app);
        register.write(&app).map_err(Error::home("write workers.json"))?;
        let socket = app.socket();
        let listener = bind(&socket)
            .map_err(Error::home(format_args!("open the control socket {}", socket.display())))?;
        let (about, more) = (Description::default(), More::default());
        Ok(Self { app, spec, started: Instant::now(), listener, register, lock, about, more })
    }

    /// The application.
    #[must_use]
    pub const fn app(&self) -> &App {
        &self.app
    }

    /// What it is.
    #[must_use]
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What else is told of it: `program_version`, `watching`, `cron` and `logs` are the application's own to say.
    pub const fn about(&mut self) -> &mut Description {
        &mut self.about
    }

    /// Another word that it obeys ([`Word::Other`]).
    #[must_use]
    pub fn on<F>(mut self, word: &str, deed: F) -> Self
    where
        F: Fn() -> Result<Value, Refusal> + Send + Sync + 'static,
    {
        self.more.insert(word.to_owned(), Box::new(deed));
        self
    }

    /// Answers until the cluster has stopped; for [`Cluster::primary`](crate::Cluster::primary). The policy is that of
    /// ports that do not choose their own.
    pub async fn serve(self, primary: Primary, policy: Policy) {
        let Self { app, spec, started, listener, register, lock, about, more } = self;
        // Before there are any events.
        let (facts, watching) = Facts::watch(&primary, app.clone(), register);
        let server = Server {
            app: app.clone(),
            spec,
            started,
            policy,
            facts: facts.clone(),
            about,
            more,
            primary,
        };
        server.serve(listener).await;
        let _ = watching.await;
        match lock {
            Some(lock) => drop(app.remove(lock)),
            // Nobody else's: the lock is held.
            None => {
                let _ = fs::remove_file(app.socket());
                if !facts.has_failed() {
                    // Nobody is left, and nothing went wrong: it has stopped.
                    let _ = fs::remove_file(app.register());
                }
            }
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("app", &self.app).finish_non_exhaustive()
    }
}

/// Listens in place of whoever did: clients find the old socket or the new one.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    fs::rename(&draft, path)?;
    Ok(listener)
}
