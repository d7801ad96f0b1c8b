//! Depth: 256 bins over the logarithm of the depth, whose mean and spread the graph already gives.

use crate::types::{DepthMap, DepthUnit, Features, Scene};

use super::{Head, HeadError};

/// Reads the graph output `depth`: mean and standard deviation of the logarithm of the depth in metres.
#[derive(Debug, Default)]
pub struct DepthHead;

impl Head for DepthHead {
    fn name(&self) -> &str {
        "depth"
    }

    fn apply(&mut self, features: &Features, scene: &mut Scene) -> Result<(), HeadError> {
        let dense = super::dense(features, "depth", 2)?;
        scene.depth = Some(DepthMap {
            values: dense.chunks_exact(2).map(|v| v[0].exp()).collect(),
            unit: DepthUnit::Metres,
            log_sigma: dense.chunks_exact(2).map(|v| v[1]).collect(),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::features_with;
    use super::*;
    use crate::types::Grid;

    #[test]
    fn logarithms_become_metres() {
        let grid = Grid { rows: 1, cols: 2, patch_px: 14 };
        let features = features_with(grid, "depth", 2, vec![0.0, 0.1, 10f32.ln(), 0.2]);
        let mut scene = super::super::empty_scene(&features);
        DepthHead.apply(&features, &mut scene).unwrap();
        let depth = scene.depth.unwrap();
        assert!((depth.values[0] - 1.0).abs() < 1e-6 && (depth.values[1] - 10.0).abs() < 1e-4);
        assert_eq!(depth.log_sigma, vec![0.1, 0.2]);
        let features = features_with(grid, "depth", 3, vec![0.0; 6]);
        assert!(matches!(DepthHead.apply(&features, &mut scene_of(&features)), Err(HeadError::Shape { .. })));
    }

    fn scene_of(features: &Features) -> Scene {
        super::super::empty_scene(features)
    }
}
