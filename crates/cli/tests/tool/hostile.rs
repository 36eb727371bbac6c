//! What a control socket bears: clients that speak nonsense, do not read, are too many, or are somebody else.

use crate::common::{LONG, node};
use crate::support::{Tool, begin, finish, gone, line, request};
use bench::wait;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn started() -> Tool {
    let tool = Tool::new();
    let server = node("server.js");
    let server = server.to_str().unwrap();
    tool.run(&["start", server, "-i", "1", "--name", "app"]).expect(0, &["listening"]);
    tool
}

fn refusal(answer: Option<Value>) -> String {
    let answer = answer.expect("an answer");
    answer["error"]["message"].as_str().unwrap_or_else(|| panic!("no error: {answer}")).to_owned()
}

#[test]
fn nonsense_is_answered_in_words() {
    let tool = started();
    let mut stream = tool.connect("app");
    for (text, words) in [
        ("", "not understood"),
        ("GET / HTTP/1.1", "not understood"),
        ("[[[[[[", "not understood"),
        (r#"{"v":2,"cmd":"describe"}"#, "version 1"),
        (r#"{"v":1,"cmd":"rm"}"#, "`rm` is no command"),
        (r#"{"v":1,"cmd":"scale","to":0}"#, "0 workers are not possible"),
        (r#"{"v":1,"cmd":"scale","to":100000}"#, "100000 workers are not possible"),
        (r#"{"v":1,"cmd":"scale","by":-9223372036854775808}"#, "it must be 1 to"),
    ] {
        let said = refusal(request(&mut stream, text));
        assert!(said.contains(words), "{text}: {said}");
    }
    // The same connection, and two requests at once.
    stream.write_all(b"{\"v\":1,\"cmd\":\"describe\"}\n{\"v\":1,\"cmd\":\"why\"}\n").unwrap();
    assert_eq!(line(&mut stream).unwrap()["ok"]["name"], "app");
    assert!(refusal(line(&mut stream)).contains("not there yet"));
    tool.get();
}

#[test]
fn bytes_and_endless_lines_are_bounded() {
    let tool = started();
    let mut stream = tool.connect("app");
    stream.write_all(&[0xff, 0, b'\n']).unwrap();
    assert!(refusal(line(&mut stream)).contains("not understood"));
    let mut stream = tool.connect("app");
    let megabyte = vec![b'x'; 1 << 20];
    // It stops reading before all is written.
    assert!(stream.write_all(&megabyte).is_err(), "a megabyte was taken");
    let said = refusal(line(&mut stream));
    assert!(said.contains("65536 bytes at most"), "{said}");
    tool.about("app");
}

/// Answers are not read, until no more fit into the socket: only that client waits.
#[test]
fn a_client_that_never_reads_holds_nobody_up() {
    let tool = started();
    let mut deaf: Vec<UnixStream> = (0..4).map(|_| tool.connect("app")).collect();
    for stream in &mut deaf {
        stream.set_nonblocking(true).unwrap();
        // Refused when the way there is full as well.
        while stream.write(b"{\"v\":1,\"cmd\":\"describe\"}\n").is_ok() {}
    }
    tool.about("app");
    tool.get();
    tool.run(&["reload", "app"]).expect(0, &["reload 1 is done"]);
    // After a while it is done with them.
    for mut stream in deaf {
        stream.set_nonblocking(false).unwrap();
        wait::until(LONG, "the client to be let go", || {
            let ended = stream.write(b"\n").is_err();
            ended.then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
    tool.about("app");
}

#[test]
fn a_hundred_connections_are_too_many() {
    let tool = started();
    let mut streams: Vec<UnixStream> = (0..100).map(|_| tool.connect("app")).collect();
    let mut served = 0;
    for stream in &mut streams {
        match request(stream, r#"{"v":1,"cmd":"describe"}"#) {
            Some(answer) if answer["ok"]["name"] == "app" => served += 1,
            Some(answer) => {
                let said = &answer["error"]["message"];
                assert_eq!(said, "32 clients are served already", "{answer}");
            }
            // Its end came before the request.
            None => {}
        }
    }
    assert_eq!(served, 32);
    tool.get();
    // Those that say nothing are let go.
    let begin = Instant::now();
    let mut last = streams.remove(0);
    last.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(last.read(&mut [0]).unwrap(), 0, "an idle client is kept");
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    tool.about("app");
}

/// Even one who gets at the socket.
#[test]
fn another_user_is_refused() {
    const CLIENT: &str = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX)\n\
        s.settimeout(20)\n\
        try:\n    s.connect(sys.argv[1])\n\
        except PermissionError:\n    sys.exit('may not connect')\n\
        try:\n    s.send(b'{\"v\":1,\"cmd\":\"describe\"}\\n')\n\
        except BrokenPipeError:\n    pass\n\
        print(s.recv(100000).decode())\n";
    let tool = started();
    let (app, socket) = (tool.app("app"), tool.app("app").join("control.sock"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&app), mode(&socket)), (0o700, 0o600));
    assert_eq!(mode(&tool.home.join("apps")), 0o700);
    assert_eq!(mode(&app.join("workers.json")), 0o600);
    let ask = |user: Option<&str>| {
        let mut command = Command::new(if user.is_some() { "setpriv" } else { "/usr/bin/python3" });
        if let Some(user) = user {
            let ids = [format!("--reuid={user}"), format!("--regid={user}")];
            command.args(ids).args(["--clear-groups", "/usr/bin/python3"]);
        }
        finish(begin(command.arg("-c").arg(CLIENT).arg(&socket)))
    };
    ask(None).expect(0, &["primary_pid"]);
    if !rustix::process::geteuid().is_root() {
        // Nobody else can be had; what keeps them out was looked at above.
        return;
    }
    ask(Some("65534")).expect(1, &["may not connect"]);
    let open =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for directory in [tool.directory(), &tool.home, &tool.home.join("apps"), &app] {
        open(directory, 0o755);
    }
    open(&socket, 0o666);
    let done = ask(Some("65534")).expect(0, &["only the application's user and root may ask"]);
    assert!(!done.stdout.contains("primary_pid"), "{done:?}");
}

/// No answer because of others is no reason to kill.
#[test]
fn a_delete_waits_for_its_turn() {
    let tool = started();
    let primary = tool.primary("app");
    let streams: Vec<UnixStream> = (0..40).map(|_| tool.connect("app")).collect();
    // They are clients before it asks.
    let mut last = tool.connect("app");
    assert!(refusal(line(&mut last)).contains("served already"));
    let done = tool.run(&["delete", "app"]).expect(0, &[]);
    assert!(!done.stderr.contains("killed"), "{done:?}");
    gone(primary, LONG);
    drop(streams);
}
