//! A closer look: things that are small in the input are cut out of the picture and go through the model again, larger.
//! Which parts, and what becomes of what is seen there. Pure; `infer` runs them.

use crate::types::{Part, PixelTransform, Scene, Thing};

/// A thing should fill this share of the closer input, as in the training of the decoder (0.45 to 0.75).
const FILL: f64 = 0.6;
/// Largest magnification of the input that was trained.
const MOST_ZOOM: f64 = 3.0;
/// Below this a closer look shows hardly more.
const LEAST_ZOOM: f64 = 1.25;
/// Things share a part when that costs none of them more than this share of its magnification.
const SHARED_ZOOM: f64 = 0.75;
/// A part has shown a thing well enough at more than this share of the magnification that it wants. On the held-out sixth
/// of `dock/train` looking again at the others finds two persons more of 54.
const SHOWN_ZOOM: f64 = 0.95;
/// A thing that lies in another by more than this share is the same, or a piece of it.
const SAME_SHARE: f64 = 0.5;

/// A box in the picture's pixels: left, top, right, bottom.
type Bounds = [f64; 4];

fn bounds(thing: &Thing) -> Bounds {
    let (mask, cell) = (&thing.mask, thing.mask.cell_px);
    let at = |x: usize, y: usize| thing.transform.source_from_input([x as f64 * cell, y as f64 * cell]);
    let ([left, top], [right, bottom]) =
        (at(mask.left, mask.top), at(mask.left + mask.width, mask.top + mask.height));
    [left, top, right, bottom]
}

fn union(a: Bounds, b: Bounds) -> Bounds {
    [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]
}

/// How much larger the input can show a box.
fn zoom([left, top, right, bottom]: Bounds, t: &PixelTransform) -> f64 {
    let across = FILL * f64::from(t.input_width) / ((right - left) * t.scale_x).max(1.0);
    let down = FILL * f64::from(t.input_height) / ((bottom - top) * t.scale_y).max(1.0);
    across.min(down).min(MOST_ZOOM)
}

/// Parts of the picture that are worth a closer look, at most `most`: those of the largest things first, since the near
/// ones are the most urgent. Things side by side share one. `looked` are parts that were looked at already.
pub fn parts(scene: &Scene, looked: &[Part], most: usize) -> Vec<Part> {
    let t = &scene.transform;
    let mut boxes: Vec<Bounds> =
        scene.things.iter().filter(|thing| !thing.votes.is_empty()).map(bounds).collect();
    boxes.retain(|b| zoom(*b, t) >= LEAST_ZOOM);
    let area = |b: &Bounds| (b[2] - b[0]) * (b[3] - b[1]);
    boxes.sort_by(|a, b| area(b).total_cmp(&area(a)));
    boxes.retain(|b| !looked.iter().any(|part| shows(part, *b, t)));
    // The box of each part, and the magnification that the most demanding of its things wants.
    let mut groups: Vec<(Bounds, f64)> = vec![];
    for b in boxes {
        let wanted = zoom(b, t);
        let fits = |(box_, of): &(Bounds, f64)| zoom(union(*box_, b), t) >= SHARED_ZOOM * wanted.max(*of);
        if let Some((box_, of)) = groups.iter_mut().find(|group| fits(group)) {
            (*box_, *of) = (union(*box_, b), of.max(wanted));
        } else if groups.len() < most {
            groups.push((b, wanted));
        }
    }
    groups.into_iter().filter_map(|(b, _)| part(b, t)).collect()
}

/// Whether a part has shown all of a box about as large as can be.
fn shows(part: &Part, [left, top, right, bottom]: Bounds, t: &PixelTransform) -> bool {
    let [x, y, width, height] = [part.left, part.top, part.width, part.height].map(f64::from);
    let inside = x <= left && y <= top && right <= x + width && bottom <= y + height;
    let shown = f64::from(t.input_width) / (width * t.scale_x);
    inside && shown >= SHOWN_ZOOM * zoom([left, top, right, bottom], t)
}

/// The part about a box, as wide and high as the input shows at its magnification, inside of the picture, even.
fn part([left, top, right, bottom]: Bounds, t: &PixelTransform) -> Option<Part> {
    let zoom = zoom([left, top, right, bottom], t);
    let side = |from: f64, to: f64, input: u32, scale: f64, all: u32| {
        let all = f64::from(all - all % 2);
        let length = (f64::from(input) / (scale * zoom) / 2.0).round() * 2.0;
        let length = length.min(all);
        let first = ((from + to - length) / 4.0).round() * 2.0;
        (first.clamp(0.0, all - length) as u32, length as u32)
    };
    let (left, width) = side(left, right, t.input_width, t.scale_x, t.source_width);
    let (top, height) = side(top, bottom, t.input_height, t.scale_y, t.source_height);
    (width > 0 && height > 0).then_some(Part { left, top, width, height })
}

