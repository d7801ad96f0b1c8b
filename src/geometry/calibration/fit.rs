//! One least squares over all kinds of evidence. Every residual is in pixels of a click.
//!
//! A floor point is compared where it is clicked. A length is compared in metres and an upright at its top; their
//! errors are divided by what an error of one pixel of each click makes of them (the first-order or Sampson distance,
//! Hartley & Zisserman, 2nd ed., 4.2.6). These weights are held while Levenberg and Marquardt's method runs and then
//! taken anew, so that no solution is preferred for making them small.
//!
//! Assumed lengths are wrong together. With `u` what one standard deviation of the assumption makes of each of their
//! residuals, in clicks, the covariance of these is `I + u u^T`; they are multiplied by its inverse square root.

use super::super::camera::{Camera, FloorPlane, Pose};
use super::super::vector::{eigen_symmetric, invert_spd, matmul, norm2, rotation, solve_spd, sub2};
use super::evidence::{Evidence, Item, KnownLength, Unknowns, Upright};
use super::{CalibrationError, click_px};

/// A turn about the world's axes (0 to 2, radians), a shift (3 to 5, metres), the logarithm of the focal length (6),
/// k1 and k2 (7, 8).
const PARAMETERS: usize = 9;
/// Step of the differences, in each parameter's unit.
const STEP: f64 = 1e-5;
/// How often the weights are taken anew at most.
const ROUNDS: usize = 6;

/// What an error of a pixel makes of an item: the inverse of a lower triangular square root of its covariance.
#[derive(Debug, Clone, Copy)]
struct Whitening([[f64; 2]; 2]);

/// The problem.
#[derive(Clone)]
pub(super) struct Fit<'a> {
    evidence: &'a Evidence,
    assumptions: Vec<Vec<usize>>,
    /// Standard deviation of a click that assumptions are weighed against, pixels; what is assumed of it when none.
    noise_px: Option<f64>,
    free: Vec<usize>,
    /// Whether the floor has an origin and axes of its own.
    placed: bool,
}

impl<'a> Fit<'a> {
    /// `distortion`: coefficients to find, 0 to 2.
    pub fn new(evidence: &'a Evidence, focal: bool, distortion: usize) -> Self {
        let placed = !evidence.points.is_empty();
        // Without floor points the camera stands above the origin and looks along y.
        let mut free = if placed { vec![0, 1, 2, 3, 4, 5] } else { vec![0, 1, 5] };
        free.extend(focal.then_some(6));
        free.extend([7, 8].into_iter().take(distortion));
        Self { evidence, assumptions: evidence.assumptions(), noise_px: None, free, placed }
    }

    /// How many unknowns there are.
    pub fn unknowns(evidence: &'a Evidence, unknowns: Unknowns) -> usize {
        Self::new(evidence, unknowns.focal, 0).free.len()
    }

    /// Equations less unknowns.
    pub fn spare(&self) -> usize {
        self.evidence.equations().saturating_sub(self.free.len())
    }

    /// Squared residuals, summed. None when something would be behind the camera or above the horizon.
    pub fn cost(&self, camera: &Camera) -> Option<f64> {
        let residuals = self.residuals(camera, &self.whitening(camera)?)?;
        Some(residuals.iter().map(|r| r * r).sum())
    }

    /// Size of each item's residual, pixels, in the order of the items.
    pub fn off_px(&self, camera: &Camera) -> Option<Vec<f64>> {
        let residuals = self.residuals(camera, &self.whitening(camera)?)?;
        let mut rest = residuals.as_slice();
        let mut out = Vec::new();
        for item in self.evidence.items() {
            let (own, others) = rest.split_at(if matches!(item, Item::Length(_)) { 1 } else { 2 });
            out.push(own.iter().map(|r| r * r).sum::<f64>().sqrt());
            rest = others;
        }
        Some(out)
    }

    /// The camera after a small step of the free parameters.
    fn moved(&self, camera: &Camera, step: &[f64]) -> Camera {
        let mut s = [0.0; PARAMETERS];
        for (index, value) in self.free.iter().zip(step) {
            s[*index] = *value;
        }
        let p = camera.pose.position_m;
        let mut lens = camera.lens;
        lens.fx_px *= s[6].exp();
        lens.fy_px *= s[6].exp();
        lens.k1 += s[7];
        lens.k2 += s[8];
        let pose = Pose {
            world_from_camera: matmul(&rotation([s[0], s[1], s[2]]), &camera.pose.world_from_camera),
            position_m: [p[0] + s[3], p[1] + s[4], p[2] + s[5]],
        };
        let camera = Camera { lens, pose };
        if self.placed { camera } else { facing_y(&camera) }
    }

    fn whitening(&self, camera: &Camera) -> Option<Vec<Whitening>> {
        let lengths = self.evidence.lengths.iter().map(|length| of_length(camera, length));
        lengths.chain(self.evidence.uprights.iter().map(|upright| of_upright(camera, upright))).collect()
    }

