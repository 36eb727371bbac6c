//! What people see of applications that are always the same.

use super::applications::{Sort, table};
use super::details::details;
use super::screen::Screen;
use super::text::width;
use crate::control::Description;
use serde_json::{Value, json};

fn worker(id: u32, slot: u32, state: &str, age_ms: u64) -> Value {
    json!({
        "id": id, "slot": slot, "pid": 4711 + id, "state": state, "age_ms": age_ms, "generation": 3,
        "restarts": slot, "memory_bytes": 47_185_920, "cpu_ms": 1200, "cpu_percent": 3.1,
    })
}

/// One of each kind.
fn apps() -> Vec<Description> {
    let shop = json!({
        "name": "shop", "id": 0, "namespace": "default", "state": "running", "primary_pid": 4711, "uptime_ms": 7_440_000,
        "version": "0.1.0", "program_version": "1.4.2", "user": "deploy", "policy": "direct", "restarts": 1,
        "argv": ["-i", "2", "--name", "shop", "--max-memory", "300M", "server.js", "--", "--title", "a b"],
        "cwd": "/srv/shop/current", "config": "/srv/shop/phalanx.toml", "cron": "0 3 * * *", "watching": true,
        "memory_bytes": 94_371_840, "cpu_percent": 6.2, "wanted": 2, "ready": 2,
        "ports": [
            { "address": "127.0.0.1:8000", "policy": "direct" }, { "address": "[::]:9090", "policy": "direct" },
            { "address": "unix:/run/shop.sock", "policy": "round-robin" },
        ],
        "workers": [worker(5, 0, "listening", 7_200_000), worker(6, 1, "listening", 65_000)],
        "reload": { "state": "done", "generation": 3, "words": "reload 3 is done: 2 workers replaced in 0.8s" },
        "logs": { "primary": "/run/phalanx/apps/shop/primary.log", "out": "/var/log/phalanx/shop-out.log", "err": "/var/log/phalanx/shop-err.log" },
    });
    let api = json!({
        "name": "api", "id": 1, "namespace": "web", "state": "running", "primary_pid": 5000, "uptime_ms": 90_000,
        "version": "0.1.0", "policy": "round-robin", "restarts": 12, "wanted": 3, "ready": 1,
        "ports": [{ "address": "127.0.0.1:8001", "policy": "round-robin" }],
        "workers": [worker(300, 0, "listening", 80_000), worker(301, 1, "starting", 900)],
        "waiting": [{ "slot": 2, "wait_ms": 1600, "crashes": 7, "restarts": 7 }],
    });
    let gone = json!({ "name": "batch", "id": 2, "state": "stopped", "namespace": "default" });
    let deaf = json!({ "name": "deaf", "id": 3, "state": "not answering", "primary_pid": 6000 });
    let odd = json!({
        "name": "odd", "id": 4, "state": "running", "primary_pid": 7000, "program_version": "1\u{1b}[31m 店",
        "wanted": 1, "ready": 0, "workers": [worker(1, 0, "draining", 100)],
    });
    let all = [shop, api, gone, deaf, odd];
    all.map(|json| serde_json::from_value(json).expect("a description")).into()
}

fn screen(columns: usize, colour: bool) -> Screen {
    Screen { width: Some(columns), colour }
}

#[test]
fn a_list_for_programs() {
    let text = table(&apps(), false, Screen::PLAIN);
    insta::assert_snapshot!("list-plain", text);
    // A word in each column of each line.
    let columns = |line: &str| line.split_whitespace().count();
    let all: Vec<usize> = text.lines().map(columns).collect();
    assert!(all.iter().all(|columns| *columns == 14), "{all:?}\n{text}");
}

#[test]
fn a_list_for_people() {
    for (columns, short) in [(200, false), (100, false), (60, false), (40, false), (100, true)] {
        let text = table(&apps(), short, screen(columns, false));
        let name = format!("list-{columns}{}", if short { "-short" } else { "" });
        insta::assert_snapshot!(name, text);
        assert!(text.lines().all(|line| width(line) <= columns), "{text}");
    }
}

#[test]
fn a_list_never_wraps() {
    for columns in 1..220 {
        let text = table(&apps(), false, screen(columns, false));
        assert!(text.lines().all(|line| width(line) <= columns), "{columns}:\n{text}");
    }
}

#[test]
fn a_list_with_colours() {
    let text = table(&apps(), false, screen(100, true));
    insta::assert_snapshot!("list-colours", text.replace('\u{1b}', "␛"));
}

#[test]
fn descriptions() {
    let environment: Vec<String> =
        ["HOME", "LANG", "NODE_ENV", "PATH", "PORT", "SHELL", "TERM", "USER"]
            .map(String::from)
            .into();
    for (at, app) in apps().iter().enumerate() {
        let text = details(app, &environment, screen(60, false));
        insta::assert_snapshot!(format!("describe-{at}"), text);
    }
    let shop = apps().remove(0);
    let text = details(&shop, &environment, screen(100, true));
    insta::assert_snapshot!("describe-colours", text.replace('\u{1b}', "␛"));
    insta::assert_snapshot!("describe-plain", details(&shop, &environment, Screen::PLAIN));
}

#[test]
fn orders() {
    struct One(Description);
    impl AsRef<Description> for One {
        fn as_ref(&self) -> &Description {
            &self.0
        }
    }
    for (order, names) in [
        ("id", ["shop", "api", "batch", "deaf", "odd"]),
        ("id:desc", ["odd", "deaf", "batch", "api", "shop"]),
        ("name", ["api", "batch", "deaf", "odd", "shop"]),
        ("namespace:desc", ["api", "shop", "batch", "deaf", "odd"]),
        ("restarts:desc", ["api", "shop", "batch", "deaf", "odd"]),
        ("uptime:desc", ["shop", "api", "batch", "deaf", "odd"]),
        ("memory:desc", ["shop", "api", "odd", "batch", "deaf"]),
        ("mem:desc", ["shop", "api", "odd", "batch", "deaf"]),
        ("status", ["shop", "api", "odd", "batch", "deaf"]),
    ] {
        let sort: Sort = order.parse().expect("an order");
        let mut all: Vec<One> = apps().into_iter().rev().map(One).collect();
        sort.sort(&mut all);
        let sorted: Vec<&str> = all.iter().map(|one| one.0.name.as_str()).collect();
        assert_eq!(sorted, names, "{order}");
    }
    for (bad, words) in [
        ("size", "there are id, name"),
        ("memroy", "did you mean memory?"),
        ("name:up", "asc or desc"),
        ("", "there are id"),
    ] {
        let error = bad.parse::<Sort>().expect_err(bad);
        assert!(error.contains(words), "{bad}: {error}");
    }
}
