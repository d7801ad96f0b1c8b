//! Writes the ONNX graph of a DINOv2 for one input size and batch, heads included.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use prost::Message;
use sha2::{Digest, Sha256};

pub use super::builder::{Dialect, Precision};
use super::builder::{GraphBuilder, ONNX_RUNTIME_DOMAIN, Value};
use super::depth::OfficialDepth;
use super::dinov2::{Backbone, backbone};
use super::onnx::{
    AttributeProto, Dim, EXTERNAL, FLOAT, ModelProto, OperatorSetId, StringStringEntry, ValueInfoProto,
};
use super::weights::{PATCH_PX, Weights, hex, le_bytes};
use crate::types::Grid;

/// Changes whenever the same weights give another graph, so that no old file is taken for a new one.
pub const WRITER_VERSION: u32 = 2;
/// Name of the input, `[batch, 3, height, width]`, normalised RGB.
pub const INPUT: &str = "pixels";
/// Names of the four tapped blocks' patch tokens, `[batch, rows * cols, dim]`, no final norm.
pub const TAPS: [&str; 4] = ["tap0", "tap1", "tap2", "tap3"];
/// Name of the CLS token after the final norm, `[batch, dim]`.
pub const CLS: &str = "cls";
/// Name of all tokens after the final norm, `[batch, 1 + registers + rows * cols, dim]`: for tests.
pub const TOKENS: &str = "tokens";

/// Protocol buffers end at 2 GiB; weights above this go to a file beside the graph.
const EXTERNAL_ABOVE_BYTES: usize = 1_900_000_000;
/// Tensors up to this size stay in the graph even then.
const INLINE_BYTES: usize = 1024;
/// Opset 17 is the first with LayerNormalization.
const OPSET: i64 = 17;
/// File format that goes with it.
const IR_VERSION: i64 = 8;

/// A head that becomes part of the graph: one linear map over the patch tokens of the four tapped blocks,
/// concatenated (`4 * dim` inputs, block order, NO final layer norm; a standardisation of the inputs is
/// folded into weight and bias), and the layers above it.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphHead {
    /// Name of the graph's output and of the entry in `Features::dense`.
    pub name: String,
    /// `outputs * 4 * dim` values, row-major, one row an output.
    pub weight: Vec<f32>,
    /// One value an output.
    pub bias: Vec<f32>,
    /// None for a linear head. A GELU stands between two of them, not before the first and not after the last.
    pub layers: Vec<HeadLayer>,
    /// What follows.
    pub tail: HeadTail,
}

/// A layer of a head: the same map for every patch.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadLayer {
    /// Whether it sees the patch with its eight neighbours (zeros beyond the picture) or the patch alone.
    pub neighbours: bool,
    /// `outputs * inputs`, or `outputs * 9 * inputs` with the neighbours (rows from above, each from the left).
    pub weight: Vec<f32>,
    /// One value an output.
    pub bias: Vec<f32>,
}

impl HeadLayer {
    /// Patches that it sees.
    pub fn patches(&self) -> usize {
        if self.neighbours { 9 } else { 1 }
    }
}

/// What follows a head's last map in the graph.
#[derive(Debug, Clone, PartialEq)]
pub enum HeadTail {
    /// Nothing: the logits come out, `channels = outputs`.
    Logits,
    /// A softmax over the outputs as bins; out come the mean and the standard deviation of the bins'
    /// values, `channels = 2`.
    BinMoments {
        /// Value of each bin.
        values: Vec<f32>,
    },
    /// A published depth head, which reads blocks and their CLS tokens itself: the head has no weights of its own. Out
    /// come metres, `channels = 1`.
    Official(Arc<OfficialDepth>),
}

impl GraphHead {
    /// Values a patch that come out.
    pub fn channels(&self) -> usize {
        match self.tail {
            HeadTail::Logits => self.outputs(),
            HeadTail::BinMoments { .. } => 2,
            HeadTail::Official(_) => 1,
        }
    }

