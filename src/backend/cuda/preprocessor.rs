//! Frames to a model's input in device memory: pinned staging, one copy a frame, one launch a batch. Frames that a
//! decoder left on the device are copied there, which costs next to nothing, so that addresses stay the same from batch
//! to batch (a CUDA graph holds them) and rows are aligned. All buffers are kept from batch to batch. Nothing here waits for the device except the growing of a buffer.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, PinnedHostSlice, result};

use super::driver::{Gpu, invalid, words};
use super::launch::{Axis, Batch, Kernel, MAX_PICTURES, Picture};
use super::picture::{ALIGNMENT, Bytes, Source};
use crate::preprocess::color::Conversion;
use crate::preprocess::{Geometry, PreprocessError, resample};
use crate::types::{ChromaSiting, Frame, PixelTransform};

/// Tables of this many picture geometries are kept on the device, so that every camera finds its own.
const KEPT_GEOMETRIES: usize = 16;
/// Bytes that are worth a thread of their own: copying them takes ten times as long as starting it.
const STAGING_SHARE_BYTES: usize = 8 << 20;
/// Threads that copy at most; four fill the bus of the fastest cards.
const STAGING_THREADS: usize = 4;

/// Why a batch could not be brought to the model's input.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A frame is no good.
    #[error("frame {seq} of camera '{camera}': {problem}")]
    Frame {
        /// Its camera.
        camera: String,
        /// Its number.
        seq: u64,
        /// What is wrong.
        problem: PreprocessError,
    },
    /// More frames than were asked for when it was made, or none.
    #[error("{found} frames were given, 1 to {most} fit")]
    Count {
        /// Frames given.
        found: usize,
        /// Frames that fit.
        most: usize,
    },
    /// CUDA failed.
    #[error("{what}: {}", words(.error))]
    Cuda {
        /// While doing what.
        what: &'static str,
        /// What CUDA says.
        error: DriverError,
    },
}

/// For `map_err`: what was being done.
pub(crate) fn cuda(what: &'static str) -> impl FnOnce(DriverError) -> Error {
    move |error| Error::Cuda { what, error }
}

/// Tables of one geometry on the device, and the memory that holds them.
struct Tables {
    geometry: Geometry,
    axes: u64,
    _memory: Vec<CudaSlice<u8>>,
}

/// Brings frames of any sizes to one input size in device memory.
pub struct Preprocessor {
    gpu: Gpu,
    stream: Arc<CudaStream>,
    input: [u32; 2],
    most: usize,
    half: bool,
    tables: Vec<Tables>,
    /// The bytes of a batch's pictures that come from the host, in page-locked memory.
    staging: PinnedHostSlice<u8>,
    /// The bytes of all pictures of a batch.
    pictures: CudaSlice<u8>,
    out: CudaSlice<u8>,
}

/// A batch that lies on the device, ready to be launched.
pub struct Uploaded {
    /// The launches, each of [`MAX_PICTURES`] pictures but the last.
    pub launches: Vec<Batch>,
    /// How many pictures there are.
    pub count: usize,
    /// Where the pixels of each picture go.
    pub transforms: Vec<PixelTransform>,
}

impl Preprocessor {
    /// For batches of up to `most` frames into an input of `input` pixels, as 16-bit floats when `half`, else as 32-bit
    /// ones. All work goes into `stream`.
    pub fn new(
        gpu: &Gpu,
        stream: Arc<CudaStream>,
        input: [u32; 2],
        most: usize,
        half: bool,
    ) -> Result<Self, Error> {
        let values = most * 3 * input[0] as usize * input[1] as usize;
        let bytes = values * if half { 2 } else { 4 };
        let out = stream.alloc_zeros(bytes).map_err(cuda("memory for the model's input"))?;
        // Grown by the first batch.
        let (staging, pictures) = (staging(gpu, ALIGNMENT)?, pictures(&stream, ALIGNMENT)?);
        Ok(Self { gpu: gpu.clone(), stream, input, most, half, tables: vec![], staging, pictures, out })
    }

    /// Address of the input on the device, `[frames, 3, height, width]`.
    pub fn out(&self) -> u64 {
        self.out.device_ptr(&self.stream).0
    }

    /// Bytes of one picture's input.
    pub fn input_bytes(&self) -> usize {
        3 * self.input[0] as usize * self.input[1] as usize * if self.half { 2 } else { 4 }
    }

