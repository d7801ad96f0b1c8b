//! What there is to say: the latest statement on each subject, and events in order until each reader has
//! delivered them. Between the analysis thread, which never waits, and the sinks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::types::{CameraId, CameraStatus, PairId, PairStatus, Picture, RuleId, RuleStatus, Transition};

/// Events kept for a reader that cannot deliver them. Older ones are dropped and counted.
const EVENT_CAPACITY: usize = 10_000;

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

#[derive(Debug, Default)]
struct Inner {
    generation: u64,
    statements: BTreeMap<Subject, (u64, Statement)>,
    /// The event at the front has this number; numbers count from 0 without gaps.
    first_event: u64,
    events: VecDeque<Transition>,
}

/// The writer's side; one for the whole daemon.
#[derive(Debug)]
pub struct Outbox {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { inner: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Outbox {
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

    /// Appends an event.
    pub fn push(&self, event: Transition) {
        let mut inner = self.lock();
        if inner.events.len() == EVENT_CAPACITY {
            inner.events.pop_front();
            inner.first_event += 1;
        }
        inner.events.push_back(event);
        self.announce(inner);
    }

    /// A reader that starts with the present statements and the next event.
    pub fn reader(self: &Arc<Self>) -> OutboxReader {
        let next_event = {
            let inner = self.lock();
            inner.first_event + inner.events.len() as u64
        };
        OutboxReader {
            outbox: self.clone(),
            changed: self.changed.subscribe(),
            seen: 0,
            next_event,
            dropped: 0,
        }
    }
}

/// A sink's side; each sink has its own and its own pace.
#[derive(Debug)]
pub struct OutboxReader {
    outbox: Arc<Outbox>,
    changed: watch::Receiver<u64>,
    seen: u64,
    next_event: u64,
    dropped: u64,
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

    /// Up to `max` events that are not delivered yet, oldest first, each with the number to give to
    /// [`OutboxReader::delivered`].
    pub fn pending_events(&mut self, max: usize) -> Vec<(u64, Transition)> {
        let inner = self.outbox.lock();
        if inner.first_event > self.next_event {
            self.dropped += inner.first_event - self.next_event;
            self.next_event = inner.first_event;
        }
        let skip = usize::try_from(self.next_event - inner.first_event).unwrap_or(usize::MAX);
        (self.next_event..).zip(inner.events.iter().skip(skip).take(max).cloned()).collect()
    }

    /// Says that all events up to and with this number have arrived.
    pub fn delivered(&mut self, number: u64) {
        self.next_event = self.next_event.max(number + 1);
    }

    /// Events that were dropped because this reader fell too far behind.
    pub fn dropped(&self) -> u64 {
        self.dropped
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

    fn event(seq: u64) -> Transition {
        let id = CameraId::new("c").unwrap();
        Transition {
            event_id: seq.to_string(),
            seq,
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
        let mut reader = outbox.reader();
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

    #[test]
    fn events_stay_until_delivered() {
        let outbox = Arc::new(Outbox::default());
        let mut reader = outbox.reader();
        for seq in 0..3 {
            outbox.push(event(seq));
        }
        let numbers =
            |events: Vec<(u64, Transition)>| events.iter().map(|(n, e)| (*n, e.seq)).collect::<Vec<_>>();
        assert_eq!(numbers(reader.pending_events(2)), [(0, 0), (1, 1)]);
        assert_eq!(numbers(reader.pending_events(9)), [(0, 0), (1, 1), (2, 2)]);
        reader.delivered(1);
        assert_eq!(numbers(reader.pending_events(9)), [(2, 2)]);
    }

    #[test]
    fn a_full_outbox_drops_the_oldest_and_counts() {
        let outbox = Arc::new(Outbox::default());
        let mut reader = outbox.reader();
        for seq in 0..EVENT_CAPACITY as u64 + 5 {
            outbox.push(event(seq));
        }
        assert_eq!(reader.pending_events(1)[0].1.seq, 5);
        assert_eq!(reader.dropped(), 5);
    }
}
