//! Whether the process is alive, whether it does its work, and what it costs.

use serde::Serialize;

use crate::clock::Timestamp;
use crate::heartbeat::{Heart, Part};
use crate::metrics::METRICS;
use crate::outbox::Statement;
use crate::types::{CameraState, Reason, RunsOn};

/// Answer of `/healthz`.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct Health {
    pub(super) alive: bool,
    parts: Vec<PartHealth>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize, PartialEq)]
struct PartHealth {
    part: &'static str,
    /// Since its last sign of life, seconds; none when it has ended.
    silent_s: Option<f64>,
}

/// Whether every part that was started makes progress.
pub(super) fn alive(heart: &Heart, now: Timestamp) -> Health {
    let silence = |part: Part| {
        let silence = heart.silence(part, now)?;
        let ended = silence == std::time::Duration::MAX;
        let silent_s = (!ended).then(|| (silence.as_secs_f64() * 1000.0).round() / 1000.0);
        Some(PartHealth { part: part.name(), silent_s })
    };
    let problems: Vec<String> =
        heart.troubles(now, Timestamp::default()).iter().map(ToString::to_string).collect();
    Health {
        alive: problems.is_empty(),
        parts: Part::ALL.into_iter().filter_map(silence).collect(),
        problems,
    }
}

/// Answer of `/readyz`.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    /// What is missing.
    reasons: Vec<String>,
    backend: Option<String>,
    /// Why a better backend, which was expected, does not run.
    backend_problem: Option<String>,
    broker: &'static str,
    cameras: Vec<CameraReady>,
}

#[derive(Debug, Serialize, PartialEq)]
struct CameraReady {
    camera: String,
    state: CameraState,
    reason: Option<Reason>,
}

/// Whether the daemon does its work: the model is loaded, the broker connected, and every camera is live or its
/// fault is said. A camera that has failed does not make the daemon unready: it says so, which is its work.
pub(super) fn ready(backend: Option<&RunsOn>, broker: bool, statements: &[Statement]) -> Readiness {
    let mut reasons = vec![];
    if backend.is_none() {
        reasons.push("the model is not loaded yet".to_owned());
    }
    if !broker {
        reasons.push("the broker is not connected: alarms wait".to_owned());
    }
    let mut cameras = vec![];
    for statement in statements {
        let Statement::Camera(status) = statement else { continue };
        let said = !matches!(status.reason, None | Some(Reason::Starting | Reason::Connecting));
        if status.state != CameraState::Live && !said {
            reasons.push(format!("camera '{}' is being connected", status.camera));
        }
        let camera = status.camera.to_string();
        cameras.push(CameraReady { camera, state: status.state, reason: status.reason });
    }
    Readiness {
        ready: reasons.is_empty(),
        reasons,
        backend: backend.map(|backend| backend.name.clone()),
        backend_problem: backend.and_then(|backend| backend.problem.clone()),
        broker: if broker { "connected" } else { "away" },
        cameras,
    }
}

/// Notes what the process costs, as `/proc` says it.
pub(super) fn note_process() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<i64>().ok()
    };
    if let Some(kib) = number("VmRSS:") {
        METRICS.process_memory.set(kib * 1024);
    }
    if let Some(threads) = number("Threads:") {
        METRICS.process_threads.set(threads);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the folder that is being read.
        METRICS.process_files.set(i64::try_from(files.count()).unwrap_or(i64::MAX) - 1);
    }
}
