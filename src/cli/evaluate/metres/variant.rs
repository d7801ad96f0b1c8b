//! What of the way from the picture to the metres is replaced by truth, or left out, to see what it is worth.

use std::sync::Arc;

use crate::analysis;
use crate::cli::train::dataset::Labels;
use crate::heads::decoder::{self, CELLS, CHANNELS, CLASSES};
use crate::heads::segment::picture_cells;
use crate::heads::upsample::CELLS_PER_PATCH;
use crate::heads::{DepthHead, Head, HeadError, SurfaceHead};
use crate::types::{ClassName, Cut, Features, Mask, Scene, Thing};

/// How a frame is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// As the daemon does.
    Shipped,
    /// By the first look at the whole picture only.
    NoCloserLooks,
    /// With the true masks; the decoder's votes as they are.
    TrueMasks,
    /// The same by the first look only.
    TrueMasksNoCloserLooks,
    /// With masks as coarse as the patches.
    PatchMasks,
    /// Without ground contact in the fit.
    NoContact,
    /// The hull of where lower outlines touch visible floor, and nothing else.
    ContactOnly,
    /// The hull of the mask's cells at the depth head's depth, tied to the floor, and nothing else.
    DepthOnly,
    /// The hull of both.
    ContactAndDepth,
}

/// All of them, the shipped one first.
pub const VARIANTS: [Variant; 9] = [
    Variant::Shipped,
    Variant::NoCloserLooks,
    Variant::TrueMasks,
    Variant::TrueMasksNoCloserLooks,
    Variant::PatchMasks,
    Variant::NoContact,
    Variant::ContactOnly,
    Variant::DepthOnly,
    Variant::ContactAndDepth,
];

impl Variant {
    /// As the report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shipped => "as shipped",
            Self::NoCloserLooks => "no closer looks",
            Self::TrueMasks => "true masks",
            Self::TrueMasksNoCloserLooks => "true masks, no closer looks",
            Self::PatchMasks => "masks by patch",
            Self::NoContact => "no ground contact",
            Self::ContactOnly => "ground contact only, no closer looks",
            Self::DepthOnly => "depth only, no closer looks",
            Self::ContactAndDepth => "contact and depth, no closer looks",
        }
    }

    fn true_masks(self) -> bool {
        matches!(self, Self::TrueMasks | Self::TrueMasksNoCloserLooks)
    }

    fn looks_closer(self) -> bool {
        matches!(self, Self::Shipped | Self::TrueMasks | Self::PatchMasks | Self::NoContact)
    }

    /// What is seen. `shipped` are the shipped heads' host parts.
    pub fn see(self, shipped: &mut [Box<dyn Head>], features: &Features, labels: &Arc<Labels>) -> Scene {
        let mut features = features.clone();
        if !self.looks_closer() {
            features.closer.clear();
        }
        if self == Self::PatchMasks {
            by_patch(&mut features);
            features.closer.iter_mut().for_each(by_patch);
        }
        let mut scene = if self.true_masks() {
            let masks = TrueMasks { labels: labels.clone() };
            let mut heads: [Box<dyn Head>; 3] = [Box::new(masks), Box::new(SurfaceHead), Box::new(DepthHead)];
            analysis::see(&mut heads, &features)
        } else {
            analysis::see(shipped, &features)
        };
        // Without votes the geometry has no place for the class's outline, and takes what is seen as it is.
        let (votes, contact, depth) = match self {
            Self::NoContact => (true, false, true),
            Self::ContactOnly => (false, true, false),
            Self::DepthOnly => (false, false, true),
            Self::ContactAndDepth => (false, true, true),
            _ => (true, true, true),
        };
        for thing in &mut scene.things {
            if !votes {
                thing.votes.clear();
            }
            if !contact {
                thing.meets_floor.fill(false);
            }
        }
        if !depth {
            scene.depth = None;
        }
        scene
    }
}

