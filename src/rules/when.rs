//! When a rule is armed. Pure: topics and the time of day are arguments.
//!
//! `when:` lists what must hold for a rule to be armed; the first condition that does not hold disarms it,
//! with its reason. What is not known counts as holding: armed is the safe side.

use std::collections::BTreeMap;

use crate::clock::UtcMillis;
use crate::types::{StateName, StateValue};

/// Minutes of a day; the end of a window that ends at midnight.
pub const DAY_MINUTES: u16 = 24 * 60;

/// One thing that must hold for a rule to be armed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The topic's newest value equals this one.
    TopicIs {
        /// MQTT topic, without wildcards.
        topic: String,
        /// Compared with the payload less white space at its ends.
        value: String,
        /// What the disarmed state says while it does not hold.
        reason: String,
    },
    /// The topic's newest value is another one.
    TopicIsNot {
        /// MQTT topic, without wildcards.
        topic: String,
        /// Compared with the payload less white space at its ends.
        value: String,
        /// What the disarmed state says while it does not hold.
        reason: String,
    },
    /// A taught state of the camera has this value, or another one.
    State {
        /// The state.
        state: StateName,
        /// The value.
        value: StateValue,
        /// True where the value must be this one, false where it must be another.
        is: bool,
        /// What the disarmed state says while it does not hold.
        reason: String,
    },
    /// The local time lies in a window of the day.
    TimeWindow {
        /// First minute of the window, 0 to 1439, counted from midnight.
        from: u16,
        /// First minute after the window, 1 to 1440; a window with `to` <= `from` passes midnight.
        to: u16,
        /// Days on which the window begins, Monday first: after midnight it still belongs to the day before.
        days: [bool; 7],
        /// What the disarmed state says while it does not hold.
        reason: String,
    },
}

/// A time of day in the week, as people on site read it from the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// 0 is Monday, 6 is Sunday.
    pub weekday: usize,
    /// Minutes since midnight, 0 to 1439.
    pub minute: u16,
}

impl LocalTime {
    /// What the clock on the wall shows in `zone` at the moment `utc`.
    pub fn at(utc: UtcMillis, zone: &jiff::tz::TimeZone) -> Self {
        let moment = jiff::Timestamp::from_millisecond(utc.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let local = zone.to_datetime(moment);
        let days = local.weekday().to_monday_zero_offset();
        let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
        Self { weekday: usize::try_from(days).unwrap_or(0), minute: u16::try_from(minute).unwrap_or(0) }
    }
}

impl Condition {
    /// The topic that must be watched for this condition, if any.
    pub fn topic(&self) -> Option<&str> {
        match self {
            Self::TopicIs { topic, .. } | Self::TopicIsNot { topic, .. } => Some(topic),
            Self::State { .. } | Self::TimeWindow { .. } => None,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::TopicIs { reason, .. }
            | Self::TopicIsNot { reason, .. }
            | Self::State { reason, .. }
            | Self::TimeWindow { reason, .. } => reason,
        }
    }

    fn holds(&self, topics: &BTreeMap<String, String>, states: &States, local: LocalTime) -> bool {
        match self {
            Self::TopicIs { topic, value, .. } => topics.get(topic).is_none_or(|now| now.trim() == value),
            Self::TopicIsNot { topic, value, .. } => topics.get(topic).is_none_or(|now| now.trim() != value),
            Self::State { state, value, is, .. } => states
                .get(state)
                .is_none_or(|known| !known.values.contains(value) || (known.now == *value) == *is),
            Self::TimeWindow { from, to, days, .. } => in_window(*from, *to, days, local),
        }
    }
}

fn in_window(from: u16, to: u16, days: &[bool; 7], local: LocalTime) -> bool {
    let on = |weekday: usize| days.get(weekday).copied().unwrap_or(true);
    let yesterday = (local.weekday + 6) % 7;
    if from < to {
        on(local.weekday) && (from..to).contains(&local.minute)
    } else {
        (on(local.weekday) && local.minute >= from) || (on(yesterday) && local.minute < to)
    }
}

/// The taught states of a camera that are known.
pub type States = BTreeMap<StateName, KnownState>;

/// A taught state that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownState {
    /// What it is now.
    pub now: StateValue,
    /// All that it can be. A condition that names another value says nothing: it would never change its mind.
    pub values: Vec<StateValue>,
}

