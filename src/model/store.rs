//! What is installed: weights, the inference library, and the graphs written from the weights. All of it lies
//! in one folder, and each file appears there whole or not at all.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::graph::{self, GraphError, GraphOptions};
use super::weights::{Weights, WeightsError, hex};

/// Graphs kept; a new one pushes out the one that was written first. A GPU has one for each batch size and precision.
const KEPT_GRAPHS: usize = 16;

/// Why the store cannot give or take something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no folder for it.
    #[error("no folder for models: set STANDOFF_HOME, XDG_CACHE_HOME or HOME")]
    NoHome,
    /// A file cannot be read or written.
    #[error("{path}: {problem}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        problem: io::Error,
    },
    /// No such model.
    #[error(
        "model '{name}' is not installed in {folder}; run `standoff model fetch dinov2-small` or `standoff model import FILE`"
    )]
    NotInstalled {
        /// Its name.
        name: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// The weights are no good.
    #[error("{path}: {problem}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: WeightsError,
    },
    /// No graph can be written.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A name that cannot be a file's.
    #[error("'{0}' is no name for a model: use letters, digits, '-', '_' and '.'")]
    Name(String),
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// An installed model.
#[derive(Debug, Clone)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Length of the file.
    pub bytes: u64,
    /// What its header says: where it came from, its licence, its architecture.
    pub metadata: HashMap<String, String>,
}

impl Store {
    /// `$STANDOFF_HOME`, else `$XDG_CACHE_HOME/standoff`, else `~/.cache/standoff`.
    pub fn locate() -> Result<Self, StoreError> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = set("STANDOFF_HOME")
            .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("standoff")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/standoff")));
        root.map(Self::at).ok_or(StoreError::NoHome)
    }

    /// The store in a folder, which need not exist.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a model of that name lies or would lie.
    pub fn model_path(&self, name: &str) -> PathBuf {
        self.root.join("models").join(format!("{name}.safetensors"))
    }

    /// Where the file that a fetched model was converted from is kept.
    pub fn original_path(&self, file: &str) -> PathBuf {
        self.root.join("originals").join(file)
    }

    /// Where the inference library lies or would lie.
    pub fn library_path(&self) -> PathBuf {
        self.root.join("lib/libonnxruntime.so")
    }

    /// Where the inference library with a CUDA provider lies or would lie.
    pub fn cuda_library_path(&self) -> PathBuf {
        self.root.join("lib/cuda/libonnxruntime.so")
    }

    /// The folder of TensorRT-RTX and its parser, fetched or not.
    pub fn tensorrt_rtx_folder(&self) -> PathBuf {
        self.root.join("lib/tensorrt-rtx")
    }

    /// The folder of compiled plans.
    pub fn engines_folder(&self) -> PathBuf {
        self.root.join("engines")
    }

    /// The file of a model given by its installed name or by a path (anything with a `/`, or a file that is there).
    pub fn resolve(&self, model: &str) -> Result<PathBuf, StoreError> {
        let installed = self.model_path(model);
        if !model.contains('/') && installed.is_file() {
            return Ok(installed);
        }
        if Path::new(model).is_file() {
            return Ok(PathBuf::from(model));
        }
        Err(StoreError::NotInstalled { name: model.to_owned(), folder: self.root.join("models") })
    }

    /// The file of a graph for a model and options, written when it is not there yet.
    pub fn graph(&self, model: &str, options: &GraphOptions<'_>) -> Result<PathBuf, StoreError> {
        let (path, bytes, name) = self.named(model, options)?;
        let folder = self.root.join("graphs");
        let file = folder.join(format!("{name}.onnx"));
        if file.is_file() {
            return Ok(file);
        }
        let weights = Weights::parse(bytes).map_err(|problem| StoreError::Weights { path, problem })?;
        let graph = graph::write(&weights, options)?;
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        forget_oldest(&folder, "onnx", KEPT_GRAPHS);
        graph::save(graph, &file).map_err(at(&file))?;
        Ok(file)
    }

    /// What distinguishes the graph of a model and options from all others: a hash of the weights, and the options.
    pub fn graph_name(&self, model: &str, options: &GraphOptions<'_>) -> Result<String, StoreError> {
        self.named(model, options).map(|(_, _, name)| name)
    }

    /// SHA-256 of a model's file, hexadecimal.
    pub fn sha256(&self, model: &str) -> Result<String, StoreError> {
        let path = self.resolve(model)?;
        let mut hash = Sha256::new();
        // In pieces: a large model is more than a gigabyte.
        let mut file = fs::File::open(&path).map_err(at(&path))?;
        let mut piece = vec![0; 1 << 20];
        loop {
            let read = io::Read::read(&mut file, &mut piece).map_err(at(&path))?;
            if read == 0 {
                return Ok(hex(&hash.finalize()));
            }
            hash.update(&piece[..read]);
        }
    }

    /// The model's file, its bytes and the graph's name.
    fn named(
        &self,
        model: &str,
        options: &GraphOptions<'_>,
    ) -> Result<(PathBuf, Vec<u8>, String), StoreError> {
        let path = self.resolve(model)?;
        let bytes = fs::read(&path).map_err(at(&path))?;
        let sha256 = hex(&Sha256::digest(&bytes));
        let name = format!("{}-{}", &sha256[..12], graph::key(options));
        Ok((path, bytes, name))
    }

    /// Checks weights from a file and installs them under `name`. Returns the installed file.
    pub fn import(
        &self,
        file: &Path,
        name: &str,
        provenance: &[(&str, &str)],
    ) -> Result<Installed, StoreError> {
        let alphabet = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(alphabet) {
            return Err(StoreError::Name(name.to_owned()));
        }
        let (weights, sha256) =
            Weights::read(file).map_err(|problem| StoreError::Weights { path: file.to_owned(), problem })?;
        let mut metadata: HashMap<String, String> =
            provenance.iter().map(|(key, value)| (String::from(*key), String::from(*value))).collect();
        metadata.insert("architecture".to_owned(), weights.describe());
        metadata.insert("source_sha256".to_owned(), sha256);
        let path = self.model_path(name);
        let folder = self.root.join("models");
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let temporary = folder.join(format!(".{name}.{}", std::process::id()));
        weights
            .write(&temporary, metadata)
            .map_err(|problem| StoreError::Weights { path: temporary.clone(), problem })?;
        fs::rename(&temporary, &path).map_err(at(&path))?;
        self.installed(name)
    }

    /// An installed model.
    pub fn installed(&self, name: &str) -> Result<Installed, StoreError> {
        let path = self.model_path(name);
        if !path.is_file() {
            return Err(StoreError::NotInstalled { name: name.to_owned(), folder: self.root.join("models") });
        }
        let bytes = fs::metadata(&path).map_err(at(&path))?.len();
        let metadata = header_metadata(&path).map_err(at(&path))?;
        Ok(Installed { name: name.to_owned(), path, bytes, metadata })
    }

    /// All installed models by name.
    pub fn list(&self) -> Result<Vec<Installed>, StoreError> {
        let folder = self.root.join("models");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(at(&folder))?,
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| {
                entry.ok()?.file_name().to_str()?.strip_suffix(".safetensors").map(str::to_owned)
            })
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names.iter().map(|name| self.installed(name)).collect()
    }
}

