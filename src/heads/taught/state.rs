//! A taught state: which of two or more values a picture, or a zone of it, shows. Pure.

use std::collections::BTreeMap;

use super::class::LessonError;
use super::knn::Knn;
use super::logistic::{Logistic, sigmoid};
use super::tokens::to_unit;
use crate::model::matrix::Matrix;
use crate::types::{CameraId, StateName, StateReading, StateValue};

/// A value is unknown below this probability.
pub const LEAST_PROBABILITY: f32 = 0.6;
/// A picture is unlike every example when it is farther from the nearest of its likeliest value than this many times
/// what is usual between an example of that value and its nearest neighbour.
const FAR: f32 = 1.5;
/// What is usual is what all but this share of the examples keep, at least all but one of three or more: an odd one must
/// not let everything pass.
const ODD: f32 = 0.1;
/// And at most so many times the median.
const MEDIANS: f32 = 2.0;
/// With two examples of a value their distance says little; pictures of one still camera differ by about this much.
const LEAST_FAR: f32 = 0.15;
/// Groups of pictures that are left out in turn at most.
const FOLDS_MAX: usize = 10;

/// What one example shows: pooled tokens and the value's place in the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// [`super::Tokens::pooled`].
    pub pooled: Vec<f32>,
    /// Index of the value.
    pub value: u8,
    /// The picture it is of: examples of one picture are left out together.
    pub picture: usize,
}

/// How values are told apart.
#[derive(Debug, Clone, PartialEq)]
pub enum StateMethod {
    /// Nearest neighbours.
    Knn,
    /// One line a value, over inputs standardised by [`TaughtState::mean`] and [`TaughtState::sigma`].
    Linear(Vec<Logistic>),
}

/// How the method was chosen: share of left-out examples that were named right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateValidation {
    /// Groups of pictures that were left out in turn.
    pub folds: usize,
    /// Of nearest neighbours.
    pub knn_right: f32,
    /// Of the linear map.
    pub linear_right: f32,
}

/// A state as it was learned.
#[derive(Debug, Clone, PartialEq)]
pub struct TaughtState {
    /// Its name.
    pub name: StateName,
    /// Its values, sorted.
    pub values: Vec<StateValue>,
    /// The only camera that it is read on; none for all.
    pub camera: Option<CameraId>,
    /// The zone, as shares of the picture's width and height; none for the whole picture.
    pub zone: Option<Vec<[f64; 2]>>,
    /// The examples, one row each: also what a picture is compared with to see that it is like none.
    pub bank: Matrix,
    /// The value of each example.
    pub targets: Vec<u8>,
    /// Mean of each input over the examples.
    pub mean: Vec<f32>,
    /// Standard deviation of each input over the examples.
    pub sigma: Vec<f32>,
    /// Of each value: a picture farther from all of its examples is like none of them.
    pub far: Vec<f32>,
    /// How values are told apart.
    pub method: StateMethod,
    /// How that was chosen; none when a value is shown by one picture only.
    pub validation: Option<StateValidation>,
}

impl TaughtState {
    /// Learns from examples, which must not be empty and of one length.
    ///
    /// # Errors
    /// When only one value is shown.
    pub fn learn(
        name: StateName,
        values: Vec<StateValue>,
        zone: Option<Vec<[f64; 2]>>,
        examples: &[Shown],
    ) -> Result<Self, LessonError> {
        if values.len() < 2 {
            let value = values.first().map(ToString::to_string).unwrap_or_default();
            return Err(LessonError::OneValue { state: name.to_string(), value });
        }
        let mut state = Self::fit(name, values, zone, examples, true);
        let fold_of = folds(examples, state.values.len());
        let folds = fold_of.values().max().map_or(0, |last| last + 1);
        let mut right = [0usize; 2];
        let mut tested = 0;
        for fold in 0..folds {
            let (test, train): (Vec<&Shown>, Vec<&Shown>) =
                examples.iter().partition(|shown| fold_of.get(&shown.picture) == Some(&fold));
            let train: Vec<Shown> = train.into_iter().cloned().collect();
            let shows = |value: usize| train.iter().any(|shown| usize::from(shown.value) == value);
            if !(0..state.values.len()).all(shows) {
                continue;
            }
            tested += test.len();
            for (linear, right) in [false, true].into_iter().zip(&mut right) {
                let part = Self::fit(state.name.clone(), state.values.clone(), None, &train, linear);
                *right += test.iter().filter(|s| part.best(&s.pooled).0 == usize::from(s.value)).count();
            }
        }
        if tested > 0 {
            let [knn_right, linear_right] = right.map(|right| right as f32 / tested as f32);
            if knn_right > linear_right {
                state.method = StateMethod::Knn;
            }
            state.validation = Some(StateValidation { folds, knn_right, linear_right });
        }
        Ok(state)
    }

