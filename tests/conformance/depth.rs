//! Published depth heads of random weights, by the names and shapes of the original checkpoints: which files are taken,
//! and what the graph gives against the original's arithmetic in float64, over tokens of the original backbone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Dtype, TensorView};
use standoff::model::depth::{DepthSource, OfficialDepth};
use standoff::model::graph::{self, BatchSize, Dialect, GraphHead, GraphOptions, HeadTail, INPUT, Precision};
use standoff::model::store::Store;
use standoff::model::weights::{Tensor, Tensors, Weights};
use standoff::model::{fetch, onnx::ModelProto};
use standoff::types::DepthUnit;

use super::backbone::{opened_original, picture};
use super::support::{Random, environment, installed, outputs, session};

/// Largest difference of a depth, metres; the heads give 0.001 to 10.
const TOLERANCE_M: f64 = 1e-4;
/// The test's pictures: an odd number of patches across, so that the coarsest map of DPT does not divide.
const GRID: [usize; 2] = [4, 5];
const NAME: &str = "dinov2_vits14_nyu_linear4_head.safetensors";

struct Maker {
    random: Random,
    tensors: Tensors,
}

impl Maker {
    fn new() -> Self {
        Self { random: Random(11), tensors: Tensors::new() }
    }

    fn add(&mut self, name: &str, shape: &[usize], center: f32, spread: f32) {
        let random = &mut self.random;
        let values = (0..shape.iter().product()).map(|_| center + spread * random.unit()).collect();
        self.tensors.insert(format!("decode_head.{name}"), Tensor { shape: shape.to_vec(), values });
    }

    /// A weight whose outputs are about as large as its inputs.
    fn map(&mut self, name: &str, shape: &[usize], bias: Option<usize>) {
        let inputs: usize = shape[1..].iter().product();
        self.add(&format!("{name}.weight"), shape, 0.0, 1.7 / (inputs as f32).sqrt());
        if let Some(outputs) = bias {
            self.add(&format!("{name}.bias"), &[outputs], 0.0, 0.5);
        }
    }
}

fn linear_head(dim: usize, blocks: usize) -> Tensors {
    let mut maker = Maker::new();
    maker.map("conv_depth", &[256, 2 * dim * blocks, 1, 1], Some(256));
    maker.tensors
}

fn dpt_head(dim: usize) -> Tensors {
    let mut maker = Maker::new();
    for (i, resize) in [Some(4), Some(2), None, Some(3)].into_iter().enumerate() {
        let channels = dim / (8 >> i);
        let blocks = "reassemble_blocks";
        maker.map(&format!("{blocks}.readout_projects.{i}.0"), &[dim, 2 * dim], Some(dim));
        maker.map(&format!("{blocks}.projects.{i}.conv"), &[channels, dim, 1, 1], Some(channels));
        if let Some(side) = resize {
            maker.map(
                &format!("{blocks}.resize_layers.{i}"),
                &[channels, channels, side, side],
                Some(channels),
            );
        }
        maker.map(&format!("convs.{i}.conv"), &[256, channels, 3, 3], None);
        maker.map(&format!("fusion_blocks.{i}.project.conv"), &[256, 256, 1, 1], Some(256));
        for unit in (if i == 0 { 2 } else { 1 })..=2 {
            for conv in 1..=2 {
                let name = format!("fusion_blocks.{i}.res_conv_unit{unit}.conv{conv}.conv");
                maker.map(&name, &[256, 256, 3, 3], None);
            }
        }
    }
    maker.map("project.conv", &[256, 256, 3, 3], Some(256));
    maker.map("conv_depth.head.0", &[128, 256, 3, 3], Some(128));
    maker.map("conv_depth.head.2", &[32, 128, 3, 3], Some(32));
    maker.map("conv_depth.head.4", &[1, 32, 1, 1], None);
    maker.add("conv_depth.head.4.bias", &[1], 3.0, 0.0);
    maker.tensors
}

fn save(tensors: &Tensors, file: PathBuf) -> PathBuf {
    let bytes: HashMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, t)| (name, t.values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = tensors
        .iter()
        .map(|(name, t)| (name.clone(), TensorView::new(Dtype::F32, t.shape.clone(), &bytes[name]).unwrap()));
    safetensors::serialize_to_file(views, None, &file).unwrap();
    file
}

