//! The text of the systemd unit.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What the unit is made of.
#[derive(Clone, Debug, Default)]
pub(super) struct Unit {
    /// Of this program, absolute.
    pub(super) program: PathBuf,
    /// Whose applications, for its description.
    pub(super) name: String,
    /// The user that the system's systemd runs it as; nothing for root, and in a unit of the user's own.
    pub(super) user: Option<(String, u32)>,
    /// `PHALANX_HOME`, if it is set.
    pub(super) home: Option<PathBuf>,
    /// The home directory, if it is not the one that the user database has.
    pub(super) directory: Option<PathBuf>,
    /// Where programs are looked for, as whoever asks for the unit has it.
    pub(super) path: String,
    /// Wait for the network.
    pub(super) wait_ip: bool,
    /// A unit of the user's own systemd.
    pub(super) own: bool,
}

impl Unit {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |words: &str| {
            let _ = writeln!(text, "{words}");
        };
        line("# Made by `phalanx startup`; `phalanx unstartup` tells how to remove it.");
        line("[Unit]");
        line(&format!("Description=phalanx: the applications of {}", self.name));
        if self.wait_ip && !self.own {
            line("Wants=network-online.target");
            line("After=network-online.target");
        } else if !self.own {
            line("After=network.target");
        }
        // Where the user's shells find the control sockets.
        let runtime = match (&self.user, &self.home) {
            (Some((_, uid)), None) => Some(*uid),
            _ => None,
        };
        if let Some(uid) = runtime {
            line(&format!("Wants=user-runtime-dir@{uid}.service"));
            line(&format!("After=user-runtime-dir@{uid}.service"));
        }
        line("");
        line("[Service]");
        line("Type=notify");
        line("NotifyAccess=main");
        if let Some((user, _)) = &self.user {
            line(&format!("User={user}"));
        }
        let mut variable = |name: &str, value: &Path| {
            line(&format!("Environment={}", quoted(&format!("{name}={}", value.display()), false)));
        };
        if !self.path.is_empty() {
            variable("PATH", Path::new(&self.path));
        }
        if let Some(home) = &self.home {
            variable("PHALANX_HOME", home);
        }
        if let Some(directory) = &self.directory {
            variable("HOME", directory);
        }
        if let Some(uid) = runtime {
            variable("XDG_RUNTIME_DIR", Path::new(&format!("/run/user/{uid}")));
        }
        let program = quoted(&self.program.display().to_string(), true);
        line(&format!("ExecStart={program} resurrect --boot --stay"));
        line("ExecReload=/bin/kill -HUP $MAINPID");
        line(
            "# On SIGTERM it stops all applications, as their grace times have it. If it is killed itself,",
        );
        line("# they serve on, and the next one finds them.");
        line("KillMode=process");
        line("TimeoutStartSec=300");
        line("TimeoutStopSec=90");
        line("WatchdogSec=60");
        line("Restart=on-failure");
        line("RestartSec=1");
        line("# A worker that the kernel ends for want of memory is replaced; the others go on.");
        line("OOMPolicy=continue");
        line("LimitNOFILE=524288");
        line("TasksMax=infinity");
        line("");
        line("[Install]");
        line(match self.own {
            true => "WantedBy=default.target",
            false => "WantedBy=multi-user.target",
        });
        text
    }
}

/// The entries of a `PATH` that mean the same wherever somebody is, each once.
pub(super) fn absolute_only(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for entry in path.split(':').filter(|entry| entry.starts_with('/')) {
        if !kept.contains(&entry) {
            kept.push(entry);
        }
    }
    kept.join(":")
}

/// As systemd reads it (`systemd.service(5)`): nothing in it is a specifier or, in a command, a variable.
fn quoted(text: &str, command: bool) -> String {
    let mut plain = text.replace('%', "%%");
    if command {
        plain = plain.replace('$', "$$");
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "/._-=+:,@%$".contains(c);
    if plain.chars().all(fits) {
        return plain;
    }
    let mut quoted = String::from("\"");
    for c in plain.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<'a>(text: &'a str, section: &str, key: &str) -> Vec<&'a str> {
        let from = text.split(&format!("[{section}]\n")).nth(1).unwrap_or_default();
        let lines = from.lines().take_while(|line| !line.starts_with('['));
        let pairs =
            lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        pairs.filter(|(known, _)| *known == key).map(|(_, value)| value).collect()
    }

    #[test]
    fn of_root() {
        let unit = Unit {
            program: "/usr/local/bin/phalanx".into(),
            name: "root".into(),
            ..Unit::default()
        };
        let text = unit.text();
        for (section, key, value) in [
            ("Unit", "Description", &["phalanx: the applications of root"][..]),
            ("Unit", "After", &["network.target"]),
            ("Unit", "Wants", &[]),
            ("Service", "Type", &["notify"]),
            ("Service", "NotifyAccess", &["main"]),
            ("Service", "ExecStart", &["/usr/local/bin/phalanx resurrect --boot --stay"]),
            ("Service", "ExecReload", &["/bin/kill -HUP $MAINPID"]),
            ("Service", "KillMode", &["process"]),
            ("Service", "WatchdogSec", &["60"]),
            ("Service", "Restart", &["on-failure"]),
            ("Service", "OOMPolicy", &["continue"]),
            ("Service", "User", &[]),
            ("Service", "Environment", &[]),
            ("Service", "PIDFile", &[]),
            ("Install", "WantedBy", &["multi-user.target"]),
        ] {
            assert_eq!(values(&text, section, key), value, "{key} of\n{text}");
        }
    }

    #[test]
    fn of_another_user() {
        let unit = Unit {
            program: "/opt/my tools/100%/$HOME/phalanx".into(),
            name: "deploy".into(),
            user: Some(("deploy".into(), 1001)),
            wait_ip: true,
            directory: Some("/srv/deploy".into()),
            path: absolute_only("/srv/.nvm/v 20/bin:.::bin:/usr/bin:/usr/bin:/bin"),
            ..Unit::default()
        };
        let text = unit.text();
        for (section, key, value) in [
            ("Unit", "After", &["network-online.target", "user-runtime-dir@1001.service"][..]),
            ("Unit", "Wants", &["network-online.target", "user-runtime-dir@1001.service"]),
            ("Service", "User", &["deploy"]),
            (
                "Service",
                "Environment",
                &[
                    "\"PATH=/srv/.nvm/v 20/bin:/usr/bin:/bin\"",
                    "HOME=/srv/deploy",
                    "XDG_RUNTIME_DIR=/run/user/1001",
                ],
            ),
            (
                "Service",
                "ExecStart",
                &["\"/opt/my tools/100%%/$$HOME/phalanx\" resurrect --boot --stay"],
            ),
        ] {
            assert_eq!(values(&text, section, key), value, "{key} of\n{text}");
        }
        let named = Unit { home: Some("/srv/a home".into()), path: String::new(), ..unit };
        let text = named.text();
        assert_eq!(
            values(&text, "Service", "Environment"),
            ["\"PHALANX_HOME=/srv/a home\"", "HOME=/srv/deploy"],
            "{text}"
        );
        assert_eq!(values(&text, "Unit", "Wants"), ["network-online.target"], "{text}");
    }

    #[test]
    fn of_the_users_own_systemd() {
        let unit = Unit { program: "/p".into(), own: true, wait_ip: true, ..Unit::default() };
        let text = unit.text();
        assert_eq!(values(&text, "Install", "WantedBy"), ["default.target"], "{text}");
        // A user's systemd knows nothing of the network.
        assert!(values(&text, "Unit", "After").is_empty(), "{text}");
    }
}