    /// Copies the frames into staging memory and puts their way to the device into the stream, which must have run
    /// whatever the last call put there: staging memory is used again. Frames whose pixels lie on the device must live
    /// until it has run this one.
    pub fn upload(&mut self, frames: &[Frame]) -> Result<Uploaded, Error> {
        if frames.is_empty() || frames.len() > self.most {
            return Err(Error::Count { found: frames.len(), most: self.most });
        }
        let mut sources = Vec::with_capacity(frames.len());
        for frame in frames {
            sources.push(Source::of(frame).map_err(|problem| Error::Frame {
                camera: frame.camera.to_string(),
                seq: frame.seq,
                problem,
            })?);
        }
        let places = places_of(&sources);
        let end = |on_host: bool| {
            let ends = sources.iter().zip(&places).filter(|(source, _)| source.is_on_host() || !on_host);
            ends.map(|(_, place)| place.end).max().unwrap_or(0)
        };
        if self.staging.len() < end(true) {
            self.staging = staging(&self.gpu, end(true))?;
        }
        if self.pictures.len() < end(false) {
            self.pictures = pictures(&self.stream, end(false))?;
        }
        self.forget_old_tables(frames.len());
        let tables: Vec<usize> =
            frames.iter().map(|frame| self.tables_for(frame)).collect::<Result<_, _>>()?;
        self.stage(&sources, &places)?;
        self.copy_on_device(&sources, &places)?;

        let base = self.pictures.device_ptr(&self.stream).0;
        let mut pictures = Vec::with_capacity(frames.len());
        for (((frame, source), place), tables) in frames.iter().zip(&sources).zip(&places).zip(tables) {
            let Tables { geometry, axes, .. } = &self.tables[tables];
            let conversion = Conversion::new(frame.matrix, frame.range);
            let planes = source.placed_at(base + place.start as u64);
            pictures.push((Picture::new(planes, *axes, geometry, &conversion), geometry));
        }
        let transforms = pictures.iter().map(|(_, geometry)| geometry.transform).collect();
        let out = |launch: usize| self.out() + (launch * MAX_PICTURES * self.input_bytes()) as u64;
        let launches = pictures.chunks(MAX_PICTURES).enumerate();
        let launches = launches.map(|(at, some)| Batch::new(some, self.input, out(at), self.half)).collect();
        Ok(Uploaded { launches, count: frames.len(), transforms })
    }

    /// Copies the planes of the host to their places in staging memory and on to the device: each picture travels while the next
    /// one is copied, and several threads copy when there is much (one core moves about as much as the bus does).
    fn stage(&mut self, sources: &[Source<'_>], places: &[Range<usize>]) -> Result<(), Error> {
        let base = self.pictures.device_ptr(&self.stream).0;
        let stream = &self.stream;
        let mut rest = self.staging.as_mut_slice().map_err(cuda("staging memory"))?;
        let mut work = Vec::with_capacity(sources.len());
        for (source, place) in sources.iter().zip(places).filter(|(source, _)| source.is_on_host()) {
            let (mine, others) = std::mem::take(&mut rest).split_at_mut(place.len());
            work.push((source, place, mine));
            rest = others;
        }
        let bytes = work.iter().map(|(_, place, _)| place.len()).sum::<usize>();
        let copy = |work: &mut [(&Source<'_>, &Range<usize>, &mut [u8])]| {
            for (source, place, staging) in work {
                for (plane, start) in source.planes.iter().zip(source.starts()) {
                    if let Bytes::Host(data) = plane.bytes {
                        staging[start..start + data.len()].copy_from_slice(data);
                    }
                }
                stream.context().bind_to_thread().map_err(cuda("copying a picture"))?;
                // SAFETY: the place lies in `pictures`, and staging memory is not touched before the stream has run.
                unsafe { result::memcpy_htod_async(base + place.start as u64, staging, stream.cu_stream()) }
                    .map_err(cuda("copying a picture"))?;
            }
            Ok(())
        };
        let threads = (bytes / STAGING_SHARE_BYTES).clamp(1, STAGING_THREADS).min(work.len());
        if threads <= 1 {
            return copy(&mut work);
        }
        let share = work.len().div_ceil(threads);
        std::thread::scope(|scope| {
            let started: Vec<_> =
                work.chunks_mut(share).map(|work| scope.spawn(move || copy(work))).collect();
            let panicked = || Error::Cuda { what: "copying a picture", error: invalid() };
            started.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(panicked())))
        })
    }

