//! Whether the kernel killed a worker for want of memory.
//!
//! SIGKILL says nothing of who sent it. But the kernel counts what its OOM killer does: for a cgroup in `memory.events`
//! (cgroup v2), and for the whole machine in /proc/vmstat. A count that rose tells; the cgroup's for certain, the
//! machine's only probably: it may have been another process.

use std::path::{Path, PathBuf};

/// What was counted when it was last looked.
pub(super) struct OomWatch {
    machine: PathBuf,
    group: Option<PathBuf>,
    seen: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    machine: Option<u64>,
    group: Option<u64>,
}

impl OomWatch {
    pub(super) fn new() -> Self {
        Self::at("/proc/vmstat".into(), own_group())
    }

    fn at(machine: PathBuf, group: Option<PathBuf>) -> Self {
        let mut watch = Self { machine, group, seen: Counts::default() };
        watch.look();
        watch
    }

    /// What was before this is not about who dies from now on.
    pub(super) fn look(&mut self) {
        self.seen = self.now();
    }

    /// A process was killed, and not by its primary: whether the kernel did it; `Some(true)` for certain.
    pub(super) fn explains(&mut self) -> Option<bool> {
        let (before, now) = (self.seen, self.now());
        self.seen = now;
        let rose = |before: Option<u64>, now: Option<u64>| {
            before.zip(now).is_some_and(|(before, now)| now > before)
        };
        if rose(before.group, now.group) {
            return Some(true);
        }
        rose(before.machine, now.machine).then_some(false)
    }

    fn now(&self) -> Counts {
        let group = self.group.as_ref().and_then(|file| count(file));
        Counts { machine: count(&self.machine), group }
    }
}

/// The count in a file of names and numbers.
fn count(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}

/// The events of the cgroup of this process, and so of its workers.
fn own_group() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let file = Path::new("/sys/fs/cgroup").join(path).join("memory.events");
    file.exists().then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_rose_tells() {
        let place = tempfile::tempdir().expect("a directory");
        let (machine, group) = (place.path().join("vmstat"), place.path().join("memory.events"));
        let write = |file: &Path, kills: u32| {
            let text = format!("oom 3\noom_kill {kills}\noom_kill_disable 0\n");
            std::fs::write(file, text).expect("written");
        };
        write(&machine, 4);
        write(&group, 1);
        let mut watch = OomWatch::at(machine.clone(), Some(group.clone()));
        assert_eq!(watch.explains(), None, "nothing happened");
        write(&machine, 5);
        assert_eq!(watch.explains(), Some(false), "somewhere");
        assert_eq!(watch.explains(), None, "that is known");
        write(&machine, 6);
        write(&group, 2);
        assert_eq!(watch.explains(), Some(true), "here");
        write(&machine, 7);
        watch.look();
        assert_eq!(watch.explains(), None, "it was before");
    }

    #[test]
    fn what_cannot_be_read_tells_nothing() {
        let mut watch = OomWatch::at("/nowhere/vmstat".into(), Some("/nowhere/events".into()));
        assert_eq!(watch.explains(), None);
        assert_eq!(count(Path::new("/proc/vmstat")).is_some(), Path::new("/proc/vmstat").exists());
    }
}
