use super::*;
use crate::publish::discovery::Mode;
use crate::publish::discovery::tests::inventory;

fn topics(messages: &[Message]) -> Vec<(&str, &str)> {
    let what = |message: &Message| match (message.payload.is_empty(), message.retain) {
        (true, true) => "gone",
        (false, true) => "said",
        _ => "moves",
    };
    messages.iter().map(|message| (message.topic.as_str(), what(message))).collect()
}

/// A run of the daemon: what it sends, and what it remembers at its end.
fn run(memory: Memory, mode: Mode, cameras: &[&str], remote_control: bool) -> (Vec<Message>, Memory) {
    let mut announcer = Announcer::new(memory);
    let before = announcer.set(&inventory(mode, cameras, remote_control));
    let messages = announcer.messages();
    for message in &messages {
        assert!(before.topics.contains_key(&message.topic), "{} is sent and not remembered", message.topic);
        assert_eq!(message.qos, 1);
    }
    let after = announcer.delivered().unwrap_or(before);
    (messages, after)
}

const DOCK: &str = "homeassistant/device/standoff_north_dock/config";
const GATE: &str = "homeassistant/device/standoff_north_gate/config";
const NORTH: &str = "homeassistant/device/standoff_north/config";

#[test]
fn a_camera_that_left_is_taken_back_once_also_after_a_restart() {
    let (sent, memory) = run(Memory::default(), Mode::Device, &["dock", "gate"], false);
    assert_eq!(topics(&sent), [(NORTH, "said"), (DOCK, "said"), (GATE, "said")]);
    let (sent, memory) = run(memory, Mode::Device, &["dock"], false);
    assert_eq!(topics(&sent), [(GATE, "gone"), (NORTH, "said"), (DOCK, "said")]);
    let (sent, _) = run(memory, Mode::Device, &["dock"], false);
    assert_eq!(topics(&sent), [(NORTH, "said"), (DOCK, "said")]);
}

#[test]
fn a_removal_that_did_not_arrive_is_said_again() {
    let (_, memory) = run(Memory::default(), Mode::Device, &["dock", "gate"], false);
    let mut announcer = Announcer::new(memory);
    let stored = announcer.set(&inventory(Mode::Device, &["dock"], false));
    // The daemon dies here.
    let (sent, _) = run(stored, Mode::Device, &["dock"], false);
    assert_eq!(topics(&sent)[0], (GATE, "gone"));
}

#[test]
fn an_entity_that_left_a_device_is_named_by_its_platform_alone() {
    let (_, memory) = run(Memory::default(), Mode::Device, &["dock"], true);
    let (sent, memory) = run(memory, Mode::Device, &["dock"], false);
    let payload: Value = serde_json::from_slice(&sent[1].payload).unwrap();
    assert_eq!(payload["components"]["armed_near-edge"], json!({"platform": "switch"}));
    assert!(payload["components"]["safety_near-edge"]["unique_id"].is_string());
    let (sent, _) = run(memory, Mode::Device, &["dock"], true);
    let payload: Value = serde_json::from_slice(&sent[1].payload).unwrap();
    assert!(payload["components"]["armed_near-edge"]["unique_id"].is_string(), "and comes back");
}

#[test]
fn switching_the_way_moves_what_stays_and_removes_what_does_not() {
    let (_, memory) = run(Memory::default(), Mode::Device, &["dock", "gate"], false);
    let (sent, memory) = run(memory, Mode::Components, &["dock"], false);
    let told = topics(&sent);
    assert_eq!(told[0], (GATE, "gone"));
    assert_eq!(told[1..3], [(NORTH, "moves"), (DOCK, "moves")]);
    assert_eq!(told[told.len() - 2..], [(NORTH, "gone"), (DOCK, "gone")]);
    assert!(
        told[3..told.len() - 2].iter().all(|(topic, what)| *what == "said" && !topic.contains("/device/"))
    );
    let (sent, memory) = run(memory, Mode::Device, &["dock"], false);
    let told = topics(&sent);
    assert_eq!(told.iter().filter(|(_, what)| *what == "said").count(), 2);
    assert_eq!(told[0].1, "moves");
    assert_eq!(told.last().unwrap().1, "gone");
    let (sent, memory) = run(memory, Mode::Off, &["dock"], false);
    assert_eq!(topics(&sent), [(NORTH, "gone"), (DOCK, "gone")]);
    assert_eq!(memory, Memory::default());
}

#[test]
fn the_memory_survives_on_disk_and_a_damaged_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/discovery.json");
    assert_eq!(Memory::load(&path).unwrap(), Memory::default());
    let (_, memory) = run(Memory::default(), Mode::Device, &["dock"], true);
    memory.store(&path).unwrap();
    assert_eq!(Memory::load(&path).unwrap(), memory);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert!(Memory::load(&path).unwrap_err().to_string().contains("is damaged"));
    std::fs::write(&path, r#"{"topics": {"other/topic": {}}}"#).unwrap();
    assert!(Memory::load(&path).unwrap_err().to_string().contains("not ours"));
}
