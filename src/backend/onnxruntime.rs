//! ONNX Runtime on the CPU, loaded at run time. Its threads sleep between frames: spinning ones would take the
//! cores from the decoders.

#[cfg(feature = "cuda")]
pub mod device;
pub mod with_depth;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{env, fs};

use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::environment::Environment;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionOutputs};
use ort::value::{Shape, TensorRef};

use super::{Backend, BackendError, BackendSettings, BackendSpec};
use crate::clock;
use crate::model::graph::{BatchSize, CLS, Dialect, GraphOptions, INPUT, Precision, TAPS, grid_of};
use crate::model::store::{Store, StoreError};
use crate::preprocess::Preprocessor;
use crate::types::{Batch, Dense, Features, StageTimes};

/// The library and its environment: one a process, kept until its end.
static ENVIRONMENT: Mutex<Option<(Environment, PathBuf)>> = Mutex::new(None);

/// The backend.
pub struct OnnxRuntime {
    spec: BackendSpec,
    session: Session,
    preprocessor: Preprocessor,
    /// Input of a full batch, reused.
    pixels: Vec<f32>,
    /// The same for a graph that takes 16 bits; empty for others.
    half_pixels: Vec<f16>,
    layers: bool,
}

impl OnnxRuntime {
    /// Opens the library, the model and its graph.
    pub fn open(settings: &BackendSettings) -> Result<Self, BackendError> {
        Self::open_as(settings, Precision::Full, Dialect::Onnx)
    }

    /// The same with a graph that was written for a GPU: what it gives there can be tried without one.
    pub fn open_as(
        settings: &BackendSettings,
        precision: Precision,
        dialect: Dialect,
    ) -> Result<Self, BackendError> {
        let open = |error: String| BackendError::Open(error);
        let (width, height) = (settings.input_width, settings.input_height);
        let grid = grid_of(width, height).map_err(|error| open(error.to_string()))?;
        if settings.max_batch == 0 {
            return Err(open("a batch holds at least one frame".to_owned()));
        }
        let store = Store::locate().map_err(|error| open(error.to_string()))?;
        let environment = load(&library_candidates(settings.library.as_deref(), &store))?;
        let batch = if settings.max_batch == 1 { BatchSize::Fixed(1) } else { BatchSize::Symbolic };
        let options = GraphOptions {
            taps: settings.layers,
            precision,
            dialect,
            ..GraphOptions::new([width, height], batch, &settings.heads)
        };
        let session = open_session(&environment, &store, settings, &options, Ok)?;
        let dim = dim_of(&session).ok_or_else(|| open("the graph has no CLS token".to_owned()))?;
        let preprocessor = Preprocessor::new(width, height);
        let pixels = vec![0.0; settings.max_batch * preprocessor.values()];
        let half_pixels = if precision == Precision::Mixed { vec![f16::ZERO; pixels.len()] } else { vec![] };
        let spec = BackendSpec {
            name: format!("ONNX Runtime {} (CPU)", version()),
            input_width: width,
            input_height: height,
            grid,
            dim,
            max_batch: settings.max_batch,
            heads: settings.heads.iter().map(|head| head.name.clone()).collect(),
            reads_gpu: false,
        };
        let layers = settings.layers;
        let mut backend = Self { spec, session, preprocessor, pixels, half_pixels, layers };
        // A full batch fixes the arena at its final size and pays for the first run now.
        backend.forward(settings.max_batch, |_| Ok(()))?;
        Ok(backend)
    }

