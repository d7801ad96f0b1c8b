//! The shipped heads on rendered frames that they were not trained on, through the real backend:
//! what `src/heads/shipped/CARD.md` claims must be reached here too, on every second frame of `val/`.

// A test may stop where it stands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use standoff::backend::{self, BackendSettings};
use standoff::clock::Timestamp;
use standoff::heads::{self, decoder};
use standoff::ingest::stills;
use standoff::types::{Batch, CameraId, Features};

fn val() -> Option<PathBuf> {
    let shared = std::env::var_os("STANDOFF_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let dir = shared.join("data/dock/val");
    dir.is_dir().then_some(dir)
}

fn beside(picture: &Path, suffix: &str) -> PathBuf {
    picture.with_file_name(format!("{}{suffix}", picture.file_stem().unwrap().to_string_lossy()))
}

#[derive(Default)]
struct Scores {
    patches: usize,
    right: usize,
    /// Intersection and union of forklift and person, by patch.
    iou: [(usize, usize); 2],
    abs_rel: Vec<f64>,
    close: Vec<f64>,
}

const CLASSES: [&str; 2] = ["forklift", "person"];

impl Scores {
    fn patches(&mut self, features: &Features, picture: &Path, classes: &[String]) {
        let seg = image::open(beside(picture, "_seg.png")).unwrap().to_luma8();
        let depth = image::open(beside(picture, "_depth.png")).unwrap().to_luma16();
        let logits = &features.dense[decoder::NAME];
        let (mut abs_rel, mut close, mut known) = (0.0, 0.0, 0.0);
        for patch in 0..features.grid.len() {
            let (col, row) = ((patch % features.grid.cols) as u32, (patch / features.grid.cols) as u32);
            let mut counts = [0usize; 256];
            let (mut sum, mut n) = (0.0, 0.0);
            for i in 0..196 {
                let (x, y) = (col * 14 + i % 14, row * 14 + i / 14);
                counts[usize::from(seg.get_pixel(x, y)[0])] += 1;
                let d = f64::from(depth.get_pixel(x, y)[0]) / 1000.0;
                if d > 0.05 {
                    sum += d.ln();
                    n += 1.0;
                }
            }
            let truth = (0..classes.len()).rev().max_by_key(|c| counts[*c]).unwrap();
            let said = &logits.values[patch * logits.channels..(patch + 1) * logits.channels];
            let got = decoder::likeliest_class(said);
            self.patches += 1;
            self.right += usize::from(got == truth);
            for (iou, name) in self.iou.iter_mut().zip(CLASSES) {
                let class = classes.iter().position(|c| c == name).unwrap();
                iou.0 += usize::from(got == class && truth == class);
                iou.1 += usize::from(got == class || truth == class);
            }
            if n > 98.0 {
                let (truth, got) =
                    ((sum / n).exp(), f64::from(features.dense["depth"].values[2 * patch].exp()));
                abs_rel += (got - truth).abs() / truth;
                close += f64::from(u8::from((got / truth).max(truth / got) < 1.25));
                known += 1.0;
            }
        }
        self.abs_rel.push(abs_rel / known);
        self.close.push(close / known);
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn shipped_heads_reach_their_card_on_val() {
    let Some(dir) = val() else {
        println!("SKIP: no data/dock/val in the shared folder (STANDOFF_SHARED)");
        return;
    };
    let heads = heads::shipped::graph_heads().unwrap();
    let mut backend = match backend::open(&BackendSettings { heads, ..BackendSettings::default() }) {
        Ok(backend) => backend,
        Err(error) => {
            println!("SKIP: the backend does not open: {error}");
            return;
        }
    };
    let classes = heads::shipped::classes().unwrap();
    let mut pictures: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    pictures.retain(|p| p.extension().is_some_and(|e| e == "jpg"));
    pictures.sort();
    let mut scores = Scores::default();
    for picture in pictures.iter().step_by(2) {
        let id = CameraId::new("val").unwrap();
        let frame = stills::read(picture, &id, 0, Timestamp::from_nanos(0)).unwrap();
        let features = backend.infer(&Batch { frames: vec![frame] }).unwrap().remove(0);
        scores.patches(&features, picture, &classes);
    }

    let accuracy = scores.right as f64 / scores.patches as f64;
    let [forklift, person] = scores.iou.map(|(both, any)| both as f64 / any as f64);
    let (abs_rel, delta_1) = (mean(&scores.abs_rel), mean(&scores.close));
    println!("patches: accuracy {accuracy:.3}, forklift IoU {forklift:.3}, person IoU {person:.3}");
    println!("depth: AbsRel {abs_rel:.3}, delta-1 {delta_1:.3}");
    // The bars of issue 2 (patch accuracy 0.90, IoU 0.73 and 0.55, AbsRel 0.19, delta-1 0.66), with the room that half
    // of the frames needs. Distances are scored by tests/metres.rs.
    assert!(accuracy >= 0.89 && forklift >= 0.71 && person >= 0.53);
    assert!(abs_rel <= 0.20 && delta_1 >= 0.64);
}
