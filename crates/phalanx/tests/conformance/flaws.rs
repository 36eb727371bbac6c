//! Ten flaws of node:cluster: each is shown on Node, as far as it can be had at will, and each is
//! shown not to be here. `conformance/README.md` lists the outcomes.

use crate::against;
use crate::client::{self, connect, free_port, greeted, line, local};
use crate::primary::has_preload;
use crate::subject::{Kind, PATIENCE, Subject};
use bench::spawned::Signal;
use libtest_mimic::Trial;
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// How long a flaw of Node's is looked at, where it is that nothing ever happens.
const LOOK: Duration = Duration::from_millis(700);

pub(crate) fn trials() -> Vec<Trial> {
    let handed = [Kind::NodeRr, Kind::Direct, Kind::RoundRobin, Kind::Shared];
    let raced = [Kind::NodeNone, Kind::Direct, Kind::RoundRobin, Kind::Shared];
    let rr = [Kind::NodeRr, Kind::RoundRobin];
    [
        against(&handed, "flaws::f01_connection_of_a_dead_worker", f01),
        against(&Kind::ALL, "flaws::f02_no_descriptor_left", f02),
        against(&rr, "flaws::f03_everybody_is_full", f03),
        against(&Kind::ALL, "flaws::f04_workers_that_die_at_once", f04),
        against(&handed, "flaws::f05_a_hostile_worker", f05),
        against(&Kind::ALL, "flaws::f06_nobody_listens_meanwhile", f06),
        against(&Kind::ALL, "flaws::f07_all_have_left", f07),
        against(&Kind::ALL, "flaws::f08_early_messages", f08),
        against(&raced, "flaws::f09_modes_of_a_unix_socket", f09),
        against(&Kind::ALL, "flaws::f10_balance", f10),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn net_workers(subject: &mut Subject, count: usize, port: u16) -> Vec<u64> {
    let listen = json!([[port, "127.0.0.1"]]);
    let ids: Vec<u64> = (0..count).map(|_| subject.net(&listen)).collect();
    for id in &ids {
        subject.address(*id, 0);
        subject.event(*id, "listening");
    }
    ids
}

/// What a client was told within a time.
fn told(stream: &TcpStream, within: Duration) -> Result<String, ErrorKind> {
    stream.set_read_timeout(Some(within)).expect("set");
    match line(stream) {
        Ok(said) if said.is_empty() => Err(ErrorKind::UnexpectedEof),
        said => said.map_err(|error| error.kind()),
    }
}

/// F1: a connection was handed to a worker, which died before it answered.
/// Node: the client hangs for ever. Here: another worker has it.
fn f01(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let ids = net_workers(&mut subject, 2, port);
    subject.signal(ids[0], Signal::STOP);
    let clients: Vec<TcpStream> =
        (0..4).map(|_| connect(local(port)).expect("connected")).collect();
    if kind.is_node() {
        // The other one serves what it got; when it has, the rest is with the worker that is stopped.
        let mut served = 0;
        bench::wait::until(PATIENCE, "three of four answers", || {
            served = clients.iter().filter(|c| c.peek_some()).count();
            (served >= 3).then_some(())
        })
        .expect("the other worker serves");
    }
    subject.signal(ids[0], Signal::KILL);
    subject.exit(ids[0]);
    let patience = if kind.is_node() { LOOK } else { PATIENCE };
    let said: Vec<_> = clients.iter().map(|client| told(client, patience)).collect();
    let answered = said.iter().filter(|s| **s == Ok(ids[1].to_string())).count();
    if kind.is_node() {
        let hang = said.iter().filter(|s| **s == Err(ErrorKind::WouldBlock)).count();
        assert_eq!((answered, hang), (3, 1), "Node leaves one client hanging: {said:?}");
    } else {
        assert_eq!(answered, 4, "nobody hangs: {said:?}");
    }
}

trait Peek {
    /// Whether something came.
    fn peek_some(&self) -> bool;
}

impl Peek for TcpStream {
    fn peek_some(&self) -> bool {
        self.set_nonblocking(true).expect("set");
        let some = self.peek(&mut [0]).is_ok_and(|n| n > 0);
        self.set_nonblocking(false).expect("set");
        some
    }
}

/// F2: a worker had no descriptor left for a connection, and has again.
/// Node: in round-robin it is never given one again, and the client hangs. Here: another one, or the same
/// one later, has the connection.
fn f02(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let ids = net_workers(&mut subject, 1, port);
    let pid = subject.pid_of(ids[0]);
    let raw = pid.as_raw_nonzero().get().unsigned_abs();
    // What is open now, and not one more.
    let limit = |current: Option<u64>| {
        let known = prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum: None });
        known.or_else(|_| {
            let maximum = Some(4096);
            prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum })
        })
    };
    let open = std::fs::read_dir(format!("/proc/{raw}/fd")).expect("its descriptors");
    let highest = open.filter_map(|fd| fd.ok()?.file_name().to_str()?.parse::<u64>().ok()).max();
    limit(Some(3)).expect("limited");
    let first = connect(local(port)).expect("connected");
    // It met the limit when it said so to the primary; where it accepts by itself, it closed the client.
    let during = told(&first, LOOK);
    assert!(during.is_err(), "there was no descriptor for it (highest {highest:?}): {during:?}");
    limit(Some(1024)).expect("unlimited");
    let again = connect(local(port)).expect("connected");
    if kind == Kind::NodeRr {
        let said = [told(&first, LOOK), told(&again, LOOK)];
        let hang = Err(ErrorKind::WouldBlock);
        assert_eq!(said, [hang.clone(), hang], "Node never gives it anything again");
    } else {
        assert_eq!(told(&again, PATIENCE), Ok(ids[0].to_string()), "it serves again");
        if kind == Kind::RoundRobin {
            assert_eq!(told(&first, PATIENCE), Ok(ids[0].to_string()), "and nobody was lost");
        }
    }
}

