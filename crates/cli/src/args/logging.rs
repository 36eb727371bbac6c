//! Options about what becomes of the words of workers.

use crate::logs::{DateFormat, Places, Rules, Style};
use clap::Args;
use phalanx::limits::Size;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An index has room for lines of so many bytes; and a line is kept in memory until it ends.
const LONGEST_LINE: u64 = 16 << 20;
/// There is room for a few characters, and their marks.
const SHORTEST_LINE: u64 = 64;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub(crate) struct Logging {
    /// What workers say on standard output goes to this file; /dev/null or NULL: nowhere. Else `start` keeps NAME-out.log
    /// in the directory of logs, and `run` has it on its own standard output
    #[arg(short, long, visible_alias = "out-file", aliases = ["out", "out-log"], value_name = "FILE")]
    output: Option<PathBuf>,
    /// The same for standard error
    #[arg(short, long, visible_alias = "error-file", aliases = ["err", "err-file", "err-log"], value_name = "FILE")]
    error: Option<PathBuf>,
    /// Both streams in one more file
    #[arg(short, long, visible_alias = "log-file", value_name = "FILE")]
    log: Option<PathBuf>,
    /// Begin a new file before one gets larger; 0: never
    #[arg(long, value_name = "SIZE", default_value = "10M", value_parser = size)]
    log_max_size: u64,
    /// Begin a new file when one gets older; 0: never. Also d for days
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = age)]
    log_max_age: Duration,
    /// Keep so many old files of each stream
    #[arg(long, value_name = "N", default_value = "10")]
    log_keep: usize,
    /// What all log files of the application may have together: old ones are removed, the oldest first; 0: any size
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size)]
    log_quota: u64,
    /// Leave old files as they are; else they are compressed (gzip)
    #[arg(long)]
    no_log_compress: bool,
    /// raw: lines as they were said; json: an object for each, with time, app, worker, slot, pid, stream and text
    #[arg(long, value_name = "raw|json", default_value = "raw", value_parser = ["raw", "json"], hide_possible_values = true)]
    log_type: String,
    /// Write the time before each line, in this format: as of strftime(3), or YYYY-MM-DD HH:mm:ss.SSS
    #[arg(long, value_name = "FORMAT")]
    log_date_format: Option<DateFormat>,
    /// Write the time before each line, as 2026-01-31T13:00:00
    #[arg(long)]
    time: bool,
    /// One file for all workers: it is so with and without this
    #[arg(long, hide = true, alias = "combine-logs")]
    merge_logs: bool,
    /// Keep nothing of what workers say
    #[arg(long, conflicts_with_all = ["output", "error", "log"])]
    disable_logs: bool,
    /// keep or strip: what becomes of colours and other sequences for terminals
    #[arg(long, value_name = "keep|strip", default_value = "keep", value_parser = ["keep", "strip"], hide_possible_values = true)]
    log_ansi: String,
    /// A line that is longer is cut in pieces; each but the last ends with …, each but the first begins with it
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = line)]
    log_max_line: usize,
}

impl Logging {
    /// When files are replaced, and which old ones stay.
    pub(crate) const fn rules(&self) -> Rules {
        Rules {
            max_size: self.log_max_size,
            max_age: self.log_max_age,
            keep: self.log_keep,
            quota: self.log_quota,
            compress: !self.no_log_compress,
        }
    }

    /// How lines are written.
    pub(crate) fn style(&self) -> Style {
        let date = self.log_date_format.clone();
        Style {
            json: self.is_json(),
            date: date.or_else(|| self.time.then(DateFormat::usual)),
            strip: self.log_ansi == "strip",
            max_line: self.log_max_line,
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.log_type == "json"
    }

    /// Whether lines are not to be as they were said.
    pub(crate) fn changes_lines(&self) -> bool {
        self.is_json() || self.time || self.log_date_format.is_some() || self.log_ansi == "strip"
    }

    /// Where lines go; without an option for a stream: to that of `usual`.
    pub(crate) fn places(&self, base: &Path, usual: [Option<PathBuf>; 2]) -> Places {
        let place = |named: &Option<PathBuf>, usual: Option<PathBuf>| match named {
            Some(file) => Some(base.join(file)).filter(|_| !is_nowhere(file)),
            None => usual.filter(|_| !self.disable_logs),
        };
        let [out, err] = usual;
        Places {
            out: place(&self.output, out),
            err: place(&self.error, err),
            both: place(&self.log, None),
        }
    }

    /// The streams whose lines somebody has said where to put: also nowhere.
    pub(crate) const fn named(&self) -> [bool; 2] {
        [self.output.is_some() || self.disable_logs, self.error.is_some() || self.disable_logs]
    }
}

fn is_nowhere(file: &Path) -> bool {
    ["/dev/null", "NULL", "null"].iter().any(|name| file == Path::new(name))
}

fn size(text: &str) -> Result<u64, String> {
    text.parse().map(|Size(bytes)| bytes).map_err(str::to_owned)
}

fn line(text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    let fits = (SHORTEST_LINE..=LONGEST_LINE).contains(&bytes);
    let bytes = usize::try_from(bytes).ok().filter(|_| fits);
    bytes.ok_or_else(|| "expected a size from 64 to 16M".into())
}

/// A time, which may have days and weeks.
fn age(text: &str) -> Result<Duration, String> {
    const DAY: u64 = 24 * 3600;
    let days = |number: &str, days: u64| -> Option<Duration> {
        let number: u64 = number.trim().parse().ok()?;
        number.checked_mul(days * DAY).map(Duration::from_secs)
    };
    let known = match (text.strip_suffix('d'), text.strip_suffix('w')) {
        (Some(number), _) => days(number, 1),
        (None, Some(number)) => days(number, 7),
        (None, None) => super::time(text).ok(),
    };
    known.ok_or_else(|| "expected a number with ms, s, m, h, d or w, as in 7d".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(age("7d"), Ok(7 * day));
        assert_eq!(age("2w"), Ok(14 * day));
        assert_eq!(age("24h"), Ok(day));
        assert_eq!(age("0"), Ok(Duration::ZERO));
        for bad in ["", "d", "-1d", "1.5d", "99999999999999999999d", "1y"] {
            assert!(age(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lengths_of_lines() {
        assert_eq!(line("64K"), Ok(64 << 10));
        assert!(line("63").is_err() && line("17M").is_err() && line("x").is_err());
    }
}
