//! Where a camera is and how it sees, from what a person measured on its floor.
//!
//! [`Evidence`] of several kinds goes into one least squares: points of the floor, known lengths, uprights. The pose
//! is always unknown, the focal length and the radial distortion when they are asked for. `start` gives first cameras,
//! `fit` the best one, `doubt` finds the item that does not fit the others. Errors say what to do.

mod doubt;
mod evidence;
mod fit;
mod spread;
mod start;
#[cfg(test)]
mod tests;

use super::camera::{Camera, FloorPlane, Lens};
use super::vector::sub2;

pub use evidence::{Evidence, FloorPoint, Item, KnownLength, Unknowns, Upright};
use fit::Fit;

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// The camera.
    pub camera: Camera,
    /// How far each item is off, in pixels of its clicks, in the order of [`Evidence::items`]: for a point the distance
    /// between it and its projection.
    pub residual_px: Vec<f64>,
    /// Root of the mean square of these: the reprojection error.
    pub rms_px: f64,
    /// Index of the largest of these.
    pub worst: usize,
    /// Standard deviation of one coordinate of a click that the covariance rests on, pixels.
    pub sigma_px: f64,
    /// Cameras that lie one standard deviation away along each of the independent directions of the solution's
    /// covariance: what a quantity changes by from the best camera to these, squared and summed, is its variance.
    pub one_sigma_cameras: Vec<Camera>,
    /// What of the lens was found. Distortion that was asked for is not found when the evidence does not need it.
    pub found: Unknowns,
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
            found: Unknowns::default(),
        }
    }

    /// Half of the 95 % interval of a quantity of the camera, in its unit.
    pub fn plus_minus(&self, quantity: impl Fn(&Camera) -> f64) -> f64 {
        let best = quantity(&self.camera);
        let variance: f64 = self.one_sigma_cameras.iter().map(|c| (quantity(c) - best).powi(2)).sum();
        Z_95 * variance.sqrt()
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
    /// Four points are needed when there is nothing else.
    #[error("calibration has {0} floor points: give at least 4, no three of them on a line")]
    TooFew(usize),
    /// One point more is needed for the focal length.
    #[error(
        "calibration has {0} floor points and no lens: give `hfov_deg` or `intrinsics`, or at least 5 points, so that the \
         focal length can be found as well"
    )]
    TooFewForLens(usize),
    /// Not enough of the mix.
    #[error(
        "calibration has {equations} equations for {unknowns} unknowns and wants one more than that: add evidence (a floor \
         point gives 2, a known length 1, an upright 2)"
    )]
    NotEnough {
        /// Equations that the evidence gives.
        equations: usize,
        /// What is to be found.
        unknowns: usize,
    },
    /// One point fixes nothing that the other evidence leaves open.
    #[error(
        "calibration has one floor point beside other evidence, and it does not say where the axes lie: give at least two \
         points, or none (the origin is then below the camera and y is where it looks)"
    )]
    OnePoint,
    /// Distortion needs points in the corners.
    #[error(
        "calibration has {0} floor points and is asked for the distortion: give at least 6 (8 for k1 and k2), some in the corners"
    )]
    TooFewForDistortion(usize),
    /// More than anybody measures.
    #[error(
        "calibration has {0} items, and at most {MAX_ITEMS} are taken: keep those that are spread widest"
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
    /// The focal length is not in the evidence.
    #[error(
        "calibration cannot tell the focal length ({0}): a floor that is seen straight from above or only in a small part \
         never does; give `hfov_deg` or `intrinsics`, or add uprights and points near and far"
    )]
    NoFocal(String),
    /// One item contradicts all others.
    #[error(
        "calibration: {item} does not fit the others, which agree without it: {advice}{}",
        if *.bent { "" } else { "; or the lens is not as given: try `distortion: solve`" }
    )]
    Wrong {
        /// Which.
        item: Item,
        /// How far it is off, pixels.
        off_px: f64,
        /// Where it should have been.
        advice: String,
        /// Whether the lens's distortion was found as well, so that it cannot be what is wrong.
        bent: bool,
        /// What all items together make, when their error is below what is accepted: a lens that is not as given looks
        /// like a wrong item in a corner, and a camera that watches is not to be stopped by a doubt.
        with: Option<Box<Calibration>>,
    },
    /// The solution is impossible.
    #[error(
        "calibration is impossible: {0}; check that pixels and metres belong together and that the axes are not mirrored"
    )]
    Impossible(String),
    /// The points contradict each other.
    #[error(
        "calibration points do not agree: reprojection error {rms_px:.1} px (at most {limit_px:.1}), worst is {worst} with {worst_px:.1} px; \
         check its pixel and its metres, and the lens. Which one is wrong cannot be told{}", if *.few { ": with six points it could" } else { "" }
    )]
    Disagree {
        /// Root mean square of the distances, pixels.
        rms_px: f64,
        /// What is accepted, pixels.
        limit_px: f64,
        /// The item that is off farthest.
        worst: Item,
        /// By how much, pixels.
        worst_px: f64,
        /// Whether there are too few points to name one.
        few: bool,
    },
}

