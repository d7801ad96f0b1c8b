//! How fast a subscriber hears `unknown` when the transport fails: real RTSP servers, the real daemon, a real
//! broker, several cameras at once. Recorded features answer instead of the model, so that six cameras fit on two cores.
//!
//! Short by default; the long form has more than 100 of each fault and takes about ten minutes:
//! `STANDOFF_LONG=1 cargo test --release --test detection -- --nocapture`.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(feature = "demo")]

#[allow(dead_code, reason = "other test binaries use the rest")]
#[path = "e2e/rtsp.rs"]
mod rtsp;
#[allow(dead_code, reason = "other test binaries use the rest")]
#[path = "e2e/site.rs"]
mod site;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rtsp::{Proxy, dock, serve};
use site::{Deadline, Mosquitto, Standoff, Subscriber, dock_config, one_at_a_time, record};
use standoff::cli::demo_rtsp::RtspServer;
use standoff::clock::{self, Timestamp};

const CAMERAS: usize = 6;
/// Promised, seconds from the fault to the message.
const WORST_S: f64 = 2.0;
const MEDIAN_S: f64 = 1.3;
/// Until all pictures are analysed, or again after a fault.
const SETTLED_S: f64 = 60.0;

fn long() -> bool {
    std::env::var_os("STANDOFF_LONG").is_some()
}

/// Features of one picture of the empty dock.
fn recorded() -> &'static Path {
    static FILE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, file) = FILE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dock.safetensors");
        record(&file, "0.5");
        (folder, file)
    });
    file
}

/// The dock's configuration with several cameras `cam0`, `cam1` ...
fn config(urls: &[String], mqtt_port: u16) -> String {
    let text = dock_config("URL", mqtt_port);
    let (head, camera) = text.split_once("cameras:\n").expect("a section of cameras");
    let cameras: String = urls
        .iter()
        .enumerate()
        .map(|(index, url)| camera.replace("  dock:\n", &format!("  cam{index}:\n")).replace("URL", url))
        .collect();
    format!("{head}model: {{recorded: '{}', max_batch: 8}}\ncameras:\n{cameras}", recorded().display())
}

/// One camera: its server behind a link that can fail.
struct Link {
    server: Option<RtspServer>,
    port: u16,
    proxy: Proxy,
}

impl Link {
    fn new() -> Self {
        let server = serve(&dock());
        let (port, proxy) = (server.port(), Proxy::to(server.port()));
        Self { server: Some(server), port, proxy }
    }

    fn url(&self) -> String {
        format!("rtsp://127.0.0.1:{}/camera", self.proxy.port())
    }

    fn start_again(&mut self) {
        let mut options = dock();
        options.port = self.port;
        self.server = Some(serve(&options));
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The camera's process is gone.
    Killed,
    /// The peer lives and sends nothing.
    Stalled,
    /// Nothing passes in either direction, also no new connection.
    Partition,
}

/// The newest state of every camera's rule, and when it came.
struct States {
    subscriber: Subscriber,
    newest: RefCell<Vec<Option<(String, Timestamp)>>>,
}

impl States {
    fn new(subscriber: Subscriber) -> Self {
        Self { subscriber, newest: RefCell::new(vec![None; CAMERAS]) }
    }

