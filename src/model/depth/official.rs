//! The file of a depth head that DINOv2's authors published (`dinov2_vit{s,b,l,g}14_{nyu,kitti}_{linear,linear4,dpt}_head`):
//! names and shapes as in `dinov2/hub/depthers.py` and `dinov2/hub/depth/decode_heads.py` of facebookresearch/dinov2.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::dpt::Dpt;
use super::linear::LinearBins;
use crate::model::builder::{GraphBuilder, Value};
use crate::model::dinov2::Backbone;
use crate::model::weights::{Taker, Tensors, WeightsError, hex, read_safetensors};
use crate::types::Grid;

/// Least depth that a head gives, metres.
pub(super) const MIN_M: f32 = 0.001;
/// What the heads were trained on, as their files are named, and the largest depth that they give there, metres.
const TRAINED_ON: [(&str, f32); 2] = [("nyu", 10.0), ("kitti", 80.0)];

/// A published depth head: every shape checked, every value finite.
#[derive(Clone)]
pub struct OfficialDepth {
    file: PathBuf,
    sha256: String,
    max_m: f32,
    net: Net,
}

#[derive(Clone)]
enum Net {
    Linear(LinearBins),
    Dpt(Box<Dpt>),
}

impl fmt::Debug for OfficialDepth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OfficialDepth({}, up to {} m)", self.file.display(), self.max_m)
    }
}

impl PartialEq for OfficialDepth {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity() && self.file == other.file
    }
}

impl Eq for OfficialDepth {}

impl OfficialDepth {
    /// Reads the bytes of `file`, whose name says what the head was trained on: the checkpoint itself does not.
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, String> {
        let text = |error: WeightsError| error.to_string();
        let tensors = read_safetensors(bytes).map_err(text)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let (_, max_m) = TRAINED_ON.into_iter().find(|(word, _)| name.contains(word)).ok_or(
            "its name says neither nyu (depths to 10 m) nor kitti (to 80 m), and a head does not hold its range; \
             give it its published name back",
        )?;
        let net = Self::net(tensors).map_err(|error| match error {
            WeightsError::Missing { .. } => format!("it is no published depth head: {error}"),
            error => error.to_string(),
        })?;
        Ok(Self { file: file.to_owned(), sha256: hex(&Sha256::digest(bytes)), max_m, net })
    }

    fn net(tensors: Tensors) -> Result<Net, WeightsError> {
        let dpt = tensors.keys().any(|name| name.starts_with("decode_head.reassemble_blocks."));
        let mut taker = Taker { tensors };
        if dpt {
            Dpt::take(&mut taker).map(Box::new).map(Net::Dpt)
        } else {
            LinearBins::take(&mut taker).map(Net::Linear)
        }
    }

    /// The file that it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What the graph depends on: the weights and the range.
    pub(in crate::model) fn identity(&self) -> String {
        format!("{} {}", self.sha256, self.max_m)
    }

    /// Whether it fits a backbone whose tokens are `dim` wide. Errors with what does not fit.
    pub fn check(&self, dim: usize) -> Result<(), String> {
        let (fits, made_for) = match &self.net {
            Net::Linear(linear) => (linear.blocks(dim).is_some(), linear.made_for()),
            Net::Dpt(dpt) => (dpt.dim == dim, format!("tokens {} wide", dpt.dim)),
        };
        if fits {
            return Ok(());
        }
        let file = self.file.display();
        Err(format!(
            "'{file}' is for {made_for}, those of the model are {dim} wide: take the head of the model that runs \
             (vits 384, vitb 768, vitl 1024, vitg 1536)"
        ))
    }

    /// Its part of the graph: metres along the camera's axis at each patch's centre, `[batch, patches, 1]`.
    pub(in crate::model) fn write(
        &self,
        g: &mut GraphBuilder,
        net: &Backbone,
        dim: usize,
        grid: Grid,
    ) -> Value {
        let range_m = [MIN_M, self.max_m];
        match &self.net {
            Net::Linear(linear) => linear.write(g, net, dim, grid, range_m),
            Net::Dpt(dpt) => dpt.write(g, net, grid, range_m),
        }
    }
}
