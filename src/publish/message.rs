//! What is said, as it is on the wire: topics and flat JSON. The only place that knows them; docs/mqtt.md
//! describes them with a schema each.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::clock::UtcMillis;
use crate::types::command::{Setting, Via};
use crate::types::{
    CameraId, CameraState, CameraStatus, DaemonStatus, Distance, DistanceKind, Evidence, Happening, Monitor,
    NodeId, PROOF_CAMERA, PairId, PairStatus, Picture, ProofReport, Reading, Report, RuleId, RuleStatus,
    StageTimes, State, StateName, StateStatus, StateValue, Transition,
};

/// Version of the messages; goes up when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// How long a pair's distance is worth reading.
const PAIR_EXPIRY: Duration = Duration::from_secs(10);

/// One message for a broker, whatever the version of its protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub topic: String,
    /// What it says.
    pub payload: Vec<u8>,
    /// 0: may get lost; 1: is acknowledged.
    pub qos: u8,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// After how long the broker may drop it, where the protocol can say that.
    pub expiry: Option<Duration>,
}

/// Topic on which the daemon says whether it runs; its last will speaks there too.
pub fn status_topic(node: &NodeId) -> String {
    format!("standoff/{node}/status")
}

/// Whether the daemon runs.
pub fn status(node: &NodeId, online: bool) -> Message {
    switch(status_topic(node), online)
}

/// Whether a camera gives pictures.
pub fn availability(node: &NodeId, camera: &CameraId, online: bool) -> Message {
    switch(availability_topic(node, camera), online)
}

/// Topic on which it is said whether a camera gives pictures.
pub fn availability_topic(node: &NodeId, camera: &CameraId) -> String {
    format!("standoff/{node}/camera/{camera}/availability")
}

/// Whether a camera counts as available.
pub fn is_available(status: &CameraStatus) -> bool {
    status.state == CameraState::Live
}

fn switch(topic: String, online: bool) -> Message {
    let payload = if online { "online" } else { "offline" };
    Message { topic, payload: payload.into(), qos: 1, retain: true, expiry: None }
}

/// Takes back what the broker keeps on a topic.
pub fn cleared(topic: String) -> Message {
    Message { topic, payload: vec![], qos: 1, retain: true, expiry: None }
}

#[derive(Serialize)]
struct Identity<'a> {
    v: u32,
    ts: i64,
    node: &'a str,
    camera: &'a str,
}

impl<'a> Identity<'a> {
    fn new(node: &'a NodeId, camera: &'a CameraId, ts: UtcMillis) -> Self {
        Self { v: VERSION, ts: ts.0, node: node.as_str(), camera: camera.as_str() }
    }
}

/// A distance; all null when there is none.
#[derive(Serialize, Default)]
struct Metres {
    distance_m: Option<f64>,
    lower_m: Option<f64>,
    upper_m: Option<f64>,
    sigma_m: Option<f64>,
    bound: Option<&'static str>,
}

/// Which things, and how fast they approach each other; null while that is not known.
#[derive(Serialize, Default)]
struct Approach {
    from_id: Option<u64>,
    to_id: Option<u64>,
    approach_mps: Option<f64>,
    approach_sigma_mps: Option<f64>,
    contact_s: Option<f64>,
    contact_lower_s: Option<f64>,
    contact_upper_s: Option<f64>,
}

impl From<&Distance> for Approach {
    fn from(distance: &Distance) -> Self {
        let [contact_lower_s, contact_s, contact_upper_s] =
            distance.contact_s().map(|s| s.and_then(millimetres));
        let finite = |value: Option<f64>| value.and_then(millimetres);
        Self {
            from_id: distance.from_track,
            to_id: distance.to_track,
            approach_mps: finite(distance.approach_mps),
            approach_sigma_mps: finite(distance.approach_sigma_mps),
            contact_s,
            contact_lower_s,
            contact_upper_s,
        }
    }
}

impl From<&Distance> for Metres {
    fn from(distance: &Distance) -> Self {
        // On the wire the interval is where the truth lies: what is outside the picture may be nearer.
        let (bound, lower_m) = match distance.kind {
            DistanceKind::Value => ("value", distance.lower_m),
            DistanceKind::AtMost { floor_m } => ("at_most", distance.lower_m.min(floor_m)),
        };
        Self {
            distance_m: millimetres(distance.nearest_m),
            lower_m: millimetres(lower_m),
            upper_m: millimetres(distance.upper_m),
            sigma_m: millimetres(distance.sigma_m()),
            bound: Some(bound),
        }
    }
}

