//! Segmentation: the decoder's logits of every cell, cut into things.

use crate::types::{ClassName, Cut, Features, Grid, Mask, PixelTransform, Scene, Thing};

use super::decoder::{self, CLASSES};
use super::upsample::CELLS_PER_PATCH;
use super::{Head, HeadError};

/// A component smaller than this many cells of 3.5 px is noise: a person at 25 m has 12. What looks like a small
/// forklift is mostly a part of a truck or a load; a whole one has 40 cells at 30 m. On a held-out sixth of `dock/train`
/// the larger limit leaves 10 false forklifts of 33 and loses 4 true ones of 156.
pub fn least_cells(class: &ClassName) -> usize {
    if class.as_str() == "forklift" { 40 } else { 12 }
}
/// Mean probability of the class over the mask below which a component is not believed. A closer look shows a thing large,
/// so that it has to be surer: on the held-out sixth of `dock/train` 0.75 there instead of 0.65 takes away 12 of 17 readings
/// of false persons and misses one person more; 0.65 instead of 0.6 takes away forklifts that were read where none stood.
pub fn least_score(class: &ClassName, closer: bool) -> f32 {
    match (class.as_str() == "person", closer) {
        (true, false) => 0.65,
        (true, true) => 0.75,
        (false, false) => 0.6,
        (false, true) => 0.65,
    }
}
/// Below the lowest cell of a column, this many cells further down, floor must be seen for the outline to count as
/// the thing's own: half a patch, since a boundary between two patches is that soft.
const FLOOR_GAP_CELLS: usize = 2;

/// Where a person may be, though the cells look more like something else: the probability and the number of cells that
/// are worth a closer look.
const SUSPECT_PROBABILITY: f32 = 0.2;
/// See there.
const SUSPECT_CELLS: usize = 2;

/// Reads the decoder's logits.
#[derive(Debug)]
pub struct SegmentHead {
    wanted: Vec<(usize, ClassName)>,
    /// The class of which a mere suspicion counts, when only closer looks are planned.
    suspected: Option<usize>,
    ground: Vec<usize>,
    cells: Vec<f32>,
}

impl SegmentHead {
    /// `classes` are the outputs' classes in order, `wanted` those that become things (unknown ones are refused).
    /// The classes named `floor` and `dock_edge` are what things stand on.
    ///
    /// # Errors
    /// Another number of classes than the decoder has, or a wanted class that it does not know.
    pub fn new(classes: &[String], wanted: &[ClassName]) -> Result<Self, HeadError> {
        if classes.len() != CLASSES {
            let problem = format!("it has {} classes instead of {CLASSES}", classes.len());
            return Err(HeadError::File { name: decoder::NAME.to_owned(), problem });
        }
        let mut found = Vec::new();
        for class in wanted {
            let index = classes.iter().position(|c| c == class.as_str()).ok_or_else(|| HeadError::File {
                name: "segment".to_owned(),
                problem: format!("it has no class '{class}', only {}", classes.join(", ")),
            })?;
            found.push((index, class.clone()));
        }
        let ground =
            (0..classes.len()).filter(|i| matches!(classes[*i].as_str(), "floor" | "dock_edge")).collect();
        Ok(Self { wanted: found, suspected: None, ground, cells: Vec::new() })
    }

    /// The same for planning closer looks: where a person may be is a thing, too.
    pub fn scout(mut self) -> Self {
        self.suspected = self.wanted.iter().find(|(_, class)| class.as_str() == "person").map(|(i, _)| *i);
        self
    }
}

/// Share of the softmax that falls to some classes.
fn probability(logits: &[f32], of: &[usize]) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|l| (l - top).exp()).sum();
    of.iter().map(|i| (logits[*i] - top).exp()).sum::<f32>() / total
}

fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, l) in logits.iter().enumerate() {
        if *l > logits[best] {
            best = i;
        }
    }
    best
}

/// The part of the cell grid that lies in the picture and not in its padding: columns and rows from (inclusive) to
/// (exclusive). A cell counts when its centre does.
pub fn picture_cells(transform: &PixelTransform, grid: Grid) -> (usize, usize, usize, usize) {
    let cell = grid.patch_px as f64 / CELLS_PER_PATCH as f64;
    let [x0, y0] = transform.input_from_source([0.0, 0.0]);
    let [x1, y1] =
        transform.input_from_source([f64::from(transform.source_width), f64::from(transform.source_height)]);
    let first = |edge: f64| (edge / cell - 0.5).ceil().max(0.0) as usize;
    let end = |edge: f64, n: usize| ((edge / cell - 0.5).floor() as usize + 1).min(n);
    (first(x0), first(y0), end(x1, grid.cols * CELLS_PER_PATCH), end(y1, grid.rows * CELLS_PER_PATCH))
}

impl Head for SegmentHead {
    fn name(&self) -> &str {
        "segment"
    }

    fn looks_closer(&self) -> bool {
        true
    }

