//! What there is to say: the latest statement on each subject, and events in order until each reader has
//! delivered them. Between the analysis thread, which never waits, and the sinks.
//!
//! Events become visible to readers only when they are in the journal on disk (`journal`, written by the
//! thread of `writer`); statements never wait for a disk. Without a journal, in tests and while the disk
//! fails, events go on from memory.

mod mark;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use self::mark::Mark;
use crate::clock::{self, Stamp, Timestamp};
use crate::types::{CameraId, CameraStatus, PairId, PairStatus, Picture, RuleId, RuleStatus, Transition};

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

/// Something that replaces what was said before on the same subject.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// State of a rule.
    Rule(RuleStatus),
    /// Health of a camera.
    Camera(CameraStatus),
    /// Distance of a pair.
    Pair(PairStatus),
    /// Picture of a camera's last alarm.
    Picture(Picture),
    /// There is nothing to say any more: it was taken out of the configuration.
    Gone(Gone),
}

/// What was taken out of the configuration. Stays said (a broker that is away now must still be told later) until
/// something of the same name comes back; only pairs are forgotten, because nothing retains them.
#[derive(Debug, Clone, PartialEq)]
pub enum Gone {
    /// A rule, with its last words: unknown.
    Rule(RuleStatus),
    /// A camera.
    Camera(CameraId),
    /// A pair.
    Pair(CameraId, PairId),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Camera(CameraId),
    Rule(CameraId, RuleId),
    Pair(CameraId, PairId),
    // Last: what is large goes out after what is urgent.
    Picture(CameraId),
}

impl Statement {
    fn subject(&self) -> Subject {
        match self {
            Self::Rule(status) | Self::Gone(Gone::Rule(status)) => {
                Subject::Rule(status.camera.clone(), status.rule.clone())
            }
            Self::Camera(status) => Subject::Camera(status.camera.clone()),
            Self::Gone(Gone::Camera(id)) => Subject::Camera(id.clone()),
            Self::Gone(Gone::Pair(camera, pair)) => Subject::Pair(camera.clone(), pair.clone()),
            Self::Pair(status) => Subject::Pair(status.camera.clone(), status.pair.clone()),
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
    number: u64,
    stamp: Stamp,
    event: Arc<Transition>,
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
    /// What readers may see, oldest first.
    events: VecDeque<Held>,
    readers: BTreeMap<String, Mark>,
}

/// The writer's side; one for the whole daemon.
#[derive(Debug)]
pub struct Outbox {
    settings: OutboxSettings,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
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
            events: VecDeque::new(),
            readers: BTreeMap::new(),
        };
        Self { settings, inner: Mutex::new(inner), changed: watch::Sender::new(0) }
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

    /// Appends an event and gives it its `event_id` and `seq`. Never waits for a disk.
    pub fn push(&self, event: Transition) -> Arc<Transition> {
        self.push_at(event, clock::stamp())
    }

    fn push_at(&self, mut event: Transition, stamp: Stamp) -> Arc<Transition> {
        let mut inner = self.lock();
        event.seq = inner.next_seq;
        event.event_id = format!("{}-{}", inner.epoch, inner.next_seq);
        let event = Arc::new(event);
        let held = Held { number: inner.next_number, stamp, event: event.clone() };
        inner.next_seq += 1;
        inner.next_number += 1;
        if inner.events.len() >= EVENT_CAPACITY {
            inner.drop_oldest();
        }
        inner.events.push_back(held);
        self.announce(inner);
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
        inner.readers.remove(name);
        inner.prune();
    }

    /// Events that at least one reader has not delivered.
    pub fn waiting(&self) -> u64 {
        let inner = self.lock();
        let first = inner.readers.values().map(|mark| mark.delivered).min().unwrap_or(inner.next_number);
        inner.events.iter().filter(|held| held.number > first).count() as u64
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
    /// Drops what no reader can ask for again.
    fn prune(&mut self) {
        let Some(released) = self.readers.values().map(|mark| mark.released).min() else { return };
        while self.events.front().is_some_and(|held| held.number <= released) {
            self.events.pop_front();
        }
    }

    /// Drops the oldest event, and counts it for those who did not get it.
    fn drop_oldest(&mut self) {
        let Some(held) = self.events.pop_front() else { return };
        for mark in self.readers.values_mut() {
            mark.lose(held.number);
        }
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
    pub fn delivered(&self, number: u64, now: Timestamp) {
        let mut inner = self.outbox.lock();
        if let Some(mark) = inner.readers.get_mut(&self.name) {
            mark.deliver(number, now);
            mark.release(now, self.outbox.settings.resend);
            inner.prune();
        }
    }

    /// Says that the other side has lost its memory: what it acknowledged a moment ago may be lost with it,
    /// and waits again.
    pub fn was_forgotten(&self, now: Timestamp) {
        let mut inner = self.outbox.lock();
        if let Some(mark) = inner.readers.get_mut(&self.name) {
            mark.release(now, self.outbox.settings.resend);
            mark.go_back();
        }
    }

    /// Events that this reader did not get because it fell too far behind.
    pub fn dropped(&self) -> u64 {
        self.outbox.lock().readers.get(&self.name).map_or(0, |mark| mark.dropped)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::UtcMillis;
    use crate::types::{CameraState, Evidence, Happening, Reason, State};

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
            ts: UtcMillis(0),
        })
    }

    fn event() -> Transition {
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

    const T0: Timestamp = Timestamp::from_nanos(0);

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
        reader.delivered(waiting[1].number, T0);
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
        let resend = outbox.settings.resend;
        reader.delivered(1, T0);
        reader.delivered(2, T0 + resend / 2);
        reader.delivered(3, T0 + resend);
        reader.was_forgotten(T0 + resend);
        assert_eq!(seqs(&reader, 9), [2, 3, 4]);
        reader.delivered(4, T0 + resend);
        reader.was_forgotten(T0 + resend * 3);
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
        reader.delivered(3, T0);
        reader.delivered(3, T0 + outbox.settings.resend);
        assert_eq!((outbox.waiting(), outbox.lock().events.len()), (3, 3));
        outbox.retire("idle");
        assert_eq!((outbox.waiting(), outbox.lock().events.len()), (0, 0));
    }
}
