//! `phalanx start`: a primary of its own in the background, and the wait until it serves.

use crate::args::Run;
use crate::control::{Description, Unanswered, Word, ask_within};
use crate::failure::{Failure, NOT_READY, RUNS, UNEXPECTED, USAGE};
use crate::home::{App, Home, Lock, Spec, append};
use crate::intent::{self, Refresh};
use crate::ui::progress::Progress;
use crate::{config, logs, manage, run, show, targets};
use phalanx::control::{MARK, Register};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Somebody may look at a lock just now; somebody who runs has it for longer.
const LOCK: Duration = Duration::from_millis(500);
/// How often it is looked whether all workers are ready.
const AGAIN: Duration = Duration::from_millis(50);
/// For an answer, while the primary begins.
const ANSWER: Duration = Duration::from_secs(2);
/// Lines of workers that are shown when none became ready.
const LAST_LINES: usize = 20;
/// Bytes of a log that are looked at for them.
const LAST_BYTES: u64 = 64 << 10;

/// `phalanx start`: a program, a configuration file, or what was stopped. What they are called.
pub(crate) fn start(options: &Run) -> Result<Vec<String>, Failure> {
    if options.detached.app_dir.is_some() {
        return Err(Failure::tool(USAGE, "--app-dir is what `start` tells a primary"));
    }
    let home = Home::find()?;
    let words = &options.program;
    if words.is_empty() && options.args.is_empty() {
        let here = intent::here()?;
        let file = config::default_file(&here).ok_or_else(|| {
            Failure::tool(USAGE, "there is nothing to start: no PROGRAM is named, and there is no configuration file here")
                .hint("`phalanx start app.js` starts a program, `phalanx init` writes a configuration file")
        })?;
        return start_file(&home, &file, options);
    }
    if let [file] = words.as_slice() {
        let file = Path::new(file);
        if options.args.is_empty() && config::is_config(file) && file.is_file() {
            return start_file(&home, file, options);
        }
    }
    let missing =
        words.first().map(Path::new).filter(|file| words.len() == 1 && config::is_config(file));
    if let Some(apps) = known(&home, options) {
        return start_known(&home, &apps, options);
    }
    if let Some(file) = missing.filter(|file| !file.exists()) {
        return Err(config::missing(file, USAGE));
    }
    let spec = intent::of_command_line(options, options.words.clone())?;
    let names = vec![spec.name.clone()];
    // Before anything is made for what cannot be.
    check_program(&spec)?;
    start_new(&home, spec, options)?;
    Ok(names)
}

/// Starts what a command line says, if that is wanted now.
pub(crate) fn start_new(home: &Home, spec: Spec, options: &Run) -> Result<(), Failure> {
    if options.habits.no_autostart {
        return note(home, spec);
    }
    if options.habits.force && Lock::is_held(&home.app(&spec.name)) {
        manage::delete_one(home, &home.app(&spec.name), false)?;
    }
    let wait = options.detached.wait;
    show_started(&launch(home, spec, wait)?, wait)
}

/// It is to run when somebody says so.
fn note(home: &Home, mut spec: Spec) -> Result<(), Failure> {
    home.prepare()?;
    spec.stopped = true;
    home.want(&mut spec)?;
    let name = &spec.name;
    show::say(&format!("{name} is noted: `phalanx start {name}` starts it"));
    Ok(())
}

/// Applications that were stopped, if these words mean some, and no program.
fn known(home: &Home, options: &Run) -> Option<Vec<App>> {
    let words: Option<Vec<String>> = options
        .program
        .iter()
        .map(|word| word.to_str().filter(|word| !is_program(word)).map(str::to_owned))
        .collect();
    let words = words.filter(|words| !words.is_empty() && options.args.is_empty())?;
    targets::resolve(home, &words).ok()
}

/// Whether a word means something that can be started here. A directory may only be called as an application is.
fn is_program(word: &str) -> bool {
    let path = Path::new(word);
    path.is_file() || path.exists() && word.contains('/') || path.join("package.json").is_file()
}

