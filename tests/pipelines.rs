//! Every example in pipelines/ is accepted, by the program and by the schema for editors.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use standoff::cli::check::summary;
use standoff::config::{Config, Surroundings};
use yaml_rust2::{Yaml, YamlLoader};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")
}

fn examples() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    files
}

fn load(path: &Path) -> Config {
    let names = ["STANDOFF__MQTT__PASSWORD", "STANDOFF__CAMERAS__GATE__PASSWORD"];
    let passwords = names.map(|name| (name.to_owned(), "secret-1".to_owned())).to_vec();
    let around = Surroundings {
        file: path.display().to_string(),
        folder: folder(),
        variables: if path.ends_with("two-cameras.yaml") { passwords } else { vec![] },
        machine_id: Some("0123456789abcdef".into()),
    };
    Config::parse(&std::fs::read_to_string(path).unwrap(), &around)
        .unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn every_example_is_accepted() {
    let files = examples();
    assert!(files.len() >= 3, "{files:?}");
    for file in &files {
        let config = load(file);
        let text = format!("{}\n{config:?}", summary(&config));
        assert!(!config.cameras.is_empty());
        assert!(config.cameras.iter().all(|camera| !camera.rules.is_empty()));
        assert!(!text.contains("NOT CALIBRATED"), "{text}");
        assert!(!text.contains("secret-1"), "a password is shown: {text}");
    }
}

#[test]
fn the_demo_says_what_the_clip_needs() {
    let config = load(&folder().join("dock-demo.yaml"));
    let dock = &config.cameras[0];
    let calibration = dock.site.calibration.as_ref().unwrap();
    let lens = &calibration.camera.lens;
    assert!((lens.fx_px - 457.00736).abs() < 1e-3, "{}", lens.fx_px);
    assert_eq!((lens.cx_px, lens.cy_px), (320.0, 180.0));
    assert_eq!(calibration.residual_px.len(), 8);
    assert_eq!(dock.site.edges[0].line_m, [[-21.0, 0.0], [13.0, 0.0]]);
    let rules: Vec<_> = dock.rules.iter().map(|rule| (rule.id.as_str(), rule.limits_m())).collect();
    assert_eq!(rules[0], ("forklift_near_edge", (Some(2.0), 0.5)));
    assert_eq!(rules.len(), 3);
}

#[test]
fn conditions_name_the_topics_to_watch() {
    assert_eq!(load(&folder().join("two-cameras.yaml")).watched_topics(), ["dock/3/trailer"]);
}

/// YAML as an editor reads it: plain scalars have the type they look like.
fn json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Hash(entries) => {
            entries.iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), json(value))).collect()
        }
        Yaml::Array(items) => items.iter().map(json).collect(),
        Yaml::String(text) => Value::from(text.as_str()),
        Yaml::Integer(number) => Value::from(*number),
        Yaml::Real(text) => Value::from(text.parse::<f64>().unwrap()),
        Yaml::Boolean(flag) => Value::from(*flag),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_example_fits_the_schema_for_editors() {
    let schema = std::fs::read_to_string(folder().join("schema.json")).unwrap();
    let schema = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let errors = |value: &Value| schema.iter_errors(value).map(|error| error.to_string()).collect::<Vec<_>>();
    for file in examples() {
        let documents = YamlLoader::load_from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let mut value = json(&documents[0]);
        assert_eq!(errors(&value), Vec::<String>::new(), "{}", file.display());
        value["cameras"]["x"] =
            serde_json::json!({"rules": {"r": {"pair": "p", "alarm_m": "near", "clear_after": 1}}});
        assert_eq!(errors(&value).len(), 2, "{:?}", errors(&value));
    }
}
