//! The YAML file: walked as a value tree so that every problem is named at once with its key path, and
//! resolved into types that cannot be wrong.
//!
//! `yaml` reads text into values with their lines, `overlay` lays environment variables over them, `keys` says
//! what is accepted, `read` checks by it, `resolve` makes settings of it; `docs` writes the reference.

mod docs;
mod keys;
mod overlay;
mod problem;
mod read;
mod resolve;
mod source;
mod survey;
mod taught;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::BTreeSet;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::album::Limits;
use crate::audit::AuditSettings;
use crate::backend::{BackendSettings, Wanted};
use crate::geometry::Site;
use crate::heads::{HeadError, other_depth};
use crate::ingest::CameraSource;
use crate::model::depth::DepthSource;
use crate::model::graph::{GraphHead, Precision};
use crate::outbox::OutboxSettings;
use crate::publish::MqttSettings;
use crate::publish::discovery::HomeAssistant;
use crate::publish::modbus::ModbusSettings;
use crate::publish::webhook::WebhookSettings;
use crate::rules::RuleSettings;
use crate::types::{CameraId, ClassName, NodeId};
use crate::view::ViewSettings;

pub use docs::{json_schema, reference};
pub use problem::{Origin, Problem, Problems};
pub use source::{Change, Source};
pub use survey::Survey;

/// A time with its unit, as it is written in the configuration: `500ms`, `1.5s`, `2m`, `1h`.
///
/// # Errors
/// When it is none.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    read::duration_of(text.trim()).ok_or("must be a time with its unit, as in 90s, 30m or 2h")
}

/// The state folder of a configuration that names none, in these environment variables.
pub fn default_state_dir(variables: &[(String, String)]) -> PathBuf {
    resolve::default_state_dir(variables)
}

/// Everything that the daemon is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of this daemon in topics and messages.
    pub node: NodeId,
    /// Where things are kept that must survive a restart.
    pub state_dir: PathBuf,
    /// Where people on this machine ask; not a key: `$RUNTIME_DIRECTORY`, else the state folder.
    pub control_socket: PathBuf,
    /// The model.
    pub model: ModelSettings,
    /// The broker.
    pub mqtt: MqttSettings,
    /// What Home Assistant is told.
    pub home_assistant: HomeAssistant,
    /// How events wait for the broker.
    pub outbox: OutboxSettings,
    /// Where the console listens, when it does.
    pub http: Option<SocketAddr>,
    /// The audit log, when there is one.
    pub audit: Option<AuditSettings>,
    /// What is kept of people.
    pub privacy: Privacy,
    /// How often the whole path is tried, when it is.
    pub proof_test: Option<Duration>,
    /// The text that this was read from.
    pub source: Source,
    /// What is accepted and probably not what was meant.
    pub doubts: Vec<Problem>,
    /// The server for a PLC, if there is to be one.
    pub modbus: Option<ModbusSettings>,
    /// Where events are posted, if anywhere.
    pub webhook: Option<WebhookSettings>,
    /// At least one camera, in the order of the file.
    pub cameras: Vec<Camera>,
}

/// What is kept of people, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privacy {
    /// What is made unrecognisable in pictures.
    pub blur: Vec<ClassName>,
    /// How long pictures are kept, and how many.
    pub pictures: Limits,
}

/// Which model runs, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSettings {
    /// Name of an installed model.
    pub name: String,
    /// Width of its input in pixels, a multiple of 14.
    pub input_width: u32,
    /// Height of its input in pixels, a multiple of 14.
    pub input_height: u32,
    /// Threads on the CPU; 0 takes as many as there are cores.
    pub threads: usize,
    /// Frames that go through it together at most.
    pub max_batch: usize,
    /// What it runs on.
    pub backend: Wanted,
    /// In which floats a GPU computes.
    pub precision: Precision,
    /// How long a batch waits for more cameras.
    pub batch_wait: Duration,
    /// Closer looks at a frame at most.
    pub closer_looks: usize,
    /// Where the depth comes from.
    pub depth: DepthSource,
    /// A file of recorded features that answers instead of the model.
    pub recorded: Option<PathBuf>,
    /// Folder of what was taught, where it is not the one in the state folder.
    pub taught: Option<PathBuf>,
}

impl ModelSettings {
    /// What a backend with these heads is opened with.
    pub fn backend(&self, heads: Vec<GraphHead>) -> BackendSettings {
        BackendSettings {
            model: self.name.clone(),
            input_width: self.input_width,
            input_height: self.input_height,
            max_batch: self.max_batch,
            threads: (self.threads > 0).then_some(self.threads),
            heads,
            depth: None,
            layers: false,
            wanted: self.backend,
            precision: self.precision,
            recorded: self.recorded.clone(),
            library: None,
        }
    }

