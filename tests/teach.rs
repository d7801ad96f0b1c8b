//! Teaching, with the real backbone: how good a class gets with 1, 3, 10 and 30 examples, a state from 20 frames, and
//! a lesson that goes live in a running daemon.
//!
//! The table of docs/teach.md: `cargo test --release --test teach -- --nocapture`.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "demo")]
#[path = "teach/live.rs"]
mod live;
#[cfg(feature = "demo")]
#[path = "e2e/site.rs"]
#[allow(dead_code, reason = "other test binaries use the rest")]
mod site;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use standoff::backend::{self, Backend, BackendSettings};
use standoff::clock::{self, Timestamp};
use standoff::heads::TaughtHead;
use standoff::heads::taught::{
    Backbone, Extent, Mark, Picture, Shown, Standard, Taught, TaughtState, Tokens, class,
};
use standoff::heads::upsample::{CELLS_PER_PATCH, Upsample};
use standoff::ingest::stills;
use standoff::model::matrix::Random;
use standoff::types::{Batch, CameraId, ClassName, StateName, StateValue};

const COUNTS: [usize; 4] = [1, 3, 10, 30];
const REPEATS: usize = 3;
/// Name and value in the masks.
const CLASSES: [(&str, u8); 3] = [("forklift", 5), ("person", 6), ("pallet", 8)];
/// Frames of which so many patches are mostly the class are examples of it.
const LEAST_PATCHES: usize = 2;
/// Examples are drawn from so many frames of each class.
const POOL: usize = 36;

