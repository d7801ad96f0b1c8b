//! What goes wrong with a picture, drawn on the luma of real ones.

use bytes::Bytes;
use standoff::clock::{Timestamp, UtcMillis};
use standoff::types::{
    CameraId, ChromaSiting, ColorMatrix, ColorRange, Frame, HostPlanes, PixelFormat, Pixels, Plane,
};

/// Random numbers that are the same for the same seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            dice.next();
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn uniform(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * ((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }

    pub fn below(&mut self, count: usize) -> usize {
        (self.next() >> 16) as usize % count
    }

    pub fn chance(&mut self, share: f64) -> bool {
        self.uniform(0.0, 1.0) < share
    }
}

/// The luma of a picture.
#[derive(Debug, Clone)]
pub struct Luma {
    pub width: usize,
    pub height: usize,
    pub data: Vec<u8>,
}

impl Luma {
    pub fn of(frame: &Frame) -> Self {
        let HostPlanes { data, planes, .. } = frame.pixels.host().unwrap();
        let (width, height) = (frame.width as usize, frame.height as usize);
        let row = |y: usize| &data[planes[0].offset + y * planes[0].stride..][..width];
        Self { width, height, data: (0..height).flat_map(row).copied().collect() }
    }

    /// As a frame of the camera.
    pub fn frame(&self, camera: &CameraId, seq: u64, captured: Timestamp) -> Frame {
        Frame {
            camera: camera.clone(),
            seq,
            captured,
            captured_utc: UtcMillis((captured.as_nanos() / 1_000_000) as i64),
            arrived: captured,
            width: self.width as u32,
            height: self.height as u32,
            pixels: Pixels::Host {
                format: PixelFormat::I420,
                data: Bytes::from(self.data.clone()),
                planes: vec![Plane { offset: 0, stride: self.width }],
            },
            matrix: ColorMatrix::Bt709,
            range: ColorRange::Limited,
            siting: ChromaSiting::MPEG2,
        }
    }

    fn map(&mut self, mut change: impl FnMut(usize, usize, f32) -> f32) {
        for (y, row) in self.data.chunks_exact_mut(self.width).enumerate() {
            for (x, code) in row.iter_mut().enumerate() {
                *code = change(x, y, f32::from(*code)).round().clamp(0.0, 255.0) as u8;
            }
        }
    }

    /// Sensor noise: the sum of two uniform numbers, `sigma` codes.
    pub fn noise(&mut self, sigma: f64, dice: &mut Dice) {
        let scale = (sigma * 6f64.sqrt()) as f32;
        self.map(|_, _, code| {
            let bits = dice.next();
            let a = (bits >> 40) as f32 / (1u64 << 24) as f32;
            let b = (bits & 0xff_ffff) as f32 / (1u64 << 24) as f32;
            code + scale * (a + b - 1.0)
        });
    }

    /// Light times `gain`, codes from black (16).
    pub fn light(&mut self, gain: f64) {
        self.map(|_, _, code| (16.0 + (code - 16.0) * gain as f32).min(235.0));
    }

    /// A veil of white over everything: fog, sun in the lens.
    pub fn veil(&mut self, share: f64) {
        self.map(|_, _, code| code + (235.0 - code) * share as f32);
    }

    /// Something uniform in front of the lens: from `side` (0 left, 1 right, 2 top, 3 bottom) over `share` of the picture.
    pub fn cover(&mut self, cover: &Cover) {
        let (width, height) = (self.width as f64, self.height as f64);
        self.map(|x, y, code| {
            let (x, y) = ((x as f64 + 0.5) / width, (y as f64 + 0.5) / height);
            let along = [x, 1.0 - x, y, 1.0 - y][cover.side];
            if along >= cover.share {
                return code;
            }
            let stripe = if cover.stripes && (y * 24.0).fract() < 0.3 { 25.0 } else { 0.0 };
            (cover.level + cover.slope * (x + y - 1.0) + stripe) as f32
        });
    }

    /// Out of focus: three box blurs, near a Gaussian of `sigma` pixels.
    pub fn blur(&mut self, sigma: f64) {
        let radius = ((sigma * sigma * 4.0 + 1.0).sqrt() / 2.0).round().max(1.0) as usize;
        let mut columns = vec![0; self.data.len()];
        for _ in 0..3 {
            for row in self.data.chunks_exact_mut(self.width) {
                box_blur(row, radius);
            }
            transpose(&self.data, self.width, &mut columns);
            for column in columns.chunks_exact_mut(self.height) {
                box_blur(column, radius);
            }
            transpose(&columns, self.height, &mut self.data);
        }
    }

    /// The same picture as by a camera that moved a little.
    pub fn shift(&mut self, dx: isize, dy: isize) {
        let old = self.data.clone();
        let (width, height) = (self.width as isize, self.height as isize);
        for y in 0..height {
            for x in 0..width {
                let (from_x, from_y) = ((x + dx).clamp(0, width - 1), (y + dy).clamp(0, height - 1));
                self.data[(y * width + x) as usize] = old[(from_y * width + from_x) as usize];
            }
        }
    }

    /// The middle of the picture as a camera sees it that is turned about its own centre and zoomed: the homography
    /// `K R K^-1`. `focal_px` is that of the whole picture; nothing outside of it shows while the turn is small. What
    /// would is mirrored at the border: another piece of the same kind of scene.
    pub fn turned(&self, focal_px: f64, share: f64, turn: &Turn) -> Self {
        let side = |size: usize| (size as f64 * share) as usize / 2 * 2;
        let (width, height) = (side(self.width), side(self.height));
        let (sp, cp) = turn.pan_deg.to_radians().sin_cos();
        let (st, ct) = turn.tilt_deg.to_radians().sin_cos();
        let (sr, cr) = turn.roll_deg.to_radians().sin_cos();
        let focal_now = focal_px * turn.zoom;
        let mut data = Vec::with_capacity(width * height);
        for v in 0..height {
            for u in 0..width {
                let x = (u as f64 + 0.5 - width as f64 / 2.0) / focal_now;
                let y = (v as f64 + 0.5 - height as f64 / 2.0) / focal_now;
                // About the axis, then down, then to the right.
                let (x, y) = (cr * x - sr * y, sr * x + cr * y);
                let (y, z) = (ct * y + st, ct - st * y);
                let (x, z) = (cp * x + sp * z, cp * z - sp * x);
                let at = |value: f64, size: usize| {
                    let end = size as f64 - 1.001;
                    let place = (value / z * focal_px + size as f64 / 2.0 - 0.5).rem_euclid(2.0 * end);
                    place.min(2.0 * end - place)
                };
                let (left, top) = (at(x, self.width), at(y, self.height));
                let (i, j) = (left as usize, top as usize);
                let (a, b) = (left - i as f64, top - j as f64);
                let code = |i: usize, j: usize| f64::from(self.data[j * self.width + i]);
                let upper = code(i, j) * (1.0 - a) + code(i + 1, j) * a;
                let lower = code(i, j + 1) * (1.0 - a) + code(i + 1, j + 1) * a;
                data.push((upper * (1.0 - b) + lower * b).round() as u8);
            }
        }
        Self { width, height, data }
    }

    /// What cameras write into the picture: a line of signs above and one below, each `share` of its height.
    pub fn write(&mut self, share: f64) {
        let height = (self.height as f64 * share).round() as usize;
        let (stroke, sign) = ((height / 7).max(1), height * 2 / 3);
        let (top, bottom) = (height / 2, self.height - height - height / 2);
        for (line, from) in [(0u64, top), (1, bottom)] {
            for y in 0..height {
                for x in 0..self.width * 2 / 3 {
                    let (at, place) = ((x / sign.max(1)) as u64, (x % sign.max(1) / stroke, y / stroke));
                    let ink =
                        Dice::new(at * 31 + line * 7 + (place.0 * 8 + place.1) as u64 * 1009).chance(0.5);
                    if ink && place.0 * stroke + stroke < sign {
                        self.data[(from + y) * self.width + height / 2 + x] = 235;
                    }
                }
            }
        }
    }

    /// A clock in the picture: blocks that change with `tick`.
    pub fn clock(&mut self, clock: &Clock, tick: u64) {
        let (width, height) =
            ((self.width as f64 * clock.width) as usize, (self.height as f64 * clock.height) as usize);
        let left = if clock.right { self.width - width } else { 0 };
        let top = if clock.bottom { self.height - height } else { 0 };
        let cell = (height / 2).max(2);
        for y in 0..height {
            for x in 0..width {
                let digit = (x / cell) as u64;
                // The last digits change with every tick, the first ones never.
                let value =
                    if digit * 2 > (width / cell) as u64 { tick.wrapping_mul(digit * 7 + 3) } else { digit };
                let ink = (value ^ (x / 3) as u64 ^ (y / 3) as u64).is_multiple_of(3);
                self.data[(top + y) * self.width + left + x] = if ink { 235 } else { 16 };
            }
        }
    }
}

/// How a camera turns: to the right, down, clockwise as seen from behind it; how much larger things look.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    pub pan_deg: f64,
    pub tilt_deg: f64,
    pub roll_deg: f64,
    pub zoom: f64,
}

