//! The journal's files: a ring of segments whose space is reserved when they are made, so that a disk that
//! fills up later does not hurt. Owned by the journal's thread; knows nothing of readers and locks.
//!
//! Records are only ever appended, each batch with one fdatasync. When a segment is full the oldest is used
//! again: its first record says how far everything is, so that nothing depends on what it held. What is found
//! damaged is said and stepped over.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Held;
use super::mark::Mark;
use super::segment::{self, BODY_MAX};
use crate::clock::Stamp;
use crate::types::Transition;

/// Segments of the ring. When it is full, this part of it goes at once.
const SEGMENTS: usize = 8;

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another daemon uses the folder.
    #[error("{path} is used by another daemon{holder}: stop it, or give this one a `state_dir` of its own")]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Which process, as far as it is known.
        holder: String,
    },
    /// A file cannot be made, read or written.
    #[error("{path}: {error}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
}

/// How far everything is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// First part of the ids of events.
    pub epoch: String,
    /// `seq` of the next event.
    pub next_seq: u64,
    /// Number of the next event.
    pub next_number: u64,
    /// Numbers below were looked at for gaps.
    pub checked: u64,
    /// The readers.
    pub readers: BTreeMap<String, Mark>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum RecordRef<'a> {
    Head(&'a Head),
    Readers(&'a BTreeMap<String, Mark>),
    Event { number: u64, stamp: &'a Stamp, event: &'a Transition },
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Head(Head),
    Readers(BTreeMap<String, Mark>),
    Event { number: u64, stamp: Stamp, event: Box<Transition> },
}

/// What was found on disk.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Every event that is still there, in order.
    pub events: Vec<Held>,
    /// How far everything was; none in a new journal.
    pub head: Option<Head>,
    /// Whether any record said how far the readers were.
    pub knows_readers: bool,
    /// What is wrong, for people.
    pub problems: Vec<String>,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: File,
    /// 0 while it was never used.
    generation: u64,
    /// Number of the last event in it, 0 for none.
    last_event: u64,
    bytes: u64,
}

/// The open journal.
#[derive(Debug)]
pub(super) struct Journal {
    segments: Vec<Segment>,
    current: usize,
    /// Where the next record goes in the current segment.
    offset: u64,
    segment_bytes: u64,
    pub head: Head,
    /// Locked as long as it is open.
    _lock: File,
}

