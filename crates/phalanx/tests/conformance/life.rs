//! A worker's life and every way to its end, seen from both sides.

use crate::client::{self, local};
use crate::scenarios;
use crate::subject::{Kind, PATIENCE, Subject};
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;

scenarios!(
    events_of_a_life,
    told_to_leave,
    told_to_leave_twice,
    told_to_leave_before_it_listens,
    leaves,
    leaves_twice,
    kills_itself,
    destroys_itself,
    closes_the_channel,
    closes_the_channel_and_exits,
    exits,
    throws,
    is_killed_by_itself,
    aborts,
    lets_go_of_the_channel,
    is_killed,
    is_destroyed,
    is_killed_with_a_signal,
    handles_the_signal,
    killed_while_it_drains,
    a_request_in_progress,
    a_request_in_progress_of_one_that_leaves,
    a_connection_that_idles,
    all_are_told_to_leave,
    the_primary_dies,
    the_primary_ends,
);

fn events_of_a_life(kind: Kind) {
    let mut subject = Subject::start(kind);
    let id = subject.net(&json!([[0, "127.0.0.1"]]));
    subject.address(id, 0);
    subject.event(id, "listening");
    let alive = json!({ "connected": true, "dead": false, "exitedAfterDisconnect": null });
    assert_eq!(subject.state(id), alive);
    subject.disconnect(id);
    assert_eq!(subject.state(id)["exitedAfterDisconnect"], true, "from the moment on");
    assert_eq!(subject.event(id, "disconnect")["exitedAfterDisconnect"], true);
    assert_eq!(subject.exit(id), (json!(0), json!(null), json!(true)));
    let dead = json!({ "connected": false, "dead": true, "exitedAfterDisconnect": true });
    assert_eq!(subject.state(id), dead);
    let mut names = subject.names(id);
    names.retain(|name| name != "message");
    assert_eq!(names, ["fork", "online", "listening", "disconnect", "exit"]);
}

/// Code, signal, and what `exitedAfterDisconnect` says.
type End = (Value, Value, Value);

/// A worker that leaves as it is told, and what it writes down of its end.
struct Leaver {
    subject: Subject,
    id: u64,
    place: TempDir,
}

impl Leaver {
    fn new(kind: Kind, mut env: Value) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let mut subject = Subject::start(kind);
        env["RECORD"] = json!(place.path().join("record"));
        let listens = env["IDLE"].is_null();
        let id = subject.fork("leave.cjs", env);
        assert_eq!(subject.message(id), "ready");
        // What is unread in the channel of a primary that dies is an error for the worker.
        if listens {
            subject.event(id, "listening");
        }
        Self { subject, id, place }
    }

    fn record_file(&self) -> PathBuf {
        self.place.path().join("record")
    }

    /// What it wrote down, when its process is gone.
    fn record(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.record_file()).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }
}

/// A worker that leaves by itself: how it ends, what `exitedAfterDisconnect` says in the primary, and what the
/// worker saw.
fn goes(kind: Kind, how: &str, end: &End, record: &[&str]) {
    let mut leaver = Leaver::new(kind, json!({}));
    let (subject, id) = (&mut leaver.subject, leaver.id);
    subject.send(id, json!(how));
    let disconnect = subject.event(id, "disconnect");
    assert_eq!(subject.exit(id), *end, "after {how}");
    assert_eq!(disconnect["exitedAfterDisconnect"], end.2, "when the channel closed");
    let mut names = subject.names(id);
    names.retain(|name| ["disconnect", "exit", "error"].contains(&name.as_str()));
    assert_eq!(names, ["disconnect", "exit"]);
    assert_eq!(leaver.record(), record, "what the worker saw of {how}");
}

fn clean(code: i32, asked: bool) -> End {
    (json!(code), json!(null), json!(asked))
}

fn by(signal: &str, asked: bool) -> End {
    (json!(null), json!(signal), json!(asked))
}

fn leaves(kind: Kind) {
    let record =
        ["before undefined", "returns true", "after true", "disconnect true", "exit 0 true false"];
    goes(kind, "disconnect", &clean(0, true), &record);
}

