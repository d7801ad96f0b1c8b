//! `standoff engine`: builds, lists and checks TensorRT plans.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressBar;

use super::EXIT_USAGE;
use crate::backend::BackendSettings;
use crate::backend::tensorrt::cache::{Cache, Entry};
use crate::backend::tensorrt::child;
use crate::backend::tensorrt::engine::Engine;
use crate::backend::tensorrt::job::{Job, Limits};
use crate::backend::tensorrt::library::{self, Library};
use crate::backend::tensorrt::plan::{self, BuiltFor, Key};
use crate::backend::tensorrt::tensors::{self, Wanted};
use crate::backend::tensorrt::{DriverState, LibraryError};
use crate::clock;
use crate::heads::shipped;
use crate::model::fetch;
use crate::model::graph::Precision;
use crate::model::store::Store;

/// Plans for TensorRT.
#[derive(Debug, Subcommand)]
pub enum EngineCommand {
    /// Compile the model into a plan for each GPU and batch size
    Build(Build),
    /// Show the plans that are there and whether they run here
    List(Where),
    /// Check plans: header, hash, and whether TensorRT takes them here
    Verify(Verify),
}

/// Where the library is.
#[derive(Debug, Args)]
pub struct Where {
    /// TensorRT's library, or a folder with it; else $STANDOFF_TENSORRT, the store, the system
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
}

/// Arguments of `standoff engine build`.
#[derive(Debug, Args)]
pub struct Build {
    /// Installed model or weights file
    #[arg(long, default_value = fetch::DINOV2_SMALL)]
    model: String,
    /// Input size in pixels, multiples of 14
    #[arg(long, default_value = "392x224", value_parser = super::model::size)]
    size: [u32; 2],
    /// Pictures at once; one plan for each number
    #[arg(long, default_value = "1", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=64))]
    batch: Vec<u16>,
    /// GPUs to build for without having them, sm_86 for example (TensorRT-RTX only); else this machine's
    #[arg(long, value_delimiter = ',', value_parser = target)]
    target: Vec<u32>,
    /// In which floats it computes
    #[arg(long, value_enum, default_value_t = PrecisionArgument::Mixed)]
    precision: PrecisionArgument,
    /// With the tapped layers as outputs, which training reads and the daemon does not
    #[arg(long)]
    layers: bool,
    /// A graph of your own instead of the model's (its input must take the size and batch)
    #[arg(long, value_name = "FILE")]
    onnx: Option<PathBuf>,
    /// Build also what is there already
    #[arg(long)]
    again: bool,
    /// Most memory in MB that one kernel may use for itself; 0 for TensorRT's default
    #[arg(long, default_value_t = 0)]
    workspace_mb: u64,
    /// Stop a build that takes longer than this many seconds
    #[arg(long, default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..))]
    limit_s: u64,
    #[command(flatten)]
    at: Where,
    /// The builder's process
    #[arg(long, hide = true)]
    child: bool,
}

/// Arguments of `standoff engine verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// One plan, also one of trtexec's; all that are there when left out
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Input size that a plan of trtexec's must have
    #[arg(long, default_value = "392x224", value_parser = super::model::size)]
    size: [u32; 2],
    /// Batch that a plan of trtexec's must have
    #[arg(long, default_value_t = 1)]
    batch: u16,
    #[command(flatten)]
    at: Where,
}

/// In which floats a plan computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArgument {
    /// 16 bits, but 32 where it matters: layer norms, softmaxes, heads
    Mixed,
    /// 32 bits
    #[value(alias = "f32")]
    Full,
}

impl From<PrecisionArgument> for Precision {
    fn from(argument: PrecisionArgument) -> Self {
        match argument {
            PrecisionArgument::Mixed => Self::Mixed,
            PrecisionArgument::Full => Self::Full,
        }
    }
}

fn target(words: &str) -> Result<u32, String> {
    let number = words.strip_prefix("sm_").and_then(|number| number.parse().ok());
    number.ok_or_else(|| "give a compute capability like sm_86".to_owned())
}

