//! Places of a view that can be found again: windows around corners of the empty scene, looked for by normalised cross
//! correlation, which half of the light or a veil does not change.

use super::thumb::Thumb;

/// Side of a window, points of the thumb.
pub(super) const SIDE: usize = 16;
/// How far a landmark is looked for, points of the thumb halved: 16 points of the thumb, 7 degrees of 70.
const REACH: isize = 8;
/// The lesser eigenvalue of a window's mean structure tensor (brightness squared) from which it has a corner: noise
/// of two codes in each sample leaves a tenth of this.
const CORNER: f32 = 1.5e-5;
/// Landmarks are at least so many points apart.
const APART: usize = 8;
/// The picture is divided into so many regions across and down, and each has at most so many landmarks, so that one
/// rich shelf is not all that counts.
const REGIONS: (usize, usize) = (4, 3);
const IN_REGION: usize = 6;
/// A window of the picture that varies less than this (brightness, standard deviation) shows nothing: dark, covered.
const BLIND: f32 = 1.6 / 219.0;
/// Correlation from which a landmark is found.
const FOUND: f32 = 0.7;
/// A landmark counts as in its place when it correlates there nearly as well as anywhere.
const NEARLY: f32 = 0.03;
/// Share of the picture's height, above and below, in which cameras write the time and their name: that stays in its
/// place wherever the camera looks. Two lines of 5 % each, and what they stand off the border.
const RIM: f32 = 0.13;
/// A window that looks like itself from so many points of the halved thumb on, such as one on a long edge, is in its
/// place after many a turn.
const OWN: usize = 3;
/// Correlation from which it looks like itself.
const ALIKE: f32 = 0.9;

/// One landmark: where its window lies, and what it looks like.
#[derive(Debug, Clone, PartialEq)]
struct Landmark {
    x: usize,
    y: usize,
    fine: Template,
    coarse: Template,
    /// Whether being in its place says that the camera was not moved.
    sure: bool,
}

/// A window with its mean taken away and its energy 1.
#[derive(Debug, Clone, PartialEq)]
struct Template(Vec<f32>);

/// The landmarks of a view.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Landmarks {
    pub cols: usize,
    pub rows: usize,
    list: Vec<Landmark>,
}

/// A landmark that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Found {
    /// Its place, points of the thumb from the picture's middle.
    pub at: [f32; 2],
    /// How far it moved, points of the thumb.
    pub by: [f32; 2],
    /// Whether it would not look so by chance, or wherever the camera looks.
    pub sure: bool,
}

/// What a look for all landmarks gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Search {
    /// Landmarks where the picture shows anything at all.
    pub visible: usize,
    /// The places of those of them that are sure, points of the thumb from the picture's middle.
    pub sure: Vec<[f32; 2]>,
    /// Those that were found.
    pub found: Vec<Found>,
}

impl Landmarks {
    /// The corners of a scene.
    pub fn of(scene: &Thumb) -> Self {
        let mut corners = Vec::new();
        for y in (0..(scene.rows + 1).saturating_sub(SIDE)).step_by(2) {
            for x in (0..(scene.cols + 1).saturating_sub(SIDE)).step_by(2) {
                corners.push((corner(scene, x, y), x, y));
            }
        }
        corners.retain(|(strength, ..)| *strength > CORNER);
        corners.sort_by(|a, b| b.0.total_cmp(&a.0));
        let half = scene.half();
        let mut list: Vec<Landmark> = Vec::new();
        let mut taken = [0; REGIONS.0 * REGIONS.1];
        for (_, x, y) in corners {
            let across = ((x + SIDE / 2) * REGIONS.0 / scene.cols.max(1)).min(REGIONS.0 - 1);
            let down = ((y + SIDE / 2) * REGIONS.1 / scene.rows.max(1)).min(REGIONS.1 - 1);
            let Some(taken) = taken.get_mut(down * REGIONS.0 + across) else { continue };
            let near = |l: &Landmark| l.x.abs_diff(x) < APART && l.y.abs_diff(y) < APART;
            if *taken >= IN_REGION || list.iter().any(near) {
                continue;
            }
            let windows = (template(scene, x, y, SIDE), template(&half, x / 2, y / 2, SIDE / 2));
            if let (Some(fine), Some(coarse)) = windows {
                *taken += 1;
                let sure = !is_in_rim(y, scene.rows) && is_alone(&coarse, &half, x / 2, y / 2);
                list.push(Landmark { x, y, fine, coarse, sure });
            }
        }
        Self { cols: scene.cols, rows: scene.rows, list }
    }

