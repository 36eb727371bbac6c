//! Capabilities by their names (capabilities(7)).

use std::fmt;
use std::str::FromStr;

/// A part of what root may do, as `capabilities(7)` names it: `net_bind_service` or `CAP_NET_BIND_SERVICE`.
///
/// ```
/// let kept: phalanx::Capability = "net_bind_service".parse().unwrap();
/// assert_eq!(kept.to_string(), "net_bind_service");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability(u8);

/// By number (linux/capability.h).
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// Of the primary, for what it does to its workers.
impl Capability {
    pub(crate) const SETGID: Self = Self(6);
    pub(crate) const SETUID: Self = Self(7);
    pub(crate) const SETPCAP: Self = Self(8);
    pub(crate) const SYS_CHROOT: Self = Self(18);
    pub(crate) const SYS_NICE: Self = Self(23);
    pub(crate) const SYS_RESOURCE: Self = Self(24);

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its bit in a set.
    pub(crate) const fn bit(self) -> u64 {
        1 << self.0
    }
}

impl FromStr for Capability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.trim().to_ascii_lowercase();
        let name = name.strip_prefix("cap_").unwrap_or(&name);
        let number = (0..).zip(NAMES).find(|(_, known)| *known == name);
        number
            .map(|(number, _)| Self(number))
            .ok_or_else(|| format!("`{text}` is no capability: there are {}", NAMES.join(", ")))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(NAMES.get(usize::from(self.0)).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, number) in [
            ("chown", 0),
            ("CAP_NET_BIND_SERVICE", 10),
            ("Cap_Sys_Admin", 21),
            (" checkpoint_restore ", 40),
        ] {
            let found: Capability = text.parse().expect(text);
            assert_eq!(found.number(), number, "{text}");
        }
        for named in [
            (Capability::SETGID, "setgid"),
            (Capability::SETUID, "setuid"),
            (Capability::SETPCAP, "setpcap"),
            (Capability::SYS_CHROOT, "sys_chroot"),
            (Capability::SYS_NICE, "sys_nice"),
            (Capability::SYS_RESOURCE, "sys_resource"),
        ] {
            assert_eq!(named.0.to_string(), named.1);
        }
        let unknown = "everything".parse::<Capability>().expect_err("none");
        assert!(unknown.contains("`everything`") && unknown.contains("net_raw"), "{unknown}");
    }
}
