//! What people see: lists, descriptions, progress, completions, the doctor; on terminals (a pty) and elsewhere.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "tool/support.rs"]
mod support;
#[path = "show/terminal.rs"]
mod terminal;

use bench::spawned::Signal;
use bench::wait;
use common::{LONG, PHALANX, clean, signal, stop_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Tool, begin, finish};
use terminal::Terminal;

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An application that listens on a port of its own, of any number.
fn start(tool: &Tool, name: &str, more: &[&str]) {
    let server = tool.program(
        "server.js",
        "require('http').createServer((_, response) => response.end()).listen(process.env.PORT, '127.0.0.1');\n",
    );
    let args = ["start", path(&server), "-i", "1", "--name", name];
    let mut command = tool.command(&args.iter().chain(more).copied().collect::<Vec<_>>());
    finish(begin(command.env("PORT", wait::free_port().to_string()))).expect(0, &["listening"]);
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn lists_for_programs() {
    let tool = Tool::new();
    let none = tool.run(&["list", "--json"]).expect(0, &[]);
    assert_eq!(json(&none.stdout), Value::Array(Vec::new()));
    start(&tool, "shop", &["--namespace", "web"]);
    start(&tool, "api", &[]);
    start(&tool, "batch", &[]);
    tool.run(&["stop", "batch"]).expect(0, &[]);

    let plain = tool.run(&["list"]).expect(0, &[]);
    assert!(!plain.stdout.contains('\u{1b}'), "{plain:?}");
    let rows: Vec<Vec<&str>> =
        plain.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.iter().all(|row| row.len() == 14), "a word in each column: {plain:?}");
    let apps: Vec<_> =
        rows[1..].iter().filter(|row| row[2] == "-").map(|row| (row[1], row[8])).collect();
    assert_eq!(apps, [("shop", "online"), ("api", "online"), ("batch", "stopped")], "{plain:?}");
    assert_eq!(rows[1][4], "web", "{plain:?}");
    assert_eq!(rows[2][8], "listening", "{plain:?}");

    let order = |args: &[&str]| -> Vec<String> {
        let done = tool.run(args).expect(0, &[]);
        let names = done.stdout.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap());
        names.map(str::to_owned).collect()
    };
    assert_eq!(order(&["ls", "-m", "--sort", "name"]), ["api", "batch", "shop"]);
    assert_eq!(order(&["status", "--short", "--sort", "name:desc"]), ["shop", "batch", "api"]);
    assert_eq!(order(&["l", "-m", "web"]), ["shop"]);

    let all = json(&tool.run(&["list", "--json"]).stdout);
    let keys = [
        "name",
        "id",
        "namespace",
        "status",
        "state",
        "primary_pid",
        "uptime_ms",
        "version",
        "argv",
        "cwd",
        "foreground",
        "config",
        "program_version",
        "user",
        "restarts",
        "memory_bytes",
        "cpu_percent",
        "watching",
        "cron",
        "policy",
        "ports",
        "wanted",
        "ready",
        "workers",
        "waiting",
        "reload",
        "logs",
    ];
    for app in all.as_array().unwrap() {
        for key in keys {
            assert!(app.get(key).is_some(), "no {key} in {app:#}");
        }
    }
    assert_eq!((&all[0]["status"], &all[2]["status"]), (&"online".into(), &"stopped".into()));
    assert_eq!(all[0]["workers"].as_array().map(Vec::len), Some(1), "{all:#}");
    let about = tool.about("shop");
    assert!(about["environment"].as_array().unwrap().contains(&"PORT".into()), "{about:#}");
    assert!(!about["environment"].to_string().contains(path(&tool.home)), "{about:#}");
    let both = json(&tool.run(&["describe", "shop", "api", "--json"]).stdout);
    assert_eq!((&both[0]["name"], &both[1]["name"]), (&"shop".into(), &"api".into()));
    tool.run(&["describe", "shop"]).expect(0, &["status      online", "namespace   web", "PATH"]);
}

#[test]
fn one_that_hangs_costs_the_others_nothing() {
    let tool = Tool::new();
    for name in ["one", "two", "three"] {
        start(&tool, name, &[]);
    }
    let hangs = tool.primary("two");
    stop_process(hangs);
    let done = tool.run(&["list", "-m"]).expect(0, &[]);
    let statuses: Vec<_> =
        done.stdout.lines().skip(1).map(|line| line.split_whitespace().nth(8).unwrap()).collect();
    assert_eq!(statuses, ["online", "not-answering", "online"], "{done:?}");
    let all = json(&tool.run(&["list", "--json"]).expect(0, &[]).stdout);
    assert_eq!(all[1]["primary_pid"], hangs, "{all:#}");
    tool.run(&["describe", "two"]).expect(0, &["not answering", "`delete` kills it"]);
    let done = tool.run(&["doctor"]).expect(1, &["`phalanx delete two --now` kills it"]);
    assert!(done.stdout.contains("problem"), "{done:?}");
    signal(hangs, Signal::CONT);
    wait::until(LONG, "it to answer again", || {
        (tool.about("two")["status"] == "online").then_some(())
    })
    .unwrap();
}

