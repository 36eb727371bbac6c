//! `phalanx serve`: a directory of files, as an application like any other.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "tool/support.rs"]
mod support;

use bench::load::{Load, Running};
use bench::spawned::Signal;
use bench::{process, wait};
use common::{LONG, clean, is_free, signal};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use support::Tool;

/// What nobody may get.
const SECRET: &str = "the secret of this test";

/// An answer, whatever it says.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .into_iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    #[track_caller]
    fn expect(self, status: u16, body: &str) -> Self {
        assert_eq!((self.status, self.body.as_str()), (status, body), "{self:?}");
        self
    }
}

/// One request, as it is written: nothing in the path is made better on the way.
#[track_caller]
fn ask(address: SocketAddr, line: &str, headers: &str) -> Got {
    let mut stream = TcpStream::connect_timeout(&address, LONG).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
    // One that is too long is answered before all of it is read.
    let _ = stream.write_all(request.as_bytes());
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) =
        text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{line:.100}: {read:?}: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap();
    Got { status, head: head.to_owned(), body: body.to_owned() }
}

#[track_caller]
fn get(address: SocketAddr, path: &str) -> Got {
    ask(address, &format!("GET {path}"), "")
}

fn put(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A small site in `dist`, and what is none of it beside.
fn site(tool: &Tool) {
    let here = tool.directory();
    put(here, "secret.txt", SECRET);
    put(here, "dist/index.html", "<h1>first</h1>");
    put(here, "dist/app.js", "0123456789");
    put(here, "dist/sub/index.html", "second");
    put(here, "dist/sub/with space.txt", "spaced");
    put(here, "dist/.env", SECRET);
    put(here, "dist/.git/config", SECRET);
    symlink("../secret.txt", here.join("dist/link.txt")).unwrap();
    symlink(here.join("secret.txt"), here.join("dist/absolute.txt")).unwrap();
    symlink("..", here.join("dist/above")).unwrap();
    symlink("app.js", here.join("dist/within.js")).unwrap();
}

fn all(tool: &Tool) -> Vec<Value> {
    serde_json::from_str(&tool.run(&["list", "--json"]).expect(0, &[]).stdout).unwrap()
}

#[test]
fn files_and_nothing_else() {
    let tool = Tool::new();
    let at = tool.address;
    site(&tool);
    let fifo = tool.directory().join("dist/pipe");
    assert!(clean("mkfifo", [&fifo]).status().unwrap().success());
    let name = format!("static-page-server-{}", at.port());
    tool.run(&["serve", "dist", &at.to_string(), "-i", "2"]).expect(0, &[&name, "listening"]);
    assert_eq!(tool.workers(&name).len(), 2);

    let page = get(at, "/").expect(200, "<h1>first</h1>");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    get(at, "/app.js?v=1").expect(200, "0123456789");
    get(at, "/within.js").expect(200, "0123456789");
    get(at, "/sub/").expect(200, "second");
    get(at, "/sub/with%20space.txt").expect(200, "spaced");
    for (path, target) in [("/sub", "/sub/"), ("//sub", "/sub/")] {
        assert_eq!(get(at, path).expect(307, "").header("location"), Some(target), "{path}");
    }
    let head = ask(at, "HEAD /app.js", "").expect(200, "");
    assert_eq!(head.header("content-length"), Some("10"));
    assert_eq!(ask(at, "POST /app.js", "").expect(405, "").header("allow"), Some("GET,HEAD"));

    let part = ask(at, "GET /app.js", "Range: bytes=2-4\r\n").expect(206, "234");
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    ask(at, "GET /app.js", "Range: bytes=-2\r\n").expect(206, "89");
    ask(at, "GET /app.js", "Range: bytes=20-\r\n").expect(416, "");
    ask(at, "GET /app.js", "Range: bytes=0-1,4-5\r\n").expect(200, "0123456789");
    for (answer, question) in [("etag", "If-None-Match"), ("last-modified", "If-Modified-Since")] {
        let value = head.header(answer).unwrap_or_else(|| panic!("{answer}: {head:?}"));
        ask(at, "GET /app.js", &format!("{question}: {value}\r\n")).expect(304, "");
    }
    ask(at, "GET /app.js", "If-None-Match: \"other\"\r\n").expect(200, "0123456789");

    let long = format!("/{}", "a".repeat(300));
    let deep = format!("/{}", "a/".repeat(20_000));
    let endless = format!("/{}", "a".repeat(1 << 20));
    for path in [
        "/none",
        "/app.js/",
        "/app.js/more",
        "/.env",
        "/.git/config",
        "/sub/../.env",
        "/link.txt",
        "/absolute.txt",
        "/above/secret.txt",
        "/pipe",
        "/../secret.txt",
        "/../../../../../../../../etc/passwd",
        "/%2e%2e/secret.txt",
        "/%2e%2e%2fsecret.txt",
        "/..%2fsecret.txt",
        "/sub/../../secret.txt",
        "/sub/%2e%2e/%2e%2e/secret.txt",
        "/..%5csecret.txt",
        "/..\\secret.txt",
        "//../secret.txt",
        "/%252e%252e/secret.txt",
        "/%c0%ae%c0%ae/secret.txt",
        "/%00",
        "/app.js%00.html",
        "/%",
        "/%zz",
        "http://test/../secret.txt",
        &long,
        &deep,
        &endless,
    ] {
        let got = get(at, path);
        assert!((400..500).contains(&got.status), "{path:.100}: {got:?}");
        assert!(!got.body.contains(SECRET) && !got.body.contains("root:"), "{path:.100}: {got:?}");
    }
    get(at, "/none").expect(404, "404 Not Found\n");
    // A page of the site's own, whole, whatever was asked for.
    put(tool.directory(), "dist/404.html", "not here");
    ask(at, "GET /none", "Range: bytes=0-1\r\nIf-None-Match: *\r\n").expect(404, "not here");
    // What was put in the directory's place is served at once.
    put(tool.directory(), "next/index.html", "next");
    fs::rename(tool.directory().join("dist"), tool.directory().join("old")).unwrap();
    get(at, "/").expect(404, "404 Not Found\n");
    fs::rename(tool.directory().join("next"), tool.directory().join("dist")).unwrap();
    get(at, "/").expect(200, "next");
    // All of this was done by the workers of the beginning.
    assert_eq!(tool.about(&name)["restarts"], 0, "{}", tool.about(&name));
    tool.run(&["delete", &name]).expect(0, &[]);
    assert!(is_free(at) && all(&tool).is_empty());
}

#[test]
fn an_application_like_any_other() {
    let tool = Tool::new();
    let at = tool.address;
    site(&tool);
    let serve = ["expose", "dist", &at.to_string(), "-n", "site", "-i", "2"];
    tool.run(&serve).expect(0, &["site"]);
    tool.run(&serve).expect(6, &["runs already"]);
    let loads: Vec<Running> = [true, false]
        .map(|kept| Load::new(at).clients(4).path("/app.js").keep_alive(kept).start().unwrap())
        .into();
    let goes_on = || {
        for load in &loads {
            let before = load.progress().answered();
            let more = || (load.progress().answered() > before + 200).then_some(());
            wait::until(LONG, "requests", more).unwrap();
        }
    };
    goes_on();
    let primary = tool.primary("site");
    for line in [
        &["reload", "site"][..],
        &["scale", "site", "3"],
        &["upgrade", "site"],
        &["reload", "site", "--update-env"],
    ] {
        let before = tool.workers("site");
        tool.run(line).expect(0, &[]);
        goes_on();
        let after = tool.workers("site");
        let stays = line[0] != "reload";
        assert!(
            before.iter().all(|pid| after.contains(pid) == stays),
            "{line:?}: {before:?} {after:?}"
        );
    }
    assert_eq!(tool.primary("site"), primary);
    for load in loads {
        let outcome = load.stop();
        eprintln!("{outcome}");
        assert!(outcome.failed == 0 && outcome.answered > 0, "{outcome}");
        assert!(outcome.by_status.keys().eq([&200]), "{outcome}");
    }
    let killed = tool.workers("site")[0];
    signal(killed, Signal::KILL);
    let replaced = || {
        let now = tool.workers("site");
        (now.len() == 3 && !now.contains(&killed)).then_some(())
    };
    wait::until(LONG, "another worker", replaced).unwrap();
    get(at, "/app.js").expect(200, "0123456789");
    tool.run(&["stop", "site"]).expect(0, &[]);
    assert!(is_free(at));
    tool.run(&["start", "site"]).expect(0, &["listening"]);
    get(at, "/app.js").expect(200, "0123456789");
    tool.run(&["restart", "site"]).expect(0, &[]);
    get(at, "/app.js").expect(200, "0123456789");
}

#[test]
fn only_for_those_who_know() {
    const PASSWORD: &str = "hush-1234";
    let tool = Tool::new();
    let at = tool.address;
    site(&tool);
    let word = at.to_string();
    let line = ["serve", "dist", &word, "--spa", "-n", "site", "-i", "1"];
    let auth = ["--basic-auth-username", "me", "--basic-auth-password", PASSWORD];
    tool.run(&[&line[..], &auth].concat()).expect(0, &["listening"]);
    // me:hush-1234, me:other
    let (good, bad) = ("Basic bWU6aHVzaC0xMjM0", "Basic bWU6b3RoZXI=");
    let closed = get(at, "/").expect(401, "401 Unauthorized\n");
    assert!(closed.header("www-authenticate").is_some_and(|how| how.starts_with("Basic realm=")));
    for path in ["/app.js", "/none", "/../secret.txt"] {
        ask(at, &format!("GET {path}"), &format!("Authorization: {bad}\r\n"))
            .expect(401, "401 Unauthorized\n");
    }
    let known = |path: &str| ask(at, &format!("GET {path}"), &format!("Authorization: {good}\r\n"));
    known("/app.js").expect(200, "0123456789");
    for path in ["/none", "/deep/in/the/app", "/../secret.txt", "/.env", "/link.txt"] {
        known(path).expect(200, "<h1>first</h1>");
    }
    assert_eq!(ask(at, "POST /none", &format!("Authorization: {good}\r\n")).status, 405);
    let shown = ["env", "describe", "jlist", "why", "list"].map(|command| {
        let target = if ["jlist", "list"].contains(&command) { "" } else { "site" };
        let words: Vec<&str> =
            [command, target].into_iter().filter(|word| !word.is_empty()).collect();
        tool.run(&words).stdout
    });
    assert!(shown[0].contains("PM2_SERVE_BASIC_AUTH_PASSWORD"), "{}", shown[0]);
    let primary = tool.primary("site");
    let processes =
        [tool.workers("site"), vec![primary, process::stat(primary).unwrap().parent]].concat();
    let lines =
        processes.iter().map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap());
    for text in lines.chain(shown) {
        assert!(!text.contains(PASSWORD), "{text}");
    }
    // By the environment alone, and from there on without it.
    tool.run(&["delete", "site"]).expect(0, &[]);
    let mut command = tool.command(&line);
    command
        .env("PM2_SERVE_BASIC_AUTH_USERNAME", "me")
        .env("PM2_SERVE_BASIC_AUTH_PASSWORD", PASSWORD);
    support::finish(support::begin(&mut command)).expect(0, &["listening"]);
    tool.run(&["reload", "site", "--update-env"]).expect(0, &[]);
    assert_eq!(get(at, "/").status, 401, "it was closed, and is open");
    known("/app.js").expect(200, "0123456789");
}

