//! From verdicts to the state that is reported. Nothing else decides a state.
//!
//! - A state rests on evidence that is younger than `stale_after`; without it the state is `Unknown`.
//! - A worse state is entered with the first verdict that shows it (an alarm after `alarm_after`, if set).
//! - A better state, and `Clear` from `Unknown`, is entered after `clear_after` of evidence that all of the time
//!   showed no worse, counted in capture time. Silence is not calm: a gap longer than `stale_after` starts anew.
//! - Evidence counts in capture order: what is not newer than what was seen is ignored, also after `Unknown`.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::types::{Evidence, Level, Reason, State, Verdict};

/// When states are entered and left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatchSettings {
    /// Evidence older than this is none.
    pub stale_after: Duration,
    /// How long it must be too near before it is an alarm; until then it is a warning. Zero by default.
    pub alarm_after: Duration,
    /// How long evidence must be calm before a better state is reported.
    pub clear_after: Duration,
}

/// The state machine of one rule.
#[derive(Debug, Clone)]
pub struct Latch {
    settings: LatchSettings,
    /// What the evidence adds up to; none is unknown.
    level: Option<Level>,
    /// Why it is unknown, or would be if the evidence ended now.
    reason: Reason,
    /// Capture time of the newest frame that was judged, evidence or not.
    newest: Option<Timestamp>,
    /// Capture time of the newest evidence.
    evidence: Option<Timestamp>,
    /// Since when (capture time) all evidence was at most `Safe`, at most `Near`.
    calm_since: [Option<Timestamp>; 2],
    /// Since when (capture time) all evidence was `TooNear`.
    too_near_since: Option<Timestamp>,
    disarmed: Option<String>,
}

/// The levels that calm is counted for; [`Latch::calm_since`] has one entry for each.
const CALM_LEVELS: [Level; 2] = [Level::Safe, Level::Near];

impl Latch {
    /// A latch that has seen nothing: `Unknown(Starting)`.
    pub fn new(settings: LatchSettings) -> Self {
        Self {
            settings,
            level: None,
            reason: Reason::Starting,
            newest: None,
            evidence: None,
            calm_since: [None; 2],
            too_near_since: None,
            disarmed: None,
        }
    }

    /// Takes a verdict about a frame captured at `captured`, judged at `now`.
    pub fn observe(&mut self, now: Timestamp, captured: Timestamp, verdict: Verdict) {
        // A capture time that lies ahead of the clock says nothing about how fresh the picture is.
        if captured > now || self.newest.is_some_and(|newest| captured <= newest) {
            return self.tick(now, None);
        }
        self.newest = Some(captured);
        match verdict {
            Verdict::NoEvidence(reason) => self.reason = reason,
            Verdict::Evidence { .. } if now.since(captured) > self.settings.stale_after => {
                self.reason = Reason::Stale
            }
            Verdict::Evidence { raise, hold } => self.weigh(captured, raise, hold.max(raise)),
        }
        self.tick(now, None);
    }

    fn weigh(&mut self, captured: Timestamp, raise: Level, hold: Level) {
        let gap = self.evidence.is_none_or(|last| captured.since(last) > self.settings.stale_after);
        if gap {
            self.forget_runs();
        }
        self.evidence = Some(captured);
        for (since, level) in self.calm_since.iter_mut().zip(CALM_LEVELS) {
            *since = if hold <= level { since.or(Some(captured)) } else { None };
        }
        self.too_near_since =
            if raise == Level::TooNear { self.too_near_since.or(Some(captured)) } else { None };

        let alarm_is_due =
            self.too_near_since.is_some_and(|since| captured.since(since) >= self.settings.alarm_after);
        let raise = if raise == Level::TooNear && !alarm_is_due { Level::Near } else { raise };
        if raise > self.level.unwrap_or(Level::Safe) {
            self.level = Some(raise);
        }
        // Unknown counts as worse than everything: it is left for what has been calm long enough.
        for (since, level) in self.calm_since.into_iter().zip(CALM_LEVELS) {
            let calm = since.is_some_and(|since| captured.since(since) >= self.settings.clear_after);
            if calm && self.level.is_none_or(|present| level < present) {
                self.level = Some(level);
                break;
            }
        }
        if self.level.is_some() {
            // Were the evidence to end now, this would be why. Until there is a state, the old reason stands.
            self.reason = Reason::Stale;
        }
    }

    /// Looks at the time, and at a fault of the camera when there is one: a fault ends the evidence at once.
    pub fn tick(&mut self, now: Timestamp, fault: Option<Reason>) {
        if let Some(reason) = fault {
            self.reason = reason;
            self.lose();
        } else if self.evidence.is_none_or(|last| now.since(last) > self.settings.stale_after) {
            self.lose();
        }
    }

