//! What there is to say: the latest statement on each subject, and events in order until each reader has
//! delivered them. Between the analysis thread, which never waits, and the sinks.
//!
//! Events become visible to readers only when they are in the journal on disk (`journal`, written by the
//! thread of `writer`); statements never wait for a disk. Without a journal, in tests and while the disk
//! fails, events go on from memory.

mod journal;
mod mark;
mod segment;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub use self::journal::JournalError;
use self::mark::{Loss, Mark};
pub use self::writer::{OpenError, Writer};
use crate::clock::{self, Stamp};
use crate::metrics::METRICS;
use crate::types::{
    CameraId, CameraStatus, PairId, PairStatus, Picture, Report, RuleId, RuleStatus, StateName, StateStatus,
    Transition,
};

/// Events kept in memory that are not on disk. Older ones are dropped and counted.
const EVENT_CAPACITY: usize = 10_000;

/// How events wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxSettings {
    /// Space that is reserved on disk, bytes.
    pub max_bytes: u64,
    /// An event that nobody took for so long is dropped and counted.
    pub max_age: Duration,
    /// An older event is late.
    pub max_event_age: Duration,
    /// What was acknowledged within this time is sent again to a broker that has forgotten us.
    pub resend: Duration,
}

impl Default for OutboxSettings {
    fn default() -> Self {
        Self {
            max_bytes: 16 << 20,
            max_age: Duration::from_secs(7 * 86_400),
            max_event_age: Duration::from_secs(60),
            resend: Duration::from_secs(30),
        }
    }
}

/// The reader whose other side proves that an event arrived: the broker's.
const PROOF_READER: &str = "mqtt";

/// Something that replaces what was said before on the same subject.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// State of a rule.
    Rule(RuleStatus),
    /// Health of a camera.
    Camera(CameraStatus),
    /// Distance of a pair.
    Pair(PairStatus),
    /// Value of a taught state.
    State(StateStatus),
    /// Picture of a camera's last alarm.
    Picture(Picture),
    /// What the daemon says of itself.
    Report(Report),
    /// There is nothing to say any more: it was taken out of the configuration.
    Gone(Gone),
}

/// What was taken out of the configuration. Stays said (a broker that is away now must still be told later) until
/// something of the same name comes back; only pairs are forgotten, because nothing retains them.
#[derive(Debug, Clone, PartialEq)]
pub enum Gone {
    /// A rule, with its last words: unknown.
    Rule(Box<RuleStatus>),
    /// A camera.
    Camera(CameraId),
    /// A pair.
    Pair(CameraId, PairId),
    /// A taught state.
    State(CameraId, StateName),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Camera(CameraId),
    Rule(CameraId, RuleId),
    Pair(CameraId, PairId),
    State(CameraId, StateName),
    Audit,
    Proof,
    Daemon,
    // Last: what is large goes out after what is urgent.
    Picture(CameraId),
}

impl Statement {
    fn subject(&self) -> Subject {
        match self {
            Self::Rule(status) => Subject::Rule(status.camera.clone(), status.rule.clone()),
            Self::Gone(Gone::Rule(status)) => Subject::Rule(status.camera.clone(), status.rule.clone()),
            Self::Camera(status) => Subject::Camera(status.camera.clone()),
            Self::Gone(Gone::Camera(id)) => Subject::Camera(id.clone()),
            Self::Gone(Gone::Pair(camera, pair)) => Subject::Pair(camera.clone(), pair.clone()),
            Self::Pair(status) => Subject::Pair(status.camera.clone(), status.pair.clone()),
            Self::State(status) => Subject::State(status.camera.clone(), status.state.clone()),
            Self::Gone(Gone::State(camera, state)) => Subject::State(camera.clone(), state.clone()),
            Self::Report(Report::Audit { .. }) => Subject::Audit,
            Self::Report(Report::Proof(_)) => Subject::Proof,
            Self::Report(Report::Daemon(_)) => Subject::Daemon,
            Self::Picture(picture) => Subject::Picture(picture.camera.clone()),
        }
    }
}

