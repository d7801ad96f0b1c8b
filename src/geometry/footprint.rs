//! A thing's outline on the floor, from its mask, the surface head's votes and the tied depth.
//!
//! A forklift's lowest pixel is often in the air (mast, forks, overhang), its fork tips are thinner than a patch and
//! its far side is hidden. So the outline is the class's size ([`super::sizes`]) put where everything that is seen
//! agrees best:
//!
//! 1. Every patch votes for the middle of the footprint: its ray meets the height that the surface head gives it
//!    (`range = (camera height - height) / fall`), and the middle lies `behind` that and `aside` of it.
//! 2. How the patches' place along the thing (`ahead`) changes across the picture gives a first heading.
//! 3. For each of 24 headings Gauss and Newton's method finds the middle that fits best: the votes, the tied depth,
//!    the bearings of the mask's two sides, and the lower outline where it borders on visible floor (ground contact).
//!    The last three are robust (Cauchy), since other things may stand in front.
//! 4. The headings, weighted by `exp(-cost)`, are the posterior: distances get a value from the best one and an
//!    interval from all.
//!
//! The constants were chosen on a sixth of `dock/train` that was held out of the fit of the head.

use crate::types::{Grid, PixelTransform, Thing};

use super::camera::Camera;
use super::metric::DepthTie;
use super::sight::{Ray, Sight, bearing, patch_ray};
use super::sizes::Plan;
use super::vector::{dot2, norm2, solve_spd};

/// One place where the thing may be.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// Outline on the floor, metres in the world, closed, counter-clockwise.
    pub outline_m: Vec<[f64; 2]>,
    /// Middle of the outline.
    pub middle_m: [f64; 2],
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
/// Standard deviation of the surface head's height on its own patches, metres (held-out part of train: 0.27).
const HEIGHT_SIGMA_M: f64 = 0.3;
/// Standard deviation of `behind` and `aside`, metres (held out: 0.43 and 0.48).
const VOTE_SIGMA_M: f64 = 0.45;
/// Forklift votes of one thing err together. Their joint radial error is this share of the range ...
const VOTE_RANGE_SHARE: f64 = 0.06;
/// ... plus this, metres; and their joint lateral error this, metres.
const VOTE_RADIAL_M: f64 = 0.2;
const VOTE_LATERAL_M: f64 = 0.35;
/// The tied depth's joint error, as a share of the range (held out: 0.13 a patch, which err together).
const DEPTH_RANGE_SHARE: f64 = 0.13;
/// How strongly the votes' heading holds: cost is this times one minus the cosine of the angle.
const HEADING_HOLD: f64 = 4.0;
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
const HEADINGS: usize = 24;
/// Hypotheses less probable than this are dropped.
const LEAST_WEIGHT: f64 = 5e-3;
/// Standard deviation of a rectangle's outline about the true one, metres: 0.07 of shape and 0.16 of length
/// (`sizes`), half of which counts at each end.
const RECTANGLE_SHAPE_SIGMA_M: f64 = 0.2;
/// The same of a person's disc, metres (`sizes`).
const DISC_SHAPE_SIGMA_M: f64 = 0.12;
/// A person's votes err together by this much in height, metres (held out) ...
const PERSON_HEIGHT_SIGMA_M: f64 = 0.14;
/// ... and this much sideways, metres.
const PERSON_LATERAL_M: f64 = 0.1;
/// Feet: height of a person's lowest seen cell and its standard deviation, metres; half a cell and the toes.
const PERSON_FOOT: (f64, f64) = (0.1, 0.35);

struct Vote {
    ray: Ray,
    fall: f64,
    weight: f64,
    range_m: f64,
    behind_m: f64,
    aside_m: f64,
    ahead_m: f64,
    heading_along: f64,
}

fn votes(thing: &Thing, view: &View) -> Vec<Vote> {
    let vote = |v: &crate::types::SurfaceVote| {
        let ray = patch_ray(view.camera, view.transform, view.grid, v.col, v.row);
        let fall = ray.fall.max(LEAST_FALL);
        Vote {
            ray,
            fall,
            weight: f64::from(v.cover).max(0.0).sqrt(),
            range_m: (view.height_m - f64::from(v.height_m)) / fall,
            behind_m: f64::from(v.behind_m),
            aside_m: f64::from(v.aside_m),
            ahead_m: f64::from(v.ahead_m),
            heading_along: f64::from(v.heading_along),
        }
    };
    thing.votes.iter().map(vote).filter(|v| v.weight > 0.0 && v.range_m.is_finite()).collect()
}

