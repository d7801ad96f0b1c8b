//! From verdicts to the state that is reported. Nothing else decides a state.
//!
//! - A state rests on evidence that is younger than `stale_after`; without it the state is `Unknown`.
//! - A worse state is entered with the first verdict that shows it (an alarm after `alarm_after`, if set).
//! - A better state, and `Clear` from `Unknown`, is entered after `clear_after` of evidence that all of the time
//!   showed no worse, counted in capture time. Silence is not calm: a gap longer than `stale_after` starts anew.
//! - Evidence counts in capture order: what is not newer than what was seen is ignored, also after `Unknown`.
//! - A latched alarm ([`Held`]) stays the reported state, whatever becomes of the evidence, until it was acknowledged
//!   *and* fresh evidence has shown for `clear_after` that it is over; in either order. Time alone ends nothing.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::types::command::Deed;
use crate::types::{Evidence, Held, Level, Reason, State, Verdict};

/// When states are entered and left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatchSettings {
    /// Evidence older than this is none.
    pub stale_after: Duration,
    /// How long it must be too near before it is an alarm; until then it is a warning. Zero by default.
    pub alarm_after: Duration,
    /// How long evidence must be calm before a better state is reported.
    pub clear_after: Duration,
    /// Whether an alarm is held until it was acknowledged. A warning never is.
    pub latch: bool,
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
    /// The alarm that is held, when alarms are latched.
    held: Option<Held>,
    /// Alarms so far.
    alarms: u64,
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
            held: None,
            alarms: 0,
        }
    }

    /// A latch that has seen nothing since the start but remembers an alarm that was held before: `Alarm` without
    /// evidence. A rule that does not latch forgets it.
    pub fn restore(settings: LatchSettings, held: Option<Held>) -> Self {
        Self { held: held.filter(|_| settings.latch), ..Self::new(settings) }
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
            // As the tick would have done, had it come in between.
            self.lose();
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
        if raise == Level::TooNear {
            self.enter_alarm();
        }
        // A held alarm that lost its evidence is left for what has been calm long enough, and for nothing else.
        let present = if self.held.is_some() { Level::TooNear } else { Level::Safe };
        if raise > self.level.unwrap_or(present) {
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

    fn enter_alarm(&mut self) {
        if self.level == Some(Level::TooNear) {
            return;
        }
        // One that nobody has acknowledged and whose evidence only had a gap goes on; all others are new.
        let goes_on =
            self.level.is_none() && self.held.as_ref().is_some_and(|held| held.acknowledged.is_none());
        self.level = Some(Level::TooNear);
        // What happens while it is disarmed is nobody's alarm, also later.
        if !goes_on && self.disarmed.is_none() {
            self.alarms += 1;
            self.held = self.settings.latch.then(Held::default);
        }
    }

    /// Lets go of a held alarm that was acknowledged and is over by its own evidence.
    fn settle(&mut self) {
        let over = self.level.is_some_and(|level| level < Level::TooNear);
        let acknowledged = self.held.as_ref().is_some_and(|held| held.acknowledged.is_some());
        if over && acknowledged && self.disarmed.is_none() {
            self.held = None;
        }
    }

    /// Notes who has seen the held alarm; the next look at the time lets go of it if it is over. False when there
    /// is none; the first who acknowledges it is the one that is kept.
    pub fn acknowledge(&mut self, deed: Deed) -> bool {
        let Some(held) = &mut self.held else { return false };
        held.acknowledged.get_or_insert(deed);
        true
    }

    /// Lets calm be counted anew, because what counts as calm has changed.
    pub fn limits_changed(&mut self) {
        self.forget_runs();
    }

    /// Looks at the time, and at a fault of the camera when there is one: a fault ends the evidence at once.
    pub fn tick(&mut self, now: Timestamp, fault: Option<Reason>) {
        if let Some(reason) = fault {
            self.reason = reason;
            self.lose();
        } else if self.evidence.is_none_or(|last| now.since(last) > self.settings.stale_after) {
            self.lose();
        }
        self.settle();
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
        if self.held.is_some() {
            return State::Alarm;
        }
        match self.level {
            None => State::Unknown(self.reason),
            Some(Level::Safe) => State::Clear,
            Some(Level::Near) => State::Warning,
            Some(Level::TooNear) => State::Alarm,
        }
    }

    /// The alarm that is held; while disarmed it is hidden, not gone.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// How many alarms there were. A held one that is seen anew after it was calm or acknowledged is another.
    pub fn alarms(&self) -> u64 {
        self.alarms
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
    use crate::clock::UtcMillis;

    const SETTINGS: LatchSettings = LatchSettings {
        stale_after: Duration::from_millis(1000),
        alarm_after: Duration::ZERO,
        clear_after: Duration::from_millis(500),
        latch: false,
    };
    const LATCHING: LatchSettings = LatchSettings { latch: true, ..SETTINGS };

    fn ann() -> Deed {
        Deed { by: "ann".into(), at: UtcMillis(0) }
    }

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

    #[test]
    fn a_latched_alarm_needs_both_in_either_order() {
        let mut latch = Latch::new(LATCHING);
        assert!(!latch.acknowledge(ann()), "nothing to acknowledge");
        watch(&mut latch, 0, 100, shows(Level::TooNear));
        assert!(latch.acknowledge(ann()));
        watch(&mut latch, 200, 600, shows(Level::Safe));
        assert_eq!(latch.state(), State::Alarm, "acknowledged, calm for 400 ms");
        watch(&mut latch, 700, 700, shows(Level::Safe));
        assert_eq!((latch.state(), latch.held()), (State::Clear, None));

        watch(&mut latch, 800, 800, shows(Level::TooNear));
        watch(&mut latch, 900, 3000, shows(Level::Safe));
        assert_eq!(
            (latch.state(), latch.evidence()),
            (State::Alarm, Evidence::Fresh),
            "calm, but nobody knows"
        );
        assert!(latch.acknowledge(ann()));
        latch.tick(at(3000), None);
        assert_eq!(latch.state(), State::Clear);
    }

    #[test]
    fn a_latched_alarm_outlives_its_evidence_and_a_restart() {
        let mut latch = Latch::new(LATCHING);
        watch(&mut latch, 0, 100, shows(Level::TooNear));
        latch.tick(at(100), Some(Reason::ConnectionLost));
        let lost = (State::Alarm, Evidence::None(Reason::ConnectionLost));
        assert_eq!((latch.state(), latch.evidence()), lost);
        assert!(latch.acknowledge(ann()));
        latch.tick(at(9_000_000), None);
        assert_eq!(latch.state(), State::Alarm, "time ends nothing");
        watch(&mut latch, 9_000_100, 9_000_500, shows(Level::Near));
        assert_eq!(latch.state(), State::Alarm, "a warning is no calm yet");
        watch(&mut latch, 9_000_600, 9_000_600, shows(Level::Near));
        assert_eq!(latch.state(), State::Warning);

        let again = Latch::restore(LATCHING, Some(Held { acknowledged: None }));
        assert_eq!((again.state(), again.evidence()), (State::Alarm, Evidence::None(Reason::Starting)));
        let forgetful = Latch::restore(SETTINGS, Some(Held { acknowledged: None }));
        assert_eq!(forgetful.state(), State::Unknown(Reason::Starting));
    }

    #[test]
    fn calm_before_the_camera_died_does_not_count_after() {
        let mut latch = Latch::new(LATCHING);
        watch(&mut latch, 0, 100, shows(Level::TooNear));
        watch(&mut latch, 200, 900, shows(Level::Safe));
        latch.tick(at(900), Some(Reason::Stalled));
        assert!(latch.acknowledge(ann()));
        latch.tick(at(1000), None);
        assert_eq!((latch.state(), latch.evidence()), (State::Alarm, Evidence::None(Reason::Stalled)));
    }

    #[test]
    fn what_is_too_near_again_is_a_new_alarm() {
        let mut latch = Latch::new(LATCHING);
        watch(&mut latch, 0, 300, shows(Level::TooNear));
        assert!(latch.acknowledge(ann()));
        watch(&mut latch, 400, 900, shows(Level::TooNear));
        watch(&mut latch, 1000, 1100, Verdict::Evidence { raise: Level::Near, hold: Level::TooNear });
        watch(&mut latch, 1200, 1300, shows(Level::TooNear));
        assert_eq!(latch.alarms(), 1, "it never left");
        assert!(latch.held().unwrap().acknowledged.is_some());
        // A gap after the acknowledgement: whether it is the same cannot be told.
        latch.tick(at(1300), Some(Reason::Stalled));
        watch(&mut latch, 1400, 1400, shows(Level::TooNear));
        assert_eq!((latch.alarms(), latch.held()), (2, Some(&Held { acknowledged: None })));
        // A gap while nobody has acknowledged it: nothing new.
        latch.tick(at(1400), Some(Reason::Stalled));
        watch(&mut latch, 1500, 1500, shows(Level::TooNear));
        assert_eq!(latch.alarms(), 2);
        // Calm in between is seen, so it is new.
        watch(&mut latch, 1600, 2200, shows(Level::Safe));
        watch(&mut latch, 2300, 2300, shows(Level::TooNear));
        assert_eq!((latch.alarms(), latch.held()), (3, Some(&Held { acknowledged: None })));
    }

    #[test]
    fn disarming_hides_a_held_alarm_and_makes_none() {
        let mut latch = Latch::new(LATCHING);
        watch(&mut latch, 0, 100, shows(Level::TooNear));
        latch.set_disarmed(Some("trailer docked".into()));
        assert_eq!(latch.state(), State::Disarmed("trailer docked".into()));
        watch(&mut latch, 200, 2000, shows(Level::Safe));
        latch.set_disarmed(None);
        assert_eq!((latch.state(), latch.evidence()), (State::Alarm, Evidence::None(Reason::Rearmed)));

        let mut quiet = Latch::new(LATCHING);
        quiet.set_disarmed(Some("trailer docked".into()));
        watch(&mut quiet, 0, 100, shows(Level::TooNear));
        quiet.set_disarmed(None);
        assert_eq!((quiet.state(), quiet.alarms()), (State::Unknown(Reason::Rearmed), 0));
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
                let mut before = latch.state();
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
                                // Nobody looked while it was unknown.
                                run.clear();
                                before = State::Unknown(Reason::Stale);
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
