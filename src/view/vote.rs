//! From what single pictures show to what is said: a fault when four of five pictures over `after` show one,
//! none again when all pictures over `after` are good. Time is capture time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::types::Reason;

/// Share of pictures that must show it. Not all: an encoder sends a key picture now and then, also of a frozen one.
const MOST: f32 = 0.8;
/// A frozen view counts as moving again below this share of dead pictures.
const FEWER: f32 = 0.7;
/// At least so many pictures decide, however far apart they are.
const FEWEST: usize = 3;
/// At most so many are remembered; at a higher rate only the newest count.
const REMEMBERED: usize = 512;

/// What one picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub captured: Timestamp,
    /// What is wrong in the picture itself.
    pub fault: Option<Reason>,
    /// It is the one before, but for a small part, and nothing else is wrong with it.
    pub dead: bool,
}

/// The last pictures, and what they add up to.
#[derive(Debug, Clone)]
pub(super) struct Vote {
    after: Duration,
    looks: VecDeque<Look>,
    fault: Option<Reason>,
    /// Since when all has been well, and over how many pictures.
    well: Option<(Timestamp, usize)>,
}

impl Vote {
    pub fn new(after: Duration) -> Self {
        Self { after, looks: VecDeque::new(), fault: None, well: None }
    }

    /// The fault that is said.
    pub fn fault(&self) -> Option<Reason> {
        self.fault
    }

    /// Takes a picture that is newer than all before.
    pub fn add(&mut self, look: Look) {
        self.looks.push_back(look);
        // The oldest that stays is the newest that is as old as `after`, so that the time is covered.
        let old = |look_: &Look| look.captured.since(look_.captured) >= self.after;
        while self.looks.len() > REMEMBERED
            || (self.looks.len() > FEWEST && self.looks.get(1).is_some_and(old))
        {
            self.looks.pop_front();
        }
        match self.shown() {
            Some(reason) => {
                self.well = None;
                self.fault = Some(reason);
            }
            None if look.fault.is_some() || self.share(|look| look.dead) > FEWER => self.well = None,
            None => {
                let (since, count) =
                    self.well.map_or((look.captured, 1), |(since, count)| (since, count + 1));
                self.well = Some((since, count));
                if count >= FEWEST && look.captured.since(since) >= self.after {
                    self.fault = None;
                }
            }
        }
    }

    fn share(&self, is: impl Fn(&Look) -> bool) -> f32 {
        self.looks.iter().filter(|look| is(look)).count() as f32 / self.looks.len().max(1) as f32
    }

    /// Whether the pictures span the time that a fault must last.
    fn is_whole(&self) -> bool {
        let span = self.looks.front().zip(self.looks.back()).map(|(a, b)| b.captured.since(a.captured));
        self.looks.len() >= FEWEST
            && (self.looks.len() >= REMEMBERED || span.is_some_and(|span| span >= self.after))
    }

