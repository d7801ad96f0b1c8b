//! What the backbone is shown of a frame: all of it or a crop about a thing, perhaps seen in a mirror. A crop is made as
//! the daemon makes it: planes cut at even pixels, letterboxed by the ordinary preprocessing.

use super::dataset::{Labels, Raster};
use super::matrix::Random;
use crate::preprocess::letterbox;
use crate::types::{Frame, Grid, Part, PixelTransform, Pixels};

/// Things of which fewer pixels are seen get no crop.
const LEAST_VISIBLE_PX: u32 = 100;
/// The same under other conditions, where small things are wanted.
const FEWEST_VISIBLE_PX: u32 = 35;
/// How much larger a crop shows the thing at least and at most: less is the frame once more, more is blur.
const ZOOM: [f64; 2] = [1.25, 3.0];
/// Share of the crop's width or height that the thing fills: in training any of these, in scoring the middle.
const FILL: [f64; 2] = [0.45, 0.75];
/// In training the thing lies off the middle by up to this share of the crop.
const JITTER: f64 = 0.1;
/// The same under other conditions: a closer look that two things share has neither in the middle.
const WIDE_JITTER: f64 = 0.25;

/// Brightness under another light: down to this share, and up to this.
const LIGHT: [f64; 2] = [0.25, 1.2];
/// Share of the things, in views under other conditions, that something is put in front of.
const COVERED: f64 = 0.4;
/// Share of a thing's height or width that it takes away.
const COVER: [f64; 2] = [0.25, 0.65];

/// A piece of the picture that is put elsewhere over it, as if something stood there. Even pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Piece {
    from: [u32; 2],
    to: [u32; 2],
    size: [u32; 2],
}

/// One view of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Index of the frame.
    pub frame: usize,
    /// Left and top of what is shown, pixels of the picture; even.
    pub origin: [u32; 2],
    /// Whether it is seen in a mirror.
    pub mirrored: bool,
    /// Brightness, of that in the picture.
    light: f64,
    /// What is put in front of the thing.
    cover: Option<Piece>,
    /// From what is shown, after mirroring, to the backbone's input.
    pub transform: PixelTransform,
}

impl View {
    fn new(frame: usize, origin: [u32; 2], size: [u32; 2], mirrored: bool, grid: Grid) -> Self {
        let side = |n: usize| (n * grid.patch_px) as u32;
        // The backend's own: every backend places pictures so.
        let transform = letterbox(size, [side(grid.cols), side(grid.rows)]);
        Self { frame, origin, mirrored, light: 1.0, cover: None, transform }
    }

    /// All of a frame.
    pub fn whole(frame: usize, labels: &Labels, mirrored: bool, grid: Grid) -> Self {
        let size = [labels.raster.width as u32, labels.raster.height as u32];
        Self::new(frame, [0, 0], size, mirrored, grid)
    }

    /// Whether it is less than the frame.
    pub fn is_crop(&self, labels: &Labels) -> bool {
        (self.transform.source_width as usize) < labels.raster.width
    }

    /// A point of the backbone's input in the frame's picture.
    pub fn picture_from_input(&self, input_px: [f64; 2]) -> [f64; 2] {
        let [mut x, y] = self.transform.source_from_input(input_px);
        if self.mirrored {
            x = f64::from(self.transform.source_width) - x;
        }
        [x + f64::from(self.origin[0]), y + f64::from(self.origin[1])]
    }

    /// A point of the frame's picture in the backbone's input.
    pub fn input_from_picture(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [mut x, y] = [x - f64::from(self.origin[0]), y - f64::from(self.origin[1])];
        if self.mirrored {
            x = f64::from(self.transform.source_width) - x;
        }
        self.transform.input_from_source([x, y])
    }

    /// The frame's labels as the view shows them, one a pixel of the input, and the pixel of the picture that each came
    /// from. In the padding they are those of the nearest pixel.
    pub fn labels(&self, labels: &Labels) -> (Labels, Vec<usize>) {
        let (width, height) = (self.transform.input_width as usize, self.transform.input_height as usize);
        let from: Vec<usize> = (0..width * height)
            .map(|i| {
                let input = [(i % width) as f64 + 0.5, (i / width) as f64 + 0.5];
                let [x, y] = self.picture_from_input(input);
                let at = |v: f64, side: usize| (v.max(0.0) as usize).min(side - 1);
                let [x, y] = self.uncovered([at(x, labels.raster.width), at(y, labels.raster.height)]);
                y * labels.raster.width + x
            })
            .collect();
        let seen = Labels {
            raster: Raster {
                width,
                height,
                depth_m: from.iter().map(|i| labels.raster.depth_m[*i]).collect(),
                class: from.iter().map(|i| labels.raster.class[*i]).collect(),
            },
            instance: from.iter().map(|i| labels.instance[*i]).collect(),
            truth: labels.truth.clone(),
        };
        (seen, from)
    }

