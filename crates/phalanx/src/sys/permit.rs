//! A child gives up rights, between fork and exec: only system calls, with what was prepared before.
//!
//! The order is not free. What needs a right comes before that right is given up (credentials(7), capabilities(7)):
//! the limits, the groups and the root while it is still root; then the bounding set, which needs `CAP_SETPCAP`;
//! the group before the user; and at last what is left of the other sets. The directory is entered with the
//! rights of the worker.

use rustix::fd::{AsRawFd, OwnedFd};
use std::ffi::CString;
use std::io;

/// What a child does to its rights; nothing by default.
#[derive(Debug, Default)]
pub(crate) struct Permit {
    pub(crate) umask: Option<u32>,
    pub(crate) nice: Option<i32>,
    /// Soft and hard.
    pub(crate) open_files: Option<(u64, u64)>,
    pub(crate) core: Option<(u64, u64)>,
    /// The supplementary groups.
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) root: Option<CString>,
    /// A set of Landlock's rules.
    pub(crate) landlock: Option<OwnedFd>,
    /// The capabilities that are kept, a bit for each.
    pub(crate) keep: Option<u64>,
    pub(crate) gid: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) no_new_privs: bool,
    pub(crate) directory: Option<CString>,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Umask = 1,
    Nice,
    OpenFiles,
    Core,
    Groups,
    Root,
    NoNewPrivs,
    Landlock,
    Capabilities,
    Group,
    User,
    Directory,
}

impl Step {
    const ALL: [Self; 12] = [
        Self::Umask,
        Self::Nice,
        Self::OpenFiles,
        Self::Core,
        Self::Groups,
        Self::Root,
        Self::NoNewPrivs,
        Self::Landlock,
        Self::Capabilities,
        Self::Group,
        Self::User,
        Self::Directory,
    ];

    /// std passes one number from the child to its parent: the step stands above all errnos, which are less
    /// than that (errno(3)).
    const ABOVE: i32 = 4096;

    const fn failed(self, errno: i32) -> i32 {
        self as i32 * Self::ABOVE + errno
    }

    /// The step in which a child failed, and why, if it was one of these.
    pub(crate) fn of(error: &io::Error) -> Option<(Self, io::Error)> {
        let code = error.raw_os_error()?;
        let step = Self::ALL.into_iter().find(|step| *step as i32 == code / Self::ABOVE)?;
        Some((step, io::Error::from_raw_os_error(code % Self::ABOVE)))
    }

    /// For a call that returns less than zero if it failed.
    fn done(self, returned: impl Into<i64>) -> io::Result<()> {
        if returned.into() >= 0 {
            return Ok(());
        }
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Err(io::Error::from_raw_os_error(self.failed(errno)))
    }
}

impl Permit {
    /// Makes sure that none of its descriptors has a number below that.
    pub(super) fn above(&mut self, number: i32) -> io::Result<()> {
        if let Some(rules) = &self.landlock {
            self.landlock = Some(rustix::io::fcntl_dupfd_cloexec(rules, number)?);
        }
        Ok(())
    }

