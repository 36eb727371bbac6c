//! What a keeper and its primary tell each other: one datagram for each word, with at most one descriptor.

use phalanx_core::worker::Exit;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

use crate::sys::portable::SEND;

/// The longest word: a name, and a little around it.
const LONGEST: usize = 512;

/// A word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    /// The descriptor that comes with this is kept under this name. From the keeper: it was.
    Keep(String),
    /// The descriptor of this name is not kept any more.
    Drop(String),
    /// From the primary: it is about to become another program, which has not taken over yet.
    Changing,
    /// From the primary: it has taken over, and hears signals. From the keeper: that was all.
    Ready,
    /// From the keeper: a process that was no child of this primary has ended.
    Exited(u32, Exit),
}

/// The two ends of a post.
pub(crate) fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends a word; never waits.
pub(crate) fn send(post: &OwnedFd, word: &Word, fd: Option<&OwnedFd>) -> io::Result<()> {
    let text = serde_json::to_vec(word).map_err(io::Error::other)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_ref().map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match sendmsg(post, &[IoSlice::new(&text)], &mut control, SEND) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The next word and its descriptor; `None` when the other one is gone. Waits, or not, as the socket is.
pub(crate) fn receive(post: &OwnedFd) -> io::Result<Option<(Word, Option<OwnedFd>)>> {
    let mut text = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let got = loop {
        match recvmsg(post, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => break got.bytes,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => break 0,
            Err(error) => return Err(error.into()),
        }
    };
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut came) = message {
            fd = came.next();
        }
    }
    if got == 0 {
        return Ok(None);
    }
    let word = serde_json::from_slice(text.get(..got).unwrap_or_default());
    Ok(Some((word.map_err(io::Error::other)?, fd)))
}
