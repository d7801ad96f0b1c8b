//! Preprocessing in float64, straight from its definition: no tables, no separable passes. For tests and for the
//! check of a GPU. With random frames to try it on.

use super::{MEAN, PlaneRows, Planes, STD, planes_of};
use crate::types::{ColorMatrix, ColorRange, Frame, PixelFormat, PixelTransform, Pixels, Plane};

/// splitmix64, so that a failure repeats.
pub struct Random(
    /// Where it is; where it begins.
    pub u64,
);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 255.
    pub fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Random planes whose strides differ from each other and from the rows, in random surroundings.
pub fn random_pixels(width: u32, height: u32, format: PixelFormat, seed: u64) -> Pixels {
    let (w, h) = (width as usize, height as usize);
    let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
    let y_stride = w + 5;
    let sizes = match format {
        PixelFormat::I420 => vec![(y_stride, h), (cw + 9, ch), (cw + 2, ch)],
        PixelFormat::Nv12 => vec![(y_stride, h), (2 * cw + 11, ch)],
    };
    let mut offset = 3;
    let mut planes = Vec::new();
    for (stride, rows) in sizes {
        planes.push(Plane { offset, stride });
        offset += stride * rows + 7;
    }
    let mut random = Random(seed);
    let data: Vec<u8> = (0..offset).map(|_| random.byte()).collect();
    Pixels::Host { format, data: data.into(), planes }
}

/// A sample's code: channel 0 is Y, 1 and 2 are U and V.
fn code(planes: &Planes<'_>, channel: usize, x: usize, y: usize) -> f64 {
    let at = |rows: &PlaneRows<'_>, x: usize| f64::from(rows.data[y * rows.stride + x]);
    match (planes, channel) {
        (Planes::I420(planes), channel) => at(&planes[channel], x),
        (Planes::Nv12([luma, _]), 0) => at(luma, x),
        (Planes::Nv12([_, chroma]), channel) => at(chroma, 2 * x + channel - 1),
    }
}

/// Keys' cubic, a = -0.5, written out as in the paper.
fn keys(x: f64) -> f64 {
    let (a, x) = (-0.5, x.abs());
    if x <= 1.0 {
        (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0
    } else if x < 2.0 {
        a * x.powi(3) - 5.0 * a * x.powi(2) + 8.0 * a * x - 4.0 * a
    } else {
        0.0
    }
}

/// All samples with a weight for output sample `out`: position and normalised weight.
fn taps(samples: usize, center: f64, step: f64) -> Vec<(usize, f64)> {
    let reach = step.max(1.0);
    // A sample counts when its centre is within the support, as in Pillow: first and last are rounded.
    let first = (center - 2.0 * reach + 0.5).floor().max(0.0) as usize;
    let last = ((center + 2.0 * reach + 0.5).floor() as usize).min(samples);
    let raw: Vec<(usize, f64)> =
        (first..last).map(|s| (s, keys((s as f64 + 0.5 - center) / reach))).collect();
    let sum: f64 = raw.iter().map(|(_, w)| w).sum();
    raw.into_iter().map(|(s, w)| (s, w / sum)).collect()
}

fn resampled(
    frame: &Frame,
    planes: &Planes<'_>,
    channel: usize,
    x: usize,
    y: usize,
    resized: [usize; 2],
) -> f64 {
    let sides = [frame.width as usize, frame.height as usize];
    let cosited = [frame.siting.horizontal_cosited, frame.siting.vertical_cosited];
    let axis = |i: usize, out: usize| {
        let step = sides[i] as f64 / resized[i] as f64;
        let luma_center = (out as f64 + 0.5) * step;
        if channel == 0 {
            return taps(sides[i], luma_center, step);
        }
        // Centre of chroma sample j in luma positions: 2j + 0.5 or 2j + 1. Solve for j, then j + 0.5.
        let first = if cosited[i] { 0.5 } else { 1.0 };
        taps(sides[i].div_ceil(2), (luma_center - first) / 2.0 + 0.5, step / 2.0)
    };
    let columns = axis(0, x);
    let mut sum = 0.0;
    for (row, row_weight) in axis(1, y) {
        for (column, weight) in &columns {
            sum += row_weight * weight * code(planes, channel, *column, row);
        }
    }
    sum
}

/// The normalised value of one pixel of the input. The planes are the frame's.
fn pixel(frame: &Frame, planes: &Planes<'_>, t: &PixelTransform, channel: usize, [x, y]: [usize; 2]) -> f64 {
    let resized = [
        (t.scale_x * f64::from(t.source_width)).round() as usize,
        (t.scale_y * f64::from(t.source_height)).round() as usize,
    ];
    let (left, top) = (t.offset_x as usize, t.offset_y as usize);
    if x < left || y < top || x >= left + resized[0] || y >= top + resized[1] {
        return 0.0;
    }
    let yuv = [0, 1, 2].map(|c| resampled(frame, planes, c, x - left, y - top, resized));
    let (kr, kb): (f64, f64) = match frame.matrix {
        ColorMatrix::Bt601 => (0.299, 0.114),
        ColorMatrix::Bt709 => (0.2126, 0.0722),
        ColorMatrix::Bt2020 => (0.2627, 0.0593),
    };
    let (luma, cb, cr) = match frame.range {
        ColorRange::Limited => ((yuv[0] - 16.0) / 219.0, (yuv[1] - 128.0) / 224.0, (yuv[2] - 128.0) / 224.0),
        ColorRange::Full => (yuv[0] / 255.0, (yuv[1] - 128.0) / 255.0, (yuv[2] - 128.0) / 255.0),
    };
    let red = luma + 2.0 * (1.0 - kr) * cr;
    let blue = luma + 2.0 * (1.0 - kb) * cb;
    let green = (luma - kr * red - kb * blue) / (1.0 - kr - kb);
    ([red, green, blue][channel].clamp(0.0, 1.0) - f64::from(MEAN[channel])) / f64::from(STD[channel])
}

/// Largest difference of a preprocessed frame from the reference, in normalised units, over every `step`th pixel;
/// infinite where a value is no number, or when the frame's planes do not lie in its data.
pub fn worst(frame: &Frame, transform: &PixelTransform, out: &[f32], step: usize) -> f64 {
    let Ok(planes) = planes_of(frame) else { return f64::INFINITY };
    let (width, height) = (transform.input_width as usize, transform.input_height as usize);
    let mut worst = 0.0f64;
    for at in (0..width * height).step_by(step) {
        for channel in 0..3 {
            let expected = pixel(frame, &planes, transform, channel, [at % width, at / width]);
            let difference = (f64::from(out[channel * width * height + at]) - expected).abs();
            worst = worst.max(if difference.is_nan() { f64::INFINITY } else { difference });
        }
    }
    worst
}
