//! Bilinear upsampling of logits over the patch grid to cells, as the segmentation is trained and read.

use crate::types::Grid;

/// Cells across one patch: 14 px / 4 = 3.5 px.
pub const CELLS_PER_PATCH: usize = 4;

/// For each fine sample of one axis: the first coarse sample, the second, and the weight of the second. Half-pixel
/// centres, edges clamped.
fn taps(coarse: usize) -> Vec<(usize, usize, f32)> {
    (0..coarse * CELLS_PER_PATCH)
        .map(|i| {
            let x = (i as f32 + 0.5) / CELLS_PER_PATCH as f32 - 0.5;
            let first = x.floor().max(0.0) as usize;
            let second = (x.floor() + 1.0).min(coarse as f32 - 1.0) as usize;
            (first, second, if x < 0.0 { 0.0 } else { x - x.floor() })
        })
        .collect()
}

/// The linear operator for one grid: each cell is a weighted sum of four patches.
#[derive(Debug, Clone)]
pub struct Upsample {
    rows: Vec<(usize, usize, f32)>,
    cols: Vec<(usize, usize, f32)>,
    grid: Grid,
}

impl Upsample {
    /// For a patch grid.
    pub fn new(grid: Grid) -> Self {
        Self { rows: taps(grid.rows), cols: taps(grid.cols), grid }
    }

    /// Cells across.
    pub fn width(&self) -> usize {
        self.cols.len()
    }

    /// Cells down.
    pub fn height(&self) -> usize {
        self.rows.len()
    }

    /// The four patches of a cell and their weights.
    pub fn weights(&self, row: usize, col: usize) -> [(usize, f32); 4] {
        let ((r0, r1, a), (c0, c1, b)) = (self.rows[row], self.cols[col]);
        let at = |r: usize, c: usize| r * self.grid.cols + c;
        [
            (at(r0, c0), (1.0 - a) * (1.0 - b)),
            (at(r0, c1), (1.0 - a) * b),
            (at(r1, c0), a * (1.0 - b)),
            (at(r1, c1), a * b),
        ]
    }

    /// Upsamples `channels` values a patch (token-major) to `out`, `channels` values a cell, cell-major. Rows first,
    /// then columns: a third of the work of four taps a cell.
    pub fn apply(&self, values: &[f32], channels: usize, out: &mut Vec<f32>) {
        let line = self.grid.cols * channels;
        let mut blended = vec![0.0f32; line];
        out.clear();
        out.reserve(self.height() * self.width() * channels);
        for &(r0, r1, a) in &self.rows {
            let (upper, lower) = (&values[r0 * line..(r0 + 1) * line], &values[r1 * line..(r1 + 1) * line]);
            for ((o, u), l) in blended.iter_mut().zip(upper).zip(lower) {
                *o = u + a * (l - u);
            }
            for &(c0, c1, b) in &self.cols {
                let left = &blended[c0 * channels..(c0 + 1) * channels];
                let right = &blended[c1 * channels..(c1 + 1) * channels];
                out.extend(left.iter().zip(right).map(|(l, r)| l + b * (r - l)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_stays_a_ramp_and_both_forms_agree() {
        let grid = Grid { rows: 3, cols: 4, patch_px: 14 };
        let values: Vec<f32> = (0..12).map(|i| (i % 4) as f32 + 10.0 * (i / 4) as f32).collect();
        let up = Upsample::new(grid);
        let mut out = Vec::new();
        up.apply(&values, 1, &mut out);
        assert_eq!((up.height(), up.width(), out.len()), (12, 16, 192));
        // Cell (6, 6): patch coordinates (1.125, 1.125).
        assert!((out[6 * 16 + 6] - (1.125 + 11.25)).abs() < 1e-5);
        assert_eq!(out[0], 0.0);
        for (i, got) in out.iter().enumerate() {
            let sum: f32 = up.weights(i / 16, i % 16).iter().map(|(p, w)| values[*p] * w).sum();
            assert!((sum - got).abs() < 1e-5);
        }
    }
}
