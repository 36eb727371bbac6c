//! systemd's notification socket (`sd_notify(3))`: one for each worker, so it is known who speaks.

use super::record::Fact;
use crate::sys::{self, portable};
use phalanx_core::worker::WorkerId;
use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, SocketAddrUnix, SocketType, UCred,
    bind, recvmsg, sockopt,
};
use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::Interest;
use tokio::sync::mpsc;

/// The longest datagram that is read.
const LONGEST: usize = 4096;

/// A worker's notification socket.
pub(super) struct Notifications {
    socket: OwnedFd,
    /// What the worker finds in `NOTIFY_SOCKET`.
    pub(super) name: OsString,
}

impl Notifications {
    /// One that has no file, so nothing has to be cleaned up, and no directory has to be open to a worker with
    /// another user.
    pub(super) fn open() -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let socket = portable::new_socket(AddressFamily::UNIX, SocketType::DGRAM)?;
        sockopt::set_socket_passcred(&socket, true)?;
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("phalanx/notify/{}/{count}", std::process::id());
            match bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?) {
                // Of another namespace of processes, or by somebody who guessed it.
                Err(rustix::io::Errno::ADDRINUSE) if count < 1 << 20 => {}
                Err(error) => return Err(error.into()),
                Ok(()) => return Ok(Self { socket, name: format!("@{name}").into() }),
            }
        }
    }
}

/// Passes on what a worker's processes say.
pub(super) async fn listen(
    worker: WorkerId,
    pid: u32,
    notifications: Notifications,
    facts: mpsc::Sender<Fact>,
) {
    let Ok(socket) = sys::watch(Arc::new(notifications.socket), Interest::READABLE) else { return };
    let mut said = false;
    loop {
        // A worker that never pauses must not keep the loop from its other work.
        tokio::task::consume_budget().await;
        let Ok(mut guard) = socket.readable().await else { return };
        match receive(socket.get_ref()) {
            Ok((text, Some(from))) if is_of(from, pid) => {
                if facts.send(Fact::Notified(worker, text)).await.is_err() {
                    return;
                }
            }
            Ok(_) => {
                if !std::mem::replace(&mut said, true) {
                    let what = format!(
                        "somebody who is no process of worker {worker} sends to its NOTIFY_SOCKET: that is ignored"
                    );
                    let _ = facts.send(Fact::Trouble(what)).await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(_) => {}
        }
    }
}

/// Whether the sender is one of the worker's processes, or somebody who could do with it what he likes.
fn is_of(from: UCred, worker: u32) -> bool {
    let same_group = rustix::process::getpgid(Some(from.pid))
        .is_ok_and(|group| group.as_raw_nonzero().get().unsigned_abs() == worker);
    same_group || from.uid.is_root() || from.uid == rustix::process::geteuid()
}

/// A datagram and its sender. Descriptors that come with it are closed: who waits for that (the barrier of
/// `sd_notify_barrier(3)`) knows that all before was read.
fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Option<UCred>)> {
    let mut text = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let got = recvmsg(socket, &mut parts, &mut control, portable::RECEIVE)?.bytes;
    let mut from = None;
    // To the last of them: what is left is not dropped as it should be.
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmCredentials(sender) = message {
            from = Some(sender);
        }
    }
    text.truncate(got);
    Ok((text, from))
}