    /// Keeps those that are in their place in at least a share of these pictures.
    pub fn keep_steady(&mut self, pictures: &[Thumb], share: f32) {
        let halves: Vec<Thumb> = pictures.iter().map(Thumb::half).collect();
        self.list.retain(|landmark| {
            let steady = pictures.iter().zip(&halves).filter(|(picture, half)| {
                landmark.find(picture, half).is_some_and(|[dx, dy]| dx.hypot(dy) < 1.5)
            });
            steady.count() as f32 >= share * pictures.len() as f32
        });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// How many are sure.
    pub fn sure(&self) -> usize {
        self.list.iter().filter(|landmark| landmark.sure).count()
    }

    /// Looks for all of them in a picture of the same size.
    pub fn search(&self, picture: &Thumb) -> Search {
        let half = picture.half();
        let mut search = Search::default();
        for landmark in &self.list {
            if spread(picture, landmark.x, landmark.y) < BLIND {
                continue;
            }
            let middle = |start: usize, size: usize| (start + SIDE / 2) as f32 - size as f32 / 2.0;
            let at = [middle(landmark.x, self.cols), middle(landmark.y, self.rows)];
            search.visible += 1;
            search.sure.extend(landmark.sure.then_some(at));
            if let Some(by) = landmark.find(picture, &half) {
                search.found.push(Found { at, by, sure: landmark.sure });
            }
        }
        search
    }
}

impl Landmark {
    fn find(&self, picture: &Thumb, half: &Thumb) -> Option<[f32; 2]> {
        let here = self.around(picture, [0, 0], 1);
        // Nothing can be so much better that it would count: most landmarks, most of the time.
        if let Some((score, by)) = here
            && score >= 1.0 - NEARLY
        {
            return Some(by);
        }
        let mut best = (f32::MIN, [0, 0]);
        for dy in -REACH..=REACH {
            for dx in -REACH..=REACH {
                let at = moved(self.x / 2, dx).zip(moved(self.y / 2, dy));
                let score = at.map_or(f32::MIN, |(x, y)| self.coarse.correlation(half, x, y));
                if score > best.0 {
                    best = (score, [dx, dy]);
                }
            }
        }
        let there = self.around(picture, best.1.map(|d| 2 * d), 2);
        match (here, there) {
            (Some((score, by)), Some((better, _))) if score >= better - NEARLY && score >= FOUND => Some(by),
            (Some((score, by)), None) if score >= FOUND => Some(by),
            (_, Some((score, by))) if score >= FOUND => Some(by),
            _ => None,
        }
    }

