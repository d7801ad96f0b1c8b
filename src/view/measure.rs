//! What one picture is like, tile by tile: brightness, contrast, detail, and how much of it lives.

use super::cells::Cells;

/// A tile lives when more than this share of its cells changed since the picture before. A decoder repeats a
/// block that the encoder skipped bit by bit, so a dead tile has no change at all; the rest is for broken bits.
const ALIVE: f32 = 0.01;

/// The noise that is taken away from the detail is at most this (brightness squared; a standard deviation of
/// 1 code of a cell): what is above it is not noise, but a shaking camera.
const MOST_NOISE: f32 = 4.0 / (219.0 * 219.0);

/// What is left within this share of the noise is noise as well: its energy scatters by a tenth from tile to tile.
/// On something dark it would look like much detail beside the little light.
const NOISE_SCATTERS: f32 = 0.3;
/// Less energy than this is no detail at all (brightness squared; 0.4 codes squared): a plain surface that gets
/// brighter across the picture in whole codes has half of it, detail at a fifth of the light has more.
const PLAIN: f32 = 0.4 / (219.0 * 219.0);

/// Brightness that is added where something is divided by it, so that black divides too: 8 codes.
pub(super) const NEAR_BLACK: f32 = 8.0 / 219.0;

/// One tile of one picture, or what it normally is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Tile {
    /// Mean brightness, 0 to 1.
    pub mean: f32,
    /// Standard deviation over mean: the same at half the light.
    pub contrast: f32,
    /// Energy of the differences between neighbouring cells, less noise, over the mean squared.
    pub detail: f32,
}

impl Tile {
    /// The energy itself, brightness squared.
    pub fn energy(&self) -> f32 {
        self.detail * divisor(self.mean).powi(2)
    }
}

/// One picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measured {
    pub tiles: Vec<Tile>,
    /// Brightness that 5, 50 and 95 % of the picture stay below.
    pub p5: f32,
    pub p50: f32,
    pub p95: f32,
    /// Share of tiles that live, when there was a picture before.
    pub alive: Option<f32>,
}

impl Measured {
    /// How far dark and bright are apart.
    pub fn spread(&self) -> f32 {
        self.p95 - self.p5
    }
}

fn divisor(mean: f32) -> f32 {
    mean.max(0.0) + NEAR_BLACK
}

/// Measures a picture, beside the one before it.
pub(super) fn measure(cells: &Cells, before: Option<&Cells>) -> Measured {
    let before = before.filter(|before| before.matches(cells));
    let (across, down) = cells.tiles();
    let places = (0..down).flat_map(|row| (0..across).map(move |col| (col, row)));
    let moved: Vec<Moved> = before
        .map(|before| places.clone().map(|place| change(cells, before, place)).collect())
        .unwrap_or_default();
    let noise = noise(&moved);
    // Dark places are quieter than bright ones, so each tile has its own; what moves in it says no more than double.
    let noise_of =
        |index: usize| moved.get(index).map_or(0.0, |moved| (moved.energy / 2.0).clamp(noise, 2.0 * noise));
    let tiles = places.enumerate().map(|(index, place)| tile(cells, place, noise_of(index))).collect();
    let alive = before
        .map(|_| moved.iter().filter(|moved| moved.share > ALIVE).count() as f32 / moved.len().max(1) as f32);
    let [p5, p50, p95] = percentiles(cells);
    Measured { tiles, p5, p50, p95, alive }
}

fn tile(cells: &Cells, (col, row): (usize, usize), noise: f32) -> Tile {
    let (mut sum, mut squares, mut count) = (0u64, 0u64, 0u64);
    for value in cells.tile(col, row).flatten() {
        sum += u64::from(*value);
        squares += u64::from(*value) * u64::from(*value);
        count += 1;
    }
    let count = count.max(1) as f64;
    let mean_sum = sum as f64 / count;
    let variance = (squares as f64 / count - mean_sum * mean_sum).max(0.0) as f32;
    let unit = cells.unit();
    let mean = cells.brightness(mean_sum as f32);
    let energy = gradient(cells.tile(col, row).map(|line| line.iter().map(|value| i32::from(*value))));
    let least = PLAIN.max(NOISE_SCATTERS * noise);
    let energy = Some(energy * unit * unit - noise).filter(|left| *left > least).unwrap_or(0.0);
    let divisor = divisor(mean);
    Tile { mean, contrast: variance.sqrt() * unit / divisor, detail: energy / (divisor * divisor) }
}

/// What changed in a tile.
struct Moved {
    /// Share of its cells.
    share: f32,
    /// Energy of the differences between neighbours in the change.
    energy: f32,
}

fn change(cells: &Cells, before: &Cells, (col, row): (usize, usize)) -> Moved {
    let pairs = || cells.tile(col, row).zip(before.tile(col, row));
    let (mut changed, mut count) = (0u32, 0u32);
    for (now, then) in pairs() {
        changed += now.iter().zip(then).map(|(now, then)| u32::from(now != then)).sum::<u32>();
        count += now.len() as u32;
    }
    let energy = if changed == 0 {
        0.0
    } else {
        let lines = pairs()
            .map(|(now, then)| now.iter().zip(then).map(|(now, then)| i32::from(*now) - i32::from(*then)));
        gradient(lines) * cells.unit() * cells.unit()
    };
    Moved { share: changed as f32 / count.max(1) as f32, energy }
}

