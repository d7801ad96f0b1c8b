//! The MQTT sink: one tokio task that owns the connection. The only file that knows rumqttc.
//!
//! Every connection starts from nothing: what the broker must know is in the outbox, so nothing is left to
//! the client library's memory. After each connect the present states go first, then the events in order; an
//! event leaves the outbox only when the broker has acknowledged it. Nothing is handed to rumqttc while there
//! is no connection, because its queue would block.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, Incoming, LastWill, MqttOptions,
    Outgoing, QoS, StateError, SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::MqttSettings;
use super::message::{self, Message};
use super::pace::Pace;
use super::trouble::{Line, Trouble};
use crate::clock::{self, Timestamp};
use crate::heartbeat::Pulse;
use crate::outbox::{Gone, OutboxReader, Statement, Waiting};
use crate::slot::InputBoard;
use crate::types::{CameraId, NodeId};

/// How long connecting, and writing to a connection, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// How often held back statements and the broker's silence are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_millis(1500);
/// Messages that rumqttc may hold before it has written them.
const HANDED_MAX: usize = 16;
/// Messages that wait here at most before no more statements are taken from the outbox.
const QUEUE_MAX: usize = 256;
/// Events on their way at a time.
const EVENTS_MAX: usize = 32;
/// Publishes that may wait for their acknowledgement.
const UNACKNOWLEDGED_MAX: u16 = 100;
/// Largest packet that is read or written.
const PACKET_MAX_BYTES: usize = 1 << 20;
/// The part of a watched topic's payload that is kept.
const INPUT_MAX_BYTES: usize = 1024;

/// Starts the task, on the present tokio runtime. It connects for ever and ends when `shutdown` becomes true
/// (or its sender is gone): then it says what is left to say and `offline`, and disconnects, within 2 s.
///
/// Say the last states into the outbox before `shutdown`. What comes on the topics of `watch_topics`, which may
/// change, goes to `inputs`, which is emptied while there is no connection.
pub fn spawn(
    settings: MqttSettings,
    node: NodeId,
    reader: OutboxReader,
    inputs: Arc<InputBoard>,
    watch_topics: watch::Receiver<Vec<String>>,
    shutdown: watch::Receiver<bool>,
    pulse: Pulse,
) -> JoinHandle<()> {
    let sink = Sink {
        settings,
        node,
        reader,
        inputs,
        watch_topics,
        shutdown,
        pulse,
        pace: Pace::default(),
        available: BTreeMap::new(),
        trouble: Trouble::default(),
    };
    tokio::spawn(sink.run())
}

struct Sink {
    settings: MqttSettings,
    node: NodeId,
    reader: OutboxReader,
    inputs: Arc<InputBoard>,
    watch_topics: watch::Receiver<Vec<String>>,
    shutdown: watch::Receiver<bool>,
    pulse: Pulse,
    pace: Pace,
    /// What was last said of each camera in this connection.
    available: BTreeMap<CameraId, bool>,
    trouble: Trouble,
}

/// How a connection ended.
enum End {
    /// As it was asked to.
    Stopped,
    /// Otherwise, and why.
    Lost(String),
}

