//! Steps on hosts: the user's own `ssh`, and what it says.

use super::script::{for_input, word};
use crate::config::Deployment;
use rustix::process::{Pid, kill_process};
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// For what nothing else is said of: nobody waits for ever for a host that is away.
const USUAL: [&str; 3] = ["ConnectTimeout=30", "ServerAliveInterval=15", "ServerAliveCountMax=4"];

/// How long ssh may take to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a step ended.
#[derive(Debug)]
pub(super) enum End {
    Ended(ExitStatus),
    Interrupted,
}

/// Ctrl-C and SIGTERM, from the beginning to the end: also between two steps none is missed.
pub(super) struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    pub(super) fn new() -> io::Result<Self> {
        let (int, term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { int, term })
    }

    async fn come(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// The host as ssh takes it.
pub(super) fn destination(deployment: &Deployment, host: &str) -> String {
    match &deployment.user {
        Some(user) if !host.contains('@') => format!("{user}@{host}"),
        _ => host.to_owned(),
    }
}

/// The words after `ssh`, but for what is to be run.
pub(super) fn arguments(deployment: &Deployment, host: &str) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: OsString| words.extend([option.into(), value]);
    if let Some(port) = deployment.port {
        add("-p", port.to_string().into());
    }
    if let Some(key) = &deployment.key {
        add("-i", key.into());
    }
    // Of an option that is there several times, ssh takes the first.
    for option in deployment.ssh_options.iter().map(String::as_str).chain(USUAL) {
        add("-o", option.into());
    }
    if deployment.forward_agent {
        words.push("-A".into());
    }
    words.push(if deployment.needs_tty { "-tt" } else { "-T" }.into());
    words.extend(["--".into(), destination(deployment, host).into()]);
    words
}

/// A command line that shows what is wrong with a connection.
pub(super) fn trial(deployment: &Deployment, host: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@~+%".contains(c);
    let words = arguments(deployment, host).into_iter().map(|argument| {
        let text = argument.to_string_lossy().into_owned();
        if text.chars().all(plain) { text } else { word(&text) }
    });
    format!("ssh {} true", words.collect::<Vec<_>>().join(" "))
}

/// Runs a script on a host. What it says is passed on, each line with the prefix.
pub(super) async fn run(
    deployment: &Deployment,
    host: &str,
    script: &str,
    prefix: &str,
    interrupts: &mut Interrupts,
) -> io::Result<End> {
    let mut command = Command::new("ssh");
    command.args(arguments(deployment, host));
    if deployment.needs_tty {
        // Its standard input is the terminal's, so the script is a word of the command line.
        command.arg(format!("exec sh -c {}", word(script)));
        return follow(&mut command, None, prefix, interrupts).await;
    }
    command.arg("exec sh");
    follow(&mut command, Some(&for_input(script)), prefix, interrupts).await
}

/// Runs a command to its end, or until somebody wants it to end.
pub(super) async fn follow(
    command: &mut Command,
    input: Option<&str>,
    prefix: &str,
    interrupts: &mut Interrupts,
) -> io::Result<End> {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    if !prefix.is_empty() {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let mut child = command.kill_on_drop(true).spawn()?;
    tokio::select! {
        // First: Ctrl-C ends ssh as well, which is no failure of its own.
        biased;
        () = interrupts.come() => {}
        status = to_the_end(&mut child, input, prefix) => return status.map(End::Ended),
    }
    end(&mut child).await;
    Ok(End::Interrupted)
}

/// Ends it so that it can leave the terminal as it was.
async fn end(child: &mut Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, phalanx::Signal::TERM);
    }
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

async fn to_the_end(
    child: &mut Child,
    input: Option<&str>,
    prefix: &str,
) -> io::Result<ExitStatus> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // One that ends before it has read everything says why by itself.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let out = pass_on(stdout, prefix, io::stdout());
    let err = pass_on(stderr, prefix, io::stderr());
    let (status, ..) = tokio::join!(child.wait(), feed, out, err);
    status
}

/// Passes lines on as they come. That nobody reads them is no reason to stop half way.
async fn pass_on(from: Option<impl AsyncRead + Unpin>, prefix: &str, mut to: impl Write) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while let Ok(1..) = from.read_until(b'\n', &mut line).await {
        let mut whole = prefix.as_bytes().to_vec();
        whole.append(&mut line);
        if !whole.ends_with(b"\n") {
            whole.push(b'\n');
        }
        let _ = to.write_all(&whole).and_then(|()| to.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(deployment: &Deployment, host: &str) -> String {
        let words = arguments(deployment, host).into_iter();
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn options_of_ssh() {
        let usual = "-o ConnectTimeout=30 -o ServerAliveInterval=15 -o ServerAliveCountMax=4";
        let mut all = Deployment::default();
        assert_eq!(shown(&all, "web"), format!("{usual} -T -- web"));
        all.user = Some("me".into());
        all.port = Some(2222);
        all.key = Some("/home/me/a key".into());
        all.ssh_options = vec!["ConnectTimeout=1".into()];
        all.forward_agent = true;
        all.needs_tty = true;
        let before = "-p 2222 -i /home/me/a key -o ConnectTimeout=1";
        assert_eq!(shown(&all, "web"), format!("{before} {usual} -A -tt -- me@web"));
        assert!(shown(&all, "you@web").ends_with("-- you@web"));
        assert!(trial(&all, "web").starts_with("ssh -p 2222 -i '/home/me/a key' -o "));
    }
}
