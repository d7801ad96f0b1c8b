//! Takes the detail out of what must not be recognised, before a picture is kept or sent.

use image::RgbImage;

use crate::types::{ClassName, Mask, PixelTransform, Thing};

/// Blocks along a thing's longer side. A standing person's head is about a seventh and a half of the height, so
/// that it becomes one block; of a face that fills the mask at most 6 x 6 averages are left.
const BLOCKS: f64 = 6.0;
/// Smallest side of a block, pixels of the picture.
const BLOCK_MIN_PX: f64 = 8.0;
/// How far beyond its mask a thing is covered, as a part of its longer side: masks end on patches and may cut off
/// a head or a hand.
const MARGIN: f64 = 0.12;

/// Replaces every block that touches a thing of these classes, or the margin around it, by its average colour.
/// What was inside a block cannot be computed back from the picture.
///
/// Works on the frame itself, before anything is drawn on it. A thing that no head found is not covered.
pub fn blur(frame: &mut RgbImage, things: &[Thing], classes: &[ClassName]) {
    for thing in things.iter().filter(|thing| classes.contains(&thing.class)) {
        cover(frame, &thing.mask, &thing.transform);
    }
}

fn cover(frame: &mut RgbImage, mask: &Mask, transform: &PixelTransform) {
    let cells = mask.width.max(mask.height) as f64;
    let margin = (cells * MARGIN).ceil().max(1.0);
    let corner = |cols: f64, rows: f64| {
        let cell = mask.cell_px;
        transform.source_from_input([(mask.left as f64 + cols) * cell, (mask.top as f64 + rows) * cell])
    };
    let (from, to) =
        (corner(-margin, -margin), corner(mask.width as f64 + margin, mask.height as f64 + margin));
    let longer_side = (to[0] - from[0]).max(to[1] - from[1]);
    if !longer_side.is_finite() {
        return;
    }
    let block = (longer_side / BLOCKS).max(BLOCK_MIN_PX).ceil() as u32;
    let pixels = |low: f64, high: f64, size: u32| {
        let limit = f64::from(size);
        (low.floor().clamp(0.0, limit) as u32, high.ceil().clamp(0.0, limit) as u32)
    };
    let (left, right) = pixels(from[0], to[0], frame.width());
    let (top, bottom) = pixels(from[1], to[1], frame.height());
    for y in (top..bottom).step_by(block as usize) {
        for x in (left..right).step_by(block as usize) {
            let (x_end, y_end) = ((x + block).min(frame.width()), (y + block).min(frame.height()));
            if touches(mask, transform, margin, [x, y], [x_end, y_end]) {
                average(frame, [x, y], [x_end, y_end]);
            }
        }
    }
}

/// Whether a set cell lies within `margin` cells of the rectangle of pixels.
fn touches(mask: &Mask, transform: &PixelTransform, margin: f64, from: [u32; 2], to: [u32; 2]) -> bool {
    let cell_of = |[x, y]: [u32; 2]| {
        let [u, v] = transform.input_from_source([f64::from(x), f64::from(y)]);
        [u / mask.cell_px - mask.left as f64, v / mask.cell_px - mask.top as f64]
    };
    let (low, high) = (cell_of(from), cell_of(to));
    let range = |low: f64, high: f64, cells: usize| {
        let limit = cells as f64;
        (low - margin).floor().clamp(0.0, limit) as usize..(high + margin).ceil().clamp(0.0, limit) as usize
    };
    let columns = range(low[0], high[0], mask.width);
    range(low[1], high[1], mask.height)
        .any(|row| columns.clone().any(|col| mask.cells.get(row * mask.width + col) == Some(&true)))
}

