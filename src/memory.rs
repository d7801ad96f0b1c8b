//! What of the alarms must survive a restart, as a file: held alarms, shelving, switches, limits that were set.
//!
//! The `memory` thread writes it; the analysis only hands over the newest. The file is replaced as a whole (written
//! beside it, synced, renamed), so that a crash leaves the one before or the new one. Its second line is a checksum
//! of the first. A file that is torn or not ours is set aside with a word: then every rule starts unknown, never
//! clear. A disk that is full costs memory across a restart and nothing else; it is said, and tried again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{self, Now, Timestamp};
use crate::metrics::METRICS;
use crate::rules::Memory;
use crate::rules::guard::forget_time;
use crate::slot::Latest;

/// The file's name in the state folder.
const FILE: &str = "memory.json";
/// Version of its content.
const VERSION: u32 = 1;
/// A larger file is none of ours.
const MAX_BYTES: u64 = 4 << 20;
/// How often the thread looks whether it should end, and tries again what failed.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often lasting trouble is repeated in the log.
const SUM_UP: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    v: u32,
    /// The boot of the machine whose monotonic clock the times are of.
    boot: String,
    rules: Memory,
}

/// Why a memory is not usable.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is too large")]
    TooLarge,
    #[error("its checksum is wrong: it is torn or was changed")]
    Checksum,
    #[error("it is not what this version writes: {0}")]
    Content(#[from] serde_json::Error),
    #[error("it is of version {0}")]
    Version(u32),
}

/// What was remembered in `folder`; nothing when there is no file yet. A file that is not usable is set aside as
/// `memory.json.bad`, and said. Shelving of another boot of the machine is over, because it cannot be aged.
pub fn load(folder: &Path, boot: u128, now: Now) -> Memory {
    let file = folder.join(FILE);
    match read(&file) {
        Ok(Some(content)) => {
            let mut rules = content.rules;
            if boot == 0 || content.boot != format!("{boot:032x}") {
                forget_time(&mut rules, now);
            }
            rules
        }
        Ok(None) => Memory::new(),
        Err(why) => {
            let file = file.display();
            tracing::error!(
                "{file} is not usable ({why}); latched alarms, shelving, switches and limits set from afar are \
                 forgotten, every rule starts unknown and armed; the file is kept as {file}.bad"
            );
            // Were it to fail, the file is overwritten by the next change.
            let _ = fs::rename(folder.join(FILE), folder.join(format!("{FILE}.bad")));
            Memory::new()
        }
    }
}

fn read(file: &Path) -> Result<Option<Content>, Unusable> {
    let file = match File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = vec![];
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Unusable::TooLarge);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Unusable::Checksum)?;
    let (json, sum) = text.split_once('\n').ok_or(Unusable::Checksum)?;
    if sum != checksum(json) {
        return Err(Unusable::Checksum);
    }
    let content: Content = serde_json::from_str(json)?;
    if content.v != VERSION {
        return Err(Unusable::Version(content.v));
    }
    Ok(Some(content))
}

fn checksum(json: &str) -> String {
    format!("crc32 {:08x}\n", crc32fast::hash(json.as_bytes()))
}

fn write(folder: &Path, boot: u128, rules: &Memory) -> io::Result<()> {
    let content = Content { v: VERSION, boot: format!("{boot:032x}"), rules: rules.clone() };
    let json = serde_json::to_string(&content)?;
    let new = folder.join(format!("{FILE}.new"));
    let mut file = File::create(&new)?;
    file.write_all(json.as_bytes())?;
    file.write_all(b"\n")?;
    file.write_all(checksum(&json).as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, folder.join(FILE))?;
    // The rename itself is on disk only when the folder is.
    File::open(folder)?.sync_all()
}

/// The thread, running.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Tells the thread to write what is left and to end; the thread, to be waited for. Call when the analysis has
    /// ended.
    pub fn stop(self) -> JoinHandle<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
    }
}

/// Starts the thread that writes the newest memory into `folder`.
pub fn spawn(folder: PathBuf, boot: u128, newest: Arc<Latest<Memory>>) -> io::Result<Writer> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::Builder::new().name("memory".into()).spawn(move || {
        let mut unwritten: Option<Memory> = None;
        let mut trouble = Trouble::default();
        loop {
            // What was put before the end was asked for must still be written.
            let last = stopped.load(Ordering::Relaxed);
            let patience = if last { Duration::ZERO } else { PATIENCE };
            unwritten = newest.take(patience).or(unwritten);
            if let Some(memory) = &unwritten {
                match write(&folder, boot, memory) {
                    Ok(()) => unwritten = None,
                    Err(error) => trouble.report(clock::monotonic(), &folder, &error),
                }
                METRICS.memory_degraded.set(i64::from(unwritten.is_some()));
                // A disk that fails holds nobody up: that is said, and the events go on.
                newest.settle();
                if unwritten.is_none() {
                    trouble.end();
                }
            }
            if last {
                return;
            }
        }
    })?;
    Ok(Writer { stop, thread })
}

