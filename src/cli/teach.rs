//! `standoff teach`: examples in, a class or a state out, live in the daemon that runs.

mod add;
mod picture;
mod report;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};

use super::EXIT_USAGE;
use super::alarm::found;
use crate::backend::{self, Backend, BackendSettings};
use crate::clock;
use crate::config::{self, Config};
use crate::control::{self, Ask, Reply, Request};
use crate::heads::taught::{Backbone, Method, Taught, Tokens, state::StateMethod};
use crate::model::store::Store;
use crate::teach::{self, Folder, Lesson, TeachError};
use crate::types::{Batch, Features, Frame};

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct TeachArguments {
    /// What to do
    #[command(subcommand)]
    command: TeachCommand,
    #[command(flatten)]
    place: Place,
}

/// Where the examples are and which backbone reads them.
#[derive(Debug, Args)]
struct Place {
    /// The daemon's configuration: names the folder, the model, the daemon's socket
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Folder of the examples; without it `taught` in the state folder
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// Installed model, where no configuration names one
    #[arg(long, value_name = "NAME", default_value = "dinov2-small", global = true)]
    model: String,
    /// Size of the model's input, where no configuration names one
    #[arg(long, value_name = "WxH", default_value = "392x224", value_parser = size, global = true)]
    input: (u32, u32),
}

#[derive(Debug, Subcommand)]
enum TeachCommand {
    /// Add an example: a picture and what it shows
    Add(add::AddArguments),
    /// Learn from all examples, and have the running daemon follow
    Fit {
        /// Leave the daemon alone
        #[arg(long)]
        offline: bool,
    },
    /// Say how good it gets with how many examples, and which of them disagree with the rest
    Report(report::ReportArguments),
    /// List the examples
    List,
    /// Remove an example; the next fit does without it
    Remove {
        /// Its number
        id: u64,
    },
    /// Draw what was learned on pictures
    Show(show::ShowArguments),
}

/// The resolved place.
struct Site {
    dir: PathBuf,
    socket: PathBuf,
    settings: BackendSettings,
    backbone: Backbone,
    /// Opened when tokens are wanted.
    backend: Option<Box<dyn Backend>>,
}

impl Site {
    fn find(place: &Place) -> anyhow::Result<Result<Self, ExitCode>> {
        let mut settings = BackendSettings {
            model: place.model.clone(),
            input_width: place.input.0,
            input_height: place.input.1,
            ..BackendSettings::default()
        };
        let (mut dir, mut socket) = (place.dir.clone(), place.socket.clone());
        if let Some(file) = &place.config {
            let config = match Config::load(file) {
                Ok(config) => config,
                Err(problems) => {
                    eprintln!("{problems}");
                    return Ok(Err(ExitCode::from(EXIT_USAGE)));
                }
            };
            settings = BackendSettings { layers: true, max_batch: 1, ..config.model.backend(vec![]) };
            dir = dir.or_else(|| Some(config.taught_dir()));
            socket = socket.or_else(|| Some(config.control_socket.clone()));
        }
        let own = || config::default_state_dir(&std::env::vars().collect::<Vec<_>>()).join(teach::FOLDER);
        let backbone = Backbone {
            sha256: Store::locate()?.sha256(&settings.model)?,
            input_width: settings.input_width,
            input_height: settings.input_height,
        };
        Ok(Ok(Self {
            dir: dir.unwrap_or_else(own),
            socket: socket.unwrap_or_else(found),
            settings,
            backbone,
            backend: None,
        }))
    }

    fn infer(&mut self, frame: Frame) -> anyhow::Result<Features> {
        if self.backend.is_none() {
            self.backend = Some(backend::open(&self.settings)?);
        }
        let backend = self.backend.as_mut().context("the backend is gone")?;
        backend.infer(&Batch { frames: vec![frame] })?.pop().context("the backend gave nothing")
    }

    /// All examples with their tokens; those that are missing are made.
    fn lesson(&mut self, folder: &Folder) -> anyhow::Result<Lesson> {
        let backbone = self.backbone.clone();
        let lesson = teach::lessons(folder, &backbone, |path| {
            let mut tokens = || -> anyhow::Result<Tokens> {
                let frame = picture::still(path)?;
                Ok(Tokens::of(&self.infer(frame)?)?)
            };
            tokens().map_err(|error| TeachError::Tokens {
                picture: path.to_owned(),
                problem: format!("{error:#}"),
            })
        })?;
        Ok(lesson)
    }
}

