//! How a line is written to a file: as it was said, with the time before it, or as JSON.

use super::index::{CONTINUED, CUT, ERR, NOTICE, Record};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::borrow::Cow;
use std::str::FromStr;

/// Stands where a line was cut.
pub(crate) const MARK: &str = "…";

/// By slot; all can be read on light and on dark.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// The colour of a slot's label.
pub(crate) fn colour(slot: u32) -> u8 {
    COLOURS.get(slot as usize % COLOURS.len()).copied().unwrap_or_default()
}

/// How lines are written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Style {
    pub(crate) json: bool,
    pub(crate) date: Option<DateFormat>,
    pub(crate) strip: bool,
    /// Bytes of a line; a longer one is cut.
    pub(crate) max_line: usize,
}

/// How a time is written, as strftime(3) has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DateFormat(String);

/// A line of JSON, in a file and as `phalanx logs --json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Json<'a> {
    pub(crate) time: String,
    pub(crate) app: &'a str,
    pub(crate) worker: Option<u32>,
    pub(crate) slot: Option<u32>,
    pub(crate) pid: Option<u32>,
    pub(crate) stream: &'a str,
    pub(crate) text: Cow<'a, str>,
    /// The line goes on in the next one of this worker.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) cut: bool,
    /// It began in the last one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) continued: bool,
}

impl<'a> Json<'a> {
    /// Of what was said at a time.
    pub(crate) fn of(app: &'a str, said: &Record, text: &'a [u8]) -> Self {
        let known = said.flags & NOTICE == 0;
        Self {
            time: rfc3339(said.time),
            app,
            worker: known.then_some(said.worker),
            slot: known.then_some(said.slot),
            pid: known.then_some(said.pid),
            stream: if said.flags & ERR == 0 { "out" } else { "err" },
            text: String::from_utf8_lossy(text),
            cut: said.flags & CUT != 0,
            continued: said.flags & CONTINUED != 0,
        }
    }

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        // It is made of numbers and strings: that cannot fail.
        if serde_json::to_writer(&mut *to, self).is_ok() {
            to.push(b'\n');
        }
    }
}

fn timestamp(us: u64) -> Timestamp {
    let us = i64::try_from(us).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(us).unwrap_or(Timestamp::MAX)
}

/// A time of microseconds since 1970, to the millisecond.
pub(crate) fn rfc3339(us: u64) -> String {
    timestamp(us).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The time as the name of a file that is put aside.
pub(crate) fn compact(us: u64) -> String {
    timestamp(us).strftime("%Y%m%dT%H%M%S%.3fZ").to_string()
}

impl Style {
    /// Whether lines go to files as they are.
    pub(crate) const fn is_raw(&self) -> bool {
        !self.json && self.date.is_none() && !self.strip
    }

    /// Writes lines, each of which ends with a line feed, as they are to be in a file.
    pub(crate) fn write(&self, app: &str, said: &Record, lines: &[u8], to: &mut Vec<u8>) {
        let marked = said.flags & (CUT | CONTINUED) != 0;
        if self.is_raw() && !marked {
            to.extend_from_slice(lines);
            return;
        }
        let before = match &self.date {
            Some(format) if !self.json => format.of(said.time) + ": ",
            _ => String::new(),
        };
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = if self.strip { without_sequences(line) } else { Cow::Borrowed(line) };
            if self.json {
                Json::of(app, said, &line).write(to);
                continue;
            }
            to.extend_from_slice(before.as_bytes());
            if said.flags & CONTINUED != 0 {
                to.extend_from_slice(MARK.as_bytes());
            }
            to.extend_from_slice(&line);
            if said.flags & CUT != 0 {
                to.extend_from_slice(MARK.as_bytes());
            }
            to.push(b'\n');
        }
    }
}

impl DateFormat {
    /// That of `--time`.
    pub(crate) fn usual() -> Self {
        Self("%Y-%m-%dT%H:%M:%S".to_owned())
    }

    /// A time of microseconds since 1970, here.
    pub(crate) fn of(&self, us: u64) -> String {
        let time = timestamp(us).to_zoned(TimeZone::system());
        // The format was tried when it was read.
        time.strftime(&self.0).to_string()
    }
}

impl FromStr for DateFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let format = if text.contains('%') { text.to_owned() } else { translated(text) };
        if text.is_empty() || text.contains('\n') {
            return Err("expected a format such as YYYY-MM-DD HH:mm:ss, or %F %T".into());
        }
        let now = Timestamp::now().to_zoned(TimeZone::UTC);
        jiff::fmt::strtime::format(&format, &now)
            .map(|_| Self(format))
            .map_err(|error| error.to_string())
    }
}

