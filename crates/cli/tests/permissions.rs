//! What workers may do, and how much, as real workers have it: of Node, of Python, of the crate.
//!
//! Only root gives a worker another user. Where the tests are not run by root, what needs it has to be refused
//! with clear words, and that is what is tested then.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "permissions/confined.rs"]
mod confined;
#[path = "permissions/refused.rs"]
mod refused;
#[path = "permissions/worker.rs"]
mod worker;

use common::LONG;
use std::fs;
use worker::{App, Place, is_root, low_port, refused_here};

/// All that is not about the files that a worker sees.
const ALL: &[&str] = &[
    "--user=nobody",
    "--no-new-privs",
    "--capabilities=none",
    "--umask=027",
    "--nice=5",
    "--open-files=100:200",
    "--core=none",
];

/// That workers with [`ALL`] have that, and the primary has not. `files`: how many descriptors they are content with.
fn has_all(app: &App, files: &str) {
    for worker in app.workers(2) {
        let nobody = ["65534"; 4].join("\t");
        for (field, value) in [
            ("Uid", nobody.as_str()),
            ("Gid", &nobody),
            ("Umask", "0027"),
            ("CapInh", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
        ] {
            assert_eq!(worker.status(field), value, "{field}\n{}", app.output());
        }
        assert_eq!(worker.limit("Max open files"), (files.into(), "200".into()));
        assert_eq!(worker.limit("Max core file size"), ("0".into(), "0".into()));
        assert_eq!(worker.nice(), 5);
    }
    let primary = app.primary();
    assert!(primary.status("Uid").starts_with("0\t"), "the primary keeps its rights");
    assert_eq!((primary.status("NoNewPrivs").as_str(), primary.nice()), ("0", 0));
    assert_ne!(primary.status("CapEff"), "0000000000000000");
}

#[test]
fn python_with_nothing_serves_a_port_below_1024() {
    if !is_root() {
        return refused_here(ALL);
    }
    let (place, port) = (Place::new(), low_port());
    let port_option = format!("--port={port}");
    let options = [ALL, &[&port_option]].concat();
    let program = ["/usr/bin/python3", "-m", "http.server", &port.to_string(), "--bind=127.0.0.1"];
    let app = App::start(&place, &options, &program, port);
    has_all(&app, "100");
    // Its calls of bind(2) are intercepted; by root, so this needs no promise.
    app.workers(2).iter().for_each(|worker| assert_eq!(worker.status("Seccomp"), "2"));
    app.reload(1);
    has_all(&app, "100");
    app.stop();
}

#[test]
fn interception_promises_nothing_that_was_not_asked_for() {
    if !is_root() {
        return refused_here(&["--user=nobody"]);
    }
    let (place, port) = (Place::new(), low_port());
    let named = format!("--port={port}");
    let options = ["--user=nobody", "--capabilities=net_raw,chown", &named];
    let program = ["/usr/bin/python3", "-m", "http.server", &port.to_string(), "--bind=127.0.0.1"];
    let app = App::start(&place, &options, &program, port);
    for worker in app.workers(2) {
        assert_eq!(worker.status("Seccomp"), "2");
        assert_eq!(worker.status("NoNewPrivs"), "0");
        // Kept, and not given.
        let bounds = u64::from_str_radix(&worker.status("CapBnd"), 16).unwrap();
        assert_eq!(bounds, 1 << 13 | 1, "net_raw and chown");
        assert_eq!(worker.status("CapEff"), "0000000000000000");
    }
    app.stop();
}

#[test]
fn node_with_nothing_serves_a_port_below_1024() {
    if !is_root() {
        return refused_here(ALL);
    }
    let (place, port) = (Place::new(), low_port());
    place.copy(&common::node("server.js"), "server.js");
    let app = App::start(&place, ALL, &["server.js"], port);
    // Node raises its limit as far as it may.
    has_all(&app, "200");
    for worker in app.workers(2) {
        assert!(worker.command_line().contains("--require"), "with the preload");
        assert_eq!(worker.variable("HOME").as_deref(), Some("/nonexistent"));
        assert_eq!(worker.variable("USER").as_deref(), Some("nobody"));
    }
    app.reload(1);
    has_all(&app, "200");
    app.stop();
}

#[test]
fn the_crate_with_nothing_serves_a_port_below_1024() {
    if !is_root() {
        return refused_here(ALL);
    }
    let (place, port) = (Place::new(), low_port());
    let program = place.copy(common::PHALANX.as_ref(), "server");
    let listen = format!("127.0.0.1:{port}");
    let listen_option = format!("--listen={listen}");
    let options = [ALL, &[&listen_option]].concat();
    let program = [program.to_str().unwrap(), "demo", "--listen", &listen];
    let app = App::start(&place, &options, &program, port);
    has_all(&app, "100");
    app.reload(1);
    has_all(&app, "100");
    app.stop();
}

#[test]
fn rights_that_everybody_may_give_up() {
    let place = Place::new();
    let port = bench::wait::free_port();
    place.copy(&common::node("server.js"), "server.js");
    let options = ["--no-new-privs", "--umask=077", "--nice=1", "--open-files=64", "--core=0"];
    let app = App::start(&place, &options, &["server.js"], port);
    for worker in app.workers(2) {
        assert_eq!(worker.status("NoNewPrivs"), "1");
        assert_eq!(worker.status("Umask"), "0077");
        assert_eq!(worker.nice(), 1);
        assert_eq!(worker.limit("Max open files"), ("64".into(), "64".into()));
        assert_eq!(worker.limit("Max core file size").0, "0");
        assert_eq!(worker.status("Uid"), app.primary().status("Uid"));
    }
    app.stop();
}

/// A user of this machine that is in a group beside its own, if there is one.
fn sociable() -> String {
    let groups = fs::read_to_string("/etc/group").unwrap();
    let mut members = groups.lines().filter_map(|line| line.rsplit(':').next()?.split(',').next());
    members.rfind(|name| !name.is_empty()).unwrap_or("nobody").to_owned()
}

#[test]
fn a_user_has_its_groups_and_others_have_those_they_are_given() {
    if !is_root() {
        return refused_here(&["--user=nobody"]);
    }
    let name = sociable();
    let id = |flag: &str| {
        let output = std::process::Command::new("id").args([flag, &name]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let sorted = |text: &str| {
        let mut all: Vec<u32> = text.split_whitespace().map(|n| n.parse().unwrap()).collect();
        all.sort_unstable();
        all
    };
    let (by_name, by_number) = (format!("--user={name}"), format!("--user={}", id("-u")));
    let its = (id("-u"), id("-g"), sorted(&id("-G")));
    for (options, expected) in [
        (vec![by_name.as_str()], its.clone()),
        (vec![&by_number], its.clone()),
        (vec![&by_name, "--groups=none"], (its.0.clone(), its.1.clone(), vec![])),
        (vec![&by_name, "--group=4711", "--groups=12,daemon"], (its.0, "4711".into(), vec![1, 12])),
        (vec!["--user=4712", "--group=4711"], ("4712".into(), "4711".into(), vec![])),
        (vec!["--group=4711"], ("0".into(), "4711".into(), sorted(&own_groups()))),
    ] {
        let (place, port) = (Place::new(), bench::wait::free_port());
        place.copy(&common::node("server.js"), "server.js");
        let app = App::start(&place, &options, &["server.js"], port);
        for worker in app.workers(2) {
            let first = |field| worker.status(field).split('\t').next().unwrap().to_owned();
            let found = (first("Uid"), first("Gid"), sorted(&worker.status("Groups")));
            assert_eq!(found, expected, "{options:?}");
        }
        app.stop();
    }
}

fn own_groups() -> String {
    worker::Process(std::process::id()).status("Groups")
}

#[test]
fn what_is_inherited_of_the_environment() {
    for (option, inherited) in [
        ("--env-only=PATH,PORT,SEEN_*", [true, true, false, false]),
        ("--env-except=HIDDEN,OTHER*", [true, true, false, false]),
        ("--env-except=SEEN*", [false, false, true, true]),
    ] {
        let (place, port) = (Place::new(), bench::wait::free_port());
        place.copy(&common::node("server.js"), "server.js");
        let app = App::start(&place, &[option], &["server.js"], port);
        for worker in app.workers(2) {
            let names = ["SEEN_1", "SEEN_", "HIDDEN", "OTHERS"];
            let there = names.map(|name| worker.variable(name).is_some());
            assert_eq!(there, inherited, "{option}");
            assert_eq!(worker.variable("PORT"), Some(port.to_string()), "{option}");
        }
        app.stop();
    }
}

#[test]
fn secrets_are_read_by_the_primary_for_each_worker() {
    let (place, port) = (Place::new(), bench::wait::free_port());
    place.copy(&common::node("server.js"), "server.js");
    let file = place.write("secret", b"first words\n", 0o600);
    let option = format!("--secret=KEY={}", file.display());
    let user: &[&str] = if is_root() { &["--user=nobody"] } else { &[] };
    let app = App::start(&place, &[user, &[&option]].concat(), &["server.js"], port);
    let all_have = |value: &str| {
        for worker in app.workers(2) {
            assert_eq!(worker.variable("KEY").as_deref(), Some(value));
        }
    };
    all_have("first words");
    place.write("secret", b"second words", 0o600);
    app.reload(1);
    all_have("second words");
    // Without it no worker is started, the old ones go on, and it is not said what was in there.
    place.write("secret", b"unspeakable\0words", 0o600);
    let said = app.reload_fails("could not be started");
    assert!(
        said.contains(&format!("cannot read the secret KEY from {}", file.display())),
        "{said}"
    );
    assert!(!app.output().contains("unspeakable"), "{}", app.output());
    all_have("second words");
    assert!(app.process.process.wait_exit(std::time::Duration::ZERO).is_err(), "it goes on");
    place.write("secret", b"third words", 0o600);
    app.until("a reload with the secret", || app.reloads_with("KEY", "third words"));
    app.stop();
}

#[test]
fn workers_with_other_rights_get_no_files_by_the_primarys() {
    if !is_root() {
        return refused_here(&["--user=nobody"]);
    }
    let place = Place::new();
    // Where they may not make one themselves.
    let socket = place.path().join("socket");
    place.write(
        "unix.js",
        b"const server = require('net').createServer((s) => s.end('served'));
          server.on('error', (error) => { console.log('refused:', error.code); setTimeout(() => {}, 1e6); });
          server.listen(process.argv[2], () => console.log('listens'));",
        0o644,
    );
    let start = |options: &[&str]| {
        let more = ["unix.js", socket.to_str().unwrap()];
        let args = ["run", "-i", "2"].iter().chain(options).chain(&more);
        common::spawn(common::phalanx(args).current_dir(place.path()))
    };
    for rights in ["--user=nobody", "--group=4711", "--capabilities=none"] {
        let process = start(&[rights]);
        let said = process.wait_for_line(|line| line.contains("refused: "), LONG).unwrap();
        assert!(said.ends_with("EACCES"), "{rights}: {said}");
        let log = process.wait_for_line(|line| line.contains("with other rights"), LONG).unwrap();
        assert!(log.contains("cannot listen on unix:") && log.contains("--listen unix:"), "{log}");
        assert!(!socket.exists(), "{rights}: it was made");
        process.signal(bench::spawned::Signal::QUIT).unwrap();
        process.wait_exit(LONG).unwrap();
        let times = process.output().matches("with other rights").count();
        assert_eq!(times, 1, "{rights}: {}", process.output());
    }
    let listen = format!("--listen=unix:{}", socket.display());
    let process = start(&["--user=nobody", &listen]);
    process.wait_for_line(|line| line.contains("listens"), LONG).unwrap();
    let mut text = String::new();
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    assert_eq!(text, "served");
    drop(stream);
    process.signal(bench::spawned::Signal::TERM).unwrap();
    assert_eq!(process.wait_exit(LONG).unwrap().code(), Some(0), "{}", process.output());
}

/// Asks for a file with each request, and answers what became of it.
const ASKS: &[u8] = b"
const answer = (response, text) => response.end(text);
require('http').createServer((request, response) => {
  const server = require('net').createServer();
  server.on('error', (error) => answer(response, error.code));
  server.listen(process.argv[2], () => answer(response, 'made'));
}).listen(process.env.PORT, '127.0.0.1');
";

#[test]
fn the_next_primary_knows_whose_rights_are_not_its_own() {
    if !is_root() {
        return refused_here(&["--user=nobody", "--keeper"]);
    }
    let (place, port) = (Place::new(), bench::wait::free_port());
    place.write("asks.js", ASKS, 0o644);
    let socket = place.path().join("socket");
    let program = ["asks.js", socket.to_str().unwrap()];
    let app = App::start(&place, &["--user=nobody", "--keeper"], &program, port);
    assert!(app.ask().ends_with("EACCES"), "{}", app.output());
    let first = app.process.line(0, " primary name=");
    let (_, pid) = first.rsplit_once("pid=").unwrap();
    let mark = app.process.process.mark();
    common::signal(pid.trim().parse().unwrap(), bench::spawned::Signal::KILL);
    app.process.line(mark, "took over from the last primary");
    assert!(app.ask().ends_with("EACCES"), "{}", app.output());
    assert!(!socket.exists(), "{}", app.output());
    app.stop();
}
