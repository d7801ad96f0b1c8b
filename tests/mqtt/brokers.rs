//! Brokers that are not mosquitto. Those that are not on this machine print a skip.

use std::process::ChildStdin;

use standoff::publish::MqttVersion;

use super::versions::goes_both_ways;
use super::*;

fn settings(port: u16, version: MqttVersion) -> MqttSettings {
    MqttSettings {
        version,
        keep_alive: Duration::from_secs(5),
        ..MqttSettings::plain("127.0.0.1", port, "standoff-n")
    }
}

/// rumqttd, inside this process. It lives as long as the process.
#[cfg(feature = "demo")]
fn rumqttd(version: MqttVersion) -> u16 {
    use std::collections::HashMap;

    use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

    let port = free_port();
    let server = ServerSettings {
        name: "test".into(),
        listen: ([127, 0, 0, 1], port).into(),
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
    let servers = Some(HashMap::from([("test".to_owned(), server)]));
    let router = RouterConfig {
        max_connections: 16,
        max_outgoing_packet_count: 200,
        max_segment_size: 1 << 20,
        max_segment_count: 10,
        ..RouterConfig::default()
    };
    let config = match version {
        MqttVersion::V311 => Config { router, v4: servers, ..Config::default() },
        MqttVersion::V5 => Config { router, v5: servers, ..Config::default() },
    };
    std::thread::spawn(move || Broker::new(config).start().unwrap());
    await_port(port);
    port
}

fn await_port(port: u16) {
    for _ in 0..1000 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("the broker does not listen");
}

#[cfg(feature = "demo")]
#[tokio::test]
async fn rumqttd_takes_3_1_1() {
    let port = rumqttd(MqttVersion::V311);
    let subscriber = Subscriber::at(port, "s").await;
    goes_both_ways(settings(port, MqttVersion::V311), &subscriber).await;
}

/// rumqttd has a port for each version, so the sink is watched from its own side: what it says is acknowledged.
#[cfg(feature = "demo")]
#[tokio::test]
async fn rumqttd_takes_5() {
    let port = rumqttd(MqttVersion::V5);
    let sink = Sink::start(settings(port, MqttVersion::V5));
    sink.say(State::Clear);
    sink.push(40);
    until("all is acknowledged", || sink.outbox.waiting() == 0).await;
}

/// A broker of another house, killed when dropped. It ends with its standard input, too.
struct Other {
    child: Child,
    port: u16,
    _stdin: Option<ChildStdin>,
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Other {
    fn start(command: &mut Command, port: u16) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let other = Self { child, port, _stdin: stdin };
        await_port(port);
        other
    }
}

/// aedes (JavaScript), when the variable `STANDOFF_AEDES` names a folder in which `npm install aedes` was run.
#[tokio::test]
async fn aedes_takes_3_1_1() {
    let Ok(folder) = std::env::var("STANDOFF_AEDES") else {
        println!("SKIP: STANDOFF_AEDES names no folder with aedes in node_modules");
        return;
    };
    let port = free_port();
    let code = "const {Aedes} = require('aedes'); Aedes.createBroker().then(broker => \
                require('net').createServer(broker.handle).listen(Number(process.argv[1]), '127.0.0.1')); \
                process.stdin.resume().on('end', () => process.exit())";
    let mut command = Command::new("node");
    let aedes = Other::start(command.current_dir(folder).args(["-e", code, &port.to_string()]), port);
    let subscriber = Subscriber::at(aedes.port, "s").await;
    goes_both_ways(settings(aedes.port, MqttVersion::V311), &subscriber).await;
}

/// amqtt (Python), when the variable `STANDOFF_AMQTT_PYTHON` names a Python that has it.
#[tokio::test]
async fn amqtt_takes_3_1_1() {
    let Ok(python) = std::env::var("STANDOFF_AMQTT_PYTHON") else {
        println!("SKIP: STANDOFF_AMQTT_PYTHON names no Python with amqtt");
        return;
    };
    let port = free_port();
    let code = "import asyncio, sys\nfrom amqtt.broker import Broker\n\
                async def main():\n    broker = Broker({'listeners': {'default': {'type': 'tcp', 'bind': '127.0.0.1:' + sys.argv[1]}}, \
                'plugins': {'amqtt.plugins.authentication.AnonymousAuthPlugin': {'allow_anonymous': True}}})\n    \
                await broker.start()\n    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)\n\
                asyncio.run(main())";
    let amqtt = Other::start(Command::new(python).args(["-c", code, &port.to_string()]), port);
    let subscriber = Subscriber::at(amqtt.port, "s").await;
    goes_both_ways(settings(amqtt.port, MqttVersion::V311), &subscriber).await;
}
