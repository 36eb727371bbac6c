//! The user database: getpwnam(3), getgrnam(3), getgrouplist(3).

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;

/// A user, as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: CString,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: CString,
}

/// The longest entry that is read: a group may have many members.
const LONGEST: usize = 1 << 20;
/// More groups than the kernel takes (`NGROUPS_MAX`).
const MOST_GROUPS: usize = 65_536;

/// The kind of number that getgrouplist(3) counts groups in.
#[cfg(target_vendor = "apple")]
type Group = libc::c_int;
#[cfg(not(target_vendor = "apple"))]
type Group = libc::gid_t;

/// The user of that name, if there is one.
pub(crate) fn user_named(name: &CStr) -> io::Result<Option<User>> {
    // SAFETY: `find` passes room for an entry, for its texts, and for the result.
    find(|entry, text, length, found| unsafe {
        libc::getpwnam_r(name.as_ptr(), entry, text, length, found)
    })
    .map(|found| found.map(user))
}

/// The user of that number, if there is one.
pub(crate) fn user_numbered(uid: u32) -> io::Result<Option<User>> {
    // SAFETY: as above.
    find(|entry, text, length, found| unsafe { libc::getpwuid_r(uid, entry, text, length, found) })
        .map(|found| found.map(user))
}

/// The number of the group of that name, if there is one.
pub(crate) fn group_named(name: &CStr) -> io::Result<Option<u32>> {
    // SAFETY: as above.
    find(|entry: *mut libc::group, text, length, found| unsafe {
        libc::getgrnam_r(name.as_ptr(), entry, text, length, found)
    })
    .map(|found| found.map(|(group, _)| group.gr_gid))
}

fn user((entry, _texts): (libc::passwd, Vec<libc::c_char>)) -> User {
    // SAFETY: what an entry that was found points to is in its texts, which are here until the end, and ends
    // with a zero.
    let (name, home) = unsafe { (CStr::from_ptr(entry.pw_name), CStr::from_ptr(entry.pw_dir)) };
    User { name: name.into(), uid: entry.pw_uid, gid: entry.pw_gid, home: home.into() }
}

/// Asks with more room each time, until there is enough. The texts that an entry points to are given with it.
fn find<T: Copy>(
    ask: impl Fn(*mut T, *mut libc::c_char, libc::size_t, *mut *mut T) -> libc::c_int,
) -> io::Result<Option<(T, Vec<libc::c_char>)>> {
    let mut texts: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let mut entry = MaybeUninit::<T>::uninit();
        let mut found = std::ptr::null_mut();
        match ask(entry.as_mut_ptr(), texts.as_mut_ptr(), texts.len(), &raw mut found) {
            0 if found.is_null() => return Ok(None),
            // SAFETY: a result that is not null is the entry, filled in.
            0 => return Ok(Some((unsafe { entry.assume_init() }, texts))),
            libc::ERANGE if texts.len() < LONGEST => texts.resize(texts.len() * 4, 0),
            // What the C libraries say when there is none (getpwnam(3), ERRORS).
            libc::ENOENT | libc::ESRCH => return Ok(None),
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// The groups that a user is in, its own one included: what initgroups(3) would set.
pub(crate) fn groups_of(user: &CStr, gid: u32) -> io::Result<Vec<u32>> {
    let mut groups: Vec<Group> = vec![0; 64];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: there is room for as many groups as `count` says, and the name ends with a zero.
        let done = unsafe {
            libc::getgrouplist(user.as_ptr(), gid as Group, groups.as_mut_ptr(), &raw mut count)
        };
        if done >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            #[allow(clippy::unnecessary_cast, reason = "it is another type on other systems")]
            return Ok(groups.into_iter().map(|group| group as u32).collect());
        }
        if groups.len() >= MOST_GROUPS {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        groups.resize(groups.len() * 4, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_everywhere_and_some_are_nowhere() {
        let root = user_named(c"root").expect("asked").expect("there");
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(user_numbered(0).expect("asked").expect("there").uid, 0);
        assert!(groups_of(&root.name, 4711).expect("asked").contains(&4711));
        assert_eq!(user_named(c"no-such-user").expect("asked"), None);
        assert_eq!(user_numbered(u32::MAX - 7).expect("asked"), None);
        assert_eq!(group_named(c"no-such-group").expect("asked"), None);
        assert_ne!(group_named(c"daemon").expect("asked"), None);
    }
}
