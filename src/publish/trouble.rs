//! What is logged about a connection that comes and goes: each new trouble once, a line every 10 s while it
//! lasts, and its end. A connection that breaks again soon counts as the same trouble.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::Timestamp;

/// How often a lasting trouble is repeated.
const SUM_UP: Duration = Duration::from_secs(10);
/// A connection must last so long to count as good.
const GOOD: Duration = Duration::from_secs(10);

/// What is to be logged.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// The first connection, or the first after trouble.
    Connected {
        /// How long it was away.
        away: Option<Duration>,
    },
    /// Something new is wrong.
    New,
    /// It is still wrong.
    Still {
        /// Attempts since the trouble began.
        attempts: u64,
        /// How long it has been wrong.
        away: Duration,
    },
}

/// One connection's history.
#[derive(Debug, Default)]
pub struct Trouble {
    connected: Option<Timestamp>,
    began: Option<Timestamp>,
    seen: BTreeSet<String>,
    attempts: u64,
    said: Option<Timestamp>,
    said_end: bool,
}

impl Trouble {
    /// The connection stands.
    pub fn connected(&mut self, now: Timestamp) -> Option<Line> {
        self.connected = Some(now);
        let away = self.began.map(|began| now.since(began));
        let first = !std::mem::replace(&mut self.said_end, true);
        first.then_some(Line::Connected { away })
    }

    /// An attempt failed or the connection broke. `text` says why.
    pub fn lost(&mut self, now: Timestamp, text: &str) -> Option<Line> {
        if self.connected.take().is_some_and(|since| now.since(since) >= GOOD) {
            *self = Self::default();
        }
        let began = *self.began.get_or_insert(now);
        self.attempts += 1;
        if self.seen.len() < 20 && self.seen.insert(text.to_owned()) {
            self.said = Some(now);
            self.said_end = false;
            return Some(Line::New);
        }
        if self.said.is_none_or(|said| now.since(said) >= SUM_UP) {
            self.said = Some(now);
            self.said_end = false;
            return Some(Line::Still { attempts: self.attempts, away: now.since(began) });
        }
        None
    }

    /// Whether the connection that just broke had been a good one.
    pub fn is_fresh(&self) -> bool {
        self.attempts <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_long_outage_is_a_few_lines() {
        let mut trouble = Trouble::default();
        assert_eq!(trouble.connected(at(0)), Some(Line::Connected { away: None }));
        assert_eq!(trouble.lost(at(20_000), "closed"), Some(Line::New));
        let lines: Vec<Line> =
            (0..30).filter_map(|i| trouble.lost(at(21_000 + i * 1000), "refused")).collect();
        assert_eq!(lines[0], Line::New);
        assert_eq!(lines[1], Line::Still { attempts: 12, away: Duration::from_secs(11) });
        assert_eq!(lines.len(), 3);
        let away = Some(Duration::from_secs(40));
        assert_eq!(trouble.connected(at(60_000)), Some(Line::Connected { away }));
    }

    #[test]
    fn a_connection_that_breaks_at_once_is_no_storm() {
        let mut trouble = Trouble::default();
        let mut lines = 0;
        for i in 0..100 {
            lines += usize::from(trouble.connected(at(i * 500)).is_some());
            lines += usize::from(trouble.lost(at(i * 500 + 10), "closed").is_some());
        }
        assert!(lines <= 12, "{lines} lines in 50 s");
    }
}
