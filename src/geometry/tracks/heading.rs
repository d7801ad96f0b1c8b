//! Which way a followed thing heads: a belief over all directions on the floor.
//!
//! A single frame often cannot tell front from rear, or a forklift from one turned by 60 degrees. Over time it can: it
//! turns slowly, and it drives along its length, forwards or backwards.

use std::f64::consts::{PI, TAU};

use crate::geometry::footprint::Hypothesis;

/// Directions that are told apart.
const BINS: usize = 72;
/// How fast a thing that drives turns: standard deviation of the heading after a second, radians. One that stands does
/// not turn.
const TURN_RAD: f64 = 0.3;
/// From this speed on it turns as fast as that, metres a second.
const TURNS_FROM_MPS: f64 = 0.7;
/// What frames say of the heading errs together as long as the thing is seen the same way; after so many metres of its
/// own way a frame says something new. Until then only as much of its likelihood counts (as a power).
const NEW_AFTER_M: f64 = 1.5;
/// The least power with which the frame at hand is weighed against what was believed.
const LEAST_POWER: f64 = 0.3;
/// So long the velocity errs in the same way, seconds.
const STEADY_S: f64 = 0.5;
/// No frame makes a direction less likely than this share of its best one: it may be altogether wrong.
const DOUBT: f64 = 0.02;
/// Slower than this the motion says nothing of the heading, metres a second.
const LEAST_SPEED_MPS: f64 = 0.5;
/// Standard deviation of the heading about the line of motion, radians.
const ALONG_RAD: f64 = 0.15;
/// Width of what a hypothesis says, radians: its neighbours are 15 degrees away.
const WIDTH_RAD: f64 = 0.2;

/// What is believed.
#[derive(Debug, Clone, PartialEq)]
pub struct Belief {
    /// How likely each direction is; they sum up to 1.
    directions: [f64; BINS],
    /// Whether any frame has said something.
    seen: bool,
    /// The thing's way since the last one that did.
    way_m: f64,
}

fn direction(bin: usize) -> f64 {
    TAU * bin as f64 / BINS as f64
}

/// The angle in -pi to pi.
fn wrapped(angle: f64) -> f64 {
    (angle + PI).rem_euclid(TAU) - PI
}

fn normal(angle: f64, sigma: f64) -> f64 {
    (-0.5 * (angle / sigma).powi(2)).exp()
}

impl Default for Belief {
    fn default() -> Self {
        Self { directions: [1.0 / BINS as f64; BINS], seen: false, way_m: 0.0 }
    }
}

impl Belief {
    fn times(&mut self, likelihood: impl Fn(f64) -> f64) {
        (0..BINS).for_each(|bin| self.directions[bin] *= likelihood(direction(bin)).max(1e-12));
        let total: f64 = self.directions.iter().sum();
        self.directions.iter_mut().for_each(|p| *p /= total);
    }

    /// How likely a heading is against the likeliest one.
    fn of(&self, heading_rad: f64) -> f64 {
        let bin = (heading_rad.rem_euclid(TAU) / TAU * BINS as f64).round() as usize % BINS;
        self.directions[bin] / self.directions.iter().copied().fold(0.0, f64::max)
    }

    /// Goes on by `dt_s` seconds in which it moved with this velocity.
    pub fn predict(&mut self, dt_s: f64, velocity_mps: [f64; 2]) {
        let speed = velocity_mps[0].hypot(velocity_mps[1]);
        self.way_m += speed * dt_s;
        let sigma = TURN_RAD * (speed / TURNS_FROM_MPS).min(1.0) * dt_s.sqrt();
        let kernel: Vec<f64> =
            (0..BINS).map(|apart| normal(wrapped(direction(apart)), sigma.max(1e-3)) + 1e-4).collect();
        let before = self.directions;
        for (bin, p) in self.directions.iter_mut().enumerate() {
            *p = (0..BINS).map(|from| before[from] * kernel[(BINS + bin - from) % BINS]).sum();
        }
        let total: f64 = self.directions.iter().sum();
        self.directions.iter_mut().for_each(|p| *p /= total);
        let [vx, vy] = velocity_mps;
        let along = vy.atan2(vx);
        if speed > LEAST_SPEED_MPS {
            // Forwards or backwards.
            let off = |heading: f64| wrapped(2.0 * (heading - along)) / 2.0;
            self.times(|heading| normal(off(heading), ALONG_RAD).max(DOUBT).powf((dt_s / STEADY_S).min(1.0)));
        }
    }

