//! Bytes to frames, whatever the bytes.

use super::{
    Act, AddressType, Answer, Cluster, Dialect, Extras, Frame, Handle, HandleKind, Query, RawValue,
    SockName, SocketNote, Value, WireError, note, swift,
};
use alloc::borrow::{Cow, ToOwned};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// Handles within handles that are unwrapped; Node nests at most once when it sends again.
const MAX_NESTING: usize = 4;

/// Consumed bytes at the front of the buffer that are tolerated before the rest is moved down, and what a line has that is
/// not short.
const COMPACT: usize = 64 << 10;

/// What a buffer in which nothing is left may keep: what it costs to let the rest go is paid once for many frames.
const KEPT: usize = 4 << 10;

/// Cuts a stream of bytes into frames.
///
/// ```
/// use phalanx_core::wire::{Decoder, Frame, DEFAULT_MAX_LINE};
/// let mut decoder = Decoder::new(DEFAULT_MAX_LINE);
/// decoder.feed(b"{\"hello\":");
/// assert!(decoder.next_frame()?.is_none());
/// decoder.feed(b"1}\n");
/// let Some(Frame::User(message)) = decoder.next_frame()? else { panic!("a message") };
/// assert_eq!(message.get(), "{\"hello\":1}");
/// # Ok::<(), phalanx_core::wire::WireError>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Where the next line starts.
    start: usize,
    /// Up to where no line end was found yet.
    scanned: usize,
    max_line: usize,
    dialect: Dialect,
    broken: Option<WireError>,
    /// What is known of the first line.
    first: First,
}

/// What is known of the first line of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum First {
    /// It is a whole one, or was read.
    #[default]
    Whole,
    /// It may be the end of one whose beginning somebody else read.
    Doubtful,
    /// It is.
    Rest,
}

impl Decoder {
    /// A decoder that takes lines of at most `max_line` bytes.
    #[must_use]
    pub fn new(max_line: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            scanned: 0,
            max_line,
            dialect: Dialect::Node,
            broken: None,
            first: First::Whole,
        }
    }

    /// A decoder for a stream that somebody else began to read. `mid_line`: a line was begun, and its end is skipped;
    /// else a first line that is no frame is.
    ///
    /// ```
    /// use phalanx_core::wire::{Decoder, Frame, DEFAULT_MAX_LINE};
    /// for mid_line in [true, false] {
    ///     let mut decoder = Decoder::resumed(DEFAULT_MAX_LINE, mid_line);
    ///     decoder.feed(b"lo\":1}\n{\"hello\":2}\n");
    ///     let Some(Frame::User(message)) = decoder.next_frame()? else { panic!("a message") };
    ///     assert_eq!(message.get(), "{\"hello\":2}");
    /// }
    /// # Ok::<(), phalanx_core::wire::WireError>(())
    /// ```
    #[must_use]
    pub fn resumed(max_line: usize, mid_line: bool) -> Self {
        let first = if mid_line { First::Rest } else { First::Doubtful };
        Self { first, ..Self::new(max_line) }
    }

    /// Adds what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        self.rest();
        let left = self.bytes.len() - self.start;
        let is_full = self.bytes.len() + bytes.len() > self.bytes.capacity();
        if left < self.start && (is_full || self.start > COMPACT) {
            self.bytes.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        // Only a line that is long has to grow without being copied again and again.
        if left < COMPACT {
            self.bytes.reserve_exact(bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more is fed.
    ///
    /// # Errors
    /// A line that is no frame. The stream cannot be trusted after it: every later call returns the
    /// same error.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let found = self.bytes.get(self.scanned..).and_then(|rest| memchr::memchr(b'\n', rest));
        let end = found.map_or(self.bytes.len(), |at| self.scanned + at);
        self.scanned = end;
        let result = if end - self.start > self.max_line {
            Err(WireError::TooLong { limit: self.max_line })
        } else if found.is_none() {
            self.rest();
            return Ok(None);
        } else {
            let line = self.bytes.get(self.start..end).unwrap_or_default();
            (self.start, self.scanned) = (end + 1, end + 1);
            let line = line.strip_prefix(&[2]).map_or(line, |line| {
                self.dialect = Dialect::Bun;
                line
            });
            core::str::from_utf8(line).map_err(|_| WireError::NotUtf8).and_then(parse)
        };
        match (core::mem::take(&mut self.first), &result) {
            (First::Rest, _) | (First::Doubtful, Err(_)) if found.is_some() => {
                return self.next_frame();
            }
            _ => {}
        }
        match result {
            Ok(frame) => Ok(Some(frame)),
            Err(error) => {
                self.bytes = Vec::new();
                self.broken = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Nothing is left: neither is the memory.
    fn rest(&mut self) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
            (self.start, self.scanned) = (0, 0);
        }
    }

    /// How the peer writes, as far as it has been heard.
    #[must_use]
    pub const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// How many bytes of an unfinished line are held: at the end of a stream, what was cut off.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.bytes.len() - self.start.min(self.bytes.len())
    }

    /// How much memory the buffer takes.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.bytes.capacity()
    }
}

