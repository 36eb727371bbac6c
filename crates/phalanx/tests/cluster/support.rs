//! What the tests share.

use crate::roles::ROLE;
use phalanx::{Event, Events, Options, Policy, Primary, Settings, Spec, WorkerHandle, WorkerState};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No test takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// Nothing that is waited for takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Options whose workers play a role of this program's.
pub(crate) fn options(role: &str, workers: usize, policy: Policy) -> Options {
    Options {
        spec: Spec { workers, grace: Some(Duration::from_secs(10)), ..Spec::default() },
        settings: Settings {
            env: vec![(ROLE.into(), role.into()), ("RUST_BACKTRACE".into(), "0".into())],
            ..Settings::default()
        },
        policy,
        ..Options::default()
    }
}

/// As [`options`], for roles that listen on `address`.
pub(crate) fn serving(role: &str, workers: usize, policy: Policy, address: &str) -> Options {
    let mut options = options(role, workers, policy);
    options.settings.env.push(("ADDRESS".into(), address.into()));
    options
}

/// A worker that does what it is told.
pub(crate) struct Controlled {
    pub(crate) handle: WorkerHandle,
    pub(crate) events: Events,
    orders: u64,
}

impl Controlled {
    pub(crate) async fn fork(primary: &Primary) -> Self {
        Self::of(primary.fork().await.expect("forked"))
    }

    pub(crate) fn of(handle: WorkerHandle) -> Self {
        let events = handle.events();
        Self { handle, events, orders: 0 }
    }

    /// Gives an order and waits for the answer.
    pub(crate) async fn ask(&mut self, order: &str, mut more: Value) -> Result<Value, String> {
        let id = self.tell(order, &mut more).await;
        loop {
            let answer = self.message().await;
            if answer["id"] == id {
                return match answer["error"].as_str() {
                    Some(error) => Err(error.to_owned()),
                    None => Ok(answer["ok"].clone()),
                };
            }
        }
    }

    /// Gives an order; nothing comes back.
    pub(crate) async fn tell(&mut self, order: &str, more: &mut Value) -> u64 {
        self.orders += 1;
        if !more.is_object() {
            *more = json!({});
        }
        more["do"] = json!(order);
        more["id"] = json!(self.orders);
        self.handle.send(more).await.expect("sent");
        self.orders
    }

    pub(crate) async fn listen(&mut self, address: &str) -> SocketAddr {
        let address = self.ask("listen", json!({ "address": address })).await.expect("listens");
        address.as_str().and_then(|a| a.parse().ok()).expect("an address")
    }

    pub(crate) async fn message(&mut self) -> Value {
        self.next("a message", |event| match event {
            Event::Message(_, message) => Some(message.parse().expect("JSON")),
            _ => None,
        })
        .await
    }

    /// The next event that is what the test waits for.
    pub(crate) async fn next<T>(&mut self, what: &str, wanted: impl Fn(Event) -> Option<T>) -> T {
        next(&mut self.events, what, wanted).await
    }
}

/// The next event that is what the test waits for.
pub(crate) async fn next<T>(
    events: &mut Events,
    what: &str,
    wanted: impl Fn(Event) -> Option<T>,
) -> T {
    let mut seen = Vec::new();
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            let event = events.next().await?;
            seen.push(name(&event));
            if let Some(found) = wanted(event) {
                return Some(found);
            }
        }
    });
    match found.await {
        Ok(Some(found)) => found,
        end => panic!(
            "waited for {what}, {}; saw {seen:?}",
            if end.is_ok() { "the events ended" } else { "in vain" }
        ),
    }
}

/// An event in a word, its worker and what matters.
pub(crate) fn name(event: &Event) -> String {
    match event {
        Event::Setup => "setup".into(),
        Event::Fork(w) => format!("fork {}", w.id()),
        Event::Online(w) => format!("online {}", w.id()),
        Event::Listening(w, address) => format!("listening {} {address}", w.id()),
        Event::Message(w, m) => format!("message {} {:.60}", w.id(), m.text()),
        Event::Disconnect(w) => format!("disconnect {}", w.id()),
        Event::Exit(w, exit) => format!("exit {} {exit}", w.id()),
        Event::Error(w, what) => format!("error {} {what}", w.id()),
        Event::Hung(w, evidence) => format!("hung {} {evidence}", w.id()),
        Event::Report(report) => format!("report: {report}"),
        _ => "?".into(),
    }
}

/// Waits until so many guarded workers are ready.
pub(crate) async fn settled(primary: &Primary, workers: usize) {
    bench::wait::until_async(PATIENCE, "all workers are ready and no other runs", async || {
        let status = primary.status().await.ok()?;
        let ready = status.workers.iter().filter(|w| w.state == WorkerState::Listening).count();
        (ready == workers && status.workers.len() == workers).then_some(())
    })
    .await
    .expect("settled");
}

/// Which worker answers on an address; the connection goes on.
pub(crate) async fn greeted(address: SocketAddr) -> (u32, TcpStream) {
    tokio::task::spawn_blocking(move || {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("greeted");
        (line.trim().parse().expect("a worker"), stream)
    })
    .await
    .expect("done")
}

/// A free port on 127.0.0.1, as an address.
pub(crate) fn free_address() -> String {
    format!("127.0.0.1:{}", bench::wait::free_port())
}