/// What a state and an event have in common.
#[derive(Serialize)]
struct Facts<'a> {
    #[serde(flatten)]
    identity: Identity<'a>,
    rule: &'a str,
    pair: &'a str,
    state: &'static str,
    safe: bool,
    reason: Option<String>,
    evidence: &'static str,
    evidence_reason: Option<String>,
    #[serde(flatten)]
    metres: Metres,
    threshold_m: Option<f64>,
    warning_m: Option<f64>,
    alarm_m: Option<f64>,
    separation_m: Option<f64>,
    latched: bool,
    acknowledged: Option<bool>,
    acknowledged_by: Option<&'a str>,
    armed: bool,
    shelved_until_ts: Option<i64>,
    captured_ts: Option<i64>,
}

impl<'a> Facts<'a> {
    fn new(node: &'a NodeId, status: &'a RuleStatus) -> Self {
        let (evidence, evidence_reason) = match status.evidence {
            Evidence::Fresh => ("fresh", None),
            Evidence::None(reason) => ("none", Some(reason.to_string())),
        };
        let alarm_m =
            status.separation_m.map_or(status.alarm_m, |separation_m| separation_m.max(status.alarm_m));
        let threshold_m = match status.state {
            State::Alarm => Some(alarm_m),
            State::Warning | State::Clear => {
                Some(status.warning_m.map_or(alarm_m, |warning_m| warning_m.max(alarm_m)))
            }
            State::Unknown(_) | State::Disarmed(_) => None,
        };
        let seen_by = status.held.as_ref().map(|held| held.acknowledged.as_ref());
        Self {
            identity: Identity::new(node, &status.camera, status.ts),
            rule: status.rule.as_str(),
            pair: status.pair.as_str(),
            state: status.state.word(),
            safe: status.state == State::Clear,
            reason: status.state.reason(),
            evidence,
            evidence_reason,
            metres: status.distance.as_ref().map(Metres::from).unwrap_or_default(),
            threshold_m: threshold_m.and_then(millimetres),
            warning_m: status.warning_m.and_then(millimetres),
            alarm_m: millimetres(status.alarm_m),
            separation_m: status.separation_m.and_then(millimetres),
            latched: status.held.is_some(),
            acknowledged: seen_by.map(|deed| deed.is_some()),
            acknowledged_by: seen_by.flatten().map(|deed| deed.by.as_str()),
            armed: status.armed,
            shelved_until_ts: status.shelved_until.map(|until| until.0),
            captured_ts: status.captured.map(|captured| captured.0),
        }
    }
}

#[derive(Serialize)]
struct AlarmJson<'a> {
    #[serde(flatten)]
    facts: Facts<'a>,
    since_ts: i64,
    valid_for_s: f64,
}

/// The present state of a rule: retained, said again before `valid_for_s` ends.
pub fn alarm(node: &NodeId, status: &RuleStatus) -> Message {
    let json = AlarmJson {
        facts: Facts::new(node, status),
        since_ts: status.since.0,
        valid_for_s: status.valid_for.as_secs_f64(),
    };
    Message {
        topic: alarm_topic(node, &status.camera, &status.rule),
        payload: payload(&json),
        qos: 1,
        retain: true,
        expiry: Some(status.valid_for),
    }
}

#[derive(Serialize)]
struct EventJson<'a> {
    #[serde(flatten)]
    facts: Facts<'a>,
    event_type: Happening,
    event_id: &'a str,
    seq: u64,
    from: &'static str,
    latency_ms: Option<f64>,
    by: Option<&'a str>,
    via: Option<Via>,
    detail: Option<&'a str>,
}

/// Something that happened to a rule: not retained, delivered until the broker acknowledges it. What is
/// `late` has a topic of its own.
pub fn event(node: &NodeId, transition: &Transition, late: bool) -> Message {
    let topic = if late { "late" } else { "event" };
    let status = &transition.status;
    let json = EventJson {
        facts: Facts::new(node, status),
        event_type: transition.what,
        event_id: &transition.event_id,
        seq: transition.seq,
        from: transition.from.word(),
        latency_ms: transition.times.as_ref().map(latency_ms),
        by: transition.order.as_ref().map(|order| order.by.as_str()),
        via: transition.order.as_ref().map(|order| order.via),
        detail: transition.order.as_ref().map(|order| order.detail.as_str()),
    };
    // Not below `camera/`: nobody who waits for alarms may take it for one.
    let above = if status.camera.is_proof_test() {
        format!("standoff/{node}/{PROOF_CAMERA}")
    } else {
        alarm_topic(node, &status.camera, &status.rule)
    };
    Message {
        topic: format!("{above}/{topic}"),
        payload: payload(&json),
        qos: 1,
        retain: false,
        expiry: None,
    }
}

