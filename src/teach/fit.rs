//! From examples to what is taught.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Example, Folder, Label, TeachError};
use crate::heads::taught::{
    Backbone, Extent, Mark, Picture, Region, Shown, Standard, Taught, TaughtState, Tokens, class,
};
use crate::types::{ClassName, StateName, StateValue};

/// All examples with their tokens.
#[derive(Debug)]
pub struct Lesson {
    /// The examples.
    pub examples: Vec<Example>,
    /// The tokens of each picture, by the picture's name.
    pub tokens: BTreeMap<String, Tokens>,
    /// What made them.
    pub backbone: Backbone,
}

/// Collects the tokens of all examples. `infer` makes those that are missing or of another backbone.
///
/// # Errors
/// When there is no example, a file cannot be read, or tokens cannot be made.
pub fn lessons(
    folder: &Folder,
    backbone: &Backbone,
    mut infer: impl FnMut(&Path) -> Result<Tokens, TeachError>,
) -> Result<Lesson, TeachError> {
    let examples = folder.examples()?;
    if examples.is_empty() {
        return Err(TeachError::Empty(folder.dir().to_owned()));
    }
    let mut tokens = BTreeMap::new();
    for example in &examples {
        if tokens.contains_key(&example.picture) {
            continue;
        }
        let known = folder.tokens(example, backbone)?;
        let found = match known {
            Some(found) => found,
            None => {
                let found = infer(&folder.picture(example))?;
                folder.keep_tokens(example, &found, backbone)?;
                found
            }
        };
        tokens.insert(example.picture.clone(), found);
    }
    Ok(Lesson { examples, tokens, backbone: backbone.clone() })
}

impl Lesson {
    /// Learns all classes and states that the examples show, of those that `use_it` keeps.
    ///
    /// # Errors
    /// When a class or state cannot be learned.
    pub fn learn(&self, use_it: impl Fn(&Example) -> bool) -> Result<Taught, TeachError> {
        let examples: Vec<&Example> = self.examples.iter().filter(|example| use_it(example)).collect();
        let pictures = self.pictures(&examples);
        let inputs = self.tokens.values().next().map_or(0, |tokens| tokens.inputs);
        let used = || pictures.values().map(|picture| picture.tokens);
        let rows = used().flat_map(|tokens| (0..tokens.grid.len()).map(|patch| tokens.row(patch)));
        let standard = Standard::over(rows, inputs);
        let mut classes: Vec<&ClassName> = examples
            .iter()
            .filter_map(|example| match &example.label {
                Label::Class { class, .. } => class.as_ref(),
                Label::State { .. } => None,
            })
            .collect();
        classes.sort();
        classes.dedup();
        let pictures: Vec<Picture<'_>> = pictures.into_values().collect();
        let classes = classes
            .into_iter()
            .map(|name| class::learn(name, &pictures, &standard))
            .collect::<Result<Vec<_>, _>>()?;
        let states = self.states(&examples)?;
        Ok(Taught { backbone: self.backbone.clone(), standard, classes, states }.bounded())
    }

