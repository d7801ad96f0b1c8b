//! What of a configuration depends on what the site has taught: classes that pairs may name, states that conditions ask.

use std::path::{Path, PathBuf};

use super::problem::nearest;
use crate::teach;
use crate::types::{CameraId, StateName, StateValue};

/// What was taught, as far as a configuration speaks of it.
#[derive(Debug, Default)]
pub(super) struct Known {
    dir: PathBuf,
    classes: Vec<String>,
    states: Vec<(StateName, Option<CameraId>, Vec<StateValue>)>,
    /// Why it cannot be read. Then any name may be in it, and only the pairs that need it are to suffer.
    pub damaged: Option<String>,
}

/// What a condition asks of a state.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It can have that value, or nobody can say.
    Sound,
    /// Nothing of that name is read on the camera.
    Untaught,
    /// It never has that value; with a hint.
    Never(String),
}

impl Known {
    /// Reads a folder.
    pub fn of(dir: &Path) -> Self {
        let known = Self { dir: dir.to_owned(), ..Self::default() };
        match teach::load(dir) {
            Ok(None) => known,
            Ok(Some(taught)) => Self {
                classes: taught.classes.iter().map(|class| class.name.to_string()).collect(),
                states: taught.states.into_iter().map(|s| (s.name, s.camera, s.values)).collect(),
                ..known
            },
            Err(error) => Self { damaged: Some(error.to_string()), ..known },
        }
    }

    /// Where it was looked for.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The classes.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.classes.iter().map(String::as_str)
    }

    /// Whether a camera's state can have that value.
    pub fn asks(&self, camera: &str, state: &StateName, value: &StateValue) -> Asked {
        let here = |camera_: &Option<CameraId>| camera_.as_ref().is_none_or(|id| id.as_str() == camera);
        let known = self.states.iter().find(|(name, camera, _)| name == state && here(camera));
        match known {
            _ if self.damaged.is_some() => Asked::Sound,
            None => Asked::Untaught,
            Some((.., values)) if values.contains(value) => Asked::Sound,
            Some((.., values)) => {
                let names = || values.iter().map(StateValue::as_str);
                Asked::Never(match nearest(value.as_str(), names()) {
                    Some(name) => format!("did you mean '{name}'?"),
                    None => format!("it is one of: {}", names().collect::<Vec<_>>().join(", ")),
                })
            }
        }
    }
}
