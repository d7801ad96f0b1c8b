//! `standoff evaluate DIR`: how much a backbone's frozen features are worth on a folder of labelled data, by the protocol
//! of the DINOv2 paper: neighbours and a linear map for classes, linear heads for segmentation and depth, retrieval by
//! cosine. And how exact the metres are that the shipped heads and the geometry make of it.

mod classify;
mod dense;
mod embed;
mod labels;
mod layout;
mod metres;
mod metrics;
mod report;
mod softmax;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use clap::{Args, ValueEnum};

use crate::backend::BackendSettings;
use crate::cli::progress::bar;
use crate::cli::teach::size;
use crate::model::matrix::Matrix;
use classify::Embedded;
use dense::{DepthReading, Side};
use embed::Embedder;
use layout::{Data, Labelled, Sample};
use report::{Dense, Report};

/// What can be evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Classes by nearest neighbours
    Knn,
    /// Classes by a linear map
    Linear,
    /// The class of every pixel
    Segmentation,
    /// The depth of every pixel
    Depth,
    /// Pictures of the same class first
    Retrieval,
    /// The distances that the shipped heads and the geometry give; only when asked for
    Metres,
}

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct EvaluateArguments {
    /// The labelled data; docs/evaluate.md says how it is laid out
    #[arg(value_name = "DIR")]
    data: PathBuf,
    /// What to evaluate, separated by commas; without it all that the data allows
    #[arg(long, value_enum, value_delimiter = ',')]
    task: Vec<Task>,
    /// Installed model or weights file
    #[arg(long, value_name = "NAME", default_value = "dinov2-small")]
    model: String,
    /// Size of the model's input
    #[arg(long, value_name = "WxH", default_value = "392x224", value_parser = size)]
    input: (u32, u32),
    /// Take so many pictures of the training side at most, evenly chosen
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    train_max: Option<u32>,
    /// Metres that one step of a depth file means
    #[arg(long, value_name = "METRES", default_value = "0.001", value_parser = metres)]
    depth_unit: f32,
    /// Depth that counts, and that the head can say; without it all depth and what the training side reaches
    #[arg(long, value_name = "NEAR,FAR", value_parser = range)]
    depth_range: Option<(f32, f32)>,
    /// Keep what the backbone says of each picture in this folder, and take it from there the next time
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Write the masks and depths that were found into this folder
    #[arg(long, value_name = "DIR")]
    predictions: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn metres(text: &str) -> Result<f32, String> {
    let value = text.trim().parse().ok().filter(|v: &f32| v.is_finite() && *v > 0.0);
    value.ok_or_else(|| format!("'{text}' is not a number of metres above 0"))
}

fn range(text: &str) -> Result<(f32, f32), String> {
    let (near, far) = text.split_once(',').ok_or_else(|| format!("'{text}' is not NEAR,FAR in metres"))?;
    let (near, far) = (metres(near)?, metres(far)?);
    if near < far { Ok((near, far)) } else { Err(format!("'{text}': NEAR must be below FAR")) }
}

/// Evenly chosen ones, all when there are no more.
fn some<T: Clone>(all: &[T], most: Option<u32>) -> Vec<T> {
    let most = most.map_or(all.len(), |most| most as usize).min(all.len());
    (0..most).map(|i| all[i * all.len() / most].clone()).collect()
}

/// Runs the command.
///
/// # Errors
/// Data that is laid out otherwise or damaged, a task that it does not allow, no model, no backend.
pub fn run(arguments: &EvaluateArguments) -> anyhow::Result<ExitCode> {
    let data = layout::find(&arguments.data)?;
    let tasks = tasks(arguments, &data)?;
    let settings = BackendSettings {
        model: arguments.model.clone(),
        input_width: arguments.input.0,
        input_height: arguments.input.1,
        ..BackendSettings::default()
    };
    let mut embedder = Embedder::new(settings, arguments.cache.as_deref())?;
    let mut report = Report::new(&arguments.model, &embedder, data.layout);
    // Labels are read before the first picture is seen: what is wrong with them is said at once.
    if let Some(scenes) = &data.scenes {
        let segment = tasks.contains(&Task::Segmentation);
        let depth = tasks.contains(&Task::Depth);
        if segment || depth {
            report.dense = Some(pixels(arguments, scenes, (segment, depth), &mut embedder)?);
        }
    }
    let classes = [Task::Knn, Task::Linear].iter().any(|task| tasks.contains(task));
    if let Some(labelled) = data.labelled.as_ref().filter(|_| classes) {
        let train = embed(&some(&labelled.train, arguments.train_max), &mut embedder)?;
        let val = embed(&labelled.val, &mut embedder)?;
        let n = labelled.classes.len();
        let mut found = vec![];
        if tasks.contains(&Task::Knn) {
            found.extend(classify::neighbours(&train, &val, n));
        }
        if tasks.contains(&Task::Linear) {
            found.extend(classify::linear(&train, &val, n));
        }
        report.classification = Some(report::Classification {
            classes: labelled.classes.clone(),
            train: train.targets.len(),
            val: val.targets.len(),
            methods: found,
        });
    }
    if let Some(Labelled { train, val, .. }) =
        data.retrieval.as_ref().filter(|_| tasks.contains(&Task::Retrieval))
    {
        let queries = embed(val, &mut embedder)?;
        let gallery = if train.is_empty() { None } else { Some(embed(train, &mut embedder)?) };
        report.retrieval = Some(classify::retrieve(&queries, gallery.as_ref()));
    }
    if tasks.contains(&Task::Metres) {
        report.metres = Some(metres::evaluate(arguments, &data.frames)?);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The tasks that are wanted, each of which the data must allow; without a wish all that it allows.
fn tasks(arguments: &EvaluateArguments, data: &Data) -> anyhow::Result<Vec<Task>> {
    let masks = data.scenes.as_ref().is_some_and(|scenes| !scenes.classes.is_empty());
    let depth = data.scenes.as_ref().is_some_and(|scenes| scenes.depth);
    let allowed: Vec<Task> = [
        (Task::Knn, data.labelled.is_some()),
        (Task::Linear, data.labelled.is_some()),
        (Task::Segmentation, masks),
        (Task::Depth, depth),
        (Task::Retrieval, data.retrieval.is_some()),
        (Task::Metres, !data.frames.is_empty()),
    ]
    .into_iter()
    .filter_map(|(task, allowed)| allowed.then_some(task))
    .collect();
    if arguments.task.is_empty() {
        // Metres are about the shipped heads, not about a backbone.
        let all: Vec<Task> = allowed.into_iter().filter(|task| *task != Task::Metres).collect();
        ensure!(!all.is_empty(), "{} allows metres only: give --task metres", arguments.data.display());
        return Ok(all);
    }
    let word = |task: &Task| task.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
    for task in &arguments.task {
        ensure!(
            allowed.contains(task),
            "{} is laid out as {}, which allows {}, not {}",
            arguments.data.display(),
            data.layout,
            allowed.iter().map(word).collect::<Vec<_>>().join(", "),
            word(task)
        );
    }
    Ok(arguments.task.clone())
}

fn pixels(
    arguments: &EvaluateArguments,
    scenes: &layout::Scenes,
    (segment, depth): (bool, bool),
    embedder: &mut Embedder,
) -> anyhow::Result<Dense> {
    let reading = DepthReading { unit_m: arguments.depth_unit, range_m: arguments.depth_range };
    let classes = &scenes.classes;
    let train = some(&scenes.train, arguments.train_max);
    let (masks, depths) = (segment.then_some(classes.len()), depth.then_some(reading));
    let train = Side::check(&train, masks, depths, embedder)?;
    let val = Side::check(&scenes.val, masks, depths, embedder)?;
    let (train_tokens, val_tokens) = (train.see(embedder)?, val.see(embedder)?);
    let standard = train_tokens.standard();
    let seen = dense::Seen { train: (&train, &train_tokens), val: (&val, &val_tokens), standard: &standard };
    let predictions = arguments.predictions.as_deref();
    let segmentation = segment.then(|| dense::segmentation(&seen, classes, predictions)).transpose()?;
    let depth = depth.then(|| dense::ranging(&seen, reading, predictions)).transpose()?;
    Ok(Dense { train: train.len(), val: val.len(), segmentation, depth })
}

fn embed(samples: &[Sample], embedder: &mut Embedder) -> anyhow::Result<Embedded> {
    let progress = bar(Some(samples.len() as u64), "pictures");
    let (mut cls, mut both, mut targets) = (vec![], vec![], vec![]);
    for sample in samples {
        let seen = embedder.see(sample, false)?;
        cls.extend(&seen.cls);
        both.extend(seen.cls.iter().chain(&seen.mean));
        targets.push(sample.class);
        progress.inc(1);
    }
    progress.finish_and_clear();
    let matrix =
        |data: Vec<f32>| Matrix { rows: targets.len(), cols: data.len() / targets.len().max(1), data };
    let (cls, both) = (matrix(cls), matrix(both));
    Ok(Embedded { cls, both, targets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_evenly_chosen() {
        let all: Vec<usize> = (0..10).collect();
        assert_eq!(some(&all, Some(4)), [0, 2, 5, 7]);
        assert_eq!(some(&all, Some(40)), all);
        assert_eq!(some(&all, None), all);
        assert!(some::<usize>(&[], Some(4)).is_empty());
    }

    #[test]
    fn ranges_are_checked() {
        assert_eq!(range("0.5, 10"), Ok((0.5, 10.0)));
        for wrong in ["10", "10,1", "1,1", "0,4", "a,b", "1,inf"] {
            assert!(range(wrong).unwrap_err().contains('\''), "{wrong}");
        }
    }
}
