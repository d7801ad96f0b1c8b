//! `standoff run`: the daemon.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::EXIT_USAGE;
use crate::config::Config;
use crate::daemon::Daemon;

/// How often the daemon looks whether all of its threads are alive.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT (exit code 0) or until a thread has failed (1). A bad configuration never
/// runs (2).
pub fn run(file: &Path) -> anyhow::Result<ExitCode> {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let daemon = Daemon::start(&config)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %config.node,
        cameras = config.cameras.len(),
        backend = daemon.backend().name,
        "started"
    );
    let outcome = wait(&daemon);
    daemon.stop();
    tracing::info!("stopped");
    outcome
}

fn wait(daemon: &Daemon) -> anyhow::Result<ExitCode> {
    daemon.runtime().block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be awaited")?;
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
                _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
                _ = look.tick() => {
                    if !daemon.is_whole() {
                        tracing::error!("a thread has ended; stopping, so that a clean process can start");
                        return Ok(ExitCode::FAILURE);
                    }
                }
            }
        }
    })
}
