//! Survival: a primary that was killed is replaced by another one, which takes over all that it had.
//!
//! A *keeper* is a process that does nothing but hold: duplicates of the primary's descriptors, each under a name,
//! and the book ([`book`]) in which the primary writes down what they mean. It is the parent of the primary, and by
//! `PR_SET_CHILD_SUBREAPER` (prctl(2)) that of all workers whose primary is gone. When the primary dies it starts
//! another one and gives it everything; workers do not notice.
//!
//! The same book, taken along through execve(2), is how a primary becomes another version of itself
//! ([`crate::Primary::upgrade`]), and how it becomes a keeper itself when its own was killed.

pub(crate) use book::{Kind, Mark};

pub(crate) mod book;
pub(crate) mod post;
mod watch;

use crate::error::{Error, Result};
use crate::primary::{lower_descriptor_limit, raise_descriptor_limit, this_program};
use crate::sys::keep::{become_program, take_inherited};
use book::Book;
use phalanx_core::worker::Exit;
use post::Word;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// In a primary's environment: the number of its post.
const KEEPER: &str = "PHALANX_KEEPER";
/// In the environment of a process that became this program: the number of its [`Will`].
const INHERIT: &str = "PHALANX_INHERIT";
/// In the environment of a program that is only to say whether it could take over: the number of the estate.
const REHEARSE: &str = "PHALANX_REHEARSE";
/// Variables that are for this process and nobody it starts.
pub(crate) const VARIABLES: [&str; 3] = [KEEPER, INHERIT, REHEARSE];
/// What a program says that could take over.
pub(crate) const COULD: &str = "phalanx: could take over";
/// How long a keeper may take to hand over.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a process leaves to the program that it becomes.
#[derive(Debug, Serialize, Deserialize)]
struct Will {
    role: Role,
    /// Where the descriptors are.
    fds: BTreeMap<String, i32>,
    /// The post to the keeper.
    post: Option<i32>,
    /// What was written down last.
    estate: Option<String>,
}

/// What the next program is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Primary,
    Keeper,
}

/// What the primary before this one left.
#[derive(Debug)]
pub(crate) struct Left {
    /// As it wrote it down.
    pub(crate) estate: Vec<u8>,
    pub(crate) fds: BTreeMap<String, OwnedFd>,
    /// How processes ended that are no children of this one.
    pub(crate) exits: Vec<(u32, Exit)>,
}

/// Where a primary comes from.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// The post to its keeper.
    pub(crate) post: Option<Arc<OwnedFd>>,
    pub(crate) book: Option<Book>,
    pub(crate) left: Option<Left>,
}

/// Found at the start, until the primary takes it.
static PAST: Mutex<Option<Past>> = Mutex::new(None);

/// Takes what the start of this process found.
pub(crate) fn take_past() -> Past {
    PAST.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
}

/// Whether there is something to take over.
pub(crate) fn has_left() -> bool {
    let past = PAST.lock().unwrap_or_else(PoisonError::into_inner);
    past.as_ref().is_some_and(|past| past.left.is_some())
}

/// The keeper of this process, which is its parent, until [`take_past`].
pub(crate) fn parent() -> Option<u32> {
    let past = PAST.lock().unwrap_or_else(PoisonError::into_inner);
    past.as_ref()?.post.as_ref()?;
    rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get().unsigned_abs())
}