    fn fit(
        name: StateName,
        values: Vec<StateValue>,
        zone: Option<Vec<[f64; 2]>>,
        examples: &[Shown],
        linear: bool,
    ) -> Self {
        let cols = examples.first().map_or(0, |shown| shown.pooled.len());
        let n = examples.len().max(1) as f32;
        let mut mean = vec![0.0f32; cols];
        examples.iter().for_each(|e| mean.iter_mut().zip(&e.pooled).for_each(|(m, v)| *m += v / n));
        let mut sigma = vec![0.0f32; cols];
        for e in examples {
            sigma.iter_mut().zip(&e.pooled).zip(&mean).for_each(|((s, v), m)| *s += (v - m).powi(2) / n);
        }
        sigma.iter_mut().for_each(|s| *s = s.sqrt() + 1e-3);
        let bank = Matrix {
            rows: examples.len(),
            cols,
            data: examples.iter().flat_map(|e| e.pooled.iter().copied()).collect(),
        };
        let targets: Vec<u8> = examples.iter().map(|e| e.value).collect();
        let far = (0..values.len()).map(|value| far(examples, value)).collect();
        let mut state = Self {
            name,
            values,
            camera: None,
            zone,
            bank,
            targets,
            mean,
            sigma,
            far,
            method: StateMethod::Knn,
            validation: None,
        };
        if linear {
            let mut x = Matrix { rows: examples.len(), cols, data: vec![] };
            examples.iter().for_each(|e| x.data.extend(state.standardised(&e.pooled)));
            let lines = (0..state.values.len()).map(|value| {
                let is_it: Vec<bool> = state.targets.iter().map(|t| usize::from(*t) == value).collect();
                let own = is_it.iter().filter(|it| **it).count().max(1) as f32;
                let rest = (n - own).max(1.0);
                let weights: Vec<f32> =
                    is_it.iter().map(|it| if *it { 0.5 / own } else { 0.5 / rest }).collect();
                Logistic::fit(&x, &is_it, &weights)
            });
            state.method = StateMethod::Linear(lines.collect());
        }
        state
    }

    fn standardised(&self, pooled: &[f32]) -> Vec<f32> {
        pooled.iter().zip(&self.mean).zip(&self.sigma).map(|((v, m), s)| (v - m) / s).collect()
    }

