//! Steps of the published depth heads over maps `[batch, channels, rows, cols]`, as a graph in 32-bit floats.

use crate::model::builder::{GraphBuilder, Value};
use crate::model::dinov2::Backbone;
use crate::model::onnx::AttributeProto;
use crate::model::weights::{Linear, Taker, Tensor, WeightsError};
use crate::types::Grid;

/// A convolution, or its transpose.
#[derive(Clone)]
pub(super) struct Conv {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Conv {
    /// The convolution at `name`, `[outputs, inputs, side, side]`.
    pub fn take(
        taker: &mut Taker,
        name: &str,
        shape: [usize; 4],
        with_bias: bool,
    ) -> Result<Self, WeightsError> {
        let weight = taker.take(&format!("{name}.weight"), &shape)?;
        let bias = with_bias.then(|| taker.take(&format!("{name}.bias"), &[shape[0]]));
        Ok(Self { weight, bias: bias.transpose()? })
    }

    fn node(&self, g: &mut GraphBuilder, op: &str, x: &Value, attributes: Vec<AttributeProto>) -> Value {
        let weight = g.floats("weight", &self.weight.shape, &self.weight.values);
        let bias = self.bias.as_ref().map(|bias| g.floats("bias", &bias.shape, &bias.values));
        let inputs: Vec<&Value> = [x, &weight].into_iter().chain(&bias).collect();
        g.node(op, "conv", &inputs, attributes)
    }

    /// A convolution whose output is as large as its input for stride 1: zeros lie beyond the map.
    pub fn same(&self, g: &mut GraphBuilder, name: &str, x: &Value, stride: i64) -> Value {
        let side = self.weight.shape[2] as i64;
        let attributes = vec![
            AttributeProto::ints("kernel_shape", &[side; 2]),
            AttributeProto::ints("strides", &[stride; 2]),
            AttributeProto::ints("pads", &[side / 2; 4]),
        ];
        g.scope(name, |g| self.node(g, "Conv", x, attributes))
    }

    /// A transposed convolution that makes a square of its own side of every cell.
    pub fn enlarge(&self, g: &mut GraphBuilder, name: &str, x: &Value) -> Value {
        let side = self.weight.shape[2] as i64;
        let attributes = vec![
            AttributeProto::ints("kernel_shape", &[side; 2]),
            AttributeProto::ints("strides", &[side; 2]),
        ];
        g.scope(name, |g| self.node(g, "ConvTranspose", x, attributes))
    }
}

/// Where the corners of a map lie when it is resized.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Corners {
    /// The corners of the outer cells stay where they are (PyTorch's `align_corners=False`).
    OfCells,
    /// The centres of the outer cells do (`align_corners=True`).
    OfCentres,
}

/// A map of `channels` bilinearly at another size.
pub(super) fn resize(
    g: &mut GraphBuilder,
    x: &Value,
    channels: usize,
    size: [usize; 2],
    corners: Corners,
) -> Value {
    let until = vec![AttributeProto::int("start", 0), AttributeProto::int("end", 1)];
    let batch = g.node("Shape", "batch", &[x], until);
    let sides = g.ints("size", &[channels as i64, size[0] as i64, size[1] as i64]);
    let sizes = g.concat(&[&batch, &sides], 0);
    let how = if corners == Corners::OfCells { "half_pixel" } else { "align_corners" };
    let attributes = vec![
        AttributeProto::string("mode", "linear"),
        AttributeProto::string("coordinate_transformation_mode", how),
    ];
    let none = Value(String::new());
    g.node("Resize", "resize", &[x, &none, &none, &sizes], attributes)
}

pub(super) fn relu(g: &mut GraphBuilder, x: &Value) -> Value {
    g.node("Relu", "relu", &[x], vec![])
}

/// One linear map over the patch tokens of a tapped block and that block's CLS token, joined: the CLS token's part is
/// the same for all patches. Columns of the weight: the patch's, then the CLS token's. `[batch, patches, outputs]`.
pub(super) fn joined(g: &mut GraphBuilder, name: &str, net: &Backbone, tap: usize, linear: &Linear) -> Value {
    g.scope(name, |g| {
        let cls = g.slice(&net.tapped[tap], 1, 0, 1);
        let cls = g.to_full(&cls);
        let (outputs, dim) = (linear.weight.shape[0], linear.weight.shape[1] / 2);
        let columns = |first: usize| -> Vec<f32> {
            let at = |input: usize, output: usize| linear.weight.values[output * 2 * dim + first + input];
            (0..dim).flat_map(|input| (0..outputs).map(move |output| at(input, output))).collect()
        };
        let (of_patch, of_cls) = (columns(0), columns(dim));
        let of_patch = g.floats("patch", &[dim, outputs], &of_patch);
        let of_cls = g.floats("cls", &[dim, outputs], &of_cls);
        let patches = g.matmul(&net.taps[tap], &of_patch);
        let everywhere = g.matmul(&cls, &of_cls);
        let bias = g.floats("bias", &[outputs], &linear.bias.values);
        let everywhere = g.add(&everywhere, &bias);
        g.add(&patches, &everywhere)
    })
}

/// `[batch, patches, channels]` as a map.
pub(super) fn map(g: &mut GraphBuilder, tokens: &Value, channels: usize, grid: Grid) -> Value {
    let columns = g.transpose(tokens, &[0, 2, 1]);
    g.reshape(&columns, &[0, channels as i64, grid.rows as i64, grid.cols as i64])
}

/// A depth map of one channel, held in its range, at the centre of every patch, `[batch, patches, 1]`.
pub(super) fn at_patches(g: &mut GraphBuilder, depth: &Value, [min_m, max_m]: [f32; 2], grid: Grid) -> Value {
    let (min, max) = (g.floats("min", &[], &[min_m]), g.floats("max", &[], &[max_m]));
    let held = g.node("Clip", "range", &[depth, &min, &max], vec![]);
    let patches = resize(g, &held, 1, [grid.rows, grid.cols], Corners::OfCells);
    g.reshape(&patches, &[0, grid.len() as i64, 1])
}
