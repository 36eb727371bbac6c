//! `phalanx startup`, and the process of its unit, with a systemd that the test plays.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "tool/support.rs"]
mod support;

use bench::spawned::{Guarded, Signal};
use common::{LONG, PHALANX, get, is_free, signal, spawn, stop_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use support::{Tool, begin, finish, gone};

/// What systemd hears.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Vec<String>,
}

impl Systemd {
    fn new(tool: &Tool) -> Self {
        let path = tool.directory().join("notify");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self { socket, path, heard: Vec::new() }
    }

    /// The process that the unit would run.
    fn start(&self, tool: &Tool) -> Guarded {
        let mut command = tool.command(&["resurrect", "--boot", "--stay"]);
        command.env("NOTIFY_SOCKET", &self.path).env("WATCHDOG_USEC", "300000");
        spawn(&mut command)
    }

    /// Waits until it hears a datagram that fits, and not for ever.
    #[track_caller]
    fn hears(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        let mut buffer = [0; 4096];
        while begun.elapsed() < LONG {
            let Ok(read) = self.socket.recv(&mut buffer) else { break };
            let said = String::from_utf8_lossy(&buffer[..read]).into_owned();
            self.heard.push(said.clone());
            if fits(&said) {
                return said;
            }
        }
        panic!("no {what}: {:#?}", self.heard);
    }
}

fn says(line: &'static str) -> impl Fn(&str) -> bool {
    move |said| said.lines().any(|known| known == line)
}

#[test]
fn the_unit_is_printed() {
    let tool = Tool::new();
    let mut command = tool.command(&["startup", "systemd", "--wait-ip"]);
    let done = finish(begin(command.env_remove("SUDO_USER"))).expect(0, &[]);
    for line in [
        "Type=notify",
        "WatchdogSec=60",
        "After=network-online.target",
        &format!("Environment=PHALANX_HOME={}", tool.home.display()),
        &format!("ExecStart={PHALANX} resurrect --boot --stay"),
        "WantedBy=multi-user.target",
    ] {
        assert!(done.stdout.lines().any(|known| known == line), "{line}: {done:?}");
    }
    assert!(done.stderr.contains("systemctl enable phalanx"), "{done:?}");
    let done = tool.run(&["unstartup", "--service-name", "shop.service"]).expect(0, &[]);
    assert!(done.stdout.contains("systemctl disable shop\n"), "{done:?}");
    assert!(done.stdout.contains("/etc/systemd/system/shop.service"), "{done:?}");
    for (args, words) in [
        (&["startup", "upstart"][..], "systemd is the only one"),
        (&["startup", "-u", "nobody-is-called-so"], "there is no user"),
        (&["startup", "--service-name", "../x"], "cannot be a unit's name"),
        (&["startup", "--service-name", ""], "cannot be a unit's name"),
    ] {
        tool.run(args).expect(2, &[words]);
    }
}

/// Who asks root by sudo, and who is named.
#[test]
fn the_unit_is_for_whoever_asks() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else can be asked for: what is recommended names who asks.
        let tool = Tool::new();
        tool.run(&["startup"]).expect(0, &["phalanx startup -u "]);
        return;
    }
    let tool = Tool::new();
    let unit = |args: &[&str], sudo: Option<&str>| {
        let mut command = tool.command(&[&["startup"], args].concat());
        command.env_remove("SUDO_USER").env("PATH", "/srv/node/bin:bin:/usr/bin:/bin");
        sudo.map(|user| command.env("SUDO_USER", user));
        finish(begin(&mut command)).expect(0, &[])
    };
    let home = format!("PHALANX_HOME={}", tool.home.display());
    for (args, sudo, user) in [
        (&[][..], None, None),
        (&[], Some("root"), None),
        (&["-u", "root"], Some("nobody"), None),
        (&[], Some("nobody"), Some("nobody")),
        (&["-u", "nobody"], None, Some("nobody")),
        (&["-u", "daemon"], Some("nobody"), Some("daemon")),
    ] {
        let done = unit(args, sudo);
        let has = |line: &str| done.stdout.lines().any(|known| known == line);
        assert!(has("Environment=PATH=/srv/node/bin:/usr/bin:/bin"), "{done:?}");
        let named = done.stdout.lines().find_map(|line| line.strip_prefix("User="));
        assert_eq!(named, user, "{args:?} by {sudo:?}: {done:?}");
        // Root's home is no other user's.
        assert_eq!(has(&format!("Environment={home}")), user.is_none(), "{args:?}: {done:?}");
        assert_eq!(done.stderr.contains(&format!("{home} is not in the unit")), user.is_some());
        let told = done.stderr.contains("who asks by sudo; `-u root`");
        assert_eq!(told, args.is_empty() && user.is_some(), "{args:?} by {sudo:?}: {done:?}");
        let command = format!("phalanx startup -u {} --write", user.unwrap_or("root"));
        assert!(done.stderr.contains(&command), "{command}: {done:?}");
    }
}

