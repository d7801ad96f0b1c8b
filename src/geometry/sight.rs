//! What the camera sees of a thing, as rays: bearings of its sides, its lower outline, its patches.

use crate::types::{Grid, Mask, PixelTransform, Thing};

use super::camera::Camera;
use super::vector::dot2;

/// A ray told by its direction seen from above and how steeply it falls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ray {
    /// Horizontal direction away from the camera, length 1.
    pub along: [f64; 2],
    /// Metres that it falls a metre of way; negative above the horizon.
    pub fall: f64,
    /// Horizontal metres a metre of depth along the camera's axis.
    pub reach: f64,
}

impl Ray {
    /// The ray through a point of the backbone's input.
    pub fn through(camera: &Camera, transform: &PixelTransform, input_px: [f64; 2]) -> Self {
        let [x, y, z] = camera.ray_from_pixel(transform.source_from_input(input_px));
        let reach = x.hypot(y).max(1e-9);
        Self { along: [x / reach, y / reach], fall: -z / reach, reach }
    }

    /// 90 degrees to the left of the ray, seen from above.
    pub fn aside(&self) -> [f64; 2] {
        [-self.along[1], self.along[0]]
    }

    /// Bearing to the right of a direction, radians.
    pub fn bearing_from(&self, forward: [f64; 2]) -> f64 {
        bearing(self.along, forward)
    }
}

/// Bearing of a point (relative to the camera's foot) to the right of a direction, radians.
pub fn bearing(point: [f64; 2], forward: [f64; 2]) -> f64 {
    (forward[1] * point[0] - forward[0] * point[1]).atan2(dot2(point, forward))
}

/// One column of a mask, where its lower end is the thing's own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Foot {
    /// The ray through the lower side of the column's lowest cell.
    pub ray: Ray,
}

/// What is seen of a thing.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Rays through the left and right sides of the mask's rows: left ones.
    pub left: Vec<Ray>,
    /// Right ones.
    pub right: Vec<Ray>,
    /// Lower ends of columns that border on floor.
    pub feet: Vec<Foot>,
}

/// At most so many columns are used: neighbours say nearly the same.
const MAX_FEET: usize = 20;

impl Sight {
    /// Follows the mask's outline.
    pub fn of(thing: &Thing, camera: &Camera, transform: &PixelTransform) -> Self {
        let mask = &thing.mask;
        let at = |x: f64, y: f64| {
            let input = [(mask.left as f64 + x) * mask.cell_px, (mask.top as f64 + y) * mask.cell_px];
            Ray::through(camera, transform, input)
        };
        let mut left = Vec::with_capacity(mask.height);
        let mut right = Vec::with_capacity(mask.height);
        for row in 0..mask.height {
            let cells = &mask.cells[row * mask.width..(row + 1) * mask.width];
            if let (Some(first), Some(last)) = (cells.iter().position(|c| *c), cells.iter().rposition(|c| *c))
            {
                left.push(at(first as f64, row as f64 + 0.5));
                right.push(at(last as f64 + 1.0, row as f64 + 0.5));
            }
        }
        let lows: Vec<(usize, usize)> = (0..mask.width)
            .filter(|col| thing.meets_floor.get(*col).copied().unwrap_or(false))
            .filter_map(|col| lowest(mask, col).map(|row| (col, row)))
            .collect();
        let stride = lows.len().div_ceil(MAX_FEET).max(1);
        let feet = lows
            .iter()
            .skip((stride - 1) / 2)
            .step_by(stride)
            .map(|&(col, row)| Foot { ray: at(col as f64 + 0.5, row as f64 + 1.0) })
            .collect();
        Self { left, right, feet }
    }

    /// Bearings of the mask's left and right sides from a direction, radians.
    pub fn extent(&self, forward: [f64; 2]) -> Option<(f64, f64)> {
        let left = self.left.iter().map(|r| r.bearing_from(forward)).min_by(f64::total_cmp)?;
        let right = self.right.iter().map(|r| r.bearing_from(forward)).max_by(f64::total_cmp)?;
        Some((left, right))
    }
}

fn lowest(mask: &Mask, col: usize) -> Option<usize> {
    (0..mask.height).rev().find(|row| mask.cells[row * mask.width + col])
}

/// The ray through the centre of a patch.
pub fn patch_ray(camera: &Camera, transform: &PixelTransform, grid: Grid, col: usize, row: usize) -> Ray {
    let side = grid.patch_px as f64;
    Ray::through(camera, transform, [(col as f64 + 0.5) * side, (row as f64 + 0.5) * side])
}
