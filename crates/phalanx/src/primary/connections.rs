//! Which TCP connections the processes of a worker hold, and how idle they are.
//!
//! A worker without a channel cannot say that it has finished, so the primary looks: at the sockets that
//! its processes have open (`/proc/PID/fd`), and at what the kernel knows of each (`sock_diag(7)` over
//! `netlink(7)`). Nothing is asked of the worker. No call here waits for anybody, but with thousands of
//! connections together they take tens of milliseconds.

// The parsers are the same everywhere; only Linux has something for them to read.
#![cfg_attr(not(target_os = "linux"), allow(dead_code))]

use rustix::fd::AsFd;
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use std::{fmt, fs, io, str};

// From linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_INFO: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE_WAIT: u8 = 8; // The client says no more, but may await the answer.

/// So many times longer a connection has to be idle if it cannot be told whether it awaits an answer.
const IF_UNKNOWN: u32 = 3;

/// One established connection of a process tree.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// Since the last byte in either direction, or since it was established when there was none.
    pub(super) idle: Duration,
    /// Whether the last byte was the peer's, which may await an answer; `None` if that cannot be told.
    pub(super) asks: Option<bool>,
    /// Bytes received and not read by the worker.
    pub(super) unread: u32,
    /// Bytes written by the worker and not acknowledged by the peer.
    pub(super) unsent: u32,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

impl Connection {
    /// Whether something may still come on it, if one that was idle for so long is finished.
    pub(super) fn is_busy(&self, finished: Duration) -> bool {
        let finished = match self.asks {
            Some(true) => Duration::MAX,
            Some(false) => finished,
            None => finished.saturating_mul(IF_UNKNOWN),
        };
        self.idle < finished || self.unread > 0 || self.unsent > 0
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { idle, unread, unsent, peer, local, .. } = self;
        write!(f, "{peer} to {local}, idle for {idle:.1?}, {unread} bytes unread, {unsent} unsent")
    }
}

/// What `/proc/PID/stat` says.
struct Process {
    id: u32,
    parent: u32,
    group: u32,
    zombie: bool, // Its first thread has ended, perhaps not the others.
    threads: u32,
}

impl Process {
    fn of(id: u32) -> Option<Self> {
        Self::parse(id, &fs::read(format!("/proc/{id}/stat")).ok()?)
    }

    fn parse(id: u32, stat: &[u8]) -> Option<Self> {
        // The second field is the name in brackets, which may hold anything, brackets too.
        let rest = stat.rsplit(|byte| *byte == b')').next()?;
        let fields: Vec<&str> = str::from_utf8(rest).ok()?.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse().ok();
        let zombie = matches!(*fields.first()?, "Z" | "X");
        Some(Self { id, parent: number(1)?, group: number(2)?, zombie, threads: number(17)? })
    }
}

/// The names in a directory that are numbers.
fn numbers(directory: &str) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The living processes of a worker: itself, its descendants, and whoever is in its process group.
///
/// One that has left the group, and whose parent has ended, can no longer be told from a stranger.
pub(super) fn processes(worker: u32) -> Vec<u32> {
    let all: Vec<Process> = numbers("/proc").into_iter().filter_map(Process::of).collect();
    // The kernel's own threads are in group 0.
    let root = |it: &Process| worker != 0 && (it.id == worker || it.group == worker);
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for it in &all {
        children.entry(it.parent).or_default().push(it.id);
    }
    let mut next: Vec<u32> = all.iter().filter(|it| root(it)).map(|it| it.id).collect();
    let mut tree = BTreeSet::new();
    while let Some(id) = next.pop() {
        if tree.insert(id) {
            next.extend(children.get(&id).into_iter().flatten());
        }
    }
    let alive = |it: &&Process| tree.contains(&it.id) && !(it.zombie && it.threads <= 1);
    all.iter().filter(alive).map(|it| it.id).collect()
}

