//! Applications in the background: `phalanx start`, and what is done to them afterwards.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "tool/hostile.rs"]
mod hostile;
#[path = "tool/leftovers.rs"]
mod leftovers;
#[path = "tool/support.rs"]
mod support;

use bench::{process, wait};
use common::{LONG, is_free, node, signal};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use support::{Tool, finish, gone, pid};

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_whole_story() {
    let tool = Tool::at("a home with spaces");
    let server = tool.server("server.js", "console.log('hello from', process.pid);");
    let server = path(&server);
    let words = ["NAME", "SLOT", "PID", "RESTARTS", "MEMORY", "bar", "listening"];
    tool.run(&["start", server, "-i", "2", "--name", "bar"]).expect(0, &words);
    tool.run(&["list"]).expect(0, &words);

    let about = tool.about("bar");
    assert_eq!((&about["name"], &about["state"]), (&"bar".into(), &"running".into()), "{about:#}");
    let workers = tool.workers("bar");
    assert_eq!(workers.len(), 2, "{about:#}");
    let primary = tool.primary("bar");
    for (slot, worker) in about["workers"].as_array().unwrap().iter().enumerate() {
        assert_eq!(worker["slot"], slot, "{about:#}");
        assert_eq!(worker["state"], "listening", "{about:#}");
        assert!(worker["memory_bytes"].as_u64().unwrap() > 1 << 20, "{about:#}");
        assert_eq!(process::stat(pid(&worker["pid"])).unwrap().parent, primary);
    }
    assert_eq!(about["ports"][0]["address"], tool.address.to_string(), "{about:#}");
    assert_eq!(about["ports"][0]["policy"], "direct", "{about:#}");
    assert_eq!(about["cwd"], path(&tool.directory().canonicalize().unwrap()), "{about:#}");
    assert_eq!(about["argv"][0], server, "{about:#}");
    assert!(workers.contains(&tool.get().pid));

    // A session of its own, and nothing of the terminal.
    let session = rustix::process::getsid(rustix::process::Pid::from_raw(primary.cast_signed()));
    let keeper = process::stat(primary).unwrap().parent;
    assert_eq!(session.unwrap().as_raw_pid().cast_unsigned(), keeper);
    let stdin = fs::read_link(format!("/proc/{primary}/fd/0")).unwrap();
    assert_eq!(stdin, tool.app("bar").canonicalize().unwrap().join("lock"));
    for worker in &workers {
        for fd in fs::read_dir(format!("/proc/{worker}/fd")).unwrap().flatten() {
            let file = fs::read_link(fd.path()).unwrap_or_default();
            assert!(!file.starts_with(&tool.home), "worker {worker} has {}", file.display());
        }
    }

    let all: Value = serde_json::from_str(&tool.run(&["list", "--json"]).stdout).unwrap();
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all:#}");
    assert_eq!(all[0]["primary_pid"], primary, "{all:#}");

    tool.run(&["reload", "bar"]).expect(0, &["reload 1 begins", "reload 1 is done"]);
    let new = tool.workers("bar");
    assert!(new.iter().all(|pid| !workers.contains(pid)), "{workers:?} {new:?}");
    assert_eq!(tool.primary("bar"), primary);
    let about = tool.about("bar");
    assert_eq!(about["reload"]["state"], "done", "{about:#}");
    assert_eq!(about["workers"][0]["restarts"], 0, "a reload is no restart: {about:#}");

    for (count, workers) in [("+2", 4), ("3", 3), ("-2", 1)] {
        tool.run(&["scale", "bar", count]).expect(0, &["bar"]);
        assert_eq!(tool.about("bar")["wanted"], workers);
    }
    tool.run(&["scale", "bar", "-1"]).expect(1, &["1 workers and -1 are 0"]);
    tool.run(&["scale", "bar", "none"]).expect(2, &["expected a number"]);

    tool.run(&["why", "bar"]).expect(0, &["reload", "scale"]);
    let last = tool.workers("bar");
    tool.run(&["upgrade", "bar"]).expect(0, &["has taken over", "listening"]);
    assert_eq!((tool.workers("bar"), tool.primary("bar")), (last, primary));
    for word in ["describe", "stop", "delete", "reload", "why"] {
        tool.run(&[word, "foo"]).expect(1, &["no application is called `foo`", "there are bar"]);
    }

    tool.run(&["stop", "bar"]).expect(0, &[]);
    gone(primary, LONG);
    assert!(is_free(tool.address));
    assert_eq!(tool.about("bar")["state"], "stopped");
    tool.run(&["list"]).expect(0, &["bar", "stopped"]);
    tool.run(&["reload", "bar"]).expect(1, &["bar does not run"]);

    tool.run(&["start", server, "-i", "1", "--name", "bar"]).expect(0, &["listening"]);
    let last = tool.primary("bar");
    tool.run(&["delete", "bar"]).expect(0, &[]);
    gone(last, LONG);
    assert!(is_free(tool.address));
    assert!(!tool.app("bar").exists());
    let said = fs::read_to_string(tool.home.join("logs/bar-out.log")).unwrap();
    assert!(said.contains(&format!("hello from {}\n", workers[0])), "{said}");
    tool.run(&["list"]).expect(0, &["no application was started"]);
}

