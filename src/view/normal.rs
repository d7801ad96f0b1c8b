//! What a camera's view normally is, learned slowly, and how a picture differs from it.
//!
//! A fault is not learned away: nothing is learned from a picture that shows a fault or has lost a third of the
//! detail, what is learned has a time constant of ten minutes, and a lens that dims over days may take at most
//! half of the detail that commissioning (or, without it, the first pictures) found; then learning downwards ends.

use std::time::Duration;

use super::measure::{Measured, NEAR_BLACK, Tile};

/// A tile has enough detail to be missed above this energy (brightness squared): 12 codes squared, well above
/// what noise and encoders leave on a blank wall.
const STRONG: f32 = 12.0 / (219.0 * 219.0);
/// A tile has some texture above this energy: asphalt, a rough wall. An encoder may smooth it away, so that it
/// says nothing alone.
const FAINT: f32 = 2.0 / (219.0 * 219.0);
/// With fewer strong tiles a view has too little in it to tell.
pub(super) const FEWEST: usize = 6;
/// A tile has lost its detail below this share of the normal energy. A blur of 1 % of the picture's width and
/// a veil of 60 % go below it; half the light, a blur of 0.4 % and a veil of 40 % do not.
const LOST: f32 = 0.15;
/// Time constant of learning.
const LEARNING: Duration = Duration::from_secs(600);
/// A gap longer than this counts as so long.
const LONGEST_STEP: Duration = Duration::from_secs(1);
/// How little of the first detail learning may leave.
const LEAST_LEFT: f32 = 0.5;

/// What a view normally is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Normal {
    tiles: Vec<Tile>,
    spread: f32,
    /// Detail of each tile when it began.
    first: Vec<f32>,
}

/// How a picture differs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Difference {
    /// Share of the tiles with detail that have lost it.
    pub lost: f32,
    /// The same of all tiles with any texture, faint ones too.
    pub bare: f32,
    /// Correlation of the tiles' brightness: whether light and dark are where they were.
    pub likeness: f32,
    /// Median share of contrast that the tiles with detail still have.
    pub contrast: f32,
    /// Share of the distance between dark and bright that is left.
    pub spread: f32,
}

impl Normal {
    /// From tiles that were found before.
    pub fn new(tiles: Vec<Tile>, spread: f32) -> Self {
        let first = tiles.iter().map(|tile| tile.detail).collect();
        Self { tiles, spread, first }
    }

    fn strong(&self) -> impl Iterator<Item = (usize, &Tile)> {
        self.tiles.iter().enumerate().filter(|(_, tile)| tile.energy() > STRONG)
    }

    /// How many tiles have enough detail to be missed.
    pub fn strong_tiles(&self) -> usize {
        self.strong().count()
    }

    /// Compares. None when the view has too little detail, or is divided into other tiles.
    pub fn compare(&self, measured: &Measured) -> Option<Difference> {
        if measured.tiles.len() != self.tiles.len() {
            return None;
        }
        let pairs: Vec<(&Tile, &Tile)> = self
            .strong()
            .filter_map(|(index, normal)| measured.tiles.get(index).map(|tile| (normal, tile)))
            .collect();
        if pairs.len() < FEWEST {
            return None;
        }
        let has_lost = |(normal, tile): &(&Tile, &Tile)| tile.detail < LOST * normal.detail;
        let share = |pairs: &[(&Tile, &Tile)]| {
            pairs.iter().filter(|pair| has_lost(pair)).count() as f32 / pairs.len() as f32
        };
        let textured: Vec<(&Tile, &Tile)> =
            self.tiles.iter().zip(&measured.tiles).filter(|(normal, _)| normal.energy() > FAINT).collect();
        let contrasts = pairs.iter().map(|(normal, tile)| tile.contrast / normal.contrast.max(1e-6));
        Some(Difference {
            lost: share(&pairs),
            bare: share(&textured),
            likeness: correlation(&self.tiles, &measured.tiles),
            contrast: median(contrasts.collect()),
            spread: measured.spread() / self.spread.max(NEAR_BLACK),
        })
    }

