//! A rendered frame as a clip of its own: its site, made of its camera and edges, and its truth.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::train::dataset::Labels;
use crate::geometry::{Calibration, Edge, Pair, PairEnd, Site};
use crate::replay::truth::{TrueDistance, Truth};
use crate::types::{ClassName, EdgeId, PairId};

/// What is measured: a class to the nearest edge, or a class to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// As the report calls it.
    pub name: &'static str,
    /// Class of the first end.
    pub from: &'static str,
    /// Class of the second; none for the nearest edge.
    pub to: Option<&'static str>,
}

/// All that is measured.
pub const KINDS: [Kind; 3] = [
    Kind { name: "forklift to edge", from: "forklift", to: None },
    Kind { name: "person to edge", from: "person", to: None },
    Kind { name: "forklift to person", from: "forklift", to: Some("person") },
];

/// One frame.
pub struct Shot {
    /// Number of the frame, as its file is called.
    pub name: String,
    /// Camera and edges, exact, and a pair for each class and edge.
    pub site: Site,
    /// Pixels and objects.
    pub labels: Arc<Labels>,
    truth: Truth,
    seen_share: Vec<(u32, f64)>,
}

#[derive(Debug, Deserialize)]
struct FrameTruth {
    edges: Vec<EdgeTruth>,
    objects: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct EdgeTruth {
    a: [f64; 2],
    b: [f64; 2],
}

#[derive(Debug, Deserialize)]
struct Boxes {
    inst: u32,
    bbox2d_full: [f64; 4],
    #[serde(default)]
    bbox2d_visible: Option<[f64; 4]>,
}

impl Shot {
    /// Reads a frame's labels.
    ///
    /// # Errors
    /// A file that is missing or not what it should be; it is named.
    pub fn read(picture: &Path) -> anyhow::Result<Self> {
        let labels = Arc::new(Labels::read(picture)?);
        let file = picture.with_extension("json");
        let wrong = || format!("{} has no edges or distances (docs/evaluate.md)", file.display());
        let text = std::fs::read_to_string(&file).with_context(wrong)?;
        let frame: FrameTruth = serde_json::from_str(&text).with_context(wrong)?;
        let line = json!({"frame": 0, "objects": frame.objects}).to_string();
        let truth = Truth::parse(&line).with_context(wrong)?;
        let boxes: Vec<Boxes> = serde_json::from_value(Value::Array(frame.objects)).with_context(wrong)?;
        let calibration = Some(Calibration::exact(labels.truth.camera()));
        let mut site = Site { calibration, ..Site::default() };
        for (k, edge) in frame.edges.iter().enumerate() {
            let id = EdgeId::new(&format!("edge{k}"))?;
            site.edges.push(Edge { id: id.clone(), line_m: vec![edge.a, edge.b] });
            for kind in KINDS.iter().filter(|kind| kind.to.is_none()) {
                let name = PairId::new(&format!("{}-edge{k}", kind.from))?;
                let to = PairEnd::Edge(id.clone());
                site.pairs.push(Pair { id: name, from: ClassName::new(kind.from)?, to });
            }
        }
        for (kind, to) in KINDS.iter().filter_map(|kind| Some((kind, kind.to?))) {
            let name = PairId::new(&format!("{}-{to}", kind.from))?;
            let to = PairEnd::Class(ClassName::new(to)?);
            site.pairs.push(Pair { id: name, from: ClassName::new(kind.from)?, to });
        }
        let name = picture.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let area = |[left, top, right, bottom]: [f64; 4]| (right - left) * (bottom - top);
        let share = |b: &Boxes| (b.inst, b.bbox2d_visible.map_or(0.0, area) / area(b.bbox2d_full).max(1.0));
        Ok(Self { name, site, labels, truth, seen_share: boxes.iter().map(share).collect() })
    }

    /// The site's pairs of a kind.
    pub fn pairs(&self, kind: Kind) -> impl Iterator<Item = &Pair> {
        self.site.pairs.iter().filter(move |pair| {
            pair.from.as_str() == kind.from
                && match &pair.to {
                    PairEnd::Edge(_) => kind.to.is_none(),
                    PairEnd::Class(class) => kind.to == Some(class.as_str()),
                }
        })
    }

