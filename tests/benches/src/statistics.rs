//! Medians, quantiles and spreads.

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// What several rounds have in common.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// Half of the rounds were above, half below.
    pub(crate) median: f64,
    /// The lowest round.
    pub(crate) lowest: f64,
    /// The highest round.
    pub(crate) highest: f64,
    /// How many rounds there were.
    pub(crate) rounds: usize,
}

impl Spread {
    /// Of one figure a round.
    pub(crate) fn of(rounds: &[f64]) -> Result<Self> {
        let sorted = sorted(rounds)?;
        Ok(Self {
            median: quantile(&sorted, 0.5)?,
            lowest: quantile(&sorted, 0.0)?,
            highest: quantile(&sorted, 1.0)?,
            rounds: sorted.len(),
        })
    }

    /// Of a figure that comes out the same each time.
    pub(crate) fn exact(figure: f64) -> Self {
        Self {
            median: figure,
            lowest: figure,
            highest: figure,
            rounds: 1,
        }
    }

    /// Of the ratios between two figures of the same round: what makes one round slower than another, such as a busy
    /// machine, meets both.
    pub(crate) fn of_ratios(numerators: &[f64], denominators: &[f64]) -> Result<Self> {
        ensure!(
            numerators.len() == denominators.len(),
            "the rounds are not in pairs"
        );
        let ratios: Vec<f64> = numerators
            .iter()
            .zip(denominators)
            .map(|(numerator, denominator)| numerator / denominator)
            .collect();
        Self::of(&ratios)
    }
}

fn sorted(values: &[f64]) -> Result<Vec<f64>> {
    ensure!(
        values.iter().all(|value| value.is_finite()),
        "a figure is no number"
    );
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Ok(sorted)
}

/// The value below which a fraction of all values lies, interpolated between the two nearest.
fn quantile(sorted: &[f64], fraction: f64) -> Result<f64> {
    let last = sorted.len().checked_sub(1).context("no rounds")?;
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a list that fits into memory"
    )]
    let (index, rest) = {
        let position = fraction.clamp(0.0, 1.0) * last as f64;
        (position.floor() as usize, position.fract())
    };
    let below = sorted.get(index).copied().context("no such rank")?;
    let above = sorted.get(index + 1).copied().unwrap_or(below);
    Ok(below + (above - below) * rest)
}

/// The value that a fraction of all values does not exceed.
pub(crate) fn percentile(values: &[f64], fraction: f64) -> Result<f64> {
    quantile(&sorted(values)?, fraction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&[3.0], 3.0, 3.0, 3.0)]
    #[case(&[4.0, 1.0, 2.0], 2.0, 1.0, 4.0)]
    #[case(&[4.0, 1.0, 2.0, 3.0], 2.5, 1.0, 4.0)]
    fn rounds_have_a_median_and_ends(
        #[case] rounds: &[f64],
        #[case] median: f64,
        #[case] lowest: f64,
        #[case] highest: f64,
    ) {
        let expected = Spread {
            median,
            lowest,
            highest,
            rounds: rounds.len(),
        };
        assert_eq!(Spread::of(rounds).unwrap(), expected);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let spread = Spread::of_ratios(&[2.0, 30.0, 4.0], &[1.0, 10.0, 4.0]).unwrap();
        assert_eq!(
            (spread.lowest, spread.median, spread.highest),
            (1.0, 2.0, 3.0)
        );
        assert!(Spread::of_ratios(&[1.0], &[]).is_err());
        assert!(Spread::of_ratios(&[1.0], &[0.0]).is_err());
    }

    #[test]
    fn percentiles_lie_between_the_values() {
        let values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.99).unwrap(), 99.0);
        assert_eq!(percentile(&values, 0.995).unwrap(), 99.5);
        assert!(percentile(&[], 0.5).is_err());
    }
}
