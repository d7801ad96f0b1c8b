//! From pixels to metres on the floor. Pure: no clock, no I/O, no threads.
//!
//! World: metres, z up, the floor is a plane (z = 0 for the first one). Camera: x right, y down, z forward.

mod apart;
pub mod calibration;
pub mod camera;
pub mod distance;
mod driver;
pub mod footprint;
pub mod metric;
pub mod polygon;
pub mod scene;
pub mod sight;
pub mod silhouette;
pub mod sizes;
pub mod standing;
pub mod tracks;
pub mod vector;

pub use calibration::{Calibration, CalibrationError, Evidence, FloorPoint, Unknowns, calibrate};
pub use camera::{Camera, FloorPlane, Lens, Pose};
pub use scene::{follow, measure};
pub use tracks::Tracks;

use crate::types::{ClassName, EdgeId, PairId};

/// A polyline on the floor that things may come too close to.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    /// Its name.
    pub id: EdgeId,
    /// At least two points, metres on the floor.
    pub line_m: Vec<[f64; 2]>,
}

/// Two ends whose distance is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Its name.
    pub id: PairId,
    /// Class of the first end.
    pub from: ClassName,
    /// The second end.
    pub to: PairEnd,
}

impl Pair {
    /// The classes that it speaks of.
    pub fn classes(&self) -> impl Iterator<Item = &ClassName> {
        let to = match &self.to {
            PairEnd::Class(to) => Some(to),
            PairEnd::Edge(_) => None,
        };
        std::iter::once(&self.from).chain(to)
    }
}

/// The second end of a pair.
#[derive(Debug, Clone, PartialEq)]
pub enum PairEnd {
    /// The nearest thing of a class.
    Class(ClassName),
    /// A configured edge.
    Edge(EdgeId),
}

/// What is fixed about a camera's place.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Site {
    /// Where the camera stands and how it sees; none means that there are no metres.
    pub calibration: Option<Calibration>,
    /// The edges on its floor.
    pub edges: Vec<Edge>,
    /// What is measured.
    pub pairs: Vec<Pair>,
    /// The floor planes, tried in order: a thing stands on the first whose area holds it. Empty means z = 0 everywhere.
    pub planes: Vec<FloorPlane>,
}

impl Site {
    /// Where a point of the floor is seen in a picture of this size, in pixels; none without calibration and
    /// for what lies behind the camera.
    pub fn pixel_from_ground(&self, [x, y]: [f64; 2], width: u32, height: u32) -> Option<[f64; 2]> {
        let camera = &self.calibration.as_ref()?.camera;
        let [u, v] = camera.pixel_from_world([x, y, 0.0])?;
        Some([u * f64::from(width) / camera.lens.width_px, v * f64::from(height) / camera.lens.height_px])
    }
}
