//! Preprocessing in float64, straight from its definition: no tables, no separable passes. Random frames for it.

use bytes::Bytes;
use standoff::clock::{Timestamp, UtcMillis};
use standoff::preprocess::{MEAN, STD};
use standoff::types::{
    CameraId, ChromaSiting, ColorMatrix, ColorRange, Frame, PixelFormat, PixelTransform, Pixels, Plane,
};

use super::support::Random;

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
    let data = (0..offset).map(|_| random.byte()).collect();
    frame(width, height, format, data, planes)
}

fn code(frame: &Frame, channel: usize, x: usize, y: usize) -> f64 {
    let Pixels::Host { format, data, planes } = &frame.pixels;
    let at = match (format, channel) {
        (_, 0) => planes[0].offset + y * planes[0].stride + x,
        (PixelFormat::I420, c) => planes[c].offset + y * planes[c].stride + x,
        (PixelFormat::Nv12, c) => planes[1].offset + y * planes[1].stride + 2 * x + (c - 1),
    };
    f64::from(data[at])
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

fn resampled(frame: &Frame, channel: usize, x: usize, y: usize, resized: [usize; 2]) -> f64 {
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
            sum += row_weight * weight * code(frame, channel, *column, row);
        }
    }
    sum
}

/// The normalised value of one pixel of the input, straight from the definition.
pub fn reference(frame: &Frame, t: &PixelTransform, channel: usize, x: usize, y: usize) -> f64 {
    let resized = [
        (t.scale_x * f64::from(t.source_width)).round() as usize,
        (t.scale_y * f64::from(t.source_height)).round() as usize,
    ];
    let (left, top) = (t.offset_x as usize, t.offset_y as usize);
    if x < left || y < top || x >= left + resized[0] || y >= top + resized[1] {
        return 0.0;
    }
    let yuv = [0, 1, 2].map(|c| resampled(frame, c, x - left, y - top, resized));
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
