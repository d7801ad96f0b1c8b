//! One decoded picture of one camera.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

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

/// A part of a picture, in its pixels. All four are even, so that no chroma sample is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Frame {
    /// A part of the picture as a picture of its own, of the same memory. `None` when the part is empty, reaches beyond
    /// the picture or is not even.
    pub fn part(&self, part: Part) -> Option<Self> {
        let Part { left, top, width, height } = part;
        let inside = |from: u32, side: u32, all: u32| from.checked_add(side).is_some_and(|end| end <= all);
        let even = [left, top, width, height].iter().all(|side| side % 2 == 0);
        if !even
            || width * height == 0
            || !inside(left, width, self.width)
            || !inside(top, height, self.height)
        {
            return None;
        }
        let [x, y] = [left, top].map(|side| side as usize);
        let pixels = match &self.pixels {
            Pixels::Host { format, data, planes } => {
                Pixels::Host { format: *format, data: data.clone(), planes: moved(*format, planes, x, y) }
            }
            Pixels::Cuda { format, planes, picture } => {
                let shifts = format.shifts(x, y);
                let planes = planes.iter().zip(shifts).map(|(plane, [bytes, rows])| DevicePlane {
                    address: plane.address + (rows * plane.stride + bytes) as u64,
                    ..*plane
                });
                let (format, planes) = (*format, planes.collect());
                let whole = Arc::clone(picture);
                Pixels::Cuda {
                    format,
                    planes,
                    picture: Arc::new(PartOfPicture { whole, format, x, y, planes: OnceLock::new() }),
                }
            }
        };
        Some(Self { width, height, pixels, ..self.clone() })
    }
}

/// The planes of a part that begins `x` columns and `y` rows into the picture.
fn moved(format: PixelFormat, planes: &[Plane], x: usize, y: usize) -> Vec<Plane> {
    let shifts = format.shifts(x, y);
    let moved = |(plane, [bytes, rows]): (&Plane, [usize; 2])| Plane {
        offset: plane.offset.saturating_add(rows.saturating_mul(plane.stride)).saturating_add(bytes),
        ..*plane
    };
    planes.iter().zip(shifts).map(moved).collect()
}

/// A part of a picture in a GPU's memory, for those who look at it on the host.
#[derive(Debug)]
struct PartOfPicture {
    whole: Arc<dyn DevicePicture>,
    format: PixelFormat,
    x: usize,
    y: usize,
    planes: OnceLock<Vec<Plane>>,
}

impl DevicePicture for PartOfPicture {
    fn host(&self) -> Result<(&[u8], &[Plane]), &str> {
        let (data, planes) = self.whole.host()?;
        Ok((data, self.planes.get_or_init(|| moved(self.format, planes, self.x, self.y))))
    }
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

    /// Bytes into a row and rows down to an even place of the picture, for each plane.
    fn shifts(self, x: usize, y: usize) -> Vec<[usize; 2]> {
        match self {
            Self::I420 => vec![[x, y], [x / 2, y / 2], [x / 2, y / 2]],
            Self::Nv12 => vec![[x, y], [x, y / 2]],
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

#[cfg(test)]
mod tests {
    use super::*;

    /// 8 x 4: luma is `10 * row + column`, U counts on from 100, V from 200.
    fn frame(format: PixelFormat) -> Frame {
        let mut data: Vec<u8> = (0..32).map(|i| i / 8 * 10 + i % 8).collect();
        let planes = match format {
            PixelFormat::I420 => {
                data.extend((100..108).chain(200..208));
                vec![
                    Plane { offset: 0, stride: 8 },
                    Plane { offset: 32, stride: 4 },
                    Plane { offset: 40, stride: 4 },
                ]
            }
            PixelFormat::Nv12 => {
                data.extend((0..8).flat_map(|i| [100 + i, 200 + i]));
                vec![Plane { offset: 0, stride: 8 }, Plane { offset: 32, stride: 8 }]
            }
        };
        Frame {
            camera: CameraId::new("a").unwrap(),
            seq: 0,
            captured: Timestamp::default(),
            captured_utc: UtcMillis(0),
            arrived: Timestamp::default(),
            width: 8,
            height: 4,
            pixels: Pixels::Host { format, data: data.into(), planes },
            matrix: ColorMatrix::Bt601,
            range: ColorRange::Full,
            siting: ChromaSiting::JPEG,
        }
    }

    #[test]
    fn a_part_begins_at_its_own_samples() {
        for format in [PixelFormat::I420, PixelFormat::Nv12] {
            let part = frame(format).part(Part { left: 4, top: 2, width: 2, height: 2 }).unwrap();
            assert_eq!((part.width, part.height), (2, 2));
            let host = part.pixels.host().unwrap();
            let first: Vec<u8> = host.planes.iter().map(|plane| host.data[plane.offset]).collect();
            // Luma of row 2, column 4; chroma of row 1, column 2.
            match format {
                PixelFormat::I420 => assert_eq!(first, [24, 106, 206]),
                PixelFormat::Nv12 => {
                    assert_eq!((first, host.data[host.planes[1].offset + 1]), (vec![24, 106], 206))
                }
            }
        }
    }

    #[test]
    fn a_part_outside_or_odd_is_none() {
        let frame = frame(PixelFormat::I420);
        let part = |left, top, width, height| frame.part(Part { left, top, width, height }).is_some();
        assert!(part(0, 0, 8, 4) && part(6, 2, 2, 2));
        assert!(!part(6, 2, 4, 2) && !part(1, 0, 2, 2) && !part(0, 0, 0, 2) && !part(u32::MAX - 1, 0, 2, 2));
    }
}
