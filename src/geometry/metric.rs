//! Ties the depth head to the calibrated floor: where the picture shows floor, its true depth is known, so the head's
//! depth is corrected frame by frame by a scale and a shift. Without this the scale of a depth head wanders by tens
//! of percent from camera to camera.

use crate::types::{DepthMap, Grid, PixelTransform};

use super::camera::{Camera, FloorPlane};
use super::sight::patch_ray;

/// Corrected depth: `true = scale * head + shift_m`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DepthTie {
    /// Factor.
    pub scale: f64,
    /// Metres.
    pub shift_m: f64,
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

impl DepthTie {
    /// Fits scale and shift on patches that the segmentation takes for floor, by least squares of the relative error
    /// with residuals beyond 1.5 spreads weighed down (Huber), five rounds. `None` when too little floor is seen or
    /// the fit is absurd (a scale outside 0.2 to 5).
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
        for (i, (head, sure)) in depth.metres.iter().zip(floor).enumerate() {
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
        let mut tie = Self { scale: 1.0, shift_m: 0.0, spread: f64::INFINITY, patches: pairs.len() };
        for _ in 0..5 {
            let (mut a, mut b, mut c, mut p, mut q) = (1e-9, 0.0, 1e-9, 0.0, 0.0);
            for &(head, true_m) in &pairs {
                let residual = (tie.scale * head + tie.shift_m - true_m).abs() / true_m;
                let limit = 1.5 * tie.spread.max(1e-3);
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
            tie.scale = (p * c_held - b * q) / determinant;
            tie.shift_m = (a * q - b * p) / determinant;
            let mut left: Vec<f64> =
                pairs.iter().map(|&(h, t)| (tie.scale * h + tie.shift_m - t).abs() / t).collect();
            let middle = left.len() / 2;
            tie.spread = 1.4826 * *left.select_nth_unstable_by(middle, f64::total_cmp).1;
        }
        (0.2..5.0).contains(&tie.scale).then_some(tie)
    }

    /// Corrects a depth, metres.
    pub fn apply(&self, head_m: f64) -> f64 {
        (self.scale * head_m + self.shift_m).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::camera::{Lens, tests::camera_above_origin};
    use super::*;

    #[test]
    fn scale_and_shift_come_back_and_outliers_do_not_matter() {
        let camera = camera_above_origin(Lens::from_horizontal_fov(392.0, 224.0, 1.2));
        let grid = Grid { rows: 16, cols: 28, patch_px: 14 };
        let transform = PixelTransform {
            source_width: 392,
            source_height: 224,
            input_width: 392,
            input_height: 224,
            scale_x: 1.0,
            scale_y: 1.0,
            offset_x: 0.0,
            offset_y: 0.0,
        };
        let mut depth = DepthMap { metres: Vec::new(), log_sigma: vec![0.1; grid.len()] };
        let mut floor = Vec::new();
        for i in 0..grid.len() {
            let ray = patch_ray(&camera, &transform, grid, i % grid.cols, i / grid.cols);
            let true_m = 4.0 / (ray.fall * ray.reach);
            // The head sees 0.7 of the depth less half a metre; every ninth floor patch is something else.
            let wrong = if i % 9 == 0 { 0.6 } else { 1.0 };
            depth.metres.push(((true_m - 0.5) / 1.4 * wrong) as f32);
            floor.push(if ray.fall > 0.1 { 1.0 } else { 0.0 });
        }
        let tie = DepthTie::fit(&depth, &floor, grid, &camera, &transform, &FloorPlane::ground()).unwrap();
        assert!((tie.scale - 1.4).abs() < 0.03 && (tie.shift_m - 0.5).abs() < 0.2, "{tie:?}");
        assert!((tie.apply(5.0) - 7.5).abs() < 0.15, "{tie:?}");
        let none = vec![0.0; grid.len()];
        assert!(DepthTie::fit(&depth, &none, grid, &camera, &transform, &FloorPlane::ground()).is_none());
    }
}
