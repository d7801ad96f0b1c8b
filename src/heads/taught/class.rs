//! A taught class: which patches of the examples are it, which are not, and the classifier that tells them apart.
//! Pure.

use super::choose::{self, Method, Validation};
use super::label::in_picture;
use super::tokens::{Tokens, to_unit};
use crate::model::matrix::Matrix;
use crate::types::ClassName;

/// How exact a mark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Single patches that are it; of the others nothing is said.
    Clicks,
    /// What is outside is not it; of what is inside most is.
    Box,
    /// What is inside is it, what is outside is not.
    Outline,
}

/// One mark in one picture.
#[derive(Debug, Clone)]
pub struct Mark {
    /// What it is; none for what is none of the classes.
    pub class: Option<ClassName>,
    /// How exact it is.
    pub extent: Extent,
    /// How much of each patch it covers.
    pub cover: Vec<f32>,
}

/// One picture with all of its marks.
#[derive(Debug, Clone)]
pub struct Picture<'a> {
    /// Its tokens.
    pub tokens: &'a Tokens,
    /// What was marked.
    pub marks: Vec<Mark>,
}

/// Mean and deviation of every input over all patches of the examples' pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Standard {
    /// Mean of each input.
    pub mean: Vec<f32>,
    /// Standard deviation of each input.
    pub sigma: Vec<f32>,
}

impl Standard {
    /// Over rows of `inputs` values.
    pub fn over<'a, V: Copy + Into<f32> + 'a>(rows: impl Iterator<Item = &'a [V]>, inputs: usize) -> Self {
        let (mut sum, mut square, mut count) = (vec![0.0f64; inputs], vec![0.0f64; inputs], 0.0f64);
        for row in rows {
            for ((s, q), v) in sum.iter_mut().zip(&mut square).zip(row) {
                let v = f64::from((*v).into());
                *s += v;
                *q += v * v;
            }
            count += 1.0;
        }
        let count = count.max(1.0);
        let mean: Vec<f32> = sum.iter().map(|s| (s / count) as f32).collect();
        let sigma = square.iter().zip(&sum);
        let sigma =
            sigma.map(|(q, s)| ((q / count - (s / count).powi(2)).max(0.0).sqrt() + 1e-3) as f32).collect();
        Self { mean, sigma }
    }

    /// Appends a standardised row.
    pub fn push<V: Copy + Into<f32>>(&self, row: &[V], out: &mut Vec<f32>) {
        out.extend(row.iter().zip(&self.mean).zip(&self.sigma).map(|((v, m), s)| ((*v).into() - m) / s));
    }

    /// All patches of a picture.
    pub fn all(&self, tokens: &Tokens) -> Matrix {
        let mut data = Vec::with_capacity(tokens.rows.len());
        (0..tokens.grid.len()).for_each(|patch| self.push(tokens.row(patch), &mut data));
        Matrix { rows: tokens.grid.len(), cols: tokens.inputs, data }
    }
}

/// The same with rows of length 1.
pub fn unit(mut rows: Matrix) -> Matrix {
    rows.data.chunks_exact_mut(rows.cols.max(1)).for_each(to_unit);
    rows
}

/// A patch covered by more than this is it, one covered at all is not nothing.
const MOSTLY: f32 = 0.5;
/// A click grows to neighbouring patches that are at least so similar (cosine of standardised tokens) to a click of
/// its class, and more similar to it than to any other mark.
const GROWS: f32 = 0.45;
/// Where there are only clicks, what is less similar than this to all of them is taken for something else.
const FAR: f32 = 0.15;
/// Patches that are not it, taken from one picture at most: neighbours say the same.
const OTHERS_A_PICTURE: usize = 150;
/// The same over all pictures; bounds the time of a fit and of every frame after it.
const OTHERS_MAX: usize = 1200;
/// Patches that are it, over all pictures.
const OWN_MAX: usize = 800;
/// Of a box, patches that a first fit finds less likely than this are its corners.
const CORNER: f32 = 0.35;

