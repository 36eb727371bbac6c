//! Logs: what workers said, kept in files; and the commands that are about them.

mod aside;
mod bounded;
mod chain;
pub(crate) mod index;
mod line;
mod lock;
mod old;
mod places;
mod segment;
mod show;
mod sink;
mod style;
mod time;

pub(crate) use bounded::{bound, bounded, cut};
pub(crate) use old::{Rules, Tidy, with};
pub(crate) use places::{Places, is_file, places, places_of};
pub(crate) use show::logs;
pub(crate) use sink::{Sink, now};
pub(crate) use style::{DateFormat, Piece, Style, colour, take};

use crate::control::{Refusal, Unanswered, Word, ask_within};
use crate::failure::{Failure, UNEXPECTED};
use crate::home::{App, Home};
use crate::manage::failed;
use crate::output::LogFiles;
use phalanx::control::Control;
use serde_json::Value;
use std::time::Duration;

/// How long a primary may take to open or to empty its files.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has a primary obey what it is told about its files.
pub(crate) fn obeying(control: Control, files: Option<LogFiles>) -> Control {
    let Some(files) = files else { return control };
    let (opened, emptied) = (files.clone(), files);
    let answer = |obeyed: Result<(), String>| match obeyed {
        Ok(()) => Ok(Value::Null),
        Err(why) => Err(Refusal::new(why)),
    };
    let control = control.on("reopen", move || answer(opened.reopen()));
    control.on("flush", move || answer(emptied.flush()))
}

/// Empties the logs of applications, and removes the old ones; also of those that are stopped.
pub(crate) fn flush(apps: &[String]) -> Result<(), Failure> {
    each(apps, |app| {
        // Its primary does it between two lines, and with it begins a new index.
        match tell(app, "flush") {
            Ok(()) => {}
            Err(why @ Unanswered::Refused(_)) => return Err(failed(app, why)),
            Err(_) => by_hand(app)?,
        }
        let own = app.primary_log();
        bounded::empty(&own).map_err(Failure::os(format!("empty {}", own.display())))?;
        crate::show::say(&format!("{}: its logs are emptied", app.name));
        Ok(())
    })
}

/// Empties the logs of one whose primary does not.
fn by_hand(app: &App) -> Result<(), Failure> {
    places(app).0.paths().iter().try_for_each(|path| {
        sink::flush(path).map_err(Failure::os(format!("empty {}", path.display())))
    })
}

/// Has the primaries open the files of applications anew, as after logrotate(8) has moved them.
pub(crate) fn reopen(apps: &[String]) -> Result<(), Failure> {
    each(apps, |app| match tell(app, "reopen") {
        // One that does not run opens them when it is started.
        Ok(()) | Err(Unanswered::Nobody) => Ok(()),
        Err(why) => Err(failed(app, why)),
    })
}

/// Does it for each; says at once what fails, and goes on with the others.
fn each(wanted: &[String], deed: impl Fn(&App) -> Result<(), Failure>) -> Result<(), Failure> {
    let apps = show::applications(&Home::find()?, wanted)?;
    if let [app] = apps.as_slice() {
        return deed(app);
    }
    let done = |app: &&App| deed(app).map_err(|failure| failure.tell()).is_ok();
    let failed: Vec<&str> =
        apps.iter().filter(|app| !done(app)).map(|app| app.name.as_str()).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => {
            let message = format!("it was not done for {}", failed.join(", "));
            Err(Failure::tool(UNEXPECTED, message))
        }
    }
}

/// Tells a primary about its files, if it has any.
fn tell(app: &App, word: &str) -> Result<(), Unanswered> {
    if places(app).0.paths().is_empty() {
        return Ok(());
    }
    ask_within(app, &Word::Other(word.to_owned()), PATIENCE).map(drop)
}