    /// The likeliest value and its probability, however unlike the examples it is.
    fn best(&self, pooled: &[f32]) -> (usize, f32) {
        let shares = match &self.method {
            StateMethod::Knn => {
                let centred = |row: &[f32]| {
                    let mut row: Vec<f32> = row.iter().zip(&self.mean).map(|(v, m)| v - m).collect();
                    to_unit(&mut row);
                    row
                };
                let rows = (0..self.bank.rows).flat_map(|row| centred(self.bank.row(row))).collect();
                let bank = Matrix { rows: self.bank.rows, cols: self.bank.cols, data: rows };
                let query = Matrix { rows: 1, cols: self.bank.cols, data: centred(pooled) };
                Knn { bank, targets: self.targets.clone() }.votes(&query, self.values.len())
            }
            StateMethod::Linear(lines) => {
                let x = Matrix { rows: 1, cols: self.bank.cols, data: self.standardised(pooled) };
                let each: Vec<f32> = lines.iter().flat_map(|line| line.logits(&x)).map(sigmoid).collect();
                let total: f32 = each.iter().sum::<f32>().max(1e-12);
                each.into_iter().map(|share| share / total).collect()
            }
        };
        shares.into_iter().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0))
    }

    /// Whether it is read on this camera.
    pub fn is_read_on(&self, camera: &CameraId) -> bool {
        self.camera.as_ref().is_none_or(|own| own == camera)
    }

    /// What a picture shows.
    pub fn read(&self, pooled: &[f32]) -> StateReading {
        let (value, probability) = self.best(pooled);
        let nearest = (0..self.bank.rows)
            .filter(|row| usize::from(self.targets[*row]) == value)
            .map(|row| distance(self.bank.row(row), pooled))
            .fold(f32::INFINITY, f32::min);
        let known =
            self.far.get(value).is_some_and(|far| nearest <= *far) && probability >= LEAST_PROBABILITY;
        StateReading {
            state: self.name.clone(),
            value: self.values.get(value).filter(|_| known).cloned(),
            probability,
        }
    }
}

/// In which group each picture is left out: the pictures of each value are dealt out in turn. None when a value is
/// shown by one picture only.
fn folds(examples: &[Shown], values: usize) -> BTreeMap<usize, usize> {
    let mut value_of: BTreeMap<usize, usize> = BTreeMap::new();
    for shown in examples {
        value_of.entry(shown.picture).or_insert(usize::from(shown.value));
    }
    let pictures_of = |value: usize| {
        let mut pictures: Vec<usize> =
            examples.iter().filter(|s| usize::from(s.value) == value).map(|s| s.picture).collect();
        pictures.sort_unstable();
        pictures.dedup();
        pictures.len()
    };
    if (0..values).any(|value| pictures_of(value) < 2) {
        return BTreeMap::new();
    }
    let folds = value_of.len().min(FOLDS_MAX);
    let mut dealt = vec![0; values];
    for place in value_of.values_mut() {
        let Some(n) = dealt.get_mut(*place) else { continue };
        *place = *n % folds;
        *n += 1;
    }
    value_of
}

