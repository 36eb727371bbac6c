//! Workers that say on their channel what no worker says. The primary and the other workers go on.
#![allow(clippy::unwrap_used)]

mod common;

use bench::spawned::Signal;
use bench::{process, wait};
use common::{Cluster, LONG, PHALANX, get, phalanx, signal, slot_of, spawn, v4};
use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tempfile::TempDir;

/// A cluster of three, of which the first worker in slot 0 is a shell script.
struct Faulty {
    cluster: Cluster,
    /// What was in the log before the fault.
    mark: u64,
    _directory: TempDir,
}

impl Faulty {
    /// Two healthy workers serve; then the script runs, with the channel as descriptor 3, and
    /// `$DEMO` as what a healthy worker executes.
    fn start(fault: &str) -> Self {
        let address = v4();
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("worker");
        // Each worker of slot 0 after the first is healthy.
        let text = format!(
            "#!/bin/sh
DEMO=\"{PHALANX} demo --listen {address}\"
if [ \"$NODE_APP_INSTANCE\" != 0 ] || ! mkdir first 2> /dev/null; then exec $DEMO; fi
while [ ! -e go ]; do sleep 0.02; done
{fault}
"
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = phalanx(["run", "./worker", "-i", "3"]);
        let process = spawn(command.current_dir(directory.path()));
        let cluster = Cluster { process, address };
        cluster.wait_serving(2);
        let mark = cluster.process.mark();
        fs::write(directory.path().join("go"), "").unwrap();
        Self { cluster, mark, _directory: directory }
    }

    /// Waits for a line that names the worker, its slot, and that.
    fn says(&self, what: &str) -> String {
        let names = |line: &str| {
            let slot = line.contains("worker 1 in slot 0") || line.contains("worker=1 slot=0");
            slot && line.contains(what)
        };
        let line = self.cluster.process.wait_for_line_since(self.mark, names, LONG);
        line.unwrap_or_else(|error| panic!("no line about worker 1 with {what:?}: {error}"))
    }

    /// Waits for something that the script printed.
    fn prints(&self, what: &str) -> String {
        self.cluster.line(self.mark, what)
    }

    /// The healthy ones answer meanwhile.
    fn others_answer(&self) {
        for _ in 0..10 {
            let answer = get(self.cluster.address, "/", LONG).unwrap_or_else(|error| {
                panic!("{error}\n{}", common::tail(&self.cluster.process.output()))
            });
            assert!(self.cluster.workers().contains(&answer.pid), "{answer:?}");
        }
    }

    /// All three slots serve, the primary stops as told, nothing is left.
    fn heals(self) {
        self.others_answer();
        self.cluster.wait_serving(3);
        let log = self.cluster.process.output();
        assert!(!log.contains("panicked"), "{log}");
        self.cluster.stop();
    }
}

/// One line that a script writes to its channel.
fn write(line: &str) -> String {
    format!("printf '%s\\n' '{line}' >&3")
}

#[test]
fn garbage_ends_the_worker() {
    for (fault, word) in [
        ("echo garbage >&3", "not JSON"),
        ("echo >&3", "not JSON"),
        ("printf '\\377\\376\\n' >&3", "UTF-8"),
        ("echo '{\"cmd\":\"NODE_CLUSTER\",\"act\":5}' >&3", "malformed"),
        (
            "echo '{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\",\"address\":[]}' >&3",
            "malformed",
        ),
        ("echo '{\"cmd\":\"NODE_CLUSTER\",\"seq\":-1,\"act\":\"online\"}' >&3", "malformed"),
        ("echo '{\"cmd\":\"NODE_CLUSTER\",\"act\":\"close\",\"key\":[]}' >&3", "malformed"),
    ] {
        let faulty = Faulty::start(&format!("{fault}\nexec sleep 1000"));
        let line = faulty.says("killed");
        assert!(line.contains(word), "{fault}: {line}");
        faulty.heals();
    }
}

#[test]
fn half_a_message_and_an_exit_is_an_exit() {
    let faulty = Faulty::start("printf '{\"cmd\":\"NODE_CL' >&3; exit 7");
    faulty.says("");
    faulty.heals();
}

#[test]
fn half_a_message_and_a_closed_channel() {
    let faulty = Faulty::start("printf '{\"cmd\":\"NODE_CL' >&3; exec 3>&-; exec sleep 1000");
    let line = faulty.says("killed");
    assert!(line.contains("middle of a message"), "{line}");
    faulty.heals();
}

#[test]
fn a_line_without_end_is_bounded() {
    let faulty = Faulty::start("head -c 80000000 /dev/zero | tr '\\0' x >&3\nexec sleep 1000");
    let line = faulty.says("killed");
    assert!(line.contains("longer than the bound"), "{line}");
    faulty.others_answer();
    faulty.cluster.wait_serving(3);
    let resident = || process::rss_bytes(faulty.cluster.pid()).unwrap();
    eprintln!("the primary has {} MB after a line of 80 MB", resident() >> 20);
    assert!(resident() < 200 << 20, "{}", resident());
    faulty.heals();
}

#[test]
fn what_is_unknown_is_ignored() {
    let harmless = [
        r#"{"cmd":"NODE_CLUSTER","act":"dance","seq":1}"#,
        r#"{"cmd":"NODE_CLUSTER"}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":99999,"accepted":true}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":1,"accepted":false}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"close","key":"127.0.0.1:1:4:null"}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"close"}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"newconn","key":"x"}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"disconnect"}"#,
        r#"{"cmd":"NODE_WHATEVER","x":{}}"#,
        r#"{"cmd":"NODE_HANDLE_ACK"}"#,
        r#"{"cmd":"NODE_HANDLE_NACK"}"#,
        r#"{"cmd":"NODE_SOCKET_NOTIFY_CLOSE","key":"x"}"#,
        r#"{"cmd":"NODE_SOCKET_COUNT","key":"x","count":3}"#,
        r#"{"hello":"world"}"#,
        "null",
        "[1,2,3]",
    ];
    let mut script: Vec<String> = harmless.iter().map(|line| write(line)).collect();
    script.push("exec $DEMO".to_owned());
    let faulty = Faulty::start(&script.join("\n"));
    faulty.cluster.wait_serving(3);
    let text = faulty.cluster.process.output();
    assert!(!text.contains("killed") && !text.contains("ended unasked"), "{text}");
    faulty.heals();
}

#[test]
fn a_handle_without_a_descriptor_is_refused() {
    let handle = r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"take":"this"}}"#;
    let count = r#"{"cmd":"NODE_SOCKET_GET_COUNT","key":"k"}"#;
    let faulty = Faulty::start(&format!(
        "{}\nread -r line <&3; echo \"answer: $line\"\n{}\nread -r line <&3; echo \"answer: $line\"\nexec $DEMO",
        write(handle),
        write(count)
    ));
    faulty.prints("NODE_HANDLE_NACK");
    faulty.prints("NODE_SOCKET_COUNT");
    faulty.heals();
}

