//! `standoff commission`: measures the views of live cameras while a person knows that they are good.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::EXIT_USAGE;
use super::replay::choose_camera;
use crate::clock::{self, Timestamp};
use crate::config::{Camera, Config};
use crate::daemon::views;
use crate::ingest;
use crate::slot::{Batching, HealthBoard, Slots};
use crate::types::{CameraId, CameraState};
use crate::view::{Commission, Profile};

/// How long a camera may take to give its first picture.
const FIRST_PICTURE: Duration = Duration::from_secs(30);
/// How long to wait for a picture before looking at the time.
const PATIENCE: Duration = Duration::from_millis(100);

/// Arguments of `standoff commission`.
#[derive(Debug, Args)]
pub struct CommissionArguments {
    /// The configuration
    #[arg(value_name = "FILE")]
    pub config: PathBuf,
    /// Only this camera; all without it
    #[arg(long, value_name = "CAMERA")]
    pub camera: Option<String>,
    /// How long to watch
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(10..=600))]
    pub seconds: u64,
}

/// One camera that is being measured.
struct Candidate<'a> {
    camera: &'a Camera,
    commission: Commission,
    first: Option<Timestamp>,
}

/// Runs the command: 0 when every camera was measured, 1 when one was not, 2 for a bad configuration.
pub fn run(arguments: &CommissionArguments) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let cameras: Vec<&Camera> = match &arguments.camera {
        Some(name) => vec![choose_camera(&config, Some(name))?],
        None => config.cameras.iter().collect(),
    };
    println!(
        "Watching {} for {} s. Best while little moves: what is measured is how still the camera gets.",
        cameras.iter().map(|camera| camera.id.to_string()).collect::<Vec<_>>().join(", "),
        arguments.seconds
    );
    let (candidates, health) = watch(&cameras, Duration::from_secs(arguments.seconds))?;
    let mut all = true;
    println!("{}", heading());
    for (id, candidate) in candidates {
        let line = match candidate.commission.finish() {
            Ok(profile) => {
                let path = views::store(&config.state_dir, &id, &profile.json()?)?;
                format!("{}\n{:width$}-> {}", row(&id, &profile), "", path.display(), width = 18)
            }
            Err(refusal) => {
                all = false;
                let why = health.get(&id).filter(|health| health.state != CameraState::Live);
                let why = why.map(|health| format!(" ({})", health.detail)).unwrap_or_default();
                format!("{id:<16}  not measured: {refusal}{why}")
            }
        };
        println!("{line}");
    }
    if all {
        println!("A running daemon reads this when it is started or reloaded.");
    }
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Watched<'a> = (BTreeMap<CameraId, Candidate<'a>>, BTreeMap<CameraId, crate::types::CameraHealth>);

/// Shows every camera's pictures to its commission, for `length` after its first.
fn watch<'a>(cameras: &[&'a Camera], length: Duration) -> anyhow::Result<Watched<'a>> {
    let slots = Arc::new(Slots::default());
    let board = Arc::new(HealthBoard::default());
    let mut handles = vec![];
    for camera in cameras {
        handles.push(ingest::spawn(
            camera.id.clone(),
            camera.source.clone(),
            camera.camera_latency,
            ingest::Reader::Cpu,
            slots.clone(),
            board.clone(),
        )?);
    }
    let mut candidates: BTreeMap<CameraId, Candidate<'_>> = cameras
        .iter()
        .map(|camera| {
            let commission = Commission::new(camera.view.after);
            (camera.id.clone(), Candidate { camera, commission, first: None })
        })
        .collect();
    let started = clock::monotonic();
    loop {
        let now = clock::monotonic();
        let under_way = |candidate: &Candidate<'_>| match candidate.first {
            Some(first) => now.since(first) < length,
            None => now.since(started) < FIRST_PICTURE,
        };
        if !candidates.values().any(under_way) {
            break;
        }
        for frame in slots.take(Batching::up_to(cameras.len()), PATIENCE) {
            if let Some(candidate) =
                candidates.get_mut(&frame.camera).filter(|candidate| under_way(candidate))
            {
                candidate.first = candidate.first.or(Some(now));
                candidate.commission.look(&frame);
            }
        }
    }
    let health = candidates
        .values()
        .filter_map(|candidate| Some((candidate.camera.id.clone(), board.get(&candidate.camera.id)?)))
        .collect();
    for handle in handles {
        handle.stop();
    }
    Ok((candidates, health))
}

fn heading() -> String {
    format!(
        "{:<16}  {:>9}  {:>8}  {:>10}  {:>12}  {:>9}  frozen   covered, blurred  moved",
        "camera", "size", "pictures", "brightness", "with detail", "stillest"
    )
}

/// One line: brightness as dark, middle and bright percent; tiles with detail; how much lives at the stillest.
fn row(id: &CameraId, profile: &Profile) -> String {
    let (width, height) = profile.size();
    let [dark, middle, bright] = profile.brightness.map(|share| format!("{:.0}", share * 100.0));
    let (tiles, fewest) = profile.detail_tiles();
    let monitored = |on: bool| if on { "noticed" } else { "NOT" };
    format!(
        "{:<16}  {:>9}  {:>8}  {:>10}  {:>12}  {:>8.0}%  {:<8} {:<17} {}",
        id.to_string(),
        format!("{width}x{height}"),
        profile.pictures,
        format!("{dark}-{middle}-{bright}"),
        format!("{tiles} tiles"),
        profile.stillest * 100.0,
        monitored(profile.frozen_below().is_some()),
        monitored(tiles >= fewest),
        monitored(profile.is_moved_noticed()),
    )
}
