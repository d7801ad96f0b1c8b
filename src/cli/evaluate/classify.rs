//! Classification and retrieval by one embedding a picture, as the DINOv2 paper does them: neighbours vote over the CLS
//! token, or a linear map reads it, with or without the mean of the patch tokens. Pure.

use serde::Serialize;

use super::metrics::{Confusion, average_precision};
use super::softmax::Softmax;
use crate::cli::train::score::best;
use crate::heads::taught::Standard;
use crate::heads::taught::knn;
use crate::heads::taught::tokens::to_unit;
use crate::model::matrix::{As, Matrix, Random, multiply};

/// Numbers of neighbours, the paper's.
const NEIGHBOURS: [usize; 2] = [10, 20];
/// Strengths of the ridge that are tried.
const RIDGES: [f32; 7] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0];
/// One in so many of each class of the training side chooses the ridge.
const HELD_OUT: usize = 5;
/// Queries that are compared at a time: the product of all of them with a large gallery would not fit into memory.
const QUERIES_AT_ONCE: usize = 256;

/// One side's embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// CLS tokens, one a row.
    pub cls: Matrix,
    /// CLS token and mean patch token side by side.
    pub both: Matrix,
    /// The class of each row.
    pub targets: Vec<usize>,
}

/// How a classifier did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Classified {
    /// Which.
    pub method: String,
    /// Share of the pictures that were classified right.
    pub top_1: f64,
    /// The same as a mean over the classes.
    pub mean_class_top_1: f64,
    /// Of a linear map, the ridge that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ridge: Option<f32>,
}

fn classified(method: String, found: impl Iterator<Item = usize>, truth: &[usize], n: usize) -> Classified {
    let mut confusion = Confusion::new(n);
    truth.iter().zip(found).for_each(|(truth, found)| confusion.add(*truth, found));
    let (top_1, mean_class_top_1) = (confusion.accuracy(), confusion.mean_class_accuracy());
    Classified { method, top_1, mean_class_top_1, ridge: None }
}

fn unit(rows: &Matrix) -> Matrix {
    let mut out = rows.clone();
    out.data.chunks_exact_mut(rows.cols.max(1)).for_each(to_unit);
    out
}

fn some_rows(rows: &Matrix, from: usize, count: usize) -> Matrix {
    let data = rows.data[from * rows.cols..(from + count) * rows.cols].to_vec();
    Matrix { rows: count, cols: rows.cols, data }
}

fn in_parts(rows: &Matrix) -> impl Iterator<Item = Matrix> + '_ {
    (0..rows.rows)
        .step_by(QUERIES_AT_ONCE)
        .map(|from| some_rows(rows, from, QUERIES_AT_ONCE.min(rows.rows - from)))
}

/// Weighted votes of the nearest neighbours by cosine over the CLS token.
pub fn neighbours(train: &Embedded, val: &Embedded, classes: usize) -> Vec<Classified> {
    let (bank, queries) = (unit(&train.cls), unit(&val.cls));
    let vote = |k: usize| {
        let found: Vec<usize> = in_parts(&queries)
            .flat_map(|part| {
                let votes = knn::votes(&bank, |row| train.targets[row], &part, classes, k);
                votes.chunks_exact(classes).map(best).collect::<Vec<_>>()
            })
            .collect();
        classified(format!("kNN, k = {k}"), found.into_iter(), &val.targets, classes)
    };
    NEIGHBOURS.into_iter().map(vote).collect()
}

/// Linear maps over the CLS token, and over it with the mean patch token.
pub fn linear(train: &Embedded, val: &Embedded, classes: usize) -> Vec<Classified> {
    let inputs = [("CLS", &train.cls, &val.cls), ("CLS and mean patch", &train.both, &val.both)];
    let fit = |(name, train_x, val_x): (&str, &Matrix, &Matrix)| {
        let ridge = choose(train_x, &train.targets, classes);
        let found = fit_and_read(train_x, &train.targets, val_x, classes, ridge);
        let found = classified(format!("linear, {name}"), found.into_iter(), &val.targets, classes);
        Classified { ridge: Some(ridge), ..found }
    };
    inputs.into_iter().map(fit).collect()
}

fn fit_and_read(x: &Matrix, targets: &[usize], of: &Matrix, classes: usize, ridge: f32) -> Vec<usize> {
    let standard = Standard::over(x.data.chunks_exact(x.cols), x.cols);
    let standardised = |rows: &Matrix| {
        let mut data = Vec::with_capacity(rows.data.len());
        rows.data.chunks_exact(rows.cols).for_each(|row| standard.push(row, &mut data));
        Matrix { data, ..*rows }
    };
    let map = Softmax::fit(&standardised(x), targets, classes, ridge);
    map.logits(&standardised(of)).data.chunks_exact(classes).map(best).collect()
}

