//! Every architecture and naming from small random weights, against a forward pass written out plainly; and
//! what is said of weights that are no good.

use std::collections::HashMap;

use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use standoff::model::graph::{self, BatchSize, CLS, Dialect, GraphOptions, INPUT, Precision, TAPS};
use standoff::model::weights::{Tensor, Tensors, Weights};

use super::support::{Random, environment, outputs, session};

/// |difference| / |reference| of each output, f32 against f32 with other orders of summation.
const TOLERANCE: f64 = 1e-4;
/// Grid of the position embedding and of the test's pictures.
const SIDE: usize = 5;

#[derive(Clone, Copy)]
struct Shape {
    dim: usize,
    depth: usize,
    registers: usize,
    /// Width inside SwiGLU; none for an MLP.
    swiglu: Option<usize>,
}

const SMALL: Shape = Shape { dim: 384, depth: 4, registers: 0, swiglu: None };

/// Random weights in the official naming, sized so that activations stay near 1.
fn random_tensors(shape: Shape, seed: u64) -> Tensors {
    let Shape { dim, depth, registers, swiglu } = shape;
    let mut random = Random(seed);
    let mut tensors = Tensors::new();
    let mut add = |name: String, shape: &[usize], center: f32, spread: f32| {
        let values = (0..shape.iter().product()).map(|_| center + spread * random.unit()).collect();
        tensors.insert(name, Tensor { shape: shape.to_vec(), values });
    };
    let fan = |inputs: usize| 1.5 / (inputs as f32).sqrt();
    add("cls_token".into(), &[1, 1, dim], 0.0, 1.0);
    add("mask_token".into(), &[1, dim], 0.0, 1.0);
    add("pos_embed".into(), &[1, 1 + SIDE * SIDE, dim], 0.0, 1.0);
    if registers > 0 {
        add("register_tokens".into(), &[1, registers, dim], 0.0, 1.0);
    }
    add("patch_embed.proj.weight".into(), &[dim, 3, 14, 14], 0.0, fan(588));
    add("patch_embed.proj.bias".into(), &[dim], 0.0, 0.5);
    let maps = match swiglu {
        Some(hidden) => vec![("mlp.w12", 2 * hidden, dim), ("mlp.w3", dim, hidden)],
        None => vec![("mlp.fc1", 4 * dim, dim), ("mlp.fc2", dim, 4 * dim)],
    };
    for i in 0..depth {
        for (name, outputs, inputs) in
            [("attn.qkv", 3 * dim, dim), ("attn.proj", dim, dim)].iter().chain(&maps)
        {
            add(format!("blocks.{i}.{name}.weight"), &[*outputs, *inputs], 0.0, fan(*inputs));
            add(format!("blocks.{i}.{name}.bias"), &[*outputs], 0.0, 0.5);
        }
        for name in ["norm1", "norm2"] {
            add(format!("blocks.{i}.{name}.weight"), &[dim], 1.0, 0.5);
            add(format!("blocks.{i}.{name}.bias"), &[dim], 0.0, 0.5);
        }
        add(format!("blocks.{i}.ls1.gamma"), &[dim], 0.5, 0.5);
        add(format!("blocks.{i}.ls2.gamma"), &[dim], 0.5, 0.5);
    }
    add("norm.weight".into(), &[dim], 1.0, 0.5);
    add("norm.bias".into(), &[dim], 0.0, 0.5);
    tensors
}