    /// Runs the first `frames` inputs of the buffer.
    fn forward<T>(
        &mut self,
        frames: usize,
        read: impl FnOnce(&SessionOutputs<'_>) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let values = frames * self.preprocessor.values();
        let shape = [frames, 3, self.spec.input_height as usize, self.spec.input_width as usize];
        let pixels = &self.pixels[..values];
        let outputs = match self.half_pixels.get_mut(..values) {
            None => {
                let input = TensorRef::from_array_view((shape, pixels)).map_err(infer)?;
                self.session.run(ort::inputs![INPUT => input]).map_err(infer)?
            }
            Some(half_pixels) => {
                half_pixels.convert_from_f32_slice(pixels);
                let input = TensorRef::from_array_view((shape, &*half_pixels)).map_err(infer)?;
                self.session.run(ort::inputs![INPUT => input]).map_err(infer)?
            }
        };
        read(&outputs)
    }
}

impl Backend for OnnxRuntime {
    fn spec(&self) -> &BackendSpec {
        &self.spec
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Features>, BackendError> {
        let count = batch.frames.len();
        if count == 0 || count > self.spec.max_batch {
            return Err(BackendError::Infer(format!(
                "a batch of {count} frames was given, the backend takes 1 to {}",
                self.spec.max_batch
            )));
        }
        let values = self.preprocessor.values();
        let mut prepared = Vec::with_capacity(count);
        for (frame, pixels) in batch.frames.iter().zip(self.pixels.chunks_exact_mut(values)) {
            let start = clock::monotonic();
            let transform =
                self.preprocessor.run(frame, pixels).map_err(|error| BackendError::Preprocess {
                    camera: frame.camera.to_string(),
                    seq: frame.seq,
                    problem: error.to_string(),
                })?;
            prepared.push((transform, clock::monotonic().since(start)));
        }

        let (grid, dim, heads) = (self.spec.grid, self.spec.dim, self.spec.heads.clone());
        let taps: &[&str] = if self.layers { &TAPS } else { &[] };
        let start = clock::monotonic();
        let mut features = self.forward(count, |outputs| {
            let mut features = Vec::with_capacity(count);
            for (at, (frame, (transform, preprocess))) in batch.frames.iter().zip(&prepared).enumerate() {
                let layers = taps.iter().map(|tap| part(outputs, tap, at, grid.len() * dim));
                let dense = heads.iter().map(|head| {
                    let values = part_of_any_length(outputs, head, at, count)?;
                    Ok((head.clone(), Dense { channels: values.len() / grid.len(), values }))
                });
                features.push(Features {
                    frame: frame.clone(),
                    transform: *transform,
                    grid,
                    dim,
                    layers: layers.collect::<Result<_, _>>()?,
                    cls: part(outputs, CLS, at, dim)?,
                    dense: dense.collect::<Result<BTreeMap<_, _>, BackendError>>()?,
                    closer: vec![],
                    times: StageTimes { preprocess: *preprocess, ..StageTimes::default() },
                });
            }
            Ok(features)
        })?;
        let backbone = clock::monotonic().since(start);
        features.iter_mut().for_each(|features| features.times.backbone = backbone);
        Ok(features)
    }
}

/// The values of frame `at` in an output of `length` values a frame.
fn part(
    outputs: &SessionOutputs<'_>,
    name: &str,
    at: usize,
    length: usize,
) -> Result<Vec<f32>, BackendError> {
    let values = values_of(outputs, name)?;
    let part = values.get(at * length..(at + 1) * length);
    part.map(<[f32]>::to_vec).ok_or_else(|| {
        BackendError::Infer(format!("output '{name}' has {} values, too few for frame {at}", values.len()))
    })
}

fn part_of_any_length(
    outputs: &SessionOutputs<'_>,
    name: &str,
    at: usize,
    count: usize,
) -> Result<Vec<f32>, BackendError> {
    let length = values_of(outputs, name)?.len() / count;
    part(outputs, name, at, length)
}

fn values_of<'a>(outputs: &'a SessionOutputs<'_>, name: &str) -> Result<&'a [f32], BackendError> {
    let output =
        outputs.get(name).ok_or_else(|| BackendError::Infer(format!("the graph has no output '{name}'")))?;
    let (_, values): (&Shape, &[f32]) = output.try_extract_tensor().map_err(infer)?;
    Ok(values)
}

fn infer(error: ort::Error) -> BackendError {
    BackendError::Infer(error.to_string())
}

/// Width of a token, from the shape of the CLS output.
fn dim_of(session: &Session) -> Option<usize> {
    let cls = session.outputs().iter().find(|output| output.name() == CLS)?;
    cls.dtype().tensor_shape()?.last().and_then(|dim| usize::try_from(*dim).ok())
}

/// Opens the cached graph, with what `provide` adds to the session; one that the library cannot read is written anew,
/// once.
fn open_session(
    environment: &Environment,
    store: &Store,
    settings: &BackendSettings,
    options: &GraphOptions<'_>,
    provide: impl Fn(SessionBuilder) -> Result<SessionBuilder, BackendError>,
) -> Result<Session, BackendError> {
    let open = |error: String| BackendError::Open(error);
    let graph = || {
        store.graph(&settings.model, options).map_err(|error| match error {
            StoreError::NotInstalled { .. } => BackendError::NotInstalled(error.to_string()),
            _ => open(error.to_string()),
        })
    };
    let commit = |path: &Path| {
        let builder = builder(environment, settings).map_err(|error| open(error.to_string()))?;
        provide(builder)?.commit_from_file(path).map_err(|error| open(format!("{}: {error}", path.display())))
    };
    let path = graph()?;
    commit(&path).or_else(|_| {
        fs::remove_file(&path).map_err(|error| open(format!("{}: {error}", path.display())))?;
        commit(&graph()?)
    })
}

fn builder(environment: &Environment, settings: &BackendSettings) -> Result<SessionBuilder, ort::Error> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(settings.threads.unwrap_or_else(cores))?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?)
}

