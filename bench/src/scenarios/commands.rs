//! The commands beside pm2's: how long each takes, and what the managers of ten applications weigh.

use super::Context;
use crate::peers::{Job, PATIENCE, Tool, Which, run as load};
use crate::report::stats::median;
use crate::report::{Better, Bound, Section};
use bench::load::Load;
use bench::spawned::Guarded;
use bench::{process, wait};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

const VERSION: &str = "--version";
const LIST: &str = "list";
const JSON: &str = "list as JSON";
const DESCRIBE: &str = "describe one";
const FILE: &str = "start all 20";
const START: &str = "start -i 4";
const ANSWERED: &str = "all have answered";
const RELOAD: &str = "reload";
const STOP: &str = "stop";
const PSS: &str = "PSS";
const PRIVATE: &str = "private";
const PROCESSES: &str = "processes";
/// Applications in a list, and those whose managers are weighed.
const LISTED: usize = 20;
const WEIGHED: usize = 10;
const WORKERS: usize = 4;
/// How often a command that changes nothing is run in each round: the sample is the median.
const TIMES: usize = 5;

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    let mut sections = [looking(), changing(), memory()];
    let mut tools = Vec::new();
    for which in [Which::Phalanx, Which::Pm2] {
        match which.needs() {
            Ok(()) => tools.push(which),
            Err(why) => sections
                .iter_mut()
                .for_each(|section| section.note(format!("{} is left out: {why}", which.name()))),
        }
    }
    let [looking, changing, memory] = &mut sections;
    for round in 0..context.full_or(7, 3) {
        context.say(&format!("round {}", round + 1));
        for which in &tools {
            look(context, *which, looking)?;
            change(context, *which, changing)?;
            weigh(context, *which, memory)?;
        }
    }
    goals(&mut sections);
    Ok(sections.into())
}

fn looking() -> Section {
    let section = Section::new(
        "commands",
        "Commands that look, with 20 applications",
        "From the command's start to its end, its output in a file; nothing else is asked meanwhile. The applications are one `sleep` \
         each (fork mode, no Node worker: 20 of those are nearly a gigabyte), of one `ecosystem.json` for both, which \
         declares them ready when they run: for pm2 that is at \
         once, for phalanx after a second, and it starts eight at a time. `--version` is what it costs to start the program at \
         all. The tools take turns; a sample is the median of 5 runs, but for the start of all.",
    );
    [LIST, JSON, DESCRIBE, VERSION, FILE]
        .into_iter()
        .fold(section, |section, name| section.column(name, "ms", Better::Less))
}

fn changing() -> Section {
    let section = Section::new(
        "commands-four",
        "Commands that change, 4 Node workers",
        "From the command's start to its end: `start` of `bench/node/server.js` where nothing runs yet (pm2: no daemon), \
         which pm2 ends when the workers are processes, phalanx when they listen; so also until each of the four has \
         answered, asked from the command's end on. Then `reload` and `stop`, without load.",
    );
    [START, ANSWERED, RELOAD, STOP]
        .into_iter()
        .fold(section, |section, name| section.column(name, "ms", Better::Less))
}

fn memory() -> Section {
    Section::new(
        "commands-memory",
        "Memory of the managers of 10 applications",
        "All that stands above the workers of 10 applications (one `sleep` each) when `start` has ended: phalanx's \
         primaries and their keepers, pm2's daemon. One more Node process runs beside, because the daemon shares the pages of \
         Node itself with the workers that pm2 is there for. PSS counts a page that n processes share as an n-th, private is \
         what no other process has; in kB of 1,000 bytes, of /proc/PID/smaps_rollup.",
    )
    .column(PSS, "kB", Better::Less)
    .column(PRIVATE, "kB", Better::Less)
    .column(PROCESSES, "", Better::Less)
}

fn goals(sections: &mut [Section; 3]) {
    let [looking, changing, memory] = sections;
    let (ours, theirs) = (Which::Phalanx.name(), Which::Pm2.name());
    looking.goal(LIST, ours, Bound::AtMost(20.0));
    looking.goal(JSON, ours, Bound::AtMost(20.0));
    for column in [LIST, JSON, DESCRIBE] {
        looking.goal_ratio(column, ours, theirs, Bound::AtMost(1.0));
    }
    for column in [START, ANSWERED, RELOAD, STOP] {
        changing.goal_ratio(column, ours, theirs, Bound::AtMost(1.0));
    }
    memory.goal_ratio(PSS, ours, theirs, Bound::AtMost(1.0));
}