    /// Waits until every camera's state is this one.
    fn wait(&mut self, state: &str, seconds: f64) {
        let deadline = Deadline::after(seconds);
        let Self { subscriber, newest } = self;
        let all =
            || newest.borrow().iter().all(|known| known.as_ref().is_some_and(|(known, _)| known == state));
        while !all() {
            let left = deadline.left().map_or(0.0, |left| left.as_secs_f64());
            subscriber.wait(&format!("every camera is {state}"), left, |got| {
                let Some(rest) = got.topic.strip_prefix("standoff/e2e/camera/cam") else { return false };
                let Some((index, "alarm/forklift_near_edge")) = rest.split_once('/') else { return false };
                let state = got.json()["state"].as_str().unwrap_or_default().to_owned();
                // The time of a state is that of its first word, not of its repetition.
                let slot = &mut newest.borrow_mut()[index.parse::<usize>().unwrap()];
                if slot.as_ref().is_none_or(|(before, _)| *before != state) {
                    *slot = Some((state, got.at));
                }
                true
            });
        }
    }
}

fn print(fault: Fault, times: &[f64]) {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    println!(
        "{:<10} n {:>4}  median {:.2} s  p95 {:.2} s  worst {:.2} s",
        format!("{fault:?}"),
        sorted.len(),
        at(0.5),
        at(0.95),
        at(1.0)
    );
    for bin in 0..=20 {
        let (from, to) = (f64::from(bin) * 0.1, f64::from(bin + 1) * 0.1);
        let count = sorted.iter().filter(|time| (from..to).contains(*time)).count();
        if count > 0 {
            println!("  {from:.1} to {to:.1} s {count:>4} {}", "#".repeat(count.min(100)));
        }
    }
}

#[test]
fn a_transport_that_fails_is_unknown_within_2_s() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let rounds = if long() { 18 } else { 1 };
    let mut links: Vec<Link> = (0..CAMERAS).map(|_| Link::new()).collect();
    let urls: Vec<String> = links.iter().map(Link::url).collect();
    let mut states = States::new(Subscriber::connect(broker.port));
    let _daemon = Standoff::run(&config(&urls, broker.port));
    let mut failures = vec![];
    for fault in [Fault::Killed, Fault::Stalled, Fault::Partition] {
        let (mut times, mut unknown_before) = (vec![], 0);
        for round in 0..rounds {
            states.wait("clear", SETTLED_S);
            let mut began = vec![];
            for (index, link) in links.iter_mut().enumerate() {
                // Not in step with the pictures: 10 a second.
                std::thread::park_timeout(Duration::from_millis((37 * (index as u64 + round) + 11) % 130));
                began.push(clock::monotonic());
                match fault {
                    Fault::Killed => {
                        if let Some(server) = link.server.take() {
                            server.stop();
                        }
                    }
                    Fault::Stalled => link.proxy.stall(),
                    Fault::Partition => link.proxy.pause(),
                }
            }
            states.wait("unknown", 20.0);
            for (index, began) in began.iter().enumerate() {
                match &states.newest.borrow()[index] {
                    Some((_, at)) if at > began => times.push(at.since(*began).as_secs_f64()),
                    // It was unknown by itself: a busy machine. Says nothing about the fault.
                    _ => unknown_before += 1,
                }
            }
            for link in &mut links {
                link.proxy.resume();
                if link.server.is_none() {
                    link.start_again();
                }
            }
        }
        assert!(!times.is_empty(), "{fault:?}: {unknown_before} cameras were unknown before it began");
        print(fault, &times);
        if unknown_before > 0 {
            println!("  {unknown_before} not counted: unknown before it began");
        }
        times.sort_by(f64::total_cmp);
        if times[times.len() - 1] > WORST_S || times[times.len() / 2] > MEDIAN_S {
            failures.push(format!("{fault:?}: {times:.2?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Starts the daemon again as soon as it has ended, as systemd does.
struct Supervisor {
    stop: Arc<AtomicBool>,
    pid: Arc<AtomicU32>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Supervisor {
    fn of(file: PathBuf, state: PathBuf) -> Self {
        let (stop, pid) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let thread = std::thread::spawn({
            let (stop, pid) = (stop.clone(), pid.clone());
            move || {
                while !stop.load(Ordering::SeqCst) {
                    let mut daemon: Child = Command::new(env!("CARGO_BIN_EXE_standoff"))
                        .arg("run")
                        .arg(&file)
                        .env("STATE_DIRECTORY", &state)
                        .env("STANDOFF__HTTP__LISTEN", "off")
                        .stdin(Stdio::null())
                        .stdout(Stdio::null())
                        .stderr(Stdio::null())
                        .spawn()
                        .unwrap();
                    pid.store(daemon.id(), Ordering::SeqCst);
                    daemon.wait().unwrap();
                }
            }
        });
        Self { stop, pid, thread: Some(thread) }
    }

    fn kill(&self) {
        let pid = self.pid.load(Ordering::SeqCst).to_string();
        assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.kill();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_killed_daemon_publishes_again_within_3_s() {
    let _turn = one_at_a_time();
    let Some(broker) = Mosquitto::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("site.yaml");
    let server = serve(&dock());
    std::fs::write(&file, config(&[server.url().to_owned()], broker.port)).unwrap();
    let mut subscriber = Subscriber::connect(broker.port);
    let supervisor = Supervisor::of(file, folder.path().join("state"));
    let rounds = if long() { 20 } else { 3 };
    let (mut publishing, mut knowing) = (vec![], vec![]);
    for _ in 0..rounds {
        subscriber.wait_state("forklift_near_edge", "clear", SETTLED_S);
        subscriber.forget();
        let killed = clock::monotonic();
        supervisor.kill();
        let (first, _) = subscriber.wait("the first word", 20.0, |got| {
            got.topic.ends_with("/forklift_near_edge") && got.at > killed && got.json()["state"] == "unknown"
        });
        publishing.push(first.at.since(killed).as_secs_f64());
        let (known, _) = subscriber.wait("clear again", SETTLED_S, |got| {
            got.topic.ends_with("/forklift_near_edge") && got.json()["state"] == "clear"
        });
        knowing.push(known.at.since(killed).as_secs_f64());
    }
    let worst = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    println!(
        "SIGKILL, n {rounds}: publishing again after {:.2} s at worst, clear again after {:.2} s at worst",
        worst(&publishing),
        worst(&knowing)
    );
    assert!(worst(&publishing) <= 3.0, "{publishing:.2?}");
}
