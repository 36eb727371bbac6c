//! Installs an application's packages once, and keeps them for the next run.

use crate::common::{self, packages};
use bench::spawned::Guarded;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest Node that the packages in use accept.
const OLDEST_NODE: u32 = 20;

/// The directory from which an application runs: its files, built if they need to be, below the
/// packages that its `package.json` names. What exists already for the same content is taken.
pub(crate) fn install(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps").join(name);
    let files = files_of(&source);
    let manifest = String::from_utf8_lossy(&files[Path::new("package.json")]);
    // Below the packages, where Node looks for them.
    let program = packages::install(&manifest).join(format!("{name}-{}", packages::hash(&files)));
    packages::complete(&program, |partial| {
        for (path, content) in &files {
            let path = partial.join(path);
            fs::create_dir_all(path.parent().expect("a file is in a directory")).unwrap();
            fs::write(path, content).expect("the program is copied");
        }
        if manifest.contains("\"build\":") {
            packages::run(common::clean("npm", ["run", "build"]).current_dir(partial));
        }
    });
    program
}

/// Starts a command, or says which Debian package brings it.
pub(crate) fn start(command: &mut Command, package: &str) -> Guarded {
    Guarded::spawn(command).unwrap_or_else(|error| {
        let program = command.get_program().to_string_lossy();
        if error.kind() == io::ErrorKind::NotFound {
            panic!("{program} is not there: install the Debian package `{package}`");
        }
        panic!("{program}: {error}");
    })
}

/// These applications need a Node that is not too old.
pub(crate) fn check_node() {
    let node = start(&mut common::clean("node", ["--version"]), "nodejs");
    node.wait_exit(common::LONG).unwrap_or_else(|error| panic!("{error}"));
    let version = node.stdout();
    let major: Option<u32> =
        version.strip_prefix('v').and_then(|rest| rest.split('.').next()?.parse().ok());
    assert!(major >= Some(OLDEST_NODE), "Node {OLDEST_NODE} or newer is needed, not {version:?}");
}

/// Every file below a directory, by its path from there.
fn files_of(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                // What a developer installed there by hand is not part of the program.
                if !path.ends_with("node_modules") {
                    directories.push(path);
                }
                continue;
            }
            let content = fs::read(&path).expect("the file can be read");
            files.insert(path.strip_prefix(root).expect("it is below").to_path_buf(), content);
        }
    }
    files
}