/// What tokens as of JavaScript's libraries are in strftime(3); the longer ones first.
const TOKENS: [(&str, &str); 27] = [
    ("YYYY", "%Y"),
    ("YY", "%y"),
    ("MMMM", "%B"),
    ("MMM", "%b"),
    ("MM", "%m"),
    ("M", "%-m"),
    ("DD", "%d"),
    ("D", "%-d"),
    ("dddd", "%A"),
    ("ddd", "%a"),
    ("d", "%w"),
    ("HH", "%H"),
    ("H", "%-H"),
    ("hh", "%I"),
    ("h", "%-I"),
    ("mm", "%M"),
    ("m", "%-M"),
    ("ss", "%S"),
    ("SSS", "%3f"),
    ("s", "%-S"),
    ("ZZ", "%z"),
    ("Z", "%:z"),
    ("A", "%p"),
    ("a", "%P"),
    ("X", "%s"),
    ("x", "%s%3f"),
    ("[", ""),
];

/// A format of such tokens; what is in brackets is meant as it is.
fn translated(text: &str) -> String {
    let mut format = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let token = TOKENS.iter().find(|(token, _)| rest.starts_with(token));
        match token {
            Some(("[", _)) => {
                let inside = rest.get(1..).unwrap_or_default();
                let (words, after) = inside.split_once(']').unwrap_or((inside, ""));
                format.push_str(words);
                rest = after;
            }
            Some((token, meaning)) => {
                format.push_str(meaning);
                rest = rest.get(token.len()..).unwrap_or_default();
            }
            None => {
                format.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
            }
        }
    }
    format
}

/// A line without colours and other sequences that are meant for a terminal (ECMA-48).
pub(crate) fn without_sequences(line: &[u8]) -> Cow<'_, [u8]> {
    const ESCAPE: u8 = 0x1b;
    if !line.contains(&ESCAPE) {
        return Cow::Borrowed(line);
    }
    let mut kept = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != ESCAPE {
            kept.push(byte);
            continue;
        }
        match bytes.next() {
            // Parameters, and a letter that ends them.
            Some(b'[') => drop(bytes.find(|byte| (0x40..=0x7e).contains(byte))),
            // A string, up to BEL or ESC \.
            Some(b']' | b'P' | b'X' | b'^' | b'_') => {
                while let Some(byte) = bytes.next() {
                    if byte == 7 || byte == ESCAPE && bytes.next_if_eq(&b'\\').is_some() {
                        break;
                    }
                }
            }
            // A character set is one more byte.
            Some(b'(' | b')' | b'#' | b'%') => drop(bytes.next()),
            _ => {}
        }
    }
    Cow::Owned(kept)
}

/// A piece of what a stream has said, which can be written: flags, and lines.
pub(crate) type Piece = (u8, Vec<u8>);

/// Takes what can be written off what a stream has said: whole lines, and pieces of one that is too long. `continued`
/// says whether a line was cut that is not over yet. At the `end` of the stream, everything.
pub(crate) fn take(
    kept: &mut Vec<u8>,
    continued: &mut bool,
    longest: usize,
    end: bool,
) -> Vec<Piece> {
    let mut pieces = Vec::new();
    // The usual case, in one piece.
    if !*continued && kept.len() <= longest {
        let last = kept.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let rest = kept.split_off(last);
        let mut lines = std::mem::replace(kept, rest);
        if end && !kept.is_empty() {
            lines.append(kept);
            lines.push(b'\n');
        }
        if !lines.is_empty() {
            pieces.push((0, lines));
        }
        return pieces;
    }
    let mut rest = kept.as_slice();
    let mut lines: Vec<u8> = Vec::new();
    while !rest.is_empty() {
        let feed = rest.iter().position(|byte| *byte == b'\n');
        let length = feed.unwrap_or(rest.len());
        let began = u8::from(*continued) * CONTINUED;
        if length > longest {
            let (piece, after) = rest.split_at(boundary(rest, longest));
            push(&mut pieces, &mut lines, began | CUT, piece);
            *continued = true;
            rest = after;
        } else if feed.is_some() || end {
            let (line, after) = rest.split_at(length);
            if began == 0 {
                lines.extend_from_slice(line);
                lines.push(b'\n');
            } else {
                push(&mut pieces, &mut lines, began, line);
            }
            *continued = false;
            rest = after.get(1..).unwrap_or_default();
        } else {
            break;
        }
    }
    let left = rest.to_vec();
    if !lines.is_empty() {
        pieces.push((0, lines));
    }
    *kept = left;
    pieces
}

/// A piece, behind the whole lines before it.
fn push(pieces: &mut Vec<Piece>, lines: &mut Vec<u8>, flags: u8, piece: &[u8]) {
    if !lines.is_empty() {
        pieces.push((0, std::mem::take(lines)));
    }
    pieces.push((flags, [piece, b"\n"].concat()));
}

