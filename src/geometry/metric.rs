//! Ties the depth head to the calibrated floor: where the picture shows floor, its true depth is known, so the head's
//! depth is corrected frame by frame by a scale and a shift. Without this the scale of a depth head wanders by tens
//! of percent from camera to camera. A depth that is only known as its inverse, by a scale and a shift of its own, is
//! tied in the inverse domain.

use crate::types::{DepthMap, DepthUnit, Grid, PixelTransform};

use super::camera::{Camera, FloorPlane};
use super::sight::patch_ray;

/// Corrected depth: `scale * head + shift` is the depth in metres, or its inverse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DepthTie {
    /// What the head gives.
    pub unit: DepthUnit,
    /// Factor.
    pub scale: f64,
    /// Metres; 1 / metres of an inverse depth.
    pub shift: f64,
    /// Spread of what is left, as a share of the depth (1.4826 times the median absolute residual).
    pub spread: f64,
    /// Floor patches that it rests on.
    pub patches: usize,
}

/// A patch counts as floor from this probability on.
const SURE_FLOOR: f32 = 0.9;
/// Fewer floor patches than this do not hold a fit.
const LEAST_PATCHES: usize = 12;
/// Floor farther than this is a few pixels from the horizon, where a pixel of calibration error is metres.
const FARTHEST_M: f64 = 40.0;
/// Rounds of a fit.
const ROUNDS: usize = 5;
/// An inverse depth that comes out below that of this depth says no more than "far".
const BEYOND_M: f64 = 1000.0;

impl DepthTie {
    /// Fits scale and shift on patches that the segmentation takes for floor. A small relative error is the same of a
    /// depth and of its inverse. `None` when too little floor is seen or the fit is absurd: a scale of metres outside
    /// 0.2 to 5, an inverse depth that grows with the depth.
    pub fn fit(
        depth: &DepthMap,
        floor: &[f32],
        grid: Grid,
        camera: &Camera,
        transform: &PixelTransform,
        plane: &FloorPlane,
    ) -> Option<Self> {
        let height_m = camera.pose.position_m[2] - plane.height_m;
        let mut pairs = Vec::new();
        for (i, (head, sure)) in depth.values.iter().zip(floor).enumerate() {
            if *sure < SURE_FLOOR {
                continue;
            }
            let ray = patch_ray(camera, transform, grid, i % grid.cols, i / grid.cols);
            let true_m = height_m / (ray.fall * ray.reach);
            if ray.fall > 0.0 && true_m < FARTHEST_M && *head > 0.0 {
                pairs.push((f64::from(*head), true_m));
            }
        }
        if pairs.len() < LEAST_PATCHES {
            return None;
        }
        let (scale, shift, spread) = match depth.unit {
            DepthUnit::Metres => of_metres(&pairs).filter(|(scale, ..)| (0.2..5.0).contains(scale)),
            DepthUnit::Inverse => of_inverse(pairs.clone()).filter(|(scale, ..)| *scale > 0.0),
        }?;
        Some(Self { unit: depth.unit, scale, shift, spread, patches: pairs.len() })
    }

    /// The depth in metres that a value of the head stands for.
    pub fn apply(&self, head: f64) -> f64 {
        let corrected = self.scale * head + self.shift;
        match self.unit {
            DepthUnit::Metres => corrected.max(0.0),
            DepthUnit::Inverse => corrected.max(BEYOND_M.recip()).recip(),
        }
    }
}

/// Scale, shift and spread by least squares of the relative error with residuals beyond 1.5 spreads weighed down (Huber),
/// five rounds. `pairs` are of the head's metres and the true ones.
fn of_metres(pairs: &[(f64, f64)]) -> Option<(f64, f64, f64)> {
    let (mut scale, mut shift, mut spread) = (1.0, 0.0, f64::INFINITY);
    for _ in 0..ROUNDS {
        let (mut a, mut b, mut c, mut p, mut q) = (1e-9, 0.0, 1e-9, 0.0, 0.0);
        for &(head, true_m) in pairs {
            let residual = f64::abs(scale * head + shift - true_m) / true_m;
            let limit = 1.5 * f64::max(spread, 1e-3);
            let huber = if residual > limit { limit / residual } else { 1.0 };
            let w = huber / (true_m * true_m);
            a += w * head * head;
            b += w * head;
            c += w;
            p += w * head * true_m;
            q += w * true_m;
        }
        // The shift is held back a little, or a narrow range of floor depths leaves it free.
        let c_held = c * 1.02;
        let determinant = a * c_held - b * b;
        if determinant <= 0.0 {
            return None;
        }
        scale = (p * c_held - b * q) / determinant;
        shift = (a * q - b * p) / determinant;
        spread = 1.4826 * median(pairs.iter().map(|&(h, t)| f64::abs(scale * h + shift - t) / t).collect());
    }
    Some((scale, shift, spread))
}

