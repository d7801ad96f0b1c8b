//! What demo and replay show at their end: a table of measured against true, and a page of annotated frames
//! over plots.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use crate::analysis::CameraSetup;
use crate::draw::{self, Banner, DistancePlot, PlotSample, interval};
use crate::geometry::Site;
use crate::preprocess::color::rgb_from_frame;
use crate::replay::Step;
use crate::replay::score::{PairScore, RuleScore, Sample, Scorer};
use crate::types::{DistanceKind, Reading, RuleStatus, Snapshot, State, Transition};

/// Frames that go on the page at most.
const PAGE_FRAMES: usize = 6;

/// Frames kept while it is not yet known which are the best to show.
const KEPT_FRAMES: usize = 48;

/// Snapshots for the page: those with a transition, and others spread over the time.
#[derive(Default)]
pub struct Album {
    told: Vec<(f64, Arc<Snapshot>)>,
    plain: Vec<(f64, Arc<Snapshot>)>,
    /// Every how many-th plain frame is kept; doubles when there are too many.
    stride: usize,
    seen: usize,
}

impl Album {
    /// Offers a frame; `told` says that a state changed with it.
    pub fn add(&mut self, t_s: f64, snapshot: Arc<Snapshot>, told: bool) {
        if told {
            self.told.push((t_s, snapshot));
            thin(&mut self.told);
            return;
        }
        self.stride = self.stride.max(1);
        if self.seen.is_multiple_of(self.stride) {
            self.plain.push((t_s, snapshot));
            if thin(&mut self.plain) {
                self.stride *= 2;
            }
        }
        self.seen += 1;
    }

    /// The frames to show, in order of time.
    fn chosen(&self) -> Vec<(f64, Arc<Snapshot>)> {
        let mut chosen: Vec<_> = spread(&self.told, PAGE_FRAMES);
        let eventful: Vec<_> =
            self.plain.iter().filter(|(_, snapshot)| !snapshot.scene.things.is_empty()).cloned().collect();
        let others = if eventful.is_empty() { &self.plain } else { &eventful };
        chosen.extend(spread(others, PAGE_FRAMES - chosen.len()));
        chosen.sort_by(|a, b| a.0.total_cmp(&b.0));
        chosen
    }
}

/// Drops every second entry when there are too many; true if it did.
fn thin<T>(entries: &mut Vec<T>) -> bool {
    let full = entries.len() > KEPT_FRAMES;
    if full {
        let mut index = 0;
        entries.retain(|_| {
            index += 1;
            index % 2 == 1
        });
    }
    full
}

/// Up to `count` entries, evenly spread, the first and the last among them.
fn spread<T: Clone>(entries: &[T], count: usize) -> Vec<T> {
    if entries.len() <= count {
        return entries.to_vec();
    }
    let step = |index: usize| index * (entries.len() - 1) / count.saturating_sub(1).max(1);
    (0..count).map(|index| entries[step(index)].clone()).collect()
}

/// One frame with masks, distance lines, edges and the worst state.
pub fn annotated(snapshot: &Snapshot, site: &Site, t_s: f64) -> image::RgbImage {
    let worst = snapshot.rules.iter().max_by_key(|status| severity(&status.state));
    let banner = worst.map(|status| Banner {
        state: status.state.clone(),
        text: status.rule.to_string(),
        time: format!("{t_s:.1} s"),
    });
    draw::annotate(&rgb_from_frame(&snapshot.frame), &draw::overlays(snapshot, site, banner))
}

fn severity(state: &State) -> usize {
    match state {
        State::Disarmed(_) => 0,
        State::Clear => 1,
        State::Unknown(_) => 2,
        State::Warning => 3,
        State::Alarm => 4,
    }
}

/// One line about a transition.
pub fn transition_line(t_s: f64, transition: &Transition) -> String {
    let status = &transition.status;
    let mut line =
        format!("{t_s:6.1} s  {}: {} -> {}", status.rule, transition.from.word(), status.state.word());
    if let Some(reason) = status.state.reason() {
        let _ = write!(line, " ({reason})");
    }
    if let Some(distance) = &status.distance {
        let _ = write!(line, "  {}", interval(distance));
    }
    line
}

/// One line about the present: distances, intervals and states.
pub fn live_line(t_s: f64, snapshot: &Snapshot) -> String {
    let mut line = format!("{t_s:6.1} s");
    for status in &snapshot.rules {
        let _ = write!(line, "  {}: {}", status.rule, describe(status));
    }
    line
}

fn describe(status: &RuleStatus) -> String {
    let distance = status.distance.as_ref().map_or_else(|| "-".to_owned(), interval);
    format!("{distance} {}", status.state.word().to_uppercase())
}

