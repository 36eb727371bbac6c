//! What was measured: tables of samples, their ratios, and whether the goals are met.

pub(crate) mod markdown;
pub(crate) mod plot;
pub(crate) mod stats;

use serde::{Deserialize, Serialize};
use stats::{Ratio, median};

/// Everything of one run, as it is written to `results.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What the machine is, and which versions were measured: name and value.
    pub(crate) machine: Vec<(String, String)>,
    pub(crate) sections: Vec<Section>,
}

/// One table: candidates in rows, measures in columns, a sample of each per round.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Section {
    /// Short and stable: names its files.
    pub(crate) id: String,
    /// Which scenario measured it.
    pub(crate) scenario: String,
    /// Whether that was a short run.
    pub(crate) quick: bool,
    pub(crate) title: String,
    /// How it was measured, in a sentence or two.
    pub(crate) how: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
    pub(crate) goals: Vec<Goal>,
    /// What a reader has to know, such as why a peer is missing.
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
}

/// Which values of a column are the better ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Better {
    More,
    Less,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// How it was started, as one would type it.
    pub(crate) command: String,
    /// By column, then by round.
    pub(crate) samples: Vec<Vec<f64>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Goal {
    pub(crate) text: String,
    /// What came out, as text: a ratio with its spread, or a value.
    pub(crate) measured: String,
    pub(crate) met: bool,
}

/// What a goal asks of a number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {}", plain(bound)),
            Self::AtMost(bound) => format!("≤ {}", plain(bound)),
        }
    }
}

impl Report {
    /// Facts about the machine and the versions; those of the same name are replaced.
    pub(crate) fn know(&mut self, facts: Vec<(String, String)>) {
        for (name, value) in facts {
            match self.machine.iter_mut().find(|known| known.0 == name) {
                Some(known) => known.1 = value,
                None => self.machine.push((name, value)),
            }
        }
    }

    /// Puts the sections of a scenario in the place of those that an earlier run had.
    pub(crate) fn replace(&mut self, scenario: &str, quick: bool, sections: Vec<Section>) {
        self.sections.retain(|section| section.scenario != scenario);
        self.sections.extend(sections.into_iter().map(|mut section| {
            scenario.clone_into(&mut section.scenario);
            section.quick = quick;
            section
        }));
    }
}

