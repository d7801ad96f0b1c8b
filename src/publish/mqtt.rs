//! The MQTT sink: one tokio task that owns the connection.
//!
//! Every connection starts from nothing: what the broker must know is in the outbox, so nothing is left to
//! the client library's memory. After each connect the present states go first, then the events in order; an
//! event leaves the outbox only when the broker has acknowledged it. Nothing is handed to the transport while
//! there is no connection, because its queue would block.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::MqttSettings;
use super::command;
use super::herald::{self, Herald};
use super::intake::{self, Route};
use super::link::Link;
use super::message;
use super::pace::Pace;
use super::transport::{Event, Transport};
use super::trouble::{Line, Trouble};
use crate::clock::{self, Timestamp};
use crate::heartbeat::Pulse;
use crate::metrics::METRICS;
use crate::outbox::{Gone, OutboxReader, Statement, Waiting};
use crate::slot::InputBoard;
use crate::types::command::Setting;
use crate::types::{CameraId, CommandSender, NodeId, RuleStatus};

/// First and longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// How often held back statements and the broker's silence are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_millis(1500);
/// Messages that wait here at most before no more statements are taken from the outbox.
const QUEUE_MAX: usize = 256;
/// Events on their way at a time.
const EVENTS_MAX: usize = 32;
/// The part of a watched topic's payload that is kept.
const INPUT_MAX_BYTES: usize = 1024;

/// What the sink is connected to inside the daemon.
#[derive(Debug)]
pub struct Wiring {
    /// Name of the daemon in topics.
    pub node: NodeId,
    /// What there is to say.
    pub reader: OutboxReader,
    /// Where values of watched topics go; emptied while there is no connection.
    pub inputs: Arc<InputBoard>,
    /// What `when:` conditions read. May change.
    pub watch_topics: watch::Receiver<Vec<String>>,
    /// Where commands go; none when nobody may give any over the broker.
    pub commands: Option<CommandSender>,
    /// Becomes true, or loses its sender, when the daemon is to stop.
    pub shutdown: watch::Receiver<bool>,
    /// The task's sign of life.
    pub pulse: Pulse,
}

/// Starts the task, on the present tokio runtime. It connects for ever and ends when told to: then it says what
/// is left to say and `offline`, and disconnects, within 2 s. Say the last states into the outbox before that.
pub fn spawn(settings: MqttSettings, wiring: Wiring, home_assistant: herald::Wiring) -> JoinHandle<()> {
    let sink = Sink {
        settings: Arc::new(settings),
        wiring,
        herald: Herald::new(home_assistant),
        pace: Pace::default(),
        available: BTreeMap::new(),
        settings_said: BTreeMap::new(),
        trouble: Trouble::default(),
        refusals: Trouble::default(),
    };
    tokio::spawn(sink.run())
}

struct Sink {
    settings: Arc<MqttSettings>,
    wiring: Wiring,
    herald: Herald,
    pace: Pace,
    /// What was last said of each camera in this connection.
    available: BTreeMap<CameraId, bool>,
    /// What was last said of each setting in this connection, by its topic.
    settings_said: BTreeMap<String, Vec<u8>>,
    trouble: Trouble,
    /// Messages that the broker did not want.
    refusals: Trouble,
}

