//! From pixels to metres on the floor. Pure: no clock, no I/O, no threads.
//!
//! World: metres, z up, the floor is a plane (z = 0 for the first one). Camera: x right, y down, z forward.

pub mod calibration;
pub mod camera;
pub mod polygon;
pub mod vector;

use calibration::Calibration;

use crate::types::{ClassName, EdgeId, MetricScene, PairId, PairReading, Reading, Reason, Scene};

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

/// The second end of a pair.
#[derive(Debug, Clone, PartialEq)]
pub enum PairEnd {
    /// The nearest thing of a class.
    Class(ClassName),
    /// A configured edge.
    Edge(EdgeId),
}

/// What is fixed about a camera's place.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Where the camera stands and how it sees; none means that there are no metres.
    pub calibration: Option<Calibration>,
    /// The edges on its floor.
    pub edges: Vec<Edge>,
    /// What is measured.
    pub pairs: Vec<Pair>,
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

/// The things of a scene on the floor, and a reading for every pair of the site.
pub fn measure(scene: &Scene, site: &Site) -> MetricScene {
    let reading = |pair: &Pair| PairReading {
        pair: pair.id.clone(),
        reading: Reading::Unavailable(Reason::NotCalibrated),
    };
    MetricScene {
        camera: scene.camera.clone(),
        seq: scene.seq,
        captured: scene.captured,
        captured_utc: scene.captured_utc,
        things: vec![],
        pairs: site.pairs.iter().map(reading).collect(),
    }
}
