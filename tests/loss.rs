//! No event is lost: the real daemon (recorded features instead of the model) and a real mosquitto with a line
//! between them, and random faults: broker and daemon killed, the line cut, held and slowed, the disk full.
//!
//! What is checked, and what that proves:
//!
//! - Every event that was generated (on disk; `seq` from 1 to the last) was acknowledged by the broker, or is still
//!   in the journal, or is counted as dropped; nothing is dropped. The line notes what the broker acknowledged, so
//!   this holds whatever the broker does with it later. Nobody has seen an event that was decided within the
//!   milliseconds before a kill and had not reached the disk; it is none.
//! - A subscriber with a session of its own got every event that the broker acknowledged, in order for each rule
//!   once repeats are removed. With a broker that keeps nothing across its death this rests on `outbox.resend`,
//!   and on the subscriber being back before the daemon, which the harness sees to: a broker without persistence
//!   gives nobody what came while he was away. With a broker that saves every change, the change that it was
//!   about to save when it was killed can be lost, though it was acknowledged, and nothing tells the daemon so:
//!   then that is counted and printed.
//!
//! `STANDOFF_LOSS_SEED`, `STANDOFF_LOSS_FAULTS` and `STANDOFF_LOSS_EVENTS` replay and size a run; docs/outbox.md
//! has the long one.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "loss/line.rs"]
mod line;
#[allow(dead_code, reason = "other test binaries use the rest")]
#[path = "e2e/site.rs"]
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use standoff::clock;
use standoff::heartbeat::{Heart, Part};
use standoff::outbox::{Outbox, OutboxSettings};
use standoff::types::Transition;

use line::{Line, Mode};
use site::{Deadline, Standoff, dock_config, free_port, one_at_a_time};

/// How long anything may take to be right again after a fault.
const RECOVERY_S: f64 = 60.0;

fn pause(duration: Duration) {
    let deadline = Deadline::after(duration.as_secs_f64());
    while let Some(left) = deadline.left() {
        std::thread::park_timeout(left);
    }
}

/// Random numbers that a seed repeats (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from + 1))
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect(variable))
}

/// A mosquitto that can be killed.
struct Broker {
    folder: tempfile::TempDir,
    port: u16,
    persistent: bool,
    child: Option<Child>,
}

impl Broker {
    fn start(persistent: bool) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut broker = Self { folder, port: free_port(), persistent, child: None };
        if !Path::new("/usr/sbin/mosquitto").exists() {
            println!("SKIP: mosquitto is not installed");
            return None;
        }
        broker.run();
        Some(broker)
    }

    fn run(&mut self) {
        let path = self.folder.path().display();
        let mut text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nuser root\nmax_queued_messages 0\n",
            self.port
        );
        if self.persistent {
            text += &format!(
                "persistence true\npersistence_location {path}/\nautosave_interval 1\nautosave_on_changes true\n"
            );
        }
        let file = self.folder.path().join("conf");
        std::fs::write(&file, text).unwrap();
        let mut mosquitto = Command::new("/usr/sbin/mosquitto");
        mosquitto.arg("-c").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(mosquitto.spawn().unwrap());
        let deadline = Deadline::after(RECOVERY_S);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(deadline.left().is_some(), "mosquitto does not listen");
            pause(Duration::from_millis(20));
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An event as it was heard.
struct Heard {
    rule: String,
    event_id: String,
    seq: u64,
    late: bool,
}

/// The subscriber whose session the broker keeps.
struct Recorder {
    heard: Arc<Mutex<Vec<Heard>>>,
    subscribed: Arc<AtomicU64>,
}