/// Weighted least squares for `n` unknowns, row by row.
struct LeastSquares {
    a: Vec<Vec<f64>>,
    b: Vec<f64>,
}

impl LeastSquares {
    fn new(n: usize) -> Self {
        Self {
            a: (0..n).map(|i| (0..n).map(|j| if i == j { 1e-6 } else { 0.0 }).collect()).collect(),
            b: vec![0.0; n],
        }
    }

    fn add(&mut self, row: &[f64], value: f64, weight: f64) {
        let w = weight * weight;
        for (i, x) in row.iter().enumerate() {
            for (j, y) in row.iter().enumerate() {
                self.a[i][j] += w * x * y;
            }
            self.b[i] += w * x * value;
        }
    }

    fn solve(self) -> Option<Vec<f64>> {
        solve_spd(self.a, self.b)
    }
}

/// The middle that the votes give, relative to the camera's foot.
fn voted_middle(votes: &[Vote]) -> Option<[f64; 2]> {
    let mut system = LeastSquares::new(2);
    for v in votes {
        let sigma = HEIGHT_SIGMA_M / v.fall + 0.1;
        system.add(&v.ray.along, v.range_m + v.behind_m, v.weight / sigma);
        system.add(&v.ray.aside(), v.aside_m, v.weight / VOTE_SIGMA_M);
    }
    let x = system.solve()?;
    (x[0].is_finite() && x[1].is_finite() && norm2([x[0], x[1]]) > 0.3).then(|| [x[0], x[1]])
}

/// The heading that the votes give, radians: the direction along which `ahead` grows, helped by the head's own word.
fn voted_heading(votes: &[Vote]) -> Option<f64> {
    let mut system = LeastSquares::new(4);
    for v in votes {
        let ([x, y], [p, q], a) = (v.ray.along, v.ray.aside(), v.ahead_m);
        system.add(&[x, y, a * x, a * y], v.range_m, v.weight / (HEIGHT_SIGMA_M / v.fall + 0.4));
        system.add(&[p, q, a * p, a * q], 0.0, v.weight / 0.5);
        system.add(&[0.0, 0.0, x, y], v.heading_along, v.weight / 1.6);
    }
    let x = system.solve()?;
    let heading = x[3].atan2(x[2]);
    heading.is_finite().then_some(heading)
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
    let votes = votes(thing, view);
    let middle = voted_middle(&votes)?;
    let range = norm2(middle);
    let forward = [middle[0] / range, middle[1] / range];
    let fall = (votes.iter().map(|v| v.fall).sum::<f64>() / votes.len() as f64).max(LEAST_FALL);
    // Radial: the votes' joint error, and the feet where they are seen.
    let mut precision = (fall / PERSON_HEIGHT_SIGMA_M).powi(2);
    let mut sum = precision * range;
    let sight = Sight::of(thing, view.camera, view.transform);
    // The steepest of the lower ends is the nearer foot; columns beside the feet end at arms or coat.
    if let Some(foot) =
        sight.feet.iter().map(|f| f.ray.fall).max_by(f64::total_cmp).filter(|f| *f > LEAST_FALL)
    {
        let (height, sigma) = PERSON_FOOT;
        let p = (foot / sigma).powi(2);
        precision += p;
        sum += p * (view.height_m - height) / foot;
    }
    let fused = sum / precision;
    let radial2 = 1.0 / precision;
    let lateral2 = PERSON_LATERAL_M * PERSON_LATERAL_M;
    let middle = [forward[0] * fused, forward[1] * fused];
    let covariance_m2 = along_across(forward, radial2, lateral2);
    let middle_m = world(view, middle);
    let outline_m = (0..24)
        .map(|i| {
            let (s, c) = (std::f64::consts::TAU * f64::from(i) / 24.0).sin_cos();
            [middle_m[0] + radius_m * c, middle_m[1] + radius_m * s]
        })
        .collect();
    Some(Footprint {
        hypotheses: vec![Hypothesis { outline_m, middle_m, weight: 1.0, covariance_m2 }],
        shape_sigma_m: DISC_SHAPE_SIGMA_M,
    })
}

