//! A primary in the background: how it begins, and the socket on which it is asked and told.

mod client;
mod facts;
mod server;
mod words;

pub(crate) use client::{Unanswered, ask, ask_within};
pub(crate) use words::{Description, Refusal, Word};

use crate::failure::{Failure, UNEXPECTED};
use crate::home::{App, Lock, Spec};
use crate::processes::Register;
use facts::Facts;
use phalanx::Primary;
use server::Server;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// Somebody may look whether the lock is held just now, or the primary before may be about to end.
const LOCK: Duration = Duration::from_secs(2);

/// A primary that is an application's.
pub(crate) struct Detached {
    pub(crate) app: App,
    pub(crate) spec: Spec,
    started: Instant,
    listener: UnixListener,
    register: Register,
}

/// Makes this process the first of an application in the background: the lock is its own until it ends, and it is the
/// leader of a session, so no terminal is its own. A keeper's primary finds both, and shares them.
pub(crate) fn lead(directory: &Path) -> Result<(), Failure> {
    let (app, _) = App::of(directory)?;
    if !Lock::adopt(&app, LOCK).map_err(Failure::os("lock the application"))? {
        let message = format!("another primary runs the application `{}`", app.name);
        return Err(Failure::tool(UNEXPECTED, message));
    }
    // Refused to one that leads already: itself, or, below a keeper, its group.
    let _ = rustix::process::setsid();
    Ok(())
}

impl Detached {
    /// Makes this process the application's primary: its socket takes the place of the one before.
    pub(crate) fn begin(directory: &Path) -> Result<Self, Failure> {
        let (app, spec) = App::of(directory)?;
        let register = Register::of_this_primary(&app);
        register.write(&app).map_err(Failure::os("write workers.json"))?;
        let socket = app.socket();
        let listener = bind(&socket)
            .map_err(Failure::os(format_args!("open the control socket {}", socket.display())))?;
        Ok(Self { app, spec, started: Instant::now(), listener, register })
    }

    /// Answers until the cluster has stopped.
    pub(crate) async fn serve(self, primary: Primary, policy: phalanx::Policy) {
        let Self { app, spec, started, listener, register } = self;
        // Before there are any events.
        let (facts, watching) = Facts::watch(&primary, app.clone(), register);
        let socket = app.socket();
        let server = Server { app, spec, started, policy, facts, primary };
        server.serve(listener).await;
        let _ = watching.await;
        // Nobody else's: the lock is held.
        let _ = fs::remove_file(socket);
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
