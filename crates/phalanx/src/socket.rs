//! Sockets to listen on.

use crate::address::Address;
use crate::error::{Error, Result};
use crate::sys::portable::{self, new_socket};
use rustix::fd::OwnedFd;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, getsockname, listen};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// The length of an accept queue where nothing else is said, as in Node.
pub(crate) const BACKLOG: i32 = 511;

/// How a socket shares its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// With nobody.
    Alone,
    /// The first of a reuseport group: nobody else may have the address yet, whatever it set on
    /// its own sockets. So the option comes after bind(2), which is atomic and leaves no gap.
    First,
    /// One more of the group.
    Join,
}

/// What is to be opened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub(crate) address: Address,
    pub(crate) udp: bool,
    /// IPv6 sockets take IPv6 only.
    pub(crate) v6_only: bool,
    pub(crate) backlog: i32,
    /// Permission bits of a unix socket's file.
    pub(crate) mode: Option<u32>,
}

impl Wish {
    /// Opens it: bound, and listening unless it is UDP; non-blocking and close-on-exec.
    pub(crate) fn open(&self, sharing: Sharing) -> Result<OwnedFd> {
        let opened = match &self.address {
            Address::Unix(path) => self.open_unix(path),
            Address::Ip(address) => match self.open_ip(*address, sharing) {
                // A machine without IPv6, as Node does it.
                Err(error)
                    if address.ip().is_unspecified()
                        && address.is_ipv6()
                        && !self.v6_only
                        && lacks_v6(&error) =>
                {
                    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
                    self.open_ip(any, sharing)
                }
                other => other,
            },
        };
        opened.map_err(|source| Error::Listen { address: self.address.to_string(), source })
    }

    fn open_ip(&self, address: SocketAddr, sharing: Sharing) -> io::Result<OwnedFd> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let fd = new_socket(family, if self.udp { SocketType::DGRAM } else { SocketType::STREAM })?;
        if !self.udp {
            sockopt::set_socket_reuseaddr(&fd, true)?;
        }
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, self.v6_only)?;
        }
        if sharing == Sharing::Join {
            sockopt::set_socket_reuseport(&fd, true)?;
        }
        bind(&fd, &address)?;
        if sharing == Sharing::First {
            sockopt::set_socket_reuseport(&fd, true)?;
        }
        if !self.udp {
            listen(&fd, self.backlog)?;
        }
        Ok(fd)
    }

    fn open_unix(&self, path: &Path) -> io::Result<OwnedFd> {
        let fd = new_socket(AddressFamily::UNIX, SocketType::STREAM)?;
        let address = SocketAddrUnix::new(path)?;
        match bind(&fd, &address) {
            Err(rustix::io::Errno::ADDRINUSE) if is_stale(path) => {
                std::fs::remove_file(path)?;
                bind(&fd, &address)?;
            }
            other => other?,
        }
        if let Some(mode) = self.mode {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        listen(&fd, self.backlog)?;
        Ok(fd)
    }
}

fn lacks_v6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Whether the file is a socket that nobody listens on: left over by a program that was killed. Never waits:
/// a listener whose queue is full is there, whatever it does.
fn is_stale(path: &Path) -> bool {
    let socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = || {
        let probe = new_socket(AddressFamily::UNIX, SocketType::STREAM).ok()?;
        rustix::net::connect(&probe, &SocketAddrUnix::new(path).ok()?).err()
    };
    socket && refused() == Some(rustix::io::Errno::CONNREFUSED)
}

/// The address a socket is bound to.
pub(crate) fn local_address(fd: &OwnedFd) -> io::Result<Address> {
    let name = getsockname(fd)?;
    if let Ok(address) = SocketAddr::try_from(name.clone()) {
        return Ok(Address::Ip(address));
    }
    let unix = SocketAddrUnix::try_from(name)?;
    let path = unix.path().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Address::Unix(path.into()))
}

/// Whether the error means that this process (or the machine) has no descriptor or memory left for
/// another connection: something to wait for, not to die of.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// How long an accept loop waits then.
pub(crate) const EXHAUSTED_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// What was said of it, so that the log is not flooded.
#[derive(Debug, Default)]
pub(crate) struct Complaint(Option<std::time::Instant>);

impl Complaint {
    /// Whether it is to be said (again): not more often than every five seconds.
    pub(crate) fn is_due(&mut self, error: &io::Error) -> bool {
        let recent = self.0.is_some_and(|said| said.elapsed().as_secs() < 5);
        if recent && is_exhausted(error) {
            return false;
        }
        self.0 = Some(std::time::Instant::now());
        true
    }
}

/// Takes one connection from a listening socket's queue; non-blocking, close-on-exec.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    loop {
        match portable::accept(listener) {
            Ok((fd, from)) => {
                return Ok((fd, from.and_then(|from| SocketAddr::try_from(from).ok())));
            }
            // The client gave up while it waited (accept(2), *Error handling*).
            Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
