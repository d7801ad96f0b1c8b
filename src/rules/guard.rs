//! One rule's latch together with what people have set on it: acknowledged, shelved, switched off, other limits.
//! Pure: time is an argument, and what must survive a restart is plain data ([`RuleMemory`]).
//!
//! - A shelved rule always comes back: shelving has an end, at most `shelve_max` away, and a restart never moves it.
//! - Switched off has no end, is kept across restarts, and is said in the state's reason.
//! - Whoever disarms, the evidence before does not count after: the rule starts unknown, or in its held alarm.
//! - A limit that people have set lasts until the configuration changes the value that it replaced.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Latch, RuleKind, RuleSettings};
use crate::clock::{Now, Timestamp, UtcMillis};
use crate::types::command::{Deed, LIMIT_RANGE_M, Limit, Order, Ordered, Refusal, Via};
use crate::types::{CameraId, Evidence, Happening, Held, Reason, RuleId, State, Verdict};

/// A rule that is switched off for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelf {
    /// Who has done so.
    pub by: String,
    /// The end. The monotonic clock goes on across a restart of the daemon, not across one of the machine.
    pub until: Timestamp,
    /// The same for people.
    pub until_utc: UtcMillis,
}

/// A limit that was set, and what it stands in for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SetLimit {
    /// What was set, metres.
    pub value_m: f64,
    /// What the configuration said then, metres. When it says something else, that wins.
    pub instead_of_m: f64,
}

/// What must survive a restart of one rule.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleMemory {
    /// The held alarm.
    pub held: Option<Held>,
    /// Who has switched the rule off.
    pub off: Option<Deed>,
    /// Whether it is shelved.
    pub shelf: Option<Shelf>,
    /// Limits that were set.
    pub limits: BTreeMap<Limit, SetLimit>,
}

/// The same of all rules.
pub type Memory = BTreeMap<CameraId, BTreeMap<RuleId, RuleMemory>>;

/// What somebody's doing was, for the event that tells of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The kind of event.
    pub what: Happening,
    /// Whose doing.
    pub order: Ordered,
}

/// The guard of one rule.
#[derive(Debug, Clone)]
pub struct Guard {
    /// As configured.
    configured: RuleSettings,
    /// With the limits that people have set.
    present: RuleSettings,
    latch: Latch,
    off: Option<Deed>,
    shelf: Option<Shelf>,
    limits: BTreeMap<Limit, SetLimit>,
}

impl Guard {
    /// Of a rule that nothing is remembered of.
    pub fn new(settings: RuleSettings) -> Self {
        Self {
            present: settings.clone(),
            latch: Latch::new(settings.latch),
            configured: settings,
            off: None,
            shelf: None,
            limits: BTreeMap::new(),
        }
    }

    /// Of a rule as it was: a held alarm is `Alarm` without evidence, everything else starts unknown.
    ///
    /// Limits whose configured value has changed, or that do not fit any more, are left out. `now` is in the boot
    /// of the machine in which the memory was made; use [`forget_time`] on it before when it is not.
    pub fn restore(settings: RuleSettings, memory: RuleMemory, now: Now) -> Self {
        let mut guard = Self::new(settings);
        guard.latch = Latch::restore(guard.configured.latch, memory.held);
        guard.off = memory.off;
        // An end farther away than shelving may last is no time of this clock.
        let latest = now.mono + guard.configured.shelve_max;
        guard.shelf = memory.shelf.map(|shelf| {
            if shelf.until > latest { Shelf { until: now.mono, until_utc: now.utc, ..shelf } } else { shelf }
        });
        let still_meant =
            |(limit, set): &(Limit, SetLimit)| limit_of(&guard.configured, *limit) == Some(set.instead_of_m);
        let limits: BTreeMap<Limit, SetLimit> = memory.limits.into_iter().filter(still_meant).collect();
        if let Ok(present) = with_limits(&guard.configured, &limits) {
            (guard.present, guard.limits) = (present, limits);
        }
        guard
    }

    /// What must survive a restart.
    pub fn memory(&self) -> RuleMemory {
        RuleMemory {
            held: self.latch.held().cloned(),
            off: self.off.clone(),
            shelf: self.shelf.clone(),
            limits: self.limits.clone(),
        }
    }

    /// Takes a verdict, see [`Latch::observe`].
    pub fn observe(&mut self, now: Timestamp, captured: Timestamp, verdict: Verdict) {
        self.latch.observe(now, captured, verdict);
    }

