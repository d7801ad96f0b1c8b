//! Opens the GPU, or says in one line why there is none, and runs kernels on it.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DeviceRepr, DriverError, LaunchConfig, PushKernelArg,
    result, sys,
};
use cudarc::nvrtc::Ptx;

use super::launch::{Kernel, Shape};
use crate::backend::driver::NO_DRIVER;

/// Our kernels for every device from compute capability 7.5 on; the driver compiles them for its own.
pub const PTX: &str = include_str!("../../../kernels/standoff.ptx");

/// The oldest driver that takes [`PTX`] (PTX ISA 8.2), as `cuDriverGetVersion` counts: 1000 * major + 10 * minor.
const OLDEST_DRIVER: i32 = 12020;
/// The oldest device that takes [`PTX`].
const OLDEST_DEVICE: (i32, i32) = (7, 5);

/// Why no GPU can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoGpu {
    /// The driver's library is not there.
    #[error("{NO_DRIVER}")]
    NoDriver,
    /// The driver is there and does not start, as in a container without the device.
    #[error("the NVIDIA driver does not start ({0})")]
    Init(String),
    /// The driver is too old for our kernels.
    #[error("the NVIDIA driver is made for CUDA {0}, CUDA 12.2 is needed")]
    OldDriver(String),
    /// The driver sees no device.
    #[error("the NVIDIA driver sees no GPU")]
    NoDevice,
    /// The device is too old for our kernels.
    #[error("{name} has compute capability {capability}, 7.5 is needed")]
    OldDevice {
        /// Its name.
        name: String,
        /// Its compute capability.
        capability: String,
    },
    /// Something failed that should not.
    #[error("the GPU cannot be opened ({0})")]
    Failed(String),
}

impl NoGpu {
    /// What a person can do; none when a machine without GPU is simply that.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::NoDriver | Self::NoDevice => None,
            Self::Init(_) => Some(
                "run nvidia-smi; in a container pass the GPU in (--gpus all, --runtime nvidia); after an update of the driver restart the machine",
            ),
            Self::OldDriver(_) => Some("install NVIDIA driver 535 or newer (JetPack 6 or newer on a Jetson)"),
            Self::OldDevice { .. } => Some("use a GPU of the Turing generation or newer"),
            Self::Failed(_) => Some("run nvidia-smi and look for Xid errors in dmesg"),
        }
    }
}

/// A GPU and our kernels on it.
#[derive(Clone)]
pub struct Gpu {
    context: Arc<CudaContext>,
    functions: Vec<(Kernel, CudaFunction)>,
    /// Kept for as long as its functions are.
    _module: Arc<CudaModule>,
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// The CUDA version of its driver, `1000 * major + 10 * minor`.
    pub driver: i32,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Gpu").field("name", &self.name).field("driver", &self.driver).finish()
    }
}

impl Gpu {
    /// Opens the first GPU and loads the kernels.
    pub fn open() -> Result<Self, NoGpu> {
        let (context, driver) = primary_context()?;
        // SAFETY: nothing is in flight yet; streams are ordered by hand, with events.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(failed)?;
        let capability = context.compute_capability().map_err(failed)?;
        if capability < OLDEST_DEVICE {
            let capability = format!("{}.{}", capability.0, capability.1);
            return Err(NoGpu::OldDevice { name, capability });
        }
        let module = context.load_module(Ptx::from_src(PTX)).map_err(failed)?;
        let functions = Kernel::ALL
            .into_iter()
            .map(|kernel| Ok((kernel, module.load_function(kernel.name()).map_err(failed)?)))
            .collect::<Result<_, NoGpu>>()?;
        Ok(Self { context, functions, _module: module, name, capability, driver })
    }

    /// CUDA's context: the device's primary one, which TensorRT, ONNX Runtime and GStreamer share.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// "CUDA 12.6".
    pub fn driver_version(&self) -> String {
        format!("CUDA {}", version(self.driver))
    }

