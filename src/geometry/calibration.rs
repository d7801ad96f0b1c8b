//! Where a camera is, from points of the floor whose pixels are known.
//!
//! The lens is given (intrinsics or angle of view); six unknowns remain, so four points in general position give two
//! spare equations. A homography (direct linear transform, Hartley & Zisserman, Multiple View Geometry, 2nd ed.,
//! algorithm 4.2) gives a first pose, Levenberg and Marquardt's method the one with the least squared distance in
//! pixels between the points and their projections.

use super::camera::{Camera, FloorPlane, Lens, Pose};
use super::vector::{
    V3, cross3, eigen_symmetric, invert_spd, matmul, mul_t, norm2, norm3, rotation, scale3, solve_spd, sub2,
};

/// A point of the floor that is seen at a known pixel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FloorPoint {
    /// Where it is in the picture, in pixels from the picture's outer top left corner.
    pub pixel: [f64; 2],
    /// Where it is on the floor, metres.
    pub ground_m: [f64; 2],
    /// The height of its floor, metres: 0 unless the point lies on another plane.
    pub height_m: f64,
}

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// The camera.
    pub camera: Camera,
    /// Distance in pixels between each point and its projection, in the order of the input.
    pub residual_px: Vec<f64>,
    /// Root of the mean square of these: the reprojection error.
    pub rms_px: f64,
    /// Index of the point with the largest of these.
    pub worst: usize,
    /// Standard deviation of one coordinate of a click that the covariance rests on, pixels.
    pub sigma_px: f64,
    /// Cameras that lie one standard deviation away along each of the six independent directions of the solution's
    /// covariance: what a quantity changes by from the best camera to these, squared and summed, is its variance.
    pub one_sigma_cameras: Vec<Camera>,
}

impl Calibration {
    /// A camera whose pose is known otherwise (exactly, as in a rendered scene).
    pub fn exact(camera: Camera) -> Self {
        Self {
            camera,
            residual_px: Vec::new(),
            rms_px: 0.0,
            worst: 0,
            sigma_px: 0.0,
            one_sigma_cameras: Vec::new(),
        }
    }

    /// The same for pictures of another size (the lens scaled).
    pub fn scaled_to(&self, width_px: f64, height_px: f64) -> Self {
        let mut out = self.clone();
        for camera in std::iter::once(&mut out.camera).chain(&mut out.one_sigma_cameras) {
            camera.lens = camera.lens.scaled_to(width_px, height_px);
        }
        out
    }

    /// Standard deviation, metres, of the place on the floor that is seen at a pixel, by the calibration alone, as the
    /// root of the trace of its covariance; `None` above the horizon.
    pub fn ground_sigma_m(&self, pixel: [f64; 2], plane: &FloorPlane) -> Option<f64> {
        let best = self.camera.ground_from_pixel(pixel, plane)?;
        let mut variance = 0.0;
        for camera in &self.one_sigma_cameras {
            let d = sub2(camera.ground_from_pixel(pixel, plane)?, best);
            variance += d[0] * d[0] + d[1] * d[1];
        }
        Some(variance.sqrt())
    }
}

/// Why there is no calibration.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CalibrationError {
    /// Four are needed.
    #[error("calibration has {0} floor points: give at least 4, no three of them on a line")]
    TooFew(usize),
    /// More than anybody measures.
    #[error(
        "calibration has {0} floor points, and at most {MAX_POINTS} are taken: keep those that are spread widest"
    )]
    TooMany(usize),
    /// A value is not a number, or the lens has no size.
    #[error("calibration: {0}; give finite numbers, a focal length above 0 and pixels of the picture")]
    NotANumber(String),
    /// The points do not span the floor.
    #[error(
        "calibration points are degenerate ({0}): spread them over the floor, at least four with no three on a line"
    )]
    Degenerate(String),
    /// The solution is impossible.
    #[error(
        "calibration is impossible: {0}; check that pixels and metres belong together and that the axes are not mirrored"
    )]
    Impossible(String),
    /// The points contradict each other.
    #[error(
        "calibration points do not agree: reprojection error {rms_px:.1} px (at most {limit_px:.1}), worst is point {} with {worst_px:.1} px; \
         check its pixel and its metres, and the lens", .worst + 1
    )]
    Disagree {
        /// Root mean square of the distances, pixels.
        rms_px: f64,
        /// What is accepted, pixels.
        limit_px: f64,
        /// Index of the worst point.
        worst: usize,
        /// Its distance, pixels.
        worst_px: f64,
    },
}

