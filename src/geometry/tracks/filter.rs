//! Where a followed thing is and how fast it moves: a Kalman filter on the floor.
//!
//! Motion model: constant velocity, disturbed by white acceleration (Bar-Shalom, Li and Kirubarajan, *Estimation with
//! Applications to Tracking and Navigation*, 2001, section 6.2). What the picture says of a place errs in two ways: by
//! noise that is new in every frame, and by an error that stays while the thing is seen the same way. A filter that
//! took both for noise would be sure after a second of what it sees wrongly all the time. So the lasting error is a
//! part of the state: it is forgotten with the way that the thing goes, not with time, and one that stands still never
//! becomes surer than that.

use crate::geometry::vector::norm2;

/// Spectral density of the acceleration, m²/s³: changes of speed of 0.8 m/s within a second are usual.
const ACCELERATION: f64 = 0.7;
/// Share of a place's variance that is the lasting error's.
const LASTING: f64 = 0.7;
/// After this many metres the lasting error is another one (by 1 - 1/e).
const LASTING_M: f64 = 1.5;
/// A thing whose place is this many times surer or less sure (variance) than when its lasting error began is seen
/// differently: a part of it came out from behind something, or went there. Then the lasting error is another one, too.
const SEEN_DIFFERENTLY: f64 = 2.0;
/// Standard deviation of a new thing's speed along each axis, metres a second.
const NEW_SPEED_MPS: f64 = 1.5;

const N: usize = 6;
type Vector = [f64; N];
type Matrix = [[f64; N]; N];
/// A covariance on the floor.
pub type Covariance = [[f64; 2]; 2];

/// State: place, velocity, lasting error; x and y each.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    state: Vector,
    covariance: Matrix,
    /// Covariance of the sightings since the lasting error began.
    sighting_m2: Covariance,
}

fn trace(m: &Covariance) -> f64 {
    m[0][0] + m[1][1]
}

fn product<const A: usize, const B: usize, const C: usize>(
    a: &[[f64; B]; A],
    b: &[[f64; C]; B],
) -> [[f64; C]; A] {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..B).map(|k| a[i][k] * b[k][j]).sum()))
}

fn transposed<const A: usize, const B: usize>(a: &[[f64; B]; A]) -> [[f64; A]; B] {
    std::array::from_fn(|i| std::array::from_fn(|j| a[j][i]))
}

/// Inverse of a symmetric positive matrix; `None` when it is none.
fn inverse([[a, b], [_, c]]: Covariance) -> Option<Covariance> {
    let determinant = a * c - b * b;
    (determinant > 1e-12).then(|| [[c / determinant, -b / determinant], [-b / determinant, a / determinant]])
}

impl Filter {
    /// A thing that is seen for the first time at a place (metres) with this covariance.
    pub fn new(place_m: [f64; 2], covariance_m2: Covariance) -> Self {
        let mut covariance = [[0.0; N]; N];
        for i in 0..2 {
            for j in 0..2 {
                let r = covariance_m2[i][j];
                covariance[i][j] = r;
                covariance[4 + i][4 + j] = LASTING * r;
                // What the lasting error has moved, the place is wrong by the other way.
                covariance[i][4 + j] = -LASTING * r;
                covariance[4 + i][j] = -LASTING * r;
            }
            covariance[2 + i][2 + i] = NEW_SPEED_MPS * NEW_SPEED_MPS;
        }
        Self { state: [place_m[0], place_m[1], 0.0, 0.0, 0.0, 0.0], covariance, sighting_m2: covariance_m2 }
    }

    /// The place, metres.
    pub fn place_m(&self) -> [f64; 2] {
        [self.state[0], self.state[1]]
    }

    /// Its covariance, square metres.
    pub fn place_covariance_m2(&self) -> Covariance {
        self.part(0)
    }

    /// The velocity, metres a second.
    pub fn velocity_mps(&self) -> [f64; 2] {
        [self.state[2], self.state[3]]
    }

