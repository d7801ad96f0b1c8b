//! Taught classes as things, and taught states, of one frame. Pure.

use super::class::unit;
use super::logistic::sigmoid;
use super::model::Taught;
use super::state::TaughtState;
use super::tokens::Tokens;
use crate::heads::segment::picture_cells;
use crate::heads::upsample::{CELLS_PER_PATCH, Upsample};
use crate::heads::{Head, HeadError};
use crate::types::{ClassName, Cut, Features, Grid, Mask, Scene, Thing};

/// Smaller components are noise, as with the shipped classes.
const LEAST_CELLS: usize = 12;
/// Floor is looked for this many cells below the lowest cell of a column: half a patch.
const FLOOR_GAP_CELLS: usize = 2;

/// Between a patch that is surely it and one that surely is not, the outline lies near the patches' common edge, however
/// sure: a strip one patch wide must not be worn away by neighbours that are surer than it. The lower end is nearer to
/// 0, so that patches which meet at a corner hang together.
const SURE: f32 = 4.0;
const SURE_NOT: f32 = -3.0;

/// Reads the tokens by what was taught.
#[derive(Debug)]
pub struct TaughtHead {
    taught: Taught,
    upsample: Option<(Grid, Upsample)>,
}

impl TaughtHead {
    /// For what was taught.
    pub fn new(taught: Taught) -> Self {
        Self { taught, upsample: None }
    }

    /// What was taught.
    pub fn taught(&self) -> &Taught {
        &self.taught
    }

    /// Whether it makes things of this class.
    pub fn knows(&self, class: &ClassName) -> bool {
        self.taught.classes.iter().any(|taught| taught.name == *class)
    }

    /// Logarithm of the odds over each class's threshold, `classes` values a patch, bounded.
    pub fn logits(&self, tokens: &Tokens) -> Vec<f32> {
        let n = self.taught.classes.len();
        let rows = self.taught.standard.all(tokens);
        let unit_rows = unit(rows.clone());
        let mut out = vec![0.0; rows.rows * n];
        for (c, class) in self.taught.classes.iter().enumerate() {
            for (patch, logit) in class.method.logits(&rows, &unit_rows).into_iter().enumerate() {
                out[patch * n + c] = (logit - class.threshold).clamp(SURE_NOT, SURE);
            }
        }
        out
    }

    /// Things of each connected part of the cells where a class is likeliest and above its threshold.
    fn things(&mut self, tokens: &Tokens, scene: &mut Scene) {
        let n = self.taught.classes.len();
        let logits = self.logits(tokens);
        if self.upsample.as_ref().is_none_or(|(grid, _)| *grid != tokens.grid) {
            self.upsample = Some((tokens.grid, Upsample::new(tokens.grid)));
        }
        let Some((_, upsample)) = &self.upsample else { return };
        let mut cells = vec![];
        upsample.apply(&logits, n, &mut cells);
        let (width, height) = (upsample.width(), upsample.height());
        let (x0, y0, x1, y1) = picture_cells(&tokens.transform, tokens.grid);
        // Class of each cell, `n` for none and outside of the picture.
        let mut labels = vec![n; width * height];
        for y in y0..y1 {
            for x in x0..x1 {
                let at = y * width + x;
                let best = (0..n).max_by(|a, b| cells[at * n + a].total_cmp(&cells[at * n + b]));
                labels[at] = best.filter(|c| cells[at * n + c] > 0.0).unwrap_or(n);
            }
        }
        for start in 0..labels.len() {
            let class = labels[start];
            if class == n {
                continue;
            }
            let component = flood(&mut labels, width, start, n);
            if component.len() < LEAST_CELLS {
                continue;
            }
            let score: f32 = component.iter().map(|at| sigmoid(cells[at * n + class])).sum();
            let score = score / component.len() as f32;
            let (xs, ys) = (component.iter().map(|at| at % width), component.iter().map(|at| at / width));
            let (left, top) = (xs.clone().min().unwrap_or(0), ys.clone().min().unwrap_or(0));
            let (right, bottom) = (xs.max().unwrap_or(0), ys.max().unwrap_or(0));
            let (w, h) = (right - left + 1, bottom - top + 1);
            let mut bitmap = vec![false; w * h];
            component.iter().for_each(|at| bitmap[(at / width - top) * w + at % width - left] = true);
            let meets_floor = (0..w)
                .map(|x| {
                    let low = (0..h).rev().find(|y| bitmap[y * w + x]);
                    low.is_some_and(|y| {
                        let below = top + y + FLOOR_GAP_CELLS;
                        let patch = below / CELLS_PER_PATCH * tokens.grid.cols + (left + x) / CELLS_PER_PATCH;
                        below < y1 && scene.floor.get(patch).is_some_and(|floor| *floor > 0.5)
                    })
                })
                .collect();
            scene.things.push(Thing {
                class: self.taught.classes[class].name.clone(),
                score,
                mask: Mask {
                    cell_px: tokens.grid.patch_px as f64 / CELLS_PER_PATCH as f64,
                    left,
                    top,
                    width: w,
                    height: h,
                    cells: bitmap,
                },
                meets_floor,
                votes: vec![],
                transform: tokens.transform,
                cut: Cut {
                    left: left <= x0,
                    top: top <= y0,
                    right: right + 1 >= x1,
                    bottom: bottom + 1 >= y1,
                },
            });
        }
    }
}

/// Takes the connected cells of the same label out of `labels`.
fn flood(labels: &mut [usize], width: usize, start: usize, none: usize) -> Vec<usize> {
    let (own, height) = (labels[start], labels.len() / width);
    let (mut component, mut stack) = (vec![], vec![start]);
    labels[start] = none;
    while let Some(at) = stack.pop() {
        component.push(at);
        let (x, y) = (at % width, at / width);
        for ny in y.saturating_sub(1)..=(y + 1).min(height - 1) {
            for nx in x.saturating_sub(1)..=(x + 1).min(width - 1) {
                let next = ny * width + nx;
                if labels[next] == own {
                    labels[next] = none;
                    stack.push(next);
                }
            }
        }
    }
    component
}

impl Head for TaughtHead {
    fn name(&self) -> &str {
        "taught"
    }

    fn states(&self) -> &[TaughtState] {
        &self.taught.states
    }

    fn apply(&mut self, features: &Features, scene: &mut Scene) -> Result<(), HeadError> {
        let tokens = Tokens::of(features)?;
        if tokens.inputs != self.taught.standard.mean.len() {
            let (got, expected) = (tokens.inputs, self.taught.standard.mean.len());
            return Err(HeadError::Shape { name: "taught".to_owned(), got, expected });
        }
        if !self.taught.classes.is_empty() {
            self.things(&tokens, scene);
        }
        let here = |state: &&TaughtState| state.is_read_on(&features.frame.camera);
        for state in self.taught.states.iter().filter(here) {
            let pooled = tokens.pooled(state.zone.as_deref());
            if pooled.len() != state.bank.cols {
                let (got, expected) = (pooled.len(), state.bank.cols);
                return Err(HeadError::Shape { name: state.name.to_string(), got, expected });
            }
            scene.states.push(state.read(&pooled));
        }
        Ok(())
    }
}
