//! Surface: what each patch of a thing says of where the thing stands. Five linear outputs a class, in metres.

use crate::types::{ClassName, Features, Scene, SurfaceVote};

use super::segment::cover;
use super::{Head, HeadError};

/// Outputs a class: height above the floor, behind, aside, ahead, cosine of the heading (see [`SurfaceVote`]).
pub const OUTPUTS: usize = 5;
/// A patch speaks for a thing when the mask covers more of it than this; the best one does if none is so full.
pub const LEAST_COVER: f32 = 0.25;

/// Reads the graph output `surface`. Comes after the segmentation.
#[derive(Debug)]
pub struct SurfaceHead {
    classes: Vec<String>,
}

impl SurfaceHead {
    /// `classes` are those that the head speaks of, in the order of its outputs.
    pub fn new(classes: &[String]) -> Self {
        Self { classes: classes.to_vec() }
    }

    fn index(&self, class: &ClassName) -> Option<usize> {
        self.classes.iter().position(|c| c == class.as_str())
    }
}

impl Head for SurfaceHead {
    fn name(&self) -> &str {
        "surface"
    }

    fn apply(&mut self, features: &Features, scene: &mut Scene) -> Result<(), HeadError> {
        let channels = OUTPUTS * self.classes.len();
        let dense = super::dense(features, "surface", channels)?;
        for thing in &mut scene.things {
            let Some(index) = self.index(&thing.class) else { continue };
            let mut patches = cover(&thing.mask);
            patches.retain(|(col, row, _)| *col < features.grid.cols && *row < features.grid.rows);
            let best = patches.iter().map(|p| p.2).fold(0.0, f32::max);
            patches.retain(|p| p.2 > LEAST_COVER.min(best - 1e-6));
            thing.votes = patches
                .into_iter()
                .map(|(col, row, cover)| {
                    let at = (row * features.grid.cols + col) * channels + index * OUTPUTS;
                    let v = &dense[at..at + OUTPUTS];
                    SurfaceVote {
                        col,
                        row,
                        cover,
                        height_m: v[0],
                        behind_m: v[1],
                        aside_m: v[2],
                        ahead_m: v[3],
                        heading_along: v[4],
                    }
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
        let values = (0..6 * 10).map(|i| i as f32).collect();
        let features = features_with(grid, "surface", 10, values);
        let mut scene = super::super::empty_scene(&features);
        scene.things.push(Thing {
            class: names(&["person"])[0].clone(),
            score: 1.0,
            // All of patch (1, 0), a quarter of patch (2, 0).
            mask: Mask { cell_px: 3.5, left: 4, top: 0, width: 5, height: 4, cells: vec![true; 20] },
            meets_floor: vec![true; 5],
            votes: Vec::new(),
            cut: Cut::default(),
            track: None,
        });
        let classes = ["forklift", "person"].map(str::to_owned);
        SurfaceHead::new(&classes).apply(&features, &mut scene).unwrap();
        let votes = &scene.things[0].votes;
        assert_eq!(votes.len(), 1);
        assert_eq!((votes[0].col, votes[0].row, votes[0].cover), (1, 0, 1.0));
        assert_eq!((votes[0].height_m, votes[0].heading_along), (15.0, 19.0));
    }
}
