//! Tests of the load generator against small servers that misbehave in known ways.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::wait;

mod open;

const OK: &str = "HTTP/1.1 200 OK\r\nX-Worker: 1\r\nContent-Length: 2\r\n\r\nok";
const LAST: &str =
    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 11\r\n\r\n{\"pid\": 17}";

/// Serves each connection by `serve`, which gets its number from 1 on.
async fn server<F: Future<Output = ()> + Send>(
    serve: impl Fn(u64, TcpStream) -> F + Send + Clone + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            number += 1;
            let serve = serve.clone();
            tokio::spawn(async move { serve(number, stream).await });
        }
    });
    address
}

/// Reads one request; false at the end of the connection.
async fn request(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    assert!(bytes.starts_with(b"GET /some?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"));
    true
}

async fn say(stream: &mut TcpStream, text: &str) {
    let _ = stream.write_all(text.as_bytes()).await;
}

/// Makes the close of the stream a reset.
fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}

fn load(address: SocketAddr) -> Load {
    Load::new(address).path("/some?x=1")
}

fn counted<K: Ord>(counts: impl IntoIterator<Item = (K, u64)>) -> BTreeMap<K, u64> {
    counts.into_iter().collect()
}

#[tokio::test]
async fn one_connection_for_each_request() {
    let address = server(|_, mut stream| async move {
        assert!(request(&mut stream).await);
        say(&mut stream, LAST).await;
    })
    .await;
    let load = load(address).clients(4).requests(200).sources(8);
    let progress = load.progress();
    let outcome = load.run().await;
    assert_eq!((outcome.answered, outcome.failed), (200, 0), "{outcome}");
    assert_eq!((outcome.connections, outcome.stale_reconnects), (200, 0), "{outcome}");
    assert_eq!(outcome.announced_closes, 0);
    assert_eq!(outcome.by_worker, counted([("17".to_owned(), 200)]));
    assert_eq!(outcome.latency.count(), 200);
    // The time of a request that opens a connection has that of the connection in it.
    assert!(outcome.slowest_new_connection <= outcome.latency.max());
    assert!(outcome.slowest_new_connection > Duration::ZERO);
    assert!(outcome.slowest_new_connection <= outcome.elapsed);
    assert_eq!((progress.answered(), progress.failed()), (200, 0));
}

#[tokio::test]
async fn connections_are_kept_until_the_client_or_the_server_has_enough() {
    let address = server(|_, mut stream| async move {
        for _ in 0..9 {
            if !request(&mut stream).await {
                return;
            }
            say(&mut stream, OK).await;
        }
        if request(&mut stream).await {
            say(&mut stream, LAST).await;
        }
    })
    .await;
    let kept = load(address).clients(1).requests(100).keep_alive(true);
    let outcome = kept.run().await;
    assert_eq!((outcome.answered, outcome.failed, outcome.connections), (100, 0, 10), "{outcome}");
    assert_eq!((outcome.announced_closes, outcome.stale_reconnects), (10, 0), "{outcome}");
    assert_eq!(outcome.by_worker, counted([("1".to_owned(), 90), ("17".to_owned(), 10)]));
    let short = load(address).clients(1).requests(100).keep_alive(true);
    let outcome = short.requests_per_connection(Some(5)).run().await;
    assert_eq!((outcome.answered, outcome.failed, outcome.connections), (100, 0, 20), "{outcome}");
    assert_eq!(outcome.announced_closes, 0);
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_is_no_error() {
    // Server and client share a thread: between the write of the answer and the close, the client
    // does not run.
    let address = server(|_, mut stream| async move {
        assert!(request(&mut stream).await);
        say(&mut stream, OK).await;
    })
    .await;
    let outcome = load(address).clients(1).requests(10).keep_alive(true).run().await;
    assert_eq!((outcome.answered, outcome.failed), (10, 0), "{outcome}");
    assert_eq!((outcome.connections, outcome.stale_reconnects), (10, 9), "{outcome}");
}

#[tokio::test]
async fn some_connections_are_reset_after_the_request() {
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&peers);
    let address = server(move |number, mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            assert!(request(&mut stream).await);
            if number % 5 == 0 {
                seen.lock().unwrap().push(stream.peer_addr().unwrap());
                return reset(&stream);
            }
            say(&mut stream, LAST).await;
        }
    })
    .await;
    let outcome = load(address).clients(3).requests(100).run().await;
    assert_eq!((outcome.answered, outcome.failed, outcome.connections), (80, 20, 100), "{outcome}");
    assert_eq!(outcome.by_phase, counted([(Phase::ReadNothing, 20)]));
    let mut local: Vec<_> = outcome.errors.iter().filter_map(|failure| failure.local).collect();
    let mut reset = peers.lock().unwrap().clone();
    local.sort_unstable();
    reset.sort_unstable();
    assert_eq!(local, reset);
    for failure in &outcome.errors {
        assert_eq!(failure.kind, io::ErrorKind::ConnectionReset, "{failure}");
        assert_eq!(failure.request_on_connection, 1);
        assert!(failure.began <= failure.at && failure.at <= outcome.elapsed);
    }
}

