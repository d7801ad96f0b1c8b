//! Every backend that may run the model on this GPU: whether it gives what the CPU gives, and how fast it is, from
//! pictures of 1920 x 1080 in ordinary memory or on the device to the heads' outputs in ordinary memory.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::{kernels, median};
use crate::backend::choice::{self, Candidate, Runtime, Wanted};
use crate::backend::cuda::Gpu;
use crate::backend::gate::{self, Reference};
use crate::backend::{Backend, BackendSettings};
use crate::clock;
use crate::heads::shipped;
use crate::model::graph::{GraphHead, Precision, TAPS};
use crate::model::store::Store;
use crate::model::weights::{Block, Ffn, Linear, Norm, Tensor, Weights};
use crate::preprocess::reference::Random;
use crate::types::{Batch, Frame, PixelFormat};

/// Sizes of batch.
const BATCHES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Inputs of the model in pixels.
const INPUTS: [[u32; 2]; 2] = [[392, 224], [518, 294]];
/// How long one speed is measured, and how often at least.
const MEASURED: Duration = Duration::from_millis(500);
const LEAST_RUNS: usize = 10;

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Models {
    /// Heads: name and values a patch before a softmax.
    pub heads: BTreeMap<String, usize>,
    /// Each backend.
    pub backends: Vec<BackendFound>,
    /// Speeds.
    pub speed: Vec<Speed>,
}

/// Whether a backend can be used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackendFound {
    /// "TensorRT in 16 bits".
    pub what: String,
    /// Its name with version when it opens.
    pub name: Option<String>,
    /// Why it does not open.
    pub problem: Option<String>,
    /// The gate's table.
    pub gate: Option<String>,
    /// Why the gate refuses it.
    pub rejected: Option<String>,
    /// Least cosine of any output.
    pub least_cosine: Option<f64>,
}

/// One speed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Speed {
    /// "S" or "B".
    pub model: String,
    /// Width and height of its input in pixels.
    pub input: [u32; 2],
    /// Pictures at once.
    pub batch: usize,
    /// Where the pictures are: "host" or "device".
    pub from: String,
    /// What runs it.
    pub backend: String,
    /// Pictures a second, one batch after the other.
    pub frames_per_s: f64,
    /// From the call to the answer, the middle one.
    pub latency_ms: f64,
    /// The one that 99 % are below.
    pub latency_p99_ms: f64,
    /// Time on the device until the input is ready: upload and kernel.
    pub preprocess_ms: f64,
    /// Time on the device of model and the way back.
    pub backbone_ms: f64,
}

impl Models {
    /// Whether nothing that opens gives wrong numbers.
    pub fn good(&self) -> bool {
        self.backends.iter().all(|backend| backend.rejected.is_none())
    }
}

