//! Programs that bind for themselves: what a call of bind(2) or listen(2) is about.
//!
//! A worker under the filter stops at these two calls until they are answered. Here is read what it asks, from
//! its memory and its descriptors; what is plainly its own affair is let pass at once. The rest is for the
//! shell to decide. What was read counts only if the call still waits afterwards (`seccomp_unotify(2))`: else
//! the number of the thread may be somebody else's.

use super::connections::inode_of;
use super::record::Fact;
use crate::keeper::Mark;
use crate::settings::Intercept;
use crate::sys::seccomp::{self, Call, Listener, Notice, Verdict};
use crate::sys::{self, options, portable::poll_now};
use phalanx_core::worker::WorkerId;
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{getsockname, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::sync::mpsc;

/// `sockaddr_in6` without its scope, as it once was (RFC 2133), and whole.
const V6_LENGTHS: (usize, usize) = (24, 28);
/// `sockaddr_in`.
const V4_LENGTH: usize = 16;
/// `sockaddr_storage`: the kernel takes nothing longer.
const LONGEST: u32 = 128;
/// `CAP_NET_BIND_SERVICE` (linux/capability.h).
const BIND_SERVICE: u32 = 10;
/// So many questions before the last one may wait for an answer of a primary that died: each is of another thread.
const EARLIER: u64 = 256;

/// A call of a worker's that waits for its answer. Dropped without one, it is let pass.
pub(super) struct Question {
    listener: Arc<Listener>,
    id: u64,
    pub(super) what: What,
    /// What tells the socket from any other.
    pub(super) inode: u64,
    /// The socket, where it may be looked at: containers often forbid `pidfd_getfd(2)`.
    pub(super) socket: Option<OwnedFd>,
    number: i32,
    close_on_exec: bool,
    pub(super) nonblocking: bool,
    /// The last primary heard it, and may have done what was asked before it died.
    pub(super) recalled: bool,
    answered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Bind {
        address: SocketAddr,
        udp: bool,
        /// IPv6 only, if that is known.
        v6_only: Option<bool>,
        /// It would share its address with others of its own.
        reuse_port: bool,
        /// The kernel would let it have that port.
        may: bool,
        /// The socket is bound already.
        again: bool,
    },
    Listen {
        backlog: i32,
    },
}

impl Question {
    pub(super) fn answer(mut self, verdict: Verdict) {
        self.answered = true;
        // It may have been killed meanwhile.
        let _ = seccomp::answer(&self.listener.fd, self.id, verdict);
    }

    /// Puts a socket in the place of the program's own.
    pub(super) fn replace(&self, socket: &OwnedFd) -> io::Result<()> {
        seccomp::replace(&self.listener.fd, self.id, socket, self.number, self.close_on_exec)
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if !self.answered {
            let _ = seccomp::answer(&self.listener.fd, self.id, Verdict::Continue);
        }
    }
}

/// Passes on what a worker's processes ask, until the last of them has ended.
pub(super) async fn watch(
    worker: WorkerId,
    listener: Arc<Listener>,
    ports: Intercept,
    mark: Option<Mark>,
    facts: mpsc::Sender<Fact>,
) {
    let watched = sys::watch(Arc::clone(&listener.fd), Interest::READABLE);
    let watched = match watched {
        Ok(watched) => watched,
        Err(error) => {
            let what = format!("worker {worker} cannot be heard when it binds: {error}");
            let _ = facts.send(Fact::Trouble(what)).await;
            return;
        }
    };
    let mut ear = Ear { worker, listener, ports, facts, said: false, unnamed: false };
    let asked = mark.as_ref().map(Mark::asked).unwrap_or_default();
    if !ear.recall(asked.iter().filter_map(Notice::from_bytes).collect()).await {
        return;
    }
    loop {
        // A worker that does nothing but bind must not keep the loop from its other work.
        tokio::task::consume_budget().await;
        let Ok(mut guard) = watched.readable().await else { return };
        match poll_now(&ear.listener.fd, PollFlags::IN) {
            Ok(ready) if ready.is_empty() => {
                guard.clear_ready();
                continue;
            }
            Ok(ready) if ready.contains(PollFlags::IN) => {}
            // Nobody is under the filter any more.
            Ok(_) => return,
            Err(_) => continue,
        }
        // An error: it was killed before it could be heard.
        let Ok(notice) = seccomp::receive(&ear.listener.fd) else { continue };
        if let Some(mark) = &mark {
            mark.asks(notice.id, &notice.to_bytes());
        }
        if !ear.hear(notice, false).await {
            return;
        }
    }
}

/// Who listens to a worker's processes.
struct Ear {
    worker: WorkerId,
    listener: Arc<Listener>,
    ports: Intercept,
    facts: mpsc::Sender<Fact>,
    /// It was said that it cannot be looked at, and that it has a port that was not named.
    said: bool,
    unnamed: bool,
}

impl Ear {
    /// Sees to what the last primary heard and did not answer: the kernel does not tell it again (the call waits until it is
    /// answered or nobody has the listener). False: nobody hears this any more.
    async fn recall(&mut self, mut asked: Vec<Notice>) -> bool {
        // Their numbers are in a row, from any one on.
        let Some(newest) = asked.first().copied() else { return true };
        asked.sort_unstable_by_key(|notice| notice.id.wrapping_sub(newest.id).cast_signed());
        let newest = asked.last().map_or(newest.id, |last| last.id);
        for notice in &asked {
            if seccomp::still_waits(&self.listener.fd, notice.id) && !self.hear(*notice, true).await
            {
                return false;
            }
        }
        // Of others nothing is known but their numbers, so the kernel does what is asked. One that was not told yet is
        // not answered by this.
        let known = |id: &u64| asked.iter().any(|notice| notice.id == *id);
        let earlier = (1..=EARLIER).map(|back| newest.wrapping_sub(back));
        for id in earlier.chain([newest.wrapping_add(1)]).filter(|id| !known(id)) {
            let _ = seccomp::answer(&self.listener.fd, id, Verdict::Continue);
        }
        true
    }

    /// Passes a call on, or answers it. False: nobody hears this any more.
    async fn hear(&mut self, notice: Notice, recalled: bool) -> bool {
        let Self { worker, listener, ports, facts, .. } = self;
        match look(listener, notice, ports, recalled) {
            Ok(Looked::Asks(question)) => {
                if facts.send(Fact::Asks(*worker, question)).await.is_err() {
                    return false;
                }
            }
            looked => {
                let _ = seccomp::answer(&listener.fd, notice.id, Verdict::Continue);
                if let (Ok(Looked::Unnamed(address)), false) = (&looked, self.unnamed) {
                    self.unnamed = true;
                    let what = format!(
                        "worker {worker} binds {address}, whose port is not in --port: it is not shared"
                    );
                    let _ = facts.send(Fact::Trouble(what)).await;
                }
                // What is not a descriptor, or no address, is an error of the program's, which the kernel tells it.
                let error = looked.err().filter(|error| match error.raw_os_error() {
                    Some(libc::ENOENT | libc::EIO | libc::ESRCH) => false,
                    _ => error.kind() != io::ErrorKind::UnexpectedEof,
                });
                if let Some(error) = error
                    && !std::mem::replace(&mut self.said, true)
                {
                    let what = format!(
                        "worker {worker} binds, but it cannot be looked at (has it other rights than this process?): {error}; its ports are its own"
                    );
                    let _ = facts.send(Fact::Trouble(what)).await;
                }
            }
        }
        true
    }
}

/// What was found.
enum Looked {
    Asks(Question),
    /// It is the program's own affair.
    Own,
    /// It would be shared, if its port had been named.
    Unnamed(SocketAddr),
}

/// What a call is about.
fn look(
    listener: &Arc<Listener>,
    notice: Notice,
    ports: &Intercept,
    recalled: bool,
) -> io::Result<Looked> {
    let Notice { id, thread, call } = notice;
    let (Call::Bind(number, ..) | Call::Listen(number, _)) = call;
    let status = fs::read_to_string(format!("/proc/{thread}/status"))?;
    let link = format!("/proc/{thread}/fd/{number}");
    let Some(Kind { udp, v6 }) = kind(&link)? else { return Ok(Looked::Own) };
    let Some(inode) = inode(&fs::read_link(&link)?) else { return Ok(Looked::Own) };
    let about = fs::read_to_string(format!("/proc/{thread}/fdinfo/{number}"))?;
    let flags = u32::try_from(field(&about, "flags", 8)?).unwrap_or(0);
    // A pidfd is of a process; mostly its threads have their descriptors in common.
    let duplicate = duplicate(field(&status, "Tgid", 10)?, number).ok();
    let same = |socket: &OwnedFd| inode_of(socket).is_ok_and(|its| its == inode);
    let socket = duplicate.filter(same);
    let what = match call {
        Call::Listen(_, backlog) => What::Listen { backlog },
        Call::Bind(_, place, length) => {
            let Some(address) = address(thread, place, length, v6)? else { return Ok(Looked::Own) };
            let named = ports.covers(address.port());
            if !named && address.port() != 0 && !udp {
                return Ok(Looked::Unnamed(address));
            }
            let own = address.is_ipv6() != v6
                || !named
                || udp && address.ip().is_multicast()
                || udp && *ports == Intercept::All && is_a_clients(address.port())
                || socket.as_ref().is_some_and(options::is_bound_otherwise)
                || !same_namespace(thread, "net")?;
            if own {
                return Ok(Looked::Own);
            }
            let bound = |socket| Some(SocketAddr::try_from(getsockname(socket).ok()?).ok()?.port());
            let v6_only = |socket| sockopt::ipv6_v6only(socket).ok();
            // What is not known is not held against it.
            let shares = |socket| sockopt::socket_reuseport(socket).unwrap_or(true);
            What::Bind {
                address,
                udp,
                v6_only: socket.as_ref().filter(|_| v6).and_then(v6_only),
                reuse_port: socket.as_ref().is_none_or(shares),
                may: may_bind(&status, thread, address.port())?,
                again: socket.as_ref().and_then(bound).is_some_and(|port| port != 0),
            }
        }
    };
    if matches!(what, What::Bind { again: true, .. }) && !listener.interruptible && !recalled {
        return Ok(Looked::Own);
    }
    if !seccomp::still_waits(&listener.fd, id) {
        return Ok(Looked::Own);
    }
    Ok(Looked::Asks(Question {
        listener: Arc::clone(listener),
        id,
        what,
        inode,
        socket,
        number,
        close_on_exec: flags & libc::O_CLOEXEC.cast_unsigned() != 0,
        nonblocking: flags & libc::O_NONBLOCK.cast_unsigned() != 0,
        recalled,
        answered: false,
    }))
}

/// The value of a line of /proc/PID/status or /proc/PID/fdinfo/N (proc(5)), in that base.
fn field(text: &str, name: &str, base: u32) -> io::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| u64::from_str_radix(value.trim(), base).ok())
        .ok_or_else(|| io::Error::other(format!("/proc tells no {name}")))
}

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    udp: bool,
    v6: bool,
}

