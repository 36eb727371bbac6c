//! Serving HTTP so that no request is lost when a worker is told to leave.

use crate::error::Result;
use crate::worker::Worker;
use crate::worker::listen::{Listener, Socket};
use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use phalanx_core::wire::Note;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower_service::Service;

/// How long an idle keep-alive connection of a draining worker is kept for a client that is just
/// sending, as Node's `keepAliveTimeout`.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How often a draining worker looks whether its upgraded connections have become fewer.
const LOOK: Duration = Duration::from_millis(250);

/// Serves a tower service (an axum `Router`, for instance) over HTTP/1 and HTTP/2 until the worker is told
/// to leave, and then until every connection is done.
///
/// Draining cuts nobody: answers say `Connection: close`, HTTP/2 clients are sent GOAWAY, an idle connection is
/// kept for [`KEEP_ALIVE`] and answered if its client was just sending.
///
/// ```no_run
/// use axum::{Router, routing::get};
/// # async fn f(worker: phalanx::Worker) -> phalanx::Result<()> {
/// let app = Router::new().route("/", get(|| async { "hello" }));
/// phalanx::http::serve(worker.listen(":8000").await?, app).await
/// # }
/// ```
///
/// # Errors
/// None so far: a connection that fails is only that connection.
pub async fn serve<L, S, B>(mut listener: Listener<L>, service: S) -> Result<()>
where
    L: Socket + tokio::io::AsyncRead + tokio::io::AsyncWrite,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let draining = listener.worker().draining_watch();
    listener.accept_together();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            taken = listener.accept() => match taken {
                Some((stream, _)) => {
                    let io = TokioIo::new(stream);
                    let speaks = Speaking::one(listener.worker());
                    connections.spawn(connection(io, service.clone(), draining.clone(), speaks));
                }
                None => break,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    let worker = listener.worker();
    let closed = async {
        while connections.join_next().await.is_some() {}
        // Upgraded ones (WebSocket) live on in tasks of the application's.
        worker.connections_closed().await;
    };
    tokio::select! {
        () = closed => {}
        () = tell_upgraded(worker) => {}
    }
    Ok(())
}

/// Which of a worker's connections speak HTTP, and which do no more.
#[derive(Debug, Default)]
pub(crate) struct Speaking {
    /// So many do.
    http: AtomicU32,
    /// Some do no more.
    upgraded: AtomicBool,
}

impl Speaking {
    fn one(worker: &Worker) -> Speaks {
        worker.speaking().http.fetch_add(1, Ordering::Relaxed);
        Speaks(worker.clone())
    }
}

/// One connection that speaks HTTP.
struct Speaks(Worker);

impl Drop for Speaks {
    fn drop(&mut self) {
        self.0.speaking().http.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells the primary how many upgraded connections there are while the worker drains: it waits longer for their sake.
async fn tell_upgraded(worker: &Worker) {
    let mut told = 0;
    loop {
        let Speaking { http, upgraded } = worker.speaking();
        let count = if upgraded.load(Ordering::Relaxed) {
            worker.connections().saturating_sub(http.load(Ordering::Relaxed))
        } else {
            0
        };
        if std::mem::replace(&mut told, count) != count {
            worker.note(Note::Upgraded { count });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What is known of one connection.
#[derive(Default)]
struct Seen {
    /// Milliseconds after its start of the last request.
    last: AtomicU64,
    http2: AtomicBool,
}

async fn connection<I, S, B>(
    io: TokioIo<I>,
    service: S,
    mut draining: watch::Receiver<bool>,
    speaks: Speaks,
) where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let begun = Instant::now();
    let seen = Arc::new(Seen::default());
    let worker = speaks.0.clone();
    let watched =
        Watched { service, seen: Arc::clone(&seen), draining: draining.clone(), begun, worker };
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    let connection = builder.serve_connection_with_upgrades(io, watched);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        done = connection.as_mut() => return report(done),
        _ = async { draining.wait_for(|d| *d).await.map(|_| ()) } => {}
    }
    // What a client is just sending still finds somebody.
    let since = Instant::now();
    while !seen.http2.load(Ordering::Relaxed) {
        let last = begun + Duration::from_millis(seen.last.load(Ordering::Relaxed));
        let until = last.max(since) + KEEP_ALIVE;
        if until <= Instant::now() {
            break;
        }
        tokio::select! {
            done = connection.as_mut() => return report(done),
            () = tokio::time::sleep_until(until) => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    report(connection.await);
}

fn report(done: Result<(), Box<dyn StdError + Send + Sync>>) {
    if let Err(error) = done {
        tracing::debug!("a connection ended with an error: {error}");
    }
}

/// The user's service, watched: when the last request came, and what answers have to say while draining.
struct Watched<S> {
    service: S,
    seen: Arc<Seen>,
    draining: watch::Receiver<bool>,
    begun: Instant,
    worker: Worker,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Watched<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.seen.last.store(now, Ordering::Relaxed);
        let version = request.version();
        let http1 = version <= Version::HTTP_11;
        self.seen.http2.store(!http1, Ordering::Relaxed);
        let draining = self.draining.clone();
        let mut service = self.service.clone();
        let worker = self.worker.clone();
        Box::pin(async move {
            std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
            let mut response = service.call(request).await?;
            let upgraded = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
            if upgraded {
                worker.speaking().upgraded.store(true, Ordering::Relaxed);
            }
            if http1 && !upgraded && *draining.borrow() {
                // To an answer of version 1.1 to a request of version 1.0, hyper adds `keep-alive`.
                *response.version_mut() = version;
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}