/// One line without its end.
fn parse(line: &str) -> Result<Frame, WireError> {
    swift::read(line).map_or_else(|| parse_any(line), Ok)
}

/// One line, whatever it says. Nearly all that are the user's are looked at once.
pub(super) fn parse_any(line: &str) -> Result<Frame, WireError> {
    let not_json =
        |e: serde_json::Error| WireError::NotJson { why: e.to_string(), begins: begin(line) };
    if may_be_internal(line)
        && let Some(cmd) = Probe::of(line).map_err(not_json)?.cmd
        && is_internal(&cmd)
    {
        return parse_internal(&cmd, line, 0)
            .map_err(|e| WireError::BadField { why: e.to_string(), begins: begin(line) });
    }
    // White space as JSON has it, and no other.
    let text = line.trim_matches([' ', '\t', '\r']);
    RawValue::from_string(text.to_owned()).map(Frame::User).map_err(not_json)
}

/// Whether a text may have an internal `cmd`: its letters are there as they are, or escaped.
pub(super) fn may_be_internal(text: &str) -> bool {
    text.contains("NODE_") || text.contains("\\u")
}

/// Node's rule for what the peer never shows to the user.
pub(super) fn is_internal(cmd: &str) -> bool {
    cmd.len() > 5 && cmd.starts_with("NODE_")
}

fn begin(line: &str) -> String {
    line.chars().take(60).flat_map(char::escape_debug).collect()
}

fn parse_internal(cmd: &str, line: &str, depth: usize) -> Result<Frame, serde_json::Error> {
    let key = |line| serde_json::from_str::<RawKey>(line);
    Ok(match cmd {
        "NODE_CLUSTER" => Frame::Cluster(serde_json::from_str::<RawCluster<'_>>(line)?.into()),
        "NODE_HANDLE" => parse_handle(line, depth)?,
        "NODE_HANDLE_ACK" => Frame::HandleAck,
        "NODE_HANDLE_NACK" => Frame::HandleNack,
        "NODE_SOCKET_NOTIFY_CLOSE" => Frame::Socket(SocketNote::NotifyClose(key(line)?.key)),
        "NODE_SOCKET_ALL_CLOSED" => Frame::Socket(SocketNote::AllClosed(key(line)?.key)),
        "NODE_SOCKET_GET_COUNT" => Frame::Socket(SocketNote::GetCount(key(line)?.key)),
        "NODE_SOCKET_COUNT" => {
            let RawKey { key, count } = key(line)?;
            Frame::Socket(SocketNote::Count(key, count))
        }
        // Whatever else a program sends under that name is its own business.
        note::COMMAND => serde_json::from_str(line)
            .map_or_else(|_| Frame::Unknown(note::COMMAND.to_owned()), Frame::Note),
        other => Frame::Unknown(other.to_owned()),
    })
}

fn parse_handle(line: &str, depth: usize) -> Result<Frame, serde_json::Error> {
    let raw: RawHandle<'_> = serde_json::from_str(line)?;
    let inner = raw.msg.map_or("null", RawValue::get);
    let probe = Probe::of(inner)?;
    let message = match probe.cmd {
        Some(cmd) if is_internal(&cmd) && depth < MAX_NESTING => {
            parse_internal(&cmd, inner, depth + 1)?
        }
        _ => Frame::User(RawValue::from_string(inner.to_owned())?),
    };
    // A handle that is sent again comes wrapped in another; one descriptor, one answer.
    if let Frame::Handle(nested) = message {
        return Ok(Frame::Handle(nested));
    }
    let kind = match (raw.kind.as_deref(), raw.dgram_type.as_deref()) {
        (Some("net.Native"), _) => HandleKind::Native,
        (Some("dgram.Native"), _) => HandleKind::DgramNative,
        (Some("net.Socket"), _) => HandleKind::Socket,
        (Some("net.Server"), _) => HandleKind::Server,
        (Some("dgram.Socket"), Some("udp6")) => HandleKind::Dgram6,
        (Some("dgram.Socket"), _) => HandleKind::Dgram4,
        _ => HandleKind::Other,
    };
    Ok(Frame::Handle(Handle { kind, key: raw.key, message: Box::new(message) }))
}

#[derive(serde::Deserialize)]
struct RawKey {
    #[serde(default)]
    key: String,
    #[serde(default)]
    count: u64,
}

#[derive(serde::Deserialize)]
struct RawHandle<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(rename = "dgramType", borrow, default)]
    dgram_type: Option<Cow<'a, str>>,
    #[serde(default)]
    key: Option<String>,
    #[serde(borrow, default)]
    msg: Option<&'a RawValue>,
}

