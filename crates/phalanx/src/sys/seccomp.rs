//! seccomp(2) with user notification: system calls of a process that another one answers.
//!
//! The structures and numbers are those of linux/seccomp.h (`seccomp_unotify(2)`).

use libc::{seccomp_notif, seccomp_notif_addfd, seccomp_notif_resp, sock_filter, sock_fprog};
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use std::io;
use std::sync::Arc;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_003e); // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_00b7); // AUDIT_ARCH_AARCH64
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: low(code), jt: 0, jf: 0, k }
}

/// Goes on with the next instruction if the value is `k`, else skips so many.
const fn unless_equal_skip(k: u32, skip: u8) -> sock_filter {
    let code = low(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    sock_filter { code, jt: 0, jf: skip, k }
}

#[expect(clippy::cast_possible_truncation, reason = "all codes are small")]
const fn low(code: u32) -> u16 {
    code as u16
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they are small")]
const fn number(call: libc::c_long) -> u32 {
    call as u32
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

const FILTER_LENGTH: u16 = 8;
/// bind(2) and listen(2) are for the primary, everything else is let pass. The kernel knows from the
/// architecture and the number alone what passes, and keeps a bitmap of it.
const FILTER: [sock_filter; FILTER_LENGTH as usize] = [
    statement(LOAD, 4), // seccomp_data.arch
    unless_equal_skip(
        match ARCHITECTURE {
            Some(architecture) => architecture,
            None => 0,
        },
        5,
    ),
    statement(LOAD, 0), // seccomp_data.nr
    unless_equal_skip(number(libc::SYS_bind), 1),
    statement(RETURN, libc::SECCOMP_RET_USER_NOTIF),
    unless_equal_skip(number(libc::SYS_listen), 1),
    statement(RETURN, libc::SECCOMP_RET_USER_NOTIF),
    statement(RETURN, libc::SECCOMP_RET_ALLOW),
];

fn seccomp(operation: u32, flags: u64, argument: *const libc::c_void) -> io::Result<RawFd> {
    // SAFETY: the callers pass what the operation reads: a filter, an action, or nothing.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, argument) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(done).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// The listener of a filter, and whether the answer to a call may be interrupted by signals.
pub(super) type Installed = (RawFd, bool);

/// Puts the calling thread, and what it becomes and forks, under the filter. Only makes system calls: for a
/// child between fork and exec.
pub(super) fn install() -> io::Result<Installed> {
    let program = sock_fprog { len: FILTER_LENGTH, filter: FILTER.as_ptr().cast_mut() };
    let filter = |more: u64| {
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | more;
        seccomp(libc::SECCOMP_SET_MODE_FILTER, flags, (&raw const program).cast())
    };
    let either = || match filter(libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        // Before Linux 5.19.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => filter(0).map(|fd| (fd, true)),
        other => other.map(|fd| (fd, false)),
    };
    match either() {
        // Only who has no more rights by an exec may filter without being privileged.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            // SAFETY: it takes four numbers and changes a flag of this thread.
            if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
            either()
        }
        other => other,
    }
}

/// A system call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) id: u64,
    /// The thread that waits.
    pub(crate) thread: u32,
    pub(crate) call: Call,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// bind(2): the descriptor, where the address is in that process, and its length.
    Bind(i32, u64, u32),
    /// listen(2): the descriptor and the backlog.
    Listen(i32, i32),
}

impl Notice {
    /// As it is written down.
    pub(crate) fn to_bytes(self) -> [u8; 32] {
        let (kind, number, place, last) = match self.call {
            Call::Bind(number, place, length) => (0, number, place, length),
            Call::Listen(number, backlog) => (1, number, 0, backlog.cast_unsigned()),
        };
        let mut bytes = [0; 32];
        let words = [self.thread, kind, number.cast_unsigned(), last];
        let words = words.into_iter().flat_map(u32::to_ne_bytes);
        let all = self.id.to_ne_bytes().into_iter().chain(place.to_ne_bytes()).chain(words);
        for (to, from) in bytes.iter_mut().zip(all) {
            *to = from;
        }
        bytes
    }

    /// As it was written down.
    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (place, rest) = rest.split_first_chunk()?;
        let place = u64::from_ne_bytes(*place);
        let mut words =
            rest.chunks_exact(4).filter_map(|word| Some(u32::from_ne_bytes(*word.first_chunk()?)));
        let (thread, kind) = (words.next()?, words.next()?);
        let (number, last) = (words.next()?.cast_signed(), words.next()?);
        let call = match kind {
            0 => Call::Bind(number, place, last),
            1 => Call::Listen(number, last.cast_signed()),
            _ => return None,
        };
        Some(Self { id: u64::from_ne_bytes(*id), thread, call })
    }
}

/// The next call that waits. An error [`Errno::NOENT`]: it does not wait any more.
pub(crate) fn receive(listener: &OwnedFd) -> io::Result<Notice> {
    /// Room for what later kernels add.
    #[repr(C)]
    struct Room(seccomp_notif, [u64; 32]);
    // SAFETY: all zeroes is a valid value of structures of integers.
    let mut room: Room = unsafe { std::mem::zeroed() };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, (&raw mut room).cast())?;
    let Room(seccomp_notif { id, pid, data, .. }, _) = room;
    let call = if i64::from(data.nr) == libc::SYS_bind {
        Call::Bind(int(data.args[0]), data.args[1], word(data.args[2]))
    } else {
        Call::Listen(int(data.args[0]), int(data.args[1]))
    };
    Ok(Notice { id, thread: pid, call })
}

