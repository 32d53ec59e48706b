//! What several runs say together: the smallest, the median and the largest, ratios, and how a figure grows.

use serde::{Deserialize, Serialize};

/// Smallest, median, largest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 };
        Some(Spread { min, median, max })
    }

    /// Of ours to theirs, turn by turn: both ran under the same conditions then. Runs that have no partner are left
    /// out.
    pub(crate) fn of_ratios(ours: &[f64], theirs: &[f64]) -> Option<Spread> {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        Spread::of(&ratios)
    }
}

/// The exponent `e` of `cost ~ state^e`, by least squares over the logarithms; `None` with fewer than two states.
pub(crate) fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points.iter().map(|(state, cost)| (state.ln(), cost.ln())).collect();
    let count = logs.len() as f64;
    let (x, y) =
        (logs.iter().map(|p| p.0).sum::<f64>() / count, logs.iter().map(|p| p.1).sum::<f64>() / count);
    let across: f64 = logs.iter().map(|p| (p.0 - x).powi(2)).sum();
    let along: f64 = logs.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    (logs.len() > 1 && across > 0.0 && along.is_finite()).then(|| along / across)
}

/// A number as people read it: three digits that count, thousands apart.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        size if value < 0.0 => format!("-{}", count(size.round() as u64)),
        size => count(size.round() as u64),
    }
}

/// A count with its thousands apart.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        assert_eq!(Spread::of(&[4.0, 1.0, 3.0, 2.0]), Some(Spread { min: 1.0, median: 2.5, max: 4.0 }));
        assert_eq!(Spread::of(&[7.0]), Some(Spread { min: 7.0, median: 7.0, max: 7.0 }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn ratios_are_taken_turn_by_turn() {
        // Both halve together, as on a busy machine: the ratio stays.
        let ratio = Spread::of_ratios(&[100.0, 50.0, 100.0], &[10.0, 5.0]).expect("two turns");
        assert_eq!(ratio, Spread { min: 10.0, median: 10.0, max: 10.0 });
    }

    #[test]
    fn the_exponent_of_a_power_is_found() {
        let points = |e: f64| [1e4, 1e5, 1e6].map(|n: f64| (n, 3.0 * n.powf(e)));
        for e in [0.0, 0.5, 1.0, 2.0] {
            assert!((exponent(&points(e)).expect("three states") - e).abs() < 1e-9);
        }
        assert_eq!(exponent(&[(1e4, 1.0)]), None);
        assert_eq!(exponent(&[(1e4, 1.0), (1e4, 2.0)]), None);
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        assert_eq!(
            [0.5, 9.999, 12.34, 999.6, 1_234_567.0, -1_234.0].map(number),
            ["0.50", "10.0", "12.3", "1,000", "1,234,567", "-1,234"]
        );
    }
}