impl Journal {
    /// Opens the journal below `state_dir`, or makes it. `epoch` names a new one.
    pub fn open(state_dir: &Path, max_bytes: u64, epoch: &str) -> Result<(Self, Found), JournalError> {
        let folder = state_dir.join("journal");
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| JournalError::File { path, error }
        };
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let lock = lock(state_dir)?;
        let segment_bytes = max_bytes / SEGMENTS as u64;
        let mut found = Found::default();
        let mut segments = Vec::with_capacity(SEGMENTS);
        let mut contents = Vec::with_capacity(SEGMENTS);
        for index in 0..SEGMENTS {
            let path = folder.join(format!("{index}.segment"));
            let (segment, content) = Segment::open(&path, segment_bytes).map_err(at(&path))?;
            segments.push(segment);
            contents.push(content);
        }
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(at(&folder))?;
        let scans: Vec<segment::Scan> = contents.iter().map(|content| segment::scan(content)).collect();
        let mut order: Vec<usize> = (0..SEGMENTS).filter(|index| scans[*index].generation > 0).collect();
        order.sort_by_key(|index| scans[*index].generation);
        for index in &order {
            let (segment, scan, content) = (&mut segments[*index], &scans[*index], &contents[*index]);
            segment.generation = scan.generation;
            segment.last_event = found.take(segment, scan, content);
        }
        found.events.sort_by_key(|held| held.number);
        found.events.dedup_by_key(|held| held.number);
        let current = order.last().copied().unwrap_or(0);
        let head = found.head.clone().unwrap_or_else(|| Head::new(epoch));
        let offset = scans[current].end as u64;
        let mut journal = Self { segments, current, offset, segment_bytes, head, _lock: lock };
        let path = journal.segments[current].path.clone();
        if order.is_empty() {
            journal.begin_segment().map_err(at(&path))?;
        } else if scans[current].has_rest {
            journal.segments[current].clear(offset).map_err(at(&path))?;
        }
        Ok((journal, found))
    }

    /// Appends and syncs. What is in `events` is on disk after this; on an error all of it must be written
    /// again. Gives the number up to which old events had to make room, 0 for none.
    pub fn write(&mut self, readers: Option<&BTreeMap<String, Mark>>, events: &[Held]) -> io::Result<u64> {
        self.segments[self.current].check()?;
        let mut batch = Vec::new();
        let mut overwritten = 0;
        if let Some(readers) = readers {
            self.head.readers = readers.clone();
            let body = body(&RecordRef::Readers(readers))?;
            overwritten = overwritten.max(self.add(&mut batch, &body)?);
        }
        for Held { number, stamp, event, .. } in events {
            let body = body(&RecordRef::Event { number: *number, stamp, event })?;
            overwritten = overwritten.max(self.add(&mut batch, &body)?);
            self.head.take(*number, event);
            self.segments[self.current].last_event = *number;
        }
        self.flush(&mut batch)?;
        Ok(overwritten)
    }

    /// Says how far everything is.
    pub fn write_head(&mut self) -> io::Result<()> {
        let body = body(&RecordRef::Head(&self.head))?;
        let mut batch = Vec::new();
        self.add(&mut batch, &body)?;
        self.flush(&mut batch)
    }

    /// Bytes of segments in which something is newer than `released`.
    pub fn needed_bytes(&self, released: u64) -> u64 {
        let needed = self.segments.iter().filter(|segment| segment.last_event > released);
        needed.map(|segment| segment.bytes).sum()
    }

    /// Puts a record into the batch; begins another segment when this one is full.
    fn add(&mut self, batch: &mut Vec<u8>, body: &[u8]) -> io::Result<u64> {
        let mut overwritten = 0;
        let mut frame = segment::frame(self.segments[self.current].generation, body);
        let end = self.offset + (batch.len() + frame.len()) as u64;
        if end > self.segments[self.current].bytes {
            self.flush(batch)?;
            overwritten = self.begin_segment()?;
            frame = segment::frame(self.segments[self.current].generation, body);
        }
        batch.extend(frame);
        Ok(overwritten)
    }

    fn flush(&mut self, batch: &mut Vec<u8>) -> io::Result<()> {
        let file = &self.segments[self.current].file;
        if !batch.is_empty() {
            file.write_all_at(batch, self.offset)?;
            file.sync_data()?;
            self.offset += batch.len() as u64;
            batch.clear();
        }
        Ok(())
    }

    /// Takes the oldest segment for the next generation. Its first record is written over the old content before
    /// the rest is wiped: a crash in between leaves either the old or the new.
    fn begin_segment(&mut self) -> io::Result<u64> {
        let newest = self.segments.iter().map(|segment| segment.generation).max().unwrap_or(0);
        let Some(oldest) = (0..SEGMENTS).min_by_key(|index| self.segments[*index].generation) else {
            return Ok(0);
        };
        let record = body(&RecordRef::Head(&self.head))?;
        let generation = newest + 1;
        // Twice, so that no single damage takes it.
        let head = segment::frame(generation, &record).repeat(2);
        let segment = &mut self.segments[oldest];
        segment.check()?;
        segment.file.write_all_at(&head, 0)?;
        segment.file.sync_data()?;
        let overwritten = segment.last_event;
        segment.generation = generation;
        segment.last_event = 0;
        segment.resize(self.segment_bytes);
        segment.clear(head.len() as u64)?;
        (self.current, self.offset) = (oldest, head.len() as u64);
        Ok(overwritten)
    }
}

