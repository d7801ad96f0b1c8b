//! How large the classes are, seen from above: what a mask alone cannot show (fork tips are thinner than a patch,
//! far sides are hidden) comes from here.

use crate::types::ClassName;

/// Shape of a class seen from above.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Plan {
    /// A rectangle along the direction of travel.
    Rectangle {
        /// Along the direction of travel, metres.
        length_m: f64,
        /// Across it, metres.
        width_m: f64,
    },
    /// A disc.
    Disc {
        /// Metres.
        radius_m: f64,
    },
}

/// Forklift seen from above, forks included. Measured on `dock/train` (753 forklifts, load included): length 3.855 m
/// (standard deviation 0.16), width 1.23 m (0.06). The rectangle is a little smaller than that, because a forklift
/// does not fill the corners of its bounding rectangle: with the full size the distance to an edge is 0.10 m too
/// short on average, standard deviation 0.07 m.
pub const FORKLIFT: Plan = Plan::Rectangle { length_m: 3.8, width_m: 1.2 };
/// Largest forklift of `dock/train`, with its load on the forks, metres, rounded up.
pub const FORKLIFT_LARGEST_M: f64 = 4.4;
/// Person on foot. On `dock/train` (551 persons) a disc of 0.34 m about the middle of the footprint gives the edge
/// distance without bias, standard deviation 0.09 m (stride and arms).
pub const PERSON: Plan = Plan::Disc { radius_m: 0.34 };
/// Largest person of `dock/train` seen from above (a long stride), metres, rounded up.
pub const PERSON_LARGEST_M: f64 = 1.3;

/// How near the middles of two things of a class can be to each other, metres: side by side.
pub fn least_apart_m(class: &ClassName) -> Option<f64> {
    match class.as_str() {
        "forklift" => Some(1.2),
        "person" => Some(0.5),
        _ => None,
    }
}

/// Height of a class's things, metres: of a forklift to its roof, of a person standing.
pub fn height_m(class: &ClassName) -> Option<f64> {
    match class.as_str() {
        "forklift" => Some(2.15),
        "person" => Some(1.75),
        _ => None,
    }
}

/// Plan of a class, and the largest extent of one of it in metres: how far a part outside of the picture can reach.
/// `None` for a class of no known size.
pub fn of(class: &ClassName) -> Option<(Plan, f64)> {
    match class.as_str() {
        "forklift" => Some((FORKLIFT, FORKLIFT_LARGEST_M)),
        "person" => Some((PERSON, PERSON_LARGEST_M)),
        _ => None,
    }
}
