//! Frames to try preprocessing on.

use bytes::Bytes;
use standoff::clock::{Timestamp, UtcMillis};
use standoff::preprocess::reference::random_pixels;
use standoff::types::{CameraId, ChromaSiting, ColorMatrix, ColorRange, Frame, PixelFormat, Pixels, Plane};

pub fn frame(width: u32, height: u32, format: PixelFormat, data: Vec<u8>, planes: Vec<Plane>) -> Frame {
    Frame {
        camera: CameraId::new("test").unwrap(),
        seq: 0,
        captured: Timestamp::default(),
        captured_utc: UtcMillis(0),
        arrived: Timestamp::default(),
        width,
        height,
        pixels: Pixels::Host { format, data: Bytes::from(data), planes },
        matrix: ColorMatrix::Bt601,
        range: ColorRange::Full,
        siting: ChromaSiting::JPEG,
    }
}

/// Random planes whose strides differ from each other and from the rows, in random surroundings.
pub fn random_frame(width: u32, height: u32, format: PixelFormat, seed: u64) -> Frame {
    let pixels = random_pixels(width, height, format, seed);
    Frame { pixels, ..frame(width, height, format, vec![], vec![]) }
}
