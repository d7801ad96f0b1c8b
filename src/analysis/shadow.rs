//! A camera beside the real ones, on which the proof test tries one rule with a picture whose answer is known. What
//! it finds goes to the outbox as an event, and nowhere else: it has no states, no health and no place in the metrics
//! of the cameras.

use jiff::tz::TimeZone;
use tokio::sync::watch;

use super::{Analysis, CameraSetup, Surroundings};
use crate::clock::Now;
use crate::heads::Head;
use crate::types::{CameraId, Distance, Features, ProofProgress, ProofStage, Reading, State, Transition};

/// The shadow camera.
pub struct Shadow {
    analysis: Analysis,
    progress: watch::Sender<ProofProgress>,
}

impl Shadow {
    /// With heads of its own, so that nothing of the real cameras is touched.
    pub fn new(
        heads: Vec<Box<dyn Head>>,
        setup: CameraSetup,
        progress: watch::Sender<ProofProgress>,
        now: Now,
    ) -> Self {
        Self { analysis: Analysis::new(TimeZone::UTC, heads, vec![setup], now.utc), progress }
    }

    /// Whether a frame is for it.
    pub(super) fn takes(&self, camera: &CameraId) -> bool {
        self.analysis.cameras.contains_key(camera)
    }

    /// Tries the rule. Gives the alarm that is to be pushed.
    pub(super) fn step(&mut self, now: Now, features: Features) -> Option<Transition> {
        let around = Surroundings::default();
        // Since the last test its evidence is stale, so the rule starts from unknown each time.
        self.analysis.tick(now, &around);
        let output = self.analysis.step(now, features, &around);
        let alarm = output.transitions.into_iter().find(|event| event.status.state == State::Alarm);
        if alarm.is_none() {
            let measured = output.snapshot.and_then(|snapshot| {
                let state = snapshot.rules.first().map(|rule| rule.state.clone());
                snapshot.metric.pairs.into_iter().next().map(|pair| match pair.reading {
                    Reading::Absent => "the forklift was not seen".to_owned(),
                    Reading::Measured(distance) => {
                        let Distance { nearest_m, lower_m, upper_m, .. } = distance;
                        let reason = state.as_ref().and_then(State::reason).unwrap_or_default();
                        let word = state.as_ref().map_or("nothing", State::word);
                        format!("{nearest_m:.2} m ({lower_m:.2} to {upper_m:.2}) became '{word}' {reason}")
                    }
                    Reading::Unavailable(reason) => format!("there was no distance: {reason}"),
                })
            });
            self.say(ProofStage::Inferred, Some(measured.unwrap_or_else(|| "nothing was judged".to_owned())));
        }
        alarm
    }

    /// Says how far the test has come; a reason ends it.
    pub(super) fn say(&self, stage: ProofStage, reason: Option<String>) {
        self.progress.send_replace(ProofProgress { stage, reason, event_id: None });
    }

    /// Ends a test as the rule would.
    #[cfg(test)]
    pub fn refuse(&self, reason: &str) {
        self.say(ProofStage::Inferred, Some(reason.to_owned()));
    }

    /// Says which event the alarm became.
    pub(super) fn pushed(&self, event_id: &str) {
        let event_id = Some(event_id.to_owned());
        self.progress.send_replace(ProofProgress { stage: ProofStage::Alarmed, reason: None, event_id });
    }
}
