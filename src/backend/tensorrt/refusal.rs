//! Why TensorRT cannot be used: what a person reads when the gates of [`super::library`] stay shut.

use super::driver::Device;
use super::{Kind, Version};
use crate::backend::cuda::NoGpu;

/// Why TensorRT cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The driver comes first.
    #[error("{0}")]
    NoDriver(NoGpu),
    /// No library anywhere.
    #[error(
        "no TensorRT library found (looked for {}); install libnvinfer10 or libnvinfer11, or run \
         `standoff model fetch tensorrt-rtx`",
        looked.join(", ")
    )]
    NotFound {
        /// Names and places.
        looked: Vec<String>,
    },
    /// There is one, and it does not load.
    #[error("{path} cannot be loaded: {problem}")]
    Load {
        /// The library.
        path: String,
        /// What the loader says.
        problem: String,
    },
    /// It lacks a function.
    #[error("{path} has no {name}: not a TensorRT library, or a broken one")]
    Symbol {
        /// The library.
        path: String,
        /// The function.
        name: String,
    },
    /// Neither 10, 11 nor RTX.
    #[error(
        "{path} is of a version that standoff does not know (number {number}); 10.x, 11.x and RTX are known"
    )]
    UnknownVersion {
        /// The library.
        path: String,
        /// What it says of itself.
        number: i32,
    },
    /// Its version is not one that the headers allow.
    #[error("{path} is {library}; standoff was built for {}, and {RULE}", in_words(built_for))]
    VersionMismatch {
        /// The library.
        path: String,
        /// Its version.
        library: Version,
        /// Versions of the headers.
        built_for: Vec<Version>,
    },
    /// None of the headers were there when the program was built.
    #[error("standoff was built without TensorRT's headers: docs/engines.md says how to get them")]
    BuiltWithoutAny,
    /// The GPU is none of those that the library is for.
    #[error("{library} does not run on {device}: it knows {}", targets_in_words(library.kind))]
    Gpu {
        /// Version of the library.
        library: Version,
        /// The GPU.
        device: Device,
    },
    /// A target that it cannot build for.
    #[error("{library} cannot build for sm_{target}: it knows {}", targets_in_words(library.kind))]
    Target {
        /// Version of the library.
        library: Version,
        /// Compute capability, 90 for sm_90.
        target: u32,
    },
    /// There is no parser beside it.
    #[error("{library} has no ONNX parser ({problem}), so it can run plans but not build them")]
    NoParser {
        /// Version of the library.
        library: Version,
        /// Why not.
        problem: String,
    },
}

const RULE: &str = "takes a library of the same major version that is not older, of RTX the same minor version; \
                    docs/engines.md says how to build for another";

fn in_words(versions: &[Version]) -> String {
    versions.iter().map(Version::to_string).collect::<Vec<_>>().join(" and ")
}

fn targets_in_words(kind: Kind) -> String {
    match kind.targets() {
        [] => "only the GPU of the machine that builds".to_owned(),
        targets => targets.iter().map(|target| format!("sm_{target}")).collect::<Vec<_>>().join(", "),
    }
}