/// Every field that a `NODE_CLUSTER` frame may have, in either direction.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCluster<'a> {
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    ack: Option<u64>,
    #[serde(borrow, default)]
    act: Option<Cow<'a, str>>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    errno: Option<i32>,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    sockname: Option<SockName>,
    #[serde(default)]
    accepted: Option<bool>,
    #[serde(default)]
    open: Option<u32>,
    #[serde(default)]
    index: Option<i64>,
    #[serde(default)]
    address: Option<String>,
    #[serde(default, deserialize_with = "port")]
    port: Option<i64>,
    #[serde(default, deserialize_with = "address_type")]
    address_type: AddressType,
    #[serde(default)]
    fd: Option<i64>,
    #[serde(default)]
    flags: Option<i64>,
    #[serde(default, deserialize_with = "number_or_false")]
    backlog: Option<i64>,
    #[serde(default)]
    readable_all: Option<bool>,
    #[serde(default)]
    writable_all: Option<bool>,
    #[serde(default)]
    phalanx: Option<Extras>,
}

impl From<RawCluster<'_>> for Cluster {
    fn from(raw: RawCluster<'_>) -> Self {
        let (seq, ack) = (raw.seq, raw.ack);
        let name = raw.act.as_deref().map(ToOwned::to_owned);
        let act = match name.as_deref() {
            Some("online") => Act::Online,
            Some("queryServer") => Act::QueryServer(raw.query()),
            Some("listening") => Act::Listening(raw.query()),
            Some("close") => Act::Close { key: raw.key.unwrap_or_default() },
            Some("exitedAfterDisconnect") => Act::ExitedAfterDisconnect,
            Some("newconn") => Act::NewConn { key: raw.key.unwrap_or_default() },
            Some("disconnect") => Act::Disconnect,
            None if ack.is_some() => Act::Answer(Answer {
                errno: raw.errno,
                key: raw.key,
                data: raw.data,
                sockname: raw.sockname,
                accepted: raw.accepted,
                open: raw.open,
            }),
            _ => Act::Other,
        };
        Self { seq, ack, act }
    }
}

impl RawCluster<'_> {
    fn query(self) -> Query {
        Query {
            index: self.index.unwrap_or(0),
            data: self.data,
            address: self.address,
            port: self.port,
            address_type: self.address_type,
            fd: self.fd.filter(|fd| *fd >= 0),
            flags: self.flags.unwrap_or(0),
            backlog: self.backlog,
            readable_all: self.readable_all.unwrap_or(false),
            writable_all: self.writable_all.unwrap_or(false),
            extras: self.phalanx.unwrap_or_default(),
        }
    }
}

fn address_type<'de, D: Deserializer<'de>>(d: D) -> Result<AddressType, D::Error> {
    use serde::de::Error;
    match Value::deserialize(d)? {
        Value::Null => Ok(AddressType::Descriptor),
        Value::String(s) if s == "udp4" => Ok(AddressType::Udp4),
        Value::String(s) if s == "udp6" => Ok(AddressType::Udp6),
        Value::Number(n) if n.as_i64() == Some(4) => Ok(AddressType::Tcp4),
        Value::Number(n) if n.as_i64() == Some(6) => Ok(AddressType::Tcp6),
        Value::Number(n) if n.as_i64() == Some(-1) => Ok(AddressType::Unix),
        _ => Err(D::Error::custom("unknown addressType")),
    }
}

/// Node's own primary takes whatever was given to `bind` (`dgram`; `net` makes a number of it before): text as from
/// `process.env`, and no port at all. What is no number is 0: any free port.
fn port<'de, D: Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
    Ok(match Value::deserialize(d)? {
        Value::Null => None,
        Value::Number(n) => Some(n.as_i64().or_else(|| n.as_f64().map(to_integer)).unwrap_or(0)),
        Value::String(text) => Some(number_of(&text)),
        Value::Bool(on) => Some(i64::from(on)),
        Value::Array(_) | Value::Object(_) => Some(0),
    })
}

