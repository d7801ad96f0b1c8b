//! What the decoder's training makes small, and its gradient: cross entropy of the cells, and for every number a Laplace
//! likelihood whose scale the network says itself, so that it learns how far it can be trusted.

use super::lesson::Lesson;
use super::matrix::Matrix;
use crate::heads::decoder::{CELLS, CHANNELS, CLASSES, DEPTH, FORKLIFT, Forklift, LOGITS, PERSON, Person};

/// Weight of the cells beside the things.
const CELLS_SHARE: f32 = 2.0;
/// Weight of the depth beside the things.
const DEPTH_SHARE: f32 = 0.3;
/// Rows of things count so much in the cells and the depth; those drawn at random count fully.
const THING_ROWS_SHARE: f32 = 0.35;
/// Persons are a quarter of the things' patches.
const PERSON_SHARE: f32 = 2.0;
/// Logarithms of scales are held in here.
const SCALE: [f32; 2] = [-5.0, 3.0];
/// The same for the heading, whose scale is of the squared error.
const HEADING_SCALE: [f32; 2] = [-4.0, 3.0];
/// Errors far below a hundredth count as their square.
const SMOOTH: f32 = 1e-4;

/// One row of a batch: a patch and what it should give.
pub struct Row<'a> {
    /// Class of each of its cells.
    pub cells: &'a [u8],
    /// Mean logarithm of its depth; NaN where it has none.
    pub log_depth: f32,
    /// How much its depth counts.
    pub depth_weight: f32,
    /// What it says of its thing; none in rows drawn at random.
    pub lesson: Option<&'a Lesson>,
}

/// Mean losses of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Losses {
    /// Of the things' numbers.
    pub things: f64,
    /// Of the cells.
    pub cells: f64,
    /// Of the depth.
    pub depth: f64,
}

impl Losses {
    /// What is made small.
    pub fn total(&self) -> f64 {
        self.things + f64::from(CELLS_SHARE) * self.cells + f64::from(DEPTH_SHARE) * self.depth
    }
}

/// How much the classes count in the cells; all others 1. `(forklift, person)` are their indices.
pub fn class_weights(classes: &[String]) -> [f32; CLASSES] {
    let of = |i: usize| match classes.get(i).map(String::as_str) {
        Some("person") => 2.0,
        Some("forklift") => 1.3,
        _ => 1.0,
    };
    std::array::from_fn(of)
}

/// The losses of a batch's outputs, which become their gradient.
pub fn gradient(out: &mut Matrix, rows: &[Row<'_>], class_weights: &[f32; CLASSES]) -> Losses {
    let mut losses = Losses::default();
    let things = rows.iter().filter(|r| r.lesson.is_some()).count();
    let share_of = |row: &Row<'_>| match row.lesson {
        Some(_) => THING_ROWS_SHARE / things.max(1) as f32,
        None => 1.0 / (rows.len() - things).max(1) as f32,
    };
    // Three numbers a lesson: place, heading, surface.
    let total: f32 = rows.iter().filter_map(|r| r.lesson).map(|l| 3.0 * weight(l)).sum();
    for (o, row) in out.data.chunks_exact_mut(CHANNELS).zip(rows) {
        let mut g = [0.0f32; CHANNELS];
        let share = share_of(row);
        losses.cells += f64::from(cells(&o[..LOGITS], row.cells, share, class_weights, &mut g[..LOGITS]));
        if row.log_depth.is_finite() {
            let w = share * row.depth_weight;
            let mut part = [0.0; 2];
            losses.depth += f64::from(laplace(&o[DEPTH..], &mut part, [0, 1], row.log_depth, w));
            g[DEPTH..DEPTH + 2].iter_mut().zip(part).for_each(|(g, p)| *g += DEPTH_SHARE * p);
        }
        if let Some(lesson) = row.lesson {
            losses.things += f64::from(thing(o, &mut g, lesson, 1.0 / total.max(1e-6)));
        }
        o.copy_from_slice(&g);
    }
    losses
}

fn weight(lesson: &Lesson) -> f32 {
    if lesson.class == 0 { lesson.weight } else { PERSON_SHARE * lesson.weight }
}

/// Mean cross entropy of a patch's cells.
fn cells(
    logits: &[f32],
    truth: &[u8],
    share: f32,
    class_weights: &[f32; CLASSES],
    gradient: &mut [f32],
) -> f32 {
    let mut sum = 0.0;
    let each = logits.chunks_exact(CLASSES).zip(gradient.chunks_exact_mut(CLASSES)).zip(truth);
    for ((l, g), truth) in each {
        let truth = usize::from(*truth).min(CLASSES - 1);
        let w = share * class_weights[truth] / CELLS as f32;
        let top = l.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        for (g, l) in g.iter_mut().zip(l) {
            *g = (l - top).exp();
            total += *g;
        }
        sum += w * (total.ln() - (l[truth] - top));
        let scale = CELLS_SHARE * w / total;
        g.iter_mut().for_each(|g| *g *= scale);
        g[truth] -= CELLS_SHARE * w;
    }
    sum
}

