//! `phalanx list` and `phalanx describe`: what there is.

use crate::args::{Describe, List};
use crate::control::{Description, Word, ask_within};
use crate::failure::Failure;
use crate::home::{App, Home, Lock};
use crate::ui::screen::Screen;
use crate::ui::words::status;
use crate::ui::{applications, watch};
use crate::{show, targets};
use phalanx::control::Register;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// For an answer, when somebody only looks: one that does not answer costs no more than this.
const LOOK: Duration = Duration::from_secs(1);
/// Applications that are asked at the same time.
const ASKED: usize = 64;

pub(crate) fn list(options: &List) -> Result<(), Failure> {
    if options.watch {
        return watch::watch(|screen| match options.json {
            true => Ok(format!(
                "{}\n",
                json!(seen(options)?.iter().map(Seen::json).collect::<Vec<_>>())
            )),
            false => table(options, screen),
        });
    }
    if options.json {
        let all: Vec<Value> = seen(options)?.iter().map(Seen::json).collect();
        show::print(&format!("{:#}\n", Value::Array(all)));
        return Ok(());
    }
    let text = table(options, Screen::stdout())?;
    if text.is_empty() {
        show::say("no application was started; `phalanx start PROGRAM` does");
    }
    show::print(&text);
    Ok(())
}

/// Nothing if there is no application.
fn table(options: &List, screen: Screen) -> Result<String, Failure> {
    let apps: Vec<Description> = seen(options)?.into_iter().map(|seen| seen.about).collect();
    Ok(match apps.is_empty() {
        true => String::new(),
        false => applications::table(&apps, options.short, screen),
    })
}

fn seen(options: &List) -> Result<Vec<Seen>, Failure> {
    let mut seen = look_at(&targets::any(&Home::find()?, &options.of.apps)?);
    options.sort.unwrap_or_default().sort(&mut seen);
    Ok(seen)
}

pub(crate) fn describe(options: &Describe) -> Result<(), Failure> {
    let apps = targets::resolve(&Home::find()?, &options.of.apps)?;
    let seen = look_at(&apps);
    if options.json {
        let mut all: Vec<Value> = seen
            .iter()
            .zip(&apps)
            .map(|(seen, app)| {
                let mut json = seen.json();
                add(&mut json, "environment", || json!(environment(app)));
                json
            })
            .collect();
        let all = if all.len() == 1 { all.remove(0) } else { Value::Array(all) };
        show::print(&format!("{all:#}\n"));
        return Ok(());
    }
    let pages = seen.iter().zip(&apps);
    let pages = pages.map(|(seen, app)| show::details(&seen.about, &environment(app)));
    show::print(&pages.collect::<Vec<_>>().join("\n"));
    Ok(())
}

/// The names of its variables; `env` tells the values.
fn environment(app: &App) -> Vec<String> {
    app.spec().map(|spec| spec.env.into_keys().collect()).unwrap_or_default()
}

/// What was seen of an application.
struct Seen {
    about: Description,
    /// As it was told: a later version's primary may tell more.
    told: Value,
}

impl AsRef<Description> for Seen {
    fn as_ref(&self) -> &Description {
        &self.about
    }
}

impl Seen {
    fn json(&self) -> Value {
        let mut json = self.told.clone();
        add(&mut json, "status", || json!(status(&self.about).word()));
        json
    }
}

fn add(json: &mut Value, key: &str, value: impl FnOnce() -> Value) {
    if let Some(object) = json.as_object_mut()
        && !object.contains_key(key)
    {
        object.insert(key.to_owned(), value());
    }
}

/// Looks at all of them at the same time, in the order in which they are given.
fn look_at(apps: &[App]) -> Vec<Seen> {
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<(usize, Seen)>> = Mutex::default();
    let ask = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(app) = apps.get(at) else { return };
            let seen = see(app);
            found.lock().unwrap_or_else(PoisonError::into_inner).push((at, seen));
        }
    };
    std::thread::scope(|scope| {
        // This thread is one of them.
        for _ in 1..apps.len().min(ASKED) {
            // Without another thread it takes longer, and is done all the same.
            let _ = std::thread::Builder::new().spawn_scoped(scope, ask);
        }
        ask();
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, seen)| seen).collect()
}

/// What an application's primary tells.
fn see(app: &App) -> Seen {
    if let Ok(told) = ask_within(app, &Word::Describe, LOOK)
        && let Ok(about) = serde_json::from_value(told.clone())
    {
        return Seen { about, told };
    }
    let about = from_files(app);
    Seen { told: json!(about), about }
}

/// What there is, of each application.
pub(crate) fn descriptions(home: &Home) -> Result<Vec<Description>, Failure> {
    Ok(look_at(&targets::any(home, &[])?).into_iter().map(|seen| seen.about).collect())
}

/// Of an application whose primary tells nothing, what its files tell.
fn from_files(app: &App) -> Description {
    let register = Register::read(app);
    let primary = register.as_ref().and_then(|register| register.primary);
    let primary = primary.filter(|primary| primary.is_alive()).map(|primary| primary.pid);
    let workers: &[_] = register.as_ref().map_or(&[], |register| &register.workers);
    let state = if !Lock::is_held(app) {
        match workers.iter().any(|worker| worker.is_alive()) {
            true => "without primary",
            // It gave up, or was killed with its keeper.
            false if register.is_some() && app.intent().is_some_and(|spec| !spec.stopped) => {
                "errored"
            }
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
    about.logs = crate::about::logs(app);
    if let Some(spec) = app.spec() {
        (about.id, about.namespace) = (spec.id, spec.namespace);
        (about.argv, about.cwd, about.version) = (spec.argv, spec.cwd, spec.version);
        about.config = spec.config.map(|file| file.display().to_string());
        about.foreground = spec.foreground;
    }
    about
}