fn read(file: &Path) -> Arc<OfficialDepth> {
    match DepthSource::read(file, None).unwrap() {
        DepthSource::Official(head) => head,
        other => panic!("{other:?}"),
    }
}

fn graph_head(head: Arc<OfficialDepth>) -> Vec<GraphHead> {
    vec![GraphHead {
        name: "depth".into(),
        weight: vec![],
        bias: vec![],
        layers: vec![],
        tail: HeadTail::Official(head),
    }]
}

/// Maps `[channels][row * cols + col]`, all of one size.
#[derive(Clone)]
struct Map {
    rows: usize,
    cols: usize,
    channels: Vec<Vec<f64>>,
}

impl Map {
    fn each(mut self, of: impl Fn(f64) -> f64) -> Self {
        self.channels.iter_mut().flatten().for_each(|value| *value = of(*value));
        self
    }

    fn relu(self) -> Self {
        self.each(|value| value.max(0.0))
    }

    fn plus(mut self, other: &Self) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols));
        let pairs = self.channels.iter_mut().flatten().zip(other.channels.iter().flatten());
        pairs.for_each(|(a, b)| *a += b);
        self
    }

    /// The values at a point counted in cells, cell centres at whole numbers, those beyond the edge being the edge's.
    fn at(&self, channel: usize, row: f64, col: f64) -> f64 {
        let split = |at: f64, cells: usize| {
            let at = at.max(0.0).min(cells as f64 - 1.0);
            (at.floor() as usize, (at.floor() as usize + 1).min(cells - 1), at - at.floor())
        };
        let ((r0, r1, down), (c0, c1, across)) = (split(row, self.rows), split(col, self.cols));
        let value = |row: usize, col: usize| self.channels[channel][row * self.cols + col];
        (1.0 - down) * ((1.0 - across) * value(r0, c0) + across * value(r0, c1))
            + down * ((1.0 - across) * value(r1, c0) + across * value(r1, c1))
    }

    /// `interpolate(mode="bilinear")` of PyTorch.
    fn resized(&self, rows: usize, cols: usize, align_corners: bool) -> Self {
        let source = |at: usize, from: usize, to: usize| {
            if align_corners {
                at as f64 * (from as f64 - 1.0) / (to as f64 - 1.0)
            } else {
                (at as f64 + 0.5) * from as f64 / to as f64 - 0.5
            }
        };
        let channel = |channel: usize| {
            let cells = (0..rows * cols)
                .map(|i| (source(i / cols, self.rows, rows), source(i % cols, self.cols, cols)));
            cells.map(|(row, col)| self.at(channel, row, col)).collect()
        };
        Self { rows, cols, channels: (0..self.channels.len()).map(channel).collect() }
    }

    /// Zeros lie beyond the edge.
    fn convolved(&self, t: &Tensors, name: &str, stride: usize) -> Self {
        let weight = &t[&format!("decode_head.{name}.weight")];
        let [outputs, inputs, side, _] = weight.shape[..] else { panic!() };
        assert_eq!(inputs, self.channels.len());
        let [rows, cols] = [self.rows, self.cols].map(|cells| (cells - 1) / stride + 1);
        let bias = t.get(&format!("decode_head.{name}.bias"));
        let mut out = vec![vec![0.0; rows * cols]; outputs];
        for (o, channel) in out.iter_mut().enumerate() {
            channel.fill(bias.map_or(0.0, |bias| f64::from(bias.values[o])));
            for (i, from) in self.channels.iter().enumerate() {
                for (dy, dx) in (0..side).flat_map(|dy| (0..side).map(move |dx| (dy, dx))) {
                    let w = f64::from(weight.values[((o * inputs + i) * side + dy) * side + dx]);
                    for row in 0..rows {
                        let Some(y) = (row * stride + dy).checked_sub(side / 2).filter(|y| *y < self.rows)
                        else {
                            continue;
                        };
                        for col in 0..cols {
                            let Some(x) =
                                (col * stride + dx).checked_sub(side / 2).filter(|x| *x < self.cols)
                            else {
                                continue;
                            };
                            channel[row * cols + col] += w * from[y * self.cols + x];
                        }
                    }
                }
            }
        }
        Self { rows, cols, channels: out }
    }

    /// A transposed convolution whose stride is its side.
    fn enlarged(&self, t: &Tensors, name: &str) -> Self {
        let (weight, bias) =
            (&t[&format!("decode_head.{name}.weight")], &t[&format!("decode_head.{name}.bias")]);
        let [inputs, outputs, side, _] = weight.shape[..] else { panic!() };
        let (rows, cols) = (self.rows * side, self.cols * side);
        let value = |o: usize, row: usize, col: usize| {
            let at = (row % side) * side + col % side;
            let of = |i: usize| {
                f64::from(weight.values[(i * outputs + o) * side * side + at])
                    * self.channels[i][row / side * self.cols + col / side]
            };
            f64::from(bias.values[o]) + (0..inputs).map(of).sum::<f64>()
        };
        let channel = |o: usize| (0..rows * cols).map(|i| value(o, i / cols, i % cols)).collect();
        Self { rows, cols, channels: (0..outputs).map(channel).collect() }
    }

    /// Metres at the centre of each patch.
    fn at_patches(&self) -> Vec<f64> {
        let held = self.clone().each(|value| value.clamp(0.001, 10.0));
        let centre =
            |at: usize, patches: usize, cells: usize| (at as f64 + 0.5) * cells as f64 / patches as f64 - 0.5;
        let [rows, cols] = GRID;
        let patch =
            |i: usize| held.at(0, centre(i / cols, rows, self.rows), centre(i % cols, cols, self.cols));
        (0..rows * cols).map(patch).collect()
    }
}

