//! What people do with alarms, and what outlives the daemon: latched alarms, shelving, switches, limits.

use std::time::Duration;

use standoff::cli::demo_rtsp::{RtspServer, RtspServerOptions};

use super::site::{
    Deadline, Got, Mosquitto, Standoff, Subscriber, dock, dock_config, free_port, one_at_a_time,
};

const RULE: &str = "forklift_near_edge";
const TOPIC: &str = "standoff/e2e/camera/dock/alarm/forklift_near_edge";

/// Until the picture is analysed: the model is loaded, the camera connected.
const START_S: f64 = 90.0;

/// The forklift stands 1.4 m from the edge: a warning, or an alarm when somebody sets the limits so.
fn camera(port: u16) -> RtspServer {
    let mut options = RtspServerOptions::new(dock("video.mp4"));
    options.port = port;
    options.from = Duration::from_secs(8);
    options.until = Some(Duration::from_secs(10));
    RtspServer::start(&options).unwrap()
}

fn config(url: &str, mqtt_port: u16, remote: bool) -> String {
    dock_config(url, mqtt_port)
        .replace("keep_alive: 5s", &format!("keep_alive: 5s, allow_remote_control: {remote}"))
        .replace("clear_after: 500ms", "clear_after: 500ms, latch: true")
}

/// Waits for a state of the rule that `is_it`, and gives it.
fn wait(
    subscriber: &mut Subscriber,
    what: &str,
    seconds: f64,
    is_it: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    subscriber.wait(what, seconds, |got| got.topic == TOPIC && is_it(&got.json())).0.json()
}

fn is_event(got: &Got, event_type: &str) -> bool {
    got.topic.starts_with(TOPIC)
        && (got.topic.ends_with("/event") || got.topic.ends_with("/late"))
        && got.json()["event_type"] == event_type
}

/// `standoff alarm list`, once the daemon has loaded its model and answers.
fn list(daemon: &Standoff) -> String {
    let deadline = Deadline::after(START_S);
    loop {
        let (code, table, errors) = daemon.alarm(&["list"]);
        if code == 0 {
            return table;
        }
        assert!(deadline.left().is_some(), "{errors}");
        std::thread::park_timeout(Duration::from_millis(200));
    }
}

