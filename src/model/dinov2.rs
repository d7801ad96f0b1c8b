//! DINOv2 (Oquab et al. 2023, arXiv 2304.07193) as a graph: a pre-norm vision transformer (Dosovitskiy et al.
//! 2021) of patch 14 with layer scale, optionally with registers (Darcet et al. 2024), S, B, L or g.
//!
//! Two things are folded into weights, both exact in arithmetic: the scale of the queries, and layer scale into
//! the linear map before it.

use super::builder::{Dialect, GraphBuilder, Value};
use super::position::{Resampling, interpolate};
use super::weights::{Block, Ffn, HEAD_DIM, Linear, PATCH_PX, Tensor, Weights};
use crate::types::Grid;

/// What a backbone gives, for `batch` pictures, in 32 bits.
pub(super) struct Backbone {
    /// Patch tokens after four of the blocks, without the final norm, `[batch, rows * cols, dim]` each.
    pub taps: Vec<Value>,
    /// All tokens after these blocks, `[batch, 1 + registers + rows * cols, dim]`, in the floats of the layers.
    pub tapped: Vec<Value>,
    /// CLS token after the final norm, `[batch, dim]`.
    pub cls: Value,
    /// All tokens after the last block, without the final norm, `[batch, 1 + registers + rows * cols, dim]`, in the
    /// floats of the layers.
    pub last: Value,
}

/// The whole network: `pixels` is `[batch, 3, rows * 14, cols * 14]`, normalised.
pub(super) fn backbone(g: &mut GraphBuilder, weights: &Weights, pixels: &Value, grid: Grid) -> Backbone {
    let prefix = 1 + weights.registers();
    let mut x = g.scope("embed", |g| embed(g, weights, pixels, grid));
    let (mut taps, mut tapped) = (Vec::new(), Vec::new());
    for (i, block) in weights.blocks.iter().enumerate() {
        x = g.scope(&format!("blocks.{i}"), |g| transformer_block(g, block, weights.heads(), &x));
        if weights.taps().contains(&(i + 1)) {
            let tap = g.slice(&x, 1, prefix, prefix + grid.len());
            taps.push(g.to_full(&tap));
            tapped.push(x.clone());
        }
    }
    let cls = g.scope("cls", |g| {
        let cls = g.slice(&x, 1, 0, 1);
        let cls = g.reshape(&cls, &[0, -1]);
        let normed = g.layer_norm("norm", &cls, &weights.norm);
        g.to_full(&normed)
    });
    Backbone { taps, tapped, cls, last: x }
}

/// Patches to tokens, each with its place; CLS and registers in front. Registers have no place.
fn embed(g: &mut GraphBuilder, weights: &Weights, pixels: &Value, grid: Grid) -> Value {
    let patches = patch_embed(g, weights, pixels);
    let [cls_place, places] = position_embedding(weights, grid);
    let places = g.weight("places", &[1, grid.len(), weights.dim], &places);
    let patches = g.add(&patches, &places);

    let mut front = weights.cls_token.values.clone();
    front.iter_mut().zip(&cls_place).for_each(|(token, place)| *token += place);
    front.extend(weights.register_tokens.iter().flat_map(|tokens| &tokens.values));
    let front = g.weight("front", &[1, 1 + weights.registers(), weights.dim], &front);
    let front = repeat_for_batch(g, &front, pixels);
    g.concat(&[&front, &patches], 1)
}

/// One linear map of each 14 x 14 patch: `[batch, 3, H, W]` to `[batch, rows * cols, dim]`.
fn patch_embed(g: &mut GraphBuilder, weights: &Weights, pixels: &Value) -> Value {
    use super::onnx::AttributeProto;
    let weight = g.tensor("patch.weight", &weights.patch_embed.weight);
    let bias = g.tensor("patch.bias", &weights.patch_embed.bias);
    let side = [PATCH_PX as i64; 2];
    let attributes =
        vec![AttributeProto::ints("kernel_shape", &side), AttributeProto::ints("strides", &side)];
    let planes = g.node("Conv", "patch", &[pixels, &weight, &bias], attributes);
    let planes = g.reshape(&planes, &[0, weights.dim as i64, -1]);
    g.transpose(&planes, &[0, 2, 1])
}

/// The places of CLS and of the patches, `[1, dim]` and `[rows * cols, dim]`.
fn position_embedding(weights: &Weights, grid: Grid) -> [Vec<f32>; 2] {
    let (cls, trained) = weights.pos_embed.values.split_at(weights.dim);
    let resampling =
        if weights.registers() > 0 { Resampling::BicubicAntialiased } else { Resampling::Bicubic };
    let places = interpolate(trained, weights.pos_side, weights.dim, [grid.rows, grid.cols], resampling);
    [cls.to_vec(), places]
}

