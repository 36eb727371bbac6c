//! Private directories: where the preload is written, and Node's compile cache.

use super::interpreter::Version;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const PRELOAD: &str = include_str!("preload.cjs");

/// The file of the preload, written if it is not there yet. Its name tells its content: programs of
/// several versions do not get in each other's way.
pub(super) fn preload() -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    PRELOAD.hash(&mut hasher);
    let directory = runtime()?;
    let file = directory.join(format!("preload-{:016x}.cjs", hasher.finish()));
    if std::fs::read(&file).is_ok_and(|there| there == PRELOAD.as_bytes()) {
        return file.canonicalize();
    }
    let draft = directory.join(format!(".preload-{}", std::process::id()));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(PRELOAD.as_bytes()))
        .and_then(|()| std::fs::rename(&draft, &file));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    // The name by which Node knows it: the preload looks for itself.
    written.and_then(|()| file.canonicalize())
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
fn runtime() -> io::Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let session = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|place| place.is_absolute())
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

/// Makes sure that a directory is there and nobody else's.
fn private(place: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Not through a link that somebody else has put there.
    let about = std::fs::symlink_metadata(place)?;
    if !about.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is no directory"));
    }
    if about.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else"));
    }
    if about.mode() & 0o077 != 0 {
        std::fs::set_permissions(place, PermissionsExt::from_mode(0o700))?;
    }
    Ok(())
}