#[test]
fn what_cannot_be_served() {
    let tool = Tool::new();
    let at = tool.address.to_string();
    site(&tool);
    for (line, code, words) in [
        (&["serve", "none", &at][..], 2, &["none: No such file", "PATH"][..]),
        (&["serve", "secret.txt", &at], 2, &["it is no directory"]),
        (&["serve", "8080"], 2, &["phalanx serve . 8080"]),
        (&["serve", "dist", "80x"], 2, &["`80x`: it is no port", "65535"]),
        (&["serve", "dist", "0"], 2, &["no port"]),
        (&["serve", "dist", "70000"], 2, &["no port"]),
        (&["serve", "dist", &at, "more"], 2, &["more"]),
        (&["serve", "dist", &at, "--basic-auth-username", "me"], 2, &["a name and a password"]),
        (&["serve", "dist", &at, "--ftp"], 2, &["--ftp", "index.html"]),
        (&["serve", "dist", &at, "--interpreter", "node"], 2, &["--interpreter means nothing"]),
        (&["serve", "dist", &at, "--spaa"], 2, &["--spa"]),
        (&["serve", "dist", &at, "-n", "a b"], 2, &["--name"]),
    ] {
        tool.run(line).expect(code, words);
    }
    let taken = TcpListener::bind(tool.address).unwrap();
    tool.run(&["serve", "dist", &at]).expect(5, &[&at, "in use"]);
    assert!(all(&tool).is_empty());
    let apps = tool.home.join("apps");
    assert_eq!(fs::read_dir(apps).unwrap().count(), 0, "something is left");
    drop(taken);
    tool.run(&["serve", "dist", &at, "--watch", "-i", "1"]).expect(0, &["--watch: not needed"]);
    get(tool.address, "/").expect(200, "<h1>first</h1>");
}