    /// Looks at what arms and disarms, before a picture of this moment is judged: what it shows while the rule is
    /// disarmed is nobody's alarm. `condition` is the reason of the condition that does not hold.
    pub fn arm(&mut self, condition: Option<String>) {
        self.latch.set_disarmed(self.switched_off().or(condition));
    }

    /// Looks at the time, at a fault of the camera, and at the conditions. Shelving that ends now is given back.
    pub fn tick(&mut self, now: Now, fault: Option<Reason>, condition: Option<String>) -> Option<Done> {
        let ended = self.shelf.take_if(|shelf| now.mono >= shelf.until);
        self.arm(condition);
        self.latch.tick(now.mono, fault);
        ended.map(|shelf| Done {
            what: Happening::Unshelved,
            order: Ordered {
                by: shelf.by,
                via: Via::Timer,
                detail: "the time of shelving is over".to_owned(),
            },
        })
    }

    /// Nothing is known any more, because the daemon stops. Nothing else changes.
    pub fn stop(&mut self, now: Timestamp) {
        self.latch.set_disarmed(None);
        self.latch.tick(now, Some(Reason::Stopping));
    }

    /// Why the rule is switched off without an end, if it is.
    pub fn off_by(&self) -> Option<String> {
        self.off.as_ref().map(|deed| format!("switched off by {}", deed.by))
    }

    fn switched_off(&self) -> Option<String> {
        self.off_by().or_else(|| {
            self.shelf.as_ref().map(|shelf| format!("shelved by {} until {}", shelf.by, shelf.until_utc))
        })
    }

    /// Does what is asked, or says why not. What follows for the state comes with the next [`Guard::tick`]. None
    /// when it was so already.
    pub fn obey(&mut self, now: Now, order: Order, by: &str, via: Via) -> Result<Option<Done>, Refusal> {
        let deed = || Deed { by: by.to_owned(), at: now.utc };
        let (what, detail) = match order {
            Order::Acknowledge => {
                let before = self.latch.held().cloned();
                if !self.latch.acknowledge(deed()) {
                    return Err(Refusal::NothingToAcknowledge);
                }
                if before.as_ref() == self.latch.held() {
                    return Ok(None);
                }
                (Happening::Acknowledged, "the alarm has been seen".to_owned())
            }
            Order::Shelve(time) => {
                if time < Duration::from_secs(1) || time > self.configured.shelve_max {
                    return Err(Refusal::ShelveTime(self.configured.shelve_max));
                }
                let until_utc = now.utc.plus(time);
                self.shelf = Some(Shelf { by: by.to_owned(), until: now.mono + time, until_utc });
                (Happening::Shelved, format!("until {until_utc}"))
            }
            Order::Unshelve => {
                if self.shelf.take().is_none() {
                    return Err(Refusal::NotShelved);
                }
                (Happening::Unshelved, "before its time".to_owned())
            }
            Order::Arm(armed) if armed == self.off.is_none() => return Ok(None),
            Order::Arm(true) => {
                self.off = None;
                (Happening::SwitchedOn, "switched on".to_owned())
            }
            Order::Arm(false) => {
                self.off = Some(deed());
                (Happening::SwitchedOff, "switched off until somebody switches it on".to_owned())
            }
            Order::Limit(limit, value_m) => match self.set_limit(limit, value_m)? {
                Some(before_m) => (Happening::Settings, format!("{limit} {before_m} -> {value_m}")),
                None => return Ok(None),
            },
        };
        Ok(Some(Done { what, order: Ordered { by: by.to_owned(), via, detail } }))
    }

    /// Gives the value before, or none when it is the same.
    fn set_limit(&mut self, limit: Limit, value_m: f64) -> Result<Option<f64>, Refusal> {
        if !LIMIT_RANGE_M.contains(&value_m) {
            return Err(Refusal::LimitRange);
        }
        let before_m = limit_of(&self.present, limit).ok_or(Refusal::NoLimit(limit))?;
        let instead_of_m = limit_of(&self.configured, limit).ok_or(Refusal::NoLimit(limit))?;
        let mut limits = self.limits.clone();
        limits.insert(limit, SetLimit { value_m, instead_of_m });
        // Set back to what is configured is not set.
        limits.retain(|_, set| set.value_m != set.instead_of_m);
        self.present = with_limits(&self.configured, &limits)?;
        self.limits = limits;
        if before_m == value_m {
            return Ok(None);
        }
        self.latch.limits_changed();
        Ok(Some(before_m))
    }