fn start_known(home: &Home, apps: &[App], options: &Run) -> Result<Vec<String>, Failure> {
    let names: Vec<String> = apps.iter().map(|app| app.name.clone()).collect();
    if let Some(long) = config::more(&options.words, &BESIDE) {
        let names = names.join(", ");
        let message = format!("--{long} has no effect on {names}, started as before");
        return Err(Failure::tool(USAGE, message)
            .hint("`phalanx delete` it, and start its program with other options"));
    }
    let refresh =
        Refresh { update_env: options.habits.update_env, environment: options.file.env.as_deref() };
    let stopped: Vec<&App> = apps.iter().filter(|app| !Lock::is_held(app)).collect();
    if let (true, [app]) = (stopped.is_empty(), apps) {
        return Err(runs(app));
    }
    let specs = stopped.iter().map(|app| {
        let spec = app.intent().or_else(|| app.spec()).ok_or_else(|| manage::unknown(app))?;
        anew_or_as_it_was(&spec, refresh)
    });
    let specs = specs.collect::<Result<_, Failure>>()?;
    start_all(home, specs, options.detached.wait)?;
    Ok(names)
}

/// What it is to be now; if that cannot be found out, what it was, and that is said. Of many, none keeps the others waiting.
pub(crate) fn anew_or_at_least_as_it_was(spec: &Spec) -> Spec {
    anew_or_as_it_was(spec, Refresh::default()).unwrap_or_else(|failure| {
        let _ = failure.tell();
        show::say(&format!("{}: it is started as it was", spec.name));
        spec.clone()
    })
}

/// What it is to be now; if its configuration file is gone, what it was.
pub(crate) fn anew_or_as_it_was(spec: &Spec, refresh: Refresh<'_>) -> Result<Spec, Failure> {
    match &spec.config {
        Some(file) if !file.exists() => {
            let (name, file) = (&spec.name, file.display());
            show::say(&format!("{name}: {file} is gone: it is started as it was"));
            Ok(spec.clone())
        }
        _ => intent::anew(spec, refresh),
    }
}

/// Options that are about starting, and not about what is started.
const BESIDE: [&str; 5] = ["wait", "force", "update_env", "no_autostart", "attach"];

fn start_file(home: &Home, file: &Path, options: &Run) -> Result<Vec<String>, Failure> {
    config::beside(&options.words, &BESIDE)?;
    let absolute = intent::here()?.join(file);
    let specs = intent::of_file(&absolute, options.file.env.as_deref(), &options.file.only)?;
    let names = specs.iter().map(|spec| spec.name.clone()).collect();
    let mut to_start = Vec::new();
    for mut spec in specs {
        let app = home.app(&spec.name);
        let name = spec.name.clone();
        if spec.stopped && !Lock::is_held(&app) {
            home.prepare()?;
            home.want(&mut spec)?;
            show::say(&format!("{name} is not started by itself: `phalanx start {name}` does"));
        } else if !Lock::is_held(&app) {
            to_start.push(spec);
        } else if options.habits.force {
            check_program(&spec)?;
            manage::delete_one(home, &app, false)?;
            to_start.push(spec);
        } else {
            let differs = app.running_spec().map(|old| intent::changes(&old, &spec));
            let words = match differs.unwrap_or_default().as_slice() {
                [] => "as it is to be".to_owned(),
                changes => {
                    let env = options.file.env.as_ref();
                    let env = env.map(|env| format!(" --env {env}")).unwrap_or_default();
                    let file = file.display();
                    format!(
                        "and would change by `phalanx reload {file}{env}`: {}",
                        changes.join(", ")
                    )
                }
            };
            show::say(&format!("{name} runs already, {words}"));
        }
    }
    start_all(home, to_start, options.detached.wait)?;
    Ok(names)
}

/// That it can be started, as far as that can be known before; the directory of this process is another one then.
fn check_program(spec: &Spec) -> Result<(), Failure> {
    let failed = Failure::os(format!("change to the directory {}", spec.cwd));
    std::env::set_current_dir(&spec.cwd).map_err(failed)?;
    run::settings(&intent::options(&spec.argv)?).map(drop)
}

