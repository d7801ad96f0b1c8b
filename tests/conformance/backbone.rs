//! The graph that `standoff::model` writes against the original one that the weights came in.

use std::path::Path;

use prost::Message;
use standoff::model::graph::{self, BatchSize, CLS, GraphOptions, INPUT, TAPS, TOKENS};
use standoff::model::onnx::{Dim, DimensionProto, ModelProto, ValueInfoProto};
use standoff::model::store::Store;
use standoff::model::{fetch, weights::Weights};

use super::support::{Random, environment, installed, outputs, session};

/// Of every token of every output.
const LEAST_COSINE: f64 = 0.99999;
/// |difference| / |reference| of every output.
const LARGEST_RELATIVE: f64 = 1e-3;

/// Tensors of the original that hold what our outputs hold, CLS and registers included.
pub const ORIGINAL_OUTPUTS: [&str; 5] = [
    "/backbone/encoder/layer.2/Add_1_output_0",
    "/backbone/encoder/layer.5/Add_1_output_0",
    "/backbone/encoder/layer.8/Add_1_output_0",
    "/backbone/encoder/layer.11/Add_1_output_0",
    "/backbone/layernorm/Add_1_output_0",
];

/// The original with symbolic height and width and its inner tensors as outputs; the decoder is cut off.
pub fn opened_original(file: &Path) -> ModelProto {
    let mut model = ModelProto::decode(std::fs::read(file).unwrap().as_slice()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let shape = graph.input[0].r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().shape.as_mut().unwrap();
    for (dim, name) in shape.dim.iter_mut().zip(["batch", "channels", "height", "width"]).skip(2) {
        *dim = DimensionProto { value: Some(Dim::Param(name.to_owned())) };
    }
    graph.node.retain(|node| {
        node.name().starts_with("/backbone")
            || node.output[0].starts_with('/')
            || node.output[0].starts_with("onnx::")
    });
    let used: std::collections::HashSet<String> = needed(graph, &ORIGINAL_OUTPUTS);
    graph.node.retain(|node| node.output.iter().any(|output| used.contains(output)));
    graph.value_info.clear();
    graph.output = ORIGINAL_OUTPUTS
        .iter()
        .map(|name| ValueInfoProto::float(name, ["b", "t", "d"].map(|d| Dim::Param(d.to_owned())).to_vec()))
        .collect();
    model
}

/// Names of all values that the given ones are computed from.
fn needed(graph: &standoff::model::onnx::GraphProto, names: &[&str]) -> std::collections::HashSet<String> {
    let mut needed: std::collections::HashSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    for node in graph.node.iter().rev() {
        if node.output.iter().any(|output| needed.contains(output)) {
            needed.extend(node.input.iter().cloned());
        }
    }
    needed
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Least cosine over the tokens and relative difference of the whole.
fn compare(ours: &[f32], original: &[f32], dim: usize) -> (f64, f64) {
    assert_eq!(ours.len(), original.len());
    let cosines = ours.chunks_exact(dim).zip(original.chunks_exact(dim)).map(|(a, b)| cosine(a, b));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(original).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (cosines.fold(1.0, f64::min), difference / norm(&mut original.iter().map(|v| f64::from(*v))))
}

/// Pixels with the statistics of normalised pictures: waves of every length under some noise.
pub fn picture(width: usize, height: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let waves: Vec<[f32; 4]> = (0..24)
        .map(|_| [random.unit() * 0.3, random.unit() * 0.3, random.unit() * 3.0, random.unit() * 0.6])
        .collect();
    let mut pixels = Vec::with_capacity(3 * width * height);
    for channel in 0..3 {
        for y in 0..height {
            for x in 0..width {
                let wave = |[fx, fy, phase, gain]: &[f32; 4]| {
                    gain * (fx * x as f32 + fy * y as f32 + phase + channel as f32 * 0.4).sin()
                };
                pixels.push(waves.iter().map(wave).sum::<f32>() + 0.1 * random.unit());
            }
        }
    }
    pixels
}

fn agrees_with_the_original(width: usize, height: usize) {
    let store = Store::locate().unwrap();
    let (Some(environment), Some(file)) = (environment(), installed(fetch::original(&store))) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (weights, _) = Weights::read(&file).unwrap();
    let input = [width as u32, height as u32];
    let options = GraphOptions { tokens: true, ..GraphOptions::new(input, BatchSize::Symbolic, &[]) };
    let our_file = folder.path().join("ours.onnx");
    graph::save(graph::write(&weights, &options).unwrap(), &our_file).unwrap();
    let original_file = folder.path().join("original.onnx");
    graph::save(opened_original(&file), &original_file).unwrap();

    let mut ours = session(environment, &our_file);
    let mut original = session(environment, &original_file);
    // Two different pictures at once: batched cameras must not see each other.
    let pictures = [picture(width, height, 1), picture(width, height, 2)];
    let together = outputs(&mut ours, INPUT, [2, 3, height, width], &pictures.concat());
    for (at, pixels) in pictures.iter().enumerate() {
        let reference = outputs(&mut original, "input_image", [1, 3, height, width], pixels);
        let tokens = 1 + width / 14 * (height / 14);
        let expected = |name: &str| -> &[f32] {
            let at = TAPS.iter().position(|tap| *tap == name);
            let all = &reference[at.unwrap_or(4)].1;
            assert_eq!(all.len(), tokens * weights.dim);
            match name {
                CLS => &all[..weights.dim],
                TOKENS => all,
                _ => &all[weights.dim..],
            }
        };
        for (name, values) in &together {
            let ours = &values[at * values.len() / 2..(at + 1) * values.len() / 2];
            let (least, relative) = compare(ours, expected(name), weights.dim);
            println!(
                "{width}x{height} picture {at} {name}: least cosine 1 - {:.1e}, relative difference {relative:.1e}",
                1.0 - least
            );
            assert!(least >= LEAST_COSINE && relative <= LARGEST_RELATIVE, "{name}: {least} {relative}");
        }
        assert_eq!(together.len(), 6);
    }
}

#[test]
fn agrees_with_the_original_at_224x224() {
    agrees_with_the_original(224, 224);
}

#[test]
fn agrees_with_the_original_at_392x224() {
    agrees_with_the_original(392, 224);
}
