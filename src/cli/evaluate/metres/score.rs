//! Errors of distances, and how often intervals and bounds hold.

use serde::Serialize;

use crate::replay::truth::TrueDistance;
use crate::types::{Distance, DistanceKind};

/// Up to here an error counts in metres, beyond as a share of the distance.
pub const NEAR_M: f64 = 8.0;

/// One pair in one frame.
#[derive(Debug, Clone, Serialize)]
pub struct Reading {
    /// The frame.
    pub frame: String,
    /// The kind of pair.
    pub pair: &'static str,
    /// The true distance; none where nothing was there to be measured.
    pub true_m: Option<f64>,
    /// One of the two is cut off by the picture's side: a bound is asked for, not a value.
    pub cut: bool,
    /// What was measured; none where nothing was.
    pub measured_m: Option<f64>,
    /// Its interval, or from the least that the bound allows.
    pub interval_m: Option<[f64; 2]>,
    /// Whether the things that were measured are those whose distance is the true one.
    pub right_things: bool,
    /// Whether at least half of each is seen (by their boxes).
    pub half_seen: bool,
}

impl Reading {
    /// Compares what was measured with the truth; none when both say that there is nothing.
    pub fn of(
        frame: &str,
        pair: &'static str,
        truth: Option<TrueDistance>,
        measured: Option<&Distance>,
    ) -> Option<Self> {
        (truth.is_some() || measured.is_some()).then(|| Self {
            frame: frame.to_owned(),
            pair,
            true_m: truth.map(|t| t.distance_m),
            cut: truth.is_some_and(|t| t.cut),
            measured_m: measured.map(|d| d.nearest_m),
            interval_m: measured.map(|d| {
                // What is said to be whole is held to its value, though the truth is cut.
                let low = match d.kind {
                    DistanceKind::AtMost { floor_m } => floor_m,
                    DistanceKind::Value => d.lower_m,
                };
                let whole = truth.is_none_or(|t| !t.cut);
                [if whole { d.lower_m } else { low }, d.upper_m]
            }),
            right_things: false,
            half_seen: false,
        })
    }

    fn error_m(&self) -> Option<(f64, f64)> {
        let true_m = self.true_m.filter(|_| !self.cut)?;
        Some((true_m, self.measured_m? - true_m))
    }

    fn holds(&self) -> Option<bool> {
        let [low, high] = self.interval_m?;
        self.true_m.map(|true_m| (low..=high).contains(&true_m))
    }
}

/// A count of what holds, with its 95 % interval (Wilson 1927).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// How many hold.
    pub held: usize,
    /// Of how many.
    pub all: usize,
    /// Interval of the share, 0 to 1.
    pub interval: [f64; 2],
}

impl Share {
    fn new(held: usize, all: usize) -> Self {
        let (n, z) = (all.max(1) as f64, 1.96f64);
        let p = held as f64 / n;
        let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
        let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        Self { held, all, interval: [(middle - half).max(0.0), (middle + half).min(1.0)] }
    }
}

/// Sizes of some errors.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Errors {
    /// How many.
    pub count: usize,
    /// Root of the mean square; 0 of none.
    pub rmse: f64,
    /// Median of the size; 0 of none.
    pub median: f64,
}

impl Errors {
    fn of(errors: impl Iterator<Item = f64>) -> Self {
        let mut sizes: Vec<f64> = errors.map(f64::abs).collect();
        sizes.sort_by(f64::total_cmp);
        let count = sizes.len();
        let square = sizes.iter().fold(0.0, |sum, e| sum + e * e);
        let median = sizes.get(count / 2).copied().unwrap_or(0.0);
        Self { count, rmse: (square / count.max(1) as f64).sqrt(), median }
    }
}

/// What is said of some readings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Truths up to 8 m, metres.
    pub near_m: Errors,
    /// Truths beyond, as a share of the distance.
    pub far: Errors,
    /// Up to 8 m, only where the right things were measured: how far.
    pub near_right_things_m: Errors,
    /// Up to 8 m, only where others were measured: which thing.
    pub near_other_things_m: Errors,
    /// Up to 8 m, only where at least half of both things is seen.
    pub near_half_seen_m: Errors,
    /// How often the interval holds the truth.
    pub interval: Share,
    /// Median width of the interval, metres.
    pub width_m: f64,
    /// Truths without a measurement, cut ones left out.
    pub missed: usize,
    /// Measurements without a truth.
    pub phantom: usize,
    /// How often the bound of what is cut holds.
    pub cut: Share,
}

