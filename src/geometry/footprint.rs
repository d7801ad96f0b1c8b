//! A thing's outline on the floor, from its mask and what the decoder says of its patches.
//!
//! A forklift's lowest pixel is often in the air (mast, forks, overhang), its fork tips are thinner than a patch and
//! its far side is hidden. So the outline is the class's size ([`super::sizes`]) put where everything that is seen
//! agrees best:
//!
//! 1. Every patch says twice where the middle of the footprint is, each time with its own uncertainty: as heights and
//!    distances in space (`range = (camera height - height) / fall`, the middle `behind` that and `aside` of it), and
//!    as the place in the picture where the floor below the middle is seen. Patches of one thing err together, so their
//!    informations are averaged, not summed; the two ways err differently, so theirs are summed.
//! 2. Its patches also say the heading, with its uncertainty, front and rear possibly exchanged.
//! 3. For each of 36 headings Gauss and Newton's method finds the middle that fits best: that of step 1, the bearings
//!    of the mask's two sides, and the lower outline where it borders on visible floor (ground contact). The last two
//!    are robust (Cauchy), since other things may stand in front.
//! 4. The headings, weighted by `exp(-cost)`, are the posterior: distances get a value from the best one and an
//!    interval from all.
//!
//! The constants were chosen on a sixth of `dock/train` that was held out of the training of the decoder.

use crate::types::{Grid, HeadingVote, PixelTransform, SurfaceVote, Thing};

use super::camera::Camera;
use super::metric::DepthTie;
use super::sight::{Ray, Sight, bearing, patch_ray};
use super::sizes::Plan;
use super::vector::{dot2, norm2};

/// One place where the thing may be.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// Outline on the floor, metres in the world, closed, counter-clockwise.
    pub outline_m: Vec<[f64; 2]>,
    /// Middle of the outline.
    pub middle_m: [f64; 2],
    /// The direction of travel, radians from world x; none for a shape without one.
    pub heading_rad: Option<f64>,
    /// Its probability; all of a thing sum up to 1.
    pub weight: f64,
    /// Covariance of the middle, square metres.
    pub covariance_m2: [[f64; 2]; 2],
}

/// All that is known of where a thing is: hypotheses, the most probable one first.
#[derive(Debug, Clone, PartialEq)]
pub struct Footprint {
    /// At least one.
    pub hypotheses: Vec<Hypothesis>,
    /// Standard deviation of the outline about the thing's true one when the place is right, metres.
    pub shape_sigma_m: f64,
}

/// What the fit needs besides the thing.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The camera.
    pub camera: &'a Camera,
    /// Picture to input.
    pub transform: &'a PixelTransform,
    /// Patch grid of the input.
    pub grid: Grid,
    /// Camera's height above the thing's floor plane, metres.
    pub height_m: f64,
    /// Depth of every patch, as the head sees it, and its tie to the floor.
    pub depth: Option<(&'a [f32], &'a DepthTie)>,
}

/// A ray that falls less than this is as good as level: its range would be too uncertain.
const LEAST_FALL: f64 = 0.02;
/// What every patch's place on the floor may be off at least, metres, and its place in the picture, pixels.
const LEAST_SIGMA_M: f64 = 0.05;
const LEAST_SIGMA_PX: f64 = 0.3;
/// The heading in space is that of a squared error of `5 angle^2` (once and twice the angle), so a mean of `error` is
/// a variance of `error / 5`, and the logarithm of the likelihood half the squared error over `error`.
const HEADING_SHARE: f64 = 0.5;
/// The rectangle reaches beyond the mask's side by this, metres: thin fork tips are lost at the patch size ...
const SIDE_BIAS_M: f64 = 0.1;
/// ... with this standard deviation when it sticks out further,
const SIDE_OUT_SIGMA_M: f64 = 0.4;
/// and this when the mask reaches further than the rectangle.
const SIDE_IN_SIGMA_M: f64 = 0.15;
/// Lower outline, as height of the rectangle's near side where it is seen: (quantile, expected, sigma), metres. Wheels
/// reach the floor; between them the chassis is 0.2 to 0.3 m above it.
const CONTACT: [(f64, f64, f64); 2] = [(0.2, 0.09, 0.12), (0.5, 0.19, 0.2)];
/// Residuals count in full up to about this many sigmas (Cauchy).
const ROBUST: f64 = 1.5;
/// Headings tried.
const HEADINGS: usize = 36;
/// Hypotheses less probable than this are dropped.
const LEAST_WEIGHT: f64 = 5e-3;
/// Standard deviation of a rectangle's outline about the true one, metres: 0.07 of shape and 0.16 of length
/// (`sizes`), half of which counts at each end.
const RECTANGLE_SHAPE_SIGMA_M: f64 = 0.2;
/// The same of a person's disc, metres (`sizes`).
const DISC_SHAPE_SIGMA_M: f64 = 0.12;
/// Where the votes put the middle of a thing.
#[derive(Debug, Clone, Copy)]
struct Middle {
    /// Metres from the camera's foot.
    place: [f64; 2],
    /// Inverse of its covariance.
    information: [[f64; 2]; 2],
}

