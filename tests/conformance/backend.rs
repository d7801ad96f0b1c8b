//! One suite for every backend. ONNX Runtime on the CPU is the first; its tolerance stands beside each test.

use standoff::backend::{self, Backend, BackendSettings, Wanted};
use standoff::clock::{Timestamp, UtcMillis};
use standoff::model::graph::{GraphHead, HeadLayer, HeadTail};
use standoff::model::store::Store;
use standoff::preprocess::color;
use standoff::types::{
    Batch, CameraId, ChromaSiting, ColorMatrix, ColorRange, Features, Frame, PixelFormat, Pixels,
};

use super::support::{Random, environment, installed};

/// A head in the graph against the same arithmetic in float64 on the host, relative to the largest value.
const HEAD_TOLERANCE: f64 = 1e-4;
/// A frame in a batch against the same frame alone, |difference| / |reference|.
const BATCH_TOLERANCE: f64 = 1e-4;

pub fn frame(camera: &str, width: u32, height: u32, seed: u64) -> Frame {
    let mut random = Random(seed);
    let step = |random: &mut Random| 0.02 + 0.1 * random.unit().abs();
    let (fx, fy, gx) = (step(&mut random), step(&mut random), step(&mut random));
    let picture = image::RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (x as f32, y as f32);
        let wave = |a: f32| (127.0 + 120.0 * a.sin()) as u8;
        image::Rgb([wave(fx * x), wave(fy * y), wave(gx * (x + y))])
    });
    let (data, planes) = color::i420_from_rgb(&picture);
    Frame {
        camera: CameraId::new(camera).unwrap(),
        seq: seed,
        captured: Timestamp::from_nanos(seed),
        captured_utc: UtcMillis(0),
        arrived: Timestamp::default(),
        width,
        height,
        pixels: Pixels::Host { format: PixelFormat::I420, data, planes },
        matrix: ColorMatrix::Bt601,
        range: ColorRange::Full,
        siting: ChromaSiting::JPEG,
    }
}

fn heads() -> Vec<GraphHead> {
    let mut random = Random(9);
    let mut values =
        |count: usize, scale: f32| (0..count).map(|_| scale * random.unit()).collect::<Vec<f32>>();
    let mut head = |name: &str, outputs: usize, tail: HeadTail| GraphHead {
        name: name.to_owned(),
        weight: values(outputs * 4 * 384, 0.01),
        bias: values(outputs, 1.0),
        layers: vec![],
        tail,
    };
    let bins = (0..64).map(|bin| 0.5 + bin as f32 * 0.4).collect();
    let segment = head("segment", 5, HeadTail::Logits);
    let depth = head("depth", 64, HeadTail::BinMoments { values: bins });
    let mut decoder = head("decoder", 6, HeadTail::Logits);
    let mut layer = |neighbours: bool, inputs: usize, outputs: usize| HeadLayer {
        neighbours,
        weight: values(outputs * inputs * if neighbours { 9 } else { 1 }, 0.2),
        bias: values(outputs, 1.0),
    };
    decoder.layers = vec![layer(true, 6, 8), layer(false, 8, 5), layer(false, 5, 3)];
    vec![segment, depth, decoder]
}

fn open(max_batch: usize) -> Option<Box<dyn Backend>> {
    let store = Store::locate().unwrap();
    let (Some(_), Some(_)) = (environment(), installed(store.model_path("dinov2-small"))) else {
        return None;
    };
    let settings = BackendSettings {
        max_batch,
        heads: heads(),
        threads: Some(2),
        wanted: Wanted::Cpu,
        ..BackendSettings::default()
    };
    Some(backend::open(&settings).unwrap())
}

/// The layers above a head's first map on the host, in float64, for one patch.
fn above(head: &GraphHead, first: &[Vec<f64>], rows: usize, cols: usize) -> Vec<Vec<f64>> {
    let mut below = first.to_vec();
    for (i, layer) in head.layers.iter().enumerate() {
        if i > 0 {
            let gelu = |x: f64| 0.5 * x * (1.0 + super::weights::erf(x / std::f64::consts::SQRT_2));
            below.iter_mut().flatten().for_each(|x| *x = gelu(*x));
        }
        let inputs = below[0].len();
        let reach = i64::from(layer.neighbours);
        below = (0..rows * cols)
            .map(|patch| {
                let mut out: Vec<f64> = layer.bias.iter().map(|b| f64::from(*b)).collect();
                let (row, col) = ((patch / cols) as i64, (patch % cols) as i64);
                let near = (-reach..=reach).flat_map(|y| (-reach..=reach).map(move |x| (row + y, col + x)));
                for (k, (y, x)) in near.enumerate() {
                    if (0..rows as i64).contains(&y) && (0..cols as i64).contains(&x) {
                        let source = &below[y as usize * cols + x as usize];
                        for (o, out) in out.iter_mut().enumerate() {
                            let weights = &layer.weight[(o * layer.patches() + k) * inputs..][..inputs];
                            *out += source.iter().zip(weights).map(|(s, w)| s * f64::from(*w)).sum::<f64>();
                        }
                    }
                }
                out
            })
            .collect();
    }
    below
}

