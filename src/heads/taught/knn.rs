//! Nearest neighbours by cosine, as the DINOv2 paper classifies: the k most similar examples vote with the weight
//! `exp(similarity / 0.07)`. Pure.

use crate::model::matrix::{As, Matrix, multiply};

/// Temperature of the votes (DINOv2 paper, section on kNN evaluation).
pub const TEMPERATURE: f32 = 0.07;
/// Neighbours that vote at most, the paper's number.
pub const NEIGHBOURS: usize = 20;

/// Examples of one class at most. A frame's 448 patches of 768 inputs are compared with all of them: with so many
/// 0.14 GFLOP, a few milliseconds of the analysis thread.
pub const NEIGHBOURS_MAX: usize = 400;
/// The same over all classes.
pub const BANK_MAX: usize = 1600;

/// Examples and what they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Knn {
    /// One row an example, each of length 1.
    pub bank: Matrix,
    /// The value of each example, 0 to `values - 1`.
    pub targets: Vec<u8>,
}

impl Knn {
    /// At most so many examples: of each value its share of them, at least one, evenly over the list.
    pub fn thinned(self, most: usize) -> Self {
        let count = self.bank.rows;
        if count <= most {
            return self;
        }
        let mut kept = vec![];
        let last = usize::from(self.targets.iter().copied().max().unwrap_or(0));
        for value in 0..=last {
            let own: Vec<usize> = (0..count).filter(|row| usize::from(self.targets[*row]) == value).collect();
            let share = (own.len() * most / count).max(usize::from(!own.is_empty()));
            kept.extend((0..share).map(|i| own[i * own.len() / share]));
        }
        kept.sort_unstable();
        let data = kept.iter().flat_map(|row| self.bank.row(*row).iter().copied()).collect();
        Self {
            bank: Matrix { rows: kept.len(), cols: self.bank.cols, data },
            targets: kept.iter().map(|row| self.targets[*row]).collect(),
        }
    }

    /// Share of the votes for each of `values` values, `values` numbers a query. `queries` must be of length 1 too.
    pub fn votes(&self, queries: &Matrix, values: usize) -> Vec<f32> {
        votes(&self.bank, |row| usize::from(self.targets[row]), queries, values, NEIGHBOURS)
    }
}

/// Share of the votes of the `k` rows of `bank` that are most similar to each query, for each of `values` values;
/// `target` is the value of a row. All rows are of length 1.
pub fn votes(
    bank: &Matrix,
    target: impl Fn(usize) -> usize,
    queries: &Matrix,
    values: usize,
    k: usize,
) -> Vec<f32> {
    let mut similar = Matrix::zeros(queries.rows, bank.rows);
    let mut out = vec![0.0; queries.rows * values];
    if !multiply(queries, As::Is, bank, As::Transposed, 0.0, &mut similar) {
        return out;
    }
    let k = k.min(bank.rows);
    let mut order: Vec<usize> = Vec::new();
    for (query, votes) in out.chunks_exact_mut(values.max(1)).enumerate() {
        let row = similar.row(query);
        order.clear();
        order.extend(0..row.len());
        if k < row.len() {
            order.select_nth_unstable_by(k, |a, b| row[*b].total_cmp(&row[*a]));
        }
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        for i in &order[..k] {
            let vote = ((row[*i] - top) / TEMPERATURE).exp();
            total += vote;
            if let Some(v) = votes.get_mut(target(*i)) {
                *v += vote;
            }
        }
        votes.iter_mut().for_each(|v| *v /= total.max(1e-12));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_vote_by_their_similarity() {
        let bank = Matrix { rows: 3, cols: 2, data: vec![1.0, 0.0, 0.0, 1.0, 0.8, 0.6] };
        let knn = Knn { bank, targets: vec![0, 1, 1] };
        let queries = Matrix { rows: 1, cols: 2, data: vec![1.0, 0.0] };
        // Similarities 1, 0 and 0.8.
        let weights = [1.0f32, (-1.0 / 0.07f32).exp(), (-0.2 / 0.07f32).exp()];
        let total: f32 = weights.iter().sum();
        let votes = knn.votes(&queries, 2);
        assert!((votes[0] - weights[0] / total).abs() < 1e-6, "{votes:?}");
        assert!((votes[1] - (weights[1] + weights[2]) / total).abs() < 1e-6);
    }

    #[test]
    fn thinning_keeps_each_value_in_its_share() {
        let targets: Vec<u8> = (0..100).map(|i| u8::from(i < 20)).chain([2]).collect();
        let bank = Matrix { rows: 101, cols: 1, data: (0u8..101).map(f32::from).collect() };
        let thin = Knn { bank, targets }.thinned(10);
        assert_eq!(thin.targets, [1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(thin.bank.data, [0.0, 20.0, 31.0, 42.0, 54.0, 65.0, 77.0, 88.0, 100.0]);
        assert_eq!(thin.clone().thinned(9), thin);
    }

    #[test]
    fn only_the_nearest_twenty_vote() {
        let mut data = vec![];
        let mut targets = vec![];
        for i in 0..60 {
            // Twenty at similarity 0.6 of value 0, forty at 0 of value 1.
            data.extend(if i % 3 == 0 { [0.6, 0.8] } else { [0.0, 1.0] });
            targets.push(u8::from(i % 3 != 0));
        }
        let knn = Knn { bank: Matrix { rows: 60, cols: 2, data }, targets };
        let votes = knn.votes(&Matrix { rows: 1, cols: 2, data: vec![1.0, 0.0] }, 2);
        assert_eq!(votes, [1.0, 0.0]);
    }
}