/// Laplace likelihood of one number: `at` are the places of the value and of the logarithm of its scale.
fn laplace(o: &[f32], g: &mut [f32], at: [usize; 2], truth: f32, w: f32) -> f32 {
    let [value, scale] = at;
    let (b, free) = held(o[scale], SCALE);
    let error = o[value] - truth;
    let size = (error * error + SMOOTH).sqrt();
    let trust = (-b).exp();
    g[value] += w * trust * error / size;
    g[scale] += if free { w * (1.0 - size * trust) } else { 0.0 };
    w * (size * trust + b)
}

/// The value within its limits, and whether it is free to move.
fn held(b: f32, [least, most]: [f32; 2]) -> (f32, bool) {
    (b.clamp(least, most), b >= least && b <= most)
}

/// All that a patch says of its thing.
fn thing(o: &[f32], g: &mut [f32], lesson: &Lesson, scale: f32) -> f32 {
    let w = scale * weight(lesson);
    let forklift = lesson.class == 0;
    let (first, foot, surface, numbers) = if forklift {
        let foot = [Forklift::FOOT, Forklift::FOOT_SCALE];
        (FORKLIFT, foot, [Forklift::SURFACE, Forklift::SURFACE_SCALE], 4)
    } else {
        (PERSON, [Person::FOOT, Person::FOOT_SCALE], [Person::SURFACE, Person::SURFACE_SCALE], 3)
    };
    let (o, g) = (&o[first..], &mut g[first..]);
    let mut loss = 0.0;
    for (k, truth) in lesson.foot.iter().enumerate() {
        loss += laplace(o, g, foot.map(|f| f + k), *truth, w);
    }
    for (k, truth) in lesson.surface.iter().flatten().take(numbers).enumerate() {
        loss += laplace(o, g, surface.map(|s| s + k), *truth, w);
    }
    if forklift {
        let (b, free) = held(o[Forklift::HEADING_SCALE], HEADING_SCALE);
        let trust = (-b).exp();
        let mut square = 0.0;
        for (k, truth) in lesson.heading.iter().enumerate() {
            let error = o[Forklift::HEADING + k] - truth;
            square += error * error;
            g[Forklift::HEADING + k] += w * trust * 2.0 * error;
        }
        g[Forklift::HEADING_SCALE] += if free { w * (1.0 - square * trust) } else { 0.0 };
        loss += w * (square * trust + b);
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::train::matrix::Random;

    #[test]
    fn gradient_is_that_of_the_losses() {
        let mut random = Random(9);
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| random.unit() as f32 * 2.0 - 1.0).collect() };
        let cells: Vec<u8> = (0..CELLS).map(|i| (i % CLASSES) as u8).collect();
        let lesson = |class: usize, surface: bool| Lesson {
            patch: 0,
            class,
            weight: 0.4 + class as f32,
            foot: [0.3, -0.2],
            heading: [0.6, 0.8, -0.28, 0.96],
            surface: surface.then_some([1.1, -0.5, 0.2, 0.9]),
        };
        let lessons = [lesson(0, true), lesson(1, true), lesson(0, false)];
        let mut rows: Vec<Row<'_>> = lessons
            .iter()
            .map(|l| Row { cells: &cells, log_depth: 0.4, depth_weight: 1.5, lesson: Some(l) })
            .collect();
        rows.push(Row { cells: &cells, log_depth: f32::NAN, depth_weight: 1.0, lesson: None });
        rows.push(Row { cells: &cells, log_depth: 2.0, depth_weight: 1.0, lesson: None });
        let classes = ["a", "b", "c", "d", "e", "forklift", "person"].map(str::to_owned);
        let weights = class_weights(&classes);
        assert_eq!(weights, [1.0, 1.0, 1.0, 1.0, 1.0, 1.3, 2.0, 1.0, 1.0]);
        let mut out = Matrix { rows: 5, cols: CHANNELS, data: draw(5 * CHANNELS) };
        // A scale beyond its limits does not move.
        out.data[FORKLIFT + Forklift::FOOT_SCALE] = 4.0;
        let mut got = out.clone();
        gradient(&mut got, &rows, &weights);
        for at in 0..out.data.len() {
            let total = |by: f32| {
                let mut other = out.clone();
                other.data[at] += by;
                gradient(&mut other, &rows, &weights).total()
            };
            let want = (total(5e-3) - total(-5e-3)) / 1e-2;
            let row = at / CHANNELS;
            assert!(
                (f64::from(got.data[at]) - want).abs() < 2e-4,
                "row {row} {}: {} {want}",
                at % CHANNELS,
                got.data[at]
            );
        }
        assert_eq!(got.data[FORKLIFT + Forklift::FOOT_SCALE], 0.0);
        assert!(got.data[3 * CHANNELS + DEPTH..4 * CHANNELS].iter().all(|g| *g == 0.0));
    }
}
