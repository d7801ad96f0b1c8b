//! The truth about a clip: one line of JSON a frame, with the objects in it and their distances.
//!
//! `{"frame": 0, "t": 0.0, "objects": [{"inst": 1, "cls": "forklift", "dist_dock_edge_m": 9.94,
//! "dist_nearest_person_m": 11.5, "nearest_person_inst": 2, "dist_nearest_forklift_m": null,
//! "bbox2d_full": [x0, y0, x1, y1], "visible_px": 7697}]}`. Unknown keys are ignored.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::geometry::{Pair, PairEnd};

/// Fewer visible pixels than this share of the picture do not count as visible: 92 pixels of 640 x 360.
const VISIBLE_SHARE: f64 = 4e-4;

/// What is wrong with a truth file.
#[derive(Debug, thiserror::Error)]
pub enum TruthError {
    /// A line is not what it should be.
    #[error("truth file, line {line}: {problem}; each line is one frame's JSON object (docs/replay.md)")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// There is nothing in it.
    #[error("the truth file has no frames")]
    Empty,
}

/// Truth of a whole clip, by frame number.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    frames: BTreeMap<usize, FrameTruth>,
}

#[derive(Debug, Clone, Deserialize)]
struct FrameTruth {
    frame: usize,
    objects: Vec<ObjectTruth>,
}

#[derive(Debug, Clone, Deserialize)]
struct ObjectTruth {
    inst: u32,
    cls: String,
    #[serde(default)]
    dist_dock_edge_m: Option<f64>,
    #[serde(default)]
    dist_nearest_person_m: Option<f64>,
    #[serde(default)]
    nearest_person_inst: Option<u32>,
    #[serde(default)]
    dist_nearest_forklift_m: Option<f64>,
    #[serde(default)]
    nearest_forklift_inst: Option<u32>,
    bbox2d_full: [f64; 4],
    visible_px: f64,
}

/// True distance of a pair in one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrueDistance {
    /// Metres on the floor.
    pub distance_m: f64,
    /// A thing of the pair is cut off by the picture's edge.
    pub cut: bool,
    /// `inst` of the first thing.
    pub from_inst: u32,
    /// `inst` of the second one.
    pub to_inst: Option<u32>,
}

impl Truth {
    /// Reads the text of a truth file. Errors name the line.
    pub fn parse(text: &str) -> Result<Self, TruthError> {
        let mut frames = BTreeMap::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            // serde repeats what it does not want, however long that is.
            let problem = |problem: String| TruthError::Line {
                line: index + 1,
                problem: problem.chars().take(300).collect(),
            };
            let truth: FrameTruth = serde_json::from_str(line).map_err(|error| problem(error.to_string()))?;
            let number = truth.frame;
            if frames.insert(number, truth).is_some() {
                return Err(problem(format!("frame {number} stands there twice")));
            }
        }
        if frames.is_empty() { Err(TruthError::Empty) } else { Ok(Self { frames }) }
    }

    /// True when the file speaks of this frame.
    pub fn covers(&self, frame: usize) -> bool {
        self.frames.contains_key(&frame)
    }

    /// The pair's true distance in a frame; none when one of its ends is not visible there.
    ///
    /// Every edge of a pair is taken for the edge that `dist_dock_edge_m` means.
    pub fn distance(&self, frame: usize, pair: &Pair, width: u32, height: u32) -> Option<TrueDistance> {
        let objects = &self.frames.get(&frame)?.objects;
        let picture = (f64::from(width), f64::from(height));
        let visible = |object: &&ObjectTruth| object.visible_px >= VISIBLE_SHARE * picture.0 * picture.1;
        let candidates = objects.iter().filter(|object| object.cls == pair.from.as_str()).filter(visible);
        let distances = candidates.filter_map(|object| match &pair.to {
            PairEnd::Edge(_) => {
                let (distance_m, cut) = (object.dist_dock_edge_m?, object.cut(picture));
                Some(TrueDistance { distance_m, cut, from_inst: object.inst, to_inst: None })
            }
            PairEnd::Class(class) => {
                let (distance_m, inst) = match class.as_str() {
                    "person" => (object.dist_nearest_person_m?, object.nearest_person_inst),
                    "forklift" => (object.dist_nearest_forklift_m?, object.nearest_forklift_inst),
                    _ => return None,
                };
                let other = objects
                    .iter()
                    .filter(|other| other.cls == class.as_str() && inst.is_none_or(|inst| other.inst == inst))
                    .find(visible)?;
                let cut = object.cut(picture) || other.cut(picture);
                Some(TrueDistance { distance_m, cut, from_inst: object.inst, to_inst: Some(other.inst) })
            }
        });
        distances.min_by(|a, b| a.distance_m.total_cmp(&b.distance_m))
    }
}

impl ObjectTruth {
    fn cut(&self, (width, height): (f64, f64)) -> bool {
        let [x0, y0, x1, y1] = self.bbox2d_full;
        x0 < 0.0 || y0 < 0.0 || x1 > width || y1 > height
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClassName, EdgeId, PairId};

    const LINE: &str = r#"{"frame":3,"t":0.3,"objects":[
        {"inst":1,"cls":"forklift","dist_dock_edge_m":2.5,"dist_nearest_person_m":4.0,"nearest_person_inst":2,"bbox2d_full":[10,10,200,200],"visible_px":900},
        {"inst":2,"cls":"person","dist_dock_edge_m":1.5,"bbox2d_full":[-5,10,20,200],"visible_px":500},
        {"inst":3,"cls":"person","dist_dock_edge_m":0.1,"bbox2d_full":[30,10,40,20],"visible_px":3}]}"#;

    fn pair(from: &str, to: PairEnd) -> Pair {
        Pair { id: PairId::new("p").unwrap(), from: ClassName::new(from).unwrap(), to }
    }

    #[test]
    fn visible_things_count_and_cut_ones_are_marked() {
        let truth = Truth::parse(&LINE.replace('\n', "")).unwrap();
        let edge = || PairEnd::Edge(EdgeId::new("e").unwrap());
        let person = PairEnd::Class(ClassName::new("person").unwrap());
        let at = |pair: &Pair| truth.distance(3, pair, 640, 360);
        let is =
            |distance_m, cut, from_inst, to_inst| Some(TrueDistance { distance_m, cut, from_inst, to_inst });
        assert_eq!(at(&pair("forklift", edge())), is(2.5, false, 1, None));
        assert_eq!(at(&pair("person", edge())), is(1.5, true, 2, None));
        assert_eq!(at(&pair("forklift", person)), is(4.0, true, 1, Some(2)));
        assert_eq!(at(&pair("truck", edge())), None);
        assert!(!truth.covers(4));
    }

    #[test]
    fn errors_name_the_line() {
        let error = Truth::parse("\n{\"frame\": 1}\n").unwrap_err().to_string();
        assert!(error.starts_with("truth file, line 2: missing field `objects`"), "{error}");
        let twice = LINE.replace('\n', "");
        assert!(
            Truth::parse(&format!("{twice}\n{twice}"))
                .unwrap_err()
                .to_string()
                .contains("frame 3 stands there twice")
        );
        assert!(matches!(Truth::parse("\n"), Err(TruthError::Empty)));
    }
}
