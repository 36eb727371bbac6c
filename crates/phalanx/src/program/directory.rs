//! Private directories: where the preload is written, and Node's compile cache.

use super::interpreter::Version;
use rustix::process::geteuid;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const PRELOAD: &str = include_str!("preload.cjs");

/// The file of the preload, written if it is not there (any more). `for_others`: users that workers become
/// have to be able to read it too.
pub(crate) fn preload(for_others: bool) -> io::Result<PathBuf> {
    let directory = runtime(for_others)?;
    // Another build of this version may run beside this one, and have another.
    let file = directory.join(format!("preload-{:016x}.cjs", fingerprint(PRELOAD)));
    let readable = std::fs::metadata(&file).is_ok_and(|about| about.mode() & 0o444 == 0o444);
    if !readable || !std::fs::read(&file).is_ok_and(|there| there == PRELOAD.as_bytes()) {
        let draft = directory.join(format!(".preload-{}", std::process::id()));
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&draft)
            .and_then(|mut file| {
                // Whatever the umask says.
                file.set_permissions(PermissionsExt::from_mode(0o644))?;
                file.write_all(PRELOAD.as_bytes())
            })
            .and_then(|()| std::fs::rename(&draft, &file));
        if let Err(error) = written {
            let _ = std::fs::remove_file(&draft);
            return Err(error);
        }
    }
    // The name by which Node knows it: the preload looks for itself.
    file.canonicalize()
}

/// Tells one text from another (FNV-1a); nobody who could choose the text gains anything by it.
const fn fingerprint(text: &str) -> u64 {
    let (bytes, mut hash, mut at) = (text.as_bytes(), 0xcbf2_9ce4_8422_2325_u64, 0);
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

/// The variable for Node's compile cache, if this Node knows it and nobody decided otherwise.
pub(super) fn compile_cache(node: Version) -> Option<(OsString, OsString)> {
    const VARIABLE: &str = "NODE_COMPILE_CACHE";
    let decided = [VARIABLE, "NODE_DISABLE_COMPILE_CACHE"];
    if !node.caches_code() || decided.iter().any(|name| std::env::var_os(name).is_some()) {
        return None;
    }
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let place = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|place| place.is_absolute())
        .or_else(home)?;
    let parent = place.join("phalanx");
    let directory = parent.join("node");
    std::fs::create_dir_all(&place).ok()?;
    private(&parent).and_then(|()| private(&directory)).ok()?;
    Some((VARIABLE.into(), directory.into()))
}

/// The first directory that is this user's alone: of the session, of the system, or a temporary one.
fn runtime(for_others: bool) -> io::Result<PathBuf> {
    let uid = geteuid().as_raw();
    let session = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        // Others cannot look into it.
        .filter(|place| place.is_absolute() && !for_others)
        .map(|place| place.join("phalanx"));
    let system = (uid == 0).then(|| PathBuf::from("/run/phalanx"));
    let temporary = std::env::temp_dir().join(format!("phalanx-{uid}"));
    let mut last = io::ErrorKind::NotFound.into();
    for place in session.into_iter().chain(system).chain([temporary]) {
        match private(&place) {
            Ok(()) => return Ok(place),
            Err(error) => {
                last = io::Error::new(error.kind(), format!("{}: {error}", place.display()));
            }
        }
    }
    Err(last)
}

/// Makes sure that a directory is there, and that nobody else can change what is in it, or put another in its place.
fn private(place: &Path) -> io::Result<()> {
    let denied = |why| io::Error::new(io::ErrorKind::PermissionDenied, why);
    let parent = place.parent().ok_or_else(|| denied("it has no parent"))?.canonicalize()?;
    for above in parent.ancestors() {
        let about = std::fs::metadata(above)?;
        // In a sticky directory only the owner of an entry renames it.
        let kept = about.mode() & 0o022 == 0 || about.mode() & 0o1000 != 0;
        let trusted = about.uid() == 0 || about.uid() == geteuid().as_raw();
        if !kept || !trusted {
            return Err(denied("somebody else can change a directory above it"));
        }
    }
    match std::fs::DirBuilder::new().mode(0o711).create(place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Not through a link that somebody else has put there.
    let about = std::fs::symlink_metadata(place)?;
    if !about.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is no directory"));
    }
    if about.uid() != geteuid().as_raw() {
        return Err(denied("it belongs to somebody else"));
    }
    if about.mode() & 0o777 != 0o711 {
        std::fs::set_permissions(place, PermissionsExt::from_mode(0o711))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path().join("mine");
        private(&place).expect("made");
        private(&place).expect("there");
        let mode = |place: &Path| std::fs::metadata(place).expect("there").mode() & 0o777;
        assert_eq!(mode(&place), 0o711);
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o777)).expect("changed");
        private(&place).expect("there");
        assert_eq!(mode(&place), 0o711);
    }

    #[test]
    fn what_others_can_change_is_not_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        std::fs::write(&file, "").expect("written");
        std::os::unix::fs::symlink(directory.path(), &link).expect("linked");
        for place in [&file, &link] {
            assert!(private(place).is_err(), "{}", place.display());
        }
        let open = directory.path().join("open");
        std::fs::create_dir(&open).expect("made");
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).expect("changed");
        assert!(private(&open.join("mine")).is_err(), "everybody can rename it");
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o1777)).expect("changed");
        private(&open.join("mine")).expect("sticky");
    }
}