    /// The best correlation within `reach` points of a displacement, and where it is, to a fraction of a point.
    fn around(&self, picture: &Thumb, about: [isize; 2], reach: isize) -> Option<(f32, [f32; 2])> {
        let at = |dx: isize, dy: isize| {
            let (x, y) = moved(self.x, about[0] + dx).zip(moved(self.y, about[1] + dy))?;
            Some(self.fine.correlation(picture, x, y)).filter(|score| *score > f32::MIN)
        };
        let mut best: Option<(f32, isize, isize)> = None;
        for dy in -reach..=reach {
            for dx in -reach..=reach {
                if let Some(score) = at(dx, dy)
                    && best.is_none_or(|(most, ..)| score > most)
                {
                    best = Some((score, dx, dy));
                }
            }
        }
        let (score, dx, dy) = best?;
        let part = |before: Option<f32>, after: Option<f32>| match (before, after) {
            (Some(a), Some(b)) => peak(a, score, b),
            _ => 0.0,
        };
        let fraction = [part(at(dx - 1, dy), at(dx + 1, dy)), part(at(dx, dy - 1), at(dx, dy + 1))];
        let whole = [about[0] + dx, about[1] + dy];
        Some((score, [whole[0] as f32 + fraction[0], whole[1] as f32 + fraction[1]]))
    }
}

impl Template {
    /// With the window at a place, -1 to 1; the least number where there is none.
    fn correlation(&self, picture: &Thumb, x: usize, y: usize) -> f32 {
        let side = if self.0.len() == SIDE * SIDE { SIDE } else { SIDE / 2 };
        let (mut sum, mut squares, mut product, mut count) = (0.0, 0.0, 0.0, 0usize);
        for (row, mine) in picture.window(x, y, side).zip(self.0.chunks_exact(side)) {
            for (value, own) in row.iter().zip(mine) {
                sum += value;
                squares += value * value;
                product += value * own;
            }
            count += side;
        }
        if count < self.0.len() {
            return f32::MIN;
        }
        let energy = squares - sum * sum / count as f32;
        if energy > count as f32 * BLIND * BLIND { product / energy.sqrt() } else { 0.0 }
    }
}

/// Whether a window reaches into where cameras write.
fn is_in_rim(y: usize, rows: usize) -> bool {
    let rim = RIM * rows as f32;
    (y as f32) < rim || (y + SIDE) as f32 > rows as f32 - rim
}

/// Whether a window looks like none of its surroundings.
fn is_alone(window: &Template, half: &Thumb, x: usize, y: usize) -> bool {
    let far = |dx: isize, dy: isize| dx.unsigned_abs().max(dy.unsigned_abs()) >= OWN;
    let around = (-REACH..=REACH).flat_map(|dy| (-REACH..=REACH).map(move |dx| (dx, dy)));
    around.filter(|(dx, dy)| far(*dx, *dy)).all(|(dx, dy)| {
        let at = moved(x, dx).zip(moved(y, dy));
        at.is_none_or(|(x, y)| window.correlation(half, x, y) < ALIKE)
    })
}

fn moved(from: usize, by: isize) -> Option<usize> {
    from.checked_add_signed(by)
}

/// Where a parabola through three values, the middle one the largest, has its peak: -0.5 to 0.5.
fn peak(before: f32, middle: f32, after: f32) -> f32 {
    let bend = before - 2.0 * middle + after;
    if bend < 0.0 { (0.5 * (before - after) / bend).clamp(-0.5, 0.5) } else { 0.0 }
}

fn template(thumb: &Thumb, x: usize, y: usize, side: usize) -> Option<Template> {
    let mut values: Vec<f32> = thumb.window(x, y, side).flatten().copied().collect();
    if values.len() < side * side {
        return None;
    }
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let energy = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>().sqrt();
    if energy <= 0.0 {
        return None;
    }
    for value in &mut values {
        *value = (*value - mean) / energy;
    }
    Some(Template(values))
}

/// Standard deviation within a window.
fn spread(thumb: &Thumb, x: usize, y: usize) -> f32 {
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
    for value in thumb.window(x, y, SIDE).flatten() {
        sum += value;
        squares += value * value;
        count += 1.0;
    }
    if count > 0.0 { (squares / count - (sum / count) * (sum / count)).max(0.0).sqrt() } else { 0.0 }
}

/// The lesser eigenvalue of a window's mean structure tensor: large where it varies both ways (Shi & Tomasi, 1994).
fn corner(thumb: &Thumb, x: usize, y: usize) -> f32 {
    let rows: Vec<&[f32]> = thumb.window(x, y, SIDE).collect();
    let (mut xx, mut xy, mut yy, mut count) = (0.0, 0.0, 0.0, 0.0f32);
    for pair in rows.windows(2) {
        let [above, below] = pair else { continue };
        for i in 1..SIDE {
            let (gx, gy) = (above[i] - above[i - 1], below[i] - above[i]);
            xx += gx * gx;
            xy += gx * gy;
            yy += gy * gy;
            count += 1.0;
        }
    }
    let (xx, xy, yy) = (xx / count.max(1.0), xy / count.max(1.0), yy / count.max(1.0));
    let half = (xx + yy) / 2.0;
    half - ((xx - yy) * (xx - yy) / 4.0 + xy * xy).sqrt()
}
