//! The programs that scripts are run with.

use super::Findings;
use crate::ui::text::clean;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to say its version: it may be on a slow disk, or a shell script.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(5);
/// Node's first version that phalanx is tested with.
const NODE: u32 = 20;

pub(super) fn look() -> Findings {
    let mut found = Findings::new("Programs");
    let names = ["node", "bun", "deno", "python3"];
    // Each takes a while to begin.
    let told = std::thread::scope(|scope| {
        let asked = names.map(|name| scope.spawn(move || ask(name)));
        asked.map(|thread| thread.join().unwrap_or_default())
    });
    for (name, told) in names.into_iter().zip(told) {
        match told {
            Some((path, said)) if said.is_empty() => found.note(
                name,
                format!("{} does not say its version", path.display()),
                "is it the program that it is called?",
            ),
            Some((path, said)) => version(&mut found, name, &path, &said),
            None if name == "node" => {
                found.note(
                    name,
                    "not found",
                    "only Node programs need it; --interpreter names another place",
                );
            }
            None => found.ok(name, "not found; only its own programs need it"),
        }
    }
    let this = std::env::current_exe().unwrap_or_default();
    found.ok("phalanx", format!("{} ({})", env!("CARGO_PKG_VERSION"), this.display()));
    found
}

fn version(found: &mut Findings, name: &str, path: &Path, said: &str) {
    let what = format!("{} ({})", clean(said), path.display());
    let old = name == "node" && major(said).is_some_and(|major| major < NODE);
    match old {
        true => found.note(name, what, format!("phalanx is tested with Node {NODE} and later")),
        false => found.ok(name, what),
    }
}

/// Of `v20.11.1`.
fn major(said: &str) -> Option<u32> {
    said.trim_start_matches('v').split('.').next()?.parse().ok()
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let runs = |file: &PathBuf| {
        file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
    };
    std::env::split_paths(&path).map(|place| place.join(name)).find(runs)
}

/// Where it is, and the first line that it says of its version.
fn ask(name: &str) -> Option<(PathBuf, String)> {
    let path = find(name)?;
    let mut command = Command::new(&path);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return Some((path, String::new())) };
    let begun = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if begun.elapsed() >= PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Some((path, String::new()));
        }
        std::thread::sleep(AGAIN);
    }
    let mut said = Vec::new();
    let from = child.stdout.take();
    let _ = from.map(|pipe| pipe.take(4096).read_to_end(&mut said));
    let said = String::from_utf8_lossy(&said).lines().next().unwrap_or_default().trim().to_owned();
    Some((path, said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn old_versions_are_noted() {
        for (name, said, level) in [
            ("node", "v18.20.0", Level::Note),
            ("node", "v20.0.0", Level::Ok),
            ("node", "v24.1.0-nightly", Level::Ok),
            ("python3", "Python 3.11.2", Level::Ok),
        ] {
            let mut found = Findings::new("Programs");
            version(&mut found, name, Path::new("/bin/x"), said);
            assert_eq!(found.all.first().map(|found| found.level), Some(level), "{name} {said}");
        }
    }
}
