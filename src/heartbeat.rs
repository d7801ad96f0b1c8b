//! Signs of life of the parts that must make progress. Each part beats on every wake-up, work or not; the
//! supervisor (which feeds systemd's watchdog) and the Modbus heartbeat register read. A beat is one store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Timestamp;

/// A part that the daemon cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The inference thread.
    Infer,
    /// The analysis thread.
    Analysis,
    /// The MQTT task.
    Mqtt,
    /// The thread that writes the journal of events.
    Journal,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Infer, Self::Analysis, Self::Mqtt, Self::Journal];

    /// Its name in logs: that of its thread or task.
    pub fn name(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Analysis => "analysis",
            Self::Mqtt => "mqtt",
            Self::Journal => "journal",
        }
    }

    /// How long it may be silent before only a new process helps. Rules are `Unknown` long before that (by
    /// `stale_after`): this is about repair, not about notice, and must not kill what is only slow. One batch of
    /// a large model on a small machine, or an fsync on a bad disk, takes seconds; the other two wake every 100 ms.
    pub fn patience(self) -> Duration {
        match self {
            Self::Infer | Self::Journal => Duration::from_secs(60),
            Self::Analysis | Self::Mqtt => Duration::from_secs(10),
        }
    }
}

/// The part was not started, so nobody waits for it.
const ABSENT: u64 = 0;
/// The part's thread or task has ended.
const ENDED: u64 = u64::MAX;

/// When each part last beat.
#[derive(Debug, Default)]
pub struct Heart {
    /// In the order of [`Part::ALL`]: nanoseconds of the monotonic clock, or one of the above.
    beats: [AtomicU64; Part::ALL.len()],
}

/// What is wrong with a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It has been silent for longer than its patience.
    Silent(Part, Duration),
    /// Its thread or task has ended.
    Ended(Part),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(part, silence) => {
                write!(f, "'{}' has not moved for {:.0} s", part.name(), silence.as_secs_f64())
            }
            Self::Ended(part) => write!(f, "'{}' has ended", part.name()),
        }
    }
}

impl Heart {
    /// The part's side. From `now` on the part is waited for.
    pub fn pulse(self: &Arc<Self>, part: Part, now: Timestamp) -> Pulse {
        let pulse = Pulse { heart: self.clone(), part };
        pulse.beat(now);
        pulse
    }

    fn cell(&self, part: Part) -> Option<&AtomicU64> {
        Part::ALL.iter().zip(&self.beats).find(|(known, _)| **known == part).map(|(_, cell)| cell)
    }

    fn set(&self, part: Part, value: u64) {
        if let Some(cell) = self.cell(part) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    /// How long the part has been silent; for ever ([`Duration::MAX`]) when it has ended, `None` when it was
    /// never started.
    pub fn silence(&self, part: Part, now: Timestamp) -> Option<Duration> {
        match self.cell(part)?.load(Ordering::Relaxed) {
            ABSENT => None,
            ENDED => Some(Duration::MAX),
            beat => Some(now.since(Timestamp::from_nanos(beat))),
        }
    }

    /// The parts that have ended, or were silent for longer than their patience. Silence before `awake_since` does
    /// not count: then the whole process was stopped, or the machine asleep.
    pub fn troubles(&self, now: Timestamp, awake_since: Timestamp) -> Vec<Trouble> {
        let trouble = |part: Part| match self.silence(part, now)? {
            Duration::MAX => Some(Trouble::Ended(part)),
            silence if silence.min(now.since(awake_since)) > part.patience() => {
                Some(Trouble::Silent(part, silence))
            }
            _ => None,
        };
        Part::ALL.into_iter().filter_map(trouble).collect()
    }
}

/// One part's side. Dropping it says that the part has ended, also when a panic drops it.
#[derive(Debug)]
pub struct Pulse {
    heart: Arc<Heart>,
    part: Part,
}

impl Pulse {
    /// The part makes progress.
    pub fn beat(&self, now: Timestamp) {
        self.heart.set(self.part, now.as_nanos().clamp(ABSENT + 1, ENDED - 1));
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.heart.set(self.part, ENDED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Timestamp {
        Timestamp::from_nanos(s * 1_000_000_000)
    }

    #[test]
    fn a_part_is_waited_for_from_its_first_beat_and_has_its_own_patience() {
        let heart = Arc::new(Heart::default());
        assert_eq!(heart.troubles(at(1000), at(0)), [], "nothing was started");
        let infer = heart.pulse(Part::Infer, at(1000));
        let _analysis = heart.pulse(Part::Analysis, at(1000));
        assert_eq!(heart.troubles(at(1010), at(0)), []);
        assert_eq!(
            heart.troubles(at(1011), at(0)),
            [Trouble::Silent(Part::Analysis, Duration::from_secs(11))]
        );
        infer.beat(at(1050));
        assert_eq!(heart.troubles(at(1110), at(0)).len(), 1);
        assert_eq!(heart.troubles(at(1111), at(0)).len(), 2);
        assert_eq!(heart.silence(Part::Infer, at(1060)), Some(Duration::from_secs(10)));
        assert_eq!(heart.silence(Part::Journal, at(1060)), None);
    }

    #[test]
    fn silence_counts_only_while_the_process_was_awake() {
        let heart = Arc::new(Heart::default());
        let _mqtt = heart.pulse(Part::Mqtt, at(10));
        assert_eq!(heart.troubles(at(500), at(499)), []);
        assert_eq!(heart.troubles(at(510), at(499)).len(), 1);
    }

    #[test]
    fn a_thread_that_panics_has_ended() {
        let heart = Arc::new(Heart::default());
        let pulse = heart.pulse(Part::Analysis, at(1));
        let thread = std::thread::spawn(move || {
            let _pulse = pulse;
            panic!("as a test");
        });
        assert!(thread.join().is_err());
        assert_eq!(heart.troubles(at(1), at(0)), [Trouble::Ended(Part::Analysis)]);
        assert_eq!(heart.troubles(at(1), at(0))[0].to_string(), "'analysis' has ended");
    }
}
