//! Nearest neighbours or a line: cross-validation over the examples' pictures says which, and where the threshold
//! lies. Pure.

use super::class::{Samples, unit};
use super::knn::{Knn, NEIGHBOURS_MAX};
use super::logistic::Logistic;
use crate::model::matrix::Matrix;

/// A classifier of standardised tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// Nearest neighbours.
    Knn(Knn),
    /// A linear map.
    Linear(Logistic),
}

impl Method {
    /// Its name for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Knn(_) => "nearest neighbours",
            Self::Linear(_) => "linear",
        }
    }

    /// Logarithm of the odds of each row. `unit_rows` are the same rows at length 1.
    pub fn logits(&self, rows: &Matrix, unit_rows: &Matrix) -> Vec<f32> {
        match self {
            Self::Linear(linear) => linear.logits(rows),
            Self::Knn(knn) => {
                let votes = knn.votes(unit_rows, 2);
                votes.chunks_exact(2).map(|vote| odds(vote[1])).collect()
            }
        }
    }
}

/// Logarithm of the odds of a share of votes; all votes are not certainty.
fn odds(share: f32) -> f32 {
    let p = share.clamp(0.02, 0.98);
    (p / (1.0 - p)).ln()
}

/// What cross-validation found: intersection over union of the patches of pictures that were left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Validation {
    /// Pictures, or groups of them, that were left out in turn.
    pub folds: usize,
    /// Of nearest neighbours.
    pub knn_iou: f32,
    /// Of the linear map.
    pub linear_iou: f32,
}

/// Groups of pictures at most.
const FOLDS_MAX: usize = 5;
/// A class counts for at least this share of the loss, however few its patches are.
const LEAST_SHARE: f32 = 0.15;
/// Thresholds that are tried, logarithm of the odds.
const THRESHOLDS: std::ops::RangeInclusive<i32> = -8..=8;
const THRESHOLD_STEP: f32 = 0.25;

/// Fits a line.
pub fn linear(samples: &Samples) -> Logistic {
    let total: f32 = samples.stands_for.iter().sum();
    let own: f32 = samples.stands_for.iter().zip(&samples.is_it).filter(|(_, it)| **it).map(|(n, _)| n).sum();
    let favour = (LEAST_SHARE / (1.0 - LEAST_SHARE) * (total - own) / own.max(1e-6)).max(1.0);
    let weights: Vec<f32> = samples
        .stands_for
        .iter()
        .zip(&samples.is_it)
        .map(|(n, it)| if *it { n * favour } else { *n })
        .collect();
    Logistic::fit(&samples.x, &samples.is_it, &weights)
}

fn nearest(samples: &Samples) -> Knn {
    let all =
        Knn { bank: samples.x.clone(), targets: samples.is_it.iter().map(|it| u8::from(*it)).collect() };
    let thin = all.thinned(NEIGHBOURS_MAX);
    Knn { bank: unit(thin.bank), ..thin }
}

/// The better method with its threshold.
pub fn choose(samples: &Samples) -> (Method, f32, Option<Validation>) {
    // Only pictures that show it can say how well it is found.
    let mut shown: Vec<usize> =
        samples.picture.iter().zip(&samples.is_it).filter(|(_, it)| **it).map(|(p, _)| *p).collect();
    shown.dedup();
    let folds = shown.len().min(FOLDS_MAX);
    if folds < 2 {
        return (Method::Linear(linear(samples)), 0.0, None);
    }
    let fold_of = |picture: usize| shown.iter().position(|p| *p == picture).map_or(0, |at| at % folds);
    let mut found = [Vec::new(), Vec::new()];
    for fold in 0..folds {
        let train = samples.only(|row| fold_of(samples.picture[row]) != fold);
        let test = samples.only(|row| fold_of(samples.picture[row]) == fold);
        if !train.is_it.contains(&true) || !train.is_it.contains(&false) {
            continue;
        }
        let unit_rows = unit(test.x.clone());
        for (method, found) in
            [Method::Knn(nearest(&train)), Method::Linear(linear(&train))].into_iter().zip(&mut found)
        {
            let logits = method.logits(&test.x, &unit_rows);
            let rows = test.is_it.iter().zip(&test.stands_for);
            found.extend(logits.into_iter().zip(rows).map(|(z, (it, n))| (z, *it, *n)));
        }
    }
    let [(knn_iou, knn_at), (linear_iou, linear_at)] = found.map(|found| best_threshold(&found));
    let validation = Some(Validation { folds, knn_iou, linear_iou });
    // A line is the same cost however many the examples; neighbours must earn theirs.
    if knn_iou > linear_iou + 0.01 {
        (Method::Knn(nearest(samples)), knn_at, validation)
    } else {
        (Method::Linear(linear(samples)), linear_at, validation)
    }
}

