//! The footprint of a thing of which only the mask is known: a class that a site taught, whose size and surface no head
//! knows.
//!
//! A bearing from the camera's foot is the same for a place and for what stands above it, so the mask's sides are right
//! whatever their height. How far away a seen point is depends on its height: the floor where the thing's lower end
//! borders on floor, anything up to `TALLEST_M` elsewhere. Three outlines, flat, in between and tall, share the
//! weight, so that an interval holds what the height leaves open.

use super::footprint::{Footprint, Hypothesis, View};
use super::polygon::convex_hull;
use super::sight::{Ray, bearing};
use super::vector::{dot2, sub2};
use crate::types::Thing;

/// What no head knows is thought to be up to this tall, metres: cars, pallets with goods, machines.
const TALLEST_M: f64 = 2.0;
/// Weights of the outline between flat and tall (by the tied depth where there is one), and of either.
const WEIGHTS: [f64; 3] = [0.5, 0.25, 0.25];
/// The outline lies within half a patch of the mask's side, anywhere there: standard deviation of that, in patches.
const SIDE_PATCHES: f64 = 0.29;
/// Standard deviation of the height of the lowest point that is seen of a thing that stands on the floor, metres: sills,
/// bumpers, feet.
const CONTACT_SIGMA_M: f64 = 0.15;
/// What a hull hides of a true outline (mirrors, hollow sides), metres.
const SHAPE_SIGMA_M: f64 = 0.1;
/// Rays that fall less than this meet the floor too far away.
const LEAST_FALL: f64 = 0.05;
/// Bearings are told apart in steps of so many of the mask's columns, or a step could miss the thing's lower end.
const STEP_COLUMNS: usize = 2;

/// A cell of the mask seen from the camera.
struct Seen {
    ray: Ray,
    /// Where the ray meets the floor, metres from the camera's foot.
    floor_m: f64,
    /// Its surface's height by the tied depth, metres, where there is one.
    height_m: Option<f64>,
    step: usize,
}

/// The lower end of what is seen at a bearing.
#[derive(Clone, Copy)]
struct Low {
    floor_m: f64,
    stands: bool,
}

/// Where the thing is; `None` when all of it is level with the camera or above.
pub fn silhouette(thing: &Thing, view: &View) -> Option<Footprint> {
    let (mut seen, lows) = seen(thing, view)?;
    // The hull needs no cell that has others on all four sides.
    let mask = &thing.mask;
    let is_set =
        |col: usize, row: usize| col < mask.width && row < mask.height && mask.cells[row * mask.width + col];
    let inner = |(col, row): (usize, usize)| {
        col > 0
            && row > 0
            && is_set(col - 1, row)
            && is_set(col + 1, row)
            && is_set(col, row - 1)
            && is_set(col, row + 1)
    };
    seen.retain(|(cell, _)| !inner(*cell));
    let at = |height: &dyn Fn(&Seen) -> f64| -> Vec<[f64; 2]> {
        let foot = view.camera.pose.position_m;
        let place = |s: &Seen| {
            let share = 1.0 - height(s) / view.height_m;
            let low = lows[s.step].map_or(0.0, |low| low.floor_m * if low.stands { 1.0 } else { share });
            let range = (s.floor_m * share).max(low);
            [foot[0] + s.ray.along[0] * range, foot[1] + s.ray.along[1] * range]
        };
        convex_hull(&seen.iter().map(|(_, s)| place(s)).collect::<Vec<_>>())
    };
    let tall_m = TALLEST_M.min(0.9 * view.height_m);
    let between = |s: &Seen| s.height_m.unwrap_or(0.5 * tall_m).clamp(0.0, tall_m);
    let outlines = [at(&between), at(&|_| 0.0), at(&|_| tall_m)];
    let covariance_m2 = covariance(thing, view)?;
    let hypotheses = outlines.into_iter().zip(WEIGHTS).map(|(outline_m, weight)| {
        let n = outline_m.len() as f64;
        let middle_m = outline_m.iter().fold([0.0, 0.0], |m, p| [m[0] + p[0] / n, m[1] + p[1] / n]);
        Hypothesis { outline_m, middle_m, heading_rad: None, weight, covariance_m2 }
    });
    Some(Footprint { hypotheses: hypotheses.collect(), shape_sigma_m: SHAPE_SIGMA_M })
}

