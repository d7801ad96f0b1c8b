//! `standoff bench`: where the time of one frame goes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::replay::choose_camera;
use super::{EXIT_USAGE, progress};
use crate::analysis::Surroundings;
use crate::backend::recorded::Recorded;
use crate::backend::{self, BackendSettings};
use crate::clock::{self, Now};
use crate::config::Config;
use crate::daemon;
use crate::heads;
use crate::ingest::clip::Clip;
use crate::outbox::Statement;
use crate::publish::message;
use crate::types::{Batch, Frame};

/// Arguments of `standoff bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// The clip whose frames are measured
    #[arg(value_name = "CLIP", default_value = "tests/data/dock-demo/video.mp4")]
    pub clip: PathBuf,
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "pipelines/dock-demo.yaml")]
    pub config: PathBuf,
    /// How many frames, spread over the clip
    #[arg(long, default_value_t = 40, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub frames: u32,
    /// Measure nothing: write what the model says of the frames to a file for `model.recorded`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Record the frames at these times of the clip, in this order, instead of frames spread over it
    #[arg(long, value_name = "SECONDS", value_delimiter = ',', requires = "record")]
    pub at: Vec<f64>,
}

/// What each measured frame took.
#[derive(Debug, Default)]
struct Times {
    decode: Vec<Duration>,
    preprocess: Vec<Duration>,
    with_heads: Vec<Duration>,
    without_heads: Vec<Duration>,
    host_heads: Vec<Duration>,
    geometry: Vec<Duration>,
    rules: Vec<Duration>,
    publish: Vec<Duration>,
}

