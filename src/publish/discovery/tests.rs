use std::collections::BTreeSet;

use super::*;
use crate::geometry::PairEnd;
use crate::rules::{LatchSettings, ProximitySettings, RuleKind};
use crate::types::{ClassName, EdgeId, PairId};

pub(in crate::publish) fn inventory(mode: Mode, cameras: &[&str], remote_control: bool) -> Inventory {
    let pair = PairId::new("forklift_edge").unwrap();
    let rule = |warning_m: Option<f64>, name: &str| RuleSettings {
        id: RuleId::new(name).unwrap(),
        kind: RuleKind::Proximity(ProximitySettings {
            pair: pair.clone(),
            warning_m,
            alarm_m: 0.5,
            leave_warning_m: None,
            leave_alarm_m: 0.8,
            separation: None,
            alarm_contact: None,
        }),
        latch: LatchSettings {
            stale_after: Duration::from_secs(1),
            alarm_after: Duration::ZERO,
            clear_after: Duration::from_secs(1),
            latch: false,
        },
        when: vec![],
        shelve_max: Duration::from_secs(28_800),
    };
    let camera = |name: &&str| Camera {
        id: CameraId::new(name).unwrap(),
        pairs: vec![Pair {
            id: pair.clone(),
            from: ClassName::new("forklift").unwrap(),
            to: PairEnd::Edge(EdgeId::new("dock_edge").unwrap()),
        }],
        rules: vec![rule(Some(2.0), "near-edge"), rule(None, "at-edge")],
    };
    Inventory {
        home_assistant: HomeAssistant { mode, prefix: "homeassistant".into() },
        node: NodeId::new("north").unwrap(),
        valid_for: Duration::from_secs(10),
        remote_control,
        cameras: cameras.iter().map(camera).collect(),
    }
}

/// Every entity of the announcement: topic or topic and key, platform, configuration.
fn entities(mode: Mode, remote_control: bool) -> Vec<(String, String, Value)> {
    let mut found = vec![];
    for announced in announce(&inventory(mode, &["dock-1", "gate"], remote_control)) {
        let payload = Value::Object(announced.payload);
        assert!(payload["device"]["name"].is_string() && payload["origin"]["name"] == "standoff");
        if mode == Mode::Components {
            let platform = announced.topic.split('/').nth(1).unwrap().to_owned();
            found.push((announced.topic, platform, payload));
            continue;
        }
        for (key, part) in payload["components"].as_object().unwrap() {
            assert_eq!(announced.components[key], part["platform"]);
            let topic = format!("{} {key}", announced.topic);
            found.push((topic, part["platform"].as_str().unwrap().to_owned(), part.clone()));
        }
    }
    found
}

#[test]
fn nothing_is_said_when_it_is_off() {
    assert!(announce(&inventory(Mode::Off, &["dock"], true)).is_empty());
}

#[test]
fn a_device_for_the_daemon_and_one_behind_it_for_each_camera() {
    let all = announce(&inventory(Mode::Device, &["dock-1", "gate"], false));
    let topics: Vec<&str> = all.iter().map(|announced| announced.topic.as_str()).collect();
    assert_eq!(
        topics,
        [
            "homeassistant/device/standoff_north/config",
            "homeassistant/device/standoff_north_dock-1/config",
            "homeassistant/device/standoff_north_gate/config"
        ]
    );
    let device = |index: usize| all[index].payload["device"].clone();
    assert_eq!(device(0)["via_device"], Value::Null);
    assert_eq!(device(1)["via_device"], device(0)["identifiers"][0]);
    assert_eq!(device(1)["name"], "Camera dock 1");
}