/// Floor points taken at most: whether they span the floor is asked of every three.
const MAX_POINTS: usize = 100;
/// How exactly a person clicks: standard deviation of one coordinate, in pixels of a picture 640 wide.
pub const CLICK_SIGMA_PX_AT_640: f64 = 1.0;
/// A reprojection error beyond this share of the picture's width is a mistake, not noise (12.8 px of 640).
const DISAGREE_SHARE: f64 = 0.02;
/// A camera height that is uncertain by more than this share of itself is no calibration.
const HEIGHT_SHARE: f64 = 0.25;

/// Finds the camera's pose.
///
/// # Errors
/// Fewer than four points, points on a line or in one spot, points that contradict each other or the lens, a camera
/// below the floor. Each error says what to do.
pub fn calibrate(lens: &Lens, points: &[FloorPoint]) -> Result<Calibration, CalibrationError> {
    check_numbers(lens, points)?;
    if points.len() < 4 {
        return Err(CalibrationError::TooFew(points.len()));
    }
    if points.len() > MAX_POINTS {
        return Err(CalibrationError::TooMany(points.len()));
    }
    check_spread(points)?;
    let start = pose_from_homography(lens, points)?;
    let camera = refine(Camera { lens: *lens, pose: start }, points)?;
    if camera.pose.position_m[2] <= points.iter().map(|p| p.height_m).fold(f64::MIN, f64::max) {
        return Err(CalibrationError::Impossible("the camera would be below the floor".to_owned()));
    }

    let mut residual_px = Vec::with_capacity(points.len());
    for (i, point) in points.iter().enumerate() {
        let seen =
            camera.pixel_from_world([point.ground_m[0], point.ground_m[1], point.height_m]).ok_or_else(
                || CalibrationError::Impossible(format!("point {} would be behind the camera", i + 1)),
            )?;
        residual_px.push(norm2(sub2(seen, point.pixel)));
    }
    let sum: f64 = residual_px.iter().map(|r| r * r).sum();
    let rms_px = (sum / points.len() as f64).sqrt();
    let worst = (0..points.len()).max_by(|&a, &b| residual_px[a].total_cmp(&residual_px[b])).unwrap_or(0);
    let limit_px = DISAGREE_SHARE * lens.width_px;
    if rms_px > limit_px {
        return Err(CalibrationError::Disagree { rms_px, limit_px, worst, worst_px: residual_px[worst] });
    }
    // The clicks' noise is at least the assumed one, and more when the residuals (spare equations) say so.
    let spare = (2 * points.len()) as f64 - 6.0;
    let sigma_px = (sum / spare).sqrt().max(CLICK_SIGMA_PX_AT_640 * lens.width_px / 640.0);
    let one_sigma_cameras = spread(&camera, points, sigma_px)?;
    let height_m = camera.pose.position_m[2];
    let sigma_height_m =
        one_sigma_cameras.iter().map(|c| (c.pose.position_m[2] - height_m).powi(2)).sum::<f64>().sqrt();
    if sigma_height_m > HEIGHT_SHARE * height_m {
        return Err(CalibrationError::Degenerate(format!(
            "the camera's height would be {height_m:.1} m with a standard deviation of {sigma_height_m:.1} m"
        )));
    }
    Ok(Calibration { camera, residual_px, rms_px, worst, sigma_px, one_sigma_cameras })
}

