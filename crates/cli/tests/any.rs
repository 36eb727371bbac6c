//! Programs that know nothing of phalanx, as anybody would start them: three of each behind one
//! port, reloaded and killed under load.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "any/app.rs"]
mod app;
#[path = "any/build.rs"]
mod build;
#[path = "any/pings.rs"]
mod pings;
#[path = "any/tree.rs"]
mod tree;

use app::{Program, Speaks};
use bench::load::{Load, Phase};
use bench::spawned::Signal;
use common::{LONG, signal};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// Debian's packages belong to Debian's interpreter, whichever comes first in `PATH`.
const PYTHON: &str = "/usr/bin/python3";

fn python(script: &str) -> Program {
    Program::new(&format!("phalanx run -i 3 -- {PYTHON} {script} {{port}}"))
}

fn python_http_server(host: &str) -> Program {
    let line = format!("phalanx run -i 3 -- {PYTHON} -m http.server {{port}} --bind {host}");
    Program::new(&line).on(host.parse().unwrap())
}

fn uvicorn() -> Program {
    Program::new(&format!(
        "phalanx run -i 3 -- {PYTHON} -m uvicorn asgi:app --port {{port}} --log-level warning"
    ))
}

fn gunicorn() -> Program {
    Program::new("phalanx run -i 3 -- /usr/bin/gunicorn -w 2 -b 127.0.0.1:{port} wsgi:app")
}

fn webrick() -> Program {
    Program::new("phalanx run -i 3 -- ruby -run -e httpd . -p {port} -b 127.0.0.1")
}

fn puma() -> Program {
    Program::new("phalanx run -i 3 -- puma -q -C puma.rb -b tcp://127.0.0.1:{port}")
}

/// With processes of its own.
fn puma_cluster() -> Program {
    Program::new("phalanx run -i 3 -- puma -q -w 2 -C puma.rb -b tcp://127.0.0.1:{port}")
}

fn java() -> Program {
    Program::new("phalanx run -i 3 -- java -cp . App {port}").within(build::java())
}

fn built(program: &Path) -> Program {
    Program::new(&format!("phalanx run -i 3 -- {} {{port}}", program.display()))
}

fn redis(directory: &TempDir) -> Program {
    let line = "phalanx run -i 3 -- redis-server --bind 127.0.0.1 --port {port} --save ''";
    Program::new(line).speaking(Speaks::Redis).within(directory.path())
}

/// Its ports are in its configuration.
fn nginx(directory: &TempDir) -> Program {
    let program = Program::new("phalanx run -i 3 -- /usr/sbin/nginx -p . -c nginx.conf")
        .within(directory.path());
    let other = common::v4();
    let text = fs::read_to_string(build::sources().join("nginx.conf")).unwrap();
    let text = text.replace("PORT", &program.ports()[0].port().to_string());
    let text = text.replace("OTHER", &other.port().to_string());
    fs::write(directory.path().join("nginx.conf"), text).unwrap();
    fs::create_dir(directory.path().join("temporary")).unwrap();
    program.and_port(other)
}

/// On failure here the fault is the program's, or that of its installation.
#[test]
fn each_program_serves_alone() {
    let (redis_directory, nginx_directory) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for program in [
        python_http_server("127.0.0.1"),
        python_http_server("::1"),
        python("app.py"),
        python("threads.py"),
        python("streams.py"),
        python("udp_echo.py").speaking(Speaks::Udp),
        uvicorn(),
        gunicorn(),
        webrick(),
        puma(),
        java(),
        built(&build::go()),
        built(&build::c("epoll.c", &[])),
        built(&build::c("epoll.c", &["-static"])),
        built(&build::c("threads.c", &[])),
        built(&build::rust("plain_axum")),
        built(&build::rust("activated_axum")),
        redis(&redis_directory),
        nginx(&nginx_directory),
    ] {
        program.serves_alone();
    }
}

#[test]
fn pythons_http_server() {
    python_http_server("127.0.0.1").bears_reload_and_kill();
}

#[test]
fn pythons_http_server_on_ipv6() {
    python_http_server("::1").bears_reload_and_kill();
}

