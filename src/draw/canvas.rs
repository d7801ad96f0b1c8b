//! What all pictures are drawn with: antialiased lines, rectangles and text on an RGB image. Coordinates are
//! pixels from the outer edge of the top left pixel, whose centre is at 0.5. What lies outside is cut off.

use std::sync::OnceLock;

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use image::{Rgb, RgbImage};

use super::Colour;

pub(super) const WHITE: Colour = [255, 255, 255];
pub(super) const BLACK: Colour = [0, 0, 0];
pub(super) const GREY: Colour = [110, 110, 110];

/// Where a text's anchor is, along the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Centre,
    Right,
}

/// The font is part of the program, so it is read once. None would mean a broken build; texts are then left out.
fn font() -> Option<&'static FontRef<'static>> {
    static FONT: OnceLock<Option<FontRef<'static>>> = OnceLock::new();
    FONT.get_or_init(|| FontRef::try_from_slice(epaint_default_fonts::HACK_REGULAR).ok()).as_ref()
}

/// Mixes a colour into a pixel, `alpha` 0 to 1.
pub(super) fn blend(image: &mut RgbImage, x: i64, y: i64, colour: Colour, alpha: f64) {
    let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
    if x >= image.width() || y >= image.height() {
        return;
    }
    let alpha = alpha.clamp(0.0, 1.0);
    let Rgb(pixel) = image.get_pixel_mut(x, y);
    for (under, over) in pixel.iter_mut().zip(colour) {
        *under = (f64::from(*under) * (1.0 - alpha) + f64::from(over) * alpha).round() as u8;
    }
}

/// Fills the rectangle from `[left, top]` to `[right, bottom]`, rounded to whole pixels.
pub(super) fn fill_rect(image: &mut RgbImage, from: [f64; 2], to: [f64; 2], colour: Colour, alpha: f64) {
    let bounds =
        |a: f64, b: f64, size: u32| (a.round().max(0.0) as i64, b.round().min(f64::from(size)) as i64);
    let (left, right) = bounds(from[0], to[0], image.width());
    let (top, bottom) = bounds(from[1], to[1], image.height());
    for y in top..bottom {
        for x in left..right {
            blend(image, x, y, colour, alpha);
        }
    }
}

/// A straight line with round ends: each pixel gets the share of the line's width that covers it.
pub(super) fn line(image: &mut RgbImage, a: [f64; 2], b: [f64; 2], width: f64, colour: Colour) {
    if ![a, b].iter().flatten().all(|v| v.is_finite()) {
        return;
    }
    let reach = width / 2.0 + 1.0;
    let span = |axis: usize, size: u32| {
        let low = (a[axis].min(b[axis]) - reach).floor().clamp(0.0, f64::from(size));
        let high = (a[axis].max(b[axis]) + reach).ceil().clamp(0.0, f64::from(size));
        low as i64..high as i64
    };
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let length2 = dx * dx + dy * dy;
    let columns = span(0, image.width());
    for y in span(1, image.height()) {
        for x in columns.clone() {
            let (px, py) = (x as f64 + 0.5 - a[0], y as f64 + 0.5 - a[1]);
            let along = if length2 > 0.0 { ((px * dx + py * dy) / length2).clamp(0.0, 1.0) } else { 0.0 };
            let distance = (px - along * dx).hypot(py - along * dy);
            let cover = (width / 2.0 + 0.5 - distance).clamp(0.0, width.min(1.0));
            if cover > 0.0 {
                blend(image, x, y, colour, cover);
            }
        }
    }
}

/// A line of dashes, `dash` pixels long with gaps of the same length.
pub(super) fn dashed(image: &mut RgbImage, a: [f64; 2], b: [f64; 2], width: f64, dash: f64, colour: Colour) {
    let length = (b[0] - a[0]).hypot(b[1] - a[1]);
    if !length.is_finite() || length <= 0.0 || dash <= 0.0 {
        return;
    }
    let at = |s: f64| [a[0] + (b[0] - a[0]) * s / length, a[1] + (b[1] - a[1]) * s / length];
    let mut start = 0.0;
    while start < length {
        line(image, at(start), at((start + dash).min(length)), width, colour);
        start += 2.0 * dash;
    }
}

/// A filled disc.
pub(super) fn disc(image: &mut RgbImage, centre: [f64; 2], radius: f64, colour: Colour) {
    line(image, centre, centre, 2.0 * radius, colour);
}

/// Width of a text in pixels.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let Some(font) = font() else { return 0.0 };
    let font = font.as_scaled(PxScale::from(size as f32));
    text.chars().map(|c| f64::from(font.h_advance(font.glyph_id(c)))).sum()
}

/// As much of a text as fits into `width` pixels, with dots for what does not.
pub(super) fn shortened(text: &str, width: f64, size: f64) -> String {
    let mut short = text.to_owned();
    while text_width(&short, size) > width && !short.is_empty() {
        let kept = short.trim_end_matches("...").chars().count().saturating_sub(1);
        short = text.chars().take(kept).collect();
        if kept > 0 {
            short.push_str("...");
        }
    }
    short
}