/// The number in a text, by JavaScript's rules.
fn number_of(text: &str) -> i64 {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    let digits = |prefixes: [&str; 2]| prefixes.iter().find_map(|prefix| text.strip_prefix(prefix));
    let bases = [(["0x", "0X"], 16), (["0o", "0O"], 8), (["0b", "0B"], 2)];
    for (prefixes, base) in bases {
        if let Some(digits) = digits(prefixes) {
            let unsigned = digits.starts_with(|c: char| c.is_digit(base));
            return unsigned.then(|| i64::from_str_radix(digits, base).ok()).flatten().unwrap_or(0);
        }
    }
    // Rust also knows words for what is infinite or no number.
    let plain =
        text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    let number = plain.then(|| text.parse().ok()).flatten();
    number.map_or(0, to_integer)
}

/// Without its fraction; what is beyond the largest is the largest, which is no port either.
#[expect(clippy::cast_possible_truncation, reason = "it saturates")]
const fn to_integer(number: f64) -> i64 {
    number as i64
}

fn number_or_false<'de, D: Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
    Ok(Value::deserialize(d)?.as_i64())
}

/// The `cmd` of a JSON value that is an object with a string of that name; JavaScript's rules, so
/// that what one side takes for internal the other does too: the last `cmd` counts, escapes are
/// resolved, and halves of surrogate pairs are no error. The rest of the value is only checked.
#[derive(Default)]
pub(super) struct Probe<'a> {
    pub(super) cmd: Option<Cow<'a, str>>,
}

impl<'a> Probe<'a> {
    pub(super) fn of(text: &'a str) -> Result<Self, serde_json::Error> {
        // Only objects are looked into: numbers that no machine holds are the user's business.
        if text.trim_start().starts_with('{') {
            return serde_json::from_str(text);
        }
        serde_json::from_str::<&RawValue>(text).map(|_| Self::default())
    }
}

impl<'de> Deserialize<'de> for Probe<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(ProbeVisitor)
    }
}

struct ProbeVisitor;

impl<'de> Visitor<'de> for ProbeVisitor {
    type Value = Probe<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Probe<'de>, A::Error> {
        let mut probe = Probe::default();
        while let Some(key) = map.next_key::<&RawValue>()? {
            if text_of(key).as_deref() == Some("cmd") {
                probe.cmd = text_of(map.next_value::<&RawValue>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(probe)
    }
}

/// The text of a JSON string, or `None` for any other value.
fn text_of(json: &RawValue) -> Option<Cow<'_, str>> {
    let inner = json.get().strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<Lossy>(json.get()).ok().map(|text| Cow::Owned(text.0))
}

/// A string in which halves of surrogate pairs are replaced.
struct Lossy(String);

impl<'de> Deserialize<'de> for Lossy {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_bytes(LossyVisitor)
    }
}

struct LossyVisitor;

impl Visitor<'_> for LossyVisitor {
    type Value = Lossy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Lossy, E> {
        Ok(Lossy(String::from_utf8_lossy(bytes).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Node v20's own primary makes of them.
    #[test]
    fn ports_are_read_as_javascript_does() {
        for (json, port) in [
            (r#""41234""#, Some(41_234)),
            (r#"" 41235\n""#, Some(41_235)),
            (r#""0xA114""#, Some(41_236)),
            (r#""0b11""#, Some(3)),
            (r#""0o17""#, Some(15)),
            (r#""4.1237e4""#, Some(41_237)),
            (r#""+80""#, Some(80)),
            (r#""-1""#, Some(-1)),
            (r#""1e400""#, Some(i64::MAX)),
            (r#""0x""#, Some(0)),
            (r#""0x-1""#, Some(0)),
            (r#""80a""#, Some(0)),
            (r#""inf""#, Some(0)),
            (r#""NaN""#, Some(0)),
            (r#""""#, Some(0)),
            ("41238.7", Some(41_238)),
            ("70000", Some(70_000)),
            ("1e21", Some(i64::MAX)),
            ("-1", Some(-1)),
            ("null", None),
            ("true", Some(1)),
            ("false", Some(0)),
            ("{}", Some(0)),
            ("[41239]", Some(0)),
        ] {
            for act in ["queryServer", "listening"] {
                let line = alloc::format!(
                    r#"{{"cmd":"NODE_CLUSTER","act":"{act}","seq":1,"port":{json},"addressType":"udp4"}}"#
                );
                let query = match parse(&line) {
                    Ok(Frame::Cluster(Cluster {
                        act: Act::QueryServer(query) | Act::Listening(query),
                        ..
                    })) => query,
                    other => panic!("{json}: {other:?}"),
                };
                assert_eq!(query.port, port, "{json}");
            }
        }
        let without = r#"{"cmd":"NODE_CLUSTER","act":"queryServer","addressType":"udp4"}"#;
        let Ok(Frame::Cluster(Cluster { act: Act::QueryServer(query), .. })) = parse(without)
        else {
            panic!("no query")
        };
        assert_eq!(query.port, None);
    }
}
