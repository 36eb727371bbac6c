//! Node's channel protocol: bytes to frames and back.
//!
//! A channel between primary and worker carries one JSON value per line. A value that is an object
//! whose `cmd` is a string longer than five characters and starts with `NODE_` is *internal*;
//! everything else is a message of the user's. The frames are those of Node's `cluster` module, so
//! that an unmodified Node program is a worker, and the crate's own workers speak them too.
//!
//! This module only parses and prints. It holds no descriptor, and it trusts no byte: whatever
//! arrives, in whatever pieces, it returns frames or a [`WireError`], in bounded memory.
//!
//! Descriptors travel beside the bytes (`SCM_RIGHTS`, unix(7)): a [`Frame::Handle`] is the place
//! where the receiver takes the next descriptor it was given.

mod decode;
mod encode;
mod note;
mod swift;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};
pub use serde_json::Value;
pub use serde_json::value::RawValue;

pub use decode::Decoder;
pub use encode::{encode_text, encode_user, is_reserved};
pub use note::{Metrics, Note, Uncaught};
pub use swift::{hand_over_line, taken_line};

/// The longest line a channel accepts unless told otherwise: 64 MiB.
pub const DEFAULT_MAX_LINE: usize = 64 << 20;

/// Which of the two ways of writing internal frames a peer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Node's, and Deno's.
    #[default]
    Node,
    /// Bun's: internal lines begin with the byte 2, and a descriptor travels with the frame itself, which
    /// says so, and not with one around it.
    Bun,
}

/// One line of the channel.
#[derive(Clone, Debug)]
pub enum Frame {
    /// `NODE_CLUSTER`: the cluster's own conversation.
    Cluster(Cluster),
    /// `NODE_HANDLE`: a descriptor belongs to this frame. Without one it is a ping.
    Handle(Handle),
    /// `NODE_HANDLE_ACK`: the peer took the descriptor.
    HandleAck,
    /// `NODE_HANDLE_NACK`: the peer got no (usable) descriptor. Also the answer to a ping.
    HandleNack,
    /// `NODE_SOCKET_*`: the book-keeping of sockets sent from a server.
    Socket(SocketNote),
    /// `NODE_PHALANX`: what the preload in a Node worker and the primary tell each other.
    Note(Note),
    /// Another `NODE_` command; to be ignored.
    Unknown(String),
    /// A message of the user's, as the JSON text that came.
    User(Box<RawValue>),
}

/// A `NODE_CLUSTER` frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// The sender's own counter. A reply names it in `ack`.
    pub seq: Option<u64>,
    /// The peer's `seq` that this frame answers.
    pub ack: Option<u64>,
    /// What it says.
    pub act: Act,
}

/// What a `NODE_CLUSTER` frame says.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Act {
    /// Worker: the process is up and its channel works.
    Online,
    /// Worker: give me a server on this address.
    QueryServer(Query),
    /// Worker: I accept connections on this address. `port` is the real one.
    Listening(Query),
    /// Worker: I closed the server with this key.
    Close {
        /// The key of the answer to the query.
        key: String,
    },
    /// Worker: I am about to leave of my own will; wants an ack.
    ExitedAfterDisconnect,
    /// Primary: a connection for the server with this key.
    NewConn {
        /// The key of the answer to the query.
        key: String,
    },
    /// Primary: finish what you do, then leave.
    Disconnect,
    /// A frame without `act`: the answer to the frame that `ack` names.
    Answer(Answer),
    /// An act this version does not know; to be ignored.
    #[default]
    Other,
}

/// The fields of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// `None` or 0: it worked. Else a negative errno, as Node has it.
    #[serde(default)]
    pub errno: Option<i32>,
    /// The name of the server from now on.
    #[serde(default)]
    pub key: Option<String>,
    /// What the first worker of this server sent as `data` (TLS ticket keys).
    #[serde(default)]
    pub data: Value,
    /// What `server.address()` shall say; only when the primary accepts.
    #[serde(default)]
    pub sockname: Option<SockName>,
    /// The answer to [`Act::NewConn`].
    #[serde(default)]
    pub accepted: Option<bool>,
    /// The crate's own: how many connections the worker holds (with `accepted`).
    #[serde(default)]
    pub open: Option<u32>,
}

/// An address as Node prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SockName {
    /// The IP address.
    pub address: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// The port.
    pub port: u16,
}