    fn residuals(&self, camera: &Camera, whitening: &[Whitening]) -> Option<Vec<f64>> {
        let mut out = Vec::with_capacity(self.evidence.equations());
        for p in &self.evidence.points {
            let seen = camera.pixel_from_world([p.ground_m[0], p.ground_m[1], p.height_m])?;
            out.extend(sub2(seen, p.pixel));
        }
        let mut rest = whitening.iter();
        for length in &self.evidence.lengths {
            let Whitening([[scale, _], _]) = rest.next()?;
            let is_m = length_m(camera, length)?;
            // An assumption is wrong by a share of itself: a camera on the ground, to which every length is 0, would
            // otherwise cost no more than so many standard deviations.
            let off_m = if length.sigma_m > 0.0 {
                length.length_m * (is_m / length.length_m).ln()
            } else {
                is_m - length.length_m
            };
            out.push(off_m * scale);
        }
        let first = 2 * self.evidence.points.len();
        let noise_px = self.noise_px.unwrap_or_else(|| click_px(&camera.lens));
        for group in &self.assumptions {
            let clicks = |index: &usize| {
                let Whitening([[scale, _], _]) = whitening[*index];
                self.evidence.lengths[*index].sigma_m * scale / noise_px
            };
            let u: Vec<f64> = group.iter().map(clicks).collect();
            let square = u.iter().map(|u| u * u).sum::<f64>();
            let along: f64 = group.iter().zip(&u).map(|(index, u)| u * out[first + index]).sum();
            let less = along * (1.0 - 1.0 / (1.0 + square).sqrt()) / square;
            group.iter().zip(&u).for_each(|(index, u)| out[first + index] -= u * less);
        }
        for upright in &self.evidence.uprights {
            let Whitening(w) = rest.next()?;
            let d = sub2(top_px(camera, upright)?, upright.top_px);
            out.extend([w[0][0] * d[0], w[1][0] * d[0] + w[1][1] * d[1]]);
        }
        Some(out)
    }

    /// `J^T J` and `J^T r` by central differences.
    fn normal_equations(
        &self,
        camera: &Camera,
        whitening: &[Whitening],
    ) -> Option<(Vec<Vec<f64>>, Vec<f64>)> {
        let r = self.residuals(camera, whitening)?;
        let mut columns = Vec::with_capacity(self.free.len());
        for i in 0..self.free.len() {
            let mut step = vec![0.0; self.free.len()];
            step[i] = STEP;
            let plus = self.residuals(&self.moved(camera, &step), whitening)?;
            step[i] = -STEP;
            let minus = self.residuals(&self.moved(camera, &step), whitening)?;
            columns.push(plus.iter().zip(&minus).map(|(a, b)| (a - b) / (2.0 * STEP)).collect::<Vec<f64>>());
        }
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let jtj = columns.iter().map(|a| columns.iter().map(|b| product(a, b)).collect()).collect();
        let jtr = columns.iter().map(|a| product(a, &r)).collect();
        Some((jtj, jtr))
    }

    /// The camera with the least cost near a first one.
    pub fn refine(&self, mut camera: Camera) -> Result<Camera, CalibrationError> {
        let behind = || CalibrationError::Impossible("something would be behind the camera".to_owned());
        let mut before = f64::INFINITY;
        for _ in 0..ROUNDS {
            let whitening = self.whitening(&camera).ok_or_else(behind)?;
            camera = self.descend(camera, &whitening)?;
            let now = self.cost(&camera).ok_or_else(behind)?;
            // Floor points alone have no weights to take anew.
            if whitening.is_empty() || (before - now).abs() < 1e-9 * (1.0 + now) {
                break;
            }
            before = now;
        }
        Ok(camera)
    }