    /// Its covariance.
    pub fn velocity_covariance(&self) -> Covariance {
        self.part(2)
    }

    fn part(&self, at: usize) -> Covariance {
        std::array::from_fn(|i| std::array::from_fn(|j| self.covariance[at + i][at + j]))
    }

    /// Goes on by `dt_s` seconds.
    pub fn predict(&mut self, dt_s: f64) {
        let kept = (-norm2(self.velocity_mps()) * dt_s / LASTING_M).exp();
        let mut step = [[0.0; N]; N];
        for i in 0..2 {
            step[i][i] = 1.0;
            step[i][2 + i] = dt_s;
            step[2 + i][2 + i] = 1.0;
            step[4 + i][4 + i] = kept;
        }
        self.state = std::array::from_fn(|i| (0..N).map(|k| step[i][k] * self.state[k]).sum());
        self.covariance = product(&product(&step, &self.covariance), &transposed(&step));
        for i in 0..2 {
            self.covariance[i][i] += ACCELERATION * dt_s.powi(3) / 3.0;
            self.covariance[i][2 + i] += ACCELERATION * dt_s.powi(2) / 2.0;
            self.covariance[2 + i][i] += ACCELERATION * dt_s.powi(2) / 2.0;
            self.covariance[2 + i][2 + i] += ACCELERATION * dt_s;
            for j in 0..2 {
                // A new error of the same size comes in the place of what is forgotten.
                self.covariance[4 + i][4 + j] += (1.0 - kept * kept) * LASTING * self.sighting_m2[i][j];
            }
        }
    }

    fn begin_another_error(&mut self, covariance_m2: Covariance) {
        self.sighting_m2 = covariance_m2;
        for k in 0..N {
            for b in 4..N {
                (self.covariance[k][b], self.covariance[b][k]) = (0.0, 0.0);
            }
        }
        for (i, row) in covariance_m2.iter().enumerate() {
            self.state[4 + i] = 0.0;
            for (j, value) in row.iter().enumerate() {
                self.covariance[4 + i][4 + j] = LASTING * value;
            }
        }
    }

    /// Square of the distance between where it should be and a place that was seen, in standard deviations, and the
    /// logarithm of the determinant of their covariance: their sum is minus twice the logarithm of the likelihood.
    pub fn surprise(&self, place_m: [f64; 2], covariance_m2: Covariance) -> (f64, f64) {
        let (apart, spread) = self.innovation(place_m, covariance_m2);
        let Some(inverse) = inverse(spread) else { return (f64::INFINITY, 0.0) };
        let square = (0..2).map(|i| (0..2).map(|j| apart[i] * inverse[i][j] * apart[j]).sum::<f64>()).sum();
        (square, (spread[0][0] * spread[1][1] - spread[0][1] * spread[1][0]).ln())
    }

