//! Taught states over time: what a camera shows counts once it has been the same for a while, and is unknown the moment
//! it is not.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{Analysis, CameraRun, Output, VALID_FOR};
use crate::clock::{Now, Timestamp, UtcMillis};
use crate::heads::{Head, TaughtHead, TaughtState};
use crate::outbox::{Gone, Statement};
use crate::rules::when::{Condition, KnownState, States};
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
    /// Told when it is in force, or why it is not. Whoever has given up waiting wants it no more.
    pub done: oneshot::Sender<Result<(), String>>,
}

/// A state of a camera.
#[derive(Debug)]
pub(super) struct Held {
    /// All values that it can have.
    values: Vec<StateValue>,
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
    /// Of which nothing is known yet.
    fn unknown(state: &TaughtState, now: UtcMillis) -> Self {
        Self {
            values: state.values.clone(),
            shown: None,
            since: Timestamp::default(),
            newest: Timestamp::default(),
            newest_utc: now,
            probability: 0.0,
            said: None,
        }
    }

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
            // A head says what it reads before it reads it.
            let Some(held) = self.states.get_mut(&reading.state) else { continue };
            if scene.captured < held.newest {
                continue;
            }
            // What was not seen in between may have been anything.
            if held.shown != shown || scene.captured.since(held.newest) > STALE {
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
        let known = self.states.iter().filter_map(|(name, held)| {
            let known = KnownState { now: held.value(now)?.clone(), values: held.values.clone() };
            Some((name.clone(), known))
        });
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

    /// Says of every state that nothing is known any more, because the watching ends.
    pub(super) fn end_states(&mut self, id: &CameraId, now: Now, output: &mut Output) {
        self.states.values_mut().for_each(|held| held.shown = None);
        self.report_states(id, now, true, output);
    }

    /// Follows what is read on this camera from now on: `is_as_before` says of which states nothing has changed. Of the
    /// others nothing is known until a value has lasted again; those that are not read any more are taken back.
    pub(super) fn follow_states<'a>(
        &mut self,
        read: impl Iterator<Item = &'a TaughtState>,
        is_as_before: impl Fn(&TaughtState) -> bool,
        now: UtcMillis,
        output: &mut Output,
    ) {
        let id = self.setup.id.clone();
        let mut before = std::mem::take(&mut self.states);
        for state in read.filter(|state| state.is_read_on(&id)) {
            let unknown = || Held::unknown(state, now);
            let held = match before.remove(&state.name) {
                Some(held) if is_as_before(state) => held,
                Some(Held { said, .. }) => Held { said, ..unknown() },
                None => unknown(),
            };
            self.states.insert(state.name.clone(), held);
        }
        let gone = before.into_keys().map(|state| Statement::Gone(Gone::State(id.clone(), state)));
        output.statements.extend(gone);
    }
}

/// The states that any head reads.
pub(super) fn read_by(heads: &[Box<dyn Head>]) -> impl Iterator<Item = &TaughtState> {
    heads.iter().flat_map(|head| head.states())
}

