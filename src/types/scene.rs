//! What is in a picture: first in pixels ([`Scene`], made by the heads), then in metres on the floor
//! ([`MetricScene`], made by the geometry, read by the rules).

use serde::{Deserialize, Deserializer, Serialize};

use super::event::Reason;
use super::features::{Grid, PixelTransform};
use super::ids::{CameraId, ClassName, EdgeId, PairId, StateName, StateValue};
use crate::clock::{Timestamp, UtcMillis};

/// What the heads saw in one frame. Pixels only.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Whose frame it was.
    pub camera: CameraId,
    /// The frame's number.
    pub seq: u64,
    /// When the picture was taken.
    pub captured: Timestamp,
    /// The same in the time of day.
    pub captured_utc: UtcMillis,
    /// From the picture's pixels to the backbone's input, in which masks and depth are counted.
    pub transform: PixelTransform,
    /// The patch grid of the input.
    pub grid: Grid,
    /// Things with a mask, in no order.
    pub things: Vec<Thing>,
    /// Which patches the segmentation takes for floor (probability 0 to 1, one a patch); empty when no head says.
    pub floor: Vec<f32>,
    /// Depth of every patch, when a head gives it.
    pub depth: Option<DepthMap>,
    /// Taught states, as this one frame shows them.
    pub states: Vec<StateReading>,
    /// Whether the picture can be believed at all.
    pub trust: Trust,
}

/// What one frame shows of a taught state.
#[derive(Debug, Clone, PartialEq)]
pub struct StateReading {
    /// The state.
    pub state: StateName,
    /// Its value; none when the frame is unlike every example, or between two values.
    pub value: Option<StateValue>,
    /// Probability of the likeliest value, 0 to 1.
    pub probability: f32,
}

/// Whether a picture counts as evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It does.
    Trusted,
    /// It does not, however fresh it is.
    Untrusted(Reason),
}

/// One thing in the picture.
#[derive(Debug, Clone)]
pub struct Thing {
    /// What it is.
    pub class: ClassName,
    /// Mean probability of the class over the mask, 0 to 1.
    pub score: f32,
    /// Its outline.
    pub mask: Mask,
    /// One for every column of the mask: true where its lowest cell borders on floor that is seen, so that the
    /// outline there is the thing's own and not that of something in front of it.
    pub meets_floor: Vec<bool>,
    /// What the decoder says of the thing's patches; empty when it does not know the class.
    pub votes: Vec<SurfaceVote>,
    /// From the picture's pixels to the input in which mask and votes are counted: that of the scene, or of a closer
    /// look at a part of the picture.
    pub transform: PixelTransform,
    /// Which edges of the picture cut it off.
    pub cut: Cut,
}

impl Thing {
    /// Whether it is what a point of the picture shows, by its mask.
    pub fn shows(&self, [x, y]: [f64; 2]) -> bool {
        let mask = &self.mask;
        let [x, y] = self.transform.input_from_source([x, y]).map(|v| (v / mask.cell_px).floor());
        let (col, row) = (x - mask.left as f64, y - mask.top as f64);
        let inside = (0.0..mask.width as f64).contains(&col) && (0.0..mask.height as f64).contains(&row);
        inside && mask.cells[row as usize * mask.width + col as usize]
    }
}

/// What the decoder says of one patch of a thing, each with the mean absolute error that is to be expected. "Along" is
/// the horizontal direction of the ray through the patch's centre, away from the camera; "aside" is 90 degrees to its
/// left, seen from above.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SurfaceVote {
    /// The patch's column in the grid.
    pub col: usize,
    /// The patch's row in the grid.
    pub row: usize,
    /// How much of the patch the mask covers, 0 to 1.
    pub cover: f32,
    /// Height above the floor of the surface that is seen, metres.
    pub height_m: Likely,
    /// How far beyond that surface, along the ray, the middle of the thing's footprint lies, metres.
    pub behind_m: Likely,
    /// How far aside from the ray the middle of the footprint lies, metres.
    pub aside_m: Likely,
    /// Where the floor below the middle of the thing is seen, pixels of the input: right and down.
    pub foot_px: [Likely; 2],
    /// Which way it heads; none for a class that is as long as wide.
    pub heading: Option<HeadingVote>,
}