fn leaves_twice(kind: Kind) {
    let record = ["before undefined", "after true", "disconnect true", "exit 0 true false"];
    goes(kind, "disconnect twice", &clean(0, true), &record);
}

fn kills_itself(kind: Kind) {
    let record = ["before undefined", "after true", "disconnect true", "exit 0 true false"];
    goes(kind, "kill", &clean(0, true), &record);
}

fn destroys_itself(kind: Kind) {
    let record = ["before undefined", "after true", "disconnect true", "exit 0 true false"];
    goes(kind, "destroy", &clean(0, true), &record);
}

fn closes_the_channel(kind: Kind) {
    let record =
        ["before undefined", "after undefined", "disconnect undefined", "exit 0 undefined false"];
    goes(kind, "process.disconnect", &clean(0, false), &record);
}

fn closes_the_channel_and_exits(kind: Kind) {
    let record = ["before undefined", "exit 6 undefined false"];
    goes(kind, "process.disconnect, exit", &clean(6, false), &record);
}

fn exits(kind: Kind) {
    let record = ["before undefined", "exit 3 undefined true"];
    goes(kind, "exit", &clean(3, false), &record);
}

fn throws(kind: Kind) {
    let record = ["before undefined", "after undefined", "exit 1 undefined true"];
    goes(kind, "throw", &clean(1, false), &record);
}

fn is_killed_by_itself(kind: Kind) {
    goes(kind, "SIGKILL", &by("SIGKILL", false), &["before undefined"]);
}

fn aborts(kind: Kind) {
    goes(kind, "abort", &by("SIGABRT", false), &["before undefined"]);
}

/// Without a server, only the channel keeps a worker; it can let go of it.
fn lets_go_of_the_channel(kind: Kind) {
    let record = ["before undefined", "after undefined", "exit 0 undefined true"];
    goes(kind, "unref", &clean(0, false), &record);
}

fn told_to_leave(kind: Kind) {
    let mut leaver = Leaver::new(kind, json!({}));
    leaver.subject.disconnect(leaver.id);
    assert_eq!(leaver.subject.exit(leaver.id), clean(0, true));
    assert_eq!(leaver.record(), ["disconnect true", "exit 0 true false"]);
}

/// Node says it to the worker twice, which may be one time too many for it: it closes its channel twice, and
/// that is an uncaught error. Here it is said once.
fn told_to_leave_twice(kind: Kind) {
    let mut leaver = Leaver::new(kind, json!({}));
    leaver.subject.order(json!({ "do": "disconnect", "id": leaver.id }));
    leaver.subject.order(json!({ "do": "disconnect", "id": leaver.id }));
    let end = leaver.subject.exit(leaver.id);
    if kind.is_node() && end == clean(1, true) {
        eprintln!("{kind}: a worker that was told to leave twice died of it");
    } else {
        assert_eq!(end, clean(0, true));
    }
}

fn told_to_leave_before_it_listens(kind: Kind) {
    let mut leaver = Leaver::new(kind, json!({ "IDLE": "1" }));
    leaver.subject.disconnect(leaver.id);
    assert_eq!(leaver.subject.exit(leaver.id), clean(0, true));
    assert_eq!(leaver.record(), ["disconnect true", "exit 0 true false"]);
}

fn is_killed(kind: Kind) {
    let mut leaver = Leaver::new(kind, json!({}));
    leaver.subject.ask(json!({ "do": "kill", "id": leaver.id }));
    assert_eq!(leaver.subject.exit(leaver.id), by("SIGTERM", false));
    assert_eq!(leaver.record(), [""; 0]);
}

fn is_destroyed(kind: Kind) {
    let mut leaver = Leaver::new(kind, json!({}));
    leaver.subject.ask(json!({ "do": "destroy", "id": leaver.id }));
    assert_eq!(leaver.subject.exit(leaver.id), by("SIGTERM", false));
}

fn is_killed_with_a_signal(kind: Kind) {
    for signal in ["SIGKILL", "SIGHUP"] {
        let mut leaver = Leaver::new(kind, json!({}));
        leaver.subject.ask(json!({ "do": "kill", "id": leaver.id, "signal": signal }));
        assert_eq!(leaver.subject.exit(leaver.id), by(signal, false));
    }
}

