//! The process of the systemd unit: it has all applications started, says when they serve, watches that their primaries
//! answer, and stops them when it is told to end. The applications do not need it: each has its own primary.

use super::notify::Systemd;
use crate::args::{Arguments, Command};
use crate::control::{Description, Unanswered, Word, ask_within};
use crate::failure::{Failure, UNEXPECTED};
use crate::home::{App, Home, Lock};
use crate::list::descriptions;
use crate::ui::words::{Status, count, status};
use crate::{manage, show};
use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};

/// How often it is looked what there is, at the most seldom.
const LOOK: Duration = Duration::from_secs(5);
/// While something begins or ends.
const SOON: Duration = Duration::from_millis(200);
/// systemd waits no longer for applications that do not become ready; they go on.
const READY: Duration = Duration::from_secs(180);
/// For the answer to the word to stop.
const ANSWER: Duration = Duration::from_secs(5);
/// One that has not answered for so long, and does not end, hangs.
const HUNG: Duration = Duration::from_secs(10);
/// How often it is looked for applications that began while the others ended.
const ROUNDS: usize = 3;
/// What systemd is asked for again and again while workers finish.
const MORE_TIME: &str = "EXTEND_TIMEOUT_USEC=15000000";

/// Starts what is to run, and stays until SIGTERM or SIGINT. `start`: starts what does not run, and may wait for it.
pub(crate) fn stay(
    start: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<(), Failure> {
    // Nothing is begun that could not be found again.
    Home::find()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::os("begin to stay"))?;
    let ended = runtime.block_on(async {
        let mut keeper = Supervisor::new().map_err(Failure::os("hear signals"))?;
        keeper.run(start).await
    });
    // A thread may still wait for somebody who does not answer.
    runtime.shutdown_background();
    ended
}

struct Supervisor {
    systemd: Systemd,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// What was said last.
    said: String,
}

impl Supervisor {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            systemd: Systemd::find(),
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            said: String::new(),
        })
    }

    async fn run(
        &mut self,
        start: impl FnOnce() -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        self.systemd.status("starting what is to run", &[]);
        let mut task = Some(Task { what: What::Start, handle: spawn_blocking(start) });
        let begun = Instant::now();
        let mut ready = false;
        // Asked to reload while something else was done.
        let mut again = false;
        loop {
            let pause = if ready { self.pause() } else { SOON };
            let done = async {
                match &mut task {
                    Some(task) => (&mut task.handle).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = told(&mut self.terminate, &mut self.interrupt) => break,
                _ = self.hangup.recv() => again = true,
                done = done => {
                    let what = task.take().map_or(What::Start, |task| task.what);
                    self.over(what, done.unwrap_or_else(|error| {
                        Err(Failure::tool(UNEXPECTED, format!("it went wrong: {error}")))
                    }));
                }
                () = tokio::time::sleep(pause) => {}
            }
            if again && ready && task.is_none() {
                again = false;
                task = Some(self.reload());
            }
            let health = Health::of(&look().await);
            let starting = task.as_ref().is_some_and(|task| task.what == What::Start);
            if !ready && !starting && (health.settled || begun.elapsed() >= READY) {
                ready = true;
                self.systemd.status(&health.words, &["READY=1"]);
                show::say(&format!("ready: {}", health.words));
                self.said = health.words.clone();
            }
            self.pet(&health, ready);
        }
        self.stop().await
    }

    /// Between two looks: systemd wants to hear something in time.
    fn pause(&self) -> Duration {
        let third = self.systemd.watchdog.map(|every| every / 3);
        third.unwrap_or(LOOK).clamp(Duration::from_millis(10), LOOK)
    }

    /// As long as every primary answers, systemd may know that all is well.
    fn pet(&mut self, health: &Health, ready: bool) {
        if ready && self.said != health.words {
            self.said.clone_from(&health.words);
            self.systemd.status(&health.words, &[]);
            if !health.silent.is_empty() {
                show::say(&health.words);
            }
        }
        if self.systemd.watchdog.is_some() && health.silent.is_empty() {
            self.systemd.say(&["WATCHDOG=1"]);
        }
    }

    fn reload(&self) -> Task {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        let since = format!("MONOTONIC_USEC={micros}");
        self.systemd.status("reloading all applications", &["RELOADING=1", &since]);
        show::say("SIGHUP: all applications are reloaded");
        Task { what: What::Reload, handle: spawn_blocking(reload_all) }
    }

    fn over(&mut self, what: What, done: Result<(), Failure>) {
        if let Err(failure) = done {
            let _ = failure.tell();
        }
        if what == What::Reload {
            self.systemd.say(&["READY=1"]);
            // What there is now is told anew.
            self.said.clear();
        }
    }

    /// Tells all applications to stop, and waits until they have; told once more, at once.
    async fn stop(&mut self) -> Result<(), Failure> {
        self.systemd.status("stopping all applications", &["STOPPING=1"]);
        show::say("stopping all applications");
        let mut left = Vec::new();
        // One may have begun meanwhile.
        for _ in 0..ROUNDS {
            let apps: Vec<App> =
                running()?.into_iter().filter(|app| !left.contains(&app.name)).collect();
            if apps.is_empty() {
                break;
            }
            left.append(&mut self.stop_these(&apps).await);
        }
        match left.is_empty() {
            true => Ok(()),
            false => {
                let message = format!("left behind, as it does not answer: {}", left.join(", "));
                Err(Failure::tool(UNEXPECTED, message).hint("`phalanx delete NAME` kills it"))
            }
        }
    }

    /// Those that are left behind.
    async fn stop_these(&mut self, apps: &[App]) -> Vec<String> {
        let mut stops: Vec<JoinHandle<Option<String>>> =
            apps.iter().cloned().map(|app| spawn_blocking(move || end(&app))).collect();
        let mut left = Vec::new();
        while let Some(stop) = stops.last_mut() {
            tokio::select! {
                () = told(&mut self.terminate, &mut self.interrupt) => {
                    show::say("told once more: workers are killed");
                    for app in apps {
                        let app = app.clone();
                        spawn_blocking(move || ask_within(&app, &Word::Stop { now: true }, ANSWER));
                    }
                }
                done = stop => {
                    left.extend(done.unwrap_or_default());
                    stops.pop();
                }
                () = tokio::time::sleep(ANSWER) => self.systemd.say(&[MORE_TIME]),
            }
        }
        left
    }
}

