//! What the backbone is shown of a frame: all of it or a crop about a thing, perhaps seen in a mirror. A crop is made as
//! the daemon makes it: planes cut at even pixels, letterboxed by the ordinary preprocessing.

use super::dataset::{Labels, Raster};
use super::matrix::Random;
use crate::preprocess::letterbox;
use crate::types::{Frame, Grid, Part, PixelTransform, Pixels};

/// Things of which fewer pixels are seen get no crop.
const LEAST_VISIBLE_PX: u32 = 100;
/// How much larger a crop shows the thing at least and at most: less is the frame once more, more is blur.
const ZOOM: [f64; 2] = [1.25, 3.0];
/// Share of the crop's width or height that the thing fills: in training any of these, in scoring the middle.
const FILL: [f64; 2] = [0.45, 0.75];
/// In training the thing lies off the middle by up to this share of the crop.
const JITTER: f64 = 0.1;

/// One view of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Index of the frame.
    pub frame: usize,
    /// Left and top of what is shown, pixels of the picture; even.
    pub origin: [u32; 2],
    /// Whether it is seen in a mirror.
    pub mirrored: bool,
    /// From what is shown, after mirroring, to the backbone's input.
    pub transform: PixelTransform,
}

impl View {
    fn new(frame: usize, origin: [u32; 2], size: [u32; 2], mirrored: bool, grid: Grid) -> Self {
        let side = |n: usize| (n * grid.patch_px) as u32;
        // The backend's own: every backend places pictures so.
        let transform = letterbox(size, [side(grid.cols), side(grid.rows)]);
        Self { frame, origin, mirrored, transform }
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
                at(y, labels.raster.height) * labels.raster.width + at(x, labels.raster.width)
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

    /// What it shows of its frame; `None` when that is of another size than its labels.
    pub fn of(&self, frame: &Frame) -> Option<Frame> {
        let [left, top] = self.origin;
        let (width, height) = (self.transform.source_width, self.transform.source_height);
        let part = frame.part(Part { left, top, width, height })?;
        Some(if self.mirrored { mirrored(&part) } else { part })
    }
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
        let size = [even(width / zoom), even(height / zoom)];
        let middle = [(left + right) / 2.0, (top + bottom) / 2.0];
        let sides = [labels.raster.width as u32, labels.raster.height as u32];
        let origin = [0, 1].map(|k| {
            let side = f64::from(size[k]);
            let from = middle[k] + uniform(-JITTER, JITTER) * side - side / 2.0;
            even(from.max(0.0)).min(sides[k].saturating_sub(size[k]) / 2 * 2)
        });
        let mirrored = uniform(-1.0, 1.0) > 0.0;
        out.push(View::new(frame, origin, size, mirrored, grid));
    }
    out
}

fn even(v: f64) -> u32 {
    (v / 2.0).round() as u32 * 2
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
        let mut picture = image::RgbImage::new(32, 24);
        picture.enumerate_pixels_mut().for_each(|(x, y, p)| p.0 = [(8 * x) as u8, (9 * y) as u8, 60]);
        let (data, planes) = crate::preprocess::color::i420_from_rgb(&picture);
        let frame = crate::types::Frame {
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
        };
        let luma = |frame: &Frame, x: usize, y: usize, plane: usize| {
            let planes = frame.pixels.host().unwrap();
            let p = planes.planes[plane];
            planes.data[p.offset + y * p.stride + x]
        };
        let cut = frame.part(Part { left: 8, top: 6, width: 10, height: 12 }).unwrap();
        assert_eq!((cut.width, cut.height), (10, 12));
        assert_eq!(luma(&cut, 2, 3, 0), luma(&frame, 10, 9, 0));
        assert_eq!(luma(&cut, 2, 3, 1), luma(&frame, 6, 6, 1));
        let turned = mirrored(&cut);
        assert_eq!(luma(&turned, 0, 3, 0), luma(&frame, 17, 9, 0));
        assert_eq!(luma(&turned, 0, 1, 2), luma(&frame, 8, 4, 2));
    }
}