impl Turn {
    pub const NONE: Self = Self { pan_deg: 0.0, tilt_deg: 0.0, roll_deg: 0.0, zoom: 1.0 };
}

/// Something in front of the lens.
#[derive(Debug, Clone)]
pub struct Cover {
    pub side: usize,
    pub share: f64,
    pub level: f64,
    pub slope: f64,
    /// Boards, lettering: it is not uniform.
    pub stripes: bool,
}

/// A clock in the picture, in shares of its sides.
#[derive(Debug, Clone)]
pub struct Clock {
    pub width: f64,
    pub height: f64,
    pub right: bool,
    pub bottom: bool,
}

fn box_blur(line: &mut [u8], radius: usize) {
    let old = line.to_vec();
    let last = old.len() - 1;
    let at = |i: isize| u32::from(old[i.clamp(0, last as isize) as usize]);
    let reach = radius as isize;
    let count = 2 * radius as u32 + 1;
    let mut sum: u32 = (-reach..=reach).map(at).sum();
    for (i, out) in line.iter_mut().enumerate() {
        *out = ((sum + count / 2) / count) as u8;
        sum = sum + at(i as isize + reach + 1) - at(i as isize - reach);
    }
}

fn transpose(from: &[u8], width: usize, to: &mut [u8]) {
    let height = from.len() / width;
    for (y, row) in from.chunks_exact(width).enumerate() {
        for (x, value) in row.iter().enumerate() {
            to[x * height + y] = *value;
        }
    }
}
