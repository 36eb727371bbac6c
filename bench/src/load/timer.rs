//! Sleeping to a moment, finer than the runtime's own timers, which tick in milliseconds.

#[cfg(target_os = "linux")]
mod imp {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::{Duration, Instant};

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// A timer of the kernel with its resolution of nanoseconds, and without the slack of 50 µs
    /// that waiting system calls have.
    pub(in super::super) struct Timer(Option<AsyncFd<OwnedFd>>);

    impl Timer {
        /// Where there is no descriptor left for it, the runtime's timers take its place.
        pub(in super::super) fn new() -> Self {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let fd = timerfd_create(TimerfdClockId::Monotonic, flags).ok();
            Self(fd.and_then(|fd| register(fd).ok()))
        }

        /// Returns at that moment or after it, never before.
        pub(in super::super) async fn until(&self, at: Instant) {
            loop {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return;
                }
                if !matches!(&self.0, Some(fd) if sleep(fd, left).await.is_ok()) {
                    tokio::time::sleep_until(at.into()).await;
                }
            }
        }
    }

    #[expect(deprecated, reason = "its successor is unsafe for what an `OwnedFd` does promise")]
    fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
        AsyncFd::with_interest(fd, Interest::READABLE)
    }

    async fn sleep(fd: &AsyncFd<OwnedFd>, time: Duration) -> io::Result<()> {
        timerfd_settime(fd.get_ref(), TimerfdTimerFlags::empty(), &once(time))?;
        // Arming it again takes the last expiry away, so it need not be read.
        fd.readable().await?.clear_ready();
        Ok(())
    }

    fn once(after: Duration) -> Itimerspec {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let seconds = i64::try_from(after.as_secs()).unwrap_or(i64::MAX);
        let value = Timespec { tv_sec: seconds, tv_nsec: after.subsec_nanos().into() };
        Itimerspec { it_interval: zero, it_value: value }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::time::Instant;

    /// The runtime's own timers: a request may begin a millisecond late, which is accounted for.
    pub(in super::super) struct Timer;

    impl Timer {
        pub(in super::super) fn new() -> Self {
            Self
        }

        pub(in super::super) async fn until(&self, at: Instant) {
            tokio::time::sleep_until(at.into()).await;
        }
    }
}

pub(super) use imp::Timer;