impl Recorder {
    fn start(port: u16) -> Self {
        let mut options = MqttOptions::new("recorder", "127.0.0.1", port);
        options.set_clean_session(false).set_keep_alive(Duration::from_secs(60));
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut connection) = Client::new(options, 64);
        let (heard, subscribed) = (Arc::new(Mutex::new(vec![])), Arc::new(AtomicU64::new(0)));
        let recorder = Self { heard: heard.clone(), subscribed: subscribed.clone() };
        std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for end in ["event", "late"] {
                            let _ = client.try_subscribe(
                                format!("standoff/+/camera/+/alarm/+/{end}"),
                                QoS::AtLeastOnce,
                            );
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        subscribed.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let json: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
                        heard.lock().unwrap().push(Heard {
                            rule: format!("{}/{}", json["camera"], json["rule"]),
                            event_id: json["event_id"].as_str().unwrap().to_owned(),
                            seq: json["seq"].as_u64().unwrap(),
                            late: publish.topic.ends_with("/late"),
                        });
                    }
                    Ok(_) => {}
                    Err(_) => pause(Duration::from_millis(20)),
                }
            }
        });
        recorder.wait_subscribed(0);
        recorder
    }

    /// Both subscriptions of a connection that is newer than `before` are in force.
    fn wait_subscribed(&self, before: u64) {
        let deadline = Deadline::after(RECOVERY_S);
        while self.subscribed.load(Ordering::SeqCst) < before + 2 {
            assert!(deadline.left().is_some(), "the recorder cannot subscribe");
            pause(Duration::from_millis(5));
        }
    }

    fn ids(&self) -> BTreeSet<String> {
        self.heard.lock().unwrap().iter().map(|heard| heard.event_id.clone()).collect()
    }
}

/// The folder of the daemon's state: a small filesystem of its own that can be filled, where that can be made.
struct State {
    folder: tempfile::TempDir,
    mounted: bool,
}

impl State {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"]).arg(folder.path());
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if !mounted {
            println!("SKIP: no filesystem can be mounted here, so none is filled");
        }
        Self { folder, mounted }
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }

    fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn empty(&self) {
        let _ = std::fs::remove_file(self.filler());
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
        }
    }
}

/// Pictures that are all different: only their number counts for the recorded features, but a frozen view is a
/// fault of its own.
fn pictures(folder: &Path) {
    let mut dice = Dice(7);
    for index in 0..40 {
        let noise = |_, _| image::Rgb([(); 3].map(|()| 60 + dice.below(140) as u8));
        image::RgbImage::from_fn(64, 36, noise).save(folder.join(format!("{index:02}.png"))).unwrap();
    }
}

fn config(port: u16, pictures: &Path) -> String {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/recorded/far-near.safetensors");
    let dock = dock_config("rtsp://127.0.0.1/none", port);
    let (head, camera) = dock.split_once("  dock:\n").unwrap();
    let camera = camera
        .replace("url: rtsp://127.0.0.1/none", &format!("images: {}\n    fps: 12\n    loop: true", pictures.display()))
        .replace("clear_after: 500ms", "clear_after: 0s")
        // Two pictures at 2.5 m (the second makes it certain) and one at 0.2 m: both rules change twice in three.
        + "      second: {pair: forklift_edge, alarm_m: 1.0, clear_after: 0s}\n";
    head.replace("keep_alive: 5s", "keep_alive: 2s")
        + &format!("  a:\n{camera}  b:\n{camera}")
        + &format!("model: {{recorded: {}}}\noutbox: {{max_size_mib: 4}}\n", recorded.display())
}

struct Run {
    broker: Broker,
    line: Line,
    recorder: Recorder,
    state: State,
    daemon: Option<Standoff>,
    config: String,
    _pictures: tempfile::TempDir,
    filled: bool,
    counts: BTreeMap<&'static str, u64>,
}

impl Run {
    fn start_daemon(&mut self) {
        let state = self.state.folder.path().display().to_string();
        self.daemon = Some(Standoff::run_with(&self.config, &[("STATE_DIRECTORY", &state)]));
    }

