//! Messages between workers: the primary passes them on.

use crate::event::Event;
use crate::message::Message;
use crate::primary::{Primary, WorkerHandle};
use phalanx_core::worker::WorkerId;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes of messages that may wait for one worker that does not read; more are lost to it, and that is said.
const ROOM: usize = 4 << 20;
/// What the smallest message counts.
const MIN_SIZE: usize = 64;
/// How often it is said.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Adapters of socket.io's that one worker may have.
const MAX_ADAPTERS: usize = 1024;

/// What `@socket.io/cluster-adapter` writes into each of its messages.
const ADAPTER: &str = "_sio_adapter";
/// Its types of messages, from version 0.3: answers for the one who asked; a farewell.
const ANSWERS: [u64; 2] = [8, 10];
const CLOSE: u64 = 13;
/// The farewell until 0.2, whose messages have no `uid`.
const WORKER_EXIT: u64 = 3;

/// Passes messages between workers, as long as the cluster runs; for
/// [`Cluster::primary`](crate::Cluster::primary). `phalanx run` does it always.
///
/// What a worker sends as `{"phalanx": "broadcast", "message": …}` reaches every other worker as `…`. Messages
/// of `@socket.io/cluster-adapter` reach whom that adapter's own primary would give them to, and the
/// others hear at once when a worker is gone.
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
    let mut members: BTreeMap<WorkerId, Member> = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            // What an adapter of an adopted one had said is learned again from its next message.
            Event::Fork(worker) | Event::Adopt(worker) => {
                members.insert(worker.id(), Member::new(worker));
            }
            Event::Disconnect(worker) => {
                let Some(gone) = members.remove(&worker.id()) else { continue };
                for text in gone.farewells(worker.id()) {
                    pass(&mut members, worker.id(), None, &text);
                }
            }
            Event::Message(from, message) => {
                let Some(note) = Note::of(&message) else { continue };
                if let Some(member) = members.get_mut(&from.id()) {
                    member.learn(&note);
                }
                let owner = |uid: &String| {
                    let has = |(_, member): &(_, &Member)| member.adapters.keys().any(|u| u == uid);
                    members.iter().find(has).map(|(id, _)| *id)
                };
                let only = note.answers.as_ref().and_then(owner);
                pass(&mut members, from.id(), only, &note.text);
            }
            _ => {}
        }
    }
}

/// To that worker, or to all but the sender.
fn pass(
    members: &mut BTreeMap<WorkerId, Member>,
    from: WorkerId,
    only: Option<WorkerId>,
    text: &RawValue,
) {
    for (to, member) in members.iter_mut() {
        if *to == from || only.is_some_and(|only| only != *to) {
            continue;
        }
        if !member.take(text) && member.said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            member.said = Some(Instant::now());
            tracing::warn!(
                "messages of other workers are lost to worker {to}: it does not read, and {} MiB wait already",
                ROOM >> 20
            );
        }
    }
}

/// A worker that may get messages of others.
struct Member {
    queue: mpsc::UnboundedSender<(Box<RawValue>, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    /// When it was last said that messages are lost.
    said: Option<Instant>,
    /// Its adapters, and their namespaces.
    adapters: BTreeMap<String, BTreeSet<String>>,
    /// It has an adapter of the older kind.
    old_adapter: bool,
}

impl Member {
    fn new(worker: WorkerHandle) -> Self {
        let (queue, mut waiting) = mpsc::unbounded_channel::<(Box<RawValue>, _)>();
        tokio::spawn(async move {
            while let Some((text, _room)) = waiting.recv().await {
                // One that left does not miss it.
                if worker.feed(&text).await.is_err() && !worker.is_connected() {
                    return;
                }
            }
        });
        let room = Arc::new(Semaphore::new(ROOM));
        Self { queue, room, said: None, adapters: BTreeMap::new(), old_adapter: false }
    }

    /// Whether there is room for it.
    fn take(&self, text: &RawValue) -> bool {
        let size = u32::try_from(text.get().len().clamp(MIN_SIZE, ROOM)).unwrap_or(u32::MAX);
        match Arc::clone(&self.room).try_acquire_many_owned(size) {
            Ok(room) => {
                // A worker whose channel is closed does not miss it.
                let _ = self.queue.send((text.to_owned(), room));
                true
            }
            Err(_) => false,
        }
    }

