//! Compiles the TensorRT shim once for each ABI whose headers are here. They are not committed. Looked for in
//! `$STANDOFF_TENSORRT_HEADERS` (folders, or `none`), where packages install them, and in the source of the crate
//! `trtx-sys`, which cargo fetches. With none at all the program is built without TensorRT and says so.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const VARIABLE: &str = "STANDOFF_TENSORRT_HEADERS";
const SHIM: &str = "src/backend/tensorrt/shim.cpp";
/// Holds the two lines that TensorRT's headers want of CUDA's.
const CUDA_HEADERS: &str = "src/backend/tensorrt/cuda";
/// Never compiled: names the crate whose source has the headers.
const FETCHED_MANIFEST: &str = "kernels/headers/Cargo.toml";
const FETCHED_CRATE: &str = "trtx-sys";
/// Where libnvinfer-dev and NVIDIA's archives put them.
const INSTALLED: [&str; 5] = [
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
    "/usr/local/tensorrt/include",
    "/opt/tensorrt/include",
];

/// Headers of one version.
struct Headers {
    folder: PathBuf,
    /// `t10`, `t11` or `rtx`.
    abi: &'static str,
    /// Major, minor, patch.
    version: [u32; 3],
}

/// Compiles the shims and tells the compiler which there are: `cfg(tensorrt_t10)`, `_t11`, `_rtx`.
pub fn build() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    for file in ["kernels/tensorrt.rs", SHIM, CUDA_HEADERS, "kernels/headers"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let setting = env::var_os(VARIABLE).unwrap_or_default();
    if setting == "none" {
        return;
    }
    let found = find(&env::split_paths(&setting).collect::<Vec<_>>());
    if found.is_empty() {
        println!(
            "cargo::warning=built without TensorRT: its headers are not here. Any of these brings them: \
             `cargo fetch --manifest-path {FETCHED_MANIFEST}`, the package libnvinfer-dev, or {VARIABLE}=FOLDER; \
             then `touch kernels/tensorrt.rs`. {VARIABLE}=none silences this"
        );
    }
    found.iter().for_each(compile);
}

/// One set of headers for each ABI: from the first place that has it, there the newest.
fn find(folders: &[PathBuf]) -> Vec<Headers> {
    for folder in folders.iter().filter(|folder| !folder.as_os_str().is_empty()) {
        if read(folder).is_none() {
            println!(
                "cargo::warning={VARIABLE}: {} holds no NvInfer.h with NvOnnxParser.h",
                folder.display()
            );
        }
    }
    let mut found: Vec<Headers> = Vec::new();
    let installed: Vec<PathBuf> = INSTALLED.iter().map(PathBuf::from).collect();
    let places = [folders.to_vec(), installed];
    // Lazily, so that nothing is fetched where everything is installed.
    for place in places.into_iter().chain(std::iter::once_with(fetched)) {
        let mut here: Vec<Headers> = place.iter().filter_map(|folder| read(folder)).collect();
        here.sort_by_key(|headers| std::cmp::Reverse(headers.version));
        for headers in here {
            if found.iter().all(|other| other.abi != headers.abi) {
                found.push(headers);
            }
        }
        if found.len() == 3 {
            break;
        }
    }
    found
}

/// Folders with headers in the fetched crate.
fn fetched() -> Vec<PathBuf> {
    // First without the network, which a build should not touch when nothing is missing.
    let Some(source) = source_of_crate(&["--offline"]).or_else(|| source_of_crate(&[])) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(source.join("TensorRT-Headers")) else { return Vec::new() };
    entries.filter_map(Result::ok).map(|entry| entry.path()).collect()
}

fn source_of_crate(options: &[&str]) -> Option<PathBuf> {
    let target = env::var("TARGET").ok()?;
    let output = Command::new(env::var_os("CARGO")?)
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", &target])
        .args(["--manifest-path", FETCHED_MANIFEST])
        .args(options)
        .output()
        .ok()?;
    let metadata = String::from_utf8(output.stdout).ok()?;
    // A string of JSON; the paths that cargo uses need no escapes on the systems that have TensorRT.
    let paths = metadata.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let mut folders = paths.filter_map(|path| Path::new(path).parent());
    folders.find(|folder| folder.file_name().is_some_and(is_of_crate)).map(Path::to_owned)
}

fn is_of_crate(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(FETCHED_CRATE))
}

/// The headers in a folder, if there are any that the shim is written for.
fn read(folder: &Path) -> Option<Headers> {
    if !folder.join("NvInfer.h").is_file() || !folder.join("NvOnnxParser.h").is_file() {
        return None;
    }
    let text = fs::read_to_string(folder.join("NvInferVersion.h")).ok()?;
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u32>().ok()
    };
    let numbers = |[major, minor, patch]: [&str; 3]| Some([number(major)?, number(minor)?, number(patch)?]);
    // The plain names are followed by a blank; in the newer files they stand for the longer ones.
    let rtx = numbers(["TRT_MAJOR_RTX", "TRT_MINOR_RTX", "TRT_PATCH_RTX"]);
    let full = numbers(["TRT_MAJOR_ENTERPRISE", "TRT_MINOR_ENTERPRISE", "TRT_PATCH_ENTERPRISE"])
        .or_else(|| numbers(["NV_TENSORRT_MAJOR ", "NV_TENSORRT_MINOR ", "NV_TENSORRT_PATCH "]));
    let (abi, version) = match (rtx, full) {
        (Some(version), _) => ("rtx", version),
        (None, Some(version @ [10, ..])) => ("t10", version),
        (None, Some(version @ [11, ..])) => ("t11", version),
        _ => return None,
    };
    println!("cargo::rerun-if-changed={}", folder.join("NvInferVersion.h").display());
    Some(Headers { folder: folder.to_owned(), abi, version })
}

fn compile(headers: &Headers) {
    let abi = headers.abi;
    let mut shim = cc::Build::new();
    shim.cpp(true).std("c++17").file(SHIM).include(CUDA_HEADERS);
    // As headers of the system, whose warnings are not ours.
    shim.flag("-isystem").flag(&headers.folder);
    shim.flag_if_supported("-Wno-deprecated-declarations");
    for namespace in ["nvinfer1", "nvonnxparser"] {
        shim.define(namespace, format!("{namespace}_{abi}").as_str());
    }
    shim.define("STANDOFF_TABLE", format!("standoff_tensorrt_{abi}").as_str());
    if let Err(error) = shim.try_compile(&format!("standoff_tensorrt_{abi}")) {
        println!(
            "cargo::error=the TensorRT shim does not compile with the headers in {}: {error}. Is there a C++ \
             compiler (g++)? {VARIABLE}=none builds without TensorRT",
            headers.folder.display()
        );
        exit(1);
    }
    println!("cargo::rustc-cfg=tensorrt_{abi}");
    // For the test double, which is compiled with the same headers.
    println!("cargo::rustc-env=TENSORRT_HEADERS_{}={}", abi.to_uppercase(), headers.folder.display());
}
