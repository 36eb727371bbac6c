//! What is done to applications that run in the background.

use crate::args::{self, Target};
use crate::control::{Description, Unanswered, Word, ask_within};
use crate::failure::{Failure, UNEXPECTED};
use crate::home::{App, Home, Lock, Spec};
use crate::intent::Refresh;
use crate::ui::progress::Progress;
use crate::{apply, config, intent, show, signals, start, targets};
use phalanx::control::{Process, Register};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// For an answer, when somebody only looks.
const LOOK: Duration = Duration::from_secs(2);
/// For an answer that is not.
const FOREWARNED: Duration = Duration::from_millis(200);
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

fn asked(app: &App, word: &Word, patience: Duration) -> Result<Value, Failure> {
    patiently(app, || ask_within(app, word, patience)).map_err(|why| failed(app, why))
}

/// Asks again if nobody listens at this moment: another primary is just taking over, or comes up.
pub(crate) fn patiently(
    app: &App,
    mut ask: impl FnMut() -> Result<Value, Unanswered>,
) -> Result<Value, Unanswered> {
    let begin = Instant::now();
    loop {
        match ask() {
            Err(Unanswered::Nobody) if begin.elapsed() < ANSWER && Lock::is_held(app) => {
                std::thread::sleep(AGAIN);
            }
            answer => return answer,
        }
    }
}

pub(crate) fn failed(app: &App, why: Unanswered) -> Failure {
    let name = &app.name;
    if matches!(why, Unanswered::Nobody | Unanswered::Silent(_)) && !Lock::is_held(app) {
        return Failure::tool(UNEXPECTED, format!("{name}: it ended meanwhile"));
    }
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
    changed(options, &Word::Reload)
}

pub(crate) fn restart(options: &args::Restart) -> Result<(), Failure> {
    changed(options, &Word::Restart)
}

/// Replaces workers, by what the applications are to be now.
fn changed(options: &args::Reload, word: &Word) -> Result<(), Failure> {
    let refresh = Refresh { update_env: options.update_env, environment: options.env.as_deref() };
    let home = Home::find()?;
    if !options.only.is_empty() {
        let meant = targets::resolve(&home, &options.of.apps)?;
        let is_meant = |name: &&String| meant.iter().any(|app| app.name == **name);
        if let Some(name) = options.only.iter().find(|name| !is_meant(name)) {
            return Err(targets::nobody(name, &meant));
        }
    }
    each(&options.of.apps, |app| {
        let left_out = |names: &[String]| !names.is_empty() && !names.contains(&app.name);
        if left_out(&options.only) {
            return Ok(());
        }
        if *word == Word::Restart && !Lock::is_held(app) {
            let spec = app.intent().or_else(|| app.spec()).ok_or_else(|| unknown(app))?;
            let spec = start::anew_or_as_it_was(&spec, refresh)?;
            return start::start_all(&home, vec![spec], SCALED);
        }
        running(app)?;
        apply::replace(&home, app, refresh, word)
    })?;
    options.of.apps.iter().try_for_each(|word| tell_what_a_file_changes(&home, word))
}

/// Applications that are new in a configuration file, or are not in it any more.
fn tell_what_a_file_changes(home: &Home, word: &str) -> Result<(), Failure> {
    let file = Path::new(word);
    if !config::is_config(file) || !file.is_file() {
        return Ok(());
    }
    let loaded = config::load(&intent::here()?.join(file), None, &[])?;
    let of_file = |spec: &Spec| spec.config.as_deref() == Some(&loaded.file);
    let known = home.intents()?;
    for app in &loaded.apps {
        let runs = Lock::is_held(&home.app(&app.name));
        if !runs && !known.iter().any(|spec| spec.name == app.name) {
            show::say(&format!("{} is new in {word}: `phalanx start {word}` starts it", app.name));
        }
    }
    for spec in known.iter().filter(|spec| of_file(spec)) {
        if !loaded.apps.iter().any(|app| app.name == spec.name) {
            let name = &spec.name;
            show::say(&format!(
                "{name} is not in {word} any more: `phalanx delete {name}` ends it"
            ));
        }
    }
    Ok(())
}

pub(crate) fn unknown(app: &App) -> Failure {
    let name = &app.name;
    Failure::tool(UNEXPECTED, format!("{name}: nothing says any more how it is started"))
        .hint(format!("`phalanx delete {name}`, and start it anew"))
}

pub(crate) fn upgrade(apps: &[String]) -> Result<(), Failure> {
    let home = Home::find()?;
    each(apps, |app| {
        running(app)?;
        // One in somebody's foreground is never changed.
        let _claim = app.intent().and_then(|_| apply::claim(&home, app));
        let about = apply::become_anew(app)?;
        show::say(&format!("{}: version {} has taken over", app.name, about.version));
        show::print(&show::table(&[about]));
        Ok(())
    })
}

