//! `phalanx list` and `phalanx describe`: what there is.

use crate::args::{Describe, List};
use crate::control::{Description, Word, ask_within};
use crate::failure::{Failure, UNEXPECTED};
use crate::home::{App, Home, Lock};
use crate::{show, targets};
use phalanx::control::Register;
use serde_json::{Value, json};
use std::time::Duration;

/// For an answer, when somebody only looks.
const LOOK: Duration = Duration::from_secs(2);

pub(crate) fn list(options: &List) -> Result<(), Failure> {
    let home = Home::find()?;
    let apps: Vec<Value> = targets::any(&home, &options.of.apps)?.iter().map(look).collect();
    if options.json {
        show::print(&format!("{:#}\n", Value::Array(apps)));
        return Ok(());
    }
    if apps.is_empty() {
        show::say("no application was started; `phalanx start PROGRAM` does");
        return Ok(());
    }
    let apps: Vec<Description> =
        apps.into_iter().filter_map(|app| serde_json::from_value(app).ok()).collect();
    show::print(&show::table(&apps));
    Ok(())
}

pub(crate) fn describe(options: &Describe) -> Result<(), Failure> {
    let apps = targets::resolve(&Home::find()?, &options.of.apps)?;
    let mut about: Vec<Value> = apps.iter().map(look).collect();
    if options.json {
        let about = if about.len() == 1 { about.remove(0) } else { Value::Array(about) };
        show::print(&format!("{about:#}\n"));
        return Ok(());
    }
    for (app, about) in apps.iter().zip(about) {
        let about: Description = serde_json::from_value(about)
            .map_err(|error| Failure::tool(UNEXPECTED, format!("{}: {error}", app.name)))?;
        show::print(&show::details(&about));
    }
    Ok(())
}

/// What an application's primary tells; of one that does not, what its files tell.
pub(crate) fn look(app: &App) -> Value {
    if let Ok(about) = ask_within(app, &Word::Describe, LOOK) {
        return about;
    }
    let register = Register::read(app);
    let primary = register.as_ref().and_then(|register| register.primary);
    let primary = primary.filter(|primary| primary.is_alive()).map(|primary| primary.pid);
    let workers: &[_] = register.as_ref().map_or(&[], |register| &register.workers);
    let state = if !Lock::is_held(app) {
        match workers.iter().any(|worker| worker.is_alive()) {
            true => "without primary",
            false => "stopped",
        }
    } else if primary.is_some() {
        "not answering"
    } else {
        "starting"
    };
    let mut about =
        Description { name: app.name.clone(), state: state.into(), ..Description::default() };
    about.primary_pid = primary;
    about.logs.primary = app.primary_log().display().to_string();
    about.logs.out = app.out_log().display().to_string();
    about.logs.err = app.err_log().display().to_string();
    if let Some(spec) = app.spec() {
        (about.id, about.namespace) = (spec.id, spec.namespace);
        (about.argv, about.cwd, about.version) = (spec.argv, spec.cwd, spec.version);
        about.config = spec.config.map(|file| file.display().to_string());
        about.foreground = spec.foreground;
    }
    json!(about)
}
