//! MQTT 5 by rumqttc. What the broker allows (packet size, messages on their way, keep-alive) is respected by
//! rumqttc itself; the packet size also by [`super::Transport`], because rumqttc would break the connection.

use std::sync::Arc;

use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, ConnectReturnCode, DisconnectReasonCode, Filter, LastWill, PubAckReason,
    PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error as PacketError, QoS};
use rumqttc::v5::{AsyncClient, ConnectionError, Event as Raw, EventLoop, Incoming, MqttOptions, StateError};
use rumqttc::{Outgoing, TlsConfiguration, TlsError};

use super::fault::Fault;
use super::{
    CONNECT_TIMEOUT, Event, HANDED_MAX, PACKET_MAX_BYTES, SESSION_EXPIRY, UNACKNOWLEDGED_MAX,
    V5_KEEP_ALIVE_MIN, announced_keep_alive, lost,
};
use crate::publish::MqttSettings;
use crate::publish::message::Message;

pub(super) fn client(
    settings: &MqttSettings,
    will: &Message,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> (AsyncClient, EventLoop) {
    let will = LastWill::new(&will.topic, will.payload.clone(), qos(will.qos), will.retain, None);
    let properties = ConnectProperties {
        session_expiry_interval: u32::try_from(SESSION_EXPIRY.as_secs()).ok(),
        max_packet_size: u32::try_from(PACKET_MAX_BYTES).ok(),
        ..ConnectProperties::new()
    };
    let mut options = MqttOptions::new(&settings.client_id, &settings.host, settings.port);
    options
        .set_keep_alive(announced_keep_alive(settings).max(V5_KEEP_ALIVE_MIN))
        .set_clean_start(false)
        .set_connect_properties(properties)
        .set_outgoing_inflight_upper_limit(UNACKNOWLEDGED_MAX)
        .set_connection_timeout(CONNECT_TIMEOUT.as_secs())
        .set_last_will(will);
    if let Some(username) = &settings.username {
        let password = settings.password.as_ref().map_or("", |password| password.reveal());
        options.set_credentials(username, password);
    }
    if let Some(tls) = tls {
        options.set_transport(rumqttc::Transport::Tls(TlsConfiguration::Rustls(tls)));
    }
    AsyncClient::new(options, HANDED_MAX)
}

fn qos(level: u8) -> QoS {
    if level == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}

pub(super) fn publish(client: &AsyncClient, message: &Message) -> bool {
    let Message { topic, payload, qos: level, retain, expiry } = message;
    // Whole seconds, rounded up: 0 would mean that it has expired.
    let seconds = expiry.map(|expiry| u32::try_from(expiry.as_millis().div_ceil(1000)).unwrap_or(u32::MAX));
    let properties = PublishProperties { message_expiry_interval: seconds, ..PublishProperties::default() };
    client.try_publish_with_properties(topic, qos(*level), *retain, payload.clone(), properties).is_ok()
}

pub(super) fn subscribe(client: &AsyncClient, filters: &[String]) -> bool {
    let filter = |filter: &String| Filter::new(filter.clone(), QoS::AtMostOnce);
    client.try_subscribe_many(filters.iter().map(filter)).is_ok()
}

pub(super) async fn next(event_loop: &mut EventLoop, settings: &MqttSettings) -> Event {
    match event_loop.poll().await {
        Ok(event) => {
            // A broker may ask for no keep-alive at all. rumqttc would then ping without a pause, and we want
            // to know when the broker is gone.
            if event_loop.options.keep_alive().is_zero() {
                event_loop.options.set_keep_alive(announced_keep_alive(settings).max(V5_KEEP_ALIVE_MIN));
            }
            translated(event)
        }
        Err(error) => lost(&fault(&error), settings),
    }
}

fn translated(event: Raw) -> Event {
    match event {
        Raw::Incoming(Incoming::ConnAck(ack)) => Event::Connected {
            session_present: ack.session_present,
            packet_max_bytes: ack
                .properties
                .and_then(|properties| properties.max_packet_size)
                .and_then(|max| usize::try_from(max).ok()),
        },
        Raw::Incoming(Incoming::PubAck(ack)) => match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Event::Acknowledged(ack.pkid),
            reason => Event::Refused(ack.pkid, words(&reason)),
        },
        Raw::Incoming(Incoming::Publish(publish)) => Event::Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload.to_vec(),
            retained: publish.retain,
        },
        Raw::Incoming(Incoming::SubAck(ack)) => {
            let bad = |code: &&SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
            match ack.return_codes.iter().find(bad) {
                Some(code) => Event::SubscribeRefused(words(code)),
                None => Event::Heard,
            }
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
        ConnectionError::ConnectionRefused(code) => refused(*code),
        ConnectionError::Timeout(_) => Fault::Timeout,
        ConnectionError::Tls(TlsError::Io(error)) => Fault::Handshake(error),
        ConnectionError::Io(error) => Fault::Io(error),
        ConnectionError::Tls(TlsError::TLS(error)) => Fault::Tls(error),
        ConnectionError::MqttState(error) => match error {
            StateError::Io(error) | StateError::Deserialization(PacketError::Io(error)) => Fault::Io(error),
            StateError::ConnectionAborted => Fault::Closed,
            StateError::AwaitPingResp | StateError::CollisionTimeout => Fault::Silent,
            StateError::ConnFail { reason } => refused(*reason),
            StateError::ServerDisconnect { reason_code, reason_string } => match reason_code {
                DisconnectReasonCode::SessionTakenOver => Fault::TakenOver,
                DisconnectReasonCode::NotAuthorized => Fault::Credentials,
                DisconnectReasonCode::ServerBusy | DisconnectReasonCode::ServerShuttingDown => Fault::Busy,
                code => Fault::SentAway(words(code), reason_string.as_deref()),
            },
            StateError::Deserialization(error) => Fault::NotMqtt(format!("{error:?}")),
            other => Fault::Other(other.to_string()),
        },
        ConnectionError::NotConnAck(_) => Fault::NotMqtt("its first word is not CONNACK".to_owned()),
        other => Fault::Other(other.to_string()),
    }
}