/// A normal equation for a place on the floor.
#[derive(Debug, Clone, Copy, Default)]
struct Normal {
    a: [[f64; 2]; 2],
    b: [f64; 2],
}

impl Normal {
    /// The place lies at `value` along `direction`, give or take `sigma`.
    fn add(&mut self, direction: [f64; 2], value: f64, sigma: f64, weight: f64) {
        let w = weight / (sigma * sigma);
        for i in 0..2 {
            for j in 0..2 {
                self.a[i][j] += w * direction[i] * direction[j];
            }
            self.b[i] += w * direction[i] * value;
        }
    }
}

/// What one patch says of the place in space.
fn by_space(v: &SurfaceVote, view: &View, weight: f64, out: &mut Normal) {
    let ray = patch_ray(view.camera, view.transform, view.grid, v.col, v.row);
    let fall = ray.fall.max(LEAST_FALL);
    let [height, behind, aside] =
        [v.height_m, v.behind_m, v.aside_m].map(|l| [l.value, l.error].map(f64::from));
    let range = (view.height_m - height[0]) / fall + behind[0];
    out.add(ray.along, range, (height[1] / fall).hypot(behind[1]) + LEAST_SIGMA_M, weight);
    out.add(ray.aside(), aside[0], aside[1] + LEAST_SIGMA_M, weight);
}

/// What one patch says of the place in the picture.
fn by_picture(v: &SurfaceVote, view: &View, weight: f64, out: &mut Normal) {
    let [x, y] = v.foot_px.map(|l| f64::from(l.value));
    let [dx, dy] = v.foot_px.map(|l| f64::from(l.error) + LEAST_SIGMA_PX);
    let ray = |x, y| Ray::through(view.camera, view.transform, [x, y]);
    let range = |ray: &Ray| view.height_m / ray.fall.max(LEAST_FALL);
    let (foot, above, beside) = (ray(x, y), ray(x, y - dy), ray(x + dx, y));
    let sigma_along = (range(&above) - range(&foot)).abs().max(LEAST_SIGMA_M);
    let sigma_aside = (range(&foot) * dot2(beside.along, foot.aside())).abs().max(LEAST_SIGMA_M);
    out.add(foot.along, range(&foot), sigma_along, weight);
    out.add(foot.aside(), 0.0, sigma_aside, weight);
}

/// Where one patch puts the middle, metres from the camera's foot, and its standard deviation (the mean of both axes).
pub(super) fn place_of(v: &SurfaceVote, view: &View) -> Option<([f64; 2], f64)> {
    let mut normal = Normal::default();
    by_space(v, view, 1.0, &mut normal);
    by_picture(v, view, 1.0, &mut normal);
    let Normal { a: [[a, b], [_, c]], b: [p, q] } = normal;
    let determinant = a * c - b * b;
    let place = [(c * p - b * q) / determinant, (a * q - b * p) / determinant];
    let sigma = ((a + c) / (2.0 * determinant)).sqrt();
    (determinant > 0.0 && place.iter().all(|x| x.is_finite()) && sigma.is_finite()).then_some((place, sigma))
}

/// The middle that the votes give; none when there are none or they give no place.
fn voted_middle(thing: &Thing, view: &View) -> Option<Middle> {
    let total: f64 = thing.votes.iter().map(|v| f64::from(v.cover).max(0.0)).sum();
    let mut normal = Normal::default();
    for v in &thing.votes {
        let weight = f64::from(v.cover).max(0.0) / total;
        by_space(v, view, weight, &mut normal);
        by_picture(v, view, weight, &mut normal);
    }
    let Normal { a: [[a, b], [_, c]], b: [p, q] } = normal;
    let determinant = a * c - b * b;
    let place = [(c * p - b * q) / determinant, (a * q - b * p) / determinant];
    let sound = determinant > 0.0 && place.iter().all(|x| x.is_finite()) && norm2(place) > 0.3;
    sound.then_some(Middle { place, information: normal.a })
}

