//! Which backend runs: the best that this machine has and the numeric gate lets through. Runs once, in the thread that
//! starts the daemon. A backend that was expected and is not used is said, because somebody counts on its speed.

#[cfg(feature = "cuda")]
mod on_gpu;

use std::fmt;

use super::gate::{self, Reference};
use super::onnxruntime::with_depth::WithDepth;
use super::{Backend, BackendError, BackendSettings, onnxruntime, recorded};
use crate::model::graph::Precision;

/// Which backend the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wanted {
    /// The best that works.
    #[default]
    Auto,
    /// TensorRT; whatever works where it does not, with a health alarm.
    TensorRt,
    /// ONNX Runtime's CUDA provider; likewise.
    Cuda,
    /// ONNX Runtime on the CPU.
    Cpu,
}

/// What the model can run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// TensorRT or TensorRT-RTX.
    TensorRt,
    /// ONNX Runtime's CUDA provider.
    Cuda,
    /// ONNX Runtime on the CPU: the reference itself, so that it passes no gate.
    Cpu,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TensorRt => "TensorRT",
            Self::Cuda => "ONNX Runtime CUDA",
            Self::Cpu => "ONNX Runtime CPU",
        })
    }
}

/// Why a backend is not used.
#[derive(Debug)]
pub enum Unusable {
    /// The machine has no device for it: nothing is wrong.
    NoDevice(String),
    /// There is a device, and something that would use it is missing.
    NotInstalled {
        /// What is missing.
        problem: String,
        /// The command that mends it, or what to do.
        remedy: String,
    },
    /// It does not work.
    Failed(BackendError),
    /// It works and gives wrong numbers.
    Rejected(String),
}

impl Unusable {
    /// Its word in metrics.
    fn word(&self) -> &'static str {
        match self {
            Self::NoDevice(_) => "no_device",
            Self::NotInstalled { .. } => "not_installed",
            Self::Failed(_) => "failed",
            Self::Rejected(_) => "rejected",
        }
    }

    /// Whether the same runtime is not there in any other precision either.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NoDevice(_) | Self::NotInstalled { .. })
    }
}

/// Words of the reasons for which a backend that was expected is not used.
pub const REASONS: [&str; 4] = ["no_device", "not_installed", "failed", "rejected"];

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice(problem) => f.write_str(problem),
            Self::NotInstalled { problem, remedy } => write!(f, "{problem} ({remedy})"),
            Self::Failed(error) => error.fmt(f),
            Self::Rejected(problem) => write!(f, "wrong numbers, {problem}"),
        }
    }
}

/// A backend that may run the model.
pub struct Candidate<'a> {
    /// What it runs on.
    pub runtime: Runtime,
    /// In which floats.
    pub precision: Precision,
    /// Opens it.
    pub open: Box<dyn FnOnce() -> Result<Box<dyn Backend>, Unusable> + 'a>,
}

/// A candidate that is not used.
#[derive(Debug)]
pub struct PassedOver {
    /// What it would run on.
    pub runtime: Runtime,
    /// In which floats.
    pub precision: Precision,
    /// Why it is not used.
    pub why: Unusable,
}

/// The backend that runs, and why no better one does.
pub struct Chosen {
    /// It.
    pub backend: Box<dyn Backend>,
    /// Those that would be better, best first.
    pub passed_over: Vec<PassedOver>,
    /// One of [`REASONS`] when a better backend was expected.
    pub degraded: Option<&'static str>,
    wanted: Wanted,
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

impl Chosen {
    /// What runs and why nothing better does, in a line.
    pub fn line(&self) -> String {
        let name = &self.backend.spec().name;
        let instead = match (self.degraded, runtime_of(self.wanted)) {
            (Some(_), Some(named)) if self.passed_over.iter().any(|other| other.runtime == named) => {
                format!(", not on {named} as configured")
            }
            _ => String::new(),
        };
        let why = reasons(&self.passed_over);
        format!("the model runs on {name}{instead}{}{why}", if why.is_empty() { "" } else { ": " })
    }

    /// Says it in the log.
    pub fn log(&self) {
        if self.degraded.is_some() {
            tracing::warn!("{}", self.line());
        } else {
            tracing::info!("{}", self.line());
        }
    }

