//! How exact the metres are: `standoff evaluate --task metres` on the frames of `dock/val`, which nothing was trained on, has
//! to stay within what docs/accuracy.md quotes, with room for another build of the model's runtime.
//!
//! `STANDOFF_WORST=20` lists the worst readings of each kind.

// A test may stop where it stands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use standoff::backend::{self, BackendSettings};

fn val() -> Option<PathBuf> {
    let shared = std::env::var_os("STANDOFF_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let dir = shared.join("data/dock/val");
    dir.is_dir().then_some(dir)
}

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap()
}

/// A share that holds, and of how many.
fn held(v: &Value) -> (f64, f64) {
    let all = number(&v["all"]);
    (number(&v["held"]) / all.max(1.0), all)
}

fn print_worst(readings: &[Value], count: usize) {
    for kind in ["forklift to edge", "person to edge", "forklift to person"] {
        let mut own: Vec<&Value> = readings.iter().filter(|r| r["pair"] == kind).collect();
        // Missed and phantom ones first.
        let error = |r: &Value| match (r["true_m"].as_f64(), r["measured_m"].as_f64()) {
            (Some(true_m), Some(measured_m)) => (measured_m - true_m).abs(),
            _ => f64::INFINITY,
        };
        own.sort_by(|a, b| error(b).total_cmp(&error(a)));
        own.iter().take(count).for_each(|r| println!("{r}"));
    }
}

#[test]
fn metres_on_rendered_frames() {
    let Some(dir) = val() else {
        println!("SKIP: no data/dock/val in the shared folder (STANDOFF_SHARED)");
        return;
    };
    if let Err(error) = backend::open(&BackendSettings::default()) {
        println!("SKIP: the backend does not open: {error}");
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_standoff"));
    let output = command.arg("evaluate").arg(&dir).args(["--task", "metres", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let metres = &report["metres"];
    for variant in metres["variants"].as_array().unwrap() {
        println!("{}", variant["variant"]);
        variant["pairs"].as_array().unwrap().iter().for_each(|pair| println!("  {pair}"));
        println!("  all {}", variant["pooled"]);
    }
    if let Ok(count) = std::env::var("STANDOFF_WORST") {
        print_worst(metres["readings"].as_array().unwrap(), count.parse().unwrap());
    }

    assert_eq!(metres["frames"], 80);
    let shipped = &metres["variants"][0];
    // Median error up to 8 m, median width of the interval, how many of about 50, 50 and 29 may be missed.
    let bars = [
        ("forklift to edge", 0.30, 1.7, 2.0),
        ("person to edge", 0.20, 1.2, 10.0),
        ("forklift to person", 0.30, 2.2, 8.0),
    ];
    for ((name, median_m, width_m, missed), pair) in bars.iter().zip(shipped["pairs"].as_array().unwrap()) {
        assert_eq!(pair[0], *name);
        let score = &pair[1];
        assert!(number(&score["near_m"]["median"]) <= *median_m, "{pair}");
        assert!(number(&score["near_right_things_m"]["rmse"]) <= 0.4, "{pair}");
        assert!(number(&score["width_m"]) <= *width_m, "{pair}");
        assert!(number(&score["missed"]) <= *missed && number(&score["phantom"]) <= 5.0, "{pair}");
    }
    let (interval, all) = held(&shipped["pooled"]["interval"]);
    assert!(interval >= 0.88 && all >= 105.0, "{interval} of {all}");
    let (bound, all) = held(&shipped["pooled"]["cut"]);
    assert!(bound >= 0.88 && all >= 45.0, "{bound} of {all}");
}
