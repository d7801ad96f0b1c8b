//! A camera: lens and pose, and the floor planes it looks at.

use super::vector::{M3, V3, dot3, mul, mul_t};

/// The lens, for the source picture. Pixels are counted from the outer edge of the top left pixel, whose centre is
/// at 0.5. Distortion is the radial part of Brown's model, `r' = r (1 + k1 r^2 + k2 r^4)` with `r` the distance from
/// the axis at depth 1 (OpenCV's k1, k2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lens {
    /// Width of the picture in pixels.
    pub width_px: f64,
    /// Height of the picture in pixels.
    pub height_px: f64,
    /// Focal length along a row in pixels.
    pub fx_px: f64,
    /// Focal length along a column in pixels.
    pub fy_px: f64,
    /// Where the axis meets the picture, from its left edge.
    pub cx_px: f64,
    /// Where the axis meets the picture, from its top edge.
    pub cy_px: f64,
    /// First radial coefficient.
    pub k1: f64,
    /// Second radial coefficient.
    pub k2: f64,
}

impl Lens {
    /// A lens without distortion whose axis meets the picture's middle, from the full horizontal angle of view
    /// (radians): `fx = width / (2 tan(angle / 2))`, square pixels.
    pub fn from_horizontal_fov(width_px: f64, height_px: f64, fov_rad: f64) -> Self {
        let f = width_px / (2.0 * (fov_rad / 2.0).tan());
        Self {
            width_px,
            height_px,
            fx_px: f,
            fy_px: f,
            cx_px: width_px / 2.0,
            cy_px: height_px / 2.0,
            k1: 0.0,
            k2: 0.0,
        }
    }

    /// The same lens for a picture of another size, as when a substream is analysed.
    pub fn scaled_to(&self, width_px: f64, height_px: f64) -> Self {
        let (sx, sy) = (width_px / self.width_px, height_px / self.height_px);
        Self {
            width_px,
            height_px,
            fx_px: self.fx_px * sx,
            fy_px: self.fy_px * sy,
            cx_px: self.cx_px * sx,
            cy_px: self.cy_px * sy,
            ..*self
        }
    }

    /// The pixel at which a direction (camera axes, z > 0) is seen.
    pub fn pixel_from_direction(&self, [x, y, z]: V3) -> [f64; 2] {
        let (x, y) = (x / z, y / z);
        let r2 = x * x + y * y;
        let d = 1.0 + r2 * (self.k1 + r2 * self.k2);
        [self.fx_px * x * d + self.cx_px, self.fy_px * y * d + self.cy_px]
    }

    /// The direction (camera axes, z = 1) that is seen at a pixel. Undoes the distortion by Newton's method on the
    /// radius; without distortion it is exact.
    pub fn direction_from_pixel(&self, [u, v]: [f64; 2]) -> V3 {
        let (x, y) = ((u - self.cx_px) / self.fx_px, (v - self.cy_px) / self.fy_px);
        if self.k1 == 0.0 && self.k2 == 0.0 {
            return [x, y, 1.0];
        }
        let target = x.hypot(y);
        let mut r = target;
        for _ in 0..20 {
            let r2 = r * r;
            let f = r * (1.0 + r2 * (self.k1 + r2 * self.k2)) - target;
            let slope = 1.0 + r2 * (3.0 * self.k1 + 5.0 * r2 * self.k2);
            if slope < 0.1 {
                // Beyond the radius where the model folds over no direction is right; stay at its edge.
                break;
            }
            let step = f / slope;
            r -= step;
            if step.abs() < 1e-13 {
                break;
            }
        }
        let s = if target > 0.0 { r / target } else { 1.0 };
        [x * s, y * s, 1.0]
    }
}

/// Where the camera is and where it looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pose {
    /// Turns camera axes (x right, y down, z forward) into the world's (z up).
    pub world_from_camera: M3,
    /// Where the camera is, metres.
    pub position_m: V3,
}

/// A lens at a pose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Camera {
    /// The lens.
    pub lens: Lens,
    /// The pose.
    pub pose: Pose,
}

impl Camera {
    /// The ray through a pixel in world axes, scaled to depth 1: a point at depth `z` is `position + z * ray`.
    pub fn ray_from_pixel(&self, pixel: [f64; 2]) -> V3 {
        mul(&self.pose.world_from_camera, self.lens.direction_from_pixel(pixel))
    }

    /// Depth and pixel of a point; `None` at or behind the camera.
    pub fn pixel_from_world(&self, point_m: V3) -> Option<[f64; 2]> {
        let p = self.pose.position_m;
        let d =
            mul_t(&self.pose.world_from_camera, [point_m[0] - p[0], point_m[1] - p[1], point_m[2] - p[2]]);
        (d[2] > 1e-9).then(|| self.lens.pixel_from_direction(d))
    }

