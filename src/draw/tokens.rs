//! Patch tokens and depth as pictures.

use image::{Rgb, RgbImage};

use super::Colour;
use super::canvas::{self, Align, BLACK, WHITE};
use crate::types::Grid;

/// Enough for a picture: the ratio of neighbouring eigenvalues of real tokens is well below 0.9.
const POWER_STEPS: usize = 60;

/// Maps are at least as wide as this, in pixels.
const READABLE_WIDTH: usize = 840;

/// Room for the scale bar of a depth map, in pixels.
const BAR_WIDTH: u32 = 132;

/// Viridis, nine of its colours at equal steps, dark to light (matplotlib, CC0).
const VIRIDIS: [Colour; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];

/// The patch tokens (`grid.len() * dim` values, row-major) as a picture at least 840 pixels wide: each of the first
/// three principal components, stretched from its 2nd to its 98th percentile, is one colour. Black when the
/// tokens are not of that number.
pub fn pca_image(tokens: &[f32], grid: Grid, dim: usize) -> RgbImage {
    if grid.is_empty() || dim == 0 || tokens.len() != grid.len() * dim {
        return RgbImage::new(picture_size(grid.cols, grid), picture_size(grid.rows, grid));
    }
    let scores = principal_scores(tokens, dim);
    let channels: Vec<Vec<u8>> = scores
        .iter()
        .map(|component| {
            let (low, high) = (percentile(component, 0.02), percentile(component, 0.98));
            let span = if high > low { high - low } else { 1.0 };
            component.iter().map(|v| (((v - low) / span).clamp(0.0, 1.0) * 255.0).round() as u8).collect()
        })
        .collect();
    patches(grid, |token| [channels[0][token], channels[1][token], channels[2][token]])
}

/// Depth in metres, one a patch, as a picture at least 840 pixels wide plus a scale bar on the right. The colour
/// follows the logarithm of the depth, light near and dark far; patches without a positive depth are black.
pub fn depth_image(metres: &[f32], grid: Grid) -> RgbImage {
    let known: Vec<f64> =
        metres.iter().map(|m| f64::from(*m)).filter(|m| m.is_finite() && *m > 0.0).collect();
    if known.is_empty() || metres.len() != grid.len() {
        return RgbImage::new(picture_size(grid.cols, grid), picture_size(grid.rows, grid));
    }
    let (near, far) =
        (percentile(&known, 0.01), percentile(&known, 0.99).max(percentile(&known, 0.01) * 1.01));
    let share = |m: f64| ((m / near).ln() / (far / near).ln()).clamp(0.0, 1.0);
    let map = patches(grid, |token| {
        let m = f64::from(metres[token]);
        if m.is_finite() && m > 0.0 { viridis(1.0 - share(m)) } else { BLACK }
    });

    let (height, text_px) = (f64::from(map.height()), 22.0);
    let bar_left = f64::from(map.width()) + 12.0;
    let mut image = RgbImage::from_pixel(map.width() + BAR_WIDTH, map.height(), Rgb(WHITE));
    image::imageops::replace(&mut image, &map, 0, 0);
    let (top, bottom) = (6.0, height - 6.0);
    for y in top as i64..bottom as i64 {
        let colour = viridis(1.0 - (y as f64 + 0.5 - top) / (bottom - top));
        canvas::fill_rect(&mut image, [bar_left, y as f64], [bar_left + 24.0, y as f64 + 1.0], colour, 1.0);
    }
    let mut last_y = f64::NEG_INFINITY;
    for tick in [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 100.0] {
        let y = top + share(tick) * (bottom - top);
        if tick >= near && tick <= far && y - last_y > 1.2 * text_px {
            canvas::line(&mut image, [bar_left + 18.0, y], [bar_left + 30.0, y], 2.0, BLACK);
            let at = [bar_left + 36.0, (y - text_px / 2.0).clamp(0.0, height - text_px)];
            canvas::text(&mut image, at, Align::Left, text_px, BLACK, &format!("{tick} m"));
            last_y = y;
        }
    }
    image
}

/// Side of a patch in the picture: whole pixels, so many that labels beside the patches are readable.
fn cell_px(grid: Grid) -> usize {
    READABLE_WIDTH.div_ceil(grid.cols.max(1))
}

fn picture_size(patches: usize, grid: Grid) -> u32 {
    u32::try_from(patches * cell_px(grid)).unwrap_or(0)
}

fn patches(grid: Grid, colour: impl Fn(usize) -> Colour) -> RgbImage {
    let cell = cell_px(grid);
    RgbImage::from_fn(picture_size(grid.cols, grid), picture_size(grid.rows, grid), |x, y| {
        let (col, row) = (x as usize / cell, y as usize / cell);
        Rgb(colour(row * grid.cols + col))
    })
}

fn viridis(share: f64) -> Colour {
    let place = share.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let low = (place as usize).min(VIRIDIS.len() - 2);
    let rest = place - low as f64;
    let (a, b) = (VIRIDIS[low], VIRIDIS[low + 1]);
    [0, 1, 2].map(|i| (f64::from(a[i]) + (f64::from(b[i]) - f64::from(a[i])) * rest).round() as u8)
}

fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(place).copied().unwrap_or(0.0)
}

