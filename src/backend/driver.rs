//! Whether there is an NVIDIA driver on this machine, found without loading it.

use std::path::{Path, PathBuf};

/// Why no GPU backend can run where there is none.
pub const NO_DRIVER: &str = "no NVIDIA driver (libcuda.so.1 not found)";

const NAME: &str = "libcuda.so.1";
/// Where distributions, Jetson's Linux and WSL put it.
const FOLDERS: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/nvidia",
    "/usr/lib/aarch64-linux-gnu/tegra",
    "/usr/lib64",
    "/usr/lib/wsl/lib",
];

/// Where the loader would find the driver.
pub fn cuda_driver() -> Option<String> {
    let configured = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders = std::env::split_paths(&configured).chain(FOLDERS.iter().map(PathBuf::from));
    let found = folders.map(|folder| folder.join(NAME)).find(|path| path.is_file());
    found.map(|path| path.display().to_string()).or_else(|| {
        let cache = std::fs::read(Path::new("/etc/ld.so.cache")).ok()?;
        let listed = cache.windows(NAME.len()).any(|window| window == NAME.as_bytes());
        listed.then(|| "/etc/ld.so.cache lists it".to_owned())
    })
}
