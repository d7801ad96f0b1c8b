//! The frames on which a backend is compared with ONNX Runtime: three pictures of docks and one of noise and hard
//! edges. They differ in size, layout, colours and strides, because the way to the model's input is compared too.

use bytes::Bytes;
use image::{ImageFormat, RgbImage};

use crate::clock::{Timestamp, UtcMillis};
use crate::preprocess::color;
use crate::types::{
    CameraId, ChromaSiting, ColorMatrix, ColorRange, Frame, HostPlanes, InvalidName, PixelFormat, Pixels,
    Plane,
};

const PICTURES: [&[u8]; 3] =
    [include_bytes!("near-edge.jpg"), include_bytes!("dim.jpg"), include_bytes!("bright.jpg")];

/// Size of the picture of noise: odd, and neither the shape nor a multiple of any model's input.
const NOISE: [usize; 2] = [333, 251];

/// The frames, the picture of noise last.
///
/// # Errors
/// A damaged picture, which a test excludes.
pub fn frames() -> Result<Vec<Frame>, String> {
    let mut frames = Vec::new();
    for (seq, bytes) in PICTURES.into_iter().enumerate() {
        let picture = image::load_from_memory_with_format(bytes, ImageFormat::Jpeg)
            .map_err(|error| format!("a picture inside the program is damaged: {error}"))?
            .into_rgb8();
        let (data, planes) = color::i420_from_rgb(&picture);
        let frame = still(&picture, seq as u64, data, planes).map_err(|error| error.to_string())?;
        frames.push(if seq == 1 { nv12_from(frame) } else { frame });
    }
    frames.push(noise(frames.len() as u64).map_err(|error| error.to_string())?);
    Ok(frames)
}

fn still(picture: &RgbImage, seq: u64, data: Bytes, planes: Vec<Plane>) -> Result<Frame, InvalidName> {
    Ok(Frame {
        camera: CameraId::new("gate")?,
        seq,
        captured: Timestamp::default(),
        captured_utc: UtcMillis(0),
        arrived: Timestamp::default(),
        width: picture.width(),
        height: picture.height(),
        pixels: Pixels::Host { format: PixelFormat::I420, data, planes },
        matrix: ColorMatrix::Bt601,
        range: ColorRange::Full,
        siting: ChromaSiting::JPEG,
    })
}

/// The same picture with interleaved chroma, whose rows lie further apart than those of luma.
fn nv12_from(frame: Frame) -> Frame {
    let Ok(HostPlanes { data, planes, .. }) = frame.pixels.host() else { return frame };
    let [_, u, v] = planes else { return frame };
    let (width, height) = (frame.width as usize, frame.height as usize);
    let (chroma_width, chroma_height) = (width.div_ceil(2), height.div_ceil(2));
    let stride = 2 * chroma_width + 24;
    let mut nv12 = data[..width * height].to_vec();
    for row in 0..chroma_height {
        let start = nv12.len();
        let of = |plane: &Plane| {
            plane.offset + row * plane.stride..plane.offset + row * plane.stride + chroma_width
        };
        for (u, v) in data[of(u)].iter().zip(&data[of(v)]) {
            nv12.extend([*u, *v]);
        }
        nv12.resize(start + stride, 0);
    }
    let planes = vec![Plane { offset: 0, stride: width }, Plane { offset: width * height, stride }];
    Frame { pixels: Pixels::Host { format: PixelFormat::Nv12, data: Bytes::from(nv12), planes }, ..frame }
}

/// Black and white in hard edges beside noise of every code, codes beyond the limited range included.
fn noise(seq: u64) -> Result<Frame, InvalidName> {
    let [width, height] = NOISE;
    let (chroma_width, chroma_height) = (width.div_ceil(2), height.div_ceil(2));
    let (luma_stride, chroma_stride) = (width + 3, 2 * chroma_width + 10);
    // xorshift32 (Marsaglia 2003), the same on every machine.
    let mut state = 0x2545_f491_u32;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    let mut data = vec![0u8; luma_stride * height + chroma_stride * chroma_height];
    let (luma, chroma) = data.split_at_mut(luma_stride * height);
    for (y, row) in luma.chunks_exact_mut(luma_stride).enumerate() {
        for (x, value) in row.iter_mut().enumerate() {
            *value = match x * 3 / width {
                0 => {
                    if (x / 16 + y / 16) % 2 == 0 {
                        0
                    } else {
                        255
                    }
                }
                1 => {
                    if y < height / 2 {
                        16
                    } else {
                        235
                    }
                }
                _ => byte(),
            };
        }
    }
    for row in chroma.chunks_exact_mut(chroma_stride) {
        for (x, value) in row.iter_mut().enumerate() {
            *value = if x < chroma_width { 128 } else { byte() };
        }
    }
    Ok(Frame {
        camera: CameraId::new("gate")?,
        seq,
        captured: Timestamp::default(),
        captured_utc: UtcMillis(0),
        arrived: Timestamp::default(),
        width: width as u32,
        height: height as u32,
        pixels: Pixels::Host {
            format: PixelFormat::Nv12,
            data: Bytes::from(data),
            planes: vec![
                Plane { offset: 0, stride: luma_stride },
                Plane { offset: luma_stride * height, stride: chroma_stride },
            ],
        },
        matrix: ColorMatrix::Bt709,
        range: ColorRange::Limited,
        siting: ChromaSiting::MPEG2,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::Preprocessor;

    /// Mean and standard deviation of what the model would see of each.
    #[test]
    fn the_frames_are_whole_and_differ() {
        let frames = frames().unwrap();
        assert_eq!(
            frames.iter().map(|f| (f.seq, f.width, f.height)).collect::<Vec<_>>(),
            [(0, 640, 360), (1, 392, 224), (2, 392, 224), (3, 333, 251)]
        );
        let mut preprocessor = Preprocessor::new(392, 224);
        let mut pixels = vec![0.0; preprocessor.values()];
        let mut means = vec![];
        for frame in &frames {
            preprocessor.run(frame, &mut pixels).unwrap();
            let mean = pixels.iter().sum::<f32>() / pixels.len() as f32;
            let deviation =
                (pixels.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / pixels.len() as f32).sqrt();
            println!("frame {}: mean {mean:.2}, deviation {deviation:.2}", frame.seq);
            assert!(deviation > 0.4, "frame {} shows something", frame.seq);
            means.push(mean);
        }
        assert!(means[1] < -0.8 && means[2] > 0.0, "one dim, one bright: {means:?}");
    }
}
