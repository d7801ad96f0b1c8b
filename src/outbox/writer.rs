//! The thread `journal`: takes what was pushed, puts it on disk, and only then shows it to the readers. When the
//! disk fails it says so, lets events go on from memory, and tries again; it decides no state and holds no lock
//! while it writes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::journal::{Found, Head, Journal, JournalError};
use super::mark::Mark;
use super::{Held, Inner, JournalState, Outbox, OutboxSettings, new_epoch};
use crate::clock::{self, Stamp, Timestamp};
use crate::heartbeat::Pulse;
use crate::metrics::METRICS;

/// How long the thread sleeps at most; how late the readers' progress reaches the disk when no event does.
const WAKE: Duration = Duration::from_millis(200);
/// Events of one batch, which is one fdatasync.
const BATCH_MAX: usize = 256;
/// How long events wait for what must be on disk before them. They are worth more than it.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a failing disk is tried.
const RETRY: Duration = Duration::from_secs(1);
/// How often a failing disk is spoken of.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Why the outbox cannot be opened at all. A disk that fails is no reason: then it goes on from memory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon uses the folder.
    #[error("the state folder {0}")]
    InUse(JournalError),
    /// The thread could not be started.
    #[error("the thread `journal` cannot be started: {0}")]
    Thread(std::io::Error),
}

/// The running thread. When dropped it writes what is left to write and ends; the readers should be done before.
#[derive(Debug)]
pub struct Writer {
    outbox: Arc<Outbox>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.outbox.lock().stop = true;
        self.outbox.work.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(thread = "journal", "the thread had failed");
        }
    }
}

impl Outbox {
    /// With a journal below `state_dir`. What readers of these names have not delivered waits for them; other
    /// readers that the journal knows are forgotten.
    ///
    /// Errors when another daemon has the folder. When the disk fails it starts all the same, degraded.
    pub fn open(
        settings: OutboxSettings,
        state_dir: &Path,
        readers: &[&str],
        pulse: Pulse,
    ) -> Result<(Arc<Self>, Writer), OpenError> {
        let outbox = Self::in_memory(settings.clone());
        let epoch = outbox.lock().epoch.clone();
        let mut disk = Disk {
            state_dir: state_dir.to_owned(),
            settings,
            journal: None,
            was_open: false,
            retry_at: clock::monotonic() + RETRY,
            warned: None,
            slow: None,
        };
        match Journal::open(state_dir, disk.settings.max_bytes, &epoch) {
            Ok((mut journal, found)) => {
                disk.was_open = true;
                let mut inner = outbox.lock();
                inner.take_over(found, readers, &epoch);
                journal.head.clone_from(&inner.head());
                inner.journal = JournalState::Sound;
                drop(inner);
                let done = journal.write_head();
                disk.journal = Some(journal);
                if let Err(error) = done {
                    disk.fail(&outbox, vec![], &error.to_string());
                }
            }
            Err(error @ JournalError::InUse { .. }) => return Err(OpenError::InUse(error)),
            Err(error) => {
                let mut inner = outbox.lock();
                // Far above those of any journal, so that one that turns up later has smaller ones.
                let now = u64::try_from(clock::utc().0).unwrap_or(0);
                inner.next_number = (now << 20).max(1);
                let newest = inner.next_number - 1;
                inner.readers = readers.iter().map(|name| ((*name).to_owned(), Mark::at(newest))).collect();
                drop(inner);
                disk.fail(&outbox, vec![], &error.to_string());
            }
        }
        let outbox = Arc::new(outbox);
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn({
                let outbox = outbox.clone();
                move || disk.run(&outbox, &pulse)
            })
            .map_err(OpenError::Thread)?;
        Ok((outbox.clone(), Writer { outbox, thread: Some(thread) }))
    }

    /// Waits for something to write.
    fn work(&self) -> Work {
        let idle = |inner: &mut Inner| inner.incoming.is_empty() && !inner.stop;
        let waited = self.work.wait_timeout_while(self.lock(), WAKE, idle);
        let mut inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        let count = inner.incoming.len().min(BATCH_MAX);
        let mut events: Vec<Held> = inner.incoming.drain(..count).collect();
        events.iter_mut().for_each(|held| inner.number(held));
        inner.writing = events.len();
        let uptime = clock::stamp().uptime;
        let Inner { readers, readers_changed, .. } = &mut *inner;
        for mark in readers.values_mut() {
            let before = mark.released;
            mark.release(uptime, self.settings.resend);
            *readers_changed |= mark.released != before;
        }
        inner.prune();
        let readers = std::mem::take(&mut inner.readers_changed).then(|| inner.readers.clone());
        Work { events, readers, stop: inner.stop && inner.incoming.is_empty() }
    }