    /// Values a patch before the tail.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(self.bias.len(), |layer| layer.bias.len())
    }
}

/// Size of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSize {
    /// This many pictures, always.
    Fixed(usize),
    /// Chosen when the model runs.
    Symbolic,
}

/// What to write a graph for.
#[derive(Debug, Clone)]
pub struct GraphOptions<'a> {
    /// Width of the input in pixels, a multiple of 14.
    pub input_width: u32,
    /// Height of the input in pixels, a multiple of 14.
    pub input_height: u32,
    /// Size of the batch.
    pub batch: BatchSize,
    /// Heads to append.
    pub heads: &'a [GraphHead],
    /// Whether the [`TAPS`] are outputs: megabytes a frame that only training and `standoff probe` read.
    pub taps: bool,
    /// Whether [`TOKENS`] is an output too.
    pub tokens: bool,
    /// In which floats it computes.
    pub precision: Precision,
    /// For whom it is written.
    pub dialect: Dialect,
}

impl<'a> GraphOptions<'a> {
    /// Everything that all backends agree on, in 32 bits, for everybody.
    pub fn new(input: [u32; 2], batch: BatchSize, heads: &'a [GraphHead]) -> Self {
        let [input_width, input_height] = input;
        Self {
            input_width,
            input_height,
            batch,
            heads,
            taps: true,
            tokens: false,
            precision: Precision::Full,
            dialect: Dialect::Onnx,
        }
    }
}

/// Why a graph cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// The input does not divide into patches.
    #[error(
        "the model's input is {width}x{height}: both sides must be multiples of {PATCH_PX}, at least {PATCH_PX}"
    )]
    InputSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A head does not fit the backbone.
    #[error("head '{head}' does not fit the model: {problem}")]
    Head {
        /// Its name.
        head: String,
        /// What is wrong.
        problem: String,
    },
    /// A weight is beyond 16-bit floats.
    #[error("weight '{name}' holds {value}, 16-bit floats end at 65504: set model.precision to full")]
    TooLarge {
        /// Its name in the graph.
        name: String,
        /// The value.
        value: f32,
    },
}

/// The patch grid of an input size. Fails when the sides are no multiples of 14.
pub fn grid_of(width: u32, height: u32) -> Result<Grid, GraphError> {
    let patch = PATCH_PX as u32;
    if width == 0 || height == 0 || !width.is_multiple_of(patch) || !height.is_multiple_of(patch) {
        return Err(GraphError::InputSize { width, height });
    }
    Ok(Grid { rows: (height / patch) as usize, cols: (width / patch) as usize, patch_px: PATCH_PX })
}

/// Writes the graph. Inputs and outputs are named by the constants of this module and by the heads.
pub fn write(weights: &Weights, options: &GraphOptions<'_>) -> Result<ModelProto, GraphError> {
    let grid = grid_of(options.input_width, options.input_height)?;
    for (i, head) in options.heads.iter().enumerate() {
        check_head(head, weights.dim, &options.heads[..i])?;
    }
    let mut g = GraphBuilder::new(options.precision, options.dialect);
    let net = backbone(&mut g, weights, &Value(INPUT.to_owned()), grid);
    let outputs = write_outputs(&mut g, weights, options, grid, &net);

    if let Some((name, value)) = g.too_large {
        return Err(GraphError::TooLarge { name, value });
    }
    let input_type = g.working_type();
    let mut graph = g.graph;
    graph.name = Some("dinov2".to_owned());
    let batch = || match options.batch {
        BatchSize::Fixed(n) => Dim::Value(n as i64),
        BatchSize::Symbolic => Dim::Param("batch".to_owned()),
    };
    let shaped = |name: &str, elem_type: i32, sides: &[usize]| {
        let sides = sides.iter().map(|side| Dim::Value(*side as i64));
        ValueInfoProto::tensor(name, elem_type, std::iter::once(batch()).chain(sides).collect())
    };
    let [width, height] = [options.input_width, options.input_height].map(|side| side as usize);
    graph.input = vec![shaped(INPUT, input_type, &[3, height, width])];
    graph.output = outputs.iter().map(|(name, sides)| shaped(name, FLOAT, sides)).collect();
    let mut opset_import = vec![OperatorSetId { domain: Some(String::new()), version: Some(OPSET) }];
    if options.dialect == Dialect::OnnxRuntime {
        opset_import.push(OperatorSetId { domain: Some(ONNX_RUNTIME_DOMAIN.to_owned()), version: Some(1) });
    }
    Ok(ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("standoff".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        graph: Some(graph),
        opset_import,
        metadata_props: vec![
            StringStringEntry::new("model", weights.describe()),
            StringStringEntry::new("writer", WRITER_VERSION.to_string()),
        ],
    })
}

