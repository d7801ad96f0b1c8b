//! What a new configuration changes in a running analysis. Whatever is as before keeps its state, its statistics and
//! the time of its next word: a reload must not be seen by the cameras that it does not touch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::SyncSender;

use super::states::read_by;
use super::{Analysis, CameraRun, CameraSetup, Occasion, Output, RuleRun};
use crate::clock::Now;
use crate::geometry::{PairEnd, Site};
use crate::heads::{Head, TaughtState};
use crate::outbox::{Gone, Statement};
use crate::rules::RuleMemory;
use crate::types::{CameraId, ClassName, PairId, RuleId};

/// A new configuration, as far as the analysis has to know it.
pub struct Reconfigure {
    /// All cameras, also those that are as before.
    pub cameras: Vec<CameraSetup>,
    /// Cameras whose pictures come from elsewhere now: nothing of before counts for them, and pictures that were
    /// taken before now and are still on their way are not theirs.
    pub fresh: BTreeSet<CameraId>,
    /// Heads for the classes that the new pairs speak of.
    pub heads: Vec<Box<dyn Head>>,
    /// Classes that pairs speak of and no head finds: these pairs are unknown.
    pub missing: BTreeSet<ClassName>,
}

/// What the daemon asks of the analysis thread.
pub struct Order {
    /// The new configuration.
    pub new: Reconfigure,
    /// Told when it is in force.
    pub done: SyncSender<()>,
}

impl Analysis {
    /// Takes a new configuration. Rules that go, or whose meaning changes, become `Unknown` and say so.
    pub fn reconfigure(&mut self, now: Now, new: Reconfigure) -> Output {
        let mut output = Output::default();
        let before = std::mem::replace(&mut self.heads, new.heads);
        self.missing = new.missing;
        let stays = |id: &CameraId| new.cameras.iter().any(|camera| camera.id == *id);
        let leaving: Vec<CameraId> =
            self.cameras.keys().filter(|id| !stays(id) || new.fresh.contains(id)).cloned().collect();
        // What people did, and a held alarm, are the rule's, whichever address the pictures come from.
        let mut kept: BTreeMap<(CameraId, RuleId), RuleMemory> = BTreeMap::new();
        for id in leaving {
            let Some(mut camera) = self.cameras.remove(&id) else { continue };
            self.forgotten = true;
            kept.extend(
                camera
                    .rules
                    .iter()
                    .map(|rule| ((id.clone(), rule.guard.settings().id.clone()), rule.guard.memory())),
            );
            camera.end(&id, now, &mut output);
            if !stays(&id) {
                camera.be_forgotten(id, now, &mut output);
            }
        }
        for setup in new.cameras {
            match self.cameras.get_mut(&setup.id) {
                Some(camera) if camera.setup == setup => {}
                Some(camera) => {
                    self.forgotten = true;
                    camera.follow(setup, now, &mut output);
                }
                None => {
                    let mut camera = CameraRun::new(setup, now.utc);
                    camera.born = now.mono;
                    let id = &camera.setup.id;
                    for rule in &mut camera.rules {
                        let settings = rule.guard.settings().clone();
                        if let Some(memory) = kept.remove(&(id.clone(), settings.id.clone())) {
                            *rule = RuleRun::restored(id, settings, memory, now);
                        }
                    }
                    let words = camera.rules.iter().map(|rule| Statement::Rule(rule.status(id, now.utc)));
                    output.statements.extend(words);
                    self.cameras.insert(id.clone(), camera);
                }
            }
        }
        for camera in self.cameras.values_mut() {
            let is_as_before = |state: &TaughtState| read_by(&before).any(|known| known == state);
            camera.follow_states(read_by(&self.heads), is_as_before, now.utc, &mut output);
        }
        output
    }
}

impl CameraRun {
    /// Says of every rule and state that nothing is known any more, because the watching ends.
    pub(super) fn end(&mut self, id: &CameraId, now: Now, output: &mut Output) {
        self.end_states(id, now, output);
        for rule in &mut self.rules {
            rule.end(id, now, output);
        }
    }

    /// Takes back all that was said about a camera that is not in the configuration any more.
    fn be_forgotten(self, id: CameraId, now: Now, output: &mut Output) {
        let rules = self.rules.iter().map(|rule| Gone::Rule(Box::new(rule.status(&id, now.utc))));
        let pairs = self.setup.site.pairs.iter().map(|pair| Gone::Pair(id.clone(), pair.id.clone()));
        let states = self.states.keys().map(|state| Gone::State(id.clone(), state.clone()));
        output.statements.extend(rules.chain(pairs).chain(states).map(Statement::Gone));
        output.statements.push(Statement::Gone(Gone::Camera(id)));
    }

