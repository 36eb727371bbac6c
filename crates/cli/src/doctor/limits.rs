//! Limits of this user and this machine.

use super::{Findings, number};
use rustix::process::{Resource, getrlimit};

pub(super) fn look() -> Findings {
    let mut found = Findings::new("Limits");
    files(&mut found);
    let processes = getrlimit(Resource::Nproc).current;
    let advice = "each worker is a process, with threads; raise it in limits.conf(5), or with TasksMax= in a unit";
    at_least(&mut found, "processes", processes, 1024, advice);
    at_least(
        &mut found,
        "somaxconn",
        number("/proc/sys/net/core/somaxconn"),
        1024,
        "so many connections can wait for a worker: sysctl net.core.somaxconn=4096",
    );
    at_least(
        &mut found,
        "inotify watches",
        number("/proc/sys/fs/inotify/max_user_watches"),
        65_536,
        "--watch needs one for each directory: sysctl fs.inotify.max_user_watches=524288",
    );
    at_least(
        &mut found,
        "inotify instances",
        number("/proc/sys/fs/inotify/max_user_instances"),
        128,
        "--watch needs one for each application: sysctl fs.inotify.max_user_instances=512",
    );
    ports(&mut found);
    memory(&mut found);
    found
}

fn files(found: &mut Findings) {
    let limit = getrlimit(Resource::Nofile);
    let told = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    let what = format!("{}, at most {}", told(limit.current), told(limit.maximum));
    let low = |limit: Option<u64>, least| limit.is_some_and(|limit| limit < least);
    let advice = "each connection needs one: limits.conf(5), LimitNOFILE= in a unit, ulimit -n";
    if low(limit.current, 256) {
        found.problem("open files", what, advice);
    } else if low(limit.maximum, 65_536) || low(limit.current, 1024) {
        found.note("open files", what, advice);
    } else {
        found.ok("open files", what);
    }
}

/// None is as many as one likes; or the kernel does not tell.
fn at_least(found: &mut Findings, name: &str, there: Option<u64>, least: u64, advice: &str) {
    match there {
        None => found.ok(name, "unlimited"),
        Some(n) if n >= least => found.ok(name, n.to_string()),
        Some(n) => found.note(name, format!("{n}, which is little"), advice),
    }
}

fn ports(found: &mut Findings) {
    let text =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let numbers: Vec<u32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [from, to] = numbers[..] else { return };
    let what = format!("{from} to {to}");
    if to.saturating_sub(from) < 10_000 {
        found.note("outgoing ports", what, "few connections to databases and others at a time: sysctl net.ipv4.ip_local_port_range");
    } else if from < 10_000 {
        found.note("outgoing ports", what, "an outgoing connection may have the port that a server wants: sysctl net.ipv4.ip_local_reserved_ports");
    } else {
        found.ok("outgoing ports", what);
    }
}

fn memory(found: &mut Findings) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(bytes) = available(&text) else { return };
    let what = format!("{} available", crate::ui::words::memory(bytes));
    match bytes {
        0..0x0800_0000 => found.note("memory", what, "a reload needs room for one more worker"),
        _ => found.ok("memory", what),
    }
}

/// Of `/proc/meminfo`.
fn available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn what_is_little_is_noted() {
        let mut found = Findings::new("Limits");
        at_least(&mut found, "a", None, 10, "more");
        at_least(&mut found, "a", Some(10), 10, "more");
        at_least(&mut found, "a", Some(9), 10, "more");
        let levels: Vec<Level> = found.all.iter().map(|found| found.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Ok, Level::Note]);
    }

    #[test]
    fn memory_that_is_available() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
    }
}
