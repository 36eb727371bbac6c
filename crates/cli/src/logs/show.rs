//! `phalanx logs`: what workers said, merged by time, and what they say from now on.

use super::chain::Mark;
use super::line::{Entry, Look, Reading, Source};
use super::places::places;
use super::sink::now;
use super::time;
use crate::args::LogsOf;
use crate::failure::{Failure, USAGE};
use crate::home::{App, Home, check_name};
use crate::{log, targets};
use jiff::Zoned;
use regex::bytes::Regex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often it is looked for applications that were started meanwhile.
const APPLICATIONS: Duration = Duration::from_secs(1);
/// Lines of each application, without a number or a time.
const LINES: usize = 15;
/// Bytes that are written at a time.
const WRITE: usize = 64 << 10;

pub(crate) fn logs(options: &LogsOf) -> Result<(), Failure> {
    let home = Home::find()?;
    let filter = Filter::new(options)?;
    let since = options.since.as_deref().map(|text| {
        let wrong = |why| Failure::tool(USAGE, format!("--since {}: {why}", text.escape_debug()));
        time::since(text, &Zoned::now()).map_err(wrong)
    });
    let since = since.transpose()?;
    let apps = applications(&home, &options.of.apps)?;
    if apps.is_empty() {
        eprintln!("no application was started; `phalanx start PROGRAM --name NAME` does");
        if options.no_follow {
            return Ok(());
        }
    }
    let look = match (options.json, options.raw) {
        (true, _) => Look::Json,
        (_, true) => Look::Raw,
        _ => Look::Labelled {
            coloured: log::colours(&io::stdout()),
            time: options.time,
            names: 0,
            slots: 1,
        },
    };
    let begun = now();
    let mut show = Show { filter, look, readings: Vec::new(), known: BTreeSet::new() };
    for app in &apps {
        let lines = options.lines.or_else(|| since.is_none().then_some(LINES));
        if !show.add(app, options, lines, since) && apps.len() == 1 {
            eprintln!("{} keeps no logs", app.name);
        }
    }
    let done = show.all(!options.no_follow).and_then(|()| match options.no_follow {
        true => Ok(()),
        false => show.follow(&home, options, begun),
    });
    match done {
        // Nobody reads any more: that is how it ends.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(Failure::os("write what was read")),
    }
}

/// The applications that are meant; also one that was deleted, as long as its logs are there.
pub(super) fn applications(home: &Home, wanted: &[String]) -> Result<Vec<App>, Failure> {
    match targets::any(home, wanted) {
        Ok(apps) => Ok(apps),
        Err(failure) => {
            let mut apps: Vec<App> = Vec::new();
            for name in wanted {
                match targets::resolve(home, std::slice::from_ref(name)) {
                    Ok(known) => apps.extend(known),
                    Err(_) if check_name(name).is_ok() && home.app(name).out_log().exists() => {
                        apps.push(home.app(name));
                    }
                    Err(_) => return Err(failure),
                }
            }
            Ok(apps)
        }
    }
}

/// Which lines are shown.
struct Filter {
    out: bool,
    err: bool,
    slot: Option<u32>,
    grep: Option<Regex>,
}

impl Filter {
    fn new(options: &LogsOf) -> Result<Self, Failure> {
        let regex = |text: &String| {
            Regex::new(text).map_err(|error| {
                Failure::tool(USAGE, format!("--grep is no regular expression: {error}"))
            })
        };
        let grep = options.grep.as_ref().map(regex).transpose()?;
        Ok(Self { out: options.out, err: options.err, slot: options.slot, grep })
    }

    fn accepts(&self, entry: &Entry<'_>) -> bool {
        let stream = match entry.err {
            true => !self.out,
            false => !self.err,
        };
        stream
            && self.slot.is_none_or(|slot| entry.slot == Some(slot))
            && self.grep.as_ref().is_none_or(|grep| grep.is_match(&entry.text))
    }
}

struct Show {
    filter: Filter,
    look: Look,
    readings: Vec<Reading>,
    known: BTreeSet<String>,
}

