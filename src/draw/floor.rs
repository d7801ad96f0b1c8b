//! The floor as a calibration has it, drawn on a frame: a grid of metres on every plane, the points with their
//! residuals. What does not lie on the floor is drawn over.

use image::RgbImage;
use image::imageops::{self, FilterType};

use super::Colour;
use super::canvas::{self, Align, BLACK, WHITE};
use crate::geometry::polygon::contains;
use crate::geometry::{Camera, FloorPlane};

/// Colours of the planes, in turn (after Okabe and Ito).
const PLANE_COLOURS: [Colour; 3] = [[86, 220, 255], [255, 150, 40], [120, 230, 120]];
const MARK_COLOUR: Colour = [255, 60, 170];
/// Smaller pictures are enlarged by whole factors until they are as wide as this.
const READABLE_WIDTH: u32 = 1280;
/// Floor farther away than this is not drawn, metres from the camera's foot.
const FARTHEST_M: f64 = 60.0;
/// Lines nearer to each other than this in the picture are left out, pixels of the frame.
const CLOSEST_PX: f64 = 7.0;
/// Residuals are drawn so many times as long as they are.
pub const RESIDUAL_FACTOR: f64 = 10.0;

/// A place that was clicked.
#[derive(Debug, Clone, PartialEq)]
pub struct FloorMark {
    /// What it is called.
    pub label: String,
    /// Where it was clicked, pixels of the frame.
    pub clicked_px: [f64; 2],
    /// Where the calibration puts it, if it does.
    pub solved_px: Option<[f64; 2]>,
    /// Other end of what was measured from here, pixels of the frame.
    pub to_px: Option<[f64; 2]>,
}

/// Draws the grid (when there is a camera) and the marks on a frame of the camera's size.
pub fn floor(
    frame: &RgbImage,
    camera: Option<&Camera>,
    planes: &[FloorPlane],
    marks: &[FloorMark],
) -> RgbImage {
    let scale = READABLE_WIDTH.div_ceil(frame.width().max(1)).max(1);
    let mut image =
        imageops::resize(frame, frame.width() * scale, frame.height() * scale, FilterType::CatmullRom);
    let scale = f64::from(scale);
    let text_px = (f64::from(image.height()) / 45.0).clamp(12.0, 26.0).round();
    if let Some(camera) = camera {
        for (plane, colour) in planes.iter().zip(PLANE_COLOURS.iter().cycle()) {
            grid(&mut image, camera, (plane, planes), *colour, scale, text_px);
        }
    }
    for mark in marks {
        draw_mark(&mut image, mark, scale, text_px);
    }
    // Below the picture, whose lowest rows are the nearest floor.
    let mut page = RgbImage::new(image.width(), image.height() + (1.6 * text_px) as u32);
    imageops::replace(&mut page, &image, 0, 0);
    legend(&mut page, camera.is_some(), planes, text_px);
    page
}

fn grid(
    image: &mut RgbImage,
    camera: &Camera,
    (plane, planes): (&FloorPlane, &[FloorPlane]),
    colour: Colour,
    scale: f64,
    text_px: f64,
) {
    let Some((low, high)) = bounds(camera, plane) else { return };
    for along in [0, 1] {
        for line in low[1 - along]..=high[1 - along] {
            let at = |t: f64| {
                let mut place = [0.0; 2];
                place[along] = t;
                place[1 - along] = f64::from(line);
                place
            };
            let (width, every) = if line % 5 == 0 { (2.2, 5.0) } else { (0.8, 1.0) };
            // The neighbour of the same kind says how close the lines are here.
            let aside = |place: [f64; 2]| {
                let mut next = place;
                next[1 - along] += every;
                next
            };
            let steps = (high[along] - low[along]) * 4;
            let mut before: Option<[f64; 2]> = None;
            for step in 0..=steps {
                let place = at(f64::from(low[along]) + f64::from(step) * 0.25);
                let here = seen(camera, plane, planes, place);
                let apart = here
                    .zip(seen_anywhere(camera, plane, aside(place)))
                    .map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1]));
                let here = here.filter(|_| apart.is_some_and(|apart| apart >= CLOSEST_PX));
                if let (Some(a), Some(b)) = (before, here) {
                    canvas::line(image, a.map(|v| v * scale), b.map(|v| v * scale), width, colour);
                }
                before = here;
            }
        }
    }
    for x in (low[0]..=high[0]).filter(|x| x % 5 == 0) {
        for y in (low[1]..=high[1]).filter(|y| y % 5 == 0) {
            let place = [f64::from(x), f64::from(y)];
            let Some(at) = seen(camera, plane, planes, place) else { continue };
            let roomy = [[5.0, 0.0], [0.0, 5.0]].iter().all(|step| {
                let next = seen_anywhere(camera, plane, [place[0] + step[0], place[1] + step[1]]);
                next.is_some_and(|next| (next[0] - at[0]).hypot(next[1] - at[1]) * scale > 5.0 * text_px)
            });
            let inside = at[0] > 0.0
                && at[1] > 0.0
                && at[0] * scale < f64::from(image.width())
                && at[1] * scale < f64::from(image.height());
            if roomy && inside {
                canvas::label(
                    image,
                    at.map(|v| v * scale),
                    0.85 * text_px,
                    colour,
                    BLACK,
                    &format!("{x}, {y}"),
                );
            }
        }
    }
}

