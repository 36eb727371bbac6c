//! Two hundred commands at once on ten applications; and homes that are full, read-only or somebody else's.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "storm/commands.rs"]
mod commands;
#[path = "storm/history.rs"]
mod history;
#[path = "storm/homes.rs"]
mod homes;
#[path = "storm/hostile.rs"]
mod hostile;
#[path = "storm/place.rs"]
mod place;
#[path = "storm/random.rs"]
mod random;
#[path = "tool/support.rs"]
mod support;

use bench::{process, wait};
use commands::{Deed, Event, is_right};
use common::LONG;
use history::History;
use random::Random;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Mutex;
use std::time::Instant;
use support::{Tool, finish};

/// Commands.
const COMMANDS: usize = 200;
/// So many of them are there at any time, so that the machine goes on for others.
const AT_ONCE: usize = 40;
/// Applications; those below [`STEADY`] are neither stopped nor started meanwhile.
const APPS: usize = 10;
const STEADY: usize = 5;
/// From this one on they are stopped before it begins.
const STOPPED: usize = 7;

fn name(app: usize) -> String {
    format!("app-{app}")
}

/// Programs that never listen, which is quick: every fifth one is Node's, and can be sent messages.
pub(crate) fn programs(tool: &Tool) {
    tool.program("idle.py", "import time\nwhile True: time.sleep(100)\n");
    // Its channel keeps it alive.
    tool.program("idle.js", "process.on('message', () => {});\n");
}

pub(crate) fn start<'a>(program: &'a str, name: &'a str) -> [&'a str; 8] {
    ["start", program, "-i", "1", "--ready", "online", "--name", name]
}

pub(crate) fn list(tool: &Tool) -> Vec<Value> {
    let done = tool.run(&["list", "--json"]).expect(0, &[]);
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

/// Ten applications, started at the same time.
fn ten(tool: &Tool) {
    programs(tool);
    let begun: Vec<_> = (0..APPS)
        .map(|app| {
            let program = if app % STEADY == 0 { "idle.js" } else { "idle.py" };
            tool.begin(&start(program, &name(app)))
        })
        .collect();
    for child in begun {
        finish(child).expect(0, &["app-"]);
    }
}

/// All commands, so many at a time, in the order in which they ended.
fn storm(tool: &Tool, deeds: Vec<Deed>) -> Vec<Event> {
    let next = Mutex::new(deeds.into_iter());
    let events = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let deed = next.lock().unwrap().next();
                    let Some(deed) = deed else { return };
                    let begin = Instant::now();
                    let mut child = tool.begin(&deed.words());
                    let ended = wait::until(LONG, "its end", || child.try_wait().ok().flatten());
                    if let Err(error) = ended {
                        eprintln!("{deed:?}: {error}: {:#?}", tool.run(&["list", "--json"]));
                    }
                    let done = finish(child);
                    let event = Event { deed, begin, end: Instant::now(), done };
                    events.lock().unwrap().push(event);
                }
            });
        }
    });
    events.into_inner().unwrap()
}

/// Every application is in a state in which its commands may have left it, and is to be so after a reboot as well.
fn assert_states(tool: &Tool, events: &[Event], seed: u64) {
    for app in list(tool) {
        let name = app["name"].as_str().unwrap();
        let is_off = (STOPPED..APPS).any(|off| crate::name(off) == name);
        let mut states = History::new(if is_off { "stopped" } else { "running" }.to_owned());
        let mut counts = History::new("1".to_owned());
        for event in events.iter().filter(|event| event.deed.app == name) {
            states.add(event.begin, event.end, event.state());
            counts.add(event.begin, event.end, event.count());
        }
        let said = || {
            let own = events.iter().filter(|event| event.deed.app == name);
            own.map(|event| format!("{event:?}\n")).collect::<String>()
        };
        let state = app["state"].as_str().unwrap();
        assert!(states.may_be(state), "seed {seed}: {state}: {app:#}\n{}", said());
        let intent = fs::read(tool.home.join(format!("state/{name}.json"))).unwrap();
        let intent: Value = serde_json::from_slice(&intent).unwrap();
        let stopped = intent["stopped"].as_bool().unwrap_or(false);
        assert_eq!(stopped, state == "stopped", "seed {seed}: {intent:#}: {app:#}\n{}", said());
        // A start begins with the number of the command line.
        if (0..STEADY).any(|steady| crate::name(steady) == name) {
            let wanted = app["wanted"].to_string();
            assert!(counts.may_be(&wanted), "seed {seed}: {wanted}: {app:#}\n{}", said());
        }
    }
}