    /// Takes a little of a good picture, `step` after the one before.
    pub fn learn(&mut self, measured: &Measured, step: Duration) {
        if measured.tiles.len() != self.tiles.len() {
            return;
        }
        let share = 1.0 - (-step.min(LONGEST_STEP).as_secs_f32() / LEARNING.as_secs_f32()).exp();
        let mix = |old: &mut f32, new: f32| *old += share * (new - *old);
        let left = self.strong().filter_map(|(index, tile)| {
            self.first.get(index).filter(|first| **first > 0.0).map(|first| tile.detail / first)
        });
        let may_fall = median(left.collect()) > LEAST_LEFT;
        for (normal, tile) in self.tiles.iter_mut().zip(&measured.tiles) {
            mix(&mut normal.mean, tile.mean);
            mix(&mut normal.contrast, tile.contrast);
            if may_fall || tile.detail > normal.detail {
                mix(&mut normal.detail, tile.detail);
            }
        }
        mix(&mut self.spread, measured.spread());
    }
}

/// Median of each tile over several pictures; none of none.
pub(super) fn typical(pictures: &[Measured]) -> Option<Normal> {
    let tiles = pictures.first()?.tiles.len();
    let of = |index: usize, value: fn(&Tile) -> f32| {
        median(pictures.iter().filter_map(|picture| picture.tiles.get(index)).map(value).collect())
    };
    let tile = |index| Tile {
        mean: of(index, |tile| tile.mean),
        contrast: of(index, |tile| tile.contrast),
        detail: of(index, |tile| tile.detail),
    };
    let spread = median(pictures.iter().map(Measured::spread).collect());
    Some(Normal::new((0..tiles).map(tile).collect(), spread))
}

impl Normal {
    /// The tiles and the spread, to be kept.
    pub fn parts(&self) -> (&[Tile], f32) {
        (&self.tiles, self.spread)
    }
}

/// The middle value; 1 of none.
pub(super) fn median(mut values: Vec<f32>) -> f32 {
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(1.0)
}

fn correlation(a: &[Tile], b: &[Tile]) -> f32 {
    let count = a.len().max(1) as f32;
    let mean = |tiles: &[Tile]| tiles.iter().map(|tile| tile.mean).sum::<f32>() / count;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a.mean - mean_a, b.mean - mean_b);
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    if aa * bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(detail: f32) -> Measured {
        let tile = |index: usize| Tile { mean: 0.2 + 0.05 * index as f32, contrast: 0.3, detail };
        Measured { tiles: (0..12).map(tile).collect(), p5: 0.1, p50: 0.5, p95: 0.9, alive: None }
    }

    #[test]
    fn the_median_of_pictures_is_typical() {
        let normal = typical(&[picture(0.1), picture(0.2), picture(9.0)]).unwrap();
        let same = normal.compare(&picture(0.2)).unwrap();
        assert_eq!((same.lost, normal.strong_tiles()), (0.0, 12));
        assert!((same.likeness - 1.0).abs() < 1e-5 && (same.spread - 1.0).abs() < 1e-5);
        assert_eq!(normal.compare(&picture(0.02)).unwrap().lost, 1.0);
        assert!(typical(&[]).is_none());
    }

    #[test]
    fn a_blank_view_is_not_compared() {
        assert!(typical(&[picture(1e-6)]).unwrap().compare(&picture(1e-6)).is_none());
    }

    #[test]
    fn a_view_that_changes_slowly_is_followed_but_its_dimming_only_by_half() {
        let mut normal = typical(&[picture(0.4)]).unwrap();
        for _ in 0..36_000 {
            normal.learn(&picture(0.04), Duration::from_millis(100));
        }
        let detail = normal.parts().0[0].detail;
        assert!((0.19..0.21).contains(&detail), "{detail}");
        for _ in 0..36_000 {
            normal.learn(&picture(0.4), Duration::from_millis(100));
        }
        assert!(normal.parts().0[0].detail > 0.38);
    }
}
