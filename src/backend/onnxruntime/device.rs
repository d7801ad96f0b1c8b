//! ONNX Runtime as the model of a GPU backend: its CUDA provider works in our stream, on the memory that our kernels
//! write and that goes back to the host. Nothing is copied and nothing waits.

use std::collections::BTreeMap;
use std::ffi::CString;

use cudarc::driver::CudaStream;
use half::f16;
use ort::AsPointer;
use ort::ep::{self, ArenaExtendStrategy};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::SessionBuilder;
use ort::session::{IoBinding, NoSelectedOutputs, RunOptions, Session};
use ort::value::PrimitiveTensorElementType;
use ort::value::{Shape, TensorRefMut};

use super::{infer, library_candidates, load, open_session, version};
use crate::backend::cuda::pipeline::{Network, Output};
use crate::backend::{BackendError, BackendSettings};
use crate::model::graph::{BatchSize, Dialect, GraphOptions, INPUT, Precision};
use crate::model::store::Store;

/// Who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// The GPU.
    Cuda,
    /// The CPU, on device memory that it can reach: what a test double of the driver has. For tests.
    Cpu,
}

/// A session whose inputs and outputs stay on the device.
pub struct DeviceSession {
    name: String,
    session: Session,
    provider: Provider,
    precision: Precision,
    input: [u32; 2],
    max_batch: usize,
    outputs: Vec<Output>,
    options: RunOptions<NoSelectedOutputs>,
    /// Where input and outputs are.
    addresses: Option<(u64, Vec<u64>)>,
    /// What was bound for each size of batch.
    bindings: BTreeMap<usize, IoBinding>,
}

impl DeviceSession {
    /// Opens the model in that precision. The provider works in `stream`, which must live as long as the session: the
    /// backend that owns both drops the session first.
    pub fn open(
        settings: &BackendSettings,
        precision: Precision,
        provider: Provider,
        stream: &CudaStream,
    ) -> Result<Self, BackendError> {
        let open = |error: String| BackendError::Open(error);
        let input = [settings.input_width, settings.input_height];
        let store = Store::locate().map_err(|error| open(error.to_string()))?;
        let environment = load(&library_candidates(settings.library.as_deref(), &store))?;
        let options = GraphOptions {
            taps: settings.layers,
            precision,
            dialect: match provider {
                Provider::Cuda => Dialect::OnnxRuntime,
                Provider::Cpu => Dialect::Onnx,
            },
            ..GraphOptions::new(input, BatchSize::Symbolic, &settings.heads)
        };
        let provide = |builder: SessionBuilder| {
            if provider == Provider::Cpu {
                return Ok(builder);
            }
            // SAFETY: the stream outlives the session, see above.
            let cuda = unsafe { ep::CUDA::default().with_compute_stream(stream.cu_stream().cast()) }
                .with_device_id(0)
                .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
                .with_tf32(false)
                .build()
                .error_on_failure();
            builder.with_execution_providers([cuda]).map_err(|error| BackendError::Library {
                problem: format!("its CUDA provider does not load: {error}"),
            })
        };
        let session = open_session(&environment, &store, settings, &options, provide)?;
        let mut outputs = vec![];
        for output in session.outputs() {
            let sides =
                output.dtype().tensor_shape().map(|shape| shape.iter().skip(1).copied().collect::<Vec<_>>());
            let values = sides.and_then(|sides| {
                sides.iter().try_fold(1usize, |values, side| values.checked_mul(usize::try_from(*side).ok()?))
            });
            let values = values
                .filter(|values| *values > 0)
                .ok_or_else(|| open(format!("output '{}' of the model has no fixed size", output.name())))?;
            outputs.push(Output { name: output.name().to_owned(), values });
        }
        let mut run = RunOptions::new().map_err(|error| open(error.to_string()))?;
        // Who waits is the pipeline, once, for everything.
        run.disable_device_sync().map_err(|error| open(error.to_string()))?;
        let bits = if precision == Precision::Mixed { 16 } else { 32 };
        let what = match provider {
            Provider::Cuda => "CUDA",
            Provider::Cpu => "CPU on device memory",
        };
        Ok(Self {
            name: format!("ONNX Runtime {} ({what}, {bits} bits)", version()),
            session,
            provider,
            precision,
            input,
            max_batch: settings.max_batch,
            outputs,
            options: run,
            addresses: None,
            bindings: BTreeMap::new(),
        })
    }

