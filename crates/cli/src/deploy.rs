//! `phalanx deploy`: a commit of a git repository is brought to hosts by ssh, and what belongs to it is run there.
//!
//! One host after the other, one step after the other; what fails is the end, and is told with what was done before.

mod script;
mod ssh;

use crate::args::Deploy;
use crate::config::{self, Deployment};
use crate::failure::{Failure, UNEXPECTED, USAGE};
use crate::show;
use crate::ui::words::count;
use script::{Step, Task};
use ssh::{End, Interrupts};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// The words that are no ref.
const COMMANDS: [&str; 10] =
    ["setup", "update", "revert", "current", "curr", "previous", "prev", "list", "exec", "run"];

pub(crate) fn deploy(options: &Deploy) -> Result<(), Failure> {
    let (file, name, words) = split(&options.words)?;
    let task = task(words, &options.command)?;
    let (deployment, directory) = config::deployment(&file, &name)?;
    usable(&task, &deployment).map_err(|why| {
        Failure::tool(UNEXPECTED, format!("{}: deploy.{name}: {why}", file.display()))
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::os("begin"))?;
    runtime.block_on(async {
        if task == Task::Update && !options.force {
            pushed(&directory).await?;
        }
        let mut interrupts = Interrupts::new().map_err(Failure::os("wait for signals"))?;
        let deploy = Running { name: &name, task: &task, deployment: &deployment };
        if matches!(task, Task::Update | Task::Ref(_)) {
            deploy.here(&directory, &mut interrupts).await?;
        }
        deploy.everywhere(&mut interrupts).await
    })
}

/// The file, which deployment of it, and what is to be done.
fn split(words: &[String]) -> Result<(PathBuf, String, &[String]), Failure> {
    let is_file = |word: &String| config::is_config(Path::new(word));
    let (file, rest) = match words {
        [first, rest @ ..] if is_file(first) => (PathBuf::from(first), rest),
        rest => {
            let here = config::default_file(Path::new("")).ok_or_else(|| {
                Failure::tool(USAGE, "there is no configuration file here")
                    .hint("name it: `phalanx deploy FILE ENV [COMMAND]`")
            })?;
            (here, rest)
        }
    };
    match rest {
        [name, rest @ ..] => Ok((file, name.clone(), rest)),
        [] => Err(Failure::tool(USAGE, "it is not said which deployment")
            .hint("`phalanx deploy FILE ENV [COMMAND]`: ENV is a key below `deploy` in the file")),
    }
}

/// What is to be done.
fn task(words: &[String], command: &[String]) -> Result<Task, Failure> {
    let (first, rest) = match words {
        [] => ("update", words),
        [first, rest @ ..] => (first.as_str(), rest),
    };
    let done = match (first, rest) {
        ("setup", []) => Task::Setup,
        ("update", []) => Task::Update,
        ("current" | "curr", []) => Task::Current,
        ("previous" | "prev", []) => Task::Previous,
        ("list", []) => Task::List,
        ("revert", []) => Task::Revert(1),
        ("revert", [n]) => Task::Revert(deployments_back(n)?),
        ("exec" | "run", rest) if !(rest.is_empty() && command.is_empty()) => {
            let words: Vec<&str> = rest.iter().chain(command).map(String::as_str).collect();
            return Ok(Task::Exec(words.join(" ")));
        }
        ("exec" | "run", _) => {
            return Err(Failure::tool(USAGE, format!("`{first}` needs a command"))
                .hint("`phalanx deploy ENV exec 'phalanx list'`"));
        }
        ("ref", [name]) => reference(name)?,
        (name, []) if !COMMANDS.contains(&name) && name != "ref" => {
            meant(name)?;
            reference(name)?
        }
        (first, _) => {
            let message =
                format!("that is too much, or not enough, for `{}`", first.escape_debug());
            return Err(Failure::tool(USAGE, message).hint(
                "setup, update, revert [N], current, previous, list, exec 'COMMAND', ref REF",
            ));
        }
    };
    if command.is_empty() {
        return Ok(done);
    }
    Err(Failure::tool(USAGE, "only `exec` takes a command after `--`"))
}

fn deployments_back(text: &str) -> Result<u32, Failure> {
    let number = text.parse().ok().filter(|n| (1..=1_000_000).contains(n));
    number.ok_or_else(|| {
        let message = format!("`{}` is no number of deployments, from 1", text.escape_debug());
        Failure::tool(USAGE, message).hint("`phalanx deploy ENV list` numbers them")
    })
}

fn reference(name: &str) -> Result<Task, Failure> {
    let wrong = |why| Failure::tool(USAGE, format!("`{}` {why}", name.escape_debug()));
    config::reference(name).map_err(wrong)?;
    if name.trim().is_empty() {
        return Err(Failure::tool(USAGE, "a ref is a branch, a tag or a commit"));
    }
    Ok(Task::Ref(name.to_owned()))
}

/// A slip of the pen is no branch.
fn meant(name: &str) -> Result<(), Failure> {
    let wrong = |known: &&str| strsim::osa_distance(name, known);
    let Some(known) = COMMANDS.iter().min_by_key(|known| wrong(known)) else { return Ok(()) };
    if wrong(known) > 2 || wrong(known) * 2 >= name.chars().count() {
        return Ok(());
    }
    Err(Failure::tool(USAGE, format!("there is no command `{name}`; did you mean {known}?"))
        .hint(format!("if it is a branch or a tag: `ref {name}`")))
}

/// Whether all is said that is needed.
fn usable(task: &Task, deployment: &Deployment) -> Result<(), String> {
    let missing = |what: &str| Err(format!("{what} is missing"));
    if deployment.hosts.is_empty() {
        return missing("host");
    }
    if deployment.path.is_none() {
        return missing("path");
    }
    if *task == Task::Setup && deployment.repo.is_none() {
        return missing("repo");
    }
    match &deployment.key {
        Some(key) if !key.is_file() => Err(format!("key: there is no file {}", key.display())),
        _ => Ok(()),
    }
}

/// What is deployed is what the repository has: work that is only here is easily forgotten.
async fn pushed(directory: &Path) -> Result<(), Failure> {
    let hint = "commit and push first; --force deploys what the repository has";
    let refused = |message: String| Err(Failure::tool(UNEXPECTED, message).hint(hint));
    let changed = git(directory, &["status", "--porcelain", "--untracked-files=no"]).await;
    if let Some(changed) = changed.filter(|text| !text.trim().is_empty()) {
        let files = count(changed.lines().count(), "file", "files");
        return refused(format!("there are changes here that are not committed, in {files}"));
    }
    // A branch that follows none has nothing to be compared with.
    let ahead = git(directory, &["rev-list", "--count", "@{upstream}..HEAD"]).await;
    match ahead.as_deref().map(str::trim) {
        None | Some("0") => Ok(()),
        Some("1") => refused("a commit here is not pushed".to_owned()),
        Some(n) => refused(format!("{n} commits here are not pushed")),
    }
}

/// What git says, if there is one, and a repository.
async fn git(directory: &Path, words: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(words).stdin(Stdio::null()).stderr(Stdio::null());
    let done = command.output().await.ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}

/// A deployment at work.
struct Running<'r> {
    name: &'r str,
    task: &'r Task,
    deployment: &'r Deployment,
}

