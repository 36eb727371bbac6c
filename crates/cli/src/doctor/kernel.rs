//! What phalanx uses of the kernel; tried where that costs nothing.

use super::Findings;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, SocketAddrV4, SocketFlags, SocketType, bind, getsockname, listen, socket_with,
    sockopt,
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

/// A version of the kernel.
type Version = (u32, u32);

pub(super) fn look() -> Findings {
    let mut found = Findings::new("Kernel");
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version = version(&release);
    match version {
        Some(version) if version >= (5, 10) => found.ok("version", &release),
        _ => found.note(
            "version",
            format!("{release}: older than what phalanx is tested with"),
            "Linux 5.10 has everything that is needed, 5.14 all that is used",
        ),
    }
    steering(&mut found, version);
    processes(&mut found);
    notification(&mut found, version);
    tried(
        &mut found,
        "memfd",
        memfd().map(drop),
        "the keeper has no place for its book: run with --no-keeper",
    );
    tried(
        &mut found,
        "sock_diag",
        diag(),
        "connections of programs that know nothing are not counted: they drain by time",
    );
    landlock(&mut found, version);
    let close = version.is_some_and(|version| version >= (5, 9));
    if !close {
        found.note(
            "close_range",
            "not there",
            "it came with Linux 5.9; starting a worker is slower",
        );
    }
    control_groups(&mut found);
    found
}

/// `6.1.0-18-amd64` is (6, 1).
fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn tried(found: &mut Findings, name: &str, done: io::Result<()>, advice: &str) {
    match done {
        Ok(()) => found.ok(name, "works"),
        Err(error) => found.note(name, format!("does not work: {error}"), advice),
    }
}

/// Several sockets on one port, and a program that chooses among them.
fn steering(found: &mut Findings, version: Option<Version>) {
    const ADVICE: &str = "--policy round-robin does without";
    match reuseport() {
        Err(error) => found.problem("SO_REUSEPORT", format!("does not work: {error}"), ADVICE),
        // A program for TCP came later than the option.
        Ok(()) if version.is_some_and(|version| version < (4, 6)) => {
            found.problem("SO_REUSEPORT", "works, but cannot be steered before Linux 4.6", ADVICE);
        }
        Ok(()) => {
            found.ok("SO_REUSEPORT", "two sockets share a port; steering came with Linux 4.6");
        }
    }
}

fn reuseport() -> io::Result<()> {
    let open = |address: &SocketAddr| -> io::Result<_> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        bind(&socket, address)?;
        listen(&socket, 1)?;
        Ok(socket)
    };
    let first = open(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
    let address = SocketAddr::try_from(getsockname(&first)?)?;
    open(&address).map(drop)
}

fn processes(found: &mut Findings) {
    let held = pidfd_open(getpid(), PidfdFlags::empty());
    match held {
        Err(error) => found.problem(
            "pidfd",
            format!("does not work: {error}"),
            "it came with Linux 5.3; a sandbox may forbid pidfd_open(2)",
        ),
        Ok(held) => {
            found.ok("pidfd", "works");
            let taken = memfd().and_then(|file| {
                Ok(pidfd_getfd(&held, file.as_raw_fd(), PidfdGetfdFlags::empty())?)
            });
            let advice = "what a stuck worker has not read is not taken back from it; it came with Linux 5.6, and sandboxes forbid it";
            tried(found, "pidfd_getfd", taken.map(drop), advice);
        }
    }
}

fn memfd() -> io::Result<rustix::fd::OwnedFd> {
    Ok(memfd_create("phalanx-doctor", MemfdFlags::CLOEXEC)?)
}

fn diag() -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let protocol = Some(rustix::net::netlink::SOCK_DIAG);
    socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    Ok(())
}

/// Answering the system calls of programs that know nothing.
fn notification(found: &mut Findings, version: Option<Version>) {
    const NAME: &str = "seccomp";
    let advice = "programs that are not Node's share no port that they bind themselves: give them --listen or --port-base";
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let known = actions.split_whitespace().any(|action| action == "user_notif");
    match version {
        Some(version) if known && version >= (5, 9) => {
            found.ok(NAME, "user notification is there: any program can share its port");
        }
        _ if known => {
            found.note(NAME, "user notification is too old: Linux 5.9 has it all", advice);
        }
        _ => found.note(NAME, "no user notification", advice),
    }
}

fn landlock(found: &mut Findings, version: Option<Version>) {
    let modules = fs::read_to_string("/sys/kernel/security/lsm").ok();
    let active = modules.as_ref().map(|list| list.split(',').any(|name| name.trim() == "landlock"));
    let advice =
        "only options that confine workers to directories need it; see the kernel's lsm= parameter";
    match (active, version.is_some_and(|version| version >= (5, 13))) {
        (Some(true), _) => found.ok("Landlock", "is active"),
        (Some(false), _) => found.note("Landlock", "is not active", advice),
        (None, true) => found.ok("Landlock", "this kernel may have it; it does not tell"),
        (None, false) => found.note("Landlock", "not there: it came with Linux 5.13", advice),
    }
}

fn control_groups(found: &mut Findings) {
    const NAME: &str = "cgroup v2";
    let advice = "--hard-memory is kept by the primary instead, four times a second; --cpu-weight needs it: Delegate=yes in a unit of its own";
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(group) = own_group(&own) else {
        return found.note(NAME, "there are no control groups of version 2", advice);
    };
    let place = format!("/sys/fs/cgroup{group}");
    let Ok(there) = fs::read_to_string(format!("{place}/cgroup.controllers")) else {
        return found.note(NAME, format!("{place} cannot be read"), advice);
    };
    let controllers: Vec<&str> = there.split_whitespace().collect();
    let writable = rustix::fs::access(place.as_str(), rustix::fs::Access::WRITE_OK).is_ok();
    let needed = ["memory", "cpu"].iter().all(|name| controllers.contains(name));
    match (writable, needed) {
        (true, true) => found.ok(NAME, format!("delegated, with {}", controllers.join(", "))),
        (true, false) => found.note(NAME, format!("{place} lacks memory or cpu"), advice),
        (false, _) => found.note(NAME, format!("{place} is not delegated"), advice),
    }
}

/// Of the lines of `/proc/self/cgroup`, that of version 2.
fn own_group(text: &str) -> Option<&str> {
    let group = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(if group == "/" { "" } else { group })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.15"), Some((5, 15)));
        assert_eq!(version("6.18.44-fc-v445"), Some((6, 18)));
        assert_eq!(version("linux"), None);
        assert!(version("5.4.0") < version("5.14.1"));
    }

    #[test]
    fn groups() {
        assert_eq!(
            own_group("1:cpu:/\n0::/system.slice/x.service\n"),
            Some("/system.slice/x.service")
        );
        assert_eq!(own_group("0::/\n"), Some(""));
        assert_eq!(own_group("4:memory:/a\n"), None);
    }

    #[test]
    fn sockets_share_a_port() {
        reuseport().expect("Linux");
    }
}
