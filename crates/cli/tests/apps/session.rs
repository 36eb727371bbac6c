//! Sessions in Redis: who logs in at one worker is known at every other, also after a reload.

use crate::app::{App, Options};
use crate::common::{self, LONG};
use crate::http::Request;
use crate::install::start;
use bench::spawned::Guarded;
use bench::wait;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A Redis of its own, which keeps nothing.
struct Redis {
    /// Ended when dropped.
    _process: Guarded,
    _directory: tempfile::TempDir,
    url: String,
}

impl Redis {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = wait::free_port().to_string();
        let mut command = common::clean("redis-server", ["--bind", "127.0.0.1", "--port", &port]);
        command.args(["--save", "", "--appendonly", "no"]).current_dir(directory.path());
        let process = start(&mut command, "redis-server");
        let ready = |line: &str| line.contains("Ready to accept connections");
        process.wait_for_line(ready, LONG).unwrap_or_else(|error| panic!("{error}"));
        Self { _process: process, _directory: directory, url: format!("redis://127.0.0.1:{port}") }
    }
}

/// Visits until each of the workers has known the user. Each visit is counted in the session,
/// whichever worker it reaches. Returns the number of the last visit.
fn visit_all(app: &App, cookie: &str, workers: &BTreeSet<u32>, mut visits: u64) -> u64 {
    let mut missing = workers.clone();
    app.cluster.until("every worker to know the user", || {
        let worker = visit(app, cookie, &mut visits);
        missing.remove(&worker);
        missing.is_empty().then_some(())
    });
    visits
}

/// One visit: returns who answered.
fn visit(app: &App, cookie: &str, visits: &mut u64) -> u32 {
    let response = app.ask(&Request::get("/me").header("Cookie", cookie));
    *visits += 1;
    let expected = format!(r#"{{"user":"ada","visits":{visits}}}"#);
    assert_eq!((response.status, &*response.body), (200, &*expected), "{response:?}");
    response.worker()
}

#[test]
fn express_session_in_redis() {
    let redis = Redis::start();
    let options = Options { env: &[("REDIS_URL", &redis.url)], ..Options::default() };
    let app = App::start("session", "server.js", &options);
    let stranger = Request::get("/me").expect(401, "who are you?");
    app.answers(&[stranger]);

    let login = Request::post("/login", "application/x-www-form-urlencoded", "user=ada");
    let response = app.ask(&login);
    assert_eq!((response.status, &*response.body), (200, r#"{"user":"ada"}"#), "{response:?}");
    let cookie = response.header("set-cookie").expect("a session");
    let cookie = cookie.split(';').next().unwrap_or_default();
    let before = visit_all(&app, cookie, &app.workers(), 0);

    // The user goes on visiting while the workers are replaced, and is never a stranger.
    let over = AtomicBool::new(false);
    let visits = thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            let mut visits = before;
            while !over.load(Ordering::Relaxed) {
                visit(&app, cookie, &mut visits);
            }
            visits
        });
        // The visitor must end also when this fails.
        let end = End(&over);
        app.reloads_under_load(|_| {});
        drop(end);
        visitor.join().expect("the visitor")
    });
    assert!(visits > before, "no visit during the reloads");
    visit_all(&app, cookie, &app.workers(), visits);

    let logout = Request::post("/logout", "text/plain", "").header("Cookie", cookie);
    assert_eq!(app.ask(&logout).status, 200);
    app.answers(&[Request::get("/me").header("Cookie", cookie).expect(401, "who are you?")]);
    app.stop();
}

/// Says that it is over when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
