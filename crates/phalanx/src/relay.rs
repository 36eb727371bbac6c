//! Messages between workers: the primary passes them on.

use crate::event::Event;
use crate::message::Message;
use crate::primary::{Primary, WorkerHandle};
use phalanx_core::worker::WorkerId;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// Messages that may wait for one worker that does not read; more are lost to it, and that is said.
const WAITING: usize = 1024;

/// Passes messages between workers, as long as the cluster runs; for
/// [`Cluster::primary`](crate::Cluster::primary). `phalanx run` does it always.
///
/// What a worker sends as `{"phalanx": "broadcast", "message": …}` reaches every other worker as `…`. The messages
/// of `@socket.io/cluster-adapter` reach every other worker as they are.
///
/// ```no_run
/// # async fn serve(_: phalanx::Worker) -> phalanx::Result<()> { Ok(()) }
/// fn main() -> phalanx::Result<()> {
///     phalanx::Cluster::new().primary(phalanx::relay).run(serve)
/// }
/// ```
pub async fn relay(primary: Primary) {
    let mut events = primary.events();
    drop(primary);
    let mut others: BTreeMap<WorkerId, mpsc::Sender<Box<RawValue>>> = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Fork(worker) => {
                let (queue, waiting) = mpsc::channel(WAITING);
                others.insert(worker.id(), queue);
                tokio::spawn(pass_on(worker, waiting));
            }
            Event::Exit(worker, _) => {
                others.remove(&worker.id());
            }
            Event::Message(from, message) => {
                let Some(text) = for_the_others(&message) else { continue };
                for (to, queue) in &others {
                    if *to != from.id() && queue.try_send(text.clone()).is_err() {
                        tracing::warn!(
                            "a message of worker {} is lost to worker {to}: {WAITING} wait for it already",
                            from.id()
                        );
                    }
                }
            }
            _ => {}
        }
    }
}

async fn pass_on(worker: WorkerHandle, mut waiting: mpsc::Receiver<Box<RawValue>>) {
    while let Some(text) = waiting.recv().await {
        // One that left does not miss it.
        if worker.send(&text).await.is_err() && !worker.is_connected() {
            return;
        }
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    phalanx: Option<&'a str>,
    #[serde(default)]
    source: Option<&'a str>,
}

#[derive(Deserialize)]
struct Broadcast<'a> {
    #[serde(borrow)]
    message: &'a RawValue,
}

/// What the other workers get of a message; `None`: it is not for them.
fn for_the_others(message: &Message) -> Option<Box<RawValue>> {
    let text = message.text();
    // Nearly all messages end here.
    if !text.starts_with('{')
        || !(text.contains("\"broadcast\"") || text.contains("\"_sio_adapter\""))
    {
        return None;
    }
    let envelope: Envelope<'_> = serde_json::from_str(text).ok()?;
    if envelope.phalanx == Some("broadcast") {
        return serde_json::from_str(text).ok().map(|Broadcast { message }| message.to_owned());
    }
    let whole = || RawValue::from_string(text.to_owned()).ok();
    (envelope.source == Some("_sio_adapter")).then(whole).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on() {
        let others = |text: &str| {
            let raw = RawValue::from_string(text.to_owned()).expect("JSON");
            for_the_others(&Message::new(raw, None)).map(|text| text.get().to_owned())
        };
        assert_eq!(
            others(r#"{"phalanx":"broadcast","message":[1, 2]}"#).as_deref(),
            Some("[1, 2]")
        );
        assert_eq!(others(r#"{"message":null,"phalanx":"broadcast"}"#).as_deref(), Some("null"));
        assert_eq!(others(r#"{"phalanx":"broadcast","message":false}"#).as_deref(), Some("false"));
        let adapter = r#"{"source":"_sio_adapter","type":3,"data":{}}"#;
        assert_eq!(others(adapter).as_deref(), Some(adapter));
        for own in [
            r#""broadcast""#,
            "1",
            r#"{"phalanx":"other","message":1,"x":"broadcast"}"#,
            r#"{"phalanx":"broadcast"}"#,
            r#"{"phalanx":["broadcast"],"message":1}"#,
        ] {
            assert_eq!(others(own), None, "{own}");
        }
    }
}
