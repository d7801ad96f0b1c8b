//! Pictures for the tests of this module.

use bytes::Bytes;

use crate::clock::{Timestamp, UtcMillis};
use crate::types::{CameraId, ChromaSiting, ColorMatrix, ColorRange, Frame, PixelFormat, Pixels, Plane};

/// Luma by place.
pub fn frame(width: u32, height: u32, make: impl Fn(u32, u32) -> u8) -> Frame {
    let data: Vec<u8> =
        (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| make(x, y)).collect();
    with_luma(width, height, data)
}

fn with_luma(width: u32, height: u32, data: Vec<u8>) -> Frame {
    Frame {
        camera: CameraId::new("dock").unwrap(),
        seq: 0,
        captured: Timestamp::default(),
        captured_utc: UtcMillis(0),
        arrived: Timestamp::default(),
        width,
        height,
        pixels: Pixels::Host {
            format: PixelFormat::I420,
            data: Bytes::from(data),
            planes: vec![Plane { offset: 0, stride: width as usize }],
        },
        matrix: ColorMatrix::Bt709,
        range: ColorRange::Limited,
        siting: ChromaSiting::MPEG2,
    }
}

/// All of one code.
pub fn grey(width: u32, height: u32, code: u8) -> Frame {
    frame(width, height, |_, _| code)
}

/// Noise that is the same every time.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// About normal with standard deviation 1: the sum of four uniform numbers.
    pub fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.uniform() - 0.5).sum::<f32>() * 3f32.sqrt()
    }

    pub fn uniform(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    pub fn add(&mut self, frame: &mut Frame, sigma: f32) {
        let noisy = frame
            .pixels
            .host()
            .unwrap()
            .data
            .iter()
            .map(|code| (f32::from(*code) + sigma * self.normal()).round().clamp(0.0, 255.0) as u8);
        *frame = with_luma(frame.width, frame.height, noisy.collect());
    }
}
