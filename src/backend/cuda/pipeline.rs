//! A batch on the GPU from host memory to host memory: upload, our kernel, the model, the way back. What runs the
//! model is a [`Network`]; everything else is the same for TensorRT and ONNX Runtime. One stream, buffers kept from
//! batch to batch, and a CUDA graph of kernel, model and way back where the model allows it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{
    CudaEvent, CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError, PinnedHostSlice, result, sys,
};

use super::driver::{Gpu, words};
use super::launch;
use super::preprocessor::{Error, Preprocessor, Uploaded, cuda};
use crate::backend::{Backend, BackendError, BackendSpec};
use crate::model::graph::{CLS, TAPS, grid_of};
use crate::types::{Batch, Dense, Features, StageTimes};

/// Graphs kept: one for each size of batch and mix of pictures. More mixes than these run without.
const KEPT_GRAPHS: usize = 16;

/// One output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// 32-bit floats a picture.
    pub values: usize,
}

/// What runs a model on pictures that lie in device memory.
pub trait Network: Send {
    /// For people, with version: "TensorRT 10.13.2, 16 bits".
    fn name(&self) -> String;

    /// Whether the input is 16-bit floats instead of 32-bit ones.
    fn half(&self) -> bool;

    /// The outputs.
    fn outputs(&self) -> &[Output];

    /// Says once, before the first pass, where the input `[max_batch, 3, height, width]` and the outputs
    /// `[max_batch, values]` are in device memory.
    fn bind(&mut self, input: u64, outputs: &[u64]) -> Result<(), BackendError>;

    /// Puts a pass over the first `count` pictures into the stream. Later ones may be computed too: there is memory
    /// for `max_batch`, and what it holds are numbers.
    fn enqueue(&mut self, stream: &CudaStream, count: usize) -> Result<(), BackendError>;

    /// Whether a pass that ran once may be captured into a CUDA graph.
    fn can_be_captured(&self) -> bool;
}

/// What a GPU backend was asked for, whatever runs its model.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Width and height of the model's input in pixels, multiples of 14.
    pub input: [u32; 2],
    /// Frames that one call takes at most.
    pub max_batch: usize,
    /// Names of the heads that are part of the graph.
    pub heads: Vec<String>,
}

/// A backend on the GPU.
pub struct CudaBackend {
    spec: BackendSpec,
    // Dropped in this order: graphs and network use the memory below.
    graphs: Graphs,
    network: Box<dyn Network>,
    preprocessor: Preprocessor,
    outputs: Vec<OutputMemory>,
    moments: Moments,
    stream: Arc<CudaStream>,
}

/// An output on the device and where it is copied to.
struct OutputMemory {
    output: Output,
    device: CudaSlice<f32>,
    host: PinnedHostSlice<f32>,
}

/// When the stages of a batch were done, by the device's clock.
struct Moments {
    begun: CudaEvent,
    prepared: CudaEvent,
    read: CudaEvent,
}

impl CudaBackend {
    /// Puts a network between our kernels and the host, and runs a full batch through it.
    pub fn open(
        gpu: &Gpu,
        stream: Arc<CudaStream>,
        mut network: Box<dyn Network>,
        shape: Shape,
    ) -> Result<Self, BackendError> {
        let open = |error: String| BackendError::Open(error);
        let grid = grid_of(shape.input[0], shape.input[1]).map_err(|error| open(error.to_string()))?;
        let values = |name: &str| {
            let output = network.outputs().iter().find(|output| output.name == name);
            output
                .map(|output| output.values)
                .ok_or_else(|| open(format!("the model has no output '{name}'")))
        };
        let dim = values(CLS)?;
        for head in &shape.heads {
            if !values(head)?.is_multiple_of(grid.len()) {
                return Err(open(format!(
                    "output '{head}' of the model does not fit {} patches",
                    grid.len()
                )));
            }
        }
        let spec = BackendSpec {
            name: format!("{} on {}", network.name(), gpu.name),
            input_width: shape.input[0],
            input_height: shape.input[1],
            grid,
            dim,
            max_batch: shape.max_batch,
            heads: shape.heads,
            reads_gpu: true,
        };
        let preprocessor =
            Preprocessor::new(gpu, stream.clone(), shape.input, shape.max_batch, network.half())
                .map_err(failed)?;
        let mut outputs = vec![];
        for output in network.outputs() {
            let length = output.values * shape.max_batch;
            let device =
                stream.alloc_zeros(length).map_err(cuda("memory for the outputs")).map_err(failed)?;
            // Without the flag that makes reading it slow. SAFETY: numbers of any bits, written before they are read.
            let host = unsafe { gpu.context().alloc_pinned_with_flags(length, 0) }
                .map_err(cuda("page-locked memory for the outputs"))
                .map_err(failed)?;
            outputs.push(OutputMemory { output: output.clone(), device, host });
        }
        let addresses: Vec<u64> = outputs.iter().map(|output| output.device.device_ptr(&stream).0).collect();
        network.bind(preprocessor.out(), &addresses)?;
        let moments = Moments::new(gpu).map_err(cuda("events")).map_err(failed)?;
        let graphs = Graphs::new(network.can_be_captured());
        let mut backend = Self { spec, graphs, network, preprocessor, outputs, moments, stream };
        // A full batch of nothing pays for the first run now.
        backend.pass(None, shape.max_batch, When::Now)?;
        backend.wait()?;
        Ok(backend)
    }