    /// The settings as configured.
    pub fn configured(&self) -> &RuleSettings {
        &self.configured
    }

    /// The settings with the limits that people have set; what judges must be built from these.
    pub fn settings(&self) -> &RuleSettings {
        &self.present
    }

    /// What is to be reported.
    pub fn state(&self) -> State {
        self.latch.state()
    }

    /// Whether it rests on fresh evidence.
    pub fn evidence(&self) -> Evidence {
        self.latch.evidence()
    }

    /// The held alarm.
    pub fn held(&self) -> Option<&Held> {
        self.latch.held()
    }

    /// How many alarms there were, see [`Latch::alarms`].
    pub fn alarms(&self) -> u64 {
        self.latch.alarms()
    }

    /// False while somebody has switched the rule off without an end.
    pub fn is_armed(&self) -> bool {
        self.off.is_none()
    }

    /// Until when it is shelved.
    pub fn shelved_until(&self) -> Option<UtcMillis> {
        self.shelf.as_ref().map(|shelf| shelf.until_utc)
    }
}

/// Makes every shelving of a memory end now: its times are of a clock that is gone, and what cannot be aged is over.
pub fn forget_time(memory: &mut Memory, now: Now) {
    for rule in memory.values_mut().flat_map(|rules| rules.values_mut()) {
        if let Some(shelf) = &mut rule.shelf {
            (shelf.until, shelf.until_utc) = (now.mono, now.utc);
        }
    }
}

fn limit_of(settings: &RuleSettings, limit: Limit) -> Option<f64> {
    let (warning_m, alarm_m) = settings.limits_m();
    match limit {
        Limit::AlarmM => Some(alarm_m),
        Limit::WarningM => warning_m,
    }
}

