//! `standoff demo`: a live camera (an RTSP server that plays the dock clip), a broker, and the daemon itself
//! between them exactly as in production. At the end what was measured stands beside what is true.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::demo_broker::{self, Heard};
use super::demo_rtsp::{RtspServer, RtspServerOptions};
use super::replay::choose_camera;
use super::report::{self, Collector};
use crate::analysis::CameraSetup;
use crate::clock::{self, Timestamp};
use crate::config::{Config, Surroundings};
use crate::daemon::{self, Daemon};
use crate::ingest::{CameraSource, RtspSource, StreamUrl};
use crate::replay::Step;
use crate::replay::score::Scorer;
use crate::replay::truth::Truth;
use crate::types::Snapshot;

const CLIP: &[u8] = include_bytes!("../../tests/data/dock-demo/video.mp4");
const TRUTH: &str = include_str!("../../tests/data/dock-demo/gt.jsonl");
const CONFIG: &str = include_str!("../../pipelines/dock-demo.yaml");

/// Frames a second of the clip.
const CLIP_FPS: f64 = 10.0;

/// Frames of the clip.
const CLIP_FRAMES: usize = 300;

/// How long the first frame may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments of `standoff demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// How long to watch; the clip has 30 s and begins anew at its end
    #[arg(long, default_value_t = 30.0, value_name = "S")]
    pub seconds: f64,
    /// Publish to this broker instead of the demo's own (HOST or HOST:PORT)
    #[arg(long, value_name = "HOST")]
    pub mqtt: Option<String>,
    /// Where to write the picture
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,
}

/// Runs the command.
pub fn run(arguments: &DemoArguments) -> anyhow::Result<ExitCode> {
    if !(arguments.seconds > 0.0 && arguments.seconds <= 86_400.0) {
        bail!("--seconds takes a number above 0, at most 86400");
    }
    let folder = tempdir()?;
    let clip = lay_out(&folder.path)?;
    let around = Surroundings {
        file: "pipelines/dock-demo.yaml".into(),
        folder: folder.path.join("pipelines"),
        ..Surroundings::default()
    };
    let mut config = Config::parse(CONFIG, &around)?;
    let server = RtspServer::start(&RtspServerOptions::new(&clip))?;
    let (host, port) = broker(arguments.mqtt.as_deref())?;
    config.mqtt.host = host.clone();
    config.mqtt.port = port;
    config.state_dir = folder.path.join("state");
    config.control_socket = folder.path.join("control.sock");
    config.http = None;
    config.audit = None;
    config.proof_test = None;
    for camera in &mut config.cameras {
        camera.source = CameraSource::Rtsp(RtspSource::new(StreamUrl::parse(server.url(), None, None)?));
    }
    let camera = choose_camera(&config, None)?;
    let setup = daemon::setup_of(&config, camera);

    println!("camera   {} (H.264 over RTSP, an RTSP server plays the dock clip)", server.url());
    println!("broker   mqtt://{host}:{port}, topics standoff/{}/#", config.node);
    let heard = demo_broker::listen(&host, port, config.node.as_str())?;
    let daemon = Daemon::start(&config)?;
    println!("backend  {}", daemon.backend().name);
    println!("Distances are on the floor: best estimate (95 % interval). A rule compares the near end.\n");

    let collector = watch(&daemon, &heard, &server, arguments.seconds, &setup);
    daemon.stop();
    server.stop();
    let (collector, messages) = collector?;

    println!("\n{}", report::tables(&collector.scorer.pair_scores(), &collector.scorer.rule_scores()));
    println!("MQTT messages received from the broker: {messages}");
    println!("picture: {}", collector.write_page(&setup, &arguments.out, "demo.png")?.display());
    Ok(ExitCode::SUCCESS)
}

fn broker(given: Option<&str>) -> anyhow::Result<(String, u16)> {
    match given {
        None => Ok(("127.0.0.1".into(), demo_broker::start()?)),
        Some(given) => match given.rsplit_once(':') {
            None => Ok((given.into(), 1883)),
            Some((host, port)) => {
                let port = port.parse().with_context(|| format!("--mqtt {given}: '{port}' is not a port"))?;
                Ok((host.into(), port))
            }
        },
    }
}

/// A folder that goes away with the value.
struct TempDir {
    path: PathBuf,
}