/// Compares and measures; `save` is given all there is after each step.
pub fn check(gpu: &Gpu, save: &mut dyn FnMut(&Models) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let heads = shipped::graph_heads()?;
    let outputs = heads.iter().map(|head| (head.name.clone(), head.outputs())).collect();
    let mut found = Models { heads: outputs, backends: vec![], speed: vec![] };
    let small = BackendSettings {
        max_batch: 32,
        heads,
        layers: false,
        wanted: Wanted::Auto,
        ..BackendSettings::default()
    };
    let reference = Reference::of(&small);
    if let Err(problem) = &reference {
        println!("  nothing to compare backends with: {problem}");
    }
    let mut usable: Vec<(Runtime, Precision)> = vec![];
    for Candidate { runtime, precision, open } in choice::candidates(&small) {
        if runtime == Runtime::Cpu {
            continue;
        }
        let what = format!("{runtime} in {} bits", if precision == Precision::Mixed { 16 } else { 32 });
        let mut seen = BackendFound {
            what: what.clone(),
            name: None,
            problem: None,
            gate: None,
            rejected: None,
            least_cosine: None,
        };
        match open() {
            Err(why) => seen.problem = Some(why.to_string()),
            Ok(mut backend) => {
                seen.name = Some(backend.spec().name.clone());
                if let Ok(reference) = &reference {
                    let report = gate::check(backend.as_mut(), reference);
                    seen.rejected = report.rejection();
                    seen.gate = Some(report.to_string());
                    let cosines = report.outputs.iter().map(|output| output.cosine);
                    seen.least_cosine = cosines.min_by(f64::total_cmp);
                }
                if seen.rejected.is_none() {
                    usable.push((runtime, precision));
                }
            }
        }
        let standing = seen.problem.as_ref().or(seen.rejected.as_ref());
        println!("  {what}: {}", standing.map_or("agrees with the CPU", String::as_str));
        found.backends.push(seen);
        save(&found)?;
    }
    // The fastest of each runtime; both precisions of none.
    usable.dedup_by_key(|(runtime, _)| *runtime);
    let base = big_model().context("weights of a larger model")?;
    for (runtime, precision) in usable {
        for (name, model) in [("S", small.model.clone()), ("B", base.clone())] {
            for input in INPUTS {
                let settings = BackendSettings {
                    model: model.clone(),
                    input_width: input[0],
                    input_height: input[1],
                    heads: if name == "S" { small.heads.clone() } else { widened(&small.heads) },
                    ..small.clone()
                };
                let candidate = choice::candidates(&settings)
                    .into_iter()
                    .find(|other| (other.runtime, other.precision) == (runtime, precision));
                let Some(candidate) = candidate else { continue };
                match (candidate.open)() {
                    Ok(mut backend) => measure_all(gpu, backend.as_mut(), name, input, &mut found.speed)?,
                    Err(why) => println!("  ViT-{name} {} x {}: {why}", input[0], input[1]),
                }
                save(&found)?;
            }
        }
    }
    Ok(())
}

fn measure_all(
    gpu: &Gpu,
    backend: &mut dyn Backend,
    model: &str,
    input: [u32; 2],
    speeds: &mut Vec<Speed>,
) -> anyhow::Result<()> {
    let frames: Vec<Frame> = (0..48)
        .map(|at| kernels::random_frame(1920, 1080, PixelFormat::Nv12, at))
        .collect::<Result<_, _>>()?;
    let held: Vec<Frame> = frames.iter().map(|frame| gpu.hold(frame)).collect::<Result<_, _>>()?;
    for batch in BATCHES {
        for (from, frames) in [("host", &frames), ("device", &held)] {
            let speed = measure(backend, frames, batch)?;
            let speed = Speed { model: model.to_owned(), input, from: from.to_owned(), ..speed };
            println!(
                "  ViT-{model} {} x {}, batch {batch:2}, from {from} memory: {:.0} frames/s, {:.2} ms (p99 {:.2}), of it upload and kernel {:.2}, model {:.2}",
                input[0],
                input[1],
                speed.frames_per_s,
                speed.latency_ms,
                speed.latency_p99_ms,
                speed.preprocess_ms,
                speed.backbone_ms
            );
            speeds.push(speed);
        }
    }
    Ok(())
}

