//! `standoff train segment|depth|surface|decoder --data DIR`: makes the head files of `heads/shipped` from rendered frames, in
//! minutes on two cores. The features come through the project's own backend.

pub(super) mod dataset;
mod decoder;
mod decoder_score;
pub(super) mod depth;
mod lesson;
mod loss;
mod network;
mod projection;
pub(super) mod score;
pub(super) mod segment;
mod sets;
mod surface;
mod view;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

use crate::backend::{self, Backend, BackendSettings};
use crate::heads::HeadFile;
use crate::model::matrix::{self, Random};
use crate::types::Grid;
use dataset::{Labels, Tokens, pictures, tokens};
use segment::Example;
use view::View;

/// A head that can be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Classes of patches and cells.
    Segment,
    /// Depth.
    Depth,
    /// Height above the floor and where the thing stands.
    Surface,
    /// All of these by one small network that sees each patch with its neighbours, on frames and on crops.
    Decoder,
}

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to train; several share one pass over the pictures
    #[arg(required = true)]
    pub heads: Vec<Which>,
    /// Folder with train/ and val/ (frames as in the dock data: jpg, depth, seg, inst, json)
    #[arg(long)]
    pub data: PathBuf,
    /// Folder that the files are written to
    #[arg(long, default_value = ".")]
    pub out: PathBuf,
    /// Passes over the data for the segmentation and the depth
    #[arg(long, default_value_t = 8)]
    pub epochs: usize,
    /// Installed model or weights file
    #[arg(long, default_value = "dinov2-small")]
    pub model: String,
    /// Keep the tokens in this folder and take them from there the next time (2 GB for the dock data)
    #[arg(long)]
    pub cache: Option<PathBuf>,
    /// Leave out the mirrored pictures: half the time, a little less accurate
    #[arg(long)]
    pub no_mirror: bool,
    /// Passes over the patches of things for the decoder
    #[arg(long, default_value_t = 12)]
    pub decoder_epochs: usize,
    /// Leave every Nth frame of train out of the decoder's training and score it on these too: for choices; 0 = none
    #[arg(long, default_value_t = 0)]
    pub hold_out: usize,
}

fn bar(length: u64, what: &str) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg:22} {bar:40} {pos}/{len}  {elapsed} (left {eta})")?;
    Ok(ProgressBar::new(length).with_style(style).with_message(what.to_owned()))
}

/// Frames with their labels.
struct Part {
    pictures: Vec<PathBuf>,
    labels: Vec<Labels>,
}

impl Part {
    /// One view of all of each frame.
    fn whole(&self, grid: Grid, mirrored: bool) -> Vec<View> {
        let of = |(i, labels)| View::whole(i, labels, mirrored, grid);
        self.labels.iter().enumerate().map(of).collect()
    }

    /// A crop about each thing.
    fn crops(&self, grid: Grid, mut random: Option<Random>) -> Vec<View> {
        let mut out = Vec::new();
        for (i, labels) in self.labels.iter().enumerate() {
            out.extend(view::crops(i, labels, grid, random.as_mut()));
        }
        out
    }

    /// Frames and crops under another light or with something in front of a thing.
    fn under_other_conditions(&self, grid: Grid) -> Vec<View> {
        let mut random = Random(7);
        let of = |(i, labels)| view::under_other_conditions(i, labels, grid, &mut random);
        self.labels.iter().enumerate().flat_map(of).collect()
    }
}

