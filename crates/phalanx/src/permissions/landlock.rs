//! A set of Landlock's rules, made in the primary for a child to be put under (landlock(7)).

use super::Landlock;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError,
};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// What is denied: reading, executing, and every way to change a file or a directory, truncating included. Linux 6.2:
/// before, what is read-only could be truncated.
const VERSION: ABI = ABI::V3;

/// Why there are no rules: at a path, or of the whole.
pub(super) struct Refused {
    pub(super) path: Option<PathBuf>,
    pub(super) source: io::Error,
}

/// The rules, and nothing less: a kernel that cannot hold all of them is an error.
pub(super) fn rules(landlock: &Landlock, preload: Option<&Path>) -> Result<OwnedFd, Refused> {
    let unsupported = |error: RulesetError| Refused { path: None, source: lacks(&error) };
    let mut set = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(VERSION))
        .and_then(Ruleset::create)
        .map_err(unsupported)?;
    // Rules are about the file that is there now, and another primary may put its own in that place at any time:
    // so it is all that is in the preload's private directory.
    if let Some(place) = preload.and_then(Path::parent) {
        set = allow(set, place, AccessFs::ReadFile.into())?;
    }
    for path in &landlock.read_only {
        set = allow(set, path, AccessFs::from_read(VERSION))?;
    }
    for path in &landlock.read_write {
        set = allow(set, path, AccessFs::from_all(VERSION))?;
    }
    Option::<OwnedFd>::from(set).ok_or_else(|| Refused {
        path: None,
        source: io::Error::new(io::ErrorKind::Unsupported, LACKS),
    })
}

fn allow(
    set: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, Refused> {
    let failed = |source: io::Error| Refused { path: Some(path.to_owned()), source };
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let opened = opened.map_err(|error| failed(error.into()))?;
    let kind = rustix::fs::fstat(&opened).map_err(|error| failed(error.into()))?.st_mode;
    let access = match FileType::from_raw_mode(kind) {
        FileType::Directory => access,
        // The others are about what is in a directory.
        _ => access & AccessFs::from_file(VERSION),
    };
    set.add_rule(PathBeneath::new(opened, access))
        .map_err(|error| failed(io::Error::other(causes(&error))))
}

const LACKS: &str = "this kernel has not all of Landlock";

fn lacks(error: &RulesetError) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{LACKS} ({})", causes(error)))
}

/// An error and what it comes from.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            let _ = write!(text, ": {words}");
        }
        next = cause.source();
    }
    text
}
