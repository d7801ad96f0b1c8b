//! How exact the metres are: every rendered frame as a clip of one frame with its own camera, through model, closer
//! looks, heads and geometry as in the daemon, against the truth of the renderer.

mod score;
mod shot;
mod variant;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::EvaluateArguments;
use crate::backend::{self, Backend, BackendSettings};
use crate::cli::progress::bar;
use crate::cli::train::dataset::Labels;
use crate::clock::Timestamp;
use crate::geometry::measure;
use crate::heads;
use crate::infer::Closer;
use crate::ingest::stills;
use crate::replay::truth::TrueDistance;
use crate::types::{Batch, CameraId, ClassName, Distance, Features, MetricScene, Reading, Scene};
use score::{Errors, NEAR_M, Score, Share};
use shot::{KINDS, Kind, Shot};
use variant::{VARIANTS, Variant};

/// As `model.closer_looks` is when the configuration says nothing.
const CLOSER_LOOKS: usize = 4;
/// An instance counts as under a mask from this share of its cells on.
const LEAST_UNDER: f64 = 0.2;

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Metres {
    /// Frames.
    pub frames: usize,
    /// As shipped first, then with parts replaced by truth or left out.
    pub variants: Vec<Seen>,
    /// Every pair of every frame, as shipped.
    pub readings: Vec<score::Reading>,
}

