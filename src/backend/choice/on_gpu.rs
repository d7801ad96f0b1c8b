//! Opens the backends that need a GPU. Nothing here takes long on purpose: a plan that is not built yet is a reason to
//! run on the next backend and to say so, not to keep a site unwatched for minutes.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::{Runtime, Unusable};
use crate::backend::cuda::pipeline::{Network, Shape};
use crate::backend::cuda::{CudaBackend, Gpu, NoGpu};
use crate::backend::onnxruntime::device::{DeviceSession, Provider};
use crate::backend::{Backend, BackendError, BackendSettings};
use crate::model::graph::Precision;

/// Opens a backend on the first GPU.
pub(super) fn open(
    runtime: Runtime,
    precision: Precision,
    settings: &BackendSettings,
) -> Result<Box<dyn Backend>, Unusable> {
    let gpu = Gpu::open().map_err(|problem| match problem {
        NoGpu::NoDriver | NoGpu::NoDevice => Unusable::NoDevice(problem.to_string()),
        _ => Unusable::NotInstalled {
            remedy: problem.remedy().unwrap_or_default().to_owned(),
            problem: problem.to_string(),
        },
    })?;
    let stream = gpu.context().new_stream();
    let stream = stream.map_err(|error| Unusable::Failed(BackendError::Open(error.to_string())))?;
    let network: Box<dyn Network> = match runtime {
        Runtime::TensorRt => tensorrt(&gpu, precision, settings)?,
        Runtime::Cuda => Box::new(cuda(precision, settings, &stream)?),
        // The caller opens that one itself.
        Runtime::Cpu => return Err(Unusable::NoDevice("the CPU is no GPU".to_owned())),
    };
    let shape = Shape {
        input: [settings.input_width, settings.input_height],
        max_batch: settings.max_batch,
        heads: settings.heads.iter().map(|head| head.name.clone()).collect(),
    };
    Ok(Box::new(CudaBackend::open(&gpu, stream, network, shape).map_err(Unusable::Failed)?))
}

fn cuda(
    precision: Precision,
    settings: &BackendSettings,
    stream: &Arc<CudaStream>,
) -> Result<DeviceSession, Unusable> {
    DeviceSession::open(settings, precision, Provider::Cuda, stream).map_err(|error| match error {
        BackendError::Library { problem } => Unusable::NotInstalled {
            problem,
            remedy: "standoff model fetch onnxruntime-gpu, and CUDA 13's libraries: docs/gpu.md".to_owned(),
        },
        error => Unusable::Failed(error),
    })
}

#[cfg(not(feature = "tensorrt"))]
fn tensorrt(_: &Gpu, _: Precision, _: &BackendSettings) -> Result<Box<dyn Network>, Unusable> {
    Err(Unusable::NotInstalled {
        problem: "built without TensorRT".to_owned(),
        remedy: "build with the feature 'tensorrt'".to_owned(),
    })
}

#[cfg(feature = "tensorrt")]
fn tensorrt(
    gpu: &Gpu,
    precision: Precision,
    settings: &BackendSettings,
) -> Result<Box<dyn Network>, Unusable> {
    use crate::backend::tensorrt::cache::Cache;
    use crate::backend::tensorrt::job::{self, Job};
    use crate::backend::tensorrt::network::{TensorRt, batch_sizes};
    use crate::backend::tensorrt::plan::{BuiltFor, PlanError};
    use crate::backend::tensorrt::{Device, DriverState, Library, LibraryError, library};
    use crate::model::store::Store;

    let failed = |error: String| Unusable::Failed(BackendError::Open(error));
    let store = Store::locate().map_err(|error| failed(error.to_string()))?;
    let device = Device::of(gpu);
    let driver = DriverState::Ready(device.clone());
    let library =
        Library::open(&driver, &library::candidates(None, &store)).map_err(|error| match error {
            LibraryError::NotFound { .. } => Unusable::NotInstalled {
                problem: "TensorRT is not installed".to_owned(),
                remedy: "install libnvinfer10 or libnvinfer11: docs/engines.md".to_owned(),
            },
            error => Unusable::NotInstalled {
                problem: error.to_string(),
                remedy: "docs/engines.md says which versions fit".to_owned(),
            },
        })?;
    if library.version().known_to_be_wrong() {
        tracing::warn!(
            library = %library.version(),
            "this TensorRT is known to give wrong numbers with vision transformers; 10.5 and later are not"
        );
    }
    let cache = Cache::of(&store);
    let mut plans = vec![];
    for batch in batch_sizes(settings.max_batch) {
        let built_for = BuiltFor::Gpu(device.clone());
        let job = Job::of_model(&store, settings, &library, built_for, batch, precision)
            .map_err(|error| failed(error.to_string()))?;
        let (_, plan) = job.find(&cache).map_err(|error| Unusable::NotInstalled {
            problem: match error {
                PlanError::Missing(_) => format!("{} has no plan for {job}", library.version()),
                error => error.to_string(),
            },
            remedy: format!("{}, then restart", job::command(settings, precision)),
        })?;
        plans.extend(job.tensors.map(|tensors| (tensors, plan)));
    }
    let network = TensorRt::open(&library, &plans).map_err(|error| failed(error.to_string()))?;
    Ok(Box::new(network))
}
