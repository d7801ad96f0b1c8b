//! Arguments, logging, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use standoff::cli::{self, Arguments, Command};
use standoff::telemetry::{self, Format};
use tracing::Level;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = match arguments.command {
        Command::Run { .. } => Level::INFO,
        // The other commands speak for themselves; what they use is heard only when something is wrong.
        _ => Level::WARN,
    };
    let done =
        telemetry::init(Format::Text, level).map_err(Into::into).and_then(|()| cli::dispatch(&arguments));
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("standoff: {error:#}");
            ExitCode::FAILURE
        }
    }
}
