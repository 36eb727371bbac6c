//! What people type who know pm2: their options and commands do here what they did there, or say what does.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "habits/site.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod site;
#[path = "tool/support.rs"]
mod support;

use bench::spawned::Signal;
use bench::wait;
use common::{LONG, clean, phalanx};
use site::{Site, put, server, word};
use std::fs;
use support::{Done, Tool, gone};

/// Each option as pm2's users write it, and what is said of it.
const OPTIONS: [(&[&str], &str); 62] = [
    (&["-n", "other"], ""),
    (&["-i", "2"], ""),
    (&["-i", "max"], ""),
    (&["-i", "0"], ""),
    (&["-i", "-1"], ""),
    (&["--instances", "2"], ""),
    (&["-a"], ""),
    (&["--update-env"], ""),
    (&["-f"], ""),
    (&["--force"], ""),
    (&["--interpreter", "none"], ""),
    (&["--cwd", "/"], ""),
    (&["--watch"], ""),
    (&["--watch=lib"], ""),
    (&["--watch", "--ignore-watch=node_modules logs"], ""),
    (&["--watch", "--watch-delay", "4"], ""),
    (&["--watch", "--watch-delay", "4000ms"], ""),
    (&["--watch", "--ext", "js,ts"], ""),
    (&["--max-memory-restart", "200M"], ""),
    (&["--wait-ready"], ""),
    (&["--listen-timeout", "10000"], ""),
    (&["-k", "5000"], ""),
    (&["--kill-timeout", "5000"], ""),
    (&["--kill-signal", "SIGINT"], ""),
    (&["--shutdown-with-message"], ""),
    (&["-c", "0 3 * * *"], ""),
    (&["--cron", "0 3 * * *"], ""),
    (&["--cron-restart=0 3 * * *"], ""),
    (&["--cron-restart", "0"], ""),
    (&["--restart-delay", "3000"], ""),
    (&["--exp-backoff-restart-delay=100"], ""),
    (&["--max-restarts", "10"], ""),
    (&["--min-uptime", "5000"], ""),
    (&["--no-autorestart"], ""),
    (&["--stop-exit-codes", "0,1"], ""),
    (&["--namespace", "shop"], ""),
    (&["--uid", "0"], ""),
    (&["--gid", "0"], ""),
    (&["--instance-var", "SLOT"], ""),
    (&["--increment-var", "PORT"], ""),
    (&["--filter-env=AWS"], ""),
    (&["--parallel", "2"], ""),
    (&["-p", "app.pid"], ""),
    (&["--pid", "app.pid"], ""),
    (&["-s"], ""),
    (&["--silent"], ""),
    (&["--no-color"], ""),
    (&["--treekill"], ""),
    (&["--exec-mode", "cluster"], ""),
    (&["--no-treekill"], "--no-treekill: what a worker started ends with it"),
    (&["-x"], "--execute-command is pm2's, and not needed here"),
    (&["-w"], "--write is pm2's, and not needed here"),
    (&["--no-vizion"], "--no-vizion is pm2's, and not needed here"),
    (&["--no-pmx", "--no-automation"], "--no-pmx, --no-automation are pm2's, and not needed here"),
    (&["--trace"], "--trace: nothing is traced"),
    (&["--disable-trace"], "--disable-trace is pm2's, and not needed here"),
    (&["--v8"], "--v8: --stats logs the heap"),
    (&["--event-loop-inspector"], "--event-loop-inspector: --stats logs the event loop"),
    (&["--deep-monitoring"], "--deep-monitoring: --stats logs"),
    (&["--source-map-support"], "--source-map-support: --node-args=--enable-source-maps does it"),
    (&["--disable-source-map-support"], "--disable-source-map-support is pm2's"),
    (&["-m"], "--mini-list: `phalanx list -m` shows it"),
];

#[test]
fn every_option_before_and_after_the_program() {
    let tool = Tool::new();
    let program = fs::canonicalize("/bin/true").unwrap();
    for (number, (option, said)) in OPTIONS.iter().enumerate() {
        for (place, before, after) in [("a", *option, &[][..]), ("b", &[][..], *option)] {
            let named = format!("{place}{number}");
            let mut words = vec!["start", "--no-autostart"];
            if !option.contains(&"-n") {
                words.extend(["--name", &named]);
            }
            words.extend(before);
            words.push(word(&program));
            words.extend(after);
            let done = tool.run(&words);
            let Done { code, stderr, .. } = &done;
            let of_option = stderr.lines().filter(|line| !line.contains(" is noted: "));
            let lines: Vec<&str> = of_option.collect();
            assert_eq!(*code, Some(0), "{words:?}: {done:?}");
            match *said {
                "" => assert!(lines.is_empty(), "{words:?}: {done:?}"),
                said => assert!(
                    matches!(lines.as_slice(), [line] if line.contains(said)),
                    "{words:?}: {done:?}"
                ),
            }
        }
    }
}