    /// The true distance; none when one of the ends is not visible.
    pub fn distance(&self, kind: Kind) -> Option<TrueDistance> {
        let [width, height] = [self.labels.raster.width, self.labels.raster.height].map(|side| side as u32);
        self.truth.distance(0, self.pairs(kind).next()?, width, height)
    }

    /// Whether the boxes of what is seen of the things are at least half of their full boxes.
    pub fn is_half_seen(&self, truth: &TrueDistance) -> bool {
        let seen = |inst: u32| self.seen_share.iter().any(|(i, share)| *i == inst && *share >= 0.5);
        seen(truth.from_inst) && truth.to_inst.is_none_or(seen)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::{GrayImage, ImageBuffer, Luma};

    use super::*;

    const FRAME: &str = r#"{
        "intrinsics": {"width": 40, "height": 20, "fx": 30.0, "fy": 30.0, "cx": 20.0, "cy": 10.0},
        "camera": {"position": [0.0, 0.0, 4.0], "R_world_from_cam": [[1, 0, 0], [0, -0.5, 0.866], [0, -0.866, -0.5]]},
        "classes": ["background", "floor"],
        "edges": [{"a": [-5, 0], "b": [5, 0]}, {"a": [5, 0], "b": [5, 9]}],
        "objects": [
            {"inst": 1, "cls": "forklift", "box3d": {"center": [1, 6, 1], "yaw_deg": 90}, "visible_px": 90,
             "bbox2d_full": [5, 5, 15, 15], "bbox2d_visible": [5, 5, 15, 15], "dist_dock_edge_m": 3.5,
             "dist_nearest_person_m": 2.0, "nearest_person_inst": 2},
            {"inst": 2, "cls": "person", "box3d": {"center": [1, 9, 1], "yaw_deg": 0}, "visible_px": 20,
             "bbox2d_full": [20, 5, 30, 15], "bbox2d_visible": [20, 5, 30, 9], "dist_dock_edge_m": 8.5}
        ]
    }"#;

    fn frame(dir: &Path, json: &str) -> anyhow::Result<Shot> {
        let picture = dir.join("00007.jpg");
        fs::write(picture.with_extension("json"), json).unwrap();
        for name in ["seg", "inst"] {
            GrayImage::new(40, 20).save(dir.join(format!("00007_{name}.png"))).unwrap();
        }
        let depth: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::new(40, 20);
        depth.save(dir.join("00007_depth.png")).unwrap();
        Shot::read(&picture)
    }

    #[test]
    fn a_frame_is_a_site_with_its_truth() {
        let dir = tempfile::tempdir().unwrap();
        let shot = frame(dir.path(), FRAME).unwrap();
        assert_eq!((shot.name.as_str(), shot.site.edges.len(), shot.site.pairs.len()), ("00007", 2, 5));
        assert_eq!(KINDS.map(|kind| shot.pairs(kind).count()), [2, 2, 1]);
        let [edge, person, both] = KINDS.map(|kind| shot.distance(kind));
        assert_eq!(edge.map(|t| (t.distance_m, t.cut, t.from_inst)), Some((3.5, false, 1)));
        assert_eq!(person.map(|t| t.distance_m), Some(8.5));
        assert_eq!(both.and_then(|t| t.to_inst), Some(2));
        // The person shows four of its ten rows.
        assert!(shot.is_half_seen(&edge.unwrap()) && !shot.is_half_seen(&both.unwrap()));
    }

    #[test]
    fn a_frame_without_its_truth_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for (wrong, by) in [("\"edges\"", "\"ledges\""), ("\"bbox2d_full\"", "\"box\""), ("3.5", "\"far\"")] {
            let error = frame(dir.path(), &FRAME.replace(wrong, by)).err().unwrap();
            assert!(format!("{error:#}").contains("00007.json has no edges or distances"), "{error:#}");
        }
    }
}
