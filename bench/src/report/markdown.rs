//! A report as Markdown.

use super::stats::{number, ratio};
use super::{Better, Column, Report, Row, Section};
use std::fmt::Write as _;

/// The whole report: what was measured on what, the goals, then each section.
pub(crate) fn report(report: &Report, sections: &[&Section]) -> String {
    let mut text = String::from("# What it costs, side by side\n\n");
    let _ = writeln!(
        text,
        "Made by `just bench`. Candidates take turns, round by round. A cell has the median of the \
         rounds; behind it, how the candidate compares with the first one of its table: the median of the \
         rounds' ratios, and their lowest and highest.\n"
    );
    for (name, value) in &report.machine {
        let _ = writeln!(text, "- {name}: {value}");
    }
    let goals: Vec<_> = sections.iter().flat_map(|section| &section.goals).collect();
    let met = goals.iter().filter(|goal| goal.met).count();
    let _ = writeln!(text, "\n{met} of {} goals are met.", goals.len());
    for section in sections {
        text.push('\n');
        text.push_str(&self::section(section));
    }
    text
}

/// Some sections alone.
pub(crate) fn sections(sections: &[Section]) -> String {
    sections.iter().map(|section| self::section(section) + "\n").collect()
}

fn section(section: &Section) -> String {
    let short = if section.quick { " (A short run, `--quick`.)" } else { "" };
    let mut text = format!("## {}\n\n{}{short}\n\n", section.title, section.how);
    if !section.rows.is_empty() {
        text.push_str(&table(section));
    }
    for goal in &section.goals {
        let sign = if goal.met { "✔" } else { "✘" };
        let _ = writeln!(text, "- {sign} {}: **{}**", goal.text, goal.measured);
    }
    for note in &section.notes {
        let _ = writeln!(text, "- {note}");
    }
    let commands: Vec<_> = section.rows.iter().filter(|row| !row.command.is_empty()).collect();
    if !commands.is_empty() {
        text.push_str("\n<details><summary>Commands</summary>\n\n");
        for row in commands {
            let _ = writeln!(text, "- {}: `{}`", row.name, row.command);
        }
        text.push_str("\n</details>\n");
    }
    text
}

fn table(section: &Section) -> String {
    let heads = section.columns.iter().map(|column| match &*column.unit {
        "" => column.name.clone(),
        unit => format!("{}, {unit}", column.name),
    });
    let mut text =
        format!("| |{}|\n|---|", heads.map(|head| format!(" {head} |")).collect::<String>());
    // The last bar is there already.
    text = text.replace("||\n", "|\n");
    text.push_str(&"---:|".repeat(section.columns.len()));
    text.push('\n');
    let base = section.rows.first();
    for row in &section.rows {
        let _ = write!(text, "| {} |", row.name);
        for (at, column) in section.columns.iter().enumerate() {
            let _ = write!(text, " {} |", cell(row, base, at, column));
        }
        text.push('\n');
    }
    text
}

/// The median of a measure, and how it compares with the first row.
fn cell(row: &Row, base: Option<&Row>, at: usize, column: &Column) -> String {
    let samples = |row: &Row| row.samples.get(at).cloned().unwrap_or_default();
    let mine = samples(row);
    let Some(median) = super::stats::median(&mine) else { return "".into() };
    let base = base.filter(|base| base.name != row.name).map(samples);
    let compared = base.and_then(|base| ratio(&mine, &base));
    let bare = column.better == Better::Less && median == 0.0;
    match compared.filter(|ratio| !bare && ratio.low.is_finite()) {
        Some(ratio) if mine.len() > 1 => {
            format!(
                "{} · {:.2} × ({:.2}–{:.2})",
                number(median),
                ratio.median,
                ratio.low,
                ratio.high
            )
        }
        Some(ratio) => format!("{} · {:.2} ×", number(median), ratio.median),
        None => number(median),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Bound;

    #[test]
    fn a_report_reads_well() {
        let mut section = Section::new("rates", "Connections per second", "16 clients.")
            .column("rate", "/s", Better::More)
            .column("failed", "", Better::Less);
        for (ours, theirs) in [(2_000.0, 1_000.0), (2_100.0, 1_000.0)] {
            section.add("phalanx", "rate", ours);
            section.add("phalanx", "failed", 0.0);
            section.add("pm2", "rate", theirs);
        }
        section.command("pm2", "pm2 start app.js -i 2");
        section.goal_ratio("rate", "phalanx", "pm2", Bound::AtLeast(2.0));
        section.goal("rate", "pm2", Bound::AtLeast(5_000.0));
        section.note("On two cores.");
        section.quick = true;
        let all = Report { machine: vec![("cores".into(), "2".into())], sections: vec![section] };
        let text = report(&all, &[&all.sections[0]]);
        let (head, rest) = text.split_once("\n## ").unwrap();
        assert!(head.contains("- cores: 2\n\n1 of 2 goals are met."), "{head}");
        let expected = "Connections per second

16 clients. (A short run, `--quick`.)

| | rate, /s | failed |
|---|---:|---:|
| phalanx | 2,050 | 0 |
| pm2 | 1,000 · 0.49 × (0.48–0.50) |  |
- ✔ rate: phalanx ≥ 2 × pm2: **2.05 × (2.00 to 2.10)**
- ✘ rate: pm2 ≥ 5000 /s: **1,000**
- On two cores.

<details><summary>Commands</summary>

- pm2: `pm2 start app.js -i 2`

</details>
";
        assert_eq!(rest, expected);
    }
}