#[test]
fn what_there_is_not_is_refused_with_what_there_is() {
    let tool = Tool::new();
    for (line, hint) in [
        (&["start", "/bin/true", "--container"][..], "`phalanx run` is the first process"),
        (&["start", "/bin/true", "--node-version", "8"], "--interpreter"),
        (&["start", "/bin/true", "--kill-signal", "SIGKILL"], "--kill-after"),
        (&["start", "/bin/true", "--increment-var", "NO_SUCH"], "NO_SUCH=3000"),
        (&["install", "pm2-server-monit"], "there are no modules"),
        (&["set", "pm2-logrotate:max_size", "50M"], "phalanx init"),
        (&["conf"], "there are no modules"),
        (&["link", "a", "b"], "nothing is sent"),
        (&["plus"], "nothing is sent"),
        (&["trigger", "app", "action"], "phalanx send"),
        (&["attach", "0"], "phalanx logs"),
        (&["web"], "list --json"),
        (&["cleardump"], "delete all"),
        (&["backward", "app"], "git"),
        (&["inspect", "app"], "--inspect"),
        (&["logrotate", "-u", "me"], "rotated"),
        (&["completion", "install"], "phalanx completions"),
    ] {
        let done = tool.run(line).expect(2, &[hint]);
        assert!(done.stdout.is_empty(), "{done:?}");
    }
    tool.run(&["install", "pm2-logrotate"]).expect(0, &["not needed"]);
    tool.run(&["reloda"]).expect(2, &["reload"]);
    let help = tool.run(&["--help"]).expect(0, &["reload"]).stdout;
    let help = help + &tool.run(&["run", "--help"]).expect(0, &["--wait-ready"]).stdout;
    for hidden in ["monit", "jlist", "--no-pmx", "--deep-monitoring", "--container"] {
        assert!(!help.contains(hidden), "{hidden} is in the help");
    }
}

#[test]
fn commands_that_are_called_otherwise() {
    let tool = Tool::new();
    let server = tool.server("server.js", "");
    let server = word(&server);
    tool.run(&["kill"]).expect(0, &["nothing runs"]);
    tool.run(&["start", server, "-i", "1", "--name", "app", "-s"]).expect(0, &[]);
    let before = tool.workers("app");
    for list in ["jlist", "prettylist"] {
        let all: serde_json::Value = serde_json::from_str(&tool.run(&[list]).stdout).unwrap();
        assert_eq!(all[0]["name"], "app", "{all:#}");
        assert_eq!(all[0]["pm2_env"]["status"], "online", "{all:#}");
        let pid = all[0]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        assert_eq!(pid.into_iter().collect::<Vec<_>>(), before, "{all:#}");
    }
    tool.run(&["startOrReload", "app"]).expect(0, &["reload 1 is done"]);
    tool.run(&["gracefulReload", "app"]).expect(0, &["reload 2 is done"]);
    assert_ne!(tool.workers("app"), before);
    let primary = tool.primary("app");
    tool.run(&["kill"]).expect(0, &[]);
    gone(primary, LONG);
    tool.run(&["startOrRestart", "app"]).expect(0, &["listening"]);
    assert_eq!(tool.workers("app").len(), 1);
    tool.run(&["delete", "all", "--silent"]).expect(0, &[]);
}

#[test]
fn an_application_is_ready_when_it_says_so() {
    let tool = Tool::new();
    let flag = tool.directory().join("flag");
    let begin = format!(
        "const look = setInterval(() => {{ if (!require('fs').existsSync('{}')) return;\n\
         clearInterval(look); process.send('ready'); }}, 20);",
        word(&flag)
    );
    let server = tool.server("server.js", &begin);
    let server = word(&server);
    let line = ["start", server, "-i", "1", "--name", "app", "--wait-ready"];
    tool.run(&[&line[..], &["--wait", "1ms"]].concat()).expect(4, &["is not ready"]);
    // It answers, and that is not enough.
    wait::until(LONG, "an answer", || common::get(tool.address, "/", LONG).ok()).unwrap();
    assert!(tool.workers("app").is_empty(), "{:#}", tool.about("app"));
    fs::write(&flag, "").unwrap();
    wait::until(LONG, "the worker", || (tool.workers("app").len() == 1).then_some(())).unwrap();
    // In a reload the old worker stays until the new one has said it.
    let old = tool.workers("app");
    fs::remove_file(&flag).unwrap();
    let reload = tool.begin(&["reload", "app"]);
    let state = || tool.about("app")["workers"].as_array().map(Vec::len);
    wait::until(LONG, "the second worker", || (state() == Some(2)).then_some(())).unwrap();
    assert_eq!(tool.workers("app"), old);
    fs::write(&flag, "").unwrap();
    support::finish(reload).expect(0, &["is done"]);
    assert_ne!(tool.workers("app"), old);
    tool.run(&["delete", "app"]).expect(0, &[]);

    let never = tool.server("never.js", "");
    let line =
        ["start", word(&never), "--wait-ready", "--listen-timeout", "300", "--max-restarts", "1"];
    tool.run(&line).expect(4, &["not ready within"]);
}

