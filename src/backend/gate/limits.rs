//! How far each output may be from its reference. Pure.

use super::closeness::{closeness, same_class, worst_channel, worst_token, worst_value};
use super::reference::Expected;
use crate::model::graph::{CLS, GraphHead, HeadTail, TAPS};
use crate::types::{Dense, Features};

/// Cosine of every output with its reference at least. The graph in 16 bits, rounded as a GPU rounds it, reaches
/// 1 - 5e-6 (`tests/conformance/mixed.rs`); what was reported of broken plans (NVIDIA/TensorRT#4723) lies below 0.1.
const LEAST_COSINE: f64 = 0.999;
/// Length of the difference over that of the reference at most: the sine of the angle that the cosine allows. It is
/// what sees a scale or an offset, which a cosine forgives. 3e-3 in 16 bits.
const LARGEST_RELATIVE: f64 = 0.045;
/// Cosine of a single token at least: one wrong token of 448 hardly moves the cosine of all.
const LEAST_TOKEN_COSINE: f64 = 0.995;
/// Error of a head's channel at most, as a share of how much that channel varies over the picture: an offset in one
/// channel of many hardly moves the cosine either. Below 5e-3 in 16 bits.
const LARGEST_CHANNEL: f64 = 0.02;
/// Share of the cells that are of the same class at least.
const LEAST_SAME_CLASS: f64 = 0.99;
/// A class whose logit lies this little below the largest is as good: odds of 1.3 to 1. Logits move by 0.06 in 16 bits.
const TIE_LOGITS: f32 = 0.25;
/// Mean and deviation of a head over bins may be off by this share of the bins' span in any patch: 3.8 % of the
/// distance for the shipped depth, which itself errs by 18 %. A fifth of it is used in 16 bits.
const LARGEST_MOMENT: f64 = 0.01;
/// The head in which classes compete, how many there are, and the channels in which they do: a group a cell.
const CLASSES: (&str, usize, usize) = ("decoder", 9, 144);

/// What was seen of one output of one frame.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub cosine: f64,
    pub relative: f64,
    /// Share of what the limits allow, of the one that is nearest.
    pub used: f64,
    /// The first limit that is broken.
    pub broken: Option<String>,
}

impl Seen {
    /// What cannot even be compared.
    fn wrong(problem: String) -> Self {
        Self { cosine: f64::NAN, relative: f64::NAN, used: f64::NAN, broken: Some(problem) }
    }

    fn at_least(&mut self, what: &str, value: f64, limit: f64) {
        self.limit((1.0 - value) / (1.0 - limit), || {
            format!("{what} {value:.4}, at least {limit} is needed")
        });
    }

    fn at_most(&mut self, what: &str, value: f64, limit: f64) {
        self.limit(value / limit, || format!("{what} {value:.4}, at most {limit} is allowed"));
    }

    fn limit(&mut self, used: f64, problem: impl FnOnce() -> String) {
        // What is no number breaks the limit, and stays.
        let within = used <= 1.0;
        if !within && self.broken.is_none() {
            self.broken = Some(problem());
        }
        self.used = if self.used.is_nan() || used.is_nan() { f64::NAN } else { self.used.max(used) };
    }
}

/// Measures every output of one frame. Layers are optional: a daemon does not want them.
pub(super) fn outputs(answer: &Features, expected: &Expected, heads: &[GraphHead]) -> Vec<(String, Seen)> {
    let mut seen = vec![];
    if !answer.layers.is_empty() {
        for (i, tap) in TAPS.iter().enumerate() {
            let found = answer.layers.get(i).map(Vec::as_slice);
            let right = expected.layers.get(i).map_or(&[][..], Vec::as_slice);
            seen.push((String::from(*tap), layer(found, right, expected.cls.len())));
        }
    }
    seen.push((CLS.to_owned(), compared(Some(&answer.cls), &expected.cls)));
    for graph in heads {
        let seen_of = |right: &Dense| head(graph, answer.dense.get(&graph.name), right);
        let missing = || Seen::wrong("the reference lacks it".to_owned());
        seen.push((graph.name.clone(), expected.dense.get(&graph.name).map_or_else(missing, seen_of)));
    }
    seen
}

/// What every output is held to.
fn compared(found: Option<&[f32]>, right: &[f32]) -> Seen {
    let Some(found) = found else { return Seen::wrong("it is missing".to_owned()) };
    if found.len() != right.len() {
        return Seen::wrong(format!("{} values instead of {}", found.len(), right.len()));
    }
    if let Some(value) = found.iter().find(|value| !value.is_finite()) {
        return Seen::wrong(format!("{value} came out"));
    }
    let close = closeness(found, right);
    let mut seen = Seen { cosine: close.cosine, relative: close.relative, used: 0.0, broken: None };
    seen.at_least("cosine", close.cosine, LEAST_COSINE);
    seen.at_most("relative difference", close.relative, LARGEST_RELATIVE);
    seen
}

fn layer(found: Option<&[f32]>, right: &[f32], dim: usize) -> Seen {
    let mut seen = compared(found, right);
    if let Some(found) = found.filter(|_| !seen.cosine.is_nan()) {
        let (token, cosine) = worst_token(found, right, dim.max(1));
        seen.at_least(&format!("cosine of token {token}"), cosine, LEAST_TOKEN_COSINE);
    }
    seen
}

/// What a head is for must survive, too.
fn head(graph: &GraphHead, found: Option<&Dense>, right: &Dense) -> Seen {
    let mut seen = compared(found.map(|found| found.values.as_slice()), &right.values);
    let Some(found) = found.filter(|_| !seen.cosine.is_nan()) else { return seen };
    if found.channels != right.channels {
        return Seen::wrong(format!("{} channels instead of {}", found.channels, right.channels));
    }
    let channels = right.channels.max(1);
    let (channel, share) = worst_channel(&found.values, &right.values, channels);
    seen.at_most(&format!("error of channel {channel} over its spread"), share, LARGEST_CHANNEL);
    match &graph.tail {
        HeadTail::Logits if graph.name == CLASSES.0 => {
            let (_, classes, logits) = CLASSES;
            let cells = |values: &[f32]| -> Vec<f32> {
                values.chunks_exact(channels).flat_map(|patch| patch.iter().take(logits)).copied().collect()
            };
            let same = same_class(&cells(&found.values), &cells(&right.values), classes, TIE_LOGITS);
            seen.at_least("share of cells of the same class", same, LEAST_SAME_CLASS);
        }
        HeadTail::Logits | HeadTail::Official(_) => {}
        HeadTail::BinMoments { values } => {
            let ends = values.iter().fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
            let share = worst_value(&found.values, &right.values) / f64::from(ends.1 - ends.0);
            seen.at_most("error over the span of the bins", share, LARGEST_MOMENT);
        }
    }
    seen
}
