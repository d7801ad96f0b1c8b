//! What one backbone pass leaves of one frame.

use std::collections::BTreeMap;

use super::event::{Reason, StageTimes};
use super::frame::{Frame, Part};
use super::ids::CameraId;
use crate::clock::Timestamp;

/// Up to `max_batch` frames, at most one a camera, of the cameras that have waited longest, in order of capture.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The frames.
    pub frames: Vec<Frame>,
}

/// The patch grid of the backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Patches down.
    pub rows: usize,
    /// Patches across.
    pub cols: usize,
    /// Side of a patch in input pixels: 14.
    pub patch_px: usize,
}

impl Grid {
    /// Number of patch tokens.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// True when there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a pixel of the source picture lies in the backbone's input, exactly: for each axis
/// `input = scale * source + offset`, both counted in pixels from the outer edge of the top left
/// pixel (whose centre is at 0.5). The scale may differ between the axes by the rounding of the
/// letterbox to whole pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelTransform {
    /// Width of the source picture in pixels.
    pub source_width: u32,
    /// Height of the source picture in pixels.
    pub source_height: u32,
    /// Width of the backbone's input in pixels.
    pub input_width: u32,
    /// Height of the backbone's input in pixels.
    pub input_height: u32,
    /// Input pixels per source pixel along a row.
    pub scale_x: f64,
    /// Input pixels per source pixel along a column.
    pub scale_y: f64,
    /// Left padding in input pixels.
    pub offset_x: f64,
    /// Top padding in input pixels.
    pub offset_y: f64,
}

impl PixelTransform {
    /// The same input seen from the whole picture, of which the source was a part.
    pub fn within(self, part: Part, [source_width, source_height]: [u32; 2]) -> Self {
        Self {
            source_width,
            source_height,
            offset_x: self.offset_x - self.scale_x * f64::from(part.left),
            offset_y: self.offset_y - self.scale_y * f64::from(part.top),
            ..self
        }
    }

    /// Whether the input shows a part of the source picture only: it is that of a closer look.
    pub fn is_part(&self) -> bool {
        let beyond = |source: u32, scale: f64, input: u32| f64::from(source) * scale > f64::from(input) + 1.0;
        beyond(self.source_width, self.scale_x, self.input_width)
            || beyond(self.source_height, self.scale_y, self.input_height)
    }

    /// A point of the source picture in the backbone's input.
    pub fn input_from_source(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.scale_x * x + self.offset_x, self.scale_y * y + self.offset_y]
    }

    /// A point of the backbone's input in the source picture; outside of it in the padding.
    pub fn source_from_input(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [(x - self.offset_x) / self.scale_x, (y - self.offset_y) / self.scale_y]
    }
}

/// A dense output of a head: `channels` values a patch, token-major (`values[token * channels + channel]`).
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    /// Values a patch.
    pub channels: usize,
    /// `grid.len() * channels` values.
    pub values: Vec<f32>,
}

/// One backbone pass over one frame, on the host.
#[derive(Debug, Clone)]
pub struct Features {
    /// The frame itself: snapshots, view health and refinement need its pixels.
    pub frame: Frame,
    /// Where the frame's pixels lie in the input.
    pub transform: PixelTransform,
    /// The patch grid of the input.
    pub grid: Grid,
    /// Width of a token.
    pub dim: usize,
    /// Patch tokens after each tapped block (no final norm), `grid.len() * dim` values each, in row-major
    /// patch order. The CLS and register tokens are not in them.
    pub layers: Vec<Vec<f32>>,
    /// CLS token after the final norm, `dim` values.
    pub cls: Vec<f32>,
    /// Outputs of the heads that are part of the graph, by the head's name.
    pub dense: BTreeMap<String, Dense>,
    /// Parts of the same frame, larger, their transforms those of the whole picture.
    pub closer: Vec<Features>,
    /// How long the stages took.
    pub times: StageTimes,
}

/// What became of a frame.
#[derive(Debug)]
pub enum Seen {
    /// It went through the backbone.
    Frame(Box<Features>),
    /// It did not.
    Failed {
        /// The frame's camera.
        camera: CameraId,
        /// When it was captured.
        captured: Timestamp,
        /// Why.
        reason: Reason,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transform_and_inverse_agree() {
        let t = PixelTransform {
            source_width: 640,
            source_height: 360,
            input_width: 392,
            input_height: 224,
            scale_x: 0.6125,
            scale_y: 221.0 / 360.0,
            offset_x: 0.0,
            offset_y: 1.0,
        };
        assert_eq!(t.input_from_source([0.0, 360.0]), [0.0, 222.0]);
        let [x, y] = t.source_from_input(t.input_from_source([123.4, 56.7]));
        assert!((x - 123.4).abs() < 1e-9 && (y - 56.7).abs() < 1e-9);
        // A part of a larger picture: its corner is where the part's corner was.
        let whole = t.within(Part { left: 100, top: 40, width: 640, height: 360 }, [1920, 1080]);
        assert_eq!((whole.source_width, whole.source_height), (1920, 1080));
        let [x, y] = whole.input_from_source([100.0, 40.0]);
        assert!((x - t.offset_x).abs() < 1e-9 && (y - t.offset_y).abs() < 1e-9);
    }
}