fn average(frame: &mut RgbImage, from: [u32; 2], to: [u32; 2]) {
    let mut sums = [0u64; 3];
    let count = u64::from(to[0] - from[0]) * u64::from(to[1] - from[1]);
    for y in from[1]..to[1] {
        for x in from[0]..to[0] {
            for (sum, value) in sums.iter_mut().zip(frame.get_pixel(x, y).0) {
                *sum += u64::from(value);
            }
        }
    }
    let mean = sums.map(|sum| u8::try_from((sum + count / 2) / count.max(1)).unwrap_or(u8::MAX));
    for y in from[1]..to[1] {
        for x in from[0]..to[0] {
            frame.get_pixel_mut(x, y).0 = mean;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use image::Rgb;

    use super::*;
    use crate::types::Cut;

    const TRANSFORM: PixelTransform = PixelTransform {
        source_width: 640,
        source_height: 360,
        input_width: 320,
        input_height: 200,
        scale_x: 0.5,
        scale_y: 0.5,
        offset_x: 0.0,
        offset_y: 10.0,
    };

    fn thing(class: &str, cells: Vec<bool>) -> Thing {
        // Two cells of 28 source pixels across from x 280, ten down from y 36.
        let mask = Mask { cell_px: 14.0, left: 10, top: 2, width: 2, height: 10, cells };
        Thing {
            class: ClassName::new(class).unwrap(),
            score: 0.9,
            mask,
            meets_floor: vec![true; 2],
            votes: vec![],
            transform: TRANSFORM,
            cut: Cut::default(),
        }
    }

    /// Every pixel differs from its neighbours.
    fn noise() -> RgbImage {
        RgbImage::from_fn(640, 360, |x, y| {
            let n = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).wrapping_mul(2_246_822_519);
            Rgb([(n >> 8) as u8, (n >> 16) as u8, (n >> 24) as u8])
        })
    }

    fn colours(image: &RgbImage, x: std::ops::Range<u32>, y: std::ops::Range<u32>) -> BTreeSet<[u8; 3]> {
        y.flat_map(|y| x.clone().map(move |x| image.get_pixel(x, y).0)).collect()
    }

    #[test]
    fn a_covered_person_keeps_a_handful_of_colours_and_the_rest_every_pixel() {
        let (before, mut after) = (noise(), noise());
        let person = ClassName::new("person").unwrap();
        blur(&mut after, &[thing("person", vec![true; 20])], std::slice::from_ref(&person));
        // The mask is 56 x 280 pixels; 6 blocks down the margin included, so few over its area.
        assert!(colours(&before, 280..336, 36..316).len() > 10_000);
        let left = colours(&after, 280..336, 36..316).len();
        assert!(left <= 14, "{left} colours are left");
        // Far away nothing changed.
        for (x, y) in [(10, 10), (150, 200), (500, 200), (639, 359)] {
            assert_eq!(after.get_pixel(x, y), before.get_pixel(x, y), "{x},{y}");
        }
    }

    #[test]
    fn two_pictures_that_differ_inside_blocks_become_the_same() {
        // Mirror images within each block: same averages, other details. So the details are not recoverable.
        let person = ClassName::new("person").unwrap();
        let things = [thing("person", vec![true; 20])];
        let stripes = |flip: u32| {
            RgbImage::from_fn(640, 360, |x, _| {
                Rgb(if (x + flip).is_multiple_of(2) { [255; 3] } else { [0; 3] })
            })
        };
        let (mut a, mut b) = (stripes(0), stripes(1));
        blur(&mut a, &things, std::slice::from_ref(&person));
        blur(&mut b, &things, &[person]);
        for (x, y) in [(290, 60), (310, 150), (330, 300)] {
            let (a, b) = (a.get_pixel(x, y).0[0], b.get_pixel(x, y).0[0]);
            assert!(a.abs_diff(b) <= 4 && a.abs_diff(128) <= 4, "{a} {b}");
        }
    }

    #[test]
    fn the_margin_covers_what_the_mask_cut_off_and_empty_cells_far_from_it_are_left() {
        let mut cells = vec![false; 20];
        cells[0..4].fill(true);
        let (before, mut after) = (noise(), noise());
        blur(&mut after, &[thing("person", cells)], &[ClassName::new("person").unwrap()]);
        // One cell (28 px) above the mask's first row, and to its left.
        assert_ne!(after.get_pixel(300, 20), before.get_pixel(300, 20));
        assert_ne!(after.get_pixel(265, 60), before.get_pixel(265, 60));
        // The lower half of the bounding box holds nothing.
        assert_eq!(after.get_pixel(300, 300), before.get_pixel(300, 300));
    }

    #[test]
    fn other_classes_and_odd_masks_are_left_alone() {
        let (before, mut after) = (noise(), noise());
        let person = [ClassName::new("person").unwrap()];
        let mut odd = thing("person", vec![true; 3]);
        odd.mask.left = 5000;
        blur(&mut after, &[thing("forklift", vec![true; 20]), odd], &person);
        blur(&mut after, &[thing("person", vec![true; 20])], &[]);
        assert_eq!(after, before);
    }
}