    fn apply(&mut self, features: &Features, scene: &mut Scene) -> Result<(), HeadError> {
        let n = CLASSES;
        let grid = features.grid;
        decoder::cells(decoder::of(features)?, grid, &mut self.cells);
        let (width, height) = (grid.cols * CELLS_PER_PATCH, grid.rows * CELLS_PER_PATCH);
        // By patch, the mean of its cells.
        scene.floor = vec![0.0; grid.len()];
        for (i, cell) in self.cells.chunks_exact(n).enumerate() {
            let (row, col) = (i / width / CELLS_PER_PATCH, i % width / CELLS_PER_PATCH);
            scene.floor[row * grid.cols + col] += probability(cell, &self.ground) / decoder::CELLS as f32;
        }

        let (x0, y0, x1, y1) = picture_cells(&features.transform, grid);
        // Class of each cell, 255 outside of the picture.
        let mut labels = vec![255u8; width * height];
        for y in y0..y1 {
            for x in x0..x1 {
                let i = y * width + x;
                let logits = &self.cells[i * n..(i + 1) * n];
                let suspected = self.suspected.filter(|s| probability(logits, &[*s]) >= SUSPECT_PROBABILITY);
                labels[i] = suspected.unwrap_or_else(|| argmax(logits)) as u8;
            }
        }
        let mut stack = Vec::new();
        for start in 0..labels.len() {
            let Some((index, class)) = self.wanted.iter().find(|(i, _)| *i == usize::from(labels[start]))
            else {
                continue;
            };
            let own = labels[start];
            let mut component = Vec::new();
            stack.push(start);
            labels[start] = 254;
            while let Some(i) = stack.pop() {
                component.push(i);
                let (x, y) = (i % width, i / width);
                for ny in y.saturating_sub(1)..=(y + 1).min(height - 1) {
                    for nx in x.saturating_sub(1)..=(x + 1).min(width - 1) {
                        let j = ny * width + nx;
                        if labels[j] == own {
                            labels[j] = 254;
                            stack.push(j);
                        }
                    }
                }
            }
            let suspected = self.suspected == Some(*index);
            if component.len() < if suspected { SUSPECT_CELLS } else { least_cells(class) } {
                continue;
            }
            let of = [*index];
            let sum: f32 = component.iter().map(|i| probability(&self.cells[i * n..(i + 1) * n], &of)).sum();
            let score = sum / component.len() as f32;
            if !suspected && score < least_score(class, features.transform.is_part()) {
                continue;
            }
            let left = component.iter().map(|i| i % width).min().unwrap_or(0);
            let right = component.iter().map(|i| i % width).max().unwrap_or(0);
            let top = component.iter().map(|i| i / width).min().unwrap_or(0);
            let bottom = component.iter().map(|i| i / width).max().unwrap_or(0);
            let (w, h) = (right - left + 1, bottom - top + 1);
            let mut cells = vec![false; w * h];
            for i in &component {
                cells[(i / width - top) * w + i % width - left] = true;
            }
            let meets_floor = (0..w)
                .map(|x| {
                    let low = (0..h).rev().find(|y| cells[y * w + x]);
                    low.is_some_and(|y| {
                        let below = top + y + FLOOR_GAP_CELLS;
                        let i = below * width + left + x;
                        below < y1 && probability(&self.cells[i * n..(i + 1) * n], &self.ground) > 0.5
                    })
                })
                .collect();
            scene.things.push(Thing {
                class: class.clone(),
                score,
                mask: Mask {
                    cell_px: features.grid.patch_px as f64 / CELLS_PER_PATCH as f64,
                    left,
                    top,
                    width: w,
                    height: h,
                    cells,
                },
                meets_floor,
                votes: Vec::new(),
                transform: features.transform,
                cut: Cut {
                    left: left <= x0,
                    top: top <= y0,
                    right: right + 1 >= x1,
                    bottom: bottom + 1 >= y1,
                },
            });
        }
        Ok(())
    }
}

