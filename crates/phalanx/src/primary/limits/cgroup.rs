//! Control groups, version 2 (`cgroups(7)`): one for each worker, if they are delegated to this process.
//!
//! ```text
//! <ours>/phalanx-<pid>/primary        this process: a group with groups in it may not have processes of its own
//! <ours>/phalanx-<pid>/<slot>-<id>    a worker, with its children
//! ```

use phalanx_core::limits::Limits;
use phalanx_core::worker::{SlotId, WorkerId};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "phalanx-";

/// The groups of one primary. Dropping it removes what is empty.
#[derive(Debug)]
pub(in super::super) struct Cgroups {
    /// The group that this process was in.
    ours: PathBuf,
    /// `<ours>/phalanx-<pid>`.
    root: PathBuf,
    /// Processes that were moved: this one, and its keeper.
    moved: Vec<u32>,
    workers: BTreeMap<WorkerId, PathBuf>,
}

impl Cgroups {
    /// Makes the groups, and this process one of them. An error says why that cannot be; then nothing was changed.
    /// `keeper`: this process's parent, if that is its keeper.
    pub(super) fn open(limits: &Limits, keeper: Option<u32>) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
        let ours = own_group(&mounts, &own).ok_or("there are no control groups of version 2")?;
        let ours = before_moving(&ours);
        // One that is somewhere else is not in the way.
        let with_us = |pid: &u32| {
            let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            own_group(&mounts, &own).is_some_and(|group| before_moving(&group) == ours)
        };
        Self::open_in(ours, limits, std::process::id(), keeper.filter(with_us))
    }

    fn open_in(
        ours: &Path,
        limits: &Limits,
        pid: u32,
        keeper: Option<u32>,
    ) -> Result<Self, String> {
        let mut needed = Vec::new();
        needed.extend(limits.hard_memory.map(|_| "memory"));
        needed.extend(limits.cpu_weight.map(|_| "cpu"));
        let there = read(&ours.join("cgroup.controllers"))?;
        if let Some(missing) =
            needed.iter().find(|name| !there.split_whitespace().any(|it| it == **name))
        {
            return Err(format!("{} has no controller `{missing}`", ours.display()));
        }
        let mut groups = Self {
            ours: ours.to_owned(),
            root: ours.join(format!("{PREFIX}{pid}")),
            moved: Vec::new(),
            workers: BTreeMap::new(),
        };
        let primary = groups.root.join("primary");
        make(&groups.root)?;
        make(&primary)?;
        // A failure from here on is undone by the drop of `groups`.
        // The kernel takes one at a time. With a keeper in it, `ours` could not have controllers for groups.
        for pid in [Some(pid), keeper].into_iter().flatten() {
            write(&primary.join("cgroup.procs"), &pid.to_string())?;
            groups.moved.push(pid);
        }
        // Not before: they were in the last primary's until now.
        remove_leftovers(ours);
        for name in needed {
            for group in [ours, &groups.root] {
                write(&group.join("cgroup.subtree_control"), &format!("+{name}"))?;
            }
        }
        Ok(groups)
    }

    /// A worker gets a group of its own. What it used before stays with the primary's: little, as it has just begun.
    pub(super) fn add(
        &mut self,
        limits: &Limits,
        slot: SlotId,
        worker: WorkerId,
        pid: u32,
    ) -> Result<(), String> {
        let group = self.root.join(format!("{slot}-{worker}"));
        make(&group)?;
        self.workers.insert(worker, group.clone());
        if let Some(bytes) = limits.hard_memory {
            write(&group.join("memory.max"), &bytes.to_string())?;
            // All of a worker or nothing; and swap would only put the end off.
            let _ = write(&group.join("memory.oom.group"), "1");
            let _ = write(&group.join("memory.swap.max"), "0");
        }
        if let Some(weight) = limits.cpu_weight {
            write(&group.join("cpu.weight"), &weight.to_string())?;
        }
        write(&group.join("cgroup.procs"), &pid.to_string())
    }

    /// Whether the kernel ended something in this worker's group for want of memory.
    pub(in super::super) fn ran_out(&self, worker: WorkerId) -> bool {
        let Some(group) = self.workers.get(&worker) else { return false };
        let events = read(&group.join("memory.events")).unwrap_or_default();
        let count =
            events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        count.is_some_and(|n: u64| n > 0)
    }

    /// A worker is gone; its children may not be, and then its group is removed at the end.
    pub(in super::super) fn remove(&mut self, worker: WorkerId) {
        if let Some(group) = self.workers.get(&worker)
            && fs::remove_dir(group).is_ok()
        {
            self.workers.remove(&worker);
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for group in self.workers.values() {
            let _ = fs::remove_dir(group);
        }
        // Back to where this process came from, which may not have controllers for groups then.
        for name in ["memory", "cpu"] {
            let off = format!("-{name}");
            let _ = write(&self.root.join("cgroup.subtree_control"), &off);
            let _ = write(&self.ours.join("cgroup.subtree_control"), &off);
        }
        for pid in &self.moved {
            let _ = write(&self.ours.join("cgroup.procs"), &pid.to_string());
        }
        let _ = fs::remove_dir(self.root.join("primary"));
        let _ = fs::remove_dir(&self.root);
    }
}