    /// What a backend is opened with that gives all that the heads of [`other_depth::heads`] read.
    ///
    /// # Errors
    /// A damaged shipped head.
    pub fn whole_backend(&self) -> Result<BackendSettings, HeadError> {
        let depth = self.depth.network().cloned();
        Ok(BackendSettings { depth, ..self.backend(other_depth::graph_heads(&self.depth)?) })
    }
}

/// One camera.
#[derive(Debug, Clone, PartialEq)]
pub struct Camera {
    /// Its name.
    pub id: CameraId,
    /// Where its pictures come from.
    pub source: CameraSource,
    /// How long the camera takes from light to network.
    pub camera_latency: Duration,
    /// Evidence older than this is none. The rules' latches have it too.
    pub stale_after: Duration,
    /// Calibration, edges and pairs.
    pub site: Site,
    /// What is too close.
    pub rules: Vec<RuleSettings>,
    /// How its view is watched.
    pub view: ViewSettings,
}

/// What a configuration is read in: where its relative paths begin, and what else can change it.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The file, as it is named in problems.
    pub file: String,
    /// Folder that relative paths begin at.
    pub folder: PathBuf,
    /// Environment variables; those that begin with `STANDOFF__` set values.
    pub variables: Vec<(String, String)>,
    /// Identity of this machine, from which the node's name is made when none is given.
    pub machine_id: Option<String>,
}

impl Surroundings {
    /// Those of this process, for the configuration at `path`.
    pub fn of(path: &Path) -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let machine_id = ["/etc/machine-id", "/var/lib/dbus/machine-id"]
            .iter()
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .map(|id| id.trim().to_owned())
            .find(|id| !id.is_empty());
        Self {
            file: path.display().to_string(),
            folder: path.parent().map(Path::to_owned).unwrap_or_default(),
            variables,
            machine_id,
        }
    }
}

/// The text of a regular file of at most `max_bytes`: a device or a pipe would be read for ever.
fn text_of(path: &Path, max_bytes: usize) -> Result<String, String> {
    let read = || {
        if !std::fs::metadata(path)?.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
        let mut text = String::new();
        std::fs::File::open(path)?.take(limit).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| format!("the file cannot be read: {error}"))?;
    if text.len() > max_bytes {
        return Err(format!("the file is larger than {max_bytes} bytes"));
    }
    Ok(text)
}

impl Config {
    /// Reads the file, with the environment of this process laid over it.
    ///
    /// Errors with everything that is wrong, each with its key path and line.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let around = Surroundings::of(path);
        let text = text_of(path, yaml::MAX_BYTES).map_err(|message| {
            let problem = Problem { path: String::new(), origin: Origin::File, message };
            Problems::new(&around.file, vec![problem])
        })?;
        Self::parse(&text, &around)
    }

    /// Reads a text. Files that it names (passwords, certificates, clips) are looked for.
    ///
    /// Errors with everything that is wrong, each with its key path and line.
    pub fn parse(text: &str, around: &Surroundings) -> Result<Self, Problems> {
        let mut tree = yaml::parse(text).map_err(|list| Problems::new(&around.file, list))?;
        let report = read::Report::default();
        overlay::variables(&mut tree, &around.variables, &report);
        let config = resolve::config(&tree, around, &report)
            .map(|config| Self { source: Source::new(text, &tree), ..config });
        let problems = report.into_problems();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(Problems::new(&around.file, problems)),
        }
    }

    /// The folder of what was taught.
    pub fn taught_dir(&self) -> PathBuf {
        self.model.taught.clone().unwrap_or_else(|| self.state_dir.join(crate::teach::FOLDER))
    }

    /// Whether the backbone's tokens are wanted on the host: where something was or can be taught. A GPU gives them only
    /// where the key or the folder says so, because that costs 2.7 MB a frame over the bus and another engine.
    pub fn reads_tokens(&self) -> bool {
        self.model.recorded.is_none()
            && (self.model.taught.is_some()
                || self.taught_dir().is_dir()
                || self.model.backend == Wanted::Cpu
                || crate::backend::driver::cuda_driver().is_none())
    }

    /// The classes that any pair speaks of, each once.
    pub fn classes(&self) -> BTreeSet<&ClassName> {
        let pairs = self.cameras.iter().flat_map(|camera| &camera.site.pairs);
        pairs.flat_map(|pair| pair.classes()).collect()
    }

    /// What a backend is opened with that gives all that the analysis reads.
    ///
    /// # Errors
    /// A damaged shipped head.
    pub fn backend(&self) -> Result<BackendSettings, HeadError> {
        Ok(BackendSettings { layers: self.reads_tokens(), ..self.model.whole_backend()? })
    }

    /// The MQTT topics that conditions of rules read, each once.
    pub fn watched_topics(&self) -> Vec<String> {
        let rules = self.cameras.iter().flat_map(|camera| &camera.rules);
        let mut topics: Vec<String> = rules
            .flat_map(|rule| &rule.when)
            .filter_map(|condition| condition.topic())
            .map(str::to_owned)
            .collect();
        topics.sort();
        topics.dedup();
        topics
    }
}