/// Why the rule is disarmed now: the reason of the first condition that does not hold. `None` means armed.
pub fn disarmed(
    conditions: &[Condition],
    topics: &BTreeMap<String, String>,
    states: &States,
    local: LocalTime,
) -> Option<String> {
    conditions
        .iter()
        .find(|condition| !condition.holds(topics, states, local))
        .map(|condition| condition.reason().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: LocalTime = LocalTime { weekday: 2, minute: 720 };

    fn topics(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("dock/3/trailer".to_owned(), value.to_owned())])
    }

    fn not_docked() -> Condition {
        Condition::TopicIsNot {
            topic: "dock/3/trailer".into(),
            value: "docked".into(),
            reason: "trailer docked".into(),
        }
    }

    fn window(from: u16, to: u16, days: [bool; 7]) -> Condition {
        Condition::TimeWindow { from, to, days, reason: "outside working hours".into() }
    }

    fn armed_but(
        conditions: &[Condition],
        topics: &BTreeMap<String, String>,
        local: LocalTime,
    ) -> Option<String> {
        disarmed(conditions, topics, &States::new(), local)
    }

    #[test]
    fn a_state_disarms_only_while_it_is_known() {
        let name = StateName::new("door").unwrap();
        let open = StateValue::new("open").unwrap();
        let closed = StateValue::new("closed").unwrap();
        let condition =
            |is| Condition::State { state: name.clone(), value: open.clone(), is, reason: "r".into() };
        let values = vec![closed.clone(), open.clone()];
        let among = |values: &[StateValue], is: bool, now: Option<&StateValue>| {
            let known = |now: &StateValue| KnownState { now: now.clone(), values: values.to_vec() };
            let states: States = now.map(|now| (name.clone(), known(now))).into_iter().collect();
            disarmed(&[condition(is)], &BTreeMap::new(), &states, NOON).is_none()
        };
        let armed = |is, now| among(&values, is, now);
        assert!(armed(true, None) && armed(true, Some(&open)) && !armed(true, Some(&closed)));
        assert!(armed(false, None) && !armed(false, Some(&open)) && armed(false, Some(&closed)));
        let others = ["ajar", "shut"].map(|value| StateValue::new(value).unwrap());
        assert!(among(&others, true, Some(&others[0])), "taught anew without the value that is asked for");
    }

    #[test]
    fn a_topic_disarms_only_by_a_value_that_was_heard() {
        assert_eq!(armed_but(&[], &topics("docked"), NOON), None);
        assert_eq!(armed_but(&[not_docked()], &BTreeMap::new(), NOON), None);
        assert_eq!(armed_but(&[not_docked()], &topics("away"), NOON), None);
        assert_eq!(armed_but(&[not_docked()], &topics(" docked\n"), NOON), Some("trailer docked".into()));
        let is =
            Condition::TopicIs { topic: "dock/3/trailer".into(), value: "away".into(), reason: "r".into() };
        assert_eq!(armed_but(std::slice::from_ref(&is), &BTreeMap::new(), NOON), None);
        assert_eq!(armed_but(std::slice::from_ref(&is), &topics("away"), NOON), None);
        assert_eq!(armed_but(&[is], &topics("docked"), NOON), Some("r".into()));
    }

    #[test]
    fn all_conditions_must_hold_and_the_first_that_does_not_gives_the_reason() {
        let conditions = [window(0, 60, [true; 7]), not_docked()];
        assert_eq!(armed_but(&conditions, &topics("docked"), NOON), Some("outside working hours".into()));
        assert_eq!(armed_but(&conditions[1..], &topics("docked"), NOON), Some("trailer docked".into()));
    }

    #[test]
    fn windows_include_their_first_minute_and_not_their_last() {
        let week = [true, true, true, true, true, false, false];
        let armed = |weekday, minute| {
            armed_but(&[window(360, 1320, week)], &BTreeMap::new(), LocalTime { weekday, minute }).is_none()
        };
        assert!(!armed(0, 359) && armed(0, 360) && armed(4, 1319) && !armed(4, 1320));
        assert!(!armed(5, 720), "Saturday");
    }

    #[test]
    fn a_window_past_midnight_belongs_to_the_day_it_begins() {
        let friday = [false, false, false, false, true, false, false];
        let armed = |weekday, minute| {
            armed_but(&[window(1320, 360, friday)], &BTreeMap::new(), LocalTime { weekday, minute }).is_none()
        };
        assert!(armed(4, 1320) && armed(4, 1439) && armed(5, 0) && armed(5, 359));
        assert!(!armed(4, 0) && !armed(5, 360) && !armed(5, 1320) && !armed(3, 1400));
        let all_day = window(0, DAY_MINUTES, [true; 7]);
        assert_eq!(armed_but(&[all_day], &BTreeMap::new(), LocalTime { weekday: 6, minute: 1439 }), None);
    }

    #[test]
    fn local_time_follows_the_zone() {
        let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(2));
        // 1970-01-01T23:30Z was a Thursday; two hours east it is Friday 01:30.
        let at = LocalTime::at(UtcMillis((23 * 60 + 30) * 60_000), &zone);
        assert_eq!(at, LocalTime { weekday: 4, minute: 90 });
    }
}
