//! `standoff curate`: which frames of a folder, a clip or the album are worth a label.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::embedder::{Embedder, Filter, Place, time};
use super::progress;
use super::teach::picture;
use crate::draw;
use crate::ingest::clip::Clip;
use crate::preprocess::color::rgb_from_frame;
use crate::retrieval::curate::{Distinct, distinct, varied};
use crate::retrieval::{Record, to_unit};
use crate::types::{CameraId, Features};

/// A frame of a clip that was chosen is written with little loss.
const JPEG_MAX_BYTES: usize = 4 << 20;

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct CurateArguments {
    /// A folder of pictures, or a clip; without it the pictures of alarms that the daemon keeps
    #[arg(value_name = "DIR|CLIP", conflicts_with_all = ["camera", "since", "until"])]
    source: Option<PathBuf>,
    /// How many frames to choose
    #[arg(short, value_name = "N", default_value_t = 50)]
    n: usize,
    /// Frames that are more alike than this (cosine) are the same
    #[arg(long, value_name = "COSINE", default_value_t = 0.99)]
    threshold: f32,
    /// Of a clip look at a frame every so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    every: f64,
    /// Where to put the chosen frames, their list and a page of them; must be empty
    #[arg(long, value_name = "DIR", default_value = "curated")]
    out: PathBuf,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    place: Place,
}

/// A frame that may be chosen.
struct Candidate {
    /// The picture's file, or the clip.
    path: PathBuf,
    /// When the clip shows it: number of the frame, and seconds.
    moment: Option<(u64, f64)>,
    /// Where it came from, for people.
    name: String,
}

#[derive(Default)]
struct Frames {
    candidates: Vec<Candidate>,
    embeddings: Vec<Vec<f32>>,
}

/// Runs the command: 0 when frames were chosen, 1 when not, 2 on wrong usage.
pub fn run(arguments: &CurateArguments) -> anyhow::Result<ExitCode> {
    let mut embedder = match Embedder::find(&arguments.place)? {
        Ok(embedder) => embedder,
        Err(code) => return Ok(code),
    };
    let out = &arguments.out;
    fs::create_dir_all(out).with_context(|| format!("folder {} cannot be made", out.display()))?;
    if fs::read_dir(out)?.next().is_some() {
        bail!("{} is not empty: give --out another folder", out.display());
    }
    let frames = match &arguments.source {
        None => of_album(&embedder, &arguments.filter)?,
        Some(dir) if dir.is_dir() => of_folder(dir, &mut embedder)?,
        Some(clip) => of_clip(clip, arguments.every, &mut embedder)?,
    };
    if frames.candidates.is_empty() {
        println!("there is no frame to choose from");
        return Ok(ExitCode::FAILURE);
    }
    let all = distinct(&frames.embeddings, arguments.threshold);
    let chosen = varied(&frames.embeddings, &all, arguments.n);
    println!(
        "{} frames, {} without near duplicates (cosine above {}), {} chosen",
        frames.candidates.len(),
        all.len(),
        arguments.threshold,
        chosen.len()
    );
    write(&frames, &chosen, out)?;
    println!("frames, list and page: {}", out.display());
    Ok(ExitCode::SUCCESS)
}