/// The directory of this process's group, from `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn own_group(mounts: &str, own: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mount = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (right.split_whitespace().next()? == "cgroup2").then_some(())?;
        let mut fields = left.split_whitespace().skip(3);
        Some((fields.next()?, fields.next()?))
    });
    let (root, at) = mount?;
    // In a container the mount may begin in the middle of the tree.
    let path = Path::new(path).strip_prefix(root).ok()?;
    Some(Path::new(at).join(path))
}

/// Where a process was before it was moved to a primary's group: it may have become another program since, or be the
/// next primary, which its keeper forked there.
fn before_moving(group: &Path) -> &Path {
    let outer = || {
        let root = group.parent().filter(|_| group.ends_with("primary"))?;
        let pid = root.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        root.parent().filter(|_| pid.parse::<u32>().is_ok())
    };
    outer().unwrap_or(group)
}

/// Groups of primaries that were killed.
fn remove_leftovers(ours: &Path) {
    let entries = fs::read_dir(ours).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        let dead = |pid: u32| !Path::new(&format!("/proc/{pid}")).exists();
        if pid.is_some_and(dead) {
            let groups = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            groups.for_each(|group| drop(fs::remove_dir(group.path())));
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn make(group: &Path) -> Result<(), String> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(format!("cannot make {}: {error}", group.display()))
        }
        _ => Ok(()),
    }
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("cannot write to {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found() {
        let mounts = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let own = "0::/system.slice/shop.service\n";
        let found = own_group(mounts, own);
        assert_eq!(found.as_deref(), Some(Path::new("/sys/fs/cgroup/system.slice/shop.service")));
        let container = "35 24 0:30 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(
            own_group(container, "0::/docker/abc\n").as_deref(),
            Some(Path::new("/sys/fs/cgroup"))
        );
        assert_eq!(
            own_group("35 24 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", own),
            None
        );
        assert_eq!(own_group(mounts, "4:memory:/x\n"), None);
        assert_eq!(own_group("", ""), None);
    }

    /// A directory is no control group, but the files and their order are the same.
    #[test]
    fn groups_are_made_filled_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let ours = directory.path();
        let limits =
            Limits { hard_memory: Some(1 << 30), cpu_weight: Some(50), ..Limits::default() };
        fs::write(ours.join("cgroup.controllers"), "cpu io").unwrap();
        let refused = Cgroups::open_in(ours, &limits, 7, None).unwrap_err();
        assert!(refused.contains("`memory`"), "{refused}");
        fs::write(ours.join("cgroup.controllers"), "cpu io memory pids").unwrap();
        // Left by a primary that is gone; no process has this number.
        fs::create_dir_all(ours.join("phalanx-4194999/0-1")).unwrap();
        fs::create_dir_all(ours.join("phalanx-data")).unwrap();
        let mut groups = Cgroups::open_in(ours, &limits, 7, None).unwrap();
        assert!(!ours.join("phalanx-4194999").exists() && ours.join("phalanx-data").exists());
        groups.add(&limits, SlotId(2), WorkerId(5), 4711).unwrap();
        let group = ours.join("phalanx-7/2-5");
        let has = |name: &str| fs::read_to_string(group.join(name)).unwrap();
        assert_eq!((has("memory.max").as_str(), has("cpu.weight").as_str()), ("1073741824", "50"));
        assert_eq!(has("cgroup.procs"), "4711");
        assert!(!groups.ran_out(WorkerId(5)));
        fs::write(group.join("memory.events"), "low 0\noom 1\noom_kill 2\n").unwrap();
        assert!(groups.ran_out(WorkerId(5)) && !groups.ran_out(WorkerId(6)));
    }

    /// The keeper goes first into the group of the primary before, and then into that of the next one.
    #[test]
    fn a_keeper_goes_with_its_primary() {
        let directory = tempfile::tempdir().unwrap();
        let ours = directory.path();
        let limits = Limits { hard_memory: Some(1 << 30), ..Limits::default() };
        fs::write(ours.join("cgroup.controllers"), "memory").unwrap();
        let groups = Cgroups::open_in(ours, &limits, 4_194_998, Some(8)).unwrap();
        assert_eq!(groups.moved, [4_194_998, 8]);
        let last = fs::read_to_string(groups.root.join("primary/cgroup.procs")).unwrap();
        assert_eq!(last, "8", "a file keeps what was written last");
        let alone = Cgroups::open_in(ours, &limits, 9, None).unwrap();
        assert_eq!(alone.moved, [9]);
        let group = |name: &str| before_moving(&ours.join(name)) == ours;
        assert!(group("phalanx-4194998/primary") && group(""));
        for other in ["phalanx-x/primary", "phalanx-7/0-1", "shop/primary", "phalanx-7"] {
            assert_eq!(before_moving(&ours.join(other)), ours.join(other));
        }
        assert_eq!(before_moving(Path::new("/")), Path::new("/"));
    }
}