/// The same in Hugging Face's naming under a prefix.
fn hugging_face(tensors: &Tensors, prefix: &str) -> Tensors {
    let mut renamed = Tensors::new();
    for (name, tensor) in tensors {
        let Some((block, rest)) = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) else {
            let name = match name.as_str() {
                "pos_embed" => "embeddings.position_embeddings".to_owned(),
                name if name.starts_with("patch_embed") => {
                    name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
                }
                name if name.starts_with("norm.") => name.replace("norm.", "layernorm."),
                name => format!("embeddings.{name}"),
            };
            renamed.insert(format!("{prefix}{name}"), tensor.clone());
            continue;
        };
        let at = format!("{prefix}encoder.layer.{block}");
        if let Some(kind) = rest.strip_prefix("attn.qkv.") {
            let third = tensor.values.len() / 3;
            let mut shape = tensor.shape.clone();
            shape[0] /= 3;
            for (part, values) in ["query", "key", "value"].iter().zip(tensor.values.chunks_exact(third)) {
                let part_tensor = Tensor { shape: shape.clone(), values: values.to_vec() };
                renamed.insert(format!("{at}.attention.attention.{part}.{kind}"), part_tensor);
            }
            continue;
        }
        let rest = rest
            .replace("attn.proj", "attention.output.dense")
            .replace("ls1.gamma", "layer_scale1.lambda1")
            .replace("ls2.gamma", "layer_scale2.lambda1")
            .replace("w12", "weights_in")
            .replace("w3", "weights_out");
        renamed.insert(format!("{at}.{rest}"), tensor.clone());
    }
    renamed
}

