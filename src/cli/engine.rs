//! `standoff engine`: builds, lists and checks TensorRT plans.

mod inspect;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressBar;

use super::EXIT_USAGE;
use crate::backend::BackendSettings;
use crate::backend::tensorrt::cache::Cache;
use crate::backend::tensorrt::child;
use crate::backend::tensorrt::job::{Job, Limits};
use crate::backend::tensorrt::library::{self, Library};
use crate::backend::tensorrt::plan::{self, BuiltFor};
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
    Verify(inspect::Verify),
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
    /// A plan that trtexec made on this machine of the graph that `--batch` and `--precision` name: taken as it is when
    /// its inputs and outputs are right
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "onnx"])]
    plan: Option<PathBuf>,
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
        EngineCommand::List(at) => inspect::list(at),
        EngineCommand::Verify(arguments) => inspect::verify(arguments),
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
    if let Some(file) = &arguments.plan {
        let (_, bytes) = plan::read_any(file)?;
        inspect::try_here(library, &bytes, job.tensors.as_ref())
            .with_context(|| format!("{} is not taken for {job}", file.display()))?;
        let about = format!("{}, from {}", job.about, file.display());
        let path = cache.put(job.key.clone(), &about, job.tensors.clone(), &bytes)?;
        println!("taken: {job} from {}: {}", file.display(), path.display());
        return Ok(());
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_written_as_nvidia_writes_them() {
        assert_eq!(target("sm_86"), Ok(86));
        assert!(target("86").is_err() && target("sm_").is_err() && target("sm_x").is_err());
    }
}
