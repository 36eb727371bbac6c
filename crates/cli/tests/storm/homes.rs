//! Homes that are full, that become read-only, and in which somebody else listens; and names that are none.

use crate::common::{LONG, clean, signal};
use crate::place::Place;
use crate::support::{Tool, gone, pid};
use crate::{list, programs, start};
use bench::spawned::{Guarded, Signal};
use bench::{process, wait};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn names(tool: &Tool) -> Vec<String> {
    list(tool).iter().map(|app| app["name"].as_str().unwrap().to_owned()).collect()
}

/// One that serves, and one that does nothing.
fn two(tool: &Tool) {
    programs(tool);
    let server = tool.server("server.js", "");
    let server = server.to_str().unwrap();
    tool.run(&["start", server, "-i", "2", "--name", "web"]).expect(0, &["listening"]);
    tool.run(&start("idle.py", "idle")).expect(0, &["idle"]);
}

/// Nothing new can be had, and nothing is left of it; what runs goes on.
fn nothing_new_and_all_goes_on(tool: &Tool, why: &str) {
    tool.run(&start("idle.py", "new")).expect(1, &["cannot ", why]);
    assert_eq!(names(tool), ["web", "idle"]);
    assert!(!tool.app("new").exists(), "its directory is left");
    let state = fs::read_dir(tool.home.join("state")).unwrap().flatten();
    let left: Vec<_> = state
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name.starts_with("new") || name.ends_with(".new"))
        .collect();
    assert_eq!(left, [""; 0]);

    let before = tool.get().pid;
    signal(before, Signal::KILL);
    wait::until(LONG, "another worker", || {
        let now = tool.workers("web");
        (now.len() == 2 && !now.contains(&before)).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:#}", tool.about("web")));
    tool.run(&["reload", "web"]).expect(0, &["2 workers replaced"]);
    tool.run(&["scale", "web", "3"]).expect(0, &["web"]);
    tool.get();
    for words in [&["list"][..], &["ping"], &["env", "web"], &["logs", "--no-follow"]] {
        tool.run(words).expect(0, &[]);
    }
}

#[test]
fn a_full_disk_holds_up_nobody_but_those_who_need_room() {
    let place = Place::new();
    let tool = place.tool();
    two(&tool);
    place.fill();
    nothing_new_and_all_goes_on(&tool, "No space left");
    tool.run(&["save"]).expect(1, &["No space left"]);
    // It does stop; that it is to stay stopped can be written only if there is room where its register was.
    let primary = tool.primary("idle");
    let done = tool.run(&["stop", "idle"]);
    assert!(!process::is_alive(primary), "it runs");
    match done.code {
        Some(0) => assert_eq!(list(&tool)[1]["state"], "stopped"),
        _ => drop(done.expect(1, &["No space left"])),
    }
    let primary = tool.primary("web");
    tool.run(&["delete", "all"]).expect(0, &[]);
    gone(primary, LONG);
    assert_eq!(names(&tool), [""; 0]);
    place.free();
    tool.run(&start("idle.py", "new")).expect(0, &["new"]);
    tool.run(&["delete", "all"]).expect(0, &[]);
}

#[test]
fn a_home_that_becomes_read_only() {
    let mut place = Place::new();
    let tool = place.tool();
    two(&tool);
    place.close();
    nothing_new_and_all_goes_on(&tool, "Read-only file system");
    tool.run(&["save"]).expect(1, &["Read-only file system"]);
    let primaries = [tool.primary("idle"), tool.primary("web")];
    tool.run(&["stop", "idle"]).expect(1, &["Read-only file system"]);
    tool.run(&["delete", "web"]).expect(1, &["Read-only file system"]);
    for primary in primaries {
        assert!(!process::is_alive(primary), "{primary} runs");
    }
    // Nothing is forgotten that could not be.
    let ended = |app: &Value| app["state"] == "stopped" || app["state"] == "errored";
    assert!(list(&tool).iter().all(ended), "{:#?}", list(&tool));
    place.open();
    tool.run(&["start", "idle"]).expect(0, &["idle"]);
    tool.run(&["delete", "all"]).expect(0, &[]);
    assert_eq!(names(&tool), [""; 0]);
}

/// A limit on the size of files is a disk that is full for one process and those that it starts.
#[test]
fn a_limit_on_files_is_said() {
    let tool = Tool::new();
    programs(&tool);
    tool.run(&start("idle.py", "idle")).expect(0, &["idle"]);
    let limited = |words: &str| {
        // Else the kernel ends who writes too much.
        let script = format!("trap '' XFSZ; ulimit -f 0; exec \"$PHALANX\" {words}");
        let mut command = clean("/bin/sh", ["-c", &script]);
        command.env("PHALANX", crate::common::PHALANX).env("PHALANX_HOME", &tool.home);
        crate::support::finish(crate::support::begin(command.current_dir(tool.directory())))
    };
    limited("start idle.py -i 1 --ready online --name new").expect(1, &["File too large"]);
    assert_eq!(names(&tool), ["idle"]);
    assert!(!tool.app("new").exists(), "its directory is left");
    limited("list").expect(0, &["idle"]);
    limited("reload idle").expect(0, &["is done"]);
    limited("delete idle").expect(0, &[]);
    assert_eq!(names(&tool), [""; 0]);
}

#[test]
fn names_that_are_none_make_nothing() {
    let tool = Tool::new();
    programs(&tool);
    let long = "x".repeat(65);
    for name in ["a shop", "a/shop", "/shop", "\u{1f680}", "shop\u{1f680}", long.as_str()] {
        let done = tool.run(&start("idle.py", name));
        done.expect(2, &["cannot be an application's name", "--name NAME"]);
        for command in ["stop", "delete", "describe"] {
            let done = tool.run(&[command, name]).expect(1, &["no application is called"]);
            assert_eq!(done.stdout, "", "{done:?}");
        }
    }
    assert!(!tool.home.exists(), "something was made");
    // A program's name is made one.
    let program = tool.directory().join("my \u{1f680} shop.py");
    fs::rename(tool.directory().join("idle.py"), &program).unwrap();
    let words = ["start", program.to_str().unwrap(), "-i", "1", "--ready", "online"];
    tool.run(&words).expect(0, &["shop"]);
    let [name] = names(&tool).try_into().unwrap();
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    assert!(name.chars().all(plain), "{name:?}");
    tool.run(&start("idle.js", &"x".repeat(48))).expect(0, &[]);
    tool.run(&["delete", "all"]).expect(0, &[]);
}

/// Listens in the place of a primary, says what it is told to everybody, and prints what it hears.
const IMPOSTOR: &str = "import os, socket, sys\n\
    s = socket.socket(socket.AF_UNIX)\n\
    s.bind(sys.argv[1])\n\
    s.listen(64)\n\
    os.chmod(sys.argv[1], 0o666)\n\
    print('listens', flush=True)\n\
    while True:\n\
    \x20   c = s.accept()[0]\n\
    \x20   c.settimeout(5)\n\
    \x20   try:\n\
    \x20       print('heard', c.recv(1000), flush=True)\n\
    \x20       c.send(sys.argv[2].encode())\n\
    \x20       c.close()\n\
    \x20   except OSError:\n\
    \x20       pass\n";

fn impostor(tool: &Tool, says: &str, user: Option<&str>) -> Guarded {
    let socket = tool.app("app").join("control.sock");
    fs::remove_file(&socket).unwrap();
    let mut words: Vec<String> = Vec::new();
    if let Some(user) = user {
        words.extend([format!("--reuid={user}"), format!("--regid={user}")]);
        words.extend(["--clear-groups".into(), "/usr/bin/python3".into()]);
    }
    words.extend(["-c".into(), IMPOSTOR.into(), socket.to_str().unwrap().into(), says.into()]);
    let program = if user.is_some() { "setpriv" } else { "/usr/bin/python3" };
    let impostor = Guarded::spawn(&mut clean(program, words)).unwrap();
    impostor
        .wait_for_line(|line| line.contains("listens"), LONG)
        .unwrap_or_else(|error| panic!("{error}: {}", impostor.output()));
    impostor
}

fn app() -> Tool {
    let tool = Tool::new();
    programs(&tool);
    tool.run(&start("idle.py", "app")).expect(0, &["app"]);
    tool
}

/// What it says is not believed; a delete ends the real one, and nothing is left.
fn not_believed(tool: &Tool, primary: u32, why: &str) {
    for command in ["ping", "scale", "reload", "reset", "pid"] {
        let words = [command, "app", "2"];
        let words = if command == "scale" { &words[..] } else { &words[..2] };
        tool.run(words).expect(1, &["does not answer", why]);
    }
    let all = list(tool);
    assert_eq!((all.len(), &all[0]["state"]), (1, &"not answering".into()), "{all:#?}");
    assert_eq!(pid(&all[0]["primary_pid"]), primary);
    let done = tool.run(&["delete", "app"]).expect(0, &["did not answer: killed"]);
    gone(primary, LONG);
    assert_eq!(names(tool), [""; 0], "{done:?}");
    assert!(!tool.app("app").exists());
}

#[test]
fn nonsense_in_the_place_of_a_primary() {
    let tool = app();
    let primary = tool.primary("app");
    let _impostor = impostor(&tool, "{\"v\":1,\"okay\":2}\n", None);
    not_believed(&tool, primary, "not understood");
}

/// Even if it knows the language.
#[test]
fn another_users_socket_is_told_nothing() {
    let says = r#"{"v":1,"ok":{"name":"app","state":"running","pid":1,"workers":[]}}"#;
    let tool = app();
    let primary = tool.primary("app");
    let directory = tool.app("app");
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if !rustix::process::geteuid().is_root() {
        // Nobody else can be had: what is looked at is that nobody else could come there.
        let found = fs::metadata(&directory).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, 0o700);
        return;
    }
    let above = [tool.directory().to_owned(), tool.home.clone(), tool.home.join("apps")];
    above.iter().for_each(|path| mode(path, 0o755));
    mode(&directory, 0o777);
    let impostor = impostor(&tool, &format!("{says}\n"), Some("65534"));
    mode(&directory, 0o700);
    not_believed(&tool, primary, "another user's process");
    let heard = impostor.output();
    assert!(!heard.contains("cmd"), "{heard}");
}