/// How much of each patch of the grid a mask covers, 0 to 1: `(col, row, cover)` for patches that it touches.
pub fn cover(mask: &Mask) -> Vec<(usize, usize, f32)> {
    let (c0, r0) = (mask.left / CELLS_PER_PATCH, mask.top / CELLS_PER_PATCH);
    let (c1, r1) = (
        (mask.left + mask.width).div_ceil(CELLS_PER_PATCH),
        (mask.top + mask.height).div_ceil(CELLS_PER_PATCH),
    );
    let (w, h) = (c1 - c0, r1 - r0);
    let mut counts = vec![0u32; w * h];
    for y in 0..mask.height {
        for x in 0..mask.width {
            if mask.cells[y * mask.width + x] {
                let (c, r) = ((mask.left + x) / CELLS_PER_PATCH - c0, (mask.top + y) / CELLS_PER_PATCH - r0);
                counts[r * w + c] += 1;
            }
        }
    }
    let full = (CELLS_PER_PATCH * CELLS_PER_PATCH) as f32;
    counts
        .iter()
        .enumerate()
        .filter(|(_, n)| **n > 0)
        .map(|(i, n)| (c0 + i % w, r0 + i / w, *n as f32 / full))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{features_with, names};
    use super::*;

    /// The decoder's output where `class_of(col, row)` of each patch is clearly on top.
    fn decoded(grid: Grid, class_of: impl Fn(usize, usize) -> usize) -> Vec<f32> {
        let mut values = vec![0.0; grid.len() * decoder::CHANNELS];
        for (i, patch) in values.chunks_exact_mut(decoder::CHANNELS).enumerate() {
            let class = class_of(i % grid.cols, i / grid.cols);
            patch[..decoder::LOGITS].chunks_exact_mut(CLASSES).for_each(|cell| cell[class] = 6.0);
        }
        values
    }

    fn classes() -> Vec<String> {
        let names = ["background", "floor", "forklift", "person", "a", "b", "c", "d", "e"];
        names.map(str::to_owned).to_vec()
    }

    fn run(class_of: impl Fn(usize, usize) -> usize) -> Scene {
        let classes = classes();
        let grid = Grid { rows: 8, cols: 10, patch_px: 14 };
        let features = features_with(grid, decoder::NAME, decoder::CHANNELS, decoded(grid, class_of));
        let mut scene = super::super::empty_scene(&features);
        let mut head = SegmentHead::new(&classes, &names(&["forklift", "person"])).unwrap();
        head.apply(&features, &mut scene).unwrap();
        scene
    }

    #[test]
    fn two_apart_are_two_things_and_the_cut_one_says_so() {
        let scene = run(|c, r| match (c, r) {
            (1..=2, 2..=4) | (8..=9, 3..=4) => 2,
            (5, 2..=3) => 3,
            _ => 1,
        });
        let forklifts: Vec<_> = scene.things.iter().filter(|t| t.class.as_str() == "forklift").collect();
        assert_eq!(scene.things.len(), 3);
        assert_eq!(forklifts.len(), 2);
        assert!(!forklifts.iter().all(|t| t.cut.any()) && forklifts.iter().any(|t| t.cut.right));
        let whole = forklifts.iter().find(|t| !t.cut.any()).unwrap();
        // Equal logits halfway between patch centres put the boundary on the patches' edge: 2 x 3 patches.
        assert_eq!((whole.mask.left, whole.mask.top, whole.mask.width, whole.mask.height), (4, 8, 8, 12));
        assert!(whole.score > 0.7 && whole.meets_floor.iter().all(|f| *f));
        assert!(scene.floor[0] > 0.9 && scene.floor[3 * 10 + 1] < 0.1);
    }

    #[test]
    fn an_outline_above_something_else_is_not_its_own() {
        let scene = run(|c, r| match (c, r) {
            (2..=4, 2..=3) => 2,
            (2..=4, 4..=5) => 0,
            _ => 1,
        });
        assert!(scene.things[0].meets_floor[3..9].iter().all(|f| !f));
    }

    #[test]
    fn an_unsure_thing_is_not_believed() {
        let grid = Grid { rows: 8, cols: 10, patch_px: 14 };
        let things = |sure: f32, larger: f64| {
            let mut values = decoded(grid, |_, _| 1);
            for row in 3..=4 {
                let patch = &mut values[(row * 10 + 5) * decoder::CHANNELS..][..decoder::LOGITS];
                patch.chunks_exact_mut(CLASSES).for_each(|cell| {
                    cell.fill(0.0);
                    cell[3] = sure;
                });
            }
            let mut features = features_with(grid, decoder::NAME, decoder::CHANNELS, values);
            features.transform.scale_x *= larger;
            features.transform.scale_y *= larger;
            let mut scene = super::super::empty_scene(&features);
            let mut head = SegmentHead::new(&classes(), &names(&["person"])).unwrap();
            head.apply(&features, &mut scene).unwrap();
            scene.things.len()
        };
        // Of nine classes with the others at 0: e^2.3 / (e^2.3 + 8) = 0.55, e^3 / (e^3 + 8) = 0.72.
        assert_eq!((things(2.3, 1.0), things(3.0, 1.0)), (0, 1));
        // A closer look must be surer: e^3.4 / (e^3.4 + 8) = 0.79.
        assert_eq!((things(3.0, 2.0), things(3.4, 2.0)), (0, 1));
    }

    #[test]
    fn padding_is_not_picture() {
        let grid = Grid { rows: 8, cols: 10, patch_px: 14 };
        let transform = PixelTransform {
            source_width: 280,
            source_height: 200,
            input_width: 140,
            input_height: 112,
            scale_x: 0.5,
            scale_y: 0.5,
            offset_x: 0.0,
            offset_y: 6.0,
        };
        // 6 px of padding: cells 0 (centre 1.75) and 1 (5.25) are outside, cell 2 (8.75) is inside.
        assert_eq!(picture_cells(&transform, grid), (0, 2, 40, 30));
    }

    #[test]
    fn cover_counts_cells() {
        let mask = Mask { cell_px: 3.5, left: 3, top: 4, width: 3, height: 4, cells: vec![true; 12] };
        assert_eq!(cover(&mask), vec![(0, 1, 0.25), (1, 1, 0.5)]);
    }

    #[test]
    fn unknown_class_is_refused() {
        let error = SegmentHead::new(&classes(), &names(&["crane"])).unwrap_err().to_string();
        assert!(error.contains("no class 'crane'"));
    }
}
