//! Small ONNX files with the inputs and outputs of Depth Anything V2's exports: which are taken, and what a backend with
//! one beside it gives against the same arithmetic in float64.

use std::path::{Path, PathBuf};

use prost::Message;
use standoff::backend::{self, Backend, BackendSettings, Wanted};
use standoff::model::depth::{DepthNetwork, DepthSource};
use standoff::model::onnx::{
    AttributeProto, Dim, FLOAT, FLOAT16, GraphProto, ModelProto, NodeProto, OperatorSetId, TensorProto,
    ValueInfoProto,
};
use standoff::model::store::Store;
use standoff::preprocess::{Preprocessor, letterbox};
use standoff::types::{Batch, DepthUnit, Frame};

use super::backend::frame;
use super::support::{Random, environment, installed};

/// The largest difference of a value; they are about 1.
const TOLERANCE: f64 = 1e-4;

/// What an export looks like from outside.
#[derive(Clone)]
struct Export {
    input: &'static str,
    output: &'static str,
    /// Batch, channels, height, width.
    sides: [Dim; 4],
    elem_type: i32,
    /// Whether the output keeps its axis of one channel.
    keeps_channel: bool,
}

fn named(name: &str) -> Dim {
    Dim::Param(name.to_owned())
}

/// As Hugging Face exports it.
fn flexible() -> Export {
    Export {
        input: "pixel_values",
        output: "predicted_depth",
        sides: ["batch_size", "num_channels", "height", "width"].map(named),
        elem_type: FLOAT,
        keeps_channel: false,
    }
}

/// As the original code is exported, for one size.
fn fixed(width: i64, height: i64) -> Export {
    Export {
        input: "image",
        output: "depth",
        sides: [1, 3, height, width].map(Dim::Value),
        keeps_channel: true,
        ..flexible()
    }
}

/// Weights of a 3 x 3 convolution of the colours, and what is added.
fn kernel() -> (Vec<f32>, f32) {
    let mut random = Random(5);
    ((0..27).map(|_| 0.3 * random.unit()).collect(), 1.0)
}

/// One convolution and a ReLU in place of the network.
fn model(export: &Export) -> ModelProto {
    let (weight, bias) = kernel();
    let tensor = |name: &str, dims: &[i64], data: Vec<u8>, data_type: i32| TensorProto {
        dims: dims.to_vec(),
        data_type: Some(data_type),
        name: Some(name.to_owned()),
        raw_data: Some(data.into()),
        ..TensorProto::default()
    };
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let node = |op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>| NodeProto {
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        name: Some(format!("node of {output}")),
        op_type: Some(op.to_owned()),
        attribute,
        domain: None,
    };
    let last = if export.keeps_channel { export.output } else { "map" };
    let mut nodes = vec![
        node("Conv", &[export.input, "weight", "bias"], "sum", vec![AttributeProto::ints("pads", &[1; 4])]),
        node("Relu", &["sum"], last, vec![]),
    ];
    if !export.keeps_channel {
        nodes.push(node("Squeeze", &["map", "axis"], export.output, vec![]));
    }
    let [batch, _, height, width] = export.sides.clone();
    let mut out = vec![batch, height, width];
    if export.keeps_channel {
        out.insert(1, Dim::Value(1));
    }
    let graph = GraphProto {
        node: nodes,
        name: Some("depth".to_owned()),
        initializer: vec![
            tensor("weight", &[1, 3, 3, 3], floats(&weight), FLOAT),
            tensor("bias", &[1], floats(&[bias]), FLOAT),
            tensor("axis", &[1], 1i64.to_le_bytes().to_vec(), 7),
        ],
        // Old exporters name the weights among the inputs.
        input: vec![
            ValueInfoProto::tensor(export.input, export.elem_type, export.sides.to_vec()),
            ValueInfoProto::float("weight", [1, 3, 3, 3].map(Dim::Value).to_vec()),
        ],
        output: vec![ValueInfoProto::float(export.output, out)],
        value_info: vec![],
    };
    ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![OperatorSetId { domain: Some(String::new()), version: Some(17) }],
        ..ModelProto::default()
    }
}

fn save(folder: &Path, export: &Export) -> PathBuf {
    let file = folder.join("depth_anything_v2_vits.onnx");
    std::fs::write(&file, model(export).encode_to_vec()).unwrap();
    file
}

fn network(file: &Path, unit: Option<DepthUnit>) -> DepthNetwork {
    match DepthSource::read(file, unit).unwrap() {
        DepthSource::Network(network) => network,
        other => panic!("{other:?}"),
    }
}

fn settings(network: &DepthNetwork) -> BackendSettings {
    BackendSettings {
        max_batch: 2,
        depth: Some(network.clone()),
        threads: Some(2),
        wanted: Wanted::Cpu,
        ..BackendSettings::default()
    }
}

fn open(network: &DepthNetwork) -> Option<Box<dyn Backend>> {
    let store = Store::locate().unwrap();
    let (Some(_), Some(_)) = (environment(), installed(store.model_path("dinov2-small"))) else {
        return None;
    };
    Some(backend::open(&settings(network)).unwrap())
}