fn safetensors_bytes(tensors: &Tensors, dtype: Dtype) -> Vec<u8> {
    let bytes = |value: &f32| match dtype {
        Dtype::BF16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    };
    let data: HashMap<&String, Vec<u8>> =
        tensors.iter().map(|(name, t)| (name, t.values.iter().flat_map(bytes).collect())).collect();
    let views = tensors
        .iter()
        .map(|(name, t)| (name.clone(), TensorView::new(dtype, t.shape.clone(), &data[name]).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

// The forward pass, token by token, in f32 with plain sums.

fn linear(t: &Tensors, name: &str, x: &[f32]) -> Vec<f32> {
    let (weight, bias) = (&t[&format!("{name}.weight")], &t[&format!("{name}.bias")]);
    let rows = weight.values.chunks_exact(x.len()).zip(&bias.values);
    rows.map(|(row, bias)| {
        let mut sums = [0.0f32; 16];
        for (w, v) in row.chunks(16).zip(x.chunks(16)) {
            sums.iter_mut().zip(w.iter().zip(v)).for_each(|(sum, (w, v))| *sum += w * v);
        }
        sums.iter().sum::<f32>() + bias
    })
    .collect()
}

fn layer_norm(t: &Tensors, name: &str, x: &[f32]) -> Vec<f32> {
    let count = x.len() as f64;
    let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / count;
    let (weight, bias) = (&t[&format!("{name}.weight")].values, &t[&format!("{name}.bias")].values);
    let normed = x.iter().map(|v| ((f64::from(*v) - mean) / (variance + 1e-6).sqrt()) as f32);
    normed.zip(weight).zip(bias).map(|((v, w), b)| v * w + b).collect()
}

/// The error function by its Taylor series, exact enough for |x| < 4; beyond it is 1.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let mut term = x;
    let mut sum = x;
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (x * 0.5 * (1.0 + erf(x / 2f64.sqrt()))) as f32
}

fn ffn(t: &Tensors, at: &str, x: &[f32]) -> Vec<f32> {
    if t.contains_key(&format!("{at}.mlp.w12.weight")) {
        let both = linear(t, &format!("{at}.mlp.w12"), x);
        let (gate, value) = both.split_at(both.len() / 2);
        let hidden: Vec<f32> = gate.iter().zip(value).map(|(g, v)| g / (1.0 + (-g).exp()) * v).collect();
        return linear(t, &format!("{at}.mlp.w3"), &hidden);
    }
    let hidden: Vec<f32> = linear(t, &format!("{at}.mlp.fc1"), x).into_iter().map(gelu).collect();
    linear(t, &format!("{at}.mlp.fc2"), &hidden)
}

fn attention(t: &Tensors, at: &str, tokens: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let dim = tokens[0].len();
    let qkv: Vec<Vec<f32>> = tokens.iter().map(|x| linear(t, &format!("{at}.attn.qkv"), x)).collect();
    let mut mixed = vec![vec![0.0f32; dim]; tokens.len()];
    for head in (0..dim).step_by(64) {
        for (query, mixed) in qkv.iter().zip(&mut mixed) {
            let score = |key: &Vec<f32>| {
                let pairs = query[head..head + 64].iter().zip(&key[dim + head..][..64]);
                pairs.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() / 8.0
            };
            let scores: Vec<f64> = qkv.iter().map(score).collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (weight, value) in weights.iter().zip(&qkv) {
                for i in 0..64 {
                    mixed[head + i] += (weight / sum) as f32 * value[2 * dim + head + i];
                }
            }
        }
    }
    mixed.iter().map(|x| linear(t, &format!("{at}.attn.proj"), x)).collect()
}

fn add_scaled(t: &Tensors, gamma: &str, tokens: &mut [Vec<f32>], branch: &[Vec<f32>]) {
    for (token, branch) in tokens.iter_mut().zip(branch) {
        let scaled = branch.iter().zip(&t[gamma].values);
        token.iter_mut().zip(scaled).for_each(|(x, (b, g))| *x += b * g);
    }
}

/// The four taps (patches only) and CLS for a picture of `SIDE` by `SIDE` patches.
fn forward(t: &Tensors, shape: Shape, pixels: &[f32]) -> Vec<Vec<f32>> {
    let (dim, width) = (shape.dim, SIDE * 14);
    let place = |token: usize| &t["pos_embed"].values[token * dim..][..dim];
    let plus = |a: &[f32], b: &[f32]| -> Vec<f32> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
    let mut tokens = vec![plus(&t["cls_token"].values, place(0))];
    if let Some(registers) = t.get("register_tokens") {
        tokens.extend(registers.values.chunks_exact(dim).map(<[f32]>::to_vec));
    }
    for patch in 0..SIDE * SIDE {
        let (top, left) = (patch / SIDE * 14, patch % SIDE * 14);
        let at = |i: usize| (i / 196 * width + top + i % 196 / 14) * width + left + i % 14;
        let values: Vec<f32> = (0..588).map(|i| pixels[at(i)]).collect();
        tokens.push(plus(&linear(t, "patch_embed.proj", &values), place(1 + patch)));
    }
    let mut results = Vec::new();
    for i in 0..shape.depth {
        let at = format!("blocks.{i}");
        let normed: Vec<Vec<f32>> = tokens.iter().map(|x| layer_norm(t, &format!("{at}.norm1"), x)).collect();
        add_scaled(t, &format!("{at}.ls1.gamma"), &mut tokens, &attention(t, &at, &normed));
        let branch: Vec<Vec<f32>> =
            tokens.iter().map(|x| ffn(t, &at, &layer_norm(t, &format!("{at}.norm2"), x))).collect();
        add_scaled(t, &format!("{at}.ls2.gamma"), &mut tokens, &branch);
        if (i + 1) % (shape.depth / 4) == 0 {
            results.push(tokens[1 + shape.registers..].concat());
        }
    }
    results.push(layer_norm(t, "norm", &tokens[0]));
    results
}

fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut b.iter().map(|v| f64::from(*v)))
}