/// Gives every output its name. Returns names and shapes without the batch, in order.
fn write_outputs(
    g: &mut GraphBuilder,
    weights: &Weights,
    options: &GraphOptions<'_>,
    grid: Grid,
    net: &Backbone,
) -> Vec<(String, Vec<usize>)> {
    let mut outputs = Vec::new();
    for (name, tap) in TAPS.iter().zip(&net.taps).filter(|_| options.taps) {
        g.output(tap, name);
        outputs.push((String::from(*name), vec![grid.len(), weights.dim]));
    }
    g.output(&net.cls, CLS);
    outputs.push((CLS.to_owned(), vec![weights.dim]));
    for head in options.heads {
        let value = g.scope(&format!("heads.{}", head.name), |g| match &head.tail {
            HeadTail::Official(depth) => depth.write(g, net, weights.dim, grid),
            _ => write_head(g, head, weights.dim, grid, &net.taps),
        });
        g.output(&value, &head.name);
        outputs.push((head.name.clone(), vec![grid.len(), head.channels()]));
    }
    if options.tokens {
        let tokens = g.layer_norm("tokens", &net.last, &weights.norm);
        let tokens = g.to_full(&tokens);
        g.output(&tokens, TOKENS);
        outputs.push((TOKENS.to_owned(), vec![1 + weights.registers() + grid.len(), weights.dim]));
    }
    outputs
}

fn check_head(head: &GraphHead, dim: usize, before: &[GraphHead]) -> Result<(), GraphError> {
    let wrong = |problem: String| Err(GraphError::Head { head: head.name.clone(), problem });
    let (outputs, inputs) = (head.bias.len(), TAPS.len() * dim);
    let taken = TAPS.iter().chain(&[CLS, TOKENS, INPUT]).any(|name| *name == head.name);
    if taken || head.name.is_empty() || before.iter().any(|other| other.name == head.name) {
        return wrong("its name is empty or taken".to_owned());
    }
    if let HeadTail::Official(depth) = &head.tail {
        return depth.check(dim).or_else(wrong);
    }
    if outputs == 0 || head.weight.len() != outputs * inputs {
        let found = head.weight.len();
        return wrong(format!(
            "{outputs} outputs of 4 x {dim} inputs need {} weights, it has {found}",
            outputs * inputs
        ));
    }
    let mut inputs = outputs;
    for (i, layer) in head.layers.iter().enumerate() {
        let (outputs, found) = (layer.bias.len(), layer.weight.len());
        let needed = outputs * layer.patches() * inputs;
        if outputs == 0 || found != needed {
            return wrong(format!(
                "layer {i} has {found} weights, {outputs} outputs of {inputs} inputs need {needed}"
            ));
        }
        inputs = outputs;
    }
    let outputs = inputs;
    if let HeadTail::BinMoments { values } = &head.tail
        && values.len() != outputs
    {
        return wrong(format!("it has {outputs} outputs and {} bins", values.len()));
    }
    let bins = match &head.tail {
        HeadTail::Logits | HeadTail::Official(_) => &[],
        HeadTail::BinMoments { values } => values.as_slice(),
    };
    let layers = head.layers.iter().flat_map(|layer| layer.weight.iter().chain(&layer.bias));
    if head.weight.iter().chain(&head.bias).chain(layers).chain(bins).any(|value| !value.is_finite()) {
        return wrong("it holds a NaN or an infinity".to_owned());
    }
    Ok(())
}

