//! The daemon as a service: what it tells systemd, and what a reload does to the cameras that it does not touch.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use standoff::cli::demo_rtsp::{RtspServer, RtspServerOptions};

use super::site::{
    Deadline, Got, Mosquitto, Standoff, Subscriber, dock, dock_config, free_port, one_at_a_time,
};

/// Until the model is loaded and a picture is analysed.
const START_S: f64 = 90.0;

/// What systemd would be: hears what the daemon says of itself.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
    heard: Vec<String>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket, folder, heard: vec![] }
    }

    fn path(&self) -> String {
        self.folder.path().join("notify").display().to_string()
    }

    /// Waits for a message that holds `text`.
    fn wait(&mut self, text: &str, seconds: f64) -> String {
        let deadline = Deadline::after(seconds);
        let mut buffer = [0; 4096];
        while deadline.left().is_some() {
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            self.heard.push(message.clone());
            if message.contains(text) {
                return message;
            }
        }
        panic!("systemd never hears {text}; it heard {:#?}", self.heard);
    }
}

#[test]
fn systemd_hears_ready_watchdog_reloading_and_stopping() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let mut manager = Manager::new();
    let config = dock_config(&format!("rtsp://127.0.0.1:{}/nobody", free_port()), broker.port);
    let variables = [("NOTIFY_SOCKET", manager.path()), ("WATCHDOG_USEC", "2000000".to_owned())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let daemon = Standoff::run_with(&config, &variables);

    let ready = manager.wait("READY=1", START_S);
    assert!(ready.contains("STATUS="), "{ready}");
    assert!(
        !manager.heard.iter().any(|message| message.contains("WATCHDOG=1")),
        "not fed before it is ready"
    );
    for _ in 0..3 {
        manager.wait("WATCHDOG=1", 5.0);
    }
    assert!(
        manager.heard.iter().any(|message| message.contains("0 of 1 cameras live")),
        "{:?}",
        manager.heard
    );

    daemon.reload(&config.replace("alarm_m: 0.5", "alarm_m: 0.6"));
    let reloading = manager.wait("RELOADING=1", 10.0);
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    let done = manager.wait("READY=1", 10.0);
    assert!(done.contains("cameras live"), "{done}");

    daemon.reload(&config.replace("alarm_m: 0.5", "alarm_m: wide"));
    manager.wait("RELOADING=1", 10.0);
    let done = manager.wait("READY=1", 10.0);
    assert!(done.contains("reload rejected") && done.contains("1 problem"), "{done}");
    manager.wait("WATCHDOG=1", 5.0);

    let (status, log) = daemon.terminate();
    assert!(status.success(), "{}", log.join("\n"));
    manager.wait("STOPPING=1", 1.0);
}

/// A daemon that is up, with a camera that is not there.
fn idle(broker: &Mosquitto) -> Standoff {
    let config = dock_config(&format!("rtsp://127.0.0.1:{}/nobody", free_port()), broker.port);
    let daemon = Standoff::run(&config);
    daemon.wait_log("started", START_S);
    daemon
}

#[test]
fn a_hung_analysis_ends_the_process_after_offline_was_said() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let mut subscriber = Subscriber::connect(broker.port);
    let daemon = idle(&broker);
    subscriber.wait_state("forklift_near_edge", "unknown", 20.0);
    let Some(_frozen) = daemon.freeze("analysis") else { return };
    let (got, took) =
        subscriber.wait("offline", 30.0, |got| got.topic.ends_with("e2e/status") && got.text == "offline");
    println!("analysis frozen: offline after {:.1} s", took.as_secs_f64());
    assert!(!got.retained);
    let (status, log) = daemon.ended(20.0);
    assert_eq!(status.code(), Some(1), "{}", log.join("\n"));
    let silent_s = log.iter().find_map(|line| {
        let (_, rest) = line.split_once("'analysis' has not moved for ")?;
        rest.strip_suffix(" s")?.parse::<u32>().ok()
    });
    // Its patience; more when the machine is busy.
    assert!(silent_s.is_some_and(|silent_s| silent_s >= 10), "{log:#?}");
}

#[test]
fn a_hung_inference_does_not_keep_the_daemon_from_stopping() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let mut subscriber = Subscriber::connect(broker.port);
    let daemon = idle(&broker);
    let Some(_frozen) = daemon.freeze("infer") else { return };
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{}", log.join("\n"));
    assert!(log.iter().any(|line| line.contains("left behind")), "{log:#?}");
    subscriber.wait("the last word on the rule", 5.0, |got| {
        got.topic.ends_with("forklift_near_edge") && got.json()["reason"] == "stopping"
    });
    subscriber.wait("offline", 5.0, |got| got.topic.ends_with("e2e/status") && got.text == "offline");
}

/// The part of [`dock_config`] that is one camera, under another name and with another alarm distance.
fn camera(name: &str, url: &str, alarm_m: &str) -> String {
    let text = dock_config(url, 0);
    let (_, camera) = text.split_once("cameras:\n").unwrap();
    // On a busy machine each camera gets a picture only now and then.
    camera
        .replace("  dock:\n", &format!("  {name}:\n    stale_after: 20s\n"))
        .replace("alarm_m: 0.5", &format!("alarm_m: {alarm_m}"))
}

fn site(mqtt_port: u16, cameras: &[String]) -> String {
    format!(
        "node: e2e\nmodel: {{input: 196x112}}\nmqtt: {{host: 127.0.0.1, port: {mqtt_port}, keep_alive: 5s}}\n\
         cameras:\n{}",
        cameras.concat()
    )
}

