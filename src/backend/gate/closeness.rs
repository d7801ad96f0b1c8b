//! How close an output is to its reference, in numbers. Pure.

/// Differences of one output of one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Closeness {
    /// Cosine between the two as vectors; NaN when one of them is zero.
    pub cosine: f64,
    /// Length of the difference over the length of the reference.
    pub relative: f64,
}

/// Compares vectors of one length.
pub(super) fn closeness(tried: &[f32], reference: &[f32]) -> Closeness {
    let (mut dot, mut tried_squares, mut squares, mut apart) = (0.0, 0.0, 0.0, 0.0);
    for (a, b) in tried.iter().zip(reference) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        dot += a * b;
        tried_squares += a * a;
        squares += b * b;
        apart += (a - b) * (a - b);
    }
    Closeness { cosine: dot / (tried_squares * squares).sqrt(), relative: (apart / squares).sqrt() }
}

/// The least cosine of a token of `width` values, and its index.
pub(super) fn worst_token(tried: &[f32], reference: &[f32], width: usize) -> (usize, f64) {
    let tokens = tried.chunks_exact(width).zip(reference.chunks_exact(width));
    let cosines = tokens.map(|(a, b)| closeness(a, b).cosine).enumerate();
    worst(cosines, (0, 1.0), |cosine, worst| cosine >= worst)
}

/// The channel that errs most, and its error (root mean square) as a share of how much the reference varies over the
/// tokens there. A channel that hardly varies counts as if it varied a tenth as much as the others.
pub(super) fn worst_channel(tried: &[f32], reference: &[f32], channels: usize) -> (usize, f64) {
    let tokens = (reference.len() / channels) as f64;
    let of = |values: &[f32], channel: usize| -> Vec<f64> {
        values.iter().skip(channel).step_by(channels).map(|value| f64::from(*value)).collect()
    };
    let measured: Vec<(f64, f64)> = (0..channels)
        .map(|channel| {
            let (tried, reference) = (of(tried, channel), of(reference, channel));
            let mean = reference.iter().sum::<f64>() / tokens;
            let variance = reference.iter().map(|b| (b - mean).powi(2)).sum::<f64>() / tokens;
            let error = tried.iter().zip(&reference).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / tokens;
            (error, variance)
        })
        .collect();
    let least = 0.01 * measured.iter().map(|(_, variance)| variance).sum::<f64>() / channels as f64;
    let shares = measured.iter().map(|(error, variance)| (error / variance.max(least)).sqrt()).enumerate();
    worst(shares, (0, 0.0), |share, worst| share <= worst)
}

/// The one that is not as good as all before it. What is no number is the worst of all and stays.
fn worst(
    values: impl Iterator<Item = (usize, f64)>,
    best: (usize, f64),
    as_good: impl Fn(f64, f64) -> bool,
) -> (usize, f64) {
    values.fold(best, |worst, new| if worst.1.is_nan() || as_good(new.1, worst.1) { worst } else { new })
}

/// Share of the tokens whose largest channel is the reference's, or one that the reference puts at most `tie` below.
pub(super) fn same_class(tried: &[f32], reference: &[f32], channels: usize, tie: f32) -> f64 {
    let largest = |token: &[f32]| {
        let order = |a: &(usize, &f32), b: &(usize, &f32)| a.1.total_cmp(b.1);
        token.iter().enumerate().max_by(order).map_or(0, |(at, _)| at)
    };
    let tokens = tried.chunks_exact(channels).zip(reference.chunks_exact(channels));
    let (count, same) = tokens.fold((0u32, 0u32), |(count, same), (a, b)| {
        let below = b[largest(b)] - b[largest(a)];
        (count + 1, same + u32::from(below <= tie))
    });
    f64::from(same) / f64::from(count)
}

/// The largest difference of any two values.
pub(super) fn worst_value(tried: &[f32], reference: &[f32]) -> f64 {
    let apart = tried.iter().zip(reference).map(|(a, b)| f64::from((a - b).abs()));
    apart.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_as_long_has_the_same_direction() {
        let near = closeness(&[0.5, 1.0], &[1.0, 2.0]);
        assert!((near.cosine - 1.0).abs() < 1e-12 && (near.relative - 0.5).abs() < 1e-12, "{near:?}");
        assert!(closeness(&[0.0, 0.0], &[1.0, 2.0]).cosine.is_nan());
    }

    #[test]
    fn the_worst_are_found() {
        let reference = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        assert_eq!(worst_token(&[1.0, 0.0, 1.0, 0.0, 1.0, 1.0], &reference, 2), (1, 0.0));
        assert!(worst_token(&[0.0, 0.0, 0.0, 1.0, 1.0, 1.0], &reference, 2).1.is_nan());
        // Channel 0 varies by 1 around 0 and is off by 0.5, channel 1 does not vary and is off by 0.01.
        let (channel, share) = worst_channel(&[1.5, 7.01, -0.5, 7.01], &[1.0, 7.0, -1.0, 7.0], 2);
        assert_eq!(channel, 0);
        assert!((share - 0.5).abs() < 1e-6);
        let (channel, share) = worst_channel(&[1.0, 8.0, -1.0, 8.0], &[1.0, 7.0, -1.0, 7.0], 2);
        assert!(channel == 1 && share > 10.0, "an offset shows: {share}");
        let (tried, reference) = ([1.0, 2.0, 5.0, 4.0], [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(same_class(&tried, &reference, 2, 0.5), 0.5);
        assert_eq!(same_class(&tried, &reference, 2, 1.0), 1.0, "as good as a tie");
        assert_eq!(worst_value(&[1.0, -2.0], &[1.5, -2.0]), 0.5);
    }
}
