//! One plan that is wanted: from which graph, by which library, for which GPU and batch. It is found in the cache
//! or built in a child process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cache::{self, Cache};
use super::child::{self, ChildError, Order};
use super::library::Library;
use super::network::batch_sizes;
use super::plan::{self, BuiltFor, Key, PlanError};
use super::tensors::Wanted;
use crate::backend::BackendSettings;
use crate::model::graph::{BatchSize, GraphOptions, Precision};
use crate::model::store::{Store, StoreError};

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// No model, or no graph of it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It could not be built.
    #[error("no plan of {what}: {problem}")]
    Child {
        /// What was to be built.
        what: String,
        /// Why not.
        problem: ChildError,
    },
    /// The builder's process loaded another library than this one.
    #[error("the builder's process found {found}, this one {here}: is it being updated? Try again")]
    Library {
        /// What it found.
        found: String,
        /// What is here.
        here: String,
    },
}

/// A plan that is wanted.
#[derive(Debug, Clone)]
pub struct Job {
    /// What makes it this plan and no other.
    pub key: Key,
    /// From what it is built, for people: "dinov2-small 392x224".
    pub about: String,
    /// What it must have; none for a graph that is not ours.
    pub tensors: Option<Wanted>,
    onnx: PathBuf,
    /// `[batch, 3, height, width]`.
    input: [i64; 4],
}

/// The command that builds all plans that a backend with these settings needs.
pub fn command(settings: &BackendSettings, precision: Precision) -> String {
    let BackendSettings { model, input_width, input_height, .. } = settings;
    let batches: Vec<_> = batch_sizes(settings.max_batch).iter().map(usize::to_string).collect();
    let (batches, precision) = (batches.join(","), name(precision));
    let layers = if settings.layers { " --layers" } else { "" };
    format!(
        "standoff engine build --model {model} --size {input_width}x{input_height} --batch {batches} \
         --precision {precision}{layers}"
    )
}

fn name(precision: Precision) -> &'static str {
    match precision {
        Precision::Full => "full",
        Precision::Mixed => "mixed",
    }
}

/// Limits of a build.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A build that takes longer is stopped.
    pub time: Duration,
    /// See [`super::builder::Request::workspace_bytes`].
    pub workspace_bytes: u64,
}

impl Job {
    /// The plan of a model with its heads, for batches of exactly `batch` pictures. Writes the graph when it is not
    /// there.
    ///
    /// # Errors
    /// No model.
    pub fn of_model(
        store: &Store,
        settings: &BackendSettings,
        library: &Library,
        built_for: BuiltFor,
        batch: usize,
        precision: Precision,
    ) -> Result<Self, JobError> {
        let size = [settings.input_width, settings.input_height];
        let options = GraphOptions {
            precision,
            taps: settings.layers,
            ..GraphOptions::new(size, BatchSize::Fixed(batch), &settings.heads)
        };
        let onnx = store.graph(&settings.model, &options)?;
        let heads = settings.heads.iter().map(|head| (head.name.clone(), head.channels())).collect();
        let [input_width, input_height] = size;
        let layers = settings.layers;
        let tensors = Wanted { batch, input_width, input_height, dim: None, layers, heads };
        let job = Self::of_graph(onnx, size, library, built_for, batch)?;
        let key = Key { precision: name(precision).to_owned(), ..job.key };
        let about = format!("{} {input_width}x{input_height}", settings.model);
        Ok(Self { key, about, tensors: Some(tensors), ..job })
    }

    /// The plan of any graph whose only input takes `[batch, 3, height, width]`; `size` is width and height.
    ///
    /// # Errors
    /// No such file.
    pub fn of_graph(
        onnx: PathBuf,
        size: [u32; 2],
        library: &Library,
        built_for: BuiltFor,
        batch: usize,
    ) -> Result<Self, JobError> {
        let onnx_sha256 = cache::hash_of_graph(&onnx)?;
        let precision = "own".to_owned();
        let key = Key { onnx_sha256, library: library.version(), built_for, batch, precision };
        let [width, height] = size;
        let about = format!("{} {width}x{height}", onnx.display());
        let input = [batch as i64, 3, i64::from(height), i64::from(width)];
        Ok(Self { key, about, tensors: None, onnx, input })
    }

