//! One client connection: connecting, writing a request, and the look before the next one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdStream};
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketType};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::outcome::Phase;
use super::response::{Answer, Fault, Reader};

/// How many source addresses there are for a target in 127.0.0.0/8: 127.0.0.1 to 127.0.0.8.
pub(super) const SOURCES: u8 = 8;

/// What is seen on an idle connection.
pub(super) enum Idle {
    /// It may be used.
    Open,
    /// The server has closed it.
    Closed,
    /// The server has sent what nobody asked for.
    Unsolicited,
}

/// An established connection.
pub(super) struct Connection {
    stream: TcpStream,
    reader: Reader,
    pub(super) local: Option<SocketAddr>,
    /// How many requests were begun on it.
    pub(super) requests: u32,
    /// When connecting began.
    pub(super) begin: Instant,
}

/// A socket on which connecting has begun. Its local address is known from the start.
pub(super) struct Connecting {
    stream: TcpStream,
    pub(super) local: Option<SocketAddr>,
    target: SocketAddr,
    begin: Instant,
}

fn socket(target: SocketAddr) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // Close-on-exec at once where possible: other threads of a test start processes.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    {
        use rustix::net::SocketFlags;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    {
        let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(socket)
    }
}

/// Begins to connect, from 127.0.0.`source` if one is given.
fn begin(target: SocketAddr, source: Option<u8>, begin: Instant) -> io::Result<Connecting> {
    let socket = socket(target)?;
    if let Some(last) = source {
        rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))?;
    }
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = StdStream::from(socket);
    let local = stream.local_addr().ok();
    // Registered only now: before connecting it would count as writable.
    Ok(Connecting { stream: TcpStream::from_std(stream)?, local, target, begin })
}

impl Connecting {
    /// Begins to connect. `source` is the first of the source addresses 127.0.0.1 to 127.0.0.8 to
    /// try, `None` leaves the choice to the kernel. When that has no port left, the others are
    /// tried for a target in 127.0.0.0/8: nothing has been sent then, so this is no retry.
    pub(super) fn begin(target: SocketAddr, source: Option<u8>) -> Result<Self, Fault> {
        let now = Instant::now();
        let spread = matches!(target, SocketAddr::V4(v4) if v4.ip().octets()[0] == 127);
        let source = source.filter(|_| spread);
        let mut result = begin(target, source, now);
        for step in 1..SOURCES {
            let next = (source.unwrap_or(1) - 1 + step) % SOURCES + 1;
            match result {
                Err(error) if spread && no_port_left(&error) => {
                    result = begin(target, Some(next), now);
                }
                other => return other.map_err(|error| Fault::io(Phase::Connect, &error)),
            }
        }
        result.map_err(|error| Fault::io(Phase::Connect, &error))
    }

    /// Waits until it is established.
    pub(super) async fn finish(self) -> Result<Connection, Fault> {
        let failed = |error: io::Error| {
            // A reset comes only from an established connection that the server has dropped.
            let reset = error.kind() == io::ErrorKind::ConnectionReset;
            Fault::io(if reset { Phase::Write } else { Phase::Connect }, &error)
        };
        self.stream.writable().await.map_err(failed)?;
        if let Some(error) = self.stream.take_error().map_err(failed)? {
            return Err(failed(error));
        }
        if self.local == Some(self.target) {
            // Without a listener, TCP may connect a socket to itself.
            let error = "connected to itself: nothing listens".to_owned();
            let kind = io::ErrorKind::ConnectionRefused;
            return Err(Fault { phase: Phase::Connect, kind, error });
        }
        let _ = self.stream.set_nodelay(true);
        let Self { stream, local, begin, .. } = self;
        Ok(Connection { stream, reader: Reader::new(), local, requests: 0, begin })
    }
}

fn no_port_left(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}

impl Connection {
    /// Looks at the connection between two requests, without waiting. Asks the kernel, not the
    /// runtime: the runtime may not have heard of it yet.
    pub(super) fn look(&self) -> Idle {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        loop {
            match rustix::net::recv(&self.stream, &mut [0_u8; 1][..], flags) {
                Ok((0, _)) => return Idle::Closed,
                Ok(_) => return Idle::Unsolicited,
                Err(Errno::AGAIN) => return Idle::Open,
                Err(Errno::INTR) => {}
                Err(_) => return Idle::Closed,
            }
        }
    }

    /// Writes the request.
    pub(super) async fn write(&mut self, request: &[u8]) -> Result<(), Fault> {
        self.reader.begun = false;
        let written = self.stream.write_all(request).await;
        written.map_err(|error| Fault::io(Phase::Write, &error))
    }

    /// Reads the answer.
    pub(super) async fn read(&mut self) -> Result<Answer, Fault> {
        self.reader.answer(&mut self.stream).await
    }

    /// Whether a byte of the present response has come.
    pub(super) fn has_begun(&self) -> bool {
        self.reader.begun
    }
}