/// What the daemon says of itself.
pub fn report(node: &NodeId, report: &Report) -> Message {
    let (topic, payload) = match report {
        Report::Audit { n, hash, ts } => {
            let json = json!({"v": VERSION, "ts": ts, "node": node, "n": n, "hash": hash});
            ("audit", json.to_string())
        }
        Report::Proof(proof) => {
            let ProofReport { ok, stage, reason, took_ms, ts } = proof;
            let json = json!({
                "v": VERSION, "ts": ts, "node": node, "ok": ok, "stage": stage, "reason": reason,
                "took_ms": took_ms,
            });
            ("proof_test", json.to_string())
        }
        Report::Daemon(status) => return daemon_health(node, status),
    };
    let topic = format!("standoff/{node}/{topic}");
    Message { topic, payload: payload.into_bytes(), qos: 1, retain: true, expiry: None }
}

#[derive(Serialize)]
struct DaemonJson<'a> {
    v: u32,
    ts: i64,
    node: &'a str,
    version: &'static str,
    backend: Option<&'a str>,
    backend_problem: Option<&'a str>,
    recorded: bool,
    uptime_s: u64,
    events_waiting: u64,
    events_dropped: u64,
    journal: &'static str,
    journal_problem: Option<&'a str>,
    journal_bytes: u64,
}

/// How the daemon itself is: not retained, may get lost.
fn daemon_health(node: &NodeId, status: &DaemonStatus) -> Message {
    let json = DaemonJson {
        v: VERSION,
        ts: status.ts.0,
        node: node.as_str(),
        version: env!("CARGO_PKG_VERSION"),
        backend: status.backend.as_ref().map(|backend| backend.name.as_str()),
        backend_problem: status.backend.as_ref().and_then(|backend| backend.problem.as_deref()),
        recorded: status.recorded,
        uptime_s: status.uptime.as_secs(),
        events_waiting: status.events_waiting,
        events_dropped: status.events_dropped,
        journal: if status.journal_problem.is_none() { "ok" } else { "degraded" },
        journal_problem: status.journal_problem.as_deref(),
        journal_bytes: status.journal_bytes,
    };
    Message {
        topic: daemon_health_topic(node),
        payload: payload(&json),
        qos: 0,
        retain: false,
        expiry: Some(PAIR_EXPIRY),
    }
}

/// Topic of the present state of a rule; its events lie below.
pub fn alarm_topic(node: &NodeId, camera: &CameraId, rule: &RuleId) -> String {
    format!("standoff/{node}/camera/{camera}/alarm/{rule}")
}

/// Where the present value of something that can be set is said; it is set on the same topic with `/set`.
pub fn setting_topic(node: &NodeId, camera: &CameraId, rule: &RuleId, setting: Setting) -> String {
    format!("{}/{}", alarm_topic(node, camera, rule), setting.as_str())
}

/// The present values of all that can be set on a rule: plain text, retained. A rule without a warning distance
/// has no message for it.
pub fn settings(node: &NodeId, status: &RuleStatus) -> Vec<Message> {
    let value = |setting| match setting {
        Setting::AlarmM => millimetres(status.alarm_m).map(|metres| metres.to_string()),
        Setting::WarningM => status.warning_m.and_then(millimetres).map(|metres| metres.to_string()),
        Setting::Armed => Some(if status.armed { "ON" } else { "OFF" }.to_owned()),
        Setting::Acknowledge => Some(
            match &status.held {
                None => "none",
                Some(held) if held.acknowledged.is_some() => "acknowledged",
                Some(_) => "unacknowledged",
            }
            .to_owned(),
        ),
        Setting::Shelve => {
            Some(status.shelved_until.map_or_else(|| "OFF".to_owned(), |until| until.to_string()))
        }
    };
    let message = |setting| {
        Some(Message {
            topic: setting_topic(node, &status.camera, &status.rule, setting),
            payload: value(setting)?.into(),
            qos: 1,
            retain: true,
            expiry: None,
        })
    };
    Setting::ALL.into_iter().filter_map(message).collect()
}

/// From the capture of the picture to the decision.
fn latency_ms(times: &StageTimes) -> f64 {
    (times.total().as_secs_f64() * 10_000.0).round() / 10.0
}

#[derive(Serialize)]
struct PairJson<'a> {
    #[serde(flatten)]
    identity: Identity<'a>,
    pair: &'a str,
    reading: &'static str,
    reason: Option<String>,
    #[serde(flatten)]
    metres: Metres,
    #[serde(flatten)]
    approach: Approach,
    captured_ts: i64,
}

/// The present distance of a pair: not retained, may get lost.
pub fn pair(node: &NodeId, status: &PairStatus) -> Message {
    let (reading, reason, distance) = match &status.reading {
        Reading::Measured(distance) => ("measured", None, Some(distance)),
        Reading::Absent => ("absent", None, None),
        Reading::Unavailable(reason) => ("unavailable", Some(reason.to_string()), None),
    };
    let metres = distance.map(Metres::from).unwrap_or_default();
    let approach = distance.map(Approach::from).unwrap_or_default();
    let json = PairJson {
        identity: Identity::new(node, &status.camera, status.ts),
        pair: status.pair.as_str(),
        reading,
        reason,
        metres,
        approach,
        captured_ts: status.captured.0,
    };
    Message {
        topic: pair_topic(node, &status.camera, &status.pair),
        payload: payload(&json),
        qos: 0,
        retain: false,
        expiry: Some(PAIR_EXPIRY),
    }
}

