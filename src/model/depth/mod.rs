//! Depth from elsewhere than the shipped head: heads that DINOv2's authors published, which become part of the graph,
//! and whole depth networks (Depth Anything V2), which run beside it. What their files must hold is checked here.

mod dpt;
mod layers;
mod linear;
mod network;
mod official;

use std::fs;
use std::path::Path;
use std::sync::Arc;

pub use network::DepthNetwork;
pub use official::OfficialDepth;

use crate::types::DepthUnit;

/// Where the depth comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DepthSource {
    /// The head that comes with the program.
    #[default]
    Shipped,
    /// A published head over the tokens of the same backbone pass.
    Official(Arc<OfficialDepth>),
    /// A network with a backbone of its own.
    Network(DepthNetwork),
}

/// Why a file gives no depth.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{file}' is of no use for depth: {problem}; docs/depth.md says which files are, and how to make one"
)]
pub struct DepthFileError {
    /// The file.
    file: String,
    /// What it is instead of what was expected.
    problem: String,
}

impl DepthSource {
    /// Reads and checks a file: safetensors with a published head, or the ONNX file of a network. `unit` is what the
    /// network's values are; without it the inverse of the depth, as Depth Anything's relative models give.
    ///
    /// # Errors
    /// Neither of these, a tensor, input or output that is not as it must be, or a unit for a head, which always
    /// gives metres.
    pub fn read(file: &Path, unit: Option<DepthUnit>) -> Result<Self, DepthFileError> {
        let wrong = |problem: String| DepthFileError { file: file.display().to_string(), problem };
        let bytes = fs::read(file).map_err(|error| wrong(error.to_string()))?;
        match bytes.get(8) {
            Some(b'{') if unit.is_some() => {
                Err(wrong("a published head gives metres, so leave the unit away".to_owned()))
            }
            Some(b'{') => {
                OfficialDepth::parse(file, &bytes).map(|head| Self::Official(Arc::new(head))).map_err(wrong)
            }
            // A PyTorch file is a zip archive or a pickle.
            Some(_) if bytes.starts_with(b"PK") || bytes.starts_with(b"\x80\x02") => {
                Err(wrong("it is a pickled PyTorch checkpoint, expected safetensors or ONNX".to_owned()))
            }
            // The first field of every ONNX file is the format's version.
            Some(_) if bytes.starts_with(b"\x08") => {
                DepthNetwork::parse(file, bytes.into(), unit.unwrap_or(DepthUnit::Inverse))
                    .map(Self::Network)
                    .map_err(wrong)
            }
            _ => Err(wrong("it is neither safetensors nor ONNX".to_owned())),
        }
    }

    /// The network that runs beside the model, when there is one.
    pub fn network(&self) -> Option<&DepthNetwork> {
        match self {
            Self::Network(network) => Some(network),
            Self::Shipped | Self::Official(_) => None,
        }
    }

    /// Its file, when it has one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Shipped => None,
            Self::Official(head) => Some(head.file()),
            Self::Network(network) => Some(&network.file),
        }
    }
}
