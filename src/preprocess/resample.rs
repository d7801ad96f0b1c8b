//! Separable antialiased bicubic resampling of 8-bit planes, by tables computed once a geometry.

use super::PlaneRows;

/// Keys' cubic with this parameter is Pillow's and OpenCV's-with-antialias `BICUBIC`.
const CUBIC_A: f64 = -0.5;
/// Half the width of the cubic, in samples.
const CUBIC_SUPPORT: f64 = 2.0;
/// Weights of a row are padded to a multiple of this, so that the inner loop has no remainder.
const LANES: usize = 4;

/// The filter of one axis: each output sample is a weighted sum of neighbouring input samples.
#[derive(Debug)]
pub struct Axis {
    /// First input sample of each output sample.
    starts: Vec<usize>,
    /// Number of weights of each output sample.
    lens: Vec<usize>,
    /// `stride` weights an output sample; zero beyond its own `lens`.
    weights: Vec<f32>,
    /// Weights kept for an output sample, a multiple of `LANES`.
    stride: usize,
}

impl Axis {
    /// From `source` to `target` samples, edge on edge.
    pub(super) fn luma(source: usize, target: usize) -> Self {
        let scale = source as f64 / target as f64;
        Self::new(source, target, scale, 0.0)
    }

    /// From the chroma samples that belong to `source` luma samples. The centre of chroma sample `j` lies at
    /// luma position `2j + 0.5` when co-sited, else `2j + 1`, counted from the picture's edge: in chroma samples
    /// a luma position `p` is `p / 2`, plus a quarter when co-sited.
    pub(super) fn chroma(source: usize, target: usize, cosited: bool) -> Self {
        let scale = source as f64 / target as f64 / 2.0;
        Self::new(source.div_ceil(2), target, scale, if cosited { 0.25 } else { 0.0 })
    }

    /// The filter's support grows with the reduction (Pillow's convention), so that nothing aliases.
    fn new(samples: usize, target: usize, scale: f64, shift: f64) -> Self {
        let widening = scale.max(1.0);
        let support = CUBIC_SUPPORT * widening;
        let mut rows = Vec::with_capacity(target);
        for out in 0..target {
            let center = (out as f64 + 0.5) * scale + shift;
            let start = ((center - support + 0.5).floor().max(0.0) as usize).min(samples - 1);
            let end = ((center + support + 0.5).floor() as usize).clamp(start + 1, samples);
            let weights: Vec<f64> =
                (start..end).map(|sample| cubic((sample as f64 + 0.5 - center) / widening)).collect();
            let sum: f64 = weights.iter().sum();
            rows.push((start, weights.into_iter().map(|w| (w / sum) as f32).collect::<Vec<f32>>()));
        }
        let longest = rows.iter().map(|(_, weights)| weights.len()).max().unwrap_or(1);
        let stride = longest.next_multiple_of(LANES);
        let mut axis = Self {
            starts: Vec::with_capacity(target),
            lens: Vec::with_capacity(target),
            weights: vec![0.0; target * stride],
            stride,
        };
        for (padded, (start, weights)) in axis.weights.chunks_exact_mut(stride).zip(&rows) {
            axis.starts.push(*start);
            axis.lens.push(weights.len());
            padded[..weights.len()].copy_from_slice(weights);
        }
        axis
    }

    fn len(&self) -> usize {
        self.starts.len()
    }

    /// One an output sample: the first input sample that it takes, and the weights of that one and the next ones.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = (usize, &[f32])> {
        let weights = self.weights.chunks_exact(self.stride);
        self.starts.iter().zip(&self.lens).zip(weights).map(|((start, len), row)| (*start, &row[..*len]))
    }
}

fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((CUBIC_A + 2.0) * x - (CUBIC_A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * CUBIC_A
    } else {
        0.0
    }
}

/// Buffers kept from frame to frame.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) y: Vec<f32>,
    pub(super) u: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) rows: Rows,
}

