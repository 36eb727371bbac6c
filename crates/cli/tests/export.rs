//! What `phalanx export` prints, in front of real servers: nginx and haproxy themselves take it.
#![allow(clippy::unwrap_used)]

mod common;

use bench::spawned::{Guarded, Signal};
use bench::wait;
use common::{LONG, clean, phalanx, spawn};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// What it prints.
fn export(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn run(args: &[&str]) -> Output {
    phalanx([&["export"], args].concat()).output().unwrap()
}

/// The servers behind a proxy, on ports in a row: each answers with its slot.
struct Servers {
    base: u16,
    connections: Arc<AtomicUsize>,
    /// By slot: whether it closes what it is asked on.
    broken: Vec<Arc<AtomicBool>>,
}

impl Servers {
    fn start(count: usize) -> Self {
        let listeners = wait::until(LONG, "free ports in a row", || {
            let base = wait::free_port();
            let row = (0..count).map(|slot| {
                let port = base.checked_add(u16::try_from(slot).ok()?)?;
                TcpListener::bind(("127.0.0.1", port)).ok()
            });
            row.collect::<Option<Vec<_>>>()
        })
        .unwrap();
        let base = listeners[0].local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let mut broken = Vec::new();
        for (slot, listener) in listeners.into_iter().enumerate() {
            let breaks = Arc::new(AtomicBool::new(false));
            broken.push(Arc::clone(&breaks));
            let connections = Arc::clone(&connections);
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    connections.fetch_add(1, Ordering::Relaxed);
                    let breaks = Arc::clone(&breaks);
                    thread::spawn(move || answer(&stream, slot, &breaks));
                }
            });
        }
        Self { base, connections, broken }
    }
}

/// Answers one request after the other, with the slot.
fn answer(stream: &TcpStream, slot: usize, breaks: &AtomicBool) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    loop {
        let mut head = lines.by_ref().take_while(|line| !line.is_empty()).peekable();
        if head.peek().is_none() || breaks.load(Ordering::Relaxed) {
            return;
        }
        head.for_each(drop);
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{slot}");
        if (&mut &*stream).write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// One request: the slot that answered it.
fn ask(address: SocketAddr) -> Result<usize, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).map_err(text)?;
    stream.set_read_timeout(Some(LONG)).map_err(text)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("{answer:?}"))?;
    match body.trim().parse() {
        Ok(slot) if head.starts_with("HTTP/1.1 200 ") => Ok(slot),
        _ => Err(format!("{answer:?}")),
    }
}

/// So many requests: how many each slot answered.
fn ask_times(times: usize, address: SocketAddr, proxy: &Guarded) -> BTreeMap<usize, usize> {
    let mut slots = BTreeMap::new();
    for _ in 0..times {
        let slot = ask(address).unwrap_or_else(|error| panic!("{error}\n{}", proxy.output()));
        *slots.entry(slot).or_default() += 1;
    }
    slots
}

/// nginx's whole configuration around the printed part, with the printed example in its place.
fn nginx_conf(place: &Path, port: u16, printed: &str) -> String {
    let example: Vec<&str> = printed
        .lines()
        .skip_while(|line| !line.starts_with("# location"))
        .filter_map(|line| line.strip_prefix("# "))
        .collect();
    assert!(example.len() > 5, "{printed}");
    let place = place.display();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {place}/pid; error_log stderr info;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;
    uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
    {printed}
    server {{
        listen 127.0.0.1:{port};
        {}
    }}
}}
",
        example.join("\n")
    )
}

/// haproxy's, likewise.
fn haproxy_conf(address: SocketAddr, printed: &str) -> String {
    let example: Vec<&str> = printed
        .lines()
        .skip_while(|line| !line.starts_with("# frontend"))
        .filter_map(|line| line.strip_prefix("# "))
        .collect();
    assert!(example.len() > 3, "{printed}");
    let front = example.join("\n").replace("bind :80", &format!("bind {address}"));
    let times = "timeout connect 5s\n    timeout client 30s\n    timeout server 30s";
    format!("defaults\n    {times}\n\n{printed}\n{front}\n")
}

/// Waits until somebody listens there. Does not ask: that would count.
fn wait_listening(address: SocketAddr, proxy: &Guarded) {
    wait::until(LONG, "the proxy to listen", || TcpStream::connect(address).ok())
        .unwrap_or_else(|error| panic!("{error}\n{}", proxy.output()));
}

#[test]
fn nginx_shares_out_by_weight_and_asks_the_next_worker() {
    let servers = Servers::start(4);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nginx.conf");
    let base = servers.base.to_string();
    let printed = export(&[
        "nginx",
        "--port-base",
        &base,
        "-i",
        "4",
        "--weights",
        "3,1,1,0",
        "--name",
        "a-b",
    ]);
    let address = common::v4();
    std::fs::write(&file, nginx_conf(directory.path(), address.port(), &printed)).unwrap();
    let command = |more: &[&str]| {
        let args = ["-p", directory.path().to_str().unwrap(), "-c", file.to_str().unwrap()];
        clean("nginx", [&args, more].concat())
    };
    let checked = command(&["-t"]).output().expect("nginx is installed");
    assert!(checked.status.success(), "{checked:?}\n{printed}");

    let proxy = spawn(&mut command(&[]));
    wait_listening(address, &proxy);
    let slots = ask_times(100, address, &proxy);
    // One process of nginx shares out exactly.
    assert_eq!(slots, BTreeMap::from([(0, 60), (1, 20), (2, 20)]), "{}", proxy.output());
    let made = servers.connections.load(Ordering::Relaxed);
    assert!(made <= 6, "connections are kept, but {made} were made for 100 requests");

    // One worker fails in the middle of requests: another one answers.
    servers.broken[0].store(true, Ordering::Relaxed);
    let slots = ask_times(40, address, &proxy);
    assert_eq!(slots.get(&0), None, "{slots:?}");
    proxy.signal(Signal::TERM).unwrap();
    proxy.wait_exit(LONG).unwrap();
}