/// A bound as it was meant: at most two digits behind the point.
fn plain(bound: f64) -> String {
    let text = format!("{bound:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Section {
    pub(crate) fn new(id: &str, title: &str, how: &str) -> Self {
        Self { id: id.into(), title: title.into(), how: how.into(), ..Self::default() }
    }

    /// One more measure: its name, its unit (may be empty), and which values are better.
    #[must_use]
    pub(crate) fn column(mut self, name: &str, unit: &str, better: Better) -> Self {
        self.columns.push(Column { name: name.into(), unit: unit.into(), better });
        self
    }

    /// Adds a sample. Rows appear in the order of their first sample.
    ///
    /// # Panics
    ///
    /// When there is no such column.
    pub(crate) fn add(&mut self, row: &str, column: &str, value: f64) {
        let at = self.place(column);
        let columns = self.columns.len();
        self.row(row).samples.resize(columns, Vec::new());
        self.row(row).samples[at].push(value);
    }

    /// Says how a row's candidate was started.
    pub(crate) fn command(&mut self, row: &str, command: &str) {
        command.clone_into(&mut self.row(row).command);
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// All samples of a measure of a candidate, by round; none when it was not measured.
    pub(crate) fn samples(&self, row: &str, column: &str) -> &[f64] {
        let at = self.place(column);
        let row = self.rows.iter().find(|one| one.name == row);
        row.and_then(|row| row.samples.get(at)).map_or(&[], Vec::as_slice)
    }

    /// The median over the rounds.
    pub(crate) fn median(&self, row: &str, column: &str) -> Option<f64> {
        median(self.samples(row, column))
    }

    /// How one candidate compares with another, round by round.
    pub(crate) fn ratio(&self, row: &str, than: &str, column: &str) -> Option<Ratio> {
        stats::ratio(self.samples(row, column), self.samples(than, column))
    }

    /// A goal for the ratio of two candidates. Not met when either was not measured.
    pub(crate) fn goal_ratio(&mut self, column: &str, row: &str, than: &str, bound: Bound) {
        let ratio = self.ratio(row, than, column);
        self.goals.push(Goal {
            text: format!("{column}: {row} {} × {than}", bound.text()),
            measured: ratio.map_or_else(|| "not measured".into(), |ratio| ratio.to_string()),
            met: ratio.is_some_and(|ratio| bound.holds(ratio.median)),
        });
    }

    /// A goal for the median of a measure. Not met when it was not measured.
    pub(crate) fn goal(&mut self, column: &str, row: &str, bound: Bound) {
        let value = self.median(row, column);
        let unit = &self.columns[self.place(column)].unit;
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        self.goals.push(Goal {
            text: format!("{column}: {row} {}{unit}", bound.text()),
            measured: value.map_or_else(|| "not measured".into(), stats::number),
            met: value.is_some_and(|value| bound.holds(value)),
        });
    }

    /// A goal that is no bound of one measure.
    pub(crate) fn goal_that(&mut self, text: &str, measured: String, met: bool) {
        self.goals.push(Goal { text: text.into(), measured, met });
    }

    fn row(&mut self, name: &str) -> &mut Row {
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            let samples = vec![Vec::new(); self.columns.len()];
            self.rows.push(Row { name: name.into(), command: String::new(), samples });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    fn place(&self, column: &str) -> usize {
        let at = self.columns.iter().position(|one| one.name == column);
        at.unwrap_or_else(|| panic!("{}: no column {column:?}", self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged_by_the_median_of_the_rounds() {
        let mut section = Section::new("rates", "Rates", "").column("rate", "/s", Better::More);
        for (ours, theirs) in [(200.0, 100.0), (100.0, 60.0), (300.0, 100.0)] {
            section.add("phalanx", "rate", ours);
            section.add("peer", "rate", theirs);
        }
        section.goal_ratio("rate", "phalanx", "peer", Bound::AtLeast(2.0));
        section.goal_ratio("rate", "phalanx", "peer", Bound::AtLeast(2.1));
        section.goal_ratio("rate", "phalanx", "nobody", Bound::AtLeast(0.0));
        section.goal("rate", "peer", Bound::AtMost(100.0));
        section.goal("rate", "peer", Bound::AtMost(99.0));
        let met: Vec<bool> = section.goals.iter().map(|goal| goal.met).collect();
        assert_eq!(met, [true, false, false, true, false]);
        assert_eq!(section.goals[0].text, "rate: phalanx ≥ 2 × peer");
        assert_eq!(section.goals[0].measured, "2.00 × (1.67 to 3.00)");
        assert_eq!(section.goals[2].measured, "not measured");
        assert_eq!(section.goals[3].text, "rate: peer ≤ 100 /s");
    }

    #[test]
    fn facts_of_an_earlier_run_stay_unless_they_are_told_anew() {
        let fact = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut report = Report::default();
        report.know(vec![fact("node", "v20"), fact("pm2", "7")]);
        report.know(vec![fact("node", "v22"), fact("wrk", "4")]);
        assert_eq!(report.machine, [fact("node", "v22"), fact("pm2", "7"), fact("wrk", "4")]);
    }

    #[test]
    fn rows_keep_the_order_of_their_first_sample_and_their_commands() {
        let mut section =
            Section::new("x", "", "").column("a", "", Better::Less).column("b", "", Better::Less);
        section.add("second", "b", 1.0);
        section.add("first", "a", 2.0);
        section.command("second", "node app.js");
        let rows: Vec<_> = section.rows.iter().map(|row| (&*row.name, &*row.command)).collect();
        assert_eq!(rows, [("second", "node app.js"), ("first", "")]);
        assert_eq!(section.samples("second", "a"), [] as [f64; 0]);
        assert_eq!(section.median("first", "a"), Some(2.0));
    }
}