impl CalibrationError {
    fn loose() -> Self {
        Self::Degenerate("they leave more than one solution".to_owned())
    }
}

/// Items taken at most: whether points span the floor is asked of every three.
const MAX_ITEMS: usize = 100;
/// How exactly a person clicks: standard deviation of one coordinate, in pixels of a picture 640 wide.
pub const CLICK_SIGMA_PX_AT_640: f64 = 1.0;
/// A reprojection error beyond this share of the picture's width is a mistake, not noise (12.8 px of 640).
const DISAGREE_SHARE: f64 = 0.02;
/// A camera height that is uncertain by more than this share of itself is no calibration.
const HEIGHT_SHARE: f64 = 0.25;

/// A focal length that is uncertain by more than this share of itself is none.
const FOCAL_SHARE: f64 = 0.1;
/// Quantile of the normal distribution that leaves 2.5 % above it.
const Z_95: f64 = 1.959_964;
/// The assumed noise of a click counts as much as so many spare equations.
const PRIOR_EQUATIONS: f64 = 1.0;
/// Starts that are refined: the best ones.
const REFINED: usize = 4;
/// Distortion is kept when chance would explain as much of the residuals this rarely.
const DISTORTION_CHANCE: f64 = 0.01;

/// Finds the pose of a camera with a known lens from floor points alone: see [`solve`].
///
/// # Errors
/// As [`solve`].
pub fn calibrate(lens: &Lens, points: &[FloorPoint]) -> Result<Calibration, CalibrationError> {
    solve(lens, &Evidence { points: points.to_vec(), ..Evidence::default() }, Unknowns::default())
}