    fn fault(&mut self, dice: &mut Dice) {
        let kind = dice.below(if self.state.mounted { 6 } else { 5 });
        let name = match kind {
            0 => {
                self.kill_broker(dice);
                "broker killed"
            }
            1 => {
                self.daemon = None;
                pause(dice.millis(0, 300));
                self.start_daemon();
                "daemon killed"
            }
            2 => {
                self.line.set(Mode::Hole);
                pause(dice.millis(200, 4000));
                // Half of the time the connection is gone for good when the line is back.
                if dice.below(2) == 0 {
                    self.line.cut();
                }
                self.line.set(Mode::Open);
                "partition"
            }
            3 => {
                self.line.cut();
                "connection reset"
            }
            4 => {
                self.line.set(Mode::Slow(2000 + dice.below(20_000)));
                pause(dice.millis(200, 1500));
                self.line.set(Mode::Open);
                "slow link"
            }
            _ => {
                self.filled = true;
                self.state.fill();
                pause(dice.millis(100, 1000));
                match dice.below(3) {
                    0 => {
                        self.daemon = None;
                        self.start_daemon();
                        pause(dice.millis(500, 1500));
                    }
                    1 => self.kill_broker(dice),
                    _ => {}
                }
                self.state.empty();
                "disk full"
            }
        };
        *self.counts.entry(name).or_default() += 1;
    }

    /// The daemon gets to the new broker only when the recorder is there.
    fn kill_broker(&mut self, dice: &mut Dice) {
        self.line.set(Mode::Hole);
        self.broker.kill();
        let before = self.recorder.subscribed.load(Ordering::SeqCst);
        pause(dice.millis(0, 800));
        self.broker.run();
        self.recorder.wait_subscribed(before);
        self.line.cut();
        self.line.set(Mode::Open);
    }

    /// Events come again.
    fn wait_progress(&self, what: &str) {
        let before = self.recorder.ids().len();
        let deadline = Deadline::after(RECOVERY_S);
        while self.recorder.ids().len() <= before + 2 {
            assert!(deadline.left().is_some(), "no events after: {what}");
            pause(Duration::from_millis(20));
        }
    }
}

fn lose_nothing(persistent: bool, faults: u64, events: u64) {
    let _turn = one_at_a_time();
    let seed = number("STANDOFF_LOSS_SEED", clock::utc().0.unsigned_abs());
    let (faults, events) = (number("STANDOFF_LOSS_FAULTS", faults), number("STANDOFF_LOSS_EVENTS", events));
    println!("STANDOFF_LOSS_SEED={seed} STANDOFF_LOSS_FAULTS={faults} STANDOFF_LOSS_EVENTS={events}");
    let Some(broker) = Broker::start(persistent) else { return };
    let line = Line::to(broker.port);
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    let recorder = Recorder::start(broker.port);
    let mut run = Run {
        config: config(line.port, folder.path()),
        broker,
        line,
        recorder,
        state: State::new(),
        daemon: None,
        _pictures: folder,
        filled: false,
        counts: BTreeMap::new(),
    };
    let begun = clock::monotonic();
    run.start_daemon();
    run.wait_progress("the start");
    let mut dice = Dice(seed | 1);
    for _ in 0..faults {
        run.fault(&mut dice);
        run.wait_progress(&format!("{:?}", run.counts));
        pause(dice.millis(0, 400));
    }
    while (run.recorder.ids().len() as u64) < events {
        run.wait_progress("the last fault");
    }
    let (status, log) = run.daemon.take().unwrap().terminate();
    assert!(status.success(), "{}", log.join("\n"));
    let took = clock::monotonic().since(begun);
    check(&run, persistent);
    println!("{:?} in {:.0} s", run.counts, took.as_secs_f64());
}

