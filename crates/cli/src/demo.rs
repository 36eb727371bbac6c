//! `phalanx demo`: an HTTP server on every core, one port, and things to try on it.

use crate::args::Demo;
use crate::failure::Failure;
use crate::log;
use crate::table::{self, Counts};
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use phalanx::{Address, Cluster, Event, Primary, Worker};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tower_service::Service;

/// How long `/block` keeps its worker busy.
const BLOCK: Duration = Duration::from_secs(5);

pub(crate) fn demo(options: Demo) -> Result<(), Failure> {
    phalanx::keep(options.keeper)?;
    let live = phalanx::is_primary() && std::io::stdout().is_terminal();
    let (recent, _rest) =
        if live { (Some(log::to_table()), None) } else { (None, Some(log::to_stderr())) };
    let address = options.listen.clone();
    let mut cluster = Cluster::new().workers(options.instances).listen(options.listen.clone());
    if let Some(policy) = options.policy {
        cluster = cluster.policy(policy);
    }
    let counts = Counts::default();
    let (seen, shown) = (counts.clone(), options.listen);
    cluster = cluster.primary(move |primary| count(primary, seen));
    // What is beside the guard begins when the port is open.
    cluster = cluster.primary(move |primary| async move {
        let head = introduction(&shown);
        // A terminal or a reader that went away is no reason to stop serving.
        let _ = match recent {
            Some(recent) => table::show(&primary, &head, &counts, &recent).await,
            None => std::io::stdout().write_all(head.as_bytes()),
        };
    });
    Ok(cluster.run(|worker| serve(worker, address))?)
}

/// What to try.
fn introduction(address: &Address) -> String {
    let curl = match address {
        Address::Ip(ip) if ip.ip().is_unspecified() => {
            format!("curl http://localhost:{}/", ip.port())
        }
        Address::Ip(ip) => format!("curl http://{ip}/"),
        Address::Unix(path) => format!("curl --unix-socket {} http://localhost/", path.display()),
    };
    let pid = std::process::id();
    format!(
        "phalanx demo: primary {pid}, listening on {address}. Try:
  {curl}          the workers answer in random turn
  {curl}block     one worker is busy for 5 s; the others answer
  kill -9 WORKER_PID        it is replaced; what waited is answered
  kill -USR2 {pid}        rolling reload, no request lost
  Ctrl-C, or kill {pid}   drain, then exit 0
"
    )
}

/// A worker's report of how many requests it answered.
#[derive(Serialize, Deserialize)]
struct Report {
    requests: u64,
    open: u32,
}

/// Collects the reports of the workers.
async fn count(primary: Primary, counts: Counts) {
    let mut events = primary.events();
    // The events hold the primary only as long as it runs.
    drop(primary);
    while let Some(event) = events.next().await {
        match event {
            Event::Message(worker, message) => {
                if let Ok(Report { requests, open }) = message.parse() {
                    counts.set(worker.id(), requests, open);
                }
            }
            Event::Exit(worker, _) => counts.remove(worker.id()),
            _ => {}
        }
    }
}

async fn serve(worker: Worker, address: Address) -> phalanx::Result<()> {
    let state = Arc::new(State {
        worker: worker.clone(),
        started: Instant::now(),
        requests: AtomicU64::new(0),
    });
    tokio::spawn(report(Arc::clone(&state)));
    let app = App { state };
    match &address {
        Address::Unix(path) => {
            let listener = worker.listen_unix(path, &phalanx::ListenOptions::default()).await?;
            phalanx::http::serve(listener, app).await
        }
        Address::Ip(_) => phalanx::http::serve(worker.listen(&address).await?, app).await,
    }
}

/// Tells the primary how many requests there were, when there were any, twice a second at most.
async fn report(state: Arc<State>) {
    let mut told = (0, 0);
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = (state.requests.load(Ordering::Relaxed), state.worker.connections());
        if now != told {
            told = now;
            if state.worker.send(&Report { requests: now.0, open: now.1 }).await.is_err() {
                return;
            }
        }
    }
}

struct State {
    worker: Worker,
    started: Instant,
    requests: AtomicU64,
}

/// The server: says who answered.
#[derive(Clone)]
struct App {
    state: Arc<State>,
}

#[derive(Serialize)]
struct Answer {
    message: &'static str,
    pid: u32,
    worker: u32,
    slot: u32,
    uptime_ms: u128,
    requests: u64,
}

impl Service<Request<Incoming>> for App {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let State { worker, started, requests } = &*self.state;
        if request.uri().path() == "/block" {
            // On purpose: the whole worker is busy, as by a long computation.
            std::thread::sleep(BLOCK);
        }
        let answer = Answer {
            message: "hello from phalanx",
            pid: std::process::id(),
            worker: worker.id(),
            slot: worker.slot(),
            uptime_ms: started.elapsed().as_millis(),
            requests: requests.fetch_add(1, Ordering::Relaxed) + 1,
        };
        let mut text = serde_json::to_vec(&answer).unwrap_or_default();
        text.push(b'\n');
        let mut response = Response::new(Full::new(Bytes::from(text)));
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        ready(Ok(response))
    }
}
