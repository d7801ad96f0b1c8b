//! The decoder's first map: standardised tokens turned onto their leading directions, each scaled by the fourth root of
//! its variance, so that weak directions are lifted without becoming noise.

use half::f16;

use super::dataset::Tokens;
use super::matrix::{As, Matrix, Random, multiply};
use crate::heads::file::fold;

/// Values a patch that are kept. On `dock/train` they hold nearly all of the variance.
pub const KEPT: usize = 192;
/// Directions that are followed beside those kept, so that the last of these settle too.
const SPARE: usize = 32;
/// Turns of the subspace iteration.
const TURNS: usize = 30;
const ROWS_A_CHUNK: usize = 1024;
/// Added to every standard deviation: tokens have channels that hardly move.
const LEAST_SIGMA: f64 = 1e-3;

/// The map, in the weights that its file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// `KEPT * inputs`, over raw tokens, representable in half precision.
    pub weight: Vec<f32>,
    /// One a value.
    pub bias: Vec<f32>,
    inputs: usize,
}

impl Projection {
    /// Fits to these patches (frame and patch).
    pub fn fit(tokens: &Tokens, rows: &[(usize, usize)]) -> Self {
        let n = tokens.inputs;
        let (mut sum, mut square) = (vec![0.0f64; n], vec![0.0f64; n]);
        for (frame, patch) in rows {
            for ((s, q), x) in sum.iter_mut().zip(&mut square).zip(tokens.row(*frame, *patch)) {
                let x = f64::from(x.to_f32());
                *s += x;
                *q += x * x;
            }
        }
        let count = rows.len().max(1) as f64;
        let mean: Vec<f32> = sum.iter().map(|s| (s / count) as f32).collect();
        let deviation = |(s, q): (&f64, &f64)| (q / count - (s / count).powi(2)).max(0.0).sqrt();
        let sigma: Vec<f32> =
            sum.iter().zip(&square).map(|pair| (deviation(pair) + LEAST_SIGMA) as f32).collect();
        let mut covariance = Matrix::zeros(n, n);
        for chunk in rows.chunks(ROWS_A_CHUNK) {
            let mut x = Matrix::zeros(chunk.len(), n);
            for (out, (frame, patch)) in x.data.chunks_exact_mut(n).zip(chunk) {
                let row = tokens.row(*frame, *patch);
                for (((o, x), m), s) in out.iter_mut().zip(row).zip(&mean).zip(&sigma) {
                    *o = (x.to_f32() - m) / s;
                }
            }
            multiply(&x, As::Transposed, &x, As::Is, 1.0, &mut covariance);
        }
        covariance.data.iter_mut().for_each(|c| *c /= count as f32);
        let (mut directions, variances) = leading(&covariance, KEPT.min(n));
        for (row, variance) in directions.data.chunks_exact_mut(n).zip(&variances) {
            let scale = variance.max(1e-6).powf(-0.25);
            row.iter_mut().for_each(|v| *v *= scale);
        }
        let (weight, bias) = fold(&directions.data, &vec![0.0; directions.rows], &mean, &sigma);
        Self { weight, bias, inputs: n }
    }

    /// Values a patch.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// A frame's tokens (`patches * inputs`) as the network sees them: `patches * outputs`.
    pub fn apply(&self, tokens: &[f16]) -> Vec<f32> {
        let rows = tokens.len() / self.inputs;
        let x = Matrix { rows, cols: self.inputs, data: tokens.iter().map(|v| v.to_f32()).collect() };
        let weight = Matrix { rows: self.outputs(), cols: self.inputs, data: self.weight.clone() };
        let mut out = Matrix::zeros(rows, self.outputs());
        multiply(&x, As::Is, &weight, As::Transposed, 0.0, &mut out);
        for row in out.data.chunks_exact_mut(self.outputs()) {
            row.iter_mut().zip(&self.bias).for_each(|(v, b)| *v += b);
        }
        out.data
    }
}