/// What a worker asks for when it listens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// How many times this worker asked for the same address before.
    pub index: i64,
    /// Opaque; the first worker's is given to all.
    pub data: Value,
    /// An IP address, a path, or `None` for *any*.
    pub address: Option<String>,
    /// The port, 0 for *any free one*, -1 or `None` where it has no meaning.
    pub port: Option<i64>,
    /// The family.
    pub address_type: AddressType,
    /// A descriptor of the primary's, if not negative.
    pub fd: Option<i64>,
    /// Node's flags: TCP and UDP 1 = IPv6 only; UDP 4 = reuse address.
    pub flags: i64,
    /// The wished length of the accept queue.
    pub backlog: Option<i64>,
    /// A unix socket's file is readable by all.
    pub readable_all: bool,
    /// A unix socket's file is writable by all.
    pub writable_all: bool,
    /// What only the crate's own workers ask for.
    pub extras: Extras,
}

/// Fields that Node does not have, in an object named `phalanx`, absent when empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extras {
    /// The scheduling policy the worker asks for: `direct`, `round-robin` or `shared`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The permission bits of a unix socket's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// The worker accepts from its slot only: it cannot be handed a connection.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub slot_only: bool,
}

/// `addressType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressType {
    /// 4: TCP over IPv4. With no address: *any*, IPv6 and IPv4.
    #[default]
    Tcp4,
    /// 6: TCP over IPv6.
    Tcp6,
    /// -1: a unix-domain stream socket.
    Unix,
    /// `udp4`.
    Udp4,
    /// `udp6`.
    Udp6,
    /// `null`: a descriptor.
    Descriptor,
}

/// A `NODE_HANDLE` frame.
#[derive(Clone, Debug)]
pub struct Handle {
    /// What kind of thing the descriptor is to become.
    pub kind: HandleKind,
    /// For sockets that came from a server of the sender's: its name, for `NODE_SOCKET_*`.
    pub key: Option<String>,
    /// The message that travels with it. Nested handles are unwrapped.
    pub message: Box<Frame>,
}

/// The `type` of a `NODE_HANDLE` frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleKind {
    /// `net.Native`: a raw handle, as the cluster itself sends.
    Native,
    /// The same, of a unix-domain socket: Deno wants to be told.
    NativePipe,
    /// `dgram.Native`: a raw UDP handle.
    DgramNative,
    /// `net.Socket`: a connection.
    Socket,
    /// `net.Server`: a listener.
    Server,
    /// `dgram.Socket` over IPv4.
    Dgram4,
    /// `dgram.Socket` over IPv6.
    Dgram6,
    /// Anything else.
    Other,
}

/// A `NODE_SOCKET_*` frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketNote {
    /// `NODE_SOCKET_NOTIFY_CLOSE`: tell me when all sockets of this key are closed.
    NotifyClose(String),
    /// `NODE_SOCKET_ALL_CLOSED`: they are.
    AllClosed(String),
    /// `NODE_SOCKET_GET_COUNT`: how many are open?
    GetCount(String),
    /// `NODE_SOCKET_COUNT`: so many.
    Count(String, u64),
}

impl Frame {
    /// A ping: a handle frame that no descriptor comes with. Every worker but Deno's answers it from its
    /// event loop with [`Frame::HandleNack`], and does nothing else. (Deno answers
    /// [`SocketNote::GetCount`], which others ignore.)
    #[must_use]
    pub fn ping() -> Self {
        let message =
            RawValue::from_string(String::from("{}")).map_or_else(|_| Self::HandleNack, Self::User);
        Self::Handle(Handle { kind: HandleKind::Native, key: None, message: Box::new(message) })
    }
}

/// Why a line is not a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The line is longer than the bound.
    TooLong {
        /// The bound, in bytes.
        limit: usize,
    },
    /// The line is not UTF-8.
    NotUtf8,
    /// The line is not a JSON value.
    NotJson {
        /// What the parser says.
        why: String,
        /// How the line begins.
        begins: String,
    },
    /// An internal frame has a field of the wrong type.
    BadField {
        /// What the parser says.
        why: String,
        /// How the line begins.
        begins: String,
    },
    /// A message of the user's that the peer would take for an internal one.
    Reserved {
        /// Its `cmd`.
        cmd: String,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { limit } => {
                write!(f, "a message is longer than the bound of {limit} bytes")
            }
            Self::NotUtf8 => f.write_str("a message is not UTF-8"),
            Self::NotJson { why, begins } => {
                write!(f, "a message is not JSON ({why}); it begins with `{begins}`")
            }
            Self::BadField { why, begins } => {
                write!(
                    f,
                    "a message of the channel itself is malformed ({why}); it begins with `{begins}`"
                )
            }
            Self::Reserved { cmd } => write!(
                f,
                "a message whose `cmd` is `{cmd}` would be taken for one of the channel's own; choose a `cmd` that does not start with `NODE_`"
            ),
        }
    }
}

impl core::error::Error for WireError {}
