//! Which statements are worth sending now: states always, distances and health when they change or once a
//! second. What is held back is not lost: the newest of it goes when its time comes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::outbox::{Gone, Statement};
use crate::types::{DistanceKind, PairStatus, Reading};

/// A pair or camera of which nothing changes is sent this often.
const STEADY: Duration = Duration::from_secs(1);
/// A pair that changes is sent no more often than this.
const CHANGING: Duration = Duration::from_millis(200);
/// A change of distance that is worth a message, metres.
const CHANGE_M: f64 = 0.05;

/// Camera, and pair if it is one's.
type Subject = (String, Option<String>);

/// Remembers what was sent, and when.
#[derive(Debug, Default)]
pub struct Pace {
    sent: BTreeMap<Subject, (Timestamp, Statement)>,
    waiting: BTreeMap<Subject, Statement>,
}

impl Pace {
    /// Gives the statement back if it is to be sent now; otherwise keeps it for [`Pace::due`].
    pub fn offer(&mut self, now: Timestamp, statement: Statement) -> Option<Statement> {
        let subject: Subject = match &statement {
            Statement::Rule(_)
            | Statement::Picture(_)
            | Statement::Report(_)
            | Statement::State(_)
            | Statement::Gone(Gone::Rule(_) | Gone::Pair(..) | Gone::State(..)) => {
                return Some(statement);
            }
            Statement::Gone(Gone::Camera(id)) => {
                // What is held back about it is not sent any more.
                self.sent.retain(|(camera, _), _| camera != id.as_str());
                self.waiting.retain(|(camera, _), _| camera != id.as_str());
                return Some(statement);
            }
            Statement::Pair(pair) => (pair.camera.to_string(), Some(pair.pair.to_string())),
            Statement::Camera(camera) => (camera.camera.to_string(), None),
        };
        let is_due =
            self.sent.get(&subject).is_none_or(|(then, last)| is_due(now.since(*then), last, &statement));
        if is_due {
            self.waiting.remove(&subject);
            self.sent.insert(subject, (now, statement.clone()));
            return Some(statement);
        }
        self.waiting.insert(subject, statement);
        None
    }

    /// What was kept and is to be sent now.
    pub fn due(&mut self, now: Timestamp) -> Vec<Statement> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_values().filter_map(|statement| self.offer(now, statement)).collect()
    }

    /// Forgets everything: the next subscriber knows nothing.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

fn is_due(elapsed: Duration, last: &Statement, new: &Statement) -> bool {
    match (last, new) {
        (Statement::Pair(last), Statement::Pair(new)) => {
            elapsed >= STEADY || (elapsed >= CHANGING && differ(last, new))
        }
        (Statement::Camera(last), Statement::Camera(new)) => {
            elapsed >= STEADY || (last.state, last.reason) != (new.state, new.reason)
        }
        _ => true,
    }
}

fn differ(last: &PairStatus, new: &PairStatus) -> bool {
    match (&last.reading, &new.reading) {
        (Reading::Measured(last), Reading::Measured(new)) => {
            let value = |kind| matches!(kind, DistanceKind::Value);
            let change_m = (last.nearest_m - new.nearest_m).abs();
            change_m.is_nan() || change_m >= CHANGE_M || value(last.kind) != value(new.kind)
        }
        (last, new) => last != new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UtcMillis;
    use crate::types::{CameraId, ClassName, Distance, PairId, Reason};

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    fn says(reading: Reading) -> Statement {
        Statement::Pair(PairStatus {
            camera: CameraId::new("c").unwrap(),
            pair: PairId::new("p").unwrap(),
            reading,
            captured: UtcMillis(0),
            ts: UtcMillis(0),
        })
    }

    fn measured(nearest_m: f64) -> Statement {
        says(Reading::Measured(Distance {
            nearest_m,
            lower_m: nearest_m,
            upper_m: nearest_m,
            kind: DistanceKind::Value,
            from_ground: [0.0; 2],
            to_ground: [0.0; 2],
            from: ClassName::new("forklift").unwrap(),
            from_index: Some(0),
            to_index: None,
            from_track: None,
            to_track: None,
            others: vec![],
            to_edge: None,
            approach_mps: None,
            approach_sigma_mps: None,
            captured: at(0),
        }))
    }

    #[test]
    fn a_steady_distance_goes_once_a_second_and_a_changing_one_five_times() {
        let count = |distance: fn(u64) -> f64| {
            let mut pace = Pace::default();
            (0..100).filter(|i| pace.offer(at(i * 100), measured(distance(*i))).is_some()).count()
        };
        assert_eq!(count(|_| 3.0), 10);
        assert_eq!(count(|i| 3.0 + 0.001 * i as f64), 10);
        assert_eq!(count(|i| 3.0 + 0.1 * i as f64), 50);
    }

    #[test]
    fn the_last_word_is_not_lost() {
        let mut pace = Pace::default();
        let unavailable = says(Reading::Unavailable(Reason::Stale));
        assert!(pace.offer(at(0), measured(3.0)).is_some());
        assert_eq!(pace.offer(at(100), measured(9.0)), None);
        assert_eq!(pace.offer(at(150), unavailable.clone()), None);
        assert!(pace.due(at(199)).is_empty());
        assert_eq!(pace.due(at(200)), [unavailable]);
        assert!(pace.due(at(9000)).is_empty());
    }
}
