//! What Home Assistant hears on a real broker: announcements, the answer to its birth, and what is taken back.
//! Whether a real Home Assistant likes it: tests/home-assistant/run.sh. Without mosquitto it prints a skip.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use standoff::clock;
use standoff::geometry::{Pair, PairEnd};
use standoff::heartbeat::{Heart, Part};
use standoff::outbox::{Outbox, Statement};
use standoff::publish::discovery::{Camera, HomeAssistant, Inventory, Mode};
use standoff::publish::{MqttSettings, herald, mqtt};
use standoff::slot::InputBoard;
use standoff::types::{CameraId, ClassName, EdgeId, NodeId, PairId, Picture};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[allow(dead_code, reason = "other test binaries use the rest")]
#[path = "e2e/site.rs"]
mod site;

const NORTH: &str = "homeassistant/device/standoff_north/config";
const DOCK: &str = "homeassistant/device/standoff_north_dock/config";
const GATE: &str = "homeassistant/device/standoff_north_gate/config";

fn inventory(mode: Mode, cameras: &[&str]) -> Arc<Inventory> {
    let camera = |name: &&str| Camera {
        id: CameraId::new(name).unwrap(),
        pairs: vec![Pair {
            id: PairId::new("forklift_edge").unwrap(),
            from: ClassName::new("forklift").unwrap(),
            to: PairEnd::Edge(EdgeId::new("edge").unwrap()),
        }],
        rules: vec![],
    };
    Arc::new(Inventory {
        home_assistant: HomeAssistant { mode, prefix: "homeassistant".into() },
        node: NodeId::new("north").unwrap(),
        valid_for: Duration::from_secs(10),
        remote_control: false,
        cameras: cameras.iter().map(camera).collect(),
    })
}

/// The sink as the daemon starts it.
struct Sink {
    runtime: Runtime,
    outbox: Arc<Outbox>,
    inventory: watch::Sender<Arc<Inventory>>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Sink {
    fn start(port: u16, memory: &Path, present: Arc<Inventory>) -> Self {
        let runtime = Runtime::new().unwrap();
        let _guard = runtime.enter();
        let outbox = Arc::new(Outbox::default());
        let (shutdown, stopped) = watch::channel(false);
        let (inventory, inventory_of) = watch::channel(present);
        let wiring = mqtt::Wiring {
            commands: None,
            node: NodeId::new("north").unwrap(),
            reader: outbox.reader("mqtt"),
            inputs: Arc::new(InputBoard::default()),
            watch_topics: watch::channel(vec![]).1,
            shutdown: stopped,
            pulse: Arc::new(Heart::default()).pulse(Part::Mqtt, clock::monotonic()),
        };
        let home_assistant = herald::Wiring { inventory: inventory_of, memory: memory.to_owned() };
        let settings = MqttSettings::plain("127.0.0.1", port, "standoff-north");
        let task = mqtt::spawn(settings, wiring, home_assistant);
        drop(_guard);
        Self { runtime, outbox, inventory, shutdown, task }
    }

    fn stop(self) {
        self.shutdown.send_replace(true);
        self.runtime.block_on(self.task).unwrap();
    }
}

fn wait_for(subscriber: &mut site::Subscriber, topic: &str, is_there: bool) -> Value {
    let what = format!("{topic} {}", if is_there { "said" } else { "taken back" });
    let (got, _) = subscriber.wait(&what, 20.0, |got| got.topic == topic && got.text.is_empty() != is_there);
    if is_there { got.json() } else { Value::Null }
}

#[test]
fn it_hears_what_there_is_again_when_it_starts_and_what_is_gone() {
    let Some(broker) = site::Mosquitto::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let memory = folder.path().join("state/discovery.json");
    let mut subscriber = site::Subscriber::to(broker.port, "#");

    let sink = Sink::start(broker.port, &memory, inventory(Mode::Device, &["dock", "gate"]));
    let picture = Picture { camera: CameraId::new("dock").unwrap(), jpeg: b"jpeg".as_slice().into() };
    sink.outbox.say(Statement::Picture(picture));
    wait_for(&mut subscriber, NORTH, true);
    let dock = wait_for(&mut subscriber, DOCK, true);
    assert_eq!(dock["device"]["via_device"], "standoff_north");
    assert_eq!(dock["components"]["distance_forklift_edge"]["platform"], "sensor");
    wait_for(&mut subscriber, GATE, true);

    // Only a live "online" is a birth; then all is said again, the picture too.
    subscriber.forget();
    subscriber.publish("homeassistant/status", "offline", false);
    subscriber.publish("homeassistant/status", "online", false);
    wait_for(&mut subscriber, NORTH, true);
    let picture = "standoff/north/camera/dock/snapshot";
    subscriber.wait("the picture again", 20.0, |got| got.topic == picture && got.text == "jpeg");

    // A reload takes a camera away; then the daemon stops.
    subscriber.forget();
    sink.inventory.send_replace(inventory(Mode::Device, &["dock"]));
    wait_for(&mut subscriber, GATE, false);
    wait_for(&mut subscriber, DOCK, true);
    sink.stop();

    // Another run, the other way: the old message goes, after the entities have come by themselves.
    subscriber.forget();
    let sink = Sink::start(broker.port, &memory, inventory(Mode::Components, &["dock"]));
    subscriber.wait("moves", 20.0, |got| got.topic == DOCK && got.text.contains("migrate_discovery"));
    let distance = "homeassistant/sensor/standoff_north_dock/distance_forklift_edge/config";
    wait_for(&mut subscriber, distance, true);
    wait_for(&mut subscriber, DOCK, false);
    sink.stop();

    // Switched off: nothing is left behind for whoever subscribes next.
    subscriber.forget();
    let sink = Sink::start(broker.port, &memory, inventory(Mode::Off, &["dock"]));
    wait_for(&mut subscriber, distance, false);
    let text = || std::fs::read_to_string(&memory).unwrap_or_default();
    let deadline = site::Deadline::after(20.0);
    while text() != r#"{"topics":{}}"# {
        assert!(deadline.left().is_some(), "never forgotten: {}", text());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    sink.stop();
    let mut late = site::Subscriber::to(broker.port, "#");
    late.wait("what is retained", 20.0, |got| got.topic == picture);
    // What is retained comes before what is said later.
    late.publish("end", "", false);
    late.wait("the end of what is retained", 20.0, |got| got.topic == "end");
    assert!(late.heard.iter().all(|got| !got.topic.starts_with("homeassistant/")), "{:?}", late.heard);
}
