//! Measured against true: errors of each pair, crossings of each rule.

use serde::Serialize;

use super::Step;
use super::truth::{TrueDistance, Truth};
use crate::geometry::Pair;
use crate::types::{DistanceKind, PairId, Reading, RuleId, RuleStatus, State};

/// How well a pair's distance was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairScore {
    /// The pair.
    pub pair: String,
    /// Frames in which both ends are visible, not cut off by the picture's edge, and a distance was measured.
    pub compared: usize,
    /// Frames in which both ends are visible and not cut off, but no distance was measured.
    pub missed: usize,
    /// Frames in which a distance was measured although an end is not visible.
    pub phantom: usize,
    /// Median of the absolute error, metres.
    pub median_m: f64,
    /// 95th percentile of the absolute error, metres.
    pub p95_m: f64,
    /// Root of the mean squared error, metres.
    pub rmse_m: f64,
    /// Mean of measured less true, metres.
    pub bias_m: f64,
    /// Share of truths inside the 95 % interval.
    pub coverage: f64,
    /// Frames with an end cut off in which a distance was measured.
    pub cut_compared: usize,
    /// Share of those in which the truth is at most the upper end: the bound holds.
    pub cut_bound_holds: f64,
}

/// How well a rule's limit was watched.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleScore {
    /// The rule.
    pub rule: String,
    /// `warning` or `alarm`.
    pub level: &'static str,
    /// The limit, metres.
    pub limit_m: f64,
    /// Times that the true distance went to or below the limit.
    pub crossings: usize,
    /// Of these, those without the state.
    pub missed: usize,
    /// Times that the state came without a crossing, and the interval that was reported excluded the limit.
    pub false_alarms: usize,
    /// Times that the state came without a crossing, and the interval held the limit.
    pub cautious: usize,
    /// For each crossing found, seconds from the true crossing to the state; negative is before it.
    pub delays_s: Vec<f64>,
    /// The same from the moment at which the near end should have crossed: the true distance less what the interval
    /// reaches below its value.
    pub near_end_delays_s: Vec<f64>,
}

/// A measured and a true distance of one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Time in the clip, seconds.
    pub t_s: f64,
    /// What was measured.
    pub reading: Reading,
    /// What is true, when the truth covers the frame and both ends are visible.
    pub truth: Option<TrueDistance>,
    /// Whether the truth covers the frame.
    pub covered: bool,
}

/// Collects steps and scores them.
#[derive(Debug)]
pub struct Scorer {
    truth: Truth,
    pairs: Vec<(Pair, Vec<Sample>)>,
    rules: Vec<(RuleId, Vec<RuleSample>)>,
}

#[derive(Debug, Clone)]
struct RuleSample {
    t_s: f64,
    status: RuleStatus,
    true_m: Option<f64>,
}

impl Scorer {
    /// For these pairs. An empty truth only collects.
    pub fn new(truth: Truth, pairs: Vec<Pair>) -> Self {
        Self { truth, pairs: pairs.into_iter().map(|pair| (pair, vec![])).collect(), rules: vec![] }
    }

    /// Takes one step.
    pub fn add(&mut self, step: &Step) {
        let frame = &step.snapshot.frame;
        let covered = self.truth.covers(step.index);
        for (pair, samples) in &mut self.pairs {
            let reading = step.snapshot.metric.pairs.iter().find(|reading| reading.pair == pair.id);
            if let Some(reading) = reading {
                let truth = self.truth.distance(step.index, pair, frame.width, frame.height);
                samples.push(Sample { t_s: step.t_s, reading: reading.reading.clone(), truth, covered });
            }
        }
        for status in &step.snapshot.rules {
            let pair = self.pairs.iter().find(|(pair, _)| pair.id == status.pair);
            let true_m = pair
                .and_then(|(pair, _)| self.truth.distance(step.index, pair, frame.width, frame.height))
                .map(|truth| truth.distance_m);
            let sample = RuleSample { t_s: step.t_s, status: status.clone(), true_m };
            match self.rules.iter_mut().find(|(rule, _)| *rule == status.rule) {
                Some((_, samples)) => samples.push(sample),
                None => self.rules.push((status.rule.clone(), vec![sample])),
            }
        }
    }

    /// The samples of a pair, for a plot.
    pub fn samples(&self, pair: &PairId) -> &[Sample] {
        self.pairs.iter().find(|(known, _)| known.id == *pair).map_or(&[], |(_, samples)| samples)
    }

    /// The states of a rule over time, for a plot.
    pub fn states(&self, rule: &RuleId) -> Vec<(f64, State)> {
        let samples =
            self.rules.iter().find(|(known, _)| known == rule).map_or(&[][..], |(_, samples)| samples);
        samples.iter().map(|sample| (sample.t_s, sample.status.state.clone())).collect()
    }

