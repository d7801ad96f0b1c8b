//! What a metric scene means: verdicts (the rules), states (the latch), and when a rule is armed
//! (`when`). Pure: no clock, no I/O, no threads.

pub mod latch;
pub mod proximity;
pub mod when;

use crate::types::{MetricScene, PairId, RuleId, Verdict};

pub use latch::{Latch, LatchSettings};
pub use proximity::{Proximity, ProximitySettings};

/// Judges scenes. Time, hysteresis in time and staleness are not its business: the latch has them.
pub trait Rule: Send {
    /// What this one scene shows.
    fn judge(&mut self, scene: &MetricScene) -> Verdict;
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

    /// The distances at which warning (where there is one) and alarm are entered, metres.
    pub fn limits_m(&self) -> (Option<f64>, f64) {
        match &self.kind {
            RuleKind::Proximity(settings) => (settings.warning_m, settings.alarm_m),
        }
    }
}
