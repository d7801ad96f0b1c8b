//! The CPU build of the kernels (`kernels/host.cpp`): what a device must give bit for bit. For tests and for the
//! check of a device; frames of a machine without GPU go through [`crate::preprocess::Preprocessor`], which is faster.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

use super::launch::{Kernel, Shape};

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
