//! pm2 in its cluster mode, with a daemon and a home of its own.

use super::{PATIENCE, Peer, Reload, Serving};
use crate::setup;
use bench::{process, wait};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The application in pm2's list.
const NAME: &str = "app";

/// pm2; its daemon is the manager.
pub(crate) fn pm2() -> Peer {
    let needs = || setup::packages().map(drop);
    Peer::new("pm2", needs, |_, job, address| {
        let home = setup::scratch()?.join(format!("pm2-{}", address.port()));
        fs::create_dir(&home).map_err(|error| format!("{}: {error}", home.display()))?;
        let home = Home(home);
        let program = setup::packages()?.join(".bin/pm2");
        let place = home.0.clone();
        let command = move || {
            let mut command = Command::new(&program);
            command.env("PM2_HOME", &place);
            command
        };
        let mut start = command();
        start.arg("start").arg(job.path());
        start.args(["--name", NAME, "-i", &job.workers.to_string()]);
        job.set(&mut start, address.port());
        let mut serving = Serving::of(&mut start, address, false)?;
        let daemon = home.daemon();
        serving.held.push(Box::new(home));
        serving.manager = Some(daemon.map_err(|error| format!("{error}\n{}", serving.outputs()))?);
        let again = command.clone();
        let beside = move |app: &Path| {
            let mut start = again();
            start.arg("start").arg(app).args(["--name", "beside", "-i", "1"]);
            start
        };
        let reload = move || {
            let mut command = command();
            command.args(["reload", NAME]);
            command
        };
        let reload = Reload::Command(Box::new(reload));
        Ok(Serving { reload, beside: Some(Box::new(beside)), ..serving })
    })
}

/// What pm2 writes, its sockets among it. Removed at the end, when its daemon has been killed.
struct Home(PathBuf);

impl Home {
    /// The daemon, as soon as it says who it is.
    fn daemon(&self) -> Result<u32, String> {
        let file = self.0.join("pm2.pid");
        wait::until(PATIENCE, "pm2's daemon", || {
            let pid = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
            process::is_alive(pid).then_some(pid)
        })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What cannot be removed now goes with all that is left at the very end.
        let _ = fs::remove_dir_all(&self.0);
    }
}
