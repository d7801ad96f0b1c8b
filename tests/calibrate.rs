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