/// Gives all cells of a patch the mean of their logits.
fn by_patch(features: &mut Features) {
    let Some(dense) = features.dense.get_mut(decoder::NAME) else { return };
    for patch in dense.values.chunks_exact_mut(CHANNELS) {
        let logits = &mut patch[..decoder::LOGITS];
        for class in 0..CLASSES {
            let mean = logits.iter().skip(class).step_by(CLASSES).sum::<f32>() / CELLS as f32;
            logits.iter_mut().skip(class).step_by(CLASSES).for_each(|logit| *logit = mean);
        }
    }
}

/// Takes the things from the labels.
struct TrueMasks {
    labels: Arc<Labels>,
}

/// Points of a cell along each side that are looked up.
const SAMPLES: usize = 3;
/// As in [`crate::heads::segment`]: so many cells below a column's end floor must be seen.
const FLOOR_GAP_CELLS: usize = 2;

impl TrueMasks {
    /// Index of the pixel in the labels that a point of the input shows.
    fn pixel(&self, features: &Features, input_px: [f64; 2]) -> usize {
        let raster = &self.labels.raster;
        let t = &features.transform;
        let [x, y] = t.source_from_input(input_px);
        // Labels and picture are of one size; of a closer look the picture is the whole one.
        let at = |value: f64, size: usize| (value.max(0.0) as usize).min(size - 1);
        at(y, raster.height) * raster.width + at(x, raster.width)
    }
}

/// The mask of some cells, columns and rows of the input; none of none.
fn mask_of(own: &[(usize, usize)], cell_px: f64) -> Option<Mask> {
    let (left, right) = (own.iter().map(|c| c.0).min()?, own.iter().map(|c| c.0).max()?);
    let (top, bottom) = (own.iter().map(|c| c.1).min()?, own.iter().map(|c| c.1).max()?);
    let (width, height) = (right - left + 1, bottom - top + 1);
    let mut cells = vec![false; width * height];
    own.iter().for_each(|(col, row)| cells[(row - top) * width + col - left] = true);
    Some(Mask { cell_px, left, top, width, height, cells })
}

impl Head for TrueMasks {
    fn name(&self) -> &str {
        "true masks"
    }

    fn looks_closer(&self) -> bool {
        true
    }

