//! From what was asked for to what a child does: looked up, opened and checked in the primary.

use super::{Account, Capability, Limit, Permissions, environment};
use crate::error::{Error, Result};
use crate::settings::Settings;
use crate::sys::accounts;
use crate::sys::permit::{Permit, Step};
use phalanx_core::worker::WorkerId;
use rustix::process::{Resource, Rlimit, getgid, getrlimit, getuid};
use std::ffi::{CString, OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What a child does before its program begins. `preload`: a file that it has to be able to read.
pub(crate) fn permit(settings: &Settings, preload: Option<&Path>) -> Result<Permit> {
    let wanted = &settings.permissions;
    let ids = Ids::of(settings)?;
    let text = |path: &Path| {
        let text = CString::new(path.as_os_str().as_bytes());
        text.map_err(|error| {
            refused(format!("cannot use the path {}", path.display()), error.into())
        })
    };
    #[cfg(not(target_os = "linux"))]
    let _ = preload;
    Ok(Permit {
        umask: wanted.umask,
        nice: wanted.nice,
        open_files: wanted.open_files.map(numbers),
        core: wanted.core.map(numbers),
        groups: ids.groups,
        root: wanted.root.as_deref().map(text).transpose()?,
        #[cfg(target_os = "linux")]
        landlock: rules(wanted, preload)?,
        #[cfg(not(target_os = "linux"))]
        landlock: None,
        keep: wanted.capabilities.as_ref().map(|kept| kept.iter().fold(0, |all, c| all | c.bit())),
        gid: ids.gid,
        uid: ids.uid,
        no_new_privs: wanted.no_new_privs,
        directory: settings.cwd.as_deref().map(text).transpose()?,
    })
}

/// That workers can be started like that, as far as it can be known before one is: and what they are then, in words, if
/// it is not what the primary is.
pub(crate) fn check(settings: &Settings) -> Result<Option<String>> {
    settings.environment.check()?;
    environment::with_secrets(settings)?;
    let wanted = &settings.permissions;
    check_numbers(wanted)?;
    check_kernel(wanted)?;
    check_root(settings)?;
    let permit = permit(settings, None)?;
    let fails = |step, source| Err(step_failed(settings, None, step, source));
    for (step, capability) in needed(wanted, &permit) {
        if !has(capability) {
            return fails(step, io::Error::from_raw_os_error(libc::EPERM));
        }
    }
    Ok(in_words(settings, &permit))
}

fn refused(what: String, source: io::Error) -> Error {
    Error::Permissions { what, source, hint: None }
}

fn invalid(what: impl Into<String>, why: impl Into<String>) -> Error {
    refused(what.into(), io::Error::new(io::ErrorKind::InvalidInput, why.into()))
}

/// Numbers that the kernel would make others of without a word.
fn check_numbers(wanted: &Permissions) -> Result<()> {
    if let Some(nice) = wanted.nice
        && !(-20..=19).contains(&nice)
    {
        return Err(invalid(format!("cannot set nice to {nice}"), "it is from -20 to 19"));
    }
    if let Some(umask) = wanted.umask
        && umask > 0o777
    {
        let what = format!("cannot set the umask to {umask:o}");
        return Err(invalid(what, "it is from 000 to 777, in base 8"));
    }
    for (name, limit) in [("open files", wanted.open_files), ("core dumps", wanted.core)] {
        let Some(limit) = limit else { continue };
        let (soft, hard) = numbers(limit);
        if soft > hard {
            let what = format!("cannot set the limit of {name} to {limit}");
            return Err(invalid(what, "what is enforced is above how far it may be raised"));
        }
    }
    if let Some(limit) = wanted.open_files
        && let Some(most) = most_files()
        && numbers(limit).1 > most
    {
        let what = format!("cannot set the limit of open files to {limit}");
        return Err(invalid(what, format!("this kernel gives {most} at most (fs.nr_open)")));
    }
    Ok(())
}

/// How many descriptors the kernel gives to any process.
fn most_files() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/fs/nr_open").ok()?.trim().parse().ok()
}

