//! How exact the metres are: every frame of `dock/val` as a clip of its own, through the real model, closer looks,
//! heads and geometry, against the truth of the renderer. Prints what docs/accuracy.md quotes.
//!
//! `STANDOFF_PART=train` takes every sixth frame of `dock/train` instead (the part that `standoff train decoder
//! --hold-out 6` leaves out), `STANDOFF_LOOKS=0` leaves out the closer looks, `STANDOFF_WORST=20` lists the worst.

// A test may stop where it stands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use standoff::analysis;
use standoff::backend::{self, Backend, BackendError, BackendSettings, BackendSpec};
use standoff::clock::Timestamp;
use standoff::geometry::{Calibration, Camera, Edge, Lens, Pair, PairEnd, Pose, Site, measure};
use standoff::heads;
use standoff::heads::decoder::{CHANNELS, NAME};
use standoff::infer::Closer;
use standoff::ingest::stills;
use standoff::replay::truth::Truth;
use standoff::types::{
    Batch, CameraId, ClassName, Dense, Distance, DistanceKind, EdgeId, Features, Frame, MetricScene, PairId,
    PixelTransform, Reading, Scene, StageTimes,
};

fn folder(part: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("STANDOFF_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let dir = shared.join("data/dock").join(part);
    dir.is_dir().then_some(dir)
}

fn setting(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap()
}

fn camera(truth: &Value) -> Camera {
    let (i, c) = (&truth["intrinsics"], &truth["camera"]);
    let at = |r: usize, k: usize| number(&c["R_world_from_cam"][r][k]);
    let [fx_px, fy_px, cx_px, cy_px] = ["fx", "fy", "cx", "cy"].map(|key| number(&i[key]));
    let [width_px, height_px] = ["width", "height"].map(|key| number(&i[key]));
    let lens = Lens { width_px, height_px, fx_px, fy_px, cx_px, cy_px, k1: 0.0, k2: 0.0 };
    let world_from_camera = [0, 1, 2].map(|r| [0, 1, 2].map(|k| at(r, k)));
    Camera {
        lens,
        pose: Pose { world_from_camera, position_m: [0, 1, 2].map(|k| number(&c["position"][k])) },
    }
}

const FORKLIFT_EDGE: &str = "forklift to edge";
const PERSON_EDGE: &str = "person to edge";
const FORKLIFT_PERSON: &str = "forklift to person";

/// A site with every edge, each measured from both classes, and the pair of classes.
fn site(truth: &Value) -> Site {
    let class = |name: &str| ClassName::new(name).unwrap();
    let mut site = Site { calibration: Some(Calibration::exact(camera(truth))), ..Site::default() };
    for (k, edge) in truth["edges"].as_array().unwrap().iter().enumerate() {
        let id = EdgeId::new(&format!("edge{k}")).unwrap();
        let point = |v: &Value| [number(&v[0]), number(&v[1])];
        site.edges.push(Edge { id: id.clone(), line_m: vec![point(&edge["a"]), point(&edge["b"])] });
        for from in ["forklift", "person"] {
            site.pairs.push(Pair {
                id: PairId::new(&format!("{from}-edge{k}")).unwrap(),
                from: class(from),
                to: PairEnd::Edge(id.clone()),
            });
        }
    }
    site.pairs.push(Pair {
        id: PairId::new("forklift-person").unwrap(),
        from: class("forklift"),
        to: PairEnd::Class(class("person")),
    });
    site
}

#[derive(Default)]
struct Scores {
    /// Frame, true distance, measured.
    whole: Vec<(String, f64, Distance)>,
    cut: Vec<(String, f64, Distance)>,
    missed: Vec<(String, f64)>,
    phantom: usize,
}

impl Scores {
    fn print(&self, name: &str) {
        let errors = |near: bool| -> Vec<f64> {
            let of = |(_, truth, d): &(String, f64, Distance)| (*truth, d.nearest_m - truth);
            let part = self.whole.iter().map(of).filter(|(truth, _)| (*truth <= 8.0) == near);
            part.map(|(truth, error)| if near { error } else { error / truth }).collect()
        };
        let rms = |v: &[f64]| (v.iter().map(|e| e * e).sum::<f64>() / v.len().max(1) as f64).sqrt();
        let median = |v: &[f64]| {
            let mut v: Vec<f64> = v.iter().map(|e| e.abs()).collect();
            v.sort_by(f64::total_cmp);
            v.get(v.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let (near, far) = (errors(true), errors(false));
        let inside = |(_, truth, d): &&(String, f64, Distance)| d.lower_m <= *truth && *truth <= d.upper_m;
        let (held, all) = (self.whole.iter().filter(inside).count(), self.whole.len());
        let [low, high] = wilson(held, all);
        println!(
            "{name}: up to 8 m: {} RMSE {:.3} m, median {:.3} m; beyond: {} RMSE {:.1} %, median {:.1} %; interval \
             holds {held} of {all} = {:.1} % ({:.1} .. {:.1}); missed {}, phantom {}; cut: bound holds {} of {}",
            near.len(),
            rms(&near),
            median(&near),
            far.len(),
            100.0 * rms(&far),
            100.0 * median(&far),
            100.0 * held as f64 / all.max(1) as f64,
            100.0 * low,
            100.0 * high,
            self.missed.len(),
            self.phantom,
            self.cut.iter().filter(|(_, truth, d)| holds(*truth, d)).count(),
            self.cut.len(),
        );
        let widths: Vec<f64> = self.whole.iter().map(|(_, _, d)| d.upper_m - d.lower_m).collect();
        println!("    width of the interval: median {:.2} m", median(&widths));
        if let Some(count) = setting("STANDOFF_WORST") {
            let mut worst: Vec<_> = self.whole.iter().collect();
            worst.sort_by(|a, b| (b.2.nearest_m - b.1).abs().total_cmp(&(a.2.nearest_m - a.1).abs()));
            for (frame, truth, d) in worst.into_iter().take(count) {
                let (at, low, high) = (d.nearest_m, d.lower_m, d.upper_m);
                println!("    {frame}: {at:.2} m ({low:.2} .. {high:.2}), true {truth:.2} m {:?}", d.kind);
            }
            for (frame, truth, d) in self.cut.iter().filter(|(_, truth, d)| !holds(*truth, d)) {
                println!("    {frame}: cut, {d:?}, true {truth:.2} m");
            }
            self.missed.iter().for_each(|(frame, truth)| println!("    {frame}: missed, true {truth:.2} m"));
        }
    }
}

/// Whether the truth of a thing that is cut off lies within what was said.
fn holds(truth: f64, d: &Distance) -> bool {
    let floor_m = match d.kind {
        DistanceKind::AtMost { floor_m } => floor_m,
        DistanceKind::Value => d.lower_m,
    };
    floor_m <= truth && truth <= d.upper_m
}

/// 95 % interval of a share (Wilson 1927).
fn wilson(held: usize, all: usize) -> [f64; 2] {
    let (n, z) = (all.max(1) as f64, 1.96f64);
    let p = held as f64 / n;
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    [middle - half, middle + half]
}

/// Keeps what the model said in a folder (`STANDOFF_CACHE`), for work on the geometry.
struct Kept {
    inner: Box<dyn Backend>,
    dir: Option<PathBuf>,
}

impl Kept {
    fn path(&self, frame: &Frame) -> Option<PathBuf> {
        let host = frame.pixels.host().unwrap();
        let mut hash = std::hash::DefaultHasher::new();
        (host.data, frame.width, frame.height, host.planes[0].offset).hash(&mut hash);
        Some(self.dir.as_ref()?.join(format!("{:016x}.json", hash.finish())))
    }

    fn one(&mut self, frame: &Frame) -> Result<Features, BackendError> {
        let path = self.path(frame);
        if let Some(Ok(bytes)) = path.as_ref().map(fs::read) {
            let values: Vec<f32> =
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            let spec = self.inner.spec();
            let t = |i: usize| f64::from(values[i]);
            let transform = PixelTransform {
                source_width: frame.width,
                source_height: frame.height,
                input_width: spec.input_width,
                input_height: spec.input_height,
                scale_x: t(0),
                scale_y: t(1),
                offset_x: t(2),
                offset_y: t(3),
            };
            let (decoder, depth) = values[4..].split_at(spec.grid.len() * CHANNELS);
            let dense = [(NAME, CHANNELS, decoder), ("depth", 2, depth)].map(|(name, channels, values)| {
                (name.to_owned(), Dense { channels, values: values.to_vec() })
            });
            return Ok(Features {
                frame: frame.clone(),
                transform,
                grid: spec.grid,
                dim: spec.dim,
                layers: vec![],
                cls: vec![],
                dense: dense.into(),
                closer: vec![],
                times: StageTimes::default(),
            });
        }
        let features = self.inner.infer(&Batch { frames: vec![frame.clone()] })?.remove(0);
        if let Some(path) = path {
            let t = features.transform;
            let place = [t.scale_x, t.scale_y, t.offset_x, t.offset_y].map(|v| v as f32);
            let values =
                place.iter().chain(&features.dense[NAME].values).chain(&features.dense["depth"].values);
            fs::write(path, values.flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
        }
        Ok(features)
    }
}

impl Backend for Kept {
    fn spec(&self) -> &BackendSpec {
        self.inner.spec()
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Features>, BackendError> {
        batch.frames.iter().map(|frame| self.one(frame)).collect()
    }
}

/// What each thing is in truth, for choosing what to believe: a line of JSON a thing.
fn dump(out: &mut String, name: &str, picture: &Path, scene: &Scene, metric: &MetricScene, truth: &Value) {
    let file = picture.with_file_name(format!("{name}_inst.png"));
    let inst = image::open(file).unwrap().to_luma8();
    for (index, thing) in scene.things.iter().enumerate() {
        let mask = &thing.mask;
        let mut counts = std::collections::BTreeMap::<u8, usize>::new();
        for (i, _) in mask.cells.iter().enumerate().filter(|(_, set)| **set) {
            let at = |first: usize, k: usize| ((first + k) as f64 + 0.5) * mask.cell_px;
            let centre = [at(mask.left, i % mask.width), at(mask.top, i / mask.width)];
            let [x, y] = thing.transform.source_from_input(centre);
            let value = inst.get_pixel((x.max(0.0) as u32).min(391), (y.max(0.0) as u32).min(223))[0];
            *counts.entry(value).or_default() += 1;
        }
        let cells: usize = counts.values().sum();
        let (best, share) = counts.iter().max_by_key(|(_, n)| **n).map_or((0, 0), |(v, n)| (*v, *n));
        let object = truth["objects"].as_array().unwrap().iter().find(|o| o["inst"] == json!(best));
        let place = metric.things.iter().find(|m| m.index == Some(index));
        let errors = |pick: fn(&standoff::types::SurfaceVote) -> f32| -> f64 {
            let all: Vec<f64> = thing.votes.iter().map(|v| f64::from(pick(v))).collect();
            all.iter().sum::<f64>() / all.len().max(1) as f64
        };
        let cell = mask.cell_px / thing.transform.scale_x;
        let [left, top] = thing
            .transform
            .source_from_input([mask.left as f64 * mask.cell_px, mask.top as f64 * mask.cell_px]);
        let line = json!({
            "frame": name, "class": thing.class.as_str(), "score": thing.score, "cells": cells,
            "px": cells as f64 * cell * cell, "zoom": thing.transform.scale_x, "cut": thing.cut.any(),
            "inst": best, "share": share as f64 / cells.max(1) as f64,
            "object": object.map(|o| json!({"cls": o["cls"], "visible_px": o["visible_px"], "box": o["box3d"],
                "bbox": o["bbox2d_visible"], "full": o["bbox2d_full"]})),
            "sigma": place.map(|p| p.sigma_m), "outline": place.map(|p| p.outline_ground_m.clone()),
            "height_error": errors(|v| v.height_m.error), "foot_error": errors(|v| v.foot_px[1].error),
            "heading_error": errors(|v| v.heading.map_or(0.0, |h| h.error)),
            "box": [left, top, left + mask.width as f64 * cell, top + mask.height as f64 * cell],
            "feet": thing.meets_floor.iter().filter(|m| **m).count(),
        });
        out.push_str(&format!("{line}\n"));
    }
}

#[test]
fn metres_on_rendered_frames() {
    let part = std::env::var("STANDOFF_PART").unwrap_or_else(|_| "val".into());
    let Some(dir) = folder(&part) else {
        println!("SKIP: no data/dock/{part} in the shared folder (STANDOFF_SHARED)");
        return;
    };
    let heads = heads::shipped::graph_heads().unwrap();
    let settings = BackendSettings { heads, max_batch: 4, layers: false, ..BackendSettings::default() };
    let dir_kept = std::env::var_os("STANDOFF_CACHE").map(PathBuf::from);
    let mut backend: Box<dyn Backend> = match backend::open(&settings) {
        Ok(inner) => Box::new(Kept { inner, dir: dir_kept }),
        Err(error) => {
            println!("SKIP: the backend does not open: {error}");
            return;
        }
    };
    let wanted: Vec<_> = ["forklift", "person"].iter().map(|c| ClassName::new(c).unwrap()).collect();
    let mut host = heads::shipped::heads(&wanted).unwrap();
    let mut closer = Closer::new(setting("STANDOFF_LOOKS").unwrap_or(4)).unwrap();
    let mut pictures: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    pictures.retain(|p| p.extension().is_some_and(|e| e == "jpg"));
    pictures.sort();
    if part == "train" {
        pictures = pictures.into_iter().skip(5).step_by(6).collect();
    }
    let id = CameraId::new("val").unwrap();
    let mut lines = String::new();
    let mut scores: Vec<(&str, Scores)> =
        [FORKLIFT_EDGE, PERSON_EDGE, FORKLIFT_PERSON].map(|name| (name, Scores::default())).into();
    for (index, picture) in pictures.iter().enumerate() {
        let name = picture.file_stem().unwrap().to_string_lossy().into_owned();
        let frame = stills::read(picture, &id, index as u64, Timestamp::from_nanos(0)).unwrap();
        let (width, height) = (frame.width, frame.height);
        let mut seen = backend.infer(&Batch { frames: vec![frame] }).unwrap();
        closer.look(backend.as_mut(), &mut seen, usize::MAX).unwrap();
        let scene = analysis::see(&mut host, &seen[0]);
        let json: Value =
            serde_json::from_str(&fs::read_to_string(picture.with_extension("json")).unwrap()).unwrap();
        let site = site(&json);
        let line = json!({"frame": index, "t": 0.0, "objects": json["objects"]}).to_string();
        let truth = Truth::parse(&line).unwrap();
        let metric = measure(&scene, &site);
        dump(&mut lines, &name, picture, &scene, &metric, &json);
        for (what, scores) in &mut scores {
            let of = |pair: &&Pair| match &pair.to {
                PairEnd::Edge(_) => *what == format!("{} to edge", pair.from),
                PairEnd::Class(_) => *what == FORKLIFT_PERSON,
            };
            let pairs: Vec<&Pair> = site.pairs.iter().filter(of).collect();
            let Some(true_) = pairs.first().map(|pair| truth.distance(index, pair, width, height)) else {
                continue;
            };
            // Of several edges the nearest, as the truth means it.
            let readings = pairs.iter().filter_map(|pair| {
                let found = metric.pairs.iter().find(|reading| reading.pair == pair.id)?;
                let Reading::Measured(distance) = &found.reading else { return None };
                Some(distance.clone())
            });
            let measured = readings.min_by(|a, b| a.nearest_m.total_cmp(&b.nearest_m));
            match (true_, measured) {
                (Some(truth), Some(d)) if truth.cut => scores.cut.push((name.clone(), truth.distance_m, d)),
                (Some(truth), Some(d)) => scores.whole.push((name.clone(), truth.distance_m, d)),
                (Some(truth), None) if !truth.cut => scores.missed.push((name.clone(), truth.distance_m)),
                (None, Some(_)) => scores.phantom += 1,
                _ => {}
            }
        }
    }
    scores.iter().for_each(|(name, scores)| scores.print(name));
    if let Some(path) = std::env::var_os("STANDOFF_THINGS") {
        fs::write(path, lines).unwrap();
    }
}