/// F3: every worker has as many connections as it wants, and one more client waits.
/// Node: the connection goes back and forth as fast as it can. Here: now and then.
fn f03(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let env = json!({ "PORT": port.to_string() });
    let id = subject.fork("count-newconn.cjs", env);
    subject.event(id, "listening");
    let first = connect(local(port)).expect("connected");
    assert_eq!(line(&first).expect("taken"), "taken");
    let second = connect(local(port)).expect("connected");
    let offers = |subject: &mut Subject| {
        subject.talk(id, json!("count"))["offers"].as_u64().expect("a number")
    };
    bench::wait::until(PATIENCE, "the second one to be offered", || {
        (offers(&mut subject) >= 2).then_some(())
    })
    .expect("offered");
    let before = offers(&mut subject);
    let begin = Instant::now();
    // It waits all the while.
    assert_eq!(told(&second, LOOK), Err(ErrorKind::WouldBlock));
    let offered = offers(&mut subject) - before;
    let took = begin.elapsed();
    if kind.is_node() {
        assert!(offered > 100, "Node offers it again and again: {offered} times in {took:?}");
    } else {
        // Every 100 ms, and a few for what is in between.
        let most = took.as_millis() / 100 + 5;
        assert!(u128::from(offered) <= most, "offered {offered} times in {took:?}");
    }
    drop(first);
    assert_eq!(told(&second, PATIENCE), Ok("taken".to_owned()), "served when there is room");
}