impl Score {
    /// Counts.
    pub fn of<'a>(readings: impl Iterator<Item = &'a Reading> + Clone) -> Self {
        let whole = readings.clone().filter(|r| r.true_m.is_some() && !r.cut);
        let near = |wanted: fn(&Reading) -> bool| {
            let near = whole.clone().filter(move |r| wanted(r)).filter_map(Reading::error_m);
            Errors::of(near.filter(|(true_m, _)| *true_m <= NEAR_M).map(|(_, error_m)| error_m))
        };
        let far = whole.clone().filter_map(Reading::error_m).filter(|(true_m, _)| *true_m > NEAR_M);
        let share = |held: Vec<bool>| Share::new(held.iter().filter(|h| **h).count(), held.len());
        let widths = whole.clone().filter_map(|r| r.interval_m.map(|[low, high]| high - low));
        Self {
            near_m: near(|_| true),
            far: Errors::of(far.map(|(true_m, error_m)| error_m / true_m)),
            near_right_things_m: near(|r| r.right_things),
            near_other_things_m: near(|r| !r.right_things),
            near_half_seen_m: near(|r| r.half_seen),
            interval: share(whole.clone().filter_map(Reading::holds).collect()),
            width_m: Errors::of(widths).median,
            missed: whole.filter(|r| r.measured_m.is_none()).count(),
            phantom: readings.clone().filter(|r| r.true_m.is_none()).count(),
            cut: share(readings.filter(|r| r.cut).filter_map(Reading::holds).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(true_m: Option<f64>, measured_m: Option<f64>, cut: bool, right_things: bool) -> Reading {
        let interval_m = measured_m.map(|m| [m - 0.5, m + 0.5]);
        let frame = "1".to_owned();
        Reading {
            frame,
            pair: "p",
            true_m,
            cut,
            measured_m,
            interval_m,
            right_things,
            half_seen: !right_things,
        }
    }

    #[test]
    fn errors_are_those_of_the_definition() {
        let readings = [
            reading(Some(2.0), Some(2.3), false, true),
            reading(Some(3.0), Some(2.6), false, true),
            reading(Some(4.0), Some(5.2), false, false),
            reading(Some(10.0), Some(10.4), false, true),
            reading(Some(5.0), None, false, false),
            reading(None, Some(1.0), false, false),
            reading(Some(3.0), Some(3.2), true, true),
            reading(Some(3.0), Some(4.0), true, true),
            // Cut and not measured: nothing was promised.
            reading(Some(3.0), None, true, true),
        ];
        let score = Score::of(readings.iter());
        assert_eq!((score.near_m.count, score.far.count, score.missed, score.phantom), (3, 1, 1, 1));
        assert!((score.near_m.rmse - ((0.09 + 0.16 + 1.44) / 3.0f64).sqrt()).abs() < 1e-9);
        assert!((score.near_m.median - 0.4).abs() < 1e-9 && (score.far.rmse - 0.04).abs() < 1e-9);
        assert!((score.near_right_things_m.rmse - 0.125f64.sqrt()).abs() < 1e-9);
        assert!((score.near_other_things_m.rmse - 1.2).abs() < 1e-9);
        assert_eq!(score.near_half_seen_m, score.near_other_things_m);
        assert_eq!((score.interval.held, score.interval.all), (3, 4));
        assert_eq!((score.cut.held, score.cut.all), (1, 2));
        assert!((score.width_m - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_share_has_the_interval_of_wilson() {
        // Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662.
        let Share { interval: [low, high], .. } = Share::new(81, 263);
        assert!((low - 0.2553).abs() < 5e-5 && (high - 0.3662).abs() < 5e-5, "{low} {high}");
        assert_eq!(Share::new(5, 5).interval[1], 1.0);
    }
}