/// What the votes say of the heading against the direction to the middle, together.
fn voted_heading(thing: &Thing) -> Option<HeadingVote> {
    let (mut sum, mut weights, mut cover) = ([0.0f32; 4], 0.0, 0.0);
    for (v, heading) in thing.votes.iter().filter_map(|v| Some((v, v.heading?))) {
        let w = v.cover.max(0.0) / heading.error.max(1e-3);
        let values = [heading.once[0], heading.once[1], heading.twice[0], heading.twice[1]];
        sum.iter_mut().zip(values).for_each(|(s, x)| *s += w * x);
        weights += w;
        cover += v.cover.max(0.0);
    }
    let [c, s, c2, s2] = sum.map(|s| s / weights);
    let heading = HeadingVote { once: [c, s], twice: [c2, s2], error: cover / weights };
    (c + s + c2 + s2 + heading.error).is_finite().then_some(heading)
}

/// Minus the logarithm of how likely a heading is, but for a constant.
fn heading_cost(said: &HeadingVote, angle: f64) -> f64 {
    let square = |[c, s]: [f32; 2], angle: f64| {
        (f64::from(c) - angle.cos()).powi(2) + (f64::from(s) - angle.sin()).powi(2)
    };
    HEADING_SHARE * (square(said.once, angle) + square(said.twice, 2.0 * angle)) / f64::from(said.error)
}

/// Where the thing is, or `None` when the picture does not tell (no votes, above the horizon).
pub fn locate(thing: &Thing, plan: Plan, view: &View) -> Option<Footprint> {
    match plan {
        Plan::Rectangle { length_m, width_m } => rectangle(thing, view, length_m, width_m),
        Plan::Disc { radius_m } => disc(thing, view, radius_m),
    }
}

fn world(view: &View, p: [f64; 2]) -> [f64; 2] {
    let foot = view.camera.pose.position_m;
    [foot[0] + p[0], foot[1] + p[1]]
}

fn disc(thing: &Thing, view: &View, radius_m: f64) -> Option<Footprint> {
    let middle = voted_middle(thing, view)?;
    let middle_m = world(view, middle.place);
    let outline_m = (0..24)
        .map(|i| {
            let (s, c) = (std::f64::consts::TAU * f64::from(i) / 24.0).sin_cos();
            [middle_m[0] + radius_m * c, middle_m[1] + radius_m * s]
        })
        .collect();
    let covariance_m2 = inverse(middle.information);
    Some(Footprint {
        hypotheses: vec![Hypothesis { outline_m, middle_m, heading_rad: None, weight: 1.0, covariance_m2 }],
        shape_sigma_m: DISC_SHAPE_SIGMA_M,
    })
}

/// Inverse of a symmetric matrix; a hair of the identity keeps it from being none.
fn inverse([[a, b], [_, c]]: [[f64; 2]; 2]) -> [[f64; 2]; 2] {
    let (a, c) = (a + 1e-3, c + 1e-3);
    let determinant = (a * c - b * b).max(1e-9);
    [[c / determinant, -b / determinant], [-b / determinant, a / determinant]]
}

/// Everything that a rectangle is compared with, relative to the camera's foot.
struct Evidence {
    forward: [f64; 2],
    range_m: f64,
    middle: Middle,
    left: Option<f64>,
    right: Option<f64>,
    /// Bearing (radians, right of forward), fall.
    feet: Vec<(f64, f64)>,
    height_m: f64,
    length_m: f64,
    width_m: f64,
}

const RESIDUALS: usize = 6;

fn robust(r: f64) -> f64 {
    r.signum() * ROBUST * (r / ROBUST).powi(2).ln_1p().sqrt()
}

impl Evidence {
    fn corners(&self, middle: [f64; 2], heading: f64) -> [[f64; 2]; 4] {
        let (s, c) = heading.sin_cos();
        let (a, b) = (self.length_m / 2.0, self.width_m / 2.0);
        [(a, b), (-a, b), (-a, -b), (a, -b)]
            .map(|(u, v)| [middle[0] + u * c - v * s, middle[1] + u * s + v * c])
    }

