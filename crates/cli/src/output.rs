//! What workers say, in the foreground: on a terminal each line has the application's name and the worker's slot
//! before it. A stream that is no terminal gets what it always gets, byte for byte. In the background, and where
//! options name them, files get whole lines.
//!
//! Workers write into pipes, and a task for each of them hands lines on to a thread that writes
//! (`writer.rs`, `files.rs`): the primary itself never waits for whoever reads.

mod files;
mod pipe;
mod writer;

pub(crate) use files::LogFiles;
pub(crate) use writer::{Rest, beside};

use crate::args::logging::Logging;
use crate::log::colours;
use crate::logs::{Places, is_file};
use phalanx::{Event, Primary, Settings, Stdio};
use pipe::{Pipes, Unsaid};
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use writer::{Label, Source, Stream, To, Writer, writer};

/// An unfinished line is shown on a terminal after that: it may be a question, or a progress bar.
const UNFINISHED: Duration = Duration::from_millis(200);
/// How long what waits may take to be written before this process becomes another program.
const SETTLED: Duration = Duration::from_secs(2);

/// How a stream's lines are handed on.
#[derive(Clone, Default)]
struct Route {
    writers: Vec<Writer>,
    /// In whole lines, of at most so many bytes; else as they come.
    whole: Option<usize>,
}

/// Shows what the workers of a cluster say, and keeps it in files.
pub(crate) struct Output {
    routes: [Route; 2],
    unsaid: Arc<Unsaid>,
    files: Option<LogFiles>,
}

/// Options about it, and where files are.
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    /// As many workers as there may be.
    pub(crate) workers: usize,
    pub(crate) logging: &'a Logging,
    pub(crate) places: Places,
    /// In the background: what goes to no file goes nowhere.
    pub(crate) detached: bool,
}

/// A file of logs that cannot be opened.
pub(crate) type Unopened = (PathBuf, io::Error);

/// If somebody looks, or wants files: lets the workers write into pipes. The last words are out when the second was
/// dropped.
pub(crate) fn piped(
    wanted: &Wanted<'_>,
    settings: &mut Settings,
) -> Result<Option<(Output, Rest)>, Unopened> {
    let Wanted { logging, places, detached, .. } = wanted;
    let terminals = match detached {
        true => [false; 2],
        false => [io::stdout().is_terminal(), io::stderr().is_terminal()],
    };
    let changed = !detached && logging.changes_lines();
    let any = places.out.is_some() || places.err.is_some() || places.both.is_some();
    // One that is only asked whether it could take over touches nothing.
    if phalanx::rehearses() {
        return Ok(None);
    }
    if !detached && !any && !changed && terminals == [false; 2] && logging.named() == [false; 2] {
        return Ok(None);
    }
    settings.stdio = Stdio::Piped;
    for (name, value) in variables(terminals, any || changed) {
        let name = OsString::from(name);
        if std::env::var_os(&name).is_none() && settings.env.iter().all(|(k, _)| *k != name) {
            settings.env.push((name, value.into()));
        }
    }
    let mut routes = <[Route; 2]>::default();
    let mut rest = Rest::default();
    if !detached {
        streams(wanted, terminals, &mut routes, &mut rest);
    }
    let (style, mut carry, mut files) = (logging.style(), None, None);
    if any {
        let must = |place: &PathBuf| is_file(place) && !place.exists();
        let must = places.paths().iter().any(must);
        let (writers, more, told) =
            files::begin(wanted.name, places, logging.rules(), &style, must)?;
        rest.and(more);
        for (route, writer) in routes.iter_mut().zip(writers) {
            if let Some(writer) = writer {
                route.writers.push(writer);
                route.whole = Some(style.max_line);
            }
        }
        files = Some(told);
        carry = files::carry(places);
    }
    let unsaid = Arc::new(Unsaid::new(carry));
    Ok(Some((Output { routes, unsaid, files }, rest)))
}

