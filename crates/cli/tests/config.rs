//! Configuration files, and the commands that are about them: `check`, `init`, `run FILE`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "config/foreground.rs"]
mod foreground;
#[path = "tool/support.rs"]
mod support;

use insta::assert_snapshot;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use support::{Done, Tool, begin, finish};

const SERVER: &str = "require('http').createServer((q, a) => a.end('hello')).listen(process.env.PORT, '127.0.0.1');\n";

/// What is said, with what differs from machine to machine taken out.
fn said(tool: &Tool, text: &str) -> String {
    let directory = tool.directory().display().to_string();
    let mut text = text.replace(&directory, "DIR");
    for program in ["node", "python3"] {
        let path = std::env::var("PATH").unwrap();
        for place in path.split(':') {
            text = text.replace(&format!("{place}/{program} "), &format!("{program} "));
        }
    }
    text
}

/// With an environment of the test's own.
fn check(tool: &Tool, args: &[&str]) -> Done {
    let mut words = vec!["check"];
    words.extend(args);
    let mut command = tool.command(&words);
    let path = std::env::var("PATH").unwrap();
    command.env_clear().env("PATH", path).env("PHALANX_HOME", &tool.home).env("UNKNOWN", "x");
    finish(begin(&mut command))
}

#[test]
fn check_tells_what_would_run() {
    let tool = Tool::new();
    tool.program("server.js", SERVER);
    fs::create_dir(tool.directory().join("v1")).unwrap();
    symlink("v1", tool.directory().join("current")).unwrap();
    fs::write(tool.directory().join("v1/db.js"), SERVER).unwrap();
    fs::write(tool.directory().join("db.env"), "PGHOST=localhost\nPGPASSWORD='hush'\n").unwrap();
    let file = "
[[apps]]
name = 'api'
script = 'server.js'
args = '--verbose --title \"a b\"'
instances = 3
max_memory = '300M'
after = ['db']
[apps.env]
PORT = 3000
API_KEY = 'abc'
REDIS = 'redis://me:hush@localhost'
[apps.environments.production]
instances = 1

[[apps]]
name = 'db'
script = 'db.js'
cwd = 'current'
instances = 1
env_file = 'db.env'
autostart = false
pass_env = ['UNKNOWN', 'PATH']
";
    tool.program("phalanx.toml", file);
    let done = check(&tool, &[]).expect(0, &[]);
    assert_snapshot!(said(&tool, &done.stdout), @r#"
    phalanx.toml: 2 applications

    db
      command    node DIR/current/db.js
      options    --instances 1
      directory  DIR/current
      workers    1
      variables  PGHOST=localhost PGPASSWORD=(secret)
      passed on  PATH UNKNOWN
      autostart  no
      now        not there

    api
      command    node DIR/server.js --verbose --title 'a b'
      options    --instances 3 --max-memory 300M
      directory  DIR
      workers    3
      variables  API_KEY=(secret) PORT=3000 REDIS=(secret)
      passed on  PATH PHALANX_HOME
      after      db
      now        not there
    "#);
    let json = check(&tool, &["phalanx.toml", "--env", "production", "--only", "api", "--json"])
        .expect(0, &[]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["ok"], true, "{json:#}");
    let api = &json["apps"][0];
    assert_eq!(
        (&api["name"], &api["workers"], &api["exists"]),
        (&"api".into(), &"1".into(), &false.into())
    );
    assert_eq!(api["env"]["API_KEY"], "(secret)", "{json:#}");
    assert_eq!(json["apps"].as_array().unwrap().len(), 1);
    let text = json.to_string();
    assert!(!text.contains("hush") && !text.contains("abc"), "a secret is told: {text}");
    check(&tool, &["--only", "apx"])
        .expect(2, &["no application is called `apx`; did you mean api?", "(there are api, db)"]);
    check(&tool, &["--env", "prod"]).expect(1, &["`prod`: there are production"]);
}

#[test]
fn check_tells_all_that_is_wrong() {
    let tool = Tool::new();
    tool.program("server.js", SERVER);
    let file = "
apps:
  - name: api
    script: server.js
    max_memroy: 1G
    grace: soon
  - name: other
    script: ./nothing.js
  - name: away
    script: server.js
    cwd: nowhere
";
    tool.program("phalanx.yaml", file);
    let done = check(&tool, &[]).expect(1, &["4 things are wrong"]);
    let errors: Vec<&str> = done.stdout.lines().filter(|line| line.starts_with("error")).collect();
    assert_snapshot!(said(&tool, &errors.join("\n")), @r"
    error    phalanx.yaml: apps[0] (api): max_memroy: there is no such key; did you mean max_memory?
    error    phalanx.yaml: apps[0] (api): grace: `soon`: expected a number of milliseconds, or one with ms, s, m or h
    error    phalanx.yaml: other: cannot start `DIR/nothing.js`: No such file or directory (os error 2); check the name; it is looked for in DIR
    error    phalanx.yaml: away: cwd: DIR/nowhere is no directory
    ");
    // Nothing of it is started, nor is anything left.
    tool.run(&["start", "phalanx.yaml"]).expect(1, &["2 things are wrong", "max_memroy", "soon"]);
    assert!(
        !tool.home.join("apps").exists()
            || fs::read_dir(tool.home.join("apps")).unwrap().next().is_none()
    );
}

/// A program is looked for with the application's $PATH, and not with this shell's.
#[test]
fn check_looks_as_the_application_will() {
    let tool = Tool::new();
    tool.program("server.js", SERVER);
    tool.program("phalanx.toml", "script = 'server.js'\npass_env = []\n");
    check(&tool, &[]).expect(1, &["node", "1 thing is wrong"]);
    tool.program("phalanx.toml", "script = 'server.js'\npass_env = ['PATH']\n");
    check(&tool, &[]).expect(0, &["server.js"]);
}

#[test]
fn odd_files() {
    let tool = Tool::new();
    for (name, text, words) in [
        ("empty.toml", &b""[..], "empty.toml: there is no application in it"),
        ("empty.json", b"", "there is no application in it"),
        ("empty.yaml", b"# nothing\n", "there is no application in it"),
        ("binary.toml", b"a = 1\n\xff\xfe\x00", "binary.toml:2: it is no text (UTF-8)"),
        ("binary.yaml", b"\x7fELF\x02\x01\x01\x00", "binary.yaml"),
        (
            "mark.toml",
            b"\xef\xbb\xbfscript = 'none-of-that-name'",
            "cannot start `none-of-that-name`",
        ),
    ] {
        fs::write(tool.directory().join(name), text).unwrap();
        check(&tool, &[name]).expect(1, &[words]);
    }
    fs::write(tool.directory().join("large.json"), vec![b'['; 10 << 20]).unwrap();
    check(&tool, &["large.json"]).expect(1, &["more than 1 MiB"]);
    fs::create_dir(tool.directory().join("directory.toml")).unwrap();
    check(&tool, &["directory.toml"]).expect(1, &["it is no file"]);
    for command in ["check", "start", "run", "reload"] {
        tool.run(&[command, "none.toml"]).expect(2, &["none.toml"]);
    }
    check(&tool, &["none.toml"]).expect(2, &["there is no configuration file none.toml"]);
    check(&tool, &["app.js"]).expect(1, &["no configuration file by its name"]);
    check(&tool, &[]).expect(2, &["no configuration file here", "phalanx init"]);
    // It would wait for somebody who writes.
    let pipe = Command::new("mkfifo").arg(tool.directory().join("pipe.toml")).status();
    assert!(pipe.unwrap().success());
    check(&tool, &["pipe.toml"]).expect(1, &["it is no file"]);
}

#[test]
fn files_that_are_programs() {
    let tool = Tool::new();
    tool.program("server.js", SERVER);
    tool.program("lib.js", "module.exports = { port: 4000 };\n");
    let common = "console.log('a line'); process.stdout.write('{\"apps\": []}');\n\
        require('child_process').execSync('echo from a child', { stdio: 'inherit' });\n\
        module.exports = { apps: [{ name: 'api', script: 'server.js', instances: 1, env: { PORT: require('./lib').port } }] };\n";
    let module = "import lib from './lib.js';\nconsole.log('a line');\n\
        export default { apps: [{ name: 'api', script: 'server.js', instances: 1, env: { PORT: lib.port } }] };\n\
        setInterval(() => {}, 1000);\n";
    let names = "export const apps = [{ name: 'api', script: 'server.js', instances: 1, env: { PORT: await Promise.resolve(4000) } }];\n";
    for (name, text) in [
        ("ecosystem.config.js", common),
        ("a.config.cjs", common),
        ("b.config.mjs", module),
        ("phalanx.config.mjs", names),
    ] {
        tool.program(name, text);
        let done = check(&tool, &[name, "--json"]).expect(0, &[]);
        let json: Value =
            serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"));
        let api = &json["apps"][0];
        assert_eq!(
            (&api["name"], &api["env"]["PORT"]),
            (&"api".into(), &"4000".into()),
            "{name}: {json:#}"
        );
        assert_eq!(done.stderr.contains("a line"), text.contains("a line"), "{name}: {done:?}");
    }
    for (name, text, words) in [
        (
            "throws.config.js",
            "\nconst x = 1;\nthrow new Error('no luck');",
            "throws.config.js:3: no luck",
        ),
        ("syntax.config.mjs", "export default {", "syntax.config.mjs"),
        ("exits.config.js", "process.exit(0);", "node ended without telling what it exports"),
        (
            "waits.config.mjs",
            "await new Promise(() => {});",
            "node ended without telling what it exports",
        ),
        ("function.config.js", "module.exports = () => ({});", "it exports a function"),
        ("promise.config.js", "module.exports = Promise.resolve({});", "it exports a Promise"),
        ("nothing.config.js", "", "there is no application in it"),
        ("circle.config.js", "const a = {}; a.a = a; module.exports = a;", "circular"),
        ("esm.config.cjs", "export default {};", "esm.config.cjs"),
        ("large.config.js", "module.exports = { script: 'x'.repeat(2 << 20) };", "more than 1 MiB"),
    ] {
        tool.program(name, text);
        check(&tool, &[name]).expect(1, &[words]);
    }
}

#[test]
fn what_init_writes_runs() {
    let tool = Tool::new();
    let port = tool.address.port();
    tool.program("app.js", SERVER);
    for name in [
        "phalanx.toml",
        "phalanx.yml",
        "phalanx.json",
        "x.json5",
        "ecosystem.config.js",
        "x.config.mjs",
    ] {
        tool.run(&["init", name]).expect(0, &["is written", "app.js", "phalanx check"]);
        check(&tool, &[name, "--env", "production"])
            .expect(0, &["1 application, environment production", "app.js"]);
    }
    tool.run(&["init"])
        .expect(1, &["phalanx.toml is there already; nothing was changed", "--force"]);
    tool.run(&["init", "--force"]).expect(0, &["is written"]);
    tool.run(&["init", "x.txt"]).expect(2, &["no configuration file by its name", ".toml"]);
    // What the directory tells goes before what files are called.
    tool.program("package.json", r#"{ "scripts": { "start": "node app.js" } }"#);
    tool.run(&["init", "-f"]).expect(0, &["it runs npm start"]);
    let text = fs::read_to_string(tool.directory().join("phalanx.toml")).unwrap();
    tool.program(
        "phalanx.toml",
        &text.replace("NODE_ENV = \"development\"", &format!("PORT = {port}")),
    );
    check(&tool, &[]).expect(0, &["app.js"]);
}

/// What `check` says is what `reload` does; a link is followed anew, and what was taken out of the file is gone.
#[test]
fn a_changed_file_is_applied() {
    let tool = Tool::new();
    let port = tool.address.port();
    let program = |version: &str| {
        format!(
            "const answer = {{ pid: process.pid, slot: 0, version: '{version}', env: process.env }};\n\
             require('http').createServer((q, a) => a.end(JSON.stringify(answer))).listen(process.env.PORT, '127.0.0.1');\n"
        )
    };
    for version in ["v1", "v2"] {
        fs::create_dir(tool.directory().join(version)).unwrap();
        fs::write(tool.directory().join(version).join("server.js"), program(version)).unwrap();
    }
    let link = tool.directory().join("current");
    symlink("v1", &link).unwrap();
    let file = |env: &str, memory: &str| {
        let text = format!(
            "[[apps]]\nname = 'shop'\nscript = 'server.js'\ncwd = 'current'\ninstances = 1\nmax_memory = '{memory}'\n\
             env = {{ PORT = {port}, {env} }}\n"
        );
        tool.program("phalanx.toml", &text);
    };
    let ask = || {
        let script =
            format!("fetch('http://127.0.0.1:{port}').then((r) => r.text()).then(console.log)");
        let done = Command::new("node").args(["-e", &script]).output().unwrap();
        serde_json::from_slice::<Value>(&done.stdout)
            .unwrap_or_else(|error| panic!("{error}: {done:?}"))
    };
    file("COLOUR = 'red', TOKEN = 'one'", "300M");
    tool.run(&["start"]).expect(0, &["shop"]);
    assert_eq!((&ask()["version"], &ask()["env"]["COLOUR"]), (&"v1".into(), &"red".into()));
    tool.run(&["check"]).expect(0, &["runs; nothing would change"]);
    file("TOKEN = 'two', SIZE = 4", "400M");
    fs::remove_file(&link).unwrap();
    symlink("v2", &link).unwrap();
    let words = [
        "max-memory: 300M → 400M",
        "env TOKEN: changed",
        "env COLOUR: removed",
        "env SIZE: not set → 4",
    ];
    tool.run(&["check"]).expect(0, &words).expect(0, &["runs; would change:"]);
    let done = tool.run(&["reload", "phalanx.toml"]).expect(0, &words);
    assert!(!format!("{done:?}").contains("two"), "a secret is told: {done:?}");
    let answer = ask();
    assert_eq!(
        (&answer["version"], &answer["env"]["SIZE"]),
        (&"v2".into(), &"4".into()),
        "{answer:#}"
    );
    assert!(answer["env"]["COLOUR"].is_null(), "it is still there: {answer:#}");
    // A file that is wrong changes nothing.
    tool.program("phalanx.toml", "[[apps]]\nname = 'shop'\nscrpt = 'server.js'\n");
    tool.run(&["reload", "phalanx.toml"]).expect(1, &["scrpt", "did you mean script?"]);
    assert_eq!(ask()["pid"], answer["pid"]);
}

/// A reload keeps the environment that it was started with, and so does what `check` foretells.
#[test]
fn check_compares_in_the_environment_that_runs() {
    let tool = Tool::new();
    tool.server("server.js", "");
    let file = |grace: &str| {
        let text = format!(
            "[[apps]]\nname = 'shop'\nscript = 'server.js'\ninstances = 1\npass_env = true\n[apps.environments.production]\n\
             grace = '{grace}'\nenv = {{ STAGE = 'p' }}\n"
        );
        tool.program("phalanx.toml", &text);
    };
    file("20s");
    tool.run(&["start", "phalanx.toml", "--env", "production"]).expect(0, &["shop"]);
    // As whoever started it: what is passed on is the same.
    let check = |args: &[&str]| tool.run(&[&["check"], args].concat()).expect(0, &[]).stdout;
    let text = check(&[]);
    assert!(text.contains("runs, environment production; nothing would change"), "{text}");
    let text = check(&["--env", "production"]);
    assert!(text.contains("runs; nothing would change"), "{text}");
    file("25s");
    let text = check(&[]);
    assert!(text.contains("grace: 20s → 25s") && !text.contains("STAGE"), "{text}");
    let json: Value = serde_json::from_str(&check(&["--json"])).unwrap();
    let app = &json["apps"][0];
    assert_eq!(
        (&app["environment"], &app["changes"]),
        (&"production".into(), &serde_json::json!(["grace: 20s → 25s"])),
        "{json:#}"
    );
    let done = tool.run(&["reload", "phalanx.toml"]).expect(0, &["grace: 20s → 25s"]);
    assert!(!done.stdout.contains("STAGE"), "{done:?}");
    let text = check(&[]);
    assert!(text.contains("nothing would change"), "{text}");
    // It is gone: a reload could not take it.
    let text = "[[apps]]\nname = 'shop'\nscript = 'server.js'\nenvironments.other.grace = '1s'\n";
    tool.program("phalanx.toml", text);
    let text = check(&[]);
    assert!(text.contains("a reload fails: no application knows the environment"), "{text}");
    tool.run(&["reload", "shop"]).expect(1, &["no application knows the environment"]);
}

/// Of one file with several applications, which other processes look into as well.
#[test]
fn a_warning_is_said_once() {
    let tool = Tool::new();
    tool.server("server.js", "");
    let (one, other) = (tool.address.port(), bench::wait::free_port());
    let file = |grace: u32| {
        let app = |name: &str, port: u16| {
            format!(
                "{{ name: '{name}', script: 'server.js', kill_timeout: {grace}, pmx: true, env: {{ PORT: {port} }} }}"
            )
        };
        let (a, b) = (app("a", one), app("b", other));
        tool.program("ecosystem.config.js", &format!("module.exports = {{ apps: [{a}, {b}] }};\n"));
    };
    file(20000);
    let count = |args: &[&str]| {
        let done = tool.run(args).expect(0, &[]);
        let said = format!("{}{}", done.stdout, done.stderr);
        let of = |name: &str| said.matches(&format!("({name}): pmx is pm2's")).count();
        (of("a"), of("b"), said)
    };
    for args in [&["start"][..], &["reload", "ecosystem.config.js"]] {
        let (a, b, said) = count(args);
        assert_eq!((a, b), (1, 1), "{args:?}: {said}");
        file(25000);
    }
}

#[test]
fn the_schema_is_printed() {
    let tool = Tool::new();
    // It is more than a pipe holds.
    let done = tool.command(&["check", "--schema"]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let schema: Value = serde_json::from_slice(&done.stdout).unwrap();
    let app = &schema["$defs"]["app"]["properties"];
    for key in
        ["script", "max_memory", "max_memory_restart", "autorestart", "env_file", "environments"]
    {
        assert!(app[key].is_object(), "{key}");
    }
}
