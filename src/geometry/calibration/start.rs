//! First cameras for the least squares: from the homography of a floor plane (direct linear transform, Hartley &
//! Zisserman, 2nd ed., algorithm 4.2), or, where too few points share one, from every tilt that a camera may have.

use super::super::camera::{Camera, Lens, Pose};
use super::super::vector::{
    V3, cross3, dot2, eigen_symmetric, matmul, mul_t, norm2, norm3, rotation, scale3, sub2,
};
use super::CalibrationError;
use super::evidence::{Evidence, FloorPoint};

/// Horizontal angles of view that an unknown lens is tried with, degrees.
const VIEWS_DEG: [f64; 9] = [22.0, 32.0, 42.0, 52.0, 62.0, 72.0, 84.0, 98.0, 115.0];
/// Tilts that are tried, degrees below the horizon.
const TILTS_DEG: [f64; 13] = [4.0, 9.0, 15.0, 21.0, 27.0, 34.0, 41.0, 48.0, 55.0, 62.0, 70.0, 78.0, 86.0];
/// Rolls that are tried, degrees.
const ROLLS_DEG: [f64; 3] = [0.0, -15.0, 15.0];

/// Cameras from which the least squares may begin.
pub(super) fn starts(
    lens: &Lens,
    evidence: &Evidence,
    focal_unknown: bool,
) -> Result<Vec<Camera>, CalibrationError> {
    let lenses: Vec<Lens> = if focal_unknown {
        VIEWS_DEG.iter().map(|view| with_view(lens, view.to_radians())).collect()
    } else {
        vec![*lens]
    };
    let mut out = Vec::new();
    let mut refused = CalibrationError::loose();
    for lens in &lenses {
        if main_plane(&evidence.points).0.len() >= 4 {
            match pose_from_homography(lens, &evidence.points) {
                Ok(pose) => out.push(Camera { lens: *lens, pose }),
                Err(error) => refused = error,
            }
            continue;
        }
        for tilt in TILTS_DEG {
            for roll in ROLLS_DEG {
                out.extend(tilted(lens, evidence, tilt.to_radians(), roll.to_radians()));
            }
        }
    }
    if out.is_empty() { Err(refused) } else { Ok(out) }
}

/// The lens with another focal length, its axis and its ratio of `fy` to `fx` kept.
fn with_view(lens: &Lens, view_rad: f64) -> Lens {
    let fx_px = lens.width_px / (2.0 * (view_rad / 2.0).tan());
    Lens { fx_px, fy_px: fx_px * lens.fy_px / lens.fx_px, ..*lens }
}

/// A camera of this tilt and roll, at the height and place that the evidence gives it.
fn tilted(lens: &Lens, evidence: &Evidence, tilt: f64, roll: f64) -> Option<Camera> {
    let (s, c) = tilt.sin_cos();
    let level = [[1.0, 0.0, 0.0], [0.0, -s, c], [0.0, -c, -s]];
    let world_from_camera = matmul(&level, &rotation([0.0, 0.0, roll]));
    let at = |position_m: V3, world_from_camera| Camera {
        lens: *lens,
        pose: Pose { world_from_camera, position_m },
    };
    let origin = at([0.0; 3], world_from_camera);
    // Where a pixel's ray meets a floor one metre below.
    let below = |pixel: [f64; 2]| {
        let [x, y, z] = origin.ray_from_pixel(pixel);
        (z < -1e-6).then(|| [x / -z, y / -z])
    };
    if !evidence.points.is_empty() {
        let (plane, height_m) = main_plane(&evidence.points);
        let (scale, turn, shift) = similarity(&plane, below)?;
        let place = at(
            [shift[0], shift[1], height_m + scale],
            matmul(&rotation([0.0, 0.0, turn]), &world_from_camera),
        );
        return Some(place);
    }
    let mut heights = Vec::new();
    for length in &evidence.lengths {
        let [a, b] = length.ends_px.map(below);
        heights.push(length.height_m + length.length_m / norm2(sub2(a?, b?)));
    }
    for upright in &evidence.uprights {
        let foot = norm2(below(upright.foot_px)?);
        let [x, y, z] = origin.ray_from_pixel(upright.top_px);
        // The top's ray falls by this share of the height until it is above the foot.
        let fallen = foot * -z / x.hypot(y).max(1e-9);
        if fallen < 0.99 {
            heights.push(upright.height_m + upright.tall_m / (1.0 - fallen));
        }
    }
    heights.retain(|height| height.is_finite() && *height > 0.0);
    heights.sort_by(f64::total_cmp);
    let height_m = *heights.get(heights.len() / 2)?;
    Some(at([0.0, 0.0, height_m], world_from_camera))
}

/// Scale, turn and shift that carry the rays' ends to the points, by least squares.
fn similarity(
    points: &[&FloorPoint],
    below: impl Fn([f64; 2]) -> Option<[f64; 2]>,
) -> Option<(f64, f64, [f64; 2])> {
    let from: Vec<[f64; 2]> = points.iter().map(|p| below(p.pixel)).collect::<Option<_>>()?;
    let n = points.len() as f64;
    let mean = |of: &dyn Fn(usize) -> [f64; 2]| {
        (0..points.len()).fold([0.0, 0.0], |m, i| [m[0] + of(i)[0] / n, m[1] + of(i)[1] / n])
    };
    let (a0, b0) = (mean(&|i| from[i]), mean(&|i| points[i].ground_m));
    let (mut along, mut across, mut size) = (0.0, 0.0, 0.0);
    for (a, p) in from.iter().zip(points) {
        let (a, b) = (sub2(*a, a0), sub2(p.ground_m, b0));
        along += dot2(a, b);
        across += a[0] * b[1] - a[1] * b[0];
        size += dot2(a, a);
    }
    let scale = along.hypot(across) / size;
    if !scale.is_finite() || scale <= 0.0 {
        return None;
    }
    let turn = across.atan2(along);
    let (s, c) = turn.sin_cos();
    Some((scale, turn, [b0[0] - scale * (c * a0[0] - s * a0[1]), b0[1] - scale * (s * a0[0] + c * a0[1])]))
}

/// The floor plane of most points: these, and its height.
fn main_plane(points: &[FloorPoint]) -> (Vec<&FloorPoint>, f64) {
    let height_m = points
        .iter()
        .max_by_key(|p| points.iter().filter(|q| (q.height_m - p.height_m).abs() < 1e-6).count())
        .map_or(0.0, |p| p.height_m);
    (points.iter().filter(|p| (p.height_m - height_m).abs() < 1e-6).collect(), height_m)
}

fn pose_from_homography(lens: &Lens, points: &[FloorPoint]) -> Result<Pose, CalibrationError> {
    // The homography speaks of one plane.
    let (plane, height_m) = main_plane(points);
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
