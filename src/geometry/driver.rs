//! A person inside a forklift is its driver, not somebody on foot who is near it.
//!
//! The decoder has learned the driver as a part of the forklift; where it takes one for a person all the same, this
//! says so. It is careful: who stands in front of a forklift, behind it or leans on it must stay a person.

use crate::types::{Scene, Thing};

use super::polygon::{contains, nearest_on_segment, sides};
use super::standing::{Doubt, Standing};
use super::vector::{norm2, sub2};

/// Share of the person's cells that must have the forklift's on their left, right and below.
const SURROUNDED: f64 = 0.6;
/// How far inside the forklift's outline the middle must lie, as a share of the way from its middle.
const WELL_INSIDE: f64 = 0.6;

/// A person that only looks like sitting in a forklift is put beside it by less than this, metres.
const REACH_M: f64 = 0.6;

/// Whether a person is the driver of a forklift and nobody on foot. Both must be seen.
pub fn doubt(scene: &Scene, person: &Standing, forklift: &Standing) -> Doubt {
    let seen = |s: &Standing| s.index.and_then(|index| scene.things.get(index));
    let (Some(who), Some(what)) = (seen(person), seen(forklift)) else { return Doubt::None };
    if person.class.as_str() != "person" || forklift.class.as_str() != "forklift" {
        return Doubt::None;
    }
    // Feet on the floor are not a driver's.
    let on_feet = who.meets_floor.iter().any(|meets| *meets);
    let Some(best) = forklift.footprint.hypotheses.first() else { return Doubt::None };
    if on_feet || surrounded(who, what) < SURROUNDED {
        return Doubt::None;
    }
    let (middle, place) = (best.middle_m, person.middle_m());
    let outwards = [0, 1].map(|k| middle[k] + (place[k] - middle[k]) / WELL_INSIDE);
    if contains(&best.outline_m, outwards) {
        return Doubt::Strong;
    }
    let away = |(a, b)| norm2(sub2(nearest_on_segment(place, a, b), place));
    let near = contains(&best.outline_m, place) || sides(&best.outline_m).any(|side| away(side) < REACH_M);
    if near { Doubt::Some } else { Doubt::None }
}

/// Share of the inner thing's cells that have cells of the outer one on both sides and below.
fn surrounded(inner: &Thing, outer: &Thing) -> f64 {
    let (mask, around) = (&inner.mask, &outer.mask);
    let set = |col: usize, row: usize| around.cells[row * around.width + col];
    let (mut inside, mut all) = (0.0, 0.0f64);
    for (i, _) in mask.cells.iter().enumerate().filter(|(_, set)| **set) {
        all += 1.0;
        let middle = |first: usize, k: usize| ((first + k) as f64 + 0.5) * mask.cell_px;
        let here = [middle(mask.left, i % mask.width), middle(mask.top, i / mask.width)];
        let [x, y] = outer.transform.input_from_source(inner.transform.source_from_input(here));
        let col = (x / around.cell_px).floor() - around.left as f64;
        let row = (y / around.cell_px).floor() - around.top as f64;
        if col < 0.0 || row < 0.0 || col >= around.width as f64 || row >= around.height as f64 {
            continue;
        }
        let (col, row) = (col as usize, row as usize);
        let left = (0..col).any(|c| set(c, row));
        let right = (col + 1..around.width).any(|c| set(c, row));
        let below = (row + 1..around.height).any(|r| set(col, r));
        inside += f64::from(u8::from(left && right && below));
    }
    inside / all.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::footprint::{Footprint, Hypothesis};
    use crate::types::{ClassName, Cut, Mask};

    fn thing(class: &str, [left, top, width, height]: [usize; 4], feet: bool) -> Thing {
        let mut scene = crate::geometry::scene::tests::scene(vec![]);
        scene.transform.scale_x = 1.0;
        Thing {
            class: ClassName::new(class).unwrap(),
            score: 1.0,
            mask: Mask { cell_px: 3.5, left, top, width, height, cells: vec![true; width * height] },
            meets_floor: vec![feet; width],
            votes: vec![],
            transform: scene.transform,
            cut: Cut::default(),
        }
    }

    fn standing(class: &str, index: usize, [x, y]: [f64; 2], [a, b]: [f64; 2]) -> Standing {
        let outline_m = vec![[x - a, y - b], [x + a, y - b], [x + a, y + b], [x - a, y + b]];
        let covariance_m2 = [[0.01, 0.0], [0.0, 0.01]];
        let hypothesis =
            Hypothesis { outline_m, middle_m: [x, y], heading_rad: None, weight: 1.0, covariance_m2 };
        Standing {
            class: ClassName::new(class).unwrap(),
            index: Some(index),
            footprint: Footprint { hypotheses: vec![hypothesis], shape_sigma_m: 0.1 },
            calibration_m2: [[0.0; 2]; 2],
            cut: Cut::default(),
            largest_m: 4.0,
            whole: true,
            doubt: Doubt::None,
            track: None,
            motion: None,
        }
    }

    #[test]
    fn a_driver_sits_inside_and_who_stands_beside_or_in_front_does_not() {
        let forklift = standing("forklift", 0, [0.0, 6.0], [1.9, 0.6]);
        let driver = |person: [usize; 4], feet: bool, at: [f64; 2]| {
            // The forklift's cells, with those of the person taken out.
            let mut body = thing("forklift", [20, 10, 40, 30], false);
            for row in 0..person[3] {
                for col in 0..person[2] {
                    let (x, y) = (person[0] + col, person[1] + row);
                    if (20..60).contains(&x) && (10..40).contains(&y) {
                        body.mask.cells[(y - 10) * 40 + x - 20] = false;
                    }
                }
            }
            let scene = crate::geometry::scene::tests::scene(vec![body, thing("person", person, feet)]);
            doubt(&scene, &standing("person", 1, at, [0.3, 0.3]), &forklift)
        };
        assert_eq!(driver([34, 14, 8, 12], false, [0.2, 6.1]), Doubt::Strong);
        assert_eq!(driver([34, 14, 8, 12], false, [0.2, 6.5]), Doubt::Some, "near its side");
        assert_eq!(driver([34, 14, 8, 12], false, [0.2, 7.1]), Doubt::Some, "put just behind it");
        assert_eq!(driver([34, 14, 8, 12], true, [0.2, 6.1]), Doubt::None, "feet on the floor");
        assert_eq!(driver([34, 14, 8, 12], false, [0.2, 7.3]), Doubt::None, "behind it");
        assert_eq!(driver([34, 14, 8, 26], false, [0.2, 6.1]), Doubt::None, "nothing of the forklift below");
        assert_eq!(driver([56, 14, 8, 12], false, [0.2, 6.1]), Doubt::None, "beyond its side");
    }
}