fn embedding(features: &Features) -> Vec<f32> {
    let mut embedding = features.cls.clone();
    to_unit(&mut embedding);
    embedding
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn of_album(embedder: &Embedder, filter: &Filter) -> anyhow::Result<Frames> {
    let wanted = filter.compile()?;
    let mut frames = Frames::default();
    // Of each model apart they could be compared; the newest is the one that the site has now.
    let mut records = vec![];
    embedder.album.embeddings(&wanted, |kept, bytes| {
        if let (Some(path), Ok(record)) = (kept.picture, Record::read(&bytes)) {
            records.push((path, record));
        }
    })?;
    let Some(model) = records.last().map(|(_, record)| record.about.model.clone()) else { return Ok(frames) };
    let all = records.len();
    for (path, Record { about, frame, .. }) in records.into_iter().filter(|(_, r)| r.about.model == model) {
        let name = format!("{} {} {}", about.camera, time(about.captured), about.event_id);
        frames.candidates.push(Candidate { path, moment: None, name });
        frames.embeddings.push(frame);
    }
    if frames.candidates.len() < all {
        println!("{} pictures were seen by another model and are left out", all - frames.candidates.len());
    }
    Ok(frames)
}

fn of_folder(dir: &Path, embedder: &mut Embedder) -> anyhow::Result<Frames> {
    let mut files = vec![];
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let kind =
            path.extension().map(|kind| kind.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        if matches!(kind.as_str(), "jpg" | "jpeg" | "png") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    let bar = progress::bar(Some(files.len() as u64), "pictures");
    let mut frames = Frames::default();
    for path in files {
        bar.inc(1);
        let frame = match picture::still(&path) {
            Ok(frame) => frame,
            Err(error) => {
                bar.suspend(|| eprintln!("left out: {error:#}"));
                continue;
            }
        };
        frames.embeddings.push(embedding(&embedder.infer(frame)?));
        frames.candidates.push(Candidate { name: file_name(&path), path, moment: None });
    }
    bar.finish_and_clear();
    Ok(frames)
}

fn of_clip(path: &Path, every_s: f64, embedder: &mut Embedder) -> anyhow::Result<Frames> {
    if !(every_s.is_finite() && every_s >= 0.0) {
        bail!("--every must be 0 or more seconds");
    }
    let clip = Clip::open(path, CameraId::new("clip")?)?;
    let bar = progress::bar(clip.frame_count(), "frames");
    let mut frames = Frames::default();
    let mut next_s = 0.0;
    for frame in clip {
        let frame = frame?;
        bar.inc(1);
        let (seq, at_s) = (frame.seq, frame.captured.as_nanos() as f64 / 1e9);
        // A frame that is stamped just before its turn is its turn.
        if at_s < next_s - 0.005 {
            continue;
        }
        next_s = next_due_s(at_s, every_s);
        frames.embeddings.push(embedding(&embedder.infer(frame)?));
        let name = format!("{} at {at_s:.2} s", file_name(path));
        frames.candidates.push(Candidate { path: path.to_owned(), moment: Some((seq, at_s)), name });
    }
    bar.finish_and_clear();
    Ok(frames)
}

/// When the frame after one at `at_s` is due. Counted from the clip's beginning, so that the steps do not grow by what each
/// frame is late.
fn next_due_s(at_s: f64, every_s: f64) -> f64 {
    if every_s > 0.0 { (((at_s + 0.005) / every_s).floor() + 1.0) * every_s } else { at_s }
}

/// Writes the chosen frames, `list.csv` and `page.png`.
fn write(frames: &Frames, chosen: &[Distinct], out: &Path) -> anyhow::Result<()> {
    let cannot = |path: &Path| format!("cannot write {}", path.display());
    let (mut list, mut parts) = ("file,source,seconds,stands_for\n".to_owned(), vec![]);
    let mut clip: Option<Clip> = None;
    for Distinct { index, stands_for } in chosen {
        let Some(Candidate { path, moment, name }) = frames.candidates.get(*index) else { continue };
        let (file, picture) = match moment {
            None => {
                let file = file_name(path);
                let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                fs::write(out.join(&file), bytes).with_context(|| cannot(&out.join(&file)))?;
                (file, rgb_from_frame(&picture::still(path)?))
            }
            Some((seq, at_s)) => {
                if clip.is_none() {
                    clip = Some(Clip::open(path, CameraId::new("clip")?)?);
                }
                // They are in the order of the clip, so that it is read once.
                let frame = clip.iter_mut().flatten().find(|frame| !matches!(frame, Ok(f) if f.seq != *seq));
                let frame = frame.with_context(|| format!("{name} is not there any more"))??;
                let stem =
                    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
                let file = format!("{stem}-{at_s:08.2}.jpg");
                let picture = rgb_from_frame(&frame);
                let jpeg = draw::jpeg(&picture, JPEG_MAX_BYTES)?;
                fs::write(out.join(&file), jpeg).with_context(|| cannot(&out.join(&file)))?;
                (file, picture)
            }
        };
        let seconds = moment.map(|(_, at_s)| format!("{at_s:.2}")).unwrap_or_default();
        let source = file_name(path);
        list.push_str(&format!("{},{},{seconds},{stands_for}\n", field(&file), field(&source)));
        parts.push((picture, format!("{name} (x {stands_for})")));
    }
    let path = out.join("list.csv");
    fs::write(&path, list).with_context(|| cannot(&path))?;
    draw::save(&draw::contact_sheet(&parts, &[]), &out.join("page.png"))?;
    Ok(())
}

/// A field of a CSV file (RFC 4180).
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_frames_do_not_delay_those_after_them() {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(next_due_s(0.0, 0.3), 0.3) && close(next_due_s(0.333, 0.3), 0.6));
        assert!(close(next_due_s(0.599, 0.3), 0.9), "stamped just before its turn");
        assert!(close(next_due_s(1.2, 0.0), 1.2), "every frame");
    }

    #[test]
    fn names_with_commas_stay_one_field() {
        assert_eq!(field("a.jpg"), "a.jpg");
        assert_eq!(field("a, \"b\".jpg"), "\"a, \"\"b\"\".jpg\"");
    }
}
