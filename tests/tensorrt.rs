//! TensorRT on a machine without a GPU: plans that TensorRT-RTX really compiles ahead of time, the gates before
//! libraries that would crash, and everything that must be refused.
#![cfg(feature = "tensorrt")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "tensorrt/ahead.rs"]
mod ahead;
#[path = "tensorrt/chosen.rs"]
mod chosen;
#[path = "tensorrt/double.rs"]
mod double;
#[path = "tensorrt/gates.rs"]
mod gates;
#[path = "tensorrt/process.rs"]
mod process;
#[path = "tensorrt/support.rs"]
mod support;
