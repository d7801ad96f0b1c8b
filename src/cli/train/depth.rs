//! Trains the depth: 256 bins of equal width in the logarithm of the depth (a metre matters at 3 m and not at 40 m,
//! and a relative error is what the tie to the floor can correct), cross entropy against a soft bin plus a robust loss
//! on the mean. Patches of things and floor count up to twice.

use indicatif::ProgressBar;

use super::dataset::Raster;
use super::matrix::{Adam, As, Matrix, Random, multiply};
use super::segment::{Example, finish};
use crate::heads::file::HeadFile;
use crate::heads::taught::Standard;
use crate::model::graph::HeadTail;
use crate::types::Grid;

/// Number of bins.
pub const BINS: usize = 256;
/// Nearest and farthest bin for the dock data, metres: their range.
pub const RANGE_M: (f32, f32) = (1.5, 65.0);
/// Width of the soft target, in the logarithm: 7 %.
const TARGET_SIGMA: f32 = 0.07;
/// Errors beyond this count linearly, in the logarithm.
const LINEAR_FROM: f32 = 0.1;
const FRAMES_A_STEP: usize = 4;
const RATE: f32 = 1e-3;
const DECAY: f32 = 1e-2;

/// Targets of one frame.
pub struct Target {
    /// Mean logarithm of the depth in metres of each patch; NaN where less than half of the patch has depth.
    pub log_depth: Vec<f32>,
    /// Weight of each patch, 1 to 2.
    pub weight: Vec<f32>,
}

impl Target {
    /// From the labels; `counted` are the classes that weigh double.
    pub fn of(labels: &Raster, grid: Grid, counted: &[u8]) -> Self {
        let (mut log_depth, mut weight) = (Vec::new(), Vec::new());
        for patch in 0..grid.len() {
            let (mut sum, mut known, mut double, mut all) = (0.0, 0.0, 0.0, 0.0);
            for i in labels.pixels_of(grid, patch) {
                if labels.depth_m[i] > 0.05 {
                    sum += labels.depth_m[i].ln();
                    known += 1.0;
                }
                double += f32::from(u8::from(counted.contains(&labels.class[i])));
                all += 1.0;
            }
            log_depth.push(if known > 0.5 * all { sum / known } else { f32::NAN });
            weight.push(1.0 + double / all);
        }
        Self { log_depth, weight }
    }
}

/// Values of the bins between the nearest and the farthest depth, metres: their logarithms.
pub fn bins(range_m: (f32, f32)) -> Vec<f32> {
    let (near, far) = (range_m.0.ln(), range_m.1.ln());
    (0..BINS).map(|i| near + (far - near) * i as f32 / (BINS - 1) as f32).collect()
}

