//! Which item is wrong, when one is.
//!
//! Each item in question is left out, and the rest is solved again. What the squared residuals lose by that is compared
//! with what is left: the F test of a shifted observation (Cook & Weisberg, Residuals and Influence in Regression, 2.2.2).
//! With two equations left out its tail is a power, see [`chance`].

use super::super::camera::{Camera, FloorPlane};
use super::super::vector::{norm2, sub2};
use super::best;
use super::evidence::{Evidence, Item, Unknowns};
use super::fit::{Fit, length_m, top_px};

/// A named item is wrong by chance this rarely, over all items together.
const CHANCE: f64 = 0.001;
/// Squared residuals must fall by this many variances of a click to mean anything (2 ln 1000).
const GROSS: f64 = 13.8;
/// The same for distortion (2 ln 100).
pub(super) const MATERIAL: f64 = 9.2;
/// An item is off at least by so many standard deviations of a click.
const OFF: f64 = 5.0;
/// Another item would explain it as well when leaving that out leaves less than so many times as much.
const AS_WELL: f64 = 4.0;
/// When half of the items are off by more than this share of the picture's width, it is not one item that is wrong.
const HOPELESS: f64 = 0.25;
/// So many items with the largest residuals are in question.
const QUESTIONED: usize = 12;

/// How often chance alone takes the squared residuals from `before` down to `after` or less by two more unknowns, with
/// `spare` equations left: the tail of F(2, spare) at that ratio is `(after / before)^(spare / 2)`. For one more unknown
/// it is less than that.
pub(super) fn chance(before: f64, after: f64, spare: usize) -> f64 {
    if spare == 0 || before <= 0.0 { 1.0 } else { (after / before).min(1.0).powf(spare as f64 / 2.0) }
}

/// An item that contradicts all others.
pub(super) struct WrongItem {
    /// Which.
    pub item: Item,
    /// How far it is off, pixels.
    pub off_px: f64,
    /// Where it should have been.
    pub advice: String,
}

/// The item that contradicts all others; `None` when there is none, or when it cannot be told which.
pub(super) fn wrong_item(
    evidence: &Evidence,
    fit: &Fit<'_>,
    found: Unknowns,
    camera: &Camera,
    cost: f64,
    residual_px: &[f64],
    click_px: f64,
) -> Option<WrongItem> {
    let items = evidence.items();
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|&a, &b| residual_px[b].total_cmp(&residual_px[a]));
    let variance = click_px * click_px;
    let spare_after =
        |item: Item| fit.spare().checked_sub(if matches!(item, Item::Length(_)) { 1 } else { 2 });
    let mut trials: Vec<(f64, usize, Item, Camera)> = Vec::new();
    let median_px = order.get(order.len() / 2).map_or(0.0, |&index| residual_px[index]);
    if cost < GROSS * variance || median_px > HOPELESS * camera.lens.width_px {
        return None;
    }
    for &index in order.iter().take(QUESTIONED) {
        let item = items[index];
        // The rest must be able to contradict itself, or any item could be the wrong one.
        let Some(spare) = spare_after(item).filter(|spare| *spare >= 2) else { continue };
        let rest = evidence.without(item);
        if let Some((left, camera)) = solved(&rest, found, camera) {
            trials.push((left, spare, item, camera));
        }
    }
    trials.sort_by(|a, b| a.0.total_cmp(&b.0));
    let &(left, spare, item, without) = trials.first()?;
    let floor = spare as f64 * variance;
    let is_alone = trials.get(1).is_none_or(|second| second.0 > AS_WELL * left.max(floor));
    let rare = chance(cost, left.max(0.25 * floor), spare) * (items.len() as f64) < CHANCE;
    let (off_px, advice) = advice(evidence, item, &without)?;
    (is_alone && rare && cost - left > GROSS * variance && off_px > OFF * click_px).then_some(WrongItem {
        item,
        off_px,
        advice,
    })
}

/// The rest solved again: from scratch, because one wrong item may have led the first solution away, and from it.
fn solved(rest: &Evidence, found: Unknowns, from: &Camera) -> Option<(f64, Camera)> {
    let coefficients = if !found.distortion {
        0
    } else if rest.points.len() < 8 {
        1
    } else {
        2
    };
    let fit = Fit::new(rest, found.focal, coefficients);
    let fresh = best(&from.lens, rest, found.focal).ok().map(|(_, camera, _)| camera);
    let refined = [Some(*from), fresh].into_iter().flatten().filter_map(|start| {
        let camera = fit.refine(start).ok()?;
        Some((fit.cost(&camera)?, camera))
    });
    refined.min_by(|a, b| a.0.total_cmp(&b.0))
}

/// How far the item is off by the camera that the others make, and what to do.
fn advice(evidence: &Evidence, item: Item, others: &Camera) -> Option<(f64, String)> {
    match item {
        Item::Point(index) => {
            let p = evidence.points[index];
            let seen = others.pixel_from_world([p.ground_m[0], p.ground_m[1], p.height_m])?;
            let off_px = norm2(sub2(seen, p.pixel));
            let plane = FloorPlane { height_m: p.height_m, area_m: Vec::new() };
            let measured = others.ground_from_pixel(p.pixel, &plane).map(|[x, y]| {
                let off_m = norm2(sub2([x, y], p.ground_m));
                format!("; or, if the pixel is right, its metres are [{x:.2}, {y:.2}], {off_m:.2} m away")
            });
            let advice = format!(
                "it was clicked at [{:.0}, {:.0}] and should be at [{:.0}, {:.0}], {off_px:.0} px away{}",
                p.pixel[0],
                p.pixel[1],
                seen[0],
                seen[1],
                measured.unwrap_or_default()
            );
            Some((off_px, advice))
        }
        Item::Length(index) => {
            let length = evidence.lengths[index];
            let rest = Evidence { lengths: vec![length], ..Evidence::default() };
            let off_px = Fit::new(&rest, false, 0).off_px(others)?.first().copied()?;
            let metres = length_m(others, &length)?;
            Some((off_px, format!("it was given as {:.2} m and is {metres:.2} m by them", length.length_m)))
        }
        Item::Upright(index) => {
            let upright = evidence.uprights[index];
            let seen = top_px(others, &upright)?;
            let off_px = norm2(sub2(seen, upright.top_px));
            let advice = format!(
                "its top was clicked at [{:.0}, {:.0}] and {:.2} m above its foot is at [{:.0}, {:.0}], {off_px:.0} px away",
                upright.top_px[0], upright.top_px[1], upright.tall_m, seen[0], seen[1]
            );
            Some((off_px, advice))
        }
    }
}
