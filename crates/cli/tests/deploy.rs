//! `phalanx deploy`: a real repository, and hosts with a real sshd, which are two addresses of this machine, each with a home
//! of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "tool/support.rs"]
mod support;

use bench::spawned::{Guarded, Signal};
use bench::wait;
use common::{LONG, clean, spawn};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Done, Tool, begin, finish, gone};

const HOSTS: [&str; 2] = ["127.0.0.1", "127.0.0.2"];

/// A developer's directory with a clone of a repository, and hosts that can clone it too.
struct Site {
    tool: Tool,
    port: u16,
    sshd: Guarded,
}

impl Site {
    fn new() -> Self {
        let tool = Tool::new();
        let port = wait::free_port();
        let root = tool.directory().to_owned();
        for key in ["host", "user"] {
            let file = root.join(key);
            done(clean("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file));
        }
        let public = fs::read_to_string(root.join("host.pub")).unwrap();
        let known = HOSTS.map(|host| format!("[{host}]:{port} {public}")).concat();
        fs::write(root.join("known_hosts"), known).unwrap();
        let sshd = sshd(&root, port);
        let site = Self { tool, port, sshd };
        site.repository();
        site
    }

    fn root(&self) -> &Path {
        self.tool.directory()
    }

    /// A home on a host.
    fn home(&self, host: usize) -> PathBuf {
        self.root().join(HOSTS[host])
    }

    /// Where the application is.
    fn path(&self, host: usize) -> PathBuf {
        self.home(host).join("it's a site")
    }

    fn work(&self) -> PathBuf {
        self.root().join("work")
    }

    fn repository(&self) {
        let origin = self.root().join("origin.git");
        done(&mut git(self.root(), &["init", "-q", "--bare", "-b", "main", "origin.git"]));
        done(&mut git(self.root(), &["clone", "-q", origin.to_str().unwrap(), "work"]));
        done(&mut git(&self.work(), &["checkout", "-q", "-b", "main"]));
        fs::write(self.work().join(".gitignore"), "*.config.*\n").unwrap();
        self.commit("one");
    }

    /// A commit whose file `said` has this text, pushed.
    fn commit(&self, text: &str) {
        fs::write(self.work().join("said"), text).unwrap();
        done(&mut git(&self.work(), &["add", "-A"]));
        done(&mut git(&self.work(), &["commit", "-q", "-m", &format!("it says {text}")]));
        done(&mut git(&self.work(), &["push", "-q", "-u", "origin", "main"]));
    }

    /// What every deployment here has.
    fn deployment(&self, more: &Value) -> Value {
        let user = String::from_utf8(clean("id", ["-un"]).output().unwrap().stdout).unwrap();
        let known = self.root().join("known_hosts");
        let mut all = json!({
            "user": user.trim(),
            "host": HOSTS[0],
            "port": self.port,
            "ref": "origin/main",
            "repo": self.root().join("origin.git"),
            "path": "~/it's a site",
            "key": "../user",
            "ssh_options": [
                format!("UserKnownHostsFile={}", known.display()),
                "GlobalKnownHostsFile=/dev/null",
                "StrictHostKeyChecking yes",
                "-o IdentitiesOnly=yes",
            ],
        });
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    }

    /// A file with these deployments, and an application, as pm2's users have it.
    fn write(&self, deployments: &Value) {
        let all = json!({
            "apps": [{ "name": "shop", "script": "/bin/true" }],
            "deploy": deployments,
        });
        fs::write(self.work().join("ecosystem.config.json"), all.to_string()).unwrap();
        let text = format!("module.exports = {all:#};\n");
        fs::write(self.work().join("deploy.config.js"), text).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.tool.command(&[&["deploy"], words].concat());
        command.current_dir(self.work()).env("GIT_CONFIG_GLOBAL", "/dev/null");
        command
    }

    fn deploy(&self, words: &[&str]) -> Done {
        finish(begin(&mut self.command(words)))
    }

    /// As the application sees it.
    fn said(&self, host: usize) -> String {
        fs::read_to_string(self.path(host).join("current/said")).unwrap_or_default()
    }
}

/// A server of ssh for the addresses of [`HOSTS`].
fn sshd(root: &Path, port: u16) -> Guarded {
    // As root it changes to an empty directory of the system's, which its package makes at boot.
    if rustix::process::geteuid().is_root() {
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let shown = root.display();
    let mut config = format!(
        "Port {port}\nKexAlgorithms curve25519-sha256\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/user.pub\nStrictModes no\nPidFile none\n\
         PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\n\
         SetEnv \"PATH={}\" GIT_CONFIG_GLOBAL=/dev/null\n",
        std::env::var("PATH").unwrap()
    );
    for host in HOSTS {
        fs::create_dir(root.join(host)).unwrap();
        config.push_str(&format!("ListenAddress {host}\n"));
    }
    // What a session begins with; it runs what it was asked for, as without it.
    for host in HOSTS {
        config.push_str(&format!(
            "Match LocalAddress {host}\nForceCommand cd {shown}/{host} && HOME={shown}/{host} exec sh -c \"$SSH_ORIGINAL_COMMAND\"\n"
        ));
    }
    let file = root.join("sshd_config");
    fs::write(&file, config).unwrap();
    let path = std::env::var("PATH").unwrap() + ":/usr/sbin:/usr/local/sbin";
    let mut places = path.split(':').map(|place| Path::new(place).join("sshd"));
    let program = places.find(|file| file.is_file()).expect("sshd is installed");
    let sshd = spawn(clean(program.to_str().unwrap(), ["-D", "-e", "-f"]).arg(file));
    for host in HOSTS {
        let listens = format!("Server listening on {host} ");
        sshd.wait_for_line(|line| line.contains(&listens), LONG)
            .unwrap_or_else(|error| panic!("{error}"));
    }
    sshd
}

fn git(directory: &Path, words: &[&str]) -> Command {
    let mut command = clean("git", ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]);
    command.arg("-C").arg(directory).args(words).env("GIT_CONFIG_GLOBAL", "/dev/null");
    command
}

#[track_caller]
fn done(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {done:?}");
}

#[test]
fn from_setup_to_revert() {
    let site = Site::new();
    site.write(&json!({ "production": site.deployment(&json!({
        "pre-setup": "echo pre-setup >>~/log",
        "post_setup": "echo post-setup in ${PWD##*/} >>~/log",
        "pre-deploy-local": "echo \"$STAGE\" >>../local",
        "pre-deploy": "echo from $(cat said) >>~/log",
        "post-deploy": ["cat >>~/log", "echo \"$STAGE\" $(cat said) >>~/log"],
        "env": { "STAGE": "it's $HOME" },
    })) }));
    let log = || {
        let text = fs::read_to_string(site.home(0).join("log")).unwrap_or_default();
        fs::write(site.home(0).join("log"), "").unwrap();
        text.lines().collect::<Vec<_>>().join("|")
    };
    site.deploy(&["production", "list"]).expect(1, &["setup comes first", "list failed"]);
    site.deploy(&["deploy.config.js", "production", "setup"])
        .expect(0, &["127.0.0.1: pre-setup", "it says one", "setup is done on 127.0.0.1"]);
    assert_eq!(log(), "pre-setup|post-setup in current");
    for place in ["shared/logs", "shared/pids", "source/.git"] {
        assert!(site.path(0).join(place).is_dir(), "{place}");
    }
    assert_eq!(fs::read_link(site.path(0).join("current")).unwrap(), Path::new("source"));
    site.deploy(&["production", "list"]).expect(1, &["nothing was deployed yet"]);

    // Once more, as for a host that came later; then what is deployed.
    site.commit("two");
    site.deploy(&["production", "setup"]).expect(0, &["it says two"]);
    log();
    site.deploy(&["production"]).expect(0, &["127.0.0.1: update", "it says two", "update is done"]);
    assert_eq!(log(), "from two|it's $HOME two");
    assert_eq!(fs::read_to_string(site.root().join("local")).unwrap(), "it's $HOME\n");
    site.commit("three");
    site.deploy(&["production", "update"]).expect(0, &["it says three"]);
    assert_eq!(log(), "from two|it's $HOME three");
    // What is there already is no deployment.
    site.deploy(&["production", "update"]).expect(0, &["it says three"]);
    site.deploy(&["production", "setup"]).expect(0, &["it says three"]);
    site.commit("four");
    site.deploy(&["production", "setup"]).expect(0, &["it says three"]);
    site.deploy(&["production", "update"]).expect(0, &["it says four"]);
    let Done { stdout, .. } = site.deploy(&["production", "list"]).expect(0, &[]);
    let lines: Vec<(&str, &str)> = stdout
        .lines()
        .filter_map(|line| Some((line.split_whitespace().next()?, line.rsplit(' ').next()?)))
        .collect();
    assert_eq!(lines, [("0", "four"), ("1", "three"), ("2", "two")], "{stdout}");
    site.deploy(&["production", "current"]).expect(0, &["it says four"]);
    site.deploy(&["production", "prev"]).expect(0, &["it says three"]);

    log();
    site.deploy(&["production", "revert", "2"]).expect(0, &["it says two", "revert is done"]);
    assert_eq!(log(), "from four|it's $HOME two");
    site.deploy(&["production", "curr"]).expect(0, &["it says two"]);
    site.deploy(&["production", "revert"]).expect(0, &["it says four"]);
    site.deploy(&["production", "revert", "9"])
        .expect(1, &["there are not so many deployments", "revert failed"]);
    assert_eq!(site.said(0), "four");
    let done =
        site.deploy(&["production", "exec", "cat said; echo \"$STAGE\" >&2; basename \"$PWD\""]);
    let done = done.expect(0, &["it's $HOME"]);
    assert_eq!(done.stdout, "fourcurrent\n");
}

#[test]
fn refs_and_what_is_only_here() {
    let site = Site::new();
    let terminal = site.deployment(&json!({ "needs_tty": "yes" }));
    let deployment = site.deployment(&json!({ "ref": "main", "post-deploy": "true" }));
    site.write(&json!({ "staging": deployment, "terminal": terminal }));
    site.deploy(&["staging", "setup"]).expect(0, &[]);
    done(&mut git(&site.work(), &["tag", "v1"]));
    done(&mut git(&site.work(), &["push", "-q", "origin", "v1"]));
    // A branch is what it is at the origin now.
    site.commit("two");
    site.deploy(&["staging"]).expect(0, &["it says two"]);
    site.deploy(&["staging", "v1"]).expect(0, &["staging: ref is done"]);
    assert_eq!(site.said(0), "one");
    site.deploy(&["staging", "ref", "main"]).expect(0, &[]);
    assert_eq!(site.said(0), "two");
    site.deploy(&["staging", "v2"]).expect(1, &["there is no v2 in", "ref failed"]);
    site.deploy(&["staging", "udpate"]).expect(2, &["did you mean update?"]);

    fs::write(site.work().join("said"), "changed").unwrap();
    site.deploy(&["staging"]).expect(1, &["not committed, in 1 file", "--force"]);
    site.deploy(&["staging", "--force"]).expect(0, &["it says two"]);
    done(&mut git(&site.work(), &["commit", "-q", "-a", "-m", "only here"]));
    site.deploy(&["staging", "update"]).expect(1, &["a commit here is not pushed"]);
    site.deploy(&["staging", "update", "--force"]).expect(0, &["update is done"]);
    assert_eq!(site.said(0), "two");

    let line = "test -t 0 && test -t 1 && echo \"it's a terminal\"";
    site.deploy(&["terminal", "exec", line]).expect(0, &["it's a terminal"]);
    // It has no post-deploy.
    site.deploy(&["terminal", "-f"]).expect(0, &["nothing was reloaded"]);
    // Ctrl-C ends what runs there as well.
    let pid = site.root().join("pid");
    let line = format!("echo $$ >'{}'; exec sleep 600", pid.display());
    let process = begin(&mut site.command(&["terminal", "exec", &line]));
    let sleeping = wait::until(LONG, "the command to begin", || {
        fs::read_to_string(&pid).ok()?.trim().parse::<u32>().ok()
    });
    let sleeping = sleeping.unwrap_or_else(|error| panic!("{error}\n{}", site.sshd.output()));
    common::signal(process.id(), Signal::INT);
    finish(process).expect(1, &["127.0.0.1: exec was interrupted"]);
    gone(sleeping, LONG);
}

#[test]
fn what_fails_is_said() {
    let site = Site::new();
    let failing = site.deployment(&json!({
        "host": HOSTS,
        // Only on the second host, and only with the second commit.
        "post-deploy": "echo told; case $HOME-$(cat said) in *.2-two) echo broken >&2; exit 7 ;; esac",
    }));
    let local = site.deployment(&json!({ "pre-deploy-local": "exit 4" }));
    let away = site.deployment(&json!({ "port": wait::free_port(), "host": [HOSTS[1], HOSTS[0]] }));
    let twice = site.deployment(&json!({ "repo": site.root().join("another.git") }));
    site.write(&json!({ "production": failing, "local": local, "away": away, "twice": twice }));
    site.deploy(&["production", "setup"]).expect(0, &["127.0.0.1 | ", "127.0.0.2 | "]);
    site.deploy(&["production"]).expect(0, &["update is done on 127.0.0.1, 127.0.0.2"]);
    site.commit("two");
    let done = site.deploy(&["production"]).expect(
        1,
        &[
            "127.0.0.2 | broken",
            "127.0.0.2: post-deploy failed: exit code 7",
            "done: 127.0.0.1",
            "revert",
        ],
    );
    assert!(!done.stderr.contains("is done on"), "{done:?}");
    assert_eq!((site.said(0), site.said(1)), ("two".into(), "two".into()));
    site.deploy(&["production", "revert"]).expect(0, &["127.0.0.1 | told", "127.0.0.2 | told"]);
    assert_eq!((site.said(0), site.said(1)), ("one".into(), "one".into()));

    site.deploy(&["local"])
        .expect(1, &["pre-deploy-local, which is run here, failed: exit code 4"]);
    site.deploy(&["away", "current"]).expect(
        1,
        &[
            "127.0.0.2: current failed: there is no connection",
            "not begun: 127.0.0.1",
            "` shows more",
        ],
    );
    site.deploy(&["twice", "setup"]).expect(1, &["is a clone of", "setup failed: exit code 1"]);
    let mut command = site.command(&["../plain.json", "production", "current"]);
    fs::write(
        site.root().join("plain.json"),
        json!({ "deploy": { "production": { "host": "h", "path": "p" } } }).to_string(),
    )
    .unwrap();
    finish(begin(command.env("PATH", site.root())))
        .expect(1, &["no `ssh` in $PATH", "openssh-client"]);
}

#[test]
fn what_is_wrong_in_a_file_is_told() {
    let tool = Tool::new();
    let file = tool.program(
        "phalanx.toml",
        "script = '/bin/true'\n[deploy.production]\nhost = ['web', '-oProxyCommand=id']\nuser = '-l'\nposst_deploy = 'x'\n\
         port = 'many'\nssh_options = 'nonsense'\nenv = { 'A B' = 1 }\nref = '--upload-pack=x'\npath = '~other/x'\n",
    );
    let file = file.to_str().unwrap();
    for line in [&["deploy", "production"][..], &["check", file], &["start", file]] {
        tool.run(line).expect(
            1,
            &[
                "phalanx.toml:3: deploy.production: host: `-oProxyCommand=id` begins with a dash",
                "phalanx.toml:4: deploy.production: user: `-l` begins with a dash",
                "phalanx.toml:5: deploy.production: posst_deploy: there is no such key of a deployment; did you mean post-deploy?",
                "phalanx.toml:6: deploy.production: port: expected a port from 1 to 65535, and this is a text",
                "ssh_options: `nonsense` is no option of ssh_config(5)",
                "phalanx.toml:8: deploy.production: env.A B: a variable has letters",
                "ref: `--upload-pack=x` begins with a dash, which git takes for an option",
                "path: `~other/x` is another user's home",
            ],
        );
    }
    // What is right is no word to whoever starts it, also where values are only known on some machines.
    tool.program(
        "phalanx.toml",
        "script = '/bin/true'\n[deploy.production]\nuser = 'me'\n[deploy.staging]\n",
    );
    let done = tool.run(&["check"]).expect(0, &["1 application"]);
    assert!(!done.stdout.contains("deploy") && !done.stdout.contains("warning"), "{done:?}");
    for (line, code, words) in [
        (&["deploy", "production"][..], 1, "deploy.production: host is missing"),
        (&["deploy", "prodution"], 2, "did you mean production? (there are production, staging)"),
        (&["deploy", "phalanx.toml"], 2, "it is not said which deployment"),
        (&["deploy", "nothing.toml", "production"], 1, "cannot read it"),
        (&["deploy", "production", "exec"], 2, "needs a command"),
        (&["deploy"], 2, "Usage: phalanx deploy"),
    ] {
        tool.run(line).expect(code, &[words]);
    }
    tool.program("ecosystem.json", "{ \"apps\": [{ \"script\": \"x\" }] }");
    tool.run(&["deploy", "ecosystem.json", "production"])
        .expect(1, &["there is no deployment in it"]);
}