/// The tables of errors and crossings.
pub fn tables(pairs: &[PairScore], rules: &[RuleScore]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "Measured against true distance (things visible and not cut by the picture's edge), metres:"
    );
    let _ = writeln!(
        text,
        "  {:<20} {:>6} {:>7} {:>8} {:>7} {:>7} {:>7} {:>7} {:>10}   cut: frames, bound holds",
        "pair", "frames", "missed", "phantom", "median", "p95", "RMSE", "bias", "in 95 %"
    );
    for score in pairs {
        let _ = writeln!(
            text,
            "  {:<20} {:>6} {:>7} {:>8} {:>7} {:>7} {:>7} {:>7} {:>10}   {:>6}, {}",
            score.pair,
            score.compared,
            score.missed,
            score.phantom,
            metres(score.median_m),
            metres(score.p95_m),
            metres(score.rmse_m),
            metres(score.bias_m),
            percent(score.coverage),
            score.cut_compared,
            percent(score.cut_bound_holds),
        );
    }
    let _ = writeln!(
        text,
        "Limits (cautious: reported without a crossing, by an interval that held the limit; delays from the true\ncrossing, in brackets from that of the interval's true near end):"
    );
    let _ = writeln!(
        text,
        "  {:<20} {:<8} {:>6} {:>10} {:>7} {:>6} {:>9}  delays",
        "rule", "state", "limit", "crossings", "missed", "false", "cautious"
    );
    for score in rules {
        let both = score.delays_s.iter().zip(&score.near_end_delays_s);
        let delays: Vec<String> = both.map(|(delay, near)| format!("{delay:+.1} s ({near:+.1})")).collect();
        let _ = writeln!(
            text,
            "  {:<20} {:<8} {:>6.2} {:>10} {:>7} {:>6} {:>9}  {}",
            score.rule,
            score.level,
            score.limit_m,
            score.crossings,
            score.missed,
            score.false_alarms,
            score.cautious,
            delays.join(", "),
        );
    }
    text
}

fn metres(value: f64) -> String {
    if value.is_finite() { format!("{value:.2}") } else { "-".into() }
}

fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0} %", 100.0 * share) } else { "-".into() }
}

/// Frames over plots, one plot a pair that has a rule.
pub fn page(album: &Album, scorer: &Scorer, setup: &CameraSetup) -> image::RgbImage {
    let frames: Vec<(image::RgbImage, String)> = album
        .chosen()
        .into_iter()
        .map(|(t_s, snapshot)| (annotated(&snapshot, &setup.site, t_s), format!("{t_s:.1} s")))
        .collect();
    let plots: Vec<image::RgbImage> = setup
        .rules
        .iter()
        .map(|rule| {
            let samples = scorer.samples(rule.pair());
            let (warning_m, alarm_m) = rule.limits_m();
            draw::plot_distance(&DistancePlot {
                title: format!("{} (pair {})", rule.id, rule.pair()),
                samples: samples.iter().map(plot_sample).collect(),
                truth: samples.iter().map(|s| (s.t_s, s.truth.map(|truth| truth.distance_m))).collect(),
                states: scorer.states(&rule.id),
                warning_m,
                alarm_m: Some(alarm_m),
                end_s: samples.last().map_or(1.0, |sample| sample.t_s),
                top_m: Some(10.0),
            })
        })
        .collect();
    draw::contact_sheet(&frames, &plots)
}

fn plot_sample(sample: &Sample) -> PlotSample {
    match &sample.reading {
        Reading::Measured(distance) => PlotSample {
            time_s: sample.t_s,
            metres: Some((distance.nearest_m, distance.lower_m, distance.upper_m)),
            bound: distance.kind != DistanceKind::Value,
        },
        _ => PlotSample { time_s: sample.t_s, metres: None, bound: false },
    }
}

/// Collects all of a run that the report needs.
pub struct Collector {
    /// Errors and crossings.
    pub scorer: Scorer,
    album: Album,
}

impl Collector {
    /// Empty.
    pub fn new(scorer: Scorer) -> Self {
        Self { scorer, album: Album::default() }
    }

    /// Takes a step; `told` says that something was reported with it.
    pub fn add(&mut self, step: Step, told: bool) {
        self.scorer.add(&step);
        self.album.add(step.t_s, step.snapshot, told);
    }

    /// Writes the page into the folder, and returns its path.
    pub fn write_page(
        &self,
        setup: &CameraSetup,
        folder: &Path,
        name: &str,
    ) -> anyhow::Result<std::path::PathBuf> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("folder {} cannot be made", folder.display()))?;
        let path = folder.join(name);
        draw::save(&page(&self.album, &self.scorer, setup), &path)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_keeps_the_ends() {
        assert_eq!(spread(&[1, 2, 3, 4, 5, 6, 7], 3), [1, 4, 7]);
        assert_eq!(spread(&[1, 2], 3), [1, 2]);
        assert!(spread(&[1, 2, 3], 0).is_empty());
    }

    #[test]
    fn thinning_keeps_every_second() {
        let mut entries: Vec<usize> = (0..=KEPT_FRAMES).collect();
        assert!(thin(&mut entries));
        assert_eq!(entries[..3], [0, 2, 4]);
        assert!(!thin(&mut entries));
    }
}
