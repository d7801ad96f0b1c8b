//! The outbox with its journal on a real disk: restarts, and a disk that fails and comes back.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use standoff::clock;
use standoff::heartbeat::{Heart, Part};
use standoff::outbox::{JournalState, OpenError, Outbox, OutboxSettings, Writer};
use standoff::types::Transition;

fn event() -> Transition {
    serde_json::from_value(json!({
        "event_id": "", "seq": 0, "what": "clear", "from": "clear", "times": null, "order": null,
        "status": {
            "camera": "c", "rule": "r", "pair": "p", "state": "clear", "evidence": "fresh", "distance": null,
            "warning_m": null, "alarm_m": 1.0, "held": null, "armed": true, "shelved_until": null,
            "separation_m": null, "since": 0, "ts": 0, "captured": null, "valid_for": {"secs": 1, "nanos": 0}
        }
    }))
    .unwrap()
}

fn open(state_dir: &Path) -> Result<(Arc<Outbox>, Writer), OpenError> {
    let pulse = Arc::new(Heart::default()).pulse(Part::Journal, clock::monotonic());
    let settings = OutboxSettings { max_bytes: 1 << 20, ..OutboxSettings::default() };
    Outbox::open(settings, state_dir, &["mqtt"], pulse)
}

fn ids(outbox: &Arc<Outbox>) -> Vec<String> {
    let waiting = outbox.reader("mqtt").pending_events(&clock::stamp(), 99);
    waiting.iter().map(|waiting| waiting.event.event_id.clone()).collect()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = clock::monotonic();
    while !condition() {
        assert!(clock::monotonic().since(begun) < Duration::from_secs(60), "never: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn what_was_not_delivered_waits_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, writer) = open(folder.path()).unwrap();
    let pushed: Vec<String> = (0..5).map(|_| outbox.push(event()).event_id.clone()).collect();
    assert!(outbox.flush(Duration::from_secs(60)));
    assert_eq!(ids(&outbox), pushed);
    let reader = outbox.reader("mqtt");
    let second = reader.pending_events(&clock::stamp(), 2)[1].number;
    reader.delivered(second, &clock::stamp());
    assert!(matches!(open(folder.path()), Err(OpenError::InUse(_))), "one daemon a folder");
    drop(writer);
    let (outbox, _writer) = open(folder.path()).unwrap();
    assert_eq!(ids(&outbox), pushed[2..]);
    assert_eq!((outbox.waiting(), outbox.dropped()), (3, 0));
    assert_eq!(outbox.push(event()).seq, 6);
    outbox.reader("mqtt").was_forgotten(&clock::stamp());
    assert_eq!(ids(&outbox)[..2], pushed[..2], "acknowledged a moment ago, by a broker that died since");
}

#[test]
fn without_a_disk_events_go_on_from_memory_and_reach_it_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join("file");
    std::fs::write(&in_the_way, "no folder").unwrap();
    let state_dir = in_the_way.join("state");
    let (outbox, writer) = open(&state_dir).unwrap();
    assert!(matches!(outbox.journal(), JournalState::Degraded(_)));
    (0..3).for_each(|_| drop(outbox.push(event())));
    assert!(outbox.flush(Duration::from_secs(60)));
    let pushed = ids(&outbox);
    assert_eq!(pushed.len(), 3);
    std::fs::remove_file(&in_the_way).unwrap();
    until("the journal is sound", || outbox.journal() == JournalState::Sound);
    drop(writer);
    let (outbox, _writer) = open(&state_dir).unwrap();
    assert_eq!(ids(&outbox), pushed);
    assert_eq!(outbox.push(event()).seq, 4);
}

#[test]
fn a_folder_that_is_deleted_costs_no_event_and_no_id_comes_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, writer) = open(folder.path()).unwrap();
    let first = outbox.push(event()).event_id.clone();
    assert!(outbox.flush(Duration::from_secs(60)));
    std::fs::remove_dir_all(folder.path().join("journal")).unwrap();
    drop(outbox.push(event()));
    assert!(outbox.flush(Duration::from_secs(60)));
    until("the journal is sound", || outbox.journal() == JournalState::Sound);
    let waiting = ids(&outbox);
    assert_eq!((waiting.len(), &waiting[0]), (2, &first));
    assert_ne!(waiting[1], first);
    drop(writer);
    let (outbox, _writer) = open(folder.path()).unwrap();
    assert_eq!(ids(&outbox), waiting);
    let third = outbox.push(event());
    assert!(!waiting.contains(&third.event_id), "{}", third.event_id);
}

#[test]
fn an_event_is_shown_after_what_must_be_on_disk_before_it_and_a_slow_disk_does_not_hold_it_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let (outbox, _writer) = open(folder.path()).unwrap();
    let (asked, was_asked) = sync_channel::<Duration>(8);
    let (settle, settled) = sync_channel::<bool>(8);
    let settled = Mutex::new(settled);
    outbox.show_after(move |patience| {
        asked.send(patience).unwrap();
        settled.lock().unwrap().recv().unwrap()
    });
    for in_time in [true, false] {
        let before = ids(&outbox).len();
        outbox.push(event());
        let patience = was_asked.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(patience > Duration::ZERO && patience < Duration::from_secs(2));
        assert_eq!(ids(&outbox).len(), before, "not before it is settled");
        settle.send(in_time).unwrap();
        until("shown", || ids(&outbox).len() == before + 1);
    }
}
