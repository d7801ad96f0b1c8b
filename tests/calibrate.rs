//! `standoff calibrate` as a person runs it: the demo's points, a wrong one among them, lengths instead, and what it
//! refuses. The picture is read back.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(feature = "gstreamer")]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn standoff(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_standoff")).args(arguments).output().expect("standoff runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The points of the demo: pixel and metres.
fn points() -> Vec<([f64; 2], [f64; 2])> {
    let file = root().join("tests/data/dock-demo/calibration_points.json");
    let list: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let pair = |value: &Value| [0, 1].map(|i| value[i].as_f64().unwrap());
    list.iter().map(|point| (pair(&point["pixel"]), pair(&point["floor_m"]))).collect()
}

/// A file with the keys of a calibration.
fn file(folder: &Path, keys: &str) -> PathBuf {
    let path = folder.join("evidence.yaml");
    std::fs::write(&path, format!("size: 640x360\n{keys}")).unwrap();
    path
}

fn of_points(points: &[([f64; 2], [f64; 2])]) -> String {
    let mut out = "points:\n".to_owned();
    for (pixel, floor_m) in points {
        writeln!(out, "  - {{pixel: {pixel:?}, floor_m: {floor_m:?}}}").unwrap();
    }
    out
}

/// The number and its interval behind a word of the report.
fn number(report: &str, word: &str) -> (f64, f64) {
    let line =
        report.lines().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("{word}: {report}"));
    let rest = &line[word.len()..];
    let (value, interval) = rest.split_once("+-").unwrap_or_else(|| panic!("{line}"));
    let interval = interval.split_whitespace().next().unwrap();
    (value.trim().parse().unwrap(), interval.parse().unwrap())
}

#[test]
fn the_demo_is_calibrated_and_its_grid_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("grid.png");
    let pipeline = root().join("pipelines/dock-demo.yaml");
    let output = standoff(&["calibrate", pipeline.to_str().unwrap(), "--out", picture.to_str().unwrap()]);
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}{errors}");
    // What scene.json says of this camera.
    for (word, truth, most) in [("height", 4.3, 0.2), ("tilt", 22.892, 1.5), ("roll", 0.4, 1.5)] {
        let (value, interval) = number(&said, word);
        assert!((value - truth).abs() < 0.01 && interval > 0.0 && interval < most, "{word}: {said}");
    }
    assert_eq!(said.matches("px  [").count(), 8, "one line a point: {said}");
    assert!(said.contains("at    5 m (floor at 0.00 m): ") && said.contains("cm along"), "{said}");
    assert!(said.contains("\n    calibration:") && said.contains("picture: "), "{said}");
    let drawn = image::open(&picture).unwrap().to_rgb8();
    assert_eq!(drawn.dimensions(), (1280, 720 + 25), "the picture and its legend");
    let grid = drawn.pixels().filter(|p| p.0 == [86, 220, 255]).count();
    let marks = drawn.pixels().filter(|p| p.0 == [255, 60, 170]).count();
    assert!(grid > 3000 && marks > 8 * 30, "{grid} {marks}");
}

#[test]
fn a_wrong_point_is_found_and_named_with_where_it_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let mut points = points();
    let right = points[4].0;
    points[4].0[0] += 40.0;
    let path = file(folder.path(), &format!("hfov_deg: 70\n{}", of_points(&points)));
    let picture = folder.path().join("points.png");
    let scene = root().join("tests/data/dock-demo/empty_scene.jpg");
    let output = standoff(&[
        "calibrate",
        path.to_str().unwrap(),
        "--image",
        scene.to_str().unwrap(),
        "--out",
        picture.to_str().unwrap(),
    ]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("point 5 does not fit the others"), "{errors}");
    assert!(
        errors.contains(&format!("should be at [{:.0}, {:.0}], 40 px away", right[0], right[1])),
        "{errors}"
    );
    // Where it was clicked can be looked at all the same.
    let drawn = image::open(&picture).unwrap().to_rgb8();
    assert!(drawn.pixels().any(|p| p.0 == [255, 60, 170]) && drawn.pixels().all(|p| p.0 != [86, 220, 255]));
}

