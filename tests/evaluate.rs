//! `standoff evaluate` on a tiny set that is drawn here, with the real backbone, against the measures written out once more
//! in double precision from their definitions.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::{Luma, Rgb, RgbImage};
use serde_json::Value;
use standoff::backend::{self, BackendSettings};
use standoff::clock::Timestamp;
use standoff::ingest::stills;
use standoff::model::matrix::Random;
use standoff::types::{Batch, CameraId};

const INPUT: u32 = 112;
const WIDTH: u32 = 120;
const HEIGHT: u32 = 96;
const CLASSES: [&str; 3] = ["checks", "discs", "stripes"];

/// One pixel of a texture.
fn texture(kind: usize, x: i64, y: i64, seed: i64) -> [u8; 3] {
    let on = match kind {
        0 => ((x + seed) / 9 + (y + seed) / 9) % 2 == 0,
        1 => ((x + seed) % 24 - 12).pow(2) + ((y + 2 * seed) % 24 - 12).pow(2) < 70,
        _ => (2 * x + y + seed) % 22 < 9,
    };
    let shade = (seed * 7 % 60) as u8;
    if on { [200 - shade, 90 + shade, 60] } else { [60, 110, 140 + shade] }
}

fn draw(path: &Path, kind_at: impl Fn(u32, u32) -> usize, seed: i64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let at = |x: u32, y: u32| Rgb(texture(kind_at(x, y), i64::from(x), i64::from(y), seed));
    RgbImage::from_fn(WIDTH, HEIGHT, at).save(path).unwrap();
}

/// A disc whose place depends on the seed: is the pixel in it, and how far from its rim.
fn disc(x: u32, y: u32, seed: i64) -> f64 {
    let (cx, cy) = (35.0 + (seed * 13 % 50) as f64, 35.0 + (seed * 29 % 30) as f64);
    (f64::from(x) + 0.5 - cx).hypot(f64::from(y) + 0.5 - cy) - 24.0
}

fn evaluate(arguments: &[&str]) -> Output {
    let input = format!("{INPUT}x{INPUT}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_standoff"));
    let output = command.arg("evaluate").args(arguments).args(["--input", &input]).output().unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

