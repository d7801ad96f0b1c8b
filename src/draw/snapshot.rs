//! What is drawn on an analysed frame: its things, the measured distances, the edges.

use super::{Annotation, Banner, LineMark, ThingMark, class_colour, state_colour};
use crate::geometry::Site;
use crate::types::{ClassName, Distance, DistanceKind, Reading, Scene, Snapshot, State, Thing};

/// All that there is to draw on the snapshot's frame. `site` says where the floor and its edges are.
pub fn overlays(snapshot: &Snapshot, site: &Site, banner: Option<Banner>) -> Annotation {
    let frame = &snapshot.frame;
    let to_px = |ground: [f64; 2]| site.pixel_from_ground(ground, frame.width, frame.height);
    let lines = snapshot.metric.pairs.iter().filter_map(|pair| {
        let Reading::Measured(distance) = &pair.reading else { return None };
        let state = snapshot.rules.iter().find(|status| status.pair == pair.pair).map(|status| &status.state);
        Some(LineMark {
            from_px: to_px(distance.from_ground)?,
            to_px: to_px(distance.to_ground)?,
            label: interval(distance),
            colour: state_colour(state.unwrap_or(&State::Clear)),
        })
    });
    Annotation {
        things: thing_marks(&snapshot.scene),
        edges: site.edges.iter().flat_map(|edge| polyline_px(&edge.line_m, &to_px)).collect(),
        lines: lines.collect(),
        banner,
    }
}

/// The things of a scene, ready to be drawn.
pub fn thing_marks(scene: &Scene) -> Vec<ThingMark> {
    let mark = |thing: &Thing| ThingMark {
        class: thing.class.to_string(),
        score: thing.score,
        mask: thing.mask.clone(),
        transform: thing.transform,
        colour: class_colour(colour_index(&thing.class)),
    };
    scene.things.iter().map(mark).collect()
}

/// "1.42 m (1.10 .. 1.80)", or "at most 1.80 m" for a bound.
pub fn interval(distance: &Distance) -> String {
    match distance.kind {
        DistanceKind::Value => {
            format!("{:.2} m ({:.2} .. {:.2})", distance.nearest_m, distance.lower_m, distance.upper_m)
        }
        DistanceKind::AtMost { .. } => format!("at most {:.2} m", distance.upper_m),
    }
}

/// The parts of a line on the floor that can be seen; it is cut into short pieces because its far ends may lie
/// behind the camera.
fn polyline_px(line_m: &[[f64; 2]], to_px: &impl Fn([f64; 2]) -> Option<[f64; 2]>) -> Vec<Vec<[f64; 2]>> {
    const PIECES: usize = 64;
    let mut visible = vec![vec![]];
    for ends in line_m.windows(2) {
        for piece in 0..=PIECES {
            let share = piece as f64 / PIECES as f64;
            let point = [0, 1].map(|axis| ends[0][axis] + share * (ends[1][axis] - ends[0][axis]));
            match (to_px(point), visible.last_mut()) {
                (Some(px), Some(run)) => run.push(px),
                _ => visible.push(vec![]),
            }
        }
    }
    visible.retain(|run| run.len() > 1);
    visible
}

fn colour_index(class: &ClassName) -> usize {
    ["forklift", "person", "truck", "pallet"].iter().position(|known| *known == class.as_str()).unwrap_or(4)
}
