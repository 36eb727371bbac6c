//! A client's side of the control socket. It does not trust the primary to answer: one that is stopped (SIGSTOP)
//! still has a socket that connects.

use super::app::App;
use super::words::{Answer, LONGEST_ANSWER, Refusal, Word};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Bytes that are read at a time.
const CHUNK: usize = 16 << 10;

/// Why there is no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// Nobody listens.
    Nobody,
    /// Somebody listens, and does not answer; or what is answered is no answer.
    Silent(io::Error),
    /// The answer is no.
    Refused(Refusal),
}

/// Asks, and waits for the answer for so long, all in all.
///
/// # Errors
/// Why there is no answer.
pub fn ask_within(app: &App, word: &Word, patience: Duration) -> Result<Value, Unanswered> {
    exchange(app, word, Some(patience), &mut |_| {})
}

/// Asks, and waits for the answer for as long as it takes and somebody is there who works at it; tells how far it is.
///
/// # Errors
/// Why there is no answer.
pub fn ask(app: &App, word: &Word, progress: &mut dyn FnMut(&str)) -> Result<Value, Unanswered> {
    exchange(app, word, None, progress)
}

/// How long the primary may take to take a request.
const TAKING: Duration = Duration::from_secs(5);
/// So long nothing is heard of one that is waited for as long as it takes, before it is asked whether it is still there.
const QUIET: Duration = Duration::from_secs(5);
/// For the answer to that.
const ALIVE: Duration = Duration::from_secs(5);

fn exchange(
    app: &App,
    word: &Word,
    patience: Option<Duration>,
    progress: &mut dyn FnMut(&str),
) -> Result<Value, Unanswered> {
    let deadline = patience.map(|patience| Instant::now() + patience);
    let mut stream = open(app)?;
    let silent = Unanswered::Silent;
    stream.set_write_timeout(Some(patience.unwrap_or(TAKING))).map_err(silent)?;
    match stream.write_all(&word.write()) {
        // It may have said why, before it closed.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) => {}
        written => written.map_err(silent)?,
    }
    let mut kept: Vec<u8> = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        if let Some(at) = kept.iter().position(|byte| *byte == b'\n') {
            let rest = kept.split_off(at + 1);
            match Answer::read(&std::mem::replace(&mut kept, rest)) {
                Some(Answer::Progress(text)) => progress(&text),
                Some(Answer::Done(value)) => return Ok(value),
                Some(Answer::Refused(refusal)) => return Err(Unanswered::Refused(refusal)),
                None => return Err(silent(io::Error::other("it answers what is not understood"))),
            }
            continue;
        }
        if kept.len() > LONGEST_ANSWER {
            return Err(silent(io::Error::other("its answer does not end")));
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(silent(io::ErrorKind::TimedOut.into()));
        }
        stream.set_read_timeout(left.or(Some(QUIET))).map_err(silent)?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(silent(io::Error::other("it ended without an answer"))),
            Ok(n) => kept.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let is_there = || ask_within(app, &Word::Ping, ALIVE);
                // No is an answer too.
                if deadline.is_some() || matches!(is_there(), Err(Unanswered::Silent(_))) {
                    return Err(silent(io::ErrorKind::TimedOut.into()));
                }
            }
            Err(error) => return Err(silent(error)),
        }
    }
}

/// Connects without waiting: a queue that is full is one that nobody takes from.
fn open(app: &App) -> Result<UnixStream, Unanswered> {
    let address = SocketAddrUnix::new(app.socket()).map_err(|_| Unanswered::Nobody)?;
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)
        .map_err(|error| Unanswered::Silent(error.into()))?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(true).map_err(Unanswered::Silent)?;
    match connect(&stream, &address) {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Err(Unanswered::Nobody),
        Err(error) => return Err(Unanswered::Silent(error.into())),
    }
    if !is_trusted(&stream) {
        let message = "another user's process listens in its place";
        return Err(Unanswered::Silent(io::Error::new(io::ErrorKind::PermissionDenied, message)));
    }
    stream.set_nonblocking(false).map_err(Unanswered::Silent)?;
    Ok(stream)
}

/// Whether it was this user, or root, who began to listen.
#[cfg(target_os = "linux")]
fn is_trusted(server: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(server)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

/// Elsewhere the directory's owner has to do.
#[cfg(not(target_os = "linux"))]
const fn is_trusted(_server: &UnixStream) -> bool {
    true
}
