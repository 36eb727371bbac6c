//! Primaries that are killed, or hang: the next start, and a delete, leave nothing of them.

use crate::common::{LONG, is_free, node, signal, stop_process};
use crate::path;
use crate::support::{Tool, gone};
use bench::process;
use bench::spawned::Signal;
use bench::wait;
use std::fs;
use std::time::{Duration, Instant};

/// A Python server that neither notices its primary's death nor obeys SIGTERM, and has a child that does neither.
const STUBBORN: &str = "import http.server, os, signal, sys, time\n\
    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
    if os.fork() == 0:\n\
    \x20   os.setpgid(0, 0)\n\
    \x20   open(f'child.{os.getpid()}', 'w').close()\n\
    \x20   while True: time.sleep(100)\n\
    http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()\n";

fn children(tool: &Tool) -> Vec<u32> {
    let names = fs::read_dir(tool.directory()).unwrap().flatten();
    let pid = |name: String| name.strip_prefix("child.")?.parse().ok();
    names.filter_map(|entry| pid(entry.file_name().into_string().ok()?)).collect()
}

/// Kills it and its keeper.
fn kill_primary(tool: &Tool) -> Vec<u32> {
    let (primary, workers) = (tool.primary("app"), tool.workers("app"));
    let keeper = process::stat(primary).unwrap().parent;
    // At once: each would look after the other.
    stop_process(primary);
    signal(keeper, Signal::KILL);
    signal(primary, Signal::KILL);
    gone(keeper, LONG);
    gone(primary, LONG);
    workers
}

#[test]
fn the_next_start_after_a_kill_is_clean() {
    let tool = Tool::new();
    tool.program("app.py", STUBBORN);
    let port = tool.address.port().to_string();
    let start = ["start", "-i", "2", "--name", "app", "--", "app.py", &port];
    tool.run(&start).expect(0, &["listening"]);
    let children = wait::until(LONG, "two children", || {
        Some(children(&tool)).filter(|children| children.len() == 2)
    })
    .unwrap();
    let workers = kill_primary(&tool);
    for pid in workers.iter().chain(&children) {
        assert!(process::is_alive(*pid), "the test needs one that is left");
    }
    assert_eq!(tool.about("app")["state"], "without primary");
    tool.run(&["list"]).expect(0, &["orphaned"]);
    let done = tool.run(&start).expect(0, &["listening", "did not end for SIGTERM: killed"]);
    for pid in workers.iter().chain(&children) {
        assert!(!process::is_alive(*pid), "{pid} is left: {done:?}");
        assert!(done.stderr.contains(&format!("process {pid} was left")), "{done:?}");
    }
    assert_eq!(tool.about("app")["ready"], 2);
}

#[test]
fn a_delete_after_a_kill_leaves_nothing() {
    let tool = Tool::new();
    let server = node("server.js");
    tool.run(&["start", path(&server), "-i", "2", "--name", "app"]).expect(0, &["listening"]);
    let workers = kill_primary(&tool);
    tool.run(&["delete", "app"]).expect(0, &[]);
    assert!(workers.iter().all(|pid| !process::is_alive(*pid)));
    assert!(is_free(tool.address));
    assert!(!tool.app("app").exists());
}

#[test]
fn a_primary_that_hangs_is_killed_by_a_delete() {
    let tool = Tool::new();
    let server = node("server.js");
    tool.run(&["start", path(&server), "-i", "2", "--name", "app"]).expect(0, &["listening"]);
    let (primary, workers) = (tool.primary("app"), tool.workers("app"));
    stop_process(primary);
    assert_eq!(tool.about("app")["state"], "not answering");
    tool.run(&["start", path(&server), "--name", "app"])
        .expect(6, &[&format!("process {primary}")]);
    tool.run(&["stop", "app"]).expect(1, &["does not answer", "phalanx delete app"]);
    let begin = Instant::now();
    let words = format!("its primary, process {primary}, did not answer: killed");
    let done = tool.run(&["delete", "app"]).expect(0, &[&words]);
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}: {done:?}", begin.elapsed());
    gone(primary, LONG);
    assert!(workers.iter().all(|pid| !process::is_alive(*pid)), "{done:?}");
    assert!(!tool.app("app").exists());
}

