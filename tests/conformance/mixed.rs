//! The graphs that GPUs get (16 bits, ONNX Runtime's own operators) against the one in 32 bits, without a GPU.
//!
//! ONNX Runtime on the CPU has few kernels in 16 bits: it casts to 32 around the others and drops the casts between
//! neighbours, so that it hardly rounds at all. [`on_a_device`] therefore rewrites the graph to round every value to
//! 16 bits where a GPU would store it, by arithmetic in 32: products are summed in 32 bits there too.

use std::collections::HashMap;

use bytes::Bytes;
use half::f16;
use half::slice::HalfFloatSliceExt;
use standoff::backend::gate::frames::frames;
use standoff::heads::shipped;
use standoff::model::graph::{self, BatchSize, Dialect, GraphOptions, INPUT, Precision, TAPS};
use standoff::model::onnx::{
    AttributeProto, Dim, FLOAT, FLOAT16, GraphProto, INT64, ModelProto, NodeProto, TensorProto,
    ValueInfoProto,
};
use standoff::model::store::Store;
use standoff::model::weights::Weights;
use standoff::preprocess::Preprocessor;

use super::support::{environment, installed, session};

/// Of every output of every picture.
const LEAST_COSINE: f64 = 0.999;
/// Length of the difference over that of the reference: what a cosine forgives.
const IN_16_BITS: f64 = 0.01;
/// The same between two ways to compute one thing in 32 bits.
const IN_32_BITS: f64 = 2e-5;
/// Largest value that 16 bits hold.
const LARGEST_HALF: f32 = 65504.0;
const SIZE: [usize; 2] = [392, 224];

pub fn weights() -> Option<Weights> {
    let file = installed(Store::locate().unwrap().model_path("dinov2-small"))?;
    Some(Weights::read(&file).unwrap().0)
}

pub fn written(weights: &Weights, batch: usize, precision: Precision, dialect: Dialect) -> ModelProto {
    let heads = shipped::graph_heads().unwrap();
    let size = SIZE.map(|side| side as u32);
    let plain = GraphOptions::new(size, BatchSize::Fixed(batch), &heads);
    graph::write(weights, &GraphOptions { precision, dialect, ..plain }).unwrap()
}

/// The frames of the gate as the model sees them.
pub fn pictures() -> Vec<Vec<f32>> {
    let mut preprocessor = Preprocessor::new(SIZE[0] as u32, SIZE[1] as u32);
    let pixels = |frame| {
        let mut pixels = vec![0.0; preprocessor.values()];
        preprocessor.run(&frame, &mut pixels).unwrap();
        pixels
    };
    frames().unwrap().into_iter().map(pixels).collect()
}

/// All outputs by name.
pub type Outputs = Vec<(String, Vec<f32>)>;

/// Runs a graph whose input is of 16 or 32 bits; none without the library.
fn run(model: ModelProto, pictures: &[Vec<f32>]) -> Option<Outputs> {
    let environment = environment()?;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("graph.onnx");
    let input = model.graph.as_ref().unwrap().input[0].r#type.as_ref().unwrap().tensor_type.as_ref().unwrap();
    let half = input.elem_type == Some(FLOAT16);
    graph::save(model, &file).unwrap();
    let mut session = session(environment, &file);
    let shape = [pictures.len(), 3, SIZE[1], SIZE[0]];
    let pixels = pictures.concat();
    let run = if half {
        let mut halves = vec![f16::ZERO; pixels.len()];
        halves.convert_from_f32_slice(&pixels);
        let tensor = ort::value::TensorRef::from_array_view((shape, halves.as_slice())).unwrap();
        session.run(ort::inputs![INPUT => tensor]).unwrap()
    } else {
        let tensor = ort::value::TensorRef::from_array_view((shape, pixels.as_slice())).unwrap();
        session.run(ort::inputs![INPUT => tensor]).unwrap()
    };
    let values = |value: &ort::value::DynValue| value.try_extract_tensor::<f32>().unwrap().1.to_vec();
    Some(run.iter().map(|(name, value)| (name.to_owned(), values(&value))).collect())
}

/// Pictures one by one through a graph of batch 1, put together.
pub fn one_by_one(model: &ModelProto, pictures: &[Vec<f32>]) -> Option<Outputs> {
    let mut all: Outputs = vec![];
    for picture in pictures {
        for (at, (name, values)) in run(model.clone(), std::slice::from_ref(picture))?.into_iter().enumerate()
        {
            match all.get_mut(at) {
                Some((_, before)) => before.extend(values),
                None => all.push((name, values)),
            }
        }
    }
    Some(all)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Length of the difference over that of the reference.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let apart: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    (apart / b.iter().map(|v| square(f64::from(*v))).sum::<f64>()).sqrt()
}