#[tokio::test]
async fn a_reset_right_after_accepting_is_seen_by_every_client_as_a_broken_connection() {
    let address = server(|_, stream| async move { reset(&stream) }).await;
    let outcome = load(address).clients(3).requests(60).run().await;
    assert_eq!((outcome.answered, outcome.failed, outcome.connections), (0, 60, 60), "{outcome}");
    // Whether the reset comes before or after the request is written is a race.
    let broken = outcome.failures(Phase::Write) + outcome.failures(Phase::ReadNothing);
    assert_eq!(broken, 60, "{outcome}");
    assert!(outcome.errors.iter().all(|failure| failure.local.is_some()), "{outcome}");
}

#[tokio::test]
async fn a_connection_closed_after_the_request_is_an_error_also_when_it_was_kept() {
    let address = server(|_, mut stream| async move {
        for _ in 0..3 {
            assert!(request(&mut stream).await);
            say(&mut stream, OK).await;
        }
        // Nothing for the fourth.
        request(&mut stream).await;
    })
    .await;
    let outcome = load(address).clients(1).requests(40).keep_alive(true).run().await;
    assert_eq!((outcome.answered, outcome.failed, outcome.connections), (30, 10, 10), "{outcome}");
    assert_eq!(outcome.by_phase, counted([(Phase::ReadNothing, 10)]));
    assert_eq!(outcome.stale_reconnects, 0);
    for failure in &outcome.errors {
        assert_eq!(failure.kind, io::ErrorKind::UnexpectedEof, "{failure}");
        assert_eq!(failure.request_on_connection, 4);
    }
}