fn json(arguments: &[&str]) -> Value {
    let output = evaluate(&[arguments, &["--json"]].concat());
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// The CLS token of each picture, or none when there is no backbone here.
fn cls(pictures: &[PathBuf]) -> Option<Vec<Vec<f64>>> {
    let settings = BackendSettings { input_width: INPUT, input_height: INPUT, ..BackendSettings::default() };
    let mut backend = match backend::open(&settings) {
        Ok(backend) => backend,
        Err(error) => {
            println!("SKIP: the backend does not open: {error}");
            return None;
        }
    };
    let camera = CameraId::new("test").unwrap();
    let mut see = |path: &PathBuf| {
        let frame = stills::read(path, &camera, 0, Timestamp::from_nanos(0)).unwrap();
        let features = backend.infer(&Batch { frames: vec![frame] }).unwrap().remove(0);
        features.cls.into_iter().map(f64::from).collect()
    };
    Some(pictures.iter().map(&mut see).collect())
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn largest(values: &[f64]) -> usize {
    (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap()
}

/// Similarity and class of each of `rows`, most similar first.
fn ranked(query: &[f64], rows: &[Vec<f64>], classes: &[usize]) -> Vec<(f64, usize)> {
    let mut out: Vec<_> = rows.iter().zip(classes).map(|(row, class)| (cosine(query, row), *class)).collect();
    out.sort_by(|a, b| b.0.total_cmp(&a.0));
    out
}

/// What plain gradient descent over the standardised rows ends at, as a classifier.
fn softmax(rows: &[Vec<f64>], classes: &[usize], ridge: f64) -> impl Fn(&[f64]) -> usize {
    let (n, inputs) = (rows.len() as f64, rows[0].len());
    let mean: Vec<f64> = (0..inputs).map(|i| rows.iter().map(|row| row[i]).sum::<f64>() / n).collect();
    let sigma: Vec<f64> = (0..inputs)
        .map(|i| (rows.iter().map(|row| (row[i] - mean[i]).powi(2)).sum::<f64>() / n).sqrt() + 1e-3)
        .collect();
    let standard =
        move |row: &[f64]| -> Vec<f64> { (0..inputs).map(|i| (row[i] - mean[i]) / sigma[i]).collect() };
    let x: Vec<Vec<f64>> = rows.iter().map(|row| standard(row)).collect();
    let (mut w, mut b) = (vec![vec![0.0; inputs]; 3], [0.0; 3]);
    let logits = |w: &[Vec<f64>], b: &[f64; 3], x: &[f64]| -> Vec<f64> {
        (0..3).map(|c| b[c] + w[c].iter().zip(x).map(|(w, x)| w * x).sum::<f64>()).collect()
    };
    // The curvature is at most half of the largest square of a row, about half of the number of inputs.
    let rate = 2.0 / inputs as f64;
    for _ in 0..3000 {
        let mut errors = vec![];
        for (x, class) in x.iter().zip(classes) {
            let z = logits(&w, &b, x);
            let total: f64 = z.iter().map(|z| z.exp()).sum();
            errors.push(
                (0..3).map(|c| z[c].exp() / total - f64::from(u8::from(c == *class))).collect::<Vec<_>>(),
            );
        }
        for c in 0..3 {
            for i in 0..inputs {
                let pull: f64 = x.iter().zip(&errors).map(|(x, e)| x[i] * e[c]).sum();
                w[c][i] -= rate * (pull / n + ridge * w[c][i]);
            }
            b[c] -= rate * errors.iter().map(|e| e[c]).sum::<f64>() / n;
        }
    }
    move |row| largest(&logits(&w, &b, &standard(row)))
}

#[test]
fn classes_and_retrieval_agree_with_their_definitions() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(1);
    let mut of = |part: &str, count: usize| -> (Vec<PathBuf>, Vec<usize>) {
        let (mut paths, mut classes) = (vec![], vec![]);
        for (class, name) in CLASSES.iter().enumerate() {
            for i in 0..count {
                let path = dir.path().join(part).join(name).join(format!("{i:02}.png"));
                // Every fifth shows what another class does, and all a patch of one, so that nobody is always right.
                let kind = if i % 5 == 4 { (class + 1) % 3 } else { class };
                let other = (class + 1 + i % 2) % 3;
                let (left, seed) = (20 + (random.next_u64() % 40) as u32, (random.next_u64() % 90) as i64);
                draw(&path, |x, _| if x > left && x < left + 50 { other } else { kind }, seed);
                paths.push(path);
                classes.push(class);
            }
        }
        (paths, classes)
    };
    let (train, train_classes) = of("train", 10);
    let (val, val_classes) = of("val", 6);
    let Some(train) = cls(&train) else { return };
    let val = cls(&val).unwrap();

    let data = dir.path().to_str().unwrap();
    let cache = dir.path().join(".cache");
    let found = json(&[data, "--cache", cache.to_str().unwrap()]);
    let methods = found["classification"]["methods"].as_array().unwrap();
    let of = |name: &str| methods.iter().find(|m| m["method"] == name).unwrap();
    let share = |right: usize| right as f64 / val.len() as f64;
    let mut spread = vec![];
    for k in [10, 20] {
        let right = val.iter().zip(&val_classes).filter(|(query, class)| {
            let mut votes = [0.0; 3];
            for (similarity, class) in &ranked(query, &train, &train_classes)[..k] {
                votes[*class] += (similarity / 0.07).exp();
            }
            largest(&votes) == **class
        });
        let want = share(right.count());
        spread.push(want);
        assert!((number(&of(&format!("kNN, k = {k}"))["top_1"]) - want).abs() < 1e-9, "k = {k}: {want}");
    }
    let linear = of("linear, CLS");
    let read = softmax(&train, &train_classes, number(&linear["ridge"]));
    let want = share(val.iter().zip(&val_classes).filter(|(row, class)| read(row) == **class).count());
    spread.push(want);
    assert!((number(&linear["top_1"]) - want).abs() < 1e-9, "{linear}: {want}");
    assert!(spread.iter().all(|share| (0.2..1.0).contains(share)), "too easy or too hard: {spread:?}");

    let mut precisions = vec![];
    for (at, query) in val.iter().enumerate() {
        let others = |i: &usize| *i != at;
        let rows: Vec<_> = (0..val.len()).filter(others).map(|i| val[i].clone()).collect();
        let classes: Vec<_> = (0..val.len()).filter(others).map(|i| val_classes[i]).collect();
        let order = ranked(query, &rows, &classes);
        let relevant: Vec<usize> = (0..order.len()).filter(|i| order[*i].1 == val_classes[at]).collect();
        let precision: f64 =
            relevant.iter().enumerate().map(|(found, rank)| (found + 1) as f64 / (rank + 1) as f64).sum();
        precisions.push(precision / relevant.len() as f64);
    }
    let want = precisions.iter().sum::<f64>() / precisions.len() as f64;
    let retrieval = &found["retrieval"];
    assert!((number(&retrieval["mean_average_precision"]) - want).abs() < 1e-9, "{retrieval}: {want}");
    assert_eq!((number(&retrieval["queries"]), number(&retrieval["gallery"])), (18.0, 17.0));

    // From the cache it says the same to the last digit; a damaged file in it is made again.
    let one = fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&one).unwrap();
    fs::write(&one, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(json(&[data, "--cache", cache.to_str().unwrap()]), found);
    assert_eq!(fs::read(&one).unwrap(), whole);
}

/// Pictures of a disc of one texture on another, with masks and depth. Truth of val: class and millimetres.
fn scenes(dir: &Path) -> Vec<(String, Vec<u8>, Vec<u16>)> {
    fs::write(dir.join("classes.txt"), "ground\ndisc\nnever\n").unwrap();
    let mut truth = vec![];
    for (part, seeds) in [("train", 0..12), ("val", 12..18)] {
        for seed in seeds {
            let stem = format!("s.{seed}");
            let file = |kind: &str, end: &str| dir.join(part).join(kind).join(format!("{stem}{end}"));
            draw(&file("images", ".png"), |x, y| if disc(x, y, seed) < 0.0 { 0 } else { 2 }, seed);
            let pixels = || (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y)));
            // The rim does not count.
            let class = |(x, y): (u32, u32)| match disc(x, y, seed) {
                d if d < -1.5 => 1,
                d if d < 1.5 => 255,
                _ => 0,
            };
            let mask: Vec<u8> = pixels().map(class).collect();
            let step = |(x, y): (u32, u32)| match disc(x, y, seed) {
                d if d < 0.0 => 2500,
                // Nothing is known in a corner.
                _ if x < 10 && y < 10 => 0,
                _ => (4000 + 60 * (HEIGHT - y)) as u16,
            };
            let depth: Vec<u16> = pixels().map(step).collect();
            fs::create_dir_all(dir.join(part).join("masks")).unwrap();
            fs::create_dir_all(dir.join(part).join("depth")).unwrap();
            let mut encoder = png::Encoder::new(File::create(file("masks", ".png")).unwrap(), WIDTH, HEIGHT);
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_palette((0..768).map(|i| (i * 37 % 256) as u8).collect::<Vec<_>>());
            encoder.write_header().unwrap().write_image_data(&mask).unwrap();
            let picture = image::ImageBuffer::<Luma<u16>, _>::from_raw(WIDTH, HEIGHT, depth.clone()).unwrap();
            picture.save(file("depth", ".png")).unwrap();
            if part == "val" {
                truth.push((stem, mask, depth));
            }
        }
    }
    truth
}

