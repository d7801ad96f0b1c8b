//! The folder of plans, and what the builder measured for the next one. Bounded: a new plan pushes out the one
//! that was written first.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::plan::{self, Header, Key, PlanError};
use super::tensors::Wanted;
use super::{Device, Kind, Version};
use crate::model::store::Store;
use crate::model::weights::hex;

/// Plans kept: five batch sizes in two precisions for two models; 50 to 100 MB each with ViT-S.
const KEPT_PLANS: usize = 20;
/// Extension of a plan's file.
const EXTENSION: &str = "plan";

/// The folder.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// One file in it.
#[derive(Debug)]
pub struct Entry {
    /// The file.
    pub path: PathBuf,
    /// Length of the file.
    pub bytes: u64,
    /// When it was written.
    pub written: SystemTime,
    /// Its header, or why it has none.
    pub header: Result<Header, PlanError>,
}

impl Cache {
    /// The cache of a store.
    pub fn of(store: &Store) -> Self {
        Self { folder: store.engines_folder() }
    }

    /// Where a plan with this key lies or would lie.
    pub fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(key.file_name())
    }

    /// A path in the folder for a file that is being made by this process.
    pub fn temporary(&self, key: &Key) -> Result<PathBuf, PlanError> {
        fs::create_dir_all(&self.folder).map_err(at(&self.folder))?;
        remove_left_over(&self.folder);
        Ok(self.folder.join(format!(".{}.{}", key.file_name(), std::process::id())))
    }

    /// Makes room and writes a plan: its key, what to tell people, the tensors that it must have, its bytes.
    /// Returns its file.
    pub fn put(
        &self,
        key: Key,
        about: &str,
        tensors: Option<Wanted>,
        plan: &[u8],
    ) -> Result<PathBuf, PlanError> {
        fs::create_dir_all(&self.folder).map_err(at(&self.folder))?;
        let path = self.path(&key);
        if !path.exists() {
            self.forget_old();
        }
        plan::write(&path, key, about.to_owned(), tensors, plan)?;
        Ok(path)
    }

    /// All plans, the newest first.
    pub fn list(&self) -> Vec<Entry> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
        let plans = paths.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
        let mut list: Vec<Entry> = plans
            .filter_map(|path| {
                let metadata = fs::metadata(&path).ok()?;
                let (bytes, written) = (metadata.len(), metadata.modified().ok()?);
                Some(Entry { header: plan::read_header(&path), path, bytes, written })
            })
            .collect();
        list.sort_by(|a, b| b.written.cmp(&a.written).then_with(|| a.path.cmp(&b.path)));
        list
    }

    fn forget_old(&self) {
        for entry in self.list().iter().skip(KEPT_PLANS - 1) {
            let _ = fs::remove_file(&entry.path);
        }
    }

    /// Where the timings of a library on a GPU are kept; they are of no use to another version or GPU.
    pub fn timings(&self, library: Version, device: &Device) -> PathBuf {
        let name = match library.kind {
            Kind::Rtx => "rtx",
            _ => "tensorrt",
        };
        let Version { major, minor, patch, .. } = library;
        let gpu = hex(&Sha256::digest(device.name.as_bytes()));
        self.folder.join(format!(
            "{name}-{major}.{minor}.{patch}-sm_{}-{}.timings",
            device.capability,
            &gpu[..8]
        ))
    }
}

/// Hash of a graph's file and of the weights beside it.
pub fn hash_of_graph(onnx: &Path) -> Result<String, PlanError> {
    let mut hash = Sha256::new();
    let name = onnx.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let beside = onnx.with_file_name(format!("{name}.data"));
    for path in [Some(onnx.to_owned()), beside.is_file().then_some(beside)].into_iter().flatten() {
        let mut file = File::open(&path).map_err(at(&path))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(at(&path))? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Files of processes that were killed.
fn remove_left_over(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let hidden = name.to_str().filter(|name| name.starts_with('.'));
        let process = hidden.and_then(|name| name.rsplit_once('.')).map(|(_, process)| process);
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> PlanError {
    let path = path.to_owned();
    move |problem| PlanError::Io { path: path.clone(), problem }
}

#[cfg(test)]
mod tests {
    use super::super::plan::BuiltFor;
    use super::*;

    fn key(batch: usize) -> Key {
        let library = Version { kind: Kind::TensorRt10, major: 10, minor: 16, patch: 1 };
        let built_for = BuiltFor::Gpu(Device { name: "Orin".to_owned(), capability: 87 });
        Key { onnx_sha256: "cd".repeat(32), library, built_for, batch, precision: "full".to_owned() }
    }

    #[test]
    fn the_oldest_plans_go_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::of(&Store::at(folder.path()));
        for batch in 1..=KEPT_PLANS + 2 {
            let path = cache.put(key(batch), "", None, b"plan").unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(batch as u64);
            File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        }
        let list = cache.list();
        let batches: Vec<_> = list.iter().map(|entry| entry.header.as_ref().unwrap().key.batch).collect();
        assert_eq!(batches, (3..=KEPT_PLANS + 2).rev().collect::<Vec<_>>());
        cache.put(key(5), "", None, b"again").unwrap();
        assert_eq!(cache.list().len(), KEPT_PLANS, "a plan that is written anew pushes nobody out");
    }

    #[test]
    fn a_file_that_is_no_plan_is_listed_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::of(&Store::at(folder.path()));
        assert!(cache.list().is_empty());
        let path = cache.put(key(1), "", None, b"plan").unwrap();
        fs::write(path.with_file_name("foreign.plan"), b"no header").unwrap();
        let list = cache.list();
        assert_eq!(list.len(), 2);
        assert_eq!(list.iter().filter(|entry| entry.header.is_err()).count(), 1);
    }

    #[test]
    fn weights_beside_the_graph_are_hashed_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let graph = folder.path().join("g.onnx");
        fs::write(&graph, b"graph").unwrap();
        let alone = hash_of_graph(&graph).unwrap();
        fs::write(folder.path().join("g.onnx.data"), b"weights").unwrap();
        assert_ne!(hash_of_graph(&graph).unwrap(), alone);
        assert!(hash_of_graph(&folder.path().join("none.onnx")).is_err());
    }

    #[test]
    fn what_killed_processes_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::of(&Store::at(folder.path()));
        let mine = cache.temporary(&key(1)).unwrap();
        fs::write(&mine, b"half").unwrap();
        // Process ids end at 4194304.
        let dead = mine.with_extension("4194305");
        fs::write(&dead, b"half").unwrap();
        cache.temporary(&key(2)).unwrap();
        assert!(mine.exists() && !dead.exists());
    }
}
