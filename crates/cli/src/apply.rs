//! How a running application becomes what it is to be now.
//!
//! Its primary does not change its settings: it becomes itself again (the same execve(2) as of an upgrade) with the new ones,
//! which workers and clients do not notice, and then the workers are replaced. So everything can change that way.
//! What cannot be is found before anything is done: the next primary is asked whether it could take over. If the new
//! workers do not come up, everything goes back to what it was.

use crate::control::{Description, Refusal, Unanswered, Word, ask, ask_within};
use crate::failure::{Failure, UNEXPECTED};
use crate::home::{App, Home, Lock, Spec};
use crate::intent::{self, Refresh, workers};
use crate::manage::{failed, patiently};
use crate::show;
use crate::start::{self, Mark};
use crate::ui::progress::{Progress, replaced};
use phalanx::control::{Process, Register};
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For an answer, when somebody only looks.
const LOOK: Duration = Duration::from_secs(2);
/// How long the next primary may take to answer.
const TAKEN_OVER: Duration = Duration::from_secs(15);
/// How often it is looked whether it does.
const AGAIN: Duration = Duration::from_millis(20);

/// In the environment of a process that does what another one only follows.
pub(crate) const DEED: &str = "PHALANX_DEED";

/// Replaces the workers of an application that runs, by reload or restart.
pub(crate) fn replace(
    home: &Home,
    app: &App,
    refresh: Refresh<'_>,
    word: &Word,
) -> Result<(), Failure> {
    let Some(first) = app.running_spec().filter(|spec| !spec.foreground) else {
        return roll(app, word);
    };
    let claim = claim(home, app);
    let old = app.running_spec().unwrap_or(first);
    let new = intent::anew(&old, refresh)?;
    let changes = intent::changes(&old, &new);
    if changes.is_empty() {
        return roll(app, word);
    }
    if std::env::var_os(DEED).is_none() {
        // It takes its turn itself, and looks again.
        drop(claim);
        return followed(app, refresh, word);
    }
    for change in &changes {
        show::print(&format!("{}: {change}\n", app.name));
    }
    app.write_spec(&new)?;
    if let Err(failure) = become_anew(app) {
        app.write_spec(&old)?;
        return Err(failure);
    }
    if let Err(failure) = scale(app, &old, &new).and_then(|()| roll(app, word)) {
        go_back(app, &old, &new);
        return Err(failure);
    }
    // What was said by `scale` holds until the setting itself changes.
    let same = workers(&old)? == workers(&new)?;
    // Somebody may have stopped or deleted it meanwhile, and started another one under its name.
    home.change(app, |spec| {
        if (spec.id, spec.started_ms) == (new.id, new.started_ms) {
            let scaled = spec.scaled.filter(|_| same);
            *spec = Spec { stopped: spec.stopped, scaled, ..new };
        }
    })?;
    Ok(())
}

/// One at a time: each begins with what the one before it left. Where nothing can be written, nothing can be changed either,
/// and nobody is waited for.
pub(crate) fn claim(home: &Home, app: &App) -> Option<File> {
    let waits =
        || show::say(&format!("{}: another command changes it, and is waited for", app.name));
    home.claim(app, waits).ok()
}

/// Has it done by a process that goes on to the end, whatever becomes of this one and its terminal.
fn followed(app: &App, refresh: Refresh<'_>, word: &Word) -> Result<(), Failure> {
    let this = std::env::current_exe().map_err(Failure::os("find this program"))?;
    let mut command = Command::new(&this);
    command.arg(if *word == Word::Restart { "restart" } else { "reload" }).arg(&app.name);
    if refresh.update_env {
        command.arg("--update-env");
    }
    if let Some(environment) = refresh.environment {
        command.args(["--env", environment]);
    }
    if !show::tells_progress() {
        command.arg("--silent");
    }
    let status = command.env(DEED, "1").stdin(Stdio::null()).status();
    let status = status.map_err(Failure::os(format!("start {}", this.display())))?;
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(0) => Ok(()),
        code => Err(Failure::said(code.unwrap_or(UNEXPECTED))),
    }
}

/// Makes this process one that goes on when its terminal, or whoever follows it, is gone.
pub(crate) fn go_on() {
    if std::env::var_os(DEED).is_some() {
        let _ = rustix::process::setsid();
        show::follow_the_one_who_follows();
    }
}

/// Has the primary be what it was. Its workers, if they were not replaced, never were anything else.
fn go_back(app: &App, old: &Spec, new: &Spec) {
    // It was stopped; and what runs there now, if anything does, is another one.
    if !Lock::is_held(app) || app.running_spec().as_ref() != Some(new) {
        return;
    }
    let back = app.write_spec(old).map(|()| become_anew(app));
    match back {
        Ok(Ok(_)) => show::say(&format!("{}: its settings are what they were", app.name)),
        Ok(Err(failure)) => {
            let _ = failure.tell();
        }
        Err(error) => {
            let _ = Failure::from(error).tell();
        }
    }
}

/// The number of workers is the cluster's, which is taken over: it changes only if its setting does.
fn scale(app: &App, old: &Spec, new: &Spec) -> Result<(), Failure> {
    let wanted = workers(new)?;
    if workers(old)? == wanted {
        return Ok(());
    }
    ask_within(app, &Word::ScaleTo(wanted), LOOK).map(drop).map_err(|why| failed(app, why))
}

fn roll(app: &App, word: &Word) -> Result<(), Failure> {
    let errors = Mark::of_errors(app);
    let progress = Progress::new(&app.name);
    let following = progress.follow(app);
    // It goes on if this process is interrupted.
    let done = patiently(app, || ask(app, word, &mut |text| progress.line(text)));
    drop(following);
    match &done {
        Ok(told) => progress.done(&replaced(told)),
        Err(_) => progress.failed("not done"),
    }
    done.map(drop).map_err(|why| match why {
        // What the new ones died of, they may have said nowhere else.
        Unanswered::Refused(refusal) => {
            let message = format!(
                "{}{}",
                refusal.message,
                start::said_last("its workers said last", &errors.last_lines())
            );
            failed(app, Unanswered::Refused(Refusal { message, ..refusal }))
        }
        why => failed(app, why),
    })
}

/// Whether nobody is there any more. One of a foreground has no lock for the moment in which it becomes another program.
fn has_ended(app: &App) -> bool {
    let primary = Register::read(app).and_then(|register| register.primary);
    !Lock::is_held(app) && !primary.is_some_and(Process::is_alive)
}

/// Has the primary become the program that is at its place now. It does not answer if all goes well: it is another program
/// then, which is asked who it is.
pub(crate) fn become_anew(app: &App) -> Result<Description, Failure> {
    let before = Instant::now();
    match ask(app, &Word::Upgrade, &mut |_| {}) {
        Err(Unanswered::Silent(_) | Unanswered::Nobody) | Ok(_) => {}
        Err(why) => return Err(failed(app, why)),
    }
    loop {
        let about = ask_within(app, &Word::Describe, LOOK).ok();
        let about = about.and_then(|about| serde_json::from_value::<Description>(about).ok());
        let is_new = |about: &Description| {
            Duration::from_millis(about.uptime_ms) < before.elapsed() && about.primary_pid.is_some()
        };
        if let Some(about) = about.filter(is_new) {
            return Ok(about);
        }
        if before.elapsed() >= TAKEN_OVER || has_ended(app) {
            return Err(failed(app, Unanswered::Silent(std::io::ErrorKind::TimedOut.into())));
        }
        std::thread::sleep(AGAIN);
    }
}