/// A value and the mean absolute error that is to be expected of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likely {
    /// The value.
    pub value: f32,
    /// Its expected error.
    pub error: f32,
}

/// Which way a thing heads, against the horizontal direction from the camera to its middle. The cosine and sine are
/// means: shorter than 1 where the patch cannot tell, and those of twice the angle stay long where only front and rear
/// cannot be told apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadingVote {
    /// Cosine and sine.
    pub once: [f32; 2],
    /// Cosine and sine of twice the angle.
    pub twice: [f32; 2],
    /// Squared error of the four together that is to be expected.
    pub error: f32,
}

/// A bitmap over a part of the backbone's input, in square cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Mask {
    /// Side of a cell in input pixels.
    pub cell_px: f64,
    /// Column of the bitmap's first cell, counted in cells from the input's left edge.
    pub left: usize,
    /// Row of the bitmap's first cell, counted in cells from the input's top edge.
    pub top: usize,
    /// Cells across.
    pub width: usize,
    /// Cells down.
    pub height: usize,
    /// `width * height` cells, row-major; true where the thing is.
    pub cells: Vec<bool>,
}

/// Which edges of the picture a thing touches, so that more of it may lie outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cut {
    /// The left edge.
    pub left: bool,
    /// The top edge.
    pub top: bool,
    /// The right edge.
    pub right: bool,
    /// The bottom edge.
    pub bottom: bool,
}

impl Cut {
    /// True when any edge cuts the thing.
    pub fn any(self) -> bool {
        self.left || self.top || self.right || self.bottom
    }
}

/// Depth along the camera's axis, one value a patch, as the head sees it: not yet tied to the
/// calibrated floor, so its scale may be off by tens of percent.
#[derive(Debug, Clone, PartialEq)]
pub struct DepthMap {
    /// One a patch in row-major order.
    pub values: Vec<f32>,
    /// What the values are.
    pub unit: DepthUnit,
    /// Standard deviation of the logarithm of the depth, one a patch; empty when the head does not say.
    pub log_sigma: Vec<f32>,
}

/// What the values of a depth map are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DepthUnit {
    /// Metres.
    Metres,
    /// The inverse of the depth by an unknown scale and an unknown shift: large is near.
    Inverse,
}

impl std::str::FromStr for DepthUnit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "metres" => Ok(Self::Metres),
            "inverse" => Ok(Self::Inverse),
            _ => Err("metres or inverse is wanted"),
        }
    }
}

/// The scene on the floor, in metres.
#[derive(Debug, Clone)]
pub struct MetricScene {
    /// Whose frame it was.
    pub camera: CameraId,
    /// The frame's number.
    pub seq: u64,
    /// When the picture was taken.
    pub captured: Timestamp,
    /// The same in the time of day.
    pub captured_utc: UtcMillis,
    /// The things of the scene, in the scene's order, where they stand on the floor; behind them those that are
    /// hidden for a short time.
    pub things: Vec<MetricThing>,
    /// One for every configured pair.
    pub pairs: Vec<PairReading>,
}

/// One thing on the floor.
#[derive(Debug, Clone)]
pub struct MetricThing {
    /// Index in [`Scene::things`]; none for a thing that is hidden for a short time and counts all the same.
    pub index: Option<usize>,
    /// What it is.
    pub class: ClassName,
    /// Outline of its vertical projection on the floor, metres, a closed polygon without the repeated first point.
    pub outline_ground_m: Vec<[f64; 2]>,
    /// Standard deviation of the outline's place, metres.
    pub sigma_m: f64,
    /// Which edges of the picture cut it off.
    pub cut: Cut,
    /// Its identity over time, while it is followed.
    pub track: Option<u64>,
    /// Metres a second on the floor, once that is known.
    pub velocity_mps: Option<[f64; 2]>,
}

/// What is known of one configured pair in one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct PairReading {
    /// The pair.
    pub pair: PairId,
    /// Its distance, or why there is none.
    pub reading: Reading,
}