/// Patches to learn from.
#[derive(Debug, Clone)]
pub struct Samples {
    /// Standardised tokens.
    pub x: Matrix,
    /// Whether it is the class.
    pub is_it: Vec<bool>,
    /// How many patches the row stands for.
    pub stands_for: Vec<f32>,
    /// The picture it is from.
    pub picture: Vec<usize>,
    /// Whether it comes from inside a box.
    in_box: Vec<bool>,
}

/// A class as it was learned.
#[derive(Debug, Clone, PartialEq)]
pub struct TaughtClass {
    /// Its name.
    pub name: ClassName,
    /// The classifier.
    pub method: Method,
    /// Logarithm of the odds above which a cell is it.
    pub threshold: f32,
    /// How the method was chosen; none when there was only one picture to learn from.
    pub validation: Option<Validation>,
}

/// Which patches of a picture are the class (1), are not (-1), or may be either (0), and which lie in a box.
fn targets(
    class: &ClassName,
    picture: &Picture<'_>,
    rows: &Matrix,
    clicked: &[Clicked],
) -> (Vec<i8>, Vec<bool>) {
    let grid = picture.tokens.grid;
    let mut own = vec![0.0f32; grid.len()];
    let (mut boxed, mut other) = (vec![false; grid.len()], vec![false; grid.len()]);
    let (mut outlined, mut by_click) = (false, false);
    for mark in &picture.marks {
        let mine = mark.class.as_ref() == Some(class);
        for (patch, cover) in mark.cover.iter().enumerate() {
            if mine {
                own[patch] = own[patch].max(*cover);
                boxed[patch] |= mark.extent == Extent::Box && *cover > MOSTLY;
            } else if mark.extent != Extent::Box || mark.class.is_none() {
                other[patch] |= *cover > MOSTLY;
            }
        }
        outlined |= mine && mark.extent != Extent::Clicks;
        by_click |= mine && mark.extent == Extent::Clicks;
    }
    let mut out: Vec<i8> = (0..grid.len())
        .map(|patch| match own[patch] {
            cover if cover > MOSTLY => 1,
            _ if other[patch] => -1,
            0.0 if outlined => -1,
            _ => 0,
        })
        .collect();
    if by_click {
        let similar = |patch: usize, mine: bool| {
            let rows = rows.row(patch);
            let alike = clicked.iter().filter(|c| c.mine == mine).map(|c| dot(&c.row, rows));
            alike.fold(-1.0f32, f32::max)
        };
        let likeness: Vec<(f32, f32)> =
            (0..grid.len()).map(|p| (similar(p, true), similar(p, false))).collect();
        let mut grown: Vec<usize> = (0..grid.len()).filter(|patch| out[*patch] == 1).collect();
        while let Some(patch) = grown.pop() {
            for next in neighbours(patch, grid.cols, grid.rows) {
                let (mine, others) = likeness[next];
                if out[next] == 0 && mine >= GROWS && mine > others {
                    out[next] = 1;
                    grown.push(next);
                }
            }
        }
        for (patch, (mine, others)) in likeness.iter().enumerate() {
            if out[patch] == 0 && (*mine < FAR || (*others >= GROWS && others > mine)) {
                out[patch] = -1;
            }
        }
    }
    for (target, inside) in out.iter_mut().zip(in_picture(grid, &picture.tokens.transform)) {
        if !inside {
            *target = 0;
        }
    }
    (out, boxed)
}

