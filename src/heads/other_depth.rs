//! The heads where the depth may come from elsewhere than the shipped one: its place in the graph and on the host is
//! taken, the others stay.

use std::sync::Arc;

use crate::model::depth::DepthSource;
use crate::model::graph::{GraphHead, HeadTail};
use crate::types::{ClassName, DepthMap, DepthUnit, Features, Scene};

use super::{Head, HeadError, shipped};

/// Name of the dense output that depth comes in, whoever gives it.
pub const DEPTH: &str = "depth";

/// The heads that are part of the graph. A network of its own is none of them.
///
/// # Errors
/// A damaged shipped head.
pub fn graph_heads(depth: &DepthSource) -> Result<Vec<GraphHead>, HeadError> {
    let mut heads = shipped::graph_heads()?;
    let Some(at) = heads.iter().position(|head| head.name == DEPTH) else { return Ok(heads) };
    match depth {
        DepthSource::Shipped => {}
        DepthSource::Official(official) => {
            let tail = HeadTail::Official(Arc::clone(official));
            heads[at] =
                GraphHead { name: DEPTH.to_owned(), weight: vec![], bias: vec![], layers: vec![], tail };
        }
        DepthSource::Network(_) => {
            heads.remove(at);
        }
    }
    Ok(heads)
}

/// Their host part, in the order in which they must be applied. `wanted` are the classes that become things.
///
/// # Errors
/// A damaged shipped head, and a wanted class that the segmentation does not know.
pub fn heads(depth: &DepthSource, wanted: &[ClassName]) -> Result<Vec<Box<dyn Head>>, HeadError> {
    let mut heads = shipped::heads(wanted)?;
    let unit = match depth {
        DepthSource::Shipped => return Ok(heads),
        DepthSource::Official(_) => DepthUnit::Metres,
        DepthSource::Network(network) => network.unit,
    };
    for head in heads.iter_mut().filter(|head| head.name() == DEPTH) {
        *head = Box::new(OtherDepth { unit });
    }
    Ok(heads)
}

/// Reads a dense output of one value a patch.
#[derive(Debug)]
struct OtherDepth {
    unit: DepthUnit,
}

impl Head for OtherDepth {
    fn name(&self) -> &str {
        DEPTH
    }

    fn apply(&mut self, features: &Features, scene: &mut Scene) -> Result<(), HeadError> {
        let values = super::dense(features, DEPTH, 1)?.to_vec();
        scene.depth = Some(DepthMap { values, unit: self.unit, log_sigma: vec![] });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{features_with, names};
    use super::*;
    use crate::model::depth::DepthNetwork;
    use crate::types::Grid;

    fn network(unit: DepthUnit) -> DepthSource {
        let (input, output) = ("image".to_owned(), "depth".to_owned());
        DepthSource::Network(DepthNetwork { file: "d.onnx".into(), input, output, size: None, unit })
    }

    #[test]
    fn a_network_takes_the_place_of_the_shipped_head() {
        let names_of = |depth: &DepthSource| -> Vec<String> {
            graph_heads(depth).unwrap().into_iter().map(|head| head.name).collect()
        };
        let shipped = names_of(&DepthSource::Shipped);
        assert!(shipped.iter().any(|name| name == DEPTH));
        let without: Vec<String> = shipped.iter().filter(|name| *name != DEPTH).cloned().collect();
        assert_eq!(names_of(&network(DepthUnit::Inverse)), without);

        let grid = Grid { rows: 1, cols: 2, patch_px: 14 };
        let features = features_with(grid, DEPTH, 1, vec![3.0, 0.5]);
        let mut list = heads(&network(DepthUnit::Inverse), &names(&["person"])).unwrap();
        assert_eq!(list.len(), heads(&DepthSource::Shipped, &names(&["person"])).unwrap().len());
        let head = list.iter_mut().find(|head| head.name() == DEPTH).unwrap();
        let mut scene = super::super::empty_scene(&features);
        head.apply(&features, &mut scene).unwrap();
        let seen = DepthMap { values: vec![3.0, 0.5], unit: DepthUnit::Inverse, log_sigma: vec![] };
        assert_eq!(scene.depth, Some(seen));
    }
}
