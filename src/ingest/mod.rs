//! Camera streams to frames. Each camera has one OS thread, `camera-<id>`, that owns its source: it builds a
//! new pipeline for every attempt, reconnects with back-off and says on the [`HealthBoard`] how the camera
//! is. Frames go to [`Slots`] from the pipeline's own threads. It must never touch another camera.
//!
//! Only this module knows GStreamer, and without the cargo feature `gstreamer` it still reads image folders.

pub mod age;
pub mod backoff;
pub mod clip;
pub mod flag;
mod paced;
pub mod stills;
mod supervisor;
pub mod url;

#[cfg(all(feature = "gstreamer", feature = "cuda"))]
mod cuda_memory;
#[cfg(feature = "gstreamer")]
mod decoder;
#[cfg(feature = "gstreamer")]
mod encoded;
#[cfg(feature = "gstreamer")]
mod fault;
#[cfg(feature = "gstreamer")]
pub mod gst_log;
#[cfg(feature = "gstreamer")]
mod inventory;
#[cfg(all(feature = "gstreamer", feature = "cuda"))]
mod nvmm;
#[cfg(feature = "gstreamer")]
mod pipeline;
#[cfg(feature = "gstreamer")]
mod sample;
#[cfg(feature = "gstreamer")]
mod session;
#[cfg(feature = "gstreamer")]
mod video;
#[cfg(all(feature = "gstreamer", not(feature = "cuda")))]
mod without_cuda;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "gstreamer")]
pub use inventory::{Element, Inventory, inventory};
pub use supervisor::CameraHandle;
pub use url::{StreamUrl, UrlError};

use crate::clock;
use crate::slot::{HealthBoard, Slots};
use crate::types::CameraId;

/// Smallest side of a picture in pixels.
pub const MIN_SIDE: u32 = 16;
/// Widest accepted picture in pixels.
pub const MAX_WIDTH: u32 = 3840;
/// Highest accepted picture in pixels.
pub const MAX_HEIGHT: u32 = 2160;

/// Where a camera's pictures come from.
#[derive(Debug, Clone, PartialEq)]
pub enum CameraSource {
    /// A camera on the network.
    Rtsp(RtspSource),
    /// A video file (mp4 or mkv), played at its own pace as if it were live.
    File {
        /// The file.
        path: PathBuf,
        /// Begin again at its end.
        loop_: bool,
    },
    /// A folder of jpg and png files in the order of their names, or one such file.
    Images {
        /// The folder.
        dir: PathBuf,
        /// Pictures a second, above zero.
        fps: f64,
        /// Begin again at the end.
        loop_: bool,
    },
}

/// A camera on the network. The codec (H.264 or H.265) is read from the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct RtspSource {
    /// Its address.
    pub url: StreamUrl,
    /// Certificates (PEM) to trust for rtsps, instead of the system's. There is no way not to check.
    pub ca_file: Option<PathBuf>,
    /// How long the first picture may take.
    pub first_frame_timeout: Duration,
    /// What decodes it.
    pub decode: Decode,
}

/// What is to decode a camera's stream. A GPU that cannot, or that fails, leaves it to the CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Decode {
    /// The GPU if the model runs there, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU, wherever the model runs.
    Gpu,
}

/// Who reads the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The CPU: pixels have to be in ordinary memory.
    Cpu,
    /// The first GPU, in CUDA's primary context: pixels may stay there.
    Gpu,
}

impl RtspSource {
    /// First picture within 10 s, certificates of the system, decoded where it suits.
    pub fn new(url: StreamUrl) -> Self {
        let first_frame_timeout = Duration::from_secs(10);
        Self { url, ca_file: None, first_frame_timeout, decode: Decode::default() }
    }
}

/// Why a source cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// This program was built without GStreamer.
    #[error(
        "camera '{camera}': this program was built without video; use the build with feature `gstreamer`"
    )]
    NoGstreamer {
        /// The camera.
        camera: CameraId,
    },
    /// GStreamer itself does not start.
    #[error("camera '{camera}': GStreamer does not start: {problem}")]
    Gstreamer {
        /// The camera.
        camera: CameraId,
        /// What it says.
        problem: String,
    },
    /// A GStreamer plugin is not installed.
    #[error("camera '{camera}': GStreamer has no '{element}': install the Debian package {package}")]
    MissingPlugin {
        /// The camera.
        camera: CameraId,
        /// The element that is missing.
        element: String,
        /// The package that has it.
        package: &'static str,
    },
    /// No such file or folder.
    #[error("camera '{camera}': '{}' is not there or cannot be read: {problem}", path.display())]
    NotFound {
        /// The camera.
        camera: CameraId,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        problem: String,
    },
    /// The file or stream is of a kind that is not read.
    #[error("camera '{camera}': {problem}")]
    Unsupported {
        /// The camera.
        camera: CameraId,
        /// What it is and what is read.
        problem: String,
    },
    /// The file is damaged.
    #[error("camera '{camera}': '{}' is damaged: {problem}", path.display())]
    Damaged {
        /// The camera.
        camera: CameraId,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The thread could not be started.
    #[error("camera '{camera}': its thread cannot be started: {problem}")]
    Thread {
        /// The camera.
        camera: CameraId,
        /// What the system says.
        problem: String,
    },
}

/// Starts a camera's thread. It tries for ever, whatever the camera does, until the handle is stopped or
/// dropped. `camera_latency` is the delay inside the camera, which nobody can see from outside; `reader` is who
/// reads the pictures.
/// Errors only on what waiting does not mend: GStreamer or one of its plugins is not installed.
pub fn spawn(
    camera: CameraId,
    source: CameraSource,
    camera_latency: Duration,
    reader: Reader,
    slots: Arc<Slots>,
    health: Arc<HealthBoard>,
) -> Result<CameraHandle, IngestError> {
    supervisor::spawn(camera, source, camera_latency, reader, slots, health)
}

/// Whether [`spawn`] would start the camera; tries nothing. Errors as it would.
pub fn ready(camera: &CameraId, source: &CameraSource) -> Result<(), IngestError> {
    supervisor::ready(camera, source)
}

/// Stops cameras, all at once: within 2 s however many hang.
pub fn stop_all(cameras: Vec<CameraHandle>) {
    cameras.iter().for_each(CameraHandle::ask_to_stop);
    let by = clock::monotonic() + supervisor::STOP_WITHIN;
    cameras.into_iter().for_each(|camera| camera.stop_by(by));
}
