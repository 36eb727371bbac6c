//! `phalanx start`: a primary of its own in the background, and the wait until it serves.

use crate::args::Run;
use crate::control::{Description, Unanswered, Word, ask_within};
use crate::failure::{Failure, RUNS, UNEXPECTED, USAGE};
use crate::home::{App, Home, Lock, append, check_name, name_of};
use crate::processes::{MARK, Register};
use crate::{run, show};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
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

pub(crate) fn start(options: &Run) -> Result<(), Failure> {
    if options.detached.app_dir.is_some() {
        return Err(Failure::tool(USAGE, "--app-dir is what `start` tells a primary"));
    }
    let name = name(options)?;
    run::settings(options)?;
    let home = Home::find()?;
    let app = home.app(&name);
    app.check_path()?;
    home.prepare()?;
    let failed = || Failure::os(format!("make {}", app.directory.display()));
    let lock = Lock::take(&app, LOCK).map_err(failed())?.ok_or_else(|| runs(&app))?;
    clean(&app)?;
    let (primary, workers) = (Mark::end(app.primary_log()), Mark::end(app.err_log()));
    let mut child = begin(&app, options, lock)?;
    match wait(&app, &mut child, options.detached.wait)? {
        End::Settled(about) => show::print(&show::table(&[about])),
        End::Unsettled(about) => {
            let wait = show::duration(options.detached.wait);
            let what =
                about.as_ref().map_or_else(|| "it does not answer yet".into(), show::unsettled);
            show::say(&format!("{name} is not ready after {wait}, and goes on: {what}"));
            show::say(&format!(
                "`phalanx describe {name}` tells more, `phalanx delete {name}` ends it"
            ));
            show::print(&about.map(|about| show::table(&[about])).unwrap_or_default());
        }
        End::Failed(status) => {
            let words = last_words(&primary, &workers);
            forget(&app);
            return Err(failure(&name, status, &words));
        }
    }
    Ok(())
}

fn name(options: &Run) -> Result<String, Failure> {
    let name = match &options.name {
        Some(name) => name.clone(),
        None => name_of(&run::called(options)),
    };
    check_name(&name).map_err(|why| {
        let message = format!("`{}` cannot be an application's name: {why}", name.escape_debug());
        Failure::tool(USAGE, message).hint("give it one: --name NAME")
    })?;
    Ok(name)
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
    if let Some(register) = Register::read(app) {
        for words in register.end_leftovers(app) {
            show::say(&format!("{}: {words}", app.name));
        }
    }
    for file in [app.socket(), app.register()] {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::os(format!("remove {}", file.display()))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The same program, as `run`, with the same options.
fn begin(app: &App, options: &Run, lock: Lock) -> Result<Child, Failure> {
    let given: Vec<OsString> = std::env::args_os().skip(2).collect();
    app.write_spec(given.iter().map(|word| word.to_string_lossy().into_owned()).collect())?;
    let this = std::env::current_exe().map_err(Failure::os("find this program"))?;
    let log = app.primary_log();
    let failed = || Failure::os(format!("write {}", log.display()));
    let stdout = append(&log).map_err(failed())?;
    let stderr = stdout.try_clone().map_err(failed())?;
    let mut command = Command::new(&this);
    command.arg("run").arg("--app-dir").arg(&app.directory);
    if options.name.is_none() {
        command.arg("--name").arg(&app.name);
    }
    command.env(MARK, &app.directory);
    command.args(given).stdin(lock.pass()).stdout(stdout).stderr(stderr);
    command.spawn().map_err(Failure::os(format!("start {}", this.display())))
}

enum End {
    Settled(Description),
    /// With what it told last.
    Unsettled(Option<Description>),
    Failed(ExitStatus),
}

fn wait(app: &App, child: &mut Child, patience: Duration) -> Result<End, Failure> {
    let deadline = Instant::now() + patience;
    let mut last = None;
    loop {
        if let Some(status) = child.try_wait().map_err(Failure::os("wait for the primary"))? {
            return Ok(End::Failed(status));
        }
        match ask_within(app, Word::Describe, ANSWER) {
            Ok(about) => {
                let about: Option<Description> = serde_json::from_value(about).ok();
                match about {
                    Some(about) if about.is_settled() => return Ok(End::Settled(about)),
                    about => last = about,
                }
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
    loop {
        let about = ask_within(app, Word::Describe, ANSWER).ok();
        let about: Option<Description> = about.and_then(|about| serde_json::from_value(about).ok());
        let settled = about.as_ref().is_none_or(Description::is_settled);
        if settled || Instant::now() >= deadline {
            return about;
        }
        std::thread::sleep(AGAIN);
    }
}

/// What was said since the start: by the primary of its end, and by its workers.
fn last_words(primary: &Mark, workers: &Mark) -> (String, Vec<String>) {
    let said = primary.text();
    // Its failure is the last that it says.
    let begins = said.rfind("\nphalanx: ").map(|at| at + 1);
    let begins = begins.or_else(|| said.starts_with("phalanx: ").then_some(0));
    let said = begins.and_then(|at| said.get(at..)).unwrap_or_default().to_owned();
    // A program that ends while it starts may say why nowhere else.
    (said, workers.last_lines())
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

    /// What came since then; of much, the end.
    fn text(&self) -> String {
        self.read().unwrap_or_default()
    }

    fn read(&self) -> io::Result<String> {
        let mut file = File::open(&self.log)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(self.at.max(size.saturating_sub(LAST_BYTES)).min(size)))?;
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
pub(crate) fn said_last(lines: &[String]) -> String {
    match lines {
        [] => String::new(),
        lines => format!("\nits workers said last:\n  {}", lines.join("\n  ")),
    }
}

fn failure(name: &str, status: ExitStatus, (said, lines): &(String, Vec<String>)) -> Failure {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    let (message, hint) = match said.trim_end().split_once("\nhint: ") {
        Some((message, hint)) => (message, Some(hint)),
        None => (said.trim_end(), None),
    };
    let mut message = match message.strip_prefix("phalanx: ") {
        Some(message) => message.to_owned(),
        None if code == Some(0) => format!("{name}: it was stopped before it was ready"),
        None => format!("{name}: its primary ended with {status}"),
    };
    message.push_str(&said_last(lines));
    let failure = Failure::tool(code.filter(|code| *code != 0).unwrap_or(UNEXPECTED), message);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Nothing of one that failed is left but what its workers said. Somebody else may have started it again meanwhile.
fn forget(app: &App) {
    if let Ok(Some(lock)) = Lock::take(app, LOCK) {
        if let Some(register) = Register::read(app) {
            let _ = register.end_leftovers(app);
        }
        let _ = app.remove(lock);
    }
}