    fn shown(&self) -> Option<Reason> {
        if !self.is_whole() {
            return None;
        }
        let faulty = self.share(|look| look.fault.is_some());
        let dead = self.share(|look| look.dead);
        if faulty < MOST && dead < MOST {
            return None;
        }
        if faulty < MOST {
            return Some(Reason::Frozen);
        }
        let reasons = self.looks.iter().filter_map(|look| look.fault);
        reasons.clone().max_by_key(|reason| reasons.clone().filter(|other| other == reason).count())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AFTER: Duration = Duration::from_secs(2);

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    fn look(ms: u64, fault: Option<Reason>, dead: bool) -> Look {
        Look { captured: at(ms), fault, dead }
    }

    /// Pictures every `step_ms`; the first at which `fault` is said or unsaid.
    fn until(
        vote: &mut Vote,
        from_ms: u64,
        step_ms: u64,
        fault: Option<Reason>,
        dead: bool,
        said: bool,
    ) -> u64 {
        let mut ms = from_ms;
        for _ in 0..200 {
            vote.add(look(ms, fault, dead));
            if vote.fault().is_some() == said {
                return ms;
            }
            ms += step_ms;
        }
        panic!("never");
    }

    #[test]
    fn a_fault_is_said_within_after_and_left_after_as_long() {
        for step_ms in [40, 100, 333, 1000] {
            let mut vote = Vote::new(AFTER);
            let mut ms = 0;
            while ms < 10_000 {
                vote.add(look(ms, None, false));
                ms += step_ms;
            }
            let said = until(&mut vote, ms, step_ms, Some(Reason::Covered), false, true);
            assert_eq!(vote.fault(), Some(Reason::Covered));
            assert!((said - ms) >= 1000 && said - ms <= 2100, "{step_ms}: {}", said - ms);
            let well = until(&mut vote, said + step_ms, step_ms, None, false, false);
            assert!(well - said >= 2000, "{step_ms}");
            assert!(well - said <= 5000, "{step_ms}: {}", well - said);
        }
    }

    #[test]
    fn what_passes_is_not_said() {
        let mut vote = Vote::new(AFTER);
        for ms in (0..20_000).step_by(100) {
            let fault = (ms % 4000 < 1200).then_some(Reason::Covered);
            vote.add(look(ms, fault, fault.is_none() && ms % 3000 < 1500));
            assert_eq!(vote.fault(), None, "{ms}");
        }
    }

    #[test]
    fn a_key_picture_each_second_does_not_hide_a_frozen_one_nor_end_it() {
        let mut vote = Vote::new(AFTER);
        for ms in (0..20_000u64).step_by(100) {
            vote.add(look(ms, None, !ms.is_multiple_of(1000)));
        }
        assert_eq!(vote.fault(), Some(Reason::Frozen));
    }

    #[test]
    fn dark_from_the_first_picture_is_said() {
        let mut vote = Vote::new(AFTER);
        assert_eq!(until(&mut vote, 0, 100, Some(Reason::Dark), false, true), 2000);
        assert_eq!(vote.fault(), Some(Reason::Dark));
    }

    proptest! {
        /// Whatever pictures come: a fault is said only with most of the last pictures behind it, and unsaid only
        /// after good ones for as long; memory is bounded.
        #[test]
        fn said_with_evidence_and_unsaid_with_evidence(
            pictures in prop::collection::vec((1u64..1500, 0u8..4, any::<bool>()), 1..300)
        ) {
            let mut vote = Vote::new(AFTER);
            let mut ms = 0;
            let mut seen: Vec<Look> = vec![];
            for (step, kind, dead) in pictures {
                ms += step;
                let fault = match kind { 0 => Some(Reason::Covered), 1 => Some(Reason::Dark), _ => None };
                let before = vote.fault();
                vote.add(look(ms, fault, dead));
                seen.push(look(ms, fault, dead));
                let bad = |look: &Look| look.fault.is_some() || look.dead;
                if before.is_none() && vote.fault().is_some() {
                    let age = |look: &Look| ms - look.captured.as_nanos() / 1_000_000;
                    let covers = seen.iter().rev().position(|look| age(look) >= 2000);
                    prop_assert!(covers.is_some(), "before the time was over");
                    let window: Vec<&Look> = seen.iter().rev().take(covers.unwrap_or(0).max(2) + 1).collect();
                    let share = window.iter().filter(|l| bad(l)).count() as f32 / window.len() as f32;
                    prop_assert!(share >= 0.8 && window.len() >= 3, "{share}");
                }
                if before.is_some() && vote.fault().is_none() {
                    let last = seen.iter().rposition(|l| l.fault.is_some()).map_or(0, |i| seen[i].captured.as_nanos() / 1_000_000);
                    prop_assert!(ms - last >= 2000);
                }
                prop_assert!(vote.looks.len() <= REMEMBERED);
            }
        }
    }
}