    fn residuals(&self, middle: [f64; 2], heading: f64) -> [f64; RESIDUALS] {
        let f = self.forward;
        let right = [f[1], -f[0]];
        let corners = self.corners(middle, heading);
        // In axes along and right of forward.
        let turned = corners.map(|p| [dot2(p, f), dot2(p, right)]);
        let mut out = [0.0; RESIDUALS];
        // The information's triangular root makes two residuals of standard deviation 1.
        let [[a, b], [_, c]] = self.middle.information;
        let [x, y] = [0, 1].map(|axis| middle[axis] - self.middle.place[axis]);
        let root = a.sqrt();
        out[0] = root * x + b / root * y;
        out[1] = (c - b * b / a).max(0.0).sqrt() * y;
        let bearings = turned.map(|p| p[1].atan2(p[0]));
        let lowest = bearings.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = bearings.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let side = |beyond_rad: f64| {
            let d = beyond_rad * self.range_m - SIDE_BIAS_M;
            robust(d / if d > 0.0 { SIDE_OUT_SIGMA_M } else { SIDE_IN_SIGMA_M })
        };
        out[2] = self.left.map_or(0.0, |left| side(left - lowest));
        out[3] = self.right.map_or(0.0, |right| side(highest - right));
        let mut heights = [0.0; 32];
        let mut n = 0;
        for &(bearing, fall) in &self.feet {
            if n < heights.len()
                && let Some(range) = enters(&turned, bearing)
            {
                heights[n] = self.height_m - range * fall;
                n += 1;
            }
        }
        if n > 3 {
            let heights = &mut heights[..n];
            heights.sort_unstable_by(f64::total_cmp);
            for (i, (quantile, expected, sigma)) in CONTACT.into_iter().enumerate() {
                out[4 + i] = robust((heights[(quantile * n as f64) as usize] - expected) / sigma);
            }
        }
        out
    }
}

/// Range at which a bearing enters a convex outline given along and right of forward; `None` when it misses.
fn enters(outline: &[[f64; 2]; 4], bearing: f64) -> Option<f64> {
    let (s, c) = bearing.sin_cos();
    let mut best: Option<f64> = None;
    for i in 0..4 {
        let (a, b) = (outline[i], outline[(i + 1) % 4]);
        // Distance to the right of the ray.
        let (fa, fb) = (a[1] * c - a[0] * s, b[1] * c - b[0] * s);
        if fa * fb > 0.0 || fa == fb {
            continue;
        }
        let t = fa / (fa - fb);
        let p = [a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])];
        let range = p[0] * c + p[1] * s;
        best = Some(best.map_or(range, |r: f64| r.min(range)));
    }
    best
}

fn rectangle(thing: &Thing, view: &View, length_m: f64, width_m: f64) -> Option<Footprint> {
    let voted = voted_middle(thing, view)?;
    let middle = voted.place;
    let range_m = norm2(middle);
    let forward = [middle[0] / range_m, middle[1] / range_m];
    let said = voted_heading(thing)?;
    let ahead = forward[1].atan2(forward[0]);
    let heading0 = ahead + f64::from(said.once[1]).atan2(f64::from(said.once[0]));
    let sight = Sight::of(thing, view.camera, view.transform);
    let (left, right) = sight.extent(forward)?;
    let feet =
        sight.feet.iter().map(|f| (bearing(f.ray.along, forward), f.ray.fall.max(LEAST_FALL))).collect();
    let evidence = Evidence {
        forward,
        range_m,
        middle: voted,
        left: (!thing.cut.left).then_some(left),
        right: (!thing.cut.right).then_some(right),
        feet,
        height_m: view.height_m,
        length_m,
        width_m,
    };
    let mut headings: Vec<f64> =
        (0..HEADINGS).map(|i| heading0 + std::f64::consts::TAU * i as f64 / HEADINGS as f64).collect();
    let cost_at = |heading: f64| {
        let settled = settle(&evidence, middle, heading);
        (0.5 * settled.1 + heading_cost(&said, heading - ahead), settled)
    };
    let mut fits: Vec<_> = headings.iter().map(|h| cost_at(*h)).collect();
    // The best of them is turned by halved steps until it fits best: 15 degrees would move a fork tip by half a metre.
    let first = (0..HEADINGS).min_by(|a, b| fits[*a].0.total_cmp(&fits[*b].0))?;
    let mut step = std::f64::consts::TAU / HEADINGS as f64 / 2.0;
    for _ in 0..4 {
        for turn in [-step, step] {
            let heading = headings[first] + turn;
            let trial = cost_at(heading);
            if trial.0 < fits[first].0 {
                (headings[first], fits[first]) = (heading, trial);
                break;
            }
        }
        step /= 2.0;
    }
    let costs: Vec<f64> = fits.iter().map(|f| f.0).collect();
    let mut hypotheses: Vec<Hypothesis> = headings
        .iter()
        .zip(&fits)
        .map(|(heading, (_, (place, _, covariance_m2)))| Hypothesis {
            outline_m: evidence.corners(*place, *heading).map(|p| world(view, p)).to_vec(),
            middle_m: world(view, *place),
            heading_rad: Some(*heading),
            weight: 0.0,
            covariance_m2: *covariance_m2,
        })
        .collect();
    let best = costs.iter().copied().fold(f64::INFINITY, f64::min);
    if !best.is_finite() {
        return None;
    }
    for (hypothesis, cost) in hypotheses.iter_mut().zip(&costs) {
        hypothesis.weight = (best - cost).exp();
    }
    let total: f64 = hypotheses.iter().map(|h| h.weight).sum();
    hypotheses.retain(|h| h.weight >= LEAST_WEIGHT * total);
    let kept: f64 = hypotheses.iter().map(|h| h.weight).sum();
    for hypothesis in &mut hypotheses {
        hypothesis.weight /= kept;
    }
    hypotheses.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    Some(Footprint { hypotheses, shape_sigma_m: RECTANGLE_SHAPE_SIGMA_M })
}