fn measure(backend: &mut dyn Backend, frames: &[Frame], batch: usize) -> anyhow::Result<Speed> {
    let batches: Vec<Batch> =
        frames.chunks_exact(batch).map(|some| Batch { frames: some.to_vec() }).collect();
    let (mut latencies, mut preprocess, mut backbone) = (vec![], vec![], vec![]);
    let mut begun = clock::monotonic();
    for at in 0.. {
        // The first ones allocate, and are put into a graph.
        if at == 4 {
            begun = clock::monotonic();
        }
        let start = clock::monotonic();
        let features = backend.infer(&batches[at % batches.len()])?;
        let took = clock::monotonic().since(start);
        if at < 4 {
            continue;
        }
        latencies.push(took.as_secs_f64() * 1000.0);
        if let Some(first) = features.first() {
            preprocess.push(first.times.preprocess.as_secs_f64() * 1000.0);
            backbone.push(first.times.backbone.as_secs_f64() * 1000.0);
        }
        if latencies.len() >= LEAST_RUNS && clock::monotonic().since(begun) > MEASURED {
            break;
        }
    }
    let seconds = clock::monotonic().since(begun).as_secs_f64();
    let frames_per_s = (batch * latencies.len()) as f64 / seconds;
    let latency_ms = median(&mut latencies);
    let latency_p99_ms = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(latency_ms);
    Ok(Speed {
        model: String::new(),
        input: [0, 0],
        batch,
        from: String::new(),
        backend: backend.spec().name.clone(),
        frames_per_s,
        latency_ms,
        latency_p99_ms,
        preprocess_ms: median(&mut preprocess),
        backbone_ms: median(&mut backbone),
    })
}

/// Heads of the same outputs for the tokens of a ViT-B: they cost the same whatever they say.
fn widened(heads: &[GraphHead]) -> Vec<GraphHead> {
    let widened = |head: &GraphHead| {
        let weights = head.bias.len() * TAPS.len() * BASE_DIM;
        GraphHead { weight: vec![1e-3; weights], ..head.clone() }
    };
    heads.iter().map(widened).collect()
}

/// A ViT-B: the installed one, else one with random weights, whose speed is the same.
fn big_model() -> anyhow::Result<String> {
    let store = Store::locate()?;
    if store.installed("dinov2-base").is_ok() {
        return Ok("dinov2-base".to_owned());
    }
    let path = store.model_path("random-base");
    if !path.is_file() {
        fs::create_dir_all(path.parent().context("the store has no folder for models")?)?;
        let metadata = [("source".to_owned(), "random, for speed only".to_owned())];
        random_base().write(&path, metadata.into())?;
    }
    Ok("random-base".to_owned())
}

/// Width of a token of a ViT-B, its blocks, and the side of the grid that its places were trained on.
const BASE_DIM: usize = 768;
const BASE_BLOCKS: usize = 12;
const BASE_POS_SIDE: usize = 37;

fn random_base() -> Weights {
    let mut random = Random(1);
    let mut tensor = |shape: &[usize], scale: f32| Tensor {
        shape: shape.to_vec(),
        values: (0..shape.iter().product()).map(|_| scale * random.unit()).collect(),
    };
    let dim = BASE_DIM;
    let mut linear = |outputs: usize, inputs: &[usize]| Linear {
        weight: tensor(&[&[outputs], inputs].concat(), 0.03),
        bias: tensor(&[outputs], 0.01),
    };
    let blocks = (0..BASE_BLOCKS)
        .map(|_| Block {
            norm1: norm(dim),
            qkv: linear(3 * dim, &[dim]),
            proj: linear(dim, &[dim]),
            ls1: filled(dim, 0.5),
            norm2: norm(dim),
            ffn: Ffn::Mlp { fc1: linear(4 * dim, &[dim]), fc2: linear(dim, &[4 * dim]) },
            ls2: filled(dim, 0.5),
        })
        .collect();
    let patch_embed = linear(dim, &[3, 14, 14]);
    Weights {
        dim,
        pos_side: BASE_POS_SIDE,
        cls_token: tensor(&[1, 1, dim], 0.1),
        pos_embed: tensor(&[1, 1 + BASE_POS_SIDE * BASE_POS_SIDE, dim], 0.1),
        register_tokens: None,
        patch_embed,
        blocks,
        norm: norm(dim),
    }
}

fn filled(length: usize, value: f32) -> Tensor {
    Tensor { shape: vec![length], values: vec![value; length] }
}

fn norm(dim: usize) -> Norm {
    Norm { weight: filled(dim, 1.0), bias: filled(dim, 0.0) }
}