/// A pid of the register that is another process by now.
#[test]
fn a_stranger_is_not_hit() {
    let tool = Tool::new();
    let server = node("server.js");
    tool.run(&["start", path(&server), "-i", "1", "--name", "app"]).expect(0, &["listening"]);
    let workers = kill_primary(&tool);
    gone(workers[0], LONG);
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let file = tool.app("app").join("workers.json");
    let text = fs::read_to_string(&file).unwrap();
    let forged =
        text.replace(&format!("\"pid\": {}", workers[0]), &format!("\"pid\": {}", stranger.id()));
    assert_ne!(text, forged);
    fs::write(&file, forged).unwrap();
    tool.run(&["delete", "app"]).expect(0, &[]);
    let ended = stranger.try_wait().unwrap();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(ended.is_none(), "the stranger was hit: {ended:?}");
}

/// The socket is bound anew by the primary that takes over; lock and session are the keeper's.
#[test]
fn a_keeper_and_its_next_primary() {
    let tool = Tool::new();
    let server =
        tool.server("server.js", "setInterval(() => console.log(process.pid, process.ppid), 50);");
    let start = ["start", path(&server), "-i", "2", "--name", "app"];
    tool.run(&start).expect(0, &["listening"]);
    let (primary, workers) = (tool.primary("app"), tool.workers("app"));
    let keeper = process::stat(primary).unwrap().parent;
    signal(primary, Signal::KILL);
    let next = wait::until(LONG, "the next primary", || {
        let about = tool.about("app");
        let pid = about["primary_pid"].as_u64().filter(|_| about["state"] == "running")?;
        (pid != u64::from(primary)).then_some(pid)
    });
    next.unwrap_or_else(|error| panic!("{error}: {:#}", tool.about("app")));
    assert_eq!(tool.workers("app"), workers, "they go on");
    // And so does what they say: their parent is the keeper now.
    let (log, line) = (tool.home.join("logs/app-out.log"), format!("{} {keeper}\n", workers[0]));
    wait::until(LONG, "a line of a worker that was taken over", || {
        fs::read_to_string(&log).ok()?.contains(&line).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {line:?}"));
    tool.run(&start).expect(6, &["runs already"]);
    tool.run(&["reload", "app"]).expect(0, &["is done"]);
    // Only the keeper would start another one.
    stop_process(tool.primary("app"));
    tool.run(&["delete", "app"]).expect(0, &[&format!("its keeper, process {keeper}: killed")]);
    gone(keeper, LONG);
    assert!(is_free(tool.address));
    assert!(!tool.app("app").exists());
}

/// What was the primary is the keeper then, and leads no session.
#[test]
fn a_hung_primary_whose_keeper_was_killed_before() {
    let tool = Tool::new();
    let server = node("server.js");
    tool.run(&["start", path(&server), "-i", "1", "--name", "app"]).expect(0, &["listening"]);
    let primary = tool.primary("app");
    signal(process::stat(primary).unwrap().parent, Signal::KILL);
    let next = wait::until(LONG, "the next primary", || {
        let about = tool.about("app");
        let pid = about["primary_pid"].as_u64().filter(|_| about["state"] == "running")?;
        u32::try_from(pid).ok().filter(|pid| *pid != primary)
    })
    .unwrap_or_else(|error| panic!("{error}: {:#}", tool.about("app")));
    let keeper = process::stat(next).unwrap().parent;
    assert_eq!(keeper, primary, "it keeps what it was");
    stop_process(next);
    let words = format!("its keeper, process {keeper}: killed");
    tool.run(&["delete", "app", "--now"]).expect(0, &[&words]);
    gone(keeper, LONG);
    gone(next, LONG);
    assert!(is_free(tool.address));
    assert!(!tool.app("app").exists());
}