/// A query and its answer, printed with the number.
fn ask(number: usize, fields: &str) -> String {
    let query = format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer","seq":{number},{fields}}}"#);
    format!("{}\nread -r line <&3; echo \"answer {number}: $line\"", write(&query))
}

#[test]
fn impossible_addresses_are_refused_one_by_one() {
    let mut fields: Vec<String> = [
        r#""address":"127.0.0.1","port":99999999,"addressType":4"#,
        r#""address":"127.0.0.1","port":-5,"addressType":4"#,
        r#""address":"not an ip","port":8000,"addressType":4"#,
        r#""address":"::1:::","port":8000,"addressType":6"#,
        r#""address":"192.0.2.1","port":1,"addressType":4"#,
        r#""address":"/no/such/directory/sock","port":-1,"addressType":-1"#,
        r#""port":-1,"addressType":-1"#,
        r#""address":"","port":-1,"addressType":-1"#,
        r#""address":"127.0.0.1","port":0,"addressType":4,"phalanx":{"policy":"fair"}"#,
        r#""port":-1,"addressType":null,"fd":-7"#,
        r#""port":-1,"addressType":null,"fd":99999999999"#,
    ]
    .map(str::to_owned)
    .into();
    // The primary's own descriptors are not for workers.
    fields.extend((0..64).map(|fd| format!(r#""port":-1,"addressType":null,"fd":{fd}"#)));
    let mut script: Vec<String> =
        fields.iter().enumerate().map(|(number, fields)| ask(number + 1, fields)).collect();
    script.push("echo all asked; exec $DEMO".to_owned());
    let faulty = Faulty::start(&script.join("\n"));
    faulty.prints("all asked");
    let log = faulty.cluster.process.output();
    for (number, fields) in fields.iter().enumerate() {
        let prefix = format!("answer {}: ", number + 1);
        let line = log.lines().find_map(|line| line.strip_prefix(&prefix));
        let line = line.unwrap_or_else(|| panic!("no answer to {fields}\n{log}"));
        let answer: serde_json::Value = serde_json::from_str(line).unwrap();
        let refused = answer["errno"].as_i64().is_some_and(|errno| errno < 0);
        assert!(refused, "{fields} was answered with {line}");
    }
    faulty.says("/no/such/directory/sock");
    faulty.heals();
}

#[test]
fn a_very_long_path_is_refused() {
    let script = "path=$(head -c 100000 /dev/zero | tr '\\0' y)
printf '{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\",\"seq\":1,\"address\":\"/%s\",\"port\":-1,\"addressType\":-1}\\n' \"$path\" >&3
read -r line <&3
case $line in *'\"errno\":-'*) echo refused;; *) echo taken;; esac
exec $DEMO";
    let faulty = Faulty::start(script);
    faulty.prints("refused");
    let longest = faulty.cluster.process.output().lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 8_192, "a worker made the log have a line of {longest} bytes (or more)");
    faulty.heals();
}

