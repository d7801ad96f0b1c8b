//! The turn and zoom of a camera that displaces landmarks as they were found displaced.
//!
//! A camera that turns about its own centre displaces the picture by a homography whatever the scene is (Hartley &
//! Zisserman, 2nd ed., 8.4); for a few degrees it is linear in the angles.

use super::landmarks::Found;

/// How far a landmark may lie from where the turn puts it, points of the thumb.
const TOLERANCE: f32 = 1.0;
/// Pairs of landmarks that are tried.
const TRIALS: usize = 160;

/// How the camera turned and zoomed, radians and share.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Turn {
    /// To the right and down positive: where the picture's content goes; about the axis; share of the focal length.
    pub parts: [f32; 4],
}

impl Turn {
    /// Displacement of a place, both in units of the focal length.
    fn displaces(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let [pan, tilt, roll, zoom] = self.parts;
        [
            pan * (1.0 + x * x) + tilt * x * y - roll * y + zoom * x,
            pan * x * y + tilt * (1.0 + y * y) + roll * x + zoom * y,
        ]
    }
}

fn length([x, y]: [f32; 2]) -> f32 {
    x.hypot(y)
}

fn scaled(v: [f32; 2], focal: f32) -> [f32; 2] {
    v.map(|x| x / focal)
}

/// How many of the landmarks lie where the turn puts them. `focal`: focal length in points of the thumb.
pub(super) fn agreeing(found: &[Found], turn: &Turn, focal: f32) -> usize {
    found.iter().filter(|one| agrees(one, turn, focal)).count()
}

/// Whether one does.
pub(super) fn agrees(one: &Found, turn: &Turn, focal: f32) -> bool {
    let (want, is) = (turn.displaces(scaled(one.at, focal)), scaled(one.by, focal));
    length([want[0] - is[0], want[1] - is[1]]) * focal <= TOLERANCE
}

/// The turn of those meant that most landmarks agree with (RANSAC, Fischler & Bolles, 1981: pairs of them, always the
/// same ones, so that the same picture gives the same answer), then fitted to all of these.
pub(super) fn best(found: &[Found], focal: f32, is_meant: impl Fn(&Turn) -> bool) -> Option<Turn> {
    let mut best: Option<(Turn, usize)> = None;
    let mut state = 0x2545_f491_u32;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below.max(1)
    };
    for _ in 0..TRIALS {
        let pair = [found.get(draw(found.len())), found.get(draw(found.len()))];
        let [Some(a), Some(b)] = pair else { return None };
        let apart = length([a.at[0] - b.at[0], a.at[1] - b.at[1]]);
        if apart < 20.0 {
            continue;
        }
        let Some(turn) = fitted(&[*a, *b], focal).filter(&is_meant) else { continue };
        let count = agreeing(found, &turn, focal);
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((turn, count));
        }
    }
    let (mut turn, mut count) = best?;
    for _ in 0..3 {
        let inliers: Vec<Found> = found.iter().filter(|one| agrees(one, &turn, focal)).copied().collect();
        let Some(next) = fitted(&inliers, focal).filter(&is_meant) else { break };
        let next_count = agreeing(found, &next, focal);
        if next_count < count {
            break;
        }
        (turn, count) = (next, next_count);
    }
    Some(turn)
}

/// Least squares over the four parts.
fn fitted(found: &[Found], focal: f32) -> Option<Turn> {
    let mut a = [[0.0f32; 5]; 4];
    for one in found {
        let ([x, y], d) = (scaled(one.at, focal), scaled(one.by, focal));
        for (row, is) in [([1.0 + x * x, x * y, -y, x], d[0]), ([x * y, 1.0 + y * y, x, y], d[1])] {
            for i in 0..4 {
                for j in 0..4 {
                    a[i][j] += row[i] * row[j];
                }
                a[i][4] += row[i] * is;
            }
        }
    }
    // Gauss and Jordan: four unknowns, well conditioned when the landmarks are apart.
    for i in 0..4 {
        let pivot = (i..4).max_by(|p, q| a[*p][i].abs().total_cmp(&a[*q][i].abs()))?;
        a.swap(i, pivot);
        if a[i][i].abs() < 1e-6 {
            return None;
        }
        let pivot = a[i];
        for (_, row) in a.iter_mut().enumerate().filter(|(k, _)| *k != i) {
            let factor = row[i] / pivot[i];
            for (x, p) in row.iter_mut().zip(pivot).skip(i) {
                *x -= factor * p;
            }
        }
    }
    Some(Turn { parts: [0, 1, 2, 3].map(|i| a[i][4] / a[i][i]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_found_among_landmarks_that_follow_none() {
        let focal = 110.0;
        let truth = Turn { parts: [0.03, -0.02, 0.04, 0.05] };
        let mut found = vec![];
        for row in -3i16..=3 {
            for col in -6i16..=6 {
                let at = [f32::from(col) * 12.0, f32::from(row) * 12.0];
                let by = truth.displaces(scaled(at, focal)).map(|d| d * focal);
                // Every third one is something that goes its own way.
                let stray = (col + 7 * row).rem_euclid(3) == 0;
                let by = if stray { [f32::from(row) * 3.0, f32::from(col)] } else { by };
                found.push(Found { at, by, sure: true });
            }
        }
        let got = best(&found, focal, |_| true).unwrap();
        for (is, want) in got.parts.iter().zip(truth.parts) {
            assert!((is - want).abs() < 0.003, "{got:?}");
        }
        assert!(agreeing(&found, &got, focal) >= 60 && agreeing(&found, &Turn::default(), focal) < 15);
        assert!(best(&found[..1], focal, |_| true).is_none() && best(&[], focal, |_| true).is_none());
        let small = best(&found, focal, |turn| turn.parts[0].abs() < 0.01);
        assert!(small.is_none_or(|small| agreeing(&found, &small, focal) < 20), "{small:?}");
    }
}