#[test]
fn a_threaded_python_server() {
    python("threads.py").bears_reload_and_kill();
}

#[test]
fn an_asyncio_server() {
    python("streams.py").bears_reload_and_kill();
}

#[test]
fn a_server_of_datagrams() {
    python("udp_echo.py").speaking(Speaks::Udp).bears_reload_and_kill();
}

#[test]
fn uvicorn_serves() {
    uvicorn().bears_reload_and_kill();
}

#[test]
fn gunicorn_with_workers_of_its_own() {
    gunicorn().bears_reload_and_kill();
}

#[test]
fn rubys_webrick() {
    webrick().bears_reload_and_kill();
}

#[test]
fn puma_serves() {
    puma().bears_reload_and_kill();
}

#[test]
fn javas_http_server() {
    java().bears_reload_and_kill();
}

#[test]
fn a_static_go_program() {
    built(&build::go()).bears_reload_and_kill();
}

#[test]
fn c_with_threads_that_block() {
    built(&build::c("threads.c", &[])).bears_reload_and_kill();
}

#[test]
fn a_static_c_program() {
    built(&build::c("epoll.c", &["-static"])).bears_reload_and_kill();
}

#[test]
fn a_plain_axum_server() {
    built(&build::rust("plain_axum")).bears_reload_and_kill();
}

/// Three caches, each with what its clients gave it. One port each: a cluster's bus is at PORT + 10000,
/// and is no port that another process could serve.
#[test]
fn three_redis_caches() {
    let directory = tempfile::tempdir().unwrap();
    redis(&directory).bears_reload_and_kill();
}

#[test]
fn nginx_with_two_ports_and_workers_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    nginx(&directory).bears_reload_and_kill();
}

/// Servers that take their sockets by systemd's protocol.
#[test]
fn axum_with_sockets_that_it_is_given() {
    let program = build::rust("activated_axum");
    let line = format!("phalanx run -i 3 --listen 127.0.0.1:{{port}} -- {}", program.display());
    Program::new(&line).bears_reload_and_kill();
}

#[test]
fn gunicorn_with_sockets_that_it_is_given() {
    let line = "phalanx run -i 3 --listen 127.0.0.1:{port} -- /usr/bin/gunicorn -w 2 wsgi:app";
    Program::new(line).bears_reload_and_kill();
}

#[test]
fn uvicorn_with_a_descriptor() {
    let line = format!(
        "phalanx run -i 3 --listen 127.0.0.1:{{port}} -- {PYTHON} -m uvicorn asgi:app --fd 3"
    );
    Program::new(&line).bears_reload_and_kill();
}

/// What a killed process leaves behind is ended; it would go on accepting from the slot.
#[test]
fn children_end_with_their_worker() {
    for program in [gunicorn(), puma_cluster()] {
        let app = program.start();
        let victim = *app.workers().first().unwrap();
        // The first of them may answer before the second is there.
        let children = app.cluster.until("the worker's children", || {
            let mut tree = tree::tree(victim);
            tree.remove(&victim);
            (tree.len() >= 2).then_some(tree)
        });
        app.cluster.process.record();
        signal(victim, Signal::KILL);
        app.wait_serving(|workers| !workers.contains(&victim));
        let gone = bench::wait::until(LONG, "the children to end", || {
            children.iter().all(|pid| !bench::process::is_alive(*pid)).then_some(())
        });
        gone.unwrap_or_else(|error| panic!("{error}\n{}", app.log()));
        app.stop();
    }
}

/// Twenty reloads and twenty kills, in turn, under one load.
fn bears_much(program: Program) {
    let app = program.start();
    let load = app.load();
    let mut kills = Vec::new();
    for number in 1..=20 {
        app.wait_load(&load);
        let after = app.reload(number, &app.workers());
        let victim = *after.iter().nth(number as usize % after.len()).unwrap();
        kills.push(app.kill(victim, &load));
        // A slot that has crashed often waits a little.
        app.wait_serving(|workers| !workers.contains(&victim));
    }
    app.assert_only_accepted_failed(&kills, load);
    app.stop();
}

