//! Every example in pipelines/ is accepted, by the program and by the schema for editors.

use std::path::{Path, PathBuf};

use standoff::cli::check::summary;
use standoff::config::{Config, Surroundings};

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
    assert!(summary(&config).contains("calibrated by 8 points"), "{}", summary(&config));
    let rules: Vec<_> = dock.rules.iter().map(|rule| (rule.id.as_str(), rule.limits_m())).collect();
    assert_eq!(rules[0], ("forklift_near_edge", (Some(2.0), 0.5)));
    assert_eq!(rules.len(), 3);
}

#[test]
fn conditions_name_the_topics_to_watch() {
    assert_eq!(load(&folder().join("two-cameras.yaml")).watched_topics(), ["dock/3/trailer"]);
}
