//! What a head reaches on frames it was not trained on, by the project's own host code.

use super::dataset::{Labels, Raster, Tokens};
use super::decoder::gather;
use super::matrix::{As, Matrix, multiply};
use super::network::gelu;
use super::segment::patch_classes;
use super::surface::{CLASSES, Lesson, OUTPUTS};
use crate::heads::file::HeadFile;
use crate::heads::upsample::{CELLS_PER_PATCH, Upsample};
use crate::model::graph::HeadTail;
use crate::types::Grid;

/// A head's outputs on one frame: logits, or the mean of the bins.
pub fn outputs(head: &HeadFile, tokens: &Tokens, frame: usize) -> Matrix {
    let patches = tokens.grid.len();
    let data = (0..patches).flat_map(|p| tokens.row(frame, p).iter().map(|v| v.to_f32())).collect();
    let x = Matrix { rows: patches, cols: tokens.inputs, data };
    let mut out = map(&x, &head.graph.weight, &head.graph.bias);
    for (i, layer) in head.graph.layers.iter().enumerate() {
        if i > 0 {
            out.data.iter_mut().for_each(|v| *v = gelu(*v).0);
        }
        if layer.neighbours {
            let mut near = Matrix::zeros(patches, 9 * out.cols);
            for (patch, to) in near.data.chunks_exact_mut(9 * out.cols).enumerate() {
                gather(&out.data, out.cols, tokens.grid, patch, to);
            }
            out = near;
        }
        out = map(&out, &layer.weight, &layer.bias);
    }
    let n = out.cols;
    let HeadTail::BinMoments { values } = &head.graph.tail else { return out };
    let mean = |l: &[f32]| {
        let top = l.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let p: Vec<f32> = l.iter().map(|v| (v - top).exp()).collect();
        p.iter().zip(values).map(|(p, v)| p * v).sum::<f32>() / p.iter().sum::<f32>()
    };
    Matrix { rows: patches, cols: 1, data: out.data.chunks_exact(n).map(mean).collect() }
}

/// A linear map of every row; `weight` has a row an output.
fn map(x: &Matrix, weight: &[f32], bias: &[f32]) -> Matrix {
    let n = bias.len();
    let weight = Matrix { rows: n, cols: x.cols, data: weight.to_vec() };
    let mut out = Matrix::zeros(x.rows, n);
    multiply(x, As::Is, &weight, As::Transposed, 0.0, &mut out);
    out.data.chunks_exact_mut(n).for_each(|l| l.iter_mut().zip(bias).for_each(|(l, b)| *l += b));
    out
}

/// The class whose logit is largest.
pub fn best(l: &[f32]) -> usize {
    (0..l.len()).max_by(|a, b| l[*a].total_cmp(&l[*b])).unwrap_or(0)
}

/// Segmentation: accuracy and IoU by patch (argmax of the patch's own logits against its most frequent class), and IoU
/// by pixel (argmax after upsampling).
pub fn segment(head: &HeadFile, tokens: &Tokens, labels: &[Labels]) -> Vec<(String, String)> {
    let n = head.classes.len();
    let up = Upsample::new(tokens.grid);
    let mut counts = Segments::new(n);
    let mut cells = Vec::new();
    for (frame, labels) in labels.iter().map(|labels| &labels.raster).enumerate() {
        let logits = outputs(head, tokens, frame);
        let patches: Vec<usize> = logits.data.chunks_exact(n).map(best).collect();
        up.apply(&logits.data, n, &mut cells);
        let classes: Vec<usize> = cells.chunks_exact(n).map(best).collect();
        counts.add(labels, tokens.grid, &patches, &classes);
    }
    counts.lines(&head.classes)
}

/// Counts of patches and pixels: those that are right, and those that are or are said to be of a class.
pub struct Segments {
    right: usize,
    all: usize,
    patch: Vec<(usize, usize)>,
    pixel: Vec<(usize, usize)>,
}

impl Segments {
    /// Of so many classes.
    pub fn new(classes: usize) -> Self {
        Self { right: 0, all: 0, patch: vec![(0, 0); classes], pixel: vec![(0, 0); classes] }
    }

    /// A frame: the class of each patch and of each cell, row by row.
    pub fn add(&mut self, labels: &Raster, grid: Grid, patches: &[usize], cells: &[usize]) {
        for (got, truth) in patches.iter().zip(patch_classes(labels, grid, self.patch.len())) {
            let Some(truth) = truth else { continue };
            self.right += usize::from(*got == truth);
            self.all += 1;
            count(&mut self.patch, *got, truth);
        }
        let (width, height) = (grid.cols * CELLS_PER_PATCH, grid.rows * CELLS_PER_PATCH);
        for y in 0..labels.height {
            let row = y * height / labels.height;
            for x in 0..labels.width {
                let got = cells[row * width + x * width / labels.width];
                count(&mut self.pixel, got, usize::from(labels.class[y * labels.width + x]));
            }
        }
    }