/// Runs the command.
pub fn run(arguments: &BenchArguments) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let camera = choose_camera(&config, None)?;
    if let Some(file) = &arguments.record {
        return record(arguments, &config, camera.id.clone(), file);
    }
    let (frames, decode) = decode(arguments, camera.id.clone())?;

    let mut settings = config.backend()?;
    settings.max_batch = 1;
    let mut with_heads = backend::open(&settings)?;
    (settings.heads, settings.depth) = (vec![], None);
    let mut without_heads = backend::open(&settings)?;
    let mut analysis = daemon::analysis_of(&config)?;
    let mut times = Times { decode: vec![decode], ..Times::default() };
    let bar = progress::bar(Some(frames.len() as u64), "frames");

    // The first pass through a graph allocates; it is not what a daemon does all day.
    let warm_up = Batch { frames: frames.iter().take(1).cloned().collect() };
    with_heads.infer(&warm_up)?;
    without_heads.infer(&warm_up)?;
    for frame in frames {
        // Both graphs on the same frame, one after the other, so that a busy machine slows both alike.
        let batch = Batch { frames: vec![frame] };
        let bare = without_heads.infer(&batch)?.pop().context("the backend gave nothing")?;
        let features = with_heads.infer(&batch)?.pop().context("the backend gave nothing")?;
        times.without_heads.push(bare.times.backbone);
        times.with_heads.push(features.times.backbone);
        times.preprocess.push(features.times.preprocess);
        let now = Now { mono: features.frame.captured + Duration::from_millis(200), utc: clock::utc() };
        let output = analysis.step(now, features, &Surroundings::default());
        let started = clock::monotonic();
        let bytes: usize = output
            .statements
            .iter()
            .filter_map(|statement| match statement {
                Statement::Rule(status) => Some(message::alarm(&config.node, status)),
                Statement::Camera(status) => Some(message::health(&config.node, status)),
                Statement::State(status) => Some(message::state(&config.node, status)),
                Statement::Pair(status) => Some(message::pair(&config.node, status)),
                Statement::Picture(picture) => Some(message::picture(&config.node, picture)),
                Statement::Report(report) => Some(message::report(&config.node, report)),
                Statement::Gone(_) => None,
            })
            .chain(output.transitions.iter().map(|event| message::event(&config.node, event, false)))
            .map(|message| message.payload.len())
            .sum();
        times.publish.push(clock::monotonic().since(started));
        std::hint::black_box(bytes);
        if let Some(snapshot) = output.snapshot {
            times.host_heads.push(snapshot.times.heads);
            times.geometry.push(snapshot.times.geometry);
            times.rules.push(snapshot.times.rules);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let spec = with_heads.spec();
    println!("{} frames of {}, {}", times.with_heads.len(), arguments.clip.display(), spec.name);
    println!("model input {} x {}, batch 1; medians\n", spec.input_width, spec.input_height);
    print!("{}", table(&times));
    Ok(ExitCode::SUCCESS)
}

/// Writes the features of some frames.
fn record(
    arguments: &BenchArguments,
    config: &Config,
    camera: crate::types::CameraId,
    file: &Path,
) -> anyhow::Result<ExitCode> {
    let frames = if arguments.at.is_empty() {
        decode(arguments, camera)?.0
    } else {
        let all = Clip::open(&arguments.clip, camera)?.collect::<Result<Vec<Frame>, _>>()?;
        let nearest = |at: &f64| {
            let away = |frame: &Frame| (frame.captured.as_nanos() as f64 / 1e9 - at).abs();
            all.iter().min_by(|a, b| away(a).total_cmp(&away(b))).cloned()
        };
        let chosen: Option<Vec<Frame>> = arguments.at.iter().map(nearest).collect();
        chosen.with_context(|| format!("{} has no frames", arguments.clip.display()))?
    };
    let settings = BackendSettings {
        max_batch: 1,
        recorded: None,
        ..config.model.backend(heads::shipped::graph_heads()?)
    };
    let mut backend = backend::open(&settings)?;
    let mut recorded = vec![];
    for frame in frames {
        recorded.extend(backend.infer(&Batch { frames: vec![frame] })?);
    }
    let bytes = Recorded::file_of(&recorded)?;
    std::fs::write(file, &bytes).with_context(|| format!("{} cannot be written", file.display()))?;
    println!("{}: {} pictures, {} bytes", file.display(), recorded.len(), bytes.len());
    Ok(ExitCode::SUCCESS)
}

/// The frames to measure, and what decoding one takes: the whole clip's time divided by its frames.
fn decode(
    arguments: &BenchArguments,
    camera: crate::types::CameraId,
) -> anyhow::Result<(Vec<Frame>, Duration)> {
    let total = Clip::open(&arguments.clip, camera.clone())?.filter_map(Result::ok).count();
    if total == 0 {
        bail!("{} has no frames", arguments.clip.display());
    }
    let wanted = (arguments.frames as usize).min(total);
    let started = clock::monotonic();
    let mut chosen = vec![];
    for (index, frame) in Clip::open(&arguments.clip, camera)?.enumerate() {
        let frame = frame?;
        if (index + 1) * wanted / total > index * wanted / total {
            chosen.push(frame);
        }
    }
    let took = clock::monotonic().since(started);
    Ok((chosen, took / u32::try_from(total).unwrap_or(u32::MAX)))
}

fn table(times: &Times) -> String {
    let backbone = median(&times.without_heads);
    let graph_heads = median_difference(&times.with_heads, &times.without_heads);
    let rows = [
        ("decode", median(&times.decode)),
        ("preprocess", median(&times.preprocess)),
        ("backbone", backbone),
        ("heads: in the graph (with less without)", graph_heads),
        ("heads: on the host", median(&times.host_heads)),
        ("geometry", median(&times.geometry)),
        ("rules", median(&times.rules)),
        ("publish", median(&times.publish)),
    ];
    let total: f64 = rows.iter().map(|(_, ms)| ms).sum();
    let rest: f64 =
        rows.iter().filter(|(name, _)| !matches!(*name, "decode" | "backbone")).map(|(_, ms)| ms).sum();
    let mut text = format!("{:<42}{:>10}{:>9}\n", "stage", "ms", "share");
    for (name, ms) in rows {
        text += &format!("{name:<42}{ms:>10.2}{:>7.1} %\n", 100.0 * ms / total);
    }
    text += &format!("{:<42}{total:>10.2}{:>7.1} %\n", "together", 100.0);
    text + &format!(
        "all but decode and backbone: {rest:.2} ms, {:.1} % of the backbone\n",
        100.0 * rest / backbone
    )
}

fn median(times: &[Duration]) -> f64 {
    median_of(times.iter().map(|time| 1000.0 * time.as_secs_f64()).collect())
}

/// Of the differences frame by frame, which a machine that gets busy in between disturbs less.
fn median_difference(more: &[Duration], less: &[Duration]) -> f64 {
    let pairs = more.iter().zip(less);
    median_of(pairs.map(|(more, less)| 1000.0 * (more.as_secs_f64() - less.as_secs_f64())).collect())
}

fn median_of(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median_of(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median_of(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        let ms = Duration::from_millis;
        assert!((median_difference(&[ms(12), ms(31)], &[ms(10), ms(30)]) - 1.5).abs() < 1e-9);
    }
}
