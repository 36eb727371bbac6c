//! What may be the case after things were done at the same time.

use std::time::Instant;

/// A value that was set by many, each at some time between the begin and the end of what did it.
pub(crate) struct History {
    first: String,
    events: Vec<(Instant, Instant, String)>,
}

impl History {
    pub(crate) const fn new(first: String) -> Self {
        Self { first, events: Vec::new() }
    }

    /// Something set it; `None`: it did not.
    pub(crate) fn add(&mut self, begin: Instant, end: Instant, value: Option<String>) {
        self.events.extend(value.map(|value| (begin, end, value)));
    }

    /// Whether it may be that now: whoever set it may have been the last, because nobody began when that was over.
    pub(crate) fn may_be(&self, value: &str) -> bool {
        let Some(last) = self.events.iter().map(|(begin, ..)| *begin).max() else {
            return self.first == value;
        };
        self.events.iter().any(|(_, end, set)| *end >= last && set == value)
    }
}

#[test]
fn the_last_one_wins_and_of_several_at_once_any() {
    let at = |ms| Instant::now() + std::time::Duration::from_secs(ms);
    let (a, b, c, d) = (at(10), at(20), at(30), at(40));
    let mut history = History::new("first".into());
    assert!(history.may_be("first") && !history.may_be("a"));
    history.add(a, b, Some("a".into()));
    history.add(c, d, None);
    assert!(history.may_be("a") && !history.may_be("first"));
    history.add(c, d, Some("b".into()));
    assert!(history.may_be("b") && !history.may_be("a"));
    history.add(a, d, Some("c".into()));
    assert!(history.may_be("b") && history.may_be("c") && !history.may_be("a"));
}
