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
    /// All events up to this number have arrived at least once, though the receiver may have forgotten them since.
    pub arrived: u64,
    /// Events that it did not get even once.
    pub dropped: u64,
    /// What arrived since `released`, and at which uptime.
    #[serde(skip)]
    recent: VecDeque<(u64, Duration)>,
}

/// What a reader loses when an event is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// It has had it.
    Nothing,
    /// It had arrived, and would have been sent again because the receiver may have forgotten it.
    Repeat,
    /// The event itself.
    Event,
}

impl Mark {
    /// A reader that wants what comes after this number.
    pub fn at(number: u64) -> Self {
        Self { delivered: number, released: number, arrived: number, dropped: 0, recent: VecDeque::new() }
    }

    /// All up to this number have arrived.
    pub fn deliver(&mut self, number: u64, now: Duration) {
        if number <= self.delivered {
            return;
        }
        self.delivered = number;
        self.arrived = self.arrived.max(number);
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

    /// An event was dropped. To be told of the oldest first.
    pub fn lose(&mut self, number: u64) -> Loss {
        let loss = match number {
            number if number > self.arrived => Loss::Event,
            number if number > self.delivered => Loss::Repeat,
            _ => Loss::Nothing,
        };
        if loss == Loss::Event {
            self.dropped += 1;
            self.arrived = number;
        }
        self.delivered = self.delivered.max(number);
        self.released = self.released.max(number);
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_once_is_not_lost_when_there_is_no_room_to_send_it_again() {
        let mut mark = Mark::at(0);
        mark.deliver(2, Duration::ZERO);
        assert_eq!(mark.lose(1), Loss::Nothing);
        mark.go_back();
        assert_eq!(mark.delivered, 1);
        assert_eq!((mark.lose(2), mark.lose(3)), (Loss::Repeat, Loss::Event));
        assert_eq!((mark.dropped, mark.delivered, mark.arrived), (1, 3, 3));
    }
}