/// Finds the camera's pose, and of its lens what is asked for.
///
/// # Errors
/// Too little evidence, points on a line or in one spot, items that contradict each other or the lens, one item that
/// contradicts all others, a focal length that cannot be told, a camera below the floor. Each error says what to do.
pub fn solve(lens: &Lens, evidence: &Evidence, wanted: Unknowns) -> Result<Calibration, CalibrationError> {
    check_numbers(lens, evidence)?;
    check_counts(evidence, wanted)?;
    if evidence.lengths.is_empty() && evidence.uprights.is_empty() {
        spread::check_spread(&evidence.points)?;
    }
    let click_px = click_px(lens);
    let (mut fit, mut camera, mut cost) = best(lens, evidence, wanted.focal)?;
    let mut found = Unknowns { distortion: false, ..wanted };
    if wanted.distortion {
        let coefficients = if evidence.points.len() < 8 { 1 } else { 2 };
        let bent = Fit::new(evidence, wanted.focal, coefficients);
        let refined = bent.refine(camera).ok().and_then(|bent_| Some((bent.cost(&bent_)?, bent_)));
        if let Some((less, bent_)) = refined
            && doubt::chance(cost, less, bent.spare()) < DISTORTION_CHANCE
            && cost - less > doubt::MATERIAL * click_px * click_px
        {
            (fit, camera, cost, found) = (bent, bent_, less, wanted);
        }
    }
    if camera.pose.position_m[2] <= highest_floor(evidence) {
        return Err(CalibrationError::Impossible("the camera would be below the floor".to_owned()));
    }
    let behind = || CalibrationError::Impossible("something would be behind the camera".to_owned());
    let residual_px = fit.off_px(&camera).ok_or_else(behind)?;
    let wrong = doubt::wrong_item(evidence, &fit, found, &camera, cost, &residual_px, click_px);
    let rms_px = (cost / residual_px.len() as f64).sqrt();
    let worst =
        (0..residual_px.len()).max_by(|&a, &b| residual_px[a].total_cmp(&residual_px[b])).unwrap_or(0);
    let limit_px = DISAGREE_SHARE * lens.width_px;
    let disagree = rms_px.is_nan() || rms_px > limit_px;
    if disagree && wrong.is_none() {
        let item = evidence.items().get(worst).copied().unwrap_or(Item::Point(worst));
        let few = evidence.items().len() < 6;
        return Err(CalibrationError::Disagree {
            rms_px,
            limit_px,
            worst: item,
            worst_px: residual_px[worst],
            few,
        });
    }
    let complete = || {
        let sigma_px = click_sigma_px(cost, fit.spare(), click_px);
        let one_sigma_cameras = fit.one_sigma(&camera, sigma_px)?;
        let out = Calibration { camera, residual_px, rms_px, worst, sigma_px, one_sigma_cameras, found };
        check_certain(&out, wanted.focal)?;
        Ok(out)
    };
    match wrong {
        None => complete(),
        Some(doubt::WrongItem { item, off_px, advice }) => {
            let with = if disagree { None } else { complete().ok().map(Box::new) };
            Err(CalibrationError::Wrong { item, off_px, advice, bent: found.distortion, with })
        }
    }
}

/// The best camera without distortion of its own, and its cost.
fn best<'a>(
    lens: &Lens,
    evidence: &'a Evidence,
    focal: bool,
) -> Result<(Fit<'a>, Camera, f64), CalibrationError> {
    let fit = Fit::new(evidence, focal, 0);
    let first = start::starts(lens, evidence, focal)?;
    let mut ranked: Vec<(f64, Camera)> =
        first.iter().filter_map(|camera| Some((fit.cost(camera)?, *camera))).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    ranked.truncate(REFINED);
    let mut refused = CalibrationError::Impossible(
        "no camera above the floor sees all of it where it was clicked".to_owned(),
    );
    let mut found: Option<(f64, Camera)> = None;
    for (_, camera) in ranked {
        match fit.refine(camera) {
            Ok(camera) => {
                let cost = fit.cost(&camera).unwrap_or(f64::INFINITY);
                if cost.is_finite() && found.as_ref().is_none_or(|(least, _)| cost < *least) {
                    found = Some((cost, camera));
                }
            }
            Err(error) => refused = error,
        }
    }
    let (cost, camera) = found.ok_or(refused)?;
    Ok((fit, camera, cost))
}

