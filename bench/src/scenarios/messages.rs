//! Messages between worker and primary: round trips, and floods in either direction.

use super::Context;
use crate::peers::{PATIENCE, typed};
use crate::report::{Better, Bound, Section};
use bench::spawned::Guarded;
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The sizes of messages, and how many of them are sent: in a full run, and in a short one.
const SIZES: [(u64, &str, u64, u64); 3] =
    [(100, "100 B", 40_000, 10_000), (10_000, "10 kB", 4_000, 1_000), (1_000_000, "1 MB", 40, 15)];

const ONE: &str = "round trips, one at a time";
const MANY: &str = "round trips, 64 at a time";
const UP: &str = "worker to primary";
const DOWN: &str = "primary to worker";
const CPU_ONE: &str = "primary's CPU, one at a time";
const CPU_MANY: &str = "primary's CPU, 64 at a time";
const CPU_UP: &str = "primary's CPU, from the worker";
const CPU_DOWN: &str = "primary's CPU, to the worker";
const WORKER: &str = "worker's CPU, 64 at a time";

const NODE: &str = "node:cluster";
const OURS_NODE: &str = "phalanx, the same Node worker";
const NODE_CRATE: &str = "node:cluster, a worker of the crate";
const OURS: &str = "phalanx, a worker of the crate";

/// A line that a measuring worker prints.
#[derive(Debug, Deserialize)]
struct Measured {
    size: u64,
    way: String,
    count: f64,
    seconds: f64,
    /// Seconds on a CPU.
    worker: f64,
    primary: f64,
}

pub(crate) fn run(context: &Context) -> Result<Vec<Section>, String> {
    let candidates = candidates(context);
    let mut sections: Vec<Section> = SIZES.iter().map(|(_, name, ..)| section(name)).collect();
    for _ in 0..context.full_or(3, 1) {
        for (name, program, args) in &candidates {
            context.say(name);
            let mut command = Command::new(program);
            command.args(args).env("COUNTS", counts(context));
            let measured = measure(&mut command).map_err(|error| format!("{name}: {error}"))?;
            for (section, (size, ..)) in sections.iter_mut().zip(SIZES) {
                section.command(name, &typed(&command));
                measured
                    .iter()
                    .filter(|one| one.size == size)
                    .for_each(|one| add(section, name, one));
            }
        }
    }
    if let Some(section) = sections.first_mut() {
        judge(section);
    }
    Ok(sections)
}

/// Who is measured, and how it is started.
fn candidates(context: &Context) -> [(&'static str, PathBuf, Vec<PathBuf>); 4] {
    let script = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/node/messages.js"));
    let own = context.programs.app.with_file_name("messages");
    [
        (NODE, "node".into(), vec![script.clone()]),
        (OURS_NODE, own.clone(), vec![script.clone()]),
        (NODE_CRATE, "node".into(), vec![script, own.clone()]),
        (OURS, own, Vec::new()),
    ]
}

fn counts(context: &Context) -> String {
    let pairs =
        SIZES.map(|(size, _, full, quick)| format!("{size}:{}", context.full_or(full, quick)));
    pairs.join(",")
}

fn section(size: &str) -> Section {
    let id = format!("messages-{}", size.replace(' ', "").to_lowercase());
    let how = "One worker sends to its primary, which sends back, counts, or sends by itself. At most 64 messages and \
        4 MB are on their way (in a flood of the crate's worker, what its room of 1 MiB takes). Measured in the worker; CPU by what the kernel says of each process, and per message.";
    let section = Section::new(&id, &format!("Messages of {size} between worker and primary"), how)
        .column(ONE, "/s", Better::More)
        .column(MANY, "/s", Better::More)
        .column(UP, "MB/s", Better::More)
        .column(DOWN, "MB/s", Better::More);
    [CPU_ONE, CPU_MANY, CPU_UP, CPU_DOWN, WORKER]
        .into_iter()
        .fold(section, |section, column| section.column(column, "µs", Better::Less))
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn add(section: &mut Section, row: &str, one: &Measured) {
    let rate = one.count / one.seconds;
    let each = |seconds: f64| seconds * 1e6 / one.count;
    let megabytes = rate * one.size as f64 / 1e6;
    let (column, value, cpu) = match one.way.as_str() {
        "one" => (ONE, rate, CPU_ONE),
        "many" => (MANY, rate, CPU_MANY),
        "up" => (UP, megabytes, CPU_UP),
        _ => (DOWN, megabytes, CPU_DOWN),
    };
    section.add(row, column, value);
    section.add(row, cpu, each(one.primary));
    if cpu == CPU_MANY {
        section.add(row, WORKER, each(one.worker));
    }
}

fn judge(section: &mut Section) {
    section.goal_ratio(MANY, OURS, NODE, Bound::AtLeast(5.0));
    section.goal_ratio(MANY, OURS, NODE_CRATE, Bound::AtLeast(5.0));
    section.goal_ratio(CPU_MANY, OURS, NODE, Bound::AtMost(0.2));
    section.goal_ratio(UP, OURS, NODE, Bound::AtLeast(5.0));
    section.goal_ratio(DOWN, OURS, NODE, Bound::AtLeast(5.0));
    section.goal_ratio(CPU_DOWN, OURS_NODE, NODE, Bound::AtMost(0.2));
    section.note(
        "One at a time, both processes sleep and are woken for each message: two programs in C that do nothing but \
         epoll_wait, recv and send need 7.6 µs each for that on an AMD EPYC. So no primary can \
         be five times as fast as Node's there. A Node worker needs more for a message than the primary: with one, its \
         own cost is the limit, and a primary that has caught up is woken for each message.",
    );
}

/// What one candidate's worker prints, all of it.
fn measure(command: &mut Command) -> Result<Vec<Measured>, String> {
    let running = Guarded::spawn(command).map_err(|error| format!("cannot start it: {error}"))?;
    running.wait_for_line(|line| line == "done", PATIENCE.max(Duration::from_secs(60)))?;
    let output = running.stdout();
    let lines: Vec<Measured> =
        output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if lines.len() == SIZES.len() * 4 {
        return Ok(lines);
    }
    Err(format!("it did not print all that was to be measured:\n{}", running.output()))
}
