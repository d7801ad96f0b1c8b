//! Frames to a model's input in device memory: pinned staging, one copy a frame, one launch a batch. All buffers
//! are kept from batch to batch. Nothing here waits for the device except the growing of a buffer.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, PinnedHostSlice};

use super::driver::{Gpu, words};
use super::launch::{Axis, Batch, Kernel, MAX_PICTURES, Picture, Plane};
use crate::preprocess::color::Conversion;
use crate::preprocess::{Geometry, PlaneRows, Planes, PreprocessError, planes_of, resample};
use crate::types::{ChromaSiting, Frame, PixelTransform};

/// Tables of this many picture geometries are kept on the device, so that every camera finds its own.
const KEPT_GEOMETRIES: usize = 16;
/// Pictures begin at multiples of this in the staging memory, rows being read four bytes at a time.
const ALIGNMENT: usize = 256;

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
    input: [u32; 2],
    most: usize,
    half: bool,
    tables: Vec<Tables>,
    /// The bytes of all pictures of a batch, in page-locked memory and on the device.
    staging: PinnedHostSlice<u8>,
    pictures: CudaSlice<u8>,
    out: CudaSlice<u8>,
}

/// A batch that lies on the device, ready to be launched.
pub struct Uploaded {
    /// The launch.
    pub batch: Batch,
    /// How many pictures it has.
    pub count: usize,
    /// Where the pixels of each picture go.
    pub transforms: Vec<PixelTransform>,
}

impl Preprocessor {
    /// For batches of up to `most` frames (at most [`MAX_PICTURES`]) into an input of `input` pixels, as 16-bit
    /// floats when `half`, else as 32-bit ones.
    pub fn new(
        gpu: &Gpu,
        stream: &Arc<CudaStream>,
        input: [u32; 2],
        most: usize,
        half: bool,
    ) -> Result<Self, Error> {
        if most == 0 || most > MAX_PICTURES {
            return Err(Error::Count { found: most, most: MAX_PICTURES });
        }
        let values = most * 3 * input[0] as usize * input[1] as usize;
        let bytes = values * if half { 2 } else { 4 };
        let out = stream.alloc_zeros(bytes).map_err(cuda("memory for the model's input"))?;
        // Grown by the first batch.
        let (staging, pictures) = memory(gpu, stream, ALIGNMENT)?;
        Ok(Self { gpu: gpu.clone(), input, most, half, tables: vec![], staging, pictures, out })
    }

    /// Address of the input on the device, `[frames, 3, height, width]`.
    pub fn out(&self, stream: &CudaStream) -> u64 {
        self.out.device_ptr(stream).0
    }

    /// Bytes of one picture's input.
    pub fn input_bytes(&self) -> usize {
        3 * self.input[0] as usize * self.input[1] as usize * if self.half { 2 } else { 4 }
    }

    /// Copies the frames into staging memory and puts their way to the device into `stream`. The stream must have
    /// run whatever the last call put there: staging memory is used again.
    pub fn upload(&mut self, stream: &Arc<CudaStream>, frames: &[Frame]) -> Result<Uploaded, Error> {
        if frames.is_empty() || frames.len() > self.most {
            return Err(Error::Count { found: frames.len(), most: self.most });
        }
        let mut planes = Vec::with_capacity(frames.len());
        for frame in frames {
            planes.push(planes_of(frame).map_err(|problem| Error::Frame {
                camera: frame.camera.to_string(),
                seq: frame.seq,
                problem,
            })?);
        }
        let places = places_of(&planes);
        let bytes = places.last().map_or(0, |place| place.end);
        if self.staging.len() < bytes {
            (self.staging, self.pictures) = memory(&self.gpu, stream, bytes)?;
        }
        let base = self.pictures.device_ptr(stream).0;
        let tables: Vec<usize> =
            frames.iter().map(|frame| self.tables_for(stream, frame)).collect::<Result<_, _>>()?;

        let staging = self.staging.as_mut_slice().map_err(cuda("staging memory"))?;
        let mut pictures = Vec::with_capacity(frames.len());
        for (((frame, planes), place), tables) in frames.iter().zip(&planes).zip(&places).zip(tables) {
            let mut at = place.start;
            let on_device = rows_of(planes).map(|rows| {
                staging[at..at + rows.data.len()].copy_from_slice(rows.data);
                let plane = plane_at(base + at as u64, rows);
                at += rows.data.len().next_multiple_of(ALIGNMENT);
                plane
            });
            let on_device = by_sample(planes, on_device.collect());
            // Each picture travels while the next one is copied.
            let mut to = self.pictures.slice_mut(place.clone());
            stream.memcpy_htod(&staging[place.clone()], &mut to).map_err(cuda("copying a picture"))?;
            let Tables { geometry, axes, .. } = &self.tables[tables];
            let conversion = Conversion::new(frame.matrix, frame.range);
            pictures.push((Picture::new(on_device, *axes, geometry, &conversion), geometry));
        }
        let transforms = pictures.iter().map(|(_, geometry)| geometry.transform).collect();
        let batch = Batch::new(&pictures, self.input, self.out.device_ptr(stream).0, self.half);
        Ok(Uploaded { batch, count: frames.len(), transforms })
    }

