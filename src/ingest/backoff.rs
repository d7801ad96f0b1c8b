//! How long to wait before a camera is tried again, and how often to speak of it. Pure: time is an argument.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::types::Reason;

const FIRST: Duration = Duration::from_millis(250);
const LIMIT_EARLY: Duration = Duration::from_secs(2);
const EARLY: Duration = Duration::from_secs(60);
const LIMIT_LATE: Duration = Duration::from_secs(10);
const REFUSED: Duration = Duration::from_secs(30);
/// A session that lasted this long makes the next failure a first one.
const PROVED: Duration = Duration::from_secs(5);
const SUM_UP_EVERY: Duration = Duration::from_secs(10);
const SUM_UP_AT_MOST: Duration = Duration::from_secs(300);

/// Waiting times: 250 ms doubling to 2 s for a minute, then 10 s; 30 to 60 s after a refusal, so that no
/// camera locks the account.
#[derive(Debug, Default)]
pub struct Backoff {
    failing_since: Option<Timestamp>,
    next: Option<Duration>,
}

impl Backoff {
    /// Forgets the failures before a session that was live for `lived`, when that was long enough.
    pub fn lived(&mut self, lived: Duration) {
        if lived >= PROVED {
            *self = Self::default();
        }
    }

    /// The wait after a failure at `now`. `random` of 0 to 1 spreads cameras that failed together.
    pub fn delay(&mut self, now: Timestamp, refused: bool, random: f64) -> Duration {
        let random = random.clamp(0.0, 1.0);
        let since = *self.failing_since.get_or_insert(now);
        if refused {
            return REFUSED.mul_f64(1.0 + random);
        }
        let limit = if now.since(since) < EARLY { LIMIT_EARLY } else { LIMIT_LATE };
        let delay = self.next.unwrap_or(FIRST).min(limit);
        self.next = Some((delay * 2).min(LIMIT_LATE));
        delay.mul_f64(0.8 + 0.2 * random)
    }
}

/// Whether a failure is worth a line: a new one is; the same one again is counted and summed up after
/// 10 s, then after twice that, up to 5 minutes, so that a camera that is away for a week fills no disk.
#[derive(Debug, Default)]
pub struct Repeats {
    last: Option<(Reason, String)>,
    count: u64,
    said: Option<Timestamp>,
    patience: Option<Duration>,
}

/// What to say of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// It is new.
    New,
    /// It happened this often since it was last spoken of.
    Again(u64),
    /// Nothing now.
    Nothing,
}

impl Repeats {
    /// Notes a failure at `now`.
    pub fn note(&mut self, now: Timestamp, reason: Reason, detail: &str) -> Say {
        let same = self.last.as_ref().is_some_and(|(r, d)| *r == reason && d == detail);
        if !same {
            *self = Self {
                last: Some((reason, detail.to_owned())),
                count: 0,
                said: Some(now),
                patience: Some(SUM_UP_EVERY),
            };
            return Say::New;
        }
        self.count += 1;
        let patience = self.patience.unwrap_or(SUM_UP_EVERY);
        if self.said.is_some_and(|said| now.since(said) < patience) {
            return Say::Nothing;
        }
        self.said = Some(now);
        self.patience = Some((patience * 2).min(SUM_UP_AT_MOST));
        Say::Again(std::mem::take(&mut self.count))
    }

    /// Forgets, because the camera is live.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_nanos((seconds * 1e9) as u64 + 1_000)
    }

    #[test]
    fn doubles_to_two_seconds_then_ten_after_a_minute() {
        let mut backoff = Backoff::default();
        let delays: Vec<f64> =
            (0..6).map(|n| backoff.delay(at(f64::from(n)), false, 1.0).as_secs_f64()).collect();
        assert_eq!(delays, [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]);
        assert_eq!(backoff.delay(at(61.0), false, 1.0).as_secs_f64(), 4.0);
        assert_eq!(backoff.delay(at(66.0), false, 1.0).as_secs_f64(), 8.0);
        assert_eq!(backoff.delay(at(76.0), false, 1.0).as_secs_f64(), 10.0);
        assert_eq!(backoff.delay(at(90.0), false, 0.0).as_secs_f64(), 8.0);
        backoff.lived(Duration::from_secs(1));
        assert_eq!(backoff.delay(at(91.0), false, 1.0).as_secs_f64(), 10.0);
        backoff.lived(Duration::from_secs(5));
        assert_eq!(backoff.delay(at(92.0), false, 1.0).as_secs_f64(), 0.25);
    }

    #[test]
    fn refusals_wait_30_to_60_s() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.delay(at(0.0), true, 0.0).as_secs(), 30);
        assert_eq!(backoff.delay(at(0.0), true, 1.0).as_secs(), 60);
    }

    #[test]
    fn repeats_are_counted_and_summed_up() {
        let mut repeats = Repeats::default();
        let mut note = |s: f64, detail: &str| repeats.note(at(s), Reason::Unreachable, detail);
        assert_eq!(note(0.0, "refused"), Say::New);
        assert_eq!(note(1.0, "refused"), Say::Nothing);
        assert_eq!(note(3.0, "refused"), Say::Nothing);
        assert_eq!(note(11.0, "refused"), Say::Again(3));
        assert_eq!(note(22.0, "refused"), Say::Nothing);
        assert_eq!(note(32.0, "refused"), Say::Again(2));
        assert_eq!(note(33.0, "silent"), Say::New);
    }
}
