//! `standoff teach`: examples in, a class or a state out, live in the daemon that runs.

mod add;
pub(super) mod picture;
mod report;
mod show;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};

pub(super) use add::rectangle;

use super::EXIT_USAGE;
use super::alarm::found;
use crate::backend::{self, Backend, BackendSettings};
use crate::clock;
use crate::config::{self, Config};
use crate::control::{self, Ask, Reply, Request};
use crate::heads::taught::{Backbone, Method, Taught, Tokens, state::StateMethod};
use crate::heads::{self, TaughtHead};
use crate::model::store::Store;
use crate::rules::when::Condition;
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
    /// A configuration that names the folder, the model, the socket; the daemon that runs says all three itself
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Folder of the examples; without it the daemon's, else `taught` in your state folder
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// Installed model; without it the daemon's or the configuration's, else dinov2-small
    #[arg(long, value_name = "NAME", global = true)]
    model: Option<String>,
    /// Size of the model's input; without it the daemon's or the configuration's, else 392x224
    #[arg(long, value_name = "WxH", value_parser = size, global = true)]
    input: Option<(u32, u32)>,
}

#[derive(Debug, Subcommand)]
enum TeachCommand {
    /// Add an example: a picture and what it shows
    Add(add::AddArguments),
    /// Learn from all examples, and have the running daemon follow. What it refuses changes nothing
    Fit {
        /// Leave the daemon alone; it follows at its next start or reload
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
    config: Option<Config>,
    settings: BackendSettings,
    /// What makes the tokens; looked up when it is wanted, because that reads the whole model.
    backbone: Option<Backbone>,
    /// Opened when tokens are wanted.
    backend: Option<Box<dyn Backend>>,
}

/// What the daemon says of its folder and model.
struct Told {
    dir: PathBuf,
    model: String,
    input: (u32, u32),
}

/// Asks the daemon. None when there is none.
fn told(socket: &Path) -> anyhow::Result<Option<Told>> {
    let absent =
        |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
    match control::ask(socket, &Request { by: None, ask: Ask::Place }) {
        Ok(Reply::Place { dir, model, input: [width, height] }) => {
            Ok(Some(Told { dir, model, input: (width, height) }))
        }
        Ok(_) => {
            Err(anyhow!("the daemon at {} does not say where it is taught: is it older?", socket.display()))
        }
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(anyhow!("{}: {error}; members of the socket's group may ask", socket.display())),
    }
}

impl Site {
    fn find(place: &Place) -> anyhow::Result<Result<Self, ExitCode>> {
        let config = place.config.as_deref().map(Config::load);
        // By hand systemd's folders are not known: what a configuration implies of them may lie elsewhere.
        let own = config.as_ref().and_then(|config| Some(config.as_ref().ok()?.control_socket.clone()));
        let socket = place.socket.clone().or(own.filter(|path| path.exists())).unwrap_or_else(found);
        let told = match told(&socket) {
            Ok(told) => told,
            // Whoever names the folder can do without.
            Err(_) if place.dir.is_some() => None,
            Err(error) => return Err(error.context("give --dir to teach without the daemon")),
        };
        let config = match config {
            Some(Err(problems)) if told.is_none() => {
                eprintln!("{problems}");
                return Ok(Err(ExitCode::from(EXIT_USAGE)));
            }
            // The daemon knows better: it has its folders.
            Some(Err(_)) | None => None,
            Some(Ok(config)) => Some(config),
        };
        let mut settings = match &config {
            Some(config) => config.model.backend(vec![]),
            None => BackendSettings::default(),
        };
        if let Some(Told { model, input, .. }) = &told {
            (settings.input_width, settings.input_height) = *input;
            settings.model.clone_from(model);
        }
        if let Some(model) = &place.model {
            settings.model.clone_from(model);
        }
        if let Some(input) = place.input {
            (settings.input_width, settings.input_height) = input;
        }
        let by_variables =
            || config::default_state_dir(&std::env::vars().collect::<Vec<_>>()).join(teach::FOLDER);
        let dir = place
            .dir
            .clone()
            .or(told.map(|told| told.dir))
            .or_else(|| config.as_ref().map(Config::taught_dir))
            .unwrap_or_else(by_variables);
        let settings = BackendSettings { layers: true, max_batch: 1, ..settings };
        Ok(Ok(Self { dir, socket, config, settings, backbone: None, backend: None }))
    }

