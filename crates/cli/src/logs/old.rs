//! Old files: what was put aside when a file had its size or its age. `shop-out.log.20260131T130000.123Z`, and `.gz` when
//! it is compressed; the index goes with it, as `….idx`.

use super::index;
use super::lock::{self, Held};
use super::sink::{LOOK, now};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// When files are replaced, and which old ones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// 0: never.
    pub(crate) max_size: u64,
    /// 0: never.
    pub(crate) max_age: Duration,
    pub(crate) keep: usize,
    /// 0: any size.
    pub(crate) quota: u64,
    pub(crate) compress: bool,
}

/// An old file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Old {
    /// When it was put aside, as in its name: by this they are in order.
    pub(crate) stamp: String,
    /// Without `.gz`.
    pub(crate) path: PathBuf,
    pub(crate) compressed: bool,
    /// With its index.
    pub(crate) size: u64,
    /// When it was changed or put aside last, in microseconds since 1970.
    changed: u64,
}

/// Another process that writes to the same log looks every so often where it is, and until then may write to an old
/// file. After so long without a change nobody does.
const QUIET: Duration = LOOK.saturating_mul(2);
/// A change that is to come, by more than so many microseconds: the clock was set back.
const SET_BACK: u64 = 60_000_000;

impl Old {
    /// Whether nobody writes to it any more.
    fn is_quiet(&self, now: u64) -> bool {
        let quiet = u64::try_from(QUIET.as_micros()).unwrap_or(u64::MAX);
        self.compressed || now.saturating_sub(self.changed) > quiet || self.changed > now + SET_BACK
    }

    /// Does something with it, unless another process just does; whether it did.
    fn alone(&self, deed: impl FnOnce() -> io::Result<bool>) -> io::Result<bool> {
        let file = match File::open(&self.path) {
            // It is compressed, or gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return deed(),
            file => file?,
        };
        let Some(_held) = Held::take(&file) else { return Ok(false) };
        deed()
    }
}

/// Characters of `20260131T130000.123Z`.
const STAMP: usize = 20;

pub(crate) fn with(path: &Path, more: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(more);
    name.into()
}

pub(crate) fn compressed(path: &Path) -> PathBuf {
    with(path, ".gz")
}

/// A new file that takes another one's place once it is complete: `….PID.new`. What another process of that number left
/// behind is replaced; a link is not followed.
pub(crate) fn draft(path: &Path) -> io::Result<(PathBuf, File)> {
    let draft = with(path, &format!(".{}.new", std::process::id()));
    remove_file(&draft)?;
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&draft)?;
    Ok((draft, file))
}

/// Where a file goes that is put aside.
pub(crate) fn aside(path: &Path, stamp: &str) -> PathBuf {
    with(path, &format!(".{stamp}"))
}

/// The time in a name, and whether it is that of a compressed file; `None`: it is no old file of that log.
fn parse<'a>(name: &'a str, log: &str) -> Option<(&'a str, bool)> {
    let rest = name.strip_prefix(log)?.strip_prefix('.')?;
    let (stamp, more) = rest.split_at_checked(STAMP)?;
    let fits = stamp.bytes().enumerate().all(|(at, byte)| match at {
        8 => byte == b'T',
        15 => byte == b'.',
        19 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    });
    match more {
        "" if fits => Some((stamp, false)),
        ".gz" if fits => Some((stamp, true)),
        _ => None,
    }
}

/// The time of a stamp, in microseconds since 1970; 0: it is none.
pub(crate) fn time_of(stamp: &str) -> u64 {
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S%.fZ", stamp).ok();
    let time = time.and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok());
    time.and_then(|time| u64::try_from(time.timestamp().as_microsecond()).ok()).unwrap_or_default()
}

/// The time in the name of an old file.
pub(crate) fn time_in(path: &Path) -> u64 {
    let name = path.to_str().unwrap_or_default();
    let stamp = name.len().checked_sub(STAMP).and_then(|at| name.get(at..));
    stamp.map_or(0, time_of)
}

