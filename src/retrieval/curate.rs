//! Which frames of many are worth a label: near duplicates dropped, then one frame of each of `n` clusters, as DINOv2
//! made its own data (copies found by similarity, the rest balanced by clusters; arXiv 2304.07193, section 3).

use super::{dot, to_unit};
use crate::model::matrix::Random;

/// Starts of the clustering, of which the best counts.
const STARTS: usize = 10;
/// Rounds of one start. It usually settles sooner.
const ROUNDS: usize = 50;

/// A frame that stands for its near duplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distinct {
    /// Index of the frame.
    pub index: usize,
    /// How many frames it stands for, itself among them.
    pub stands_for: usize,
}

/// Frames of which no two are more alike than `threshold` (cosine), in order. Each later frame that is too much like one
/// of them counts for the one that it is most like. Not whole chains of similar frames: a camera's light changes so
/// slowly that a day would be one chain.
pub fn distinct(embeddings: &[Vec<f32>], threshold: f32) -> Vec<Distinct> {
    let mut kept: Vec<Distinct> = vec![];
    for (index, embedding) in embeddings.iter().enumerate() {
        let like = |known: &Distinct| embeddings.get(known.index).map_or(-1.0, |other| dot(embedding, other));
        let nearest = kept.iter_mut().map(|known| (like(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
        match nearest {
            Some((similarity, known)) if similarity > threshold => known.stands_for += 1,
            _ => kept.push(Distinct { index, stands_for: 1 }),
        }
    }
    kept
}

/// Of the distinct frames the most typical one of each of `n` clusters (spherical k-means, started by k-means++, frames
/// counted as often as they stand for others), in order; all of them when there are no more than `n`. The same frames
/// give the same choice.
pub fn varied(embeddings: &[Vec<f32>], distinct: &[Distinct], n: usize) -> Vec<Distinct> {
    if distinct.len() <= n {
        return distinct.to_vec();
    }
    let points: Vec<(&[f32], f64)> = distinct
        .iter()
        .filter_map(|d| Some((embeddings.get(d.index)?.as_slice(), d.stands_for as f64)))
        .collect();
    let mut random = Random(1);
    let best = (0..STARTS)
        .map(|_| cluster(&points, n, &mut random))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(of, _)| of)
        .unwrap_or_default();
    let mut chosen: Vec<Distinct> =
        (0..n).filter_map(|k| typical(&points, &best, k)).map(|at| distinct[at]).collect();
    // A cluster that lost all its frames leaves its place to the frames that stand for most.
    let mut others: Vec<Distinct> = distinct.iter().filter(|d| !chosen.contains(d)).copied().collect();
    others.sort_by_key(|d| std::cmp::Reverse(d.stands_for));
    chosen.extend(others.into_iter().take(n - chosen.len().min(n)));
    chosen.sort_by_key(|d| d.index);
    chosen
}

/// The cluster of each point, and the sum of the similarities to the clusters' centres.
fn cluster(points: &[(&[f32], f64)], n: usize, random: &mut Random) -> (Vec<usize>, f64) {
    let mut centres = seeds(points, n, random);
    let mut of = vec![usize::MAX; points.len()];
    let mut sum = 0.0;
    for _ in 0..ROUNDS {
        let nearest: Vec<(usize, f32)> = points.iter().map(|(point, _)| nearest(point, &centres)).collect();
        sum = nearest.iter().zip(points).map(|((_, like), (_, weight))| f64::from(*like) * weight).sum();
        let before = std::mem::replace(&mut of, nearest.into_iter().map(|(k, _)| k).collect());
        if before == of {
            break;
        }
        centres = (0..n).map(|k| mean(points, &of, k).unwrap_or_else(|| centres[k].clone())).collect();
    }
    (of, sum)
}

/// The first centres: each next one a point, likelier the less it is like those before.
fn seeds(points: &[(&[f32], f64)], n: usize, random: &mut Random) -> Vec<Vec<f32>> {
    let mut share = || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut centres: Vec<Vec<f32>> = vec![];
    let mut chance: Vec<f64> = points.iter().map(|(_, weight)| *weight).collect();
    while centres.len() < n {
        let mut rest = share() * chance.iter().sum::<f64>();
        let at = chance.iter().position(|c| {
            rest -= c;
            rest < 0.0
        });
        let Some((centre, _)) = at.or(points.len().checked_sub(1)).and_then(|at| points.get(at)) else {
            break;
        };
        for (chance, (point, weight)) in chance.iter_mut().zip(points) {
            let unlike = weight * f64::from(1.0 - dot(point, centre)).max(0.0);
            *chance = if centres.is_empty() { unlike } else { chance.min(unlike) };
        }
        centres.push(centre.to_vec());
    }
    centres
}

fn nearest(point: &[f32], centres: &[Vec<f32>]) -> (usize, f32) {
    let likes = centres.iter().map(|centre| dot(point, centre)).enumerate();
    likes.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))).unwrap_or((0, -1.0))
}

