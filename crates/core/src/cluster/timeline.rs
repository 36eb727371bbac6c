//! The life of clusters as texts: what happened and what followed, on a virtual clock.
//!
//! Each text is both the script and the expectation. Lines whose first word is a fact or a wish are
//! played, at the time that they name; everything is written down again with what the cluster did,
//! and the two texts must be the same. `0#1` is worker 1 in slot 0.
//!
//! | played | means |
//! |---|---|
//! | `online`, `ready`, `leaving`, `closed`, `broken` | what a worker says or does |
//! | `exit 0#1 SIGSEGV` | its process ended |
//! | `listens_and_exits` | both, before there was time to plan |
//! | `leaks`, `ages`, `ails`, `hangs` | it has too much memory; it is too old; it fails its health check; it gives no sign of life |
//! | `oom`, `cut` | before its end: the kernel killed it for want of memory; connections were in use |
//! | `terminated` | the shell sent it SIGTERM |
//! | `forked`, `unforkable`, `impossible` | the process could (not, never) be made; see [`by_hand`] |
//! | `old_is_gone` | the program that runs could not be started again |
//! | `scale 3`, `reload`, `restart`, `disconnect 0#1`, `manual`, `stop`, `stop now` | wishes |
//! | `pass` | nothing; time goes on until then |
//! | `look`, `weights` | writes down who is there; how much each gets |
//!
//! Everything else is what the cluster did or said.

mod ends;
mod guard;
mod lives;
mod pairs;
mod reload_odds;
mod reload_rules;
mod reloads;
mod restarts;
mod starts;
mod versions;

use super::{Action, Cluster, Event};
use crate::report::{Report, Then};
use crate::restart::Restart;
use crate::spec::{MAX_WORKERS, ReadyWhen, Spec};
use crate::time::Time;
use crate::worker::{EndKind, Exit, Leave, Phase, Worker, WorkerId};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use std::{assert, assert_eq, panic, vec};

/// Three seconds to start, one to finish, and crashes that wait 100, 200 and then 5000 ms.
fn rules(workers: usize) -> Spec {
    Spec {
        workers,
        ready: ReadyWhen::Listening,
        start_timeout: Some(Duration::from_secs(3)),
        grace: Some(Duration::from_secs(1)),
        restart: Restart {
            cap: Duration::from_secs(5),
            stable: Duration::from_secs(2),
            limit: 4,
            jitter: 0,
            within: Duration::ZERO,
            ..Restart::default()
        },
        kill_after: Duration::ZERO,
        ..Spec::default()
    }
}

fn restarts_off(workers: usize) -> Spec {
    let restart = Restart { enabled: false, ..Restart::default() };
    Spec { restart, ..rules(workers) }
}

/// Plays a text in a world in which every process can be made at once.
fn story(spec: Spec, text: &str) {
    play(spec, true, text);
}

/// Plays a text in which what reloads come to is told too.
fn story_with_receipts(spec: Spec, text: &str) {
    play_all(spec, true, true, text);
}

/// Plays a text that says itself what becomes of each fork.
fn by_hand(spec: Spec, text: &str) {
    play(spec, false, text);
}

fn play(spec: Spec, auto_fork: bool, text: &str) {
    play_all(spec, auto_fork, false, text);
}

fn play_all(spec: Spec, auto_fork: bool, receipts: bool, text: &str) {
    let expected: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut stage = Stage {
        cluster: Cluster::new(spec),
        auto_fork,
        receipts,
        now: 0,
        written: Vec::new(),
        dated: None,
    };
    stage.plan();
    for line in &expected {
        if let Some((at, words)) = line.strip_prefix("t=").and_then(|rest| rest.split_once(' ')) {
            let at = at.parse().expect("a time in ms");
            stage.perform(at, words.trim());
        }
    }
    let plain = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let want: Vec<String> = expected.iter().map(|line| plain(line)).collect();
    let got: Vec<String> = stage.written.iter().map(|line| plain(line)).collect();
    if want != got {
        let same = want.iter().zip(&got).take_while(|(a, b)| a == b).count();
        let tail = |lines: &[String]| lines.get(same..).unwrap_or_default().join("\n  ");
        panic!(
            "the story goes differently after line {same}\nexpected:\n  {}\nplayed:\n  {}\n\nthe whole of it:\n{}\n",
            tail(&want),
            tail(&got),
            stage.written.join("\n")
        );
    }
}

