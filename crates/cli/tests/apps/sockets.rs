//! Connections that last: they are told to go away in a reload, and come back by themselves.

use crate::app::{App, Options, reloads};
use crate::clients::{CLIENTS, Clients, Seen};
use serde_json::Value;
use std::collections::BTreeSet;

/// The code of a WebSocket that is closed because its server goes away.
const GOING_AWAY: u64 = 1001;

/// Every WebSocket was closed in order, each client had to go at each reload and at the end, and
/// more than one worker of a generation had clients.
fn assert_told(seen: &Seen, is_socket: impl Fn(&Value) -> bool, clients: usize) {
    let closed: Vec<&Value> = seen.closed.iter().filter(|event| is_socket(event)).collect();
    for event in &closed {
        assert_eq!(event["code"].as_u64(), Some(GOING_AWAY), "{event}");
    }
    let generations = reloads() as usize + 1;
    let least = clients * generations;
    assert!(closed.len() >= least, "{} closes, at least {least} expected", closed.len());
    assert!(seen.servers.len() > generations, "all clients on one worker: {:?}", seen.servers);
    let refused: Vec<&Value> = seen.refused.iter().filter(|event| is_socket(event)).collect();
    assert!(refused.is_empty(), "a WebSocket was refused: {refused:?}");
}

#[test]
fn ws() {
    let app = App::start("ws", "server.js", &Options::default());
    let url = format!("ws://{}/chat", app.cluster.address);
    let clients = Clients::start("ws.js", &url, &[]);
    clients.until_served_by(&app, &app.workers());
    app.reloads_under_load(|workers| clients.until_served_by(&app, workers));
    assert_told(&clients.stop_under(app), |_| true, CLIENTS);
}

#[test]
fn socket_io() {
    let app = App::start("socketio", "server.js", &Options { sticky: true, ..Options::default() });
    let clients = Clients::start("socketio.js", &format!("http://{}", app.cluster.address), &[]);
    clients.until_served_by(&app, &app.workers());
    app.reloads_under_load(|workers| clients.until_served_by(&app, workers));
    // A third of the clients has nothing but a WebSocket.
    let is_socket = |event: &Value| event["kind"] == "websocket";
    assert_told(&clients.stop_under(app), is_socket, CLIENTS / 3);
}

/// Whether a broadcast of each worker has reached all clients.
fn hear_each_other(seen: &Seen, workers: &BTreeSet<u32>) -> bool {
    seen.heard.len() == CLIENTS && seen.heard.values().all(|from| workers.is_subset(from))
}

/// Whether a worker that asks all others finds all clients and all workers, and no others.
fn counts(seen: &Seen, workers: &BTreeSet<u32>) -> bool {
    let Some(count) = &seen.count else { return false };
    let there: Option<BTreeSet<u32>> = count["workers"]
        .as_array()
        .and_then(|list| list.iter().map(|pid| u32::try_from(pid.as_u64()?).ok()).collect());
    count["clients"].as_u64() == Some(CLIENTS as u64) && there.as_ref() == Some(workers)
}

#[test]
fn socket_io_cluster_adapter() {
    let options = Options { sticky: true, ..Options::default() };
    let app = App::start("socketio-cluster", "server.js", &options);
    let url = format!("http://{}", app.cluster.address);
    let clients = Clients::start("socketio.js", &url, &["say"]);
    let hear = |workers: &BTreeSet<u32>| {
        clients.until_served_by(&app, workers);
        let what = format!("all clients to hear from {workers:?}");
        clients.until(&app, &what, |seen| hear_each_other(seen, workers));
    };
    let count = |workers: &BTreeSet<u32>| {
        let what = format!("all clients and {workers:?} to be counted");
        clients.until(&app, &what, |seen| counts(seen, workers));
    };
    hear(&app.workers());
    count(&app.workers());
    app.reloads_under_load(hear);
    // The adapter takes ten seconds to forget a worker that has left.
    count(&app.workers());
    let is_socket = |event: &Value| event["kind"] == "websocket";
    assert_told(&clients.stop_under(app), is_socket, CLIENTS / 3);
}