    /// Shows a batch to the readers. What had to make room on disk goes from memory too.
    fn show(&self, events: Vec<Held>, overwritten: u64) {
        let mut inner = self.lock();
        inner.writing = 0;
        for held in events {
            inner.show(held);
        }
        while inner.events.front().is_some_and(|held| held.number <= overwritten && held.saved) {
            inner.drop_oldest("no_room");
        }
        self.announce(inner);
        self.written.notify_all();
    }

    fn drop_old(&self, now: &Stamp) {
        let mut inner = self.lock();
        let is_old = |held: &Held| now.age_of(&held.stamp).is_some_and(|age| age > self.settings.max_age);
        while inner.events.front().is_some_and(is_old) {
            inner.drop_oldest("too_old");
        }
    }
}

struct Work {
    events: Vec<Held>,
    /// The readers' marks, when they have changed.
    readers: Option<BTreeMap<String, Mark>>,
    stop: bool,
}

impl Inner {
    /// Goes on where the journal ends.
    fn take_over(&mut self, found: Found, readers: &[&str], epoch: &str) {
        for problem in &found.problems {
            tracing::warn!("journal: {problem}");
        }
        let head = found.head.clone().unwrap_or_else(|| self.head());
        let newest = head.next_number - 1;
        for name in readers {
            let fresh = Mark::at(if found.knows_readers { newest } else { 0 });
            let mut mark = head.readers.get(*name).cloned().unwrap_or(fresh);
            let missing = found.missing(&mark);
            if missing > 0 {
                tracing::error!(
                    reader = name,
                    missing,
                    "journal: events are lost; they are counted as dropped"
                );
                METRICS.events_dropped.of(&[name, &"damaged"]).inc_by(missing);
                mark.dropped += missing;
            }
            self.readers.insert((*name).to_owned(), mark);
        }
        self.epoch = if head.epoch.is_empty() { epoch.to_owned() } else { head.epoch };
        (self.next_seq, self.next_number) = (head.next_seq, head.next_number);
        self.events = found.events.into();
        self.prune();
        let waiting = self.events.len();
        if waiting > 0 {
            tracing::info!(waiting, "journal: events of before wait for their readers");
        }
    }

    fn head(&self) -> Head {
        Head {
            epoch: self.epoch.clone(),
            next_seq: self.next_seq,
            next_number: self.next_number,
            checked: self.next_number,
            readers: self.readers.clone(),
        }
    }
}

/// The journal, or what is known of its absence.
struct Disk {
    state_dir: PathBuf,
    settings: OutboxSettings,
    journal: Option<Journal>,
    /// Whether it was open in this process.
    was_open: bool,
    retry_at: Timestamp,
    warned: Option<Timestamp>,
    /// When it was said last that it is slow.
    slow: Option<Timestamp>,
}

impl Disk {
    fn run(mut self, outbox: &Outbox, pulse: &Pulse) {
        loop {
            let work = outbox.work();
            let now = clock::monotonic();
            pulse.beat(now);
            if !work.events.is_empty() {
                self.wait(outbox, now);
            }
            self.write(outbox, work.events, work.readers.as_ref());
            if self.journal.is_none() && now >= self.retry_at {
                self.retry_at = now + RETRY;
                if let Err(problem) = self.recover(outbox) {
                    self.journal = None;
                    self.say(outbox, &problem);
                }
            }
            outbox.drop_old(&clock::stamp());
            if work.stop {
                return;
            }
        }
    }

    /// Waits for what must be on disk before the events.
    fn wait(&mut self, outbox: &Outbox, now: Timestamp) {
        let in_time = outbox.before.get().is_none_or(|before| (before.0)(PATIENCE));
        if !in_time && self.slow.is_none_or(|said| now.since(said) >= WARN_EVERY) {
            self.slow = Some(now);
            tracing::warn!("the disk is slow: events go out before the memory of the rules is on it");
        }
    }

    fn write(&mut self, outbox: &Outbox, mut events: Vec<Held>, readers: Option<&BTreeMap<String, Mark>>) {
        let Some(journal) = &mut self.journal else { return outbox.show(events, 0) };
        if events.is_empty() && readers.is_none() {
            return;
        }
        match journal.write(readers, &events) {
            Ok(overwritten) => {
                events.iter_mut().for_each(|held| held.saved = true);
                let released = journal.head.readers.values().map(|mark| mark.released).min().unwrap_or(0);
                let bytes = journal.needed_bytes(released);
                outbox.lock().journal_bytes = bytes;
                METRICS.journal_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
                outbox.show(events, overwritten);
            }
            Err(error) => self.fail(outbox, events, &error.to_string()),
        }
    }

