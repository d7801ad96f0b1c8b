//! `standoff check FILE`: every problem of a configuration at once, or what it says in a few lines.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Camera, Config};
use crate::ingest::CameraSource;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration to check.
    pub file: PathBuf,
}

/// Checks and prints. Exit code 2 means that the file is not accepted.
pub fn run(args: &Args) -> ExitCode {
    match Config::load(&args.file) {
        Ok(config) => {
            println!("ok: {}\n{}", args.file.display(), summary(&config));
            for doubt in &config.doubts {
                eprintln!("doubtful: {doubt}");
            }
            ExitCode::SUCCESS
        }
        Err(problems) => {
            eprintln!("{problems}");
            ExitCode::from(2)
        }
    }
}

/// What a configuration says, in a line for the daemon and one a camera.
pub fn summary(config: &Config) -> String {
    let Config { node, model, mqtt, cameras, .. } = config;
    let (width, height) = (model.input_width, model.input_height);
    let depth = model.depth.file().map_or_else(String::new, |file| format!(", depth by {}", file.display()));
    let mut lines = vec![format!(
        "  node {node}, model {} at {width}x{height}{depth}, broker {}:{}",
        model.name, mqtt.host, mqtt.port
    )];
    lines.extend(cameras.iter().map(camera_line));
    lines.join("\n")
}

fn camera_line(camera: &Camera) -> String {
    let source = match &camera.source {
        CameraSource::Rtsp(source) => format!("{:?}", source.url),
        CameraSource::File { path, .. } => format!("clip {}", path.display()),
        CameraSource::Images { dir, .. } => format!("pictures in {}", dir.display()),
    };
    let calibration = match &camera.site.calibration {
        Some(calibration) => format!(
            "calibrated by {} measurements (reprojection error {:.2} px)",
            calibration.residual_px.len(),
            calibration.rms_px
        ),
        None => "NOT CALIBRATED: every rule stays unknown".to_owned(),
    };
    let count = |n: usize, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
    let rules: Vec<&str> = camera.rules.iter().map(|rule| rule.id.as_str()).collect();
    let rules = if rules.is_empty() { "no rules".to_owned() } else { format!("rules {}", rules.join(", ")) };
    let pairs = count(camera.site.pairs.len(), "pair");
    format!("  camera {}: {source}, {calibration}, {pairs}, {rules}", camera.id)
}