struct Stage {
    cluster: Cluster,
    auto_fork: bool,
    /// What reloads come to is written.
    receipts: bool,
    now: u64,
    written: Vec<String>,
    /// The last time that was written; lines of the same plan do not repeat it.
    dated: Option<u64>,
}

impl Stage {
    fn time(&self) -> Time {
        Time::from_millis(self.now)
    }

    fn write(&mut self, words: &str) {
        let date = if self.dated == Some(self.now) {
            String::new()
        } else {
            self.dated = Some(self.now);
            format!("t={}", self.now)
        };
        self.written.push(format!("{date:<9}{words}"));
    }

    /// Lets time go on, with every wake on the way.
    fn pass_until(&mut self, at: u64) {
        while let Some(wake) = self.cluster.wake().filter(|wake| *wake <= Time::from_millis(at)) {
            let wake = u64::try_from(wake.since_start().as_millis()).expect("a short story");
            assert!(wake > self.now, "woken at {wake}, at once");
            self.now = wake;
            self.dated = None;
            self.plan();
        }
        self.now = at;
    }

    fn perform(&mut self, at: u64, words: &str) {
        let (verb, rest) = words.split_once(' ').unwrap_or((words, ""));
        let event: fn(WorkerId) -> Event = match verb {
            "online" => |worker| Event::Online { worker },
            "ready" => |worker| Event::Listening { worker },
            "leaving" => |worker| Event::Leaving { worker },
            "closed" => |worker| Event::ChannelClosed { worker },
            "forked" => |worker| Event::Forked { worker, pid: 100 + worker.0 },
            "disconnect" => |worker| Event::Disconnect { worker },
            "broken" => |worker| Event::Broken { worker, why: "not JSON".into() },
            "leaks" => |worker| Event::Replace { worker, why: Leave::Memory },
            "ages" => |worker| Event::Replace { worker, why: Leave::Age },
            "ails" => |worker| Event::Replace { worker, why: Leave::Unhealthy },
            "cut" => |worker| Event::Cut { worker, connections: 2 },
            "oom" => |worker| Event::OutOfMemory { worker, certain: false },
            "hangs" => |worker| Event::Lost { worker, why: Leave::Hung },
            "terminated" => |worker| Event::Terminated { worker },
            "unforkable" | "impossible" | "exit" | "listens_and_exits" | "scale" | "reload"
            | "manual" | "stop" | "pass" | "look" | "weights" | "restart" | "old_is_gone" => {
                |_| Event::Reload
            }
            // What the cluster did at a time of its own: written, not played.
            _ => return,
        };
        self.pass_until(at);
        self.dated = None;
        self.write(words);
        let (who, how) = rest.split_once(' ').unwrap_or((rest, ""));
        let events = match verb {
            "scale" => vec![Event::Scale { workers: rest.parse().expect("a number") }],
            "reload" => vec![Event::Reload],
            "restart" => vec![Event::Restart],
            "old_is_gone" => vec![Event::CanGoBack(false)],
            "weights" => return self.weights(),
            "stop" if rest == "now" => vec![Event::StopNow],
            "stop" => vec![Event::Stop],
            "pass" => Vec::new(),
            "look" => return self.look(),
            "manual" => {
                assert!(self.cluster.fork().is_some() || self.cluster.is_stopping(), "no room");
                Vec::new()
            }
            "listens_and_exits" => {
                let worker = id(who);
                vec![Event::Listening { worker }, Event::Exited { worker, exit: exit(how) }]
            }
            "exit" => vec![Event::Exited { worker: id(who), exit: exit(how) }],
            "unforkable" | "impossible" => vec![Event::ForkFailed {
                worker: id(who),
                why: how.into(),
                permanent: verb == "impossible",
            }],
            _ => rest.split(", ").map(|who| event(id(who))).collect(),
        };
        for event in events {
            self.cluster.observe(self.time(), event);
        }
        self.plan();
    }

