//! Why there is no connection, in words that say what a person can do about it. Never contains a password.

use std::io;

use rustls::{AlertDescription, CertificateError, Error as TlsFault};

use super::CONNECT_TIMEOUT;
use crate::publish::{MqttSettings, MqttVersion};

/// What both versions of the protocol can run into.
#[derive(Debug)]
pub(super) enum Fault<'a> {
    /// User name, password or right are missing or wrong.
    Credentials,
    /// The broker does not want our client id.
    ClientId,
    /// It does not speak this version.
    Version,
    /// It has no time for us now.
    Busy,
    /// It refuses for another reason.
    Refused(String),
    /// It ended the connection and said why, with words of its own.
    SentAway(String, Option<&'a str>),
    /// Another client has our id.
    TakenOver,
    /// No answer while connecting.
    Timeout,
    /// It reads nothing any more.
    TakesNoMore,
    /// It answers nothing any more.
    Silent,
    /// It closed the connection without a word.
    Closed,
    /// It says what is not MQTT.
    NotMqtt(String),
    /// The network's word. Errors of TLS are in here too.
    Io(&'a io::Error),
    /// The network's word where TLS was to begin.
    Handshake(&'a io::Error),
    /// TLS failed.
    Tls(&'a TlsFault),
    /// Whatever else.
    Other(String),
}

impl Fault<'_> {
    /// The fault in one word.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::ClientId => "client_id",
            Self::Version => "version",
            Self::Busy => "busy",
            Self::Refused(_) => "refused",
            Self::SentAway(..) => "sent_away",
            Self::TakenOver => "taken_over",
            Self::Timeout => "timeout",
            Self::TakesNoMore | Self::Silent => "silent",
            Self::Closed => "closed",
            Self::NotMqtt(_) => "not_mqtt",
            Self::Io(error) if tls_fault(error).is_some() => "tls",
            Self::Handshake(_) => "tls",
            Self::Io(error) => match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                    "closed"
                }
                _ => "unreachable",
            },
            Self::Tls(_) => "tls",
            Self::Other(_) => "other",
        }
    }

    pub(super) fn explain(&self, settings: &MqttSettings) -> String {
        let MqttSettings { host, port, client_id, .. } = settings;
        match self {
            Self::Credentials => match &settings.username {
                Some(name) => format!(
                    "the broker refuses user '{name}': check mqtt.username and mqtt.password, and what it may do"
                ),
                None => "the broker wants a user name: set mqtt.username and mqtt.password".to_owned(),
            },
            Self::ClientId => {
                format!("the broker refuses the client id '{client_id}': set another mqtt.client_id")
            }
            Self::Version => format!(
                "the broker does not speak MQTT {}: set mqtt.version to {}",
                settings.version,
                settings.version.other()
            ),
            Self::Busy => "the broker is busy or shutting down".to_owned(),
            Self::Refused(code) => format!("the broker refuses the connection ({code})"),
            Self::SentAway(code, words) => {
                format!("the broker ended the connection ({code}){}", said(*words))
            }
            Self::TakenOver => format!(
                "another client connected with the id '{client_id}': each daemon needs its own mqtt.client_id"
            ),
            Self::Timeout => format!(
                "{host}:{port} did not answer within {} s: check mqtt.host and the network{}",
                CONNECT_TIMEOUT.as_secs(),
                // What an old broker answers to version 5 is shorter than version 5 has it: rumqttc waits for more.
                if settings.version == MqttVersion::V5 {
                    ", and whether the broker speaks MQTT 5"
                } else {
                    ""
                }
            ),
            Self::TakesNoMore => "the broker takes no more data".to_owned(),
            Self::Silent => "the broker does not answer any more".to_owned(),
            Self::Closed => closed(settings),
            Self::NotMqtt(error) => not_mqtt(error, settings),
            Self::Io(error) => explain_io(error, settings),
            Self::Handshake(error) => match tls_fault(error) {
                Some(error) => explain_tls(error, settings),
                None => format!(
                    "{host}:{port} ended the connection where TLS was to begin ({error}): is it the broker's TLS port (usually 8883)?"
                ),
            },
            Self::Tls(error) => explain_tls(error, settings),
            Self::Other(error) => format!("the connection to the broker failed: {error}"),
        }
    }
}

