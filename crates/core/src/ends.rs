//! Why workers ended: one record for each, the last hundred of them, in bounded memory.

use crate::limits::Size;
use crate::worker::{Exit, Leave, SlotId, WorkerId};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::time::Duration;
use serde::{Serialize, Serializer};

/// Records that are kept.
pub const KEPT: usize = 100;
/// Bytes that all records together may have.
const MAX_BYTES: usize = 4 << 20;
/// Seconds that a curve covers: one point each.
const MINUTE: u64 = 60;
/// Lines of a stream that are kept, and bytes of them.
pub const MAX_LINES: usize = 50;
/// See [`MAX_LINES`].
pub const MAX_LINE_BYTES: usize = 16 << 10;
/// Lines that people are shown of each stream.
const SHOWN: usize = 6;
/// Characters of a line that people are shown.
const WIDTH: usize = 160;

/// A moment by the clock on the wall: milliseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Wall(pub u64);

/// `2026-11-21 21:18:40 UTC`.
impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Days are counted in eras of 400 years that begin in March: then the odd day is the last one of a year.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let of_year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let day_of_year = of_era - (365 * of_year + of_year / 4 - of_year / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = of_year + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// What a worker used in the last minute of its life.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Curve {
    points: VecDeque<Point>,
}

/// One second of a [`Curve`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Point {
    /// How old the worker was, in seconds.
    pub second: u64,
    /// The most memory that it was seen with in this second, children included, in bytes.
    pub memory: u64,
    /// The part of one processor that it used then; above 1 with several threads.
    pub cpu: f32,
}

impl Curve {
    /// What was seen at this age.
    pub fn push(&mut self, age: Duration, memory: u64, cpu: f32) {
        let second = age.as_secs();
        match self.points.back_mut() {
            Some(last) if last.second >= second => {
                last.memory = last.memory.max(memory);
                last.cpu = cpu;
            }
            _ => self.points.push_back(Point { second, memory, cpu }),
        }
        while self.points.front().is_some_and(|first| first.second + MINUTE <= second) {
            self.points.pop_front();
        }
    }

    /// The points, oldest first; there may be seconds without one.
    pub fn points(&self) -> impl DoubleEndedIterator<Item = &Point> + Clone {
        self.points.iter()
    }

    /// The newest one.
    #[must_use]
    pub fn last(&self) -> Option<&Point> {
        self.points.back()
    }
}

/// The last lines of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastLines {
    lines: VecDeque<String>,
    /// A line that has not ended.
    open: Vec<u8>,
    bytes: usize,
}

impl LastLines {
    /// More of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        // What could not be kept anyway is not looked at.
        let bytes = bytes.get(bytes.len().saturating_sub(2 * MAX_LINE_BYTES)..).unwrap_or(bytes);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.open.extend_from_slice(part);
            if part.ends_with(b"\n") || self.open.len() >= MAX_LINE_BYTES {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let bytes = core::mem::take(&mut self.open);
        let text = String::from_utf8_lossy(&bytes);
        let line = String::from(text.trim_end_matches(['\n', '\r']));
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > MAX_LINES || self.bytes > MAX_LINE_BYTES {
            let Some(gone) = self.lines.pop_front() else { break };
            self.bytes -= gone.len();
        }
    }

    /// The lines, the unfinished one last.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut all = self.clone();
        if !all.open.is_empty() {
            all.close();
        }
        all.lines.into()
    }
}

/// Why a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It had been told to leave, or was ended: why.
    Told(Leave),
    /// The kernel killed it, because there was not enough memory: the machine's, or its control group's.
    OutOfMemory,
    /// It ended unasked, with a code other than 0 or by a signal.
    Crashed,
    /// It ended unasked, with code 0.
    Finished,
    /// There was no process.
    NotStarted(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(why) => why.fmt(f),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Crashed => f.write_str("crashed"),
            Self::Finished => f.write_str("ended by itself"),
            Self::NotStarted(why) => write!(f, "not started: {why}"),
        }
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a worker wrote last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Words {
    /// Its stream does not go through phalanx.
    NotCaptured,
    /// The last lines.
    Lines(Vec<String>),
}

/// The lines, or null.
impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::NotCaptured => serializer.serialize_none(),
            Self::Lines(lines) => lines.serialize(serializer),
        }
    }
}

/// The end of a worker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndRecord {
    /// Its number.
    #[serde(serialize_with = "worker_number")]
    pub worker: WorkerId,
    /// Its slot.
    #[serde(serialize_with = "slot_number")]
    pub slot: SlotId,
    /// Its process; `None`: it was never made.
    pub pid: Option<u32>,
    /// The reload it belonged to; 0 before the first.
    pub generation: u64,
    /// What was run.
    pub program: String,
    /// When its process was made.
    pub started: Wall,
    /// When it was ready, if it ever was.
    pub ready: Option<Wall>,
    /// When its end was seen.
    pub ended: Wall,
    /// How it ended: `code 1`, `SIGKILL`.
    #[serde(serialize_with = "exit_words")]
    pub exit: Option<Exit>,
    /// Why.
    pub cause: Cause,
    /// More about why, in words and numbers.
    pub detail: Option<String>,
    /// What it used in its last minute, as far as that was looked at.
    pub curve: Curve,
    /// Connections that it had, when that was last known.
    pub connections: Option<u32>,
    /// Its last words on stdout.
    pub stdout: Words,
    /// Its last words on stderr.
    pub stderr: Words,
}

