use super::*;
use crate::error::Error;
use std::path::Path;

fn with(permissions: Permissions) -> Settings {
    Settings { permissions, ..Settings::default() }
}

fn refused(permissions: &Permissions) -> String {
    match check(&with(permissions.clone())) {
        Err(error @ Error::Permissions { .. }) => error.to_string(),
        other => panic!("{permissions:?}: {other:?}"),
    }
}

#[test]
fn nothing_is_changed_by_default() {
    let settings = Settings::default();
    assert_eq!(check(&settings).expect("nothing to do"), None);
    assert!(!are_others(&settings));
    let permit = permit(&settings, None).expect("nothing to do");
    let said = format!("{permit:?}");
    assert!(!said.contains("Some") && !said.contains("true"), "{said}");
}

#[test]
fn what_the_kernel_would_make_another_of_is_refused() {
    let default = Permissions::default;
    let limit = |soft, hard| Some(Limit { soft, hard });
    for (permissions, words) in [
        (
            Permissions { nice: Some(20), ..default() },
            "cannot set nice to 20: it is from -20 to 19",
        ),
        (Permissions { nice: Some(-21), ..default() }, "cannot set nice to -21"),
        (Permissions { umask: Some(0o1000), ..default() }, "cannot set the umask to 1000"),
        (
            Permissions { open_files: limit(Some(2), Some(1)), ..default() },
            "cannot set the limit of open files to 2:1",
        ),
        (
            Permissions { core: limit(None, Some(1)), ..default() },
            "cannot set the limit of core dumps to unlimited:1",
        ),
        (Permissions { user: Some("no-such".into()), ..default() }, "there is no such user"),
        (Permissions { user: Some("a\0b".into()), ..default() }, "cannot run workers as the user"),
        (Permissions { user: Some(4_000_000_000.into()), ..default() }, "its group is not known"),
        (Permissions { group: Some("no-such".into()), ..default() }, "there is no such group"),
        (
            Permissions { groups: Some(vec![0.into(), "no-such".into()]), ..default() },
            "cannot run workers in the group no-such",
        ),
        (
            Permissions { root: Some("/no/such".into()), ..default() },
            "cannot change root to /no/such for workers: No such file",
        ),
        (
            Permissions { root: Some("/etc/passwd".into()), ..default() },
            "cannot change root to /etc/passwd for workers: Not a directory",
        ),
        (Permissions { root: Some("/etc".into()), ..default() }, "in the root /etc: No such file"),
    ] {
        let said = refused(&permissions);
        assert!(said.contains(words), "{said}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_landlock_is_not_given_is_named() {
    let landlock = Landlock { read_only: vec!["/no/such".into()], ..Landlock::default() };
    let said = refused(&Permissions { landlock: Some(landlock), ..Permissions::default() });
    // On a kernel without Landlock that is what is said.
    let expected = ["cannot let workers use /no/such: No such file", "cannot confine workers"];
    assert!(expected.iter().any(|words| said.contains(words)), "{said}");
}

#[test]
fn a_user_comes_with_its_groups() {
    let permissions = Permissions { user: Some("root".into()), ..Permissions::default() };
    let named = permit(&with(permissions.clone()), None).expect("root is known");
    assert_eq!((named.uid, named.gid), (Some(0), Some(0)));
    let user = Some(0.into());
    let numbered = permit(&with(Permissions { user, ..permissions.clone() }), None).expect("known");
    assert_eq!((numbered.uid, numbered.gid), (Some(0), Some(0)));
    assert_eq!(named.groups, numbered.groups);
    let mine = Permissions {
        group: Some(4711.into()),
        groups: Some(vec![1.into(), 2.into()]),
        ..permissions.clone()
    };
    let given = permit(&with(mine), None).expect("numbers are taken as they are");
    assert_eq!((given.uid, given.gid), (Some(0), Some(4711)));
    assert_eq!(given.groups, Some(vec![1, 2]));
    // The older settings are weaker, and numbers only.
    let mut settings = with(permissions);
    (settings.uid, settings.gid) = (Some(7), Some(8));
    let both = permit(&settings, None).expect("known");
    assert_eq!((both.uid, both.gid), (Some(0), Some(8)));
    settings.permissions = Permissions::default();
    let older = permit(&settings, None).expect("known");
    assert_eq!((older.uid, older.gid), (Some(7), Some(8)));
    assert!(are_others(&settings));
}

#[test]
fn a_step_is_told_with_what_it_was_about() {
    use crate::sys::permit::Step;
    let permissions = Permissions {
        root: Some("/jail".into()),
        user: Some("www-data".into()),
        ..Permissions::default()
    };
    let mut settings = with(permissions);
    settings.cwd = Some("/there".into());
    let told = |step, code| {
        let source = std::io::Error::from_raw_os_error(code);
        step_failed(&settings, Some(phalanx_core::worker::WorkerId(3)), step, source).to_string()
    };
    let said = told(Step::Root, libc::ENOENT);
    assert!(said.starts_with("cannot change root to /jail for worker 3: No such file"), "{said}");
    assert!(told(Step::User, libc::EAGAIN).contains("change the user to www-data"));
    assert!(told(Step::Group, libc::EINVAL).contains("change the group to that of www-data"));
    assert!(told(Step::Directory, libc::EACCES).contains("the directory /there"));
    let said = exec_failed(
        &settings,
        Path::new("/bin/app"),
        std::io::Error::from_raw_os_error(libc::ENOENT),
    );
    assert!(said.to_string().contains("have to be in the root /jail"), "{said}");
}

#[test]
fn accounts() {
    for (text, account) in [
        ("33", Ok(Account::Id(33))),
        ("0", Ok(Account::Id(0))),
        ("www-data", Ok("www-data".into())),
        ("33a", Ok("33a".into())),
        ("4294967295", Err(())),
        ("", Err(())),
        ("a:b", Err(())),
    ] {
        assert_eq!(text.parse::<Account>().map_err(|_| ()), account, "{text}");
    }
}
