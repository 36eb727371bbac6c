//! What primary and worker tell each other: any JSON value, with or without a handle.

use crate::channel::Sender;
use crate::error::{Error, Result};
use crate::sys::portable;
use phalanx_core::wire::{self, Frame, Handle as HandleFrame, HandleKind, RawValue, encode_text};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, SocketType, getsockname, sockopt};
use serde::{Deserialize, Serialize, Serializer};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// A message that came, and the handle that came with it. Clones are the same message.
///
/// It can be sent on as it is, without being looked at: `worker.send(&message)`.
#[derive(Clone, Debug)]
pub struct Message {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    text: Box<RawValue>,
    handle: Mutex<Option<Handle>>,
}

impl Message {
    pub(crate) fn new(text: Box<RawValue>, handle: Option<Handle>) -> Self {
        Self { inner: Arc::new(Inner { text, handle: Mutex::new(handle) }) }
    }

    fn handle(&self) -> MutexGuard<'_, Option<Handle>> {
        self.inner.handle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The handle that was sent along, once: it belongs to whoever takes it first.
    #[must_use]
    pub fn take_handle(&self) -> Option<Handle> {
        self.handle().take()
    }

    /// Whether a handle is there to be taken.
    #[must_use]
    pub fn has_handle(&self) -> bool {
        self.handle().is_some()
    }

    /// The message as a Rust type, which may borrow from it.
    ///
    /// # Errors
    /// The JSON does not have that shape.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_str(self.text()).map_err(|e| Error::Message(e.to_string()))
    }

    /// The message as the JSON text that came.
    #[must_use]
    pub fn text(&self) -> &str {
        self.inner.text.get()
    }
}

/// As the JSON text that came. What is no JSON is made of it as of a `serde_json::value::RawValue`.
impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.inner.text.serialize(serializer)
    }
}

/// A descriptor that travels with a message. The sender keeps nothing of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Handle {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A listening TCP socket.
    TcpListener(TcpListener),
    /// A UDP socket.
    Udp(UdpSocket),
    /// A unix-domain stream connection.
    Unix(UnixStream),
    /// A listening unix-domain socket.
    UnixListener(UnixListener),
}

impl Handle {
    /// What a descriptor is; `None` for what may not travel.
    pub(crate) fn from_fd(fd: OwnedFd) -> Option<Self> {
        let kind = sockopt::socket_type(&fd).ok()?;
        let family = getsockname(&fd).ok()?.address_family();
        let listens = kind == SocketType::STREAM && portable::listens(&fd);
        let ip = family == AddressFamily::INET || family == AddressFamily::INET6;
        match (kind, listens) {
            (SocketType::STREAM, false) if ip => Some(Self::Tcp(fd.into())),
            (SocketType::STREAM, true) if ip => Some(Self::TcpListener(fd.into())),
            (SocketType::DGRAM, _) if ip => Some(Self::Udp(fd.into())),
            (SocketType::STREAM, false) if family == AddressFamily::UNIX => {
                Some(Self::Unix(fd.into()))
            }
            (SocketType::STREAM, true) if family == AddressFamily::UNIX => {
                Some(Self::UnixListener(fd.into()))
            }
            _ => None,
        }
    }

    fn into_fd(self) -> (HandleKind, OwnedFd) {
        match self {
            Self::Tcp(s) => (HandleKind::Socket, s.into()),
            Self::Unix(s) => (HandleKind::Socket, s.into()),
            Self::TcpListener(s) => (HandleKind::Server, s.into()),
            Self::UnixListener(s) => (HandleKind::Server, s.into()),
            Self::Udp(s) => {
                let six = s.local_addr().is_ok_and(|a| a.is_ipv6());
                (if six { HandleKind::Dgram6 } else { HandleKind::Dgram4 }, s.into())
            }
        }
    }
}

/// Sends a message of the user's, and returns when the kernel has it.
pub(crate) async fn send<T: Serialize + ?Sized>(channel: &Sender, message: &T) -> Result<()> {
    channel.send(line(message)?, None).await
}

/// Queues a message of the user's when there is room for it.
pub(crate) async fn feed<T: Serialize + ?Sized>(channel: &Sender, message: &T) -> Result<()> {
    channel.feed(line(message)?).await
}

fn line<T: Serialize + ?Sized>(message: &T) -> Result<Vec<u8>> {
    let text = serde_json::to_string(message).map_err(|e| Error::Message(e.to_string()))?;
    Ok(encode_text(text)?)
}

/// As [`send`], with a handle.
pub(crate) async fn send_handle<T: Serialize + ?Sized>(
    channel: &Sender,
    message: &T,
    handle: Handle,
) -> Result<()> {
    let text =
        serde_json::value::to_raw_value(message).map_err(|e| Error::Message(e.to_string()))?;
    if let Some(cmd) = wire::is_reserved(&text) {
        return Err(wire::WireError::Reserved { cmd }.into());
    }
    let (kind, fd) = handle.into_fd();
    // A blocking descriptor would stop a Node worker's event loop.
    rustix::io::ioctl_fionbio(fd.as_fd(), true).map_err(|e| Error::Message(e.to_string()))?;
    let frame =
        Frame::Handle(HandleFrame { kind, key: None, message: Box::new(Frame::User(text)) });
    channel.send(frame.encode(), Some(Arc::new(fd))).await
}
