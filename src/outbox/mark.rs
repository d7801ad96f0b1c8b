//! How far one reader is. Plain: time is an argument, counted from the boot of the machine.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Acknowledgements remembered with their time; one that is older than all of them counts as the oldest.
const RECENT_MAX: usize = 4096;

/// How far one reader is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// All events up to this number have arrived.
    pub delivered: u64,
    /// All events up to this number arrived so long ago that they are not sent again.
    pub released: u64,
    /// Events that it did not get.
    pub dropped: u64,
    /// What arrived since `released`, and at which uptime.
    #[serde(skip)]
    recent: VecDeque<(u64, Duration)>,
}

impl Mark {
    /// A reader that wants what comes after this number.
    pub fn at(number: u64) -> Self {
        Self { delivered: number, released: number, dropped: 0, recent: VecDeque::new() }
    }

    /// All up to this number have arrived.
    pub fn deliver(&mut self, number: u64, now: Duration) {
        if number <= self.delivered {
            return;
        }
        self.delivered = number;
        if self.recent.len() >= RECENT_MAX {
            // Two acknowledgements become one, of the later time: kept a little longer, never shorter.
            if let Some((_, at)) = self.recent.pop_back() {
                self.recent.push_back((number, at.max(now)));
                return;
            }
        }
        self.recent.push_back((number, now));
    }

    /// Lets go of what arrived `resend` ago or earlier.
    pub fn release(&mut self, now: Duration, resend: Duration) {
        while let Some((number, at)) = self.recent.front()
            && now.saturating_sub(*at) >= resend
        {
            self.released = self.released.max(*number);
            self.recent.pop_front();
        }
    }

    /// Everything that is not released waits again.
    pub fn go_back(&mut self) {
        self.delivered = self.released;
        self.recent.clear();
    }

    /// An event was dropped; true, and counted, if it had not arrived. To be told of the oldest first.
    pub fn lose(&mut self, number: u64) -> bool {
        let lost = number > self.delivered;
        if lost {
            self.dropped += 1;
            self.delivered = number;
        }
        self.released = self.released.max(number);
        lost
    }
}