/// The old files of a log, oldest first.
pub(crate) fn list(log: &Path) -> Vec<Old> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str()))
    else {
        return Vec::new();
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<Old> = entries
        .filter_map(|entry| {
            let file = entry.file_name();
            let (stamp, compressed) = parse(file.to_str()?, name)?;
            let path = aside(log, stamp);
            let size = |path: &Path| fs::metadata(path).map_or(0, |about| about.len());
            let index = index::beside(&path);
            let about = entry.metadata().ok()?;
            let size = about.len() + size(&index) + size(&with(&index, ".gz"));
            // Not its time of modification: somebody may begin to write just when it is put aside.
            let changed = about.ctime().saturating_mul(1_000_000) + about.ctime_nsec() / 1000;
            let changed = u64::try_from(changed).unwrap_or_default();
            Some(Old { stamp: stamp.to_owned(), path, compressed, size, changed })
        })
        .collect();
    // For a moment there are both.
    files.sort_by(|a, b| (&a.stamp, a.compressed).cmp(&(&b.stamp, b.compressed)));
    files.dedup_by(|b, a| a.stamp == b.stamp);
    files
}

/// Which of the old files of an application's logs are to go: by place in `logs`, oldest first in each. `current`: what
/// the present files have.
fn surplus(logs: &[Vec<Old>], current: u64, rules: &Rules) -> Vec<(usize, usize)> {
    let mut gone: Vec<(usize, usize)> = Vec::new();
    let mut left: Vec<(&str, usize, usize, u64)> = Vec::new();
    for (log, files) in logs.iter().enumerate() {
        let too_many = files.len().saturating_sub(rules.keep);
        gone.extend((0..too_many).map(|file| (log, file)));
        let rest = files.iter().enumerate().skip(too_many);
        left.extend(rest.map(|(at, file)| (file.stamp.as_str(), log, at, file.size)));
    }
    left.sort_unstable();
    let mut total = left.iter().fold(current, |sum, (.., size)| sum.saturating_add(*size));
    for (_, log, file, size) in left {
        if rules.quota == 0 || total <= rules.quota {
            break;
        }
        total = total.saturating_sub(size);
        gone.push((log, file));
    }
    gone
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes an old file, with its index.
pub(crate) fn remove(old: &Old) -> io::Result<()> {
    let index = index::beside(&old.path);
    for path in [&compressed(&old.path), &old.path, &compressed(&index), &index] {
        remove_file(path)?;
    }
    remove_drafts(old)
}

/// Of those who were killed while they compressed it.
fn remove_drafts(old: &Old) -> io::Result<()> {
    let (Some(directory), Some(name)) = (old.path.parent(), old.path.file_name()) else {
        return Ok(());
    };
    let name = format!("{}.", name.to_string_lossy());
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let is_draft = |file: &str| file.starts_with(&name) && file.ends_with(".new");
        if file.to_str().is_some_and(is_draft) {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// Compresses an old file; its index first: while the file is as it was, either is found. Whether it did.
fn compress_old(old: &Old) -> io::Result<bool> {
    old.alone(|| {
        remove_drafts(old)?;
        Ok(compress(&index::beside(&old.path))? && compress(&old.path)?)
    })
}

/// Compresses a file: it is there as a whole before the other one goes. Not done: somebody writes to it.
fn compress(path: &Path) -> io::Result<bool> {
    let mut from = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        file => file?,
    };
    let about = from.metadata()?;
    let (draft, to) = draft(&compressed(path))?;
    let done = (|| {
        to.set_permissions(fs::Permissions::from_mode(about.mode() & 0o7777))?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::fchown(&to, Some(about.uid()), Some(about.gid()))?;
        }
        let mut encoder = GzEncoder::new(to, Compression::fast());
        let copied = io::copy(&mut from, &mut encoder)?;
        encoder.finish()?.flush()?;
        // What came meanwhile would be lost; and what was removed meanwhile stays removed.
        let whole = from.metadata()?.len() == copied && lock::is_at(path, &from)?;
        if whole {
            fs::rename(&draft, compressed(path))?;
        }
        Ok(whole)
    })();
    match done {
        Ok(true) => remove_file(path).map(|()| true),
        undone => {
            let _ = fs::remove_file(&draft);
            undone
        }
    }
}

/// What is in an old file, or in its index.
pub(crate) fn read_compressed(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(File::open(compressed(path))?).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Keeps the old files of an application within its rules, on a thread that is there only while there is work.
#[derive(Clone)]
pub(crate) struct Tidy {
    logs: Arc<Vec<PathBuf>>,
    rules: Rules,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    running: bool,
    again: bool,
    /// It failed, and that was said.
    told: bool,
}

impl Tidy {
    pub(crate) fn new(logs: Vec<PathBuf>, rules: Rules) -> Self {
        Self { logs: Arc::new(logs), rules, state: Arc::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is another old file, or there may be.
    pub(crate) fn begin(&self) {
        let mut state = self.state();
        state.again = true;
        if state.running {
            self.state.1.notify_all();
            return;
        }
        let this = self.clone();
        let thread = std::thread::Builder::new().name("logs".into()).stack_size(256 << 10);
        state.running = thread.spawn(move || this.work()).is_ok();
    }

    fn work(&self) {
        // Whoever serves is more urgent. On Linux this is about this thread.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, 19);
        loop {
            {
                let mut state = self.state();
                if !std::mem::take(&mut state.again) {
                    state.running = false;
                    return;
                }
            }
            let done = self.once(now());
            let mut state = self.state();
            match done {
                Ok(left) => {
                    state.told = false;
                    if left && !state.again {
                        let waited = self.state.1.wait_timeout(state, QUIET);
                        state = waited.unwrap_or_else(PoisonError::into_inner).0;
                        state.again = true;
                    }
                }
                Err(error) if !state.told => {
                    state.told = true;
                    tracing::warn!("old logs cannot be kept in order: {error}");
                }
                Err(_) => {}
            }
        }
    }

    /// Removes what is too much, and compresses the rest. Whether there is something that has to be looked at later.
    fn once(&self, now: u64) -> io::Result<bool> {
        let mut tried: Vec<PathBuf> = Vec::new();
        loop {
            let files: Vec<Vec<Old>> = self.logs.iter().map(|log| list(log)).collect();
            let size = |log: &PathBuf| fs::metadata(log).map_or(0, |about| about.len());
            let current = self.logs.iter().map(size).sum();
            let mut left = false;
            for (log, file) in surplus(&files, current, &self.rules) {
                let old = files.get(log).and_then(|files| files.get(file));
                let quiet = old.filter(|old| old.is_quiet(now));
                let gone = quiet.map(|old| old.alone(|| remove(old).map(|()| true))).transpose()?;
                left |= gone != Some(true);
            }
            if !self.rules.compress {
                return Ok(left);
            }
            let raw = files.iter().flatten().filter(|old| !old.compressed && old.path.exists());
            let (todo, later): (Vec<&Old>, Vec<&Old>) =
                raw.partition(|old| old.is_quiet(now) && !tried.contains(&old.path));
            let Some(old) = todo.into_iter().min_by(|a, b| a.stamp.cmp(&b.stamp)) else {
                return Ok(left || !later.is_empty());
            };
            if !compress_old(old)? {
                tried.push(old.path.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules =
        Rules { max_size: 0, max_age: Duration::ZERO, keep: 3, quota: 0, compress: true };

    fn old(stamp: &str, size: u64) -> Old {
        Old { stamp: stamp.into(), path: stamp.into(), compressed: false, size, changed: 0 }
    }

    #[test]
    fn names() {
        let name = "a-out.log.20260131T130000.123Z";
        assert_eq!(parse(name, "a-out.log"), Some(("20260131T130000.123Z", false)));
        let compressed = format!("{name}.gz");
        assert_eq!(parse(&compressed, "a-out.log"), Some(("20260131T130000.123Z", true)));
        assert_eq!(time_in(Path::new(name)), 1_769_864_400_123_000);
        assert_eq!((time_of("x"), time_in(Path::new("ä"))), (0, 0));
        for other in ["a-out.log", "a-out.log.idx", "a-out.log.1", "a-out.log.20260131T130000.123"]
        {
            assert_eq!(parse(other, "a-out.log"), None, "{other}");
        }
        for more in [".idx", ".idx.gz", ".gz.new", "x"] {
            assert_eq!(parse(&format!("{name}{more}"), "a-out.log"), None, "{more}");
        }
        assert_eq!(parse(name, "out.log"), None);
        assert_eq!(parse(name, "b-out.log"), None);
    }

    #[test]
    fn what_is_too_much() {
        let out = ["1", "3", "5", "7"].map(|stamp| old(stamp, 10)).to_vec();
        let err = ["2", "4"].map(|stamp| old(stamp, 10)).to_vec();
        let logs = [out, err];
        assert_eq!(surplus(&logs, 5, &RULES), [(0, 0)]);
        // The oldest, of whichever stream: 55 bytes are left after the first.
        let within = |quota| surplus(&logs, 5, &Rules { quota, ..RULES });
        assert_eq!(within(55), [(0, 0)]);
        assert_eq!(within(54), [(0, 0), (1, 0)]);
        assert_eq!(within(40), [(0, 0), (1, 0), (0, 1)]);
        // The present files stay.
        assert_eq!(within(1).len(), 6);
        let none = Rules { keep: 0, ..RULES };
        assert_eq!(surplus(&logs, 5, &none).len(), 6);
    }

    #[test]
    fn who_may_still_be_written_to() {
        let old = Old { changed: 1_000_000_000, ..old("1", 10) };
        let quiet = |now| old.is_quiet(now);
        assert_eq!([1_000_000_000, 1_001_900_000, 1_002_100_000].map(quiet), [false, false, true]);
        // The clock was set back, by more than clocks of two machines differ.
        assert_eq!([995_000_000, 900_000_000].map(quiet), [false, true]);
    }

    #[test]
    fn old_files_are_compressed_and_kept_within_the_rules() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("a-out.log");
        for day in 1..=5 {
            let path = aside(&log, &format!("2026010{day}T000000.000Z"));
            fs::write(&path, format!("{day}\n").repeat(1000)).expect("written");
            fs::write(index::beside(&path), "an index").expect("written");
        }
        let tidy = Tidy::new(vec![log.clone()], RULES);
        // For a moment somebody else may still write to them.
        assert!(tidy.once(now()).expect("left alone") && list(&log).len() == 5);
        let later = now() + 10_000_000;
        let third = File::open(aside(&log, "20260103T000000.000Z")).expect("there");
        let held = Held::take(&third).expect("nobody else's");
        assert!(tidy.once(later).expect("in order"), "nothing is left to do");
        let raw: Vec<PathBuf> =
            list(&log).into_iter().filter(|old| !old.compressed).map(|old| old.path).collect();
        assert_eq!(raw, [aside(&log, "20260103T000000.000Z")], "somebody else compresses it");
        drop(held);
        fs::write(aside(&log, "20260103T000000.000Z.gz.1.new"), "half").expect("written");
        assert!(!tidy.once(later).expect("in order"), "something is left");
        let files = list(&log);
        let stamps: Vec<&str> = files.iter().map(|old| old.stamp.split_at(8).0).collect();
        assert_eq!(stamps, ["20260103", "20260104", "20260105"]);
        assert!(files.iter().all(|old| old.compressed && !old.path.exists() && old.size < 2000));
        let text = read_compressed(&files[0].path).expect("read");
        assert_eq!(text, "3\n".repeat(1000).as_bytes());
        assert_eq!(read_compressed(&index::beside(&files[0].path)).expect("read"), b"an index");
        remove(&files[0]).expect("removed");
        assert_eq!(fs::read_dir(directory.path()).expect("read").count(), 4);
    }
}
