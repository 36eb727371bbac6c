//! Other Nodes than the installed one, Deno and Bun, from the npm registry.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use bench::spawned::Signal;
use common::packages::install;
use common::{Blocked, Cluster, LONG, POLICIES, kept, node, one_per_request, reload_times};
use std::path::PathBuf;

/// This machine's name in packages.
const MACHINE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };

/// A program of a package, which is one file.
fn program(package: &str, version: &str, file: &str) -> PathBuf {
    let manifest = format!(r#"{{"private":true,"dependencies":{{"{package}":"{version}"}}}}"#);
    let program = install(&manifest).join("node_modules").join(package).join(file);
    assert!(program.is_file(), "{}", program.display());
    program
}

fn other_node(version: &str) -> String {
    program(&format!("node-linux-{MACHINE}"), version, "bin/node").display().to_string()
}

fn deno() -> String {
    let package = format!("@deno/linux-{MACHINE}-glibc");
    program(&package, "2.9.6", "deno").display().to_string()
}

fn bun() -> String {
    let machine = if MACHINE == "x64" { "x64" } else { "aarch64" };
    program(&format!("@oven/bun-linux-{machine}"), "1.4.5", "bin/bun").display().to_string()
}

/// Reloads under a load of one connection per request, after both workers have answered.
fn serves(interpreter: &str, name: &str, policy: &str) {
    let more = ["--policy", policy, "--interpreter", interpreter];
    let cluster = Cluster::run(&node(name), 2, &more);
    cluster.wait_serving(2);
    reload_times(3, &cluster, vec![(policy, one_per_request(&cluster))]);
    cluster.stop();
}

fn a_node(version: &str) {
    let interpreter = other_node(version);
    for policy in ["round-robin", "shared"] {
        serves(&interpreter, "server.js", policy);
    }
    let cluster = Cluster::run(&node("typed.ts"), 2, &["--interpreter", &interpreter]);
    reload_times(5, &cluster, kept(&cluster));
    let worker = cluster.workers()[0];
    let environment = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("NODE_COMPILE_CACHE=/"), "{environment}");
    cluster.stop();
}

#[test]
fn node_22() {
    a_node("22.23.3");
}

#[test]
fn node_24() {
    a_node("24.21.0");
}

#[test]
fn node_26() {
    a_node("26.10.0");
}

#[test]
fn deno_serves_under_every_policy() {
    for policy in POLICIES {
        serves(&deno(), "server.cjs", policy);
    }
}

/// Deno dies of a connection that it is handed beside its listening socket: the primary carries it.
#[test]
fn a_busy_deno_takes_nobody_with_it() {
    for policy in ["direct", "round-robin"] {
        let more = ["--policy", policy, "--interpreter", &deno()];
        let cluster = Cluster::run(&node("server.cjs"), 2, &more);
        let workers = cluster.workers();
        let blocked = Blocked::as_it_says(&cluster);
        let mut others = 0;
        while !blocked.is_answered() {
            let answer = common::get(cluster.address, "/", LONG).expect("an answer");
            others += u32::from(answer.pid != blocked.pid);
        }
        assert!(others > 10, "{others} answers while one was busy");
        blocked.answer().expect("it was only busy");
        // The silence is over for it too.
        let slots = cluster.wait_answers("both to answer again", |slots| slots.len() == 2);
        assert!(slots.values().all(|pid| workers.contains(pid)), "{}", cluster.process.output());
        cluster.stop();
    }
}

#[test]
fn deno_on_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    for policy in POLICIES {
        let path = directory.path().join(policy);
        let program = node("server.cjs");
        let mut command =
            common::phalanx(["run", program.to_str().unwrap(), "-i", "2", "--policy", policy]);
        let process = common::spawn(command.args(["--interpreter", &deno()]).env("PORT", &path));
        let ready = |line: &str| line.contains("worker 2") && line.contains("is ready");
        process.wait_for_line(ready, LONG).unwrap_or_else(|error| panic!("{error}"));
        let stream = std::os::unix::net::UnixStream::connect(&path).expect("it listens");
        common::exchange(stream, "/").expect("an answer");
        process.signal(Signal::TERM).unwrap();
        assert!(process.wait_exit(LONG).unwrap().success(), "{}", process.output());
        assert!(!path.exists());
    }
}

#[test]
fn bun_serves_under_every_policy() {
    for policy in POLICIES {
        serves(&bun(), "net.cjs", policy);
    }
}

/// Bun's HTTP server, Bun.serve and Deno.serve ask no primary: they bind for themselves, and share all the same.
#[test]
fn servers_of_their_own() {
    for (interpreter, name) in [(bun(), "server.cjs"), (bun(), "serve.mjs"), (deno(), "serve.mjs")]
    {
        serves(&interpreter, name, "direct");
    }
    // Nobody hands them a connection: who wishes for that gets what is possible.
    serves(&bun(), "serve.mjs", "round-robin");
}
