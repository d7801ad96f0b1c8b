//! The GPU through CUDA's driver, found when the program runs: the device, our kernels, the way of frames to a
//! model's input in device memory. A machine without libcuda, or without a GPU, gets a reason instead of a panic.
//! Owned by the `infer` thread.

pub mod driver;
mod held;
pub mod host;
pub mod launch;
pub mod picture;
pub mod pipeline;
pub mod preprocessor;

pub use driver::{Gpu, NoGpu};
pub use pipeline::CudaBackend;
pub use preprocessor::Preprocessor;
