//! Where Unixes differ: flags that make a descriptor non-blocking and close-on-exec in one go.

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType};
use rustix::net::{socket_with, socketpair};

/// Sending never blocks and never raises SIGPIPE (which Rust ignores anyway).
#[cfg(target_os = "linux")]
pub(crate) const SEND: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
#[cfg(not(target_os = "linux"))]
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT;

/// Receiving never blocks, and what is received is close-on-exec.
#[cfg(target_os = "linux")]
pub(crate) const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC.union(RecvFlags::DONTWAIT);
#[cfg(not(target_os = "linux"))]
pub(crate) const RECEIVE: RecvFlags = RecvFlags::DONTWAIT;

#[cfg(target_os = "linux")]
const BOTH: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// A socket, non-blocking and close-on-exec.
pub(crate) fn new_socket(family: AddressFamily, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    #[cfg(target_os = "linux")]
    return socket_with(family, kind, BOTH, None);
    #[cfg(not(target_os = "linux"))]
    mark(socket_with(family, kind, SocketFlags::empty(), None)?)
}

/// Two connected unix stream sockets, close-on-exec; the first is non-blocking.
pub(crate) fn new_pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    #[cfg(target_os = "linux")]
    let flags = SocketFlags::CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = SocketFlags::empty();
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::CLOEXEC)?;
    Ok((mark(ours)?, theirs))
}

/// A connection from a listening socket's queue, non-blocking and close-on-exec.
pub(crate) fn accept(listener: &OwnedFd) -> rustix::io::Result<(OwnedFd, Option<SocketAddrAny>)> {
    #[cfg(target_os = "linux")]
    return rustix::net::acceptfrom_with(listener, BOTH);
    #[cfg(not(target_os = "linux"))]
    {
        let (fd, from) = rustix::net::acceptfrom(listener)?;
        Ok((mark(fd)?, from))
    }
}

/// Makes a descriptor non-blocking and close-on-exec.
pub(crate) fn mark(fd: OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}