/// The leading directions of a symmetric matrix, one a row, and the variance along each: subspace iteration (Golub and
/// Van Loan, 8.2.4) from a fixed start.
fn leading(covariance: &Matrix, count: usize) -> (Matrix, Vec<f32>) {
    let n = covariance.cols;
    let mut random = Random(17);
    let mut rows = Matrix::zeros((count + SPARE).min(n), n);
    rows.data.iter_mut().for_each(|v| *v = random.unit() as f32 - 0.5);
    orthonormalise(&mut rows);
    let mut turned = Matrix::zeros(rows.rows, n);
    for _ in 0..TURNS {
        multiply(&rows, As::Is, covariance, As::Is, 0.0, &mut turned);
        std::mem::swap(&mut rows, &mut turned);
        orthonormalise(&mut rows);
    }
    multiply(&rows, As::Is, covariance, As::Is, 0.0, &mut turned);
    let variances = (0..count).map(|i| dot(rows.row(i), turned.row(i))).collect();
    rows.data.truncate(count * n);
    rows.rows = count;
    (rows, variances)
}

/// Gram and Schmidt, each row against those above it, twice, since once loses digits.
fn orthonormalise(m: &mut Matrix) {
    let n = m.cols;
    for i in 0..m.rows {
        let (above, rest) = m.data.split_at_mut(i * n);
        let row = &mut rest[..n];
        for _ in 0..2 {
            for other in above.chunks_exact(n) {
                let along = dot(row, other);
                row.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
        }
        let length = dot(row, row).sqrt().max(1e-20);
        row.iter_mut().for_each(|v| *v /= length);
    }
}

/// In sixteen lanes, which the compiler turns into wide instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        lanes.iter_mut().zip(a).zip(b).for_each(|((lane, a), b)| *lane += a * b);
    }
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Grid;

    #[test]
    fn leading_directions_of_a_known_matrix() {
        // Variances 9, 4, 1 and 0.25 along directions that are turned by 30 degrees in two planes.
        let (c, s) = (0.75f32.sqrt(), 0.5f32);
        let axes = [[c, s, 0.0, 0.0], [-s, c, 0.0, 0.0], [0.0, 0.0, c, s], [0.0, 0.0, -s, c]];
        let mut m = Matrix::zeros(4, 4);
        for (axis, variance) in axes.iter().zip([9.0f32, 1.0, 4.0, 0.25]) {
            for i in 0..16 {
                m.data[i] += variance * axis[i / 4] * axis[i % 4];
            }
        }
        let (directions, variances) = leading(&m, 2);
        assert!((variances[0] - 9.0).abs() < 1e-4 && (variances[1] - 4.0).abs() < 1e-4, "{variances:?}");
        assert!((dot(directions.row(0), &axes[0]).abs() - 1.0).abs() < 1e-4);
        assert!((dot(directions.row(1), &axes[2]).abs() - 1.0).abs() < 1e-4);
    }

    #[test]
    fn what_is_folded_centres_and_scales() {
        // Four inputs, one of them as large as the few that tokens have; variances after standardisation are near 1.
        let mut random = Random(4);
        let frames: Vec<Vec<f16>> = (0..8)
            .map(|_| {
                let mut of =
                    |i: usize| [300.0, 0.2, -1.0, 5.0][i % 4] + [20.0, 0.05, 1.0, 2.0][i % 4] * random.unit();
                (0..4 * 25).map(|i| f16::from_f64(of(i))).collect()
            })
            .collect();
        let grid = Grid { rows: 5, cols: 5, patch_px: 14 };
        let tokens = Tokens::new(grid, 4, frames.clone());
        let rows: Vec<(usize, usize)> = (0..200).map(|i| (i / 25, i % 25)).collect();
        let projection = Projection::fit(&tokens, &rows);
        assert!(projection.weight.iter().all(|w| f16::from_f32(*w).to_f32() == *w));
        let values: Vec<f32> = frames.iter().flat_map(|f| projection.apply(f)).collect();
        for k in 0..4 {
            let of: Vec<f32> = values.iter().skip(k).step_by(4).copied().collect();
            let mean = of.iter().sum::<f32>() / 200.0;
            let variance = of.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 200.0;
            assert!(mean.abs() < 0.05, "{k}: mean {mean}");
            // A direction's variance becomes its root: all are near one here.
            assert!((variance - 1.0).abs() < 0.35, "{k}: variance {variance}");
        }
    }
}