    fn pictures(&self, examples: &[&Example]) -> BTreeMap<String, Picture<'_>> {
        let mut pictures: BTreeMap<String, Picture<'_>> = BTreeMap::new();
        for example in examples {
            let Label::Class { class, region } = &example.label else { continue };
            let Some(tokens) = self.tokens.get(&example.picture) else { continue };
            let picture =
                pictures.entry(example.picture.clone()).or_insert_with(|| Picture { tokens, marks: vec![] });
            let extent = match region {
                Region::Clicks(_) => Extent::Clicks,
                Region::Box(_) => Extent::Box,
                Region::Polygon(_) | Region::Whole => Extent::Outline,
            };
            let cover = region.cover(tokens.grid, &tokens.transform);
            picture.marks.push(Mark { class: class.clone(), extent, cover });
        }
        pictures
    }

    fn states(&self, examples: &[&Example]) -> Result<Vec<TaughtState>, TeachError> {
        type Seen<'a> = (&'a Example, &'a StateValue, Option<&'a Vec<[f64; 2]>>);
        let mut by_name: BTreeMap<&StateName, Vec<Seen<'_>>> = BTreeMap::new();
        for example in examples {
            if let Label::State { state, value, zone } = &example.label {
                by_name.entry(state).or_default().push((example, value, zone.as_ref()));
            }
        }
        let mut states = vec![];
        for (name, seen) in by_name {
            let mut values: Vec<StateValue> = seen.iter().map(|(_, value, _)| (*value).clone()).collect();
            values.sort();
            values.dedup();
            let mut pictures: Vec<&str> = seen.iter().map(|(e, ..)| e.picture.as_str()).collect();
            pictures.sort_unstable();
            pictures.dedup();
            let shown: Vec<Shown> = seen
                .iter()
                .filter_map(|(example, value, zone)| {
                    let tokens = self.tokens.get(&example.picture)?;
                    let value = values.iter().position(|known| known == *value)?;
                    let pooled = tokens.pooled(zone.map(Vec::as_slice));
                    let picture = pictures.binary_search(&example.picture.as_str()).ok()?;
                    Some(Shown { pooled, value: u8::try_from(value).ok()?, picture })
                })
                .collect();
            // One state is read on one camera, at one place. Examples that say otherwise would move it.
            let named = || seen.iter().filter(|(example, ..)| example.camera.is_some());
            let mixed = |what, one: &Example, other: &Example| TeachError::Mixed {
                state: name.clone(),
                what,
                one: one.id,
                other: other.id,
            };
            if let Some((one, ..)) = named().next()
                && let Some((other, ..)) = named().find(|(other, ..)| other.camera != one.camera)
            {
                return Err(mixed("cameras", one, other));
            }
            if let Some((one, _, zone)) = seen.first()
                && let Some((other, ..)) = seen.iter().find(|(_, _, other)| other != zone)
            {
                return Err(mixed("zones", one, other));
            }
            let camera = named().next().and_then(|(example, ..)| example.camera.clone());
            let zone = seen.first().and_then(|(_, _, zone)| zone.cloned());
            let learned = TaughtState::learn(name.clone(), values, zone, &shown)?;
            states.push(TaughtState { camera, ..learned });
        }
        Ok(states)
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::super::example::tests::{backbone, tokens};
    use super::*;
    use crate::clock::UtcMillis;
    use crate::types::CameraId;

    fn example(id: u64, value: &str, camera: Option<&str>, left: f64) -> Example {
        Example {
            id,
            picture: format!("{id:024}.jpg"),
            width: 28,
            height: 14,
            label: Label::State {
                state: StateName::new("door").unwrap(),
                value: StateValue::new(value).unwrap(),
                zone: Some(vec![[left, 0.0], [1.0, 0.0], [1.0, 1.0]]),
            },
            camera: camera.map(|camera| CameraId::new(camera).unwrap()),
            source: String::new(),
            added: UtcMillis(0),
        }
    }

    fn learned(examples: &[Example]) -> Result<Option<CameraId>, String> {
        let tokens = examples.iter().map(|example| {
            let mut tokens = tokens();
            tokens.rows[0] = f16::from_f32(example.id as f32);
            (example.picture.clone(), tokens)
        });
        let lesson = Lesson { tokens: tokens.collect(), examples: examples.to_vec(), backbone: backbone() };
        let taught = lesson.learn(|_| true).map_err(|error| error.to_string())?;
        Ok(taught.states[0].camera.clone())
    }

    #[test]
    fn a_state_is_of_one_camera_and_one_zone() {
        let yard = || Some(CameraId::new("yard").unwrap());
        let (open, closed) = (example(1, "open", Some("yard"), 0.0), example(2, "closed", None, 0.0));
        assert_eq!(learned(&[open.clone(), closed.clone()]), Ok(yard()), "a file says no camera");
        assert_eq!(learned(&[closed.clone(), open.clone()]), Ok(yard()), "whichever came last");
        let dock = example(3, "closed", Some("dock"), 0.0);
        let error = learned(&[open.clone(), closed.clone(), dock]).unwrap_err();
        assert!(error.contains("'door' are of several cameras: 1 and 3"), "{error}");
        let moved = example(4, "closed", Some("yard"), 0.2);
        let error = learned(&[open, closed, moved]).unwrap_err();
        assert!(error.contains("several zones: 1 and 4"), "{error}");
    }
}
