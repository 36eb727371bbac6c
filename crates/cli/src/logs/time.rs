//! Times as people say them.

use jiff::civil::{Date, DateTime, Time};
use jiff::{Span, Timestamp, Zoned};

/// What is meant by `--since`, in microseconds since 1970: a span before now, or a date and a time here.
pub(super) fn since(text: &str, now: &Zoned) -> Result<u64, String> {
    let text = text.trim();
    let wrong = || {
        "expected a time span (30s, 5m, 2h, 1d), or a date and a time (2026-01-31 13:00, 13:00, today)"
            .to_owned()
    };
    let here = |time: DateTime| time.to_zoned(now.time_zone().clone()).map_err(|_| wrong());
    let midnight = |date: Date| here(date.to_datetime(Time::midnight()));
    let time = if text == "today" {
        midnight(now.date())?
    } else if text == "yesterday" {
        midnight(now.date().yesterday().map_err(|_| wrong())?)?
    } else if let Ok(time) = text.parse::<Timestamp>() {
        time.to_zoned(now.time_zone().clone())
    } else if let Ok(time) = text.parse::<DateTime>() {
        here(time)?
    } else if let Ok(date) = text.parse::<Date>() {
        midnight(date)?
    } else if let Ok(time) = text.parse::<Time>() {
        here(now.date().to_datetime(time))?
    } else {
        let span: Span = text.trim_end_matches("ago").trim().parse().map_err(|_| wrong())?;
        now.checked_sub(span.abs()).map_err(|_| wrong())?
    };
    Ok(u64::try_from(time.timestamp().as_microsecond()).unwrap_or_default())
}

/// A time as it is shown before a line, here.
pub(super) fn shown(us: u64) -> String {
    let us = i64::try_from(us).unwrap_or(i64::MAX);
    let time = Timestamp::from_microsecond(us).unwrap_or(Timestamp::MAX);
    let here = time.to_zoned(jiff::tz::TimeZone::system());
    here.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let now: Zoned = "2026-01-31T13:00:00+01:00[Europe/Berlin]".parse().expect("a time");
        let begin = u64::try_from(now.timestamp().as_microsecond()).expect("positive");
        let second = 1_000_000;
        for (text, ago) in [
            ("30s", 30),
            ("5m", 300),
            ("2h", 7200),
            ("1d", 86_400),
            ("1d 2h", 93_600),
            ("90 minutes", 5400),
            ("2 hours ago", 7200),
            ("12:00", 3600),
            ("12:59:59", 1),
            ("2026-01-31 12:30", 1800),
            ("2026-01-31T12:00:00Z", 0),
            ("2026-01-31", 13 * 3600),
            ("today", 13 * 3600),
            ("yesterday", 37 * 3600),
        ] {
            assert_eq!(since(text, &now), Ok(begin - ago * second), "{text}");
        }
        for bad in ["", "x", "5", "5 parsecs", "2026-13-01", "25:00"] {
            assert!(since(bad, &now).is_err(), "{bad}");
        }
    }
}
