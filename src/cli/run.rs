//! `standoff run`: the daemon.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::EXIT_USAGE;
use crate::audit::Entry;
use crate::clock;
use crate::config::{Config, Problems};
use crate::daemon::reload::ReloadError;
use crate::daemon::{Daemon, notify};
use crate::heartbeat::Trouble;
use crate::ingest::flag::Flag;
use crate::metrics::METRICS;

/// Changed keys, or problems, that are written down of one reload.
const KEYS_MAX: usize = 32;

/// How long stopping may take in the worst case: less than the unit's `TimeoutStopSec`.
const STOP_AT_LAST: Duration = Duration::from_secs(12);

/// Runs until SIGTERM or SIGINT (exit code 0) or until a part hangs or has failed (1). With a bad configuration, or
/// without model, ONNX Runtime or a GStreamer plugin, it does not run, and starting again would not help (2).
/// SIGHUP reads the configuration again: a good one is followed, a bad one is named and left aside.
pub fn run(file: &Path) -> anyhow::Result<ExitCode> {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(problems) => {
            notify::status(&counted(&problems));
            eprintln!("{problems}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    doubt(&config);
    notify::status("loading the model and connecting");
    let mut daemon = match Daemon::start(&config) {
        Ok(daemon) => daemon,
        Err(error) if error.needs_a_person() => {
            notify::status(&error.to_string());
            tracing::error!("{error}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
        Err(error) => return Err(error.into()),
    };
    let mut signals = Signals::new(&daemon)?;
    let mut troubles = daemon.supervise();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %config.node,
        cameras = config.cameras.len(),
        backend = daemon.backend().name,
        "started"
    );
    notify::ready(&daemon.status_line());
    let code = loop {
        match daemon.runtime().block_on(next(&mut signals, &mut troubles)) {
            Wake::Stop => break ExitCode::SUCCESS,
            Wake::Reload => {
                notify::reloading();
                let outcome = reload(&mut daemon, file);
                let status = match &outcome {
                    Reloaded::Yes => daemon.status_line(),
                    Reloaded::No(why) => format!("reload rejected, the old configuration stays: {why}"),
                    Reloaded::HalfWay => "reload failed".to_owned(),
                };
                notify::ready(&status);
                if matches!(outcome, Reloaded::HalfWay) {
                    break ExitCode::FAILURE;
                }
            }
            Wake::Trouble(troubles) => {
                troubles.iter().for_each(|trouble| tracing::error!("{trouble}"));
                tracing::error!("stopping, so that a clean process can start");
                break ExitCode::FAILURE;
            }
        }
    };
    notify::stopping("stopping");
    let stopped = end_at_last();
    daemon.stop();
    stopped.raise();
    tracing::info!("stopped");
    Ok(code)
}

/// Ends the process when stopping in order takes too long. Every part has its own deadline; this is for what nobody
/// thought of, such as a disk that does not answer. The flag says that it was not needed.
fn end_at_last() -> Arc<Flag> {
    let stopped = Arc::new(Flag::default());
    let flag = stopped.clone();
    let guard = std::thread::Builder::new().name("end-at-last".into()).spawn(move || {
        if !flag.wait(STOP_AT_LAST) {
            tracing::error!("stopping does not come to an end; the process ends without it");
            std::process::exit(1);
        }
    });
    if let Err(error) = guard {
        tracing::debug!(%error, "stopping has no deadline");
    }
    stopped
}

fn counted(problems: &Problems) -> String {
    let count = problems.list.len();
    format!("{count} {} in {}, see the log", if count == 1 { "problem" } else { "problems" }, problems.file)
}

/// How a reload ended.
enum Reloaded {
    Yes,
    /// Nothing was changed.
    No(String),
    /// Something was changed, and not all.
    HalfWay,
}

/// Follows the file, or says in the log all that is wrong with it.
fn reload(daemon: &mut Daemon, file: &Path) -> Reloaded {
    let count = |result: &str| METRICS.reloads.of(&[&result]).inc();
    let new = match Config::load(file) {
        Ok(new) => new,
        Err(problems) => {
            count("rejected");
            audit(daemon, "rejected", json!({"problems": listed(&problems)}));
            for problem in &problems.list {
                tracing::error!(file = problems.file, "reload rejected: {problem}");
            }
            tracing::warn!(problems = problems.list.len(), "the old configuration stays in force");
            return Reloaded::No(counted(&problems));
        }
    };
    doubt(&new);
    let keys = daemon.config().source.changes(&new.source);
    let keys: Vec<_> = keys.into_iter().take(KEYS_MAX).collect();
    let loaded = json!({"config_sha256": new.source.sha256, "changes": keys});
    match daemon.reload(new) {
        Ok(changes) => {
            count("applied");
            audit(daemon, "applied", loaded);
            tracing::info!("reloaded: {changes}");
            Reloaded::Yes
        }
        Err(error @ ReloadError::HalfWay(_)) => {
            tracing::error!("{error}; stopping, so that a clean process can start");
            Reloaded::HalfWay
        }
        Err(error) => {
            count("rejected");
            audit(daemon, "rejected", json!({"problems": [error.to_string()]}));
            tracing::error!("reload rejected: {error}");
            tracing::warn!(problems = 1, "the old configuration stays in force");
            Reloaded::No(error.to_string())
        }
    }
}

/// Says what is accepted and probably not what was meant.
fn doubt(config: &Config) {
    for doubt in &config.doubts {
        tracing::warn!("doubtful: {doubt}");
    }
}

/// Writes a load of the configuration down.
fn audit(daemon: &Daemon, result: &str, mut data: Value) {
    data["result"] = json!(result);
    daemon.audit().note(Entry::new(clock::utc(), "configuration", data));
}

/// What is wrong, as far as a line of the audit log holds it.
fn listed(problems: &Problems) -> Vec<String> {
    problems
        .list
        .iter()
        .take(KEYS_MAX)
        .map(|problem| problem.to_string().chars().take(200).collect())
        .collect()
}

/// Why the main thread wakes up.
enum Wake {
    Stop,
    Reload,
    Trouble(Vec<Trouble>),
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new(daemon: &Daemon) -> anyhow::Result<Self> {
        let _guard = daemon.runtime().enter();
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT cannot be awaited")?,
            hangup: signal(SignalKind::hangup()).context("SIGHUP cannot be awaited")?,
        })
    }
}

async fn next(signals: &mut Signals, troubles: &mut watch::Receiver<Vec<Trouble>>) -> Wake {
    tokio::select! {
        _ = signals.terminate.recv() => Wake::Stop,
        _ = signals.interrupt.recv() => Wake::Stop,
        _ = signals.hangup.recv() => Wake::Reload,
        // An error means that the supervisor is gone, which it says before it goes unless it has failed itself.
        troubles = wait_for(troubles) => Wake::Trouble(troubles),
    }
}

async fn wait_for(troubles: &mut watch::Receiver<Vec<Trouble>>) -> Vec<Trouble> {
    troubles
        .wait_for(|troubles| !troubles.is_empty())
        .await
        .map(|troubles| troubles.clone())
        .unwrap_or_default()
}
