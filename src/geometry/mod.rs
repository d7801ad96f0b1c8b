//! From pixels to metres on the floor. Pure: no clock, no I/O, no threads.
//!
//! World: metres, z up, the floor is a plane (z = 0 for the first one). Camera: x right, y down, z forward.

pub mod calibration;
pub mod camera;
pub mod polygon;
pub mod vector;

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

/// The second end of a pair.
#[derive(Debug, Clone, PartialEq)]
pub enum PairEnd {
    /// The nearest thing of a class.
    Class(ClassName),
    /// A configured edge.
    Edge(EdgeId),
}
