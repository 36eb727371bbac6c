//! What is done in a worker's process between fork and exec.

use super::permit::Permit;
#[cfg(target_os = "linux")]
use super::seccomp;
use super::{portable, reserve};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::process::{Resource, Rlimit};
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The first descriptor after the standard ones. systemd's protocol begins here; and Node marks inherited
/// descriptors close-on-exec for the contiguous run from 0 only, so its channel must be here too.
pub(crate) const FIRST_FD: i32 = 3;

/// The number of a worker's life line, where a process may have as many descriptors: programs that count on low
/// numbers (select(2), systemd's protocol, a limit of 1024) do not notice it.
#[cfg(target_os = "linux")]
const LIFE_FD: i32 = 1024;

/// The number that a life line gets.
#[cfg(target_os = "linux")]
pub(crate) fn life_fd() -> i32 {
    let most = rustix::process::getrlimit(Resource::Nofile).current;
    let most = most.and_then(|most| i32::try_from(most).ok()).unwrap_or(i32::MAX);
    LIFE_FD.min(most.saturating_sub(1))
}

/// A process's program, arguments and environment, some of whose variables are its own number.
pub(crate) struct Image {
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    /// Variables that are to hold the number of the process.
    pids: Vec<Vec<u8>>,
}

/// Room for the number of any process.
const PID_DIGITS: usize = 10;

impl Image {
    /// Of what `command` would run; `pids` are set beside its environment, which has to be complete.
    pub(crate) fn of(command: &Command, pids: &[&str]) -> io::Result<Self> {
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
        let program = text(command.get_program())?;
        let args = std::iter::once(command.get_program()).chain(command.get_args());
        let env = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        Ok(Self {
            args: args.map(text).collect::<io::Result<_>>()?,
            env: env
                .map(|(name, value)| {
                    let mut both = OsString::from(name);
                    both.push("=");
                    both.push(value);
                    CString::new(both.into_vec()).map_err(io::Error::from)
                })
                .collect::<io::Result<_>>()?,
            pids: pids
                .iter()
                .map(|name| [name.as_bytes(), b"=", &[0; PID_DIGITS + 1]].concat())
                .collect(),
            program,
        })
    }

    /// What execve(2) takes. It is made before the fork: a child must not allocate.
    fn pointers(&self) -> Pointers {
        let end = || std::iter::once(std::ptr::null());
        let args = self.args.iter().map(|text| text.as_ptr()).chain(end());
        let pids = self.pids.iter().map(|text| text.as_ptr().cast());
        let env = self.env.iter().map(|text| text.as_ptr()).chain(pids).chain(end());
        Pointers { args: args.collect(), env: env.collect() }
    }
}

/// Into the texts of an [`Image`].
struct Pointers {
    args: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
}

// SAFETY: they point into texts that are owned by the image beside them, which are neither moved nor dropped as long
// as it is there, and which nobody else has.
unsafe impl Send for Pointers {}
// SAFETY: as above; nobody writes through them.
unsafe impl Sync for Pointers {}

/// Writes a number into the end of `text`, which ends with room for it and a zero.
fn write_number(text: &mut [u8], mut number: u32) {
    let Some(begin) = text.len().checked_sub(PID_DIGITS + 1) else { return };
    let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
    for at in (0..digits).rev() {
        if let Some(place) = text.get_mut(begin + at) {
            *place = b'0' + u8::try_from(number % 10).unwrap_or(0);
        }
        number /= 10;
    }
}

/// As std does it: looks in `$PATH`, and runs what the kernel cannot with the shell.
fn exec(program: &CString, pointers: &Pointers) {
    let (args, env) = (pointers.args.as_ptr(), pointers.env.as_ptr());
    // SAFETY: both lists end with a null pointer, and all texts end with a zero.
    unsafe {
        #[cfg(target_os = "linux")]
        libc::execvpe(program.as_ptr(), args, env);
        #[cfg(not(target_os = "linux"))]
        libc::execve(program.as_ptr(), args, env);
    }
}

/// What a child finds when its program begins, beside what std gives it.
#[derive(Default)]
pub(crate) struct Inheritance {
    /// Descriptors, from [`FIRST_FD`] on.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// How many descriptors it may have, if not as many as this process.
    pub(crate) files: Option<u64>,
    /// What it may do.
    pub(crate) permit: Permit,
    /// What runs, where std's own exec does not do.
    pub(crate) image: Option<Image>,
    /// It is put under the filter, whose listener is sent here.
    #[cfg(target_os = "linux")]
    pub(crate) filter: Option<OwnedFd>,
    /// It ends when nobody holds the other end of this any more; and its number there.
    #[cfg(target_os = "linux")]
    pub(crate) life: Option<(OwnedFd, i32)>,
}