#[test]
fn both_ways_announce_the_same_entities_and_each_is_whole() {
    let ids = |mode| {
        let found = entities(mode, true);
        let ids: BTreeSet<String> =
            found.iter().map(|(_, _, part)| part["unique_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), found.len(), "an id is there twice");
        ids
    };
    assert_eq!(ids(Mode::Device), ids(Mode::Components));
    assert!(ids(Mode::Device).contains("standoff_north_dock-1_distance_forklift_edge"));
    for (topic, platform, part) in entities(Mode::Components, true) {
        let text = |key: &str| part[key].as_str().unwrap_or_else(|| panic!("{topic} has no {key}"));
        let availability = part["availability"].as_array().unwrap();
        assert_eq!(availability[0]["topic"], "standoff/north/status", "{topic}");
        assert_eq!(
            text("default_entity_id"),
            format!("{platform}.{}", text("unique_id").replace('-', "_")),
            "{topic}"
        );
        assert!(!text("name").starts_with("Camera"), "{topic} repeats its device's name");
        if platform == "sensor" {
            assert_ne!(part["entity_category"], "config", "{topic}: Home Assistant refuses that");
        }
    }
}

#[test]
fn what_can_be_set_is_announced_only_where_that_is_allowed() {
    let settable = |remote_control| -> BTreeSet<String> {
        entities(Mode::Device, remote_control)
            .into_iter()
            .filter(|(_, _, part)| part.get("command_topic").is_some())
            .map(|(_, platform, _)| platform)
            .collect()
    };
    assert!(settable(false).is_empty());
    assert_eq!(settable(true), ["button", "number", "switch"].map(str::to_owned).into());
    let all = entities(Mode::Device, true);
    let find = |key: &str| all.iter().find(|(topic, ..)| topic.ends_with(key)).map(|(_, _, part)| part);
    let alarm = find("dock-1/config alarm_m_near-edge").unwrap();
    assert_eq!(alarm["state_topic"], "standoff/north/camera/dock-1/alarm/near-edge/alarm_m");
    assert_eq!(alarm["command_topic"], "standoff/north/camera/dock-1/alarm/near-edge/alarm_m/set");
    assert!(find("dock-1/config warning_m_near-edge").is_some());
    assert!(find("dock-1/config warning_m_at-edge").is_none(), "that rule has no warning");
}

#[test]
fn what_a_camera_measures_needs_it_and_what_is_said_of_a_rule_does_not() {
    for (topic, platform, part) in entities(Mode::Components, true) {
        if topic.contains("/standoff_north/") {
            continue;
        }
        let needs_camera = part["availability"].as_array().unwrap().len() == 2;
        let is_measured = platform == "sensor";
        assert_eq!(needs_camera, is_measured, "{topic}");
        assert_eq!(part["availability_mode"] == "all", is_measured, "{topic}");
    }
}

#[test]
fn a_distance_ends_and_a_rule_is_unsafe_unless_it_says_safe() {
    let all = entities(Mode::Components, false);
    let find = |key: &str| &all.iter().find(|(topic, ..)| topic.contains(key)).unwrap().2;
    let distance = find("dock-1/distance_forklift_edge");
    assert_eq!(distance["expire_after"], 10);
    assert_eq!(
        (&distance["unit_of_measurement"], &distance["device_class"]),
        (&json!("m"), &json!("distance"))
    );
    assert_eq!(distance["state_topic"], "standoff/north/camera/dock-1/pair/forklift_edge");
    let safety = find("dock-1/safety_near-edge");
    assert_eq!((&safety["device_class"], &safety["expire_after"]), (&json!("safety"), &json!(10)));
    assert!(safety["value_template"].as_str().unwrap().ends_with("else 'ON' }}"));
    assert!(safety.get("payload_off").is_none(), "the template says OFF, which is the default");
}

#[test]
fn every_event_is_announced() {
    // A new kind of event does not compile here until it is in the list.
    let index = |what: Happening| match what {
        Happening::Enter => 0,
        Happening::Escalate => 1,
        Happening::DeEscalate => 2,
        Happening::Clear => 3,
        Happening::Fault => 4,
        Happening::Disarmed => 5,
        Happening::Armed => 6,
        Happening::Acknowledged => 7,
        Happening::Shelved => 8,
        Happening::Unshelved => 9,
        Happening::SwitchedOff => 10,
        Happening::SwitchedOn => 11,
        Happening::Settings => 12,
    };
    let indices: Vec<usize> = HAPPENINGS.into_iter().map(index).collect();
    assert_eq!(indices, (0..13).collect::<Vec<_>>());
    let all = entities(Mode::Device, false);
    let (_, _, event) = all.iter().find(|(_, platform, _)| platform == "event").unwrap();
    assert_eq!(event["event_types"][2], "de_escalate");
}

#[test]
fn names_are_readable_and_ids_as_home_assistant_writes_them() {
    assert_eq!(words("forklift_near-edge"), "Forklift near edge");
    assert_eq!(words("0"), "0");
    assert_eq!(slug("standoff_a-b__c-"), "standoff_a_b_c");
}