/// True when a thing touches a side of the closer input that is not the picture's own: more of it may lie beyond.
fn is_clipped(thing: &Thing) -> bool {
    let (t, mask) = (&thing.transform, &thing.mask);
    let [x0, y0] = t.input_from_source([0.0, 0.0]);
    let [x1, y1] = t.input_from_source([f64::from(t.source_width), f64::from(t.source_height)]);
    let cells = |px: u32| (f64::from(px) / mask.cell_px).round() as usize;
    let beyond = 0.5 * mask.cell_px;
    (mask.left == 0 && x0 < -beyond)
        || (mask.top == 0 && y0 < -beyond)
        || (mask.left + mask.width >= cells(t.input_width) && x1 > f64::from(t.input_width) + beyond)
        || (mask.top + mask.height >= cells(t.input_height) && y1 > f64::from(t.input_height) + beyond)
}

/// Share of `a`'s cells that lie in `b`.
fn share(a: &Thing, b: &Thing) -> f64 {
    let mask = &a.mask;
    let (mut inside, mut all) = (0u32, 0u32);
    for (i, _) in mask.cells.iter().enumerate().filter(|(_, set)| **set) {
        let (col, row) = (mask.left + i % mask.width, mask.top + i / mask.width);
        let centre = [(col as f64 + 0.5) * mask.cell_px, (row as f64 + 0.5) * mask.cell_px];
        inside += u32::from(b.shows(a.transform.source_from_input(centre)));
        all += 1;
    }
    f64::from(inside) / f64::from(all.max(1))
}

/// Takes what a closer look has seen whole in place of what the scene had there: a thing in place of itself, of its
/// pieces, or of the blob that it was a part of. What the closer look does not see stays: it is no proof of absence.
pub fn adopt(scene: &mut Scene, seen: Vec<Thing>) {
    let whole: Vec<Thing> = seen.into_iter().filter(|thing| !is_clipped(thing)).collect();
    let finer = |a: &Thing, b: &Thing| a.transform.scale_x > b.transform.scale_x;
    // Another part may have shown it larger.
    let known = |thing: &Thing| {
        let mut same = scene.things.iter().filter(|old| old.class == thing.class && !finer(thing, old));
        same.any(|old| share(thing, old) > SAME_SHARE || share(old, thing) > SAME_SHARE)
    };
    let new: Vec<Thing> = whole.into_iter().filter(|thing| !known(thing)).collect();
    scene.things.retain(|old| {
        let shares = new.iter().filter(|thing| thing.class == old.class && finer(thing, old));
        shares.map(|thing| share(old, thing)).sum::<f64>() <= SAME_SHARE
    });
    scene.things.extend(new);
}

#[cfg(test)]
mod tests {
    use super::super::tests::{features_with, names};
    use super::*;
    use crate::types::{Cut, Grid, HeadingVote, Likely, Mask, SurfaceVote};

    const GRID: Grid = Grid { rows: 16, cols: 28, patch_px: 14 };

    /// A picture four times as wide as the input.
    fn scene() -> Scene {
        let mut features = features_with(GRID, "none", 1, vec![]);
        features.transform = PixelTransform {
            source_width: 1568,
            source_height: 896,
            scale_x: 0.25,
            scale_y: 0.25,
            ..features.transform
        };
        super::super::empty_scene(&features)
    }

    /// A thing that fills a box of the input of `transform`, in cells.
    fn thing(transform: PixelTransform, [left, top, width, height]: [usize; 4]) -> Thing {
        let none = Likely { value: 0.0, error: 1.0 };
        let heading = Some(HeadingVote { once: [1.0, 0.0], twice: [1.0, 0.0], error: 1.0 });
        let (col, row) = (left / 4, top / 4);
        let vote = SurfaceVote {
            col,
            row,
            cover: 1.0,
            height_m: none,
            behind_m: none,
            aside_m: none,
            foot_px: [none; 2],
            heading,
        };
        Thing {
            class: names(&["forklift"])[0].clone(),
            score: 1.0,
            mask: Mask { cell_px: 3.5, left, top, width, height, cells: vec![true; width * height] },
            meets_floor: vec![true; width],
            votes: vec![vote],
            transform,
            cut: Cut::default(),
        }
    }

