//! What `--help` says. Each command's is kept in a file: after a change of options, `INSTA_UPDATE=always cargo test
//! --test help` writes them anew, and the difference is there to be read.
#![allow(clippy::unwrap_used)]

mod common;

use common::phalanx;

fn said(args: &[&str]) -> (Option<i32>, String, String) {
    let done = phalanx(args).env_remove("COLUMNS").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

/// As the program itself lists them.
fn commands() -> Vec<String> {
    let (code, text, _) = said(&["--help"]);
    assert_eq!(code, Some(0));
    let list = text.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // Continued lines are further to the right.
    let names = list
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '));
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn every_command_explains_itself() {
    let commands = commands();
    assert!(commands.len() > 30, "{commands:?}");
    for name in commands.iter().filter(|name| *name != "help") {
        let (code, short, errors) = said(&[name, "-h"]);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{name}");
        let (code, long, _) = said(&[name, "--help"]);
        assert_eq!(code, Some(0), "{name}");
        let lines = |text: &str| text.lines().count();
        assert!(lines(&long) >= lines(&short), "{name}: --help says less than -h");
        for (flag, text) in [("-h", &short), ("--help", &long)] {
            assert!(text.contains("Usage: phalanx"), "{name} {flag}: {text}");
            for line in text.lines() {
                assert!(line.chars().count() <= 120, "{name} {flag}: {line}");
            }
        }
        // clap has lines of spaces only.
        let lines: Vec<&str> = long.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(format!("help-{name}"), lines.join("\n"));
    }
}

#[test]
fn the_program_explains_itself() {
    insta::assert_snapshot!("help", said(&["--help"]).1);
    // Without a command it says what there are.
    let (code, _, errors) = said(&[]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("Commands:"), "{errors}");
}

#[test]
fn examples_are_there() {
    for (name, words) in [
        ("start", "phalanx start npm --name web -- run start"),
        ("list", "phalanx ls -m --sort memory:desc"),
        ("logs", "--since 10m"),
        ("reload", "phalanx reload phalanx.toml --env production"),
    ] {
        let (_, long, _) = said(&[name, "--help"]);
        assert!(long.contains("Examples:") && long.contains(words), "{name}: {long}");
        let (_, short, _) = said(&[name, "-h"]);
        assert!(!short.contains("Examples:"), "{name}: {short}");
    }
}

#[test]
fn words_that_were_meant() {
    for (args, words) in [
        (&["relaod", "all"][..], "'reload'"),
        (&["list", "--jsno"], "'--json'"),
        (&["list", "--sort", "memroy"], "did you mean memory?"),
        (&["completions", "zhs"], "did you mean zsh?"),
    ] {
        let (code, _, errors) = said(args);
        assert_eq!(code, Some(2), "{args:?}: {errors}");
        assert!(errors.contains(words), "{args:?}: {errors}");
    }
}

#[test]
fn manual_pages() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("share/man/man1");
    let (code, _, errors) = said(&["completions", "man", "--dir", place.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{errors}");
    for name in commands().iter().filter(|name| *name != "help") {
        let page = std::fs::read_to_string(place.join(format!("phalanx-{name}.1")))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    let (code, page, _) = said(&["completions", "man"]);
    assert_eq!(code, Some(0));
    assert!(page.starts_with(".ie") && page.contains(".TH phalanx"), "{page}");
    assert_eq!(said(&["completions", "bash", "--dir", "."]).0, Some(2));
}