/// Trains; the bins lie between the two depths of `range_m`.
pub fn train(
    mut examples: Vec<Example<'_>>,
    targets: &[Target],
    range_m: (f32, f32),
    standard: &Standard,
    epochs: usize,
    progress: &ProgressBar,
) -> anyhow::Result<HeadFile> {
    let Some(first) = examples.first() else { anyhow::bail!("there is nothing to train on") };
    let (grid, inputs) = (first.tokens.grid, first.tokens.inputs);
    let bins = bins(range_m);
    let mut weight = Matrix::zeros(inputs, BINS);
    let mut bias = vec![0.0f32; BINS];
    let (mut adam_w, mut adam_b) = (Adam::new(inputs * BINS), Adam::new(BINS));
    let mut random = Random(11);
    for epoch in 0..epochs {
        random.shuffle(&mut examples);
        let rate = RATE * (1.0 - epoch as f32 / epochs as f32);
        for step in examples.chunks(FRAMES_A_STEP) {
            let (mut rows, mut truths, mut weights) = (Vec::new(), Vec::new(), Vec::new());
            for example in step {
                let target = &targets[example.labels];
                for patch in 0..grid.len() {
                    let (r, c) = (patch / grid.cols, patch % grid.cols);
                    let from = if example.mirrored { r * grid.cols + grid.cols - 1 - c } else { patch };
                    if target.log_depth[from].is_finite() {
                        standard.push(example.tokens.row(example.frame, patch), &mut rows);
                        truths.push(target.log_depth[from]);
                        weights.push(target.weight[from]);
                    }
                }
            }
            progress.inc(step.len() as u64);
            if truths.is_empty() {
                continue;
            }
            let x = Matrix { rows: truths.len(), cols: inputs, data: rows };
            let mut p = Matrix::zeros(x.rows, BINS);
            multiply(&x, As::Is, &weight, As::Is, 0.0, &mut p);
            let total: f32 = weights.iter().sum();
            for ((l, truth), w) in p.data.chunks_exact_mut(BINS).zip(&truths).zip(&weights) {
                gradient(l, &bias, &bins, *truth, w / total);
            }
            let mut gradient_w = Matrix::zeros(inputs, BINS);
            multiply(&x, As::Transposed, &p, As::Is, 0.0, &mut gradient_w);
            let mut gradient_b = vec![0.0f32; BINS];
            for row in p.data.chunks_exact(BINS) {
                gradient_b.iter_mut().zip(row).for_each(|(b, d)| *b += d);
            }
            adam_w.step(&mut weight.data, &gradient_w.data, rate, DECAY);
            adam_b.step(&mut bias, &gradient_b, rate, 0.0);
        }
    }
    let tail = HeadTail::BinMoments { values: bins };
    Ok(finish("depth", &weight, &bias, standard, tail, Vec::new()))
}

/// Turns one patch's product into the gradient of its loss with respect to the logits.
fn gradient(l: &mut [f32], bias: &[f32], bins: &[f32], truth: f32, weight: f32) {
    l.iter_mut().zip(bias).for_each(|(l, b)| *l += b);
    let top = l.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    l.iter_mut().for_each(|v| *v = (*v - top).exp());
    let total: f32 = l.iter().sum();
    l.iter_mut().for_each(|v| *v /= total);
    let mean: f32 = l.iter().zip(bins).map(|(p, b)| p * b).sum();
    let soft = |b: f32| (-0.5 * ((b - truth) / TARGET_SIGMA).powi(2)).exp();
    let soft_total: f32 = bins.iter().map(|b| soft(*b)).sum::<f32>().max(1e-12);
    let pull = ((mean - truth) / LINEAR_FROM).clamp(-1.0, 1.0);
    for (p, b) in l.iter_mut().zip(bins) {
        *p = weight * (0.3 * (*p - soft(*b) / soft_total) + 2.0 * *p * (b - mean) * pull);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradient_is_that_of_the_loss() {
        let bins = [0.0f32, 0.5, 1.0, 1.5];
        let (logits, truth) = ([0.2f32, -0.3, 0.4, 0.1], 0.73f32);
        let loss = |z: &[f32]| -> f64 {
            let p: Vec<f64> = z.iter().map(|v| f64::from(*v).exp()).collect();
            let s: f64 = p.iter().sum();
            let soft: Vec<f64> =
                bins.iter().map(|b| (-0.5 * f64::from((b - truth) / TARGET_SIGMA).powi(2)).exp()).collect();
            let t: f64 = soft.iter().sum();
            let mean: f64 = p.iter().zip(bins).map(|(p, b)| p / s * f64::from(b)).sum();
            let e = (mean - f64::from(truth)).abs() / f64::from(LINEAR_FROM);
            let huber = if e < 1.0 { 0.5 * e * e } else { e - 0.5 };
            let ce: f64 = p.iter().zip(&soft).map(|(p, q)| -(q / t) * (p / s).ln()).sum();
            0.3 * ce + 2.0 * f64::from(LINEAR_FROM) * huber
        };
        let mut got = logits;
        gradient(&mut got, &[0.0; 4], &bins, truth, 1.0);
        for i in 0..4 {
            let (mut up, mut down) = (logits, logits);
            up[i] += 1e-2;
            down[i] -= 1e-2;
            let want = (loss(&up) - loss(&down)) / 2e-2;
            assert!((f64::from(got[i]) - want).abs() < 2e-4, "{i}: {} {want}", got[i]);
        }
    }
}