/// What a broker adds of its own accord, as one line.
fn said(words: Option<&str>) -> String {
    let line: String =
        words.unwrap_or_default().chars().filter(|letter| !letter.is_control()).take(200).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

fn closed(settings: &MqttSettings) -> String {
    let MqttSettings { client_id, .. } = settings;
    let mut text = format!(
        "the broker closed the connection; if this goes on, another client uses the id '{client_id}' or it is no MQTT broker"
    );
    text.push_str(match &settings.tls {
        None => ", or it wants TLS (mqtt.tls)",
        Some(tls) if tls.client.is_none() => ", or it wants a client certificate (mqtt.client_cert_file)",
        Some(_) => ", or it refuses our client certificate",
    });
    if settings.version == MqttVersion::V5 {
        text.push_str(", or it does not speak MQTT 5 (mqtt.version)");
    }
    text
}

fn not_mqtt(error: &str, settings: &MqttSettings) -> String {
    let MqttSettings { host, port, version, .. } = settings;
    let hint = if settings.tls.is_none() { "; if it wants TLS, set mqtt.tls" } else { "" };
    format!("what answers at {host}:{port} does not speak MQTT {version} ({error}){hint}")
}

/// What rustls packs into an error of the network.
fn tls_fault(error: &io::Error) -> Option<&TlsFault> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<TlsFault>())
}

fn explain_io(error: &io::Error, settings: &MqttSettings) -> String {
    let MqttSettings { host, port, .. } = settings;
    if let Some(error) = tls_fault(error) {
        return explain_tls(error, settings);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!(
            "nothing listens at {host}:{port}: is the broker running, are mqtt.host and mqtt.port right?"
        ),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            closed(settings)
        }
        _ => format!("{host}:{port} cannot be reached: {error}"),
    }
}

fn explain_tls(error: &TlsFault, settings: &MqttSettings) -> String {
    let MqttSettings { host, port, .. } = settings;
    let ca_file = settings.tls.as_ref().and_then(|tls| tls.ca_file.as_ref());
    match error {
        TlsFault::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => match ca_file {
                Some(path) => format!(
                    "the certificate of {host}:{port} is not signed by mqtt.ca_file ({})",
                    path.display()
                ),
                None => format!(
                    "the certificate of {host}:{port} is signed by nobody whom this machine trusts: set mqtt.ca_file"
                ),
            },
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!(
                "the certificate of {host}:{port} has expired (or the clock of this machine is wrong)"
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => format!(
                "the certificate of {host}:{port} is not valid yet (or the clock of this machine is wrong)"
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
                "the certificate of {host}:{port} is for another name: mqtt.host must be a name that stands in it"
            ),
            other => format!("the certificate of {host}:{port} is not accepted: {other}"),
        },
        TlsFault::AlertReceived(alert) => {
            let has_certificate = settings.tls.as_ref().is_some_and(|tls| tls.client.is_some());
            match alert {
                AlertDescription::ProtocolVersion => {
                    format!("{host}:{port} speaks no version of TLS that is accepted (1.2 or 1.3)")
                }
                _ if !has_certificate => format!(
                    "{host}:{port} refuses the TLS connection ({alert:?}): it probably wants a client certificate (mqtt.client_cert_file and mqtt.client_key_file)"
                ),
                _ => format!("{host}:{port} refuses our client certificate ({alert:?})"),
            }
        }
        TlsFault::InvalidMessage(_) => format!(
            "what answers at {host}:{port} does not speak TLS: is it the broker's TLS port (usually 8883)?"
        ),
        other => format!("TLS with {host}:{port} failed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Secret;

    #[test]
    fn what_went_wrong_is_said_without_the_password() {
        let settings = MqttSettings {
            username: Some("me".into()),
            password: Some(Secret::new("hunter2")),
            ..MqttSettings::plain("broker", 1883, "standoff-x")
        };
        let text = Fault::Credentials.explain(&settings);
        assert!(text.contains("refuses user 'me'") && !text.contains("hunter2"), "{text}");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let text = Fault::Io(&refused).explain(&settings);
        assert!(text.starts_with("nothing listens at broker:1883"), "{text}");
        assert!(Fault::Timeout.explain(&settings).contains("broker:1883 did not answer within 5 s"));
        assert!(Fault::Version.explain(&settings).contains("speak MQTT 3.1.1: set mqtt.version to 5"));
    }

    #[test]
    fn what_a_broker_says_stays_one_short_line() {
        let settings = MqttSettings::plain("broker", 1883, "c");
        let words = format!("two\nlines{}", "x".repeat(500));
        let text = Fault::SentAway("banned".into(), Some(&words)).explain(&settings);
        assert!(!text.contains('\n') && text.len() < 300, "{text}");
    }
}
