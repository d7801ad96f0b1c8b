//! The real daemon between a real camera stream and a real broker, as a subscriber sees it.

use standoff::cli::demo_rtsp::{RtspServer, RtspServerOptions};

use std::time::Duration;

use super::rtsp::Proxy;
use super::site::{Mosquitto, Standoff, Subscriber, dock, dock_config, free_port, one_at_a_time};

const RULE: &str = "forklift_near_edge";

/// The clip from a second on; the forklift is within 0.5 m of the edge from 20.8 s to 23.4 s.
fn camera(port: u16, from_s: u64) -> RtspServer {
    let mut options = RtspServerOptions::new(dock("video.mp4"));
    options.port = port;
    options.from = Duration::from_secs(from_s);
    RtspServer::start(&options).unwrap()
}

/// Until the picture is analysed: the model is loaded, the camera connected.
const START_S: f64 = 60.0;

#[test]
fn a_subscriber_sees_unknown_clear_warning_alarm_clear_and_offline() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let server = camera(0, 15);
    let mut subscriber = Subscriber::connect(broker.port);
    // The order of states is what this looks at: a busy machine may take its time.
    let config = dock_config(server.url(), broker.port)
        .replace("    calibration:", "    stale_after: 20s\n    calibration:");
    let daemon = Standoff::run(&config);

    subscriber.wait_state(RULE, "unknown", START_S);
    subscriber.wait_state(RULE, "alarm", START_S);
    subscriber.wait_state(RULE, "clear", 20.0);
    let states = subscriber.states(RULE);
    let expected = ["unknown", "clear", "warning", "alarm", "warning", "clear"];
    assert_eq!(states, expected, "states in order");
    let alarm =
        subscriber.heard.iter().find(|got| got.topic.ends_with("/event") && got.json()["state"] == "alarm");
    let alarm = alarm.expect("the alarm is an event too").json();
    assert!(alarm["lower_m"].as_f64().unwrap() <= 0.5, "{alarm}");

    let (status, log) = daemon.terminate();
    assert!(status.success(), "{}", log.join("\n"));
    subscriber.wait("offline after SIGTERM", 5.0, |got| {
        got.topic == "standoff/e2e/status" && got.text == "offline"
    });
    // Somebody who comes later is told the same by the broker.
    let mut late = Subscriber::connect(broker.port);
    late.wait("retained offline", 5.0, |got| {
        got.retained && got.topic.ends_with("/status") && got.text == "offline"
    });
}

#[test]
fn a_killed_camera_in_an_alarm_is_unknown_within_2_s_and_right_again_when_it_returns() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let server = camera(0, 19);
    let port = server.port();
    let mut subscriber = Subscriber::connect(broker.port);
    let _daemon = Standoff::run(&dock_config(server.url(), broker.port));
    subscriber.wait_state(RULE, "alarm", START_S);

    server.stop();
    subscriber.forget();
    let (state, took) = subscriber.wait_state(RULE, "unknown", 2.0);
    println!("killed camera: unknown ({}) after {:.2} s", state["reason"], took.as_secs_f64());

    let _server = camera(port, 21);
    // 3 s plus the clip's key-frame interval of 1 s.
    let (_, took) = subscriber.wait_state(RULE, "alarm", 4.0);
    println!("returned camera: alarm again after {:.2} s", took.as_secs_f64());
}

#[test]
fn a_stalled_link_is_unknown_within_2_s_and_right_again_when_it_flows() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    // The forklift stands near the edge, whole in the picture: without the stall nothing would change.
    let mut options = RtspServerOptions::new(dock("video.mp4"));
    options.from = Duration::from_secs(8);
    options.until = Some(Duration::from_secs(10));
    let server = RtspServer::start(&options).unwrap();
    let proxy = Proxy::to(server.port());
    let url = server.url().replace(&server.port().to_string(), &proxy.port().to_string());
    let mut subscriber = Subscriber::connect(broker.port);
    let _daemon = Standoff::run(&dock_config(&url, broker.port));
    subscriber.wait_state(RULE, "warning", START_S);

    proxy.pause();
    subscriber.forget();
    let (state, took) = subscriber.wait_state(RULE, "unknown", 2.0);
    assert!(["stalled", "stale"].contains(&state["reason"].as_str().unwrap()), "{state}");
    println!("stalled link: unknown ({}) after {:.2} s", state["reason"], took.as_secs_f64());

    proxy.resume();
    let (_, took) = subscriber
        .wait("known again", 4.0, |got| got.topic.ends_with(RULE) && got.json()["state"] != "unknown");
    println!("flowing link: known again after {:.2} s", took.as_secs_f64());
}