#[test]
fn pixels_agree_with_what_was_written_of_them() {
    if cls(&[]).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let truth = scenes(dir.path());
    let out = dir.path().join("out");
    let found = json(&[dir.path().to_str().unwrap(), "--predictions", out.to_str().unwrap()]);
    let predicted = |kind: &str, stem: &str| {
        let picture = image::open(out.join(kind).join(format!("{stem}.png"))).unwrap();
        assert_eq!((picture.width(), picture.height()), (WIDTH, HEIGHT));
        picture
    };

    let (mut both, mut either, mut right, mut all) = ([0.0; 3], [0.0; 3], 0.0, 0.0);
    for (stem, mask, _) in &truth {
        let found = predicted("masks", stem).to_luma8().into_raw();
        for (truth, found) in mask.iter().zip(&found).filter(|(truth, _)| **truth != 255) {
            for class in 0..3u8 {
                let (is, says) = (*truth == class, *found == class);
                both[usize::from(class)] += f64::from(u8::from(is && says));
                either[usize::from(class)] += f64::from(u8::from(is || says));
            }
            right += f64::from(u8::from(truth == found));
            all += 1.0;
        }
    }
    let segmentation = &found["dense"]["segmentation"];
    let there: Vec<usize> = (0..3).filter(|class| either[*class] > 0.0).collect();
    let iou = |class: &usize| both[*class] / either[*class];
    let want = there.iter().map(iou).sum::<f64>() / there.len() as f64;
    assert!((number(&segmentation["mean_iou"]) - want).abs() < 1e-9, "{segmentation}: {want}");
    assert!((number(&segmentation["pixel_accuracy"]) - right / all).abs() < 1e-9);
    for class in there {
        assert!((number(&segmentation["classes"][class]["iou"]) - iou(&class)).abs() < 1e-9, "{class}");
    }
    assert!(iou(&0) > 0.8 && iou(&1) > 0.6, "the head learned nothing: {both:?} of {either:?}");

    let mut sums = [0.0; 5];
    for (stem, _, depth) in &truth {
        let found = predicted("depth", stem).to_luma16().into_raw();
        let pairs: Vec<(f64, f64)> = depth
            .iter()
            .zip(&found)
            .filter(|(truth, _)| **truth > 0)
            .map(|(t, f)| (f64::from(*t) / 1000.0, f64::from(*f) / 1000.0))
            .collect();
        let mean = |of: &dyn Fn(f64, f64) -> f64| {
            pairs.iter().map(|(t, f)| of(*t, *f)).sum::<f64>() / pairs.len() as f64
        };
        let shift = mean(&|t, f| f.ln() - t.ln());
        let picture = [
            mean(&|t, f| (f - t).powi(2)).sqrt(),
            mean(&|t, f| (f - t).abs() / t),
            mean(&|t, f| f64::from(u8::from((f / t).max(t / f) < 1.25))),
            mean(&|t, f| (f.log10() - t.log10()).abs()),
            100.0 * mean(&|t, f| (f.ln() - t.ln() - shift).powi(2)).sqrt(),
        ];
        sums.iter_mut().zip(picture).for_each(|(sum, value)| *sum += value / truth.len() as f64);
    }
    let depth = &found["dense"]["depth"];
    // What was written is rounded to millimetres.
    for (name, (want, slack)) in ["rmse_m", "abs_rel", "delta_1", "log10", "silog"]
        .into_iter()
        .zip(sums.into_iter().zip([1e-3, 3e-4, 2e-3, 1e-4, 2e-2]))
    {
        assert!((number(&depth[name]) - want).abs() < slack, "{name} of {depth}: {want}");
    }
    assert!(sums[1] < 0.25, "the head learned nothing: {sums:?}");
}

