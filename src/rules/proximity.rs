//! A pair's distance against a warning and an alarm distance.

use std::time::Duration;

use super::{Rule, Separation};
use crate::types::{Distance, DistanceKind, Level, MetricScene, PairId, Reading, Reason, Verdict};

/// Limits of a pair, all in metres on the floor. The lower end of the distance's 95 % interval is compared.
#[derive(Debug, Clone, PartialEq)]
pub struct ProximitySettings {
    /// The pair whose distance counts.
    pub pair: PairId,
    /// At or below this it is a warning; none means that there are only alarms.
    pub warning_m: Option<f64>,
    /// At or below this it is an alarm.
    pub alarm_m: f64,
    /// Above this a warning may be left; at least `warning_m`.
    pub leave_warning_m: Option<f64>,
    /// Above this an alarm may be left; at least `alarm_m`.
    pub leave_alarm_m: f64,
    /// Separation by speed: the alarm comes at what it asks for, where that is more than `alarm_m`.
    pub separation: Option<Separation>,
    /// The alarm comes also when the two may touch within this time at the speed at which they approach.
    pub alarm_contact: Option<Duration>,
}

impl ProximitySettings {
    /// What separation by speed asks for, metres, when the rule has it.
    pub fn separation_m(&self, distance: &Distance, latency: Duration) -> Option<f64> {
        self.separation.map(|separation| separation.distance_m(distance, latency))
    }
}

/// An alarm by contact may be left when contact is this many times as far away.
const LEAVE_CONTACT: f64 = 1.5;

/// The rule.
#[derive(Debug)]
pub struct Proximity {
    settings: ProximitySettings,
}

impl Proximity {
    /// From its settings.
    pub fn new(settings: ProximitySettings) -> Self {
        Self { settings }
    }

    /// By the distances of entering; `more_m` is what separation by speed adds to the alarm distance.
    fn entered(&self, distance_m: f64, more_m: f64) -> Level {
        level(distance_m, self.settings.warning_m, self.settings.alarm_m + more_m)
    }

    /// By the distances of leaving: the alarm's moves along with what separation adds.
    fn left(&self, distance_m: f64, more_m: f64) -> Level {
        let warning_m = self.settings.leave_warning_m.or(self.settings.warning_m);
        level(distance_m, warning_m, self.settings.leave_alarm_m + more_m)
    }

    /// The nearest decides together with all others of the pair: one that comes fast may be more urgent.
    fn weigh(&self, distance: &Distance, latency: Duration) -> Verdict {
        let others = distance.others.iter().map(|other| self.weigh_one(other, latency));
        others.fold(self.weigh_one(distance, latency), |all, one| match (all, one) {
            (Verdict::Evidence { raise: a, hold: b }, Verdict::Evidence { raise: c, hold: d }) => {
                Verdict::Evidence { raise: a.max(c), hold: b.max(d) }
            }
            // What may be near outside of the picture does not calm what is seen.
            (Verdict::NoEvidence(_), one @ Verdict::Evidence { raise, .. }) if raise > Level::Safe => one,
            (all, _) => all,
        })
    }

    fn weigh_one(&self, distance: &Distance, latency: Duration) -> Verdict {
        let separation_m = self.settings.separation_m(distance, latency);
        let more_m = separation_m.map_or(0.0, |asked_m| (asked_m - self.settings.alarm_m).max(0.0));
        let contact = |metres: f64, times: f64| {
            let within = self.settings.alarm_contact.filter(|_| is_approaching(distance));
            let soonest_s = distance.fastest_mps().filter(|speed| *speed > 0.0).map(|speed| metres / speed);
            let soon = soonest_s.zip(within).is_some_and(|(s, within)| s <= times * within.as_secs_f64());
            if soon { Level::TooNear } else { Level::Safe }
        };
        let entered = |metres: f64| self.entered(metres, more_m).max(contact(metres, 1.0));
        let left = |metres: f64| self.left(metres, more_m).max(contact(metres, LEAVE_CONTACT));
        let raise = entered(distance.lower_m);
        let hold = left(distance.lower_m).max(raise);
        match distance.kind {
            DistanceKind::Value => Verdict::Evidence { raise, hold },
            DistanceKind::AtMost { floor_m } => {
                // What lies outside the picture may be nearer than what is seen. The part that is seen may
                // raise a state, but nothing may be taken for calm that the unseen part could contradict.
                let unseen = entered(floor_m);
                if raise == Level::Safe && unseen > Level::Safe {
                    Verdict::NoEvidence(Reason::CutByPictureEdge)
                } else {
                    Verdict::Evidence { raise, hold: hold.max(left(floor_m)) }
                }
            }
        }
    }
}

