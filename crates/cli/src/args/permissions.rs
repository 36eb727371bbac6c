//! What workers may do, and how much, on the command line.

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use phalanx::{Account, Capability, Inherit, Landlock, Limit, Permissions, Settings};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Permissions")]
pub(crate) struct Rights {
    /// Workers run as this user, with its group and its supplementary groups; the primary keeps its rights and opens
    /// the ports
    #[arg(long, visible_alias = "uid", value_name = "NAME|UID", value_parser = account)]
    user: Option<Account>,
    /// Their group, instead of the user's
    #[arg(long, visible_alias = "gid", value_name = "NAME|GID", value_parser = account)]
    group: Option<Account>,
    /// Their supplementary groups, instead of the user's; or none
    #[arg(long, value_name = "GROUP,…|none", value_parser = groups)]
    groups: Option<Groups>,
    /// Their root directory (chroot); the program and its script are named as they are seen in there
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// No exec gives them more rights than they have, as setuid programs do
    #[arg(long)]
    no_new_privs: bool,
    /// The capabilities that workers may ever have, all others are dropped; or none
    #[arg(long, value_name = "NAME,…|none", value_parser = capabilities)]
    capabilities: Option<Kept>,
    /// Files and directories that workers may read and execute, and no others (Landlock); may be given several times
    #[arg(long, value_name = "PATH,…", value_delimiter = ',')]
    landlock_ro: Vec<PathBuf>,
    /// Files and directories that workers may do everything with, and no others (Landlock); may be given several times
    #[arg(long, value_name = "PATH,…", value_delimiter = ',')]
    landlock_rw: Vec<PathBuf>,
    /// Which permissions their new files do not have, in base 8
    #[arg(long, value_name = "MODE", value_parser = umask)]
    umask: Option<u32>,
    /// How willingly they let others run: from -20 to 19
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = nice)]
    nice: Option<i32>,
    /// How many descriptors each may have, and how far it may raise that
    #[arg(long, value_name = "N[:HARD]", value_parser = open_files)]
    open_files: Option<Limit>,
    /// How many bytes are written where one crashes
    #[arg(long, value_name = "BYTES|unlimited|none", value_parser = core)]
    core: Option<Limit>,
    /// The only variables that workers inherit: names, or their beginnings with * at the end
    #[arg(long, value_name = "NAME,…", value_parser = patterns, conflicts_with = "env_except")]
    env_only: Vec<Patterns>,
    /// Variables that workers do not inherit: names, or their beginnings with * at the end
    #[arg(long, value_name = "NAME,…", value_parser = patterns)]
    env_except: Vec<Patterns>,
    /// A variable whose value is in a file, which only the primary has to be able to read; may be given several times
    #[arg(long, value_name = "NAME=FILE", value_parser = OsStringValueParser::new().try_map(|text: OsString| secret(&text)))]
    secret: Vec<(OsString, PathBuf)>,
}

/// Lists in one argument. clap would take a `Vec` for several of them.
#[derive(Clone, Debug)]
struct Groups(Vec<Account>);

#[derive(Clone, Debug)]
struct Kept(Vec<Capability>);

#[derive(Clone, Debug)]
struct Patterns(Vec<OsString>);

impl Rights {
    /// Their root, as the primary sees it.
    pub(crate) fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Says it in the settings.
    pub(crate) fn apply(self, settings: &mut Settings) {
        let landlock = Landlock { read_only: self.landlock_ro, read_write: self.landlock_rw };
        settings.permissions = Permissions {
            user: self.user,
            group: self.group,
            groups: self.groups.map(|Groups(groups)| groups),
            root: self.root,
            no_new_privs: self.no_new_privs,
            capabilities: self.capabilities.map(|Kept(kept)| kept.into_iter().collect()),
            landlock: Some(landlock).filter(|landlock| *landlock != Landlock::default()),
            umask: self.umask,
            nice: self.nice,
            open_files: self.open_files,
            core: self.core,
        };
        let all =
            |lists: Vec<Patterns>| lists.into_iter().flat_map(|Patterns(list)| list).collect();
        settings.environment = match (self.env_only, self.env_except) {
            (only, _) if !only.is_empty() => Inherit::Only(all(only)),
            (_, except) if !except.is_empty() => Inherit::Except(all(except)),
            _ => Inherit::All,
        };
        settings.secrets = self.secret;
    }
}

/// The words of a list; none if that is the word.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(move |_| text != "none")
}

/// Digits are a number; clap by itself would take all for a name.
fn account(text: &str) -> Result<Account, String> {
    text.parse()
}

fn groups(text: &str) -> Result<Groups, String> {
    words(text).map(str::parse).collect::<Result<_, _>>().map(Groups)
}

