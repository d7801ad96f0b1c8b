//! The position embedding at another grid than the one it was trained at.

/// How the trained grid is resampled. Both fit grid on grid by their sizes, as Hugging Face's DINOv2 does. (The
/// official code for models without registers instead passes the scale `(grid + 0.1) / trained`, a workaround
/// for rounding which moves the samples by under a tenth of a trained patch.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resampling {
    /// PyTorch's bicubic, a = -0.75, edges repeated: models without registers.
    Bicubic,
    /// PyTorch's antialiased bicubic, a = -0.5, the support widened by the reduction: models with registers.
    BicubicAntialiased,
}

/// From `side * side` vectors of `dim` to `rows * cols` vectors, both row-major.
pub(super) fn interpolate(
    trained: &[f32],
    side: usize,
    dim: usize,
    [rows, cols]: [usize; 2],
    resampling: Resampling,
) -> Vec<f32> {
    let (down, across) = (taps(side, rows, resampling), taps(side, cols, resampling));
    let mut widened = vec![0.0f64; side * cols * dim];
    for row in 0..side {
        for (col, taps) in across.iter().enumerate() {
            let out = &mut widened[(row * cols + col) * dim..][..dim];
            for (from, weight) in taps {
                let vector = &trained[(row * side + from) * dim..][..dim];
                out.iter_mut().zip(vector).for_each(|(out, value)| *out += weight * f64::from(*value));
            }
        }
    }
    let mut result = vec![0.0f64; rows * cols * dim];
    for (row, taps) in down.iter().enumerate() {
        let out = &mut result[row * cols * dim..][..cols * dim];
        for (from, weight) in taps {
            let line = &widened[from * cols * dim..][..cols * dim];
            out.iter_mut().zip(line).for_each(|(out, value)| *out += weight * value);
        }
    }
    result.into_iter().map(|value| value as f32).collect()
}

/// For each output the inputs it is made of and their weights. Inputs may repeat at the edges.
fn taps(from: usize, to: usize, resampling: Resampling) -> Vec<Vec<(usize, f64)>> {
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|out| {
            let center = (out as f64 + 0.5) * scale;
            match resampling {
                Resampling::Bicubic => {
                    let first = (center - 0.5).floor();
                    (-1..=2)
                        .map(|tap| {
                            let at = first + f64::from(tap);
                            (at.clamp(0.0, from as f64 - 1.0) as usize, cubic(center - 0.5 - at, -0.75))
                        })
                        .collect()
                }
                Resampling::BicubicAntialiased => {
                    let widening = scale.max(1.0);
                    let start = (center - 2.0 * widening + 0.5).floor().max(0.0) as usize;
                    let end = ((center + 2.0 * widening + 0.5).floor() as usize).min(from);
                    let weight = |at: usize| cubic((at as f64 + 0.5 - center) / widening, -0.5);
                    let sum: f64 = (start..end).map(weight).sum();
                    (start..end).map(|at| (at, weight(at) / sum)).collect()
                }
            }
        })
        .collect()
}

/// Keys' cubic convolution kernel.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trained_grid_stays_as_it_is() {
        let trained: Vec<f32> = (0..3 * 3 * 2).map(|i| (i * 7 % 11) as f32).collect();
        for resampling in [Resampling::Bicubic, Resampling::BicubicAntialiased] {
            assert_eq!(interpolate(&trained, 3, 2, [3, 3], resampling), trained);
        }
    }

    #[test]
    fn weights_sum_to_one() {
        for resampling in [Resampling::Bicubic, Resampling::BicubicAntialiased] {
            for taps in [(37, 16), (37, 28), (4, 9)].map(|(from, to)| taps(from, to, resampling)).concat() {
                let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
                assert!((sum - 1.0).abs() < 1e-12);
            }
        }
    }

    /// Half-way between two samples, by hand: `-0.75 * (1.5^3 - 5 * 1.5^2 + 8 * 1.5 - 4)` and the rest.
    #[test]
    fn bicubic_has_pytorchs_parameter_and_repeats_the_edge() {
        let expected = vec![vec![(0, -0.09375), (0, 0.59375), (1, 0.59375), (1, -0.09375)]];
        assert_eq!(taps(2, 1, Resampling::Bicubic), expected);
    }

    /// PyTorch's antialiased bicubic is Pillow's: `Image.fromarray(a, mode="F").resize((4, 3), BICUBIC)` of
    /// Pillow 13.0.0.
    #[test]
    fn antialiased_is_pillows() {
        let value = |x: usize, y: usize| ((x * x * 3 + y * 5 + x * y * 7) % 17) as f32;
        let trained: Vec<f32> = (0..36).map(|i| value(i % 6, i / 6)).collect();
        let pillow = [
            4.99461, 12.05039, 9.61056, 10.8431, 9.88985, 7.76944, 8.78937, 8.67974, 6.27748, 3.9855,
            7.81816, 9.08443,
        ];
        let ours = interpolate(&trained, 6, 1, [3, 4], Resampling::BicubicAntialiased);
        for (ours, pillow) in ours.iter().zip(pillow) {
            assert!((ours - pillow).abs() < 2e-5, "{ours} and {pillow}");
        }
    }
}