    /// Puts copies of the planes that are on the device already into the stream.
    fn copy_on_device(&self, sources: &[Source<'_>], places: &[Range<usize>]) -> Result<(), Error> {
        let base = self.pictures.device_ptr(&self.stream).0;
        for (source, place) in sources.iter().zip(places) {
            for (plane, start) in source.planes.iter().zip(source.starts()) {
                let Bytes::Device(address) = plane.bytes else { continue };
                let to = base + (place.start + start) as u64;
                // SAFETY: the frame vouches for `length` bytes at its address and keeps them alive; the place lies in
                // `pictures`. The caller keeps the frame until the stream has run.
                unsafe { result::memcpy_dtod_async(to, address, plane.length, self.stream.cu_stream()) }
                    .map_err(cuda("copying a picture on the device"))?;
            }
        }
        Ok(())
    }

    /// Puts the launches into the stream.
    pub fn launch(&self, uploaded: &Uploaded) -> Result<(), Error> {
        self.launch_as(uploaded, Batch::kernel)
    }

    /// The same with a kernel of one's own choice.
    pub fn launch_as(&self, uploaded: &Uploaded, kernel: impl Fn(&Batch) -> Kernel) -> Result<(), Error> {
        for (at, batch) in uploaded.launches.iter().enumerate() {
            let kernel = kernel(batch);
            let shape = batch.shape(kernel, (uploaded.count - at * MAX_PICTURES).min(MAX_PICTURES));
            // SAFETY: planes, tables and output of the batch lie in `pictures`, `tables` and `out`, which live as long
            // as self and were written by the same stream before.
            unsafe { self.gpu.launch(&self.stream, kernel, shape, batch) }
                .map_err(cuda("launching the preprocessing"))?;
        }
        Ok(())
    }

    /// The input as it lies on the device, for comparisons. Waits for the stream.
    pub fn download(&self) -> Result<Vec<u8>, Error> {
        self.stream.clone_dtoh(&self.out).map_err(cuda("reading the model's input back"))
    }

    /// The tables of a frame's geometry, put on the device when they are not there yet.
    fn tables_for(&mut self, frame: &Frame) -> Result<usize, Error> {
        let (source, siting) = ([frame.width, frame.height], frame.siting);
        let known = |tables: &Tables| tables.geometry.source == source && tables.geometry.siting == siting;
        if let Some(at) = self.tables.iter().position(known) {
            return Ok(at);
        }
        self.tables.push(Tables::new(&self.stream, source, siting, self.input)?);
        Ok(self.tables.len() - 1)
    }

    /// Makes room for the tables of `more` pictures when there are too many. The stream has run whatever used them.
    fn forget_old_tables(&mut self, more: usize) {
        if self.tables.len() + more > KEPT_GEOMETRIES + self.most {
            self.tables.clear();
        }
    }
}

impl Drop for Preprocessor {
    /// Staging memory and tables must not go while the device reads them. When waiting fails the device has stopped.
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
    }
}

impl Tables {
    fn new(
        stream: &Arc<CudaStream>,
        source: [u32; 2],
        siting: ChromaSiting,
        input: [u32; 2],
    ) -> Result<Self, Error> {
        let geometry = Geometry::new(source, siting, input);
        let mut memory = Vec::new();
        let mut keep = |bytes: Vec<u8>| {
            let slice = stream.clone_htod(&bytes).map_err(cuda("copying tables"))?;
            let address = slice.device_ptr(stream).0;
            memory.push(slice);
            Ok::<u64, Error>(address)
        };
        let mut axes = Vec::new();
        for axis in geometry.luma.iter().chain(&geometry.chroma) {
            let [starts, counts, weights] = table_bytes(axis);
            let length = (starts.len() / size_of::<i32>()) as i64;
            let axis = Axis { starts: keep(starts)?, counts: keep(counts)?, weights: keep(weights)?, length };
            let numbers = [axis.starts, axis.counts, axis.weights, axis.length as u64];
            axes.extend(numbers.into_iter().flat_map(u64::to_ne_bytes));
        }
        let axes = keep(axes)?;
        Ok(Self { geometry, axes, _memory: memory })
    }
}

/// An axis as the kernels read it: starts, counts, and weights with the output as the fast index.
pub(super) fn table_bytes(axis: &resample::Axis) -> [Vec<u8>; 3] {
    let outputs: Vec<(usize, &[f32])> = axis.outputs().collect();
    let longest = outputs.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0);
    let number = |value: usize| i32::try_from(value).unwrap_or(i32::MAX).to_ne_bytes();
    let starts = outputs.iter().flat_map(|(start, _)| number(*start)).collect();
    let counts = outputs.iter().flat_map(|(_, weights)| number(weights.len())).collect();
    let weights = (0..longest)
        .flat_map(|k| outputs.iter().map(move |(_, weights)| weights.get(k).copied().unwrap_or(0.0)))
        .flat_map(f32::to_ne_bytes)
        .collect();
    [starts, counts, weights]
}

/// Page-locked memory for pictures on their way to the device.
fn staging(gpu: &Gpu, bytes: usize) -> Result<PinnedHostSlice<u8>, Error> {
    // SAFETY: bytes need no initial value; nothing reads those that were not written.
    unsafe { gpu.context().alloc_pinned(bytes) }.map_err(cuda("page-locked memory for pictures"))
}

/// Memory on the device for the pictures of a batch.
fn pictures(stream: &Arc<CudaStream>, bytes: usize) -> Result<CudaSlice<u8>, Error> {
    stream.alloc_zeros(bytes).map_err(cuda("memory for pictures"))
}

/// Where each picture goes, one after the other: those of the host first, as they lie in staging memory.
fn places_of(sources: &[Source<'_>]) -> Vec<Range<usize>> {
    let mut end = 0;
    let mut places = vec![0..0; sources.len()];
    for on_host in [true, false] {
        for (place, source) in places.iter_mut().zip(sources) {
            if source.is_on_host() == on_host {
                *place = end..end + source.space();
                end = place.end;
            }
        }
    }
    places
}
