//! Logistic regression with a ridge over standardised inputs, fitted by L-BFGS (Nocedal and Wright, algorithm 7.4).
//! Pure.

use std::collections::VecDeque;

use crate::model::matrix::Matrix;

/// Strength of the ridge over the mean loss. On `dock/val` 0.01 is better than 0.1 at every number of examples tried.
pub const RIDGE: f32 = 0.01;
/// Steps at most; the loss changes little after 30.
const STEPS_MAX: usize = 40;
/// How many steps the curvature is remembered.
const HISTORY: usize = 8;

/// A linear map of standardised inputs to the logarithm of the odds.
#[derive(Debug, Clone, PartialEq)]
pub struct Logistic {
    /// One weight an input.
    pub weight: Vec<f32>,
    /// Added to the sum.
    pub bias: f32,
}

impl Logistic {
    /// Fits. `weights` says how much each row of `x` counts.
    pub fn fit(x: &Matrix, targets: &[bool], weights: &[f32]) -> Self {
        let n = x.cols;
        let total = weights.iter().sum::<f32>().max(1e-12);
        // The last parameter is the bias.
        let loss = |p: &[f32], gradient: &mut [f32]| -> f32 {
            let mut sum = 0.0f64;
            for (g, w) in gradient.iter_mut().zip(&p[..n]) {
                *g = RIDGE * w;
            }
            gradient[n] = 0.0;
            for ((row, target), weight) in x.data.chunks_exact(n.max(1)).zip(targets).zip(weights) {
                let logit = dot(row, &p[..n]) + p[n];
                let signed = if *target { logit } else { -logit };
                // log(1 + exp(-s)) without overflow.
                sum += f64::from(weight / total * ((-signed.abs()).exp().ln_1p() + (-signed).max(0.0)));
                let error = weight / total * (sigmoid(logit) - if *target { 1.0 } else { 0.0 });
                gradient.iter_mut().zip(row).for_each(|(g, v)| *g += error * v);
                gradient[n] += error;
            }
            (sum + 0.5 * f64::from(RIDGE) * f64::from(dot(&p[..n], &p[..n]))) as f32
        };
        let mut p = minimise(vec![0.0; n + 1], STEPS_MAX, loss);
        let bias = p.pop().unwrap_or_default();
        Self { weight: p, bias }
    }

    /// Logarithm of the odds of each row.
    pub fn logits(&self, x: &Matrix) -> Vec<f32> {
        x.data.chunks_exact(x.cols.max(1)).map(|row| dot(row, &self.weight) + self.bias).collect()
    }
}

/// The logistic function.
pub fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + (-z).exp())
}

/// In sixteen lanes, which the compiler turns into wide instructions; a library's product packs the matrix anew for
/// every vector.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// L-BFGS with a backtracking line search, at most `steps` steps. `loss` returns the value and fills in the gradient. Ends
/// when the gradient is small or no step makes it better.
pub fn minimise(mut p: Vec<f32>, steps: usize, loss: impl Fn(&[f32], &mut [f32]) -> f32) -> Vec<f32> {
    let mut gradient = vec![0.0; p.len()];
    let mut value = loss(&p, &mut gradient);
    let mut history: VecDeque<(Vec<f32>, Vec<f32>, f32)> = VecDeque::new();
    for _ in 0..steps {
        if dot(&gradient, &gradient) < 1e-10 {
            break;
        }
        let mut direction: Vec<f32> = gradient.iter().map(|g| -g).collect();
        let mut alphas = vec![];
        for (s, y, rho) in history.iter().rev() {
            let alpha = rho * dot(s, &direction);
            direction.iter_mut().zip(y).for_each(|(d, y)| *d -= alpha * y);
            alphas.push(alpha);
        }
        if let Some((s, y, _)) = history.back() {
            let scale = dot(s, y) / dot(y, y).max(1e-20);
            direction.iter_mut().for_each(|d| *d *= scale);
        }
        for ((s, y, rho), alpha) in history.iter().zip(alphas.iter().rev()) {
            let beta = rho * dot(y, &direction);
            direction.iter_mut().zip(s).for_each(|(d, s)| *d += (alpha - beta) * s);
        }
        let slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            break;
        }
        let mut step = if history.is_empty() { 1.0 / dot(&gradient, &gradient).sqrt().max(1.0) } else { 1.0 };
        let mut next_gradient = vec![0.0; p.len()];
        let found = (0..20).find_map(|_| {
            let next: Vec<f32> = p.iter().zip(&direction).map(|(p, d)| p + step * d).collect();
            let next_value = loss(&next, &mut next_gradient);
            if next_value <= value + 1e-4 * step * slope {
                return Some((next, next_value));
            }
            step *= 0.5;
            None
        });
        let Some((next, next_value)) = found else { break };
        let s: Vec<f32> = next.iter().zip(&p).map(|(a, b)| a - b).collect();
        let y: Vec<f32> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        let curvature = dot(&s, &y);
        if curvature > 1e-12 {
            history.push_back((s, y, 1.0 / curvature));
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
        (p, value, gradient) = (next, next_value, next_gradient);
    }
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_minimum_is_found() {
        // (a - 3)^2 + 10 (b + 1)^2
        let p = minimise(vec![0.0, 0.0], STEPS_MAX, |p, g| {
            g[0] = 2.0 * (p[0] - 3.0);
            g[1] = 20.0 * (p[1] + 1.0);
            (p[0] - 3.0).powi(2) + 10.0 * (p[1] + 1.0).powi(2)
        });
        assert!((p[0] - 3.0).abs() < 1e-3 && (p[1] + 1.0).abs() < 1e-3, "{p:?}");
    }

    #[test]
    fn the_gradient_is_zero_where_it_ends() {
        let x = Matrix { rows: 4, cols: 1, data: vec![-1.0, -0.5, 0.5, 1.0] };
        let fitted = Logistic::fit(&x, &[false, false, true, true], &[1.0; 4]);
        // By symmetry there is no bias; the slope balances loss and ridge: mean of x * error = -ridge * w.
        assert!(fitted.bias.abs() < 1e-3, "{fitted:?}");
        let w = fitted.weight[0];
        let pull: f32 =
            [(1.0f32, 1.0f32), (0.5, 1.0)].iter().map(|(x, n)| n * x * (1.0 - sigmoid(w * x))).sum();
        assert!((pull / 2.0 - RIDGE * w).abs() < 1e-3, "{w}: {pull}");
        assert!(fitted.logits(&x)[3] > 2.0);
    }

    #[test]
    fn a_row_that_counts_more_pulls_more() {
        let x = Matrix { rows: 2, cols: 1, data: vec![0.0, 0.0] };
        let fitted = Logistic::fit(&x, &[true, false], &[3.0, 1.0]);
        assert!((sigmoid(fitted.bias) - 0.75).abs() < 1e-2, "{fitted:?}");
    }
}