/// Something that takes its time.
struct Task {
    what: What,
    handle: JoinHandle<Result<(), Failure>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Start,
    Reload,
}

async fn told(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// As somebody who types `phalanx reload`, and the names of all.
fn reload_all() -> Result<(), Failure> {
    let apps = running()?;
    if apps.is_empty() {
        return Ok(());
    }
    let words = ["phalanx", "reload"].into_iter().chain(apps.iter().map(|app| app.name.as_str()));
    match Arguments::try_parse_from(words) {
        Ok(Arguments { command: Command::Reload(options), .. }) => manage::reload(&options),
        other => Err(Failure::tool(UNEXPECTED, format!("this is no reload: {other:?}"))),
    }
}

/// What runs in the background. Those in somebody's foreground are that one's.
fn running() -> Result<Vec<App>, Failure> {
    let home = Home::find()?;
    let apps = home.names()?.into_iter().map(|name| home.app(&name));
    let ours = |app: &App| Lock::is_held(app) && app.spec().is_none_or(|spec| !spec.foreground);
    Ok(apps.filter(ours).collect())
}

/// Stops an application, and waits until it has ended, for as long as it answers. Its name if it is left behind. What is
/// to run stays as it is: this is no `phalanx stop`.
fn end(app: &App) -> Option<String> {
    let mut answered = Instant::now();
    let mut told = false;
    while Lock::is_held(app) {
        let word = if told { Word::Describe } else { Word::Stop { now: false } };
        match ask_within(app, &word, ANSWER) {
            Ok(_) => (told, answered) = (true, Instant::now()),
            // One that is busy is there.
            Err(Unanswered::Refused(_)) => answered = Instant::now(),
            Err(_) if answered.elapsed() >= HUNG => return Some(app.name.clone()),
            Err(_) => {}
        }
        std::thread::sleep(SOON);
    }
    None
}

async fn look() -> Vec<Description> {
    let looked = spawn_blocking(|| descriptions(&Home::find()?));
    let mut all = looked.await.ok().and_then(Result::ok).unwrap_or_default();
    all.retain(|app| !app.foreground);
    all
}

/// How all applications do.
#[derive(Debug, PartialEq)]
struct Health {
    /// None is just beginning.
    settled: bool,
    /// Those whose primaries do not answer.
    silent: Vec<String>,
    /// In a line.
    words: String,
}

impl Health {
    fn of(apps: &[Description]) -> Self {
        let with = |wanted: &[Status]| -> Vec<&Description> {
            apps.iter().filter(|app| wanted.contains(&status(app))).collect()
        };
        let online = with(&[Status::Online, Status::Reloading]).len();
        let silent: Vec<String> =
            with(&[Status::NotAnswering]).iter().map(|app| app.name.clone()).collect();
        let mut words = count(online, "application serves", "applications serve");
        let others = apps.iter().map(|app| (status(app), &app.name));
        for (state, name) in others {
            if !matches!(
                state,
                Status::Online | Status::Reloading | Status::Ended | Status::Stopped
            ) {
                words.push_str(&format!("; {name}: {}", state.word()));
            }
        }
        // A crash loop will not be over soon.
        let settled = with(&[Status::Starting, Status::Waiting]).is_empty();
        Self { settled, silent, words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn app(name: &str, state: &str, ready: usize) -> Description {
        let json = json!({ "name": name, "state": state, "wanted": 2, "ready": ready });
        serde_json::from_value(json).expect("a description")
    }

    #[test]
    fn how_all_do() {
        for (apps, settled, silent, words) in [
            (vec![], true, &[][..], "0 applications serve"),
            (vec![app("a", "running", 2)], true, &[], "1 application serves"),
            (
                vec![app("a", "running", 2), app("b", "running", 1), app("c", "stopped", 0)],
                false,
                &[],
                "1 application serves; b: starting",
            ),
            (
                vec![app("a", "not answering", 0), app("b", "running", 2)],
                true,
                &["a"],
                "1 application serves; a: not answering",
            ),
        ] {
            let silent = silent.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(Health::of(&apps), Health { settled, silent, words: words.into() });
        }
    }
}
