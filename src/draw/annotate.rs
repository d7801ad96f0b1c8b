//! What the daemon believes, drawn on the frame it believed it on.

use image::RgbImage;
use image::imageops::{self, FilterType};

use super::canvas::{self, Align, BLACK, WHITE};
use super::{Colour, state_colour};
use crate::types::{Mask, PixelTransform, State};

/// Smaller pictures are enlarged by whole factors until they are as wide as this.
const READABLE_WIDTH: u32 = 960;
const MASK_ALPHA: f64 = 0.40;
const EDGE_COLOUR: Colour = [255, 221, 51];

/// What to draw on a frame. Points are pixels of the frame.
#[derive(Debug, Clone, Default)]
pub struct Annotation {
    /// The things, drawn in this order.
    pub things: Vec<ThingMark>,
    /// Edges and zones as polylines.
    pub edges: Vec<Vec<[f64; 2]>>,
    /// Measured distances.
    pub lines: Vec<LineMark>,
    /// The state, at the top.
    pub banner: Option<Banner>,
}

/// A thing with its mask.
#[derive(Debug, Clone)]
pub struct ThingMark {
    /// What it is.
    pub class: String,
    /// How sure, 0 to 1.
    pub score: f32,
    /// Its outline on the backbone's input.
    pub mask: Mask,
    /// Where the frame lies in that input.
    pub transform: PixelTransform,
    /// Its colour.
    pub colour: Colour,
}

/// A distance between two points of the floor.
#[derive(Debug, Clone)]
pub struct LineMark {
    /// One end, pixels of the frame.
    pub from_px: [f64; 2],
    /// The other end, pixels of the frame.
    pub to_px: [f64; 2],
    /// What it measures: "1.42 m (1.10 .. 1.80)".
    pub label: String,
    /// Its colour, usually that of the rule's state.
    pub colour: Colour,
}

/// The line at the top of the picture.
#[derive(Debug, Clone)]
pub struct Banner {
    /// The state; its reason is written too.
    pub state: State,
    /// What it is about: a rule's name, a distance.
    pub text: String,
    /// The frame's time, as it is to be written.
    pub time: String,
}

