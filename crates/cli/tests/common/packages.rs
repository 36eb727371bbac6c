//! Packages of the npm registry, for tests.

use super::clean;
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory below which all is installed.
fn cache() -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
    fs::create_dir_all(&cache).expect("a directory for packages");
    cache
}

/// A name for a content.
pub(crate) fn hash(content: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// A directory with what a `package.json` asks for in its `node_modules`. Installed once for each content:
/// a second test, or process, finds what the first one installed.
pub(crate) fn install(manifest: &str) -> PathBuf {
    let directory = cache().join(hash(&manifest));
    complete(&directory, |partial| {
        fs::write(partial.join("package.json"), manifest).expect("the manifest is copied");
        let mut npm = clean("npm", ["install", "--no-audit", "--no-fund"]);
        npm.args(["--no-package-lock", "--ignore-scripts", "--loglevel", "error"]);
        run(npm.current_dir(partial));
    });
    directory
}

/// Makes a directory that is either complete or not there, whoever else makes it at the same time.
pub(crate) fn complete(directory: &Path, fill: impl FnOnce(&Path)) {
    let lock = File::create(directory.with_extension("lock")).expect("a lock file");
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("a lock");
    if directory.exists() {
        return;
    }
    let partial = directory.with_extension("partial");
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            panic!("{}: {error}", partial.display())
        }
        _ => {}
    }
    fs::create_dir_all(&partial).expect("a directory");
    fill(&partial);
    fs::rename(&partial, directory).expect("renamed");
}

/// Runs a tool to its end; it has to succeed.
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; `scripts/test` installs what the tests need")
    });
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}