/// The centre of a cluster; none when it is empty.
fn mean(points: &[(&[f32], f64)], of: &[usize], cluster: usize) -> Option<Vec<f32>> {
    let mut mine = points.iter().zip(of).filter(|(_, of)| **of == cluster).map(|(point, _)| point).peekable();
    let mut sum = vec![0.0f32; mine.peek()?.0.len()];
    for (point, weight) in mine {
        sum.iter_mut().zip(*point).for_each(|(s, v)| *s += *weight as f32 * v);
    }
    to_unit(&mut sum);
    Some(sum)
}

/// The point of a cluster that is most like its centre.
fn typical(points: &[(&[f32], f64)], of: &[usize], cluster: usize) -> Option<usize> {
    let centre = mean(points, of, cluster)?;
    let mine = (0..points.len()).filter(|at| of.get(*at) == Some(&cluster));
    mine.max_by(|a, b| dot(points[*a].0, &centre).total_cmp(&dot(points[*b].0, &centre)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(degrees: f32) -> Vec<f32> {
        let (sin, cos) = degrees.to_radians().sin_cos();
        vec![cos, sin]
    }

    #[test]
    fn near_duplicates_count_for_the_one_that_they_are_like() {
        // cos 2 degrees is 0.9994, cos 5 degrees 0.9962.
        let frames: Vec<_> = [0.0, 2.0, 5.0, 90.0, 91.0, 4.0].map(at).to_vec();
        let found = distinct(&frames, 0.998);
        let found: Vec<_> = found.iter().map(|d| (d.index, d.stands_for)).collect();
        assert_eq!(found, [(0, 2), (2, 2), (3, 2)], "4 degrees is nearer to 5 than to 0");
    }

    #[test]
    fn a_slow_change_is_not_one_chain() {
        let frames: Vec<_> = (0..90).map(|degrees| at(degrees as f32)).collect();
        let found = distinct(&frames, 0.998);
        assert!((20..=30).contains(&found.len()), "{}", found.len());
        for (i, a) in found.iter().enumerate() {
            assert!(found[i + 1..].iter().all(|b| dot(&frames[a.index], &frames[b.index]) <= 0.998));
        }
    }

    #[test]
    fn one_of_each_cluster_and_the_most_typical() {
        let frames: Vec<_> = [0.0, 10.0, 20.0, 85.0, 90.0, 95.0, 180.0, 200.0, 190.0].map(at).to_vec();
        let all = distinct(&frames, 0.9999);
        let chosen = varied(&frames, &all, 3);
        assert_eq!(chosen.iter().map(|d| d.index).collect::<Vec<_>>(), [1, 4, 8]);
        assert_eq!(varied(&frames, &all, 3), chosen, "the same again");
        assert_eq!(varied(&frames, &all, 20), all);
        assert!(varied(&frames, &all, 0).is_empty());
    }

    #[test]
    fn as_many_as_were_asked_for_even_of_equal_frames() {
        let frames = vec![at(30.0); 7];
        let all: Vec<_> = (0..7).map(|index| Distinct { index, stands_for: 1 }).collect();
        assert_eq!(varied(&frames, &all, 4).len(), 4);
    }
}