/// Both namings give the same weights, and the graph gives what the plain forward pass gives.
fn builds_and_runs(shape: Shape, description: &str, external_above: usize) {
    let tensors = random_tensors(shape, shape.dim as u64);
    let weights = Weights::parse(safetensors_bytes(&tensors, Dtype::F32)).unwrap();
    for prefix in ["", "backbone.", "model.dinov2."] {
        let hugging_face = safetensors_bytes(&hugging_face(&tensors, prefix), Dtype::F32);
        assert!(Weights::parse(hugging_face).unwrap() == weights, "prefix '{prefix}'");
    }
    assert_eq!(weights.describe(), description);

    let Some(environment) = environment() else { return };
    let side = 14 * SIDE;
    let plain = GraphOptions::new([side as u32; 2], BatchSize::Fixed(2), &[]);
    let folder = tempfile::tempdir().unwrap();
    let written = |options: &GraphOptions<'_>| {
        let file = folder.path().join("graph.onnx");
        graph::save_above(graph::write(&weights, options).unwrap(), &file, external_above).unwrap();
        assert_eq!(folder.path().join("graph.onnx.data").exists(), external_above == 0);
        session(environment, &file)
    };
    let mut random = Random(3);
    let pixels: Vec<f32> = (0..2 * 3 * side * side).map(|_| 2.0 * random.unit()).collect();
    let names: Vec<&str> = TAPS.into_iter().chain([CLS]).collect();
    let second = forward(&tensors, shape, &pixels[3 * side * side..]);
    for dialect in [Dialect::Onnx, Dialect::OnnxRuntime] {
        let mut session = written(&GraphOptions { dialect, ..plain.clone() });
        let results = outputs(&mut session, INPUT, [2, 3, side, side], &pixels);
        for ((name, values), (expected_name, expected)) in results.iter().zip(names.iter().zip(&second)) {
            assert_eq!(name, expected_name);
            let difference = relative(&values[values.len() / 2..], expected);
            println!("{description} {dialect:?} {name}: relative difference {difference:.1e}");
            assert!(difference <= TOLERANCE);
        }
        assert_eq!(results.len(), 5);
    }
    // Opening it is what checks that each node has one type; what it gives, tests/conformance/mixed.rs checks.
    written(&GraphOptions { precision: Precision::Mixed, taps: false, ..plain });
}

#[test]
fn what_16_bits_cannot_hold_is_named() {
    let mut tensors = random_tensors(SMALL, 1);
    tensors.get_mut("blocks.2.mlp.fc1.weight").unwrap().values[5] = -70_000.0;
    let weights = Weights::from_tensors(tensors).unwrap();
    let full = GraphOptions::new([28, 28], BatchSize::Fixed(1), &[]);
    assert!(graph::write(&weights, &full).is_ok());
    let mixed = GraphOptions { precision: Precision::Mixed, ..full };
    assert_eq!(
        graph::write(&weights, &mixed).unwrap_err().to_string(),
        "weight 'blocks.2.mlp.fc1.weight' holds -70000, 16-bit floats end at 65504: set model.precision to full"
    );
}

#[test]
fn graphs_that_differ_have_names_that_differ() {
    let plain = GraphOptions::new([28, 28], BatchSize::Fixed(1), &[]);
    let keys = [
        graph::key(&plain),
        graph::key(&GraphOptions { taps: false, ..plain.clone() }),
        graph::key(&GraphOptions { tokens: true, ..plain.clone() }),
        graph::key(&GraphOptions { precision: Precision::Mixed, ..plain.clone() }),
        graph::key(&GraphOptions { dialect: Dialect::OnnxRuntime, ..plain.clone() }),
        graph::key(&GraphOptions { batch: BatchSize::Symbolic, ..plain }),
    ];
    for (at, key) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(key), "{key}");
    }
    assert_eq!(keys[0], "28x28-b1-he3b0c44298fc-v2", "the name changes with the writer only");
}

#[test]
fn small_with_external_data() {
    builds_and_runs(SMALL, "ViT-S/14, 4 blocks", 0);
}

#[test]
fn base_with_registers() {
    let shape = Shape { dim: 768, depth: 8, registers: 4, swiglu: None };
    builds_and_runs(shape, "ViT-B/14, 8 blocks, 4 registers", usize::MAX);
}

#[test]
fn large() {
    builds_and_runs(Shape { dim: 1024, depth: 4, ..SMALL }, "ViT-L/14, 4 blocks", usize::MAX);
}

#[test]
fn giant_with_registers() {
    let shape = Shape { dim: 1536, depth: 4, registers: 4, swiglu: Some(4096) };
    builds_and_runs(shape, "ViT-g/14, 4 blocks, 4 registers", usize::MAX);
}

