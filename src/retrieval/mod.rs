//! What frames and things look like, kept and found again: pooling the backbone's tokens to one vector, the file that
//! keeps the vectors of an incident, the search among them, and which frames of many are worth a label. Pure: no clock,
//! no I/O, no threads.

pub mod curate;
pub mod gallery;
pub mod record;

pub use gallery::{Gallery, Hit, Probe};
pub use record::{About, Record, RecordError, ThingRecord};

use crate::types::{Appearance, Features, Grid, PixelTransform, Scene, Thing};

/// The tapped blocks that a thing is known by: the first and the second quarter of the backbone, added. They still hold
/// colour and pattern, which the last blocks give up for the class. `cargo test --release --test retrieval` says what
/// the others reach.
pub const TAPS: [usize; 2] = [0, 1];

/// The embeddings of a frame and of the things that the heads saw in it.
pub fn appearance(features: &Features, scene: &Scene) -> Appearance {
    let mut frame = features.cls.clone();
    to_unit(&mut frame);
    let things = scene.things.iter().map(|thing| {
        let weights = weights(thing, &features.transform, features.grid);
        pooled(features, &weights, &TAPS).unwrap_or_default()
    });
    Appearance { frame, things: things.collect() }
}

/// What the patches of these weights (one a patch) look like together: of each tap the mean of the tokens, each scaled
/// to length 1; the sum over the taps, then the root of every value with its sign kept, scaled to length 1. The root
/// keeps the few channels that are large in every token from deciding alone (Perronnin, Sanchez and Mensink, ECCV 2010).
///
/// None when the backend gave no such tokens or no patch has a weight.
pub fn pooled(features: &Features, weights: &[f32], taps: &[usize]) -> Option<Vec<f32>> {
    let (dim, patches) = (features.dim, features.grid.len());
    let mut sum = vec![0.0f32; dim];
    let mut any = false;
    for tap in taps {
        let layer = features.layers.get(*tap).filter(|layer| dim > 0 && layer.len() == patches * dim)?;
        let mut mean = vec![0.0f32; dim];
        for (token, weight) in layer.chunks_exact(dim).zip(weights).filter(|(_, weight)| **weight > 0.0) {
            let scale = weight / length(token).max(1e-12);
            mean.iter_mut().zip(token).for_each(|(m, v)| *m += scale * v);
            any = true;
        }
        to_unit(&mut mean);
        sum.iter_mut().zip(&mean).for_each(|(s, m)| *s += m);
    }
    sum.iter_mut().for_each(|v| *v = v.signum() * v.abs().sqrt());
    to_unit(&mut sum);
    any.then_some(sum)
}

/// How much of each patch of the frame a thing's mask covers, in cells. The mask may be of a closer look.
fn weights(thing: &Thing, frame: &PixelTransform, grid: Grid) -> Vec<f32> {
    let mut weights = vec![0.0; grid.len()];
    let mask = &thing.mask;
    let middle = |cell: usize| (cell as f64 + 0.5) * mask.cell_px;
    for (at, _) in mask.cells.iter().enumerate().filter(|(_, cell)| **cell) {
        let cell = [middle(mask.left + at % mask.width), middle(mask.top + at / mask.width)];
        let [x, y] = frame.input_from_source(thing.transform.source_from_input(cell));
        let patch = |px: f64, sides: usize| {
            let patch = px / grid.patch_px.max(1) as f64;
            (patch >= 0.0 && patch < sides as f64).then_some(patch as usize)
        };
        if let (Some(row), Some(col)) = (patch(y, grid.rows), patch(x, grid.cols)) {
            weights[row * grid.cols + col] += 1.0;
        }
    }
    weights
}

fn length(values: &[f32]) -> f32 {
    values.iter().map(|v| v * v).sum::<f32>().sqrt()
}

/// Scales to length 1; what is all zero stays so.
pub fn to_unit(values: &mut [f32]) {
    let length = length(values).max(1e-12);
    values.iter_mut().for_each(|v| *v /= length);
}

