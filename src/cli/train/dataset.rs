//! Rendered frames with depth, classes and objects, as `dock/` lays them out: `NNNNN.jpg`, `NNNNN_depth.png` (16 bit,
//! millimetres along the axis, 0 = none), `NNNNN_seg.png`, `NNNNN_inst.png`, `NNNNN.json`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use half::f16;
use indicatif::ProgressBar;
use serde::Deserialize;

use super::matrix::Matrix;
use super::view::View;
use crate::backend::Backend;
use crate::clock::Timestamp;
use crate::geometry::{Camera, Lens, Pose};
use crate::heads::taught::Standard;
use crate::ingest::stills;
use crate::types::{Batch, CameraId, Features, Grid};

/// What the json of a frame says, as far as it is used.
#[derive(Debug, Clone, Deserialize)]
pub struct Truth {
    intrinsics: Intrinsics,
    camera: CameraTruth,
    /// Names of the classes in `NNNNN_seg.png`.
    pub classes: Vec<String>,
    /// Forklifts and persons.
    pub objects: Vec<Object>,
}

#[derive(Debug, Clone, Deserialize)]
struct Intrinsics {
    width: f64,
    height: f64,
    fx: f64,
    fy: f64,
    cx: f64,
    cy: f64,
}

#[derive(Debug, Clone, Deserialize)]
struct CameraTruth {
    position: [f64; 3],
    #[serde(rename = "R_world_from_cam")]
    world_from_camera: [[f64; 3]; 3],
}

/// A forklift or a person.
#[derive(Debug, Clone, Deserialize)]
pub struct Object {
    /// Its value in `NNNNN_inst.png`.
    pub inst: u8,
    /// `forklift` or `person`.
    pub cls: String,
    /// Bounding box that stands on the floor.
    pub box3d: Box3d,
    /// Pixels that are seen of it.
    pub visible_px: u32,
    /// Left, top, right, bottom of these, pixels; none when nothing is seen.
    #[serde(default)]
    pub bbox2d_visible: Option<[f64; 4]>,
    /// Whether a forklift carries something.
    #[serde(default)]
    pub loaded: Option<bool>,
}

/// A box that is turned about the vertical.
#[derive(Debug, Clone, Deserialize)]
pub struct Box3d {
    /// Its middle, metres.
    pub center: [f64; 3],
    /// The direction of travel, degrees from world x.
    pub yaw_deg: f64,
}

impl Truth {
    /// Reads the json of a picture.
    pub fn read(picture: &Path) -> anyhow::Result<Self> {
        let json = picture.with_extension("json");
        let text =
            std::fs::read_to_string(&json).with_context(|| format!("cannot read {}", json.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a frame", json.display()))
    }

    /// Width and height of the picture.
    pub fn size_px(&self) -> [f64; 2] {
        [self.intrinsics.width, self.intrinsics.height]
    }

    /// The camera.
    pub fn camera(&self) -> Camera {
        let i = &self.intrinsics;
        Camera {
            lens: Lens {
                width_px: i.width,
                height_px: i.height,
                fx_px: i.fx,
                fy_px: i.fy,
                cx_px: i.cx,
                cy_px: i.cy,
                k1: 0.0,
                k2: 0.0,
            },
            pose: Pose { world_from_camera: self.camera.world_from_camera, position_m: self.camera.position },
        }
    }
}

/// Class of pixels that neither teach nor count.
pub const IGNORED: u8 = 255;

/// What each pixel of the model's input shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Raster {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Depth of each pixel, metres; 0 = none.
    pub depth_m: Vec<f32>,
    /// Class of each pixel, or [`IGNORED`].
    pub class: Vec<u8>,
}

impl Raster {
    /// The pixels of a patch.
    pub fn pixels_of(&self, grid: Grid, patch: usize) -> impl Iterator<Item = usize> + '_ {
        let side = grid.patch_px;
        let (x0, y0) = (patch % grid.cols * side, patch / grid.cols * side);
        (0..side * side).map(move |i| (y0 + i / side) * self.width + x0 + i % side)
    }
}

