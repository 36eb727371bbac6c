//! A line as it is shown: whose it is, what it says, and how that looks.

use super::chain::{Cursor, Log};
use super::index::{CONTINUED, CUT, ERR, JSON, NOTICE, Record};
use super::places::Places;
use super::segment::Line;
use super::style::{Json, MARK, colour, rfc3339};
use super::time::shown;
use serde::Deserialize;
use std::borrow::Cow;
use std::path::PathBuf;

/// A file of an application's lines.
pub(super) struct Source {
    pub(super) app: String,
    pub(super) path: PathBuf,
    /// Lines of which nothing is known are said on standard error.
    err: bool,
    /// They are JSON.
    json: bool,
}

impl Source {
    /// The files of an application; each line is in one of them.
    pub(super) fn of(app: &str, places: &Places, json: bool, out: bool, err: bool) -> Vec<Self> {
        let wanted = match (out, err) {
            (true, _) => places.out.clone().map(|path| vec![path]),
            (_, true) => places.err.clone().map(|path| vec![path]),
            _ => None,
        };
        let paths = wanted.unwrap_or_else(|| places.readable());
        let is_err =
            |path: &PathBuf| places.err.as_ref() == Some(path) && places.out.as_ref() != Some(path);
        let source = |path: PathBuf| Self { app: app.to_owned(), err: is_err(&path), path, json };
        paths.into_iter().map(source).collect()
    }

    pub(super) fn open(&self) -> Log {
        Log::open(&self.path)
    }
}

/// A source that is read.
pub(super) struct Reading {
    pub(super) source: Source,
    pub(super) cursor: Cursor,
}

/// What is known of a line.
#[derive(Debug, PartialEq)]
pub(super) struct Entry<'a> {
    pub(super) time: u64,
    pub(super) slot: Option<u32>,
    worker: Option<u32>,
    pid: Option<u32>,
    pub(super) err: bool,
    flags: u8,
    pub(super) text: Cow<'a, [u8]>,
    /// As it is in the file.
    raw: &'a [u8],
    /// The time that is in the line itself.
    own_time: Option<String>,
}

/// A line of a file of JSON.
#[derive(Deserialize)]
struct Parsed {
    time: String,
    worker: Option<u32>,
    slot: Option<u32>,
    pid: Option<u32>,
    stream: String,
    text: String,
    #[serde(default)]
    cut: bool,
    #[serde(default)]
    continued: bool,
}

impl<'a> Entry<'a> {
    pub(super) fn of(source: &Source, line: &'a Line) -> Self {
        let known = line.record.filter(|record| record.flags & NOTICE == 0);
        let flags = line.record.map_or(u8::from(source.err) * ERR, |record| record.flags);
        let entry = Self {
            time: line.time,
            slot: known.map(|record| record.slot),
            worker: known.map(|record| record.worker),
            pid: known.map(|record| record.pid),
            err: flags & ERR != 0,
            flags,
            text: Cow::Borrowed(&line.text),
            raw: &line.text,
            own_time: None,
        };
        if flags & JSON != 0 || line.record.is_none() && source.json {
            return entry.parsed();
        }
        entry
    }

    /// What is in the line, if it is JSON.
    fn parsed(self) -> Self {
        let Ok(parsed) = serde_json::from_slice::<Parsed>(self.raw) else { return self };
        let flag = |set: bool, flag: u8| u8::from(set) * flag;
        Self {
            slot: parsed.slot,
            worker: parsed.worker,
            pid: parsed.pid,
            err: parsed.stream == "err",
            flags: self.flags | flag(parsed.cut, CUT) | flag(parsed.continued, CONTINUED) | JSON,
            text: Cow::Owned(parsed.text.into_bytes()),
            own_time: Some(parsed.time),
            ..self
        }
    }

    /// The text without the marks of where it was cut: beside them it says so.
    fn unmarked(&self) -> &[u8] {
        let mut text: &[u8] = &self.text;
        if self.flags & JSON == 0 && self.flags & CONTINUED != 0 {
            text = text.strip_prefix(MARK.as_bytes()).unwrap_or(text);
        }
        if self.flags & JSON == 0 && self.flags & CUT != 0 {
            text = text.strip_suffix(MARK.as_bytes()).unwrap_or(text);
        }
        text
    }

    fn json(&self, app: &str, to: &mut Vec<u8>) {
        let record = Record { time: self.time, flags: self.flags, ..Record::default() };
        let mut json = Json::of(app, &record, self.unmarked());
        (json.worker, json.slot, json.pid) = (self.worker, self.slot, self.pid);
        json.stream = if self.err { "err" } else { "out" };
        json.time = self.own_time.clone().unwrap_or_else(|| rfc3339(self.time));
        json.write(to);
    }
}

