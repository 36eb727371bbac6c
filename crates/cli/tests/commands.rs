//! The commands that are about applications: which ones they mean, and what becomes of those.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "any/build.rs"]
#[allow(dead_code, reason = "only the Rust programs are built here")]
mod build;
#[path = "tool/support.rs"]
mod support;

use bench::spawned::Signal;
use bench::{process, wait};
use common::{LONG, signal, stop_process};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use support::{Done, Tool, finish, gone};

/// Says what it is told, and what it finds in its environment.
const TELLING: &str = "process.on('message', (message) => console.log('told', JSON.stringify(message)));\n\
    process.on('SIGUSR1', () => console.log('usr1 in', process.env.NODE_APP_INSTANCE));\n";

fn telling(tool: &Tool) -> String {
    tool.server("server.js", TELLING).to_str().unwrap().to_owned()
}

/// Starts so many applications with a worker each: Python programs that never listen, which is quick.
fn idlers(tool: &Tool, names: &[(&str, &str)]) {
    tool.program("idle.py", "import time\nwhile True: time.sleep(100)\n");
    for (name, namespace) in names {
        let args = ["start", "idle.py", "-i", "1", "--ready", "online", "--name", name];
        tool.run(&[&args[..], &["--namespace", namespace]].concat()).expect(0, &[name]);
    }
}