#[test]
fn the_handler_that_pm2_documents_loses_nothing() {
    let graceful = "process.on('SIGINT', () => { console.log('on SIGINT'); server.close(() => { console.log('all is closed'); process.exit(0); }); });";
    let site = Site::run(&server("'here'", graceful), &["-i", "2"]);
    let loads = site.load();
    (1..=3).for_each(|number| site.cluster.reload(number));
    site.lost_nothing(loads);
    site.cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(site.cluster.wait_gone(LONG), 0, "{}", site.output());
    for words in ["on SIGINT", "all is closed"] {
        assert_eq!(site.output().matches(words).count(), 8, "{}", site.output());
    }
}

#[test]
fn the_message_shutdown() {
    let told = "process.on('message', (message) => { if (message !== 'shutdown') return;\n\
        console.log('told to shut down'); server.close(() => process.exit(0)); });\n\
        process.on('SIGTERM', () => console.log('on SIGTERM'));";
    for more in [&[][..], &["--no-preload"]] {
        let args = [&["-i", "2", "--shutdown-with-message"], more].concat();
        let site = Site::run(&server("'here'", told), &args);
        let load = site.load().into_iter().filter(|_| more.is_empty()).collect();
        site.cluster.reload(1);
        site.lost_nothing(load);
        site.cluster.process.signal(Signal::TERM).unwrap();
        assert_eq!(site.cluster.wait_gone(LONG), 0, "{}", site.output());
        let said = site.output();
        assert_eq!(said.matches("told to shut down").count(), 4, "{more:?}: {said}");
        assert!(!said.contains("on SIGTERM"), "{more:?}: {said}");
    }
}

#[test]
fn the_signal_that_ends_a_worker() {
    let handlers = "for (const name of ['SIGTERM', 'SIGINT', 'SIGQUIT']) process.on(name, () => { console.log('on', name); process.exit(0); });";
    let site = Site::run(&server("'here'", handlers), &["-i", "1", "--kill-signal", "SIGQUIT"]);
    site.cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(site.cluster.wait_gone(LONG), 0, "{}", site.output());
    assert!(site.output().contains("on SIGQUIT"), "{}", site.output());

    // A program that knows nothing, and ends well only by Ctrl-C.
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().canonicalize().unwrap();
    let program = "import http.server, os, json\n\
        class H(http.server.BaseHTTPRequestHandler):\n\
        \x20   def log_message(self, *all): pass\n\
        \x20   def do_GET(self):\n\
        \x20       self.send_response(200); self.end_headers(); self.wfile.write(json.dumps({'says': 'here'}).encode())\n\
        try:\n\
        \x20   http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n\
        except KeyboardInterrupt:\n\
        \x20   print('interrupted', flush=True)\n";
    fs::write(directory.join("app.py"), program).unwrap();
    let mut command = phalanx(["run", "app.py", "-i", "1", "--kill-signal", "INT"]);
    command.current_dir(&directory);
    let site = Site::of(command, directory);
    site.cluster.process.signal(Signal::TERM).unwrap();
    assert_eq!(site.cluster.wait_gone(LONG), 0, "{}", site.output());
    assert!(site.output().contains("interrupted"), "{}", site.output());
}