/// Patch tokens of a block as a map, the CLS token of that block behind each.
fn with_cls(tokens: &[f32]) -> Map {
    let dim = tokens.len() / (1 + GRID[0] * GRID[1]);
    let patch = |i: usize, channel: usize| f64::from(tokens[(1 + i) * dim + channel]);
    let of_patch = (0..dim).map(|channel| (0..GRID[0] * GRID[1]).map(|i| patch(i, channel)).collect());
    let of_cls = (0..dim).map(|channel| vec![f64::from(tokens[channel]); GRID[0] * GRID[1]]);
    Map { rows: GRID[0], cols: GRID[1], channels: of_patch.chain(of_cls).collect() }
}

fn linear_reference(t: &Tensors, blocks: &[Vec<f32>]) -> Vec<f64> {
    let channels = blocks.iter().flat_map(|tokens| with_cls(tokens).channels).collect();
    let joined = Map { rows: GRID[0], cols: GRID[1], channels };
    let logits = joined.resized(4 * GRID[0], 4 * GRID[1], false).convolved(t, "conv_depth", 1);
    let weights = logits.relu().each(|value| value + 0.1);
    let depth = |i: usize| {
        let weight = |bin: usize| weights.channels[bin][i];
        let bin_m = |bin: usize| 0.001 + (10.0 - 0.001) * bin as f64 / 255.0;
        (0..256).map(|bin| weight(bin) * bin_m(bin)).sum::<f64>() / (0..256).map(weight).sum::<f64>()
    };
    let (rows, cols) = (weights.rows, weights.cols);
    Map { rows, cols, channels: vec![(0..rows * cols).map(depth).collect()] }.at_patches()
}