fn list(tool: &Tool) -> Vec<Value> {
    let done = tool.run(&["list", "--json"]).expect(0, &[]);
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

fn names(tool: &Tool) -> Vec<String> {
    list(tool).iter().map(|app| app["name"].as_str().unwrap().to_owned()).collect()
}

fn ids(done: &Done) -> Vec<u32> {
    done.stdout.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn applications_are_meant_in_every_way() {
    let tool = Tool::new();
    idlers(&tool, &[("api-1", "web"), ("api-2", "web"), ("jobs", "default")]);
    for (words, meant) in [
        (&["api-2"][..], &[1][..]),
        (&["0"], &[0]),
        (&["0", "jobs", "0"], &[0, 2]),
        (&["web"], &[0, 1]),
        (&["api-*"], &[0, 1]),
        (&["/^j|2$/"], &[1, 2]),
        (&["all"], &[0, 1, 2]),
    ] {
        let done = tool.run(&[&["id"], words].concat()).expect(0, &[]);
        assert_eq!(ids(&done), meant, "{words:?}");
    }
    tool.run(&["id", "job"]).expect(1, &["no application is called `job`", "did you mean `jobs`?"]);
    tool.run(&["id", "zzz"]).expect(1, &["there are api-1, api-2, jobs"]);
    tool.run(&["id", "/(/"]).expect(2, &["is no regular expression"]);
    tool.run(&["send", "web", "1"]).expect(2, &["`web` means api-1, api-2", "one application"]);
    // An id is one application's for ever.
    tool.run(&["delete", "api-1", "api-2"]).expect(0, &[]);
    idlers(&tool, &[("new", "default")]);
    assert_eq!(ids(&tool.run(&["id", "jobs", "new"]).expect(0, &[])), [2, 3]);
    tool.run(&["stop", "all"]).expect(0, &[]);
    assert!(list(&tool).iter().all(|app| app["state"] == "stopped"));
    tool.run(&["stop", "all"]).expect(0, &["jobs is stopped already", "new is stopped already"]);
}

#[test]
fn workers_are_told_and_signalled() {
    let tool = Tool::new();
    let server = telling(&tool);
    tool.run(&["start", &server, "-i", "2", "--name", "app"]).expect(0, &[]);
    tool.run(&["send", "app", r#"{"a":[1,null]}"#]).expect(0, &["sent to 2 of 2 workers"]);
    tool.run(&["send", "app", "plain words", "--slot", "1"]).expect(0, &["sent to 1 of 1"]);
    tool.run(&["signal", "usr1", "app"]).expect(0, &["SIGUSR1 sent to 2 workers"]);
    tool.run(&["sendSignal", "SIGUSR1", "app", "--slot", "0"]).expect(0, &["sent to 1 workers"]);
    let log = tool.home.join("logs/app-out.log");
    wait::until(LONG, "what the workers say", || {
        let text = fs::read_to_string(&log).unwrap();
        let count = |words: &str| text.matches(words).count();
        let all = [count("told {\"a\":[1,null]}"), count("told \"plain words\"")] == [2, 1];
        (all && count("usr1 in 0") == 2 && count("usr1 in 1") == 1).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", fs::read_to_string(&log).unwrap()));
    tool.run(&["send", "app", "1", "--slot", "7"]).expect(1, &["no worker in slot 7"]);
    // Nobody reads what a program is sent that does not know of it: that is said, and not "sent".
    idlers(&tool, &[("deaf", "default")]);
    tool.run(&["send", "deaf", "1"])
        .expect(1, &["did not reach worker", "does not know the channel", "as Python's"]);
    tool.run(&["signal", "nonsense", "app"]).expect(2, &["`nonsense` is no signal", "kill(1)"]);
    for number in ["65", "64", "0"] {
        tool.run(&["signal", number, "app"]).expect(2, &["no signal"]);
    }

    let pids = ids(&tool.run(&["pid", "app"]).expect(0, &[]));
    assert_eq!(pids.first(), Some(&tool.primary("app")));
    assert_eq!(pids.len(), 3);
    tool.run(&["ping"]).expect(0, &[&format!("app: primary {} answered in", pids[0])]);

    // A worker that crashes is counted, until it is not.
    let restarts = || tool.about("app")["restarts"].as_u64().unwrap();
    signal(pids[1], Signal::KILL);
    wait::until(LONG, "the count", || (restarts() == 1).then_some(())).unwrap();
    tool.run(&["reset", "app"]).expect(0, &[]);
    assert_eq!(restarts(), 0);
}

#[test]
fn the_environment_is_what_was_passed_and_nothing_older() {
    let tool = Tool::new();
    let begin = "console.log('found', process.env.ONE, process.env.TWO, process.env.API_TOKEN);";
    let server = tool.server("server.js", begin);
    let server = server.to_str().unwrap();
    let with = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = tool.command(args);
        command.envs(variables.iter().copied());
        finish(support::begin(&mut command))
    };
    let log = || fs::read_to_string(tool.home.join("logs/app-out.log")).unwrap();
    let start = ["start", server, "-i", "1", "--name", "app"];
    with(&start, &[("ONE", "1"), ("API_TOKEN", "hush")]).expect(0, &[]);
    assert_eq!(log().lines().last(), Some("found 1 undefined hush"));
    // Another shell's is of no account, until it is to be.
    with(&["reload", "app"], &[("TWO", "2")]).expect(0, &[]);
    assert_eq!(log().lines().last(), Some("found 1 undefined hush"));
    let primary = tool.primary("app");
    let before = tool.get().pid;
    with(&["reload", "app", "--update-env"], &[("TWO", "2")]).expect(0, &["TWO"]);
    assert_eq!(log().lines().last(), Some("found undefined 2 undefined"));
    assert_eq!(tool.primary("app"), primary, "the same process");
    assert_ne!(tool.get().pid, before);
    // So it is for every worker to come, and after a stop.
    signal(tool.workers("app")[0], Signal::KILL);
    wait::until(LONG, "another worker", || (log().lines().count() == 4).then_some(())).unwrap();
    tool.run(&["stop", "app"]).expect(0, &[]);
    with(&["start", "app"], &[("ONE", "9")]).expect(0, &["listening"]);
    assert_eq!(log().lines().last(), Some("found undefined 2 undefined"));
    with(&["restart", "app", "-a"], &[("API_TOKEN", "hush")]).expect(0, &[]);
    assert_eq!(log().lines().last(), Some("found undefined undefined hush"));

    let shown = tool.run(&["env", "app"]).expect(0, &["API_TOKEN=(hidden", "PATH="]);
    assert!(!shown.stdout.contains("hush"), "{shown:?}");
    tool.run(&["env", "app", "--secrets"]).expect(0, &["API_TOKEN=hush"]);
    for file in ["state/app.json", "apps/app/spec.json"] {
        let about = fs::metadata(tool.home.join(file)).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, 0o600, "{file}");
    }
}

/// New code that does not serve, in an environment that it does not like: all is what it was.
#[test]
fn a_reload_that_fails_changes_nothing() {
    let tool = Tool::new();
    let server =
        tool.server("server.js", "if (process.env.BAD) throw new Error('I do not like it');");
    let server = server.to_str().unwrap();
    tool.run(&["start", server, "-i", "2", "--name", "app"]).expect(0, &[]);
    let spec = || fs::read_to_string(tool.app("app").join("spec.json")).unwrap();
    let intent = || fs::read_to_string(tool.home.join("state/app.json")).unwrap();
    let (workers, before) = (tool.workers("app"), (spec(), intent()));
    let mut command = tool.command(&["reload", "app", "-a"]);
    let done = finish(support::begin(command.env("BAD", "1")));
    done.expect(1, &["BAD", "I do not like it", "what they were"]);
    assert_eq!(tool.workers("app"), workers);
    assert_eq!((spec(), intent()), before);
    // And the next worker is of the old kind.
    signal(workers[0], Signal::KILL);
    wait::until(LONG, "another worker", || {
        Some(tool.workers("app")).filter(|now| now.len() == 2 && !now.contains(&workers[0]))
    })
    .unwrap();
}

/// What is in its environment, when it answers.
const VERSIONED: &str = "if (process.env.V === 'bad') { setTimeout(() => process.exit(3), 200); return; }\n\
    require('http').createServer((request, response) => { response.setHeader('Content-Length', process.env.V.length); response.end(process.env.V); }).listen(process.env.PORT, '127.0.0.1');\n";

fn version(tool: &Tool) -> String {
    let mut stream = TcpStream::connect(tool.address).expect("it listens");
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (_, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    body.to_owned()
}

fn reload_to(tool: &Tool, version: &str) -> std::process::Child {
    let mut command = tool.command(&["reload", "app", "--update-env"]);
    support::begin(command.env("V", version))
}

/// What runs, what its next primary reads, and what is wanted are the same.
fn is_version(tool: &Tool, wanted: &str) {
    let body = version(tool);
    let written = |file: &str| {
        let text = fs::read_to_string(tool.home.join(file)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["env"]["V"].clone()
    };
    let all = [written("apps/app/spec.json"), written("state/app.json")];
    assert_eq!((body.as_str(), all), (wanted, [wanted.into(), wanted.into()]));
}

/// Each begins with what the one before it left, and ends even if nobody follows it any more.
#[test]
fn changes_take_turns_and_outlive_who_asked_for_them() {
    let tool = Tool::new();
    let server = tool.program("server.js", VERSIONED);
    let mut start = tool.command(&["start", server.to_str().unwrap(), "-i", "2", "--name", "app"]);
    finish(support::begin(start.env("V", "0"))).expect(0, &[]);
    let all = ["1", "2", "3"].map(|version| reload_to(&tool, version));
    for done in all.map(finish) {
        done.expect(0, &["2 workers replaced"]);
    }
    let last = version(&tool);
    is_version(&tool, &last);
    for (next, in_the_end) in [("good", "good"), ("bad", "good")] {
        let before = tool.workers("app");
        let mut asked = reload_to(&tool, next);
        wait::until(LONG, "its beginning", || {
            let spec = fs::read_to_string(tool.app("app").join("spec.json")).unwrap();
            spec.contains(&format!("\"V\": \"{next}\"")).then_some(())
        })
        .unwrap();
        signal(asked.id(), Signal::KILL);
        asked.wait().unwrap();
        // Whoever comes next waits for its end.
        tool.run(&["upgrade", "app"]).expect(0, &["has taken over"]);
        is_version(&tool, in_the_end);
        assert_eq!(next == "bad", tool.workers("app") == before);
    }
}

#[test]
fn what_was_stopped_is_started_by_its_name() {
    let tool = Tool::new();
    let server = telling(&tool);
    tool.run(&["start", &server, "-i", "2", "--name", "app"]).expect(0, &[]);
    tool.run(&["start", "app"]).expect(6, &["runs already"]);
    tool.run(&["stop", "app"]).expect(0, &[]);
    assert_eq!(tool.about("app")["state"], "stopped");
    assert!(tool.about("app")["argv"].as_array().unwrap().contains(&"-i".into()));
    tool.run(&["reload", "app"]).expect(1, &["app does not run", "phalanx start app"]);
    // From anywhere.
    let mut command = tool.command(&["start", "app"]);
    finish(support::begin(command.current_dir("/"))).expect(0, &["listening"]);
    assert_eq!(tool.workers("app").len(), 2);
    tool.run(&["stop", "0"]).expect(0, &[]);
    tool.run(&["restart", "app"]).expect(0, &["listening"]);
    // Not before it is said.
    let other = tool.server("other.js", "");
    let args = ["start", other.to_str().unwrap(), "--name", "later", "--no-autostart", "-i", "1"];
    tool.run(&args).expect(0, &["later is noted"]);
    assert_eq!(tool.about("later")["state"], "stopped");
    tool.run(&["delete", "app"]).expect(0, &[]);
    tool.run(&["start", "later"]).expect(0, &["listening"]);
    // In place of the one that runs.
    let id = tool.run(&["id", "later"]).stdout;
    let primary = tool.primary("later");
    tool.run(&["start", &server, "--name", "later", "-i", "1", "--force"])
        .expect(0, &["listening"]);
    assert_ne!(tool.primary("later"), primary);
    assert!(tool.about("later")["argv"][0] == server.as_str());
    assert!(!id.is_empty());
}

/// A bot, a consumer of a queue: nobody of its kind listens, so it need not.
#[test]
fn a_program_that_never_listens_is_ready_after_a_while() {
    let tool = Tool::new();
    let bot = tool.program("bot.js", "console.log('begun'); setInterval(() => {}, 1000);\n");
    let bot = bot.to_str().unwrap();
    tool.run(&["start", bot, "-i", "1", "--name", "bot"]).expect(0, &["bot"]);
    let workers = tool.workers("bot");
    assert_eq!(workers.len(), 1, "{:#}", tool.about("bot"));
    tool.run(&["reload", "bot"]).expect(0, &["1 workers replaced"]);
    assert_ne!(tool.workers("bot"), workers);
}

#[test]
fn of_two_starts_one_wins() {
    let tool = Tool::new();
    let server = telling(&tool);
    let start = ["start", &server, "-i", "1", "--name", "app"];
    let all: Vec<_> = (0..6).map(|_| tool.begin(&start)).collect();
    let ends: Vec<Done> = all.into_iter().map(finish).collect();
    let won = ends.iter().filter(|done| done.code == Some(0)).count();
    let lost = ends.iter().filter(|done| done.code == Some(6)).count();
    assert_eq!((won, lost), (1, 5), "{ends:#?}");
    assert_eq!(names(&tool), ["app"]);
    assert_eq!(tool.workers("app").len(), 1);
    tool.get();
}

/// As after a power cut: no process is left, and what was in the runtime directory says what is not so.
fn power_cut(tool: &Tool, names: &[&str]) {
    let mut all = Vec::new();
    for name in names {
        let primary = tool.primary(name);
        let keeper = process::stat(primary).unwrap().parent;
        // At once: each would look after the other.
        stop_process(keeper);
        stop_process(primary);
        all.extend(tool.workers(name));
        all.extend([primary, keeper]);
    }
    for pid in &all {
        signal(*pid, Signal::KILL);
    }
    for pid in all {
        gone(pid, LONG);
    }
}

#[test]
fn everything_is_there_again_after_a_reboot() {
    let tool = Tool::new();
    let server = telling(&tool);
    tool.run(&["start", &server, "-i", "2", "--name", "web"]).expect(0, &[]);
    idlers(&tool, &[("one", "default"), ("two", "default"), ("off", "default")]);
    tool.run(&["stop", "off"]).expect(0, &[]);
    let cut = |stale: bool| {
        power_cut(&tool, &["web"]);
        for name in ["one", "two"] {
            power_cut(&tool, &[name]);
        }
        if !stale {
            fs::remove_dir_all(tool.home.join("apps")).unwrap();
        }
    };
    for stale in [true, false] {
        cut(stale);
        // Nobody stopped those, which is known as long as there is a trace of them.
        let is = |app: &Value| match app["name"] == "off" || !stale {
            true => app["state"] == "stopped",
            false => app["state"] == "errored",
        };
        assert!(list(&tool).iter().all(is), "{:#?}", list(&tool));
        tool.run(&["resurrect"]).expect(0, &["web", "one", "two"]);
        let states: Vec<_> =
            list(&tool).iter().map(|app| app["state"].as_str().unwrap().to_owned()).collect();
        assert_eq!(states, ["running", "running", "running", "stopped"]);
        assert_eq!(tool.workers("web").len(), 2);
        assert_eq!(ids(&tool.run(&["id", "all"]).expect(0, &[])), [0, 1, 2, 3]);
        tool.get();
        tool.run(&["resurrect"]).expect(0, &["all that is to run does"]);
    }
    // What was deleted is in the snapshot, and is back only when that is asked for.
    tool.run(&["save"]).expect(0, &["4 applications kept in"]);
    tool.run(&["delete", "one", "off"]).expect(0, &[]);
    tool.run(&["save"]).expect(0, &["2 applications kept in"]);
    tool.run(&["resurrect", "--boot"]).expect(0, &["all that is to run does"]);
    tool.run(&["resurrect"]).expect(0, &["all that is to run does"]);
    tool.run(&["resurrect", "--generation", "2"]).expect(0, &["one"]);
    assert_eq!(names(&tool), ["web", "two", "one"]);
    tool.run(&["resurrect", "--generation", "9"]).expect(1, &["there are not 9 snapshots"]);
    tool.run(&["delete", "all"]).expect(0, &[]);
    tool.run(&["save"]).expect(1, &["no application", "--force"]);
    assert_eq!(names(&tool), [""; 0]);
}

/// A configuration file that is wrong by then keeps nobody from what was there; and `kill` leaves what is wanted.
#[test]
fn what_can_be_started_is_after_a_kill() {
    let tool = Tool::new();
    idlers(&tool, &[("plain", "default")]);
    let file = tool.program(
        "phalanx.toml",
        "[[apps]]\nname = 'of-file'\nscript = 'idle.py'\ninstances = 1\nready = 'online'\n",
    );
    tool.run(&["start"]).expect(0, &["of-file"]);
    tool.run(&["scale", "plain", "2"]).expect(0, &["plain"]);
    tool.run(&["kill"]).expect(0, &["plain is stopped", "of-file is stopped"]);
    fs::write(&file, "[[apps").unwrap();
    let done =
        tool.run(&["resurrect"]).expect(0, &["phalanx.toml", "of-file: it is started as it was"]);
    assert!(list(&tool).iter().all(|app| app["state"] == "running"), "{done:?}");
    assert_eq!(tool.workers("plain").len(), 2, "what `scale` said");
    // A slip of the pen costs nothing that runs.
    let primary = tool.primary("plain");
    tool.run(&["start", "-f", "idel.py", "--name", "plain"]).expect(3, &["idel.py"]);
    assert_eq!(tool.primary("plain"), primary);
    // What is called as a directory is here is meant all the same.
    tool.run(&["stop", "plain"]).expect(0, &[]);
    fs::create_dir(tool.directory().join("plain")).unwrap();
    tool.run(&["start", "plain"]).expect(0, &["plain"]);
}

/// A file that was half written, is another version's, or was emptied, costs its own application and no other.
#[test]
fn a_broken_file_is_one_applications_trouble() {
    let tool = Tool::new();
    idlers(&tool, &[("good", "default"), ("bad", "default")]);
    tool.run(&["stop", "all"]).expect(0, &[]);
    fs::remove_dir_all(tool.home.join("apps")).unwrap();
    // It is as it was before, as far as that is known.
    fs::write(tool.home.join("state/bad.json"), "{").unwrap();
    tool.run(&["start", "bad"]).expect(0, &["bad"]);
    tool.run(&["stop", "bad"]).expect(0, &[]);
    fs::remove_dir_all(tool.home.join("apps")).unwrap();
    for number in 1..=3 {
        let _ = fs::remove_file(tool.home.join(format!("state/bad.json.{number}")));
    }
    for text in ["", "{\"v\":2,", "{\"v\":99}", "[]", "\u{0}\u{1}"] {
        fs::write(tool.home.join("state/bad.json"), text).unwrap();
        let mut names = names(&tool);
        names.sort();
        assert_eq!(names, ["bad", "good"], "{text:?}");
        tool.run(&["start", "good"]).expect(0, &["good"]);
        tool.run(&["start", "bad"]).expect(1, &["bad", "phalanx delete bad"]);
        tool.run(&["resurrect"])
            .expect(1, &["bad: what it is to be cannot be read", "not started: bad"]);
        tool.run(&["stop", "good"]).expect(0, &[]);
    }
    tool.run(&["delete", "bad"]).expect(0, &[]);
    assert_eq!(names(&tool), ["good"]);
}

#[test]
fn a_home_that_cannot_be_written_is_said_so() {
    let tool = Tool::new();
    let server = telling(&tool);
    let place = tool.directory().join("file");
    fs::write(&place, "").unwrap();
    for home in [place.as_path(), Path::new("/proc/no-such-place")] {
        let mut command = tool.command(&["start", &server, "-i", "1", "--name", "app"]);
        let done = finish(support::begin(command.env("PHALANX_HOME", home)));
        done.expect(1, &["cannot use the directory", home.to_str().unwrap()]);
    }
}

/// Whose program is gone when its primary is killed is served, told and reloaded as ever when it is there again.
#[test]
fn a_program_that_is_gone_costs_no_service() {
    let tool = Tool::new();
    let server = telling(&tool);
    tool.run(&["start", &server, "-i", "2", "--name", "app"]).expect(0, &[]);
    let (primary, workers) = (tool.primary("app"), tool.workers("app"));
    let aside = tool.directory().join("aside");
    fs::rename(&server, &aside).unwrap();
    tool.run(&["reload", "app"]).expect(1, &["server.js"]);
    signal(primary, Signal::KILL);
    gone(primary, LONG);
    wait::until(LONG, "the next primary", || {
        let done = tool.run(&["describe", "app", "--json"]);
        let about: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
        let next = about["primary_pid"].as_u64().filter(|pid| *pid != u64::from(primary));
        (next.is_some() && about["state"] == "running").then_some(())
    })
    .unwrap();
    assert_eq!(tool.workers("app"), workers);
    assert!(workers.contains(&tool.get().pid));
    fs::rename(&aside, &server).unwrap();
    tool.run(&["reload", "app"]).expect(0, &["2 workers replaced"]);
    assert!(!workers.contains(&tool.get().pid));
}

/// One that runs in somebody's foreground is known as long as it runs.
#[test]
fn the_foreground_is_listed_too() {
    let tool = Tool::new();
    let server = telling(&tool);
    let begin = || {
        let mut command = tool.command(&["run", &server, "-i", "1", "--name", "fore"]);
        command.env("PORT", wait::free_port().to_string());
        support::begin(&mut command)
    };
    let (first, second) = (begin(), begin());
    let both = wait::until(LONG, "both in the list", || {
        let all = names(&tool);
        (all.len() == 2).then_some(all)
    });
    assert_eq!(both.unwrap(), ["fore", "fore-2"]);
    wait::until(LONG, "workers", || (tool.workers("fore").len() == 1).then_some(())).unwrap();
    assert_eq!(tool.about("fore")["foreground"], true);
    let pids = [first.id(), second.id()];
    assert!(pids.contains(&tool.primary("fore")) && pids.contains(&tool.primary("fore-2")));
    tool.run(&["reload", "fore"]).expect(0, &["is done: 1 workers replaced"]);
    tool.run(&["stop", "fore"]).expect(0, &[]);
    wait::until(LONG, "one in the list", || (names(&tool) == ["fore-2"]).then_some(())).unwrap();
    let left = tool.primary("fore-2");
    signal(left, Signal::KILL);
    gone_from_list(&tool);
    finish(first);
    finish(second);
}

fn gone_from_list(tool: &Tool) {
    wait::until(LONG, "an empty list", || names(tool).is_empty().then_some(())).unwrap();
    let left = fs::read_dir(tool.home.join("apps")).unwrap().count();
    assert_eq!(left, 0, "its directory is left");
}

/// By one line, a program on the crate is an application like any other.
#[test]
fn a_rust_program_is_listed() {
    let tool = Tool::new();
    let program = build::rust("listed");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, wait::free_port()));
    let mut command = common::clean(program.to_str().unwrap(), [""; 0]);
    command.env("PHALANX_HOME", &tool.home).env("PHALANX_LISTEN", address.to_string());
    let running = support::begin(command.env("NAME", "rust"));
    wait::until(LONG, "its workers", || {
        (names(&tool) == ["rust"] && tool.workers("rust").len() == 2).then_some(())
    })
    .unwrap();
    assert_eq!(tool.primary("rust"), running.id());
    let about = tool.about("rust");
    assert_eq!(about["ports"][0]["address"], address.to_string(), "{about:#}");
    tool.run(&["scale", "rust", "+1"]).expect(0, &["rust"]);
    assert_eq!(tool.workers("rust").len(), 3);
    tool.run(&["reload", "rust"]).expect(0, &["3 workers replaced"]);
    tool.run(&["upgrade", "rust"]).expect(0, &["has taken over"]);
    assert_eq!(tool.workers("rust").len(), 3);
    // Its name is its own.
    let mut second = common::clean(program.to_str().unwrap(), [""; 0]);
    second.env("PHALANX_HOME", &tool.home).env("NAME", "rust");
    let second = finish(support::begin(second.env("PHALANX_LISTEN", "127.0.0.1:0")));
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("an application called `rust` runs already"), "{second:?}");
    tool.run(&["restart", "rust"]).expect(0, &["restarted"]);
    tool.run(&["stop", "rust"]).expect(0, &[]);
    assert_eq!(finish(running).code, Some(0));
    gone_from_list(&tool);
}