/// An event that waits for a reader.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// To give to [`OutboxReader::delivered`]. Grows from event to event.
    pub number: u64,
    /// The event.
    pub event: Arc<Transition>,
    /// Older than `max_event_age`, or of an age that cannot be told: history, nothing to act upon.
    pub late: bool,
}

/// An event with its place in the order.
#[derive(Debug, Clone)]
struct Held {
    /// 0 before it is taken from the queue.
    number: u64,
    stamp: Stamp,
    event: Arc<Transition>,
    /// Whether it is on disk.
    saved: bool,
}

/// How the journal is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalState {
    /// There is none: events live in memory.
    Absent,
    /// Every event is on disk before anybody sees it.
    Sound,
    /// The disk fails, and how: events go on from memory.
    Degraded(String),
}

#[derive(Debug)]
struct Inner {
    generation: u64,
    statements: BTreeMap<Subject, (u64, Statement)>,
    /// First part of the ids of events.
    epoch: String,
    /// `seq` of the next event.
    next_seq: u64,
    /// Number of the next event.
    next_number: u64,
    /// Pushed, and for the journal's thread to take.
    incoming: VecDeque<Held>,
    /// Taken by it, and not yet visible.
    writing: usize,
    /// What readers may see, oldest first.
    events: VecDeque<Held>,
    /// How many of them are not on disk.
    unsaved: usize,
    readers: BTreeMap<String, Mark>,
    /// Whether the disk knows an older state of the readers.
    readers_changed: bool,
    journal: JournalState,
    /// Bytes on disk that are still needed.
    journal_bytes: u64,
    /// The journal's thread is to end.
    stop: bool,
}

/// The writer's side; one for the whole daemon.
#[derive(Debug)]
pub struct Outbox {
    settings: OutboxSettings,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    /// The proof test's event that the broker acknowledged last.
    proven: watch::Sender<Option<String>>,
    /// There is something for the journal's thread.
    work: Condvar,
    /// It has done something.
    written: Condvar,
    before: OnceLock<Before>,
}

/// What an event waits for before it is written and shown; says whether that was in time.
struct Before(Box<dyn Fn(Duration) -> bool + Send + Sync>);

impl fmt::Debug for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Before")
    }
}

impl Default for Outbox {
    /// In memory only.
    fn default() -> Self {
        Self::in_memory(OutboxSettings::default())
    }
}

impl Outbox {
    /// Without a disk: what waits is lost with the process.
    pub fn in_memory(settings: OutboxSettings) -> Self {
        let inner = Inner {
            generation: 0,
            statements: BTreeMap::new(),
            epoch: new_epoch(),
            next_seq: 1,
            next_number: 1,
            incoming: VecDeque::new(),
            writing: 0,
            events: VecDeque::new(),
            unsaved: 0,
            readers: BTreeMap::new(),
            readers_changed: false,
            journal: JournalState::Absent,
            journal_bytes: 0,
            stop: false,
        };
        Self {
            settings,
            inner: Mutex::new(inner),
            changed: watch::Sender::new(0),
            proven: watch::Sender::new(None),
            work: Condvar::new(),
            written: Condvar::new(),
            before: OnceLock::new(),
        }
    }

    /// Has the journal's thread call `wait` before it writes events, with the longest time that it may take. For
    /// what must be on disk when an event is seen: the memory of the rules. Counts once, from the first call on.
    pub fn show_after(&self, wait: impl Fn(Duration) -> bool + Send + Sync + 'static) {
        let _ = self.before.set(Before(Box::new(wait)));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, mut inner: MutexGuard<'_, Inner>) {
        inner.generation += 1;
        let generation = inner.generation;
        drop(inner);
        self.changed.send_replace(generation);
    }