/// Twenty applications, looked at.
fn look(context: &Context, which: Which, section: &mut Section) -> Result<(), String> {
    let tool = Tool::new(which, &context.programs)?;
    let row = which.name();
    section.add(row, FILE, millis(start_all(&tool, LISTED)?));
    let as_json: &[&str] = match which {
        Which::Phalanx => &["list", "--json"],
        Which::Pm2 => &["jlist"],
    };
    let commands: [(&str, &[&str]); 4] = [
        (LIST, &["list"]),
        (JSON, as_json),
        (DESCRIBE, &["describe", "app-7"]),
        (VERSION, &["--version"]),
    ];
    let mut samples = [const { Vec::new() }; 4];
    let mut typed = Vec::new();
    for _ in 0..TIMES {
        for ((_, args), samples) in commands.iter().zip(&mut samples) {
            let done = tool.run(args, &[])?;
            check(&done.said, args)?;
            samples.push(millis(done.took));
            typed.push(done.command);
        }
    }
    for ((column, _), samples) in commands.iter().zip(&samples) {
        section.add(row, column, median(samples).unwrap_or_default());
    }
    typed.truncate(commands.len());
    section.command(row, &typed.join("; "));
    Ok(())
}

/// A list that does not have them all would be no measure.
fn check(said: &str, args: &[&str]) -> Result<(), String> {
    let lists = args.iter().any(|arg| matches!(*arg, "list" | "jlist"));
    let missing = (0..LISTED).map(name).find(|name| !said.contains(name));
    match missing.filter(|_| lists) {
        Some(name) => Err(format!("{}: {name} is not in it:\n{said}", args.join(" "))),
        None => Ok(()),
    }
}

/// Four workers, from nothing to nothing.
fn change(context: &Context, which: Which, section: &mut Section) -> Result<(), String> {
    let tool = Tool::new(which, &context.programs)?;
    let row = which.name();
    let address = SocketAddr::from(([127, 0, 0, 1], wait::free_port()));
    let (port, script) = (address.port().to_string(), Job::new("server.js", WORKERS).path());
    let script = script.to_str().ok_or("the path of bench/node is no text")?;
    let begun = Instant::now();
    let workers = WORKERS.to_string();
    let start =
        tool.run(&["start", script, "--name", "app", "-i", &workers], &[("PORT", &port)])?;
    all_answer(address)?;
    let answered = begun.elapsed();
    let reload = tool.run(&["reload", "app"], &[])?;
    all_answer(address)?;
    let stop = tool.run(&["stop", "app"], &[])?;
    section.add(row, START, millis(start.took));
    section.add(row, ANSWERED, millis(answered));
    section.add(row, RELOAD, millis(reload.took));
    section.add(row, STOP, millis(stop.took));
    section.command(row, &[start.command, reload.command, stop.command].join("; "));
    Ok(())
}

fn all_answer(address: SocketAddr) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    wait::until(PATIENCE, "an answer of each worker", || {
        let asked = Load::new(address).clients(1).requests(8);
        seen.extend(load(asked).ok()?.by_worker.into_keys());
        (seen.len() >= WORKERS).then_some(())
    })
}

/// Ten applications, and what their managers have.
#[expect(clippy::cast_precision_loss, reason = "no process has 2^52 bytes")]
fn weigh(context: &Context, which: Which, section: &mut Section) -> Result<(), String> {
    let tool = Tool::new(which, &context.programs)?;
    let mut node = Command::new("node");
    let node = node.args(["-e", "console.log('on'); setInterval(() => {}, 1e6)"]);
    let node = Guarded::spawn(node).map_err(|error| format!("node: {error}"))?;
    node.wait_for_line(|line| line == "on", PATIENCE)?;
    start_all(&tool, WEIGHED)?;
    let managers = tool.managers()?;
    let (mut pss, mut private) = (0, 0);
    for pid in &managers {
        let failed = |error| format!("process {pid}: {error}");
        pss += process::pss_bytes(*pid).map_err(failed)?;
        private += process::private_bytes(*pid).map_err(failed)?;
    }
    let row = which.name();
    section.add(row, PSS, pss as f64 / 1e3);
    section.add(row, PRIVATE, private as f64 / 1e3);
    section.add(row, PROCESSES, managers.len() as f64);
    Ok(())
}

/// So many applications of one file. Their sleep is longer than any bench.
fn start_all(tool: &Tool, count: usize) -> Result<Duration, String> {
    let apps: Vec<_> = (0..count)
        .map(|number| {
            json!({
                "name": name(number), "script": "/bin/sleep", "args": "86400", "interpreter": "none",
                "exec_mode": "fork", "instances": 1, "ready": "online"
            })
        })
        .collect();
    let file = tool.write("ecosystem.json", &json!({ "apps": apps }).to_string())?;
    let file = file.to_str().ok_or("the path of the scratch directory is no text")?;
    Ok(tool.run(&["start", file], &[])?.took)
}

fn name(number: usize) -> String {
    format!("app-{number}")
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