#[test]
fn a_broker_that_was_away_for_20_s_has_the_right_states_within_5_s() {
    let _turn = one_at_a_time();
    let Some(mut broker) = Mosquitto::start() else { return };
    let server = camera(0, 0);
    let mut subscriber = Subscriber::connect(broker.port);
    let _daemon = Standoff::run(&dock_config(server.url(), broker.port));
    subscriber.wait_state(RULE, "clear", START_S);
    drop(subscriber);

    broker.kill();
    std::thread::park_timeout(Duration::from_secs(20));
    broker.start_again();
    let mut late = Subscriber::connect(broker.port);
    let (_, took) =
        late.wait("online", 5.0, |got| got.topic == "standoff/e2e/status" && got.text == "online");
    println!("the broker is back: online after {:.2} s", took.as_secs_f64());
    // In the order in which they are sent: what has gone by is not waited for again.
    late.wait("the camera's availability", 5.0, |got| {
        got.topic == "standoff/e2e/camera/dock/availability" && got.text == "online"
    });
    let (_, took) = late.wait("the rule's state", 5.0, |got| got.topic.ends_with(RULE));
    println!("the broker is back: the rule's state after {:.2} s more", took.as_secs_f64());
    drop(late);
    let mut later = Subscriber::connect(broker.port);
    let (got, _) = later.wait("a retained state", 5.0, |got| got.retained && got.topic.ends_with(RULE));
    assert_ne!(got.json()["state"], "unknown", "{}", got.text);
}

#[test]
fn a_docked_trailer_disarms_the_rule_with_its_reason() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let server = camera(0, 0);
    let mut subscriber = Subscriber::connect(broker.port);
    subscriber.publish("dock/3/trailer", "docked", true);
    let when = "clear_after: 500ms, when: [{topic: dock/3/trailer, is_not: docked, reason: trailer docked}]";
    let config = dock_config(server.url(), broker.port).replace("clear_after: 500ms", when);
    let _daemon = Standoff::run(&config);
    let (state, _) = subscriber.wait_state(RULE, "disarmed", START_S);
    assert_eq!((&state["reason"], &state["safe"]), (&"trailer docked".into(), &false.into()), "{state}");
    subscriber.publish("dock/3/trailer", "away", true);
    subscriber.wait("armed again", START_S, |got| {
        got.topic.ends_with(RULE) && got.json()["evidence"] == "fresh" && got.json()["state"] != "disarmed"
    });
}

/// What `standoff run` says about a camera that cannot be watched: one line, no password.
fn refused(url: &str, reason: &str) {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let mut subscriber = Subscriber::connect(broker.port);
    let daemon = Standoff::run(&dock_config(url, broker.port));
    let (state, _) = {
        let (got, took) = subscriber.wait(&format!("unknown because {reason}"), START_S, |got| {
            got.topic.ends_with(RULE) && got.json()["reason"] == reason
        });
        (got.json(), took)
    };
    assert_eq!(state["state"], "unknown");
    let (health, _) = subscriber.wait("the camera's health", 10.0, |got| {
        got.topic == "standoff/e2e/camera/dock/health" && got.json()["reason"] == reason
    });
    println!("{reason}: {}", health.json()["detail"]);
    let lines = daemon.log_with("WARN");
    assert_eq!(lines.len(), 1, "one clear line: {lines:#?}");
    for text in daemon.log().iter().chain(subscriber.heard.iter().map(|got| &got.text)) {
        assert!(!text.contains("Pa55"), "the password is in: {text}");
    }
}

#[test]
fn a_wrong_password_is_one_clear_error() {
    let mut options = RtspServerOptions::new(dock("video.mp4"));
    options.user = Some(("operator".into(), standoff::types::Secret::new("right")));
    let server = RtspServer::start(&options).unwrap();
    refused(&server.url().replace("rtsp://", "rtsp://operator:Pa55@"), "auth_failed");
}

#[test]
fn an_unreachable_host_is_one_clear_error() {
    refused(&format!("rtsp://operator:Pa55@127.0.0.1:{}/camera", free_port()), "unreachable");
}

#[test]
fn a_stream_that_is_not_there_is_one_clear_error() {
    let server = camera(0, 0);
    refused(
        &server.url().replace("/camera", "/nothing").replace("rtsp://", "rtsp://operator:Pa55@"),
        "not_found",
    );
}

#[test]
fn a_configuration_with_six_faults_names_all_six_and_does_not_run() {
    let config = dock_config("http://camera/stream", 1883)
        .replace("keep_alive: 5s", "keep_alive: 5")
        .replace("size: 640x360", "size: 640")
        .replace("to: dock_edge", "to: dock_egde")
        .replace("alarm_m: 0.5", "alarm_m: -1")
        .replace("clear_after", "claer_after");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("six.yaml");
    std::fs::write(&file, config).unwrap();
    for command in ["check", "run"] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_standoff"))
            .arg(command)
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
        for path in [
            "mqtt.keep_alive",
            "cameras.dock.url",
            "cameras.dock.calibration.size",
            "cameras.dock.pairs.forklift_edge.to",
            "cameras.dock.rules.forklift_near_edge.alarm_m",
            "cameras.dock.rules.forklift_near_edge.claer_after",
        ] {
            assert!(text.contains(path), "{command} does not name {path}:\n{text}");
        }
        println!("{command}: {text}");
    }
}
