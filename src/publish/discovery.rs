//! What Home Assistant is told of us, so that it makes devices and entities of our topics without a plug-in of
//! ours: a device for the daemon and one for each camera. Pure; `announce` knows what is said when.
//!
//! Whether an entity is available: all need the daemon's `status`, which its last will sets to `offline`. What
//! a camera measures needs the camera too. What is said of a rule does not: it is the rule's state itself that
//! says that the camera is gone, a latched alarm outlives its camera, and a fault event that arrived at an
//! unavailable entity would be lost.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::message;
use crate::geometry::Pair;
use crate::rules::RuleSettings;
use crate::types::command::{LIMIT_RANGE_M, Setting};
use crate::types::{CameraId, Happening, NodeId, RuleId};

/// How Home Assistant is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Not at all.
    #[default]
    Off,
    /// One message a device: Home Assistant 2024.12 and later.
    Device,
    /// One message an entity, for older ones.
    Components,
}

/// Whether and where Home Assistant listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeAssistant {
    /// How it is told.
    pub mode: Mode,
    /// Where its discovery topics begin.
    pub prefix: String,
}

/// What there is to tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Inventory {
    /// Whether and where.
    pub home_assistant: HomeAssistant,
    /// This daemon.
    pub node: NodeId,
    /// How long a rule's state is believed without being said again.
    pub valid_for: Duration,
    /// Whether rules can be set over MQTT.
    pub remote_control: bool,
    /// Its cameras.
    pub cameras: Vec<Camera>,
}

/// A camera, as far as it becomes entities.
#[derive(Debug, Clone, PartialEq)]
pub struct Camera {
    /// Its name.
    pub id: CameraId,
    /// What is measured.
    pub pairs: Vec<Pair>,
    /// What is judged.
    pub rules: Vec<RuleSettings>,
}

/// One discovery message.
#[derive(Debug, Clone, PartialEq)]
pub struct Announced {
    /// Its topic; retained there.
    pub topic: String,
    /// The payload. In device mode `components` is its last part.
    pub payload: Map<String, Value>,
    /// In device mode the components in it: platform by key.
    pub components: BTreeMap<String, String>,
}

/// Every kind of event that a rule can have; Home Assistant refuses an event that was not announced.
const HAPPENINGS: [Happening; 13] = [
    Happening::Enter,
    Happening::Escalate,
    Happening::DeEscalate,
    Happening::Clear,
    Happening::Fault,
    Happening::Disarmed,
    Happening::Armed,
    Happening::Acknowledged,
    Happening::Shelved,
    Happening::Unshelved,
    Happening::SwitchedOff,
    Happening::SwitchedOn,
    Happening::Settings,
];

/// After how long without a message a distance is worth nothing, seconds.
const DISTANCE_EXPIRES_S: u64 = 10;

/// The same for health, which is said every few seconds.
const HEALTH_EXPIRES_S: u64 = 30;

/// A retained state that is older than this when it is read is not believed, seconds: it was left behind by a
/// daemon and a broker that died together. Long enough for clocks that disagree a little.
const RETAINED_MAX_AGE_S: u64 = 60;

/// A step of the settable distances, metres.
const LIMIT_STEP_M: f64 = 0.05;

/// All messages, the daemon's first: the cameras' devices refer to its device.
pub fn announce(inventory: &Inventory) -> Vec<Announced> {
    let daemon = Device {
        id: format!("standoff_{}", inventory.node),
        name: format!("standoff {}", inventory.node),
        model: "daemon",
        via: None,
    };
    let HomeAssistant { mode, prefix } = &inventory.home_assistant;
    let render = |device: &Device, entities: Vec<Entity>| match mode {
        Mode::Off => vec![],
        Mode::Device => vec![whole(prefix, device, entities)],
        Mode::Components => entities.into_iter().map(|entity| single(prefix, device, entity)).collect(),
    };
    let mut all = render(&daemon, daemon_entities(&inventory.node));
    for camera in &inventory.cameras {
        let device = Device {
            id: format!("{}_{}", daemon.id, camera.id),
            name: format!("Camera {}", spaced(camera.id.as_str())),
            model: "camera",
            via: Some(daemon.id.clone()),
        };
        all.extend(render(&device, camera_entities(inventory, camera)));
    }
    all
}

struct Device {
    id: String,
    name: String,
    model: &'static str,
    via: Option<String>,
}