#[test]
fn a_python_program_under_its_own_name() {
    let tool = Tool::new();
    let text = "import http.server, os, sys\n\
        class H(http.server.BaseHTTPRequestHandler):\n\
        \x20   def do_GET(self):\n\
        \x20       self.send_response(200); self.end_headers(); self.wfile.write(str(os.getpid()).encode())\n\
        print('ready', os.getpid())\n\
        http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n";
    tool.program("app.py", text);
    let port = tool.address.port().to_string();
    tool.run(&["start", "-i", "2", "--", "./app.py", &port]).expect(0, &["app", "listening"]);
    let workers = tool.workers("app");
    let out = tool.home.join("logs/app-out.log");
    // What Python prints into a pipe comes at once.
    for pid in &workers {
        wait::until(LONG, "a line", || {
            fs::read_to_string(&out).ok()?.contains(&format!("ready {pid}\n")).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {:?}", fs::read_to_string(&out)));
    }
    signal(workers[0], bench::spawned::Signal::KILL);
    wait::until(LONG, "the replacement", || {
        let about = tool.about("app");
        (about["ready"] == 2 && about["workers"][0]["restarts"] == 1).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:#}", tool.about("app")));
    tool.run(&["reload", "app"]).expect(0, &["is done"]);
    tool.run(&["delete", "all"]).expect(0, &[]);
    assert!(!tool.app("app").exists());
    assert!(is_free(tool.address));
}

#[test]
fn what_cannot_start_says_why_and_leaves_nothing() {
    let tool = Tool::new();
    tool.program("broken.js", "throw new Error('broken on purpose');");
    let words = ["no worker became ready", "broken on purpose"];
    let done = tool.run(&["start", "broken.js", "-i", "2"]).expect(4, &words);
    assert!(done.stderr.contains("its workers said last:"), "{done:?}");
    assert!(!tool.app("broken.js").exists());

    tool.run(&["start", "nothing.js"]).expect(3, &["nothing.js", "hint:"]);
    let server = node("server.js");
    let taken = std::net::TcpListener::bind(tool.address).unwrap();
    let address = tool.address.to_string();
    let args = ["start", path(&server), "--name", "x", "--listen", &address];
    tool.run(&args).expect(5, &["cannot listen on", &address, "hint:"]);
    drop(taken);
    assert_eq!(fs::read_dir(tool.home.join("apps")).unwrap().count(), 0);
    tool.run(&["start", path(&server), "--name", "x", "--app-dir", "/"]).expect(2, &[]);
    tool.run(&["start"]).expect(2, &["PROGRAM"]);
    // The name is free again.
    tool.run(&["start", path(&server), "-i", "1", "--name", "x"]).expect(0, &["listening"]);
}

#[test]
fn one_that_takes_its_time_goes_on() {
    let tool = Tool::new();
    tool.program("never.js", "setInterval(() => {}, 1000);");
    let args = ["start", "never.js", "-i", "1", "--name", "slow", "--wait", "300ms"];
    tool.run(&args).expect(4, &["slow is not ready after 300ms", "phalanx delete slow"]);
    let about = wait::until(LONG, "a worker that is online", || {
        let about = tool.about("slow");
        (about["workers"][0]["state"] == "online").then_some(about)
    })
    .unwrap_or_else(|error| panic!("{error}: {:#}", tool.about("slow")));
    assert_eq!((&about["ready"], &about["wanted"]), (&0.into(), &1.into()), "{about:#}");
    tool.run(&["delete", "slow", "--now"]).expect(0, &[]);
    gone(pid(&about["primary_pid"]), LONG);
}

#[test]
fn a_reload_to_broken_code_fails_and_the_old_workers_serve() {
    let tool = Tool::new();
    let server = tool.server("server.js", "");
    tool.run(&["start", path(&server), "-i", "2", "--name", "app"]).expect(0, &[]);
    let workers = tool.workers("app");
    tool.server("server.js", "throw new Error('broken on purpose');");
    let words = ["app: the reload failed", "broken on purpose"];
    tool.run(&["reload", "app"]).expect(1, &words);
    let about = tool.about("app");
    assert_eq!(about["reload"]["state"], "failed", "{about:#}");
    assert_eq!(tool.workers("app"), workers);
    assert!(workers.contains(&tool.get().pid));
}

#[test]
fn a_client_that_is_interrupted_does_not_end_the_reload() {
    let tool = Tool::new();
    let server = tool.server("server.js", "");
    let mut start = tool.command(&["start", path(&server), "-i", "2", "--name", "app"]);
    finish(support::begin(start.env("DELAY", "4000"))).expect(0, &["listening"]);
    let workers = tool.workers("app");
    let reload = tool.begin(&["reload", "app"]);
    wait::until(LONG, "the reload", || {
        (tool.about("app")["reload"]["state"] == "running").then_some(())
    })
    .unwrap();
    signal(reload.id(), bench::spawned::Signal::TERM);
    let done = finish(reload);
    assert_eq!(done.code, None, "it was interrupted: {done:?}");
    wait::until(LONG, "the end of the reload", || {
        (tool.about("app")["reload"]["state"] == "done").then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:#}", tool.about("app")));
    wait::until(LONG, "the old workers to leave", || {
        let now = tool.workers("app");
        (now.len() == 2 && now.iter().all(|pid| !workers.contains(pid))).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:#}", tool.about("app")));
}

#[test]
fn a_name_that_runs_is_refused() {
    let tool = Tool::new();
    let server = node("server.js");
    let start = ["start", path(&server), "-i", "1", "--name", "app"];
    tool.run(&start).expect(0, &[]);
    let primary = tool.primary("app");
    let words = ["runs already", &format!("process {primary}"), "phalanx reload app"];
    tool.run(&start).expect(6, &words);
    assert_eq!(tool.primary("app"), primary);
    tool.get();
}

#[test]
fn of_two_starts_at_once_one_wins() {
    let tool = Tool::new();
    let server = node("server.js");
    for round in 0..3 {
        let starts: Vec<Child> = (0..4)
            .map(|_| tool.begin(&["start", path(&server), "-i", "1", "--name", "app"]))
            .collect();
        let done: Vec<_> = starts.into_iter().map(finish).collect();
        let mut codes: Vec<_> = done.iter().filter_map(|done| done.code).collect();
        codes.sort_unstable();
        assert_eq!(codes, [0, 6, 6, 6], "round {round}: {done:#?}");
        tool.get();
        tool.run(&["delete", "app"]).expect(0, &[]);
    }
}

#[test]
fn names_that_cannot_be() {
    let tool = Tool::new();
    let server = node("server.js");
    let long = "n".repeat(65);
    for name in ["", ".", "..", "a/b", "../x", "a b", "a\nb", "all", "-x", "ä", &long] {
        let name = format!("--name={name}");
        let done = tool.run(&["start", path(&server), "-i", "1", &name]);
        done.expect(2, &["cannot be an application's name", "hint:"]);
    }
    assert!(!tool.home.exists());
    // What begins with a slash is no way out of the home.
    tool.run(&["describe", "../../etc"]).expect(1, &["no application is called"]);
    tool.run(&["delete", "/"]).expect(1, &["no application is called"]);
}

#[test]
fn homes_that_cannot_be() {
    let server = node("server.js");
    let start = |tool: &Tool| tool.run(&["start", path(&server), "-i", "1", "--name", "app"]);

    let tool = Tool::at(&"long/".repeat(30));
    start(&tool).expect(2, &["the path of the control socket has", "PHALANX_HOME"]);
    assert!(!tool.home.exists());

    let tool = Tool::new();
    fs::create_dir(&tool.home).unwrap();
    fs::set_permissions(&tool.home, fs::Permissions::from_mode(0o777)).unwrap();
    start(&tool).expect(1, &["others may write to it", "chmod go-w"]);

    let tool = Tool::new();
    fs::write(&tool.home, "").unwrap();
    start(&tool).expect(1, &["cannot use the directory"]);

    // The last directory that is looked for, and a link that somebody else has put in it.
    let tool = Tool::new();
    fs::create_dir_all(tool.home.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", tool.home.join("apps")).unwrap();
    start(&tool).expect(1, &["it is a link or a file, put there by somebody"]);
    fs::remove_file(tool.home.join("apps")).unwrap();
}

#[test]
fn homes_of_the_session() {
    // Where it has to be found; whatever happens, it is deleted from there.
    let tool = Tool::at("session/phalanx");
    let (session, state) = (tool.directory().join("session"), tool.directory().join("state"));
    fs::create_dir(&session).unwrap();
    fs::create_dir(&state).unwrap();
    let run = |args: &[&str]| {
        let mut command = tool.command(args);
        command.env_remove("PHALANX_HOME").env("XDG_RUNTIME_DIR", &session);
        finish(support::begin(command.env("XDG_STATE_HOME", &state)))
    };
    let server = node("server.js");
    run(&["start", path(&server), "-i", "1", "--name", "app"]).expect(0, &["listening"]);
    assert!(session.join("phalanx/apps/app/control.sock").exists());
    assert!(state.join("phalanx/logs/app-out.log").exists());
    run(&["list"]).expect(0, &["app", "listening"]);
    run(&["delete", "app"]).expect(0, &[]);
    assert!(!tool.app("app").exists());
}

#[test]
fn workers_lines_stay_whole() {
    let tool = Tool::new();
    // Each line in two pieces, with time for the other worker's in between.
    let begin = "let n = 0;\nconst say = () => { const me = process.pid; process.stdout.write(`<${me} ${n}`);\n\
        setTimeout(() => { process.stdout.write(` ${me} ${n}>\\n`); if (++n < 50) setTimeout(say, 2); }, 10); };\nsay();";
    let server = tool.server("server.js", begin);
    tool.run(&["start", path(&server), "-i", "2", "--name", "app"]).expect(0, &[]);
    let workers: BTreeSet<String> = tool.workers("app").iter().map(u32::to_string).collect();
    let log = tool.home.join("logs/app-out.log");
    let text = wait::until(LONG, "a hundred lines", || {
        fs::read_to_string(&log).ok().filter(|text| text.lines().count() >= 100)
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", fs::read_to_string(&log)));
    for line in text.lines() {
        let words: Vec<&str> =
            line.split([' ', '<', '>']).filter(|word| !word.is_empty()).collect();
        let whole = words.len() == 4 && words[..2] == words[2..] && workers.contains(words[0]);
        assert!(whole, "{line:?} in {text}");
    }
}
