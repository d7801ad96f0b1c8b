//! Segmentation and depth: a linear head over the patch tokens, fitted as `standoff train` fits the shipped ones, and
//! scored on the pixels of the pictures.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use image::{ImageBuffer, Luma};
use serde::Serialize;

use super::embed::Embedder;
use super::labels::{self, Plane};
use super::layout::{Sample, Scene};
use super::metrics::{Confusion, DepthScore, DepthSums};
use crate::cli::progress::bar;
use crate::cli::train::dataset::{IGNORED, Raster, Tokens};
use crate::cli::train::{depth, score, segment};
use crate::heads::taught::Standard;
use crate::heads::upsample::Upsample;
use crate::preprocess::letterbox;
use crate::types::{Grid, PixelTransform};

/// Passes over the training side at least, as `standoff train` takes.
const EPOCHS: usize = 8;
/// Pictures that are passed over at least, however few there are: 400 steps of four.
const LEAST_PASSED: usize = 1600;

/// How the depth is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DepthReading {
    /// Metres a step of the file.
    pub unit_m: f32,
    /// Only truth between these counts; none for all, and the bins reach as far as the training side does.
    pub range_m: Option<(f32, f32)>,
}

/// One side, labels checked and pictures not yet seen.
pub struct Side {
    scenes: Vec<Scene>,
    transforms: Vec<PixelTransform>,
}

/// A label in the pixels of the model's input, by the nearest pixel of the picture; `nothing` in the padding.
fn in_input<V: Copy>(label: &Plane<V>, nothing: V, grid: Grid, transform: &PixelTransform) -> Vec<V> {
    let (width, height) = (grid.cols * grid.patch_px, grid.rows * grid.patch_px);
    let (source_width, source_height) = (f64::from(label.width), f64::from(label.height));
    (0..width * height)
        .map(|i| {
            let centre = [(i % width) as f64 + 0.5, (i / width) as f64 + 0.5];
            let [x, y] = transform.source_from_input(centre);
            let inside = (0.0..source_width).contains(&x) && (0.0..source_height).contains(&y);
            if inside { label.values[y as usize * label.width as usize + x as usize] } else { nothing }
        })
        .collect()
}

fn size_of(picture: &Path) -> anyhow::Result<[u32; 2]> {
    let reader = image::ImageReader::open(picture).and_then(|reader| reader.with_guessed_format());
    let reader = reader.with_context(|| format!("cannot read {}", picture.display()))?;
    let (width, height) =
        reader.into_dimensions().with_context(|| format!("{} is no picture", picture.display()))?;
    Ok([width, height])
}

impl Side {
    /// Checks that every picture has labels of its size: masks of so many classes, depth in such a unit, where they are
    /// wanted.
    ///
    /// # Errors
    /// The first file that is wrong, and what to do.
    pub fn check(
        scenes: &[Scene],
        classes: Option<usize>,
        depth: Option<DepthReading>,
        embedder: &Embedder,
    ) -> anyhow::Result<Self> {
        let progress = bar(Some(scenes.len() as u64), "labels");
        let mut side = Self { scenes: scenes.to_vec(), transforms: Vec::with_capacity(scenes.len()) };
        for (at, scene) in scenes.iter().enumerate() {
            side.transforms.push(letterbox(size_of(&scene.picture)?, embedder.input()));
            classes.map(|classes| side.mask(at, classes)).transpose()?;
            depth.map(|reading| side.depth(at, reading.unit_m)).transpose()?;
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(side)
    }

    /// How many pictures.
    pub fn len(&self) -> usize {
        self.scenes.len()
    }

    /// Sees all pictures.
    ///
    /// # Errors
    /// As [`Embedder::see`].
    pub fn see(&self, embedder: &mut Embedder) -> anyhow::Result<Tokens> {
        let progress = bar(Some(self.len() as u64), "pictures");
        let mut frames = Vec::with_capacity(self.len());
        for scene in &self.scenes {
            let sample = Sample { picture: scene.picture.clone(), crop: None, class: 0 };
            frames.push(embedder.see(&sample, true)?.rows);
            progress.inc(1);
        }
        progress.finish_and_clear();
        let grid = embedder.grid();
        let inputs = frames.first().map_or(0, |rows| rows.len() / grid.len());
        Ok(Tokens::new(grid, inputs, frames))
    }

    /// The mask of a picture.
    fn mask(&self, at: usize, classes: usize) -> anyhow::Result<Plane<u8>> {
        let path = self.scenes[at].mask.as_ref().context("there are no masks")?;
        self.of_one_size(at, path, labels::mask(path, classes)?)
    }

    /// The depth of a picture.
    fn depth(&self, at: usize, unit_m: f32) -> anyhow::Result<Plane<f32>> {
        let path = self.scenes[at].depth.as_ref().context("there is no depth")?;
        self.of_one_size(at, path, labels::depth(path, unit_m)?)
    }

    fn of_one_size<V>(&self, at: usize, path: &Path, label: Plane<V>) -> anyhow::Result<Plane<V>> {
        let (width, height) = (self.transforms[at].source_width, self.transforms[at].source_height);
        ensure!(
            (label.width, label.height) == (width, height),
            "{} is {} x {} pixels, its picture {} is {width} x {height}: both must be of one size",
            path.display(),
            label.width,
            label.height,
            self.scenes[at].picture.display()
        );
        Ok(label)
    }

    fn prediction(&self, dir: &Path, kind: &str, at: usize) -> anyhow::Result<std::path::PathBuf> {
        let folder = dir.join(kind);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let stem = self.scenes[at].picture.file_stem().unwrap_or_default();
        Ok(folder.join(stem).with_added_extension("png"))
    }
}

fn raster(grid: Grid, depth_m: Vec<f32>, class: Vec<u8>) -> Raster {
    Raster { width: grid.cols * grid.patch_px, height: grid.rows * grid.patch_px, depth_m, class }
}

fn epochs(frames: usize) -> usize {
    EPOCHS.max(LEAST_PASSED.div_ceil(frames.max(1)))
}

fn examples(tokens: &Tokens, count: usize) -> Vec<segment::Example<'_>> {
    (0..count).map(|frame| segment::Example { tokens, frame, labels: frame, mirrored: false }).collect()
}

