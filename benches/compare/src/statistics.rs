//! Medians, spreads, geometric means, and what may be called a difference.

use serde::{Deserialize, Serialize};

/// A median with the range that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The middle value.
    pub median: f64,
    /// The smallest value.
    pub low: f64,
    /// The largest value.
    pub high: f64,
}

impl Summary {
    /// Summarises values; nothing of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&low, &high) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Some(Summary { median, low, high })
    }
}

/// The geometric mean; nothing of nothing, or of a value that is not positive.
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u32);
    for value in values {
        if value.is_nan() || value <= 0.0 {
            return None;
        }
        sum += value.ln();
        count += 1;
    }
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

/// What may be said of a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Below 1 by more than the noise.
    Better,
    /// Above 1 by more than the noise.
    Worse,
    /// Inside the noise.
    Same,
}

/// The factor by which two runs of the same allocator differ. The spread is
/// made symmetric about 1: which of the two ran first is chance.
pub fn width(noise: Summary) -> f64 {
    noise.high.max(1.0 / noise.low).max(1.0)
}

/// Compares a ratio with the spread of the same allocator against itself.
pub fn verdict(ratio: f64, noise: Option<Summary>) -> Verdict {
    let Some(noise) = noise else {
        return Verdict::Same;
    };
    let width = width(noise);
    if ratio > width {
        Verdict::Worse
    } else if ratio < 1.0 / width {
        Verdict::Better
    } else {
        Verdict::Same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_odd_and_even_counts() {
        let odd = Summary::of([3.0, 1.0, 2.0]).expect("there are values");
        assert_eq!((odd.low, odd.median, odd.high), (1.0, 2.0, 3.0));
        let even = Summary::of([4.0, 1.0, 3.0, 2.0]).expect("there are values");
        assert_eq!(even.median, 2.5);
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn the_geometric_mean_of_a_ratio_and_its_inverse_is_one() {
        let mean = geometric_mean([0.25, 4.0]).expect("there are values");
        assert!((mean - 1.0).abs() < 1e-12, "{mean}");
        let mean = geometric_mean([1.0, 8.0, 1.0]).expect("there are values");
        assert!((mean - 2.0).abs() < 1e-12, "{mean}");
        assert_eq!(geometric_mean([]), None);
        assert_eq!(geometric_mean([1.0, 0.0]), None);
        assert_eq!(geometric_mean([f64::NAN]), None);
    }

    #[test]
    fn nothing_inside_the_noise_is_called_a_difference() {
        let noise = Summary::of([0.95, 1.0, 1.02]);
        assert_eq!(verdict(1.0, noise), Verdict::Same);
        assert_eq!(verdict(0.96, noise), Verdict::Same);
        assert_eq!(verdict(0.94, noise), Verdict::Better);
        // 0.95 on one side allows 1/0.95 on the other.
        assert_eq!(verdict(1.05, noise), Verdict::Same);
        assert_eq!(verdict(1.06, noise), Verdict::Worse);
        assert_eq!(verdict(0.1, None), Verdict::Same);
    }

    #[test]
    fn noise_on_one_side_of_one_still_contains_one() {
        let noise = Summary::of([1.02, 1.04]);
        assert_eq!(verdict(1.0, noise), Verdict::Same);
        assert_eq!(verdict(0.97, noise), Verdict::Same);
        assert_eq!(verdict(1.03, noise), Verdict::Same);
    }
}