#[test]
fn bad_data_is_named_with_what_to_do() {
    if cls(&[]).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    scenes(dir.path());
    let data = dir.path().to_str().unwrap();
    let says = |arguments: &[&str], words: &[&str]| {
        let output = evaluate(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !text.contains("panicked"), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
    };
    let nowhere = dir.path().join("nowhere");
    says(&[nowhere.to_str().unwrap()], &["nowhere is no folder", "train/CLASS/*.jpg"]);
    let empty = tempfile::tempdir().unwrap();
    says(&[empty.path().to_str().unwrap()], &["holds nothing that can be evaluated"]);
    says(&[data, "--task", "knn"], &["which allows segmentation, depth, not knn"]);
    says(&[data, "--depth-range", "5,1"], &["NEAR must be below FAR"]);
    says(&[data, "--model", "dinov9"], &["dinov9"]);

    // Each is spoiled, tried and mended.
    let spoil = |file: &str, bytes: &[u8], arguments: &[&str], words: &[&str]| {
        let path = dir.path().join(file);
        let good = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        says(&[&[data], arguments].concat(), words);
        fs::write(&path, good).unwrap();
    };
    let picture = fs::read(dir.path().join("train/images/s.3.png")).unwrap();
    let mask = fs::read(dir.path().join("val/masks/s.13.png")).unwrap();
    let depth = fs::read(dir.path().join("val/depth/s.13.png")).unwrap();
    let mut small = vec![];
    let grey = image::GrayImage::new(30, 20);
    grey.write_to(&mut std::io::Cursor::new(&mut small), image::ImageFormat::Png).unwrap();
    spoil(
        "val/masks/s.13.png",
        &mask[..mask.len() / 2],
        &[],
        &["val/masks/s.13.png is no whole PNG", "export it"],
    );
    spoil("val/masks/s.13.png", b"", &[], &["val/masks/s.13.png is no whole PNG"]);
    spoil("val/masks/s.13.png", &small, &[], &["s.13.png is 30 x 20 pixels", "120 x 96", "one size"]);
    spoil("val/masks/s.13.png", &picture, &[], &["val/masks/s.13.png is in colour", "palette"]);
    spoil("val/depth/s.13.png", &depth[..depth.len() - 60], &[], &["val/depth/s.13.png is no whole PNG"]);
    spoil("val/depth/s.13.png", &small, &[], &["val/depth/s.13.png is grey, 8 bits", "--depth-unit"]);
    spoil("classes.txt", b"ground\n", &[], &["s.0.png holds the id 1, but there are 1 classes"]);
    spoil("train/images/s.3.png", b"no picture", &[], &["train/images/s.3.png is no picture"]);
    fs::remove_file(dir.path().join("classes.txt")).unwrap();
    says(&[data], &["cannot read", "classes.txt", "one a line"]);
    fs::write(dir.path().join("classes.txt"), "ground\ndisc\n").unwrap();
    fs::remove_file(dir.path().join("val/masks/s.13.png")).unwrap();
    says(&[data], &["val/masks/s.13.png is missing", "s.13.png has no label"]);
    fs::write(dir.path().join("val/masks/s.13.png"), &mask).unwrap();

    // Known only when the picture is decoded, which takes the backbone.
    let half = &picture[..picture.len() / 2];
    spoil("train/images/s.3.png", half, &["--task", "depth"], &["train/images/s.3.png"]);
    let range = ["--task", "depth", "--depth-range", "50,60"];
    says(&[&[data][..], &range].concat(), &["no depth of the training side lies within the range"]);
}