impl Device {
    fn json(&self) -> Value {
        let mut device = json!({
            "identifiers": [self.id],
            "name": self.name,
            "manufacturer": "standoff",
            "model": self.model,
            "sw_version": env!("CARGO_PKG_VERSION"),
        });
        if let Some(via) = &self.via {
            device["via_device"] = json!(via);
        }
        device
    }
}

/// One entity. `key` is its name within its device: what it is, then whose.
struct Entity {
    platform: &'static str,
    key: String,
    body: Value,
}

impl Entity {
    fn new(platform: &'static str, key: impl Into<String>, body: Value) -> Self {
        Self { platform, key: key.into(), body }
    }

    fn json(self, device: &Device) -> Map<String, Value> {
        let Value::Object(mut body) = self.body else { return Map::new() };
        let unique_id = format!("{}_{}", device.id, self.key);
        body.insert("default_entity_id".into(), json!(format!("{}.{}", self.platform, slug(&unique_id))));
        body.insert("unique_id".into(), json!(unique_id));
        body
    }
}

fn origin() -> Value {
    json!({
        "name": "standoff",
        "sw_version": env!("CARGO_PKG_VERSION"),
        "support_url": env!("CARGO_PKG_REPOSITORY"),
    })
}

fn whole(prefix: &str, device: &Device, entities: Vec<Entity>) -> Announced {
    let mut components = BTreeMap::new();
    let mut parts = Map::new();
    for entity in entities {
        let (platform, key) = (entity.platform, entity.key.clone());
        let mut body = entity.json(device);
        body.insert("platform".into(), json!(platform));
        components.insert(key.clone(), platform.to_owned());
        parts.insert(key, Value::Object(body));
    }
    let mut payload = Map::new();
    payload.insert("device".into(), device.json());
    payload.insert("origin".into(), origin());
    payload.insert("components".into(), Value::Object(parts));
    Announced { topic: format!("{prefix}/device/{}/config", device.id), payload, components }
}

fn single(prefix: &str, device: &Device, entity: Entity) -> Announced {
    let topic = format!("{prefix}/{}/{}/{}/config", entity.platform, device.id, entity.key);
    let mut payload = entity.json(device);
    payload.insert("device".into(), device.json());
    payload.insert("origin".into(), origin());
    Announced { topic, payload, components: BTreeMap::new() }
}

fn daemon_entities(node: &NodeId) -> Vec<Entity> {
    let available = json!([{"topic": message::status_topic(node)}]);
    let health = message::daemon_health_topic(node);
    let field = |name: &str, key: &str, more: Value| {
        let base = json!({
            "name": name,
            "availability": available,
            "state_topic": health,
            "value_template": format!("{{{{ value_json.{key} }}}}"),
            "expire_after": HEALTH_EXPIRES_S,
            "entity_category": "diagnostic",
        });
        with(base, more)
    };
    vec![
        Entity::new(
            "binary_sensor",
            "connected",
            json!({
                "name": "Connected",
                "availability": available,
                "state_topic": message::status_topic(node),
                "payload_on": "online",
                "payload_off": "offline",
                "device_class": "connectivity",
                "entity_category": "diagnostic",
                "qos": 1,
            }),
        ),
        Entity::new("sensor", "backend", field("Backend", "backend", json!({"icon": "mdi:chip"}))),
        Entity::new(
            "binary_sensor",
            "backend_problem",
            field(
                "Backend problem",
                "backend_problem",
                json!({
                    "value_template": "{{ 'ON' if value_json.backend_problem else 'OFF' }}",
                    "json_attributes_topic": health,
                    "json_attributes_template": "{{ {'reason': value_json.backend_problem} | to_json }}",
                    "device_class": "problem",
                }),
            ),
        ),
        Entity::new("sensor", "version", field("Version", "version", json!({"icon": "mdi:tag-outline"}))),
        Entity::new(
            "sensor",
            "events_waiting",
            field(
                "Events waiting",
                "events_waiting",
                json!({"state_class": "measurement", "icon": "mdi:tray-full"}),
            ),
        ),
        Entity::new(
            "binary_sensor",
            "journal",
            field(
                "Journal",
                "journal",
                json!({
                    "value_template": "{{ 'OFF' if value_json.journal == 'ok' else 'ON' }}",
                    "device_class": "problem",
                }),
            ),
        ),
    ]
}

fn camera_entities(inventory: &Inventory, camera: &Camera) -> Vec<Entity> {
    let mut entities = camera_diagnostics(&inventory.node, &camera.id);
    for pair in &camera.pairs {
        entities.extend(pair_entities(&inventory.node, &camera.id, pair));
    }
    for rule in &camera.rules {
        entities.extend(rule_entities(inventory, &camera.id, rule));
        if inventory.remote_control {
            entities.extend(settable(&inventory.node, &camera.id, rule));
        }
    }
    entities
}

