//! Child processes for tests: their output is captured, and nothing of them outlives the test.

#[cfg(target_os = "linux")]
mod after;
#[cfg(target_os = "linux")]
mod marked;
mod output;
mod tree;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
pub use after::after_me;
#[cfg(target_os = "linux")]
pub use marked::Marked;
pub use rustix::process::Signal;
use rustix::process::{Pid, WaitId, WaitIdOptions};

use output::{NoLine, Output, Stream};
use tree::Tree;

/// A child process in a process group of its own, whose output is kept in memory.
///
/// Dropping it ends, with SIGKILL, the child, its process group and every descendant: those that
/// are below it now, those that were seen below it earlier ([`record`](Self::record), done also
/// before each signal and at the exit of the child), and on Linux those whose environment shows
/// that they were started by it.
///
/// A child outlives a test process that is itself killed by SIGKILL, unless that called [`after_me`]:
/// nothing runs then.
pub struct Guarded {
    child: Mutex<Child>,
    pid: u32,
    output: Arc<Output>,
    tree: Tree,
}

impl Guarded {
    /// Starts the command with its standard input from `/dev/null`, and its standard output and
    /// error captured: the newest MiB of each is kept, everything is read.
    ///
    /// # Errors
    ///
    /// When the process or the threads that read from it cannot be started.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        Self::spawn_with(command, Stdio::null())
    }

    /// Like [`spawn`](Self::spawn), with a standard input: also the way in which a child is given a socket.
    ///
    /// # Errors
    ///
    /// As `spawn`.
    pub fn spawn_with(command: &mut Command, input: Stdio) -> io::Result<Self> {
        let marker = next_marker();
        let mut child = command
            .env(tree::MARKER, &marker)
            .process_group(0)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let pid = child.id();
        let guarded = Self {
            child: Mutex::new(child),
            pid,
            output: Arc::default(),
            tree: Tree::new(pid, &marker),
        };
        let name = format!("output of {pid}");
        let output = Arc::clone(&guarded.output);
        thread::Builder::new()
            .name(name.clone())
            .spawn(move || output.drain(Stream::Out, OrEmpty(stdout)))?;
        let output = Arc::clone(&guarded.output);
        thread::Builder::new()
            .name(name)
            .spawn(move || output.drain(Stream::Err, OrEmpty(stderr)))?;
        Ok(guarded)
    }

    /// The process id, which is also the id of the process group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to the child alone.
    ///
    /// # Errors
    ///
    /// ESRCH when the child has been waited for.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.tree.record();
        // The lock keeps the child from being reaped, and its pid from being given away.
        let mut child = self.lock();
        if child.try_wait()?.is_some() {
            return Err(rustix::io::Errno::SRCH.into());
        }
        Ok(rustix::process::kill_process(self.raw_pid()?, signal)?)
    }

    /// Sends a signal to the process group of the child, as a terminal does.
    ///
    /// # Errors
    ///
    /// ESRCH when the child has been waited for.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        self.tree.record();
        let mut child = self.lock();
        if child.try_wait()?.is_some() {
            return Err(rustix::io::Errno::SRCH.into());
        }
        Ok(rustix::process::kill_process_group(self.raw_pid()?, signal)?)
    }

    /// Waits for the child to exit, and then, for at most a second, for the end of its output
    /// (descendants that live on may hold it open).
    ///
    /// # Errors
    ///
    /// When it still runs after `timeout`: a message with all output so far.
    pub fn wait_exit(&self, timeout: Duration) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.has_exited() {
                // Its group is still its own until it is reaped: see who is left.
                self.tree.record();
                let status = self.lock().wait().map_err(|error| self.report(&error.to_string()))?;
                self.output.wait_for_end(Instant::now() + Duration::from_secs(1));
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(self.report(&format!("still runs after {timeout:.1?}")));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for a line of either stream that satisfies `accept`. Lines that came earlier count.
    ///
    /// # Errors
    ///
    /// When there is none within `timeout`, or none can come any more because both streams have
    /// ended: a message with all output so far.
    pub fn wait_for_line(
        &self,
        accept: impl FnMut(&str) -> bool,
        timeout: Duration,
    ) -> Result<String, String> {
        self.wait_for_line_since(0, accept, timeout)
    }

    /// Like [`wait_for_line`](Self::wait_for_line), for the lines since a [`mark`](Self::mark).
    ///
    /// # Errors
    ///
    /// As `wait_for_line`.
    pub fn wait_for_line_since(
        &self,
        mark: u64,
        mut accept: impl FnMut(&str) -> bool,
        timeout: Duration,
    ) -> Result<String, String> {
        let found = self.output.wait_for_line(mark, Instant::now() + timeout, &mut accept);
        self.tree.record();
        found.map_err(|reason| match reason {
            NoLine::TimedOut => self.report(&format!("no such line within {timeout:.1?}")),
            NoLine::Ended => self.report("no such line, and the output has ended"),
        })
    }

    /// The number of lines of both streams so far, to wait for what comes after.
    pub fn mark(&self) -> u64 {
        self.output.mark()
    }

    /// The output of both streams so far, the lines as they came.
    pub fn output(&self) -> String {
        self.output.text(None)
    }

    /// The standard output so far.
    pub fn stdout(&self) -> String {
        self.output.text(Some(Stream::Out))
    }

    /// The standard error so far.
    pub fn stderr(&self) -> String {
        self.output.text(Some(Stream::Err))
    }

    /// Remembers all present descendants, to end them at the drop even if they are orphans then.
    /// Returns the pids of those that run, the child included.
    pub fn record(&self) -> Vec<u32> {
        self.tree.record()
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raw_pid(&self) -> io::Result<Pid> {
        let raw = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        raw.ok_or_else(|| rustix::io::Errno::SRCH.into())
    }

    /// Whether it has exited, without reaping it.
    fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let Ok(pid) = self.raw_pid() else { return true };
        // An error says that it has been reaped.
        !matches!(rustix::process::waitid(WaitId::Pid(pid), options), Ok(None))
    }

    fn report(&self, what: &str) -> String {
        format!("process {}: {what}; its output:\n{}", self.pid, self.output())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.tree.kill();
        let pid = self.raw_pid();
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        if matches!(child.try_wait(), Ok(None)) {
            if let Ok(pid) = pid {
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// A marker that no other child of this process has.
fn next_marker() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", std::process::id())
}

/// A stream that may be absent.
struct OrEmpty<R>(Option<R>);

impl<R: io::Read> io::Read for OrEmpty<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Ok(0), |inner| inner.read(buffer))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