pub(crate) fn why(options: &args::Why) -> Result<(), Failure> {
    each(&options.of.apps, |app| why_one(app, options.number, options.json))
}

fn why_one(app: &App, number: usize, as_json: bool) -> Result<(), Failure> {
    running(app)?;
    let about = asked(app, &Word::Why, ANSWER)?;
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
    let told = asked(app, &word, ANSWER)?;
    let wanted = told.get("wanted").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    keep_scale(app, wanted)?;
    let about = start::settle(app, SCALED);
    let unsettled = about.as_ref().filter(|about| !about.is_settled());
    let unsettled = unsettled.map(|about| format!("{}: {}", app.name, show::unsettled(about)));
    show::print(&about.map(|about| show::table(&[about])).unwrap_or_default());
    unsettled.map_or(Ok(()), |words| Err(Failure::tool(UNEXPECTED, words)))
}

/// So many there are after a stop and a reboot, too; but where the load decides, it does so again.
fn keep_scale(app: &App, wanted: Option<usize>) -> Result<(), Failure> {
    let Some(intent) = app.intent() else { return Ok(()) };
    let by_load = intent::options(&intent.argv).and_then(|run| Ok(run.limits.scaling()?))?;
    if by_load.is_none() {
        let kept = Home::find()?.change(app, |intent| intent.scaled = wanted);
        if let Err(error) = kept {
            show::say(&format!("{}: so many only until it is stopped: {error}", app.name));
        }
    }
    Ok(())
}

pub(crate) fn signal(options: &args::Signal) -> Result<(), Failure> {
    let number = signals::number(&options.signal)?;
    each(&options.of.apps, |app| {
        running(app)?;
        let word = Word::Signal { number, slot: options.slot };
        let told = asked(app, &word, ANSWER)?;
        let workers = told.get("workers").and_then(Value::as_u64).unwrap_or_default();
        let name = signals::name(number);
        show::say(&format!("{}: {name} sent to {workers} workers", app.name));
        Ok(())
    })
}

pub(crate) fn send(options: &args::Send) -> Result<(), Failure> {
    let app = targets::one(&Home::find()?, &options.app)?;
    running(&app)?;
    let text = &options.message;
    let message = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
    let word = Word::Send { message, slot: options.slot };
    // A worker that does not read is waited for by its primary.
    let told = asked(&app, &word, HUNG + ANSWER)?;
    let count = |key| told.get(key).and_then(Value::as_u64).unwrap_or_default();
    show::say(&format!("{}: sent to {} of {} workers", app.name, count("workers"), count("of")));
    Ok(())
}

/// What stands in place of a secret.
const HIDDEN: &str = "(hidden; --secrets shows it)";

pub(crate) fn env(options: &args::Environment) -> Result<(), Failure> {
    let app = targets::one(&Home::find()?, &options.app)?;
    let spec = app.spec().ok_or_else(|| unknown(&app))?;
    if spec.foreground {
        let message =
            format!("{} runs in somebody's foreground, with that one's environment", app.name);
        return Err(Failure::tool(UNEXPECTED, message));
    }
    let env = match options.secrets {
        true => spec.env,
        false => config::without_secrets(spec.env, HIDDEN),
    };
    if options.json {
        show::print(&format!("{:#}\n", serde_json::json!(env)));
        return Ok(());
    }
    let lines: String = env.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    show::print(&lines);
    Ok(())
}

pub(crate) fn pid(apps: &[String]) -> Result<(), Failure> {
    each(apps, |app| {
        running(app)?;
        let about = describe(app)?;
        let workers = about.workers.iter().filter_map(|worker| worker.pid);
        let all: Vec<String> =
            about.primary_pid.into_iter().chain(workers).map(|pid| pid.to_string()).collect();
        show::print(&format!("{}\n", all.join("\n")));
        Ok(())
    })
}

fn describe(app: &App) -> Result<Description, Failure> {
    let about = asked(app, &Word::Describe, ANSWER)?;
    serde_json::from_value(about)
        .map_err(|error| Failure::tool(UNEXPECTED, format!("{}: {error}", app.name)))
}

pub(crate) fn id(apps: &[String]) -> Result<(), Failure> {
    each(apps, |app| {
        let spec = app.spec().ok_or_else(|| unknown(app))?;
        if spec.foreground {
            let message = format!("{} runs in somebody's foreground, and has no number", app.name);
            return Err(Failure::tool(UNEXPECTED, message));
        }
        show::print(&format!("{}\n", spec.id));
        Ok(())
    })
}

pub(crate) fn reset(apps: &[String]) -> Result<(), Failure> {
    each(apps, |app| {
        running(app)?;
        asked(app, &Word::Reset, ANSWER)?;
        show::say(&format!("{}: restarts are counted from 0 again", app.name));
        Ok(())
    })
}