    /// Puts a kernel into a stream.
    ///
    /// # Safety
    ///
    /// `parameters` is the kernel's structure, and every address in it is device memory which holds what the
    /// structure says, until the stream has run the kernel.
    pub unsafe fn launch<P: Copy>(
        &self,
        stream: &CudaStream,
        kernel: Kernel,
        shape: Shape,
        parameters: &P,
    ) -> Result<(), DriverError> {
        if size_of::<P>() != kernel.parameter_bytes() {
            return Err(invalid());
        }
        let (_, function) = self.functions.iter().find(|(name, _)| *name == kernel).ok_or_else(invalid)?;
        let [grid, block] = [shape.grid, shape.block].map(|[x, y, z]| (x, y, z));
        let config = LaunchConfig { grid_dim: grid, block_dim: block, shared_mem_bytes: shape.shared_bytes };
        let parameters = Parameters(*parameters);
        let mut arguments = stream.launch_builder(function);
        arguments.arg(&parameters);
        // SAFETY: the kernel takes one structure, and it has the length that the PTX says (tested in `launch`).
        unsafe { arguments.launch(config) }.map(|_| ())
    }
}

/// The first GPU's primary context and the driver's version. Asks before each step what cudarc would panic at.
pub fn primary_context() -> Result<(Arc<CudaContext>, i32), NoGpu> {
    // SAFETY: loads the driver's library, which is what any program with CUDA does first.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoGpu::NoDriver);
    }
    result::init().map_err(|error| NoGpu::Init(words(&error)))?;
    let mut driver = 0;
    // SAFETY: writes one number.
    unsafe { sys::cuDriverGetVersion(&raw mut driver) }.result().map_err(failed)?;
    if driver < OLDEST_DRIVER {
        return Err(NoGpu::OldDriver(version(driver)));
    }
    if CudaContext::device_count().map_err(failed)? < 1 {
        return Err(NoGpu::NoDevice);
    }
    Ok((CudaContext::new(0).map_err(failed)?, driver))
}

/// A kernel's structure, by value.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Parameters<P: Copy>(P);

// SAFETY: the structures of `launch` are plain numbers with C's layout.
unsafe impl<P: Copy> DeviceRepr for Parameters<P> {}

/// What CUDA calls an error, with its number.
pub fn words(error: &DriverError) -> String {
    let name = error.error_name().ok().and_then(|name| name.to_str().ok().map(str::to_owned));
    format!("{}, error {}", name.as_deref().unwrap_or("CUDA"), error.0 as u32)
}

/// The error of a call that was given what it cannot take.
pub fn invalid() -> DriverError {
    DriverError(sys::cudaError_enum::CUDA_ERROR_INVALID_VALUE)
}

fn failed(error: DriverError) -> NoGpu {
    NoGpu::Failed(words(&error))
}

fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// The SHA-256 of `standoff.cu` that the PTX says it was made from.
pub fn source_hash_of_ptx() -> Option<&'static str> {
    PTX.lines().take(5).find_map(|line| line.strip_prefix("// standoff.cu sha256 "))
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::super::launch;
    use super::*;

    #[test]
    fn the_ptx_was_made_from_this_source() {
        let source = include_bytes!("../../../kernels/standoff.cu");
        let hash: String = Sha256::digest(source).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            source_hash_of_ptx(),
            Some(hash.as_str()),
            "run kernels/rebuild-ptx.py and commit kernels/standoff.ptx"
        );
        assert!(PTX.contains("\n.version 8.2\n") && PTX.contains("\n.target sm_75\n"));
        assert!(!PTX.contains("fma.rn.ftz"), "numbers near 0 would differ from the CPU's");
    }

    #[test]
    fn limits_are_those_of_the_source() {
        let source = include_str!("../../../kernels/standoff.cu");
        for (name, value) in [
            ("MAX_PICTURES", launch::MAX_PICTURES),
            ("PAIR_TILE", launch::PAIR_TILE),
            ("KEPT_COUNTERS", launch::KEPT_COUNTERS),
        ] {
            assert!(source.contains(&format!("#define {name} {value}\n")), "{name}");
        }
    }

    #[test]
    fn versions_read_as_nvidia_writes_them() {
        assert_eq!((version(12020), version(13000)), ("12.2".to_owned(), "13.0".to_owned()));
    }
}