#[test]
fn a_latched_alarm_outlives_the_camera_and_the_daemon_until_somebody_has_seen_it() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let server = camera(0);
    let port = server.port();
    let mut subscriber = Subscriber::connect(broker.port);
    let mut daemon = Standoff::run(&config(server.url(), broker.port, true));
    subscriber.wait_state(RULE, "warning", START_S);

    // Limits over MQTT, echoed, told as events, and in force with the next picture.
    subscriber.publish(&format!("{TOPIC}/warning_m/set"), "4.0", false);
    subscriber.wait("warning_m is echoed", 10.0, |got| {
        got.topic == format!("{TOPIC}/warning_m") && got.text == "4"
    });
    subscriber.publish(&format!("{TOPIC}/alarm_m/set"), "3.0", false);
    let (told, _) = subscriber.wait("the limit is an event", 10.0, |got| is_event(got, "settings"));
    assert_eq!((told.json()["via"].as_str(), told.json()["by"].as_str()), (Some("mqtt"), Some("mqtt")));
    let alarm = wait(&mut subscriber, "the alarm is latched", 10.0, |json| json["state"] == "alarm");
    assert_eq!((alarm["latched"].as_bool(), alarm["acknowledged"].as_bool()), (Some(true), Some(false)));

    // The camera dies: evidence and state are two things.
    server.stop();
    wait(&mut subscriber, "the alarm stays without evidence", 10.0, |json| {
        json["state"] == "alarm" && json["evidence"] == "none"
    });

    // The daemon dies: it comes back as it was.
    daemon.kill();
    subscriber.wait("the will", 15.0, |got| got.topic == "standoff/e2e/status" && got.text == "offline");
    // What is asked of a daemon that is away counts for nothing, whether the broker keeps it or not.
    for retain in [false, true] {
        subscriber.publish(&format!("{TOPIC}/acknowledge/set"), "PRESS", retain);
        subscriber.wait("it went through the broker", 10.0, |got| got.topic.ends_with("/acknowledge/set"));
    }
    subscriber.forget();
    daemon.run_again();
    let again =
        wait(&mut subscriber, "the first word after the restart", START_S, |json| json["state"] != "");
    assert_eq!(
        (&again["state"], &again["evidence"], &again["acknowledged"], &again["alarm_m"]),
        (&"alarm".into(), &"none".into(), &false.into(), &3.0.into()),
        "{again}"
    );

    daemon.wait_log("it is retained", 10.0);
    let table = list(&daemon);
    assert!(table.contains("latched, not acknowledged"), "{table}");

    // By hand, on the machine. Without a picture that shows calm it stays.
    let (code, table, errors) = daemon.alarm(&["ack", "dock", RULE, "--by", "ann"]);
    assert_eq!(code, 0, "{errors}");
    assert!(table.contains("latched, acknowledged by ann (uid "), "{table}");
    let (told, _) = subscriber.wait("it is an event", 10.0, |got| is_event(got, "acknowledged"));
    assert!(told.json()["by"].as_str().unwrap().starts_with("ann (uid "), "{}", told.text);
    assert_eq!((&told.json()["state"], &told.json()["via"]), (&"alarm".into(), &"socket".into()));
    // States go before events, so it may have come already.
    let says_so = |got: &Got| got.topic == format!("{TOPIC}/acknowledge") && got.text == "acknowledged";
    if !subscriber.heard.iter().any(says_so) {
        subscriber.wait("the setting says so", 10.0, says_so);
    }

    // The camera returns and the thing is still too near: somebody must look again.
    let server = camera(port);
    let (anew, _) = subscriber.wait("a new alarm", START_S, |got| is_event(got, "enter"));
    assert_eq!((&anew.json()["from"], &anew.json()["acknowledged"]), (&"alarm".into(), &false.into()));

    // It is calm again, and still an alarm, until somebody says over MQTT that it was seen.
    // The near end of its interval lies at about 0.75 m: well beyond this limit and the 0.3 m that leaving takes.
    subscriber.publish(&format!("{TOPIC}/alarm_m/set"), "0.2", false);
    subscriber
        .wait("alarm_m is echoed", 10.0, |got| got.topic == format!("{TOPIC}/alarm_m") && got.text == "0.2");
    subscriber.publish(&format!("{TOPIC}/acknowledge/set"), "PRESS", false);
    wait(&mut subscriber, "the alarm is left for a warning", 15.0, |json| {
        json["state"] == "warning" && json["latched"] == false
    });

    // Shelved by hand; it comes back by itself.
    let (code, table, errors) = daemon.alarm(&["shelve", "dock", RULE, "--for", "2s", "--by", "ann"]);
    assert_eq!(code, 0, "{errors}");
    assert!(table.contains("disarmed") && table.contains("shelved by ann (uid "), "{table}");
    wait(&mut subscriber, "shelved", 10.0, |json| json["state"] == "disarmed");
    let (told, _) = subscriber.wait("its end is an event", 10.0, |got| is_event(got, "unshelved"));
    assert_eq!(told.json()["via"], "timer");
    subscriber.wait_state(RULE, "warning", 10.0);

    let (code, _, errors) = daemon.alarm(&["shelve", "dock", RULE, "--for", "9h"]);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("28800 s at most"), "{errors}");
    let (code, _, errors) = daemon.alarm(&["ack", "dock", "no-such-rule"]);
    assert_eq!((code, errors.contains("has no rule 'no-such-rule'")), (1, true), "{errors}");
    server.stop();
}

#[test]
fn nobody_commands_over_mqtt_unless_it_is_allowed_and_a_switch_outlives_the_daemon() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let mut subscriber = Subscriber::connect(broker.port);
    // No camera is needed for this.
    let url = format!("rtsp://127.0.0.1:{}/none", free_port());
    let mut daemon = Standoff::run(&config(&url, broker.port, false));
    subscriber
        .wait("the present value", START_S, |got| got.topic == format!("{TOPIC}/armed") && got.text == "ON");
    subscriber.publish(&format!("{TOPIC}/armed/set"), "OFF", false);
    subscriber.publish(&format!("{TOPIC}/shelve/set"), "30m", false);
    subscriber.wait("it went through the broker", 10.0, |got| got.topic.ends_with("/shelve/set"));

    // `list` is answered after whatever came before it.
    let table = list(&daemon);
    assert!(table.contains("unknown") && !table.contains("disarmed"), "{table}");

    let (code, _, errors) = daemon.alarm(&["disarm", "dock", RULE, "--by", "ann"]);
    assert_eq!(code, 0, "{errors}");
    wait(&mut subscriber, "switched off", 10.0, |json| json["state"] == "disarmed" && json["armed"] == false);
    subscriber.wait("it is an event", 10.0, |got| is_event(got, "switched_off"));
    daemon.kill();
    subscriber.forget();
    daemon.run_again();
    let again = wait(&mut subscriber, "still switched off", START_S, |json| json["state"] == "disarmed");
    assert!(again["reason"].as_str().unwrap().starts_with("switched off by ann (uid "), "{again}");
    list(&daemon);
    let (code, _, errors) = daemon.alarm(&["arm", "dock", RULE]);
    assert_eq!(code, 0, "{errors}");
    wait(&mut subscriber, "switched on", 10.0, |json| json["state"] == "unknown" && json["armed"] == true);

    let (status, _) = daemon.terminate();
    assert!(status.success());
}
