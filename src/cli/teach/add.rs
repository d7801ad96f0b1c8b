//! `standoff teach add`.

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::Args;

use super::{Site, picture};
use crate::clock;
use crate::heads::taught::{Region, Tokens};
use crate::teach::{Folder, Label, New};
use crate::types::{CameraId, ClassName, StateName, StateValue};

/// The name that means "none of the classes".
const BACKGROUND: &str = "background";

/// Arguments of `standoff teach add`.
#[derive(Debug, Args)]
pub struct AddArguments {
    /// A picture (jpg, png), or a moment of a clip: FILE@SECONDS
    #[arg(value_name = "IMAGE", required_unless_present = "camera", conflicts_with = "camera")]
    image: Option<String>,
    /// Take the newest picture of this camera from the running daemon
    #[arg(long, value_name = "ID", value_parser = CameraId::new)]
    camera: Option<CameraId>,
    /// The camera that the picture is of: its state is then read on that camera only
    #[arg(long, value_name = "ID", value_parser = CameraId::new, conflicts_with = "camera")]
    of: Option<CameraId>,
    /// The class that is marked; `background` for what is none
    #[arg(long, value_name = "NAME", value_parser = ClassName::new, required_unless_present = "state", conflicts_with = "state")]
    class: Option<ClassName>,
    /// A point on it, in pixels of the picture; may be given several times
    #[arg(long, value_name = "X,Y", value_parser = point)]
    click: Vec<[f64; 2]>,
    /// A box that it fills: left, top, right, bottom
    #[arg(long = "box", value_name = "L,T,R,B", value_parser = rectangle, conflicts_with_all = ["click", "polygon"])]
    rectangle: Option<[f64; 4]>,
    /// Its outline
    #[arg(long, value_name = "X,Y X,Y X,Y ...", value_parser = polygon, conflicts_with = "click")]
    polygon: Option<Polygon>,
    /// The state that the picture shows
    #[arg(long, value_name = "NAME=VALUE", value_parser = state, conflicts_with_all = ["click", "rectangle", "polygon"])]
    state: Option<(StateName, StateValue)>,
    /// The part of the picture that shows it, as an outline in pixels; without it the whole picture
    #[arg(long, value_name = "X,Y X,Y X,Y ...", value_parser = polygon, requires = "state")]
    zone: Option<Polygon>,
}

/// An outline, pixels.
#[derive(Debug, Clone)]
struct Polygon(Vec<[f64; 2]>);

fn numbers<const N: usize>(text: &str, wanted: &str) -> Result<[f64; N], String> {
    let values: Vec<f64> = text.split(',').filter_map(|part| part.trim().parse().ok()).collect();
    let fits = text.split(',').count() == N && values.iter().all(|value| value.is_finite());
    <[f64; N]>::try_from(values).ok().filter(|_| fits).ok_or_else(|| format!("'{text}' is not {wanted}"))
}

fn point(text: &str) -> Result<[f64; 2], String> {
    numbers(text, "X,Y in pixels")
}

pub fn rectangle(text: &str) -> Result<[f64; 4], String> {
    numbers(text, "LEFT,TOP,RIGHT,BOTTOM in pixels")
}

fn polygon(text: &str) -> Result<Polygon, String> {
    text.split_whitespace().map(point).collect::<Result<_, _>>().map(Polygon)
}

fn state(text: &str) -> Result<(StateName, StateValue), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("'{text}' is not NAME=VALUE"))?;
    let name = StateName::new(name).map_err(|error| error.to_string())?;
    Ok((name, StateValue::new(value).map_err(|error| error.to_string())?))
}

/// What an example shows, for people.
pub fn described(label: &Label) -> String {
    match label {
        Label::Class { class, region } => {
            let name = class.as_ref().map_or(BACKGROUND, ClassName::as_str);
            let how = match region {
                Region::Clicks(points) if points.len() == 1 => "1 click".to_owned(),
                Region::Clicks(points) => format!("{} clicks", points.len()),
                Region::Box(_) => "box".to_owned(),
                Region::Polygon(_) => "outline".to_owned(),
                Region::Whole => "whole picture".to_owned(),
            };
            format!("{name} ({how})")
        }
        Label::State { state, value, zone } => {
            let zone = if zone.is_some() { "zone" } else { "whole picture" };
            format!("{state} = {value} ({zone})")
        }
    }
}

fn label(arguments: &AddArguments, width: u32, height: u32) -> anyhow::Result<Label> {
    if let Some((state, value)) = &arguments.state {
        let zone = match &arguments.zone {
            None => None,
            Some(Polygon(points)) => {
                if let Some(problem) = Region::Polygon(points.clone()).problem(width, height) {
                    bail!("--zone: {problem}");
                }
                let share = |[x, y]: &[f64; 2]| [x / f64::from(width), y / f64::from(height)];
                Some(points.iter().map(share).collect())
            }
        };
        return Ok(Label::State { state: state.clone(), value: value.clone(), zone });
    }
    let name = arguments.class.as_ref().ok_or_else(|| anyhow!("--class or --state is missing"))?;
    let class = Some(name.clone()).filter(|name| name.as_str() != BACKGROUND);
    let region = match (&arguments.rectangle, &arguments.polygon) {
        (Some(rectangle), _) => Region::Box(*rectangle),
        (None, Some(Polygon(points))) => Region::Polygon(points.clone()),
        (None, None) if !arguments.click.is_empty() => Region::Clicks(arguments.click.clone()),
        (None, None) if class.is_none() => Region::Whole,
        (None, None) => {
            bail!("say where '{name}' is: --click X,Y, --box L,T,R,B or --polygon \"X,Y X,Y X,Y\"")
        }
    };
    Ok(Label::Class { class, region })
}

/// Runs the command.
pub fn run(arguments: &AddArguments, site: &mut Site) -> anyhow::Result<ExitCode> {
    let source = match (&arguments.image, &arguments.camera) {
        (Some(image), _) => picture::file(image)?,
        (None, Some(camera)) => picture::live(&site.socket, camera)?,
        (None, None) => bail!("give a picture or --camera"),
    };
    let (width, height) = (source.frame.width, source.frame.height);
    let label = label(arguments, width, height)?;
    if let Label::Class { region, .. } = &label
        && let Some(problem) = region.problem(width, height)
    {
        bail!("the mark cannot be used: {problem}");
    }
    let tokens = Tokens::of(&site.infer(source.frame)?)?;
    let backbone = site.backbone()?;
    let folder = Folder::open(&site.dir)?;
    let example = folder.add(New {
        picture: &source.bytes,
        kind: source.kind,
        tokens: &tokens,
        backbone: &backbone,
        label,
        camera: arguments.camera.clone().or_else(|| arguments.of.clone()),
        source: source.name,
        added: clock::utc(),
    })?;
    println!("example {}: {} in {}", example.id, described(&example.label), example.source);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read() {
        assert_eq!(point("3,4.5").unwrap(), [3.0, 4.5]);
        assert_eq!(rectangle("1, 2, 3, 4").unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(polygon("1,2 3,4  5,6").unwrap().0, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
        for bad in ["3", "3,4,5", "3,x", "nan,3", ""] {
            assert!(point(bad).unwrap_err().contains("X,Y in pixels"), "{bad}");
        }
        let (name, value) = state("door-3=open").unwrap();
        assert_eq!((name.as_str(), value.as_str()), ("door-3", "open"));
        assert!(state("door").is_err() && state("Door=open").is_err());
    }
}