/// Runs the command. Exit code 2 when TensorRT is not installed or has no driver.
pub fn run(command: &EngineCommand) -> anyhow::Result<ExitCode> {
    match command {
        EngineCommand::Build(arguments) if arguments.child => {
            let built = child::serve(io::stdin(), io::stdout())?;
            Ok(if built { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        EngineCommand::Build(arguments) => build(arguments),
        EngineCommand::List(at) => list(at),
        EngineCommand::Verify(arguments) => verify(arguments),
    }
}

/// Says why TensorRT cannot be used, with the exit code of what is not installed.
fn not_usable(error: &LibraryError) -> ExitCode {
    eprintln!("standoff: {error}");
    ExitCode::from(EXIT_USAGE)
}

fn build(arguments: &Build) -> anyhow::Result<ExitCode> {
    let store = Store::locate()?;
    let candidates = library::candidates(arguments.at.library.as_deref(), &store);
    let targets: Vec<Option<u32>> = match arguments.target.as_slice() {
        [] => vec![None],
        targets => targets.iter().copied().map(Some).collect(),
    };
    for target in targets {
        let (library, built_for) = match open(target, &candidates) {
            Ok(opened) => opened,
            Err(error) => return Ok(not_usable(&error)),
        };
        let version = library.version();
        if version.known_to_be_wrong() {
            eprintln!("standoff: {version} is known to give wrong results for this model; use 10.5 or newer");
        }
        for batch in &arguments.batch {
            build_one(arguments, &store, &library, built_for.clone(), usize::from(*batch))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(target: Option<u32>, candidates: &[PathBuf]) -> Result<(Library, BuiltFor), LibraryError> {
    if let Some(target) = target {
        return Ok((Library::open_for_target(target, candidates)?, BuiltFor::Target(target)));
    }
    let driver = DriverState::probe();
    let library = Library::open(&driver, candidates)?;
    match driver {
        DriverState::Ready(device) => Ok((library, BuiltFor::Gpu(device))),
        DriverState::Absent(problem) => Err(LibraryError::NoDriver(problem)),
    }
}

fn build_one(
    arguments: &Build,
    store: &Store,
    library: &Library,
    built_for: BuiltFor,
    batch: usize,
) -> anyhow::Result<()> {
    let job = match &arguments.onnx {
        Some(file) => Job::of_graph(file.clone(), arguments.size, library, built_for, batch)?,
        None => {
            let settings = BackendSettings {
                model: arguments.model.clone(),
                input_width: arguments.size[0],
                input_height: arguments.size[1],
                heads: shipped::graph_heads()?,
                layers: arguments.layers,
                ..BackendSettings::default()
            };
            Job::of_model(store, &settings, library, built_for, batch, arguments.precision.into())?
        }
    };
    let cache = Cache::of(store);
    if !arguments.again
        && let Ok((path, _)) = job.find(&cache)
    {
        println!("already built: {job}: {}", path.display());
        return Ok(());
    }
    let bar = ProgressBar::new_spinner();
    let start = clock::monotonic();
    let program = std::env::current_exe().context("where this program lies is not known")?;
    let limits = Limits {
        time: Duration::from_secs(arguments.limit_s),
        workspace_bytes: arguments.workspace_mb << 20,
    };
    let built = job.build(&cache, library, &program, limits, &mut |elapsed, words| {
        bar.set_message(format!("building {job}: {} s  {words:.60}", elapsed.as_secs()));
        bar.tick();
    });
    bar.finish_and_clear();
    let (path, plan) = built?;
    let (seconds, megabytes) = (clock::monotonic().since(start).as_secs_f64(), plan.len() / 1_000_000);
    let version = library.version();
    println!("built {job} with {version} in {seconds:.1} s, {megabytes} MB: {}", path.display());
    Ok(())
}

/// What a plan from elsewhere must have to serve the shipped heads.
fn wanted(size: [u32; 2], batch: usize) -> anyhow::Result<Wanted> {
    let heads = shipped::graph_heads()?.iter().map(|head| (head.name.clone(), head.channels())).collect();
    Ok(Wanted { batch, input_width: size[0], input_height: size[1], dim: None, layers: false, heads })
}

fn list(at: &Where) -> anyhow::Result<ExitCode> {
    let store = Store::locate()?;
    let driver = DriverState::probe();
    let library = Library::open(&driver, &library::candidates(at.library.as_deref(), &store));
    match &library {
        Ok(library) => println!("{}: {}", library.version(), library.path().display()),
        Err(error) => println!("TensorRT cannot be used here: {error}"),
    }
    let entries = Cache::of(&store).list();
    if entries.is_empty() {
        println!("no plans in {}; build one: standoff engine build", store.engines_folder().display());
        return Ok(ExitCode::SUCCESS);
    }
    for entry in &entries {
        println!("\n{}", describe(entry));
        println!("  {}", here(entry, &driver, library.as_ref()));
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(entry: &Entry) -> String {
    let written_ms = entry.written.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as i64);
    let hours = (clock::utc().0 - written_ms).max(0) / 3_600_000;
    let age = if hours < 48 { format!("{hours} h old") } else { format!("{} days old", hours / 24) };
    let mut words = format!("{}\n  {} MB, {age}", entry.path.display(), entry.bytes / 1_000_000);
    if let Ok(header) = &entry.header {
        let Key { onnx_sha256, library, built_for, batch, precision } = &header.key;
        let graph = onnx_sha256.get(..12).unwrap_or_default();
        words += &format!(
            "\n  {}, graph {graph}, batch {batch}, {precision}, {library}, for {built_for}",
            header.about
        );
    }
    words
}

/// Whether a plan can run on this machine, by its header.
fn here(entry: &Entry, driver: &DriverState, library: Result<&Library, &LibraryError>) -> String {
    let header = match &entry.header {
        Ok(header) => header,
        Err(error) => return format!("not usable: {error}"),
    };
    match (driver, library) {
        (DriverState::Absent(problem), _) => format!("does not run here: {problem}"),
        (_, Err(error)) => format!("does not run here: {error}"),
        (DriverState::Ready(device), Ok(library)) => {
            if !header.key.built_for.fits(device) {
                format!("does not run here: this GPU is {device}")
            } else if library.version() != header.key.library {
                format!("does not run here: the library is {}", library.version())
            } else {
                "runs here".to_owned()
            }
        }
    }
}

fn verify(arguments: &Verify) -> anyhow::Result<ExitCode> {
    let store = Store::locate()?;
    let candidates = library::candidates(arguments.at.library.as_deref(), &store);
    let library = Library::open(&DriverState::probe(), &candidates);
    let (files, ours): (Vec<PathBuf>, bool) = match &arguments.plan {
        Some(file) => (vec![file.clone()], false),
        None => (Cache::of(&store).list().into_iter().map(|entry| entry.path).collect(), true),
    };
    if files.is_empty() {
        println!("no plans in {}; build one: standoff engine build", store.engines_folder().display());
    }
    let (mut failed, mut untried) = (false, false);
    for file in &files {
        let checked =
            if ours { plan::read(file, None).map(|(h, p)| (Some(h), p)) } else { plan::read_any(file) };
        let (header, bytes) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                failed = true;
                println!("FAILED   {error}");
                continue;
            }
        };
        let whole = if header.is_some() { "whole" } else { "no header of standoff's" };
        let tensors = match header {
            Some(header) => header.tensors,
            None => Some(wanted(arguments.size, usize::from(arguments.batch))?),
        };
        match &library {
            Err(error) => {
                untried = true;
                println!("untried  {}: {whole}; {error}", file.display());
            }
            Ok(library) => match try_here(library, &bytes, tensors.as_ref()) {
                Ok(words) => println!("ok       {}: {whole}; {words}", file.display()),
                Err(error) => {
                    failed = true;
                    println!("FAILED   {}: {whole}; {error:#}", file.display());
                }
            },
        }
    }
    Ok(match (failed, untried) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(EXIT_USAGE),
        (false, false) => ExitCode::SUCCESS,
    })
}

/// Deserialises a plan, compares its inputs and outputs with what is needed and makes it ready to run.
fn try_here(library: &Library, plan: &[u8], wanted: Option<&Wanted>) -> anyhow::Result<String> {
    let engine = Engine::deserialize(library, plan)?;
    let found = engine.tensors();
    if let Some(wanted) = wanted {
        tensors::check(&found, wanted)?;
    }
    engine.context()?;
    let words: Vec<_> =
        found.iter().map(|tensor| format!("{} {} {}", tensor.name, tensor.element, tensor.sides())).collect();
    Ok(format!("{} takes it: {}", library.version(), words.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backend::cuda::NoGpu;

    #[test]
    fn targets_are_written_as_nvidia_writes_them() {
        assert_eq!(target("sm_86"), Ok(86));
        assert!(target("86").is_err() && target("sm_").is_err() && target("sm_x").is_err());
    }

    #[test]
    fn a_plan_needs_the_shipped_heads() {
        let wanted = wanted([392, 224], 4).unwrap();
        let heads: Vec<_> = wanted.heads.iter().map(|(name, channels)| (name.as_str(), *channels)).collect();
        assert_eq!(heads, [("segment", 9), ("depth", 2), ("surface", 10)]);
    }

    #[test]
    fn a_file_that_is_no_plan_says_so_in_the_list() {
        let path = Path::new("x.plan");
        let header = Err(plan::PlanError::Foreign(path.to_owned()));
        let entry = Entry { path: path.to_owned(), bytes: 3_000_000, written: UNIX_EPOCH, header };
        assert!(describe(&entry).starts_with("x.plan\n  3 MB, "));
        let driver = DriverState::Absent(NoGpu::NoDriver);
        let none = LibraryError::BuiltWithoutAny;
        assert!(here(&entry, &driver, Err(&none)).starts_with("not usable: x.plan is not a plan"));
    }
}
