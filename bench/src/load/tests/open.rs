//! Tests of the open loop. All bounds are such that a slow machine cannot break them: what is
//! scheduled is exact, and a latency is only ever said to be at least so long.

use std::sync::atomic::AtomicU64;

use super::*;

const STALL: Duration = Duration::from_millis(400);

/// Answers at once, but for all that comes in the `STALL` after the first 200 ms, which is answered
/// at the end of it.
async fn stalling() -> SocketAddr {
    let begun = Arc::new(Mutex::new(None));
    server(move |_, mut stream| {
        let begun = Arc::clone(&begun);
        async move {
            let begun = *begun.lock().unwrap().get_or_insert_with(Instant::now);
            assert!(request(&mut stream).await);
            let since = begun.elapsed();
            let stall = Duration::from_millis(200);
            if since >= stall && since < stall + STALL {
                tokio::time::sleep_until((begun + stall + STALL).into()).await;
            }
            say(&mut stream, LAST).await;
        }
    })
    .await
}

/// Answers each request that late.
async fn late(by: Duration) -> SocketAddr {
    server(move |_, mut stream| async move {
        while request(&mut stream).await {
            tokio::time::sleep(by).await;
            say(&mut stream, OK).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_stall_is_felt_by_every_request_that_falls_into_it() {
    let open = load(stalling().await).open_loop(Arrivals::constant(500.0)).clients(400);
    let outcome = open.duration(Duration::from_millis(800)).run().await;
    // What was scheduled was asked, whatever the server did.
    assert_eq!((outcome.answered, outcome.failed), (400, 0), "{outcome}");
    // Half of the requests came in the stall. Their latencies are spread evenly from all of it down
    // to nothing: so an eighth of all waited for at least three quarters of it, and so on.
    let latency = &outcome.latency;
    assert!(latency.quantile(880) >= STALL * 3 / 4, "{outcome}");
    assert!(latency.quantile(755) >= STALL / 2, "{outcome}");
    assert!(latency.quantile(630) >= STALL / 4, "{outcome}");
    assert!(latency.max() >= STALL * 15 / 16, "{outcome}");
}

#[tokio::test]
async fn a_closed_loop_omits_what_an_open_one_sees() {
    let closed = load(stalling().await).clients(1).think(Duration::from_millis(2));
    let closed = closed.duration(Duration::from_millis(800)).run().await;
    let open = load(stalling().await).open_loop(Arrivals::poisson(500.0, 3)).clients(400);
    let open = open.duration(Duration::from_millis(800)).run().await;
    assert_eq!((closed.failed, open.failed), (0, 0), "{closed}\n{open}");
    // One that waited was one that did not ask meanwhile.
    assert!(open.answered > closed.answered, "{closed}\n{open}");
}

#[tokio::test]
async fn a_server_that_is_never_late_shows_less_than_one_that_is_late_by_much() {
    let mut medians = Vec::new();
    for by in [Duration::ZERO, STALL] {
        let open = load(late(by).await).open_loop(Arrivals::constant(1_000.0)).clients(300);
        let outcome = open.requests(300).run().await;
        assert_eq!((outcome.answered, outcome.connections), (300, 300), "{outcome}");
        assert!(outcome.latency.quantile(0) >= by, "{outcome}");
        medians.push(outcome.latency.p50());
    }
    assert!(medians[0] < medians[1], "{medians:?}");
}

#[tokio::test]
async fn the_rate_is_kept_and_ends_by_count_or_by_time() {
    let address = late(Duration::ZERO).await;
    let open = |rate| load(address).open_loop(Arrivals::constant(rate)).clients(300);
    let counted = open(1_000.0).requests(200);
    let progress = counted.progress();
    let outcome = counted.run().await;
    assert_eq!((outcome.answered, outcome.failed), (200, 0), "{outcome}");
    // The last one is due after 199 steps; not one begins before it is due.
    assert!(outcome.elapsed >= Duration::from_millis(199), "{outcome}");
    assert_eq!((outcome.lateness.count(), progress.answered()), (200, 200));
    let outcome = open(500.0).duration(Duration::from_millis(200)).run().await;
    assert_eq!((outcome.answered, outcome.failed), (100, 0), "{outcome}");
}

#[tokio::test]
async fn waiting_for_a_kept_connection_counts() {
    let by = Duration::from_millis(5);
    let open = load(late(by).await).open_loop(Arrivals::constant(2_000.0)).clients(4);
    let outcome = open.keep_alive(true).requests(200).run().await;
    assert_eq!((outcome.answered, outcome.failed), (200, 0), "{outcome}");
    assert_eq!(outcome.connections, 4, "{outcome}");
    // Four connections need 250 ms for all; the last request was due after less than 100.
    assert!(outcome.latency.max() >= Duration::from_millis(150), "{outcome}");
    assert!(outcome.elapsed >= Duration::from_millis(250), "{outcome}");
}

#[tokio::test]
async fn requests_begin_while_none_is_answered_and_those_without_a_client_are_failures() {
    let accepted = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&accepted);
    let address = server(move |_, mut stream| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            assert!(request(&mut stream).await);
            // Until the client has enough.
            request(&mut stream).await;
        }
    })
    .await;
    let timeout = Duration::from_millis(300);
    let open = |clients| {
        let all = load(address).open_loop(Arrivals::constant(1e6)).clients(clients);
        all.requests(50).timeout(timeout)
    };
    let outcome = open(50).run().await;
    assert_eq!(outcome.by_phase, counted([(Phase::Timeout, 50)]), "{outcome}");
    assert_eq!((outcome.connections, outcome.never_begun), (50, 0), "{outcome}");
    wait::until_async(Duration::from_secs(20), "all", async || {
        (accepted.load(Ordering::Relaxed) == 50).then_some(())
    })
    .await
    .unwrap();

    let outcome = open(2).run().await;
    assert_eq!(outcome.by_phase, counted([(Phase::Timeout, 50)]), "{outcome}");
    assert!(outcome.never_begun > 0 && outcome.connections < 50, "{outcome}");
    let said = |failure: &Failure| failure.error.starts_with("could not begin within");
    assert!(outcome.errors.iter().any(said), "{outcome}");
    assert!(outcome.errors.iter().all(|failure| failure.at >= timeout), "{outcome}");
}

#[tokio::test]
async fn an_open_loop_ends_when_told() {
    let address = late(Duration::ZERO).await;
    let (sender, receiver) = watch::channel(false);
    let told = load(address).open_loop(Arrivals::poisson(500.0, 1)).clients(20).stop(receiver);
    let told = told.duration(Duration::from_secs(3_600));
    let progress = told.progress();
    let run = tokio::spawn(told.run());
    let limit = Duration::from_secs(20);
    wait::until_async(limit, "answers", async || (progress.answered() > 50).then_some(()))
        .await
        .unwrap();
    sender.send(true).unwrap();
    let outcome = run.await.unwrap();
    assert_eq!((outcome.failed, outcome.lateness.count()), (0, outcome.answered), "{outcome}");
}
