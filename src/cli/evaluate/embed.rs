//! Pictures through the backbone, as the daemon does it, and what is kept of each for the next run.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};

use super::layout::Sample;
use crate::backend::{self, Backend, BackendSettings};
use crate::cli::train::dataset::rows_of;
use crate::clock::Timestamp;
use crate::heads::taught::{label, tokens};
use crate::ingest::stills;
use crate::model::graph::grid_of;
use crate::model::store::Store;
use crate::types::{Batch, CameraId, Features, Grid};

/// What the backbone says of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The CLS token after the final norm.
    pub cls: Vec<f32>,
    /// The mean of the last block's patch tokens, each layer-normed, over the patches that hold picture. The final norm's
    /// own weights are left out: standardised, as the classifier reads it, the mean is the same with them.
    pub mean: Vec<f32>,
    /// The four tapped layers side by side, one row a patch; empty when they were not asked for.
    pub rows: Vec<f16>,
}

/// The backbone, opened when the first picture is not in the cache.
pub struct Embedder {
    settings: BackendSettings,
    sha256: String,
    cache: Option<PathBuf>,
    backend: Option<Box<dyn Backend>>,
    grid: Grid,
}

const FORMAT: &str = "standoff-seen-1";

impl Embedder {
    /// For a model and an input size. `cache` is a folder that is made when it is not there.
    ///
    /// # Errors
    /// A size that is no multiple of 14, a model that is not installed, or a folder that cannot be made.
    pub fn new(settings: BackendSettings, cache: Option<&Path>) -> anyhow::Result<Self> {
        let grid = grid_of(settings.input_width, settings.input_height)?;
        let sha256 = Store::locate()?.sha256(&settings.model)?;
        if let Some(dir) = cache {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(Self { settings, sha256, cache: cache.map(Path::to_owned), backend: None, grid })
    }

    /// SHA-256 of the weights.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The patch grid.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Width and height of the input in pixels.
    pub fn input(&self) -> [u32; 2] {
        [self.settings.input_width, self.settings.input_height]
    }

    /// One picture or a part of one; with `dense` its patch tokens too.
    ///
    /// # Errors
    /// A picture that cannot be read, a backend that fails, a cache that cannot be written.
    pub fn see(&mut self, sample: &Sample, dense: bool) -> anyhow::Result<Seen> {
        let path = &sample.picture;
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = self.cache.as_ref().map(|dir| dir.join(self.file_name(&bytes, sample.crop)));
        if let Some(known) = file.as_ref().and_then(|file| self.parse(&fs::read(file).ok()?, dense)) {
            return Ok(known);
        }
        let camera = CameraId::new("evaluate")?;
        let mut picture = stills::decode_rgb(&bytes, path, &camera)?;
        if let Some([left, top, width, height]) = sample.crop {
            picture = image::imageops::crop_imm(&picture, left, top, width, height).to_image();
        }
        let frame = stills::frame_of(&picture, &camera, 0, Timestamp::from_nanos(0));
        if self.backend.is_none() {
            self.backend = Some(backend::open(&self.settings)?);
        }
        let backend = self.backend.as_mut().context("the backend is gone")?;
        let features = backend.infer(&Batch { frames: vec![frame] })?.pop();
        let features =
            features.with_context(|| format!("the backend gave nothing for {}", path.display()))?;
        let seen = Seen {
            mean: mean(&features),
            rows: if dense { rows_of(&features) } else { vec![] },
            cls: features.cls,
        };
        if let Some(file) = file {
            keep(&file, &seen).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(seen)
    }

    /// Named by all that its content depends on.
    fn file_name(&self, bytes: &[u8], crop: Option<[u32; 4]>) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{} {:?} {crop:?} ", self.sha256, self.input()));
        hash.update(bytes);
        let hash: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{hash}.safetensors")
    }

    /// None for a file that is damaged or lacks the tokens that are wanted: it is made again.
    fn parse(&self, bytes: &[u8], dense: bool) -> Option<Seen> {
        let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
        let format = header.metadata().as_ref()?.get("format")?;
        let tensors = SafeTensors::deserialize(bytes).ok().filter(|_| format == FORMAT)?;
        let tensor = |name: &str, dtype: Dtype| tensors.tensor(name).ok().filter(|t| t.dtype() == dtype);
        let floats = |name: &str| -> Option<Vec<f32>> {
            let four = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            Some(tensor(name, Dtype::F32)?.data().chunks_exact(4).map(four).collect())
        };
        let (cls, mean) = (floats("cls")?, floats("mean")?);
        let rows: Vec<f16> = match dense {
            false => vec![],
            true => {
                let rows = tensor("rows", Dtype::F16)?;
                rows.data().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect()
            }
        };
        let whole = !cls.is_empty() && mean.len() == cls.len();
        let fits = !dense || rows.len() == self.grid.len() * 4 * cls.len();
        let finite = cls.iter().chain(&mean).all(|v| v.is_finite()) && rows.iter().all(|v| v.is_finite());
        (whole && fits && finite).then_some(Seen { cls, mean, rows })
    }
}

fn mean(features: &Features) -> Vec<f32> {
    let inside = label::in_picture(features.grid, &features.transform);
    let mut out = vec![0.0f32; features.dim];
    let mut normed = vec![f16::ZERO; features.dim];
    let last = features.layers.last().map(Vec::as_slice).unwrap_or_default();
    let count = inside.iter().filter(|inside| **inside).count().max(1) as f32;
    for (token, _) in last.chunks_exact(features.dim).zip(&inside).filter(|(_, inside)| **inside) {
        tokens::normalise(token, &mut normed);
        out.iter_mut().zip(&normed).for_each(|(o, v)| *o += v.to_f32() / count);
    }
    out
}

/// Whole or not at all; two runs that share a folder write the same.
fn keep(file: &Path, seen: &Seen) -> anyhow::Result<()> {
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (cls, mean) = (floats(&seen.cls), floats(&seen.mean));
    let rows: Vec<u8> = seen.rows.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut tensors = vec![
        ("cls", TensorView::new(Dtype::F32, vec![seen.cls.len()], &cls)?),
        ("mean", TensorView::new(Dtype::F32, vec![seen.mean.len()], &mean)?),
    ];
    if !rows.is_empty() {
        tensors.push(("rows", TensorView::new(Dtype::F16, vec![seen.rows.len()], &rows)?));
    }
    let metadata = HashMap::from([("format".to_owned(), FORMAT.to_owned())]);
    let bytes = safetensors::tensor::serialize(tensors, Some(metadata))?;
    let new = file.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, bytes)?;
    ensure!(fs::rename(&new, file).is_ok(), "it cannot be moved to its place");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedder(dir: &Path) -> Embedder {
        Embedder {
            settings: BackendSettings { input_width: 28, input_height: 14, ..BackendSettings::default() },
            sha256: "m".to_owned(),
            cache: Some(dir.to_owned()),
            backend: None,
            grid: Grid { rows: 1, cols: 2, patch_px: 14 },
        }
    }