/// What a camera measures is there while both the daemon and the camera are.
fn measured(node: &NodeId, camera: &CameraId) -> Value {
    json!({
        "availability": [
            {"topic": message::status_topic(node)},
            {"topic": message::availability_topic(node, camera)},
        ],
        "availability_mode": "all",
    })
}

/// What the daemon says is there while the daemon is.
fn said(node: &NodeId) -> Value {
    json!({"availability": [{"topic": message::status_topic(node)}]})
}

fn camera_diagnostics(node: &NodeId, camera: &CameraId) -> Vec<Entity> {
    let health = message::health_topic(node, camera);
    let attributes = "{{ {'state': value_json.state, 'reason': value_json.reason, 'detail': value_json.detail} | to_json }}";
    let number = |name: &str, field: &str, more: Value| {
        let base = json!({
            "name": name,
            "state_topic": health,
            "value_template": format!("{{{{ value_json.{field} }}}}"),
            "expire_after": HEALTH_EXPIRES_S,
            "state_class": "measurement",
            "entity_category": "diagnostic",
        });
        with(with(base, measured(node, camera)), more)
    };
    let last_alarm = json!({
        "name": "Last alarm",
        "image_topic": message::picture_topic(node, camera),
        "content_type": "image/jpeg",
        "icon": "mdi:image-outline",
    });
    let stream = json!({
        "name": "Stream",
        "state_topic": message::availability_topic(node, camera),
        "payload_on": "online",
        "payload_off": "offline",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "qos": 1,
    });
    let problem = json!({
        "name": "Problem",
        "state_topic": health,
        "value_template": "{{ 'OFF' if value_json.state == 'live' and value_json.reason is none else 'ON' }}",
        "json_attributes_topic": health,
        "json_attributes_template": attributes,
        "expire_after": HEALTH_EXPIRES_S,
        "device_class": "problem",
        "entity_category": "diagnostic",
    });
    vec![
        Entity::new("image", "last_alarm", with(last_alarm, said(node))),
        Entity::new("binary_sensor", "stream", with(stream, said(node))),
        Entity::new("binary_sensor", "problem", with(problem, said(node))),
        Entity::new(
            "sensor",
            "fps",
            number(
                "Pictures analysed",
                "analysed_fps",
                json!({"unit_of_measurement": "fps", "suggested_display_precision": 1, "icon": "mdi:speedometer"}),
            ),
        ),
        Entity::new(
            "sensor",
            "picture_age",
            number(
                "Picture age",
                "frame_age_s",
                json!({
                    "unit_of_measurement": "s",
                    "device_class": "duration",
                    "suggested_display_precision": 2,
                }),
            ),
        ),
    ]
}

fn pair_entities(node: &NodeId, camera: &CameraId, pair: &Pair) -> Vec<Entity> {
    let of = words(pair.id.as_str());
    let topic = message::pair_topic(node, camera, &pair.id);
    let sensor = |kind: &str, what: &str, field: &str, more: Value| {
        let base = json!({
            "name": format!("{of} {what}"),
            "state_topic": topic,
            "value_template": format!("{{{{ value_json.{field} }}}}"),
            "expire_after": DISTANCE_EXPIRES_S,
            "state_class": "measurement",
            "suggested_display_precision": 2,
        });
        let body = with(with(base, measured(node, camera)), more);
        Entity::new("sensor", format!("{kind}_{}", pair.id), body)
    };
    // Speeds change with every picture: there for who wants them, not in everybody's way.
    vec![
        sensor(
            "distance",
            "distance",
            "distance_m",
            json!({"unit_of_measurement": "m", "device_class": "distance"}),
        ),
        sensor(
            "approach",
            "approach speed",
            "approach_mps",
            json!({"unit_of_measurement": "m/s", "device_class": "speed", "enabled_by_default": false}),
        ),
        sensor(
            "contact",
            "time to contact",
            "contact_s",
            json!({"unit_of_measurement": "s", "device_class": "duration", "enabled_by_default": false}),
        ),
    ]
}