/// The best intersection over union and the threshold that reaches it, nearest to 0 among equals.
fn best_threshold(found: &[(f32, bool, f32)]) -> (f32, f32) {
    let iou = |threshold: f32| {
        let (mut both, mut either) = (0.0f32, 0.0f32);
        for (logit, is_it, n) in found {
            let says = *logit > threshold;
            both += if says && *is_it { *n } else { 0.0 };
            either += if says || *is_it { *n } else { 0.0 };
        }
        both / either.max(1e-6)
    };
    let mut tried: Vec<(f32, f32)> = THRESHOLDS
        .map(|step| step as f32 * THRESHOLD_STEP)
        .map(|threshold| (iou(threshold), threshold))
        .collect();
    tried.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.abs().total_cmp(&b.1.abs())));
    tried.first().copied().unwrap_or((0.0, 0.0))
}

#[cfg(test)]
mod tests {
    use super::super::class::{Extent, Mark, Picture, Standard};
    use super::super::tests::transform;
    use super::super::tokens::Tokens;
    use super::*;
    use crate::types::{ClassName, Grid};
    use half::f16;

    #[test]
    fn the_threshold_lies_where_the_overlap_is_largest() {
        let found = [(-3.0, false, 1.0), (0.4, false, 5.0), (0.6, true, 1.0), (2.0, true, 1.0)];
        assert_eq!(best_threshold(&found), (1.0, 0.5));
        assert_eq!(best_threshold(&[(-1.0, false, 1.0), (1.0, true, 1.0)]), (1.0, 0.0));
    }

    /// Pictures of one row of patches whose tokens are `value(picture, patch)`; the first half is the class.
    fn samples(pictures: usize, value: impl Fn(usize, usize) -> [f32; 2]) -> Samples {
        let grid = Grid { rows: 1, cols: 40, patch_px: 14 };
        let tokens: Vec<Tokens> = (0..pictures)
            .map(|picture| Tokens {
                grid,
                transform: transform(grid),
                inputs: 2,
                rows: (0..40).flat_map(|patch| value(picture, patch).map(f16::from_f32)).collect(),
                cls: vec![],
            })
            .collect();
        let car = ClassName::new("car").unwrap();
        let cover: Vec<f32> = (0..40).map(|patch| if patch < 20 { 1.0 } else { 0.0 }).collect();
        let mark = Mark { class: Some(car.clone()), extent: Extent::Outline, cover };
        let pictures: Vec<Picture<'_>> =
            tokens.iter().map(|tokens| Picture { tokens, marks: vec![mark.clone()] }).collect();
        let rows = tokens.iter().flat_map(|tokens| (0..40).map(|patch| tokens.row(patch)));
        Samples::of(&car, &pictures, &Standard::over(rows, 2))
    }

    #[test]
    fn a_ring_needs_neighbours_and_two_halves_a_line() {
        // The class in two opposite quadrants: no line divides it from the rest.
        let quadrants = samples(4, |_, patch| {
            let angle = (patch % 20) as f32 / 20.0 * std::f32::consts::PI;
            let half = if angle > std::f32::consts::FRAC_PI_2 { std::f32::consts::FRAC_PI_2 } else { 0.0 };
            let quadrant = if patch < 20 { 0.0 } else { std::f32::consts::FRAC_PI_2 };
            let angle = angle - half + quadrant + 2.0 * half;
            [angle.cos(), angle.sin()]
        });
        let (method, _, validation) = choose(&quadrants);
        assert!(matches!(method, Method::Knn(_)), "{validation:?}");
        // Divided by length, which a cosine does not see.
        let halves = samples(4, |picture, patch| {
            let x = if patch < 20 { 1.0 } else { 3.0 };
            [x + 0.01 * picture as f32, x * 0.5 + 0.3 * (patch % 7) as f32]
        });
        let (method, _, validation) = choose(&halves);
        assert!(matches!(method, Method::Linear(_)), "{validation:?}");
        assert!(validation.unwrap().linear_iou > 0.95);
    }

    #[test]
    fn one_picture_validates_nothing() {
        let one = samples(1, |_, patch| if patch < 20 { [1.0, 0.0] } else { [0.0, 1.0] });
        let (method, threshold, validation) = choose(&one);
        assert!(matches!(method, Method::Linear(_)));
        assert_eq!((threshold, validation), (0.0, None));
    }
}
