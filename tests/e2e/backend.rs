//! What the daemon runs on, and who hears when that is not what was expected.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use standoff::backend::driver::cuda_driver;

use super::site::{Mosquitto, Standoff, Subscriber, dock_config, free_port, one_at_a_time};

/// Until the model is loaded.
const START_S: f64 = 90.0;
const NO_DRIVER: &str = "no NVIDIA driver (libcuda.so.1 not found)";

/// The body of an answer, whatever its status.
fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// A daemon without a camera, what it says of its health, and where its console is.
fn started(broker: &Mosquitto, model: &str) -> (Standoff, serde_json::Value, u16) {
    let mut subscriber = Subscriber::connect(broker.port);
    let port = free_port();
    let config = dock_config(&format!("rtsp://127.0.0.1:{}/nobody", free_port()), broker.port);
    let listen = format!("127.0.0.1:{port}");
    let daemon = Standoff::run_with(&format!("{config}{model}"), &[("STANDOFF__HTTP__LISTEN", &listen)]);
    let (health, _) = subscriber.wait("a loaded model", START_S, |got| {
        got.topic == "standoff/e2e/health" && !got.json()["backend"].is_null()
    });
    (daemon, health.json(), port)
}

#[test]
fn a_configured_gpu_that_is_not_there_is_said_and_the_cpu_runs() {
    if let Some(place) = cuda_driver() {
        println!("SKIP: this machine has an NVIDIA driver ({place}), the test is for one without");
        return;
    }
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };

    let (daemon, health, port) = started(&broker, "model: {backend: tensorrt}\n");
    let name = health["backend"].as_str().unwrap();
    assert!(name.starts_with("ONNX Runtime") && name.ends_with("(CPU)"), "{health}");
    let problem = format!("the model runs on {name}, not on TensorRT as configured: {NO_DRIVER}");
    assert_eq!(health["backend_problem"], problem.as_str());
    let said = daemon.log_with("the model runs on");
    assert!(said.len() == 1 && said[0].contains("WARN") && said[0].contains(&problem), "{said:?}");
    let metrics = get(port, "/metrics");
    assert!(metrics.contains("standoff_backend_degraded{reason=\"no_device\"} 1\n"), "{metrics}");
    assert!(metrics.contains("standoff_backend_degraded{reason=\"rejected\"} 0\n"), "{metrics}");
    let ready: serde_json::Value = serde_json::from_str(&get(port, "/readyz")).unwrap();
    assert_eq!(
        (&ready["backend"], &ready["backend_problem"]),
        (&health["backend"], &health["backend_problem"])
    );
    println!("{problem}");
    assert!(daemon.terminate().0.success());

    let (daemon, health, port) = started(&broker, "");
    assert_eq!((health["backend"].as_str(), health["backend_problem"].is_null()), (Some(name), true));
    let said = daemon.log_with("the model runs on");
    let line = format!("the model runs on {name}: {NO_DRIVER}");
    assert!(said.len() == 1 && said[0].contains("INFO") && said[0].contains(&line), "{said:?}");
    assert!(!get(port, "/metrics").contains("standoff_backend_degraded{reason=\"no_device\"} 1"));
    println!("{line}");
    assert!(daemon.terminate().0.success());
}