/// Starts all of them: those at the same time that need not wait for others.
pub(crate) fn start_all(home: &Home, specs: Vec<Spec>, wait: Duration) -> Result<(), Failure> {
    let mut left = specs;
    let mut failed: Vec<String> = Vec::new();
    let mut last = None;
    while !left.is_empty() {
        let names: Vec<String> = left.iter().map(|spec| spec.name.clone()).collect();
        let (mut now, later): (Vec<Spec>, Vec<Spec>) =
            left.into_iter().partition(|spec| !spec.after.iter().any(|name| names.contains(name)));
        left = later;
        if now.is_empty() {
            // They wait for each other, which a checked file does not have.
            now = std::mem::take(&mut left);
        }
        let (without, now): (Vec<Spec>, Vec<Spec>) =
            now.into_iter().partition(|spec| spec.after.iter().any(|name| failed.contains(name)));
        for spec in without {
            let missing: Vec<&str> = spec
                .after
                .iter()
                .filter(|name| failed.contains(name))
                .map(String::as_str)
                .collect();
            show::say(&format!(
                "{} is not started: {} did not come up",
                spec.name,
                missing.join(", ")
            ));
            failed.push(spec.name);
        }
        for (name, done) in at_once(home, now, wait) {
            match done.and_then(|started| show_started(&started, wait)) {
                Ok(()) => {}
                Err(failure) => {
                    let _ = failure.tell();
                    failed.push(name);
                    last = Some(failure);
                }
            }
        }
    }
    match last {
        None if failed.is_empty() => Ok(()),
        last => {
            let code = last.map_or(UNEXPECTED, |failure| failure.code());
            Err(Failure::tool(code, format!("not started: {}", failed.join(", "))))
        }
    }
}

/// More at a time only makes each of them slower.
const AT_ONCE: usize = 8;

fn at_once(
    home: &Home,
    specs: Vec<Spec>,
    wait: Duration,
) -> Vec<(String, Result<Started, Failure>)> {
    let mut all = Vec::new();
    let mut specs = specs.into_iter().peekable();
    while specs.peek().is_some() {
        let some: Vec<Spec> = specs.by_ref().take(AT_ONCE).collect();
        std::thread::scope(|scope| {
            let begun: Vec<_> = some
                .into_iter()
                .map(|spec| {
                    let name = spec.name.clone();
                    (name, scope.spawn(move || launch(home, spec, wait)))
                })
                .collect();
            for (name, thread) in begun {
                let done = thread.join().unwrap_or_else(|_| {
                    Err(Failure::tool(UNEXPECTED, format!("{name}: it went wrong")))
                });
                all.push((name, done));
            }
        });
    }
    all
}

/// An application that runs; what it told last, and whether all its workers serve.
pub(crate) struct Started {
    name: String,
    about: Option<Description>,
    settled: bool,
    /// It has ended by itself, and nothing was wrong.
    ended: bool,
}

/// Starts one, and waits until it serves. If it cannot, nothing has changed.
pub(crate) fn launch(home: &Home, mut spec: Spec, wait_for: Duration) -> Result<Started, Failure> {
    let name = spec.name.clone();
    let app = home.app(&name);
    app.check_path()?;
    home.prepare()?;
    let lock = Lock::take(&app, LOCK).map_err(|error| {
        // Of a directory that was made and has no room for a lock; only an empty one goes.
        let _ = fs::remove_dir(&app.directory);
        Failure::os(format!("make {}", app.directory.display()))(error)
    })?;
    let lock = lock.ok_or_else(|| runs(&app))?;
    clean(&app)?;
    let before = app.intent();
    let places = intent::options(&spec.argv)
        .map(|options| logs::places_of(&app, &spec, &options.logging))
        .unwrap_or_default();
    let (primary, workers) = (Mark::end(app.primary_log()), Mark::of_errors_in(&app, places));
    spec.stopped = false;
    // It is kept here, too, until all is well: of one that fails, nobody else finds half.
    let mut child = match want_and_begin(home, &app, &mut spec, &lock) {
        Ok(child) => child,
        Err(failure) => {
            let _ = undo(home, &app, before, lock);
            return Err(failure);
        }
    };
    let (about, settled) = match wait(&app, &mut child, wait_for)? {
        End::Settled(about) => (Some(about), true),
        End::Unsettled(about) => (about, false),
        End::Failed(status) if status.success() => {
            if app.intent().is_none_or(|intent| intent.stopped) {
                let message = format!("{name}: it was stopped before it was ready");
                return Err(Failure::tool(UNEXPECTED, message));
            }
            return Ok(Started { name, about: None, settled: true, ended: true });
        }
        End::Failed(status) => {
            let failure = failure(&name, status, &primary, &workers);
            undo(home, &app, before, lock)?;
            return Err(failure);
        }
    };
    Ok(Started { name, about, settled, ended: false })
}