/// As the kernel has it: of a register, an `int` is the lower half.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
const fn word(register: u64) -> u32 {
    register as u32
}

const fn int(register: u64) -> i32 {
    word(register).cast_signed()
}

/// Whether that call still waits: only then is what was read of its process about this process.
pub(crate) fn still_waits(listener: &OwnedFd, id: u64) -> bool {
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, (&raw const id).cast_mut().cast()).is_ok()
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The kernel does it as if nobody had looked.
    Continue,
    /// It returns 0.
    Done,
    /// It fails.
    Fail(Errno),
}

pub(crate) fn answer(listener: &OwnedFd, id: u64, verdict: Verdict) -> io::Result<()> {
    let mut response = seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
    match verdict {
        Verdict::Continue => response.flags = word(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE),
        Verdict::Done => {}
        Verdict::Fail(errno) => response.error = -errno.raw_os_error(),
    }
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, (&raw mut response).cast())
}

/// Puts a descriptor into the process that waits, in place of one of its own.
pub(crate) fn replace(
    listener: &OwnedFd,
    id: u64,
    descriptor: &OwnedFd,
    number: i32,
    close_on_exec: bool,
) -> io::Result<()> {
    let mut request = seccomp_notif_addfd {
        id,
        flags: word(libc::SECCOMP_ADDFD_FLAG_SETFD),
        srcfd: descriptor.as_raw_fd().cast_unsigned(),
        newfd: number.cast_unsigned(),
        newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
    };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, (&raw mut request).cast())
}

fn ioctl(listener: &OwnedFd, request: libc::Ioctl, argument: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: each caller passes the structure of its request, with room for all that the kernel writes.
    let done = unsafe { libc::ioctl(listener.as_raw_fd(), request, argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a descriptor, or an errno instead of one, from a child between fork and exec.
pub(super) fn send(socket: RawFd, installed: io::Result<Installed>) {
    let (descriptor, code) = match installed {
        Ok((descriptor, interruptible)) => (Some(descriptor), -i32::from(interruptible)),
        Err(error) => (None, error.raw_os_error().unwrap_or(libc::EIO)),
    };
    let mut text = code.to_ne_bytes();
    let mut part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
    // One descriptor, with room to spare and aligned as `cmsghdr`.
    let mut control = [0_u64; 8];
    // SAFETY: all zeroes is a valid `msghdr`; what it points to outlives the call, and the one control
    // message fits into `control`, whose size it is told.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if let Some(descriptor) = descriptor {
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(4) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(4) as _;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(descriptor);
        }
        // Who waits for it hears of a failure by the end of the stream.
        libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL);
        if let Some(descriptor) = descriptor {
            // The program is not to answer its own calls.
            libc::close(descriptor);
        }
    }
}

/// A filter's listener, as it was received from the child.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) fd: Arc<OwnedFd>,
    /// A call that waits may be interrupted by a signal, and begin anew.
    pub(crate) interruptible: bool,
}

/// What the child sent.
pub(super) fn received(text: &[u8], descriptor: Option<OwnedFd>) -> io::Result<Listener> {
    let code = text.try_into().map(i32::from_ne_bytes).unwrap_or(libc::EIO);
    match descriptor {
        Some(fd) => Ok(Listener { fd: Arc::new(fd), interruptible: code != 0 }),
        // It was sent, and there was no number left for it here.
        None if code <= 0 => Err(io::Error::from_raw_os_error(libc::EMFILE)),
        None => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_as_long_as_its_jumps_say() {
        for (at, insn) in FILTER.iter().enumerate() {
            assert!(at + usize::from(insn.jf) < FILTER.len() - 1 || insn.jf == 0, "{at}");
        }
    }

    #[test]
    fn a_notice_is_read_as_it_was_written() {
        for call in [Call::Bind(-1, u64::MAX - 7, 28), Call::Listen(70_000, -128)] {
            let notice = Notice { id: 0x0123_4567_89ab_cdef, thread: 4711, call };
            assert_eq!(Notice::from_bytes(&notice.to_bytes()), Some(notice));
        }
        assert_eq!(Notice::from_bytes(&[9; 32]), None, "of a later version");
    }

    #[test]
    fn a_child_that_could_not_says_why() {
        let said = received(&libc::EPERM.to_ne_bytes(), None);
        assert_eq!(said.expect_err("none").raw_os_error(), Some(libc::EPERM));
        assert!(received(&[], None).is_err());
        let lost = received(&0_i32.to_ne_bytes(), None).expect_err("lost");
        assert_eq!(lost.raw_os_error(), Some(libc::EMFILE));
    }
}