/// The standard deviation of a click, such that 1.96 of it hold 95 %. What the spare equations say is joined with what
/// is assumed, as if that were from [`PRIOR_EQUATIONS`] more of them; the mean square then scatters, and Student's
/// distribution takes the normal one's place (Abramowitz & Stegun 26.7.5 for its quantile). At least what is assumed.
fn click_sigma_px(cost: f64, spare: usize, click_px: f64) -> f64 {
    let n = PRIOR_EQUATIONS + spare as f64;
    let mean_square = (PRIOR_EQUATIONS * click_px * click_px + cost) / n;
    let z = Z_95;
    let student = z
        + (z.powi(3) + z) / (4.0 * n)
        + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
        + (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / (384.0 * n.powi(3));
    (mean_square.sqrt() * student / z).max(click_px)
}

/// The assumed noise of a click in a picture of this lens, pixels.
fn click_px(lens: &Lens) -> f64 {
    CLICK_SIGMA_PX_AT_640 * lens.width_px / 640.0
}

fn highest_floor(evidence: &Evidence) -> f64 {
    let points = evidence.points.iter().map(|p| p.height_m);
    let lengths = evidence.lengths.iter().map(|l| l.height_m);
    points.chain(lengths).chain(evidence.uprights.iter().map(|u| u.height_m)).fold(f64::MIN, f64::max)
}

fn check_certain(calibration: &Calibration, focal: bool) -> Result<(), CalibrationError> {
    let lens = &calibration.camera.lens;
    let sigma_px = calibration.plus_minus(|c| c.lens.fx_px) / Z_95;
    if focal && (sigma_px.is_nan() || sigma_px > FOCAL_SHARE * lens.fx_px) {
        return Err(CalibrationError::NoFocal(format!(
            "it would be {:.0} px with a standard deviation of {sigma_px:.0} px",
            lens.fx_px
        )));
    }
    let height_m = calibration.camera.pose.position_m[2];
    let sigma_height_m = calibration.plus_minus(|c| c.pose.position_m[2]) / Z_95;
    if sigma_height_m.is_nan() || sigma_height_m > HEIGHT_SHARE * height_m.abs() {
        return Err(CalibrationError::Degenerate(format!(
            "the camera's height would be {height_m:.1} m with a standard deviation of {sigma_height_m:.1} m"
        )));
    }
    Ok(())
}

fn check_counts(evidence: &Evidence, wanted: Unknowns) -> Result<(), CalibrationError> {
    let items = evidence.items().len();
    if items > MAX_ITEMS {
        return Err(CalibrationError::TooMany(items));
    }
    let points = evidence.points.len();
    if points == items {
        if points < 4 {
            return Err(CalibrationError::TooFew(points));
        }
        if wanted.focal && points < 5 {
            return Err(CalibrationError::TooFewForLens(points));
        }
    }
    if wanted.distortion && points < 6 {
        return Err(CalibrationError::TooFewForDistortion(points));
    }
    if points == 1 {
        return Err(CalibrationError::OnePoint);
    }
    let (equations, unknowns) = (evidence.equations(), Fit::unknowns(evidence, wanted));
    if equations <= unknowns {
        return Err(CalibrationError::NotEnough { equations, unknowns });
    }
    Ok(())
}

fn check_numbers(lens: &Lens, evidence: &Evidence) -> Result<(), CalibrationError> {
    let lens_ok =
        [lens.width_px, lens.height_px, lens.fx_px, lens.fy_px].iter().all(|v| v.is_finite() && *v > 0.0)
            && [lens.cx_px, lens.cy_px, lens.k1, lens.k2].iter().all(|v| v.is_finite());
    if !lens_ok {
        return Err(CalibrationError::NotANumber("the lens has a value that cannot be".to_owned()));
    }
    for item in evidence.items() {
        let (numbers, size_m) = match item {
            Item::Point(i) => {
                let p = evidence.points[i];
                ([p.pixel, p.ground_m, [p.height_m, 0.0]], 1.0)
            }
            Item::Length(i) => {
                let l = evidence.lengths[i];
                let sure = l.sigma_m >= 0.0 && l.sigma_m.is_finite();
                let size_m = if sure { l.length_m } else { f64::NAN };
                ([l.ends_px[0], l.ends_px[1], [l.height_m, size_m]], l.length_m)
            }
            Item::Upright(i) => {
                let u = evidence.uprights[i];
                ([u.foot_px, u.top_px, [u.height_m, u.tall_m]], u.tall_m)
            }
        };
        if !numbers.iter().flatten().all(|v| v.is_finite()) {
            return Err(CalibrationError::NotANumber(format!("{item} is not a number")));
        }
        if size_m <= 0.0 {
            return Err(CalibrationError::NotANumber(format!("{item} must be longer than 0 m")));
        }
    }
    Ok(())
}