    /// Puts kernel, model and the way back into the stream.
    fn pass(&mut self, uploaded: Option<&Uploaded>, count: usize, when: When) -> Result<(), BackendError> {
        if let Some(uploaded) = uploaded {
            self.preprocessor.launch(uploaded).map_err(failed)?;
        }
        record(&self.moments.prepared, &self.stream, when).map_err(cuda("an event")).map_err(failed)?;
        self.network.enqueue(&self.stream, count)?;
        for OutputMemory { output, device, host } in &mut self.outputs {
            let length = output.values * count;
            let copied = host.as_mut_slice().and_then(|host| {
                let address = device.device_ptr(&self.stream).0;
                // SAFETY: both hold `max_batch >= count` pictures, and live until the stream has run: `wait`, or Drop.
                unsafe { result::memcpy_dtoh_async(&mut host[..length], address, self.stream.cu_stream()) }
            });
            copied.map_err(cuda("copying the outputs")).map_err(failed)?;
        }
        record(&self.moments.read, &self.stream, when).map_err(cuda("an event")).map_err(failed)
    }

    /// The same as a graph where there is one, and as a new graph when this pass was seen before.
    fn pass_by_graph(&mut self, uploaded: &Uploaded) -> Result<(), BackendError> {
        let key = Key { launches: uploaded.launches.clone(), count: uploaded.count };
        if let Some(graph) = self.graphs.of(&key) {
            return graph.0.launch().map_err(cuda("launching the graph")).map_err(failed);
        }
        if !self.graphs.should_capture(&key) {
            return self.pass(Some(uploaded), uploaded.count, When::Now);
        }
        match self.capture(uploaded) {
            Ok(graph) => {
                let launched = graph.0.launch().map_err(cuda("launching the graph")).map_err(failed);
                self.graphs.keep(key, graph);
                launched
            }
            Err(problem) => {
                tracing::warn!(backend = %self.spec.name, %problem, "no CUDA graph of this model: it runs without");
                self.graphs.give_up();
                self.pass(Some(uploaded), uploaded.count, When::Now)
            }
        }
    }

    fn capture(&mut self, uploaded: &Uploaded) -> Result<Graph, BackendError> {
        // Other threads (decoders) may call CUDA meanwhile.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(cuda("beginning a graph")).map_err(failed)?;
        let put = self.pass(Some(uploaded), uploaded.count, When::InGraph);
        // The capture has to end whatever happened in it.
        let flags = sys::CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags).map_err(cuda("ending a graph")).map_err(failed);
        put?;
        graph?.map(Graph).ok_or_else(|| BackendError::Infer("the graph is empty".to_owned()))
    }

    fn wait(&self) -> Result<(), BackendError> {
        self.stream.synchronize().map_err(cuda("running a batch")).map_err(failed)
    }

    /// What came back of picture `at` in one output.
    fn values(&self, name: &str, at: usize) -> Result<&[f32], BackendError> {
        let missing = || BackendError::Infer(format!("the model has no output '{name}'"));
        let memory = self.outputs.iter().find(|memory| memory.output.name == name).ok_or_else(missing)?;
        let values = memory.output.values;
        let host = memory.host.as_slice().map_err(cuda("reading the outputs")).map_err(failed)?;
        host.get(at * values..(at + 1) * values).ok_or_else(missing)
    }
}

