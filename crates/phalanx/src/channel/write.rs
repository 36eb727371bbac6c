//! The task that writes what could not be written at once.

use super::Shared;
use crate::sys;
use rustix::fd::OwnedFd;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long to wait when the kernel has too many descriptors in flight (`ETOOMANYREFS`).
const REFS_PAUSE: Duration = Duration::from_millis(5);

/// Writes what waits: for the kernel, or for something that it can go with.
pub(super) async fn write_on(shared: Arc<Shared>) {
    loop {
        shared.more.notified().await;
        let left = shared.lock().left;
        if left.is_some() {
            // What it can go with comes in this turn of the runtime. If it did, what is left now is of another.
            tokio::task::yield_now().await;
            if shared.lock().left != left {
                continue;
            }
        }
        let mut room = None;
        loop {
            let refs = {
                let mut queue = shared.lock();
                if queue.closed {
                    return;
                }
                match shared.flush(&mut queue) {
                    Ok(true) => break,
                    Ok(false) => queue.items.front().is_some_and(|item| item.fd.is_some()),
                    Err(_) => return shared.shut(&mut queue),
                }
            };
            if room.is_none() {
                room = watch_room(shared.io.get_ref()).ok();
            }
            let Some(room) = &room else {
                // There is no descriptor to wait with.
                tokio::time::sleep(REFS_PAUSE).await;
                continue;
            };
            match room.writable().await {
                // Writable and yet not: too many descriptors are in flight.
                Ok(guard) if refs => {
                    drop(guard);
                    tokio::time::sleep(REFS_PAUSE).await;
                }
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return shared.close(),
            }
        }
    }
}

/// Hears when the kernel has room, for as long as somebody waits for it: by a duplicate, as a descriptor is watched once.
fn watch_room(socket: &OwnedFd) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    let duplicate = rustix::io::fcntl_dupfd_cloexec(socket, 0)?;
    sys::watch(Arc::new(duplicate), Interest::WRITABLE)
}