#[test]
fn of_an_ecosystem_file() {
    let tool = Tool::new();
    let at = tool.address;
    site(&tool);
    put(tool.directory(), "other/home.html", "other");
    let file = |path: &str, more: &str| {
        let text = format!(
            "module.exports = {{ apps: [{{ name: 'site', script: 'serve', instances: 2, env: {{\n\
             PM2_SERVE_PATH: '{path}', PM2_SERVE_PORT: '{at}', {more} }} }}] }};\n"
        );
        tool.program("ecosystem.config.js", &text);
    };
    file("./none", "");
    tool.run(&["start", "ecosystem.config.js"]).expect(2, &["none: No such file"]);
    assert!(all(&tool).is_empty());
    file("./dist", "PM2_SERVE_SPA: 'true', PM2_SERVE_HOMEPAGE: '/index.html'");
    tool.run(&["check", "ecosystem.config.js"]).expect(0, &["site"]);
    tool.run(&["start", "ecosystem.config.js"]).expect(0, &["listening"]);
    assert_eq!(tool.workers("site").len(), 2);
    get(at, "/app.js").expect(200, "0123456789");
    get(at, "/some/page").expect(200, "<h1>first</h1>");
    let load = Load::new(at).clients(2).keep_alive(true).path("/page").start().unwrap();
    file("./other", "PM2_SERVE_SPA: true, PM2_SERVE_HOMEPAGE: '/home.html'");
    tool.run(&["reload", "ecosystem.config.js"]).expect(0, &["PM2_SERVE_PATH"]);
    for path in ["/", "/home.html", "/page"] {
        get(at, path).expect(200, "other");
    }
    // What is not there is not taken over.
    file("./none", "");
    tool.run(&["reload", "site"]).expect(1, &["none: No such file"]);
    get(at, "/home.html").expect(200, "other");
    let outcome = load.stop();
    assert!(outcome.failed == 0 && outcome.by_status.keys().eq([&200]), "{outcome}");
}

#[test]
fn in_the_foreground() {
    let tool = Tool::new();
    let at = tool.address;
    site(&tool);
    let mut command = tool.command(&["serve", "dist", &at.to_string(), "--no-daemon", "-i", "1"]);
    let child = support::begin(&mut command);
    let serves = || TcpStream::connect(at).is_ok().then_some(());
    wait::until(LONG, "somebody who listens", serves).unwrap();
    get(at, "/app.js").expect(200, "0123456789");
    signal(child.id(), Signal::TERM);
    support::finish(child).expect(0, &[]);
    assert!(is_free(at));
}