impl Segment {
    /// Opens the file, with its space reserved, and reads it.
    fn open(path: &Path, wanted: u64) -> io::Result<(Self, Vec<u8>)> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() == 0 {
            reserve(&file, wanted)?;
        }
        let bytes = file.metadata()?.len();
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok((Self { path: path.to_owned(), file, generation: 0, last_event: 0, bytes }, content))
    }

    /// Writes zeros from there to the end.
    fn clear(&self, from: u64) -> io::Result<()> {
        let zeros = [0; 1 << 16];
        let mut at = from;
        while at < self.bytes {
            let count = zeros.len().min(usize::try_from(self.bytes - at).unwrap_or(usize::MAX));
            self.file.write_all_at(&zeros[..count], at)?;
            at += count as u64;
        }
        self.file.sync_data()
    }

    /// Follows a changed `max_size_mib`, as far as there is room.
    fn resize(&mut self, wanted: u64) {
        if self.bytes > wanted && self.file.set_len(wanted).is_ok()
            || self.bytes < wanted && reserve(&self.file, wanted).is_ok()
        {
            self.bytes = wanted;
        }
    }

    /// A file that was deleted takes writes without an error, and loses them.
    fn check(&self) -> io::Result<()> {
        if self.file.metadata()?.nlink() == 0 {
            return Err(io::Error::other(format!("{} was deleted", self.path.display())));
        }
        Ok(())
    }
}

fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        // Some filesystems cannot; written zeros are the next best.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let mut writer = io::BufWriter::new(file);
            io::copy(&mut io::repeat(0).take(bytes), &mut writer)?;
            writer.flush()
        }
        Err(error) => {
            // An empty file is tried again; one of half the size would be taken for whole.
            file.set_len(0)?;
            Err(error.into())
        }
    }
}

/// Keeps every other daemon away from the folder until the file is closed, also by a crash.
fn lock(state_dir: &Path) -> Result<File, JournalError> {
    let path = state_dir.join("lock");
    let failed = |error: io::Error| JournalError::File { path: path.clone(), error };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim();
            let holder = if pid.is_empty() { String::new() } else { format!(" (process {pid})") };
            return Err(JournalError::InUse { path: state_dir.to_owned(), holder });
        }
        Err(error) => return Err(failed(error.into())),
    }
    // The number is for people; on a full disk it may be missing.
    let _ = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
    Ok(file)
}

fn body(record: &RecordRef<'_>) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(record).map_err(io::Error::other)?;
    if body.len() > BODY_MAX {
        return Err(io::Error::other(format!("a record of {} bytes is too long", body.len())));
    }
    Ok(body)
}

impl Head {
    fn new(epoch: &str) -> Self {
        Self { epoch: epoch.to_owned(), next_seq: 1, next_number: 1, checked: 1, readers: BTreeMap::new() }
    }

    /// An event was written.
    fn take(&mut self, number: u64, event: &Transition) {
        // Events that were brought in from before have another epoch; the newest says which is in force.
        if let Some((epoch, _)) = event.event_id.rsplit_once('-') {
            epoch.clone_into(&mut self.epoch);
            self.next_seq = event.seq + 1;
        }
        self.next_number = number + 1;
    }
}

impl Found {
    /// Takes what one segment holds. Gives the number of its last event.
    fn take(&mut self, segment: &Segment, scan: &segment::Scan, content: &[u8]) -> u64 {
        let path = segment.path.display();
        if scan.damaged > 0 {
            let damaged = scan.damaged;
            self.problems.push(format!("{path}: {damaged} bytes are damaged and were stepped over"));
        }
        if scan.has_rest {
            let end = scan.end;
            self.problems.push(format!("{path}: what follows byte {end} was written by half and is cut off"));
        }
        let (mut last_event, mut unreadable) = (0, 0);
        for body in &scan.bodies {
            match content.get(body.clone()).map(serde_json::from_slice::<Record>) {
                Some(Ok(Record::Head(head))) => {
                    self.head = Some(head);
                    self.knows_readers = true;
                }
                Some(Ok(Record::Readers(readers))) => {
                    self.head.get_or_insert_with(|| Head::new("")).readers = readers;
                    self.knows_readers = true;
                }
                Some(Ok(Record::Event { number, stamp, event })) => {
                    self.head.get_or_insert_with(|| Head::new("")).take(number, &event);
                    last_event = last_event.max(number);
                    self.events.push(Held { number, stamp, event: Arc::from(event), saved: true });
                }
                Some(Err(_)) | None => unreadable += 1,
            }
        }
        if unreadable > 0 {
            self.problems
                .push(format!("{path}: {unreadable} records are of another version and are not read"));
        }
        last_event
    }