impl Sink {
    async fn run(mut self) {
        let broker = format!("{}:{}", self.settings.host, self.settings.port);
        let mut pause = PAUSES.0;
        loop {
            self.pulse.beat(clock::monotonic());
            let End::Lost(problem) = self.connection().await else { return };
            self.inputs.clear();
            match self.trouble.lost(clock::monotonic(), &problem) {
                Some(Line::New) => tracing::warn!(%broker, "{problem}; trying again"),
                Some(Line::Still { attempts, away }) => {
                    tracing::warn!(%broker, attempts, away_s = away.as_secs(), "still not connected: {problem}");
                }
                _ => {}
            }
            if self.trouble.is_fresh() {
                pause = PAUSES.0;
            }
            if timeout(pause, stopped(&mut self.shutdown)).await.is_ok() {
                return;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn connection(&mut self) -> End {
        let (client, mut eventloop) = AsyncClient::new(self.options(), HANDED_MAX);
        eventloop.network_options.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
        let mut link = Link::new(client);
        // The future is kept across turns of the loop: rumqttc's poll may not be dropped half way.
        let mut polling = Box::pin(poll(eventloop));
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shutdown = self.shutdown.clone();
        let mut watch_topics = self.watch_topics.clone();
        let mut leave_by: Option<Timestamp> = None;
        loop {
            tokio::select! {
                (eventloop, event) = &mut polling => {
                    polling.set(poll(eventloop));
                    match event {
                        Ok(Event::Outgoing(Outgoing::Disconnect)) => return End::Stopped,
                        Ok(event) => self.note(event, &mut link),
                        Err(_) if leave_by.is_some() => return End::Stopped,
                        Err(error) => return End::Lost(explain(&error, &self.settings)),
                    }
                }
                () = self.reader.changed(), if link.connected && link.queue.len() < QUEUE_MAX => self.say_news(&mut link),
                () = changed(&mut watch_topics) => {
                    let topics = watch_topics.borrow().clone();
                    self.follow_topics(&mut link, &topics);
                }
                () = stopped(&mut shutdown), if leave_by.is_none() => {
                    if !link.connected {
                        return End::Stopped;
                    }
                    leave_by = Some(clock::monotonic() + FAREWELL);
                    self.say_farewell(&mut link);
                }
                _ = ticks.tick() => {
                    let now = clock::monotonic();
                    self.pulse.beat(now);
                    for statement in self.pace.due(now) {
                        self.say(statement, &mut link);
                    }
                    if !link.watched_all {
                        let topics = watch_topics.borrow().clone();
                        self.follow_topics(&mut link, &topics);
                    }
                    if link.is_dead(now, self.settings.keep_alive / 2) {
                        return End::Lost("the broker does not answer any more".to_owned());
                    }
                }
            }
            link.pump();
            if let Some(leave_by) = leave_by {
                let now = clock::monotonic();
                if now >= leave_by + TICK * 3 {
                    return End::Stopped;
                }
                if link.is_idle() || now >= leave_by {
                    // Errors when the queue is full: then the next turn tries again.
                    let _ = link.client.try_disconnect();
                }
            }
        }
    }

    fn options(&self) -> MqttOptions {
        let settings = &self.settings;
        let host = match settings.host.parse::<std::net::Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => settings.host.clone(),
        };
        let will = message::status(&self.node, false);
        let mut options = MqttOptions::new(&settings.client_id, host, settings.port);
        options
            .set_keep_alive(settings.keep_alive.max(Duration::from_secs(1)))
            .set_clean_session(true)
            .set_inflight(UNACKNOWLEDGED_MAX)
            .set_max_packet_size(PACKET_MAX_BYTES, PACKET_MAX_BYTES)
            .set_last_will(LastWill::new(will.topic, will.payload, qos(will.qos), will.retain));
        if let Some(username) = &settings.username {
            let password = settings.password.as_ref().map_or("", |password| password.reveal());
            options.set_credentials(username, password);
        }
        options
    }

    fn note(&mut self, event: Event, link: &mut Link) {
        let now = clock::monotonic();
        match event {
            Event::Incoming(packet) => {
                link.heard(now);
                match packet {
                    Incoming::ConnAck(_) => self.greet(link, now),
                    Incoming::PubAck(ack) => {
                        if let Some(number) = link.acknowledged(ack.pkid) {
                            self.reader.delivered(number, now);
                        }
                        self.say_events(link);
                    }
                    Incoming::Publish(publish) => {
                        let start = publish.payload.get(..INPUT_MAX_BYTES).unwrap_or(&publish.payload);
                        self.inputs.set(&publish.topic, &String::from_utf8_lossy(start));
                    }
                    Incoming::SubAck(ack) if ack.return_codes.contains(&SubscribeReasonCode::Failure) => {
                        tracing::warn!(topics = ?link.watched, "the broker does not let us read topics of `when:`");
                    }
                    _ => {}
                }
            }
            Event::Outgoing(Outgoing::Publish(id)) => link.written(id, now),
            Event::Outgoing(Outgoing::PingReq) => link.asked(now),
            Event::Outgoing(_) => {}
        }
    }

    /// All that a broker which knows nothing must hear: states first, then the events that wait.
    fn greet(&mut self, link: &mut Link, now: Timestamp) {
        if let Some(Line::Connected { away }) = self.trouble.connected(now) {
            let (host, port) = (&self.settings.host, self.settings.port);
            let away_s = away.map(|away| away.as_secs_f64());
            tracing::info!(broker = %format!("{host}:{port}"), away_s, "connected to the broker");
        }
        link.connected = true;
        let topics = self.watch_topics.borrow().clone();
        self.follow_topics(link, &topics);
        self.pace.reset();
        self.available.clear();
        link.push(message::status(&self.node, true));
        for statement in self.reader.all_statements() {
            self.offer(statement, link);
        }
        self.say_events(link);
    }

    /// Watches these topics and no others.
    fn follow_topics(&mut self, link: &mut Link, topics: &[String]) {
        if !link.connected {
            return;
        }
        let (gone, new) = (others(&link.watched, topics), others(topics, &link.watched));
        let filter = |topic: &String| SubscribeFilter::new(topic.clone(), QoS::AtLeastOnce);
        // rumqttc's queue may be full: then all is asked for again with the next tick.
        let asked = new.is_empty() || link.client.try_subscribe_many(new.iter().map(filter)).is_ok();
        link.watched_all = asked && gone.iter().all(|topic| link.client.try_unsubscribe(topic).is_ok());
        if link.watched_all {
            link.watched = topics.to_vec();
            self.inputs.retain(topics);
        }
    }

    fn say_news(&mut self, link: &mut Link) {
        for statement in self.reader.new_statements() {
            self.offer(statement, link);
        }
        self.say_events(link);
    }

    fn offer(&mut self, statement: Statement, link: &mut Link) {
        if let Some(statement) = self.pace.offer(clock::monotonic(), statement) {
            self.say(statement, link);
        }
    }

    fn say(&mut self, statement: Statement, link: &mut Link) {
        match statement {
            Statement::Rule(status) => link.push(message::alarm(&self.node, &status)),
            Statement::Pair(status) => link.push(message::pair(&self.node, &status)),
            Statement::Camera(status) => {
                let online = message::is_available(&status);
                if self.available.insert(status.camera.clone(), online) != Some(online) {
                    link.push(message::availability(&self.node, &status.camera, online));
                }
                link.push(message::health(&self.node, &status));
            }
            Statement::Picture(picture) => link.push(message::picture(&self.node, &picture)),
            // The last word first: not every subscriber takes an empty message for an answer.
            Statement::Gone(Gone::Rule(status)) => {
                let last = message::alarm(&self.node, &status);
                let topic = last.topic.clone();
                link.push(last);
                link.push(message::cleared(topic));
            }
            Statement::Gone(Gone::Camera(camera)) => {
                self.available.remove(&camera);
                let last = message::availability(&self.node, &camera, false);
                let topic = last.topic.clone();
                link.push(last);
                link.push(message::cleared(topic));
                link.push(message::cleared(message::picture_topic(&self.node, &camera)));
            }
            // Nothing of a pair is kept by the broker.
            Statement::Gone(Gone::Pair(..)) => {}
        }
    }

    fn say_events(&mut self, link: &mut Link) {
        for Waiting { number, event, late } in self.reader.pending_events(&clock::stamp(), EVENTS_MAX) {
            if number >= link.next_event {
                link.push_event(number, message::event(&self.node, &event, late));
            }
        }
    }

    fn say_farewell(&mut self, link: &mut Link) {
        self.say_news(link);
        for camera in std::mem::take(&mut self.available).into_keys() {
            link.push(message::availability(&self.node, &camera, false));
        }
        link.push(message::status(&self.node, false));
    }
}

/// Ends when the daemon is to stop.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone, which says the same.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Ends when the value has changed; never when whoever could change it is gone.
async fn changed(topics: &mut watch::Receiver<Vec<String>>) {
    if topics.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Those of `topics` that are not among `known`.
fn others(topics: &[String], known: &[String]) -> Vec<String> {
    topics.iter().filter(|topic| !known.contains(topic)).cloned().collect()
}

/// One step of rumqttc, which gives the event loop back.
async fn poll(mut eventloop: EventLoop) -> (EventLoop, Result<Event, ConnectionError>) {
    let event = eventloop.poll().await;
    (eventloop, event)
}

fn qos(level: u8) -> QoS {
    if level == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}

/// Which event of the outbox a message is, if any.
type Tag = Option<u64>;

/// What is on its way in one connection.
struct Link {
    client: AsyncClient,
    connected: bool,
    /// Not yet handed to rumqttc.
    queue: VecDeque<(Message, Tag)>,
    /// Handed over, in order, and not yet written.
    handed: VecDeque<Tag>,
    /// Written, by packet id, and not yet acknowledged.
    unacknowledged: BTreeMap<u16, Tag>,
    /// Events on their way.
    events: BTreeSet<u64>,
    /// Number of the first event that was not yet taken in this connection.
    next_event: u64,
    /// Since when the broker owes an answer and has said nothing.
    waiting_since: Option<Timestamp>,
    /// Topics that the broker was asked for in this connection.
    watched: Vec<String>,
    /// False when some are still to be asked for.
    watched_all: bool,
}

impl Link {
    fn new(client: AsyncClient) -> Self {
        Self {
            client,
            connected: false,
            queue: VecDeque::new(),
            handed: VecDeque::new(),
            unacknowledged: BTreeMap::new(),
            events: BTreeSet::new(),
            next_event: 0,
            waiting_since: None,
            watched: vec![],
            watched_all: true,
        }
    }

    fn push(&mut self, message: Message) {
        self.queue.push_back((message, None));
    }

    fn push_event(&mut self, number: u64, message: Message) {
        self.events.insert(number);
        self.next_event = number + 1;
        self.queue.push_back((message, Some(number)));
    }

    /// Hands over what rumqttc has room for.
    fn pump(&mut self) {
        while self.connected && self.handed.len() < HANDED_MAX {
            let Some((message, tag)) = self.queue.pop_front() else { return };
            let Message { topic, payload, qos: level, retain, .. } = &message;
            if self.client.try_publish(topic, qos(*level), *retain, payload.clone()).is_err() {
                self.queue.push_front((message, tag));
                return;
            }
            self.handed.push_back(tag);
        }
    }

    fn written(&mut self, id: u16, now: Timestamp) {
        let tag = self.handed.pop_front().flatten();
        if id != 0 {
            self.unacknowledged.insert(id, tag);
            self.waiting_since.get_or_insert(now);
        }
    }

    fn asked(&mut self, now: Timestamp) {
        self.waiting_since.get_or_insert(now);
    }

    fn heard(&mut self, now: Timestamp) {
        self.waiting_since = (!self.unacknowledged.is_empty()).then_some(now);
    }

    /// Takes an acknowledgement; gives the number up to which all events have arrived, if that is news.
    fn acknowledged(&mut self, id: u16) -> Option<u64> {
        let tag = self.unacknowledged.remove(&id)?;
        if self.unacknowledged.is_empty() {
            self.waiting_since = None;
        }
        self.events.remove(&tag?);
        let first_missing = self.events.first().copied().unwrap_or(self.next_event);
        first_missing.checked_sub(1)
    }

    /// Whether the broker owes an answer for longer than `patience`.
    fn is_dead(&self, now: Timestamp, patience: Duration) -> bool {
        self.waiting_since.is_some_and(|since| now.since(since) > patience)
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.handed.is_empty() && self.unacknowledged.is_empty()
    }
}

/// What a person can do about it. Never contains the password.
fn explain(error: &ConnectionError, settings: &MqttSettings) -> String {
    let MqttSettings { host, port, client_id, .. } = settings;
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => match &settings.username {
            Some(name) => {
                format!(
                    "the broker refuses user '{name}': check mqtt.username and mqtt.password, and what it may do"
                )
            }
            None => "the broker wants a user name: set mqtt.username and mqtt.password".to_owned(),
        },
        ConnectionError::ConnectionRefused(ConnectReturnCode::BadClientId) => {
            format!("the broker refuses the client id '{client_id}': set another mqtt.client_id")
        }
        ConnectionError::ConnectionRefused(code) => format!("the broker refuses the connection ({code:?})"),
        ConnectionError::NetworkTimeout => {
            format!(
                "{host}:{port} did not answer within {} s: check mqtt.host and the network",
                CONNECT_TIMEOUT.as_secs()
            )
        }
        ConnectionError::FlushTimeout => "the broker takes no more data".to_owned(),
        ConnectionError::Io(error) | ConnectionError::MqttState(StateError::Io(error)) => {
            match error.kind() {
                io::ErrorKind::ConnectionRefused => {
                    format!(
                        "nothing listens at {host}:{port}: is the broker running, are mqtt.host and mqtt.port right?"
                    )
                }
                _ => format!("{host}:{port} cannot be reached: {error}"),
            }
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => format!(
            "the broker closed the connection; if this goes on, another client uses the id '{client_id}' or it is no MQTT broker"
        ),
        ConnectionError::MqttState(StateError::AwaitPingResp) => {
            "the broker does not answer any more".to_owned()
        }
        ConnectionError::MqttState(StateError::Deserialization(error)) => {
            format!("what answers at {host}:{port} does not speak MQTT 3.1.1 ({error:?})")
        }
        other => format!("the connection to the broker failed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Secret;

    #[test]
    fn an_event_has_arrived_when_all_before_it_have() {
        let (client, _eventloop) = AsyncClient::new(MqttOptions::new("c", "h", 1), HANDED_MAX);
        let mut link = Link::new(client);
        link.connected = true;
        for number in 5..8 {
            let message = Message { topic: "t".into(), payload: vec![], qos: 1, retain: false, expiry: None };
            link.push_event(number, message);
        }
        link.pump();
        let now = clock::monotonic();
        (1..=3).for_each(|id| link.written(id, now));
        assert_eq!(link.acknowledged(2), Some(4));
        assert_eq!(link.acknowledged(1), Some(6));
        assert_eq!(link.acknowledged(9), None);
        assert!(!link.is_idle());
        assert_eq!(link.acknowledged(3), Some(7));
        assert!(link.is_idle());
    }

    #[test]
    fn silence_counts_only_while_an_answer_is_due() {
        let (client, _eventloop) = AsyncClient::new(MqttOptions::new("c", "h", 1), HANDED_MAX);
        let mut link = Link::new(client);
        let at = |s: u64| Timestamp::from_nanos(s * 1_000_000_000);
        let patience = Duration::from_secs(7);
        assert!(!link.is_dead(at(100), patience));
        link.asked(at(100));
        assert!(!link.is_dead(at(107), patience) && link.is_dead(at(108), patience));
        link.heard(at(105));
        assert!(!link.is_dead(at(1000), patience));
    }

    #[test]
    fn what_went_wrong_is_said_without_the_password() {
        let settings = MqttSettings {
            host: "broker".into(),
            port: 1883,
            username: Some("me".into()),
            password: Some(Secret::new("hunter2")),
            client_id: "standoff-x".into(),
            keep_alive: Duration::from_secs(15),
        };
        let refused = ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized);
        let text = explain(&refused, &settings);
        assert!(text.contains("refuses user 'me'") && !text.contains("hunter2"), "{text}");
        let closed = ConnectionError::Io(io::ErrorKind::ConnectionRefused.into());
        assert!(explain(&closed, &settings).starts_with("nothing listens at broker:1883"));
        assert!(
            explain(&ConnectionError::NetworkTimeout, &settings)
                .contains("broker:1883 did not answer within 5 s")
        );
    }
}
