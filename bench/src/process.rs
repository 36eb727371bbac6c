//! Facts about processes, read from `/proc` (Linux only).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// What `/proc/<pid>/stat` says about one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The process id.
    pub pid: u32,
    /// The state: `R`unning, `S`leeping, `D`isk sleep, s`T`opped, `Z`ombie and so on.
    pub state: char,
    /// The process id of the parent.
    pub parent: u32,
    /// The process group.
    pub group: u32,
    /// The CPU time in user and kernel mode, of all threads.
    pub cpu: Duration,
    /// When the process started, in clock ticks since boot. With the pid it names the process
    /// for good: a pid alone may be given to another process later.
    pub started: u64,
}

/// Reads `/proc/<pid>/stat`.
///
/// # Errors
///
/// `NotFound` when there is no such process, `InvalidData` when the file is not understood.
pub fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(gone)?;
    parse_stat(&text).ok_or_else(|| malformed("stat"))
}

/// A process that ends between `open` and `read` gives ESRCH: say `NotFound` for both.
fn gone(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) {
        return io::Error::new(io::ErrorKind::NotFound, error);
    }
    error
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not understood: {what}"))
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name in parentheses may itself contain blanks and parentheses.
    let pid = text.split_whitespace().next()?.parse().ok()?;
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = number(11)?.checked_add(number(12)?)?;
    Some(Stat {
        pid,
        state: fields.first()?.chars().next()?,
        parent: u32::try_from(number(1)?).ok()?,
        group: u32::try_from(number(2)?).ok()?,
        cpu: ticks_to_duration(ticks),
        started: number(19)?,
    })
}

fn ticks_to_duration(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_secs(ticks / per_second)
        + Duration::from_nanos(ticks % per_second * 1_000_000_000 / per_second)
}

/// All processes of this machine, in no order. Processes that end meanwhile are left out.
///
/// # Errors
///
/// When `/proc` cannot be listed.
pub fn all() -> io::Result<Vec<Stat>> {
    let pids = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.filter_map(|pid| stat(pid).ok()).collect())
}

/// The resident memory in bytes, shared pages counted in full.
///
/// # Errors
///
/// When there is no such process or it may not be looked at.
pub fn rss_bytes(pid: u32) -> io::Result<u64> {
    kilobytes(pid, "status", "VmRSS:")
}

/// The proportional set size in bytes: a page shared by n processes counts as an n-th of a page.
/// The sum over a cluster is the memory that the cluster uses.
///
/// # Errors
///
/// When there is no such process or it may not be looked at.
pub fn pss_bytes(pid: u32) -> io::Result<u64> {
    kilobytes(pid, "smaps_rollup", "Pss:")
}

/// The memory in bytes that the process shares with no other: what its end would give back.
///
/// # Errors
///
/// When there is no such process or it may not be looked at.
pub fn private_bytes(pid: u32) -> io::Result<u64> {
    let clean = kilobytes(pid, "smaps_rollup", "Private_Clean:")?;
    Ok(clean.saturating_add(kilobytes(pid, "smaps_rollup", "Private_Dirty:")?))
}

fn kilobytes(pid: u32, file: &str, field: &str) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(gone)?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse::<u64>().ok())
        .and_then(|kilobytes| kilobytes.checked_mul(1_024))
        .ok_or_else(|| malformed(file))
}

/// The CPU time used so far, in user and kernel mode, of all threads. It advances in clock ticks,
/// usually of 10 ms.
///
/// # Errors
///
/// When there is no such process.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    stat(pid).map(|stat| stat.cpu)
}

/// The children of a process in ascending order, zombies included. Found by the parent that each
/// process names, because not every kernel has `/proc/<pid>/task/<tid>/children`.
pub fn children(pid: u32) -> Vec<u32> {
    let mut children: Vec<u32> = all()
        .unwrap_or_default()
        .iter()
        .filter(|stat| stat.parent == pid)
        .map(|stat| stat.pid)
        .collect();
    children.sort_unstable();
    children
}

/// The state letter of a process, `None` when there is no such process.
pub fn state(pid: u32) -> Option<char> {
    stat(pid).ok().map(|stat| stat.state)
}

/// Whether the process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X' | 'x'))
}

/// How many file descriptors the process has open.
///
/// # Errors
///
/// When there is no such process or it may not be looked at.
pub fn open_descriptors(pid: u32) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).map_err(gone)? {
        entry.map_err(gone)?;
        count += 1;
    }
    Ok(count)
}

/// The inode numbers of the sockets that the process has open.
///
/// # Errors
///
/// When there is no such process or it may not be looked at.
pub fn socket_inodes(pid: u32) -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).map_err(gone)? {
        // A descriptor may be closed between the listing and the look at it.
        let Ok(target) = fs::read_link(entry.map_err(gone)?.path()) else { continue };
        let inode: Option<u64> = target
            .to_str()
            .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        inodes.extend(inode);
    }
    Ok(inodes)
}