    /// What is said to people and machines that watch the daemon's health.
    pub fn problem(&self) -> Option<String> {
        self.degraded.map(|_| self.line())
    }
}

/// Each reason once, with the names of all that it is true of unless these are all.
fn reasons(passed_over: &[PassedOver]) -> String {
    let mut grouped: Vec<(String, Vec<String>)> = vec![];
    for PassedOver { runtime, precision, why } in passed_over {
        let name = match precision {
            Precision::Mixed => runtime.to_string(),
            Precision::Full => format!("{runtime} in 32 bits"),
        };
        let why = why.to_string();
        match grouped.iter_mut().find(|(known, _)| *known == why) {
            Some((_, names)) => names.push(name),
            None => grouped.push((why, vec![name])),
        }
    }
    match grouped.as_slice() {
        [(why, names)] if names.len() > 1 => why.clone(),
        _ => {
            let each = grouped.iter().map(|(why, names)| format!("{}: {why}", names.join(" and ")));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

fn runtime_of(wanted: Wanted) -> Option<Runtime> {
    match wanted {
        Wanted::Auto => None,
        Wanted::TensorRt => Some(Runtime::TensorRt),
        Wanted::Cuda => Some(Runtime::Cuda),
        Wanted::Cpu => Some(Runtime::Cpu),
    }
}

/// Opens the best backend that `settings` ask for and this machine has.
///
/// # Errors
/// Not even the CPU can run the model: it or ONNX Runtime is not installed.
pub fn choose(settings: &BackendSettings) -> Result<Chosen, BackendError> {
    if let Some(file) = &settings.recorded {
        let heads: Vec<String> = settings.heads.iter().map(|head| head.name.clone()).collect();
        let backend = Box::new(recorded::Recorded::open(file, settings.max_batch, &heads)?);
        return Ok(Chosen { backend, passed_over: vec![], degraded: None, wanted: settings.wanted });
    }
    let mut chosen = choose_from(settings.wanted, candidates(settings), gate_of(settings))?;
    if let Some(network) = &settings.depth {
        chosen.backend = Box::new(WithDepth::open(chosen.backend, network, settings)?);
    }
    Ok(chosen)
}

/// The gate with its reference, which is fetched when the first backend has to pass.
pub fn gate_of(settings: &BackendSettings) -> impl FnMut(&mut dyn Backend) -> Result<(), String> {
    let mut kept: Option<Reference> = None;
    move |backend| {
        if kept.is_none() {
            let reference = Reference::of(settings);
            kept = Some(reference.map_err(|error| format!("that cannot be compared with any: {error}"))?);
        }
        match kept.as_ref().and_then(|reference| gate::check(backend, reference).rejection()) {
            Some(rejection) => Err(rejection),
            None => Ok(()),
        }
    }
}

/// All that may run the model, best first; the CPU is last and always there.
pub fn candidates(settings: &BackendSettings) -> Vec<Candidate<'_>> {
    let precisions: &[Precision] = match settings.precision {
        Precision::Mixed => &[Precision::Mixed, Precision::Full],
        Precision::Full => &[Precision::Full],
    };
    let runtimes: &[Runtime] = match settings.wanted {
        Wanted::Auto | Wanted::TensorRt => &[Runtime::TensorRt, Runtime::Cuda],
        Wanted::Cuda => &[Runtime::Cuda],
        Wanted::Cpu => &[],
    };
    let on_gpu =
        runtimes.iter().flat_map(|runtime| precisions.iter().map(move |precision| (*runtime, *precision)));
    let on_cpu = [(Runtime::Cpu, Precision::Full)];
    let candidate = |(runtime, precision)| {
        let open = Box::new(move || open(runtime, precision, settings));
        Candidate { runtime, precision, open: open as Box<dyn FnOnce() -> _> }
    };
    on_gpu.chain(on_cpu).map(candidate).collect()
}

fn open(
    runtime: Runtime,
    precision: Precision,
    settings: &BackendSettings,
) -> Result<Box<dyn Backend>, Unusable> {
    if runtime != Runtime::Cpu {
        return on_gpu(runtime, precision, settings);
    }
    match onnxruntime::OnnxRuntime::open(settings) {
        Ok(backend) => Ok(Box::new(backend)),
        Err(error) => Err(Unusable::Failed(error)),
    }
}

#[cfg(feature = "cuda")]
use on_gpu::open as on_gpu;

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: Runtime, _: Precision, _: &BackendSettings) -> Result<Box<dyn Backend>, Unusable> {
    Err(match super::driver::cuda_driver() {
        None => Unusable::NoDevice(super::driver::NO_DRIVER.to_owned()),
        Some(_) => Unusable::NotInstalled {
            problem: "built without GPU support".to_owned(),
            remedy: "build with the features 'cuda' and 'tensorrt'".to_owned(),
        },
    })
}

/// The first candidate that opens and passes the gate; the last one passes none.
///
/// # Errors
/// The last one does not open.
pub fn choose_from(
    wanted: Wanted,
    candidates: Vec<Candidate<'_>>,
    mut gate: impl FnMut(&mut dyn Backend) -> Result<(), String>,
) -> Result<Chosen, BackendError> {
    let mut passed_over: Vec<PassedOver> = vec![];
    for Candidate { runtime, precision, open } in candidates {
        if passed_over.iter().any(|other| other.runtime == runtime && other.why.is_absent()) {
            continue;
        }
        let tried = open().and_then(|mut backend| {
            let passed = if runtime == Runtime::Cpu { Ok(()) } else { gate(backend.as_mut()) };
            passed.map(|()| backend).map_err(Unusable::Rejected)
        });
        match tried {
            Ok(backend) => {
                let degraded = degraded(wanted, runtime, &passed_over);
                return Ok(Chosen { backend, passed_over, degraded, wanted });
            }
            Err(Unusable::Failed(error)) if runtime == Runtime::Cpu => return Err(error),
            Err(why) => passed_over.push(PassedOver { runtime, precision, why }),
        }
    }
    Err(BackendError::Open(format!("no backend runs: {}", reasons(&passed_over))))
}

/// Why a better backend was to be expected: one is there and does not work, the configuration names one, or there is a
/// GPU and the CPU runs all the same.
fn degraded(wanted: Wanted, runs: Runtime, passed_over: &[PassedOver]) -> Option<&'static str> {
    let broken = passed_over.iter().find(|other| !other.why.is_absent());
    let named = || passed_over.iter().find(|other| Some(other.runtime) == runtime_of(wanted));
    let idle = || {
        let installable = |other: &&PassedOver| matches!(other.why, Unusable::NotInstalled { .. });
        passed_over.iter().filter(|_| runs == Runtime::Cpu).find(installable)
    };
    broken.or_else(named).or_else(idle).map(|other| other.why.word())
}

#[cfg(test)]
mod tests;