#[test]
fn haproxy_shares_out_by_weight() {
    let servers = Servers::start(3);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("haproxy.cfg");
    let base = servers.base.to_string();
    let printed = export(&[
        "haproxy",
        "--port-base",
        &base,
        "-i",
        "3",
        "--weights",
        "3,1,0",
        "--name",
        "shop",
    ]);
    assert!(printed.contains("    server shop0 127.0.0.1:"), "{printed}");
    assert!(printed.contains(" weight 30 check\n"), "{printed}");
    let address = common::v4();
    std::fs::write(&file, haproxy_conf(address, &printed)).unwrap();
    let command =
        |more: &[&str]| clean("haproxy", [&["-f", file.to_str().unwrap()], more].concat());
    let checked = command(&["-c"]).output().expect("haproxy is installed");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success() && !said.contains("WARNING"), "{said}\n{printed}");

    let proxy = spawn(&mut command(&["-db"]));
    wait_listening(address, &proxy);
    let slots = ask_times(100, address, &proxy);
    assert_eq!(slots, BTreeMap::from([(0, 75), (1, 25)]), "{}", proxy.output());
    proxy.signal(Signal::TERM).unwrap();
    proxy.wait_exit(LONG).unwrap();
}

/// Whatever can be said of hosts, names and weights is understood by both.
#[test]
fn both_take_everything_that_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    for more in [
        &["-i", "1"][..],
        &["-i", "512"],
        &["-i", "2", "--host", "::1"],
        &["-i", "2", "--host", "localhost"],
        &["-i", "2", "--name", "A_b.c-d2"],
        &["-i", "2", "--weights", "65535,1"],
        &["-i", "max"],
    ] {
        let print = |proxy| export(&[&[proxy, "--port-base", "3000"], more].concat());
        let file = place.join("nginx.conf");
        std::fs::write(&file, nginx_conf(place, wait::free_port(), &print("nginx"))).unwrap();
        let (place, file) = (place.to_str().unwrap(), file.to_str().unwrap());
        let nginx = clean("nginx", ["-t", "-p", place, "-c", file]).output().unwrap();
        assert!(nginx.status.success(), "{more:?}: {nginx:?}");
        let file = format!("{place}/haproxy.cfg");
        std::fs::write(&file, haproxy_conf(common::v4(), &print("haproxy"))).unwrap();
        let haproxy = clean("haproxy", ["-c", "-f", &file]).output().unwrap();
        let said = String::from_utf8_lossy(&haproxy.stderr);
        assert!(haproxy.status.success(), "{more:?}: {said}");
        let [alert, warning] = ["ALERT", "WARNING"].map(|word| said.contains(word));
        assert!(!alert && !warning, "{more:?}: {said}");
    }
    let rounded = export(&["haproxy", "--port-base", "1", "-i", "2", "--weights", "65535,1"]);
    assert!(rounded.contains("rounded"), "{rounded}");
    assert!(
        rounded.contains(" weight 256 check") && rounded.contains(" weight 1 check"),
        "{rounded}"
    );
}

#[test]
fn what_makes_no_sense_is_refused_with_code_2() {
    for (args, word) in [
        (&["nginx", "--port-base", "65534", "-i", "3"][..], "65535 is the last one"),
        (&["nginx", "--port-base", "65536", "-i", "1"], "--port-base"),
        (&["nginx", "--port-base", "0", "-i", "1"], "--port-base"),
        (&["nginx", "-i", "1"], "--port-base"),
        (&["nginx", "--port-base", "3000"], "--instances"),
        (&["nginx", "--port-base", "3000", "-i", "513"], "from 1 to 512"),
        (&["nginx", "--port-base", "3000", "-i", "2", "--weights", "1"], "--weights has 1 for 2"),
        (
            &["haproxy", "--port-base", "3000", "-i", "1", "--weights", "1,2"],
            "--weights has 2 for 1",
        ),
        (&["nginx", "--port-base", "3000", "-i", "2", "--weights", "0,0"], "all weights are 0"),
        (&["nginx", "--port-base", "3000", "-i", "2", "--weights", "1,-1"], "--weights"),
        (&["nginx", "--port-base", "3000", "-i", "2", "--weights", "1,"], "--weights"),
        (&["nginx", "--port-base", "3000", "-i", "1", "--weights", "65536"], "--weights"),
        (&["nginx", "--port-base", "3000", "-i", "1", "--name", "a;b"], "--name"),
        (&["nginx", "--port-base", "3000", "-i", "1", "--name", "1a"], "--name"),
        (&["nginx", "--port-base", "3000", "-i", "1", "--host", "a:1"], "--host"),
        (&["apache", "--port-base", "3000", "-i", "1"], "nginx, haproxy"),
    ] {
        let output = run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {word:?} is not in {said:?}");
        assert!(output.stdout.is_empty(), "{args:?} printed something all the same");
    }
}