impl Running<'_> {
    /// What is run before anything is brought anywhere.
    async fn here(&self, directory: &Path, interrupts: &mut Interrupts) -> Result<(), Failure> {
        let Some(text) = &self.deployment.pre_deploy_local else { return Ok(()) };
        show::say(&format!("{}: pre-deploy-local", self.name));
        let mut command = Command::new("sh");
        command.args(["-c", text]).current_dir(directory);
        command.envs(self.deployment.env.iter().map(|(name, value)| (name, value)));
        let failed = |how: &str| {
            let message = format!("{}: pre-deploy-local, which is run here, {how}", self.name);
            Failure::tool(UNEXPECTED, message).hint("no host was asked for anything")
        };
        match ssh::follow(&mut command, None, "", interrupts).await {
            Ok(End::Ended(status)) if status.success() => Ok(()),
            Ok(End::Ended(status)) => {
                Err(failed(&format!("failed: {}", how(status.code(), status.signal()))))
            }
            Ok(End::Interrupted) => Err(failed("was interrupted")),
            Err(error) => Err(failed(&format!("cannot be run: {error}"))),
        }
    }

    /// On one host after the other.
    async fn everywhere(&self, interrupts: &mut Interrupts) -> Result<(), Failure> {
        let hosts = &self.deployment.hosts;
        let widest = hosts.iter().map(|host| host.chars().count()).max().unwrap_or(0);
        for (at, host) in hosts.iter().enumerate() {
            let prefix = if hosts.len() > 1 { format!("{host:widest$} | ") } else { String::new() };
            for step in script::steps(self.task, self.deployment) {
                if !self.task.asks() {
                    show::say(&format!("{host}: {}", step.name));
                }
                let end = ssh::run(self.deployment, host, &step.script, &prefix, interrupts).await;
                self.judge(&end, at, &step)?;
            }
        }
        if !self.task.asks() {
            let (name, hosts) = (self.name, hosts.join(", "));
            show::say(&format!("{name}: {} is done on {hosts}", self.task.name()));
        }
        if self.task.brings() && self.deployment.post_deploy.is_none() {
            show::say("there is no post-deploy: the files are there, and nothing was reloaded");
        }
        Ok(())
    }

    /// Says what went wrong, where, and what is already done.
    fn judge(&self, end: &io::Result<End>, at: usize, step: &Step) -> Result<(), Failure> {
        let hosts = &self.deployment.hosts;
        let host = hosts.get(at).map(String::as_str).unwrap_or_default();
        let what = match end {
            Ok(End::Ended(status)) if status.success() => return Ok(()),
            Ok(End::Ended(status)) if status.code() == Some(LOST) => {
                format!("{} failed: there is no connection, or it was lost", step.name)
            }
            Ok(End::Ended(status)) => {
                format!("{} failed: {}", step.name, how(status.code(), status.signal()))
            }
            Ok(End::Interrupted) => format!("{} was interrupted", step.name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::tool(UNEXPECTED, "there is no `ssh` in $PATH")
                    .hint("it is OpenSSH's client: `apt-get install openssh-client`"));
            }
            Err(error) => format!("{}: ssh cannot be run: {error}", step.name),
        };
        let mut hints = Vec::new();
        if let Ok(End::Ended(status)) = end
            && status.code() == Some(LOST)
        {
            hints.push(format!("`{}` shows more", ssh::trial(self.deployment, host)));
        }
        if matches!(end, Ok(End::Interrupted)) {
            hints.push("a command that had begun there may go on to its end".to_owned());
        }
        if step.name == "post-deploy" {
            let name = self.name;
            hints.push(format!(
                "its files are the new ones: `phalanx deploy {name} revert` brings those before"
            ));
        }
        hints.extend(others(hosts, at));
        let failure = Failure::tool(UNEXPECTED, format!("{}: {host}: {what}", self.name));
        Err(if hints.is_empty() { failure } else { failure.hint(hints.join("; ")) })
    }
}