fn tempdir() -> anyhow::Result<TempDir> {
    let path = std::env::temp_dir().join(format!("standoff-demo-{}", std::process::id()));
    std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
    Ok(TempDir { path })
}

/// Puts the clip where the configuration, taken from its folder, looks for it. Returns the clip's place.
fn lay_out(folder: &Path) -> anyhow::Result<PathBuf> {
    let clips = folder.join("tests/data/dock-demo");
    for needed in [&clips, &folder.join("pipelines")] {
        std::fs::create_dir_all(needed).with_context(|| format!("{} cannot be made", needed.display()))?;
    }
    let clip = clips.join("video.mp4");
    std::fs::write(&clip, CLIP).with_context(|| format!("{} cannot be written", clip.display()))?;
    Ok(clip)
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Watches for `seconds` from the first frame; returns what was collected and the number of messages heard.
fn watch(
    daemon: &Daemon,
    heard: &Receiver<Heard>,
    server: &RtspServer,
    seconds: f64,
    setup: &CameraSetup,
) -> anyhow::Result<(Collector, usize)> {
    let truth = Truth::parse(TRUTH)?;
    let mut collector = Collector::new(Scorer::new(truth, setup.site.pairs.clone()));
    let mut snapshots = daemon.snapshots();
    let begun = clock::monotonic();
    let mut first: Option<Timestamp> = None;
    let mut next_line_s = 0.0;
    let mut messages = 0;
    let mut told = false;
    loop {
        let now = clock::monotonic();
        match first {
            None if now.since(begun) > PATIENCE => bail!("no frame was analysed within {PATIENCE:?}"),
            Some(first) if now.since(first).as_secs_f64() > seconds => return Ok((collector, messages)),
            _ if !daemon.is_whole() => bail!("a thread of the daemon has ended"),
            _ => {}
        }
        let waited = daemon
            .runtime()
            .block_on(async { tokio::time::timeout(Duration::from_millis(100), snapshots.changed()).await });
        for message in heard.try_iter() {
            messages += 1;
            if let Some(line) = event_line(&message) {
                told = true;
                println!("{line}");
            }
        }
        let snapshot = snapshots.borrow_and_update().clone();
        if let (Ok(Ok(())), Some(snapshot)) = (waited, snapshot) {
            let start = *first.get_or_insert(snapshot.frame.captured);
            let t_s = snapshot.frame.captured.since(start).as_secs_f64();
            if t_s >= next_line_s {
                println!("{}", live_line(t_s, &snapshot));
                next_line_s = t_s.floor() + 1.0;
            }
            let place = server.clip_time(snapshot.frame.captured).unwrap_or_default();
            collector.add(step(t_s, place, snapshot), std::mem::take(&mut told));
        }
    }
}

/// `place` is the time in the clip that the frame shows.
fn step(t_s: f64, place: Duration, snapshot: Arc<Snapshot>) -> Step {
    let index = (place.as_secs_f64() * CLIP_FPS).round() as usize % CLIP_FRAMES;
    Step { index, t_s, snapshot, transitions: vec![] }
}

fn live_line(t_s: f64, snapshot: &Snapshot) -> String {
    let times = &snapshot.times;
    let age = clock::monotonic().since(snapshot.frame.captured);
    let work = times.preprocess + times.backbone + times.heads + times.geometry + times.rules;
    format!("{}  age {} ms, work {} ms", report::live_line(t_s, snapshot), age.as_millis(), work.as_millis())
}

/// A line about an event that came over MQTT; none about other messages.
fn event_line(message: &Heard) -> Option<String> {
    if !message.topic.ends_with("/event") {
        return None;
    }
    let event: serde_json::Value = serde_json::from_slice(&message.payload).ok()?;
    let text = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
    let metres = event["distance_m"].as_f64().map_or_else(String::new, |metres| format!(" at {metres:.2} m"));
    let line =
        format!("         MQTT event: {} {} ({}){metres}", text("rule"), text("state"), text("event_type"));
    let colour = match event["state"].as_str() {
        Some("alarm") => "\x1b[1;31m",
        Some("warning") => "\x1b[1;33m",
        Some("clear") => "\x1b[32m",
        _ => "\x1b[2m",
    };
    Some(if std::io::stdout().is_terminal() { format!("{colour}{line}\x1b[0m") } else { line })
}