/// F4: workers that die while the primary answers them.
/// Node: now and then the primary dies of it. Here: never.
fn f04(kind: Kind) {
    let mut subject = Subject::start(kind);
    let mut left = 0;
    for _ in 0..12 {
        let n = subject.order(json!({
            "do": "fork", "exec": crate::subject::scripts().join("workers/exit-after-listen.cjs"),
        }));
        let look = |line: &Value| (line["reply"] == n).then(|| line["ok"]["id"].clone());
        let Some(id) = subject.look(PATIENCE, look) else { break };
        let exit = |line: &Value| (line["event"] == "exit" && line["id"] == id).then_some(());
        if subject.look(PATIENCE, exit).is_none() {
            break;
        }
        left += 1;
    }
    if kind.is_node() {
        if let Some(status) = subject.has_ended() {
            eprintln!("{kind}: the primary died of worker {} ({status})", left + 1);
        } else {
            assert_eq!(left, 12, "it lives, and they have left");
        }
        return;
    }
    assert_eq!((left, subject.has_ended()), (12, None));
    let port = free_port();
    net_workers(&mut subject, 1, port);
    greeted(local(port));
}

/// F5: a worker that writes what no Node would.
/// Node: an exception ends the primary, and with it everybody. Here: others do not notice.
fn f05(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let good = net_workers(&mut subject, 1, port);
    let query = json!({
        "cmd": "NODE_CLUSTER", "act": "queryServer", "seq": 0, "index": 0, "data": null,
        "address": "no.address", "port": 1, "addressType": 4, "flags": 0, "backlog": 0,
    });
    // The handle's name, as the one half of Node's versions and as the other half builds it.
    let close = |key| json!({ "cmd": "NODE_CLUSTER", "act": "close", "seq": 1, "key": key });
    let [old, new] = ["no.address:1:4:undefined:0", "no.address:1:4:undefined"].map(close);
    let raw = json!([query, old, new]).to_string();
    let hostile = subject.fork_as("raw.cjs", json!({ "env": { "RAW": raw } }));
    if kind.is_node() {
        let status =
            bench::wait::until(PATIENCE, "the end of Node's primary", || subject.has_ended());
        assert_eq!(status.map(|s| s.code()), Ok(Some(1)), "an uncaught exception");
        return;
    }
    let mut hostile = vec![hostile];
    for nonsense in [
        json!(["no JSON\n"]),
        json!(["\n"]),
        json!(["{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\",\"seq\":{}}\n"]),
        json!([{ "cmd": "NODE_HANDLE_ACK" }, { "cmd": "NODE_HANDLE_NACK" }]),
        json!([{ "cmd": "NODE_CLUSTER", "ack": 1, "accepted": true }]),
        json!([{ "cmd": "NODE_HANDLE", "type": "net.Native", "msg": { "cmd": "NODE_HANDLE" } }]),
    ] {
        hostile.push(subject.fork("raw.cjs", json!({ "RAW": nonsense.to_string() })));
    }
    // Some are thrown out, what others say is ignored; all leave when they are told to.
    for id in hostile {
        subject.order(json!({ "do": "disconnect", "id": id }));
        subject.exit(id);
    }
    assert_eq!(subject.has_ended(), None);
    assert_eq!(greeted(local(port)).0, good[0], "the good worker serves");
}

/// F6: the last worker dies and is replaced.
/// Node: clients are refused in between. Here: the port stays, and they wait a moment.
fn f06(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let exec = crate::subject::scripts().join("workers/net.cjs");
    // It listens when it is told to: so the gap is as long as the scenario likes.
    let open = json!({ "do": "open", "args": [port, "127.0.0.1"] });
    let env = json!({ "LISTEN": "[]" });
    subject.ask(json!({ "do": "supervise", "workers": 1, "exec": exec, "env": env }));
    assert_eq!(subject.message(1), "ready");
    subject.send(1, open.clone());
    subject.event(1, "listening");
    subject.signal(1, Signal::KILL);
    subject.exit(1);
    let client = connect(local(port));
    assert_eq!(subject.message(2), "ready");
    if kind.is_node() {
        let refused = client.map(|_| ()).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "Node's port is closed");
    } else {
        let client = client.expect("the port is open");
        subject.send(2, open);
        assert_eq!(told(&client, PATIENCE), Ok("2".to_owned()), "its successor serves");
    }
}

