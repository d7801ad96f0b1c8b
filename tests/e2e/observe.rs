//! The real daemon as those see it who watch the watcher: health, metrics, proof test, audit log.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use standoff::cli::demo_rtsp::{RtspServer, RtspServerOptions};

use super::site::{Deadline, Mosquitto, Standoff, Subscriber, dock, dock_config, free_port, one_at_a_time};

const RULE: &str = "forklift_near_edge";
/// Until the picture is analysed: the model is loaded, the camera connected.
const START_S: f64 = 90.0;
const PASSWORD: &str = "hunter2-of-the-broker";

fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn wait_for(port: u16, path: &str, status: u16, seconds: f64) -> String {
    let deadline = Deadline::after(seconds);
    loop {
        let answer = get(port, path);
        if let Some((_, body)) = answer.as_ref().filter(|(got, _)| *got == status) {
            return body.clone();
        }
        assert!(deadline.left().is_some(), "{path} is never {status}: {answer:?}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

fn verify(folder: &std::path::Path) -> (bool, String) {
    let done =
        Command::new(env!("CARGO_BIN_EXE_standoff")).args(["audit", "verify"]).arg(folder).output().unwrap();
    (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned())
}

#[test]
fn health_metrics_proof_and_audit_of_a_running_daemon() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let mut options = RtspServerOptions::new(dock("video.mp4"));
    options.from = Duration::from_secs(15);
    let server = RtspServer::start(&options).unwrap();
    let mut subscriber = Subscriber::connect(broker.port);
    let port = free_port();
    // This is no test of speed: a machine that is busy with others takes seconds a frame.
    let config = dock_config(server.url(), broker.port)
        .replace("    calibration:", "    stale_after: 20s\n    calibration:");
    let mut daemon = Standoff::run_with(
        &config,
        &[
            ("STANDOFF__HTTP__LISTEN", &format!("127.0.0.1:{port}")),
            ("STANDOFF__PROOF_TEST__EVERY", "1h"),
            ("STANDOFF__MQTT__USERNAME", "me"),
            ("STANDOFF__MQTT__PASSWORD", PASSWORD),
        ],
    );
    wait_for(port, "/healthz", 200, START_S);
    let ready = wait_for(port, "/readyz", 200, START_S);
    assert!(ready.contains(r#""broker":"connected""#) && ready.contains(r#""camera":"dock""#), "{ready}");
    subscriber.wait_state(RULE, "alarm", START_S);

    // The proof test comes 15 s after the start, through the same model and the same broker.
    let (proof, _) = subscriber.wait("the proof test", START_S, |got| got.topic == "standoff/e2e/proof_test");
    let result = proof.json();
    assert_eq!(
        (result["ok"].as_bool(), result["stage"].as_str()),
        (Some(true), Some("acknowledged")),
        "{result}"
    );
    let event = subscriber.heard.iter().find(|got| got.topic == "standoff/e2e/proof_test/event");
    assert_eq!(event.expect("its event came by the broker").json()["state"], "alarm");
    assert!(subscriber.heard.iter().all(|got| !got.topic.contains("camera/proof_test")), "it is no camera");

    let metrics = wait_for(port, "/metrics", 200, 5.0);
    let value = |series: &str| {
        let line = metrics.lines().find(|line| line.starts_with(series));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    let at_least = |series: &str, least: f64| {
        assert!(
            value(series).is_some_and(|value| value >= least),
            "{series}: {:?}\n{metrics}",
            value(series)
        );
    };
    at_least("standoff_frames_total{camera=\"dock\"}", 10.0);
    at_least("standoff_stage_seconds_count{stage=\"backbone\"}", 10.0);
    at_least("standoff_transitions_total{camera=\"dock\",rule=\"forklift_near_edge\",state=\"alarm\"}", 1.0);
    at_least("standoff_delivery_seconds_count{sink=\"mqtt\"}", 1.0);
    at_least("standoff_broker_connected", 1.0);
    at_least("standoff_proof_test_ok", 1.0);
    at_least("standoff_process_memory_bytes", 1e6);
    assert!(value("standoff_frame_age_seconds{camera=\"dock\"}").is_some_and(|age| age < 60.0));
    assert!(!metrics.contains("proof_test\""), "the proof test is in no camera's metrics");

    // A reload is written down by key.
    daemon.reload(&config.replace("alarm_m: 0.5", "alarm_m: 0.6"));
    daemon.wait_log("reloaded", 20.0);
    daemon.reload("nonsense: true");
    daemon.wait_log("the old configuration stays in force", 20.0);
    let folder = daemon.state_dir().join("audit");
    let deadline = Deadline::after(10.0);
    let log = loop {
        let log: String = std::fs::read_dir(&folder)
            .unwrap()
            .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
            .collect();
        if log.contains("\"rejected\"") {
            break log;
        }
        assert!(deadline.left().is_some(), "{log}");
        std::thread::park_timeout(Duration::from_millis(50));
    };
    for words in [
        r#""kind":"started""#,
        r#""kind":"camera""#,
        r#""what":"enter""#,
        r#""key":"cameras.dock.rules.forklift_near_edge.alarm_m""#,
        r#""from":"0.5","#,
        r#""to":"0.6""#,
    ] {
        assert!(log.contains(words), "{words} is not in\n{log}");
    }
    for text in [&log, &metrics, &ready, &daemon.log().join("\n")] {
        assert!(!text.contains(PASSWORD), "a password: {text}");
    }
    let (head, _) = subscriber.wait("the head of the log", 70.0, |got| got.topic == "standoff/e2e/audit");
    let head = head.json();
    assert_eq!(head["hash"].as_str().unwrap().len(), 64);

    daemon.kill();
    let (good, said) = verify(&folder);
    assert!(good && said.contains("ok: every line follows"), "{said}");
    let known = format!("{}:{}", head["n"], head["hash"].as_str().unwrap());
    let done = Command::new(env!("CARGO_BIN_EXE_standoff"))
        .args(["audit", "verify", "--head", &known])
        .arg(&folder)
        .status()
        .unwrap();
    assert!(done.success(), "the published line is in the log");

    // One byte, and it is found.
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"alarm\"", "\"alarn\"", 1)).unwrap();
    let (good, said) = verify(&folder);
    assert!(!good && said.contains("BROKEN at"), "{said}");
}
