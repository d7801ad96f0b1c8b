//! Real messages of every kind against the schemas that stand in docs/mqtt.md.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jsonschema::Validator;
use serde_json::{Value, json};
use standoff::clock::{Timestamp, UtcMillis};
use standoff::publish::message::{self, Message};
use standoff::types::command::{Deed, Ordered, Via};
use standoff::types::{
    CameraId, CameraState, CameraStatus, ClassName, DaemonStatus, Distance, DistanceKind, Evidence,
    Happening, Held, Monitor, NodeId, PairId, PairStatus, ProofReport, ProofStage, Reading, Reason, Report,
    RuleId, RuleStatus, RunsOn, StageTimes, State, StateName, StateStatus, StateValue, Transition,
    ViewStatus,
};

/// Example and schema of each section of the page.
fn page() -> BTreeMap<String, (Value, Validator)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/mqtt.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut found = BTreeMap::new();
    for section in text.split("\n## ").skip(1) {
        let title = section.lines().next().unwrap_or_default();
        let blocks: Vec<Value> = section
            .split("```json\n")
            .skip(1)
            .map(|block| serde_json::from_str(block.split("```").next().unwrap()).unwrap())
            .collect();
        if let [example, schema] = blocks.as_slice() {
            assert_eq!(schema["title"], title);
            found.insert(title.to_owned(), (example.clone(), jsonschema::validator_for(schema).unwrap()));
        }
    }
    found
}