    /// The point of a horizontal plane that is seen at a pixel; `None` at or above its horizon, and when the camera is
    /// not above it.
    pub fn ground_from_pixel(&self, pixel: [f64; 2], plane: &FloorPlane) -> Option<[f64; 2]> {
        let ray = self.ray_from_pixel(pixel);
        let p = self.pose.position_m;
        let z = (plane.height_m - p[2]) / ray[2];
        (z > 0.0 && z.is_finite() && p[2] > plane.height_m).then(|| [p[0] + z * ray[0], p[1] + z * ray[1]])
    }

    /// Depth along the camera's axis of a point in the world, metres; negative behind the camera.
    pub fn depth_m(&self, point_m: V3) -> f64 {
        let p = self.pose.position_m;
        let axis = [0, 1, 2].map(|i| self.pose.world_from_camera[i][2]);
        dot3(axis, [point_m[0] - p[0], point_m[1] - p[1], point_m[2] - p[2]])
    }
}

/// A horizontal piece of floor. The first one of a camera is the dock (z = 0); a yard below it is another.
#[derive(Debug, Clone, PartialEq)]
pub struct FloorPlane {
    /// Its height in the world, metres.
    pub height_m: f64,
    /// Where it is: a polygon on the ground, metres; empty means everywhere.
    pub area_m: Vec<[f64; 2]>,
}

impl FloorPlane {
    /// z = 0 everywhere.
    pub fn ground() -> Self {
        Self { height_m: 0.0, area_m: Vec::new() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A camera 4 m above the origin that looks along +y, tilted down by 30 degrees.
    pub(crate) fn camera_above_origin(lens: Lens) -> Camera {
        let (s, c) = 30f64.to_radians().sin_cos();
        // Columns: camera x -> world x; camera y (down) -> (0, -s, -c); camera z -> (0, c, -s).
        let world_from_camera = [[1.0, 0.0, 0.0], [0.0, -s, c], [0.0, -c, -s]];
        Camera { lens, pose: Pose { world_from_camera, position_m: [0.0, 0.0, 4.0] } }
    }

    #[test]
    fn the_axis_meets_the_floor_where_trigonometry_says() {
        let camera = camera_above_origin(Lens::from_horizontal_fov(640.0, 360.0, 70f64.to_radians()));
        let [x, y] = camera.ground_from_pixel([320.0, 180.0], &FloorPlane::ground()).unwrap();
        assert!(x.abs() < 1e-12 && (y - 4.0 / 30f64.to_radians().tan()).abs() < 1e-9);
        // 1.2 m lower the same ray goes on for 1.2 m / tan 30.
        let yard = FloorPlane { height_m: -1.2, area_m: Vec::new() };
        let [_, y] = camera.ground_from_pixel([320.0, 180.0], &yard).unwrap();
        assert!((y - 5.2 / 30f64.to_radians().tan()).abs() < 1e-9);
        // The horizon is 30 degrees above the axis.
        let horizon = 180.0 - camera.lens.fy_px * 30f64.to_radians().tan();
        assert!(camera.ground_from_pixel([320.0, horizon - 1.0], &FloorPlane::ground()).is_none());
        assert!(camera.ground_from_pixel([320.0, horizon + 1.0], &FloorPlane::ground()).is_some());
    }

    #[test]
    fn focal_length_of_the_demo_camera() {
        let lens = Lens::from_horizontal_fov(640.0, 360.0, 70f64.to_radians());
        assert!((lens.fx_px - 457.00736).abs() < 1e-4);
    }

    proptest! {
        #[test]
        fn pixel_and_direction_are_inverse(u in 0.0..640.0f64, v in 0.0..360.0f64, k1 in -0.2..0.2f64, k2 in -0.02..0.05f64) {
            let lens = Lens { k1, k2, ..Lens::from_horizontal_fov(640.0, 360.0, 1.2) };
            let back = lens.pixel_from_direction(lens.direction_from_pixel([u, v]));
            prop_assert!((back[0] - u).abs() < 1e-6 && (back[1] - v).abs() < 1e-6);
        }

        #[test]
        fn floor_points_come_back(x in -5.0..5.0f64, y in 3.0..25.0f64, height_m in -1.0..1.0f64) {
            let camera = camera_above_origin(Lens { k1: -0.05, ..Lens::from_horizontal_fov(640.0, 360.0, 1.2) });
            let pixel = camera.pixel_from_world([x, y, height_m]).unwrap();
            let got = camera.ground_from_pixel(pixel, &FloorPlane { height_m, area_m: Vec::new() }).unwrap();
            prop_assert!((got[0] - x).abs() < 1e-6 && (got[1] - y).abs() < 1e-6);
        }
    }
}