/// Both sides' pictures, seen.
pub struct Seen<'a> {
    /// What may be learned from.
    pub train: (&'a Side, &'a Tokens),
    /// What is scored.
    pub val: (&'a Side, &'a Tokens),
    /// Of the training side's tokens.
    pub standard: &'a Standard,
}

/// How a segmentation did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Segmented {
    /// Mean intersection over union over the classes that are there or found, by pixel over all pictures.
    pub mean_iou: f64,
    /// Share of the pixels that were found right.
    pub pixel_accuracy: f64,
    /// Mean over the classes of the share of each that was found.
    pub mean_class_accuracy: f64,
    /// Each class.
    pub classes: Vec<ClassIou>,
}

/// Intersection over union of one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassIou {
    /// Its name.
    pub class: String,
    /// None where it is neither there nor found.
    pub iou: Option<f64>,
}

/// Fits and scores the segmentation. Masks of what was found are written to `predictions`.
///
/// # Errors
/// Labels that changed since they were checked, or a prediction that cannot be written.
pub fn segmentation(
    seen: &Seen<'_>,
    classes: &[String],
    predictions: Option<&Path>,
) -> anyhow::Result<Segmented> {
    let (n, (side, tokens)) = (classes.len(), seen.train);
    let mut targets = Vec::with_capacity(side.len());
    for at in 0..side.len() {
        let class = in_input(&side.mask(at, n)?, IGNORED, tokens.grid, &side.transforms[at]);
        let raster = raster(tokens.grid, vec![0.0; class.len()], class);
        targets.push(segment::Target::of(&raster, tokens.grid, n));
    }
    let epochs = epochs(side.len());
    let progress = bar(Some((epochs * side.len()) as u64), "segmentation steps");
    let examples = examples(tokens, side.len());
    let head = segment::train(examples, &targets, classes, seen.standard, epochs, &progress)?;
    progress.finish_and_clear();

    let (side, tokens) = seen.val;
    let mut confusion = Confusion::new(n);
    let mut logits = vec![];
    for at in 0..side.len() {
        let truth = side.mask(at, n)?;
        let outputs = score::outputs(&head, tokens, at);
        let up = Upsample::onto_picture(tokens.grid, &side.transforms[at]);
        let mut found = Vec::with_capacity(truth.values.len());
        for row in 0..up.height() {
            logits.clear();
            up.append(row, &outputs.data, n, &mut logits);
            found
                .extend(logits.chunks_exact(n).map(score::best).filter_map(|class| u8::try_from(class).ok()));
        }
        for (truth, found) in truth.values.iter().zip(&found) {
            confusion.add(usize::from(*truth), usize::from(*found));
        }
        if let Some(dir) = predictions {
            let path = side.prediction(dir, "masks", at)?;
            write::<u8>(&path, truth.width, truth.height, found)?;
        }
    }
    Ok(Segmented {
        mean_iou: confusion.mean_iou(),
        pixel_accuracy: confusion.accuracy(),
        mean_class_accuracy: confusion.mean_class_accuracy(),
        classes: classes
            .iter()
            .zip(0..)
            .map(|(class, at)| ClassIou { class: class.clone(), iou: confusion.iou(at) })
            .collect(),
    })
}

