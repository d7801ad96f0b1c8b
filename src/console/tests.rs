use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;
use crate::clock::UtcMillis;
use crate::heartbeat::Part;
use crate::outbox::Statement;
use crate::types::{CameraId, CameraState, CameraStatus, Reason, RunsOn, ViewStatus};

/// A server on a port of its own, which ends with the test.
struct Server {
    address: SocketAddr,
    outbox: Arc<Outbox>,
    heart: Arc<Heart>,
    backend: Arc<OnceLock<RunsOn>>,
    _stop: watch::Sender<bool>,
    _runtime: tokio::runtime::Runtime,
}

fn server() -> Server {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (stop, shutdown) = watch::channel(false);
    let outbox = Arc::new(Outbox::default());
    let heart = Arc::new(Heart::default());
    let backend = Arc::new(OnceLock::new());
    let wiring = Wiring { heart: heart.clone(), outbox: outbox.clone(), backend: backend.clone() };
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _guard = runtime.enter();
    spawn(address, wiring, shutdown);
    drop(_guard);
    let server = Server { address, outbox, heart, backend, _stop: stop, _runtime: runtime };
    let by = clock::monotonic() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        assert!(clock::monotonic() < by, "the console does not listen");
        std::thread::yield_now();
    }
    server
}

impl Server {
    /// What comes back for these bytes, until the server hangs up or has said everything.
    fn send(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // The server may hang up before all of it is taken.
        let _ = stream.write_all(request);
        let mut answer = vec![];
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(&self, path: &str) -> (u16, String) {
        let answer =
            self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes());
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

fn camera(state: CameraState, reason: Option<Reason>) -> Statement {
    Statement::Camera(CameraStatus {
        camera: CameraId::new("dock").unwrap(),
        state,
        reason,
        detail: String::new(),
        analysed_fps: 0.0,
        frame_age_s: None,
        dropped: 0,
        connects: 1,
        view: ViewStatus::default(),
        ts: UtcMillis(0),
    })
}

#[test]
fn healthz_follows_the_signs_of_life() {
    let server = server();
    assert_eq!(server.get("/healthz").0, 200);
    let now = clock::monotonic();
    let pulse = server.heart.pulse(Part::Analysis, now);
    let (status, body) = server.get("/healthz");
    assert!(status == 200 && body.contains(r#""part":"analysis""#), "{body}");
    // Silent for longer than its patience.
    pulse.beat(now.minus(Duration::from_secs(3600)));
    let (status, body) = server.get("/healthz");
    assert!(status == 503 && body.contains("'analysis' has not moved"), "{body}");
}

#[test]
fn readyz_says_what_is_missing_and_a_failed_camera_is_no_reason() {
    let server = server();
    let (status, body) = server.get("/readyz");
    assert!(status == 503 && body.contains("the model is not loaded yet"), "{body}");
    let cpu = RunsOn { name: "cpu".into(), problem: Some("no GPU".into()) };
    server.backend.set(cpu.clone()).unwrap();
    let (_, body) = server.get("/readyz");
    assert!(body.contains(r#""backend":"cpu","backend_problem":"no GPU""#), "{body}");
    let by_hand = |broker, statement: Statement| health::ready(Some(&cpu), broker, &[statement]);
    assert!(by_hand(true, camera(CameraState::Live, None)).ready);
    assert!(!by_hand(false, camera(CameraState::Live, None)).ready);
    assert!(!by_hand(true, camera(CameraState::Connecting, Some(Reason::Connecting))).ready);
    assert!(by_hand(true, camera(CameraState::Refused, Some(Reason::AuthFailed))).ready);
    server.outbox.say(camera(CameraState::Connecting, Some(Reason::Starting)));
    let (status, body) = server.get("/readyz");
    assert!(status == 503 && body.contains("camera 'dock' is being connected"), "{body}");
}

/// Reads OpenMetrics far enough to know that every sample belongs to a declared family and has a number.
fn families(text: &str) -> std::collections::BTreeMap<String, usize> {
    let mut families = std::collections::BTreeMap::new();
    let mut current = String::new();
    let body = text.strip_suffix("# EOF\n").expect("the text ends as it must");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            current = rest.split(' ').next().unwrap().to_owned();
            assert!(families.insert(current.clone(), 0).is_none(), "{current} twice");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert!(name.starts_with(&current), "{line} is not of {current}");
            value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
            *families.get_mut(&current).unwrap() += 1;
        }
    }
    families
}

#[test]
fn metrics_can_be_read() {
    let server = server();
    METRICS.stage_took("backbone", Duration::from_millis(250));
    let (status, body) = server.get("/metrics");
    assert_eq!(status, 200);
    let families = families(&body);
    assert!(families["standoff_stage_seconds"] >= 16, "{families:?}");
    assert!(families["standoff_process_memory_bytes"] == 1, "{families:?}");
    let head = server.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").to_lowercase();
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
}

#[test]
fn only_what_is_offered_is_answered() {
    let server = server();
    assert_eq!(server.get("/").0, 404);
    assert_eq!(server.get("/metrics/x").0, 404);
    for method in ["POST", "PUT", "DELETE"] {
        let request = format!(
            "{method} /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nconnection: close\r\n\r\nabcd"
        );
        assert!(server.send(request.as_bytes()).starts_with("HTTP/1.1 405"), "{method}");
    }
    assert!(server.send(b"GET / HTTP/9.9\r\n\r\n").starts_with("HTTP/1.1 4"));
    assert!(!server.send(b"\x16\x03\x01\x02\x00").contains("200 OK"));
}

#[test]
fn what_is_too_large_or_too_slow_is_hung_up_on_and_others_are_served() {
    let server = server();
    let header = format!(
        "GET /metrics HTTP/1.1\r\nhost: x\r\nx-long: {}\r\nconnection: close\r\n\r\n",
        "a".repeat(10_000)
    );
    assert!(server.send(header.as_bytes()).starts_with("HTTP/1.1 431"));
    let endless = [b"GET /metrics HTTP/1.1\r\nhost: x\r\nx-endless: ".to_vec(), vec![b'a'; 1 << 20]].concat();
    assert!(!server.send(&endless).contains("200 OK"));
    let body = format!("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", u64::MAX / 2);
    let request = [body.into_bytes(), vec![0; 1 << 20]].concat();
    assert!(!server.send(&request).contains("200 OK"));

    // More slow ones than there are seats: each sends half a request and waits.
    let slow: Vec<TcpStream> = (0..24)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost:").unwrap();
            stream
        })
        .collect();
    // They are hung up on, and whoever waited behind them is served.
    assert_eq!(server.get("/healthz").0, 200);
    let mut first = slow.into_iter().next().unwrap();
    first.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = vec![];
    let _ = first.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
}

#[test]
fn a_taken_port_is_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stop, shutdown) = watch::channel(false);
    let bound = runtime.block_on(async {
        let stopping = async {
            stop.send_replace(true);
        };
        tokio::join!(bind(taken.local_addr().unwrap(), shutdown), stopping).0
    });
    assert!(bound.is_none(), "it waits for the port until it is told to stop");
}