/// What the socket behind a link in /proc is; `None` if it is neither TCP's nor UDP's. Sockets have the name of
/// their protocol as an extended attribute.
fn kind(link: &str) -> io::Result<Option<Kind>> {
    let mut name = [0; 32];
    let length = match rustix::fs::getxattr(link, "system.sockprotoname", &mut name[..]) {
        // No socket.
        Err(Errno::NOTSUP | Errno::NODATA) => return Ok(None),
        other => other?,
    };
    let name = name.get(..length).unwrap_or_default().split(|b| *b == 0).next();
    Ok(match name {
        Some(b"TCP" | b"MPTCP") => Some(Kind { udp: false, v6: false }),
        Some(b"TCPv6" | b"MPTCPv6") => Some(Kind { udp: false, v6: true }),
        Some(b"UDP") => Some(Kind { udp: true, v6: false }),
        Some(b"UDPv6") => Some(Kind { udp: true, v6: true }),
        _ => None,
    })
}

/// The inode of a socket, from the link in /proc (proc(5)).
fn inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A duplicate of a process's descriptor.
fn duplicate(process: u64, number: i32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())?)
}

/// The address that a thread passed to bind(2); `None` if it is none that could be shared.
fn address(thread: u32, place: u64, length: u32, v6: bool) -> io::Result<Option<SocketAddr>> {
    let length = usize::try_from(length.min(LONGEST + 1)).unwrap_or(usize::MAX);
    if length > LONGEST as usize {
        return Ok(None);
    }
    let mut bytes = [0; V6_LENGTHS.1];
    let Some(part) = bytes.get_mut(..length.min(V6_LENGTHS.1)).filter(|_| length >= V4_LENGTH)
    else {
        return Ok(None);
    };
    File::open(format!("/proc/{thread}/mem"))?.read_exact_at(part, place)?;
    Ok(parse(part, v6))
}