fn neighbours(patch: usize, cols: usize, rows: usize) -> impl Iterator<Item = usize> {
    let (col, row) = (patch % cols, patch / cols);
    let around = [(0i32, -1i32), (-1, 0), (1, 0), (0, 1)];
    around.into_iter().filter_map(move |(dx, dy)| {
        let (x, y) = (col.checked_add_signed(dx as isize)?, row.checked_add_signed(dy as isize)?);
        (x < cols && y < rows).then_some(y * cols + x)
    })
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A clicked patch of any picture.
struct Clicked {
    mine: bool,
    row: Vec<f32>,
}

fn clicked(class: &ClassName, pictures: &[Picture<'_>], standard: &Standard) -> Vec<Clicked> {
    let mut out = vec![];
    for picture in pictures {
        for mark in picture.marks.iter().filter(|mark| mark.extent == Extent::Clicks) {
            for (patch, _) in mark.cover.iter().enumerate().filter(|(_, cover)| **cover > MOSTLY) {
                let mut row = vec![];
                standard.push(picture.tokens.row(patch), &mut row);
                to_unit(&mut row);
                out.push(Clicked { mine: mark.class.as_ref() == Some(class), row });
            }
        }
    }
    out
}

/// Every `n`-th so that at most `most` remain, and how many each stands for.
fn thin(list: Vec<usize>, most: usize) -> (Vec<usize>, f32) {
    let count = list.len();
    if count <= most {
        return (list, 1.0);
    }
    let kept = (0..most).map(|i| list[i * count / most]).collect();
    (kept, count as f32 / most as f32)
}

impl Samples {
    /// What the pictures say of a class.
    pub fn of(class: &ClassName, pictures: &[Picture<'_>], standard: &Standard) -> Self {
        let clicked = clicked(class, pictures, standard);
        let cols = standard.mean.len();
        let mut out = Self {
            x: Matrix { rows: 0, cols, data: vec![] },
            is_it: vec![],
            stands_for: vec![],
            picture: vec![],
            in_box: vec![],
        };
        let others = OTHERS_A_PICTURE.min(OTHERS_MAX / pictures.len().max(1)).max(1);
        let own = (OWN_MAX / pictures.len().max(1)).max(1);
        for (number, picture) in pictures.iter().enumerate() {
            let rows = standard.all(picture.tokens);
            let (targets, boxed) = targets(class, picture, &unit(rows.clone()), &clicked);
            for (wanted, most) in [(1, own), (-1, others)] {
                let found = (0..targets.len()).filter(|patch| targets[*patch] == wanted).collect();
                let (kept, each) = thin(found, most);
                for patch in kept {
                    out.x.data.extend(rows.row(patch));
                    out.x.rows += 1;
                    out.is_it.push(wanted == 1);
                    out.stands_for.push(each);
                    out.picture.push(number);
                    out.in_box.push(boxed[patch]);
                }
            }
        }
        out
    }

    /// Those rows.
    pub fn only(&self, keep: impl Fn(usize) -> bool) -> Self {
        let rows: Vec<usize> = (0..self.x.rows).filter(|row| keep(*row)).collect();
        let data = rows.iter().flat_map(|row| self.x.row(*row).iter().copied()).collect();
        Self {
            x: Matrix { rows: rows.len(), cols: self.x.cols, data },
            is_it: rows.iter().map(|row| self.is_it[*row]).collect(),
            stands_for: rows.iter().map(|row| self.stands_for[*row]).collect(),
            picture: rows.iter().map(|row| self.picture[*row]).collect(),
            in_box: rows.iter().map(|row| self.in_box[*row]).collect(),
        }
    }

    /// Leaves out what of a box is rather like its surroundings, unless that would be most of it.
    fn without_corners(self) -> Self {
        let boxed = self.in_box.iter().filter(|inside| **inside).count();
        if boxed == 0 {
            return self;
        }
        let first = choose::linear(&self);
        let likely: Vec<f32> = first.logits(&self.x).into_iter().map(super::logistic::sigmoid).collect();
        let kept = self.only(|row| !self.in_box[row] || likely[row] >= CORNER);
        let left = kept.in_box.iter().filter(|inside| **inside).count();
        if left * 3 < boxed { self } else { kept }
    }
}

/// Why a class or state cannot be learned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LessonError {
    /// Nothing shows it.
    #[error("no patch of any example is '{0}': mark more of it")]
    Nothing(ClassName),
    /// Nothing shows what it is not.
    #[error(
        "the examples of '{0}' do not show what it is not: mark it by box or outline, or click on something else with --class background"
    )]
    NothingElse(ClassName),
    /// A state with one value.
    #[error("the state '{state}' has only the value '{value}': add examples of another")]
    OneValue {
        /// The state.
        state: String,
        /// Its value.
        value: String,
    },
}

