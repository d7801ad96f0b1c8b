//! The table of functions that `shim.cpp` exports, one for each ABI that the program was built for. Structs and
//! signatures are those of `shim.cpp`, field by field.

use std::ffi::{c_char, c_int, c_void};

use super::Kind;

/// Hears what TensorRT says, from any thread: severity (0 internal error ... 4 verbose) and words.
pub(super) type Log = unsafe extern "C" fn(user: *mut c_void, severity: i32, words: *const c_char);
/// Takes bytes that are gone when it returns.
pub(super) type Bytes = unsafe extern "C" fn(user: *mut c_void, data: *const c_void, size: usize);
/// `createInferBuilder_INTERNAL` and `createInferRuntime_INTERNAL` of a library.
pub(super) type Create = unsafe extern "C" fn(logger: *mut c_void, version: i32) -> *mut c_void;
/// `createNvOnnxParser_INTERNAL` of a parser library.
pub(super) type CreateParser =
    unsafe extern "C" fn(network: *mut c_void, logger: *mut c_void, version: c_int) -> *mut c_void;

/// What to build.
#[repr(C)]
pub(super) struct Build {
    pub create_builder: Create,
    pub create_parser: CreateParser,
    pub onnx: *const c_void,
    pub onnx_size: usize,
    pub onnx_path: *const c_char,
    pub input_shape: *const i64,
    pub workspace_bytes: u64,
    pub compute_capability: i32,
    pub timing_cache: *const c_void,
    pub timing_cache_size: usize,
    pub log: Log,
    pub log_user: *mut c_void,
    pub take_plan: Bytes,
    pub take_timing_cache: Bytes,
    pub bytes_user: *mut c_void,
}

/// An input or output of a plan.
#[repr(C)]
pub(super) struct Tensor {
    pub name: *const c_char,
    pub element: i32,
    pub is_input: i32,
    pub rank: i32,
    pub sides: [i64; 8],
}

/// The functions of one ABI.
#[repr(C)]
pub(super) struct Table {
    pub header_version: i32,
    pub build: unsafe extern "C" fn(*const Build) -> i32,
    pub runtime_create: unsafe extern "C" fn(Create, Log, *mut c_void) -> *mut c_void,
    pub runtime_destroy: unsafe extern "C" fn(*mut c_void),
    pub engine_create: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> *mut c_void,
    pub engine_destroy: unsafe extern "C" fn(*mut c_void),
    pub engine_tensor_count: unsafe extern "C" fn(*mut c_void) -> i32,
    pub engine_tensor: unsafe extern "C" fn(*mut c_void, i32, *mut Tensor) -> i32,
    pub engine_profile_shape: unsafe extern "C" fn(*mut c_void, *const c_char, i32, *mut Tensor) -> i32,
    pub context_create: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    pub context_destroy: unsafe extern "C" fn(*mut c_void),
    pub context_set_shape: unsafe extern "C" fn(*mut c_void, *const c_char, *const i64, i32) -> i32,
    pub context_set_address: unsafe extern "C" fn(*mut c_void, *const c_char, *mut c_void) -> i32,
    pub context_enqueue: unsafe extern "C" fn(*mut c_void, *mut c_void) -> i32,
}

/// The table for a kind of TensorRT; none when its headers were not there at build time.
pub(super) fn table(kind: Kind) -> Option<&'static Table> {
    match kind {
        #[cfg(tensorrt_t10)]
        // SAFETY: a constant of shim.cpp with the layout of `Table`, never written.
        Kind::TensorRt10 => Some(unsafe { &standoff_tensorrt_t10 }),
        #[cfg(tensorrt_t11)]
        // SAFETY: as above.
        Kind::TensorRt11 => Some(unsafe { &standoff_tensorrt_t11 }),
        #[cfg(tensorrt_rtx)]
        // SAFETY: as above.
        Kind::Rtx => Some(unsafe { &standoff_tensorrt_rtx }),
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

unsafe extern "C" {
    #[cfg(tensorrt_t10)]
    static standoff_tensorrt_t10: Table;
    #[cfg(tensorrt_t11)]
    static standoff_tensorrt_t11: Table;
    #[cfg(tensorrt_rtx)]
    static standoff_tensorrt_rtx: Table;
}
