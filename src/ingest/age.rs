//! When a picture was truly taken. Pure: time is an argument.
//!
//! A stream carries its own clock. Arrival minus stream time is an offset; the lowest offset seen is taken
//! for "no lag", and what is above it is the picture's age. The lowest offset may rise by 200 ppm, more than
//! the quartz of a camera drifts, so that drift does not look like age for ever. What delay is the same for
//! every picture (the camera's own) cannot be seen: it is a setting and added here.
//!
//! A new session needs a new [`CaptureClock`]. Some servers begin with a burst of old pictures: until the
//! first picture comes at the stream's own pace, nobody can tell how old one is, so none is given out.

use std::time::Duration;

use crate::clock::Timestamp;

/// Drift that is forgiven: 200 microseconds a second.
const DRIFT_PPM: i128 = 200;
/// How long a first burst is believed to be one.
const SETTLE_AT_MOST: Duration = Duration::from_secs(2);
/// Lag that counts as lasting.
const LASTING_LAG: Duration = Duration::from_secs(1);
/// How long a lag must last, not falling, before the session is given up.
const LAG_WINDOW: Duration = Duration::from_secs(5);

/// What is known of one picture's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// When it was taken. Never after its arrival.
    pub captured: Timestamp,
    /// Arrival minus capture.
    pub age: Duration,
    /// False while the session begins with a burst: the picture may be older than it says.
    pub settled: bool,
    /// The lag has lasted for 5 s at normal pace: the camera's clock jumped, or a queue on the way never
    /// empties. Only a new session helps.
    pub lag_lasts: bool,
}

/// Turns arrival and stream time into capture time, for one session.
#[derive(Debug)]
pub struct CaptureClock {
    camera_latency: Duration,
    floor: Option<Floor>,
    last: Option<(Timestamp, Duration)>,
    first_arrival: Option<Timestamp>,
    settled: bool,
    lag: Option<Lag>,
}

#[derive(Debug, Clone, Copy)]
struct Floor {
    offset_ns: i128,
    at: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct Lag {
    since: Timestamp,
    age_then: Duration,
}

impl CaptureClock {
    /// For a new session. `camera_latency` is the delay inside the camera.
    pub fn new(camera_latency: Duration) -> Self {
        Self { camera_latency, floor: None, last: None, first_arrival: None, settled: false, lag: None }
    }

    /// Stamps a picture that arrived at `arrived` and that the stream's clock (with any zero) puts at
    /// `stream_time`.
    pub fn stamp(&mut self, arrived: Timestamp, stream_time: Duration) -> Stamp {
        let offset_ns =
            i128::from(arrived.as_nanos()) - i128::try_from(stream_time.as_nanos()).unwrap_or(i128::MAX);
        let floor_ns = match self.floor {
            Some(floor) => {
                let elapsed = i128::try_from(arrived.since(floor.at).as_nanos()).unwrap_or(0);
                offset_ns.min(floor.offset_ns + elapsed * DRIFT_PPM / 1_000_000)
            }
            None => offset_ns,
        };
        self.floor = Some(Floor { offset_ns: floor_ns, at: arrived });
        let lag = Duration::from_nanos(u64::try_from(offset_ns - floor_ns).unwrap_or(u64::MAX));
        self.settle(arrived, stream_time);
        self.last = Some((arrived, stream_time));
        let age = lag.saturating_add(self.camera_latency);
        Stamp {
            captured: arrived.minus(age),
            age,
            settled: self.settled,
            lag_lasts: self.lag_lasts(arrived, lag),
        }
    }

    /// The first picture that comes at no less than half its pace ends the burst.
    fn settle(&mut self, arrived: Timestamp, stream_time: Duration) {
        let first = *self.first_arrival.get_or_insert(arrived);
        let paced = self.last.is_some_and(|(last_arrived, last_stream)| {
            let step = stream_time.saturating_sub(last_stream);
            !step.is_zero() && arrived.since(last_arrived) >= step / 2
        });
        self.settled |= paced || arrived.since(first) >= SETTLE_AT_MOST;
    }

    fn lag_lasts(&mut self, arrived: Timestamp, lag: Duration) -> bool {
        if lag < LASTING_LAG {
            self.lag = None;
            return false;
        }
        let begun = *self.lag.get_or_insert(Lag { since: arrived, age_then: lag });
        if arrived.since(begun.since) < LAG_WINDOW {
            return false;
        }
        // A backlog that is being worked off falls; give it another window.
        let falls = lag < begun.age_then.mul_f64(0.8);
        self.lag = Some(Lag { since: arrived, age_then: lag });
        !falls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME: u64 = 66_000_000;
    const START: u64 = 1_000_000_000_000;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(START + nanos)
    }

    fn stamps(arrivals: impl IntoIterator<Item = (u64, u64)>) -> Vec<Stamp> {
        let mut clock = CaptureClock::new(Duration::ZERO);
        arrivals
            .into_iter()
            .map(|(arrived, stream)| clock.stamp(at(arrived), Duration::from_nanos(stream)))
            .collect()
    }

