//! The shipped heads and the geometry on rendered frames that they were not trained on, through the real backend:
//! what `src/heads/shipped/CARD.md` claims must be reached here too, on every second frame of `val/`.

// A test may stop where it stands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use standoff::backend::{self, BackendSettings};
use standoff::clock::Timestamp;
use standoff::geometry::{Calibration, Camera, Edge, Lens, Pair, PairEnd, Pose, Site, measure};
use standoff::heads::{self, decoder};
use standoff::ingest::stills;
use standoff::types::{Batch, CameraId, ClassName, EdgeId, Features, PairId, Reading, Scene};

fn val() -> Option<PathBuf> {
    let shared = std::env::var_os("STANDOFF_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let dir = shared.join("data/dock/val");
    dir.is_dir().then_some(dir)
}

fn beside(picture: &Path, suffix: &str) -> PathBuf {
    picture.with_file_name(format!("{}{suffix}", picture.file_stem().unwrap().to_string_lossy()))
}

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap()
}

fn point(v: &Value) -> [f64; 2] {
    [number(&v[0]), number(&v[1])]
}

fn camera(truth: &Value) -> Camera {
    let i = &truth["intrinsics"];
    let c = &truth["camera"];
    let mut world_from_camera = [[0.0; 3]; 3];
    for (r, row) in world_from_camera.iter_mut().enumerate() {
        for (k, v) in row.iter_mut().enumerate() {
            *v = number(&c["R_world_from_cam"][r][k]);
        }
    }
    Camera {
        lens: Lens {
            width_px: number(&i["width"]),
            height_px: number(&i["height"]),
            fx_px: number(&i["fx"]),
            fy_px: number(&i["fy"]),
            cx_px: number(&i["cx"]),
            cy_px: number(&i["cy"]),
            k1: 0.0,
            k2: 0.0,
        },
        pose: Pose { world_from_camera, position_m: [0, 1, 2].map(|k| number(&c["position"][k])) },
    }
}

/// A site that measures one class to every edge of the frame.
fn site(truth: &Value, class: &str) -> Site {
    let mut edges = Vec::new();
    let mut pairs = Vec::new();
    for (k, e) in truth["edges"].as_array().unwrap().iter().enumerate() {
        let id = EdgeId::new(&format!("edge{k}")).unwrap();
        edges.push(Edge { id: id.clone(), line_m: vec![point(&e["a"]), point(&e["b"])] });
        pairs.push(Pair {
            id: PairId::new(&format!("pair{k}")).unwrap(),
            from: ClassName::new(class).unwrap(),
            to: PairEnd::Edge(id),
        });
    }
    Site { calibration: Some(Calibration::exact(camera(truth))), edges, pairs, ..Site::default() }
}

#[derive(Default)]
struct Scores {
    patches: usize,
    right: usize,
    /// Intersection and union of forklift and person, by patch.
    iou: [(usize, usize); 2],
    abs_rel: Vec<f64>,
    close: Vec<f64>,
    /// Error and whether the interval holds the truth, for forklift and person.
    distances: [Vec<(f64, bool)>; 2],
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