fn worker_number<S: Serializer>(worker: &WorkerId, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u32(worker.0)
}

fn slot_number<S: Serializer>(slot: &SlotId, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u32(slot.0)
}

fn exit_words<S: Serializer>(exit: &Option<Exit>, to: S) -> Result<S::Ok, S::Error> {
    match exit {
        Some(exit) => to.collect_str(exit),
        None => to.serialize_none(),
    }
}

impl EndRecord {
    fn bytes(&self) -> usize {
        let words = |words: &Words| match words {
            Words::NotCaptured => 0,
            Words::Lines(lines) => lines.iter().map(|line| line.len() + 24).sum(),
        };
        let texts = self.program.len() + self.detail.as_ref().map_or(0, String::len);
        size_of::<Self>()
            + texts
            + self.curve.points.len() * size_of::<Point>()
            + words(&self.stdout)
            + words(&self.stderr)
    }
}

/// For people: at most 25 lines.
impl fmt::Display for EndRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker, slot, started, ready, ended, cause, curve, .. } = self;
        let pid = self.pid.map(|pid| alloc::format!(", process {pid}")).unwrap_or_default();
        write!(f, "worker {worker} in slot {slot}{pid}: {cause}")?;
        if let Some(exit) = self.exit {
            write!(f, " ({exit})")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, "\n  {}", cut(detail))?;
        }
        write!(f, "\n  program     {}", cut(&self.program))?;
        if self.generation > 0 {
            write!(f, " (reload {})", self.generation)?;
        }
        let after = |from: &Wall, to: &Wall| Duration::from_millis(to.0.saturating_sub(from.0));
        write!(f, "\n  started     {started}")?;
        match ready {
            Some(ready) => write!(
                f,
                "\n  ready       {ready}, after {:.1?}\n  ended       {ended}, {:.1?} later",
                after(started, ready),
                after(ready, ended)
            )?,
            None => write!(
                f,
                "\n  ended       {ended}, after {:.1?}, never ready",
                after(started, ended)
            )?,
        }
        if let Some(connections) = self.connections {
            write!(f, "\n  connections {connections} when last known")?;
        }
        match curve.last() {
            Some(last) => {
                let most = curve.points().map(|point| point.memory).max().unwrap_or(0);
                let memory = sparkline(curve.points().map(|point| point.memory));
                let cpu = sparkline(curve.points().map(|point| permille(point.cpu)));
                let (has, most, share) = (Size(last.memory), Size(most), permille(last.cpu) / 10);
                write!(
                    f,
                    "\n  memory      {memory} {has} (at most {most})\n  CPU         {cpu} {share} %"
                )?;
            }
            None => f.write_str("\n  memory      not looked at")?,
        }
        for (name, words) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            match words {
                Words::NotCaptured => write!(f, "\n  {name}      not captured")?,
                Words::Lines(lines) if lines.is_empty() => write!(f, "\n  {name}      nothing")?,
                Words::Lines(lines) => {
                    let first = lines.len().saturating_sub(SHOWN);
                    write!(
                        f,
                        "\n  {name}      the last {} of {} lines",
                        lines.len() - first,
                        lines.len()
                    )?;
                    for line in lines.iter().skip(first) {
                        write!(f, "\n    {}", cut(line))?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of floats saturates"
)]
const fn permille(share: f32) -> u64 {
    (share * 1000.0) as u64
}

/// A line for people's terminals: not too long, and nothing in it that a terminal obeys.
fn cut(line: &str) -> String {
    let mut text = String::new();
    for c in line.chars().take(WIDTH) {
        let _ = if c.is_control() && c != '\t' {
            text.write_char('\u{fffd}')
        } else {
            text.write_char(c)
        };
    }
    if line.chars().nth(WIDTH).is_some() {
        text.push('…');
    }
    text
}

/// A curve in one line: eight heights, from 0.
///
/// ```
/// use phalanx_core::ends::sparkline;
/// assert_eq!(sparkline([0, 1, 4, 8].into_iter()), "▁▁▄█");
/// ```
#[must_use]
pub fn sparkline(values: impl Iterator<Item = u64> + Clone) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.clone().max().unwrap_or(0).max(1);
    let height = |value: u64| {
        let nth = u128::from(value) * 8 / u128::from(most);
        usize::try_from(nth).unwrap_or(8).saturating_sub(1)
    };
    values.filter_map(|value| HEIGHTS.get(height(value).min(7)).copied()).collect()
}

/// The last ends, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    records: VecDeque<Arc<EndRecord>>,
    bytes: usize,
}

impl Ends {
    /// One more; the oldest ones go when there are too many.
    pub fn push(&mut self, record: EndRecord) -> Arc<EndRecord> {
        let record = Arc::new(record);
        self.bytes += record.bytes();
        self.records.push_back(Arc::clone(&record));
        while self.records.len() > KEPT || self.bytes > MAX_BYTES && self.records.len() > 1 {
            let Some(gone) = self.records.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(gone.bytes());
        }
        record
    }

