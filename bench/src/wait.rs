//! Waiting for a state to hold, instead of sleeping and hoping that it does.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How long a poll waits before it looks again.
const INTERVAL: Duration = Duration::from_millis(3);

/// Polls `probe` until it returns a value.
///
/// The probe looks at a level (what is so now), not at an edge (what happened since), and is
/// called at least once, also with a timeout of zero, and once more when the time is over.
///
/// # Errors
///
/// When `timeout` passes first: a message that says `what` was waited for, and how long.
pub fn until<T>(
    timeout: Duration,
    what: &str,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T, String> {
    let begin = Instant::now();
    loop {
        let over = begin.elapsed() >= timeout;
        if let Some(value) = probe() {
            return Ok(value);
        }
        if over {
            return Err(missed(what, begin.elapsed()));
        }
        thread::sleep(INTERVAL.min(timeout.saturating_sub(begin.elapsed())));
    }
}

/// Polls the asynchronous `probe` until it returns a value: [`until`] for a tokio runtime with
/// time enabled. `until_async(t, "...", async || ...)`.
///
/// A probe that is still pending when the time is over is dropped.
///
/// # Errors
///
/// When `timeout` passes first: a message that says `what` was waited for, and how long.
pub async fn until_async<T>(
    timeout: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> Result<T, String> {
    let begin = Instant::now();
    let polling = async {
        loop {
            let over = begin.elapsed() >= timeout;
            if let Some(value) = probe().await {
                return Some(value);
            }
            if over {
                return None;
            }
            tokio::time::sleep(INTERVAL.min(timeout.saturating_sub(begin.elapsed()))).await;
        }
    };
    // One interval more than the timeout: the last look belongs to the loop.
    match tokio::time::timeout(timeout.saturating_add(INTERVAL * 2), polling).await {
        Ok(Some(value)) => Ok(value),
        _ => Err(missed(what, begin.elapsed())),
    }
}

fn missed(what: &str, waited: Duration) -> String {
    format!("waited {waited:.1?} in vain for: {what}")
}

/// A TCP port that nothing listens on at 127.0.0.1, for a test that must know its port.
///
/// The port is taken from below the range that the kernel hands out by itself, because a port of
/// that range may become the local port of any client connection before the test listens on it.
/// Two calls in one process return different ports. Falls back to a port that the kernel chooses,
/// and to 0 when there is none at all.
pub fn free_port() -> u16 {
    const LOWEST: u32 = 10_240;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let range = ephemeral_lowest().saturating_sub(LOWEST);
    if range >= 1_000 {
        // Each process begins somewhere else.
        let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        let first = (nanos / 1_000).wrapping_add(std::process::id().wrapping_mul(7_919));
        let _ = NEXT.compare_exchange(0, first.max(1), Ordering::Relaxed, Ordering::Relaxed);
        for _ in 0..1_000 {
            let candidate = LOWEST + NEXT.fetch_add(1, Ordering::Relaxed) % range;
            if let Ok(port) = u16::try_from(candidate)
                && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            {
                return port;
            }
        }
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_or(0, |address| address.port())
}

/// The lowest port that the kernel chooses by itself.
fn ephemeral_lowest() -> u32 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
        .min(65_535)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_returns_the_value_as_soon_as_it_is_there() {
        let mut looks = 0;
        let value = until(Duration::from_secs(10), "three looks", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(value, Ok(3));
    }

    #[test]
    fn until_says_what_it_missed() {
        let message = until(Duration::ZERO, "the impossible", || None::<()>).unwrap_err();
        assert!(message.contains("the impossible"), "{message}");
    }

    #[tokio::test]
    async fn until_async_returns_or_gives_up_even_on_a_probe_that_hangs() {
        let mut looks = 0;
        let value = until_async(Duration::from_secs(10), "three looks", async || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(value.await, Ok(3));
        let hangs = async || std::future::pending::<Option<()>>().await;
        let message = until_async(Duration::from_millis(5), "a hang", hangs).await.unwrap_err();
        assert!(message.contains("a hang"), "{message}");
    }

    #[test]
    fn free_ports_differ_and_can_be_listened_on() {
        let first = free_port();
        let second = free_port();
        assert_ne!(first, second);
        assert_ne!(first, 0);
        TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
    }
}
