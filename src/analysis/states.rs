//! Taught states over time: what a camera shows counts once it has been the same for a while, and is unknown the moment
//! it is not.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{Analysis, CameraRun, Output, VALID_FOR};
use crate::clock::{Now, Timestamp, UtcMillis};
use crate::geometry::PairEnd;
use crate::heads::{Head, TaughtHead};
use crate::outbox::{Gone, Statement};
use crate::rules::when::States;
use crate::types::{CameraId, ClassName, Scene, StateName, StateStatus, StateValue, Trust};

/// For so long, in capture time, every frame must show the same value: a rule is not to be disarmed by one frame that
/// is misread.
const SAME_FOR: Duration = Duration::from_secs(1);
/// A value is not known any more when its newest frame is older than this.
const STALE: Duration = Duration::from_secs(2);

/// What was taught, for the running analysis.
pub struct Lesson {
    /// The head that reads it.
    pub head: TaughtHead,
    /// Told when it is in force, or why it is not.
    pub done: oneshot::Sender<Result<(), String>>,
}

/// A state of a camera.
#[derive(Debug)]
pub(super) struct Held {
    /// The value that the newest frame showed; none when it was unknown.
    shown: Option<StateValue>,
    /// Since when every frame showed it.
    since: Timestamp,
    newest: Timestamp,
    newest_utc: UtcMillis,
    probability: f32,
    /// What was said last; none before the first word.
    said: Option<Option<StateValue>>,
}

impl Held {
    fn value(&self, now: Timestamp) -> Option<&StateValue> {
        let lasted = self.newest.since(self.since) >= SAME_FOR;
        self.shown.as_ref().filter(|_| lasted && now.since(self.newest) <= STALE)
    }
}

impl CameraRun {
    /// Takes what a frame shows. A view that is no evidence shows nothing.
    pub(super) fn note_states(&mut self, scene: &Scene) {
        let trusted = scene.trust == Trust::Trusted;
        for reading in &scene.states {
            let shown = reading.value.clone().filter(|_| trusted);
            let held = self.states.entry(reading.state.clone()).or_insert_with(|| Held {
                shown: None,
                since: scene.captured,
                newest: scene.captured,
                newest_utc: scene.captured_utc,
                probability: 0.0,
                said: None,
            });
            if scene.captured < held.newest {
                continue;
            }
            if held.shown != shown {
                held.shown = shown;
                held.since = scene.captured;
            }
            (held.newest, held.newest_utc) = (scene.captured, scene.captured_utc);
            held.probability = reading.probability;
        }
        if !trusted {
            self.states.values_mut().for_each(|held| held.shown = None);
        }
    }

    /// The states whose value is known now.
    pub(super) fn known_states(&self, now: Timestamp) -> States {
        let known =
            self.states.iter().filter_map(|(name, held)| Some((name.clone(), held.value(now)?.clone())));
        known.collect()
    }

    /// Says a state when it changed, or when it is time to say it again.
    pub(super) fn report_states(&mut self, id: &CameraId, now: Now, resay: bool, output: &mut Output) {
        for (state, held) in &mut self.states {
            let value = held.value(now.mono).cloned();
            if resay || held.said.as_ref() != Some(&value) {
                held.said = Some(value.clone());
                output.statements.push(Statement::State(StateStatus {
                    camera: id.clone(),
                    state: state.clone(),
                    value,
                    probability: held.probability,
                    captured: held.newest_utc,
                    ts: now.utc,
                    valid_for: VALID_FOR,
                }));
            }
        }
    }

    /// Forgets states that are not taught any more.
    fn keep_states(&mut self, known: impl Fn(&StateName) -> bool, output: &mut Output) {
        let id = self.setup.id.clone();
        for (state, _) in std::mem::take(&mut self.states).into_iter().filter(|(state, _)| !known(state)) {
            output.statements.push(Statement::Gone(Gone::State(id.clone(), state)));
        }
    }
}