/// Scores of all tokens on the first three principal components, by power iteration with deflation. The start
/// is fixed and the sign of each component is chosen by its largest weight, so that the result is the same each time.
fn principal_scores(tokens: &[f32], dim: usize) -> [Vec<f64>; 3] {
    let count = tokens.len() / dim;
    let mut mean = vec![0.0; dim];
    for token in tokens.chunks_exact(dim) {
        mean.iter_mut().zip(token).for_each(|(m, v)| *m += f64::from(*v) / count as f64);
    }
    let centred: Vec<f64> = tokens
        .chunks_exact(dim)
        .flat_map(|token| token.iter().zip(&mean).map(|(v, m)| f64::from(*v) - m))
        .collect();
    let scores_on = |axis: &[f64]| -> Vec<f64> {
        centred.chunks_exact(dim).map(|token| token.iter().zip(axis).map(|(v, a)| v * a).sum()).collect()
    };

    let mut axes: Vec<Vec<f64>> = Vec::new();
    for component in 0..3 {
        // Any start that is not orthogonal to the component will do.
        let mut axis: Vec<f64> = (0..dim).map(|i| ((i * (component + 2) + 1) as f64).sin()).collect();
        for _ in 0..POWER_STEPS {
            let scores = scores_on(&axis);
            let mut next = vec![0.0; dim];
            for (token, score) in centred.chunks_exact(dim).zip(&scores) {
                next.iter_mut().zip(token).for_each(|(n, v)| *n += v * score);
            }
            for found in &axes {
                let along: f64 = next.iter().zip(found).map(|(n, f)| n * f).sum();
                next.iter_mut().zip(found).for_each(|(n, f)| *n -= along * f);
            }
            let length = next.iter().map(|v| v * v).sum::<f64>().sqrt();
            if length <= f64::MIN_POSITIVE {
                next.fill(0.0);
                axis = next;
                break;
            }
            next.iter_mut().for_each(|v| *v /= length);
            axis = next;
        }
        let largest = axis.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
        if largest < 0.0 {
            axis.iter_mut().for_each(|v| *v = -*v);
        }
        axes.push(axis);
    }
    [0, 1, 2].map(|i| scores_on(&axes[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { rows: 4, cols: 6, patch_px: 14 };

    /// Tokens that vary along three known directions with variances 9 : 4 : 1 by column, row and checker.
    fn tokens() -> Vec<f32> {
        let dim = 5;
        let mut tokens = vec![10.0; GRID.len() * dim];
        for i in 0..GRID.len() {
            let (row, col) = (i / GRID.cols, i % GRID.cols);
            tokens[i * dim] += 3.0 * if col < 3 { -1.0 } else { 1.0 };
            tokens[i * dim + 2] += 2.0 * if row < 2 { -1.0 } else { 1.0 };
            tokens[i * dim + 4] += if (row + col) % 2 == 0 { -1.0 } else { 1.0 };
        }
        tokens
    }

    #[test]
    fn components_come_out_in_the_order_of_their_variance() {
        let [first, second, third] = principal_scores(&tokens(), 5);
        for i in 0..GRID.len() {
            let (row, col) = (i / GRID.cols, i % GRID.cols);
            assert!((first[i] - if col < 3 { -3.0 } else { 3.0 }).abs() < 1e-6, "{}", first[i]);
            assert!((second[i] - if row < 2 { -2.0 } else { 2.0 }).abs() < 1e-6);
            assert!((third[i] - if (row + col) % 2 == 0 { -1.0 } else { 1.0 }).abs() < 1e-6);
        }
    }

    #[test]
    fn the_picture_shows_the_components_as_colours() {
        let image = pca_image(&tokens(), GRID, 5);
        assert_eq!(image.dimensions(), (840, 560));
        assert_eq!(image.get_pixel(0, 0).0, [0, 0, 0]);
        assert_eq!(image.get_pixel(839, 0).0, [255, 0, 255]);
        assert_eq!(image.get_pixel(0, 559).0, [0, 255, 255]);
        assert_eq!(image, pca_image(&tokens(), GRID, 5));
    }

    #[test]
    fn equal_tokens_and_wrong_sizes_do_no_harm() {
        pca_image(&vec![1.0; GRID.len() * 5], GRID, 5);
        assert_eq!(pca_image(&[1.0], GRID, 5).dimensions(), (840, 560));
        assert_eq!(depth_image(&[], GRID).dimensions(), (840, 560));
        depth_image(&vec![2.0; GRID.len()], GRID);
    }

    #[test]
    fn near_is_light_and_far_is_dark() {
        let metres: Vec<f32> = (0..GRID.len()).map(|i| 2.0 + i as f32).collect();
        let image = depth_image(&metres, GRID);
        assert_eq!(image.get_pixel(0, 0).0, VIRIDIS[8]);
        assert_eq!(image.get_pixel(839, 559).0, VIRIDIS[0]);
        let bar = |y| image.get_pixel(840 + 12 + 5, y).0;
        assert!(bar(7)[0] > 200 && bar(550)[0] < 90);
    }

    #[test]
    fn a_patch_without_depth_is_black() {
        let mut metres = vec![3.0f32; GRID.len()];
        metres[1] = f32::NAN;
        metres[2] = 9.0;
        let image = depth_image(&metres, GRID);
        assert_eq!(image.get_pixel(200, 5).0, BLACK);
    }
}
