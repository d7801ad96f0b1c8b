//! What is said about a scene: verdicts, states, transitions, and the health of cameras.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::command::{Deed, Ordered};
use super::ids::{CameraId, PairId, RuleId, StateName, StateValue};
use super::scene::{Distance, Reading};
use crate::clock::{Timestamp, UtcMillis};

/// Why something is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing was seen since the start.
    Starting,
    /// The rule was armed again and has seen nothing since.
    Rearmed,
    /// The camera is being connected.
    Connecting,
    /// The connection to the camera broke.
    ConnectionLost,
    /// The camera is connected but sends nothing.
    Stalled,
    /// The camera's address does not answer or refuses the connection.
    Unreachable,
    /// The camera refused user name or password.
    AuthFailed,
    /// The camera has no stream of that path.
    NotFound,
    /// The camera's certificate is not trusted.
    TlsFailed,
    /// The picture has a size or a codec that is not accepted.
    Unsupported,
    /// The clip or folder came to its end.
    EndOfClip,
    /// The newest picture is older than `stale_after`.
    Stale,
    /// The machine cannot keep up with its cameras.
    Overloaded,
    /// The backend failed on the frame.
    BackendFailed,
    /// A head that the rule needs failed or is not there.
    HeadFailed,
    /// The camera has no calibration.
    NotCalibrated,
    /// A thing is cut off by the picture's edge and what is outside may be too near.
    CutByPictureEdge,
    /// The thing's place on the floor cannot be told.
    NotLocated,
    /// The picture repeats itself: the camera or something behind it hangs.
    Frozen,
    /// The picture is dark.
    Dark,
    /// The picture is blown out or veiled.
    WashedOut,
    /// The picture is out of focus, or something is on the lens.
    Blurred,
    /// Something is in front of the lens.
    Covered,
    /// The camera was turned or zoomed since its view was learned, so that its metres are not true any more.
    CameraMoved,
    /// The daemon is stopping, or is not to watch this any more.
    Stopping,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Rearmed => "rearmed",
            Self::Connecting => "connecting",
            Self::ConnectionLost => "connection_lost",
            Self::Stalled => "stalled",
            Self::Unreachable => "unreachable",
            Self::AuthFailed => "auth_failed",
            Self::NotFound => "not_found",
            Self::TlsFailed => "tls_failed",
            Self::Unsupported => "unsupported",
            Self::EndOfClip => "end_of_clip",
            Self::Stale => "stale",
            Self::Overloaded => "overloaded",
            Self::BackendFailed => "backend_failed",
            Self::HeadFailed => "head_failed",
            Self::NotCalibrated => "not_calibrated",
            Self::CutByPictureEdge => "cut_by_picture_edge",
            Self::NotLocated => "not_located",
            Self::Frozen => "frozen",
            Self::Dark => "dark",
            Self::WashedOut => "washed_out",
            Self::Blurred => "blurred",
            Self::Covered => "covered",
            Self::CameraMoved => "camera_moved",
            Self::Stopping => "stopping",
        })
    }
}

/// How near, by one set of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Beyond both limits, or nothing there.
    Safe,
    /// Within the warning distance.
    Near,
    /// Within the alarm distance.
    TooNear,
}

/// What one scene shows. There is no "clear" here: only the latch says that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It shows nothing that counts.
    NoEvidence(Reason),
    /// It shows how near.
    Evidence {
        /// By the distances at which a state is entered.
        raise: Level,
        /// By the larger distances at which it is left: at least `raise`.
        hold: Level,
    },
}

/// What is reported of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not known, and why.
    Unknown(Reason),
    /// No configured class is within its limit in the covered zone, by fresh evidence.
    Clear,
    /// Within the warning distance.
    Warning,
    /// Within the alarm distance.
    Alarm,
    /// Switched off by one of its conditions or by a person, and which or who.
    Disarmed(String),
}

impl State {
    /// The state's word in a message.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown",
            Self::Clear => "clear",
            Self::Warning => "warning",
            Self::Alarm => "alarm",
            Self::Disarmed(_) => "disarmed",
        }
    }

    /// Why, where the state needs a why.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Unknown(reason) => Some(reason.to_string()),
            Self::Disarmed(reason) => Some(reason.clone()),
            Self::Clear | Self::Warning | Self::Alarm => None,
        }
    }
}

