//! What workers may do, and how much: their user, their root, their capabilities, their limits.

mod capability;
mod environment;
#[cfg(target_os = "linux")]
mod landlock;
mod prepare;
#[cfg(test)]
mod tests;

pub use capability::Capability;
pub use environment::Inherit;
pub(crate) use environment::with_secrets;
pub(crate) use prepare::{check, exec_failed, login, permit, step_failed};

use crate::settings::Settings;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What workers may do, and how much. By default what the primary may.
///
/// It is done in a worker's process before its program begins; the primary keeps its own rights, and opens the ports.
/// What this machine or this primary cannot do is an error of [`Primary::start`](crate::Primary::start), before
/// any worker is forked.
///
/// ```
/// use phalanx::{Limit, Permissions, Settings};
/// let mut settings = Settings::default();
/// settings.permissions = Permissions {
///     user: Some("www-data".into()),
///     no_new_privs: true,
///     capabilities: Some([].into()),
///     open_files: Some(Limit::both(4096)),
///     ..Permissions::default()
/// };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Its user, with its group, its supplementary groups, `HOME`, `USER` and `LOGNAME`, as at a login. A number that the user database does not
    /// know needs a `group`.
    pub user: Option<Account>,
    /// Its group, instead of its user's.
    pub group: Option<Account>,
    /// Its supplementary groups, instead of its user's.
    pub groups: Option<Vec<Account>>,
    /// Its root directory (`chroot(2)`). The program, [`Settings::cwd`] and all that it needs are looked for in there.
    pub root: Option<PathBuf>,
    /// No exec gives it more rights than it has, as setuid programs do. Linux.
    pub no_new_privs: bool,
    /// The capabilities that it may ever have (the bounding set): all others are dropped from all sets. It gives none
    /// to who has none: a user that is not root. Linux.
    pub capabilities: Option<BTreeSet<Capability>>,
    /// The only files that it gets at. Linux 6.2 or newer.
    pub landlock: Option<Landlock>,
    /// Which permissions its new files do not have: `0o027`.
    pub umask: Option<u32>,
    /// How willingly it lets others run: -20 to 19, where less than the primary's needs rights.
    pub nice: Option<i32>,
    /// How many descriptors it may have. By default as many as the primary may; a program that
    /// [knows nothing](crate::Knows::Nothing), as many as the primary was started with.
    pub open_files: Option<Limit>,
    /// How many bytes of it are written where it crashes.
    pub core: Option<Limit>,
}

/// The files that a worker gets at (Landlock), by the paths that the primary sees; directories with all in them.
///
/// All that it needs has to be there: its program, the libraries, `/dev/null`. The preload of Node workers is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Landlock {
    /// To read and to execute.
    pub read_only: Vec<PathBuf>,
    /// To do everything with.
    pub read_write: Vec<PathBuf>,
}

/// A user or a group: a number, or a name that is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// Its number.
    Id(u32),
    /// Its name.
    Name(String),
}

impl From<u32> for Account {
    fn from(number: u32) -> Self {
        Self::Id(number)
    }
}

/// A name, even if it looks like a number; [`Account::from_str`] tells them apart.
impl From<&str> for Account {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl FromStr for Account {
    type Err = String;

    /// Digits are a number.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains(['\0', ':', '\n', ',']) {
            return Err("expected a name or a number".into());
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(text.to_owned()));
        }
        // The last one means “leave it as it is” (setresuid(2)).
        let number = text.parse().ok().filter(|number| *number != u32::MAX);
        number.map(Self::Id).ok_or_else(|| format!("expected a number below {}", u32::MAX))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A limit (`setrlimit(2)`): what is enforced, and how far the worker may raise that. `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is enforced.
    pub soft: Option<u64>,
    /// How far the worker may raise it.
    pub hard: Option<u64>,
}

impl Limit {
    /// Without an end.
    pub const UNLIMITED: Self = Self { soft: None, hard: None };

    /// So much, for good.
    #[must_use]
    pub const fn both(limit: u64) -> Self {
        Self { soft: Some(limit), hard: Some(limit) }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |limit: Option<u64>| limit.map_or("unlimited".into(), |n| n.to_string());
        f.write_str(&words(self.soft))?;
        if self.soft == self.hard { Ok(()) } else { write!(f, ":{}", words(self.hard)) }
    }
}

/// Whether such workers are somebody else than the primary, who must not do for them what they may not do themselves.
pub(crate) fn are_others(settings: &Settings) -> bool {
    let Permissions { user, group, groups, root, capabilities, landlock, .. } =
        &settings.permissions;
    settings.uid.is_some()
        || settings.gid.is_some()
        || user.is_some()
        || group.is_some()
        || groups.is_some()
        || root.is_some()
        || capabilities.is_some()
        || landlock.is_some()
}