    /// Binds the first `count` pictures.
    fn binding(&self, count: usize) -> Result<IoBinding, BackendError> {
        let Some((input, outputs)) = &self.addresses else {
            return Err(BackendError::Infer("the model was not told where its input is".to_owned()));
        };
        let device = match self.provider {
            Provider::Cuda => AllocationDevice::CUDA,
            Provider::Cpu => AllocationDevice::CPU,
        };
        let memory =
            || MemoryInfo::new(device.clone(), 0, AllocatorType::Device, MemoryType::Default).map_err(infer);
        let side = |side: usize| i64::try_from(side).unwrap_or(i64::MAX);
        let [width, height] = self.input.map(i64::from);
        let shape = Shape::new([side(count), 3, height, width]);
        let at = |address: u64| address as usize as *mut std::ffi::c_void;
        let mut binding = self.session.create_binding().map_err(infer)?;
        // SAFETY: the memory holds `max_batch >= count` pictures of that type and lives longer than the session.
        unsafe {
            match self.precision {
                Precision::Mixed => bind_input(
                    &mut binding,
                    &TensorRefMut::<f16>::from_raw(memory()?, at(*input), shape).map_err(infer)?,
                ),
                Precision::Full => bind_input(
                    &mut binding,
                    &TensorRefMut::<f32>::from_raw(memory()?, at(*input), shape).map_err(infer)?,
                ),
            }
        }?;
        for ((output, address), known) in self.outputs.iter().zip(outputs).zip(self.session.outputs()) {
            let sides =
                known.dtype().tensor_shape().into_iter().flat_map(|shape| shape.iter().skip(1).copied());
            let shape = Shape::new(std::iter::once(side(count)).chain(sides));
            // SAFETY: as above; outputs are 32-bit floats in every precision.
            let tensor =
                unsafe { TensorRefMut::<f32>::from_raw(memory()?, at(*address), shape) }.map_err(infer)?;
            binding.bind_output(output.name.as_str(), tensor).map_err(infer)?;
        }
        Ok(binding)
    }
}

/// Binds memory that is not ours to the input. `IoBinding::bind_input` would copy it, once, for good.
///
/// # Safety
///
/// The tensor's memory outlives the binding.
unsafe fn bind_input<T: PrimitiveTensorElementType + std::fmt::Debug>(
    binding: &mut IoBinding,
    tensor: &TensorRefMut<'_, T>,
) -> Result<(), BackendError> {
    let name = CString::new(INPUT).map_err(|error| BackendError::Infer(error.to_string()))?;
    // SAFETY: all three live until the call returns; ONNX Runtime counts its own reference to the tensor.
    let status = unsafe { (ort::api().BindInput)(binding.ptr_mut(), name.as_ptr(), tensor.ptr()) };
    // SAFETY: the status was just returned.
    unsafe { ort::Error::<()>::result_from_status(status) }.map_err(infer)
}

impl Network for DeviceSession {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn half(&self) -> bool {
        self.precision == Precision::Mixed
    }

    fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    fn bind(&mut self, input: u64, outputs: &[u64]) -> Result<(), BackendError> {
        self.addresses = Some((input, outputs.to_vec()));
        self.bindings.clear();
        Ok(())
    }

    fn enqueue(&mut self, stream: &CudaStream, count: usize) -> Result<(), BackendError> {
        if count > self.max_batch {
            return Err(BackendError::Infer(format!("{count} pictures for a model of {}", self.max_batch)));
        }
        if self.provider == Provider::Cpu {
            stream.synchronize().map_err(|error| BackendError::Infer(error.to_string()))?;
        }
        if !self.bindings.contains_key(&count) {
            let binding = self.binding(count)?;
            self.bindings.insert(count, binding);
        }
        let Some(binding) = self.bindings.get(&count) else { return Ok(()) };
        self.session.run_binding_with_options(binding, &self.options).map(|_| ()).map_err(infer)
    }

    fn can_be_captured(&self) -> bool {
        self.provider == Provider::Cuda
    }
}
