//! What workers say, in the foreground: on a terminal each line has the application's name and the worker's slot
//! before it. A stream that is no terminal gets what it always gets, byte for byte. In the background, files get
//! whole lines.
//!
//! Workers write into pipes, and a task for each of them hands whole lines on to a thread that writes
//! (`writer.rs`): the primary itself never waits for whoever reads.

mod writer;

pub(crate) use writer::{Rest, beside};

use crate::log::colours;
use phalanx::{Event, Primary, Settings, Stdio};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use writer::{Label, Source, Stream, To, Writer, writer};

/// What is asked of a pipe at a time.
const CHUNK: usize = 8 << 10;
/// A line that is longer is passed in pieces.
const LONGEST: usize = 64 << 10;
/// An unfinished line is shown after that: it may be a question, or a progress bar.
const UNFINISHED: Duration = Duration::from_millis(200);
/// When all workers are gone, their words are in the pipes already; only their children may say more.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// Bytes of each pipe that are read then: more than pipes hold by default.
const LAST_ROOM: usize = 1 << 20;

/// Shows what the workers of a cluster say.
pub(crate) struct Output {
    out: Writer,
    err: Writer,
    /// After that an unfinished line is passed on.
    unfinished: Duration,
}

/// If somebody looks: lets the workers write into pipes. The last words are out when the second was dropped.
pub(crate) fn piped(name: &str, workers: usize, settings: &mut Settings) -> Option<(Output, Rest)> {
    let terminal = (io::stdout().is_terminal(), io::stderr().is_terminal());
    if terminal == (false, false) {
        return None;
    }
    settings.stdio = Stdio::Piped;
    let set = |name: &str| std::env::var_os(name).is_some();
    let mut variables = Vec::new();
    // Python keeps what it prints into a pipe until there are some KiB of it.
    if terminal.0 {
        variables.push(("PYTHONUNBUFFERED", "1"));
    }
    // A program that sees a pipe leaves its colours out. The variable is for both of its streams, so both must
    // lead to a terminal. With NO_COLOR beside it, even an empty one, Node warns at each start.
    if terminal == (true, true) && colours(&io::stdout()) && !set("NO_COLOR") {
        variables.push(("FORCE_COLOR", "1"));
    }
    for (name, value) in variables {
        let name = OsString::from(name);
        if std::env::var_os(&name).is_none() && settings.env.iter().all(|(k, _)| *k != name) {
            settings.env.push((name, value.into()));
        }
    }
    let label = |coloured| Label::new(name, workers, coloured);
    let out = terminal.0.then(|| label(colours(&io::stdout())));
    let err = terminal.1.then(|| label(colours(&io::stderr())));
    let (out, err, rest) = match (out, err) {
        // One terminal, one writer: lines of both streams come in their order.
        (Some(out), Some(_)) => {
            let (both, rest) = writer(To::terminal_or_stream(Some(out)));
            (both.clone(), both, rest)
        }
        (out, err) => {
            let (out, mut rest) = writer(To::terminal_or_stream(out));
            let (err, more) = writer(To::terminal_or_stream(err));
            rest.and(more);
            (out, err, rest)
        }
    };
    Some((Output { out, err, unfinished: UNFINISHED }, rest))
}

/// Lets the workers write into pipes, and appends what comes to files, in whole lines.
pub(crate) fn to_files(out: File, err: File, settings: &mut Settings) -> (Output, Rest) {
    settings.stdio = Stdio::Piped;
    let name = OsString::from("PYTHONUNBUFFERED");
    if std::env::var_os(&name).is_none() && settings.env.iter().all(|(k, _)| *k != name) {
        settings.env.push((name, "1".into()));
    }
    let ((out, mut rest), (err, more)) = (writer(To::File(out)), writer(To::File(err)));
    rest.and(more);
    (Output { out, err, unfinished: Duration::MAX }, rest)
}

impl Output {
    /// Passes everything on, until the cluster has stopped.
    pub(crate) async fn show(self, primary: Primary) {
        let mut events = primary.events();
        drop(primary);
        let (end, over) = watch::channel(false);
        let mut pipes = JoinSet::new();
        // Read all the time: workers wait for whoever does not.
        while let Some(event) = events.next().await {
            let (Event::Fork(worker) | Event::Adopt(worker)) = event else { continue };
            let source = |stream| Source { worker: worker.id(), slot: worker.slot(), stream };
            if let Some(pipe) = worker.take_stdout() {
                let source = source(Stream::Out);
                pipes.spawn(pass(pipe, source, self.out.clone(), self.unfinished, over.clone()));
            }
            if let Some(pipe) = worker.take_stderr() {
                let source = source(Stream::Err);
                pipes.spawn(pass(pipe, source, self.err.clone(), self.unfinished, over.clone()));
            }
            // Of those that are gone nothing is kept.
            while pipes.try_join_next().is_some() {}
        }
        let _ = end.send(true);
        pipes.join_all().await;
    }
}

/// Passes a pipe's lines on, to its end. A child of the worker may hold it open for longer than the worker lives.
async fn pass(
    mut pipe: impl AsyncRead + Unpin,
    source: Source,
    writer: Writer,
    unfinished: Duration,
    mut over: watch::Receiver<bool>,
) {
    let mut kept: Vec<u8> = Vec::new();
    let mut last_room = LAST_ROOM;
    while last_room > 0 {
        let ending = *over.borrow_and_update();
        let patience = match (ending, kept.is_empty()) {
            (true, _) => LAST_WORDS,
            (false, true) => Duration::MAX,
            (false, false) => unfinished,
        };
        kept.reserve(CHUNK);
        let before = kept.len();
        let got = tokio::select! {
            biased;
            got = pipe.read_buf(&mut kept) => Some(got.unwrap_or(0)),
            _ = over.changed(), if !ending => continue,
            () = tokio::time::sleep(patience), if patience < Duration::MAX => None,
        };
        let passed = match got {
            Some(0) => break,
            None if ending => break,
            // It goes on later, or it does not.
            None => kept.len(),
            Some(_) => match kept.iter().skip(before).rposition(|byte| *byte == b'\n') {
                Some(at) => before + at + 1,
                None if kept.len() >= LONGEST => kept.len(),
                None => 0,
            },
        };
        if ending {
            last_room = last_room.saturating_sub(kept.len() - before);
        }
        if passed > 0 {
            let rest = kept.split_off(passed);
            let lines = std::mem::replace(&mut kept, rest);
            // Nobody reads it any more: the worker hears of it, as it would without a pipe in between.
            if !say(&writer, source, lines, &mut over).await {
                return;
            }
        }
    }
    if !kept.is_empty() && !say(&writer, source, kept, &mut over).await {
        return;
    }
    writer.end(source);
}

/// Says it when there is room; at the end at once, as there is not much more. Whether somebody may read it.
async fn say(
    writer: &Writer,
    source: Source,
    text: Vec<u8>,
    over: &mut watch::Receiver<bool>,
) -> bool {
    let room = tokio::select! {
        biased;
        room = writer.room(text.len()) => room,
        _ = over.wait_for(|over| *over) => return writer.say_anyhow(source, text),
    };
    writer.say(source, text, room)
}