    fn backbone(&mut self) -> anyhow::Result<Backbone> {
        if self.backbone.is_none() {
            self.backbone = Some(Backbone {
                sha256: Store::locate()?.sha256(&self.settings.model)?,
                input_width: self.settings.input_width,
                input_height: self.settings.input_height,
            });
        }
        self.backbone.clone().context("the model is gone")
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
        let backbone = self.backbone()?;
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
    folder.offer(&taught)?;
    let fitted = clock::monotonic();
    let pictures = lesson.tokens.len();
    println!("{} examples on {pictures} pictures", lesson.examples.len());
    describe(&taught);
    println!("fitted in {:.2} s in {}", fitted.since(started).as_secs_f64(), site.dir.display());
    if let Some(tokens) = lesson.tokens.values().next() {
        println!("reading it takes {:.1} ms a frame on this machine", cost_ms(&taught, tokens));
    }
    if offline {
        if let Some(why) = site.config.as_ref().and_then(|config| breaks(config, &taught)) {
            folder.withdraw();
            bail!("{why}; the daemon would not start with it, so nothing was changed");
        }
        for gone in
            teach::load(&site.dir).ok().flatten().map(|before| gone(&before, &taught)).unwrap_or_default()
        {
            println!("{gone} is gone: where the configuration names it, the daemon will not start");
        }
        println!("{}", teach::accept(&site.dir)?.display());
        return Ok(ExitCode::SUCCESS);
    }
    let request = Request { by: None, ask: Ask::Taught { dir: absolute(&site.dir)? } };
    match control::ask(&site.socket, &request) {
        Err(error) => {
            folder.withdraw();
            let socket = site.socket.display();
            bail!(
                "no daemon answers at {socket} ({error}), so nothing was changed; --offline does without one"
            )
        }
        Ok(Reply::Refused { error }) => {
            folder.withdraw();
            bail!("the daemon refused, so nothing was changed: {error}")
        }
        Ok(_) => {
            // A daemon that may not write into the folder leaves it where it lay.
            if teach::offered(&site.dir)?.is_some() {
                teach::accept(&site.dir)?;
            }
            let all = clock::monotonic().since(started).as_secs_f64();
            println!("live in the daemon after {all:.2} s, without a restart");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What was taught before and a configuration may name.
fn gone(before: &Taught, now: &Taught) -> Vec<String> {
    let classes = before.classes.iter().map(|class| &class.name);
    let classes = classes.filter(|name| now.classes.iter().all(|class| class.name != **name));
    let mut gone: Vec<String> = classes.map(|name| format!("class {name}")).collect();
    for state in &now.states {
        let old = before.states.iter().filter(|old| old.name == state.name).flat_map(|old| &old.values);
        let old = old.filter(|value| !state.values.contains(value));
        gone.extend(old.map(|value| format!("value {value} of state {}", state.name)));
    }
    gone
}

/// What of a configuration a lesson would break.
fn breaks(config: &Config, taught: &Taught) -> Option<String> {
    let shipped = heads::shipped::classes().unwrap_or_default();
    let known = |name: &str| {
        shipped.iter().any(|class| class == name)
            || taught.classes.iter().any(|class| class.name.as_str() == name)
    };
    if let Some(class) = config.classes().into_iter().find(|class| !known(class.as_str())) {
        return Some(format!("a pair measures '{class}', which was not taught any more"));
    }
    let mut asked = config.cameras.iter().flat_map(|camera| {
        let conditions = camera.rules.iter().flat_map(|rule| &rule.when);
        conditions.map(move |condition| (&camera.id, condition))
    });
    asked.find_map(|(camera, condition)| {
        let Condition::State { state, value, .. } = condition else { return None };
        let new = taught.states.iter().find(|new| new.name == *state && new.is_read_on(camera))?;
        let gone = !new.values.contains(value);
        gone.then(|| {
            format!("a rule of {camera} asks whether '{state}' is '{value}', a value that it has no more")
        })
    })
}

/// How long a frame takes that is read by what was taught, milliseconds: the best of three.
fn cost_ms(taught: &Taught, tokens: &Tokens) -> f64 {
    let head = TaughtHead::new(taught.clone());
    let once = || {
        let started = clock::monotonic();
        let logits = head.logits(tokens);
        let states = taught.states.iter().map(|state| state.read(&tokens.pooled(state.zone.as_deref())));
        let read = std::hint::black_box((logits, states.collect::<Vec<_>>()));
        drop(read);
        clock::monotonic().since(started).as_secs_f64() * 1000.0
    };
    (0..3).map(|_| once()).fold(f64::INFINITY, f64::min)
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
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
            None => "a value is shown by one picture only: nothing could be validated".to_owned(),
            Some(v) => format!(
                "left-out pictures ({} folds): {:.0} % right by neighbours, {:.0} % by a line",
                v.folds,
                v.knn_right * 100.0,
                v.linear_right * 100.0
            ),
        };
        println!("state {} ({}): {kind}; {how}", state.name, values.join(", "));
    }
}