/// `WIDTHxHEIGHT` of the model's input.
pub(super) fn size(text: &str) -> Result<(u32, u32), String> {
    let wanted = || format!("'{text}' is not WIDTHxHEIGHT, both multiples of 14");
    let (width, height) = text.split_once('x').ok_or_else(wanted)?;
    let side = |text: &str| text.parse().ok().filter(|n: &u32| *n > 0 && n.is_multiple_of(14));
    side(width).zip(side(height)).ok_or_else(wanted)
}

/// Runs the command: 0 when it is done, 1 when not, 2 on wrong usage.
pub fn run(arguments: &TeachArguments) -> anyhow::Result<ExitCode> {
    let mut site = match Site::find(&arguments.place)? {
        Ok(site) => site,
        Err(code) => return Ok(code),
    };
    match &arguments.command {
        TeachCommand::Add(add) => add::run(add, &mut site),
        TeachCommand::Fit { offline } => fit(&mut site, *offline),
        TeachCommand::Report(report) => report::run(report, &mut site),
        TeachCommand::List => {
            for example in Folder::open(&site.dir)?.examples()? {
                println!("{:>4}  {}  {}", example.id, add::described(&example.label), example.source);
            }
            Ok(ExitCode::SUCCESS)
        }
        TeachCommand::Remove { id } => {
            let gone = Folder::open(&site.dir)?.remove(*id)?;
            println!(
                "removed example {id} ({}); `standoff teach fit` learns without it",
                add::described(&gone.label)
            );
            Ok(ExitCode::SUCCESS)
        }
        TeachCommand::Show(show) => show::run(show, &mut site),
    }
}

fn fit(site: &mut Site, offline: bool) -> anyhow::Result<ExitCode> {
    let started = clock::monotonic();
    let folder = Folder::open(&site.dir)?;
    let lesson = site.lesson(&folder)?;
    let taught = lesson.learn(|_| true)?;
    let path = folder.store(&taught)?;
    let fitted = clock::monotonic();
    let pictures = lesson.tokens.len();
    println!("{} examples on {pictures} pictures", lesson.examples.len());
    describe(&taught);
    println!("fitted in {:.2} s: {}", fitted.since(started).as_secs_f64(), path.display());
    if offline {
        return Ok(ExitCode::SUCCESS);
    }
    let request = Request { by: None, ask: Ask::Taught { dir: absolute(&site.dir)? } };
    let reply = match control::ask(&site.socket, &request) {
        Ok(reply) => reply,
        Err(_) => {
            println!("no daemon answers at {}; one that starts reads it", site.socket.display());
            return Ok(ExitCode::SUCCESS);
        }
    };
    match reply {
        Reply::Refused { error } => Err(anyhow!("the daemon refused: {error}")),
        _ => {
            let all = clock::monotonic().since(started).as_secs_f64();
            println!("live in the daemon after {all:.2} s, without a restart");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn absolute(path: &std::path::Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))
}

/// What was learned and how it was chosen, a line each.
fn describe(taught: &Taught) {
    for class in &taught.classes {
        let how = match class.validation {
            None => "one picture only: nothing could be validated; add another".to_owned(),
            Some(v) => format!(
                "left-out pictures ({} folds): IoU {:.2} by neighbours, {:.2} by a line",
                v.folds, v.knn_iou, v.linear_iou
            ),
        };
        let kind = match &class.method {
            Method::Knn(knn) => format!("{} ({} patches)", class.method.name(), knn.targets.len()),
            Method::Linear(_) => class.method.name().to_owned(),
        };
        println!("class {}: {kind}; {how}", class.name);
    }
    for state in &taught.states {
        let values: Vec<&str> = state.values.iter().map(|value| value.as_str()).collect();
        let kind = match state.method {
            StateMethod::Knn => "nearest neighbours",
            StateMethod::Linear(_) => "linear",
        };
        let how = match state.validation {
            None => "too few examples of a value: nothing could be validated".to_owned(),
            Some(v) => format!(
                "left-out examples ({} folds): {:.0} % right by neighbours, {:.0} % by a line",
                v.folds,
                v.knn_right * 100.0,
                v.linear_right * 100.0
            ),
        };
        println!("state {} ({}): {kind}; {how}", state.name, values.join(", "));
    }
}
