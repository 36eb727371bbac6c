//! What a worker sees of itself.

use crate::client;
use crate::scenarios;
use crate::subject::{Kind, Subject};
use serde_json::json;

scenarios!(
    properties_in_a_worker,
    properties_in_a_module,
    a_program_with_both_branches,
    numbers_are_never_used_twice,
    children_of_a_worker,
    a_thread_of_a_worker,
);

fn properties_in_a_worker(kind: Kind) {
    let mut subject = Subject::start(kind);
    let place = tempfile::tempdir().expect("a directory");
    let real = place.path().canonicalize().expect("a path");
    let order =
        json!({ "args": ["--one", "two three"], "cwd": real, "env": { "COLOUR": "green" } });
    let id = subject.fork_as("properties.cjs", order);
    let expected = json!({
        "isWorker": true, "isPrimary": false, "isMaster": false,
        "id": id, "process": true, "connected": [true, true], "dead": false,
        "exitedAfterDisconnect": "undefined", "isAWorker": true, "emitter": "function",
        "absent": ["fork", "disconnect", "setupPrimary", "settings", "workers", "schedulingPolicy"],
        "internal": [],
        "args": ["--one", "two three"], "cwd": real, "colour": "green",
    });
    assert_eq!(subject.message(id), expected);
}

fn properties_in_a_module(kind: Kind) {
    let mut subject = Subject::start(kind);
    let id = subject.fork("properties.mjs", json!({}));
    let expected = json!({
        "isWorker": true, "isPrimary": false, "id": id, "same": true, "fork": "undefined",
    });
    assert_eq!(subject.message(id), expected);
}

fn a_program_with_both_branches(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = client::free_port();
    let id = subject.fork("program.cjs", json!({ "PORT": port.to_string() }));
    subject.event(id, "listening");
    assert_eq!(client::get(client::local(port), "/").expect("answered"), id.to_string());
}

fn numbers_are_never_used_twice(kind: Kind) {
    let mut subject = Subject::start(kind);
    for expected in 1..=3 {
        let id = subject.fork("properties.cjs", json!({}));
        assert_eq!(id, expected);
        assert_eq!(subject.message(id)["id"], expected);
        subject.ask(json!({ "do": "kill", "id": id, "signal": "SIGKILL" }));
        subject.exit(id);
    }
}

/// They are no workers. With Node they live on, and a worker's end is seen although they do.
fn children_of_a_worker(kind: Kind) {
    let mut subject = Subject::start(kind);
    let id = subject.fork("grandchild.cjs", json!({}));
    let told = subject.message(id);
    assert_eq!(told["child"], json!({ "isWorker": false, "isPrimary": true, "sockets": [] }));
    let child = u32::try_from(told["pid"].as_u64().expect("a process")).expect("a number");
    subject.send(id, json!("leave"));
    subject.event(id, "disconnect");
    assert_eq!(subject.exit(id), (json!(0), json!(null), json!(false)));
    if kind.is_node() {
        assert!(bench::process::is_alive(child), "its child should have outlived it");
        let child = rustix::process::Pid::from_raw(child.cast_signed()).expect("a process");
        rustix::process::kill_process(child, rustix::process::Signal::KILL).expect("killed");
    } else {
        // What a worker started goes with it: on purpose another way than Node's.
        let gone = || (!bench::process::is_alive(child)).then_some(());
        bench::wait::until(std::time::Duration::from_secs(10), "its child to go", gone)
            .expect("nothing survives as an orphan");
    }
}

fn a_thread_of_a_worker(kind: Kind) {
    let mut subject = Subject::start(kind);
    let id = subject.fork("thread.cjs", json!({}));
    let told = subject.message(id);
    assert_eq!(told["isPrimary"], true, "{told}");
    let port = u16::try_from(told["port"].as_u64().expect("a port")).expect("a port");
    let stream = client::connect(client::local(port)).expect("connected");
    assert_eq!(client::line(stream).expect("greeted"), "thread");
    subject.send(id, json!("leave"));
    assert_eq!(subject.exit(id).0, 0);
    let names = subject.names(id);
    assert!(!names.contains(&"listening".to_owned()), "it is not the cluster's: {names:?}");
}
