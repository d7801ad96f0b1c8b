//! One decoded picture of one camera.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;

use super::ids::CameraId;
use crate::clock::{Timestamp, UtcMillis};

/// One decoded picture. Immutable; a clone is a reference count.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Whose picture it is.
    pub camera: CameraId,
    /// Counts the camera's frames from 0; gaps are frames that were dropped.
    pub seq: u64,
    /// When the picture was taken (not when it arrived), as far as `ingest/age` can tell.
    pub captured: Timestamp,
    /// The same moment in the time of day.
    pub captured_utc: UtcMillis,
    /// When it left the decoder.
    pub arrived: Timestamp,
    /// Width of the picture in pixels.
    pub width: u32,
    /// Height of the picture in pixels.
    pub height: u32,
    /// Where the pixels are.
    pub pixels: Pixels,
    /// Which matrix turns its YUV into RGB, read from the stream's caps, never guessed.
    pub matrix: ColorMatrix,
    /// Which codes are black and white.
    pub range: ColorRange,
    /// Where a chroma sample lies among its four luma samples.
    pub siting: ChromaSiting,
}

/// Where decoded pixels lie. Only `ingest` makes them.
#[derive(Debug, Clone)]
pub enum Pixels {
    /// Ordinary memory.
    Host {
        /// How the planes are laid out.
        format: PixelFormat,
        /// All planes; kept alive by whoever made it (a mapped GStreamer buffer, a vector).
        data: Bytes,
        /// One a plane: 3 for I420, 2 for NV12.
        planes: Vec<Plane>,
    },
    /// Memory of the first GPU, in CUDA's primary context. It is complete: nobody has to wait for the decoder.
    Cuda {
        /// How the planes are laid out.
        format: PixelFormat,
        /// One a plane: 3 for I420, 2 for NV12.
        planes: Vec<DevicePlane>,
        /// Keeps the memory alive, and copies it to the host for those who look at pixels there.
        picture: Arc<dyn DevicePicture>,
    },
}

impl Pixels {
    /// The pixels in ordinary memory; those of a GPU are copied the first time that somebody asks. Errors with what
    /// the copy failed on.
    pub fn host(&self) -> Result<HostPlanes<'_>, &str> {
        match self {
            Self::Host { format, data, planes } => Ok(HostPlanes { format: *format, data, planes }),
            Self::Cuda { format, picture, .. } => {
                picture.host().map(|(data, planes)| HostPlanes { format: *format, data, planes })
            }
        }
    }
}

/// A picture in a GPU's memory, held by whoever decoded it.
pub trait DevicePicture: Debug + Send + Sync {
    /// All bytes and the planes in them, in ordinary memory; copied once. Errors with why they cannot be copied.
    fn host(&self) -> Result<(&[u8], &[Plane]), &str>;
}

/// Where a plane lies in a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicePlane {
    /// Address of the first row on the device.
    pub address: u64,
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// The planes of a picture in ordinary memory, as they were given: they may not lie inside the data.
#[derive(Debug, Clone, Copy)]
pub struct HostPlanes<'a> {
    /// How they are laid out.
    pub format: PixelFormat,
    /// All of them.
    pub data: &'a [u8],
    /// One a plane.
    pub planes: &'a [Plane],
}

/// 4:2:0 layouts that decoders give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelFormat {
    /// Planes Y, U, V.
    I420,
    /// Plane Y, plane of interleaved U and V.
    Nv12,
}

impl PixelFormat {
    /// Bytes of a row and rows of each plane of a picture of `width` by `height` pixels.
    pub fn plane_sizes(self, width: usize, height: usize) -> Vec<[usize; 2]> {
        let (luma, [columns, rows]) = ([width, height], [width, height].map(|side| side.div_ceil(2)));
        match self {
            Self::I420 => vec![luma, [columns, rows], [columns, rows]],
            Self::Nv12 => vec![luma, [2 * columns, rows]],
        }
    }
}

/// Where a plane lies in the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plane {
    /// Offset of the first row in bytes.
    pub offset: usize,
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// YUV to RGB matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorMatrix {
    /// ITU-R BT.601: Kr 0.299, Kb 0.114.
    Bt601,
    /// ITU-R BT.709: Kr 0.2126, Kb 0.0722.
    Bt709,
    /// ITU-R BT.2020: Kr 0.2627, Kb 0.0593.
    Bt2020,
}

/// Ranges of the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorRange {
    /// Y 16..235, chroma 16..240.
    Limited,
    /// 0..255.
    Full,
}

/// Where the chroma samples lie, one flag an axis: `true` means that a chroma sample lies on the
/// first of its two luma samples (co-sited), `false` that it lies between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChromaSiting {
    /// Along a row. MPEG-2, H.264's and H.265's default is `true`, JPEG's is `false`.
    pub horizontal_cosited: bool,
    /// Along a column. `false` in both.
    pub vertical_cosited: bool,
}

impl ChromaSiting {
    /// H.264's and H.265's default.
    pub const MPEG2: Self = Self { horizontal_cosited: true, vertical_cosited: false };
    /// JPEG's.
    pub const JPEG: Self = Self { horizontal_cosited: false, vertical_cosited: false };
}