/// The settings with other limits. What must be gone beyond to leave moves along.
fn with_limits(
    configured: &RuleSettings,
    limits: &BTreeMap<Limit, SetLimit>,
) -> Result<RuleSettings, Refusal> {
    let mut settings = configured.clone();
    let RuleKind::Proximity(proximity) = &mut settings.kind;
    if let Some(set) = limits.get(&Limit::AlarmM) {
        proximity.leave_alarm_m += set.value_m - proximity.alarm_m;
        proximity.alarm_m = set.value_m;
    }
    if let (Some(set), Some(warning_m)) = (limits.get(&Limit::WarningM), proximity.warning_m) {
        proximity.leave_warning_m =
            proximity.leave_warning_m.map(|leave_m| leave_m + set.value_m - warning_m);
        proximity.warning_m = Some(set.value_m);
    }
    match proximity.warning_m {
        Some(warning_m) if warning_m <= proximity.alarm_m => {
            Err(Refusal::Order { warning_m, alarm_m: proximity.alarm_m })
        }
        _ => Ok(settings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{LatchSettings, ProximitySettings};
    use crate::types::{Level, PairId};

    fn settings(alarm_m: f64, warning_m: Option<f64>) -> RuleSettings {
        RuleSettings {
            id: RuleId::new("edge").unwrap(),
            kind: RuleKind::Proximity(ProximitySettings {
                pair: PairId::new("p").unwrap(),
                warning_m,
                alarm_m,
                leave_warning_m: warning_m.map(|limit| limit + 0.3),
                leave_alarm_m: alarm_m + 0.3,
                separation: None,
                alarm_contact: None,
            }),
            latch: LatchSettings {
                stale_after: Duration::from_secs(1),
                alarm_after: Duration::ZERO,
                clear_after: Duration::from_secs(1),
                latch: true,
            },
            when: vec![],
            shelve_max: Duration::from_secs(3600),
        }
    }

    fn at(s: u64) -> Now {
        Now { mono: Timestamp::from_nanos(s * 1_000_000_000), utc: UtcMillis(s as i64 * 1000) }
    }

    fn limit(guard: &mut Guard, limit: Limit, value_m: f64) -> Result<Option<String>, Refusal> {
        let done = guard.obey(at(0), Order::Limit(limit, value_m), "ann", Via::Mqtt)?;
        Ok(done.map(|done| done.order.detail))
    }

    #[test]
    fn limits_keep_their_order_their_range_and_their_hysteresis() {
        let mut guard = Guard::new(settings(0.5, Some(2.0)));
        let order = Refusal::Order { warning_m: 2.0, alarm_m: 2.5 };
        assert_eq!(limit(&mut guard, Limit::AlarmM, 2.5), Err(order));
        assert_eq!(limit(&mut guard, Limit::WarningM, 3.0).unwrap().unwrap(), "warning_m 2 -> 3");
        assert_eq!(limit(&mut guard, Limit::AlarmM, 2.5).unwrap().unwrap(), "alarm_m 0.5 -> 2.5");
        assert_eq!(limit(&mut guard, Limit::AlarmM, 2.5), Ok(None), "so already");
        for bad in [0.0, 0.049, 100.1, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(limit(&mut guard, Limit::AlarmM, bad), Err(Refusal::LimitRange), "{bad}");
        }
        let RuleKind::Proximity(present) = &guard.settings().kind;
        assert_eq!((present.alarm_m, present.leave_alarm_m), (2.5, 2.8));
        assert_eq!((present.warning_m, present.leave_warning_m), (Some(3.0), Some(3.3)));
        assert_eq!(guard.configured().limits_m(), (Some(2.0), 0.5));

        let mut without = Guard::new(settings(0.5, None));
        assert_eq!(limit(&mut without, Limit::WarningM, 3.0), Err(Refusal::NoLimit(Limit::WarningM)));
    }

    #[test]
    fn a_set_limit_lasts_until_the_configuration_changes_what_it_replaced() {
        let mut guard = Guard::new(settings(0.5, Some(2.0)));
        limit(&mut guard, Limit::AlarmM, 0.8).unwrap();
        let restored = |settings| Guard::restore(settings, guard.memory(), at(0)).settings().limits_m();
        assert_eq!(restored(settings(0.5, Some(2.0))), (Some(2.0), 0.8));
        assert_eq!(restored(settings(0.5, Some(1.5))), (Some(1.5), 0.8), "another value was changed");
        assert_eq!(restored(settings(0.6, Some(2.0))), (Some(2.0), 0.6), "the configuration wins");
        assert_eq!(restored(settings(0.5, Some(0.7))), (Some(0.7), 0.5), "they do not fit together");

        limit(&mut guard, Limit::AlarmM, 0.5).unwrap();
        assert_eq!(guard.memory().limits, BTreeMap::new(), "set back");
    }

    #[test]
    fn shelving_has_an_end_that_no_restart_moves() {
        let mut guard = Guard::new(settings(0.5, None));
        let shelve = |guard: &mut Guard, s| {
            guard.obey(at(0), Order::Shelve(Duration::from_secs(s)), "ann", Via::Socket)
        };
        let refused = Err(Refusal::ShelveTime(Duration::from_secs(3600)));
        assert_eq!(shelve(&mut guard, 0), refused);
        assert_eq!(shelve(&mut guard, 3601), refused);
        assert!(shelve(&mut guard, 60).unwrap().is_some());
        assert_eq!(guard.tick(at(59), None, None), None);
        let shelved = State::Disarmed("shelved by ann until 1970-01-01T00:01:00.000Z".into());
        assert_eq!(guard.state(), shelved);

        let mut again = Guard::restore(settings(0.5, None), guard.memory(), at(59));
        again.tick(at(59), None, None);
        assert_eq!(again.state(), shelved);
        let ended = again.tick(at(60), None, None).unwrap();
        assert_eq!((ended.what, ended.order.via), (Happening::Unshelved, Via::Timer));
        assert_eq!(again.state(), State::Unknown(Reason::Rearmed));

        // A clock that has begun anew would make it last for ever.
        let mut far = guard.memory();
        far.shelf.as_mut().unwrap().until = at(1_000_000).mono;
        let mut far = Guard::restore(settings(0.5, None), far, at(5));
        assert!(far.tick(at(5), None, None).is_some());
    }

    #[test]
    fn what_is_shown_while_disarmed_is_nobodys_alarm() {
        let mut guard = Guard::new(settings(0.5, None));
        let docked = || Some("trailer docked".to_owned());
        let too_near = Verdict::Evidence { raise: Level::TooNear, hold: Level::TooNear };
        // The condition has just changed, and the picture of this moment shows a thing that is too near.
        guard.arm(docked());
        guard.observe(at(1).mono, at(1).mono, too_near);
        guard.tick(at(1), None, docked());
        guard.tick(at(1), None, None);
        assert_eq!((guard.held(), guard.alarms()), (None, 0));
        guard.observe(at(2).mono, at(2).mono, too_near);
        assert_eq!((guard.state(), guard.alarms()), (State::Alarm, 1));
        assert_eq!(
            guard.obey(at(2), Order::Unshelve, "ann", Via::Socket),
            Err(Refusal::NotShelved),
            "nothing to end"
        );
    }
}
