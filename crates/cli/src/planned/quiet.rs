//! When a reload follows changes: not in the middle of them, and not never.

use std::time::Duration;

/// So many times the delay, and the reload comes although the changes go on.
const AT_MOST: u32 = 10;

/// Changes that no reload has followed yet. Time is what has passed since some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet {
    delay: Duration,
    /// The first and the last change.
    since: Option<(Duration, Duration)>,
}

impl Quiet {
    pub(crate) const fn new(delay: Duration) -> Self {
        Self { delay, since: None }
    }

    /// Something changed.
    pub(crate) fn changed(&mut self, now: Duration) {
        let first = self.since.map_or(now, |(first, _)| first);
        self.since = Some((first, now));
    }

    /// When the reload is due, if nothing changes until then.
    pub(crate) fn due(&self) -> Option<Duration> {
        let (first, last) = self.since?;
        Some((last + self.delay).min(first + self.delay * AT_MOST))
    }

    /// Whether the reload is due now. What comes from now on is another change.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            self.since = None;
        }
        due
    }
}

/// So many reloads in a row are no coincidence.
const ROW: u32 = 5;
/// What changes within this time after a reload may be of its making.
const FOLLOWS: Duration = Duration::from_secs(3);

/// A program that writes what is watched whenever it starts is reloaded for ever.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Circle {
    ended: Option<Duration>,
    row: u32,
}

impl Circle {
    /// A reload has ended.
    pub(crate) fn ended(&mut self, now: Duration) {
        self.ended = Some(now);
    }

    /// Another begins; whether that should be said.
    pub(crate) fn begins(&mut self, now: Duration) -> bool {
        let follows = self.ended.is_some_and(|ended| now.saturating_sub(ended) <= FOLLOWS);
        self.row = if follows { self.row.saturating_add(1) } else { 0 };
        self.row == ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// When reloads come, of changes at these times and a clock that ticks every 10 ms.
    fn reloads(delay: u64, changes: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut quiet = Quiet::new(ms(delay));
        let changes: Vec<u64> = changes.into_iter().collect();
        let ticks = (0..10_000).step_by(10);
        let due = ticks.filter(|now| {
            if changes.contains(now) {
                quiet.changed(ms(*now));
            }
            quiet.take(ms(*now))
        });
        due.collect()
    }

    #[test]
    fn many_changes_are_one_reload() {
        assert!(reloads(200, []).is_empty());
        assert_eq!(reloads(200, [100]), [300]);
        assert_eq!(reloads(200, [100, 150, 290]), [490]);
        assert_eq!(reloads(200, [100, 400]), [300, 600]);
        assert_eq!(reloads(0, [100, 200]), [100, 200]);
    }

    #[test]
    fn changes_without_an_end_are_followed_all_the_same() {
        assert_eq!(reloads(200, (0..4500).step_by(100)), [2000, 4100, 4600]);
    }

    #[test]
    fn who_goes_in_a_circle_is_told_once() {
        let mut circle = Circle::default();
        let mut told = |every: u64, times: u64| {
            let begins = (1..=times).map(|n| ms(n * every)).filter(|now| {
                let told = circle.begins(*now);
                circle.ended(*now + ms(10));
                told
            });
            begins.count()
        };
        assert_eq!(told(1000, 5), 0);
        assert_eq!(told(1000, 20), 1);
        assert_eq!(told(10_000, 20), 0);
    }

    #[test]
    fn it_is_known_when() {
        let mut quiet = Quiet::new(ms(200));
        assert_eq!(quiet.due(), None);
        quiet.changed(ms(50));
        assert_eq!(quiet.due(), Some(ms(250)));
        assert!(!quiet.take(ms(249)) && quiet.take(ms(250)));
        assert_eq!(quiet.due(), None);
    }
}