/// Beyond which distance from its examples a picture does not show the value.
fn far(examples: &[Shown], value: usize) -> f32 {
    let own: Vec<&Shown> = examples.iter().filter(|shown| usize::from(shown.value) == value).collect();
    let nearest = |i: usize| {
        let others = own.iter().enumerate().filter(|(j, _)| *j != i);
        others.map(|(_, e)| distance(&e.pooled, &own[i].pooled)).min_by(f32::total_cmp)
    };
    let mut nearest: Vec<f32> = (0..own.len()).filter_map(nearest).collect();
    nearest.sort_by(f32::total_cmp);
    let odd = ((nearest.len() as f32 * ODD) as usize).max(usize::from(nearest.len() > 2));
    let usual = nearest.iter().rev().nth(odd).copied().unwrap_or(0.0);
    let median = nearest.get(nearest.len() / 2).copied().unwrap_or(0.0);
    (FAR * usual.min(MEDIANS * median)).max(LEAST_FAR)
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(examples: &[([f32; 3], u8)]) -> Result<TaughtState, LessonError> {
        let shown: Vec<Shown> = examples
            .iter()
            .enumerate()
            .map(|(picture, (pooled, value))| Shown { pooled: pooled.to_vec(), value: *value, picture })
            .collect();
        let count = 1 + usize::from(shown.iter().map(|s| s.value).max().unwrap());
        let values =
            ["closed", "open", "torn"][..count].iter().map(|v| StateValue::new(v).unwrap()).collect();
        TaughtState::learn(StateName::new("door").unwrap(), values, None, &shown)
    }

    const DOOR: [([f32; 3], u8); 6] = [
        ([1.0, 0.0, 0.1], 0),
        ([1.0, 0.1, 0.0], 0),
        ([0.9, 0.1, 0.1], 0),
        ([0.0, 1.0, 0.1], 1),
        ([0.1, 1.0, 0.0], 1),
        ([0.1, 0.9, 0.1], 1),
    ];

    #[test]
    fn a_state_is_told_and_what_is_like_no_example_is_unknown() {
        let door = door(&DOOR).unwrap();
        let read = |pooled: [f32; 3]| door.read(&pooled).value.map(|value| value.to_string());
        assert_eq!(read([0.95, 0.05, 0.05]).as_deref(), Some("closed"));
        assert_eq!(read([0.05, 0.95, 0.05]).as_deref(), Some("open"));
        assert_eq!(read([0.9, 0.1, 3.0]), None, "far from all");
        assert_eq!(read([0.5, 0.5, 0.05]), None, "between two");
        let validation = door.validation.unwrap();
        assert_eq!((validation.knn_right, validation.linear_right), (1.0, 1.0));
    }

    #[test]
    fn neighbours_are_chosen_where_a_line_fails() {
        // Two opposite pairs of directions, five examples each: no line divides them, and each is near to its own.
        let cross = |i: usize| {
            let angle = (i % 4) as f32 * std::f32::consts::FRAC_PI_2 + 0.02 * (i / 4) as f32;
            ([angle.cos(), angle.sin(), 0.1], u8::from(i % 2 == 1))
        };
        let examples: Vec<_> = (0..20).map(cross).collect();
        let state = door(&examples).unwrap();
        let validation = state.validation.unwrap();
        assert_eq!((state.method, validation.folds, validation.knn_right), (StateMethod::Knn, 10, 1.0));
        assert!(validation.linear_right < 0.7, "{validation:?}");
    }

    #[test]
    fn one_odd_example_does_not_let_everything_pass() {
        let mut examples = DOOR.to_vec();
        let strange = [0.3, -0.4, 2.0];
        examples.extend([([0.95, 0.0, 0.0], 0), ([0.9, -0.3, 1.2], 0)]);
        let state = door(&examples).unwrap();
        assert_eq!(state.far.len(), 2);
        assert!(state.far.iter().all(|far| *far < 0.4), "{:?}", state.far);
        assert_eq!(state.read(&strange).value, None);
        assert_eq!(state.read(&[0.95, 0.05, 0.05]).value.unwrap().as_str(), "closed");
    }

    #[test]
    fn examples_of_one_picture_are_left_out_together() {
        // Twice the same picture of each: with its twin to learn from, every one would be named right.
        let mut shown: Vec<Shown> = vec![];
        for (picture, angle) in [0.0f32, 2.1, 4.2, 1.0, 3.1, 5.2].into_iter().enumerate() {
            let one = Shown { pooled: vec![angle.cos(), angle.sin()], value: (picture / 3) as u8, picture };
            shown.extend([one.clone(), one]);
        }
        let learn = |shown: &[Shown]| {
            let values = ["closed", "open"].map(|v| StateValue::new(v).unwrap()).to_vec();
            let state = TaughtState::learn(StateName::new("door").unwrap(), values, None, shown).unwrap();
            state.validation.unwrap()
        };
        assert_eq!(learn(&shown).folds, 3, "three pictures of each value");
        assert_eq!(
            learn(&shown).knn_right,
            0.0,
            "the nearest of another picture is always of the other value"
        );
        shown.iter_mut().enumerate().for_each(|(i, shown)| shown.picture = i);
        assert_eq!(learn(&shown).knn_right, 1.0, "as if they were of different pictures");
    }

    #[test]
    fn one_value_is_no_state_and_one_example_each_validates_nothing() {
        let error = door(&DOOR[..2]).unwrap_err().to_string();
        assert!(error.contains("only the value 'closed'"), "{error}");
        let two = door(&[DOOR[0], DOOR[3]]).unwrap();
        assert_eq!(two.validation, None);
        assert_eq!(two.read(&DOOR[0].0).value.unwrap().as_str(), "closed");
    }
}