#[tokio::test]
async fn half_a_body_and_bad_responses_are_told_apart() {
    let address = server(|number, mut stream| async move {
        assert!(request(&mut stream).await);
        match number % 4 {
            0 => say(&mut stream, &LAST[..LAST.len() - 5]).await,
            1 => say(&mut stream, "ICY 200 OK\r\n\r\n").await,
            2 => say(&mut stream, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await,
            _ => say(&mut stream, LAST).await,
        }
    })
    .await;
    let outcome = load(address).clients(2).requests(40).run().await;
    assert_eq!((outcome.answered, outcome.failed), (10, 30), "{outcome}");
    let expected = [(Phase::ReadPartial, 10), (Phase::BadResponse, 20)];
    assert_eq!(outcome.by_phase, counted(expected), "{outcome}");
    assert_eq!(outcome.by_status, counted([(200, 10), (503, 10)]));
}

#[tokio::test]
async fn a_connection_survives_a_server_error() {
    let address = server(|_, mut stream| async move {
        while request(&mut stream).await {
            say(&mut stream, "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let outcome = load(address).clients(1).requests(10).keep_alive(true).run().await;
    assert_eq!((outcome.answered, outcome.failed, outcome.connections), (0, 10, 1), "{outcome}");
    assert_eq!(outcome.failures(Phase::BadResponse), 10);
}

#[tokio::test]
async fn bytes_on_an_idle_connection_are_an_error() {
    let address = server(|_, mut stream| async move {
        assert!(request(&mut stream).await);
        say(&mut stream, &format!("{OK}surplus")).await;
        request(&mut stream).await;
    })
    .await;
    let outcome = load(address).clients(1).requests(4).keep_alive(true).run().await;
    assert_eq!(outcome.by_phase, counted([(Phase::BadResponse, 4)]), "{outcome}");
}

#[tokio::test]
async fn a_silent_server_makes_timeouts_and_a_missing_one_refusals() {
    let address = server(|number, mut stream| async move {
        assert!(request(&mut stream).await);
        if number == 1 {
            say(&mut stream, "HTTP/1.1 200 OK\r\n").await;
        }
        request(&mut stream).await;
    })
    .await;
    let quick = load(address).clients(1).requests(3).timeout(Duration::from_millis(50));
    let outcome = quick.run().await;
    assert_eq!(outcome.by_phase, counted([(Phase::Timeout, 3)]), "{outcome}");
    assert!(outcome.errors.iter().all(|failure| failure.kind == io::ErrorKind::TimedOut));
    assert!(outcome.errors[0].error.ends_with("which had begun"), "{outcome}");
    assert!(outcome.errors[1].error.ends_with("was waiting for the response"), "{outcome}");
    assert!(outcome.elapsed >= Duration::from_millis(150));

    let nobody = SocketAddr::from(([127, 0, 0, 1], wait::free_port()));
    let outcome = load(nobody).clients(2).requests(30).run().await;
    assert_eq!(outcome.by_phase, counted([(Phase::Connect, 30)]), "{outcome}");
    assert_eq!(outcome.connections, 0);
    let refused = io::ErrorKind::ConnectionRefused;
    assert!(outcome.errors.iter().all(|failure| failure.kind == refused), "{outcome}");
}

#[tokio::test]
async fn a_run_ends_by_time_or_when_told_also_within_a_long_pause() {
    let address = server(|_, mut stream| async move {
        while request(&mut stream).await {
            say(&mut stream, OK).await;
        }
    })
    .await;
    let hour = Duration::from_secs(3_600);
    let brief = load(address).clients(2).duration(Duration::from_millis(50)).keep_alive(true);
    let outcome = brief.run().await;
    assert!(outcome.answered > 0 && outcome.failed == 0, "{outcome}");
    assert!(outcome.elapsed < Duration::from_secs(30), "{outcome}");
    let brief = load(address).clients(2).duration(Duration::from_millis(50)).think(hour);
    let outcome = brief.run().await;
    assert_eq!((outcome.answered, outcome.failed), (2, 0), "{outcome}");

    let (sender, receiver) = watch::channel(false);
    let told = load(address).clients(2).duration(hour).think(hour).stop(receiver);
    let progress = told.progress();
    let run = tokio::spawn(told.run());
    let limit = Duration::from_secs(20);
    wait::until_async(limit, "both", async || (progress.answered() == 2).then_some(()))
        .await
        .unwrap();
    sender.send(true).unwrap();
    assert_eq!(run.await.unwrap().answered, 2);
}

#[test]
fn a_load_in_a_thread_of_its_own_runs_until_it_is_stopped() {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let address = server(|_, mut stream| async move {
                while request(&mut stream).await {
                    say(&mut stream, OK).await;
                }
            });
            sender.send(address.await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let address = receiver.recv().unwrap();
    let running = load(address).clients(2).keep_alive(true).start().unwrap();
    let progress = running.progress().clone();
    let on = || (progress.answered() > 100).then_some(());
    wait::until(Duration::from_secs(20), "the load to be on", on).unwrap();
    let outcome = running.stop();
    assert_eq!((outcome.failed, outcome.connections), (0, 2), "{outcome}");
    assert_eq!(outcome.answered, progress.answered());
    let outcome = load(address).requests(5).start().unwrap().join();
    assert_eq!(outcome.answered, 5);
}

#[test]
#[should_panic(expected = "not a loopback address")]
fn other_machines_are_refused() {
    let _ = Load::new(SocketAddr::from(([192, 0, 2, 1], 80)));
}