fn check_numbers(lens: &Lens, points: &[FloorPoint]) -> Result<(), CalibrationError> {
    let lens_ok =
        [lens.width_px, lens.height_px, lens.fx_px, lens.fy_px].iter().all(|v| v.is_finite() && *v > 0.0)
            && [lens.cx_px, lens.cy_px, lens.k1, lens.k2].iter().all(|v| v.is_finite());
    if !lens_ok {
        return Err(CalibrationError::NotANumber("the lens has a value that cannot be".to_owned()));
    }
    for (i, p) in points.iter().enumerate() {
        if ![p.pixel[0], p.pixel[1], p.ground_m[0], p.ground_m[1], p.height_m].iter().all(|v| v.is_finite()) {
            return Err(CalibrationError::NotANumber(format!("point {} is not a number", i + 1)));
        }
    }
    Ok(())
}

/// Four points of which no three lie on a line must exist, on the floor and in the picture.
fn check_spread(points: &[FloorPoint]) -> Result<(), CalibrationError> {
    for (what, coordinates) in [
        ("on the floor", points.iter().map(|p| p.ground_m).collect::<Vec<_>>()),
        ("in the picture", points.iter().map(|p| p.pixel).collect::<Vec<_>>()),
    ] {
        let n = coordinates.len() as f64;
        let mean = coordinates.iter().fold([0.0, 0.0], |m, p| [m[0] + p[0] / n, m[1] + p[1] / n]);
        let mut c = [0.0; 3];
        for p in &coordinates {
            let d = sub2(*p, mean);
            c = [c[0] + d[0] * d[0], c[1] + d[0] * d[1], c[2] + d[1] * d[1]];
        }
        let (values, _) = eigen_symmetric(&[vec![c[0], c[1]], vec![c[1], c[2]]]);
        if values[1] <= 0.0 {
            return Err(CalibrationError::Degenerate(format!("all points are in one spot {what}")));
        }
        if values[0] < values[1] * 1e-4 {
            return Err(CalibrationError::Degenerate(format!("all points are on a line {what}")));
        }
        if !has_four_in_general_position(&coordinates, values[1].sqrt()) {
            return Err(CalibrationError::Degenerate(format!("all points but one are on a line {what}")));
        }
    }
    Ok(())
}

fn has_four_in_general_position(points: &[[f64; 2]], size: f64) -> bool {
    let n = points.len();
    // Twice the triangle's area over its longest side is its height: at least 1 % of the set's size.
    let flat = |a: [f64; 2], b: [f64; 2], c: [f64; 2]| {
        let (u, v) = (sub2(b, a), sub2(c, a));
        let longest = norm2(u).max(norm2(v)).max(norm2(sub2(c, b)));
        longest == 0.0 || (u[0] * v[1] - u[1] * v[0]).abs() / longest < 0.01 * size
    };
    for i in 0..n {
        for j in i + 1..n {
            for k in j + 1..n {
                if flat(points[i], points[j], points[k]) {
                    continue;
                }
                let general = |l: usize| {
                    !flat(points[i], points[j], points[l])
                        && !flat(points[i], points[k], points[l])
                        && !flat(points[j], points[k], points[l])
                };
                if (0..n).any(|l| l != i && l != j && l != k && general(l)) {
                    return true;
                }
            }
        }
    }
    false
}

