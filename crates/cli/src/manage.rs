//! What is done to applications that run in the background.

use crate::args::Target;
use crate::control::{Description, Refusal, Unanswered, Word, ask, ask_within};
use crate::failure::{Failure, UNEXPECTED};
use crate::home::{App, Home, Lock};
use crate::processes::Register;
use crate::show;
use crate::start::{self, Mark};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// For an answer, when somebody only looks.
const LOOK: Duration = Duration::from_secs(2);
/// For an answer that is needed.
const ANSWER: Duration = Duration::from_secs(5);
/// A primary that has not answered for so long, and has not ended, hangs. At its end it answers no more.
const HUNG: Duration = Duration::from_secs(10);
/// A primary that has too many clients has sent the idle ones away by then.
const BUSY: Duration = Duration::from_secs(30);
/// How often it is looked whether it has ended.
const AGAIN: Duration = Duration::from_millis(50);
/// How often it is asked, meanwhile, whether it is still there.
const ASKED: Duration = Duration::from_millis(500);
/// Until new workers of a scaled application are ready.
const SCALED: Duration = Duration::from_secs(30);

pub(crate) fn list(as_json: bool) -> Result<(), Failure> {
    let home = Home::find()?;
    let apps: Vec<Value> = home.names()?.iter().map(|name| look(&home.app(name))).collect();
    if as_json {
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

pub(crate) fn describe(name: &str, as_json: bool) -> Result<(), Failure> {
    let app = Home::find()?.existing(name)?;
    let about = look(&app);
    if as_json {
        show::print(&format!("{about:#}\n"));
        return Ok(());
    }
    let about: Description = serde_json::from_value(about)
        .map_err(|error| Failure::tool(UNEXPECTED, format!("{name}: {error}")))?;
    show::print(&show::details(&about));
    Ok(())
}

/// What an application's primary tells; of one that does not, what its files tell.
fn look(app: &App) -> Value {
    if let Ok(about) = ask_within(app, Word::Describe, LOOK) {
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
        (about.argv, about.cwd, about.version) = (spec.argv, spec.cwd, spec.version);
    }
    json!(about)
}

/// An application that runs.
fn running(name: &str) -> Result<App, Failure> {
    let app = Home::find()?.existing(name)?;
    if Lock::is_held(&app) {
        return Ok(app);
    }
    Err(Failure::tool(UNEXPECTED, format!("{name} does not run"))
        .hint(format!("`phalanx start` starts it, `phalanx delete {name}` forgets it")))
}

fn failed(app: &App, why: Unanswered) -> Failure {
    let name = &app.name;
    let kill = format!("`phalanx delete {name}` kills one that hangs");
    match why {
        Unanswered::Nobody => {
            let message = format!("{name}: its primary does not listen (yet, or any more)");
            Failure::tool(UNEXPECTED, message).hint(kill)
        }
        Unanswered::Silent(error) => {
            Failure::tool(UNEXPECTED, format!("{name}: its primary does not answer: {error}"))
                .hint(kill)
        }
        Unanswered::Refused(refusal) => {
            let failure = Failure::tool(UNEXPECTED, format!("{name}: {}", refusal.message));
            refusal.hint.into_iter().fold(failure, Failure::hint)
        }
    }
}

pub(crate) fn reload(name: &str) -> Result<(), Failure> {
    let app = running(name)?;
    let errors = Mark::end(app.err_log());
    // It goes on if this process is interrupted.
    let done = ask(&app, Word::Reload, &mut |text| show::print(&format!("{text}\n")));
    done.map(drop).map_err(|why| match why {
        // What the new ones died of, they may have said nowhere else.
        Unanswered::Refused(refusal) => {
            let message = format!("{}{}", refusal.message, start::said_last(&errors.last_lines()));
            failed(&app, Unanswered::Refused(Refusal { message, ..refusal }))
        }
        why => failed(&app, why),
    })
}

pub(crate) fn restart(name: &str) -> Result<(), Failure> {
    let app = running(name)?;
    let done = ask(&app, Word::Restart, &mut |text| show::print(&format!("{text}\n")));
    done.map(drop).map_err(|why| failed(&app, why))
}

/// The primary does not answer if all goes well: it is another program then, which is asked who it is.
pub(crate) fn upgrade(name: &str) -> Result<(), Failure> {
    let app = running(name)?;
    let before = Instant::now();
    match ask(&app, Word::Upgrade, &mut |_| {}) {
        Err(Unanswered::Silent(_) | Unanswered::Nobody) => {}
        Err(why) => return Err(failed(&app, why)),
        Ok(_) => return Ok(()),
    }
    loop {
        let about = ask_within(&app, Word::Describe, LOOK).ok();
        let about = about.and_then(|about| serde_json::from_value::<Description>(about).ok());
        let is_new = |about: &Description| {
            Duration::from_millis(about.uptime_ms) < before.elapsed() && about.primary_pid.is_some()
        };
        if let Some(about) = about.filter(is_new) {
            show::say(&format!("{name}: version {} has taken over", about.version));
            show::print(&show::table(&[about]));
            return Ok(());
        }
        if before.elapsed() >= ANSWER + HUNG {
            return Err(failed(&app, Unanswered::Silent(std::io::ErrorKind::TimedOut.into())));
        }
        std::thread::sleep(AGAIN);
    }
}

pub(crate) fn why(name: &str, number: usize, as_json: bool) -> Result<(), Failure> {
    let app = running(name)?;
    let about = ask_within(&app, Word::Why, ANSWER).map_err(|why| failed(&app, why))?;
    let list = |key: &str| about.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    if as_json {
        show::print(&format!("{:#}\n", Value::Array(list("ends"))));
        return Ok(());
    }
    let texts = list("texts");
    if texts.is_empty() {
        show::say(&format!("{name}: no worker has ended since this primary began"));
        return Ok(());
    }
    let last = texts.iter().skip(texts.len().saturating_sub(number));
    let texts: Vec<&str> = last.filter_map(Value::as_str).collect();
    let text = texts.join("\n\n");
    show::print(&format!("{}\n", text.trim_end()));
    Ok(())
}

pub(crate) fn scale(name: &str, workers: Target) -> Result<(), Failure> {
    let app = running(name)?;
    let word = match workers {
        Target::To(workers) => Word::ScaleTo(workers),
        Target::By(workers) => Word::ScaleBy(workers),
    };
    ask_within(&app, word, ANSWER).map_err(|why| failed(&app, why))?;
    let about = start::settle(&app, SCALED);
    if let Some(about) = about.as_ref().filter(|about| !about.is_settled()) {
        show::say(&format!("{name}: {}", show::unsettled(about)));
    }
    show::print(&about.map(|about| show::table(&[about])).unwrap_or_default());
    Ok(())
}

pub(crate) fn stop(name: &str, now: bool) -> Result<(), Failure> {
    let app = running(name)?;
    tell_to_stop(&app, now).map_err(|why| failed(&app, why))?;
    if end(&app) {
        return Ok(());
    }
    Err(failed(&app, Unanswered::Silent(std::io::ErrorKind::TimedOut.into())))
}

/// Until it has taken the word. A socket that is not there may be about to be, and one with too many clients has
/// fewer soon.
fn tell_to_stop(app: &App, now: bool) -> Result<(), Unanswered> {
    let begin = Instant::now();
    loop {
        let why = match ask_within(app, Word::Stop { now }, ANSWER) {
            Ok(_) => return Ok(()),
            Err(_) if !Lock::is_held(app) => return Ok(()),
            Err(why) => why,
        };
        let patience = if matches!(why, Unanswered::Refused(_)) { BUSY } else { ANSWER };
        if begin.elapsed() >= patience {
            return Err(why);
        }
        std::thread::sleep(AGAIN);
    }
}

/// Waits until its primary has ended, for as long as it answers. Whether it has.
fn end(app: &App) -> bool {
    let mut answered = Instant::now();
    let mut asked = Instant::now();
    while Lock::is_held(app) {
        if asked.elapsed() >= ASKED {
            // No is an answer too.
            if matches!(ask_within(app, Word::Describe, LOOK), Ok(_) | Err(Unanswered::Refused(_)))
            {
                answered = Instant::now();
            }
            asked = Instant::now();
        }
        if answered.elapsed() >= HUNG {
            return false;
        }
        std::thread::sleep(AGAIN);
    }
    true
}

pub(crate) fn delete(name: &str, now: bool) -> Result<(), Failure> {
    let home = Home::find()?;
    if name != "all" {
        return delete_one(&home.existing(name)?, now);
    }
    let mut last = Ok(());
    for name in home.names()? {
        if let Err(failure) = delete_one(&home.app(&name), now) {
            // Said at once: the others are deleted all the same.
            let _ = failure.tell();
            last = Err(Failure::tool(UNEXPECTED, "not every application could be deleted"));
        }
    }
    last
}

fn delete_one(app: &App, now: bool) -> Result<(), Failure> {
    let name = &app.name;
    if Lock::is_held(app) {
        match tell_to_stop(app, now) {
            Ok(()) if end(app) => {}
            // It lives.
            Err(why @ Unanswered::Refused(_)) => return Err(failed(app, why)),
            Ok(()) | Err(Unanswered::Nobody | Unanswered::Silent(_)) => kill(app)?,
        }
    }
    let failed = || Failure::os(format!("delete {}", app.directory.display()));
    let Some(lock) = Lock::take(app, LOOK).map_err(failed())? else {
        return Err(Failure::tool(UNEXPECTED, format!("{name} is just being started again")));
    };
    if let Some(register) = Register::read(app) {
        for words in register.end_leftovers(app) {
            show::say(&format!("{name}: {words}"));
        }
    }
    app.remove(lock).map_err(failed())
}

/// Kills a primary that does not answer. Its workers are ended afterwards, as any that are left.
fn kill(app: &App) -> Result<(), Failure> {
    let name = &app.name;
    let register = Register::read(app).unwrap_or_default();
    let (leader, keeper, primary) = (register.leader, register.keeper, register.primary);
    // Each would replace the other: the primary does nothing more, and the keeper is killed first.
    if let Some(primary) = primary {
        primary.freeze();
    }
    let others = [keeper, leader.filter(|_| keeper != leader)];
    for keeper in others.into_iter().flatten().filter(|keeper| Some(*keeper) != primary) {
        if keeper.kill() {
            show::say(&format!("{name}: its keeper, process {}: killed", keeper.pid));
        }
    }
    if let Some(primary) = primary.filter(|primary| primary.kill()) {
        show::say(&format!("{name}: its primary, process {}, did not answer: killed", primary.pid));
    } else if Lock::is_held(app) {
        let message = format!("{name}: somebody else holds its lock");
        return Err(Failure::tool(UNEXPECTED, message)
            .hint("another command of phalanx may be busy with it: try again"));
    }
    Ok(())
}