    /// Goes on with other rules or another site. A rule whose settings and meaning are as before keeps its state.
    fn follow(&mut self, setup: CameraSetup, now: Now, output: &mut Output) {
        let id = setup.id.clone();
        let old = std::mem::replace(&mut self.setup, setup);
        let watched = |setup: &CameraSetup| {
            (setup.view, setup.profile.clone(), setup.site.calibration.clone(), setup.site.planes.clone())
        };
        if watched(&old) != watched(&self.setup) {
            self.view = self.setup.watch();
            // What was followed is not where it was.
            self.tracks.forget();
        }
        let mut before = std::mem::take(&mut self.rules);
        for settings in &self.setup.rules {
            let known = before.iter().position(|rule| rule.guard.settings().id == settings.id);
            let known = known.map(|at| before.swap_remove(at));
            let means_the_same = known.as_ref().is_some_and(|rule| {
                *rule.guard.configured() == *settings
                    && same_ground(&old.site, &self.setup.site, settings.pair())
            });
            self.rules.push(match known {
                Some(rule) if means_the_same => rule,
                known => {
                    let mut rule = match &known {
                        Some(known) => RuleRun::restored(&id, settings.clone(), known.guard.memory(), now),
                        None => RuleRun::new(settings.clone(), now.utc),
                    };
                    output.statements.push(Statement::Rule(rule.status(&id, now.utc)));
                    if let Some(known) = known {
                        // So that its next word is an event: from what it was to unknown.
                        rule.said = known.said;
                    }
                    rule
                }
            });
        }
        for mut rule in before {
            rule.end(&id, now, output);
            output.statements.push(Statement::Gone(Gone::Rule(Box::new(rule.status(&id, now.utc)))));
        }
        for pair in &old.site.pairs {
            if self.setup.site.pairs.iter().all(|known| known.id != pair.id) {
                output.statements.push(Statement::Gone(Gone::Pair(id.clone(), pair.id.clone())));
            }
        }
    }
}

impl RuleRun {
    fn end(&mut self, camera: &CameraId, now: Now, output: &mut Output) {
        self.guard.stop(now.mono);
        let occasion = Occasion { camera, utc: now.utc, resay: true, times: None };
        self.report(&occasion, output);
    }
}