/// The same of a head that gives the inverse depth by any scale and shift. What the floor's inverse depth truly is has no
/// error, so the head's value is fitted by it and not the other way round: what is no floor is then a residual and not a
/// lever. It begins with the line through the medians of the nearest and of the farthest third.
fn of_inverse(mut pairs: Vec<(f64, f64)>) -> Option<(f64, f64, f64)> {
    pairs.iter_mut().for_each(|(_, true_m)| *true_m = true_m.recip());
    pairs.sort_by(|a, b| a.1.total_cmp(&b.1));
    let third = pairs.len() / 3;
    let middle = |part: &[(f64, f64)]| {
        [median(part.iter().map(|pair| pair.0).collect()), median(part.iter().map(|pair| pair.1).collect())]
    };
    let (far, near) = (middle(&pairs[..third]), middle(&pairs[pairs.len() - third..]));
    let mut slope = (near[0] - far[0]) / (near[1] - far[1]);
    let mut offset = median(pairs.iter().map(|(head, inverse)| head - slope * inverse).collect());
    let mut spread = f64::INFINITY;
    for _ in 0..ROUNDS {
        if !(slope.is_finite() && slope > 0.0) {
            return None;
        }
        let residual =
            |&(head, inverse): &(f64, f64)| f64::abs(head - slope * inverse - offset) / (slope * inverse);
        spread = 1.4826 * median(pairs.iter().map(residual).collect());
        let limit = 1.5 * f64::max(spread, 1e-3);
        let (mut a, mut b, mut c, mut p, mut q) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for pair in &pairs {
            let &(head, inverse) = pair;
            let w = (limit / residual(pair)).min(1.0).powi(2) / (inverse * inverse);
            a += w * inverse * inverse;
            b += w * inverse;
            c += w;
            p += w * inverse * head;
            q += w * head;
        }
        let determinant = a * c - b * b;
        (slope, offset) = ((p * c - b * q) / determinant, (a * q - b * p) / determinant);
    }
    (slope.is_finite() && slope > 0.0).then_some((slope.recip(), -offset / slope, spread))
}

/// Of at least one value.
fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::super::camera::{Lens, tests::camera_above_origin};
    use super::*;

    const GRID: Grid = Grid { rows: 16, cols: 28, patch_px: 14 };
    const TRANSFORM: PixelTransform = PixelTransform {
        source_width: 392,
        source_height: 224,
        input_width: 392,
        input_height: 224,
        scale_x: 1.0,
        scale_y: 1.0,
        offset_x: 0.0,
        offset_y: 0.0,
    };

    fn camera() -> Camera {
        camera_above_origin(Lens::from_horizontal_fov(392.0, 224.0, 1.2))
    }

    /// A map of what a head says of the true depth, and where there is floor; every ninth value is of something nearer.
    fn seen(unit: DepthUnit, says: impl Fn(f64) -> f64) -> (DepthMap, Vec<f32>) {
        let (mut values, mut floor) = (vec![], vec![]);
        for i in 0..GRID.len() {
            let ray = patch_ray(&camera(), &TRANSFORM, GRID, i % GRID.cols, i / GRID.cols);
            let nearer = if i % 9 == 0 { 0.6 } else { 1.0 };
            values.push(says(4.0 * nearer / (ray.fall * ray.reach)) as f32);
            floor.push(if ray.fall > 0.1 { 1.0 } else { 0.0 });
        }
        (DepthMap { values, unit, log_sigma: vec![] }, floor)
    }

    fn fit(depth: &DepthMap, floor: &[f32]) -> Option<DepthTie> {
        DepthTie::fit(depth, floor, GRID, &camera(), &TRANSFORM, &FloorPlane::ground())
    }

    #[test]
    fn scale_and_shift_come_back_and_outliers_do_not_matter() {
        // The head sees 0.7 of the depth less half a metre.
        let (depth, floor) = seen(DepthUnit::Metres, |true_m| (true_m - 0.5) / 1.4);
        let tie = fit(&depth, &floor).unwrap();
        assert!((tie.scale - 1.4).abs() < 0.03 && (tie.shift - 0.5).abs() < 0.2, "{tie:?}");
        assert!((tie.apply(5.0) - 7.5).abs() < 0.15, "{tie:?}");
        assert!(fit(&depth, &vec![0.0; GRID.len()]).is_none());
    }

    #[test]
    fn an_inverse_depth_is_tied_in_the_inverse_domain() {
        // Values to about 10, 1.5 of each being nothing but the shift.
        let says = |true_m: f64| 40.0 / true_m + 1.5;
        let (depth, floor) = seen(DepthUnit::Inverse, says);
        let tie = fit(&depth, &floor).unwrap();
        for true_m in [2.0, 4.0, 6.0, 10.0, 20.0] {
            let found_m = tie.apply(says(true_m));
            assert!((found_m / true_m - 1.0).abs() < 0.01, "{true_m} m: {found_m}, {tie:?}");
        }
        // Below the value of the horizon all is far, and a number.
        assert!((tie.apply(0.0) - BEYOND_M).abs() < 1e-6);
    }

    #[test]
    fn a_depth_that_is_taken_for_its_inverse_is_not_used_nor_the_other_way_round() {
        let (inverse, floor) = seen(DepthUnit::Inverse, |true_m| 40.0 / true_m + 1.5);
        assert_eq!(fit(&DepthMap { unit: DepthUnit::Metres, ..inverse }, &floor), None);
        let (metres, floor) = seen(DepthUnit::Metres, |true_m| true_m);
        assert_eq!(fit(&DepthMap { unit: DepthUnit::Inverse, ..metres }, &floor), None);
    }
}
