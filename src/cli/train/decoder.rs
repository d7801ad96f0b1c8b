//! Trains the decoder: one network over each patch and its eight neighbours, on frames, mirrored frames and zoomed crops
//! about things. Two cores, a quarter of an hour beside the backbone.

use half::f16;
use indicatif::ProgressBar;

use super::lesson::Target;
use super::loss::{Losses, Row, class_weights, gradient};
use super::matrix::{Matrix, Random};
use super::network::{Dropout, Network, Steps};
use super::projection::Projection;
use crate::heads::HeadFile;
use crate::heads::decoder::{CELLS, CHANNELS, NAME};
use crate::model::graph::{GraphHead, HeadLayer, HeadTail};
use crate::types::Grid;

/// Rows of a step that are patches of things; as many more are drawn from all patches.
const THING_ROWS: usize = 512;
/// Widths of the layers between the projection and the outputs.
const WIDTHS: [usize; 2] = [512, 256];
/// Largest rate, reached after a tenth of the steps.
const RATE: f64 = 1e-3;
const RISE: f64 = 0.1;
/// The rate begins at one of so many, and ends at next to nothing.
const START: f64 = 25.0;
const DECAY: f32 = 0.1;
const DROPOUT: f32 = 0.3;

/// One view with what it teaches.
pub struct Sample {
    /// What [`Projection::apply`] gave.
    pub values: Vec<f32>,
    /// What it teaches.
    pub target: Target,
}

/// Trains on `samples`.
pub fn train(
    samples: &[Sample],
    grid: Grid,
    projection: &Projection,
    classes: &[String],
    epochs: usize,
    progress: &ProgressBar,
) -> anyhow::Result<HeadFile> {
    let mut things: Vec<(usize, usize)> = Vec::new();
    for (i, sample) in samples.iter().enumerate() {
        things.extend((0..sample.target.lessons.len()).map(|k| (i, k)));
    }
    let steps = steps(samples);
    anyhow::ensure!(steps > 0, "there are {} patches of things: a step takes {THING_ROWS}", things.len());
    let weights = class_weights(classes);
    let inputs = projection.outputs();
    let mut random = Random(23);
    let mut network = Network::new(&[9 * inputs, WIDTHS[0], WIDTHS[1], CHANNELS], &mut random);
    let mut adam = Steps::new(&network, DECAY);
    for epoch in 0..epochs {
        random.shuffle(&mut things);
        let mut sum = Losses::default();
        for (i, chunk) in things.chunks_exact(THING_ROWS).enumerate() {
            let mut rows = Vec::with_capacity(2 * THING_ROWS);
            let mut x = Matrix::zeros(2 * THING_ROWS, 9 * inputs);
            for (k, to) in x.data.chunks_exact_mut(9 * inputs).enumerate() {
                let (sample, lesson) = match chunk.get(k) {
                    Some((sample, lesson)) => (&samples[*sample], Some(*lesson)),
                    None => (&samples[random.below(samples.len())], None),
                };
                let lesson = lesson.map(|l| &sample.target.lessons[l]);
                let patch = lesson.map_or_else(|| random.below(grid.len()), |l| l.patch);
                gather(&sample.values, inputs, grid, patch, to);
                rows.push(Row {
                    cells: &sample.target.cells[patch * CELLS..(patch + 1) * CELLS],
                    log_depth: sample.target.depth.log_depth[patch],
                    depth_weight: sample.target.depth.weight[patch],
                    lesson,
                });
            }
            let dropout = Dropout { share: DROPOUT, random: &mut random };
            let mut pass = network.forward(x, Some(dropout));
            let losses = gradient(&mut pass.output, &rows, &weights);
            let output = std::mem::replace(&mut pass.output, Matrix::zeros(0, 0));
            let gradients = network.backward(&pass, output);
            let done = (epoch * steps + i) as f64 / (epochs * steps) as f64;
            adam.step(&mut network, &gradients, rate(done) as f32);
            sum.things += losses.things / steps as f64;
            sum.cells += losses.cells / steps as f64;
            sum.depth += losses.depth / steps as f64;
            progress.inc(1);
        }
        progress.println(format!(
            "pass {}: {:.3} (things {:.3}, cells {:.4}, depth {:.3})",
            epoch + 1,
            sum.total(),
            sum.things,
            sum.cells,
            sum.depth
        ));
    }
    Ok(file(&network, projection, classes))
}

/// Steps of one pass over the samples.
pub fn steps(samples: &[Sample]) -> usize {
    samples.iter().map(|s| s.target.lessons.len()).sum::<usize>() / THING_ROWS
}

/// One cycle: half a cosine up, half a cosine down (Smith 2018).
fn rate(done: f64) -> f64 {
    let turn = |from: f64, to: f64, share: f64| {
        to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * share).cos())
    };
    if done < RISE {
        turn(RATE / START, RATE, done / RISE)
    } else {
        turn(RATE, 0.0, (done - RISE) / (1.0 - RISE))
    }
}

/// A patch's values with its neighbours', rows from above, each from the left; zeros beyond the picture.
pub fn gather(values: &[f32], inputs: usize, grid: Grid, patch: usize, out: &mut [f32]) {
    let (row, col) = (patch / grid.cols, patch % grid.cols);
    for (k, to) in out.chunks_exact_mut(inputs).enumerate() {
        let (r, c) = ((row + k / 3).wrapping_sub(1), (col + k % 3).wrapping_sub(1));
        if r < grid.rows && c < grid.cols {
            let from = (r * grid.cols + c) * inputs;
            to.copy_from_slice(&values[from..from + inputs]);
        } else {
            to.fill(0.0);
        }
    }
}

/// The network as a head's file holds it: half precision, a row an output.
fn file(network: &Network, projection: &Projection, classes: &[String]) -> HeadFile {
    let layers = network.layers.iter().enumerate().map(|(i, layer)| {
        let (inputs, outputs) = (layer.weight.rows, layer.weight.cols);
        let at = |o: usize, i: usize| f16::from_f32(layer.weight.data[i * outputs + o]).to_f32();
        HeadLayer {
            neighbours: i == 0,
            weight: (0..outputs * inputs).map(|k| at(k / inputs, k % inputs)).collect(),
            bias: layer.bias.clone(),
        }
    });
    let graph = GraphHead {
        name: NAME.to_owned(),
        weight: projection.weight.clone(),
        bias: projection.bias.clone(),
        layers: layers.collect(),
        tail: HeadTail::Logits,
    };
    HeadFile { graph, classes: classes.to_vec() }
}
