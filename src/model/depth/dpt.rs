//! The published DPT heads (Ranftl et al. 2021, arXiv 2103.13413): the tokens of four blocks become maps of 4, 2, 1 and
//! 1/2 cells a patch, which are joined from the coarsest on; the last map has 16 cells a patch.

use super::layers::{self, Conv, Corners};
use crate::model::builder::{GraphBuilder, Value};
use crate::model::dinov2::Backbone;
use crate::model::weights::{Linear, Taker, WeightsError};
use crate::types::Grid;

/// Channels of the maps that are joined.
const CHANNELS: usize = 256;
/// Widths of DINOv2's tokens.
const DIMS: [usize; 4] = [384, 768, 1024, 1536];
const READOUT: &str = "decode_head.reassemble_blocks.readout_projects";

/// The head of a backbone with tokens `dim` wide.
#[derive(Clone)]
pub(super) struct Dpt {
    pub dim: usize,
    levels: Vec<Level>,
    /// From the coarsest level to the finest.
    fusions: Vec<Fusion>,
    project: Conv,
    depth: [Conv; 3],
}

/// What makes a map of the tokens of a block.
#[derive(Clone)]
struct Level {
    readout: Linear,
    project: Conv,
    resize: Option<Conv>,
    conv: Conv,
}

/// What joins a map with the coarser ones.
#[derive(Clone)]
struct Fusion {
    /// Of the map; the coarsest has nothing to be joined with.
    first: Option<[Conv; 2]>,
    /// Of the sum.
    second: [Conv; 2],
    project: Conv,
}

impl Dpt {
    pub fn take(taker: &mut Taker) -> Result<Self, WeightsError> {
        let width =
            taker.tensors.get(&format!("{READOUT}.0.0.bias")).and_then(|bias| bias.shape.first().copied());
        // The shapes of ViT-S stand for all where none fits.
        let dim = width.filter(|width| DIMS.contains(width)).unwrap_or(DIMS[0]);
        let levels = (0..4).map(|i| Level::take(taker, i, dim)).collect::<Result<_, _>>()?;
        let fusions = (0..4).map(|i| Fusion::take(taker, i)).collect::<Result<_, _>>()?;
        let mut conv = |name: &str, outputs, inputs, side| {
            Conv::take(taker, &format!("decode_head.{name}"), [outputs, inputs, side, side], true)
        };
        Ok(Self {
            dim,
            levels,
            fusions,
            project: conv("project.conv", CHANNELS, CHANNELS, 3)?,
            depth: [
                conv("conv_depth.head.0", CHANNELS / 2, CHANNELS, 3)?,
                conv("conv_depth.head.2", 32, CHANNELS / 2, 3)?,
                conv("conv_depth.head.4", 1, 32, 1)?,
            ],
        })
    }

    /// Metres at each patch's centre.
    pub fn write(&self, g: &mut GraphBuilder, net: &Backbone, grid: Grid, [min_m, max_m]: [f32; 2]) -> Value {
        let maps: Vec<(Value, [usize; 2])> = (self.levels.iter().enumerate())
            .map(|(i, level)| g.scope(&format!("level{i}"), |g| level.write(g, net, i, grid)))
            .collect();
        let (mut sum, mut size) = (None, [0, 0]);
        for (i, (fusion, (map, own))) in self.fusions.iter().zip(maps.iter().rev()).enumerate() {
            size = if i == 0 { *own } else { size };
            let joined = g.scope(&format!("fusion{i}"), |g| fusion.write(g, sum.as_ref(), size, (map, *own)));
            size = size.map(|side| 2 * side);
            sum = Some(joined);
        }
        // There are four fusions.
        let x = sum.unwrap_or_else(|| maps[0].0.clone());
        let x = self.project.same(g, "project", &x, 1);
        let x = layers::relu(g, &x);
        let x = self.depth[0].same(g, "depth0", &x, 1);
        let x = layers::resize(g, &x, CHANNELS / 2, size.map(|side| 2 * side), Corners::OfCentres);
        let x = self.depth[1].same(g, "depth1", &x, 1);
        let x = layers::relu(g, &x);
        let x = self.depth[2].same(g, "depth2", &x, 1);
        let x = layers::relu(g, &x);
        let least = g.floats("least", &[], &[min_m]);
        let depth = g.add(&x, &least);
        layers::at_patches(g, &depth, [min_m, max_m], grid)
    }
}