/// Where a place of a plane's area is seen, near enough to be drawn and not behind a higher plane's area.
fn seen(camera: &Camera, plane: &FloorPlane, planes: &[FloorPlane], place: [f64; 2]) -> Option<[f64; 2]> {
    let holds = |plane: &FloorPlane, place| plane.area_m.is_empty() || contains(&plane.area_m, place);
    let pixel = seen_anywhere(camera, plane, place).filter(|_| holds(plane, place))?;
    let hides = |other: &FloorPlane| {
        other.height_m > plane.height_m
            && camera.ground_from_pixel(pixel, other).is_some_and(|at| holds(other, at))
    };
    (!planes.iter().any(hides)).then_some(pixel)
}

fn seen_anywhere(camera: &Camera, plane: &FloorPlane, [x, y]: [f64; 2]) -> Option<[f64; 2]> {
    let p = camera.pose.position_m;
    let point = [x, y, plane.height_m];
    // Close to the camera's own plane a projection runs off to infinity, and the lens' model with it.
    let is_near = (x - p[0]).hypot(y - p[1]) < FARTHEST_M && camera.depth_m(point) > 0.3;
    camera.pixel_from_world(point).filter(|_| is_near)
}

/// Whole metres that hold what is seen of a plane.
fn bounds(camera: &Camera, plane: &FloorPlane) -> Option<([i32; 2], [i32; 2])> {
    let p = camera.pose.position_m;
    let (mut low, mut high) = ([f64::MAX; 2], [f64::MIN; 2]);
    const STEPS: i32 = 32;
    for row in 0..=STEPS {
        for col in 0..=STEPS {
            let share = |i: i32, size: f64| f64::from(i) / f64::from(STEPS) * size;
            let pixel = [share(col, camera.lens.width_px), share(row, camera.lens.height_px)];
            let Some(at) = camera.ground_from_pixel(pixel, plane) else { continue };
            let range = (at[0] - p[0]).hypot(at[1] - p[1]);
            let short = (FARTHEST_M / range.max(1e-9)).min(1.0);
            for axis in 0..2 {
                let value = p[axis] + (at[axis] - p[axis]) * short;
                low[axis] = low[axis].min(value);
                high[axis] = high[axis].max(value);
            }
        }
    }
    (low[0] < high[0]).then(|| (low.map(|v| v.floor() as i32), high.map(|v| v.ceil() as i32)))
}

fn draw_mark(image: &mut RgbImage, mark: &FloorMark, scale: f64, text_px: f64) {
    let at = mark.clicked_px.map(|v| v * scale);
    if let Some(to) = mark.to_px {
        let to = to.map(|v| v * scale);
        canvas::line(image, at, to, 2.0, MARK_COLOUR);
        canvas::disc(image, to, 3.5, MARK_COLOUR);
    }
    if let Some(solved) = mark.solved_px {
        let tip = [0, 1].map(|i| at[i] + RESIDUAL_FACTOR * (solved[i] * scale - at[i]));
        canvas::line(image, at, tip, 2.5, WHITE);
        canvas::disc(image, tip, 2.5, WHITE);
    }
    canvas::disc(image, at, 6.0, BLACK);
    canvas::disc(image, at, 4.5, MARK_COLOUR);
    canvas::label(image, [at[0], at[1] - 1.2 * text_px], text_px, WHITE, BLACK, &mark.label);
}