/// One way of seeing.
#[derive(Debug, Serialize)]
pub struct Seen {
    /// What is replaced or left out.
    pub variant: &'static str,
    /// By kind of pair.
    pub pairs: Vec<(&'static str, Score)>,
    /// Over all.
    pub pooled: Score,
}

/// Runs all frames.
///
/// # Errors
/// A frame or its labels cannot be read, the model lacks the shipped heads' width, no backend.
pub fn evaluate(arguments: &EvaluateArguments, pictures: &[PathBuf]) -> anyhow::Result<Metres> {
    let settings = BackendSettings {
        model: arguments.model.clone(),
        input_width: arguments.input.0,
        input_height: arguments.input.1,
        heads: heads::shipped::graph_heads()?,
        max_batch: CLOSER_LOOKS,
        layers: false,
        ..BackendSettings::default()
    };
    let shots = pictures.iter().map(|picture| Shot::read(picture)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut backend = backend::open(&settings).context("metres are measured with the shipped heads")?;
    let mut closer = Closer::new(CLOSER_LOOKS)?;
    let wanted = ["forklift", "person"].map(ClassName::new).into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut shipped = heads::shipped::heads(&wanted)?;
    let mut readings: Vec<Vec<score::Reading>> = VARIANTS.map(|_| vec![]).into();
    let progress = bar(Some(shots.len() as u64), "frames");
    for (picture, shot) in pictures.iter().zip(&shots) {
        let features = look(backend.as_mut(), &mut closer, picture)?;
        for (variant, readings) in VARIANTS.iter().zip(&mut readings) {
            let scene = variant.see(&mut shipped, &features, &shot.labels);
            readings.extend(read(shot, &scene));
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    let seen = |(variant, readings): (&Variant, &Vec<score::Reading>)| Seen {
        variant: variant.name(),
        pairs: KINDS
            .map(|kind| (kind.name, Score::of(readings.iter().filter(|r| r.pair == kind.name))))
            .into(),
        pooled: Score::of(readings.iter()),
    };
    let variants = VARIANTS.iter().zip(&readings).map(seen).collect();
    Ok(Metres { frames: shots.len(), variants, readings: readings.into_iter().next().unwrap_or_default() })
}

fn look(backend: &mut dyn Backend, closer: &mut Closer, picture: &Path) -> anyhow::Result<Features> {
    let frame = stills::read(picture, &CameraId::new("evaluate")?, 0, Timestamp::from_nanos(0))?;
    let mut seen = backend.infer(&Batch { frames: vec![frame] })?;
    closer.look(backend, &mut seen, usize::MAX)?;
    seen.pop().with_context(|| format!("the backend gave nothing for {}", picture.display()))
}

/// One reading for each kind of pair that is there, or seen.
fn read(shot: &Shot, scene: &Scene) -> Vec<score::Reading> {
    let metric = measure(scene, &shot.site);
    let of = |kind: &Kind| {
        let truth = shot.distance(*kind);
        // Of several edges the nearest, as the truth means it.
        let distances = shot.pairs(*kind).filter_map(|pair| {
            match &metric.pairs.iter().find(|reading| reading.pair == pair.id)?.reading {
                Reading::Measured(distance) => Some(distance),
                _ => None,
            }
        });
        let measured = distances.min_by(|a, b| a.nearest_m.total_cmp(&b.nearest_m));
        let mut reading = score::Reading::of(&shot.name, kind.name, truth, measured)?;
        if let Some(truth) = truth {
            reading.half_seen = shot.is_half_seen(&truth);
            reading.right_things =
                measured.is_some_and(|d| is_right(&truth, d, scene, &metric, &shot.labels));
        }
        Some(reading)
    };
    KINDS.iter().filter_map(of).collect()
}

/// Whether a distance is that of the things of the true one.
fn is_right(
    truth: &TrueDistance,
    d: &Distance,
    scene: &Scene,
    metric: &MetricScene,
    labels: &Labels,
) -> bool {
    let is = |inst: u32, index: usize, ground_m: [f64; 2]| {
        instance(index, ground_m, scene, metric, labels).is_some_and(|found| u32::from(found) == inst)
    };
    let second = match (truth.to_inst, d.to_index) {
        (Some(inst), Some(index)) => is(inst, index, d.to_ground),
        (None, None) => true,
        _ => false,
    };
    // A single frame remembers nothing: every thing is one of the scene's.
    second && d.from_index.is_some_and(|index| is(truth.from_inst, index, d.from_ground))
}

/// Which object a thing is: of those under its mask that which stands nearest to where the thing was put. The mask of
/// two forklifts side by side may have been put on two places; the one that was measured reaches nearest to `ground_m`.
fn instance(
    index: usize,
    ground_m: [f64; 2],
    scene: &Scene,
    metric: &MetricScene,
    labels: &Labels,
) -> Option<u8> {
    let apart_m = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
    let places = metric.things.iter().filter(|thing| thing.index == Some(index));
    let reaches =
        |outline: &[[f64; 2]]| outline.iter().map(|p| apart_m(*p, ground_m)).fold(f64::INFINITY, f64::min);
    let outline = &places
        .min_by(|a, b| reaches(&a.outline_ground_m).total_cmp(&reaches(&b.outline_ground_m)))?
        .outline_ground_m;
    let middle = [0, 1].map(|axis| outline.iter().map(|p| p[axis]).sum::<f64>() / outline.len() as f64);
    let thing = &scene.things[index];
    let (mask, raster) = (&thing.mask, &labels.raster);
    let mut counts = [0usize; 256];
    for (i, _) in mask.cells.iter().enumerate().filter(|(_, set)| **set) {
        let centre = |first: usize, k: usize| ((first + k) as f64 + 0.5) * mask.cell_px;
        let input = [centre(mask.left, i % mask.width), centre(mask.top, i / mask.width)];
        let [x, y] = thing.transform.source_from_input(input).map(|v| v.max(0.0) as usize);
        counts[usize::from(
            labels.instance[y.min(raster.height - 1) * raster.width + x.min(raster.width - 1)],
        )] += 1;
    }
    let cells: usize = counts.iter().sum();
    let under = |inst: u8| counts[usize::from(inst)] as f64 >= LEAST_UNDER * cells as f64;
    let objects = labels.truth.objects.iter().filter(|o| o.cls == thing.class.as_str() && under(o.inst));
    let place = |o: &crate::cli::train::dataset::Object| [o.box3d.center[0], o.box3d.center[1]];
    let nearest = objects.min_by(|a, b| apart_m(place(a), middle).total_cmp(&apart_m(place(b), middle)));
    nearest.map(|o| o.inst)
}

impl fmt::Display for Metres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "metres, each of {} frames by itself", self.frames)?;
        let Some(shipped) = self.variants.first() else { return Ok(()) };
        let none = || "none".to_owned();
        let share = |s: &Share| {
            let [low, high] = s.interval.map(|v| 100.0 * v);
            let percent = 100.0 * s.held as f64 / s.all as f64;
            let said = format!("{} of {} = {percent:.1} % ({low:.1} .. {high:.1})", s.held, s.all);
            if s.all > 0 { said } else { none() }
        };
        let metres = |e: &Errors| {
            let said = format!("RMSE {:.3} m, median {:.3} m, {} pairs", e.rmse, e.median, e.count);
            if e.count > 0 { said } else { none() }
        };
        let mut row = |name: &str, value: String| writeln!(f, "  {name:<44} {value}");
        let scores = shipped.pairs.iter().map(|(name, score)| (*name, score));
        for (name, s) in scores.chain([("all pairs", &shipped.pooled)]) {
            row(&format!("{name}, up to {NEAR_M} m"), metres(&s.near_m))?;
            let [rmse, median] = [s.far.rmse, s.far.median].map(|v| 100.0 * v);
            let far = format!("RMSE {rmse:.1} %, median {median:.1} %, {} pairs", s.far.count);
            row("  beyond", if s.far.count > 0 { far } else { none() })?;
            row("  the interval holds the truth", share(&s.interval))?;
            row("  median width of the interval", format!("{:.2} m", s.width_m))?;
            row("  cut off: the bound holds", share(&s.cut))?;
            row("  missed, phantom", format!("{}, {}", s.missed, s.phantom))?;
            row("  up to 8 m: how far (the right things)", metres(&s.near_right_things_m))?;
            row("  up to 8 m: which thing (others)", metres(&s.near_other_things_m))?;
            row("  up to 8 m, at least half of each is seen", metres(&s.near_half_seen_m))?;
        }
        writeln!(
            f,
            "what it is worth: RMSE (median) in m up to {NEAR_M} m, pairs; interval holds; missed, phantom"
        )?;
        for seen in &self.variants {
            writeln!(f, "  {}", seen.variant)?;
            let scores = seen.pairs.iter().map(|(name, score)| (*name, score));
            for (name, s) in scores.chain([("all pairs", &seen.pooled)]) {
                let near = &s.near_m;
                let held = 100.0 * s.interval.held as f64 / s.interval.all.max(1) as f64;
                writeln!(
                    f,
                    "    {name:<20} {:.3} ({:.3}), {:>3}; {held:>5.1} %; {:>2}, {:>2}",
                    near.rmse, near.median, near.count, s.missed, s.phantom
                )?;
            }
        }
        Ok(())
    }
}