/// The environment of the worker in slot 1.
fn environment(args: &[&str], more: &[(&str, &str)]) -> serde_json::Value {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().canonicalize().unwrap();
    let tell = "if (process.env.NODE_APP_INSTANCE === '1') require('fs').writeFileSync('env~', JSON.stringify(process.env)), require('fs').renameSync('env~', 'env');";
    fs::write(directory.join("server.js"), server("'here'", tell)).unwrap();
    let args = [&["run", "server.js", "-i", "2", "--name", "shop"], args].concat();
    let mut command = phalanx(&args);
    command.current_dir(&directory).envs(more.iter().copied());
    let site = Site::begin(command, directory.clone());
    let text = site.cluster.until("the environment", || fs::read(directory.join("env")).ok());
    site.cluster.process.signal(Signal::QUIT).unwrap();
    site.cluster.process.wait_exit(LONG).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn variables_of_workers() {
    let more = [("AWS_KEY", "x"), ("MY_AWS", "x"), ("KEPT", "x"), ("FIRST", "3000")];
    let env = environment(
        &["--instance-var", "SLOT", "--increment-var", "FIRST", "--filter-env=AWS"],
        &more,
    );
    for (name, value) in [
        ("NODE_APP_INSTANCE", "1"),
        ("pm_id", "1"),
        ("SLOT", "1"),
        ("FIRST", "3001"),
        ("KEPT", "x"),
    ] {
        assert_eq!(env[name], value, "{name}: {env:#}");
    }
    for name in ["AWS_KEY", "MY_AWS", "name", "namespace", "exec_mode"] {
        assert!(env.get(name).is_none(), "{name}: {env:#}");
    }
    let env = environment(&["--compat-env", "--namespace", "all-shops"], &more);
    for (name, value) in [
        ("name", "shop"),
        ("namespace", "all-shops"),
        ("instances", "2"),
        ("exec_mode", "cluster_mode"),
        ("AWS_KEY", "x"),
    ] {
        assert_eq!(env[name], value, "{name}: {env:#}");
    }
    assert!(
        env["pm_exec_path"].as_str().is_some_and(|path| path.ends_with("/server.js")),
        "{env:#}"
    );
}

#[test]
fn a_file_with_the_process_to_signal() {
    for keeper in [&[][..], &["--keeper"]] {
        let args = [&["-i", "1", "--pid", "app.pid"], keeper].concat();
        let site = Site::run(&server("'here'", ""), &args);
        let file = site.directory.join("app.pid");
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text, format!("{}\n", site.cluster.pid()), "{keeper:?}");
        site.cluster.process.signal(Signal::TERM).unwrap();
        assert_eq!(site.cluster.wait_gone(LONG), 0, "{}", site.output());
        assert!(!file.exists(), "{keeper:?}");
    }
}

#[test]
fn start_in_the_foreground() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().canonicalize().unwrap();
    put(&directory.join("server.js"), &server("'here'", ""));
    let mut command = phalanx(["start", "--watch", "server.js", "--no-daemon", "-i", "1"]);
    command.current_dir(&directory);
    let site = Site::of(command, directory);
    site.cluster.line(0, "watching ");
    site.cluster.stop();
}

#[test]
fn start_and_follow() {
    let tool = Tool::new();
    let server = tool.server("server.js", "console.log('hello from', process.pid);");
    let line = ["start", word(&server), "--attach", "-i", "1", "-n", "app"];
    let follows = common::spawn(&mut tool.command(&line));
    let said = follows.wait_for_line(|line| line.contains("hello from"), LONG);
    assert!(said.is_ok(), "{said:?}: {}", follows.output());
    assert_eq!(tool.workers("app").len(), 1);
    follows.signal(Signal::TERM).unwrap();
    follows.wait_exit(LONG).unwrap();
    assert_eq!(tool.workers("app").len(), 1, "only the showing ends");
    tool.run(&["delete", "app"]).expect(0, &[]);
}

/// As they are in pm2's documentation, but for what needs a network.
#[test]
fn documented_lines() {
    let tool = Tool::new();
    tool.server("app.js", "");
    let package = "{ \"name\": \"web\", \"scripts\": { \"start\": \"node app.js\" } }";
    tool.program("package.json", package);
    let lines: [&[&str]; 6] = [
        &["start", "app.js"],
        &["start", "app.js", "--name", "api", "-i", "max", "--", "--port", "3000"],
        &["start", "npm", "--name", "web", "--", "run", "start"],
        &["start", "app.js", "--watch", "--ignore-watch=node_modules logs"],
        &[
            "start",
            "app.js",
            "--max-memory-restart",
            "300M",
            "--listen-timeout",
            "10000",
            "--kill-timeout",
            "5000",
        ],
        &["start", "app.js", "--cron-restart", "0 3 * * *", "--exp-backoff-restart-delay=100"],
    ];
    for line in lines {
        tool.run(line).expect(0, &["listening"]);
        for line in
            [&["reload", "all"][..], &["restart", "0"], &["stop", "/./"], &["delete", "all"]]
        {
            tool.run(line).expect(0, &[]);
        }
    }
    let text = "import http.server, os\nhttp.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), http.server.SimpleHTTPRequestHandler).serve_forever()\n";
    tool.program("served.py", text);
    tool.run(&["start", "python3 -m served", "--name", "py", "-i", "2"]).expect(0, &["listening"]);
    tool.run(&["delete", "py"]).expect(0, &[]);
    // The shell's word for it is the same.
    let line = "cd \"$DIR\" && \"$PHALANX\" start -f app.js -n api -i 1 && \"$PHALANX\" delete api";
    let mut command = clean("/bin/sh", ["-c", line]);
    command.env("PHALANX", common::PHALANX).env("DIR", tool.directory());
    command.env("PHALANX_HOME", &tool.home).env("PORT", tool.address.port().to_string());
    support::finish(support::begin(&mut command)).expect(0, &["listening"]);
}