/// The energy that noise adds to every tile, at least: a difference of two pictures has twice that of one. The
/// quietest fifth of the tiles says it, because things move in the others.
fn noise(moved: &[Moved]) -> f32 {
    let mut energies: Vec<f32> = moved.iter().map(|moved| moved.energy / 2.0).collect();
    energies.sort_by(f32::total_cmp);
    energies.get(energies.len() / 5).copied().unwrap_or(0.0).min(MOST_NOISE)
}

/// Mean square of the differences to the right neighbour plus that to the one below.
fn gradient<L: Iterator<Item = i32> + Clone>(lines: impl Iterator<Item = L>) -> f32 {
    let (mut across, mut across_count, mut down, mut down_count) = (0u64, 0u64, 0u64, 0u64);
    let square =
        |difference: i32| u64::from(difference.unsigned_abs()) * u64::from(difference.unsigned_abs());
    let mut above: Option<L> = None;
    for line in lines {
        for (left, right) in line.clone().zip(line.clone().skip(1)) {
            across += square(right - left);
            across_count += 1;
        }
        if let Some(above) = above.replace(line.clone()) {
            for (above, below) in above.zip(line) {
                down += square(below - above);
                down_count += 1;
            }
        }
    }
    across as f32 / across_count.max(1) as f32 + down as f32 / down_count.max(1) as f32
}

fn percentiles(cells: &Cells) -> [f32; 3] {
    // Sums go up to 4 samples of 255.
    let mut histogram = [0u32; 4 * 255 + 1];
    for sum in cells.sums() {
        if let Some(count) = histogram.get_mut(usize::from(*sum)) {
            *count += 1;
        }
    }
    let total = cells.sums().len() as f32;
    [0.05, 0.5, 0.95].map(|share| {
        let mut below = 0u32;
        let found = histogram.iter().position(|count| {
            below += count;
            below as f32 >= share * total
        });
        cells.brightness(found.unwrap_or(0) as f32)
    })
}

#[cfg(test)]
mod tests {
    use super::super::test::{Noise, frame, grey};
    use super::*;

    fn measured(make: impl Fn(u32, u32) -> u8) -> Measured {
        measure(&Cells::of(&frame(640, 360, make)).unwrap(), None)
    }

    #[test]
    fn half_the_light_changes_neither_contrast_nor_detail() {
        let stripes = |x: u32, bright: u8, dark: u8| if (x / 4).is_multiple_of(2) { bright } else { dark };
        let full = measured(|x, _| stripes(x, 216, 116));
        let half = measured(|x, _| stripes(x, 116, 66));
        for (full, half) in full.tiles.iter().zip(&half.tiles) {
            assert!((full.contrast / half.contrast - 1.0).abs() < 0.1, "{full:?} {half:?}");
            assert!((full.detail / half.detail - 1.0).abs() < 0.2, "{full:?} {half:?}");
        }
    }

    #[test]
    fn noise_is_no_detail() {
        let picture = |noise: &mut Noise| {
            let mut frame = grey(640, 360, 120);
            noise.add(&mut frame, 2.0);
            Cells::of(&frame).unwrap()
        };
        let mut noise = Noise::new(1);
        let (before, after) = (picture(&mut noise), picture(&mut noise));
        let with = measure(&after, None);
        let without = measure(&after, Some(&before));
        let mean = |measured: &Measured| {
            measured.tiles.iter().map(|tile| tile.detail).sum::<f32>() / measured.tiles.len() as f32
        };
        assert!(mean(&without) < mean(&with) / 4.0, "{} {}", mean(&without), mean(&with));
        assert_eq!(without.alive, Some(1.0));
    }

    #[test]
    fn noise_on_something_dark_is_no_detail_either() {
        let mut noise = Noise::new(2);
        let mut picture = || {
            let mut frame = grey(640, 360, 26);
            noise.add(&mut frame, 1.0);
            Cells::of(&frame).unwrap()
        };
        let before = picture();
        let bare = measure(&picture(), Some(&before)).tiles.iter().filter(|tile| tile.detail == 0.0).count();
        assert!(bare > 130, "{bare} of 144");
    }

    #[test]
    fn the_same_picture_twice_is_dead_and_a_clock_in_it_lives_alone() {
        let texture = |x: u32, y: u32| 60 + ((x * 7 + y * 13) % 100) as u8;
        let before = Cells::of(&frame(640, 360, texture)).unwrap();
        assert_eq!(measure(&before, Some(&before)).alive, Some(0.0));
        let clock = |x, y| if x < 160 && y < 24 { 235 - texture(x, y) } else { texture(x, y) };
        let after = Cells::of(&frame(640, 360, clock)).unwrap();
        let alive = measure(&after, Some(&before)).alive.unwrap();
        assert!(alive > 0.0 && alive < 0.1, "{alive}");
    }

    #[test]
    fn percentiles_are_brightness() {
        let measured = measured(|x, _| if x < 64 { 16 } else { 235 });
        let off = measured.p5.abs() + (measured.p50 - 1.0).abs() + (measured.p95 - 1.0).abs();
        assert!(off < 1e-5, "{off}");
    }
}
