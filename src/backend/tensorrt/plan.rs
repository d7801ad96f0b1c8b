//! The file of a plan: what it was built from and for, and a hash, before the bytes that TensorRT made. A file
//! that is cut off, damaged or for something else is refused before TensorRT sees it. Plans that come from
//! elsewhere (`trtexec`) have no such header; they are read as they are.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::tensors::Wanted;
use super::{Device, Kind, Version};
use crate::model::weights::hex;

/// First bytes of the file. The number changes with the format.
const MAGIC: &[u8; 16] = b"standoff plan 1\n";
/// Longest header that is believed.
const MAX_HEADER_BYTES: u32 = 1 << 20;

/// Everything that a plan depends on. Another key is another plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Of the graph, weights beside it included.
    pub onnx_sha256: String,
    /// The library that compiled it.
    pub library: Version,
    /// What it was compiled for.
    pub built_for: BuiltFor,
    /// Pictures at once.
    pub batch: usize,
    /// "full", "mixed", or "own" for a graph that is not ours.
    pub precision: String,
}

/// The GPU of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuiltFor {
    /// The GPU that was there.
    Gpu(Device),
    /// Any GPU of this compute capability, 86 for sm_86: compiled ahead of time.
    Target(u32),
}

impl BuiltFor {
    /// Whether a plan of this kind can run on that GPU.
    pub fn fits(&self, device: &Device) -> bool {
        match self {
            Self::Gpu(gpu) => gpu == device,
            Self::Target(target) => *target == device.capability,
        }
    }
}

impl std::fmt::Display for BuiltFor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gpu(device) => write!(f, "{device}"),
            Self::Target(target) => write!(f, "any sm_{target}"),
        }
    }
}

impl Key {
    /// Name of the file of a plan with this key.
    pub fn file_name(&self) -> String {
        let gpu = match &self.built_for {
            BuiltFor::Gpu(device) => device.capability,
            BuiltFor::Target(target) => *target,
        };
        let Version { kind, major, minor, patch } = self.library;
        let library = if kind == Kind::Rtx { "rtx" } else { "tensorrt" };
        let json = serde_json::to_vec(self).unwrap_or_default();
        let (onnx, whole) = (self.onnx_sha256.get(..12).unwrap_or_default(), hex(&Sha256::digest(&json)));
        let (batch, precision, whole) = (self.batch, &self.precision, &whole[..12]);
        format!("{onnx}-b{batch}-{precision}-{library}-{major}.{minor}.{patch}-sm_{gpu}-{whole}.plan")
    }

    /// In what two keys differ, in words.
    fn differences(&self, wanted: &Self) -> Vec<String> {
        let mut words = Vec::new();
        let mut compare = |what: &str, found: String, wanted: String| {
            if found != wanted {
                words.push(format!("its {what} is {found}, not {wanted}"));
            }
        };
        compare("graph", self.onnx_sha256.clone(), wanted.onnx_sha256.clone());
        compare("library", self.library.to_string(), wanted.library.to_string());
        compare("GPU", self.built_for.to_string(), wanted.built_for.to_string());
        compare("batch", self.batch.to_string(), wanted.batch.to_string());
        compare("precision", self.precision.clone(), wanted.precision.clone());
        words
    }
}

/// What stands before the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What it depends on.
    pub key: Key,
    /// What it was built from, for people: "dinov2-small 392x224".
    pub about: String,
    /// Inputs and outputs that it must have; none for a graph that is not ours.
    pub tensors: Option<Wanted>,
    /// Length of the plan.
    pub plan_bytes: u64,
    /// Of the plan.
    pub plan_sha256: String,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It cannot be read or written.
    #[error("{path}: {problem}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        problem: io::Error,
    },
    /// There is no such file.
    #[error("{0} is not there; build it: standoff engine build")]
    Missing(PathBuf),
    /// It has no header of ours.
    #[error("{0} is not a plan of standoff's; build one: standoff engine build")]
    Foreign(PathBuf),
    /// Cut off, or changed on disk.
    #[error("{path} is damaged ({problem}); remove it and build it anew: standoff engine build")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// For another graph, library, GPU, batch or precision.
    #[error("{path} is not the plan that is needed: {problem}; build it: standoff engine build")]
    OtherKey {
        /// The file.
        path: PathBuf,
        /// What differs.
        problem: String,
    },
}

/// Writes a plan, whole or not at all.
pub fn write(
    path: &Path,
    key: Key,
    about: String,
    tensors: Option<Wanted>,
    plan: &[u8],
) -> Result<Header, PlanError> {
    let plan_sha256 = hex(&Sha256::digest(plan));
    let header = Header { key, about, tensors, plan_bytes: plan.len() as u64, plan_sha256 };
    let json = serde_json::to_vec(&header).map_err(io::Error::other).map_err(at(path))?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("plan");
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let put = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(MAGIC)?;
        file.write_all(&(json.len() as u32).to_le_bytes())?;
        file.write_all(&json)?;
        file.write_all(&Sha256::digest(&json))?;
        file.write_all(plan)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    put().map_err(|problem| {
        let _ = fs::remove_file(&temporary);
        PlanError::Io { path: path.to_owned(), problem }
    })?;
    Ok(header)
}

/// Reads what stands before a plan.
pub fn read_header(path: &Path) -> Result<Header, PlanError> {
    header_of(&mut File::open(path).map_err(at(path))?, path)
}