/// The remote addresses of the TCP connections whose socket inode is in the set, for connections
/// that are established or closing. IPv4 peers of IPv6 sockets are given as IPv4.
///
/// With [`socket_inodes`] of a process (best while it is stopped) this is the exact set of client
/// connections that it had accepted. Connections that still wait to be accepted have no inode and
/// belong to nobody.
///
/// # Errors
///
/// When the tables of the kernel cannot be read.
pub fn tcp_peers(inodes: &BTreeSet<u64>) -> io::Result<BTreeSet<SocketAddr>> {
    let mut peers = BTreeSet::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        if !Path::new(table).exists() {
            continue; // a kernel without IPv6
        }
        let text = fs::read_to_string(table)?;
        peers.extend(text.lines().skip(1).filter_map(|line| peer_of(line, inodes)));
    }
    Ok(peers)
}

/// One line of a TCP table: `sl local remote state queues timer retransmits uid timeout inode`.
fn peer_of(line: &str, inodes: &BTreeSet<u64>) -> Option<SocketAddr> {
    const CONNECTED: [&str; 6] = ["01", "04", "05", "08", "09", "0B"];
    let fields: Vec<&str> = line.split_whitespace().collect();
    if !CONNECTED.contains(fields.get(3)?) || !inodes.contains(&fields.get(9)?.parse().ok()?) {
        return None;
    }
    let (address, port) = fields.get(2)?.split_once(':')?;
    Some(SocketAddr::new(parse_address(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// Each 32 bit word of an address is printed as a number of this machine's byte order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = text.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut octets = [0; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::wait;

    /// No process has this id: it is above the highest `pid_max` there is.
    const NOBODY: u32 = 4_194_305;

    #[test]
    fn the_own_process_has_plausible_facts() {
        let me = std::process::id();
        let (rss, pss) = (rss_bytes(me).unwrap(), pss_bytes(me).unwrap());
        assert!(rss > 100_000 && pss > 10_000, "rss {rss}, pss {pss}");
        assert!(private_bytes(me).unwrap() > 10_000);
        assert!(is_alive(me));
        assert!(matches!(state(me), Some('R' | 'S')));
        let stat = stat(me).unwrap();
        assert_eq!(stat.pid, me);
        assert!(children(stat.parent).contains(&me));
        assert!(all().unwrap().iter().any(|other| other.started == stat.started));
    }

    #[test]
    fn cpu_time_advances_with_work() {
        let before = cpu_time(std::process::id()).unwrap();
        wait::until(Duration::from_secs(20), "CPU time to advance", || {
            let busy = (0..1_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
            std::hint::black_box(busy);
            (cpu_time(std::process::id()).unwrap() > before).then_some(())
        })
        .unwrap();
    }

    #[test]
    fn nobody_has_no_facts_but_errors() {
        assert_eq!(stat(NOBODY).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(rss_bytes(NOBODY).is_err() && pss_bytes(NOBODY).is_err());
        assert!(open_descriptors(NOBODY).is_err() && socket_inodes(NOBODY).is_err());
        assert_eq!((state(NOBODY), is_alive(NOBODY)), (None, false));
        assert!(children(NOBODY).is_empty());
    }

    #[test]
    fn a_zombie_exists_but_is_not_alive() {
        let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        wait::until(Duration::from_secs(10), "a zombie", || {
            (state(pid) == Some('Z')).then_some(())
        })
        .unwrap();
        assert!(!is_alive(pid));
        assert!(children(std::process::id()).contains(&pid));
        child.wait().unwrap();
        assert_eq!(state(pid), None);
    }

    #[test]
    fn a_name_with_blanks_and_parentheses_is_parsed() {
        let text = "12 (a ) R b) S 3 4 0 0 0 0 0 0 0 0 150 50 0 0 0 0 0 0 777 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.pid, stat.state, stat.parent, stat.group), (12, 'S', 3, 4));
        assert_eq!(stat.started, 777);
        assert_eq!(stat.cpu, ticks_to_duration(200));
        assert_eq!(parse_stat("12 (a"), None);
    }

    #[test]
    fn peers_are_found_by_the_sockets_of_the_process() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let peer = client.local_addr().unwrap();
            let mine = |peer| {
                let inodes = socket_inodes(std::process::id()).unwrap();
                tcp_peers(&inodes).unwrap().contains(&peer)
            };
            assert!(!mine(peer), "not yet accepted");
            let accepted = listener.accept().unwrap();
            assert!(mine(peer), "accepted");
            drop(accepted);
            assert!(!mine(peer), "closed");
        }
        assert!(open_descriptors(std::process::id()).unwrap() > 2);
    }

    #[test]
    fn mapped_addresses_are_canonical() {
        let mapped = "0000000000000000FFFF00000100007F";
        if cfg!(target_endian = "little") {
            assert_eq!(parse_address(mapped).unwrap(), Ipv4Addr::LOCALHOST);
        }
        assert_eq!(parse_address("123"), None);
    }
}