    /// Puts the launch into `stream`.
    pub fn launch(&self, stream: &CudaStream, uploaded: &Uploaded) -> Result<(), Error> {
        self.launch_as(uploaded.batch.kernel(), stream, uploaded)
    }

    /// The same with the kernel that is named.
    pub fn launch_as(&self, kernel: Kernel, stream: &CudaStream, uploaded: &Uploaded) -> Result<(), Error> {
        let shape = uploaded.batch.shape(kernel, uploaded.count);
        // SAFETY: planes, tables and output of the batch lie in `pictures`, `tables` and `out`, which live as long as
        // self and were written by the same stream before.
        unsafe { self.gpu.launch(stream, kernel, shape, &uploaded.batch) }
            .map_err(cuda("launching the preprocessing"))
    }

    /// The input as it lies on the device, for comparisons. Waits for the stream.
    pub fn download(&self, stream: &Arc<CudaStream>) -> Result<Vec<u8>, Error> {
        stream.clone_dtoh(&self.out).map_err(cuda("reading the model's input back"))
    }

    /// The tables of a frame's geometry, put on the device when they are not there yet.
    fn tables_for(&mut self, stream: &Arc<CudaStream>, frame: &Frame) -> Result<usize, Error> {
        let (source, siting) = ([frame.width, frame.height], frame.siting);
        let known = |tables: &Tables| tables.geometry.source == source && tables.geometry.siting == siting;
        if let Some(at) = self.tables.iter().position(known) {
            return Ok(at);
        }
        self.tables.push(Tables::new(stream, source, siting, self.input)?);
        Ok(self.tables.len() - 1)
    }

    /// Forgets tables of geometries that were not met for long. Call when the stream has run everything.
    pub fn forget_old_tables(&mut self) {
        let surplus = self.tables.len().saturating_sub(KEPT_GEOMETRIES);
        self.tables.drain(..surplus);
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
pub fn table_bytes(axis: &resample::Axis) -> [Vec<u8>; 3] {
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

/// Page-locked memory and as much on the device.
fn memory(
    gpu: &Gpu,
    stream: &Arc<CudaStream>,
    bytes: usize,
) -> Result<(PinnedHostSlice<u8>, CudaSlice<u8>), Error> {
    // SAFETY: bytes need no initial value; nothing reads those that were not written.
    let staging =
        unsafe { gpu.context().alloc_pinned(bytes) }.map_err(cuda("page-locked memory for pictures"))?;
    let pictures = stream.alloc_zeros(bytes).map_err(cuda("memory for pictures"))?;
    Ok((staging, pictures))
}

/// The planes in the order of the data.
fn rows_of<'a>(planes: &'a Planes<'a>) -> impl Iterator<Item = &'a PlaneRows<'a>> {
    match planes {
        Planes::I420(planes) => planes.iter(),
        Planes::Nv12(planes) => planes.iter(),
    }
}

/// Where the planes of each picture go, one picture after the other.
fn places_of(planes: &[Planes<'_>]) -> Vec<std::ops::Range<usize>> {
    let mut end = 0;
    let place = |planes: &Planes<'_>| {
        let start = end;
        end += rows_of(planes).map(|rows| rows.data.len().next_multiple_of(ALIGNMENT)).sum::<usize>();
        start..end
    };
    planes.iter().map(place).collect()
}

fn plane_at(address: u64, rows: &PlaneRows<'_>) -> Plane {
    // Rows of more than 2 GiB do not exist: the data of a frame would not fit.
    let number = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
    Plane { data: address, pitch: number(rows.stride), step: 1, row_bytes: number(rows.row_bytes) }
}

/// Y, U and V as the kernels see them: the samples of an interleaved plane lie two bytes apart.
pub fn by_sample(planes: &Planes<'_>, on_device: Vec<Plane>) -> [Plane; 3] {
    let plane = |at: usize| on_device.get(at).copied().unwrap_or_default();
    match planes {
        Planes::I420(_) => [plane(0), plane(1), plane(2)],
        Planes::Nv12(_) => {
            let u = Plane { step: 2, ..plane(1) };
            [plane(0), u, Plane { data: u.data + 1, row_bytes: u.row_bytes - 1, ..u }]
        }
    }
}