/// What `head` gives on the host for each patch, in float64.
fn on_the_host(head: &GraphHead, features: &Features) -> Vec<f64> {
    let dim = features.dim;
    let first: Vec<Vec<f64>> = (0..features.grid.len())
        .map(|patch| {
            (head.weight.chunks_exact(4 * dim).zip(&head.bias))
                .map(|(row, bias)| {
                    let tokens = features.layers.iter().flat_map(|layer| &layer[patch * dim..][..dim]);
                    f64::from(*bias)
                        + row.iter().zip(tokens).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>()
                })
                .collect()
        })
        .collect();
    let mut values = Vec::new();
    for logits in above(head, &first, features.grid.rows, features.grid.cols) {
        match &head.tail {
            HeadTail::Logits => values.extend(logits),
            HeadTail::BinMoments { values: bins } => {
                let largest = logits.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mean = weights.iter().zip(bins).map(|(w, v)| w * f64::from(*v)).sum::<f64>() / sum;
                let square = |(w, v): (&f64, &f32)| w * (f64::from(*v) - mean).powi(2);
                let variance = weights.iter().zip(bins).map(square).sum::<f64>() / sum;
                values.extend([mean, variance.sqrt()]);
            }
            HeadTail::Official(_) => unreachable!("tests/conformance/depth.rs has these"),
        }
    }
    values
}

fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut b.iter().map(|v| f64::from(*v)))
}

#[test]
fn heads_in_the_graph_give_what_the_host_would() {
    let Some(mut backend) = open(1) else { return };
    assert_eq!((backend.spec().dim, backend.spec().grid.rows, backend.spec().grid.cols), (384, 16, 28));
    assert_eq!(backend.spec().heads, ["segment", "depth", "decoder"]);
    println!("{}", backend.spec().name);
    let features = backend.infer(&Batch { frames: vec![frame("a", 640, 360, 1)] }).unwrap().remove(0);
    assert_eq!(features.dense["segment"].channels, 5);
    assert_eq!(features.dense["depth"].channels, 2);
    assert_eq!(features.dense["decoder"].channels, 3);
    for head in heads() {
        let expected = on_the_host(&head, &features);
        let dense = &features.dense[&head.name].values;
        assert_eq!(dense.len(), expected.len());
        let scale = expected.iter().fold(0.0f64, |largest, v| largest.max(v.abs()));
        let worst =
            dense.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs() / scale).fold(0.0, f64::max);
        println!("head {}: largest difference {worst:.1e} of the largest value", head.name);
        assert!(worst <= HEAD_TOLERANCE);
    }
}

#[test]
fn a_batch_gives_what_each_frame_gives_alone() {
    let Some(mut backend) = open(3) else { return };
    let frames = vec![frame("a", 640, 360, 1), frame("b", 333, 501, 2), frame("c", 1280, 720, 3)];
    let together = backend.infer(&Batch { frames: frames.clone() }).unwrap();
    for (frame, together) in frames.into_iter().zip(&together) {
        assert_eq!((&together.frame.camera, together.frame.seq), (&frame.camera, frame.seq));
        let alone = backend.infer(&Batch { frames: vec![frame] }).unwrap().remove(0);
        assert_eq!(alone.transform, together.transform);
        assert!(together.times.backbone > alone.times.preprocess);
        for (a, b) in alone.layers.iter().zip(&together.layers) {
            assert_eq!(a.len(), 448 * 384);
            assert!(relative(b, a) <= BATCH_TOLERANCE, "{}", relative(b, a));
        }
        assert!(relative(&together.cls, &alone.cls) <= BATCH_TOLERANCE);
        for (name, dense) in &alone.dense {
            assert!(relative(&together.dense[name].values, &dense.values) <= BATCH_TOLERANCE, "{name}");
        }
    }
    assert!(backend.infer(&Batch::default()).is_err());
    let four = (0..4).map(|i| frame("a", 64, 64, i)).collect();
    assert_eq!(
        backend.infer(&Batch { frames: four }).unwrap_err().to_string(),
        "inference failed: a batch of 4 frames was given, the backend takes 1 to 3"
    );
}

#[test]
fn a_broken_frame_is_named() {
    let Some(mut backend) = open(1) else { return };
    let mut broken = frame("dock-2", 64, 64, 7);
    broken.height = 65;
    assert_eq!(
        backend.infer(&Batch { frames: vec![broken] }).unwrap_err().to_string(),
        "frame 7 of camera 'dock-2' cannot be preprocessed: plane 2 needs 33 rows of 32 bytes, but its stride is 32 \
         and 1024 bytes are there"
    );
}

/// Milliseconds a frame and memory: `cargo test --release --test conformance -- --ignored --nocapture time`.
#[test]
#[ignore = "prints times; asserts nothing"]
fn time() {
    for count in [1, 4] {
        let Some(mut backend) = open(count) else { return };
        let frames: Vec<Frame> = (0..count).map(|i| frame("a", 640, 360, i as u64)).collect();
        let opened = resident_mb();
        let mut times: Vec<f64> = (0..12)
            .map(|_| {
                let features = backend.infer(&Batch { frames: frames.clone() }).unwrap();
                features[0].times.backbone.as_secs_f64() * 1e3 / count as f64
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!(
            "backbone with heads at 392x224, batch {count}: median {:.1}, best {:.1} ms a frame; \
             {opened} MB after opening, {} MB after 12 runs",
            times[6],
            times[0],
            resident_mb()
        );
    }
}

/// Resident memory of this process.
fn resident_mb() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096 / 1_000_000
}
