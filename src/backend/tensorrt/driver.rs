//! What TensorRT has to know of the GPU before it is touched: whether there is one that answers, and which.

use std::fmt;

use crate::backend::cuda::{Gpu, NoGpu};

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// As the driver calls it: "NVIDIA H100 80GB HBM3".
    pub name: String,
    /// Compute capability, 90 for sm_90.
    pub capability: u32,
}

impl Device {
    /// Name and compute capability of an open GPU.
    pub fn of(gpu: &Gpu) -> Self {
        let (major, minor) = gpu.capability;
        Self { name: gpu.name.clone(), capability: (10 * major + minor).unsigned_abs() }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (sm_{})", self.name, self.capability)
    }
}

/// Whether there is a GPU with a driver that answers. Without one TensorRT must not be touched: some of its
/// libraries return wild pointers then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverState {
    /// The first GPU.
    Ready(Device),
    /// Why there is none.
    Absent(NoGpu),
}

impl DriverState {
    /// Opens the first GPU to see whether it can be opened.
    pub fn probe() -> Self {
        match Gpu::open() {
            Ok(gpu) => Self::Ready(Device::of(&gpu)),
            Err(problem) => Self::Absent(problem),
        }
    }
}