/// One frame's labels.
#[derive(Debug, Clone)]
pub struct Labels {
    /// Depth and classes.
    pub raster: Raster,
    /// Object of each pixel, 0 = none.
    pub instance: Vec<u8>,
    /// The rest.
    pub truth: Truth,
}

/// The frames' pictures in a folder, sorted.
pub fn pictures(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut out = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "jpg") && path.with_extension("json").is_file() {
            out.push(path);
        }
    }
    out.sort();
    if out.is_empty() {
        bail!(
            "{} has no frames (NNNNN.jpg with NNNNN.json): give the folder that holds train/ and val/",
            dir.display()
        );
    }
    Ok(out)
}

/// The file of a picture's labels: its name with `suffix` instead of the extension.
pub fn beside(picture: &Path, suffix: &str) -> PathBuf {
    let stem = picture.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    picture.with_file_name(format!("{stem}{suffix}"))
}

fn open(path: &Path) -> anyhow::Result<image::DynamicImage> {
    image::open(path).with_context(|| format!("cannot read {}", path.display()))
}

impl Labels {
    /// Reads the labels of one picture.
    pub fn read(picture: &Path) -> anyhow::Result<Self> {
        let truth = Truth::read(picture)?;
        let depth = open(&beside(picture, "_depth.png"))?.to_luma16();
        let class = open(&beside(picture, "_seg.png"))?.to_luma8();
        let instance = open(&beside(picture, "_inst.png"))?.to_luma8();
        let size = depth.dimensions();
        ensure!(
            class.dimensions() == size && instance.dimensions() == size,
            "labels of {} differ in size",
            picture.display()
        );
        let raster = Raster {
            width: size.0 as usize,
            height: size.1 as usize,
            depth_m: depth.into_raw().into_iter().map(|d| f32::from(d) / 1000.0).collect(),
            class: class.into_raw(),
        };
        Ok(Self { raster, instance: instance.into_raw(), truth })
    }

    /// Checks that pixels and patches fit: the labels must be of the size of the backbone's input.
    pub fn check(&self, grid: Grid) -> anyhow::Result<()> {
        let want = (grid.cols * grid.patch_px, grid.rows * grid.patch_px);
        ensure!(
            (self.raster.width, self.raster.height) == want,
            "labels are {} x {}, the model's input is {} x {}",
            self.raster.width,
            self.raster.height,
            want.0,
            want.1
        );
        Ok(())
    }
}

/// Tokens of many frames in half precision: the four tapped layers side by side, one row a patch.
pub struct Tokens {
    /// The patch grid.
    pub grid: Grid,
    /// Values a patch: four times the backbone's width.
    pub inputs: usize,
    frames: Vec<Vec<f16>>,
}

impl Tokens {
    /// Of frames that were already seen, [`rows_of`] each.
    pub fn new(grid: Grid, inputs: usize, frames: Vec<Vec<f16>>) -> Self {
        Self { grid, inputs, frames }
    }

    /// All values of a frame, patch by patch.
    pub fn frame(&self, frame: usize) -> &[f16] {
        &self.frames[frame]
    }

    /// The values of one patch.
    pub fn row(&self, frame: usize, patch: usize) -> &[f16] {
        &self.frames[frame][patch * self.inputs..(patch + 1) * self.inputs]
    }

    /// Mean and standard deviation of every input over a part of all patches.
    pub fn standard(&self) -> Standard {
        // Every seventh patch, another one in each frame.
        let some = |(f, frame)| <[f16]>::chunks_exact(frame, self.inputs).skip(f % 7).step_by(7);
        Standard::over(self.frames.iter().map(Vec::as_slice).enumerate().flat_map(some), self.inputs)
    }

    /// One whole frame, standardised.
    pub fn standardised(&self, frame: usize, standard: &Standard) -> Matrix {
        let patches = self.grid.len();
        let mut data = Vec::with_capacity(patches * self.inputs);
        (0..patches).for_each(|patch| standard.push(self.row(frame, patch), &mut data));
        Matrix { rows: patches, cols: self.inputs, data }
    }
}

