//! `standoff replay`: the daemon's path over a clip in virtual time, scored against the truth if there is one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::report::{self, Collector};
use super::teach::picture;
use super::{EXIT_USAGE, progress};
use crate::backend::{self, BackendSettings};
use crate::config::{Camera, Config};
use crate::daemon;
use crate::draw;
use crate::infer::Closer;
use crate::ingest::clip::Clip;
use crate::replay;
use crate::replay::score::{PairScore, RuleScore, Scorer};
use crate::replay::truth::Truth;
use crate::types::{CameraId, Frame, Transition};

/// Arguments of `standoff replay`.
#[derive(Debug, Args)]
pub struct ReplayArguments {
    /// The clip: a video file, a folder of pictures, one picture, or one moment of a video: FILE@SECONDS
    #[arg(value_name = "CLIP")]
    pub clip: PathBuf,
    /// The configuration; its camera's source is replaced by the clip
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Which of the configuration's cameras; needed when it has several
    #[arg(long, value_name = "CAMERA")]
    pub camera: Option<String>,
    /// The truth about the clip: one JSON object a line and frame
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Print the scores, or without truth the transitions, as JSON
    #[arg(long)]
    pub json: bool,
    /// Write annotated frames and the plot into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// The camera that was asked for, or the only one.
pub fn choose_camera<'a>(config: &'a Config, name: Option<&str>) -> anyhow::Result<&'a Camera> {
    let names = || config.cameras.iter().map(|camera| camera.id.to_string()).collect::<Vec<_>>().join(", ");
    match (name, config.cameras.as_slice()) {
        (Some(name), cameras) => cameras
            .iter()
            .find(|camera| camera.id.as_str() == name)
            .with_context(|| format!("the configuration has no camera '{name}'; it has: {}", names())),
        (None, [camera]) => Ok(camera),
        (None, _) => bail!("the configuration has several cameras ({}): say which with --camera", names()),
    }
}

/// Reads a truth file.
pub fn read_truth(path: &Path) -> anyhow::Result<Truth> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("truth file {} cannot be read", path.display()))?;
    Truth::parse(&text).with_context(|| format!("truth file {}", path.display()))
}

/// Runs the command.
pub fn run(arguments: &ReplayArguments) -> anyhow::Result<ExitCode> {
    let mut config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let camera = choose_camera(&config, arguments.camera.as_deref())?.clone();
    let truth = arguments.truth.as_deref().map(read_truth).transpose()?;
    let setup = daemon::setup_of(&config, &camera);
    config.cameras = vec![camera];

    let settings = BackendSettings { max_batch: 1, ..config.backend()? };
    let mut backend = backend::open(&settings)?;
    let mut analysis = daemon::analysis_of(&config)?;
    let (path, seconds) = picture::split(&arguments.clip.to_string_lossy())?;
    let (frames, count): (Box<dyn Iterator<Item = _>>, _) = if seconds.is_some() {
        let frame = picture::frame_at(&path, seconds)?;
        (Box::new(std::iter::once(Ok(Frame { camera: setup.id.clone(), ..frame }))), Some(1))
    } else {
        let clip = Clip::open(&arguments.clip, setup.id.clone())?;
        let count = clip.frame_count();
        (Box::new(clip), count)
    };
    let bar = progress::bar(count, "frames");

    let has_truth = truth.is_some();
    let mut collector = Collector::new(Scorer::new(truth.unwrap_or_default(), setup.site.pairs.clone()));
    let mut transitions = vec![];
    // One annotated frame for each second of the clip.
    let (mut pictures, mut next_picture_s) = (vec![], 0.0);
    let mut closer = Closer::new(config.model.closer_looks)?;
    replay::run(frames, &setup.id, backend.as_mut(), &mut closer, &mut analysis, |step| {
        for transition in &step.transitions {
            if !arguments.json {
                bar.suspend(|| println!("{}", report::transition_line(step.t_s, transition)));
            }
            transitions.push((step.t_s, transition.clone()));
        }
        if seconds.is_some() && !arguments.json {
            bar.suspend(|| println!("{}", report::live_line(step.t_s, &step.snapshot)));
        }
        if arguments.out.is_some() && step.t_s >= next_picture_s {
            pictures.push((step.t_s, report::annotated(&step.snapshot, &setup.site, step.t_s)));
            next_picture_s = step.t_s.floor() + 1.0;
        }
        let told = !step.transitions.is_empty();
        collector.add(step, told);
        bar.inc(1);
    })?;
    bar.finish_and_clear();

    let (pairs, rules) = (collector.scorer.pair_scores(), collector.scorer.rule_scores());
    if arguments.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&json(
                &setup.id,
                &transitions,
                has_truth.then_some((&pairs, &rules))
            ))?
        );
    } else if has_truth {
        print!("{}", report::tables(&pairs, &rules));
    }
    if let Some(folder) = &arguments.out {
        let page = collector.write_page(&setup, folder, "replay.png")?;
        for (t_s, picture) in &pictures {
            draw::save(picture, &folder.join(format!("frame-{t_s:07.2}.png")))?;
        }
        if !arguments.json {
            println!("picture: {}", page.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn json(
    camera: &CameraId,
    transitions: &[(f64, Transition)],
    scores: Option<(&Vec<PairScore>, &Vec<RuleScore>)>,
) -> serde_json::Value {
    let transitions: Vec<_> = transitions
        .iter()
        .map(|(t_s, transition)| {
            let distance = transition.status.distance.as_ref();
            serde_json::json!({
                "t_s": t_s,
                "rule": transition.status.rule.as_str(),
                "from": transition.from.word(),
                "to": transition.status.state.word(),
                "reason": transition.status.state.reason(),
                "distance_m": distance.map(|distance| distance.nearest_m),
                "lower_m": distance.map(|distance| distance.lower_m),
                "upper_m": distance.map(|distance| distance.upper_m),
            })
        })
        .collect();
    serde_json::json!({
        "camera": camera.as_str(),
        "transitions": transitions,
        "pairs": scores.map(|(pairs, _)| pairs),
        "rules": scores.map(|(_, rules)| rules),
    })
}