/// Whether a state rests on something that was seen just now. A field of its own: a latched alarm whose
/// camera dies stays an alarm with evidence none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// A picture younger than `stale_after` says so.
    Fresh,
    /// None does, and why.
    None(Reason),
}

/// A latched alarm: it is reported until it was acknowledged and its own evidence is calm.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Held {
    /// Who has acknowledged it; none while nobody has.
    pub acknowledged: Option<Deed>,
}

/// How long one frame took at each stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StageTimes {
    /// From capture until the frame left the decoder.
    pub ingest: Duration,
    /// In the slot, until the backend took it.
    pub queue: Duration,
    /// Resize, colour, normalise: this frame alone.
    pub preprocess: Duration,
    /// The model with its heads, for the whole batch.
    pub backbone: Duration,
    /// Host part of the heads.
    pub heads: Duration,
    /// Geometry.
    pub geometry: Duration,
    /// Rules and latches.
    pub rules: Duration,
}

impl StageTimes {
    /// From the capture of the picture to the decision.
    pub fn total(&self) -> Duration {
        let Self { ingest, queue, preprocess, backbone, heads, geometry, rules } = *self;
        ingest + queue + preprocess + backbone + heads + geometry + rules
    }
}

/// The present state of a rule, as it is reported. Replaces the one before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// The camera it watches.
    pub camera: CameraId,
    /// The rule.
    pub rule: RuleId,
    /// The pair it judges.
    pub pair: PairId,
    /// What is reported.
    pub state: State,
    /// Whether it rests on fresh evidence.
    pub evidence: Evidence,
    /// The last distance seen, while the evidence is fresh.
    pub distance: Option<Distance>,
    /// Warning distance, metres.
    pub warning_m: Option<f64>,
    /// Alarm distance, metres.
    pub alarm_m: f64,
    /// The latched alarm, if there is one. While the rule is disarmed it is hidden, not gone.
    pub held: Option<Held>,
    /// False while a person has the rule switched off without an end.
    pub armed: bool,
    /// Until when a person has the rule switched off.
    pub shelved_until: Option<UtcMillis>,
    /// The distance that separation by speed asked for in the newest picture, metres, when the rule does. The
    /// alarm is entered below the larger of this and `alarm_m`.
    pub separation_m: Option<f64>,
    /// When the state was entered.
    pub since: UtcMillis,
    /// When this was said.
    pub ts: UtcMillis,
    /// Capture time of the newest evidence.
    pub captured: Option<UtcMillis>,
    /// How long a reader may believe this without hearing again.
    pub valid_for: Duration,
}

/// What an event is about, in a word for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// To warning or alarm from anything that was neither.
    Enter,
    /// From warning to alarm.
    Escalate,
    /// From alarm to warning.
    DeEscalate,
    /// To clear.
    Clear,
    /// To unknown.
    Fault,
    /// Switched off.
    Disarmed,
    /// Switched on again.
    Armed,
    /// A person has seen the latched alarm.
    Acknowledged,
    /// A person has switched the rule off for a time.
    Shelved,
    /// That time is over, or a person has ended it.
    Unshelved,
    /// A person has switched the rule off without an end.
    SwitchedOff,
    /// A person has switched the rule on.
    SwitchedOn,
    /// A person has set a limit.
    Settings,
}

impl Happening {
    /// What a change of state means to a person.
    pub fn of_change(from: &State, to: &State) -> Self {
        match (from, to) {
            (_, State::Disarmed(_)) => Self::Disarmed,
            (State::Disarmed(_), State::Unknown(_) | State::Clear) => Self::Armed,
            (_, State::Unknown(_)) => Self::Fault,
            (_, State::Clear) => Self::Clear,
            (State::Alarm, State::Warning) => Self::DeEscalate,
            (State::Warning, State::Alarm) => Self::Escalate,
            (_, State::Warning | State::Alarm) => Self::Enter,
        }
    }
}

/// Something that happened to a rule, most often a change of its state. Happens once, is never replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// Unique, so that repeats are harmless: `<epoch>-<seq>`. The outbox gives it; empty before.
    pub event_id: String,
    /// Counts the events of an epoch from 1, across restarts. The outbox gives it; 0 before.
    pub seq: u64,
    /// What happened.
    pub what: Happening,
    /// The state before.
    pub from: State,
    /// All about the state after.
    pub status: RuleStatus,
    /// How long the deciding frame took, when a frame decided.
    pub times: Option<StageTimes>,
    /// Whose doing it was. Such an event leaves the state as it is: what follows from it is an event of its own.
    pub order: Option<Ordered>,
}

