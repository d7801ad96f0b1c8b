//! One file a command.

pub mod alarm;
pub mod audit;
pub mod bench;
pub mod calibrate;
pub mod check;
pub mod commission;
pub mod curate;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "demo")]
pub mod demo_broker;
#[cfg(feature = "demo")]
pub mod demo_rtsp;
pub mod doctor;
pub mod embedder;
#[cfg(feature = "tensorrt")]
pub mod engine;
pub mod evaluate;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod model;
pub mod privacy;
pub mod probe;
pub mod progress;
pub mod replay;
pub mod report;
pub mod run;
pub mod search;
pub mod teach;
pub mod train;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Watches camera streams and says, in metres, when things get too close.
#[derive(Debug, Parser)]
#[command(name = "standoff", version, about, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the cameras of a configuration until told to stop
    Run {
        /// The configuration (YAML)
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Show, acknowledge, shelve and switch the alarms of the daemon that runs here
    Alarm(alarm::AlarmArguments),
    /// Name everything that is wrong with a configuration
    Check(check::Args),
    /// Say where a camera is by what was measured on its floor, how good that is, and draw a grid of metres to look at
    Calibrate(calibrate::CalibrateArguments),
    /// Measure what the cameras' views normally are, while they are known to be good
    Commission(commission::CommissionArguments),
    /// Watch a clip played as a live camera, alarms over a broker of its own, and compare with the truth
    #[cfg(feature = "demo")]
    Demo(demo::DemoArguments),
    /// Put a clip through the daemon's path in virtual time, and compare with the truth if there is one
    Replay(replay::ReplayArguments),
    /// Show what the heads see in a picture
    Probe(probe::ProbeArguments),
    /// Show where the time of a frame goes
    Bench(bench::BenchArguments),
    /// Teach a class or a state by a few examples, while the daemon runs
    Teach(teach::TeachArguments),
    /// Find the incidents that look most like a picture or like another incident
    Search(search::SearchArguments),
    /// Choose the most varied frames of a folder, a clip or the kept pictures, to label them
    Curate(curate::CurateArguments),
    /// Train a head on labelled frames
    Train(train::Args),
    /// Say how much a model's features are worth on labelled data
    Evaluate(evaluate::EvaluateArguments),
    /// Say what is installed, what is missing and how to mend it
    Doctor,
    /// Check the log of what happened
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Delete what is kept of people
    #[command(subcommand)]
    Privacy(privacy::PrivacyCommand),
    /// Compile the model for TensorRT, list and check what was compiled
    #[cfg(feature = "tensorrt")]
    #[command(subcommand)]
    Engine(engine::EngineCommand),
    /// Check this machine's GPU: right numbers, and how fast
    #[cfg(feature = "cuda")]
    Gpu(gpu::GpuArguments),
    /// Install, import, list and export models
    #[command(subcommand)]
    Model(model::ModelCommand),
}

/// Exit code for wrong usage or a bad configuration: starting again does not mend it.
pub const EXIT_USAGE: u8 = 2;

/// Where a picture is written: where it was asked for, else under its usual name, but not over what lies there.
fn picture_file(asked: Option<&Path>, usual: &str) -> anyhow::Result<PathBuf> {
    match asked {
        Some(path) => Ok(path.to_owned()),
        None if Path::new(usual).exists() => {
            anyhow::bail!("{usual} is there already: say with --out where to write")
        }
        None => Ok(PathBuf::from(usual)),
    }
}

/// Runs the command.
pub fn dispatch(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        Command::Run { config } => run::run(config),
        Command::Alarm(arguments) => alarm::run(arguments),
        Command::Check(arguments) => Ok(check::run(arguments)),
        Command::Calibrate(arguments) => calibrate::run(arguments),
        Command::Commission(arguments) => commission::run(arguments),
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => demo::run(arguments),
        Command::Replay(arguments) => replay::run(arguments),
        Command::Probe(arguments) => probe::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Teach(arguments) => teach::run(arguments),
        Command::Search(arguments) => search::run(arguments),
        Command::Curate(arguments) => curate::run(arguments),
        Command::Train(arguments) => train::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Evaluate(arguments) => evaluate::run(arguments),
        Command::Doctor => doctor::run(),
        Command::Audit(command) => audit::run(command),
        Command::Privacy(command) => privacy::run(command),
        #[cfg(feature = "tensorrt")]
        Command::Engine(command) => engine::run(command),
        #[cfg(feature = "cuda")]
        Command::Gpu(arguments) => gpu::run(arguments),
        Command::Model(command) => model::run(command).map(|()| ExitCode::SUCCESS),
    }
}
