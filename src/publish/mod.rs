//! Sinks: what the outbox holds goes out to subscribers. Tokio tasks; they own their sockets.
//!
//! `message` is the only place that knows the JSON on the wire, `transport` the only one that knows rumqttc,
//! `intake` says for whom a message is that comes in, `pace` which distances are worth sending. `modbus` serves a PLC,
//! `webhook` posts events.

pub mod announce;
pub mod command;
pub mod discovery;
pub mod herald;
pub mod intake;
mod link;
pub mod message;
pub mod modbus;
pub mod mqtt;
pub mod pace;
pub mod tls;
pub mod transport;
pub mod trouble;
pub mod webhook;

use std::fmt;
use std::time::Duration;

use crate::types::Secret;
use tls::TlsSettings;

/// Version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MqttVersion {
    /// 3.1.1, which every broker speaks.
    #[default]
    V311,
    /// 5, in which old states expire in the broker and refusals have reasons.
    V5,
}

impl MqttVersion {
    /// The one that may work when this one does not.
    pub fn other(self) -> Self {
        match self {
            Self::V311 => Self::V5,
            Self::V5 => Self::V311,
        }
    }
}

impl fmt::Display for MqttVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        })
    }
}

/// How the broker is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttSettings {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Version of the protocol.
    pub version: MqttVersion,
    /// How the connection is encrypted, if it is.
    pub tls: Option<TlsSettings>,
    /// User name, when the broker asks for one.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Client id; the broker throws out an older client with the same.
    pub client_id: String,
    /// How often the connection is proved; a broker silent for one and a half times as long is given up.
    pub keep_alive: Duration,
    /// Whether rules may be acknowledged, shelved, switched off and set over the broker.
    pub allow_remote_control: bool,
}

impl MqttSettings {
    /// MQTT 3.1.1 without password and encryption.
    pub fn plain(host: &str, port: u16, client_id: &str) -> Self {
        Self {
            host: host.to_owned(),
            port,
            version: MqttVersion::V311,
            tls: None,
            username: None,
            password: None,
            client_id: client_id.to_owned(),
            keep_alive: Duration::from_secs(15),
            allow_remote_control: false,
        }
    }
}