    /// Whole things that were found, each measured alone against all edges.
    fn distances(&mut self, scene: &Scene, truth: &Value) {
        for object in truth["objects"].as_array().unwrap() {
            let class = object["cls"].as_str().unwrap();
            let Some(index) = CLASSES.iter().position(|c| *c == class) else { continue };
            let full = [0, 1, 2, 3].map(|k| number(&object["bbox2d_full"][k]));
            let whole = full[0] >= 0.0 && full[1] >= 0.0 && full[2] <= 392.0 && full[3] <= 224.0;
            if !whole || number(&object["visible_px"]) < 150.0 {
                continue;
            }
            let seen = [0, 1, 2, 3].map(|k| number(&object["bbox2d_visible"][k]));
            let overlap = |t: &standoff::types::Thing| {
                let m = &t.mask;
                let b = [m.left, m.top, m.left + m.width, m.top + m.height].map(|v| v as f64 * m.cell_px);
                let (w, h) = (b[2].min(seen[2]) - b[0].max(seen[0]), b[3].min(seen[3]) - b[1].max(seen[1]));
                let both = w.max(0.0) * h.max(0.0);
                let area = |b: &[f64; 4]| (b[2] - b[0]) * (b[3] - b[1]);
                both / (area(&b) + area(&seen) - both)
            };
            let same = scene.things.iter().filter(|t| t.class.as_str() == class && !t.cut.any());
            let Some(thing) = same.max_by(|a, b| overlap(a).total_cmp(&overlap(b))) else { continue };
            if overlap(thing) < 0.3 {
                continue;
            }
            let alone = Scene { things: vec![thing.clone()], ..scene.clone() };
            let readings = measure(&alone, &site(truth, class)).pairs;
            let nearest = readings
                .iter()
                .filter_map(|p| match &p.reading {
                    Reading::Measured(d) => Some(d),
                    _ => None,
                })
                .min_by(|a, b| a.nearest_m.total_cmp(&b.nearest_m));
            if let Some(d) = nearest {
                let truth = number(&object["dist_dock_edge_m"]);
                self.distances[index].push((d.nearest_m - truth, d.lower_m <= truth && truth <= d.upper_m));
            }
        }
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
    let wanted: Vec<_> = CLASSES.iter().map(|c| ClassName::new(c).unwrap()).collect();
    let mut host = heads::shipped::heads(&wanted).unwrap();
    let classes = heads::shipped::classes().unwrap();
    let mut pictures: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    pictures.retain(|p| p.extension().is_some_and(|e| e == "jpg"));
    pictures.sort();
    let mut scores = Scores::default();
    for picture in pictures.iter().step_by(2) {
        let id = CameraId::new("val").unwrap();
        let frame = stills::read(picture, &id, 0, Timestamp::from_nanos(0)).unwrap();
        let features = backend.infer(&Batch { frames: vec![frame] }).unwrap().remove(0);
        let truth: Value =
            serde_json::from_str(&fs::read_to_string(picture.with_extension("json")).unwrap()).unwrap();
        scores.patches(&features, picture, &classes);
        let mut scene = heads::empty_scene(&features);
        for head in &mut host {
            head.apply(&features, &mut scene).unwrap();
        }
        scores.distances(&scene, &truth);
    }

    let accuracy = scores.right as f64 / scores.patches as f64;
    let [forklift, person] = scores.iou.map(|(both, any)| both as f64 / any as f64);
    let (abs_rel, delta_1) = (mean(&scores.abs_rel), mean(&scores.close));
    println!("patches: accuracy {accuracy:.3}, forklift IoU {forklift:.3}, person IoU {person:.3}");
    println!("depth: AbsRel {abs_rel:.3}, delta-1 {delta_1:.3}");
    let mut rmse = [0.0; 2];
    let mut cover = [0.0; 2];
    for (k, name) in CLASSES.iter().enumerate() {
        let d = &scores.distances[k];
        rmse[k] = mean(&d.iter().map(|e| e.0 * e.0).collect::<Vec<_>>()).sqrt();
        cover[k] = d.iter().filter(|e| e.1).count() as f64 / d.len() as f64;
        println!(
            "{name} to edge: {} measured, RMSE {:.2} m, interval holds {:.2}",
            d.len(),
            rmse[k],
            cover[k]
        );
    }
    // The bars of issue 2 (patch accuracy 0.90, IoU 0.73 and 0.55, AbsRel 0.19, delta-1 0.66), with the room that half
    // of the frames needs; distances with room to what the card says.
    assert!(accuracy >= 0.89 && forklift >= 0.71 && person >= 0.53);
    assert!(abs_rel <= 0.20 && delta_1 >= 0.64);
    assert!(scores.distances[0].len() >= 15 && scores.distances[1].len() >= 12);
    assert!(rmse[0] <= 0.9 && rmse[1] <= 0.5);
    assert!(cover.iter().all(|c| *c >= 0.85));
}
