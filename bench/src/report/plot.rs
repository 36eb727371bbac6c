//! A measure of a section as bars, drawn as SVG.

use super::Section;
use super::stats::{median, number};
use plotters::prelude::*;

const WIDTH: u32 = 760;
const BAR: u32 = 34;
const OURS: RGBColor = RGBColor(38, 122, 178);
const THEIRS: RGBColor = RGBColor(166, 172, 178);
const INK: RGBColor = RGBColor(60, 64, 68);

/// One bar for each row, as long as the median, with a line from the lowest to the highest round. `None` when
/// there is nothing to draw.
pub(crate) fn svg(section: &Section, column: usize) -> Option<String> {
    let measure = section.columns.get(column)?;
    let bars: Vec<Bar<'_>> = section.rows.iter().filter_map(|row| Bar::of(row, column)).collect();
    let longest = bars.iter().map(|bar| bar.high).fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let unit = if measure.unit.is_empty() { "" } else { &*measure.unit };
    let title = format!("{}: {} {unit}", section.title, measure.name);
    let mut text = String::new();
    draw(&mut text, title.trim_end(), &bars, longest).ok()?;
    Some(text)
}

struct Bar<'a> {
    name: &'a str,
    median: f64,
    low: f64,
    high: f64,
}

impl<'a> Bar<'a> {
    fn of(row: &'a super::Row, column: usize) -> Option<Self> {
        let samples = row.samples.get(column)?;
        let low = samples.iter().copied().fold(f64::INFINITY, f64::min);
        let high = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Self { name: &row.name, median: median(samples)?, low, high })
    }
}

/// Where things are, in pixels.
const LABELS: i32 = 190;
const TOP: i32 = 44;

fn draw(
    text: &mut String,
    title: &str,
    bars: &[Bar<'_>],
    longest: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let count = u32::try_from(bars.len())?;
    let area = SVGBackend::with_string(text, (WIDTH, count * BAR + 60)).into_drawing_area();
    area.fill(&WHITE)?;
    let letters = |size: i32| ("sans-serif", size).into_font().color(&INK);
    area.draw(&Text::new(title.to_owned(), (12, 14), letters(17)))?;
    let width = f64::from(WIDTH) - f64::from(LABELS) - 90.0;
    #[expect(clippy::cast_possible_truncation, reason = "less than the width of the picture")]
    let place = |value: f64| LABELS + (value / longest * width) as i32;
    for (at, bar) in (0..).zip(bars) {
        let top = TOP + at * i32::try_from(BAR)?;
        let bottom = top + 22;
        let colour = if bar.name.starts_with("phalanx") { OURS } else { THEIRS };
        area.draw(&Text::new(bar.name.to_owned(), (12, top + 4), letters(14)))?;
        area.draw(&Rectangle::new([(LABELS, top), (place(bar.median), bottom)], colour.filled()))?;
        let line = vec![(place(bar.low), top + 11), (place(bar.high), top + 11)];
        area.draw(&PathElement::new(line, INK.stroke_width(2)))?;
        let end = place(bar.high.max(bar.median)) + 8;
        area.draw(&Text::new(number(bar.median), (end, top + 4), letters(14)))?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Better;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let mut section = Section::new("rates", "Rates", "").column("rate", "/s", Better::More);
        section.add("phalanx", "rate", 200.0);
        section.add("pm2 <cluster>", "rate", 100.0);
        let text = svg(&section, 0).unwrap();
        assert!(text.starts_with("<svg") && text.contains("Rates: rate /s"), "{text}");
        assert!(text.contains("pm2 &lt;cluster&gt;"), "{text}");
        let widths: Vec<u32> = text
            .lines()
            .filter(|line| {
                line.starts_with("<rect") && line.contains("fill=\"#") && line.contains("x=\"190\"")
            })
            .filter_map(|line| line.split_once("width=\"")?.1.split_once('"')?.0.parse().ok())
            .collect();
        assert!(
            matches!(widths[..], [long, short] if long.abs_diff(2 * short) <= 2),
            "{widths:?} in {text}"
        );
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        let mut section = Section::new("x", "", "").column("errors", "", Better::Less);
        assert_eq!(svg(&section, 0), None);
        section.add("phalanx", "errors", 0.0);
        assert_eq!(svg(&section, 0), None);
        assert_eq!(svg(&section, 1), None);
    }
}