    /// The cached plan. For the GPU that is here one that was built ahead of time for its kind will do.
    ///
    /// # Errors
    /// That there is none, or that it is damaged: then it has to be built.
    pub fn find(&self, cache: &Cache) -> Result<(PathBuf, Vec<u8>), PlanError> {
        let read = |key: &Key| {
            let path = cache.path(key);
            plan::read(&path, Some(key)).map(|(_, plan)| (path, plan))
        };
        read(&self.key).or_else(|error| match &self.key.built_for {
            BuiltFor::Gpu(device) => {
                let built_for = BuiltFor::Target(device.capability);
                read(&Key { built_for, ..self.key.clone() }).map_err(|_| error)
            }
            BuiltFor::Target(_) => Err(error),
        })
    }

    /// Builds the plan and puts it into the cache. `program` is this program, which becomes the builder's process;
    /// `progress` hears several times a second how long it has taken and TensorRT's last words.
    ///
    /// # Errors
    /// In TensorRT's words, or how the process died.
    pub fn build(
        &self,
        cache: &Cache,
        library: &Library,
        program: &Path,
        limits: Limits,
        progress: &mut dyn FnMut(Duration, &str),
    ) -> Result<(PathBuf, Vec<u8>), JobError> {
        let (target, timings) = match &self.key.built_for {
            BuiltFor::Target(target) => (Some(*target), None),
            BuiltFor::Gpu(device) => (None, Some(cache.timings(library.version(), device))),
        };
        let order = Order {
            library: library.path().to_owned(),
            target,
            onnx: self.onnx.clone(),
            input_shape: Some(self.input),
            workspace_bytes: limits.workspace_bytes,
            timings,
            plan: cache.temporary(&self.key)?,
        };
        let built = child::build(program, &order, limits.time, progress)
            .map_err(|problem| JobError::Child { what: self.to_string(), problem })?;
        let io = |problem| PlanError::Io { path: order.plan.clone(), problem };
        let plan = fs::read(&order.plan).map_err(io)?;
        fs::remove_file(&order.plan).map_err(io)?;
        if built != self.key.library {
            let (found, here) = (built.to_string(), self.key.library.to_string());
            return Err(JobError::Library { found, here });
        }
        let path = cache.put(self.key.clone(), &self.about, self.tensors.clone(), &plan)?;
        Ok((path, plan))
    }
}

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Key { batch, precision, built_for, .. } = &self.key;
        write!(f, "{} batch {batch} {precision} for {built_for}", self.about)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Device, Kind, Version};
    use super::*;

    fn job(built_for: BuiltFor) -> Job {
        let library = Version { kind: Kind::Rtx, major: 1, minor: 7, patch: 1 };
        let (onnx_sha256, precision) = ("ef".repeat(32), "mixed".to_owned());
        let key = Key { onnx_sha256, library, built_for, batch: 4, precision };
        Job { key, about: "test".to_owned(), tensors: None, onnx: PathBuf::new(), input: [4, 3, 28, 28] }
    }

    fn gpu(name: &str, capability: u32) -> BuiltFor {
        BuiltFor::Gpu(Device { name: name.to_owned(), capability })
    }

    #[test]
    fn a_plan_built_ahead_of_time_serves_each_gpu_of_its_kind_and_a_damaged_one_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::of(&Store::at(folder.path()));
        let ahead = job(BuiltFor::Target(86));
        let path = cache.put(ahead.key.clone(), &ahead.about, None, b"ahead").unwrap();
        for name in ["NVIDIA RTX A2000", "NVIDIA RTX A4000"] {
            assert_eq!(job(gpu(name, 86)).find(&cache).unwrap(), (path.clone(), b"ahead".to_vec()));
        }
        assert!(job(gpu("NVIDIA GeForce RTX 4090", 89)).find(&cache).is_err());
        assert!(job(BuiltFor::Target(89)).find(&cache).is_err());

        // One that was measured on the GPU itself is better.
        let own = job(gpu("NVIDIA RTX A2000", 86));
        cache.put(own.key.clone(), &own.about, None, b"own").unwrap();
        assert_eq!(own.find(&cache).unwrap().1, b"own");

        fs::write(&path, b"standoff plan 1\n").unwrap();
        assert!(job(gpu("NVIDIA RTX A4000", 86)).find(&cache).is_err());
    }

    #[test]
    fn the_command_builds_every_plan_that_is_needed() {
        let settings = BackendSettings { max_batch: 6, layers: false, ..BackendSettings::default() };
        assert_eq!(
            command(&settings, Precision::Mixed),
            "standoff engine build --model dinov2-small --size 392x224 --batch 1,2,4,6 --precision mixed"
        );
    }

    #[test]
    fn a_job_is_said_in_one_line() {
        assert_eq!(job(BuiltFor::Target(86)).to_string(), "test batch 4 mixed for any sm_86");
    }
}
