//! Colour: YUV to RGB for the backbone and for people, RGB to the I420 that still pictures travel as.

use bytes::Bytes;
use image::RgbImage;

use super::{MEAN, Planes, STD, planes_of};
use crate::types::{ColorMatrix, ColorRange, Frame, Plane};

/// Weights of red and blue in the luma of each matrix (ITU-R BT.601, BT.709, BT.2020 non-constant luminance).
fn luma_weights(matrix: ColorMatrix) -> (f64, f64) {
    match matrix {
        ColorMatrix::Bt601 => (0.299, 0.114),
        ColorMatrix::Bt709 => (0.2126, 0.0722),
        ColorMatrix::Bt2020 => (0.2627, 0.0593),
    }
}

/// YUV codes (0 to 255) to RGB (0 to 1): `rgb = scale_y * y + from_u * u + from_v * v + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Conversion {
    /// Weight of Y in each of R, G and B.
    pub scale_y: f32,
    /// Weights of U in R, G and B.
    pub from_u: [f32; 3],
    /// Weights of V in R, G and B.
    pub from_v: [f32; 3],
    /// What is added to R, G and B.
    pub bias: [f32; 3],
}

impl Conversion {
    /// The conversion of one matrix and range.
    pub fn new(matrix: ColorMatrix, range: ColorRange) -> Self {
        let (red, blue) = luma_weights(matrix);
        let green = 1.0 - red - blue;
        let (black, luma_span, chroma_span) = match range {
            ColorRange::Limited => (16.0, 219.0, 224.0),
            ColorRange::Full => (0.0, 255.0, 255.0),
        };
        let scale_y = 1.0 / luma_span;
        let from_u = [0.0, -2.0 * blue * (1.0 - blue) / green, 2.0 * (1.0 - blue)].map(|c| c / chroma_span);
        let from_v = [2.0 * (1.0 - red), -2.0 * red * (1.0 - red) / green, 0.0].map(|c| c / chroma_span);
        let bias = [0, 1, 2].map(|c| -black * scale_y - 128.0 * (from_u[c] + from_v[c]));
        Self {
            scale_y: scale_y as f32,
            from_u: from_u.map(|c| c as f32),
            from_v: from_v.map(|c| c as f32),
            bias: bias.map(|c| c as f32),
        }
    }

    /// One row: converts, clamps to 0..1 and normalises for the backbone. All slices have one length.
    pub(super) fn normalised_row(&self, [y, u, v]: [&[f32]; 3], rgb: &mut [&mut [f32]; 3]) {
        for (channel, out) in rgb.iter_mut().enumerate() {
            let (scale_y, from_u, from_v) = (self.scale_y, self.from_u[channel], self.from_v[channel]);
            let (bias, mean, gain) = (self.bias[channel], MEAN[channel], 1.0 / STD[channel]);
            for (((out, y), u), v) in out.iter_mut().zip(y).zip(u).zip(v) {
                let value = scale_y * y + from_u * u + from_v * v + bias;
                *out = (value.clamp(0.0, 1.0) - mean) * gain;
            }
        }
    }

    fn rgb8(&self, [y, u, v]: [u8; 3]) -> [u8; 3] {
        let [y, u, v] = [y, u, v].map(f32::from);
        [0, 1, 2].map(|c| {
            let value = self.scale_y * y + self.from_u[c] * u + self.from_v[c] * v + self.bias[c];
            (value.clamp(0.0, 1.0) * 255.0).round() as u8
        })
    }
}

/// A still picture as I420 in full-range BT.601 with JPEG's siting (`ColorMatrix::Bt601`, `ColorRange::Full`,
/// `ChromaSiting::JPEG`), so that it goes the way of camera frames. Returns the data and the planes Y, U, V.
pub fn i420_from_rgb(picture: &RgbImage) -> (Bytes, Vec<Plane>) {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let (chroma_width, chroma_height) = (width.div_ceil(2), height.div_ceil(2));
    let (luma, chroma) = (width * height, chroma_width * chroma_height);
    let mut data = vec![0u8; luma + 2 * chroma];
    let (y_plane, uv) = data.split_at_mut(luma);
    let (u_plane, v_plane) = uv.split_at_mut(chroma);
    let (red, blue) = luma_weights(ColorMatrix::Bt601);
    let weights = [red as f32, (1.0 - red - blue) as f32, blue as f32];
    let luma_of = |rgb: [f32; 3]| weights[0] * rgb[0] + weights[1] * rgb[1] + weights[2] * rgb[2];

    let pixels = picture.as_raw();
    let rgb = |x: usize, y: usize| {
        let at = 3 * (y * width + x);
        [pixels[at], pixels[at + 1], pixels[at + 2]].map(f32::from)
    };
    for y in 0..height {
        for x in 0..width {
            y_plane[y * width + x] = luma_of(rgb(x, y)).round() as u8;
        }
    }
    for y in 0..chroma_height {
        for x in 0..chroma_width {
            // An odd picture repeats its last column and row.
            let (x1, y1) = ((2 * x + 1).min(width - 1), (2 * y + 1).min(height - 1));
            let corners = [rgb(2 * x, 2 * y), rgb(x1, 2 * y), rgb(2 * x, y1), rgb(x1, y1)];
            let mean = [0, 1, 2].map(|c| corners.iter().map(|corner| corner[c]).sum::<f32>() / 4.0);
            let luma = luma_of(mean);
            let code = |difference: f32, weight: f32| {
                (128.0 + difference / (2.0 * (1.0 - weight))).round().clamp(0.0, 255.0) as u8
            };
            u_plane[y * chroma_width + x] = code(mean[2] - luma, weights[2]);
            v_plane[y * chroma_width + x] = code(mean[0] - luma, weights[0]);
        }
    }
    let planes = vec![
        Plane { offset: 0, stride: width },
        Plane { offset: luma, stride: chroma_width },
        Plane { offset: luma + chroma, stride: chroma_width },
    ];
    (Bytes::from(data), planes)
}

/// A frame as RGB for people to look at (each chroma sample counts for its four pixels). A frame whose planes
/// do not fit its data comes out black: the backend refuses it with the reason.
pub fn rgb_from_frame(frame: &Frame) -> RgbImage {
    let mut picture = RgbImage::new(frame.width, frame.height);
    let Ok(planes) = planes_of(frame) else { return picture };
    let conversion = Conversion::new(frame.matrix, frame.range);
    let width = frame.width as usize;
    for (y, row) in picture.chunks_exact_mut(3 * width).enumerate() {
        match &planes {
            Planes::I420([luma, u, v]) => {
                let (luma, u, v) = (luma.row(y), u.row(y / 2), v.row(y / 2));
                for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                    pixel.copy_from_slice(&conversion.rgb8([luma[x], u[x / 2], v[x / 2]]));
                }
            }
            Planes::Nv12([luma, uv]) => {
                let (luma, uv) = (luma.row(y), uv.row(y / 2));
                for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                    let at = x / 2 * 2;
                    pixel.copy_from_slice(&conversion.rgb8([luma[x], uv[at], uv[at + 1]]));
                }
            }
        }
    }
    picture
}