fn dpt_reference(t: &Tensors, blocks: &[Vec<f32>]) -> Vec<f64> {
    let unit = |x: &Map, fusion: usize, unit: usize| {
        let conv = |x: &Map, n: usize| {
            x.clone().relu().convolved(
                t,
                &format!("fusion_blocks.{fusion}.res_conv_unit{unit}.conv{n}.conv"),
                1,
            )
        };
        conv(&conv(x, 1), 2).plus(x)
    };
    let level = |i: usize| {
        let joined = with_cls(&blocks[i]);
        let name = format!("decode_head.reassemble_blocks.readout_projects.{i}.0");
        let (weight, bias) = (&t[&format!("{name}.weight")], &t[&format!("{name}.bias")]);
        let channel = |o: usize| {
            let row = &weight.values[o * weight.shape[1]..][..weight.shape[1]];
            let sum = |cell: usize| {
                let products = row.iter().zip(&joined.channels).map(|(w, x)| f64::from(*w) * x[cell]);
                let x = f64::from(bias.values[o]) + products.sum::<f64>();
                x * 0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2))
            };
            (0..GRID[0] * GRID[1]).map(sum).collect()
        };
        let x = Map { rows: GRID[0], cols: GRID[1], channels: (0..bias.values.len()).map(channel).collect() };
        let x = x.convolved(t, &format!("reassemble_blocks.projects.{i}.conv"), 1);
        let resize = format!("reassemble_blocks.resize_layers.{i}");
        let x = match i {
            0 | 1 => x.enlarged(t, &resize),
            2 => x,
            _ => x.convolved(t, &resize, 2),
        };
        x.convolved(t, &format!("convs.{i}.conv"), 1)
    };
    let mut out: Option<Map> = None;
    for fusion in 0..4 {
        let map = level(3 - fusion);
        let x = match &out {
            None => map,
            Some(out) => {
                let map = if (map.rows, map.cols) == (out.rows, out.cols) {
                    map
                } else {
                    map.resized(out.rows, out.cols, false)
                };
                unit(&map, fusion, 1).plus(out)
            }
        };
        let x = unit(&x, fusion, 2);
        let x = x.resized(2 * x.rows, 2 * x.cols, true);
        out = Some(x.convolved(t, &format!("fusion_blocks.{fusion}.project.conv"), 1));
    }
    let x = out.unwrap().convolved(t, "project.conv", 1).relu().convolved(t, "conv_depth.head.0", 1);
    let x = x.resized(2 * x.rows, 2 * x.cols, true);
    let x = x.convolved(t, "conv_depth.head.2", 1).relu().convolved(t, "conv_depth.head.4", 1);
    x.relu().each(|value| value + 0.001).at_patches()
}

/// The error function by its Taylor series; beyond 4 it is 1 to eight digits.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// The graph with a head of random weights against its reference, over the real backbone's tokens.
fn agrees(tensors: &Tensors, name: &str, reference: fn(&Tensors, &[Vec<f32>]) -> Vec<f64>) {
    let store = Store::locate().unwrap();
    let (Some(environment), Some(file)) = (environment(), installed(fetch::original(&store))) else { return };
    let folder = tempfile::tempdir().unwrap();
    let heads = graph_head(read(&save(tensors, folder.path().join(name))));
    let (weights, _) = Weights::read(&file).unwrap();
    let [height, width] = GRID.map(|patches| 14 * patches);
    let options = GraphOptions {
        taps: false,
        ..GraphOptions::new([width as u32, height as u32], BatchSize::Symbolic, &heads)
    };
    let written = |model: ModelProto, name: &str| {
        let file = folder.path().join(name);
        graph::save(model, &file).unwrap();
        session(environment, &file)
    };
    let mut ours = written(graph::write(&weights, &options).unwrap(), "ours.onnx");
    let mut original = written(opened_original(&file), "original.onnx");
    // Two pictures at once: a CLS token must reach the patches of its own picture only.
    let pictures = [picture(width, height, 1), picture(width, height, 2)];
    let together = outputs(&mut ours, INPUT, [2, 3, height, width], &pictures.concat());
    let (_, found) = together.iter().find(|(name, _)| name == "depth").unwrap();
    for (pixels, found) in pictures.iter().zip(found.chunks_exact(GRID[0] * GRID[1])) {
        let tokens = outputs(&mut original, "input_image", [1, 3, height, width], pixels);
        let blocks: Vec<Vec<f32>> = tokens.into_iter().take(4).map(|(_, values)| values).collect();
        let expected = reference(tensors, &blocks);
        assert_eq!(found.len(), expected.len());
        let largest = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        let least_m = expected.iter().copied().fold(f64::INFINITY, f64::min);
        let most_m = expected.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        println!("{name}: {least_m:.3} to {most_m:.3} m, largest difference {largest:.1e} m");
        assert!(most_m - least_m > 0.02, "a head that says the same everywhere proves nothing");
        assert!(largest <= TOLERANCE_M, "{name}: {found:?} instead of {expected:?}");
    }
    // Opening it is what checks that each node has one type.
    for dialect in [Dialect::Onnx, Dialect::OnnxRuntime] {
        let options = GraphOptions { precision: Precision::Mixed, dialect, ..options.clone() };
        written(graph::write(&weights, &options).unwrap(), "mixed.onnx");
    }
}

