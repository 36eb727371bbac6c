//! Frames to bytes: one line, its end included.

use super::decode::{Probe, is_internal, may_be_internal};
use super::{
    Act, AddressType, Answer, Cluster, Dialect, Extras, Frame, Handle, HandleKind, Query, RawValue,
    SocketNote, Value, WireError, note,
};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde_json::{Map, json};

impl Frame {
    /// The line to send to a peer of that dialect, with its end.
    #[must_use]
    pub fn encode_for(&self, dialect: Dialect) -> Vec<u8> {
        if dialect == Dialect::Node {
            return self.encode();
        }
        let (cluster, has_handle) = match self {
            Self::Cluster(cluster) => (cluster, false),
            Self::Handle(Handle { message, .. }) => match &**message {
                Self::Cluster(cluster) => (cluster, true),
                _ => return self.encode(),
            },
            _ => return self.encode(),
        };
        let mut object = cluster_object(cluster);
        if has_handle {
            object.insert("$hasHandle".to_string(), json!(true));
        }
        let mut out = alloc::vec![2];
        out.extend(Value::Object(object).to_string().into_bytes());
        out.push(b'\n');
        out
    }

    /// The line to send, with its end.
    ///
    /// ```
    /// use phalanx_core::wire::Frame;
    /// assert_eq!(Frame::HandleAck.encode(), b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n");
    /// ```
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        line(match self {
            Self::User(message) => message.get().to_string(),
            Self::Handle(handle) => handle_text(handle),
            other => other.value().to_string(),
        })
    }

    /// The frame as a value; not for user messages, whose text is kept as it is.
    fn value(&self) -> Value {
        let note = |cmd: &str, key: &str| json!({ "cmd": cmd, "key": key });
        match self {
            Self::Cluster(cluster) => Value::Object(cluster_object(cluster)),
            Self::HandleAck => json!({ "cmd": "NODE_HANDLE_ACK" }),
            Self::HandleNack => json!({ "cmd": "NODE_HANDLE_NACK" }),
            Self::Socket(SocketNote::NotifyClose(key)) => note("NODE_SOCKET_NOTIFY_CLOSE", key),
            Self::Socket(SocketNote::AllClosed(key)) => note("NODE_SOCKET_ALL_CLOSED", key),
            Self::Socket(SocketNote::GetCount(key)) => note("NODE_SOCKET_GET_COUNT", key),
            Self::Socket(SocketNote::Count(key, count)) => {
                json!({ "cmd": "NODE_SOCKET_COUNT", "key": key, "count": count })
            }
            Self::Note(note) => {
                let mut value = serde_json::to_value(note).unwrap_or_default();
                if let Value::Object(object) = &mut value {
                    object.insert("cmd".to_string(), json!(note::COMMAND));
                }
                value
            }
            Self::Unknown(cmd) => json!({ "cmd": cmd }),
            Self::User(_) | Self::Handle(_) => Value::Null,
        }
    }
}

/// The line of a message of the user's.
///
/// # Errors
/// [`WireError::Reserved`] where the peer would take it for an internal frame.
pub fn encode_user(message: &RawValue) -> Result<Vec<u8>, WireError> {
    encode_text(message.get().to_string())
}

/// The line of a message of the user's, from its text, which is JSON and not looked at again.
///
/// ```
/// use phalanx_core::wire::encode_text;
/// assert_eq!(encode_text("[1,\n2]".into()), Ok(b"[1, 2]\n".to_vec()));
/// assert!(encode_text("{\"cmd\":\"NODE_X\"}".into()).is_err());
/// ```
///
/// # Errors
/// As [`encode_user`].
pub fn encode_text(text: String) -> Result<Vec<u8>, WireError> {
    match reserved(&text) {
        Some(cmd) => Err(WireError::Reserved { cmd }),
        None => Ok(line(text)),
    }
}

/// The `cmd` of a value that belongs to the channel, not to the user.
#[must_use]
pub fn is_reserved(message: &RawValue) -> Option<String> {
    reserved(message.get())
}

fn reserved(text: &str) -> Option<String> {
    if !text.starts_with('{') || !may_be_internal(text) {
        return None;
    }
    let probe = Probe::of(text).ok()?;
    probe.cmd.filter(|cmd| is_internal(cmd)).map(|cmd| cmd.to_string())
}

/// In valid JSON a line end can only be white space between tokens.
fn line(text: String) -> Vec<u8> {
    let mut out = text.into_bytes();
    let mut from = 0;
    while let Some(at) = out.get(from..).and_then(|rest| memchr::memchr(b'\n', rest)) {
        from += at;
        if let Some(end) = out.get_mut(from) {
            *end = b' ';
        }
    }
    // Not twice the memory for one byte.
    out.reserve_exact(1);
    out.push(b'\n');
    out
}

