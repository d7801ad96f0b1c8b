//! Start and stop order of the daemon's threads and tasks.
//!
//! Start: sinks (with will and `Unknown`), backend, analysis, cameras. Stop is the reverse: cameras, then the
//! inference thread, whose end makes the analysis say that it stops, then the sinks, which say so and leave. No part
//! is waited for without end, because a hung part is a reason to stop.

pub mod notify;
mod observers;
mod proof_test;
pub mod reload;
mod scribe;
mod status;
pub mod supervisor;
mod teaching;
pub mod views;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{interval, timeout};

use self::observers::Observers;
use self::teaching::{Heads, School};
use crate::album::Album;
use crate::analysis::{self, Analysis, CameraSetup, Order, Surroundings, Wiring};
use crate::audit::Audit;
use crate::backend::{self, BackendError, BackendSettings, BackendSpec, choice};
use crate::clock;
use crate::config::{Camera, Config};
use crate::control;
use crate::geometry::Site;
use crate::heads::HeadError;
use crate::heartbeat::{Heart, Part, Trouble};
use crate::infer::{self, Closer};
use crate::ingest::{self, CameraHandle, IngestError};
use crate::memory;
use crate::metrics::METRICS;
use crate::outbox::{OpenError, Outbox, Writer};
use crate::pictures;
use crate::publish::discovery::{self, Inventory};
use crate::publish::webhook::{self, WebhookError};
use crate::publish::{herald, modbus, mqtt};
use crate::slot::{HealthBoard, InputBoard, Latest, Slots};
use crate::types::{CameraId, CommandSender, RunsOn, Snapshot, command};

/// A round over all cameras may take this share of the shortest `stale_after` for the sake of closer looks: between
/// two answers on a camera lie two rounds, one that its picture waits and one that it takes.
const ROUND_SHARE: f64 = 0.4;

/// How long the last events may take to the disk when the daemon stops.
const FLUSH: Duration = Duration::from_secs(1);

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
    /// The state folder is another daemon's.
    #[error(transparent)]
    Outbox(#[from] OpenError),
    /// The webhook's settings or certificates are not usable any more.
    #[error("webhook: {0}")]
    Webhook(#[from] WebhookError),
    /// A thread could not be started.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// Whether starting again is of no use: something must be installed first.
    pub fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Self::Backend(BackendError::Library { .. } | BackendError::NotInstalled(_))
                | Self::Camera(IngestError::MissingPlugin { .. } | IngestError::NoGstreamer { .. })
        )
    }
}

/// How long a thread may take to end. What it works on (a batch, a scene) takes no longer unless it hangs.
const END_WITHIN: Duration = Duration::from_millis(1500);

/// How long a sink may take to say what is left to say: its own limit is 2 s.
const LEAVE_WITHIN: Duration = Duration::from_millis(2500);

/// The running daemon.
pub struct Daemon {
    config: Config,
    runtime: Runtime,
    slots: Arc<Slots>,
    health: Arc<HealthBoard>,
    outbox: Arc<Outbox>,
    cameras: Vec<CameraHandle>,
    stop_infer: Arc<AtomicBool>,
    infer: JoinHandle<()>,
    analysis: JoinHandle<()>,
    orders: SyncSender<Order>,
    school: Arc<School>,
    memory: memory::Writer,
    pictures: JoinHandle<()>,
    /// Where each camera's floor is, for the pictures; a reload changes it.
    sites: watch::Sender<BTreeMap<CameraId, Site>>,
    sinks: Sinks,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    spec: BackendSpec,
    heart: Arc<Heart>,
    observers: Observers,
}