fn assert_ten(tool: &Tool, ids: &BTreeMap<String, u64>) {
    let now: BTreeMap<String, u64> = list(tool).iter().map(id).collect();
    assert_eq!(&now, ids);
}

fn id(app: &Value) -> (String, u64) {
    (app["name"].as_str().unwrap().to_owned(), app["id"].as_u64().unwrap())
}

/// The processes of all applications: who has the home among its variables.
fn processes(tool: &Tool) -> BTreeSet<u32> {
    let home = format!("PHALANX_HOME={}", tool.home.display());
    let of_it = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes())
    };
    process::all().unwrap().iter().map(|stat| stat.pid).filter(of_it).collect()
}

#[test]
fn two_hundred_commands_at_once() {
    let tool = Tool::new();
    ten(&tool);
    let ids: BTreeMap<String, u64> = list(&tool).iter().map(id).collect();
    assert_eq!(ids.values().collect::<BTreeSet<_>>().len(), APPS, "{ids:?}");
    let off: Vec<String> = (STOPPED..APPS).map(name).collect();
    let words: Vec<&str> = ["stop"].into_iter().chain(off.iter().map(String::as_str)).collect();
    tool.run(&words).expect(0, &[]);
    let mut random = Random::new();
    let seed = random.seed;
    let deeds = (0..COMMANDS).map(|_| Deed::random(&mut random)).collect();
    let events = storm(&tool, deeds);
    assert_eq!(events.len(), COMMANDS);
    let mut kinds: BTreeMap<(&str, Option<i32>), usize> = BTreeMap::new();
    for event in &events {
        *kinds.entry((event.deed.kind, event.done.code)).or_default() += 1;
    }
    eprintln!("{kinds:?}");
    let wrong: Vec<String> = events
        .iter()
        .filter_map(|event| Some(format!("{}\n{event:?}", is_right(event, APPS).err()?)))
        .collect();
    assert!(wrong.is_empty(), "seed {seed}: {} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
    assert_ten(&tool, &ids);
    assert_states(&tool, &events, seed);

    // All of them live on.
    let off = list(&tool).into_iter().filter(|app| app["state"] == "stopped");
    let off: Vec<String> = off.map(|app| id(&app).0).collect();
    let words: Vec<&str> = ["start"].into_iter().chain(off.iter().map(String::as_str)).collect();
    if !off.is_empty() {
        tool.run(&words).expect(0, &[]);
    }
    tool.run(&["reload", "all"]).expect(0, &["is done"]);
    wait::until(LONG, "all to run", || {
        list(&tool).iter().all(|app| app["ready"] == app["wanted"]).then_some(())
    })
    .unwrap_or_else(|error| panic!("seed {seed}: {error}: {:#?}", list(&tool)));
    assert_ten(&tool, &ids);
    assert!(processes(&tool).len() >= 2 * APPS, "the test does not see them");
    tool.run(&["delete", "all"]).expect(0, &[]);
    assert_eq!(list(&tool), [Value::Null; 0]);
    let left = || processes(&tool);
    wait::until(LONG, "the last process", || left().is_empty().then_some(()))
        .unwrap_or_else(|error| panic!("seed {seed}: {error}: {:?}", left()));
    let apps: Vec<_> = fs::read_dir(tool.home.join("apps")).unwrap().flatten().collect();
    assert!(apps.is_empty(), "{apps:?}");
}