/// How lines are shown.
pub(super) enum Look {
    /// As they were said.
    Raw,
    /// For programs.
    Json,
    /// With whose they are before them.
    Labelled { coloured: bool, time: bool, names: usize, slots: usize },
}

impl Look {
    /// A name of so many characters is shown too.
    pub(super) fn widen(&mut self, name: &str) {
        if let Self::Labelled { names, .. } = self {
            *names = (*names).max(name.chars().count());
        }
    }

    pub(super) fn write(&mut self, app: &str, entry: &Entry<'_>, to: &mut Vec<u8>) {
        match self {
            Self::Json => return entry.json(app, to),
            Self::Raw => to.extend_from_slice(entry.raw),
            Self::Labelled { coloured, time, names, slots } => {
                let slot = entry.slot.map_or_else(|| "-".to_owned(), |slot| slot.to_string());
                *slots = (*slots).max(slot.len());
                let colour = colour(entry.slot.unwrap_or_default());
                if *time {
                    to.extend_from_slice(shown(entry.time).as_bytes());
                    to.push(b' ');
                }
                let label = format!("{app:<names$} {slot:<slots$} ");
                let label = match (*coloured, entry.err) {
                    (true, true) => format!("\x1b[{colour}m{label}\x1b[31m!\x1b[0m "),
                    (true, false) => format!("\x1b[{colour}m{label}|\x1b[0m "),
                    (false, true) => label + "! ",
                    (false, false) => label + "| ",
                };
                to.extend_from_slice(label.as_bytes());
                to.extend_from_slice(&entry.text);
            }
        }
        to.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(json: bool) -> Source {
        Source { app: "shop".into(), path: PathBuf::new(), err: false, json }
    }

    fn line(record: Option<Record>, text: &str) -> Line {
        Line { offset: 0, time: 1_769_864_400_123_456, record, text: text.as_bytes().to_vec() }
    }

    fn shown(look: &mut Look, source: &Source, line: &Line) -> String {
        let mut to = Vec::new();
        look.write(&source.app, &Entry::of(source, line), &mut to);
        String::from_utf8(to).expect("UTF-8")
    }

    fn labelled(coloured: bool) -> Look {
        Look::Labelled { coloured, time: false, names: 6, slots: 1 }
    }

    #[test]
    fn looks() {
        let said = Record { worker: 7, slot: 3, pid: 4711, ..Record::default() };
        let (out, err) = (said, Record { flags: ERR, ..said });
        let raw = source(false);
        let show = |look: &mut Look, record, text| shown(look, &raw, &line(record, text));
        let plain = &mut labelled(false);
        assert_eq!(show(plain, Some(out), "a"), "shop   3 | a\n");
        assert_eq!(show(plain, Some(err), "a"), "shop   3 ! a\n");
        assert_eq!(show(plain, None, "a"), "shop   - | a\n");
        let wide = Record { slot: 11, ..said };
        assert_eq!(show(plain, Some(wide), "a"), "shop   11 | a\n");
        assert_eq!(show(plain, Some(out), "a"), "shop   3  | a\n");
        let coloured = &mut labelled(true);
        assert_eq!(show(coloured, Some(err), "a"), "\x1b[35mshop   3 \x1b[31m!\x1b[0m a\n");
        assert_eq!(show(&mut Look::Raw, Some(err), "…a"), "…a\n");
        let cut = Record { flags: CUT | CONTINUED, ..said };
        assert_eq!(
            show(&mut Look::Json, Some(cut), "…a…"),
            "{\"time\":\"2026-01-31T13:00:00.123Z\",\"app\":\"shop\",\"worker\":7,\"slot\":3,\"pid\":4711,\
             \"stream\":\"out\",\"text\":\"a\",\"cut\":true,\"continued\":true}\n"
        );
        assert!(show(&mut Look::Json, None, "a").contains("\"slot\":null"));
    }

    #[test]
    fn lines_that_are_json_in_the_file() {
        let text = "{\"time\":\"2026-01-01T00:00:00.000Z\",\"app\":\"shop\",\"worker\":1,\"slot\":2,\"pid\":3,\"stream\":\"err\",\"text\":\"a\"}";
        let known = Record { flags: JSON | ERR, ..Record::default() };
        for (json, record) in [(true, None), (false, Some(known))] {
            let (source, line) = (source(json), line(record, text));
            assert_eq!(shown(&mut labelled(false), &source, &line), "shop   2 ! a\n");
            assert_eq!(shown(&mut Look::Json, &source, &line), format!("{text}\n"));
            assert_eq!(shown(&mut Look::Raw, &source, &line), format!("{text}\n"));
        }
        // It only looks like it.
        let other = line(None, "{\"time\":1}");
        assert_eq!(shown(&mut labelled(false), &source(true), &other), "shop   - | {\"time\":1}\n");
        assert_eq!(
            shown(&mut labelled(false), &source(false), &line(None, text)).len(),
            text.len() + 12
        );
    }
}