#[test]
fn taps_are_the_papers() {
    let weights = Weights::from_tensors(random_tensors(SMALL, 1)).unwrap();
    let taps = |depth: usize| {
        let mut weights = weights.clone();
        weights.blocks = vec![weights.blocks[0].clone(); depth];
        weights.taps()
    };
    assert_eq!(taps(12), [3, 6, 9, 12]);
    assert_eq!(taps(24), [5, 12, 18, 24]);
    assert_eq!(taps(40), [10, 20, 30, 40]);
}

#[test]
fn half_precision_is_read_and_written_back_whole() {
    let tensors = random_tensors(SMALL, 2);
    let weights = Weights::parse(safetensors_bytes(&tensors, Dtype::BF16)).unwrap();
    let rounded = bf16::from_f32(tensors["blocks.3.mlp.fc2.weight"].values[777]).to_f32();
    let file = tempfile::NamedTempFile::new().unwrap();
    weights.write(file.path(), HashMap::new()).unwrap();
    let (again, sha256) = Weights::read(file.path()).unwrap();
    assert!(again == weights);
    assert_eq!(sha256.len(), 64);
    let all = again.tensors();
    let fc2 = all.iter().find(|(name, _)| name == "blocks.3.mlp.fc2.weight").unwrap();
    assert_eq!(fc2.1.values[777], rounded);
}

fn refused(tensors: Tensors) -> String {
    Weights::parse(safetensors_bytes(&tensors, Dtype::F32)).unwrap_err().to_string()
}

#[test]
fn a_cut_off_file_is_refused() {
    let bytes = safetensors_bytes(&random_tensors(SMALL, 1), Dtype::F32);
    let cut = |to: usize| Weights::parse(bytes[..to].to_vec()).unwrap_err().to_string();
    assert_eq!(
        cut(bytes.len() - 1),
        format!(
            "the file is cut off or damaged after {} bytes (safetensors with fewer bytes than its header says); fetch it again",
            bytes.len() - 1
        )
    );
    assert!(cut(1000).starts_with("the file is cut off or damaged after 1000 bytes"));
    assert_eq!(cut(3), "the file is cut off or damaged after 3 bytes (no header); fetch it again");
    assert_eq!(cut(0), "the file is cut off or damaged after 0 bytes (no header); fetch it again");
}

#[test]
fn another_architecture_is_refused() {
    let with = |name: &str, shape: &[usize]| {
        let mut tensors = random_tensors(SMALL, 1);
        let values = vec![0.5; shape.iter().product()];
        tensors.insert(name.to_owned(), Tensor { shape: shape.to_vec(), values });
        refused(tensors)
    };
    assert_eq!(
        with("patch_embed.proj.weight", &[384, 3, 16, 16]),
        "tensor 'patch_embed.proj.weight' has shape [384, 3, 16, 16], expected [384, 3, 14, 14]"
    );
    assert_eq!(
        with("cls_token", &[1, 1, 192]),
        "this is no DINOv2: tensor 'cls_token' has shape [1, 1, 192], expected [1, 1, 384] (S), [1, 1, 768] (B), \
         [1, 1, 1024] (L) or [1, 1, 1536] (g)"
    );
    assert_eq!(
        with("pos_embed", &[1, 27, 384]),
        "this is no DINOv2: tensor 'pos_embed' has shape [1, 27, 384], expected [1, 1 + side * side, dim]"
    );
    assert_eq!(
        with("blocks.1.attn.q_norm.weight", &[64]),
        "this is no DINOv2: tensor 'blocks.1.attn.q_norm.weight' has no place in its blocks"
    );
    let conv = Tensor { shape: vec![2], values: vec![0.0; 2] };
    assert_eq!(
        refused(Tensors::from([("conv1.weight".to_owned(), conv)])),
        "this is no DINOv2: it has no tensor 'cls_token' (Hugging Face: 'embeddings.cls_token'); its first of 1 are \
         [\"conv1.weight\"]"
    );
    let mut tensors = random_tensors(SMALL, 1);
    tensors.remove("blocks.2.ls1.gamma");
    assert_eq!(refused(tensors.clone()), "tensor 'blocks.2.ls1.gamma' is missing (expected shape [384])");
    let mut tensors = hugging_face(&random_tensors(SMALL, 1), "");
    tensors.remove("encoder.layer.2.attention.attention.key.bias");
    assert_eq!(refused(tensors), "tensor 'blocks.2.attn.key.bias' is missing (expected shape [384])");
    tensors = random_tensors(Shape { depth: 3, ..SMALL }, 1);
    assert_eq!(refused(tensors), "this is no DINOv2: it has 3 blocks, expected at least 4");
}