impl Analysis {
    /// Takes up what was taught, between two frames. Refused when a pair speaks of a class that it leaves out and no
    /// other head knows: that pair would never see anything, and say so as calm.
    pub fn teach(&mut self, lesson: Lesson) -> Output {
        let mut output = Output::default();
        let Lesson { head, done } = lesson;
        if let Some(missing) = self.needed_and_unknown(&head) {
            let why =
                format!("a pair of the configuration measures '{missing}', which was not taught any more");
            let _ = done.send(Err(why));
            return output;
        }
        for camera in self.cameras.values_mut() {
            // What was read by the lesson before says nothing of this one: each value must last again.
            let taught = head.taught();
            camera.keep_states(|name| taught.states.iter().any(|state| state.name == *name), &mut output);
        }
        self.heads.retain(|known| known.name() != head.name());
        self.heads.push(Box::new(head));
        // Whoever asked may have given up waiting.
        let _ = done.send(Ok(()));
        output
    }

    fn needed_and_unknown(&self, head: &TaughtHead) -> Option<ClassName> {
        let pairs = self.cameras.values().flat_map(|camera| &camera.setup.site.pairs);
        let mut needed = pairs.flat_map(|pair| match &pair.to {
            PairEnd::Class(to) => vec![&pair.from, to],
            PairEnd::Edge(_) => vec![&pair.from],
        });
        let shipped = crate::heads::shipped::classes().unwrap_or_default();
        needed.find(|class| !head.knows(class) && !shipped.iter().any(|name| name == class.as_str())).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{analysis, at, features};
    use super::*;
    use crate::heads;
    use crate::types::{Reason, StateReading};

    fn shows(value: Option<&str>, ms: u64, trust: Trust) -> Scene {
        let reading = StateReading {
            state: StateName::new("door").unwrap(),
            value: value.map(|value| StateValue::new(value).unwrap()),
            probability: 0.9,
        };
        Scene { states: vec![reading], trust, ..heads::empty_scene(&features(ms)) }
    }

    fn known(camera: &CameraRun, ms: u64) -> Vec<String> {
        camera.known_states(at(ms).mono).into_values().map(|value| value.to_string()).collect()
    }

    #[test]
    fn a_value_counts_after_a_second_and_not_a_frame_longer() {
        let mut analysis = analysis(vec![]);
        let camera = analysis.cameras.values_mut().next().unwrap();
        for ms in (0..1000).step_by(100) {
            camera.note_states(&shows(Some("open"), ms, Trust::Trusted));
            assert!(known(camera, ms).is_empty(), "{ms}");
        }
        camera.note_states(&shows(Some("open"), 1000, Trust::Trusted));
        assert_eq!(known(camera, 1000), ["open"]);
        assert_eq!(known(camera, 3000), ["open"]);
        assert!(known(camera, 3001).is_empty(), "stale");
        camera.note_states(&shows(Some("closed"), 1100, Trust::Trusted));
        assert!(known(camera, 1100).is_empty());
        camera.note_states(&shows(Some("closed"), 2100, Trust::Trusted));
        assert_eq!(known(camera, 2100), ["closed"]);
        camera.note_states(&shows(Some("closed"), 2200, Trust::Untrusted(Reason::Dark)));
        assert!(known(camera, 2200).is_empty());
    }

    #[test]
    fn a_state_is_said_when_it_changes_and_again_in_time() {
        let mut analysis = analysis(vec![]);
        let id = analysis.cameras.keys().next().unwrap().clone();
        let camera = analysis.cameras.values_mut().next().unwrap();
        let said = |camera: &mut CameraRun, ms, resay| -> Vec<Option<String>> {
            let mut output = Output::default();
            camera.report_states(&id, at(ms), resay, &mut output);
            let value = |statement| match statement {
                Statement::State(status) => status.value.map(|value| value.to_string()),
                other => panic!("{other:?}"),
            };
            output.statements.into_iter().map(value).collect()
        };
        camera.note_states(&shows(Some("open"), 0, Trust::Trusted));
        assert_eq!(said(camera, 0, false), [None], "unknown at first");
        assert!(said(camera, 100, false).is_empty());
        camera.note_states(&shows(Some("open"), 1000, Trust::Trusted));
        assert_eq!(said(camera, 1000, false), [Some("open".to_owned())]);
        assert_eq!(said(camera, 1100, true), [Some("open".to_owned())]);
        assert_eq!(said(camera, 3100, false), [None], "stale");
    }
}
