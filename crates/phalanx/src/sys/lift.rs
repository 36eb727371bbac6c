//! Taking connections from a listening socket whose worker may have made it blocking.
//!
//! The flag `O_NONBLOCK` belongs to the socket, not to a descriptor: primary and worker share it. Changing it
//! would surprise the worker, and accept(2) has no flag of its own for it. So accept(2) is called on a
//! thread that a timer's signal gets out of it, should somebody else have been faster.

use super::portable::poll_now;
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::net::SocketAddrAny;
use std::io;
use std::sync::OnceLock;

/// How long an accept that finds nothing waits before it is interrupted.
const PATIENCE_NS: libc::c_long = 5_000_000;

/// Takes up to `most` of the connections that wait. Blocks for some milliseconds at most; not for the thread of
/// an event loop.
pub(crate) fn accept_waiting(
    listener: &OwnedFd,
    most: usize,
) -> io::Result<Vec<(OwnedFd, Option<SocketAddrAny>)>> {
    let mut taken = Vec::new();
    let mut alarm = None;
    while taken.len() < most {
        if poll_now(listener, PollFlags::IN)?.is_empty() {
            break;
        }
        if alarm.is_none() {
            alarm = Some(Alarm::start()?);
        }
        match super::portable::accept(listener) {
            Ok(connection) => taken.push(connection),
            // Somebody else took it, or the client gave up.
            Err(
                rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED,
            ) => {}
            Err(error) if taken.is_empty() => return Err(error.into()),
            Err(_) => break,
        }
    }
    Ok(taken)
}

/// Signals this thread every few milliseconds, as long as it lives.
struct Alarm(libc::timer_t);

impl Alarm {
    fn start() -> io::Result<Self> {
        let signal = signal_without_restart()?;
        // SAFETY: all zeroes is a valid value of these structures; the timer is deleted in `drop`, on
        // this thread, which is the one it signals; the pointers are to values that outlive the calls.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer: libc::timer_t = std::mem::zeroed();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) < 0 {
                return Err(io::Error::last_os_error());
            }
            let alarm = Self(timer);
            let every = libc::timespec { tv_sec: 0, tv_nsec: PATIENCE_NS };
            let times = libc::itimerspec { it_interval: every, it_value: every };
            if libc::timer_settime(timer, 0, &raw const times, std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(alarm)
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `start` and is deleted once. A signal that is on its way meets the
        // handler, which stays.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// A real-time signal whose handler does nothing, and after which a system call is not restarted.
fn signal_without_restart() -> io::Result<i32> {
    extern "C" fn nothing(_: i32) {}
    static SIGNAL: OnceLock<Option<i32>> = OnceLock::new();
    let installed = SIGNAL.get_or_init(|| {
        // SAFETY: all zeroes is a valid `sigaction`: no flags, an empty mask. The handler touches nothing.
        // The signal is taken only if nobody in this process has a handler for it.
        unsafe {
            let candidates = (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev();
            let mut handler: libc::sigaction = std::mem::zeroed();
            handler.sa_sigaction = nothing as *const () as libc::sighandler_t;
            for signal in candidates {
                let mut known: libc::sigaction = std::mem::zeroed();
                if libc::sigaction(signal, std::ptr::null(), &raw mut known) == 0
                    && known.sa_sigaction == libc::SIG_DFL
                    && libc::sigaction(signal, &raw const handler, std::ptr::null_mut()) == 0
                {
                    return Some(signal);
                }
            }
            None
        }
    });
    installed.ok_or_else(|| io::Error::other("every real-time signal has a handler"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn nothing_that_waits_is_no_reason_to_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address");
        let fd = OwnedFd::from(listener);
        assert!(accept_waiting(&fd, 9).expect("nothing").is_empty());
        let clients: Vec<_> =
            (0..3).map(|_| TcpStream::connect(address).expect("connected")).collect();
        assert_eq!(accept_waiting(&fd, 2).expect("some").len(), 2);
        assert_eq!(accept_waiting(&fd, 9).expect("the rest").len(), 1);
        drop(clients);
    }

    #[test]
    fn the_alarm_gets_a_thread_out_of_accept() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let _alarm = Alarm::start().expect("a timer");
        // Nobody ever connects.
        let error =
            crate::sys::portable::accept(&OwnedFd::from(listener)).expect_err("interrupted");
        assert_eq!(error, rustix::io::Errno::INTR);
    }
}