/// Keeps a full disk from filling the log as well.
#[derive(Debug, Default)]
struct Trouble {
    said: Option<Timestamp>,
}

impl Trouble {
    fn report(&mut self, now: Timestamp, folder: &Path, error: &io::Error) {
        if self.said.is_none_or(|said| now.since(said) >= SUM_UP) {
            tracing::error!(
                "{} cannot be written: {error}; what happens to alarms now will not survive a restart",
                folder.join(FILE).display()
            );
            self.said = Some(now);
        }
    }

    fn end(&mut self) {
        if self.said.take().is_some() {
            tracing::info!("the memory of the alarms is on disk again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock::UtcMillis;
    use crate::rules::RuleMemory;
    use crate::rules::guard::{SetLimit, Shelf};
    use crate::types::command::{Deed, Limit};
    use crate::types::{CameraId, Held, RuleId};

    const NOW: Now = Now { mono: Timestamp::from_nanos(5_000), utc: UtcMillis(7_000) };

    fn memory() -> Memory {
        let deed = Deed { by: "ann".into(), at: UtcMillis(1) };
        let shelf =
            Shelf { by: "ann".into(), until: Timestamp::from_nanos(9_000), until_utc: UtcMillis(11_000) };
        let rule = RuleMemory {
            held: Some(Held { acknowledged: Some(deed.clone()) }),
            off: Some(deed),
            shelf: Some(shelf),
            limits: BTreeMap::from([(Limit::AlarmM, SetLimit { value_m: 0.8, instead_of_m: 0.5 })]),
        };
        let rules = BTreeMap::from([(RuleId::new("edge").unwrap(), rule)]);
        BTreeMap::from([(CameraId::new("dock").unwrap(), rules)])
    }

    #[test]
    fn what_is_written_is_read_and_other_boots_end_shelving() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path(), 7, NOW), Memory::new());
        write(folder.path(), 7, &memory()).unwrap();
        assert_eq!(load(folder.path(), 7, NOW), memory());
        for boot in [8, 0] {
            let loaded = load(folder.path(), boot, NOW);
            let shelf = loaded.values().next().unwrap().values().next().unwrap().shelf.clone().unwrap();
            assert_eq!((shelf.until, shelf.until_utc), (NOW.mono, NOW.utc));
        }
    }

    #[test]
    fn every_torn_or_changed_file_is_forgotten_and_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 7, &memory()).unwrap();
        let good = fs::read(folder.path().join(FILE)).unwrap();
        let spoil = |bytes: &[u8]| {
            fs::write(folder.path().join(FILE), bytes).unwrap();
            load(folder.path(), 7, NOW)
        };
        for length in 0..good.len() {
            assert_eq!(spoil(&good[..length]), Memory::new(), "{length} bytes");
        }
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x04;
            assert_eq!(spoil(&bytes), Memory::new(), "byte {at}");
        }
        assert!(folder.path().join("memory.json.bad").exists());
        assert!(!folder.path().join(FILE).exists());
        assert_eq!(spoil(&good), memory());
        let json = r#"{"v":2,"boot":"0","rules":{}}"#;
        assert_eq!(spoil(format!("{json}\n{}", checksum(json)).as_bytes()), Memory::new());
    }

    #[test]
    fn the_thread_writes_the_newest_and_what_is_left_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let newest = Arc::new(Latest::default());
        let writer = spawn(folder.path().to_owned(), 7, newest.clone()).unwrap();
        newest.put(Memory::new());
        newest.put(memory());
        writer.stop().join().unwrap();
        assert_eq!(load(folder.path(), 7, NOW), memory());
    }

    #[test]
    fn what_cannot_be_written_is_said_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("later");
        let newest = Arc::new(Latest::default());
        let writer = spawn(missing.clone(), 7, newest.clone()).unwrap();
        newest.put(memory());
        let wait = |what: &dyn Fn() -> bool| {
            let end = clock::monotonic() + Duration::from_secs(20);
            while !what() {
                assert!(clock::monotonic() < end);
                std::thread::park_timeout(Duration::from_millis(10));
            }
        };
        wait(&|| METRICS.memory_degraded.get() == 1);
        fs::create_dir(&missing).unwrap();
        wait(&|| METRICS.memory_degraded.get() == 0);
        assert_eq!(load(&missing, 7, NOW), memory());
        writer.stop().join().unwrap();
    }
}
