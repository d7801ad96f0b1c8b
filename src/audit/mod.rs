//! The audit log: what happened, who did what, and which configuration ran, as JSON lines that are chained by
//! their hashes, so that a change shows. docs/audit.md says what that proves and what not.
//!
//! The `audit` thread owns the files. Everyone else only drops an [`Entry`] into a bounded channel and never
//! waits: when the disk is too slow or full, entries are lost, counted, and the loss is an entry itself.
//!
//! `chain` is the line, `log` the files, `verify` the check.

mod chain;
mod log;
mod verify;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

pub use chain::Head;
pub use verify::{Broken, Note, Report, VerifyError, verify};

use crate::clock::{self, Timestamp, UtcMillis};
use crate::metrics::METRICS;
use crate::types::Transition;
use log::{Log, LogError};

/// Entries that may wait for the thread.
const WAITING_MAX: usize = 1024;
/// Entries that are written with one sync.
const BATCH_MAX: usize = 256;
/// How long the thread sleeps when there is nothing to write, and between attempts when it cannot write.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is said that nothing can be written.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Something that is worth a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    ts: UtcMillis,
    kind: &'static str,
    data: Value,
}

impl Entry {
    /// Of any kind. `data` must hold no secret.
    pub fn new(ts: UtcMillis, kind: &'static str, data: Value) -> Self {
        Self { ts, kind, data }
    }

    /// The daemon has started with the configuration of this hash.
    pub fn started(ts: UtcMillis, node: &str, config_sha256: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self::new(ts, "started", json!({"version": version, "node": node, "config_sha256": config_sha256}))
    }

    /// The daemon is about to end.
    pub fn stopped(ts: UtcMillis) -> Self {
        Self::new(ts, "stopped", json!({}))
    }

    /// A rule's state changed, or a person did something to the rule.
    pub fn event(event: &Transition) -> Self {
        let status = &event.status;
        let distance = status.distance.as_ref();
        let mut data = json!({
            "event_id": event.event_id,
            "camera": status.camera,
            "rule": status.rule,
            "what": event.what,
            "from": event.from.word(),
            "to": status.state.word(),
            "reason": status.state.reason(),
            "nearest_m": distance.map(|distance| round(distance.nearest_m)),
            "lower_m": distance.map(|distance| round(distance.lower_m)),
            "warning_m": status.warning_m,
            "alarm_m": status.alarm_m,
            "captured_ms": status.captured.map(|captured| captured.0),
        });
        if let (Some(order), Some(data)) = (&event.order, data.as_object_mut()) {
            data.insert("order".to_owned(), json!(order));
        }
        Self::new(status.ts, "event", data)
    }
}

fn round(metres: f64) -> f64 {
    (metres * 1000.0).round() / 1000.0
}

/// Where the log lies and how large it may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// The folder; made when it is missing.
    pub folder: PathBuf,
    /// Beyond this the oldest file is deleted, which is an entry itself. Bytes.
    pub max_bytes: u64,
}

/// Everyone's side: takes entries and never waits.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    to: Option<Shared>,
}

#[derive(Debug, Clone)]
struct Shared {
    sender: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

impl Audit {
    /// An audit that keeps nothing, for replays and where it is switched off.
    pub fn off() -> Self {
        Self::default()
    }

    /// Leaves an entry, or gives it back to be offered again when there is no room: true when it was taken.
    pub fn offer(&self, entry: Entry) -> bool {
        self.to.as_ref().is_none_or(|to| to.sender.try_send(entry).is_ok())
    }

    /// Leaves an entry. When the thread is too far behind it is lost and counted.
    pub fn note(&self, entry: Entry) {
        if let Some(to) = &self.to
            && to.sender.try_send(entry).is_err()
        {
            to.lost.fetch_add(1, Ordering::Relaxed);
            METRICS.audit_dropped.inc();
        }
    }
}

/// The thread.
#[derive(Debug)]
pub struct Auditor {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    head: watch::Receiver<Option<Head>>,
}

impl Auditor {
    /// The newest entry that is on disk: kept elsewhere it proves that nothing was cut off.
    pub fn head(&self) -> watch::Receiver<Option<Head>> {
        self.head.clone()
    }

    /// Asks the thread to write what waits, once, and to end.
    pub fn stop(self) -> JoinHandle<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
    }
}

