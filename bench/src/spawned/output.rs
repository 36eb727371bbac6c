//! The captured output of a guarded child: both streams, line by line, bounded.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How much of each stream is kept: the newest lines.
const KEPT_BYTES: usize = 1 << 20;
/// A line longer than this is taken as several.
const LONGEST_LINE: u64 = 64 * 1_024;

/// Which of the two streams.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out = 0,
    Err = 1,
}

struct Line {
    number: u64,
    text: String,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<Line>,
    bytes: usize,
    dropped: u64,
    ended: bool,
}

#[derive(Default)]
struct State {
    streams: [Kept; 2],
    next: u64,
}

/// What was read so far, and the condition that it grew.
#[derive(Default)]
pub(super) struct Output {
    state: Mutex<State>,
    grown: Condvar,
}

/// Why no line was found.
pub(super) enum NoLine {
    TimedOut,
    Ended,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one stream to its end.
    pub(super) fn drain(&self, stream: Stream, source: impl Read) {
        let mut reader = BufReader::new(source);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes) {
                Ok(1..) => self.push(stream, &bytes),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        self.lock().streams[stream as usize].ended = true;
        self.grown.notify_all();
    }

    fn push(&self, stream: Stream, bytes: &[u8]) {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes).into_owned();
        let mut guard = self.lock();
        let state = &mut *guard;
        let kept = &mut state.streams[stream as usize];
        kept.bytes += text.len() + 1;
        kept.lines.push_back(Line { number: state.next, text });
        state.next += 1;
        while kept.bytes > KEPT_BYTES
            && let Some(oldest) = kept.lines.pop_front()
        {
            kept.bytes -= oldest.text.len() + 1;
            kept.dropped += 1;
        }
        drop(guard);
        self.grown.notify_all();
    }

    /// How many lines came so far.
    pub(super) fn mark(&self) -> u64 {
        self.lock().next
    }

    /// The first line with at least that number that satisfies `accept`, waiting until `deadline`.
    pub(super) fn wait_for_line(
        &self,
        mut from: u64,
        deadline: Instant,
        accept: &mut dyn FnMut(&str) -> bool,
    ) -> Result<String, NoLine> {
        let mut state = self.lock();
        loop {
            for line in state.lines(from, None) {
                if accept(&line.text) {
                    return Ok(line.text.clone());
                }
            }
            from = from.max(state.next);
            if state.streams.iter().all(|kept| kept.ended) {
                return Err(NoLine::Ended);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NoLine::TimedOut);
            }
            state = self.grown.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until both streams have ended, or `deadline`.
    pub(super) fn wait_for_end(&self, deadline: Instant) {
        let mut state = self.lock();
        while !state.streams.iter().all(|kept| kept.ended) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.grown.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The kept lines of one stream, or of both as they came.
    pub(super) fn text(&self, only: Option<Stream>) -> String {
        let state = self.lock();
        let mut text = String::new();
        for stream in [Stream::Out, Stream::Err] {
            let dropped = state.streams[stream as usize].dropped;
            if dropped > 0 && only.is_none_or(|only| only == stream) {
                let name = if stream == Stream::Out { "stdout" } else { "stderr" };
                text.push_str(&format!("[{dropped} older lines of {name} dropped]\n"));
            }
        }
        for line in state.lines(0, only) {
            text.push_str(&line.text);
            text.push('\n');
        }
        text
    }
}

impl State {
    fn lines(&self, from: u64, only: Option<Stream>) -> Vec<&Line> {
        let mut lines = Vec::new();
        for stream in [Stream::Out, Stream::Err] {
            if only.is_none_or(|only| only == stream) {
                let all = &self.streams[stream as usize].lines;
                lines.extend(all.range(all.partition_point(|line| line.number < from)..));
            }
        }
        lines.sort_by_key(|line| line.number);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_megabyte_is_kept_and_a_late_waiter_still_finds_a_line() {
        let output = Output::default();
        let mut text = String::from("first\r\n");
        for number in 0..300_000 {
            text.push_str(&format!("line {number}\n"));
        }
        text.push_str("the last, unterminated");
        output.drain(Stream::Out, text.as_bytes());
        output.drain(Stream::Err, &b"an error\n"[..]);
        assert_eq!(output.mark(), 300_003);
        let kept = output.text(None);
        assert!(kept.len() < KEPT_BYTES + 200, "{}", kept.len());
        assert!(kept.starts_with('[') && kept.contains("older lines of stdout dropped"));
        assert!(kept.ends_with("the last, unterminated\nan error\n"));
        assert_eq!(output.text(Some(Stream::Err)), "an error\n");
        let found = output.wait_for_line(0, Instant::now(), &mut |line| line.contains("last"));
        assert_eq!(found.ok().as_deref(), Some("the last, unterminated"));
        let missing = output.wait_for_line(0, Instant::now(), &mut |line| line == "first");
        assert!(matches!(missing, Err(NoLine::Ended)));
    }
}