fn part(dir: &Path) -> anyhow::Result<Part> {
    let pictures = pictures(dir)?;
    let progress = bar(pictures.len() as u64, "reading labels")?;
    let mut labels = Vec::with_capacity(pictures.len());
    for picture in &pictures {
        labels.push(Labels::read(picture)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(Part { pictures, labels })
}

fn cached(args: &Args, name: &str) -> Option<PathBuf> {
    args.cache.as_ref().map(|dir| dir.join(format!("{name}.f16")))
}

fn extract(
    args: &Args,
    backend: &mut dyn Backend,
    part: &Part,
    name: &str,
    views: &[View],
) -> anyhow::Result<Tokens> {
    let progress = bar(views.len() as u64, &format!("backbone, {name}"))?;
    let out = tokens(backend, &part.pictures, views, cached(args, name).as_deref(), &progress)?;
    progress.finish();
    Ok(out)
}

/// Runs the command.
///
/// # Errors
/// No data, labels of another size than the model's input, no backend, or a file that cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.epochs > 0 && args.decoder_epochs > 0, "--epochs and --decoder-epochs must be at least 1");
    if let Some(dir) = &args.cache {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let train = part(&args.data.join("train"))?;
    let val = part(&args.data.join("val"))?;
    let settings = BackendSettings { model: args.model.clone(), ..BackendSettings::default() };
    let mut backend = backend::open(&settings)?;
    let grid = backend.spec().grid;
    for labels in train.labels.iter().chain(&val.labels) {
        labels.check(grid)?;
    }
    let straight = extract(args, &mut *backend, &train, "train", &train.whole(grid, false))?;
    let mirrored = if args.no_mirror {
        None
    } else {
        Some(extract(args, &mut *backend, &train, "train-mirrored", &train.whole(grid, true))?)
    };
    let val_tokens = extract(args, &mut *backend, &val, "val", &val.whole(grid, false))?;
    let standard = straight.standard();
    let examples = |with_mirrored: bool| -> Vec<Example<'_>> {
        let of = |tokens, mirrored| {
            (0..train.labels.len()).map(move |i| Example { tokens, frame: i, labels: i, mirrored })
        };
        let extra = mirrored.as_ref().filter(|_| with_mirrored).into_iter();
        of(&straight, false).chain(extra.flat_map(|m| of(m, true))).collect()
    };
    let classes = &train.labels.first().context("train/ has no frames")?.truth.classes;

    let with = [("epochs", args.epochs.to_string()), ("mirrored_too", (!args.no_mirror).to_string())];
    let mut done = Vec::new();
    for which in [Which::Segment, Which::Depth, Which::Surface, Which::Decoder] {
        if !args.heads.contains(&which) || done.contains(&which) {
            continue;
        }
        done.push(which);
        match which {
            Which::Segment => {
                let of = |l: &Labels| segment::Target::of(&l.raster, grid, classes.len());
                let targets: Vec<_> = train.labels.iter().map(of).collect();
                let examples = examples(true);
                let progress = bar((args.epochs * examples.len()) as u64, "segment")?;
                let head = segment::train(examples, &targets, classes, &standard, args.epochs, &progress)?;
                progress.finish();
                let reached = score::segment(&head, &val_tokens, &val.labels);
                save(args, &head, &train, &val, &with, reached)?;
            }
            Which::Depth => {
                let double = counted(classes);
                let targets: Vec<_> =
                    train.labels.iter().map(|l| depth::Target::of(&l.raster, grid, &double)).collect();
                // 256 outputs make this the slow one, and the mirrored pictures add nothing to it.
                let examples = examples(false);
                let progress = bar((args.epochs * examples.len()) as u64, "depth")?;
                let head =
                    depth::train(examples, &targets, depth::RANGE_M, &standard, args.epochs, &progress)?;
                progress.finish();
                let reached = score::depth(&head, &val_tokens, &val.labels);
                save(args, &head, &train, &val, &with[..1], reached)?;
            }
            Which::Surface => {
                let of = |l: &Labels| surface::lessons(l, grid);
                let lessons: Vec<_> = train.labels.iter().map(of).collect();
                let examples = examples(true);
                let progress = bar((surface::CLASSES.len() * examples.len()) as u64, "surface")?;
                let head = surface::train(&examples, &lessons, &standard, &progress)?;
                progress.finish();
                let val_lessons: Vec<_> = val.labels.iter().map(of).collect();
                let reached = score::surface(&head, &val_tokens, &val_lessons);
                save(args, &head, &train, &val, &with[1..], reached)?;
            }
            Which::Decoder => {
                let crops = train.crops(grid, Some(Random(5)));
                let crop_tokens = extract(args, &mut *backend, &train, "train-crops", &crops)?;
                let whole = [
                    Some((&straight, train.whole(grid, false))),
                    mirrored.as_ref().map(|tokens| (tokens, train.whole(grid, true))),
                ];
                let others = train.under_other_conditions(grid);
                let other_tokens = extract(args, &mut *backend, &train, "train-others", &others)?;
                let more = [(&other_tokens, others), (&crop_tokens, crops)];
                let sets: Vec<_> = whole.into_iter().flatten().chain(more).collect();
                let val_crops = val.crops(grid, None);
                let val_crop_tokens = extract(args, &mut *backend, &val, "val-crops", &val_crops)?;
                let val_sets = [(&val_tokens, val.whole(grid, false)), (&val_crop_tokens, val_crops)];
                let (head, reached) = sets::train(args, &train, &sets, &val, &val_sets)?;
                let held_out = match args.hold_out {
                    0 | 1 => "none".to_owned(),
                    n => format!("one frame of {n} was not trained on"),
                };
                let epochs = ("epochs", args.decoder_epochs.to_string());
                let with = [epochs, with[1].clone(), ("held_out", held_out)];
                save(args, &head, &train, &val, &with, reached)?;
            }
        }
    }
    Ok(())
}

/// Classes whose depth weighs double.
fn counted(classes: &[String]) -> Vec<u8> {
    (0..classes.len())
        .filter(|i| matches!(classes[*i].as_str(), "floor" | "forklift" | "person"))
        .filter_map(|i| u8::try_from(i).ok())
        .collect()
}

/// Writes a head's file with what it was trained on and what it reaches, and prints the same.
fn save(
    args: &Args,
    head: &HeadFile,
    train: &Part,
    val: &Part,
    with: &[(&str, String)],
    reached: Vec<(String, String)>,
) -> anyhow::Result<()> {
    let mut about = vec![
        ("trained_on".to_owned(), format!("{} frames", train.pictures.len())),
        ("scored_on".to_owned(), format!("{} frames of val", val.pictures.len())),
        ("backbone".to_owned(), args.model.clone()),
    ];
    about.extend(with.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    about.extend(reached);
    let path = args.out.join(format!("{}.safetensors", head.graph.name));
    let bytes = head.write(&about)?;
    // What is in the file is what was scored: it reads back to the same head.
    let back = HeadFile::read(&head.graph.name, &bytes)?;
    ensure!(back == *head, "{} does not read back as it was written", path.display());
    std::fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{} ({} bytes)", path.display(), bytes.len());
    for (key, value) in &about {
        println!("  {key}: {value}");
    }
    Ok(())
}