type Cells = Vec<((usize, usize), Seen)>;

/// All cells, and the lower end at every step of bearing.
fn seen(thing: &Thing, view: &View) -> Option<(Cells, Vec<Option<Low>>)> {
    let (mask, side) = (&thing.mask, view.grid.patch_px as f64);
    let centre = |col: usize, row: usize| {
        [(mask.left + col) as f64 + 0.5, (mask.top + row) as f64 + 0.5].map(|cell| cell * mask.cell_px)
    };
    let mut cells: Vec<((usize, usize), Seen)> = Vec::new();
    for (index, _) in mask.cells.iter().enumerate().filter(|(_, is_set)| **is_set) {
        let (col, row) = (index % mask.width, index / mask.width);
        let input_px = centre(col, row);
        let ray = Ray::through(view.camera, view.transform, input_px);
        if ray.fall <= LEAST_FALL {
            continue;
        }
        let [x, y] = input_px.map(|p| (p / side) as usize);
        let head = view.depth.and_then(|(depth, tie)| Some((*depth.get(y * view.grid.cols + x)?, tie)));
        let height_m =
            head.map(|(head, tie)| view.height_m - tie.apply(f64::from(head)) * ray.reach * ray.fall);
        cells.push(((col, row), Seen { ray, floor_m: view.height_m / ray.fall, height_m, step: 0 }));
    }
    let forward = cells.get(cells.len() / 2)?.1.ray.along;
    let bearings = || cells.iter().map(|(_, s)| bearing(s.ray.along, forward));
    let (first, last) = (bearings().min_by(f64::total_cmp)?, bearings().max_by(f64::total_cmp)?);
    let steps = mask.width.div_ceil(STEP_COLUMNS);
    let step_rad = ((last - first) / steps as f64).max(1e-6);
    let mut lows: Vec<Option<Low>> = vec![None; steps];
    for ((col, _), s) in &mut cells {
        s.step = (((bearing(s.ray.along, forward) - first) / step_rad) as usize).min(steps - 1);
        let low = &mut lows[s.step];
        if low.is_none_or(|low| s.floor_m < low.floor_m) {
            let stands = thing.meets_floor.get(*col).copied().unwrap_or(false);
            *low = Some(Low { floor_m: s.floor_m, stands });
        }
    }
    Some((cells, lows))
}

/// Covariance of the outline by the mask's side and the height of the lowest point.
fn covariance(thing: &Thing, view: &View) -> Option<[[f64; 2]; 2]> {
    let mask = &thing.mask;
    let x = (mask.left as f64 + 0.5 * mask.width as f64) * mask.cell_px;
    let y = (mask.top as f64 + 0.75 * mask.height as f64) * mask.cell_px;
    let patch = view.grid.patch_px as f64;
    let place = |x: f64, y: f64| {
        let ray = Ray::through(view.camera, view.transform, [x, y]);
        (ray.fall > LEAST_FALL).then(|| ray.along.map(|a| a * view.height_m / ray.fall))
    };
    let ray = Ray::through(view.camera, view.transform, [x, y]);
    let (here, right, below) = (place(x, y)?, place(x + patch, y)?, place(x, y + patch)?);
    let across = SIDE_PATCHES * dot2(sub2(right, here), ray.aside()).abs();
    let along = (SIDE_PATCHES * dot2(sub2(below, here), ray.along)).hypot(CONTACT_SIGMA_M / ray.fall);
    let ([fx, fy], [ax, ay]) = (ray.along, ray.aside());
    let (p, q) = (along * along, across * across);
    let off = p * fx * fy + q * ax * ay;
    Some([[p * fx * fx + q * ax * ax, off], [off, p * fy * fy + q * ay * ay]])
}