fn check(schema: &Validator, value: &Value) {
    let errors: Vec<String> = schema.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{value:#}");
}

fn node() -> NodeId {
    NodeId::new("n").unwrap()
}

fn distance(nearest_m: f64, kind: DistanceKind) -> Distance {
    Distance {
        nearest_m,
        lower_m: (nearest_m - 0.4).max(0.0),
        upper_m: nearest_m + 0.4,
        kind,
        from_ground: [0.0; 2],
        to_ground: [0.0; 2],
        from: ClassName::new("forklift").unwrap(),
        from_index: Some(0),
        from_track: Some(7),
        to_track: None,
        others: vec![],
        to_index: None,
        to_edge: None,
        approach_mps: Some(0.7),
        approach_sigma_mps: Some(0.2),
        captured: Timestamp::default(),
    }
}

fn distances() -> Vec<Option<Distance>> {
    vec![
        None,
        Some(distance(1.5, DistanceKind::Value)),
        Some(distance(1.5, DistanceKind::AtMost { floor_m: 0.2 })),
        Some(distance(f64::NAN, DistanceKind::Value)),
    ]
}

fn states() -> Vec<State> {
    vec![
        State::Unknown(Reason::Starting),
        State::Clear,
        State::Warning,
        State::Alarm,
        State::Disarmed("trailer docked".into()),
    ]
}

fn status(state: State, distance: Option<Distance>, warning_m: Option<f64>) -> RuleStatus {
    let evidence = match &state {
        State::Unknown(reason) => Evidence::None(*reason),
        _ => Evidence::Fresh,
    };
    RuleStatus {
        camera: CameraId::new("c").unwrap(),
        rule: RuleId::new("r").unwrap(),
        pair: PairId::new("p").unwrap(),
        captured: distance.is_some().then_some(UtcMillis(1_795_300_000_000)),
        state,
        evidence,
        distance,
        warning_m,
        alarm_m: 0.5,
        held: None,
        armed: true,
        shelved_until: None,
        separation_m: None,
        since: UtcMillis(1_795_300_000_000),
        ts: UtcMillis(1_795_300_000_100),
        valid_for: Duration::from_secs(10),
    }
}

fn json(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

#[test]
fn the_page_has_an_example_for_every_schema() {
    let page = page();
    let titles: Vec<&str> = page.keys().map(String::as_str).collect();
    assert_eq!(
        titles,
        [
            "alarm",
            "audit",
            "availability",
            "daemon",
            "event",
            "health",
            "pair",
            "proof_test",
            "setting",
            "state"
        ]
    );
    for (example, schema) in page.values() {
        check(schema, example);
    }
}

#[test]
fn every_state_is_as_the_page_says() {
    let schema = &page()["alarm"].1;
    for state in states() {
        for distance in distances() {
            for warning_m in [None, Some(2.0)] {
                let status = status(state.clone(), distance.clone(), warning_m);
                let message = message::alarm(&node(), &status);
                let value = json(&message);
                check(schema, &value);
                assert_eq!(value["safe"], json!(state == State::Clear));
                assert_eq!(message.topic, "standoff/n/camera/c/alarm/r");
                assert!(message.retain && message.qos == 1);
            }
        }
    }
    let mut without_evidence = status(State::Alarm, None, None);
    without_evidence.evidence = Evidence::None(Reason::ConnectionLost);
    let value = json(&message::alarm(&node(), &without_evidence));
    check(schema, &value);
    assert_eq!(value["evidence_reason"], "connection_lost");
    assert_eq!((&value["state"], &value["safe"]), (&json!("alarm"), &json!(false)));
}

#[test]
fn what_people_have_done_is_as_the_page_says() {
    let page = page();
    let deed = Deed { by: "ann".into(), at: UtcMillis(1) };
    for (held, acknowledged) in [
        (None, Value::Null),
        (Some(Held { acknowledged: None }), json!(false)),
        (Some(Held { acknowledged: Some(deed) }), json!(true)),
    ] {
        let mut status = status(State::Alarm, Some(distance(1.5, DistanceKind::Value)), Some(2.0));
        status.held = held;
        status.armed = false;
        status.shelved_until = Some(UtcMillis(1_795_300_000_000));
        status.separation_m = Some(3.0);
        let value = json(&message::alarm(&node(), &status));
        check(&page["alarm"].1, &value);
        assert_eq!(value["acknowledged"], acknowledged);
        assert_eq!(value["threshold_m"], json!(3.0), "the larger limit is the one that was passed");
        for message in message::settings(&node(), &status) {
            check(&page["setting"].1, &json!(String::from_utf8(message.payload).unwrap()));
            assert!(message.retain && message.qos == 1);
            assert!(message.topic.starts_with("standoff/n/camera/c/alarm/r/"), "{}", message.topic);
        }
        let ordered = Ordered { by: "ann".into(), via: Via::Socket, detail: "for 30 min".into() };
        let transition = Transition {
            event_id: "id-1".into(),
            seq: 1,
            what: Happening::Shelved,
            from: State::Alarm,
            status,
            times: None,
            order: Some(ordered),
        };
        let value = json(&message::event(&node(), &transition, false));
        check(&page["event"].1, &value);
        assert_eq!((&value["by"], &value["via"]), (&json!("ann"), &json!("socket")));
    }
}

#[test]
fn every_change_is_as_the_page_says() {
    let schema = &page()["event"].1;
    let times = StageTimes { backbone: Duration::from_millis(180), ..StageTimes::default() };
    for from in states() {
        for to in states() {
            for (distance, times) in distances().into_iter().zip([None, Some(times)].into_iter().cycle()) {
                let transition = Transition {
                    event_id: "id-1".into(),
                    seq: 1,
                    what: Happening::of_change(&from, &to),
                    from: from.clone(),
                    status: status(to.clone(), distance, Some(2.0)),
                    times,
                    order: None,
                };
                let message = message::event(&node(), &transition, false);
                check(schema, &json(&message));
                assert_eq!(message.topic, "standoff/n/camera/c/alarm/r/event");
                let late = message::event(&node(), &transition, true);
                assert_eq!(late.topic, "standoff/n/camera/c/alarm/r/late");
                assert_eq!(late.payload, message.payload);
                assert!(!message.retain && message.qos == 1);
            }
        }
    }
}

#[test]
fn every_reading_is_as_the_page_says() {
    let schema = &page()["pair"].1;
    let mut readings = vec![Reading::Absent, Reading::Unavailable(Reason::NotCalibrated)];
    readings.extend(distances().into_iter().flatten().map(Reading::Measured));
    for reading in readings {
        let status = PairStatus {
            camera: CameraId::new("c").unwrap(),
            pair: PairId::new("p").unwrap(),
            reading,
            captured: UtcMillis(1),
            ts: UtcMillis(2),
        };
        let message = message::pair(&node(), &status);
        check(schema, &json(&message));
        assert!(!message.retain && message.qos == 0);
    }
    let cut = message::pair(
        &node(),
        &PairStatus {
            camera: CameraId::new("c").unwrap(),
            pair: PairId::new("p").unwrap(),
            reading: Reading::Measured(distance(1.5, DistanceKind::AtMost { floor_m: 0.2 })),
            captured: UtcMillis(1),
            ts: UtcMillis(2),
        },
    );
    let cut = json(&cut);
    assert_eq!(
        (&cut["bound"], &cut["lower_m"], &cut["upper_m"]),
        (&json!("at_most"), &json!(0.2), &json!(1.9))
    );
}

#[test]
fn a_taught_state_fits_its_schema_known_or_not() {
    let schema = &page()["state"].1;
    for value in [None, Some(StateValue::new("open").unwrap())] {
        let status = StateStatus {
            camera: CameraId::new("dock").unwrap(),
            state: StateName::new("door-3").unwrap(),
            value: value.clone(),
            probability: 0.97,
            captured: UtcMillis(4),
            ts: UtcMillis(5),
            valid_for: Duration::from_secs(10),
        };
        let message = message::state(&node(), &status);
        assert_eq!((message.topic.as_str(), message.retain), ("standoff/n/camera/dock/state/door-3", true));
        let json: Value = serde_json::from_slice(&message.payload).unwrap();
        check(schema, &json);
        assert_eq!(json["value"], json!(value.map(|value| value.to_string())));
    }
}

#[test]
fn every_health_is_as_the_page_says() {
    use CameraState::{Backoff, Connecting, Ended, Live, Refused, Stalled};
    let schema = &page()["health"].1;
    for state in [Connecting, Live, Stalled, Backoff, Refused, Ended] {
        let seen = ViewStatus {
            fault: Some(Reason::WashedOut),
            frozen: Monitor::On,
            detail: Monitor::Learning,
            moved: Monitor::On,
        };
        for (reason, age, view) in
            [(None, Some(0.2), seen), (Some(Reason::AuthFailed), None, ViewStatus::default())]
        {
            let status = CameraStatus {
                camera: CameraId::new("c").unwrap(),
                state,
                reason,
                detail: "one line".into(),
                analysed_fps: 4.8,
                frame_age_s: age,
                dropped: 3,
                connects: 1,
                view,
                ts: UtcMillis(2),
            };
            check(schema, &json(&message::health(&node(), &status)));
        }
    }
}

#[test]
fn availability_is_plain_text() {
    let schema = &page()["availability"].1;
    for online in [true, false] {
        let camera = CameraId::new("c").unwrap();
        for message in [message::status(&node(), online), message::availability(&node(), &camera, online)] {
            check(schema, &json!(String::from_utf8(message.payload).unwrap()));
            assert!(message.retain && message.qos == 1);
        }
    }
}

#[test]
fn what_the_daemon_reports_is_as_the_page_says() {
    let page = page();
    let ts = UtcMillis(1_795_300_005_321);
    for stage in [ProofStage::Injected, ProofStage::Inferred, ProofStage::Alarmed, ProofStage::Acknowledged] {
        let ok = stage == ProofStage::Acknowledged;
        let reason = (!ok).then(|| "the broker has not acknowledged".to_owned());
        let report = Report::Proof(ProofReport { ok, stage, reason, took_ms: 400, ts });
        let message = message::report(&node(), &report);
        assert_eq!((message.topic.as_str(), message.retain), ("standoff/n/proof_test", true));
        check(&page["proof_test"].1, &json(&message));
    }
    let message = message::report(&node(), &Report::Audit { n: 7, hash: "0a".repeat(32), ts });
    assert_eq!((message.topic.as_str(), message.retain), ("standoff/n/audit", true));
    check(&page["audit"].1, &json(&message));
}

#[test]
fn the_daemons_health_is_as_the_page_says() {
    let schema = &page()["daemon"].1;
    for (backend, problem) in [(None, None), (Some("b"), Some("no space left on device".to_owned()))] {
        let status = DaemonStatus {
            backend: backend.map(|name| RunsOn { name: name.to_owned(), problem: problem.clone() }),
            recorded: false,
            uptime: Duration::from_millis(1500),
            events_waiting: 3,
            events_dropped: 1,
            journal_problem: problem.clone(),
            journal_bytes: 1 << 20,
            ts: UtcMillis(2),
        };
        let message = message::report(&node(), &Report::Daemon(status));
        let value = json(&message);
        check(schema, &value);
        assert_eq!(value["backend_problem"], json!(problem));
        assert_eq!(value["journal"], json!(if problem.is_some() { "degraded" } else { "ok" }));
        assert_eq!((message.topic.as_str(), message.retain, message.qos), ("standoff/n/health", false, 0));
    }
}
