//! Sinks: what the outbox holds goes out to subscribers. Tokio tasks; they own their sockets.
//!
//! `message` is the only place that knows the JSON on the wire, `mqtt` the only one that knows rumqttc, `pace`
//! says which distances are worth sending.

pub mod announce;
pub mod discovery;
pub mod message;
pub mod mqtt;
pub mod pace;
pub mod trouble;

use std::time::Duration;

use crate::types::Secret;

/// How the broker is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttSettings {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User name, when the broker asks for one.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Client id; the broker throws out an older client with the same.
    pub client_id: String,
    /// How often the connection is proved; a broker silent for one and a half times as long is given up.
    pub keep_alive: Duration,
}