/// Whether each primary is there, and how long its answer takes.
pub(crate) fn ping(apps: &[String]) -> Result<(), Failure> {
    let home = Home::find()?;
    let meant = targets::any(&home, apps)?;
    // Of all, those that were stopped have nothing to say.
    let asked = meant.into_iter().filter(|app| !apps.is_empty() || Lock::is_held(app));
    let names: Vec<String> = asked.map(|app| app.name).collect();
    each(&names, |app| {
        running(app)?;
        let begin = Instant::now();
        let about = ask_within(app, &Word::Ping, LOOK).map_err(|why| failed(app, why))?;
        let pid = about.get("pid").and_then(Value::as_u64).unwrap_or_default();
        let took = begin.elapsed().as_secs_f64() * 1e3;
        show::print(&format!("{}: primary {pid} answered in {took:.1} ms\n", app.name));
        Ok(())
    })
}

pub(crate) fn stop(apps: &[String], now: bool) -> Result<(), Failure> {
    let home = Home::find()?;
    let told = forewarn(&home, apps, now);
    each(apps, |app| {
        end_leftovers(app);
        // One that was told may be gone by now; one that died is not to be there again after a reboot.
        let before = app.intent();
        let is_to_run = before.as_ref().is_some_and(|spec| !spec.stopped);
        if !is_to_run && before.is_some() && !Lock::is_held(app) && !told.contains(&app.name) {
            show::say(&format!("{} is stopped already", app.name));
            return Ok(());
        }
        if !is_to_run && !told.contains(&app.name) {
            running(app)?;
        }
        // First: whoever starts it as soon as it has ended has the last word. If it cannot be written, it ends all the same.
        let noted = note_stopped(&home, app);
        let there = Register::read(app);
        if let Err(why) = tell_to_stop(app, now) {
            if let Some(before) = before {
                home.change(app, |intent| intent.stopped = before.stopped)?;
            }
            return Err(failed(app, why));
        }
        if !end(app, there.as_ref()) {
            return Err(failed(app, Unanswered::Silent(std::io::ErrorKind::TimedOut.into())));
        }
        note_ended(&home, app, there.as_ref(), noted)?;
        show::say(&format!("{} is stopped", app.name));
        Ok(())
    })
}

/// That it is stopped, after its end. Somebody may have been about to start it: what they noted is older, and goes. Whoever has
/// started it since has the last word: then it is as it was noted before the end.
fn note_ended(
    home: &Home,
    app: &App,
    told: Option<&Register>,
    noted: Result<(), Failure>,
) -> Result<(), Failure> {
    let begin = Instant::now();
    let told = told.and_then(|register| register.primary);
    while app.directory.exists() {
        match Lock::take(app, Duration::ZERO) {
            // Nobody starts it while this is held.
            Ok(Some(_lock)) => return note_stopped(home, app),
            Ok(None) => {}
            Err(_) => break,
        }
        let primary = Register::read(app).and_then(|register| register.primary);
        let runs = primary.filter(|primary| Some(*primary) != told).is_some_and(Process::is_alive);
        if runs || begin.elapsed() >= LOOK {
            return noted;
        }
        // Whoever started what has ended lets the lock go in a moment.
        std::thread::sleep(AGAIN);
    }
    note_stopped(home, app)
}

/// It is to stay stopped, also after a reboot.
fn note_stopped(home: &Home, app: &App) -> Result<(), Failure> {
    Ok(home.change(app, |intent| intent.stopped = true).map(drop)?)
}

/// Ends them, and leaves what is wanted as it is: `resurrect`, or a reboot, starts them again.
pub(crate) fn end_for_now(names: &[String]) -> Result<(), Failure> {
    forewarn(&Home::find()?, names, false);
    each(names, |app| {
        let there = Register::read(app);
        tell_to_stop(app, false).map_err(|why| failed(app, why))?;
        if !end(app, there.as_ref()) {
            return Err(failed(app, Unanswered::Silent(std::io::ErrorKind::TimedOut.into())));
        }
        show::say(&format!("{} is stopped; `phalanx resurrect` starts it", app.name));
        Ok(())
    })
}

