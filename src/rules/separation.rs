//! How far apart things must be for the time that a warning takes to matter. Pure.
//!
//! The form is that of ISO 13855: a distance covered at a speed during the whole delay of the system, plus a
//! constant part. Ours is `S = v * (measured latency + reaction) + stopping`. It is used to choose when to warn
//! and is **advisory**: it makes standoff neither a protective device nor conformant with that standard. The
//! uncertainty of the measured distance is not in `S`, because the near end of its interval is what `S` is
//! compared with.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::Distance;

/// What a rule with separation by speed knows beside the speed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Separation {
    /// From the moment at which the alarm was decided until whoever hears it acts: the broker, the siren, the driver.
    pub reaction: Duration,
    /// How far the thing still goes when it stops.
    pub stopping: Stopping,
    /// The approach speed that counts while none is measured, metres a second.
    pub max_speed_mps: f64,
}

/// The distance from braking to standstill.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stopping {
    /// The same at every speed, metres.
    Fixed(f64),
    /// `v² / (2 a)` with this `a`, metres a second per second.
    Deceleration(f64),
}

impl Separation {
    /// The distance that is asked for, metres. `latency` is from the capture of a picture to the decision.
    ///
    /// The upper end of the approach speed's interval counts; where it is not measured, the highest speed that the rule
    /// knows. A thing that surely moves away counts as standing.
    pub fn distance_m(&self, distance: &Distance, latency: Duration) -> f64 {
        let v_mps = distance.fastest_mps().unwrap_or(self.max_speed_mps).max(0.0);
        let stopping_m = match self.stopping {
            Stopping::Fixed(metres) => metres,
            Stopping::Deceleration(mps2) => v_mps * v_mps / (2.0 * mps2),
        };
        v_mps * (latency + self.reaction).as_secs_f64() + stopping_m
    }
}

/// Latencies that are kept; at four pictures a second two minutes of them.
const KEPT: usize = 512;
/// Fewer say nothing about the slowest hundredth.
const ENOUGH: usize = 100;

/// The measured latency of one camera, capture to decision.
#[derive(Debug, Clone, Default)]
pub struct Latency {
    newest: VecDeque<Duration>,
}

impl Latency {
    /// Takes one more; the oldest is forgotten when there are `KEPT`.
    pub fn note(&mut self, latency: Duration) {
        if self.newest.len() == KEPT {
            self.newest.pop_front();
        }
        self.newest.push_back(latency);
    }

    /// The 99th percentile (nearest rank). Until enough were seen it is `at_first`, for which `stale_after` is the
    /// choice: what takes longer is no evidence anyway.
    pub fn p99(&self, at_first: Duration) -> Duration {
        if self.newest.len() < ENOUGH {
            return at_first;
        }
        let mut sorted: Vec<Duration> = self.newest.iter().copied().collect();
        let rank = (sorted.len() * 99).div_ceil(100) - 1;
        let (_, value, _) = sorted.select_nth_unstable(rank);
        *value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::types::{ClassName, DistanceKind};

    fn approaching(approach_mps: Option<f64>) -> Distance {
        Distance {
            nearest_m: 5.0,
            lower_m: 4.5,
            upper_m: 5.5,
            kind: DistanceKind::Value,
            from_ground: [0.0; 2],
            to_ground: [0.0; 2],
            from: ClassName::new("forklift").unwrap(),
            from_index: Some(0),
            to_index: None,
            from_track: None,
            to_track: None,
            others: vec![],
            to_edge: None,
            approach_mps,
            approach_sigma_mps: None,
            captured: Timestamp::default(),
        }
    }

    #[test]
    fn speed_times_delay_and_the_way_to_a_stop() {
        let separation = Separation {
            reaction: Duration::from_millis(1500),
            stopping: Stopping::Deceleration(2.0),
            max_speed_mps: 4.0,
        };
        let ask =
            |approach_mps| separation.distance_m(&approaching(approach_mps), Duration::from_millis(500));
        assert_eq!(ask(Some(3.0)), 3.0 * 2.0 + 9.0 / 4.0);
        assert_eq!(ask(Some(0.0)), 0.0);
        assert_eq!(ask(Some(-2.0)), 0.0, "it moves away");
        let worst = 4.0 * 2.0 + 16.0 / 4.0;
        assert_eq!((ask(None), ask(Some(f64::NAN)), ask(Some(f64::INFINITY))), (worst, worst, worst));
        let fixed = Separation { stopping: Stopping::Fixed(0.8), ..separation };
        assert_eq!(fixed.distance_m(&approaching(Some(-2.0)), Duration::ZERO), 0.8);
    }

    #[test]
    fn the_percentile_is_of_the_newest_and_pessimistic_at_first() {
        let ms = Duration::from_millis;
        let mut latency = Latency::default();
        (1..100).for_each(|i| latency.note(ms(i)));
        assert_eq!(latency.p99(ms(1000)), ms(1000));
        latency.note(ms(100));
        assert_eq!(latency.p99(ms(1000)), ms(99));
        (0..KEPT).for_each(|_| latency.note(ms(7)));
        assert_eq!(latency.p99(ms(1000)), ms(7));
        assert_eq!(latency.newest.len(), KEPT);
    }
}