#[test]
fn no_worker_forges_lines_of_the_log() {
    let address = r"x\n2026-01-01T00:00:00Z ERROR forged\u001b[2J";
    let query = ask(1, &format!(r#""address":"{address}","port":-1,"addressType":4"#));
    let unix = ask(2, &format!(r#""address":"/no/{address}","port":-1,"addressType":-1"#));
    // The answers would be printed here by the script itself.
    let script = format!("{query}\n{unix}\n").replace("echo \"answer", "true \"answer");
    let faulty = Faulty::start(&format!("{script}echo all asked; exec $DEMO"));
    faulty.prints("all asked");
    let log = faulty.cluster.process.output();
    assert!(log.contains("forged"), "it is not said at all: {log}");
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{log}");
    assert!(!log.contains('\u{1b}'), "control characters in the log: {log:?}");
    faulty.heals();
}

#[test]
fn ten_thousand_queries_at_once() {
    // Each a port of its own, more than a worker may have; the answers are not read.
    let script = "awk 'BEGIN { for (i = 0; i < 10000; i++) printf \"{\\\"cmd\\\":\\\"NODE_CLUSTER\\\",\\\"act\\\":\\\"queryServer\\\",\\\"seq\\\":%d,\\\"address\\\":\\\"127.0.0.1\\\",\\\"port\\\":0,\\\"addressType\\\":4,\\\"index\\\":%d}\\n\", i, i }' >&3
echo all asked
exec sleep 1000";
    let faulty = Faulty::start(script);
    let cluster = &faulty.cluster;
    let descriptors = || process::open_descriptors(cluster.pid()).unwrap();
    let before = descriptors();
    faulty.prints("all asked");
    faulty.others_answer();
    let during = descriptors();
    let worker = cluster.workers().into_iter().find(|pid| slot_of(*pid) == Some(0)).unwrap();
    signal(worker, Signal::KILL);
    faulty.says("SIGKILL");
    cluster.wait_serving(3);
    // A port goes with its last worker; at the latest a reload settles what nobody uses any more.
    let mark = cluster.process.mark();
    cluster.process.signal(Signal::USR2).unwrap();
    cluster.line(mark, "reload 1 is done");
    cluster
        .until("the worker's ports to be closed", || (descriptors() < before + 32).then_some(()));
    let rss = process::rss_bytes(cluster.pid()).unwrap() >> 20;
    eprintln!("descriptors: {before} before, {during} with 10,000 queries; then {rss} MB resident");
    faulty.heals();
}

#[test]
fn a_port_that_only_a_dead_worker_had_is_closed() {
    let own = v4();
    let fields = format!(r#""address":"127.0.0.1","port":{},"addressType":4"#, own.port());
    let faulty = Faulty::start(&format!("{}\nexec sleep 1000", ask(1, &fields)));
    faulty.prints("answer 1");
    assert!(TcpStream::connect(own).is_ok(), "the worker got its port");
    let workers = faulty.cluster.workers();
    let worker = workers.into_iter().find(|pid| slot_of(*pid) == Some(0)).unwrap();
    signal(worker, Signal::KILL);
    // The replacement does not listen there: clients are to be refused, not to wait for nobody.
    faulty.cluster.wait_serving(3);
    let refused = wait::until(Duration::from_secs(5), "the port to be closed", || {
        // Connections that nobody takes fill the queue, and then nothing is refused but all hangs.
        let tried = TcpStream::connect_timeout(&own, Duration::from_millis(500));
        tried.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    refused.unwrap_or_else(|error| panic!("{error}\n{}", faulty.cluster.process.output()));
    faulty.heals();
}

#[test]
fn leaving_twice_is_leaving() {
    let leave = write(r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":1}"#);
    let faulty = Faulty::start(&format!("{leave}\n{leave}\nread -r line <&3\necho told; exit 0"));
    faulty.prints("told");
    faulty.says("left");
    faulty.heals();
}

#[test]
fn a_worker_that_lies_about_listening_takes_no_connection_with_it() {
    // It never asked for the port, and accepts nothing.
    let online = write(r#"{"cmd":"NODE_CLUSTER","act":"online"}"#);
    let faulty = Faulty::start(&format!(
        "port=${{DEMO##*:}}\n{online}\nprintf '{{\"cmd\":\"NODE_CLUSTER\",\"act\":\"listening\",\"address\":\"127.0.0.1\",\"port\":%s,\"addressType\":4}}\\n' \"$port\" >&3\necho lied\nexec sleep 1000"
    ));
    faulty.prints("lied");
    for _ in 0..30 {
        let answer = get(faulty.cluster.address, "/", Duration::from_secs(5)).unwrap();
        assert_ne!(answer.slot, 0);
    }
    let pids = faulty.cluster.workers();
    let worker = pids.into_iter().find(|pid| slot_of(*pid) == Some(0)).unwrap();
    signal(worker, Signal::KILL);
    faulty.heals();
}