/// Finds out where this process comes from; `keep`: makes it a keeper, if it has none and comes from nowhere.
/// Returns in a primary only.
pub(crate) fn begin(keep: bool) -> Result<()> {
    let mut past = PAST.lock().unwrap_or_else(PoisonError::into_inner);
    if past.is_some() {
        return Ok(());
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let failed = Error::os("cannot take over from the last primary");
    if let Some(estate) = number(REHEARSE) {
        rehearse(estate);
        return Ok(());
    }
    // What these variables name is taken once; they may be still there.
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let named = (number(INHERIT), number(KEEPER));
    let named = if TAKEN.swap(true, Ordering::Relaxed) { (None, None) } else { named };
    let found = match named {
        (Some(will), _) => inherit(will).map_err(failed)?,
        (None, Some(post)) => receive_all(post).map_err(failed)?,
        (None, None) if keep => watch::keep(BTreeMap::new()).map_err(Error::os("cannot keep"))?,
        // It may still become one.
        (None, None) => return Ok(()),
    };
    crate::sys::remove_variables(&VARIABLES);
    *past = Some(found);
    Ok(())
}

/// This process is only asked whether it could take over.
static REHEARSES: AtomicBool = AtomicBool::new(false);

/// Whether this process is only asked whether it could take over.
pub(crate) fn rehearses() -> bool {
    REHEARSES.load(Ordering::Relaxed)
}

/// All that comes before the first deed went well: says so, and ends, if that is all that was asked.
pub(crate) fn end_rehearsal() {
    if rehearses() {
        let _ = writeln!(io::stdout(), "{COULD}");
        std::process::exit(0);
    }
}

/// Reads the estate, if that was not done; ends if it cannot be read.
fn rehearse(number: i32) {
    if REHEARSES.swap(true, Ordering::Relaxed) {
        return;
    }
    let read = take_inherited(number).and_then(|fd| {
        let mut text = Vec::new();
        let mut file = std::fs::File::from(fd);
        file.rewind()?;
        file.read_to_end(&mut text)?;
        Ok(text)
    });
    let checked = read
        .map_err(|error| error.to_string())
        .and_then(|text| crate::primary::check_estate(&text));
    if let Err(why) = checked {
        let _ = writeln!(io::stdout(), "phalanx: cannot take over: {why}");
        std::process::exit(1);
    }
}

/// This process was another program before.
fn inherit(number: i32) -> io::Result<Past> {
    crate::sys::keep::signals_are_held_back();
    let mut file = std::fs::File::from(take_inherited(number)?);
    file.rewind()?;
    let will: Will = serde_json::from_reader(&mut file).map_err(io::Error::other)?;
    // A keeper does not return from here.
    drop(file);
    let mut fds = BTreeMap::new();
    for (name, number) in will.fds {
        fds.insert(name, take_inherited(number)?);
    }
    if will.role == Role::Keeper {
        crate::sys::keep::let_signals_come();
        return watch::keep(fds);
    }
    let post = will.post.map(take_inherited).transpose()?.map(Arc::new);
    let book = Book::inherited(&mut fds);
    let left = will.estate.map(|estate| Left { estate: estate.into(), fds, exits: Vec::new() });
    Ok(Past { post, book, left })
}

/// This process was started by a keeper: takes what it kept.
fn receive_all(number: i32) -> io::Result<Past> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    // It has those of its keeper.
    crate::sys::keep::signals_are_held_back();
    let post = take_inherited(number)?;
    set_socket_timeout(&post, Timeout::Recv, Some(PATIENCE))?;
    let mut fds = BTreeMap::new();
    let mut exits = Vec::new();
    loop {
        match post::receive(&post)? {
            Some((Word::Keep(name), Some(fd))) => drop(fds.insert(name, fd)),
            Some((Word::Exited(pid, exit), _)) => exits.push((pid, exit)),
            Some((Word::Ready, _)) => break,
            Some(_) => {}
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    set_socket_timeout(&post, Timeout::Recv, None)?;
    rustix::io::ioctl_fionbio(&post, true)?;
    let book = Book::inherited(&mut fds);
    let estate = book.as_ref().map(Book::read).transpose()?.flatten();
    let left = estate.map(|estate| Left { estate, fds, exits });
    Ok(Past { post: Some(Arc::new(post)), book, left })
}

/// Whether the program could take over this estate.
pub(crate) fn rehearsal(estate: &[u8]) -> io::Result<std::process::Child> {
    use crate::sys::launch::{FIRST_FD, Inheritance, bequeath};
    let program = this_program().map_err(io::Error::other)?;
    if program.starts_with("/proc/self") {
        return Err(io::Error::other("nothing is at the program's place any more"));
    }
    let mut command = std::process::Command::new(program);
    command
        .args(std::env::args_os().skip(1))
        .env(REHEARSE, FIRST_FD.to_string())
        .env_remove(KEEPER)
        .env_remove(INHERIT)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .process_group(0);
    let descriptors = vec![written("phalanx-estate", estate)?];
    bequeath(&mut command, Inheritance { descriptors, ..Inheritance::default() })?;
    command.spawn()
}

/// This process becomes the program anew, in a role, and takes this along. Returns only if it cannot.
pub(crate) fn become_anew(
    role: Role,
    fds: &BTreeMap<String, Arc<OwnedFd>>,
    post: Option<&Arc<OwnedFd>>,
    estate: Option<&[u8]>,
) -> io::Error {
    let become_it = || -> io::Result<io::Error> {
        let will = Will {
            role,
            fds: fds.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect(),
            post: post.map(|post| post.as_raw_fd()),
            estate: estate.map(|text| String::from_utf8_lossy(text).into_owned()),
        };
        let will = written("phalanx-will", &serde_json::to_vec(&will).map_err(io::Error::other)?)?;
        let all = fds.values().chain(post).map(|fd| fd.as_fd());
        let kept: Vec<BorrowedFd<'_>> = all.chain([will.as_fd()]).collect();
        let mine = |(name, _): &(OsString, OsString)| VARIABLES.iter().all(|v| name != v);
        let number = (OsString::from(INHERIT), OsString::from(will.as_raw_fd().to_string()));
        let env = std::env::vars_os().filter(mine).chain([number]);
        let program = match role {
            Role::Primary => this_program().map_err(io::Error::other)?,
            // Nobody asked whether what is at its place now can do that.
            Role::Keeper => same_program()?,
        };
        lower_descriptor_limit();
        let error = become_program(&program, std::env::args_os(), env, &kept);
        raise_descriptor_limit();
        Ok(error)
    };
    become_it().unwrap_or_else(|error| error)
}

/// The program that this process runs: by its name, if that is still the same one.
fn same_program() -> io::Result<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let running = PathBuf::from("/proc/self/exe");
    let named = this_program().map_err(io::Error::other)?;
    let identity = |path: &PathBuf| std::fs::metadata(path).map(|at| (at.dev(), at.ino()));
    let same = matches!((identity(&named), identity(&running)), (Ok(a), Ok(b)) if a == b);
    Ok(if same { named } else { running })
}

/// Memory with this text in it.
fn written(name: &str, text: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(text)?;
    Ok(file.into())
}