/// Lets the child of `command` inherit that.
pub(crate) fn bequeath(command: &mut Command, inheritance: Inheritance) -> io::Result<()> {
    let count = i32::try_from(inheritance.descriptors.len()).unwrap_or(i32::MAX);
    let end = FIRST_FD.saturating_add(count);
    // Were such a number free in this process, std could open its own pipe to the child there and
    // the child would overwrite it.
    for number in FIRST_FD..end {
        reserve(number)?;
    }
    // And nothing that is needed in the child may be where its life line is to be.
    #[cfg(target_os = "linux")]
    let life = match inheritance.life {
        None => None,
        Some((life, number)) => {
            reserve(number)?;
            Some((rustix::io::fcntl_dupfd_cloexec(life, end)?, number))
        }
    };
    let Inheritance { descriptors, image, files, mut permit, .. } = inheritance;
    permit.above(end)?;
    #[cfg(target_os = "linux")]
    let filter = inheritance
        .filter
        .map(|socket| rustix::io::fcntl_dupfd_cloexec(socket, end))
        .transpose()?;
    // None of them may be at a number where another one is to be.
    let sources: Vec<OwnedFd> = descriptors
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, end))
        .collect::<rustix::io::Result<_>>()?;
    let pointers = image.as_ref().map(Image::pointers);
    // std lets a child inherit what is held back here.
    let no_signals = no_signals();
    let mut image = image;
    // SAFETY: the closure runs in the child between fork and exec. It only makes system calls and writes to
    // memory that was allocated before. What `pointers` point to is owned by `image`, which moves
    // into the closure without moving the texts, and `write_number` keeps their terminating zeroes.
    unsafe {
        command.pre_exec(move || {
            for (number, source) in (FIRST_FD..).zip(&sources) {
                if libc::dup2(source.as_raw_fd(), number) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            // First: who is privileged need not promise for it that an exec gives no more rights.
            #[cfg(target_os = "linux")]
            if let Some(socket) = &filter {
                seccomp::send(socket.as_raw_fd(), seccomp::install());
            }
            if libc::sigprocmask(libc::SIG_SETMASK, &raw const no_signals, std::ptr::null_mut()) < 0
            {
                return Err(io::Error::last_os_error());
            }
            // While it may have such a number, and with the rights that it keeps.
            #[cfg(target_os = "linux")]
            if let Some((end, number)) = &life
                && libc::dup2(end.as_raw_fd(), *number) < 0
            {
                return Err(io::Error::last_os_error());
            }
            permit.apply()?;
            #[cfg(target_os = "linux")]
            if let Some((_, number)) = &life {
                ends_with(*number)?;
            }
            // At last: until the program runs, this process has all that the primary has.
            if let Some(files) = files {
                let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
                // Less than it had before is no reason not to start.
                let limit = Rlimit { current: Some(files), maximum: hard };
                let _ = rustix::process::setrlimit(Resource::Nofile, limit);
            }
            if let (Some(image), Some(pointers)) = (&mut image, &pointers) {
                let pid = std::process::id();
                for text in &mut image.pids {
                    write_number(text, pid);
                }
                exec(&image.program, pointers);
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    Ok(())
}

/// Lets the kernel send SIGTERM to this process, and to those of its group, when nobody holds the other end of this
/// socket any more (`F_SETSIG`, fcntl(2)). That stays so through execve(2). Only makes system calls: for a child between
/// fork and exec.
#[cfg(target_os = "linux")]
fn ends_with(life: std::os::fd::RawFd) -> io::Result<()> {
    /// linux/fcntl.h
    const F_SETSIG: libc::c_int = 10;
    let set = |what: libc::c_int, to: libc::c_int| {
        // SAFETY: these change an open descriptor's flags, owner and signal, and take a number each.
        if unsafe { libc::fcntl(life, what, to) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // It leads its group, whose other members are what it started.
    let group = rustix::process::getpgrp().as_raw_nonzero().get();
    set(libc::F_SETOWN, -group)?;
    set(F_SETSIG, libc::SIGTERM)?;
    set(libc::F_SETFL, libc::O_ASYNC)?;
    let mut end = libc::pollfd { fd: life, events: 0, revents: 0 };
    // SAFETY: it is told of one structure, which it writes into. It does not wait.
    if unsafe { libc::poll(&raw mut end, 1, 0) } > 0 {
        // The primary has died since the fork, before there was anything to tell of it.
        return Err(io::Error::from_raw_os_error(libc::EPIPE));
    }
    Ok(())
}

/// The empty set.
fn no_signals() -> libc::sigset_t {
    // SAFETY: all zeroes is a valid value, and sigemptyset(3) only writes into it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        set
    }
}

/// The listener that the child sent before it became the program.
#[cfg(target_os = "linux")]
pub(crate) fn receive_listener(end: &OwnedFd) -> io::Result<seccomp::Listener> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, recvmsg};
    let mut text = [0; 4];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(&mut text)];
    let got = recvmsg(end, &mut parts, &mut control, portable::RECEIVE)?.bytes;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            descriptor = descriptors.next();
        }
    }
    seccomp::received(text.get(..got).unwrap_or_default(), descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_its_place() {
        for (number, text) in [(1, "P=1"), (4711, "P=4711"), (u32::MAX, "P=4294967295")] {
            let mut room = [b"P=".as_slice(), &[0; PID_DIGITS + 1]].concat();
            write_number(&mut room, number);
            assert_eq!(room.split(|b| *b == 0).next(), Some(text.as_bytes()));
            assert_eq!(room.last(), Some(&0));
        }
    }
}
