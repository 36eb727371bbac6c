//! What a keeper needs of the system, and a process that becomes another program.

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// A set of signals.
fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: all zeroes is a valid value, and the calls only write into it; a number that is no signal is
    // refused by sigaddset(3).
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// These signals are read from the descriptor from now on (`signalfd(2)`), instead of what they did. To be called
/// while this process has one thread.
pub(crate) fn signals(wanted: &[libc::c_int]) -> io::Result<OwnedFd> {
    let set = set_of(wanted);
    // SAFETY: the set is a valid one and outlives both calls; -1 asks for a new descriptor.
    unsafe {
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The next signal that came, if one did.
pub(crate) fn next_signal(fd: &OwnedFd) -> Option<i32> {
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let got = rustix::io::read(fd, &mut info).ok()?;
    let number = info.first_chunk::<4>().filter(|_| got == info.len())?;
    i32::try_from(u32::from_ne_bytes(*number)).ok()
}

/// Signals are held back since this process became this program.
static HELD_BACK: AtomicBool = AtomicBool::new(false);

/// This process was another program before: its signals are held back.
pub(crate) fn signals_are_held_back() {
    HELD_BACK.store(true, Ordering::Relaxed);
}

/// Lets signals come again if they were held back while the program changed.
pub(crate) fn let_signals_come() {
    if !HELD_BACK.swap(false, Ordering::Relaxed) {
        return;
    }
    let none = set_of(&[]);
    // SAFETY: the set is a valid one and outlives the call.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
}

/// This process becomes another program, with all that is in `kept` and with no signal delivered until that
/// program lets them come. Returns only if it cannot.
pub(crate) fn become_program(
    program: &std::path::Path,
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    kept: &[BorrowedFd<'_>],
) -> io::Error {
    let text = |text: OsString| CString::new(text.into_vec()).map_err(io::Error::from);
    let variable = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        text(name)
    };
    let texts = || -> io::Result<(CString, Vec<CString>, Vec<CString>)> {
        Ok((
            text(program.as_os_str().to_owned())?,
            args.into_iter().map(text).collect::<io::Result<_>>()?,
            env.into_iter().map(variable).collect::<io::Result<_>>()?,
        ))
    };
    let (program, args, env) = match texts() {
        Ok(texts) => texts,
        Err(error) => return error,
    };
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (args, env) = (pointers(&args), pointers(&env));
    let close_on_exec = |on: bool| {
        let flag = if on { libc::FD_CLOEXEC } else { 0 };
        for fd in kept {
            // SAFETY: it changes a flag of a descriptor that is borrowed, so open.
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flag) };
        }
    };
    // SAFETY: all zeroes is a valid set; sigfillset(3) writes into it.
    let all = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        all
    };
    let mut before = set_of(&[]);
    close_on_exec(false);
    // SAFETY: both sets are valid and outlive the calls. Both lists end with a null pointer, and all texts with a
    // zero; they live until the call returns, if it does.
    let error = unsafe {
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr());
        let error = io::Error::last_os_error();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        error
    };
    close_on_exec(true);
    error
}

/// Takes a descriptor that this process was started with, or kept when it became this program: close-on-exec from
/// now on. The caller takes each number at most once.
pub(crate) fn take_inherited(number: i32) -> io::Result<OwnedFd> {
    super::borrow(number)?;
    if number <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and it was left open by the program before for this purpose: the environment or the list
    // that came with it names it. Each is taken once, at the start, before anything else is opened.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// How a process ended that somebody else reaped, as its pidfd tells (`ioctl_pidfs(2)`, Linux 6.15): the status of wait(2).
pub(crate) fn status_of(pidfd: &OwnedFd) -> Option<i32> {
    /// `struct pidfd_info` (linux/pidfd.h), with room for what later kernels add.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        group: u64,
        ids: [u32; 11],
        status: i32,
        more: [u64; 8],
    }
    /// `PIDFD_INFO_EXIT`.
    const EXIT: u64 = 1 << 3;
    /// `PIDFD_GET_INFO`, for a structure of the first 64 bytes.
    #[allow(clippy::cast_lossless, reason = "its type differs between C libraries")]
    const REQUEST: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the kernel writes at most the 64 bytes that the request names, and there are more.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), REQUEST, &raw mut info) };
    (done == 0 && info.mask & EXIT != 0).then_some(info.status)
}