    fn descend(&self, mut camera: Camera, whitening: &[Whitening]) -> Result<Camera, CalibrationError> {
        let behind = || CalibrationError::Impossible("something would be behind the camera".to_owned());
        let cost = |c: &Camera| self.residuals(c, whitening).map(|r| r.iter().map(|x| x * x).sum::<f64>());
        let mut best = cost(&camera).ok_or_else(behind)?;
        let mut damping = 1e-3;
        for _ in 0..100 {
            let (jtj, jtr) = self.normal_equations(&camera, whitening).ok_or_else(behind)?;
            let mut damped = jtj.clone();
            for (i, row) in damped.iter_mut().enumerate() {
                row[i] *= 1.0 + damping;
            }
            let Some(step) = solve_spd(damped, jtr.iter().map(|x| -x).collect()) else {
                return Err(CalibrationError::loose());
            };
            let trial = self.moved(&camera, &step);
            match cost(&trial).filter(|_| !folds(&trial)) {
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

    /// Cameras one standard deviation away along each independent direction of the covariance.
    pub fn one_sigma(&self, camera: &Camera, sigma_px: f64) -> Result<Vec<Camera>, CalibrationError> {
        let whitening = self.whitening(camera).ok_or_else(CalibrationError::loose)?;
        // However much the clicks scatter, an assumption is as uncertain as it was given.
        let scattered = Self { noise_px: Some(sigma_px), ..self.clone() };
        let (jtj, _) = scattered.normal_equations(camera, &whitening).ok_or_else(CalibrationError::loose)?;
        // In units in which every parameter is equally well known, or the inverse loses its digits.
        let scale: Vec<f64> = jtj.iter().enumerate().map(|(i, row)| row[i].sqrt()).collect();
        if scale.iter().any(|s| s.is_nan() || *s <= 0.0) {
            return Err(CalibrationError::loose());
        }
        let scaled: Vec<Vec<f64>> = jtj
            .iter()
            .zip(&scale)
            .map(|(row, a)| row.iter().zip(&scale).map(|(x, b)| x / (a * b)).collect())
            .collect();
        let covariance = invert_spd(&scaled).ok_or_else(CalibrationError::loose)?;
        let (values, vectors) = eigen_symmetric(&covariance);
        let step = |(value, vector): (&f64, &Vec<f64>)| {
            let length = value.max(0.0).sqrt() * sigma_px;
            let step: Vec<f64> = vector.iter().zip(&scale).map(|(x, s)| x * length / s).collect();
            self.moved(camera, &step)
        };
        Ok(values.iter().zip(&vectors).map(step).collect())
    }
}

/// Whether the distortion folds the picture over within its corners.
fn folds(camera: &Camera) -> bool {
    let lens = &camera.lens;
    if lens.k1 == 0.0 && lens.k2 == 0.0 {
        return false;
    }
    [[0.0, 0.0], [lens.width_px, 0.0], [0.0, lens.height_px], [lens.width_px, lens.height_px]].iter().any(
        |corner| norm2(sub2(lens.pixel_from_direction(lens.direction_from_pixel(*corner)), *corner)) > 0.01,
    )
}

/// The same camera turned about the vertical until it looks along y.
fn facing_y(camera: &Camera) -> Camera {
    let r = &camera.pose.world_from_camera;
    // Straight down there is no heading; the picture's upper side is then where it looks.
    let (x, y) = if r[0][2].hypot(r[1][2]) > 1e-3 { (r[0][2], r[1][2]) } else { (-r[0][1], -r[1][1]) };
    let turn = rotation([0.0, 0.0, x.atan2(y)]);
    let pose = Pose { world_from_camera: matmul(&turn, r), position_m: camera.pose.position_m };
    Camera { lens: camera.lens, pose }
}

fn plane(height_m: f64) -> FloorPlane {
    FloorPlane { height_m, area_m: Vec::new() }
}

/// How long a known length is by this camera.
pub(super) fn length_m(camera: &Camera, length: &KnownLength) -> Option<f64> {
    let [a, b] = length.ends_px.map(|end| camera.ground_from_pixel(end, &plane(length.height_m)));
    Some(norm2(sub2(a?, b?)))
}

/// Where the top of an upright would be seen, by its foot.
pub(super) fn top_px(camera: &Camera, upright: &Upright) -> Option<[f64; 2]> {
    let [x, y] = camera.ground_from_pixel(upright.foot_px, &plane(upright.height_m))?;
    camera.pixel_from_world([x, y, upright.height_m + upright.tall_m])
}

/// Derivative of a value by the two coordinates of a pixel.
fn by_pixel<const N: usize>(
    at: [f64; 2],
    value: impl Fn([f64; 2]) -> Option<[f64; N]>,
) -> Option<[[f64; 2]; N]> {
    const HALF: f64 = 0.05;
    let mut out = [[0.0; 2]; N];
    for axis in 0..2 {
        let shifted = |by: f64| {
            let mut pixel = at;
            pixel[axis] += by;
            value(pixel)
        };
        let (plus, minus) = (shifted(HALF)?, shifted(-HALF)?);
        for (row, (p, m)) in out.iter_mut().zip(plus.iter().zip(&minus)) {
            row[axis] = (p - m) / (2.0 * HALF);
        }
    }
    Some(out)
}

fn of_length(camera: &Camera, length: &KnownLength) -> Option<Whitening> {
    let mut squares = 0.0;
    for end in 0..2 {
        let [g] = by_pixel(length.ends_px[end], |pixel| {
            let mut moved = *length;
            moved.ends_px[end] = pixel;
            Some([length_m(camera, &moved)?])
        })?;
        squares += g[0] * g[0] + g[1] * g[1];
    }
    (squares > 0.0 && squares.is_finite()).then(|| Whitening([[1.0 / squares.sqrt(), 0.0], [0.0, 1.0]]))
}

fn of_upright(camera: &Camera, upright: &Upright) -> Option<Whitening> {
    let [a, b] = by_pixel(upright.foot_px, |foot_px| top_px(camera, &Upright { foot_px, ..*upright }))?;
    // The covariance of both clicks, seen at the top: I + J J^T, and its Cholesky factor inverted.
    let (xx, xy, yy) =
        (1.0 + a[0] * a[0] + a[1] * a[1], a[0] * b[0] + a[1] * b[1], 1.0 + b[0] * b[0] + b[1] * b[1]);
    let l11 = xx.sqrt();
    let l21 = xy / l11;
    let l22 = (yy - l21 * l21).sqrt();
    let w = [[1.0 / l11, 0.0], [-l21 / (l11 * l22), 1.0 / l22]];
    w.iter().flatten().all(|x| x.is_finite()).then_some(Whitening(w))
}
