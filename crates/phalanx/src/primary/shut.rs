//! Listening sockets that programs shut down.
//!
//! shutdown(2) on a listening socket is for all who have it, and takes it out of the kernel's reuseport group: the last
//! socket of the group moves into its place. So it has to be known in which order that happens. An epoll instance of
//! its own tells: the end of a socket is reported whatever else is asked for, in the order of the ends.

use rustix::fd::OwnedFd;
use std::io;

/// Watches sockets for their end.
#[cfg(target_os = "linux")]
pub(crate) struct ShutWatch {
    epoll: tokio::io::unix::AsyncFd<std::sync::Arc<OwnedFd>>,
    last: u64,
}

#[cfg(target_os = "linux")]
impl ShutWatch {
    pub(crate) fn new() -> io::Result<Self> {
        use rustix::event::epoll::{CreateFlags, create};
        let epoll = std::sync::Arc::new(create(CreateFlags::CLOEXEC)?);
        Ok(Self { epoll: crate::sys::watch(epoll, tokio::io::Interest::READABLE)?, last: 0 })
    }

    /// Watches one more; what it is called from now on. It is forgotten when nobody has it any more.
    pub(crate) fn add(&mut self, socket: &OwnedFd) -> io::Result<u64> {
        use rustix::event::epoll::{EventData, EventFlags, add};
        self.last += 1;
        add(self.epoll.get_ref(), socket, EventData::new_u64(self.last), EventFlags::ET)?;
        Ok(self.last)
    }

    /// The next that were shut down, in that order.
    pub(crate) async fn next(&self) -> Vec<u64> {
        loop {
            let Ok(mut guard) = self.epoll.readable().await else {
                return std::future::pending().await;
            };
            let names = self.now();
            if !names.is_empty() {
                return names;
            }
            guard.clear_ready();
        }
    }

    /// Those that were shut down up to now, in that order.
    pub(crate) fn now(&self) -> Vec<u64> {
        use rustix::event::{Timespec, epoll};
        let mut names = Vec::new();
        loop {
            let mut events = Vec::with_capacity(64);
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(self.epoll.get_ref(), spare, Some(&now)) {
                Ok(1..) => names.extend(events.iter().map(|e: &epoll::Event| e.data.u64())),
                _ => return names,
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) struct ShutWatch;

#[cfg(not(target_os = "linux"))]
impl ShutWatch {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) fn add(&mut self, _: &OwnedFd) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) async fn next(&self) -> Vec<u64> {
        std::future::pending().await
    }

    pub(crate) fn now(&self) -> Vec<u64> {
        Vec::new()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::net::{Shutdown, shutdown};
    use std::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn ends_come_in_their_order() {
        let mut watch = ShutWatch::new().expect("an epoll instance");
        let sockets: Vec<OwnedFd> =
            (0..4).map(|_| TcpListener::bind("127.0.0.1:0").expect("bound").into()).collect();
        let names: Vec<u64> =
            sockets.iter().map(|socket| watch.add(socket).expect("watched")).collect();
        let listener = TcpListener::from(sockets[0].try_clone().expect("a duplicate"));
        let address = listener.local_addr().expect("an address");
        let _client = TcpStream::connect(address).expect("a connection is no end");
        for at in [2, 0, 3] {
            shutdown(&sockets[at], Shutdown::Both).expect("shut");
        }
        assert_eq!(watch.next().await, [names[2], names[0], names[3]]);
    }
}