#[test]
fn a_linear_head_over_four_blocks_gives_what_the_original_gives() {
    agrees(&linear_head(384, 4), NAME, linear_reference);
}

#[test]
fn a_linear_head_over_the_last_block_gives_what_the_original_gives() {
    let last = |t: &Tensors, blocks: &[Vec<f32>]| linear_reference(t, &blocks[3..]);
    agrees(&linear_head(384, 1), "dinov2_vits14_nyu_linear_head.safetensors", last);
}

#[test]
fn a_dpt_head_gives_what_the_original_gives() {
    agrees(&dpt_head(384), "dinov2_vits14_nyu_dpt_head.safetensors", dpt_reference);
}

#[test]
fn the_heads_of_every_model_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for (size, dim) in [("s", 384), ("b", 768), ("l", 1024), ("g", 1536)] {
        for (kind, blocks) in [("linear", 1), ("linear4", 4)] {
            for (data, range) in [("nyu", "10 m"), ("kitti", "80 m")] {
                let name = format!("dinov2_vit{size}14_{data}_{kind}_head.safetensors");
                let head = read(&save(&linear_head(dim, blocks), folder.path().join(name)));
                assert!(format!("{head:?}").contains(range), "{head:?}");
            }
        }
    }
    read(&save(&dpt_head(768), folder.path().join("dinov2_vitb14_kitti_dpt_head.safetensors")));
}

#[test]
fn a_head_of_another_model_is_refused_by_name() {
    let store = Store::locate().unwrap();
    let Some(file) = installed(fetch::original(&store)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (weights, _) = Weights::read(&file).unwrap();
    for tensors in [linear_head(768, 4), dpt_head(768)] {
        let heads =
            graph_head(read(&save(&tensors, folder.path().join("dinov2_vitb14_nyu_head.safetensors"))));
        let error = graph::write(&weights, &GraphOptions::new([56, 56], BatchSize::Fixed(1), &heads));
        let error = error.unwrap_err().to_string();
        let all =
            ["dinov2_vitb14_nyu_head.safetensors", "768 wide", "384 wide", "the head of the model that runs"];
        assert!(all.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn what_is_no_such_head_is_refused_with_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let error = |tensors: &Tensors, name: &str| {
        let file = save(tensors, folder.path().join(name));
        let error = DepthSource::read(&file, None).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("docs/depth.md"), "{error}");
        error
    };
    assert!(
        error(&linear_head(384, 4), "head.safetensors").contains("neither nyu (depths to 10 m) nor kitti")
    );

    let missing = error(
        &Tensors::from([("weight".to_owned(), linear_head(384, 1).into_values().next().unwrap())]),
        NAME,
    );
    let wanted = "no published depth head: tensor 'decode_head.conv_depth.weight' is missing (expected shape [256, 3072, 1, 1])";
    assert!(missing.contains(wanted), "{missing}");
    let odd = error(&linear_head(300, 4), NAME);
    assert!(odd.contains("has shape [256, 2400, 1, 1], expected [256, 3072, 1, 1]"), "{odd}");
    let mut broken = linear_head(384, 1);
    broken.get_mut("decode_head.conv_depth.bias").unwrap().values[7] = f32::NAN;
    assert!(error(&broken, NAME).contains("holds NaN at index 7"));
    let mut part = dpt_head(384);
    part.remove("decode_head.fusion_blocks.2.res_conv_unit1.conv2.conv.weight");
    let gap = error(&part, "dinov2_vits14_nyu_dpt_head.safetensors");
    assert!(
        gap.contains("res_conv_unit1.conv2.conv.weight' is missing (expected shape [256, 256, 3, 3])"),
        "{gap}"
    );

    let file = save(&linear_head(384, 1), folder.path().join(NAME));
    let error = DepthSource::read(&file, Some(DepthUnit::Inverse)).unwrap_err().to_string();
    assert!(error.contains("gives metres"), "{error}");
    for (bytes, problem) in
        [(&b"PK\x03\x04zip archive"[..], "pickled PyTorch"), (b"hello, world", "neither safetensors")]
    {
        std::fs::write(&file, bytes).unwrap();
        let error = DepthSource::read(&file, None).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}
