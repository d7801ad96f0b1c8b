//! A backend with a depth network beside it: a second session of ONNX Runtime on the CPU, which sees each frame once
//! more, brought to the network's own input. That costs a second backbone pass a frame.

use std::collections::BTreeMap;

use ort::session::Session;
use ort::value::{Shape, TensorRef};

use super::{builder, infer, library_candidates, load};
use crate::backend::{Backend, BackendError, BackendSettings, BackendSpec};
use crate::clock::{self, Timestamp};
use crate::model::depth::DepthNetwork;
use crate::model::store::Store;
use crate::preprocess::Preprocessor;
use crate::types::{Batch, CameraId, Dense, Features, Frame, PixelTransform};

/// Name of the dense output that the depth is added as, one value a patch.
const DEPTH: &str = "depth";

/// The backend.
pub struct WithDepth {
    inner: Box<dyn Backend>,
    spec: BackendSpec,
    network: DepthNetwork,
    session: Session,
    preprocessor: Preprocessor,
    /// Width and height of the network's input in pixels.
    input: [u32; 2],
    pixels: Vec<f32>,
    /// The last frame of each camera: when it was taken, and its size.
    whole: BTreeMap<CameraId, (Timestamp, [u32; 2])>,
}

/// What a network sees, one value a pixel of its output.
struct Map<'a> {
    values: &'a [f32],
    width: usize,
    height: usize,
}

impl WithDepth {
    /// Opens the network's session and runs it once.
    ///
    /// # Errors
    /// The library or the file does not open, or what comes out is no map.
    pub fn open(
        inner: Box<dyn Backend>,
        network: &DepthNetwork,
        settings: &BackendSettings,
    ) -> Result<Self, BackendError> {
        let open = |error: String| {
            BackendError::Open(format!(
                "the depth network '{}': {error}; docs/depth.md says which files are of use",
                network.file.display()
            ))
        };
        let store = Store::locate().map_err(|error| open(error.to_string()))?;
        let environment = load(&library_candidates(settings.library.as_deref(), &store))?;
        let mut builder = builder(&environment, settings).map_err(|error| open(error.to_string()))?;
        let session = builder.commit_from_file(&network.file).map_err(|error| open(error.to_string()))?;
        let input = network.size.unwrap_or([settings.input_width, settings.input_height]);
        let preprocessor = Preprocessor::new(input[0], input[1]);
        let mut spec = inner.spec().clone();
        spec.heads.push(DEPTH.to_owned());
        let pixels = vec![0.0; preprocessor.values()];
        let (network, whole) = (network.clone(), BTreeMap::new());
        let mut backend = Self { inner, spec, network, session, preprocessor, input, pixels, whole };
        backend.forward(|_| ()).map_err(|error| open(error.to_string()))?;
        Ok(backend)
    }

    /// Runs the picture that lies in the buffer.
    fn forward<T>(&mut self, read: impl FnOnce(Map<'_>) -> T) -> Result<T, BackendError> {
        let [width, height] = self.input.map(|side| side as usize);
        let input =
            TensorRef::from_array_view(([1, 3, height, width], self.pixels.as_slice())).map_err(infer)?;
        let outputs = self.session.run(ort::inputs![self.network.input.as_str() => input]).map_err(infer)?;
        let output = &outputs[self.network.output.as_str()];
        let (shape, values): (&Shape, &[f32]) = output.try_extract_tensor().map_err(infer)?;
        let sides: Vec<usize> = shape.iter().filter_map(|side| usize::try_from(*side).ok()).collect();
        let (front, size) = sides.split_at(sides.len().saturating_sub(2));
        let [height, width] = *size else {
            return Err(BackendError::Infer(format!("the depth network gave the shape {shape:?}")));
        };
        if front.iter().any(|side| *side != 1) || values.is_empty() {
            return Err(BackendError::Infer(format!(
                "the depth network gave the shape {shape:?}, not one map"
            )));
        }
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(BackendError::Infer(format!("the depth network gave {value}")));
        }
        Ok(read(Map { values, width, height }))
    }

    /// Adds the depth at the centre of every patch.
    fn add_depth(&mut self, features: &mut Features) -> Result<(), BackendError> {
        let frame = &features.frame;
        let start = clock::monotonic();
        let to_network = self.preprocessor.run(frame, &mut self.pixels).map_err(|error| {
            let (camera, seq) = (frame.camera.to_string(), frame.seq);
            BackendError::Preprocess { camera, seq, problem: error.to_string() }
        })?;
        let prepared = clock::monotonic();
        let (grid, to_input) = (features.grid, features.transform);
        let values = self.forward(|map| {
            let side = grid.patch_px as f64;
            let centre = |i: usize| [i % grid.cols, i / grid.cols].map(|at| (at as f64 + 0.5) * side);
            (0..grid.len()).map(|i| map.at(centre(i), &to_input, &to_network)).collect()
        })?;
        features.times.preprocess += prepared.since(start);
        features.times.backbone += clock::monotonic().since(prepared);
        features.dense.insert(DEPTH.to_owned(), Dense { channels: 1, values });
        Ok(())
    }

    /// Whether this is a part of the frame that was seen last, given again for a closer look: nobody reads its depth.
    fn is_part(&mut self, frame: &Frame) -> bool {
        let size = [frame.width, frame.height];
        let last = self.whole.get(&frame.camera);
        if last.is_some_and(|(captured, whole)| *captured == frame.captured && *whole != size) {
            return true;
        }
        self.whole.insert(frame.camera.clone(), (frame.captured, size));
        false
    }
}

impl Backend for WithDepth {
    fn spec(&self) -> &BackendSpec {
        &self.spec
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Features>, BackendError> {
        let mut all = self.inner.infer(batch)?;
        for features in &mut all {
            if !self.is_part(&features.frame) {
                self.add_depth(features)?;
            }
        }
        Ok(all)
    }
}

impl Map<'_> {
    /// The value at a point of the backbone's input, bilinearly.
    fn at(&self, point: [f64; 2], to_input: &PixelTransform, to_network: &PixelTransform) -> f32 {
        let [x, y] = to_network.input_from_source(to_input.source_from_input(point));
        let axis = |at: f64, input: u32, cells: usize| {
            let at = at * cells as f64 / f64::from(input) - 0.5;
            let at = at.clamp(0.0, (cells - 1) as f64);
            (at as usize, (at as usize + 1).min(cells - 1), at.fract())
        };
        let (left, right, across) = axis(x, to_network.input_width, self.width);
        let (top, bottom, down) = axis(y, to_network.input_height, self.height);
        let row = |row: usize| {
            let value = |col: usize| f64::from(self.values[row * self.width + col]);
            value(left) * (1.0 - across) + value(right) * across
        };
        (row(top) * (1.0 - down) + row(bottom) * down) as f32
    }
}
