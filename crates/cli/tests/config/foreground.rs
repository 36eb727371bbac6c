//! `phalanx run FILE`: in the foreground, one application or several.

use crate::common::{LONG, signal};
use crate::support::{Done, Tool, begin, finish, gone};
use bench::spawned::Signal;
use bench::{process, wait};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Child;

/// Answers with its process, its directory and a variable; says that it is told to end.
const SERVER: &str = "
const text = () => JSON.stringify({ pid: process.pid, cwd: process.cwd(), env: process.env });
const server = require('http').createServer((request, response) => response.end(text()));
setTimeout(() => server.listen(process.env.PORT, '127.0.0.1'), Number(process.env.DELAY ?? 0));
";

fn ask(port: u16) -> Option<serde_json::Value> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok()?;
    stream.set_read_timeout(Some(LONG)).ok()?;
    write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
}

#[track_caller]
fn serves(port: u16, child: &mut Child) -> serde_json::Value {
    wait::until(LONG, "an answer", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended: {}", said(child));
        ask(port)
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

fn said(child: &mut Child) -> String {
    let mut text = String::new();
    let _ = child.stderr.as_mut().map(|stderr| stderr.read_to_string(&mut text));
    text
}

fn end(mut child: Child, with: Signal) -> Done {
    assert!(child.try_wait().unwrap().is_none(), "it ended by itself: {}", said(&mut child));
    signal(child.id(), with);
    finish(child)
}

/// The processes below one.
fn below(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn one_application_takes_the_place() {
    let tool = Tool::new();
    fs::create_dir(tool.directory().join("app")).unwrap();
    fs::write(tool.directory().join("app/server.js"), SERVER).unwrap();
    let port = tool.address.port();
    tool.program(
        "phalanx.toml",
        &format!("script = 'server.js'\ncwd = 'app'\ninstances = 1\nenv = {{ PORT = {port}, GIVEN = 'yes' }}\nenv_production.STAGE = 'p'\n"),
    );
    let mut command = tool.command(&["run", "phalanx.toml", "--env", "production"]);
    let mut child = begin(command.env("NOT_DECLARED", "x"));
    let answer = serves(port, &mut child);
    let env = &answer["env"];
    assert_eq!((&env["GIVEN"], &env["STAGE"]), (&"yes".into(), &"p".into()), "{answer:#}");
    assert!(env["NOT_DECLARED"].is_null(), "{answer:#}");
    assert!(answer["cwd"].as_str().unwrap().ends_with("/app"), "{answer:#}");
    let worker = u32::try_from(answer["pid"].as_u64().unwrap()).unwrap();
    assert!(below(child.id()).contains(&worker), "its primary is the process that was started");
    end(child, Signal::TERM).expect(0, &["SIGTERM"]);
    gone(worker, LONG);
    tool.run(&["run", "phalanx.toml", "-i", "2"])
        .expect(2, &["--instances", "in the file: instances"]);
    tool.run(&["run", "other.toml"]).expect(2, &["no configuration file other.toml"]);
}

#[test]
fn several_serve_in_order_and_end_together() {
    let tool = Tool::new();
    tool.program("server.js", SERVER);
    // A migration that has to be done first: the others find what it leaves.
    let mark = tool.directory().join("done");
    tool.program(
        "migrate.js",
        &format!(
            "require('fs').writeFileSync({:?}, 'x');\nprocess.exit(0);\n",
            mark.display().to_string()
        ),
    );
    let first = "if (!require('fs').existsSync(process.env.MARK)) process.exit(9);\n";
    tool.program("api.js", &format!("{first}{SERVER}"));
    let (api, db) = (tool.address.port(), wait::free_port());
    let text = format!(
        "
[[apps]]
name = 'api'
script = 'api.js'
instances = 2
max_restarts = 1
after = ['db', 'migrate']
env = {{ PORT = {api}, MARK = {mark:?} }}
[[apps]]
name = 'db'
script = 'server.js'
instances = 1
env = {{ PORT = {db}, DELAY = 300 }}
[[apps]]
name = 'migrate'
script = 'migrate.js'
instances = 1
stop_exit_codes = [0]
"
    );
    tool.program("phalanx.toml", &text);
    let mut child = begin(&mut tool.command(&["run", "phalanx.toml"]));
    let answer = serves(api, &mut child);
    assert!(mark.exists() && ask(db).is_some(), "it was started before those that it waits for");
    assert_eq!(answer["env"]["NODE_APP_INSTANCE"].as_str().map(str::len), Some(1), "{answer:#}");
    let primaries = below(child.id());
    assert_eq!(primaries.len(), 2, "a primary for each that runs");
    // Both obey what the parent is told.
    let before = ask(db).unwrap()["pid"].clone();
    signal(child.id(), Signal::USR2);
    wait::until(LONG, "a reload", || ask(db).filter(|answer| answer["pid"] != before)).unwrap();
    let done = end(child, Signal::TERM).expect(0, &[]);
    assert!(!done.stderr.contains("killed"), "{done:?}");
    for pid in primaries {
        assert!(!process::is_alive(pid), "{pid} outlives its parent");
    }
    assert!(ask(api).is_none() && ask(db).is_none());
}

#[test]
fn a_failure_ends_all() {
    let tool = Tool::new();
    tool.program("server.js", SERVER);
    tool.program("broken.js", "setTimeout(() => process.exit(3), 100);\n");
    let port = tool.address.port();
    let text = format!(
        "apps:\n- {{ name: good, script: server.js, instances: 1, env: {{ PORT: {port} }} }}\n\
         - {{ name: bad, script: broken.js, instances: 1, after: good, max_restarts: 1 }}\n\
         - {{ name: never, script: server.js, after: bad }}\n"
    );
    tool.program("phalanx.yaml", &text);
    let done = tool.run(&["run", "phalanx.yaml"]);
    // As `run` of that one would: no worker became ready.
    done.expect(
        4,
        &["bad: it ended with exit code 4; the others are told to stop", "phalanx: bad: it ended"],
    );
    assert!(ask(port).is_none());
}

/// Nobody is there any more who would stop them.
#[test]
fn without_the_parent_they_drain_and_stop() {
    let tool = Tool::new();
    tool.program("server.js", SERVER);
    let (one, other) = (tool.address.port(), wait::free_port());
    let app = |name: &str, port: u16| {
        format!(
            "[[apps]]\nname = '{name}'\nscript = 'server.js'\ninstances = 1\nenv.PORT = {port}\n"
        )
    };
    tool.program("phalanx.toml", &(app("one", one) + &app("other", other)));
    let mut child = begin(&mut tool.command(&["run", "phalanx.toml"]));
    serves(one, &mut child);
    serves(other, &mut child);
    let primaries = below(child.id());
    assert_eq!(primaries.len(), 2);
    signal(child.id(), Signal::KILL);
    for pid in primaries {
        gone(pid, LONG);
    }
    child.wait().unwrap();
    assert!(ask(one).is_none() && ask(other).is_none());
}
