//! The wall to the operating system: the only place with `unsafe`.
//!
//! Everything else uses rustix, whose descriptors have owners. What rustix does not wrap is here, each
//! call in a safe function of its own.
#![allow(unsafe_code)]

pub(crate) mod accounts;
#[cfg(target_os = "linux")]
pub(crate) mod keep;
pub(crate) mod launch;
#[cfg(target_os = "linux")]
pub(crate) mod lift;
#[cfg(target_os = "linux")]
pub(crate) mod options;
pub(crate) mod permit;
pub(crate) mod portable;
#[cfg(target_os = "linux")]
pub(crate) mod seccomp;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::io;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Sees to it that a descriptor number is in use, so that nothing is opened there by chance.
fn reserve(number: i32) -> io::Result<()> {
    // SAFETY: F_GETFD reads a flag of a descriptor number; a number that is not open is an error.
    let open = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    if open {
        return Ok(());
    }
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    if null.as_raw_fd() == number {
        std::mem::forget(null);
        return Ok(());
    }
    // SAFETY: the number was not open a moment ago; at worst another thread opened it since, and
    // then F_DUPFD_CLOEXEC takes the next free one, which is as good: nothing is overwritten.
    let taken = unsafe { libc::fcntl(null.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number) };
    if taken < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether a descriptor number is an open unix stream socket.
pub(crate) fn is_unix_stream(number: i32) -> bool {
    use rustix::net::{AddressFamily, SocketType, getsockname, sockopt};
    number > 2
        && borrow(number).is_ok_and(|fd| {
            sockopt::socket_type(fd) == Ok(SocketType::STREAM)
                && getsockname(fd).is_ok_and(|name| name.address_family() == AddressFamily::UNIX)
        })
}

/// Takes the channel, or the life line, that the process was started with. The caller takes each at most once.
pub(crate) fn take_inherited_channel(number: i32) -> io::Result<OwnedFd> {
    if !is_unix_stream(number) {
        return Err(io::Error::from_raw_os_error(libc::ENOTSOCK));
    }
    // SAFETY: the descriptor is open, it was inherited for this purpose (the environment names
    // it), and the one caller, `Worker::connect`, takes each once per process.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(portable::mark(fd)?)
}

/// Removes variables from the environment, if this process has one thread only.
pub(crate) fn remove_variables(names: &[&str]) {
    let threads = std::fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
    if threads == 1 {
        for name in names {
            // SAFETY: no other thread exists that could read or change the environment meanwhile.
            unsafe { std::env::remove_var(name) };
        }
    }
}

/// A descriptor of this process by its number, to look at and to duplicate (`listen({fd})`).
pub(crate) fn borrow(number: i32) -> io::Result<BorrowedFd<'static>> {
    // SAFETY: F_GETFD reads a flag of a descriptor number; a number that is not open is an error.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open. The caller looks for descriptors that the process was started with, which
    // nobody in it owns or closes; for any other number the next call on it may fail or tell of
    // another socket, which is an error for the caller and nothing worse.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Whether calls of bind(2) can be intercepted on this kind of machine.
pub(crate) const fn can_intercept() -> bool {
    cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))
}

/// Watches a descriptor for readiness on the current tokio runtime.
pub(crate) fn watch(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the `AsyncFd` holds the owner, so the number stays open and means the same socket as
    // long as it is registered; an `OwnedFd` never changes its number.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Gives a reuseport group its steering program (socket(7), `SO_ATTACH_REUSEPORT_CBPF`).
#[cfg(target_os = "linux")]
pub(crate) fn attach_steering(
    socket: impl AsFd,
    program: &[phalanx_core::steering::Insn],
) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> = program
        .iter()
        .map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k })
        .collect();
    attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, &mut filter)
}

/// Gives a socket a classic BPF program, for what the option says.
#[cfg(target_os = "linux")]
fn attach(
    socket: impl AsFd,
    option: libc::c_int,
    filter: &mut [libc::sock_filter],
) -> io::Result<()> {
    let len =
        u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of_val(&program)).unwrap_or(0);
    // SAFETY: `program` and the instructions it points to live until the call returns; the kernel
    // copies them and checks every instruction.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const program).cast(),
            size,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How many connections wait in a listening socket's accept queue (tcp(7), `TCP_INFO`).
#[cfg(target_os = "linux")]
pub(crate) fn accept_queue(socket: impl AsFd) -> io::Result<u32> {
    // SAFETY: an all-zero `tcp_info` is a valid value of a struct of integers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = libc::socklen_t::try_from(size_of_val(&info)).unwrap_or(0);
    // SAFETY: `info` is writable for `size` bytes, and the kernel writes at most that many.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    // For a listening socket the kernel puts the queue's length in this field.
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(info.tcpi_unacked) }
}

/// Without reuseport groups there are no slots to look at.
#[cfg(not(target_os = "linux"))]
pub(crate) fn accept_queue(_: impl AsFd) -> io::Result<u32> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
