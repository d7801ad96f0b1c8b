//! The backbone, wherever it runs. A backend hides where its memory is: upload, preprocess and model are
//! inside it, and only [`Features`] come out. It is owned by the `infer` thread.

pub mod choice;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod driver;
pub mod gate;
pub mod onnxruntime;
pub mod recorded;
#[cfg(feature = "tensorrt")]
pub mod tensorrt;

use std::path::PathBuf;

pub use self::choice::{Chosen, Wanted, choose};

use crate::model::depth::DepthNetwork;
use crate::model::graph::{GraphHead, Precision};
use crate::types::{Batch, Features, Grid};

/// What to run.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendSettings {
    /// Name of an installed model, or the path of a weights file.
    pub model: String,
    /// Width of the model's input in pixels, a multiple of 14.
    pub input_width: u32,
    /// Height of the model's input in pixels, a multiple of 14.
    pub input_height: u32,
    /// Frames that one call takes at most.
    pub max_batch: usize,
    /// Threads of the model; none for one a core.
    pub threads: Option<usize>,
    /// Heads that become part of the graph.
    pub heads: Vec<GraphHead>,
    /// A network that gives the depth, beside the model: a second pass, on the CPU, over each frame.
    pub depth: Option<DepthNetwork>,
    /// Whether [`Features::layers`] are wanted: training and what was taught on site read them. Without
    /// them they are empty, which saves 2.7 MB a frame.
    pub layers: bool,
    /// What it shall run on.
    pub wanted: Wanted,
    /// In which floats a GPU shall compute; the CPU always takes 32 bits.
    pub precision: Precision,
    /// A file of recorded features that answers instead of the model.
    pub recorded: Option<PathBuf>,
    /// The inference library; none to look for it in `$ORT_DYLIB_PATH`, the store and the system.
    pub library: Option<PathBuf>,
}

impl Default for BackendSettings {
    fn default() -> Self {
        Self {
            model: "dinov2-small".to_owned(),
            input_width: 392,
            input_height: 224,
            max_batch: 1,
            threads: None,
            heads: Vec::new(),
            depth: None,
            layers: true,
            wanted: Wanted::Auto,
            precision: Precision::Mixed,
            recorded: None,
            library: None,
        }
    }
}

/// What a backend was built for.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendSpec {
    /// Name for people, with version: "ONNX Runtime 1.23.2 (CPU)".
    pub name: String,
    /// Width of the model's input in pixels, a multiple of 14.
    pub input_width: u32,
    /// Height of the model's input in pixels, a multiple of 14.
    pub input_height: u32,
    /// The patch grid of that input.
    pub grid: Grid,
    /// Width of a token.
    pub dim: usize,
    /// Frames that one call takes at most.
    pub max_batch: usize,
    /// Names of the heads that are part of the graph.
    pub heads: Vec<String>,
    /// Whether it takes pictures from the first GPU's memory where they lie.
    pub reads_gpu: bool,
}

/// Why a backend failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The library is not there or too old.
    #[error("ONNX Runtime cannot be used: {problem}; `standoff doctor` says what is missing")]
    Library {
        /// What is wrong.
        problem: String,
    },
    /// The model is not there.
    #[error("{0}")]
    NotInstalled(String),
    /// The model could not be opened.
    #[error("the model cannot be opened: {0}")]
    Open(String),
    /// A frame could not be preprocessed.
    #[error("frame {seq} of camera '{camera}' cannot be preprocessed: {problem}")]
    Preprocess {
        /// The frame's camera.
        camera: String,
        /// The frame's number.
        seq: u64,
        /// What is wrong.
        problem: String,
    },
    /// Inference failed; the next one may not.
    #[error("inference failed: {0}")]
    Infer(String),
    /// The device does not answer any more and will not in this process: a broken CUDA context does not heal.
    #[error("the device is lost to this process: {0}")]
    Broken(String),
}

/// Runs the backbone.
pub trait Backend: Send {
    /// What it was built for.
    fn spec(&self) -> &BackendSpec;

    /// One pass over a batch of 1 to `max_batch` frames of any sizes. Returns one [`Features`] a frame, in
    /// order, with `times.preprocess` and `times.backbone` filled in.
    fn infer(&mut self, batch: &Batch) -> Result<Vec<Features>, BackendError>;
}

/// Opens what [`choose`] chooses and says in the log what that is and why. It was run once, so that the first frame is
/// not the slow one.
///
/// # Errors
/// As [`choose`].
pub fn open(settings: &BackendSettings) -> Result<Box<dyn Backend>, BackendError> {
    let chosen = choose(settings)?;
    chosen.log();
    Ok(chosen.backend)
}
