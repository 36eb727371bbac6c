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