/// What workers are told of where their words go.
fn variables([out, err]: [bool; 2], lines: bool) -> Vec<(&'static str, &'static str)> {
    let mut variables = Vec::new();
    // Python keeps what it prints into a pipe until there are some KiB of it.
    if out || lines {
        variables.push(("PYTHONUNBUFFERED", "1"));
    }
    // A program that sees a pipe leaves its colours out. The variable is for both of its streams, so both must
    // lead to a terminal. With NO_COLOR beside it, even an empty one, Node warns at each start.
    let no = std::env::var_os("NO_COLOR").is_some();
    if out && err && !lines && colours(&io::stdout()) && !no {
        variables.push(("FORCE_COLOR", "1"));
    }
    variables
}

/// This process's own streams, for what goes to no file.
fn streams(wanted: &Wanted<'_>, terminals: [bool; 2], routes: &mut [Route; 2], rest: &mut Rest) {
    let Wanted { name, workers, logging, .. } = wanted;
    let [out, err] = routes;
    let [out_named, err_named] = logging.named();
    let label = |on: bool, coloured| on.then(|| Label::new(name, *workers, coloured));
    let mut open = |to: To| {
        let (writer, more) = writer(to);
        rest.and(more);
        writer
    };
    if logging.changes_lines() {
        let style = logging.style();
        let longest = Some(style.max_line);
        for (route, named) in [(out, out_named), (err, err_named)] {
            if !named {
                let writer = open(To::Styled(style.clone(), (*name).to_owned()));
                *route = Route { writers: vec![writer], whole: longest };
            }
        }
        return;
    }
    let [out_terminal, err_terminal] = terminals;
    let labels =
        [label(out_terminal, colours(&io::stdout())), label(err_terminal, colours(&io::stderr()))];
    let (both, [out_label, err_label]) = (terminals == [true; 2], labels);
    if !out_named {
        out.writers.push(open(To::terminal_or_stream(out_label)));
    }
    if !err_named {
        // One terminal, one writer: lines of both streams come in their order.
        match out.writers.first().filter(|_| both) {
            Some(writer) => err.writers.push(writer.clone()),
            None => err.writers.push(open(To::terminal_or_stream(err_label))),
        }
    }
}

impl Output {
    /// What tells about the files, if there are any.
    pub(crate) fn files(&self) -> Option<LogFiles> {
        self.files.clone()
    }

    /// Passes everything on, until the cluster has stopped.
    pub(crate) async fn show(self, primary: Primary) {
        let mut events = primary.events();
        self.unsaid.take_up();
        primary.before_upgrade(self.settling());
        drop(primary);
        let mut pipes = Pipes::new(Arc::clone(&self.unsaid));
        // Read all the time: workers wait for whoever does not.
        while let Some(event) = events.next().await {
            let (Event::Fork(worker) | Event::Adopt(worker)) = event else { continue };
            let source = |stream| Source {
                worker: worker.id(),
                slot: worker.slot(),
                pid: worker.pid(),
                stream,
            };
            let [out, err] = &self.routes;
            if let Some(pipe) = worker.take_stdout() {
                pipes.pass(pipe, source(Stream::Out), out.clone());
            }
            if let Some(pipe) = worker.take_stderr() {
                pipes.pass(pipe, source(Stream::Err), err.clone());
            }
        }
        pipes.end().await;
        self.unsaid.end(&self.routes);
    }

    /// What is to be done before this process becomes another program: all that waits here is written, and what has no
    /// end yet is left to the next one.
    fn settling(&self) -> impl Fn() + Send + Sync + use<> {
        let (unsaid, routes) = (Arc::clone(&self.unsaid), self.routes.clone());
        move || {
            unsaid.say_all(&routes);
            for writer in routes.iter().flat_map(|route| &route.writers) {
                writer.settle(SETTLED);
            }
            unsaid.leave();
        }
    }
}