    fn apply(&mut self, features: &Features, scene: &mut Scene) -> Result<(), HeadError> {
        let grid = features.grid;
        let (width, height) = (grid.cols * CELLS_PER_PATCH, grid.rows * CELLS_PER_PATCH);
        let cell_px = grid.patch_px as f64 / CELLS_PER_PATCH as f64;
        let (x0, y0, x1, y1) = picture_cells(&features.transform, grid);
        let ground: Vec<u8> = (0u8..)
            .zip(&self.labels.truth.classes)
            .filter(|(_, class)| matches!(class.as_str(), "floor" | "dock_edge"))
            .map(|(id, _)| id)
            .collect();
        // Of each cell the object that fills most of it, and whether most of it is ground.
        let (mut owners, mut is_ground) = (vec![0u8; width * height], vec![false; width * height]);
        scene.floor = vec![0.0; grid.len()];
        let all = SAMPLES * SAMPLES;
        for i in
            (0..width * height).filter(|i| (x0..x1).contains(&(i % width)) && (y0..y1).contains(&(i / width)))
        {
            let side = |first: usize, k: usize| (first as f64 + (k as f64 + 0.5) / SAMPLES as f64) * cell_px;
            let pixels = (0..all)
                .map(|k| self.pixel(features, [side(i % width, k % SAMPLES), side(i / width, k / SAMPLES)]));
            let pixels: Vec<usize> = pixels.collect();
            let (instance, class) = (&self.labels.instance, &self.labels.raster.class);
            let most = |own: &u8| pixels.iter().filter(|p| instance[**p] == *own).count() * 2 > all;
            owners[i] = pixels.iter().map(|p| instance[*p]).find(most).unwrap_or(0);
            let floor = pixels.iter().filter(|p| ground.contains(&class[**p])).count();
            is_ground[i] = floor * 2 > all;
            let patch = i / width / CELLS_PER_PATCH * grid.cols + i % width / CELLS_PER_PATCH;
            scene.floor[patch] += floor as f32 / (all * CELLS) as f32;
        }
        for object in &self.labels.truth.objects {
            let Ok(class) = ClassName::new(&object.cls) else { continue };
            let own: Vec<(usize, usize)> = (0..owners.len())
                .filter(|i| object.inst != 0 && owners[*i] == object.inst)
                .map(|i| (i % width, i / width))
                .collect();
            let Some(mask) = mask_of(&own, cell_px) else { continue };
            let meets_floor = (0..mask.width)
                .map(|x| {
                    let low = (0..mask.height).rev().find(|y| mask.cells[y * mask.width + x]);
                    let below = low.map(|y| mask.top + y + FLOOR_GAP_CELLS).filter(|below| *below < y1);
                    below.is_some_and(|below| is_ground[below * width + mask.left + x])
                })
                .collect();
            let cut = Cut {
                left: mask.left <= x0,
                top: mask.top <= y0,
                right: mask.left + mask.width >= x1,
                bottom: mask.top + mask.height >= y1,
            };
            scene.things.push(Thing {
                class,
                score: 1.0,
                mask,
                meets_floor,
                votes: vec![],
                transform: features.transform,
                cut,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::train::dataset::tests::labels;
    use crate::heads::tests::features_with;
    use crate::types::Grid;

    const GRID: Grid = Grid { rows: 16, cols: 28, patch_px: 14 };

    #[test]
    fn true_masks_are_those_of_the_labels() {
        let mut labels = labels(392, 224);
        // A forklift of 70 x 28 pixels at (70, 56), on floor; a person at the lower side, cut off by it.
        for (inst, x0, y0, w, h) in [(1, 70, 56, 70, 28), (2, 203, 203, 14, 21)] {
            for i in 0..w * h {
                let pixel = (y0 + i / w) * 392 + x0 + i % w;
                labels.instance[pixel] = inst;
                labels.raster.class[pixel] = 5;
            }
        }
        let values = vec![0.0; GRID.len() * CHANNELS];
        let features = features_with(GRID, decoder::NAME, CHANNELS, values);
        let mut scene = crate::heads::empty_scene(&features);
        TrueMasks { labels: Arc::new(labels) }.apply(&features, &mut scene).unwrap();
        let [forklift, person] = scene.things.as_slice() else { panic!("{:?}", scene.things) };
        let m = &forklift.mask;
        assert_eq!((m.left, m.top, m.width, m.height), (20, 16, 20, 8));
        assert!(m.cells.iter().all(|c| *c) && forklift.meets_floor.iter().all(|m| *m) && !forklift.cut.any());
        assert_eq!((forklift.class.as_str(), person.class.as_str()), ("forklift", "person"));
        assert!(person.cut.bottom && !person.cut.left && person.meets_floor.iter().all(|m| !m));
        // Patch (5, 4) is forklift, patch (0, 0) floor.
        assert!((scene.floor[0] - 1.0).abs() < 1e-5 && scene.floor[4 * 28 + 5] == 0.0);
    }

    #[test]
    fn cells_of_a_patch_become_one() {
        let values = (0..GRID.len() * CHANNELS).map(|i| (i % CHANNELS) as f32).collect();
        let mut features = features_with(GRID, decoder::NAME, CHANNELS, values);
        by_patch(&mut features);
        let patch = &features.dense[decoder::NAME].values[CHANNELS..2 * CHANNELS];
        // Class 2 of cells 0 to 15: 2, 11, ... 137.
        assert_eq!([patch[2], patch[15 * CLASSES + 2]], [69.5; 2]);
        assert_eq!(patch[decoder::DEPTH], decoder::DEPTH as f32);
    }
}
