//! The CPU build of the kernels (`kernels/host.cpp`): what a device must give bit for bit. For tests and for the
//! check of a device; frames of a machine without GPU go through [`crate::preprocess::Preprocessor`], which is faster.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

use half::f16;

use super::launch::{Axis, Batch, Kernel, Picture, Shape};
use super::picture::Source;
use super::preprocessor::table_bytes;
use crate::preprocess::color::Conversion;
use crate::preprocess::{Geometry, PreprocessError};
use crate::types::{Frame, PixelTransform};

// SAFETY: both are defined in kernels/host.cpp, which kernels/build.rs compiles and links, with these types.
unsafe extern "C" {
    fn standoff_host_launch(
        kernel: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        shared_bytes: c_uint,
        parameters: *mut *mut c_void,
    ) -> c_int;
    fn standoff_host_parameter_bytes(kernel: *const c_char) -> c_uint;
}

/// Bytes of the kernel's structure in the C++ build.
pub fn parameter_bytes(kernel: Kernel) -> usize {
    let Ok(name) = CString::new(kernel.name()) else { return 0 };
    // SAFETY: the name ends with a zero and lives until the call returns.
    (unsafe { standoff_host_parameter_bytes(name.as_ptr()) }) as usize
}

/// Runs a kernel on the CPU. Returns whether there is one of that name.
///
/// # Safety
///
/// `parameters` is the kernel's structure, and every address in it is that of ordinary memory which holds what the
/// structure says, aligned for its type, and which nobody else uses until this returns.
pub unsafe fn launch<P>(kernel: Kernel, shape: Shape, parameters: &P) -> bool {
    let Ok(name) = CString::new(kernel.name()) else { return false };
    if size_of::<P>() != kernel.parameter_bytes() {
        return false;
    }
    let mut pointers = [std::ptr::from_ref(parameters).cast_mut().cast::<c_void>()];
    // SAFETY: name, grid, block and the one parameter live until the call returns; the kernel only reads its
    // parameters; for what they point to the caller vouches.
    let result = unsafe {
        standoff_host_launch(
            name.as_ptr(),
            shape.grid.as_ptr(),
            shape.block.as_ptr(),
            shape.shared_bytes,
            pointers.as_mut_ptr(),
        )
    };
    result == 0
}

/// What a preprocessing kernel makes of up to [`super::launch::MAX_PICTURES`] frames: where each frame's pixels go, and
/// its input, `[3, height, width]`, 16-bit values widened.
pub fn preprocess(
    kernel: Kernel,
    frames: &[Frame],
    input: [u32; 2],
    half: bool,
) -> Result<Vec<(PixelTransform, Vec<f32>)>, PreprocessError> {
    preprocess_by(kernel, frames, input, half, |shape, batch| {
        // SAFETY: the batch holds the addresses of planes, tables and output, all of which outlive the call.
        unsafe { launch(kernel, shape, batch) };
    })
}

/// The same with another build of the kernels, which `run` launches.
pub fn preprocess_by(
    kernel: Kernel,
    frames: &[Frame],
    input: [u32; 2],
    half: bool,
    run: impl FnOnce(Shape, &Batch),
) -> Result<Vec<(PixelTransform, Vec<f32>)>, PreprocessError> {
    let tables: Vec<Tables> = frames.iter().map(|frame| Tables::new(frame, input)).collect();
    let mut pictures = vec![];
    for (frame, Tables { geometry, axes, .. }) in frames.iter().zip(&tables) {
        let planes = Source::on_host(frame)?.in_place();
        let conversion = Conversion::new(frame.matrix, frame.range);
        let picture = Picture::new(planes, axes.as_ptr() as u64, geometry, &conversion);
        pictures.push((picture, geometry));
    }
    let values = 3 * input[0] as usize * input[1] as usize;
    let (mut full, mut halves) = (vec![], vec![]);
    let out = if half {
        halves = vec![f16::NAN; frames.len() * values];
        halves.as_mut_ptr() as u64
    } else {
        full = vec![f32::NAN; frames.len() * values];
        full.as_mut_ptr() as u64
    };
    let batch = Batch::new(&pictures, input, out, half);
    run(batch.shape(kernel, frames.len()), &batch);
    if half {
        full = halves.iter().map(|value| value.to_f32()).collect();
    }
    let transforms = pictures.iter().map(|(_, geometry)| geometry.transform);
    Ok(transforms.zip(full.chunks_exact(values).map(<[f32]>::to_vec)).collect())
}

/// Tables of one geometry in ordinary memory, where the kernels' addresses point.
struct Tables {
    geometry: Geometry,
    axes: Vec<Axis>,
    _numbers: Vec<Vec<u32>>,
}

impl Tables {
    fn new(frame: &Frame, input: [u32; 2]) -> Self {
        // The planes of an empty picture are refused later.
        let source = [frame.width.max(1), frame.height.max(1)];
        let geometry = Geometry::new(source, frame.siting, input);
        let mut numbers: Vec<Vec<u32>> = vec![];
        let mut axes = vec![];
        for axis in geometry.luma.iter().chain(&geometry.chroma) {
            let [starts, counts, weights] = table_bytes(axis).map(|bytes| {
                let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word));
                let words: Vec<u32> = words.collect();
                let address = words.as_ptr() as u64;
                numbers.push(words);
                address
            });
            axes.push(Axis { starts, counts, weights, length: axis.outputs().len() as i64 });
        }
        Self { geometry, axes, _numbers: numbers }
    }
}