struct Sinks {
    shutdown: watch::Sender<bool>,
    /// What `when:` conditions read; a reload changes it.
    watch_topics: watch::Sender<Vec<String>>,
    /// What Home Assistant is told of; a reload changes it.
    inventory: watch::Sender<Arc<Inventory>>,
    /// Each by its name.
    tasks: Vec<(&'static str, tokio::task::JoinHandle<()>)>,
    outbox: Arc<Outbox>,
    /// Ends after the sinks, whose progress it writes down.
    _journal: Writer,
    control: Option<tokio::task::JoinHandle<()>>,
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
        let heart = Arc::new(Heart::default());
        let pulse = heart.pulse(Part::Journal, clock::monotonic());
        let mut readers = vec!["mqtt"];
        if config.audit.is_some() {
            readers.push(scribe::READER);
        }
        if config.webhook.is_some() {
            readers.push(webhook::NAME);
        }
        let (outbox, journal) = Outbox::open(config.outbox.clone(), &config.state_dir, &readers, pulse)?;

        let school = Arc::new(School::new(config));
        let mut analysis = analysis_with(config, &school)?;
        let boot = clock::stamp().boot;
        analysis.restore(clock::now(), memory::load(&config.state_dir, boot, clock::now()));
        let newest = Arc::new(Latest::default());
        let memory = memory::spawn(config.state_dir.clone(), boot, newest.clone())?;
        let remembered = newest.clone();
        outbox.show_after(move |patience| remembered.wait_settled(patience));
        let (commands, asked) = command::channel();
        let (snapshot_sender, snapshots) = watch::channel(None);
        let (lessons, lessons_of) = sync_channel(1);
        let teaching = teaching::teaching(config, school.clone(), lessons, snapshots.clone());
        let asked_of = (commands, teaching);
        let sinks = Sinks::start(config, &runtime, &outbox, journal, &inputs, &heart, asked_of)?;
        for statement in analysis.tick(clock::now(), &Surroundings::default()).statements {
            outbox.say(statement);
        }

        let mut observers = Observers::start(config, &runtime, &outbox, &heart)?;
        school.audit_to(observers.audit().clone());
        let settings = BackendSettings { layers: school.tokens(), ..config.model.whole_backend()? };
        let chosen = match backend::choose(&settings) {
            Ok(chosen) => chosen,
            Err(error) => {
                observers.stop(&runtime);
                sinks.stop(&runtime);
                end(&runtime, "memory", memory.stop());
                return Err(error.into());
            }
        };
        chosen.log();
        for reason in choice::REASONS {
            METRICS.backend_degraded.of(&[&reason]).set(i64::from(chosen.degraded == Some(reason)));
        }
        let spec = chosen.backend.spec().clone();
        observers.backend_is(RunsOn { name: spec.name.clone(), problem: chosen.problem() });

        let (seen_sender, seen) = sync_channel(1);
        let (orders, orders_of) = sync_channel(1);
        let (sites, sites_of) = watch::channel(sites(config));
        let (sightings, pictures) = pictures::spawn(pictures_of(config), sites_of, outbox.clone())?;
        let shadow = observers.prove(config, &runtime, &slots);
        let wiring = Wiring {
            shadow,
            seen,
            health: health.clone(),
            slots: slots.clone(),
            inputs: inputs.clone(),
            outbox: outbox.clone(),
            pictures: sightings,
            snapshots: snapshot_sender,
            commands: asked,
            memory: newest,
            orders: orders_of,
            lessons: lessons_of,
            pulse: heart.pulse(Part::Analysis, clock::monotonic()),
        };
        let analysis = analysis::spawn(analysis, wiring)?;
        let stop_infer = Arc::new(AtomicBool::new(false));
        let pulse = heart.pulse(Part::Infer, clock::monotonic());
        let freshest = config.cameras.iter().map(|camera| camera.stale_after).min();
        let infer = infer::spawn(
            chosen.backend,
            Closer::new(config.model.closer_looks)?,
            slots.clone(),
            [config.model.batch_wait, freshest.unwrap_or_default().mul_f64(ROUND_SHARE)],
            seen_sender,
            stop_infer.clone(),
            pulse,
        )?;

        let mut daemon = Self {
            config: config.clone(),
            runtime,
            slots,
            health,
            outbox,
            cameras: vec![],
            stop_infer,
            infer,
            analysis,
            orders,
            school,
            memory,
            pictures,
            sites,
            sinks,
            snapshots,
            spec,
            heart,
            observers,
        };
        for camera in &config.cameras {
            match daemon.start_camera(camera) {
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

    /// Looks after the parts until something is wrong, which it then answers with.
    pub fn supervise(&self) -> watch::Receiver<Vec<Trouble>> {
        let _guard = self.runtime.enter();
        supervisor::spawn(self.heart.clone(), self.outbox.clone())
    }

    /// False when a part that must not end has ended.
    pub fn is_whole(&self) -> bool {
        let now = clock::monotonic();
        self.heart.troubles(now, now).is_empty()
    }

    /// Where entries for the audit log go.
    pub fn audit(&self) -> &Audit {
        self.observers.audit()
    }

    /// The configuration that is in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How things are, in a line for people.
    pub fn status_line(&self) -> String {
        supervisor::status_line(&self.outbox.statements())
    }

    fn start_camera(&self, camera: &Camera) -> Result<CameraHandle, IngestError> {
        let reader = if self.spec.reads_gpu { ingest::Reader::Gpu } else { ingest::Reader::Cpu };
        ingest::spawn(
            camera.id.clone(),
            camera.source.clone(),
            camera.camera_latency,
            reader,
            self.slots.clone(),
            self.health.clone(),
        )
    }

    /// Stops everything in order; subscribers are told. Takes at most 8 s, and 1 s when nothing hangs.
    pub fn stop(self) {
        ingest::stop_all(self.cameras);
        self.stop_infer.store(true, Ordering::Relaxed);
        end(&self.runtime, "infer", self.infer);
        // The analysis ends with the inference; when that hangs, it ends because nobody can give it orders any more.
        drop(self.orders);
        end(&self.runtime, "analysis", self.analysis);
        end(&self.runtime, "memory", self.memory.stop());
        end(&self.runtime, "pictures", self.pictures);
        self.observers.stop(&self.runtime);
        self.sinks.stop(&self.runtime);
        self.runtime.shutdown_timeout(END_WITHIN);
    }
}

/// Waits for a thread's end, but not for ever.
fn end(runtime: &Runtime, name: &str, thread: JoinHandle<()>) {
    let ended = async {
        let mut ticks = interval(Duration::from_millis(10));
        while !thread.is_finished() {
            ticks.tick().await;
        }
    };
    if runtime.block_on(async { timeout(END_WITHIN, ended).await }).is_err() {
        tracing::error!(thread = name, "the thread does not end; it is left behind");
    } else if thread.join().is_err() {
        tracing::error!(thread = name, "the thread had failed");
    }
}

impl Sinks {
    fn start(
        config: &Config,
        runtime: &Runtime,
        outbox: &Arc<Outbox>,
        journal: Writer,
        inputs: &Arc<InputBoard>,
        heart: &Arc<Heart>,
        (commands, teaching): (CommandSender, control::Teaching),
    ) -> Result<Self, WebhookError> {
        let (shutdown, stopped) = watch::channel(false);
        let (watch_topics, topics) = watch::channel(config.watched_topics());
        let _guard = runtime.enter();
        let wiring = mqtt::Wiring {
            node: config.node.clone(),
            reader: outbox.reader("mqtt"),
            inputs: inputs.clone(),
            watch_topics: topics,
            shutdown: stopped.clone(),
            commands: config.mqtt.allow_remote_control.then(|| commands.clone()),
            pulse: heart.pulse(Part::Mqtt, clock::monotonic()),
        };
        let (inventory, inventory_of) = watch::channel(Arc::new(inventory(config)));
        let home_assistant =
            herald::Wiring { inventory: inventory_of, memory: config.state_dir.join("discovery.json") };
        let mut tasks = vec![("mqtt", mqtt::spawn(config.mqtt.clone(), wiring, home_assistant))];
        if let Some(settings) = &config.modbus {
            let (settings, stopped) = (settings.clone(), stopped.clone());
            tasks.push(("modbus", modbus::spawn(settings, outbox.clone(), heart.clone(), stopped)));
        }
        if let Some(settings) = &config.webhook {
            let (node, reader) = (config.node.clone(), outbox.reader(webhook::NAME));
            tasks.push((webhook::NAME, webhook::spawn(settings, node, reader, stopped.clone())?));
        }
        let socket = config.control_socket.clone();
        let control = control::spawn(socket, commands, teaching, stopped).map_err(|error| {
            let socket = config.control_socket.display();
            tracing::error!("{socket} cannot be made: {error}; `standoff alarm` will not reach this daemon");
        });
        Ok(Self {
            shutdown,
            watch_topics,
            inventory,
            tasks,
            outbox: outbox.clone(),
            _journal: journal,
            control: control.ok(),
        })
    }

    /// Follows a new configuration.
    fn reconfigure(&self, config: &Config) {
        self.inventory.send_if_modified(|inventory| {
            let new = Arc::new(self::inventory(config));
            let changed = *inventory != new;
            *inventory = new;
            changed
        });
        self.watch_topics.send_if_modified(|topics| {
            let new = config.watched_topics();
            let changed = *topics != new;
            *topics = new;
            changed
        });
    }

    fn stop(self, runtime: &Runtime) {
        if !self.outbox.flush(FLUSH) {
            tracing::warn!("the disk is slow: the last events wait in memory and may be lost");
        }
        self.shutdown.send_replace(true);
        let leave = async {
            for (name, task) in self.tasks {
                match task.await {
                    Ok(()) => tracing::debug!(task = name, "the task has ended"),
                    Err(_) => tracing::error!(task = name, "the task had failed"),
                }
            }
        };
        if runtime.block_on(async { timeout(LEAVE_WITHIN, leave).await }).is_err() {
            tracing::error!("a sink does not end; it is left behind");
        }
        if let Some(control) = self.control {
            // It only waits for connections; those that are open end with the runtime.
            let _ = runtime.block_on(async { timeout(LEAVE_WITHIN, control).await });
        }
    }
}

/// What there is to tell Home Assistant.
fn inventory(config: &Config) -> Inventory {
    let camera = |camera: &Camera| discovery::Camera {
        id: camera.id.clone(),
        pairs: camera.site.pairs.clone(),
        rules: camera.rules.clone(),
    };
    Inventory {
        home_assistant: config.home_assistant.clone(),
        node: config.node.clone(),
        valid_for: analysis::VALID_FOR,
        remote_control: config.mqtt.allow_remote_control,
        cameras: config.cameras.iter().map(camera).collect(),
    }
}

/// Where each camera's floor is.
fn sites(config: &Config) -> BTreeMap<CameraId, Site> {
    config.cameras.iter().map(|camera| (camera.id.clone(), camera.site.clone())).collect()
}

/// How pictures of alarms are made and kept.
fn pictures_of(config: &Config) -> pictures::Settings {
    let album = Album::new(config.state_dir.join("pictures"), config.privacy.pictures);
    let model = config.model.recorded.is_none().then(|| pictures::Model {
        name: config.model.name.clone(),
        input_width: config.model.input_width,
        input_height: config.model.input_height,
    });
    pictures::Settings { album, blur: config.privacy.blur.clone(), model }
}

/// The analysis of a configuration, with the shipped heads.
pub fn analysis_of(config: &Config) -> Result<Analysis, HeadError> {
    analysis_with(config, &School::new(config))
}

fn analysis_with(config: &Config, school: &School) -> Result<Analysis, HeadError> {
    let Heads { list, missing } = school.heads(config)?;
    Ok(Analysis::new(TimeZone::system(), list, camera_setups(config), clock::utc()).lacking(missing))
}

fn camera_setups(config: &Config) -> Vec<CameraSetup> {
    config.cameras.iter().map(|camera| setup_of(config, camera)).collect()
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