/// Node takes the class of a descriptor from the descriptor; Deno wants the last two fields.
fn handle_text(handle: &Handle) -> String {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_string(), value);
    put("cmd", json!("NODE_HANDLE"));
    let (kind, dgram) = match handle.kind {
        HandleKind::Native | HandleKind::NativePipe | HandleKind::Other => ("net.Native", None),
        HandleKind::DgramNative => ("dgram.Native", None),
        HandleKind::Socket => ("net.Socket", None),
        HandleKind::Server => ("net.Server", None),
        HandleKind::Dgram4 => ("dgram.Socket", Some("udp4")),
        HandleKind::Dgram6 => ("dgram.Socket", Some("udp6")),
    };
    put("type", json!(kind));
    if let Some(dgram) = dgram {
        put("dgramType", json!(dgram));
    }
    if let Some(key) = &handle.key {
        put("key", json!(key));
    }
    let listens = matches!(&*handle.message, Frame::Cluster(Cluster { act: Act::Answer(_), .. }));
    if let HandleKind::Native | HandleKind::NativePipe = handle.kind {
        let pipe = handle.kind == HandleKind::NativePipe;
        put("socketType", json!(u8::from(listens)));
        put("nativeKind", json!(if pipe { "pipe" } else { "tcp" }));
    }
    let message = match &*handle.message {
        Frame::User(raw) => raw.get().to_string(),
        other => other.value().to_string(),
    };
    let mut text = Value::Object(object).to_string();
    text.pop();
    text.push_str(",\"msg\":");
    text.push_str(&message);
    text.push('}');
    text
}

fn cluster_object(cluster: &Cluster) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_string(), value);
    put("cmd", json!("NODE_CLUSTER"));
    if let Some(ack) = cluster.ack {
        put("ack", json!(ack));
    }
    if let Some(seq) = cluster.seq {
        put("seq", json!(seq));
    }
    match &cluster.act {
        Act::Online => put("act", json!("online")),
        Act::ExitedAfterDisconnect => put("act", json!("exitedAfterDisconnect")),
        Act::Disconnect => put("act", json!("disconnect")),
        Act::Close { key } => {
            put("act", json!("close"));
            put("key", json!(key))
        }
        Act::NewConn { key } => {
            put("act", json!("newconn"));
            put("key", json!(key))
        }
        Act::QueryServer(query) => {
            put("act", json!("queryServer"));
            put_query(query, &mut put);
            None
        }
        Act::Listening(query) => {
            put("act", json!("listening"));
            put_query(query, &mut put);
            None
        }
        Act::Answer(answer) => {
            put_answer(answer, &mut put);
            None
        }
        Act::Other => None,
    };
    object
}

type Put<'a> = dyn FnMut(&str, Value) -> Option<Value> + 'a;

fn put_query(query: &Query, put: &mut Put<'_>) {
    put("index", json!(query.index));
    put("data", query.data.clone());
    put("address", json!(query.address));
    put("port", json!(query.port));
    put(
        "addressType",
        match query.address_type {
            AddressType::Tcp4 => json!(4),
            AddressType::Tcp6 => json!(6),
            AddressType::Unix => json!(-1),
            AddressType::Udp4 => json!("udp4"),
            AddressType::Udp6 => json!("udp6"),
            AddressType::Descriptor => Value::Null,
        },
    );
    if let Some(fd) = query.fd {
        put("fd", json!(fd));
    }
    put("flags", json!(query.flags));
    if let Some(backlog) = query.backlog {
        put("backlog", json!(backlog));
    }
    if query.address_type == AddressType::Unix {
        put("readableAll", json!(query.readable_all));
        put("writableAll", json!(query.writable_all));
    }
    if query.extras != Extras::default() {
        put("phalanx", serde_json::to_value(&query.extras).unwrap_or(Value::Null));
    }
}

fn put_answer(answer: &Answer, put: &mut Put<'_>) {
    if let Some(accepted) = answer.accepted {
        put("accepted", json!(accepted));
    } else if answer.key.is_some() || answer.errno.is_some() {
        put("errno", json!(answer.errno));
        put("key", json!(answer.key));
        put("data", answer.data.clone());
    }
    if let Some(sockname) = &answer.sockname {
        put("sockname", serde_json::to_value(sockname).unwrap_or(Value::Null));
    }
    if let Some(open) = answer.open {
        put("open", json!(open));
    }
}
