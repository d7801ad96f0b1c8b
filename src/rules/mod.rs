//! What a metric scene means: verdicts (the rules), states (the latch), and when a rule is armed
//! (`when`). Pure: no clock, no I/O, no threads.

pub mod guard;
pub mod latch;
pub mod proximity;
pub mod separation;
pub mod when;

use std::time::Duration;

use crate::types::{Distance, MetricScene, PairId, RuleId, Verdict};

pub use guard::{Guard, Memory, RuleMemory};
pub use latch::{Latch, LatchSettings};
pub use proximity::{Proximity, ProximitySettings};
pub use separation::{Latency, Separation, Stopping};

/// Judges scenes. Time, hysteresis in time and staleness are not its business: the latch has them.
pub trait Rule: Send {
    /// What this one scene shows. `latency` is how long the slowest hundredth of pictures takes from capture to
    /// decision; only rules that reckon with speed need it.
    fn judge(&mut self, scene: &MetricScene, latency: Duration) -> Verdict;
}

/// A rule as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleSettings {
    /// Its name.
    pub id: RuleId,
    /// What it judges by.
    pub kind: RuleKind,
    /// When states are entered and left.
    pub latch: LatchSettings,
    /// What must hold for the rule to be armed.
    pub when: Vec<when::Condition>,
    /// For how long a person may switch the rule off at a time.
    pub shelve_max: Duration,
}

/// The kinds of rules.
#[derive(Debug, Clone, PartialEq)]
pub enum RuleKind {
    /// A pair's distance against two limits.
    Proximity(ProximitySettings),
}

impl RuleSettings {
    /// The rule itself.
    pub fn build(&self) -> Box<dyn Rule> {
        match &self.kind {
            RuleKind::Proximity(settings) => Box::new(Proximity::new(settings.clone())),
        }
    }

    /// The pair that the rule judges.
    pub fn pair(&self) -> &PairId {
        match &self.kind {
            RuleKind::Proximity(settings) => &settings.pair,
        }
    }

    /// The distance that separation by speed asks for, metres, when the rule has it.
    pub fn separation_m(&self, distance: &Distance, latency: Duration) -> Option<f64> {
        match &self.kind {
            RuleKind::Proximity(settings) => settings.separation_m(distance, latency),
        }
    }

    /// The distances at which warning (where there is one) and alarm are entered, metres.
    pub fn limits_m(&self) -> (Option<f64>, f64) {
        match &self.kind {
            RuleKind::Proximity(settings) => (settings.warning_m, settings.alarm_m),
        }
    }
}
