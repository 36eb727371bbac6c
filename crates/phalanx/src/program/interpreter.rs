//! Interpreters whose programs can be workers: Node, and those that speak its protocol.

use super::find;
use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The oldest Node whose protocol and API were tried.
const OLDEST_NODE: Version = Version(20, 0);

/// How long a Node may take to say its version.
const ANSWER: Duration = Duration::from_secs(10);

/// Major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

impl Version {
    /// From what `node --version` says.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().strip_prefix('v')?.split(['.', '-']);
        Some(Self(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// How this Node runs TypeScript: with these flags, or not at all.
    pub(super) const fn typescript(self) -> Option<&'static [&'static str]> {
        match self {
            Self(24.., _) | Self(23, 6..) | Self(22, 18..) => Some(&[]),
            Self(23, _) | Self(22, 6..) => Some(&["--experimental-strip-types"]),
            _ => None,
        }
    }

    /// Whether it knows `NODE_COMPILE_CACHE`.
    pub(super) fn caches_code(self) -> bool {
        self >= Self(22, 1)
    }
}

/// What kind of interpreter a program is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Node,
    Deno,
    Bun,
    Other,
}

impl Kind {
    pub(super) fn of(program: &Path) -> Self {
        let Some(name) = program.file_name().and_then(OsStr::to_str) else { return Self::Other };
        // `node20`, `node-22.1`
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
        match name {
            "node" | "nodejs" => Self::Node,
            "deno" => Self::Deno,
            "bun" => Self::Bun,
            _ => Self::Other,
        }
    }
}

/// An interpreter that is there.
pub(super) struct Interpreter {
    pub(super) path: PathBuf,
    kind: Kind,
    /// Node's.
    pub(super) version: Option<Version>,
}

impl Interpreter {
    /// The Node in `$PATH`.
    pub(super) fn node() -> Result<Self> {
        let found = find(OsStr::new("node")).or_else(|_| find(OsStr::new("nodejs")));
        Self::new(found.map_err(|_| Error::Program {
            program: "node".into(),
            why: "it is not in $PATH".into(),
            hint: Some(
                "install Node.js 20 or newer, or name an interpreter with --interpreter".into(),
            ),
        })?)
    }

    pub(super) fn new(path: PathBuf) -> Result<Self> {
        let kind = Kind::of(&path);
        let version = if kind == Kind::Node { Some(version_of(&path)?) } else { None };
        Ok(Self { path, kind, version })
    }

    /// What stands before everything else.
    pub(super) const fn command(&self) -> &'static [&'static str] {
        match self.kind {
            // What a Node program may do, it may.
            Kind::Deno => &["run", "-A"],
            Kind::Node | Kind::Bun | Kind::Other => &[],
        }
    }

    /// The flags that a script of this kind needs.
    pub(super) fn flags_for(&self, script: &Path) -> Result<Vec<OsString>> {
        let typescript = script.extension().is_some_and(|e| e == "ts" || e == "mts" || e == "cts");
        let Some(version) = self.version.filter(|_| typescript) else { return Ok(Vec::new()) };
        if let Some(flags) = version.typescript() {
            return Ok(flags.iter().map(OsString::from).collect());
        }
        let loader = script
            .ancestors()
            .skip(1)
            .map(|place| place.join("node_modules/tsx/dist/loader.mjs"))
            .find(|file| file.exists());
        match loader {
            Some(loader) => Ok(vec!["--import".into(), loader.into()]),
            None => Err(Error::Program {
                program: script.display().to_string(),
                why: format!(
                    "Node {}.{} does not run TypeScript",
                    version.0, version.1
                ),
                hint: Some(
                    "Node 22.18 and newer do; or compile it, or `npm install tsx` beside it, or say --interpreter deno or bun"
                        .into(),
                ),
            }),
        }
    }
}

fn version_of(node: &Path) -> Result<Version> {
    let failed = |why: String, hint: &str| Error::Program {
        program: node.display().to_string(),
        why,
        hint: Some(hint.to_owned()),
    };
    let (text, status) = said(node)
        .map_err(|source| Error::Start { program: node.display().to_string(), source })?;
    let Some(version) = Version::parse(&text) else {
        let first: String = text.lines().next().unwrap_or_default().chars().take(80).collect();
        return Err(failed(
            format!("asked for its version, it said “{}” ({status})", first.escape_debug()),
            "is it Node? --interpreter names another",
        ));
    };
    if version < OLDEST_NODE {
        return Err(failed(
            format!("Node {} is too old: 20 is the oldest that works", text.trim()),
            "install a newer one, or name it with --interpreter",
        ));
    }
    Ok(version)
}

/// The first words of `node --version`. A program that hangs, or does not stop talking, is not waited for.
fn said(node: &Path) -> io::Result<(String, ExitStatus)> {
    let mut child = Command::new(node)
        .arg("--version")
        // Whatever the environment wants of it, it is not wanted now.
        .env_remove("NODE_OPTIONS")
        .env_remove("NODE_CHANNEL_FD")
        .env_remove("NODE_UNIQUE_ID")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = child.stdout.take();
    let (told, answer) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = stdout.map(|stdout| stdout.take(256).read_to_end(&mut text));
        let _ = told.send(read.unwrap_or(Ok(0)).map(|_| text));
    });
    let text = answer.recv_timeout(ANSWER);
    // It has said what there is to say, and a moment to end.
    for _ in 0..100 {
        if child.try_wait()?.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    let status = child.wait()?;
    let text = text.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, "asked for its version, it did not answer in time")
    })??;
    Ok((String::from_utf8_lossy(&text).into_owned(), status))
}