/// One line of text of `size` pixels from its top to the top of the next line; `at` is the top of the line.
pub(super) fn text(image: &mut RgbImage, at: [f64; 2], align: Align, size: f64, colour: Colour, text: &str) {
    let Some(font) = font() else { return };
    let font = font.as_scaled(PxScale::from(size as f32));
    let start = match align {
        Align::Left => at[0],
        Align::Centre => at[0] - text_width(text, size) / 2.0,
        Align::Right => at[0] - text_width(text, size),
    };
    // Whole pixels keep the stems of small letters sharp.
    let mut x = start.round() as f32;
    let baseline = (at[1] as f32 + font.ascent()).round();
    for c in text.chars() {
        let id = font.glyph_id(c);
        let glyph = id.with_scale_and_position(font.scale(), point(x, baseline));
        if let Some(outline) = font.outline_glyph(glyph) {
            let bounds = outline.px_bounds();
            outline.draw(|gx, gy, cover| {
                let px = bounds.min.x as i64 + i64::from(gx);
                let py = bounds.min.y as i64 + i64::from(gy);
                blend(image, px, py, colour, f64::from(cover));
            });
        }
        x += font.h_advance(id);
    }
}

/// A text in a box of its own that stays inside the picture; `at` is the wanted middle of the box.
pub(super) fn label(image: &mut RgbImage, at: [f64; 2], size: f64, ink: Colour, paper: Colour, words: &str) {
    let pad = (size / 4.0).round();
    let (width, height) = (text_width(words, size) + 2.0 * pad, size + pad);
    let inside = |middle: f64, extent: f64, limit: u32| {
        (middle - extent / 2.0).min(f64::from(limit) - extent).max(0.0).round()
    };
    let left = inside(at[0], width, image.width());
    let top = inside(at[1], height, image.height());
    fill_rect(image, [left, top], [left + width, top + height], paper, 0.78);
    text(image, [left + pad, top + pad / 2.0], Align::Left, size, ink, words);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paper() -> RgbImage {
        RgbImage::from_pixel(40, 30, Rgb(WHITE))
    }

    #[test]
    fn rectangles_fill_exactly_their_pixels() {
        let mut image = paper();
        fill_rect(&mut image, [2.0, 3.0], [4.0, 5.0], BLACK, 1.0);
        let dark = image.pixels().filter(|p| p.0 == BLACK).count();
        assert_eq!(dark, 4);
        assert_eq!(image.get_pixel(2, 3).0, BLACK);
        assert_eq!(image.get_pixel(4, 4).0, WHITE);
        fill_rect(&mut image, [-9.0, -9.0], [99.0, 99.0], BLACK, 0.5);
        assert_eq!(image.get_pixel(39, 29).0, [128, 128, 128]);
    }

    #[test]
    fn a_line_covers_its_width_and_no_more() {
        let mut image = paper();
        line(&mut image, [5.0, 10.0], [35.0, 10.0], 2.0, BLACK);
        // Its area is 30 x 2 plus two half discs of radius 1.
        let ink: f64 = image.pixels().map(|p| 1.0 - f64::from(p.0[0]) / 255.0).sum();
        assert!((ink - (60.0 + std::f64::consts::PI)).abs() < 2.0, "{ink}");
        assert_eq!(image.get_pixel(20, 9).0, BLACK);
        assert_eq!(image.get_pixel(20, 12).0, WHITE);
    }

    #[test]
    fn nothing_is_drawn_outside_or_for_bad_numbers() {
        let mut image = paper();
        line(&mut image, [f64::NAN, 0.0], [5.0, 5.0], 2.0, BLACK);
        line(&mut image, [-50.0, -50.0], [-40.0, -1e12], 2.0, BLACK);
        dashed(&mut image, [0.0, 0.0], [f64::INFINITY, 0.0], 2.0, 4.0, BLACK);
        text(&mut image, [200.0, 200.0], Align::Left, 16.0, BLACK, "far away");
        assert_eq!(image, paper());
    }

    #[test]
    fn dashes_leave_gaps() {
        let mut image = paper();
        dashed(&mut image, [0.0, 5.5], [40.0, 5.5], 1.0, 8.0, BLACK);
        assert_eq!(image.get_pixel(4, 5).0, BLACK);
        assert_eq!(image.get_pixel(12, 5).0, WHITE);
        assert_eq!(image.get_pixel(20, 5).0, BLACK);
    }

    #[test]
    fn text_has_ink_where_it_says_it_is() {
        let mut image = RgbImage::from_pixel(200, 40, Rgb(WHITE));
        let width = text_width("1.42 m", 20.0);
        assert!((50.0..90.0).contains(&width), "{width}");
        text(&mut image, [190.0, 10.0], Align::Right, 20.0, BLACK, "1.42 m");
        let ink = |left: u32, right: u32| {
            image.enumerate_pixels().filter(|(x, _, p)| (left..right).contains(x) && p.0[0] < 128).count()
        };
        assert!(ink(190 - width as u32, 190) > 100);
        assert_eq!(ink(0, 188 - width as u32) + ink(191, 200), 0);
    }

    #[test]
    fn long_texts_end_in_dots() {
        let letter = text_width("m", 20.0);
        assert_eq!(shortened("mmmmmmmm", 6.5 * letter, 20.0), "mmm...");
        assert_eq!(shortened("mmmmmmmm", 8.5 * letter, 20.0), "mmmmmmmm");
        assert_eq!(shortened("mm", 0.5 * letter, 20.0), "");
    }

    #[test]
    fn labels_stay_inside() {
        let mut image = paper();
        label(&mut image, [39.0, 29.0], 10.0, WHITE, BLACK, "ab");
        assert!(image.get_pixel(39, 29).0[0] < 128);
        assert_eq!(image.get_pixel(2, 2).0, WHITE);
    }
}