/// Least cosine and largest relative difference over the pictures, of each output.
fn compare(what: &str, tried: &Outputs, reference: &Outputs, pictures: usize, allowed: f64) {
    assert_eq!(tried.len(), TAPS.len() + 1 + 2, "four taps, the CLS token, two heads");
    for ((name, tried), (reference_name, reference)) in tried.iter().zip(reference) {
        assert_eq!((name, tried.len()), (reference_name, reference.len()));
        assert!(tried.iter().all(|value| value.is_finite()), "{what} {name}");
        let part = tried.len() / pictures;
        let pairs = || tried.chunks(part).zip(reference.chunks(part));
        let least = pairs().map(|(a, b)| cosine(a, b)).fold(1.0, f64::min);
        let apart = pairs().map(|(a, b)| relative(a, b)).fold(0.0, f64::max);
        println!("{what} {name}: least cosine 1 - {:.1e}, largest difference {apart:.1e}", 1.0 - least);
        assert!(least >= LEAST_COSINE, "{what} {name}: cosine {least}");
        assert!(apart <= allowed, "{what} {name}: relative difference {apart}");
    }
}

/// Types of all values of a graph, by name. Panics where a node mixes types, as a strongly typed runtime would.
fn types(graph: &GraphProto) -> HashMap<String, i32> {
    let of_input = |value: &ValueInfoProto| value.r#type.as_ref()?.tensor_type.as_ref()?.elem_type;
    let mut types: HashMap<String, i32> =
        graph.input.iter().map(|value| (value.name().to_owned(), of_input(value).unwrap())).collect();
    types.extend(graph.initializer.iter().map(|tensor| (tensor.name().to_owned(), tensor.data_type())));
    for node in &graph.node {
        let inputs: Vec<i32> = node.input.iter().map(|name| types[name]).collect();
        let output = match node.op_type() {
            "Cast" => node.attribute[0].i() as i32,
            "Shape" => INT64,
            // The others of its inputs are shapes and bounds.
            "Reshape" | "Slice" | "Expand" => inputs[0],
            op => {
                assert!(
                    inputs.iter().all(|input| *input == inputs[0]),
                    "{op} {} mixes {inputs:?}",
                    node.name()
                );
                inputs[0]
            }
        };
        types.extend(node.output.iter().map(|name| (name.clone(), output)));
    }
    types
}

/// The same graph in 32 bits that rounds to 16 where a GPU stores 16 (Veltkamp's splitting, exact but for values below
/// 6e-5 and above 65504), with one more output `largest`: the largest magnitude that was stored so.
pub fn on_a_device(model: &ModelProto) -> ModelProto {
    let mut model = model.clone();
    let graph = model.graph.as_mut().unwrap();
    let types = types(graph);
    let is_half = |name: &str| types[name] == FLOAT16;
    for tensor in graph.initializer.iter_mut().filter(|tensor| tensor.data_type() == FLOAT16) {
        let halves = tensor.raw_data.take().unwrap();
        let full = halves.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
        tensor.raw_data = Some(Bytes::from(full.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()));
        tensor.data_type = Some(FLOAT);
    }
    let splitter = TensorProto {
        data_type: Some(FLOAT),
        name: Some("splitter".to_owned()),
        raw_data: Some(Bytes::from(8193.0f32.to_le_bytes().to_vec())),
        ..TensorProto::default()
    };
    graph.initializer.push(splitter);
    let node = |op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>| NodeProto {
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        name: Some(format!("{op}:{output}")),
        op_type: Some(op.to_owned()),
        attribute,
        domain: None,
    };
    let (mut nodes, mut magnitudes) = (vec![], vec![]);
    for mut each in std::mem::take(&mut graph.node) {
        let output = each.output[0].clone();
        if each.op_type() == "Cast" {
            each = node("Identity", &[&each.input[0]], &output, vec![]);
        }
        let moves = ["Reshape", "Slice", "Expand", "Transpose", "Concat", "Split"].contains(&each.op_type());
        if moves || !is_half(&output) {
            nodes.push(each);
            continue;
        }
        let [raw, large, rest, magnitude, largest] =
            ["raw", "large", "rest", "magnitude", "largest"].map(|step| format!("{output}/{step}"));
        each.output = vec![raw.clone()];
        nodes.push(each);
        nodes.push(node("Mul", &[&raw, "splitter"], &large, vec![]));
        nodes.push(node("Sub", &[&large, &raw], &rest, vec![]));
        nodes.push(node("Sub", &[&large, &rest], &output, vec![]));
        nodes.push(node("Abs", &[&output], &magnitude, vec![]));
        nodes.push(node("ReduceMax", &[&magnitude], &largest, vec![AttributeProto::int("keepdims", 0)]));
        magnitudes.push(largest);
    }
    let magnitudes: Vec<&str> = magnitudes.iter().map(String::as_str).collect();
    nodes.push(node("Max", &magnitudes, "largest", vec![]));
    graph.node = nodes;
    let dims = |value: &ValueInfoProto| -> Vec<Dim> {
        let shape = value.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap().shape.as_ref().unwrap();
        shape.dim.iter().map(|dim| dim.value.clone().unwrap()).collect()
    };
    graph.input = vec![ValueInfoProto::float(INPUT, dims(&graph.input[0]))];
    graph.output.push(ValueInfoProto::float("largest", vec![]));
    model
}