/// Reads a plan of ours. With a key, only one with that key.
pub fn read(path: &Path, wanted: Option<&Key>) -> Result<(Header, Vec<u8>), PlanError> {
    let mut file = File::open(path).map_err(at(path))?;
    let header = header_of(&mut file, path)?;
    if let Some(wanted) = wanted
        && header.key != *wanted
    {
        let problem = header.key.differences(wanted).join("; ");
        return Err(PlanError::OtherKey { path: path.to_owned(), problem });
    }
    let damaged = |problem: String| PlanError::Damaged { path: path.to_owned(), problem };
    let mut plan = Vec::new();
    file.read_to_end(&mut plan).map_err(at(path))?;
    if plan.len() as u64 != header.plan_bytes {
        return Err(damaged(format!("{} bytes of a plan of {}", plan.len(), header.plan_bytes)));
    }
    if hex(&Sha256::digest(&plan)) != header.plan_sha256 {
        return Err(damaged("its hash is another one".to_owned()));
    }
    Ok((header, plan))
}

/// Reads a plan given by its path: one of ours, or a bare one with no header, which only TensorRT can judge.
pub fn read_any(path: &Path) -> Result<(Option<Header>, Vec<u8>), PlanError> {
    match read(path, None) {
        Ok((header, plan)) => Ok((Some(header), plan)),
        Err(PlanError::Foreign(_)) => Ok((None, fs::read(path).map_err(at(path))?)),
        Err(error) => Err(error),
    }
}

fn header_of(file: &mut File, path: &Path) -> Result<Header, PlanError> {
    let foreign = || PlanError::Foreign(path.to_owned());
    let damaged = |problem: String| PlanError::Damaged { path: path.to_owned(), problem };
    let (mut magic, mut length) = ([0; MAGIC.len()], [0; 4]);
    file.read_exact(&mut magic).map_err(|_| foreign())?;
    if magic != *MAGIC {
        return Err(foreign());
    }
    file.read_exact(&mut length).map_err(|_| damaged("it ends in its header".to_owned()))?;
    let length = u32::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(damaged(format!("its header claims {length} bytes")));
    }
    let (mut json, mut hash) = (vec![0; length as usize], [0; 32]);
    let rest = file.read_exact(&mut json).and_then(|()| file.read_exact(&mut hash));
    rest.map_err(|_| damaged("it ends in its header".to_owned()))?;
    if hash[..] != Sha256::digest(&json)[..] {
        return Err(damaged("the hash of its header is another one".to_owned()));
    }
    serde_json::from_slice(&json).map_err(|error| damaged(format!("its header: {error}")))
}

fn at(path: &Path) -> impl Fn(io::Error) -> PlanError {
    let path = path.to_owned();
    move |problem| match problem.kind() {
        io::ErrorKind::NotFound => PlanError::Missing(path.clone()),
        _ => PlanError::Io { path: path.clone(), problem },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            onnx_sha256: "ab".repeat(32),
            library: Version { kind: Kind::Rtx, major: 1, minor: 7, patch: 1 },
            built_for: BuiltFor::Target(86),
            batch: 4,
            precision: "mixed".to_owned(),
        }
    }

    fn written() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(key().file_name());
        write(&path, key(), "dinov2-small 392x224".to_owned(), None, b"the plan").unwrap();
        (folder, path)
    }

    #[test]
    fn a_plan_comes_back_as_it_was_written() {
        let (folder, path) = written();
        let (header, plan) = read(&path, Some(&key())).unwrap();
        assert_eq!((plan.as_slice(), header.plan_bytes), (&b"the plan"[..], 8));
        assert_eq!(read_header(&path).unwrap(), header);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn what_differs_is_named() {
        let (_folder, path) = written();
        let mut wanted = key();
        wanted.batch = 8;
        wanted.library.minor = 8;
        wanted.built_for = BuiltFor::Gpu(Device { name: "NVIDIA RTX A2000".to_owned(), capability: 86 });
        let said = read(&path, Some(&wanted)).unwrap_err().to_string();
        assert!(said.contains("its library is TensorRT-RTX 1.7.1, not TensorRT-RTX 1.8.1"), "{said}");
        assert!(said.contains("its GPU is any sm_86, not NVIDIA RTX A2000 (sm_86)"), "{said}");
        assert!(said.contains("its batch is 4, not 8") && !said.contains("precision"), "{said}");
    }

    #[test]
    fn every_damage_is_seen() {
        let (_folder, path) = written();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(&path, &flipped).unwrap();
            assert!(read(&path, Some(&key())).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(read(&path, Some(&key())).is_err(), "cut at {at}");
        }
        fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
        assert!(matches!(read(&path, None), Err(PlanError::Damaged { .. })));
    }

    #[test]
    fn a_bare_plan_is_read_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trtexec.engine");
        fs::write(&path, b"ftrt and so on").unwrap();
        assert!(matches!(read(&path, None), Err(PlanError::Foreign(_))));
        assert_eq!(read_any(&path).unwrap(), (None, b"ftrt and so on".to_vec()));
        let header = MAGIC.iter().chain(&u32::MAX.to_le_bytes()).copied().collect::<Vec<u8>>();
        fs::write(&path, header).unwrap();
        assert!(matches!(read_any(&path), Err(PlanError::Damaged { .. })));
    }

    #[test]
    fn a_plan_for_a_target_runs_on_each_gpu_of_it() {
        let device = |name: &str, capability| Device { name: name.to_owned(), capability };
        assert!(BuiltFor::Target(86).fits(&device("NVIDIA RTX A2000", 86)));
        assert!(!BuiltFor::Target(86).fits(&device("NVIDIA GeForce RTX 4090", 89)));
        let gpu = BuiltFor::Gpu(device("NVIDIA RTX A2000", 86));
        assert!(gpu.fits(&device("NVIDIA RTX A2000", 86)) && !gpu.fits(&device("NVIDIA RTX A4000", 86)));
    }
}