    /// One score a pair.
    pub fn pair_scores(&self) -> Vec<PairScore> {
        self.pairs.iter().map(|(pair, samples)| score_pair(&pair.id, samples)).collect()
    }

    /// One score a rule and level.
    pub fn rule_scores(&self) -> Vec<RuleScore> {
        let mut scores = vec![];
        for (rule, samples) in &self.rules {
            let Some(first) = samples.first() else { continue };
            if let Some(limit_m) = first.status.warning_m {
                scores.push(score_rule(rule, "warning", limit_m, samples, |state| {
                    matches!(state, State::Warning | State::Alarm)
                }));
            }
            scores.push(score_rule(rule, "alarm", first.status.alarm_m, samples, |state| {
                *state == State::Alarm
            }));
        }
        scores
    }
}

fn score_pair(pair: &PairId, samples: &[Sample]) -> PairScore {
    let mut errors = vec![];
    let (mut inside, mut missed, mut phantom, mut cut, mut bound_holds) = (0usize, 0, 0, 0usize, 0usize);
    for sample in samples.iter().filter(|sample| sample.covered) {
        match (&sample.reading, sample.truth) {
            (Reading::Measured(distance), Some(truth)) if !truth.cut => {
                errors.push(distance.nearest_m - truth.distance_m);
                let lower_m = match distance.kind {
                    DistanceKind::Value => distance.lower_m,
                    DistanceKind::AtMost { floor_m } => floor_m,
                };
                inside += usize::from((lower_m..=distance.upper_m).contains(&truth.distance_m));
            }
            (Reading::Measured(distance), Some(truth)) => {
                cut += 1;
                bound_holds += usize::from(truth.distance_m <= distance.upper_m);
            }
            (Reading::Measured(_), None) => phantom += 1,
            (_, Some(truth)) if !truth.cut => missed += 1,
            _ => {}
        }
    }
    let share = |part: usize, of: usize| if of == 0 { f64::NAN } else { part as f64 / of as f64 };
    let mut absolute: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    absolute.sort_by(f64::total_cmp);
    let count = errors.len() as f64;
    PairScore {
        pair: pair.to_string(),
        compared: errors.len(),
        missed,
        phantom,
        median_m: percentile(&absolute, 0.5),
        p95_m: percentile(&absolute, 0.95),
        rmse_m: (errors.iter().map(|error| error * error).sum::<f64>() / count).sqrt(),
        bias_m: errors.iter().sum::<f64>() / count,
        coverage: share(inside, errors.len()),
        cut_compared: cut,
        cut_bound_holds: share(bound_holds, cut),
    }
}

/// The value below which `share` of the sorted values lie, by linear interpolation; NaN of none.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// Runs of samples for which `holds`, as index ranges.
fn runs(samples: &[RuleSample], holds: impl Fn(&RuleSample) -> bool) -> Vec<std::ops::RangeInclusive<usize>> {
    let mut runs: Vec<std::ops::RangeInclusive<usize>> = vec![];
    for (index, _) in samples.iter().enumerate().filter(|(_, sample)| holds(sample)) {
        match runs.last_mut() {
            Some(run) if *run.end() + 1 == index => *run = *run.start()..=index,
            _ => runs.push(index..=index),
        }
    }
    runs
}

