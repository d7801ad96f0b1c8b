//! What the decoder says of where things stand, patch by patch.

use crate::types::{Features, HeadingVote, Likely, Scene, SurfaceVote};

use super::decoder::{self, CHANNELS, FOOT_UNIT_PX, FORKLIFT, Forklift, PERSON, Person};
use super::segment::cover;
use super::{Head, HeadError};

/// A patch speaks for a thing when the mask covers more of it than this; the best one does if none is so full.
pub const LEAST_COVER: f32 = 0.25;
/// Bounds of the logarithm of a scale, as in training.
const SCALES: [f32; 2] = [-5.0, 3.0];

/// Reads the decoder's outputs for forklifts and persons. Comes after the segmentation.
#[derive(Debug, Default)]
pub struct SurfaceHead;

fn scale(logarithm: f32) -> f32 {
    logarithm.clamp(SCALES[0], SCALES[1]).exp()
}

/// The vote of one patch from its outputs, `first` the class's first one.
fn vote(values: &[f32], [col, row]: [usize; 2], patch_px: usize, cover: f32, forklift: bool) -> SurfaceVote {
    let likely = |value: usize, error: usize| Likely { value: values[value], error: scale(values[error]) };
    let (foot, foot_scale, surface, surface_scale) = if forklift {
        (Forklift::FOOT, Forklift::FOOT_SCALE, Forklift::SURFACE, Forklift::SURFACE_SCALE)
    } else {
        (Person::FOOT, Person::FOOT_SCALE, Person::SURFACE, Person::SURFACE_SCALE)
    };
    let foot_px = [0, 1].map(|axis| {
        let centre = ([col, row][axis] as f32 + 0.5) * patch_px as f32;
        let Likely { value, error } = likely(foot + axis, foot_scale + axis);
        Likely { value: centre + value * FOOT_UNIT_PX as f32, error: error * FOOT_UNIT_PX as f32 }
    });
    let [c, s, c2, s2] = [0, 1, 2, 3].map(|i| values[Forklift::HEADING + i]);
    let heading =
        HeadingVote { once: [c, s], twice: [c2, s2], error: scale(values[Forklift::HEADING_SCALE]) };
    SurfaceVote {
        col,
        row,
        cover,
        height_m: likely(surface, surface_scale),
        behind_m: likely(surface + 1, surface_scale + 1),
        aside_m: likely(surface + 2, surface_scale + 2),
        foot_px,
        heading: forklift.then_some(heading),
    }
}

impl Head for SurfaceHead {
    fn name(&self) -> &str {
        "surface"
    }

    fn looks_closer(&self) -> bool {
        true
    }

    fn apply(&mut self, features: &Features, scene: &mut Scene) -> Result<(), HeadError> {
        let dense = decoder::of(features)?;
        let grid = features.grid;
        for thing in &mut scene.things {
            let (first, outputs, forklift) = match thing.class.as_str() {
                "forklift" => (FORKLIFT, Forklift::OUTPUTS, true),
                "person" => (PERSON, Person::OUTPUTS, false),
                _ => continue,
            };
            let mut patches = cover(&thing.mask);
            patches.retain(|(col, row, _)| *col < grid.cols && *row < grid.rows);
            let best = patches.iter().map(|p| p.2).fold(0.0, f32::max);
            patches.retain(|p| p.2 > LEAST_COVER.min(best - 1e-6));
            thing.votes = patches
                .into_iter()
                .map(|(col, row, cover)| {
                    let at = (row * grid.cols + col) * CHANNELS + first;
                    vote(&dense[at..at + outputs], [col, row], grid.patch_px, cover, forklift)
                })
                .collect();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{features_with, names};
    use super::*;
    use crate::types::{Cut, Grid, Mask, Thing};

    #[test]
    fn votes_come_from_the_patches_of_the_mask_and_the_outputs_of_the_class() {
        let grid = Grid { rows: 2, cols: 3, patch_px: 14 };
        let mut values = vec![0.0; 6 * CHANNELS];
        let patch = &mut values[CHANNELS..2 * CHANNELS];
        patch[PERSON + Person::FOOT] = 0.5;
        patch[PERSON + Person::SURFACE] = 1.25;
        patch[PERSON + Person::SURFACE_SCALE + 2] = -9.0;
        let features = features_with(grid, decoder::NAME, CHANNELS, values);
        let mut scene = super::super::empty_scene(&features);
        scene.things.push(Thing {
            class: names(&["person"])[0].clone(),
            score: 1.0,
            // All of patch (1, 0), a quarter of patch (2, 0).
            mask: Mask { cell_px: 3.5, left: 4, top: 0, width: 5, height: 4, cells: vec![true; 20] },
            meets_floor: vec![true; 5],
            votes: Vec::new(),
            transform: features.transform,
            cut: Cut::default(),
        });
        SurfaceHead.apply(&features, &mut scene).unwrap();
        let votes = &scene.things[0].votes;
        assert_eq!(votes.len(), 1);
        assert_eq!((votes[0].col, votes[0].row, votes[0].cover), (1, 0, 1.0));
        assert_eq!(votes[0].height_m, Likely { value: 1.25, error: 1.0 });
        // Centre of the patch at 21, 7; half a unit to the right.
        assert_eq!(votes[0].foot_px[0], Likely { value: 49.0, error: 56.0 });
        assert_eq!(votes[0].aside_m.error, (-5f32).exp());
        assert!(votes[0].heading.is_none());
    }
}