#[cfg(target_os = "linux")]
fn check_kernel(wanted: &Permissions) -> Result<()> {
    for capability in wanted.capabilities.iter().flatten() {
        if crate::sys::permit::in_bounding_set(capability.number().into()).is_none() {
            let what = format!("cannot keep the capability {capability}");
            let source = io::Error::new(io::ErrorKind::Unsupported, "this kernel has no such");
            return Err(refused(what, source));
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn check_kernel(wanted: &Permissions) -> Result<()> {
    let missing = [
        ("no_new_privs", wanted.no_new_privs),
        ("capabilities", wanted.capabilities.is_some()),
        ("landlock", wanted.landlock.is_some()),
    ];
    match missing.into_iter().find(|(_, wanted)| *wanted) {
        None => Ok(()),
        Some((name, _)) => {
            let source = io::Error::new(io::ErrorKind::Unsupported, "only Linux has it");
            Err(refused(format!("cannot start workers with {name}"), source))
        }
    }
}

/// That the root is a directory, and that the program is in it.
fn check_root(settings: &Settings) -> Result<()> {
    let Some(root) = &settings.permissions.root else { return Ok(()) };
    let fails = |source| step_failed(settings, None, Step::Root, source);
    if !std::fs::metadata(root).map_err(fails)?.is_dir() {
        return Err(fails(io::Error::from_raw_os_error(libc::ENOTDIR)));
    }
    let program = match &settings.exec {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(Error::os("cannot find this program"))?,
    };
    let inside = within(root, &program);
    // A link may lead to somewhere else in there.
    match inside.symlink_metadata() {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::Permissions {
            what: format!("cannot start {} in the root {}", program.display(), root.display()),
            source,
            hint: Some(format!("the program has to be at {}", inside.display())),
        }),
    }
}

/// Where a path is that is meant in a root.
fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(target_os = "linux")]
fn rules(wanted: &Permissions, preload: Option<&Path>) -> Result<Option<rustix::fd::OwnedFd>> {
    let Some(landlock) = &wanted.landlock else { return Ok(None) };
    match super::landlock::rules(landlock, preload) {
        Ok(rules) => Ok(Some(rules)),
        Err(super::landlock::Refused { path: Some(path), source }) => {
            Err(refused(format!("cannot let workers use {}", path.display()), source))
        }
        Err(super::landlock::Refused { path: None, source }) => Err(Error::Permissions {
            what: "cannot confine workers with Landlock".into(),
            source,
            hint: Some(
                "Linux 6.2 or newer has it, where `landlock` is among the modules in /sys/kernel/security/lsm and a container's profile lets it pass"
                    .into(),
            ),
        }),
    }
}

fn numbers(limit: Limit) -> (u64, u64) {
    #[allow(clippy::unnecessary_cast, reason = "it is another type on other systems")]
    let number = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY as u64);
    (number(limit.soft), number(limit.hard))
}

/// What a program expects to find of its user in its environment, as at a login.
pub(crate) fn login(settings: &Settings) -> Result<Vec<(OsString, OsString)>> {
    let user = settings.permissions.user.as_ref();
    let Some(entry) = user.map(find_user).transpose()?.flatten() else { return Ok(Vec::new()) };
    let text = |text: CString| OsString::from_vec(text.into_bytes());
    let name = text(entry.name);
    Ok(vec![
        ("HOME".into(), text(entry.home)),
        ("USER".into(), name.clone()),
        ("LOGNAME".into(), name),
    ])
}

/// Who a worker is.
struct Ids {
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Option<Vec<u32>>,
}

