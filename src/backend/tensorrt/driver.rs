//! What TensorRT has to know of the NVIDIA driver before it is touched: whether there is one, and which GPU.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::fmt;

use libloading::os::unix::{Library, Symbol};

/// The driver's library, as the system's loader finds it.
const LIBRARY: &str = "libcuda.so.1";
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR` of cuda.h.
const CAPABILITY_ATTRIBUTES: [c_int; 2] = [75, 76];

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// As the driver calls it: "NVIDIA H100 80GB HBM3".
    pub name: String,
    /// Compute capability, 90 for sm_90.
    pub capability: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (sm_{})", self.name, self.capability)
    }
}

/// Whether there is a driver that answers. Without one TensorRT must not be touched: some of its libraries
/// return wild pointers then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverState {
    /// `cuInit` succeeded; the first GPU.
    Ready(Device),
    /// Why not, in words.
    Absent(String),
}

impl DriverState {
    /// Loads the driver, initialises it and asks for its first GPU.
    pub fn probe() -> Self {
        match first_device() {
            Ok(device) => Self::Ready(device),
            Err(problem) => Self::Absent(problem),
        }
    }
}

fn first_device() -> Result<Device, String> {
    // SAFETY: the driver's library; loading it runs its constructors, as every CUDA program does.
    let library = unsafe { Library::open(Some(LIBRARY), libloading::os::unix::RTLD_NOW) }
        .map_err(|_| format!("{LIBRARY} is not on this machine"))?;
    // The driver stays loaded: it has threads of its own.
    let library = Box::leak(Box::new(library));
    // SAFETY: names and signatures are those of cuda.h.
    let (init, get, name, attribute) = unsafe {
        let init: Symbol<unsafe extern "C" fn(c_uint) -> c_int> = symbol(library, c"cuInit")?;
        let get: Symbol<unsafe extern "C" fn(*mut c_int, c_int) -> c_int> = symbol(library, c"cuDeviceGet")?;
        let name: Symbol<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int> =
            symbol(library, c"cuDeviceGetName")?;
        let attribute: Symbol<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int> =
            symbol(library, c"cuDeviceGetAttribute")?;
        (init, get, name, attribute)
    };
    let done = |what: &str, code: c_int| match code {
        0 => Ok(()),
        100 => Err("the driver finds no GPU".to_owned()),
        code => Err(format!("{what} fails with error {code}")),
    };
    let (mut device, mut words, mut capability) = (0, [0 as c_char; 256], [0; 2]);
    // SAFETY: each gets pointers to what it fills, and the length of the buffer.
    unsafe {
        done("cuInit", init(0))?;
        done("cuDeviceGet", get(&mut device, 0))?;
        done("cuDeviceGetName", name(words.as_mut_ptr(), words.len() as c_int - 1, device))?;
        for (value, which) in capability.iter_mut().zip(CAPABILITY_ATTRIBUTES) {
            done("cuDeviceGetAttribute", attribute(value, which, device))?;
        }
    }
    // SAFETY: the buffer ends with a zero that the driver was not given to write.
    let name = unsafe { CStr::from_ptr(words.as_ptr()) }.to_string_lossy().into_owned();
    let [major, minor] = capability.map(|value| u32::try_from(value).unwrap_or(0));
    Ok(Device { name, capability: 10 * major + minor })
}

/// # Safety
/// `T` is the type of the function of that name.
unsafe fn symbol<T>(library: &Library, name: &CStr) -> Result<Symbol<T>, String> {
    // SAFETY: the caller's promise.
    unsafe { library.get(name.to_bytes_with_nul()) }
        .map_err(|_| format!("{LIBRARY} has no {}", name.to_string_lossy()))
}
