//! Distances between footprints, with their intervals.

use super::footprint::Footprint;
use super::polygon::{Shortest, polygon_to_line, polygon_to_polygon};
use super::vector::sub2;

/// A distance with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The shortest connection of the most probable places.
    pub shortest: Shortest,
    /// 2.5 % quantile, metres, at least 0.
    pub lower_m: f64,
    /// 97.5 % quantile, metres.
    pub upper_m: f64,
}

/// One component of a mixture of normal distributions.
struct Component {
    weight: f64,
    mean_m: f64,
    sigma_m: f64,
}

/// Distribution function of the standard normal distribution: Abramowitz and Stegun 7.1.26, error below 1.5e-7.
fn normal_cdf(x: f64) -> f64 {
    let z = x.abs() * std::f64::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let poly = t
        * (0.254_829_592
            + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let tail = 0.5 * poly * (-z * z).exp();
    if x > 0.0 { 1.0 - tail } else { tail }
}

fn quantile(components: &[Component], share: f64) -> f64 {
    let mut low = components.iter().map(|c| c.mean_m - 6.0 * c.sigma_m).fold(f64::INFINITY, f64::min);
    let mut high = components.iter().map(|c| c.mean_m + 6.0 * c.sigma_m).fold(f64::NEG_INFINITY, f64::max);
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        let below: f64 =
            components.iter().map(|c| c.weight * normal_cdf((middle - c.mean_m) / c.sigma_m)).sum();
        if below < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

fn quadratic(m: &[[f64; 2]; 2], v: [f64; 2]) -> f64 {
    v[0] * (m[0][0] * v[0] + m[0][1] * v[1]) + v[1] * (m[1][0] * v[0] + m[1][1] * v[1])
}

/// Direction in which the distance grows when the first shape moves; zero when they meet.
fn gradient(s: &Shortest) -> [f64; 2] {
    if s.distance_m > 0.0 { sub2(s.from_m, s.to_m).map(|x| x / s.distance_m) } else { [0.0, 0.0] }
}

/// Least standard deviation of any distance, metres: keeps an overlap (no gradient) from being certain.
const LEAST_SIGMA_M: f64 = 0.1;

fn estimate(best: Shortest, components: &[Component]) -> Estimate {
    Estimate {
        shortest: best,
        lower_m: quantile(components, 0.025).max(0.0).min(best.distance_m),
        upper_m: quantile(components, 0.975).max(best.distance_m),
    }
}

/// Shortest distance from a thing to a polyline. `extra_m2` is a covariance that all hypotheses share (calibration).
/// `None` when the line has no point.
pub fn to_line(thing: &Footprint, line_m: &[[f64; 2]], extra_m2: &[[f64; 2]; 2]) -> Option<Estimate> {
    let mut best = None;
    let mut components = Vec::with_capacity(thing.hypotheses.len());
    for hypothesis in &thing.hypotheses {
        let shortest = polygon_to_line(&hypothesis.outline_m, line_m)?;
        let g = gradient(&shortest);
        let variance =
            quadratic(&hypothesis.covariance_m2, g) + quadratic(extra_m2, g) + thing.shape_sigma_m.powi(2);
        components.push(Component {
            weight: hypothesis.weight,
            mean_m: shortest.distance_m,
            sigma_m: variance.sqrt().max(LEAST_SIGMA_M),
        });
        best.get_or_insert(shortest);
    }
    Some(estimate(best?, &components))
}

/// Shortest distance between two things. `extra_m2` is the covariance of where the one stands as seen from the other that
/// all hypotheses share (calibration).
pub fn between(a: &Footprint, b: &Footprint, extra_m2: &[[f64; 2]; 2]) -> Option<Estimate> {
    let mut best = None;
    let mut components = Vec::with_capacity(a.hypotheses.len() * b.hypotheses.len());
    for p in &a.hypotheses {
        for q in &b.hypotheses {
            let shortest = polygon_to_polygon(&p.outline_m, &q.outline_m)?;
            let g = gradient(&shortest);
            let variance = quadratic(&p.covariance_m2, g)
                + quadratic(&q.covariance_m2, g)
                + quadratic(extra_m2, g)
                + a.shape_sigma_m.powi(2)
                + b.shape_sigma_m.powi(2);
            components.push(Component {
                weight: p.weight * q.weight,
                mean_m: shortest.distance_m,
                sigma_m: variance.sqrt().max(LEAST_SIGMA_M),
            });
            best.get_or_insert(shortest);
        }
    }
    Some(estimate(best?, &components))
}

#[cfg(test)]
mod tests {
    use super::super::footprint::Hypothesis;
    use super::*;

    fn square_at(x: f64, y: f64, weight: f64, sigma: f64) -> Hypothesis {
        Hypothesis {
            outline_m: vec![[x - 0.5, y - 0.5], [x + 0.5, y - 0.5], [x + 0.5, y + 0.5], [x - 0.5, y + 0.5]],
            middle_m: [x, y],
            heading_rad: None,
            weight,
            covariance_m2: [[sigma * sigma, 0.0], [0.0, sigma * sigma]],
        }
    }

    const NONE: [[f64; 2]; 2] = [[0.0; 2]; 2];
    const EDGE: [[f64; 2]; 2] = [[-10.0, 0.0], [10.0, 0.0]];

    #[test]
    fn one_hypothesis_gives_1_96_sigma() {
        let thing = Footprint { hypotheses: vec![square_at(0.0, 3.5, 1.0, 0.4)], shape_sigma_m: 0.3 };
        let got = to_line(&thing, &EDGE, &NONE).unwrap();
        assert_eq!(got.shortest.distance_m, 3.0);
        // sigma = sqrt(0.4^2 + 0.3^2) = 0.5
        assert!((got.lower_m - (3.0 - 0.98)).abs() < 1e-3, "{got:?}");
        assert!((got.upper_m - (3.0 + 0.98)).abs() < 1e-3, "{got:?}");
    }

    #[test]
    fn a_second_place_widens_its_side_only() {
        let hypotheses = vec![square_at(0.0, 3.5, 0.7, 0.1), square_at(0.0, 5.5, 0.3, 0.1)];
        let got = to_line(&Footprint { hypotheses, shape_sigma_m: 0.0 }, &EDGE, &NONE).unwrap();
        assert_eq!(got.shortest.distance_m, 3.0);
        assert!(got.lower_m > 2.75 && got.upper_m > 5.0, "{got:?}");
    }

    #[test]
    fn distance_between_things_adds_both_uncertainties() {
        let a = Footprint { hypotheses: vec![square_at(0.0, 0.0, 1.0, 0.3)], shape_sigma_m: 0.0 };
        let b = Footprint { hypotheses: vec![square_at(4.0, 0.0, 1.0, 0.4)], shape_sigma_m: 0.0 };
        let got = between(&a, &b, &NONE).unwrap();
        assert_eq!(got.shortest.distance_m, 3.0);
        assert!((got.upper_m - 3.98).abs() < 1e-3, "{got:?}");
        let extra = [[0.0, 0.0], [0.0, 9.0]];
        // Uncertainty across the connection does not count.
        assert!((between(&a, &b, &extra).unwrap().upper_m - 3.98).abs() < 1e-3);
    }

    #[test]
    fn overlap_is_zero_but_not_certain() {
        let a = Footprint { hypotheses: vec![square_at(0.0, 0.2, 1.0, 0.3)], shape_sigma_m: 0.0 };
        let got = to_line(&a, &EDGE, &NONE).unwrap();
        assert_eq!((got.shortest.distance_m, got.lower_m), (0.0, 0.0));
        assert!(got.upper_m > 0.1);
    }
}