/// A `systemctl` that writes down what it is told.
fn pretend(tool: &Tool) -> PathBuf {
    let place = tool.directory().join("bin");
    fs::create_dir(&place).unwrap();
    let program = place.join("systemctl");
    fs::write(&program, "#!/bin/sh\necho \"$*\" >> \"$(dirname \"$0\")/said\"\n[ \"$2\" != enable ] || [ \"$3\" != broken ] || { echo 'no such unit' >&2; exit 1; }\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    place
}

#[test]
fn a_unit_of_the_users_own_is_installed_and_removed() {
    let tool = Tool::new();
    let (bin, config, runtime) =
        (pretend(&tool), tool.directory().join("config"), tool.directory().join("runtime"));
    fs::create_dir(&runtime).unwrap();
    let run = |args: &[&str]| {
        let mut command: Command = tool.command(args);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", bin.display()));
        command.env("XDG_CONFIG_HOME", &config).env("XDG_RUNTIME_DIR", &runtime);
        finish(begin(&mut command))
    };
    let unit = config.join("systemd/user/phalanx.service");
    run(&["startup", "--user-unit", "--write"])
        .expect(1, &["this user's systemd does not run here", "hint:"]);
    run(&["unstartup", "--user-unit", "--write"]).expect(1, &["does not run here"]);
    assert!(!unit.exists() && !bin.join("said").exists());
    fs::create_dir(runtime.join("systemd")).unwrap();
    run(&["startup", "--user-unit", "--write"]).expect(0, &["is installed and enabled"]);
    let text = fs::read_to_string(&unit).unwrap();
    assert!(text.contains("WantedBy=default.target"), "{text}");
    assert!(!text.contains("User="), "{text}");
    let failed = ["startup", "--user-unit", "--write", "--service-name", "broken"];
    run(&failed).expect(1, &["`systemctl enable broken` failed: no such unit"]);
    run(&["unstartup", "--user-unit", "--write"]).expect(0, &["is removed"]);
    assert!(!unit.exists());
    run(&["unstartup", "--user-unit", "--write"]).expect(1, &["there is no unit"]);
    let said = fs::read_to_string(bin.join("said")).unwrap();
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "--user daemon-reload",
            "--user enable phalanx",
            "--user daemon-reload",
            "--user enable broken",
            "--user disable phalanx",
            "--user daemon-reload",
        ]
    );
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_process_of_the_unit() {
    let tool = Tool::new();
    let server = tool.server("server.js", "");
    tool.run(&["start", path(&server), "-i", "2", "--name", "shop"]).expect(0, &[]);
    let first = tool.primary("shop");
    let mut systemd = Systemd::new(&tool);
    let unit = systemd.start(&tool);
    let said = systemd.hears("READY", says("READY=1"));
    assert!(said.contains("STATUS=1 application serves"), "{said}");
    systemd.hears("WATCHDOG", says("WATCHDOG=1"));

    // SIGHUP: every worker is replaced, and no primary.
    let before = tool.workers("shop");
    unit.signal(Signal::HUP).unwrap();
    let said = systemd.hears("RELOADING", says("RELOADING=1"));
    assert!(said.contains("MONOTONIC_USEC="), "{said}");
    systemd.hears("READY after it", says("READY=1"));
    let after = tool.workers("shop");
    assert!(
        after.len() == 2 && after.iter().all(|pid| !before.contains(pid)),
        "{before:?} {after:?}"
    );
    assert_eq!(tool.primary("shop"), first);

    // A primary that hangs is told; and when it is over.
    stop_process(first);
    systemd.hears("a word of it", |said| said.contains("shop: not answering"));
    signal(first, Signal::CONT);
    systemd.hears("the end of it", says("STATUS=1 application serves"));
    systemd.hears("WATCHDOG", says("WATCHDOG=1"));

    // SIGTERM: all stop, and are to run again.
    unit.signal(Signal::TERM).unwrap();
    systemd.hears("STOPPING", says("STOPPING=1"));
    assert_eq!(unit.wait_exit(LONG).unwrap().code(), Some(0));
    gone(first, LONG);
    assert!(is_free(tool.address));

    // The next boot.
    let mut systemd = Systemd::new(&tool);
    let unit = systemd.start(&tool);
    systemd.hears("READY", says("READY=1"));
    let workers = tool.workers("shop");
    assert_eq!(workers.len(), 2);
    // The applications do not need it.
    unit.signal(Signal::KILL).unwrap();
    unit.wait_exit(LONG).unwrap();
    assert!(workers.contains(&get(tool.address, "/", LONG).unwrap().pid));
    assert_eq!(tool.workers("shop"), workers);
    // And the next one finds them.
    let mut systemd = Systemd::new(&tool);
    let unit = systemd.start(&tool);
    systemd.hears("READY", says("READY=1"));
    assert_eq!(tool.workers("shop"), workers);
    // What somebody stops is not started again.
    tool.run(&["stop", "shop"]).expect(0, &[]);
    systemd.hears("a word of it", says("STATUS=0 applications serve"));
    unit.signal(Signal::INT).unwrap();
    assert_eq!(unit.wait_exit(LONG).unwrap().code(), Some(0));
    let mut systemd = Systemd::new(&tool);
    let unit = systemd.start(&tool);
    systemd.hears("READY", says("READY=1"));
    assert_eq!(tool.about("shop")["state"], "stopped");
    unit.signal(Signal::TERM).unwrap();
    assert_eq!(unit.wait_exit(LONG).unwrap().code(), Some(0));
}