fn pose_from_homography(lens: &Lens, points: &[FloorPoint]) -> Result<Pose, CalibrationError> {
    // The homography speaks of one plane: that of most points.
    let height_m = points
        .iter()
        .max_by_key(|p| points.iter().filter(|q| (q.height_m - p.height_m).abs() < 1e-6).count())
        .map_or(0.0, |p| p.height_m);
    let plane: Vec<&FloorPoint> = points.iter().filter(|p| (p.height_m - height_m).abs() < 1e-6).collect();
    if plane.len() < 4 {
        return Err(CalibrationError::Degenerate(format!(
            "{} points share a floor plane, 4 must",
            plane.len()
        )));
    }
    // Metres are centred and scaled, or the equations are badly conditioned far from the world's origin.
    let n = plane.len() as f64;
    let mean = plane.iter().fold([0.0, 0.0], |m, p| [m[0] + p.ground_m[0] / n, m[1] + p.ground_m[1] / n]);
    let size = plane.iter().map(|p| norm2(sub2(p.ground_m, mean))).sum::<f64>() / n;
    let mut normal = vec![vec![0.0; 9]; 9];
    for p in &plane {
        let [x, y, _] = lens.direction_from_pixel(p.pixel);
        let d = sub2(p.ground_m, mean);
        let (gx, gy) = (d[0] / size, d[1] / size);
        for row in [
            [gx, gy, 1.0, 0.0, 0.0, 0.0, -x * gx, -x * gy, -x],
            [0.0, 0.0, 0.0, gx, gy, 1.0, -y * gx, -y * gy, -y],
        ] {
            for i in 0..9 {
                for j in 0..9 {
                    normal[i][j] += row[i] * row[j];
                }
            }
        }
    }
    let (values, vectors) = eigen_symmetric(&normal);
    if values[1] < values[8] * 1e-10 {
        return Err(CalibrationError::Degenerate("they leave more than one solution".to_owned()));
    }
    let h = &vectors[0];
    let column = |j: usize| -> V3 { [h[j], h[3 + j], h[6 + j]] };
    // camera = scale * (r1 * X + r2 * Y + t'), with X and Y in units of `size` about `mean`.
    let (h1, h2, h3) = (scale3(column(0), 1.0 / size), scale3(column(1), 1.0 / size), column(2));
    let length = (norm3(h1) * norm3(h2)).sqrt();
    if length.is_nan() || length <= 0.0 {
        return Err(CalibrationError::Degenerate("the homography has no scale".to_owned()));
    }
    // The floor is in front of the camera.
    let sign = if h3[2] < 0.0 { -1.0 } else { 1.0 };
    let scale = |v: V3| scale3(v, sign / length);
    let (r1, r2, t) = (scale(h1), scale(h2), scale(h3));
    // The nearest rotation, by Gram and Schmidt on the two columns treated alike.
    let a = scale3(r1, 1.0 / norm3(r1));
    let b = scale3(r2, 1.0 / norm3(r2));
    let plus = [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
    let minus = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
    if norm3(plus) < 1e-6 || norm3(minus) < 1e-6 {
        return Err(CalibrationError::Degenerate("the floor is seen edge-on".to_owned()));
    }
    let (p, m) = (scale3(plus, 1.0 / norm3(plus)), scale3(minus, 1.0 / norm3(minus)));
    let half = std::f64::consts::FRAC_1_SQRT_2;
    let r1 = [0, 1, 2].map(|i| half * (p[i] + m[i]));
    let r2 = [0, 1, 2].map(|i| half * (p[i] - m[i]));
    let r3 = cross3(r1, r2);
    let camera_from_world = [[r1[0], r2[0], r3[0]], [r1[1], r2[1], r3[1]], [r1[2], r2[2], r3[2]]];
    let local = mul_t(&camera_from_world, t);
    let world_from_camera = [0, 1, 2].map(|i| [0, 1, 2].map(|j| camera_from_world[j][i]));
    Ok(Pose { world_from_camera, position_m: [mean[0] - local[0], mean[1] - local[1], height_m - local[2]] })
}

/// The camera after a small turn (world axes, radians) and shift (metres).
fn moved(camera: &Camera, step: &[f64]) -> Camera {
    let p = camera.pose.position_m;
    Camera {
        lens: camera.lens,
        pose: Pose {
            world_from_camera: matmul(&rotation([step[0], step[1], step[2]]), &camera.pose.world_from_camera),
            position_m: [p[0] + step[3], p[1] + step[4], p[2] + step[5]],
        },
    }
}

fn residuals(camera: &Camera, points: &[FloorPoint]) -> Option<Vec<f64>> {
    let mut out = Vec::with_capacity(2 * points.len());
    for p in points {
        let d = sub2(camera.pixel_from_world([p.ground_m[0], p.ground_m[1], p.height_m])?, p.pixel);
        out.extend(d);
    }
    Some(out)
}

/// `J^T J` and `J^T r` by central differences.
fn normal_equations(camera: &Camera, points: &[FloorPoint]) -> Option<(Vec<Vec<f64>>, Vec<f64>)> {
    const STEP: f64 = 1e-5;
    let r = residuals(camera, points)?;
    let mut columns = Vec::with_capacity(6);
    for i in 0..6 {
        let mut step = [0.0; 6];
        step[i] = STEP;
        let plus = residuals(&moved(camera, &step), points)?;
        step[i] = -STEP;
        let minus = residuals(&moved(camera, &step), points)?;
        columns.push(plus.iter().zip(&minus).map(|(a, b)| (a - b) / (2.0 * STEP)).collect::<Vec<f64>>());
    }
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let jtj = columns.iter().map(|a| columns.iter().map(|b| product(a, b)).collect()).collect();
    let jtr = columns.iter().map(|a| product(a, &r)).collect();
    Some((jtj, jtr))
}

fn refine(mut camera: Camera, points: &[FloorPoint]) -> Result<Camera, CalibrationError> {
    let behind = || CalibrationError::Impossible("a point would be behind the camera".to_owned());
    let cost = |c: &Camera| residuals(c, points).map(|r| r.iter().map(|x| x * x).sum::<f64>());
    let mut best = cost(&camera).ok_or_else(behind)?;
    let mut damping = 1e-3;
    for _ in 0..100 {
        let (jtj, jtr) = normal_equations(&camera, points).ok_or_else(behind)?;
        let mut damped = jtj.clone();
        for (i, row) in damped.iter_mut().enumerate() {
            row[i] *= 1.0 + damping;
        }
        let Some(step) = solve_spd(damped, jtr.iter().map(|x| -x).collect()) else {
            return Err(CalibrationError::Degenerate("they leave more than one solution".to_owned()));
        };
        let trial = moved(&camera, &step);
        match cost(&trial) {
            Some(c) if c < best => {
                let gain = best - c;
                camera = trial;
                best = c;
                damping = (damping * 0.1).max(1e-12);
                if gain < 1e-14 * (1.0 + best) {
                    break;
                }
            }
            _ => {
                damping *= 10.0;
                if damping > 1e9 {
                    break;
                }
            }
        }
    }
    Ok(camera)
}

fn spread(camera: &Camera, points: &[FloorPoint], sigma_px: f64) -> Result<Vec<Camera>, CalibrationError> {
    let loose = || CalibrationError::Degenerate("they leave more than one solution".to_owned());
    let (jtj, _) = normal_equations(camera, points).ok_or_else(loose)?;
    let covariance = invert_spd(&jtj).ok_or_else(loose)?;
    let (values, vectors) = eigen_symmetric(&covariance);
    Ok(values
        .iter()
        .zip(&vectors)
        .map(|(value, vector)| {
            let length = value.max(0.0).sqrt() * sigma_px;
            moved(camera, &vector.iter().map(|x| x * length).collect::<Vec<f64>>())
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::camera::tests::camera_above_origin;
    use super::*;
    use proptest::prelude::*;

    fn seen(camera: &Camera, ground_m: [f64; 2], height_m: f64) -> FloorPoint {
        FloorPoint {
            pixel: camera.pixel_from_world([ground_m[0], ground_m[1], height_m]).unwrap(),
            ground_m,
            height_m,
        }
    }

    fn lens() -> Lens {
        Lens::from_horizontal_fov(640.0, 360.0, 70f64.to_radians())
    }

    const SQUARE: [[f64; 2]; 4] = [[-2.0, 5.0], [2.0, 5.0], [2.5, 11.0], [-2.5, 11.0]];

    #[test]
    fn four_exact_points_give_the_exact_camera() {
        let truth = camera_above_origin(lens());
        let points = SQUARE.map(|g| seen(&truth, g, 0.0));
        let got = calibrate(&lens(), &points).unwrap();
        assert!(got.rms_px < 1e-6, "{}", got.rms_px);
        for i in 0..3 {
            assert!((got.camera.pose.position_m[i] - truth.pose.position_m[i]).abs() < 1e-5);
        }
        assert_eq!(got.one_sigma_cameras.len(), 6);
        // Nearer floor is known better than far floor.
        let plane = FloorPlane::ground();
        let near = got.ground_sigma_m(points[0].pixel, &plane).unwrap();
        let far = got.ground_sigma_m(truth.pixel_from_world([0.0, 25.0, 0.0]).unwrap(), &plane).unwrap();
        assert!(near > 0.0 && far > 3.0 * near, "{near} {far}");
    }

    #[test]
    fn points_of_two_planes_are_used_together() {
        let truth = camera_above_origin(lens());
        let mut points: Vec<_> = SQUARE.iter().map(|g| seen(&truth, *g, 0.0)).collect();
        points.push(seen(&truth, [0.5, 14.0], -1.2));
        let got = calibrate(&lens(), &points).unwrap();
        assert!(got.rms_px < 1e-6);
    }

    #[test]
    fn degenerate_sets_are_refused_with_the_reason() {
        let truth = camera_above_origin(lens());
        let at = |g: &[[f64; 2]]| g.iter().map(|g| seen(&truth, *g, 0.0)).collect::<Vec<_>>();
        let error = |g: &[[f64; 2]]| calibrate(&lens(), &at(g)).unwrap_err().to_string();
        assert!(error(&SQUARE[..3]).contains("has 3 floor points"));
        assert!(error(&[[0.0, 5.0], [0.0, 6.0], [0.0, 8.0], [0.0, 11.0]]).contains("on a line"));
        assert!(error(&[[-2.0, 5.0], [0.0, 5.0], [2.0, 5.0], [0.0, 9.0]]).contains("all points but one"));
        assert!(error(&[[1.0, 5.0]; 4]).contains("one spot"));
        // A patch of floor 20 cm wide, 20 m away: the height cannot be told from it.
        assert!(error(&[[-0.1, 20.0], [0.1, 20.0], [0.1, 20.2], [-0.1, 20.2]]).contains("degenerate"));
    }

    #[test]
    fn a_wrong_point_is_named() {
        let truth = camera_above_origin(lens());
        let mut points: Vec<_> = SQUARE.iter().map(|g| seen(&truth, *g, 0.0)).collect();
        points.extend([[0.0, 7.0], [-1.0, 8.5], [1.5, 6.0], [0.3, 10.0]].map(|g| seen(&truth, g, 0.0)));
        points[5].pixel[0] += 80.0;
        let error = calibrate(&lens(), &points).unwrap_err();
        assert!(matches!(error, CalibrationError::Disagree { worst: 5, .. }), "{error}");
        assert!(error.to_string().contains("worst is point 6"));
    }

    #[test]
    fn mirrored_floor_axes_are_refused() {
        let truth = camera_above_origin(lens());
        let points = SQUARE.map(|g| FloorPoint { ground_m: [-g[0], g[1]], ..seen(&truth, g, 0.0) });
        assert!(calibrate(&lens(), &points).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_pixel_of_noise_stays_within_its_sigma(noise in proptest::collection::vec(-1.0..1.0f64, 16)) {
            let truth = camera_above_origin(Lens { k1: -0.08, ..lens() });
            let grounds = [[-2.0, 5.0], [2.0, 5.0], [2.5, 11.0], [-2.5, 11.0], [0.0, 7.0], [-1.0, 8.5], [1.5, 6.0], [4.0, 16.0]];
            let points: Vec<_> = grounds.iter().enumerate().map(|(i, g)| {
                let mut p = seen(&truth, *g, 0.0);
                p.pixel = [p.pixel[0] + noise[2 * i], p.pixel[1] + noise[2 * i + 1]];
                p
            }).collect();
            let got = calibrate(&truth.lens, &points).unwrap();
            let pixel = truth.pixel_from_world([0.5, 9.0, 0.0]).unwrap();
            let plane = FloorPlane::ground();
            let error = norm2(sub2(got.camera.ground_from_pixel(pixel, &plane).unwrap(), [0.5, 9.0]));
            let sigma = got.ground_sigma_m(pixel, &plane).unwrap();
            prop_assert!(got.rms_px < 1.5);
            prop_assert!(error < 4.0 * sigma, "{} {}", error, sigma);
        }
    }
}