    fn closer(part: Part) -> PixelTransform {
        let scale = 392.0 / f64::from(part.width);
        let own = PixelTransform {
            source_width: part.width,
            source_height: part.height,
            scale_x: scale,
            scale_y: scale,
            ..scene().transform
        };
        own.within(part, [1568, 896])
    }

    #[test]
    fn a_small_thing_fills_the_closer_input_and_a_large_one_needs_none() {
        let mut scene = scene();
        let t = scene.transform;
        // 20 x 12 cells are 70 x 42 px of the input, 280 x 168 of the picture at (560, 420).
        scene.things = vec![thing(t, [40, 30, 20, 12])];
        let parts = parts(&scene, &[], 4);
        // 0.6 * 224 / 42 = 3.2, held at 3: a third of 1568 x 896 about (700, 504).
        assert_eq!(parts, [Part { left: 440, top: 356, width: 522, height: 298 }]);
        scene.things = vec![thing(t, [10, 10, 70, 40])];
        assert!(super::parts(&scene, &[], 4).is_empty());
        // At the picture's corner the part stays inside.
        scene.things = vec![thing(t, [104, 56, 8, 8])];
        let at_corner = super::parts(&scene, &[], 4)[0];
        assert_eq!((at_corner.left + at_corner.width, at_corner.top + at_corner.height), (1568, 896));
    }

    #[test]
    fn neighbours_share_a_part_and_the_others_wait() {
        let mut scene = scene();
        let t = scene.transform;
        scene.things = vec![thing(t, [40, 30, 10, 10]), thing(t, [52, 30, 6, 10]), thing(t, [100, 40, 8, 8])];
        assert_eq!(parts(&scene, &[], 4).len(), 2);
        assert_eq!(parts(&scene, &[], 1).len(), 1);
        assert!(parts(&scene, &[], 0).is_empty());
    }

    #[test]
    fn what_was_shown_large_is_not_looked_at_again_and_what_was_not_is() {
        let mut scene = scene();
        let t = scene.transform;
        // About (560, 420) to (840, 588) twice as large: enough for the thing itself, not for a small one in it.
        let looked = [Part { left: 308, top: 280, width: 784, height: 448 }];
        scene.things = vec![thing(t, [40, 30, 30, 20])];
        assert!(parts(&scene, &looked, 4).is_empty());
        scene.things = vec![thing(t, [40, 30, 30, 20]), thing(closer(looked[0]), [60, 30, 8, 16])];
        let again = parts(&scene, &looked, 4);
        // Cells 60 to 68 by 30 to 46 of the part, two pixels of the picture each pixel: (728, 490) to (784, 602).
        assert_eq!(again, [Part { left: 496, top: 398, width: 522, height: 298 }]);
        assert!(parts(&scene, &[looked[0], again[0]], 4).is_empty());
    }

    #[test]
    fn a_blob_of_two_becomes_two_and_pieces_become_one() {
        let part = Part { left: 400, top: 300, width: 784, height: 448 };
        let fine = closer(part);
        let mut scene = scene();
        // Picture (560..840, 420..588) in the scene; twice as large in the part.
        scene.things = vec![thing(scene.transform, [40, 30, 20, 12])];
        let two = vec![thing(fine, [23, 17, 19, 24]), thing(fine, [44, 17, 19, 24])];
        adopt(&mut scene, two);
        assert_eq!(scene.things.len(), 2);
        assert!(scene.things.iter().all(|t| t.transform == fine));
        scene.things = vec![
            thing(scene.transform, [40, 30, 8, 12]),
            thing(scene.transform, [52, 30, 8, 12]),
            thing(scene.transform, [90, 30, 8, 12]),
        ];
        adopt(&mut scene, vec![thing(fine, [23, 17, 40, 24])]);
        assert_eq!(scene.things.len(), 2, "the third is elsewhere and stays");
    }

    #[test]
    fn what_the_part_cuts_off_is_not_believed() {
        let part = Part { left: 400, top: 300, width: 784, height: 448 };
        let mut scene = scene();
        scene.things = vec![thing(scene.transform, [40, 30, 20, 12])];
        adopt(&mut scene, vec![thing(closer(part), [0, 17, 40, 24])]);
        assert_eq!(scene.things.len(), 1);
        assert_eq!(scene.things[0].transform.scale_x, 0.25);
        // The picture's own side is no cut of the part.
        let corner = closer(Part { left: 0, top: 0, width: 784, height: 448 });
        adopt(&mut scene, vec![thing(corner, [0, 0, 10, 10])]);
        assert_eq!(scene.things.len(), 2);
    }
}