fn part(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("STANDOFF_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let dir = shared.join("data/dock").join(name);
    if !dir.is_dir() {
        println!("SKIP: no data/dock/{name} in the shared folder (STANDOFF_SHARED)");
        return None;
    }
    Some(dir)
}

fn open() -> Option<Box<dyn Backend>> {
    match backend::open(&BackendSettings::default()) {
        Ok(backend) => Some(backend),
        Err(error) => {
            println!("SKIP: the backend does not open: {error}");
            None
        }
    }
}

fn pictures(dir: &Path) -> Vec<PathBuf> {
    let mut list: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    list.retain(|path| path.extension().is_some_and(|e| e == "jpg"));
    list.sort();
    list
}

/// One frame with its labels.
struct Frame {
    tokens: Tokens,
    /// Class of each pixel.
    seg: Vec<u8>,
    width: usize,
}

fn seg(picture: &Path) -> (Vec<u8>, usize) {
    let name = format!("{}_seg.png", picture.file_stem().unwrap().to_string_lossy());
    let image = image::open(picture.with_file_name(name)).unwrap().to_luma8();
    let width = image.width() as usize;
    (image.into_raw(), width)
}

fn tokens(backend: &mut dyn Backend, picture: &Path) -> Tokens {
    let id = CameraId::new("dock").unwrap();
    let frame = stills::read(picture, &id, 0, Timestamp::from_nanos(0)).unwrap();
    Tokens::of(&backend.infer(&Batch { frames: vec![frame] }).unwrap().remove(0)).unwrap()
}

/// Share of each square of `side` pixels that is the class.
fn shares(seg: &[u8], width: usize, side: f64, class: u8) -> Vec<f32> {
    let (cols, rows) = ((width as f64 / side) as usize, ((seg.len() / width) as f64 / side) as usize);
    let edge = |n: usize| (n as f64 * side).round() as usize;
    (0..rows * cols)
        .map(|at| {
            let (ys, xs) = (edge(at / cols)..edge(at / cols + 1), edge(at % cols)..edge(at % cols + 1));
            let all = ys.len() * xs.len();
            let own =
                ys.flat_map(|y| xs.clone().map(move |x| (x, y))).filter(|(x, y)| seg[y * width + x] == class);
            own.count() as f32 / all as f32
        })
        .collect()
}

fn learn(frames: &[&Frame], name: &ClassName, value: u8) -> Taught {
    let pictures: Vec<Picture<'_>> = frames
        .iter()
        .map(|frame| {
            let cover = shares(&frame.seg, frame.width, 14.0, value);
            let mark = Mark { class: Some(name.clone()), extent: Extent::Outline, cover };
            Picture { tokens: &frame.tokens, marks: vec![mark] }
        })
        .collect();
    let rows = frames.iter().flat_map(|f| (0..f.tokens.grid.len()).map(|patch| f.tokens.row(patch)));
    let standard = Standard::over(rows, frames[0].tokens.inputs);
    let classes = vec![class::learn(name, &pictures, &standard).unwrap()];
    let backbone = Backbone { sha256: String::new(), input_width: 392, input_height: 224 };
    Taught { backbone, standard, classes, states: vec![] }
}

/// Intersection over union by cell, and accuracy by patch, balanced between what is the class and what is not.
fn score(head: &TaughtHead, val: &[Frame], value: u8) -> (f64, f64) {
    let (mut both, mut either) = (0usize, 0usize);
    let mut right = [[0usize; 2]; 2];
    let mut cells = vec![];
    for frame in val {
        let logits = head.logits(&frame.tokens);
        let up = Upsample::new(frame.tokens.grid);
        up.apply(&logits, 1, &mut cells);
        for (cell, share) in
            cells.iter().zip(shares(&frame.seg, frame.width, 14.0 / CELLS_PER_PATCH as f64, value))
        {
            both += usize::from(*cell > 0.0 && share > 0.5);
            either += usize::from(*cell > 0.0 || share > 0.5);
        }
        for (logit, share) in logits.iter().zip(shares(&frame.seg, frame.width, 14.0, value)) {
            right[usize::from(share > 0.5)][usize::from(*logit > 0.0)] += 1;
        }
    }
    let recall = right[1][1] as f64 / (right[1][0] + right[1][1]) as f64;
    let spared = right[0][0] as f64 / (right[0][0] + right[0][1]) as f64;
    (both as f64 / either as f64, 0.5 * (recall + spared))
}

#[test]
fn a_class_gets_better_with_examples_and_is_fitted_in_seconds() {
    let (Some(train), Some(val)) = (part("train"), part("val")) else { return };
    let Some(mut backend) = open() else { return };
    let pool = pictures(&train);
    let val: Vec<Frame> = pictures(&val)
        .iter()
        .map(|picture| {
            let (seg, width) = seg(picture);
            Frame { tokens: tokens(backend.as_mut(), picture), seg, width }
        })
        .collect();
    let mut known: std::collections::BTreeMap<PathBuf, Frame> = Default::default();
    println!("class     examples  IoU by cell      patch accuracy (balanced)  method         fit, s");
    let mut ten = vec![];
    for (name, value) in CLASSES {
        let mut names = vec![];
        // Spread over all of train.
        for picture in pool.iter().step_by(7).chain(pool.iter().skip(3).step_by(7)) {
            let (seg, width) = seg(picture);
            let shown = shares(&seg, width, 14.0, value).iter().filter(|share| **share > 0.5).count();
            if names.len() < POOL && shown >= LEAST_PATCHES {
                let tokens = &mut || tokens(backend.as_mut(), picture);
                known.entry(picture.clone()).or_insert_with(|| Frame { tokens: tokens(), seg, width });
                names.push(picture.clone());
            }
        }
        assert!(names.len() > 30, "{name}: {}", names.len());
        let class = ClassName::new(name).unwrap();
        let mut random = Random(3);
        for count in COUNTS {
            let (mut ious, mut accuracies, mut methods, mut took) = (vec![], vec![], vec![], 0.0f64);
            for _ in 0..REPEATS {
                random.shuffle(&mut names);
                let frames: Vec<&Frame> = names[..count].iter().map(|name| &known[name]).collect();
                let started = clock::monotonic();
                let taught = learn(&frames, &class, value);
                took = took.max(clock::monotonic().since(started).as_secs_f64());
                methods.push(&taught.classes[0].method.name()[..4] == "line");
                let (iou, accuracy) = score(&TaughtHead::new(taught), &val, value);
                ious.push(iou);
                accuracies.push(accuracy);
            }
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let spread = |values: &[f64]| {
                let m = mean(values);
                (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
            };
            let lines = methods.iter().filter(|line| **line).count();
            println!(
                "{name:<9} {count:>8}  {:.3} +- {:.3}  {:.3} +- {:.3}             {lines} of {REPEATS} a line  {took:.2}",
                mean(&ious),
                spread(&ious),
                mean(&accuracies),
                spread(&accuracies)
            );
            if count == 10 {
                ten.push((name, mean(&ious), took));
            }
        }
    }
    for (name, _, took) in &ten {
        assert!(*took < 5.0, "{name}: {took} s");
    }
    assert!(ten[0].1 > 0.40, "{ten:?}");
}

/// Parts of a picture, each with the number of the value that it shows.
type Zones = Vec<(Vec<[f64; 2]>, u8)>;

/// A state's examples in a part of the data: what `zones` finds in each frame, `most_each` of each value.
fn shown(
    backend: &mut dyn Backend,
    dir: &Path,
    most_each: usize,
    zones: impl Fn(&Value) -> Zones,
) -> Vec<Shown> {
    let mut count = [0usize; 2];
    let mut out = vec![];
    for (number, picture) in pictures(dir).into_iter().enumerate() {
        let truth: Value =
            serde_json::from_str(&fs::read_to_string(picture.with_extension("json")).unwrap()).unwrap();
        let mut wanted = zones(&truth);
        wanted.retain(|(_, value)| {
            count[usize::from(*value)] += 1;
            count[usize::from(*value)] <= most_each
        });
        if !wanted.is_empty() {
            let tokens = tokens(backend, &picture);
            out.extend(wanted.iter().map(|(zone, value)| Shown {
                pooled: tokens.pooled(Some(zone)),
                value: *value,
                picture: number,
            }));
        }
    }
    out
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// Doors that are wholly in the picture, open (1) or closed (0): their opening up to 2.6 m.
fn doors(truth: &Value) -> Zones {
    let (k, c) = (&truth["intrinsics"], &truth["camera"]);
    let (w, h) = (number(&k["width"]), number(&k["height"]));
    let project = |x: f64, y: f64, z: f64| -> Option<[f64; 2]> {
        let d = [x, y, z].iter().zip(0..).map(|(v, i)| v - number(&c["position"][i])).collect::<Vec<_>>();
        let along =
            |col: usize| (0..3).map(|row| number(&c["R_world_from_cam"][row][col]) * d[row]).sum::<f64>();
        let depth = along(2);
        let u = (number(&k["fx"]) * along(0) / depth + number(&k["cx"])) / w;
        let v = (number(&k["fy"]) * along(1) / depth + number(&k["cy"])) / h;
        (depth > 0.5 && (0.0..=1.0).contains(&u) && (0.0..=1.0).contains(&v)).then_some([u, v])
    };
    let door = |edge: &Value| {
        let value = match edge["state"].as_str()? {
            "closed" => 0,
            "open" => 1,
            _ => return None,
        };
        let [ax, ay, bx, by] = [&edge["a"][0], &edge["a"][1], &edge["b"][0], &edge["b"][1]].map(number);
        // Longer ones are the open side of a yard, no doors.
        if (ax - bx).hypot(ay - by) > 6.0 {
            return None;
        }
        let corners = [(ax, ay, 0.0), (bx, by, 0.0), (bx, by, 2.6), (ax, ay, 2.6)];
        let zone = corners.into_iter().map(|(x, y, z)| project(x, y, z)).collect::<Option<Vec<_>>>()?;
        let area = (0..4)
            .map(|i| zone[i][0] * zone[(i + 1) % 4][1] - zone[(i + 1) % 4][0] * zone[i][1])
            .sum::<f64>();
        // At least six patches of 448.
        (area.abs() * 0.5 * 448.0 >= 6.0).then_some((zone, value))
    };
    truth["edges"].as_array().unwrap().iter().filter_map(door).collect()
}

/// Forklifts that are large enough to see a load: their box.
fn forks(truth: &Value) -> Zones {
    let (w, h) = (number(&truth["intrinsics"]["width"]), number(&truth["intrinsics"]["height"]));
    let forklift = |object: &Value| {
        let loaded = object["loaded"].as_bool()?;
        if object["visible_px"].as_u64()? < 2500 {
            return None;
        }
        let [l, t, r, b] = [0, 1, 2, 3].map(|k| number(&object["bbox2d_visible"][k]));
        let zone = vec![[l / w, t / h], [r / w, t / h], [r / w, b / h], [l / w, b / h]];
        Some((zone, u8::from(loaded)))
    };
    truth["objects"].as_array().unwrap().iter().filter_map(forklift).collect()
}

#[test]
fn a_state_is_learned_from_twenty_frames() {
    let (Some(train), Some(val)) = (part("train"), part("val")) else { return };
    let Some(mut backend) = open() else { return };
    let values = ["no", "yes"].map(|value| StateValue::new(value).unwrap()).to_vec();
    let mut judge = |name: &str, zones: fn(&Value) -> Zones| {
        let examples = shown(backend.as_mut(), &train, 10, zones);
        let tests = shown(backend.as_mut(), &val, usize::MAX, zones);
        assert_eq!(examples.len(), 20);
        let started = clock::monotonic();
        let name = StateName::new(name).unwrap();
        let state = TaughtState::learn(name.clone(), values.clone(), None, &examples).unwrap();
        let took = clock::monotonic().since(started).as_secs_f64();
        let (mut right, mut unknown) = (0, 0);
        for test in &tests {
            match state.read(&test.pooled).value {
                None => unknown += 1,
                Some(value) => right += usize::from(value == values[usize::from(test.value)]),
            }
        }
        let wrong = tests.len() - right - unknown;
        println!(
            "{name}: 20 examples, {} of val: {right} right, {wrong} wrong, {unknown} unknown; {:?}; fitted in {took:.2} s",
            tests.len(),
            state.validation
        );
        assert!(took < 5.0, "{took} s");
        (right, wrong, unknown)
    };
    let (right, wrong, unknown) = judge("door-open", doors);
    assert!(right >= 4 * wrong && unknown * 3 < right, "{right} right, {wrong} wrong, {unknown} unknown");
    // Said, not claimed: from any side of any forklift this is little better than a guess.
    judge("forks-loaded", forks);
}