    /// Replaces what was said on the statement's subject.
    pub fn say(&self, statement: Statement) {
        let mut inner = self.lock();
        let generation = inner.generation + 1;
        if let Statement::Gone(Gone::Camera(id)) = &statement {
            inner.statements.remove(&Subject::Picture(id.clone()));
        }
        if let Statement::Gone(Gone::Pair(..)) = statement {
            inner.statements.remove(&statement.subject());
        } else {
            inner.statements.insert(statement.subject(), (generation, statement));
        }
        self.announce(inner);
    }

    /// The id of the proof test's event that the broker acknowledged last.
    pub fn proven(&self) -> watch::Receiver<Option<String>> {
        self.proven.subscribe()
    }

    /// Appends an event and gives it its `event_id` and `seq`. Never waits for a disk.
    pub fn push(&self, event: Transition) -> Arc<Transition> {
        self.push_at(event, clock::stamp())
    }

    fn push_at(&self, mut event: Transition, stamp: Stamp) -> Arc<Transition> {
        let mut inner = self.lock();
        event.seq = inner.next_seq;
        event.event_id = format!("{}-{}", inner.epoch, inner.next_seq);
        let event = Arc::new(event);
        let mut held = Held { number: 0, stamp, event: event.clone(), saved: false };
        inner.next_seq += 1;
        if inner.journal == JournalState::Absent {
            inner.number(&mut held);
            inner.show(held);
            self.announce(inner);
            return event;
        }
        if inner.incoming.len() >= EVENT_CAPACITY {
            // The disk hangs. Nobody has passed this one, so nobody's mark moves.
            inner.incoming.pop_front();
            for (name, mark) in &mut inner.readers {
                mark.dropped += 1;
                METRICS.events_dropped.of(&[name, &"disk_hangs"]).inc();
            }
        }
        inner.incoming.push_back(held);
        drop(inner);
        self.work.notify_one();
        event
    }

    /// All present statements, for who only looks once in a while.
    pub fn statements(&self) -> Vec<Statement> {
        self.lock().statements.values().map(|(_, statement)| statement.clone()).collect()
    }

    /// The reader of this name: it goes on where it was, or begins with the next event. It starts with the
    /// present statements.
    pub fn reader(self: &Arc<Self>, name: &str) -> OutboxReader {
        let mut inner = self.lock();
        let newest = inner.next_number - 1;
        inner.readers.entry(name.to_owned()).or_insert_with(|| Mark::at(newest));
        drop(inner);
        OutboxReader {
            outbox: self.clone(),
            changed: self.changed.subscribe(),
            name: name.to_owned(),
            seen: 0,
        }
    }

    /// Forgets a reader that the configuration no longer has: nothing waits for it any more.
    pub fn retire(&self, name: &str) {
        let mut inner = self.lock();
        inner.readers_changed |= inner.readers.remove(name).is_some();
        inner.prune();
    }