impl Show {
    /// Begins to read an application's logs: so many of its last lines, and none from before a time. Whether it has any.
    fn add(
        &mut self,
        app: &App,
        options: &LogsOf,
        lines: Option<usize>,
        since: Option<u64>,
    ) -> bool {
        self.known.insert(app.name.clone());
        self.look.widen(&app.name);
        let (places, json) = places(app);
        let sources = Source::of(&app.name, &places, json, options.out, options.err);
        let mut opened = Vec::new();
        for source in sources {
            // Two applications may share a file.
            if self.readings.iter().any(|reading| reading.source.path == source.path) {
                continue;
            }
            let mut log = source.open();
            log.settle();
            opened.push((source, log));
        }
        let any = !opened.is_empty();
        let filter = &self.filter;
        let mut marks: Vec<(Mark, usize)> = Vec::new();
        if let Some(lines) = lines {
            for (at, (source, log)) in opened.iter_mut().enumerate() {
                let accept = |line: &super::segment::Line| filter.accepts(&Entry::of(source, line));
                let own = log.tail(lines, since.unwrap_or(0), accept);
                marks.extend(own.into_iter().map(|mark| (mark, at)));
            }
            // Of all its files together.
            marks.sort_by_key(|(mark, at)| Reverse((mark.time, *at, mark.place)));
            marks.truncate(lines);
        }
        for (at, (source, mut log)) in opened.into_iter().enumerate() {
            let own = marks.iter().filter(|(_, of)| *of == at).map(|(mark, _)| mark.place);
            let place = match (lines, since) {
                (Some(_), _) => own.min().unwrap_or_else(|| log.end()),
                (None, Some(since)) => log.since(since),
                (None, None) => log.end(),
            };
            self.readings.push(Reading { source, cursor: log.from(place) });
        }
        any
    }

    /// Shows all lines that there are, in the order in which they were said.
    fn all(&mut self, follow: bool) -> io::Result<()> {
        let mut text = Vec::new();
        let mut times: Vec<Option<u64>> = Vec::new();
        for reading in &mut self.readings {
            times.push(reading.cursor.peek(follow).map(|line| line.time));
        }
        loop {
            let first = times.iter().enumerate().filter_map(|(at, time)| Some(((*time)?, at)));
            let Some((_, at)) = first.min() else { break };
            let Some(Reading { source, cursor }) = self.readings.get_mut(at) else { break };
            if let Some(line) = cursor.take() {
                let entry = Entry::of(source, &line);
                if self.filter.accepts(&entry) {
                    self.look.write(&source.app, &entry, &mut text);
                }
            }
            if let Some(time) = times.get_mut(at) {
                *time = cursor.peek(follow).map(|line| line.time);
            }
            if text.len() > WRITE {
                put(&mut text)?;
            }
        }
        put(&mut text)
    }

    /// Shows what is said from now on, until nobody reads it.
    fn follow(&mut self, home: &Home, options: &LogsOf, begun: u64) -> io::Result<()> {
        let mut looked = Instant::now();
        loop {
            if is_unread(LOOK)? {
                return Ok(());
            }
            if looked.elapsed() > APPLICATIONS {
                looked = Instant::now();
                // It may be that there is none any more.
                let apps = targets::any(home, &options.of.apps).unwrap_or_default();
                for app in
                    apps.iter().filter(|app| !self.known.contains(&app.name)).collect::<Vec<_>>()
                {
                    self.add(app, options, None, Some(begun));
                }
            }
            self.readings.iter_mut().for_each(|reading| reading.cursor.refresh());
            self.all(true)?;
        }
    }
}

/// Writes to standard output, and empties the text.
fn put(text: &mut Vec<u8>) -> io::Result<()> {
    let mut to = io::stdout().lock();
    to.write_all(text)?;
    text.clear();
    to.flush()
}

/// Waits for a while, or until nobody reads standard output any more: whether it is so.
fn is_unread(time: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(rustix::stdio::stdout(), PollFlags::empty())];
    let timeout = Timespec::try_from(time).ok();
    match poll(&mut fds, timeout.as_ref()) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(false),
        Ok(_) => {
            let ends = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
            Ok(fds.iter().any(|fd| fd.revents().intersects(ends)))
        }
        Err(error) => Err(error.into()),
    }
}