    /// The frame under the view's light and with what covers its thing.
    fn changed(&self, frame: &Frame) -> Frame {
        let mut out = frame.clone();
        let Pixels::Host { data, planes, .. } = &mut out.pixels else { return out };
        let mut bytes = data.to_vec();
        for (i, plane) in planes.iter().enumerate() {
            let shrink = if i == 0 { 1 } else { 2 };
            if let Some(Piece { from, to, size }) = self.cover {
                let [from, to, size] = [from, to, size].map(|p| p.map(|v| v as usize / shrink));
                for y in 0..size[1] {
                    let at = |p: [usize; 2]| plane.offset + (p[1] + y) * plane.stride + p[0];
                    let line = data[at(from)..at(from) + size[0]].to_vec();
                    bytes[at(to)..at(to) + size[0]].copy_from_slice(&line);
                }
            }
            // Stills have the full range: black is 0, grey 128.
            let about = if i == 0 { 0.0 } else { 128.0 };
            let (w, h) = (frame.width as usize / shrink, frame.height as usize / shrink);
            for y in 0..h {
                let start = plane.offset + y * plane.stride;
                bytes[start..start + w].iter_mut().for_each(|v| *v = scaled(*v, about, self.light));
            }
        }
        *data = bytes.into();
        out
    }

    /// Where in the picture what is seen at a pixel comes from.
    fn uncovered(&self, at: [usize; 2]) -> [usize; 2] {
        let Some(Piece { from, to, size }) = self.cover else { return at };
        let within = |k: usize| (to[k] as usize..(to[k] + size[k]) as usize).contains(&at[k]);
        if within(0) && within(1) { [0, 1].map(|k| at[k] - to[k] as usize + from[k] as usize) } else { at }
    }

    /// What it shows of its frame; `None` when that is of another size than its labels.
    pub fn of(&self, frame: &Frame) -> Option<Frame> {
        let seen;
        let frame = if self.light == 1.0 && self.cover.is_none() {
            frame
        } else {
            seen = self.changed(frame);
            &seen
        };
        let [left, top] = self.origin;
        let (width, height) = (self.transform.source_width, self.transform.source_height);
        let part = frame.part(Part { left, top, width, height })?;
        Some(if self.mirrored { mirrored(&part) } else { part })
    }
}

/// The frame as it might have been: for training, all of it and a crop about each thing (two about each person) under
/// another light or with something in front of the thing.
pub fn under_other_conditions(frame: usize, labels: &Labels, grid: Grid, random: &mut Random) -> Vec<View> {
    let things = labels.truth.objects.iter().filter(|o| o.visible_px >= FEWEST_VISIBLE_PX);
    let mut out = vec![];
    let mut whole = View::whole(frame, labels, random.unit() < 0.5, grid);
    whole.light = light(random);
    // One of the things is half hidden.
    let boxes: Vec<_> = things.clone().filter_map(|o| o.bbox2d_visible).collect();
    if let Some(bounds) = boxes.get((random.unit() * boxes.len() as f64) as usize) {
        whole.cover = cover(*bounds, labels, random);
    }
    out.push(whole);
    for object in things {
        let Some(bounds) = object.bbox2d_visible else { continue };
        for _ in 0..if object.cls == "person" { 2 } else { 1 } {
            let [left, top, right, bottom] = bounds;
            let most = (FILL[1] * labels.raster.width as f64 / (right - left))
                .min(FILL[1] * labels.raster.height as f64 / (bottom - top))
                .clamp(ZOOM[0], ZOOM[1]);
            let zoom = ZOOM[0] + (most - ZOOM[0]) * random.unit();
            let jitter = [0, 1].map(|_| (2.0 * random.unit() - 1.0) * WIDE_JITTER);
            let mut view = crop(frame, labels, grid, bounds, zoom, jitter, random.unit() < 0.5);
            view.light = light(random);
            if random.unit() < COVERED {
                view.cover = cover(bounds, labels, random);
            }
            out.push(view);
        }
    }
    out
}