    #[test]
    fn what_is_kept_is_read_and_damage_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let embedder = embedder(dir.path());
        let rows: Vec<f16> = (0..16).map(|i| f16::from_f32(i as f32 / 4.0)).collect();
        let seen = Seen { cls: vec![1.0, -2.0], mean: vec![0.5, 0.25], rows };
        let file = dir.path().join("a.safetensors");
        keep(&file, &seen).unwrap();
        let bytes = fs::read(&file).unwrap();
        assert_eq!(embedder.parse(&bytes, true), Some(seen.clone()));
        assert_eq!(embedder.parse(&bytes, false), Some(Seen { rows: vec![], ..seen.clone() }));
        for length in 0..bytes.len() {
            assert_eq!(embedder.parse(&bytes[..length], true), None, "{length} bytes");
        }
        // Kept without patch tokens: none for who wants them.
        keep(&file, &Seen { rows: vec![], ..seen.clone() }).unwrap();
        assert_eq!(embedder.parse(&fs::read(&file).unwrap(), true), None);
        // Of a larger input.
        let larger = Embedder { grid: Grid { rows: 2, cols: 2, patch_px: 14 }, ..embedder };
        assert_eq!(larger.parse(&bytes, true), None);
        assert_ne!(larger.file_name(b"x", None), larger.file_name(b"x", Some([0, 0, 1, 1])));
        assert_ne!(larger.file_name(b"x", None), larger.file_name(b"y", None));
    }
}