impl Ids {
    fn of(settings: &Settings) -> Result<Self> {
        let Permissions { user, group, groups, .. } = &settings.permissions;
        let entry = user.as_ref().map(find_user).transpose()?.flatten();
        let given = group.as_ref().map(find_group).transpose()?.or(settings.gid);
        let (uid, gid) = match (user, &entry) {
            (None, _) => (settings.uid, given),
            (Some(_), Some(entry)) => (Some(entry.uid), Some(given.unwrap_or(entry.gid))),
            (Some(Account::Id(number)), None) if given.is_some() => (Some(*number), given),
            (Some(user), None) => {
                return Err(Error::Permissions {
                    what: format!("cannot run workers as the user {user}"),
                    source: io::Error::new(
                        io::ErrorKind::NotFound,
                        "the user database does not have it, so its group is not known",
                    ),
                    hint: Some("name a group too (--group)".into()),
                });
            }
        };
        let groups = match (groups, &entry, gid) {
            (Some(list), ..) => Some(list.iter().map(find_group).collect::<Result<_>>()?),
            (None, Some(entry), Some(gid)) => {
                let found = accounts::groups_of(&entry.name, gid);
                Some(found.map_err(|error| {
                    let name = entry.name.to_string_lossy();
                    refused(format!("cannot find the groups of the user {name}"), error)
                })?)
            }
            // Of nobody that is known: in none. Who is not root could not change it.
            _ => (uid.is_some() && getuid().is_root()).then(Vec::new),
        };
        Ok(Self { uid, gid, groups: groups.filter(|groups| !is_in_just(groups)) })
    }
}

/// Whether this process is in just these groups, so that somebody without rights need not ask for them.
fn is_in_just(groups: &[u32]) -> bool {
    let sorted = |groups: &mut Vec<u32>| {
        groups.push(getgid().as_raw());
        groups.sort_unstable();
        groups.dedup();
    };
    let mut wanted = groups.to_vec();
    let Ok(there) = rustix::process::getgroups() else { return false };
    let mut there: Vec<u32> = there.into_iter().map(rustix::process::Gid::as_raw).collect();
    sorted(&mut wanted);
    sorted(&mut there);
    !getuid().is_root() && wanted == there
}

/// A user's entry; `None`: a number that has none.
fn find_user(user: &Account) -> Result<Option<accounts::User>> {
    let failed = |source| refused(format!("cannot run workers as the user {user}"), source);
    match user {
        Account::Id(number) => accounts::user_numbered(*number).map_err(failed),
        Account::Name(name) => {
            let found = accounts::user_named(&text(name).map_err(failed)?).map_err(failed)?;
            found.map(Some).ok_or_else(|| failed(nobody("user")))
        }
    }
}

fn find_group(group: &Account) -> Result<u32> {
    let failed = |source| refused(format!("cannot run workers in the group {group}"), source);
    match group {
        Account::Id(number) => Ok(*number),
        Account::Name(name) => {
            let found = accounts::group_named(&text(name).map_err(failed)?).map_err(failed)?;
            found.ok_or_else(|| failed(nobody("group")))
        }
    }
}

fn text(name: &str) -> io::Result<CString> {
    CString::new(name).map_err(io::Error::from)
}

fn nobody(kind: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no such {kind}"))
}

/// Which of its capabilities the primary has to have for what a child does.
fn needed(wanted: &Permissions, permit: &Permit) -> Vec<(Step, Capability)> {
    let mut all = Vec::new();
    let mut need = |needed: bool, step, capability| {
        if needed {
            all.push((step, capability));
        }
    };
    let may_raise = |limit: Option<(u64, u64)>, resource| {
        let Rlimit { maximum, .. } = getrlimit(resource);
        limit.is_some_and(|(_, hard)| maximum.is_some_and(|maximum| hard > maximum))
    };
    let willing = rustix::process::getpriority_process(None).unwrap_or(0);
    let nicer = wanted.nice.is_some_and(|nice| nice < willing && !is_free(nice));
    need(nicer, Step::Nice, Capability::SYS_NICE);
    let files = may_raise(permit.open_files, Resource::Nofile);
    need(files, Step::OpenFiles, Capability::SYS_RESOURCE);
    need(may_raise(permit.core, Resource::Core), Step::Core, Capability::SYS_RESOURCE);
    need(permit.root.is_some(), Step::Root, Capability::SYS_CHROOT);
    need(drops(permit), Step::Capabilities, Capability::SETPCAP);
    // What is said first is what was asked for.
    let own_user = permit.uid.is_none_or(|uid| uid == getuid().as_raw());
    need(!own_user, Step::User, Capability::SETUID);
    let own_group = permit.gid.is_none_or(|gid| gid == getgid().as_raw());
    need(!own_group, Step::Group, Capability::SETGID);
    need(permit.groups.is_some(), Step::Groups, Capability::SETGID);
    all
}