/// What ssh ends with if the connection fails; a command that does so cannot be told from it.
const LOST: i32 = 255;

fn how(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => crate::signals::name(signal),
        (None, None) => "it ended".to_owned(),
    }
}

/// What became of the other hosts.
fn others(hosts: &[String], at: usize) -> Vec<String> {
    let before = hosts.get(..at).unwrap_or_default().join(", ");
    let after = hosts.get(at + 1..).unwrap_or_default().join(", ");
    let mut all = Vec::new();
    if !before.is_empty() {
        all.push(format!("done: {before}"));
    }
    if !after.is_empty() {
        all.push(format!("not begun: {after}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_asked_for() {
        let of = |text: &str| task(&words(text), &[]).map_err(|failure| failure.message());
        for (text, wanted) in [
            ("", Task::Update),
            ("update", Task::Update),
            ("setup", Task::Setup),
            ("revert", Task::Revert(1)),
            ("revert 3", Task::Revert(3)),
            ("curr", Task::Current),
            ("previous", Task::Previous),
            ("prev", Task::Previous),
            ("list", Task::List),
            ("exec ls", Task::Exec("ls".into())),
            ("run a b", Task::Exec("a b".into())),
            ("v1.2.0", Task::Ref("v1.2.0".into())),
            ("main", Task::Ref("main".into())),
            ("origin/setup", Task::Ref("origin/setup".into())),
            ("ref updte", Task::Ref("updte".into())),
        ] {
            assert_eq!(of(text), Ok(wanted), "{text}");
        }
        for (text, part) in [
            ("udpate", "did you mean update?"),
            ("setpu", "did you mean setup?"),
            ("lst", "did you mean list?"),
            ("revert 0", "is no number of deployments"),
            ("revert x", "is no number of deployments"),
            ("exec", "needs a command"),
            ("setup now", "too much"),
            ("ref", "not enough"),
            ("ref -x", "begins with a dash"),
        ] {
            let said = of(text).expect_err(text);
            assert!(said.contains(part), "{text}: {said}");
        }
        assert_eq!(task(&words("exec"), &words("ls -l")).ok(), Some(Task::Exec("ls -l".into())));
        assert!(task(&words("setup"), &words("ls")).is_err());
    }

    #[test]
    fn what_became_of_the_others() {
        let hosts = words("a b c");
        assert_eq!(others(&hosts, 0), ["not begun: b, c"]);
        assert_eq!(others(&hosts, 1), ["done: a", "not begun: c"]);
        assert_eq!(others(&hosts, 2), ["done: a, b"]);
    }
}
