//! `standoff teach show`: what was learned, drawn on pictures.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::{Site, picture};
use crate::draw::{self, Annotation};
use crate::heads::{self, Head, TaughtHead};
use crate::preprocess::color::rgb_from_frame;
use crate::teach;

/// Arguments of `standoff teach show`.
#[derive(Debug, Args)]
pub struct ShowArguments {
    /// Pictures, or moments of clips: FILE@SECONDS
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Where to draw them (png, jpg); without it taught.png, unless that is there
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &ShowArguments, site: &mut Site) -> anyhow::Result<ExitCode> {
    let out = super::super::picture_file(arguments.out.as_deref(), "taught.png")?;
    let mut taught = teach::load(&site.dir)?
        .with_context(|| format!("nothing was fitted in {}: `standoff teach fit`", site.dir.display()))?;
    if taught.backbone != site.backbone()? {
        bail!("it was fitted for another model or input size; `standoff teach fit` fits it again");
    }
    // A picture is of no camera: all states are read on it, whichever camera they are for.
    taught.states.iter_mut().for_each(|state| state.camera = None);
    let mut head = TaughtHead::new(taught);
    let mut parts = vec![];
    for image in &arguments.images {
        let (path, seconds) = picture::split(image)?;
        let frame = picture::frame_at(&path, seconds)?;
        let features = site.infer(frame)?;
        let mut scene = heads::empty_scene(&features);
        head.apply(&features, &mut scene)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let moment = seconds.map(|s| format!(" at {s} s")).unwrap_or_default();
        println!("{name}{moment}:");
        for thing in &scene.things {
            let cells = thing.mask.cells.iter().filter(|cell| **cell).count();
            println!("  {} (score {:.2}), {cells} cells", thing.class, thing.score);
        }
        let mut caption = format!("{name}{moment}");
        for state in &scene.states {
            let value = state.value.as_ref().map_or("unknown", |value| value.as_str());
            println!("  {} = {value} ({:.2})", state.state, state.probability);
            caption.push_str(&format!("; {} = {value}", state.state));
        }
        let marks = Annotation { things: draw::thing_marks(&scene), ..Annotation::default() };
        parts.push((draw::annotate(&rgb_from_frame(&features.frame), &marks), caption));
    }
    draw::save(&draw::contact_sheet(&parts, &[]), &out)?;
    println!("picture: {}", out.display());
    Ok(ExitCode::SUCCESS)
}