impl Level {
    fn take(taker: &mut Taker, i: usize, dim: usize) -> Result<Self, WeightsError> {
        let blocks = "decode_head.reassemble_blocks";
        let channels = dim >> (3 - i);
        let resize = match i {
            0 => Some(4),
            1 => Some(2),
            2 => None,
            _ => Some(3),
        };
        let name = format!("{blocks}.resize_layers.{i}");
        let resize = resize.map(|side| Conv::take(taker, &name, [channels, channels, side, side], true));
        let project = format!("{blocks}.projects.{i}.conv");
        Ok(Self {
            readout: Linear {
                weight: taker.take(&format!("{READOUT}.{i}.0.weight"), &[dim, 2 * dim])?,
                bias: taker.take(&format!("{READOUT}.{i}.0.bias"), &[dim])?,
            },
            project: Conv::take(taker, &project, [channels, dim, 1, 1], true)?,
            resize: resize.transpose()?,
            conv: Conv::take(
                taker,
                &format!("decode_head.convs.{i}.conv"),
                [CHANNELS, channels, 3, 3],
                false,
            )?,
        })
    }

    /// The map and its rows and columns.
    fn write(&self, g: &mut GraphBuilder, net: &Backbone, i: usize, grid: Grid) -> (Value, [usize; 2]) {
        let tokens = layers::joined(g, "readout", net, i, &self.readout);
        let tokens = g.gelu_full(&tokens);
        let x = layers::map(g, &tokens, self.readout.bias.values.len(), grid);
        let x = self.project.same(g, "project", &x, 1);
        let size = [grid.rows, grid.cols];
        let (x, size) = match &self.resize {
            None => (x, size),
            Some(conv) if i == 3 => (conv.same(g, "resize", &x, 2), size.map(|side| side.div_ceil(2))),
            Some(conv) => (conv.enlarge(g, "resize", &x), size.map(|side| side * conv.weight.shape[2])),
        };
        (self.conv.same(g, "conv", &x, 1), size)
    }
}

impl Fusion {
    fn take(taker: &mut Taker, i: usize) -> Result<Self, WeightsError> {
        let at = format!("decode_head.fusion_blocks.{i}");
        let mut unit = |which: usize| -> Result<[Conv; 2], WeightsError> {
            let mut conv = |n: usize| {
                let name = format!("{at}.res_conv_unit{which}.conv{n}.conv");
                Conv::take(taker, &name, [CHANNELS, CHANNELS, 3, 3], false)
            };
            Ok([conv(1)?, conv(2)?])
        };
        let first = (i > 0).then(|| unit(1)).transpose()?;
        let second = unit(2)?;
        let project = Conv::take(taker, &format!("{at}.project.conv"), [CHANNELS, CHANNELS, 1, 1], true)?;
        Ok(Self { first, second, project })
    }

    /// Joins what comes from the coarser levels, of `size`, with this level's map, and doubles the size.
    fn write(
        &self,
        g: &mut GraphBuilder,
        coarser: Option<&Value>,
        size: [usize; 2],
        (map, own): (&Value, [usize; 2]),
    ) -> Value {
        let x = match (coarser, &self.first) {
            (Some(coarser), Some(unit)) => {
                let map = if own == size {
                    map.clone()
                } else {
                    layers::resize(g, map, CHANNELS, size, Corners::OfCells)
                };
                let map = g.scope("unit1", |g| residual(g, unit, &map));
                g.add(coarser, &map)
            }
            _ => map.clone(),
        };
        let x = g.scope("unit2", |g| residual(g, &self.second, &x));
        let x = layers::resize(g, &x, CHANNELS, size.map(|side| 2 * side), Corners::OfCentres);
        self.project.same(g, "project", &x, 1)
    }
}

/// `x + conv2(relu(conv1(relu(x))))`.
fn residual(g: &mut GraphBuilder, unit: &[Conv; 2], x: &Value) -> Value {
    let mut y = x.clone();
    for (i, conv) in unit.iter().enumerate() {
        y = layers::relu(g, &y);
        y = conv.same(g, &format!("conv{i}"), &y, 1);
    }
    g.add(x, &y)
}
