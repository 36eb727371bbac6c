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

/// A number that tells a socket from every other, however many descriptors it has (socket(7),
/// `SO_COOKIE`).
pub(crate) fn cookie(socket: &OwnedFd) -> rustix::io::Result<u64> {
    #[cfg(target_os = "linux")]
    return rustix::net::sockopt::socket_cookie(socket);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = socket;
        Err(rustix::io::Errno::NOTSUP)
    }
}

/// Whether a stream socket listens (socket(7), `SO_ACCEPTCONN`).
pub(crate) fn listens(socket: impl rustix::fd::AsFd) -> bool {
    #[cfg(not(target_vendor = "apple"))]
    return rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false);
    // Not implemented there: a socket without a peer is taken for a listener.
    #[cfg(target_vendor = "apple")]
    rustix::net::getpeername(socket).is_err()
}

/// Makes a descriptor non-blocking and close-on-exec.
pub(crate) fn mark(fd: OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

/// What can be done with a descriptor now, of what is asked for.
#[cfg(target_os = "linux")]
pub(crate) fn poll_now(
    fd: impl rustix::fd::AsFd,
    wanted: rustix::event::PollFlags,
) -> rustix::io::Result<rustix::event::PollFlags> {
    use rustix::event::{PollFd, Timespec, poll};
    let mut polled = [PollFd::new(&fd, wanted)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(polled[0].revents())
}
