//! `standoff probe`: what the heads see in one picture.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::analysis;
use crate::backend::{self, BackendSettings};
use crate::draw::{self, Annotation};
use crate::heads::other_depth;
use crate::ingest::clip::Clip;
use crate::model::depth::DepthSource;
use crate::preprocess::color::rgb_from_frame;
use crate::types::{Batch, CameraId, ClassName, DepthUnit, Features, Scene};

/// Arguments of `standoff probe`.
#[derive(Debug, Args)]
pub struct ProbeArguments {
    /// A picture (jpg or png); of a clip the first frame
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    /// Where to write the picture of mask, depth and tokens
    #[arg(long, value_name = "FILE", default_value = "probe.png")]
    pub out: PathBuf,
    /// An installed model
    #[arg(long, default_value = "dinov2-small")]
    pub model: String,
    /// Width of the model's input in pixels, a multiple of 14
    #[arg(long, default_value_t = 392)]
    pub width: u32,
    /// Height of the model's input in pixels, a multiple of 14
    #[arg(long, default_value_t = 224)]
    pub height: u32,
    /// A file that gives the depth instead of the shipped head (docs/depth.md)
    #[arg(long, value_name = "FILE")]
    pub depth: Option<PathBuf>,
    /// What the values of an ONNX file are: inverse or metres
    #[arg(long, value_name = "UNIT", requires = "depth")]
    pub depth_unit: Option<DepthUnit>,
}

/// Runs the command.
pub fn run(arguments: &ProbeArguments) -> anyhow::Result<ExitCode> {
    let depth = arguments.depth.as_deref().map(|file| DepthSource::read(file, arguments.depth_unit));
    let depth = depth.transpose()?.unwrap_or_default();
    let settings = BackendSettings {
        model: arguments.model.clone(),
        input_width: arguments.width,
        input_height: arguments.height,
        max_batch: 1,
        heads: other_depth::graph_heads(&depth)?,
        depth: depth.network().cloned(),
        ..BackendSettings::default()
    };
    let mut backend = backend::open(&settings)?;
    let frame = Clip::open(&arguments.image, CameraId::new("probe")?)?
        .next()
        .with_context(|| format!("{} holds no picture", arguments.image.display()))??;
    let features = backend
        .infer(&Batch { frames: vec![frame] })?
        .pop()
        .context("the backend gave nothing for the picture")?;
    let mut heads = other_depth::heads(&depth, &[ClassName::new("forklift")?, ClassName::new("person")?])?;
    let scene = analysis::see(&mut heads, &features);
    for thing in &scene.things {
        println!(
            "{} (score {:.2}), {} cells",
            thing.class,
            thing.score,
            thing.mask.cells.iter().filter(|c| **c).count()
        );
    }
    draw::save(&picture(&features, &scene), &arguments.out)?;
    println!("picture: {}", arguments.out.display());
    Ok(ExitCode::SUCCESS)
}

fn picture(features: &Features, scene: &Scene) -> image::RgbImage {
    let rgb = rgb_from_frame(&features.frame);
    let overlays =
        Annotation { things: draw::thing_marks(scene), edges: vec![], lines: vec![], banner: None };
    let mut parts = vec![
        (rgb.clone(), "picture".to_owned()),
        (draw::annotate(&rgb, &overlays), "segmentation".to_owned()),
    ];
    if let Some(depth) = &scene.depth {
        let metres: Vec<f32> = match depth.unit {
            DepthUnit::Metres => depth.values.clone(),
            DepthUnit::Inverse => depth.values.iter().map(|value| value.recip()).collect(),
        };
        let unit = match depth.unit {
            DepthUnit::Metres => "depth, metres (not tied to a floor)",
            DepthUnit::Inverse => "1 / value of the depth network (scale and shift are its own)",
        };
        parts.push((draw::depth_image(&metres, features.grid), unit.to_owned()));
    }
    for (index, layer) in features.layers.iter().enumerate().skip(features.layers.len().saturating_sub(1)) {
        let pca = draw::pca_image(layer, features.grid, features.dim);
        parts.push((pca, format!("tokens after tap {}: first three principal components", index + 1)));
    }
    draw::contact_sheet(&parts, &[])
}