/// How a connection ended.
enum End {
    /// As it was asked to.
    Stopped,
    /// Otherwise: the word for the metrics, and why in words for people.
    Lost(&'static str, String),
}

impl Sink {
    async fn run(mut self) {
        let broker = format!("{}:{}", self.settings.host, self.settings.port);
        let mut pause = PAUSES.0;
        loop {
            self.wiring.pulse.beat(clock::monotonic());
            let end = self.connection().await;
            METRICS.broker_connected.set(0);
            let End::Lost(reason, problem) = end else { return };
            METRICS.broker_reconnects.of(&[&reason]).inc();
            self.wiring.inputs.clear();
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
            if timeout(pause, stopped(&mut self.wiring.shutdown)).await.is_ok() {
                return;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn connection(&mut self) -> End {
        let will = message::status(&self.wiring.node, false);
        let transport = match Transport::open(self.settings.clone(), &will).await {
            Ok(transport) => transport,
            Err(problem) => return End::Lost("certificates", problem),
        };
        let mut link = Link::new(transport);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shutdown = self.wiring.shutdown.clone();
        let mut watch_topics = self.wiring.watch_topics.clone();
        let mut leave_by: Option<Timestamp> = None;
        loop {
            tokio::select! {
                event = link.transport.next() => match event {
                    Event::Left => return End::Stopped,
                    Event::Lost { .. } if leave_by.is_some() => return End::Stopped,
                    Event::Lost { reason, text } => return End::Lost(reason, text),
                    event => self.note(event, &mut link),
                },
                () = self.wiring.reader.changed(), if link.connected && link.queued() < QUEUE_MAX => self.say_news(&mut link),
                () = changed(&mut watch_topics) => {
                    let topics = watch_topics.borrow().clone();
                    self.follow_topics(&mut link, &topics);
                }
                () = self.herald.changed() => self.announce(&mut link),
                () = stopped(&mut shutdown), if leave_by.is_none() => {
                    if !link.connected {
                        return End::Stopped;
                    }
                    leave_by = Some(clock::monotonic() + FAREWELL);
                    self.say_farewell(&mut link);
                }
                _ = ticks.tick() => {
                    let now = clock::monotonic();
                    self.wiring.pulse.beat(now);
                    for statement in self.pace.due(now) {
                        self.say(statement, &mut link);
                    }
                    if link.retry_refused(now) {
                        self.say_events(&mut link);
                    }
                    if !link.watched_all {
                        let topics = watch_topics.borrow().clone();
                        self.follow_topics(&mut link, &topics);
                    }
                    if self.herald.is_born(now) {
                        self.answer_home_assistant(&mut link);
                    }
                    if link.is_idle() {
                        self.herald.all_arrived();
                    }
                    if link.is_dead(now, self.settings.keep_alive / 2) {
                        return End::Lost("silent", "the broker does not answer any more".to_owned());
                    }
                }
            }
            if let Some((topic, max)) = link.pump(clock::monotonic()) {
                self.complain(&format!(
                    "a message to '{topic}' is larger than the broker takes ({max} bytes)"
                ));
            }
            if let Some(leave_by) = leave_by {
                let now = clock::monotonic();
                if now >= leave_by + TICK * 3 {
                    return End::Stopped;
                }
                if link.is_idle() || now >= leave_by {
                    // False when there is no room: then the next turn tries again.
                    let _ = link.transport.disconnect();
                }
            }
        }
    }

    fn note(&mut self, event: Event, link: &mut Link) {
        let now = clock::monotonic();
        if event.is_incoming() {
            link.heard(now);
        }
        match event {
            Event::Connected { session_present, .. } => self.greet(link, session_present, now),
            Event::Acknowledged(id) => {
                if let Some(number) = link.acknowledged(id) {
                    self.wiring.reader.delivered(number, &clock::stamp());
                }
                self.say_events(link);
            }
            Event::Refused(id, why) => {
                link.refused(id, now);
                self.complain(&format!(
                    "the broker does not take a message ({why}): check what the user may do"
                ));
            }
            Event::Written(id) => link.written(id, now),
            Event::Asked => link.asked(now),
            Event::Message { topic, payload, retained } => self.take(&topic, &payload, retained, link),
            Event::SubscribeRefused(why) => {
                tracing::warn!(topics = ?link.watched, "the broker does not let us read topics of `when:`: {why}");
            }
            Event::Heard | Event::Left | Event::Lost { .. } | Event::Other => {}
        }
    }

    /// Hands on what came in.
    fn take(&mut self, topic: &str, payload: &[u8], retained: bool, link: &Link) {
        match intake::route(topic, &self.wiring.node, &link.watched) {
            Route::Input => {
                let start = payload.get(..INPUT_MAX_BYTES).unwrap_or(payload);
                self.wiring.inputs.set(topic, &String::from_utf8_lossy(start));
            }
            Route::Command => self.obey(topic, payload, retained),
            Route::Birth => self.herald.hear(payload, retained),
            Route::Nobody => {
                tracing::debug!(topic, "a message that nobody asked for");
            }
        }
    }

    /// Hands a command on, or says why it is none.
    fn obey(&mut self, topic: &str, payload: &[u8], retained: bool) {
        let node = &self.wiring.node;
        let Some(commands) = &self.wiring.commands else {
            return self.complain("a command was ignored: mqtt.allow_remote_control is not set");
        };
        // What is shown where somebody set it is put right in any case.
        if let Some((camera, rule)) = command::rule_of(node, topic) {
            for setting in Setting::ALL {
                self.settings_said.remove(&message::setting_topic(node, &camera, &rule, setting));
            }
        }
        let taken = command::parse(node, topic, payload, retained).map_err(|why| why.to_string());
        if let Err(why) = taken.and_then(|command| commands.send(command).map_err(|why| why.to_string())) {
            METRICS.commands.of(&[&"unknown", &"mqtt", &"refused"]).inc();
            self.complain(&format!("a command over MQTT was ignored: {why}"));
        }
    }

    /// Says what is set on a rule, as far as the broker has not heard it in this connection.
    fn say_settings(&mut self, status: &RuleStatus, link: &mut Link) {
        for message in message::settings(&self.wiring.node, status) {
            if self.settings_said.get(&message.topic) != Some(&message.payload) {
                self.settings_said.insert(message.topic.clone(), message.payload.clone());
                link.push(message);
            }
        }
    }

    /// Says what the broker did not want, not more often than a trouble of the connection.
    fn complain(&mut self, problem: &str) {
        match self.refusals.lost(clock::monotonic(), problem) {
            Some(Line::New) => tracing::warn!("{problem}"),
            Some(Line::Still { attempts, .. }) => tracing::warn!(messages = attempts, "still: {problem}"),
            _ => {}
        }
    }

    /// All that a broker which knows nothing must hear: states first, then the events that wait.
    fn greet(&mut self, link: &mut Link, session_present: bool, now: Timestamp) {
        METRICS.broker_connected.set(1);
        if let Some(Line::Connected { away }) = self.trouble.connected(now) {
            let (host, port) = (&self.settings.host, self.settings.port);
            let away_s = away.map(|away| away.as_secs_f64());
            let broker = format!("{host}:{port}");
            tracing::info!(%broker, away_s, session_present, "connected to the broker");
        }
        if !session_present {
            // The broker does not know us: what it acknowledged a moment ago may be lost with its memory.
            self.wiring.reader.was_forgotten(&clock::stamp());
        }
        link.connected = true;
        let topics = self.wiring.watch_topics.borrow().clone();
        self.follow_topics(link, &topics);
        self.pace.reset();
        self.available.clear();
        self.settings_said.clear();
        link.push(message::status(&self.wiring.node, true));
        self.herald.begin();
        self.announce(link);
        for statement in self.wiring.reader.all_statements() {
            self.offer(statement, link);
        }
        self.say_events(link);
    }

    /// Tells Home Assistant what there is.
    fn announce(&mut self, link: &mut Link) {
        if !link.connected {
            return;
        }
        if self.herald.is_on() && !link.hears_births {
            // False when there is no room: then it is asked for with the next announcement.
            link.hears_births = link.transport.subscribe(&[intake::BIRTH_TOPIC.to_owned()]);
        }
        for message in self.herald.messages() {
            link.push(message);
        }
    }

    /// Home Assistant has started: it has read what is retained, and knows nothing of the rest.
    fn answer_home_assistant(&mut self, link: &mut Link) {
        if !link.connected {
            return;
        }
        tracing::debug!("Home Assistant has started");
        self.announce(link);
        self.pace.reset();
        self.available.clear();
        self.settings_said.clear();
        for statement in self.wiring.reader.all_statements() {
            self.offer(statement, link);
        }
    }

    /// Watches these topics and no others.
    fn follow_topics(&mut self, link: &mut Link, topics: &[String]) {
        if !link.connected {
            return;
        }
        let commands = self.wiring.commands.as_ref().map(|_| intake::command_filter(&self.wiring.node));
        let wanted: Vec<String> = topics.iter().cloned().chain(commands).collect();
        let (gone, new) = (others(&link.watched, &wanted), others(&wanted, &link.watched));
        // There may be no room: then all is asked for again with the next tick.
        link.watched_all =
            link.transport.subscribe(&new) && gone.iter().all(|topic| link.transport.unsubscribe(topic));
        if link.watched_all {
            link.watched = wanted;
            self.wiring.inputs.retain(topics);
        }
    }

    fn say_news(&mut self, link: &mut Link) {
        for statement in self.wiring.reader.new_statements() {
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
            Statement::Rule(status) => {
                link.push(message::alarm(&self.wiring.node, &status));
                self.say_settings(&status, link);
            }
            Statement::Pair(status) => link.push(message::pair(&self.wiring.node, &status)),
            Statement::State(status) => link.push(message::state(&self.wiring.node, &status)),
            Statement::Camera(status) => {
                let online = message::is_available(&status);
                if self.available.insert(status.camera.clone(), online) != Some(online) {
                    link.push(message::availability(&self.wiring.node, &status.camera, online));
                }
                link.push(message::health(&self.wiring.node, &status));
            }
            Statement::Picture(picture) => link.push(message::picture(&self.wiring.node, &picture)),
            Statement::Report(report) => link.push(message::report(&self.wiring.node, &report)),
            // The last word first: not every subscriber takes an empty message for an answer.
            Statement::Gone(Gone::Rule(status)) => {
                let last = message::alarm(&self.wiring.node, &status);
                let topic = last.topic.clone();
                link.push(last);
                link.push(message::cleared(topic));
                for setting in message::settings(&self.wiring.node, &status) {
                    self.settings_said.remove(&setting.topic);
                    link.push(message::cleared(setting.topic));
                }
            }
            Statement::Gone(Gone::Camera(camera)) => {
                self.available.remove(&camera);
                let last = message::availability(&self.wiring.node, &camera, false);
                let topic = last.topic.clone();
                link.push(last);
                link.push(message::cleared(topic));
                link.push(message::cleared(message::picture_topic(&self.wiring.node, &camera)));
            }
            Statement::Gone(Gone::State(camera, state)) => {
                link.push(message::cleared(message::state_topic(&self.wiring.node, &camera, &state)));
            }
            // Nothing of a pair is kept by the broker.
            Statement::Gone(Gone::Pair(..)) => {}
        }
    }

    fn say_events(&mut self, link: &mut Link) {
        for Waiting { number, event, late } in self.wiring.reader.pending_events(&clock::stamp(), EVENTS_MAX)
        {
            if number >= link.next_event {
                if late {
                    METRICS.events_late.of(&[&"mqtt"]).inc();
                }
                link.push_event(number, message::event(&self.wiring.node, &event, late));
            }
        }
    }

    fn say_farewell(&mut self, link: &mut Link) {
        self.say_news(link);
        for camera in std::mem::take(&mut self.available).into_keys() {
            link.push(message::availability(&self.wiring.node, &camera, false));
        }
        link.push(message::status(&self.wiring.node, false));
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