/// Writes down what it is to be, and begins it.
fn want_and_begin(home: &Home, app: &App, spec: &mut Spec, lock: &Lock) -> Result<Child, Failure> {
    home.want(spec)?;
    app.write_spec(spec)?;
    begin(app, spec, lock)
}

fn show_started(started: &Started, wait: Duration) -> Result<(), Failure> {
    let Started { name, about, settled, ended } = started;
    if *ended {
        show::say(&format!("{name} has ended, with code 0"));
    }
    show::print(&about.as_ref().map(std::slice::from_ref).map(show::table).unwrap_or_default());
    if *settled || wait.is_zero() {
        return Ok(());
    }
    let wait = show::duration(wait);
    let what = about.as_ref().map_or_else(|| "it does not answer yet".into(), show::unsettled);
    if about.as_ref().is_some_and(|about| about.ports.is_empty()) {
        show::say("a program that never listens is ready when it is online: --ready online");
    }
    let message = format!("{name} is not ready after {wait}, and goes on: {what}");
    Err(Failure::tool(NOT_READY, message)
        .hint(format!("`phalanx describe {name}` tells more, `phalanx delete {name}` ends it")))
}

fn runs(app: &App) -> Failure {
    let name = &app.name;
    let primary = Register::read(app).and_then(|register| register.primary);
    let whose = match primary.filter(|primary| primary.is_alive()) {
        Some(primary) => format!("its primary is process {}", primary.pid),
        None => "it is just being started, or deleted".into(),
    };
    Failure::tool(RUNS, format!("an application called `{name}` runs already: {whose}")).hint(format!(
        "`phalanx reload {name}` loads its new code, `phalanx delete {name}` ends it, and --name starts another one"
    ))
}

/// What an earlier primary of this name left.
fn clean(app: &App) -> Result<(), Failure> {
    manage::end_and_tell(app);
    logs::cut(&app.primary_log());
    Ok(app.remove_stale()?)
}

/// The same program, as `run`, which reads what it is to be.
fn begin(app: &App, spec: &Spec, lock: &Lock) -> Result<Child, Failure> {
    let this = std::env::current_exe().map_err(Failure::os("find this program"))?;
    let log = app.primary_log();
    let failed = || Failure::os(format!("write {}", log.display()));
    let stdout = append(&log).map_err(failed())?;
    let stderr = stdout.try_clone().map_err(failed())?;
    let mut command = Command::new(&this);
    command.arg("run").arg("--app-dir").arg(&app.directory);
    command.env_clear().envs(&spec.env).env(MARK, &app.directory).current_dir(&spec.cwd);
    let lock = lock.share().map_err(Failure::os("share the lock"))?;
    command.stdin(lock).stdout(stdout).stderr(stderr);
    command.spawn().map_err(|error| match Path::new(&spec.cwd).is_dir() {
        true => Failure::os(format!("start {}", this.display()))(error),
        false => Failure::os(format!("start {} in {}", spec.name, spec.cwd))(error),
    })
}

enum End {
    Settled(Description),
    /// With what it told last.
    Unsettled(Option<Description>),
    Failed(ExitStatus),
}

fn wait(app: &App, child: &mut Child, patience: Duration) -> Result<End, Failure> {
    let deadline = Instant::now() + patience;
    let progress = Progress::new(&app.name);
    // What is drawn goes whenever this is over.
    let _shown = progress.shown();
    let mut last = None;
    loop {
        if let Some(status) = child.try_wait().map_err(Failure::os("wait for the primary"))? {
            return Ok(End::Failed(status));
        }
        match ask_within(app, &Word::Describe, ANSWER) {
            Ok(about) => {
                let about: Option<Description> = serde_json::from_value(about).ok();
                match about {
                    Some(about) if about.is_settled() => return Ok(End::Settled(about)),
                    about => last = about,
                }
                last.iter().for_each(|about| progress.status(about));
            }
            Err(Unanswered::Nobody | Unanswered::Silent(_) | Unanswered::Refused(_)) => {}
        }
        if Instant::now() >= deadline {
            return Ok(End::Unsettled(last));
        }
        std::thread::sleep(AGAIN.min(deadline.saturating_duration_since(Instant::now())));
    }
}