fn legend(image: &mut RgbImage, solved: bool, planes: &[FloorPlane], text_px: f64) {
    let top = f64::from(image.height()) - 1.3 * text_px;
    let mut left = 0.6 * text_px;
    let mut write = |image: &mut RgbImage, words: &str, colour: Colour| {
        canvas::text(image, [left, top], Align::Left, text_px, colour, words);
        left += canvas::text_width(words, text_px) + 1.2 * text_px;
    };
    if !solved {
        write(image, "not calibrated: only what was clicked", WHITE);
        return;
    }
    for (plane, colour) in planes.iter().zip(PLANE_COLOURS.iter().cycle()) {
        write(image, &format!("floor at {:.2} m: thin 1 m, thick 5 m", plane.height_m), *colour);
    }
    write(image, &format!("points; white: off, x{RESIDUAL_FACTOR:.0}"), MARK_COLOUR);
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::geometry::{Lens, Pose};

    fn camera() -> Camera {
        let (s, c) = 30f64.to_radians().sin_cos();
        let world_from_camera = [[1.0, 0.0, 0.0], [0.0, -s, c], [0.0, -c, -s]];
        let lens = Lens::from_horizontal_fov(640.0, 360.0, 70f64.to_radians());
        Camera { lens, pose: Pose { world_from_camera, position_m: [0.0, 0.0, 4.0] } }
    }

    fn blank() -> RgbImage {
        RgbImage::from_pixel(640, 360, Rgb([40, 40, 40]))
    }

    #[test]
    fn lines_lie_where_the_metres_are() {
        let plane = FloorPlane::ground();
        let image = floor(&blank(), Some(&camera()), std::slice::from_ref(&plane), &[]);
        assert_eq!(image.dimensions(), (1280, 720 + 25));
        let at = |place: [f64; 2]| {
            let [u, v] = seen_anywhere(&camera(), &plane, place).unwrap();
            image.get_pixel((2.0 * u) as u32, (2.0 * v) as u32).0
        };
        assert_eq!(at([0.0, 6.5]), PLANE_COLOURS[0], "a thick line");
        assert_ne!(at([1.0, 6.5]), [40, 40, 40], "a thin line");
        assert_eq!(at([0.5, 6.5]), [40, 40, 40], "between the lines");
    }

    #[test]
    fn a_plane_keeps_to_its_area() {
        let area_m = vec![[-2.0, 5.0], [2.0, 5.0], [2.0, 8.0], [-2.0, 8.0]];
        let plane = FloorPlane { height_m: -1.0, area_m };
        let image = floor(&blank(), Some(&camera()), std::slice::from_ref(&plane), &[]);
        let at = |place: [f64; 2]| {
            let [u, v] = seen_anywhere(&camera(), &plane, place).unwrap();
            image.get_pixel((2.0 * u) as u32, (2.0 * v) as u32).0
        };
        assert_eq!((at([0.0, 6.5]), at([0.0, 9.5])), (PLANE_COLOURS[0], [40, 40, 40]));
        // What a higher floor hides is not drawn.
        let dock =
            FloorPlane { height_m: 0.0, area_m: vec![[-9.0, 0.0], [9.0, 0.0], [9.0, 6.0], [-9.0, 6.0]] };
        let shown = |place| seen(&camera(), &plane, &[plane.clone(), dock.clone()], place).is_some();
        assert_eq!((shown([0.0, 7.4]), shown([0.0, 7.6])), (false, true));
    }

    #[test]
    fn a_residual_is_drawn_ten_times_as_long() {
        let mark = FloorMark {
            label: "1".into(),
            clicked_px: [100.0, 200.0],
            solved_px: Some([103.0, 200.0]),
            to_px: None,
        };
        let image = floor(&blank(), None, &[], &[mark]);
        assert_eq!(image.get_pixel(200, 400).0, MARK_COLOUR);
        assert_eq!(image.get_pixel(258, 400).0, WHITE);
        assert_eq!(image.get_pixel(266, 400).0, [40, 40, 40]);
    }
}
