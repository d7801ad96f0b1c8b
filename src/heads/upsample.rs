//! Bilinear upsampling of logits over the patch grid to cells, as the segmentation is trained and read, and to the
//! pixels of the picture, as it is evaluated.

use crate::types::{Grid, PixelTransform};

/// Cells across one patch: 14 px / 4 = 3.5 px.
pub const CELLS_PER_PATCH: usize = 4;

/// For a fine sample at `x` on one axis, counted in coarse samples from the centre of the first: the first coarse
/// sample, the second, and the weight of the second. Edges are clamped.
fn tap(x: f32, coarse: usize) -> (usize, usize, f32) {
    let last = coarse as f32 - 1.0;
    let first = x.floor().clamp(0.0, last) as usize;
    let second = (x.floor() + 1.0).clamp(0.0, last) as usize;
    (first, second, if x < 0.0 { 0.0 } else { x - x.floor() })
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
        let axis = |coarse: usize| {
            let cells = 0..coarse * CELLS_PER_PATCH;
            cells.map(|i| tap((i as f32 + 0.5) / CELLS_PER_PATCH as f32 - 0.5, coarse)).collect()
        };
        Self { rows: axis(grid.rows), cols: axis(grid.cols), grid }
    }

    /// To every pixel of the picture that lies in the input as `transform` says, instead of to cells.
    pub fn onto_picture(grid: Grid, transform: &PixelTransform) -> Self {
        let side = grid.patch_px as f64;
        let at = |axis: usize, i: u32| {
            let centre = f64::from(i) + 0.5;
            (transform.input_from_source([centre, centre])[axis] / side - 0.5) as f32
        };
        Self {
            rows: (0..transform.source_height).map(|y| tap(at(1, y), grid.rows)).collect(),
            cols: (0..transform.source_width).map(|x| tap(at(0, x), grid.cols)).collect(),
            grid,
        }
    }

    /// Cells or pixels across.
    pub fn width(&self) -> usize {
        self.cols.len()
    }

    /// Cells or pixels down.
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
        out.clear();
        out.reserve(self.height() * self.width() * channels);
        (0..self.height()).for_each(|row| self.append(row, values, channels, out));
    }

    /// Appends one row of what [`Upsample::apply`] gives.
    pub fn append(&self, row: usize, values: &[f32], channels: usize, out: &mut Vec<f32>) {
        let line = self.grid.cols * channels;
        let (r0, r1, a) = self.rows[row];
        let (upper, lower) = (&values[r0 * line..(r0 + 1) * line], &values[r1 * line..(r1 + 1) * line]);
        let blended: Vec<f32> = upper.iter().zip(lower).map(|(u, l)| u + a * (l - u)).collect();
        for &(c0, c1, b) in &self.cols {
            let left = &blended[c0 * channels..(c0 + 1) * channels];
            let right = &blended[c1 * channels..(c1 + 1) * channels];
            out.extend(left.iter().zip(right).map(|(l, r)| l + b * (r - l)));
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

    #[test]
    fn pixels_of_a_letterboxed_picture_find_their_patches() {
        // 84 x 28 pixels in an input of 56 x 42: scale 2/3, 19 rows of picture below 11 of padding.
        let grid = Grid { rows: 3, cols: 4, patch_px: 14 };
        let transform = crate::preprocess::letterbox([84, 28], [56, 42]);
        let values: Vec<f32> = (0..12).map(|i| (i % 4) as f32 + 10.0 * (i / 4) as f32).collect();
        let up = Upsample::onto_picture(grid, &transform);
        let mut row = Vec::new();
        up.append(14, &values, 1, &mut row);
        assert_eq!((up.width(), up.height(), row.len()), (84, 28, 84));
        // The picture's pixel (41.5, 14.5) is the input's (27.67, 20.84): patch coordinates (1.476, 0.989).
        assert!((row[41] - (41.5 * 2.0 / 3.0 / 14.0 - 0.5) as f32 - 9.885).abs() < 1e-3, "{}", row[41]);
        assert!((row[0] - 9.885).abs() < 1e-3, "left of the first patch's centre: {}", row[0]);
    }
}
