//! What a head reaches on frames it was not trained on, by the project's own host code.

use super::dataset::{Labels, Tokens};
use super::matrix::{As, Matrix, multiply};
use super::segment::patch_classes;
use super::surface::{CLASSES, Lesson};
use crate::heads::file::HeadFile;
use crate::heads::surface::OUTPUTS;
use crate::heads::upsample::Upsample;
use crate::model::graph::HeadTail;

/// A head's outputs on one frame: logits, or the mean of the bins.
pub fn outputs(head: &HeadFile, tokens: &Tokens, frame: usize) -> Matrix {
    let n = head.graph.bias.len();
    let patches = tokens.grid.len();
    let data = (0..patches).flat_map(|p| tokens.row(frame, p).iter().map(|v| v.to_f32())).collect();
    let x = Matrix { rows: patches, cols: tokens.inputs, data };
    let weight = Matrix { rows: n, cols: tokens.inputs, data: head.graph.weight.clone() };
    let mut out = Matrix::zeros(patches, n);
    multiply(&x, As::Is, &weight, As::Transposed, 0.0, &mut out);
    out.data.chunks_exact_mut(n).for_each(|l| l.iter_mut().zip(&head.graph.bias).for_each(|(l, b)| *l += b));
    let HeadTail::BinMoments { values } = &head.graph.tail else { return out };
    let mean = |l: &[f32]| {
        let top = l.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let p: Vec<f32> = l.iter().map(|v| (v - top).exp()).collect();
        p.iter().zip(values).map(|(p, v)| p * v).sum::<f32>() / p.iter().sum::<f32>()
    };
    Matrix { rows: patches, cols: 1, data: out.data.chunks_exact(n).map(mean).collect() }
}

/// The class whose logit is largest.
pub fn best(l: &[f32]) -> usize {
    (0..l.len()).max_by(|a, b| l[*a].total_cmp(&l[*b])).unwrap_or(0)
}

/// Segmentation: accuracy and IoU by patch (argmax of the patch's own logits against its most frequent class), and IoU
/// by pixel (argmax after upsampling).
pub fn segment(head: &HeadFile, tokens: &Tokens, labels: &[Labels]) -> Vec<(String, String)> {
    let n = head.classes.len();
    let grid = tokens.grid;
    let up = Upsample::new(grid);
    let (mut right, mut all) = (0usize, 0usize);
    let mut patch = vec![(0usize, 0usize); n];
    let mut pixel = vec![(0usize, 0usize); n];
    let mut cells = Vec::new();
    for (frame, labels) in labels.iter().map(|labels| &labels.raster).enumerate() {
        let logits = outputs(head, tokens, frame);
        for (l, truth) in logits.data.chunks_exact(n).zip(patch_classes(labels, grid, n)) {
            let Some(truth) = truth else { continue };
            let got = best(l);
            right += usize::from(got == truth);
            all += 1;
            count(&mut patch, got, truth);
        }
        up.apply(&logits.data, n, &mut cells);
        let classes: Vec<usize> = cells.chunks_exact(n).map(best).collect();
        for y in 0..labels.height {
            let row = y * up.height() / labels.height;
            for x in 0..labels.width {
                let col = x * up.width() / labels.width;
                count(
                    &mut pixel,
                    classes[row * up.width() + col],
                    usize::from(labels.class[y * labels.width + x]),
                );
            }
        }
    }
    let iou = |c: &(usize, usize)| c.0 as f64 / c.1.max(1) as f64;
    let list = |counts: &[(usize, usize)]| {
        let each = head.classes.iter().zip(counts).map(|(name, c)| format!("{name} {:.3}", iou(c)));
        each.collect::<Vec<_>>().join(", ")
    };
    let mean = pixel.iter().map(iou).sum::<f64>() / n.max(1) as f64;
    vec![
        ("patch_accuracy".to_owned(), format!("{:.3}", right as f64 / all.max(1) as f64)),
        ("patch_iou".to_owned(), list(&patch)),
        ("pixel_iou".to_owned(), list(&pixel)),
        ("pixel_mean_iou".to_owned(), format!("{mean:.3}")),
    ]
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

/// Depth by patch, mean over frames: AbsRel and delta-1 as it comes, and after the frame's best scale and shift (least
/// squares of the relative error).
pub fn depth(head: &HeadFile, tokens: &Tokens, labels: &[Labels]) -> Vec<(String, String)> {
    let mut sums = [0.0; 4];
    let mut frames = 0.0;
    for (frame, labels) in labels.iter().enumerate() {
        let truth = super::depth::Target::of(&labels.raster, tokens.grid, &[]);
        let got = outputs(head, tokens, frame);
        let pairs: Vec<(f64, f64)> = got
            .data
            .iter()
            .zip(&truth.log_depth)
            .filter(|(_, t)| t.is_finite())
            .map(|(g, t)| (f64::from(g.exp()), f64::from(t.exp())))
            .collect();
        if pairs.len() < 2 {
            continue;
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
            sums[2 * k] += pairs.iter().map(|(g, t)| (fit(*g) - t).abs() / t).sum::<f64>() / n;
            let close = |g: f64, t: f64| fit(g) > 0.0 && (fit(g) / t).max(t / fit(g)) < 1.25;
            sums[2 * k + 1] += pairs.iter().filter(|(g, t)| close(*g, *t)).count() as f64 / n;
        }
        frames += 1.0;
    }
    ["abs_rel", "delta_1", "abs_rel_aligned", "delta_1_aligned"]
        .iter()
        .zip(sums)
        .map(|(name, sum)| ((*name).to_owned(), format!("{:.3}", sum / f64::max(frames, 1.0))))
        .collect()
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