/// Half of the time another light, uniform in the logarithm.
fn light(random: &mut Random) -> f64 {
    let [least, most] = LIGHT.map(f64::ln);
    if random.unit() < 0.5 { 1.0 } else { (least + (most - least) * random.unit()).exp() }
}

/// Something in front of a thing from below or from a side: a piece of the same picture that shows no thing; `None` when
/// none was found.
fn cover([left, top, right, bottom]: [f64; 4], labels: &Labels, random: &mut Random) -> Option<Piece> {
    let (width, height) = (labels.raster.width, labels.raster.height);
    let mut uniform = |from: f64, to: f64| from + (to - from) * random.unit();
    let (wide, high) = (right - left, bottom - top);
    let share = uniform(COVER[0], COVER[1]);
    let [x0, y0, x1, y1] = match uniform(0.0, 4.0) as usize {
        0 => [left - 2.0, top - 2.0, left + share * wide, bottom + 4.0],
        1 => [right - share * wide, top - 2.0, right + 2.0, bottom + 4.0],
        _ => [left - 0.3 * wide, bottom - share * high, right + 0.3 * wide, bottom + 0.15 * high],
    };
    let bound = |v: f64, side: usize| even(v.clamp(0.0, side as f64)).min(side as u32);
    let to = [bound(x0, width), bound(y0, height)];
    let size = [bound(x1, width) - to[0], bound(y1, height) - to[1]];
    if size.contains(&0) {
        return None;
    }
    (0..20).find_map(|_| {
        let from =
            [uniform(0.0, (width as u32 - size[0]) as f64), uniform(0.0, (height as u32 - size[1]) as f64)]
                .map(|v| v as u32 / 2 * 2);
        let rows = from[1] as usize..(from[1] + size[1]) as usize;
        let free = rows.into_iter().all(|y| {
            let first = y * width + from[0] as usize;
            labels.instance[first..first + size[0] as usize].iter().all(|i| *i == 0)
        });
        free.then_some(Piece { from, to, size })
    })
}

/// A crop about each thing of a frame: for training (`random`) of any fill and place, half of them mirrored; for scoring
/// straight and in the middle.
pub fn crops(frame: usize, labels: &Labels, grid: Grid, mut random: Option<&mut Random>) -> Vec<View> {
    let (width, height) = (labels.raster.width as f64, labels.raster.height as f64);
    let mut out = Vec::new();
    for object in labels.truth.objects.iter().filter(|o| o.visible_px >= LEAST_VISIBLE_PX) {
        let Some([left, top, right, bottom]) = object.bbox2d_visible else { continue };
        let mut uniform = |from: f64, to: f64| match random.as_deref_mut() {
            Some(random) => from + (to - from) * random.unit(),
            None => (from + to) / 2.0,
        };
        let fill = uniform(FILL[0], FILL[1]);
        let zoom = (fill * width / (right - left)).min(fill * height / (bottom - top));
        let zoom = zoom.clamp(ZOOM[0], ZOOM[1]);
        let jitter = [0, 1].map(|_| uniform(-JITTER, JITTER));
        let mirrored = uniform(-1.0, 1.0) > 0.0;
        out.push(crop(frame, labels, grid, [left, top, right, bottom], zoom, jitter, mirrored));
    }
    out
}

/// The crop about a box, off its middle by shares of the crop, inside of the frame.
fn crop(
    frame: usize,
    labels: &Labels,
    grid: Grid,
    [left, top, right, bottom]: [f64; 4],
    zoom: f64,
    jitter: [f64; 2],
    mirrored: bool,
) -> View {
    let sides = [labels.raster.width as u32, labels.raster.height as u32];
    let size = sides.map(|side| even(f64::from(side) / zoom));
    let middle = [(left + right) / 2.0, (top + bottom) / 2.0];
    let origin = [0, 1].map(|k| {
        let side = f64::from(size[k]);
        let from = middle[k] + jitter[k] * side - side / 2.0;
        even(from.max(0.0)).min(sides[k].saturating_sub(size[k]) / 2 * 2)
    });
    View::new(frame, origin, size, mirrored, grid)
}

fn even(v: f64) -> u32 {
    (v / 2.0).round() as u32 * 2
}