    /// They.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<EndRecord>> {
        self.records.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;
    use std::format;

    fn record(n: u32) -> EndRecord {
        EndRecord {
            worker: WorkerId(n),
            slot: SlotId(0),
            pid: Some(4711),
            generation: 1,
            program: "node server.js".into(),
            started: Wall(1_795_295_920_000),
            ready: Some(Wall(1_795_295_920_250)),
            ended: Wall(1_795_295_980_000),
            exit: Some(Exit::Signal(9)),
            cause: Cause::Told(Leave::Memory),
            detail: Some("312 MB of memory, 300 MB is the hard limit".into()),
            curve: Curve::default(),
            connections: Some(3),
            stdout: Words::NotCaptured,
            stderr: Words::Lines(vec![]),
        }
    }

    #[test]
    fn dates_are_right() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399_999, "2000-02-28 23:59:59 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (951_868_800_000, "2000-03-01 00:00:00 UTC"),
            (1_735_689_599_000, "2024-12-31 23:59:59 UTC"),
            (1_795_295_920_000, "2026-11-21 21:18:40 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(format!("{}", Wall(ms)), text);
        }
    }

    #[test]
    fn people_can_read_it() {
        let mut all = record(7);
        for second in 0..200u64 {
            all.curve.push(Duration::from_secs(second), second << 20, 0.5);
        }
        assert_eq!(all.curve.points().count(), 60);
        let many: Vec<String> =
            (0..50).map(|n| format!("line {n} \u{1b}[2J{}", "x".repeat(500))).collect();
        all.stdout = Words::Lines(many.clone());
        all.stderr = Words::Lines(many);
        let text = format!("{all}");
        assert!(text.lines().count() <= 25, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 180), "{text}");
        assert!(!text.contains('\u{1b}'), "a terminal would obey: {text}");
        for words in [
            "worker 7 in slot 0, process 4711: memory limit (SIGKILL)",
            "312 MB of memory",
            "after 250.0ms",
            "199 MB (at most 199 MB)",
            "50 %",
            "the last 6 of 50 lines",
            "line 49",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert_eq!(format!("{}", record(1)).matches("not captured").count(), 1);
    }

    #[test]
    fn programs_can_read_it() {
        let mut all = record(7);
        all.curve.push(Duration::from_secs(1), 5, 1.0);
        let json = serde_json::to_value(&all).expect("JSON");
        assert_eq!(json["worker"], 7);
        assert_eq!(json["cause"], "memory limit");
        assert_eq!(json["exit"], "SIGKILL");
        assert_eq!(json["curve"]["points"][0]["memory"], 5);
        assert!(json["stdout"].is_null() && json["stderr"].is_array());
    }

    #[test]
    fn the_store_is_bounded() {
        let mut ends = Ends::default();
        for n in 0..500 {
            ends.push(record(n));
        }
        assert_eq!(ends.iter().count(), KEPT);
        assert_eq!(ends.iter().next_back().map(|r| r.worker), Some(WorkerId(499)));
        let mut fat = record(1_000);
        fat.stdout = Words::Lines((0..50).map(|_| "x".repeat(16 << 10)).collect());
        for _ in 0..50 {
            ends.push(fat.clone());
        }
        assert!(ends.bytes <= MAX_BYTES, "{}", ends.bytes);
        assert_eq!(ends.bytes, ends.iter().map(|r| r.bytes()).sum::<usize>());
    }

    proptest! {
        #[test]
        fn last_lines_are_the_last_and_bounded(
            pieces in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..3000), 0..40)
        ) {
            let mut kept = LastLines::default();
            for piece in &pieces {
                kept.push(piece);
            }
            let lines = kept.lines();
            prop_assert!(lines.len() <= MAX_LINES);
            prop_assert!(lines.iter().map(String::len).sum::<usize>() <= 3 * MAX_LINE_BYTES);
            let all = pieces.concat();
            let text = String::from_utf8_lossy(&all);
            // Bytes that are no text may be split differently; else the kept lines are the end of the text.
            if let (Some(last), Ok(text)) = (lines.last(), core::str::from_utf8(text.as_bytes()))
                && core::str::from_utf8(&all).is_ok()
            {
                prop_assert!(text.trim_end_matches(['\n', '\r']).ends_with(last.trim_end_matches('\r')));
            }
        }
    }

    #[test]
    fn lines_in_pieces_are_lines() {
        let mut kept = LastLines::default();
        for n in 0..120 {
            kept.push(format!("number {n}").as_bytes());
            kept.push(b"\r\n");
        }
        kept.push(b"no end");
        let lines = kept.lines();
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines.last().map(String::as_str), Some("no end"));
        assert_eq!(lines.first().map(String::as_str), Some("number 71"));
        kept.push(&[b'x'; 100_000]);
        assert!(kept.lines().iter().map(String::len).sum::<usize>() <= MAX_LINE_BYTES);
    }
}
