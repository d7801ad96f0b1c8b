//! A picture reduced to cells: at most 320 x 180, each the sum of a few of its luma samples. Sums, not means, so
//! that a change of one sample by one code still shows. Costs the same for every size of picture.

use crate::types::{ColorRange, Frame, HostPlanes};

/// Most cells across and down.
const MOST: (usize, usize) = (320, 180);
/// Most tiles across and down: large enough to hold texture, small against a thing that passes.
const TILES: (usize, usize) = (16, 9);
/// A tile has at least this many cells on a side, so that it has neighbours to compare.
const TILE_SIDE: usize = 8;

/// The luma of one picture, reduced.
#[derive(Debug, Clone)]
pub(super) struct Cells {
    pub cols: usize,
    pub rows: usize,
    /// Samples in each sum.
    samples: u16,
    range: ColorRange,
    sums: Vec<u16>,
}

impl Cells {
    /// Reduces the picture. None when its luma cannot be read from here.
    pub fn of(frame: &Frame) -> Option<Self> {
        let HostPlanes { data, planes, .. } = frame.pixels.host().ok()?;
        let plane = planes.first()?;
        let (width, height) = (usize::try_from(frame.width).ok()?, usize::try_from(frame.height).ok()?);
        let side = width.div_ceil(MOST.0).max(height.div_ceil(MOST.1)).max(1);
        let (cols, rows) = (width / side, height / side);
        if cols == 0 || rows == 0 {
            return None;
        }
        let a_side = side.min(2);
        let step = side / a_side;
        let mut sums = vec![0u16; cols * rows];
        for (row, sums) in sums.chunks_exact_mut(cols).enumerate() {
            for y in (0..a_side).map(|sample| row * side + sample * step) {
                let line = data.get(plane.offset + y * plane.stride..)?.get(..width)?;
                for (sum, pixels) in sums.iter_mut().zip(line.chunks_exact(side)) {
                    for pixel in pixels.iter().step_by(step).take(a_side) {
                        *sum += u16::from(*pixel);
                    }
                }
            }
        }
        let samples = u16::try_from(a_side * a_side).ok()?;
        Some(Self { cols, rows, samples, range: frame.range, sums })
    }

    /// Whether cells of the two mean the same.
    pub fn matches(&self, other: &Self) -> bool {
        (self.cols, self.rows, self.samples, self.range)
            == (other.cols, other.rows, other.samples, other.range)
    }

    /// Tiles across and down.
    pub fn tiles(&self) -> (usize, usize) {
        ((self.cols / TILE_SIDE).clamp(1, TILES.0), (self.rows / TILE_SIDE).clamp(1, TILES.1))
    }

    /// The rows of one tile.
    pub fn tile(&self, col: usize, row: usize) -> impl Iterator<Item = &[u16]> + Clone {
        let (across, down) = self.tiles();
        let (width, height) = (self.cols / across, self.rows / down);
        let rows = self.sums.chunks_exact(self.cols).skip(row * height).take(height);
        rows.filter_map(move |line| line.get(col * width..(col + 1) * width))
    }

    /// All sums.
    pub fn sums(&self) -> &[u16] {
        &self.sums
    }

    /// From a sum to brightness: 0 is black, 1 is white. Values outside are possible where codes are.
    pub fn brightness(&self, sum: f32) -> f32 {
        let (black, _) = self.codes();
        (sum - black * f32::from(self.samples)) * self.unit()
    }

    /// Brightness of one step of a sum.
    pub fn unit(&self) -> f32 {
        let (black, white) = self.codes();
        1.0 / (f32::from(self.samples) * (white - black))
    }

    fn codes(&self) -> (f32, f32) {
        match self.range {
            ColorRange::Limited => (16.0, 235.0),
            ColorRange::Full => (0.0, 255.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{frame, grey};
    use super::*;

    #[test]
    fn every_size_is_reduced_to_few_cells() {
        for (width, height) in [(16, 16), (17, 16), (640, 360), (768, 432), (360, 640), (3840, 2160)] {
            let cells = Cells::of(&grey(width, height, 90)).unwrap();
            assert!(cells.cols <= MOST.0 && cells.rows <= MOST.1, "{width} x {height}: {cells:?}");
            let (across, down) = cells.tiles();
            for (col, row) in [(0, 0), (across - 1, down - 1)] {
                let lines: Vec<&[u16]> = cells.tile(col, row).collect();
                assert!(!lines.is_empty() && lines.iter().all(|line| !line.is_empty()));
            }
            let mean = cells.brightness(f32::from(cells.sums()[0]));
            assert!((mean - 74.0 / 219.0).abs() < 1e-6, "{mean}");
        }
    }

    #[test]
    fn a_sample_that_changes_by_one_code_changes_its_sum() {
        let before = Cells::of(&grey(640, 360, 90)).unwrap();
        let after = Cells::of(&frame(640, 360, |x, y| 90 + u8::from((x, y) == (101, 77)))).unwrap();
        let changed = before.sums().iter().zip(after.sums()).filter(|(a, b)| a != b).count();
        assert_eq!(changed, 1);
    }

    #[test]
    fn a_picture_without_luma_gives_none() {
        let mut broken = grey(64, 64, 90);
        broken.pixels = crate::types::Pixels::Host {
            format: crate::types::PixelFormat::I420,
            data: bytes::Bytes::new(),
            planes: vec![],
        };
        assert!(Cells::of(&broken).is_none());
    }
}