/// Learns one class.
///
/// # Errors
/// When the examples show nothing of it, or nothing else.
pub fn learn(
    class: &ClassName,
    pictures: &[Picture<'_>],
    standard: &Standard,
) -> Result<TaughtClass, LessonError> {
    let samples = Samples::of(class, pictures, standard).without_corners();
    if !samples.is_it.contains(&true) {
        return Err(LessonError::Nothing(class.clone()));
    }
    if !samples.is_it.contains(&false) {
        return Err(LessonError::NothingElse(class.clone()));
    }
    let (method, threshold, validation) = choose::choose(&samples);
    Ok(TaughtClass { name: class.clone(), method, threshold, validation })
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::super::tests::transform;
    use super::*;
    use crate::types::Grid;

    const GRID: Grid = Grid { rows: 1, cols: 6, patch_px: 14 };

    /// Three kinds of patches in a row: two of each.
    fn tokens() -> Tokens {
        let kinds = [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]];
        let rows = (0..6).flat_map(|patch| kinds[patch / 2].map(f16::from_f32)).collect();
        Tokens { grid: GRID, transform: transform(GRID), inputs: 3, rows, cls: vec![] }
    }

    fn mark(class: Option<&str>, extent: Extent, cover: [f32; 6]) -> Mark {
        Mark { class: class.map(|name| ClassName::new(name).unwrap()), extent, cover: cover.to_vec() }
    }

    fn targets_of(marks: Vec<Mark>) -> Vec<i8> {
        let tokens = tokens();
        let standard = Standard::over((0..6).map(|patch| tokens.row(patch)), 3);
        let picture = Picture { tokens: &tokens, marks };
        let car = ClassName::new("car").unwrap();
        let clicked = clicked(&car, std::slice::from_ref(&picture), &standard);
        targets(&car, &picture, &unit(standard.all(&tokens)), &clicked).0
    }

    #[test]
    fn outside_of_an_outline_is_something_else_and_its_rim_is_either() {
        let outline = mark(Some("car"), Extent::Outline, [0.0, 0.3, 1.0, 0.6, 0.0, 0.0]);
        assert_eq!(targets_of(vec![outline]), [-1, 0, 1, 1, -1, -1]);
    }

    #[test]
    fn a_click_grows_over_what_is_alike_and_what_is_far_is_something_else() {
        let click = mark(Some("car"), Extent::Clicks, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(targets_of(vec![click.clone()]), [-1, -1, 1, 1, -1, -1]);
        let other = mark(None, Extent::Clicks, [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(targets_of(vec![click, other])[2..4], [1, -1], "another mark on the neighbour");
    }

    #[test]
    fn another_class_is_something_else() {
        let outline = mark(Some("tree"), Extent::Outline, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(targets_of(vec![outline]), [-1, -1, 0, 0, 0, 0]);
    }

    #[test]
    fn what_cannot_be_learned_is_said() {
        let tokens = tokens();
        let standard = Standard::over((0..6).map(|patch| tokens.row(patch)), 3);
        let car = ClassName::new("car").unwrap();
        let learn = |marks| learn(&car, &[Picture { tokens: &tokens, marks }], &standard).unwrap_err();
        assert_eq!(learn(vec![]), LessonError::Nothing(car.clone()));
        assert_eq!(
            learn(vec![mark(Some("car"), Extent::Outline, [1.0; 6])]),
            LessonError::NothingElse(car.clone())
        );
    }

    #[test]
    fn thinning_keeps_the_count() {
        let (kept, each) = thin((0..10).collect(), 4);
        assert_eq!((kept, each), (vec![0, 2, 5, 7], 2.5));
    }
}