/// What the stand-in gives at the centre of each patch of a 392 x 224 input.
fn reference(frame: &Frame, [width, height]: [usize; 2]) -> Vec<f64> {
    let mut preprocessor = Preprocessor::new(width as u32, height as u32);
    let mut pixels = vec![0.0; preprocessor.values()];
    preprocessor.run(frame, &mut pixels).unwrap();
    let (weight, bias) = kernel();
    let pixel = |channel: usize, y: i64, x: i64| {
        let inside = (0..height as i64).contains(&y) && (0..width as i64).contains(&x);
        if inside { f64::from(pixels[(channel * height + y as usize) * width + x as usize]) } else { 0.0 }
    };
    let value = |y: i64, x: i64| {
        let products = (0..27).map(|i: usize| {
            let (dy, dx) = (i as i64 / 3 % 3 - 1, i as i64 % 3 - 1);
            f64::from(weight[i]) * pixel(i / 9, y + dy, x + dx)
        });
        (f64::from(bias) + products.sum::<f64>()).max(0.0)
    };
    // Both letterboxes keep the picture's aspect, so one scale and one offset an axis lead from the one to the other.
    let source = [frame.width, frame.height];
    let (ours, its) = (letterbox(source, [392, 224]), letterbox(source, [width as u32, height as u32]));
    let patch = |i: usize| {
        let (x, y) = ((i % 28) as f64 * 14.0 + 7.0, (i / 28) as f64 * 14.0 + 7.0);
        let x = (x - ours.offset_x) / ours.scale_x * its.scale_x + its.offset_x - 0.5;
        let y = (y - ours.offset_y) / ours.scale_y * its.scale_y + its.offset_y - 0.5;
        let (x, y) = (x.clamp(0.0, width as f64 - 1.0), y.clamp(0.0, height as f64 - 1.0));
        let (x0, y0) = (x.floor(), y.floor());
        let at = |y: f64, x: f64| value((y as i64).min(height as i64 - 1), (x as i64).min(width as i64 - 1));
        let row = |y: f64| at(y, x0) * (1.0 - (x - x0)) + at(y, x0 + 1.0) * (x - x0);
        row(y0) * (1.0 - (y - y0)) + row(y0 + 1.0) * (y - y0)
    };
    (0..16 * 28).map(patch).collect()
}

#[test]
fn a_network_beside_the_model_gives_its_own_depth_at_each_patch() {
    let folder = tempfile::tempdir().unwrap();
    for (export, input) in
        [(flexible(), [392, 224]), (fixed(518, 518), [518, 518]), (fixed(84, 98), [84, 98])]
    {
        let network = network(&save(folder.path(), &export), None);
        assert_eq!(network.unit, DepthUnit::Inverse);
        let Some(mut backend) = open(&network) else { return };
        assert_eq!(backend.spec().heads, ["depth"]);
        let frames = vec![frame("a", 640, 360, 3), frame("b", 400, 300, 4)];
        let seen = backend.infer(&Batch { frames: frames.clone() }).unwrap();
        for (features, frame) in seen.iter().zip(&frames) {
            let (found, expected) = (&features.dense["depth"], reference(frame, input));
            assert_eq!((found.channels, found.values.len()), (1, expected.len()));
            let differences = found.values.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs());
            let largest = differences.fold(0.0, f64::max);
            println!("{}x{}, {}: largest difference {largest:.1e}", input[0], input[1], frame.camera);
            assert!(largest <= TOLERANCE, "{largest}");
        }
        // A part of the frame that comes again for a closer look is not looked at a second time; the next frame is.
        let part = Frame { width: 320, height: 180, ..frames[0].clone() };
        let seen = backend.infer(&Batch { frames: vec![part] }).unwrap();
        assert!(seen[0].dense.is_empty());
        let seen = backend.infer(&Batch { frames: vec![frame("a", 640, 360, 5)] }).unwrap();
        assert!(seen[0].dense.contains_key("depth"));
    }
}

#[test]
fn what_is_no_such_network_is_refused_with_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |export: Export, part: &str| {
        let error = DepthSource::read(&save(folder.path(), &export), None).unwrap_err().to_string();
        let all = [part, "depth_anything_v2_vits.onnx", "docs/depth.md"];
        assert!(all.iter().all(|part| error.contains(part)), "{error}");
    };
    let out = "it has the outputs 'logits', expected 'depth' or 'predicted_depth'";
    refused(Export { output: "logits", ..flexible() }, out);
    refused(Export { elem_type: FLOAT16, ..flexible() }, "'pixel_values' is not of 32-bit floats");
    let sides = [1, 1, 518, 518].map(Dim::Value);
    refused(Export { sides, ..flexible() }, "has the shape [1, 1, 518, 518], expected [1, 3, height, width]");
    let sides = [Dim::Value(1), Dim::Value(3), Dim::Value(518), named("width")];
    refused(Export { sides, ..flexible() }, "height is fixed and its width is not");
    let mut two = model(&flexible());
    let graph = two.graph.as_mut().unwrap();
    graph.input.push(ValueInfoProto::float("mask", vec![Dim::Value(1)]));
    let file = folder.path().join("two.onnx");
    std::fs::write(&file, two.encode_to_vec()).unwrap();
    let error = DepthSource::read(&file, None).unwrap_err().to_string();
    assert!(error.contains("the inputs 'pixel_values', 'mask', expected a single one"), "{error}");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 9]).unwrap();
    assert!(DepthSource::read(&file, None).unwrap_err().to_string().contains("no whole ONNX file"));

    let metric = network(&save(folder.path(), &flexible()), Some(DepthUnit::Metres));
    assert_eq!((metric.unit, metric.size), (DepthUnit::Metres, None));
    assert_eq!(network(&save(folder.path(), &fixed(518, 364)), None).size, Some([518, 364]));
}

#[test]
fn a_network_that_gives_no_map_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(&save(folder.path(), &flexible()), None);
    if open(&network).is_none() {
        return;
    }
    // By its names all is well; by its nodes it does not run.
    let mut broken = model(&flexible());
    broken.graph.as_mut().unwrap().node[1].op_type = Some("Rellu".to_owned());
    std::fs::write(&network.file, broken.encode_to_vec()).unwrap();
    let error = backend::open(&settings(&network)).err().unwrap().to_string();
    assert!(error.contains("depth_anything_v2_vits.onnx") && error.contains("docs/depth.md"), "{error}");
}