impl Backend for CudaBackend {
    fn spec(&self) -> &BackendSpec {
        &self.spec
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Features>, BackendError> {
        record(&self.moments.begun, &self.stream, When::Now).map_err(cuda("an event")).map_err(failed)?;
        let uploaded = match self.preprocessor.upload(&batch.frames) {
            Ok(uploaded) => uploaded,
            Err(error) => {
                // Pictures before the one that failed may be on their way.
                let _ = self.wait();
                return Err(failed(error));
            }
        };
        let passed = self.pass_by_graph(&uploaded);
        let waited = self.wait();
        passed?;
        waited?;

        let elapsed = |from: &CudaEvent, to: &CudaEvent| {
            let milliseconds = from.elapsed_ms(to).map_err(cuda("reading the time")).map_err(failed)?;
            Ok::<Duration, BackendError>(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1000.0))
        };
        let times = StageTimes {
            preprocess: elapsed(&self.moments.begun, &self.moments.prepared)?,
            backbone: elapsed(&self.moments.prepared, &self.moments.read)?,
            ..StageTimes::default()
        };
        let BackendSpec { grid, dim, heads, .. } = &self.spec;
        let mut features = Vec::with_capacity(batch.frames.len());
        for (at, (frame, transform)) in batch.frames.iter().zip(&uploaded.transforms).enumerate() {
            let taps =
                TAPS.iter().filter(|tap| self.outputs.iter().any(|memory| memory.output.name == **tap));
            let dense = heads.iter().map(|head| {
                let values = self.values(head, at)?.to_vec();
                Ok((head.clone(), Dense { channels: values.len() / grid.len(), values }))
            });
            features.push(Features {
                frame: frame.clone(),
                transform: *transform,
                grid: *grid,
                dim: *dim,
                layers: taps
                    .map(|tap| Ok(self.values(tap, at)?.to_vec()))
                    .collect::<Result<_, BackendError>>()?,
                cls: self.values(CLS, at)?.to_vec(),
                dense: dense.collect::<Result<BTreeMap<_, _>, BackendError>>()?,
                closer: vec![],
                times,
            });
        }
        Ok(features)
    }
}

impl Drop for CudaBackend {
    /// Host memory of the outputs must not go while the device writes to it. When waiting fails the device has stopped.
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
    }
}

impl Moments {
    fn new(gpu: &Gpu) -> Result<Self, DriverError> {
        let event = || gpu.context().new_event(Some(sys::CUevent_flags_enum::CU_EVENT_DEFAULT));
        Ok(Self { begun: event()?, prepared: event()?, read: event()? })
    }
}

/// Whether work is done now or becomes part of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    InGraph,
}

/// Marks a moment. In a graph it has to be a node of it, to be marked each time that the graph runs.
fn record(event: &CudaEvent, stream: &CudaStream, when: When) -> Result<(), DriverError> {
    match when {
        When::Now => event.record(stream),
        When::InGraph => {
            let external = sys::CUevent_record_flags_enum::CU_EVENT_RECORD_EXTERNAL as u32;
            // SAFETY: both belong to the same context and live.
            unsafe { sys::cuEventRecordWithFlags(event.cu_event(), stream.cu_stream(), external) }.result()
        }
    }
}

/// What a graph was captured for: it holds the addresses and numbers of its launch.
#[derive(Debug, Clone, PartialEq)]
struct Key {
    launches: Vec<launch::Batch>,
    count: usize,
}

struct Graph(CudaGraph);

// SAFETY: the graph is used by the thread that owns the backend, one at a time, which is all that CUDA asks for.
unsafe impl Send for Graph {}

/// The graphs of the passes that come again and again.
struct Graphs {
    wanted: bool,
    kept: Vec<(Key, Graph)>,
    /// Passes that ran once without a graph.
    seen: VecDeque<Key>,
}

impl Graphs {
    fn new(wanted: bool) -> Self {
        Self { wanted, kept: vec![], seen: VecDeque::new() }
    }

    fn of(&self, key: &Key) -> Option<&Graph> {
        self.kept.iter().find(|(kept, _)| kept == key).map(|(_, graph)| graph)
    }

    /// Whether a pass for which there is no graph is worth one: it has run before, which also means that everything
    /// in it is allocated.
    fn should_capture(&mut self, key: &Key) -> bool {
        if !self.wanted || self.kept.len() == KEPT_GRAPHS {
            return false;
        }
        if self.seen.contains(key) {
            return true;
        }
        if self.seen.len() == KEPT_GRAPHS {
            self.seen.pop_front();
        }
        self.seen.push_back(key.clone());
        false
    }

    fn keep(&mut self, key: Key, graph: Graph) {
        self.seen.retain(|seen| *seen != key);
        self.kept.push((key, graph));
    }

    fn give_up(&mut self) {
        self.wanted = false;
    }
}

/// What the caller is told of an error: a bad frame is its own affair, a device that is out of memory may have some
/// later, anything else breaks the context for good.
pub(crate) fn failed(error: Error) -> BackendError {
    use sys::cudaError_enum::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_OUT_OF_MEMORY};
    match error {
        Error::Frame { camera, seq, problem } => {
            BackendError::Preprocess { camera, seq, problem: problem.to_string() }
        }
        Error::Cuda { what, error: DriverError(code) }
            if code != CUDA_ERROR_OUT_OF_MEMORY && code != CUDA_ERROR_INVALID_VALUE =>
        {
            BackendError::Broken(format!("{what}: {}", words(&DriverError(code))))
        }
        error => BackendError::Infer(error.to_string()),
    }
}