/// An address as bind(2) takes it: `sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)).
fn parse(bytes: &[u8], v6: bool) -> Option<SocketAddr> {
    let (family, rest) = bytes.split_first_chunk()?;
    let (port, rest) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(*port);
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET if bytes.len() >= V4_LENGTH => {
            let ip = Ipv4Addr::from(*rest.first_chunk::<4>()?);
            Some(SocketAddr::from((ip, port)))
        }
        // The kernel takes it for an IPv4 address that was not filled in well, if it is any address.
        libc::AF_UNSPEC if !v6 && bytes.len() >= V4_LENGTH => {
            let ip = Ipv4Addr::from(*rest.first_chunk::<4>()?);
            ip.is_unspecified().then(|| SocketAddr::from((ip, port)))
        }
        libc::AF_INET6 if bytes.len() >= V6_LENGTHS.0 => {
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            let scope = rest.first_chunk().map_or(0, |scope| u32::from_ne_bytes(*scope));
            let address = SocketAddrV6::new(Ipv6Addr::from(*ip), port, 0, scope);
            // An address of one network only is not one that is written without it.
            (scope == 0).then_some(SocketAddr::V6(address))
        }
        _ => None,
    }
}

/// Whether a thread is in the same namespace as this process.
fn same_namespace(thread: u32, kind: &str) -> io::Result<bool> {
    let its = fs::metadata(format!("/proc/{thread}/ns/{kind}"))?;
    let ours = fs::metadata(format!("/proc/self/ns/{kind}"))?;
    Ok((its.dev(), its.ino()) == (ours.dev(), ours.ino()))
}

