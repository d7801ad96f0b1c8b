//! Trains the segmentation: one linear layer over the tokens, so that its logits are right both upsampled to cells
//! (against the share of each class in the cell) and on the patch itself (against the patch's most frequent class).

use indicatif::ProgressBar;

use super::dataset::{IGNORED, Raster, Tokens};
use super::matrix::{Adam, As, Matrix, Random, multiply};
use crate::heads::file::{HeadFile, fold};
use crate::heads::taught::Standard;
use crate::heads::upsample::{CELLS_PER_PATCH, Upsample};
use crate::model::graph::{GraphHead, HeadTail};
use crate::types::Grid;

const FRAMES_A_STEP: usize = 4;
const RATE: f32 = 2e-3;

/// Share of each class in each cell: `cells * classes`. Cells are 3.5 px wide: a pixel on a boundary counts for both
/// in proportion to its area. The shares of a cell that holds ignored pixels make less than 1.
pub fn cell_shares(labels: &Raster, grid: Grid, classes: usize) -> Vec<f32> {
    let overlaps = |cells: usize, pixels: usize| -> Vec<Vec<(usize, f32)>> {
        let side = pixels as f32 / cells as f32;
        (0..cells)
            .map(|c| {
                let (from, to) = (c as f32 * side, (c + 1) as f32 * side);
                (from as usize..(to.ceil() as usize).min(pixels))
                    .map(|p| (p, (to.min(p as f32 + 1.0) - from.max(p as f32)).max(0.0) / side))
                    .filter(|(_, w)| *w > 0.0)
                    .collect()
            })
            .collect()
    };
    let rows = overlaps(grid.rows * CELLS_PER_PATCH, labels.height);
    let cols = overlaps(grid.cols * CELLS_PER_PATCH, labels.width);
    let mut out = vec![0.0; rows.len() * cols.len() * classes];
    for (r, ys) in rows.iter().enumerate() {
        for (c, xs) in cols.iter().enumerate() {
            let cell = &mut out[(r * cols.len() + c) * classes..][..classes];
            for &(y, wy) in ys {
                for &(x, wx) in xs {
                    if let Some(share) = cell.get_mut(usize::from(labels.class[y * labels.width + x])) {
                        *share += wy * wx;
                    }
                }
            }
        }
    }
    out
}

/// Most frequent class of each patch; none where all of it is ignored.
pub fn patch_classes(labels: &Raster, grid: Grid, classes: usize) -> Vec<Option<usize>> {
    (0..grid.len())
        .map(|patch| {
            let mut counts = vec![0u32; classes.max(usize::from(IGNORED) + 1)];
            labels.pixels_of(grid, patch).for_each(|i| counts[usize::from(labels.class[i])] += 1);
            (0..classes).max_by_key(|c| (counts[*c], classes - c)).filter(|c| counts[*c] > 0)
        })
        .collect()
}

fn softmax(values: &mut [f32]) {
    let top = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter_mut().for_each(|v| *v = (*v - top).exp());
    let total: f32 = values.iter().sum();
    values.iter_mut().for_each(|v| *v /= total);
}

/// A training example.
pub struct Example<'a> {
    /// Where the tokens are.
    pub tokens: &'a Tokens,
    /// Which frame of these.
    pub frame: usize,
    /// Index of the labels.
    pub labels: usize,
    /// Whether the tokens are of the mirrored picture.
    pub mirrored: bool,
}

/// Targets of one frame.
pub struct Target {
    /// [`cell_shares`], half a byte a value would do; kept in bytes (255 = all).
    pub cells: Vec<u8>,
    /// [`patch_classes`].
    pub patches: Vec<Option<usize>>,
}

impl Target {
    /// From the labels.
    pub fn of(labels: &Raster, grid: Grid, classes: usize) -> Self {
        let cells = cell_shares(labels, grid, classes).iter().map(|s| (s * 255.0).round() as u8).collect();
        Self { cells, patches: patch_classes(labels, grid, classes) }
    }
}