/// Gauss and Newton's method on the middle for one heading: place, sum of squares, covariance.
fn settle(evidence: &Evidence, start: [f64; 2], heading: f64) -> ([f64; 2], f64, [[f64; 2]; 2]) {
    const STEP_M: f64 = 0.02;
    let square = |r: &[f64; RESIDUALS]| r.iter().map(|x| x * x).sum::<f64>();
    let mut place = start;
    let mut r = evidence.residuals(place, heading);
    let mut cost = square(&r);
    let mut damping = 1e-2;
    let mut normal = [[1.0, 0.0], [0.0, 1.0]];
    for _ in 0..8 {
        let dx = evidence.residuals([place[0] + STEP_M, place[1]], heading);
        let dy = evidence.residuals([place[0], place[1] + STEP_M], heading);
        let (mut a, mut b, mut c, mut p, mut q) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for i in 0..RESIDUALS {
            let (x, y) = ((dx[i] - r[i]) / STEP_M, (dy[i] - r[i]) / STEP_M);
            a += x * x;
            b += x * y;
            c += y * y;
            p += x * r[i];
            q += y * r[i];
        }
        normal = [[a, b], [b, c]];
        let (a, c) = (a + damping, c + damping);
        let determinant = a * c - b * b;
        let mut step = [-(c * p - b * q) / determinant, -(a * q - b * p) / determinant];
        let length = norm2(step);
        if !length.is_finite() {
            break;
        }
        if length > 1.0 {
            step = [step[0] / length, step[1] / length];
        }
        let trial = [place[0] + step[0], place[1] + step[1]];
        let trial_r = evidence.residuals(trial, heading);
        let trial_cost = square(&trial_r);
        if trial_cost < cost {
            let gain = cost - trial_cost;
            (place, r, cost) = (trial, trial_r, trial_cost);
            if gain < 1e-3 {
                break;
            }
        } else {
            damping = damping * 10.0 + 0.1;
        }
    }
    (place, cost, inverse(normal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ray_enters_a_square_at_its_near_side() {
        let square = [[4.0, -1.0], [6.0, -1.0], [6.0, 1.0], [4.0, 1.0]];
        assert!((enters(&square, 0.0).unwrap() - 4.0).abs() < 1e-12);
        assert!(enters(&square, 0.5).is_none());
        // At 10 degrees the near side is met at 4 / cos.
        let b = 10f64.to_radians();
        assert!((enters(&square, b).unwrap() - 4.0 / b.cos()).abs() < 1e-12);
    }

    #[test]
    fn robust_keeps_small_residuals_and_damps_large_ones() {
        assert!((robust(0.1) - 0.1).abs() < 1e-3);
        assert!(robust(10.0) < 3.0 && robust(-10.0) > -3.0);
    }

    #[test]
    fn a_heading_is_likeliest_where_it_is_said_and_its_rear_where_only_that_is_doubtful() {
        let said = |once: [f32; 2]| HeadingVote { once, twice: [0.0, 1.0], error: 0.2 };
        // 45 degrees: twice that is 90.
        let sure = said([0.707, 0.707]);
        let quarter = std::f64::consts::FRAC_PI_4;
        assert!(heading_cost(&sure, quarter) < 0.01);
        assert!(heading_cost(&sure, quarter + std::f64::consts::PI) > 8.0);
        let doubtful = said([0.0, 0.0]);
        let rear = heading_cost(&doubtful, quarter + std::f64::consts::PI);
        assert!((heading_cost(&doubtful, quarter) - rear).abs() < 1e-9);
        assert!(heading_cost(&doubtful, quarter + 0.5) > rear + 1.0);
    }

    #[test]
    fn an_inverse_of_an_information_is_its_covariance() {
        let [[a, b], [_, c]] = inverse([[4.0, 0.0], [0.0, 0.25]]);
        assert!((a - 0.25).abs() < 1e-3 && b == 0.0 && (c - 4.0).abs() < 0.05);
    }
}