/// `[1, tokens, dim]` to `[batch, tokens, dim]`, the batch being that of `like`.
fn repeat_for_batch(g: &mut GraphBuilder, tokens: &Value, like: &Value) -> Value {
    use super::onnx::AttributeProto;
    let until = vec![AttributeProto::int("start", 0), AttributeProto::int("end", 1)];
    let batch = g.node("Shape", "batch", &[like], until);
    let ones = g.ints("ones", &[1, 1]);
    let shape = g.concat(&[&batch, &ones], 0);
    g.node("Expand", "expand", &[tokens, &shape], vec![])
}

/// `x += ls1 * attention(norm1(x))`, then `x += ls2 * ffn(norm2(x))`.
fn transformer_block(g: &mut GraphBuilder, block: &Block, heads: usize, x: &Value) -> Value {
    let normed = g.layer_norm("norm1", x, &block.norm1);
    let attended = g.scope("attn", |g| attention(g, block, heads, &normed));
    let x = g.add(x, &attended);
    let normed = g.layer_norm("norm2", &x, &block.norm2);
    let transformed = g.scope("mlp", |g| ffn(g, block, &normed));
    g.add(&x, &transformed)
}

/// Multi-head self-attention, `softmax(q k^T / sqrt d) v` in heads of width d = 64.
fn attention(g: &mut GraphBuilder, block: &Block, heads: usize, x: &Value) -> Value {
    let proj = scaled(&block.proj, &block.ls1.values);
    if g.dialect == Dialect::OnnxRuntime {
        let qkv = g.linear("qkv", x, &block.qkv);
        let [q, k, v] = g.split(&qkv, -1);
        let mixed = g.multi_head_attention([&q, &k, &v], heads);
        return g.linear("proj", &mixed, &proj);
    }
    let [q, k, v] = split_rows(&block.qkv);
    let q = scaled(&q, &vec![(HEAD_DIM as f32).sqrt().recip(); heads * HEAD_DIM]);
    let head_rows = |g: &mut GraphBuilder, name: &str, linear: &Linear| {
        let all = g.linear(name, x, linear);
        let by_head = g.reshape(&all, &[0, 0, heads as i64, HEAD_DIM as i64]);
        g.transpose(&by_head, &[0, 2, 1, 3])
    };
    let (q, k, v) = (head_rows(g, "q", &q), head_rows(g, "k", &k), head_rows(g, "v", &v));
    let k_columns = g.transpose(&k, &[0, 1, 3, 2]);
    let scores = g.matmul(&q, &k_columns);
    let scores = g.to_full(&scores);
    let weights = g.softmax(&scores);
    let weights = g.to_working(&weights);
    let mixed = g.matmul(&weights, &v);
    let mixed = g.transpose(&mixed, &[0, 2, 1, 3]);
    let mixed = g.reshape(&mixed, &[0, 0, (heads * HEAD_DIM) as i64]);
    g.linear("proj", &mixed, &proj)
}

/// The two-layer network of a block, its layer scale folded into the last map.
fn ffn(g: &mut GraphBuilder, block: &Block, x: &Value) -> Value {
    match &block.ffn {
        Ffn::Mlp { fc1, fc2 } => {
            let hidden = g.linear("fc1", x, fc1);
            let hidden = g.gelu(&hidden);
            g.linear("fc2", &hidden, &scaled(fc2, &block.ls2.values))
        }
        Ffn::SwiGlu { w12, w3 } => {
            let [gate, value] = split_rows(w12);
            let gate = g.linear("w1", x, &gate);
            let value = g.linear("w2", x, &value);
            let gate = g.silu(&gate);
            let hidden = g.mul(&gate, &value);
            g.linear("w3", &hidden, &scaled(w3, &block.ls2.values))
        }
    }
}

/// `diag(factors) (W x + b)` as one linear map.
fn scaled(linear: &Linear, factors: &[f32]) -> Linear {
    let mut linear = linear.clone();
    let inputs = linear.weight.shape[1];
    for (row, factor) in linear.weight.values.chunks_exact_mut(inputs).zip(factors) {
        row.iter_mut().for_each(|weight| *weight *= factor);
    }
    linear.bias.values.iter_mut().zip(factors).for_each(|(bias, factor)| *bias *= factor);
    linear
}

/// A linear map as `N` maps of an equal part of its outputs each.
fn split_rows<const N: usize>(linear: &Linear) -> [Linear; N] {
    let (outputs, inputs) = (linear.weight.shape[0] / N, linear.weight.shape[1]);
    std::array::from_fn(|part| Linear {
        weight: Tensor {
            shape: vec![outputs, inputs],
            values: linear.weight.values[part * outputs * inputs..][..outputs * inputs].to_vec(),
        },
        bias: Tensor {
            shape: vec![outputs],
            values: linear.bias.values[part * outputs..][..outputs].to_vec(),
        },
    })
}
