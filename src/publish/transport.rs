//! One connection to a broker, whatever the version of the protocol. `v4` (MQTT 3.1.1) and `v5` are the only
//! files that know rumqttc; `fault` says in words why a connection ended.
//!
//! Every connection is a new client with nothing in its memory: what must be said again is in the outbox. The
//! broker's memory of us is another matter: the session is kept there under our client id, so that
//! `session_present = false` on a reconnect means that the broker has lost it, and perhaps more than that.
//! Subscriptions are made anew each time and with QoS 0, so that a session never queues for us: a value or a
//! command that waited in the broker while we were away would be taken for one of now.

mod fault;
mod v4;
mod v5;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fault::Fault;

use super::message::Message;
use super::tls;
use super::{MqttSettings, MqttVersion};

/// How long connecting, and writing to a connection, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that the client may hold before it has written them.
pub(super) const HANDED_MAX: usize = 16;
/// Publishes that may wait for their acknowledgement.
const UNACKNOWLEDGED_MAX: u16 = 100;
/// Largest packet that is read or written, unless the broker takes less.
const PACKET_MAX_BYTES: usize = 1 << 20;
/// More than all that a packet has besides topic and payload: header, lengths, identifier, expiry.
const PACKET_OVERHEAD_BYTES: usize = 64;
/// How long a broker that speaks MQTT 5 keeps our session. By 3.1.1 that is the broker's own setting.
const SESSION_EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// rumqttc accepts no shorter keep-alive for MQTT 5.
pub const V5_KEEP_ALIVE_MIN: Duration = Duration::from_secs(5);

/// What happened on the connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The broker took us in.
    Connected {
        /// Whether it still knew the session of our client id.
        session_present: bool,
        /// Largest packet that it takes, when it says so.
        packet_max_bytes: Option<usize>,
    },
    /// The publish with this id has arrived.
    Acknowledged(u16),
    /// The broker has got the publish with this id and does not want it, and why.
    Refused(u16, String),
    /// A publish was written; the id is 0 when it will not be acknowledged.
    Written(u16),
    /// The broker was asked for a sign of life.
    Asked,
    /// A message on a topic that we subscribed to.
    Message {
        /// Its topic.
        topic: String,
        /// What it says.
        payload: Vec<u8>,
        /// Whether the broker had kept it from before our subscription.
        retained: bool,
    },
    /// Not all subscriptions were accepted, and why.
    SubscribeRefused(String),
    /// The broker said something else.
    Heard,
    /// Our good-bye was written.
    Left,
    /// The connection could not be made or broke.
    Lost {
        /// In one of a few words, for the metrics.
        reason: &'static str,
        /// For people, without secrets.
        text: String,
    },
    /// Nothing that matters.
    Other,
}

impl Event {
    /// Whether it shows that the broker is alive.
    pub fn is_incoming(&self) -> bool {
        match self {
            Self::Connected { .. }
            | Self::Acknowledged(_)
            | Self::Refused(..)
            | Self::Message { .. }
            | Self::SubscribeRefused(_)
            | Self::Heard => true,
            Self::Written(_) | Self::Asked | Self::Left | Self::Lost { .. } | Self::Other => false,
        }
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// [`HANDED_MAX` messages wait already. Try again after the next event.
    Full,
    /// It is larger than the broker takes, bytes.
    TooLarge(usize),
}

enum Client {
    V4(rumqttc::AsyncClient),
    V5(rumqttc::v5::AsyncClient),
}

enum Loop {
    V4(Box<rumqttc::EventLoop>),
    V5(Box<rumqttc::v5::EventLoop>),
}

type Polling = Pin<Box<dyn Future<Output = (Loop, Event)> + Send>>;

/// One connection, from the first attempt to its end.
pub struct Transport {
    client: Client,
    settings: Arc<MqttSettings>,
    packet_max_bytes: usize,
    /// The step that is under way. Kept when [`Transport::next`] is cancelled: rumqttc's may not be dropped half
    /// way.
    polling: Polling,
}

impl Transport {
    /// Prepares a connection. It is made by the first [`Transport::next`]. An error says what is wrong with the
    /// certificates; they are read anew each time, so that renewed ones are taken.
    pub async fn open(settings: Arc<MqttSettings>, will: &Message) -> Result<Self, String> {
        let tls = match settings.tls.clone() {
            None => None,
            Some(tls) => {
                let read = tokio::task::spawn_blocking(move || tls::client_config(&tls));
                let read = read.await.map_err(|error| format!("TLS cannot be prepared: {error}"))?;
                Some(Arc::new(read.map_err(|error| error.to_string())?))
            }
        };
        Ok(Self::new(settings, will, tls))
    }