    /// Arms the rule (`None`) or switches it off with the reason why. A rule that is armed again starts unknown.
    pub fn set_disarmed(&mut self, disarmed: Option<String>) {
        if self.disarmed.is_some() && disarmed.is_none() {
            self.reason = Reason::Rearmed;
            self.lose();
        }
        self.disarmed = disarmed;
    }

    fn lose(&mut self) {
        self.level = None;
        self.evidence = None;
        self.forget_runs();
    }

    fn forget_runs(&mut self) {
        self.calm_since = [None; 2];
        self.too_near_since = None;
    }

    /// What is to be reported.
    pub fn state(&self) -> State {
        if let Some(reason) = &self.disarmed {
            return State::Disarmed(reason.clone());
        }
        match self.level {
            None => State::Unknown(self.reason),
            Some(Level::Safe) => State::Clear,
            Some(Level::Near) => State::Warning,
            Some(Level::TooNear) => State::Alarm,
        }
    }

    /// Whether the state rests on fresh evidence.
    pub fn evidence(&self) -> Evidence {
        if self.evidence.is_some() { Evidence::Fresh } else { Evidence::None(self.reason) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: LatchSettings = LatchSettings {
        stale_after: Duration::from_millis(1000),
        alarm_after: Duration::ZERO,
        clear_after: Duration::from_millis(500),
    };

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    fn shows(level: Level) -> Verdict {
        Verdict::Evidence { raise: level, hold: level }
    }

    fn watch(latch: &mut Latch, from_ms: u64, to_ms: u64, verdict: Verdict) {
        for ms in (from_ms..=to_ms).step_by(100) {
            latch.observe(at(ms), at(ms), verdict);
        }
    }

    #[test]
    fn starts_unknown_and_clears_after_calm() {
        let mut latch = Latch::new(SETTINGS);
        assert_eq!(latch.state(), State::Unknown(Reason::Starting));
        watch(&mut latch, 1000, 1400, shows(Level::Safe));
        assert!(matches!(latch.state(), State::Unknown(_)));
        watch(&mut latch, 1500, 1500, shows(Level::Safe));
        assert_eq!(latch.state(), State::Clear);
    }

    #[test]
    fn alarm_comes_with_the_first_verdict_and_leaves_after_calm() {
        let mut latch = Latch::new(SETTINGS);
        latch.observe(at(100), at(100), shows(Level::TooNear));
        assert_eq!(latch.state(), State::Alarm);
        watch(&mut latch, 200, 600, shows(Level::Near));
        assert_eq!(latch.state(), State::Alarm);
        watch(&mut latch, 700, 800, shows(Level::Safe));
        assert_eq!(latch.state(), State::Warning, "at most near for 500 ms");
        watch(&mut latch, 900, 1200, shows(Level::Safe));
        assert_eq!(latch.state(), State::Clear);
    }

    #[test]
    fn hysteresis_keeps_the_state() {
        let mut latch = Latch::new(SETTINGS);
        latch.observe(at(100), at(100), shows(Level::TooNear));
        watch(&mut latch, 200, 5000, Verdict::Evidence { raise: Level::Near, hold: Level::TooNear });
        assert_eq!(latch.state(), State::Alarm);
    }

    #[test]
    fn alarm_after_waits_as_a_warning() {
        let mut latch = Latch::new(LatchSettings { alarm_after: Duration::from_millis(300), ..SETTINGS });
        watch(&mut latch, 100, 300, shows(Level::TooNear));
        assert_eq!(latch.state(), State::Warning);
        watch(&mut latch, 400, 400, shows(Level::TooNear));
        assert_eq!(latch.state(), State::Alarm);
    }

    #[test]
    fn stale_faulty_and_blind_are_unknown() {
        let mut latch = Latch::new(SETTINGS);
        watch(&mut latch, 0, 500, shows(Level::Safe));
        assert_eq!(latch.state(), State::Clear);
        latch.tick(at(1500), None);
        assert_eq!(latch.state(), State::Clear, "exactly as old as allowed");
        latch.tick(at(1501), None);
        assert_eq!(
            (latch.state(), latch.evidence()),
            (State::Unknown(Reason::Stale), Evidence::None(Reason::Stale))
        );

        watch(&mut latch, 2000, 2600, shows(Level::TooNear));
        latch.tick(at(2600), Some(Reason::ConnectionLost));
        assert_eq!(latch.state(), State::Unknown(Reason::ConnectionLost));

        watch(&mut latch, 3000, 3600, shows(Level::Safe));
        watch(&mut latch, 3700, 4700, Verdict::NoEvidence(Reason::CutByPictureEdge));
        assert_eq!(latch.state(), State::Unknown(Reason::CutByPictureEdge));
    }

    #[test]
    fn a_backlog_of_old_pictures_is_no_evidence() {
        let mut latch = Latch::new(SETTINGS);
        for ms in (0..3000).step_by(100) {
            latch.observe(at(10_000), at(ms), shows(Level::Safe));
        }
        assert_eq!(latch.state(), State::Unknown(Reason::Stale));
    }

    #[test]
    fn disarmed_says_why_and_starts_anew() {
        let mut latch = Latch::new(SETTINGS);
        watch(&mut latch, 0, 600, shows(Level::TooNear));
        latch.set_disarmed(Some("trailer docked".into()));
        assert_eq!(latch.state(), State::Disarmed("trailer docked".into()));
        latch.set_disarmed(None);
        assert_eq!(latch.state(), State::Unknown(Reason::Rearmed));
        latch.observe(at(700), at(700), shows(Level::TooNear));
        assert_eq!(latch.state(), State::Alarm);
    }

    #[derive(Debug, Clone)]
    struct Step {
        /// Time that passes before the step.
        wait_ms: u64,
        /// How far the capture time lies behind (or, below 200, ahead of) now.
        behind_ms: u64,
        what: What,
    }

    #[derive(Debug, Clone, Copy)]
    enum What {
        See(Verdict),
        Tick,
        Fault,
        Disarm(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let level = prop_oneof![Just(Level::Safe), Just(Level::Near), Just(Level::TooNear)];
        let what = prop_oneof![
            8 => (level.clone(), level).prop_map(|(a, b)| What::See(Verdict::Evidence { raise: a.min(b), hold: a.max(b) })),
            4 => Just(What::See(shows(Level::Safe))),
            1 => Just(What::See(Verdict::NoEvidence(Reason::NotLocated))),
            2 => Just(What::Tick),
            1 => Just(What::Fault),
            1 => any::<bool>().prop_map(What::Disarm),
        ];
        let wait = prop_oneof![6 => 0u64..200, 1 => 0u64..3000];
        let behind = prop_oneof![6 => 150u64..400, 1 => 0u64..4000];
        let step =
            (wait, behind, what).prop_map(|(wait_ms, behind_ms, what)| Step { wait_ms, behind_ms, what });
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Gaps, delays, reorderings, clock jumps and any verdicts: `Clear` only on fresh calm evidence, an
        /// alarm with the first verdict that shows it, and never a better state without `clear_after` of calm.
        #[test]
        fn a_stale_frame_is_never_reported_as_clear(steps in steps()) {
            let mut latch = Latch::new(SETTINGS);
            let mut now_ms = 10_000u64;
            // The reference: all evidence that counts, (capture time, raise, hold), since the last loss.
            let mut newest = None;
            let mut run: Vec<(u64, Level, Level)> = vec![];
            let mut disarmed = false;
            for step in steps {
                now_ms += step.wait_ms;
                let before = latch.state();
                let captured_ms = now_ms + 200 - step.behind_ms;
                match step.what {
                    What::See(verdict) => {
                        latch.observe(at(now_ms), at(captured_ms), verdict);
                        let counts = captured_ms <= now_ms && newest.is_none_or(|n| captured_ms > n);
                        if counts {
                            newest = Some(captured_ms);
                        }
                        if let (true, Verdict::Evidence { raise, hold }) = (counts && now_ms - captured_ms <= 1000, verdict) {
                            if run.last().is_some_and(|(last, ..)| captured_ms - last > 1000) {
                                run.clear();
                            }
                            run.push((captured_ms, raise, hold));
                            if raise == Level::TooNear && !disarmed {
                                prop_assert_eq!(latch.state(), State::Alarm, "first verdict");
                            }
                        }
                    }
                    What::Tick => latch.tick(at(now_ms), None),
                    What::Fault => {
                        latch.tick(at(now_ms), Some(Reason::Stalled));
                        run.clear();
                    }
                    What::Disarm(off) => {
                        latch.set_disarmed(off.then(|| "off".into()));
                        if disarmed && !off {
                            run.clear();
                        }
                        disarmed = off;
                    }
                }
                // Whoever reads the state later than the last step has looked at the time first.
                latch.tick(at(now_ms), None);
                if run.last().is_some_and(|(last, ..)| now_ms - last > 1000) {
                    run.clear();
                }
                let state = latch.state();
                if state == State::Clear {
                    let (last, ..) = *run.last().expect("clear without evidence");
                    prop_assert!(now_ms - last <= 1000, "clear on stale evidence");
                    if before != State::Clear {
                        let calm_from = run.iter().rev().take_while(|(_, _, hold)| *hold == Level::Safe).last();
                        prop_assert!(calm_from.is_some_and(|(from, ..)| last - from >= 500), "clear without calm");
                    }
                }
                if before == State::Alarm && state == State::Warning {
                    let (last, ..) = *run.last().expect("warning without evidence");
                    let calm_from = run.iter().rev().take_while(|(_, _, hold)| *hold <= Level::Near).last();
                    prop_assert!(calm_from.is_some_and(|(from, ..)| last - from >= 500), "alarm left without calm");
                }
                if run.is_empty() && !disarmed {
                    prop_assert!(matches!(state, State::Unknown(_)), "{state:?} without evidence");
                }
            }
        }
    }
}
