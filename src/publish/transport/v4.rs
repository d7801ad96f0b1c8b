//! MQTT 3.1.1 by rumqttc.

use std::sync::Arc;

use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event as Raw, EventLoop, Incoming, LastWill,
    MqttOptions, Outgoing, QoS, StateError, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, TlsError,
};

use super::fault::Fault;
use super::{
    CONNECT_TIMEOUT, Event, HANDED_MAX, PACKET_MAX_BYTES, UNACKNOWLEDGED_MAX, announced_keep_alive, lost,
};
use crate::publish::MqttSettings;
use crate::publish::message::Message;

pub(super) fn client(
    settings: &MqttSettings,
    will: &Message,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> (AsyncClient, EventLoop) {
    let will = LastWill::new(&will.topic, will.payload.clone(), qos(will.qos), will.retain);
    let mut options = MqttOptions::new(&settings.client_id, &settings.host, settings.port);
    options
        .set_keep_alive(announced_keep_alive(settings).max(std::time::Duration::from_secs(1)))
        // An empty client id, which the configuration forbids, allows no session.
        .set_clean_session(settings.client_id.is_empty())
        .set_inflight(UNACKNOWLEDGED_MAX)
        .set_max_packet_size(PACKET_MAX_BYTES, PACKET_MAX_BYTES)
        .set_last_will(will);
    if let Some(username) = &settings.username {
        let password = settings.password.as_ref().map_or("", |password| password.reveal());
        options.set_credentials(username, password);
    }
    if let Some(tls) = tls {
        options.set_transport(rumqttc::Transport::Tls(TlsConfiguration::Rustls(tls)));
    }
    let (client, mut event_loop) = AsyncClient::new(options, HANDED_MAX);
    event_loop.network_options.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
    (client, event_loop)
}

fn qos(level: u8) -> QoS {
    if level == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}

pub(super) fn publish(client: &AsyncClient, message: &Message) -> bool {
    let Message { topic, payload, qos: level, retain, .. } = message;
    client.try_publish(topic, qos(*level), *retain, payload.clone()).is_ok()
}

pub(super) fn subscribe(client: &AsyncClient, filters: &[String]) -> bool {
    let filter = |filter: &String| SubscribeFilter::new(filter.clone(), QoS::AtMostOnce);
    client.try_subscribe_many(filters.iter().map(filter)).is_ok()
}

pub(super) async fn next(event_loop: &mut EventLoop, settings: &MqttSettings) -> Event {
    match event_loop.poll().await {
        Ok(event) => translated(event),
        Err(error) => lost(&fault(&error), settings),
    }
}

fn translated(event: Raw) -> Event {
    match event {
        Raw::Incoming(Incoming::ConnAck(ack)) => {
            Event::Connected { session_present: ack.session_present, packet_max_bytes: None }
        }
        Raw::Incoming(Incoming::PubAck(ack)) => Event::Acknowledged(ack.pkid),
        Raw::Incoming(Incoming::Publish(publish)) => Event::Message {
            topic: publish.topic,
            payload: publish.payload.to_vec(),
            retained: publish.retain,
        },
        Raw::Incoming(Incoming::SubAck(ack)) if ack.return_codes.contains(&SubscribeReasonCode::Failure) => {
            Event::SubscribeRefused("it gives no reason".to_owned())
        }
        Raw::Incoming(_) => Event::Heard,
        Raw::Outgoing(Outgoing::Publish(id)) => Event::Written(id),
        Raw::Outgoing(Outgoing::PingReq) => Event::Asked,
        Raw::Outgoing(Outgoing::Disconnect) => Event::Left,
        Raw::Outgoing(_) => Event::Other,
    }
}

fn fault(error: &ConnectionError) -> Fault<'_> {
    match error {
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => Fault::Credentials,
            ConnectReturnCode::BadClientId => Fault::ClientId,
            ConnectReturnCode::RefusedProtocolVersion => Fault::Version,
            ConnectReturnCode::ServiceUnavailable => Fault::Busy,
            ConnectReturnCode::Success => Fault::Refused(format!("{code:?}")),
        },
        ConnectionError::NetworkTimeout => Fault::Timeout,
        ConnectionError::FlushTimeout => Fault::TakesNoMore,
        ConnectionError::Tls(TlsError::Io(error)) => Fault::Handshake(error),
        ConnectionError::Io(error) => Fault::Io(error),
        ConnectionError::Tls(TlsError::TLS(error)) => Fault::Tls(error),
        ConnectionError::MqttState(error) => match error {
            StateError::Io(error) | StateError::Deserialization(PacketError::Io(error)) => Fault::Io(error),
            StateError::ConnectionAborted => Fault::Closed,
            StateError::AwaitPingResp | StateError::CollisionTimeout => Fault::Silent,
            StateError::Deserialization(error) => Fault::NotMqtt(format!("{error:?}")),
            other => Fault::Other(other.to_string()),
        },
        ConnectionError::NotConnAck(_) => Fault::NotMqtt("its first word is not CONNACK".to_owned()),
        other => Fault::Other(other.to_string()),
    }
}