fn handles_the_signal(kind: Kind) {
    let mut leaver = Leaver::new(kind, json!({ "SIGTERM": "1" }));
    leaver.subject.ask(json!({ "do": "kill", "id": leaver.id }));
    assert_eq!(leaver.subject.exit(leaver.id), clean(5, false));
}

fn http(subject: &mut Subject) -> (u64, u16) {
    let port = client::free_port();
    let listen = json!([port, "127.0.0.1"]).to_string();
    let id = subject.fork("http.cjs", json!({ "LISTEN": listen }));
    subject.event(id, "listening");
    (id, port)
}

/// A request that is held by the worker.
fn held(subject: &mut Subject, id: u64, port: u16) -> std::net::TcpStream {
    let mut stream = client::connect(local(port)).expect("connected");
    client::ask(&mut stream, "/hold").expect("asked");
    subject.message_with(id, "held");
    stream
}

fn killed_while_it_drains(kind: Kind) {
    let mut subject = Subject::start(kind);
    let (id, port) = http(&mut subject);
    let _client = held(&mut subject, id, port);
    subject.disconnect(id);
    subject.ask(json!({ "do": "kill", "id": id, "signal": "SIGKILL" }));
    assert_eq!(subject.exit(id), by("SIGKILL", true));
}

fn a_request_in_progress(kind: Kind) {
    let mut subject = Subject::start(kind);
    let (id, port) = http(&mut subject);
    let mut client = held(&mut subject, id, port);
    subject.disconnect(id);
    // It serves no more, but what it began it ends.
    subject.ask(json!({ "do": "ping" }));
    assert_eq!(subject.state(id)["dead"], false);
    subject.send(id, json!("release"));
    assert_eq!(client::answer(&mut client).expect("answered"), id.to_string());
    assert_eq!(subject.exit(id), clean(0, true));
}

fn a_request_in_progress_of_one_that_leaves(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = client::free_port();
    let id = subject.net(&json!([[port, "127.0.0.1"]]));
    subject.address(id, 0);
    let (_, client) = client::greeted(local(port));
    subject.send(id, json!({ "do": "leave" }));
    // It closes its server, and waits for the connection that it has.
    assert_eq!(subject.talk(id, json!({ "do": "count", "n": 0 }))["count"], 1);
    assert_eq!(subject.state(id)["connected"], true);
    drop(client);
    assert_eq!(subject.exit(id), clean(0, true));
}

/// An idle connection does not keep a worker that was told to leave.
fn a_connection_that_idles(kind: Kind) {
    let mut subject = Subject::start(kind);
    let (id, port) = http(&mut subject);
    let mut client = client::connect(local(port)).expect("connected");
    client::ask(&mut client, "/").expect("asked");
    assert_eq!(client::answer(&mut client).expect("answered"), id.to_string());
    subject.disconnect(id);
    assert_eq!(client::all(client).expect("closed"), "");
    assert_eq!(subject.exit(id), clean(0, true));
}

fn all_are_told_to_leave(kind: Kind) {
    let mut subject = Subject::start(kind);
    let ids = [0, 1, 2].map(|_| subject.net(&json!([[0, "127.0.0.1"]])));
    for id in ids {
        subject.address(id, 0);
    }
    subject.ask(json!({ "do": "disconnectAll" }));
    for id in ids {
        assert_eq!(subject.exit(id), clean(0, true));
    }
}

/// The workers of a primary that is gone, without a goodbye or with one.
fn without_a_primary(kind: Kind, end: impl FnOnce(&mut Subject)) {
    let mut leaver = Leaver::new(kind, json!({}));
    let pid = leaver.subject.pid_of(leaver.id).as_raw_nonzero().get().unsigned_abs();
    end(&mut leaver.subject);
    bench::wait::until(PATIENCE, "the worker's end", || {
        (!bench::process::is_alive(pid)).then_some(())
    })
    .expect("gone");
    assert_eq!(leaver.record(), ["disconnect undefined", "exit 0 undefined false"]);
}

fn the_primary_dies(kind: Kind) {
    without_a_primary(kind, Subject::kill_primary);
}

fn the_primary_ends(kind: Kind) {
    without_a_primary(kind, |subject| {
        subject.order(json!({ "do": "quit" }));
    });
}