/// The four tapped layers of a pass side by side, one row a patch.
pub fn rows_of(features: &Features) -> Vec<f16> {
    let mut rows = Vec::with_capacity(features.grid.len() * features.dim * features.layers.len());
    for patch in 0..features.grid.len() {
        for layer in &features.layers {
            let row = &layer[patch * features.dim..(patch + 1) * features.dim];
            rows.extend(row.iter().map(|v| f16::from_f32(*v)));
        }
    }
    rows
}

/// Runs every view of the pictures through the backbone, as the daemon does. A cache file, when given, keeps the tokens
/// (half precision) for the next run.
pub fn tokens(
    backend: &mut dyn Backend,
    pictures: &[PathBuf],
    views: &[View],
    cache: Option<&Path>,
    progress: &ProgressBar,
) -> anyhow::Result<Tokens> {
    let (grid, inputs) = (backend.spec().grid, 4 * backend.spec().dim);
    let per_frame = grid.len() * inputs;
    if let Some(path) = cache.filter(|p| p.is_file()) {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            bytes.len() == views.len() * per_frame * 2,
            "{} holds {} bytes, {} frames need {}: delete it and run again",
            path.display(),
            bytes.len(),
            views.len(),
            views.len() * per_frame * 2
        );
        let frames = bytes
            .chunks_exact(per_frame * 2)
            .map(|f| f.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect())
            .collect();
        progress.inc(views.len() as u64);
        return Ok(Tokens { grid, inputs, frames });
    }
    let camera = CameraId::new("train")?;
    let mut frames = Vec::with_capacity(views.len());
    for (i, view) in views.iter().enumerate() {
        let Some(path) = pictures.get(view.frame) else { bail!("there is no frame {}", view.frame) };
        let frame = stills::read(path, &camera, i as u64, Timestamp::from_nanos(0))?;
        let Some(shown) = view.of(&frame) else { bail!("{} is smaller than its labels", path.display()) };
        let features = backend.infer(&Batch { frames: vec![shown] })?;
        let Some(features) = features.first() else {
            bail!("the backend gave nothing for {}", path.display())
        };
        let rows = rows_of(features);
        ensure!(
            rows.len() == per_frame,
            "the backend gave {} values a frame instead of {per_frame}",
            rows.len()
        );
        frames.push(rows);
        progress.inc(1);
    }
    if let Some(path) = cache {
        let bytes: Vec<u8> = frames.iter().flatten().flat_map(|v: &f16| v.to_le_bytes()).collect();
        std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Tokens { grid, inputs, frames })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A frame of floor, seen by a camera 4 m above the origin that looks along +y and 30 degrees down, with a forklift
    /// of 60 x 40 pixels and a person of whom 20 are seen.
    pub fn labels(width: usize, height: usize) -> Labels {
        let text = r#"{
            "intrinsics": {"width": 392, "height": 224, "fx": 300.0, "fy": 300.0, "cx": 196.0, "cy": 112.0},
            "camera": {
                "position": [0.0, 0.0, 4.0],
                "R_world_from_cam": [[1.0, 0.0, 0.0], [0.0, -0.5, 0.8660254], [0.0, -0.8660254, -0.5]]
            },
            "classes": ["background", "floor", "wall", "dock_edge", "rack_boxes", "forklift", "person", "truck", "pallet"],
            "objects": [
                {"inst": 1, "cls": "forklift", "box3d": {"center": [1.0, 6.0, 1.0], "yaw_deg": 90.0},
                 "bbox2d_visible": [200, 100, 260, 140], "visible_px": 2400},
                {"inst": 2, "cls": "person", "box3d": {"center": [-1.0, 6.0, 0.9], "yaw_deg": 0.0},
                 "bbox2d_visible": null, "visible_px": 20}
            ]
        }"#;
        Labels {
            raster: Raster {
                width,
                height,
                depth_m: vec![7.0; width * height],
                class: vec![1; width * height],
            },
            instance: vec![0; width * height],
            truth: serde_json::from_str(text).unwrap(),
        }
    }
}