fn check(run: &Run, persistent: bool) {
    // The journal as the next start would find it. What is pushed now gets the next number.
    let pulse = Arc::new(Heart::default()).pulse(Part::Journal, clock::monotonic());
    let settings = OutboxSettings { max_bytes: 4 << 20, ..OutboxSettings::default() };
    let (outbox, _writer) = Outbox::open(settings, run.state.folder.path(), &["mqtt"], pulse).unwrap();
    let waiting: Vec<Arc<Transition>> = outbox
        .reader("mqtt")
        .pending_events(&clock::stamp(), usize::MAX)
        .into_iter()
        .map(|waiting| waiting.event)
        .collect();
    let dropped = outbox.dropped();
    let template = run.recorder.heard.lock().unwrap().last().map(|heard| heard.event_id.clone()).unwrap();
    let epoch = template.rsplit_once('-').unwrap().0.to_owned();
    let generated = next_seq(&outbox, &waiting) - 1;

    let acknowledged = run.line.acknowledged();
    let journal: BTreeSet<String> = waiting.iter().map(|event| event.event_id.clone()).collect();
    let id = |seq: u64| format!("{epoch}-{seq}");
    let missing: Vec<u64> = (1..=generated)
        .filter(|seq| !acknowledged.contains(&id(*seq)) && !journal.contains(&id(*seq)))
        .collect();

    let heard = run.recorder.heard.lock().unwrap();
    let heard_ids: BTreeSet<&str> = heard.iter().map(|heard| heard.event_id.as_str()).collect();
    let lost_by_broker: Vec<&String> =
        acknowledged.iter().filter(|id| !heard_ids.contains(id.as_str())).collect();
    println!(
        "generated {generated} = acknowledged {} + only in the journal {} + dropped {dropped}; heard {} messages, \
         {} late, {} repeats; acknowledged by the broker and not heard: {}",
        acknowledged.len(),
        journal.difference(&acknowledged).count(),
        heard.len(),
        heard.iter().filter(|heard| heard.late).count(),
        heard.len() - heard_ids.len(),
        lost_by_broker.len(),
    );
    let other_epochs = acknowledged.iter().filter(|id| !id.starts_with(&epoch)).count();
    assert_eq!(other_epochs, 0, "one journal, one epoch: a disk that fills up later must not hurt");
    assert_eq!(missing.len() as u64, dropped, "neither acknowledged nor kept: {missing:?}");
    assert_eq!(dropped, 0, "disk filled: {}", run.filled);
    if persistent {
        let share = lost_by_broker.len() as f64 / acknowledged.len() as f64;
        assert!(share < 0.01, "the broker acknowledged and lost: {lost_by_broker:?}");
    } else {
        assert!(lost_by_broker.is_empty(), "acknowledged and not heard: {lost_by_broker:?}");
    }
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for heard in heard.iter().filter(|heard| seen.insert(heard.event_id.as_str())) {
        let before = last.insert(&heard.rule, heard.seq).unwrap_or(0);
        assert!(before < heard.seq, "{}: {} after {before}", heard.rule, heard.seq);
    }
}

/// `seq` of the event after the last.
fn next_seq(outbox: &Outbox, waiting: &[Arc<Transition>]) -> u64 {
    let any = waiting.first().map(|event| (**event).clone()).unwrap_or_else(|| {
        serde_json::from_value(serde_json::json!({
            "event_id": "", "seq": 0, "what": "clear", "from": "clear", "times": null, "order": null,
            "status": {
                "camera": "c", "rule": "r", "pair": "p", "state": "clear", "evidence": "fresh", "distance": null,
                "warning_m": null, "alarm_m": 1.0, "held": null, "armed": true, "shelved_until": null,
                "separation_m": null, "since": 0, "ts": 0, "captured": null, "valid_for": {"secs": 1, "nanos": 0}
            }
        }))
        .unwrap()
    });
    outbox.push(any).seq
}

#[test]
fn a_broker_that_forgets_everything_costs_no_event() {
    lose_nothing(false, 10, 300);
}

#[test]
fn a_broker_that_saves_costs_no_event() {
    lose_nothing(true, 6, 200);
}