/// Until it has taken the word. A socket that is not there may be about to be, and one with too many clients has
/// fewer soon.
fn tell_to_stop(app: &App, now: bool) -> Result<(), Unanswered> {
    let begin = Instant::now();
    loop {
        let why = match ask_within(app, &Word::Stop { now }, ANSWER) {
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

/// Waits until its primary has ended, for as long as it answers. Whether it has. Another one, that somebody has started
/// since, is not waited for.
fn end(app: &App, told: Option<&Register>) -> bool {
    let begin = Instant::now();
    let is_over = || match told {
        // Of a keeper and its primary, each may start the other again.
        Some(Register { leader, primary: Some(primary), .. }) => {
            !primary.is_alive() && leader.is_none_or(|leader| !leader.is_alive())
        }
        _ => false,
    };
    let progress = Progress::new(&app.name);
    let _following = progress.follow(app);
    let mut answered = Instant::now();
    let mut asked = Instant::now();
    while Lock::is_held(app) && !is_over() {
        if asked.elapsed() >= ASKED {
            let waited = begin.elapsed();
            match ask_within(app, &Word::Describe, LOOK) {
                Ok(about) if is_younger(&about, waited) => return true,
                // No is an answer too.
                Ok(_) | Err(Unanswered::Refused(_)) => answered = Instant::now(),
                Err(Unanswered::Nobody | Unanswered::Silent(_)) => {}
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

/// Of several, each begins to stop at once: together they take as long as the slowest.
/// Who was told.
fn forewarn(home: &Home, wanted: &[String], now: bool) -> Vec<String> {
    let apps = targets::resolve(home, wanted).unwrap_or_default();
    let several = apps.len() > 1;
    let told = apps.into_iter().filter(|app| several && Lock::is_held(app));
    told.map(|app| {
        // Whoever does not take it is told again, and its trouble said.
        let _ = ask_within(&app, &Word::Stop { now }, FOREWARNED);
        app.name
    })
    .collect()
}

/// Whether a primary began since then.
fn is_younger(about: &Value, than: Duration) -> bool {
    let uptime = about.get("uptime_ms").and_then(Value::as_u64);
    uptime.is_some_and(|uptime| Duration::from_millis(uptime) < than)
}

pub(crate) fn delete(apps: &[String], now: bool) -> Result<(), Failure> {
    let home = Home::find()?;
    forewarn(&home, apps, now);
    each(apps, |app| delete_one(&home, app, now))
}

/// Of one whose primary is gone, and its keeper too, what is left.
fn end_leftovers(app: &App) {
    if Register::read(app).is_some()
        && let Ok(Some(_lock)) = Lock::take(app, Duration::ZERO)
    {
        end_and_tell(app);
    }
}

/// Ends what an earlier primary left, and says so; whoever does has the lock.
pub(crate) fn end_and_tell(app: &App) {
    let left = Register::read(app).map(|register| register.end_leftovers(app));
    for words in left.into_iter().flatten() {
        show::say(&format!("{}: {words}", app.name));
    }
}

pub(crate) fn delete_one(home: &Home, app: &App, now: bool) -> Result<(), Failure> {
    let name = &app.name;
    if Lock::is_held(app) {
        let told = Register::read(app);
        match tell_to_stop(app, now) {
            Ok(()) if end(app, told.as_ref()) => {}
            // It lives.
            Err(why @ Unanswered::Refused(_)) => return Err(failed(app, why)),
            Ok(()) | Err(Unanswered::Nobody | Unanswered::Silent(_)) => kill(app)?,
        }
    }
    let failed = || Failure::os(format!("delete {}", app.directory.display()));
    let Some(lock) = Lock::take(app, LOOK).map_err(failed())? else {
        return Err(Failure::tool(UNEXPECTED, format!("{name} is just being started again")));
    };
    end_and_tell(app);
    home.forget(app)?;
    app.remove(lock).map_err(failed())?;
    show::say(&format!("{name} is deleted"));
    Ok(())
}

/// Kills a primary that does not answer. Its workers are ended afterwards, as any that are left.
fn kill(app: &App) -> Result<(), Failure> {
    let name = &app.name;
    let register = Register::read(app).unwrap_or_default();
    let (leader, keeper, primary) = (register.leader, register.keeper, register.primary);
    // Each would replace the other: nobody does anything more. The primary goes first: the end of its keeper may wake it
    // (the kernel sends SIGCONT to a group that has become an orphan and has one that is stopped).
    let others = [keeper, leader.filter(|_| keeper != leader)].into_iter().flatten();
    let keepers: Vec<_> = others.filter(|keeper| Some(*keeper) != primary).collect();
    for process in keepers.iter().copied().chain(primary) {
        process.freeze();
    }
    let killed = primary.filter(|primary| primary.kill());
    for keeper in keepers {
        if keeper.kill() {
            show::say(&format!("{name}: its keeper, process {}: killed", keeper.pid));
        }
    }
    if let Some(primary) = killed {
        show::say(&format!("{name}: its primary, process {}, did not answer: killed", primary.pid));
    } else if Lock::is_held(app) {
        let message = format!("{name}: somebody else holds its lock");
        return Err(Failure::tool(UNEXPECTED, message)
            .hint("another command of phalanx may be busy with it: try again"));
    }
    Ok(())
}
