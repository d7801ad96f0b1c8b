//! From what a person marked in a picture to patches. Pure.

use serde::{Deserialize, Serialize};

use crate::geometry::polygon;
use crate::types::{Grid, PixelTransform};

/// What was marked, in pixels of the picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// Points that lie on it.
    Clicks(Vec<[f64; 2]>),
    /// Left, top, right, bottom: it fills most of it.
    Box([f64; 4]),
    /// Its outline.
    Polygon(Vec<[f64; 2]>),
    /// The whole picture.
    Whole,
}

/// Samples a side of a patch when its cover is counted.
const SAMPLES: usize = 4;

impl Region {
    /// How much of each patch it covers, 0 to 1. A click covers the patch that it is in.
    pub fn cover(&self, grid: Grid, transform: &PixelTransform) -> Vec<f32> {
        let outline = match self {
            Self::Whole => return vec![1.0; grid.len()],
            Self::Clicks(points) => {
                let mut cover = vec![0.0; grid.len()];
                for patch in points.iter().filter_map(|point| patch_of(*point, grid, transform)) {
                    cover[patch] = 1.0;
                }
                return cover;
            }
            Self::Box([left, top, right, bottom]) => {
                vec![[*left, *top], [*right, *top], [*right, *bottom], [*left, *bottom]]
            }
            Self::Polygon(points) => points.clone(),
        };
        let side = grid.patch_px as f64 / SAMPLES as f64;
        (0..grid.len())
            .map(|patch| {
                let corner =
                    [(patch % grid.cols * grid.patch_px) as f64, (patch / grid.cols * grid.patch_px) as f64];
                let inside = (0..SAMPLES * SAMPLES).filter(|i| {
                    let x = corner[0] + ((i % SAMPLES) as f64 + 0.5) * side;
                    let y = corner[1] + ((i / SAMPLES) as f64 + 0.5) * side;
                    polygon::contains(&outline, transform.source_from_input([x, y]))
                });
                inside.count() as f32 / (SAMPLES * SAMPLES) as f32
            })
            .collect()
    }

    /// Why it cannot be used on a picture of this size, if so.
    pub fn problem(&self, width: u32, height: u32) -> Option<String> {
        let (w, h) = (f64::from(width), f64::from(height));
        let inside = |[x, y]: &[f64; 2]| (0.0..=w).contains(x) && (0.0..=h).contains(y);
        let outside = |points: &[[f64; 2]]| {
            let point = points.iter().find(|point| !inside(point))?;
            Some(format!(
                "({}, {}) is outside of the picture, which is {width} x {height}",
                point[0], point[1]
            ))
        };
        match self {
            Self::Whole => None,
            Self::Clicks(points) if points.is_empty() => Some("there is no click".to_owned()),
            Self::Clicks(points) => outside(points),
            Self::Box([left, top, right, bottom]) => {
                if left >= right || top >= bottom {
                    return Some(
                        "a box is LEFT,TOP,RIGHT,BOTTOM with LEFT < RIGHT and TOP < BOTTOM".to_owned(),
                    );
                }
                outside(&[[*left, *top], [*right, *bottom]])
            }
            Self::Polygon(points) if points.len() < 3 => {
                Some("an outline needs at least 3 points".to_owned())
            }
            Self::Polygon(points) => outside(points),
        }
    }
}

/// The patch that a point of the picture is in.
fn patch_of(point: [f64; 2], grid: Grid, transform: &PixelTransform) -> Option<usize> {
    let [x, y] = transform.input_from_source(point);
    if !(x >= 0.0 && y >= 0.0) {
        return None;
    }
    let (col, row) = ((x / grid.patch_px as f64) as usize, (y / grid.patch_px as f64) as usize);
    // A click on the last pixel's outer edge is on the last patch.
    let (col, row) = (col.min(grid.cols.checked_sub(1)?), row.min(grid.rows.checked_sub(1)?));
    Some(row * grid.cols + col)
}

/// Which patches lie mostly in the picture and not in its padding.
pub fn in_picture(grid: Grid, transform: &PixelTransform) -> Vec<bool> {
    let (w, h) = (f64::from(transform.source_width), f64::from(transform.source_height));
    let centre = |at: usize| (at as f64 + 0.5) * grid.patch_px as f64;
    (0..grid.len())
        .map(|patch| {
            let [x, y] = transform.source_from_input([centre(patch % grid.cols), centre(patch / grid.cols)]);
            (0.0..w).contains(&x) && (0.0..h).contains(&y)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::transform;
    use super::*;

    const GRID: Grid = Grid { rows: 2, cols: 3, patch_px: 14 };

    #[test]
    fn boxes_cover_patches_by_their_area() {
        // The picture is twice as large as the input: a patch is 28 pixels.
        let cover = Region::Box([28.0, 0.0, 70.0, 28.0]).cover(GRID, &transform(GRID));
        assert_eq!(cover, [0.0, 1.0, 0.5, 0.0, 0.0, 0.0]);
        let triangle = Region::Polygon(vec![[0.0, 0.0], [28.0, 28.0], [0.0, 28.0]]);
        let cover = triangle.cover(GRID, &transform(GRID));
        assert!((cover[0] - 0.5).abs() < 0.15 && cover[1..].iter().all(|c| *c == 0.0), "{cover:?}");
    }

    #[test]
    fn a_click_is_in_one_patch() {
        let cover = Region::Clicks(vec![[29.0, 30.0], [84.0, 56.0]]).cover(GRID, &transform(GRID));
        assert_eq!(cover, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn what_lies_outside_is_refused() {
        let says = |region: Region| region.problem(84, 56).unwrap();
        assert!(says(Region::Clicks(vec![[85.0, 1.0]])).contains("(85, 1) is outside of the picture"));
        assert!(says(Region::Clicks(vec![[f64::NAN, 1.0]])).contains("outside"));
        assert!(says(Region::Box([5.0, 5.0, 5.0, 9.0])).contains("LEFT < RIGHT"));
        assert!(says(Region::Polygon(vec![[0.0, 0.0], [1.0, 1.0]])).contains("3 points"));
        assert_eq!(Region::Box([0.0, 0.0, 84.0, 56.0]).problem(84, 56), None);
    }
}
