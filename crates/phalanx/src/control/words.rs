//! What is said on an application's control socket: lines of JSON, requests and answers, with the version of the
//! language in each.
//!
//! `{"v":1,"cmd":"describe"}` is answered by `{"v":1,"ok":…}` or `{"v":1,"error":{"message":…,"hint":…}}`; before that
//! there may be lines of `{"v":1,"progress":"…"}`.

use phalanx_core::spec::MAX_WORKERS;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The version of the language.
pub(super) const VERSION: u32 = 1;
/// Characters of a word.
const LONGEST_WORD: usize = 64;
/// Bytes of a request.
pub(super) const LONGEST_REQUEST: usize = 64 << 10;
/// Bytes of an answer: many more than 512 workers need.
pub(super) const LONGEST_ANSWER: usize = 16 << 20;

/// What can be asked of a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// What there is: a [`Description`].
    Describe,
    /// End: at once, or when the workers have finished.
    Stop {
        /// At once.
        now: bool,
    },
    /// Replace every worker; the answer comes when it is over.
    Reload,
    /// So many workers.
    ScaleTo(usize),
    /// So many workers more, or less.
    ScaleBy(i64),
    /// End every worker, and start it anew; the answer comes when the new ones are ready.
    Restart,
    /// Become the program that is at the primary's place now; no answer comes if all goes well.
    Upgrade,
    /// Why the last workers ended.
    Why,
    /// A signal for its workers, or the one of a slot.
    Signal {
        /// Its number.
        number: i32,
        /// Only the one of this slot.
        slot: Option<u32>,
    },
    /// A message for its workers, or the one of a slot.
    Send {
        /// The message.
        message: Value,
        /// Only to the one of this slot.
        slot: Option<u32>,
    },
    /// Count restarts from nothing again.
    Reset,
    /// Say that you are there.
    Ping,
    /// A word that only some applications know: `reopen` and `flush` of those that `phalanx start` started.
    Other(String),
}

/// Why something that was asked for is not done.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Refusal {
    /// Why not.
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    /// What to do about it.
    pub hint: Option<String>,
}

impl Refusal {
    /// Why not.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// And what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<crate::Error> for Refusal {
    fn from(error: crate::Error) -> Self {
        Self { message: error.to_string(), hint: error.hint() }
    }
}

/// A request as it is written. Words that a newer client adds are passed over.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Request {
    v: u32,
    #[serde(default)]
    cmd: String,
    #[serde(default, skip_serializing_if = "is_default")]
    now: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    to: Option<usize>,
    #[serde(default, skip_serializing_if = "is_default")]
    by: Option<i64>,
    #[serde(default, skip_serializing_if = "is_default")]
    number: Option<i32>,
    #[serde(default, skip_serializing_if = "is_default")]
    slot: Option<u32>,
    #[serde(default, skip_serializing_if = "is_default")]
    message: Option<Value>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Word {
    pub(super) fn read(line: &[u8]) -> Result<Self, Refusal> {
        let wrong = |why: String| {
            Refusal::new(why).hint(r#"a request is a line such as {"v":1,"cmd":"describe"}"#)
        };
        let request: Request = serde_json::from_slice(line)
            .map_err(|error| wrong(format!("the request is not understood: {error}")))?;
        if request.v != VERSION {
            return Err(Refusal::new(format!(
                "this primary speaks version {VERSION}, and not {}",
                request.v
            )));
        }
        Ok(match (request.cmd.as_str(), request.to, request.by) {
            ("describe", ..) => Self::Describe,
            ("stop", ..) => Self::Stop { now: request.now },
            ("reload", ..) => Self::Reload,
            ("scale", Some(to), None) => Self::ScaleTo(to),
            ("scale", None, Some(by)) => Self::ScaleBy(by),
            ("scale", ..) => return Err(wrong("scale needs either `to` or `by`".into())),
            ("restart", ..) => Self::Restart,
            ("upgrade", ..) => Self::Upgrade,
            ("why", ..) => Self::Why,
            ("signal", ..) => {
                let number = request.number.ok_or_else(|| wrong("signal needs `number`".into()))?;
                Self::Signal { number, slot: request.slot }
            }
            ("send", ..) => {
                // Also null is a message.
                Self::Send { message: request.message.unwrap_or_default(), slot: request.slot }
            }
            ("reset", ..) => Self::Reset,
            ("ping", ..) => Self::Ping,
            (other, ..) => Self::Other(other.chars().take(LONGEST_WORD).collect()),
        })
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut request = Request { v: VERSION, ..Request::default() };
        let name = match self {
            Self::Describe => "describe",
            Self::Stop { now } => {
                request.now = *now;
                "stop"
            }
            Self::Reload => "reload",
            Self::ScaleTo(to) => {
                request.to = Some(*to);
                "scale"
            }
            Self::ScaleBy(by) => {
                request.by = Some(*by);
                "scale"
            }
            Self::Restart => "restart",
            Self::Upgrade => "upgrade",
            Self::Why => "why",
            Self::Signal { number, slot } => {
                (request.number, request.slot) = (Some(*number), *slot);
                "signal"
            }
            Self::Send { message, slot } => {
                (request.message, request.slot) = (Some(message.clone()), *slot);
                "send"
            }
            Self::Reset => "reset",
            Self::Ping => "ping",
            Self::Other(word) => word,
        };
        request.cmd = name.to_owned();
        line(&json!(request))
    }
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// It goes on: what is done, in words.
    Progress(String),
    Done(Value),
    Refused(Refusal),
}

impl Answer {
    pub(super) fn write(&self) -> Vec<u8> {
        line(&match self {
            Self::Progress(text) => json!({ "v": VERSION, "progress": text }),
            Self::Done(value) => json!({ "v": VERSION, "ok": value }),
            Self::Refused(refusal) => json!({ "v": VERSION, "error": refusal }),
        })
    }

    /// `None`: it is not understood.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        let mut value: Value = serde_json::from_slice(line).ok()?;
        if let Some(text) = value.get("progress").and_then(Value::as_str) {
            return Some(Self::Progress(text.to_owned()));
        }
        if let Some(done) = value.get_mut("ok") {
            return Some(Self::Done(done.take()));
        }
        serde_json::from_value(value.get_mut("error")?.take()).ok().map(Self::Refused)
    }
}

fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// What a primary tells of its application. Times are in milliseconds, sizes in bytes.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Description {
    /// What it is called.
    pub name: String,
    /// Given at its first start, and kept.
    pub id: u32,
    /// The group it belongs to.
    pub namespace: String,
    /// `running`; of one that does not run, its client says what it is.
    pub state: String,
    /// Its primary, if there is one.
    pub primary_pid: Option<u32>,
    /// Of its primary.
    pub uptime_ms: u64,
    /// Of phalanx.
    pub version: String,
    /// What stood after `phalanx start`.
    pub argv: Vec<String>,
    /// Its working directory.
    pub cwd: String,
    /// It runs in somebody's foreground.
    pub foreground: bool,
    /// The configuration file that it is from.
    pub config: Option<String>,
    /// Of the program, as its package.json says.
    pub program_version: Option<String>,
    /// Whose processes they are.
    pub user: String,
    /// How often its workers ended without having been asked to, or were ended by the guard, since the last `reset`.
    pub restarts: u64,
    /// Of all its workers and their children, in RAM.
    pub memory_bytes: u64,
    /// Of all its workers, lately; 100 is one core.
    pub cpu_percent: f64,
    /// What makes it reload by itself: files that change, or times.
    pub watching: bool,
    /// The times of that, as in crontab(5).
    pub cron: Option<String>,
    /// Of ports that do not choose their own.
    pub policy: String,
    /// Where it listens.
    pub ports: Vec<Port>,
    /// How many workers there should be.
    pub wanted: usize,
    /// How many workers serve, and are not told to leave.
    pub ready: usize,
    /// Slots whose worker ended for good: until a reload they get no other one.
    pub ended: usize,
    /// Those that there are.
    pub workers: Vec<Worker>,
    /// Slots that wait for their next worker.
    pub waiting: Vec<Waiting>,
    /// How the last reload went.
    pub reload: ReloadState,
    /// Where it is written what is said, by the primary and by its workers.
    pub logs: Logs,
}

/// A port, as it is told.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Port {
    /// The address.
    pub address: String,
    /// Who gets a connection.
    pub policy: String,
}

