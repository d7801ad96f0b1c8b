//! Heads read one frame's features and add to its [`Scene`]. Pure: no clock, no I/O, no threads.
//!
//! The matrix of a shipped head is part of the model's graph ([`crate::model::graph::GraphHead`]); what is
//! here is its host part: logits to masks, bins to metres.

pub mod closer;
pub mod decoder;
pub mod depth;
pub mod file;
pub mod other_depth;
pub mod segment;
pub mod shipped;
pub mod surface;
pub mod taught;
pub mod upsample;

pub use depth::DepthHead;
pub use file::HeadFile;
pub use segment::SegmentHead;
pub use surface::SurfaceHead;
pub use taught::{TaughtHead, TaughtState};

use crate::types::{Features, Scene, Trust};

/// Why a head failed on a frame or a head file is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The graph has no output for this head.
    #[error("the model's graph has no output '{0}': build it with this head")]
    NoOutput(String),
    /// A head's file is not what it should be.
    #[error("head file '{name}' is not usable: {problem}")]
    File {
        /// The head.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The output holds what is no number.
    #[error("the model's output '{0}' holds a NaN or an infinity")]
    NotFinite(String),
    /// The output has another shape than the head expects.
    #[error("head '{name}' got {got} values where {expected} were expected")]
    Shape {
        /// The head.
        name: String,
        /// What came.
        got: usize,
        /// What should have come.
        expected: usize,
    },
}

/// One head.
pub trait Head: Send {
    /// Its name.
    fn name(&self) -> &str;

    /// Adds what it sees in the features to the scene.
    fn apply(&mut self, features: &Features, scene: &mut Scene) -> Result<(), HeadError>;

    /// Whether it finds things, and finds them better where the picture is shown larger.
    fn looks_closer(&self) -> bool {
        false
    }

    /// The states that it reads. Most read none.
    fn states(&self) -> &[TaughtState] {
        &[]
    }
}

/// A scene that nothing has been added to.
pub fn empty_scene(features: &Features) -> Scene {
    Scene {
        camera: features.frame.camera.clone(),
        seq: features.frame.seq,
        captured: features.frame.captured,
        captured_utc: features.frame.captured_utc,
        transform: features.transform,
        grid: features.grid,
        things: Vec::new(),
        floor: Vec::new(),
        depth: None,
        states: vec![],
        trust: Trust::Trusted,
    }
}

/// A dense output with its shape checked.
fn dense<'a>(features: &'a Features, name: &str, channels: usize) -> Result<&'a [f32], HeadError> {
    let dense = features.dense.get(name).ok_or_else(|| HeadError::NoOutput(name.to_owned()))?;
    let expected = features.grid.len() * channels;
    if dense.channels != channels || dense.values.len() != expected {
        return Err(HeadError::Shape { name: name.to_owned(), got: dense.values.len(), expected });
    }
    // What is no number is in no class, and would look like an empty scene.
    if dense.values.iter().any(|value| !value.is_finite()) {
        return Err(HeadError::NotFinite(name.to_owned()));
    }
    Ok(&dense.values)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use bytes::Bytes;

    use crate::clock::{Timestamp, UtcMillis};
    use crate::types::{
        CameraId, ChromaSiting, ClassName, ColorMatrix, ColorRange, Dense, Features, Frame, Grid,
        PixelFormat, PixelTransform, Pixels, StageTimes,
    };

    pub(crate) fn names(names: &[&str]) -> Vec<ClassName> {
        names.iter().map(|n| ClassName::new(n).unwrap()).collect()
    }

    /// Features of a picture as large as the input, with one dense output.
    pub(crate) fn features_with(grid: Grid, name: &str, channels: usize, values: Vec<f32>) -> Features {
        let (width, height) = ((grid.cols * grid.patch_px) as u32, (grid.rows * grid.patch_px) as u32);
        let transform = PixelTransform {
            source_width: width,
            source_height: height,
            input_width: width,
            input_height: height,
            scale_x: 1.0,
            scale_y: 1.0,
            offset_x: 0.0,
            offset_y: 0.0,
        };
        let captured = Timestamp::from_nanos(0);
        Features {
            frame: Frame {
                camera: CameraId::new("test").unwrap(),
                seq: 0,
                captured,
                captured_utc: UtcMillis(0),
                arrived: captured,
                width,
                height,
                pixels: Pixels::Host { format: PixelFormat::I420, data: Bytes::new(), planes: Vec::new() },
                matrix: ColorMatrix::Bt601,
                range: ColorRange::Full,
                siting: ChromaSiting::JPEG,
            },
            transform,
            grid,
            dim: 0,
            layers: Vec::new(),
            cls: Vec::new(),
            dense: BTreeMap::from([(name.to_owned(), Dense { channels, values })]),
            closer: Vec::new(),
            times: StageTimes { backbone: Duration::ZERO, ..StageTimes::default() },
        }
    }
}
