//! The log's files: `<number of the first line>.jsonl`, twelve digits, appended to and never rewritten. One writer
//! at a time; the lock of the state folder sees to that.
//!
//! What a crash left half written stays where it is: a `recovered` line after it says how many bytes it was and
//! their hash, so that it can be told from a line that somebody spoiled.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::AuditSettings;
use super::chain::{self, Head};
use crate::clock::UtcMillis;

/// A file is closed and the next begun at this size, bytes; less when the whole log is to be small.
const FILE_MAX: u64 = 1 << 20;
/// How many files a full log has at least, so that the oldest to be deleted is a small part of it.
const FILES_MIN: u64 = 4;
/// Larger than any file of ours: what is larger is not read.
pub(super) const READ_MAX: u64 = 64 << 20;

/// Why the log could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the audit log '{path}': {source}; check that its disk has room and that its folder may be written")]
pub(super) struct LogError {
    path: PathBuf,
    source: io::Error,
}

/// A log that is open for writing.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    max_bytes: u64,
    file: File,
    path: PathBuf,
    size: u64,
    head: Head,
}

impl Log {
    /// Opens the log where it ended, or begins one. What is not sound after its last sound line is stated in a
    /// new line.
    pub(super) fn open(settings: &AuditSettings, now: UtcMillis) -> Result<Self, LogError> {
        let folder = settings.folder.clone();
        let failed = at(&folder);
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&folder).map_err(&failed)?;
        let files = files(&folder).map_err(&failed)?;
        let mut head = Head::nothing();
        let mut torn = vec![];
        for (i, (_, path)) in files.iter().enumerate().rev() {
            let bytes = read(path).map_err(at(path))?;
            let (found, sound) = last_sound(&bytes);
            if i + 1 == files.len() {
                torn = bytes.get(sound..).unwrap_or_default().to_vec();
            }
            if let Some(found) = found {
                head = found;
                break;
            }
        }
        let path = match files.last() {
            Some((_, path)) => path.clone(),
            None => name(&folder, 1),
        };
        let file = append_to(&path).map_err(at(&path))?;
        let size = file.metadata().map_err(at(&path))?.len();
        let mut log = Self { folder, max_bytes: settings.max_bytes, file, path, size, head };
        if files.is_empty() {
            log.sync_folder()?;
        }
        if !torn.is_empty() {
            log.recover(torn, now)?;
        }
        Ok(log)
    }

    /// The last line.
    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Appends a line. After an error the log must be opened again.
    pub(super) fn append(&mut self, ts: UtcMillis, kind: &str, data: &Value) -> Result<(), LogError> {
        let (line, head) = chain::next(&self.head, ts, kind, data);
        if self.size > 0 && self.size + line.len() as u64 > self.file_max() {
            self.begin_file(head.n)?;
            self.write(&line)?;
            self.head = head;
            return self.prune(ts);
        }
        self.write(&line)?;
        self.head = head;
        Ok(())
    }

    /// Makes what was appended survive a loss of power.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        self.file.sync_data().map_err(at(&self.path))
    }

    fn file_max(&self) -> u64 {
        (self.max_bytes / FILES_MIN).clamp(chain::LINE_MAX as u64, FILE_MAX)
    }

    fn write(&mut self, text: &str) -> Result<(), LogError> {
        if let Err(error) = self.file.write_all(text.as_bytes()) {
            // Nobody was told of the line, so the half of it may go. Where even that fails it is torn, and stated.
            let _ = self.file.set_len(self.size);
            return Err(at(&self.path)(error));
        }
        self.size += text.len() as u64;
        Ok(())
    }

    fn recover(&mut self, mut torn: Vec<u8>, now: UtcMillis) -> Result<(), LogError> {
        if !torn.ends_with(b"\n") {
            self.write("\n")?;
            torn.push(b'\n');
        }
        tracing::warn!(
            file = %self.path.display(),
            bytes = torn.len(),
            "the audit log ends in a line that was not finished; a line after it says so"
        );
        let data = json!({ "torn_bytes": torn.len(), "torn_sha256": chain::sha256(&torn) });
        let (line, head) = chain::next(&self.head, now, "recovered", &data);
        self.write(&line)?;
        self.head = head;
        self.sync()
    }

    fn begin_file(&mut self, first: u64) -> Result<(), LogError> {
        self.sync()?;
        let path = name(&self.folder, first);
        self.file = append_to(&path).map_err(at(&path))?;
        self.size = 0;
        self.path = path;
        self.sync_folder()
    }

    /// Deletes the oldest files until the log is small enough. Each deletion is stated before it is done.
    fn prune(&mut self, now: UtcMillis) -> Result<(), LogError> {
        let failed = at(&self.folder);
        let files = files(&self.folder).map_err(&failed)?;
        let sizes: Vec<u64> =
            files.iter().map(|(_, path)| path.metadata().map_or(0, |data| data.len())).collect();
        let mut sum: u64 = sizes.iter().sum();
        for (pair, size) in files.windows(2).zip(sizes) {
            let [(_, oldest), (next, _)] = pair else { break };
            if sum <= self.max_bytes {
                break;
            }
            let (line, head) = chain::next(&self.head, now, "pruned", &json!({ "through": next - 1 }));
            self.write(&line)?;
            self.head = head;
            self.sync()?;
            std::fs::remove_file(oldest).map_err(at(oldest))?;
            sum -= size;
        }
        Ok(())
    }

    fn sync_folder(&self) -> Result<(), LogError> {
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(at(&self.folder))
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> LogError + use<> {
    let path = path.to_owned();
    move |source| LogError { path: path.clone(), source }
}

fn name(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:012}.jsonl"))
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// The log's files, each with the number of its first line, in their order.
pub(super) fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = vec![];
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let first =
            path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jsonl")).map(str::to_owned);
        if let Some(first) = first.filter(|first| first.len() == 12).and_then(|first| first.parse().ok()) {
            files.push((first, path));
        }
    }
    files.sort();
    Ok(files)
}

/// A whole file of the log.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if path.metadata()?.len() > READ_MAX {
        return Err(io::Error::other("the file is too large to be a part of the log"));
    }
    std::fs::read(path)
}

/// The last line that is sound by itself, and where it ends.
fn last_sound(bytes: &[u8]) -> (Option<Head>, usize) {
    let mut end = bytes.len();
    loop {
        // Only what a newline ends can be whole.
        let Some(newline) = bytes.get(..end).and_then(|part| part.iter().rposition(|byte| *byte == b'\n'))
        else {
            return (None, 0);
        };
        let before = bytes.get(..newline).unwrap_or_default();
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if let Ok(line) = chain::read(before.get(start..).unwrap_or_default()) {
            return (Some(line.head()), newline + 1);
        }
        end = newline;
    }
}
