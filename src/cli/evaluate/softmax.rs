//! Logistic regression over several classes with a ridge, fitted by L-BFGS. Pure.

use crate::heads::taught::logistic::minimise;
use crate::model::matrix::{As, Matrix, multiply};

/// Steps at most. The loss is convex, so the end does not depend on the way.
const STEPS_MAX: usize = 200;

/// A linear map of standardised inputs to the logits of the classes.
#[derive(Debug, Clone, PartialEq)]
pub struct Softmax {
    /// `inputs * classes`.
    pub weight: Matrix,
    /// One value a class.
    pub bias: Vec<f32>,
}

impl Softmax {
    /// Fits: the mean cross entropy plus half of `ridge` times the squares of the weights (not of the biases).
    pub fn fit(x: &Matrix, targets: &[usize], classes: usize, ridge: f32) -> Self {
        let (inputs, rows) = (x.cols, x.rows.max(1) as f32);
        let parted = |p: &[f32]| -> Self {
            let (weight, bias) = p.split_at(inputs * classes);
            let weight = Matrix { rows: inputs, cols: classes, data: weight.to_vec() };
            Self { weight, bias: bias.to_vec() }
        };
        let loss = |p: &[f32], gradient: &mut [f32]| -> f32 {
            let map = parted(p);
            let mut errors = map.logits(x);
            let mut sum = 0.0f64;
            for (row, target) in errors.data.chunks_exact_mut(classes).zip(targets) {
                let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f32 = row.iter().map(|z| (z - top).exp()).sum();
                sum += f64::from(total.ln() - (row[*target] - top));
                row.iter_mut().for_each(|z| *z = (*z - top).exp() / total / rows);
                row[*target] -= 1.0 / rows;
            }
            let mut by_weight = Matrix::zeros(inputs, classes);
            multiply(x, As::Transposed, &errors, As::Is, 0.0, &mut by_weight);
            let (g_weight, g_bias) = gradient.split_at_mut(inputs * classes);
            for ((g, own), w) in g_weight.iter_mut().zip(&by_weight.data).zip(&map.weight.data) {
                *g = own + ridge * w;
            }
            g_bias.fill(0.0);
            for row in errors.data.chunks_exact(classes) {
                g_bias.iter_mut().zip(row).for_each(|(g, e)| *g += e);
            }
            let squares: f64 = map.weight.data.iter().map(|w| f64::from(*w).powi(2)).sum();
            (sum / f64::from(rows) + 0.5 * f64::from(ridge) * squares) as f32
        };
        parted(&minimise(vec![0.0; (inputs + 1) * classes], STEPS_MAX, loss))
    }

    /// The logits of each row.
    pub fn logits(&self, x: &Matrix) -> Matrix {
        let classes = self.bias.len();
        let mut out = Matrix::zeros(x.rows, classes);
        multiply(x, As::Is, &self.weight, As::Is, 0.0, &mut out);
        for row in out.data.chunks_exact_mut(classes.max(1)) {
            row.iter_mut().zip(&self.bias).for_each(|(z, b)| *z += b);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::matrix::Random;

    #[test]
    fn the_fit_is_that_of_plain_descent_in_double_precision() {
        const CLASSES: usize = 3;
        const INPUTS: usize = 4;
        const ROWS: usize = 30;
        let mut random = Random(5);
        let mut number = || (random.next_u64() >> 40) as f64 / (1u64 << 23) as f64 - 1.0;
        let data: Vec<f64> = (0..ROWS * INPUTS).map(|_| number()).collect();
        // By two of the inputs, and a few by none.
        let targets: Vec<usize> = data
            .chunks(INPUTS)
            .enumerate()
            .map(|(i, x)| if i % 9 == 0 { i % 3 } else { usize::from(x[0] > 0.2) + usize::from(x[1] > 0.0) })
            .collect();
        let ridge = 0.01;
        let (mut w, mut b) = (vec![0.0f64; INPUTS * CLASSES], vec![0.0f64; CLASSES]);
        for _ in 0..20_000 {
            let mut gw: Vec<f64> = w.iter().map(|w| ridge * w).collect();
            let mut gb = [0.0f64; CLASSES];
            for (x, target) in data.chunks(INPUTS).zip(&targets) {
                let z: Vec<f64> = (0..CLASSES)
                    .map(|c| b[c] + (0..INPUTS).map(|i| x[i] * w[i * CLASSES + c]).sum::<f64>())
                    .collect();
                let total: f64 = z.iter().map(|z| z.exp()).sum();
                for c in 0..CLASSES {
                    let error = z[c].exp() / total - f64::from(u8::from(c == *target));
                    gb[c] += error / ROWS as f64;
                    (0..INPUTS).for_each(|i| gw[i * CLASSES + c] += x[i] * error / ROWS as f64);
                }
            }
            w.iter_mut().zip(&gw).for_each(|(w, g)| *w -= g);
            b.iter_mut().zip(&gb).for_each(|(b, g)| *b -= g);
        }
        let x = Matrix { rows: ROWS, cols: INPUTS, data: data.iter().map(|v| *v as f32).collect() };
        let fitted = Softmax::fit(&x, &targets, CLASSES, ridge as f32);
        let got = fitted.weight.data.iter().chain(&fitted.bias);
        for (got, want) in got.zip(w.iter().chain(&b)) {
            assert!((f64::from(*got) - want).abs() < 2e-3, "{got} {want}");
        }
    }
}
