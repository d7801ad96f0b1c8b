//! The MQTT sink against a real mosquitto: what a subscriber sees when things go well and when they do not.
//! Without mosquitto on this machine each test prints a skip.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "mqtt/brokers.rs"]
mod brokers;
#[path = "mqtt/certificates.rs"]
mod certificates;
#[path = "mqtt/versions.rs"]
mod versions;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use standoff::clock::{self, UtcMillis};
use standoff::heartbeat::{Heart, Part};
use standoff::outbox::{Outbox, Statement};
use standoff::publish::{MqttSettings, herald, mqtt};
use standoff::slot::InputBoard;
use standoff::types::{
    CameraId, CameraState, CameraStatus, Evidence, Happening, NodeId, PairId, Reason, RuleId, RuleStatus,
    Secret, State, Transition, ViewStatus,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);
const ALARM: &str = "standoff/n/camera/dock/alarm/r";
const STATUS: &str = "standoff/n/status";
const AVAILABILITY: &str = "standoff/n/camera/dock/availability";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A mosquitto of this test's own.
struct Broker {
    folder: tempfile::TempDir,
    program: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Broker {
    fn start(password: Option<(&str, &str)>) -> Option<Self> {
        Self::configured(|folder| match password {
            None => "allow_anonymous true".to_owned(),
            Some((user, password)) => {
                let file = folder.join("passwords").display().to_string();
                let made =
                    Command::new("mosquitto_passwd").args(["-b", "-c", &file, user, password]).status();
                assert!(made.unwrap().success());
                format!("allow_anonymous false\npassword_file {file}")
            }
        })
    }

    /// With these lines of configuration for its one listener, made when its folder is there.
    fn configured(lines: impl FnOnce(&Path) -> String) -> Option<Self> {
        let program = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"]
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.exists());
        let Some(program) = program else {
            println!("SKIP: mosquitto is not installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut conf = std::fs::File::create(folder.path().join("conf")).unwrap();
        // Persistent, so that a subscriber's session outlives a restart and misses nothing. A limit of 0 would mean
        // none, but makes mosquitto 2.0.11 close the connection of a client to which it denies a message.
        writeln!(conf, "user root\npersistence true\nmax_queued_messages 100000").unwrap();
        writeln!(conf, "persistence_location {}/", folder.path().display()).unwrap();
        writeln!(conf, "listener {port} 127.0.0.1\n{}", lines(folder.path())).unwrap();
        let mut broker = Self { folder, program, port, child: None };
        broker.run();
        Some(broker)
    }

    fn run(&mut self) {
        let child = Command::new(&self.program)
            .arg("-c")
            .arg(self.folder.path().join("conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        for _ in 0..1000 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        panic!("mosquitto does not listen");
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.child.take().unwrap().wait().unwrap();
    }

    fn settings(&self) -> MqttSettings {
        MqttSettings {
            keep_alive: Duration::from_secs(2),
            ..MqttSettings::plain("127.0.0.1", self.port, "standoff-n")
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A subscriber that sees everything, reconnects at once and keeps its session.
struct Subscriber {
    seen: Arc<Mutex<Vec<(String, String, bool)>>>,
    news: Arc<Notify>,
    client: AsyncClient,
    task: JoinHandle<()>,
}

impl Subscriber {
    async fn new(broker: &Broker, id: &str) -> Self {
        Self::at(broker.port, id).await
    }

    async fn at(port: u16, id: &str) -> Self {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_clean_session(false).set_keep_alive(Duration::from_secs(60));
        let (client, mut eventloop) = AsyncClient::new(options, 32);
        let (seen, news) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let ready = Arc::new(Notify::new());
        client.subscribe("#", QoS::AtLeastOnce).await.unwrap();
        let task = tokio::spawn({
            let (seen, news, ready) = (seen.clone(), news.clone(), ready.clone());
            async move {
                loop {
                    match eventloop.poll().await {
                        Ok(Event::Incoming(Incoming::Publish(publish))) => {
                            let text = String::from_utf8_lossy(&publish.payload).into_owned();
                            seen.lock().unwrap().push((publish.topic, text, publish.retain));
                            news.notify_waiters();
                        }
                        Ok(Event::Incoming(Incoming::SubAck(_))) => ready.notify_one(),
                        Ok(_) => {}
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            }
        });
        timeout(DEADLINE, ready.notified()).await.expect("subscribed in time");
        Self { seen, news, client, task }
    }

    /// Waits until what was seen satisfies the condition.
    async fn until(&self, what: &str, condition: impl Fn(&[(String, String, bool)]) -> bool) {
        let wait = async {
            loop {
                let news = self.news.notified();
                if condition(&self.seen.lock().unwrap()) {
                    return;
                }
                news.await;
            }
        };
        if timeout(DEADLINE, wait).await.is_err() {
            panic!("never seen: {what}; seen: {:#?}", self.seen.lock().unwrap());
        }
    }

    /// Waits until the newest message on a topic satisfies the condition.
    async fn newest(&self, topic: &str, what: &str, condition: impl Fn(&str) -> bool) {
        self.until(what, |seen| {
            seen.iter().rev().find(|(on, _, _)| on == topic).is_some_and(|(_, text, _)| condition(text))
        })
        .await;
    }

    /// `seq` of each event, in order.
    fn events(&self) -> Vec<u64> {
        let seen = self.seen.lock().unwrap();
        let events = seen.iter().filter(|(topic, _, _)| topic.ends_with("/event"));
        events.map(|(_, text, _)| json(text)["seq"].as_u64().unwrap()).collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The sink and its ends.
struct Sink {
    outbox: Arc<Outbox>,
    inputs: Arc<InputBoard>,
    topics: watch::Sender<Vec<String>>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Sink {
    fn start(settings: MqttSettings) -> Self {
        let outbox = Arc::new(Outbox::default());
        let inputs = Arc::new(InputBoard::default());
        let (shutdown, stopped) = watch::channel(false);
        let node = NodeId::new("n").unwrap();
        let (topics, watched) = watch::channel(vec!["dock/3/trailer".to_owned()]);
        let pulse = Arc::new(Heart::default()).pulse(Part::Mqtt, clock::monotonic());
        let wiring = mqtt::Wiring {
            commands: None,
            node,
            reader: outbox.reader("mqtt"),
            inputs: inputs.clone(),
            watch_topics: watched,
            shutdown: stopped,
            pulse,
        };
        let silent = herald::Wiring::off(wiring.node.clone());
        let task = mqtt::spawn(settings, wiring, silent);
        Self { outbox, inputs, topics, shutdown, task }
    }

    fn say(&self, state: State) {
        self.outbox.say(Statement::Rule(status(state)));
    }

    fn say_camera(&self, state: CameraState) {
        self.outbox.say(Statement::Camera(CameraStatus {
            camera: CameraId::new("dock").unwrap(),
            state,
            reason: None,
            detail: String::new(),
            analysed_fps: 5.0,
            frame_age_s: Some(0.2),
            dropped: 0,
            connects: 1,
            view: ViewStatus::default(),
            ts: UtcMillis(1),
        }));
    }

    fn push(&self, count: usize) {
        for _ in 0..count {
            self.outbox.push(Transition {
                event_id: String::new(),
                seq: 0,
                what: Happening::Enter,
                from: State::Clear,
                status: status(State::Alarm),
                times: None,
                order: None,
            });
        }
    }
}

fn status(state: State) -> RuleStatus {
    let evidence = match &state {
        State::Unknown(reason) => Evidence::None(*reason),
        _ => Evidence::Fresh,
    };
    RuleStatus {
        camera: CameraId::new("dock").unwrap(),
        rule: RuleId::new("r").unwrap(),
        pair: PairId::new("p").unwrap(),
        state,
        evidence,
        distance: None,
        warning_m: None,
        alarm_m: 0.5,
        held: None,
        armed: true,
        shelved_until: None,
        separation_m: None,
        since: UtcMillis(1),
        ts: UtcMillis(1),
        captured: None,
        valid_for: Duration::from_secs(10),
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn state_is(word: &'static str) -> impl Fn(&str) -> bool {
    move |text| json(text)["state"] == word
}

#[tokio::test]
async fn a_late_subscriber_finds_the_present_states() {
    let Some(broker) = Broker::start(None) else { return };
    let sink = Sink::start(broker.settings());
    let first = Subscriber::new(&broker, "first").await;
    sink.say(State::Unknown(Reason::Starting));
    first.newest(ALARM, "unknown", state_is("unknown")).await;
    sink.say(State::Clear);
    sink.say_camera(CameraState::Live);
    sink.push(1);
    first.newest(ALARM, "clear", state_is("clear")).await;
    first.until("the event", |seen| seen.iter().any(|(topic, _, _)| topic.ends_with("/event"))).await;

    let late = Subscriber::new(&broker, "late").await;
    late.newest(ALARM, "the retained state", state_is("clear")).await;
    late.newest(STATUS, "online", |text| text == "online").await;
    late.newest(AVAILABILITY, "the camera online", |text| text == "online").await;
    assert!(late.seen.lock().unwrap().iter().all(|(_, _, retained)| *retained));
    assert!(late.events().is_empty(), "events are not retained");
}

#[tokio::test]
async fn a_killed_daemon_is_offline_by_its_will() {
    let Some(broker) = Broker::start(None) else { return };
    let sink = Sink::start(broker.settings());
    let subscriber = Subscriber::new(&broker, "s").await;
    subscriber.newest(STATUS, "online", |text| text == "online").await;
    // Dropping the task closes the socket without a DISCONNECT, as a killed process does.
    sink.task.abort();
    subscriber.newest(STATUS, "offline", |text| text == "offline").await;
}

#[tokio::test]
async fn a_stopping_daemon_says_so() {
    let Some(broker) = Broker::start(None) else { return };
    let mut sink = Sink::start(broker.settings());
    let subscriber = Subscriber::new(&broker, "s").await;
    sink.say(State::Clear);
    sink.say_camera(CameraState::Live);
    subscriber.newest(AVAILABILITY, "the camera online", |text| text == "online").await;
    sink.say(State::Unknown(Reason::Stopping));
    sink.push(1);
    sink.shutdown.send_replace(true);
    timeout(Duration::from_secs(5), &mut sink.task).await.expect("ends in time").unwrap();

    let late = Subscriber::new(&broker, "late").await;
    late.newest(ALARM, "stopping", |text| json(text)["reason"] == "stopping").await;
    late.newest(STATUS, "offline", |text| text == "offline").await;
    late.newest(AVAILABILITY, "the camera offline", |text| text == "offline").await;
    subscriber
        .until("the last event", |seen| seen.iter().any(|(topic, _, _)| topic.ends_with("/event")))
        .await;
}

#[tokio::test]
async fn a_daemon_without_a_broker_stops_at_once() {
    let mut sink = Sink::start(MqttSettings { port: 9, ..unreachable() });
    sink.say(State::Clear);
    sink.shutdown.send_replace(true);
    timeout(Duration::from_secs(5), &mut sink.task).await.expect("ends in time").unwrap();
}

fn unreachable() -> MqttSettings {
    MqttSettings { keep_alive: Duration::from_secs(2), ..MqttSettings::plain("127.0.0.1", 1, "c") }
}

#[tokio::test]
async fn a_restarted_broker_gets_states_and_every_event_once_in_order() {
    let Some(mut broker) = Broker::start(None) else { return };
    let sink = Sink::start(broker.settings());
    let subscriber = Subscriber::new(&broker, "s").await;
    sink.say(State::Clear);
    sink.push(1);
    subscriber
        .until("the first event", |seen| seen.iter().any(|(topic, _, _)| topic.ends_with("/event")))
        .await;
    broker.stop();
    sink.say(State::Alarm);
    sink.push(99);
    broker.run();
    subscriber.newest(ALARM, "the alarm", state_is("alarm")).await;
    subscriber
        .until("the last event", |seen| seen.iter().any(|(_, text, _)| text.contains("\"seq\":100,")))
        .await;
    // The first may come twice: the broker can stop before its acknowledgements are out.
    let mut events = subscriber.events();
    events.dedup();
    assert_eq!(events, (1..=100).collect::<Vec<u64>>());
    let seen = subscriber.seen.lock().unwrap();
    let state = seen.iter().position(|(topic, text, _)| topic == ALARM && state_is("alarm")(text)).unwrap();
    let event = seen.iter().position(|(_, text, _)| text.contains("\"seq\":2,")).unwrap();
    assert!(state < event, "states go first");
}

/// Stands between sink and broker; while `swallow` is set, what the sink sends is read and thrown away. With `hold`
/// the broker does not even see that the sink goes, as when a cable is cut.
async fn proxy(to: u16, swallow: Arc<AtomicBool>, hold: bool) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let swallow = swallow.clone();
            tokio::spawn(async move {
                let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                    (near.into_split(), far.into_split());
                let back = tokio::spawn(async move { tokio::io::copy(&mut far_in, &mut near_out).await });
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = near_in.read(&mut buffer).await {
                    if !swallow.load(Ordering::SeqCst) && far_out.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
                if hold {
                    until("packets go through again", || !swallow.load(Ordering::SeqCst)).await;
                }
                back.abort();
            });
        }
    });
    port
}

#[tokio::test]
async fn an_event_that_was_written_but_not_acknowledged_is_sent_again() {
    let Some(broker) = Broker::start(None) else { return };
    let swallow = Arc::new(AtomicBool::new(false));
    let port = proxy(broker.port, swallow.clone(), false).await;
    let sink = Sink::start(MqttSettings { port, ..broker.settings() });
    let subscriber = Subscriber::new(&broker, "s").await;
    subscriber.newest(STATUS, "online", |text| text == "online").await;
    swallow.store(true, Ordering::SeqCst);
    sink.push(5);
    // The sink gives up and the broker, which sees the connection go, sends the will.
    subscriber.newest(STATUS, "offline", |text| text == "offline").await;
    swallow.store(false, Ordering::SeqCst);
    subscriber
        .until("the last event", |seen| seen.iter().any(|(_, text, _)| text.contains("\"seq\":5,")))
        .await;
    assert_eq!(subscriber.events(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_silent_broker_is_given_up_and_inputs_are_forgotten() {
    let Some(broker) = Broker::start(None) else { return };
    let sink = Sink::start(broker.settings());
    let subscriber = Subscriber::new(&broker, "s").await;
    subscriber.client.publish("dock/3/trailer", QoS::AtLeastOnce, true, "docked").await.unwrap();
    until("the input is heard", || {
        sink.inputs.snapshot().get("dock/3/trailer").is_some_and(|v| v == "docked")
    })
    .await;
    broker.signal(Signal::STOP);
    until("the input is forgotten", || sink.inputs.snapshot().is_empty()).await;
    sink.say(State::Alarm);
    broker.signal(Signal::CONT);
    subscriber.newest(ALARM, "the alarm", state_is("alarm")).await;
    until("the input is heard again", || !sink.inputs.snapshot().is_empty()).await;
}

#[tokio::test]
async fn watched_topics_can_change_while_connected() {
    let Some(broker) = Broker::start(None) else { return };
    let sink = Sink::start(broker.settings());
    let subscriber = Subscriber::new(&broker, "s").await;
    let say = |topic: &'static str, text: &'static str| {
        subscriber.client.publish(topic, QoS::AtLeastOnce, true, text)
    };
    say("dock/3/trailer", "docked").await.unwrap();
    say("dock/4/trailer", "away").await.unwrap();
    until("the first topic is heard", || sink.inputs.snapshot().contains_key("dock/3/trailer")).await;
    sink.topics.send_replace(vec!["dock/4/trailer".to_owned()]);
    until("the new topic is heard", || sink.inputs.snapshot().contains_key("dock/4/trailer")).await;
    assert!(!sink.inputs.snapshot().contains_key("dock/3/trailer"), "what is not watched is not kept");
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while !condition() {
            ticks.tick().await;
        }
    };
    assert!(timeout(DEADLINE, wait).await.is_ok(), "never: {what}");
}

/// Takes what is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Waits until this stands in it.
    async fn says(&self, wanted: &str) {
        let wait = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            while !self.text().contains(wanted) {
                ticks.tick().await;
            }
        };
        assert!(timeout(DEADLINE, wait).await.is_ok(), "never '{wanted}', but: {}", self.text());
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
        tracing::subscriber::set_default(subscriber)
    }
}

#[tokio::test]
async fn wrong_passwords_and_unreachable_brokers_give_one_clear_line() {
    let Some(broker) = Broker::start(Some(("me", "right-one"))) else { return };
    let log = Log::default();
    let _listening = log.listen();
    let wrong = MqttSettings {
        username: Some("me".into()),
        password: Some(Secret::new("wrong-one")),
        ..broker.settings()
    };
    let _refused = Sink::start(wrong.clone());
    until("it is logged", || log.text().contains("refuses user 'me'")).await;
    let _nameless = Sink::start(broker.settings());
    until("it is logged", || log.text().contains("wants a user name")).await;
    let _nowhere = Sink::start(unreachable());
    until("it is logged", || log.text().contains("nothing listens at 127.0.0.1:1")).await;
    let right = MqttSettings { password: Some(Secret::new("right-one")), ..wrong };
    let _right = Sink::start(right);
    until("it connects", || log.text().contains("connected to the broker")).await;
    let text = log.text();
    assert_eq!(text.matches("WARN").count(), 3, "{text}");
    assert!(!text.contains("wrong-one") && !text.contains("right-one"), "{text}");
}