/// `[batch, patches, channels]` of one head. The sum of four products is the product with the concatenated
/// tokens, without making them.
fn write_head(g: &mut GraphBuilder, head: &GraphHead, dim: usize, grid: Grid, taps: &[Value]) -> Value {
    let outputs = head.bias.len();
    let mut sum = g.floats("bias", &[outputs], &head.bias);
    for (i, tap) in taps.iter().enumerate() {
        let mut columns = vec![0.0; dim * outputs];
        for (output, row) in head.weight.chunks_exact(taps.len() * dim).enumerate() {
            for (input, weight) in row[i * dim..][..dim].iter().enumerate() {
                columns[input * outputs + output] = *weight;
            }
        }
        let weight = g.floats(&format!("weight{i}"), &[dim, outputs], &columns);
        let part = g.matmul(tap, &weight);
        sum = g.add(&part, &sum);
    }
    let mut inputs = outputs;
    for (i, layer) in head.layers.iter().enumerate() {
        if i > 0 {
            sum = g.gelu_full(&sum);
        }
        sum = g.scope(&format!("layer{i}"), |g| write_layer(g, layer, &sum, inputs, grid));
        inputs = layer.bias.len();
    }
    match &head.tail {
        HeadTail::Logits | HeadTail::Official(_) => sum,
        HeadTail::BinMoments { values } => write_moments(g, &sum, values),
    }
}

/// `[batch, patches, outputs]` of one layer.
fn write_layer(g: &mut GraphBuilder, layer: &HeadLayer, x: &Value, inputs: usize, grid: Grid) -> Value {
    let outputs = layer.bias.len();
    let bias = g.floats("bias", &[outputs], &layer.bias);
    // A convolution wants `output, input, row, column`, a product `input, output`.
    let patches = layer.patches();
    let at =
        |output: usize, patch: usize, input: usize| layer.weight[(output * patches + patch) * inputs + input];
    if !layer.neighbours {
        let columns: Vec<f32> =
            (0..inputs).flat_map(|input| (0..outputs).map(move |output| at(output, 0, input))).collect();
        let weight = g.floats("weight", &[inputs, outputs], &columns);
        let product = g.matmul(x, &weight);
        return g.add(&product, &bias);
    }
    let kernels: Vec<f32> = (0..outputs * inputs * patches)
        .map(|i| at(i / (inputs * patches), i % patches, i / patches % inputs))
        .collect();
    let weight = g.floats("weight", &[outputs, inputs, 3, 3], &kernels);
    let map = g.reshape(x, &[0, grid.rows as i64, grid.cols as i64, inputs as i64]);
    let map = g.transpose(&map, &[0, 3, 1, 2]);
    let pads = vec![AttributeProto::ints("pads", &[1, 1, 1, 1])];
    let map = g.node("Conv", "neighbours", &[&map, &weight, &bias], pads);
    let rows = g.reshape(&map, &[0, outputs as i64, grid.len() as i64]);
    g.transpose(&rows, &[0, 2, 1])
}

/// Mean and standard deviation of `values` under the softmax of `logits`, `[batch, patches, 2]`. The deviation
/// is taken from the mean, because the difference of the raw moments loses its digits in f32.
fn write_moments(g: &mut GraphBuilder, logits: &Value, values: &[f32]) -> Value {
    let probabilities = g.softmax(logits);
    let column = g.floats("values", &[values.len(), 1], values);
    let row = g.floats("values", &[1, 1, values.len()], values);
    let ones = g.floats("ones", &[values.len(), 1], &vec![1.0; values.len()]);
    let mean = g.matmul(&probabilities, &column);
    let deviation = g.node("Sub", "deviation", &[&row, &mean], vec![]);
    let square = g.mul(&deviation, &deviation);
    let weighted = g.mul(&square, &probabilities);
    let variance = g.matmul(&weighted, &ones);
    let sigma = g.node("Sqrt", "sigma", &[&variance], vec![]);
    g.concat(&[&mean, &sigma], -1)
}

