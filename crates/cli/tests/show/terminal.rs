//! A terminal (a pty), and what is shown on it.

use crate::common::LONG;
use bench::wait;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use std::fs::File;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

pub(crate) struct Terminal {
    master: Arc<OwnedFd>,
    slave: OwnedFd,
    seen: Arc<Mutex<Vec<u8>>>,
}

/// A process that does not outlive its test.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait_exit(mut self) -> ExitStatus {
        let ended = wait::until(LONG, "the program to end", || self.0.try_wait().unwrap());
        ended.unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Terminal {
    /// One of that size, which is read all the time.
    pub(crate) fn new(columns: u16, rows: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(path, flags, Mode::empty()).unwrap();
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size).unwrap();
        // Lines end as they were written.
        let mut modes = tcgetattr(&slave).unwrap();
        modes.output_modes.remove(OutputModes::OPOST);
        tcsetattr(&slave, OptionalActions::Now, &modes).unwrap();
        let terminal = Self { master: Arc::new(master), slave, seen: Arc::default() };
        let (master, seen) = (Arc::clone(&terminal.master), Arc::clone(&terminal.seen));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            // Until nobody has it open any more.
            while let Ok(n @ 1..) = rustix::io::read(&*master, &mut buffer) {
                seen.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        terminal
    }

    /// Starts a program that has it for all its streams.
    pub(crate) fn spawn(&self, command: &mut Command) -> Process {
        let stream = || File::from(self.slave.try_clone().unwrap());
        let command = command.stdin(stream()).stdout(stream()).stderr(stream());
        Process(command.spawn().unwrap())
    }

    pub(crate) fn write(&self, text: &str) {
        rustix::io::write(&*self.master, text.as_bytes()).unwrap();
    }

    /// How it treats what is typed.
    pub(crate) fn modes(&self) -> String {
        let modes = tcgetattr(&self.slave).unwrap();
        format!("{:?}", modes.local_modes)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Waits for words on it.
    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str) -> String {
        self.until(&format!("{words:?}"), |text| text.contains(words))
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, accept: impl Fn(&str) -> bool) -> String {
        wait::until(LONG, what, || Some(self.text()).filter(|text| accept(text)))
            .unwrap_or_else(|error| panic!("{error}; the terminal shows:\n{:?}", self.text()))
    }
}
