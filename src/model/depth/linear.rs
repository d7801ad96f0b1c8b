//! The published linear heads: one linear map over the patch and CLS tokens of one or four blocks, bilinearly four
//! times as fine, then 256 uniform bins whose weights are `relu(logit) + 0.1`, brought to a sum of 1.

use super::layers::{self, Conv, Corners};
use crate::model::builder::{GraphBuilder, Value};
use crate::model::dinov2::Backbone;
use crate::model::weights::{Linear, Taker, Tensor, WeightsError};
use crate::types::Grid;

/// Bins.
const BINS: usize = 256;
/// What every bin's weight is at least, before they are brought to a sum of 1.
const LEAST_WEIGHT: f32 = 0.1;
/// How much finer than the patches the bins are.
const FINER: usize = 4;
/// Widths of DINOv2's tokens.
const DIMS: [usize; 4] = [384, 768, 1024, 1536];
const WEIGHT: &str = "decode_head.conv_depth.weight";

/// Weight `[bins, inputs]`; the inputs of each block are its patch token, then its CLS token.
#[derive(Clone)]
pub(super) struct LinearBins {
    weight: Tensor,
    bias: Tensor,
}

impl LinearBins {
    pub fn take(taker: &mut Taker) -> Result<Self, WeightsError> {
        let found = taker.tensors.get(WEIGHT).map(|tensor| tensor.shape.clone());
        let inputs = found.as_ref().and_then(|shape| shape.get(1).copied());
        let inputs = inputs.filter(|inputs| DIMS.iter().any(|dim| blocks(*inputs, *dim).is_some()));
        // The shapes of ViT-S stand for all where none fits.
        let shape = [BINS, inputs.unwrap_or(8 * DIMS[0]), 1, 1];
        let mut weight = taker.take(WEIGHT, &shape)?;
        weight.shape.truncate(2);
        Ok(Self { weight, bias: taker.take("decode_head.conv_depth.bias", &[BINS])? })
    }

    /// Blocks that it reads of a backbone with tokens of that width: the last one, or all four that are tapped.
    pub fn blocks(&self, dim: usize) -> Option<usize> {
        blocks(self.weight.shape[1], dim)
    }

    /// The tokens that it can be for.
    pub fn made_for(&self) -> String {
        let fits = DIMS.iter().filter(|dim| self.blocks(**dim).is_some()).map(ToString::to_string);
        format!("tokens {} wide", fits.collect::<Vec<_>>().join(" or "))
    }

    /// Metres at each patch's centre.
    pub fn write(
        &self,
        g: &mut GraphBuilder,
        net: &Backbone,
        dim: usize,
        grid: Grid,
        [min_m, max_m]: [f32; 2],
    ) -> Value {
        let all = net.taps.len();
        // Another width was refused before.
        let blocks = self.blocks(dim).unwrap_or(all);
        let width = self.weight.shape[1] / blocks;
        let logits = (0..blocks).map(|block| {
            let rows = self.weight.values.chunks_exact(self.weight.shape[1]);
            let values = rows.flat_map(|row| &row[block * width..][..width]).copied().collect();
            let weight = Tensor { shape: vec![BINS, width], values };
            let bias = if block == 0 { self.bias.values.clone() } else { vec![0.0; BINS] };
            let bias = Tensor { shape: vec![BINS], values: bias };
            layers::joined(g, &format!("block{block}"), net, all - blocks + block, &Linear { weight, bias })
        });
        let logits: Vec<Value> = logits.collect();
        let mut sum = logits[0].clone();
        for more in &logits[1..] {
            sum = g.add(&sum, more);
        }
        let map = layers::map(g, &sum, BINS, grid);
        let size = [FINER * grid.rows, FINER * grid.cols];
        // The original makes the tokens finer, not the logits: a linear map comes to the same on either side.
        let fine = layers::resize(g, &map, BINS, size, Corners::OfCells);
        let positive = layers::relu(g, &fine);
        let least = g.floats("least", &[], &[LEAST_WEIGHT]);
        let weights = g.add(&positive, &least);
        let depth = |bin: usize| min_m + (max_m - min_m) * bin as f32 / (BINS - 1) as f32;
        let sums: Vec<f32> = (0..BINS).map(depth).chain(std::iter::repeat_n(1.0, BINS)).collect();
        let sums = Conv { weight: Tensor { shape: vec![2, BINS, 1, 1], values: sums }, bias: None };
        let sums = sums.same(g, "bins", &weights, 1);
        let [weighted, total] = g.split(&sums, 1);
        let depth = g.node("Div", "mean", &[&weighted, &total], vec![]);
        layers::at_patches(g, &depth, [min_m, max_m], grid)
    }
}

fn blocks(inputs: usize, dim: usize) -> Option<usize> {
    [1, 4].into_iter().find(|blocks| inputs == 2 * dim * blocks)
}