    /// Does it, in a child between fork and exec. An error is of [`Step::of`].
    pub(super) fn apply(&self) -> io::Result<()> {
        self.limit()?;
        if let Some(groups) = &self.groups {
            // SAFETY: the list is as long as it says.
            let done = unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) };
            Step::Groups.done(done)?;
        }
        if let Some(root) = &self.root {
            // SAFETY: both texts end with a zero.
            unsafe {
                Step::Root.done(libc::chroot(root.as_ptr()))?;
                Step::Root.done(libc::chdir(c"/".as_ptr()))?;
            }
        }
        #[cfg(target_os = "linux")]
        {
            if self.no_new_privs {
                no_new_privs()?;
            }
            if let Some(rules) = &self.landlock {
                restrict(rules)?;
            }
            if let Some(keep) = self.keep {
                bound(keep)?;
            }
        }
        self.become_somebody()?;
        #[cfg(target_os = "linux")]
        if let Some(keep) = self.keep {
            reduce(keep)?;
        }
        if let Some(directory) = &self.directory {
            // SAFETY: the text ends with a zero.
            Step::Directory.done(unsafe { libc::chdir(directory.as_ptr()) })?;
        }
        Ok(())
    }

    fn limit(&self) -> io::Result<()> {
        // SAFETY: they take numbers, and a structure that lives until the call returns.
        unsafe {
            if let Some(umask) = self.umask {
                libc::umask(umask as _);
            }
            if let Some(nice) = self.nice {
                Step::Nice.done(libc::setpriority(libc::PRIO_PROCESS, 0, nice))?;
            }
            if let Some((soft, hard)) = self.core {
                let limit = libc::rlimit { rlim_cur: soft as _, rlim_max: hard as _ };
                Step::Core.done(libc::setrlimit(libc::RLIMIT_CORE, &raw const limit))?;
            }
            if let Some((soft, hard)) = self.open_files {
                let limit = libc::rlimit { rlim_cur: soft as _, rlim_max: hard as _ };
                Step::OpenFiles.done(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
            }
        }
        Ok(())
    }

    /// The group first: who is no longer root may not change it. Real, effective and saved ids: there is no way back.
    fn become_somebody(&self) -> io::Result<()> {
        // SAFETY: they take numbers. The wrappers of the C library tell the other threads; there are none here.
        unsafe {
            if let Some(gid) = self.gid {
                #[cfg(target_os = "linux")]
                Step::Group.done(libc::setresgid(gid, gid, gid))?;
                #[cfg(not(target_os = "linux"))]
                Step::Group.done(libc::setgid(gid))?;
            }
            if let Some(uid) = self.uid {
                #[cfg(target_os = "linux")]
                Step::User.done(libc::setresuid(uid, uid, uid))?;
                #[cfg(not(target_os = "linux"))]
                Step::User.done(libc::setuid(uid))?;
            }
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn no_new_privs() -> io::Result<()> {
    // SAFETY: it takes four numbers and sets a flag of this thread.
    Step::NoNewPrivs.done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

/// Puts this thread, and what it becomes and forks, under Landlock's rules.
#[cfg(target_os = "linux")]
fn restrict(rules: &OwnedFd) -> io::Result<()> {
    // SAFETY: it takes the number of an open descriptor, and no flags.
    let call =
        || unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0_u32) };
    if call() >= 0 {
        return Ok(());
    }
    // Who is not privileged has to promise first that an exec gives no more rights.
    if io::Error::last_os_error().raw_os_error() == Some(libc::EPERM) {
        no_new_privs()?;
    }
    Step::Landlock.done(call())
}

/// Drops all others from the bounding set, for good: no exec gives what is not in it.
#[cfg(target_os = "linux")]
fn bound(keep: u64) -> io::Result<()> {
    for capability in 0..u64::BITS {
        match in_bounding_set(capability) {
            // One more than the last that this kernel knows.
            None => break,
            Some(true) if keep & (1 << capability) == 0 => {
                // SAFETY: it takes numbers.
                let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, u64::from(capability)) };
                Step::Capabilities.done(done)?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether this thread could ever have it; `None`: the kernel does not know it.
#[cfg(target_os = "linux")]
pub(crate) fn in_bounding_set(capability: u32) -> Option<bool> {
    // SAFETY: it takes numbers and changes nothing.
    match unsafe { libc::prctl(libc::PR_CAPBSET_READ, u64::from(capability)) } {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// As capget(2) and capset(2) have it (linux/capability.h).
#[cfg(target_os = "linux")]
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// A half of each set.
#[cfg(target_os = "linux")]
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[cfg(target_os = "linux")]
impl Header {
    /// `_LINUX_CAPABILITY_VERSION_3`, this thread.
    const fn new() -> Self {
        Self { version: 0x2008_0522, pid: 0 }
    }
}

#[cfg(target_os = "linux")]
fn sets() -> io::Result<[Half; 2]> {
    let mut header = Header::new();
    let mut halves = [Half::default(); 2];
    // SAFETY: the kernel reads the header, and writes two halves in this version.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(halves) }
}

/// The capabilities that this thread may use now, a bit for each.
#[cfg(target_os = "linux")]
pub(crate) fn effective() -> io::Result<u64> {
    let [low, high] = sets()?;
    Ok(u64::from(high.effective) << 32 | u64::from(low.effective))
}

/// Takes all others out of the sets that an exec starts from. What leaves the permitted or the inheritable set
/// leaves the ambient one with it.
#[cfg(target_os = "linux")]
#[expect(clippy::cast_possible_truncation, reason = "halves")]
fn reduce(keep: u64) -> io::Result<()> {
    let Ok(mut halves) = sets() else { return Step::Capabilities.done(-1) };
    for (half, keep) in halves.iter_mut().zip([keep as u32, (keep >> 32) as u32]) {
        half.effective &= keep;
        half.permitted &= keep;
        half.inheritable &= keep;
    }
    let mut header = Header::new();
    // SAFETY: the kernel reads the header and two halves.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
    Step::Capabilities.done(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_and_its_errno_travel_in_one_number() {
        for step in Step::ALL {
            for errno in [1, libc::EPERM, libc::ENOENT, 4095] {
                let error = io::Error::from_raw_os_error(step.failed(errno));
                let (found, why) = Step::of(&error).expect("a step");
                assert_eq!((found, why.raw_os_error()), (step, Some(errno)));
            }
        }
        assert!(Step::of(&io::Error::from_raw_os_error(libc::ENOENT)).is_none());
        assert!(Step::of(&io::Error::from_raw_os_error(4095)).is_none());
        assert!(Step::of(&io::Error::other("words")).is_none());
    }

    #[test]
    fn std_passes_the_whole_number() {
        use std::os::unix::process::CommandExt;
        let permit = Permit { directory: Some(c"/no/such/place".to_owned()), ..Permit::default() };
        let mut command = std::process::Command::new("true");
        // SAFETY: it only makes system calls.
        unsafe { command.pre_exec(move || permit.apply()) };
        let error = command.spawn().expect_err("no such directory");
        let (step, why) = Step::of(&error).expect("a step");
        assert_eq!((step, why.kind()), (Step::Directory, io::ErrorKind::NotFound));
    }
}