/// Draws all of it on a copy of the frame, enlarged by a whole factor when the frame is small.
pub fn annotate(frame: &RgbImage, overlays: &Annotation) -> RgbImage {
    let factor = READABLE_WIDTH.div_ceil(frame.width().max(1)).clamp(1, 4);
    let mut image = if factor == 1 {
        frame.clone()
    } else {
        imageops::resize(frame, frame.width() * factor, frame.height() * factor, FilterType::CatmullRom)
    };
    let scale = f64::from(factor);
    let text_px = (f64::from(image.width()) / 48.0).clamp(14.0, 44.0).round();
    let stroke = (text_px / 8.0).max(2.0);
    let scaled = |p: [f64; 2]| [p[0] * scale, p[1] * scale];

    for edge in &overlays.edges {
        for ends in edge.windows(2) {
            let (a, b) = (scaled(ends[0]), scaled(ends[1]));
            canvas::line(&mut image, a, b, stroke + 2.0, BLACK);
            canvas::dashed(&mut image, a, b, stroke, 4.0 * stroke, EDGE_COLOUR);
        }
    }
    let anchors: Vec<_> = overlays.things.iter().map(|thing| draw_mask(&mut image, thing, scale)).collect();
    for mark in &overlays.lines {
        let (a, b) = (scaled(mark.from_px), scaled(mark.to_px));
        canvas::line(&mut image, a, b, stroke + 3.0, WHITE);
        canvas::line(&mut image, a, b, stroke, mark.colour);
        for end in [a, b] {
            canvas::disc(&mut image, end, stroke + 2.5, WHITE);
            canvas::disc(&mut image, end, stroke + 0.5, mark.colour);
        }
    }
    // Words last, so that nothing is drawn over them; below the banner, which is drawn over all.
    let banner_px = 1.8 * text_px;
    for (thing, anchor) in overlays.things.iter().zip(anchors) {
        if let Some([x, y]) = anchor {
            let words = format!("{} {:.2}", thing.class, thing.score);
            canvas::label(
                &mut image,
                [x, (y - text_px).max(banner_px + text_px)],
                text_px,
                thing.colour,
                BLACK,
                &words,
            );
        }
    }
    for mark in &overlays.lines {
        let (a, b) = (scaled(mark.from_px), scaled(mark.to_px));
        let middle = [(a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0 + 1.3 * text_px];
        canvas::label(&mut image, middle, text_px, WHITE, BLACK, &mark.label);
    }
    if let Some(banner) = &overlays.banner {
        draw_banner(&mut image, banner, text_px, banner_px);
    }
    image
}

/// Colours the mask's pixels and its rim; returns the middle of its top, where the label goes.
fn draw_mask(image: &mut RgbImage, thing: &ThingMark, scale: f64) -> Option<[f64; 2]> {
    let mask = &thing.mask;
    let is_set = |col: i64, row: i64| {
        let (col, row) = (col - mask.left as i64, row - mask.top as i64);
        let (Ok(col), Ok(row)) = (usize::try_from(col), usize::try_from(row)) else { return false };
        col < mask.width && row < mask.height && mask.cells.get(row * mask.width + col) == Some(&true)
    };
    let covers = |x: i64, y: i64| {
        let source = [(x as f64 + 0.5) / scale, (y as f64 + 0.5) / scale];
        let [u, v] = thing.transform.input_from_source(source);
        is_set((u / mask.cell_px).floor() as i64, (v / mask.cell_px).floor() as i64)
    };
    let corner = |col: usize, row: usize| {
        let [x, y] =
            thing.transform.source_from_input([col as f64 * mask.cell_px, row as f64 * mask.cell_px]);
        [x * scale, y * scale]
    };
    let [left, top] = corner(mask.left, mask.top);
    let [right, bottom] = corner(mask.left + mask.width, mask.top + mask.height);
    let range = |low: f64, high: f64, size: u32| {
        let limit = f64::from(size);
        low.floor().clamp(0.0, limit) as i64..high.ceil().clamp(0.0, limit) as i64
    };
    let columns = range(left, right, image.width());
    let mut top_row: Option<(i64, i64, i64)> = None;
    for y in range(top, bottom, image.height()) {
        for x in columns.clone().filter(|&x| covers(x, y)) {
            let rim = [(2, 0), (-2, 0), (0, 2), (0, -2)].iter().any(|(dx, dy)| !covers(x + dx, y + dy));
            canvas::blend(image, x, y, thing.colour, if rim { 0.95 } else { MASK_ALPHA });
            top_row = match top_row {
                Some((row, first, _)) if row == y => Some((row, first, x)),
                None => Some((y, x, x)),
                seen => seen,
            };
        }
    }
    top_row.map(|(y, first, last)| [(first + last) as f64 / 2.0, y as f64])
}

fn draw_banner(image: &mut RgbImage, banner: &Banner, text_px: f64, height: f64) {
    let width = f64::from(image.width());
    let colour = state_colour(&banner.state);
    canvas::fill_rect(image, [0.0, 0.0], [width, height], colour, 0.92);
    let mut words = banner.state.word().to_uppercase();
    if let Some(reason) = banner.state.reason() {
        words = format!("{words} ({reason})");
    }
    if !banner.text.is_empty() {
        words = format!("{words}  {}", banner.text);
    }
    let top = (height - text_px) / 2.0;
    canvas::text(image, [0.6 * text_px, top], Align::Left, text_px, WHITE, &words);
    canvas::text(image, [width - 0.6 * text_px, top], Align::Right, text_px, WHITE, &banner.time);
    // The rest of a thin frame in the same colour, so that the state is seen at thumbnail size.
    let (rim, bottom) = ((text_px / 5.0).round(), f64::from(image.height()));
    canvas::fill_rect(image, [0.0, height], [rim, bottom], colour, 0.92);
    canvas::fill_rect(image, [width - rim, height], [width, bottom], colour, 0.92);
    canvas::fill_rect(image, [rim, bottom - rim], [width - rim, bottom], colour, 0.92);
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::types::Reason;

    fn blank(width: u32, height: u32, colour: Colour) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb(colour))
    }

    fn transform() -> PixelTransform {
        PixelTransform {
            source_width: 480,
            source_height: 240,
            input_width: 240,
            input_height: 140,
            scale_x: 0.5,
            scale_y: 0.5,
            offset_x: 0.0,
            offset_y: 10.0,
        }
    }

    fn thing() -> ThingMark {
        // One cell of 10 input pixels: source x 200..220, y 80..100; twice that in the enlarged picture.
        let mask = Mask { cell_px: 10.0, left: 10, top: 5, width: 2, height: 1, cells: vec![true, false] };
        ThingMark { class: "person".into(), score: 0.9, mask, transform: transform(), colour: [255, 0, 0] }
    }

    fn frame() -> RgbImage {
        blank(480, 240, [0, 0, 100])
    }

    #[test]
    fn a_mask_lies_where_the_transform_puts_it() {
        let overlays = Annotation { things: vec![thing()], ..Annotation::default() };
        let image = annotate(&frame(), &overlays);
        assert_eq!(image.dimensions(), (960, 480));
        assert_eq!(image.get_pixel(420, 180).0, [102, 0, 60], "inside");
        assert_eq!(image.get_pixel(400, 180).0[0], 242, "rim");
        assert_eq!(image.get_pixel(398, 180).0, [0, 0, 100], "left of it");
        assert_eq!(image.get_pixel(445, 180).0, [0, 0, 100], "the empty cell");
        assert_eq!(image.get_pixel(420, 204).0, [0, 0, 100], "below it");
    }

    #[test]
    fn a_distance_is_drawn_between_its_points() {
        let mark = LineMark {
            from_px: [100.0, 120.0],
            to_px: [300.0, 120.0],
            label: "1.42 m (1.10 .. 1.80)".into(),
            colour: [200, 0, 0],
        };
        let image = annotate(&frame(), &Annotation { lines: vec![mark], ..Annotation::default() });
        assert_eq!(image.get_pixel(300, 240).0, [200, 0, 0]);
        assert_eq!(image.get_pixel(200, 240).0, [200, 0, 0]);
        assert_eq!(image.get_pixel(180, 240).0, [0, 0, 100]);
        let white_below = (250..290).any(|y| (300..500).any(|x| image.get_pixel(x, y).0 == WHITE));
        assert!(white_below, "the label is missing");
    }

    #[test]
    fn the_banner_has_the_states_colour() {
        for (state, colour) in [
            (State::Alarm, [203, 24, 29]),
            (State::Clear, [34, 139, 69]),
            (State::Unknown(Reason::Stale), [112, 112, 112]),
            (State::Disarmed("truck docked".into()), [33, 102, 172]),
        ] {
            let banner = Banner { state, text: "edge".into(), time: "12:00:01.3".into() };
            let image = annotate(&frame(), &Annotation { banner: Some(banner), ..Annotation::default() });
            let seen = image.get_pixel(3, 3).0;
            for channel in 0..3 {
                assert!(seen[channel].abs_diff(colour[channel]) < 25, "{seen:?} is not {colour:?}");
            }
            assert_eq!(image.get_pixel(480, 200).0, [0, 0, 100]);
        }
    }

    #[test]
    fn large_frames_keep_their_size_and_odd_masks_do_no_harm() {
        let mut odd = thing();
        odd.mask.cells.truncate(1);
        odd.mask.left = 5000;
        let frame = blank(1920, 1080, BLACK);
        let image = annotate(&frame, &Annotation { things: vec![odd], ..Annotation::default() });
        assert_eq!(image, frame);
    }
}