/// The present distance of a pair.
#[derive(Debug, Clone, PartialEq)]
pub struct PairStatus {
    /// The camera.
    pub camera: CameraId,
    /// The pair.
    pub pair: PairId,
    /// What it measures.
    pub reading: Reading,
    /// Capture time of the frame.
    pub captured: UtcMillis,
    /// When this was said.
    pub ts: UtcMillis,
}

/// A taught state of a camera.
#[derive(Debug, Clone, PartialEq)]
pub struct StateStatus {
    /// The camera.
    pub camera: CameraId,
    /// The state.
    pub state: StateName,
    /// Its value; none while it is unknown.
    pub value: Option<StateValue>,
    /// Probability of the likeliest value in the newest frame, 0 to 1.
    pub probability: f32,
    /// Capture time of that frame.
    pub captured: UtcMillis,
    /// When this was said.
    pub ts: UtcMillis,
    /// How long it may be believed without being said again.
    pub valid_for: Duration,
}

/// What a camera's connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CameraState {
    /// A pipeline is being built or waits for its first frame.
    Connecting,
    /// Frames come.
    Live,
    /// Connected, but no frame for too long.
    Stalled,
    /// Waiting to try again.
    Backoff,
    /// The camera said no; tried again slowly.
    Refused,
    /// The clip or folder is at its end; nothing will come.
    Ended,
}

/// A camera's health as ingest knows it. Newest wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraHealth {
    /// What the connection does.
    pub state: CameraState,
    /// Why it is not live.
    pub reason: Option<Reason>,
    /// One line for people, without secrets.
    pub detail: String,
    /// Since when.
    pub since: Timestamp,
    /// Connections made since the start.
    pub connects: u64,
}

/// A camera's health as it is reported.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraStatus {
    /// The camera.
    pub camera: CameraId,
    /// What the connection does.
    pub state: CameraState,
    /// Why it is not live.
    pub reason: Option<Reason>,
    /// One line for people, without secrets.
    pub detail: String,
    /// Frames analysed a second, over the last seconds.
    pub analysed_fps: f64,
    /// Age of the newest analysed frame, seconds.
    pub frame_age_s: Option<f64>,
    /// Frames replaced in the slot before the backend took them.
    pub dropped: u64,
    /// Connections made since the start.
    pub connects: u64,
    /// Whether the picture itself can be believed.
    pub view: ViewStatus,
    /// When this was said.
    pub ts: UtcMillis,
}

/// Whether a camera's picture can be believed, and how much of that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ViewStatus {
    /// What is wrong with it.
    pub fault: Option<Reason>,
    /// Whether a frozen picture would be noticed.
    pub frozen: Monitor,
    /// Whether a covered, blurred or veiled one would.
    pub detail: Monitor,
    /// Whether a camera that is turned or zoomed would be noticed.
    pub moved: Monitor,
}

/// Whether something is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Monitor {
    /// It is.
    On,
    /// It will be once enough was seen.
    Learning,
    /// It is not.
    #[default]
    NotMonitored,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered() {
        assert!(Level::Safe < Level::Near && Level::Near < Level::TooNear);
    }

    #[test]
    fn happenings_follow_the_change() {
        let unknown = || State::Unknown(Reason::Stale);
        let disarmed = || State::Disarmed("trailer docked".into());
        for (from, to, expected) in [
            (unknown(), State::Clear, Happening::Clear),
            (State::Clear, State::Warning, Happening::Enter),
            (State::Clear, State::Alarm, Happening::Enter),
            (unknown(), State::Alarm, Happening::Enter),
            (State::Warning, State::Alarm, Happening::Escalate),
            (State::Alarm, State::Warning, Happening::DeEscalate),
            (State::Warning, State::Clear, Happening::Clear),
            (State::Alarm, unknown(), Happening::Fault),
            (State::Clear, disarmed(), Happening::Disarmed),
            (disarmed(), State::Unknown(Reason::Rearmed), Happening::Armed),
            (disarmed(), State::Alarm, Happening::Enter),
        ] {
            assert_eq!(Happening::of_change(&from, &to), expected, "{from:?} -> {to:?}");
        }
    }

    #[test]
    fn display_and_json_agree_on_reasons() {
        for reason in [Reason::Starting, Reason::CutByPictureEdge, Reason::TlsFailed, Reason::EndOfClip] {
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{reason}\""));
        }
    }
}