    /// Waits until every event that was pushed is visible to the readers; false when that is not so in time. For
    /// the end of the daemon: the journal's thread and the readers must still run.
    pub fn flush(&self, patience: Duration) -> bool {
        let inner = self.lock();
        let busy = |inner: &mut Inner| inner.writing + inner.incoming.len() > 0;
        let waited = self.written.wait_timeout_while(inner, patience, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// How the journal is.
    pub fn journal(&self) -> JournalState {
        self.lock().journal.clone()
    }

    /// Bytes on disk that somebody still needs; 0 without a journal.
    pub fn journal_bytes(&self) -> u64 {
        self.lock().journal_bytes
    }

    /// Events that at least one reader has not delivered.
    pub fn waiting(&self) -> u64 {
        self.waiting_by_reader().into_iter().map(|(_, waiting)| waiting).max().unwrap_or(0)
    }

    /// Events that each reader has not delivered, those on their way to the disk included.
    pub fn waiting_by_reader(&self) -> Vec<(String, u64)> {
        let inner = self.lock();
        let unseen = inner.writing + inner.incoming.len();
        let behind = |mark: &Mark| {
            inner.events.len() - inner.events.partition_point(|held| held.number <= mark.delivered) + unseen
        };
        inner.readers.iter().map(|(name, mark)| (name.clone(), behind(mark) as u64)).collect()
    }

    /// Events that a reader did not get because there was no room for them or they were too old; of several
    /// readers the sum.
    pub fn dropped(&self) -> u64 {
        self.lock().readers.values().map(|mark| mark.dropped).sum()
    }
}

/// Ids of two journals must never be the same.
fn new_epoch() -> String {
    uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect()
}

impl Inner {
    /// Gives an event its place in the order.
    fn number(&mut self, held: &mut Held) {
        held.number = self.next_number;
        self.next_number += 1;
    }

    /// Lets the readers see an event.
    fn show(&mut self, held: Held) {
        if !held.saved {
            if self.unsaved >= EVENT_CAPACITY {
                self.drop_oldest("no_room");
            }
            self.unsaved += 1;
        }
        self.events.push_back(held);
    }

    fn take_oldest(&mut self) -> Option<Held> {
        let held = self.events.pop_front()?;
        self.unsaved -= usize::from(!held.saved);
        Some(held)
    }

    /// Drops what no reader can ask for again.
    fn prune(&mut self) {
        let Some(released) = self.readers.values().map(|mark| mark.released).min() else { return };
        while self.events.front().is_some_and(|held| held.number <= released) {
            self.take_oldest();
        }
    }

    /// Drops the oldest event, and counts it for those who did not get it.
    fn drop_oldest(&mut self, reason: &str) {
        if let Some(held) = self.take_oldest() {
            self.lose(held.number, reason);
        }
    }

    fn lose(&mut self, number: u64, reason: &str) {
        for (name, mark) in &mut self.readers {
            match mark.lose(number) {
                Loss::Nothing => {}
                Loss::Repeat => {
                    METRICS.events_not_resent.of(&[name]).inc();
                }
                Loss::Event => {
                    METRICS.events_dropped.of(&[name, &reason]).inc();
                }
            }
        }
        self.readers_changed = true;
    }
}

/// A sink's side; each sink has its own and its own pace.
#[derive(Debug)]
pub struct OutboxReader {
    outbox: Arc<Outbox>,
    changed: watch::Receiver<u64>,
    name: String,
    seen: u64,
}

impl OutboxReader {
    /// Waits until something was said or appended since the last call. Cancel safe.
    pub async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            // The outbox outlives its readers (they hold it), so this cannot end; wait for ever.
            std::future::pending::<()>().await;
        }
    }

    /// Statements that are newer than the last call's.
    pub fn new_statements(&mut self) -> Vec<Statement> {
        let inner = self.outbox.lock();
        let newer = inner
            .statements
            .values()
            .filter(|(generation, _)| *generation > self.seen)
            .map(|(_, statement)| statement.clone())
            .collect();
        self.seen = inner.generation;
        newer
    }

    /// All present statements, for a subscriber that knows nothing.
    pub fn all_statements(&mut self) -> Vec<Statement> {
        self.seen = 0;
        self.new_statements()
    }

    /// Up to `max` events that are not delivered yet, oldest first.
    pub fn pending_events(&self, now: &Stamp, max: usize) -> Vec<Waiting> {
        let inner = self.outbox.lock();
        let delivered = inner.readers.get(&self.name).map_or(u64::MAX, |mark| mark.delivered);
        let first = inner.events.partition_point(|held| held.number <= delivered);
        let max_age = self.outbox.settings.max_event_age;
        let waiting = |held: &Held| Waiting {
            number: held.number,
            event: held.event.clone(),
            late: now.age_of(&held.stamp).is_none_or(|age| age > max_age),
        };
        inner.events.iter().skip(first).take(max).map(waiting).collect()
    }