/// Whether two things approach each other by more than the uncertainty of their speed.
fn is_approaching(distance: &Distance) -> bool {
    let sigma = distance.approach_sigma_mps.unwrap_or(0.0);
    distance.approach_mps.is_some_and(|speed| speed > sigma)
}

fn level(distance_m: f64, warning_m: Option<f64>, alarm_m: f64) -> Level {
    // A distance that is not a number counts as too near.
    if distance_m.is_nan() || distance_m <= alarm_m {
        Level::TooNear
    } else if warning_m.is_some_and(|limit| distance_m <= limit) {
        Level::Near
    } else {
        Level::Safe
    }
}

impl Rule for Proximity {
    fn judge(&mut self, scene: &MetricScene, latency: Duration) -> Verdict {
        let reading =
            scene.pairs.iter().find(|pair| pair.pair == self.settings.pair).map(|pair| &pair.reading);
        match reading {
            Some(Reading::Measured(distance)) => self.weigh(distance, latency),
            Some(Reading::Absent) => Verdict::Evidence { raise: Level::Safe, hold: Level::Safe },
            Some(Reading::Unavailable(reason)) => Verdict::NoEvidence(*reason),
            None => Verdict::NoEvidence(Reason::HeadFailed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Timestamp, UtcMillis};
    use crate::types::{CameraId, ClassName, PairReading};

    fn judge(reading: Reading) -> Verdict {
        judge_with(None, None, reading)
    }

    fn judge_with(separation: Option<Separation>, contact: Option<Duration>, reading: Reading) -> Verdict {
        let pair = PairId::new("p").unwrap();
        let scene = MetricScene {
            camera: CameraId::new("c").unwrap(),
            seq: 0,
            captured: Timestamp::default(),
            captured_utc: UtcMillis(0),
            things: vec![],
            pairs: vec![PairReading { pair: pair.clone(), reading }],
        };
        let settings = ProximitySettings {
            pair,
            warning_m: Some(2.0),
            alarm_m: 0.5,
            leave_warning_m: Some(2.5),
            leave_alarm_m: 0.8,
            separation,
            alarm_contact: contact,
        };
        Proximity::new(settings).judge(&scene, Duration::from_millis(500))
    }

    fn measured(lower_m: f64, kind: DistanceKind) -> Reading {
        Reading::Measured(Distance {
            nearest_m: lower_m + 0.5,
            lower_m,
            upper_m: lower_m + 1.0,
            kind,
            from_ground: [0.0; 2],
            to_ground: [0.0; 2],
            from: ClassName::new("forklift").unwrap(),
            from_index: Some(0),
            to_index: None,
            from_track: None,
            to_track: None,
            others: vec![],
            to_edge: None,
            approach_mps: None,
            approach_sigma_mps: None,
            captured: Timestamp::default(),
        })
    }

    #[test]
    fn the_lower_end_decides_and_leaving_needs_more() {
        use Level::{Near, Safe, TooNear};
        for (lower_m, raise, hold) in [
            (0.5, TooNear, TooNear),
            (0.51, Near, TooNear),
            (0.81, Near, Near),
            (2.0, Near, Near),
            (2.2, Safe, Near),
            (2.6, Safe, Safe),
            (f64::NAN, TooNear, TooNear),
        ] {
            assert_eq!(
                judge(measured(lower_m, DistanceKind::Value)),
                Verdict::Evidence { raise, hold },
                "{lower_m}"
            );
        }
    }

    #[test]
    fn what_is_cut_off_can_raise_but_never_calm() {
        use Level::{Near, Safe, TooNear};
        let cut = |lower_m, floor_m| judge(measured(lower_m, DistanceKind::AtMost { floor_m }));
        assert_eq!(cut(5.0, 3.0), Verdict::Evidence { raise: Safe, hold: Safe });
        assert_eq!(cut(5.0, 1.0), Verdict::NoEvidence(Reason::CutByPictureEdge));
        assert_eq!(cut(1.5, 0.0), Verdict::Evidence { raise: Near, hold: TooNear });
        assert_eq!(cut(0.2, 0.0), Verdict::Evidence { raise: TooNear, hold: TooNear });
    }

    #[test]
    fn separation_moves_the_alarm_outwards_and_never_inwards() {
        use Level::{Near, Safe, TooNear};
        let stopping = crate::rules::Stopping::Fixed(0.5);
        let separation = Separation { reaction: Duration::from_millis(500), stopping, max_speed_mps: 2.0 };
        let judge = |lower_m, approach_mps| {
            let Reading::Measured(mut distance) = measured(lower_m, DistanceKind::Value) else { panic!() };
            distance.approach_mps = approach_mps;
            judge_with(Some(separation), None, Reading::Measured(distance))
        };
        // 2 m/s * (0.5 s + 0.5 s) + 0.5 m = 2.5 m, beyond the warning; left 0.3 m farther away.
        assert_eq!(judge(2.5, None), Verdict::Evidence { raise: TooNear, hold: TooNear });
        assert_eq!(judge(2.6, None), Verdict::Evidence { raise: Safe, hold: TooNear });
        assert_eq!(judge(2.9, None), Verdict::Evidence { raise: Safe, hold: Safe });
        assert_eq!(judge(1.5, Some(1.0)), Verdict::Evidence { raise: TooNear, hold: TooNear });
        assert_eq!(judge(1.9, Some(1.0)), Verdict::Evidence { raise: Near, hold: Near });
        // Standing still: the fixed distances.
        assert_eq!(judge(0.5, Some(-1.0)), Verdict::Evidence { raise: TooNear, hold: TooNear });
        assert_eq!(judge(0.6, Some(0.0)), Verdict::Evidence { raise: Near, hold: TooNear });
    }

    #[test]
    fn who_may_be_there_in_two_seconds_is_too_near() {
        use Level::{Safe, TooNear};
        let judge = |lower_m, approach_mps, sigma| {
            let Reading::Measured(mut distance) = measured(lower_m, DistanceKind::Value) else { panic!() };
            (distance.approach_mps, distance.approach_sigma_mps) = (Some(approach_mps), Some(sigma));
            judge_with(None, Some(Duration::from_secs(2)), Reading::Measured(distance))
        };
        // 3 m at 1.3 + 1.96 * 0.2 = 1.69 m/s are 1.77 s; at 1 m/s 2.15 s, less than the 3 s of leaving.
        assert_eq!(judge(3.0, 1.3, 0.2), Verdict::Evidence { raise: TooNear, hold: TooNear });
        assert_eq!(judge(3.0, 1.0, 0.2), Verdict::Evidence { raise: Safe, hold: TooNear });
        assert_eq!(judge(6.0, 1.0, 0.2), Verdict::Evidence { raise: Safe, hold: Safe });
        assert_eq!(judge(3.0, 0.3, 0.8), Verdict::Evidence { raise: Safe, hold: Safe }, "perhaps it stands");
        assert_eq!(judge(3.0, -1.3, 0.2), Verdict::Evidence { raise: Safe, hold: Safe });
    }

    #[test]
    fn who_is_farther_and_comes_fast_counts_too() {
        let Reading::Measured(mut away) = measured(3.0, DistanceKind::Value) else { panic!() };
        away.approach_mps = Some(-2.0);
        let coming = Distance { lower_m: 4.0, nearest_m: 4.5, approach_mps: Some(3.0), ..away.clone() };
        away.others = vec![coming];
        let two_s = Some(Duration::from_secs(2));
        let verdict = judge_with(None, two_s, Reading::Measured(away));
        assert_eq!(verdict, Verdict::Evidence { raise: Level::TooNear, hold: Level::TooNear });
    }

    #[test]
    fn nothing_there_is_safe_and_nothing_known_is_no_evidence() {
        assert_eq!(judge(Reading::Absent), Verdict::Evidence { raise: Level::Safe, hold: Level::Safe });
        assert_eq!(
            judge(Reading::Unavailable(Reason::NotCalibrated)),
            Verdict::NoEvidence(Reason::NotCalibrated)
        );
    }
}
