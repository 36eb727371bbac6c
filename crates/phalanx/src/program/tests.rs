//! Which program, with which flags.

use super::interpreter::Version;
use super::*;

#[test]
fn versions_are_read() {
    for (text, version) in [
        ("v20.20.2\n", Some(Version(20, 20))),
        ("v26.0.0-nightly", Some(Version(26, 0))),
        ("20.1.0", None),
        ("v20", None),
        ("", None),
        ("Usage: node [options]", None),
    ] {
        assert_eq!(Version::parse(text), version, "{text:?}");
    }
}

#[test]
fn typescript_by_version() {
    let strip: &[&str] = &["--experimental-strip-types"];
    for (version, flags) in [
        (Version(20, 20), None),
        (Version(22, 5), None),
        (Version(22, 6), Some(strip)),
        (Version(22, 17), Some(strip)),
        (Version(22, 18), Some(&[][..])),
        (Version(23, 5), Some(strip)),
        (Version(23, 6), Some(&[])),
        (Version(26, 0), Some(&[])),
    ] {
        assert_eq!(version.typescript(), flags, "{version:?}");
    }
}

#[test]
fn first_lines() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tool");
    let flags = |line: &str| {
        std::fs::write(&file, line).expect("written");
        node_shebang(&file)
    };
    assert_eq!(flags("#!/usr/bin/env node\nx"), Some(vec![]));
    assert_eq!(
        flags("#!/usr/local/bin/node --trace-warnings\nx"),
        Some(vec!["--trace-warnings".into()])
    );
    assert_eq!(
        flags("#!/usr/bin/env -S node --no-warnings a\n"),
        Some(vec!["--no-warnings".into(), "a".into()])
    );
    assert_eq!(flags("#! /usr/bin/node"), Some(vec![]));
    for other in ["#!/bin/sh\nnode", "node", "#!", "#!/usr/bin/env", "#!/usr/bin/env python3", ""] {
        assert_eq!(flags(other), None, "{other:?}");
    }
    assert_eq!(node_shebang(directory.path()), None);
}

#[test]
fn what_is_not_there_is_named() {
    let error = Program::new("no-such-server.js").settings().expect_err("not there");
    assert!(error.to_string().contains("no-such-server.js"), "{error}");
    let directory = tempfile::tempdir().expect("a directory");
    let error = Program::new(directory.path()).settings().expect_err("no package");
    assert!(error.to_string().contains("without a package.json"), "{error}");
    let places = std::env::join_paths([directory.path()]).expect("a path");
    assert!(find_in(OsStr::new("node"), &places).is_err(), "an empty $PATH has no node");
}

/// A script in a directory, executable or not.
fn script(directory: &Path, name: &str, text: &str, executable: bool) -> PathBuf {
    let file = directory.join(name);
    std::fs::write(&file, text).expect("written");
    let mode = if executable { 0o755 } else { 0o644 };
    std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("changed");
    file
}

#[test]
fn scripts_by_extension() {
    let directory = tempfile::tempdir().expect("a directory");
    // What is in $PATH here does not matter to which interpreter is looked for.
    for (name, interpreter, flags) in [
        ("a.py", "/bin/python3", &[][..]),
        ("a.rb", "/bin/ruby", &[]),
        ("a.php", "/bin/php", &[]),
        ("a.pl", "/bin/perl", &[]),
        ("a.sh", "/bin/sh", &[]),
        ("a.bash", "/bin/bash", &[]),
        ("a.lua", "/bin/lua", &[]),
        ("a.java", "/bin/java", &[]),
        ("a.jar", "/bin/java", &["-jar"]),
    ] {
        let language = Language::of(Path::new(name)).unwrap_or_else(|| panic!("{name}"));
        let by = language.interpreter_by(|name| Ok(Path::new("/bin").join(name)));
        let by = by.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(by.path, Path::new(interpreter), "{name}");
        let file = script(directory.path(), name, "", false);
        let program = Program::new(&file).args(["own"]).interpreter_args(["-x"]);
        let settings = program.with(&by, Some(file.clone())).expect("settings");
        assert_eq!(settings.exec.as_deref(), Some(Path::new(interpreter)), "{name}");
        assert_eq!(settings.exec_args, [&["-x"], flags].concat(), "{name}");
        assert_eq!(settings.args, [file.into_os_string(), "own".into()], "{name}");
        assert!(!settings.preload, "{name}: the preload is Node's");
    }
    for name in ["a.js", "a.ts", "a.R", "a.txt", "a", "py", ".py"] {
        assert_eq!(Language::of(Path::new(name)), None, "{name}");
    }
}