    /// The disk does not take these events: they and what comes go on from memory, under a new epoch. Its ids
    /// are not on disk, and one that a crash makes us forget must not be given twice.
    fn fail(&mut self, outbox: &Outbox, mut events: Vec<Held>, problem: &str) {
        self.journal = None;
        self.retry_at = clock::monotonic() + RETRY;
        let mut inner = outbox.lock();
        inner.epoch = new_epoch();
        inner.next_seq = 1;
        let mut incoming = std::mem::take(&mut inner.incoming);
        for held in events.iter_mut().chain(&mut incoming) {
            let event = Arc::make_mut(&mut held.event);
            event.seq = inner.next_seq;
            event.event_id = format!("{}-{}", inner.epoch, inner.next_seq);
            inner.next_seq += 1;
        }
        inner.incoming = incoming;
        inner.readers_changed = true;
        drop(inner);
        self.say(outbox, problem);
        outbox.show(events, 0);
    }

    /// Says that there is no journal, loudly and not too often.
    fn say(&mut self, outbox: &Outbox, problem: &str) {
        outbox.lock().journal = JournalState::Degraded(problem.to_owned());
        METRICS.journal_degraded.set(1);
        let now = clock::monotonic();
        if self.warned.is_none_or(|warned| now.since(warned) >= WARN_EVERY) {
            self.warned = Some(now);
            tracing::warn!(
                "events are not written to disk, a crash would lose those that wait: {problem}; \
                 check the space and the rights of the state folder"
            );
        }
    }

    /// Opens the journal again and writes what is only in memory.
    fn recover(&mut self, outbox: &Outbox) -> Result<(), String> {
        // The old one has to let go of its lock first.
        self.journal = None;
        let epoch = outbox.lock().epoch.clone();
        let (mut journal, found) = Journal::open(&self.state_dir, self.settings.max_bytes, &epoch)
            .map_err(|error| error.to_string())?;
        let on_disk: BTreeSet<u64> = found.events.iter().map(|held| held.number).collect();
        let mut inner = outbox.lock();
        let mut joined = vec![];
        if !self.was_open {
            if inner.first_number() < journal.head.next_number {
                return Err("the journal there is newer than this run; move its folder away".to_owned());
            }
            joined = inner.join(&found);
        }
        let only_here = |held: &&Held| !on_disk.contains(&held.number);
        let unsaved: Vec<Held> = inner.events.iter().filter(only_here).chain(&joined).cloned().collect();
        let mut head = inner.head();
        // What was pushed and not yet taken is not on disk.
        head.next_seq -= inner.incoming.len() as u64;
        drop(inner);
        let mut overwritten = 0;
        for batch in unsaved.chunks(BATCH_MAX) {
            overwritten = overwritten.max(journal.write(None, batch).map_err(|error| error.to_string())?);
        }
        journal.head = head;
        journal.write_head().map_err(|error| error.to_string())?;
        self.was_open = true;
        self.journal = Some(journal);
        self.warned = None;
        let mut inner = outbox.lock();
        inner.events.iter_mut().for_each(|held| held.saved = true);
        inner.unsaved = 0;
        inner.journal = JournalState::Sound;
        drop(inner);
        joined.iter_mut().for_each(|held| held.saved = true);
        outbox.show(joined, overwritten);
        METRICS.journal_degraded.set(0);
        tracing::info!(written = unsaved.len(), "events are written to disk again");
        Ok(())
    }
}

impl Inner {
    /// Number of the oldest event that this process may hold.
    fn first_number(&self) -> u64 {
        let first = self.events.front().map_or(self.next_number, |held| held.number);
        self.readers.values().map(|mark| mark.released + 1).min().unwrap_or(first).min(first)
    }

    /// What waits in a journal that turned up after the start, with new numbers: it comes after what is here, with
    /// its own ids and ages.
    fn join(&mut self, found: &Found) -> Vec<Held> {
        let Some(head) = &found.head else { return vec![] };
        let delivered = |name| head.readers.get(name).map_or(head.next_number, |mark| mark.delivered);
        let delivered = self.readers.keys().map(delivered).min().unwrap_or(u64::MAX);
        let mut joined: Vec<Held> =
            found.events.iter().filter(|held| held.number > delivered).cloned().collect();
        joined.iter_mut().for_each(|held| self.number(held));
        joined
    }
}
