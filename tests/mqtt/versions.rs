//! Both versions of the protocol: sessions, refusals, silence.

use standoff::publish::MqttVersion;
use standoff::publish::message::Message;
use standoff::publish::transport::{Event as Seen, Transport};

use super::*;

const BOTH: [MqttVersion; 2] = [MqttVersion::V311, MqttVersion::V5];

fn settings(port: u16, version: MqttVersion) -> MqttSettings {
    MqttSettings {
        version,
        keep_alive: Duration::from_secs(5),
        ..MqttSettings::plain("127.0.0.1", port, "standoff-n")
    }
}

fn message(topic: &str, text: &str) -> Message {
    Message { topic: topic.into(), payload: text.into(), qos: 1, retain: false, expiry: None }
}

async fn open(settings: &MqttSettings) -> Transport {
    let will = Message { retain: true, ..message("will", "gone") };
    Transport::open(Arc::new(settings.clone()), &will).await.unwrap()
}

/// Waits for the first event that is looked for.
async fn wait_for<T>(transport: &mut Transport, what: &str, look: impl Fn(&Seen) -> Option<T>) -> T {
    let wait = async {
        loop {
            let event = transport.next().await;
            if let Some(found) = look(&event) {
                return found;
            }
            assert!(!matches!(event, Seen::Lost { .. }), "{what}: {event:?}");
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never: {what}"))
}

async fn connected(transport: &mut Transport) -> bool {
    let look = |event: &Seen| match event {
        Seen::Connected { session_present, .. } => Some(*session_present),
        _ => None,
    };
    wait_for(transport, "connected", look).await
}

/// What a sink says and hears reaches its reader by either version.
pub(super) async fn goes_both_ways(settings: MqttSettings, subscriber: &Subscriber) {
    let sink = Sink::start(settings);
    sink.say(State::Clear);
    sink.push(40);
    subscriber.newest(STATUS, "online", |text| text == "online").await;
    subscriber.newest(ALARM, "clear", state_is("clear")).await;
    subscriber.until("all events", |seen| count_events(seen) == 40).await;
    until("all is acknowledged", || sink.outbox.waiting() == 0).await;
    subscriber.client.publish("dock/3/trailer", QoS::AtLeastOnce, true, "docked").await.unwrap();
    until("the input is heard", || {
        sink.inputs.snapshot().get("dock/3/trailer").is_some_and(|value| value == "docked")
    })
    .await;
}

fn count_events(seen: &[(String, String, bool)]) -> usize {
    seen.iter().filter(|(topic, _, _)| topic.ends_with("/event")).count()
}

#[tokio::test]
async fn both_versions_carry_states_events_and_inputs() {
    for version in BOTH {
        let Some(broker) = Broker::start(None) else { return };
        let subscriber = Subscriber::new(&broker, "s").await;
        goes_both_ways(settings(broker.port, version), &subscriber).await;
    }
}

#[tokio::test]
async fn a_broker_remembers_us_until_it_loses_its_memory_and_keeps_nothing_for_us() {
    for version in BOTH {
        let Some(mut broker) = Broker::configured(|_| "allow_anonymous true".to_owned()) else { return };
        let settings = settings(broker.port, version);
        let subscriber = Subscriber::new(&broker, "s").await;
        let mut transport = open(&settings).await;
        assert!(!connected(&mut transport).await, "{version}: a stranger");
        assert!(transport.subscribe(&["a/set".to_owned()]));
        wait_for(&mut transport, "subscribed", |event| matches!(event, Seen::Heard).then_some(())).await;
        drop(transport);
        subscriber.newest("will", "the will", |text| text == "gone").await;
        subscriber.client.publish("a/set", QoS::AtLeastOnce, false, "old").await.unwrap();
        subscriber.newest("a/set", "the command", |text| text == "old").await;

        let mut transport = open(&settings).await;
        assert!(connected(&mut transport).await, "{version}: known");
        subscriber.client.publish("a/set", QoS::AtLeastOnce, false, "new").await.unwrap();
        let look = |event: &Seen| match event {
            Seen::Message { payload, .. } => Some(String::from_utf8(payload.clone()).unwrap()),
            _ => None,
        };
        let heard = wait_for(&mut transport, "a message", look).await;
        assert_eq!(heard, "new", "{version}: a command of the past is not kept for us");
        drop(transport);

        broker.stop();
        for entry in std::fs::read_dir(broker.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "db") {
                std::fs::remove_file(path).unwrap();
            }
        }
        broker.run();
        let mut transport = open(&settings).await;
        assert!(!connected(&mut transport).await, "{version}: forgotten");
    }
}

#[tokio::test]
async fn by_version_5_a_state_expires_in_the_broker() {
    let Some(broker) = Broker::start(None) else { return };
    let sink = Sink::start(settings(broker.port, MqttVersion::V5));
    sink.say(State::Clear);
    let mut options = rumqttc::v5::MqttOptions::new("reader", "127.0.0.1", broker.port);
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut event_loop) = rumqttc::v5::AsyncClient::new(options, 8);
    client.subscribe(ALARM, rumqttc::v5::mqttbytes::QoS::AtLeastOnce).await.unwrap();
    let wait = async {
        loop {
            let event = event_loop.poll().await.unwrap();
            if let rumqttc::v5::Event::Incoming(rumqttc::v5::Incoming::Publish(publish)) = event {
                return publish.properties.and_then(|properties| properties.message_expiry_interval);
            }
        }
    };
    let expiry = timeout(DEADLINE, wait).await.unwrap();
    assert!(expiry.is_some_and(|seconds| (1..=10).contains(&seconds)), "{expiry:?}");
}