#[test]
fn a_weight_that_is_not_finite_is_refused() {
    for (value, word) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let mut tensors = random_tensors(SMALL, 1);
        tensors.get_mut("blocks.3.mlp.fc1.weight").unwrap().values[1234] = value;
        assert_eq!(
            refused(tensors),
            format!(
                "tensor 'blocks.3.mlp.fc1.weight' holds {word} at index 1234 of shape [1536, 384]; every weight must \
                 be finite"
            )
        );
    }
}

#[test]
fn other_files_are_refused() {
    let said = |bytes: &[u8]| Weights::parse(bytes.to_vec()).unwrap_err().to_string();
    assert_eq!(
        said(b"PK\x03\x04 a zip archive"),
        "this is a pickled PyTorch checkpoint; give safetensors (official or Hugging Face naming) or an ONNX file"
    );
    assert_eq!(
        said(b"root:x:0:0:root"),
        "this is neither safetensors nor ONNX; give safetensors (official or Hugging Face naming) or an ONNX file"
    );
    assert!(said(b"\x08\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").contains("not readable as ONNX"));
    let integers = TensorView::new(Dtype::I64, vec![1], &[0; 8]).unwrap();
    let bytes = safetensors::serialize([("cls_token", integers)], None).unwrap();
    assert_eq!(said(&bytes), "tensor 'cls_token' holds I64, expected F32, F16 or BF16");
}

#[test]
fn a_cut_off_onnx_file_is_refused() {
    let store = standoff::model::store::Store::locate().unwrap();
    let Some(file) = super::support::installed(standoff::model::fetch::original(&store)) else { return };
    let bytes = std::fs::read(file).unwrap();
    let said = Weights::parse(bytes[..bytes.len() / 2].to_vec()).unwrap_err().to_string();
    println!("{said}");
    assert!(said.starts_with(&format!("the file is cut off or damaged after {} bytes", bytes.len() / 2)));
}

#[test]
fn an_imported_model_gives_graphs_that_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = standoff::model::store::Store::at(folder.path().join("store"));
    let file = folder.path().join("download.safetensors");
    std::fs::write(&file, safetensors_bytes(&hugging_face(&random_tensors(SMALL, 1), "dinov2."), Dtype::F32))
        .unwrap();
    let installed = store.import(&file, "mine", &[("source", "a test")]).unwrap();
    assert_eq!(installed.metadata["architecture"], "ViT-S/14, 4 blocks");
    assert_eq!(store.list().unwrap()[0].metadata["source"], "a test");

    let options = |width: u32| GraphOptions::new([width, 28], BatchSize::Symbolic, &[]);
    let first = store.graph("mine", &options(28)).unwrap();
    let written = std::fs::metadata(&first).unwrap().modified().unwrap();
    assert_eq!(store.graph("mine", &options(28)).unwrap(), first);
    assert_eq!(std::fs::metadata(&first).unwrap().modified().unwrap(), written);
    assert_ne!(store.graph("mine", &options(42)).unwrap(), first);
    assert_ne!(store.graph(file.to_str().unwrap(), &options(28)).unwrap(), first, "other bytes, other graph");
    assert_eq!(
        store.graph("mine", &options(30)).unwrap_err().to_string(),
        "the model's input is 30x28: both sides must be multiples of 14, at least 14"
    );
}