/// For `map_err`: an I/O error with the file it is about.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |problem| StoreError::Io { path, problem }
}

/// The free words in a safetensors header, without reading the tensors.
fn header_metadata(path: &Path) -> io::Result<HashMap<String, String>> {
    use io::Read;
    let mut file = fs::File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length).min(100_000_000);
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let header: serde_json::Value = serde_json::from_slice(&header)?;
    let words = header.get("__metadata__").and_then(|words| words.as_object());
    let words = words.into_iter().flatten();
    Ok(words.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect())
}

/// Makes room for one more file of that extension where `kept` may lie: the one that was written first goes. It keeps
/// folders from growing with every change of a head. What cannot be removed is left: that costs disk, not correctness.
pub fn forget_oldest(folder: &Path, extension: &str, kept: usize) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut files: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().extension().is_some_and(|found| found == extension))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    let surplus = (files.len() + 1).saturating_sub(kept);
    for (_, path) in files.into_iter().take(surplus) {
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(path.with_extension(format!("{extension}.data")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_said_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        let said = store.resolve("dinov2-large").unwrap_err().to_string();
        let models = folder.path().join("models");
        assert_eq!(
            said,
            format!(
                "model 'dinov2-large' is not installed in {}; run `standoff model fetch dinov2-small` or \
                 `standoff model import FILE`",
                models.display()
            )
        );
        assert!(store.list().unwrap().is_empty());
        for name in ["", "../x", ".hidden", "a/b"] {
            assert!(matches!(store.import(Path::new("x"), name, &[]), Err(StoreError::Name(_))), "{name}");
        }
    }

    #[test]
    fn a_model_is_hashed_in_pieces_and_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (store, file) = (Store::at(folder.path()), folder.path().join("m.safetensors"));
        for length in [0, 3, 1 << 20, (1 << 20) + 1] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            fs::write(&file, &bytes).unwrap();
            assert_eq!(store.sha256(&file.to_string_lossy()).unwrap(), hex(&Sha256::digest(&bytes)));
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("half.safetensors");
        fs::write(&file, b"\x40\0\0\0\0\0\0\0{}").unwrap();
        let store = Store::at(folder.path().join("store"));
        assert_eq!(
            store.import(&file, "half", &[]).unwrap_err().to_string(),
            format!(
                "{}: the file is cut off or damaged after 10 bytes (safetensors with fewer bytes than its header \
                 says); fetch it again",
                file.display()
            )
        );
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn the_oldest_graphs_go() {
        let folder = tempfile::tempdir().unwrap();
        for i in 0..KEPT_GRAPHS + 3 {
            let path = folder.path().join(format!("{i:02}.onnx"));
            fs::write(&path, b"").unwrap();
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(i as u64);
            fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        }
        fs::write(folder.path().join("00.onnx.data"), b"").unwrap();
        forget_oldest(folder.path(), "onnx", KEPT_GRAPHS);
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left.len(), KEPT_GRAPHS - 1);
        assert_eq!(left[0], "04.onnx");
    }
}
