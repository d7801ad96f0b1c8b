//! The measures, by their usual definitions. Pure.

use serde::Serialize;

/// How often each class was taken for each.
#[derive(Debug, Clone, PartialEq)]
pub struct Confusion {
    classes: usize,
    /// `counts[truth * classes + found]`.
    counts: Vec<u64>,
}

impl Confusion {
    /// Nothing counted yet.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts one; what is no class is not counted.
    pub fn add(&mut self, truth: usize, found: usize) {
        if truth < self.classes && found < self.classes {
            self.counts[truth * self.classes + found] += 1;
        }
    }

    fn row(&self, class: usize) -> u64 {
        self.counts[class * self.classes..(class + 1) * self.classes].iter().sum()
    }

    fn column(&self, class: usize) -> u64 {
        (0..self.classes).map(|truth| self.counts[truth * self.classes + class]).sum()
    }

    fn right(&self, class: usize) -> u64 {
        self.counts[class * self.classes + class]
    }

    fn mean(values: impl Iterator<Item = f64>) -> f64 {
        let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        sum / f64::max(count, 1.0)
    }

    /// Intersection over union of a class; none when it is neither there nor found.
    pub fn iou(&self, class: usize) -> Option<f64> {
        let union = self.row(class) + self.column(class) - self.right(class);
        (union > 0).then(|| self.right(class) as f64 / union as f64)
    }

    /// Mean over the classes that have one.
    pub fn mean_iou(&self) -> f64 {
        Self::mean((0..self.classes).filter_map(|class| self.iou(class)))
    }

    /// Share of all that was found right.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.classes).map(|class| self.right(class)).sum();
        right as f64 / self.counts.iter().sum::<u64>().max(1) as f64
    }

    /// Mean over the classes that are there of the share of each that was found right.
    pub fn mean_class_accuracy(&self) -> f64 {
        let there = (0..self.classes).filter(|class| self.row(*class) > 0);
        Self::mean(there.map(|class| self.right(class) as f64 / self.row(class) as f64))
    }
}

/// How far a depth is from the truth.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct DepthScore {
    /// Root of the mean square error, metres.
    pub rmse_m: f64,
    /// Mean of the error over the truth.
    pub abs_rel: f64,
    /// Share of pixels whose depth is within a factor of 1.25.
    pub delta_1: f64,
    /// Mean absolute error of the decimal logarithm.
    pub log10: f64,
    /// Standard deviation of the error of the natural logarithm, times 100 (Eigen's scale-invariant error as it is
    /// reported).
    pub silog: f64,
}

/// Sums of one picture.
#[derive(Debug, Clone, Copy, Default)]
pub struct DepthSums {
    count: f64,
    square: f64,
    relative: f64,
    close: f64,
    log10: f64,
    log: f64,
    log_square: f64,
}

impl DepthSums {
    /// Counts one pixel; both in metres and above 0.
    pub fn add(&mut self, truth_m: f64, found_m: f64) {
        let error = found_m - truth_m;
        let log = (found_m / truth_m).ln();
        self.count += 1.0;
        self.square += error * error;
        self.relative += error.abs() / truth_m;
        self.close += f64::from(u8::from((found_m / truth_m).max(truth_m / found_m) < 1.25));
        self.log10 += log.abs() / std::f64::consts::LN_10;
        self.log += log;
        self.log_square += log * log;
    }

    /// The picture's score; none without a pixel.
    pub fn score(&self) -> Option<DepthScore> {
        let n = self.count;
        (n > 0.0).then(|| DepthScore {
            rmse_m: (self.square / n).sqrt(),
            abs_rel: self.relative / n,
            delta_1: self.close / n,
            log10: self.log10 / n,
            silog: 100.0 * (self.log_square / n - (self.log / n).powi(2)).max(0.0).sqrt(),
        })
    }
}

impl DepthScore {
    /// Mean over pictures; none without one.
    pub fn mean(pictures: &[Self]) -> Option<Self> {
        let n = pictures.len() as f64;
        let mean = |of: fn(&Self) -> f64| pictures.iter().map(of).sum::<f64>() / n;
        (n > 0.0).then(|| Self {
            rmse_m: mean(|s| s.rmse_m),
            abs_rel: mean(|s| s.abs_rel),
            delta_1: mean(|s| s.delta_1),
            log10: mean(|s| s.log10),
            silog: mean(|s| s.silog),
        })
    }
}

/// Average precision of a ranking, best first: the mean, over the relevant, of the share of relevant ones down to each.
/// None when nothing in it is relevant.
pub fn average_precision(ranked: impl Iterator<Item = bool>) -> Option<f64> {
    let (mut found, mut sum) = (0.0, 0.0);
    for (rank, relevant) in (1u32..).zip(ranked) {
        if relevant {
            found += 1.0;
            sum += found / f64::from(rank);
        }
    }
    (found > 0.0).then(|| sum / found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_confusion() {
        let mut confusion = Confusion::new(3);
        for (truth, found, times) in [(0, 0, 6), (0, 1, 2), (1, 1, 3), (1, 0, 1)] {
            (0..times).for_each(|_| confusion.add(truth, found));
        }
        confusion.add(255, 0);
        assert_eq!(
            (confusion.iou(0), confusion.iou(1), confusion.iou(2)),
            (Some(6.0 / 9.0), Some(0.5), None)
        );
        assert!((confusion.mean_iou() - 7.0 / 12.0).abs() < 1e-12);
        assert_eq!((confusion.accuracy(), confusion.mean_class_accuracy()), (0.75, 0.75));
    }

    #[test]
    fn depth_by_hand() {
        let mut sums = DepthSums::default();
        assert_eq!(sums.score(), None);
        sums.add(2.0, 3.0);
        sums.add(10.0, 10.0);
        let score = sums.score().unwrap();
        assert!((score.rmse_m - 0.5f64.sqrt()).abs() < 1e-12 && (score.abs_rel - 0.25).abs() < 1e-12);
        assert_eq!(score.delta_1, 0.5);
        assert!((score.log10 - 1.5f64.log10() / 2.0).abs() < 1e-12);
        // Errors of the logarithm are l and 0: their deviation is l / 2.
        assert!((score.silog - 50.0 * 1.5f64.ln()).abs() < 1e-9);
        let twice = DepthScore::mean(&[score, DepthScore::default()]).unwrap();
        assert_eq!(twice.delta_1, 0.25);
        assert_eq!(DepthScore::mean(&[]), None);
    }

    #[test]
    fn precision_of_a_ranking() {
        let ranked = [true, false, true, false, false, true];
        let want = (1.0 + 2.0 / 3.0 + 3.0 / 6.0) / 3.0;
        assert!((average_precision(ranked.into_iter()).unwrap() - want).abs() < 1e-12);
        assert_eq!(average_precision([false].into_iter()), None);
    }
}