/// Trains; `classes` names the outputs.
pub fn train(
    mut examples: Vec<Example<'_>>,
    targets: &[Target],
    classes: &[String],
    standard: &Standard,
    epochs: usize,
    progress: &ProgressBar,
) -> anyhow::Result<HeadFile> {
    let n = classes.len();
    let Some(first) = examples.first() else { anyhow::bail!("there is nothing to train on") };
    let (grid, inputs) = (first.tokens.grid, first.tokens.inputs);
    let up = Upsample::new(grid);
    let (width, height) = (up.width(), up.height());
    let mut weight = Matrix::zeros(inputs, n);
    let mut bias = vec![0.0f32; n];
    let (mut adam_w, mut adam_b) = (Adam::new(inputs * n), Adam::new(n));
    let mut random = Random(7);
    let mut cells = Vec::new();
    for epoch in 0..epochs {
        random.shuffle(&mut examples);
        let rate = RATE * (1.0 - epoch as f32 / epochs as f32);
        for step in examples.chunks(FRAMES_A_STEP) {
            let mut gradient_w = Matrix::zeros(inputs, n);
            let mut gradient_b = vec![0.0f32; n];
            for example in step {
                let x = example.tokens.standardised(example.frame, standard);
                let target = &targets[example.labels];
                let mut logits = Matrix::zeros(grid.len(), n);
                multiply(&x, As::Is, &weight, As::Is, 0.0, &mut logits);
                logits
                    .data
                    .chunks_exact_mut(n)
                    .for_each(|l| l.iter_mut().zip(&bias).for_each(|(l, b)| *l += b));
                up.apply(&logits.data, n, &mut cells);
                // Gradient of the cross entropy: softmax less target. Half of the loss is the mean over cells ...
                let mut g = Matrix::zeros(grid.len(), n);
                let share = 0.5 / (width * height) as f32 / step.len() as f32;
                for row in 0..height {
                    for col in 0..width {
                        let cell = &mut cells[(row * width + col) * n..][..n];
                        softmax(cell);
                        let from = if example.mirrored { width - 1 - col } else { col };
                        let truth = &target.cells[(row * width + from) * n..][..n];
                        let known = truth.iter().map(|t| f32::from(*t)).sum::<f32>() / 255.0;
                        cell.iter_mut().zip(truth).for_each(|(p, t)| *p = *p * known - f32::from(*t) / 255.0);
                        for (patch, w) in up.weights(row, col) {
                            let out = &mut g.data[patch * n..(patch + 1) * n];
                            out.iter_mut().zip(&*cell).for_each(|(o, d)| *o += share * w * d);
                        }
                    }
                }
                // ... and half the mean over patches.
                let share = 0.5 / grid.len() as f32 / step.len() as f32;
                for (patch, l) in logits.data.chunks_exact_mut(n).enumerate() {
                    let (r, c) = (patch / grid.cols, patch % grid.cols);
                    let from = if example.mirrored { r * grid.cols + grid.cols - 1 - c } else { patch };
                    let Some(truth) = target.patches[from] else { continue };
                    softmax(l);
                    l[truth] -= 1.0;
                    g.data[patch * n..(patch + 1) * n].iter_mut().zip(&*l).for_each(|(o, d)| *o += share * d);
                }
                multiply(&x, As::Transposed, &g, As::Is, 1.0, &mut gradient_w);
                for row in g.data.chunks_exact(n) {
                    gradient_b.iter_mut().zip(row).for_each(|(b, d)| *b += d);
                }
            }
            gradient_w.data.iter_mut().zip(&weight.data).for_each(|(g, w)| *g += 1e-5 * w);
            adam_w.step(&mut weight.data, &gradient_w.data, rate, 0.0);
            adam_b.step(&mut bias, &gradient_b, rate, 0.0);
            progress.inc(step.len() as u64);
        }
    }
    Ok(finish("segment", &weight, &bias, standard, HeadTail::Logits, classes.to_vec()))
}

/// Turns a map of standardised inputs (`inputs * outputs`) into a head over raw tokens.
pub fn finish(
    name: &str,
    weight: &Matrix,
    bias: &[f32],
    standard: &Standard,
    tail: HeadTail,
    classes: Vec<String>,
) -> HeadFile {
    let rows: Vec<f32> = (0..weight.cols)
        .flat_map(|o| (0..weight.rows).map(move |i| weight.data[i * weight.cols + o]))
        .collect();
    let (weight, bias) = fold(&rows, bias, &standard.mean, &standard.sigma);
    HeadFile { graph: GraphHead { name: name.to_owned(), weight, bias, layers: vec![], tail }, classes }
}