fn rule_entities(inventory: &Inventory, camera: &CameraId, rule: &RuleSettings) -> Vec<Entity> {
    let node = &inventory.node;
    let of = words(rule.id.as_str());
    let topic = message::alarm_topic(node, camera, &rule.id);
    // Not what changes with every message: each change of an attribute is a row in Home Assistant's database.
    let shown = [
        "state",
        "reason",
        "evidence",
        "evidence_reason",
        "latched",
        "acknowledged",
        "acknowledged_by",
        "armed",
        "shelved_until_ts",
        "warning_m",
        "alarm_m",
        "since_ts",
    ];
    let attributes: Vec<String> = shown.iter().map(|key| format!("'{key}': value_json.{key}")).collect();
    let safety = json!({
        "name": of,
        "state_topic": topic,
        // ON is unsafe, and everything that does not say that it is safe is unsafe.
        "value_template": format!(
            "{{{{ 'OFF' if value_json is defined and value_json.safe is true \
             and value_json.ts / 1000 > now().timestamp() - {RETAINED_MAX_AGE_S} else 'ON' }}}}"
        ),
        "json_attributes_topic": topic,
        "json_attributes_template": format!("{{{{ {{{}}} | to_json }}}}", attributes.join(", ")),
        "expire_after": inventory.valid_for.as_secs(),
        "device_class": "safety",
        "qos": 1,
    });
    let event = json!({
        "name": format!("{of} event"),
        "state_topic": format!("{topic}/event"),
        "event_types": HAPPENINGS,
        "icon": "mdi:bell-outline",
        "qos": 1,
    });
    vec![
        Entity::new("binary_sensor", format!("safety_{}", rule.id), with(safety, said(node))),
        Entity::new("event", format!("event_{}", rule.id), with(event, said(node))),
    ]
}

/// What can be set, where that is allowed.
fn settable(node: &NodeId, camera: &CameraId, rule: &RuleSettings) -> Vec<Entity> {
    let of = words(rule.id.as_str());
    let topic = |setting| message::setting_topic(node, camera, &rule.id, setting);
    let entity = |platform, setting: Setting, what: &str, more: Value| {
        let base = json!({
            "name": format!("{of} {what}"),
            "command_topic": format!("{}/set", topic(setting)),
            "entity_category": "config",
            "qos": 1,
        });
        Entity::new(platform, key(setting, &rule.id), with(with(base, said(node)), more))
    };
    let limit = |setting, what, min: f64| {
        let more = json!({
            "state_topic": topic(setting),
            "min": min,
            "max": LIMIT_RANGE_M.end(),
            "step": LIMIT_STEP_M,
            "mode": "box",
            "unit_of_measurement": "m",
            "device_class": "distance",
        });
        entity("number", setting, what, more)
    };
    let (warning_m, _) = rule.limits_m();
    let mut entities = vec![
        limit(Setting::AlarmM, "alarm distance", *LIMIT_RANGE_M.start()),
        entity(
            "switch",
            Setting::Armed,
            "armed",
            json!({"state_topic": topic(Setting::Armed), "icon": "mdi:shield-check-outline"}),
        ),
        entity("button", Setting::Acknowledge, "acknowledge", json!({"icon": "mdi:check-circle-outline"})),
    ];
    let shelve = |key: &str, what: &str, payload: &str, icon: &str| {
        let body =
            entity("button", Setting::Shelve, what, json!({"payload_press": payload, "icon": icon})).body;
        Entity::new("button", format!("{key}_{}", rule.id), body)
    };
    entities.push(shelve("shelve", "shelve 30 min", "30m", "mdi:timer-pause-outline"));
    entities.push(shelve("unshelve", "end shelving", "OFF", "mdi:timer-off-outline"));
    if warning_m.is_some() {
        // A warning comes before its alarm, so it cannot be as near as an alarm can.
        entities.push(limit(Setting::WarningM, "warning distance", LIMIT_RANGE_M.start() + LIMIT_STEP_M));
    }
    entities
}

fn key(setting: Setting, rule: &RuleId) -> String {
    format!("{}_{rule}", setting.as_str())
}

/// The second object's fields over the first's.
fn with(mut base: Value, more: Value) -> Value {
    if let (Value::Object(base), Value::Object(more)) = (&mut base, more) {
        base.extend(more);
    }
    base
}

/// A name as people write it: "forklift_near-edge" is "Forklift near edge".
fn words(name: &str) -> String {
    let mut text = spaced(name);
    if let Some(first) = text.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    text
}

fn spaced(name: &str) -> String {
    name.replace(['_', '-'], " ").trim().to_owned()
}

/// As Home Assistant writes ids: what is no letter or digit becomes one underscore.
fn slug(name: &str) -> String {
    let parts = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("_")
}

#[cfg(test)]
pub(super) mod tests;