#[test]
fn lists_on_terminals() {
    let tool = Tool::new();
    start(&tool, "shop", &[]);
    let shown = |columns: u16, variables: &[(&str, &str)], words: &str| {
        let terminal = Terminal::new(columns, 24);
        let mut command = tool.command(&["list"]);
        command.env_remove("NO_COLOR").env("TERM", "xterm").envs(variables.iter().copied());
        let process = terminal.spawn(&mut command);
        let text = terminal.wait_for(words);
        process.wait_exit();
        text
    };
    let wide = shown(120, &[], "127.0.0.1:");
    assert!(wide.contains("\u{1b}[32monline\u{1b}[0m"), "{wide:?}");
    let wide = shown(120, &[("NO_COLOR", "1")], "listening");
    assert!(wide.contains("PORTS") && !wide.contains('\u{1b}'), "{wide:?}");
    let narrow = shown(40, &[("NO_COLOR", "1")], "online");
    assert!(!narrow.contains("PORTS") && !narrow.contains("listening"), "{narrow:?}");
    assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow:?}");
    let mut forced = tool.command(&["list"]);
    let done = finish(begin(forced.env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR")));
    assert!(done.stdout.contains("\u{1b}[32monline"), "{done:?}");
}

#[test]
fn lists_that_are_watched() {
    let tool = Tool::new();
    start(&tool, "shop", &[]);
    for key in [Some("q"), None] {
        let terminal = Terminal::new(100, 24);
        let before = terminal.modes();
        let process = terminal.spawn(&mut tool.command(&["list", "--watch"]));
        // Drawn twice, in place.
        terminal.until("two drawings", |text| text.matches("q ends").count() > 1);
        assert!(!terminal.modes().contains("ICANON"), "keys have to be seen at once");
        match key {
            Some(key) => terminal.write(key),
            // As Ctrl-C.
            None => signal(process.pid(), Signal::INT),
        }
        assert_eq!(process.wait_exit().code(), Some(0), "{key:?}");
        let text = terminal.wait_for("\u{1b}[?1049l");
        assert!(text.contains("\u{1b}[?1049h") && text.contains("shop"), "{text:?}");
        assert_eq!(terminal.modes(), before, "the terminal is as it was");
    }
    // Elsewhere: one after the other, until nobody reads any more.
    let mut command = tool.command(&["list", "--watch", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let all =
            json(&lines.by_ref().find(|line| !line.as_ref().unwrap().is_empty()).unwrap().unwrap());
        assert_eq!(all[0]["name"], "shop");
    }
    drop(lines);
    let ended = wait::until(LONG, "its end", || child.try_wait().unwrap());
    if ended.is_err() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(ended.unwrap().code(), Some(0));
}

#[test]
fn progress_on_a_terminal_and_elsewhere() {
    let tool = Tool::new();
    let server = tool.server("server.js", "");
    let terminal = Terminal::new(120, 24);
    let args = ["start", path(&server), "-i", "2", "--name", "shop"];
    let process = terminal.spawn(tool.command(&args).env("DELAY", "700"));
    terminal.wait_for("0 of 2 ready · worker 1 in slot 0 ");
    terminal.wait_for("listening");
    assert_eq!(process.wait_exit().code(), Some(0), "{}", terminal.text());
    // What was waited for is not there any more: the line was erased before the table was written.
    let text = terminal.text();
    let after = text.rsplit("\r\u{1b}[K").next().unwrap();
    assert!(after.contains("NAME") && !after.contains("ready"), "{text:?}");

    let terminal = Terminal::new(120, 24);
    let process = terminal.spawn(&mut tool.command(&["reload", "shop"]));
    terminal.wait_for("of 2 ready · ");
    let text = terminal.wait_for("2 workers replaced, no connection is known to be cut");
    assert!(text.contains('✓') && text.contains("reload 1 is done"), "{text:?}");
    assert_eq!(process.wait_exit().code(), Some(0));

    let done = tool.run(&["reload", "shop"]).expect(0, &["shop: 2 workers replaced"]);
    assert!(!done.stdout.contains('✓') && !done.stderr.contains('\u{1b}'), "{done:?}");
    tool.server("server.js", "throw new Error('broken on purpose');");
    let terminal = Terminal::new(120, 24);
    let process = terminal.spawn(&mut tool.command(&["reload", "shop"]));
    terminal.wait_for("✗");
    terminal.wait_for("broken on purpose");
    assert_eq!(process.wait_exit().code(), Some(1));
}

#[test]
fn completions_in_bash() {
    let tool = Tool::new();
    start(&tool, "shop", &["--namespace", "web"]);
    let terminal = Terminal::new(120, 24);
    let mut bash = clean("bash", ["--norc", "--noprofile", "-i"]);
    bash.env("PS1", "ready> ").env("PHALANX_HOME", &tool.home).env("TERM", "dumb");
    bash.env("HISTFILE", "/dev/null").current_dir(tool.directory());
    let process = terminal.spawn(&mut bash);
    terminal.wait_for("ready> ");
    terminal.write(&format!("source <('{PHALANX}' completions bash) && echo sour''ced\n"));
    terminal.wait_for("sourced");
    for (typed, completed) in [
        ("phalanx reload sh", "phalanx reload shop "),
        ("phalanx describe we", "phalanx describe web "),
        ("phalanx descr", "phalanx describe "),
        ("phalanx list --sh", "phalanx list --short "),
        ("phalanx start ser", "phalanx start server.js "),
    ] {
        let before = terminal.text().len();
        terminal.write(&format!("{typed}\t"));
        terminal.until(completed, |text| text[before..].contains(completed));
        // The line is thrown away.
        terminal.write("\u{15}");
    }
    terminal.write("exit\n");
    process.wait_exit();
}

/// As a shell's script asks.
fn asked(tool: &Tool, words: &[&str]) -> support::Done {
    let mut command: Command = tool.command(&["--"]);
    command.args(words).env("PHALANX_COMPLETE", "bash").env("_CLAP_IFS", "\n");
    command.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    finish(begin(&mut command))
}

#[test]
fn completions_say_nothing_but_names() {
    let tool = Tool::new();
    // There is no home yet.
    assert_eq!(asked(&tool, &["phalanx", "stop", ""]).expect(0, &[]).stderr, "");
    start(&tool, "shop", &[]);
    start(&tool, "shelf", &[]);
    for (words, names) in [
        (&["phalanx", "stop", "sh"][..], &["shelf", "shop"][..]),
        (&["phalanx", "stop", "shop", "she"], &["shelf"]),
        (&["phalanx", "logs", "1"], &["1"]),
        (&["phalanx", "scale", "al"], &["all"]),
        (&["phalanx", "completions", "po"], &["powershell"]),
    ] {
        let done = asked(&tool, words).expect(0, &[]);
        let mut told: Vec<&str> = done.stdout.lines().collect();
        told.sort_unstable();
        assert_eq!(told, names, "{words:?}: {done:?}");
    }
    // Somebody is typing: whatever is wrong is not said there.
    fs::set_permissions(&tool.home, fs::Permissions::from_mode(0o777)).unwrap();
    let done = asked(&tool, &["phalanx", "stop", "sh"]).expect(0, &[]);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""));
    fs::set_permissions(&tool.home, fs::Permissions::from_mode(0o700)).unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell", "pwsh"] {
        let done = tool.run(&["completions", shell]).expect(0, &["PHALANX_COMPLETE", PHALANX]);
        assert_eq!(done.stderr, "", "{shell}");
    }
    tool.run(&["completions", "tcsh"]).expect(2, &["hint:"]);
}

