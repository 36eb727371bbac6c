//! What was sent and not read is taken back.

use super::{Item, Sender, receive};
use phalanx_core::wire::Frame;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// What one read took from a channel: the descriptor belongs to the bytes' last frame.
struct Chunk {
    bytes: Vec<u8>,
    fd: Option<OwnedFd>,
}

impl Chunk {
    /// What is in front of the descriptor's frame, then that frame: sent again as one, the descriptor could be
    /// taken for a handle frame's in front of it.
    fn into_frames(mut self) -> impl Iterator<Item = Self> {
        let last_line = match (&self.fd, self.bytes.split_last()) {
            (Some(_), Some((_, rest))) => memchr::memrchr(b'\n', rest).map_or(0, |at| at + 1),
            _ => 0,
        };
        let last = Self { bytes: self.bytes.split_off(last_line), fd: self.fd.take() };
        [self, last].into_iter().filter(|chunk| !chunk.bytes.is_empty())
    }
}

/// Reads what the owner of this end of a channel did not read yet.
fn take_unread(end: &OwnedFd) -> io::Result<Vec<Chunk>> {
    // More than the kernel holds for a socket by default: no frame is read in part.
    let mut buffer = vec![0; 1 << 20];
    let mut unread = Vec::new();
    loop {
        let mut fds = VecDeque::new();
        match receive(end, &mut buffer, &mut fds) {
            Ok((0, _)) | Err(Errno::AGAIN) => return Ok(unread),
            Ok((n, _)) => {
                let bytes = buffer.get(..n).unwrap_or_default().to_vec();
                unread.push(Chunk { bytes, fd: fds.pop_front() });
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Sender {
    /// Takes back the hand-overs with these lines that the peer, which is held still, did not read, or that
    /// are not even sent; `end` is its end of the channel. Which of them there were. Everything else
    /// is sent again, in its order and before all that comes later: nobody sends meanwhile.
    pub(crate) fn recall(&self, end: &OwnedFd, lines: &[(u64, &[u8])]) -> io::Result<Vec<u64>> {
        let mut queue = self.shared.lock();
        let unread = take_unread(end)?;
        let mut found = Vec::new();
        queue.items.retain(|item| {
            let line = lines.iter().find(|(_, line)| *line == item.bytes.as_slice());
            let hand_over = line.filter(|_| item.fd.is_some() && item.sent == 0);
            found.extend(hand_over.map(|(seq, _)| *seq));
            hand_over.is_none()
        });
        let ping = Frame::ping().encode();
        let mut rest = Vec::new();
        for mut chunk in unread {
            let line =
                lines.iter().find(|(_, line)| chunk.fd.is_some() && chunk.bytes.ends_with(line));
            if let Some((seq, line)) = line {
                found.push(*seq);
                chunk.bytes.truncate(chunk.bytes.len() - line.len());
                chunk.fd = None;
            }
            rest.extend(chunk.into_frames());
        }
        for Chunk { bytes, fd } in rest.into_iter().rev() {
            // A ping that was not read is not with the peer any more.
            let ping = queue.pinging && memchr::memmem::find(&bytes, &ping).is_some();
            queue.pinging &= !ping;
            queue.unread += bytes.len();
            queue.items.push_front(Item { ping, ..Item::new(bytes, fd.map(Arc::new)) });
        }
        queue.forget(&found);
        self.shared.flush_or_wait(&mut queue);
        found.sort_unstable();
        Ok(found)
    }
}
