//! Where the bytes of a batch's pictures are, on the host or on the device, and where they go. Pure.

use super::launch;
use crate::preprocess::{PlaneRows, Planes, PreprocessError, planes_of};
use crate::types::{DevicePlane, Frame, PixelFormat, Pixels};

/// Planes begin at multiples of this, rows being read four bytes at a time.
pub const ALIGNMENT: usize = 256;

/// The bytes of a plane, from the first of its first row to the last of its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bytes<'a> {
    /// In ordinary memory.
    Host(&'a [u8]),
    /// At this address of the device.
    Device(u64),
}

/// One plane of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaneSource<'a> {
    /// Where its bytes are.
    pub bytes: Bytes<'a>,
    /// How many they are.
    pub length: usize,
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Bytes of a row.
    pub row_bytes: usize,
}

/// The planes of a picture, each known to be as large as the picture needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source<'a> {
    /// How they are laid out.
    pub format: PixelFormat,
    /// One a plane.
    pub planes: Vec<PlaneSource<'a>>,
}

impl<'a> Source<'a> {
    /// Of a frame. Fails when its planes are not what its size needs.
    pub fn of(frame: &'a Frame) -> Result<Self, PreprocessError> {
        if let Pixels::Cuda { format, planes, .. } = &frame.pixels {
            return on_device(*format, planes, frame.width as usize, frame.height as usize);
        }
        Self::on_host(frame)
    }

    /// Of a frame in ordinary memory, copied from the device when it lies there. Fails when its planes are not what its
    /// size needs.
    pub fn on_host(frame: &'a Frame) -> Result<Self, PreprocessError> {
        let of = |rows: &PlaneRows<'a>| PlaneSource {
            bytes: Bytes::Host(rows.data),
            length: rows.data.len(),
            stride: rows.stride,
            row_bytes: rows.row_bytes,
        };
        Ok(match planes_of(frame)? {
            Planes::I420(planes) => {
                Self { format: PixelFormat::I420, planes: planes.iter().map(of).collect() }
            }
            Planes::Nv12(planes) => {
                Self { format: PixelFormat::Nv12, planes: planes.iter().map(of).collect() }
            }
        })
    }

    /// Whether it lies in ordinary memory.
    pub fn is_on_host(&self) -> bool {
        self.planes.iter().all(|plane| matches!(plane.bytes, Bytes::Host(_)))
    }

    /// Bytes that it takes, each plane aligned.
    pub fn space(&self) -> usize {
        self.planes.iter().map(|plane| plane.length.next_multiple_of(ALIGNMENT)).sum()
    }

    /// Where each plane begins in a place of [`Source::space`] bytes.
    pub fn starts(&self) -> impl Iterator<Item = usize> {
        self.planes.iter().scan(0, |next, plane| {
            let start = *next;
            *next += plane.length.next_multiple_of(ALIGNMENT);
            Some(start)
        })
    }

    /// The planes as the kernels see them where they are.
    pub fn in_place(&self) -> [launch::Plane; 3] {
        let here = self.planes.iter().map(|plane| match plane.bytes {
            Bytes::Host(data) => plane.at(data.as_ptr() as u64),
            Bytes::Device(address) => plane.at(address),
        });
        by_sample(self.format, &here.collect::<Vec<_>>())
    }

    /// The same when the picture's place begins at `address`.
    pub fn placed_at(&self, address: u64) -> [launch::Plane; 3] {
        let placed =
            self.planes.iter().zip(self.starts()).map(|(plane, start)| plane.at(address + start as u64));
        by_sample(self.format, &placed.collect::<Vec<_>>())
    }
}

impl PlaneSource<'_> {
    fn at(&self, address: u64) -> launch::Plane {
        // Rows of more than 2 GiB do not exist: the data of a frame would not fit.
        let number = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
        launch::Plane {
            data: address,
            pitch: number(self.stride),
            step: 1,
            row_bytes: number(self.row_bytes),
        }
    }
}

fn on_device<'a>(
    format: PixelFormat,
    planes: &[DevicePlane],
    width: usize,
    height: usize,
) -> Result<Source<'a>, PreprocessError> {
    let sizes = format.plane_sizes(width, height);
    if width == 0 || height == 0 {
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        return Err(PreprocessError::Empty { width: side(width), height: side(height) });
    }
    if planes.len() != sizes.len() {
        return Err(PreprocessError::Planes { format, expected: sizes.len(), found: planes.len() });
    }
    let plane = |(index, (&DevicePlane { address, stride }, [row_bytes, rows])): (usize, (_, [usize; 2]))| {
        if stride < row_bytes {
            return Err(PreprocessError::PlaneSize { plane: index, rows, row_bytes, stride, available: 0 });
        }
        let length = stride * (rows - 1) + row_bytes;
        Ok(PlaneSource { bytes: Bytes::Device(address), length, stride, row_bytes })
    };
    let planes = planes.iter().zip(sizes).enumerate().map(plane).collect::<Result<_, _>>()?;
    Ok(Source { format, planes })
}

/// Y, U and V as the kernels see them: the samples of an interleaved plane lie two bytes apart.
fn by_sample(format: PixelFormat, planes: &[launch::Plane]) -> [launch::Plane; 3] {
    let plane = |at: usize| planes.get(at).copied().unwrap_or_default();
    match format {
        PixelFormat::I420 => [plane(0), plane(1), plane(2)],
        PixelFormat::Nv12 => {
            let u = launch::Plane { step: 2, ..plane(1) };
            [plane(0), u, launch::Plane { data: u.data + 1, row_bytes: u.row_bytes - 1, ..u }]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_on_the_device_are_held_to_the_size_of_the_picture() {
        let plane = |stride| DevicePlane { address: 0x1000, stride };
        let source = on_device(PixelFormat::Nv12, &[plane(512), plane(512)], 333, 251).unwrap();
        let lengths: Vec<usize> = source.planes.iter().map(|plane| plane.length).collect();
        assert_eq!(lengths, [512 * 250 + 333, 512 * 125 + 334]);
        assert_eq!(source.starts().collect::<Vec<_>>(), [0, 128_512]);
        assert!(!source.is_on_host() && source.space() == 128_512 + 64_512);
        let [y, u, v] = source.placed_at(0x10_0000);
        assert_eq!((y.data, u.data, v.data), (0x10_0000, 0x10_0000 + 128_512, 0x10_0001 + 128_512));
        assert_eq!((y.step, u.step, v.pitch, v.row_bytes), (1, 2, 512, 333));

        let error = on_device(PixelFormat::Nv12, &[plane(512), plane(332)], 333, 251).unwrap_err();
        assert!(matches!(error, PreprocessError::PlaneSize { plane: 1, row_bytes: 334, .. }), "{error}");
        let error = on_device(PixelFormat::I420, &[plane(512); 2], 333, 251).unwrap_err();
        assert!(matches!(error, PreprocessError::Planes { expected: 3, found: 2, .. }), "{error}");
        assert!(on_device(PixelFormat::I420, &[plane(512); 3], 0, 251).is_err());
    }
}