fn scaled(value: u8, about: f64, light: f64) -> u8 {
    (about + (f64::from(value) - about) * light).round().clamp(0.0, 255.0) as u8
}

/// The same frame seen in a mirror: every row of every plane reversed. Exact for the planes of a JPEG of even width,
/// whose chroma lies in the middle of its four pixels.
fn mirrored(frame: &Frame) -> Frame {
    let mut out = frame.clone();
    // Stills are I420 and never in a GPU's memory.
    let Pixels::Host { data, planes, .. } = &mut out.pixels else { return out };
    let mut bytes = data.to_vec();
    let (w, h) = (frame.width as usize, frame.height as usize);
    for (i, plane) in planes.iter().enumerate() {
        let (w, h) = if i == 0 { (w, h) } else { (w / 2, h / 2) };
        for row in 0..h {
            let start = plane.offset + row * plane.stride;
            if let Some(line) = bytes.get_mut(start..start + w) {
                line.reverse();
            }
        }
    }
    *data = bytes.into();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::train::dataset::tests::labels;

    const GRID: Grid = Grid { rows: 16, cols: 28, patch_px: 14 };

    #[test]
    fn points_go_there_and_back_also_in_the_mirror() {
        let labels = labels(392, 224);
        let straight = View::new(0, [100, 40], [196, 112], false, GRID);
        let mirrored = View::new(0, [100, 40], [196, 112], true, GRID);
        assert_eq!(straight.input_from_picture([100.0, 40.0]), [0.0, 0.0]);
        assert_eq!(mirrored.input_from_picture([100.0, 40.0]), [392.0, 0.0]);
        for view in [&straight, &mirrored, &View::whole(0, &labels, true, GRID)] {
            let [x, y] = view.picture_from_input(view.input_from_picture([123.4, 56.7]));
            assert!((x - 123.4).abs() < 1e-9 && (y - 56.7).abs() < 1e-9);
        }
        assert!(straight.is_crop(&labels) && !View::whole(0, &labels, true, GRID).is_crop(&labels));
    }

    #[test]
    fn labels_follow_the_view() {
        let mut labels = labels(392, 224);
        labels.raster.class[41 * 392 + 103] = 6;
        let (seen, from) = View::new(0, [100, 40], [196, 112], false, GRID).labels(&labels);
        // Twice as large: the pixel 3 to the right and 1 below the corner is four pixels.
        let found: Vec<usize> = (0..seen.raster.class.len()).filter(|i| seen.raster.class[*i] == 6).collect();
        assert_eq!(found, [2 * 392 + 6, 2 * 392 + 7, 3 * 392 + 6, 3 * 392 + 7]);
        assert!(found.iter().all(|i| from[*i] == 41 * 392 + 103));
        let (seen, _) = View::new(0, [100, 40], [196, 112], true, GRID).labels(&labels);
        assert_eq!(seen.raster.class[2 * 392 + 391 - 6], 6);
    }

    #[test]
    fn crops_hold_their_thing_at_even_pixels() {
        let labels = labels(392, 224);
        let straight = crops(3, &labels, GRID, None);
        // The person is seen too little.
        assert_eq!(straight.len(), 1);
        let t = &straight[0].transform;
        // 60 wide, 40 high, 60 % of the height: zoom 3 at most.
        assert_eq!((t.source_width, t.source_height), (130, 74));
        assert_eq!((straight[0].origin, straight[0].mirrored, straight[0].frame), ([166, 84], false, 3));
        let mut random = Random(1);
        let mut mirrored = 0;
        for _ in 0..50 {
            let crop = crops(3, &labels, GRID, Some(&mut random)).remove(0);
            let (w, h) = (crop.transform.source_width, crop.transform.source_height);
            let [x, y] = crop.origin;
            assert!([x, y, w, h].iter().all(|v| v % 2 == 0) && x + w <= 392 && y + h <= 224, "{crop:?}");
            let [left, top, right, bottom] = labels.truth.objects[0].bbox2d_visible.unwrap();
            assert!(f64::from(x) <= left && f64::from(x + w) >= right);
            assert!(f64::from(y) <= top && f64::from(y + h) >= bottom, "{crop:?}");
            mirrored += u32::from(crop.mirrored);
        }
        assert!((15..35).contains(&mirrored), "{mirrored}");
    }

    #[test]
    fn a_mirrored_part_is_its_pixels() {
        let frame = frame();
        let cut = frame.part(Part { left: 8, top: 6, width: 10, height: 12 }).unwrap();
        assert_eq!((cut.width, cut.height), (10, 12));
        assert_eq!(value(&cut, 2, 3, 0), value(&frame, 10, 9, 0));
        assert_eq!(value(&cut, 2, 3, 1), value(&frame, 6, 6, 1));
        let turned = mirrored(&cut);
        assert_eq!(value(&turned, 0, 3, 0), value(&frame, 17, 9, 0));
        assert_eq!(value(&turned, 0, 1, 2), value(&frame, 8, 4, 2));
    }

    #[test]
    fn other_light_and_what_stands_in_front_change_the_picture_and_the_labels() {
        let frame = frame();
        let mut view = View::new(0, [0, 0], [32, 24], false, Grid { rows: 2, cols: 2, patch_px: 14 });
        view.light = 0.5;
        view.cover = Some(Piece { from: [4, 2], to: [20, 10], size: [6, 8] });
        let seen = view.of(&frame).unwrap();
        let half = |v: u8, about: f64| (about + (f64::from(v) - about) / 2.0).round() as u8;
        assert_eq!(value(&seen, 3, 3, 0), half(value(&frame, 3, 3, 0), 0.0));
        assert_eq!(value(&seen, 21, 12, 0), half(value(&frame, 5, 4, 0), 0.0));
        assert_eq!(value(&seen, 10, 5, 1), half(value(&frame, 2, 1, 1), 128.0));
        assert_eq!(value(&seen, 13, 5, 2), half(value(&frame, 13, 5, 2), 128.0), "beside it");
        assert_eq!(view.uncovered([25, 17]), [9, 9]);
        assert_eq!(view.uncovered([26, 17]), [26, 17]);
    }

    #[test]
    fn covers_hide_a_part_of_the_thing_and_show_no_other() {
        let mut labels = labels(392, 224);
        for y in 100..140 {
            labels.instance[y * 392 + 200..y * 392 + 260].fill(1);
            labels.raster.class[y * 392 + 200..y * 392 + 260].fill(5);
        }
        let mut random = Random(3);
        let (mut covered, mut dim, mut views) = (0, 0, 0);
        for _ in 0..40 {
            // All of the frame and the forklift; of the person too little is seen.
            let of_frame = under_other_conditions(0, &labels, GRID, &mut random);
            assert_eq!(of_frame.len(), 2);
            assert!(!of_frame[0].is_crop(&labels) && of_frame[1].is_crop(&labels));
            for view in of_frame {
                let (seen, _) = view.labels(&labels);
                let share = |l: &Labels| l.instance.iter().filter(|i| **i == 1).count() as f64;
                let zoom = view.transform.scale_x * view.transform.scale_y;
                let left = share(&seen) / (zoom * share(&labels));
                assert_eq!(left < 0.9, view.cover.is_some(), "{left} {view:?}");
                assert!(left > 0.25, "{left} {view:?}");
                covered += u32::from(view.cover.is_some());
                dim += u32::from(view.light < 1.0);
                views += 1;
            }
        }
        assert_eq!(views, 80);
        assert!((40..72).contains(&covered) && (20..50).contains(&dim), "{covered} {dim}");
    }

    fn value(frame: &Frame, x: usize, y: usize, plane: usize) -> u8 {
        let planes = frame.pixels.host().unwrap();
        let p = planes.planes[plane];
        planes.data[p.offset + y * p.stride + x]
    }

    fn frame() -> Frame {
        let mut picture = image::RgbImage::new(32, 24);
        picture.enumerate_pixels_mut().for_each(|(x, y, p)| p.0 = [(8 * x) as u8, (9 * y) as u8, 60]);
        let (data, planes) = crate::preprocess::color::i420_from_rgb(&picture);
        Frame {
            camera: crate::types::CameraId::new("test").unwrap(),
            seq: 0,
            captured: crate::clock::Timestamp::from_nanos(0),
            captured_utc: crate::clock::UtcMillis(0),
            arrived: crate::clock::Timestamp::from_nanos(0),
            width: 32,
            height: 24,
            pixels: Pixels::Host { format: crate::types::PixelFormat::I420, data, planes },
            matrix: crate::types::ColorMatrix::Bt601,
            range: crate::types::ColorRange::Full,
            siting: crate::types::ChromaSiting::JPEG,
        }
    }
}
