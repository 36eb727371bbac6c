//! The programs that have to be built, each once for each state of its source.

use crate::common::clean;
use crate::common::packages::{complete, hash, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The directory of the programs' sources.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs")
}

/// A directory made by a tool from these files.
fn made(kind: &str, files: &[&str], make: impl FnOnce(&Path)) -> PathBuf {
    let content: Vec<String> = files
        .iter()
        .map(|file| fs::read_to_string(sources().join(file)).expect("a source"))
        .collect();
    let name = format!("{kind}-{}", hash(&content));
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs").join(name);
    fs::create_dir_all(directory.parent().expect("a directory")).expect("a directory");
    complete(&directory, make);
    directory
}

/// A C program; `flags` may be `-static`.
pub(crate) fn c(source: &str, flags: &[&str]) -> PathBuf {
    let kind = format!("c{}", flags.concat());
    made(&kind, &["answer.h", source], |directory| {
        let mut cc = clean("cc", ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]);
        run(cc.args(flags).arg("-o").arg(directory.join("program")).arg(sources().join(source)));
    })
    .join("program")
}

/// The directory of `App.class`.
pub(crate) fn java() -> PathBuf {
    made("java", &["App.java"], |directory| {
        let mut javac = clean("javac", ["-Xlint:all", "-Werror", "-d"]);
        run(javac.arg(directory).arg(sources().join("App.java")));
    })
}

/// The Go program, statically linked.
pub(crate) fn go() -> PathBuf {
    made("go", &["go/go.mod", "go/main.go"], |directory| {
        let mut go = clean("go", ["build", "-o"]);
        go.arg(directory.join("program")).arg(".").current_dir(sources().join("go"));
        go.env("GOCACHE", directory.with_file_name("go-cache"));
        // It needs nothing from anywhere.
        go.envs([("CGO_ENABLED", "0"), ("GOFLAGS", "-mod=mod"), ("GOPROXY", "off")]);
        go.envs([("GOTOOLCHAIN", "local"), ("GOENV", "off"), ("GOWORK", "off")]);
        run(&mut go);
    })
    .join("program")
}

/// A Rust program of `programs/rust`.
pub(crate) fn rust(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let test = std::env::current_exe().expect("the path of this test");
        // target/PROFILE/deps/THIS
        let profile = test.ancestors().nth(2).expect("a profile's directory");
        let mut cargo = Command::new(env!("CARGO"));
        // The examples of the whole workspace, so that nothing is built again with other features.
        cargo.args(["build", "--quiet", "--locked", "--examples", "--workspace", "--target-dir"]);
        cargo.arg(profile.parent().expect("a target directory"));
        cargo.args(["--profile", if cfg!(debug_assertions) { "test" } else { "release" }]);
        run(cargo.current_dir(env!("CARGO_MANIFEST_DIR")));
        profile.join("examples")
    });
    built.join(name)
}
