//! Directories and files that are this user's and nobody else's.

use rustix::process::geteuid;
use serde::Serialize;
use std::fs::{self, DirBuilder, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

pub(super) fn is_mine(about: &Metadata) -> bool {
    about.uid() == geteuid().as_raw()
}

/// Whose entries others may see.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Named by the user: it may be a link.
    Named,
    /// Found by a rule that others know as well.
    Found,
    /// Nobody's but this user's.
    Closed,
}

/// Makes sure of a directory that is this user's, and in which nobody else can put anything in another's place.
pub(super) fn private(place: &Path, kind: Kind) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(place)?;
    let about = checked(place, kind)?;
    if kind == Kind::Closed && about.mode() & 0o077 != 0 {
        fs::set_permissions(place, PermissionsExt::from_mode(0o700))?;
    }
    Ok(())
}

/// Refuses a directory that is somebody else's, or in which others can put something in another's place.
pub(super) fn checked(place: &Path, kind: Kind) -> io::Result<Metadata> {
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    let about = match kind {
        Kind::Named => fs::metadata(place),
        Kind::Found | Kind::Closed => fs::symlink_metadata(place),
    }?;
    if !about.is_dir() {
        return refused("it is a link or a file, put there by somebody");
    }
    if !is_mine(&about) {
        return refused("it belongs to somebody else");
    }
    // In a sticky one they can only add, and what is in it is checked as well.
    let shared = kind == Kind::Named && about.mode() & 0o1000 != 0;
    if kind != Kind::Closed && about.mode() & 0o022 != 0 && !shared {
        // Not changed here: it may have its reasons.
        return refused("others may write to it; `chmod go-w` keeps them out");
    }
    Ok(about)
}

/// Writes a file so that whoever reads it finds the old or the new one, as a whole; only this user can.
pub(super) fn write_json(file: &Path, value: &impl Serialize, durable: bool) -> io::Result<()> {
    // Two who write at once have a draft each.
    let draft = file.with_extension(format!("{}.new", std::process::id()));
    let written = draw(&draft, value, durable).and_then(|()| fs::rename(&draft, file));
    match written {
        Err(error) => {
            let _ = fs::remove_file(&draft);
            Err(error)
        }
        // The new name is in the directory only, so far.
        Ok(()) if durable => fs::File::open(file.parent().unwrap_or(file))?.sync_all(),
        Ok(()) => Ok(()),
    }
}

fn draw(draft: &Path, value: &impl Serialize, durable: bool) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    let mut open = OpenOptions::new();
    let mut file = open.write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    file.write_all(&text)?;
    // Or after a power cut there may be a new name of an empty file.
    if durable { file.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_private_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let mode = |place: &Path| fs::metadata(place).expect("there").mode() & 0o777;
        let place = directory.path().join("a/b");
        private(&place, Kind::Found).expect("made");
        assert_eq!(mode(&place), 0o700);
        fs::set_permissions(&place, PermissionsExt::from_mode(0o777)).expect("changed");
        assert!(private(&place, Kind::Named).is_err());
        assert_eq!(mode(&place), 0o777, "not changed");
        private(&place, Kind::Closed).expect("closed");
        assert_eq!(mode(&place), 0o700);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&place, &link).expect("linked");
        assert!(private(&link, Kind::Found).is_err());
        private(&link, Kind::Named).expect("a link that the user named");
        let file = directory.path().join("file");
        fs::write(&file, "").expect("written");
        assert!(private(&file, Kind::Found).is_err());
    }
}