/// Whether everybody here may be so unwilling to wait (getrlimit(2), `RLIMIT_NICE`).
#[cfg(target_os = "linux")]
fn is_free(nice: i32) -> bool {
    let ceiling = getrlimit(Resource::Nice).current;
    ceiling.is_none_or(|ceiling| i64::from(20 - nice) <= i64::try_from(ceiling).unwrap_or(0))
}

#[cfg(not(target_os = "linux"))]
const fn is_free(_: i32) -> bool {
    false
}

/// Whether there is something to be dropped from the bounding set.
#[cfg(target_os = "linux")]
fn drops(permit: &Permit) -> bool {
    let Some(keep) = permit.keep else { return false };
    (0..u64::BITS)
        .map_while(|n| Some((n, crate::sys::permit::in_bounding_set(n)?)))
        .any(|(n, there)| there && keep & (1 << n) == 0)
}

#[cfg(not(target_os = "linux"))]
const fn drops(_: &Permit) -> bool {
    false
}

/// Whether the primary has a capability. What cannot be known is for the child to try.
#[cfg(target_os = "linux")]
fn has(capability: Capability) -> bool {
    crate::sys::permit::effective().is_ok_and(|sets| sets & capability.bit() != 0)
}

#[cfg(not(target_os = "linux"))]
fn has(_: Capability) -> bool {
    rustix::process::geteuid().is_root()
}

/// What a step is about, in the words of the settings.
fn what_is(settings: &Settings, step: Step) -> String {
    let wanted = &settings.permissions;
    let limit = |limit: Option<Limit>| limit.map(|limit| limit.to_string()).unwrap_or_default();
    let account = |account: &Option<Account>, number: Option<u32>| {
        let account = account.clone().or(number.map(Account::Id));
        account.map(|account| account.to_string()).unwrap_or_default()
    };
    let path = |path: &Option<PathBuf>| {
        path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    };
    match step {
        Step::Umask => "set the umask".into(),
        Step::Nice => format!("set nice to {}", wanted.nice.unwrap_or_default()),
        Step::OpenFiles => format!("set the limit of open files to {}", limit(wanted.open_files)),
        Step::Core => format!("set the limit of core dumps to {}", limit(wanted.core)),
        Step::Groups => "set the supplementary groups".into(),
        Step::Root => format!("change root to {}", path(&wanted.root)),
        Step::NoNewPrivs => "set no_new_privs".into(),
        Step::Landlock => "put Landlock's rules in force".into(),
        Step::Capabilities => "drop capabilities".into(),
        // It may be the user's, and have no name here.
        Step::Group if wanted.group.is_none() && settings.gid.is_none() => {
            format!("change the group to that of {}", account(&wanted.user, settings.uid))
        }
        Step::Group => format!("change the group to {}", account(&wanted.group, settings.gid)),
        Step::User => format!("change the user to {}", account(&wanted.user, settings.uid)),
        Step::Directory => format!("change to the directory {}", path(&settings.cwd)),
    }
}

/// A child could not do a step; `None`: none could.
pub(crate) fn step_failed(
    settings: &Settings,
    worker: Option<WorkerId>,
    step: Step,
    source: io::Error,
) -> Error {
    let whom = worker.map_or("workers".into(), |worker| format!("worker {worker}"));
    let what = format!("cannot {} for {whom}", what_is(settings, step));
    let capability = match step {
        Step::Nice => Some(Capability::SYS_NICE),
        Step::OpenFiles | Step::Core => Some(Capability::SYS_RESOURCE),
        Step::Groups | Step::Group => Some(Capability::SETGID),
        Step::Root => Some(Capability::SYS_CHROOT),
        Step::Capabilities => Some(Capability::SETPCAP),
        Step::User => Some(Capability::SETUID),
        Step::Umask | Step::NoNewPrivs | Step::Landlock | Step::Directory => None,
    };
    let forbidden = matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES));
    match capability.filter(|capability| forbidden && !has(*capability)) {
        Some(capability) => {
            let name = format!("CAP_{}", capability.to_string().to_uppercase());
            let why = if getuid().is_root() {
                format!("Operation not permitted (this root has no {name})")
            } else {
                "Operation not permitted (only root may)".into()
            };
            Error::Permissions {
                what,
                source: io::Error::new(io::ErrorKind::PermissionDenied, why),
                hint: Some(format!("start it as root, or with {name}")),
            }
        }
        None if source.raw_os_error() == Some(libc::EINVAL)
            && matches!(step, Step::User | Step::Group | Step::Groups) =>
        {
            let hint = "in a user namespace (a container without root) only the numbers in /proc/self/uid_map and gid_map are there";
            Error::Permissions { what, source, hint: Some(hint.into()) }
        }
        None => refused(what, source),
    }
}