/// Everything but the weights that a graph depends on, for the name of its file: input, batch, heads, outputs,
/// precision, dialect, writer.
pub fn key(options: &GraphOptions<'_>) -> String {
    let mut hash = Sha256::new();
    for head in options.heads {
        hash.update((head.name.len() as u64).to_le_bytes());
        hash.update(head.name.as_bytes());
        let (kind, bins): (u8, &[f32]) = match &head.tail {
            HeadTail::Logits => (0, &[]),
            HeadTail::BinMoments { values } => (1, values),
            HeadTail::Official(depth) => {
                hash.update(depth.identity());
                (2, &[])
            }
        };
        hash.update([kind]);
        let layers = head.layers.iter().flat_map(|layer| [layer.weight.as_slice(), layer.bias.as_slice()]);
        for values in [head.weight.as_slice(), head.bias.as_slice(), bins].into_iter().chain(layers) {
            hash.update((values.len() as u64).to_le_bytes());
            hash.update(le_bytes(values));
        }
    }
    let heads = &hex(&hash.finalize())[..12];
    let batch = match options.batch {
        BatchSize::Fixed(n) => n.to_string(),
        BatchSize::Symbolic => "n".to_owned(),
    };
    let mark = |wanted: bool, mark: &'static str| if wanted { mark } else { "" };
    let marks = [
        mark(!options.taps, "-dense"),
        mark(options.tokens, "-tokens"),
        mark(options.precision == Precision::Mixed, "-f16"),
        mark(options.dialect == Dialect::OnnxRuntime, "-ort"),
    ];
    let (width, height, marks) = (options.input_width, options.input_height, marks.concat());
    format!("{width}x{height}-b{batch}-h{heads}{marks}-v{WRITER_VERSION}")
}

/// Saves a model at `path`, whole or not at all; above 2 GB the weights go to `<path>.data` beside it.
pub fn save(model: ModelProto, path: &Path) -> io::Result<()> {
    save_above(model, path, EXTERNAL_ABOVE_BYTES)
}

/// The same with another limit than 2 GB for the weights that stay in the graph.
pub fn save_above(mut model: ModelProto, path: &Path, external_above: usize) -> io::Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidFilename)?;
    let bytes: usize = model.graph.iter().flat_map(|g| &g.initializer).map(|t| t.raw_data().len()).sum();
    let temporary = |suffix: &str| path.with_file_name(format!(".{name}{suffix}.{}", std::process::id()));
    if bytes > external_above {
        let data_name = format!("{name}.data");
        let data_temporary = temporary(".data");
        move_outside(&mut model, &data_name, &data_temporary)?;
        fs::rename(&data_temporary, path.with_file_name(&data_name))?;
    }
    let graph_temporary = temporary("");
    fs::write(&graph_temporary, model.encode_to_vec())?;
    fs::rename(&graph_temporary, path)
}

/// Writes the large tensors to `file` and leaves in each where it is to be found, under the name `data_name`.
fn move_outside(model: &mut ModelProto, data_name: &str, file: &Path) -> io::Result<()> {
    let mut out = BufWriter::new(fs::File::create(file)?);
    let mut offset = 0usize;
    for tensor in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() > INLINE_BYTES) else { continue };
        out.write_all(&raw)?;
        tensor.data_location = Some(EXTERNAL);
        tensor.external_data = vec![
            StringStringEntry::new("location", data_name),
            StringStringEntry::new("offset", offset.to_string()),
            StringStringEntry::new("length", raw.len().to_string()),
        ];
        offset += raw.len();
    }
    out.into_inner()?.sync_all()
}
