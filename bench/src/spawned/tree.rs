//! The processes that descend from a guarded child, to be ended with it.

/// The name of the environment variable that marks every descendant, however it came to be.
pub(super) const MARKER: &str = "BENCH_GUARDED_BY";

#[cfg(target_os = "linux")]
pub(super) use linux::Tree;

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeSet;
    use std::fs;
    use std::sync::{Mutex, PoisonError};

    use rustix::process::{Pid, Signal, kill_process};

    use crate::process::{self, Stat};

    /// All processes seen below one child, by pid and start time: a pid alone may meanwhile
    /// belong to a stranger.
    pub(in super::super) struct Tree {
        root: u32,
        marker: Vec<u8>,
        seen: Mutex<BTreeSet<(u32, u64)>>,
    }

    impl Tree {
        /// Begins with the child itself, which must not have been reaped yet.
        pub(in super::super) fn new(root: u32, marker: &str) -> Self {
            let seen = process::stat(root).map(|stat| (root, stat.started)).into_iter().collect();
            let marker = format!("{}={marker}", super::MARKER).into_bytes();
            Self { root, marker, seen: Mutex::new(seen) }
        }

        /// Looks for descendants and members of the group, remembers them for good, and returns
        /// those that run.
        pub(in super::super) fn record(&self) -> Vec<u32> {
            self.look(false).iter().map(|stat| stat.pid).collect()
        }

        /// Ends all of them with SIGKILL. They are stopped first, so that none starts another
        /// while the others are looked for.
        pub(in super::super) fn kill(&self) {
            let mut stopped = BTreeSet::new();
            for _ in 0..50 {
                let fresh: Vec<Stat> = self.look(true);
                let before = stopped.len();
                for stat in fresh {
                    if stopped.insert((stat.pid, stat.started)) {
                        send(stat.pid, Signal::STOP);
                    }
                }
                if stopped.len() == before {
                    break;
                }
            }
            for stat in self.look(false) {
                send(stat.pid, Signal::KILL);
            }
        }

        fn look(&self, by_marker: bool) -> Vec<Stat> {
            let now = process::all().unwrap_or_default();
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let known =
                |seen: &BTreeSet<(u32, u64)>, stat: &Stat| seen.contains(&(stat.pid, stat.started));
            // The number of the group is ours only as long as one of ours is in it.
            let group = now.iter().any(|stat| stat.group == self.root && known(&seen, stat));
            let given =
                |stat: &&Stat| known(&seen, stat) || (by_marker && self.is_marked(stat.pid));
            let mut pids = BTreeSet::new();
            let given: Vec<&Stat> = now.iter().filter(given).collect();
            for stat in given.into_iter().filter(|stat| stat.pid != std::process::id()) {
                pids.insert(stat.pid);
                seen.insert((stat.pid, stat.started));
            }
            loop {
                let mut grown = false;
                for stat in &now {
                    let ours = pids.contains(&stat.parent) || (group && stat.group == self.root);
                    if ours && stat.pid != std::process::id() && pids.insert(stat.pid) {
                        seen.insert((stat.pid, stat.started));
                        grown = true;
                    }
                }
                if !grown {
                    break;
                }
            }
            let running = |stat: &Stat| pids.contains(&stat.pid) && stat.state != 'Z';
            now.into_iter().filter(running).collect()
        }

        /// Finds also those that left the group and whose parent is gone.
        fn is_marked(&self, pid: u32) -> bool {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == self.marker))
        }
    }

    fn send(pid: u32, signal: Signal) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) use other::Tree;

#[cfg(not(target_os = "linux"))]
mod other {
    /// Without `/proc` only the group is known, and the caller kills that.
    pub(in super::super) struct Tree;

    impl Tree {
        pub(in super::super) fn new(_root: u32, _marker: &str) -> Self {
            Self
        }
        pub(in super::super) fn record(&self) -> Vec<u32> {
            Vec::new()
        }
        pub(in super::super) fn kill(&self) {}
    }
}
