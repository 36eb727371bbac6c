//! A connection that is counted as long as it lives.

use super::Worker;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that a [`Listener`](super::Listener) accepted. It reads and writes as the tokio stream in it; while
/// it lives, its worker does not count as drained.
#[derive(Debug)]
pub struct Stream<S> {
    io: S,
    count: Count,
}

#[derive(Debug)]
struct Count(Worker);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.inner.open.fetch_sub(1, Ordering::Relaxed);
        self.0.inner.load_changed.notify_one();
        self.0.inner.closed.notify_waiters();
    }
}

impl<S> Stream<S> {
    pub(super) fn new(io: S, worker: Worker) -> Self {
        worker.inner.open.fetch_add(1, Ordering::Relaxed);
        worker.inner.accepted.fetch_add(1, Ordering::Relaxed);
        Self { io, count: Count(worker) }
    }

    /// The tokio stream.
    pub const fn get_ref(&self) -> &S {
        &self.io
    }

    /// The tokio stream, not counted any more: a worker that is told to leave does not wait for it.
    pub fn into_inner(self) -> S {
        drop(self.count);
        self.io
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
