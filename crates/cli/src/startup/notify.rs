//! What is said to systemd (`sd_notify(3)`), if it listens.

use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with,
};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// systemd's socket; nothing is said where there is none.
pub(super) struct Systemd {
    to: Option<(OwnedFd, SocketAddrUnix)>,
    /// How often it wants to hear something.
    pub(super) watchdog: Option<Duration>,
}

impl Systemd {
    /// As the environment has it.
    pub(super) fn find() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let pid = std::process::id();
        let watchdog = watchdog(
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
            pid,
        );
        Self { to: std::env::var_os("NOTIFY_SOCKET").and_then(|name| open(&name)), watchdog }
    }

    /// Says some lines. Nobody waits for them to be read.
    pub(super) fn say(&self, lines: &[&str]) {
        if let Some((socket, address)) = &self.to {
            let text = lines.join("\n");
            let _ =
                sendto(socket, text.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL, address);
        }
    }

    /// Says what it does, in a line.
    pub(super) fn status(&self, text: &str, more: &[&str]) {
        let status = format!("STATUS={}", text.replace('\n', " "));
        let lines: Vec<&str> =
            std::iter::once(status.as_str()).chain(more.iter().copied()).collect();
        self.say(&lines);
    }
}

fn open(name: &OsStr) -> Option<(OwnedFd, SocketAddrUnix)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name),
        None => SocketAddrUnix::new(name),
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
    Some((socket.ok()?, address.ok()?))
}

/// How often systemd wants to hear something of this process.
fn watchdog(usec: Option<&str>, of: Option<&str>, pid: u32) -> Option<Duration> {
    if of.is_some_and(|of| of.parse() != Ok(pid)) {
        return None;
    }
    usec?.parse().ok().filter(|usec| *usec > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_watchdog_it_is() {
        let half = Some(Duration::from_millis(500));
        for (usec, of, watched) in [
            (None, None, None),
            (Some("500000"), None, half),
            (Some("500000"), Some("7"), half),
            (Some("500000"), Some("8"), None),
            (Some("500000"), Some("x"), None),
            (Some("0"), None, None),
            (Some("-1"), None, None),
        ] {
            assert_eq!(watchdog(usec, of, 7), watched, "{usec:?} {of:?}");
        }
    }
}