/// Waits until all workers of an application that runs are ready. What it told last.
pub(crate) fn settle(app: &App, patience: Duration) -> Option<Description> {
    let deadline = Instant::now() + patience;
    let progress = Progress::new(&app.name);
    let _following = progress.follow(app);
    loop {
        let about = ask_within(app, &Word::Describe, ANSWER).ok();
        let about: Option<Description> = about.and_then(|about| serde_json::from_value(about).ok());
        let settled = about.as_ref().is_none_or(Description::is_settled);
        if settled || Instant::now() >= deadline {
            return about;
        }
        std::thread::sleep(AGAIN);
    }
}

/// A place in a log.
pub(crate) struct Mark {
    log: PathBuf,
    at: u64,
}

impl Mark {
    /// Its end, as it is now.
    pub(crate) fn end(log: PathBuf) -> Self {
        let at = fs::metadata(&log).map_or(0, |about| about.len());
        Self { log, at }
    }

    /// Where workers say what is wrong, wherever that was chosen to be.
    pub(crate) fn of_errors(app: &App) -> Self {
        Self::of_errors_in(app, logs::places(app).0)
    }

    fn of_errors_in(app: &App, places: logs::Places) -> Self {
        Self::end(places.err.or(places.both).unwrap_or_else(|| app.err_log()))
    }

    /// What came since then; of much, the end.
    fn text(&self) -> String {
        self.read().unwrap_or_default()
    }

    fn read(&self) -> io::Result<String> {
        let mut file = File::open(&self.log)?;
        let size = file.metadata()?.len();
        // It may have been put aside meanwhile.
        let at = if self.at > size { 0 } else { self.at };
        file.seek(SeekFrom::Start(at.max(size.saturating_sub(LAST_BYTES)).min(size)))?;
        let mut bytes = Vec::new();
        file.take(LAST_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(crate) fn last_lines(&self) -> Vec<String> {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(LAST_LINES);
        lines.iter().skip(first).map(|line| (*line).to_owned()).collect()
    }
}

/// For the end of a message.
pub(crate) fn said_last(whose: &str, lines: &[String]) -> String {
    match lines {
        [] => String::new(),
        lines => format!("\n{whose}:\n  {}", lines.join("\n  ")),
    }
}

/// Why it failed: what its primary said of it last, and its workers, of whom some say why nowhere else.
fn failure(name: &str, status: ExitStatus, primary: &Mark, workers: &Mark) -> Failure {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    let log = primary.text();
    let begins = log.rfind("\nphalanx: ").map(|at| at + 1);
    let begins = begins.or_else(|| log.starts_with("phalanx: ").then_some(0));
    let said = begins.and_then(|at| log.get(at..)).unwrap_or_default();
    let (message, hint) = match said.trim_end().split_once("\nhint: ") {
        Some((message, hint)) => (message, Some(hint)),
        None => (said.trim_end(), None),
    };
    let mut message = match message.strip_prefix("phalanx: ") {
        Some(message) => message.to_owned(),
        None => {
            let said = said_last("its log ends with", &primary.last_lines());
            format!("{name}: its primary ended with {status}{said}")
        }
    };
    message.push_str(&said_last("its workers said last", &workers.last_lines()));
    let failure = Failure::tool(code.unwrap_or(UNEXPECTED), message);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Nothing of one that failed is left but what its workers said, and what was wanted before.
fn undo(home: &Home, app: &App, before: Option<Spec>, lock: Lock) -> Result<(), Failure> {
    if let Some(register) = Register::read(app) {
        let _ = register.end_leftovers(app);
    }
    let restored = match before {
        Some(mut before) => home.want(&mut before),
        None => home.forget(app),
    };
    let _ = app.remove(lock);
    Ok(restored?)
}