/// One vertically filtered row, and its two halves when it is interleaved.
#[derive(Debug, Default)]
pub(super) struct Rows {
    filtered: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// Resamples a plane of one byte a sample into `out`, row-major. Vertical first: that pass runs over whole
/// rows, and most of the work of a reduction is in it.
pub(super) fn plane(plane: PlaneRows<'_>, [across, down]: &[Axis; 2], out: &mut Vec<f32>, rows: &mut Rows) {
    out.resize(across.len() * down.len(), 0.0);
    let filtered = sized(&mut rows.filtered, plane.row_bytes, across.stride);
    for (row, out) in out.chunks_exact_mut(across.len()).enumerate() {
        filter_rows(plane, down, row, filtered);
        filter_row(filtered, across, out);
    }
}

/// The same for a plane of two interleaved samples, each into its own output.
pub(super) fn interleaved_plane(
    plane: PlaneRows<'_>,
    [across, down]: &[Axis; 2],
    out: [&mut Vec<f32>; 2],
    rows: &mut Rows,
) {
    let [out_first, out_second] = out;
    out_first.resize(across.len() * down.len(), 0.0);
    out_second.resize(across.len() * down.len(), 0.0);
    let samples = plane.row_bytes / 2;
    let filtered = sized(&mut rows.filtered, plane.row_bytes, 0);
    let first = sized(&mut rows.first, samples, across.stride);
    let second = sized(&mut rows.second, samples, across.stride);
    let outs = out_first.chunks_exact_mut(across.len()).zip(out_second.chunks_exact_mut(across.len()));
    for (row, (out_first, out_second)) in outs.enumerate() {
        filter_rows(plane, down, row, filtered);
        for ((pair, first), second) in filtered.chunks_exact(2).zip(&mut *first).zip(&mut *second) {
            *first = pair[0];
            *second = pair[1];
        }
        filter_row(first, across, out_first);
        filter_row(second, across, out_second);
    }
}

/// A row buffer of `samples` values and `margin` zeros behind them, where padded weights may reach.
fn sized(buffer: &mut Vec<f32>, samples: usize, margin: usize) -> &mut [f32] {
    buffer.clear();
    buffer.resize(samples + margin, 0.0);
    buffer
}

/// One output row of the vertical pass, for all input columns. Four input rows at a time, so that the sums
/// pass through memory once for four.
fn filter_rows(plane: PlaneRows<'_>, down: &Axis, row: usize, filtered: &mut [f32]) {
    let sums = &mut filtered[..plane.row_bytes];
    let (start, len) = (down.starts[row], down.lens[row]);
    let weights = &down.weights[row * down.stride..][..len.next_multiple_of(LANES)];
    for (group, w) in weights.chunks_exact(LANES).enumerate() {
        // The padded weights are zero: which row they meet does not matter, only that it exists.
        let source = |i: usize| plane.row(start + (group * LANES + i).min(len - 1));
        let (a, b, c, d) = (source(0), source(1), source(2), source(3));
        let samples = a.iter().zip(b).zip(c).zip(d);
        let weighted = samples.map(|(((a, b), c), d)| {
            (w[0] * f32::from(*a) + w[1] * f32::from(*b)) + (w[2] * f32::from(*c) + w[3] * f32::from(*d))
        });
        if group == 0 {
            sums.iter_mut().zip(weighted).for_each(|(sum, value)| *sum = value);
        } else {
            sums.iter_mut().zip(weighted).for_each(|(sum, value)| *sum += value);
        }
    }
}

/// The horizontal pass over one row.
fn filter_row(row: &[f32], across: &Axis, out: &mut [f32]) {
    let weights = across.weights.chunks_exact(across.stride);
    for ((out, start), weights) in out.iter_mut().zip(&across.starts).zip(weights) {
        let mut sums = [0.0f32; LANES];
        let samples = &row[*start..][..across.stride];
        for (w, s) in weights.chunks_exact(LANES).zip(samples.chunks_exact(LANES)) {
            for lane in 0..LANES {
                sums[lane] += w[lane] * s[lane];
            }
        }
        *out = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
}
