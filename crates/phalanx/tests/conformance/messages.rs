//! Messages, both ways.

use crate::scenarios;
use crate::subject::{Kind, Subject};
use serde_json::{Value, json};

scenarios!(
    every_type,
    through_the_worker_object,
    big_ones,
    in_order_with_callbacks,
    in_order_to_the_worker,
    what_cannot_be_sent,
    reserved_commands,
    while_it_drains,
);

fn ready(kind: Kind, script: &str, env: Value) -> (Subject, u64) {
    let mut subject = Subject::start(kind);
    let id = subject.fork(script, env);
    assert_eq!(subject.message(id), "ready");
    (subject, id)
}

fn every_type(kind: Kind) {
    let (mut subject, id) = ready(kind, "echo.cjs", json!({}));
    for (message, name) in [
        (json!("text"), "string"),
        (json!(""), "string"),
        (json!("ü € 𝄞 \u{2028} \u{0} \" \\ \n \r"), "string"),
        (json!(0), "number"),
        (json!(-1.5), "number"),
        (json!(9_007_199_254_740_991_i64), "number"),
        (json!(1e300), "number"),
        (json!(true), "boolean"),
        (json!(false), "boolean"),
        (json!(null), "object"),
        (json!([]), "object"),
        (json!([1, "two", null, [3]]), "object"),
        (json!({}), "object"),
        (json!({ "a": { "b": [{ "c": null }] }, "": 1, "cmd": "mine" }), "object"),
        // A command is Node's own when it is longer than this.
        (json!({ "cmd": "NODE_" }), "object"),
    ] {
        let answer = subject.talk(id, message.clone());
        assert_eq!(answer, json!({ "echo": message, "type": name }));
    }
}

fn through_the_worker_object(kind: Kind) {
    let (mut subject, id) = ready(kind, "echo.cjs", json!({ "THROUGH": "worker" }));
    assert_eq!(subject.talk(id, json!([1])), json!({ "echo": [1], "type": "object" }));
}

fn big_ones(kind: Kind) {
    let (mut subject, id) = ready(kind, "echo.cjs", json!({}));
    let big = json!("ü".repeat(2_500_000));
    assert!(subject.talk(id, big.clone())["echo"] == big, "5 MB came back otherwise");
    assert_eq!(subject.talk(id, json!(1))["echo"], 1);
}

fn in_order_with_callbacks(kind: Kind) {
    let (mut subject, id) = ready(kind, "burst.cjs", json!({}));
    let count = 500;
    subject.send(id, json!({ "count": count, "size": 1000 }));
    for n in 0..count {
        assert_eq!(subject.message(id)["n"], n);
    }
    assert_eq!(subject.message(id), json!({ "called": count }), "callbacks without an error");
}

fn in_order_to_the_worker(kind: Kind) {
    let (mut subject, id) = ready(kind, "echo.cjs", json!({}));
    let filler = "x".repeat(2000);
    let last = 300;
    for n in 0..=last {
        subject.order(json!({ "do": "send", "id": id, "message": { "n": n, "filler": filler } }));
    }
    for n in 0..=last {
        assert_eq!(subject.message(id)["echo"]["n"], n);
    }
}

fn what_cannot_be_sent(kind: Kind) {
    let mut subject = Subject::start(kind);
    let id = subject.fork("cannot-send.cjs", json!({}));
    let expected = json!({
        "seen": ["ERR_MISSING_ARGS", "ERR_INVALID_ARG_TYPE", "ERR_INVALID_ARG_TYPE", "ERR_INVALID_ARG_TYPE"],
        "date": "1970-01-01T00:00:00.000Z",
        "inner": [null, null, null],
    });
    assert_eq!(subject.message(id), expected);
}

fn reserved_commands(kind: Kind) {
    let mut subject = Subject::start(kind);
    let id = subject.fork("reserved.cjs", json!({}));
    for cmd in [json!("NODE_"), json!("XNODE_CLUSTER"), json!("node_cluster"), json!(7)] {
        assert_eq!(subject.message(id), json!({ "cmd": cmd }));
    }
    assert_eq!(subject.message(id), "end");
    subject.disconnect(id);
    assert_eq!(subject.exit(id), (json!(0), json!(null), json!(true)), "nothing broke");
}

/// A worker that was told to leave, and has a request to finish, still talks.
fn while_it_drains(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = crate::client::free_port();
    let listen = json!([port, "127.0.0.1"]).to_string();
    let id = subject.fork("http.cjs", json!({ "LISTEN": listen }));
    subject.event(id, "listening");
    let mut client = crate::client::connect(crate::client::local(port)).expect("connected");
    crate::client::ask(&mut client, "/hold").expect("asked");
    assert_eq!(subject.message(id), json!({ "held": 1 }));
    subject.disconnect(id);
    subject.send(id, json!("go on"));
    let answer = crate::client::answer(&mut client).expect("answered");
    assert_eq!(answer, id.to_string());
    assert_eq!(subject.exit(id), (json!(0), json!(null), json!(true)));
}