fn refused(code: ConnectReturnCode) -> Fault<'static> {
    match code {
        ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => Fault::Credentials,
        ConnectReturnCode::BadClientId | ConnectReturnCode::ClientIdentifierNotValid => Fault::ClientId,
        ConnectReturnCode::RefusedProtocolVersion | ConnectReturnCode::UnsupportedProtocolVersion => {
            Fault::Version
        }
        ConnectReturnCode::ServiceUnavailable
        | ConnectReturnCode::ServerUnavailable
        | ConnectReturnCode::ServerBusy
        | ConnectReturnCode::ConnectionRateExceeded => Fault::Busy,
        code => Fault::Refused(words(&code)),
    }
}

/// The name of a reason code as words: `QuotaExceeded` becomes "quota exceeded".
fn words(code: &impl std::fmt::Debug) -> String {
    let mut words = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_codes_read_as_words() {
        assert_eq!(words(&PubAckReason::QuotaExceeded), "quota exceeded");
        assert_eq!(words(&ConnectReturnCode::Banned), "banned");
    }

    #[test]
    fn refusals_are_told_apart() {
        let settings = MqttSettings::plain("broker", 1883, "standoff-x");
        let text = |code| fault(&ConnectionError::ConnectionRefused(code)).explain(&settings);
        assert!(text(ConnectReturnCode::NotAuthorized).contains("wants a user name"));
        assert!(text(ConnectReturnCode::ClientIdentifierNotValid).contains("client id 'standoff-x'"));
        assert!(text(ConnectReturnCode::ServerBusy).contains("busy"));
        assert!(text(ConnectReturnCode::QuotaExceeded).contains("quota exceeded"));
        assert!(text(ConnectReturnCode::UnsupportedProtocolVersion).contains("mqtt.version"));
        let away = |reason_code| {
            let error = StateError::ServerDisconnect { reason_code, reason_string: Some("too loud".into()) };
            fault(&ConnectionError::MqttState(error)).explain(&settings)
        };
        assert!(away(DisconnectReasonCode::SessionTakenOver).contains("another client"));
        let text = away(DisconnectReasonCode::MessageRateTooHigh);
        assert!(text.contains("message rate too high") && text.contains("too loud"), "{text}");
    }
}
