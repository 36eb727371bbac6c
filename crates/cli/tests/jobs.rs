//! Programs that come to an end, and applications that did: what is told of them, and what follows.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "tool/support.rs"]
mod support;

use bench::spawned::Signal;
use bench::{process, wait};
use common::{LONG, signal, stop_process};
use std::fs;
use support::{Done, Tool, finish, gone};

/// Does something, and has done it.
const JOB: &str = "console.log('ran'); process.exit(0);\n";

fn status(tool: &Tool, name: &str) -> String {
    tool.about(name)["status"].as_str().unwrap().to_owned()
}

/// Until it has been said so often in its log.
fn says(tool: &Tool, name: &str, words: &str, times: usize) {
    let log = tool.home.join(format!("logs/{name}-out.log"));
    let text = || fs::read_to_string(&log).unwrap_or_default();
    wait::until(LONG, words, || (text().matches(words).count() >= times).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {}", text()));
}

#[test]
fn a_job_runs_at_its_times() {
    let tool = Tool::new();
    tool.program("job.js", JOB);
    let app = "{ name: 'job', script: 'job.js', autorestart: false, cron_restart: '* * * * * *' }";
    tool.program("ecosystem.config.js", &format!("module.exports = {{ apps: [{app}] }};\n"));
    tool.run(&["start", "ecosystem.config.js"]).expect(0, &["ended"]);
    let primary = tool.primary("job");
    says(&tool, "job", "ran", 3);
    assert_eq!(tool.primary("job"), primary);
    tool.run(&["stop", "job"]).expect(0, &["is stopped"]);
    assert_eq!(status(&tool, "job"), "stopped");
}

#[test]
fn what_comes_after_a_migration() {
    let tool = Tool::new();
    tool.program("migrate.js", JOB);
    tool.server("server.js", "");
    let port = tool.address.port();
    tool.program(
        "phalanx.toml",
        &format!(
            "[[apps]]\nname = \"migrate\"\nscript = \"migrate.js\"\nstop_exit_codes = [0]\n\
             [[apps]]\nname = \"api\"\nscript = \"server.js\"\ninstances = 1\nafter = \"migrate\"\n\
             env = {{ PORT = \"{port}\" }}\n"
        ),
    );
    tool.run(&["start"]).expect(0, &["migrate has ended, with code 0", "online"]);
    assert_eq!(tool.workers("api").len(), 1);
    assert_eq!(status(&tool, "migrate"), "stopped");
    // A number that was said by hand stays, also of what a file describes.
    tool.run(&["scale", "api", "2"]).expect(0, &[]);
    tool.run(&["stop", "api"]).expect(0, &[]);
    tool.run(&["start", "api"]).expect(0, &[]);
    assert_eq!(tool.workers("api").len(), 2);
    for wrong in [["reload", "phalanx.toml"], ["restart", "all"]] {
        let line = [&wrong[..], &["--only", "apj"]].concat();
        tool.run(&line).expect(2, &["no application is called `apj`", "did you mean api?"]);
    }
}

#[test]
fn one_that_is_not_replaced_and_fails_is_told_apart() {
    let tool = Tool::new();
    tool.program("fails.js", "process.exit(3);\n");
    let line = ["start", "fails.js", "-i", "1", "--no-autorestart", "--name", "app"];
    tool.run(&line).expect(4, &["code 3"]);
    tool.run(&["describe", "app"]).expect(1, &["no application"]);
    tool.program("works.js", JOB);
    let line = ["start", "works.js", "-i", "1", "--no-autorestart", "--name", "app"];
    tool.run(&line).expect(0, &["app has ended, with code 0"]);
}

#[test]
fn a_stop_while_it_starts_leaves_it_to_be_started_again() {
    let tool = Tool::new();
    let server = tool.server("server.js", "");
    let server = server.to_str().unwrap();
    let mut command = tool.command(&["start", server, "-i", "1", "--name", "app"]);
    let start = support::begin(command.env("DELAY", "600000"));
    wait::until(LONG, "the primary", || {
        let done = tool.run(&["describe", "app", "--json"]);
        done.stdout.contains("\"starting\"").then_some(())
    })
    .unwrap();
    tool.run(&["stop", "app"]).expect(0, &["app is stopped"]);
    finish(start).expect(1, &["it was stopped before it was ready"]);
    assert_eq!(status(&tool, "app"), "stopped");
    tool.run(&["delete", "app"]).expect(0, &[]);
}

#[test]
fn what_a_killed_primary_leaves() {
    let tool = Tool::new();
    tool.program(
        "deaf.py",
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)\n",
    );
    let line = ["start", "deaf.py", "-i", "1", "--ready", "online", "--no-keeper", "--name", "app"];
    tool.run(&line).expect(0, &[]);
    let (primary, workers) = (tool.primary("app"), tool.workers("app"));
    signal(primary, Signal::KILL);
    gone(primary, LONG);
    wait::until(LONG, "its state", || {
        (["orphaned", "errored"].contains(&status(&tool, "app").as_str())).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:#}", tool.about("app")));
    tool.run(&["stop", "app"]).expect(0, &["app is stopped"]);
    assert!(workers.iter().all(|pid| !process::is_alive(*pid)), "{workers:?}");
    assert_eq!(status(&tool, "app"), "stopped");
}

/// Somebody pulled the plug of both: nobody stopped it.
#[test]
fn one_that_was_killed_is_not_called_stopped() {
    let tool = Tool::new();
    let server = tool.server("server.js", "");
    let line = ["start", server.to_str().unwrap(), "-i", "1", "--no-keeper", "--name", "app"];
    tool.run(&line).expect(0, &[]);
    let (primary, workers) = (tool.primary("app"), tool.workers("app"));
    signal(primary, Signal::KILL);
    gone(primary, LONG);
    // Node's workers leave with their primary.
    workers.iter().for_each(|pid| gone(*pid, LONG));
    assert_eq!(status(&tool, "app"), "errored");
    tool.run(&["start", "app"]).expect(0, &["online"]);
}

#[test]
fn nobody_waits_for_ever_for_a_primary_that_hangs() {
    let tool = Tool::new();
    let server = tool.server("server.js", "");
    let line = ["start", server.to_str().unwrap(), "-i", "1", "--no-keeper", "--name", "app"];
    tool.run(&line).expect(0, &[]);
    let primary = tool.primary("app");
    stop_process(primary);
    let asked: Vec<_> =
        [&["reload", "app"][..], &["scale", "app", "3"]].map(|line| tool.begin(line)).into();
    for child in asked {
        finish(child).expect(1, &["does not answer", "phalanx delete app"]);
    }
    signal(primary, Signal::CONT);
    // What nobody waits for any more is not done.
    let ping = || tool.run(&["ping", "app"]);
    wait::until(LONG, "an answer", || (ping().code == Some(0)).then_some(())).unwrap();
    assert_eq!(tool.about("app")["wanted"], 1);
}

#[test]
fn words_of_several_and_what_is_attached() {
    let tool = Tool::new();
    tool.program("one.py", "import time\nprint('one', flush=True)\nwhile True: time.sleep(1)\n");
    tool.program("two.py", "import time\nprint('two', flush=True)\nwhile True: time.sleep(1)\n");
    tool.program(
        "phalanx.toml",
        "[[apps]]\nname = \"one\"\nscript = \"one.py\"\ninstances = 1\nready = \"online\"\n\
         [[apps]]\nname = \"two\"\nscript = \"two.py\"\ninstances = 1\nready = \"online\"\n",
    );
    let attached = tool.begin(&["start", "--attach"]);
    says(&tool, "one", "one", 1);
    says(&tool, "two", "two", 1);
    // It follows their logs until somebody ends it.
    wait::until(LONG, "both to run", || {
        let done = tool.run(&["list", "--json"]);
        (done.stdout.matches("\"online\"").count() >= 2).then_some(())
    })
    .unwrap();
    signal(attached.id(), Signal::TERM);
    let Done { stderr, .. } = finish(attached);
    assert!(!stderr.contains("no application is called"), "{stderr}");
    tool.run(&["delete", "all"]).expect(0, &[]);
    // A command line of several, each with its own words.
    let both = ["startOrRestart", "./one.py", "./two.py"];
    let begun = tool.begin(&both);
    finish(begun);
    for (name, program) in [("one", "./one.py"), ("two", "./two.py")] {
        let argv = tool.about(name)["argv"].to_string();
        assert!(argv.contains(program), "{name}: {argv}");
    }
}
