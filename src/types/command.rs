//! What people may ask of a running daemon, whichever way the request comes: the socket, MQTT.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::event::RuleStatus;
use super::ids::{CameraId, RuleId};
use crate::clock::UtcMillis;

/// Limits that may be set from afar lie in this range, metres. Nearer than its start an alarm would never come,
/// and a camera measures nothing beyond its end.
pub const LIMIT_RANGE_M: RangeInclusive<f64> = 0.05..=100.0;

/// The longest name of a person that is kept, in characters.
pub const NAME_MAX: usize = 64;

/// Requests that may wait for the analysis at a time.
const WAITING_MAX: usize = 64;

/// A request.
#[derive(Debug)]
pub struct Command {
    /// What is asked.
    pub action: Action,
    /// Who asks, for people: one line of at most [`NAME_MAX`] characters, see [`Command::new`].
    pub by: String,
    /// Which way it came.
    pub via: Via,
    /// Where the answer goes, when somebody waits for it.
    pub reply: Option<oneshot::Sender<Answer>>,
}

impl Command {
    /// A request without somebody who waits. `by` is made one line and cut to [`NAME_MAX`] characters, because it
    /// ends up in messages, logs and states.
    pub fn new(action: Action, by: &str, via: Via) -> Self {
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let by: String = by.trim().chars().take(NAME_MAX).map(clean).collect();
        Self { action, by: if by.is_empty() { via.to_string() } else { by }, via, reply: None }
    }

    /// The same with somebody who waits for the answer.
    pub fn with_reply(self) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        (Self { reply: Some(sender), ..self }, receiver)
    }
}

/// What is now, of the rules that were asked about; or why not.
pub type Answer = Result<Vec<RuleStatus>, Refusal>;

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// How every rule is. Changes nothing.
    List,
    /// To do something with one rule.
    Rule {
        /// The rule's camera.
        camera: CameraId,
        /// The rule.
        rule: RuleId,
        /// What.
        order: Order,
    },
}

/// What may be done with a rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Order {
    /// Says that somebody has seen the latched alarm. It ends when its own evidence is calm as well.
    Acknowledge,
    /// Switches the rule off for so long; then it comes back by itself.
    Shelve(Duration),
    /// Ends the shelving now.
    Unshelve,
    /// Switches the rule on, or off until somebody switches it on again.
    Arm(bool),
    /// Sets a limit, metres.
    Limit(Limit, f64),
}

/// A limit that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// `alarm_m`.
    AlarmM,
    /// `warning_m`.
    WarningM,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlarmM => "alarm_m",
            Self::WarningM => "warning_m",
        })
    }
}

/// Which way a request came, or that nobody asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// Over the broker; Home Assistant too.
    Mqtt,
    /// Over the control socket.
    Socket,
    /// By itself: a time had come.
    Timer,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mqtt => "mqtt",
            Self::Socket => "socket",
            Self::Timer => "timer",
        })
    }
}

/// Why a request was not followed. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The configuration has no such camera.
    #[error("there is no camera '{0}'")]
    NoCamera(CameraId),
    /// The camera has no such rule.
    #[error("camera '{0}' has no rule '{1}'")]
    NoRule(CameraId, RuleId),
    /// There is no alarm that waits for it.
    #[error("there is no latched alarm to acknowledge")]
    NothingToAcknowledge,
    /// It is not shelved.
    #[error("the rule is not shelved")]
    NotShelved,
    /// The time is nothing, or longer than the configuration allows.
    #[error("a rule can be shelved for 1 s to {} s at most (`shelve_max`)", .0.as_secs())]
    ShelveTime(Duration),
    /// Not a number, or too small or large.
    #[error("a limit must lie between {} and {} m", LIMIT_RANGE_M.start(), LIMIT_RANGE_M.end())]
    LimitRange,
    /// The rule has no such limit.
    #[error("the rule has no {0}: the configuration must give it one first")]
    NoLimit(Limit),
    /// The warning must come before the alarm.
    #[error("warning_m ({warning_m} m) must be more than alarm_m ({alarm_m} m)")]
    Order {
        /// What the warning distance would be, metres.
        warning_m: f64,
        /// What the alarm distance would be, metres.
        alarm_m: f64,
    },
}

/// A command that could not be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// Too many wait already.
    #[error("too many commands wait already; try again")]
    Busy,
    /// The analysis has ended.
    #[error("the daemon is stopping")]
    Stopping,
}

/// The way of commands into the analysis. Bounded; never waits.
#[derive(Debug, Clone)]
pub struct CommandSender(SyncSender<Command>);

impl CommandSender {
    /// Hands the command over. Errors when the queue is full or its reader is gone.
    pub fn send(&self, command: Command) -> Result<(), NotTaken> {
        self.0.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => NotTaken::Busy,
            TrySendError::Disconnected(_) => NotTaken::Stopping,
        })
    }
}

/// The channel: any number of senders, the analysis reads.
pub fn channel() -> (CommandSender, Receiver<Command>) {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    (CommandSender(sender), receiver)
}

/// Who did something to a rule, when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// Who.
    pub by: String,
    /// When.
    pub at: UtcMillis,
}

/// The part of an event that is somebody's doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// Who asked.
    pub by: String,
    /// Which way.
    pub via: Via,
    /// What exactly, in words: `alarm_m 0.5 -> 0.8`.
    pub detail: String,
}

/// What can be set on a rule from afar, as the last level of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// The alarm distance.
    AlarmM,
    /// The warning distance.
    WarningM,
    /// The switch.
    Armed,
    /// Whether an alarm waits to be acknowledged.
    Acknowledge,
    /// The end of shelving.
    Shelve,
}

impl Setting {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::AlarmM, Self::WarningM, Self::Armed, Self::Acknowledge, Self::Shelve];

    /// Its topic level.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AlarmM => "alarm_m",
            Self::WarningM => "warning_m",
            Self::Armed => "armed",
            Self::Acknowledge => "acknowledge",
            Self::Shelve => "shelve",
        }
    }

    /// From its topic level.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_one_short_line() {
        let by = |text: &str| Command::new(Action::List, text, Via::Mqtt).by;
        assert_eq!(by(" ann\nlee "), "ann lee");
        assert_eq!(by(""), "mqtt");
        assert_eq!(by(&"ü".repeat(500)).chars().count(), NAME_MAX);
    }

    #[test]
    fn the_queue_is_bounded() {
        let (sender, receiver) = channel();
        let command = || Command::new(Action::List, "", Via::Socket);
        for _ in 0..WAITING_MAX {
            sender.send(command()).unwrap();
        }
        assert_eq!(sender.send(command()), Err(NotTaken::Busy));
        drop(receiver);
        assert_eq!(sender.send(command()), Err(NotTaken::Stopping));
    }

    #[test]
    fn settings_are_found_by_their_topic_level() {
        for setting in Setting::ALL {
            assert_eq!(Setting::parse(setting.as_str()), Some(setting));
        }
        assert_eq!(Setting::parse("arm"), None);
    }
}