/// Where to cut so that no character of UTF-8 is cut: at most there.
fn boundary(text: &[u8], most: usize) -> usize {
    let is_inside = |at: usize| text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (most.saturating_sub(3)..=most).rev().find(|at| *at > 0 && !is_inside(*at)).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(flags: u8) -> Record {
        let time = 1_769_864_400_123_456;
        Record { time, worker: 7, slot: 3, pid: 4711, flags, ..Record::default() }
    }

    fn written(style: &Style, flags: u8, lines: &str) -> String {
        let mut to = Vec::new();
        style.write("shop", &said(flags), lines.as_bytes(), &mut to);
        String::from_utf8_lossy(&to).into_owned()
    }

    #[test]
    fn styles() {
        let raw = Style::default();
        assert_eq!(written(&raw, 0, "a\n\x1b[1mb\n"), "a\n\x1b[1mb\n");
        assert_eq!(written(&raw, CUT, "a\n"), "a…\n");
        assert_eq!(written(&raw, CUT | CONTINUED, "a\n"), "…a…\n");
        let strip = Style { strip: true, ..Style::default() };
        assert_eq!(written(&strip, 0, "\x1b[1;31mb\x1b[0m\n\x1b]0;title\x07c\x1b(B\n"), "b\nc\n");
        let json = Style { json: true, ..Style::default() };
        assert_eq!(
            written(&json, ERR | CUT, "ä\"\n"),
            "{\"time\":\"2026-01-31T13:00:00.123Z\",\"app\":\"shop\",\"worker\":7,\"slot\":3,\"pid\":4711,\
             \"stream\":\"err\",\"text\":\"ä\\\"\",\"cut\":true}\n"
        );
        let date: DateFormat = "YYYY [at]".parse().expect("a format");
        let date = Style { date: Some(date), ..Style::default() };
        assert_eq!(written(&date, 0, "a\nb\n"), "2026 at: a\n2026 at: b\n");
    }

    #[test]
    fn formats() {
        assert_eq!(translated("YYYY-MM-DD HH:mm:ss.SSS Z"), "%Y-%m-%d %H:%M:%S.%3f %:z");
        assert_eq!(translated("D.M.YY h:mm A"), "%-d.%-m.%y %-I:%M %p");
        assert_eq!(translated("[Today] x"), "Today %s%3f");
        for good in ["%F %T", "YYYY-MM-DDTHH:mm:ss", "x", "[hm", "–"] {
            assert!(good.parse::<DateFormat>().is_ok(), "{good}");
        }
        for bad in ["", "%", "%!", "a\nb"] {
            assert!(bad.parse::<DateFormat>().is_err(), "{bad:?}");
        }
    }

    /// Says pieces one after the other, and shows what becomes of them.
    fn taken(longest: usize, pieces: &[&[u8]]) -> (Vec<(u8, String)>, String) {
        let (mut kept, mut continued, mut all) = (Vec::new(), false, Vec::new());
        for piece in pieces {
            kept.extend_from_slice(piece);
            all.extend(take(&mut kept, &mut continued, longest, false));
        }
        let left = String::from_utf8_lossy(&kept).into_owned();
        all.extend(take(&mut kept, &mut continued, longest, true));
        assert!(kept.is_empty());
        let text = |(flags, text): (u8, Vec<u8>)| (flags, String::from_utf8(text).expect("UTF-8"));
        (all.into_iter().map(text).collect(), left)
    }

    fn pieces(of: &[(u8, &str)]) -> Vec<(u8, String)> {
        of.iter().map(|(flags, text)| (*flags, (*text).to_owned())).collect()
    }

    #[test]
    fn lines_are_taken_whole() {
        let (all, left) = taken(64, &[b"one\ntwo\nthr", b"ee\nfour"]);
        assert_eq!(all, pieces(&[(0, "one\ntwo\n"), (0, "three\n"), (0, "four\n")]));
        assert_eq!(left, "four");
        assert!(taken(64, &[b""]).0.is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let (all, _) = taken(4, &[b"a\nbcdefghijk\nl\n"]);
        let cut = [
            (0, "a\n"),
            (CUT, "bcde\n"),
            (CUT | CONTINUED, "fghi\n"),
            (CONTINUED, "jk\n"),
            (0, "l\n"),
        ];
        assert_eq!(all, pieces(&cut));
        // Not in the middle of a character.
        let (all, left) = taken(4, &["aää".as_bytes(), "ä".as_bytes()]);
        assert_eq!(all, pieces(&[(CUT, "aä\n"), (CONTINUED, "ää\n")]));
        assert_eq!(left, "ää");
        // Nor is what is no UTF-8 at all waited for.
        let (mut kept, mut continued) = (vec![0x80; 9], false);
        let all = take(&mut kept, &mut continued, 4, false);
        assert_eq!((all.len(), kept.len(), continued), (2, 1, true));
    }
}
