//! Numbers about samples.

use std::fmt;

/// How two candidates compare: paired by round, so that what disturbed a round disturbed both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} × ({:.2} to {:.2})", self.median, self.low, self.high)
    }
}

/// The median; `None` of nothing.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    sorted.get(middle.wrapping_sub(1)).map(|lower| f64::midpoint(*lower, upper))
}

/// The ratios of the rounds that both have; `None` when there are none, or the other is zero.
pub(crate) fn ratio(samples: &[f64], than: &[f64]) -> Option<Ratio> {
    let ratios: Vec<f64> = samples.iter().zip(than).map(|(one, other)| one / other).collect();
    let median = median(&ratios)?;
    let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let high = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    median.is_finite().then_some(Ratio { median, low, high })
}

/// A number with three digits that matter, and no more.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    // 12345 becomes 12,345.
    let (whole, rest) = text.split_once('.').map_or((&*text, None), |(w, r)| (w, Some(r)));
    let length = whole.trim_start_matches('-').len();
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        let left = whole.len() - at;
        if digit.is_ascii_digit() && left < length && left.is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(rest) = rest {
        grouped.push('.');
        grouped.push_str(rest);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_samples() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn ratios_are_paired_by_round() {
        let ratio = ratio(&[10.0, 1.0, 4.0, 9.0], &[5.0, 1.0, 1.0]).unwrap();
        assert_eq!(ratio, Ratio { median: 2.0, low: 1.0, high: 4.0 });
        assert_eq!(super::ratio(&[1.0], &[]), None);
        assert_eq!(super::ratio(&[1.0], &[0.0]), None);
        assert_eq!(super::ratio(&[0.0], &[0.0]), None);
    }

    #[test]
    fn numbers_have_three_digits_that_matter() {
        let cases =
            [0.0, 0.1234, 1.234, 12.34, 123.4, 1234.0, 1_234_567.0, -1234.5, -123.0].map(number);
        let expected =
            ["0", "0.123", "1.23", "12.3", "123", "1,234", "1,234,567", "-1,234", "-123"];
        assert_eq!(cases, expected);
    }
}