    fn innovation(&self, place_m: [f64; 2], covariance_m2: Covariance) -> ([f64; 2], Covariance) {
        let p = &self.covariance;
        let apart = std::array::from_fn(|i| place_m[i] - self.state[i] - self.state[4 + i]);
        let spread = std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                p[i][j] + p[i][4 + j] + p[4 + i][j] + p[4 + i][4 + j] + (1.0 - LASTING) * covariance_m2[i][j]
            })
        });
        (apart, spread)
    }

    /// Takes a place that was seen. It stays as it was when the covariance is none.
    pub fn update(&mut self, place_m: [f64; 2], covariance_m2: Covariance) {
        let change = trace(&covariance_m2) / trace(&self.sighting_m2);
        if !(1.0 / SEEN_DIFFERENTLY..SEEN_DIFFERENTLY).contains(&change) {
            self.begin_another_error(covariance_m2);
        }
        let (apart, spread) = self.innovation(place_m, covariance_m2);
        let Some(inverse) = inverse(spread) else { return };
        // Covariance of the state with what is seen.
        let with: [[f64; 2]; N] = std::array::from_fn(|k| {
            std::array::from_fn(|i| self.covariance[k][i] + self.covariance[k][4 + i])
        });
        let gain = product(&with, &inverse);
        let less = product(&gain, &transposed(&with));
        for k in 0..N {
            self.state[k] += gain[k][0] * apart[0] + gain[k][1] * apart[1];
            self.covariance[k].iter_mut().zip(&less[k]).for_each(|(old, less)| *old -= less);
        }
        // Rounding must not make it lopsided.
        for k in 0..N {
            for l in 0..k {
                let mean = 0.5 * (self.covariance[k][l] + self.covariance[l][k]);
                (self.covariance[k][l], self.covariance[l][k]) = (mean, mean);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const R: Covariance = [[0.04, 0.0], [0.0, 0.04]];

    #[test]
    fn one_sighting_says_what_it_said() {
        let filter = Filter::new([3.0, 4.0], R);
        assert_eq!((filter.place_m(), filter.place_covariance_m2()), ([3.0, 4.0], R));
        assert!(filter.surprise([3.0, 4.0], R).0 < 1e-12);
        // Two sigmas of two independent errors of which 0.7 are common: 0.16 / (0.3 * 0.04 * 2).
        assert!((filter.surprise([3.4, 4.0], R).0 - 0.16 / 0.024).abs() < 1e-9);
    }

    #[test]
    fn a_steady_walk_is_learned_and_standing_still_is_not_certainty() {
        let mut walking = Filter::new([0.0, 0.0], R);
        let mut standing = walking.clone();
        for i in 1..=30 {
            let t = f64::from(i) * 0.1;
            walking.predict(0.1);
            walking.update([1.5 * t, 0.0], R);
            standing.predict(0.1);
            standing.update([0.0, 0.0], R);
        }
        let [vx, vy] = walking.velocity_mps();
        assert!((vx - 1.5).abs() < 0.1 && vy.abs() < 0.02, "{vx} {vy}");
        assert!(walking.velocity_covariance()[0][0].sqrt() < 0.5);
        // 0.7 of the variance lasts.
        let sigma = standing.place_covariance_m2()[0][0].sqrt();
        assert!((0.16..0.2).contains(&sigma), "{sigma}");
        // Seen better it is known better at once.
        let better = [[0.0025, 0.0], [0.0, 0.0025]];
        let mut clear = standing.clone();
        clear.update([0.05, 0.0], better);
        assert!(clear.place_covariance_m2()[0][0].sqrt() < 0.06, "{:?}", clear.place_covariance_m2());
        assert!((clear.place_m()[0] - 0.05).abs() < 0.02);
        walking.predict(2.0);
        assert!((walking.place_m()[0] - 7.5).abs() < 0.3);
        assert!(walking.place_covariance_m2()[0][0].sqrt() > 0.8, "unseen, it may be anywhere");
    }

    proptest! {
        /// Whatever comes, the covariance stays one and the surprise is a number.
        #[test]
        fn it_stays_sound(
            seen in proptest::collection::vec((-20.0..20.0f64, -20.0..20.0f64, 0.01..3.0f64, -0.9..0.9f64, 0.01..3.0f64), 1..40),
        ) {
            let mut filter = Filter::new([0.0, 0.0], R);
            for (x, y, sigma, correlation, dt_s) in seen {
                let r = [[sigma * sigma, correlation * sigma * sigma], [correlation * sigma * sigma, sigma * sigma]];
                filter.predict(dt_s);
                prop_assert!(filter.surprise([x, y], r).0.is_finite());
                filter.update([x, y], r);
                for at in [0, 2, 4] {
                    let [[a, b], [_, c]] = filter.part(at);
                    prop_assert!(a > 0.0 && c > 0.0 && a * c - b * b > -1e-9, "{:?}", filter);
                }
            }
        }
    }
}