/// The scalar product of two vectors of one length.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Sixteen sums that do not wait for each other, so that the compiler may use wide registers.
    let mut sums = [0.0f32; 16];
    let (a_wide, b_wide) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_wide.remainder().iter().zip(b_wide.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_wide.zip(b_wide) {
        sums.iter_mut().zip(x).zip(y).for_each(|((sum, x), y)| *sum += x * y);
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock::{Timestamp, UtcMillis};
    use crate::types::{
        CameraId, ChromaSiting, ClassName, ColorMatrix, ColorRange, Cut, Frame, Mask, PixelFormat, Pixels,
        StageTimes, Thing, Trust,
    };

    const GRID: Grid = Grid { rows: 1, cols: 2, patch_px: 14 };

    fn features(layers: Vec<Vec<f32>>) -> Features {
        let at = Timestamp::default();
        let frame = Frame {
            camera: CameraId::new("dock").unwrap(),
            seq: 0,
            captured: at,
            captured_utc: UtcMillis(0),
            arrived: at,
            width: 28,
            height: 14,
            pixels: Pixels::Host { format: PixelFormat::I420, data: bytes::Bytes::new(), planes: vec![] },
            matrix: ColorMatrix::Bt709,
            range: ColorRange::Limited,
            siting: ChromaSiting::MPEG2,
        };
        let transform = PixelTransform {
            source_width: 28,
            source_height: 14,
            input_width: 28,
            input_height: 14,
            scale_x: 1.0,
            scale_y: 1.0,
            offset_x: 0.0,
            offset_y: 0.0,
        };
        let times = StageTimes::default();
        let dense = BTreeMap::new();
        Features {
            frame,
            transform,
            grid: GRID,
            dim: 2,
            layers,
            cls: vec![3.0, -4.0],
            dense,
            times,
            closer: vec![],
        }
    }

    fn scene(features: &Features, mask: Mask) -> Scene {
        let thing = Thing {
            class: ClassName::new("car").unwrap(),
            score: 1.0,
            transform: features.transform,
            mask,
            meets_floor: vec![],
            votes: vec![],
            cut: Cut::default(),
        };
        Scene {
            camera: features.frame.camera.clone(),
            seq: 0,
            captured: features.frame.captured,
            captured_utc: UtcMillis(0),
            transform: features.transform,
            things: vec![thing],
            grid: GRID,
            floor: vec![],
            depth: None,
            states: vec![],
            trust: Trust::Trusted,
        }
    }

    /// Four cells a patch, of which the right patch has three and the left one one.
    fn mask() -> Mask {
        let cells = [false, true, true, true].repeat(2);
        Mask { cell_px: 7.0, left: 0, top: 0, width: 4, height: 2, cells }
    }

    fn close(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
    }

    #[test]
    fn a_thing_is_the_mean_of_its_patches_by_cover() {
        // Lengths do not count: (10, 0) is (1, 0). Weights 2 and 4 of the mask's cells.
        let tap = vec![10.0, 0.0, 0.0, -1.0];
        let features = features(vec![tap.clone(), tap]);
        let got = appearance(&features, &scene(&features, mask()));
        assert!(close(&got.frame, &[0.6, -0.8]), "{:?}", got.frame);
        // The mean is (1, -2) but for its length; roots with sign, scaled: (1, -1.41421) / 1.73205.
        assert!(close(&got.things[0], &[0.57735, -0.81650]), "{:?}", got.things);
    }

    #[test]
    fn a_mask_of_a_closer_look_covers_the_frames_patches() {
        // Four times as large in the look: the same cells lie in the right patch only, beyond its middle.
        let features = features(vec![vec![1.0; 4], vec![1.0; 4]]);
        let mut thing = scene(&features, mask()).things.remove(0);
        let look = PixelTransform { scale_x: 4.0, scale_y: 4.0, offset_x: -80.0, ..features.transform };
        thing.transform = look;
        assert_eq!(weights(&thing, &features.transform, GRID), [0.0, 6.0]);
    }

    #[test]
    fn without_tokens_or_patches_there_is_nothing() {
        let none = features(vec![]);
        assert_eq!(appearance(&none, &scene(&none, mask())).things, [Vec::<f32>::new()]);
        let some = features(vec![vec![1.0; 4], vec![1.0; 4]]);
        let far = Mask { left: 40, ..mask() };
        assert_eq!(appearance(&some, &scene(&some, far)).things, [Vec::<f32>::new()]);
        assert_eq!(pooled(&some, &[1.0, 0.0], &[2]), None);
    }

    #[test]
    fn products_count_every_value() {
        let a: Vec<f32> = (0..35).map(|i| i as f32).collect();
        assert_eq!(dot(&a, &a), (0..35).map(|i| (i * i) as f32).sum::<f32>());
    }
}