/// How a depth did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ranged {
    /// Mean over the pictures.
    #[serde(flatten)]
    pub score: DepthScore,
    /// Nearest and farthest that the head can say, metres.
    pub range_m: (f32, f32),
    /// Pictures with depth.
    pub pictures: usize,
}

/// Fits and scores the depth. Depth that was found is written to `predictions`, in millimetres.
///
/// # Errors
/// No depth within the range, labels that changed since they were checked, or a prediction that cannot be written.
pub fn ranging(seen: &Seen<'_>, reading: DepthReading, predictions: Option<&Path>) -> anyhow::Result<Ranged> {
    let (side, tokens) = seen.train;
    let counts = |metres: f32| metres > 0.0 && reading.range_m.is_none_or(|(a, b)| (a..=b).contains(&metres));
    let mut targets = Vec::with_capacity(side.len());
    let (mut nearest, mut farthest) = (f32::INFINITY, 0.0f32);
    for at in 0..side.len() {
        let truth = side.depth(at, reading.unit_m)?;
        let mut depth_m = in_input(&truth, 0.0, tokens.grid, &side.transforms[at]);
        for metres in &mut depth_m {
            if counts(*metres) {
                (nearest, farthest) = (nearest.min(*metres), farthest.max(*metres));
            } else {
                *metres = 0.0;
            }
        }
        let class = vec![IGNORED; depth_m.len()];
        targets.push(depth::Target::of(&raster(tokens.grid, depth_m, class), tokens.grid, &[]));
    }
    ensure!(
        nearest < farthest,
        "no depth of the training side lies within the range: look at --depth-range and --depth-unit"
    );
    let range_m = reading.range_m.unwrap_or((nearest, farthest));
    let epochs = epochs(side.len());
    let progress = bar(Some((epochs * side.len()) as u64), "depth steps");
    let examples = examples(tokens, side.len());
    let head = depth::train(examples, &targets, range_m, seen.standard, epochs, &progress)?;
    progress.finish_and_clear();

    let (side, tokens) = seen.val;
    let mut scores = vec![];
    for at in 0..side.len() {
        let truth = side.depth(at, reading.unit_m)?;
        let mut metres = score::outputs(&head, tokens, at).data;
        metres.iter_mut().for_each(|log| *log = log.exp().clamp(range_m.0, range_m.1));
        let mut found = vec![];
        Upsample::onto_picture(tokens.grid, &side.transforms[at]).apply(&metres, 1, &mut found);
        let mut sums = DepthSums::default();
        for (truth, found) in truth.values.iter().zip(&found).filter(|(truth, _)| counts(**truth)) {
            sums.add(f64::from(*truth), f64::from(*found));
        }
        scores.extend(sums.score());
        if let Some(dir) = predictions {
            let path = side.prediction(dir, "depth", at)?;
            let steps = found.iter().map(|metres| (metres * 1000.0).round() as u16).collect();
            write::<u16>(&path, truth.width, truth.height, steps)?;
        }
    }
    let score = DepthScore::mean(&scores)
        .context("no depth of val/ lies within the range: look at --depth-range and --depth-unit")?;
    Ok(Ranged { score, range_m, pictures: scores.len() })
}

fn write<V>(path: &Path, width: u32, height: u32, values: Vec<V>) -> anyhow::Result<()>
where
    V: image::Primitive,
    Luma<V>: image::PixelWithColorType<Subpixel = V>,
    [V]: image::EncodableLayout,
{
    let picture = ImageBuffer::<Luma<V>, _>::from_raw(width, height, values)
        .with_context(|| format!("{}: the size is wrong", path.display()))?;
    picture.save(path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_find_their_place_in_the_input() {
        // 56 x 14 in an input of 28 x 28: half the size, 7 rows of picture below 10 of padding.
        let grid = Grid { rows: 2, cols: 2, patch_px: 14 };
        let transform = letterbox([56, 14], [28, 28]);
        let values: Vec<u8> = (0..14 * 56).map(|i| u8::from(i % 56 >= 28)).collect();
        let class = in_input(&Plane { width: 56, height: 14, values }, IGNORED, grid, &transform);
        let of = |x: usize, y: usize| class[y * 28 + x];
        assert_eq!((of(0, 9), of(0, 10), of(13, 16), of(14, 16), of(27, 17)), (IGNORED, 0, 0, 1, IGNORED));
    }

    #[test]
    fn few_pictures_are_passed_over_more_often() {
        assert_eq!((epochs(1000), epochs(200), epochs(10), epochs(0)), (8, 8, 160, 1600));
    }
}