    /// Says that all events up to and with this number have arrived.
    pub fn delivered(&self, number: u64, now: &Stamp) {
        let mut proven = None;
        let mut inner = self.outbox.lock();
        let Inner { readers, events, readers_changed, .. } = &mut *inner;
        let Some(mark) = readers.get_mut(&self.name) else { return };
        let first = events.partition_point(|held| held.number <= mark.delivered);
        for held in events.iter().skip(first).take_while(|held| held.number <= number) {
            if held.event.status.camera.is_proof_test() {
                if self.name == PROOF_READER {
                    proven = Some(held.event.event_id.clone());
                }
                continue;
            }
            METRICS.events_delivered.of(&[&self.name]).inc();
            let waited = now.age_of(&held.stamp);
            if let (Some(waited), Some(times)) = (waited, &held.event.times) {
                let took = times.total() + waited;
                METRICS.delivery.of(&[&self.name]).observe(took.as_secs_f64());
            }
        }
        mark.deliver(number, now.uptime);
        mark.release(now.uptime, self.outbox.settings.resend);
        *readers_changed = true;
        inner.prune();
        drop(inner);
        if proven.is_some() {
            self.outbox.proven.send_replace(proven);
        }
    }

    /// Says that the other side has lost its memory: what it acknowledged a moment ago may be lost with it,
    /// and waits again.
    pub fn was_forgotten(&self, now: &Stamp) {
        let mut inner = self.outbox.lock();
        let Inner { readers, events, readers_changed, .. } = &mut *inner;
        let Some(mark) = readers.get_mut(&self.name) else { return };
        mark.release(now.uptime, self.outbox.settings.resend);
        let again = events.iter().filter(|held| (mark.released + 1..=mark.delivered).contains(&held.number));
        METRICS.events_resent.of(&[&self.name]).inc_by(again.count() as u64);
        mark.go_back();
        *readers_changed = true;
    }