/// Whether a UDP port is one of those that clients get (ip(7), `ip_local_port_range`): some choose one of them by
/// themselves, a different one for each question.
fn is_a_clients(port: u16) -> bool {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range.split_whitespace().filter_map(|end| end.parse().ok());
    match (ends.next(), ends.next()) {
        (Some(first), Some(last)) => (first..=last).contains(&port),
        _ => false,
    }
}

/// Whether the kernel would let a thread have the port (ip(7), `ip_unprivileged_port_start`). It gets none by
/// the rights of this process.
fn may_bind(status: &str, thread: u32, port: u16) -> io::Result<bool> {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first = first.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
    if port >= first {
        return Ok(true);
    }
    let capable = field(status, "CapEff", 16)? & (1 << BIND_SERVICE) != 0;
    Ok(capable && same_namespace(thread, "user")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn addresses() {
        let mut bytes = [0; 28];
        bytes[..2].copy_from_slice(&u16::try_from(libc::AF_INET).expect("small").to_ne_bytes());
        bytes[2..8].copy_from_slice(&[0x1f, 0x90, 127, 0, 0, 1]);
        let v4 = Some("127.0.0.1:8080".parse().expect("an address"));
        assert_eq!(parse(&bytes[..16], false), v4);
        assert_eq!(parse(&bytes, false), v4);
        assert_eq!(parse(&bytes[..15], false), None);
        bytes[..2].fill(0);
        assert_eq!(parse(&bytes, false), None, "of no family");
        bytes[4..8].fill(0);
        let any = Some("0.0.0.0:8080".parse().expect("an address"));
        assert_eq!((parse(&bytes, false), parse(&bytes, true)), (any, None));
        bytes[..2].copy_from_slice(&u16::try_from(libc::AF_INET6).expect("small").to_ne_bytes());
        bytes[4..24].fill(0);
        bytes[23] = 1;
        let v6 = Some("[::1]:8080".parse().expect("an address"));
        assert_eq!((parse(&bytes, true), parse(&bytes[..24], true)), (v6, v6));
        bytes[24] = 2;
        assert_eq!(parse(&bytes, true), None, "of one interface");
        assert_eq!((parse(&[], true), parse(&[1, 0, 3], false)), (None, None));
    }

    #[test]
    fn what_the_kernel_tells() {
        assert_eq!(field("A:\t1\nflags:\t02004002\n", "flags", 8).expect("there"), 0o2_004_002);
        assert!(field("flagsX:\t1", "flags", 8).is_err());
        let me = std::process::id();
        let status = fs::read_to_string("/proc/self/status").expect("there");
        assert!(may_bind(&status, me, 8000).expect("told"));
        let nobody = "CapEff:\t0000000000000000\n";
        let low = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        if low.expect("there").trim() != "0" {
            assert!(!may_bind(nobody, me, 1).expect("told"));
        }
        assert!(same_namespace(me, "net").expect("told"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let fd = OwnedFd::from(listener);
        let number = rustix::fd::AsRawFd::as_raw_fd(&fd);
        let link = format!("/proc/{me}/fd/{number}");
        assert_eq!(kind(&link).expect("told"), Some(Kind { udp: false, v6: false }));
        let its = inode(&fs::read_link(&link).expect("a link"));
        assert_eq!(its, inode_of(&fd).ok());
        let udp = std::net::UdpSocket::bind("[::1]:0").expect("bound");
        let link = format!("/proc/{me}/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&udp));
        assert_eq!(kind(&link).expect("told"), Some(Kind { udp: true, v6: true }));
        let (pipe, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        for other in
            [format!("/proc/{me}/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&pipe)), "/".into()]
        {
            assert_eq!(kind(&other).expect("told"), None, "{other}");
        }
        assert!(kind("/proc/self/fd/9999").is_err());
    }
}
