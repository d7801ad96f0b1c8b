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
    /// Whether it is a person that looks like a forklift's driver: it counts when it is seen again, or was before.
    pub seated: bool,
    /// Its identity over time, when it is followed.
    pub track: Option<u64>,
    /// How it moves, once that is known.
    pub motion: Option<Motion>,
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