/// Takes the output `largest` away and checks that 16 bits hold it.
pub fn within_half(what: &str, mut outputs: Outputs) -> Outputs {
    let at = outputs.iter().position(|(name, _)| name == "largest").unwrap();
    let largest = outputs.remove(at).1.into_iter().fold(0.0, f32::max);
    println!("{what}: largest value {largest:.0} of {LARGEST_HALF}");
    assert!(largest < LARGEST_HALF / 8.0, "{largest} is too close to the end of 16 bits");
    outputs
}

pub fn rounded(pictures: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let round = |picture: &Vec<f32>| picture.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
    pictures.iter().map(round).collect()
}

#[test]
fn every_node_of_a_mixed_graph_has_one_type() {
    let Some(weights) = weights() else { return };
    let model = written(&weights, 1, Precision::Mixed, Dialect::Onnx);
    let graph = model.graph.as_ref().unwrap();
    let types = types(graph);
    let mut counted: HashMap<(&str, i32), usize> = HashMap::new();
    for node in &graph.node {
        *counted.entry((node.op_type(), types[&node.input[0]])).or_default() += 1;
    }
    assert_eq!(types[INPUT], FLOAT16);
    for name in graph.output.iter().map(ValueInfoProto::name) {
        assert_eq!(types[name], FLOAT, "{name}");
    }
    let of = |op, kind| counted.get(&(op, kind)).copied().unwrap_or(0);
    assert_eq!((of("LayerNormalization", FLOAT), of("LayerNormalization", FLOAT16)), (25, 0));
    // One a block, and the depth's.
    assert_eq!((of("Softmax", FLOAT), of("Softmax", FLOAT16)), (13, 0));
    assert_eq!((of("Conv", FLOAT), of("Conv", FLOAT16), of("Erf", FLOAT16)), (1, 1, 12));
    // Eight a block; two heads of four taps, two layers of the decoder and two of moments.
    assert_eq!((of("MatMul", FLOAT16), of("MatMul", FLOAT)), (12 * 8, 2 * 4 + 2 + 2));
}

#[test]
fn mixed_agrees_with_full() {
    let Some(weights) = weights() else { return };
    let pictures = pictures();
    let full = written(&weights, 1, Precision::Full, Dialect::Onnx);
    let Some(reference) = one_by_one(&full, &pictures) else { return };
    let mixed = written(&weights, 1, Precision::Mixed, Dialect::Onnx);
    compare("batch 1", &one_by_one(&mixed, &pictures).unwrap(), &reference, 4, IN_16_BITS);
    let device = one_by_one(&on_a_device(&mixed), &rounded(&pictures)).unwrap();
    compare("as on a device, batch 1", &within_half("batch 1", device), &reference, 4, IN_16_BITS);
    let mixed = written(&weights, 4, Precision::Mixed, Dialect::Onnx);
    compare("batch 4", &run(mixed.clone(), &pictures).unwrap(), &reference, 4, IN_16_BITS);
    let device = run(on_a_device(&mixed), &rounded(&pictures)).unwrap();
    compare("as on a device, batch 4", &within_half("batch 4", device), &reference, 4, IN_16_BITS);
}

#[test]
fn onnx_runtimes_operators_agree_with_onnxs() {
    let Some(weights) = weights() else { return };
    let pictures = pictures();
    let plain = written(&weights, 4, Precision::Full, Dialect::Onnx);
    let Some(reference) = run(plain, &pictures) else { return };
    let own = written(&weights, 4, Precision::Full, Dialect::OnnxRuntime);
    compare("own operators", &run(own, &pictures).unwrap(), &reference, 4, IN_32_BITS);
    let mixed = written(&weights, 4, Precision::Mixed, Dialect::OnnxRuntime);
    compare("own operators in 16 bits", &run(mixed.clone(), &pictures).unwrap(), &reference, 4, IN_16_BITS);
    let device = run(on_a_device(&mixed), &rounded(&pictures)).unwrap();
    compare(
        "own operators, as on a device",
        &within_half("own operators", device),
        &reference,
        4,
        IN_16_BITS,
    );
}