impl Analysis {
    /// Takes up what was taught, between two frames. Refused when a pair speaks of a class that it leaves out and no
    /// other head knows: that pair would never see anything, and say so as calm. And when a condition asks for a value
    /// that a state has no more. Dropped when nobody waits for it any more.
    pub fn teach(&mut self, now: Now, lesson: Lesson) -> Output {
        let mut output = Output::default();
        let Lesson { head, done } = lesson;
        if done.is_closed() {
            return output;
        }
        if let Some(missing) = self.needed_and_unknown(&head) {
            let why =
                format!("a pair of the configuration measures '{missing}', which was not taught any more");
            let _ = done.send(Err(why));
            return output;
        }
        if let Some((state, value)) = self.asked_and_untaught(&head) {
            let why = format!("a rule asks whether '{state}' is '{value}', a value that it has no more");
            let _ = done.send(Err(why));
            return output;
        }
        let (mut heads, taught): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.heads).into_iter().partition(|known| known.name() != head.name());
        for camera in self.cameras.values_mut() {
            let is_as_before = |state: &TaughtState| read_by(&taught).any(|known| known == state);
            camera.follow_states(head.states().iter(), is_as_before, now.utc, &mut output);
        }
        self.missing.retain(|class| !head.knows(class));
        heads.push(Box::new(head));
        self.heads = heads;
        // Whoever asked may have given up waiting.
        let _ = done.send(Ok(()));
        output
    }

    fn asked_and_untaught(&self, head: &TaughtHead) -> Option<(StateName, StateValue)> {
        self.cameras.iter().find_map(|(id, camera)| {
            let conditions = camera.setup.rules.iter().flat_map(|rule| &rule.when);
            let mut asked = conditions.filter_map(|condition| match condition {
                Condition::State { state, value, .. } => Some((state, value)),
                _ => None,
            });
            let lacks = |(state, value): &(&StateName, &StateValue)| {
                let had = camera.states.get(*state).is_some_and(|held| held.values.contains(value));
                let mut new = head.states().iter().filter(|new| new.is_read_on(id) && new.name == **state);
                had && new.any(|new| !new.values.contains(value))
            };
            asked.find(lacks).map(|(state, value)| (state.clone(), value.clone()))
        })
    }

    fn needed_and_unknown(&self, head: &TaughtHead) -> Option<ClassName> {
        let pairs = self.cameras.values().flat_map(|camera| &camera.setup.site.pairs);
        let mut needed = pairs.flat_map(|pair| pair.classes());
        let shipped = crate::heads::shipped::classes().unwrap_or_default();
        // Of what is missing already nothing is taken away.
        let is_known = |class: &&ClassName| {
            head.knows(class)
                || self.missing.contains(*class)
                || shipped.iter().any(|name| name == class.as_str())
        };
        needed.find(|class| !is_known(class)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{analysis, at, features};
    use super::*;
    use crate::analysis::{Reconfigure, Surroundings};
    use crate::heads;
    use crate::heads::HeadError;
    use crate::heads::taught::{Backbone, Shown, Standard, Taught};
    use crate::types::{Features, Reason, StateReading};

    const DOOR: [&str; 2] = ["closed", "open"];

    fn door(values: [&str; 2], camera: Option<&str>) -> TaughtState {
        let values = values.map(|value| StateValue::new(value).unwrap()).to_vec();
        let shown = [0u8, 1].map(|value| Shown {
            pooled: vec![f32::from(value)],
            value,
            picture: usize::from(value),
        });
        let state = TaughtState::learn(StateName::new("door").unwrap(), values, None, &shown).unwrap();
        TaughtState { camera: camera.map(|camera| CameraId::new(camera).unwrap()), ..state }
    }

    fn head(states: Vec<TaughtState>) -> TaughtHead {
        let backbone = Backbone { sha256: String::new(), input_width: 14, input_height: 14 };
        let standard = Standard { mean: vec![0.0], sigma: vec![1.0] };
        TaughtHead::new(Taught { backbone, standard, classes: vec![], states })
    }

    fn watching(when: Vec<Condition>) -> Analysis {
        let mut analysis = analysis(when);
        assert_eq!(teach(&mut analysis, vec![door(DOOR, Some("dock"))]).0, Ok(()));
        analysis
    }

    fn teach(analysis: &mut Analysis, states: Vec<TaughtState>) -> (Result<(), String>, Output) {
        let (done, mut is_done) = oneshot::channel();
        let output = analysis.teach(at(0), Lesson { head: head(states), done });
        (is_done.try_recv().unwrap(), output)
    }

    fn camera(analysis: &mut Analysis) -> &mut CameraRun {
        analysis.cameras.values_mut().next().unwrap()
    }

    fn shows(value: Option<&str>, ms: u64, trust: Trust) -> Scene {
        let reading = StateReading {
            state: StateName::new("door").unwrap(),
            value: value.map(|value| StateValue::new(value).unwrap()),
            probability: 0.9,
        };
        Scene { states: vec![reading], trust, ..heads::empty_scene(&features(ms)) }
    }

    fn known(camera: &CameraRun, ms: u64) -> Vec<String> {
        camera.known_states(at(ms).mono).into_values().map(|known| known.now.to_string()).collect()
    }

    /// What was said of states; `gone` for one that was taken back.
    fn said(output: &Output) -> Vec<String> {
        let word = |statement: &Statement| match statement {
            Statement::State(status) => {
                Some(status.value.as_ref().map_or("null".to_owned(), ToString::to_string))
            }
            Statement::Gone(Gone::State(..)) => Some("gone".to_owned()),
            _ => None,
        };
        output.statements.iter().filter_map(word).collect()
    }

    #[test]
    fn a_value_counts_after_a_second_and_not_a_frame_longer() {
        let mut analysis = watching(vec![]);
        let camera = camera(&mut analysis);
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
    fn after_a_gap_a_value_must_last_again() {
        let mut analysis = watching(vec![]);
        let camera = camera(&mut analysis);
        camera.note_states(&shows(Some("open"), 0, Trust::Trusted));
        camera.note_states(&shows(Some("open"), 1000, Trust::Trusted));
        camera.note_states(&shows(Some("open"), 3000, Trust::Trusted));
        assert_eq!(known(camera, 3000), ["open"], "two seconds are no gap");
        camera.note_states(&shows(Some("open"), 9000, Trust::Trusted));
        assert!(known(camera, 9000).is_empty(), "one frame after six seconds of nothing");
        camera.note_states(&shows(Some("open"), 10_000, Trust::Trusted));
        assert_eq!(known(camera, 10_000), ["open"]);
    }

    #[test]
    fn a_state_is_said_when_it_changes_and_again_in_time() {
        let mut analysis = watching(vec![]);
        let id = analysis.cameras.keys().next().unwrap().clone();
        let camera = camera(&mut analysis);
        let said = |camera: &mut CameraRun, ms, resay| {
            let mut output = Output::default();
            camera.report_states(&id, at(ms), resay, &mut output);
            said(&output)
        };
        assert_eq!(said(camera, 0, false), ["null"], "before any picture came");
        camera.note_states(&shows(Some("open"), 0, Trust::Trusted));
        assert!(said(camera, 100, false).is_empty());
        camera.note_states(&shows(Some("open"), 1000, Trust::Trusted));
        assert_eq!(said(camera, 1000, false), ["open"]);
        assert_eq!(said(camera, 1100, true), ["open"]);
        assert_eq!(said(camera, 3100, false), ["null"], "stale");
    }

    /// A head that is there at the start.
    struct Reads(Vec<TaughtState>);

    impl Head for Reads {
        fn name(&self) -> &str {
            "taught"
        }

        fn apply(&mut self, _: &Features, _: &mut Scene) -> Result<(), HeadError> {
            Ok(())
        }

        fn states(&self) -> &[TaughtState] {
            &self.0
        }
    }

    #[test]
    fn what_was_said_before_a_start_a_stop_and_a_reload_is_put_right() {
        let setup = camera(&mut watching(vec![])).setup.clone();
        let heads = || -> Vec<Box<dyn Head>> { vec![Box::new(Reads(vec![door(DOOR, None)]))] };
        let zone = jiff::tz::TimeZone::UTC;
        let mut analysis = Analysis::new(zone, heads(), vec![setup.clone()], UtcMillis(0));
        let calm = Surroundings::default();
        assert_eq!(said(&analysis.tick(at(0), &calm)), ["null"], "no camera has to be there");
        for ms in [0, 1000] {
            camera(&mut analysis).note_states(&shows(Some("open"), ms, Trust::Trusted));
        }
        assert_eq!(said(&analysis.tick(at(1000), &calm)), ["open"]);

        let reload = |heads, fresh: &[&str]| Reconfigure {
            cameras: vec![setup.clone()],
            fresh: fresh.iter().map(|id| CameraId::new(id).unwrap()).collect(),
            heads,
            missing: Default::default(),
        };
        assert!(said(&analysis.reconfigure(at(1100), reload(heads(), &[]))).is_empty());
        assert_eq!(known(camera(&mut analysis), 1100), ["open"], "a reload that changes nothing");
        assert_eq!(said(&analysis.reconfigure(at(1200), reload(heads(), &["dock"]))), ["null"]);
        assert_eq!(said(&analysis.tick(at(1200), &calm)), ["null"]);
        let moved: Vec<Box<dyn Head>> = vec![Box::new(Reads(vec![door(DOOR, Some("yard"))]))];
        assert_eq!(said(&analysis.reconfigure(at(1300), reload(moved, &[]))), ["gone"]);
        analysis.reconfigure(at(1400), reload(heads(), &[]));
        assert_eq!(said(&analysis.stop(at(1500))), ["null"]);
    }

    #[test]
    fn a_lesson_moves_a_state_and_begins_anew_with_what_it_changes() {
        let mut analysis = watching(vec![]);
        for ms in [0, 1000] {
            camera(&mut analysis).note_states(&shows(Some("open"), ms, Trust::Trusted));
        }
        assert_eq!(teach(&mut analysis, vec![door(DOOR, Some("dock"))]).0, Ok(()));
        assert_eq!(known(camera(&mut analysis), 1000), ["open"], "the same lesson again");
        assert_eq!(teach(&mut analysis, vec![door(["ajar", "open"], Some("dock"))]).0, Ok(()));
        assert!(known(camera(&mut analysis), 1000).is_empty());
        let (result, output) = teach(&mut analysis, vec![door(DOOR, Some("yard"))]);
        assert_eq!((result, said(&output)), (Ok(()), vec!["gone".to_owned()]));
    }

    #[test]
    fn a_lesson_that_drops_what_a_rule_asks_for_is_refused_and_one_nobody_waits_for_dropped() {
        let name = StateName::new("door").unwrap();
        let value = StateValue::new("open").unwrap();
        let when = Condition::State { state: name.clone(), value, is: true, reason: "r".into() };
        let mut analysis = watching(vec![when]);
        let (result, output) = teach(&mut analysis, vec![door(["ajar", "shut"], Some("dock"))]);
        assert!(result.unwrap_err().contains("whether 'door' is 'open'"));
        assert!(output.statements.is_empty() && analysis.heads[0].states()[0].values[0].as_str() == "closed");
        // Without the state the condition says nothing, which arms the rule.
        assert_eq!(teach(&mut analysis, vec![]).0, Ok(()));

        let (done, is_done) = oneshot::channel();
        drop(is_done);
        analysis.teach(at(0), Lesson { head: head(vec![door(DOOR, None)]), done });
        assert!(analysis.heads[0].states().is_empty());
    }
}