/// The inodes of the sockets that these processes have open.
///
/// # Errors
///
/// `PermissionDenied` when one may not be looked at. One that ended in the meantime is no error.
pub(super) fn sockets(processes: &[u32]) -> io::Result<BTreeSet<u64>> {
    if cfg!(not(target_os = "linux")) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // When the first thread has ended, what the process has open is to be seen at the others.
    let threads = |id: &u32| match Process::of(*id) {
        Some(it) if it.zombie => numbers(&format!("/proc/{id}/task")),
        _ => vec![*id],
    };
    let mut found = BTreeSet::new();
    for id in processes.iter().flat_map(threads) {
        let Err(error) = open_sockets(id, &mut found) else { continue };
        // One that has ended since may be closed to us for that very reason.
        if Process::of(id).is_some_and(|it| !it.zombie) {
            let told = format!("cannot see the open sockets of process {id}: {error}");
            return Err(io::Error::new(io::Error::from(error).kind(), told));
        }
    }
    Ok(found)
}

fn open_sockets(id: u32, found: &mut BTreeSet<u64>) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(format!("/proc/{id}/fd"), flags, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        // `socket:[4711]`. Longer links are cut off, and are not those of sockets.
        let mut link = [0; 32];
        match rustix::fs::readlinkat_raw(&directory, entry?.file_name(), &mut link[..]) {
            Ok(length) => found.extend(link.get(..length).and_then(inode_in)),
            Err(Errno::NOENT | Errno::INVAL) => {} // Closed meanwhile; and `.` is no link.
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn inode_in(link: &[u8]) -> Option<u64> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    str::from_utf8(number).ok()?.parse().ok()
}

/// The inode of a socket, as in the answer of [`sockets`].
pub(super) fn inode_of(socket: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}

/// The established TCP connections, of these local ports only, which are among these sockets.
///
/// A connection that nobody has accepted yet has no inode, so it is never among them.
pub(super) fn established(
    sockets: &BTreeSet<u64>,
    ports: &BTreeSet<u16>,
) -> io::Result<Vec<Connection>> {
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    // By inode: one may be told twice when others come and go meanwhile.
    let mut found = BTreeMap::new();
    let mut take = |inode, connection: Connection| {
        if sockets.contains(&inode) && ports.contains(&connection.local.port()) {
            found.insert(inode, connection);
        }
    };
    // Each time the kernel goes through its whole table: not too often.
    let filters = if ports.len() <= 4 { ports.clone() } else { BTreeSet::from([0]) };
    for request in filters.iter().flat_map(|it| [AF_INET, AF_INET6].map(|of| request(of, *it))) {
        // A table that changed under the kernel's hands is asked for again.
        let mut again = 0..3;
        while let Err(error) = dump(&request, &mut take) {
            if error.kind() != io::ErrorKind::ResourceBusy || again.next().is_none() {
                return Err(error);
            }
        }
    }
    Ok(found.into_values().collect())
}

/// A `nlmsghdr` and an `inet_diag_req_v2`: the connections to a local port, or to any for 0.
fn request(family: u8, port: u16) -> Vec<u8> {
    let mut bytes = Vec::from(72_u32.to_ne_bytes()); // The length, 16 and 56 bytes.
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]); // The request's number and who asks: there is only one.
    bytes.extend([family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0]);
    bytes.extend((1u32 << TCP_ESTABLISHED | 1 << TCP_CLOSE_WAIT).to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend([0; 46]); // Any peer, any address.
    bytes
}