    /// What is printed.
    pub fn lines(&self, classes: &[String]) -> Vec<(String, String)> {
        let iou = |c: &(usize, usize)| c.0 as f64 / c.1.max(1) as f64;
        let list = |counts: &[(usize, usize)]| {
            let each = classes.iter().zip(counts).map(|(name, c)| format!("{name} {:.3}", iou(c)));
            each.collect::<Vec<_>>().join(", ")
        };
        let mean = self.pixel.iter().map(iou).sum::<f64>() / self.pixel.len().max(1) as f64;
        vec![
            ("patch_accuracy".to_owned(), format!("{:.3}", self.right as f64 / self.all.max(1) as f64)),
            ("patch_iou".to_owned(), list(&self.patch)),
            ("pixel_iou".to_owned(), list(&self.pixel)),
            ("pixel_mean_iou".to_owned(), format!("{mean:.3}")),
        ]
    }
}

fn count(counts: &mut [(usize, usize)], got: usize, truth: usize) {
    if got == truth {
        if let Some(c) = counts.get_mut(got) {
            c.0 += 1;
            c.1 += 1;
        }
        return;
    }
    for class in [got, truth] {
        if let Some(c) = counts.get_mut(class) {
            c.1 += 1;
        }
    }
}

/// Depth of every frame (see [`Depths`]).
pub fn depth(head: &HeadFile, tokens: &Tokens, labels: &[Labels]) -> Vec<(String, String)> {
    let mut depths = Depths::default();
    for (frame, labels) in labels.iter().enumerate() {
        let truth = super::depth::Target::of(&labels.raster, tokens.grid, &[]);
        depths.add(&outputs(head, tokens, frame).data, &truth.log_depth);
    }
    depths.lines()
}

/// Depth by patch, mean over frames: AbsRel and delta-1 as it comes, and after the frame's best scale and shift (least
/// squares of the relative error).
#[derive(Debug, Default)]
pub struct Depths {
    sums: [f64; 4],
    frames: f64,
}

impl Depths {
    /// A frame: logarithms of metres, the truth with NaN where there is none.
    pub fn add(&mut self, got: &[f32], truth: &[f32]) {
        let pairs: Vec<(f64, f64)> = got
            .iter()
            .zip(truth)
            .filter(|(_, t)| t.is_finite())
            .map(|(g, t)| (f64::from(g.exp()), f64::from(t.exp())))
            .collect();
        if pairs.len() < 2 {
            return;
        }
        let (mut a, mut b, mut c, mut p, mut q) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (g, t) in &pairs {
            let w = 1.0 / (t * t);
            a += w * g * g;
            b += w * g;
            c += w;
            p += w * g * t;
            q += w * t;
        }
        let d = a * c - b * b;
        let (scale, shift) = ((p * c - b * q) / d, (a * q - b * p) / d);
        let n = pairs.len() as f64;
        for (k, (scale, shift)) in [(1.0, 0.0), (scale, shift)].into_iter().enumerate() {
            let fit = |g: f64| scale * g + shift;
            self.sums[2 * k] += pairs.iter().map(|(g, t)| (fit(*g) - t).abs() / t).sum::<f64>() / n;
            let close = |g: f64, t: f64| fit(g) > 0.0 && (fit(g) / t).max(t / fit(g)) < 1.25;
            self.sums[2 * k + 1] += pairs.iter().filter(|(g, t)| close(*g, *t)).count() as f64 / n;
        }
        self.frames += 1.0;
    }

    /// What is printed.
    pub fn lines(&self) -> Vec<(String, String)> {
        ["abs_rel", "delta_1", "abs_rel_aligned", "delta_1_aligned"]
            .iter()
            .zip(self.sums)
            .map(|(name, sum)| ((*name).to_owned(), format!("{:.3}", sum / self.frames.max(1.0))))
            .collect()
    }
}

/// Surface: root mean square error of each output on the patches of things.
pub fn surface(head: &HeadFile, tokens: &Tokens, lessons: &[Vec<Lesson>]) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (class, (name, _)) in CLASSES.iter().enumerate() {
        let (mut square, mut count) = ([0.0f64; OUTPUTS], 0.0);
        for (frame, lessons) in lessons.iter().enumerate() {
            if !lessons.iter().any(|l| l.class == class) {
                continue;
            }
            let got = outputs(head, tokens, frame);
            for lesson in lessons.iter().filter(|l| l.class == class) {
                let row = &got.row(lesson.patch)[class * OUTPUTS..(class + 1) * OUTPUTS];
                for (s, (g, t)) in square.iter_mut().zip(row.iter().zip(&lesson.values)) {
                    *s += f64::from(g - t).powi(2);
                }
                count += 1.0;
            }
        }
        let words = ["height", "behind", "aside", "ahead", "heading"];
        let each =
            words.iter().zip(square).map(|(w, s)| format!("{w} {:.2}", (s / f64::max(count, 1.0)).sqrt()));
        out.push((format!("rmse_{name}"), each.collect::<Vec<_>>().join(", ")));
    }
    out
}