    /// Events that `mark` has never got and that are not there: damaged, or of another version.
    pub fn missing(&self, mark: &Mark) -> u64 {
        let Some(head) = &self.head else { return 0 };
        let from = head.checked.max(mark.arrived + 1);
        let there = self.events.iter().filter(|held| held.number >= from).count() as u64;
        head.next_number.saturating_sub(from).saturating_sub(there)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outbox::tests::event;

    fn stamp() -> Stamp {
        Stamp {
            boot: u128::MAX - 5,
            uptime: std::time::Duration::from_nanos(7),
            utc: crate::clock::UtcMillis(9),
        }
    }

    fn held(journal: &Journal) -> Held {
        let mut event = event();
        event.seq = journal.head.next_seq;
        event.event_id = format!("{}-{}", journal.head.epoch, event.seq);
        Held { number: journal.head.next_number, stamp: stamp(), event: Arc::new(event), saved: true }
    }

    /// The next events.
    fn batch(journal: &Journal, count: usize) -> Vec<Held> {
        let next = |i: u64| {
            let mut held = held(journal);
            held.number += i;
            let event = Arc::make_mut(&mut held.event);
            event.seq += i;
            event.event_id = format!("{}-{}", journal.head.epoch, event.seq);
            held
        };
        (0..count as u64).map(next).collect()
    }

    fn append(journal: &mut Journal, count: usize) -> u64 {
        let batch = batch(journal, count);
        journal.write(None, &batch).unwrap()
    }

    fn numbers(found: &Found) -> Vec<u64> {
        found.events.iter().map(|held| held.number).collect()
    }

    fn open(folder: &Path) -> (Journal, Found) {
        Journal::open(folder, 1 << 20, "first").unwrap()
    }

    #[test]
    fn it_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, found) = open(folder.path());
        assert!(found.events.is_empty() && found.head.is_none() && found.problems.is_empty());
        append(&mut journal, 3);
        let marks = BTreeMap::from([("mqtt".to_owned(), Mark::at(2))]);
        journal.write(Some(&marks), &[]).unwrap();
        let expected = journal.head.clone();
        assert!(matches!(
            Journal::open(folder.path(), 1 << 20, "x"),
            Err(JournalError::InUse { holder, .. }) if holder.contains(&std::process::id().to_string())
        ));
        drop(journal);
        let (journal, found) = Journal::open(folder.path(), 1 << 20, "second").unwrap();
        assert_eq!(numbers(&found), [1, 2, 3]);
        assert_eq!(found.events[2].event.event_id, "first-3");
        assert_eq!(found.events[0].stamp, stamp());
        assert_eq!((&journal.head, found.problems.len()), (&expected, 0));
    }

    #[test]
    fn a_full_ring_lets_the_oldest_go_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(folder.path());
        let mut overwritten = 0;
        while overwritten == 0 {
            overwritten = append(&mut journal, 1);
        }
        let last = journal.head.next_number - 1;
        let size: u64 = fs::read_dir(folder.path().join("journal"))
            .unwrap()
            .map(|f| f.unwrap().metadata().unwrap().len())
            .sum();
        assert_eq!(size, 1 << 20, "bounded");
        drop(journal);
        let (_, found) = open(folder.path());
        assert_eq!(numbers(&found), (overwritten + 1..=last).collect::<Vec<_>>());
        assert!(last > 800, "a MiB holds {last} events");
    }

    #[test]
    fn a_file_cut_or_damaged_anywhere_costs_little_and_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(folder.path());
        append(&mut journal, 4);
        let end = usize::try_from(journal.offset).unwrap();
        drop(journal);
        let path = folder.path().join("journal/0.segment");
        let whole = fs::read(&path).unwrap();
        // Every byte of a segment is tried in `segment`; here what the whole makes of it.
        for at in (0..end).step_by(29) {
            let mut torn = whole.clone();
            torn[at..].fill(0);
            fs::write(&path, &torn).unwrap();
            let (mut journal, found) = open(folder.path());
            let count = found.events.len() as u64;
            assert_eq!(numbers(&found), (1..=count).collect::<Vec<_>>(), "cut at {at}");
            append(&mut journal, 1);
            drop(journal);
            let (_, again) = open(folder.path());
            assert_eq!(numbers(&again), (1..=count + 1).collect::<Vec<_>>(), "after a cut at {at}");

            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let (_, found) = open(folder.path());
            assert!(found.events.len() >= 3 && !found.problems.is_empty(), "damaged at {at}");
            let lost = Mark::at(0);
            let trailing = numbers(&found).last() != Some(&4);
            assert_eq!(
                found.missing(&lost),
                u64::from(found.events.len() == 3 && !trailing),
                "damaged at {at}"
            );
        }
    }

    #[test]
    fn a_deleted_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(folder.path());
        fs::remove_dir_all(folder.path().join("journal")).unwrap();
        let held = held(&journal);
        assert!(journal.write(None, &[held]).unwrap_err().to_string().contains("was deleted"));
    }

    #[test]
    fn its_size_follows_the_configuration_as_segments_come_round() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(folder.path());
        append(&mut journal, 10);
        drop(journal);
        let (mut journal, found) = Journal::open(folder.path(), 2 << 20, "x").unwrap();
        assert_eq!(found.events.len(), 10);
        while append(&mut journal, 1) == 0 {}
        let sizes: u64 = journal.segments.iter().map(|segment| segment.bytes).sum();
        assert!(sizes > 1 << 20 && sizes <= 2 << 20, "{sizes}");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Append(usize),
        Mark(u64),
        Reopen,
        /// A batch that the power went in: so many of its bytes reached the disk.
        Crash(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1usize..200).prop_map(Step::Append),
            2 => (0u64..100).prop_map(Step::Mark),
            1 => Just(Step::Reopen),
            2 => (0usize..4000).prop_map(Step::Crash),
        ];
        proptest::collection::vec(step, 1..25)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// What was written is there, in order and without gaps, whatever happened in between.
        #[test]
        fn nothing_that_was_written_is_lost(steps in steps()) {
            let folder = tempfile::tempdir().unwrap();
            let (mut journal, _) = open(folder.path());
            let (mut written, mut first, mut marks) = (0u64, 1u64, BTreeMap::new());
            for step in steps {
                match step {
                    Step::Append(count) => {
                        let overwritten = append(&mut journal, count);
                        written += count as u64;
                        first = first.max(overwritten + 1);
                    }
                    Step::Mark(back) => {
                        marks.insert("r".to_owned(), Mark::at(written.saturating_sub(back)));
                        journal.write(Some(&marks), &[]).unwrap();
                    }
                    Step::Reopen | Step::Crash(_) => {
                        if let Step::Crash(bytes) = step {
                            let generation = journal.segments[journal.current].generation;
                            let frame = |Held { number, stamp, event, .. }: &Held| {
                                let record = RecordRef::Event { number: *number, stamp, event };
                                segment::frame(generation, &body(&record).unwrap())
                            };
                            let batch: Vec<u8> = batch(&journal, 4).iter().flat_map(frame).collect();
                            let room = usize::try_from(journal.segments[journal.current].bytes - journal.offset).unwrap();
                            let part = &batch[..bytes.min(batch.len() - 1).min(room)];
                            journal.segments[journal.current].file.write_all_at(part, journal.offset).unwrap();
                        }
                        drop(journal);
                        let (again, found) = open(folder.path());
                        journal = again;
                        let last = found.events.last().map_or(first - 1, |held| held.number);
                        // Whole records of a torn batch count as written: nobody was told otherwise.
                        prop_assert!(last >= written && last < written + 4, "{last} of {written}");
                        written = last;
                        prop_assert_eq!(numbers(&found), (first..=last).collect::<Vec<_>>());
                        let seqs: Vec<u64> = found.events.iter().map(|held| held.event.seq).collect();
                        prop_assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1));
                        prop_assert_eq!(journal.head.next_number, last + 1);
                        prop_assert_eq!(&journal.head.readers, &marks);
                    }
                }
            }
        }
    }
}
