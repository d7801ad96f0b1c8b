//! The promises, as a checker that watches what goes in and what is reported.

use standoff::rules::LatchSettings;
use standoff::types::{Evidence, Level, State, Verdict};

/// Milliseconds.
pub type Ms = u64;

#[derive(Debug, Clone)]
pub struct Spec {
    stale_ms: Ms,
    alarm_after_ms: Ms,
    clear_ms: Ms,
    latch: bool,
    /// Capture time of the newest picture that was judged.
    newest: Option<Ms>,
    /// Capture time of the newest evidence that counts.
    last: Option<Ms>,
    /// Since when all evidence was at most `Safe`, at most `Near`.
    calm: [Option<Ms>; 2],
    /// Since when all evidence was `TooNear`.
    too_near: Option<Ms>,
    /// A latched alarm is open, and whether somebody has acknowledged it.
    open: Option<bool>,
    /// Its evidence has been calm for long enough since it was last too near, and was not lost since.
    over: bool,
    /// It has been at most `Safe` for long enough since anything was near, and evidence was not lost since.
    clear: bool,
    /// Its evidence was lost since it was last too near.
    lost: bool,
    /// Alarms that were begun.
    pub alarms: u64,
    /// A condition does not hold; switched off; shelved until.
    pub condition: bool,
    pub off: bool,
    pub shelved: Option<Ms>,
    disarmed: bool,
    /// Evidence was lost in this very step: an alarm that was left for unknown may be a warning by now.
    just_lost: bool,
    /// This very step had evidence that must be an alarm.
    must_alarm: bool,
}

impl Spec {
    pub fn new(settings: &LatchSettings) -> Self {
        let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap();
        Self {
            stale_ms: ms(settings.stale_after),
            alarm_after_ms: ms(settings.alarm_after),
            clear_ms: ms(settings.clear_after),
            latch: settings.latch,
            newest: None,
            last: None,
            calm: [None; 2],
            too_near: None,
            open: None,
            over: false,
            clear: false,
            lost: false,
            alarms: 0,
            condition: false,
            off: false,
            shelved: None,
            disarmed: false,
            just_lost: false,
            must_alarm: false,
        }
    }

    pub fn lose(&mut self) {
        self.last = None;
        self.calm = [None; 2];
        self.too_near = None;
        self.over = false;
        self.clear = false;
        self.lost = true;
        self.just_lost = true;
    }

    /// What arms and disarms is looked at.
    pub fn arm(&mut self) {
        let disarmed = self.condition || self.off || self.shelved.is_some();
        if self.disarmed && !disarmed {
            self.lose();
        }
        self.disarmed = disarmed;
    }

    pub fn see(&mut self, now: Ms, captured: Ms, verdict: Verdict) {
        let counts = captured <= now && self.newest.is_none_or(|newest| captured > newest);
        let Verdict::Evidence { raise, hold } = verdict else {
            if counts {
                self.newest = Some(captured);
            }
            return;
        };
        if !counts {
            return;
        }
        self.newest = Some(captured);
        if now - captured > self.stale_ms {
            return;
        }
        if self.last.is_none_or(|last| captured - last > self.stale_ms) {
            self.lose();
        }
        self.last = Some(captured);
        for (since, level) in self.calm.iter_mut().zip([Level::Safe, Level::Near]) {
            *since = if hold <= level { since.or(Some(captured)) } else { None };
        }
        self.too_near = if raise == Level::TooNear { self.too_near.or(Some(captured)) } else { None };
        let due = self.too_near.is_some_and(|since| captured - since >= self.alarm_after_ms);
        if due {
            self.must_alarm = !self.disarmed;
            if self.latch && !self.disarmed {
                let begins = match self.open {
                    None => true,
                    Some(acknowledged) => self.over || (acknowledged && self.lost),
                };
                if begins {
                    self.open = Some(false);
                    self.alarms += 1;
                }
            }
            (self.over, self.lost) = (false, false);
        } else if self.calm_for(1) {
            self.over = true;
        }
        self.clear = raise == Level::Safe && (self.clear || self.calm_for(0));
    }

    /// Whether evidence is fresh and has been at most this level for `clear_after`.
    fn calm_for(&self, level: usize) -> bool {
        self.last.zip(self.calm[level]).is_some_and(|(last, since)| last - since >= self.clear_ms)
    }

    pub fn tick(&mut self, now: Ms, fault: bool) {
        if self.shelved.is_some_and(|until| now >= until) {
            self.shelved = None;
        }
        self.arm();
        if fault || self.last.is_none_or(|last| now - last > self.stale_ms) {
            self.lose();
        }
        if self.open == Some(true) && self.over && !self.disarmed {
            self.open = None;
        }
    }

    /// True when there was something to acknowledge.
    pub fn acknowledge(&mut self) -> bool {
        if self.open.is_some() {
            self.open = Some(true);
        }
        self.open.is_some()
    }

    pub fn restart(&mut self) {
        self.lose();
        self.newest = None;
        self.disarmed = false;
    }

    /// Judges what is reported after a step.
    pub fn check(&mut self, before: &State, state: &State, evidence: Evidence) -> Result<(), String> {
        let fail = |what: &str| Err(format!("{what}: {before:?} -> {state:?}, {evidence:?}"));
        let fresh = self.last.is_some();
        let just_lost = std::mem::take(&mut self.just_lost);
        if fresh != (evidence == Evidence::Fresh) {
            return fail("evidence and what is said of it differ");
        }
        if self.disarmed != matches!(state, State::Disarmed(_)) {
            return fail("a rule is disarmed if and only if somebody or a condition says so now");
        }
        if std::mem::take(&mut self.must_alarm) && *state != State::Alarm {
            return fail("no alarm on the first evidence");
        }
        if self.disarmed {
            return Ok(());
        }
        if self.open.is_some() && *state != State::Alarm {
            return fail("a latched alarm was left without acknowledgement or calm of its own");
        }
        if !fresh && self.open.is_none() && !matches!(state, State::Unknown(_)) {
            return fail("a state without evidence");
        }
        if *state == State::Clear && !fresh {
            return fail("clear without fresh evidence");
        }
        if *state == State::Clear && !self.clear {
            return fail("clear without calm");
        }
        if *before == State::Alarm && *state == State::Warning && !self.over && !just_lost {
            return fail("flapping: the alarm was left within its hysteresis or too early");
        }
        Ok(())
    }
}