#[test]
fn twenty_reloads_and_kills_of_python() {
    bears_much(python("app.py"));
}

#[test]
fn twenty_reloads_and_kills_of_c() {
    bears_much(built(&build::c("epoll.c", &[])));
}

/// Both ports of each worker are shared, unless only one is named.
#[test]
fn only_named_ports_are_shared() {
    let line = format!("phalanx run -i 3 -- {PYTHON} two_ports.py {{port}} {{other}}");
    let app = Program::new(&line).start();
    app.stop();
    let other = common::v4();
    let line = format!(
        "phalanx run -i 3 --port {{port}} -- {PYTHON} two_ports.py {{port}} {}",
        other.port()
    );
    let app = Program::new(&line).start();
    // The first that came has it; the others were told that it is in use, as without phalanx.
    let owner = app.ask(other).unwrap();
    for _ in 0..20 {
        assert_eq!(app.ask(other).unwrap(), owner, "{}", app.log());
    }
    let refused = app.cluster.process.output().matches("without the second port").count();
    assert_eq!(refused, 2, "{}", app.log());
    app.stop();
}

/// `PORT` is a number for each slot, also of the worker that comes after.
#[test]
fn a_port_of_its_own_for_each_slot() {
    let base = three_in_a_row();
    let line = format!(
        "phalanx run -i 3 --port-base {base} -- sh -c 'exec {PYTHON} two_ports.py {{port}} $PORT'"
    );
    let app = Program::new(&line).start();
    let owners = |expect: &str| -> Vec<u32> {
        (0..3)
            .map(|slot| {
                let own = SocketAddr::from(([127, 0, 0, 1], base + slot));
                let pid = app
                    .ask(own)
                    .unwrap_or_else(|error| panic!("{expect}: {own}: {error}\n{}", app.log()));
                let pid = pid.expect("a worker");
                assert_eq!(common::slot_of(pid), Some(u32::from(slot)), "{expect}\n{}", app.log());
                pid
            })
            .collect()
    };
    let before = owners("started").into_iter().collect();
    app.reload(1, &before);
    owners("reloaded");
    app.stop();
}

/// The first of three free ports in a row, none of which another test is given.
fn three_in_a_row() -> u16 {
    let mut row = [0, 0, bench::wait::free_port()];
    for _ in 0..1_000 {
        row = [row[1], row[2], bench::wait::free_port()];
        if row[0] != 0 && row[1] == row[0] + 1 && row[2] == row[1] + 1 {
            return row[0];
        }
    }
    panic!("no three free ports in a row: {row:?}");
}

/// A worker with one thread, and no channel to hand its connections back by: new ones are answered
/// by the others all the same.
#[test]
fn a_stopped_python_delays_no_new_connection() {
    const LIMIT: Duration = Duration::from_secs(1);
    let app = python("app.py").start();
    let load = Load::new(app.cluster.address).clients(12).think(Duration::from_millis(4));
    let load = load.timeout(LIMIT).start().unwrap();
    app.cluster.until("load", || (load.progress().answered() > 200).then_some(()));
    let victim = *app.workers().first().unwrap();
    tree::stop(victim);
    let had = tree::accepted(victim);
    let before = load.progress().answered();
    thread::sleep(Duration::from_secs(3));
    let meanwhile = load.progress().answered() - before;
    assert!(app.workers().contains(&victim), "a stopped worker is not replaced\n{}", app.log());
    signal(victim, Signal::CONT);
    let again = bench::wait::until(LONG, "the worker to serve again", || {
        (app.ask(app.cluster.address).ok()? == Some(victim)).then_some(())
    });
    again.unwrap_or_else(|error| panic!("{error}\n{}", app.log()));
    let outcome = load.stop();
    eprintln!("{meanwhile} answers meanwhile; it had accepted {}; {outcome}", had.len());
    assert!(meanwhile > 500, "hardly anything was answered: {outcome}\n{}", app.log());
    for failure in &outcome.errors {
        let known = failure.local.is_some_and(|local| had.contains(&local));
        assert!(known && failure.phase == Phase::Timeout, "{failure}\n{outcome}\n{}", app.log());
    }
    app.stop();
}
