//! What is done to applications that run in the background.

use crate::args::{self, Target};
use crate::control::{Description, Refusal, Unanswered, Word, ask, ask_within};
use crate::failure::{Failure, UNEXPECTED};
use crate::home::{App, Home, Lock};
use crate::processes::Register;
use crate::start::{self, Mark};
use crate::{show, targets};
use serde_json::Value;
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

/// Does it for each; says at once what fails, and goes on with the others.
fn each(
    wanted: &[String],
    mut deed: impl FnMut(&App) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let apps = targets::resolve(&Home::find()?, wanted)?;
    if let [app] = apps.as_slice() {
        return deed(app);
    }
    let mut failed = Vec::new();
    for app in &apps {
        if let Err(failure) = deed(app) {
            let _ = failure.tell();
            failed.push(app.name.clone());
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::tool(UNEXPECTED, format!("it was not done for {}", failed.join(", "))))
}

/// That it runs.
fn running(app: &App) -> Result<(), Failure> {
    if Lock::is_held(app) {
        return Ok(());
    }
    let name = &app.name;
    Err(Failure::tool(UNEXPECTED, format!("{name} does not run"))
        .hint(format!("`phalanx start {name}` starts it, `phalanx delete {name}` forgets it")))
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

pub(crate) fn reload(options: &args::Reload) -> Result<(), Failure> {
    each(&options.of.apps, reload_one)
}

fn reload_one(app: &App) -> Result<(), Failure> {
    running(app)?;
    let errors = Mark::end(app.err_log());
    // It goes on if this process is interrupted.
    let done = ask(app, Word::Reload, &mut |text| show::print(&format!("{text}\n")));
    done.map(drop).map_err(|why| match why {
        // What the new ones died of, they may have said nowhere else.
        Unanswered::Refused(refusal) => {
            let message = format!("{}{}", refusal.message, start::said_last(&errors.last_lines()));
            failed(app, Unanswered::Refused(Refusal { message, ..refusal }))
        }
        why => failed(app, why),
    })
}

pub(crate) fn restart(options: &args::Restart) -> Result<(), Failure> {
    each(&options.of.apps, |app| {
        running(app)?;
        let done = ask(app, Word::Restart, &mut |text| show::print(&format!("{text}\n")));
        done.map(drop).map_err(|why| failed(app, why))
    })
}

pub(crate) fn upgrade(apps: &[String]) -> Result<(), Failure> {
    each(apps, upgrade_one)
}

/// The primary does not answer if all goes well: it is another program then, which is asked who it is.
fn upgrade_one(app: &App) -> Result<(), Failure> {
    running(app)?;
    let before = Instant::now();
    match ask(app, Word::Upgrade, &mut |_| {}) {
        Err(Unanswered::Silent(_) | Unanswered::Nobody) => {}
        Err(why) => return Err(failed(app, why)),
        Ok(_) => return Ok(()),
    }
    loop {
        let about = ask_within(app, Word::Describe, LOOK).ok();
        let about = about.and_then(|about| serde_json::from_value::<Description>(about).ok());
        let is_new = |about: &Description| {
            Duration::from_millis(about.uptime_ms) < before.elapsed() && about.primary_pid.is_some()
        };
        if let Some(about) = about.filter(is_new) {
            show::say(&format!("{}: version {} has taken over", app.name, about.version));
            show::print(&show::table(&[about]));
            return Ok(());
        }
        if before.elapsed() >= ANSWER + HUNG {
            return Err(failed(app, Unanswered::Silent(std::io::ErrorKind::TimedOut.into())));
        }
        std::thread::sleep(AGAIN);
    }
}

pub(crate) fn why(options: &args::Why) -> Result<(), Failure> {
    each(&options.of.apps, |app| why_one(app, options.number, options.json))
}

fn why_one(app: &App, number: usize, as_json: bool) -> Result<(), Failure> {
    running(app)?;
    let about = ask_within(app, Word::Why, ANSWER).map_err(|why| failed(app, why))?;
    let list = |key: &str| about.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    if as_json {
        show::print(&format!("{:#}\n", Value::Array(list("ends"))));
        return Ok(());
    }
    let texts = list("texts");
    if texts.is_empty() {
        show::say(&format!("{}: no worker has ended since this primary began", app.name));
        return Ok(());
    }
    let last = texts.iter().skip(texts.len().saturating_sub(number));
    let texts: Vec<&str> = last.filter_map(Value::as_str).collect();
    let text = texts.join("\n\n");
    show::print(&format!("{}\n", text.trim_end()));
    Ok(())
}

pub(crate) fn scale(app: &str, workers: Target) -> Result<(), Failure> {
    each(&[app.to_owned()], |app| scale_one(app, workers))
}

fn scale_one(app: &App, workers: Target) -> Result<(), Failure> {
    running(app)?;
    let word = match workers {
        Target::To(workers) => Word::ScaleTo(workers),
        Target::By(workers) => Word::ScaleBy(workers),
    };
    ask_within(app, word, ANSWER).map_err(|why| failed(app, why))?;
    let about = start::settle(app, SCALED);
    if let Some(about) = about.as_ref().filter(|about| !about.is_settled()) {
        show::say(&format!("{}: {}", app.name, show::unsettled(about)));
    }
    show::print(&about.map(|about| show::table(&[about])).unwrap_or_default());
    Ok(())
}

pub(crate) fn signal(_options: &args::Signal) -> Result<(), Failure> {
    Err(Failure::tool(UNEXPECTED, "not yet"))
}

pub(crate) fn send(_options: &args::Send) -> Result<(), Failure> {
    Err(Failure::tool(UNEXPECTED, "not yet"))
}

pub(crate) fn env(_options: &args::Environment) -> Result<(), Failure> {
    Err(Failure::tool(UNEXPECTED, "not yet"))
}

pub(crate) fn pid(_apps: &[String]) -> Result<(), Failure> {
    Err(Failure::tool(UNEXPECTED, "not yet"))
}

pub(crate) fn id(_apps: &[String]) -> Result<(), Failure> {
    Err(Failure::tool(UNEXPECTED, "not yet"))
}

pub(crate) fn reset(_apps: &[String]) -> Result<(), Failure> {
    Err(Failure::tool(UNEXPECTED, "not yet"))
}

pub(crate) fn ping(_apps: &[String]) -> Result<(), Failure> {
    Err(Failure::tool(UNEXPECTED, "not yet"))
}

pub(crate) fn stop(apps: &[String], now: bool) -> Result<(), Failure> {
    each(apps, |app| {
        running(app)?;
        tell_to_stop(app, now).map_err(|why| failed(app, why))?;
        if end(app) {
            return Ok(());
        }
        Err(failed(app, Unanswered::Silent(std::io::ErrorKind::TimedOut.into())))
    })
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

pub(crate) fn delete(apps: &[String], now: bool) -> Result<(), Failure> {
    each(apps, |app| delete_one(app, now))
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