    /// Weighs what a frame says by what was believed before, the likeliest hypothesis first, and believes it. Those
    /// without a heading stay as they are.
    pub fn weigh(&mut self, hypotheses: &mut [Hypothesis]) {
        let before = self.clone();
        let said: Vec<(f64, f64)> =
            hypotheses.iter().filter_map(|h| Some((h.heading_rad?, h.weight))).collect();
        if said.len() < hypotheses.len() {
            return;
        }
        let likelihood =
            |heading: f64| said.iter().map(|(h, w)| w * normal(wrapped(heading - h), WIDTH_RAD)).sum::<f64>();
        let best = (0..BINS).map(|bin| likelihood(direction(bin))).fold(1e-12, f64::max);
        let power = if self.seen { 1.0 - (-self.way_m / NEW_AFTER_M).exp() } else { 1.0 };
        (self.seen, self.way_m) = (true, 0.0);
        self.times(|heading| (likelihood(heading) / best).max(DOUBT).powf(power));
        for (h, (heading, _)) in hypotheses.iter_mut().zip(&said) {
            h.weight = h.weight.powf(power.max(LEAST_POWER)) * before.of(*heading).max(DOUBT);
        }
        let total: f64 = hypotheses.iter().map(|h| h.weight).sum();
        hypotheses.iter_mut().for_each(|h| h.weight /= total);
        hypotheses.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hypothesis(heading_rad: f64, weight: f64) -> Hypothesis {
        Hypothesis {
            outline_m: vec![],
            middle_m: [0.0; 2],
            heading_rad: Some(heading_rad),
            weight,
            covariance_m2: [[0.0; 2]; 2],
        }
    }

    #[test]
    fn a_frame_that_cannot_tell_is_helped_by_those_before() {
        let mut belief = Belief::default();
        belief.weigh(&mut [hypothesis(1.0, 1.0)]);
        belief.predict(0.1, [0.0; 2]);
        let mut unsure = [hypothesis(1.0 + PI, 0.6), hypothesis(1.0, 0.4)];
        belief.weigh(&mut unsure);
        assert!((unsure[0].heading_rad.unwrap() - 1.0).abs() < 1e-9 && unsure[0].weight > 0.8, "{unsure:?}");
    }

    #[test]
    fn it_drives_along_its_length_whichever_way() {
        let mut belief = Belief::default();
        for _ in 0..20 {
            belief.predict(0.1, [0.0, -1.5]);
        }
        let mut said = [hypothesis(0.2, 0.5), hypothesis(PI / 2.0, 0.3), hypothesis(-PI / 2.0, 0.2)];
        belief.weigh(&mut said);
        assert!((said[0].heading_rad.unwrap() - PI / 2.0).abs() < 1e-9);
        assert!((said[0].weight / said[1].weight - 1.5).abs() < 1e-3, "front and rear stay as they were");
    }

    #[test]
    fn what_stands_is_seen_once_and_does_not_turn() {
        let mut belief = Belief::default();
        (0..20).for_each(|_| belief.predict(0.1, [0.0, 1.5]));
        for _ in 0..100 {
            // A frame that errs by 20 degrees does so a hundred times.
            belief.weigh(&mut [hypothesis(PI / 2.0 + 0.35, 1.0)]);
            belief.predict(0.1, [0.0; 2]);
        }
        assert!(belief.of(PI / 2.0) > belief.of(PI / 2.0 + 0.35));
    }

    #[test]
    fn what_drives_may_turn() {
        let mut belief = Belief::default();
        belief.weigh(&mut [hypothesis(0.0, 1.0)]);
        for i in 0..30 {
            let heading = 0.7 * f64::from(i) * 0.1;
            belief.predict(0.1, [heading.cos(), heading.sin()]);
            belief.weigh(&mut [hypothesis(heading, 1.0)]);
        }
        assert!(belief.of(2.0) > 5.0 * belief.of(1.2), "{} {}", belief.of(2.0), belief.of(1.2));
    }
}
