//! Modbus TCP by bare frames: transaction, protocol 0, length, unit, function, data; big-endian.

use std::collections::BTreeMap;

use standoff::clock;
use standoff::heartbeat::{Heart, Part, Pulse};
use standoff::publish::modbus::{self, ModbusSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

/// A server whose rule `edge` of camera `dock` has the address 7, and a pipeline to move it.
struct Served {
    address: SocketAddr,
    outbox: Arc<Outbox>,
    infer: Pulse,
    analysis: Pulse,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Served {
    fn start() -> Self {
        let address = free_address();
        let rule = (CameraId::new("dock").unwrap(), RuleId::new("edge").unwrap());
        let settings = ModbusSettings { listen: address, rules: BTreeMap::from([(7, rule)]) };
        let (outbox, heart) = (Arc::new(Outbox::default()), Arc::new(Heart::default()));
        let (shutdown, stopped) = watch::channel(false);
        let now = clock::monotonic();
        let (infer, analysis) = (heart.pulse(Part::Infer, now), heart.pulse(Part::Analysis, now));
        let task = modbus::spawn(settings, outbox.clone(), heart, stopped);
        Self { address, outbox, infer, analysis, shutdown, task }
    }

    fn beat(&self) {
        let now = clock::monotonic();
        self.infer.beat(now);
        self.analysis.beat(now);
    }

    async fn client(&self) -> TcpStream {
        let mut found = None;
        for _ in 0..500 {
            found = TcpStream::connect(self.address).await.ok();
            if found.is_some() {
                break;
            }
            tokio::time::interval(Duration::from_millis(10)).tick().await;
        }
        found.expect("the server listens")
    }
}

/// Sends a request and reads the answer's function and data.
async fn ask(client: &mut TcpStream, pdu: &[u8]) -> Option<Vec<u8>> {
    let length = u8::try_from(pdu.len() + 1).unwrap();
    let mut frame = vec![0xAB, 0xCD, 0, 0, 0, length, 1];
    frame.extend(pdu);
    client.write_all(&frame).await.ok()?;
    let mut head = [0; 7];
    timeout(DEADLINE, client.read_exact(&mut head)).await.expect("an answer or an end").ok()?;
    assert_eq!((&head[..4], head[6]), (&[0xAB, 0xCD, 0, 0][..], 1), "transaction and unit come back");
    let mut pdu = vec![0; usize::from(u16::from_be_bytes([head[4], head[5]])) - 1];
    client.read_exact(&mut pdu).await.ok()?;
    Some(pdu)
}

/// Coil 7.
async fn coil(client: &mut TcpStream) -> bool {
    let answer = ask(client, &[1, 0, 7, 0, 1]).await.unwrap();
    assert_eq!(answer[..2], [1, 1]);
    answer[2] & 1 == 1
}

async fn registers(client: &mut TcpStream, from: u8, count: u8) -> Vec<u16> {
    let answer = ask(client, &[4, 0, from, 0, count]).await.unwrap();
    assert_eq!(answer[..2], [4, count * 2]);
    answer[2..].chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
}

#[tokio::test]
async fn a_coil_follows_clear_and_drops_when_nothing_is_said_or_nothing_moves() {
    let served = Served::start();
    let mut client = served.client().await;
    assert!(!coil(&mut client).await, "0 at the start");
    let mut ts = 0;
    let mut lives = |state: State| {
        ts += 1;
        say(&served.outbox, state, ts);
        served.beat();
    };
    let wait_for = async |client: &mut TcpStream, wanted: bool, live: &mut dyn FnMut()| {
        for _ in 0..500 {
            live();
            if coil(client).await == wanted {
                return;
            }
            timeout(Duration::from_millis(20), std::future::pending::<()>()).await.unwrap_err();
        }
        panic!("the coil never became {wanted}");
    };
    wait_for(&mut client, true, &mut || lives(State::Clear)).await;
    assert_eq!(registers(&mut client, 170, 2).await, [1, 1]);
    wait_for(&mut client, false, &mut || lives(State::Warning)).await;
    assert_eq!(registers(&mut client, 170, 2).await, [2, 1]);
    wait_for(&mut client, true, &mut || lives(State::Clear)).await;
    // It beats but says nothing any more: the statement grows old.
    wait_for(&mut client, false, &mut || served.beat()).await;
    wait_for(&mut client, true, &mut || lives(State::Clear)).await;
    // It says something but does not move: whoever says it, it is not the analysis.
    let mut ts = 1_000_000;
    wait_for(&mut client, false, &mut || {
        ts += 1;
        say(&served.outbox, State::Clear, ts);
    })
    .await;
}

#[tokio::test]
async fn the_heartbeat_stops_with_the_inference() {
    let served = Served::start();
    let mut client = served.client().await;
    let before = registers(&mut client, 1, 1).await[0];
    for _ in 0..500 {
        served.beat();
        if registers(&mut client, 1, 1).await[0] >= before + 3 {
            break;
        }
        timeout(Duration::from_millis(20), std::future::pending::<()>()).await.unwrap_err();
    }
    let moved = registers(&mut client, 1, 1).await[0];
    assert!(moved >= before + 3, "{before} to {moved}");
    // Only the analysis goes on. The round that was under way may still be counted.
    for _ in 0..40 {
        served.analysis.beat(clock::monotonic());
        timeout(Duration::from_millis(20), std::future::pending::<()>()).await.unwrap_err();
    }
    let stopped = registers(&mut client, 1, 1).await[0];
    assert!(stopped <= moved + 1, "{moved} to {stopped}");
    assert!(registers(&mut client, 2, 1).await[0] >= 500, "and the silence is told");
}

#[tokio::test]
async fn nothing_can_be_written_and_what_is_not_there_is_refused() {
    let served = Served::start();
    let mut client = served.client().await;
    for (request, answer) in [
        (&[5, 0, 7, 0xFF, 0][..], [0x85, 1]),
        (&[6, 0, 0, 0, 1], [0x86, 1]),
        (&[15, 0, 7, 0, 1, 1, 1], [0x8F, 1]),
        (&[16, 0, 0, 0, 1, 2, 0, 1], [0x90, 1]),
        (&[1, 0, 0, 0, 0], [0x81, 3]),
        (&[4, 0, 0, 0, 126], [0x84, 3]),
        (&[1, 0x03, 0xE8, 0, 1], [0x81, 2]),
        (&[3, 0xFF, 0xFF, 0, 1], [0x83, 2]),
    ] {
        assert_eq!(ask(&mut client, request).await.unwrap(), answer, "{request:?}");
    }
    assert_eq!(registers(&mut client, 0, 1).await, [1], "and the client goes on");
    assert_eq!(ask(&mut client, &[2, 0, 0, 0, 16]).await.unwrap(), [2, 2, 0, 0], "discrete inputs too");
}

#[tokio::test]
async fn clients_are_few_and_the_slow_and_the_wrong_harm_no_other() {
    let served = Served::start();
    let mut clients = vec![];
    for _ in 0..8 {
        let mut client = served.client().await;
        assert!(ask(&mut client, &[4, 0, 0, 0, 1]).await.is_some());
        clients.push(client);
    }
    let mut ninth = served.client().await;
    assert_eq!(ask(&mut ninth, &[4, 0, 0, 0, 1]).await, None, "turned away");
    // One asks and never reads, one sends what is no Modbus.
    let flood: Vec<u8> = [0, 1, 0, 0, 0, 6, 1, 4, 0, 0, 0, 125].repeat(20_000);
    let mut slow = clients.pop().unwrap();
    let _ = timeout(Duration::from_millis(500), slow.write_all(&flood)).await;
    let mut wrong = clients.pop().unwrap();
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    for client in &mut clients {
        assert!(ask(client, &[4, 0, 0, 0, 1]).await.is_some());
    }
    drop((slow, wrong));
    until("there is room again", async || {
        let mut next = served.client().await;
        ask(&mut next, &[4, 0, 0, 0, 1]).await.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_stopping_daemon_closes_its_connections() {
    let mut served = Served::start();
    let mut client = served.client().await;
    assert!(!coil(&mut client).await);
    served.shutdown.send_replace(true);
    timeout(Duration::from_secs(5), &mut served.task).await.expect("ends in time").unwrap();
    assert_eq!(ask(&mut client, &[1, 0, 7, 0, 1]).await, None, "a PLC sees the connection end");
}