    /// Plans, writes the plan down, and makes the processes if the story leaves that to us.
    fn plan(&mut self) {
        let actions = self.cluster.plan(self.time());
        assert_eq!(self.cluster.plan(self.time()), [], "planned twice at {}", self.now);
        let mut actions = actions.into_iter().peekable();
        while let Some(action) = actions.next() {
            let mut words = self.words(&action);
            // Neighbours that are told the same share a line.
            while let Some(next) =
                actions.next_if(|next| verb(next).is_some_and(|v| Some(v) == verb(&action)))
            {
                let next = self.words(&next);
                words = format!("{words}, {}", next.split_once(' ').map_or("", |(_, who)| who));
            }
            if !words.is_empty() {
                self.write(&words);
            }
        }
        let forking: Vec<WorkerId> = self
            .cluster
            .workers()
            .filter(|w| self.auto_fork && w.pid.is_none())
            .map(|w| w.id)
            .collect();
        if !forking.is_empty() {
            for worker in forking {
                self.cluster.observe(self.time(), Event::Forked { worker, pid: 100 + worker.0 });
            }
            self.plan();
        }
    }

    fn name(&self, id: WorkerId) -> String {
        self.cluster.worker(id).map_or_else(|| format!("?#{id}"), name)
    }

    fn words(&self, action: &Action) -> String {
        match action {
            Action::Fork { worker, .. } => format!("fork {}", self.name(*worker)),
            Action::Disconnect { worker } => format!("tell {}", self.name(*worker)),
            Action::Terminate { worker } => format!("end {}", self.name(*worker)),
            Action::Kill { worker } => format!("kill {}", self.name(*worker)),
            Action::Report(Report::Receipt(_)) if !self.receipts => String::new(),
            Action::Report(report) => say(report),
        }
    }

    fn weights(&mut self) {
        let of = |w: &Worker| format!("{} {}", name(w), self.cluster.weight(w.id, self.time()));
        let weights: Vec<String> =
            self.cluster.workers().filter(|w| w.is_ready()).map(of).collect();
        self.write(&format!("= {}", weights.join(", ")));
    }

    fn look(&mut self) {
        let cluster = &self.cluster;
        let mut who: Vec<String> =
            cluster.workers().map(|w| format!("{} {}", name(w), phase(w))).collect();
        for (slot, until, crashes) in cluster.waiting() {
            let until = until.since_start().as_millis();
            who.push(format!("slot {slot} waits until {until} ({crashes} crashes)"));
        }
        if who.is_empty() {
            who.push("nobody".into());
        }
        let settled = if cluster.is_settled() { "settled" } else { "not settled" };
        let words = format!("= {}; {} wanted, {settled}", who.join(", "), cluster.wanted());
        self.write(&words);
    }
}

fn name(worker: &Worker) -> String {
    let mark = if worker.guarded { "" } else { "*" };
    format!("{}#{}{mark}", worker.slot, worker.id)
}

fn phase(worker: &Worker) -> String {
    match worker.phase {
        Phase::Forking => "forking".into(),
        Phase::Starting { online: false, .. } => "starting".into(),
        Phase::Starting { online: true, .. } => "online".into(),
        Phase::Ready { .. } => "ready".into(),
        Phase::Draining { why, deadline: None, .. } => format!("leaves ({why})"),
        Phase::Draining { why, deadline: Some(at), .. } => {
            format!("leaves until {} ({why})", at.since_start().as_millis())
        }
        Phase::Killed { why, .. } => format!("killed ({why})"),
    }
}

fn verb(action: &Action) -> Option<&'static str> {
    match action {
        Action::Fork { .. } => Some("fork"),
        Action::Disconnect { .. } => Some("tell"),
        Action::Terminate { .. } => Some("end"),
        Action::Kill { .. } => Some("kill"),
        Action::Report(_) => None,
    }
}