/// Starts the thread. It runs also while the folder cannot be written, says so and tries again.
pub fn spawn(settings: AuditSettings) -> std::io::Result<(Audit, Auditor)> {
    let (sender, entries) = sync_channel(WAITING_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let (head_sender, head) = watch::channel(None);
    let mut writer = Writer { settings, log: None, lost: lost.clone(), head: head_sender, reported: None };
    let stopping = stop.clone();
    let thread = std::thread::Builder::new().name("audit".into()).spawn(move || {
        writer.run(&entries, &stopping);
    })?;
    Ok((Audit { to: Some(Shared { sender, lost }) }, Auditor { thread, stop, head }))
}

struct Writer {
    settings: AuditSettings,
    log: Option<Log>,
    lost: Arc<AtomicU64>,
    head: watch::Sender<Option<Head>>,
    reported: Option<Timestamp>,
}

impl Writer {
    fn run(&mut self, entries: &Receiver<Entry>, stop: &AtomicBool) {
        let mut batch: VecDeque<Entry> = VecDeque::new();
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            // A batch that could not be written is tried again before more is taken.
            if batch.is_empty() {
                match entries.recv_timeout(if stopping { Duration::ZERO } else { PATIENCE }) {
                    Ok(entry) => batch.push_back(entry),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                batch.extend(entries.try_iter().take(BATCH_MAX - batch.len()));
            } else {
                std::thread::park_timeout(PATIENCE);
            }
            let nothing_left = batch.is_empty();
            match self.write(&mut batch) {
                Ok(()) => {
                    METRICS.audit_degraded.set(0);
                }
                Err(error) => {
                    self.log = None;
                    METRICS.audit_degraded.set(1);
                    self.report(&error);
                    if stopping {
                        return;
                    }
                }
            }
            if stopping && nothing_left {
                return;
            }
        }
    }

    /// Writes the batch; what is written leaves it, so that after an error nothing is written twice.
    fn write(&mut self, batch: &mut VecDeque<Entry>) -> Result<(), LogError> {
        let lost = self.lost.load(Ordering::Relaxed);
        if batch.is_empty() && lost == 0 && self.log.is_some() {
            return Ok(());
        }
        let log = match self.log.take() {
            Some(log) => self.log.insert(log),
            None => self.log.insert(Log::open(&self.settings, clock::utc())?),
        };
        if lost > 0 {
            log.append(clock::utc(), "lost", &json!({ "entries": lost }))?;
            // Only what was stated is taken off: meanwhile more may have been lost.
            self.lost.fetch_sub(lost, Ordering::Relaxed);
        }
        while let Some(entry) = batch.front() {
            log.append(entry.ts, entry.kind, &entry.data)?;
            METRICS.audit_records.inc();
            batch.pop_front();
        }
        log.sync()?;
        self.head.send_replace(Some(log.head().clone()));
        Ok(())
    }

    fn report(&mut self, error: &LogError) {
        let now = clock::monotonic();
        if self.reported.is_none_or(|last| now.since(last) >= REPORT_EVERY) {
            self.reported = Some(now);
            tracing::error!(%error, "the audit log cannot be written; entries wait, and are lost when there are too many");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(i: u64) -> Entry {
        Entry::new(UtcMillis(1_790_000_000_000), "test", json!({ "i": i }))
    }

    #[test]
    fn what_is_noted_is_chained_on_disk_and_the_head_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let settings = AuditSettings { folder: folder.path().join("audit"), max_bytes: 1 << 20 };
        let (audit, auditor) = spawn(settings.clone()).unwrap();
        (0..100).for_each(|i| audit.note(entry(i)));
        let head = auditor.head();
        auditor.stop().join().unwrap();
        let report = verify(&settings.folder, None).unwrap();
        assert_eq!((report.records, report.broken), (100, None));
        assert_eq!(report.head, *head.borrow());
    }

    #[test]
    fn entries_wait_for_a_folder_that_cannot_be_written_and_losses_are_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let settings = AuditSettings { folder: folder.path().join("audit"), max_bytes: 1 << 20 };
        std::fs::write(&settings.folder, "in the way").unwrap();
        let (audit, auditor) = spawn(settings.clone()).unwrap();
        // More than channel and batch hold.
        let sent = (WAITING_MAX + BATCH_MAX + 50) as u64;
        (0..sent).for_each(|i| audit.note(entry(i)));
        let shared = audit.to.clone().unwrap();
        let lost = shared.lost.load(Ordering::Relaxed);
        assert!(lost > 0);
        std::fs::remove_file(&settings.folder).unwrap();
        let mut head = auditor.head();
        let written = async {
            head.wait_for(|head| head.as_ref().is_some_and(|head| head.n > WAITING_MAX as u64)).await.is_ok()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert!(
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), written).await }).unwrap()
        );
        auditor.stop().join().unwrap();
        let report = verify(&settings.folder, None).unwrap();
        assert_eq!(report.broken, None);
        assert!(
            report.notes.iter().any(|note| matches!(note, Note::Lost { entries, .. } if *entries == lost)),
            "{report:?}"
        );
        // What was sent, less what was lost, and the entry that says so.
        assert_eq!(report.records, sent - lost + 1);
    }

    #[test]
    fn an_audit_that_is_off_takes_everything_and_does_nothing() {
        Audit::off().note(entry(1));
    }
}