/// Whether a pair's distance means the same on both sites.
fn same_ground(old: &Site, new: &Site, pair: &PairId) -> bool {
    let find = |site: &Site| site.pairs.iter().find(|known| known.id == *pair).cloned();
    let (Some(before), Some(after)) = (find(old), find(new)) else { return false };
    let edge = |site: &Site| match &before.to {
        PairEnd::Edge(id) => site.edges.iter().find(|edge| edge.id == *id).cloned(),
        PairEnd::Class(_) => None,
    };
    before == after
        && old.calibration == new.calibration
        && old.planes == new.planes
        && edge(old) == edge(new)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{analysis, at, features, setup};
    use super::*;
    use crate::analysis::Surroundings;
    use crate::clock::Now;
    use crate::rules::RuleKind;
    use crate::types::{Happening, Level, Reason, State, Verdict};

    fn order(cameras: Vec<CameraSetup>) -> Reconfigure {
        Reconfigure { cameras, fresh: BTreeSet::new(), heads: vec![], missing: BTreeSet::new() }
    }

    fn named(name: &str) -> CameraSetup {
        CameraSetup { id: CameraId::new(name).unwrap(), ..setup(vec![]) }
    }

    /// An analysis of cameras `a` and `b` whose rules are clear.
    fn clear() -> (Analysis, Now) {
        let mut analysis = analysis(vec![]);
        analysis.reconfigure(at(0), order(vec![named("a"), named("b")]));
        let calm = Verdict::Evidence { raise: Level::Safe, hold: Level::Safe };
        for now in (100..=2000).step_by(100).map(at) {
            for rule in analysis.cameras.values_mut().flat_map(|camera| &mut camera.rules) {
                rule.guard.observe(now.mono, now.mono, calm);
            }
        }
        analysis.tick(at(2000), &Surroundings::default());
        assert_eq!(states(&analysis), [("a".into(), State::Clear), ("b".into(), State::Clear)]);
        (analysis, at(2000))
    }

    fn states(analysis: &Analysis) -> Vec<(String, State)> {
        let rules = analysis.cameras.iter().flat_map(|(id, camera)| {
            camera.rules.iter().map(move |rule| (id.to_string(), rule.guard.state()))
        });
        rules.collect()
    }

    #[test]
    fn what_is_as_before_keeps_its_state_and_says_nothing() {
        let (mut analysis, now) = clear();
        let output = analysis.reconfigure(now, order(vec![named("a"), named("b"), named("c")]));
        assert_eq!(output.transitions, []);
        assert!(matches!(&output.statements[..], [Statement::Rule(rule)] if rule.camera.as_str() == "c"));
        let kept = &states(&analysis)[..2];
        assert_eq!(kept, [("a".into(), State::Clear), ("b".into(), State::Clear)]);
        // Not even a repetition of what is known.
        let output = analysis.tick(now, &Surroundings::default());
        assert!(output.statements.iter().all(|statement| match statement {
            Statement::Rule(rule) => rule.camera.as_str() == "c",
            Statement::Camera(camera) => camera.camera.as_str() == "c",
            _ => false,
        }));
    }

    #[test]
    fn what_is_removed_is_unknown_and_then_forgotten() {
        let (mut analysis, now) = clear();
        let output = analysis.reconfigure(now, order(vec![named("b")]));
        assert_eq!(output.transitions.len(), 1);
        assert_eq!(output.transitions[0].what, Happening::Fault);
        assert_eq!(output.transitions[0].status.state, State::Unknown(Reason::Stopping));
        let words: Vec<&str> = output
            .statements
            .iter()
            .map(|statement| match statement {
                Statement::Rule(rule) if rule.camera.as_str() == "a" => rule.state.word(),
                Statement::Gone(Gone::Rule(rule)) if rule.camera.as_str() == "a" => "no rule",
                Statement::Gone(Gone::Pair(camera, _)) if camera.as_str() == "a" => "no pair",
                Statement::Gone(Gone::Camera(camera)) if camera.as_str() == "a" => "no camera",
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(words, ["unknown", "no rule", "no pair", "no camera"]);
        assert_eq!(states(&analysis), [("b".into(), State::Clear)]);
    }

    #[test]
    fn a_changed_rule_starts_again_and_its_neighbour_does_not() {
        let (mut analysis, now) = clear();
        let mut two = named("a");
        let mut second = two.rules[0].clone();
        second.id = crate::types::RuleId::new("second").unwrap();
        two.rules.push(second);
        let output = analysis.reconfigure(now, order(vec![two.clone(), named("b")]));
        assert_eq!(output.statements.len(), 1, "the new rule introduces itself");

        let RuleKind::Proximity(settings) = &mut two.rules[1].kind;
        settings.alarm_m = 0.6;
        analysis.reconfigure(now, order(vec![two.clone(), named("b")]));
        let unknown = State::Unknown(Reason::Starting);
        assert_eq!(states(&analysis)[..2], [("a".into(), State::Clear), ("a".into(), unknown)]);

        // Another edge under the same rules: all metres mean something else.
        two.site.pairs[0].from = crate::types::ClassName::new("person").unwrap();
        analysis.reconfigure(now, order(vec![two, named("b")]));
        let output = analysis.tick(now, &Surroundings::default());
        assert_eq!(output.transitions.len(), 1, "the clear one became unknown");
        assert_eq!(output.transitions[0].from, State::Clear);
        assert_eq!(states(&analysis)[2], ("b".into(), State::Clear));
    }

    #[test]
    fn pictures_of_the_source_before_do_not_count() {
        let (mut analysis, now) = clear();
        let a = CameraId::new("a").unwrap();
        let fresh = BTreeSet::from([a.clone()]);
        let cameras = vec![named("a"), named("b")];
        let output = analysis.reconfigure(now, Reconfigure { fresh, ..order(cameras) });
        assert_eq!(output.transitions.len(), 1);
        let mut late = features(1950);
        late.frame.camera = a;
        assert!(analysis.step(at(2050), late.clone(), &Surroundings::default()).snapshot.is_none());
        late.frame.captured = now.mono + Duration::from_millis(1);
        assert!(analysis.step(at(2050), late, &Surroundings::default()).snapshot.is_some());
    }
}