    #[test]
    fn camera_latency_is_added() {
        let mut clock = CaptureClock::new(Duration::from_millis(120));
        let stamp = clock.stamp(at(0), Duration::ZERO);
        assert_eq!(stamp.age, Duration::from_millis(120));
        assert_eq!(stamp.captured, at(0).minus(Duration::from_millis(120)));
    }

    #[test]
    fn a_backlog_after_a_stall_is_seen_as_old() {
        // 100 frames in time, then nothing for 3 s, then the backlog at 5 ms a frame.
        let live = (0..100).map(|n| (n * FRAME, n * FRAME));
        let resumed = 99 * FRAME + 3_000_000_000;
        let backlog = (100..140).map(|n| (resumed + (n - 100) * 5_000_000, n * FRAME));
        let all = stamps(live.chain(backlog));
        let first = all[100].age.as_millis();
        assert!((2_900..3_000).contains(&first), "{first}");
        assert!(all[139].age < all[100].age && all[139].age.as_millis() > 500);
        assert!(all[99].settled && !all[139].lag_lasts);
        // Capture order is kept.
        assert!(all.windows(2).all(|pair| pair[0].captured < pair[1].captured));
    }

    #[test]
    fn a_first_burst_is_held_back() {
        // Ten old frames at once, then live ones.
        let burst = (0..10).map(|n| (n * 1_000_000, n * FRAME));
        let live = (10..20).map(|n| (9_000_000 + (n - 9) * FRAME, n * FRAME));
        let all = stamps(burst.chain(live));
        assert!(all[..10].iter().all(|stamp| !stamp.settled));
        assert!(all[11..].iter().all(|stamp| stamp.settled && stamp.age < Duration::from_millis(1)));
    }

    #[test]
    fn a_clock_that_jumped_back_ends_the_session() {
        let before = (0..50).map(|n| (n * FRAME, 3_600_000_000_000 + n * FRAME));
        let after = (50..200).map(|n| (n * FRAME, n * FRAME));
        let all = stamps(before.chain(after));
        let ended = all.iter().position(|stamp| stamp.lag_lasts).expect("noticed");
        let seconds = (ended as u64 - 50) * FRAME / 1_000_000_000;
        assert!((4..=6).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_backlog_being_worked_off_is_not_a_jump() {
        // 10 s late, caught up at twice the pace: takes 10 s, and must not end the session.
        let all = stamps(
            (0..10)
                .map(|n| (n * FRAME, n * FRAME))
                .chain((10..900).map(|n| (10 * FRAME + 10_000_000_000 + (n - 10) * FRAME / 2, n * FRAME))),
        );
        assert!(all.iter().all(|stamp| !stamp.lag_lasts));
    }

    proptest! {
        #[test]
        fn captured_is_never_after_arrival_and_never_goes_back(
            steps in prop::collection::vec((0u64..200_000_000, 1u64..200_000_000), 1..200),
        ) {
            let mut clock = CaptureClock::new(Duration::ZERO);
            let (mut arrived, mut stream, mut last) = (0, 0, None);
            for (gap, step) in steps {
                arrived += gap;
                stream += step;
                let stamp = clock.stamp(at(arrived), Duration::from_nanos(stream));
                prop_assert!(stamp.captured <= at(arrived));
                prop_assert_eq!(at(arrived).since(stamp.captured), stamp.age);
                if let Some(last) = last {
                    prop_assert!(stamp.captured >= last);
                }
                last = Some(stamp.captured);
            }
        }

        #[test]
        fn steady_jitter_gives_small_age(jitter in prop::collection::vec(0u64..40_000_000, 50..300)) {
            let all = stamps(jitter.iter().enumerate().map(|(n, j)| (n as u64 * FRAME + j, n as u64 * FRAME)));
            prop_assert!(all.iter().all(|stamp| stamp.age <= Duration::from_millis(41)));
        }

        #[test]
        fn drift_does_not_accumulate(ppm in -200i64..=200, jitter in 0u64..20_000_000) {
            // A day at a frame a second.
            let all = stamps((0..86_400u64).step_by(7).map(|n| {
                let stream = n * 1_000_000_000;
                let drift = i128::from(stream) * i128::from(ppm) / 1_000_000 + 60_000_000_000;
                let arrived = u64::try_from(i128::from(stream) + drift).unwrap() + (n * 7_919) % (jitter + 1);
                (arrived, stream)
            }));
            prop_assert!(all.iter().all(|stamp| stamp.age <= Duration::from_millis(25)));
        }

        #[test]
        fn a_stall_of_any_length_is_seen(stall_ms in 500u64..20_000) {
            let live = (0..30).map(|n| (n * FRAME, n * FRAME));
            let all = stamps(live.chain([(30 * FRAME + stall_ms * 1_000_000, 30 * FRAME)]));
            let error = all[30].age.as_millis() as i128 - i128::from(stall_ms);
            prop_assert!((-10..=1).contains(&error), "{}", error);
        }
    }
}