/// A program could not be run by who a worker is, where it is.
pub(crate) fn exec_failed(settings: &Settings, program: &Path, source: io::Error) -> Error {
    let wanted = &settings.permissions;
    let mut words = String::new();
    match (source.raw_os_error(), &wanted.root) {
        (Some(libc::ENOENT), Some(root)) => {
            let _ = write!(
                words,
                " (it, its interpreter and its libraries have to be in the root {})",
                root.display()
            );
        }
        (Some(libc::EACCES), _) if wanted.landlock.is_some() => words.push_str(
            " (it, its interpreter and its libraries have to be among the paths for Landlock)",
        ),
        (Some(libc::EACCES), _) if wanted.user.is_some() || settings.uid.is_some() => {
            let _ = write!(
                words,
                " (as the user of workers, {}: may it run that, and enter every directory above?)",
                wanted.user.clone().or(settings.uid.map(Account::Id)).unwrap_or(Account::Id(0))
            );
        }
        _ => {}
    }
    let source = match words.as_str() {
        "" => source,
        words => io::Error::new(source.kind(), format!("{}{words}", plain(&source))),
    };
    Error::Start { program: program.display().to_string(), source }
}

/// Without the number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// What workers are, if it is not what the primary is.
fn in_words(settings: &Settings, permit: &Permit) -> Option<String> {
    let wanted = &settings.permissions;
    let mut all = Vec::new();
    if let Some(uid) = permit.uid {
        let name = wanted.user.as_ref().map(|user| format!("{user}, ")).unwrap_or_default();
        all.push(format!("user {name}number {uid}"));
    }
    all.extend(permit.gid.map(|gid| format!("group {gid}")));
    if let Some(groups) = &permit.groups {
        all.push(format!("groups {}", list(groups)));
    }
    all.extend(wanted.root.as_ref().map(|root| format!("root {}", root.display())));
    all.extend(wanted.no_new_privs.then(|| "no new privileges".into()));
    all.extend(wanted.capabilities.as_ref().map(|kept| {
        let kept: Vec<_> = kept.iter().collect();
        format!("capabilities {}", list(&kept))
    }));
    all.extend(wanted.landlock.as_ref().map(|landlock| {
        let (read, write) = (landlock.read_only.len(), landlock.read_write.len());
        format!("Landlock (paths: {read} to read, {write} to write)")
    }));
    all.extend(wanted.umask.map(|umask| format!("umask {umask:03o}")));
    all.extend(wanted.nice.map(|nice| format!("nice {nice}")));
    all.extend(wanted.open_files.map(|limit| format!("open files {limit}")));
    all.extend(wanted.core.map(|limit| format!("core dumps {limit}")));
    all.extend(match &settings.environment {
        super::Inherit::All => None,
        super::Inherit::Only(only) => Some(format!("of the environment only {}", names(only))),
        super::Inherit::Except(except) => {
            Some(format!("the environment without {}", names(except)))
        }
    });
    if !settings.secrets.is_empty() {
        let all_names: Vec<_> = settings.secrets.iter().map(|(name, _)| name.clone()).collect();
        all.push(format!("secrets {}", names(&all_names)));
    }
    (!all.is_empty()).then(|| all.join("; "))
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    if items.is_empty() { "none".into() } else { items.join(",") }
}

fn names(items: &[impl AsRef<OsStr>]) -> String {
    let items: Vec<_> = items.iter().map(|item| item.as_ref().to_string_lossy()).collect();
    list(&items)
}