    /// Events that this reader did not get because it fell too far behind.
    pub fn dropped(&self) -> u64 {
        self.outbox.lock().readers.get(&self.name).map_or(0, |mark| mark.dropped)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::UtcMillis;
    use crate::types::{CameraState, Evidence, Happening, Reason, State, ViewStatus};

    fn camera(name: &str, dropped: u64) -> Statement {
        Statement::Camera(CameraStatus {
            camera: CameraId::new(name).unwrap(),
            state: CameraState::Live,
            reason: None,
            detail: String::new(),
            analysed_fps: 0.0,
            frame_age_s: None,
            dropped,
            connects: 1,
            view: ViewStatus::default(),
            ts: UtcMillis(0),
        })
    }

    pub(super) fn event() -> Transition {
        let id = CameraId::new("c").unwrap();
        Transition {
            event_id: String::new(),
            seq: 0,
            what: Happening::Enter,
            from: State::Clear,
            status: RuleStatus {
                camera: id,
                rule: RuleId::new("r").unwrap(),
                pair: PairId::new("p").unwrap(),
                state: State::Alarm,
                evidence: Evidence::None(Reason::Stale),
                distance: None,
                warning_m: None,
                alarm_m: 1.0,
                held: None,
                armed: true,
                shelved_until: None,
                separation_m: None,
                since: UtcMillis(0),
                ts: UtcMillis(0),
                captured: None,
                valid_for: Duration::from_secs(5),
            },
            times: None,
            order: None,
        }
    }

    #[test]
    fn latest_statement_wins_and_is_read_once() {
        let outbox = Arc::new(Outbox::default());
        let mut reader = outbox.reader("r");
        outbox.say(camera("a", 1));
        outbox.say(camera("a", 2));
        outbox.say(camera("b", 3));
        assert_eq!(reader.new_statements(), [camera("a", 2), camera("b", 3)]);
        assert!(reader.new_statements().is_empty());
        outbox.say(camera("b", 4));
        assert_eq!(reader.new_statements(), [camera("b", 4)]);
        assert_eq!(reader.all_statements().len(), 2);
        let gone = Statement::Gone(Gone::Camera(CameraId::new("a").unwrap()));
        outbox.say(gone.clone());
        assert_eq!(reader.all_statements(), [gone, camera("b", 4)]);
        outbox.say(camera("a", 5));
        assert_eq!(reader.all_statements(), [camera("a", 5), camera("b", 4)]);
    }

    fn stamp(uptime_s: u64) -> Stamp {
        Stamp { boot: 1, uptime: Duration::from_secs(uptime_s), utc: UtcMillis(0) }
    }

    fn seqs(reader: &OutboxReader, max: usize) -> Vec<u64> {
        reader.pending_events(&stamp(0), max).iter().map(|waiting| waiting.event.seq).collect()
    }

    #[test]
    fn events_are_numbered_and_stay_until_delivered() {
        let outbox = Arc::new(Outbox::default());
        let reader = outbox.reader("r");
        (0..3).for_each(|_| drop(outbox.push(event())));
        assert_eq!(seqs(&reader, 2), [1, 2]);
        let waiting = reader.pending_events(&stamp(0), 9);
        let epoch = &outbox.lock().epoch.clone();
        let ids: Vec<&str> = waiting.iter().map(|waiting| waiting.event.event_id.as_str()).collect();
        assert_eq!(ids, [1, 2, 3].map(|seq| format!("{epoch}-{seq}")));
        reader.delivered(waiting[1].number, &stamp(0));
        assert_eq!(seqs(&reader, 9), [3]);
        assert_eq!((outbox.waiting(), outbox.dropped()), (1, 0));
        let later = outbox.reader("later");
        assert!(seqs(&later, 9).is_empty(), "begins with the next event");
        assert_eq!(seqs(&outbox.reader("r"), 9), [3], "goes on where it was");
    }

    #[test]
    fn what_a_broker_that_forgot_us_took_last_waits_again() {
        let outbox = Arc::new(Outbox::default());
        let reader = outbox.reader("r");
        (0..4).for_each(|_| drop(outbox.push(event())));
        assert_eq!(outbox.settings.resend, Duration::from_secs(30));
        reader.delivered(1, &stamp(0));
        reader.delivered(2, &stamp(10));
        reader.delivered(3, &stamp(30));
        reader.was_forgotten(&stamp(30));
        assert_eq!(seqs(&reader, 9), [2, 3, 4]);
        reader.delivered(4, &stamp(30));
        reader.was_forgotten(&stamp(60));
        assert!(seqs(&reader, 9).is_empty());
    }

    #[test]
    fn an_event_is_late_after_its_time() {
        let outbox = Arc::new(Outbox::default());
        let reader = outbox.reader("r");
        outbox.push_at(event(), stamp(100));
        let late = |now: &Stamp| reader.pending_events(now, 1)[0].late;
        assert_eq!([late(&stamp(160)), late(&stamp(161))], [false, true]);
        let other_boot = |utc| Stamp { boot: 2, uptime: Duration::ZERO, utc: UtcMillis(utc) };
        assert_eq!([late(&other_boot(60_000)), late(&other_boot(60_001))], [false, true]);
        assert!(late(&other_boot(-1)), "an age that cannot be told");
    }

    #[test]
    fn a_full_outbox_drops_the_oldest_and_counts() {
        let outbox = Arc::new(Outbox::default());
        let reader = outbox.reader("r");
        (0..EVENT_CAPACITY + 5).for_each(|_| drop(outbox.push(event())));
        assert_eq!(seqs(&reader, 1), [6]);
        assert_eq!((reader.dropped(), outbox.dropped()), (5, 5));
    }

    #[test]
    fn a_retired_reader_holds_nothing_back() {
        let outbox = Arc::new(Outbox::default());
        let (reader, _idle) = (outbox.reader("r"), outbox.reader("idle"));
        (0..3).for_each(|_| drop(outbox.push(event())));
        reader.delivered(2, &stamp(0));
        reader.delivered(3, &stamp(0));
        reader.was_forgotten(&stamp(30));
        assert_eq!((outbox.waiting(), outbox.lock().events.len()), (3, 3));
        outbox.retire("idle");
        assert_eq!((outbox.waiting(), outbox.lock().events.len()), (0, 0));
    }
}
