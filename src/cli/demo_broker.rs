//! The broker of the demo (rumqttd), and a subscriber that listens to it as anybody's would.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::Context;
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

/// Starts a broker on a free port of this machine and returns its port. It lives as long as the process.
pub fn start() -> anyhow::Result<u16> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|probe| probe.local_addr())?.port();
    let server = ServerSettings {
        name: "demo".into(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 5000,
            max_payload_size: 1 << 20,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    let config = Config {
        router: RouterConfig {
            max_connections: 16,
            max_outgoing_packet_count: 200,
            max_segment_size: 1 << 20,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("demo".into(), server)])),
        ..Config::default()
    };
    let mut broker = Broker::new(config);
    std::thread::Builder::new().name("demo-broker".into()).spawn(move || {
        if let Err(error) = broker.start() {
            tracing::error!(%error, "the demo's broker failed");
        }
    })?;
    Ok(port)
}

/// What came on a topic.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Listens to everything below `standoff/<node>/`, until the receiver is dropped.
pub fn listen(host: &str, port: u16, node: &str) -> anyhow::Result<Receiver<Heard>> {
    let (sender, receiver) = channel();
    let mut options = MqttOptions::new(format!("standoff-demo-listener-{}", std::process::id()), host, port);
    options.set_keep_alive(Duration::from_secs(5)).set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut connection) = Client::new(options, 64);
    let filter = format!("standoff/{node}/#");
    std::thread::Builder::new()
        .name("demo-listener".into())
        .spawn(move || {
            for event in connection.iter() {
                if !forward(event, &client, &filter, &sender) {
                    return;
                }
            }
        })
        .context("the demo's subscriber cannot be started")?;
    Ok(receiver)
}

/// False when nobody listens any more.
fn forward(
    event: Result<Event, rumqttc::ConnectionError>,
    client: &Client,
    filter: &str,
    sender: &Sender<Heard>,
) -> bool {
    match event {
        Ok(Event::Incoming(Packet::ConnAck(_))) => client.subscribe(filter, QoS::AtLeastOnce).is_ok(),
        Ok(Event::Incoming(Packet::Publish(message))) => {
            sender.send(Heard { topic: message.topic, payload: message.payload.to_vec() }).is_ok()
        }
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, "the demo's subscriber tries again");
            // The broker may still be starting.
            std::thread::park_timeout(Duration::from_millis(200));
            true
        }
    }
}