/// Covariance with one variance along a unit vector and another across it.
fn along_across([x, y]: [f64; 2], along: f64, across: f64) -> [[f64; 2]; 2] {
    [
        [along * x * x + across * y * y, (along - across) * x * y],
        [(along - across) * x * y, along * y * y + across * x * x],
    ]
}

/// Everything that a rectangle is compared with, relative to the camera's foot.
struct Evidence {
    forward: [f64; 2],
    range_m: f64,
    left: Option<f64>,
    right: Option<f64>,
    /// Bearing (radians, right of forward), fall.
    feet: Vec<(f64, f64)>,
    depth_range_m: Option<f64>,
    height_m: f64,
    length_m: f64,
    width_m: f64,
}

const RESIDUALS: usize = 7;

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
        let along = dot2(middle, f);
        out[0] = (along - self.range_m) / (VOTE_RANGE_SHARE * self.range_m + VOTE_RADIAL_M);
        out[1] = dot2(middle, right) / VOTE_LATERAL_M;
        if let Some(depth) = self.depth_range_m {
            out[6] = robust((along - depth) / (DEPTH_RANGE_SHARE * depth));
        }
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
    let votes = votes(thing, view);
    let middle = voted_middle(&votes)?;
    let range_m = norm2(middle);
    let forward = [middle[0] / range_m, middle[1] / range_m];
    let heading0 = voted_heading(&votes)?;
    let sight = Sight::of(thing, view.camera, view.transform);
    let (left, right) = sight.extent(forward)?;
    let feet =
        sight.feet.iter().map(|f| (bearing(f.ray.along, forward), f.ray.fall.max(LEAST_FALL))).collect();
    let evidence = Evidence {
        forward,
        range_m,
        left: (!thing.cut.left).then_some(left),
        right: (!thing.cut.right).then_some(right),
        feet,
        depth_range_m: depth_range(thing, view, forward),
        height_m: view.height_m,
        length_m,
        width_m,
    };
    let mut headings: Vec<f64> =
        (0..HEADINGS).map(|i| heading0 + std::f64::consts::TAU * i as f64 / HEADINGS as f64).collect();
    let cost_at = |heading: f64| {
        let settled = settle(&evidence, middle, heading);
        (0.5 * settled.1 + HEADING_HOLD * (1.0 - (heading - heading0).cos()), settled)
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

/// Range of the middle by the tied depth: each patch's surface lies at its depth, the middle `behind` it.
fn depth_range(thing: &Thing, view: &View, forward: [f64; 2]) -> Option<f64> {
    let (depth, tie) = view.depth?;
    let (mut sum, mut total) = (0.0, 0.0);
    for v in &thing.votes {
        let Some(head) = depth.get(v.row * view.grid.cols + v.col) else { continue };
        let ray = patch_ray(view.camera, view.transform, view.grid, v.col, v.row);
        let w = f64::from(v.cover);
        sum +=
            w * (tie.apply(f64::from(*head)) * ray.reach * dot2(ray.along, forward) + f64::from(v.behind_m));
        total += w;
    }
    (total > 0.0 && sum > 0.0).then(|| sum / total)
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
    let [[a, b], [_, c]] = normal;
    let (a, c) = (a + 1e-3, c + 1e-3);
    let determinant = (a * c - b * b).max(1e-9);
    (place, cost, [[c / determinant, -b / determinant], [-b / determinant, a / determinant]])
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
    fn covariance_has_its_variances_along_and_across() {
        let f = [0.6, 0.8];
        let m = along_across(f, 4.0, 0.25);
        let q =
            |v: [f64; 2]| v[0] * (m[0][0] * v[0] + m[0][1] * v[1]) + v[1] * (m[1][0] * v[0] + m[1][1] * v[1]);
        assert!((q(f) - 4.0).abs() < 1e-12 && (q([-0.8, 0.6]) - 0.25).abs() < 1e-12);
    }
}