/// Topic of the value of a taught state.
pub fn state_topic(node: &NodeId, camera: &CameraId, state: &StateName) -> String {
    format!("standoff/{node}/camera/{camera}/state/{state}")
}

#[derive(Serialize)]
struct StateJson<'a> {
    #[serde(flatten)]
    identity: Identity<'a>,
    state: &'a str,
    value: Option<&'a str>,
    probability: Option<f64>,
    captured_ts: i64,
    valid_for_s: f64,
}

/// The present value of a taught state: retained, said again before `valid_for_s` ends.
pub fn state(node: &NodeId, status: &StateStatus) -> Message {
    let json = StateJson {
        identity: Identity::new(node, &status.camera, status.ts),
        state: status.state.as_str(),
        value: status.value.as_ref().map(StateValue::as_str),
        probability: millimetres(f64::from(status.probability)),
        captured_ts: status.captured.0,
        valid_for_s: status.valid_for.as_secs_f64(),
    };
    Message {
        topic: state_topic(node, &status.camera, &status.state),
        payload: payload(&json),
        qos: 1,
        retain: true,
        expiry: Some(status.valid_for),
    }
}

#[derive(Serialize)]
struct HealthJson<'a> {
    #[serde(flatten)]
    identity: Identity<'a>,
    state: CameraState,
    reason: Option<String>,
    detail: &'a str,
    analysed_fps: Option<f64>,
    frame_age_s: Option<f64>,
    dropped: u64,
    connects: u64,
    view: Option<String>,
    frozen_monitor: Monitor,
    detail_monitor: Monitor,
    moved_monitor: Monitor,
}

/// How a camera is: not retained, may get lost.
pub fn health(node: &NodeId, status: &CameraStatus) -> Message {
    let json = HealthJson {
        identity: Identity::new(node, &status.camera, status.ts),
        state: status.state,
        reason: status.reason.map(|reason| reason.to_string()),
        detail: &status.detail,
        analysed_fps: millimetres(status.analysed_fps),
        frame_age_s: status.frame_age_s.and_then(millimetres),
        dropped: status.dropped,
        connects: status.connects,
        view: status.view.fault.map(|fault| fault.to_string()),
        frozen_monitor: status.view.frozen,
        detail_monitor: status.view.detail,
        moved_monitor: status.view.moved,
    };
    Message {
        topic: health_topic(node, &status.camera),
        payload: payload(&json),
        qos: 0,
        retain: false,
        expiry: Some(PAIR_EXPIRY),
    }
}

/// Topic of a pair's distance.
pub fn pair_topic(node: &NodeId, camera: &CameraId, pair: &PairId) -> String {
    format!("standoff/{node}/camera/{camera}/pair/{pair}")
}

/// Topic of how a camera is.
pub fn health_topic(node: &NodeId, camera: &CameraId) -> String {
    format!("standoff/{node}/camera/{camera}/health")
}

/// Topic of how the daemon is.
pub fn daemon_health_topic(node: &NodeId) -> String {
    format!("standoff/{node}/health")
}

/// The picture of a camera's last alarm: retained.
pub fn picture(node: &NodeId, picture: &Picture) -> Message {
    Message {
        topic: picture_topic(node, &picture.camera),
        payload: picture.jpeg.to_vec(),
        qos: 1,
        retain: true,
        expiry: None,
    }
}

/// Topic of the picture of a camera's last alarm.
pub fn picture_topic(node: &NodeId, camera: &CameraId) -> String {
    format!("standoff/{node}/camera/{camera}/snapshot")
}

/// Rounded to thousandths; what is not a number is nothing.
fn millimetres(value: f64) -> Option<f64> {
    value.is_finite().then(|| (value * 1000.0).round() / 1000.0)
}

fn payload(json: &impl Serialize) -> Vec<u8> {
    // Strings and numbers with fixed names cannot fail to be JSON.
    serde_json::to_vec(json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_null() {
        assert_eq!(millimetres(f64::NAN), None);
        assert_eq!(millimetres(f64::INFINITY), None);
        assert_eq!(millimetres(1.23456), Some(1.235));
    }

    #[test]
    fn latency_is_the_sum_of_the_stages() {
        let ms = Duration::from_millis;
        let times = StageTimes {
            ingest: ms(30),
            backbone: ms(180),
            rules: Duration::from_micros(140),
            ..Default::default()
        };
        assert_eq!(latency_ms(&times), 210.1);
    }
}