#[test]
fn another_name_of_the_interpreter_and_none_at_all() {
    let python = Language::of(Path::new("a.py")).expect("a language");
    let only = |there: &'static str| {
        move |name: &str| match name == there {
            true => Ok(Path::new("/bin").join(name)),
            false => Err(refused(OsStr::new(name), "not there", "")),
        }
    };
    let found = python.interpreter_by(only("python")).expect("the other one");
    assert_eq!(found.path, Path::new("/bin/python"));
    let Err(error) = python.interpreter_by(only("ruby")) else { panic!("there is no Python") };
    let hint = error.hint().unwrap_or_default().to_string();
    assert!(error.to_string().contains("python3 or python"), "{error}");
    assert!(error.to_string().contains("not in $PATH"), "{error}");
    assert!(hint.contains("python3") && hint.contains("--interpreter"), "{hint}");
}

#[test]
fn a_first_line_wins_if_the_file_is_executable() {
    let directory = tempfile::tempdir().expect("a directory");
    let runs = |name: &str, text: &str, executable: bool| {
        let file = script(directory.path(), name, text, executable);
        let program = Program::new(&file).interpreter_args(["-x"]);
        let settings = program.settings().unwrap_or_else(|error| panic!("{name}: {error}"));
        (settings.exec.expect("a program"), settings.args, file)
    };
    let (exec, args, file) = runs("own.sh", "#!/usr/bin/awk -f\n", true);
    assert_eq!((exec, args.len()), (file, 0), "by itself");
    for (name, text, executable) in
        [("data.sh", "#!/usr/bin/awk -f\n", false), ("bare.sh", "echo\n", true)]
    {
        let (exec, args, file) = runs(name, text, executable);
        assert!(exec.ends_with("sh"), "{name}: {}", exec.display());
        assert_eq!(args, [file.into_os_string()], "{name}");
    }
    // Whoever says what it is to be run with has the last word.
    let file = script(directory.path(), "told.sh", "#!/usr/bin/awk -f\n", true);
    let settings = Program::new(&file).interpreter("cat").settings().expect("settings");
    assert!(settings.exec.expect("a program").ends_with("cat"));
    assert_eq!(settings.args, [file.into_os_string()]);
}

#[test]
fn what_has_no_known_extension_must_be_executable() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = script(directory.path(), "app.unknown", "echo\n", false);
    let error = Program::new(file).settings().expect_err("it is no program");
    assert!(matches!(error, Error::Start { .. }), "{error:?}");
    let missing = directory.path().join("missing.py");
    let error = Program::new(missing).settings().expect_err("not there");
    assert!(error.to_string().contains("missing.py"), "{error}");
}

#[test]
fn what_a_program_is_expected_to_know() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| script(directory.path(), name, text, true);
    for (program, said, expected) in [
        ("/usr/bin/node", None, Knows::Channel),
        ("/opt/deno", None, Knows::Channel),
        ("bun", Some("a.ts"), Knows::Channel),
        ("/bin/sh", None, Knows::Perhaps),
        ("/opt/my-node-wrapper", Some("a.js"), Knows::Perhaps),
        ("/usr/bin/python3", Some("a.py"), Knows::Nothing),
        ("/usr/bin/redis-server", None, Knows::Nothing),
    ] {
        assert_eq!(knows(Path::new(program), said.map(Path::new)), expected, "{program}");
    }
    for (name, text, expected) in [
        ("a", "#!/usr/bin/env bun\n", Knows::Channel),
        ("b", "#!/bin/bash -e\n", Knows::Perhaps),
        ("c", "#!/usr/bin/env python3\n", Knows::Nothing),
        ("d", "\u{7f}ELF", Knows::Nothing),
    ] {
        assert_eq!(knows(&file(name, text), None), expected, "{text}");
    }
}