fn say(report: &Report) -> String {
    match report {
        Report::Ended { slot, worker, kind: EndKind::OutOfMemory { .. }, .. } => {
            format!("OUT OF MEMORY {slot}#{worker}")
        }
        // The line that was played says it all.
        Report::Ended { asked: None, .. } | Report::NotStarted { .. } | Report::Broken { .. } => {
            String::new()
        }
        Report::Ended { worker, slot, asked: Some(why), .. } => {
            format!("gone {slot}#{worker} ({why})")
        }
        Report::Waiting { slot, wait, crashes } => {
            format!("slot {slot} waits {wait:?}, {crashes} crashes")
        }
        Report::CrashLoop { slot, crashes, every, within } => {
            let within = within.map(|time| format!(" within {time:?}")).unwrap_or_default();
            format!("CRASH LOOP in slot {slot}, {crashes} crashes{within}, again every {every:?}")
        }
        Report::SlotEnded { worker, slot, left, .. } => {
            format!("ended: slot {slot} by worker {worker}, {left} left")
        }
        Report::CanaryBegun { slots, time, .. } => format!("canary in {slots} for {time:?}"),
        Report::CanaryPassed { time, .. } => format!("canary passed after {time:?}"),
        Report::RollbackBegun { generation, version, workers } => {
            format!("back: reload {generation} to version {version} of {workers}")
        }
        Report::RolledBack { generation, replaced, took } => {
            format!("ROLLED BACK: reload {generation}, {replaced} replaced in {took:?}")
        }
        Report::Receipt(receipt) => format!("receipt: {receipt}"),
        Report::RestartBegun { workers, .. } => format!("restart of {workers}"),
        Report::Restarted { took, .. } => format!("restarted in {took:?}"),
        Report::StartTimeout { worker, slot, after } => {
            format!("{slot}#{worker} not ready after {after:?}")
        }
        Report::GraceOver { worker, slot, after } => {
            format!("{slot}#{worker} still there after {after:?}")
        }
        Report::Replacing { worker, slot, why } => format!("replace {slot}#{worker} ({why})"),
        Report::Lost { worker, slot, why } => format!("LOST {slot}#{worker} ({why})"),
        Report::Overdue { worker, slot, after } => format!("overdue {slot}#{worker} {after:?}"),
        Report::Cut { connections, .. } => format!("{connections} cut"),
        Report::ReloadBegun { generation, workers } => {
            format!("begins: reload {generation} of {workers}")
        }
        Report::ReloadDone { generation, replaced, took } => {
            format!("done: reload {generation}, {replaced} replaced in {took:?}")
        }
        Report::ReloadFailed { generation, slot, why, replaced, kept, then } => {
            let then = match then {
                Then::Stays => "",
                Then::GoesBack => ", goes back",
                Then::NothingToGoBackTo => ", NOTHING to go back to",
            };
            format!(
                "FAILED: reload {generation} in slot {slot}: {why}; {replaced} replaced, {kept} kept{then}"
            )
        }
        Report::Refused { what, why } => format!("refused: {what}, {why}"),
        Report::NeverReady { why } => format!("NEVER READY: {why}"),
        Report::Stopped => "STOPPED".into(),
        // Not the core's own.
        Report::OverLimit { .. } | Report::Scaled { .. } => report.to_string(),
    }
}

/// The worker of `0#1`.
fn id(who: &str) -> WorkerId {
    let number = who.trim_end_matches('*').split_once('#').map(|(_, number)| number.parse());
    match number {
        Some(Ok(number)) => WorkerId(number),
        _ => panic!("no worker: {who}"),
    }
}

fn exit(how: &str) -> Exit {
    match how.strip_prefix("code ") {
        Some(code) => Exit::Code(code.parse().expect("an exit code")),
        None => (1..32)
            .map(Exit::Signal)
            .find(|signal| signal.to_string() == how)
            .unwrap_or_else(|| panic!("no way to end: {how}")),
    }
}
