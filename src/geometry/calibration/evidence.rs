//! What a person can measure of a floor and click in its picture.

use std::fmt;

/// A point of the floor that is seen at a known pixel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FloorPoint {
    /// Where it is in the picture, in pixels from the picture's outer top left corner.
    pub pixel: [f64; 2],
    /// Where it is on the floor, metres.
    pub ground_m: [f64; 2],
    /// The height of its floor, metres: 0 unless the point lies on another plane.
    pub height_m: f64,
}

/// Two points of one floor whose distance was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KnownLength {
    /// Where its ends are seen, pixels.
    pub ends_px: [[f64; 2]; 2],
    /// The distance of its ends, metres.
    pub length_m: f64,
    /// Standard deviation of that, metres: 0 when it was measured, more when it is assumed (a car's width). Lengths of
    /// the same `length_m` and `sigma_m` rest on one assumption and are wrong together: more of them do not make it better.
    pub sigma_m: f64,
    /// The height of its floor, metres.
    pub height_m: f64,
}

/// Something vertical of known height that stands on the floor: a post, the edge of a door frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Upright {
    /// Where its foot is seen, pixels.
    pub foot_px: [f64; 2],
    /// Where its top is seen, straight above the foot, pixels.
    pub top_px: [f64; 2],
    /// From foot to top, metres.
    pub tall_m: f64,
    /// The height of the floor that it stands on, metres.
    pub height_m: f64,
}

/// All that was measured. A floor point gives two equations, a length one, an upright two.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evidence {
    /// Points of the floor. Without any the floor's origin is below the camera, and y is where it looks.
    pub points: Vec<FloorPoint>,
    /// Lengths on the floor.
    pub lengths: Vec<KnownLength>,
    /// Uprights.
    pub uprights: Vec<Upright>,
}

/// What of the lens is to be found as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unknowns {
    /// The focal length. That of the given lens is then only its shape: the ratio of `fy` to `fx`.
    pub focal: bool,
    /// The radial distortion.
    pub distortion: bool,
}

/// One piece of the evidence, by its place in its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// A floor point.
    Point(usize),
    /// A known length.
    Length(usize),
    /// An upright.
    Upright(usize),
}

impl fmt::Display for Item {
    /// As people count: from 1.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Point(index) => write!(f, "point {}", index + 1),
            Self::Length(index) => write!(f, "length {}", index + 1),
            Self::Upright(index) => write!(f, "upright {}", index + 1),
        }
    }
}

impl Evidence {
    /// All items: points, then lengths, then uprights. What is kept of each item is in this order.
    pub fn items(&self) -> Vec<Item> {
        let points = (0..self.points.len()).map(Item::Point);
        let lengths = (0..self.lengths.len()).map(Item::Length);
        points.chain(lengths).chain((0..self.uprights.len()).map(Item::Upright)).collect()
    }

    /// Equations that it gives.
    pub fn equations(&self) -> usize {
        2 * self.points.len() + self.lengths.len() + 2 * self.uprights.len()
    }

    /// The lengths that are wrong together, by their places in the list: one group for each assumption.
    pub(super) fn assumptions(&self) -> Vec<Vec<usize>> {
        let mut out: Vec<Vec<usize>> = Vec::new();
        for (index, length) in self.lengths.iter().enumerate().filter(|(_, length)| length.sigma_m > 0.0) {
            let same = |group: &&mut Vec<usize>| {
                let first = &self.lengths[group[0]];
                (first.length_m, first.sigma_m) == (length.length_m, length.sigma_m)
            };
            match out.iter_mut().find(same) {
                Some(group) => group.push(index),
                None => out.push(vec![index]),
            }
        }
        out
    }

    /// All of it but one item.
    pub(super) fn without(&self, item: Item) -> Self {
        let mut rest = self.clone();
        match item {
            Item::Point(index) => drop(rest.points.remove(index)),
            Item::Length(index) => drop(rest.lengths.remove(index)),
            Item::Upright(index) => drop(rest.uprights.remove(index)),
        }
        rest
    }
}
