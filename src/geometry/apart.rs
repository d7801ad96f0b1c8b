//! Tells things apart that the picture shows as one: the patches of two forklifts side by side make one mask, but they
//! say of two places on the floor that they stand there.

use crate::types::{Mask, Thing};

use super::footprint::{View, place_of};
use super::sizes;
use super::vector::{norm2, sub2};

/// Both parts must have this share of the patches.
const LEAST_SHARE: f64 = 0.12;
/// The places must lie this many times farther apart than they scatter.
const LEAST_CONTRAST: f64 = 3.0;
/// Rounds of moving the two middles.
const ROUNDS: usize = 12;

/// The things that a mask shows: itself, or its parts.
pub fn apart(thing: &Thing, view: &View) -> Vec<Thing> {
    let Some(least_m) = sizes::least_apart_m(&thing.class) else { return vec![thing.clone()] };
    let mut whole = vec![thing.clone()];
    let mut done = vec![];
    while let Some(next) = whole.pop() {
        match split(&next, view, least_m) {
            Some(parts) if done.len() + whole.len() < 6 => whole.extend(parts),
            _ => done.push(next),
        }
    }
    done
}

/// Two parts whose places are apart; none when one place explains all.
fn split(thing: &Thing, view: &View, least_m: f64) -> Option<[Thing; 2]> {
    let places: Vec<([f64; 2], f64, f64)> = thing
        .votes
        .iter()
        .filter_map(|v| place_of(v, view).map(|(place, sigma)| (place, sigma, f64::from(v.cover).max(0.0))))
        .collect();
    if places.len() != thing.votes.len() || places.len() < 4 {
        return None;
    }
    let weight = |(_, sigma, cover): &([f64; 2], f64, f64)| cover / (sigma * sigma).max(1e-4);
    // From the two places that are farthest apart.
    let mut ends = (0, 0, 0.0);
    for i in 0..places.len() {
        for j in i + 1..places.len() {
            let d = norm2(sub2(places[i].0, places[j].0)) / (places[i].1 + places[j].1);
            if d > ends.2 {
                ends = (i, j, d);
            }
        }
    }
    let mut middles = [places[ends.0].0, places[ends.1].0];
    let nearer = |middles: &[[f64; 2]; 2], p: [f64; 2]| {
        usize::from(norm2(sub2(p, middles[1])) < norm2(sub2(p, middles[0])))
    };
    for _ in 0..ROUNDS {
        let mut sums = [([0.0; 2], 0.0); 2];
        for p in &places {
            let (sum, total) = &mut sums[nearer(&middles, p.0)];
            let w = weight(p);
            (0..2).for_each(|k| sum[k] += w * p.0[k]);
            *total += w;
        }
        for (middle, (sum, total)) in middles.iter_mut().zip(sums) {
            if total <= 0.0 {
                return None;
            }
            *middle = sum.map(|s| s / total);
        }
    }
    let of: Vec<usize> = places.iter().map(|p| nearer(&middles, p.0)).collect();
    let separation = norm2(sub2(middles[0], middles[1]));
    let all: f64 = places.iter().map(|p| p.2).sum();
    for (k, middle) in middles.iter().enumerate() {
        let own: Vec<_> = places.iter().zip(&of).filter(|(_, o)| **o == k).map(|(p, _)| p).collect();
        let cover: f64 = own.iter().map(|p| p.2).sum();
        let total: f64 = own.iter().map(|p| weight(p)).sum();
        let square: f64 = own.iter().map(|p| weight(p) * norm2(sub2(p.0, *middle)).powi(2)).sum();
        let scatter = (square / total).sqrt();
        if cover < LEAST_SHARE * all || separation < least_m.max(LEAST_CONTRAST * scatter) {
            return None;
        }
    }
    let part = |k: usize| {
        let votes: Vec<_> = thing.votes.iter().zip(&of).filter(|(_, o)| **o == k).map(|(v, _)| *v).collect();
        // A cell belongs to the patch that speaks for it, or to the nearest that does.
        let side = view.grid.patch_px as f64;
        let owner = |col: usize, row: usize| {
            let centre = [col, row].map(|i| (i as f64 + 0.5) * thing.mask.cell_px / side - 0.5);
            let distance = |v: &crate::types::SurfaceVote| {
                (v.col as f64 - centre[0]).powi(2) + (v.row as f64 - centre[1]).powi(2)
            };
            let nearest = (0..thing.votes.len())
                .min_by(|a, b| distance(&thing.votes[*a]).total_cmp(&distance(&thing.votes[*b])));
            nearest.map_or(0, |i| of[i])
        };
        cropped(thing, votes, |col, row| owner(col, row) == k)
    };
    Some([part(0)?, part(1)?])
}

/// The thing with only the cells (column and row of the input) that are wanted.
fn cropped(
    thing: &Thing,
    votes: Vec<crate::types::SurfaceVote>,
    wanted: impl Fn(usize, usize) -> bool,
) -> Option<Thing> {
    let mask = &thing.mask;
    let at = |i: usize| (mask.left + i % mask.width, mask.top + i / mask.width);
    let set: Vec<(usize, usize)> = (0..mask.cells.len())
        .filter(|i| mask.cells[*i])
        .map(at)
        .filter(|(col, row)| wanted(*col, *row))
        .collect();
    let (left, right) = (set.iter().map(|c| c.0).min()?, set.iter().map(|c| c.0).max()?);
    let (top, bottom) = (set.iter().map(|c| c.1).min()?, set.iter().map(|c| c.1).max()?);
    let (width, height) = (right - left + 1, bottom - top + 1);
    let mut cells = vec![false; width * height];
    set.iter().for_each(|(col, row)| cells[(row - top) * width + col - left] = true);
    // The lower end of a column is its own where it was the whole's.
    let lowest = |mask: &Mask, col: usize| {
        let x = col.checked_sub(mask.left).filter(|x| *x < mask.width)?;
        (0..mask.height).rev().find(|y| mask.cells[y * mask.width + x]).map(|y| mask.top + y)
    };
    let part = Mask { cell_px: mask.cell_px, left, top, width, height, cells };
    let meets_floor = (left..=right)
        .map(|col| {
            let whole = thing.meets_floor.get(col - mask.left).copied().unwrap_or(false);
            whole && lowest(&part, col) == lowest(mask, col)
        })
        .collect();
    let mut cut = thing.cut;
    cut.left &= left == mask.left;
    cut.top &= top == mask.top;
    cut.right &= right + 1 == mask.left + mask.width;
    cut.bottom &= bottom + 1 == mask.top + mask.height;
    Some(Thing { mask: part, meets_floor, votes, cut, ..thing.clone() })
}