/// F7: `cluster.disconnect()` calls back when all have left.
/// Node: when the first has. Here: when all have.
fn f07(kind: Kind) {
    let mut subject = Subject::start(kind);
    let idle = subject.net(&json!([[0, "127.0.0.1"]]));
    subject.address(idle, 0);
    let port = free_port();
    let listen = json!([port, "127.0.0.1"]).to_string();
    let busy = subject.fork("http.cjs", json!({ "LISTEN": listen }));
    subject.event(busy, "listening");
    let mut client = connect(local(port)).expect("connected");
    client::ask(&mut client, "/hold").expect("asked");
    subject.message_with(busy, "held");
    let all = subject.order(json!({ "do": "disconnectAll" }));
    subject.exit(idle);
    if kind.is_node() {
        assert_eq!(subject.reply(all)["alive"], 1, "Node calls back, and one still works");
        subject.send(busy, json!("release"));
    } else {
        let early = subject.look(Duration::from_millis(100), |l| (l["reply"] == all).then_some(()));
        assert_eq!(early, None, "nothing is said while one still works");
        subject.send(busy, json!("release"));
        assert_eq!(subject.reply(all)["alive"], 0);
    }
    assert_eq!(client::answer(&mut client).expect("answered"), busy.to_string());
    subject.exit(busy);
}

/// F8: what is sent before the script looks for messages.
/// Node: it is lost. Here: the preload keeps it. What is sent when it listens is heard, from both.
fn f08(kind: Kind) {
    let mut subject = Subject::start(kind);
    let id = subject.fork("late.mjs", json!({}));
    subject.send(id, json!("early"));
    assert_eq!(subject.message(id), "begun");
    subject.event(id, "listening");
    subject.send(id, json!("late"));
    assert_eq!(subject.message(id), "ready");
    let first = subject.message(id)["heard"].clone();
    if !kind.is_node() && has_preload() {
        assert_eq!(first, "early");
        assert_eq!(subject.message(id)["heard"], "late");
    } else {
        assert_eq!(first, "late", "the early one is lost");
    }
}

/// F9: readableAll and writableAll.
/// Node: nothing happens with them in `SCHED_NONE`. Here: the file has the bits, whatever the policy.
fn f09(kind: Kind) {
    let mut subject = Subject::start(kind);
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("a.sock");
    let id = subject.net(&json!([[{ "path": path, "readableAll": true, "writableAll": true }]]));
    subject.address(id, 0);
    let mode = std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
    if kind.is_node() {
        assert_ne!(mode & 0o077, 0o077, "Node leaves them out: {mode:o}");
        assert_ne!(mode & 0o022, 0o022, "Node leaves them out: {mode:o}");
    } else {
        assert_eq!(mode & 0o666, 0o666, "{mode:o}");
    }
}

/// F10: who gets how much, of many connections that come one after the other.
/// Node's `SCHED_NONE`: what chance gives. Here: even, but for `shared`, which is the same.
fn f10(kind: Kind) {
    let mut subject = Subject::start(kind);
    let port = free_port();
    let ids = net_workers(&mut subject, 4, port);
    let mut counts: BTreeMap<u64, u32> = ids.iter().map(|id| (*id, 0)).collect();
    let total = 400;
    for _ in 0..total {
        *counts.entry(greeted(local(port)).0).or_default() += 1;
    }
    let shares: Vec<u32> = counts.values().copied().collect();
    eprintln!("{kind}: {total} connections to four workers: {shares:?}");
    assert_eq!(shares.iter().sum::<u32>(), total, "others answered: {counts:?}");
    match kind {
        Kind::NodeRr | Kind::RoundRobin => {
            assert!(shares.iter().all(|n| n.abs_diff(total / 4) <= 8), "{shares:?}");
        }
        // At random, each with the same chance: six standard deviations are 52, and a worker that does not
        // keep up on a busy machine is spared for a while.
        Kind::Direct => assert!(shares.iter().all(|n| (30..=180).contains(n)), "{shares:?}"),
        Kind::NodeNone | Kind::Shared => {}
    }
}