fn capabilities(text: &str) -> Result<Kept, String> {
    words(text).map(str::parse).collect::<Result<_, _>>().map(Kept)
}

fn umask(text: &str) -> Result<u32, String> {
    let umask = u32::from_str_radix(text, 8).ok().filter(|umask| *umask <= 0o777);
    umask.ok_or_else(|| "expected a number from 000 to 777, in base 8".into())
}

fn nice(text: &str) -> Result<i32, String> {
    let nice = text.parse().ok().filter(|nice| (-20..=19).contains(nice));
    nice.ok_or_else(|| "expected a number from -20 to 19".into())
}

fn open_files(text: &str) -> Result<Limit, String> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0);
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    match (number(soft), number(hard)) {
        (Some(soft), Some(hard)) if soft <= hard => {
            Ok(Limit { soft: Some(soft), hard: Some(hard) })
        }
        _ => Err("expected a number, or one and the most to which it may be raised".into()),
    }
}

fn core(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit::both(0)),
        "unlimited" => Ok(Limit::UNLIMITED),
        _ => text
            .parse()
            .map(Limit::both)
            .map_err(|_| "expected a number of bytes, unlimited or none".into()),
    }
}

fn patterns(text: &str) -> Result<Patterns, String> {
    let wrong = |word: &str| {
        let name = word.strip_suffix('*').unwrap_or(word);
        word.is_empty() || name.contains(['*', '='])
    };
    match text.split(',').map(str::trim).find(|word| wrong(word)) {
        Some(word) => {
            Err(format!("`{word}` is no name, and no beginning of one with * at the end"))
        }
        None => Ok(Patterns(text.split(',').map(|word| word.trim().into()).collect())),
    }
}

fn secret(text: &OsStr) -> Result<(OsString, PathBuf), String> {
    let mut parts = text.as_bytes().splitn(2, |byte| *byte == b'=');
    match (parts.next(), parts.next()) {
        (Some(name), Some(file)) if !name.is_empty() && !file.is_empty() => {
            Ok((OsStr::from_bytes(name).into(), OsStr::from_bytes(file).into()))
        }
        _ => Err("expected NAME=FILE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let kept = |text| capabilities(text).map(|Kept(kept)| kept.len());
        assert_eq!(kept("none"), Ok(0));
        assert_eq!(kept("net_raw, CAP_CHOWN"), Ok(2));
        for wrong in ["", "all", "net_raw,", "none,chown"] {
            let error = kept(wrong).expect_err(wrong);
            assert!(error.contains("net_bind_service"), "{error}");
        }
        assert_eq!(account("4711"), Ok(4711.into()));
        assert_eq!(account("www-data"), Ok("www-data".into()));
        assert!(account("4294967295").is_err() && account("").is_err());
        let in_groups = |text| groups(text).map(|Groups(groups)| groups);
        assert_eq!(in_groups("none"), Ok(vec![]));
        assert_eq!(in_groups("adm,4"), Ok(vec!["adm".into(), 4.into()]));
        assert!(in_groups("adm,").is_err());
        assert!(patterns("A,B_*").is_ok());
        for wrong in ["", "A,", "A*B", "A=B", "**"] {
            assert!(patterns(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!((umask("027"), umask("0")), (Ok(0o27), Ok(0)));
        for wrong in ["", "8", "1000", "-1", "0o27", "u=rwx"] {
            assert!(umask(wrong).is_err(), "{wrong}");
        }
        assert_eq!((nice("-20"), nice("19")), (Ok(-20), Ok(19)));
        for wrong in ["", "-21", "20", "1.5"] {
            assert!(nice(wrong).is_err(), "{wrong}");
        }
        assert_eq!(open_files("64"), Ok(Limit::both(64)));
        assert_eq!(open_files("64:128"), Ok(Limit { soft: Some(64), hard: Some(128) }));
        for wrong in ["", "0", "128:64", "64:", ":64", "1:2:3", "many"] {
            assert!(open_files(wrong).is_err(), "{wrong}");
        }
        assert_eq!(core("unlimited"), Ok(Limit::UNLIMITED));
        assert_eq!((core("none"), core("4096")), (Ok(Limit::both(0)), Ok(Limit::both(4096))));
        for wrong in ["", "-1", "1M"] {
            assert!(core(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_and_files() {
        let of =
            |text: &str| secret(OsStr::new(text)).map(|(name, file)| format!("{name:?} {file:?}"));
        assert_eq!(of("KEY=/run/key").as_deref(), Ok("\"KEY\" \"/run/key\""));
        assert_eq!(of("KEY=a=b").as_deref(), Ok("\"KEY\" \"a=b\""));
        for wrong in ["", "=", "KEY", "=file", "KEY="] {
            assert_eq!(of(wrong), Err("expected NAME=FILE".into()), "{wrong}");
        }
    }
}