#[tokio::test]
async fn what_the_broker_refuses_waits_until_it_may_be_said() {
    let rights = |event: &str| format!("topic readwrite #\ntopic {event} {ALARM}/event\n");
    let Some(broker) = Broker::configured(|folder| {
        let file = folder.join("acl");
        std::fs::write(&file, rights("deny")).unwrap();
        format!("allow_anonymous true\nacl_file {}", file.display())
    }) else {
        return;
    };
    let log = Log::default();
    let _listening = log.listen();
    let subscriber = Subscriber::new(&broker, "s").await;
    let sink = Sink::start(settings(broker.port, MqttVersion::V5));
    sink.push(3);
    sink.say(State::Alarm);
    subscriber.newest(ALARM, "the state goes on", state_is("alarm")).await;
    log.says("does not take a message (not authorized)").await;
    assert_eq!((sink.outbox.waiting(), subscriber.events().len()), (3, 0));
    std::fs::write(broker.folder.path().join("acl"), rights("readwrite")).unwrap();
    broker.signal(Signal::HUP);
    subscriber.until("the events after all", |seen| count_events(seen) >= 3).await;
    until("they are acknowledged", || sink.outbox.waiting() == 0).await;
    let mut ids = subscriber.events();
    ids.dedup();
    assert_eq!(ids.len(), 3, "in order: {ids:?}");
}

#[tokio::test]
async fn a_message_that_the_broker_cannot_take_is_named_and_harms_no_other() {
    let Some(broker) = Broker::configured(|_| "allow_anonymous true\nmax_packet_size 2000".to_owned()) else {
        return;
    };
    let mut transport = open(&settings(broker.port, MqttVersion::V5)).await;
    connected(&mut transport).await;
    let large = message("t", &"x".repeat(3000));
    let taken = transport.publish(&large);
    assert_eq!(taken, Err(standoff::publish::transport::NotTaken::TooLarge(2000)));
    assert_eq!(transport.publish(&message("t", "x")), Ok(()));
    let look = |event: &Seen| matches!(event, Seen::Acknowledged(_)).then_some(());
    wait_for(&mut transport, "the acknowledgement", look).await;
}

#[tokio::test]
async fn a_server_that_says_nothing_or_nonsense_is_told_apart() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    // What an MQTT 3.1.1 broker answers to version 5, and what a web server answers.
    let answers = |answer: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = std::io::Read::read(&mut socket, &mut [0; 1024]);
            let _ = socket.write_all(answer);
            // Held open, so that the answer is what is judged.
            let _ = std::io::Read::read(&mut socket, &mut [0; 1024]);
        });
        port
    };
    let (old, web) = (answers(&[0x20, 2, 0, 1]), answers(
        b"HTTP/1.1 400 Bad Request\r\nServer: web\r\nContent-Type: text/plain\r\nContent-Length: 12\r\nConnection: keep-alive\r\n\r\nBad Request.",
    ));
    for (port, version, wanted) in [
        (old, MqttVersion::V5, "whether the broker speaks MQTT 5"),
        (web, MqttVersion::V311, "does not speak MQTT 3.1.1"),
        (silent.local_addr().unwrap().port(), MqttVersion::V311, "did not answer within 5 s"),
        (silent.local_addr().unwrap().port(), MqttVersion::V5, "did not answer within 5 s"),
    ] {
        let mut transport = open(&settings(port, version)).await;
        let wait = timeout(DEADLINE, transport.next()).await.unwrap();
        assert!(matches!(&wait, Seen::Lost { text, .. } if text.contains(wanted)), "{wanted}: {wait:?}");
    }
}

/// The broker learns nothing of the sink's end: only its keep-alive tells it.
async fn the_will_comes_in_time(version: MqttVersion) {
    let keep_alive = Duration::from_secs(15);
    let Some(broker) = Broker::start(None) else { return };
    let swallow = Arc::new(AtomicBool::new(false));
    let port = proxy(broker.port, swallow.clone(), true).await;
    let sink = Sink::start(MqttSettings { keep_alive, ..settings(port, version) });
    let subscriber = Subscriber::new(&broker, "s").await;
    sink.say(State::Clear);
    subscriber.newest(ALARM, "clear", state_is("clear")).await;
    swallow.store(true, Ordering::SeqCst);
    let since = clock::monotonic();
    subscriber.newest(STATUS, "offline", |text| text == "offline").await;
    let took = clock::monotonic().since(since);
    println!("MQTT {version}, keep-alive {keep_alive:?}: the will came {took:?} after the last packet");
    assert!(took <= keep_alive * 3 / 2, "{version}: {took:?}");
    swallow.store(false, Ordering::SeqCst);
    subscriber.newest(STATUS, "online again", |text| text == "online").await;
}

#[tokio::test]
async fn when_packets_vanish_the_will_comes_within_one_and_a_half_keep_alives() {
    the_will_comes_in_time(MqttVersion::V311).await;
}

#[tokio::test]
async fn and_so_it_does_by_version_5() {
    the_will_comes_in_time(MqttVersion::V5).await;
}