/// The ridge that serves a held-out part of the training side best, the stronger among equals.
fn choose(x: &Matrix, targets: &[usize], classes: usize) -> f32 {
    let mut order: Vec<usize> = (0..targets.len()).collect();
    Random(13).shuffle(&mut order);
    let mut seen = vec![0usize; classes];
    let (mut fitted, mut held) = (vec![], vec![]);
    for row in order {
        let count = &mut seen[targets[row]];
        *count += 1;
        if count.is_multiple_of(HELD_OUT) { held.push(row) } else { fitted.push(row) }
    }
    if held.is_empty() {
        return RIDGES[RIDGES.len() / 2];
    }
    let pick = |rows: &[usize]| -> (Matrix, Vec<usize>) {
        let data = rows.iter().flat_map(|row| x.row(*row)).copied().collect();
        (Matrix { rows: rows.len(), cols: x.cols, data }, rows.iter().map(|row| targets[*row]).collect())
    };
    let ((x, targets), (held_x, held_targets)) = (pick(&fitted), pick(&held));
    let right = |ridge: f32| {
        let found = fit_and_read(&x, &targets, &held_x, classes, ridge);
        found.iter().zip(&held_targets).filter(|(found, truth)| found == truth).count()
    };
    // `max_by_key` takes the last of equals.
    RIDGES.into_iter().max_by_key(|ridge| right(*ridge)).unwrap_or(RIDGES[0])
}

/// How retrieval did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retrieved {
    /// Mean over the queries of the average precision.
    pub mean_average_precision: f64,
    /// Share of the queries whose most similar picture is of their class.
    pub first: f64,
    /// Queries that count.
    pub queries: usize,
    /// Queries of whose class there is no other picture.
    pub without_match: usize,
    /// Pictures that are ranked for a query.
    pub gallery: usize,
}

/// Ranks the gallery by cosine over the CLS token for each query; without a gallery the other queries.
pub fn retrieve(queries: &Embedded, gallery: Option<&Embedded>) -> Retrieved {
    let ranked = gallery.unwrap_or(queries);
    let (query_rows, rows) = (unit(&queries.cls), unit(&ranked.cls));
    let (mut sum, mut first, mut counted, mut at) = (0.0, 0usize, 0usize, 0usize);
    for part in in_parts(&query_rows) {
        let mut similar = Matrix::zeros(part.rows, rows.rows);
        multiply(&part, As::Is, &rows, As::Transposed, 0.0, &mut similar);
        for row in similar.data.chunks_exact(rows.rows.max(1)) {
            let mut order: Vec<usize> = (0..row.len()).filter(|i| gallery.is_some() || *i != at).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            let relevant = |i: &usize| ranked.targets[*i] == queries.targets[at];
            if let Some(precision) = average_precision(order.iter().map(relevant)) {
                sum += precision;
                first += usize::from(order.first().is_some_and(relevant));
                counted += 1;
            }
            at += 1;
        }
    }
    let share = |value: f64| value / counted.max(1) as f64;
    Retrieved {
        mean_average_precision: share(sum),
        first: share(first as f64),
        queries: counted,
        without_match: queries.targets.len() - counted,
        gallery: rows.rows - usize::from(gallery.is_none()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows at these angles in degrees, of any length.
    fn at(angles: &[(f32, usize)]) -> Embedded {
        let data: Vec<f32> = angles
            .iter()
            .enumerate()
            .flat_map(|(i, (a, _))| [a.to_radians().cos(), a.to_radians().sin()].map(|v| v * (1 + i) as f32))
            .collect();
        let cls = Matrix { rows: angles.len(), cols: 2, data };
        Embedded { both: cls.clone(), cls, targets: angles.iter().map(|(_, class)| *class).collect() }
    }

    #[test]
    fn neighbours_and_lines_tell_two_directions_apart() {
        let angle = |i: usize| if i.is_multiple_of(2) { i as f32 } else { 90.0 - i as f32 };
        let train = at(&(0..20).map(|i| (angle(i), i % 2)).collect::<Vec<_>>());
        let val = at(&[(5.0, 0), (85.0, 1), (80.0, 0)]);
        for found in neighbours(&train, &val, 2).into_iter().chain(linear(&train, &val, 2)) {
            assert!((found.top_1 - 2.0 / 3.0).abs() < 1e-9 && found.mean_class_top_1 == 0.75, "{found:?}");
        }
    }

    #[test]
    fn rankings_by_hand() {
        // From 0 degrees the gallery ranks as 5 (right), 20 (wrong), 50 (right).
        let gallery = at(&[(50.0, 0), (20.0, 1), (5.0, 0)]);
        let found = retrieve(&at(&[(0.0, 0), (0.0, 7)]), Some(&gallery));
        assert!((found.mean_average_precision - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-9, "{found:?}");
        assert_eq!((found.first, found.queries, found.without_match, found.gallery), (1.0, 1, 1, 3));
        // Each among the others: 50 finds 20 then 5; 5 finds 20 then 50; 20 has no other of its class.
        let found = retrieve(&gallery, None);
        assert_eq!((found.mean_average_precision, found.first), (0.5, 0.0));
        assert_eq!((found.queries, found.without_match, found.gallery), (2, 1, 2));
    }
}