    fn new(settings: Arc<MqttSettings>, will: &Message, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        let (client, event_loop) = match settings.version {
            MqttVersion::V311 => {
                let (client, event_loop) = v4::client(&settings, will, tls);
                (Client::V4(client), Loop::V4(Box::new(event_loop)))
            }
            MqttVersion::V5 => {
                let (client, event_loop) = v5::client(&settings, will, tls);
                (Client::V5(client), Loop::V5(Box::new(event_loop)))
            }
        };
        let polling = poll(event_loop, settings.clone());
        Self { client, settings, packet_max_bytes: PACKET_MAX_BYTES, polling }
    }

    /// The next thing that happens. Cancel safe. After [`Event::Lost`] and [`Event::Left`] the transport is to
    /// be dropped.
    pub async fn next(&mut self) -> Event {
        let (event_loop, event) = (&mut self.polling).await;
        self.polling = poll(event_loop, self.settings.clone());
        if let Event::Connected { packet_max_bytes: Some(max), .. } = &event {
            self.packet_max_bytes = PACKET_MAX_BYTES.min(*max);
        }
        event
    }

    /// Hands a message over; [`Event::Written`] says when it is under way.
    pub fn publish(&self, message: &Message) -> Result<(), NotTaken> {
        let size = message.topic.len() + message.payload.len() + PACKET_OVERHEAD_BYTES;
        if size > self.packet_max_bytes {
            return Err(NotTaken::TooLarge(self.packet_max_bytes));
        }
        let taken = match &self.client {
            Client::V4(client) => v4::publish(client, message),
            Client::V5(client) => v5::publish(client, message),
        };
        if taken { Ok(()) } else { Err(NotTaken::Full) }
    }

    /// Subscribes to topics or filters. False when there was no room for the request.
    pub fn subscribe(&self, filters: &[String]) -> bool {
        match &self.client {
            _ if filters.is_empty() => true,
            Client::V4(client) => v4::subscribe(client, filters),
            Client::V5(client) => v5::subscribe(client, filters),
        }
    }

    /// Ends a subscription. False when there was no room for the request.
    pub fn unsubscribe(&self, filter: &str) -> bool {
        match &self.client {
            Client::V4(client) => client.try_unsubscribe(filter).is_ok(),
            Client::V5(client) => client.try_unsubscribe(filter).is_ok(),
        }
    }

    /// Says good-bye after what was handed over. False when there was no room for that: then it is to be tried
    /// again.
    pub fn disconnect(&self) -> bool {
        match &self.client {
            Client::V4(client) => client.try_disconnect().is_ok(),
            Client::V5(client) => client.try_disconnect().is_ok(),
        }
    }
}

/// One step, which gives the event loop back.
fn poll(event_loop: Loop, settings: Arc<MqttSettings>) -> Polling {
    Box::pin(async move {
        match event_loop {
            Loop::V4(mut event_loop) => {
                let event = v4::next(&mut event_loop, &settings).await;
                (Loop::V4(event_loop), event)
            }
            Loop::V5(mut event_loop) => {
                let event = v5::next(&mut event_loop, &settings).await;
                (Loop::V5(event_loop), event)
            }
        }
    })
}

/// The keep-alive that the broker is told. Shorter than the one that was asked for, because brokers look for dead
/// connections only now and then (mosquitto 2.0 every 5 to 6 s, measured): so that the last will comes within one
/// and a half times the keep-alive of the configuration, from 15 s on.
fn announced_keep_alive(settings: &MqttSettings) -> Duration {
    settings.keep_alive * 2 / 3
}

/// An event about the end.
fn lost(fault: &Fault<'_>, settings: &MqttSettings) -> Event {
    Event::Lost { reason: fault.reason(), text: fault.explain(settings) }
}

/// For tests of those who use it: a connection that is never made.
#[cfg(test)]
impl Transport {
    pub(super) fn idle() -> Self {
        let will = Message { topic: "w".into(), payload: vec![], qos: 1, retain: true, expiry: None };
        Self::new(Arc::new(MqttSettings::plain("h", 1, "c")), &will, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Message {
        Message { topic: "t".into(), payload: vec![0; bytes], qos: 1, retain: false, expiry: None }
    }

    #[test]
    fn a_queue_is_bounded_and_so_is_a_packet() {
        let transport = Transport::idle();
        for _ in 0..HANDED_MAX {
            assert_eq!(transport.publish(&message(10)), Ok(()));
        }
        assert_eq!(transport.publish(&message(10)), Err(NotTaken::Full));
        let max = PACKET_MAX_BYTES;
        assert_eq!(transport.publish(&message(max)), Err(NotTaken::TooLarge(max)));
    }
}
