//! TensorRT and TensorRT-RTX: finding and checking the library, building plans, keeping them, running them.
//!
//! Nothing links to NVIDIA's libraries. `shim.cpp` turns their C++ classes into a table of functions for each of
//! three ABIs (10.x, 11.x, RTX); [`library`] loads what is installed and hands it out only behind its gates:
//! a driver first, then the version, and only then the first object. [`engine`] runs a plan on a stream,
//! [`builder`] makes one from an ONNX graph, [`child`] does that in a process of its own, [`plan`] is the file and
//! [`cache`] the folder of plans. [`tensors`] says whether a plan has the inputs and outputs that we need, [`job`]
//! is one plan that is wanted, found or built, and [`network`] runs plans behind our kernels.
//!
//! Whoever owns an [`engine::Context`] runs it, on the `infer` thread in the daemon; nothing here starts a thread
//! but [`child`], which reads its process with one. Nothing here decides whether a plan computes the right thing:
//! that is the numeric gate's.

pub mod builder;
pub mod cache;
pub mod child;
pub mod driver;
pub mod engine;
mod ffi;
pub mod job;
mod journal;
pub mod library;
pub mod network;
pub mod plan;
mod refusal;
pub mod tensors;

use std::fmt;

pub use driver::{Device, DriverState};
pub use library::Library;
pub use refusal::LibraryError;

/// For people: the library that would be used here, or why none.
pub fn standing(store: &crate::model::store::Store) -> Result<String, LibraryError> {
    let library = Library::open(&DriverState::probe(), &library::candidates(None, store))?;
    Ok(format!("{}, {}", library.version(), library.path().display()))
}

/// The ABIs that the shim is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// TensorRT 10.x: JetPack 6.2 and 7.
    #[serde(rename = "tensorrt-10")]
    TensorRt10,
    /// TensorRT 11.x.
    #[serde(rename = "tensorrt-11")]
    TensorRt11,
    /// TensorRT-RTX 1.x: compiles ahead of time for a named GPU, needs a GeForce or RTX to run.
    #[serde(rename = "tensorrt-rtx")]
    Rtx,
}

impl Kind {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::TensorRt11, Self::TensorRt10, Self::Rtx];

    /// Version of the headers that the program was built with; none when there were none.
    pub fn built_for(self) -> Option<Version> {
        ffi::table(self).map(|table| Version::from_number(self, table.header_version))
    }

    /// Compute capabilities that plans can be built for without having that GPU (`ComputeCapability` in the
    /// headers of RTX 1.7); none where the GPU must be there.
    pub fn targets(self) -> &'static [u32] {
        match self {
            Self::Rtx => &[75, 80, 86, 89, 120, 121],
            Self::TensorRt10 | Self::TensorRt11 => &[],
        }
    }

    /// The ABI of a library by its version number.
    fn of_number(number: i32) -> Option<Self> {
        match number / 10_000 {
            1 => Some(Self::Rtx),
            10 => Some(Self::TensorRt10),
            11 => Some(Self::TensorRt11),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TensorRt10 => "TensorRT 10",
            Self::TensorRt11 => "TensorRT 11",
            Self::Rtx => "TensorRT-RTX",
        })
    }
}

/// A version of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Version {
    /// Which of them.
    pub kind: Kind,
    /// First number.
    pub major: i32,
    /// Second number.
    pub minor: i32,
    /// Third number.
    pub patch: i32,
}

impl Version {
    /// From what `getInferLibVersion` returns: `major * 10000 + minor * 100 + patch`.
    fn from_number(kind: Kind, number: i32) -> Self {
        Self { kind, major: number / 10_000, minor: number / 100 % 100, patch: number % 100 }
    }

    /// 10.3 and 10.4 give silently wrong results for vision transformers (NVIDIA/TensorRT issues 4723 and 4742).
    pub fn known_to_be_wrong(&self) -> bool {
        self.kind == Kind::TensorRt10 && self.minor < 5
    }

    /// Whether a library of this version can be called through headers of version `built_for`. Within a major
    /// version functions are only added, so the library may be newer. RTX promises nothing between minor ones.
    fn fits(&self, built_for: &Self) -> bool {
        let same = (self.kind, self.major) == (built_for.kind, built_for.major);
        match self.kind {
            Kind::Rtx => same && self.minor == built_for.minor,
            _ => same && (self.minor, self.patch) >= (built_for.minor, built_for.patch),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.kind == Kind::Rtx { "TensorRT-RTX" } else { "TensorRT" };
        write!(f, "{name} {}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: i32) -> Version {
        Version::from_number(Kind::of_number(number).unwrap(), number)
    }

    #[test]
    fn numbers_are_versions() {
        assert_eq!(version(101_601).to_string(), "TensorRT 10.16.1");
        assert_eq!(version(110_400).to_string(), "TensorRT 11.4.0");
        assert_eq!(version(10_701).to_string(), "TensorRT-RTX 1.7.1");
        assert_eq!(Kind::of_number(8601), None);
        assert_eq!(Kind::of_number(90_300), None);
    }

    #[test]
    fn a_library_may_be_newer_than_the_headers_but_of_the_same_major_version() {
        let fits = |library, headers| version(library).fits(&version(headers));
        assert!(fits(101_601, 100_300) && fits(100_300, 100_300) && fits(110_400, 110_100));
        assert!(!fits(100_300, 100_301) && !fits(100_300, 100_700), "older than the headers");
        assert!(!fits(110_400, 101_601) && !fits(101_601, 110_400), "another major version");
        assert!(fits(10_700, 10_701) && fits(10_702, 10_701));
        assert!(!fits(10_800, 10_701) && !fits(10_601, 10_701), "RTX takes its own minor version only");
    }

    #[test]
    fn the_versions_with_wrong_results_are_known() {
        let wrong: Vec<_> = [100_300, 100_400, 100_500, 101_601, 110_000, 10_300]
            .into_iter()
            .filter(|number| version(*number).known_to_be_wrong())
            .collect();
        assert_eq!(wrong, [100_300, 100_400]);
    }
}
