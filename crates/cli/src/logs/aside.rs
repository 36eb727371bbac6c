//! The present file of a log is put aside, and an empty one takes its place.

use super::index;
use super::lock::{Held, is_at};
use super::old;
use super::style::compact;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names that are tried for a file that is put aside.
const NAMES: u64 = 100;
/// Another process that puts it aside needs no more than a moment.
const TRIES: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(2);

/// Takes the file for this process; `None`: it is not the one at its place any more.
fn hold<'a>(path: &Path, file: &'a File) -> io::Result<Option<Held<'a>>> {
    for _ in 0..TRIES {
        let held = Held::take(file);
        if !is_at(path, file)? {
            return Ok(None);
        }
        if held.is_some() {
            return Ok(held);
        }
        std::thread::sleep(BETWEEN);
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "another process has a lock on it"))
}

fn alike(file: &File, like: &Metadata) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o7777))?;
    let me = (rustix::process::geteuid(), like.uid());
    if me.0.is_root() && me.1 != 0 {
        std::os::unix::fs::fchown(file, Some(like.uid()), Some(like.gid()))?;
    }
    Ok(())
}

/// Puts a file aside, and an empty one in its place: at no time there is none. It may be that another process has done
/// it.
pub(super) fn replace(path: &Path, file: &File, time: u64) -> io::Result<()> {
    let Some(_held) = hold(path, file)? else { return Ok(()) };
    let about = file.metadata()?;
    let (draft, new) = old::draft(path)?;
    let done = alike(&new, &about).and_then(|()| swap(path, &draft, time));
    if done.is_err() {
        let _ = fs::remove_file(&draft);
    }
    done
}

fn swap(path: &Path, draft: &Path, time: u64) -> io::Result<()> {
    // Names are times: each is there once, and later than all before it, also after the clock was set back. By them it
    // is known which file is the oldest, and which is new to somebody who follows.
    let newest = old::list(path).iter().map(|old| old::time_of(&old.stamp)).max();
    let time = newest.map_or(time, |newest| time.max(newest + 1000));
    let names = (0..NAMES).map(|ms| old::aside(path, &compact(time + ms * 1000)));
    let free = |name: &PathBuf| {
        let taken = [name, &old::compressed(name), &index::beside(name)];
        taken.into_iter().all(|name| name.symlink_metadata().is_err())
    };
    let aside = names.into_iter().find(free).ok_or(io::ErrorKind::AlreadyExists)?;
    // The index goes first: one that is not its file's own is not believed.
    let indexes = [index::beside(path), index::beside(&aside)];
    let indexed = index::is_own(&indexes[0]) && fs::rename(&indexes[0], &indexes[1]).is_ok();
    let linked = match fs::hard_link(path, &aside) {
        Ok(()) => Ok(()),
        // Not every file system has links.
        Err(_) => fs::rename(path, &aside),
    };
    let done = linked.and_then(|()| {
        fs::rename(draft, path).inspect_err(|_| {
            // Also where it is a second name of the same file.
            let _ = fs::rename(&aside, path);
            let _ = fs::remove_file(&aside);
        })
    });
    if done.is_err() && indexed {
        let _ = fs::rename(&indexes[1], &indexes[0]);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_aside(path: &Path, text: &str, time: u64) {
        fs::write(path, text).expect("written");
        replace(path, &File::open(path).expect("opened"), time).expect("put aside");
    }

    #[test]
    fn a_clock_that_was_set_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.log");
        let later = old::aside(&path, "20270101T000000.000Z.gz");
        fs::write(later, "compressed").expect("written");
        for n in 1..=3 {
            put_aside(&path, &format!("{n}\n"), 1_769_864_400_123_000 + n);
        }
        let files = old::list(&path);
        let texts = files.iter().map(|old| fs::read_to_string(&old.path).unwrap_or_default());
        assert_eq!(texts.collect::<Vec<_>>(), ["", "1\n", "2\n", "3\n"], "{files:?}");
        let stamps: Vec<&str> = files.iter().map(|old| old.stamp.as_str()).collect();
        assert_eq!(
            stamps[1..],
            ["20270101T000000.001Z", "20270101T000000.002Z", "20270101T000000.003Z"]
        );
    }

    #[test]
    fn another_process_that_puts_it_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.log");
        fs::write(&path, "one\n").expect("written");
        let open = || File::open(&path).expect("opened");
        let (mine, other) = (open(), open());
        let held = Held::take(&other).expect("nobody else's");
        assert!(replace(&path, &mine, 1).is_err(), "the other one is just doing it");
        drop(held);
        replace(&path, &other, 1).expect("put aside");
        fs::write(&path, "two\n").expect("written");
        replace(&path, &mine, 1).expect("done by the other one");
        assert_eq!(fs::read_to_string(&path).expect("there"), "two\n");
        assert_eq!(old::list(&path).len(), 1);
    }
}
