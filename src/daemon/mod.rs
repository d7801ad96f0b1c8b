//! Start and stop order of the daemon's threads and tasks.
//!
//! Start: sinks (with will and `Unknown`), backend, analysis, cameras. Stop is the reverse: cameras, then the
//! inference thread, whose end makes the analysis say that it stops, then the sinks, which say so and leave.

pub mod views;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use jiff::tz::TimeZone;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::analysis::{self, Analysis, CameraSetup, Order, Surroundings, Wiring};
use crate::backend::{self, BackendError, BackendSpec};
use crate::clock;
use crate::config::{Camera, Config};
use crate::geometry::PairEnd;
use crate::heads::{self, HeadError};
use crate::heartbeat::{Heart, Part};
use crate::infer;
use crate::ingest::{self, CameraHandle, IngestError};
use crate::outbox::Outbox;
use crate::publish::mqtt;
use crate::slot::{HealthBoard, InputBoard, Slots};
use crate::types::{ClassName, Snapshot};

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The backend did not.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A shipped head is not usable.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A camera cannot be watched at all.
    #[error(transparent)]
    Camera(#[from] IngestError),
    /// A thread could not be started.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The running daemon.
pub struct Daemon {
    runtime: Runtime,
    cameras: Vec<CameraHandle>,
    stop_infer: Arc<AtomicBool>,
    infer: JoinHandle<()>,
    analysis: JoinHandle<()>,
    orders: SyncSender<Order>,
    sinks: Sinks,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    spec: BackendSpec,
    heart: Arc<Heart>,
}

struct Sinks {
    shutdown: watch::Sender<bool>,
    /// What `when:` conditions read; a reload changes it.
    watch_topics: watch::Sender<Vec<String>>,
    mqtt: tokio::task::JoinHandle<()>,
}

impl Daemon {
    /// Starts everything. On an error nothing is left running.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("tokio")
            .enable_all()
            .build()?;
        let slots = Arc::new(Slots::default());
        let health = Arc::new(HealthBoard::default());
        let inputs = Arc::new(InputBoard::default());
        let outbox = Arc::new(Outbox::default());
        let heart = Arc::new(Heart::default());

        let mut analysis = analysis_of(config)?;
        let sinks = Sinks::start(config, &runtime, &outbox, &inputs, &heart);
        for statement in analysis.tick(clock::now(), &Surroundings::default()).statements {
            outbox.say(statement);
        }

        let backend = match backend::open(&config.model.backend(heads::shipped::graph_heads()?)) {
            Ok(backend) => backend,
            Err(error) => {
                sinks.stop(&runtime);
                return Err(error.into());
            }
        };
        let spec = backend.spec().clone();

        let (seen_sender, seen) = sync_channel(1);
        let (snapshot_sender, snapshots) = watch::channel(None);
        let (orders, orders_of) = sync_channel(1);
        let wiring = Wiring {
            seen,
            health: health.clone(),
            slots: slots.clone(),
            inputs: inputs.clone(),
            outbox: outbox.clone(),
            snapshots: snapshot_sender,
            orders: orders_of,
            pulse: heart.pulse(Part::Analysis, clock::monotonic()),
        };
        let analysis = analysis::spawn(analysis, wiring)?;
        let stop_infer = Arc::new(AtomicBool::new(false));
        let pulse = heart.pulse(Part::Infer, clock::monotonic());
        let infer = infer::spawn(backend, slots.clone(), seen_sender, stop_infer.clone(), pulse)?;

        let mut daemon = Self {
            runtime,
            cameras: vec![],
            stop_infer,
            infer,
            analysis,
            orders,
            sinks,
            snapshots,
            spec,
            heart,
        };
        for camera in &config.cameras {
            let started = ingest::spawn(
                camera.id.clone(),
                camera.source.clone(),
                camera.camera_latency,
                slots.clone(),
                health.clone(),
            );
            match started {
                Ok(handle) => daemon.cameras.push(handle),
                Err(error) => {
                    daemon.stop();
                    return Err(error.into());
                }
            }
        }
        Ok(daemon)
    }

    /// What the backbone runs on.
    pub fn backend(&self) -> &BackendSpec {
        &self.spec
    }

    /// The newest analysed frame of any camera, for people.
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.snapshots.clone()
    }

    /// The runtime of the sinks, for tasks that wait on the daemon.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Signs of life of its parts.
    pub fn heart(&self) -> &Arc<Heart> {
        &self.heart
    }

    /// False when a thread that must not end has ended.
    pub fn is_whole(&self) -> bool {
        !self.infer.is_finished() && !self.analysis.is_finished()
    }

    /// Stops everything in order; subscribers are told.
    pub fn stop(self) {
        for camera in self.cameras {
            camera.stop();
        }
        self.stop_infer.store(true, Ordering::Relaxed);
        for (name, thread) in [("infer", self.infer), ("analysis", self.analysis)] {
            if thread.join().is_err() {
                tracing::error!(thread = name, "the thread had failed");
            }
        }
        self.sinks.stop(&self.runtime);
    }
}

impl Sinks {
    fn start(
        config: &Config,
        runtime: &Runtime,
        outbox: &Arc<Outbox>,
        inputs: &Arc<InputBoard>,
        heart: &Arc<Heart>,
    ) -> Self {
        let (shutdown, stopped) = watch::channel(false);
        let (watch_topics, topics) = watch::channel(config.watched_topics());
        let _guard = runtime.enter();
        let mqtt = mqtt::spawn(
            config.mqtt.clone(),
            config.node.clone(),
            outbox.reader("mqtt"),
            inputs.clone(),
            topics,
            stopped,
            heart.pulse(Part::Mqtt, clock::monotonic()),
        );
        Self { shutdown, watch_topics, mqtt }
    }

    /// Follows a new configuration.
    fn reconfigure(&self, config: &Config) {
        self.watch_topics.send_if_modified(|topics| {
            let new = config.watched_topics();
            let changed = *topics != new;
            *topics = new;
            changed
        });
    }

    fn stop(self, runtime: &Runtime) {
        self.shutdown.send_replace(true);
        if runtime.block_on(self.mqtt).is_err() {
            tracing::error!("the MQTT task had failed");
        }
    }
}

/// The analysis of a configuration, with the shipped heads.
pub fn analysis_of(config: &Config) -> Result<Analysis, HeadError> {
    let setups = config.cameras.iter().map(|camera| setup_of(config, camera));
    let heads = heads::shipped::heads(&classes(config))?;
    Ok(Analysis::new(TimeZone::system(), heads, setups.collect(), clock::utc()))
}

/// A camera as the analysis needs it, with what commissioning stored of its view.
pub fn setup_of(config: &Config, camera: &Camera) -> CameraSetup {
    CameraSetup {
        id: camera.id.clone(),
        site: camera.site.clone(),
        rules: camera.rules.clone(),
        view: camera.view,
        profile: views::load(&config.state_dir, &camera.id).map(Arc::new),
    }
}

/// The classes that any pair of the configuration speaks of.
fn classes(config: &Config) -> Vec<ClassName> {
    let pairs = config.cameras.iter().flat_map(|camera| &camera.site.pairs);
    let mut classes: Vec<ClassName> = pairs
        .flat_map(|pair| match &pair.to {
            PairEnd::Class(to) => vec![pair.from.clone(), to.clone()],
            PairEnd::Edge(_) => vec![pair.from.clone()],
        })
        .collect();
    classes.sort();
    classes.dedup();
    classes
}