/// Distance of a pair in one frame.
#[derive(Debug, Clone, PartialEq)]
// Most readings are of the large kind, and there are a handful.
#[allow(clippy::large_enum_variant)]
pub enum Reading {
    /// The picture was read and one of the two is not in it: nothing is near.
    Absent,
    /// Both are there.
    Measured(Distance),
    /// The picture cannot tell.
    Unavailable(Reason),
}

/// The shortest distance on the floor between two things, or a thing and an edge: over all things of
/// the two classes the nearest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// Best estimate, metres.
    #[serde(deserialize_with = "number_or_nan")]
    pub nearest_m: f64,
    /// Lower end of the 95 % interval, metres, at least 0.
    #[serde(deserialize_with = "number_or_nan")]
    pub lower_m: f64,
    /// Upper end of the 95 % interval, metres.
    #[serde(deserialize_with = "number_or_nan")]
    pub upper_m: f64,
    /// Value or bound.
    pub kind: DistanceKind,
    /// The nearest point of the first thing, metres on the floor.
    pub from_ground: [f64; 2],
    /// The nearest point of the second thing or of the edge, metres on the floor.
    pub to_ground: [f64; 2],
    /// Class of the first thing.
    pub from: ClassName,
    /// Index of the first thing in [`Scene::things`]; none while it is hidden.
    pub from_index: Option<usize>,
    /// Index of the second thing in [`Scene::things`]; none for an edge, and while it is hidden.
    pub to_index: Option<usize>,
    /// Identity of the first thing over time.
    #[serde(default)]
    pub from_track: Option<u64>,
    /// Identity of the second thing over time; none for an edge.
    #[serde(default)]
    pub to_track: Option<u64>,
    /// The edge; none for a thing.
    pub to_edge: Option<EdgeId>,
    /// How fast the two approach, metres a second, once that is known. Positive when the distance shrinks.
    pub approach_mps: Option<f64>,
    /// Its standard deviation.
    #[serde(default)]
    pub approach_sigma_mps: Option<f64>,
    /// When the picture was taken.
    pub captured: Timestamp,
    /// The same of the pair's other things, which are farther away: one that comes fast may be more urgent.
    #[serde(skip)]
    pub others: Vec<Distance>,
}

/// JSON has no word for a number that is none, so it is written as null.
fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Distance {
    /// Standard deviation of the distance: the interval taken as that of a normal distribution.
    pub fn sigma_m(&self) -> f64 {
        (self.upper_m - self.lower_m) / (2.0 * 1.96)
    }

    /// The fastest that the two may approach: the upper end of the speed's 95 % interval, metres a second.
    pub fn fastest_mps(&self) -> Option<f64> {
        let speed = self.approach_mps.filter(|speed| speed.is_finite())?;
        Some(speed + 1.96 * self.approach_sigma_mps.filter(|sigma| sigma.is_finite()).unwrap_or(0.0))
    }

    /// Time to contact at this speed, seconds: the soonest (near end of the distance, fastest approach), the likeliest
    /// and the latest. None where the speed is not known or does not bring them together.
    pub fn contact_s(&self) -> [Option<f64>; 3] {
        let speed = self.approach_mps.filter(|speed| speed.is_finite());
        let slowest = speed.zip(self.fastest_mps()).map(|(speed, fastest)| 2.0 * speed - fastest);
        let after = |metres: f64, speed: Option<f64>| speed.filter(|v| *v > 0.0).map(|v| metres / v);
        [after(self.lower_m, self.fastest_mps()), after(self.nearest_m, speed), after(self.upper_m, slowest)]
    }
}

/// Whether a distance is a value or bounds it from one side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DistanceKind {
    /// The whole of both things was seen; the interval holds the truth in 95 % of cases.
    Value,
    /// A thing is cut off by the picture's edge: the truth is at most `upper_m`, and what lies outside
    /// may be as near as `floor_m` (from the largest size of the class), metres. `nearest_m`, `lower_m`
    /// and `upper_m` speak of the part that is seen.
    AtMost {
        /// The nearest that the unseen part can be, metres.
        floor_m: f64,
    },
}