#[test]
fn lengths_give_the_same_camera_and_the_block_can_be_pasted() {
    let folder = tempfile::tempdir().unwrap();
    let points = points();
    let mut keys = "hfov_deg: 70\nlengths:\n".to_owned();
    for (a, b) in [(0, 5), (0, 3), (2, 4), (3, 6), (5, 6), (2, 7)] {
        let ((from, p), (to, q)) = (points[a], points[b]);
        let length = (p[0] - q[0]).hypot(p[1] - q[1]);
        writeln!(
            keys,
            "  - {{from_pixel: {from:?}, to_pixel: {to:?}, length_m: {length:.3}, what: '{a} \"to\" {b}'}}"
        )
        .unwrap();
    }
    let path = file(folder.path(), &keys);
    let output = standoff(&["calibrate", path.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert!(said.contains("no picture: the file names no camera"), "{said}");
    assert!((number(&said, "height").0 - 4.3).abs() < 0.02, "{said}");
    assert!((number(&said, "tilt").0 - 22.89).abs() < 0.1, "{said}");

    // The block, pasted into a pipeline, is the same calibration again.
    let block = &said[said.find("    calibration:").unwrap()..said.find("no picture").unwrap()];
    let pipeline = folder.path().join("pipeline.yaml");
    std::fs::write(&pipeline, format!("cameras:\n  c:\n    url: rtsp://192.0.2.1/s\n{block}")).unwrap();
    let output = standoff(&["check", pipeline.to_str().unwrap()]);
    let checked = text(&output.stdout);
    assert!(checked.contains("calibrated by 6 measurements"), "{checked}{}", text(&output.stderr));
}

#[test]
fn the_focal_length_is_found_and_distortion_is_not_invented() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), &format!("distortion: solve\n{}", of_points(&points())));
    let output = standoff(&["calibrate", path.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    let (focal, interval) = number(&said, "focal length");
    assert!((focal - 457.0).abs() < 2.0 && interval > 1.0, "{said}");
    assert!(
        said.contains("degrees across, found") && said.contains("none: the points do not show any"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_read_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("hfov_deg: wide\npoints: []", "'wide' is not a number"),
        ("hfov_deg: 70\npoint: []", "unknown key; did you mean 'points'?"),
        ("hfov_deg: 70\npoints:\n  - {pixel: [1, 2]}", "is missing"),
    ];
    for (keys, words) in cases {
        let output = standoff(&["calibrate", file(folder.path(), keys).to_str().unwrap()]);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(words), "{errors}");
    }
    let two = root().join("pipelines/two-cameras.yaml");
    let output = standoff(&["calibrate", two.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("say which with --camera"), "{}", text(&output.stderr));
}

/// The car park's pipeline: a clip of which nobody measured anything.
fn car_park() -> PathBuf {
    root().join("tests/data/car-park/car-park.yaml")
}

#[test]
fn cars_of_assumed_size_calibrate_a_car_park() {
    let output = standoff(&["calibrate", car_park().to_str().unwrap()]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert!(said.contains("m for 1.80 +- 0.10 m") && said.contains("sigma_m: 0.05"), "{said}");
    let (height_m, interval_m) = number(&said, "height");
    assert!((8.0..13.0).contains(&height_m), "{said}");
    // A yardstick that is 5.4 % uncertain cannot give a height that is better.
    assert!(interval_m > 0.054 * height_m, "{said}");
}

#[test]
fn the_gap_between_two_cars_of_a_real_clip() {
    let shared = std::env::var_os("STANDOFF_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let clip = shared.join("data/clips/car-detection.mp4");
    if !clip.exists() {
        println!("SKIP: no data/clips in the shared folder (STANDOFF_SHARED)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::copy(clip, path("car-detection.mp4")).unwrap();
    std::fs::copy(car_park(), path("car-park.yaml")).unwrap();
    let (taught, nobody) = (path("taught"), path("no.sock"));
    let teach = |rest: &[&str]| standoff(&[&["teach", "--dir", &taught, "--socket", &nobody], rest].concat());
    let moment = path("car-detection.mp4@6.72");
    let clicks = ["370,60", "370,130", "370,190", "330,80", "370,250"].map(|click| ["--click", click]);
    let added = teach(&[&["add", &moment, "--class", "car"], clicks.as_flattened()].concat());
    let complaint = text(&added.stderr);
    if complaint.contains("model fetch") {
        println!("SKIP: a part of the model is not installed: standoff model fetch dinov2-small");
        return;
    }
    assert!(added.status.success(), "{complaint}");
    assert!(teach(&["fit", "--offline"]).status.success());
    let output = standoff(&["replay", &path("car-detection.mp4@16.64"), "--config", &path("car-park.yaml")]);
    let said = text(&output.stdout);
    println!("{said}");
    let gap = said.lines().find_map(|line| line.split_once("cars_close: ").filter(|(_, r)| r.contains("..")));
    let (_, gap) = gap.unwrap_or_else(|| panic!("{said}{}", text(&output.stderr)));
    let numbers: Vec<f64> =
        gap.split(|c: char| !(c.is_ascii_digit() || c == '.')).filter_map(|word| word.parse().ok()).collect();
    let &[nearest_m, lower_m, upper_m, ..] = numbers.as_slice() else { panic!("{gap}") };
    // By hand: 1.05 m between the bodies, 0.92 m from the red car's mirror, with the same width for both.
    assert!((0.75..1.25).contains(&nearest_m), "{gap}");
    assert!(lower_m < 0.92 && 1.05 < upper_m && upper_m - lower_m < 1.4, "{gap}");
}
