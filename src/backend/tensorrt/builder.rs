//! Compiles an ONNX graph into a plan, in this process. That takes seconds to minutes and hundreds of megabytes,
//! and a builder that crashes takes its process along: [`super::child`] is how the program calls it.

use std::ffi::{CString, c_void};
use std::path::Path;
use std::ptr;

use super::ffi;
use super::journal::{self, Hear, Journal};
use super::library::Library;
use super::refusal::LibraryError;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The library cannot build.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The builder itself cannot be made.
    #[error("TensorRT gives no builder: {0}")]
    Create(String),
    /// The graph is damaged, or has something that TensorRT lacks.
    #[error("the ONNX graph is not accepted: {0}")]
    Parse(String),
    /// Its input is not the one that is wanted.
    #[error("the ONNX graph has the wrong input: {0}")]
    Input(String),
    /// The library does not build for that GPU.
    #[error("the library cannot build for this GPU: {0}")]
    Target(String),
    /// The compiler gave up.
    #[error("the plan could not be compiled: {0}")]
    Compile(String),
    /// A C++ exception.
    #[error("the builder failed: {0}")]
    Exception(String),
}

/// What to compile.
pub struct Request<'a> {
    /// The graph.
    pub onnx: &'a [u8],
    /// Its file, beside which weights lie that are not in it.
    pub onnx_path: &'a Path,
    /// `[batch, 3, height, width]`: what the input must be, given to sides that the graph leaves open. Without it
    /// an open side is an error of TensorRT's (no optimisation profile).
    pub input_shape: Option<[i64; 4]>,
    /// Most memory that one kernel may use for itself; 0 for TensorRT's default.
    pub workspace_bytes: u64,
    /// Compute capability to build for, 86 for sm_86; none for the GPU that is here.
    pub target: Option<u32>,
    /// What an earlier build measured, or nothing.
    pub timing_cache: &'a [u8],
}

/// What came out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// The plan.
    pub plan: Vec<u8>,
    /// What was measured, for the next build; empty with RTX, which measures nothing.
    pub timing_cache: Vec<u8>,
}

/// Compiles. `hear` gets what TensorRT says, from its threads.
///
/// # Errors
/// In TensorRT's words, with the names of the graph's nodes.
pub fn build(library: &Library, request: &Request<'_>, hear: Option<Box<Hear>>) -> Result<Built, BuildError> {
    let (create_builder, create_parser) = library.builder()?;
    let path = CString::new(request.onnx_path.as_os_str().as_encoded_bytes())
        .map_err(|_| BuildError::Parse("its path holds a zero".to_owned()))?;
    let journal = Journal::new(hear);
    let mut built = Built::default();
    let raw = ffi::Build {
        create_builder,
        create_parser,
        onnx: request.onnx.as_ptr().cast(),
        onnx_size: request.onnx.len(),
        onnx_path: path.as_ptr(),
        input_shape: request.input_shape.as_ref().map_or(ptr::null(), |shape| shape.as_ptr()),
        workspace_bytes: request.workspace_bytes,
        compute_capability: request.target.map_or(0, |target| target as i32),
        timing_cache: request.timing_cache.as_ptr().cast(),
        timing_cache_size: request.timing_cache.len(),
        log: journal::log,
        log_user: journal.user(),
        take_plan,
        take_timing_cache,
        bytes_user: ptr::from_mut(&mut built).cast(),
    };
    // SAFETY: every pointer is to something that outlives the call, and the entry points are this library's.
    let step = unsafe { (library.table().build)(&raw) };
    let fail = |error: fn(String) -> BuildError| Err(error(journal.last_words()));
    match step {
        0 => Ok(built),
        1 => fail(BuildError::Create),
        2 => fail(BuildError::Parse),
        3 => fail(BuildError::Input),
        4 => fail(BuildError::Target),
        5 => fail(BuildError::Compile),
        _ => fail(BuildError::Exception),
    }
}

/// # Safety
/// `user` is the [`Built`] of the call that is under way, `data` holds `size` bytes.
unsafe extern "C" fn take_plan(user: *mut c_void, data: *const c_void, size: usize) {
    // SAFETY: the caller's promise.
    unsafe { (*user.cast::<Built>()).plan = copy(data, size) }
}

/// # Safety
/// As [`take_plan`].
unsafe extern "C" fn take_timing_cache(user: *mut c_void, data: *const c_void, size: usize) {
    // SAFETY: the caller's promise.
    unsafe { (*user.cast::<Built>()).timing_cache = copy(data, size) }
}

/// # Safety
/// `data` holds `size` bytes.
unsafe fn copy(data: *const c_void, size: usize) -> Vec<u8> {
    if data.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(data.cast::<u8>(), size) }.to_vec()
}