/// Asks the kernel for a table. Each part of its answer is there before the call that makes it write the
/// part returns, so there is something to receive until the last message.
#[cfg(target_os = "linux")]
fn dump(request: &[u8], found: &mut impl FnMut(u64, Connection)) -> io::Result<()> {
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink, socket_with};
    let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
    let socket = socket_with(family, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
    // From now on nobody but the kernel can send to it.
    rustix::net::connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
    rustix::net::send(&socket, request, crate::sys::portable::SEND)?;
    let mut buffer = vec![0; 64 << 10]; // The kernel uses 32 KiB of it.
    loop {
        // TRUNC: the length is the datagram's, also when that is more than was there to take it.
        let how = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        let (_, length) = rustix::net::recv(&socket, &mut buffer[..], how)?;
        if digest(buffer.get(..length).unwrap_or_default(), found)? {
            return Ok(());
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn dump(_: &[u8], _: &mut impl FnMut(u64, Connection)) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Reads the messages of one datagram, of which there is at least one. Whether it was the last datagram.
fn digest(mut bytes: &[u8], found: &mut impl FnMut(u64, Connection)) -> io::Result<bool> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "an odd answer from sock_diag");
    loop {
        let length = at(bytes, 0).map_or(0, u32::from_ne_bytes) as usize;
        let flags = at(bytes, 6).map_or(0, u16::from_ne_bytes);
        let payload = bytes.get(16..length).ok_or_else(odd)?;
        if flags & NLM_F_DUMP_INTR != 0 {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        match at(bytes, 4).map(u16::from_ne_bytes) {
            // The regular end, too, may bring an error: a negative number.
            Some(NLMSG_ERROR | NLMSG_DONE) => match at(payload, 0).map_or(0, i32::from_ne_bytes) {
                0.. => return Ok(true),
                error => return Err(io::Error::from_raw_os_error(error.saturating_neg())),
            },
            Some(SOCK_DIAG_BY_FAMILY) => {
                let (inode, connection) = connection(payload).ok_or_else(odd)?;
                found(inode, connection);
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(false);
        }
    }
}

/// Reads an `inet_diag_msg` and the `tcp_info` among its attributes.
fn connection(message: &[u8]) -> Option<(u64, Connection)> {
    let number = |position| at(message, position).map(u32::from_ne_bytes);
    let end = |port, address| {
        let ip = match *message.first()? {
            AF_INET => Ipv4Addr::from(at::<4>(message, address)?).into(),
            // An IPv4 client of a socket for both families is told in IPv6's way.
            AF_INET6 => Ipv6Addr::from(at::<16>(message, address)?).to_canonical(),
            _ => return None::<SocketAddr>,
        };
        Some((ip, u16::from_be_bytes(at(message, port)?)).into())
    };
    // When the client says no more, that takes a place of its own behind the last byte.
    let closed = u32::from(*message.get(1)? == TCP_CLOSE_WAIT);
    let info = attribute(message.get(72..)?, INET_DIAG_INFO);
    // One that the kernel does not tell more of counts as busy.
    let [sent, received] = info.and_then(times).unwrap_or_default();
    let [segments_in, segments_out] = info.and_then(segments).unwrap_or([1, 1]);
    let connection = Connection {
        idle: sent.min(received),
        asks: match (segments_in, segments_out) {
            (0, _) => Some(false),
            (_, 0) => Some(true),
            // The clock is too coarse for who was the last.
            _ if sent == received => None,
            _ => Some(received < sent),
        },
        unread: number(56)?.saturating_sub(closed),
        unsent: number(60)?,
        peer: end(6, 24)?,
        local: end(4, 8)?,
    };
    Some((number(68)?.into(), connection))
}

/// `tcpi_last_data_sent` and `tcpi_last_data_recv` of a `tcp_info`, which are in milliseconds.
///
/// Without any data, both count from when the connection was established (an old kernel's first one from 0
/// of its clock; then the other is the least). Keep-alive probes and acknowledgements do not count.
fn times(info: &[u8]) -> Option<[Duration; 2]> {
    let times = [at(info, 44)?, at(info, 52)?].map(u32::from_ne_bytes);
    Some(times.map(|ms| Duration::from_millis(ms.into())))
}

/// `tcpi_data_segs_in` and `tcpi_data_segs_out` of a `tcp_info`: whether there was any data.
fn segments(info: &[u8]) -> Option<[u32; 2]> {
    Some([at(info, 152)?, at(info, 156)?].map(u32::from_ne_bytes))
}

/// The content of the first attribute of a type.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = u16::from_ne_bytes(at(bytes, 0)?).into();
        let content = bytes.get(4..length)?;
        if u16::from_ne_bytes(at(bytes, 2)?) == wanted {
            return Some(content);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// So many bytes at a position.
fn at<const N: usize>(bytes: &[u8], position: usize) -> Option<[u8; N]> {
    bytes.get(position..)?.first_chunk().copied()
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