#[test]
fn the_doctor() {
    let tool = Tool::new();
    start(&tool, "shop", &[]);
    let done = tool.run(&["doctor"]).expect(0, &["Kernel", "SO_REUSEPORT", "node", "0 problems"]);
    assert!(!done.stdout.contains('\u{1b}'), "{done:?}");
    let told = json(&tool.run(&["doctor", "--json"]).expect(0, &[]).stdout);
    assert_eq!(told["ok"], true, "{told:#}");
    for finding in told["findings"].as_array().unwrap() {
        for key in ["group", "name", "level", "what", "advice"] {
            assert!(finding.get(key).is_some(), "{finding:#}");
        }
    }
    let levels = |told: &Value, name: &str| -> Vec<String> {
        let all = told["findings"].as_array().unwrap().iter();
        all.filter(|one| one["name"] == name)
            .map(|one| one["level"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(levels(&told, "applications"), ["ok"], "{told:#}");
    assert_eq!(levels(&told, "logs"), ["ok"], "{told:#}");

    fs::set_permissions(&tool.home, fs::Permissions::from_mode(0o777)).unwrap();
    let done = tool.run(&["doctor", "--json"]).expect(1, &[]);
    fs::set_permissions(&tool.home, fs::Permissions::from_mode(0o700)).unwrap();
    let told = json(&done.stdout);
    assert_eq!(told["ok"], false, "{told:#}");
    assert_eq!(levels(&told, "home"), ["problem"], "{told:#}");
}