/// A worker, as it is told.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Worker {
    /// Its number.
    pub id: u32,
    /// Its slot.
    pub slot: u32,
    /// Its process.
    pub pid: Option<u32>,
    /// forking, starting, online, listening, draining or killed.
    pub state: String,
    /// How long its process has been there.
    pub age_ms: u64,
    /// The reload it belongs to; 0 before the first.
    pub generation: u64,
    /// How often a worker of its slot ended without having been asked to.
    pub restarts: u64,
    /// Of its process and its children, in RAM.
    pub memory_bytes: Option<u64>,
    /// CPU time that it used.
    pub cpu_ms: Option<u64>,
    /// That, lately, its children's included; 100 is one core.
    pub cpu_percent: Option<f64>,
}

/// A slot that waits for its next worker.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Waiting {
    /// The slot.
    pub slot: u32,
    /// How long it still waits.
    pub wait_ms: u64,
    /// In a row.
    pub crashes: u32,
    /// As of a worker.
    pub restarts: u64,
}

/// The last reload.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ReloadState {
    /// none, running, done or failed.
    pub state: String,
    /// Its number.
    pub generation: u64,
    /// How it ended.
    pub words: Option<String>,
}

/// Where it is written what is said.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Logs {
    /// Of the primary.
    pub primary: String,
    /// Of standard output.
    pub out: String,
    /// Of standard error.
    pub err: String,
}

impl Description {
    /// Whether all its workers serve, or have ended for good.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        // None are wanted before its ports are open.
        self.wanted > 0 && self.ready + self.ended >= self.wanted && self.waiting.is_empty()
    }
}

/// A count that is asked for, from the one there is.
pub(super) fn changed(wanted: usize, by: i64) -> Result<usize, Refusal> {
    let workers = i64::try_from(wanted).unwrap_or(i64::MAX).saturating_add(by);
    let fits = usize::try_from(workers).ok().filter(|n| (1..=MAX_WORKERS).contains(n));
    fits.ok_or_else(|| {
        Refusal::new(format!(
            "{wanted} workers and {by:+} are {workers}: it must be 1 to {MAX_WORKERS}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_way() {
        let words = [
            Word::Describe,
            Word::Stop { now: false },
            Word::Stop { now: true },
            Word::Reload,
            Word::ScaleTo(3),
            Word::ScaleBy(-2),
            Word::Restart,
            Word::Upgrade,
            Word::Why,
            Word::Signal { number: 10, slot: Some(1) },
            Word::Send { message: json!({ "a": null }), slot: None },
            Word::Send { message: Value::Null, slot: Some(0) },
            Word::Reset,
            Word::Ping,
            Word::Other("reopen".into()),
        ];
        for word in words {
            assert_eq!(Word::read(&word.write()), Ok(word));
        }
    }

    #[test]
    fn answers_survive_the_way() {
        for answer in [
            Answer::Progress("a\n\"b\"".into()),
            Answer::Done(json!({ "a": [1, 2] })),
            Answer::Done(Value::Null),
            Answer::Refused(Refusal::new("no").hint("yes")),
        ] {
            let line = answer.write();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(Answer::read(&line), Some(answer));
        }
        assert_eq!(Answer::read(b"{}"), None);
        assert_eq!(Answer::read(b"\xff"), None);
    }

    #[test]
    fn what_is_no_request_is_refused_in_words() {
        for (line, words) in [
            (&b""[..], "not understood"),
            (b"\xff\xfe", "not understood"),
            (b"[]", "not understood"),
            (b"{}", "missing field `v`"),
            (br#"{"v":2,"cmd":"describe"}"#, "version 1, and not 2"),
            (br#"{"v":1,"cmd":"signal"}"#, "needs `number`"),
            (br#"{"v":1,"cmd":"scale"}"#, "`to` or `by`"),
            (br#"{"v":1,"cmd":"scale","to":1,"by":1}"#, "`to` or `by`"),
            (br#"{"v":1,"cmd":"scale","to":-1}"#, "not understood"),
        ] {
            let text = String::from_utf8_lossy(line);
            let refusal = Word::read(line).expect_err(&text);
            assert!(refusal.message.contains(words), "{text}: {refusal:?}");
        }
    }

    #[test]
    fn counts_stay_possible() {
        assert_eq!(changed(2, 3), Ok(5));
        assert_eq!(changed(2, -1), Ok(1));
        for (wanted, by) in [(2, -2), (2, i64::MIN), (2, i64::MAX), (MAX_WORKERS, 1)] {
            assert!(changed(wanted, by).is_err(), "{wanted} {by}");
        }
    }
}
