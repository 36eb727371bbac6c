//! Reloads at certain times.

use super::Reloads;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::{SignedDuration, Zoned};
use std::time::Duration;

/// The clock may be set, and the machine may sleep: it is looked at again after that.
const STEP: Duration = Duration::from_secs(30);
/// A clock that was set back by less than this was put right: what came before does not come again.
const PUT_RIGHT: SignedDuration = SignedDuration::from_hours(1);

/// What `--cron` says.
#[derive(Clone, Debug)]
pub(crate) enum Pattern {
    Off,
    At(Box<Cron>),
}

impl Pattern {
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if matches!(text, "0" | "off") {
            return Ok(Self::Off);
        }
        let parser =
            CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let example = "as in \"0 3 * * *\": every day at 3:00";
        let cron =
            parser.parse(text).map_err(|why| format!("{}; {example}", lower(&why.to_string())))?;
        match cron.find_next_occurrence(&Zoned::now(), false) {
            Ok(_) => Ok(Self::At(Box::new(cron))),
            Err(_) => Err(format!("there is no such time; {example}")),
        }
    }

    pub(crate) fn cron(&self) -> Option<Cron> {
        match self {
            Self::Off => None,
            Self::At(cron) => Some((**cron).clone()),
        }
    }
}

fn lower(text: &str) -> String {
    // Of years nobody has spoken.
    let text = text.trim_end_matches('.').trim_end_matches(" when years are disallowed");
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Which time comes next; whether it has come.
struct Times {
    patterns: Vec<Cron>,
    next: Option<Zoned>,
    /// When it was looked last.
    seen: Zoned,
    /// All until then has come.
    until: Zoned,
}

impl Times {
    fn new(patterns: Vec<Cron>, now: &Zoned) -> Self {
        let mut times = Self { patterns, next: None, seen: now.clone(), until: now.clone() };
        times.next = times.after(now);
        times
    }

    /// The first time after that.
    fn after(&self, time: &Zoned) -> Option<Zoned> {
        let next = |cron: &Cron| cron.find_next_occurrence(time, false).ok();
        self.patterns.iter().filter_map(next).min()
    }

    /// Whether one has come, or several while nobody looked.
    fn come(&mut self, now: &Zoned) -> bool {
        if *now < self.seen {
            let put_right = now.duration_until(&self.until) < PUT_RIGHT;
            let from = if put_right { now.max(&self.until).clone() } else { now.clone() };
            self.next = self.after(&from);
        }
        self.seen = now.clone();
        let come = self.next.as_ref().is_some_and(|next| next <= now);
        if come {
            self.until = now.clone();
            self.next = self.after(now);
        }
        come
    }

    /// How long to wait before it is looked again.
    fn wait(&self, now: &Zoned) -> Duration {
        let left = self.next.as_ref().map_or(STEP, |next| {
            // What is over is due.
            Duration::try_from(now.duration_until(next)).unwrap_or_default()
        });
        left.clamp(Duration::from_millis(1), STEP)
    }
}

/// Reloads at these times until the cluster has stopped.
pub(super) async fn keep(patterns: Vec<Cron>, reloads: Reloads) {
    let mut times = Times::new(patterns, &Zoned::now());
    if let Some(next) = &times.next {
        tracing::info!("cron: the next reload is at {}", next.strftime("%Y-%m-%d %H:%M:%S %Z"));
    }
    loop {
        tokio::time::sleep(times.wait(&Zoned::now())).await;
        if times.come(&Zoned::now()) {
            reloads.unless_busy("cron");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Zoned {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// When a clock that shows these times finds that one has come.
    fn come(pattern: &str, begin: &str, clock: &[&str]) -> Vec<String> {
        let Ok(Pattern::At(cron)) = Pattern::read(pattern) else { panic!("{pattern}") };
        let mut times = Times::new(vec![*cron], &at(begin));
        clock.iter().filter(|now| times.come(&at(now))).map(ToString::to_string).collect()
    }

    #[test]
    fn patterns() {
        for good in ["* * * * *", "*/10 * * * * *", "0 3 * * MON-FRI", "0 0 L * *", "@daily"] {
            assert!(matches!(Pattern::read(good), Ok(Pattern::At(_))), "{good}");
        }
        assert!(matches!(Pattern::read("0"), Ok(Pattern::Off)));
        assert!(matches!(Pattern::read(" off "), Ok(Pattern::Off)));
        for bad in ["", "* * * *", "61 * * * *", "0 3 * * * * 2030", "every day"] {
            let why = Pattern::read(bad).expect_err(bad);
            assert!(why.contains("0 3 * * *"), "{bad}: {why}");
        }
        let why = Pattern::read("0 0 30 2 *").expect_err("no such day");
        assert!(why.contains("no such time"), "{why}");
    }

    #[test]
    fn each_time_once() {
        let day = |time: &str| format!("2026-03-10T{time}+00:00[UTC]");
        let clock: Vec<String> =
            ["03:59:59", "04:00:00", "04:00:01", "04:30:00", "05:00:00"].map(day).to_vec();
        let clock: Vec<&str> = clock.iter().map(String::as_str).collect();
        let found = come("0 * * * *", &day("03:30:00"), &clock);
        assert_eq!(found, [day("04:00:00"), day("05:00:00")]);
    }

    #[test]
    fn a_machine_that_slept_reloads_once() {
        let clock = ["2026-03-12T09:17:00+00:00[UTC]", "2026-03-12T09:17:30+00:00[UTC]"];
        let found = come("*/5 * * * *", "2026-03-10T03:00:00+00:00[UTC]", &clock);
        assert_eq!(found, [clock[0]]);
    }

    #[test]
    fn a_clock_that_was_put_right_brings_nothing_twice() {
        let day = |time: &str| format!("2026-03-10T{time}+00:00[UTC]");
        let clock = [day("03:00:00"), day("02:59:58"), day("03:00:00"), day("03:01:00")];
        let clock: Vec<&str> = clock.iter().map(String::as_str).collect();
        assert_eq!(come("0 3 * * *", &day("02:00:00"), &clock), [day("03:00:00")]);
        // But one that was set back by a day was wrong before.
        let clock = ["2026-03-10T03:00:00+00:00[UTC]", "2026-03-09T02:00:00+00:00[UTC]"];
        let again = "2026-03-09T03:00:00+00:00[UTC]";
        let found = come("0 3 * * *", &day("02:00:00"), &[clock[0], clock[1], again]);
        assert_eq!(found, [clock[0], again]);
    }

    #[test]
    fn daylight_saving() {
        // 2026-03-29: after 01:59:59 comes 03:00:00. What is meant for 02:30 comes once, and not a day later.
        let clock = [
            "2026-03-29T01:59:59+01:00[Europe/Berlin]",
            "2026-03-29T03:00:00+02:00[Europe/Berlin]",
            "2026-03-29T03:30:00+02:00[Europe/Berlin]",
            "2026-03-30T02:30:00+02:00[Europe/Berlin]",
        ];
        let found = come("30 2 * * *", "2026-03-28T12:00:00+01:00[Europe/Berlin]", &clock);
        assert_eq!(found, [clock[1], clock[3]]);
        // 2026-10-25: 02:00 to 02:59 come twice; a time of the day comes once, every ten minutes is every ten minutes.
        let clock = [
            "2026-10-25T02:30:00+02:00[Europe/Berlin]",
            "2026-10-25T02:30:00+01:00[Europe/Berlin]",
        ];
        let begin = "2026-10-25T00:00:00+02:00[Europe/Berlin]";
        assert_eq!(come("30 2 * * *", begin, &clock), [clock[0]]);
        assert_eq!(come("*/10 * * * *", begin, &clock), clock);
    }

    #[test]
    fn it_is_looked_again_before_long() {
        let Ok(Pattern::At(cron)) = Pattern::read("0 3 * * *") else { panic!("a pattern") };
        let now = at("2026-03-10T02:00:00+00:00[UTC]");
        let times = Times::new(vec![*cron], &now);
        assert_eq!(times.wait(&now), STEP);
        assert_eq!(times.wait(&at("2026-03-10T02:59:59+00:00[UTC]")), Duration::from_secs(1));
        assert_eq!(times.wait(&at("2026-03-10T04:00:00+00:00[UTC]")), Duration::from_millis(1));
    }
}