    fn learn(&mut self, note: &Note) {
        if let Some((uid, namespace)) = &note.adapter
            && self.adapters.len() < MAX_ADAPTERS
        {
            let namespaces = self.adapters.entry(uid.clone()).or_default();
            if namespaces.len() < MAX_ADAPTERS {
                namespaces.insert(namespace.clone());
            }
        }
        self.old_adapter |= note.old_adapter;
    }

    /// What the others' adapters would otherwise find out after their time-outs.
    fn farewells(&self, id: WorkerId) -> Vec<Box<RawValue>> {
        let new = self.adapters.iter().flat_map(|(uid, namespaces)| {
            namespaces.iter().map(move |nsp| {
                serde_json::json!({ "type": CLOSE, "uid": uid, "nsp": nsp, "source": ADAPTER })
            })
        });
        let old = self
            .old_adapter
            .then(|| serde_json::json!({ "type": WORKER_EXIT, "data": id.0, "source": ADAPTER }));
        new.chain(old).filter_map(|text| serde_json::value::to_raw_value(&text).ok()).collect()
    }
}

/// A message that is for other workers.
#[derive(Debug)]
struct Note {
    /// What they get.
    text: Box<RawValue>,
    /// The adapter it is from, by its `uid`, and that one's namespace.
    adapter: Option<(String, String)>,
    old_adapter: bool,
    /// The adapter that it answers.
    answers: Option<String>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    phalanx: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    source: Option<Cow<'a, str>>,
    #[serde(rename = "type", default)]
    kind: Option<u64>,
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    nsp: Option<String>,
    #[serde(default, rename = "requesterUid")]
    requester: Option<String>,
}

#[derive(Deserialize)]
struct Broadcast<'a> {
    #[serde(borrow)]
    message: &'a RawValue,
}

impl Note {
    fn of(message: &Message) -> Option<Self> {
        let text = message.text();
        // Nearly all messages end here.
        let marked = text.contains("\"broadcast\"") || text.contains("\"_sio_adapter\"");
        if !text.starts_with('{') || !marked {
            return None;
        }
        let found: Envelope<'_> = serde_json::from_str(text).ok()?;
        if found.phalanx.as_deref() == Some("broadcast") {
            let Broadcast { message } = serde_json::from_str(text).ok()?;
            let text = message.to_owned();
            return Some(Self { text, adapter: None, old_adapter: false, answers: None });
        }
        if found.source.as_deref() != Some(ADAPTER) {
            return None;
        }
        let is_answer = found.uid.is_some() && found.kind.is_some_and(|k| ANSWERS.contains(&k));
        Some(Self {
            text: RawValue::from_string(text.to_owned()).ok()?,
            old_adapter: found.uid.is_none(),
            adapter: found.uid.zip(found.nsp),
            answers: found.requester.filter(|_| is_answer),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> Option<Note> {
        let raw = RawValue::from_string(text.to_owned()).expect("JSON");
        Note::of(&Message::new(raw, None))
    }

    #[test]
    fn what_is_passed_on() {
        let others = |text: &str| note(text).map(|note| note.text.get().to_owned());
        assert_eq!(
            others(r#"{"phalanx":"broadcast","message":[1, 2]}"#).as_deref(),
            Some("[1, 2]")
        );
        assert_eq!(others(r#"{"message":null,"phalanx":"broadcast"}"#).as_deref(), Some("null"));
        for own in [
            r#""broadcast""#,
            "1",
            r#"{"phalanx":"other","message":1,"x":"broadcast"}"#,
            r#"{"phalanx":"broadcast"}"#,
            r#"{"phalanx":["broadcast"],"message":1}"#,
            r#"{"source":"other","x":"_sio_adapter"}"#,
        ] {
            assert_eq!(others(own), None, "{own}");
        }
    }

    #[test]
    fn adapters_of_both_kinds() {
        let ask = r#"{"source":"_sio_adapter","type":7,"uid":"a1","nsp":"/x","data":{}}"#;
        let found = note(ask).expect("passed on");
        assert_eq!(found.text.get(), ask);
        assert_eq!(found.adapter, Some(("a1".into(), "/x".into())));
        assert_eq!(found.answers, None);
        let answer =
            r#"{"source":"_sio_adapter","type":8,"uid":"b2","nsp":"/","requesterUid":"a1"}"#;
        assert_eq!(note(answer).expect("passed on").answers.as_deref(), Some("a1"));
        // In the older kind, 8 is a question.
        let old = note(r#"{"source":"_sio_adapter","type":8,"data":{"workerId":1}}"#);
        assert!(
            old.as_ref().is_some_and(|note| note.old_adapter && note.answers.is_none()),
            "{old:?}"
        );
    }
}
