//! A real daemon on a real stream is taught while it runs.

use std::process::Command;
use std::time::Duration;

use standoff::cli::demo_rtsp::{RtspServer, RtspServerOptions};

use super::site::{Mosquitto, Standoff, Subscriber, dock, dock_config, one_at_a_time};

/// `standoff teach` with these arguments: whether it succeeded, and its output.
fn teach(daemon: &Standoff, arguments: &[&str]) -> (bool, String) {
    let state = daemon.state_dir();
    let output = Command::new(env!("CARGO_BIN_EXE_standoff"))
        .arg("teach")
        .args(arguments)
        .arg("--dir")
        .arg(state.join("taught"))
        .arg("--socket")
        .arg(state.join("control.sock"))
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("teach {}: {}", arguments.join(" "), text.trim());
    (output.status.success(), text)
}

#[test]
fn a_lesson_goes_live_in_a_running_daemon() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    // The forklift stands still.
    let mut options = RtspServerOptions::new(dock("video.mp4"));
    options.from = Duration::from_secs(8);
    options.until = Some(Duration::from_secs(10));
    let server = RtspServer::start(&options).unwrap();
    let mut subscriber = Subscriber::connect(broker.port);
    let mut daemon = Standoff::run(&dock_config(server.url(), broker.port));
    subscriber.wait_state("forklift_near_edge", "warning", 90.0);
    let pid = daemon.pid();

    // Nothing is there yet, and bad marks leave nothing behind.
    let (ok, text) = teach(&daemon, &["fit"]);
    assert!(!ok && text.contains("holds no example"), "{text}");
    let (ok, text) = teach(&daemon, &["add", "--camera", "dock", "--class", "forklift", "--click", "9999,1"]);
    assert!(!ok && text.contains("outside of the picture"), "{text}");
    let (ok, text) = teach(&daemon, &["add", "--camera", "dock", "--class", "forklift"]);
    assert!(!ok && text.contains("say where 'forklift' is"), "{text}");
    let (ok, text) = teach(&daemon, &["add", "nowhere.jpg", "--state", "bay=free"]);
    assert!(!ok && text.contains("nowhere.jpg"), "{text}");

    let empty = dock("empty_scene.jpg");
    let empty = empty.to_str().unwrap();
    for _ in 0..4 {
        assert!(teach(&daemon, &["add", "--camera", "dock", "--state", "bay=occupied"]).0);
        assert!(teach(&daemon, &["add", empty, "--of", "dock", "--state", "bay=free"]).0);
    }
    assert!(teach(&daemon, &["add", "--camera", "dock", "--state", "bay=occupied"]).0);
    assert!(teach(&daemon, &["add", "--camera", "dock", "--class", "floor-spot", "--click", "60,330"]).0);
    subscriber.forget();
    let (ok, text) = teach(&daemon, &["fit"]);
    assert!(ok && text.contains("10 examples"), "{text}");
    let (_, after) = text.split_once("live in the daemon after ").unwrap();
    let live_s: f64 = after.split_once(' ').unwrap().0.parse().unwrap();
    assert!(live_s < 5.0, "{text}");
    assert!(text.contains("one picture only: nothing could be validated"), "{text}");
    let (got, took) = subscriber.wait("the bay is occupied", 15.0, |got| {
        got.topic == "standoff/e2e/camera/dock/state/bay" && got.json()["value"] == "occupied"
    });
    println!("said {:.2} s after the fit: {}", took.as_secs_f64(), got.text);
    assert_eq!(daemon.pid(), pid);
    subscriber.wait_state("forklift_near_edge", "warning", 15.0);

    // What is taken back is taken back live too.
    let (ok, _) = teach(&daemon, &["remove", "77"]);
    assert!(!ok);
    for id in 1..=9 {
        assert!(teach(&daemon, &["remove", &id.to_string()]).0);
    }
    assert!(teach(&daemon, &["fit"]).0);
    subscriber.wait("the state's topic is cleared", 15.0, |got| {
        got.topic == "standoff/e2e/camera/dock/state/bay" && got.text.is_empty()
    });

    // It survives a restart: it is there, and the daemon takes it up before the first frame.
    assert!(teach(&daemon, &["add", "--camera", "dock", "--state", "bay=occupied"]).0);
    assert!(teach(&daemon, &["add", empty, "--of", "dock", "--state", "bay=free"]).0);
    assert!(teach(&daemon, &["fit"]).0);
    daemon.kill();
    let (ok, text) = teach(&daemon, &["fit"]);
    assert!(!ok && text.contains("no daemon answers") && text.contains("nothing was changed"), "{text}");
    subscriber.forget();
    daemon.run_again();
    subscriber.wait("the bay is occupied after a restart", 90.0, |got| {
        got.topic == "standoff/e2e/camera/dock/state/bay" && got.json()["value"] == "occupied"
    });
}
