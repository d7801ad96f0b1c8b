//! A thing that stands on the floor, with all that its distances need.

use crate::types::{ClassName, Cut};

use super::footprint::Footprint;
use super::tracks::filter::Covariance;

/// A thing on the floor.
#[derive(Debug, Clone)]
pub struct Standing {
    /// What it is.
    pub class: ClassName,
    /// Index in [`crate::types::Scene::things`]; none when it is not seen in this frame and only remembered.
    pub index: Option<usize>,
    /// Where it is.
    pub footprint: Footprint,
    /// Covariance of its place by the calibration alone.
    pub calibration_m2: Covariance,
    /// The edges of the picture that hide a part of it.
    pub cut: Cut,
    /// Largest extent of its class, metres.
    pub largest_m: f64,
    /// Whether the footprint is all of it, of the size of its class, and not the part that is seen.
    pub whole: bool,
    /// Whether it is one at all.
    pub doubt: Doubt,
    /// Its identity over time, when it is followed.
    pub track: Option<u64>,
    /// How it moves, once that is known.
    pub motion: Option<Motion>,
}

/// Whether what stands there is a thing of its class. It counts in any case when a track leads there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// None.
    None,
    /// Perhaps a forklift's driver, perhaps somebody behind it: it counts from the second frame on, and in the very first
    /// one, which nothing precedes.
    Some,
    /// A driver, or nothing of that size and place: it counts only for somebody who was followed there.
    Strong,
}

/// How a thing moves on the floor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Motion {
    /// Metres a second.
    pub velocity_mps: [f64; 2],
    /// Its covariance.
    pub covariance: Covariance,
}

impl Standing {
    /// The middle of the likeliest place, metres.
    pub fn middle_m(&self) -> [f64; 2] {
        self.footprint.hypotheses.first().map_or([f64::NAN; 2], |h| h.middle_m)
    }
}