/// Where the library may be, in the order in which it is tried; the last is left to the system's loader.
pub fn library_candidates(setting: Option<&Path>, store: &Store) -> Vec<PathBuf> {
    if let Some(path) = setting {
        return vec![path.to_owned()];
    }
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return vec![PathBuf::from(path)];
    }
    let with_cuda = Some(store.cuda_library_path());
    let with_cuda = with_cuda.filter(|path| path.is_file() && super::driver::cuda_driver().is_some());
    with_cuda.into_iter().chain([store.library_path(), PathBuf::from("libonnxruntime.so")]).collect()
}

/// The environment of the library at `setting`, else of the first of [`library_candidates`] that loads.
pub fn environment(setting: Option<&Path>) -> Result<Environment, BackendError> {
    let store = Store::locate().map_err(|error| BackendError::Open(error.to_string()))?;
    load(&library_candidates(setting, &store))
}

/// Loads the library once a process; a second caller gets the one that is loaded.
fn load(candidates: &[PathBuf]) -> Result<Environment, BackendError> {
    let library = |problem: String| BackendError::Library { problem };
    let mut loaded = ENVIRONMENT.lock().map_err(|_| library("loading it failed before".to_owned()))?;
    if let Some((environment, _)) = &*loaded {
        return Ok(environment.clone());
    }
    let mut problems = Vec::new();
    for path in candidates {
        if path.is_absolute() && !path.is_file() {
            problems.push(format!("{} is not there", path.display()));
            continue;
        }
        match ort::init_from(path) {
            Ok(environment) => {
                let environment = environment.with_name("standoff").with_telemetry(false).build();
                let environment = environment.map_err(|error| library(error.to_string()))?;
                *loaded = Some((environment.clone(), path.clone()));
                return Ok(environment);
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    Err(library(problems.join("; ")))
}

/// Version of the loaded library by the name of its file (`libonnxruntime.so.1.23.2`, which the plain name
/// points to): the library itself tells only the commit it was built from.
fn version() -> String {
    let loaded = ENVIRONMENT.lock().ok();
    let path = loaded.as_ref().and_then(|loaded| fs::canonicalize(&loaded.as_ref()?.1).ok());
    let name = path.as_ref().and_then(|path| path.file_name()?.to_str()?.split_once(".so."));
    name.map_or_else(|| "of unknown version".to_owned(), |(_, version)| version.to_owned())
}