#[test]
fn a_reload_leaves_the_other_cameras_alone_and_a_bad_one_changes_nothing() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let mut options = RtspServerOptions::new(dock("video.mp4"));
    options.from = Duration::from_secs(8);
    options.until = Some(Duration::from_secs(10));
    let servers: Vec<RtspServer> = (0..4).map(|_| RtspServer::start(&options).unwrap()).collect();
    let url = |index: usize| servers[index].url();
    let mut subscriber = Subscriber::connect(broker.port);
    let (kept, changed) = (camera("kept", url(0), "0.5"), camera("changed", url(1), "0.5"));
    let daemon =
        Standoff::run(&site(broker.port, &[kept.clone(), changed, camera("removed", url(2), "0.5")]));
    for name in ["kept", "changed", "removed"] {
        subscriber.wait(&format!("{name} is known"), START_S, |got| {
            got.topic.contains(&format!("/camera/{name}/alarm/"))
                && got.topic.ends_with("/forklift_near_edge")
                && { got.json()["state"] != "unknown" }
        });
    }

    // One changed, one removed, one added, all at once.
    subscriber.forget();
    let cameras = [kept.clone(), camera("changed", url(1), "0.6"), camera("added", url(3), "0.5")];
    let new = site(broker.port, &cameras);
    daemon.reload(&new);
    let line = daemon.wait_log("reloaded:", 20.0);
    assert!(line.contains("added: added; removed: removed; changed: changed; as before: 1"), "{line}");
    let removed = "standoff/e2e/camera/removed/";
    subscriber.wait("the removed camera's rule is taken back", 20.0, |got| {
        got.topic.starts_with(removed) && got.topic.ends_with("/forklift_near_edge") && got.text.is_empty()
    });
    // The two come in any order.
    let unavailable = |got: &Got| got.topic == format!("{removed}availability") && got.text.is_empty();
    if !subscriber.heard.iter().any(unavailable) {
        subscriber.wait("its availability too", 20.0, unavailable);
    }
    let last: Vec<&str> = subscriber
        .heard
        .iter()
        .filter(|got| got.topic == format!("{removed}availability"))
        .map(|got| got.text.as_str())
        .collect();
    assert_eq!(last.last_chunk::<2>(), Some(&["offline", ""]));
    let words = states(&subscriber, "removed");
    assert_eq!(words.last().map(String::as_str), Some("unknown"), "{words:?}");
    for name in ["changed", "added"] {
        subscriber.wait(&format!("{name} is known again"), START_S, |got| {
            got.topic.contains(&format!("/camera/{name}/alarm/"))
                && got.topic.ends_with("/forklift_near_edge")
                && { got.json()["state"] != "unknown" && (name == "added" || got.json()["alarm_m"] == 0.6) }
        });
    }
    assert!(states(&subscriber, "changed").contains(&"unknown".to_owned()), "its old state counts no more");

    // Three faults: nothing changes and each is named with its line.
    let bad = new
        .replacen("stale_after: 20s", "stale_after: 20", 1)
        .replacen("hfov_deg: 70", "hfov_deg: 700", 1)
        .replacen("to: dock_edge", "to: dock_egde", 1);
    daemon.reload(&bad);
    daemon.wait_log("the old configuration stays in force", 20.0);
    let named = daemon.log_with("reload rejected");
    assert_eq!(named.len(), 3, "{named:#?}");
    for key in ["kept.stale_after", "kept.calibration.hfov_deg", "kept.pairs.forklift_edge.to"] {
        assert!(named.iter().any(|line| line.contains(key) && line.contains("line ")), "{key}: {named:#?}");
    }
    daemon.reload(&new.replace("node: e2e", "node: other"));
    let line = daemon.wait_log("cannot change while the daemon runs", 20.0);
    assert!(line.contains("`node`"), "{line}");

    // Until all of the above has long been done: pictures of the untouched camera go on, its state was never in doubt.
    let said = |subscriber: &Subscriber| {
        subscriber.heard.iter().filter(|got| got.topic == "standoff/e2e/camera/kept/health").count()
    };
    let enough = said(&subscriber) + 3;
    while said(&subscriber) < enough {
        subscriber.wait("health of the untouched camera", 20.0, |got| got.topic.ends_with("kept/health"));
    }
    let words = states(&subscriber, "kept");
    assert!(!words.contains(&"unknown".to_owned()), "{words:?}");
    for got in subscriber.heard.iter().filter(|got| got.topic.ends_with("kept/health")) {
        let health = got.json();
        assert_eq!((&health["connects"], &health["state"]), (&1.into(), &"live".into()), "{health}");
    }
    let mut captured: Vec<i64> = vec![];
    for got in subscriber.heard.iter().filter(|got| got.topic.contains("/camera/kept/pair/")) {
        captured.push(got.json()["captured_ts"].as_i64().unwrap());
    }
    let gap = captured.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    println!("{} distances of the untouched camera, the longest gap {gap} ms", captured.len());
    assert!(gap < 10_000, "{captured:?}");
    let connected: Vec<String> = daemon
        .log_with("connected")
        .into_iter()
        .filter(|line| line.contains("camera=kept") || line.contains("camera=changed"))
        .collect();
    assert_eq!(connected.len(), 2, "one connection each: {connected:#?}");
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{}", log.join("\n"));
}

/// All that was said about a camera's rule since [`Subscriber::forget`], as states or as events.
fn states(subscriber: &Subscriber, camera: &str) -> Vec<String> {
    let topic = format!("/camera/{camera}/alarm/");
    let said = subscriber.heard.iter().filter(|got| {
        got.topic.contains(&topic)
            && (got.topic.ends_with("/forklift_near_edge") || got.topic.ends_with("/event"))
            && !got.text.is_empty()
    });
    said.map(|got| got.json()["state"].as_str().unwrap().to_owned()).collect()
}
