//! What the peers need: installed by package name, when it is missing and not before it is needed.

use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The oldest Node that the packages in use accept.
const OLDEST_NODE: u32 = 20;

type Found = Result<PathBuf, String>;

/// Node, which is not installed from here: which one is measured is the user's choice.
pub(crate) fn node() -> Result<(), String> {
    static NODE: OnceLock<Result<(), String>> = OnceLock::new();
    NODE.get_or_init(|| {
        let version = said("node", &["--version"]).ok_or("Node is not installed; install it")?;
        let major = version.trim_start_matches('v').split('.').next().and_then(|n| n.parse().ok());
        if major < Some(OLDEST_NODE) {
            return Err(format!("Node {OLDEST_NODE} or newer is needed, not {version}"));
        }
        Ok(())
    })
    .clone()
}

/// nginx: Debian's `nginx-light` if there is none.
pub(crate) fn nginx() -> Found {
    static NGINX: OnceLock<Found> = OnceLock::new();
    NGINX.get_or_init(|| debian("nginx", "nginx-light")).clone()
}

/// wrk, the load generator.
pub(crate) fn wrk() -> Found {
    static WRK: OnceLock<Found> = OnceLock::new();
    WRK.get_or_init(|| debian("wrk", "wrk")).clone()
}

static PACKAGES: OnceLock<Found> = OnceLock::new();

/// The `node_modules` with what `bench/node/package.json` names: pm2 and the frameworks.
pub(crate) fn packages() -> Found {
    PACKAGES.get_or_init(|| node().and_then(|()| npm())).clone()
}

/// A program of a Debian package, installed if need be.
fn debian(program: &str, package: &str) -> Found {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    eprintln!("  installing {package}");
    let by_hand = |why: &str| format!("{program} is not there: {why}; install it by hand");
    let apt = |args: &[&str]| -> Result<(), String> {
        let root = rustix::process::geteuid().is_root();
        let mut command = Command::new(if root { "env" } else { "sudo" });
        // Never a question that nobody answers.
        command.args(if root { &[] } else { &["-n", "env"][..] });
        let command = command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(args);
        let output = command.output().map_err(|error| by_hand(&format!("apt-get: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let last = String::from_utf8_lossy(&output.stderr);
        let last = last.trim().lines().last().unwrap_or("it says nothing");
        Err(by_hand(&format!("apt-get {} failed: {last}", args.join(" "))))
    };
    apt(&["update", "-qq"])?;
    apt(&["install", "-y", "-qq", "--no-install-recommends", package])?;
    find(program).ok_or_else(|| by_hand(&format!("Debian's {package} did not bring it")))
}

/// A program in `$PATH`, or where Debian has its servers, which is not in everybody's path.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    places.map(|place| place.join(program)).find(|path| path.is_file())
}

/// Installs the npm packages once for each content of the lock file, for whoever asks next as well.
fn npm() -> Found {
    const MANIFEST: &str = include_str!("../node/package.json");
    const LOCK: &str = include_str!("../node/package-lock.json");
    let here = target().join("bench");
    let place = here.join(format!("node-{:016x}", hash(&[MANIFEST, LOCK])));
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        format!("{}: cannot {what}: {error}", place.display())
    };
    fs::create_dir_all(&here).map_err(|error| failed("make the directory", &error))?;
    let lock = File::create(place.with_extension("lock")).map_err(|e| failed("lock", &e))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed("lock", &e))?;
    if !place.exists() {
        eprintln!("  installing pm2, Express and Fastify");
        let partial = place.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial)
            .and_then(|()| fs::write(partial.join("package.json"), MANIFEST))
            .and_then(|()| fs::write(partial.join("package-lock.json"), LOCK))
            .map_err(|error| failed("write", &error))?;
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error"]);
        let output = npm.current_dir(&partial).output();
        let output = output.map_err(|error| format!("npm: {error}; install npm"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().lines().last().unwrap_or("it says nothing").to_owned();
            return Err(format!("npm cannot install what bench/node/package.json names: {said}"));
        }
        fs::rename(&partial, &place).map_err(|error| failed("rename", &error))?;
    }
    Ok(place.join("node_modules"))
}

/// The directory of builds: what is installed goes away with it.
fn target() -> PathBuf {
    let me = std::env::current_exe().unwrap_or_default();
    let tagged = me.ancestors().find(|place| place.join("CACHEDIR.TAG").exists());
    tagged
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), Path::to_path_buf)
}

/// FNV-1a: the same in every version of the compiler, so that a new one installs nothing anew.
fn hash(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A directory for what candidates write: removed with this process, however that ends.
pub(crate) fn scratch() -> Found {
    static SCRATCH: OnceLock<Found> = OnceLock::new();
    SCRATCH
        .get_or_init(|| {
            let place = std::env::temp_dir().join(format!("phalanx-bench-{}", std::process::id()));
            // One that is there is of a process that is gone, or of somebody else: then this fails.
            let _ = fs::remove_dir_all(&place);
            fs::create_dir(&place)
                .and_then(|()| bench::spawned::after_me(&place))
                .map_err(|error| format!("{}: {error}", place.display()))?;
            Ok(place)
        })
        .clone()
}

/// What the machine is, and the versions of what was measured and of what it stands on. To be called at the end:
/// nothing is installed for it.
pub(crate) fn machine(phalanx: &Path) -> Vec<(String, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let gib = memory.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let cores = std::thread::available_parallelism().map(|count| count.to_string()).ok();
    let module = |name| version(PACKAGES.get()?.as_ref().ok()?, name);
    let program = |path: Option<PathBuf>, args: &[&str]| said(&path?.to_string_lossy(), args);
    let release = read("/etc/os-release");
    let system = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let facts = [
        ("CPU", model.map(str::to_owned)),
        ("cores", cores),
        ("memory", gib.map(|kib| format!("{} MiB", kib / 1_024))),
        ("kernel", Some(read("/proc/sys/kernel/osrelease"))),
        ("system", system.map(|name| name.trim_matches('"').to_owned())),
        ("phalanx", program(Some(phalanx.to_path_buf()), &["--version"])),
        ("rustc", said("rustc", &["--version"])),
        ("node", said("node", &["--version"])),
        ("pm2", module("pm2")),
        ("express", module("express")),
        ("fastify", module("fastify")),
        ("nginx", program(find("nginx"), &["-v"])),
        ("wrk", program(find("wrk"), &["-v"])),
    ];
    let known = facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    known.map(|(name, value)| (name, value.trim().to_owned())).collect()
}

/// The first line of what a program says, on either stream.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let line = String::from_utf8_lossy(&text).lines().next()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}

/// What a package says of itself: starting pm2 to ask would leave a daemon behind.
fn version(modules: &Path, package: &str) -> Option<String> {
    let text = fs::read(modules.join(package).join("package.json")).ok()?;
    let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(json.get("version")?.as_str()?.to_owned())
}