fn score_rule(
    rule: &RuleId,
    level: &'static str,
    limit_m: f64,
    samples: &[RuleSample],
    reached: impl Fn(&State) -> bool,
) -> RuleScore {
    let crossings = runs(samples, |sample| sample.true_m.is_some_and(|true_m| true_m <= limit_m));
    let reports = runs(samples, |sample| reached(&sample.status.state));
    let overlap = |a: &std::ops::RangeInclusive<usize>, b: &std::ops::RangeInclusive<usize>| {
        a.start() <= b.end() && b.start() <= a.end()
    };
    let near_end = runs(samples, |sample| {
        let below_m = sample.status.distance.as_ref().map_or(0.0, |d| d.nearest_m - d.lower_m);
        sample.true_m.is_some_and(|true_m| true_m - below_m <= limit_m)
    });
    let (mut delays_s, mut near_end_delays_s) = (vec![], vec![]);
    let mut missed = 0;
    for crossing in &crossings {
        match reports.iter().find(|report| overlap(report, crossing)) {
            Some(report) => {
                let since = |due: &std::ops::RangeInclusive<usize>| {
                    samples[*report.start()].t_s - samples[*due.start()].t_s
                };
                delays_s.push(since(crossing));
                near_end_delays_s.extend(near_end.iter().find(|due| overlap(due, crossing)).map(since));
            }
            None => missed += 1,
        }
    }
    let unfounded =
        reports.iter().filter(|report| !crossings.iter().any(|crossing| overlap(report, crossing)));
    let (mut false_alarms, mut cautious) = (0, 0);
    for report in unfounded {
        let interval = samples[*report.start()].status.distance.as_ref();
        if interval.is_some_and(|distance| (distance.lower_m..=distance.upper_m).contains(&limit_m)) {
            cautious += 1;
        } else {
            false_alarms += 1;
        }
    }
    RuleScore {
        rule: rule.to_string(),
        level,
        limit_m,
        crossings: crossings.len(),
        missed,
        false_alarms,
        cautious,
        delays_s,
        near_end_delays_s,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Timestamp, UtcMillis};
    use crate::types::{CameraId, ClassName, Distance, Evidence};

    fn distance(nearest_m: f64, half_m: f64) -> Distance {
        Distance {
            nearest_m,
            lower_m: nearest_m - half_m,
            upper_m: nearest_m + half_m,
            kind: DistanceKind::Value,
            from_ground: [0.0; 2],
            to_ground: [0.0; 2],
            from: ClassName::new("forklift").unwrap(),
            from_index: Some(0),
            to_index: None,
            from_track: None,
            to_track: None,
            others: vec![],
            to_edge: None,
            approach_mps: None,
            approach_sigma_mps: None,
            captured: Timestamp::default(),
        }
    }

    fn sample(measured_m: Option<f64>, truth: Option<(f64, bool)>) -> Sample {
        Sample {
            t_s: 0.0,
            reading: measured_m.map_or(Reading::Absent, |m| Reading::Measured(distance(m, 0.5))),
            truth: truth.map(|(distance_m, cut)| TrueDistance {
                distance_m,
                cut,
                from_inst: 1,
                to_inst: None,
            }),
            covered: true,
        }
    }

    #[test]
    fn pair_errors_are_those_of_the_definition() {
        let samples = [
            sample(Some(3.0), Some((2.6, false))),
            sample(Some(2.0), Some((3.0, false))),
            sample(None, Some((2.0, false))),
            sample(Some(4.0), None),
            sample(Some(4.0), Some((4.4, true))),
            sample(Some(4.0), Some((4.6, true))),
            sample(None, None),
        ];
        let score = score_pair(&PairId::new("p").unwrap(), &samples);
        assert_eq!((score.compared, score.missed, score.phantom, score.cut_compared), (2, 1, 1, 2));
        assert!((score.median_m - 0.7).abs() < 1e-9 && (score.p95_m - 0.97).abs() < 1e-9);
        assert!((score.rmse_m - (0.58f64).sqrt()).abs() < 1e-9 && (score.bias_m + 0.3).abs() < 1e-9);
        assert_eq!((score.coverage, score.cut_bound_holds), (0.5, 0.5));
    }

    fn rule_samples(series: &[(f64, State, f64)]) -> Vec<RuleSample> {
        let status = |state: &State, measured_m| RuleStatus {
            camera: CameraId::new("c").unwrap(),
            rule: RuleId::new("r").unwrap(),
            pair: PairId::new("p").unwrap(),
            state: state.clone(),
            evidence: Evidence::Fresh,
            distance: Some(distance(measured_m, 0.3)),
            warning_m: None,
            alarm_m: 1.0,
            held: None,
            armed: true,
            shelved_until: None,
            separation_m: None,
            since: UtcMillis(0),
            ts: UtcMillis(0),
            captured: None,
            valid_for: Duration::ZERO,
        };
        let rows = series.iter().enumerate();
        rows.map(|(i, (true_m, state, measured_m))| RuleSample {
            t_s: i as f64 / 10.0,
            status: status(state, *measured_m),
            true_m: Some(*true_m),
        })
        .collect()
    }

    #[test]
    fn crossings_are_found_missed_false_or_cautious() {
        use State::{Alarm, Clear};
        let samples = rule_samples(&[
            (3.0, Clear, 3.0),
            (0.9, Clear, 3.0), // true crossing, seen one frame late
            (0.9, Alarm, 0.9),
            (3.0, Alarm, 3.0),
            (3.0, Clear, 3.0),
            (3.0, Alarm, 0.5), // false: the interval 0.2..0.8 excludes 1.0
            (3.0, Clear, 3.0),
            (1.2, Alarm, 1.2), // cautious: 0.9..1.5 holds it
            (3.0, Clear, 3.0),
            (0.5, Clear, 3.0), // missed
        ]);
        let score = score_rule(&RuleId::new("r").unwrap(), "alarm", 1.0, &samples, |state| *state == Alarm);
        assert_eq!((score.crossings, score.missed, score.false_alarms, score.cautious), (2, 1, 1, 1));
        assert_eq!(score.delays_s.len(), 1);
        assert!((score.delays_s[0] - 0.1).abs() < 1e-9);
        assert_eq!(score.near_end_delays_s, score.delays_s, "0.9 m is the first whose near end is below");
    }
}
