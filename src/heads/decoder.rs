//! The decoder: one small network over the tokens, part of the model's graph, that says of every patch what is in it
//! and where the thing that it belongs to stands. This is where its outputs lie; `standoff train decoder` makes it.

use crate::types::{Features, Grid};

use super::HeadError;
use super::upsample::CELLS_PER_PATCH;

/// Name of the graph's output.
pub const NAME: &str = "decoder";
/// Classes of the segmentation.
pub const CLASSES: usize = 9;
/// Cells of a patch, row by row.
pub const CELLS: usize = CELLS_PER_PATCH * CELLS_PER_PATCH;
/// First come the logits: `cell * CLASSES + class`.
pub const LOGITS: usize = CELLS * CLASSES;
/// Then the logarithm of the depth in metres and of its scale.
pub const DEPTH: usize = LOGITS;
/// Then what a forklift's patch says of it (see [`Forklift`]).
pub const FORKLIFT: usize = DEPTH + 2;
/// Then what a person's patch says (see [`Person`]).
pub const PERSON: usize = FORKLIFT + Forklift::OUTPUTS;
/// All outputs of a patch.
pub const CHANNELS: usize = PERSON + Person::OUTPUTS;
/// Pixels of the input in which the place of the foot is counted, from the patch's centre.
pub const FOOT_UNIT_PX: f64 = 56.0;

/// Offsets of a forklift's outputs. A scale is the logarithm of the mean absolute error that is to be expected.
#[derive(Debug)]
pub struct Forklift;

impl Forklift {
    /// Where the floor below the middle of the thing is seen: right and down.
    pub const FOOT: usize = 0;
    /// Cosine and sine of the heading against the direction from the camera to the thing, then of twice that.
    pub const HEADING: usize = 2;
    /// Scales of the foot's two, and of the heading's squared error.
    pub const FOOT_SCALE: usize = 6;
    /// See there.
    pub const HEADING_SCALE: usize = 8;
    /// Height, behind, aside, ahead: metres, as in [`crate::types::SurfaceVote`].
    pub const SURFACE: usize = 9;
    /// Their scales.
    pub const SURFACE_SCALE: usize = 13;
    /// How many there are.
    pub const OUTPUTS: usize = 17;
}

/// Offsets of a person's outputs.
#[derive(Debug)]
pub struct Person;

impl Person {
    /// As of a forklift.
    pub const FOOT: usize = 0;
    /// See there.
    pub const FOOT_SCALE: usize = 2;
    /// Height, behind, aside.
    pub const SURFACE: usize = 4;
    /// Their scales.
    pub const SURFACE_SCALE: usize = 7;
    /// How many there are.
    pub const OUTPUTS: usize = 10;
}

/// The decoder's output of a frame, [`CHANNELS`] values a patch, its shape checked.
///
/// # Errors
/// The graph has no such output, or another shape.
pub fn of(features: &Features) -> Result<&[f32], HeadError> {
    super::dense(features, NAME, CHANNELS)
}

/// The logits of every cell, `CLASSES` values each, cells row by row over the whole input.
pub fn cells(values: &[f32], grid: Grid, out: &mut Vec<f32>) {
    out.clear();
    out.reserve(grid.len() * LOGITS);
    for row in 0..grid.rows * CELLS_PER_PATCH {
        for col in 0..grid.cols {
            let patch = row / CELLS_PER_PATCH * grid.cols + col;
            let first = patch * CHANNELS + row % CELLS_PER_PATCH * CELLS_PER_PATCH * CLASSES;
            out.extend_from_slice(&values[first..first + CELLS_PER_PATCH * CLASSES]);
        }
    }
}

/// The class whose probability is largest in the mean over the cells of a patch, which has [`CHANNELS`] outputs.
pub fn likeliest_class(patch: &[f32]) -> usize {
    let mut sums = [0.0f32; CLASSES];
    for cell in patch.chunks_exact(CLASSES).take(CELLS) {
        let top = cell.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = cell.iter().map(|l| (l - top).exp()).sum();
        sums.iter_mut().zip(cell).for_each(|(s, l)| *s += (l - top).exp() / total);
    }
    (0..CLASSES).max_by(|a, b| sums[*a].total_cmp(&sums[*b])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_lie_row_by_row() {
        let grid = Grid { rows: 2, cols: 3, patch_px: 14 };
        let values: Vec<f32> = (0..grid.len() * CHANNELS).map(|i| i as f32).collect();
        let mut out = vec![];
        cells(&values, grid, &mut out);
        assert_eq!(out.len(), 8 * 12 * CLASSES);
        // Row 6, column 9 of the cells: patch (1, 2), its cell (2, 1), class 5.
        let expected = 5 * CHANNELS + (2 * 4 + 1) * CLASSES + 5;
        assert_eq!(out[(6 * 12 + 9) * CLASSES + 5], expected as f32);
    }
}
